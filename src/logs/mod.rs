//! SHELL: this module writes log lines to standard error, in a separate thread.
//!
//! A full pipe or a slow reader must not stop a worker, so lines are put into a bounded queue. When
//! the queue is full, lines are dropped and counted. Payloads and tokens are never logged.

#[cfg(test)]
pub(crate) mod capture;
pub mod priority;
pub mod problems;

use std::fmt;
use std::io::{self, IsTerminal as _};
use std::time::Duration;

use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Registry, reload};

use crate::config::limits::LINES_STOP_MS;
use crate::config::{LogFormat, Logging};
use crate::line_queue::{LineQueue, LineThread, WholeLines};
use priority::LineWriters;
use problems::{LoggedProblem, Problems};

/// The maximum number of lines in the queue.
const LINES_MAX: usize = 8192;

/// The thread that writes. When this is dropped, the queued lines are written, as far as this
/// succeeds within [`LINES_STOP_MS`].
#[derive(Debug)]
pub struct Logs(LineThread);

impl Logs {
    /// Waits until all lines that were logged before the call are written. The wait takes at most
    /// the time `most`, because a full pipe may never be read. Returns false if some lines are not
    /// written yet.
    pub fn wait_until_written(&self, most: Duration) -> bool {
        self.0.wait_until_written(most)
    }
}

impl Drop for Logs {
    fn drop(&mut self) {
        // There is no place left to report lines that are lost here.
        let _lost = self.0.stop(Duration::from_millis(LINES_STOP_MS));
    }
}

/// The level of the log, the latest problems and the number of dropped lines. Clones share these.
#[derive(Clone, Default)]
pub struct LogHandle {
    level: Option<reload::Handle<LevelFilter, Registry>>,
    problems: Problems,
    lines: Option<LineQueue>,
}

impl LogHandle {
    /// Returns the number of lines for which the queue had no room, or whose write has failed.
    #[must_use]
    pub fn dropped_lines(&self) -> u64 {
        self.lines.as_ref().map_or(0, LineQueue::dropped)
    }

    /// Returns the latest warnings and errors, the newest last.
    #[must_use]
    pub fn problems(&self) -> Vec<LoggedProblem> {
        self.problems.latest()
    }

    /// Returns the level in use. `None` if the program that embeds the server has its own log.
    #[must_use]
    pub fn level(&self) -> Option<String> {
        let level = self.level.as_ref().and_then(reload::Handle::clone_current);
        level.map(|level| level.to_string())
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
///
/// # Errors
/// Returns the error of the system if the thread cannot be started.
pub fn start(logging: &Logging) -> io::Result<(Logs, LogHandle)> {
    let writer = WholeLines::new(io::stderr());
    let (queue, thread) = LineQueue::start("fanfare-log", LINES_MAX, writer)?;
    let lines = queue.clone();
    let level = log_level(&logging.level);
    debug_assert!(level.is_some(), "the configuration was validated");
    let (filter, level) = reload::Layer::new(level.unwrap_or(LevelFilter::INFO));
    let problems = Problems::default();
    let layers = tracing_subscriber::registry()
        .with(filter)
        .with(problems.clone());
    let layer = tracing_subscriber::fmt::layer().with_writer(LineWriters::new(queue));
    let installed = match logging.format {
        LogFormat::Json => layers.with(layer.json()).try_init(),
        LogFormat::Text => {
            let layer = layer.with_ansi(io::stderr().is_terminal());
            layers.with(layer.with_target(false)).try_init()
        }
    };
    quiet_libraries();
    let handle = LogHandle {
        // If a program that embeds the server has already installed a subscriber, the program's
        // subscriber stays in use.
        level: installed.is_ok().then_some(level),
        problems,
        lines: Some(lines),
    };
    Ok((Logs(thread), handle))
}
