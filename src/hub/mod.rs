//! Who is owed what: the log, the channels, their subscribers, and the arithmetic of cursors and
//! quotas.
//!
//! **The log is the queue.** Publishing appends once and marks the channel's subscribers as behind;
//! serving reads from a subscriber's cursor and moves it. Live delivery, a slow reader and a resume
//! are the same act. How far a subscriber is behind is a subtraction; skipping is moving its
//! cursor; a cursor that has fallen off the log's tail is a gap, and a gap is always told.
//!
//! Knows conns by their slot only, and neither sockets nor transports; never imports `conn`. The
//! worker is its only caller: `broadcast` publishes, `apply` subscribes, `flush` visits, plans and
//! advances, `expire` evicts. Here: publishing and membership; [`serve`] has cursors and quotas.

pub mod channel;
pub mod gap;
pub mod log;
pub mod member;
pub mod serve;
pub mod subscribers;

use std::collections::VecDeque;
use std::sync::Arc;

use hashbrown::HashMap;
use slab::Slab;

pub use channel::{Amount, Channel, ChannelIndex};
pub use gap::{Gap, GapCause};
pub use serve::{Advanced, Planned, Verdict};

use crate::config::{Config, LogBounds, Overflow};
use crate::frame::Publication;
use crate::id::{ChannelName, Cursor, Epoch, Sequence, Since};
use crate::time::{Deadline, Now};
use log::{Log, Thread};
use member::{Member, Subscription};
use subscribers::Step;

type Map<K, V> = HashMap<K, V, foldhash::quality::RandomState>;

/// Visits to one channel's subscribers before another channel under way has its turn.
const VISITS_IN_A_ROW_MAX: u32 = 64;

/// What came of subscribing to one channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JoinOutcome {
    /// The conn is a subscriber now.
    Joined(Joined),
    /// The conn was a subscriber already; nothing has changed.
    AlreadyJoined,
    /// The conn has as many channels as it may have.
    TooManyChannels,
}

/// Where a subscription starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Joined {
    /// The position from which the subscriber is served: everything after it follows.
    pub position: Cursor,
    /// Whether a position was asked for and nothing after it is missing.
    pub is_recovered: bool,
    /// What is missing of what was asked for. It has to be told before anything else of the
    /// channel.
    pub gap: Option<Gap>,
}

/// What a step of the walks found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Visit {
    /// Nobody is left to visit.
    Nobody,
    /// The conn in this slot is behind.
    Subscriber(u32),
    /// A channel's last subscriber had been visited; the walk began at this time.
    WalkDone(Now),
}

/// A worker's log and channels.
#[derive(Debug)]
pub struct Hub {
    epoch: Epoch,
    head: Sequence,
    log: Log,
    bounds: LogBounds,
    quota: Amount,
    overflow: Overflow,
    channels_per_conn: u32,
    channels: Slab<Channel>,
    names: Map<ChannelName, ChannelIndex>,
    /// By slot.
    members: Vec<Member>,
    /// Conns that resumed: what was in the log up to here does not count for their quota.
    replays: Map<u32, Sequence>,
    /// Gaps that have not been told yet.
    gaps: Map<(u32, ChannelIndex), serve::PendingGap>,
    /// Channels with a walk under way, the one to go on with in front.
    walks: VecDeque<ChannelIndex>,
    visits_in_a_row: u32,
    /// The newest eviction of any channel that has gone. A channel that comes back may have had
    /// entries up to here.
    forgotten: Sequence,
    /// All subscriptions.
    subscribers: u64,
    /// Used by `serve` while it merges several channels.
    merge: Vec<(Sequence, u32)>,
}

impl Hub {
    /// An empty hub that continues after `head`.
    #[must_use]
    pub fn new(epoch: Epoch, head: Sequence, config: &Config) -> Self {
        Self {
            epoch,
            head,
            log: Log::new(head),
            bounds: config.log,
            quota: Amount {
                bytes: config.quota.behind_bytes,
                publications: config.quota.behind_publications,
            },
            overflow: config.quota.overflow,
            channels_per_conn: config.limits.channels_per_conn,
            channels: Slab::new(),
            names: Map::default(),
            members: Vec::new(),
            replays: Map::default(),
            gaps: Map::default(),
            walks: VecDeque::new(),
            visits_in_a_row: 0,
            forgotten: head,
            subscribers: 0,
            merge: Vec::new(),
        }
    }

    /// The newest publication's id.
    #[must_use]
    pub fn head(&self) -> Cursor {
        self.cursor(self.head)
    }

    /// The log, for reading.
    #[must_use]
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// How many channels there are.
    #[must_use]
    pub fn channel_count(&self) -> usize {
        self.channels.len()
    }

