//! Publishing over HTTP: checks the head and the content of `POST /publish`, and writes the
//! response.
//!
//! Clients on event streams and polls have no other way to publish. The content is the payload, one
//! JSON value, whatever its media type: a page can send `text/plain` without a preflight request.
//! So the origin of each page is checked, as for a `WebSocket`. The caller is `conn`, which reads
//! the content and waits for the outcome.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::body::{Body, BodyError, Keeping};
use super::entry;
use super::framing::{Expectation, Framing};
use super::head::{Head, Method};
use super::origin::{Reader, Source};
use super::response::{self, Response, push_content, push_field, push_status_line};
use super::target::{self, Target};
use super::{After, Entry, Refusal, Sharing, Status};
use crate::auth::Access;
use crate::backend::PublishOutcome;
use crate::config::limits::LABEL_BYTES_MAX;
use crate::config::{ClientPublish, Config};
use crate::effect::Audience;
use crate::id::{ChannelName, Cursor};
use crate::json::{self, LimitError};
use crate::traceparent::TraceParent;

/// The path of publications.
pub(super) const PATH: &str = "/publish";

/// The methods of [`PATH`].
pub(super) const METHODS: &str = "OPTIONS, POST";

/// The interim response to a client that waits before it sends the content (RFC 9110, 15.2.1).
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// A checked request to publish. Its content is not read yet.
#[derive(Debug, PartialEq, Eq)]
pub struct PublishRequest {
    /// The channel.
    pub channel: ChannelName,
    /// The receivers of the publication.
    pub audience: Audience,
    /// The idempotency key, if the query has one.
    pub dedupe: Option<Box<str>>,
    /// The trace context of the request.
    pub traceparent: Option<Box<TraceParent>>,
    /// The permissions with which the request is admitted.
    pub entry: Entry,
    /// The way in which the end of the content is marked.
    pub framing: Framing,
    /// Whether the client waits for [`CONTINUE`] before it sends the content.
    pub awaits_continue: bool,
    /// The origins whose pages may read the response.
    pub sharing: Sharing,
    /// Whether the conn persists after the response.
    pub after: After,
}

/// The reason for which a publication over HTTP is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// Too many messages to the feed or to a consumer are waiting.
    #[error("too many publications wait; try again later")]
    Busy,
    /// The chunks of the content are malformed (RFC 9112, 7.1).
    #[error("the chunks of the content are malformed")]
    Chunks,
    /// The content has a content coding.
    #[error("content codings are not supported here: send the content without Content-Encoding")]
    ContentCoding,
    /// The content is longer than the limit.
    #[error("the content of a publication has at most {limit} bytes")]
    ContentTooLong {
        /// The maximum number of bytes, `limits.client_message_bytes`.
        limit: u32,
    },
    /// The parameter `dedupe` is empty or too long.
    #[error("dedupe has 1 to {LABEL_BYTES_MAX} bytes")]
    Dedupe,
    /// The content is not a JSON value.
    #[error("the content must be one JSON value in UTF-8")]
    Json,
    /// The content exceeds a limit on JSON values.
    #[error("{0}")]
    JsonLimit(LimitError),
    /// The request has no content.
    #[error("the payload is the content of the request: Content-Length or chunked is needed")]
    LengthMissing,
    /// The method is not POST.
    #[error("only POST and OPTIONS are supported here")]
    Method,
    /// No consumer wants the channel.
    #[error("no backend consumes publications to this channel")]
    NoConsumer,
    /// Clients may not publish to the channel.
    #[error("the configuration lets no client publish to this channel (client_publish)")]
    NotAllowed,
    /// The feed could not store the publication.
    #[error("the publication could not be stored; try again later")]
    Unavailable,
    /// The publication was delivered, but the disk has not confirmed it.
    #[error("the publication was delivered, but may not be on disk")]
    Unsynced,
}

