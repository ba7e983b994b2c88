//! Serves conns from the log: finds the entries after a cursor, moves the cursor, and reports
//! skipped entries as gaps.
//!
//! To serve one conn, the worker first takes the gaps to report. It then plans the publications to
//! write ([`Hub::plan`]), and writes them. Then it moves the cursors past the publications that the
//! socket accepted ([`Hub::advance`]). Finally it enforces the quota on the publications that are
//! left ([`Hub::enforce`], in [`super::quota`]). The conn itself keeps the rest of a partly written
//! frame. While the acknowledgement window of a channel is closed, the conn receives neither
//! publications nor gaps of that channel. These gaps are reported when the window opens, before the
//! publications that come after them.

use super::initial::{self, Mark};
use super::{Channel, ChannelIndex, Gap, GapCause, Hub, SUBSCRIBED};
use crate::certain;
use crate::config::limits::GATHER_SLICES_MAX;
use crate::frame::{Compressor, Encoded, FrameKind};
use crate::hub::member::{Member, Subscription};
use crate::hub::tail::Served;
use crate::hub::window::{self, ConnWindow, WindowRoom};
use crate::id::{ChannelName, Sequence};
use crate::log::{Amount, ChannelKey, Entry};
use crate::time::Now;

/// One publication that will be written to a conn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Planned {
    /// The publication's sequence number.
    pub sequence: Sequence,
    /// The length of the publication's frame in bytes; zero if the publication has expired and is
    /// skipped.
    pub length: usize,
    /// The kind of the publication's frame.
    pub kind: FrameKind,
    /// The index of the publication's channel among the conn's subscriptions.
    pub subscription: u32,
    /// The age of the publication when the plan was made, in microseconds; at most [`u32::MAX`],
    /// which is 71 minutes.
    pub age_us: u32,
    /// The place where the hub holds the publication's entry.
    pub held: Held,
}

/// The place where the hub holds an entry until the result of its write is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// An index into the entries that were fetched from the log.
    Fetched(u32),
    /// The entry is in a channel's tail, which contains the newest entries that the hub holds.
    Tail {
        /// The channel.
        channel: ChannelIndex,
        /// The entry's index among all entries of the channel.
        ordinal: u64,
    },
}

const _: () = assert!(size_of::<Planned>() <= 48);

/// The last plan, if it consists of one publication. The next conn is usually at the same position.
/// In that case, the plan is used again.
#[derive(Clone, Copy, Debug)]
pub(super) struct LastPlan {
    /// The conn's position before the planned publication.
    position: Sequence,
    /// The number of the channel's newest publication when the plan was made.
    last: Sequence,
    now: Now,
    step: Planned,
}

/// The next publication of one channel, and the place where the hub finds it. A plan is made from
/// several such sources, at most one for each channel of the conn.
#[derive(Clone, Copy, Debug)]
pub(super) struct Source {
    /// The number of the next publication; [`END`] if there is none.
    next: Sequence,
    held: Held,
    /// The index at which this channel's entries end in the list of entries that were fetched from
    /// the log.
    fetched_end: u32,
    channel: ChannelIndex,
    /// The index of the channel among the conn's subscriptions.
    subscription: u32,
    /// The number of publications that the acknowledgement window still allows.
    room: WindowRoom,
}

/// The list of publications to write to one conn, while the list is being made.
#[derive(Debug)]
struct Plan<'a> {
    kind: FrameKind,
    now: Now,
    /// Whether the conn skips superseded publications.
    conflates: bool,
    /// The maximum number of bytes to write, and the number of bytes planned so far.
    budget: usize,
    bytes: usize,
    /// Whether the plan is complete. Further publications are left for a later plan.
    is_full: bool,
    compressor: &'a mut Compressor,
    planned: &'a mut Vec<Planned>,
}

