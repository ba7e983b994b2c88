//! The log: a ring of recent publications in sequence order, through which each channel threads its
//! own.
//!
//! Bounded in bytes, entries and age by its caller, the hub, which takes entries out at the tail or
//! in the middle; the numbers of those cost a bit each until the tail passes them. An entry knows
//! the entries of its channel before and after it and the channel's totals up to it, so that "how
//! far behind" is a subtraction and "what comes next" a look-up. Holds references to publications,
//! never copies.

use std::collections::VecDeque;
use std::sync::Arc;

use super::channel::ChannelIndex;
use super::segment::{SEGMENT_NUMBERS, Segment};
use crate::frame::{Encoder, FrameKind, Publication};
use crate::id::Sequence;

/// A publication's place in the log.
#[derive(Clone, Debug)]
pub struct Entry {
    /// What was published.
    pub publication: Arc<Publication>,
    /// Payload bytes of the channel's publications before this one.
    pub bytes_before: u64,
    /// Number of the channel's publications before this one.
    pub ordinal: u64,
    /// The channel's entry before this one, which may have left the log. Zero for its first.
    pub previous: Sequence,
    /// The channel's entry after this one. Zero for its last.
    pub next: Sequence,
    /// Where it was published.
    pub channel: ChannelIndex,
    /// A bit for each [`FrameKind::cell`] whose bytes are part of [`Log::bytes`].
    pub charged: u8,
    /// Whether a later entry of its channel has the same key. Only where the channel conflates.
    pub is_superseded: bool,
}

/// Recent publications in sequence order.
#[derive(Clone, Debug)]
pub struct Log {
    /// Neighbours without holes. The one in front has an entry.
    segments: VecDeque<Segment>,
    /// The segment in front, counted from sequence number zero.
    first_segment: u64,
    /// The number of the next entry.
    expected: Sequence,
    entries: usize,
    /// Bytes held by the entries and the frames used from here.
    bytes: u64,
}

impl Log {
    /// An empty log whose first entry will follow `head`.
    #[must_use]
    pub fn new(head: Sequence) -> Self {
        Self {
            segments: VecDeque::new(),
            first_segment: 0,
            expected: head.next(),
            entries: 0,
            bytes: 0,
        }
    }

    /// Bytes held.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How many entries there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// The oldest entry.
    #[must_use]
    pub fn oldest(&self) -> Option<&Entry> {
        let segment = self.segments.front()?;
        segment.get(segment.first()?)
    }

    /// The oldest entry with this number or a later one.
    #[must_use]
    pub fn oldest_from(&self, sequence: Sequence) -> Option<&Entry> {
        let (index, number) = match self.place(sequence) {
            Some(place) => place,
            None if sequence < self.expected => (0, 0),
            None => return None,
        };
        let mut segments = self.segments.iter().skip(index);
        let here = segments.next()?;
        match here.first_from(number) {
            Some(number) => here.get(number),
            None => segments.find_map(|segment| segment.get(segment.first()?)),
        }
    }

    /// The sequence number that the next entry must have.
    #[must_use]
    pub fn expected(&self) -> Sequence {
        self.expected
    }

    /// The entry with this number, if the log has it.
    #[must_use]
    pub fn get(&self, sequence: Sequence) -> Option<&Entry> {
        let (index, number) = self.place(sequence)?;
        self.segments.get(index)?.get(number)
    }

    fn get_mut(&mut self, sequence: Sequence) -> Option<&mut Entry> {
        let (index, number) = self.place(sequence)?;
        self.segments.get_mut(index)?.get_mut(number)
    }

    /// Appends an entry behind the channel's `previous` one.
    pub fn push(&mut self, publication: Arc<Publication>, thread: Thread) {
        let sequence = publication.id.sequence;
        debug_assert_eq!(sequence, self.expected());
        if let Some(previous) = self.get_mut(thread.previous) {
            previous.next = sequence;
        }
        self.expected = sequence.next();
        self.entries += 1;
        self.bytes += publication.bytes_held();
        let entry = Entry {
            publication,
            bytes_before: thread.bytes_before,
            ordinal: thread.ordinal,
            previous: thread.previous,
            next: Sequence::ZERO,
            channel: thread.channel,
            charged: 0,
            is_superseded: false,
        };
        if let Some(segment) = self.segment_for(sequence.0 / SEGMENT_NUMBERS) {
            segment.push(sequence.0 % SEGMENT_NUMBERS, entry);
        }
    }

    /// Marks an entry as superseded by a later one.
    pub(super) fn supersede(&mut self, sequence: Sequence) {
        if let Some(entry) = self.get_mut(sequence) {
            entry.is_superseded = true;
        }
    }

    /// Takes an entry out, wherever it is.
    pub fn remove(&mut self, sequence: Sequence) -> Option<Entry> {
        let (index, number) = self.place(sequence)?;
        let is_filling = index + 1 == self.segments.len();
        let segment = self.segments.get_mut(index)?;
        let entry = segment.remove(number)?;
        // The newest one is about to get more.
        if !is_filling {
            let before = segment.bytes_held();
            segment.shrink();
            self.bytes -= before - segment.bytes_held();
        }
        self.entries -= 1;
        let frames: u64 = (0..FrameKind::CELLS)
            .filter(|cell| entry.charged & (1 << cell) != 0)
            .filter_map(|cell| entry.publication.encoded(cell))
            .sum();
        let held = entry.publication.bytes_held() + frames;
        self.bytes = self.bytes.saturating_sub(held);
        self.drop_empty_segments();
        Some(entry)
    }

