//! The process's one clock: time since its start, as a [`Now`].
//!
//! Created once by the main thread and copied to every thread, so that a [`Now`] of the feed can be
//! compared with one of a worker. Only the shell reads it.

use std::time::Instant;

use crate::time::Now;

/// Measures the time since [`Clock::start`].
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    started: Instant,
    start: Now,
}

impl Clock {
    /// A clock that starts at zero.
    #[must_use]
    pub fn start() -> Self {
        Self::start_at(Now(0))
    }

    /// A clock that starts above zero, so that times before its start are not negative.
    #[must_use]
    pub fn start_at(start: Now) -> Self {
        Self {
            started: Instant::now(),
            start,
        }
    }

    /// The current time.
    #[must_use]
    pub fn now(&self) -> Now {
        let elapsed = u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX);
        Now(self.start.0.saturating_add(elapsed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clock_never_goes_back_and_its_copy_agrees() {
        let clock = Clock::start();
        let copy = clock;
        let first = clock.now();
        assert!(copy.now() >= first);
    }
}
