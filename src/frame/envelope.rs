//! The full envelope:
//! `{"channel":…,"id":…,"event":…,"initial":true,"data":…,"traceparent":…}`. The keys are in this
//! order; absent keys are omitted.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::{Payload, Publication};
use crate::certain;
use crate::traceparent::TraceParent;

/// Appends the full envelope of a publication as one JSON object. `is_initial` is true if the
/// publication belongs to the history that the client requested when it subscribed.
pub fn push_full(publication: &Publication, is_initial: bool, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"channel\":");
    push_json_string(publication.channel.as_str(), out);
    out.extend_from_slice(b",\"id\":\"");
    push_display(&publication.id, out);
    out.push(b'"');
    if let Some(event) = publication.event() {
        out.extend_from_slice(b",\"event\":");
        push_json_string(event, out);
    }
    if is_initial {
        out.extend_from_slice(b",\"initial\":true");
    }
    out.push(b',');
    push_payload_field(&publication.payload, out);
    if let Some(traceparent) = publication.traceparent() {
        push_traceparent(traceparent, out);
    }
    out.push(b'}');
}

/// Appends a trace context as the last field of an object: `,"traceparent":"…"`.
pub fn push_traceparent(traceparent: &TraceParent, out: &mut Vec<u8>) {
    push_display(&format_args!(",\"traceparent\":\"{traceparent}\""), out);
}

/// Appends a payload as the field of an object: `"data":…`, `"text":"…"` or `"base64":"…"`.
pub fn push_payload_field(payload: &Payload, out: &mut Vec<u8>) {
    match payload {
        Payload::Bytes(bytes) => {
            out.extend_from_slice(b"\"base64\":\"");
            push_base64(bytes, out);
            out.push(b'"');
        }
        Payload::Json(json) => {
            out.extend_from_slice(b"\"data\":");
            out.extend_from_slice(json.as_bytes());
        }
        Payload::Text(text) => {
            out.extend_from_slice(b"\"text\":");
            push_json_string(text, out);
        }
    }
}

/// Appends a quoted JSON string (RFC 8259, 7).
pub fn push_json_string(text: &str, out: &mut Vec<u8>) {
    // Writing to a vector cannot fail, and neither can serializing a string.
    let written = serde_json::to_writer(&mut *out, text);
    debug_assert!(written.is_ok());
}

/// Appends the `Display` form of a value.
pub fn push_display(value: &impl std::fmt::Display, out: &mut Vec<u8>) {
    use std::io::Write as _;
    let written = write!(out, "{value}");
    debug_assert!(written.is_ok());
}

/// Appends bytes as base64 with padding (RFC 4648, 4).
pub fn push_base64(bytes: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    let length = base64::encoded_len(bytes.len(), true);
    let length = certain::some(length, "a payload is small").unwrap_or(0);
    out.resize(start + length, 0);
    let written = STANDARD.encode_slice(bytes, certain::skip_mut(out, start));
    debug_assert_eq!(written, Ok(length));
}
