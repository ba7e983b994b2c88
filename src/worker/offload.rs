//! offload: conns over TLS whose records the kernel goes on to seal and open, where it can.
//!
//! It takes over behind the handshake, at the first byte at which the filter holds nothing. From
//! there the conn is read and written as one in plain text: its frames are the log's own, go
//! through the ring, and are not sealed a write ahead. Left to us are a table of what each key has
//! sealed, since a key may not seal for ever, and the end of both directions.
//!
//! The kernel takes a whole record and holds what TCP has no room for, and neither FIN nor an end
//! of the descriptor waits for that. So no FIN is sent: the peer is told by an alert, which goes
//! out when there is room again, and the descriptor is closed when everything is acknowledged or
//! the time for that is over.

use std::num::NonZeroU32;
use std::time::Duration;

use foldhash::fast::RandomState;
use hashbrown::HashMap;

use super::Worker;
use super::net::Net;
use crate::config::limits::{LINGER_MS, TLS_RECORD_BYTES, TLS_RECORDS_PER_KEY_MAX};
use crate::effect::CloseReason;
use crate::id::ConnId;

/// The offloaded conns of one worker.
#[derive(Debug, Default)]
pub(super) struct Offloaded {
    by_slot: HashMap<u32, Below, RandomState>,
}

/// What is to be known of a conn below its data.
#[derive(Clone, Copy, Debug, Default)]
struct Below {
    /// How many records the kernel has sealed, at most.
    records: u32,
    /// The peer has said that it sends no more (`close_notify`).
    is_peer_done: bool,
    /// Where our own end of the conn is.
    goodbye: Goodbye,
    /// The conn is closed when everything has been sent.
    closes: Option<CloseReason>,
    /// How much the peer had yet to acknowledge when that was last waited for.
    unacknowledged_bytes: Option<NonZeroU32>,
}

/// Whether the peer has been told that nothing more will be sent (`close_notify`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Goodbye {
    #[default]
    NotDue,
    Owed,
    Said,
}

const _: () = assert!(size_of::<(u32, Below)>() <= 16);

impl Offloaded {
    fn get(&self, slot: u32) -> Option<&Below> {
        // Without one not even the hash is computed.
        match self.by_slot.is_empty() {
            true => None,
            false => self.by_slot.get(&slot),
        }
    }

    fn get_mut(&mut self, slot: u32) -> Option<&mut Below> {
        match self.by_slot.is_empty() {
            true => None,
            false => self.by_slot.get_mut(&slot),
        }
    }

    /// Whether the kernel seals and opens a conn's records.
    pub(super) fn has(&self, slot: u32) -> bool {
        self.get(slot).is_some()
    }

    /// Whether the peer has said that it sends no more.
    pub(super) fn is_peer_done(&self, slot: u32) -> bool {
        self.get(slot).is_some_and(|below| below.is_peer_done)
    }

    /// The peer has said so, which is not to be read a second time.
    pub(super) fn note_peer_done(&mut self, slot: u32) {
        if let Some(below) = self.get_mut(slot) {
            below.is_peer_done = true;
        }
    }

    /// Whether the peer has yet to be told something, or the conn is to be closed.
    pub(super) fn owes(&self, slot: u32) -> bool {
        let below = self.get(slot);
        below.is_some_and(|below| below.goodbye == Goodbye::Owed || below.closes.is_some())
    }

    /// Forgets a conn.
    pub(super) fn remove(&mut self, slot: u32) {
        if !self.by_slot.is_empty() {
            self.by_slot.remove(&slot);
        }
    }

    /// Gives back room that is not used.
    pub(super) fn shrink(&mut self) {
        self.by_slot.shrink_to_fit();
    }

    /// Notes a write of so many bytes. True when the key has just sealed as much as it may.
    fn is_used_up(&mut self, slot: u32, written: usize) -> bool {
        let Some(below) = self.get_mut(slot) else {
            return false;
        };
        // Each write begins a record, and fills one after the other.
        let begun = u32::try_from(1 + written / TLS_RECORD_BYTES).unwrap_or(u32::MAX);
        let before = below.records;
        below.records = before.saturating_add(begun);
        before < TLS_RECORDS_PER_KEY_MAX && below.records >= TLS_RECORDS_PER_KEY_MAX
    }
}

