//! The hub's record of a channel: its newest publication, its subscribers on this worker, and the
//! *walk*, which visits the subscribers after a new publication.

use super::subscribers::Subscribers;
use super::tail::{Served, Tail};
use crate::config::Overflow;
use crate::id::{ChannelName, Sequence};
use crate::log::{Amount, ChannelKey, ChannelState, Entry, RuleIndex};
use crate::time::Now;

/// A channel's index in the hub. After the channel's last subscriber has left, another channel may
/// get the same index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChannelIndex(pub u32);

/// A channel that has subscribers on this worker.
#[derive(Debug)]
pub struct Channel {
    /// The channel's name.
    pub name: ChannelName,
    /// The channel's key in the log.
    pub key: ChannelKey,
    /// The channel's rule.
    pub rule: RuleIndex,
    /// The policy for conns that are further behind than their quota allows.
    pub overflow: Overflow,
    /// The number of the channel's newest publication that the hub has accepted; zero before the
    /// first one.
    pub last: Sequence,
    /// The total size and number of the channel's publications up to `last`, since the channel was
    /// created.
    pub total: Amount,
    /// The state of the visits to subscribers. It exists until all writes of these visits are done.
    pub walk: Option<Box<Walk>>,
    /// The conns that are subscribed.
    pub subscribers: Subscribers,
}

const _: () = assert!(size_of::<Channel>() == 64);

/// The delivery of new publications to the subscribers of a channel, one subscriber after another.
#[derive(Debug, Default)]
pub struct Walk {
    /// The channel's newest entries. They include all entries for which at least one subscriber
    /// still has to be visited.
    pub tail: Tail,
    /// The channel's total of publications and bytes at the position up to which all subscribers
    /// were visited in earlier passes. Updated when a pass over the subscribers begins.
    pub floor: Amount,
    /// The value that `floor` gets when the next pass over the subscribers begins.
    pub again_floor: Amount,
    /// The time at which the visits began.
    pub started: Now,
    /// The time at which the feed accepted the publication that caused the visits. If the hub does
    /// not hold this publication, it is the time at which the visits began.
    pub published: Now,
    /// Whether the hub has queued the channel for visits.
    pub is_queued: bool,
}

impl Walk {
    /// Adds an amount to all totals: the amount of publications that an epoch change has discarded.
    /// The log's totals include these publications, but no subscriber receives them.
    fn add_before(&mut self, void: Amount) {
        self.tail.add_before(void);
        self.floor = self.floor.plus(void);
        self.again_floor = self.again_floor.plus(void);
    }

    /// Clears the state, so that its memory can be reused.
    pub fn reset(&mut self) {
        self.tail.clear();
        self.is_queued = false;
    }
}

impl Channel {
    /// Creates a channel without subscribers. `channel_state` is the channel's state in the log.
    #[must_use]
    pub fn new(name: ChannelName, channel_state: &ChannelState) -> Self {
        Self {
            name,
            key: channel_state.key,
            rule: channel_state.rule,
            overflow: channel_state.overflow,
            last: channel_state.last,
            total: channel_state.total,
            walk: None,
            subscribers: Subscribers::default(),
        }
    }

    /// Adds the channel's newest entry and marks all subscribers as behind. If the channel has no
    /// [`Walk`], calls `fresh` to get one. Returns whether the hub must add the channel to its
    /// queue of channels whose subscribers are visited.
    pub fn take(
        &mut self,
        entry: Entry,
        quota: Amount,
        conflates: bool,
        now: Now,
        fresh: impl FnOnce() -> Box<Walk>,
    ) -> bool {
        let (last, total) = (entry.sequence(), entry.total());
        let published = entry.publication.published;
        let void = entry.before.minus(self.total);
        if let Some(walk) = &mut self.walk
            && void != Amount::default()
        {
            walk.add_before(void);
        }
        let is_to_queue = self.take_in(last, total, entry.before, (now, published), fresh);
        if let Some(walk) = &mut self.walk {
            // `floor` was read from the log, which may have evicted entries that this worker has
            // not accepted yet. So `floor` may be above the running total before this entry.
            for floor in [&mut walk.floor, &mut walk.again_floor] {
                if floor.publications > entry.before.publications {
                    *floor = entry.before;
                }
            }
            if conflates {
                walk.tail.supersede(&entry);
            }
            walk.tail.push(entry);
            walk.tail.forget(total, quota, walk.floor);
        }
        is_to_queue
    }

    /// Like [`Self::take`], but the new entries of the channel are not given. The log has them, and
    /// `channel_state` tells up to where. The subscribers read them from the log.
    pub fn take_state(
        &mut self,
        channel_state: &ChannelState,
        now: Now,
        fresh: impl FnOnce() -> Box<Walk>,
    ) -> bool {
        let (last, total, before) = (channel_state.last, channel_state.total, self.total);
        let is_to_queue = self.take_in(last, total, before, (now, now), fresh);
        if let Some(walk) = &mut self.walk {
            walk.tail.clear();
        }
        is_to_queue
    }

    fn take_in(
        &mut self,
        last: Sequence,
        total: Amount,
        before: Amount,
        (now, published): (Now, Now),
        fresh: impl FnOnce() -> Box<Walk>,
    ) -> bool {
        (self.last, self.total) = (last, total);
        let had_second_pass = self.subscribers.has_second_pass();
        let begins = self.subscribers.mark_behind();
        let walk = self.walk.get_or_insert_with(fresh);
        if begins {
            walk.floor = before;
            (walk.started, walk.published) = (now, published);
            return !std::mem::replace(&mut walk.is_queued, true);
        }
        if !had_second_pass {
            walk.again_floor = before;
        }
        false
    }

    /// Returns the total size and number of the publications for which at least one subscriber is
    /// still to be visited.
    #[must_use]
    pub fn walk_debt(&self) -> Amount {
        match &self.walk {
            Some(walk) if self.subscribers.is_walking() => self.total.minus(walk.floor),
            Some(_) | None => Amount::default(),
        }
    }

    /// Returns the first entry after a position, among the entries that the hub holds.
    #[must_use]
    pub fn held_after(&self, position: Sequence) -> Option<&Served> {
        self.walk.as_ref()?.tail.after(position)
    }

    /// Returns the bytes of the publications that the hub holds for the channel.
    #[must_use]
    pub fn held_bytes(&self) -> u64 {
        self.walk.as_ref().map_or(0, |walk| walk.tail.bytes())
    }

    /// Returns the entries that the hub holds, if they include all entries after a position.
    #[must_use]
    pub fn tail_after(&self, position: Sequence) -> Option<&Tail> {
        let tail = &self.walk.as_ref()?.tail;
        tail.covers(position).then_some(tail)
    }
}
