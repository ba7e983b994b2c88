//! The effects that a conn's state machine requests from the worker.
//!
//! Bytes for the peer are written to the conn's own outbox. Every other action that the state
//! machine needs is an [`Effect`] in a list. The worker owns this list, and applies and removes the
//! effects after each call of the state machine. Only `worker/apply.rs` applies effects.

use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::config::limits::WINDOW_PUBLICATIONS_MAX;
use crate::id::{ChannelName, Cursor, Since};
use crate::time::Deadline;
use crate::traceparent::TraceParent;

/// An action that a conn's state machine asks the worker to take.
#[derive(Debug, PartialEq, Eq)]
pub enum Effect {
    /// Register a client's acknowledgement of publications, then report the outcome with
    /// `handle_event`.
    Acknowledge(Acknowledgement),
    /// Gather the publications and gaps for a poll's answer. Then call `handle_answer` with them,
    /// even if there are none.
    Answer {
        /// The position that the client receives if the answer contains no publications and no
        /// gaps. `None` stands for the log's head.
        since: Option<Cursor>,
        /// Whether the answer must contain all publications that have been posted to the workers
        /// until now.
        is_up_to_date: bool,
    },
    /// Free the conn now. Unsent bytes are lost, so a conn that ends normally asks for
    /// [`Effect::ShutdownWrite`] first.
    Close(CloseReason),
    /// Ask the feed for the number of subscribers of a channel, then call
    /// `handle_backend_message` with the answer.
    Count {
        /// The channel.
        channel: ChannelName,
        /// The reference (`ref`) with which the client labelled the command, if any.
        reference: Option<Reference>,
    },
    /// Switch to the conn's new token. From now on, reports to backends about the conn contain the
    /// new token's subject. Unsubscribe the conn from the channels that the new token does not
    /// allow.
    DropUnauthorized,
    /// Count the conn for the client whose address an HTTP proxy has sent in a header field, if
    /// any. Then call `handle_forwarded_client`.
    IdentifyByForwardedHeader(Option<IpAddr>),
    /// Count the conn for the client that the PROXY header names, if any. Then call
    /// `handle_proxy_client`.
    IdentifyByProxyHeader(Option<IpAddr>),
    /// Subscribe to channels, then call `handle_joined` with the outcome.
    Join(Join),
    /// Unsubscribe from a channel, then report the outcome with `handle_event`.
    Leave(Leave),
    /// Unsubscribe from all channels. The outbox is still sent.
    LeaveAll {
        /// Whether the conn is a stream. Backends are not informed of the end of a poll.
        is_stream: bool,
    },
    /// Log that a request was answered. The machine asks for this only if the conn is logged.
    NoteAnswer(AnsweredRequest),
    /// Store the code of the close frame that the conn sends, for the access log. The machine asks
    /// for this only if the conn is logged.
    NoteClose(u16),
    /// Store a request for the access log. The machine asks for this only if the conn is logged.
    NoteRequest(Box<ReadRequest>),
    /// Log a warning that a token was refused, with the code of the reason.
    NoteRefusedToken(&'static str),
    /// Log a warning that the conn is closed because too many answers to its commands are unsent.
    NoteUnsentAnswers,
    /// Pass a client's publication to the feed, then call `handle_backend_message` with the
    /// outcome.
    Publish {
        /// The channel.
        channel: ChannelName,
        /// The publication's JSON text.
        data: Box<str>,
        /// The idempotency key, if the client has sent one.
        dedupe: Option<Box<str>>,
        /// The reference (`ref`) with which the client labelled the command, if any.
        reference: Option<Reference>,
        /// The receivers of the publication.
        audience: Audience,
        /// The trace context of the publication, if the client has sent one.
        traceparent: Option<Box<TraceParent>>,
        /// The subject of the request's token, for a publication over HTTP. For other
        /// publications, the subject of the conn's token is used.
        sub: Option<Arc<str>>,
    },
    /// Count the conn in a different [`ConnClass`] from now on.
    Reclassify {
        /// The class in which the conn was counted until now.
        before: ConnClass,
        /// The class in which the conn is counted from now on.
        class: ConnClass,
    },
    /// Call `handle_timeout` at this time. The new deadline replaces the previous one.
    SetTimer(Deadline),
    /// Send FIN. The state machine asks for this only when the outbox is empty.
    ShutdownWrite,
}

/// A request in the access log.
#[derive(Debug, PartialEq, Eq)]
pub struct ReadRequest {
    /// The transport that the request asks for, or `http`.
    pub transport: &'static str,
    /// The path, and those parameters of the query that are not secret.
    pub path: Box<str>,
    /// The trace context of the client.
    pub traceparent: Option<TraceParent>,
    /// The status with which a stream begins; `None` if the request is not for a stream.
    pub stream_status: Option<u16>,
}

/// An answered request in the access log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnsweredRequest {
    /// The status of the response.
    pub status: u16,
    /// The number of publications in the response.
    pub publications: u64,
    /// The number of bytes of the response, without TLS.
    pub bytes: u64,
    /// The reason for which the conn ends after the response; `None` if the conn stays open.
    pub reason: Option<CloseReason>,
}

