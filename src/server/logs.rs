//! Writes log lines to standard error, in a separate thread.
//!
//! A full pipe or a slow reader must not stop a worker, so lines are put into a bounded queue. When
//! the queue is full, lines are dropped and counted. Payloads and tokens are never logged.

use std::fmt;
use std::io::{self, IsTerminal as _, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Registry, reload};

use crate::config::{LogFormat, Logging};
use crate::operator::answer::ProblemRow;
use crate::operator::problems::Problems;

/// The maximum number of lines in the queue.
const LINES_MAX: usize = 8192;

/// A guard that writes the queued lines when it is dropped.
#[derive(Debug)]
pub struct Logs {
    progress: Arc<Progress>,
    _guard: WorkerGuard,
}

impl Logs {
    /// Waits until all lines that were logged before the call are written. The wait takes at most
    /// the time `most`, because a full pipe may never be read. Returns false if some lines are not
    /// written yet, or if a line was ever dropped.
    pub fn wait_until_written(&self, most: Duration) -> bool {
        let queued = self.progress.queued.load(Ordering::Acquire);
        let written = self.progress.written.lock();
        let written = written.unwrap_or_else(PoisonError::into_inner);
        let is_behind = |written: &mut u64| *written < queued;
        let waited = self
            .progress
            .changed
            .wait_timeout_while(written, most, is_behind);
        let (written, _) = waited.unwrap_or_else(PoisonError::into_inner);
        *written >= queued
    }
}

/// The number of queued bytes and the number of written bytes. A dropped line is never counted as
/// written.
#[derive(Debug, Default)]
struct Progress {
    queued: AtomicU64,
    written: Mutex<u64>,
    changed: Condvar,
}

/// The sending end of the queue, for threads that log.
#[derive(Clone, Debug)]
struct Queue {
    lines: NonBlocking,
    progress: Arc<Progress>,
}

impl Write for Queue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let bytes = line.len() as u64;
        self.progress.queued.fetch_add(bytes, Ordering::Release);
        self.lines.write(line)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Queue {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// The receiving end of the queue. It writes lines and counts their bytes.
struct Counted<W> {
    inner: W,
    progress: Arc<Progress>,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let result = self.inner.write(bytes);
        // Bytes that cannot be written count as written, so that no call waits for these bytes. An
        // interrupted write is repeated.
        let done = match &result {
            Ok(count) => *count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            Err(_) => bytes.len(),
        } as u64;
        let written = self.progress.written.lock();
        *written.unwrap_or_else(PoisonError::into_inner) += done;
        self.progress.changed.notify_all();
        result
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

fn queue(writer: impl Write + Send + 'static) -> (Queue, Logs) {
    let progress = Arc::<Progress>::default();
    let writer = Counted {
        inner: writer,
        progress: Arc::clone(&progress),
    };
    let (lines, guard) = NonBlockingBuilder::default()
        .buffered_lines_limit(LINES_MAX)
        .lossy(true)
        .thread_name("fanfare-log")
        .finish(writer);
    let logs = Logs {
        progress: Arc::clone(&progress),
        _guard: guard,
    };
    (Queue { lines, progress }, logs)
}

/// The level of the log, the latest problems and the number of dropped lines. Clones share these.
#[derive(Clone, Default)]
pub struct LogHandle {
    level: Option<reload::Handle<LevelFilter, Registry>>,
    problems: Problems,
    dropped: Option<ErrorCounter>,
}

impl LogHandle {
    /// Returns the number of lines that were dropped because the queue was full.
    #[must_use]
    pub fn dropped_lines(&self) -> u64 {
        let dropped = self.dropped.as_ref();
        dropped.map_or(0, |dropped| dropped.dropped_lines() as u64)
    }

    /// Returns the latest warnings and errors, the newest last.
    #[must_use]
    pub fn problems(&self) -> Vec<ProblemRow> {
        self.problems.latest()
    }

    /// Returns the level in use. `off` if the program that embeds the server has its own log.
    #[must_use]
    pub fn level(&self) -> String {
        let level = self.level.as_ref().and_then(reload::Handle::clone_current);
        level.unwrap_or(LevelFilter::OFF).to_string()
    }

    /// Changes the level.
    ///
    /// # Errors
    /// Returns a text if the level does not exist, or if this server does not have its own log.
    pub fn set_level(&self, level: &str) -> Result<(), String> {
        let filter = log_level(level).ok_or_else(|| {
            format!(
                "level is `{level}`, but must be {}",
                Logging::LEVELS.join(", ")
            )
        })?;
        let no_log = || String::from("the program that runs the server has its own log");
        let handle = self.level.as_ref().ok_or_else(no_log)?;
        handle.reload(filter).map_err(|_gone| no_log())?;
        quiet_libraries();
        Ok(())
    }
}

impl fmt::Debug for LogHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogHandle")
            .field("level", &self.level())
            .finish_non_exhaustive()
    }
}

