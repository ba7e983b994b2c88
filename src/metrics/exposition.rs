//! Writes the tables of [`super`] in the Prometheus text format (version 0.0.4).

use std::fmt::Write as _;

use super::histogram::{BOUNDS, HistogramMetric, bound_us};
use super::{Across, Kind, Metric};

/// Converts microseconds to seconds, as the last argument but one of [`push_value`].
const MICROSECONDS: u32 = 1_000_000;

/// The media type of the text that [`push`] writes.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Appends a table. `owners` are the objects that have the numbers, for example the metrics of each
/// worker. For each metric, the numbers of all owners are combined into one number. The help and
/// type lines are written before the first line of each name.
pub fn push<T>(table: &[Metric<T>], owners: &[&T], out: &mut String) {
    let mut last_name = "";
    for metric in table {
        if metric.name != last_name {
            push_header(metric.name, metric.kind, metric.help, out);
            last_name = metric.name;
        }
        let numbers = owners.iter().map(|owner| (metric.read)(owner));
        let number = match metric.across {
            Across::Sum => numbers.fold(0, u64::wrapping_add),
            Across::Most => numbers.max().unwrap_or(0),
        };
        push_value(metric.name, metric.labels, number, metric.per_unit, out);
    }
}

/// Appends a table of histograms. For each bucket, the numbers of all owners are added.
pub fn push_histograms<T>(table: &[HistogramMetric<T>], owners: &[&T], out: &mut String) {
    for metric in table {
        push_header(metric.name, Kind::Histogram, metric.help, out);
        let histograms = || owners.iter().map(|owner| (metric.histogram)(owner));
        let name = format!("{}_bucket", metric.name);
        let mut count = 0;
        for index in 0..BOUNDS {
            count += histograms().map(|one| one.bucket(index)).sum::<u64>();
            let label = format!("le=\"{}\"", seconds(bound_us(index)));
            push_value(&name, &label, count, 1, out);
        }
        count += histograms().map(|one| one.bucket(BOUNDS)).sum::<u64>();
        push_value(&name, "le=\"+Inf\"", count, 1, out);
        let sum = histograms().map(|one| one.sum_us()).sum();
        let name = format!("{}_sum", metric.name);
        push_value(&name, "", sum, MICROSECONDS, out);
        // The count is the sum of the buckets that were just read. A separate counter could differ,
        // because workers record values meanwhile.
        let name = format!("{}_count", metric.name);
        push_value(&name, "", count, 1, out);
    }
}

