//! The calendar against the worker's clock.
//!
//! The clock never jumps. The calendar (`CLOCK_REALTIME`) does when it is set, and after the
//! machine was suspended, when the clock stood still. What is due at a time of the calendar is
//! armed on the clock. A calendar that has gone back makes such a timer early, which its owner
//! notices when it fires. One that has gone ahead makes it late, so [`Calendar::read`] reports it.

use std::time::Duration;

use crate::time::{Deadline, Now};

const SECOND_US: i64 = 1_000_000;

/// Both clocks, as they were read together.
#[derive(Debug, Default)]
pub(super) struct Calendar {
    /// The calendar's seconds since 1970 when it was last read.
    pub(super) unix_s: u64,
    /// Microseconds by which the calendar is ahead of the clock. The calendar is read in whole
    /// seconds, so a reading is up to a second too small. Of those that agree the largest is kept.
    lead_us: i64,
    /// The smallest `lead_us` that a timer may have been armed with.
    armed_us: i64,
}

impl Calendar {
    /// Notes a reading of both. True if timers that were armed before may be late by a second or
    /// more, and have to be armed again.
    pub(super) fn read(&mut self, unix_s: u64, now: Now) -> bool {
        self.unix_s = unix_s;
        let lead_us = signed(u128::from(unix_s) * 1_000_000).saturating_sub(signed(now.0));
        let agrees = (self.lead_us.saturating_sub(SECOND_US)..=self.lead_us).contains(&lead_us);
        if !agrees {
            self.lead_us = lead_us;
        }
        self.armed_us = self.armed_us.min(self.lead_us);
        let is_late = self.lead_us.saturating_sub(self.armed_us) >= SECOND_US;
        if is_late {
            self.armed_us = self.lead_us;
        }
        is_late
    }

    /// A time since 1970, on the clock.
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
    use proptest::prelude::*;

    use super::*;

    const HOUR_US: i64 = 3_600_000_000;
    const START_US: i64 = 1_800_000_000_000_000;

    /// Reads when the calendar is at `START_US` and so much more, and the clock at `clock_us`.
    fn read(calendar: &mut Calendar, more_us: i64, clock_us: u64) -> bool {
        let unix_s = u64::try_from((START_US + more_us) / SECOND_US).unwrap();
        calendar.read(unix_s, Now(clock_us))
    }

    #[test]
    fn times_are_converted_and_saturate() {
        let mut calendar = Calendar::default();
        read(&mut calendar, 0, 5_000_000);
        let deadline = |us: i64| calendar.deadline(Duration::from_micros(us.unsigned_abs()));
        assert_eq!(deadline(START_US), Deadline(5_000_000));
        assert_eq!(deadline(START_US + 1), Deadline(5_000_001));
        assert_eq!(deadline(0), Deadline(0));
        let end = calendar.deadline(Duration::from_secs(u64::MAX));
        assert!(end > Deadline(HOUR_US.unsigned_abs() * 1_000_000));
    }

    #[test]
    fn step_ahead_is_reported_once_and_one_back_is_not() {
        let mut calendar = Calendar::default();
        read(&mut calendar, 0, 0);
        assert!(!read(&mut calendar, 1_000_000, 1_000_000));
        assert!(read(&mut calendar, 2_000_000 + HOUR_US, 2_000_000));
        assert!(!read(&mut calendar, 3_000_000 + HOUR_US, 3_000_000));
        assert!(!read(&mut calendar, 4_000_000, 4_000_000));
        // A timer that was armed meanwhile is late again.
        assert!(read(&mut calendar, 5_000_000 + HOUR_US, 5_000_000));
    }

    #[test]
    fn small_steps_add_up() {
        let mut calendar = Calendar::default();
        read(&mut calendar, 0, 0);
        let mut is_reported = |step: i64| read(&mut calendar, step * 400_000, 0);
        let reports = (1..=10).filter(|step| is_reported(*step)).count();
        assert!(reports >= 2, "{reports}");
    }

    proptest! {
        #[test]
        fn steady_clocks_are_never_reported_and_late_by_less_than_a_second(
            start_us in 0..2_000_000_i64,
            waits in proptest::collection::vec(0..3_000_000_i64, 1..50),
        ) {
            let mut calendar = Calendar::default();
            read(&mut calendar, start_us, 0);
            let mut clock_us = 0;
            for wait in waits {
                clock_us += wait;
                prop_assert!(!read(&mut calendar, start_us + clock_us, clock_us.unsigned_abs()));
                let due = (START_US + start_us + 60_000_000).unsigned_abs();
                let late = calendar.deadline(Duration::from_micros(due)).0 - 60_000_000;
                prop_assert!(late < 1_000_000, "{late}");
            }
        }
    }
}
