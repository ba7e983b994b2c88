//! flush: conns that are behind or have bytes of their own: gather frames from the cursor, one
//! vectored write, move the cursor, hold to the quota.
//!
//! Writes are collected, done as a batch, and then noted one by one, so that the kernel can be
//! asked for many at a time. Until a batch is done nothing that its writes point to is changed:
//! outboxes and cursors are touched only before it and after it, no conn is in it twice, and the
//! hub holds the entries, whatever the log evicts meanwhile.
//!
//! Resumable. A broadcast to half a million subscribers takes seconds of system calls, so both the
//! list of conns and the walks over channels yield after a slice of time and go on in the next
//! turn; publications that arrive meanwhile leave in the same write as the older ones. The only
//! place that writes to a socket.

use std::io::IoSlice;
use std::ops::Range;

use super::Worker;
use super::wire::net::{Net, Write, WriteOutcome};
use crate::config::limits::{BATCH_WRITE_BYTES_MAX, FLUSH_SLICE_US_MAX};
use crate::conn::Conn;
use crate::effect::CloseReason;
use crate::frame::FrameKind;
use crate::hub::{Hub, Planned, Verdict, Visit};
use crate::id::ConnId;
use crate::time::Now;

/// What a write has brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Written {
    /// Nothing is left to write, or the socket takes no more, or the conn has ended.
    Finished,
    /// So many bytes, and more may follow.
    More(usize),
}

/// A batch of writes in the making.
#[derive(Debug, Default)]
pub(super) struct Collected {
    owed: Vec<Owed>,
    /// The publications of all of them, one conn's after the other's.
    planned: Vec<Planned>,
    /// Conns looked at, whether they were owed anything or not.
    visits: usize,
    bytes: usize,
}

/// What one conn is to be written.
#[derive(Debug)]
struct Owed {
    id: ConnId,
    /// Bytes that it may be written in this turn.
    budget: usize,
    /// Its part of [`Collected::planned`].
    planned: Range<usize>,
    /// Slices of its write; none when all that was planned has expired.
    slices: usize,
    /// Bytes of plaintext that were sealed for this write, if it is of sealed bytes.
    sealed: Option<usize>,
}

impl Collected {
    pub(super) fn is_empty(&self) -> bool {
        self.owed.is_empty()
    }

    fn clear(&mut self) {
        self.owed.clear();
        self.planned.clear();
        self.visits = 0;
        self.bytes = 0;
    }
}

impl<N: Net> Worker<N> {
    pub(super) fn flush(&mut self) {
        let start = self.net.now();
        self.flush_listed(start);
        // The walks have their own half of the slice, so that a long list cannot hold them up for
        // ever.
        let start = self.net.now();
        self.walk(start);
        // Whoever is left on the list takes more than its turn allows and is still to be given it.
        // It asks the log when the walks hold too much.
        if self.to_flush.is_empty() || self.hub.is_full() {
            self.hub.release_walked();
        }
        if !self.to_flush.is_empty() || self.hub.is_walking() {
            self.parts.metrics.flush_budget_exhausted.increment();
        }
    }

    /// Flushes the conns that were on the list when the phase began.
    fn flush_listed(&mut self, start: Now) {
        let mut left = self.to_flush.len();
        while left > 0 {
            while left > 0 && !self.is_batch_full() {
                left -= 1;
                let Some(id) = self.to_flush.pop_front() else {
                    break;
                };
                if let Some(slot) = self.slot(id) {
                    slot.is_listed_to_flush = false;
                    self.visit(id);
                }
            }
            self.write_collected();
            if self.is_slice_over(start) {
                return;
            }
        }
    }

