//! The rules of channels: how much of each channel is kept, and how lagging conns are handled.
//!
//! A channel gets its rule when it is created. The rule is an index into a small table, with one
//! row for each namespace and one row for all other channels.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Amount;
use super::sync::AtomicU64;
use crate::certain;
use crate::config::namespace::{self, Namespace};
use crate::config::{ClientPublish, Config, LogBounds, Overflow, Retention};
use crate::id::{ChannelName, Sequence};
use crate::metrics::Counter;

/// The index of a channel's rule in the table of [`Rules`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RuleIndex(u16);

impl RuleIndex {
    /// Returns the index as a number. Zero is the rule for channels outside all namespaces; the
    /// namespaces follow in their order.
    #[must_use]
    pub fn index(self) -> usize {
        self.0.into()
    }
}

/// The rules of all channels.
#[derive(Debug)]
pub struct Rules {
    namespaces: Vec<Namespace>,
    /// The rules. The first rule is for channels outside all namespaces. The other rules are for
    /// the namespaces, in order.
    table: Vec<Rule>,
    /// For each rule, the number of publications that the writer has added to channels with it.
    published: Vec<Published>,
    /// The age limits of namespaces, without duplicates. Only limits that are shorter than the
    /// log's age limit are listed.
    pub(super) ages: Vec<Duration>,
    /// The bounds for all channels together.
    pub(super) bounds: LogBounds,
    has_conflation: bool,
    /// The upper limit of the result of [`Rules::evicted_floor`]. It is lowered during an epoch
    /// change. At all other times it is `u64::MAX`, which means no limit.
    evicted_floor_max: AtomicU64,
}

/// Whether clients may broadcast in a channel. All channels in which they may do so share a limited
/// part of the log (`log.client_share`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// Channels in which only feeders publish.
    Feeders,
    /// Channels in which clients may broadcast.
    Clients,
}

/// A number of publications. The writer changes it with each publication, and all threads read the
/// rules, so the number is not in a cache line with data of the rules.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Published(Counter);

/// The rule for the channels of one namespace.
#[derive(Debug)]
pub(super) struct Rule {
    /// The maximum number and size of the entries that a channel keeps. The newest publication is
    /// always kept, whatever its size.
    pub(super) bound: Amount,
    age: Duration,
    overflow: Overflow,
    /// The index of the rule's age limit in [`Rules::ages`], or `None` if the rule has the age
    /// limit of the log.
    pub(super) clock: Option<usize>,
    pub(super) class: Class,
    /// The highest sequence number of all entries that the log has evicted from channels that had
    /// this rule and no longer exist. A new channel may have the name of such a channel. In that
    /// case, publications of this name may be missing up to this number.
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
            published: table.iter().map(|_| Published::default()).collect(),
            table,
            ages,
            bounds: config.log,
            evicted_floor_max: AtomicU64::new(u64::MAX),
        }
    }

    /// Returns the policy for conns that are further behind than their quota allows, on a channel
    /// with this rule.
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

    /// Returns the shortest age limit: of all rules and of the log.
    #[must_use]
    pub fn age_min(&self) -> Duration {
        let ages = self.ages.iter().copied();
        ages.fold(self.bounds.age(), Duration::min)
    }

    /// Whether any rule selects conflation.
    #[must_use]
    pub fn has_conflation(&self) -> bool {
        self.has_conflation
    }

    /// Returns the bounds for all channels together.
    #[must_use]
    pub fn bounds(&self) -> &LogBounds {
        &self.bounds
    }

    /// Returns each rule's pattern, and the number of publications that were added to channels with
    /// this rule after the start. The first rule has no pattern.
    pub fn published(&self) -> impl Iterator<Item = (Option<&str>, u64)> {
        let patterns = self.namespaces.iter().map(|one| Some(one.pattern.as_str()));
        let counts = self.published.iter().map(|number| number.0.value());
        std::iter::once(None).chain(patterns).zip(counts)
    }

    /// Returns the number of rules: one more than there are namespaces.
    #[must_use]
    pub fn count(&self) -> usize {
        self.table.len()
    }

    /// Counts a publication. Only the log's writer calls this.
    pub(super) fn count_published(&self, index: RuleIndex) {
        let number = self.published.get(usize::from(index.0));
        if let Some(number) = certain::some(number, "an index comes from the same table") {
            number.0.increment();
        }
    }

    /// Sets all numbers of publications to zero, because publications of an earlier run are not
    /// counted. Called at the end of a replay.
    pub fn forget_published(&self) {
        self.published.iter().for_each(|number| number.0.set(0));
    }

    /// Returns the index of the rule for a channel name.
    pub(super) fn find(&self, name: &ChannelName) -> RuleIndex {
        let found = namespace::find(&self.namespaces, name.as_str());
        RuleIndex(found.map_or(0, |index| certain::to_u16(index + 1)))
    }

    pub(super) fn get(&self, index: RuleIndex) -> Option<&Rule> {
        let rule = self.table.get(usize::from(index.0));
        certain::some(rule, "an index comes from the same table")
    }

    /// Returns the [`Class`] of the channels with this rule.
    pub(super) fn class(&self, index: RuleIndex) -> Class {
        self.get(index).map_or(Class::Feeders, |rule| rule.class)
    }

    /// Called when a channel is created. Returns the highest number among the entries that were
    /// evicted from removed channels with this rule. The callers of this function and of
    /// [`Self::note_evicted`] hold the lock of the channel's shard. Channels of the same name have
    /// the same shard. So the result includes the entries of an earlier channel of the same name.
    pub(super) fn evicted_floor(&self, index: RuleIndex) -> Sequence {
        let rule = self.get(index);
        // The limit is loaded before `evicted_floor`. In the other order,
        // [`Self::cut_evicted_floor`] could lower `evicted_floor` and remove the limit between the
        // two loads. The result would then be the old `evicted_floor`, without a limit.
        let most = self.evicted_floor_max.load(Ordering::Acquire);
        rule.map_or(Sequence::ZERO, |rule| {
            Sequence(rule.evicted_floor.load(Ordering::Relaxed).min(most))
        })
    }

    /// Limits the result of [`Self::evicted_floor`] to `kept` during an epoch change. Higher
    /// numbers may still be recorded until [`Self::cut_evicted_floor`] is called, because some
    /// shards still contain publications that the epoch change removes.
    pub(super) fn bound_evicted_floor(&self, kept: Sequence) {
        self.evicted_floor_max.store(kept.0, Ordering::Release);
    }

    /// Lowers `evicted_floor` of each rule to at most `kept`. Then removes the limit that
    /// [`Self::bound_evicted_floor`] has set. Called after the epoch change has removed entries
    /// from all shards.
    pub(super) fn cut_evicted_floor(&self, kept: Sequence) {
        for rule in &self.table {
            rule.evicted_floor.fetch_min(kept.0, Ordering::Relaxed);
        }
        self.evicted_floor_max.store(u64::MAX, Ordering::Release);
    }

    /// Records that a channel with this rule was removed. `evicted` is the number of the newest
    /// entry that was evicted from the channel.
    pub(super) fn note_evicted(&self, index: RuleIndex, evicted: Sequence) {
        if let Some(rule) = self.get(index) {
            rule.evicted_floor.fetch_max(evicted.0, Ordering::Relaxed);
        }
    }
}
