//! The unsent bytes of one conn: control bytes, the rest of a partly written frame, and the
//! publications of a poll's answer.
//!
//! An outbox allocates memory only while it has unsent bytes. The rest of a partly written frame is
//! sent first, then control bytes, then publications from the log. Control bytes are appended as
//! complete messages, so they can be sent between any two frames. A poll's answer is the last part
//! of the outbox: its response head is part of the control bytes, and its publications are sent
//! after the control bytes.
//!
//! Encodings are shared with the log and with all other conns. An encoding stays in memory while a
//! conn holds it, even after the log has evicted it. A conn that needs only a small rest of a large
//! encoding can copy that rest.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::certain;
use crate::frame::json_element::SEPARATOR_BYTES;
use crate::frame::{Copied, Encoded, FrameKind, Frames, Hold};
use crate::id::Sequence;

/// The unsent bytes of a conn.
#[derive(Debug, Default)]
pub struct Outbox(Option<Box<Pending>>);

#[derive(Debug, Default)]
struct Pending {
    rest: Option<Rest>,
    control: Vec<u8>,
    /// The number of bytes of `control` that have been written; at most the length of `control`.
    control_written: usize,
    answer: Option<Answer>,
}

/// A partly written frame.
#[derive(Debug)]
struct Rest {
    frame: Held,
    /// The number of bytes of the frame that have been written; less than the frame's length.
    written: usize,
}

/// The publications of a poll's answer.
#[derive(Debug)]
struct Answer {
    /// The frames that are not completely written, in order. A new answer has at least one frame.
    frames: VecDeque<Held>,
    /// The bytes to send after the last frame.
    tail: &'static [u8],
    /// The number of bytes of the first frame to skip, because they are already written. The
    /// separator before the first publication of an answer is also skipped. If no frame is left,
    /// `offset` is the number of written bytes of `tail`.
    offset: usize,
}

/// A publication's frame, held in memory until it is written.
#[derive(Debug)]
struct Held {
    sequence: Sequence,
    bytes: Bytes,
}

#[derive(Debug)]
enum Bytes {
    /// A frame of an answer, until the end of the turn in which the answer was appended. Most
    /// frames are written in that turn, so such a frame does not count as memory that the conn
    /// keeps in use.
    Given(Arc<Frames>, FrameKind),
    Shared(Hold, FrameKind),
    /// A copy of the frame's unwritten rest.
    Copied(Copied),
}

/// The result of [`Outbox::drain`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Drained {
    /// The number of bytes of the same write that came after the outbox's bytes.
    pub left: usize,
    /// The number of publications whose last byte was written by this write.
    pub delivered: u64,
}

impl Outbox {
    /// Whether the outbox has no bytes to write.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Returns the number of unwritten control bytes.
    #[must_use]
    pub fn control_bytes(&self) -> usize {
        self.0
            .as_ref()
            .map_or(0, |pending| pending.control.len() - pending.control_written)
    }

    /// Whether the outbox has an answer that is not completely written.
    #[must_use]
    pub fn has_answer(&self) -> bool {
        self.0
            .as_ref()
            .is_some_and(|pending| pending.answer.is_some())
    }

    /// Appends complete control messages.
    pub fn append(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let pending = self.0.get_or_insert_default();
        debug_assert!(pending.answer.is_none(), "an answer is the last thing");
        // Written bytes are removed when they fill at least half of the queue, because the queue
        // may never become empty. Removing them moves the unwritten bytes, so with this limit each
        // byte is moved at most once on average.
        if pending.control_written * 2 >= pending.control.len() {
            pending.control.drain(..pending.control_written);
            pending.control_written = 0;
        }
        pending.control.extend_from_slice(bytes);
    }

    /// Appends the publications of a poll's answer as one list, and then the end of the list. The
    /// first publication is written without its separator. The publications count as memory that
    /// the conn keeps in use only after a call of [`Self::hold`].
    pub fn append_answer(&mut self, publications: Vec<Encoded>, tail: &'static [u8]) {
        let pending = self.0.get_or_insert_default();
        debug_assert!(pending.answer.is_none());
        debug_assert!(!publications.is_empty());
        let frames = publications.into_iter();
        pending.answer = Some(Answer {
            frames: frames.map(Held::given).collect(),
            tail,
            offset: SEPARATOR_BYTES,
        });
    }

