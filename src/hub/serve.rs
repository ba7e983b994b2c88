//! Serving from the log: what a cursor stands before, moving it, and the quota.
//!
//! A flush of one conn is: take the gaps to tell, [`Hub::plan`] what to write, write it,
//! [`Hub::advance`] by what the socket took, then [`Hub::enforce`] the quota on what is left. A
//! publication counts for the quota until its first byte is written; the rest of a frame under way
//! is the conn's own.

use std::sync::Arc;

use super::{Amount, Channel, ChannelIndex, Gap, GapCause, Hub};
use crate::config::Overflow;
use crate::config::limits::GATHER_SLICES_MAX;
use crate::frame::{Encoder, FrameKind, Publication};
use crate::hub::log::{Entry, Log};
use crate::hub::member::{Member, Subscription};
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

/// What a write has brought.
#[derive(Debug, Default)]
pub struct Advanced {
    /// Publications written to the last byte.
    pub delivered: u64,
    /// The publication of which only these first bytes were taken.
    pub begun: Option<(Arc<Publication>, usize)>,
}

/// What the quota says of a conn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    /// It is over its quota and the policy is to close it.
    Overflow,
    /// It was over its quota and so many publications were skipped.
    Skipped(u64),
    /// It is within its quota.
    Within,
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
        let Self {
            log,
            channels,
            members,
            merge,
            conflating,
            ..
        } = self;
        let Some(member) = members.get(slot as usize) else {
            return;
        };
        merge.clear();
        for (subscription, index) in member.all().iter().zip(0u32..) {
            if let Some(next) = successor(log, channels, *subscription) {
                merge.push((next, index));
            }
        }
        let conflates = !conflating.is_empty() && conflating.contains(&slot);
        let mut bytes = 0;
        // One pair for most conns; for the others the smallest sequence number goes first.
        while planned.len() < GATHER_SLICES_MAX
            && let Some(pair) = merge.iter_mut().min()
            && let Some(entry) = log.get(pair.0)
        {
            let (sequence, subscription) = *pair;
            // It is told of those before what follows them.
            if conflates && entry.is_superseded && !planned.is_empty() {
                return;
            }
            *pair = (
                if entry.next == Sequence::ZERO {
                    END
                } else {
                    entry.next
                },
                subscription,
            );
            let has_expired = entry.publication.has_expired(now);
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
        for step in planned {
            if written == 0 && step.length > 0 {
                break;
            }
            if let Some(subscription) = member.all_mut().get_mut(step.subscription as usize) {
                subscription.position = step.sequence;
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

    /// Whether the conn in a slot has something to be given or told.
    #[must_use]
    pub fn is_behind(&self, slot: u32) -> bool {
        self.subscriptions(slot).iter().any(|subscription| {
            self.successor_of(*subscription).is_some()
                || self.gaps.contains_key(&(slot, subscription.channel))
                || self
                    .channel(subscription.channel)
                    .is_some_and(|c| subscription.position < c.evicted)
        })
    }

    /// Whether the conn in a slot came with a position that this log has not reached yet: another
    /// worker was faster.
    #[must_use]
    pub fn is_ahead(&self, slot: u32) -> bool {
        let mut subscriptions = self.subscriptions(slot).iter();
        subscriptions.any(|subscription| subscription.position > self.head)
    }

    /// What counts for the quota of the conn in a slot: everything not begun that was published
    /// after it resumed; where that is over the quota and the conn conflates, without what is
    /// superseded.
    #[must_use]
    pub fn behind(&self, slot: u32) -> Amount {
        let exempt = self.replays.get(&slot).copied().unwrap_or_default();
        let counting = self.subscriptions(slot).iter().map(|subscription| {
            let position = subscription.position.max(exempt);
            Subscription {
                position,
                ..*subscription
            }
        });
        let all = counting.clone().map(|after| self.amount_after(after));
        let all = all.fold(Amount::default(), Amount::plus);
        if !all.exceeds(self.quota) || !self.conflating.contains(&slot) {
            return all;
        }
        let newest = counting.map(|after| match self.conflates(after.channel) {
            true => self.newest_after(after),
            false => self.amount_after(after),
        });
        newest.fold(Amount::default(), Amount::plus)
    }

    /// Everything that the conn in a slot has not begun, whether it counts or not.
    pub(super) fn owed(&self, slot: u32) -> Amount {
        let amounts = self.subscriptions(slot).iter();
        let amounts = amounts.map(|subscription| self.amount_after(*subscription));
        amounts.fold(Amount::default(), Amount::plus)
    }

    /// Holds the conn in a slot to its quota: has it step over what is superseded where a channel
    /// conflates; then skips its oldest publications until it is within, or says that it has to be
    /// closed.
    pub fn enforce(&mut self, slot: u32, now: Now) -> Verdict {
        let mut behind = self.behind(slot);
        if behind.exceeds(self.quota) && self.begin_conflation(slot) {
            behind = self.behind(slot);
        }
        // At once, as long as it is known how many they are.
        self.step_over_superseded(slot);
        if !behind.exceeds(self.quota) {
            return Verdict::Within;
        }
        if self.has_to_close(slot) {
            return Verdict::Overflow;
        }
        let skipped = self.skip_until_within(slot, behind, now);
        self.end_conflation(slot);
        Verdict::Skipped(skipped)
    }

    /// Skips the oldest publications of a conn that is behind by so much. Returns how many.
    fn skip_until_within(&mut self, slot: u32, mut behind: Amount, now: Now) -> u64 {
        // What has left the log is missing too, and nobody knows any more how much it was.
        self.note_evicted(slot);
        let exempt = self.replays.remove(&slot).unwrap_or_default();
        let mut skipped = 0;
        loop {
            self.step_over_superseded(slot);
            let owed = self
                .oldest_owed(slot)
                .filter(|_| behind.exceeds(self.quota));
            let Some((index, next)) = owed else {
                return skipped;
            };
            let Some(entry) = self.log.get(next) else {
                return skipped;
            };
            let counts = !entry.publication.has_expired(now);
            let amount = Amount {
                bytes: entry.publication.payload_bytes(),
                publications: 1,
            };
            if next > exempt {
                behind = behind.minus(amount);
            }
            skipped += u64::from(counts);
            self.skip(slot, index, next, Some(u64::from(counts)), GapCause::Slow);
        }
    }

    /// Whether one of the channels that the conn in a slot is behind on has such a policy.
    fn has_to_close(&self, slot: u32) -> bool {
        self.subscriptions(slot).iter().any(|subscription| {
            let rule = self.channel(subscription.channel).map(|c| c.rule);
            let overflow = rule.map(|rule| self.rules.overflow(rule));
            overflow == Some(Overflow::Close) && self.successor_of(*subscription).is_some()
        })
    }

    /// The next gap that the conn in a slot has to be told of, with its channel.
    pub fn take_gap(&mut self, slot: u32) -> Option<(ChannelName, Gap)> {
        self.note_evicted(slot);
        self.step_over_superseded(slot);
        if self.gaps.is_empty() {
            return None;
        }
        let channels = self
            .subscriptions(slot)
            .iter()
            .map(|subscription| (slot, subscription.channel));
        let key = channels
            .into_iter()
            .find(|key| self.gaps.contains_key(key))?;
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
        // Who came with a foreign position does not know where it was, whatever is missing since;
        // and who has lost something has not only been spared it.
        if gap.cause != GapCause::Restart && cause != GapCause::Conflated {
            gap.cause = cause;
        }
        gap.missed = gap.missed.zip(missed).map(|(a, b)| a + b);
    }

    /// The oldest publication that the conn in a slot is owed, and for which of its subscriptions.
    fn oldest_owed(&self, slot: u32) -> Option<(usize, Sequence)> {
        let owed = self.subscriptions(slot).iter().enumerate();
        owed.filter_map(|(index, s)| Some((index, self.successor_of(*s)?)))
            .min_by_key(|(_, next)| *next)
    }

    fn end_replay(&mut self, slot: u32) {
        let Some(until) = self.replays.get(&slot).copied() else {
            return;
        };
        let is_over = self.subscriptions(slot).iter().all(|subscription| {
            self.successor_of(*subscription)
                .is_none_or(|next| next > until)
        });
        if is_over {
            self.replays.remove(&slot);
        }
    }

    fn amount_after(&self, subscription: Subscription) -> Amount {
        let next = self
            .successor_of(subscription)
            .and_then(|next| self.log.get(next));
        match (next, self.channel(subscription.channel)) {
            (Some(entry), Some(channel)) => channel.total.minus(before(entry)),
            _ => Amount::default(),
        }
    }

    /// The oldest entry of the subscription's channel after its cursor.
    pub(super) fn successor_of(&self, subscription: Subscription) -> Option<Sequence> {
        successor(&self.log, &self.channels, subscription)
    }

    pub(super) fn subscriptions(&self, slot: u32) -> &[Subscription] {
        self.members
            .get(slot as usize)
            .map(Member::all)
            .unwrap_or_default()
    }

    fn channel(&self, index: ChannelIndex) -> Option<&Channel> {
        self.channels.get(index.0 as usize)
    }
}

/// A sequence number after every other: a channel that has nothing more to merge.
const END: Sequence = Sequence(u64::MAX);

fn before(entry: &Entry) -> Amount {
    Amount {
        bytes: entry.bytes_before,
        publications: entry.ordinal,
    }
}

fn successor(
    log: &Log,
    channels: &slab::Slab<Channel>,
    subscription: Subscription,
) -> Option<Sequence> {
    let channel = channels.get(subscription.channel.0 as usize)?;
    let position = subscription.position;
    if channel.first == Sequence::ZERO || channel.last <= position {
        return None;
    }
    if position < channel.first {
        return Some(channel.first);
    }
    if let Some(entry) = log.get(position)
        && entry.channel == subscription.channel
    {
        return (entry.next != Sequence::ZERO).then_some(entry.next);
    }
    // The cursor stands on a publication of another channel. Only what it is owed lies between it
    // and the newest entry, and it stands on one of its own as soon as it has been given the first.
    let mut next = channel.last;
    while let Some(entry) = log.get(next)
        && entry.previous > position
    {
        next = entry.previous;
    }
    Some(next)
}
