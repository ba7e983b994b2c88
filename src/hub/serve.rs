//! Serving from the log: what a cursor stands before, moving it, and telling what it moves over.
//!
//! A flush of one conn is: take the gaps to tell, [`Hub::plan`] what to write, write it,
//! [`Hub::advance`] by what the socket took, then [`Hub::enforce`] the quota on what is left, which
//! is [`super::quota`]'s. The rest of a frame under way is the conn's own. A channel whose window
//! is closed is left out of what is given and told; its gaps are told when it opens, before what
//! follows them.

use std::sync::Arc;

use super::{Channel, ChannelIndex, Gap, GapCause, Hub};
use crate::config::limits::GATHER_SLICES_MAX;
use crate::frame::{Encoder, FrameKind, Publication};
use crate::hub::member::{Member, Subscription};
use crate::hub::window::{self, Given, Room};
use crate::id::{ChannelName, Sequence};
use crate::time::Now;

/// One publication that a conn is about to be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Planned {
    /// The publication.
    pub sequence: Sequence,
    /// Bytes of its frame; zero for one that has expired and is stepped over.
    pub length: usize,
    /// Which of the conn's subscriptions it is for.
    pub subscription: u32,
}

/// Where a plan takes a channel's next publication from: its number, for which of the conn's
/// subscriptions, and how much more that one may be given.
pub(super) type Source = (Sequence, u32, Room);

/// What a write has brought.
#[derive(Debug, Default)]
pub struct Advanced {
    /// Publications written to the last byte.
    pub delivered: u64,
    /// The publication of which only these first bytes were taken.
    pub begun: Option<(Arc<Publication>, usize)>,
}

impl Hub {
    /// Lists what the conn in a slot is to be given next, in sequence order: at most `budget` bytes
    /// and [`GATHER_SLICES_MAX`] publications, but at least one if there is any. Frames that nobody
    /// has needed yet are encoded.
    pub fn plan(
        &mut self,
        slot: u32,
        kind: FrameKind,
        now: Now,
        budget: usize,
        encoder: &mut Encoder,
        planned: &mut Vec<Planned>,
    ) {
        planned.clear();
        self.find_sources(slot);
        let Self {
            log,
            merge,
            conflating,
            ..
        } = self;
        let conflates = !conflating.is_empty() && conflating.contains(&slot);
        let mut bytes = 0;
        // One pair for most conns; for the others the smallest sequence number goes first.
        while planned.len() < GATHER_SLICES_MAX
            && let Some(pair) = merge.iter_mut().min()
            && let Some(entry) = log.get(pair.0)
        {
            let (sequence, subscription, room) = *pair;
            // It is told of those before what follows them.
            if conflates && entry.is_superseded && !planned.is_empty() {
                return;
            }
            let has_expired = entry.publication.has_expired(now);
            // What has expired is stepped over and takes no room in a window.
            let room = if has_expired {
                room
            } else {
                room.after(sequence)
            };
            let next = if entry.next == Sequence::ZERO || room.is_over() {
                END
            } else {
                entry.next
            };
            *pair = (next, subscription, room);
            let length = if has_expired {
                0
            } else {
                log.charge(sequence, kind, encoder).unwrap_or(0)
            };
            if bytes > 0 && bytes + length > budget {
                return;
            }
            bytes += length;
            planned.push(Planned {
                sequence,
                length,
                subscription,
            });
        }
    }

    /// Lists where the conn in a slot is to be given something from: no channel of which its window
    /// allows nothing more.
    fn find_sources(&mut self, slot: u32) {
        let mut sources = std::mem::take(&mut self.merge);
        sources.clear();
        let windows = self.windows.of(slot);
        for (subscription, index) in self.subscriptions(slot).iter().zip(0u32..) {
            let window = window::find(windows, subscription.channel);
            let room = window.map_or(Room::ENDLESS, Given::room);
            if !room.is_over()
                && let Some(next) = self.successor_of(*subscription)
            {
                sources.push((next, index, room));
            }
        }
        self.merge = sources;
    }

    /// The wire bytes of a planned publication.
    #[must_use]
    pub fn frame(&self, sequence: Sequence, kind: FrameKind) -> &[u8] {
        let frame = self
            .log
            .get(sequence)
            .and_then(|entry| entry.publication.frame(kind));
        frame.map(|frame| frame.wire(kind)).unwrap_or_default()
    }

    /// Moves the cursors of the conn in a slot over what was written of a plan.
    pub fn advance(&mut self, slot: u32, planned: &[Planned], mut written: usize) -> Advanced {
        let mut advanced = Advanced::default();
        let Some(member) = self.members.get_mut(slot as usize) else {
            return advanced;
        };
        let windows = self.windows.of_mut(slot);
        for step in planned {
            if written == 0 && step.length > 0 {
                break;
            }
            if let Some(subscription) = member.all_mut().get_mut(step.subscription as usize) {
                subscription.position = step.sequence;
                if step.length > 0
                    && let Some(given) = window::find_mut(windows, subscription.channel)
                {
                    given.note(step.sequence);
                }
            }
            if written < step.length {
                let publication = self
                    .log
                    .get(step.sequence)
                    .map(|e| Arc::clone(&e.publication));
                advanced.begun = publication.map(|publication| (publication, written));
                break;
            }
            written -= step.length;
            advanced.delivered += u64::from(step.length > 0);
        }
        if !self.replays.is_empty() {
            self.end_replay(slot);
        }
        if !self.conflating.is_empty() {
            self.end_conflation(slot);
        }
        advanced
    }

