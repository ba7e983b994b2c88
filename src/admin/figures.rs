//! The text of `/metrics`: the tables of workers, feed and reloads, then the figures that are read
//! at the time of the request.
//!
//! Reads counters, the configuration and `/proc/self`. Owns no data.
//! The number of lines is bounded by the configuration: by its namespaces and certificates.

use std::fmt::Display;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use super::FigureSources;
use crate::access_log::AccessLog;
use crate::config::limits::FEEDERS_MAX;
use crate::metrics::exposition::{self, push_header, push_value};
use crate::metrics::{Counter, FeedMetrics, Kind, ReloadMetrics, WorkerMetrics};
use crate::sys::pressure::{Meter, resident_bytes};
use crate::sys::{descriptors, usage};

/// The label of channels that no namespace matches. A pattern has no white space, so it cannot be
/// the same.
const NO_NAMESPACE: &str = "(no namespace)";

/// The label of the listeners that are not counted separately.
const OTHER_LISTENERS: &str = "(others)";

/// Returns the text of `/metrics`.
pub(super) fn metrics(sources: &FigureSources) -> String {
    let mut out = String::with_capacity(64 * 1024);
    let workers: Vec<&WorkerMetrics> = sources.workers.iter().map(AsRef::as_ref).collect();
    exposition::push(WorkerMetrics::TABLE, &workers, &mut out);
    exposition::push_histograms(WorkerMetrics::HISTOGRAMS, &workers, &mut out);
    exposition::push(FeedMetrics::TABLE, &[&*sources.feed], &mut out);
    exposition::push_histograms(FeedMetrics::HISTOGRAMS, &[&*sources.feed], &mut out);
    exposition::push(ReloadMetrics::TABLE, &[&*sources.reloads], &mut out);
    let mut page = Page { out: &mut out };
    push_server(sources, &mut page);
    push_listeners(sources, &mut page);
    push_spans(sources, &mut page);
    push_channels(sources, &mut page);
    push_namespaces(sources, &mut page);
    push_memory(sources, &mut page);
    push_files(sources, &mut page);
    push_process(sources, &mut page);
    out
}

/// Writes metrics that are not in a table.
struct Page<'a> {
    out: &'a mut String,
}

impl Page<'_> {
    fn gauge(&mut self, name: &str, help: &str, value: u64) {
        push_header(name, Kind::Gauge, help, self.out);
        push_value(name, "", value, 1, self.out);
    }

    /// Writes a metric with one line for each value of a label.
    fn each<L: Display>(
        &mut self,
        (name, kind, help): (&str, Kind, &str),
        label: &str,
        values: impl Iterator<Item = (L, u64)>,
    ) {
        push_header(name, kind, help, self.out);
        for (text, value) in values {
            let labels = format!("{label}=\"{}\"", escaped(&text.to_string()));
            push_value(name, &labels, value, 1, self.out);
        }
    }
}