    /// The length of an entry's frame for a kind of conn, encoded now if nobody has needed it yet.
    /// Its bytes count for the log's bound from the first use on.
    pub fn charge(
        &mut self,
        sequence: Sequence,
        kind: FrameKind,
        encoder: &mut Encoder,
    ) -> Option<usize> {
        let entry = self.get_mut(sequence)?;
        let frame = entry.publication.encode(kind, encoder)?;
        let bit = 1 << entry.publication.holder(kind)?;
        let length = frame.wire(kind).len();
        if entry.charged & bit == 0 {
            let held = frame.bytes_held();
            entry.charged |= bit;
            self.bytes += held;
        }
        Some(length)
    }

    /// The segment with this count, which is the newest or the next.
    fn segment_for(&mut self, count: u64) -> Option<&mut Segment> {
        if self.segments.is_empty() {
            self.first_segment = count;
        }
        if self.first_segment + self.segments.len() as u64 <= count {
            // What was taken out of the one before while it was filled is given back now.
            if let Some(full) = self.segments.back_mut() {
                let before = full.bytes_held();
                full.shrink();
                self.bytes -= before - full.bytes_held();
            }
            let fresh = Segment::new();
            self.bytes += fresh.bytes_held();
            self.segments.push_back(fresh);
        }
        self.segments.back_mut()
    }

    /// Lets go of the oldest segments that have no entry left.
    fn drop_empty_segments(&mut self) {
        while let Some(segment) = self.segments.pop_front_if(|segment| segment.is_empty()) {
            self.first_segment += 1;
            self.bytes = self.bytes.saturating_sub(segment.bytes_held());
        }
        let room = self.segments.capacity();
        if room > 64 && self.segments.len() * 4 < room {
            self.segments.shrink_to(self.segments.len() * 2);
        }
    }

    /// Index of the segment and number in it.
    fn place(&self, sequence: Sequence) -> Option<(usize, u64)> {
        let segment = (sequence.0 / SEGMENT_NUMBERS).checked_sub(self.first_segment)?;
        let index = usize::try_from(segment).ok()?;
        (index < self.segments.len()).then_some((index, sequence.0 % SEGMENT_NUMBERS))
    }
}

/// How an entry hangs in its channel.
#[derive(Clone, Copy, Debug)]
pub struct Thread {
    /// Payload bytes before it.
    pub bytes_before: u64,
    /// Publications before it.
    pub ordinal: u64,
    /// The channel's entry before it, or zero.
    pub previous: Sequence,
    /// The channel.
    pub channel: ChannelIndex,
}

// Each cell has its bit in [`Entry::charged`].
const _: () = assert!(FrameKind::CELLS <= 8);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::frame::Payload;
    use crate::id::{ChannelName, Cursor, Epoch};
    use crate::time::Now;

    fn push(log: &mut Log) -> Sequence {
        let sequence = log.expected();
        let id = Cursor {
            epoch: Epoch::new(1),
            sequence,
        };
        let name = ChannelName::new("c").unwrap();
        let payload = Payload::Text("x".into());
        let thread = Thread {
            bytes_before: 0,
            ordinal: 0,
            previous: Sequence::ZERO,
            channel: ChannelIndex(0),
        };
        let publication = Publication::new(id, name, payload, Now(0));
        log.push(Arc::new(publication), thread);
        sequence
    }

    fn sequence(entry: Option<&Entry>) -> Option<u64> {
        entry.map(|entry| entry.publication.id.sequence.0)
    }

    #[test]
    fn entry_taken_out_of_the_middle_costs_a_bit_until_the_tail_passes() {
        let mut log = Log::new(Sequence(7));
        let oldest = push(&mut log);
        let of_one = log.bytes();
        let middle: Vec<_> = (0..100_000).map(|_| push(&mut log)).collect();
        let full = log.bytes();
        for taken in middle {
            assert!(log.remove(taken).is_some());
            assert!(log.remove(taken).is_none());
        }
        assert_eq!(log.len(), 1);
        let rest = log.bytes() - of_one;
        assert!(rest < 100_000, "{rest} of {full} bytes");
        assert_eq!(sequence(log.oldest()), Some(oldest.0));
        log.remove(oldest);
        assert_eq!((log.len(), log.bytes()), (0, 0));
        assert_eq!(sequence(log.oldest()), None);
        assert_eq!(push(&mut log), Sequence(100_009));
    }

    proptest! {
        #[test]
        fn log_agrees_with_a_list(
            head in 0u64..200,
            acts in proptest::collection::vec((0u8..5, any::<prop::sample::Index>()), 1..600)
        ) {
            let mut log = Log::new(Sequence(head));
            let mut list: Vec<u64> = Vec::new();
            let mut expected = head + 1;
            for (act, index) in acts {
                match act {
                    0..=2 => {
                        prop_assert_eq!(push(&mut log), Sequence(expected));
                        list.push(expected);
                        expected += 1;
                    }
                    3 if !list.is_empty() => {
                        let at = index.index(list.len());
                        prop_assert!(log.remove(Sequence(list.remove(at))).is_some());
                    }
                    _ => if let Some(first) = list.first().copied() {
                        prop_assert!(log.remove(Sequence(first)).is_some());
                        list.remove(0);
                    },
                }
                prop_assert_eq!(log.len(), list.len());
                prop_assert_eq!(log.is_empty(), log.bytes() == 0);
                prop_assert_eq!(sequence(log.oldest()), list.first().copied());
                let at = Sequence(index.index(expected as usize + 70) as u64);
                let found = list.iter().find(|sequence| **sequence == at.0);
                prop_assert_eq!(sequence(log.get(at)), found.copied());
                let later = list.iter().find(|sequence| **sequence >= at.0);
                prop_assert_eq!(sequence(log.oldest_from(at)), later.copied());
            }
        }
    }
}
