//! A publication: one payload addressed to a channel, with its id.
//!
//! The feed creates a publication and shares it by reference with the workers that have subscribers
//! of the channel. The publication is dropped when neither the log nor a worker that is about to
//! write it holds a reference. The encodings are a separate allocation ([`Frames`]), which is
//! created when the first encoding is needed. The log can drop the encodings before the
//! publication, to free memory of delivered publications. A conn with a partly written frame can
//! hold the encodings longer. Apart from the encodings and the eviction flag, a publication is
//! immutable.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{FrameKind, Frames, Ledger};
use crate::id::{ChannelName, Cursor};
use crate::time::{Deadline, Now};
use crate::traceparent::TraceParent;

/// The prefix of the event types that the server uses.
const RESERVED_EVENTS: &str = "fanfare.";

/// Whether this event type is reserved for the server. Leading white space is ignored, because some
/// clients remove it.
#[must_use]
pub fn is_reserved_event(event: &str) -> bool {
    event.trim_start().starts_with(RESERVED_EVENTS)
}

/// The payload of a publication.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    /// Bytes, which text protocols carry as base64.
    Bytes(Box<[u8]>),
    /// A JSON text without insignificant white space. It is forwarded byte for byte.
    Json(Box<str>),
    /// A string, which is forwarded unchanged.
    Text(Box<str>),
}

impl Payload {
    /// Returns the length in bytes. Quotas count this length.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::Json(text) | Self::Text(text) => text.len(),
        }
    }

    /// Whether the payload is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// One payload addressed to a channel.
#[derive(Debug)]
#[expect(
    clippy::partial_pub_fields,
    reason = "the private fields are counted in the ledger"
)]
pub struct Publication {
    /// The publication's id, which is its position in the sequence of all publications.
    pub id: Cursor,
    /// The channel.
    pub channel: ChannelName,
    /// The payload.
    pub payload: Payload,
    labels: Option<Box<Labels>>,
    /// The time at which the feed accepted the publication.
    pub published: Now,
    /// The time at which the publication expires, or [`NEVER`]. An expired publication is not
    /// delivered.
    expires: Deadline,
    /// The encodings, if they exist. The lock is held only while the reference to the encodings is
    /// stored, removed or copied.
    frames: Mutex<Option<Arc<Frames>>>,
    /// Whether the log has evicted the publication. Changed only while `frames` is locked.
    has_left_log: AtomicBool,
    ledger: Arc<Ledger>,
}

// This size is used in the section "Memory of a channel" of the crate doc.
const _: () = assert!(size_of::<Publication>() <= 104);

/// The optional labels of a publication. Few publications have a label.
#[derive(Debug, Default)]
struct Labels {
    event: Option<Box<str>>,
    key: Option<Box<str>>,
    /// In a block of its own, so that an event type or a key does not cost its bytes.
    traceparent: Option<Box<TraceParent>>,
}

impl Labels {
    fn bytes(&self) -> u64 {
        let texts = [&self.event, &self.key].into_iter().flatten();
        let texts: usize = texts.map(|text| text.len()).sum();
        let traced = self.traceparent.as_ref().map_or(0, |_| TraceParent::BYTES);
        (size_of::<Self>() + texts + traced) as u64
    }
}

/// The encodings of a publication, and the kind of encoding that is sent.
#[derive(Clone, Debug)]
pub struct Encoded {
    /// The publication's id.
    pub id: Cursor,
    /// The kind of encoding that is sent.
    pub kind: FrameKind,
    /// The encodings of the publication. The encoding of `kind` is one of them.
    pub frames: Arc<Frames>,
}

impl Encoded {
    /// Returns the bytes that are sent.
    #[must_use]
    pub fn wire(&self) -> &[u8] {
        self.frames.wire(self.kind)
    }
}

impl Publication {
    /// Creates a publication without labels and expiry, and counts it in a ledger.
    #[must_use]
    pub fn new(
        id: Cursor,
        channel: ChannelName,
        payload: Payload,
        published: Now,
        ledger: &Arc<Ledger>,
    ) -> Self {
        let publication = Self {
            id,
            channel,
            payload,
            labels: None,
            published,
            expires: NEVER,
            frames: Mutex::default(),
            has_left_log: AtomicBool::new(false),
            ledger: Arc::clone(ledger),
        };
        ledger.add(publication.bytes_held());
        publication
    }

