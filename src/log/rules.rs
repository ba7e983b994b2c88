//! The rules of channels: how much of each channel is kept, and how lagging conns are handled.
//!
//! A rule belongs to the pattern of a namespace, and one rule is for all channels that no namespace
//! matches. The index of a pattern's rule stays the same until the process ends, so counters by
//! rule always have the same meaning.
//!
//! The values of rules are in [`Namespaces`], which is immutable. A change of the configuration
//! replaces it, and `change` assigns the channels of one shard after the other to their new rules.
//! So each channel has the values that one configuration selects for it, never a mixture.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64 as Value, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::Amount;
use super::sync::AtomicU64;
use crate::certain;
use crate::config::limits::RULES_MAX;
use crate::config::namespace::{self, Namespace};
use crate::config::{ClientPublish, Config, LogBounds, Overflow, Retention};
use crate::id::{ChannelName, Sequence};
use crate::metrics::Counter;

/// The index of a channel's rule in the table of [`Rules`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RuleIndex(u16);

impl RuleIndex {
    /// Returns the index as a number. Zero is the rule for channels outside all namespaces.
    #[must_use]
    pub fn index(self) -> usize {
        self.0.into()
    }
}

/// The rules of all channels, as all threads share them.
#[derive(Debug)]
pub struct Rules {
    /// The table. Rules are added in order and never removed. They are boxed because most places
    /// stay free.
    table: Box<[OnceLock<Box<Rule>>]>,
    bounds: SharedBounds,
    /// Whether any rule so far has selected conflation.
    has_conflation: AtomicBool,
    /// Increases when a change begins, and again when all channels of the log have their new rules.
    /// So the number is odd during a change.
    generation: Value,
    /// A lower limit of the result of [`Rules::evicted_floor`]. It is raised when the namespaces
    /// change, because a channel may get another rule than an earlier channel of the same name.
    common_floor: AtomicU64,
    /// The upper limit of the result of [`Rules::evicted_floor`]. It is lowered during an epoch
    /// change. At all other times it is `u64::MAX`, which means no limit.
    evicted_floor_max: AtomicU64,
}

/// The bounds for all channels together that readers use.
#[derive(Debug, Default)]
struct SharedBounds {
    bytes: Value,
    entries: Value,
    age_ms: Value,
    /// The part of `bytes` that encoded frames may use.
    encodings_bytes: Value,
}

/// What all threads share of a rule.
#[derive(Debug)]
struct Rule {
    /// The namespace's pattern; `None` for the channels outside all namespaces.
    pattern: Option<String>,
    /// Whether the newest configuration has the namespace.
    is_used: AtomicBool,
    /// The newest age limit of the rule, in milliseconds.
    age_ms: Value,
    /// The number of publications that the writer has added to channels with this rule.
    published: Published,
    /// The highest sequence number of all entries that the log has evicted from channels that had
    /// this rule and no longer exist. A new channel may have the name of such a channel. In that
    /// case, publications of this name may be missing up to this number.
    evicted_floor: AtomicU64,
}

/// A number of publications. The writer changes it with each publication, and all threads read the
/// rules, so the number is not in a cache line with data of the rules.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Published(Counter);

/// The namespaces of a configuration, with the values of their rules.
#[derive(Debug, Default)]
pub(super) struct Namespaces {
    namespaces: Vec<Namespace>,
    /// The rule of each namespace.
    rules: Vec<RuleIndex>,
    /// The values by the index of the rule; `None` if the rule has no namespace.
    values: Vec<Option<Values>>,
}

/// The values of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Values {
    /// The maximum number and size of the entries that a channel keeps. The newest publication is
    /// always kept, whatever its size.
    pub(super) bound: Amount,
    pub(super) age: Duration,
    pub(super) overflow: Overflow,
    pub(super) class: Class,
}

/// Whether clients may broadcast in a channel. All publications in such channels share a limited
/// part of the log (`log.client_share`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Class {
    /// Channels in which only feeders publish.
    #[default]
    Feeders,
    /// Channels in which clients may broadcast.
    Clients,
}

/// A change of rules, which [`super::Writer::change_rules`] carries out.
#[derive(Debug)]
pub struct RuleChange {
    pub(super) namespaces: Arc<Namespaces>,
    pub(super) bounds: LogBounds,
}