impl Plan<'_> {
    /// Adds one entry of a channel, if the plan has room for it. Returns whether the channel's next
    /// entry may be added.
    fn add(&mut self, entry: &mut Served, source: &mut Source, marks: &[Mark]) -> bool {
        // A conn that conflates skips a superseded entry and receives a gap for it. The gap must be
        // sent before the next publication, so the plan ends here.
        let is_after_gap = self.conflates && entry.is_superseded && !self.planned.is_empty();
        self.is_full |= is_after_gap || self.planned.len() >= GATHER_SLICES_MAX;
        if self.is_full {
            return false;
        }
        let kind = match marks.is_empty() {
            true => self.kind,
            false => initial::kind_of(self.kind, marks, source.channel, source.next),
        };
        let has_expired = entry.publication.has_expired(self.now);
        let length = match has_expired {
            true => 0,
            false => entry.encode(kind, self.compressor).unwrap_or_default(),
        };
        if self.bytes > 0 && self.bytes + length > self.budget {
            self.is_full = true;
            return false;
        }
        self.bytes += length;
        let age_us = self.now.micros_since(entry.publication.published);
        self.planned.push(Planned {
            sequence: source.next,
            length,
            kind,
            subscription: source.subscription,
            age_us: u32::try_from(age_us).unwrap_or(u32::MAX),
            held: source.held,
        });
        // An expired publication is not sent, so it does not count towards an acknowledgement
        // window.
        if !has_expired {
            source.room = source.room.after(source.next);
        }
        if source.room.is_over() {
            source.next = END;
            return false;
        }
        true
    }
}

/// Returns the index of the source with the smallest next number. Also returns the smallest next
/// number of the other sources.
fn next_run(sources: &[Source]) -> Option<(usize, Sequence)> {
    let (mut first, mut second) = ((usize::MAX, END), END);
    for (index, source) in sources.iter().enumerate() {
        if source.next < first.1 {
            (first, second) = ((index, source.next), first.1);
        } else {
            second = second.min(source.next);
        }
    }
    (first.1 != END).then_some((first.0, second))
}

/// The result of recording a write.
#[derive(Debug, Default)]
pub struct Advanced {
    /// The number of publications that were written completely.
    pub delivered: u64,
    /// The publication that was written only in part, and how many of its bytes were written.
    pub begun: Option<(Encoded, usize)>,
}

impl Hub {
    /// Decides which publications the conn in a slot receives next, in sequence order, and stores
    /// them in `planned`. There are at most [`GATHER_SLICES_MAX`] of them, with at most `budget`
    /// bytes in total. If any publication is pending, there is at least one. Frames that do not
    /// exist yet are encoded.
    ///
    /// A loss must be reported before any later publication is sent. If the log lacks entries that
    /// the conn still needs, the list ends before these entries, and [`Self::take_found_loss`]
    /// returns true.
    pub fn plan(
        &mut self,
        slot: u32,
        kind: FrameKind,
        now: Now,
        budget: usize,
        compressor: &mut Compressor,
        planned: &mut Vec<Planned>,
    ) {
        planned.clear();
        self.has_found_loss = false;
        let mut plan = Plan {
            kind,
            now,
            conflates: !self.conflating.is_empty() && self.conflating.contains(&slot),
            budget,
            bytes: 0,
            is_full: false,
            compressor,
            planned,
        };
        if let [only] = *self.subscriptions(slot) {
            let may_repeat = !plan.conflates && self.is_plain(slot);
            match self.last_plan_for(only, kind, now).filter(|_| may_repeat) {
                Some(step) => plan.planned.push(step),
                None => {
                    self.plan_one(slot, only, &mut plan);
                    self.last_plan = self.to_repeat(only, &plan).filter(|_| may_repeat);
                }
            }
            return;
        }
        let mut sources = std::mem::take(&mut self.merge);
        self.find_sources(slot, &mut sources);
        // The entry with the smallest sequence number comes first.
        while !plan.is_full
            && !self.has_found_loss
            && let Some((index, until)) = next_run(&sources)
            && let Some(source) = sources.get_mut(index)
        {
            self.plan_run(slot, source, until, &mut plan);
        }
        self.merge = sources;
    }

    /// Plans the publications of a conn that has only one subscription.
    fn plan_one(&mut self, slot: u32, only: Subscription, plan: &mut Plan<'_>) {
        self.fetch_max = GATHER_SLICES_MAX;
        let mut source = self.source(slot, 0, only);
        while let Some(source) = &mut source
            && source.next != END
            && !plan.is_full
            && !self.has_found_loss
        {
            self.plan_run(slot, source, END, plan);
        }
    }

