//! The messages of the subprotocol `fanfare.v1`: a parser for commands and writers for answers.
//!
//! A command is a JSON object in a text message. Its `type` determines its other fields; unknown
//! fields are ignored. An answer is a JSON object in a text frame. A command that cannot be
//! executed is refused with an `error` message and never ends the conn. The transport ([`super`])
//! decides when a message is sent.

use std::fmt::Display;
use std::time::Duration;

use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::certain;
use crate::config::limits::{LABEL_BYTES_MAX, WINDOW_PUBLICATIONS_MAX};
use crate::context::Context;
use crate::effect::{Reference, Window};
use crate::frame::Payload;
use crate::frame::envelope::{push_display, push_json_string, push_payload_field};
use crate::frame::websocket::{Opcode, push_header};
use crate::hub::Gap;
use crate::id::{ChannelName, ChannelNameError, Cursor, SINCE_FIRST, Since};
use crate::json::{self, LimitError};
use crate::traceparent::{TraceParent, TraceParentError};
use crate::transport::push_gap_fields;

/// A parsed command, with the client's reference if the command contains a reference.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Command {
    pub(super) action: Action,
    pub(super) reference: Option<Reference>,
}

/// The action that a command requests.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Authenticate with a token.
    Authenticate { token: Box<str> },
    /// Acknowledge all publications of a channel up to and including an id. If `channel` is `None`,
    /// the conn's only channel is meant.
    Acknowledge {
        channel: Option<ChannelName>,
        id: Cursor,
    },
    /// Request a pong. This command exists because browsers do not expose the protocol's ping.
    Ping,
    /// Request the number of subscribers of a channel.
    Presence { channel: ChannelName },
    /// Publish a JSON text.
    Publish {
        channel: ChannelName,
        data: Box<str>,
        dedupe: Option<Box<str>>,
        traceparent: Option<Box<TraceParent>>,
    },
    /// Subscribe to a channel.
    Subscribe {
        channel: ChannelName,
        since: Since,
        window: Option<Window>,
    },
    /// Unsubscribe from a channel.
    Unsubscribe { channel: ChannelName },
}

/// A refused command, with the client's reference if it could be read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) refusal: Refusal,
    pub(super) reference: Option<Reference>,
}

/// The reason for which a command is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("the connection is already subscribed to the channel")]
    AlreadySubscribed,
    #[error("{0}")]
    BadChannel(ChannelNameError),
    #[error("id is missing, malformed, or above the newest id of the server")]
    BadId,
    #[error("a command is one JSON object, no field twice")]
    BadJson,
    #[error(
        "ref is a number or string of at most {} bytes of JSON",
        Reference::BYTES_MAX
    )]
    BadReference,
    #[error("dedupe is a string of 1 to {LABEL_BYTES_MAX} bytes")]
    BadDedupe,
    #[error("last is a whole number from 0 to {}", u32::MAX)]
    BadLast,
    #[error("traceparent is {0}")]
    BadTraceparent(TraceParentError),
    #[error("window is a whole number from 1 to {WINDOW_PUBLICATIONS_MAX}")]
    BadWindow,
    #[error("a command is a text message")]
    BinaryMessage,
    #[error("too many commands in a short time; try again later")]
    Busy,
    #[error("channel is missing or not a string")]
    ChannelMissing,
    #[error("channel is missing, and the connection has several")]
    ChannelUnclear,
    #[error("data is missing")]
    DataMissing,
    #[error("no backend consumes publications to this channel")]
    NoConsumer,
    #[error("{0}")]
    JsonLimit(LimitError),
    #[error("neither the token nor the server allows this")]
    NotAllowed,
    #[error("the connection is not subscribed to the channel")]
    NotSubscribed,
    #[error("a token must be shown first, with auth")]
    NotAuthenticated,
    #[error("token is missing or not a string")]
    TokenMissing,
    #[error("the subscription has no window")]
    NoWindow,
    #[error("the server has reached its limit of channels")]
    ServerFull,
    #[error("the connection has reached its limit of channels")]
    TooManyChannels,
    #[error("the publication could not be stored; try again later")]
    Unavailable,
    #[error(
        "id is of an epoch that the server does not know, as after a restart without a journal; \
         nothing was acknowledged"
    )]
    UnknownEpoch,
    #[error("type is none of ack, auth, ping, presence, publish, subscribe, unsubscribe")]
    UnknownType,
    #[error("the publication was delivered, but may not be on disk")]
    Unsynced,
}

