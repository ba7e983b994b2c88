//! Limits the number of log lines per second, for one kind of warning.
//!
//! All threads share one limiter of 8 bytes, without a lock. The caller passes the time.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::config::limits::{WARNING_WINDOW_MS, WARNINGS_PER_WINDOW_MAX};
use crate::time::Now;

/// The number of events in the current window. The upper half contains the number of the window,
/// counted from the start of the clock, and the lower half contains the number of events.
#[derive(Debug, Default)]
pub(super) struct LineLimiter(AtomicU64);

/// The answer of [`LineLimiter::admit`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) struct Admitted {
    /// Whether a line may be written for this event.
    pub(super) is_allowed: bool,
    /// The number of events of an earlier window for which no line was written. Each such event is
    /// reported once.
    pub(super) suppressed: u32,
}

#[derive(Clone, Copy)]
struct Window {
    number: u32,
    events: u32,
}

impl Window {
    fn unpack(bits: u64) -> Self {
        let [a, b, c, d, e, f, g, h] = bits.to_be_bytes();
        Self {
            number: u32::from_be_bytes([a, b, c, d]),
            events: u32::from_be_bytes([e, f, g, h]),
        }
    }

    fn pack(self) -> u64 {
        u64::from(self.number) << 32 | u64::from(self.events)
    }

    /// Returns the number of events for which no line was written.
    fn suppressed(self) -> u32 {
        self.events.saturating_sub(WARNINGS_PER_WINDOW_MAX)
    }
}

impl LineLimiter {
    /// Counts an event, and decides whether a line may be written for it.
    pub(super) fn admit(&self, now: Now) -> Admitted {
        let mut admitted = Admitted {
            is_allowed: true,
            suppressed: 0,
        };
        self.update(|window| {
            let current = window_at(now);
            // A worker's time is the time of its turn, so it can be earlier than the time of
            // another worker. Such an event counts in the newest window.
            let next = if current > window.number {
                admitted.suppressed = window.suppressed();
                let (number, events) = (current, 1);
                Window { number, events }
            } else {
                admitted.suppressed = 0;
                let events = window.events.saturating_add(1);
                Window { events, ..window }
            };
            admitted.is_allowed = next.suppressed() == 0;
            Some(next)
        });
        admitted
    }

    /// Returns the number of suppressed events of a window that has ended, and forgets them.
    pub(super) fn take_suppressed(&self, now: Now) -> u32 {
        let mut suppressed = 0;
        self.update(|window| {
            let number = window_at(now);
            suppressed = match number > window.number {
                true => window.suppressed(),
                false => 0,
            };
            let events = 0;
            (suppressed > 0).then_some(Window { number, events })
        });
        suppressed
    }

    fn update(&self, mut next: impl FnMut(Window) -> Option<Window>) {
        let next = |bits| next(Window::unpack(bits)).map(Window::pack);
        // The result is an error if `next` wanted no change.
        let _before = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
    }
}

/// Returns the number of the window that contains this time. The first window has the number 1.
fn window_at(now: Now) -> u32 {
    let number = now.0 / (WARNING_WINDOW_MS * 1000);
    u32::try_from(number).unwrap_or(u32::MAX).saturating_add(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: u32 = WARNINGS_PER_WINDOW_MAX;

    fn at_ms(ms: u64) -> Now {
        Now(ms * 1000)
    }

    /// Counts this many events. Returns how many lines may be written, and the number of suppressed
    /// events of earlier windows.
    fn admit(limiter: &LineLimiter, events: u32, now: Now) -> (u32, u32) {
        let admitted = (0..events).map(|_| limiter.admit(now));
        admitted.fold((0, 0), |(lines, suppressed), one| {
            let lines = lines + u32::from(one.is_allowed);
            (lines, suppressed + one.suppressed)
        })
    }

    #[test]
    fn events_beyond_the_limit_of_a_window_are_suppressed_and_reported_once() {
        let limiter = LineLimiter::default();
        assert_eq!(admit(&limiter, MOST, at_ms(0)), (MOST, 0));
        assert_eq!(admit(&limiter, 1_000, at_ms(999)), (0, 0));
        assert_eq!(admit(&limiter, MOST, at_ms(1_000)), (MOST, 1_000));
        assert_eq!(admit(&limiter, MOST, at_ms(5_000)), (MOST, 0));
    }

    #[test]
    fn suppressed_events_are_reported_although_no_event_follows() {
        let limiter = LineLimiter::default();
        assert_eq!(admit(&limiter, MOST + 7, at_ms(500)), (MOST, 0));
        assert_eq!(limiter.take_suppressed(at_ms(999)), 0, "the window is open");
        assert_eq!(limiter.take_suppressed(at_ms(1_000)), 7);
        assert_eq!(limiter.take_suppressed(at_ms(9_000)), 0);
        assert_eq!(admit(&limiter, MOST, at_ms(9_000)), (MOST, 0));
    }

    #[test]
    fn thread_whose_time_is_late_does_not_reopen_a_window() {
        let limiter = LineLimiter::default();
        assert_eq!(admit(&limiter, MOST, at_ms(3_000)), (MOST, 0));
        assert_eq!(admit(&limiter, 2, at_ms(2_999)), (0, 0));
        assert_eq!(limiter.take_suppressed(at_ms(2_000)), 0);
        assert_eq!(admit(&limiter, 1, at_ms(4_000)), (1, 2));
    }

    #[test]
    fn threads_together_write_no_more_lines_than_the_limit() {
        let limiter = LineLimiter::default();
        let lines: u32 = std::thread::scope(|scope| {
            let threads = [(); 8].map(|()| scope.spawn(|| admit(&limiter, 1_000, at_ms(10)).0));
            threads.map(|thread| thread.join().unwrap()).iter().sum()
        });
        assert_eq!(lines, MOST);
        assert_eq!(limiter.take_suppressed(at_ms(1_010)), 8_000 - MOST);
    }
}
