//! Counts the warnings for which no line was written.
//!
//! In a flood, several threads count at the same time. So each thread uses one of a few parts, and
//! each part has cache lines of its own.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::WarningKind;

/// The number of parts. With more threads than parts, some threads share a part.
const PARTS: usize = 16;

const KINDS: usize = WarningKind::ALL.len();

/// The numbers of one part, for each kind of warning.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Part([AtomicU64; KINDS]);

/// The numbers of suppressed events, for each kind of warning.
#[derive(Debug, Default)]
pub(super) struct Suppressed {
    parts: [Part; PARTS],
    /// The numbers that [`Self::take`] has returned so far.
    taken: [AtomicU64; KINDS],
}

thread_local! {
    /// The part of this thread.
    static PART: usize = {
        static THREADS: AtomicUsize = AtomicUsize::new(0);
        THREADS.fetch_add(1, Ordering::Relaxed) % PARTS
    };
}

impl Suppressed {
    /// Counts one event.
    pub(super) fn count(&self, kind: WarningKind) {
        let part = PART.with(|part| self.parts.get(*part));
        if let Some(number) = part.and_then(|part| part.0.get(kind as usize)) {
            number.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Returns the number of events of a kind.
    pub(super) fn total(&self, kind: WarningKind) -> u64 {
        let numbers = self
            .parts
            .iter()
            .filter_map(|part| part.0.get(kind as usize));
        numbers.map(|number| number.load(Ordering::Relaxed)).sum()
    }

    /// Returns the number of events of a kind after the last call. Each event is returned once,
    /// even if several threads call this function at the same time.
    pub(super) fn take(&self, kind: WarningKind) -> u64 {
        let total = self.total(kind);
        let before = self.taken.get(kind as usize);
        let before = before.map(|taken| taken.fetch_max(total, Ordering::Relaxed));
        total.saturating_sub(before.unwrap_or(total))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_event_is_taken_once_although_many_threads_count() {
        const THREADS: usize = 2 * PARTS;
        let suppressed = Suppressed::default();
        let kind = WarningKind::TlsFailed;
        let taken: u64 = std::thread::scope(|scope| {
            let one = || {
                (0..1_000).fold(0, |taken, _| {
                    suppressed.count(kind);
                    taken + suppressed.take(kind)
                })
            };
            let threads = [(); THREADS].map(|()| scope.spawn(one));
            threads.map(|thread| thread.join().unwrap()).iter().sum()
        });
        assert_eq!(taken + suppressed.take(kind), 1_000 * THREADS as u64);
        assert_eq!(suppressed.total(kind), 1_000 * THREADS as u64);
        assert_eq!(suppressed.total(WarningKind::WorkerLate), 0);
    }
}