/// Returns a text in the form that a label's value has in the exposition.
fn escaped(text: &str) -> String {
    let text = text.replace('\\', r"\\").replace('"', r#"\""#);
    text.replace('\n', r"\n")
}

fn push_server(sources: &FigureSources, page: &mut Page<'_>) {
    const VERSION: &str = env!("CARGO_PKG_VERSION");
    let help = "Always 1; the label has the version of the server.";
    let version = std::iter::once((VERSION, 1));
    page.each(("fanfare_info", Kind::Gauge, help), "version", version);
    let help = "When the server began to start, in seconds since 1970-01-01 UTC.";
    let started = seconds_since_epoch(sources.started);
    page.gauge("fanfare_start_time_seconds", help, started);
    let workers = sources.workers.len() as u64;
    page.gauge("fanfare_workers", "Worker threads.", workers);
    let help = "Connections that all workers together accept: limits.conns, or fewer if the descriptors allow fewer.";
    page.gauge("fanfare_conns_limit", help, sources.conns_max());
    let help = "Connections without a request head above which the oldest is closed.";
    let pending = sources.config.current().limits.pending_conns;
    page.gauge("fanfare_conns_pending_limit", help, pending.into());
    let help = "Feeders above which a new one is refused.";
    page.gauge("fanfare_feeders_limit", help, FEEDERS_MAX as u64);
    if let Some(counted) = &sources.guard.sources {
        let help = "Addresses and networks that the limits per source count.";
        page.gauge("fanfare_sources", help, counted.count() as u64);
    }
    let name = "fanfare_log_lines_dropped_total";
    let help = "Log lines dropped because their reader was too slow or a write failed.";
    push_header(name, Kind::Counter, help, page.out);
    push_value(name, "", (sources.dropped_log_lines)(), 1, page.out);
    let name = "fanfare_log_lines_suppressed_total";
    let help = "Warnings that were not logged because of the limit per kind and second.";
    push_header(name, Kind::Counter, help, page.out);
    push_value(name, "", sources.warnings.suppressed_total(), 1, page.out);
    let name = "fanfare_access_log_lines_dropped_total";
    let help =
        "Lines of the access log dropped because their reader was too slow or a write failed.";
    let dropped = sources.access_log.as_ref().map_or(0, AccessLog::dropped);
    push_header(name, Kind::Counter, help, page.out);
    push_value(name, "", dropped, 1, page.out);
}

/// Appends the numbers of spans. They are shown even if tracing is off.
fn push_spans(sources: &FigureSources, page: &mut Page<'_>) {
    let spans = &sources.span_metrics;
    let value = |number: &AtomicU64| number.load(Ordering::Relaxed);
    let help = "Publications and connections whose spans were exported, by target.";
    let name = "fanfare_spans_exported_total";
    let exported = [
        ("collector", value(&spans.posted)),
        ("file", value(&spans.written)),
    ];
    page.each((name, Kind::Counter, help), "target", exported.into_iter());
    let help = "Publications and connections whose spans were dropped, by cause.";
    let name = "fanfare_spans_dropped_total";
    let dropped = [
        ("collector_queue_full", value(&spans.collector_queue_full)),
        ("collector_refused", value(&spans.refused)),
        ("collector_unreachable", value(&spans.unreachable)),
        ("file", value(&spans.unwritten)),
        ("queue_full", value(&spans.queue_full)),
        ("stopped", value(&spans.stopped)),
    ];
    page.each((name, Kind::Counter, help), "cause", dropped.into_iter());
}

fn push_channels(sources: &FigureSources, page: &mut Page<'_>) {
    let (log, config) = (&sources.log, sources.config.current());
    let help = "Channels that have subscribers.";
    page.gauge("fanfare_channels", help, log.subscribed());
    let help = "Channels with subscribers that limits.channels allows; 0 if there is no limit.";
    let limit = config.limits.channels.into();
    page.gauge("fanfare_channels_limit", help, limit);
    let help = "Channels with entries in the log or subscribers.";
    page.gauge("fanfare_log_channels", help, log.channel_count());
    let help = "Bytes that log.bytes allows the log.";
    page.gauge("fanfare_log_limit_bytes", help, config.log.bytes);
    let help = "Publications that log.entries allows in the log.";
    page.gauge("fanfare_log_entries_limit", help, config.log.entries);
    let help = "Bytes of all publications in memory, with their encodings.";
    let resident = log.ledger().resident();
    page.gauge("fanfare_publication_bytes", help, resident);
    let help = "Bytes of encodings that have left the log and that connections still hold.";
    let pinned = log.ledger().pinned();
    page.gauge("fanfare_publication_pinned_bytes", help, pinned);
}

/// Appends a line for each listener, in the form that `listen` has in the configuration.
fn push_listeners(sources: &FigureSources, page: &mut Page<'_>) {
    let name = "fanfare_listener_conns";
    let help = "Connections of clients that are open, by the listener that accepted them.";
    push_header(name, Kind::Gauge, help, page.out);
    for (listener, conns) in sources.listener_conns.figures() {
        let protocol = listener.map_or("", |one| if one.is_tls { "https" } else { "http" });
        let listener = listener.map_or_else(|| OTHER_LISTENERS.to_owned(), |one| one.to_string());
        let labels = format!("listener=\"{listener}\",protocol=\"{protocol}\"");
        push_value(name, &labels, conns, 1, page.out);
    }
}

/// Appends a line for each namespace of the configuration.
fn push_namespaces(sources: &FigureSources, page: &mut Page<'_>) {
    let rules = sources.log.rules().figures();
    let published = rules
        .iter()
        .map(|rule| (rule.pattern.unwrap_or(NO_NAMESPACE), rule.published));
    let help = "Publications added to the log, by namespace.";
    let name = "fanfare_namespace_publications_total";
    page.each((name, Kind::Counter, help), "namespace", published);
    let help = "Subscriptions of connections to channels, by namespace.";
    let name = "fanfare_namespace_subscribers";
    let subscribers = rules.iter().map(|rule| {
        let workers = sources.subscribers_by_rule.iter();
        let index = rule.index.index();
        let counts = workers.filter_map(|counts| counts.get(index).map(Counter::value));
        (rule.pattern.unwrap_or(NO_NAMESPACE), counts.sum())
    });
    page.each((name, Kind::Gauge, help), "namespace", subscribers);
}

fn push_memory(sources: &FigureSources, page: &mut Page<'_>) {
    let meter = sources.meter.current();
    let help = memory_help(&meter);
    // Zero would look like a server without load, so a scrape has no value while it is unknown.
    let used = match meter {
        Meter::Nothing => Some(0),
        _ => meter.used_bytes(),
    };
    if let Some(used) = used {
        page.gauge("fanfare_memory_bytes", help, used);
    }
    let help =
        "Limit of fanfare_memory_bytes above which new connections are refused; 0 if unknown.";
    let limit = meter.limit_bytes();
    page.gauge("fanfare_memory_limit_bytes", help, limit);
}

/// Appends figures about files: the limit of the journal, and the certificates.
fn push_files(sources: &FigureSources, page: &mut Page<'_>) {
    let config = sources.config.current();
    let journal = &config.journal;
    if !journal.path.as_os_str().is_empty() {
        let help = "Bytes of records that journal.bytes allows the journal.";
        page.gauge("fanfare_journal_limit_bytes", help, journal.bytes);
    }
    if let Some(identity) = sources.identity.current() {
        let help =
            "When a TLS certificate or one of its chain expires, in seconds since 1970-01-01 UTC.";
        let name = "fanfare_certificate_expiry_timestamp_seconds";
        let each = identity.expiries().iter();
        let each = each.map(|expiry| (&expiry.name, expiry.unix_s));
        page.each((name, Kind::Gauge, help), "certificate", each);
    }
}

/// Appends the metrics that the clients of Prometheus define for every process.
fn push_process(sources: &FigureSources, page: &mut Page<'_>) {
    let name = "process_cpu_seconds_total";
    let help = "Processor time that the process has used, in user and system mode.";
    push_header(name, Kind::Counter, help, page.out);
    let used = crate::time::micros(usage::processor_time());
    push_value(name, "", used, 1_000_000, page.out);
    let help = "When the process started, in seconds since 1970-01-01 UTC.";
    let started = seconds_since_epoch(sources.process_started);
    page.gauge("process_start_time_seconds", help, started);
    let help = "Open descriptors in the fullest descriptor table; each worker has a table.";
    page.gauge("process_open_fds", help, open_descriptors(sources));
    let help = "Descriptors that one descriptor table may have (RLIMIT_NOFILE).";
    page.gauge("process_max_fds", help, descriptors::limit());
    if let Some(bytes) = resident_bytes() {
        let help = "Resident memory of this process.";
        page.gauge("process_resident_memory_bytes", help, bytes);
    }
    if let Some(bytes) = usage::virtual_bytes() {
        let help = "Size of the address space of this process.";
        page.gauge("process_virtual_memory_bytes", help, bytes);
    }
    let help = "Bytes that the address space of this process may have (RLIMIT_AS).";
    let name = "process_virtual_memory_max_bytes";
    page.gauge(name, help, usage::virtual_bytes_max());
    if let Some(threads) = usage::threads() {
        page.gauge("process_threads", "Threads of this process.", threads);
    }
}

/// Returns the number of open descriptors in the fullest table. A kernel before Linux 6.2 would
/// have to list every descriptor. There, the result is the number of descriptors of this thread and
/// of the connections of one worker.
fn open_descriptors(sources: &FigureSources) -> u64 {
    usage::most_descriptors().unwrap_or_else(|| {
        let conns = sources.workers.iter().map(|one| one.conns_open.value());
        descriptors::open_count() + conns.max().unwrap_or(0)
    })
}

/// Returns the help text of the metric `fanfare_memory_bytes`. The text says which memory is
/// measured.
fn memory_help(meter: &Meter) -> &'static str {
    match meter {
        Meter::Cgroup { .. } => {
            "Memory of the cgroup whose limit applies to this server, without inactive file pages."
        }
        Meter::Machine { .. } => {
            "Memory of the whole machine that is in use: MemTotal less MemAvailable of /proc/meminfo."
        }
        Meter::Nothing => "Always 0, because the system does not report its memory.",
        Meter::Process { .. } => {
            "Resident memory of this process, which limits.memory_bytes limits."
        }
    }
}

fn seconds_since_epoch(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn label_values_are_escaped() {
        assert_eq!(escaped("a\\b\"c\nd"), "a\\\\b\\\"c\\nd");
    }
}
