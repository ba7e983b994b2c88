//! Writes response heads and complete short responses (RFC 9110, RFC 9112).
//!
//! Refusals are problem documents (RFC 9457). A response of the client listener has the CORS fields
//! (Fetch, 3.3) and `Vary: Origin` for caches, except the built-in HTML page. The heads of streams
//! have separate functions, because such a head is written later. At that time, the server knows
//! whether the client has missed publications (a gap).

use crate::config::limits::DEFLATE_WINDOW_BITS;
use crate::frame::envelope::{push_display, push_json_string};
use crate::id::Cursor;

use super::extensions::Deflate;
use super::goaway::push_goaway;
use super::head::{Method, SUBPROTOCOL};
use super::origin::Reader;
pub use super::status::Status;
use super::{After, Refusal, WebSocketRequest, publish};

/// The media type of a problem document (RFC 9457, 3).
pub const PROBLEM: &str = "application/problem+json";

/// The methods that every path supports, except the path of publications.
const METHODS: &str = "GET, HEAD, OPTIONS";

/// The maximum time that a browser may cache a preflight response, in seconds.
const PREFLIGHT_AGE_S: &str = "86400";

/// A complete response.
#[derive(Debug, PartialEq, Eq)]
pub struct Response {
    /// The status of the response.
    pub status: Status,
    /// The bytes of the head and the content.
    pub bytes: Vec<u8>,
    /// Whether the conn persists after the response.
    pub then: After,
    /// The reason for which the request is refused, if it is refused.
    pub refusal: Option<Refusal>,
}

/// The way in which the end of an event stream is marked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamBody {
    /// The end is marked by a last chunk (RFC 9112, 7.1).
    Chunked,
    /// The end is marked by closing the connection, because HTTP/1.0 has no chunks.
    UntilClose,
}

/// Appends the head of an event stream. The transport appends the body.
pub fn push_event_stream_head(
    body: StreamBody,
    has_gap: bool,
    reader: Reader<'_>,
    date: &str,
    out: &mut Vec<u8>,
) {
    push_event_stream_fields(reader, date, out);
    if has_gap {
        push_field("Fanfare-Gap", "1", out);
    }
    if body == StreamBody::Chunked {
        push_field("Transfer-Encoding", "chunked", out);
    }
    // A stream is the last response on its connection, even if the client asked for keep-alive (RFC
    // 9112, 9.6).
    push_connection(After::Close, out);
    out.extend_from_slice(b"\r\n");
}

/// The values in the head of a poll's answer.
#[derive(Clone, Copy, Debug)]
pub struct PollHead<'a> {
    /// The position after which the client's next request continues. It is also the entity tag.
    pub id: Cursor,
    /// Whether the client has missed publications, so that the field `Fanfare-Gap` is sent.
    pub has_gap: bool,
    /// Whether the conn persists after the response.
    pub then: After,
    /// The value of `Retry-After`, in seconds. `None` if the server is not draining.
    pub retry_after_s: Option<u64>,
    /// The origins whose pages may read the answer.
    pub reader: Reader<'a>,
    /// The value of the `Date` field.
    pub date: &'a str,
}

/// Appends the head of the answer to a poll. The content has `content_bytes` bytes.
pub fn push_poll_head(head: PollHead<'_>, content_bytes: usize, out: &mut Vec<u8>) {
    push_poll_answer(Status::Ok, head, out);
    push_field("Content-Type", "application/json", out);
    push_entity_tag(head.id, out);
    if head.has_gap {
        push_field("Fanfare-Gap", "1", out);
    }
    push_number("Content-Length", content_bytes as u64, out);
    push_connection(head.then, out);
    out.extend_from_slice(b"\r\n");
}

/// Appends the head of a 304 response, for a client that already has the current answer (RFC 9110,
/// 15.4.5).
pub fn push_not_modified(head: PollHead<'_>, out: &mut Vec<u8>) {
    push_poll_answer(Status::NotModified, head, out);
    push_entity_tag(head.id, out);
    push_connection(head.then, out);
    out.extend_from_slice(b"\r\n");
}