/// Returns microseconds as a decimal number of seconds without trailing zeros.
fn seconds(us: u64) -> String {
    let text = format!("{}.{:06}", us / 1_000_000, us % 1_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Appends the help and type lines of a name.
pub fn push_header(name: &str, kind: Kind, help: &str, out: &mut String) {
    let kind = match kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
        Kind::Histogram => "histogram",
    };
    // Writing to a string cannot fail.
    let written = write!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    debug_assert!(written.is_ok());
}

/// Appends one value: `number` divided by `per_unit`. `per_unit` is 1, or 1,000,000 if the number
/// is in microseconds and is shown in seconds.
pub fn push_value(name: &str, labels: &str, number: u64, per_unit: u32, out: &mut String) {
    let per_unit = u64::from(per_unit.max(1));
    let (whole, rest) = (number / per_unit, number % per_unit);
    let braces = if labels.is_empty() {
        ["", ""]
    } else {
        ["{", "}"]
    };
    let [open, close] = braces;
    let written = if per_unit == 1 {
        writeln!(out, "{name}{open}{labels}{close} {whole}")
    } else {
        let digits = per_unit.ilog10() as usize;
        writeln!(out, "{name}{open}{labels}{close} {whole}.{rest:0digits$}")
    };
    debug_assert!(written.is_ok());
}

#[cfg(test)]
mod tests {
    use super::super::{FeedMetrics, WorkerMetrics};
    use super::*;

    #[test]
    fn exposition_sums_over_workers_and_has_one_header_for_each_name() {
        let (a, b) = (WorkerMetrics::default(), WorkerMetrics::default());
        a.conns_accepted.add(2);
        b.conns_accepted.add(3);
        let mut text = String::new();
        push(WorkerMetrics::TABLE, &[&a, &b], &mut text);
        assert!(
            text.contains("\nfanfare_conns_accepted_total 5\n"),
            "{text}"
        );
        let headers: Vec<_> = text
            .lines()
            .filter(|line| line.starts_with("# TYPE "))
            .collect();
        let mut unique = headers.clone();
        unique.dedup();
        assert_eq!(headers.len(), unique.len());
        assert_eq!(text.matches("# TYPE fanfare_streams gauge").count(), 1);
    }

    #[test]
    fn longest_time_of_a_worker_is_not_summed() {
        let (a, b) = (WorkerMetrics::default(), WorkerMetrics::default());
        a.conns_open.set(7);
        b.conns_open.set(6);
        b.walk_last_us.set(1_002_003);
        let mut text = String::new();
        push(WorkerMetrics::TABLE, &[&a, &b], &mut text);
        for line in ["fanfare_conns 13", "fanfare_walk_seconds 1.002003"] {
            assert!(text.lines().any(|l| l == line), "{line} in {text}");
        }
    }

    #[test]
    fn histogram_has_cumulative_buckets_in_seconds_a_sum_and_a_count() {
        let (a, b) = (WorkerMetrics::default(), WorkerMetrics::default());
        a.turn_us.record(16);
        b.turn_us.record(17);
        b.turn_us.record(2_000_000);
        b.turn_us.record(60_000_000);
        let mut text = String::new();
        push_histograms(WorkerMetrics::HISTOGRAMS, &[&a, &b], &mut text);
        for line in [
            "# TYPE fanfare_turn_seconds histogram",
            "fanfare_turn_seconds_bucket{le=\"0.000016\"} 1",
            "fanfare_turn_seconds_bucket{le=\"0.000032\"} 2",
            "fanfare_turn_seconds_bucket{le=\"1.048576\"} 2",
            "fanfare_turn_seconds_bucket{le=\"2.097152\"} 3",
            "fanfare_turn_seconds_bucket{le=\"16.777216\"} 3",
            "fanfare_turn_seconds_bucket{le=\"+Inf\"} 4",
            "fanfare_turn_seconds_sum 62.000033",
            "fanfare_turn_seconds_count 4",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in {text}");
        }
    }

    #[test]
    fn seconds_have_no_trailing_zeros() {
        let texts = [16, 1_000_000, 1_500_000, 10_000_000].map(seconds);
        assert_eq!(texts, ["0.000016", "1", "1.5", "10"]);
    }

    #[test]
    fn help_is_one_sentence_and_names_have_base_units_only() {
        let workers = WorkerMetrics::TABLE.iter().map(|m| (m.name, m.help));
        let feed = FeedMetrics::TABLE.iter().map(|m| (m.name, m.help));
        let times = WorkerMetrics::HISTOGRAMS.iter().map(|m| (m.name, m.help));
        let feed_times = FeedMetrics::HISTOGRAMS.iter().map(|m| (m.name, m.help));
        let all = workers.chain(feed).chain(times).chain(feed_times);
        for (name, help) in all {
            let sentences = help.matches(". ").count() + 1;
            assert!(help.ends_with('.') && sentences == 1, "{name}: {help}");
            for unit in [
                "micro", "milli", "nano", "kilo", "minutes", "kib", "_ms", "_us",
            ] {
                assert!(!name.contains(unit), "{name}");
            }
        }
    }

    #[test]
    fn names_follow_the_conventions() {
        for (name, kind) in WorkerMetrics::TABLE
            .iter()
            .map(|m| (m.name, m.kind))
            .chain(FeedMetrics::TABLE.iter().map(|m| (m.name, m.kind)))
        {
            assert!(name.starts_with("fanfare_"), "{name}");
            assert_eq!(name.ends_with("_total"), kind == Kind::Counter, "{name}");
        }
        let workers = WorkerMetrics::HISTOGRAMS.iter().map(|m| m.name);
        for name in workers.chain(FeedMetrics::HISTOGRAMS.iter().map(|m| m.name)) {
            assert!(name.starts_with("fanfare_"), "{name}");
            assert!(name.ends_with("_seconds"), "{name}");
        }
    }
}
