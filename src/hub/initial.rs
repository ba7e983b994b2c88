//! The history that a client requests: the position at which it begins, and the publications that
//! belong to it.
//!
//! A subscription with `since=first` or `last` starts before the oldest requested entry, as if the
//! client resumed from there. Quota, windows and conflation treat history like any other resume.
//! There is one difference: the client had no position, so entries that leave the log before the
//! first delivery do not count as lost. For example, if the log is full, each publication evicts an
//! entry. This can happen even between subscribing and the first write.
//!
//! Publications that were in the log when the subscription began are *initial*: their frames say
//! so. At any time, few subscribers still have initial publications to receive. So the range of
//! these publications (`Mark`) is stored outside the subscription, in a map by slot.
//! [`super::membership`] and [`super::serve`] call this module.

use super::channel::ChannelIndex;
use super::member::Subscription;
use super::{Hub, Map, Member};
use crate::frame::FrameKind;
use crate::id::{Sequence, Since};

/// For each conn, by slot, the subscriptions that still have initial publications to receive.
#[derive(Clone, Debug, Default)]
pub(super) struct Initial(Map<u32, Vec<Mark>>);

/// The initial publications of a subscription: those in the channel up to the number `until`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark {
    channel: ChannelIndex,
    /// The position at which the requested history begins.
    start: Sequence,
    /// The number of the channel's newest publication when the subscription began.
    until: Sequence,
}

impl Initial {
    /// Returns the ranges of initial publications of the conn in a slot, one for each subscription.
    pub(super) fn of(&self, slot: u32) -> &[Mark] {
        if self.0.is_empty() {
            return &[];
        }
        self.0.get(&slot).map(Vec::as_slice).unwrap_or_default()
    }

    /// Whether no conn has initial publications to receive.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Removes the ranges that the conn in a slot has received completely.
    pub(super) fn end_passed(&mut self, slot: u32, member: &Member) {
        self.retain(slot, |mark| {
            let subscription = member.find(mark.channel);
            subscription.is_some_and(|subscription| subscription.position < mark.until)
        });
    }

    /// Ends the initial publications of the conn in a slot at the number `kept`. An epoch change
    /// has discarded later publications.
    pub(super) fn cut(&mut self, slot: u32, kept: Sequence) {
        for mark in self.0.get_mut(&slot).into_iter().flatten() {
            mark.until = mark.until.min(kept);
        }
    }

    /// Called when a subscription has passed an expired publication, which is not delivered.
    /// `before` is the position before it. If no entry of the history was delivered before, the
    /// history still has not begun.
    pub(super) fn pass_expired(&mut self, slot: u32, passed: Subscription, before: Sequence) {
        if self.0.is_empty() {
            return;
        }
        for mark in self.0.get_mut(&slot).into_iter().flatten() {
            if mark.channel == passed.channel && mark.start == before {
                mark.start = passed.position;
            }
        }
    }

    pub(super) fn remove(&mut self, slot: u32, channel: ChannelIndex) {
        self.retain(slot, |mark| mark.channel != channel);
    }

    fn retain(&mut self, slot: u32, stays: impl Fn(&Mark) -> bool) {
        if let Some(marks) = self.0.get_mut(&slot) {
            marks.retain(stays);
            if marks.is_empty() {
                self.0.remove(&slot);
            }
        }
    }

    pub(super) fn shrink_to_fit(&mut self) {
        self.0.shrink_to_fit();
    }
}

/// Returns the kind of frame in which a conn receives one publication: `kind` itself, or its
/// variant for initial publications. `marks` are the ranges of the conn's initial publications.
pub(super) fn kind_of(
    kind: FrameKind,
    marks: &[Mark],
    channel: ChannelIndex,
    sequence: Sequence,
) -> FrameKind {
    let is_initial = |mark: &Mark| mark.channel == channel && sequence <= mark.until;
    if marks.iter().any(is_initial) {
        kind.initial()
    } else {
        kind
    }
}

impl Hub {
    /// Returns the position directly before the history that a subscription requests. Returns
    /// `None` if no history is requested, or if the log has no entries of the channel.
    pub(super) fn position_before_history(
        &self,
        channel: ChannelIndex,
        since: Since,
    ) -> Option<Sequence> {
        let count = match since {
            Since::First => u32::MAX,
            Since::Last(count) => count.get(),
            Since::After(_) | Since::Now | Since::Unrecognised => return None,
        };
        let key = self.channel(channel)?.key;
        self.log.position_before_newest(key, count, self.horizon())
    }

