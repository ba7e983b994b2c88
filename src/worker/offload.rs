//! offload: conns over TLS whose records the kernel goes on to seal and open, where it can.
//!
//! It takes over behind the handshake, at the first byte at which the filter holds nothing. From
//! there the conn is read and written as one in plain text: its frames are the log's own, go
//! through the ring, and are not sealed a write ahead. Left to us are a table of what each key has
//! sealed, since a key may not seal for ever, and saying goodbye.

use foldhash::fast::RandomState;
use hashbrown::HashMap;

use super::Worker;
use super::net::Net;
use crate::config::limits::{TLS_RECORD_BYTES, TLS_RECORDS_PER_KEY_MAX};
use crate::effect::CloseReason;
use crate::id::ConnId;

/// The offloaded conns of one worker.
#[derive(Debug, Default)]
pub(super) struct Offloaded {
    /// How many records the kernel has sealed for each slot, at most.
    records: HashMap<u32, u32, RandomState>,
}

impl Offloaded {
    /// Whether the kernel seals and opens a conn's records.
    pub(super) fn has(&self, slot: u32) -> bool {
        // Without one not even the hash is computed.
        !self.records.is_empty() && self.records.contains_key(&slot)
    }

    /// Forgets a conn.
    pub(super) fn remove(&mut self, slot: u32) {
        if !self.records.is_empty() {
            self.records.remove(&slot);
        }
    }

    /// Notes a write of so many bytes. True when the key has sealed as much as it may.
    fn is_used_up(&mut self, slot: u32, written: usize) -> bool {
        if self.records.is_empty() {
            return false;
        }
        let Some(records) = self.records.get_mut(&slot) else {
            return false;
        };
        // Each write begins a record, and fills one after the other.
        let begun = 1 + written / TLS_RECORD_BYTES;
        *records = records.saturating_add(u32::try_from(begun).unwrap_or(u32::MAX));
        *records >= TLS_RECORDS_PER_KEY_MAX
    }
}

impl<N: Net> Worker<N> {
    /// Has the kernel go on with a conn's records, if it can and nothing of the conn is held here.
    pub(super) fn offload(&mut self, id: ConnId) {
        if !self.net.has_kernel_tls() || !self.filters.may_be_offloaded(id.slot) {
            return;
        }
        let Some(slot) = self.conns.get_mut(id.slot as usize) else {
            return;
        };
        let is_busy = slot.is_closing || slot.has_write_collected;
        if slot.generation != id.generation || is_busy {
            return;
        }
        let Some(filter) = self.filters.take(id.slot) else {
            return;
        };
        let offloaded = filter.offload().map_err(std::io::Error::other);
        let offloaded = offloaded.and_then(|keys| self.net.offload(&mut slot.socket, &keys));
        if let Err(error) = offloaded {
            tracing::warn!(worker = self.parts.number, slot = id.slot, %error, "TLS cannot be offloaded");
            return self.close(id, CloseReason::TlsError);
        }
        // What has come meanwhile made its edge before the kernel had the keys.
        slot.is_readable = true;
        self.offloaded.records.insert(id.slot, 0);
        self.parts.metrics.offloaded.increment();
        self.list_to_read(id);
    }

    /// The kernel took so many bytes of a conn. One whose key is used up ends: whoever it was comes
    /// back with a new key and its cursor.
    pub(super) fn note_offloaded(&mut self, id: ConnId, written: usize) {
        if self.offloaded.is_used_up(id.slot, written) {
            self.shutdown_write(id);
            self.close(id, CloseReason::TlsError);
        }
    }

    /// Says below an offloaded conn that nothing more will be sent.
    pub(super) fn say_goodbye_offloaded(&mut self, id: ConnId) {
        if self.offloaded.has(id.slot)
            && let Some(slot) = self.conns.get_mut(id.slot as usize)
        {
            self.net.close_offloaded(&mut slot.socket);
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
        offloaded.records.insert(7, 0);
        assert!(!offloaded.is_used_up(7, 1));
        assert!(!offloaded.is_used_up(7, 2 * TLS_RECORD_BYTES));
        assert_eq!(offloaded.records[&7], 4);
        offloaded.records.insert(7, TLS_RECORDS_PER_KEY_MAX - 2);
        assert!(!offloaded.is_used_up(7, 0));
        assert!(offloaded.is_used_up(7, 100));
        assert!(offloaded.has(7) && !offloaded.has(8));
        offloaded.remove(7);
        assert!(!offloaded.has(7));
    }
}
