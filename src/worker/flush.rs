//! flush: conns that are behind or have bytes of their own: gather frames from the cursor, one
//! vectored write, move the cursor, hold to the quota.
//!
//! Resumable. A broadcast to half a million subscribers takes seconds of system calls, so both the
//! list of conns and the walks over channels yield after a slice of time and go on in the next
//! turn; publications that arrive meanwhile leave in the same write as the older ones. The only
//! place that writes to a socket.

use std::io::IoSlice;
use std::sync::Arc;

use super::Worker;
use super::net::{Net, WriteOutcome};
use crate::config::limits::{FLUSH_SLICE_US_MAX, FLUSH_VISITS_PER_CLOCK, GATHER_SLICES_MAX};
use crate::effect::CloseReason;
use crate::frame::FrameKind;
use crate::hub::{Verdict, Visit};
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

impl<N: Net> Worker<N> {
    pub(super) fn flush(&mut self) {
        let start = self.net.now();
        self.flush_listed(start);
        // The walks have their own half of the slice, so that a long list cannot hold them up for
        // ever.
        let start = self.net.now();
        self.walk(start);
        if !self.to_flush.is_empty() || self.hub.is_walking() {
            self.parts.metrics.flush_budget_exhausted.increment();
        }
    }

    /// Flushes the conns that were on the list when the phase began.
    fn flush_listed(&mut self, start: Now) {
        for visit in 0..self.to_flush.len() {
            if self.is_slice_over(start, visit) {
                return;
            }
            let Some(id) = self.to_flush.pop_front() else {
                return;
            };
            if let Some(slot) = self.slot(id) {
                slot.is_listed_to_flush = false;
                self.flush_conn(id);
            }
        }
    }

    /// Goes on with the walks over channels whose subscribers are behind.
    fn walk(&mut self, start: Now) {
        let mut visit = 0;
        while !self.is_slice_over(start, visit) {
            visit += 1;
            match self.hub.visit() {
                Visit::Nobody => return,
                Visit::Subscriber(slot) => {
                    if let Some(id) = self.id_in(slot) {
                        self.flush_conn(id);
                    }
                }
                Visit::WalkDone(started) => {
                    let took = self.net.now().since(started);
                    let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
                    self.parts.metrics.walks.increment();
                    self.parts.metrics.walk_last_us.set(took);
                }
            }
        }
    }

    fn is_slice_over(&self, start: Now, visit: usize) -> bool {
        visit % FLUSH_VISITS_PER_CLOCK == FLUSH_VISITS_PER_CLOCK - 1
            && self.net.now().since(start).as_micros() >= u128::from(FLUSH_SLICE_US_MAX / 2)
    }

    /// Writes what one conn is owed, up to its budget, then holds it to its quota.
    fn flush_conn(&mut self, id: ConnId) {
        let mut budget = self.parts.config.quota.write_bytes_per_turn as usize;
        loop {
            self.tell_gaps(id);
            match self.write_once(id, budget) {
                Written::Finished => break,
                Written::More(count) if count < budget => budget -= count,
                Written::More(_) => {
                    self.list_to_serve(id);
                    break;
                }
            }
        }
        self.hold_to_quota(id);
    }

