//! PURE: this module answers the HTTP/1.1 requests of the client listener (RFC 9110, RFC 9112).
//!
//! This module turns the bytes of a request into an answer: a complete response, a stream of
//! server-sent events, a WebSocket, or a poll. A call reads one request from the front of the
//! conn's bytes. So the caller implements keep-alive and pipelining with a loop. `lines` finds the
//! head and `head` parses it. `framing` determines the end of a request and its host. `route`
//! chooses the answer. `target`, `upgrade`, `extensions` and `validators` check the parameters.
//! `origin` checks the page that sent the request, and `entry` checks the request's token.
//! `refusal` lists all refusals, `response` writes responses, and `files` has the page and the
//! browser module. A client's request must not have
//! content, except for a publication (`publish`): other requests with content are refused and the
//! conn is closed, so that no second request can be smuggled in the content of the first. The
//! caller is `conn`. The transports call `response` for heads that they send later. The feed parses
//! the heads of its requests and writes its responses with these modules. It also reads request
//! bodies, with `body` and `chunked`.
#![doc = include_str!("strictness.md")]
#![cfg_attr(not(test), deny(clippy::indexing_slicing))]
#![warn(clippy::wildcard_enum_match_arm)]

pub(crate) mod body;
pub mod entry;
pub mod extensions;
pub mod field_lines;
pub mod framing;
pub mod head;
pub mod origin;
pub mod publish;
pub mod refusal;
pub mod response;
pub mod retry_after;
pub mod validators;

mod chunked;
mod files;
mod goaway;
mod lines;
mod route;
mod status;
mod target;
mod upgrade;

use std::net::IpAddr;
use std::time::Duration;

use crate::auth::Access;
use crate::config::Config;
use crate::effect::Window;
use crate::frame::Envelope;
use crate::id::{ChannelName, Since};
use crate::metrics::WorkerMetrics;
use crate::proxy::forwarded::{self, List};
use crate::traceparent::TraceParent;
use publish::PublishRequest;

pub use entry::{Entry, EntryError};
use extensions::Deflate;
use head::{HeadRead, Method};
pub use origin::Sharing;
use origin::{Reader, Source};
pub use refusal::Refusal;
pub use response::{Response, StreamBody};
pub use status::Status;
pub use target::Target;
pub(crate) use target::query_pairs;
pub use validators::Validators;

/// The result of reading a request.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub enum RequestRead {
    /// The head is not complete yet.
    Incomplete,
    /// A request was read, or refused.
    Request {
        /// The number of bytes of the request. If the answer closes the conn ([`After::Close`]),
        /// the bytes after the request are ignored.
        length: usize,
        /// The answer to the request.
        answer: Answer,
    },
}

/// The answer to a request.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub enum Answer {
    /// A stream of server-sent events.
    EventStream(EventStreamRequest),
    /// A publication. Its content follows the head.
    Publish(PublishRequest),
    /// A poll. It is answered immediately, or as soon as there is something to deliver.
    Poll(PollRequest),
    /// A complete response.
    Respond(Response),
    /// A WebSocket.
    WebSocket(WebSocketRequest),
}

/// Whether a conn persists after a response (RFC 9112, 9.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// The conn is closed after the response.
    Close,
    /// The conn stays open for another request.
    KeepAlive,
}

/// A checked request for server-sent events.
#[derive(Debug, PartialEq, Eq)]
pub struct EventStreamRequest {
    /// The channels, at least one, without repetition, in the order of the query.
    pub channels: Vec<ChannelName>,
    /// The position after which publications are delivered.
    pub since: Since,
    /// The format of each publication: in the full envelope, or only the data.
    pub envelope: Envelope,
    /// The way in which the end of the body is marked.
    pub body: StreamBody,
    /// The origins whose pages may read the stream.
    pub sharing: Sharing,
    /// The permissions with which the request is admitted.
    pub entry: Entry,
}

/// A checked request for a poll.
#[derive(Debug, PartialEq, Eq)]
pub struct PollRequest {
    /// The channels, at least one, without repetition, in the order of the query.
    pub channels: Vec<ChannelName>,
    /// The position after which publications are delivered.
    pub since: Since,
    /// The format of each publication: in the full envelope, or only the data.
    pub envelope: Envelope,
    /// The maximum time that the poll waits, within the server's limit. Zero for a short poll.
    pub timeout: Duration,
    /// The entity tags in `If-None-Match`: the ids of the answers that the client already has.
    pub validators: Validators,
    /// The origins whose pages may read the answer.
    pub sharing: Sharing,
    /// Whether the conn persists after the answer.
    pub after: After,
    /// The permissions with which the request is admitted.
    pub entry: Entry,
}

