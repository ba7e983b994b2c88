//! Types for time. Modules that perform no I/O receive the time as an argument and never read a
//! clock.
//!
//! A [`Now`] is a number of microseconds after the start of the server's clock. A [`Deadline`] is a
//! later moment on the same clock. A worker reads the clock once per turn of its event loop; the
//! simulation sets the time.

pub mod running;
pub mod wheel;
pub(crate) mod window_limiter;

use std::time::Duration;

/// A moment on a monotonic clock, in microseconds after the clock's start. It has no relation to
/// the calendar.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Now(pub u64);

impl Now {
    /// Returns the moment that is `wait` after this moment.
    #[must_use]
    pub fn after(self, wait: Duration) -> Deadline {
        Deadline(self.0.saturating_add(micros(wait)))
    }

    /// Returns the time that has passed after `earlier`; zero if `earlier` is in the future.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }

    /// Returns the microseconds that have passed after `earlier`; zero if `earlier` is in the
    /// future. Unlike [`Self::since`], it needs no division.
    #[must_use]
    pub fn micros_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// Whether the deadline has passed.
    #[must_use]
    pub fn has_reached(self, deadline: Deadline) -> bool {
        self.0 >= deadline.0
    }
}

/// A moment at which an action is due, on the same clock as [`Now`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Deadline(pub u64);

impl Deadline {
    /// Returns the time until the deadline; zero if the deadline has passed.
    #[must_use]
    pub fn remaining(self, now: Now) -> Duration {
        Duration::from_micros(self.0.saturating_sub(now.0))
    }
}

/// Returns a duration in microseconds, or `u64::MAX` if the number of microseconds exceeds 64 bits.
#[must_use]
pub fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadline_is_reached_at_its_microsecond() {
        let deadline = Now(10).after(Duration::from_micros(5));
        assert!(!Now(14).has_reached(deadline));
        assert!(Now(15).has_reached(deadline));
        assert_eq!(deadline.remaining(Now(11)), Duration::from_micros(4));
        assert_eq!(deadline.remaining(Now(99)), Duration::ZERO);
    }

    #[test]
    fn elapsed_time_is_never_negative() {
        assert_eq!(Now(5).since(Now(9)), Duration::ZERO);
    }
}
