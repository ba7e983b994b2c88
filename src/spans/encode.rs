//! Spans in OTLP (OpenTelemetry Protocol), encoded as JSON.
//!
//! This module does no I/O. It names attributes as the semantic conventions of OpenTelemetry
//! do, and with the prefix `fanfare.` where these have no name.

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, SpanFlags, Status};

use super::publication::EndedPublication;
use super::{ConnectionSpan, EndedSpan, SpanContext, new_span_id};
use crate::time::Now;
use crate::traceparent::SpanId;

/// The flag of a sampled trace (W3C Trace Context, 3.2.2.5).
const SAMPLED: u32 = 1;

/// Converts times of the process's clock into times since 1970.
#[derive(Clone, Copy, Debug)]
pub(super) struct Calendar {
    /// A time since 1970 in microseconds, and the time of the process's clock at that moment.
    pub(super) unix_us: u64,
    pub(super) now: Now,
}

impl Calendar {
    fn nanos(self, time: Now) -> u64 {
        let us = (self.unix_us.saturating_add(time.0)).saturating_sub(self.now.0);
        us.saturating_mul(1000)
    }
}

/// Encodes spans as one request in JSON, without line feeds.
pub(super) fn batch(spans: &[EndedSpan], calendar: Calendar) -> Vec<u8> {
    let mut encoded = Vec::new();
    for span in spans {
        match span {
            EndedSpan::Connection(connection) => {
                encoded.push(of_connection(connection, calendar));
            }
            EndedSpan::Publication(publication) => {
                push_publication(publication, calendar, &mut encoded);
            }
        }
    }
    let scope = InstrumentationScope {
        name: String::from(env!("CARGO_PKG_NAME")),
        version: String::from(env!("CARGO_PKG_VERSION")),
        ..InstrumentationScope::default()
    };
    let request = ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(resource()),
            scope_spans: vec![ScopeSpans {
                scope: Some(scope),
                spans: encoded,
                schema_url: String::new(),
            }],
            schema_url: String::new(),
        }],
    };
    let json = serde_json::to_vec(&request);
    debug_assert!(json.is_ok(), "spans can be written as JSON");
    json.unwrap_or_default()
}

fn resource() -> Resource {
    Resource {
        attributes: vec![
            text("service.name", env!("CARGO_PKG_NAME")),
            text("service.version", env!("CARGO_PKG_VERSION")),
            number("process.pid", std::process::id().into()),
        ],
        ..Resource::default()
    }
}

/// Appends the span of a publication, and a child for each stage of its way.
fn push_publication(one: &EndedPublication, calendar: Calendar, out: &mut Vec<Span>) {
    let mut attributes = vec![
        text("messaging.destination.name", one.channel.as_str()),
        text("messaging.message.id", &one.id.to_string()),
        number("messaging.message.body.size", one.bytes),
        number("fanfare.subscribers", one.subscribers),
    ];
    if one.is_incomplete {
        attributes.push(flag("fanfare.incomplete", true));
    }
    let end = one.last.into_iter().chain(one.posted);
    let end = end.map(|time| time.0).max().unwrap_or(one.numbered.0);
    let root = Period(one.read, Now(end));
    let status = one.posted.is_none().then(|| Status {
        message: String::from("the journal refused the publication"),
        code: StatusCode::Error.into(),
    });
    out.push(Span {
        attributes,
        status,
        ..root_span(
            one.context,
            "publication",
            SpanKind::Consumer,
            root,
            calendar,
        )
    });
    let mut child = |name, start, end: Option<Now>| {
        if let Some(end) = end {
            out.push(child_span(one.context, name, Period(start, end), calendar));
        }
    };
    child("feed", one.read, Some(one.numbered));
    let Some(posted) = one.posted else {
        return;
    };
    child("log", one.numbered, Some(posted));
    // A worker may have visited a subscriber before the feed had sent the batch to the last worker.
    child("first_subscriber", one.numbered, one.first);
    child("last_subscriber", one.numbered, one.last);
}

