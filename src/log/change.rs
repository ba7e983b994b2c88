//! A change of the rules while the server runs.
//!
//! The writer first visits all channels, one shard at a time, so that it can publish in between. It
//! assigns each channel to the rule of the namespace that now matches the channel. Then it visits
//! all entries, so that they have the age limits of the new rules. Workers update the rules of
//! their own channels after the change, when [`super::Rules::generation`] has increased.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::rules::{Namespaces, Values};
use super::shard::{Channel, Shard, assert_unlocked, key};
use super::{Amount, ChannelKey, Log, RuleChange, Writer};
use crate::config::Overflow;
use crate::config::limits::RULE_UPDATES_PER_TURN_MAX;
use crate::id::Sequence;

/// A change that is being carried out.
#[derive(Debug)]
pub(super) struct OngoingChange {
    change: RuleChange,
    /// The shards that are still to be visited.
    shards: Range<u32>,
    /// The number of the first entry that is still to be visited, after all shards.
    next: Sequence,
}

impl Writer {
    /// Begins a change of the rules, which [`Self::continue_change`] carries out. Replaces a change
    /// that has not ended.
    pub fn change_rules(&mut self, change: RuleChange) {
        self.log.rules.begin(&change);
        self.bounds = change.bounds;
        self.clocks
            .add(&change.namespaces.ages(change.bounds.age()));
        self.change = Some(OngoingChange {
            change,
            shards: self.log.shards.numbers(),
            next: Sequence::ZERO,
        });
    }

    /// Whether a change of the rules is being carried out.
    #[must_use]
    pub fn is_changing_rules(&self) -> bool {
        self.change.is_some()
    }

    /// Carries out a part of the change of the rules that has begun: visits the channels of one
    /// shard, or a limited number of entries.
    pub fn continue_change(&mut self) {
        assert_unlocked();
        let Some(mut ongoing) = self.change.take() else {
            return;
        };
        if let Some(number) = ongoing.shards.next() {
            self.visit_shard(number, &ongoing.change.namespaces);
            self.change = Some(ongoing);
            return;
        }
        if self.visit_entries(&mut ongoing.next) {
            self.change = Some(ongoing);
            return;
        }
        let RuleChange { namespaces, bounds } = ongoing.change;
        self.clocks.restart(&namespaces.ages(bounds.age()));
        self.log.rules.finish();
        self.publish_figures();
    }

    fn visit_shard(&mut self, number: u32, namespaces: &Arc<Namespaces>) {
        let log = Arc::clone(&self.log);
        let Some(mut shard) = log.shards.write_number(number) else {
            return;
        };
        let shard: &mut Shard = &mut shard;
        let before = std::mem::replace(&mut shard.namespaces, Arc::clone(namespaces));
        let has_changed = !before.has_rules_of(namespaces);
        if has_changed {
            log.rules.join_evicted_floors();
        }
        for place in shard.places() {
            let Some(channel) = shard.get_mut(place) else {
                continue;
            };
            if has_changed {
                channel.rule = namespaces.find(&channel.name);
            }
            let Some(values) = namespaces.values(channel.rule) else {
                continue;
            };
            self.adjust(channel, values);
            if channel.is_over(values.bound, Amount::default())
                && !std::mem::replace(&mut channel.is_over_queued, true)
            {
                self.over.push_back(key(number, place));
            }
        }
    }

    /// Adjusts a channel to the class, the policy and the age limit of its rule.
    fn adjust(&mut self, channel: &mut Channel, values: Values) {
        if values.class != channel.class {
            let kept = u64::from(!channel.entries().is_empty());
            let bytes = channel.bytes_held();
            let before = self.part(channel.class);
            (before.kept, before.bytes) = (before.kept - kept, before.bytes - bytes);
            let now = self.part(values.class);
            (now.kept, now.bytes) = (now.kept + kept, now.bytes + bytes);
            channel.class = values.class;
        }
        let conflated = channel.conflates();
        channel.overflow = values.overflow;
        if conflated != channel.conflates() {
            let before = channel.bytes_held();
            let conflates = values.overflow == Overflow::Conflate;
            if let Some(history) = channel.history_mut() {
                history.rebuild(conflates, &self.log.hasher);
            }
            let part = self.part(channel.class);
            part.bytes = part.bytes + channel.bytes_held() - before;
        }
    }

    /// Gives the clocks of their channels' rules to entries from the number `next` on. Returns
    /// false if no entry is left.
    fn visit_entries(&mut self, next: &mut Sequence) -> bool {
        for _ in 0..RULE_UPDATES_PER_TURN_MAX {
            let Some(entry) = self.oldest_from(*next) else {
                return false;
            };
            *next = entry.sequence.next();
            let age = self.log.age_of(entry.channel);
            let clock = age.map_or(entry.clock, |age| self.clock_for(age));
            if clock != entry.clock {
                self.set_clock(entry.sequence, clock);
            }
        }
        true
    }
}