/// The classes of conns that a worker counts or limits separately.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnClass {
    /// A new conn whose first request head is not complete. The worker may not have read all bytes
    /// that have arrived.
    Arriving,
    /// A conn whose first request head is not complete, although the worker has read all bytes that
    /// had arrived.
    Silent,
    /// A conn that is an open WebSocket.
    WebSocket,
    /// A conn of no other class, for example an event stream or a poll.
    Other,
}

/// The receivers of a client's publication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// The channel's subscribers.
    Subscribers,
    /// The backends that consume clients' publications from the feed.
    Consumers,
}

/// A subscription to channels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Join {
    /// The channels, without repetition.
    pub channels: Vec<ChannelName>,
    /// The position after which the subscriber receives publications.
    pub since: Since,
    /// The maximum number of unacknowledged publications of each channel; `None` if the client does
    /// not acknowledge publications.
    pub window: Option<Window>,
    /// The command or request that asked for the subscription.
    pub origin: Origin,
}

/// The maximum number of publications of a channel that may be sent but not yet acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window(u32);

impl Window {
    /// Returns a window of 1 to [`WINDOW_PUBLICATIONS_MAX`] publications; `None` for other numbers.
    #[must_use]
    pub fn new(publications: u32) -> Option<Self> {
        (1..=WINDOW_PUBLICATIONS_MAX)
            .contains(&publications)
            .then_some(Self(publications))
    }

    /// Returns the window's maximum number of unacknowledged publications.
    #[must_use]
    pub fn publications(self) -> u32 {
        self.0
    }
}

/// A client's acknowledgement of publications.
#[derive(Debug, PartialEq, Eq)]
pub struct Acknowledgement {
    /// The channel; `None` stands for the conn's only channel.
    pub channel: Option<ChannelName>,
    /// The last acknowledged publication. All publications before it are acknowledged, too.
    pub id: Cursor,
    /// The reference (`ref`) with which the client labelled the command, if any.
    pub reference: Option<Reference>,
}

/// The command or request that asked for a [`Join`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A command on a WebSocket, with its reference if it has one.
    Command(Option<Reference>),
    /// The request that opened the stream.
    Request,
}

/// The end of a subscription to one channel.
#[derive(Debug, PartialEq, Eq)]
pub struct Leave {
    /// The channel.
    pub channel: ChannelName,
    /// The reference (`ref`) with which the client labelled the command, if any.
    pub reference: Option<Reference>,
}

/// A JSON number or string with which a client labels a command. The answer repeats it verbatim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference(Box<str>);

impl Reference {
    /// The maximum length of a reference, in bytes of JSON.
    pub const BYTES_MAX: usize = 64;

    /// Returns a reference for a JSON number or string of at most [`Reference::BYTES_MAX`] bytes;
    /// `None` for other texts.
    #[must_use]
    pub fn from_json(json: &str) -> Option<Self> {
        let is_scalar = json.starts_with(|c: char| c == '"' || c == '-' || c.is_ascii_digit());
        (is_scalar && json.len() <= Self::BYTES_MAX).then(|| Self(Box::from(json)))
    }

    /// Returns the reference of a publication over HTTP. It only says that an answer is wanted:
    /// the response to a request has no label.
    #[must_use]
    pub fn of_request() -> Self {
        Self(Box::from("0"))
    }

    /// Returns the reference as JSON.
    #[must_use]
    pub fn as_json(&self) -> &str {
        &self.0
    }
}

/// The order of a list of connections. Each order but the last has the largest value first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ConnSort {
    /// By the number of publications that wait for the connection.
    #[default]
    Behind,
    /// By the number of channels.
    Channels,
    /// By the time since the last sign of life.
    Silent,
    /// By the number of unsent bytes.
    Unsent,
    /// By the name of the connection, which is the order of workers and slots.
    Connection,
}

