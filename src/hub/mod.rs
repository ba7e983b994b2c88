//! The hub: the subscribers of one worker, the publications that each subscriber still has to
//! receive, and the arithmetic of cursors and quotas.
//!
//! **The log is the queue.** The hub accepts each publication once, and then marks the channel's
//! subscribers as behind. In a *walk*, the worker visits these subscribers, one after another. To
//! serve a subscriber, the hub reads the log after the subscriber's *cursor*: the number of the
//! last publication that the subscriber received. Then the hub moves the cursor. Live delivery,
//! delivery to a slow reader, and a resume are the same operation. The log stores a running total
//! with each entry, so the lag of a subscriber is the difference between two totals. To skip
//! publications, the hub moves the cursor past them. If the log has evicted entries after a cursor,
//! the subscriber has a gap. Every gap is reported.
//!
//! The hub reads the log ([`crate::log`]) up to its *head*: the number up to which all publications
//! have been sent to this worker. The hub holds references to the entries that it is about to
//! write. The entries of a walk are in the channel's [`tail`]. Entries for conns that are further
//! behind are held until the result of the write is recorded. So the log may evict entries at any
//! time.
//!
//! The hub identifies conns only by their slots. It is independent of sockets and transports, and
//! never imports `conn`. The worker is its only caller: `broadcast` passes new publications to the
//! hub, `apply` subscribes conns, and `flush` delivers publications. This file accepts publications
//! and controls the walks. [`membership`] contains the subscriptions and their starts, [`serve`]
//! the cursors, and [`quota`] the treatment of conns that are behind. [`conflation`] handles
//! superseded publications, [`poll`] the needs of polls, and [`window`] acknowledgements.
//! [`initial`] handles the history, and [`epoch`] the switch to a new epoch.

pub mod channel;
pub mod conflation;
pub mod epoch;
pub mod gap;
pub mod initial;
pub mod member;
pub mod membership;
pub mod node;
pub mod poll;
pub mod progress;
pub mod quota;
mod rules;
pub mod serve;
pub mod subscribers;
mod survey;
pub mod tail;
pub mod window;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use hashbrown::{HashMap, HashSet};

pub use crate::log::Amount;
pub use channel::{Channel, ChannelIndex};
pub use gap::{Gap, GapCause};
pub use membership::{JoinOutcome, Joined};
pub use node::Node;
pub use progress::{WalkPosition, WalkProgress};
pub use quota::QuotaOutcome;
pub use serve::{Advanced, Planned};
pub use window::Acknowledged;

use crate::certain;
use crate::chunks::{ChunkedSlab, ChunkedVec};
use crate::config::limits::RULES_MAX;
use crate::config::{Config, Overflow, Quota};
use crate::frame::{Frames, Publication};
use crate::id::{ChannelName, Cursor, Epoch, Sequence};
use crate::log::{ChannelKey, Entry, EpochState, Log};
use crate::metrics::Counter;
use crate::time::Now;
use channel::Walk;
use initial::Initial;
use member::Member;
use poll::Samples;
use rules::RuleUpdate;
use subscribers::Step;
use window::Windows;

type Map<K, V> = HashMap<K, V, foldhash::quality::RandomState>;
type Set<K> = HashSet<K, foldhash::quality::RandomState>;

/// The maximum number of consecutive visits to subscribers of one channel. Then subscribers of
/// another channel are visited.
const VISITS_IN_A_ROW_MAX: u32 = 64;

/// The result of [`Hub::visit`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Visit {
    /// No channel has a subscriber left to visit.
    Done,
    /// The conn in this slot has to be visited, because its channel has a new publication.
    Subscriber(u32),
    /// The last subscriber of a channel was visited.
    WalkDone(WalkTimes),
}

/// The times of a walk over the subscribers of a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalkTimes {
    /// The time at which the visits began.
    pub started: Now,
    /// The time at which the feed accepted the oldest publication of the walk, if this worker
    /// received it from the feed; otherwise the same as `started`.
    pub published: Now,
}

