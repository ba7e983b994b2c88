//! tls: what stands between the sockets and the machines of conns that came to a TLS listener.
//!
//! read hands such a conn's bytes to `read_sealed`, flush has its writes sealed by `Filters::seal`;
//! the machine sees plaintext only and does not know. What is sealed counts as
//! written, for it cannot be taken back: at most one write's budget is sealed ahead of the socket,
//! and what is behind it stays in the log, held to the quota. Conns of plain listeners cost nothing
//! here but a look into a table that is empty.
//!
//! A handshake costs more than anything else a client can ask for, so handshakes have a list and a
//! budget of their own, behind the reads of everybody who is in.

use std::sync::Arc;

use foldhash::fast::RandomState;
use hashbrown::HashMap;

use super::net::{Net, ReadOutcome};
use crate::config::limits::HANDSHAKES_PER_TURN_MAX;
use crate::effect::CloseReason;
use crate::id::ConnId;
use crate::tls::{Filter, Identity};
use crate::worker::Worker;
use crate::worker::read::read_uninterrupted;
use crate::worker::reloadable::Reloadable;
use crate::worker::round::Queue;

/// Which listeners speak TLS, and what they prove.
#[derive(Clone, Debug)]
pub struct Secure {
    /// A bit for each listener, in their order.
    pub listeners: u64,
    /// The certificate and key that a new connection is shown.
    pub identity: Arc<Reloadable<Identity>>,
}

/// The filters of one worker.
#[derive(Debug, Default)]
pub(in crate::worker) struct Filters {
    by_slot: HashMap<u32, Box<Secured>, RandomState>,
    /// Conns with something to read whose handshake waits for its turn.
    to_shake: Queue,
    /// Where a write is gathered before it is sealed; kept for its room.
    gathered: Vec<u8>,
}

#[derive(Debug)]
struct Secured {
    filter: Filter,
    is_listed_to_shake: bool,
    /// FIN follows when everything has been sent.
    owes_fin: bool,
    /// The machine has to be told when everything has been sent.
    owes_drained: bool,
    /// The conn is closed when everything has been sent.
    closes: Option<CloseReason>,
}

/// Whether a conn's bytes are sealed, and whether more of them can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::worker) enum Sealing {
    /// The conn has no TLS.
    Plain,
    /// The handshake is not complete, and it has nothing to send.
    Handshaking,
    /// Sealed bytes wait for the socket.
    Unsent,
    /// Nothing is in the way.
    Ready,
}

/// What follows the last sealed byte of a conn.
#[derive(Clone, Copy, Debug)]
pub(in crate::worker) struct SealedEnd {
    /// FIN is to be sent.
    pub(in crate::worker) has_fin: bool,
    /// The conn is to be closed.
    pub(in crate::worker) reason: Option<CloseReason>,
}

impl Filters {
    fn get(&self, slot: u32) -> Option<&Secured> {
        self.by_slot.get(&slot).map(|secured| &**secured)
    }

    fn get_mut(&mut self, slot: u32) -> Option<&mut Secured> {
        // Without a TLS listener not even the hash is computed.
        if self.by_slot.is_empty() {
            return None;
        }
        self.by_slot.get_mut(&slot).map(|secured| &mut **secured)
    }

    /// Whether a conn's bytes are sealed.
    pub(in crate::worker) fn has(&self, slot: u32) -> bool {
        !self.by_slot.is_empty() && self.by_slot.contains_key(&slot)
    }

    /// What is sealed and not sent.
    pub(in crate::worker) fn unsent(&self, slot: u32) -> &[u8] {
        if self.by_slot.is_empty() {
            return &[];
        }
        let secured = self.get(slot);
        secured.map_or(&[], |secured| secured.filter.unsent())
    }

    /// What may be sealed for a conn now. One look-up in the table, none without TLS conns.
    pub(in crate::worker) fn sealing(&self, slot: u32) -> Sealing {
        if self.by_slot.is_empty() {
            return Sealing::Plain;
        }
        match self.get(slot) {
            None => Sealing::Plain,
            Some(secured) if !secured.filter.unsent().is_empty() => Sealing::Unsent,
            Some(secured) if secured.filter.is_handshaking() => Sealing::Handshaking,
            Some(_) => Sealing::Ready,
        }
    }

    /// Whether handshakes wait.
    pub(in crate::worker) fn are_shaking(&self) -> bool {
        !self.to_shake.is_empty()
    }

