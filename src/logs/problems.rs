//! The latest warnings and errors of the log, for `fanfare top`.

use std::collections::VecDeque;
use std::fmt::{self, Write as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// The maximum number of problems that are kept.
const PROBLEMS_MAX: usize = 32;
/// The maximum length of a text, in bytes.
const TEXT_BYTES_MAX: usize = 400;

/// A warning or error of the log.
#[derive(Clone, Debug)]
pub struct LoggedProblem {
    /// The time, in milliseconds since 1970-01-01 UTC.
    pub unix_ms: u64,
    /// The level, which is WARN or ERROR.
    pub level: Level,
    /// The text of the line with its fields.
    pub text: String,
}

/// Keeps the latest warnings and errors. Clones share the list. As a layer of the subscriber, it
/// receives all events.
#[derive(Clone, Debug, Default)]
pub struct Problems(Arc<Mutex<VecDeque<LoggedProblem>>>);

impl Problems {
    /// Returns the problems, the newest last.
    #[must_use]
    pub fn latest(&self) -> Vec<LoggedProblem> {
        self.lock().iter().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<LoggedProblem>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: Subscriber> Layer<S> for Problems {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let level = *event.metadata().level();
        if level > Level::WARN {
            return;
        }
        let mut text = Text::default();
        event.record(&mut text);
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let row = LoggedProblem {
            unix_ms: since.map_or(0, |since| crate::certain::to_u64(since.as_millis())),
            level,
            text: text.finish(),
        };
        let mut problems = self.lock();
        if problems.len() >= PROBLEMS_MAX {
            problems.pop_front();
        }
        problems.push_back(row);
    }
}

/// The text of an event: its message, then its fields.
#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Text {
    fn finish(mut self) -> String {
        self.message.push_str(&self.fields);
        let end = self.message.floor_char_boundary(TEXT_BYTES_MAX);
        self.message.truncate(end);
        self.message
    }
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let written = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
        debug_assert!(written.is_ok(), "a String accepts every text");
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.message.push_str(value),
            name => {
                let written = write!(self.fields, " {name}={value}");
                debug_assert!(written.is_ok(), "a String accepts every text");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    #[test]
    fn latest_warnings_and_errors_are_kept() {
        let problems = Problems::default();
        let subscriber = tracing_subscriber::registry().with(problems.clone());
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!("not kept");
            for number in 0..PROBLEMS_MAX {
                tracing::warn!(number, peer = "::1", "a warning");
            }
            tracing::error!("{}", "é".repeat(TEXT_BYTES_MAX));
        });
        let latest = problems.latest();
        assert_eq!(latest.len(), PROBLEMS_MAX);
        let (first, last) = (latest.first().unwrap(), latest.last().unwrap());
        assert_eq!(first.text, "a warning number=1 peer=::1");
        assert_eq!((first.level, last.level), (Level::WARN, Level::ERROR));
        assert_eq!(last.text.len(), TEXT_BYTES_MAX);
        assert!(last.unix_ms > 0);
    }
}