/// A checked request for a WebSocket (RFC 6455, 4.2.1).
#[derive(Debug, PartialEq, Eq)]
pub struct WebSocketRequest {
    /// The channels of the query, without repetition. May be empty if the client can name channels
    /// later, in commands.
    pub channels: Vec<ChannelName>,
    /// The position after which publications are delivered.
    pub since: Since,
    /// The maximum number of unacknowledged publications of each channel, if the query has the
    /// parameter `window`.
    pub window: Option<Window>,
    /// The format of each publication: in the full envelope, or only the data.
    pub envelope: Envelope,
    /// The value of `Sec-WebSocket-Accept`.
    pub accept: String,
    /// Whether the client offered the subprotocol `fanfare.v1`, which the server then accepts.
    pub has_subprotocol: bool,
    /// The parameters of compression, if compression was negotiated.
    pub deflate: Option<Deflate>,
    /// The permissions with which the request is admitted.
    pub entry: Entry,
}

/// Returns the address of the client that a trusted proxy names in the request at the front of
/// `bytes`. Returns `None` if there is no complete, valid head, and `Some(None)` if the proxy's
/// field names no client.
#[must_use]
pub fn forwarded_client(bytes: &[u8], config: &Config) -> Option<Option<IpAddr>> {
    let head_bytes_max = config.limits.request_head_bytes as usize;
    let HeadRead::Complete { head, .. } = head::read_head(bytes, head_bytes_max) else {
        return None;
    };
    let list = List::from(config.proxy.field);
    let name = match list {
        List::Forwarded => "forwarded",
        List::XForwardedFor => "x-forwarded-for",
    };
    let newest_first = head.fields.lines.named(name).rev();
    Some(forwarded::client(newest_first, list, &config.proxy.trusted))
}

/// The values of a request for the access log.
#[derive(Debug, PartialEq, Eq)]
pub struct Logged {
    /// The path, with those parameters of the query that the server knows and that are not secret.
    /// The path is `-` if the head or its target is invalid.
    pub path: Box<str>,
    /// The trace context of the client.
    pub traceparent: Option<TraceParent>,
}

/// Returns the values of the request at the front of `bytes` for the access log. Returns `None` if
/// the head is incomplete.
#[must_use]
pub fn logged(bytes: &[u8], config: &Config) -> Option<Logged> {
    let head_bytes_max = config.limits.request_head_bytes as usize;
    match head::read_head(bytes, head_bytes_max) {
        HeadRead::Complete { head, .. } => Some(Logged {
            path: target::logged(head.target).into_boxed_str(),
            traceparent: head.fields.traceparent(),
        }),
        HeadRead::Refused(_) => Some(Logged {
            path: Box::from("-"),
            traceparent: None,
        }),
        HeadRead::Incomplete => None,
    }
}

/// Reads one request from the front of `bytes`, on a server that requires no tokens.
pub fn read_request(
    bytes: &[u8],
    config: &Config,
    date: &str,
    metrics: &WorkerMetrics,
) -> RequestRead {
    read_guarded_request(bytes, &Access::default(), config, date, metrics)
}

/// Reads one request from the front of `bytes`. This is the entry point of the module.
///
/// At most `config.limits.request_head_bytes` bytes are examined. If this many bytes contain no
/// complete head, the request is refused. `date` is the value of the `Date` field.
pub fn read_guarded_request(
    bytes: &[u8],
    access: &Access,
    config: &Config,
    date: &str,
    metrics: &WorkerMetrics,
) -> RequestRead {
    let head_bytes_max = config.limits.request_head_bytes as usize;
    let (length, answer) = match head::read_message_head(bytes, head_bytes_max) {
        HeadRead::Incomplete => return RequestRead::Incomplete,
        HeadRead::Complete { length, head } => {
            let may_have_content = publish::is_meant(&head);
            let head = match may_have_content {
                true => head,
                false => head.without_content(),
            };
            let source = Source::of(&head, &config.browser);
            let answer = route::answer(&head, source, access, config, date);
            let answer = answer.unwrap_or_else(|refusal| {
                let then = match note_refusal(refusal, metrics) {
                    After::Close => After::Close,
                    // The content of the request is not read.
                    After::KeepAlive if head.framing.has_content() => After::Close,
                    After::KeepAlive => head.after,
                };
                let reader = source.reader(&config.browser);
                let response = response::refuse(&refusal, head.method, then, reader, date);
                Answer::Respond(response)
            });
            (length, answer)
        }
        HeadRead::Refused(refusal) => {
            let then = After::Close;
            note_refusal(refusal, metrics);
            let response = response::refuse(&refusal, Method::Get, then, Reader::SameOrigin, date);
            (bytes.len(), Answer::Respond(response))
        }
    };
    metrics.requests.increment();
    RequestRead::Request { length, answer }
}

/// Counts a refusal in the metrics. Returns [`After::Close`] if the conn must be closed.
fn note_refusal(refusal: Refusal, metrics: &WorkerMetrics) -> After {
    metrics.requests_refused.increment();
    if refusal == Refusal::Origin {
        metrics.origins_refused.increment();
    }
    if matches!(refusal, Refusal::Entry(EntryError::Token(_))) {
        metrics.tokens_refused.increment();
        // Verifying a token costs CPU time. The conn is closed, so that each further attempt
        // requires a new connection.
        return After::Close;
    }
    After::KeepAlive
}

#[cfg(test)]
mod tests;
