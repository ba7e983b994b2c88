//! flush: writes pending bytes to conns. No other module writes to the sockets of conns.
//!
//! For each conn, one vectored write contains the conn's own bytes, then the frames of the
//! publications after the conn's cursors. The bytes that the socket accepted are then removed from
//! the outbox, and the cursors advance. Then the conn's quota is enforced.
//!
//! Writes are collected and submitted as a batch, so that one system call can do many writes. Their
//! results are processed one by one. Until the batch is done, the memory that a write refers to
//! does not change. So outboxes and cursors change only before and after a batch, and no conn is in
//! a batch twice. The hub keeps the entries in memory even if the log evicts them.
//!
//! A conn is written to in two cases. It is in the list of conns for flush, or the hub reports it
//! as a subscriber of a channel with a new publication. The system calls for a publication to half
//! a million subscribers take seconds. So each of the two loops stops after a time slice and
//! continues in the next turn. If another publication arrives meanwhile, one write sends both.

use std::io::IoSlice;
use std::ops::Range;

use super::lists::List;
use super::wire::net::{Net, Write, WriteOutcome};
use super::wire::tls::Sealing;
use super::{Scratch, Worker};
use crate::certain;
use crate::config::limits::{BATCH_WRITE_BYTES_MAX, FLUSH_SLICE_US_MAX};
use crate::conn::Conn;
use crate::effect::CloseReason;
use crate::frame::FrameKind;
use crate::hub::{Hub, Planned, QuotaOutcome, Visit, WalkTimes};
use crate::id::ConnId;
use crate::metrics::WorkerMetrics;
use crate::time::Now;
use crate::transport::{Goodbye, StreamEvent};
use crate::warnings::WarningKind;

/// The writes of one batch.
#[derive(Debug, Default)]
pub(super) struct Collected {
    writes: Vec<PendingWrite>,
    /// The publications of all writes of the batch, in the order of the writes.
    planned: Vec<Planned>,
    /// The number of conns that were visited for this batch, including those without a write.
    visits: usize,
    bytes: usize,
}

/// One write of the batch.
#[derive(Debug)]
struct PendingWrite {
    id: ConnId,
    /// The bytes that may still be written to the conn in this turn.
    budget: usize,
    /// The range of [`Collected::planned`] that belongs to this write.
    planned: Range<usize>,
    /// The number of slices to write. Zero if all planned publications have expired.
    slices: usize,
    /// Over TLS, the number of plaintext bytes that were encrypted for this write.
    plaintext: Option<usize>,
}

impl Collected {
    pub(super) fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    fn clear(&mut self) {
        self.writes.clear();
        self.planned.clear();
        self.visits = 0;
        self.bytes = 0;
    }
}

impl<N: Net> Worker<N> {
    pub(super) fn flush(&mut self) {
        let begin = self.net.now();
        let has_work = !self.to_flush.is_empty() || self.hub.is_walking();
        self.flush_listed(begin);
        // Each of the two loops gets half of the time slice, so that neither delays the other.
        let start = self.net.now();
        let end = self.walk(start);
        if has_work {
            let took = end.micros_since(begin);
            self.parts.metrics.flush_us.record(took);
        }
        // After the subscribers of a channel were visited, the hub still holds the entries, because
        // the conns in `to_flush` may need them. The entries are released when `to_flush` is empty.
        // If the hub holds too many bytes, they are released earlier, and these conns read the log
        // instead.
        if self.to_flush.is_empty() || self.hub.is_full() {
            self.hub.release_walked();
        }
        if !self.to_flush.is_empty() || self.hub.is_walking() {
            self.parts.metrics.flush_budget_exhausted.increment();
        }
    }

    /// Writes to the conns that were in the list when the phase began.
    fn flush_listed(&mut self, start: Now) {
        let mut left = self.to_flush.len();
        while left > 0 {
            while left > 0 && !self.is_batch_full() {
                left -= 1;
                let Some(id) = self.to_flush.pop_front() else {
                    break;
                };
                if let Some(slot) = self.slot(id) {
                    slot.lists.remove(List::Flush);
                    self.visit(id);
                }
            }
            self.write_collected();
            if is_slice_over(start, self.net.now()) {
                return;
            }
        }
    }