/// The channels that have subscribers on one worker.
#[derive(Debug)]
pub struct Hub {
    log: Arc<Log>,
    /// The worker's number.
    worker: u16,
    epoch: Epoch,
    state: Arc<EpochState>,
    /// The hub has accepted all publications up to this number.
    head: Sequence,
    quota: Amount,
    channels_per_conn: u32,
    channels: ChunkedSlab<Channel>,
    /// The subscriptions of each conn, by slot.
    members: ChunkedVec<Member>,
    /// For each conn that resumed, by slot, the number up to which publications do not count
    /// towards its quota.
    replays: Map<u32, Sequence>,
    /// Conns that skip superseded publications until they have caught up.
    conflating: Set<u32>,
    conflated_total: u64,
    /// Gaps that have not been reported yet.
    gaps: Map<(u32, ChannelIndex), Gap>,
    /// The windows of all subscriptions for which a client requested a window.
    windows: Windows,
    /// Subscriptions that requested history and have not received all of it.
    initial: Initial,
    /// Channels with subscribers to visit because of a new publication. The first channel is next.
    walks: VecDeque<ChannelIndex>,
    visits_in_a_row: u32,
    /// Channels whose subscribers were all visited. The hub may still hold entries that are being
    /// written to these subscribers.
    walked: Vec<ChannelIndex>,
    /// Unused [`Walk`] objects, kept for reuse.
    #[expect(clippy::vec_box, reason = "walks move between here and their channels")]
    spare_walks: Vec<Box<Walk>>,
    /// The total size, in bytes, of the publications that the hub holds for visits to
    /// subscribers, and the maximum of this size.
    held_bytes: u64,
    held_bytes_max: u64,
    is_full: bool,
    /// Entries that the hub has not accepted yet, but that were in the log before their channel had
    /// a subscriber on this worker. The feed does not send these entries to this worker. The hub
    /// accepts each of them when its `head` reaches the entry's number.
    late: BTreeMap<(Sequence, ChannelIndex), Late>,
    /// Channels whose state must be read from the log again, after the hub has switched to the
    /// log's newest epoch. The number is `until` of [`Late::Unheld`].
    postponed: Vec<(ChannelIndex, Sequence)>,
    /// The number of subscriptions for each rule of the log, by the index of the rule.
    subscribers_by_rule: Arc<[Counter]>,
    rule_update: RuleUpdate,
    /// The number of subscriptions.
    subscribers: u64,
    samples: Samples,
    /// A buffer for plans of conns with several channels. Its memory is reused.
    merge: Vec<serve::Source>,
    /// The publications that were last planned for a conn. The next conn often needs the same ones.
    /// Cleared when the hub releases the entries.
    last_plan: Option<serve::LastPlan>,
    /// The entries that were fetched from the log to be written.
    fetched: Vec<tail::Served>,
    /// The maximum number of entries that the current plan fetches from the log in one query.
    fetch_max: usize,
    /// Whether the last plan ended early, because the next entries were evicted from the log.
    has_found_loss: bool,
}

/// A publication that was in the log before its channel had a subscriber on this worker.
#[derive(Debug)]
enum Late {
    /// The hub holds the entry.
    Held(Entry),
    /// The hub does not hold the entry. When the hub's head reaches this entry, the hub reads the
    /// channel's state from the log. Then it adds the channel's next entry to `late`, unless the
    /// number of that entry is above `until`.
    Unheld { until: Sequence },
}

/// The maximum size of the entries that one worker holds for visits to subscribers is a fraction of
/// the log's maximum size: one divided by this number.
const HELD_SHARE: u64 = 16;
const SPARE_WALKS_MAX: usize = 64;

