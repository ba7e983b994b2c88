//! What belongs to one conn alone and is on its way out: control bytes, and the rest of a frame.
//!
//! Allocated only while something is pending. The rest of a half-written frame goes first, since
//! nothing may come between its bytes; then control bytes; publications follow from the log. Whole
//! messages only are appended, so control bytes can go out between any two frames.

use std::sync::Arc;

use crate::frame::{FrameKind, Publication};

/// Nothing, or what is pending.
#[derive(Debug, Default)]
pub struct Outbox(Option<Box<Pending>>);

#[derive(Debug, Default)]
struct Pending {
    rest: Option<Rest>,
    control: Vec<u8>,
    /// How much of `control` has been written; below its length.
    control_written: usize,
}

/// A frame of which a part has been written.
#[derive(Debug)]
struct Rest {
    publication: Arc<Publication>,
    kind: FrameKind,
    /// How much of the frame has been written; above zero and below its length.
    written: usize,
}

/// What is left of a write after the outbox has taken its part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Drained {
    /// Bytes of the write that were not the outbox's.
    pub left: usize,
    /// Whether a half-written frame has been completed.
    pub has_delivered: bool,
}

impl Outbox {
    /// Whether nothing is pending.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Control bytes not yet written.
    #[must_use]
    pub fn control_bytes(&self) -> usize {
        self.0
            .as_ref()
            .map_or(0, |pending| pending.control.len() - pending.control_written)
    }

    /// Appends whole messages of the conn's own.
    pub fn append(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let pending = self.0.get_or_insert_default();
        // A peer that never quite empties the queue would otherwise have all it was ever sent kept.
        // Moving what is left over at least as many written bytes costs each byte one move.
        if pending.control_written * 2 >= pending.control.len() {
            pending.control.drain(..pending.control_written);
            pending.control_written = 0;
        }
        pending.control.extend_from_slice(bytes);
    }

    /// Keeps the rest of a frame that the socket did not take whole.
    pub fn keep_rest(&mut self, publication: Arc<Publication>, kind: FrameKind, written: usize) {
        let pending = self.0.get_or_insert_default();
        debug_assert!(pending.rest.is_none());
        pending.rest = Some(Rest {
            publication,
            kind,
            written,
        });
    }

    /// What to write, in order: the rest of a frame, then control bytes.
    #[must_use]
    pub fn slices(&self) -> [&[u8]; 2] {
        let Some(pending) = &self.0 else {
            return [&[], &[]];
        };
        let rest = pending.rest.as_ref().map(Rest::bytes).unwrap_or_default();
        let control = pending
            .control
            .get(pending.control_written..)
            .unwrap_or_default();
        [rest, control]
    }

    /// Takes the outbox's part of so many written bytes.
    pub fn drain(&mut self, written: usize) -> Drained {
        let mut drained = Drained {
            left: written,
            has_delivered: false,
        };
        let Some(pending) = &mut self.0 else {
            return drained;
        };
        if let Some(rest) = &mut pending.rest {
            let length = rest.bytes().len();
            if drained.left < length {
                rest.written += drained.left;
                return Drained { left: 0, ..drained };
            }
            drained = Drained {
                left: drained.left - length,
                has_delivered: true,
            };
            pending.rest = None;
        }
        let control = pending.control.len() - pending.control_written;
        if drained.left < control {
            pending.control_written += drained.left;
            return Drained { left: 0, ..drained };
        }
        drained.left -= control;
        self.0 = None;
        drained
    }
}

impl Rest {
    fn bytes(&self) -> &[u8] {
        let frame = self
            .publication
            .frame(self.kind)
            .map(|frame| frame.wire(self.kind));
        frame
            .and_then(|bytes| bytes.get(self.written..))
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{Encoder, Envelope, Payload};
    use crate::id::{ChannelName, Cursor, Epoch, Sequence};
    use crate::time::Now;

    const KIND: FrameKind = FrameKind::WebSocket(Envelope::Data);

    /// One that has been encoded, as every frame is of which a part was written.
    fn publication() -> Arc<Publication> {
        let id = Cursor {
            epoch: Epoch::new(1),
            sequence: Sequence(1),
        };
        let channel = ChannelName::new("c").unwrap();
        let publication = Publication::new(id, channel, Payload::Text("abc".into()), Now(0));
        let frame = publication.encode(KIND, &mut Encoder::default());
        assert!(frame.is_some());
        Arc::new(publication)
    }

    #[test]
    fn rest_of_a_frame_goes_before_control_bytes_at_every_cut() {
        let whole = b"abcPING".to_vec();
        for cut in 0..=whole.len() {
            let mut outbox = Outbox::default();
            outbox.append(b"PING");
            outbox.keep_rest(publication(), KIND, 2);
            assert_eq!(outbox.slices().concat(), whole);
            let drained = outbox.drain(cut);
            assert_eq!(
                drained,
                Drained {
                    left: 0,
                    has_delivered: cut >= 3
                }
            );
            assert_eq!(outbox.slices().concat(), whole[cut..]);
            assert_eq!(outbox.is_empty(), cut == whole.len());
        }
    }

    #[test]
    fn bytes_beyond_the_outbox_are_handed_back() {
        let mut outbox = Outbox::default();
        outbox.append(b"xy");
        assert_eq!(
            outbox.drain(5),
            Drained {
                left: 3,
                has_delivered: false
            }
        );
        assert_eq!(
            outbox.drain(4),
            Drained {
                left: 4,
                has_delivered: false
            }
        );
    }

    #[test]
    fn queue_that_is_never_quite_empty_keeps_only_what_is_unwritten() {
        let mut outbox = Outbox::default();
        outbox.append(b"0123456789");
        for _ in 0..1000 {
            outbox.append(b"0123456789");
            assert_eq!(outbox.drain(10).left, 0);
            assert_eq!(outbox.slices().concat(), b"0123456789");
        }
        let kept = outbox.0.as_ref().unwrap().control.capacity();
        assert!(kept <= 64, "{kept} bytes for 10");
    }

    #[test]
    fn empty_outbox_owns_nothing() {
        let mut outbox = Outbox::default();
        outbox.append(b"");
        assert!(outbox.is_empty());
        assert_eq!(size_of::<Outbox>(), 8);
    }
}
