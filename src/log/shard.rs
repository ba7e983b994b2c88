//! The shards, which hold the channels. Each shard has its own lock.
//!
//! A thread locks one shard at a time. While a thread holds a lock, it does not encode
//! publications, does not drop publications and makes no system calls. Debug builds
//! check this with [`assert_unlocked`].

use std::hash::BuildHasher;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use hashbrown::HashTable;

use super::conflation::Newest;
use super::entries::Entries;
use super::interest::Interest;
use super::rules::{Namespaces, Values};
#[cfg(debug_assertions)]
use super::sync::LOCKS;
use super::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard, SHARD_BITS};
use super::{Amount, ChannelKey, Class, Entry, Log, RuleIndex};
use crate::certain;
use crate::chunks::ChunkedSlab;
use crate::config::Overflow;
use crate::id::{ChannelName, Sequence};

/// The number of channels in one block of a shard's memory. Blocks are small because there are many
/// shards.
const CHUNK: usize = 8;

/// The number of low bits of a [`ChannelKey`]. They contain the channel's slot in its shard.
const PLACE_BITS: u32 = u32::BITS - SHARD_BITS;

/// A channel, which exists as long as it has entries or subscribers.
#[derive(Debug)]
pub(super) struct Channel {
    pub(super) name: ChannelName,
    /// The number of the newest publication that has left the log. A subscriber at an earlier
    /// position has missed a publication. In a new channel, this is the number up to which an
    /// earlier channel of the same name may have had publications.
    pub(super) evicted: Sequence,
    /// `None` before the first publication.
    history: Option<Box<History>>,
    pub(super) interest: Interest,
    pub(super) rule: RuleIndex,
    /// The class of the entries that are added next. The writer sets it to the class of the rule.
    pub(super) class: Class,
    /// The policy of the rule. If it is to conflate, the history has the list [`History::newest`].
    pub(super) overflow: Overflow,
    /// Whether the channel is in the writer's queue of channels that exceed their bounds.
    pub(super) is_over_queued: bool,
}

/// The publications of a channel.
#[derive(Debug)]
pub(super) struct History {
    /// The entries, oldest first, with increasing numbers. The running total before an entry
    /// (`before`) equals the running total after the previous entry.
    pub(super) entries: Entries,
    /// The number of the newest publication, even if it has left the log.
    pub(super) last: Sequence,
    /// The number and size of all publications in the channel since its creation.
    pub(super) total: Amount,
    /// The entries that are not superseded. `None` unless the channel conflates and has entries.
    pub(super) newest: Option<Box<Newest>>,
}

/// The memory of a channel with entries, in bytes: the channel itself, its part of a block's
/// header, its slot in the hash table of names, and its history without the lists. The hash table
/// doubles when it grows, so a part of it is unused.
pub(super) const CHANNEL_BYTES: u64 = (size_of::<Channel>() + 8 + 16 + size_of::<History>()) as u64;

const _: () = assert!(size_of::<Channel>() == 48);
const _: () = assert!(CHANNEL_BYTES == 144);

/// An empty list, for channels without publications.
static NO_ENTRIES: Entries = Entries::NONE;

impl Channel {
    fn new(name: ChannelName, rule: RuleIndex, values: Values, evicted: Sequence) -> Self {
        Self {
            name,
            evicted,
            history: None,
            interest: Interest::None,
            rule,
            class: values.class,
            overflow: values.overflow,
            is_over_queued: false,
        }
    }

    pub(super) fn history(&self) -> Option<&History> {
        self.history.as_deref()
    }

    pub(super) fn history_mut(&mut self) -> Option<&mut History> {
        self.history.as_deref_mut()
    }

    /// Returns the history, so that an entry can be added. Creates the history if the channel has
    /// none.
    pub(super) fn begin_history(&mut self) -> &mut History {
        let last = self.evicted;
        self.history.get_or_insert_with(|| {
            Box::new(History {
                entries: Entries::NONE,
                last,
                total: Amount::default(),
                newest: None,
            })
        })
    }

    pub(super) fn entries(&self) -> &Entries {
        self.history()
            .map_or(&NO_ENTRIES, |history| &history.entries)
    }