    /// Goes on with the walks over channels whose subscribers are behind.
    fn walk(&mut self, start: Now) {
        self.awaits_walk = self.hub.is_walking() && !self.net.may_walk();
        let mut is_over = self.awaits_walk;
        while !is_over {
            let mut ended = Vec::new();
            while !is_over && !self.is_batch_full() {
                match self.hub.visit() {
                    Visit::Nobody => is_over = true,
                    Visit::Subscriber(slot) => {
                        if let Some(id) = self.id_in(slot) {
                            self.visit(id);
                        }
                    }
                    Visit::WalkDone(started) => {
                        self.scratch.collected.visits += 1;
                        ended.push(started);
                    }
                }
            }
            self.write_collected();
            ended
                .into_iter()
                .for_each(|started| self.show_walk(started));
            is_over |= self.is_slice_over(start);
        }
        self.net.rest_from_walk(self.hub.is_walking());
    }

    fn show_walk(&self, started: Now) {
        let took = self.net.now().since(started);
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.parts.metrics.walks.increment();
        self.parts.metrics.walk_last_us.set(took);
    }

    fn is_slice_over(&self, start: Now) -> bool {
        self.net.now().since(start).as_micros() >= u128::from(FLUSH_SLICE_US_MAX / 2)
    }

    fn is_batch_full(&self) -> bool {
        let Collected { visits, bytes, .. } = self.scratch.collected;
        visits >= self.net.batch_writes_max() || bytes >= BATCH_WRITE_BYTES_MAX
    }

    /// Collects what one conn is owed, up to its budget.
    fn visit(&mut self, id: ConnId) {
        self.scratch.collected.visits += 1;
        let budget = self.parts.config.quota.write_bytes_per_turn as usize;
        // A subscriber of two channels may come twice, and its write has what both owe it.
        if self.slot(id).is_none_or(|slot| !slot.has_write_collected) {
            self.serve(id, budget);
        }
    }

    /// Collects a write for a conn; or, when nothing is owed or its socket takes nothing, holds it
    /// to its quota.
    fn serve(&mut self, id: ConnId, budget: usize) {
        match self.slot(id).and_then(|slot| slot.conn.serving()) {
            Some(kind @ FrameKind::Poll(_)) => self.answer_if_owed(id, kind),
            Some(_) => self.tell_gaps(id),
            None => {}
        }
        if !self.collect(id, budget) {
            self.hold_to_quota(id);
        }
        // The log has evicted it while the conn was served: the next time tells of the gap.
        if self.hub.take_found_loss() {
            self.list_to_serve(id);
        }
    }

    /// False if there is nothing to write.
    fn collect(&mut self, id: ConnId, budget: usize) -> bool {
        let Self {
            conns,
            hub,
            scratch,
            filters,
            now,
            ..
        } = self;
        let Some(slot) = conns.get_mut(id.slot as usize) else {
            return false;
        };
        if slot.generation != id.generation || slot.is_closing || !slot.is_writable {
            return false;
        }
        let is_sealed = filters.has(id.slot);
        // Nothing is sealed on top of what the socket has not taken.
        let is_ahead = is_sealed && !filters.unsent(id.slot).is_empty();
        if is_sealed && !is_ahead && filters.is_shaking(id.slot) {
            return false;
        }
        // What a poll is given is a part of its answer, and comes from its outbox.
        let is_poll = |kind: &FrameKind| matches!(kind, FrameKind::Poll(_));
        let kind = slot.conn.serving();
        let kind = kind.filter(|kind| !is_ahead && !is_poll(kind));
        let own_bytes = match is_ahead {
            true => 0,
            false => slot.conn.outbox().bytes(),
        };
        let planned = &mut scratch.planned;
        planned.clear();
        if let Some(kind) = kind
            && own_bytes < budget
        {
            let encoder = &mut scratch.encoder;
            hub.plan(id.slot, kind, *now, budget - own_bytes, encoder, planned);
        }
        if own_bytes == 0 && planned.is_empty() && !is_ahead {
            return false;
        }
        let sealed = is_sealed.then(|| match is_ahead {
            true => 0,
            false => {
                let slices = to_write(&slot.conn, hub, planned);
                filters.seal(id.slot, slices, budget)
            }
        });
        slot.has_write_collected = true;
        let collected = &mut scratch.collected;
        let begin = collected.planned.len();
        collected.planned.extend_from_slice(planned);
        collected.bytes += own_bytes + planned.iter().map(|step| step.length).sum::<usize>();
        collected.owed.push(Owed {
            id,
            budget,
            planned: begin..collected.planned.len(),
            slices: 0,
            sealed,
        });
        true
    }