    /// Whether the handshake of a conn waits.
    pub(in crate::worker) fn is_listed_to_shake(&self, slot: u32) -> bool {
        !self.by_slot.is_empty() && self.get(slot).is_some_and(|one| one.is_listed_to_shake)
    }

    /// The handshakes that wait.
    pub(in crate::worker) fn to_shake(&self) -> &Queue {
        &self.to_shake
    }

    /// Forgets a conn.
    pub(in crate::worker) fn remove(&mut self, slot: u32) {
        if !self.by_slot.is_empty() {
            self.by_slot.remove(&slot);
            self.calm();
        }
    }

    /// Without conns there is nothing to keep room for.
    fn calm(&mut self) {
        if self.by_slot.is_empty() {
            *self = Self {
                // A round may wait for a position in it.
                to_shake: std::mem::take(&mut self.to_shake),
                ..Self::default()
            };
        }
    }

    /// Gives back room that is not used.
    pub(in crate::worker) fn shrink(&mut self) {
        self.by_slot.shrink_to_fit();
        self.to_shake.shrink();
    }

    /// Seals as much as there is, up to the budget, if everything sealed before is gone. Says how
    /// many bytes of plaintext.
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
            .get_mut(slot)
            .map_or(0, |secured| match secured.filter.seal(&gathered) {
                Ok(sealed) if sealed == gathered.len() => sealed,
                // Its keys are used up, or it has failed before: it will never seal again.
                Ok(_) | Err(_) => {
                    secured.closes.get_or_insert(CloseReason::TlsError);
                    0
                }
            });
        self.gathered = gathered;
        sealed
    }

    /// Notes that a conn's own bytes are all written or sealed, and returns whether they are all
    /// sent. `has_more` is whether its outbox has got new ones.
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

    /// Seals `close_notify`. Returns whether FIN has to wait until sealed bytes are sent.
    pub(in crate::worker) fn defer_fin(&mut self, slot: u32) -> bool {
        let Some(secured) = self.get_mut(slot) else {
            return false;
        };
        secured.filter.close();
        secured.owes_fin |= !secured.filter.unsent().is_empty();
        !secured.filter.unsent().is_empty()
    }

    /// Returns whether closing a conn has to wait until sealed bytes are sent. It waits once, and
    /// only if the conn ended in order or its FIN already waits.
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

    /// What waited until all sealed bytes were sent, once they are.
    pub(in crate::worker) fn take_end(&mut self, slot: u32) -> Option<SealedEnd> {
        let secured = self.get_mut(slot)?;
        secured.filter.unsent().is_empty().then(|| SealedEnd {
            has_fin: std::mem::take(&mut secured.owes_fin),
            reason: secured.closes,
        })
    }
}

impl<N: Net> Worker<N> {
    /// Whether a listener's conns are to be secured.
    pub(in crate::worker) fn is_secure(&self, listener: u32) -> bool {
        let secure = self.parts.secure.as_ref();
        secure.is_some_and(|secure| secure.listeners & (1 << (listener % 64)) != 0)
    }

    /// Gives a new conn its filter. False when that cannot be had.
    pub(in crate::worker) fn secure(&mut self, id: ConnId) -> bool {
        let Some(secure) = &self.parts.secure else {
            return false;
        };
        let Ok(filter) = Filter::new(&secure.identity.current()) else {
            return false;
        };
        let secured = Secured {
            filter,
            is_listed_to_shake: false,
            owes_fin: false,
            owes_drained: false,
            closes: None,
        };
        self.filters.by_slot.insert(id.slot, Box::new(secured));
        let deadline = self.running.now().after(self.parts.config.tls.handshake());
        self.arm(id, deadline);
        true
    }

    /// The handshakes whose turn it is.
    pub(in crate::worker) fn shake(&mut self) {
        for _ in 0..HANDSHAKES_PER_TURN_MAX {
            let Some(id) = self.filters.to_shake.pop() else {
                return;
            };
            if let Some(secured) = self.filters.get_mut(id.slot) {
                secured.is_listed_to_shake = false;
            }
            self.work = self.work_at_once;
            let mut buffer = std::mem::take(&mut self.scratch.read_buffer);
            self.read_socket(id, &mut buffer);
            self.scratch.read_buffer = buffer;
            self.list_to_read(id);
        }
        if self.filters.are_shaking() {
            self.parts.metrics.handshake_budget_exhausted.increment();
        }
    }

