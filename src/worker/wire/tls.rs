//! TLS between sockets and the state machines of conns, for the conns of TLS listeners.
//!
//! `read` calls `read_sealed` for such a conn, and `flush` encrypts (*seals*) the conn's writes
//! with `Filters::seal`. The state machine receives only plaintext. Sealed bytes count as written,
//! because sealing cannot be undone. So the bytes of at most one write are sealed before the socket
//! accepts them. All other publications stay in the log, where the quota limits them. For a plain
//! conn, TLS costs a few lookups in the table, which is empty on a worker without TLS conns.
//!
//! A handshake takes more processor time than anything else that a client can request. So
//! handshakes have their own queue and budget, and run after the reads of established conns.

use std::sync::Arc;

use foldhash::fast::RandomState;
use hashbrown::HashMap;

use super::net::Net;
use crate::certain;
use crate::config::limits::HANDSHAKES_PER_TURN_MAX;
use crate::effect::CloseReason;
use crate::http::Refusal;
use crate::id::ConnId;
use crate::time::Now;
use crate::tls::{Filter, Identity};
use crate::warnings::WarningKind;
use crate::worker::Worker;
use crate::worker::reloadable::Reloadable;
use crate::worker::round::Queue;

/// The listeners that speak TLS, and their certificate.
#[derive(Clone, Debug, Default)]
pub struct Secure {
    /// A bit mask of the listeners that speak TLS, in the order of the listeners.
    pub listeners: u64,
    /// The certificates and keys for new connections; `None` if the configuration has none. Then no
    /// listener speaks TLS, except for the moment in which a reload removes the listener.
    pub identity: Arc<Reloadable<Option<Arc<Identity>>>>,
}

/// The TLS state of one worker's conns.
#[derive(Debug, Default)]
pub(in crate::worker) struct Filters {
    by_slot: HashMap<u32, Box<SecuredConn>, RandomState>,
    /// Conns with an incomplete handshake that can be read.
    handshake_queue: Queue,
    /// The plaintext of one write, before encryption. The memory is reused.
    gathered: Vec<u8>,
}

#[derive(Debug)]
struct SecuredConn {
    filter: Filter,
    /// The time at which the conn was accepted.
    accepted: Now,
    is_in_handshake_queue: bool,
    /// Whether FIN must be sent after the last encrypted byte.
    owes_fin: bool,
    /// Whether `handle_drained` of the conn's state machine must be called after the last encrypted
    /// byte was sent.
    owes_drained: bool,
    /// If set, the conn is closed for this reason after the last encrypted byte was sent.
    closes: Option<CloseReason>,
}

/// Whether a conn uses TLS, and whether more bytes can be encrypted now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::worker) enum Sealing {
    /// The conn has no TLS.
    Plain,
    /// The handshake is not complete, and the server has no handshake bytes to send.
    Handshaking,
    /// Encrypted bytes wait for the socket. More bytes are encrypted after these were sent.
    Unsent,
    /// More bytes can be encrypted.
    Ready,
}

/// What to do after the last encrypted byte of a conn was sent.
#[derive(Clone, Copy, Debug)]
pub(in crate::worker) struct SealedEnd {
    pub(in crate::worker) has_fin: bool,
    /// If set, the conn is closed for this reason.
    pub(in crate::worker) reason: Option<CloseReason>,
}

impl Filters {
    fn get(&self, slot: u32) -> Option<&SecuredConn> {
        // If there are no TLS conns, this check saves computing the hash.
        if self.by_slot.is_empty() {
            return None;
        }
        self.by_slot.get(&slot).map(|secured| &**secured)
    }

    /// Whether a conn uses TLS and its handshake is not complete.
    pub(in crate::worker) fn is_handshaking(&self, slot: u32) -> bool {
        let secured = self.by_slot.get(&slot);
        secured.is_some_and(|secured| secured.filter.is_handshaking())
    }

    /// Returns the TLS state of a conn that is known to speak TLS.
    fn secured(&mut self, slot: u32) -> Option<&mut SecuredConn> {
        certain::some(self.get_mut(slot), "the conn speaks TLS")
    }

    fn get_mut(&mut self, slot: u32) -> Option<&mut SecuredConn> {
        if self.by_slot.is_empty() {
            return None;
        }
        self.by_slot.get_mut(&slot).map(|secured| &mut **secured)
    }

