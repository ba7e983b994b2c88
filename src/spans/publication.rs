//! The span of a publication: from its acceptance by the feed to the visit of the last subscriber.
//!
//! The feed creates the span and shares it with the workers that have subscribers of the channel.
//! Each holder adds what it knows. The span ends when the last holder releases it, so a worker that
//! stops cannot keep a span open.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::{EndedSpan, SpanContext, Tracer};
use crate::frame::Publication;
use crate::id::{ChannelName, Cursor};
use crate::time::Now;

/// The value of a time that is not known yet. No clock reaches it.
const UNKNOWN: u64 = u64::MAX;

/// The span of a publication that is still on its way.
#[derive(Debug)]
pub struct PublicationSpan {
    tracer: Tracer,
    context: SpanContext,
    channel: ChannelName,
    id: Cursor,
    bytes: u64,
    /// The time at which the feed read the publication.
    read: Now,
    numbered: Now,
    posted: AtomicU64,
    first: AtomicU64,
    /// The largest time of any worker; zero before the first one.
    last: AtomicU64,
    subscribers: AtomicU64,
    is_incomplete: AtomicBool,
}

/// The data of a publication's span.
#[derive(Debug)]
pub(crate) struct EndedPublication {
    pub(crate) context: SpanContext,
    pub(crate) channel: ChannelName,
    pub(crate) id: Cursor,
    pub(crate) bytes: u64,
    pub(crate) read: Now,
    pub(crate) numbered: Now,
    /// The time at which the publication was in the log and sent to the workers; `None` if the
    /// journal has refused it.
    pub(crate) posted: Option<Now>,
    /// The time at which a worker had visited the first subscriber.
    pub(crate) first: Option<Now>,
    /// The time at which the last worker had visited its last subscriber.
    pub(crate) last: Option<Now>,
    pub(crate) subscribers: u64,
    /// Whether a worker traced too many publications to observe this one.
    pub(crate) is_incomplete: bool,
}

impl PublicationSpan {
    /// Begins the span of a publication that was read at the time `read` and has just got its
    /// number.
    #[must_use]
    pub fn begin(
        tracer: &Tracer,
        context: SpanContext,
        publication: &Publication,
        read: Now,
        numbered: Now,
    ) -> Arc<Self> {
        Arc::new(Self {
            tracer: tracer.clone(),
            context,
            channel: publication.channel.clone(),
            id: publication.id,
            bytes: publication.payload_bytes(),
            read,
            numbered,
            posted: AtomicU64::new(UNKNOWN),
            first: AtomicU64::new(UNKNOWN),
            last: AtomicU64::new(0),
            subscribers: AtomicU64::new(0),
            is_incomplete: AtomicBool::new(false),
        })
    }

    /// Records that the publication is in the log and was sent to the workers.
    pub fn note_posted(&self, now: Now) {
        self.posted.store(now.0, Ordering::Relaxed);
    }

    /// Adds the number of subscribers that a worker will visit.
    pub fn note_subscribers(&self, count: u32) {
        self.subscribers.fetch_add(count.into(), Ordering::Relaxed);
    }

    /// Records that a worker had visited its first subscriber.
    pub fn note_first(&self, now: Now) {
        self.first.fetch_min(now.0, Ordering::Relaxed);
    }

    /// Records that a worker had visited its last subscriber.
    pub fn note_last(&self, now: Now) {
        self.last.fetch_max(now.0, Ordering::Relaxed);
    }

    /// Records that a worker cannot observe the publication.
    pub fn note_incomplete(&self) {
        self.is_incomplete.store(true, Ordering::Relaxed);
    }
}

impl Drop for PublicationSpan {
    fn drop(&mut self) {
        let known = |time: &mut AtomicU64| Some(*time.get_mut()).filter(|us| *us != UNKNOWN);
        let ended = EndedPublication {
            context: self.context,
            channel: self.channel.clone(),
            id: self.id,
            bytes: self.bytes,
            read: self.read,
            numbered: self.numbered,
            posted: known(&mut self.posted).map(Now),
            first: known(&mut self.first).map(Now),
            last: Some(*self.last.get_mut()).filter(|us| *us > 0).map(Now),
            subscribers: *self.subscribers.get_mut(),
            is_incomplete: *self.is_incomplete.get_mut(),
        };
        self.tracer.end(EndedSpan::Publication(Box::new(ended)));
    }
}
