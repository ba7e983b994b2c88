//! The responses of the admin listener: `/metrics`, `/healthz`, `/readyz`, and refusals.
//!
//! Responses are plain text; refusals are problem documents (RFC 9457). No response has CORS
//! fields: a browser on this machine can reach the listener, but pages of other origins must not
//! read it. The module reads counters and `/proc/self`, and owns no data.

use std::time::SystemTime;

use crate::access_log::AccessLog;
use crate::http::head::{Head, Method};
use crate::http::origin::Reader;
use crate::http::response::{
    self, PROBLEM, Problem, Status, push_content, push_field, push_status_line,
};
use crate::http::{After, Refusal};
use crate::metrics::exposition::{self, push_header, push_value};
use crate::metrics::{FeedMetrics, Kind, WorkerMetrics};

use super::{FigureSources, ServerStage};
use crate::sys::descriptors;
use crate::sys::pressure::{Meter, resident_bytes};

/// The media type of all responses except metrics.
const PLAIN: &str = "text/plain; charset=utf-8";

/// The value of `Retry-After` in a response with status 503, in seconds.
const RETRY_AFTER_S: &str = "1";

/// Returns the response to a request.
pub(super) fn answer(head: &Head<'_>, figures: &FigureSources, date: &str) -> Vec<u8> {
    if !matches!(head.method, Method::Get | Method::Head) {
        let problem = Problem {
            status: Status::MethodNotAllowed,
            detail: "the admin listener supports only GET and HEAD",
            code: Refusal::Method.code(),
        };
        return refuse_with(problem, head.method, Some(("Allow", "GET, HEAD")), date);
    }
    if let Some(fault) = head.fault {
        return refuse(fault, head.method, date);
    }
    let path = head
        .target
        .split_once('?')
        .map_or(head.target, |(path, _query)| path);
    let (status, content_type, content) = match path {
        "/healthz" => (Status::Ok, PLAIN, String::from("ok\n")),
        "/metrics" => (Status::Ok, exposition::CONTENT_TYPE, metrics(figures)),
        "/readyz" => {
            let (status, text) = readiness(figures);
            (status, PLAIN, text)
        }
        _ => {
            let problem = Problem {
                status: Status::NotFound,
                detail: "the admin listener has /metrics, /healthz and /readyz",
                code: Refusal::Path.code(),
            };
            return refuse_with(problem, head.method, None, date);
        }
    };
    let field = (status == Status::ServiceUnavailable).then_some(("Retry-After", RETRY_AFTER_S));
    respond(
        status,
        content_type,
        content.as_bytes(),
        head.method,
        field,
        date,
    )
}

/// Returns the response to a request that is refused.
pub(super) fn refuse(refusal: Refusal, method: Method, date: &str) -> Vec<u8> {
    response::refuse(&refusal, method, After::Close, Reader::SameOrigin, date).bytes
}

/// Returns the response to a refused request, with a text that is specific to the admin listener.
fn refuse_with(
    problem: Problem<'_>,
    method: Method,
    field: Option<(&str, &str)>,
    date: &str,
) -> Vec<u8> {
    let document = problem.document();
    respond(problem.status, PROBLEM, &document, method, field, date)
}

/// Returns the status and the text of the response to `/readyz`. If the server is not ready, the
/// text has a line for each reason.
fn readiness(figures: &FigureSources) -> (Status, String) {
    let mut reasons = match figures.readiness.stage() {
        ServerStage::Starting => return (Status::ServiceUnavailable, String::from("starting\n")),
        ServerStage::Draining => return (Status::ServiceUnavailable, String::from("draining\n")),
        ServerStage::Ready => figures.readiness.health().reasons(),
    };
    reasons.extend(no_descriptor(figures));
    if reasons.is_empty() {
        return (Status::Ok, String::from("ready\n"));
    }
    let lines = reasons
        .iter()
        .map(|reason| format!("not ready: {reason}\n"));
    (Status::ServiceUnavailable, lines.collect())
}

/// Returns the reason why the server is not ready, if all descriptors are used although no client
/// is connected.
fn no_descriptor(figures: &FigureSources) -> Option<String> {
    let sum = |read: fn(&WorkerMetrics) -> u64| -> u64 {
        figures.workers.iter().map(|worker| read(worker)).sum()
    };
    let is_blocked = sum(|worker| worker.accept_blocked.value()) > 0;
    // The connections of all workers are added up, because workers may share a descriptor table.
    let is_empty = sum(|worker| worker.conns_open.value()) == 0;
    (is_blocked && is_empty).then(|| {
        format!(
            "no connection fits: the server itself uses all descriptors that RLIMIT_NOFILE, {}, \
             allows; raise it (LimitNOFILE= of the unit, ulimit -n)",
            descriptors::limit()
        )
    })
}

