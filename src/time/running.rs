//! The clock of deadlines that measure a peer: it stands still while its thread does not run.
//!
//! A stopped process, a paused virtual machine and a starved thread leave a peer no chance to be
//! heard. Time that a turn takes beyond what it may need is therefore not counted. Every deadline
//! by which a conn is judged is on this clock; ages of publications and calendars are not.

use std::time::Duration;

use super::Now;
use crate::config::limits::{SLEEP_MS_MAX, TURN_RUNNING_MS_MAX};

/// Time for which a worker, or the feed, has run.
#[derive(Clone, Copy, Debug)]
pub struct Running {
    now: Now,
    /// The monotonic clock when this one was advanced last.
    seen: Now,
    is_late: bool,
}

impl Running {
    /// Shows `now` at first, so that both clocks agree until the worker is late.
    #[must_use]
    pub fn new(now: Now) -> Self {
        Self {
            now,
            seen: now,
            is_late: false,
        }
    }

    /// The time.
    #[must_use]
    pub fn now(self) -> Now {
        self.now
    }

    /// What it will show at `now` if the turn under way is not late.
    #[must_use]
    pub fn at(self, now: Now) -> Now {
        Now(self.now.after(now.since(self.seen)).0)
    }

    /// A turn is over in which the thread meant to sleep no longer than `sleep`; `None` is without
    /// end. Returns true if it came late. How much of a late turn was sleep is unknown, so none of
    /// it is counted as such.
    pub fn advance(&mut self, now: Now, sleep: Option<Duration>) -> bool {
        let elapsed = now.since(self.seen);
        let work = Duration::from_millis(TURN_RUNNING_MS_MAX);
        let is_late = elapsed > sleep.unwrap_or(Duration::MAX).saturating_add(work);
        let counted = if is_late { work } else { elapsed };
        self.now = Now(self.now.after(counted).0);
        self.seen = now;
        self.is_late = is_late;
        is_late
    }

    /// How long the thread may sleep. Sleeps are short where turns are late, so that a thread that
    /// is always late does not lose most of its time.
    #[must_use]
    pub fn sleep_max(self) -> Duration {
        Duration::from_millis(match self.is_late {
            true => TURN_RUNNING_MS_MAX,
            false => SLEEP_MS_MAX,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn clocks_agree_while_turns_take_what_they_may() {
        let mut running = Running::new(Now(7));
        assert!(!running.advance(Now(1_000_007), Some(SECOND)));
        assert_eq!(running.at(Now(1_000_010)), Now(1_000_010));
        assert!(!running.advance(Now(1_100_000), Some(Duration::ZERO)));
        assert!(!running.advance(Now(9_000_000), None));
        assert_eq!(running.now(), Now(9_000_000));
    }

    #[test]
    fn pause_counts_as_a_turn_without_sleep() {
        let mut running = Running::new(Now(0));
        assert!(running.advance(Now(60_000_000), Some(SECOND)));
        let counted = Duration::from_millis(TURN_RUNNING_MS_MAX);
        assert_eq!(running.now().since(Now(0)), counted);
        assert_eq!(running.sleep_max(), counted);
        assert!(!running.advance(Now(60_200_000), Some(counted)));
        assert_eq!(running.sleep_max(), SECOND);
    }

    #[test]
    fn clock_that_goes_back_stands_still() {
        let mut running = Running::new(Now(500));
        assert!(!running.advance(Now(100), Some(SECOND)));
        assert_eq!(running.now(), Now(500));
    }
}
