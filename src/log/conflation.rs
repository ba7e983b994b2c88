//! The entries of a conflating channel that no later entry supersedes.
//!
//! A publication supersedes the previous publication with the same key. The entries that are not
//! superseded are listed, so the cost of skipping and counting does not grow with the number of
//! superseded entries.

use std::collections::BTreeSet;
use std::hash::BuildHasher;

use hashbrown::hash_table::{Entry as Place, HashTable};

use super::shard::History;
use super::{Amount, Entry};
use crate::certain;
use crate::id::Sequence;

/// The memory that is counted for one sequence number in the list, in bytes. The factor is 2
/// because the list's nodes are at least half full.
const PLACE_BYTES: u64 = 2 * size_of::<Sequence>() as u64;
/// The memory that is counted for one key in the table, in bytes. The factor is 2 because the table
/// doubles when it grows.
const KEY_BYTES: u64 = 2 * (size_of::<Sequence>() as u64 + 1);

/// The list of the entries of one channel that no later entry supersedes.
#[derive(Debug, Default)]
pub(super) struct Newest {
    places: BTreeSet<Sequence>,
    /// The entries in the list that have a conflation key. The keys themselves are read from the
    /// channel's entries.
    keys: HashTable<Sequence>,
}

impl Newest {
    /// Returns the number of bytes of memory held.
    pub(super) fn bytes(&self) -> u64 {
        let itself = size_of::<Self>() as u64;
        itself + self.places.len() as u64 * PLACE_BYTES + self.keys.len() as u64 * KEY_BYTES
    }

    /// Returns the length of the list, and the number of its entries that have a conflation key.
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.places.len(), self.keys.len())
    }

    /// Returns the first number in the list that is at least `sequence`.
    fn first_from(&self, sequence: Sequence) -> Option<Sequence> {
        self.places.range(sequence..).next().copied()
    }
}

const LISTED: &str = "a listed entry is in the log";

impl History {
    /// Adds the channel's newest entry to the list. If it supersedes an older entry, marks the
    /// older entry as superseded.
    pub(super) fn note_newest(&mut self, hasher: &impl BuildHasher) {
        let mut newest = self.newest.take().unwrap_or_default();
        let superseded = self.add_newest(&mut newest, hasher);
        self.newest = Some(newest);
        if let Some(sequence) = superseded
            && let Some(entry) = certain::some(self.get_mut(sequence), LISTED)
        {
            entry.is_superseded = true;
        }
    }

    fn add_newest(&self, newest: &mut Newest, hasher: &impl BuildHasher) -> Option<Sequence> {
        let Newest { places, keys } = newest;
        let entry = self.entries.back()?;
        let sequence = entry.sequence();
        places.insert(sequence);
        let key = entry.publication.key()?;
        let listed = |known: &Sequence| certain::some(self.get(*known), LISTED);
        let key_of = |known: &Sequence| listed(known)?.publication.key();
        let has_same = |known: &Sequence| key_of(known) == Some(key);
        let rehash = |known: &Sequence| hasher.hash_one(key_of(known).unwrap_or_default());
        match keys.entry(hasher.hash_one(key), has_same, rehash) {
            Place::Occupied(mut known) => {
                let superseded = std::mem::replace(known.get_mut(), sequence);
                places.remove(&superseded);
                Some(superseded)
            }
            Place::Vacant(place) => {
                place.insert(sequence);
                None
            }
        }
    }

    /// Removes an entry from the list, because the entry has left the log.
    pub(super) fn forget_newest(&mut self, entry: &Entry, hasher: &impl BuildHasher) {
        let Some(newest) = &mut self.newest else {
            return;
        };
        let sequence = entry.sequence();
        if newest.places.remove(&sequence)
            && let Some(key) = entry.publication.key()
            && let Ok(place) = newest
                .keys
                .find_entry(hasher.hash_one(key), |known| *known == sequence)
        {
            place.remove();
        }
        if newest.places.is_empty() {
            self.newest = None;
        }
    }

    /// Finds the consecutive superseded entries that begin directly after `position`. Entries after
    /// `until` are ignored. Returns the sequence number of the last of these entries, and their
    /// count. Returns `None` if the first entry after `position` is not superseded. Also returns
    /// `None` if a publication between `position` and that entry has left the log.
    pub(super) fn superseded_run(
        &self,
        position: Sequence,
        until: Sequence,
    ) -> Option<(Sequence, u64)> {
        let next = self.entries.get(self.index_after(position))?;
        let follows = next.previous <= position;
        if !follows || !next.is_superseded || next.sequence() > until {
            return None;
        }
        // An entry leaves the log before the entry that supersedes it.
        let newest = self.newest.as_ref()?.first_from(next.sequence())?;
        let end = self.get(newest)?.previous;
        let end = match end <= until {
            true => self.get(end)?,
            // More superseded entries follow after `until`, but they are not counted.
            false => self.entries.get(self.index_after(until).checked_sub(1)?)?,
        };
        let count = end.before.publications + 1 - next.before.publications;
        Some((end.sequence(), count))
    }

    /// Returns the number and size of the entries after `position`, up to and including `until`,
    /// that no later entry supersedes. The function visits each of these entries.
    pub(super) fn newest_after(&self, position: Sequence, until: Sequence) -> Amount {
        let Some(newest) = &self.newest else {
            // The channel does not conflate yet, because a change of the rules has not reached it.
            let entries = self.entries.iter_from(self.index_after(position));
            let entries = entries.take_while(|entry| entry.sequence() <= until);
            let amounts = entries.map(|entry| Amount::of(&entry.publication));
            return amounts.fold(Amount::default(), Amount::plus);
        };
        let places = newest.places.range(position.next()..);
        let places = places.take_while(|sequence| **sequence <= until);
        let entries = places.filter_map(|sequence| certain::some(self.get(*sequence), LISTED));
        let amounts = entries.map(|entry| Amount::of(&entry.publication));
        amounts.fold(Amount::default(), Amount::plus)
    }
}