impl PublishError {
    /// Returns the status of the response.
    #[must_use]
    pub fn status(self) -> Status {
        match self {
            Self::Chunks | Self::Dedupe | Self::Json | Self::JsonLimit(_) => Status::BadRequest,
            Self::ContentCoding => Status::UnsupportedMediaType,
            Self::ContentTooLong { .. } => Status::ContentTooLarge,
            Self::LengthMissing => Status::LengthRequired,
            Self::Method => Status::MethodNotAllowed,
            Self::NotAllowed => Status::Forbidden,
            Self::Busy | Self::NoConsumer | Self::Unavailable | Self::Unsynced => {
                Status::ServiceUnavailable
            }
        }
    }

    /// Returns the `code` of the problem document.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Busy => "busy",
            Self::Chunks => "bad_chunks",
            Self::ContentCoding => "content_coding",
            Self::ContentTooLong { .. } => "too_long",
            Self::Dedupe => "bad_dedupe",
            Self::Json | Self::JsonLimit(_) => "bad_json",
            Self::LengthMissing => "length_required",
            Self::Method => "method_not_allowed",
            Self::NoConsumer => "no_consumer",
            Self::NotAllowed => "not_allowed",
            Self::Unavailable => "unavailable",
            Self::Unsynced => "journal_unsynced",
        }
    }
}

impl From<PublishError> for Refusal {
    fn from(error: PublishError) -> Self {
        Self::Publish(error)
    }
}

/// Whether a request is for [`PATH`], so that it may have content.
pub(super) fn is_meant(head: &Head<'_>) -> bool {
    head.method == Method::Post && Target::parse(head.target).is_ok_and(|one| one.path == PATH)
}

/// Checks the head of a request for [`PATH`].
pub(super) fn check(
    head: &Head<'_>,
    target: Target<'_>,
    source: Source,
    access: &Access,
    config: &Config,
) -> Result<PublishRequest, Refusal> {
    if head.method != Method::Post {
        return Err(PublishError::Method.into());
    }
    // A browser lets any page send such a request.
    if source == Source::Foreign {
        return Err(Refusal::Origin);
    }
    let awaits_continue = match head.expectation() {
        Expectation::Absent => false,
        Expectation::Continue => true,
        Expectation::Unknown => return Err(Refusal::Expectation),
    };
    check_content(head, config)?;
    let (channel, dedupe) = parameters(target.query)?;
    let audience = match config.client_rules(&channel).publish {
        ClientPublish::Off => return Err(PublishError::NotAllowed.into()),
        ClientPublish::Broadcast => Audience::Subscribers,
        ClientPublish::Consume => Audience::Consumers,
    };
    let entry = entry::decide_publish(&head.fields, target.query, &channel, access, config)?;
    Ok(PublishRequest {
        channel,
        audience,
        dedupe,
        traceparent: head.fields.traceparent().map(Box::new),
        entry,
        framing: head.framing,
        awaits_continue,
        sharing: source.sharing(&config.browser),
        after: head.after,
    })
}

fn check_content(head: &Head<'_>, config: &Config) -> Result<(), PublishError> {
    let limit = config.limits.client_message_bytes;
    match head.framing {
        Framing::Absent => return Err(PublishError::LengthMissing),
        Framing::Counted(length) if length > limit.into() => {
            return Err(PublishError::ContentTooLong { limit });
        }
        Framing::Counted(_) | Framing::Chunked => {}
    }
    let lines = head.fields.lines.named("content-encoding");
    let mut codings = lines.flat_map(|line| line.split(|byte| *byte == b','));
    let is_plain = codings.all(|coding| {
        let coding = coding.trim_ascii();
        coding.is_empty() || coding.eq_ignore_ascii_case(b"identity")
    });
    is_plain.then_some(()).ok_or(PublishError::ContentCoding)
}