    /// One vectored write: the rest of a frame, control bytes, then frames from the log.
    fn write_once(&mut self, id: ConnId, budget: usize) -> Written {
        let Self {
            conns,
            hub,
            net,
            scratch,
            now,
            parts,
            ..
        } = self;
        let Some(slot) = conns.get_mut(id.slot as usize) else {
            return Written::Finished;
        };
        if slot.generation != id.generation || slot.is_closing || !slot.is_writable {
            return Written::Finished;
        }
        let kind = slot.conn.serving();
        let own = slot.conn.outbox().slices();
        let own_bytes = own[0].len() + own[1].len();
        scratch.planned.clear();
        if let Some(kind) = kind
            && own_bytes < budget
        {
            let (encoder, planned) = (&mut scratch.encoder, &mut scratch.planned);
            hub.plan(id.slot, kind, *now, budget - own_bytes, encoder, planned);
        }
        if own_bytes == 0 && scratch.planned.is_empty() {
            return Written::Finished;
        }
        let mut slices = [IoSlice::new(&[]); GATHER_SLICES_MAX + 2];
        let frames = scratch.planned.iter().map(|step| match kind {
            Some(kind) if step.length > 0 => hub.frame(step.sequence, kind),
            _ => &[],
        });
        let mut used = 0;
        let pieces = own
            .into_iter()
            .chain(frames)
            .filter(|piece| !piece.is_empty());
        for (slice, piece) in slices.iter_mut().zip(pieces) {
            *slice = IoSlice::new(piece);
            used += 1;
        }
        let outcome = match slices.get(..used) {
            Some(slices) if used > 0 => net.write(&mut slot.socket, slices),
            _ => WriteOutcome::Wrote {
                count: 0,
                is_blocked: false,
            },
        };
        parts.metrics.writes.increment();
        match outcome {
            WriteOutcome::Failed => {
                self.close(id, CloseReason::PeerGone);
                Written::Finished
            }
            WriteOutcome::TimedOut => {
                self.close(id, CloseReason::Idle);
                Written::Finished
            }
            WriteOutcome::Wrote { count, is_blocked } => {
                self.note_written(id, kind, count, is_blocked)
            }
        }
    }

    /// Moves outbox and cursor by what the socket took.
    fn note_written(
        &mut self,
        id: ConnId,
        kind: Option<FrameKind>,
        count: usize,
        is_blocked: bool,
    ) -> Written {
        let Self {
            conns,
            hub,
            scratch,
            now,
            parts,
            ..
        } = self;
        let Some(slot) = conns.get_mut(id.slot as usize) else {
            return Written::Finished;
        };
        parts.metrics.sent_bytes.add(count as u64);
        if is_blocked {
            slot.is_writable = false;
            parts.metrics.writes_blocked.increment();
        }
        if count > 0 {
            slot.conn.handle_written(*now, false);
        }
        let had_own = !slot.conn.outbox().is_empty();
        let drained = slot.conn.outbox_mut().drain(count);
        let is_own_done = slot.conn.outbox().is_empty();
        parts
            .metrics
            .deliveries
            .add(u64::from(drained.has_delivered));
        if is_own_done && !scratch.planned.is_empty() {
            let advanced = hub.advance(id.slot, &scratch.planned, drained.left);
            parts.metrics.deliveries.add(advanced.delivered);
            if let (Some((publication, written)), Some(kind)) = (advanced.begun, kind) {
                slot.conn
                    .outbox_mut()
                    .keep_rest(Arc::clone(&publication), kind, written);
            }
        }
        if had_own && is_own_done {
            self.call(id, |conn, out, context| conn.handle_drained(out, context));
        }
        if had_own {
            self.list_to_read(id);
        }
        if is_blocked {
            Written::Finished
        } else {
            Written::More(count)
        }
    }

    /// Tells the conn what it will not be given, ahead of what it will.
    fn tell_gaps(&mut self, id: ConnId) {
        let serves = self
            .slot(id)
            .is_some_and(|slot| slot.is_writable && slot.conn.serving().is_some());
        while serves && let Some((channel, gap)) = self.hub.take_gap(id.slot) {
            self.call(id, |conn, out, context| {
                conn.handle_gap(&channel, &gap, out, context);
            });
        }
    }

    fn hold_to_quota(&mut self, id: ConnId) {
        match self.hub.enforce(id.slot, self.now) {
            Verdict::Within => {}
            Verdict::Skipped(count) => self.parts.metrics.skipped.add(count),
            Verdict::Overflow => {
                self.call(id, |conn, out, context| conn.handle_overflow(out, context));
                self.list_to_read(id);
            }
        }
    }
}
