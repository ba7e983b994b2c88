//! The responses of the admin listener: `/metrics`, `/healthz`, `/readyz`, and refusals.
//!
//! Responses are plain text; refusals are problem documents (RFC 9457). No response has CORS
//! fields: a browser on this machine can reach the listener, but pages of other origins must not
//! read it. [`figures`] writes the metrics.

use crate::http::head::{Head, Method};
use crate::http::origin::Reader;
use crate::http::response::{
    self, PROBLEM, Problem, Status, push_content, push_field, push_status_line,
};
use crate::http::{After, Refusal};
use crate::metrics::WorkerMetrics;
use crate::metrics::exposition::CONTENT_TYPE;
use crate::sys::descriptors;

use super::{FigureSources, ServerStage, figures};

/// The media type of all responses except metrics.
const PLAIN: &str = "text/plain; charset=utf-8";

/// The value of `Retry-After` in a response with status 503, in seconds.
const RETRY_AFTER_S: &str = "1";

/// Returns the response to a request.
pub(super) fn answer(head: &Head<'_>, sources: &FigureSources, date: &str) -> Vec<u8> {
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
        "/metrics" => (Status::Ok, CONTENT_TYPE, figures::metrics(sources)),
        "/readyz" => {
            let (status, text) = readiness(sources);
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