impl Refusal {
    /// Returns the value of the field `code` in the `error` message.
    fn code(self) -> &'static str {
        match self {
            Self::AlreadySubscribed => "already_subscribed",
            Self::BadChannel(_) | Self::ChannelMissing | Self::ChannelUnclear => "bad_channel",
            Self::BadId | Self::UnknownEpoch => "bad_id",
            Self::BadJson | Self::JsonLimit(_) => "bad_json",
            Self::BadReference => "bad_ref",
            Self::BadDedupe => "bad_dedupe",
            Self::BadLast => "bad_last",
            Self::BadTraceparent(_) => "bad_traceparent",
            Self::BadWindow => "bad_window",
            Self::BinaryMessage => "binary_message",
            Self::Busy => "busy",
            Self::DataMissing => "bad_payload",
            Self::NoConsumer => "no_consumer",
            Self::NotAllowed => "not_allowed",
            Self::NotAuthenticated => "not_authenticated",
            Self::NotSubscribed => "not_subscribed",
            Self::TokenMissing => "bad_token",
            Self::NoWindow => "no_window",
            Self::ServerFull => "server_full",
            Self::TooManyChannels => "too_many_channels",
            Self::Unavailable => "unavailable",
            Self::UnknownType => "unknown_type",
            Self::Unsynced => "journal_unsynced",
        }
    }
}

/// A command's fields as unparsed JSON, so that a wrong type in one field does not hide the other
/// fields. `null` counts as an absent field, except in `data`, where it is a value.
#[derive(Deserialize)]
struct Fields<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<&'a RawValue>,
    #[serde(borrow)]
    channel: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "value")]
    data: Option<&'a RawValue>,
    #[serde(borrow)]
    dedupe: Option<&'a RawValue>,
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    last: Option<&'a RawValue>,
    #[serde(borrow)]
    since: Option<&'a RawValue>,
    #[serde(borrow)]
    token: Option<&'a RawValue>,
    #[serde(borrow)]
    traceparent: Option<&'a RawValue>,
    #[serde(borrow)]
    window: Option<&'a RawValue>,
    #[serde(borrow, rename = "ref")]
    reference: Option<&'a RawValue>,
}

fn value<'de: 'a, 'a, D: Deserializer<'de>>(json: D) -> Result<Option<&'a RawValue>, D::Error> {
    <&RawValue>::deserialize(json).map(Some)
}

/// Parses a command.
pub(super) fn parse(text: &str) -> Result<Command, Refused> {
    let refuse = |refusal, reference| Refused { refusal, reference };
    // Checked because serde would also accept an array of the values instead of an object.
    if !text.trim_ascii_start().starts_with('{') {
        return Err(refuse(Refusal::BadJson, None));
    }
    let Ok(fields) = serde_json::from_str::<Fields<'_>>(text) else {
        return Err(refuse(Refusal::BadJson, None));
    };
    let reference = match fields.reference {
        None => None,
        Some(json) => match Reference::from_json(json.get()) {
            None => return Err(refuse(Refusal::BadReference, None)),
            some => some,
        },
    };
    if let Err(limit) = json::check_envelope(text) {
        return Err(refuse(Refusal::JsonLimit(limit), reference));
    }
    match parse_action(&fields) {
        Ok(action) => Ok(Command { action, reference }),
        Err(refusal) => Err(refuse(refusal, reference)),
    }
}