    /// Writes to the subscribers of channels with new publications, until the time slice is over.
    /// Returns the time of the last reading of the clock.
    fn walk(&mut self, start: Now) -> Now {
        let mut now = start;
        self.awaits_fanout = self.hub.is_walking() && !self.net.may_fan_out();
        let mut is_over = self.awaits_fanout;
        while !is_over {
            let mut ended = Vec::new();
            while !is_over && !self.is_batch_full() {
                match self.hub.visit() {
                    Visit::Done => is_over = true,
                    Visit::Subscriber(slot) => {
                        if let Some(id) = self.id_in(slot) {
                            self.visit(id);
                        }
                    }
                    Visit::WalkDone(times) => {
                        self.scratch.collected.visits += 1;
                        ended.push(times);
                    }
                }
            }
            self.write_collected();
            now = self.net.now();
            self.note_traced_walks(now);
            for times in ended {
                self.record_walk(times, now);
            }
            is_over |= is_slice_over(start, now);
        }
        self.net.yield_fanout(self.hub.is_walking());
        now
    }

    fn record_walk(&self, times: WalkTimes, now: Now) {
        let metrics = &self.parts.metrics;
        metrics.walks.increment();
        metrics.walk_last_us.set(now.micros_since(times.started));
        metrics.fanout_us.record(now.micros_since(times.published));
    }

    fn is_batch_full(&self) -> bool {
        let Collected { visits, bytes, .. } = self.scratch.collected;
        visits >= self.net.batch_writes_max() || bytes >= BATCH_WRITE_BYTES_MAX
    }

    /// Collects the bytes to write to one conn in this turn. Does nothing if the batch already
    /// contains a write to this conn.
    fn visit(&mut self, id: ConnId) {
        self.scratch.collected.visits += 1;
        let budget = self.parts.config.quota.write_bytes_per_turn as usize;
        // A subscriber of two channels may be visited twice. The first write contains the
        // publications of both channels.
        if self.slot(id).is_none_or(|slot| !slot.has_write_collected) {
            self.serve(id, budget);
        }
    }

    /// Adds a write to the batch, at most `budget` bytes. If there is nothing to write or the
    /// socket is full, enforces the conn's quota instead.
    fn serve(&mut self, id: ConnId, budget: usize) {
        match self.slot(id).and_then(|slot| slot.conn.serving()) {
            Some(kind @ FrameKind::Poll(_)) => self.answer_if_owed(id, kind),
            Some(_) => self.report_gaps(id),
            None => {}
        }
        if !self.collect(id, budget) {
            self.enforce_quota(id);
        }
        // If the log has evicted publications that the conn needs, the conn is visited again and
        // receives the gap.
        if self.hub.take_found_loss() {
            self.list_to_serve(id);
        }
    }