    /// Whether the conn in a slot has no acknowledgement window and no initial publications. If so,
    /// its plan depends only on its position.
    fn is_plain(&self, slot: u32) -> bool {
        self.windows.of(slot).is_empty() && self.initial.of(slot).is_empty()
    }

    /// Returns the publication of the last plan, if that plan also fits this subscription.
    fn last_plan_for(&self, only: Subscription, kind: FrameKind, now: Now) -> Option<Planned> {
        let plan = self.last_plan.as_ref()?;
        let Held::Tail { channel, .. } = plan.step.held else {
            return None;
        };
        let is_same = channel == only.channel
            && plan.position == only.position
            && plan.step.kind == kind
            && plan.now == now
            && self.channel(channel)?.last == plan.last;
        debug_assert!(!is_same || self.held(&plan.step).is_some(), "{plan:?}");
        is_same.then_some(plan.step)
    }

    /// Returns the plan in the form in which the next conn may reuse it. Returns `None` unless the
    /// plan has one publication, this publication is the channel's newest, and the hub holds it.
    fn to_repeat(&self, only: Subscription, plan: &Plan<'_>) -> Option<LastPlan> {
        let [step] = *plan.planned.as_slice() else {
            return None;
        };
        let last = self.channel(only.channel)?.last;
        let is_all = step.sequence == last && step.length > 0;
        let is_in_tail = matches!(step.held, Held::Tail { .. });
        (is_all && is_in_tail).then_some(LastPlan {
            position: only.position,
            last,
            now: plan.now,
            step,
        })
    }

    /// Adds the next entries of a source to a plan, up to the number before `until`.
    fn plan_run(&mut self, slot: u32, source: &mut Source, until: Sequence, plan: &mut Plan<'_>) {
        let Self {
            channels,
            fetched,
            initial,
            ..
        } = self;
        let marks = initial.of(slot);
        match source.held {
            Held::Tail { channel, ordinal } => {
                let walk = channels
                    .get_mut(channel.0 as usize)
                    .map(|one| &mut one.walk);
                let tail = walk.and_then(Option::as_mut).map(|walk| &mut walk.tail);
                let first = source.next;
                let entries = tail
                    .into_iter()
                    .flat_map(|tail| tail.range_mut(first, ordinal));
                for entry in entries {
                    let ordinal = entry.before.publications;
                    source.held = Held::Tail { channel, ordinal };
                    source.next = entry.sequence();
                    if source.next >= until || !plan.add(entry, source, marks) {
                        return;
                    }
                }
                source.next = END;
            }
            Held::Fetched(index) => {
                // Entries at the index `fetched_end` or later belong to another channel.
                let entries = fetched.iter_mut().skip(index as usize);
                for (index, entry) in (index..source.fetched_end).zip(entries) {
                    source.held = Held::Fetched(index);
                    source.next = entry.sequence();
                    if source.next >= until || !plan.add(entry, source, marks) {
                        return;
                    }
                }
                *source = self.source_after(*source);
            }
        }
    }

    /// Lists a [`Source`] for each channel of the conn in a slot. Leaves out channels whose
    /// acknowledgement window is closed.
    fn find_sources(&mut self, slot: u32, sources: &mut Vec<Source>) {
        sources.clear();
        let count = self.subscriptions(slot).len();
        // All channels share one plan, so only a few entries of each channel are fetched.
        self.fetch_max = (GATHER_SLICES_MAX / count.max(1)).max(1);
        for index in 0..count {
            if let Some(subscription) = self.subscription(slot, index) {
                sources.extend(self.source(slot, index, subscription));
            }
        }
    }

