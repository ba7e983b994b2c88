//! read: socket -> the worker's one buffer -> the conn's machine.
//!
//! A conn has a budget of bytes, inflated ones included, and the phase a budget of conns and one of
//! inflated bytes; whoever is cut off stays on the list. A conn whose answers pile up is not read
//! at all until they have gone out.

use super::Worker;
use super::net::{Net, ReadOutcome};
use crate::config::limits::{
    INFLATED_BYTES_PER_TURN_MAX, READ_BYTES_PER_CONN_TURN_MAX, READ_CONNS_PER_TURN_MAX,
};
use crate::effect::CloseReason;
use crate::id::ConnId;

impl<N: Net> Worker<N> {
    pub(super) fn read(&mut self) {
        let mut inflated_bytes = 0;
        for _ in 0..READ_CONNS_PER_TURN_MAX {
            if inflated_bytes > INFLATED_BYTES_PER_TURN_MAX {
                break;
            }
            let Some(id) = self.to_read.pop_front() else {
                break;
            };
            if let Some(slot) = self.slot(id) {
                slot.is_listed_to_read = false;
                inflated_bytes += self.read_conn(id);
            }
        }
        if !self.to_read.is_empty() {
            self.parts.metrics.read_budget_exhausted.increment();
        }
        self.shake();
    }

    /// Reads what is there, within the budget, and says how many bytes were inflated meanwhile.
    fn read_conn(&mut self, id: ConnId) -> u64 {
        let mut budget = u64::from(READ_BYTES_PER_CONN_TURN_MAX);
        let mut inflated_bytes = 0;
        let mut buffer = std::mem::take(&mut self.scratch.read_buffer);
        while budget > 0 {
            match self.read_once(id, &mut buffer) {
                Some(count) => {
                    let inflated = self.scratch.inflater.take_inflated_bytes();
                    inflated_bytes += inflated;
                    budget = budget.saturating_sub(count as u64 + inflated);
                }
                None => break,
            }
        }
        self.scratch.read_buffer = buffer;
        self.list_to_read(id);
        inflated_bytes
    }

    /// Reads once and hands the bytes to the machine. `None` when the conn is not to be read for
    /// now.
    fn read_once(&mut self, id: ConnId, buffer: &mut [u8]) -> Option<usize> {
        let head_bytes = self.parts.config.limits.request_head_bytes;
        let slot = self.conns.get_mut(id.slot as usize)?;
        let may_be_read = slot.is_readable && !slot.is_held && !slot.is_closing;
        if slot.generation != id.generation || !may_be_read {
            return None;
        }
        let length = slot.takes(head_bytes, &self.rates).min(buffer.len());
        if length > 0 && self.filters.has(id.slot) {
            return self.read_sealed(id, buffer);
        }
        let buffer = buffer
            .get_mut(..length)
            .filter(|buffer| !buffer.is_empty())?;
        match self.net.read(&mut slot.socket, buffer) {
            ReadOutcome::Bytes { count, is_drained } => {
                // The end of the input makes no edge of its own once it has been reported.
                slot.is_readable = !is_drained || slot.is_read_closed;
                self.parts.metrics.received_bytes.add(count as u64);
                let bytes = buffer.get_mut(..count)?;
                self.hand_bytes(id, bytes)?;
                Some(count)
            }
            ReadOutcome::Eof => {
                self.read_end(id);
                None
            }
            outcome => self.note_read(id, outcome),
        }
    }

    /// The peer sends no more.
    pub(super) fn read_end(&mut self, id: ConnId) {
        if let Some(slot) = self.slot(id) {
            slot.is_readable = false;
        }
        let is_met_again = self.call(id, |conn, out, context| conn.handle_eof(out, context));
        if is_met_again == Some(true)
            && let Some(slot) = self.slot(id)
        {
            slot.is_readable = true;
        }
    }

    /// What came of a read that brought neither bytes nor the end of them.
    pub(super) fn note_read(&mut self, id: ConnId, outcome: ReadOutcome) -> Option<usize> {
        match outcome {
            ReadOutcome::Interrupted => return Some(1),
            ReadOutcome::Failed => self.close(id, CloseReason::PeerGone),
            ReadOutcome::TimedOut => self.close(id, CloseReason::Idle),
            ReadOutcome::Drained | ReadOutcome::Bytes { .. } | ReadOutcome::Eof => {
                if let Some(slot) = self.slot(id) {
                    slot.is_readable = false;
                }
            }
        }
        None
    }
}