/// Libraries log through the `log` facade. Only their warnings and errors are useful to an
/// operator.
fn quiet_libraries() {
    log::set_max_level(log::max_level().min(log::LevelFilter::Warn));
}

fn log_level(level: &str) -> Option<LevelFilter> {
    level
        .parse()
        .ok()
        .filter(|_| Logging::LEVELS.contains(&level))
}

/// Starts the thread. Returns a guard for the caller to keep, and a handle of the log.
#[must_use]
pub fn start(logging: &Logging) -> (Logs, LogHandle) {
    let (queue, logs) = queue(io::stderr());
    let dropped = queue.lines.error_counter();
    let level = log_level(&logging.level);
    debug_assert!(level.is_some(), "the configuration was validated");
    let (filter, level) = reload::Layer::new(level.unwrap_or(LevelFilter::INFO));
    let problems = Problems::default();
    let layers = tracing_subscriber::registry()
        .with(filter)
        .with(problems.clone());
    let lines = tracing_subscriber::fmt::layer().with_writer(queue);
    let installed = match logging.format {
        LogFormat::Json => layers.with(lines.json()).try_init(),
        LogFormat::Text => {
            let lines = lines.with_ansi(io::stderr().is_terminal());
            layers.with(lines.with_target(false)).try_init()
        }
    };
    quiet_libraries();
    let handle = LogHandle {
        // If a program that embeds the server has already installed a subscriber, the program's
        // subscriber stays in use.
        level: installed.is_ok().then_some(level),
        problems,
        dropped: Some(dropped),
    };
    (logs, handle)
}

#[cfg(test)]
mod tests {
    use crossbeam_channel::{Receiver, Sender, bounded};

    use super::*;

    /// A writer that accepts a line only when the test allows it.
    struct Gated {
        allowed: Receiver<()>,
        lines: Sender<Vec<u8>>,
    }

    impl Write for Gated {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.allowed.recv().map_err(io::Error::other)?;
            self.lines.send(bytes.to_vec()).map_err(io::Error::other)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn wait_ends_when_all_lines_are_written_and_is_bounded_when_none_can_be() {
        let (allow, allowed) = bounded(1);
        let (lines, received) = bounded(2);
        let (mut queue, logs) = queue(Gated { allowed, lines });
        assert!(logs.wait_until_written(Duration::ZERO), "nothing is queued");
        queue.write_all(b"a line\n").unwrap();
        assert!(!logs.wait_until_written(Duration::from_millis(20)));
        assert!(received.is_empty());
        allow.send(()).unwrap();
        assert!(logs.wait_until_written(Duration::from_secs(60)));
        assert_eq!(received.try_recv().unwrap(), b"a line\n");
        // A line that cannot be written does not delay `wait_until_written`.
        drop(allow);
        queue.write_all(b"another\n").unwrap();
        assert!(logs.wait_until_written(Duration::from_secs(60)));
    }
}
