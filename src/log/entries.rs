//! The entries of one channel. A single entry is stored inline, and several entries are stored in a
//! deque.
//!
//! Most channels of a large log have one entry. Storing this entry inline avoids an allocation and
//! a cache miss.

use std::collections::VecDeque;

use super::Entry;

/// A deque with at most this capacity is not shrunk.
const ROOM_KEPT: usize = 16;

/// The entries of one channel, oldest first.
#[derive(Debug)]
pub(super) enum Entries {
    /// At most one entry.
    One(Option<Entry>),
    /// Any number of entries. The deque is kept when its entries are removed one by one. So a
    /// channel whose number of entries alternates between one and two does not allocate for each
    /// publication.
    #[expect(
        clippy::box_collection,
        reason = "the enum keeps the size of one entry"
    )]
    Many(Box<VecDeque<Entry>>),
}

const _: () = assert!(size_of::<Entries>() == size_of::<Entry>());

impl Entries {
    pub(super) const NONE: Self = Self::One(None);

    /// An empty list with room for this many entries.
    pub(super) fn with_room_for(count: usize) -> Self {
        match count {
            0 | 1 => Self::NONE,
            more => Self::Many(Box::new(VecDeque::with_capacity(more))),
        }
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::One(one) => usize::from(one.is_some()),
            Self::Many(many) => many.len(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn front(&self) -> Option<&Entry> {
        self.get(0)
    }

    pub(super) fn back(&self) -> Option<&Entry> {
        match self {
            Self::One(one) => one.as_ref(),
            Self::Many(many) => many.back(),
        }
    }

    pub(super) fn get(&self, index: usize) -> Option<&Entry> {
        match self {
            Self::One(one) => one.as_ref().filter(|_| index == 0),
            Self::Many(many) => many.get(index),
        }
    }

    pub(super) fn get_mut(&mut self, index: usize) -> Option<&mut Entry> {
        match self {
            Self::One(one) => one.as_mut().filter(|_| index == 0),
            Self::Many(many) => many.get_mut(index),
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.iter_from(0)
    }

    /// Returns the entries from an index on, or no entries if the index is beyond the end.
    pub(super) fn iter_from(&self, index: usize) -> impl Iterator<Item = &Entry> {
        let (front, back) = self.as_slices();
        let in_back = index.saturating_sub(front.len());
        let front = front.get(index..).unwrap_or_default();
        front.iter().chain(back.get(in_back..).unwrap_or_default())
    }

    /// Returns the index of the first entry for which `is_before` is false. `is_before` must be
    /// true for all entries before that index and false for all others.
    pub(super) fn partition_point(&self, is_before: impl FnMut(&Entry) -> bool) -> usize {
        match self {
            Self::One(one) => usize::from(one.as_ref().is_some_and(is_before)),
            Self::Many(many) => many.partition_point(is_before),
        }
    }

    pub(super) fn push_back(&mut self, entry: Entry) {
        match self {
            Self::One(one @ None) => *one = Some(entry),
            Self::One(one) => {
                let both = one.take().into_iter().chain([entry]);
                *self = Self::Many(Box::new(both.collect()));
            }
            Self::Many(many) => many.push_back(entry),
        }
    }

    /// Removes the oldest entry, and frees unused capacity.
    pub(super) fn pop_front(&mut self) -> Option<Entry> {
        let many = match self {
            Self::One(one) => return one.take(),
            Self::Many(many) => many,
        };
        let entry = many.pop_front();
        let (room, len) = (many.capacity(), many.len());
        if room > ROOM_KEPT && len * 4 < room {
            many.shrink_to(len * 2);
        }
        entry
    }

    /// Removes and returns the entries from an index on.
    pub(super) fn split_off(&mut self, index: usize) -> VecDeque<Entry> {
        match self {
            Self::One(one) if index == 0 => one.take().into_iter().collect(),
            Self::One(_) => VecDeque::new(),
            Self::Many(many) => many.split_off(index.min(many.len())),
        }
    }

    /// Removes and returns all entries, and frees the deque.
    pub(super) fn take_all(&mut self) -> VecDeque<Entry> {
        match std::mem::replace(self, Self::NONE) {
            Self::One(one) => one.into_iter().collect(),
            Self::Many(many) => *many,
        }
    }

    /// Returns the number of bytes of memory held outside of `self`.
    pub(super) fn bytes_held(&self) -> u64 {
        match self {
            Self::One(_) => 0,
            Self::Many(many) => {
                let room = many.capacity() * size_of::<Entry>();
                (size_of::<VecDeque<Entry>>() + room) as u64
            }
        }
    }

    fn as_slices(&self) -> (&[Entry], &[Entry]) {
        match self {
            Self::One(one) => (one.as_slice(), &[]),
            Self::Many(many) => many.as_slices(),
        }
    }
}
