//! The process's one clock: time since it started, as the pure parts want it.
//!
//! Made once by the main thread and copied to every thread, so that a [`Now`] of the feed and one
//! of a worker can be compared. Only the shell reads it.

use std::time::Instant;

use crate::time::Now;

/// Tells the time since [`Clock::start`].
#[derive(Clone, Copy, Debug)]
pub struct Clock(Instant);

impl Clock {
    /// A clock that begins at zero.
    #[must_use]
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// The time now.
    #[must_use]
    pub fn now(&self) -> Now {
        Now(u64::try_from(self.0.elapsed().as_micros()).unwrap_or(u64::MAX))
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