    /// How many subscriptions there are.
    #[must_use]
    pub fn subscriber_count(&self) -> u64 {
        self.subscribers
    }

    /// Whether a publication can be appended without taking it away from a subscriber that keeps
    /// up. While the walk over a channel is more than a quota behind, the rest waits in the inbox.
    #[must_use]
    pub fn has_room_for(&self, publication: &Publication) -> bool {
        let Some(channel) = self.named(&publication.channel) else {
            return true;
        };
        let debt = channel.walk_debt();
        let this = Amount {
            bytes: publication.payload_bytes(),
            publications: 1,
        };
        debt == Amount::default() || !debt.plus(this).exceeds(self.quota)
    }

    /// Appends a publication, marks the channel's subscribers as behind, and returns how many they
    /// are.
    pub fn publish(&mut self, publication: Arc<Publication>, now: Now) -> u32 {
        let sequence = publication.id.sequence;
        if sequence != self.log.expected() {
            debug_assert!(false, "a hole before {sequence:?}");
            return 0;
        }
        self.head = sequence;
        let index = self.channel_for(&publication.channel);
        let Some(channel) = self.channels.get_mut(index.0 as usize) else {
            return 0;
        };
        let before = channel.total;
        let thread = Thread {
            bytes_before: before.bytes,
            ordinal: before.publications,
            previous: channel.last,
            channel: index,
        };
        if channel.first == Sequence::ZERO {
            channel.first = sequence;
        }
        channel.last = sequence;
        channel.total = before.plus(Amount {
            bytes: publication.payload_bytes(),
            publications: 1,
        });
        if channel.mark_behind(before, now) {
            self.walks.push_back(index);
        }
        let subscribers = channel.subscribers.len();
        self.log.push(publication, thread);
        subscribers
    }

    /// Makes the conn in a slot a subscriber of a channel. `sequenced` is the newest number that
    /// the feed has given out, which this worker may not have seen yet.
    pub fn subscribe(
        &mut self,
        slot: u32,
        name: &ChannelName,
        since: Since,
        sequenced: Sequence,
    ) -> JoinOutcome {
        self.make_room(slot);
        let index = self.channel_for(name);
        let member = self
            .members
            .get(slot as usize)
            .map(Member::all)
            .unwrap_or_default();
        if member
            .iter()
            .any(|subscription| subscription.channel == index)
        {
            return JoinOutcome::AlreadyJoined;
        }
        if member.len() >= self.channels_per_conn as usize {
            self.drop_if_abandoned(index);
            return JoinOutcome::TooManyChannels;
        }
        let Some(channel) = self.channels.get_mut(index.0 as usize) else {
            return JoinOutcome::TooManyChannels;
        };
        let place = channel.subscribers.push(slot);
        let evicted = channel.evicted;
        let start = self.start(since, evicted, sequenced);
        let subscription = Subscription {
            position: start.position.sequence,
            channel: index,
            place,
        };
        if let Some(member) = self.members.get_mut(slot as usize) {
            member.add(subscription);
        }
        self.subscribers += 1;
        if self.successor_of(subscription).is_some() {
            self.replays.insert(slot, self.head);
        }
        JoinOutcome::Joined(start)
    }

    /// Ends a subscription. False if there was none.
    pub fn unsubscribe(&mut self, slot: u32, name: &ChannelName) -> bool {
        let Some(index) = self.names.get(name).copied() else {
            return false;
        };
        let member = self.members.get_mut(slot as usize);
        let Some(subscription) = member.and_then(|member| member.take(index)) else {
            return false;
        };
        self.remove_subscriber(slot, subscription);
        true
    }

    /// Ends all subscriptions of the conn in a slot.
    pub fn leave(&mut self, slot: u32) {
        let Some(member) = self.members.get_mut(slot as usize) else {
            return;
        };
        let member = std::mem::take(member);
        for subscription in member.all() {
            self.remove_subscriber(slot, *subscription);
        }
        self.replays.remove(&slot);
    }

    /// Takes the next step of the walks, channel by channel in turn.
    pub fn visit(&mut self) -> Visit {
        while let Some(index) = self.walks.front().copied() {
            if self.visits_in_a_row >= VISITS_IN_A_ROW_MAX {
                self.visits_in_a_row = 0;
                self.walks.rotate_left(1);
                continue;
            }
            let Some(channel) = self.channels.get_mut(index.0 as usize) else {
                self.walks.pop_front();
                continue;
            };
            match channel.subscribers.step() {
                Step::NextPass => channel.walk_floor = channel.again_floor,
                Step::Visit(slot) => {
                    self.visits_in_a_row += 1;
                    return Visit::Subscriber(slot);
                }
                Step::Done => {
                    self.walks.pop_front();
                    self.visits_in_a_row = 0;
                    if std::mem::take(&mut channel.is_walk_queued) {
                        return Visit::WalkDone(channel.walk_started);
                    }
                }
            }
        }
        Visit::Nobody
    }

