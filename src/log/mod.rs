//! The log: recent publications, by channel and in sequence order, written by one [`Writer`].
//!
//! **The log is the queue.** Each channel has a list of its own entries. Entries are added at the
//! back and removed at the front. So a binary search finds a position, and a removed entry leaves
//! no hole. An order list across all channels finds the oldest entry of the log. The writer needs
//! this entry to enforce the age limits and the bounds of the whole log.
//!
//! Only the writer adds and removes entries. Readers look up a channel, copy references to at most
//! a few entries, and register interest in a channel. Channels are stored in shards, each with its
//! own lock. A thread never holds two of these locks. A thread that holds a lock does not encode,
//! make a system call, post to a worker or drop a publication (debug builds assert this).
//!
//! A reader sees the log up to its *horizon*: the number up to which all publications have been
//! sent to the reader. Queries do not find, count or return later publications. A horizon belongs
//! to one [`epoch`].

mod change;
mod clocks;
mod conflation;
pub mod dedupe;
mod entries;
pub mod entry;
pub mod epoch;
mod interest;
mod order;
mod read;
mod rules;
mod shard;
mod summary;
mod sync;
mod writer;

use std::hash::BuildHasher as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;

pub use entry::{Amount, Entry};
pub use epoch::{EpochChange, EpochState, Horizon, PastEpoch};
pub use interest::WorkerInterest;
pub use read::ChannelState;
pub use rules::{Class, RuleChange, RuleFigures, RuleIndex, Rules, TooManyRules};
pub use summary::ChannelSummary;
pub use writer::Writer;

pub(crate) use shard::assert_unlocked;

use crate::config::{Config, Limits};
use crate::frame::Ledger;
use crate::id::{ChannelName, Sequence};
use rules::Namespaces;
use shard::Shards;
use sync::{AtomicU64, Hasher};

/// The key of a channel of the log. After the channel is removed, another channel may get the same
/// key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChannelKey(u32);

/// The log as readers see it. Shared by the writer and all readers.
#[derive(Debug)]
pub struct Log {
    shards: Shards,
    hasher: Hasher,
    rules: Rules,
    /// Counts the memory of the log's publications and of their encoded frames.
    ledger: Arc<Ledger>,
    /// Numbers that the writer updates, for metrics and for long polls.
    figures: Figures,
    newest: epoch::Newest,
    subscribed: Subscribed,
    /// The number of channels in all shards. A thread that adds or removes a channel holds the lock
    /// of that channel's shard.
    channels: AtomicU64,
}

/// The number of channels that have subscribers on any worker, with its limit.
#[derive(Debug)]
struct Subscribed {
    count: AtomicU64,
    /// The limit `limits.channels`, or `u64::MAX` if there is no limit.
    max: AtomicU64,
}

impl Subscribed {
    /// Counts one more channel with subscribers. Returns false if the limit is reached. The caller
    /// holds the lock of the channel's shard, which also guards the channel's list of workers with
    /// subscribers.
    fn try_add(&self) -> bool {
        let max = self.max.load(Ordering::Relaxed);
        let add = |count| (count < max).then_some(count + 1);
        let added = self
            .count
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
        added.is_ok()
    }
}

/// Returns the limit `limits.channels`, or `u64::MAX` if there is no limit.
fn channels_max(limits: &Limits) -> u64 {
    match limits.channels {
        0 => u64::MAX,
        max => max.into(),
    }
}

#[derive(Debug, Default)]
struct Figures {
    bytes: AtomicU64,
    entries: AtomicU64,
    /// The number of the oldest entry. Zero if the log is empty.
    oldest: AtomicU64,
}

impl Log {
    /// Creates an empty log. The numbers of all later entries must be above `head`.
    fn new(config: &Config, rules: Rules, namespaces: &Arc<Namespaces>, head: Sequence) -> Self {
        Self {
            shards: Shards::new(namespaces),
            hasher: Hasher::default(),
            rules,
            ledger: Arc::default(),
            figures: Figures::default(),
            newest: epoch::Newest::new(head),
            subscribed: Subscribed {
                count: AtomicU64::new(0),
                max: AtomicU64::new(channels_max(&config.limits)),
            },
            channels: AtomicU64::new(0),
        }
    }

    /// Changes the limit on channels with subscribers. Channels that have subscribers keep them.
    pub fn set_channels_max(&self, limits: &Limits) {
        self.subscribed
            .max
            .store(channels_max(limits), Ordering::Relaxed);
    }

    /// Returns the number of channels that have entries or subscribers.
    #[must_use]
    pub fn channel_count(&self) -> u64 {
        self.channels.load(Ordering::Relaxed)
    }

    /// Returns the number of channels that have subscribers on any worker.
    #[must_use]
    pub fn subscribed(&self) -> u64 {
        self.subscribed.count.load(Ordering::Relaxed)
    }

    /// Returns the highest number that a reader in the newest epoch may see. Only for tests,
    /// because a reader must use the [`EpochState`] of its own epoch.
    #[doc(hidden)]
    #[must_use]
    pub fn sequenced(&self) -> Sequence {
        self.state().sequenced()
    }

    /// Returns the number up to which all publications of the newest epoch have been posted to the
    /// workers. Used while the server starts, when only one epoch exists.
    #[must_use]
    pub fn posted(&self) -> Sequence {
        self.state().posted()
    }

    /// Returns the rules: how much of each channel is kept, and how lagging conns are handled.
    #[must_use]
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Returns the ledger, which counts the memory of this log's publications.
    #[must_use]
    pub fn ledger(&self) -> &Arc<Ledger> {
        &self.ledger
    }

    /// Whether the encoded frames of publications use more memory than their part of the limit
    /// `log.bytes`. If so, the writer drops some of these frames when it next evicts entries.
    #[must_use]
    pub fn has_too_many_encodings(&self) -> bool {
        self.ledger.logged() > self.rules.encodings_bytes()
    }

    /// Returns the number of bytes that count towards the limit `log.bytes`. They are used by
    /// publications, their encoded frames, channels that have publications, the list of all
    /// entries, and the lists for conflation.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.figures.bytes.load(Ordering::Relaxed) + self.ledger.logged()
    }

    /// Returns the number of entries.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.figures.entries.load(Ordering::Relaxed)
    }

    /// Whether the log has no entries.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the number of the oldest entry.
    #[must_use]
    pub fn oldest(&self) -> Option<Sequence> {
        let oldest = self.figures.oldest.load(Ordering::Relaxed);
        (oldest > 0).then_some(Sequence(oldest))
    }

    /// Registers a worker that has subscribers of these channels. The index of a name in `names`
    /// becomes the channel's slot in the worker's table of channels.
    #[cfg(test)]
    pub(crate) fn enter_all(&self, worker: u16, names: &[&str]) {
        for (place, name) in (0..).zip(names) {
            let (name, interest) = (
                ChannelName::new(name).unwrap(),
                WorkerInterest { worker, place },
            );
            let (none, mut late) = (Amount::default(), Vec::new());
            let horizon = self.state().horizon(self.posted());
            self.register_interest(&name, interest, horizon, none, &mut late)
                .unwrap();
        }
    }

    /// Returns the number of the shard that contains a channel. Used by the tests with loom.
    #[cfg(all(test, feature = "model"))]
    pub(crate) fn shard_of(&self, name: &ChannelName) -> u32 {
        shard::shard_of(self.hash(name))
    }

    fn hash(&self, name: &ChannelName) -> u64 {
        self.hasher.hash_one(name)
    }
}

#[cfg(test)]
mod tests;