/// The error for a change that would need too many rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "has too many new patterns: the server has had {known} different patterns since its start, and \
     supports {}; restart it to use this configuration",
    RULES_MAX - 1
)]
pub struct TooManyRules {
    known: usize,
}

/// The figures of a rule.
#[derive(Clone, Copy, Debug)]
pub struct RuleFigures<'a> {
    /// The index of the rule.
    pub index: RuleIndex,
    /// The namespace's pattern; `None` for the channels outside all namespaces.
    pub pattern: Option<&'a str>,
    /// The number of publications that were added to channels with this rule after the start.
    pub published: u64,
}

impl TooManyRules {
    /// Returns the error for a table with this number of rules. One of them has no pattern.
    fn after(rules: usize) -> Self {
        Self {
            known: rules.saturating_sub(1),
        }
    }
}

impl Values {
    fn new(retention: Retention, client_publish: Option<ClientPublish>) -> Self {
        let Retention {
            entries,
            bytes,
            age_ms,
            overflow,
        } = retention;
        Self {
            bound: Amount {
                bytes,
                publications: entries,
            },
            age: Duration::from_millis(age_ms),
            overflow,
            class: match client_publish {
                Some(ClientPublish::Broadcast) => Class::Clients,
                Some(_) | None => Class::Feeders,
            },
        }
    }
}

impl Namespaces {
    /// Returns the index of the rule for a channel name.
    pub(super) fn find(&self, name: &ChannelName) -> RuleIndex {
        let found = namespace::find(&self.namespaces, name.as_str());
        let rule = found.and_then(|index| self.rules.get(index));
        rule.copied().unwrap_or_default()
    }

    /// Whether `other` has the same patterns in the same order, and so the same rules.
    pub(super) fn has_rules_of(&self, other: &Self) -> bool {
        self.rules == other.rules
    }

    /// Returns the values of a rule of this configuration.
    pub(super) fn values(&self, index: RuleIndex) -> Option<Values> {
        let values = self.values.get(index.index()).copied().flatten();
        certain::some(values, "the rule is of this configuration")
    }

    fn all(&self) -> impl Iterator<Item = &Values> {
        self.values.iter().flatten()
    }

    /// Returns the age limits that are shorter than `age_of_log`, without duplicates.
    pub(super) fn ages(&self, age_of_log: Duration) -> BTreeSet<Duration> {
        let ages = self.all().map(|values| values.age);
        ages.filter(|age| *age < age_of_log).collect()
    }
}

impl Rules {
    /// Creates the rules of a configuration. Also returns its namespaces. Channels of an earlier
    /// run may have had publications up to the number `head`, which the log does not have.
    pub(super) fn new(config: &Config, head: Sequence) -> (Self, Arc<Namespaces>) {
        let rules = Self {
            table: (0..RULES_MAX).map(|_| OnceLock::new()).collect(),
            bounds: SharedBounds::default(),
            has_conflation: AtomicBool::default(),
            generation: Value::default(),
            common_floor: AtomicU64::new(head.0),
            evicted_floor_max: AtomicU64::new(u64::MAX),
        };
        // A configuration has at most `NAMESPACES_MAX` namespaces, for which the table has room.
        let first = certain::some(
            rules.change(config).ok(),
            "the first rules fit into the table",
        );
        let namespaces = first.map_or_else(Arc::default, |first| {
            rules.begin(&first);
            rules.finish();
            first.namespaces
        });
        (rules, namespaces)
    }

    /// Prepares the change to the rules of another configuration. Adds the rules of new patterns.
    /// The change has no effect before [`super::Writer::change_rules`] carries it out.
    ///
    /// # Errors
    /// Returns an error if the table has no room for the rules of the new patterns.
    pub fn change(&self, config: &Config) -> Result<RuleChange, TooManyRules> {
        let patterns = config.namespace.iter();
        let patterns = patterns.map(|namespace| Some(namespace.pattern.as_str()));
        let patterns: Vec<Option<&str>> = std::iter::once(None).chain(patterns).collect();
        let known = self.rules().count();
        let missing = patterns.iter().filter(|one| self.rule_of(**one).is_none());
        if known + missing.count() > RULES_MAX {
            return Err(TooManyRules::after(known));
        }
        let rules = patterns.iter().map(|one| self.find_or_add(*one));
        let rules: Option<Vec<RuleIndex>> = rules.collect();
        let rules = rules.ok_or_else(|| TooManyRules::after(known))?;
        let whole = Values::new(config.retention(), None);
        let each = config
            .namespace
            .iter()
            .map(|namespace| Values::new(config.retention_in(namespace), namespace.client_publish));
        let mut values = vec![None; self.rules().count()];
        for (rule, of_rule) in rules.iter().zip(std::iter::once(whole).chain(each)) {
            if let Some(place) = values.get_mut(rule.index()) {
                *place = Some(of_rule);
            }
        }
        Ok(RuleChange {
            namespaces: Arc::new(Namespaces {
                namespaces: config.namespace.clone(),
                rules: rules.into_iter().skip(1).collect(),
                values,
            }),
            bounds: config.log,
        })
    }

