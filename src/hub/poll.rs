//! What only polls need of the hub: a gap that waits for the one answer, and the position that the
//! answer names.
//!
//! A poll is a subscriber like any other while it waits; what it is owed is [`super::serve`]'s.

use std::collections::VecDeque;
use std::time::Duration;

use super::{Gap, Hub};
use crate::id::{ChannelName, Cursor, Sequence};
use crate::log::Rules;
use crate::time::Now;

impl Hub {
    /// Keeps a gap that was found on subscribing, to be taken with the gaps found later. From now
    /// on the conn in the slot is behind.
    pub fn keep_gap(&mut self, slot: u32, name: &ChannelName, gap: Gap) {
        if let Some(index) = self.index_of(name) {
            self.gaps.insert((slot, index), gap);
        }
    }

    /// The position of the conn in a slot, which is behind in nothing: everything up to the log's
    /// head is given, and what another worker had given before it came.
    #[must_use]
    pub fn caught_up(&self, slot: u32) -> Cursor {
        let positions = self.positions(slot);
        self.cursor(positions.fold(self.head, Sequence::max))
    }

    /// The position of the conn in a slot, which is behind: up to here everything is given.
    #[must_use]
    pub fn reached(&self, slot: u32) -> Cursor {
        self.cursor(self.positions(slot).min().unwrap_or(self.head))
    }

    fn positions(&self, slot: u32) -> impl Iterator<Item = Sequence> {
        let all = self.subscriptions(slot).iter();
        all.map(|subscription| subscription.position)
    }

    /// Whether what follows a position, to which the conn in a slot has everything, is in the older
    /// half of what the log may hold, or gone. A client that stays there would soon be told of a
    /// gap, perhaps without need, although nothing happens on its channels.
    #[must_use]
    pub fn is_sinking(&self, slot: u32, position: Sequence, now: Now) -> bool {
        if position >= self.head {
            return false;
        }
        let Some(oldest) = self.log.oldest() else {
            return true;
        };
        let rules = self.log.rules();
        let bounds = rules.bounds();
        let channels = self.subscriptions(slot).iter();
        let channels = channels.filter_map(|s| self.channel(s.channel));
        let ages = channels.map(|channel| rules.age(channel.rule));
        let age = ages.fold(bounds.age(), Duration::min);
        let since = self.samples.after(position);
        let is_old = since.is_none_or(|since| now.has_reached(since.after(age / 2)));
        let is_half_full =
            self.log.bytes() > bounds.bytes / 2 || self.log.len() > bounds.entries / 2;
        let span = (self.head.0 + 1).saturating_sub(oldest.0);
        let behind = self.head.0 - position.0;
        position.next() < oldest || is_old || (is_half_full && behind > span / 2)
    }
}

/// When the head was where: samples from which the age of a position is known closely enough.
#[derive(Debug)]
pub(super) struct Samples {
    /// What was published behind a number came at this time or later.
    samples: VecDeque<(Sequence, Now)>,
    /// Between two of them.
    interval: Duration,
}

/// Samples that are kept: they reach as far back as the oldest publication.
const SAMPLES_MAX: u32 = 1024;
/// Between two samples, unless the log's age is longer than all of them.
const INTERVAL_MAX: Duration = Duration::from_secs(1);
/// Samples within the shortest age of the log.
const SAMPLES_IN_AN_AGE: u32 = 16;

impl Samples {
    pub(super) fn new(rules: &Rules) -> Self {
        Self {
            samples: VecDeque::new(),
            interval: INTERVAL_MAX
                .min(rules.age_min() / SAMPLES_IN_AN_AGE)
                .max(rules.bounds().age() / SAMPLES_MAX),
        }
    }

    /// Publications behind `head` come now.
    pub(super) fn note(&mut self, head: Sequence, now: Now) {
        let last = self.samples.back();
        if last.is_none_or(|(_, last)| now.has_reached(last.after(self.interval))) {
            if self.samples.len() >= SAMPLES_MAX as usize {
                self.samples.pop_front();
            }
            self.samples.push_back((head, now));
        }
    }

    /// A time at which nothing behind a position was published yet. `None` if that is too long ago.
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
    use crate::config::Config;
    use crate::frame::{Payload, Publication};
    use crate::hub::{GapCause, JoinOutcome, Joined, Node};
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

    /// A hub with so many publications, one each second.
    fn hub(count: u64, config: &Config) -> Node {
        let mut hub = Node::new(Epoch::new(7), Sequence::ZERO, config);
        for sequence in 1..=count {
            let now = Now(sequence * SECOND);
            let payload = Payload::Text("x".into());
            let publication = Publication::new(cursor(sequence), name(), payload, now);
            hub.publish(Arc::new(publication), now);
        }
        hub
    }

    #[test]
    fn gap_that_is_kept_is_told_before_what_follows_it() {
        let mut hub = hub(2, &Config::default());
        let outcome = hub.subscribe(3, &name(), Since::Unrecognised, Sequence(2));
        let JoinOutcome::Joined(Joined { gap: Some(gap), .. }) = outcome else {
            panic!("{outcome:?}");
        };
        assert!(!hub.is_behind(3));
        hub.keep_gap(3, &name(), gap);
        assert!(hub.is_behind(3), "it has to be told");
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
        assert_eq!(hub.caught_up(1), cursor(4));
        let outcome = hub.subscribe(2, &name(), Since::After(cursor(7)), Sequence(9));
        assert!(matches!(outcome, JoinOutcome::Joined(_)));
        assert_eq!(hub.caught_up(2), cursor(7));
    }

    #[test]
    fn position_sinks_with_age_and_with_a_log_that_fills() {
        let config = Config::default();
        let hub_of_ten = hub(10, &config);
        let sinks = |hub: &Node, second| -> Vec<u64> {
            let now = Now(second * SECOND);
            let all = 0..=11;
            all.filter(|sequence| hub.is_sinking(0, Sequence(*sequence), now))
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
