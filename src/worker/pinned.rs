//! pinned: bounds what conns keep in memory of publications that have left the log.
//!
//! A frame that is half written and the answer of a poll stay whole, whatever the log drops. A
//! client that stops reading in the middle pins them, and one that reads a few bytes now and then
//! is no better. Beyond `log.pinned_bytes`, which is for all workers together, a conn copies a rest
//! that is small beside what is kept for it. If that is not enough, the conns that pin the oldest
//! publications are closed. Called after flush, so that their slots are freed in the same turn.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::Worker;
use super::wire::net::Net;
use crate::config::limits::{HOLDERS_PER_TURN_MAX, PINNED_STALE_MS};
use crate::conn::Outbox;
use crate::effect::CloseReason;
use crate::id::{ConnId, Sequence};
use crate::time::Now;

/// Which worker's conns pin the oldest publication: its conns are the first to be closed.
#[derive(Debug, Default)]
pub struct OldestPinned(Mutex<BTreeMap<u16, (Sequence, Now)>>);

impl OldestPinned {
    /// Notes the oldest publication that a worker's conns pin, and returns whether no other worker
    /// has said that its conns pin an older one. A worker that has said nothing for a while may be
    /// asleep, and does not count.
    #[must_use]
    pub fn is_of(&self, worker: u16, oldest: Sequence, now: Now) -> bool {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|other, (_, at)| {
            *other != worker && now.since(*at) < Duration::from_millis(PINNED_STALE_MS)
        });
        let is_oldest = all.values().all(|(other, _)| *other >= oldest);
        all.insert(worker, (oldest, now));
        is_oldest
    }

    /// Notes that a worker has nothing more to close.
    pub fn note_none(&self, worker: u16) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.remove(&worker);
    }
}

/// Conns that hold publications until they are written, by the oldest of them.
#[derive(Debug, Default)]
pub(super) struct Holders {
    by_age: BTreeSet<Holder>,
    /// Slots of conns that were given an answer in this turn, which most write at once.
    answered: Vec<u32>,
    /// With which the next look begins, if the last one was cut short.
    next: Option<Holder>,
}

/// A publication and the slot of a conn.
type Holder = (Sequence, u32);

impl Holders {
    /// Notes what a conn held and what it holds now.
    fn note(&mut self, slot: u32, before: Option<Sequence>, now: Option<Sequence>) {
        if before != now
            && let Some(sequence) = before
        {
            self.by_age.remove(&(sequence, slot));
        }
        if let Some(sequence) = now {
            self.by_age.insert((sequence, slot));
        }
    }

    /// Whether a look was cut short.
    pub(super) fn are_awaited(&self) -> bool {
        self.next.is_some()
    }

    /// Some of them, beginning with the oldest or where the last look ended.
    fn look(&mut self) -> Vec<Holder> {
        let from = self.next.take().unwrap_or((Sequence::ZERO, 0));
        let mut holders = self.by_age.range(from..).copied();
        let some = holders.by_ref().take(HOLDERS_PER_TURN_MAX).collect();
        self.next = holders.next();
        some
    }
}

impl<N: Net> Worker<N> {
    /// Takes in what a conn's outbox holds. `before` is what it held when that was last looked at.
    pub(super) fn note_held(&mut self, id: ConnId, before: Option<Sequence>) {
        let slot = self.conns.get(id.slot as usize);
        let held = slot.and_then(|slot| slot.conn.outbox().oldest_held());
        self.holders.note(id.slot, before, held);
    }

    /// Notes that a conn has an answer. What flush leaves of it is counted as held.
    pub(super) fn note_answered(&mut self, slot: u32) {
        self.holders.answered.push(slot);
    }

    fn note_all_answered(&mut self) {
        let mut answered = std::mem::take(&mut self.holders.answered);
        for slot in answered.drain(..) {
            let entry = self.conns.get_mut(slot as usize);
            let outbox = entry.map(|entry| entry.conn.outbox_mut());
            let held = outbox.and_then(|outbox| {
                outbox.hold();
                outbox.oldest_held()
            });
            self.holders.note(slot, None, held);
        }
        self.holders.answered = answered;
    }

    /// Forgets a conn that is about to be freed.
    pub(super) fn forget_held(&mut self, slot: u32, outbox: &Outbox) {
        self.holders.note(slot, outbox.oldest_held(), None);
    }

