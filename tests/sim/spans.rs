//! The spans of sampled publications: each span that has begun must end.
//!
//! The feed begins a span for each publication whose trace context is sampled. A worker must
//! release the span when it has visited the channel's subscribers, and never later. The tracer has
//! no exporter, so each ended span is counted as dropped.

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
        let ended = &self.tracer.metrics().dropped_by_queue;
        assert_eq!(ended.load(Ordering::Relaxed), self.begun, "ended spans");
    }
}