    /// Adds an event type and a conflation key, if they are present. The event type has no control
    /// characters and is not reserved. Must be called at most once.
    #[must_use]
    pub fn labelled(mut self, event: Option<Box<str>>, key: Option<Box<str>>) -> Self {
        debug_assert!(self.labels.is_none());
        if event.is_some() || key.is_some() {
            let labels = Labels {
                event,
                key,
                traceparent: None,
            };
            self.ledger.add(labels.bytes());
            self.labels = Some(Box::new(labels));
        }
        self
    }

    /// Adds the trace context that the publisher has sent, if it is present. Must be called at most
    /// once, after [`Publication::labelled`].
    #[must_use]
    pub fn traced(mut self, traceparent: Option<Box<TraceParent>>) -> Self {
        if traceparent.is_some() {
            let before = self.bytes_held();
            let labels = self.labels.get_or_insert_default();
            debug_assert!(labels.traceparent.is_none());
            labels.traceparent = traceparent;
            self.ledger.add(self.bytes_held() - before);
        }
        self
    }

    /// Sets the time at which the publication expires. With `None`, it never expires.
    #[must_use]
    pub fn expiring(mut self, expires: Option<Deadline>) -> Self {
        self.expires = expires.unwrap_or(NEVER);
        self
    }

    /// Returns the event type: the `event:` field of server-sent events.
    #[must_use]
    pub fn event(&self) -> Option<&str> {
        self.labels.as_ref()?.event.as_deref()
    }

    /// Returns the conflation key. A later publication with the same channel and key supersedes
    /// this one.
    #[must_use]
    pub fn key(&self) -> Option<&str> {
        self.labels.as_ref()?.key.as_deref()
    }

    /// Returns the trace context that the publisher has sent.
    #[must_use]
    pub fn traceparent(&self) -> Option<&TraceParent> {
        self.labels.as_ref()?.traceparent.as_deref()
    }

    /// Returns the time at which the publication expires, or `None` if it never expires.
    #[must_use]
    pub fn expires(&self) -> Option<Deadline> {
        (self.expires != NEVER).then_some(self.expires)
    }

    /// Returns the encodings, and creates an empty set if the publication has none.
    #[must_use]
    pub fn frames(&self) -> Arc<Frames> {
        let mut frames = self.lock();
        let frames = frames.get_or_insert_with(|| {
            let is_logged = !self.has_left_log.load(Ordering::Relaxed);
            if is_logged {
                self.ledger.note_encoded(self.id.sequence);
            }
            Arc::new(Frames::new(&self.ledger, is_logged))
        });
        Arc::clone(frames)
    }

    /// Drops the publication's reference to its encodings. Workers and conns that hold the
    /// encodings keep their references. Later readers create the encodings again.
    pub fn drop_frames(&self) {
        let dropped = self.lock().take();
        // The encodings are freed after the lock is released, because freeing takes time.
        if let Some(frames) = dropped {
            frames.leave_log();
        }
    }

    /// Records that the log has evicted the publication. Workers that are about to write the
    /// publication keep their references.
    pub fn leave_log(&self) {
        let frames = self.lock();
        self.has_left_log.store(true, Ordering::Relaxed);
        if let Some(frames) = frames.as_ref() {
            frames.leave_log();
        }
    }