    /// Returns the source for a subscription's channel. Returns `None` if the acknowledgement
    /// window of the subscription is closed.
    fn source(&mut self, slot: u32, index: usize, subscription: Subscription) -> Option<Source> {
        let window = window::find(self.windows.of(slot), subscription.channel);
        let room = window.map_or(WindowRoom::ENDLESS, ConnWindow::room);
        let start = Source {
            next: subscription.position,
            held: Held::Fetched(u32::MAX),
            fetched_end: 0,
            channel: subscription.channel,
            subscription: certain::to_u32(index),
            room,
        };
        (!room.is_over()).then(|| self.source_after(start))
    }

    /// Returns a source that continues after `source.next`. Its entries are in the channel's tail
    /// if the tail has all of them, and otherwise in the log.
    fn source_after(&mut self, source: Source) -> Source {
        let end = Source {
            next: END,
            ..source
        };
        let Some(channel) = self.channel(source.channel) else {
            return end;
        };
        if channel.last <= source.next {
            return end;
        }
        let tail = channel.tail_after(source.next);
        if let Some(entry) = tail.and_then(|tail| tail.after(source.next)) {
            return Source {
                next: entry.sequence(),
                held: Held::Tail {
                    channel: source.channel,
                    ordinal: entry.before.publications,
                },
                ..source
            };
        }
        self.fetch_after(source).unwrap_or_else(|| {
            self.has_found_loss = true;
            end
        })
    }

    /// Fetches the entries after `source.next` from the log, up to the next loss. Returns `None` if
    /// the log lacks the first of these entries.
    fn fetch_after(&mut self, source: Source) -> Option<Source> {
        let key = self.channel(source.channel)?.key;
        let (index, entries) = (self.fetched.len(), &mut self.fetched);
        let (position, most) = (source.next, self.fetch_max);
        let horizon = self.state.horizon(self.head);
        let missing = self.log.fetch(key, position, horizon, most, entries);
        let first = self.fetched.get(index)?;
        (missing <= position).then_some(Source {
            next: first.sequence(),
            held: Held::Fetched(certain::to_u32(index)),
            fetched_end: certain::to_u32(self.fetched.len()),
            ..source
        })
    }

    /// Whether the last plan ended early because the log lacks the next entries. Resets this flag,
    /// so a second call returns false. The gap is created when the conn is served again.
    pub fn take_found_loss(&mut self) -> bool {
        std::mem::take(&mut self.has_found_loss)
    }

    fn held(&self, step: &Planned) -> Option<&Served> {
        match step.held {
            Held::Fetched(index) => self.fetched.get(index as usize),
            Held::Tail { channel, ordinal } => {
                let walk = self.channel(channel)?.walk.as_ref()?;
                walk.tail.get(step.sequence, ordinal)
            }
        }
    }

    /// Returns the bytes of a planned publication's frame.
    #[must_use]
    pub fn frame(&self, step: &Planned) -> &[u8] {
        let frames = self.held(step).and_then(|held| held.frames.as_ref());
        let wire = frames.map(|frames| frames.wire(step.kind));
        debug_assert!(step.length == 0 || wire.is_some(), "{step:?} is not held");
        wire.unwrap_or_default()
    }

    /// Returns a reference to the encoded frame of a planned publication. With it, a conn keeps the
    /// frame in memory until the frame is written.
    #[must_use]
    pub fn encoded(&self, step: &Planned) -> Option<Encoded> {
        self.held(step)?.encoded(step.kind)
    }

    /// Moves the cursors of the conn in a slot past the planned publications that were written,
    /// even if only in part. `written` is the number of bytes that the socket accepted.
    pub fn advance(&mut self, slot: u32, planned: &[Planned], mut written: usize) -> Advanced {
        let mut advanced = Advanced::default();
        let mut begun = None;
        let Some(member) = self.members.get_mut(slot as usize) else {
            return advanced;
        };
        let windows = self.windows.of_mut(slot);
        for step in planned {
            if written == 0 && step.length > 0 {
                break;
            }
            let subscription = member.all_mut().get_mut(step.subscription as usize);
            debug_assert!(subscription.is_some(), "{step:?} has no subscription");
            if let Some(subscription) = subscription {
                let before = std::mem::replace(&mut subscription.position, step.sequence);
                if step.length == 0 {
                    self.initial.pass_expired(slot, *subscription, before);
                } else if let Some(given) = window::find_mut(windows, subscription.channel) {
                    given.note(step.sequence);
                }
            }
            if written < step.length {
                begun = Some((step, written));
                break;
            }
            written -= step.length;
            advanced.delivered += u64::from(step.length > 0);
        }
        if let Some((step, written)) = begun {
            let encoded = self.encoded(step);
            debug_assert!(encoded.is_some(), "{step:?} is not held");
            advanced.begun = encoded.map(|encoded| (encoded, written));
        }
        if !self.initial.is_empty()
            && let Some(member) = self.members.get(slot as usize)
        {
            self.initial.end_passed(slot, member);
        }
        if !self.replays.is_empty() {
            self.end_replay(slot);
        }
        if !self.conflating.is_empty() {
            self.end_conflation(slot);
        }
        advanced
    }

