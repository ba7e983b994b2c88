//! pinned: limits the memory of publications that the log has evicted while conns still send them.
//!
//! A conn keeps a publication in memory while it sends a partly written frame or the answer to a
//! poll. If the log evicts the publication meanwhile, the conn *pins* it. This happens when a
//! client stops reading, or reads only a few bytes now and then. The limit on pinned memory is
//! `log.pinned_bytes`, for all workers together. Beyond the limit, a conn copies its unsent bytes
//! if the copy is small compared with the pinned memory. If that is not enough, the conns that pin
//! the oldest publications are closed. This phase runs after flush and before reap, so that the
//! slots of these conns are freed in the same turn.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::Worker;
use super::wire::net::Net;
use crate::certain;
use crate::config::limits::{HOLDERS_PER_TURN_MAX, PINNED_STALE_MS};
use crate::conn::Outbox;
use crate::effect::CloseReason;
use crate::id::{ConnId, Sequence};
use crate::time::Now;
use crate::warnings::WarningKind;

/// For each worker, the oldest publication that its conns keep in memory although the log has
/// evicted it. If such publications use too much memory, the conns with the oldest one of all
/// workers are closed first.
#[derive(Debug, Default)]
pub struct OldestPinned(Mutex<BTreeMap<u16, (Sequence, Now)>>);

impl OldestPinned {
    /// Records `oldest`, the oldest publication that the conns of a worker keep in memory. Returns
    /// false if a conn of another worker keeps an older one. Ignores a worker that has recorded
    /// nothing for a while, because its thread may be asleep.
    #[must_use]
    pub fn is_oldest(&self, worker: u16, oldest: Sequence, now: Now) -> bool {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|other, (_, at)| {
            *other != worker && now.since(*at) < Duration::from_millis(PINNED_STALE_MS)
        });
        let is_oldest = all.values().all(|(other, _)| *other >= oldest);
        all.insert(worker, (oldest, now));
        is_oldest
    }

    /// Removes the record of a worker that has no conn to close because of the limit on pinned
    /// memory.
    pub fn note_none(&self, worker: u16) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.remove(&worker);
    }
}

/// The conns of one worker whose outbox keeps publications in memory, ordered by the oldest of
/// these publications.
#[derive(Debug, Default)]
pub(super) struct Holders {
    by_age: BTreeSet<Holder>,
    /// The slots of polls that were answered in this turn. After flush, a poll is added to `by_age`
    /// if its answer is not completely written. Most answers are completely written by then.
    answered: Vec<u32>,
    /// The conn at which the next batch starts. `None` stands for the conn with the oldest
    /// publication.
    next: Option<Holder>,
}

/// The sequence number of the oldest publication that a conn keeps in memory, and the conn's slot.
type Holder = (Sequence, u32);

impl Holders {
    /// Changes the recorded oldest publication of a conn from `before` to `now`.
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

    /// Whether the last call of [`Self::next_batch`] has left conns for the next call.
    pub(super) fn has_next(&self) -> bool {
        self.next.is_some()
    }

    /// Returns the next batch of conns in the order of `by_age`. After the last conn, the next
    /// batch starts with the conn that keeps the oldest publication.
    fn next_batch(&mut self) -> Vec<Holder> {
        let from = self.next.take().unwrap_or((Sequence::ZERO, 0));
        let mut holders = self.by_age.range(from..).copied();
        let some = holders.by_ref().take(HOLDERS_PER_TURN_MAX).collect();
        self.next = holders.next();
        some
    }
}

impl<N: Net> Worker<N> {
    /// Records the oldest publication that a conn's outbox keeps in memory. `before` is the
    /// publication that was recorded for this conn before the call.
    pub(super) fn note_held(&mut self, id: ConnId, before: Option<Sequence>) {
        let slot = self.conns.get(id.slot as usize);
        let held = slot.and_then(|slot| slot.conn.outbox().oldest_held());
        self.holders.note(id.slot, before, held);
    }

    /// Records that a poll was answered in this turn. If the answer is not completely written after
    /// flush, the poll is added to the conns that keep publications in memory.
    pub(super) fn note_answered(&mut self, slot: u32) {
        self.holders.answered.push(slot);
    }

