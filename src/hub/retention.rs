//! How much of each channel is kept, and what has to go.
//!
//! A channel learns its rules once, when it comes to be: an index into a small table, one row for
//! each namespace and one for everybody else. Its own bounds take its oldest entries out of the
//! middle of the log; the bounds for all channels together take the oldest of all. Publishing only
//! notes which channel is over its bounds, so it never costs more than one look at the channel's
//! oldest entry; a clock for each age that is shorter than the log's steps over every entry once.
//!
//! A channel's bounds never take from a subscriber that keeps up: they wait until the walk over the
//! channel is done and the worker says that nobody is left whose socket takes more. The bounds for
//! all channels, and ages, do not wait.

use std::collections::VecDeque;
use std::time::Duration;

use super::channel::{Amount, Channel, ChannelIndex};
use super::{Hub, log::Entry};
use crate::config::namespace::{self, Namespace};
use crate::config::{Config, LogBounds, Overflow, Retention};
use crate::frame::Publication;
use crate::id::{ChannelName, Sequence};
use crate::time::{Deadline, Now};

/// Bytes of memory for a channel itself: its place among the channels and, in tables that double as
/// they grow, among the names.
const CHANNEL_BYTES: u64 =
    (size_of::<Channel>() + 2 * size_of::<(ChannelName, ChannelIndex)>()) as u64;

// The crate's page does this sum for a channel with one entry.
const _: () = assert!(size_of::<Publication>() <= 376 && size_of::<Entry>() <= 48);
const _: () = assert!(CHANNEL_BYTES <= 192);

/// A channel's place in the table of rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuleIndex(u16);

/// The rules and what is known of whom they concern.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    namespaces: Vec<Namespace>,
    /// First that of channels in no namespace, then one for each namespace.
    table: Vec<Rule>,
    clocks: Vec<Clock>,
    /// For all channels together.
    bounds: LogBounds,
    /// Channels that may be over their bounds, and that nobody is being visited for.
    over: VecDeque<ChannelIndex>,
    /// Channels that have an entry in the log.
    kept: u64,
    /// The last eviction ended at its budget.
    is_cut_short: bool,
}

/// What holds for the channels of one namespace.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    /// Most that is kept of a channel. Its newest publication is, whatever it weighs.
    bound: Amount,
    age: Duration,
    pub(super) overflow: Overflow,
    /// The clock of this age; none where it is the log's.
    clock: Option<usize>,
    /// The newest eviction of any channel that has gone. A channel that comes back may have had
    /// entries up to here.
    pub(super) forgotten: Sequence,
}

/// Finds the oldest entry among the channels with one age.
#[derive(Clone, Debug)]
struct Clock {
    age: Duration,
    /// Everything before it is of other channels or gone.
    next: Sequence,
    /// When the next of its entries will be too old, as far as was looked.
    due: Option<Deadline>,
}