    /// Writes what has been collected, and what the same conns are owed after that.
    fn write_collected(&mut self) {
        while !self.scratch.collected.owed.is_empty() {
            let next = std::mem::take(&mut self.scratch.collected_next);
            let mut batch = std::mem::replace(&mut self.scratch.collected, next);
            let mut outcomes = std::mem::take(&mut self.scratch.outcomes);
            self.write(&mut batch, &mut outcomes);
            let mut left = outcomes.drain(..);
            for owed in &batch.owed {
                let outcome = match owed.slices {
                    0 => WriteOutcome::Wrote {
                        count: 0,
                        is_blocked: false,
                    },
                    // Each write has its outcome.
                    _ => left.next().unwrap_or(WriteOutcome::Failed),
                };
                let planned = batch.planned.get(owed.planned.clone()).unwrap_or_default();
                self.note(owed, planned, outcome);
            }
            drop(left);
            batch.clear();
            self.scratch.collected_next = batch;
            self.scratch.outcomes = outcomes;
        }
        self.scratch.collected.clear();
        self.hub.release_planned();
    }

    /// For each conn one vectored write: the rest of a frame, control bytes, then frames from the
    /// log.
    fn write(&mut self, batch: &mut Collected, outcomes: &mut Vec<WriteOutcome>) {
        let Self {
            conns,
            hub,
            net,
            filters,
            ..
        } = self;
        let Collected { owed, planned, .. } = batch;
        let mut slices = Vec::with_capacity(planned.len() + 2 * owed.len());
        for one in owed.iter_mut() {
            let Some(slot) = conns.get(one.id.slot as usize) else {
                continue;
            };
            let begin = slices.len();
            if one.sealed.is_some() {
                let unsent = Some(filters.unsent(one.id.slot));
                slices.extend(unsent.filter(|unsent| !unsent.is_empty()).map(IoSlice::new));
            } else {
                let steps = planned.get(one.planned.clone()).unwrap_or_default();
                slices.extend(to_write(&slot.conn, hub, steps).map(IoSlice::new));
            }
            one.slices = slices.len() - begin;
        }
        let mut rest = slices.as_slice();
        let writes = owed.iter().filter(|one| one.slices > 0).filter_map(|one| {
            let socket = &conns.get(one.id.slot as usize)?.socket;
            let (slices, others) = rest.split_at_checked(one.slices)?;
            rest = others;
            Some(Write { socket, slices })
        });
        let writes: Vec<_> = writes.collect();
        net.write_batch(&writes, outcomes);
        debug_assert_eq!(writes.len(), outcomes.len());
    }

    /// Takes in what became of one write, and goes on with the same conn if there is more.
    fn note(&mut self, owed: &Owed, planned: &[Planned], outcome: WriteOutcome) {
        let id = owed.id;
        if let Some(slot) = self.conns.get_mut(id.slot as usize) {
            slot.has_write_collected = false;
        }
        self.parts.metrics.writes.increment();
        let written = match outcome {
            WriteOutcome::Failed => {
                self.close(id, CloseReason::PeerGone);
                Written::Finished
            }
            WriteOutcome::TimedOut => {
                self.close(id, CloseReason::Idle);
                Written::Finished
            }
            WriteOutcome::Wrote { count, is_blocked } => {
                self.parts.metrics.sent_bytes.add(count as u64);
                if owed.sealed.is_some() {
                    self.note_sealed(id, count);
                }
                // What is sealed counts as written.
                let count = owed.sealed.unwrap_or(count);
                let written = self.note_written(owed, planned, count, is_blocked);
                if owed.sealed.is_some() {
                    self.end_sealed(id);
                }
                written
            }
        };
        match written {
            Written::More(count) if count < owed.budget => self.serve(id, owed.budget - count),
            Written::More(_) => {
                self.list_to_serve(id);
                self.hold_to_quota(id);
            }
            Written::Finished => self.hold_to_quota(id),
        }
    }