    /// Counts the unwritten frames of an answer as memory that the conn keeps in use.
    pub fn hold(&mut self) {
        let answer = self
            .0
            .iter_mut()
            .filter_map(|pending| pending.answer.as_mut());
        answer
            .flat_map(|answer| &mut answer.frames)
            .for_each(Held::hold);
    }

    /// Stores the rest of a frame. The socket has accepted only the first `written` bytes of the
    /// frame.
    pub fn keep_rest(&mut self, publication: Encoded, written: usize) {
        let pending = self.0.get_or_insert_default();
        debug_assert!(pending.rest.is_none());
        pending.rest = Some(Rest {
            frame: Held::new(publication),
            written,
        });
    }

    /// Returns the sequence number of the oldest publication that the outbox holds.
    #[must_use]
    pub fn oldest_held(&self) -> Option<Sequence> {
        self.held().map(|held| held.sequence).min()
    }

    /// Whether the outbox holds a publication that the log has evicted.
    #[must_use]
    pub fn pins(&self) -> bool {
        self.held().any(Held::is_pinned)
    }

    /// Copies the unwritten rest of each evicted frame and releases the frame, if the rest is
    /// small. A rest is small if it has at most half of this conn's share of the memory. The share
    /// is the memory of the publication's encodings, divided by the number of conns that hold them.
    /// If all these conns copy their rests, at least half of the memory is freed.
    pub fn copy_rests(&mut self) {
        let Some(pending) = &mut self.0 else { return };
        if let Some(rest) = &mut pending.rest {
            rest.frame.copy(&mut rest.written);
        }
        if let Some(answer) = &mut pending.answer {
            let mut frames = answer.frames.iter_mut();
            if let Some(first) = frames.next() {
                first.copy(&mut answer.offset);
            }
            frames.for_each(|frame| frame.copy(&mut 0));
        }
    }

    /// Returns the addresses and sizes of the evicted publications that the outbox holds. Only
    /// tests call this function.
    #[doc(hidden)]
    pub fn pinned(&self) -> impl Iterator<Item = (usize, u64)> {
        let pinned = self.held().filter(|held| held.is_pinned());
        pinned.map(|held| match &held.bytes {
            Bytes::Copied(copied) => {
                let bytes = copied.bytes();
                (bytes.as_ptr().addr(), bytes.len() as u64)
            }
            Bytes::Given(frames, _) => address_and_bytes(frames),
            Bytes::Shared(frames, _) => address_and_bytes(frames),
        })
    }

    fn held(&self) -> impl Iterator<Item = &Held> {
        self.0.iter().flat_map(|pending| {
            let rest = pending.rest.iter().map(|rest| &rest.frame);
            let answer = pending.answer.iter();
            rest.chain(answer.flat_map(|answer| &answer.frames))
        })
    }

    /// Returns the bytes to write, in order: the rest of a frame, then control bytes, then an
    /// answer. No slice is empty.
    pub fn slices(&self) -> impl Iterator<Item = &[u8]> {
        let pending = self.0.iter();
        let slices = pending.flat_map(|pending| {
            let rest = pending.rest.iter().map(Rest::bytes);
            let control = pending.control.get(pending.control_written..);
            let answer = pending.answer.iter().flat_map(Answer::slices);
            rest.chain(control).chain(answer)
        });
        slices.filter(|slice| !slice.is_empty())
    }

    /// Returns the number of unwritten bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.slices().map(<[u8]>::len).sum()
    }

    /// Removes `written` bytes, or all bytes if the outbox has fewer bytes.
    pub fn drain(&mut self, written: usize) -> Drained {
        let mut drained = Drained {
            left: written,
            delivered: 0,
        };
        let is_done = self
            .0
            .as_mut()
            .is_none_or(|pending| pending.drain(&mut drained));
        if is_done {
            self.0 = None;
        }
        drained
    }
}