impl Hub {
    /// Creates the hub of a worker without conns. The hub's head starts at `head`.
    #[must_use]
    pub fn new(log: Arc<Log>, worker: u16, epoch: Epoch, head: Sequence, config: &Config) -> Self {
        let held_bytes_max = log.rules().bound_of_log().bytes / HELD_SHARE;
        Self {
            samples: Samples::new(log.rules()),
            subscribers_by_rule: (0..RULES_MAX).map(|_| Counter::default()).collect(),
            rule_update: RuleUpdate::new(log.rules()),
            state: log.state(),
            log,
            worker,
            epoch,
            head,
            quota: Amount::of_quota(&config.quota),
            channels_per_conn: config.limits.channels_per_conn,
            channels: ChunkedSlab::default(),
            members: ChunkedVec::default(),
            replays: Map::default(),
            conflating: Set::default(),
            conflated_total: 0,
            gaps: Map::default(),
            windows: Windows::default(),
            initial: Initial::default(),
            walks: VecDeque::new(),
            visits_in_a_row: 0,
            walked: Vec::new(),
            spare_walks: Vec::new(),
            held_bytes: 0,
            held_bytes_max,
            is_full: false,
            late: BTreeMap::new(),
            postponed: Vec::new(),
            subscribers: 0,
            merge: Vec::new(),
            last_plan: None,
            fetched: Vec::new(),
            fetch_max: 1,
            has_found_loss: false,
        }
    }

    /// Returns the hub's head as an id: the hub has accepted all publications up to this id.
    #[must_use]
    pub fn head(&self) -> Cursor {
        self.cursor(self.head)
    }

    /// Returns the log.
    #[must_use]
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// Returns the number of channels that have subscribers on this worker.
    #[must_use]
    pub fn channel_count(&self) -> usize {
        self.channels.len()
    }

    /// Changes the quota. Returns true if it is now lower. In this case, the caller must enforce
    /// the quota of each conn.
    #[must_use]
    pub fn set_quota(&mut self, quota: &Quota) -> bool {
        let before = std::mem::replace(&mut self.quota, Amount::of_quota(quota));
        before.exceeds(self.quota)
    }

    /// Returns the quota.
    #[must_use]
    pub fn quota(&self) -> Amount {
        self.quota
    }

    /// Changes the maximum number of channels of one conn. A conn with more channels keeps them.
    pub fn set_channels_per_conn(&mut self, channels: u32) {
        self.channels_per_conn = channels;
    }

    /// Returns the number of subscriptions.
    #[must_use]
    pub fn subscriber_count(&self) -> u64 {
        self.subscribers
    }

    /// Whether the hub can accept an entry now. If not, the entry has to wait in the inbox, so that
    /// a subscriber that keeps up loses nothing. There are two reasons to wait. Subscribers may
    /// still have to be visited for too many earlier publications. Or the entries that the hub
    /// holds for these visits may use too many bytes.
    #[must_use]
    pub fn has_room_for(&mut self, place: u32, key: ChannelKey, entry: &Entry) -> bool {
        let Some(channel) = self.addressed(place, key, entry) else {
            return true;
        };
        let is_within_quota = self.has_room(channel, Amount::of(&entry.publication));
        let more = entry.publication.bytes_held();
        self.is_full = self.held_bytes > 0 && self.held_bytes + more > self.held_bytes_max;
        is_within_quota && !self.is_full
    }