    /// Whether the conn in a slot has something to be given or told now.
    #[must_use]
    pub fn is_behind(&self, slot: u32) -> bool {
        let windows = self.windows.of(slot);
        self.subscriptions(slot).iter().any(|subscription| {
            self.is_owed(slot, *subscription) && !window::is_closed(windows, subscription.channel)
        })
    }

    /// Whether something is to be given or told of a subscription's channel.
    pub(super) fn is_owed(&self, slot: u32, subscription: Subscription) -> bool {
        self.successor_of(subscription).is_some()
            || self.gaps.contains_key(&(slot, subscription.channel))
            || self
                .channel(subscription.channel)
                .is_some_and(|c| subscription.position < c.evicted)
    }

    /// Whether the conn in a slot came with a position that this log has not reached yet: another
    /// worker was faster.
    #[must_use]
    pub fn is_ahead(&self, slot: u32) -> bool {
        let mut subscriptions = self.subscriptions(slot).iter();
        subscriptions.any(|subscription| subscription.position > self.head)
    }

    /// The next gap that the conn in a slot has to be told of, with its channel.
    pub fn take_gap(&mut self, slot: u32) -> Option<(ChannelName, Gap)> {
        self.note_evicted(slot);
        self.step_over_superseded(slot);
        if self.gaps.is_empty() {
            return None;
        }
        let windows = self.windows.of(slot);
        let channels = self.subscriptions(slot).iter().map(|s| s.channel);
        let mut open = channels.filter(|channel| !window::is_closed(windows, *channel));
        let channel = open.find(|channel| self.gaps.contains_key(&(slot, *channel)))?;
        let key = (slot, channel);
        let gap = self.gaps.remove(&key)?;
        Some((self.channel(key.1)?.name.clone(), gap))
    }

    /// Turns what has left the log before a cursor came to it into a gap.
    pub(super) fn note_evicted(&mut self, slot: u32) {
        for index in 0..self.subscriptions(slot).len() {
            let Some(subscription) = self.subscriptions(slot).get(index).copied() else {
                return;
            };
            let Some(channel) = self.channel(subscription.channel) else {
                continue;
            };
            let evicted = channel.evicted;
            if subscription.position < evicted {
                self.skip(slot, index, evicted, None, GapCause::Expired);
            }
        }
    }

    /// Moves a cursor without giving what lies between, and notes that.
    pub(super) fn skip(
        &mut self,
        slot: u32,
        index: usize,
        until: Sequence,
        missed: Option<u64>,
        cause: GapCause,
    ) {
        let member = self
            .members
            .get_mut(slot as usize)
            .map(Member::all_mut)
            .unwrap_or_default();
        let Some(subscription) = member.get_mut(index) else {
            return;
        };
        let key = (slot, subscription.channel);
        let since = std::mem::replace(&mut subscription.position, until);
        if missed == Some(0) {
            return;
        }
        let (since, until) = (self.cursor(since), self.cursor(until));
        let fresh = Gap {
            since: Some(since),
            until,
            missed: Some(0),
            cause,
        };
        let gap = self.gaps.entry(key).or_insert(fresh);
        gap.until = until;
        // Where a subscriber with a foreign position was is not known, whatever is missing since. A
        // real loss overrides `Conflated`.
        if !gap.cause.is_foreign() && cause != GapCause::Conflated {
            gap.cause = cause;
        }
        gap.missed = gap.missed.zip(missed).map(|(a, b)| a + b);
    }

    /// The oldest entry of the subscription's channel after its cursor.
    pub(super) fn successor_of(&self, subscription: Subscription) -> Option<Sequence> {
        let channel = self.channel(subscription.channel)?;
        let position = subscription.position;
        if channel.first == Sequence::ZERO || channel.last <= position {
            return None;
        }
        if position < channel.first {
            return Some(channel.first);
        }
        if let Some(entry) = self.log.get(position)
            && entry.channel == subscription.channel
        {
            return (entry.next != Sequence::ZERO).then_some(entry.next);
        }
        // The cursor stands on a publication of another channel. Only what it is owed lies between
        // it and the newest entry, and it stands on one of its own as soon as it has been given the
        // first.
        let mut next = channel.last;
        while let Some(entry) = self.log.get(next)
            && entry.previous > position
        {
            next = entry.previous;
        }
        Some(next)
    }

    pub(super) fn subscriptions(&self, slot: u32) -> &[Subscription] {
        self.members
            .get(slot as usize)
            .map(Member::all)
            .unwrap_or_default()
    }

    pub(super) fn channel(&self, index: ChannelIndex) -> Option<&Channel> {
        self.channels.get(index.0 as usize)
    }
}

/// A sequence number after every other: a channel that has nothing more to merge.
const END: Sequence = Sequence(u64::MAX);
