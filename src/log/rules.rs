//! The rules of channels: how much of each channel is kept, and how lagging conns are handled.
//!
//! A channel gets its rule when it is created. The rule is an index into a small table, with one
//! row for each namespace and one row for all other channels.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Amount;
use super::sync::AtomicU64;
use crate::config::namespace::{self, Namespace};
use crate::config::{ClientPublish, Config, LogBounds, Overflow, Retention};
use crate::id::{ChannelName, Sequence};

/// The index of a channel's rule in the table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RuleIndex(u16);

/// The table of rules, with the newest evictions of removed channels.
#[derive(Debug)]
pub struct Rules {
    namespaces: Vec<Namespace>,
    /// The rules. The first rule is for channels outside all namespaces. The other rules are for
    /// the namespaces, in order.
    table: Vec<Rule>,
    /// The distinct ages that are shorter than the log's age.
    pub(super) ages: Vec<Duration>,
    /// The bounds for all channels together.
    pub(super) bounds: LogBounds,
    has_conflation: bool,
    /// While void entries are being removed, evictions after this number are void.
    evicted_floor_max: AtomicU64,
}

/// Classes of channels. The channels of a class share bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// Channels in which only feeders publish.
    Feeders,
    /// Channels in which clients may broadcast.
    Clients,
}

/// The rule for the channels of one namespace.
#[derive(Debug)]
pub(super) struct Rule {
    /// The maximum amount that a channel keeps. The newest publication is always kept, whatever its
    /// size.
    pub(super) bound: Amount,
    age: Duration,
    overflow: Overflow,
    /// The index of the rule's age in [`Rules::ages`], or `None` if the rule has the log's age.
    pub(super) clock: Option<usize>,
    pub(super) class: Class,
    /// The highest number that was evicted from any removed channel with this rule. A channel that
    /// is created again may have had entries up to this number.
    evicted_floor: AtomicU64,
}

impl Rules {
    pub(super) fn new(config: &Config, head: Sequence) -> Self {
        let mut ages: Vec<Duration> = Vec::new();
        let whole = config.retention();
        let in_namespaces = config.namespace.iter().map(|namespace| {
            let class = match namespace.client_publish {
                Some(ClientPublish::Broadcast) => Class::Clients,
                Some(_) | None => Class::Feeders,
            };
            (config.retention_in(namespace), class)
        });
        let all = std::iter::once((whole, Class::Feeders)).chain(in_namespaces);
        let table = all.map(|(retention, class)| {
            let Retention {
                entries,
                bytes,
                age_ms,
                overflow,
            } = retention;
            let age = Duration::from_millis(age_ms);
            let clock = (age_ms < whole.age_ms).then(|| {
                let known = ages.iter().position(|known| *known == age);
                known.unwrap_or_else(|| {
                    ages.push(age);
                    ages.len() - 1
                })
            });
            Rule {
                bound: Amount {
                    bytes,
                    publications: entries,
                },
                age,
                overflow,
                clock,
                class,
                evicted_floor: AtomicU64::new(head.0),
            }
        });
        let table: Vec<_> = table.collect();
        Self {
            has_conflation: table.iter().any(|rule| rule.overflow == Overflow::Conflate),
            namespaces: config.namespace.clone(),
            table,
            ages,
            bounds: config.log,
            evicted_floor_max: AtomicU64::new(u64::MAX),
        }
    }

    /// Returns the policy for conns that exceed their quota on a channel with this rule.
    #[must_use]
    pub fn overflow(&self, index: RuleIndex) -> Overflow {
        self.get(index).map_or(Overflow::Skip, |rule| rule.overflow)
    }

    /// Returns the time for which a channel with this rule keeps a publication.
    #[must_use]
    pub fn age(&self, index: RuleIndex) -> Duration {
        let age = self.get(index).map(|rule| rule.age);
        age.unwrap_or_else(|| self.bounds.age())
    }

    /// Returns the shortest age of all rules and the log.
    #[must_use]
    pub fn age_min(&self) -> Duration {
        let ages = self.ages.iter().copied();
        ages.fold(self.bounds.age(), Duration::min)
    }

    /// Whether any channel conflates.
    #[must_use]
    pub fn has_conflation(&self) -> bool {
        self.has_conflation
    }

    /// Returns the bounds for all channels together.
    #[must_use]
    pub fn bounds(&self) -> &LogBounds {
        &self.bounds
    }

    /// Returns the rule for a new channel.
    pub(super) fn find(&self, name: &ChannelName) -> RuleIndex {
        let found = namespace::find(&self.namespaces, name.as_str());
        RuleIndex(found.map_or(0, |index| u16::try_from(index + 1).unwrap_or(0)))
    }

    pub(super) fn get(&self, index: RuleIndex) -> Option<&Rule> {
        self.table.get(usize::from(index.0))
    }

    /// Returns the class of a channel. The channels of a class share bounds.
    pub(super) fn class(&self, index: RuleIndex) -> Class {
        self.get(index).map_or(Class::Feeders, |rule| rule.class)
    }

    /// Returns the highest number that was evicted from any removed channel with this rule. The
    /// caller holds the lock of the new channel's shard. The caller of [`Self::note_evicted`] holds
    /// the lock of the removed channel's shard.
    pub(super) fn evicted_floor(&self, index: RuleIndex) -> Sequence {
        let rule = self.get(index);
        // This limit is loaded before the value that it limits.
        let most = self.evicted_floor_max.load(Ordering::Acquire);
        rule.map_or(Sequence::ZERO, |rule| {
            Sequence(rule.evicted_floor.load(Ordering::Relaxed).min(most))
        })
    }

    /// Sets the number after which evictions are void. Until [`Self::cut_evicted_floor`] is called,
    /// channels with later evictions may still be removed from shards that have void entries.
    pub(super) fn bound_evicted_floor(&self, kept: Sequence) {
        self.evicted_floor_max.store(kept.0, Ordering::Release);
    }

    /// Lowers the stored number of each rule to at most `kept`. Called after the void entries of
    /// all shards have been removed.
    pub(super) fn cut_evicted_floor(&self, kept: Sequence) {
        for rule in &self.table {
            rule.evicted_floor.fetch_min(kept.0, Ordering::Relaxed);
        }
        self.evicted_floor_max.store(u64::MAX, Ordering::Release);
    }

    /// Records that a channel was removed whose newest evicted entry had the number `evicted`.
    pub(super) fn note_evicted(&self, index: RuleIndex, evicted: Sequence) {
        if let Some(rule) = self.get(index) {
            rule.evicted_floor.fetch_max(evicted.0, Ordering::Relaxed);
        }
    }
}
