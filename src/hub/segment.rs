//! Up to sixty-four neighbouring numbers of the log and the entries that are left of them.
//!
//! A channel's bounds take entries out of the middle of the log. What stays of such an entry is one
//! bit that is not set; the others close ranks, so that a segment with few entries left holds few
//! bytes. Looking one up is counting bits. Knows numbers within the segment only; [`super::log`]
//! is its only user.

use std::collections::VecDeque;

use super::log::Entry;

/// Numbers of one segment: the bits of its mask.
pub(super) const SEGMENT_NUMBERS: u64 = 64;

/// The entries of so many neighbouring numbers.
#[derive(Debug)]
pub(super) struct Segment {
    /// A bit for each number whose entry is here.
    present: u64,
    /// In the order of their numbers, without holes.
    entries: VecDeque<Entry>,
}

const _: () = assert!(size_of::<Segment>() <= 40);

impl Clone for Segment {
    /// A clone has the same room: the bytes of the log's copy are those of the log.
    fn clone(&self) -> Self {
        let mut entries = VecDeque::with_capacity(self.entries.capacity());
        entries.extend(self.entries.iter().cloned());
        Self {
            present: self.present,
            entries,
        }
    }
}

impl Segment {
    pub(super) fn new() -> Self {
        Self {
            present: 0,
            entries: VecDeque::with_capacity(u64::BITS as usize),
        }
    }

    /// Bytes of memory held, without what the entries refer to.
    pub(super) fn bytes_held(&self) -> u64 {
        (size_of::<Self>() + self.entries.capacity() * size_of::<Entry>()) as u64
    }

    pub(super) fn is_empty(&self) -> bool {
        self.present == 0
    }

    /// The number of the oldest entry.
    pub(super) fn first(&self) -> Option<u64> {
        (self.present != 0).then(|| u64::from(self.present.trailing_zeros()))
    }

    /// The number of the oldest entry that has this one or a later one.
    pub(super) fn first_from(&self, number: u64) -> Option<u64> {
        let rest = self.present & !below(number);
        (rest != 0).then(|| u64::from(rest.trailing_zeros()))
    }

    pub(super) fn get(&self, number: u64) -> Option<&Entry> {
        self.entries.get(self.place(number)?)
    }

    pub(super) fn get_mut(&mut self, number: u64) -> Option<&mut Entry> {
        let place = self.place(number)?;
        self.entries.get_mut(place)
    }

    /// Adds the entry of a number above all that are here.
    pub(super) fn push(&mut self, number: u64, entry: Entry) {
        debug_assert_eq!(self.first_from(number), None);
        self.present |= 1 << number;
        self.entries.push_back(entry);
    }

    pub(super) fn remove(&mut self, number: u64) -> Option<Entry> {
        let place = self.place(number)?;
        self.present &= !(1 << number);
        self.entries.remove(place)
    }

    /// Gives room back when three quarters of it are not used.
    pub(super) fn shrink(&mut self) {
        if self.entries.len() * 4 <= self.entries.capacity() {
            self.entries.shrink_to_fit();
        }
    }

    fn place(&self, number: u64) -> Option<usize> {
        let bit = 1 << number;
        (self.present & bit != 0).then(|| (self.present & below(number)).count_ones() as usize)
    }
}

/// The bits of the numbers below this one.
fn below(number: u64) -> u64 {
    (1 << number) - 1
}