impl Log {
    /// Returns the age limit of a channel that has entries.
    fn age_of(&self, key: ChannelKey) -> Option<Duration> {
        let shard = self.shards.read(key)?;
        let values = shard.namespaces.values(shard.get(key.place())?.rule);
        values.map(|values| values.age)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::limits::{NAMESPACES_MAX, RULES_MAX};
    use crate::config::{ClientPublish, Config, Namespace};
    use crate::frame::{Payload, Publication};
    use crate::id::{ChannelName, Cursor, Epoch};
    use crate::log::{ChannelState, WorkerInterest};
    use crate::time::Now;

    const SECOND: u64 = 1_000_000;

    fn name(text: &str) -> ChannelName {
        ChannelName::new(text).unwrap()
    }

    fn namespace(pattern: &str) -> Namespace {
        Namespace {
            pattern: pattern.into(),
            ..Namespace::default()
        }
    }

    fn with(namespace: impl Into<Vec<Namespace>>) -> Config {
        Config {
            namespace: namespace.into(),
            ..Config::default()
        }
    }

    /// Publishes once for each word in `keys`, with the word as the key, at a time in seconds.
    fn publish(writer: &mut Writer, channel: &str, keys: &str, second: u64) {
        for key in keys.split_whitespace() {
            let id = Cursor {
                epoch: Epoch::new(7),
                sequence: writer.head().next(),
            };
            let (ledger, payload) = (writer.log().ledger(), Payload::Text("text".into()));
            let publication =
                Publication::new(id, name(channel), payload, Now(second * SECOND), ledger)
                    .labelled(None, Some(key.into()));
            writer.announce(id.sequence);
            writer.publish(Arc::new(publication), |_, _, _| {});
            writer.note_posted();
        }
    }

    fn change(writer: &mut Writer, config: &Config) {
        writer.change_rules(writer.log().rules().change(config).unwrap());
        while writer.is_changing_rules() {
            writer.continue_change();
            writer.check_invariants();
        }
    }

    fn count(writer: &Writer, channel: &str) -> u64 {
        let mut found = 0;
        writer.log().summarize(Now(0), |known, summary| {
            if *known == name(channel) {
                found = summary.kept.publications;
            }
        });
        found
    }

    fn join(writer: &Writer, channel: &str) -> ChannelState {
        let (log, mut late) = (writer.log(), Vec::new());
        let horizon = log.state().horizon(log.posted());
        let interest = WorkerInterest {
            worker: 0,
            place: 0,
        };
        let none = Amount::default();
        let joined = log.register_interest(&name(channel), interest, horizon, none, &mut late);
        joined.unwrap().0
    }

    #[test]
    fn channel_has_the_bounds_of_the_namespace_that_matches_it_now() {
        let mut writer = Writer::new(&with([]), Sequence::ZERO);
        publish(&mut writer, "a", "k k k k k", 0);
        publish(&mut writer, "b", "k k k", 0);
        let two = Namespace {
            log_entries: Some(2),
            ..namespace("a")
        };
        change(&mut writer, &with([two.clone()]));
        // Only the bounds of the new rule make these entries leave.
        assert_eq!(writer.next_eviction(), Some(crate::time::Deadline(0)));
        assert_eq!(writer.trim(u32::MAX), 3);
        publish(&mut writer, "a", "k", 0);
        assert_eq!((count(&writer, "a"), count(&writer, "b")), (2, 3));
        let one = Namespace {
            log_entries: Some(1),
            ..namespace("*")
        };
        change(&mut writer, &with([one, two]));
        assert_eq!(writer.trim(u32::MAX), 2);
        assert_eq!((count(&writer, "a"), count(&writer, "b")), (2, 1));
        change(&mut writer, &with([]));
        publish(&mut writer, "a", "k k", 0);
        publish(&mut writer, "b", "k k", 0);
        assert_eq!((count(&writer, "a"), count(&writer, "b")), (4, 3));
        writer.check_invariants();
    }

    #[test]
    fn entries_have_the_age_limit_of_the_new_rule_of_their_channel() {
        let short = |pattern: &str, seconds: u64| Namespace {
            log_age_ms: Some(seconds * 1000),
            ..namespace(pattern)
        };
        let first = with([short("a", 2), short("b", 3)]);
        let mut writer = Writer::new(&first, Sequence::ZERO);
        for channel in ["a", "b", "c"] {
            publish(&mut writer, channel, "k", 0);
        }
        assert_eq!(writer.evict(Now(SECOND), u32::MAX), 0);
        change(&mut writer, &with([short("b", 5), short("c", 2)]));
        publish(&mut writer, "b", "k", 3);
        assert_eq!(writer.evict(Now(4 * SECOND), u32::MAX), 1);
        let counts = ["a", "b", "c"].map(|channel| count(&writer, channel));
        assert_eq!(counts, [1, 2, 0]);
        assert_eq!(writer.evict(Now(5 * SECOND), u32::MAX), 1);
        let counts = ["a", "b", "c"].map(|channel| count(&writer, channel));
        assert_eq!(counts, [1, 1, 0]);
        let mut all = with([]);
        all.log.age_ms = 6000;
        change(&mut writer, &all);
        assert_eq!(writer.evict(Now(6 * SECOND), u32::MAX), 1);
        assert_eq!(writer.evict(Now(9 * SECOND), u32::MAX), 1);
        writer.check_invariants();
    }

    #[test]
    fn channel_lists_superseded_entries_while_its_rule_conflates() {
        let mut writer = Writer::new(&with([]), Sequence::ZERO);
        publish(&mut writer, "a", "x y x x", 0);
        let key = join(&writer, "a").key;
        let run = |writer: &Writer| {
            let log = writer.log();
            let horizon = log.state().horizon(log.posted());
            let newest = log.newest_after(key, Sequence::ZERO, horizon);
            let run = log.superseded_run(key, Sequence::ZERO, horizon);
            (
                run.map(|(until, count)| (until.0, count)),
                newest.publications,
            )
        };
        assert_eq!(run(&writer), (None, 4));
        let conflating = Namespace {
            overflow: Some(Overflow::Conflate),
            ..namespace("a")
        };
        change(&mut writer, &with([conflating]));
        assert_eq!(run(&writer), (Some((1, 1)), 2));
        publish(&mut writer, "a", "y", 0);
        assert_eq!(run(&writer), (Some((3, 3)), 2));
        change(&mut writer, &with([]));
        assert_eq!(run(&writer), (None, 5));
    }

    #[test]
    fn channel_that_is_created_again_under_another_rule_knows_what_was_lost() {
        let short = Namespace {
            log_age_ms: Some(1000),
            ..namespace("a")
        };
        let mut writer = Writer::new(&with([short]), Sequence::ZERO);
        publish(&mut writer, "a", "k k", 0);
        writer.evict(Now(SECOND), u32::MAX);
        assert_eq!(writer.log().channel_count(), 0);
        change(&mut writer, &with([]));
        assert_eq!(join(&writer, "a").evicted, Sequence(2));
        let mut writer = Writer::new(&with([]), Sequence::ZERO);
        publish(&mut writer, "b", "k", 0);
        writer.evict(Now(60 * SECOND), u32::MAX);
        change(&mut writer, &with([namespace("b")]));
        assert_eq!(join(&writer, "b").evicted, Sequence(1));
    }

    #[test]
    fn share_of_clients_includes_what_was_published_after_the_change() {
        let clients = Namespace {
            client_publish: Some(ClientPublish::Broadcast),
            ..namespace("a")
        };
        let mut config = with([]);
        config.log.entries = 8;
        let mut writer = Writer::new(&config, Sequence::ZERO);
        publish(&mut writer, "a", "k k k", 0);
        config.namespace = vec![clients];
        change(&mut writer, &config);
        publish(&mut writer, "a", "k k k k", 0);
        writer.evict(Now(0), u32::MAX);
        // Half of the log is for clients, and four entries are of clients.
        assert_eq!(count(&writer, "a"), 7);
        publish(&mut writer, "a", "k", 0);
        writer.evict(Now(0), u32::MAX);
        assert_eq!(count(&writer, "a"), 4);
        config.namespace.clear();
        change(&mut writer, &config);
        publish(&mut writer, "a", "k k k", 0);
        writer.evict(Now(0), u32::MAX);
        assert_eq!(count(&writer, "a"), 7);
        writer.check_invariants();
    }

    #[test]
    fn change_that_replaces_an_unfinished_one_decides() {
        let bound = |entries| {
            with([Namespace {
                log_entries: Some(entries),
                ..namespace("*")
            }])
        };
        let mut writer = Writer::new(&with([]), Sequence::ZERO);
        publish(&mut writer, "a", "k k k k", 0);
        writer.change_rules(writer.log().rules().change(&bound(1)).unwrap());
        assert_eq!(writer.log().rules().generation(), None);
        writer.continue_change();
        change(&mut writer, &bound(3));
        writer.trim(u32::MAX);
        assert!(writer.log().rules().generation().is_some());
        publish(&mut writer, "a", "k k", 0);
        assert_eq!(count(&writer, "a"), 3);
    }

    #[test]
    fn pattern_keeps_its_rule_and_too_many_patterns_are_refused() {
        let writer = Writer::new(&with([namespace("first")]), Sequence::ZERO);
        let rules = writer.log().rules();
        let many = |from: usize, count: usize| {
            let patterns = from..from + count;
            let patterns = patterns.map(|number| namespace(&format!("n{number}")));
            with(patterns.collect::<Vec<_>>())
        };
        let rounds = (RULES_MAX - 2) / NAMESPACES_MAX;
        for round in 0..rounds {
            let change = rules.change(&many(round * NAMESPACES_MAX, NAMESPACES_MAX));
            assert!(change.is_ok());
        }
        let left = RULES_MAX - 2 - rounds * NAMESPACES_MAX;
        assert!(rules.change(&many(9000, left + 1)).is_err());
        assert!(rules.change(&many(9000, left)).is_ok());
        assert!(rules.change(&with([namespace("other")])).is_err());
        let again = rules.change(&with([namespace("n7"), namespace("first")]));
        let found = again.unwrap().namespaces.find(&name("first"));
        assert_eq!(found.index(), 1);
    }
}
