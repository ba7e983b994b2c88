//! One channel: its thread through the log, its totals, its subscribers.

use super::retention::RuleIndex;
use super::subscribers::Subscribers;
use crate::id::{ChannelName, Sequence};
use crate::time::Now;

/// A channel's place in the hub; reused after the channel has gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChannelIndex(pub u32);

/// A named point of fan-out. Exists while it has subscribers or log entries.
#[derive(Clone, Debug)]
pub struct Channel {
    /// Its name.
    pub name: ChannelName,
    /// Its oldest entry in the log; zero if it has none.
    pub first: Sequence,
    /// Its newest publication, in the log or not; zero before the first.
    pub last: Sequence,
    /// Its newest publication that has left the log. Whoever stands before it has missed something.
    pub evicted: Sequence,
    /// Everything published in it since it exists.
    pub total: Amount,
    /// What everybody had been visited for when the pass under way began.
    pub walk_floor: Amount,
    /// The same for the pass after this one.
    pub again_floor: Amount,
    /// How much of it is kept, and what happens to who is behind.
    pub rule: RuleIndex,
    /// Whether the hub has this channel among those that may be over their bounds.
    pub is_over_queued: bool,
    /// Whether the hub has this channel among its walks.
    pub is_walk_queued: bool,
    /// When the walk under way began.
    pub walk_started: Now,
    /// Who is subscribed, and the walk over them.
    pub subscribers: Subscribers,
}

impl Channel {
    /// A channel without entries or subscribers. What was published before `evicted` is not known.
    #[must_use]
    pub fn new(name: ChannelName, rule: RuleIndex, evicted: Sequence) -> Self {
        Self {
            name,
            rule,
            is_over_queued: false,
            first: Sequence::ZERO,
            last: Sequence::ZERO,
            evicted,
            total: Amount::default(),
            walk_floor: Amount::default(),
            again_floor: Amount::default(),
            is_walk_queued: false,
            walk_started: Now(0),
            subscribers: Subscribers::default(),
        }
    }

    /// Marks everybody as behind a publication that came on top of `before`. True if the hub has to
    /// queue the walk.
    pub fn mark_behind(&mut self, before: Amount, now: Now) -> bool {
        let had_second_pass = self.subscribers.has_second_pass();
        if self.subscribers.mark_behind() {
            self.walk_floor = before;
            self.walk_started = now;
            return !std::mem::replace(&mut self.is_walk_queued, true);
        }
        if !had_second_pass {
            self.again_floor = before;
        }
        false
    }

    /// Whether nothing keeps it.
    #[must_use]
    pub fn is_abandoned(&self) -> bool {
        self.first == Sequence::ZERO && self.subscribers.is_empty()
    }

    /// What has been published that the walk under way has not yet brought to everybody.
    #[must_use]
    pub fn walk_debt(&self) -> Amount {
        if self.subscribers.is_walking() {
            self.total.minus(self.walk_floor)
        } else {
            Amount::default()
        }
    }
}

/// A number of publications and of their payload bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// Payload bytes.
    pub bytes: u64,
    /// Publications.
    pub publications: u64,
}

impl Amount {
    /// The sum.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            bytes: self.bytes + other.bytes,
            publications: self.publications + other.publications,
        }
    }

    /// The difference; zero where it would be negative.
    #[must_use]
    pub fn minus(self, other: Self) -> Self {
        Self {
            bytes: self.bytes.saturating_sub(other.bytes),
            publications: self.publications.saturating_sub(other.publications),
        }
    }

    /// Whether either number is above its bound.
    #[must_use]
    pub fn exceeds(self, bound: Self) -> bool {
        self.bytes > bound.bytes || self.publications > bound.publications
    }
}
