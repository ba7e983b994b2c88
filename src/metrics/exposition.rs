//! Writes the tables of [`super`] in the Prometheus text format (version 0.0.4).

use std::fmt::Write as _;

use super::{Across, Kind, Metric};

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

/// Appends the help and type lines of a name.
pub fn push_header(name: &str, kind: Kind, help: &str, out: &mut String) {
    let kind = match kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
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
    fn help_is_one_sentence_and_names_have_base_units_only() {
        let workers = WorkerMetrics::TABLE.iter().map(|m| (m.name, m.help));
        let feed = FeedMetrics::TABLE.iter().map(|m| (m.name, m.help));
        for (name, help) in workers.chain(feed) {
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
    }
}
