//! The spans of sampled publications and connections: each span that has begun must end once.
//!
//! The feed begins a span for each publication whose trace context is sampled. A worker must
//! release the span when it has visited the channel's subscribers, and never later. A connection
//! has a span for each line of the access log, if all connections are sampled. The tracers have no
//! exporter, so each ended span is counted as dropped.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use fanfare::config::Share;
use fanfare::frame::Publication;
use fanfare::spans::{PublicationSpan, Tracer};
use fanfare::time::Now;

/// The tracer, and the number of spans that have begun.
#[derive(Debug)]
pub(crate) struct Spans {
    tracer: Tracer,
    begun: u64,
}

impl Spans {
    pub(crate) fn new() -> Self {
        let none = Share::try_from(0.0).expect("a share");
        Self {
            tracer: Tracer::without_exporter(none),
            begun: 0,
        }
    }

    pub(crate) fn begin(
        &mut self,
        publication: &Publication,
        now: Now,
    ) -> Option<Arc<PublicationSpan>> {
        let context = self.tracer.sample(publication.traceparent())?;
        self.begun += 1;
        let read = publication.published;
        let span = PublicationSpan::begin(&self.tracer, context, publication, read, now);
        span.note_posted(now);
        Some(span)
    }

    /// Checks that no span is open. Called when all publications are delivered.
    pub(crate) fn check_ended(&self) {
        let ended = &self.tracer.metrics().stopped;
        assert_eq!(ended.load(Ordering::Relaxed), self.begun, "ended spans");
    }
}

/// The tracer of one worker.
#[derive(Debug)]
pub(crate) struct WorkerTracer {
    tracer: Tracer,
    has_all_conns: bool,
}

impl WorkerTracer {
    /// Draws whether a worker traces its connections, and which part of them.
    pub(crate) fn draw(random: &mut fastrand::Rng) -> Option<Self> {
        let sample = match random.u32(0..4) {
            0 => return None,
            1 => Share::HALF,
            _ => Share::WHOLE,
        };
        Some(Self {
            tracer: Tracer::without_exporter(sample),
            has_all_conns: sample == Share::WHOLE,
        })
    }

    pub(crate) fn tracer(&self) -> Tracer {
        self.tracer.clone()
    }

    /// Checks the number of spans. `lines` is the number of lines of a complete access log.
    pub(crate) fn check_ended(&self, lines: u64) {
        let ended = self.tracer.metrics().stopped.load(Ordering::Relaxed);
        let is_right = match self.has_all_conns {
            true => ended == lines,
            false => ended <= lines,
        };
        assert!(is_right, "{ended} spans, {lines} lines");
    }
}