/// What a connection is used for, as operators see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ConnTransport {
    /// A stream of server-sent events.
    EventStream,
    /// A poll that waits for its answer.
    Poll,
    /// No request yet, the next request, or the end of the connection.
    Request,
    /// A WebSocket.
    #[serde(rename = "websocket")]
    WebSocket,
}

/// The reason for which a conn ended. Normal ends by the peer come first, then faults of the peer,
/// then ends by the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CloseReason {
    // The peer ended the connection normally.
    /// The client ended the conn as its protocol requires.
    Done,
    /// The client closed or reset the connection in mid-stream.
    PeerGone,
    // The peer caused a fault.
    /// The PROXY header is missing, malformed or late.
    BadProxyHeader,
    /// The request was refused, and the connection cannot be reused.
    BadRequest,
    /// The client did not send a complete request head in time.
    HeadTimeout,
    /// The peer sent no pong and accepted no bytes for two heartbeats.
    Idle,
    /// A compressed message cannot be inflated (1007).
    InvalidDeflate,
    /// Text is not UTF-8 (1007).
    InvalidText,
    /// A message exceeds the limit (1009).
    MessageTooBig,
    /// A WebSocket did not subscribe in time (1008).
    NoSubscription,
    /// The token does not allow a channel (4003).
    NotAllowed,
    /// The client violated the WebSocket protocol (1002).
    ProtocolError,
    /// The TLS handshake or a record failed, or the client's certificate was refused.
    TlsError,
    /// The token has expired and was not replaced (4002).
    TokenExpired,
    /// The client sent no token in time, or it sent an invalid token (4001).
    Unauthorized,
    /// The client read too slowly. The conn exceeded its quota with the policy `close` (4100), or
    /// too many control bytes were unread. Or all conns together kept too many evicted
    /// publications in memory, and this conn kept the oldest of them.
    Overflow,
    // The server ended the connection.
    /// Too many conns had not completed a request head, and this conn was the oldest of them.
    CrowdedOut,
    /// A limit of the server was reached.
    Refused,
    /// A backend or an operator ended the conn with a close code of its choice.
    Disconnected,
    /// The server stops (1012).
    Shutdown,
}

impl CloseReason {
    /// All reasons, in the order of the metrics.
    pub const ALL: [Self; 20] = [
        Self::Done,
        Self::PeerGone,
        Self::BadProxyHeader,
        Self::BadRequest,
        Self::HeadTimeout,
        Self::Idle,
        Self::InvalidDeflate,
        Self::InvalidText,
        Self::MessageTooBig,
        Self::NoSubscription,
        Self::NotAllowed,
        Self::ProtocolError,
        Self::TlsError,
        Self::TokenExpired,
        Self::Unauthorized,
        Self::Overflow,
        Self::CrowdedOut,
        Self::Refused,
        Self::Disconnected,
        Self::Shutdown,
    ];

    /// Returns the reason's name in metrics and logs.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::PeerGone => "peer_gone",
            Self::BadProxyHeader => "bad_proxy_header",
            Self::BadRequest => "bad_request",
            Self::HeadTimeout => "head_timeout",
            Self::Idle => "idle",
            Self::InvalidDeflate => "invalid_deflate",
            Self::InvalidText => "invalid_text",
            Self::MessageTooBig => "message_too_big",
            Self::NoSubscription => "no_subscription",
            Self::NotAllowed => "not_allowed",
            Self::ProtocolError => "protocol_error",
            Self::TlsError => "tls_error",
            Self::TokenExpired => "token_expired",
            Self::Unauthorized => "unauthorized",
            Self::Overflow => "overflow",
            Self::CrowdedOut => "crowded_out",
            Self::Refused => "refused",
            Self::Disconnected => "disconnected",
            Self::Shutdown => "shutdown",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn window_accepts_one_to_its_limit() {
        let numbers = [0, 1, WINDOW_PUBLICATIONS_MAX, WINDOW_PUBLICATIONS_MAX + 1];
        let taken = numbers.map(|number| Window::new(number).is_some());
        assert_eq!(taken, [false, true, true, false]);
    }

    #[test]
    fn reference_accepts_short_scalars_only() {
        assert!(Reference::from_json("17").is_some());
        assert!(Reference::from_json("\"a\"").is_some());
        assert!(Reference::from_json("{}").is_none());
        assert!(Reference::from_json(&"1".repeat(65)).is_none());
    }
}