    /// Adds a write to the batch. Returns false if there is nothing to write, if the socket is
    /// full, or during a TLS handshake.
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
        let sealing = filters.sealing(id.slot);
        let bytes = match sealing {
            Sealing::Handshaking => None,
            // The socket has not accepted all encrypted bytes of the last write. More bytes are
            // encrypted only after it has accepted them.
            Sealing::Unsent => {
                scratch.planned.clear();
                Some(0)
            }
            Sealing::Plain | Sealing::Ready => {
                plan(&slot.conn, hub, id.slot, *now, budget, scratch)
            }
        };
        let Some(bytes) = bytes else {
            return false;
        };
        let plaintext = match sealing {
            Sealing::Plain => None,
            Sealing::Handshaking | Sealing::Unsent => Some(0),
            Sealing::Ready => {
                let slices = to_write(&slot.conn, hub, &scratch.planned);
                Some(filters.seal(id.slot, slices, budget))
            }
        };
        slot.has_write_collected = true;
        let collected = &mut scratch.collected;
        let begin = collected.planned.len();
        collected.planned.extend_from_slice(&scratch.planned);
        collected.bytes += bytes;
        collected.writes.push(PendingWrite {
            id,
            budget,
            planned: begin..collected.planned.len(),
            slices: 0,
            plaintext,
        });
        true
    }

    /// Submits the batch and processes the results. Repeats this with a new batch while sockets
    /// accept more bytes and the budgets of their conns are not spent.
    fn write_collected(&mut self) {
        while !self.scratch.collected.is_empty() {
            let next = std::mem::take(&mut self.scratch.collected_next);
            let mut batch = std::mem::replace(&mut self.scratch.collected, next);
            let mut outcomes = std::mem::take(&mut self.scratch.outcomes);
            self.write(&mut batch, &mut outcomes);
            let mut left = outcomes.drain(..);
            for write in &batch.writes {
                let outcome = match write.slices {
                    0 => WriteOutcome::Wrote {
                        count: 0,
                        is_blocked: false,
                    },
                    _ => left.next().unwrap_or_else(|| {
                        debug_assert!(false, "a write of {:?} has no outcome", write.id);
                        WriteOutcome::Failed
                    }),
                };
                self.note(write, part_of(&batch.planned, &write.planned), outcome);
            }
            drop(left);
            batch.clear();
            self.scratch.collected_next = batch;
            self.scratch.outcomes = outcomes;
        }
        self.scratch.collected.clear();
        self.hub.release_planned();
    }

    /// Submits the batch. For each conn, one vectored write contains the rest of a partly written
    /// frame, control bytes, then frames of the log.
    fn write(&mut self, batch: &mut Collected, outcomes: &mut Vec<WriteOutcome>) {
        let Self {
            conns,
            hub,
            net,
            filters,
            ..
        } = self;
        let Collected {
            writes, planned, ..
        } = batch;
        let mut slices = Vec::with_capacity(planned.len() + 2 * writes.len());
        for one in writes.iter_mut() {
            let Some(slot) = conns.get(one.id.slot as usize) else {
                debug_assert!(false, "{:?} was freed before it was written", one.id);
                continue;
            };
            let begin = slices.len();
            if one.plaintext.is_some() {
                let unsent = Some(filters.unsent(one.id.slot));
                slices.extend(unsent.filter(|unsent| !unsent.is_empty()).map(IoSlice::new));
            } else {
                let steps = part_of(planned, &one.planned);
                slices.extend(to_write(&slot.conn, hub, steps).map(IoSlice::new));
            }
            one.slices = slices.len() - begin;
        }
        let mut rest = slices.as_slice();
        let writes = writes.iter().filter(|one| one.slices > 0);
        let writes = writes.filter_map(|one| {
            let socket = &conns.get(one.id.slot as usize)?.socket;
            let (slices, others) = rest.split_at_checked(one.slices)?;
            rest = others;
            Some(Write { socket, slices })
        });
        let writes: Vec<_> = writes.collect();
        net.write_batch(&writes, outcomes);
        debug_assert_eq!(writes.len(), outcomes.len());
    }

    /// Processes the result of one write. If the socket accepts more bytes and the conn's budget is
    /// not spent, adds another write to the next batch.
    fn note(&mut self, write: &PendingWrite, planned: &[Planned], outcome: WriteOutcome) {
        let id = write.id;
        let slot = self.conns.get_mut(id.slot as usize);
        if let Some(slot) = certain::some(slot, "conns are freed only in reap") {
            slot.has_write_collected = false;
        }
        self.parts.metrics.writes.increment();
        match outcome {
            WriteOutcome::Failed => self.close(id, CloseReason::PeerGone),
            WriteOutcome::TimedOut => self.close_unwarned(id, CloseReason::Idle),
            WriteOutcome::Wrote { count, is_blocked } => {
                let taken = self.note_taken(write, planned, count, is_blocked);
                if !is_blocked && taken < write.budget {
                    return self.serve(id, write.budget - taken);
                }
                if !is_blocked {
                    self.list_to_serve(id);
                }
            }
        }
        self.enforce_quota(id);
    }

    /// Records the `count` bytes that the socket accepted. Returns how many bytes of the outbox and
    /// of frames were written. With TLS, all bytes that were encrypted count as written, because
    /// they cannot be encrypted again.
    fn note_taken(
        &mut self,
        write: &PendingWrite,
        planned: &[Planned],
        count: usize,
        is_blocked: bool,
    ) -> usize {
        self.parts.metrics.sent_bytes.add(count as u64);
        self.access_records
            .note_sent(write.id.slot, 0, count as u64);
        let Some(plaintext) = write.plaintext else {
            self.note_written(write.id, planned, count, is_blocked);
            return count;
        };
        self.note_sealed(write.id, count);
        self.note_written(write.id, planned, plaintext, is_blocked);
        self.end_sealed(write.id);
        plaintext
    }

    /// Removes written bytes from the outbox. Then advances the cursors past the publications that
    /// were written.
    fn note_written(&mut self, id: ConnId, planned: &[Planned], bytes: usize, is_blocked: bool) {
        let Self {
            conns,
            hub,
            running,
            parts,
            filters,
            access_records,
            ..
        } = self;
        let Some(slot) = conns.get_mut(id.slot as usize) else {
            return debug_assert!(false, "{id:?} was freed before its write was noted");
        };
        if is_blocked {
            slot.is_writable = false;
            parts.metrics.writes_blocked.increment();
        }
        if bytes > 0 {
            slot.conn.handle_written(running.now(), false);
        }
        let outbox = slot.conn.outbox_mut();
        let had_own = !outbox.is_empty();
        let held = outbox.oldest_held();
        let drained = outbox.drain(bytes);
        let is_own_done = outbox.is_empty();
        parts.metrics.deliveries.add(drained.delivered);
        access_records.note_sent(id.slot, drained.delivered, 0);
        if is_own_done && !planned.is_empty() {
            let advanced = hub.advance(id.slot, planned, drained.left);
            parts.metrics.deliveries.add(advanced.delivered);
            access_records.note_sent(id.slot, advanced.delivered, 0);
            record_lag(planned, advanced.delivered, &parts.metrics);
            if let Some((publication, written)) = advanced.begun {
                outbox.keep_rest(publication, written);
            }
        }
        let has_more = !outbox.is_empty();
        let is_drained = filters.has_sent_own(id.slot, had_own && is_own_done, has_more);
        self.note_held(id, held);
        if is_drained {
            self.call(id, |conn, out, context| conn.handle_drained(out, context));
        }
        if had_own || is_drained {
            self.list_to_read(id);
        }
    }

    /// Sends the pending gap events of a stream before the publications that come after the gaps.
    /// Then sends the position of the stream.
    fn report_gaps(&mut self, id: ConnId) {
        let is_writable = self.slot(id).is_some_and(|slot| slot.is_writable);
        let mut has_gap = false;
        while is_writable && let Some((channel, gap)) = self.hub.take_gap(id.slot) {
            has_gap = true;
            self.warn_of_gap(id, &channel, &gap);
            self.call(id, |conn, out, context| {
                conn.handle_event(StreamEvent::Gap(&channel, &gap), out, context);
            });
        }
        if !has_gap {
            return;
        }
        let reached = self.hub.reached(id.slot);
        // In two cases the position is not sent yet. If the client has lost more publications
        // meanwhile, another gap must be sent first. If the log has switched to a newer epoch,
        // queries of the log may have returned too few entries.
        if !self.hub.has_loss(id.slot) && self.hub.is_in_newest_epoch() {
            self.call(id, |conn, out, context| {
                conn.handle_event(StreamEvent::GapsSent(reached), out, context);
            });
        }
    }

    fn enforce_quota(&mut self, id: ConnId) {
        // The quota of a poll is not enforced while the poll waits for this worker to process mail.
        if self.awaits_answer(id) {
            return;
        }
        match self.hub.enforce(id.slot, self.now) {
            QuotaOutcome::Within => {}
            QuotaOutcome::Skipped(count) => self.parts.metrics.skipped.add(count),
            QuotaOutcome::Overflow => {
                let cause = "closed: it was further behind than its quota";
                self.warn(id, WarningKind::SlowReader, &cause);
                self.call(id, |conn, out, context| {
                    conn.handle_goodbye(Goodbye::Overflow, out, context);
                });
                self.list_to_read(id);
            }
        }
        self.end_if_served(id);
    }
}

