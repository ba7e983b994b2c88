//! Switches a hub to a new epoch of its log.
//!
//! Up to some number, the old and the new epoch have the same publications. The new epoch discards
//! the later publications of the old epoch; they are called *void*. A subscription whose position
//! is not beyond this number continues without a gap. Any other subscription receives a gap and
//! continues after the gap. The hub also lowers other stored numbers to this number: those of
//! acknowledgements, of requested history, and of publications that do not count towards a quota.
//! It drops later entries that it was about to deliver.
//!
//! Messages of the old epoch may still be in the inbox. If the entry of a message is not void, the
//! worker accepts the entry, because the log may have evicted it. If the entry is void, the worker
//! ignores it, but confirms the message.
//!
//! The hub must not switch while a planned publication waits to be written. So the worker switches
//! between its phases and before it subscribes a conn.

use super::channel::{Channel, ChannelIndex};
use super::{Gap, GapCause, Hub, Late};
use crate::certain;
use crate::config::Overflow;
use crate::id::{Cursor, Epoch, Sequence};
use crate::log::{ChannelState, Horizon};
use crate::time::Now;

/// A change from one epoch to another.
#[derive(Clone, Copy, Debug)]
struct Passage {
    from: Epoch,
    /// The last number for which both epochs have the same publications, if they have any in
    /// common.
    valid_until: Option<Sequence>,
    /// The position from which a subscription continues if the epoch change has discarded its own
    /// position.
    restart: Sequence,
}

impl Passage {
    fn is_void(self, position: Sequence) -> bool {
        self.valid_until.is_none_or(|valid| position > valid)
    }

    /// Returns the last number for which both epochs have the same publications. Returns zero if
    /// they have none in common.
    fn kept(self) -> Sequence {
        self.valid_until.unwrap_or_default()
    }
}

impl Hub {
    /// Returns the id up to which the feed has sent all publications to the workers. The id is in
    /// the hub's epoch.
    #[must_use]
    pub fn posted(&self) -> Cursor {
        self.cursor(self.state.posted())
    }

    /// Returns a number of the hub's epoch. No client has received a publication with a larger
    /// number of this epoch, from any worker.
    #[must_use]
    pub fn sequenced(&self) -> Sequence {
        self.head.max(self.state.sequenced())
    }

    /// Returns the limit for queries of the log: entries that the hub has not accepted yet are not
    /// visible.
    pub(super) fn horizon(&self) -> Horizon {
        self.state.horizon(self.head)
    }

    /// Whether the hub is in the log's newest epoch.
    #[must_use]
    pub fn is_in_newest_epoch(&self) -> bool {
        self.log.is_newest(&self.state)
    }

    /// Whether a position, which may be of another epoch, is also a position of the hub's epoch.
    #[must_use]
    pub fn has_valid(&self, position: Cursor) -> bool {
        position.epoch == self.epoch || self.state.has_valid(position)
    }

    /// Converts an id, which may be of an earlier epoch, to an id of the hub's epoch. If the epoch
    /// change has discarded the id, returns the last id that both epochs share.
    #[must_use]
    pub fn in_this_epoch(&self, posted: Cursor) -> Cursor {
        let valid = self.state.valid_until(posted.epoch).unwrap_or_default();
        match posted.epoch == self.epoch {
            true => posted,
            false => self.cursor(posted.sequence.min(valid)),
        }
    }

    /// Whether an epoch is the hub's epoch or an earlier one that the log remembers.
    pub(super) fn knows_epoch(&self, epoch: Epoch) -> bool {
        epoch == self.epoch || self.state.remembers(epoch)
    }

    /// Returns the number up to which a client acknowledges publications if it sends this id.
    /// Returns `None` if the id is unknown. If an epoch change has discarded the id, returns the
    /// last number that both epochs share. A client sends such an id if it does not know of the
    /// epoch change yet.
    pub(super) fn acknowledged_by(&self, id: Cursor) -> Option<Sequence> {
        if id.epoch == self.epoch {
            return Some(id.sequence);
        }
        let valid = self.state.valid_until(id.epoch).unwrap_or_default();
        let is_known = self.state.has_given_out(id);
        is_known.then_some(id.sequence.min(valid))
    }

