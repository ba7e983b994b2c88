//! How much of each channel is kept, and what happens to conns that are behind.
//!
//! A channel gets its rule when it is made: an index into a small table, with one row for each
//! namespace and one for all other channels.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Amount;
use super::sync::AtomicU64;
use crate::config::namespace::{self, Namespace};
use crate::config::{ClientPublish, Config, LogBounds, Overflow, Retention};
use crate::id::{ChannelName, Sequence};

/// A channel's place in the table of rules.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RuleIndex(u16);

/// The rules, and the newest evictions of channels that are gone.
#[derive(Debug)]
pub struct Rules {
    namespaces: Vec<Namespace>,
    /// The first is for channels in no namespace; then one for each namespace.
    table: Vec<Rule>,
    /// Ages that are shorter than the log's, each once.
    pub(super) ages: Vec<Duration>,
    /// For all channels together.
    pub(super) bounds: LogBounds,
    has_conflation: bool,
    /// While void entries are being removed: evictions after this number are void.
    evicted_floor_max: AtomicU64,
}

/// Channels that share bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// Only feeders publish there.
    Feeders,
    /// Clients may broadcast there.
    Clients,
}

/// The rule for the channels of one namespace.
#[derive(Debug)]
pub(super) struct Rule {
    /// The most that a channel keeps. Its newest publication is kept, whatever its size.
    pub(super) bound: Amount,
    age: Duration,
    overflow: Overflow,
    /// Index into [`Rules::ages`]; `None` if the age is the log's.
    pub(super) clock: Option<usize>,
    pub(super) class: Class,
    /// The newest eviction of any channel that is gone. A channel that is made again may have had
    /// entries up to here.
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

    /// What happens to a conn that is further behind on such a channel than its quota.
    #[must_use]
    pub fn overflow(&self, index: RuleIndex) -> Overflow {
        self.get(index).map_or(Overflow::Skip, |rule| rule.overflow)
    }

    /// How long a publication of such a channel is kept.
    #[must_use]
    pub fn age(&self, index: RuleIndex) -> Duration {
        let age = self.get(index).map(|rule| rule.age);
        age.unwrap_or_else(|| self.bounds.age())
    }

    /// The shortest age of all.
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

    /// The bounds for all channels together.
    #[must_use]
    pub fn bounds(&self) -> &LogBounds {
        &self.bounds
    }

    /// The rule for a channel that is made.
    pub(super) fn find(&self, name: &ChannelName) -> RuleIndex {
        let found = namespace::find(&self.namespaces, name.as_str());
        RuleIndex(found.map_or(0, |index| u16::try_from(index + 1).unwrap_or(0)))
    }

    pub(super) fn get(&self, index: RuleIndex) -> Option<&Rule> {
        self.table.get(usize::from(index.0))
    }

    /// The class of channels with which one shares its bounds.
    pub(super) fn class(&self, index: RuleIndex) -> Class {
        self.get(index).map_or(Class::Feeders, |rule| rule.class)
    }

    /// The newest eviction of any channel with this rule that is gone. Called with the shard of the
    /// new channel locked; [`Self::forget`] is called with the shard of the removed one locked.
    pub(super) fn evicted_floor(&self, index: RuleIndex) -> Sequence {
        let rule = self.get(index);
        // Loaded before the value that it bounds.
        let most = self.evicted_floor_max.load(Ordering::Acquire);
        rule.map_or(Sequence::ZERO, |rule| {
            Sequence(rule.evicted_floor.load(Ordering::Relaxed).min(most))
        })
    }

    /// Evictions after this number are void. Until [`Self::cut_evicted_floor`] is called, shards
    /// with void entries may still remove channels with later evictions.
    pub(super) fn bound_evicted_floor(&self, kept: Sequence) {
        self.evicted_floor_max.store(kept.0, Ordering::Release);
    }

    /// No shard has void entries any more.
    pub(super) fn cut_evicted_floor(&self, kept: Sequence) {
        for rule in &self.table {
            rule.evicted_floor.fetch_min(kept.0, Ordering::Relaxed);
        }
        self.evicted_floor_max.store(u64::MAX, Ordering::Release);
    }

    /// A channel whose newest eviction was this one is gone.
    pub(super) fn note_evicted(&self, index: RuleIndex, evicted: Sequence) {
        if let Some(rule) = self.get(index) {
            rule.evicted_floor.fetch_max(evicted.0, Ordering::Relaxed);
        }
    }
}
