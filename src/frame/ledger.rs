//! The ledger counts the bytes of publications and encodings from their creation until they are
//! dropped.
//!
//! The node has one [`Ledger`]. Every counted value adds its bytes when it is created and subtracts
//! them when it is dropped, so no value is left out. The encodings of a publication have one
//! `Weight`. It stores whether the publication is in the log, and how many conns hold the
//! encodings. Encodings are *pinned* if the log has evicted the publication and a conn still holds
//! the encodings. The sums are relaxed atomics, so they need no lock. A sum is exact whenever no
//! thread is changing it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::id::Sequence;

/// The sums of bytes. If two threads change the `Weight` of the same publication, they may update
/// a sum in either order. So a sum can be negative for a moment. A negative sum is stored modulo
/// 2^64.
#[derive(Debug)]
pub struct Ledger {
    resident: AtomicU64,
    logged: AtomicU64,
    pinned: AtomicU64,
    /// The lowest number that was passed to [`Self::note_encoded`] since the last call of
    /// [`Self::take_oldest_encoded`].
    oldest_encoded: AtomicU64,
}

impl Default for Ledger {
    fn default() -> Self {
        Self {
            resident: AtomicU64::new(0),
            logged: AtomicU64::new(0),
            pinned: AtomicU64::new(0),
            oldest_encoded: AtomicU64::new(u64::MAX),
        }
    }
}

impl Ledger {
    /// Returns the bytes of all publications and encodings in memory.
    #[must_use]
    pub fn resident(&self) -> u64 {
        sum(&self.resident)
    }

    /// Returns the number of bytes of the encodings of publications that are in the log.
    #[must_use]
    pub fn logged(&self) -> u64 {
        sum(&self.logged)
    }

    /// Returns the bytes that only conns keep in memory: encodings of publications that the log has
    /// evicted, and copied parts of encodings.
    #[must_use]
    pub fn pinned(&self) -> u64 {
        sum(&self.pinned)
    }

