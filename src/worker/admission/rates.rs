//! rates: limits the frames and bytes that WebSocket clients send per second, and the publications
//! over HTTP.
//!
//! If a client has sent more than its rate allows in one second, the server stops reading from it
//! until the rate allows more (*pause*). Nothing is lost, because the kernel's flow control stops
//! the client. A conn does not time out during a pause, because its pongs are not read either. Only
//! clients that have sent something in the last second or two have an account; an idle conn has no
//! account. `Worker::hand_bytes` adds the frames and bytes of a client to its account.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use foldhash::fast::RandomState;
use hashbrown::HashMap;

use crate::config::Limits;
use crate::effect::ConnClass;
use crate::id::ConnId;
use crate::time::{Deadline, Now};
use crate::worker::hold::Hold;
use crate::worker::wire::net::Net;
use crate::worker::{Slot, Worker};

/// A client may send in one burst all frames and bytes that its rate allows in this time. Unused
/// accounts are removed at this interval.
const BURST: Duration = Duration::from_nanos(BURST_NS);
const BURST_NS: u64 = 1_000_000_000;
/// The maximum size of one read, in bytes, is the client's rate in frames per second times this
/// number. So even if all frames are short, one read contains only the frames of a few seconds.
const READ_BYTES_PER_FRAME: usize = 16;
/// The maximum size of one read is never smaller than this number of bytes.
const READ_BYTES_MIN: usize = 64;

/// The limits, and the accounts of the clients of one worker.
#[derive(Debug, Default)]
pub(in crate::worker) struct Rates {
    /// The nanoseconds that the rate allows for one frame. Zero if there is no limit on frames.
    frame_ns: u64,
    /// The nanoseconds that the rate allows for one byte. Zero if there is no limit on bytes.
    byte_ns: u64,
    read_bytes_max: usize,
    by_slot: HashMap<u32, Account, RandomState>,
    /// For each conn that is not read because of its rate, the end of the pause.
    pauses: BinaryHeap<Reverse<(Deadline, ConnId)>>,
    swept: Now,
}

/// How much of the two rate limits one client has used. For each limit, a time in nanoseconds is
/// compared with the clock, as in the generic cell rate algorithm.
#[derive(Clone, Copy, Debug, Default)]
struct Account {
    /// The earliest time by which all frames of the client could have been sent at the allowed rate
    /// of frames.
    frames_ns: u64,
    /// The earliest time by which all bytes of the client could have been sent at the allowed rate
    /// of bytes.
    bytes_ns: u64,
}

impl Rates {
    pub(in crate::worker) fn new(limits: &Limits) -> Self {
        let mut rates = Self::default();
        rates.set_limits(limits);
        rates
    }

    /// Changes the limits. What clients have sent so far stays on their accounts.
    pub(in crate::worker) fn set_limits(&mut self, limits: &Limits) {
        let each_ns = |per_second: u32| 1_000_000_000_u64.checked_div(per_second.into());
        let bytes = limits.client_bytes_per_second as usize;
        let frames = limits.client_frames_per_second as usize;
        let of_frames = frames.saturating_mul(READ_BYTES_PER_FRAME);
        let least = [bytes, of_frames].into_iter().filter(|most| *most > 0);
        self.frame_ns = each_ns(limits.client_frames_per_second).unwrap_or(0);
        self.byte_ns = each_ns(limits.client_bytes_per_second).unwrap_or(0);
        self.read_bytes_max = least
            .min()
            .map_or(usize::MAX, |most| most.max(READ_BYTES_MIN));
    }

    /// Returns the maximum number of bytes to read at once from a WebSocket client.
    pub(in crate::worker) fn read_bytes_max(&self) -> usize {
        self.read_bytes_max
    }

    fn is_on(&self) -> bool {
        self.frame_ns > 0 || self.byte_ns > 0
    }

    /// Returns the time at which the next pause ends.
    pub(in crate::worker) fn due(&self) -> Option<Deadline> {
        self.pauses.peek().map(|Reverse((due, _))| *due)
    }

    /// Whether a conn is paused. Searches all pauses, so it is used only to check invariants.
    pub(in crate::worker) fn has_pause(&self, id: ConnId) -> bool {
        let mut pauses = self.pauses.iter();
        pauses.any(|Reverse((_, paused))| *paused == id)
    }

    pub(in crate::worker) fn forget(&mut self, slot: u32) {
        if !self.by_slot.is_empty() {
            self.by_slot.remove(&slot);
        }
    }