    /// Records which publications are initial for the conn in a slot: those of the channel after
    /// `start` that exist now. The conn has just subscribed and requested this history.
    pub(super) fn mark_initial(&mut self, slot: u32, channel: ChannelIndex, start: Sequence) {
        if let Some(until) = self.channel(channel).map(|channel| channel.last) {
            let marks = self.initial.0.entry(slot).or_default();
            marks.push(Mark {
                channel,
                start,
                until,
            });
        }
    }

    /// Moves a cursor past entries of the requested history that the log has evicted. Does so only
    /// while no entry of the history has been delivered. Returns the new position.
    pub(super) fn pass_evicted_history(
        &mut self,
        slot: u32,
        index: usize,
        evicted: Sequence,
    ) -> Sequence {
        let Some(subscription) = self.subscription(slot, index) else {
            return evicted;
        };
        let marks = self.initial.0.get_mut(&slot).into_iter().flatten();
        let mut unbegun = marks.filter(|mark| {
            mark.channel == subscription.channel && mark.start == subscription.position
        });
        let Some(mark) = unbegun.next() else {
            return subscription.position;
        };
        mark.start = mark.start.max(evicted.min(mark.until));
        let start = mark.start;
        if let Some(subscription) = self.subscription_mut(slot, index) {
            subscription.position = start;
        }
        start
    }

