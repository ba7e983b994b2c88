//! Acknowledgement windows. A window limits the number of publications that a subscription receives
//! before its client acknowledges them.
//!
//! A window contains the ids that its subscription has received and its client has not
//! acknowledged. The window is closed while it contains its maximum number of ids. The ids have to
//! be stored. Their number cannot be computed from two positions in the log, because an
//! acknowledged id may have left the log or belong to another channel. Also, expired and skipped
//! publications do not count. A window does not change how the cursor moves. So publications that a
//! closed window holds back are part of the subscription's lag, and the quota applies to them.
//!
//! An acknowledged id may be beyond the last delivered id, because a resuming client may have
//! processed publications that it is about to receive again. These publications take no room in the
//! window and need no second acknowledgement.
//!
//! Only subscriptions that requested a window are listed here, by slot. [`super::serve`] checks the
//! room and records deliveries; the worker passes acknowledgements to this module.

use std::collections::VecDeque;

use super::channel::ChannelIndex;
use super::{Hub, Map};
use crate::certain;
use crate::effect::Window;
use crate::id::{ChannelName, Cursor, Sequence};

/// The capacity that an empty window keeps, in ids. Without this reserve, a client that
/// acknowledges each id separately would cause an allocation for each id.
const ROOM_KEPT: usize = 8;

/// The result of an acknowledgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Acknowledged {
    /// The id is above the newest id, or was never assigned in its epoch.
    BadId,
    /// The conn has several channels, and the acknowledgement names none of them. Each channel
    /// holds back its own publications, so one id for all channels would acknowledge publications
    /// that were never delivered.
    ChannelUnclear,
    /// The channel has no window. If the acknowledgement names no channel, this is the conn's only
    /// channel.
    NoWindow,
    /// The hub does not know the epoch of the id, for example because the server has restarted
    /// without a journal.
    UnknownEpoch,
    /// The acknowledgement has opened a closed window.
    Opened,
    /// The acknowledgement was accepted, but did not open a window. It may repeat an earlier one.
    Taken,
}

/// The windows of all conns. The windows of a conn are in the order of their channels.
#[derive(Clone, Debug, Default)]
pub(super) struct Windows(Map<u32, Vec<ConnWindow>>);

/// The window of one subscription.
#[derive(Clone, Debug)]
pub(super) struct ConnWindow {
    channel: ChannelIndex,
    window: Window,
    /// Ids that the client has received but not acknowledged, in order. There are never more ids
    /// than the window allows.
    ids: VecDeque<Sequence>,
    /// All ids up to this number are acknowledged, whether they were delivered or not. The numbers
    /// in `ids` are larger.
    acknowledged: Sequence,
}

const _: () = assert!(size_of::<ConnWindow>() <= 48);

/// The number of publications that a subscription may receive before its client acknowledges more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct WindowRoom {
    publications: u32,
    /// The client has acknowledged publications up to this number in advance, so they do not count
    /// towards the window.
    acknowledged: Sequence,
}

impl WindowRoom {
    /// The value for a subscription without a window: no limit.
    pub(super) const ENDLESS: Self = Self {
        publications: u32::MAX,
        acknowledged: Sequence(u64::MAX),
    };

    pub(super) fn is_over(self) -> bool {
        self.publications == 0
    }

    /// Returns the number of publications that may still be delivered after this one.
    pub(super) fn after(self, sequence: Sequence) -> Self {
        debug_assert!(!self.is_over(), "{sequence:?} does not fit");
        let taken = u32::from(sequence > self.acknowledged);
        Self {
            publications: self.publications.saturating_sub(taken),
            ..self
        }
    }
}

impl ConnWindow {
    /// Returns the number of publications that may be delivered now.
    pub(super) fn room(&self) -> WindowRoom {
        let given = certain::to_u32(self.ids.len());
        debug_assert!(given <= self.window.publications(), "{given} were given");
        WindowRoom {
            publications: self.window.publications().saturating_sub(given),
            acknowledged: self.acknowledged,
        }
    }

    fn is_closed(&self) -> bool {
        self.room().is_over()
    }

    /// Records that a publication was delivered to the client.
    pub(super) fn note(&mut self, sequence: Sequence) {
        if sequence <= self.acknowledged {
            return;
        }
        debug_assert!(!self.is_closed(), "{sequence:?} does not fit");
        debug_assert!(self.ids.back().is_none_or(|last| *last < sequence));
        self.ids.push_back(sequence);
    }