    /// Adds frames and bytes to the account of a client. If the client has sent too much, returns
    /// the time until which it must not be read.
    fn charge(&mut self, slot: u32, frames: u64, bytes: u64, now: Now) -> Option<Deadline> {
        if now.since(self.swept) >= BURST {
            self.sweep(now);
        }
        let now_ns = now.0.saturating_mul(1000);
        let account = self.by_slot.entry(slot).or_default();
        let add = |until_ns: u64, count: u64, each_ns: u64| {
            let cost = count.saturating_mul(each_ns);
            until_ns.max(now_ns).saturating_add(cost)
        };
        account.frames_ns = add(account.frames_ns, frames, self.frame_ns);
        account.bytes_ns = add(account.bytes_ns, bytes, self.byte_ns);
        let until_ns = account.frames_ns.max(account.bytes_ns);
        let until_ns = until_ns.saturating_sub(BURST_NS);
        (until_ns > now_ns).then(|| Deadline(until_ns.div_ceil(1000)))
    }

    /// Removes the accounts whose two times (`frames_ns` and `bytes_ns`) have passed.
    fn sweep(&mut self, now: Now) {
        self.swept = now;
        let now_ns = now.0.saturating_mul(1000);
        self.by_slot
            .retain(|_, account| account.frames_ns.max(account.bytes_ns) > now_ns);
        if self.by_slot.len() * 4 < self.by_slot.capacity() {
            self.by_slot.shrink_to_fit();
        }
    }
}

impl<N: Net> Worker<N> {
    /// Adds the frames and bytes that a client has sent to its account. If the client has sent too
    /// much, stops reading from it for a while.
    pub(in crate::worker) fn charge(&mut self, id: ConnId, frames: u32, bytes: usize) {
        if !self.rates.is_on() {
            return;
        }
        // On other conns, only a publication over HTTP counts as a frame.
        let is_websocket = |slot: &mut Slot<_>| slot.conn.class() == ConnClass::WebSocket;
        let is_limited = frames > 0 || self.slot(id).is_some_and(is_websocket);
        if !is_limited {
            return;
        }
        if let Some(until) = self
            .rates
            .charge(id.slot, frames.into(), bytes as u64, self.now)
            && self.hold(id, Hold::Rate)
        {
            self.parts.metrics.client_reads_paused.increment();
            self.rates.pauses.push(Reverse((until, id)));
        }
    }

    /// Continues to read from conns whose pause is over.
    pub(in crate::worker) fn resume_reads(&mut self) {
        while let Some(Reverse((due, id))) = self.rates.pauses.peek().copied()
            && self.now.has_reached(due)
        {
            self.rates.pauses.pop();
            let now = self.running.now();
            let Some(slot) = self.slot(id) else { continue };
            slot.conn.handle_resumed(now);
            self.release(id, Hold::Rate);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(frames: u32, bytes: u32) -> Rates {
        Rates::new(&Limits {
            client_frames_per_second: frames,
            client_bytes_per_second: bytes,
            ..Limits::default()
        })
    }

    #[test]
    fn client_is_paused_until_its_frames_are_those_of_a_second() {
        let mut rates = rates(10, 0);
        for _ in 0..10 {
            assert_eq!(rates.charge(1, 1, 1_000_000, Now(0)), None);
        }
        assert_eq!(rates.charge(1, 1, 0, Now(0)), Some(Deadline(100_000)));
        assert_eq!(rates.charge(2, 10, 0, Now(0)), None);
        assert_eq!(rates.charge(1, 0, 0, Now(100_000)), None);
    }

    #[test]
    fn client_is_paused_for_its_bytes_too() {
        let mut rates = rates(0, 1000);
        assert_eq!(rates.charge(1, 1000, 1000, Now(0)), None);
        assert_eq!(rates.charge(1, 0, 500, Now(0)), Some(Deadline(500_000)));
        assert_eq!(rates.read_bytes_max, 1000);
    }

    #[test]
    fn client_that_sends_no_more_has_no_account() {
        let mut rates = rates(10, 0);
        for slot in 0..1000 {
            assert_eq!(rates.charge(slot, 1, 1, Now(0)), None);
        }
        assert_eq!(rates.charge(7, 1, 1, Now(2_000_000)), None);
        assert_eq!(rates.by_slot.len(), 1);
        assert!(rates.by_slot.capacity() < 100);
    }
}
