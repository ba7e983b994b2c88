//! reap: frees the slots of conns that were closed in this turn, and updates the gauges.
//!
//! Conns are freed only here, so during the other phases a slot is never reused. The next conn in a
//! slot has a new generation number. So a late readiness report for the old conn is recognised and
//! dropped.

use super::Worker;
use super::wire::net::Net;

impl<N: Net> Worker<N> {
    pub(super) fn reap(&mut self) {
        let mut reaped = std::mem::take(&mut self.reaped);
        reaped.clear();
        reaped.append(&mut self.to_reap);
        for &(id, reason) in &reaped {
            let Some(slot) = self.conns.remove(id.slot as usize) else {
                debug_assert!(false, "{id:?} was freed twice");
                continue;
            };
            debug_assert_eq!(slot.generation, id.generation);
            self.leave_all(id, slot.conn.is_stream());
            self.forget_held(id.slot, slot.conn.outbox());
            self.end_access_record(id, reason);
            slot.conn.handle_closed(&self.parts.metrics);
            self.filters.remove(id.slot);
            if let Some(peer) = self.take_peer(id.slot) {
                self.release_peer(peer);
            }
            self.pending.forget_subscribes_by(id.slot);
            self.rates.forget(id.slot);
            // A descriptor is free again, so the worker may accept connections again.
            self.accepting.paused_until = None;
            self.wheel.disarm(id.slot);
            self.memory_trim.note(self.now);
            self.parts.metrics.conns_open.decrement();
            let (conns, worker) = (&self.parts.listener_conns, self.parts.number);
            conns.remove(worker, slot.listener);
            self.parts.metrics.closed(reason).increment();
            tracing::debug!(
                worker = self.parts.number,
                slot = id.slot,
                reason = reason.label(),
                "closed"
            );
        }
        self.reaped = reaped;
        self.trim_memory();
        self.update_gauges();
    }

    /// Updates the gauges. This is done at the end of the turn, because the worker may then sleep
    /// for a long time.
    fn update_gauges(&self) {
        let metrics = &self.parts.metrics;
        metrics.conns_pending.set(self.pending.silent().into());
        metrics.tls_conns_open.set(self.filters.count());
        metrics.subscribers.set(self.hub.subscriber_count());
        metrics.wakes.set(self.parts.inbox.wakes());
        metrics.conflated.set(self.hub.conflated_total());
        let deflated = self.scratch.compressor.deflated();
        metrics.frames_deflated.set(deflated.frames);
        metrics.deflated_from_bytes.set(deflated.plain_bytes);
        metrics.deflated_to_bytes.set(deflated.deflated_bytes);
    }
}
