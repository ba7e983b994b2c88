//! PURE: rates between two answers to `top`.
//!
//! All numbers are integers, and small rates are shown with one decimal. So rates are in tenths.

use fanfare::operator::answer::{TopAnswer, WorkerRow};

/// Rates, in tenths per second if nothing else is said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rates {
    /// The time over which the rates are averaged, in milliseconds.
    pub(super) period_ms: u64,
    /// Whether this time began with the server.
    pub(super) is_since_start: bool,
    /// Accepted connections.
    pub(super) accepted: u64,
    /// Refused connections and requests.
    pub(super) refused: u64,
    /// Publications that were added to the log.
    pub(super) publications: u64,
    /// Publications that were delivered to subscribers.
    pub(super) deliveries: u64,
    /// Bytes that were written to sockets, per second.
    pub(super) sent_bytes: u64,
    /// Publications that slow subscribers have not received.
    pub(super) skipped: u64,
    /// The rates of the workers, in the order of the answer.
    pub(super) workers: Vec<WorkerRates>,
}

/// The rates of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct WorkerRates {
    /// The share of time in which the worker has worked, in tenths of a per cent.
    pub(super) busy: u64,
    /// Publications that were delivered to subscribers, in tenths per second.
    pub(super) deliveries: u64,
    /// Bytes that were written to sockets, per second.
    pub(super) sent_bytes: u64,
    /// The number of late turns in the period.
    pub(super) late: u64,
}

/// Whether the server was restarted between the two answers.
pub(super) fn is_restart(before: &TopAnswer, now: &TopAnswer) -> bool {
    now.uptime_ms < before.uptime_ms || now.now_us < before.now_us
}

impl Rates {
    /// Computes the rates since the answer before. Without one, computes the averages since the
    /// start of the server.
    pub(super) fn new(before: Option<&TopAnswer>, now: &TopAnswer) -> Self {
        let period_us = match before {
            Some(before) => now.now_us.saturating_sub(before.now_us),
            None => now.uptime_ms.saturating_mul(1_000),
        };
        let tenths = |total: fn(&TopAnswer) -> u64| {
            let increase = total(now).saturating_sub(before.map_or(0, total));
            per_second(increase, 10, period_us)
        };
        let workers = now.workers.iter().map(|worker| {
            let same = |was: &&WorkerRow| was.worker == worker.worker;
            let was = before.and_then(|before| before.workers.iter().find(same));
            WorkerRates::new(was, worker, period_us)
        });
        Self {
            period_ms: period_us / 1_000,
            is_since_start: before.is_none(),
            accepted: tenths(|answer| answer.accepted_total),
            refused: tenths(|answer| answer.refused_total),
            publications: tenths(|answer| answer.publications_total),
            deliveries: tenths(|answer| answer.deliveries_total),
            sent_bytes: tenths(|answer| answer.sent_bytes_total) / 10,
            skipped: tenths(|answer| answer.skipped_total),
            workers: workers.collect(),
        }
    }
}

impl WorkerRates {
    fn new(before: Option<&WorkerRow>, now: &WorkerRow, period_us: u64) -> Self {
        let increase = |total: fn(&WorkerRow) -> u64| {
            let was = before.map_or(0, total);
            total(now).saturating_sub(was)
        };
        let worked_us = increase(|worker| worker.worked_us);
        // The worker's figures and the server's clock are not read at the same moment.
        let busy = worked_us.saturating_mul(1_000).checked_div(period_us);
        Self {
            busy: busy.unwrap_or(0).min(1_000),
            deliveries: per_second(increase(|worker| worker.deliveries), 10, period_us),
            sent_bytes: per_second(increase(|worker| worker.sent_bytes), 1, period_us),
            late: increase(|worker| worker.turns_late),
        }
    }
}

/// Returns an increase per second, multiplied by `scale`. Returns zero for an empty period.
fn per_second(increase: u64, scale: u32, period_us: u64) -> u64 {
    let scaled = u128::from(increase) * u128::from(scale) * 1_000_000;
    let rate = scaled.checked_div(period_us.into()).unwrap_or(0);
    u64::try_from(rate).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(uptime_ms: u64, total: u64) -> TopAnswer {
        TopAnswer {
            uptime_ms,
            now_us: 5_000_000_000 + uptime_ms * 1_000,
            publications_total: total,
            sent_bytes_total: total * 1_000,
            workers: vec![WorkerRow {
                worker: 2,
                deliveries: total * 2,
                worked_us: total * 100,
                turns_late: total / 100,
                ..WorkerRow::default()
            }],
            ..TopAnswer::default()
        }
    }

    #[test]
    fn first_rates_are_since_the_start_and_later_ones_of_the_interval() {
        let first = answer(10_000, 1_000);
        let rates = Rates::new(None, &first);
        assert!(rates.is_since_start);
        assert_eq!((rates.period_ms, rates.publications), (10_000, 1_000));
        let rates = Rates::new(Some(&first), &answer(12_000, 1_600));
        assert!(!rates.is_since_start);
        assert_eq!((rates.period_ms, rates.publications), (2_000, 3_000));
        assert_eq!(rates.sent_bytes, 300_000);
        let worker = WorkerRates {
            busy: 30,
            deliveries: 6_000,
            sent_bytes: 0,
            late: 6,
        };
        assert_eq!(rates.workers, [worker]);
    }

    #[test]
    fn empty_period_and_smaller_totals_have_no_rate() {
        let (one, two) = (answer(1_000, 50), answer(1_000, 60));
        assert_eq!(Rates::new(Some(&one), &two).publications, 0);
        let (one, two) = (answer(1_000, 60), answer(2_000, 50));
        assert_eq!(Rates::new(Some(&one), &two).publications, 0);
        assert_eq!(per_second(u64::MAX, 10, 1), u64::MAX);
    }

    #[test]
    fn smaller_uptime_is_a_restart() {
        assert!(is_restart(&answer(2_000, 1), &answer(1_999, 1)));
        assert!(!is_restart(&answer(2_000, 1), &answer(4_000, 1)));
    }
}