    /// Whether a walk is under way.
    #[must_use]
    pub fn is_walking(&self) -> bool {
        !self.walks.is_empty()
    }

    /// Evicts what the log's bounds no longer allow, at most `max` publications. Returns how many.
    pub fn evict(&mut self, now: Now, max: u32) -> u32 {
        let mut count = 0;
        while count < max && self.is_oldest_due(now) {
            let Some(entry) = self.log.evict() else { break };
            let index = entry.channel;
            if let Some(channel) = self.channels.get_mut(index.0 as usize) {
                channel.evicted = entry.publication.id.sequence;
                channel.first = entry.next;
            }
            self.drop_if_abandoned(index);
            count += 1;
        }
        count
    }

    /// When the oldest publication will be too old.
    #[must_use]
    pub fn next_eviction(&self) -> Option<Deadline> {
        Some(
            self.log
                .oldest()?
                .publication
                .published
                .after(self.bounds.age()),
        )
    }

    fn is_oldest_due(&self, now: Now) -> bool {
        let Some(deadline) = self.next_eviction() else {
            return false;
        };
        self.log.bytes() > self.bounds.bytes
            || self.log.len() as u64 > self.bounds.entries
            || now.has_reached(deadline)
    }

    /// Where a subscription that wants to start at `since` really starts.
    fn start(&self, since: Since, evicted: Sequence, sequenced: Sequence) -> Joined {
        let from_now = |gap| Joined {
            position: self.head(),
            is_recovered: false,
            gap,
        };
        let restart = |since| {
            let until = self.head();
            from_now(Some(Gap {
                since,
                until,
                missed: None,
                cause: GapCause::Restart,
            }))
        };
        match since {
            Since::Now => from_now(None),
            Since::Unrecognised => restart(None),
            Since::After(cursor) if cursor.epoch != self.epoch || cursor.sequence > sequenced => {
                restart(Some(cursor))
            }
            Since::After(cursor) if cursor.sequence < evicted => {
                let until = self.cursor(evicted);
                let gap = Gap {
                    since: Some(cursor),
                    until,
                    missed: None,
                    cause: GapCause::Expired,
                };
                Joined {
                    position: until,
                    is_recovered: false,
                    gap: Some(gap),
                }
            }
            Since::After(cursor) => Joined {
                position: cursor,
                is_recovered: true,
                gap: None,
            },
        }
    }

    fn remove_subscriber(&mut self, slot: u32, subscription: Subscription) {
        let index = subscription.channel;
        self.gaps.remove(&(slot, index));
        self.subscribers = self.subscribers.saturating_sub(1);
        let (channels, members) = (&mut self.channels, &mut self.members);
        if let Some(channel) = channels.get_mut(index.0 as usize) {
            channel
                .subscribers
                .remove(subscription.place, |moved, place| {
                    if let Some(member) = members.get_mut(moved as usize) {
                        member.set_place(index, place);
                    }
                });
        }
        self.drop_if_abandoned(index);
    }

    fn channel_for(&mut self, name: &ChannelName) -> ChannelIndex {
        if let Some(index) = self.names.get(name) {
            return *index;
        }
        let key = self
            .channels
            .insert(Channel::new(name.clone(), self.forgotten));
        let index = ChannelIndex(u32::try_from(key).unwrap_or(u32::MAX));
        self.names.insert(name.clone(), index);
        index
    }

    fn drop_if_abandoned(&mut self, index: ChannelIndex) {
        let key = index.0 as usize;
        if self.channels.get(key).is_some_and(Channel::is_abandoned) {
            let channel = self.channels.remove(key);
            self.names.remove(&channel.name);
            self.forgotten = self.forgotten.max(channel.evicted);
        }
    }

    fn named(&self, name: &ChannelName) -> Option<&Channel> {
        self.channels.get(self.names.get(name)?.0 as usize)
    }

    fn make_room(&mut self, slot: u32) {
        if self.members.len() <= slot as usize {
            self.members.resize_with(slot as usize + 1, Member::default);
        }
    }

    fn cursor(&self, sequence: Sequence) -> Cursor {
        Cursor {
            epoch: self.epoch,
            sequence,
        }
    }

    /// Panics if the parts of the hub disagree. For tests.
    #[doc(hidden)]
    pub fn check_invariants(&self) {
        assert_eq!(self.names.len(), self.channels.len());
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
        assert!(
            self.channels
                .iter()
                .all(|(_, channel)| !channel.is_abandoned())
        );
    }
}

#[cfg(test)]
mod tests;
