//! Converts the query, content type and body of an HTTP request into drafts. If one publication is
//! refused, the whole request is refused.
//!
//! This module performs no I/O. If the query has a channel, the body is one payload. Otherwise the
//! body is JSON: a publication or an array of publications. Their keys are the same as in the
//! feed's line protocol.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;
use serde_json::value::RawValue;

use super::command;
use super::draft::{self, Draft, NameCache};
use super::fields::{Fields, Names};
use super::minify::minify;
use super::refusal::{Key, Refusal};
use super::request_refusal::RequestRefusal;
use crate::config::limits::CHANNELS_PER_PUBLICATION_MAX;
use crate::frame::Payload;
use crate::http::framing::is_token_byte;
use crate::http::query_pairs;
use crate::http::response::Status;
use crate::json;
use crate::traceparent::TraceParent;

/// The publications of a request.
#[derive(Debug, PartialEq)]
pub struct Publish {
    /// The publications, in the order of the body.
    pub drafts: Vec<Draft>,
    /// The shape of the response.
    pub shape: Shape,
}

/// Whether a body is one publication or an array of publications. The response has the same shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// An array of publications.
    Array,
    /// A single publication: one JSON object, or one payload.
    Single,
}

/// The interpretation of a body, which the head of the request determines.
#[derive(Debug)]
pub(super) enum PublishPlan {
    /// The body contains publications. The trace context of the request is the context of those
    /// publications that have none.
    Publications(Option<TraceParent>),
    /// The body is the payload of this draft.
    Payload(Box<Draft>, PayloadKind),
}

/// The type of a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PayloadKind {
    Bytes,
    Json,
    Text,
}

impl PublishPlan {
    pub(super) fn new(
        query: &str,
        content_type: Option<&str>,
        names: &mut NameCache,
    ) -> Result<Self, RequestRefusal> {
        let kind = kind(content_type)?;
        if query.is_empty() {
            if kind != PayloadKind::Json {
                return Err(RequestRefusal::unsupported(
                    MEDIA_TYPE,
                    "without a channel in the query the body is application/json",
                    ("Accept", "application/json"),
                ));
            }
            return Ok(Self::Publications(None));
        }
        let fields = read_query(query)?;
        let channels = draft::channels(Key::Channel, fields.channel.as_ref(), names)?;
        let draft = Draft::labelled(&fields, channels, Payload::Bytes(Box::default()))?;
        Ok(Self::Payload(Box::new(draft), kind))
    }

    /// Adds the trace context of the request.
    pub(super) fn traced(mut self, traceparent: Option<TraceParent>) -> Self {
        match &mut self {
            Self::Publications(of_request) => *of_request = traceparent,
            Self::Payload(draft, _) => add_traceparent(draft, traceparent),
        }
        self
    }

    pub(super) fn publish(
        self,
        body: &[u8],
        names: &mut NameCache,
    ) -> Result<Publish, RequestRefusal> {
        match self {
            Self::Publications(traceparent) => {
                let mut publish = publications(text(body)?, names)?;
                for draft in &mut publish.drafts {
                    add_traceparent(draft, traceparent);
                }
                Ok(publish)
            }
            Self::Payload(mut draft, kind) => {
                draft.payload = match kind {
                    PayloadKind::Bytes => Payload::Bytes(Box::from(body)),
                    PayloadKind::Json => Payload::Json(minify(payload(text(body)?)?)),
                    PayloadKind::Text => Payload::Text(Box::from(text(body)?)),
                };
                Ok(Publish {
                    drafts: vec![*draft],
                    shape: Shape::Single,
                })
            }
        }
    }
}

/// Sets the trace context of a publication that has none.
fn add_traceparent(draft: &mut Draft, traceparent: Option<TraceParent>) {
    if draft.traceparent.is_none() {
        draft.traceparent = traceparent.map(Box::new);
    }
}

fn publications(body: &str, names: &mut NameCache) -> Result<Publish, RequestRefusal> {
    if !body.trim_ascii_start().starts_with('[') {
        let (draft, _) = command::publication(body, names)?;
        return Ok(Publish {
            drafts: vec![draft],
            shape: Shape::Single,
        });
    }
    let items: Vec<&RawValue> = serde_json::from_str(body).map_err(|error| bad_json(&error))?;
    let drafts = items
        .iter()
        .enumerate()
        .map(|(index, item)| {
            command::publication(item.get(), names)
                .map(|(draft, _)| draft)
                .map_err(|refusal| RequestRefusal {
                    index: Some(index),
                    ..RequestRefusal::from(refusal)
                })
        })
        .collect::<Result<_, _>>()?;
    Ok(Publish {
        drafts,
        shape: Shape::Array,
    })
}

fn text(body: &[u8]) -> Result<&str, RequestRefusal> {
    simdutf8::basic::from_utf8(body).map_err(|_not_utf8| {
        RequestRefusal::new(Status::BadRequest, "bad_payload", "the body is not UTF-8")
    })
}

