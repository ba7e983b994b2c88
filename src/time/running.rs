//! A clock for deadlines that a peer must meet. The clock stops while its thread does not run.
//!
//! While a process is stopped, a virtual machine is paused or a thread gets no processor, no bytes
//! of a peer are read. So the time that counts for one turn has a maximum: the turn's sleep plus a
//! limit on its work. If a turn takes longer, only the limit on its work counts. All deadlines of
//! conns use this clock. Ages of publications and dates do not use it.

use std::time::Duration;

use super::Now;
use crate::config::limits::{SLEEP_MS_MAX, TURN_RUNNING_MS_MAX};

/// The clock of a worker or of the feed. It stops while the thread does not run.
#[derive(Clone, Copy, Debug)]
pub struct Running {
    now: Now,
    /// The time of the monotonic clock at the last call of [`Running::advance`].
    seen: Now,
    is_late: bool,
}

impl Running {
    /// Starts the clock at `now`. The clock agrees with the monotonic clock until a turn is late.
    #[must_use]
    pub fn new(now: Now) -> Self {
        Self {
            now,
            seen: now,
            is_late: false,
        }
    }

    /// Returns the time of this clock at the start of the current turn.
    #[must_use]
    pub fn now(self) -> Now {
        self.now
    }

    /// Returns the time of this clock at `now`. The result is correct only if the current turn is
    /// not late.
    #[must_use]
    pub fn at(self, now: Now) -> Now {
        Now(self.now.after(now.since(self.seen)).0)
    }

    /// Ends a turn and returns whether the turn was late: whether it took longer than `sleep` plus
    /// [`TURN_RUNNING_MS_MAX`]. `sleep` is the maximum time for which the thread asked to sleep in
    /// this turn; `None` stands for an unlimited sleep. A late turn advances this clock by only
    /// [`TURN_RUNNING_MS_MAX`], because the true duration of its sleep is unknown.
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

    /// Returns the maximum sleep in the next turn. After a late turn, the maximum is shorter: if
    /// the next turn is late, too, its sleep does not advance this clock.
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
    fn clocks_agree_while_no_turn_is_late() {
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
    fn running_time_does_not_change_if_the_clock_goes_back() {
        let mut running = Running::new(Now(500));
        assert!(!running.advance(Now(100), Some(SECOND)));
        assert_eq!(running.now(), Now(500));
    }
}