/// Whether the time slice of one of the two loops of a flush is over.
fn is_slice_over(start: Now, now: Now) -> bool {
    now.micros_since(start) >= FLUSH_SLICE_US_MAX / 2
}

/// Decides which publications are written to a conn after the bytes of its outbox, within the
/// budget. Returns the number of bytes to write, or `None` if there is nothing to write.
fn plan(
    conn: &Conn,
    hub: &mut Hub,
    slot: u32,
    now: Now,
    budget: usize,
    scratch: &mut Scratch,
) -> Option<usize> {
    let planned = &mut scratch.planned;
    planned.clear();
    let own = conn.outbox().bytes();
    // The publications of a poll's answer are already in the outbox.
    if let Some(kind) = conn.serving()
        && !matches!(kind, FrameKind::Poll(_))
        && own < budget
    {
        hub.plan(
            slot,
            kind,
            now,
            budget - own,
            &mut scratch.compressor,
            planned,
        );
    }
    let bytes = own + planned.iter().map(|step| step.length).sum::<usize>();
    (own > 0 || !planned.is_empty()).then_some(bytes)
}

/// Records the age of the oldest publication of a write, if the write delivered a publication.
pub(super) fn record_lag(planned: &[Planned], delivered: u64, metrics: &WorkerMetrics) {
    if delivered > 0
        && let Some(first) = planned.first()
    {
        metrics.lag_us.record(first.age_us.into());
    }
}

/// Returns the planned publications of one write of a batch.
fn part_of<'a>(planned: &'a [Planned], range: &Range<usize>) -> &'a [Planned] {
    let part = planned.get(range.clone());
    debug_assert!(part.is_some(), "{range:?} of {}", planned.len());
    part.unwrap_or_default()
}

/// Returns the slices of a write, in order: the conn's own bytes, then frames of the log.
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
