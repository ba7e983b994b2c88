//! The rules of the hub's channels, after a change of the log's rules.
//!
//! The hub stores the rule of each of its channels. When the log has assigned its channels to other
//! rules, the hub reads the rule of each channel again, a bounded number of channels in each turn.
//! Until then, a channel has the policy and the age limit of its previous rule.

use super::poll::Samples;
use super::{HELD_SHARE, Hub};
use crate::certain;
use crate::log::Rules;
use crate::metrics::Counter;

/// The state of the hub's rules.
#[derive(Debug)]
pub(super) struct RuleUpdate {
    /// The generation of the log's rules that the hub's channels have or will get. `None` if the
    /// log was changing its rules when the hub was created.
    generation: Option<u64>,
    /// The index of the next channel whose rule is read again; `None` if no channel is left.
    next: Option<usize>,
}

impl RuleUpdate {
    /// Returns the state of a hub without channels.
    pub(super) fn new(rules: &Rules) -> Self {
        Self {
            generation: rules.generation(),
            next: None,
        }
    }
}

impl Hub {
    /// Whether channels may have rules of an earlier generation than the log.
    #[must_use]
    pub fn has_old_rules(&self) -> bool {
        let newest = self.log.rules().generation();
        self.rule_update.next.is_some()
            || (newest.is_some() && newest != self.rule_update.generation)
    }

    /// Updates the rules of at most `max` channels, if the log has changed its rules. Returns true
    /// if the last channel was updated. Then the caller must enforce the quota of each conn,
    /// because superseded publications of a channel that no longer conflates count again.
    #[must_use]
    pub fn update_rules(&mut self, max: usize) -> bool {
        let rules = self.log.rules();
        let generation = rules.generation();
        if generation.is_some() && generation != self.rule_update.generation {
            self.held_bytes_max = rules.bound_of_log().bytes / HELD_SHARE;
            self.samples.set_interval(Samples::interval(rules));
            self.rule_update = RuleUpdate {
                generation,
                next: Some(0),
            };
        }
        let Some(first) = self.rule_update.next else {
            return false;
        };
        let end = self.channels.end().min(first + max);
        for index in first..end {
            self.update_rule(index);
        }
        let has_more = end < self.channels.end();
        self.rule_update.next = has_more.then_some(end);
        !has_more
    }

    /// Whether the log and the hub have the same rules for the hub's channels.
    #[must_use]
    pub fn has_rules_of_log(&self) -> bool {
        let RuleUpdate { generation, next } = self.rule_update;
        next.is_none() && generation == self.log.rules().generation()
    }

    fn update_rule(&mut self, index: usize) {
        let Some(channel) = self.channels.get_mut(index) else {
            return;
        };
        let rule = self.log.rule_of(channel.key);
        let Some((rule, overflow)) =
            certain::some(rule, "a channel with subscribers is in the log")
        else {
            return;
        };
        channel.overflow = overflow;
        let before = std::mem::replace(&mut channel.rule, rule);
        let count = u64::from(channel.subscribers.len());
        let counts = [before, rule].map(|rule| self.subscribers_by_rule.get(rule.index()));
        if before != rule
            && let [Some(old), Some(new)] = counts
        {
            debug_assert!(old.value() >= count, "{before:?} has {}", old.value());
            old.set(old.value().saturating_sub(count));
            new.add(count);
        }
    }

    /// Panics if the rule of a channel or the number of a rule's subscriptions is wrong. For tests.
    pub(super) fn check_rules(&self) {
        let mut counts = vec![0; self.subscribers_by_rule.len()];
        for (_, channel) in self.channels.iter() {
            let count = u64::from(channel.subscribers.len());
            let of_rule = counts.get_mut(channel.rule.index());
            assert!(of_rule.map(|of_rule| *of_rule += count).is_some());
            if self.has_rules_of_log() {
                let rule = self.log.rule_of(channel.key);
                let own = Some((channel.rule, channel.overflow));
                assert_eq!(rule, own, "the rule of {:?}", channel.name);
            }
        }
        let counted = self.subscribers_by_rule.iter().map(Counter::value);
        assert_eq!(counted.collect::<Vec<_>>(), counts, "subscriptions by rule");
    }
}
