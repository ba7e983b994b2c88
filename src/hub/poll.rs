//! The parts of the hub that only polls need: gaps that are stored until a poll is answered, and
//! the position of the answer.
//!
//! A waiting poll is a subscriber like any other, and [`super::serve`] decides what it receives.
//! The answer has one position for all channels of the poll. The answer contains or reports all
//! publications up to this position, and none after it. So a gap that ends after this position is
//! cut there. The client's next poll begins at this position and receives what follows.

use std::collections::VecDeque;
use std::time::Duration;

use super::member::Subscription;
use super::{Gap, GapCause, Hub};
use crate::id::{ChannelName, Cursor, Sequence};
use crate::log::Rules;
use crate::time::{Deadline, Now};

impl Hub {
    /// Stores a gap for the conn in a slot, so that the gap is reported later. Until then, the conn
    /// counts as behind.
    pub fn keep_gap(&mut self, slot: u32, name: &ChannelName, gap: Gap) {
        if let Some(index) = self.index_of(name) {
            self.gaps.insert((slot, index), gap);
        }
    }

    /// Returns the position of a conn that has received everything that this hub has accepted. The
    /// position is later if the client resumed from a later position, which it had received from
    /// another worker.
    #[must_use]
    pub fn caught_up_position(&self, slot: u32) -> Cursor {
        let positions = self.positions(slot);
        self.cursor(positions.fold(self.head, Sequence::max))
    }

    /// Returns the position up to which the conn in a slot has received everything. If a
    /// publication is pending, this is the position directly before that publication. If the log
    /// has evicted that publication, this is the subscription's own position.
    #[must_use]
    pub fn reached(&self, slot: u32) -> Cursor {
        let subscriptions = self.subscriptions(slot).iter();
        let owed = subscriptions.filter_map(|subscription| self.before_owed(*subscription));
        let reached = owed.min().map(|reached| self.cursor(reached));
        reached.unwrap_or_else(|| self.caught_up_position(slot))
    }

    /// Returns the position before the next publication that a subscription has to receive.
    fn before_owed(&self, subscription: Subscription) -> Option<Sequence> {
        if !self.has_next(subscription) {
            return None;
        }
        let position = subscription.position;
        let next = self.next_of(subscription);
        let next = next.filter(|next| next.previous <= position);
        Some(next.map_or(position, |next| next.sequence().before()))
    }

    /// Cuts each gap of an answer at the answer's position, and returns the parts up to this
    /// position. If no publication is missing in such a part, the whole gap is stored for a later
    /// answer of the same conn instead.
    pub fn cut_gaps(
        &mut self,
        slot: u32,
        gaps: Vec<(ChannelName, Gap)>,
        position: Cursor,
    ) -> Vec<(ChannelName, Gap)> {
        let mut reported = Vec::with_capacity(gaps.len());
        for (name, gap) in gaps {
            match self.cut(&name, gap, position) {
                Some(gap) => reported.push((name, gap)),
                None => self.keep_gap(slot, &name, gap),
            }
        }
        reported
    }

    /// Returns the part of a gap up to the position `until`. Returns `None` if no publication is
    /// missing in that part.
    fn cut(&self, name: &ChannelName, gap: Gap, until: Cursor) -> Option<Gap> {
        if gap.until.sequence <= until.sequence {
            return Some(gap);
        }
        let since = match gap.since {
            Some(since) if gap.cause != GapCause::Unknown && self.has_valid(since) => {
                since.sequence
            }
            _ => return Some(Gap { until, ..gap }),
        };
        if since >= until.sequence {
            return None;
        }
        // The gap is cut at `until`, so its count must be reduced. If the log still has all
        // publications of the first part, they are counted. Otherwise the second part is counted,
        // and subtracted from the count of the whole gap.
        let rest = || self.count_between(name, until.sequence, gap.until.sequence);
        let missed = gap.missed.and_then(|whole| {
            let before = self.count_between(name, since, until.sequence);
            before.or_else(|| Some(whole.saturating_sub(rest()?)))
        });
        (missed != Some(0)).then_some(Gap {
            until,
            missed,
            ..gap
        })
    }