    /// Returns the index of a pattern's rule. Adds the rule if the pattern has none. Returns `None`
    /// if the table is full.
    fn find_or_add(&self, pattern: Option<&str>) -> Option<RuleIndex> {
        let mut table = self.table.iter();
        let found = table.position(|place| {
            let rule = place.get_or_init(|| Box::new(Rule::new(pattern.map(String::from))));
            rule.pattern.as_deref() == pattern
        });
        Some(RuleIndex(certain::to_u16(found?)))
    }

    fn rule_of(&self, pattern: Option<&str>) -> Option<RuleIndex> {
        let mut rules = self.rules();
        let found = rules.position(|rule| rule.pattern.as_deref() == pattern)?;
        Some(RuleIndex(certain::to_u16(found)))
    }

    fn rules(&self) -> impl Iterator<Item = &Rule> {
        let rules = self.table.iter().map_while(OnceLock::get);
        rules.map(Box::as_ref)
    }

    fn get(&self, index: RuleIndex) -> Option<&Rule> {
        let rule = self.table.get(usize::from(index.0))?.get();
        certain::some(rule, "an index comes from the same table").map(Box::as_ref)
    }

    /// Sets what all threads share of a change. The writer then assigns the channels to their new
    /// rules.
    pub(super) fn begin(&self, RuleChange { namespaces, bounds }: &RuleChange) {
        // A change may replace a change that has not ended.
        self.generation.fetch_or(1, Ordering::Release);
        let shared = &self.bounds;
        shared.bytes.store(bounds.bytes, Ordering::Relaxed);
        shared.entries.store(bounds.entries, Ordering::Relaxed);
        shared.age_ms.store(bounds.age_ms, Ordering::Relaxed);
        let encodings = bounds.encodings_bytes();
        shared.encodings_bytes.store(encodings, Ordering::Relaxed);
        if namespaces
            .all()
            .any(|values| values.overflow == Overflow::Conflate)
        {
            self.has_conflation.store(true, Ordering::Relaxed);
        }
        for (index, rule) in self.rules().enumerate() {
            let values = namespaces.values.get(index).copied().flatten();
            rule.is_used.store(values.is_some(), Ordering::Relaxed);
            if let Some(values) = values {
                rule.age_ms.store(millis(values.age), Ordering::Relaxed);
            }
        }
    }

    /// Ends a change, after all channels of the log have been assigned to their rules.
    pub(super) fn finish(&self) {
        debug_assert_eq!(self.generation(), None, "no change has begun");
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// Returns a number that is larger after each change; `None` while the writer assigns channels
    /// to other rules. A worker whose channels have the rules of another generation must update
    /// them.
    #[must_use]
    pub fn generation(&self) -> Option<u64> {
        let generation = self.generation.load(Ordering::Acquire);
        generation.is_multiple_of(2).then_some(generation)
    }

    /// Returns the time for which a channel with this rule keeps a new publication.
    #[must_use]
    pub fn age(&self, index: RuleIndex) -> Duration {
        let all = self.age_of_log();
        self.get(index).map_or(all, |rule| rule.age().min(all))
    }

    /// Returns the time for which the log keeps a publication of any channel.
    #[must_use]
    pub fn age_of_log(&self) -> Duration {
        Duration::from_millis(self.bounds.age_ms.load(Ordering::Relaxed))
    }

    /// Returns the shortest age limit: of all rules and of the log.
    #[must_use]
    pub fn age_min(&self) -> Duration {
        let ages = self.used_rules().map(|(_, rule)| rule.age());
        ages.fold(self.age_of_log(), Duration::min)
    }

    /// Whether any rule so far has selected conflation.
    #[must_use]
    pub fn has_conflation(&self) -> bool {
        self.has_conflation.load(Ordering::Relaxed)
    }

    /// Returns the maximum number and size of the entries of all channels together.
    #[must_use]
    pub fn bound_of_log(&self) -> Amount {
        Amount {
            bytes: self.bounds.bytes.load(Ordering::Relaxed),
            publications: self.bounds.entries.load(Ordering::Relaxed),
        }
    }

    /// Returns the part of the log's bytes that encoded frames may use.
    pub(super) fn encodings_bytes(&self) -> u64 {
        self.bounds.encodings_bytes.load(Ordering::Relaxed)
    }

    /// Returns the figures of the rules of the newest change. The first rule is for the channels
    /// outside all namespaces.
    #[must_use]
    pub fn figures(&self) -> Vec<RuleFigures<'_>> {
        let figures = self.used_rules().map(|(index, rule)| RuleFigures {
            index,
            pattern: rule.pattern.as_deref(),
            published: rule.published.0.value(),
        });
        figures.collect()
    }