impl Pending {
    /// Removes written bytes. Returns true if no unwritten bytes are left.
    fn drain(&mut self, drained: &mut Drained) -> bool {
        if let Some(rest) = &mut self.rest {
            let length = rest.bytes().len();
            if drained.left < length {
                rest.written += std::mem::take(&mut drained.left);
                return false;
            }
            drained.left -= length;
            drained.delivered += 1;
            self.rest = None;
        }
        let control = self.control.len() - self.control_written;
        let taken = control.min(drained.left);
        self.control_written += taken;
        drained.left -= taken;
        taken == control
            && self
                .answer
                .as_mut()
                .is_none_or(|answer| answer.drain(drained))
    }
}

impl Rest {
    fn bytes(&self) -> &[u8] {
        certain::skip(self.frame.bytes(), self.written)
    }
}

impl Answer {
    fn slices(&self) -> impl Iterator<Item = &[u8]> {
        let frames = self.frames.iter().map(Held::bytes);
        let mut offset = self.offset;
        let pieces = frames.chain(std::iter::once(self.tail));
        pieces.map(move |piece| {
            let done = std::mem::take(&mut offset);
            certain::skip(piece, done)
        })
    }

    /// Removes written bytes. Returns true if all bytes of `tail` have been written.
    fn drain(&mut self, drained: &mut Drained) -> bool {
        while let Some(frame) = self.frames.front() {
            let left = certain::skip(frame.bytes(), self.offset).len();
            if drained.left < left {
                self.offset += std::mem::take(&mut drained.left);
                return false;
            }
            drained.left -= left;
            drained.delivered += 1;
            self.offset = 0;
            self.frames.pop_front();
        }
        let taken = drained.left.min(self.tail.len() - self.offset);
        self.offset += taken;
        drained.left -= taken;
        self.offset == self.tail.len()
    }
}

impl Held {
    fn new(publication: Encoded) -> Self {
        Self {
            sequence: publication.id.sequence,
            bytes: Bytes::Shared(Hold::new(publication.frames), publication.kind),
        }
    }

    fn given(publication: Encoded) -> Self {
        Self {
            sequence: publication.id.sequence,
            bytes: Bytes::Given(publication.frames, publication.kind),
        }
    }

    fn hold(&mut self) {
        if let Bytes::Given(frames, kind) = &self.bytes {
            self.bytes = Bytes::Shared(Hold::new(Arc::clone(frames)), *kind);
        }
    }

    fn bytes(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Given(frames, kind) => frames.wire(*kind),
            Bytes::Shared(frames, kind) => frames.wire(*kind),
            Bytes::Copied(copied) => copied.bytes(),
        }
    }

    fn is_pinned(&self) -> bool {
        match &self.bytes {
            Bytes::Given(frames, _) => !frames.is_logged(),
            Bytes::Shared(frames, _) => !frames.is_logged(),
            Bytes::Copied(_) => true,
        }
    }

    /// Replaces the frame by a copy of its unwritten rest, if the copy frees memory. `done` is the
    /// number of written bytes of the frame. After a copy, `done` is zero.
    fn copy(&mut self, done: &mut usize) {
        if let Bytes::Shared(frames, kind) = &self.bytes
            && !frames.is_logged()
        {
            let rest = certain::skip(frames.wire(*kind), *done);
            if rest.len() as u64 <= frames.share() / 2 {
                self.bytes = Bytes::Copied(Copied::of(frames, rest));
                *done = 0;
            }
        }
    }
}