    /// Returns the number of the newest publication, even if it has left the log.
    pub(super) fn last(&self) -> Sequence {
        self.history().map_or(self.evicted, |history| history.last)
    }

    /// Returns the number and size of all publications in the channel since its creation.
    pub(super) fn total(&self) -> Amount {
        self.history()
            .map_or_else(Amount::default, |history| history.total)
    }

    /// Returns the index of the first entry whose number is above `position`.
    pub(super) fn index_after(&self, position: Sequence) -> usize {
        self.history()
            .map_or(0, |history| history.index_after(position))
    }

    pub(super) fn get(&self, sequence: Sequence) -> Option<&Entry> {
        self.history()?.get(sequence)
    }

    /// Returns the heap memory of the channel's lists (entries, conflation) in bytes.
    pub(super) fn bytes_held(&self) -> u64 {
        self.history().map_or(0, History::bytes_held)
    }

    /// Whether the channel would exceed a bound if `more` were added.
    pub(super) fn is_over(&self, bound: Amount, more: Amount) -> bool {
        let Some(first) = self.entries().front() else {
            return false;
        };
        let held = self.total().plus(more).minus(first.before);
        held.publications > 1 && held.exceeds(bound)
    }

    pub(super) fn conflates(&self) -> bool {
        self.overflow == Overflow::Conflate
    }

    /// Whether the channel has neither entries nor subscribers.
    pub(super) fn is_abandoned(&self) -> bool {
        self.entries().is_empty() && self.interest.is_none()
    }
}

impl History {
    /// Returns the index of the first entry whose number is above `position`.
    pub(super) fn index_after(&self, position: Sequence) -> usize {
        // Common cases, which need no binary search.
        if self.last <= position {
            return self.entries.len();
        }
        match self.entries.back() {
            // An epoch change has removed the entries after this one.
            Some(last) if last.sequence() <= position => return self.entries.len(),
            Some(last) if last.previous <= position => return self.entries.len() - 1,
            Some(_) | None => {}
        }
        self.entries
            .partition_point(|entry| entry.sequence() <= position)
    }

    pub(super) fn get(&self, sequence: Sequence) -> Option<&Entry> {
        let entry = self.entries.get(self.index_of(sequence))?;
        (entry.sequence() == sequence).then_some(entry)
    }

    pub(super) fn get_mut(&mut self, sequence: Sequence) -> Option<&mut Entry> {
        let index = self.index_of(sequence);
        let entry = self.entries.get_mut(index)?;
        (entry.sequence() == sequence).then_some(entry)
    }

    /// Removes and returns the oldest entry.
    pub(super) fn remove_first(&mut self, hasher: &impl BuildHasher) -> Option<Entry> {
        let entry = self.entries.pop_front()?;
        self.forget_newest(&entry, hasher);
        Some(entry)
    }

    /// Returns the index of the first entry whose number is at least `sequence`.
    fn index_of(&self, sequence: Sequence) -> usize {
        self.entries
            .partition_point(|entry| entry.sequence() < sequence)
    }

    /// Returns the heap memory of the lists (entries, conflation) in bytes.
    pub(super) fn bytes_held(&self) -> u64 {
        let newest = self.newest.as_ref().map_or(0, |newest| newest.bytes());
        self.entries.bytes_held() + newest
    }
}

/// A shard, which holds some of the channels.
#[derive(Debug)]
pub(super) struct Shard {
    /// The namespaces by which channels of this shard get their rules.
    pub(super) namespaces: Arc<Namespaces>,
    /// The slots of the channels, found by the hash of the channel name.
    directory: HashTable<u32>,
    channels: ChunkedSlab<Channel, CHUNK>,
    /// The generation of the epoch that this shard has reached: the number of earlier epochs.
    pub(super) generation: u64,
}

impl Shard {
    fn new(namespaces: &Arc<Namespaces>) -> Self {
        Self {
            namespaces: Arc::clone(namespaces),
            directory: HashTable::default(),
            channels: ChunkedSlab::default(),
            generation: 0,
        }
    }

