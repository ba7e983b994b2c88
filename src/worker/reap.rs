//! reap: frees the slots of conns that ended in this turn and tells hub and wheel.
//!
//! The only place where a conn is freed, so that no other phase ever meets a slot that changed
//! hands under it. A slot's generation is never used again, and readiness that is still on its way
//! finds nobody.

use super::Worker;
use super::net::Net;

impl<N: Net> Worker<N> {
    pub(super) fn reap(&mut self) {
        for (id, reason) in std::mem::take(&mut self.to_reap) {
            let slot = self.conns.remove(id.slot as usize);
            debug_assert_eq!(slot.generation, id.generation);
            slot.conn.handle_closed(&self.parts.metrics);
            self.wheel.disarm(id.slot);
            self.hub.leave(id.slot);
            self.parts.metrics.conns_open.decrement();
            self.parts.metrics.closed(reason).increment();
            tracing::debug!(
                worker = self.parts.number,
                slot = id.slot,
                reason = reason.label(),
                "closed"
            );
        }
    }
}