impl Rules {
    pub(super) fn new(config: &Config, head: Sequence) -> Self {
        let mut clocks: Vec<Clock> = Vec::new();
        let whole = config.retention();
        let in_namespaces = config.namespace.iter().map(|n| config.retention_in(n));
        let all = std::iter::once(whole).chain(in_namespaces);
        let table = all.map(|retention| {
            let Retention {
                entries,
                bytes,
                age_ms,
                overflow,
            } = retention;
            let age = Duration::from_millis(age_ms);
            let clock = (age_ms < whole.age_ms).then(|| {
                let known = clocks.iter().position(|clock| clock.age == age);
                known.unwrap_or_else(|| {
                    clocks.push(Clock {
                        age,
                        next: head.next(),
                        due: None,
                    });
                    clocks.len() - 1
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
                forgotten: head,
            }
        });
        let table = table.collect();
        Self {
            namespaces: config.namespace.clone(),
            table,
            clocks,
            bounds: config.log,
            over: VecDeque::new(),
            kept: 0,
            is_cut_short: false,
        }
    }

    /// The rules for a channel that comes to be.
    pub(super) fn find(&self, name: &ChannelName) -> RuleIndex {
        let found = namespace::find(&self.namespaces, name.as_str());
        RuleIndex(found.map_or(0, |index| u16::try_from(index + 1).unwrap_or(0)))
    }

    pub(super) fn get(&self, index: RuleIndex) -> Option<&Rule> {
        self.table.get(usize::from(index.0))
    }

    pub(super) fn overflow(&self, index: RuleIndex) -> Overflow {
        self.get(index).map_or(Overflow::Skip, |rule| rule.overflow)
    }

    pub(super) fn forgotten(&self, index: RuleIndex) -> Sequence {
        self.get(index)
            .map_or(Sequence::ZERO, |rule| rule.forgotten)
    }

    /// A channel of which this was the newest eviction has gone.
    pub(super) fn forget(&mut self, index: RuleIndex, evicted: Sequence) {
        if let Some(rule) = self.table.get_mut(usize::from(index.0)) {
            rule.forgotten = rule.forgotten.max(evicted);
        }
    }

    pub(super) fn shrink_to_fit(&mut self) {
        self.over.shrink_to_fit();
    }
}

impl Hub {
    /// Bytes of memory that the log's bound counts: publications, their encodings used here, the
    /// channels that have any, and what is known of keys.
    #[must_use]
    pub fn log_bytes(&self) -> u64 {
        self.log.bytes() + self.rules.kept * CHANNEL_BYTES + self.newest.bytes()
    }

    /// Evicts what is too old and what the bounds for all channels no longer allow, at most `max`
    /// publications. Returns how many.
    pub fn evict(&mut self, now: Now, max: u32) -> u32 {
        let mut count = 0;
        // What its own channel has no use for goes before what others keep.
        while count < max && self.is_log_full() && self.trim(1) > 0 {
            count += 1;
        }
        while count < max
            && let Some(oldest) = self.log.oldest()
            && (self.is_log_full() || self.is_too_old(oldest, now))
        {
            self.remove_first(oldest.channel);
            count += 1;
        }
        for clock in 0..self.rules.clocks.len() {
            while let Some((due, channel)) = self.look(clock)
                && now.has_reached(due)
                && count < max
            {
                self.remove_first(channel);
                count += 1;
            }
        }
        self.rules.is_cut_short = count >= max;
        count
    }

    /// Evicts what the channels' own bounds no longer allow, at most `max` publications. The worker
    /// says so when everybody has been served whose socket takes it. Returns how many.
    pub fn trim(&mut self, max: u32) -> u32 {
        let mut count = 0;
        while count < max
            && let Some(index) = self.rules.over.front().copied()
        {
            if self.is_to_trim(index) {
                self.remove_first(index);
                count += 1;
            } else {
                self.rules.over.pop_front();
                if let Some(channel) = self.channels.get_mut(index.0 as usize) {
                    channel.is_over_queued = false;
                }
            }
        }
        count
    }

    /// When the next publication has to be evicted.
    #[must_use]
    pub fn next_eviction(&self) -> Option<Deadline> {
        if !self.rules.over.is_empty() || self.rules.is_cut_short {
            return Some(Deadline(0));
        }
        let oldest = self.log.oldest();
        let oldest = oldest.map(|entry| entry.publication.published.after(self.rules.bounds.age()));
        let clocks = self.rules.clocks.iter().filter_map(|clock| clock.due);
        clocks.chain(oldest).min()
    }

    /// Notes a channel that has more in the log than its rules allow.
    pub(super) fn note_if_over(&mut self, index: ChannelIndex) {
        if self.is_to_trim(index)
            && let Some(channel) = self.channels.get_mut(index.0 as usize)
            && !std::mem::replace(&mut channel.is_over_queued, true)
        {
            self.rules.over.push_back(index);
        }
    }

    /// A channel has got its first entry.
    pub(super) fn note_kept(&mut self) {
        self.rules.kept += 1;
    }

    /// Takes a channel's oldest entry out of the log. Whoever stands before it has a gap.
    fn remove_first(&mut self, index: ChannelIndex) {
        let Some(channel) = self.channels.get_mut(index.0 as usize) else {
            return;
        };
        let Some(entry) = self.log.remove(channel.first) else {
            debug_assert!(false, "{:?} is not in the log", channel.first);
            return;
        };
        self.newest.remove(&entry);
        channel.evicted = channel.first;
        channel.first = entry.next;
        if entry.next == Sequence::ZERO {
            self.rules.kept -= 1;
            self.drop_if_abandoned(index);
        }
    }

    /// Whether a channel's oldest entry is beyond its bounds and was brought to everybody.
    fn is_to_trim(&self, index: ChannelIndex) -> bool {
        let Some(channel) = self.channels.get(index.0 as usize) else {
            return false;
        };
        let (Some(rule), Some(first)) = (self.rules.get(channel.rule), self.log.get(channel.first))
        else {
            return false;
        };
        let held = Amount {
            bytes: channel.total.bytes - first.bytes_before,
            publications: channel.total.publications - first.ordinal,
        };
        held.publications > 1 && held.exceeds(rule.bound) && !channel.subscribers.is_walking()
    }

    fn is_log_full(&self) -> bool {
        let bounds = &self.rules.bounds;
        self.log_bytes() > bounds.bytes || self.log.len() as u64 > bounds.entries
    }

    fn is_too_old(&self, entry: &Entry, now: Now) -> bool {
        now.has_reached(entry.publication.published.after(self.rules.bounds.age()))
    }

    /// The next entry of a clock: when it is too old, and its channel, of which it is the oldest.
    fn look(&mut self, clock: usize) -> Option<(Deadline, ChannelIndex)> {
        let Self {
            log,
            channels,
            rules,
            ..
        } = self;
        let Rules { table, clocks, .. } = rules;
        let this = clocks.get_mut(clock)?;
        this.due = None;
        while let Some(entry) = log.oldest_from(this.next) {
            this.next = entry.publication.id.sequence;
            let channel = channels.get(entry.channel.0 as usize)?;
            let rule = table.get(usize::from(channel.rule.0))?;
            if rule.clock == Some(clock) {
                debug_assert_eq!(channel.first, this.next);
                let due = entry.publication.published.after(this.age);
                this.due = Some(due);
                return Some((due, entry.channel));
            }
            this.next = this.next.next();
        }
        this.next = log.expected();
        None
    }

    /// Whether what follows a position, to which the conn in a slot has everything, is in the older
    /// half of what the log may hold, or gone. A client that stays there would soon be told of a
    /// gap, perhaps without need, although nothing happens on its channels.
    #[must_use]
    pub fn is_sinking(&self, slot: u32, position: Sequence, now: Now) -> bool {
        let Some(oldest) = self.log.oldest() else {
            return position < self.head;
        };
        let Some(next) = self.log.oldest_from(position.next()) else {
            return false;
        };
        let bounds = &self.rules.bounds;
        let channels = self.subscriptions(slot).iter();
        let channels = channels.filter_map(|s| self.channels.get(s.channel.0 as usize));
        let ages = channels.filter_map(|channel| Some(self.rules.get(channel.rule)?.age));
        let age = ages.fold(bounds.age(), Duration::min);
        let is_old = now.has_reached(next.publication.published.after(age / 2));
        let is_half_full =
            self.log_bytes() > bounds.bytes / 2 || self.log.len() as u64 > bounds.entries / 2;
        let oldest = oldest.publication.id.sequence.0;
        let span = (self.head.0 + 1).saturating_sub(oldest);
        let behind = self.head.0.saturating_sub(position.0);
        position.0 + 1 < oldest || is_old || (is_half_full && behind > span / 2)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::frame::Payload;
    use crate::hub::{GapCause, JoinOutcome, Visit};
    use crate::id::{Cursor, Epoch, Since};

    const MS: u64 = 1_000;

    fn name(text: &str) -> ChannelName {
        ChannelName::new(text).unwrap()
    }

    fn hub(namespaces: Vec<Namespace>, change: impl FnOnce(&mut Config)) -> Hub {
        let mut config = Config {
            namespace: namespaces,
            ..Config::default()
        };
        change(&mut config);
        Hub::new(Epoch::new(7), Sequence::ZERO, &config)
    }

    fn namespace(pattern: &str, change: impl FnOnce(&mut Namespace)) -> Namespace {
        let mut namespace = Namespace {
            pattern: pattern.into(),
            ..Namespace::default()
        };
        change(&mut namespace);
        namespace
    }

    fn publish(hub: &mut Hub, channel: &str, bytes: usize, at_ms: u64) -> u64 {
        let id = Cursor {
            epoch: Epoch::new(7),
            sequence: hub.log.expected(),
        };
        let payload = Payload::Text("x".repeat(bytes).into());
        let now = Now(at_ms * MS);
        let publication = Publication::new(id, name(channel), payload, now);
        hub.publish(Arc::new(publication), now);
        id.sequence.0
    }

    fn held(hub: &Hub) -> Vec<u64> {
        let all = 1..hub.log.expected().0;
        all.filter(|sequence| hub.log.get(Sequence(*sequence)).is_some())
            .collect()
    }

    fn walk(hub: &mut Hub) {
        while hub.visit() != Visit::Nobody {}
    }

    #[test]
    fn channel_keeps_its_newest_entries_and_leaves_others_theirs() {
        let mut hub = hub(vec![namespace("a*", |n| n.log_entries = Some(2))], |_| {});
        for channel in ["a1", "b", "a1", "a2", "a1", "b", "a1"] {
            publish(&mut hub, channel, 1, 0);
        }
        assert_eq!(hub.next_eviction(), Some(Deadline(0)), "at once");
        assert_eq!(hub.trim(1), 1);
        assert_eq!(hub.trim(100), 1);
        assert_eq!(held(&hub), [2, 4, 5, 6, 7]);
        assert_ne!(hub.next_eviction(), Some(Deadline(0)));
        hub.check_invariants();
    }

    #[test]
    fn channel_keeps_its_newest_bytes_but_its_newest_publication_in_any_case() {
        let mut hub = hub(vec![namespace("a", |n| n.log_bytes = Some(25))], |_| {});
        for bytes in [10, 10, 10] {
            publish(&mut hub, "a", bytes, 0);
        }
        assert_eq!(hub.trim(100), 1);
        assert_eq!(held(&hub), [2, 3]);
        publish(&mut hub, "a", 26, 0);
        assert_eq!(hub.trim(100), 2);
        assert_eq!(held(&hub), [4]);
    }

    #[test]
    fn cursor_before_what_a_channel_has_dropped_is_told_so_and_others_are_not() {
        let mut hub = hub(vec![namespace("a", |n| n.log_entries = Some(1))], |_| {});
        for channel in ["a", "b", "a", "a"] {
            publish(&mut hub, channel, 1, 0);
        }
        hub.trim(100);
        let mut join = |slot, channel: &str, sequence| {
            let since = Since::After(Cursor {
                epoch: Epoch::new(7),
                sequence: Sequence(sequence),
            });
            match hub.subscribe(slot, &name(channel), since, Sequence(4)) {
                JoinOutcome::Joined(joined) => joined,
                other => panic!("{other:?}"),
            }
        };
        let gap = join(0, "a", 2).gap.unwrap();
        assert_eq!(gap.cause, GapCause::Expired);
        assert_eq!(gap.until.sequence, Sequence(3));
        assert_eq!(join(1, "a", 3).gap, None);
        assert_eq!(join(2, "b", 0).gap, None);
        assert_eq!(join(3, "a", 4).gap, None);
    }

    #[test]
    fn nothing_is_taken_from_subscribers_that_are_still_to_be_visited() {
        let mut hub = hub(vec![namespace("a", |n| n.log_entries = Some(1))], |_| {});
        let _joined = hub.subscribe(0, &name("a"), Since::Now, Sequence::ZERO);
        for _ in 0..5 {
            publish(&mut hub, "a", 1, 0);
        }
        assert_eq!(hub.trim(100), 0);
        assert!(hub.visit() == Visit::Subscriber(0));
        assert_eq!(hub.trim(100), 0, "the walk is not done");
        walk(&mut hub);
        assert_eq!(hub.trim(100), 4);
        // The bounds for all do not wait.
        let mut hub = self::hub(vec![], |c| c.log.entries = 1);
        let _joined = hub.subscribe(0, &name("a"), Since::Now, Sequence::ZERO);
        publish(&mut hub, "a", 1, 0);
        publish(&mut hub, "a", 1, 0);
        assert_eq!(hub.evict(Now(0), 100), 1);
    }

    #[test]
    fn ages_end_without_traffic_and_each_at_its_time() {
        let short = namespace("short", |n| n.log_age_ms = Some(100));
        let long = namespace("long", |n| n.log_age_ms = Some(500));
        let mut hub = hub(vec![short, long], |c| c.log.age_ms = 1_000);
        for (at_ms, channel) in [(0, "other"), (10, "long"), (20, "short"), (30, "short")] {
            publish(&mut hub, channel, 1, at_ms);
        }
        let mut ends = Vec::new();
        hub.evict(Now(30 * MS), 100);
        while let Some(due) = hub.next_eviction() {
            assert_eq!(hub.evict(Now(due.0 - 1), 100), 0);
            assert_eq!(hub.evict(Now(due.0), 100), 1);
            ends.push((due.0 / MS, held(&hub)));
        }
        assert_eq!(
            ends,
            [
                (120, vec![1, 2, 4]),
                (130, vec![1, 2]),
                (510, vec![1]),
                (1_000, vec![]),
            ]
        );
        assert_eq!((hub.channel_count(), hub.log_bytes()), (0, 0));
    }

    #[test]
    fn full_log_drops_what_channels_do_not_want_before_what_they_keep() {
        let last_only = namespace("fast", |n| n.log_entries = Some(1));
        let mut hub = hub(vec![last_only], |c| c.log.entries = 3);
        for channel in ["slow", "fast", "fast", "fast", "fast"] {
            publish(&mut hub, channel, 1, 0);
        }
        assert_eq!(hub.evict(Now(0), 100), 2, "no more than that is needed");
        assert_eq!(held(&hub), [1, 4, 5]);
        assert_eq!(hub.trim(100), 1);
        assert_eq!(held(&hub), [1, 5]);
    }

    #[test]
    fn eviction_that_ends_at_its_budget_goes_on_at_once() {
        let mut hub = hub(Vec::new(), |c| c.log.entries = 1);
        for channel in ["a", "b", "c", "d"] {
            publish(&mut hub, channel, 1, 0);
        }
        assert_eq!(hub.evict(Now(0), 2), 2);
        assert_eq!(hub.next_eviction(), Some(Deadline(0)));
        assert_eq!(hub.evict(Now(0), 2), 1);
        assert_ne!(hub.next_eviction(), Some(Deadline(0)));
    }

    #[test]
    fn channel_that_came_and_went_in_one_namespace_says_nothing_of_another() {
        let short = namespace("short*", |n| n.log_age_ms = Some(10));
        let mut hub = hub(vec![short], |_| {});
        publish(&mut hub, "short1", 1, 0);
        assert_eq!(hub.evict(Now(10 * MS), 100), 1);
        let since = Since::After(Cursor {
            epoch: Epoch::new(7),
            sequence: Sequence::ZERO,
        });
        for (slot, channel, has_gap) in [(0, "short1", true), (1, "short2", true), (2, "x", false)]
        {
            let outcome = hub.subscribe(slot, &name(channel), since, Sequence(1));
            let JoinOutcome::Joined(joined) = outcome else {
                panic!("{outcome:?}")
            };
            assert_eq!(joined.gap.is_some(), has_gap, "{channel}");
        }
    }

    #[test]
    fn position_sinks_with_the_age_of_its_channels() {
        let short = namespace("short", |n| n.log_age_ms = Some(100));
        let mut hub = hub(vec![short], |_| {});
        let _joined = hub.subscribe(0, &name("short"), Since::Now, Sequence::ZERO);
        let _joined = hub.subscribe(1, &name("long"), Since::Now, Sequence::ZERO);
        publish(&mut hub, "other", 1, 0);
        let sinks = |slot, at_ms| hub.is_sinking(slot, Sequence::ZERO, Now(at_ms * MS));
        assert_eq!(
            [sinks(0, 49), sinks(0, 50), sinks(1, 50)],
            [false, true, false]
        );
    }

    #[test]
    fn each_of_very_many_channels_keeps_its_one_entry_within_the_bound() {
        const CHANNELS: u64 = 20_000;
        let last_only = namespace("*", |n| n.log_entries = Some(1));
        // Sixty-four entries share what their segment needs for itself.
        let each = size_of::<Publication>() + size_of::<Entry>() + 1 + "c00000".len() + 10;
        let bound = CHANNELS * (each as u64 + CHANNEL_BYTES);
        let mut hub = hub(vec![last_only], |c| c.log.bytes = bound + 4_000);
        for round in 0..3 {
            for number in 0..CHANNELS {
                publish(&mut hub, &format!("c{number:05}"), 10, round);
            }
            hub.trim(u32::MAX);
            assert_eq!(hub.evict(Now(round), u32::MAX), 0, "round {round}");
            assert_eq!(hub.log.len() as u64, CHANNELS);
        }
        assert!(hub.log_bytes() > bound - bound / 100, "{bound}");
        publish(&mut hub, "one:too:many", bound as usize / 50, 3);
        assert!(hub.evict(Now(3), u32::MAX) > 0);
        assert!(hub.log_bytes() <= bound + 4_000);
    }
}