/// Returns the channel and the idempotency key of a query. Other parameters are ignored.
fn parameters(query: &str) -> Result<(ChannelName, Option<Box<str>>), Refusal> {
    let (mut channel, mut channels, mut dedupe) = (None, 0, None);
    for (name, value) in target::query_pairs(query) {
        let (name, value) = (target::decode(name)?, target::decode(value)?);
        if name == "channel" {
            channels += 1;
            let name = ChannelName::new(&value).map_err(Refusal::ChannelName)?;
            channel.get_or_insert(name);
        } else if name == "dedupe" && dedupe.is_none() {
            if !(1..=LABEL_BYTES_MAX).contains(&value.len()) {
                return Err(PublishError::Dedupe.into());
            }
            dedupe = Some(Box::from(value));
        }
    }
    if channels > 1 {
        let (limit, got) = (1, channels);
        return Err(Refusal::ChannelsTooMany { limit, got });
    }
    Ok((channel.ok_or(Refusal::ChannelMissing)?, dedupe))
}

impl PublishRequest {
    /// Returns an empty body that reads the content of the request.
    pub(crate) fn body(&self, config: &Config) -> Body {
        let bytes_max = config.limits.client_message_bytes as usize;
        match self.framing {
            Framing::Counted(length) => {
                let length = usize::try_from(length).unwrap_or(usize::MAX);
                Body::counted(length.min(bytes_max), Keeping::Kept)
            }
            Framing::Chunked | Framing::Absent => Body::chunked(bytes_max, Keeping::Kept),
        }
    }
}

/// Returns the payload in the content of a request.
pub(crate) fn payload(content: &[u8]) -> Result<Box<str>, PublishError> {
    let text = simdutf8::basic::from_utf8(content).map_err(|_not_utf8| PublishError::Json)?;
    let mut parser = serde_json::Deserializer::from_str(text);
    let value = <&RawValue>::deserialize(&mut parser).map_err(|_not_json| PublishError::Json)?;
    parser.end().map_err(|_more| PublishError::Json)?;
    json::check_value(value.get()).map_err(PublishError::JsonLimit)?;
    Ok(Box::from(value.get()))
}

/// Returns the refusal for content that cannot be read.
pub(crate) fn content_refusal(error: BodyError, config: &Config) -> Refusal {
    let limit = config.limits.client_message_bytes;
    match error {
        BodyError::Malformed => PublishError::Chunks.into(),
        BodyError::TooLarge => PublishError::ContentTooLong { limit }.into(),
    }
}

/// Returns the response to a publication with this outcome. `retry_after_s` is sent with a
/// temporary refusal.
#[must_use]
pub fn respond(
    outcome: PublishOutcome,
    after: After,
    reader: Reader<'_>,
    retry_after_s: u64,
    date: &str,
) -> Response {
    let error = match outcome {
        PublishOutcome::Broadcast(id) => return accepted(Some(id), after, reader, date),
        PublishOutcome::Consumed => return accepted(None, after, reader, date),
        PublishOutcome::Busy => PublishError::Busy,
        PublishOutcome::NoConsumer => PublishError::NoConsumer,
        PublishOutcome::Refused => PublishError::Unavailable,
        PublishOutcome::Unsynced => PublishError::Unsynced,
    };
    response::refuse_for_now(error.into(), reader, retry_after_s, date)
}

fn accepted(id: Option<Cursor>, after: After, reader: Reader<'_>, date: &str) -> Response {
    let document = match id {
        Some(id) => format!("{{\"type\":\"ok\",\"id\":\"{id}\"}}\n"),
        None => String::from("{\"type\":\"ok\"}\n"),
    };
    let mut bytes = Vec::with_capacity(256);
    push_status_line(Status::Ok, date, &mut bytes);
    push_field("Cache-Control", "no-store", &mut bytes);
    reader.push_fields(&mut bytes);
    let content = document.as_bytes();
    push_content("application/json", content, Method::Post, after, &mut bytes);
    Response {
        status: Status::Ok,
        bytes,
        then: after,
        refusal: None,
    }
}