fn parse_action(fields: &Fields<'_>) -> Result<Action, Refusal> {
    let kind = fields.kind.and_then(parse_string);
    match kind.as_deref() {
        Some("ack") => Ok(Action::Acknowledge {
            channel: fields.channel.map(|_| parse_channel(fields)).transpose()?,
            id: parse_id(fields)?,
        }),
        Some("auth") => {
            let token = fields.token.and_then(parse_string);
            let token = token.ok_or(Refusal::TokenMissing)?.into_boxed_str();
            Ok(Action::Authenticate { token })
        }
        Some("ping") => Ok(Action::Ping),
        Some("presence") => Ok(Action::Presence {
            channel: parse_channel(fields)?,
        }),
        Some("publish") => Ok(Action::Publish {
            channel: parse_channel(fields)?,
            data: Box::from(fields.data.ok_or(Refusal::DataMissing)?.get()),
            dedupe: parse_dedupe(fields)?,
            traceparent: parse_traceparent(fields)?,
        }),
        Some("subscribe") => Ok(Action::Subscribe {
            channel: parse_channel(fields)?,
            since: parse_since(fields)?,
            window: parse_window(fields)?,
        }),
        Some("unsubscribe") => Ok(Action::Unsubscribe {
            channel: parse_channel(fields)?,
        }),
        Some(_) | None => Err(Refusal::UnknownType),
    }
}

fn parse_channel(fields: &Fields<'_>) -> Result<ChannelName, Refusal> {
    let name = fields.channel.and_then(parse_string);
    ChannelName::new(&name.ok_or(Refusal::ChannelMissing)?).map_err(Refusal::BadChannel)
}

/// Parses the position at which a subscription begins. `last` is used if `since` is absent or
/// empty.
fn parse_since(fields: &Fields<'_>) -> Result<Since, Refusal> {
    let last = |json: &RawValue| json::whole_number(json.get()).and_then(Since::last);
    let last = fields.last.map(|json| last(json).ok_or(Refusal::BadLast));
    let last = last.transpose()?.unwrap_or(Since::Now);
    let Some(since) = fields.since else {
        return Ok(last);
    };
    Ok(match parse_string(since).as_deref() {
        Some("") => last,
        Some(SINCE_FIRST) => Since::First,
        Some(id) => Since::parse(id),
        None => Since::Unrecognised,
    })
}

fn parse_id(fields: &Fields<'_>) -> Result<Cursor, Refusal> {
    let id = fields.id.and_then(parse_string);
    id.and_then(|id| id.parse().ok()).ok_or(Refusal::BadId)
}

fn parse_dedupe(fields: &Fields<'_>) -> Result<Option<Box<str>>, Refusal> {
    let key = |json| {
        let key = parse_string(json).filter(|key| (1..=LABEL_BYTES_MAX).contains(&key.len()));
        key.map(String::into_boxed_str).ok_or(Refusal::BadDedupe)
    };
    fields.dedupe.map(key).transpose()
}

fn parse_traceparent(fields: &Fields<'_>) -> Result<Option<Box<TraceParent>>, Refusal> {
    let Some(json) = fields.traceparent else {
        return Ok(None);
    };
    let text = parse_string(json).ok_or(TraceParentError);
    let parsed = text.and_then(|text| text.parse().map(Box::new));
    parsed.map(Some).map_err(Refusal::BadTraceparent)
}

fn parse_window(fields: &Fields<'_>) -> Result<Option<Window>, Refusal> {
    let number = |json: &RawValue| u32::try_from(json::whole_number(json.get())?).ok();
    let window = |json| number(json).and_then(Window::new).ok_or(Refusal::BadWindow);
    fields.window.map(window).transpose()
}

fn parse_string(json: &RawValue) -> Option<String> {
    serde_json::from_str(json.get()).ok()
}

/// Appends the first message on a conn, with the conn's name and the heartbeat interval.
pub(super) fn push_welcome(out: &mut Vec<u8>, context: &Context<'_>) {
    push_message("welcome", None, out, |out| {
        push_display(
            &format_args!(
                ",\"conn\":\"{}\",\"heartbeat_ms\":{}",
                context.conn, context.config.heartbeat.interval_ms
            ),
            out,
        );
    });
}

/// Appends the message that a subscription has begun, with the position from which the client can
/// resume.
pub(super) fn push_subscribed(
    channel: &ChannelName,
    position: Cursor,
    is_recovered: bool,
    reference: Option<&Reference>,
    out: &mut Vec<u8>,
) {
    push_message("subscribed", reference, out, |out| {
        push_channel(channel, out);
        push_display(
            &format_args!(",\"id\":\"{position}\",\"recovered\":{is_recovered}"),
            out,
        );
    });
}