    /// Returns the number of conns that speak TLS.
    pub(in crate::worker) fn count(&self) -> u64 {
        self.by_slot.len() as u64
    }

    /// Whether a conn speaks TLS.
    pub(in crate::worker) fn has(&self, slot: u32) -> bool {
        self.get(slot).is_some()
    }

    /// Returns the encrypted bytes that a conn's socket has not accepted yet.
    pub(in crate::worker) fn unsent(&self, slot: u32) -> &[u8] {
        let secured = self.get(slot);
        secured.map_or(&[], |secured| secured.filter.unsent())
    }

    /// Whether encrypted bytes of a conn wait for its socket.
    pub(in crate::worker) fn has_unsent(&self, slot: u32) -> bool {
        !self.unsent(slot).is_empty()
    }

    /// Returns whether a conn uses TLS, and whether more bytes can be encrypted now.
    pub(in crate::worker) fn sealing(&self, slot: u32) -> Sealing {
        match self.get(slot) {
            None => Sealing::Plain,
            Some(secured) if !secured.filter.unsent().is_empty() => Sealing::Unsent,
            Some(secured) if secured.filter.is_handshaking() => Sealing::Handshaking,
            Some(_) => Sealing::Ready,
        }
    }

    pub(in crate::worker) fn has_pending_handshakes(&self) -> bool {
        !self.handshake_queue.is_empty()
    }

    pub(in crate::worker) fn is_in_handshake_queue(&self, slot: u32) -> bool {
        let secured = self.get(slot);
        secured.is_some_and(|secured| secured.is_in_handshake_queue)
    }

    pub(in crate::worker) fn handshake_queue(&self) -> &Queue {
        &self.handshake_queue
    }

    /// Removes the TLS state of a conn, if it has one.
    pub(in crate::worker) fn remove(&mut self, slot: u32) {
        if !self.by_slot.is_empty() {
            self.by_slot.remove(&slot);
            self.drop_if_empty();
        }
    }

    /// Frees the memory of the table if no conn is left.
    fn drop_if_empty(&mut self) {
        if self.by_slot.is_empty() {
            *self = Self {
                // The handshake queue is kept, because a round may wait for a position in it
                // (`worker/round.rs`).
                handshake_queue: std::mem::take(&mut self.handshake_queue),
                ..Self::default()
            };
        }
    }

    /// Frees unused capacity.
    pub(in crate::worker) fn shrink(&mut self) {
        self.by_slot.shrink_to_fit();
        self.handshake_queue.shrink();
    }

    /// Encrypts at most `budget` bytes for a conn. Returns the number of plaintext bytes that were
    /// encrypted.
    pub(in crate::worker) fn seal(
        &mut self,
        slot: u32,
        slices: impl Iterator<Item: AsRef<[u8]>>,
        budget: usize,
    ) -> usize {
        let mut gathered = std::mem::take(&mut self.gathered);
        gathered.clear();
        for slice in slices {
            let slice = slice.as_ref();
            let room = budget - gathered.len();
            gathered.extend_from_slice(slice.get(..room).unwrap_or(slice));
            if gathered.len() == budget {
                break;
            }
        }
        let sealed = self
            .secured(slot)
            .map_or(0, |secured| match secured.filter.seal(&gathered) {
                Ok(sealed) if sealed == gathered.len() => sealed,
                // TLS has failed or its keys are used up, so no more bytes can be encrypted.
                Ok(_) | Err(_) => {
                    secured.closes.get_or_insert(CloseReason::TlsError);
                    0
                }
            });
        self.gathered = gathered;
        sealed
    }

    /// Called after a write. Returns true, once, when the outbox is empty and the socket has
    /// accepted all encrypted bytes. `is_own_done` is whether this write emptied the outbox.
    /// `has_more` is whether the outbox has new bytes.
    pub(in crate::worker) fn has_sent_own(
        &mut self,
        slot: u32,
        is_own_done: bool,
        has_more: bool,
    ) -> bool {
        let Some(secured) = self.get_mut(slot) else {
            return is_own_done;
        };
        secured.owes_drained |= is_own_done;
        let is_sent = secured.filter.unsent().is_empty();
        is_sent && !has_more && std::mem::take(&mut secured.owes_drained)
    }