    /// Keeps what is pinned within its bound, and has the feed do so for the log's encodings.
    pub(super) fn bound_pinned(&mut self) {
        self.note_all_answered();
        if self.hub.log().has_too_many_encodings() {
            self.parts.feed.wake();
        }
        if !self.is_too_much_pinned() {
            self.holders.next = None;
            return;
        }
        let mut holders = self.holders.look();
        holders.retain(|&(_, slot)| self.pins(slot));
        for &(_, slot) in &holders {
            if !self.is_too_much_pinned() {
                return;
            }
            if let Some(slot) = self.conns.get_mut(slot as usize) {
                slot.conn.outbox_mut().copy_rests();
            }
        }
        self.close_oldest(&holders);
    }

    fn close_oldest(&mut self, holders: &[Holder]) {
        let number = self.parts.number;
        for &(sequence, slot) in holders {
            if !self.is_too_much_pinned() {
                break;
            }
            if !self.parts.guard.oldest.is_of(number, sequence, self.now) {
                return;
            }
            if let Some(id) = self.id_in(slot) {
                self.close(id, CloseReason::Overflow);
                self.drop_outbox(slot);
            }
        }
        // Other workers need not wait for this one any more.
        self.parts.guard.oldest.note_none(number);
    }

    /// Drops what a closed conn will not write any more, now, since others go by what is pinned.
    fn drop_outbox(&mut self, slot: u32) {
        if let Some(slot_entry) = self.conns.get_mut(slot as usize) {
            let outbox = std::mem::take(slot_entry.conn.outbox_mut());
            self.forget_held(slot, &outbox);
        }
    }

    /// What conns hold of encodings that the log has no more, as addresses and bytes. For tests.
    #[doc(hidden)]
    pub fn pinned_by_conns(&self) -> impl Iterator<Item = (usize, u64)> {
        let conns = self.conns.iter();
        conns.flat_map(|(_, slot)| slot.conn.outbox().pinned())
    }

    /// Panics if the list of holders and the outboxes disagree. For tests.
    #[doc(hidden)]
    pub fn check_holders(&self) {
        let conns = self.conns.iter();
        let held = conns.filter_map(|(slot, entry)| {
            let slot = u32::try_from(slot).ok()?;
            Some((entry.conn.outbox().oldest_held()?, slot))
        });
        let held: BTreeSet<Holder> = held.collect();
        assert!(self.holders.by_age == held, "{:?}: {held:?}", self.holders);
    }

    fn pins(&self, slot: u32) -> bool {
        let slot = self.conns.get(slot as usize);
        slot.is_some_and(|slot| slot.conn.outbox().pins())
    }

    fn is_too_much_pinned(&self) -> bool {
        self.hub.log().ledger().pinned() > self.parts.config.log.pinned_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worker_with_the_oldest_goes_first_unless_it_is_asleep() {
        let oldest = OldestPinned::default();
        let (soon, late) = (Now(1), Now(PINNED_STALE_MS * 1_000));
        assert!(oldest.is_of(0, Sequence(5), Now(0)));
        assert!(!oldest.is_of(3, Sequence(6), soon));
        assert!(oldest.is_of(1, Sequence(5), soon), "both have it");
        oldest.note_none(1);
        assert!(oldest.is_of(3, Sequence(6), late));
    }

    #[test]
    fn look_that_is_cut_short_goes_on_where_it_ended_and_then_begins_again() {
        let mut holders = Holders::default();
        let count = u32::try_from(HOLDERS_PER_TURN_MAX).unwrap() + 2;
        for slot in 0..count {
            holders.note(slot, None, Some(Sequence(7)));
        }
        assert_eq!(holders.look().len(), HOLDERS_PER_TURN_MAX);
        assert!(holders.are_awaited());
        let rest = [count - 2, count - 1].map(|slot| (Sequence(7), slot));
        assert_eq!(holders.look(), rest);
        assert!(!holders.are_awaited());
        holders.note(0, Some(Sequence(7)), Some(Sequence(9)));
        holders.note(1, Some(Sequence(7)), None);
        assert_eq!(holders.look().first(), Some(&(Sequence(7), 2)));
    }
}