    /// Switches to the log's newest epoch. Returns false if the hub is already in that epoch.
    pub fn follow_epoch(&mut self, now: Now) -> bool {
        if self.is_in_newest_epoch() {
            return false;
        }
        let state = self.log.state();
        let epoch = state.epoch().unwrap_or(self.epoch);
        let from = std::mem::replace(&mut self.epoch, epoch);
        let valid_until = state.valid_until(from);
        let passage = Passage {
            from,
            valid_until,
            restart: valid_until.unwrap_or_else(|| state.begin()),
        };
        // If both epochs share publications, the head does not move forward, because entries that
        // are valid in both epochs may still be in the inbox.
        self.head = valid_until.map_or_else(|| state.begin(), |valid| self.head.min(valid));
        self.state = state;
        self.fetched.clear();
        self.last_plan = None;
        self.samples.cut(passage.kept());
        self.cut_channels(passage);
        for (index, until) in std::mem::take(&mut self.postponed) {
            self.query_again(index, until.min(passage.kept()), now);
        }
        self.windows.cut(passage.kept());
        for until in self.replays.values_mut() {
            *until = passage.kept().min(*until);
        }
        for slot in 0..certain::to_u32(self.members.len()) {
            self.move_member(slot, passage);
        }
        true
    }

    /// Drops the entries that the new epoch has discarded. Then updates the state of their channels
    /// from the log.
    fn cut_channels(&mut self, passage: Passage) {
        let (kept, horizon) = (passage.kept(), self.horizon());
        self.late.retain(|(number, _), late| {
            if let Late::Unheld { until } = late {
                *until = kept.min(*until);
            }
            *number <= kept
        });
        for channel in self.channels.iter_mut() {
            if !passage.is_void(channel.last) {
                continue;
            }
            let Some(channel_state) = self.log.channel_state(channel.key, horizon) else {
                debug_assert!(false, "{:?} is not in the log", channel.name);
                continue;
            };
            let conflates = channel.overflow == Overflow::Conflate;
            let before = channel.held_bytes();
            channel.cut(&channel_state, kept, conflates);
            self.held_bytes = self.held_bytes + channel.held_bytes() - before;
        }
    }

    fn move_member(&mut self, slot: u32, passage: Passage) {
        for index in 0..self.subscriptions(slot).len() {
            self.move_subscription(slot, index, passage);
        }
        self.end_conflation(slot);
        if let Some(member) = self.members.get(slot as usize) {
            self.initial.cut(slot, passage.kept());
            self.initial.end_passed(slot, member);
        }
    }

    fn move_subscription(&mut self, slot: u32, index: usize, passage: Passage) {
        let Some(subscription) = self.subscription_mut(slot, index) else {
            return;
        };
        let (position, key) = (subscription.position, (slot, subscription.channel));
        if !passage.is_void(position) {
            return self.rename_gap(key);
        }
        subscription.position = passage.restart;
        let until = self.cursor(passage.restart);
        let since = Cursor {
            epoch: passage.from,
            sequence: position,
        };
        let fresh = Gap {
            since: Some(since),
            until,
            missed: None,
            cause: GapCause::Restart,
        };
        let state = &self.state;
        let gap = self.gaps.entry(key).or_insert(fresh);
        (gap.until, gap.missed) = (until, None);
        // A gap of expired publications keeps its cause, if the position before the gap is still
        // valid in the new epoch.
        let has_expired =
            gap.cause == GapCause::Expired && gap.since.is_some_and(|since| state.has_valid(since));
        if !gap.cause.is_foreign() && !has_expired {
            gap.cause = GapCause::Restart;
        }
    }