    /// Acknowledges all publications up to an id. Returns whether this opens the window.
    fn acknowledge(&mut self, id: Sequence) -> bool {
        let was_closed = self.is_closed();
        self.acknowledged = self.acknowledged.max(id);
        while self.ids.pop_front_if(|given| *given <= id).is_some() {}
        if self.ids.is_empty() && self.ids.capacity() > ROOM_KEPT {
            self.ids = VecDeque::new();
        }
        was_closed && !self.is_closed()
    }
}

impl Windows {
    /// Returns the windows of the conn in a slot.
    pub(super) fn of(&self, slot: u32) -> &[ConnWindow] {
        if self.0.is_empty() {
            return &[];
        }
        self.0.get(&slot).map(Vec::as_slice).unwrap_or_default()
    }

    /// Returns the windows of the conn in a slot. The caller can record deliveries in them.
    pub(super) fn of_mut(&mut self, slot: u32) -> &mut [ConnWindow] {
        if self.0.is_empty() {
            return &mut [];
        }
        let given = self.0.get_mut(&slot);
        given.map(Vec::as_mut_slice).unwrap_or_default()
    }

    fn add(&mut self, slot: u32, channel: ChannelIndex, window: Window) {
        let all = self.0.entry(slot).or_default();
        if let Err(place) = all.binary_search_by_key(&channel, |given| given.channel) {
            let given = ConnWindow {
                channel,
                window,
                ids: VecDeque::new(),
                acknowledged: Sequence::ZERO,
            };
            all.insert(place, given);
        }
    }

    /// Removes the ids after the number `kept`. An epoch change has discarded their publications,
    /// so the client need not acknowledge them. Earlier acknowledgements of these publications are
    /// ignored.
    pub(super) fn cut(&mut self, kept: Sequence) {
        for given in self.0.values_mut().flatten() {
            while given.ids.pop_back_if(|id| *id > kept).is_some() {}
            given.acknowledged = given.acknowledged.min(kept);
        }
    }

    /// Removes the window of a subscription that has ended.
    pub(super) fn remove(&mut self, slot: u32, channel: ChannelIndex) {
        if let Some(all) = self.0.get_mut(&slot) {
            all.retain(|given| given.channel != channel);
            if all.is_empty() {
                self.0.remove(&slot);
            }
        }
    }

    pub(super) fn shrink_to_fit(&mut self) {
        self.0.shrink_to_fit();
    }
}

/// Finds the window of a channel among `all` windows of one conn.
pub(super) fn find(all: &[ConnWindow], channel: ChannelIndex) -> Option<&ConnWindow> {
    let place = all.binary_search_by_key(&channel, |given| given.channel);
    all.get(place.ok()?)
}

/// Like [`find`], but the caller can change the window.
pub(super) fn find_mut(all: &mut [ConnWindow], channel: ChannelIndex) -> Option<&mut ConnWindow> {
    let place = all.binary_search_by_key(&channel, |given| given.channel);
    all.get_mut(place.ok()?)
}

/// Whether a channel has a window that is closed. `all` are the windows of one conn.
pub(super) fn is_closed(all: &[ConnWindow], channel: ChannelIndex) -> bool {
    find(all, channel).is_some_and(ConnWindow::is_closed)
}

impl Hub {
    /// Sets a window for the conn in a slot, which has just subscribed. From then on, the conn
    /// receives publications of the channel only while the window is open.
    pub fn set_window(&mut self, slot: u32, name: &ChannelName, window: Window) {
        let channel = self.index_of(name);
        if let Some(channel) = certain::some(channel, "the conn has subscribed to the channel") {
            self.windows.add(slot, channel, window);
        }
    }

