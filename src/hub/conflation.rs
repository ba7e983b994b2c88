//! Conflation: a conn that is far behind receives only the newest publication of each key.
//!
//! In a channel whose policy is to conflate, a publication supersedes the previous publication with
//! the same key. When the newer one is added to the log, the log marks the older one as superseded.
//! A conn that is behind by more than its quota skips superseded entries until it has caught up,
//! and receives a gap that reports them. A conn that keeps up is not affected. A conn that resumes
//! from a position further back than its quota also skips superseded entries.
//!
//! The log lists the entries that are not superseded. A [`Tail`] has its own copies of entries,
//! with their own marks. [`super::serve`] and [`super::quota`] call this module.

use super::member::Subscription;
use super::tail::Tail;
use super::{Amount, ChannelIndex, GapCause, Hub};
use crate::config::Overflow;
use crate::id::Sequence;

impl Hub {
    /// Returns how many times a conn has skipped a publication because a newer one superseded it.
    /// All conns are counted together.
    #[must_use]
    pub fn conflated_total(&self) -> u64 {
        self.conflated_total
    }

    /// If the conn in a slot skips superseded publications, skips those that it would receive next.
    pub(super) fn skip_superseded(&mut self, slot: u32) {
        if !self.log.rules().has_conflation() {
            return;
        }
        if self.replays.contains_key(&slot) && self.owed(slot).exceeds(self.quota) {
            self.begin_conflation(slot);
        }
        if !self.conflating.contains(&slot) {
            return;
        }
        self.note_evicted(slot);
        for index in 0..self.subscriptions(slot).len() {
            let subscription = self.subscription(slot, index);
            let Some((until, count)) = subscription.and_then(|s| self.superseded_run(s)) else {
                continue;
            };
            self.conflated_total += count;
            self.skip(slot, index, until, Some(count), GapCause::Conflated);
        }
    }

    /// Makes the conn in a slot skip superseded publications from now on. Called if the conn
    /// exceeds its quota. Returns false if the conn already skips them, or if it is not behind on
    /// any channel that conflates.
    pub(super) fn begin_conflation(&mut self, slot: u32) -> bool {
        let mut subscriptions = self.subscriptions(slot).iter();
        let may = subscriptions.any(|subscription| {
            self.conflates(subscription.channel) && self.has_next(*subscription)
        });
        may && self.conflating.insert(slot)
    }

    /// If the conn in a slot has caught up, it no longer skips superseded publications.
    pub(super) fn end_conflation(&mut self, slot: u32) {
        if self.conflating.contains(&slot) {
            let mut subscriptions = self.subscriptions(slot).iter();
            if !subscriptions.any(|subscription| self.has_next(*subscription)) {
                self.conflating.remove(&slot);
            }
        }
    }

    /// Returns the total size and number of the publications that a subscription still has to
    /// receive, without superseded ones. Reads each of these publications.
    pub(super) fn newest_after(&self, subscription: Subscription) -> Amount {
        let position = subscription.position;
        let Some(channel) = self.channel(subscription.channel) else {
            return Amount::default();
        };
        if let Some(tail) = channel.tail_after(position) {
            return tail.newest_after(position);
        }
        let tail = channel.walk.as_ref().map(|walk| &walk.tail);
        let begin = tail.and_then(Tail::begin).unwrap_or(self.head);
        let held = tail.map_or_else(Amount::default, |tail| tail.newest_after(position));
        self.log
            .newest_after(channel.key, position, self.state.horizon(begin))
            .plus(held)
    }

    /// Whether a channel's policy is to conflate.
    pub(super) fn conflates(&self, index: ChannelIndex) -> bool {
        let channel = self.channel(index);
        channel.is_some_and(|channel| channel.overflow == Overflow::Conflate)
    }