    /// Encrypts a `close_notify`. Returns true if FIN must be sent later, after all encrypted
    /// bytes.
    pub(in crate::worker) fn defer_fin(&mut self, slot: u32) -> bool {
        let Some(secured) = self.get_mut(slot) else {
            return false;
        };
        secured.filter.close();
        let waits = !secured.filter.unsent().is_empty();
        secured.owes_fin |= waits;
        waits
    }

    /// Returns true if the conn must not be closed now, but after all encrypted bytes were sent.
    /// This applies only to a conn that ended normally or whose FIN is delayed, too. A second call
    /// returns false.
    pub(in crate::worker) fn defer_close(&mut self, slot: u32, reason: CloseReason) -> bool {
        let Some(secured) = self.get_mut(slot) else {
            return false;
        };
        let may_wait = reason == CloseReason::Done || secured.owes_fin;
        if !may_wait || secured.closes.is_some() {
            return false;
        }
        if !secured.owes_fin {
            secured.filter.close();
        }
        if secured.filter.unsent().is_empty() {
            return false;
        }
        secured.owes_fin = true;
        secured.closes = Some(reason);
        true
    }

    /// Returns the actions that were delayed until all encrypted bytes were sent. Returns `None` if
    /// some encrypted bytes are left.
    pub(in crate::worker) fn take_end(&mut self, slot: u32) -> Option<SealedEnd> {
        let secured = self.get_mut(slot)?;
        secured.filter.unsent().is_empty().then(|| SealedEnd {
            has_fin: std::mem::take(&mut secured.owes_fin),
            reason: secured.closes,
        })
    }
}

impl<N: Net> Worker<N> {
    /// Whether a listener speaks TLS.
    pub(in crate::worker) fn is_secure(&self, listener: u32) -> bool {
        self.parts.is_secure(listener)
    }

    /// Starts TLS on a new conn. Returns false if TLS could not be started.
    pub(in crate::worker) fn secure(&mut self, id: ConnId) -> bool {
        let Some(identity) = self.parts.secure.identity.current() else {
            return false;
        };
        let Ok(filter) = Filter::new(&identity) else {
            return false;
        };
        let secured = SecuredConn {
            filter,
            accepted: self.now,
            is_in_handshake_queue: false,
            owes_fin: false,
            owes_drained: false,
            closes: None,
        };
        self.filters.by_slot.insert(id.slot, Box::new(secured));
        let deadline = self.running.now().after(self.parts.config.tls.handshake());
        self.arm(id, deadline);
        true
    }

    /// Continues handshakes from the queue, at most [`HANDSHAKES_PER_TURN_MAX`] per turn.
    pub(in crate::worker) fn run_handshakes(&mut self) {
        for _ in 0..HANDSHAKES_PER_TURN_MAX {
            let Some(id) = self.filters.handshake_queue.pop() else {
                return;
            };
            if let Some(secured) = self.filters.get_mut(id.slot) {
                secured.is_in_handshake_queue = false;
            }
            self.work = self.work_at_once;
            let mut buffer = std::mem::take(&mut self.scratch.read_buffer);
            self.read_socket(id, &mut buffer, Self::receive_sealed);
            self.scratch.read_buffer = buffer;
            self.list_to_read(id);
        }
        if self.filters.has_pending_handshakes() {
            self.parts.metrics.handshake_budget_exhausted.increment();
        }
    }

    /// Reads from a conn that uses TLS, and returns the same values as `read_once`. Decrypted bytes
    /// are handled before the socket is read. A conn with an incomplete handshake is not read here,
    /// but added to the handshake queue.
    pub(in crate::worker) fn read_sealed(
        &mut self,
        id: ConnId,
        buffer: &mut [u8],
    ) -> Option<usize> {
        let secured = self.filters.secured(id.slot)?;
        if secured.filter.has_plain() {
            return self.hand_plaintext(id);
        }
        if secured.closes.is_some() {
            // The conn will be closed, so it is not read. Otherwise it would be listed for read in
            // each turn.
            if let Some(slot) = self.slot(id) {
                slot.is_readable = false;
            }
            return None;
        }
        if secured.filter.is_peer_done() {
            self.read_end(id);
            return None;
        }
        if secured.filter.is_handshaking() {
            if !secured.is_in_handshake_queue {
                secured.is_in_handshake_queue = true;
                self.filters.handshake_queue.push(id);
            }
            return None;
        }
        // If the input ends without `close_notify`, an attacker may have cut it off. This end is
        // handled like any other end.
        self.read_socket(id, buffer, Self::receive_sealed)
    }

