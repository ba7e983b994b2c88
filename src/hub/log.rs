//! The log: a ring of recent publications in sequence order, through which each channel threads its
//! own.
//!
//! Bounded in bytes, entries and age by its caller, the hub. An entry knows the entries of its
//! channel before and after it and the channel's totals up to it, so that "how far behind" is a
//! subtraction and "what comes next" a look-up. Holds references to publications, never copies.

use std::collections::VecDeque;
use std::sync::Arc;

use super::channel::ChannelIndex;
use crate::frame::{Encoder, FrameKind, Publication};
use crate::id::Sequence;

/// A publication's place in the log.
#[derive(Debug)]
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
}

/// Recent publications, without holes.
#[derive(Debug)]
pub struct Log {
    entries: VecDeque<Entry>,
    /// The sequence number of the first entry; of the next one when there is none.
    first: Sequence,
    /// Bytes held by the entries and the frames used from here.
    bytes: u64,
}

impl Log {
    /// An empty log whose first entry will follow `head`.
    #[must_use]
    pub fn new(head: Sequence) -> Self {
        Self {
            entries: VecDeque::new(),
            first: head.next(),
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
        self.entries.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The oldest entry.
    #[must_use]
    pub fn oldest(&self) -> Option<&Entry> {
        self.entries.front()
    }

    /// The sequence number that the next entry must have.
    #[must_use]
    pub fn expected(&self) -> Sequence {
        Sequence(self.first.0.saturating_add(self.entries.len() as u64))
    }

    /// The entry with this number, if the log has it.
    #[must_use]
    pub fn get(&self, sequence: Sequence) -> Option<&Entry> {
        self.entries.get(self.index(sequence)?)
    }

    /// Appends an entry behind the channel's `previous` one.
    pub fn push(&mut self, publication: Arc<Publication>, thread: Thread) {
        let sequence = publication.id.sequence;
        debug_assert_eq!(sequence, self.expected());
        if let Some(index) = self.index(thread.previous)
            && let Some(previous) = self.entries.get_mut(index)
        {
            previous.next = sequence;
        }
        self.bytes += publication.bytes_held() + size_of::<Entry>() as u64;
        self.entries.push_back(Entry {
            publication,
            bytes_before: thread.bytes_before,
            ordinal: thread.ordinal,
            previous: thread.previous,
            next: Sequence::ZERO,
            channel: thread.channel,
            charged: 0,
        });
    }

    /// Takes the oldest entry out.
    pub fn evict(&mut self) -> Option<Entry> {
        let entry = self.entries.pop_front()?;
        self.first = self.first.next();
        let frames: u64 = (0..FrameKind::CELLS)
            .filter(|cell| entry.charged & (1 << cell) != 0)
            .filter_map(|cell| entry.publication.encoded(cell))
            .sum();
        let held = entry.publication.bytes_held() + size_of::<Entry>() as u64 + frames;
        self.bytes = self.bytes.saturating_sub(held);
        if self.entries.capacity() > 1024 && self.entries.len() * 4 < self.entries.capacity() {
            self.entries.shrink_to(self.entries.len() * 2);
        }
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
        let index = self.index(sequence)?;
        let entry = self.entries.get_mut(index)?;
        let frame = entry.publication.encode(kind, encoder)?;
        let bit = 1 << entry.publication.holder(kind)?;
        if entry.charged & bit == 0 {
            entry.charged |= bit;
            self.bytes += frame.bytes_held();
        }
        Some(frame.wire(kind).len())
    }

    fn index(&self, sequence: Sequence) -> Option<usize> {
        usize::try_from(sequence.0.checked_sub(self.first.0)?).ok()
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
