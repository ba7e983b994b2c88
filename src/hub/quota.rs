//! The quota: the maximum amount by which a conn may be behind, and what happens if a conn exceeds
//! it.
//!
//! A pending publication counts towards the quota until its first byte is written. If a conn
//! resumes, publications that were already in the log do not count. The log stores a running total
//! with each entry, so the lag of a conn is the difference between two totals. For a conn that
//! conflates, the lag is the sum of the publications that are not superseded. This module does not
//! depend on frames or sockets. `flush` calls it when a conn's socket accepts no more bytes.
//! [`super::serve`] and [`super::conflation`] are callers, too.

use super::member::Subscription;
use super::{Amount, GapCause, Hub};
use crate::config::Overflow;
use crate::log::Entry;
use crate::time::Now;

/// The result of enforcing the quota on a conn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum QuotaOutcome {
    /// The conn is over its quota, and the policy is to close the conn.
    Overflow,
    /// The conn was over its quota, and this number of publications was skipped.
    Skipped(u64),
    /// The conn is within its quota.
    Within,
}

impl Hub {
    /// Returns the amount that counts towards the quota of the conn in a slot. This is the amount
    /// of the publications of which no byte was written. Publications that were in the log when the
    /// conn resumed do not count. If the amount exceeds the quota and the conn conflates,
    /// superseded publications do not count either.
    #[must_use]
    pub fn behind(&self, slot: u32) -> Amount {
        let exempt = self.replays.get(&slot).copied().unwrap_or_default();
        let counting = self.subscriptions(slot).iter().map(|subscription| {
            let position = subscription.position.max(exempt);
            Subscription {
                position,
                ..*subscription
            }
        });
        let all = counting.clone().map(|after| self.amount_after(after));
        let all = all.fold(Amount::default(), Amount::plus);
        if !all.exceeds(self.quota) || !self.conflating.contains(&slot) {
            return all;
        }
        let newest = counting.map(|after| match self.conflates(after.channel) {
            true => self.newest_after(after),
            false => self.amount_after(after),
        });
        newest.fold(Amount::default(), Amount::plus)
    }

    /// Returns the amount of all publications that are pending for the conn in a slot, including
    /// those that do not count towards its quota.
    #[must_use]
    pub fn owed(&self, slot: u32) -> Amount {
        let amounts = self.subscriptions(slot).iter();
        let amounts = amounts.map(|subscription| self.amount_after(*subscription));
        amounts.fold(Amount::default(), Amount::plus)
    }

    /// Enforces the quota of the conn in a slot. First skips superseded publications of channels
    /// that conflate. Then skips the oldest publications until the conn is within its quota.
    /// Returns [`QuotaOutcome::Overflow`] if the conn must be closed instead.
    pub fn enforce(&mut self, slot: u32, now: Now) -> QuotaOutcome {
        let mut behind = self.behind(slot);
        if behind.exceeds(self.quota) && self.begin_conflation(slot) {
            behind = self.behind(slot);
        }
        // Superseded publications are skipped now, while they are in the log. Once the log has
        // evicted them, it is unknown how many they were.
        self.skip_superseded(slot);
        if !behind.exceeds(self.quota) {
            return QuotaOutcome::Within;
        }
        if self.has_to_close(slot) {
            return QuotaOutcome::Overflow;
        }
        let skipped = self.skip_until_within(slot, behind, now);
        self.end_conflation(slot);
        QuotaOutcome::Skipped(skipped)
    }

    /// Skips the oldest publications of a conn until the conn is within its quota. `behind` is the
    /// amount that counts towards the quota. Returns the number of skipped publications.
    fn skip_until_within(&mut self, slot: u32, mut behind: Amount, now: Now) -> u64 {
        // It is unknown how many pending publications the log has evicted. So the gap for them is
        // recorded without a number of publications.
        self.note_evicted(slot);
        let exempt = self.replays.remove(&slot).unwrap_or_default();
        let mut skipped = 0;
        loop {
            self.skip_superseded(slot);
            let owed = self
                .oldest_owed(slot)
                .filter(|_| behind.exceeds(self.quota));
            let Some((index, next)) = owed else {
                return skipped;
            };
            let counts = !next.publication.has_expired(now);
            if next.sequence() > exempt {
                behind = behind.minus(Amount::of(&next.publication));
            }
            skipped += u64::from(counts);
            // If publications directly before this one may be lost, their number is unknown.
            let position = self.subscription(slot, index).map(|s| s.position);
            let follows = position.is_some_and(|position| next.previous <= position);
            let missed = follows.then_some(u64::from(counts));
            self.skip(slot, index, next.sequence(), missed, GapCause::Slow);
        }
    }

    /// Whether the conn in a slot is behind on a channel whose policy is to close the conn.
    fn has_to_close(&self, slot: u32) -> bool {
        self.subscriptions(slot).iter().any(|subscription| {
            let channel = self.channel(subscription.channel);
            channel.is_some_and(|channel| channel.overflow == Overflow::Close)
                && self.has_next(*subscription)
        })
    }

    /// Returns the oldest publication that is pending for the conn in a slot, with the index of its
    /// subscription.
    fn oldest_owed(&self, slot: u32) -> Option<(usize, Entry)> {
        let owed = self.subscriptions(slot).iter().enumerate();
        owed.filter_map(|(index, s)| Some((index, self.next_of(*s)?)))
            .min_by_key(|(_, next)| next.sequence())
    }

    /// Publications that were in the log when a conn resumed do not count towards its quota. If the
    /// conn in a slot has received all of them, deletes the record of this exemption.
    pub(super) fn end_replay(&mut self, slot: u32) {
        let Some(until) = self.replays.get(&slot).copied() else {
            return;
        };
        let mut subscriptions = self.subscriptions(slot).iter();
        let is_over = subscriptions.all(|subscription| {
            let channel = self.channel(subscription.channel);
            let next = channel.and_then(|one| self.before_next(one, subscription.position));
            next.is_none_or(|(next, _)| next > until)
        });
        if is_over && self.head >= until {
            self.replays.remove(&slot);
        }
    }

    fn amount_after(&self, subscription: Subscription) -> Amount {
        let Some(channel) = self.channel(subscription.channel) else {
            return Amount::default();
        };
        let before = self.before_next(channel, subscription.position);
        before.map_or_else(Amount::default, |(_, before)| channel.total.minus(before))
    }
}
