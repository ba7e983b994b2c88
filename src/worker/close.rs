//! close: ends a conn, over TCP or TLS. FIN is sent after the last byte. Then reap frees the conn.
//!
//! Over TLS, FIN and the close are delayed until all sealed bytes are sent. `apply` calls this
//! module for effects, `flush` after each write, and every phase that finds a dead connection.

use std::time::Duration;

use super::Worker;
use super::wire::net::Net;
use super::wire::tls::SealedEnd;
use crate::config::limits::LINGER_MS;
use crate::effect::{CloseReason, ConnClass};
use crate::id::ConnId;

impl<N: Net> Worker<N> {
    /// Marks a conn as closing, so that reap frees it. From then on, no other phase uses the conn.
    pub(super) fn close(&mut self, id: ConnId, reason: CloseReason) {
        if let Some(slot) = self.slot(id) {
            slot.is_closing = true;
            let is_silent = slot.conn.class() == ConnClass::Silent;
            self.to_reap.push((id, reason));
            if is_silent {
                self.remove_silent();
            }
        }
    }

    /// Sends FIN. Over TLS, the sealed bytes and a `close_notify` are sent first.
    pub(super) fn shutdown_write(&mut self, id: ConnId) {
        if self.filters.defer_fin(id.slot) {
            return self.list_to_flush(id);
        }
        self.send_fin(id);
    }

    fn send_fin(&mut self, id: ConnId) {
        if let Some(slot) = self.conns.get_mut(id.slot as usize) {
            self.net.shutdown_write(&mut slot.socket);
        }
    }

    /// Closes a conn. If a TLS conn ended normally, or if its FIN is delayed, the sealed bytes and
    /// a `close_notify` are sent first. A second call closes the conn immediately.
    pub(super) fn close_when_sent(&mut self, id: ConnId, reason: CloseReason) {
        if !self.filters.defer_close(id.slot, reason) {
            return self.close(id, reason);
        }
        // Without this timer the conn might stay open forever: its earlier timer may have fired,
        // and its peer may never read again.
        let linger = self.running.now().after(Duration::from_millis(LINGER_MS));
        self.arm(id, linger);
        self.list_to_flush(id);
    }

    /// Called after a write of sealed bytes. If FIN or the close were delayed and no sealed bytes
    /// are left, sends FIN and closes the conn.
    pub(super) fn end_sealed(&mut self, id: ConnId) {
        let Some(SealedEnd { has_fin, reason }) = self.filters.take_end(id.slot) else {
            return;
        };
        if has_fin {
            self.send_fin(id);
        }
        if let Some(reason) = reason {
            self.close(id, reason);
        }
    }
}
