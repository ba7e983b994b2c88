//! readiness: waits for readiness reports, and stores the readiness in the slots of conns.
//!
//! The poll does not wait while work is left from the last turn. A report may arrive for a conn
//! that was freed. The id in the report then has an old generation number, and the report is
//! dropped.

use std::time::Duration;

use super::Worker;
use super::wire::net::{Net, Readiness};
use crate::config::limits::LATE_ENTRIES_WAIT_MS;
use crate::id::ConnId;
use crate::time::Now;

impl<N: Net> Worker<N> {
    pub(super) fn poll(&mut self) {
        let (timeout, idle_since) = self.poll_timeout();
        let mut readiness = std::mem::take(&mut self.scratch.readiness);
        self.round.begin();
        let polled = self.net.poll(timeout, &mut readiness);
        let (before, now) = (self.now, self.net.now());
        self.record_turn(idle_since, now);
        self.now = now;
        self.follow_epoch();
        self.catch_up();
        if self.running.advance(self.now, timeout) {
            self.parts.metrics.turns_late.increment();
            self.warn_late(self.now.since(before), timeout);
        }
        let mut reports = 0;
        for report in readiness.drain(..) {
            match report {
                // Connections are not accepted during a drain, so the listener's bit in `ready`
                // would never be cleared.
                Readiness::Listener(_) if self.draining.is_some() => {}
                Readiness::Listener(listener) => {
                    reports += 1;
                    self.accepting.ready |= 1 << (listener % 64);
                }
                Readiness::Conn {
                    id,
                    is_readable,
                    is_writable,
                    is_read_closed,
                } => {
                    let Some(slot) = self.slot(id) else {
                        self.parts.metrics.stale_readiness.increment();
                        continue;
                    };
                    reports += 1;
                    slot.is_readable |= is_readable || is_read_closed;
                    slot.is_read_closed |= is_read_closed;
                    let was_full = is_writable && !slot.is_writable;
                    slot.is_writable |= is_writable;
                    if is_writable {
                        self.note_writable(id, was_full);
                    }
                    self.list_to_read(id);
                }
            }
        }
        self.scratch.readiness = readiness;
        let sockets = self.conns.len() + self.net.listener_count() as usize;
        self.round
            .note_polled(polled, reports, sockets, &self.to_read);
    }

    /// Records how long the last turn worked and how long the poll has waited, until `now`. If the
    /// poll did not wait, the clock was not read before it. Then the poll itself counts as work.
    fn record_turn(&self, idle_since: Option<Now>, now: Now) {
        let metrics = &self.parts.metrics;
        let worked = idle_since.unwrap_or(now).micros_since(self.now);
        metrics.turn_us.record(worked);
        if let Some(idle_since) = idle_since {
            metrics.wait_us.record(now.micros_since(idle_since));
        }
    }

    /// Returns how long the poll may wait: zero while work is left, otherwise the time until the
    /// next deadline. Also returns the current time, unless work is left.
    fn poll_timeout(&self) -> (Option<Duration>, Option<Now>) {
        let has_order = self.draining.is_none() && self.parts.inbox.drain_order().is_some();
        let has_mail = self.batch.len() > 0 || !self.parts.inbox.is_empty();
        let has_work = !self.to_read.is_empty()
            || !self.to_flush.is_empty()
            || self.filters.has_pending_handshakes()
            || self.parts.upstream.has_released()
            || self.round.is_awaited()
            || has_order
            || self.has_survey()
            || self.hub.has_old_rules()
            || self.holders.has_next()
            || self.may_have_too_many_silent()
            || (self.hub.is_walking() && !self.awaits_fanout)
            || ((has_mail || !self.to_answer.is_empty())
                && !(self.is_batch_held && self.awaits_fanout))
            || (self.accepting.ready != 0 && self.accepting.paused_until.is_none());
        if has_work {
            return (Some(Duration::ZERO), None);
        }
        let now = self.net.now();
        let due = [
            self.accepting.paused_until,
            self.draining.map(|draining| draining.end),
            self.leaving.due(),
            self.memory_trim.due(),
            self.rates.due(),
            self.keys_due(),
        ];
        let due = due.into_iter().flatten().min();
        let timer = self.wheel.next_deadline();
        let waits = [
            due.map(|deadline| deadline.remaining(now)),
            timer.map(|deadline| deadline.remaining(self.running.at(now))),
            (!self.conns.is_empty()).then_some(self.running.sleep_max()),
            // The log may have entries that are older than the first subscriber of their channel on
            // this worker. The feed does not send them to this worker. The hub accepts them when
            // its head has passed them. No message wakes the worker then, because the feed may send
            // the next publications only to other workers.
            self.hub
                .has_late()
                .then_some(Duration::from_millis(LATE_ENTRIES_WAIT_MS)),
        ];
        (waits.into_iter().flatten().min(), Some(now))
    }

    /// Called when a conn's socket is writable. Lists the conn for flush if bytes or publications
    /// are pending for the conn. `was_full` is true if the socket was not writable before.
    fn note_writable(&mut self, id: ConnId, was_full: bool) {
        let now = self.running.now();
        let is_behind = self.hub.is_behind(id.slot) || self.filters.has_unsent(id.slot);
        let Some(slot) = self.slot(id) else { return };
        if was_full {
            // The send buffer was full and has room now, so the peer has received bytes.
            slot.conn.handle_written(now, true);
        }
        if is_behind || !slot.conn.outbox().is_empty() {
            self.list_to_serve(id);
        }
    }
}
