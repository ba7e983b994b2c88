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
//! advances, `expire` evicts. Here: publishing and walking; [`membership`] has who is subscribed
//! from where, [`serve`] has cursors, [`quota`] what happens to who is behind, [`conflation`] what
//! is superseded, [`retention`] what is kept and for how long, [`poll`] what only polls need,
//! [`window`] what waits for an acknowledgement.

pub mod channel;
pub mod conflation;
pub mod gap;
pub mod log;
pub mod member;
pub mod membership;
pub mod poll;
pub mod quota;
pub mod retention;
mod segment;
pub mod serve;
pub mod subscribers;
pub mod window;

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use hashbrown::{HashMap, HashSet};
use slab::Slab;

pub use channel::{Amount, Channel, ChannelIndex};
pub use gap::{Gap, GapCause};
pub use membership::{JoinOutcome, Joined};
pub use quota::Verdict;
pub use serve::{Advanced, Planned};
pub use window::Acknowledged;

use crate::config::Config;
use crate::frame::Publication;
use crate::id::{ChannelName, Cursor, Epoch, Sequence};
use crate::time::Now;
use conflation::Newest;
use log::{Log, Thread};
use member::Member;
use retention::Rules;
use subscribers::Step;
use window::Windows;

type Map<K, V> = HashMap<K, V, foldhash::quality::RandomState>;
type Set<K> = HashSet<K, foldhash::quality::RandomState>;

/// Visits to one channel's subscribers before another channel under way has its turn.
const VISITS_IN_A_ROW_MAX: u32 = 64;

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

/// Counts the channels of several hubs, each channel once.
pub trait ChannelCensus: fmt::Debug + Send + Sync {
    /// A hub has added a channel.
    fn add(&self, name: &ChannelName);
    /// A hub has dropped a channel.
    fn remove(&self, name: &ChannelName);
}

/// A worker's log and channels.
#[derive(Clone, Debug)]
pub struct Hub {
    epoch: Epoch,
    head: Sequence,
    log: Log,
    rules: Rules,
    newest: Newest,
    quota: Amount,
    channels_per_conn: u32,
    /// Nobody may subscribe to one that does not exist when there are so many.
    channels_max: usize,
    channels: Slab<Channel>,
    /// Counts the channels of this hub together with those of others.
    census: Option<Arc<dyn ChannelCensus>>,
    names: Map<ChannelName, ChannelIndex>,
    /// By slot.
    members: Vec<Member>,
    /// Conns that resumed: what was in the log up to here does not count for their quota.
    replays: Map<u32, Sequence>,
    /// Conns that step over what is superseded, until they have caught up.
    conflating: Set<u32>,
    conflated_total: u64,
    /// Gaps that have not been told yet.
    gaps: Map<(u32, ChannelIndex), Gap>,
    /// Of subscriptions that asked for one.
    windows: Windows,
    /// Channels with a walk under way, the one to go on with in front.
    walks: VecDeque<ChannelIndex>,
    visits_in_a_row: u32,
    /// Numbers up to here may have been given out and lost. Zero if none.
    lost_until: Sequence,
    /// All subscriptions.
    subscribers: u64,
    /// Used by `serve` while it merges several channels.
    merge: Vec<serve::Source>,
}

impl Hub {
    /// An empty hub that continues after `head`.
    #[must_use]
    pub fn new(epoch: Epoch, head: Sequence, config: &Config) -> Self {
        Self {
            epoch,
            head,
            log: Log::new(head),
            rules: Rules::new(config, head),
            newest: Newest::default(),
            quota: Amount {
                bytes: config.quota.behind_bytes,
                publications: config.quota.behind_publications,
            },
            channels_per_conn: config.limits.channels_per_conn,
            channels_max: usize::MAX,
            channels: Slab::new(),
            census: None,
            names: Map::default(),
            members: Vec::new(),
            replays: Map::default(),
            conflating: Set::default(),
            conflated_total: 0,
            gaps: Map::default(),
            windows: Windows::default(),
            walks: VecDeque::new(),
            visits_in_a_row: 0,
            lost_until: Sequence::ZERO,
            subscribers: 0,
            merge: Vec::new(),
        }
    }

    /// Has nobody subscribe to a channel that does not exist when there are so many.
    pub fn limit_channels(&mut self, channels_max: usize) {
        self.channels_max = channels_max;
    }

    /// Counts the channels here together with those of other workers.
    pub fn join_census(&mut self, census: Arc<dyn ChannelCensus>) {
        for (_, channel) in &self.channels {
            census.add(&channel.name);
        }
        self.census = Some(census);
    }

    /// Notes that numbers up to this one may have been given out before a restart and are lost.
    pub fn note_lost(&mut self, until: Sequence) {
        self.lost_until = until;
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
        let is_first = channel.first == Sequence::ZERO;
        if is_first {
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
        self.note_key(index, sequence);
        if is_first {
            self.note_kept();
        } else {
            self.note_if_over(index);
        }
        subscribers
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
                        let started = channel.walk_started;
                        self.note_if_over(index);
                        return Visit::WalkDone(started);
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

    fn channel_for(&mut self, name: &ChannelName) -> ChannelIndex {
        if let Some(index) = self.names.get(name) {
            return *index;
        }
        let rule = self.rules.find(name);
        let forgotten = self.rules.forgotten(rule);
        let channel = Channel::new(name.clone(), rule, forgotten);
        let key = self.channels.insert(channel);
        if let Some(census) = &self.census {
            census.add(name);
        }
        let index = ChannelIndex(u32::try_from(key).unwrap_or(u32::MAX));
        self.names.insert(name.clone(), index);
        index
    }

    fn drop_if_abandoned(&mut self, index: ChannelIndex) {
        let key = index.0 as usize;
        if self.channels.get(key).is_some_and(Channel::is_abandoned) {
            let channel = self.channels.remove(key);
            self.names.remove(&channel.name);
            if let Some(census) = &self.census {
                census.remove(&channel.name);
            }
            self.rules.forget(channel.rule, channel.evicted);
        }
    }

    fn named(&self, name: &ChannelName) -> Option<&Channel> {
        self.channels.get(self.names.get(name)?.0 as usize)
    }

    fn cursor(&self, sequence: Sequence) -> Cursor {
        Cursor {
            epoch: self.epoch,
            sequence,
        }
    }

    /// The slots of all conns with a subscription. For tests.
    #[doc(hidden)]
    pub fn member_slots(&self) -> impl Iterator<Item = u32> + '_ {
        let members = (0u32..).zip(&self.members);
        members
            .filter(|(_, member)| !member.all().is_empty())
            .map(|(slot, _)| slot)
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
        self.check_windows();
        for (key, channel) in &self.channels {
            assert!(!channel.is_abandoned());
            assert!(channel.first == Sequence::ZERO || channel.evicted < channel.first);
            let first = self.log.get(channel.first).map(|entry| entry.channel);
            let is_kept = channel.first != Sequence::ZERO;
            assert_eq!(first.map(|index| index.0 as usize), is_kept.then_some(key));
        }
    }
}

#[cfg(test)]
mod tests;
