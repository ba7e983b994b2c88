//! The access log and the spans: what workers and feed write about connections and publications,
//! and the threads that export it.

use super::StartError;
use crate::access_log::{AccessLog, AccessLogThread};
use crate::config::Config;
use crate::spans::{Exporter, Tracer};
use crate::sys::clock::Clock;
use crate::sys::standard_output::StandardOutput;

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
    _access_log: Option<AccessLogThread>,
    _exporter: Option<Exporter>,
}

impl Outputs {
    /// Starts the threads that the configuration needs.
    pub(super) fn start(
        config: &Config,
        clock: Clock,
    ) -> Result<(Self, OutputThreads), StartError> {
        let lines = AccessLog::start(&config.logging, StandardOutput);
        let lines = lines.map_err(StartError::system("start the thread of the access log"))?;
        let (access_log, access_log_thread) = lines.unzip();
        let spans = Exporter::start(&config.tracing, clock).map_err(StartError::Spans)?;
        let (tracer, exporter) = spans.unzip();
        let threads = OutputThreads {
            _access_log: access_log_thread,
            _exporter: exporter,
        };
        Ok((Self { access_log, tracer }, threads))
    }
}
