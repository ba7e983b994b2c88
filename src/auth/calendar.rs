//! Conversion between the wall clock and the worker's clock.
//!
//! The worker's clock never jumps. The wall clock (`CLOCK_REALTIME`, here called the calendar)
//! jumps when it is set, and after a suspension of the machine. A timer for a calendar time is
//! armed on the worker's clock. If the calendar is set back, the timer fires too early, and the
//! owner of the timer detects this. If the calendar is set ahead, the timer would fire too late, so
//! [`Calendar::read`] reports this case.

use std::time::Duration;

use crate::time::{Deadline, Now};

/// The maximum tolerated delay of a timer, in microseconds. If timers would fire later than this,
/// they are armed again.
const LATE_US_MAX: i64 = 100_000;

/// The last reading of both clocks.
#[derive(Debug, Default)]
pub(super) struct Calendar {
    /// The time of the calendar minus the time of the worker's clock, in microseconds.
    lead_us: i64,
    /// The smallest value of `lead_us` since all timers were last armed. If `lead_us` rises above
    /// this value by [`LATE_US_MAX`] or more, some timers may fire too late.
    armed_us: i64,
}

impl Calendar {
    /// Stores a reading of both clocks. Returns true if the existing timers may fire too late. The
    /// caller must then arm them again.
    pub(super) fn read(&mut self, since_1970: Duration, now: Now) -> bool {
        self.lead_us = signed(since_1970.as_micros()).saturating_sub(signed(now.0));
        self.armed_us = self.armed_us.min(self.lead_us);
        let is_late = self.lead_us.saturating_sub(self.armed_us) >= LATE_US_MAX;
        if is_late {
            self.armed_us = self.lead_us;
        }
        is_late
    }

    /// Converts a time of the worker's clock to the calendar time in seconds since 1970.
    pub(super) fn unix_s(&self, now: Now) -> u64 {
        let at_us = signed(now.0).saturating_add(self.lead_us);
        at_us.max(0).unsigned_abs() / 1_000_000
    }

    /// Converts a calendar time, as the time since 1970, to a deadline on the worker's clock.
    pub(super) fn deadline(&self, since_1970: Duration) -> Deadline {
        let at_us = signed(since_1970.as_micros()).saturating_sub(self.lead_us);
        Deadline(at_us.max(0).unsigned_abs())
    }
}

fn signed(micros: impl TryInto<i64>) -> i64 {
    micros.try_into().unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_US: u64 = 3_600_000_000;
    const START_US: u64 = 1_800_000_000_000_000;

    /// Lets `calendar` read both clocks. The wall clock is at `START_US + more_us`, and the
    /// worker's clock is at `clock_us`.
    fn read(calendar: &mut Calendar, more_us: u64, clock_us: u64) -> bool {
        calendar.read(Duration::from_micros(START_US + more_us), Now(clock_us))
    }

    #[test]
    fn times_are_converted_and_saturate() {
        let mut calendar = Calendar::default();
        read(&mut calendar, 0, 5_000_000);
        let deadline = |us: u64| calendar.deadline(Duration::from_micros(us));
        assert_eq!(deadline(START_US), Deadline(5_000_000));
        assert_eq!(deadline(START_US + 1), Deadline(5_000_001));
        assert_eq!(deadline(0), Deadline(0));
        let end = calendar.deadline(Duration::from_secs(u64::MAX));
        assert!(end > Deadline(HOUR_US * 1_000_000));
        assert_eq!(calendar.unix_s(Now(5_000_000)), START_US / 1_000_000);
        assert_eq!(calendar.unix_s(Now(6_999_999)), START_US / 1_000_000 + 1);
    }

    #[test]
    fn step_ahead_is_reported_once_and_a_step_back_is_not() {
        let mut calendar = Calendar::default();
        read(&mut calendar, 0, 0);
        assert!(!read(&mut calendar, 1_000_000, 1_000_000));
        assert!(read(&mut calendar, 2_000_000 + HOUR_US, 2_000_000));
        assert!(!read(&mut calendar, 3_000_000 + HOUR_US, 3_000_000));
        assert!(!read(&mut calendar, 4_000_000, 4_000_000));
        // The calendar is set ahead by an hour again. A timer that was armed after the previous
        // reading would now fire an hour late.
        assert!(read(&mut calendar, 5_000_000 + HOUR_US, 5_000_000));
    }

    #[test]
    fn small_steps_add_up() {
        let mut calendar = Calendar::default();
        read(&mut calendar, 0, 0);
        let reports = (1..=9).filter(|step| read(&mut calendar, step * 60_000, 0));
        assert_eq!(reports.count(), 4);
    }
}