    /// Acknowledges all publications of a channel up to an id. The name may be missing if the conn
    /// has only one channel. An id is a position in all channels, so the publication with this id
    /// may be in another channel.
    pub fn acknowledge(
        &mut self,
        slot: u32,
        name: Option<&ChannelName>,
        id: Cursor,
        sequenced: Sequence,
    ) -> Acknowledged {
        if !self.knows_epoch(id.epoch) {
            return Acknowledged::UnknownEpoch;
        }
        let number = self.acknowledged_by(id);
        let Some(number) = number.filter(|number| *number <= sequenced) else {
            return Acknowledged::BadId;
        };
        let channel = match (name, self.subscriptions(slot)) {
            (Some(name), _) => self.index_of(name),
            (None, [only]) => Some(only.channel),
            (None, []) => None,
            (None, [_, ..]) => return Acknowledged::ChannelUnclear,
        };
        let all = self.windows.of_mut(slot);
        let Some(given) = channel.and_then(|channel| find_mut(all, channel)) else {
            return Acknowledged::NoWindow;
        };
        if given.acknowledge(number) {
            Acknowledged::Opened
        } else {
            Acknowledged::Taken
        }
    }

    /// Whether the conn in this slot must still receive a publication or a gap, but cannot receive
    /// it before its client acknowledges more publications.
    #[must_use]
    pub fn is_held_back(&self, slot: u32) -> bool {
        let windows = self.windows.of(slot);
        let mut closed = windows.iter().filter(|given| given.is_closed());
        closed.any(|given| {
            let mut subscriptions = self.subscriptions(slot).iter();
            let subscription = subscriptions.find(|s| s.channel == given.channel);
            subscription.is_some_and(|subscription| self.is_owed(slot, *subscription))
        })
    }

    /// Returns the number of publications that the client of a conn has received but not
    /// acknowledged, in all windows of the conn together. For tests.
    #[doc(hidden)]
    #[must_use]
    pub fn unacknowledged(&self, slot: u32) -> usize {
        let windows = self.windows.of(slot).iter();
        windows.map(|given| given.ids.len()).sum()
    }

