//! expire: timers that are due go to their conns; what the log's bounds no longer allow is evicted.
//!
//! While the server drains, a conn's timer means that its goodbye is due.

use super::Worker;
use super::net::Net;
use crate::config::limits::{EVICTIONS_PER_TURN_MAX, EXPIRES_PER_TURN_MAX};
use crate::conn::Standing;
use crate::effect::CloseReason;
use crate::id::ConnId;

impl<N: Net> Worker<N> {
    pub(super) fn expire(&mut self) {
        self.resume_reads();
        let mut fired = std::mem::take(&mut self.scratch.fired);
        if !self
            .wheel
            .expire(self.now, EXPIRES_PER_TURN_MAX, &mut fired)
        {
            self.parts.metrics.expire_budget_exhausted.increment();
        }
        for slot in fired.drain(..) {
            if let Some(id) = self.id_in(slot) {
                self.expire_conn(id);
            }
        }
        self.scratch.fired = fired;
        self.cut_off_the_rest();
        let evicted = self.hub.evict(self.now, EVICTIONS_PER_TURN_MAX);
        self.parts.metrics.evicted.add(u64::from(evicted));
    }

    fn expire_conn(&mut self, id: ConnId) {
        if self.end_silent(id) {
            return;
        }
        let is_paused = self.rates.is_paused(id.slot);
        let now = self.now;
        let is_behind = self.hub.is_behind(id.slot) || self.owes_below(id.slot);
        let has_all = !self.hub.is_ahead(id.slot) && !self.hub.is_held_back(id.slot);
        let is_draining = self.draining.is_some();
        let Some(slot) = self.slot(id) else { return };
        if is_paused {
            // What it may have said is not read yet.
            slot.conn.handle_resumed(now);
        }
        let is_waiting = is_behind || !slot.conn.outbox().is_empty();
        let standing = if is_waiting && !slot.is_writable {
            Standing::Blocked
        } else if is_waiting || !has_all {
            Standing::Serving
        } else {
            Standing::CaughtUp
        };
        let is_goodbye = is_draining && !slot.conn.is_ending();
        self.call(id, |conn, out, context| {
            if is_goodbye {
                conn.handle_shutdown(out, context);
            } else {
                conn.handle_timeout(standing, out, context);
            }
        });
        // A conn that has been told goodbye is read again, whatever it leaves unread itself.
        self.list_to_read(id);
    }

    /// The window for draining is over: whoever is left is closed.
    fn cut_off_the_rest(&mut self) {
        if self
            .draining
            .is_some_and(|draining| self.now.has_reached(draining.end))
        {
            let ids: Vec<ConnId> = self
                .conns
                .iter()
                .filter_map(|(key, slot)| {
                    Some(ConnId {
                        slot: u32::try_from(key).ok()?,
                        generation: slot.generation,
                    })
                })
                .collect();
            for id in ids {
                self.close(id, CloseReason::Shutdown);
            }
        }
    }
}
