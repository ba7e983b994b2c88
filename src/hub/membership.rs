//! Subscriptions: this module adds and removes them, and decides where each subscription starts.
//!
//! A client requests a position. This module decides where the subscription starts, and whether
//! publications before the start are missing. If the position belongs to another epoch, is beyond
//! the newest id, or is malformed, the result is a gap, not an error.
//!
//! Epochs are random numbers. So the order of two epochs is known only if one epoch replaced the
//! other while the server ran. An unknown epoch counts as earlier than the current epoch. Its last
//! publications count as lost, and all entries of the current epoch come after them. A position of
//! a replaced epoch is valid up to the last number for which both epochs have the same
//! publications.

use super::member::{Member, Subscription};
use super::{Channel, ChannelIndex, Gap, GapCause, Hub, Late, SUBSCRIBED};
use crate::certain;
use crate::id::{ChannelName, Cursor, Sequence, Since};
use crate::log::{ChannelState, WorkerInterest};

/// The result of subscribing to one channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JoinOutcome {
    /// The conn has become a subscriber.
    Joined(Joined),
    /// The conn was already a subscriber; nothing has changed.
    AlreadyJoined,
    /// The channel has no subscribers, and the maximum number of channels with subscribers is
    /// reached.
    ServerFull,
    /// The conn has subscribed to its maximum number of channels.
    TooManyChannels,
}

/// The start of a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Joined {
    /// The subscriber receives all publications after this position.
    pub position: Cursor,
    /// Whether the client requested a position and no publication after it is missing.
    pub is_recovered: bool,
    /// Publications that the client requested and that are missing. The gap must be reported before
    /// anything else of the channel.
    pub gap: Option<Gap>,
}

impl JoinOutcome {
    /// Returns the start of a new subscription. Returns `None` if no subscription was added.
    #[must_use]
    pub const fn joined(&self) -> Option<&Joined> {
        match self {
            Self::Joined(joined) => Some(joined),
            Self::AlreadyJoined | Self::ServerFull | Self::TooManyChannels => None,
        }
    }

    /// Returns the position of a client that subscribes to several channels with one request: the
    /// lowest of the start positions.
    #[must_use]
    pub fn position(outcomes: &[Self]) -> Option<Cursor> {
        let joined = outcomes.iter().filter_map(Self::joined);
        let positions = joined.map(|joined| joined.position);
        positions.min_by_key(|position| position.sequence)
    }
}

impl Hub {
    /// Makes the conn in a slot a subscriber of a channel. `sequenced` is the newest number that
    /// the feed has assigned. This worker may not have accepted that publication yet.
    pub fn subscribe(
        &mut self,
        slot: u32,
        name: &ChannelName,
        since: Since,
        sequenced: Sequence,
    ) -> JoinOutcome {
        self.make_room(slot);
        let known = self.log.state_in(self.worker, name, self.horizon());
        let known = known.map(|(place, channel_state)| (ChannelIndex(place), channel_state));
        let member = self.subscriptions(slot);
        if let Some((index, _)) = known
            && member.iter().any(|one| one.channel == index)
        {
            return JoinOutcome::AlreadyJoined;
        }
        if member.len() >= self.channels_per_conn as usize {
            return JoinOutcome::TooManyChannels;
        }
        // If the channel already has subscribers on this worker, `added` is zero. In that case, the
        // channel's entries that the hub has not accepted yet were recorded when the channel's
        // first subscriber joined.
        let known = known.map(|(index, channel_state)| (index, channel_state, Sequence::ZERO));
        let Some((index, channel_state, added)) = known.or_else(|| self.add_channel(name)) else {
            return JoinOutcome::ServerFull;
        };
        let Some(channel) = self.channels.get_mut(index.0 as usize) else {
            debug_assert!(false, "{index:?} has no channel");
            return JoinOutcome::ServerFull;
        };
        let place = channel.subscribers.push(slot);
        if let Some(count) = self.subscribers_by_rule.get(channel.rule.index()) {
            count.increment();
        }
        let history = self.position_before_history(index, since);
        let start = match history {
            Some(position) => Joined {
                position: self.cursor(position),
                is_recovered: false,
                gap: None,
            },
            None => self.start(since, &channel_state, sequenced),
        };
        let subscription = Subscription {
            position: start.position.sequence,
            channel: index,
            place,
        };
        let member = self.members.get_mut(slot as usize);
        if let Some(member) = certain::some(member, "room was made for the slot") {
            member.add(subscription);
        }
        self.subscribers += 1;
        if let Some(position) = history {
            self.mark_initial(slot, index, position);
        }
        // Publications that are already in the log do not count towards the conn's quota. `added`
        // is the sequence number of the newest of them. The hub may not have accepted this
        // publication yet.
        if self.has_next(subscription) || added > self.head {
            self.replays.insert(slot, added.max(self.head));
        }
        JoinOutcome::Joined(start)
    }

    /// Ends a subscription. Returns false if the conn was not subscribed to the channel.
    pub fn unsubscribe(&mut self, slot: u32, name: &ChannelName) -> bool {
        let Some(index) = self.index_of(name) else {
            return false;
        };
        let member = self.members.get_mut(slot as usize);
        let Some(subscription) = member.and_then(|member| member.take(index)) else {
            return false;
        };
        self.remove_subscriber(slot, subscription);
        self.end_conflation(slot);
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
        self.conflating.remove(&slot);
    }

    /// Returns the names of the channels of the conn in a slot.
    pub fn channels_of(&self, slot: u32) -> impl Iterator<Item = &ChannelName> {
        let member = self.members.get(slot as usize);
        let subscriptions = member.into_iter().flat_map(Member::all);
        subscriptions.filter_map(|one| Some(&self.channel(one.channel)?.name))
    }