    /// Handles encrypted bytes that were read from the socket of a conn.
    fn receive_sealed(&mut self, id: ConnId, bytes: &mut [u8]) -> Option<()> {
        let secured = self.filters.secured(id.slot)?;
        if !secured.filter.has_begun() && bytes.first().is_some_and(u8::is_ascii_alphabetic) {
            self.refuse_plaintext(id);
            return Some(());
        }
        let was_handshaking = secured.filter.is_handshaking();
        let received = secured.filter.receive(bytes);
        let is_established = was_handshaking && !secured.filter.is_handshaking();
        let metrics = &self.parts.metrics;
        if let Err(error) = received {
            // If there is a TLS alert to send, the conn stays open until the alert is sent.
            secured.owes_fin = true;
            secured.closes = Some(CloseReason::TlsError);
            self.warn(id, WarningKind::TlsFailed, &error);
        } else if is_established {
            metrics.handshakes.increment();
            let took = self.net.now().micros_since(secured.accepted);
            metrics.handshake_us.record(took);
            if secured.filter.is_resumed() {
                metrics.handshakes_resumed.increment();
            }
        }
        let secured = self.filters.secured(id.slot)?;
        if secured.closes.is_some() && secured.filter.unsent().is_empty() {
            self.close(id, CloseReason::TlsError);
            return None;
        }
        if is_established {
            self.call(id, |conn, _out, context| conn.handle_accepted(context));
        }
        self.list_to_flush(id);
        self.hand_plaintext(id);
        Some(())
    }

    /// Answers a client that sends HTTP to a TLS listener. The first byte of HTTP is a letter. The
    /// first byte of TLS is a record type, which is never a letter (RFC 8446, 5.1).
    fn refuse_plaintext(&mut self, id: ConnId) {
        self.filters.remove(id.slot);
        self.warn(id, WarningKind::TlsFailed, &Refusal::PlainOnTls);
        self.call(id, |conn, out, context| conn.handle_plaintext(out, context));
    }

    /// Passes decrypted bytes to the conn's state machine until it accepts no more. If decrypted
    /// bytes are left, the conn still counts as readable. Returns how many bytes the state machine
    /// accepted, or `None` if it accepted none.
    fn hand_plaintext(&mut self, id: ConnId) -> Option<usize> {
        let mut plain = self.filters.secured(id.slot)?.filter.take_plain();
        let taken = self.hand_pieces(id, &mut plain)?;
        let is_left = taken < plain.len();
        let secured = self.filters.get_mut(id.slot)?;
        if is_left {
            plain.drain(..taken);
            secured.filter.put_back(plain);
        }
        if is_left || secured.filter.is_peer_done() {
            self.slot(id)?.is_readable = true;
        }
        (taken > 0).then_some(taken)
    }

    /// Passes decrypted bytes to the conn's state machine in pieces, until it accepts no more.
    /// Returns how many bytes it accepted, or `None` if the conn is closing.
    fn hand_pieces(&mut self, id: ConnId, plain: &mut [u8]) -> Option<usize> {
        let head_bytes = self.parts.config.limits.request_head_bytes;
        let mut taken = 0;
        while taken < plain.len() {
            let is_work_spent = self.work.is_spent();
            let slot = self.conns.get(id.slot as usize)?;
            if slot.generation != id.generation || slot.is_closing {
                return None;
            }
            let most = slot.read_bytes_max(head_bytes, &self.rates);
            if most == 0 || is_work_spent || !slot.holds.is_empty() {
                break;
            }
            let end = plain.len().min(taken + most);
            self.hand_bytes(id, certain::skip_mut(certain::take_mut(plain, end), taken))?;
            taken = end;
        }
        Some(taken)
    }

    /// Removes encrypted bytes that the socket has accepted.
    pub(in crate::worker) fn note_sealed(&mut self, id: ConnId, count: usize) {
        let now = self.running.now();
        if let Some(secured) = self.filters.secured(id.slot) {
            secured.filter.advance(count);
        }
        if count > 0
            && let Some(slot) = self.slot(id)
        {
            slot.conn.handle_written(now, false);
        }
    }
}
