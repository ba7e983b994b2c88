//! The log: recent publications, by channel and in sequence order, written by one [`Writer`].
//!
//! **The log is the queue.** Each channel lists its own entries. They enter at the back
//! and leave at the front, so that a position is found by binary search and an entry that has left
//! costs nothing. An order list over all channels finds the oldest entry for the bounds of the
//! whole log and for ages.
//!
//! The writer alone adds and removes entries. Readers look a channel up, copy references to at most
//! a few entries, and register interest in a channel. Channels lie in shards with a lock each; no
//! thread holds two of them, and none is held across an encoding, a system call, a post to a worker
//! or the drop of a publication (debug builds assert it).
//!
//! A reader sees the log up to its *horizon*: the number up to which it has been sent everything.
//! Nothing above it is found, counted or named. A horizon belongs to one [`epoch`].

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
mod sync;
mod writer;

use std::hash::BuildHasher as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;

pub use entry::{Amount, Entry};
pub use epoch::{EpochChange, EpochState, Horizon};
pub use interest::WorkerInterest;
pub use read::ChannelState;
pub use rules::{RuleIndex, Rules};
pub use writer::Writer;

pub(crate) use shard::assert_unlocked;

use crate::config::Config;
use crate::frame::Ledger;
use crate::id::{ChannelName, Sequence};
use shard::Shards;
use sync::{AtomicU64, Hasher};

/// The key of a channel of the log. When the channel is gone, another one may get it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChannelKey(u32);

/// The log, for reading. Shared by the writer and all readers.
#[derive(Debug)]
pub struct Log {
    shards: Shards,
    hasher: Hasher,
    rules: Rules,
    /// Memory of publications and encodings.
    ledger: Arc<Ledger>,
    /// Figures of the writer, for gauges and for the position of polls.
    figures: Figures,
    newest: epoch::Newest,
    subscribed: Subscribed,
    /// The number of channels. Changed while the shard that gains or loses one is locked.
    channels: AtomicU64,
}

/// How many channels have subscribers on any worker.
#[derive(Debug)]
struct Subscribed {
    count: AtomicU64,
    /// Never exceeded.
    max: u64,
}

impl Subscribed {
    /// Counts one more channel. False at the limit. Called with the channel's shard locked, which
    /// guards the channel's interest.
    fn try_add(&self) -> bool {
        let add = |count| (count < self.max).then_some(count + 1);
        let added = self
            .count
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
        added.is_ok()
    }
}

/// Figures that the writer publishes.
#[derive(Debug, Default)]
struct Figures {
    bytes: AtomicU64,
    entries: AtomicU64,
    /// The number of the oldest entry. Zero if there is none.
    oldest: AtomicU64,
}

impl Log {
    /// An empty log whose channels have had no entry above `head`.
    fn new(config: &Config, head: Sequence) -> Self {
        Self {
            shards: Shards::default(),
            hasher: Hasher::default(),
            rules: Rules::new(config, head),
            ledger: Arc::default(),
            figures: Figures::default(),
            newest: epoch::Newest::new(head),
            subscribed: Subscribed {
                count: AtomicU64::new(0),
                max: match config.limits.channels {
                    0 => u64::MAX,
                    max => max.into(),
                },
            },
            channels: AtomicU64::new(0),
        }
    }

    /// How many channels have entries or subscribers.
    #[must_use]
    pub fn channel_count(&self) -> u64 {
        self.channels.load(Ordering::Relaxed)
    }

    /// How many channels have subscribers on any worker.
    #[must_use]
    pub fn subscribed(&self) -> u64 {
        self.subscribed.count.load(Ordering::Relaxed)
    }

    /// See [`EpochState::sequenced`]. For tests: a reader asks the state of its own epoch.
    #[doc(hidden)]
    #[must_use]
    pub fn sequenced(&self) -> Sequence {
        self.state().sequenced()
    }

    /// See [`EpochState::posted`]. For the start, when there is one epoch.
    #[must_use]
    pub fn posted(&self) -> Sequence {
        self.state().posted()
    }

    /// How much of each channel is kept, and what happens to conns that are behind.
    #[must_use]
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Where publications made for this log are counted.
    #[must_use]
    pub fn ledger(&self) -> &Arc<Ledger> {
        &self.ledger
    }

    /// Whether encodings take more than their part of the log's bound. The writer drops some of
    /// them at its next eviction.
    #[must_use]
    pub fn has_too_many_encodings(&self) -> bool {
        self.ledger.logged() > self.rules.bounds.encodings_bytes()
    }

    /// Bytes of memory that the log's bound counts: publications, their encodings, the channels
    /// that have any, their places in the order list, and the index of keys.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.figures.bytes.load(Ordering::Relaxed) + self.ledger.logged()
    }

    /// How many entries there are.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.figures.entries.load(Ordering::Relaxed)
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The number of the oldest entry.
    #[must_use]
    pub fn oldest(&self) -> Option<Sequence> {
        let oldest = self.figures.oldest.load(Ordering::Relaxed);
        (oldest > 0).then_some(Sequence(oldest))
    }

    /// Registers a worker that has subscribers of these channels, each at its index.
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

    /// The number of the shard that has a channel. For the models.
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