    fn used_rules(&self) -> impl Iterator<Item = (RuleIndex, &Rule)> {
        let rules = self.rules().enumerate();
        let used = rules.filter(|(_, rule)| rule.is_used.load(Ordering::Relaxed));
        used.map(|(index, rule)| (RuleIndex(certain::to_u16(index)), rule))
    }

    /// Counts a publication. Only the log's writer calls this.
    pub(super) fn count_published(&self, index: RuleIndex) {
        if let Some(rule) = self.get(index) {
            rule.published.0.increment();
        }
    }

    /// Sets all numbers of publications to zero, because publications of an earlier run are not
    /// counted. Called at the end of a replay.
    pub fn forget_published(&self) {
        self.rules().for_each(|rule| rule.published.0.set(0));
    }

    /// Called when a channel is created. Returns the highest number among the entries that were
    /// evicted from removed channels of the same name. The callers of this function and of
    /// [`Self::note_evicted`] hold the lock of the channel's shard. Channels of the same name have
    /// the same shard. So the result includes the entries of an earlier channel of the same name.
    pub(super) fn evicted_floor(&self, index: RuleIndex) -> Sequence {
        let rule = self.get(index);
        // The limit is loaded before the floors. In the other order, [`Self::cut_evicted_floor`]
        // could lower the floors and remove the limit between the loads. The result would then be
        // an old floor, without a limit.
        let most = self.evicted_floor_max.load(Ordering::Acquire);
        let common = self.common_floor.load(Ordering::Relaxed);
        let own = rule.map_or(0, |rule| rule.evicted_floor.load(Ordering::Relaxed));
        Sequence(own.max(common).min(most))
    }

    /// Raises the result of [`Self::evicted_floor`] for each rule to the highest one. Called when
    /// the channels of a shard get other rules. The caller holds the lock of the shard. So a
    /// channel of the shard that is created later has at least the number of an earlier channel of
    /// the same name, whatever the rule of that channel was.
    pub(super) fn join_evicted_floors(&self) {
        let floors = self.rules();
        let floors = floors.map(|rule| rule.evicted_floor.load(Ordering::Relaxed));
        let highest = floors.max().unwrap_or_default();
        self.common_floor.fetch_max(highest, Ordering::Relaxed);
    }

    /// Limits the result of [`Self::evicted_floor`] to `kept` during an epoch change. Higher
    /// numbers may still be recorded until [`Self::cut_evicted_floor`] is called, because some
    /// shards still contain publications that the epoch change removes.
    pub(super) fn bound_evicted_floor(&self, kept: Sequence) {
        self.evicted_floor_max.store(kept.0, Ordering::Release);
    }

    /// Lowers the floors to at most `kept`. Then removes the limit that
    /// [`Self::bound_evicted_floor`] has set. Called after the epoch change has removed entries
    /// from all shards.
    pub(super) fn cut_evicted_floor(&self, kept: Sequence) {
        self.common_floor.fetch_min(kept.0, Ordering::Relaxed);
        for rule in self.rules() {
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

impl Rule {
    fn new(pattern: Option<String>) -> Self {
        Self {
            pattern,
            is_used: AtomicBool::default(),
            age_ms: Value::default(),
            published: Published::default(),
            evicted_floor: AtomicU64::new(0),
        }
    }

    fn age(&self) -> Duration {
        Duration::from_millis(self.age_ms.load(Ordering::Relaxed))
    }
}

fn millis(age: Duration) -> u64 {
    certain::to_u64(age.as_millis())
}