    pub(super) fn find(&self, hash: u64, name: &ChannelName) -> Option<u32> {
        let is_it = |place: &u32| {
            self.get(*place)
                .is_some_and(|channel| channel.name == *name)
        };
        self.directory.find(hash, is_it).copied()
    }

    /// Returns the channel in a slot that is in use. A channel's slot stays in use while the
    /// channel has entries or subscribers.
    pub(super) fn get(&self, place: u32) -> Option<&Channel> {
        channel_in(&self.channels, place)
    }

    /// Returns the values of the rule of the channel in a slot that is in use.
    pub(super) fn values_of(&self, place: u32) -> Option<Values> {
        self.namespaces.values(self.get(place)?.rule)
    }

    /// Like [`Self::get`], but the caller can change the channel.
    pub(super) fn get_mut(&mut self, place: u32) -> Option<&mut Channel> {
        certain::some(self.get_mut_if_used(place), IN_USE)
    }

    /// Returns the channel in a slot; `None` if the slot is free.
    pub(super) fn get_mut_if_used(&mut self, place: u32) -> Option<&mut Channel> {
        self.channels.get_mut(place as usize)
    }

    /// Returns the slots of all channels.
    pub(super) fn places(&self) -> Vec<u32> {
        let places = self.channels.iter();
        places.map(|(place, _)| certain::to_u32(place)).collect()
    }

    pub(super) fn channels(&self) -> impl Iterator<Item = &Channel> {
        self.channels.iter().map(|(_, channel)| channel)
    }

    /// Returns the slot of the channel with this name. Creates the channel if it does not exist.
    /// Returns `None` if the shard is full.
    pub(super) fn find_or_add(&mut self, log: &Log, hash: u64, name: &ChannelName) -> Option<u32> {
        if let Some(place) = self.find(hash, name) {
            return Some(place);
        }
        if self.channels.len() >= 1 << PLACE_BITS {
            debug_assert!(false, "a shard is full");
            return None;
        }
        let rule = self.namespaces.find(name);
        let evicted = log.rules.evicted_floor(rule);
        let channel = Channel::new(name.clone(), rule, self.namespaces.values(rule)?, evicted);
        let place = certain::to_u32(self.channels.insert(channel));
        let channels = &self.channels;
        let rehash =
            |place: &u32| channel_in(channels, *place).map_or(0, |channel| log.hash(&channel.name));
        self.directory.insert_unique(hash, place, rehash);
        log.channels.fetch_add(1, Ordering::Relaxed);
        Some(place)
    }

    /// Removes a channel if it has neither entries nor subscribers. Returns whether the channel was
    /// removed.
    pub(super) fn drop_if_abandoned(&mut self, log: &Log, place: u32) -> bool {
        let channel = self.get(place).filter(|channel| channel.is_abandoned());
        let Some(channel) = channel else {
            return false;
        };
        let hash = log.hash(&channel.name);
        log.rules.note_evicted(channel.rule, channel.evicted);
        match self.directory.find_entry(hash, |known| *known == place) {
            Ok(found) => drop(found.remove()),
            Err(_) => debug_assert!(false, "a channel is not in the directory"),
        }
        self.channels.remove(place as usize);
        log.channels.fetch_sub(1, Ordering::Relaxed);
        let room = self.directory.capacity();
        if room > 64 && self.directory.len() * 4 < room {
            self.channels.shrink_to_fit();
            let channels = &self.channels;
            self.directory.shrink_to_fit(|place| {
                channel_in(channels, *place).map_or(0, |channel| log.hash(&channel.name))
            });
        }
        true
    }
}

const IN_USE: &str = "the channel's slot is in use";

fn channel_in(channels: &ChunkedSlab<Channel, CHUNK>, place: u32) -> Option<&Channel> {
    certain::some(channels.get(place as usize), IN_USE)
}

/// A shard's lock, on its own cache line.
#[derive(Debug)]
#[repr(align(128))]
struct Locked(RwLock<Shard>);

/// All shards.
#[derive(Debug)]
pub(super) struct Shards(Box<[Locked]>);

