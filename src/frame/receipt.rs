//! What a feeder that asked for `ack` waits for.
//!
//! Shared by the feed and the workers. The feed confirms when the publication is in the log and
//! posted; each worker to which it was posted confirms when it has taken it, and says how many
//! subscribers the channel has there. The last one to confirm makes the receipt complete. Two
//! atomic counters, no lock.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Counts the workers that have yet to confirm, and the subscribers they reported.
#[derive(Debug)]
pub struct Receipt {
    awaited: AtomicU32,
    subscribers: AtomicU64,
}

impl Receipt {
    /// A receipt that is complete after so many confirmations.
    #[must_use]
    pub fn new(confirmations: u32) -> Self {
        Self {
            awaited: AtomicU32::new(confirmations),
            subscribers: AtomicU64::new(0),
        }
    }

    /// One more worker is to confirm. Called while a confirmation of the caller is outstanding.
    pub fn expect_another(&self) {
        let before = self.awaited.fetch_add(1, Ordering::Relaxed);
        debug_assert!(before > 0, "the receipt is complete already");
    }

    /// Notes that one worker has the publication, and its number of subscribers. True for the last
    /// worker: the feed should then be woken.
    pub fn confirm(&self, subscribers: u32) -> bool {
        self.subscribers
            .fetch_add(u64::from(subscribers), Ordering::Relaxed);
        // Release, so that whoever sees zero sees every worker's subscribers too.
        self.awaited.fetch_sub(1, Ordering::AcqRel) == 1
    }

    /// The number of subscribers at publishing, once every worker has confirmed.
    #[must_use]
    pub fn subscribers(&self) -> Option<u64> {
        (self.awaited.load(Ordering::Acquire) == 0)
            .then(|| self.subscribers.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn receipt_is_complete_when_the_last_worker_confirms() {
        let receipt = Receipt::new(2);
        assert!(!receipt.confirm(3));
        assert_eq!(receipt.subscribers(), None);
        assert!(receipt.confirm(4));
        assert_eq!(receipt.subscribers(), Some(7));
    }
}