    /// Finds the superseded entries directly after a subscription's position, up to the first entry
    /// that is not superseded. Returns the number of the last one, and how many there are.
    fn superseded_run(&self, subscription: Subscription) -> Option<(Sequence, u64)> {
        let channel = self.channel(subscription.channel)?;
        if !self.has_next(subscription) || !self.conflates(subscription.channel) {
            return None;
        }
        let position = subscription.position;
        match channel.tail_after(position) {
            Some(tail) => tail.superseded_run(position),
            // A gap for superseded entries must not cover lost ones, whose number is unknown.
            None if position < self.state.lost_until() => None,
            None => self
                .log
                .superseded_run(channel.key, position, self.horizon()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::config::{Config, Namespace};
    use crate::frame::{Compressor, Envelope, FrameKind, Payload, Publication};
    use crate::hub::{Gap, Node, QuotaOutcome};
    use crate::id::{ChannelName, Cursor, Epoch, Since};
    use crate::time::Now;

    const QUOTA: u64 = 4;

    fn cursor(sequence: u64) -> Cursor {
        Cursor {
            epoch: Epoch::new(7),
            sequence: Sequence(sequence),
        }
    }

    fn name(text: &str) -> ChannelName {
        ChannelName::new(text).unwrap()
    }

    /// Creates a hub in which all channels except `plain` conflate.
    fn hub(change: impl FnOnce(&mut Config)) -> Node {
        let mut config = Config::default();
        config.quota.behind_publications = QUOTA;
        config.namespace = vec![
            Namespace {
                pattern: "*".into(),
                overflow: Some(Overflow::Conflate),
                ..Namespace::default()
            },
            Namespace {
                pattern: "plain".into(),
                ..Namespace::default()
            },
        ];
        change(&mut config);
        Node::new(Epoch::new(7), Sequence::ZERO, &config)
    }

    /// Publishes once for each word in `keys`. The word is the key of the publication; `-` stands
    /// for no key.
    fn publish(hub: &mut Node, channel: &str, keys: &str) {
        for key in keys.split_whitespace() {
            let id = Cursor {
                sequence: hub.log().sequenced().next(),
                ..cursor(0)
            };
            let payload = Payload::Text("x".into());
            let ledger = hub.log().ledger();
            let publication = Publication::new(id, name(channel), payload, Now(0), ledger)
                .labelled(None, (key != "-").then(|| key.into()));
            hub.publish(Arc::new(publication), Now(0));
            hub.check_invariants();
        }
    }

    fn subscribe(hub: &mut Node, channel: &str, since: Since) {
        let head = hub.head().sequence;
        let _joined = hub.subscribe(0, &name(channel), since, head);
    }

    /// Sends everything that is pending to the conn, as a flush does. Returns the gaps and
    /// publications that the conn receives.
    fn serve(hub: &mut Node) -> (Vec<Gap>, Vec<u64>) {
        let (mut gaps, mut given, mut planned) = (Vec::new(), Vec::new(), Vec::new());
        let kind = FrameKind::WebSocket(Envelope::Data);
        loop {
            gaps.extend(std::iter::from_fn(|| hub.take_gap(0)).map(|(_, gap)| gap));
            let compressor = &mut Compressor::default();
            hub.plan(0, kind, Now(0), 1 << 20, compressor, &mut planned);
            if planned.is_empty() {
                return (gaps, given);
            }
            given.extend(planned.iter().map(|step| step.sequence.0));
            hub.advance(0, &planned, usize::MAX / 2);
        }
    }

    fn conflated(since: u64, until: u64, missed: u64) -> Gap {
        Gap {
            since: Some(cursor(since)),
            until: cursor(until),
            missed: Some(missed),
            cause: GapCause::Conflated,
        }
    }

    #[test]
    fn conn_that_keeps_up_receives_everything() {
        let mut hub = hub(|_| {});
        subscribe(&mut hub, "c", Since::Now);
        publish(&mut hub, "c", "a a a a");
        assert_eq!(hub.enforce(0, Now(0)), QuotaOutcome::Within);
        assert_eq!(serve(&mut hub), (Vec::new(), vec![1, 2, 3, 4]));
    }

    #[test]
    fn conn_over_its_quota_receives_the_newest_of_each_key_in_order_and_a_gap() {
        let mut hub = hub(|_| {});
        subscribe(&mut hub, "c", Since::Now);
        publish(&mut hub, "c", "a b - a a b c");
        assert_eq!(
            hub.enforce(0, Now(0)),
            QuotaOutcome::Within,
            "no need to skip"
        );
        assert_eq!(hub.behind(0).publications, 4);
        let (gaps, given) = serve(&mut hub);
        assert_eq!(given, [3, 5, 6, 7]);
        assert_eq!(gaps, [conflated(0, 2, 2), conflated(3, 4, 1)]);
        assert_eq!(hub.conflated_total(), 3);
    }

    #[test]
    fn more_keys_than_the_quota_allows_are_skipped_oldest_first() {
        let mut hub = hub(|_| {});
        subscribe(&mut hub, "c", Since::Now);
        publish(&mut hub, "c", "a b c a d b e f");
        assert_eq!(hub.enforce(0, Now(0)), QuotaOutcome::Skipped(2), "c and a");
        assert_eq!(hub.behind(0).publications, QUOTA);
        let (gaps, given) = serve(&mut hub);
        assert_eq!(given, [5, 6, 7, 8]);
        let slow = Gap {
            cause: GapCause::Slow,
            ..conflated(0, 4, 4)
        };
        assert_eq!(gaps, [slow]);
    }

    #[test]
    fn conn_that_has_caught_up_receives_everything_again() {
        let mut hub = hub(|_| {});
        subscribe(&mut hub, "c", Since::Now);
        publish(&mut hub, "c", "a a a a a");
        assert_eq!(hub.enforce(0, Now(0)), QuotaOutcome::Within);
        assert_eq!(serve(&mut hub), (vec![conflated(0, 4, 4)], vec![5]));
        publish(&mut hub, "c", "a a a");
        assert_eq!(serve(&mut hub), (Vec::new(), vec![6, 7, 8]));
        assert!(hub.conflating.is_empty());
    }

    #[test]
    fn stalled_conn_receives_one_gap_however_long_it_stalls() {
        let mut hub = hub(|config| config.log.entries = 6);
        subscribe(&mut hub, "c", Since::Now);
        for _ in 0..20 {
            publish(&mut hub, "c", "a b");
            assert_eq!(hub.enforce(0, Now(0)), QuotaOutcome::Within);
            hub.evict(Now(0), 100);
        }
        assert_eq!(serve(&mut hub), (vec![conflated(0, 38, 38)], vec![39, 40]));
    }

    #[test]
    fn resume_from_further_than_the_quota_is_conflated_and_one_from_nearer_is_not() {
        let mut hub = hub(|_| {});
        publish(&mut hub, "c", "a b a b a b");
        subscribe(&mut hub, "c", Since::After(cursor(1)));
        assert_eq!(serve(&mut hub), (vec![conflated(1, 4, 3)], vec![5, 6]));
        hub.leave(0);
        subscribe(&mut hub, "c", Since::After(cursor(2)));
        assert_eq!(serve(&mut hub), (Vec::new(), vec![3, 4, 5, 6]));
    }

    #[test]
    fn channel_with_another_policy_is_never_conflated() {
        let mut hub = hub(|_| {});
        subscribe(&mut hub, "plain", Since::Now);
        subscribe(&mut hub, "c", Since::Now);
        publish(&mut hub, "plain", "a a a");
        publish(&mut hub, "c", "a a a");
        assert_eq!(hub.enforce(0, Now(0)), QuotaOutcome::Within);
        assert_eq!(
            serve(&mut hub),
            (vec![conflated(0, 5, 2)], vec![1, 2, 3, 6])
        );
        assert_eq!(hub.log().listed(&name("c")), (1, 1));
        assert_eq!(hub.log().listed(&name("plain")), (0, 0));
    }

    #[test]
    fn same_key_in_another_channel_supersedes_nothing() {
        let mut hub = hub(|_| {});
        publish(&mut hub, "c", "a");
        publish(&mut hub, "d", "a");
        let is_superseded = |n| hub.log().find(Sequence(n)).unwrap().is_superseded;
        assert_eq!((is_superseded(1), is_superseded(2)), (false, false));
    }

    #[test]
    fn keys_go_with_the_log() {
        let mut hub = hub(|_| {});
        for _ in 0..100 {
            publish(&mut hub, "c", "a b - a c");
        }
        hub.shrink_to(0);
        assert_eq!(hub.log().listed(&name("c")), (103, 3), "and those without");
        hub.evict(Now(u64::MAX / 2), u32::MAX);
        assert_eq!(hub.log_bytes(), 0);
        publish(&mut hub, "c", "a a");
        assert_eq!(hub.log().listed(&name("c")), (1, 1));
    }
}