    /// Counts the publications of a channel after the number `after`, up to and including `last`.
    /// Returns `None` if the log may not have all of these publications.
    fn count_between(&self, name: &ChannelName, after: Sequence, last: Sequence) -> Option<u64> {
        let channel = self.named(name)?;
        match channel.tail_after(after) {
            _ if after < self.state.lost_until() => None,
            Some(tail) => Some(tail.count_between(after, last)),
            None => {
                let last = self.state.horizon(last.min(self.head));
                self.log.count_between(channel.key, after, last)
            }
        }
    }

    fn positions(&self, slot: u32) -> impl Iterator<Item = Sequence> {
        let all = self.subscriptions(slot).iter();
        all.map(|subscription| subscription.position)
    }

    /// Whether the log has evicted the entries directly after `position`, or will evict them soon
    /// because they are in the older half of the log. The conn in the slot has received everything
    /// up to `position`. Without a newer position, its client would soon receive a gap when it
    /// resumes, even if nothing was published on its channels.
    #[must_use]
    pub fn nears_eviction(&self, slot: u32, position: Sequence, now: Now) -> bool {
        if position >= self.head {
            return false;
        }
        let Some(oldest) = self.log.oldest() else {
            return true;
        };
        let rules = self.log.rules();
        let channels = self.subscriptions(slot).iter();
        let channels = channels.filter_map(|s| self.channel(s.channel));
        let ages = channels.map(|channel| rules.age(channel.rule));
        let age = ages.fold(rules.age_of_log(), Duration::min);
        let since = self.samples.after(position);
        let is_old = since.is_none_or(|since| now.has_reached(since.after(age / 2)));
        let bound = rules.bound_of_log();
        let is_half_full =
            self.log.bytes() > bound.bytes / 2 || self.log.len() > bound.publications / 2;
        let span = (self.head.0 + 1).saturating_sub(oldest.0);
        let behind = self.head.0 - position.0;
        position.next() < oldest || is_old || (is_half_full && behind > span / 2)
    }
}

/// Earlier values of the hub's head (the number of the last accepted publication), each with a
/// time. They show how old a position is.
#[derive(Debug)]
pub(super) struct Samples {
    /// Pairs of an earlier value of the hub's head and a time. All publications after this value
    /// were accepted at this time or later.
    samples: VecDeque<(Sequence, Now)>,
    /// The minimum time between two stored values of the head.
    interval: Duration,
    /// No value of the hub's head is stored before this time.
    due: Deadline,
}

/// The maximum number of stored values of the hub's head (the number of the last publication that
/// the hub has accepted). The time between two values is at least the log's maximum age divided by
/// this number. So the stored values reach back to the log's maximum age.
const SAMPLES_MAX: u32 = 1024;
/// The usual interval between two stored values of the head. [`Samples::interval`] uses a shorter
/// interval if a channel has a short maximum age, and a longer interval if the log has a long
/// maximum age.
const INTERVAL_MAX: Duration = Duration::from_secs(1);
/// The number of values of the head that are stored within the shortest maximum age of any channel.
const SAMPLES_IN_AN_AGE: u32 = 16;

impl Samples {
    pub(super) fn new(rules: &Rules) -> Self {
        Self {
            samples: VecDeque::new(),
            interval: Self::interval(rules),
            due: Deadline(0),
        }
    }

    /// Returns the minimum time between two stored values for these rules.
    pub(super) fn interval(rules: &Rules) -> Duration {
        INTERVAL_MAX
            .min(rules.age_min() / SAMPLES_IN_AN_AGE)
            .max(rules.age_of_log() / SAMPLES_MAX)
    }

    /// Changes the minimum time between two stored values. It also applies to the next value.
    pub(super) fn set_interval(&mut self, interval: Duration) {
        (self.interval, self.due) = (interval, Deadline(0));
    }