impl<N: Net> Worker<N> {
    /// Has the kernel go on with a conn's records, if it can and nothing of the conn is held here.
    pub(super) fn offload(&mut self, id: ConnId) {
        if !self.net.has_kernel_tls() || !self.filters.has(id.slot) {
            return;
        }
        if !self.filters.prepare_offload(id.slot) {
            return self.list_to_flush(id);
        }
        let Some(slot) = self.conns.get_mut(id.slot as usize) else {
            return;
        };
        let is_busy = slot.is_closing || slot.has_write_collected;
        if slot.generation != id.generation || is_busy {
            return;
        }
        let number = self.parts.number;
        if let Err(error) = self.net.begin_offload(&mut slot.socket) {
            tracing::debug!(worker = number, slot = id.slot, %error, "TLS is not offloaded");
            return self.filters.keep(id.slot);
        }
        let Some(filter) = self.filters.take(id.slot) else {
            return;
        };
        let offloaded = filter.offload().map_err(std::io::Error::other);
        let offloaded = offloaded.and_then(|keys| self.net.offload(&mut slot.socket, &keys));
        if let Err(error) = offloaded {
            tracing::debug!(worker = number, slot = id.slot, %error, "TLS cannot be offloaded");
            return self.close(id, CloseReason::TlsError);
        }
        // What has come meanwhile made its edge before the kernel had the keys.
        slot.is_readable = true;
        // Those who came together and are sent the same do not all end together.
        let ahead = self.net.draw() % u64::from(TLS_RECORDS_PER_KEY_MAX / 4);
        let below = Below {
            records: u32::try_from(ahead).unwrap_or(0),
            ..Below::default()
        };
        self.offloaded.by_slot.insert(id.slot, below);
        self.parts.metrics.offloaded.increment();
        self.list_to_read(id);
    }

    /// The kernel took so many bytes of a conn. One whose key is used up is told goodbye as when
    /// the server stops: its client comes back with its cursor and a new key.
    pub(super) fn note_offloaded(&mut self, id: ConnId, written: usize) {
        if self.offloaded.is_used_up(id.slot, written) {
            self.call(id, |conn, out, context| conn.handle_shutdown(out, context));
        }
    }

    /// Ends our direction of an offloaded conn, and with a reason the conn, as soon as flush can.
    /// False if it is none, or was to be closed before and has come no further since.
    pub(super) fn end_offloaded(&mut self, id: ConnId, reason: Option<CloseReason>) -> bool {
        let Some(below) = self.offloaded.get_mut(id.slot) else {
            return false;
        };
        let Some(slot) = self.conns.get_mut(id.slot as usize) else {
            return false;
        };
        if below.goodbye == Goodbye::NotDue {
            below.goodbye = Goodbye::Owed;
        }
        if reason.is_some() {
            let left = NonZeroU32::new(self.net.unacknowledged_bytes(&slot.socket));
            let is_moving = match (left, below.unacknowledged_bytes) {
                (Some(left), Some(before)) => left < before,
                (left, _) => left.is_some(),
            };
            if below.closes.is_some() && !is_moving {
                return false;
            }
            below.closes = reason;
            below.unacknowledged_bytes = left;
            // Its timer may be what has ended it, and the peer may take nothing any more.
            let linger = self.running.now().after(Duration::from_millis(LINGER_MS));
            self.arm(id, linger);
        }
        self.list_to_flush(id);
        true
    }

    /// Says goodbye below an offloaded conn, and closes it if it is to end and has sent everything.
    pub(super) fn say_goodbye_offloaded(&mut self, id: ConnId) {
        let Some(below) = self.offloaded.get_mut(id.slot) else {
            return;
        };
        let Some(slot) = self.conns.get_mut(id.slot as usize) else {
            return;
        };
        if slot.generation != id.generation || slot.is_closing || !slot.is_writable {
            return;
        }
        if below.goodbye == Goodbye::Owed {
            if !self.net.close_offloaded(&mut slot.socket) {
                slot.is_writable = false;
                return;
            }
            below.goodbye = Goodbye::Said;
        }
        if let Some(reason) = below.closes
            && self.net.unacknowledged_bytes(&slot.socket) == 0
        {
            self.close(id, reason);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_counted_until_their_key_is_used_up() {
        let mut offloaded = Offloaded::default();
        assert!(!offloaded.is_used_up(7, 1));
        offloaded.by_slot.insert(7, Below::default());
        assert!(!offloaded.is_used_up(7, 1));
        assert!(!offloaded.is_used_up(7, 2 * TLS_RECORD_BYTES));
        assert_eq!(offloaded.by_slot[&7].records, 4);
        offloaded.get_mut(7).unwrap().records = TLS_RECORDS_PER_KEY_MAX - 2;
        assert!(!offloaded.is_used_up(7, 0));
        assert!(offloaded.is_used_up(7, 100));
        assert!(!offloaded.is_used_up(7, 100), "told once");
        assert!(offloaded.has(7) && !offloaded.has(8));
        offloaded.remove(7);
        assert!(!offloaded.has(7));
    }

    #[test]
    fn conn_owes_its_goodbye_and_then_its_end() {
        let mut offloaded = Offloaded::default();
        assert!(!offloaded.owes(7));
        offloaded.by_slot.insert(7, Below::default());
        assert!(!offloaded.owes(7));
        offloaded.get_mut(7).unwrap().goodbye = Goodbye::Owed;
        assert!(offloaded.owes(7));
        offloaded.get_mut(7).unwrap().goodbye = Goodbye::Said;
        assert!(!offloaded.owes(7));
        offloaded.get_mut(7).unwrap().closes = Some(CloseReason::Done);
        assert!(offloaded.owes(7));
    }
}