    /// Whether a publication or a gap can be sent to the conn in a slot now.
    #[must_use]
    pub fn is_behind(&self, slot: u32) -> bool {
        let windows = self.windows.of(slot);
        self.subscriptions(slot).iter().any(|subscription| {
            self.is_owed(slot, *subscription) && !window::is_closed(windows, subscription.channel)
        })
    }

    /// Whether a subscription still has to receive a publication or a gap.
    pub(super) fn is_owed(&self, slot: u32, subscription: Subscription) -> bool {
        self.has_next(subscription) || self.gaps.contains_key(&(slot, subscription.channel))
    }

    /// Whether a subscription still has to receive a publication of its channel.
    pub(super) fn has_next(&self, subscription: Subscription) -> bool {
        let channel = self.channel(subscription.channel);
        channel.is_some_and(|channel| subscription.position < channel.last)
    }

    /// Returns the number of the last entry that the subscription has lost, and the cause. Returns
    /// `None` if it has lost none. An entry is lost if it was not delivered, is not in the log, and
    /// is not in the channel's tail.
    fn loss_before_next(&self, subscription: Subscription) -> Option<(Sequence, GapCause)> {
        let position = subscription.position;
        let channel = self.channel(subscription.channel)?;
        if position >= channel.last || channel.tail_after(position).is_some() {
            return None;
        }
        let (until, cause) = self.missing_after(channel.key, position)?;
        let tail = channel.walk.as_ref().and_then(|walk| walk.tail.begin());
        let until = until.min(tail.unwrap_or(channel.last));
        (position < until).then_some((until, cause))
    }

    /// Returns the number up to which the log lacks the publications of a channel directly after a
    /// position, and the cause. Returns `None` if it lacks none.
    pub(super) fn missing_after(
        &self,
        key: ChannelKey,
        position: Sequence,
    ) -> Option<(Sequence, GapCause)> {
        let (horizon, lost_until) = (self.horizon(), self.state.lost_until());
        let (until, is_lost) = self.log.missing_after(key, position, horizon, lost_until)?;
        let cause = match is_lost {
            true => GapCause::Restart,
            false => GapCause::Expired,
        };
        Some((until, cause))
    }

    /// Whether the conn in a slot has lost entries for which no gap was created yet.
    #[must_use]
    pub fn has_loss(&self, slot: u32) -> bool {
        let mut subscriptions = self.subscriptions(slot).iter();
        subscriptions.any(|subscription| self.loss_before_next(*subscription).is_some())
    }

    /// Whether the conn in a slot has a position beyond this worker's head. Such a conn received
    /// the position from another worker, which had already accepted more publications.
    #[must_use]
    pub fn is_ahead(&self, slot: u32) -> bool {
        let mut subscriptions = self.subscriptions(slot).iter();
        subscriptions.any(|subscription| subscription.position > self.head)
    }