    /// Stores the head and the time `now`, if the last value was stored at least `interval` ago.
    /// All publications after `head` are accepted at `now` or later.
    pub(super) fn note(&mut self, head: Sequence, now: Now) {
        if now.has_reached(self.due) {
            self.due = now.after(self.interval);
            if self.samples.len() >= SAMPLES_MAX as usize {
                self.samples.pop_front();
            }
            self.samples.push_back((head, now));
        }
    }

    /// Removes the values of the head after the number `kept`, because an epoch change has
    /// discarded the publications after `kept`.
    pub(super) fn cut(&mut self, kept: Sequence) {
        while self.samples.pop_back_if(|(head, _)| *head > kept).is_some() {}
    }

    /// Returns a time. Publications after the position were accepted at this time or later. Returns
    /// `None` if all stored values of the head are later than the position.
    fn after(&self, position: Sequence) -> Option<Now> {
        let after = self.samples.partition_point(|(head, _)| *head <= position);
        let (_, since) = self.samples.get(after.checked_sub(1)?)?;
        Some(*since)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::config::{Config, Namespace, Overflow};
    use crate::frame::{Compressor, Envelope, FrameKind, Payload, Publication};
    use crate::hub::{JoinOutcome, Joined, Node};
    use crate::id::{Epoch, Since};
    use crate::time::Now;

    const SECOND: u64 = 1_000_000;

    fn cursor(sequence: u64) -> Cursor {
        Cursor {
            epoch: Epoch::new(7),
            sequence: Sequence(sequence),
        }
    }

    fn name() -> ChannelName {
        ChannelName::new("c").unwrap()
    }

    /// Creates a hub with `count` publications, one each second.
    fn hub(count: u64, config: &Config) -> Node {
        let mut hub = Node::new(Epoch::new(7), Sequence::ZERO, config);
        for sequence in 1..=count {
            let now = Now(sequence * SECOND);
            let payload = Payload::Text("x".into());
            let ledger = hub.log().ledger();
            let publication = Publication::new(cursor(sequence), name(), payload, now, ledger);
            hub.publish(Arc::new(publication), now);
        }
        hub
    }

    #[test]
    fn gap_that_is_kept_is_reported_before_later_publications() {
        let mut hub = hub(2, &Config::default());
        let outcome = hub.subscribe(3, &name(), Since::Unrecognised, Sequence(2));
        let JoinOutcome::Joined(Joined { gap: Some(gap), .. }) = outcome else {
            panic!("{outcome:?}");
        };
        assert!(!hub.is_behind(3));
        hub.keep_gap(3, &name(), gap);
        assert!(hub.is_behind(3), "it has to be reported");
        assert_eq!(hub.take_gap(3), Some((name(), gap)));
        assert_eq!(hub.take_gap(3), None);
        assert_eq!(gap.cause, GapCause::Unknown);
    }

    #[test]
    fn cause_of_a_foreign_position_stays_when_more_is_lost() {
        let other = Cursor {
            epoch: Epoch::new(8),
            sequence: Sequence(1),
        };
        for (since, cause) in [
            (Since::Unrecognised, GapCause::Unknown),
            (Since::After(cursor(99)), GapCause::Unknown),
            (Since::After(other), GapCause::Restart),
        ] {
            let mut hub = hub(2, &Config::default());
            let outcome = hub.subscribe(3, &name(), since, Sequence(2));
            let JoinOutcome::Joined(Joined { gap: Some(gap), .. }) = outcome else {
                panic!("{outcome:?}");
            };
            hub.keep_gap(3, &name(), gap);
            hub.skip(3, 0, Sequence(5), Some(3), GapCause::Slow);
            let (_, gap) = hub.take_gap(3).unwrap();
            assert_eq!((gap.cause, gap.until), (cause, cursor(5)));
        }
    }

    #[test]
    fn kept_gap_goes_with_its_subscriber() {
        let mut hub = hub(2, &Config::default());
        let outcome = hub.subscribe(3, &name(), Since::Unrecognised, Sequence(2));
        let JoinOutcome::Joined(Joined { gap: Some(gap), .. }) = outcome else {
            panic!("{outcome:?}");
        };
        hub.keep_gap(3, &name(), gap);
        hub.leave(3);
        assert!(hub.gaps.is_empty());
    }

    #[test]
    fn caught_up_is_the_head_or_where_a_faster_worker_was() {
        let mut hub = hub(4, &Config::default());
        let outcome = hub.subscribe(1, &name(), Since::After(cursor(2)), Sequence(9));
        assert!(matches!(outcome, JoinOutcome::Joined(_)));
        assert_eq!(hub.reached(1), cursor(2));
        assert_eq!(hub.caught_up_position(1), cursor(4));
        let outcome = hub.subscribe(2, &name(), Since::After(cursor(7)), Sequence(9));
        assert!(matches!(outcome, JoinOutcome::Joined(_)));
        assert_eq!(hub.caught_up_position(2), cursor(7));
    }

    #[test]
    fn reached_is_before_what_is_owed_next_whatever_is_quiet() {
        let mut hub = hub(4, &Config::default());
        let quiet = ChannelName::new("quiet").unwrap();
        for channel in [&quiet, &name()] {
            let _joined = hub.subscribe(1, channel, Since::After(cursor(2)), Sequence(4));
        }
        assert_eq!(hub.reached(1), cursor(2));
        assert_eq!(give_one(&mut hub, 1), [3]);
        assert_eq!(hub.reached(1), cursor(3));
    }

    fn give_one(hub: &mut Node, slot: u32) -> Vec<u64> {
        let (kind, compressor) = (FrameKind::Poll(Envelope::Full), &mut Compressor::default());
        let mut planned = Vec::new();
        hub.plan(slot, kind, Now(0), 1, compressor, &mut planned);
        let bytes = planned.iter().map(|step| step.length).sum();
        hub.advance(slot, &planned, bytes);
        planned.iter().map(|step| step.sequence.0).collect()
    }

    #[test]
    fn nothing_is_given_or_named_past_what_the_log_evicts_after_the_gaps_were_taken() {
        let mut hub = hub(4, &Config::default());
        let other = ChannelName::new("d").unwrap();
        let payload = Payload::Text("x".into());
        let ledger = hub.log().ledger();
        let publication = Publication::new(cursor(5), other.clone(), payload, Now(0), ledger);
        hub.publish(Arc::new(publication), Now(0));
        hub.release_walked();
        for channel in [&name(), &other] {
            let _joined = hub.subscribe(1, channel, Since::After(cursor(0)), Sequence(5));
        }
        assert_eq!(hub.take_gap(1), None);
        hub.evict(Now(u64::MAX / 2), 2);
        assert_eq!(give_one(&mut hub, 1), [0; 0], "all is after what is lost");
        assert!(hub.take_found_loss() && hub.has_loss(1));
        assert_eq!(hub.reached(1), cursor(0));
        let gap = Gap {
            since: Some(cursor(0)),
            until: cursor(2),
            missed: None,
            cause: GapCause::Expired,
        };
        assert_eq!(hub.take_gap(1), Some((name(), gap)));
        assert!(!hub.has_loss(1));
        assert_eq!(hub.reached(1), cursor(2));
        let given: Vec<u64> = (0..4).flat_map(|_| give_one(&mut hub, 1)).collect();
        assert_eq!(given, [3, 4, 5]);
        assert!(!hub.take_found_loss());
    }

    /// Creates a hub with the publications 1 to 10. Publications with odd numbers have one key, and
    /// their channel conflates. The other publications are in another channel. The conn in slot 3
    /// polls the first channel from the beginning.
    fn conflating() -> Node {
        let mut config = Config::default();
        config.quota.behind_publications = 2;
        config.namespace = vec![Namespace {
            pattern: "c".into(),
            overflow: Some(Overflow::Conflate),
            ..Namespace::default()
        }];
        let mut hub = hub(0, &config);
        let other = ChannelName::new("d").unwrap();
        for sequence in 1..=10 {
            let is_odd = sequence % 2 == 1;
            let channel = if is_odd { name() } else { other.clone() };
            let payload = Payload::Text("x".into());
            let (id, ledger) = (cursor(sequence), hub.log().ledger());
            let publication = Publication::new(id, channel, payload, Now(0), ledger);
            let publication = publication.labelled(None, is_odd.then(|| "k".into()));
            hub.publish(Arc::new(publication), Now(0));
        }
        let _joined = hub.subscribe(3, &name(), Since::After(cursor(0)), Sequence(10));
        hub
    }

    #[test]
    fn gap_is_cut_at_the_position_and_counts_what_is_missing_up_to_there() {
        for (position, cut) in [
            (0, None),
            (1, Some((1, 1))),
            (2, Some((2, 1))),
            (6, Some((6, 3))),
            (7, Some((7, 4))),
            (8, Some((7, 4))),
            (10, Some((7, 4))),
        ] {
            let mut hub = conflating();
            let gaps: Vec<_> = std::iter::from_fn(|| hub.take_gap(3)).collect();
            assert_eq!(gaps.len(), 1);
            let kept = gaps.first().cloned();
            let reported = hub.cut_gaps(3, gaps, cursor(position));
            let reported = reported.first().map(|(_, gap)| *gap);
            let expected = cut.map(|(until, missed)| Gap {
                since: Some(cursor(0)),
                until: cursor(until),
                missed: Some(missed),
                cause: GapCause::Conflated,
            });
            assert_eq!(reported, expected, "at {position}");
            let kept = kept.filter(|_| reported.is_none());
            assert_eq!(hub.take_gap(3), kept, "the conn may go on waiting");
        }
    }

    #[test]
    fn cut_of_a_gap_that_cannot_be_counted_says_so_and_keeps_what_it_begins_with() {
        let other = Cursor {
            epoch: Epoch::new(8),
            sequence: Sequence(99),
        };
        let cut = |since, cause, position| {
            let mut hub = conflating();
            let gap = Gap {
                since,
                until: cursor(9),
                missed: None,
                cause,
            };
            let reported = hub.cut_gaps(3, vec![(name(), gap)], cursor(position));
            reported
                .first()
                .map(|(_, gap)| (gap.since, gap.until, gap.missed))
        };
        let expired = |position| cut(Some(cursor(4)), GapCause::Expired, position);
        assert_eq!(expired(4), None);
        assert_eq!(expired(6), Some((Some(cursor(4)), cursor(6), None)));
        for (since, cause) in [
            (Some(other), GapCause::Restart),
            (Some(cursor(99)), GapCause::Unknown),
            (None, GapCause::Unknown),
        ] {
            assert_eq!(cut(since, cause, 6), Some((since, cursor(6), None)));
        }
        let since = Some(cursor(0));
        let gap = Gap {
            since,
            until: cursor(7),
            missed: Some(4),
            cause: GapCause::Conflated,
        };
        for (evicted, missed) in [(1, Some(3)), (8, None)] {
            let mut hub = conflating();
            hub.evict(Now(u64::MAX / 2), evicted);
            let reported = hub.cut_gaps(3, vec![(name(), gap)], cursor(6));
            let expected = Gap {
                until: cursor(6),
                missed,
                ..gap
            };
            assert_eq!(
                reported,
                [(name(), expected)],
                "{evicted} have left the log"
            );
        }
    }

    #[test]
    fn position_sinks_with_age_and_with_a_log_that_fills() {
        let config = Config::default();
        let hub_of_ten = hub(10, &config);
        let sinks = |hub: &Node, second| -> Vec<u64> {
            let now = Now(second * SECOND);
            let all = 0..=11;
            all.filter(|sequence| hub.nears_eviction(0, Sequence(*sequence), now))
                .collect()
        };
        assert_eq!(sinks(&hub_of_ten, 10), [0; 0], "all is young");
        let half_age_s = config.log.age_ms / 2000;
        let sunk = sinks(&hub_of_ten, 3 + half_age_s);
        assert_eq!(sunk, [0, 1, 2], "what follows was published up to second 3");
        let mut small = config;
        small.log.entries = 15;
        let filling = hub(10, &small);
        assert_eq!(sinks(&filling, 10), [0, 1, 2, 3, 4]);
        let empty = hub(0, &Config::default());
        assert_eq!(sinks(&empty, 1), [0; 0]);
    }
}