    /// Panics if initial publications are recorded for a subscription that does not exist. For
    /// tests.
    pub(super) fn check_initial(&self) {
        for (slot, marks) in &self.initial.0 {
            assert!(!marks.is_empty(), "slot {slot} has no mark and is listed");
            for mark in marks {
                let subscriptions = self.subscriptions(*slot).iter();
                let of = subscriptions.filter(|s| s.channel == mark.channel);
                assert_eq!(of.count(), 1, "a mark without a subscription");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;
    use std::sync::Arc;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::config::{Config, Namespace, Overflow};
    use crate::effect::Window;
    use crate::frame::{Compressor, Envelope, Payload, Publication};
    use crate::hub::{
        Acknowledged, Gap, GapCause, JoinOutcome, Joined, Node, Planned, QuotaOutcome, Visit,
    };
    use crate::id::{ChannelName, Cursor, Epoch};
    use crate::time::Now;

    const FULL: FrameKind = FrameKind::WebSocket(Envelope::Full);
    const MARK: &[u8] = b"\"initial\":true";

    fn cursor(sequence: u64) -> Cursor {
        Cursor {
            epoch: Epoch::new(7),
            sequence: Sequence(sequence),
        }
    }

    fn name(text: &str) -> ChannelName {
        ChannelName::new(text).unwrap()
    }

    fn last(count: u32) -> Since {
        Since::Last(NonZeroU32::new(count).unwrap())
    }

    fn hub(change: impl FnOnce(&mut Config)) -> Node {
        let mut config = Config::default();
        change(&mut config);
        Node::new(Epoch::new(7), Sequence::ZERO, &config)
    }

    /// Publishes once in each channel of `channels`, in which each letter is the name of a channel.
    /// All publications have the same key.
    fn publish(hub: &mut Node, channels: &str) {
        for channel in channels.chars() {
            let id = cursor(hub.head.0 + 1);
            let channel = name(&channel.to_string());
            let payload = Payload::Text("x".into());
            let ledger = hub.log().ledger();
            let publication = Publication::new(id, channel, payload, Now(0), ledger)
                .labelled(None, Some("k".into()));
            hub.publish(Arc::new(publication), Now(0));
            hub.evict(Now(0), 100);
            hub.check_invariants();
        }
    }

    fn join(hub: &mut Node, slot: u32, channel: &str, since: Since) -> Joined {
        let head = hub.head;
        let outcome = hub.subscribe(slot, &name(channel), since, head);
        hub.check_invariants();
        let JoinOutcome::Joined(joined) = outcome else {
            panic!("{outcome:?}");
        };
        joined
    }

    fn plan(hub: &mut Node, slot: u32, kind: FrameKind) -> Vec<Planned> {
        let mut planned = Vec::new();
        let compressor = &mut Compressor::default();
        hub.plan(slot, kind, Now(1), 1 << 20, compressor, &mut planned);
        planned
    }

    /// Visits all subscribers but sends them nothing. Then releases the entries that the hub held
    /// for these visits.
    fn walk(hub: &mut Node) {
        while hub.visit() != Visit::Done {}
        hub.release_walked();
    }

    /// Serves a conn until nothing is pending for it. Returns the gaps and the publications, and
    /// whether each publication was initial.
    fn serve(hub: &mut Node, slot: u32) -> (Vec<Gap>, Vec<(u64, bool)>) {
        let (mut gaps, mut given) = (Vec::new(), Vec::new());
        loop {
            gaps.extend(std::iter::from_fn(|| hub.take_gap(slot)).map(|(_, gap)| gap));
            let planned = plan(hub, slot, FULL);
            if planned.is_empty() {
                return (gaps, given);
            }
            given.extend(planned.iter().map(|step| {
                let frame = hub.frame(step);
                let has_mark = frame.windows(MARK.len()).any(|bytes| bytes == MARK);
                assert_eq!(has_mark, step.kind != FULL);
                assert_eq!(frame.len(), step.length);
                (step.sequence.0, has_mark)
            }));
            hub.advance(slot, &planned, usize::MAX / 2);
            hub.check_invariants();
        }
    }

    fn marked(sequences: impl IntoIterator<Item = u64>) -> Vec<(u64, bool)> {
        sequences.into_iter().map(|number| (number, true)).collect()
    }

    fn joined_at(sequence: u64) -> Joined {
        Joined {
            position: cursor(sequence),
            is_recovered: false,
            gap: None,
        }
    }

    #[test]
    fn first_visit_is_given_all_that_is_left_without_a_gap_and_then_what_follows() {
        let mut hub = hub(|config| config.log.entries = 3);
        publish(&mut hub, "aaaaa");
        assert_eq!(join(&mut hub, 0, "a", Since::First), joined_at(2));
        assert!(hub.is_behind(0));
        assert_eq!(serve(&mut hub, 0), (Vec::new(), marked(3..=5)));
        publish(&mut hub, "a");
        assert_eq!(serve(&mut hub, 0), (Vec::new(), vec![(6, false)]));
    }

    #[test]
    fn history_has_not_begun_while_only_expired_publications_were_passed() {
        let mut hub = hub(|config| config.log.entries = 2);
        let (id, channel) = (cursor(1), name("a"));
        let expires = Some(Now(0).after(Duration::from_micros(1)));
        let payload = Payload::Text("x".into());
        let expiring = Publication::new(id, channel, payload, Now(0), hub.log().ledger());
        hub.publish(Arc::new(expiring.expiring(expires)), Now(0));
        publish(&mut hub, "a");
        assert_eq!(join(&mut hub, 0, "a", Since::First), joined_at(0));
        let planned = plan(&mut hub, 0, FULL);
        assert_eq!(planned.first().map(|step| step.length), Some(0));
        // The socket accepts nothing, so the second publication is not delivered.
        hub.advance(0, &planned, 0);
        publish(&mut hub, "aa");
        let live = vec![(3, false), (4, false)];
        assert_eq!(serve(&mut hub, 0), (Vec::new(), live));
    }

    #[test]
    fn publication_after_joining_is_not_initial() {
        let mut hub = hub(|_| {});
        publish(&mut hub, "aa");
        join(&mut hub, 0, "a", Since::First);
        publish(&mut hub, "a");
        let expected = vec![(1, true), (2, true), (3, false)];
        assert_eq!(serve(&mut hub, 0).1, expected);
    }

    #[test]
    fn last_counts_in_each_channel_for_itself() {
        let mut hub = hub(|_| {});
        publish(&mut hub, "abaabba");
        assert_eq!(join(&mut hub, 0, "a", last(2)), joined_at(3));
        assert_eq!(join(&mut hub, 0, "b", last(2)), joined_at(4));
        assert_eq!(serve(&mut hub, 0).1, marked([4, 5, 6, 7]));
    }

    #[test]
    fn last_that_asks_for_more_than_there_is_gets_everything() {
        for count in [3, 4, u32::MAX] {
            let mut hub = hub(|config| config.log.entries = 5);
            publish(&mut hub, "aaabaab");
            assert_eq!(join(&mut hub, 0, "a", last(count)), joined_at(2));
            assert_eq!(serve(&mut hub, 0), (Vec::new(), marked([3, 5, 6])));
        }
    }

    #[test]
    fn history_of_a_channel_without_entries_begins_now() {
        for since in [Since::First, last(9)] {
            let mut hub = hub(|config| config.log.entries = 1);
            publish(&mut hub, "ab");
            assert_eq!(join(&mut hub, 0, "a", since), joined_at(2), "evicted");
            assert_eq!(join(&mut hub, 0, "c", since), joined_at(2), "never there");
            assert!(hub.initial.0.is_empty());
            assert!(!hub.is_behind(0));
            publish(&mut hub, "c");
            assert_eq!(serve(&mut hub, 0), (Vec::new(), vec![(3, false)]));
        }
    }

    #[test]
    fn other_subscriptions_of_the_conn_have_no_mark() {
        let mut hub = hub(|_| {});
        join(&mut hub, 0, "b", Since::Now);
        publish(&mut hub, "aba");
        join(&mut hub, 0, "a", last(1));
        join(&mut hub, 1, "a", Since::After(cursor(0)));
        assert_eq!(serve(&mut hub, 0).1, [(2, false), (3, true)]);
        assert_eq!(serve(&mut hub, 1).1, [(1, false), (3, false)]);
    }

    #[test]
    fn mark_goes_when_it_is_passed_and_with_its_subscription() {
        let mut hub = hub(|_| {});
        publish(&mut hub, "aab");
        for slot in 0..4 {
            join(&mut hub, slot, "a", Since::First);
            join(&mut hub, slot, "b", Since::First);
        }
        hub.unsubscribe(0, &name("a"));
        assert_eq!(hub.initial.of(0).len(), 1);
        hub.unsubscribe(0, &name("b"));
        hub.leave(1);
        assert_eq!(hub.initial.0.len(), 2);
        assert_eq!(serve(&mut hub, 2).1, marked(1..=3));
        assert_eq!(hub.initial.0.len(), 1);
        // Another conn gets slot 3. It has not requested history.
        hub.leave(3);
        assert!(hub.initial.0.is_empty());
        join(&mut hub, 3, "a", Since::After(cursor(0)));
        assert_eq!(serve(&mut hub, 3).1, [(1, false), (2, false)]);
    }

    #[test]
    fn history_does_not_count_for_the_quota_and_what_follows_does() {
        let mut hub = hub(|config| config.quota.behind_publications = 2);
        publish(&mut hub, "aaaaaaaa");
        join(&mut hub, 0, "a", last(6));
        assert_eq!(hub.enforce(0, Now(1)), QuotaOutcome::Within);
        publish(&mut hub, "aaa");
        assert_eq!(hub.behind(0).publications, 3);
        assert_eq!(hub.enforce(0, Now(1)), QuotaOutcome::Skipped(7));
        let (gaps, given) = serve(&mut hub, 0);
        let gap = Gap {
            since: Some(cursor(2)),
            until: cursor(9),
            missed: Some(7),
            cause: GapCause::Slow,
        };
        assert_eq!((gaps, given), (vec![gap], vec![(10, false), (11, false)]));
    }

    #[test]
    fn window_holds_history_back() {
        let mut hub = hub(|_| {});
        publish(&mut hub, "aaaa");
        join(&mut hub, 0, "a", last(3));
        hub.set_window(0, &name("a"), Window::new(2).unwrap());
        assert_eq!(serve(&mut hub, 0).1, marked([2, 3]));
        let opened = hub.acknowledge(0, None, cursor(2), Sequence(4));
        assert_eq!(opened, Acknowledged::Opened);
        assert_eq!(serve(&mut hub, 0).1, marked([4]));
    }

    #[test]
    fn history_beyond_the_quota_is_conflated_like_a_resume() {
        let conflating = |config: &mut Config| {
            config.quota.behind_publications = 3;
            config.namespace = vec![Namespace {
                pattern: "*".into(),
                overflow: Some(Overflow::Conflate),
                ..Namespace::default()
            }];
        };
        let mut hub = hub(conflating);
        publish(&mut hub, "aaaaa");
        join(&mut hub, 0, "a", last(3));
        assert_eq!(serve(&mut hub, 0), (Vec::new(), marked(3..=5)));
        join(&mut hub, 1, "a", Since::First);
        let gap = Gap {
            since: Some(cursor(0)),
            until: cursor(4),
            missed: Some(4),
            cause: GapCause::Conflated,
        };
        assert_eq!(serve(&mut hub, 1), (vec![gap], marked([5])));
    }

    #[test]
    fn history_that_leaves_the_log_is_a_gap_only_when_some_of_it_was_given() {
        let expired = |since, until| Gap {
            since: Some(cursor(since)),
            until: cursor(until),
            missed: None,
            cause: GapCause::Expired,
        };
        for (given_before, published, gaps, given) in [
            (0, "bb", vec![], marked([3])),
            (0, "bbb", vec![], vec![]),
            // Publications after the subscription began are not initial.
            (0, "abbb", vec![expired(3, 4)], vec![]),
            (1, "bb", vec![expired(1, 2)], marked([3])),
            (2, "bbb", vec![expired(2, 3)], vec![]),
        ] {
            let mut hub = hub(|config| config.log.entries = 3);
            publish(&mut hub, "aaa");
            join(&mut hub, 0, "a", Since::First);
            let first = plan(&mut hub, 0, FULL);
            let bytes = first.iter().take(given_before).map(|step| step.length);
            hub.advance(0, &first, bytes.sum());
            publish(&mut hub, published);
            walk(&mut hub);
            assert_eq!(
                serve(&mut hub, 0),
                (gaps, given),
                "{given_before} {published}"
            );
            assert!(!hub.is_behind(0));
        }
    }

    #[test]
    fn history_that_leaves_the_log_ends_before_what_a_walk_still_brings() {
        let mut hub = hub(|config| config.log.entries = 3);
        publish(&mut hub, "aaa");
        join(&mut hub, 0, "a", Since::First);
        publish(&mut hub, "abbb");
        assert_eq!(serve(&mut hub, 0), (Vec::new(), vec![(4, false)]));
    }

    #[test]
    fn gap_of_a_slow_subscriber_is_not_followed_by_a_silent_one() {
        let mut hub = hub(|config| {
            config.log.entries = 4;
            config.quota.behind_publications = 1;
        });
        publish(&mut hub, "aa");
        join(&mut hub, 0, "a", Since::First);
        publish(&mut hub, "aa");
        assert_eq!(hub.enforce(0, Now(1)), QuotaOutcome::Skipped(3));
        walk(&mut hub);
        publish(&mut hub, "bbbb");
        let gap = Gap {
            since: Some(cursor(0)),
            until: cursor(4),
            missed: None,
            cause: GapCause::Expired,
        };
        assert_eq!(serve(&mut hub, 0), (vec![gap], Vec::new()));
    }

    #[test]
    fn frame_that_is_begun_stays_the_marked_one() {
        let mut hub = hub(|_| {});
        publish(&mut hub, "a");
        join(&mut hub, 0, "a", Since::First);
        let planned = plan(&mut hub, 0, FULL);
        let wire = hub.frame(&planned[0]).to_vec();
        let advanced = hub.advance(0, &planned, 5);
        let (frame, written) = advanced.begun.unwrap();
        assert_eq!((frame.wire(), written), (&wire[..], 5));
        assert_eq!(frame.kind, FULL.initial());
    }

    #[test]
    fn marked_frame_is_encoded_once_and_counted_until_its_entry_leaves() {
        let mut hub = hub(|_| {});
        let empty = hub.log().bytes();
        publish(&mut hub, "ab");
        let before = hub.log().bytes();
        for slot in 0..2 {
            join(&mut hub, slot, "a", Since::First);
        }
        let first = plan(&mut hub, 0, FULL);
        let held = hub.log().bytes();
        let encodings = hub.encoded(&first[0]).unwrap().frames.bytes_held();
        assert_eq!(held, before + encodings);
        let second = plan(&mut hub, 1, FULL);
        assert!(std::ptr::eq(hub.frame(&first[0]), hub.frame(&second[0])));
        assert_eq!(hub.log().bytes(), held);
        // A frame that contains only the payload does not say whether a publication is initial. So
        // such frames need no separate kind.
        let bare = FrameKind::WebSocket(Envelope::Data);
        let planned = plan(&mut hub, 1, bare);
        assert_eq!(planned[0].kind, bare);
        (0..2).for_each(|slot| hub.leave(slot));
        hub.evict(Now(u64::MAX / 2), 100);
        assert_eq!(hub.log().bytes(), empty);
    }

    proptest! {
        #[test]
        fn history_is_what_the_log_has(
            entries in 1u64..12,
            channels in "[abc]{0,30}",
            count in 1u32..8,
        ) {
            let mut hub = hub(|config| config.log.entries = entries);
            publish(&mut hub, &channels);
            for (slot, channel) in ["a", "b", "c"].into_iter().enumerate() {
                let numbers = 1..=channels.len() as u64;
                let kept = numbers.filter(|number| {
                    let entry = hub.log.find(Sequence(*number));
                    entry.is_some_and(|entry| entry.publication.channel.as_str() == channel)
                });
                let kept: Vec<u64> = kept.collect();
                let newest = &kept[kept.len().saturating_sub(count as usize)..];
                let slot = u32::try_from(slot).unwrap();
                for (slot, since, expected) in [
                    (slot * 2, Since::First, kept.as_slice()),
                    (slot * 2 + 1, last(count), newest),
                ] {
                    let joined = join(&mut hub, slot, channel, since);
                    prop_assert_eq!(joined.gap, None);
                    let expected = (Vec::new(), marked(expected.iter().copied()));
                    prop_assert_eq!(serve(&mut hub, slot), expected);
                }
            }
            prop_assert!(hub.initial.0.is_empty());
        }
    }
}