/// Checks that a body is one JSON value.
fn payload(body: &str) -> Result<&str, RequestRefusal> {
    let value: &RawValue = serde_json::from_str(body).map_err(|error| bad_json(&error))?;
    json::check_value(value.get()).map_err(Refusal::from)?;
    Ok(value.get())
}

fn bad_json(error: &serde_json::Error) -> RequestRefusal {
    RequestRefusal::new(Status::BadRequest, "bad_json", &error.to_string())
}

/// The error code for an unsupported media type.
const MEDIA_TYPE: &str = "unsupported_media_type";
const ACCEPT: (&str, &str) = (
    "Accept",
    "application/json, text/*, application/octet-stream",
);

/// Returns the payload type for a media type (RFC 9110, 8.3.1). Without a media type, the payload
/// consists of bytes.
fn kind(content_type: Option<&str>) -> Result<PayloadKind, RequestRefusal> {
    let content_type = content_type.unwrap_or_default().trim_ascii();
    let (essence, parameters) = content_type.split_once(';').unwrap_or((content_type, ""));
    let essence = essence.trim_ascii().to_ascii_lowercase();
    let refuse = |detail| Err(RequestRefusal::unsupported(MEDIA_TYPE, detail, ACCEPT));
    let kind = match &*essence {
        "application/json" => PayloadKind::Json,
        // `curl -d` sends `application/x-www-form-urlencoded` by default.
        "application/x-www-form-urlencoded" | "multipart/form-data" => {
            return refuse(
                "a form is not published: name the body's type, in curl by \
                 -H 'content-type: application/json', text/plain or application/octet-stream",
            );
        }
        essence if !content_type.is_empty() && !is_media_type(essence) => {
            return refuse("Content-Type is a media type such as application/json");
        }
        essence if essence.starts_with("text/") => PayloadKind::Text,
        _ => PayloadKind::Bytes,
    };
    if kind != PayloadKind::Bytes && has_other_charset(parameters) {
        return refuse("JSON and text are UTF-8");
    }
    Ok(kind)
}

/// Whether a text is a media type, with type and subtype (RFC 9110, 8.3.1).
fn is_media_type(essence: &str) -> bool {
    let is_token = |text: &str| !text.is_empty() && text.bytes().all(is_token_byte);
    let parts = essence.split_once('/');
    parts.is_some_and(|(kind, subtype)| is_token(kind) && is_token(subtype))
}

fn has_other_charset(parameters: &str) -> bool {
    parameters
        .split(';')
        .filter_map(|parameter| parameter.split_once('='))
        .filter(|(name, _)| name.trim_ascii().eq_ignore_ascii_case("charset"))
        .map(|(_, value)| value.trim_ascii().trim_matches('"').to_ascii_lowercase())
        .any(|charset| !matches!(&*charset, "utf-8" | "utf8" | "us-ascii"))
}

/// Decodes a query in the encoding of HTML forms, in which a plus is a space.
fn read_query(query: &str) -> Result<Fields<'static>, Refusal> {
    let mut fields = Fields::default();
    let mut names = Vec::new();
    for (name, value) in query_pairs(query) {
        let key = decoded(name)
            .and_then(|name| Key::from_name(&name))
            .ok_or_else(|| Refusal::unknown_key(name))?;
        let value = decoded(value).ok_or_else(|| Refusal::bad_value(key))?;
        let place = match key {
            Key::Channel => {
                if names.len() >= CHANNELS_PER_PUBLICATION_MAX {
                    return Err(Refusal::TooManyChannels);
                }
                names.push(Cow::Owned(value));
                continue;
            }
            // Some programs send `null` if a variable is not set, so `null` counts as absent.
            Key::TtlMs if value == "null" => continue,
            Key::TtlMs => {
                let ttl = json::whole_number(&value).ok_or_else(|| Refusal::bad_value(key))?;
                if fields.ttl_ms.replace(ttl).is_some() {
                    return Err(Refusal::DuplicateKey(key));
                }
                continue;
            }
            Key::Dedupe => &mut fields.dedupe,
            Key::Event => &mut fields.event,
            Key::Key => &mut fields.key,
            Key::Traceparent => &mut fields.traceparent,
            // `ack` is ignored, because a request is always answered.
            Key::Ack => continue,
            Key::Base64
            | Key::Code
            | Key::Consume
            | Key::Data
            | Key::Disconnect
            | Key::DisconnectSub
            | Key::Notices
            | Key::Presence
            | Key::Reason
            | Key::Send
            | Key::Text => return Err(Refusal::unknown_key(name)),
        };
        if place.replace(Cow::Owned(value)).is_some() {
            return Err(Refusal::DuplicateKey(key));
        }
    }
    fields.channel = match names.len() {
        0 => None,
        1 => names.pop().map(Names::One),
        _ => Some(Names::Many(names)),
    };
    Ok(fields)
}

fn decoded(text: &str) -> Option<String> {
    let spaced = text.replace('+', " ");
    let decoded = percent_decode_str(&spaced).decode_utf8().ok()?;
    Some(decoded.into_owned())
}
