//! Confirmations by several workers. The feed waits until all of them have confirmed.
//!
//! The feed and the workers share a [`WorkerAck`]. Each worker confirms once, with a number that is
//! added to a sum. For a publication with `ack`, this is the number of subscribers on that worker.
//! The feed also confirms, after the publication was added to the log and posted. The last
//! confirmation completes the acknowledgement. A [`WorkerAck`] consists of two atomic counters and
//! needs no lock.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// The number of outstanding confirmations, and the sum of the numbers in the received
/// confirmations.
#[derive(Debug)]
pub struct WorkerAck {
    remaining: AtomicU32,
    sum: AtomicU64,
}

impl WorkerAck {
    /// Creates an acknowledgement that is complete after `confirmations` confirmations.
    #[must_use]
    pub fn new(confirmations: u32) -> Self {
        Self {
            remaining: AtomicU32::new(confirmations),
            sum: AtomicU64::new(0),
        }
    }

    /// Adds one expected confirmation. The caller must call this function before its own
    /// confirmation.
    pub fn expect_another(&self) {
        let before = self.remaining.fetch_add(1, Ordering::Relaxed);
        debug_assert!(before > 0, "all confirmations were there already");
    }

    /// Confirms with a number. Returns true if this was the last confirmation; the feed must then
    /// be woken.
    pub fn confirm(&self, number: u32) -> bool {
        self.sum.fetch_add(u64::from(number), Ordering::Relaxed);
        // The release ordering lets a thread that reads zero also see the numbers of all workers.
        let before = self.remaining.fetch_sub(1, Ordering::AcqRel);
        debug_assert!(before > 0, "a confirmation that was not awaited");
        before == 1
    }

    /// Returns the sum of the numbers in all confirmations, or `None` while a confirmation is
    /// outstanding.
    #[must_use]
    pub fn sum(&self) -> Option<u64> {
        (self.remaining.load(Ordering::Acquire) == 0).then(|| self.sum.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ack_is_complete_when_the_last_worker_confirms() {
        let ack = WorkerAck::new(2);
        assert!(!ack.confirm(3));
        assert_eq!(ack.sum(), None);
        assert!(ack.confirm(4));
        assert_eq!(ack.sum(), Some(7));
    }
}