    /// Panics if a window has no subscription, or exceeds its maximum number of ids. For tests.
    pub(super) fn check_windows(&self) {
        for (slot, all) in &self.windows.0 {
            assert!(!all.is_empty(), "slot {slot} has no window and is listed");
            assert!(all.is_sorted_by_key(|given| given.channel));
            for given in all {
                let mut subscriptions = self.subscriptions(*slot).iter();
                let of = subscriptions.find(|s| s.channel == given.channel);
                let position = of.map(|subscription| subscription.position);
                assert!(position.is_some(), "a window without a subscription");
                assert!(given.ids.len() <= given.window.publications() as usize);
                assert!(given.ids.iter().is_sorted());
                assert!(given.ids.iter().all(|id| *id > given.acknowledged));
                assert!(
                    given.ids.back().copied() <= position,
                    "given and not passed"
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::config::{Config, Namespace, Overflow};
    use crate::frame::{Compressor, Envelope, FrameKind, Payload, Publication};
    use crate::hub::{Gap, GapCause, Node, QuotaOutcome, Visit};
    use crate::id::{Epoch, Since};
    use crate::time::Now;

    fn cursor(sequence: u64) -> Cursor {
        Cursor {
            epoch: Epoch::new(7),
            sequence: Sequence(sequence),
        }
    }

    fn name(text: &str) -> ChannelName {
        ChannelName::new(text).unwrap()
    }

    /// Creates a hub in which the conn in slot 0 has a window of two publications on channel `a`,
    /// and no window on channel `b`.
    fn hub(change: impl FnOnce(&mut Config)) -> Node {
        let mut config = Config::default();
        change(&mut config);
        let mut hub = Node::new(Epoch::new(7), Sequence::ZERO, &config);
        for channel in ["a", "b"] {
            let _joined = hub.subscribe(0, &name(channel), Since::Now, Sequence::ZERO);
        }
        hub.set_window(0, &name("a"), Window::new(2).unwrap());
        hub
    }

    /// Publishes once for each letter of `channels`, in the channel of this name. If the letter is
    /// a capital, its lower-case form is the name, and the publication expires immediately.
    fn publish(hub: &mut Node, channels: &str) {
        for channel in channels.chars() {
            let id = cursor(hub.log().sequenced().next().0);
            let lower = channel.to_ascii_lowercase().to_string();
            let (payload, ledger) = (Payload::Text("x".into()), hub.log().ledger());
            let expires = Now(0).after(std::time::Duration::ZERO);
            let publication = Publication::new(id, name(&lower), payload, Now(0), ledger)
                .expiring(channel.is_uppercase().then_some(expires));
            hub.publish(Arc::new(publication), Now(0));
            hub.check_invariants();
        }
    }

    /// Sends publications to the conn until nothing more can be sent. Returns the gaps and
    /// publications that the conn receives.
    fn serve(hub: &mut Node) -> (Vec<Gap>, Vec<u64>) {
        let (mut gaps, mut given, mut planned) = (Vec::new(), Vec::new(), Vec::new());
        let kind = FrameKind::WebSocket(Envelope::Full);
        loop {
            gaps.extend(std::iter::from_fn(|| hub.take_gap(0)).map(|(_, gap)| gap));
            let compressor = &mut Compressor::default();
            hub.plan(0, kind, Now(1), 1 << 20, compressor, &mut planned);
            if planned.is_empty() {
                assert!(!hub.is_behind(0), "it would be listed for ever");
                return (gaps, given);
            }
            let sent = planned.iter().filter(|step| step.length > 0);
            given.extend(sent.map(|step| step.sequence.0));
            hub.advance(0, &planned, usize::MAX / 2);
            hub.check_invariants();
        }
    }

    fn acknowledge(hub: &mut Node, sequence: u64) -> Acknowledged {
        let head = hub.head().sequence;
        hub.acknowledge(0, Some(&name("a")), cursor(sequence), head)
    }

    #[test]
    fn closed_window_holds_up_its_own_channel_only() {
        let mut hub = hub(|_| {});
        publish(&mut hub, "abaabab");
        assert_eq!(serve(&mut hub).1, [1, 2, 3, 5, 7]);
        assert!(hub.is_held_back(0));
        assert_eq!(acknowledge(&mut hub, 2), Acknowledged::Opened);
        assert!(hub.is_behind(0));
        assert_eq!(serve(&mut hub).1, [4]);
        // Each id is a position in every channel, so the id of a publication in another channel is
        // accepted.
        assert_eq!(acknowledge(&mut hub, 7), Acknowledged::Opened);
        assert_eq!(serve(&mut hub).1, [6]);
        assert!(!hub.is_held_back(0));
    }

    #[test]
    fn window_is_full_within_one_plan_and_over_many() {
        let mut hub = hub(|_| {});
        publish(&mut hub, "a");
        assert_eq!(serve(&mut hub).1, [1]);
        publish(&mut hub, "aa");
        assert_eq!(serve(&mut hub).1, [2]);
        assert_eq!(acknowledge(&mut hub, 2), Acknowledged::Opened);
        publish(&mut hub, "aa");
        assert_eq!(serve(&mut hub).1, [3, 4]);
    }

    #[test]
    fn old_ack_changes_nothing_and_a_wrong_one_is_reported() {
        let mut hub = hub(|_| {});
        publish(&mut hub, "aaaa");
        assert_eq!(serve(&mut hub).1, [1, 2]);
        assert_eq!(acknowledge(&mut hub, 0), Acknowledged::Taken);
        assert_eq!(acknowledge(&mut hub, 1), Acknowledged::Opened);
        assert_eq!(acknowledge(&mut hub, 1), Acknowledged::Taken);
        assert_eq!(acknowledge(&mut hub, 5), Acknowledged::BadId);
        let foreign = Cursor {
            epoch: Epoch::new(8),
            sequence: Sequence(2),
        };
        let outcome = hub.acknowledge(0, Some(&name("a")), foreign, Sequence(9));
        assert_eq!(outcome, Acknowledged::UnknownEpoch);
        for channel in ["b", "c"] {
            let outcome = hub.acknowledge(0, Some(&name(channel)), cursor(2), Sequence(9));
            assert_eq!(outcome, Acknowledged::NoWindow);
        }
        assert_eq!(serve(&mut hub).1, [3]);
        assert_eq!(hub.unacknowledged(0), 2);
    }

    #[test]
    fn ack_names_its_channel_unless_there_is_only_one() {
        let mut hub = hub(|_| {});
        publish(&mut hub, "aaa");
        assert_eq!(serve(&mut hub).1, [1, 2]);
        let without_name = |hub: &mut Node| hub.acknowledge(0, None, cursor(2), Sequence(9));
        assert_eq!(without_name(&mut hub), Acknowledged::ChannelUnclear);
        hub.unsubscribe(0, &name("b"));
        assert_eq!(without_name(&mut hub), Acknowledged::Opened);
        hub.unsubscribe(0, &name("a"));
        assert_eq!(without_name(&mut hub), Acknowledged::NoWindow);
    }

    #[test]
    fn publication_acknowledged_before_its_delivery_takes_no_room() {
        let mut hub = hub(|_| {});
        publish(&mut hub, "aaaaaa");
        assert_eq!(acknowledge(&mut hub, 3), Acknowledged::Taken);
        assert_eq!(serve(&mut hub).1, [1, 2, 3, 4, 5]);
        assert_eq!(hub.unacknowledged(0), 2);
        assert_eq!(acknowledge(&mut hub, 4), Acknowledged::Opened);
        assert_eq!(serve(&mut hub).1, [6]);
    }

    #[test]
    fn acknowledged_publication_may_have_left_the_log() {
        let mut hub = hub(|config| config.log.entries = 1);
        publish(&mut hub, "aa");
        assert_eq!(serve(&mut hub).1, [1, 2]);
        publish(&mut hub, "ab");
        while hub.visit() != Visit::Done {}
        hub.release_walked();
        hub.evict(Now(1), 100);
        assert_eq!(acknowledge(&mut hub, 1), Acknowledged::Opened);
        let (gaps, given) = serve(&mut hub);
        assert_eq!(gaps.len(), 1);
        assert_eq!((gaps[0].cause, gaps[0].missed), (GapCause::Expired, None));
        assert_eq!(given, [4]);
        assert_eq!(hub.unacknowledged(0), 1, "a gap takes no room");
    }

    #[test]
    fn expired_publication_takes_no_room() {
        let mut hub = hub(|_| {});
        publish(&mut hub, "AaAAaAa");
        assert_eq!(serve(&mut hub).1, [2, 5]);
        assert_eq!(acknowledge(&mut hub, 2), Acknowledged::Opened);
        assert_eq!(serve(&mut hub).1, [7]);
    }

    #[test]
    fn withheld_publications_count_for_the_quota_and_their_gap_is_reported_when_the_window_opens() {
        let mut hub = hub(|config| config.quota.behind_publications = 3);
        publish(&mut hub, "aaaaaaa");
        assert_eq!(serve(&mut hub), (Vec::new(), vec![1, 2]));
        assert_eq!(hub.enforce(0, Now(1)), QuotaOutcome::Skipped(2));
        publish(&mut hub, "a");
        assert_eq!(hub.enforce(0, Now(1)), QuotaOutcome::Skipped(1));
        // One gap reports all missing publications; there is no message for each of them.
        assert_eq!(serve(&mut hub), (Vec::new(), Vec::new()));
        assert_eq!(acknowledge(&mut hub, 1), Acknowledged::Opened);
        let gap = Gap {
            since: Some(cursor(2)),
            until: cursor(5),
            missed: Some(3),
            cause: GapCause::Slow,
        };
        assert_eq!(serve(&mut hub), (vec![gap], vec![6]));
    }

    #[test]
    fn conn_that_does_not_acknowledge_is_closed_where_the_policy_is_to_close() {
        let mut hub = hub(|config| {
            config.quota.behind_publications = 3;
            config.namespace = vec![Namespace {
                pattern: "a".into(),
                overflow: Some(Overflow::Close),
                ..Namespace::default()
            }];
        });
        publish(&mut hub, "aaaaa");
        assert_eq!(serve(&mut hub).1, [1, 2]);
        assert_eq!(hub.enforce(0, Now(1)), QuotaOutcome::Within);
        publish(&mut hub, "a");
        assert_eq!(hub.enforce(0, Now(1)), QuotaOutcome::Overflow);
    }

    #[test]
    fn window_goes_with_its_subscription() {
        let mut hub = hub(|_| {});
        publish(&mut hub, "aaa");
        assert_eq!(serve(&mut hub).1, [1, 2]);
        hub.unsubscribe(0, &name("a"));
        assert!(hub.windows.0.is_empty());
        let _joined = hub.subscribe(0, &name("a"), Since::After(cursor(0)), Sequence(9));
        assert_eq!(serve(&mut hub).1, [1, 2, 3], "without a window");
        assert_eq!(acknowledge(&mut hub, 3), Acknowledged::NoWindow);
        hub.set_window(0, &name("b"), Window::new(1).unwrap());
        hub.leave(0);
        assert!(hub.windows.0.is_empty());
    }
}
