//! SHELL: spans of publications and connections, in the format of OpenTelemetry.
//!
//! The feed asks a [`Tracer`] whether a publication is sampled, and workers ask for connections. A
//! sampled publication carries a [`PublicationSpan`] to the workers; what is not sampled carries
//! nothing. A span that has ended is put into a bounded queue. If the queue is full, the span is
//! dropped and counted, so tracing never delays the feed or a worker. [`exporter`] writes the
//! spans to a file and posts them to a collector, in threads of its own. `encode` turns spans into
//! OTLP, and [`connection`] and [`publication`] contain their data. Payloads, tokens, cookies
//! and unknown parameters of queries are never in a span.

mod collector;
pub mod connection;
mod encode;
pub mod exporter;
mod file;
pub mod publication;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_channel::{Sender, TrySendError};

use crate::config::{Share, Tracing};
use crate::time::Now;
use crate::time::window_limiter::{Admitted, WindowLimiter};
use crate::traceparent::{SpanId, TraceId, TraceParent};

pub use connection::ConnectionSpan;
pub use exporter::{Exporter, ExporterError};
pub use publication::PublicationSpan;

/// The ids of a sampled span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpanContext {
    /// The trace of the span.
    pub trace: TraceId,
    /// The span itself.
    pub span: SpanId,
    /// The span of another program that is the parent.
    pub parent: Option<SpanId>,
}

impl SpanContext {
    /// Makes the ids of a new span. Without a parent, the span begins a new trace.
    fn new(parent: Option<&TraceParent>) -> Self {
        Self {
            trace: parent.map_or_else(new_trace_id, |parent| parent.trace()),
            span: new_span_id(),
            parent: parent.map(|parent| parent.span()),
        }
    }
}

/// A span that has ended.
#[derive(Debug)]
pub(crate) enum EndedSpan {
    Connection(Box<ConnectionSpan>),
    Publication(Box<publication::EndedPublication>),
}

/// The numbers of exported and dropped spans. A publication or a connection counts as one span.
#[derive(Debug, Default)]
pub struct SpanMetrics {
    /// Spans in the file.
    pub written: AtomicU64,
    /// Spans that the collector has accepted.
    pub posted: AtomicU64,
    /// Spans that were dropped because the queue was full.
    pub queue_full: AtomicU64,
    /// Spans that could not be written to the file.
    pub unwritten: AtomicU64,
    /// Spans that the collector has refused.
    pub refused: AtomicU64,
    /// Spans that could not be posted in time.
    pub unreachable: AtomicU64,
    /// Spans that were dropped because too many batches waited for the collector.
    pub collector_queue_full: AtomicU64,
    /// Spans that were not exported before the server ended.
    pub stopped: AtomicU64,
    /// Spans for which the queue had room. Each of them is exported or dropped once per target.
    pub queued: AtomicU64,
}

impl SpanMetrics {
    /// Returns the number of queued spans that were neither exported nor dropped, for a number of
    /// targets.
    fn unfinished(&self, targets: u64) -> u64 {
        let finished = [
            &self.written,
            &self.posted,
            &self.unwritten,
            &self.refused,
            &self.unreachable,
            &self.collector_queue_full,
            &self.stopped,
        ];
        let finished = finished.map(|number| number.load(Ordering::Relaxed));
        let queued = self.queued.load(Ordering::Relaxed);
        (targets * queued).saturating_sub(finished.iter().sum())
    }
}

/// Decides which publications and connections are traced, and queues their spans.
#[derive(Clone, Debug)]
pub struct Tracer {
    sample: Share,
    /// The maximum number of spans per second that the sampled flags of clients cause.
    client_spans_per_second: u32,
    /// Counts these spans. All clones share it.
    client_spans: Arc<WindowLimiter>,
    queue: Sender<EndedSpan>,
    metrics: Arc<SpanMetrics>,
}

impl Tracer {
    /// Creates a tracer whose spans are all counted as not exported before the end of the server.
    /// For tests.
    #[doc(hidden)]
    #[must_use]
    pub fn without_exporter(sample: Share) -> Self {
        let (queue, _no_exporter) = crossbeam_channel::bounded(0);
        let config = Tracing {
            sample,
            ..Tracing::default()
        };
        Self::new(&config, queue, Arc::default())
    }

    fn new(config: &Tracing, queue: Sender<EndedSpan>, metrics: Arc<SpanMetrics>) -> Self {
        Self {
            sample: config.sample,
            client_spans_per_second: config.client_spans_per_second,
            client_spans: Arc::default(),
            queue,
            metrics,
        }
    }

    /// Returns the ids of a new span if the span is sampled. With a parent, the parent's sampled
    /// flag decides; otherwise a random number decides. The parent must be from a trusted process.
    #[must_use]
    pub fn sample(&self, parent: Option<&TraceParent>) -> Option<SpanContext> {
        let is_sampled = parent.map_or_else(|| self.is_drawn(), |parent| parent.is_sampled());
        is_sampled.then(|| SpanContext::new(parent))
    }

    /// Returns the ids of a new span if the span is sampled. The parent is from a client. A client
    /// must not decide how many spans the server records, so sampled flags beyond the limit have no
    /// effect: a random number decides.
    #[must_use]
    pub fn sample_for_client(&self, parent: Option<&TraceParent>, now: Now) -> Option<SpanContext> {
        let Some(parent) = parent else {
            return self.sample(None);
        };
        let is_sampled = parent.is_sampled() && (self.admits_client(now) || self.is_drawn());
        is_sampled.then(|| SpanContext::new(Some(parent)))
    }

    fn admits_client(&self, now: Now) -> bool {
        let admitted = self.client_spans.admit(now, self.client_spans_per_second);
        admitted != Admitted::Suppressed
    }

    fn is_drawn(&self) -> bool {
        self.sample.contains(fastrand::u64(..))
    }

    /// Queues a span that has ended, or drops and counts the span.
    pub(crate) fn end(&self, span: EndedSpan) {
        self.metrics.queued.fetch_add(1, Ordering::Relaxed);
        match self.queue.try_send(span) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => {
                self.metrics.queued.fetch_sub(1, Ordering::Relaxed);
                self.metrics.queue_full.fetch_add(1, Ordering::Relaxed);
            }
            // The exporter has ended before this span.
            Err(TrySendError::Disconnected(_)) => {
                self.metrics.stopped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Queues the span of a connection or of one of its requests.
    pub fn end_connection(&self, span: Box<ConnectionSpan>) {
        self.end(EndedSpan::Connection(span));
    }

    /// Returns the numbers of exported and dropped spans.
    #[must_use]
    pub fn metrics(&self) -> &Arc<SpanMetrics> {
        &self.metrics
    }
}

/// Checks whether the file of the configuration can be written. Creates nothing.
///
/// # Errors
/// Returns a message if the file or its directory cannot be written.
pub fn check(config: &Tracing) -> Result<(), String> {
    if config.file.as_os_str().is_empty() {
        return Ok(());
    }
    file::check(&config.file).map_err(|error| format!("{}: {error}", config.file.display()))
}

/// Returns a random id.
fn new_trace_id() -> TraceId {
    loop {
        if let Some(id) = TraceId::new(fastrand::u128(..).to_be_bytes()) {
            return id;
        }
    }
}

/// Returns a random id.
fn new_span_id() -> SpanId {
    loop {
        if let Some(id) = SpanId::new(fastrand::u64(..).to_be_bytes()) {
            return id;
        }
    }
}