    fn note_unwritten_answers(&mut self) {
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

    /// Removes the record of a conn that will be freed.
    pub(super) fn forget_held(&mut self, slot: u32, outbox: &Outbox) {
        self.holders.note(slot, outbox.oldest_held(), None);
    }

    /// Enforces the limit on the memory of publications that conns keep although the log has
    /// evicted them. Also wakes the feed if the log has too many encodings, because the feed
    /// enforces that limit.
    pub(super) fn bound_pinned(&mut self) {
        self.note_unwritten_answers();
        if self.hub.log().has_too_many_encodings() {
            self.parts.feed.wake();
        }
        if !self.is_too_much_pinned() {
            self.holders.next = None;
            return;
        }
        let mut holders = self.holders.next_batch();
        holders.retain(|&(_, slot)| self.pins(slot));
        for &(_, slot) in &holders {
            if !self.is_too_much_pinned() {
                return;
            }
            let slot = self.conns.get_mut(slot as usize);
            if let Some(slot) = certain::some(slot, "a holder is a conn") {
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
            if !self
                .parts
                .guard
                .oldest
                .is_oldest(number, sequence, self.now)
            {
                return;
            }
            if let Some(id) = certain::some(self.id_in(slot), "a holder is a conn") {
                let cause = "closed: it kept too many evicted publications in memory \
                    (log.pinned_bytes)";
                self.warn(id, WarningKind::SlowReader, &cause);
                self.close_unwarned(id, CloseReason::Overflow);
                self.drop_outbox(slot);
            }
        }
        // No conn of this worker is left to close, so the other workers need not wait for this
        // worker.
        self.parts.guard.oldest.note_none(number);
    }

    /// Drops the outbox of a closed conn before its slot is freed. So other workers see at once
    /// that less memory is in use.
    fn drop_outbox(&mut self, slot: u32) {
        let entry = self.conns.get_mut(slot as usize);
        if let Some(entry) = certain::some(entry, "conns are freed only in reap") {
            let outbox = std::mem::take(entry.conn.outbox_mut());
            self.forget_held(slot, &outbox);
        }
    }

    /// Returns the addresses and sizes of encodings that conns keep in memory although the log has
    /// evicted them. For tests.
    #[doc(hidden)]
    pub fn pinned_by_conns(&self) -> impl Iterator<Item = (usize, u64)> {
        let conns = self.conns.iter();
        conns.flat_map(|(_, slot)| slot.conn.outbox().pinned())
    }

    /// Panics if the recorded publications do not match the outboxes of the conns. For tests.
    #[doc(hidden)]
    pub fn check_holders(&self) {
        let conns = self.conns.iter();
        let held = conns.filter_map(|(slot, entry)| {
            Some((entry.conn.outbox().oldest_held()?, certain::to_u32(slot)))
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
    fn worker_with_the_oldest_closes_first_unless_it_is_asleep() {
        let oldest = OldestPinned::default();
        let (soon, late) = (Now(1), Now(PINNED_STALE_MS * 1_000));
        assert!(oldest.is_oldest(0, Sequence(5), Now(0)));
        assert!(!oldest.is_oldest(3, Sequence(6), soon));
        assert!(oldest.is_oldest(1, Sequence(5), soon), "both have it");
        oldest.note_none(1);
        assert!(oldest.is_oldest(3, Sequence(6), late));
    }

    #[test]
    fn batch_continues_after_the_last_one_and_starts_over_at_the_end() {
        let mut holders = Holders::default();
        let count = u32::try_from(HOLDERS_PER_TURN_MAX).unwrap() + 2;
        for slot in 0..count {
            holders.note(slot, None, Some(Sequence(7)));
        }
        assert_eq!(holders.next_batch().len(), HOLDERS_PER_TURN_MAX);
        assert!(holders.has_next());
        let rest = [count - 2, count - 1].map(|slot| (Sequence(7), slot));
        assert_eq!(holders.next_batch(), rest);
        assert!(!holders.has_next());
        holders.note(0, Some(Sequence(7)), Some(Sequence(9)));
        holders.note(1, Some(Sequence(7)), None);
        assert_eq!(holders.next_batch().first(), Some(&(Sequence(7), 2)));
    }
}