    /// Returns the number of subscribers that a channel has on this worker.
    #[must_use]
    pub fn subscribers_of(&self, name: &ChannelName) -> u32 {
        self.named(name)
            .map_or(0, |channel| channel.subscribers.len())
    }

    /// Decides where a subscription that requests `since` starts, given the state of its channel.
    fn start(&self, since: Since, channel_state: &ChannelState, sequenced: Sequence) -> Joined {
        let (key, evicted) = (channel_state.key, channel_state.evicted);
        let after_gap = |since, until, cause| Joined {
            position: until,
            is_recovered: false,
            gap: Some(Gap {
                since,
                until,
                missed: None,
                cause,
            }),
        };
        match since {
            // The client requested history, but the log has no entries of the channel.
            Since::First | Since::Last(_) | Since::Now => Joined {
                position: self.head(),
                is_recovered: false,
                gap: None,
            },
            Since::Unrecognised => after_gap(None, self.head(), GapCause::Unknown),
            Since::After(cursor) if !self.has_valid(cursor) => {
                // The gap ends where the client can continue without a further loss: after the
                // publications that both epochs share, and after the publications that follow
                // these and have left the log or are lost.
                let valid = self.state.valid_until(cursor.epoch);
                let after_valid = valid.map(|valid| match self.missing_after(key, valid) {
                    Some((until, _)) => until,
                    None => valid,
                });
                let begin = || self.log.begin(key, self.horizon());
                let until = after_valid.or_else(begin);
                debug_assert!(until.is_some(), "{key:?} is not in the log");
                let until = until.unwrap_or(self.head);
                let until = self.cursor(until);
                after_gap(Some(cursor), until, GapCause::Restart)
            }
            Since::After(cursor) if cursor.sequence > sequenced => {
                after_gap(Some(cursor), self.head(), GapCause::Unknown)
            }
            Since::After(cursor) if cursor.sequence < evicted.max(self.state.lost_until()) => {
                match self.missing_after(key, cursor.sequence) {
                    Some((until, cause)) => after_gap(Some(cursor), self.cursor(until), cause),
                    // The publications before the loss are delivered, and then a gap.
                    None => Joined {
                        position: cursor,
                        is_recovered: false,
                        gap: None,
                    },
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
        self.windows.remove(slot, index);
        self.initial.remove(slot, index);
        self.subscribers -= 1;
        let (channels, members) = (&mut self.channels, &mut self.members);
        let channel = channels.get_mut(index.0 as usize);
        if let Some(channel) = certain::some(channel, SUBSCRIBED) {
            if let Some(count) = self.subscribers_by_rule.get(channel.rule.index()) {
                count.decrement();
            }
            channel
                .subscribers
                .remove(subscription.place, |moved, place| {
                    let member = members.get_mut(moved as usize);
                    if let Some(member) = certain::some(member, "a subscriber has a record") {
                        member.set_place(index, place);
                    }
                });
        }
        self.leave_channel_if_empty(index);
    }

    /// Adds a channel that has no subscribers on this worker yet. Returns the channel's index, the
    /// channel's state after the last publication that this worker has accepted, and the number of
    /// the channel's newest publication in the log. Returns `None` if the channel would exceed the
    /// limit on channels.
    fn add_channel(
        &mut self,
        name: &ChannelName,
    ) -> Option<(ChannelIndex, ChannelState, Sequence)> {
        let place = certain::to_u32(self.channels.vacant_key());
        let worker = self.worker;
        let (interest, mut late) = (WorkerInterest { worker, place }, Vec::new());
        let (log, quota) = (&self.log, self.quota);
        let horizon = self.state.horizon(self.head);
        let (channel_state, last) =
            log.register_interest(name, interest, horizon, quota, &mut late)?;
        let mut channel = Channel::new(name.clone(), &channel_state);
        // The channel's newest publications may be lost. Its subscribers receive a gap for them.
        channel.last = channel.last.max(self.state.lost_until());
        self.channels.insert(channel);
        let index = ChannelIndex(place);
        for entry in late {
            let number = entry.sequence();
            self.late.insert((number, index), Late::Held(entry));
        }
        // The next entry is recorded even if it has left the log, because then a gap must be
        // reported.
        self.note_late(index, channel_state.next, last);
        Some((index, channel_state, last))
    }

    fn leave_channel_if_empty(&mut self, index: ChannelIndex) {
        let place = index.0 as usize;
        let channel = self.channels.get(place);
        if channel.is_some_and(|channel| channel.subscribers.is_empty()) {
            let Some(channel) = self.channels.remove(place) else {
                return debug_assert!(false, "{index:?} has no channel");
            };
            self.last_plan = None;
            self.held_bytes -= channel.held_bytes();
            if !self.late.is_empty() {
                self.late.retain(|(_, late), _| *late != index);
            }
            self.postponed.retain(|(postponed, _)| *postponed != index);
            self.log.leave(channel.key, self.worker);
        }
    }

    /// Frees memory of conns and channels that no longer exist. All conns with subscriptions are in
    /// slots below `slots`.
    pub fn shrink_to(&mut self, slots: usize) {
        debug_assert!(self.members.iter().skip(slots).all(|m| m.all().is_empty()));
        self.members.truncate(slots);
        self.channels.shrink_to_fit();
        self.replays.shrink_to_fit();
        self.conflating.shrink_to_fit();
        self.gaps.shrink_to_fit();
        self.windows.shrink_to_fit();
        self.initial.shrink_to_fit();
        self.walks.shrink_to_fit();
        self.walked.shrink_to_fit();
        self.spare_walks = Vec::new();
        self.fetched.shrink_to_fit();
    }

    fn make_room(&mut self, slot: u32) {
        self.members.grow_to(slot as usize + 1, Member::default);
    }
}