fn respond(
    status: Status,
    content_type: &str,
    content: &[u8],
    method: Method,
    field: Option<(&str, &str)>,
    date: &str,
) -> Vec<u8> {
    let mut out = Vec::with_capacity(content.len() + 256);
    push_status_line(status, date, &mut out);
    push_field("Cache-Control", "no-store", &mut out);
    if let Some((name, value)) = field {
        push_field(name, value, &mut out);
    }
    push_content(content_type, content, method, After::Close, &mut out);
    out
}

fn metrics(figures: &FigureSources) -> String {
    let mut out = String::with_capacity(16 * 1024);
    let workers: Vec<&WorkerMetrics> = figures.workers.iter().map(AsRef::as_ref).collect();
    exposition::push(WorkerMetrics::TABLE, &workers, &mut out);
    exposition::push_histograms(WorkerMetrics::HISTOGRAMS, &workers, &mut out);
    exposition::push(FeedMetrics::TABLE, &[&*figures.feed], &mut out);
    exposition::push_histograms(FeedMetrics::HISTOGRAMS, &[&*figures.feed], &mut out);
    push_process(figures, &mut out);
    out
}

/// Appends the metrics of the process.
fn push_process(figures: &FigureSources, out: &mut String) {
    const VERSION: &str = concat!("version=\"", env!("CARGO_PKG_VERSION"), "\"");
    let mut one = |name, labels, kind, help, value| {
        push_header(name, kind, help, out);
        push_value(name, labels, value, 1, out);
    };
    let help = "Always 1; the label has the version of the server.";
    one("fanfare_info", VERSION, Kind::Gauge, help, 1);
    let help = "When the server started, in seconds since 1970-01-01 UTC.";
    let started = seconds_since_epoch(figures.started);
    one("fanfare_start_time_seconds", "", Kind::Gauge, help, started);
    let workers = figures.workers.len() as u64;
    let help = "Worker threads.";
    one("fanfare_workers", "", Kind::Gauge, help, workers);
    let help = "Channels that have subscribers.";
    let channels = figures.log.subscribed();
    one("fanfare_channels", "", Kind::Gauge, help, channels);
    let help = "Channels with entries in the log or subscribers.";
    let channels = figures.log.channel_count();
    one("fanfare_log_channels", "", Kind::Gauge, help, channels);
    let help = "Log lines dropped because their reader was too slow.";
    let dropped = (figures.dropped_log_lines)();
    let name = "fanfare_log_lines_dropped_total";
    one(name, "", Kind::Counter, help, dropped);
    let help = "Warnings that were not logged because of the limit per kind and second.";
    let suppressed = figures.warnings.suppressed_total();
    let name = "fanfare_log_lines_suppressed_total";
    one(name, "", Kind::Counter, help, suppressed);
    let help = "Lines of the access log dropped because their reader was too slow.";
    let dropped = figures.access_log.as_ref().map_or(0, AccessLog::dropped);
    let name = "fanfare_access_log_lines_dropped_total";
    one(name, "", Kind::Counter, help, dropped);
    let help = "Bytes of all publications in memory, with their encodings.";
    let resident = figures.log.ledger().resident();
    let name = "fanfare_publication_bytes";
    one(name, "", Kind::Gauge, help, resident);
    let help = "Bytes of encodings that have left the log and that connections still hold.";
    let pinned = figures.log.ledger().pinned();
    let name = "fanfare_publication_pinned_bytes";
    one(name, "", Kind::Gauge, help, pinned);
    let help = memory_help(&figures.meter);
    let used = figures.meter.used_bytes().unwrap_or(0);
    one("fanfare_memory_bytes", "", Kind::Gauge, help, used);
    let help =
        "Limit of fanfare_memory_bytes above which new connections are refused; 0 if unknown.";
    let limit = figures.meter.limit_bytes();
    one("fanfare_memory_limit_bytes", "", Kind::Gauge, help, limit);
    if let Some(sources) = &figures.guard.sources {
        let help = "Addresses and networks that the limits per source count.";
        let count = sources.count() as u64;
        one("fanfare_sources", "", Kind::Gauge, help, count);
    }
    if let Some(bytes) = resident_bytes() {
        let help = "Resident memory of this process.";
        let name = "process_resident_memory_bytes";
        one(name, "", Kind::Gauge, help, bytes);
    }
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