/// Appends the message that a command has succeeded, with `id` if it is set. Appends nothing for a
/// command without a reference, because the client could not match the answer to its command.
pub(super) fn push_ok(id: Option<Cursor>, reference: Option<&Reference>, out: &mut Vec<u8>) {
    if reference.is_none() {
        return;
    }
    push_message("ok", reference, out, |out| {
        if let Some(id) = id {
            push_display(&format_args!(",\"id\":\"{id}\""), out);
        }
    });
}

/// Appends the message with a backend's payload for this conn.
pub(super) fn push_direct(payload: &Payload, out: &mut Vec<u8>) {
    push_message("direct", None, out, |out| {
        out.push(b',');
        push_payload_field(payload, out);
    });
}

/// Appends the message with the number of subscribers of a channel.
pub(super) fn push_presence(
    channel: &ChannelName,
    subscribers: u64,
    reference: Option<&Reference>,
    out: &mut Vec<u8>,
) {
    push_message("presence", reference, out, |out| {
        push_channel(channel, out);
        push_display(&format_args!(",\"subscribers\":{subscribers}"), out);
    });
}

/// Appends the message that a subscription has ended.
pub(super) fn push_unsubscribed(
    channel: &ChannelName,
    reference: Option<&Reference>,
    out: &mut Vec<u8>,
) {
    push_message("unsubscribed", reference, out, |out| {
        push_channel(channel, out);
    });
}

/// Appends a gap notification.
pub(super) fn push_gap(channel: &ChannelName, gap: &Gap, out: &mut Vec<u8>) {
    push_message("gap", None, out, |out| {
        out.push(b',');
        push_gap_fields(channel, gap, out);
    });
}

/// Appends the message that the client's token expires after this time.
pub(super) fn push_expiring(left: Duration, out: &mut Vec<u8>) {
    push_message("expiring", None, out, |out| {
        push_display(&format_args!(",\"in_ms\":{}", left.as_millis()), out);
    });
}

/// Appends the answer to a ping command.
pub(super) fn push_pong(reference: Option<&Reference>, out: &mut Vec<u8>) {
    push_message("pong", reference, out, |_no_fields| {});
}

/// Appends the message that a command is refused.
pub(super) fn push_error(refusal: Refusal, reference: Option<&Reference>, out: &mut Vec<u8>) {
    push_message("error", reference, out, |out| {
        push_display(
            &format_args!(",\"code\":\"{}\",\"message\":\"", refusal.code()),
            out,
        );
        push_plain(refusal, out);
        out.push(b'"');
    });
}

fn push_channel(channel: &ChannelName, out: &mut Vec<u8>) {
    out.extend_from_slice(b",\"channel\":");
    push_json_string(channel.as_str(), out);
}

/// Appends a text that the server has written. The text contains no character that JSON escapes.
fn push_plain(text: impl Display, out: &mut Vec<u8>) {
    let start = out.len();
    push_display(&text, out);
    debug_assert!(
        out.iter()
            .skip(start)
            .all(|byte| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\'))
    );
}

/// Appends one message in a text frame. `push_fields` appends the message's fields between the type
/// and the client's reference, each after a comma.
fn push_message(
    kind: &str,
    reference: Option<&Reference>,
    out: &mut Vec<u8>,
    push_fields: impl FnOnce(&mut Vec<u8>),
) {
    let start = out.len();
    push_display(&format_args!("{{\"type\":\"{kind}\""), out);
    push_fields(out);
    if let Some(reference) = reference {
        push_display(&format_args!(",\"ref\":{}", reference.as_json()), out);
    }
    out.push(b'}');
    frame_from(start, out);
}

/// Turns the bytes of `out` after `start` into a text frame. The length of the header depends on
/// the length of the payload. So the header is appended last and then rotated to the front. This
/// needs no second buffer.
fn frame_from(start: usize, out: &mut Vec<u8>) {
    let payload_end = out.len();
    push_header(Opcode::Text, payload_end - start, out);
    let header_bytes = out.len() - payload_end;
    certain::skip_mut(out, start).rotate_right(header_bytes);
}

#[cfg(test)]
mod tests;