    /// Reads a conn that has a filter. `None` when it is not to be read for now.
    pub(in crate::worker) fn read_sealed(
        &mut self,
        id: ConnId,
        buffer: &mut [u8],
    ) -> Option<usize> {
        let secured = self.filters.get_mut(id.slot)?;
        if secured.filter.has_plain() {
            return self.hand_over(id);
        }
        if secured.closes.is_some() {
            // Nothing is read any more; who stayed readable would be asked turn after turn.
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
            if !secured.is_listed_to_shake {
                secured.is_listed_to_shake = true;
                self.filters.to_shake.push(id);
            }
            return None;
        }
        self.read_socket(id, buffer)
    }

    fn read_socket(&mut self, id: ConnId, buffer: &mut [u8]) -> Option<usize> {
        let slot = self.conns.get_mut(id.slot as usize)?;
        if slot.generation != id.generation || slot.is_closing || !slot.is_readable {
            return None;
        }
        match read_uninterrupted(&mut self.net, &mut slot.socket, buffer) {
            ReadOutcome::Bytes { count, is_drained } => {
                slot.is_readable = !is_drained || slot.is_read_closed;
                self.parts.metrics.received_bytes.add(count as u64);
                self.receive(id, buffer.get_mut(..count)?);
                Some(count)
            }
            ReadOutcome::Eof => {
                // Whoever ends without a word may have been cut off, which is the same as an end.
                self.read_end(id);
                None
            }
            outcome => self.note_read(id, outcome),
        }
    }

    fn receive(&mut self, id: ConnId, bytes: &mut [u8]) {
        let Some(secured) = self.filters.get_mut(id.slot) else {
            return;
        };
        if !secured.filter.has_begun() && bytes.first().is_some_and(u8::is_ascii_alphabetic) {
            return self.refuse_plaintext(id);
        }
        let was_handshaking = secured.filter.is_handshaking();
        let received = secured.filter.receive(bytes);
        let metrics = &self.parts.metrics;
        if let Err(error) = received {
            // The alert still goes out, if the socket takes it.
            secured.owes_fin = true;
            secured.closes = Some(CloseReason::TlsError);
            tracing::debug!(worker = self.parts.number, slot = id.slot, %error, "TLS has failed");
        } else if was_handshaking && !secured.filter.is_handshaking() {
            metrics.handshakes.increment();
            if secured.filter.is_resumed() {
                metrics.handshakes_resumed.increment();
            }
        }
        let is_over = secured.closes.is_some() && secured.filter.unsent().is_empty();
        let has_shaken = was_handshaking && !secured.filter.is_handshaking();
        if is_over {
            return self.close(id, CloseReason::TlsError);
        }
        if has_shaken {
            self.call(id, |conn, _out, context| conn.handle_accepted(context));
        }
        self.list_to_flush(id);
        self.hand_over(id);
    }

    /// Answers a client that speaks HTTP. Its first byte is a letter; that of a TLS client is the
    /// type of a record, which never is (RFC 8446, 5.1).
    fn refuse_plaintext(&mut self, id: ConnId) {
        self.filters.remove(id.slot);
        self.call(id, |conn, out, context| conn.handle_plaintext(out, context));
    }

    /// Hands plaintext to the machine as far as it takes any; what is left makes the conn readable
    /// without its socket.
    fn hand_over(&mut self, id: ConnId) -> Option<usize> {
        let head_bytes = self.parts.config.limits.request_head_bytes;
        let secured = self.filters.get_mut(id.slot)?;
        let mut plain = secured.filter.take_plain();
        let mut taken = 0;
        while taken < plain.len() {
            self.slot(id)?;
            let slot = self.conns.get(id.slot as usize)?;
            let most = if !slot.holds.is_empty() || self.work.is_spent() {
                0
            } else {
                slot.read_bytes_max(head_bytes, &self.rates)
            };
            if most == 0 {
                break;
            }
            let end = plain.len().min(taken + most);
            let piece = plain.get_mut(taken..end)?;
            self.hand_bytes(id, piece)?;
            taken = end;
        }
        let secured = self.filters.get_mut(id.slot)?;
        let is_left = taken < plain.len();
        if is_left {
            plain.drain(..taken);
            secured.filter.put_back(plain);
        }
        if is_left || secured.filter.is_peer_done() {
            self.slot(id)?.is_readable = true;
        }
        (taken > 0).then_some(taken)
    }

    /// The socket took so many sealed bytes.
    pub(in crate::worker) fn note_sealed(&mut self, id: ConnId, count: usize) {
        let now = self.running.now();
        if let Some(secured) = self.filters.get_mut(id.slot) {
            secured.filter.advance(count);
        }
        if count > 0
            && let Some(slot) = self.slot(id)
        {
            slot.conn.handle_written(now, false);
        }
    }
}