    pub(super) fn add(&self, bytes: u64) {
        self.resident.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn remove(&self, bytes: u64) {
        self.resident.fetch_sub(bytes, Ordering::Relaxed);
    }

    pub(super) fn add_pinned(&self, bytes: u64) {
        self.add(bytes);
        self.pinned.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn remove_pinned(&self, bytes: u64) {
        self.remove(bytes);
        self.pinned.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Records that the publication with this number is in the log and may have encodings.
    pub(crate) fn note_encoded(&self, sequence: Sequence) {
        self.oldest_encoded.fetch_min(sequence.0, Ordering::Relaxed);
    }

    /// Returns the lowest number that was passed to [`Self::note_encoded`] since the previous call
    /// of this function. The caller drops the encodings of publications from this number on, up to
    /// some publication. Then it passes the number of the next publication to
    /// [`Self::note_encoded`].
    pub(crate) fn take_oldest_encoded(&self) -> Sequence {
        Sequence(self.oldest_encoded.swap(u64::MAX, Ordering::Relaxed))
    }
}

/// Returns a sum. A thread may see a subtraction before the addition of another thread, so the sum
/// may be negative for a moment.
fn sum(bytes: &AtomicU64) -> u64 {
    let bytes = bytes.load(Ordering::Relaxed);
    u64::try_from(bytes.cast_signed()).unwrap_or(0)
}

/// The bytes of one publication's encodings, as counted in a ledger.
#[derive(Debug)]
pub(super) struct Weight {
    ledger: Arc<Ledger>,
    /// Bits 0 to 35: the number of bytes. Bits 36 to 62: the number of conns that hold the
    /// encodings. Bit 63: whether the publication is in the log.
    state: AtomicU64,
}

const CONN: u64 = 1 << 36;
const BYTES: u64 = CONN - 1;
const LOGGED: u64 = 1 << 63;

impl Weight {
    pub(super) fn new(ledger: &Arc<Ledger>, bytes: u64, is_logged: bool) -> Self {
        ledger.add(bytes);
        if is_logged {
            ledger.logged.fetch_add(bytes, Ordering::Relaxed);
        }
        Self {
            ledger: Arc::clone(ledger),
            state: AtomicU64::new(if is_logged { bytes | LOGGED } else { bytes }),
        }
    }

    pub(super) fn ledger(&self) -> &Arc<Ledger> {
        &self.ledger
    }

    pub(super) fn bytes(&self) -> u64 {
        self.state.load(Ordering::Relaxed) & BYTES
    }

    pub(super) fn conns(&self) -> u64 {
        conns(self.state.load(Ordering::Relaxed))
    }

    pub(super) fn is_logged(&self) -> bool {
        self.state.load(Ordering::Relaxed) & LOGGED != 0
    }

    pub(super) fn add(&self, bytes: u64) {
        let before = self.state.fetch_add(bytes, Ordering::Relaxed);
        self.ledger.add(bytes);
        if before & LOGGED != 0 {
            self.ledger.logged.fetch_add(bytes, Ordering::Relaxed);
        } else if conns(before) > 0 {
            self.ledger.pinned.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    /// Counts one more conn that holds the encodings in memory.
    pub(super) fn hold(&self) {
        let before = self.state.fetch_add(CONN, Ordering::Relaxed);
        if before & !BYTES == 0 {
            let bytes = before & BYTES;
            self.ledger.pinned.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    /// Counts one conn fewer that holds the encodings in memory.
    pub(super) fn release(&self) {
        let after = self.state.fetch_sub(CONN, Ordering::Relaxed) - CONN;
        if after & !BYTES == 0 {
            self.ledger.pinned.fetch_sub(after, Ordering::Relaxed);
        }
    }

    /// Records that the log has evicted the publication.
    pub(super) fn leave_log(&self) {
        let before = self.state.fetch_and(!LOGGED, Ordering::Relaxed);
        if before & LOGGED == 0 {
            return;
        }
        let bytes = before & BYTES;
        self.ledger.logged.fetch_sub(bytes, Ordering::Relaxed);
        if conns(before) > 0 {
            self.ledger.pinned.fetch_add(bytes, Ordering::Relaxed);
        }
    }
}

impl Drop for Weight {
    fn drop(&mut self) {
        self.leave_log();
        debug_assert_eq!(self.conns(), 0);
        self.ledger.remove(self.bytes());
    }
}

fn conns(state: u64) -> u64 {
    (state & !LOGGED) / CONN
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sums(ledger: &Ledger) -> (u64, u64, u64) {
        (ledger.resident(), ledger.logged(), ledger.pinned())
    }

    #[test]
    fn bytes_are_pinned_when_a_conn_holds_them_and_the_log_does_not() {
        let ledger = Arc::new(Ledger::default());
        let weight = Weight::new(&ledger, 5, true);
        assert_eq!(sums(&ledger), (5, 5, 0));
        weight.hold();
        weight.hold();
        weight.add(2);
        assert_eq!((sums(&ledger), weight.conns()), ((7, 7, 0), 2));
        weight.leave_log();
        weight.leave_log();
        assert_eq!(sums(&ledger), (7, 0, 7));
        weight.add(1);
        weight.release();
        assert_eq!(sums(&ledger), (8, 0, 8));
        weight.release();
        assert_eq!(sums(&ledger), (8, 0, 0));
        weight.hold();
        assert_eq!(sums(&ledger), (8, 0, 8));
        weight.release();
        drop(weight);
        assert_eq!(sums(&ledger), (0, 0, 0));
    }

    #[test]
    fn weight_dropped_in_the_log_leaves_no_bytes() {
        let ledger = Arc::new(Ledger::default());
        drop(Weight::new(&ledger, 5, true));
        assert_eq!(sums(&ledger), (0, 0, 0));
        let never = Weight::new(&ledger, 5, false);
        never.add(3);
        assert_eq!(sums(&ledger), (8, 0, 0));
    }

    #[test]
    fn sums_are_exact_after_concurrent_changes() {
        let ledger = Arc::new(Ledger::default());
        let weight = Weight::new(&ledger, 1, true);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..1_000 {
                        weight.hold();
                        weight.add(1);
                        weight.leave_log();
                        weight.release();
                    }
                    weight.hold();
                });
            }
        });
        assert_eq!(sums(&ledger), (4_001, 0, 4_001));
        (0..4).for_each(|_| weight.release());
        drop(weight);
        assert_eq!(sums(&ledger), (0, 0, 0));
    }

    #[test]
    fn oldest_encoded_is_not_lost_between_two_calls() {
        let ledger = Ledger::default();
        ledger.note_encoded(Sequence(7));
        ledger.note_encoded(Sequence(9));
        assert_eq!(ledger.take_oldest_encoded(), Sequence(7));
        // A subscriber that is behind can cause older publications to be encoded again.
        ledger.note_encoded(Sequence(3));
        ledger.note_encoded(Sequence(8));
        assert_eq!(ledger.take_oldest_encoded(), Sequence(3));
        assert_eq!(ledger.take_oldest_encoded(), Sequence(u64::MAX));
    }
}
