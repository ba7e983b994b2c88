//! The newest entries of a channel, which the hub holds while it delivers them to the subscribers.
//!
//! A tail is a copy of the newest part of the channel's entries in the log. The hub may drop a tail
//! at any time, and then reads the log instead. While the hub visits a channel's subscribers, it
//! reads the tail and needs no lock. The tail keeps entries that are still to be delivered, even if
//! the log evicts them.

use std::collections::VecDeque;
use std::ops::Deref;
use std::sync::Arc;

use crate::certain;
use crate::frame::{Compressor, Encoded, FrameKind, Frames};
use crate::id::Sequence;
use crate::log::{Amount, Entry};

/// An entry of the log with its encodings, as a worker holds it for writing.
#[derive(Debug)]
pub struct Served {
    /// The entry.
    pub entry: Entry,
    /// The entry's encodings, if the worker has needed one of them. They stay in memory here even
    /// if the log drops its reference to them.
    pub frames: Option<Arc<Frames>>,
}

const _: () = assert!(size_of::<Served>() <= 48);

impl Served {
    /// Returns the length of the frame that carries the entry in the encoding `kind`. Encodes the
    /// frame if necessary.
    pub fn encode(&mut self, kind: FrameKind, compressor: &mut Compressor) -> Option<usize> {
        let Self { entry, frames } = self;
        let publication = &entry.publication;
        let frames = frames.get_or_insert_with(|| publication.frames());
        let frame = frames.encode(publication, kind, compressor)?;
        Some(frame.wire(kind).len())
    }

    /// Returns a reference to the encoded frame, with which a conn keeps the frame in memory.
    /// Returns `None` if the entry has no encodings.
    #[must_use]
    pub fn encoded(&self, kind: FrameKind) -> Option<Encoded> {
        let frames = Arc::clone(self.frames.as_ref()?);
        let id = self.publication.id;
        Some(Encoded { id, kind, frames })
    }
}

impl From<Entry> for Served {
    fn from(entry: Entry) -> Self {
        Self {
            entry,
            frames: None,
        }
    }
}

impl Deref for Served {
    type Target = Entry;

    fn deref(&self) -> &Entry {
        &self.entry
    }
}

/// The newest entries of a channel.
#[derive(Debug, Default)]
pub struct Tail {
    entries: VecDeque<Served>,
    /// The total size and number of the entries that no newer entry supersedes.
    newest: Amount,
    bytes: u64,
}

impl Tail {
    /// Whether the tail has all of the channel's entries after a position.
    #[must_use]
    pub fn covers(&self, position: Sequence) -> bool {
        let first = self.entries.front();
        first.is_some_and(|first| first.previous <= position)
    }

    /// Returns the sequence number of the channel's last entry before the tail.
    #[must_use]
    pub fn begin(&self) -> Option<Sequence> {
        Some(self.entries.front()?.previous)
    }

    /// Returns the first entry after a position.
    #[must_use]
    pub fn after(&self, position: Sequence) -> Option<&Served> {
        let last = self.entries.back()?;
        if last.sequence() <= position {
            return None;
        }
        // Most cursors are directly before the newest entry.
        if last.previous <= position {
            return Some(last);
        }
        let index = self
            .entries
            .partition_point(|entry| entry.sequence() <= position);
        self.entries.get(index)
    }

    /// Counts the entries after the number `after`, up to and including `last`. The tail must have
    /// all of the channel's entries after `after`.
    #[must_use]
    pub fn count_between(&self, after: Sequence, last: Sequence) -> u64 {
        let index = |position| {
            self.entries
                .partition_point(|entry| entry.sequence() <= position)
        };
        index(last).saturating_sub(index(after)) as u64
    }

    /// Returns the entry with this number. `ordinal` is the entry's index among all entries of the
    /// channel.
    #[must_use]
    pub fn get(&self, sequence: Sequence, ordinal: u64) -> Option<&Served> {
        self.entries.get(self.index(sequence, ordinal)?)
    }

    /// Iterates over the entries from this number on. The caller can store encodings in them.
    pub fn range_mut(
        &mut self,
        sequence: Sequence,
        ordinal: u64,
    ) -> impl Iterator<Item = &mut Served> {
        let index = self.index(sequence, ordinal);
        debug_assert!(index.is_some(), "{sequence:?} is not held");
        self.entries
            .range_mut(index.unwrap_or(self.entries.len())..)
    }

    /// Returns the total size and number of the entries after a position that no newer entry
    /// supersedes.
    #[must_use]
    pub fn newest_after(&self, position: Sequence) -> Amount {
        let newest = self.from(position).filter(|entry| !entry.is_superseded);
        let amounts = newest.map(|entry| Amount::of(&entry.publication));
        amounts.fold(Amount::default(), Amount::plus)
    }

    /// Finds the superseded entries directly after a position, up to the first entry that is not
    /// superseded. Returns the number of the last one, and how many there are.
    #[must_use]
    pub fn superseded_run(&self, position: Sequence) -> Option<(Sequence, u64)> {
        let run = self.from(position).take_while(|entry| entry.is_superseded);
        let mut run = run.map(|entry| entry.sequence());
        let first = run.next()?;
        let (last, count) = run.fold((first, 1), |(_, count), next| (next, count + 1));
        Some((last, count))
    }