    /// Returns the encodings, if they exist. For tests.
    #[doc(hidden)]
    #[must_use]
    pub fn made_frames(&self) -> Option<Arc<Frames>> {
        self.lock().as_ref().map(Arc::clone)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<Frames>>> {
        self.frames.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the payload's length in bytes. Quotas count this length.
    #[must_use]
    pub fn payload_bytes(&self) -> u64 {
        self.payload.len() as u64
    }

    /// Returns the publication's memory in bytes, without the encodings.
    #[must_use]
    pub fn bytes_held(&self) -> u64 {
        let texts = self.channel.as_str().len() + self.payload.len();
        let labels = self.labels.as_ref().map_or(0, |labels| labels.bytes());
        (size_of::<Self>() + texts) as u64 + labels
    }

    /// Whether the publication has expired.
    #[must_use]
    pub fn has_expired(&self, now: Now) -> bool {
        now.has_reached(self.expires)
    }
}

impl Drop for Publication {
    fn drop(&mut self) {
        let frames = self
            .frames
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(frames) = frames {
            frames.leave_log();
        }
        self.ledger.remove(self.bytes_held());
    }
}

const NEVER: Deadline = Deadline(u64::MAX);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{Compressor, Envelope};
    use crate::id::{Epoch, Sequence};

    fn publication(ledger: &Arc<Ledger>) -> Publication {
        let id = Cursor {
            epoch: Epoch::new(1),
            sequence: Sequence(1),
        };
        let channel = ChannelName::new("abc").unwrap();
        let payload = Payload::Text("12345".into());
        Publication::new(id, channel, payload, Now(0), ledger)
    }

    #[test]
    fn ledger_counts_a_publication_with_its_texts_until_it_is_dropped() {
        let ledger = Arc::default();
        let plain = publication(&ledger);
        let size = size_of::<Publication>() as u64;
        assert_eq!(
            (plain.bytes_held(), ledger.resident()),
            (size + 8, size + 8)
        );
        let labelled = publication(&ledger).labelled(Some("tick".into()), Some("k".into()));
        let labels = size_of::<Labels>() as u64 + 5;
        assert_eq!(ledger.resident(), 2 * (size + 8) + labels);
        assert_eq!(
            (labelled.event(), labelled.key()),
            (Some("tick"), Some("k"))
        );
        drop(plain);
        let unlabelled = publication(&ledger).labelled(None, None);
        assert_eq!(unlabelled.bytes_held(), size + 8);
        let traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let traceparent: TraceParent = traceparent.parse().unwrap();
        let traced = publication(&ledger).traced(Some(Box::new(traceparent)));
        let own = size_of::<Labels>() as u64 + 25;
        assert_eq!(traced.bytes_held(), size + 8 + own);
        let both = publication(&ledger)
            .labelled(None, Some("k".into()))
            .traced(Some(Box::new(traceparent)));
        assert_eq!(both.bytes_held(), size + 9 + own);
        assert_eq!(
            (both.key(), both.traceparent()),
            (Some("k"), Some(&traceparent))
        );
        assert_eq!(publication(&ledger).traced(None).bytes_held(), size + 8);
        drop((labelled, unlabelled, traced, both));
        assert_eq!(ledger.resident(), 0);
    }

    #[test]
    fn dropped_encodings_stay_with_their_holder_and_are_made_again_for_others() {
        let ledger = Arc::default();
        let publication = publication(&ledger);
        let kind = FrameKind::WebSocket(Envelope::Data);
        let (held, own) = (publication.frames(), publication.bytes_held());
        let mut compressor = Compressor::default();
        held.encode(&publication, kind, &mut compressor);
        assert_eq!(held.bytes_held(), Frames::BYTES + 7);
        assert_eq!(ledger.resident(), own + held.bytes_held());
        publication.drop_frames();
        let fresh = publication.frames();
        assert_eq!(fresh.wire(kind), b"");
        fresh.encode(&publication, kind, &mut compressor);
        assert_eq!(fresh.wire(kind), held.wire(kind));
        drop((publication, fresh));
        assert_eq!(ledger.resident(), held.bytes_held());
    }

    #[test]
    fn encodings_are_in_the_log_as_long_as_their_publication_is() {
        let ledger = Arc::default();
        let publication = publication(&ledger);
        let kind = FrameKind::WebSocket(Envelope::Data);
        let mut compressor = Compressor::default();
        let held = publication.frames();
        held.encode(&publication, kind, &mut compressor);
        assert_eq!(ledger.logged(), held.bytes_held());
        assert_eq!(ledger.take_oldest_encoded(), publication.id.sequence);
        publication.leave_log();
        assert_eq!(ledger.logged(), 0);
        assert!(
            Arc::ptr_eq(&held, &publication.frames()),
            "for other workers"
        );
        held.encode(
            &publication,
            FrameKind::Poll(Envelope::Data),
            &mut compressor,
        );
        publication.drop_frames();
        let fresh = publication.frames();
        fresh.encode(&publication, kind, &mut compressor);
        assert_eq!((ledger.logged(), ledger.pinned()), (0, 0));
        assert_eq!(ledger.take_oldest_encoded(), Sequence(u64::MAX));
    }

    #[test]
    fn publication_expires_at_its_time_or_never() {
        let publication = publication(&Arc::default());
        assert_eq!(publication.expires(), None);
        assert!(!publication.has_expired(Now(u64::MAX - 1)));
        let publication = publication.expiring(Some(Deadline(5)));
        assert_eq!(publication.expires(), Some(Deadline(5)));
        assert_eq!(
            [4, 5].map(|us| publication.has_expired(Now(us))),
            [false, true]
        );
    }
}