fn address_and_bytes(frames: &Arc<Frames>) -> (usize, u64) {
    (Arc::as_ptr(frames).addr(), frames.bytes_held())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::frame::{Compressor, Envelope, Ledger, Payload, Publication};
    use crate::id::{ChannelName, Cursor, Epoch};
    use crate::time::Now;

    const KIND: FrameKind = FrameKind::WebSocket(Envelope::Data);

    /// Encodes a publication that is not in the log.
    fn encoded(payload: Payload, kind: FrameKind) -> Encoded {
        logged(payload, kind, &Arc::default()).1
    }

    /// Encodes a publication. As long as the returned publication exists, the encoding counts as
    /// part of the log.
    fn logged(payload: Payload, kind: FrameKind, ledger: &Arc<Ledger>) -> (Publication, Encoded) {
        let id = Cursor {
            epoch: Epoch::new(1),
            sequence: Sequence(1),
        };
        let channel = ChannelName::new("c").unwrap();
        let publication = Publication::new(id, channel, payload, Now(0), ledger);
        let frames = publication.frames();
        let frame = frames.encode(&publication, kind, &mut Compressor::default());
        assert!(frame.is_some());
        (publication, Encoded { id, kind, frames })
    }

    fn publication() -> Encoded {
        encoded(Payload::Text("abc".into()), KIND)
    }

    fn concat(outbox: &Outbox) -> Vec<u8> {
        let slices: Vec<&[u8]> = outbox.slices().collect();
        assert!(slices.iter().all(|slice| !slice.is_empty()));
        assert_eq!(outbox.bytes(), slices.concat().len());
        slices.concat()
    }

    #[test]
    fn rest_of_a_frame_precedes_control_bytes_at_every_cut() {
        let whole = b"abcPING".to_vec();
        for cut in 0..=whole.len() {
            let mut outbox = Outbox::default();
            outbox.append(b"PING");
            outbox.keep_rest(publication(), 2);
            assert_eq!(concat(&outbox), whole);
            let drained = outbox.drain(cut);
            assert_eq!(
                drained,
                Drained {
                    left: 0,
                    delivered: u64::from(cut >= 3)
                }
            );
            assert_eq!(concat(&outbox), whole[cut..]);
            assert_eq!(outbox.is_empty(), cut == whole.len());
        }
    }

    #[test]
    fn answer_is_sent_whole_and_its_publications_are_counted_at_every_pair_of_cuts() {
        let kind = FrameKind::Poll(Envelope::Data);
        let texts = ["1", "[22]", "3"];
        let whole = b"HEAD[1,[22],3]}".to_vec();
        let ends = [6, 11, 13];
        for first in 0..=whole.len() {
            for second in first..=whole.len() {
                let publications = texts.map(|text| encoded(Payload::Json(text.into()), kind));
                let mut outbox = Outbox::default();
                outbox.append(b"HEAD[");
                outbox.append_answer(publications.to_vec(), b"]}");
                assert_eq!(concat(&outbox), whole);
                let mut delivered = 0;
                for (from, to) in [(0, first), (first, second)] {
                    let drained = outbox.drain(to - from);
                    assert_eq!(drained.left, 0);
                    delivered += drained.delivered;
                    assert_eq!(concat(&outbox), whole[to..]);
                    assert_eq!(outbox.is_empty(), to == whole.len());
                    let expected = ends.iter().filter(|end| to >= **end).count();
                    assert_eq!(delivered, expected as u64, "{to}");
                    assert_eq!(outbox.has_answer(), to < whole.len());
                }
            }
        }
    }

    fn long() -> Payload {
        Payload::Text("x".repeat(998).into())
    }

    /// Returns an evicted frame of 1,002 bytes, and the memory that the frame occupies.
    fn pinned(ledger: &Arc<Ledger>) -> (Encoded, u64) {
        let (_, publication) = logged(long(), KIND, ledger);
        let bytes = publication.frames.bytes_held();
        (publication, bytes)
    }

    #[test]
    fn small_rest_of_an_evicted_frame_is_copied() {
        let ledger = Arc::new(Ledger::default());
        let (in_log, publication) = logged(long(), KIND, &ledger);
        let bytes = publication.frames.bytes_held();
        let mut outbox = Outbox::default();
        outbox.append(b"PING");
        outbox.keep_rest(publication, 992);
        assert_eq!(outbox.oldest_held(), Some(Sequence(1)));
        outbox.copy_rests();
        assert!(!outbox.pins(), "the log has it");
        assert_eq!((ledger.logged(), ledger.pinned()), (bytes, 0));
        drop(in_log);
        assert_eq!(ledger.pinned(), bytes);
        for _ in 0..2 {
            outbox.copy_rests();
            assert!(outbox.pins(), "a copy counts too");
            assert_eq!((ledger.resident(), ledger.pinned()), (10, 10));
            assert_eq!(outbox.oldest_held(), Some(Sequence(1)));
            assert_eq!(concat(&outbox), b"xxxxxxxxxxPING");
        }
        assert_eq!(outbox.drain(3).delivered, 0);
        assert_eq!(concat(&outbox), b"xxxxxxxPING");
        assert_eq!(outbox.drain(7).delivered, 1);
        assert_eq!(ledger.resident(), 0);
        assert_eq!(outbox.oldest_held(), None);
        assert_eq!(concat(&outbox), b"PING");
    }

    #[test]
    fn rest_is_copied_up_to_half_of_the_conns_share_in_the_encodings() {
        for holders in 1..=3 {
            for excess in [0, 1] {
                let (publication, bytes) = pinned(&Arc::default());
                let mut others = Vec::new();
                others.resize_with(holders - 1, || Hold::new(Arc::clone(&publication.frames)));
                let rest = usize::try_from(bytes).unwrap() / holders / 2 + excess;
                let frames = Arc::downgrade(&publication.frames);
                let mut outbox = Outbox::default();
                outbox.keep_rest(publication, 1_002 - rest);
                outbox.copy_rests();
                let is_copied = frames.strong_count() == others.len();
                assert_eq!(is_copied, excess == 0, "{holders} holders");
                assert_eq!(outbox.bytes(), rest);
            }
        }
    }

    #[test]
    fn answer_is_copied_frame_by_frame_and_releases_written_frames() {
        let ledger = Arc::new(Ledger::default());
        let (first, bytes) = pinned(&ledger);
        let (second, _) = pinned(&ledger);
        let (in_log, third) = logged(long(), KIND, &ledger);
        let mut outbox = Outbox::default();
        outbox.append_answer(vec![first, second, third], b"]}");
        let whole = concat(&outbox);
        // The three frames have 1,002 bytes each. The first is sent without its separator, a comma.
        assert_eq!(outbox.drain(991).left, 0);
        assert_eq!(ledger.pinned(), 0, "most answers are written in their turn");
        outbox.hold();
        assert_eq!(ledger.pinned(), 2 * bytes);
        outbox.copy_rests();
        assert_eq!(concat(&outbox), whole[991..]);
        assert_eq!(ledger.pinned(), 10 + bytes, "the second is too long");
        assert_eq!(outbox.drain(11).delivered, 1);
        assert_eq!(ledger.pinned(), bytes);
        assert_eq!(outbox.drain(1_001).delivered, 1);
        assert_eq!((ledger.pinned(), outbox.pins()), (0, false));
        drop(in_log);
        assert!(outbox.pins());
        assert_eq!(concat(&outbox), whole[2_003..]);
        drop(outbox);
        assert_eq!(ledger.resident(), 0);
    }

    #[test]
    fn bytes_after_an_answer_are_returned() {
        let kind = FrameKind::Poll(Envelope::Full);
        let mut outbox = Outbox::default();
        outbox.append(b"HEAD");
        outbox.append_answer(vec![encoded(Payload::Json("1".into()), kind)], b"]}");
        let length = outbox.bytes();
        let drained = outbox.drain(length + 9);
        assert_eq!((drained.left, drained.delivered), (9, 1));
        assert!(outbox.is_empty());
    }

    #[test]
    fn bytes_after_control_bytes_are_returned() {
        let mut outbox = Outbox::default();
        outbox.append(b"xy");
        assert_eq!(
            outbox.drain(5),
            Drained {
                left: 3,
                delivered: 0
            }
        );
        assert_eq!(
            outbox.drain(4),
            Drained {
                left: 4,
                delivered: 0
            }
        );
    }

    #[test]
    fn queue_that_is_never_empty_keeps_only_unwritten_bytes() {
        let mut outbox = Outbox::default();
        outbox.append(b"0123456789");
        for _ in 0..1000 {
            outbox.append(b"0123456789");
            assert_eq!(outbox.drain(10).left, 0);
            assert_eq!(concat(&outbox), b"0123456789");
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