    /// Marks the tail's newest entry with the same key as `newer` as superseded, if there is one.
    /// The tail has its own copies of entries, so a mark in the log does not change them.
    pub fn supersede(&mut self, newer: &Entry) {
        let Some(key) = newer.publication.key() else {
            return;
        };
        let mut same = self.entries.iter_mut().rev();
        let same = same.find(|entry| entry.publication.key() == Some(key));
        if let Some(entry) = same
            && !std::mem::replace(&mut entry.entry.is_superseded, true)
        {
            self.newest = self.newest.minus(Amount::of(&entry.publication));
        }
    }

    fn from(&self, position: Sequence) -> impl Iterator<Item = &Served> {
        let first = self
            .entries
            .partition_point(|entry| entry.sequence() <= position);
        self.entries.range(first..)
    }

    /// Returns the bytes of the tail's publications.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Iterates over all entries of the tail.
    pub fn all(&self) -> impl Iterator<Item = &Served> {
        self.entries.iter()
    }

    /// Adds the channel's newest entry. If entries are missing between the tail's last entry and
    /// the newest one, drops all older entries first.
    pub fn push(&mut self, entry: Entry) {
        // Entries are missing if the channel was removed and created again, or if it had too many
        // older entries to be held.
        let last = self.entries.back();
        if last.is_some_and(|last| last.sequence() != entry.previous) {
            self.clear();
        }
        if !entry.is_superseded {
            self.newest = self.newest.plus(Amount::of(&entry.publication));
        }
        self.bytes += entry.publication.bytes_held();
        self.entries.push_back(entry.into());
    }

    /// Drops old entries for which all subscribers were visited. These are the entries before the
    /// running total `floor`. Keeps as many of them as the quota allows. A conn that needs a
    /// dropped entry reads it from the log. If the log has evicted the entry, the conn receives a
    /// gap.
    pub fn forget(&mut self, total: Amount, quota: Amount, floor: Amount) {
        let since = total.minus(floor);
        while let Some(first) = self.entries.front()
            && first.before.publications < floor.publications
            && (self.newest.minus(since).exceeds(quota) || self.entries.len() > ENTRIES_MAX)
        {
            if !first.is_superseded {
                self.newest = self.newest.minus(Amount::of(&first.publication));
            }
            self.bytes -= first.publication.bytes_held();
            self.entries.pop_front();
        }
    }

    /// Drops the entries after the number `kept`, which an epoch change has discarded. Then
    /// determines again which of the other entries are superseded. Returns the number of the
    /// channel's last publication before the dropped entries, and the channel's running total up to
    /// this publication. Returns `None` if no entry is dropped, or if that number is unknown.
    pub fn cut(&mut self, kept: Sequence, conflates: bool) -> Option<(Sequence, Amount)> {
        let all = std::mem::take(&mut self.entries);
        self.clear();
        for mut entry in all.into_iter().map(|served| served.entry) {
            if entry.sequence() > kept {
                return (entry.previous <= kept).then_some((entry.previous, entry.before));
            }
            entry.is_superseded = false;
            if conflates {
                self.supersede(&entry);
            }
            self.push(entry);
        }
        None
    }

    /// Adds `void`, the amount of publications that an epoch change has discarded, to the running
    /// total of each entry.
    pub fn add_before(&mut self, void: Amount) {
        for served in &mut self.entries {
            served.entry.before = served.entry.before.plus(void);
        }
    }

    /// Drops all entries.
    pub fn clear(&mut self) {
        self.newest = Amount::default();
        self.bytes = 0;
        self.entries.clear();
        self.entries.shrink_to(ROOM_KEPT);
    }

    /// Returns the index of an entry in the tail. The index is computed from `ordinal`, the entry's
    /// index among all entries of the channel. After an epoch change, the computed index may be
    /// wrong, and the entry is searched for by its number.
    fn index(&self, sequence: Sequence, ordinal: u64) -> Option<usize> {
        let is_it = |index: &usize| {
            let entry = self.entries.get(*index);
            entry.is_some_and(|entry| entry.sequence() == sequence)
        };
        if self.entries.back()?.sequence() == sequence {
            return Some(self.entries.len() - 1);
        }
        let first = self.entries.front()?.before.publications;
        // Out of range if the tail has dropped the entry.
        let guess = certain::to_usize(ordinal.wrapping_sub(first));
        Some(guess).filter(is_it).or_else(|| {
            let index = self
                .entries
                .partition_point(|entry| entry.sequence() < sequence);
            Some(index).filter(is_it)
        })
    }
}

/// If a tail has more entries than this, it drops entries for which all subscribers were visited.
/// The quota alone does not limit their number, because superseded entries do not count towards the
/// quota.
const ENTRIES_MAX: usize = 4096;
/// The capacity that an empty tail keeps, in entries.
const ROOM_KEPT: usize = 4;