    /// Whether the next entry has to wait because the entries that the hub holds for visits to
    /// subscribers already use too many bytes.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.is_full
    }

    fn has_room(&self, channel: &Channel, more: Amount) -> bool {
        let debt = channel.walk_debt();
        debt == Amount::default() || !debt.plus(more).exceeds(self.quota)
    }

    /// Moves the hub's head to an id: the hub has then accepted all publications up to this id.
    /// Before this call, the caller has passed to the hub all entries up to this id that were sent
    /// to this worker. Ignores an id that is not valid in the hub's epoch.
    pub fn advance_head(&mut self, head: Cursor, now: Now) {
        if head.sequence <= self.head || !self.has_valid(head) {
            return;
        }
        let head = head.sequence;
        self.samples.note(self.head, now);
        self.head = head;
        while let Some(first) = self.late.first_entry()
            && first.key().0 <= head
        {
            let ((_, index), late) = first.remove_entry();
            match late {
                Late::Held(entry) => self.take_at(index, entry, now),
                Late::Unheld { until } => self.query_again(index, until, now),
            }
        }
    }

    /// Adds `next`, the number of the channel's next entry that the hub has not accepted, to
    /// `late`. This entry was never sent to this worker. Does nothing if `next` is above `until`,
    /// or if `late` already has the entry.
    fn note_late(&mut self, index: ChannelIndex, next: Option<Sequence>, until: Sequence) {
        if let Some(next) = next.filter(|next| *next <= until) {
            let unheld = Late::Unheld { until };
            self.late.entry((next, index)).or_insert(unheld);
        }
    }

    /// Whether there are entries that the hub has not accepted yet, but that were in the log before
    /// their channel had a subscriber on this worker. They are not sent to this worker. The hub
    /// accepts each of them when its head reaches the entry's number.
    #[must_use]
    pub fn has_late(&self) -> bool {
        !self.late.is_empty()
    }

    /// Accepts the next entry that was sent to this worker, and marks its channel's subscribers as
    /// behind. `place` is the channel's index at the time when the entry was sent. Returns the
    /// number of subscribers. The number is zero if the last subscriber has left since then.
    pub fn take(&mut self, place: u32, key: ChannelKey, entry: Entry, now: Now) -> u32 {
        let id = entry.publication.id;
        // If the log has earlier entries that were not sent to this worker, the hub first takes
        // these from the log, so that the order is kept.
        if !self.late.is_empty() {
            let before = Cursor {
                sequence: id.sequence.before(),
                ..id
            };
            self.advance_head(before, now);
        }
        let subscribers = self.take_of(place, key, entry, now);
        self.advance_head(id, now);
        subscribers
    }

    fn take_of(&mut self, place: u32, key: ChannelKey, entry: Entry, now: Now) -> u32 {
        let Some(channel) = self.addressed(place, key, &entry) else {
            return 0;
        };
        let subscribers = channel.subscribers.len();
        if !self.has_valid(entry.publication.id) {
            // An epoch change has discarded the entry.
            return 0;
        }
        // An entry up to `channel.last` is ignored. The channel's state, which the hub has read
        // from the log, already includes this entry.
        if entry.sequence() > channel.last {
            self.take_at(ChannelIndex(place), entry, now);
        }
        subscribers
    }

    fn take_at(&mut self, index: ChannelIndex, mut entry: Entry, now: Now) {
        let Self {
            channels,
            spare_walks,
            quota,
            state,
            held_bytes,
            ..
        } = self;
        let channel = channels.get_mut(index.0 as usize);
        if let Some(channel) = certain::some(channel, SUBSCRIBED) {
            // After an epoch change, `previous` may be the last number that both epochs share,
            // instead of the number of the channel's previous entry.
            if entry.previous > channel.last && state.is_end_of_valid(entry.previous) {
                entry.previous = channel.last;
            }
            let fresh = || spare_walks.pop().unwrap_or_default();
            let conflates = channel.overflow == Overflow::Conflate;
            let before = channel.held_bytes();
            if channel.take(entry, *quota, conflates, now, fresh) {
                self.walks.push_back(index);
            }
            *held_bytes = *held_bytes + channel.held_bytes() - before;
        }
    }

    /// Reads a channel's state, up to the last publication that the hub has accepted, from the log,
    /// and updates the hub's record of the channel. Then adds the channel's next entry to `late`,
    /// unless its number is above `until`.
    fn query_again(&mut self, index: ChannelIndex, until: Sequence, now: Now) {
        let Self {
            channels,
            spare_walks,
            log,
            held_bytes,
            ..
        } = self;
        let channel = channels.get_mut(index.0 as usize);
        let Some(channel) = certain::some(channel, SUBSCRIBED) else {
            return;
        };
        let horizon = self.state.horizon(self.head);
        let Some(channel_state) = log.channel_state(channel.key, horizon) else {
            debug_assert!(false, "{index:?} is not in the log");
            return;
        };
        let fresh = || spare_walks.pop().unwrap_or_default();
        let before = channel.held_bytes();
        if channel_state.last > channel.last && channel.take_state(&channel_state, now, fresh) {
            self.walks.push_back(index);
        }
        *held_bytes = *held_bytes + channel.held_bytes() - before;
        self.note_late(index, channel_state.next, until);
        // The epoch is checked after the query: if the log is in a newer epoch, the query may have
        // found nothing.
        if !self.is_in_newest_epoch() {
            self.postponed.push((index, until));
        }
    }

    /// Whether the log was already in a newer epoch when the hub queried the state of some
    /// channels. Such a query may find nothing. So the hub must switch to the newer epoch before it
    /// delivers anything.
    #[must_use]
    pub fn has_postponed(&self) -> bool {
        !self.postponed.is_empty()
    }

    /// Returns the channel for which an entry was sent. The name is compared, too, because another
    /// channel may have got the same index and the same key in the meantime.
    fn addressed(&self, place: u32, key: ChannelKey, entry: &Entry) -> Option<&Channel> {
        let channel = self.channels.get(place as usize)?;
        let is_it = channel.key == key && channel.name == entry.publication.channel;
        is_it.then_some(channel)
    }

    /// Returns the number of subscriptions for each rule of the log, by the index of the rule. A
    /// change of a subscription updates it.
    #[must_use]
    pub fn subscribers_by_rule(&self) -> &Arc<[Counter]> {
        &self.subscribers_by_rule
    }

    /// Returns the next subscriber to visit. Channels take turns.
    pub fn visit(&mut self) -> Visit {
        while let Some(index) = self.walks.front().copied() {
            if self.visits_in_a_row >= VISITS_IN_A_ROW_MAX {
                self.visits_in_a_row = 0;
                self.walks.rotate_left(1);
                continue;
            }
            let channel = self.channels.get_mut(index.0 as usize);
            let Some((channel, walk)) = channel.and_then(|channel| {
                let Channel {
                    subscribers, walk, ..
                } = channel;
                Some((subscribers, walk.as_mut()?))
            }) else {
                self.walks.pop_front();
                continue;
            };
            match channel.step() {
                Step::NextPass => walk.floor = walk.again_floor,
                Step::Visit(slot) => {
                    self.visits_in_a_row += 1;
                    return Visit::Subscriber(slot);
                }
                Step::Done => {
                    self.walks.pop_front();
                    self.visits_in_a_row = 0;
                    if std::mem::take(&mut walk.is_queued) {
                        self.walked.push(index);
                        return Visit::WalkDone(WalkTimes {
                            started: walk.started,
                            published: walk.published,
                        });
                    }
                }
            }
        }
        Visit::Done
    }

    /// Releases the entries that the hub holds for channels whose subscribers were all visited.
    /// Conns that are still to be written to may need these entries. So the worker calls this
    /// function when no such conn is left, or when the hub holds too many bytes.
    pub fn release_walked(&mut self) {
        self.last_plan = None;
        for index in self.walked.drain(..) {
            let Some(channel) = self.channels.get_mut(index.0 as usize) else {
                continue;
            };
            if channel.subscribers.is_walking() {
                continue;
            }
            self.held_bytes -= channel.held_bytes();
            if let Some(mut walk) = channel.walk.take()
                && self.spare_walks.len() < SPARE_WALKS_MAX
            {
                walk.reset();
                self.spare_walks.push(walk);
            }
        }
    }

    /// Releases the entries that were fetched from the log. The worker calls this function after
    /// the results of all writes are recorded.
    pub fn release_planned(&mut self) {
        self.fetched.clear();
        self.fetched.shrink_to(FETCHED_KEPT);
    }

    /// Whether at least one subscriber still has to be visited because of a new publication.
    #[must_use]
    pub fn is_walking(&self) -> bool {
        !self.walks.is_empty()
    }

    fn named(&self, name: &ChannelName) -> Option<&Channel> {
        let place = self.log.place_in(self.worker, name)?;
        self.channels.get(place as usize)
    }

    /// Returns the index of a channel, if the channel has subscribers on this worker.
    fn index_of(&self, name: &ChannelName) -> Option<ChannelIndex> {
        Some(ChannelIndex(self.log.place_in(self.worker, name)?))
    }

    fn cursor(&self, sequence: Sequence) -> Cursor {
        Cursor {
            epoch: self.epoch,
            sequence,
        }
    }

    /// Returns the publications that the hub holds, each with its encodings if they exist. For
    /// tests.
    #[doc(hidden)]
    pub fn held_here(&self) -> Vec<(Arc<Publication>, Option<Arc<Frames>>)> {
        let walks = self.channels.iter().filter_map(|(_, c)| c.walk.as_ref());
        let served = walks.flat_map(|walk| walk.tail.all()).chain(&self.fetched);
        let served = served.map(|one| (Arc::clone(&one.publication), one.frames.clone()));
        let late = self.late.values().filter_map(|late| match late {
            Late::Held(entry) => Some((Arc::clone(&entry.publication), None)),
            Late::Unheld { .. } => None,
        });
        served.chain(late).collect()
    }

    /// Returns the slots of all conns with a subscription. For tests.
    #[doc(hidden)]
    pub fn member_slots(&self) -> impl Iterator<Item = u32> + '_ {
        let members = (0u32..).zip(self.members.iter());
        members
            .filter(|(_, member)| !member.all().is_empty())
            .map(|(slot, _)| slot)
    }

    /// Panics if the parts of the hub are inconsistent. For tests.
    #[doc(hidden)]
    pub fn check_invariants(&self) {
        let places: usize = self
            .channels
            .iter()
            .map(|(_, c)| c.subscribers.len() as usize)
            .sum();
        assert_eq!(places as u64, self.subscribers);
        let subscriptions: usize = self.members.iter().map(|member| member.all().len()).sum();
        assert_eq!(places, subscriptions);
        for (slot, member) in self.members.iter().enumerate() {
            for subscription in member.all() {
                let channel = self.channels.get(subscription.channel.0 as usize);
                let found =
                    channel.and_then(|c| c.subscribers.iter().nth(subscription.place as usize));
                assert_eq!(found.map(|s| s as usize), Some(slot));
            }
        }
        self.check_windows();
        let held = self.channels.iter().map(|(_, c)| c.held_bytes());
        assert_eq!(held.sum::<u64>(), self.held_bytes, "bytes of tails");
        self.check_initial();
        self.check_rules();
        for (place, channel) in self.channels.iter() {
            assert!(!channel.subscribers.is_empty(), "nothing keeps a channel");
            assert!(channel.last <= self.head);
            let known = self.log.place_in(self.worker, &channel.name);
            assert_eq!(known.map(|place| place as usize), Some(place));
            let channel_state = self.log.channel_state(channel.key, self.horizon());
            assert!(
                channel_state.is_some(),
                "{:?} is not in the log",
                channel.name
            );
            let Some(channel_state) = channel_state else {
                continue;
            };
            // After the log has evicted all entries of a channel, it does not know the number of
            // the last one.
            let is_known = channel_state.evicted < channel_state.last;
            let last = channel_state.last.max(self.state.lost_until());
            assert!(
                !is_known || channel.last == last,
                "{:?} is at {:?}, the head at {:?}: {channel_state:?}",
                channel.name,
                channel.last,
                self.head
            );
            if let Some(walk) = &channel.walk {
                let is_known = walk.is_queued || self.walked.contains(&index_at(place));
                assert!(is_known, "a tail is kept for nothing");
            }
        }
    }
}

/// The reason why the channel of a subscription exists.
const SUBSCRIBED: &str = "a channel with subscribers exists";

fn index_at(place: usize) -> ChannelIndex {
    ChannelIndex(certain::to_u32(place))
}

/// The capacity for fetched entries that is kept between two turns.
const FETCHED_KEPT: usize = 1024;

#[cfg(test)]
mod tests;