    /// Removes and returns the next gap to report to the conn in a slot, with the name of the gap's
    /// channel.
    pub fn take_gap(&mut self, slot: u32) -> Option<(ChannelName, Gap)> {
        self.note_evicted(slot);
        self.skip_superseded(slot);
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

    /// Creates gaps for evicted and lost entries that were pending for the conn in a slot.
    pub(super) fn note_evicted(&mut self, slot: u32) {
        if !self.has_loss(slot) {
            return;
        }
        for index in 0..self.subscriptions(slot).len() {
            let Some(subscription) = self.subscription(slot, index) else {
                return;
            };
            if let Some((until, cause)) = self.loss_before_next(subscription)
                && self.pass_evicted_history(slot, index, until) < until
            {
                self.skip(slot, index, until, None, cause);
            }
        }
    }

    /// Moves a cursor to the number `until` without delivering the entries in between. `missed` is
    /// the number of missing publications, if it is known. Records a gap unless this number is
    /// zero.
    pub(super) fn skip(
        &mut self,
        slot: u32,
        index: usize,
        until: Sequence,
        missed: Option<u64>,
        cause: GapCause,
    ) {
        let Some(subscription) = self.subscription_mut(slot, index) else {
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
        // A gap whose cause is `Restart` or `Unknown` keeps this cause, because the client's
        // position may be unknown. For any other gap, a later cause replaces the earlier cause,
        // unless the later cause is `Conflated`.
        if !gap.cause.is_foreign() && cause != GapCause::Conflated {
            gap.cause = cause;
        }
        gap.missed = gap.missed.zip(missed).map(|(a, b)| a + b);
    }

    /// Returns the number of a channel's first entry after a position. Also returns the channel's
    /// running total before that entry.
    pub(super) fn before_next(
        &self,
        channel: &Channel,
        position: Sequence,
    ) -> Option<(Sequence, Amount)> {
        if position >= channel.last {
            return None;
        }
        let held = channel.held_after(position);
        let held = held.map(|next| (next.sequence(), next.before));
        if channel.tail_after(position).is_some() {
            return held;
        }
        let next = self.log.next_after(channel.key, position, self.horizon());
        // The tail may have an entry that the log has evicted, so the first entry of both is used.
        // If the log is already in a newer epoch, it may return nothing although it has an earlier
        // entry. In that case, the tail's entry is not used.
        let held = held.filter(|_| next.is_some() || self.is_in_newest_epoch());
        next.into_iter().chain(held).min_by_key(|(next, _)| *next)
    }

    /// Returns the first entry after a subscription's cursor.
    pub(super) fn next_of(&self, subscription: Subscription) -> Option<Entry> {
        let position = subscription.position;
        let channel = self.channel(subscription.channel)?;
        if position >= channel.last {
            return None;
        }
        let held = channel.held_after(position).map(|held| held.entry.clone());
        if channel.tail_after(position).is_some() {
            return held;
        }
        let mut next = Vec::with_capacity(1);
        self.log
            .fetch(channel.key, position, self.horizon(), 1, &mut next);
        // A log in a newer epoch may return no entries although it has some.
        let held = held.filter(|_| !next.is_empty() || self.is_in_newest_epoch());
        next.into_iter().chain(held).min_by_key(Entry::sequence)
    }

    pub(super) fn subscriptions(&self, slot: u32) -> &[Subscription] {
        self.members
            .get(slot as usize)
            .map(Member::all)
            .unwrap_or_default()
    }

    /// Returns the subscription with this index in the list of the conn's subscriptions.
    pub(super) fn subscription(&self, slot: u32, index: usize) -> Option<Subscription> {
        let subscription = self.subscriptions(slot).get(index).copied();
        certain::some(
            subscription,
            "the index is below the number of subscriptions",
        )
    }

    /// Like [`Self::subscription`], for a subscription whose cursor is moved.
    pub(super) fn subscription_mut(
        &mut self,
        slot: u32,
        index: usize,
    ) -> Option<&mut Subscription> {
        let member = self.members.get_mut(slot as usize).map(Member::all_mut);
        let subscription = member.and_then(|all| all.get_mut(index));
        certain::some(
            subscription,
            "the index is below the number of subscriptions",
        )
    }

    /// Returns a channel that has subscribers.
    pub(super) fn channel(&self, index: ChannelIndex) -> Option<&Channel> {
        certain::some(self.channels.get(index.0 as usize), SUBSCRIBED)
    }
}

/// A number larger than all others. It means that a source has no further entries.
const END: Sequence = Sequence(u64::MAX);
