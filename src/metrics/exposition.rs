//! The Prometheus text format (version 0.0.4) of the tables in [`super`].

use std::fmt::Write as _;

use super::{Kind, Metric};

/// The media type of what [`push`] writes.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Appends a table: each number summed over its owners, with help and type before the first line of
/// each name.
pub fn push<T>(table: &[Metric<T>], owners: &[&T], out: &mut String) {
    let mut last_name = "";
    for metric in table {
        if metric.name != last_name {
            push_header(metric.name, metric.kind, metric.help, out);
            last_name = metric.name;
        }
        let sum = owners
            .iter()
            .map(|owner| (metric.read)(owner))
            .fold(0, u64::wrapping_add);
        push_value(metric.name, metric.labels, sum, out);
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

/// Appends one value.
pub fn push_value(name: &str, labels: &str, value: u64, out: &mut String) {
    let written = if labels.is_empty() {
        writeln!(out, "{name} {value}")
    } else {
        writeln!(out, "{name}{{{labels}}} {value}")
    };
    debug_assert!(written.is_ok());
}

#[cfg(test)]
mod tests {
    use super::super::{FeedMetrics, WorkerMetrics};
    use super::*;

    #[test]
    fn exposition_sums_over_workers_and_heads_each_name_once() {
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
