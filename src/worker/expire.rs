//! expire: handles the timers of conns.
//!
//! A fired timer is handled at the end of the round that begins after it has fired
//! ([`super::round`]). So bytes that the server has not read yet do not count against the peer.
//! During a drain, a fired timer means that the conn must be sent its goodbye.

use super::Worker;
use super::lists::List;
use super::wire::net::Net;
use crate::certain;
use crate::config::limits::EXPIRES_PER_TURN_MAX;
use crate::conn::SendState;
use crate::id::ConnId;

impl<N: Net> Worker<N> {
    pub(super) fn expire(&mut self) {
        self.resume_reads();
        let mut fired = std::mem::take(&mut self.scratch.fired);
        if !self
            .wheel
            .expire(self.running.now(), EXPIRES_PER_TURN_MAX, &mut fired)
        {
            self.parts.metrics.expire_budget_exhausted.increment();
        }
        for slot in fired.drain(..) {
            if let Some(id) = certain::some(self.id_in(slot), "only conns have timers") {
                self.round.note_fired(id);
            }
        }
        self.scratch.fired = fired;
        self.end_round();
        self.end_acknowledged();
        self.close_remaining();
    }

    /// If a round ([`super::round`]) is over, handles the new conns and the fired timers that
    /// waited for its end.
    fn end_round(&mut self) {
        let handshakes = self.filters.handshake_queue();
        let Some(decisions) = self.round.end(&self.to_read, handshakes) else {
            return;
        };
        for id in &decisions.fired {
            // Bytes that were read during the round may have set a new timer or closed the conn. If
            // so, the old timer is ignored.
            if self.slot(*id).is_some() && !self.wheel.is_armed(id.slot) {
                self.expire_conn(*id);
            }
        }
        for id in &decisions.arrived {
            self.note_silent(*id);
        }
        self.round.reuse(decisions);
        self.crowd_out();
    }

    fn expire_conn(&mut self, id: ConnId) {
        let is_to_be_read = self.is_to_be_read(id);
        if is_to_be_read && self.slot(id).is_some_and(|slot| slot.conn.takes_requests()) {
            // The next read may complete the conn's request. So the timer is handled at the end of
            // the next round. This cannot go on forever, because the length of a request head is
            // limited.
            return self.round.note_fired(id);
        }
        if self.close_unsubscribed(id) {
            return;
        }
        let now = self.running.now();
        let is_behind = self.hub.is_behind(id.slot) || self.filters.has_unsent(id.slot);
        let has_all = !self.hub.is_ahead(id.slot) && !self.hub.is_held_back(id.slot);
        let is_draining = self.draining.is_some();
        let Some(slot) = self.slot(id) else { return };
        if !slot.holds.is_empty() || is_to_be_read {
            // The client may have answered a ping, but the server may not have read the answer yet.
            slot.conn.handle_resumed(now);
        }
        let is_waiting = is_behind || !slot.conn.outbox().is_empty();
        let send_state = if is_waiting && !slot.is_writable {
            SendState::Blocked
        } else if is_waiting || !has_all {
            SendState::Pending
        } else {
            SendState::CaughtUp
        };
        let is_goodbye = is_draining && !slot.conn.is_ending();
        self.call(id, |conn, out, context| {
            if is_goodbye {
                conn.handle_shutdown(out, context);
            } else {
                conn.handle_timeout(send_state, out, context);
            }
        });
        // A conn that was sent a goodbye must be read even if it has too many unsent answers.
        self.list_to_read(id);
    }

    /// Whether a conn has input and also waits to be read, or to continue its handshake.
    pub(super) fn is_to_be_read(&mut self, id: ConnId) -> bool {
        let Some(slot) = self.slot(id) else {
            return false;
        };
        if !slot.is_readable && !slot.conn.has_unhandled() {
            return false;
        }
        slot.lists.has(List::Read) || self.filters.is_in_handshake_queue(id.slot)
    }
}