    /// If a subscription has an unreported gap, changes the epoch of the gap's end to the hub's
    /// epoch. The sequence number of the end stays the same.
    fn rename_gap(&mut self, key: (u32, ChannelIndex)) {
        let epoch = self.epoch;
        if let Some(gap) = self.gaps.get_mut(&key) {
            gap.until.epoch = epoch;
        }
    }
}

impl Channel {
    /// Drops the entries after the number `kept`, which the new epoch has discarded. Sets the
    /// channel's newest publication from the log, or from the tail if the log does not know it.
    fn cut(&mut self, channel_state: &ChannelState, kept: Sequence, conflates: bool) {
        (self.last, self.total) = (channel_state.last, channel_state.total);
        if let Some(walk) = &mut self.walk {
            // The log may have evicted entries that the epoch change discarded. Then the log does
            // not know which publication of the channel was the last one before them, but the tail
            // may know it.
            if let Some(before_void) = walk.tail.cut(kept, conflates) {
                (self.last, self.total) = before_void;
            }
            for floor in [&mut walk.floor, &mut walk.again_floor] {
                if floor.publications > self.total.publications {
                    *floor = self.total;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::config::{Config, Namespace};
    use crate::effect::Window;
    use crate::frame::{Compressor, Envelope, FrameKind, Payload, Publication};
    use crate::hub::{Acknowledged, JoinOutcome, Joined, Node};
    use crate::id::{ChannelName, Since};
    use crate::log::{EpochChange, Writer};

    fn id(epoch: u64, number: u64) -> Cursor {
        Cursor {
            epoch: Epoch::new(epoch),
            sequence: Sequence(number),
        }
    }

    fn name() -> ChannelName {
        ChannelName::new("a").unwrap()
    }

    fn publish(node: &mut Node, epoch: u64, numbers: impl IntoIterator<Item = u64>) {
        publish_in(&name(), node, epoch, numbers);
    }

    fn publish_in(
        channel: &ChannelName,
        node: &mut Node,
        epoch: u64,
        numbers: impl IntoIterator<Item = u64>,
    ) {
        for number in numbers {
            let (payload, ledger) = (Payload::Text("x".into()), node.log().ledger());
            let one = Publication::new(id(epoch, number), channel.clone(), payload, Now(0), ledger);
            node.publish(Arc::new(one), Now(0));
            node.check_invariants();
        }
    }

    fn change(node: &mut Node, head: u64, valid_until: Option<u64>) {
        node.change_epoch(&EpochChange {
            from: Epoch::new(1),
            to: Epoch::new(2),
            head: Sequence(head),
            valid_until: valid_until.map(Sequence),
        });
        node.check_invariants();
    }

    fn follow(node: &mut Node) {
        assert!(node.follow_epoch(Now(0)) && !node.follow_epoch(Now(0)));
        node.check_invariants();
    }

    fn join(node: &mut Node, slot: u32, since: Since) -> Joined {
        join_in(&name(), node, slot, since)
    }

    fn join_in(channel: &ChannelName, node: &mut Node, slot: u32, since: Since) -> Joined {
        let sequenced = node.sequenced();
        let outcome = node.subscribe(slot, channel, since, sequenced);
        let JoinOutcome::Joined(joined) = outcome else {
            panic!("{outcome:?}");
        };
        joined
    }

    /// Serves a conn until nothing is pending for it. Returns the gaps and the publications' ids.
    fn serve(node: &mut Node, slot: u32) -> (Vec<Gap>, Vec<Cursor>) {
        let (mut gaps, mut given, mut planned) = (Vec::new(), Vec::new(), Vec::new());
        let kind = FrameKind::WebSocket(Envelope::Full);
        loop {
            gaps.extend(std::iter::from_fn(|| node.take_gap(slot)).map(|(_, gap)| gap));
            let compressor = &mut Compressor::default();
            node.plan(slot, kind, Now(0), 1 << 20, compressor, &mut planned);
            if planned.is_empty() {
                return (gaps, given);
            }
            let ids = planned.iter().map(|step| node.encoded(step).unwrap().id);
            given.extend(ids);
            node.advance(slot, &planned, usize::MAX / 2);
            node.check_invariants();
        }
    }

    fn restart(since: Cursor, until: Cursor) -> Gap {
        Gap {
            since: Some(since),
            until,
            missed: None,
            cause: GapCause::Restart,
        }
    }

    fn node() -> Node {
        Node::new(Epoch::new(1), Sequence::ZERO, &Config::default())
    }

    /// Creates a writer, and the hub of a worker that may lag behind the writer. The hub's quota is
    /// zero bytes. So the hub reads older entries from the log and holds none of them.
    fn writer_and_hub() -> (Now, Epoch, Writer, Hub) {
        let mut config = Config::default();
        config.quota.behind_bytes = 0;
        let epoch = Epoch::new(1);
        let writer = Writer::new(&config, Sequence::ZERO);
        let log = Arc::clone(writer.log());
        let hub = Hub::new(log, 0, epoch, Sequence::ZERO, &config);
        (Now(0), epoch, writer, hub)
    }

    #[test]
    fn subscription_goes_on_without_a_gap_up_to_what_is_valid_and_with_one_after_that() {
        let mut node = node();
        for slot in 0..2 {
            join(&mut node, slot, Since::Now);
        }
        // The numbers of the publications are not contiguous.
        publish(&mut node, 1, [64, 128, 192]);
        assert_eq!(serve(&mut node, 0).1.len(), 3);
        change(&mut node, 130, Some(128));
        follow(&mut node);
        assert!(node.is_behind(0) && node.is_behind(1));
        let gap = restart(id(1, 192), id(2, 128));
        assert_eq!(serve(&mut node, 0), (vec![gap], vec![]));
        assert_eq!(serve(&mut node, 1), (vec![], vec![id(1, 64), id(1, 128)]));
        publish(&mut node, 2, [192]);
        for slot in 0..2 {
            assert_eq!(serve(&mut node, slot), (vec![], vec![id(2, 192)]));
        }
    }

    #[test]
    fn nothing_of_before_is_given_where_nothing_is_valid() {
        let mut node = node();
        join(&mut node, 0, Since::Now);
        publish(&mut node, 1, 1..=3);
        change(&mut node, 0, None);
        follow(&mut node);
        publish(&mut node, 2, 1..=1);
        let gap = restart(id(1, 0), id(2, 0));
        assert_eq!(serve(&mut node, 0), (vec![gap], vec![id(2, 1)]));
    }

    #[test]
    fn hub_that_has_not_followed_finds_nothing_and_concludes_nothing() {
        let mut node = node();
        publish(&mut node, 1, 1..=4);
        join(&mut node, 0, Since::After(id(1, 0)));
        change(&mut node, 3, Some(3));
        assert_eq!(serve(&mut node, 0), (vec![], vec![]));
        assert!(node.take_found_loss() && !node.has_loss(0));
        assert_eq!(node.reached(0), id(1, 0));
        follow(&mut node);
        let given = [1, 2, 3].map(|number| id(1, number));
        assert_eq!(serve(&mut node, 0), (vec![], given.to_vec()));
    }

    #[test]
    fn position_of_the_epoch_before_is_recovered_up_to_what_is_valid() {
        let mut node = node();
        publish(&mut node, 1, 1..=4);
        change(&mut node, 3, Some(2));
        follow(&mut node);
        publish(&mut node, 2, 4..=4);
        let joined = join(&mut node, 0, Since::After(id(1, 2)));
        assert!(joined.is_recovered && joined.gap.is_none());
        assert_eq!(serve(&mut node, 0).1, [id(2, 4)]);
        let joined = join(&mut node, 1, Since::After(id(1, 3)));
        assert_eq!(joined.gap, Some(restart(id(1, 3), id(2, 2))));
        assert_eq!(serve(&mut node, 1).1, [id(2, 4)]);
        // The server has never used epoch 9, so none of its positions is valid.
        let joined = join(&mut node, 2, Since::After(id(9, 2)));
        assert_eq!(joined.gap, Some(restart(id(9, 2), id(2, 0))));
    }

    #[test]
    fn void_publications_take_no_room_in_a_window_and_may_be_acknowledged() {
        let mut node = node();
        join(&mut node, 0, Since::Now);
        node.set_window(0, &name(), Window::new(2).unwrap());
        publish(&mut node, 1, 1..=3);
        assert_eq!(serve(&mut node, 0).1.len(), 2);
        change(&mut node, 1, Some(1));
        follow(&mut node);
        assert_eq!(node.unacknowledged(0), 1);
        publish(&mut node, 2, 2..=3);
        let gap = restart(id(1, 2), id(2, 1));
        assert_eq!(serve(&mut node, 0), (vec![gap], vec![id(2, 2)]));
        let mut acknowledge = |id| {
            let sequenced = node.sequenced();
            node.acknowledge(0, None, id, sequenced)
        };
        assert_eq!(acknowledge(id(1, 4)), Acknowledged::BadId);
        assert_eq!(acknowledge(id(1, 2)), Acknowledged::Opened);
        assert_eq!(serve(&mut node, 0).1, [id(2, 3)]);
    }

    #[test]
    fn entries_of_a_walk_are_found_although_void_ones_between_them_had_left_the_log() {
        let mut node = node();
        join(&mut node, 0, Since::Now);
        publish(&mut node, 1, 1..=2);
        assert_eq!(node.evict(Now(u64::MAX / 2), 9), 2);
        change(&mut node, 1, Some(1));
        follow(&mut node);
        publish(&mut node, 2, 2..=3);
        let given = vec![id(1, 1), id(2, 2), id(2, 3)];
        assert_eq!(serve(&mut node, 0), (vec![], given));
    }

    #[test]
    fn void_entry_that_was_evicted_leaves_no_gap_to_a_subscriber_that_has_all_before_it() {
        let mut node = node();
        join(&mut node, 0, Since::Now);
        publish(&mut node, 1, 1..=2);
        assert_eq!(serve(&mut node, 0).1.len(), 2);
        publish(&mut node, 1, [5]);
        assert_eq!(node.evict(Now(u64::MAX / 2), 9), 3);
        change(&mut node, 4, Some(4));
        follow(&mut node);
        assert!(!node.is_behind(0) && !node.has_loss(0));
        publish(&mut node, 2, [5]);
        assert_eq!(serve(&mut node, 0), (vec![], vec![id(2, 5)]));
    }

    #[test]
    fn void_entry_that_the_hub_ignored_leaves_no_gap() {
        let (now, epoch, mut writer, mut hub) = writer_and_hub();
        let _joined = hub.subscribe(0, &name(), Since::Now, Sequence::ZERO);
        let mut mail = Vec::new();
        let mut send = |writer: &mut Writer, id: Cursor| {
            writer.announce(id.sequence);
            let (payload, ledger) = (Payload::Text("x".into()), writer.log().ledger());
            let one = Publication::new(id, name(), payload, now, ledger);
            writer.publish(Arc::new(one), |interest, key, entry| {
                mail.push((interest.place, key, entry));
            });
            writer.note_posted();
        };
        send(&mut writer, id(1, 1));
        send(&mut writer, id(1, 3));
        writer.evict(Now(u64::MAX / 2), 9);
        writer.change_epoch(&EpochChange {
            from: epoch,
            to: Epoch::new(2),
            head: Sequence(2),
            valid_until: Some(Sequence(2)),
        });
        send(&mut writer, id(2, 3));
        let mut mail = mail.into_iter();
        let (place, key, first) = mail.next().unwrap();
        hub.take(place, key, first, now);
        assert!(hub.follow_epoch(now));
        for (place, key, entry) in mail {
            hub.take(place, key, entry, now);
        }
        hub.check_invariants();
        let (mut planned, compressor) = (Vec::new(), &mut Compressor::default());
        let kind = FrameKind::WebSocket(Envelope::Full);
        hub.plan(0, kind, now, 1 << 20, compressor, &mut planned);
        let ids = planned.iter().map(|one| hub.encoded(one).unwrap().id);
        let ids: Vec<_> = ids.collect();
        assert_eq!((hub.take_gap(0), ids), (None, vec![id(1, 1), id(2, 3)]));
    }

    #[test]
    fn entries_of_two_channels_are_separated_where_one_stands_at_the_last_of_the_other() {
        let short = ChannelName::new("short").unwrap();
        let mut config = Config::default();
        config.namespace.push(Namespace {
            pattern: "short".into(),
            log_age_ms: Some(1),
            ..Namespace::default()
        });
        let mut node = Node::new(Epoch::new(1), Sequence::ZERO, &config);
        publish(&mut node, 1, 1..=2);
        publish_in(&short, &mut node, 1, [3]);
        assert_eq!(node.evict(Now(5_000_000), 9), 1);
        change(&mut node, 2, Some(2));
        follow(&mut node);
        publish_in(&short, &mut node, 2, [3]);
        join(&mut node, 0, Since::After(id(1, 0)));
        join_in(&short, &mut node, 0, Since::After(id(1, 2)));
        let given = vec![id(1, 1), id(1, 2), id(2, 3)];
        assert_eq!(serve(&mut node, 0), (vec![], given));
    }

    #[test]
    fn late_entries_that_a_lagging_hub_cannot_look_at_are_looked_at_when_it_has_followed() {
        let (now, epoch, mut writer, mut hub) = writer_and_hub();
        writer.announce(Sequence(3));
        for number in 1..=3 {
            let (payload, ledger) = (Payload::Text("x".into()), writer.log().ledger());
            let one = Publication::new(id(1, number), name(), payload, now, ledger);
            writer.publish(Arc::new(one), |_, _, _| panic!("no worker has subscribers"));
        }
        writer.note_posted();
        let _joined = hub.subscribe(0, &name(), Since::Now, Sequence(3));
        writer.change_epoch(&EpochChange {
            from: epoch,
            to: Epoch::new(2),
            head: Sequence(2),
            valid_until: Some(Sequence(2)),
        });
        hub.advance_head(id(1, 1), now);
        assert!(hub.follow_epoch(now));
        hub.advance_head(hub.posted(), now);
        assert!(!hub.has_late());
        hub.check_invariants();
        let (mut planned, compressor) = (Vec::new(), &mut Compressor::default());
        let kind = FrameKind::WebSocket(Envelope::Full);
        hub.plan(0, kind, now, 1 << 20, compressor, &mut planned);
        let given: Vec<_> = planned
            .iter()
            .map(|one| hub.encoded(one).unwrap().id)
            .collect();
        assert_eq!((hub.take_gap(0), given), (None, vec![id(1, 1), id(1, 2)]));
    }

    #[test]
    fn gap_of_what_has_expired_ends_with_what_is_valid_and_keeps_its_cause() {
        let mut node = node();
        join(&mut node, 0, Since::Now);
        publish(&mut node, 1, 1..=4);
        node.skip(0, 0, Sequence(4), None, GapCause::Expired);
        change(&mut node, 3, Some(3));
        follow(&mut node);
        let (since, until, missed) = (Some(id(1, 0)), id(2, 3), None);
        let cause = GapCause::Expired;
        let gap = Gap {
            since,
            until,
            missed,
            cause,
        };
        assert_eq!(serve(&mut node, 0), (vec![gap], vec![]));
    }

    #[test]
    fn pending_gap_becomes_one_with_that_of_the_new_epoch() {
        let mut node = node();
        join(&mut node, 0, Since::Now);
        publish(&mut node, 1, 1..=4);
        node.skip(0, 0, Sequence(4), Some(4), GapCause::Slow);
        change(&mut node, 3, Some(3));
        follow(&mut node);
        let gap = restart(id(1, 0), id(2, 3));
        assert_eq!(serve(&mut node, 0), (vec![gap], vec![]));
    }
}
