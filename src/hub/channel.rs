//! A channel with subscribers on this worker: its newest publication here, its subscribers, and the
//! walk over them.

use super::subscribers::Subscribers;
use super::tail::{Served, Tail};
use crate::id::{ChannelName, Sequence};
use crate::log::{Amount, ChannelKey, ChannelState, Entry, RuleIndex};
use crate::time::Now;

/// A channel's place in the hub. Another channel may have it when the last subscriber has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChannelIndex(pub u32);

/// A channel that has subscribers here.
#[derive(Debug)]
pub struct Channel {
    /// Its name.
    pub name: ChannelName,
    /// Its key in the log.
    pub key: ChannelKey,
    /// How much of it is kept, and what happens to conns that are behind.
    pub rule: RuleIndex,
    /// Its newest publication up to the hub's head; zero before the first.
    pub last: Sequence,
    /// The total published in it up to `last`, since it was made.
    pub total: Amount,
    /// The walk under way, or a finished one whose conns are still being written to.
    pub walk: Option<Box<Walk>>,
    /// The conns that are subscribed.
    pub subscribers: Subscribers,
}

const _: () = assert!(size_of::<Channel>() == 64);

/// What is being delivered to a channel's subscribers.
#[derive(Debug, Default)]
pub struct Walk {
    /// The channel's newest entries: at least those that not every subscriber was visited for.
    pub tail: Tail,
    /// The total for which all subscribers had been visited when the current pass began.
    pub floor: Amount,
    /// The same for the pass after this one.
    pub again_floor: Amount,
    /// When it began.
    pub started: Now,
    /// Whether the hub has it among its walks.
    pub is_queued: bool,
}

impl Walk {
    /// Adds void publications to all totals. The log counts some of an earlier epoch between the
    /// newest entry and the next one; no subscriber is owed them.
    fn add_before(&mut self, void: Amount) {
        self.tail.add_before(void);
        self.floor = self.floor.plus(void);
        self.again_floor = self.again_floor.plus(void);
    }

    /// Clears it for the next walk.
    pub fn reset(&mut self) {
        self.tail.clear();
        self.is_queued = false;
    }
}

impl Channel {
    /// A channel without subscribers, in its state in the log.
    #[must_use]
    pub fn new(name: ChannelName, channel_state: &ChannelState) -> Self {
        Self {
            name,
            key: channel_state.key,
            rule: channel_state.rule,
            last: channel_state.last,
            total: channel_state.total,
            walk: None,
            subscribers: Subscribers::default(),
        }
    }

    /// Takes in the channel's newest entry and marks all subscribers as behind. True if the hub has
    /// to queue the walk. `fresh` makes a walk where there is none.
    pub fn take(
        &mut self,
        entry: Entry,
        quota: Amount,
        conflates: bool,
        now: Now,
        fresh: impl FnOnce() -> Box<Walk>,
    ) -> bool {
        let (last, total) = (entry.sequence(), entry.total());
        let void = entry.before.minus(self.total);
        if let Some(walk) = &mut self.walk
            && void != Amount::default()
        {
            walk.add_before(void);
        }
        let is_to_queue = self.take_in(last, total, entry.before, now, fresh);
        if let Some(walk) = &mut self.walk {
            // The floor came from the channel's state in the log, which counts evictions above the
            // head.
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

    /// Takes in the channel's state in the log, whose entries are not held here. Otherwise as
    /// [`Self::take`].
    pub fn take_standing(
        &mut self,
        channel_state: &ChannelState,
        now: Now,
        fresh: impl FnOnce() -> Box<Walk>,
    ) -> bool {
        let (last, total, before) = (channel_state.last, channel_state.total, self.total);
        let is_to_queue = self.take_in(last, total, before, now, fresh);
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
        now: Now,
        fresh: impl FnOnce() -> Box<Walk>,
    ) -> bool {
        (self.last, self.total) = (last, total);
        let had_second_pass = self.subscribers.has_second_pass();
        let begins = self.subscribers.mark_behind();
        let walk = self.walk.get_or_insert_with(fresh);
        if begins {
            walk.floor = before;
            walk.started = now;
            return !std::mem::replace(&mut walk.is_queued, true);
        }
        if !had_second_pass {
            walk.again_floor = before;
        }
        false
    }

    /// The total that the current walk has yet to deliver to some subscribers.
    #[must_use]
    pub fn walk_debt(&self) -> Amount {
        match &self.walk {
            Some(walk) if self.subscribers.is_walking() => self.total.minus(walk.floor),
            Some(_) | None => Amount::default(),
        }
    }

    /// The first held entry after a position.
    #[must_use]
    pub fn held_after(&self, position: Sequence) -> Option<&Served> {
        self.walk.as_ref()?.tail.after(position)
    }

    /// Bytes of the publications that are held here.
    #[must_use]
    pub fn held_bytes(&self) -> u64 {
        self.walk.as_ref().map_or(0, |walk| walk.tail.bytes())
    }

    /// The newest entries, if they include all that follow a position.
    #[must_use]
    pub fn tail_after(&self, position: Sequence) -> Option<&Tail> {
        let tail = &self.walk.as_ref()?.tail;
        tail.covers(position).then_some(tail)
    }
}
