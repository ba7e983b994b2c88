//! The access log and the spans: what workers and feed write about connections and publications,
//! and the threads that export it.

use std::io;

use tracing_appender::non_blocking::WorkerGuard;

use super::StartError;
use crate::access_log::AccessLog;
use crate::config::Config;
use crate::spans::{Exporter, Tracer};
use crate::sys::clock::Clock;

/// The sending ends, which each worker gets.
#[derive(Clone, Debug)]
pub(super) struct Outputs {
    /// The access log, if it is on.
    pub(super) access_log: Option<AccessLog>,
    /// Decides what has a span; `None` if tracing is off.
    pub(super) tracer: Option<Tracer>,
}

/// The threads. When this is dropped, they export what is queued.
#[derive(Debug)]
pub(super) struct OutputThreads {
    _access_lines: Option<WorkerGuard>,
    _exporter: Option<Exporter>,
}

impl Outputs {
    /// Starts the threads that the configuration needs.
    pub(super) fn start(
        config: &Config,
        clock: Clock,
    ) -> Result<(Self, OutputThreads), StartError> {
        let (access_log, lines) = AccessLog::start(&config.logging, io::stdout()).unzip();
        let spans = Exporter::start(&config.tracing, clock).map_err(StartError::Spans)?;
        let (tracer, exporter) = spans.unzip();
        let threads = OutputThreads {
            _access_lines: lines,
            _exporter: exporter,
        };
        Ok((Self { access_log, tracer }, threads))
    }
}
