//! Diagnostics to standard error, through a thread of their own.
//!
//! A full pipe or a slow reader must not stop a worker, so lines go through a bounded queue. When
//! it is full, lines are dropped and counted. Payloads and tokens are never logged.

use std::io::{self, IsTerminal as _};
use std::sync::Arc;

use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::LevelFilter;

use crate::config::{LogFormat, Logging};

/// Lines in the queue.
const LINES_MAX: usize = 8192;

/// Writes the queued lines when it is dropped.
#[derive(Debug)]
pub struct Logs {
    _guard: WorkerGuard,
}

/// Starts the thread. Returns a guard to keep, and a function that counts dropped lines.
#[must_use]
pub fn start(logging: &Logging) -> (Logs, Arc<dyn Fn() -> u64 + Send + Sync>) {
    let (writer, guard) = NonBlockingBuilder::default()
        .buffered_lines_limit(LINES_MAX)
        .lossy(true)
        .thread_name("fanfare-log")
        .finish(io::stderr());
    let dropped = writer.error_counter();
    let level = logging.level.parse().unwrap_or(LevelFilter::INFO);
    let builder = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(writer);
    // A program that embeds the server may have installed a subscriber; it stays.
    let _installed = match logging.format {
        LogFormat::Json => builder.json().try_init(),
        LogFormat::Text => builder
            .with_ansi(io::stderr().is_terminal())
            .with_target(false)
            .try_init(),
    };
    // Libraries log through the `log` facade; below warnings they concern no operator.
    log::set_max_level(log::max_level().min(log::LevelFilter::Warn));
    let dropped_lines = move || u64::try_from(dropped.dropped_lines()).unwrap_or(u64::MAX);
    (Logs { _guard: guard }, Arc::new(dropped_lines))
}
