//! Limits the number of events per second, such as log lines of one kind.
//!
//! All threads share one limiter of 8 bytes, without a lock. A limiter changes only if an event is
//! admitted. So in a flood of events, the threads only read it. The caller passes the time.

use std::sync::atomic::{AtomicU64, Ordering};

use super::Now;

/// The length of a window in microseconds.
const WINDOW_US: u64 = 1_000_000;

/// The number of events in the current window. The upper half contains the number of the window,
/// counted from the start of the clock, and the lower half contains the number of events.
#[derive(Debug, Default)]
pub(crate) struct WindowLimiter(AtomicU64);

/// The answer of [`WindowLimiter::admit`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Admitted {
    /// The event is admitted. It is the first one of a window.
    First,
    /// The event is admitted.
    Next,
    /// The window has no room for the event.
    Suppressed,
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

    /// Returns the window after one more event at the time of the window `current`. Returns `None`
    /// if the window has no room.
    fn admit(self, current: u32, most: u32) -> Option<Self> {
        // A worker's time is the time of its turn, so it can be earlier than the time of another
        // worker. Such an event counts in the newest window.
        let before = if current > self.number {
            0
        } else {
            self.events
        };
        let number = self.number.max(current);
        let events = before.saturating_add(1);
        (events <= most).then_some(Self { number, events })
    }
}

impl WindowLimiter {
    /// Decides whether an event is one of the first `most` events of its window.
    pub(crate) fn admit(&self, now: Now, most: u32) -> Admitted {
        let current = window_at(now);
        let next = |bits| Window::unpack(bits).admit(current, most).map(Window::pack);
        // If `next` returns `None`, the limiter is only read.
        let before = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        match before {
            Ok(bits) if Window::unpack(bits).number < current => Admitted::First,
            Ok(_) => Admitted::Next,
            Err(_) => Admitted::Suppressed,
        }
    }

    /// Whether the window of the newest admitted event has ended.
    pub(crate) fn has_ended(&self, now: Now) -> bool {
        window_at(now) > Window::unpack(self.0.load(Ordering::Relaxed)).number
    }
}

/// Returns the number of the window that contains this time. The first window has the number 1.
fn window_at(now: Now) -> u32 {
    let number = now.0 / WINDOW_US;
    u32::try_from(number).unwrap_or(u32::MAX).saturating_add(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: u32 = 10;

    fn at_ms(ms: u64) -> Now {
        Now(ms * 1000)
    }

    /// Offers this many events. Returns the number of admitted events, and the number of windows
    /// that began.
    fn admit(limiter: &WindowLimiter, events: u32, now: Now) -> (u32, u32) {
        let admitted = (0..events).map(|_| limiter.admit(now, MOST));
        admitted.fold((0, 0), |(admitted, windows), one| match one {
            Admitted::First => (admitted + 1, windows + 1),
            Admitted::Next => (admitted + 1, windows),
            Admitted::Suppressed => (admitted, windows),
        })
    }

    #[test]
    fn events_beyond_the_limit_of_a_window_are_suppressed() {
        let limiter = WindowLimiter::default();
        assert_eq!(admit(&limiter, MOST, at_ms(0)), (MOST, 1));
        assert_eq!(admit(&limiter, 1_000, at_ms(999)), (0, 0));
        assert!(!limiter.has_ended(at_ms(999)));
        assert!(limiter.has_ended(at_ms(1_000)));
        assert_eq!(admit(&limiter, MOST + 1, at_ms(1_000)), (MOST, 1));
        assert_eq!(admit(&limiter, MOST, at_ms(5_000)), (MOST, 1));
        assert_eq!(limiter.admit(at_ms(9_000), 0), Admitted::Suppressed);
    }

    #[test]
    fn suppressed_event_does_not_change_the_limiter() {
        let limiter = WindowLimiter::default();
        assert_eq!(admit(&limiter, MOST, at_ms(0)), (MOST, 1));
        let full = limiter.0.load(Ordering::Relaxed);
        assert_eq!(admit(&limiter, 1_000, at_ms(1)), (0, 0));
        assert_eq!(limiter.0.load(Ordering::Relaxed), full);
    }

    #[test]
    fn thread_whose_time_is_late_does_not_reopen_a_window() {
        let limiter = WindowLimiter::default();
        assert_eq!(admit(&limiter, MOST, at_ms(3_000)), (MOST, 1));
        assert_eq!(admit(&limiter, 2, at_ms(2_999)), (0, 0));
        assert!(!limiter.has_ended(at_ms(2_000)));
    }

    #[test]
    fn threads_together_get_no_more_than_the_limit() {
        let limiter = WindowLimiter::default();
        let all = std::thread::scope(|scope| {
            let threads = [(); 8].map(|()| scope.spawn(|| admit(&limiter, 1_000, at_ms(10))));
            threads.map(|thread| thread.join().unwrap())
        });
        let sum = all.into_iter().fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
        assert_eq!(sum, (MOST, 1));
    }
}
