//! PURE: the HTTP/1.1 request side of the client listener (RFC 9110, RFC 9112).
//!
//! Bytes go in, and out comes what the request gets: a complete response, a stream of server-sent
//! events, a WebSocket, or a poll. One request at a time is read from the front of what the conn
//! holds, so keep-alive and pipelining are a loop in the caller. `lines` finds the head, `head`
//! reads it, `framing` has what decides where a request ends and whom it is for, `route` decides,
//! `target`, `upgrade`, `extensions` and `validators` check what was asked for, `origin` asks whose
//! page it is from, `entry` for a token, `refusal` names every way to be refused, and `response`
//! writes. Requests have no content here: whatever carries some is refused and the conn closed, so
//! that nobody can hide a second request in the first one's content. Called by `conn`; the
//! transports call `response` for the heads they send later, and the feed has its heads read here.
#![doc = include_str!("strictness.md")]
#![cfg_attr(not(test), deny(clippy::indexing_slicing))]
#![warn(clippy::wildcard_enum_match_arm)]

pub mod body;
pub mod chunked;
pub mod entry;
pub mod extensions;
pub mod field_lines;
pub mod framing;
pub mod head;
pub mod origin;
pub mod refusal;
pub mod response;
pub mod validators;

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

pub use entry::{Entry, EntryError};
use extensions::Deflate;
use head::{HeadRead, Method};
pub use origin::Sharing;
use origin::{Reader, Source};
pub use refusal::Refusal;
pub use response::{Response, StreamBody};
pub use target::Target;
pub use validators::Validators;

/// What came of looking for a request.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub enum Read {
    /// No complete head yet, and it may still become a good one.
    Incomplete,
    /// A request was read.
    Request {
        /// How many bytes were the request. After [`After::Close`] the rest is nobody's.
        length: usize,
        /// What it gets.
        answer: Answer,
    },
}

/// What a request gets.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub enum Answer {
    /// A stream of server-sent events.
    EventStream(EventStreamRequest),
    /// One answer, at once or when there is news.
    Poll(PollRequest),
    /// These bytes, and nothing that lasts.
    Respond(Response),
    /// A WebSocket.
    WebSocket(WebSocketRequest),
}

/// What becomes of a conn after a response (RFC 9112, 9.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// No request follows.
    Close,
    /// The next request may follow.
    KeepAlive,
}

/// A checked request for server-sent events.
#[derive(Debug, PartialEq, Eq)]
pub struct EventStreamRequest {
    /// At least one channel, without repetition, in the order of the query.
    pub channels: Vec<ChannelName>,
    /// From where the client wants to be served.
    pub since: Since,
    /// What it wants of each publication.
    pub envelope: Envelope,
    /// How the stream's end is marked.
    pub body: StreamBody,
    /// Whose pages may read it.
    pub sharing: Sharing,
    /// How it comes in.
    pub entry: Entry,
}

/// A checked request for what has been published since.
#[derive(Debug, PartialEq, Eq)]
pub struct PollRequest {
    /// At least one channel, without repetition, in the order of the query.
    pub channels: Vec<ChannelName>,
    /// From where the client wants to be served.
    pub since: Since,
    /// What it wants of each publication.
    pub envelope: Envelope,
    /// How long it waits for news, held to the limit. Zero is a short poll.
    pub timeout: Duration,
    /// What it has already.
    pub validators: Validators,
    /// Whose pages may read the answer.
    pub sharing: Sharing,
    /// What becomes of the conn behind the answer.
    pub after: After,
    /// How it comes in.
    pub entry: Entry,
}

/// A checked request for a WebSocket (RFC 6455, 4.2.1).
#[derive(Debug, PartialEq, Eq)]
pub struct WebSocketRequest {
    /// The channels to start with, without repetition; none where commands can name some later.
    pub channels: Vec<ChannelName>,
    /// From where the client wants to be served.
    pub since: Since,
    /// How much of each may be given before it is acknowledged.
    pub window: Option<Window>,
    /// What it wants of each publication.
    pub envelope: Envelope,
    /// The value of `Sec-WebSocket-Accept`.
    pub accept: String,
    /// Whether the subprotocol `fanfare.v1` was offered and so is spoken.
    pub has_subprotocol: bool,
    /// How messages are compressed, if they are.
    pub deflate: Option<Deflate>,
    /// How it comes in.
    pub entry: Entry,
}

/// Whom the request at the front of `bytes` comes from, as a trusted proxy says; `None` inside if
/// it says nothing that is understood, and outside if there is no complete head.
#[must_use]
pub fn forwarded_client(bytes: &[u8], config: &Config) -> Option<Option<IpAddr>> {
    let head_bytes_max = usize::try_from(config.limits.request_head_bytes).unwrap_or(usize::MAX);
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

/// Reads one request from the front of `bytes` where nobody is asked for a token.
pub fn read_request(bytes: &[u8], config: &Config, date: &str, metrics: &WorkerMetrics) -> Read {
    read_guarded_request(bytes, &Access::default(), config, date, metrics)
}

/// Reads one request from the front of `bytes`: the one entry of this module.
///
/// Looks at no more than `config.limits.request_head_bytes` bytes; when so many are there and hold
/// no complete head, the request is refused. `date` is the time as the `Date` field has it.
pub fn read_guarded_request(
    bytes: &[u8],
    access: &Access,
    config: &Config,
    date: &str,
    metrics: &WorkerMetrics,
) -> Read {
    let head_bytes_max = usize::try_from(config.limits.request_head_bytes).unwrap_or(usize::MAX);
    let (length, answer) = match head::read_head(bytes, head_bytes_max) {
        HeadRead::Incomplete => return Read::Incomplete,
        HeadRead::Complete { length, head } => {
            let source = Source::of(&head, &config.browser);
            let answer = route::answer(&head, source, access, config, date);
            let answer = answer.unwrap_or_else(|refusal| {
                let then = match note_refusal(refusal, metrics) {
                    After::Close => After::Close,
                    After::KeepAlive => head.after,
                };
                let reader = source.sharing().reader(&config.browser);
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
    Read::Request { length, answer }
}

/// Counts it, and says what becomes of the conn if the head leaves that open.
fn note_refusal(refusal: Refusal, metrics: &WorkerMetrics) -> After {
    metrics.requests_refused.increment();
    if refusal == Refusal::Origin {
        metrics.origins_refused.increment();
    }
    if matches!(refusal, Refusal::Entry(EntryError::Token(_))) {
        metrics.tokens_refused.increment();
        // Each costs a signature, so the next one has to connect for it.
        return After::Close;
    }
    After::KeepAlive
}

#[cfg(test)]
mod tests;