impl ChannelKey {
    fn shard(self) -> u32 {
        self.0 >> PLACE_BITS
    }

    /// Returns the channel's slot in its shard.
    pub(super) fn place(self) -> u32 {
        self.0 & ((1 << PLACE_BITS) - 1)
    }
}

impl Shards {
    pub(super) fn new(namespaces: &Arc<Namespaces>) -> Self {
        let shards = (0..1 << SHARD_BITS).map(|_| Locked(RwLock::new(Shard::new(namespaces))));
        Self(shards.collect())
    }

    /// Locks, for reading, the shard that contains the channels with this hash. Also returns the
    /// shard's number.
    pub(super) fn read_by_hash(
        &self,
        hash: u64,
    ) -> (u32, Option<Guard<RwLockReadGuard<'_, Shard>>>) {
        let shard = shard_of(hash);
        (shard, self.read_number(shard))
    }

    /// Locks, for writing, the shard that contains the channels with this hash. Also returns the
    /// shard's number.
    pub(super) fn write_by_hash(
        &self,
        hash: u64,
    ) -> (u32, Option<Guard<RwLockWriteGuard<'_, Shard>>>) {
        let shard = shard_of(hash);
        (shard, self.write_number(shard))
    }

    pub(super) fn read(&self, key: ChannelKey) -> Option<Guard<RwLockReadGuard<'_, Shard>>> {
        self.read_number(key.shard())
    }

    pub(super) fn write(&self, key: ChannelKey) -> Option<Guard<RwLockWriteGuard<'_, Shard>>> {
        self.write_number(key.shard())
    }

    /// Iterates over all shards. Each shard is locked while it is visited.
    pub(super) fn each(&self) -> impl Iterator<Item = (u32, Guard<RwLockReadGuard<'_, Shard>>)> {
        let numbers = self.numbers();
        numbers.filter_map(|number| Some((number, self.read_number(number)?)))
    }

    /// Returns the numbers of all shards.
    pub(super) fn numbers(&self) -> std::ops::Range<u32> {
        0..certain::to_u32(self.0.len())
    }

    fn read_number(&self, shard: u32) -> Option<Guard<RwLockReadGuard<'_, Shard>>> {
        let Locked(lock) = certain::some(self.0.get(shard as usize), "all shards exist")?;
        let held = Held::new();
        let guard = lock.read().unwrap_or_else(PoisonError::into_inner);
        Some(Guard(guard, held))
    }

    pub(super) fn write_number(&self, shard: u32) -> Option<Guard<RwLockWriteGuard<'_, Shard>>> {
        let Locked(lock) = certain::some(self.0.get(shard as usize), "all shards exist")?;
        let held = Held::new();
        let guard = lock.write().unwrap_or_else(PoisonError::into_inner);
        Some(Guard(guard, held))
    }
}

/// Returns the key of the channel in the slot `place` of a shard.
pub(super) fn key(shard: u32, place: u32) -> ChannelKey {
    ChannelKey(shard << PLACE_BITS | place)
}

pub(super) fn shard_of(hash: u64) -> u32 {
    // The hash tables inside the shards do not use these bits of the hash.
    certain::to_u32((hash >> 32) & ((1 << SHARD_BITS) - 1))
}

/// A locked shard.
#[derive(Debug)]
pub(super) struct Guard<G>(G, Held);

impl<G: Deref> Deref for Guard<G> {
    type Target = G::Target;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl<G: DerefMut> DerefMut for Guard<G> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}

/// Counts the locks of this thread in debug builds.
#[derive(Debug)]
struct Held;

impl Held {
    fn new() -> Self {
        assert_unlocked();
        #[cfg(debug_assertions)]
        LOCKS.with(|locks| locks.set(locks.get() + 1));
        Self
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        #[cfg(debug_assertions)]
        LOCKS.with(|locks| locks.set(locks.get() - 1));
    }
}

/// Panics in debug builds if this thread holds the lock of a shard.
pub(crate) fn assert_unlocked() {
    #[cfg(debug_assertions)]
    assert_eq!(
        LOCKS.with(std::cell::Cell::get),
        0,
        "a shard of the log is locked"
    );
}