fn of_connection(one: &ConnectionSpan, calendar: Calendar) -> Span {
    let mut attributes = vec![text("fanfare.connection", &one.connection.to_string())];
    let texts = [
        (
            "network.peer.address",
            one.peer.map(|peer| peer.ip().to_string()),
        ),
        (
            "client.address",
            one.client.map(|client| client.to_string()),
        ),
        ("fanfare.transport", one.transport.map(str::to_owned)),
        ("url.path", one.path.as_deref().map(path_of)),
        ("url.query", one.path.as_deref().and_then(query_of)),
        ("fanfare.close_reason", one.reason.map(str::to_owned)),
        ("enduser.id", one.sub.as_deref().map(str::to_owned)),
    ];
    for (name, value) in texts {
        attributes.extend(value.map(|value| text(name, &value)));
    }
    let port = one.peer.map(|peer| u64::from(peer.port()));
    let numbers = [
        ("network.peer.port", port),
        ("http.response.status_code", one.status.map(u64::from)),
        ("fanfare.close_code", one.close_code.map(u64::from)),
        ("fanfare.publications", Some(one.publications)),
        ("fanfare.bytes", Some(one.bytes)),
    ];
    for (name, value) in numbers {
        attributes.extend(value.map(|value| number(name, value)));
    }
    let period = Period(one.begun, one.ended);
    Span {
        attributes,
        ..root_span(
            one.context,
            "connection",
            SpanKind::Server,
            period,
            calendar,
        )
    }
}

fn path_of(path: &str) -> String {
    let path = path.split_once('?').map_or(path, |(path, _query)| path);
    path.to_owned()
}

fn query_of(path: &str) -> Option<String> {
    path.split_once('?').map(|(_path, query)| query.to_owned())
}

/// The begin and the end of a span.
struct Period(Now, Now);

fn root_span(
    context: SpanContext,
    name: &str,
    kind: SpanKind,
    period: Period,
    calendar: Calendar,
) -> Span {
    let is_remote =
        SpanFlags::ContextHasIsRemoteMask as u32 | SpanFlags::ContextIsRemoteMask as u32;
    let (parent, remote) = match context.parent {
        Some(parent) => (parent.to_bytes().to_vec(), is_remote),
        None => (Vec::new(), 0),
    };
    Span {
        parent_span_id: parent,
        flags: SAMPLED | remote,
        kind: kind.into(),
        ..span(context, context.span, name, period, calendar)
    }
}

fn child_span(context: SpanContext, name: &str, period: Period, calendar: Calendar) -> Span {
    Span {
        parent_span_id: context.span.to_bytes().to_vec(),
        flags: SAMPLED | SpanFlags::ContextHasIsRemoteMask as u32,
        kind: SpanKind::Internal.into(),
        ..span(context, new_span_id(), name, period, calendar)
    }
}

fn span(
    context: SpanContext,
    id: SpanId,
    name: &str,
    Period(start, end): Period,
    calendar: Calendar,
) -> Span {
    Span {
        trace_id: context.trace.to_bytes().to_vec(),
        span_id: id.to_bytes().to_vec(),
        name: name.to_owned(),
        start_time_unix_nano: calendar.nanos(start),
        end_time_unix_nano: calendar.nanos(Now(end.0.max(start.0))),
        ..Span::default()
    }
}

fn text(key: &str, value: &str) -> KeyValue {
    attribute(key, Value::StringValue(value.to_owned()))
}

fn number(key: &str, value: u64) -> KeyValue {
    let value = i64::try_from(value).unwrap_or(i64::MAX);
    attribute(key, Value::IntValue(value))
}

fn flag(key: &str, value: bool) -> KeyValue {
    attribute(key, Value::BoolValue(value))
}

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(value) }),
        ..KeyValue::default()
    }
}