fn push_poll_answer(status: Status, head: PollHead<'_>, out: &mut Vec<u8>) {
    push_poll_fields(status, head.reader, head.date, out);
    if let Some(retry_after_s) = head.retry_after_s {
        push_number("Retry-After", retry_after_s, out);
    }
}

fn push_poll_fields(status: Status, reader: Reader<'_>, date: &str, out: &mut Vec<u8>) {
    push_status_line(status, date, out);
    push_field("Cache-Control", "no-cache", out);
    reader.push_fields(out);
}

fn push_entity_tag(id: Cursor, out: &mut Vec<u8>) {
    push_display(&format_args!("ETag: \"{id}\"\r\n"), out);
}

/// Appends the response to a valid WebSocket handshake (RFC 6455, 4.2.2).
pub fn push_switching_protocols(request: &WebSocketRequest, date: &str, out: &mut Vec<u8>) {
    push_status_line(Status::SwitchingProtocols, date, out);
    push_field("Upgrade", "websocket", out);
    push_field("Connection", "Upgrade", out);
    push_field("Sec-WebSocket-Accept", &request.accept, out);
    if request.has_subprotocol {
        push_field("Sec-WebSocket-Protocol", SUBPROTOCOL, out);
    }
    if let Some(deflate) = request.deflate {
        push_extension(deflate, out);
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends the accepted extension with its parameters (RFC 7692, 7.1). Neither side keeps
/// compression state between messages. If the client has limited the server's window, the answer
/// contains the size of the window.
fn push_extension(deflate: Deflate, out: &mut Vec<u8>) {
    out.extend_from_slice(
        b"Sec-WebSocket-Extensions: permessage-deflate; \
        server_no_context_takeover; client_no_context_takeover",
    );
    if deflate.tells_window {
        out.extend_from_slice(b"; server_max_window_bits=");
        push_display(&DEFLATE_WINDOW_BITS, out);
    }
    out.extend_from_slice(b"\r\n");
}

/// Returns a temporary refusal with `Retry-After`. The caller chooses `retry_after_s` at random, so
/// that clients that are refused at the same time reconnect at different times. The conn is closed
/// after the response.
#[must_use]
pub fn refuse_for_now(
    refusal: Refusal,
    reader: Reader<'_>,
    retry_after_s: u64,
    date: &str,
) -> Response {
    let mut bytes = Vec::with_capacity(512);
    push_status_line(refusal.status(), date, &mut bytes);
    reader.push_fields(&mut bytes);
    push_number("Retry-After", retry_after_s, &mut bytes);
    let problem = Problem::of(&refusal, &refusal.to_string()).document();
    push_problem(&problem, Method::Get, After::Close, &mut bytes);
    Response {
        status: refusal.status(),
        bytes,
        then: After::Close,
        refusal: Some(refusal),
    }
}

/// Returns the refusal of a connection that has sent no valid request. The conn is closed after the
/// response.
#[must_use]
pub fn refuse_connection(refusal: Refusal, date: &str) -> Response {
    refuse(
        &refusal,
        Method::Get,
        After::Close,
        Reader::SameOrigin,
        date,
    )
}

/// Returns the refusal of a request.
#[must_use]
pub fn refuse(
    refusal: &Refusal,
    method: Method,
    then: After,
    reader: Reader<'_>,
    date: &str,
) -> Response {
    let status = refusal.status();
    let detail = refusal.to_string();
    let problem = Problem::of(refusal, &detail).document();
    let mut bytes = Vec::with_capacity(512);
    if *refusal == Refusal::Http2 {
        push_goaway(&problem, &mut bytes);
        return Response {
            status,
            bytes,
            then: After::Close,
            refusal: Some(*refusal),
        };
    }
    push_status_line(status, date, &mut bytes);
    reader.push_fields(&mut bytes);
    if status == Status::MethodNotAllowed {
        let is_publish = matches!(refusal, Refusal::Publish(_));
        let methods = if is_publish {
            publish::METHODS
        } else {
            METHODS
        };
        push_field("Allow", methods, &mut bytes);
    }
    if status == Status::UpgradeRequired {
        // A response with Upgrade must also list Upgrade in Connection (RFC 9110, 7.8).
        push_field("Upgrade", "websocket", &mut bytes);
        push_field("Connection", "Upgrade", &mut bytes);
        push_field("Sec-WebSocket-Version", "13", &mut bytes);
    }
    if let Refusal::Entry(error) = refusal
        && let Some(challenge) = error.challenge()
    {
        push_field("WWW-Authenticate", challenge, &mut bytes);
    }
    push_problem(&problem, method, then, &mut bytes);
    Response {
        status,
        bytes,
        then,
        refusal: Some(*refusal),
    }
}

/// The members of a problem document (RFC 9457).
#[derive(Clone, Copy, Debug)]
pub struct Problem<'a> {
    /// The status of the response.
    pub status: Status,
    /// A human-readable explanation of the problem.
    pub detail: &'a str,
    /// A machine-readable code of the problem, in an extension member (RFC 9457, 3.2).
    pub code: &'static str,
}

impl<'a> Problem<'a> {
    fn of(refusal: &Refusal, detail: &'a str) -> Self {
        Self {
            status: refusal.status(),
            detail,
            code: refusal.code(),
        }
    }

    /// Returns the problem document.
    #[must_use]
    pub fn document(self) -> Vec<u8> {
        self.document_with(|_| ())
    }

    /// Returns the problem document with further extension members. `push_members` must append the
    /// members, each after a comma.
    #[must_use]
    pub fn document_with(self, push_members: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut document = Vec::with_capacity(192);
        document.extend_from_slice(b"{\"type\":\"about:blank\",\"title\":");
        push_json_string(self.status.reason(), &mut document);
        document.extend_from_slice(b",\"status\":");
        push_display(&self.status.code(), &mut document);
        document.extend_from_slice(b",\"detail\":");
        push_json_string(self.detail, &mut document);
        document.extend_from_slice(b",\"code\":");
        push_json_string(self.code, &mut document);
        push_members(&mut document);
        document.extend_from_slice(b"}\n");
        document
    }
}

/// Returns the response to OPTIONS. For a configured origin, this response is also the answer to a
/// browser's preflight request (Fetch, 3.3.5).
pub(super) fn options(then: After, reader: Reader<'_>, date: &str) -> Response {
    options_with(METHODS, then, reader, date)
}

/// Returns the response to OPTIONS for the path of publications.
pub(super) fn options_of_publish(then: After, reader: Reader<'_>, date: &str) -> Response {
    options_with(publish::METHODS, then, reader, date)
}

fn options_with(methods: &str, then: After, reader: Reader<'_>, date: &str) -> Response {
    without_content(Status::NoContent, then, |bytes| {
        push_status_line(Status::NoContent, date, bytes);
        reader.push_fields(bytes);
        push_field("Allow", methods, bytes);
        if reader != Reader::SameOrigin {
            push_field("Access-Control-Allow-Methods", methods, bytes);
            push_field(
                "Access-Control-Allow-Headers",
                "Last-Event-ID, Authorization, Cache-Control, Content-Type, If-None-Match, \
                 Traceparent, X-Requested-With",
                bytes,
            );
            push_field("Access-Control-Max-Age", PREFLIGHT_AGE_S, bytes);
        }
    })
}

/// Returns the response to HEAD for an event stream.
pub(super) fn event_stream_head(then: After, reader: Reader<'_>, date: &str) -> Response {
    without_content(Status::Ok, then, |bytes| {
        push_event_stream_fields(reader, date, bytes);
    })
}

/// Returns the response to HEAD for a poll. It has no fields that depend on the publications.
pub(super) fn poll_head(then: After, reader: Reader<'_>, date: &str) -> Response {
    without_content(Status::Ok, then, |bytes| {
        push_poll_fields(Status::Ok, reader, date, bytes);
        push_field("Content-Type", "application/json", bytes);
    })
}

fn without_content(
    status: Status,
    then: After,
    push_fields: impl FnOnce(&mut Vec<u8>),
) -> Response {
    let mut bytes = Vec::with_capacity(512);
    push_fields(&mut bytes);
    push_connection(then, &mut bytes);
    bytes.extend_from_slice(b"\r\n");
    Response {
        status,
        bytes,
        then,
        refusal: None,
    }
}

fn push_event_stream_fields(reader: Reader<'_>, date: &str, out: &mut Vec<u8>) {
    push_status_line(Status::Ok, date, out);
    push_field("Content-Type", "text/event-stream; charset=utf-8", out);
    push_field("Cache-Control", "no-cache, no-transform", out);
    // This field asks nginx not to buffer the stream.
    push_field("X-Accel-Buffering", "no", out);
    reader.push_fields(out);
}

fn push_problem(document: &[u8], method: Method, then: After, out: &mut Vec<u8>) {
    push_field("Cache-Control", "no-store", out);
    push_content(PROBLEM, document, method, then, out);
}

/// Appends the status line and the field `Date`.
pub fn push_status_line(status: Status, date: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(b"HTTP/1.1 ");
    push_display(&status.code(), out);
    out.push(b' ');
    out.extend_from_slice(status.reason().as_bytes());
    out.extend_from_slice(b"\r\n");
    push_field("Date", date, out);
}

/// Appends one field line to a head.
pub fn push_field(name: &str, value: &str, out: &mut Vec<u8>) {
    debug_assert!(!value.contains(['\r', '\n']));
    for part in [name, ": ", value, "\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
}

/// Appends the content type, the content length, the field `Connection` and the empty line. Then
/// appends the content, unless the method is HEAD.
pub fn push_content(
    content_type: &str,
    content: &[u8],
    method: Method,
    then: After,
    out: &mut Vec<u8>,
) {
    push_field("Content-Type", content_type, out);
    push_number("Content-Length", content.len() as u64, out);
    push_connection(then, out);
    out.extend_from_slice(b"\r\n");
    if method != Method::Head {
        out.extend_from_slice(content);
    }
}

/// Appends the field `Connection`. HTTP/1.0 clients need the option `keep-alive`, and HTTP/1.1
/// clients need the option `close`. So one of the two options is always written.
fn push_connection(then: After, out: &mut Vec<u8>) {
    let option = match then {
        After::Close => "close",
        After::KeepAlive => "keep-alive",
    };
    push_field("Connection", option, out);
}

fn push_number(name: &str, value: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    push_display(&value, out);
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATE: &str = "Sun, 06 Nov 1994 08:49:37 GMT";

    /// Parses the content of a response as JSON.
    fn document(response: &Response) -> serde_json::Value {
        let text = str::from_utf8(&response.bytes).unwrap();
        assert!(
            text.contains("\r\nContent-Type: application/problem+json\r\n"),
            "{text}"
        );
        let (_, content) = text.split_once("\r\n\r\n").unwrap();
        serde_json::from_str(content).unwrap()
    }

    #[test]
    fn every_refusal_is_a_problem_document_with_its_code() {
        for refusal in Refusal::one_of_each() {
            if refusal == Refusal::Http2 {
                continue;
            }
            let refused = refuse_connection(refusal, DATE);
            let for_now = refuse_for_now(refusal, Reader::Any, 9, DATE);
            for response in [refused, for_now] {
                assert_eq!(response.then, After::Close);
                let document = document(&response);
                assert_eq!(document["type"], "about:blank");
                assert_eq!(document["title"], refusal.status().reason());
                assert_eq!(document["status"], refusal.status().code());
                assert_eq!(document["code"], refusal.code());
                assert_eq!(document["detail"], refusal.to_string());
            }
        }
    }

    #[test]
    fn page_may_read_the_retry_after_of_a_refusal() {
        let response = refuse_for_now(Refusal::MemoryShort, Reader::Any, 5, DATE);
        let text = String::from_utf8(response.bytes).unwrap();
        for line in [
            "HTTP/1.1 503 Service Unavailable",
            "Retry-After: 5",
            "Access-Control-Allow-Origin: *",
            "Access-Control-Expose-Headers: ETag, Fanfare-Gap, Retry-After",
            "Connection: close",
        ] {
            assert!(text.lines().any(|own| own == line), "{line} in {text}");
        }
    }

    #[test]
    fn http2_preface_gets_frames_that_contain_the_document() {
        let bytes = refuse_connection(Refusal::Http2, DATE).bytes;
        let (frames, document) = bytes.split_at(9 + 9 + 8);
        assert_eq!(frames.last(), Some(&0x0d));
        let document: serde_json::Value = serde_json::from_slice(document).unwrap();
        assert_eq!(document["code"], "http_version");
    }
}
