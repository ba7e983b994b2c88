//! close: ends a conn, over TCP or TLS. FIN is sent after the last byte. Then reap frees the conn.
//!
//! Over TLS, all encrypted bytes are sent before FIN and before the conn is closed. `apply` calls
//! this module for effects, `flush` calls it after each write, and every phase that finds a dead
//! connection calls it.

use std::time::Duration;

use super::Worker;
use super::warn::NOT_READ;
use super::wire::net::Net;
use super::wire::tls::SealedEnd;
use crate::backend::CloseInfo;
use crate::certain;
use crate::config::limits::LINGER_MS;
use crate::effect::{CloseReason, ConnClass};
use crate::id::ConnId;
use crate::transport::Goodbye;
use crate::warnings::WarningKind;

impl<N: Net> Worker<N> {
    /// Marks a conn as closing, so that reap frees it. From then on, no other phase uses the conn.
    /// Writes a warning if the reason concerns the operator.
    pub(super) fn close(&mut self, id: ConnId, reason: CloseReason) {
        let is_ending = self.slot(id).map(|slot| slot.conn.is_ending());
        self.close_unwarned(id, reason);
        if let Some(is_ending) = is_ending {
            self.warn_of_close(id, reason, is_ending);
        }
    }

    /// Closes a conn whose peer has confirmed no bytes for as long as the kernel waits. Found when
    /// the conn is read, which is before this turn's writes. So what is unsent now is unsent
    /// because the socket had no room, and the client did not read.
    pub(super) fn close_timed_out(&mut self, id: ConnId) {
        let slot = self.slot(id);
        let has_unsent =
            slot.is_some_and(|slot| !slot.conn.outbox().is_empty()) || self.hub.is_behind(id.slot);
        self.close_unwarned(id, CloseReason::Idle);
        if has_unsent {
            self.warn(id, WarningKind::SlowReader, &NOT_READ);
        }
    }

    /// Like [`Self::close`], for ends that need no warning or of which the caller has warned.
    pub(super) fn close_unwarned(&mut self, id: ConnId, reason: CloseReason) {
        if let Some(slot) = self.slot(id) {
            slot.is_closing = true;
            let is_silent = slot.conn.class() == ConnClass::Silent;
            self.to_reap.push((id, reason));
            if is_silent {
                self.remove_silent();
            }
        }
    }

    /// Ends a conn for a backend or an operator, with their close code. Returns false if the conn
    /// is already ending.
    pub(super) fn disconnect(&mut self, id: ConnId, close_info: &CloseInfo) -> bool {
        let conn = self.slot(id).map(|slot| &slot.conn);
        let Some(conn) = conn.filter(|conn| !conn.is_ending()) else {
            return false;
        };
        if conn.serving().is_none() {
            self.close(id, CloseReason::Disconnected);
            return true;
        }
        self.call(id, |conn, out, context| {
            conn.handle_goodbye(Goodbye::Disconnect(close_info), out, context);
        });
        // The conn may now be closing. A closing conn must be read even if it has too many unsent
        // answers.
        self.list_to_read(id);
        true
    }

    /// Sends FIN. Over TLS, first sends the encrypted bytes that are left and a `close_notify`.
    pub(super) fn shutdown_write(&mut self, id: ConnId) {
        if self.filters.defer_fin(id.slot) {
            return self.list_to_flush(id);
        }
        self.send_fin(id);
    }

    fn send_fin(&mut self, id: ConnId) {
        let slot = self.conns.get_mut(id.slot as usize);
        if let Some(slot) = certain::some(slot, "conns are freed only in reap") {
            self.net.shutdown_write(&mut slot.socket);
        }
    }

    /// Closes a conn. If a TLS conn ended normally, or if its FIN is delayed, first sends the
    /// encrypted bytes that are left and a `close_notify`. A second call closes the conn
    /// immediately.
    pub(super) fn close_when_sent(&mut self, id: ConnId, reason: CloseReason) {
        if !self.filters.defer_close(id.slot, reason) {
            return self.close(id, reason);
        }
        // The conn needs a new timer: its earlier timer may have fired, and its peer may never read
        // again. Without a timer, the conn might stay open forever.
        let linger = self.running.now().after(Duration::from_millis(LINGER_MS));
        self.arm(id, linger);
        self.list_to_flush(id);
    }

    /// Called after a write of encrypted bytes. When all of them were sent, sends FIN and closes
    /// the conn, if these actions had to wait for the write.
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