    /// Moves outbox and cursor by what the socket took.
    fn note_written(
        &mut self,
        owed: &Owed,
        planned: &[Planned],
        count: usize,
        is_blocked: bool,
    ) -> Written {
        let Self {
            conns,
            hub,
            running,
            parts,
            filters,
            ..
        } = self;
        let id = owed.id;
        let Some(slot) = conns.get_mut(id.slot as usize) else {
            return Written::Finished;
        };
        if is_blocked {
            slot.is_writable = false;
            parts.metrics.writes_blocked.increment();
        }
        if count > 0 {
            slot.conn.handle_written(running.now(), false);
        }
        let had_own = !slot.conn.outbox().is_empty();
        let held = slot.conn.outbox().oldest_held();
        let drained = slot.conn.outbox_mut().drain(count);
        let is_own_done = slot.conn.outbox().is_empty();
        parts.metrics.deliveries.add(drained.delivered);
        if is_own_done && !planned.is_empty() {
            let advanced = hub.advance(id.slot, planned, drained.left);
            parts.metrics.deliveries.add(advanced.delivered);
            if let Some((publication, written)) = advanced.begun {
                slot.conn.outbox_mut().keep_rest(publication, written);
            }
        }
        let has_more = !slot.conn.outbox().is_empty();
        let is_drained = filters.has_sent_own(id.slot, had_own && is_own_done, has_more);
        self.note_held(id, held);
        if is_drained {
            self.call(id, |conn, out, context| conn.handle_drained(out, context));
        }
        if had_own || is_drained {
            self.list_to_read(id);
        }
        if is_blocked {
            Written::Finished
        } else {
            Written::More(count)
        }
    }

    /// Tells the conn what it will not be given, ahead of what it will, and how far it then is.
    fn tell_gaps(&mut self, id: ConnId) {
        let is_writable = self.slot(id).is_some_and(|slot| slot.is_writable);
        let mut has_told = false;
        while is_writable && let Some((channel, gap)) = self.hub.take_gap(id.slot) {
            has_told = true;
            self.call(id, |conn, out, context| {
                conn.handle_gap(&channel, &gap, out, context);
            });
        }
        if !has_told {
            return;
        }
        let reached = self.hub.reached(id.slot);
        // Gaps of what the log has evicted meanwhile are sent before a position is named. In a
        // newer epoch it may not have told what is next.
        if !self.hub.has_loss(id.slot) && self.hub.is_in_newest_epoch() {
            self.call(id, |conn, out, context| {
                conn.handle_gaps_sent(reached, out, context);
            });
        }
    }

    fn hold_to_quota(&mut self, id: ConnId) {
        // It is the worker that makes such a poll wait.
        if self.awaits_answer(id) {
            return;
        }
        match self.hub.enforce(id.slot, self.now) {
            Verdict::Within => {}
            Verdict::Skipped(count) => self.parts.metrics.skipped.add(count),
            Verdict::Overflow => {
                self.call(id, |conn, out, context| conn.handle_overflow(out, context));
                self.list_to_read(id);
            }
        }
        self.end_if_served(id);
    }
}

/// What a conn is owed, in order: its own bytes, then frames of the log.
fn to_write<'a>(
    conn: &'a Conn,
    hub: &'a Hub,
    steps: &'a [Planned],
) -> impl Iterator<Item = &'a [u8]> {
    let given = steps.iter().filter(|step| step.length > 0);
    let frames = given.map(|step| hub.frame(step));
    let own = conn.outbox().slices();
    own.chain(frames.filter(|frame| !frame.is_empty()))
}
