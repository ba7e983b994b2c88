//! The only clock of the process. The clock measures the time after its start, as a [`Now`].
//!
//! The main thread creates the clock once and copies it to every thread. So a [`Now`] of the feed
//! can be compared with a [`Now`] of a worker. Only code that performs I/O reads the clock; all
//! other code receives the time as an argument.

use std::time::Instant;

use crate::time::{Now, micros};

/// Measures the time after [`Clock::start`].
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    started: Instant,
    start: Now,
}

impl Clock {
    /// Starts a clock at zero.
    #[must_use]
    pub fn start() -> Self {
        Self::start_at(Now(0))
    }

    /// Starts a clock above zero, so that times before the start of the process are not negative.
    #[must_use]
    pub fn start_at(start: Now) -> Self {
        Self {
            started: Instant::now(),
            start,
        }
    }

    /// Returns the current time.
    #[must_use]
    pub fn now(&self) -> Now {
        let elapsed = micros(self.started.elapsed());
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
