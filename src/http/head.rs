//! Parses a request head (RFC 9112, 2 to 6) and checks everything that determines the end of the
//! request.
//!
//! A head is parsed once, when it is complete; before that, each call costs one search for an empty
//! line. Bytes that can never become a request are refused immediately. Field values are borrowed
//! and collected in one pass; only the ids of `If-None-Match` need an allocation. If the framing or
//! the host is invalid, the head is returned with this fault and with [`After::Close`]. So the
//! caller knows the method when it refuses the request. All listeners use this parser. The client
//! and admin listeners, whose requests have no content, call [`read_head`]. The feed reads content
//! and calls [`read_message_head`].

use crate::config::limits::{REQUEST_HEADERS_MAX, REQUEST_TARGET_BYTES_MAX};
use crate::traceparent::TraceParent;

use super::extensions::Offers;
use super::field_lines::FieldLines;
use super::framing::{Expectation, Framing, is_authority};
use super::lines::{Found, find};
use super::{After, Refusal, Validators};

/// The only supported subprotocol (RFC 6455, 1.9).
pub const SUBPROTOCOL: &str = "fanfare.v1";

/// The prefix of an offered subprotocol that contains a token. Tokens are sent in this field
/// because a page can set no other field of a handshake. The server never selects such a
/// subprotocol, so the token is never echoed.
const TOKEN_SUBPROTOCOL: &[u8] = b"fanfare.token.";

/// The result of reading a head.
#[derive(Debug)]
#[must_use]
#[expect(
    clippy::large_enum_variant,
    reason = "lives on the stack for one call and is never moved"
)]
pub enum HeadRead<'b> {
    /// The head is not complete yet.
    Incomplete,
    /// A complete head was read.
    Complete {
        /// The length of the head in bytes, including the empty lines before the head.
        length: usize,
        /// The parsed head.
        head: Head<'b>,
    },
    /// The head is invalid. The start of the next head is unknown, so the conn must be closed.
    Refused(Refusal),
}

/// A request head.
#[derive(Debug)]
pub struct Head<'b> {
    /// The request method.
    pub method: Method,
    /// The unparsed request target.
    pub target: &'b str,
    /// The protocol version.
    pub version: Version,
    /// The header fields that the server uses.
    pub fields: Fields<'b>,
    /// The way in which the end of the content is marked. `Absent` if the framing or the host is
    /// invalid.
    pub framing: Framing,
    /// Whether the conn may persist for another request.
    pub after: After,
    /// The reason to refuse the request; `None` if the head has no fault.
    pub fault: Option<Refusal>,
}

/// The request method (RFC 9110, 9).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// The method `GET`.
    Get,
    /// The method `HEAD`.
    Head,
    /// The method `OPTIONS`.
    Options,
    /// The method `POST`, with which feeders and clients publish.
    Post,
    /// Any other method.
    Other,
}

/// The protocol version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0: a conn is closed unless the client asks for keep-alive, and bodies are never
    /// chunked.
    Http10,
    /// HTTP/1.1: a conn persists unless the client asks to close it.
    Http11,
}

/// A field that must not occur more than once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Field<'b> {
    /// The head does not contain the field.
    #[default]
    Absent,
    /// The field occurs once, with this value.
    Once(&'b [u8]),
    /// The field occurs on several lines.
    Repeated,
}

impl<'b> Field<'b> {
    fn note(&mut self, value: &'b [u8]) {
        *self = match self {
            Self::Absent => Self::Once(value),
            Self::Once(_) | Self::Repeated => Self::Repeated,
        };
    }
}

/// The connection options that the server uses (RFC 9110, 7.6.1).
#[derive(Clone, Copy, Debug, Default)]
pub struct ConnectionOptions {
    /// Whether `Connection` contains `close`.
    pub has_close: bool,
    /// Whether `Connection` contains `keep-alive`.
    pub has_keep_alive: bool,
    /// Whether `Connection` contains `upgrade`.
    pub has_upgrade: bool,
}

/// The header fields that the server uses, collected in one pass.
#[derive(Debug, Default)]
pub struct Fields<'b> {
    /// The field `Authorization`.
    pub authorization: Field<'b>,
    /// The options in `Connection`.
    pub connection: ConnectionOptions,
    /// The field `Content-Length`.
    pub content_length: Field<'b>,
    /// The field `Content-Type`.
    pub content_type: Field<'b>,
    /// The expectation in `Expect`.
    pub expectation: Expectation,
    /// The result of parsing `Sec-WebSocket-Extensions`.
    pub extensions: Offers,
    /// The field `Host`.
    pub host: Field<'b>,
    /// The entity tags in `If-None-Match`.
    pub if_none_match: Validators,
    /// The value of `Last-Event-ID`; the first value if the field occurs several times.
    pub last_event_id: Option<&'b [u8]>,
    /// The field `Origin`.
    pub origin: Field<'b>,
    /// Whether `Upgrade` names WebSocket.
    pub offers_websocket: bool,
    /// Whether `Sec-WebSocket-Protocol` names [`SUBPROTOCOL`].
    pub offers_subprotocol: bool,
    /// The token that `Sec-WebSocket-Protocol` offers.
    pub offered_token: Field<'b>,
    /// All field lines, for access to `Cookie`, `Forwarded` and `X-Forwarded-For`.
    pub lines: FieldLines<'b>,
    /// The field `Transfer-Encoding`.
    pub transfer_encoding: Field<'b>,
    /// The field `Sec-WebSocket-Key`.
    pub websocket_key: Field<'b>,
    /// The field `Sec-WebSocket-Version`.
    pub websocket_version: Field<'b>,
}

impl<'b> Fields<'b> {
    fn note(&mut self, name: &str, value: &'b [u8]) {
        let is = |known: &str| name.eq_ignore_ascii_case(known);
        if is("host") {
            self.host.note(value);
        } else if is("connection") {
            self.connection.has_close |= has_token(value, "close");
            self.connection.has_keep_alive |= has_token(value, "keep-alive");
            self.connection.has_upgrade |= has_token(value, "upgrade");
        } else if is("upgrade") {
            self.offers_websocket |= has_token(value, "websocket");
        } else if is("last-event-id") {
            self.last_event_id = self.last_event_id.or(Some(value));
        } else if is("if-none-match") {
            self.if_none_match.note(value);
        } else if is("content-length") {
            self.content_length.note(value);
        } else if is("transfer-encoding") {
            self.transfer_encoding.note(value);
        } else if is("sec-websocket-key") {
            self.websocket_key.note(value);
        } else if is("sec-websocket-version") {
            self.websocket_version.note(value);
        } else if is("sec-websocket-extensions") {
            self.extensions.note(value);
        } else if is("sec-websocket-protocol") {
            for element in elements(value) {
                self.offers_subprotocol |= element == SUBPROTOCOL.as_bytes();
                if let Some(token) = element.strip_prefix(TOKEN_SUBPROTOCOL) {
                    self.offered_token.note(token);
                }
            }
        } else if is("origin") {
            self.origin.note(value);
        } else if is("content-type") {
            self.content_type.note(value);
        } else if is("expect") {
            self.expectation.note(value);
        } else if is("authorization") {
            self.authorization.note(value);
        }
    }

    /// Returns the trace context of the request. An invalid or repeated field is ignored (Trace
    /// Context, 3.2). The lines are searched on each call, because few requests need the field.
    #[must_use]
    pub fn traceparent(&self) -> Option<TraceParent> {
        let mut values = self.lines.named("traceparent");
        let only = values.next()?;
        match values.next() {
            None => TraceParent::from_bytes(only).ok(),
            Some(_repeated) => None,
        }
    }

    /// Checks the field `Host` (RFC 9112, 3.2).
    fn check_host(&self, version: Version) -> Result<(), Refusal> {
        let is_good = match self.host {
            Field::Absent => version == Version::Http10,
            Field::Once(value) => is_authority(value),
            Field::Repeated => false,
        };
        if is_good { Ok(()) } else { Err(Refusal::Host) }
    }
}

impl<'b> Head<'b> {
    fn new(method: &str, target: &'b str, version: Version, fields: Fields<'b>) -> Self {
        let method = match method {
            "GET" => Method::Get,
            "HEAD" => Method::Head,
            "OPTIONS" => Method::Options,
            "POST" => Method::Post,
            _ => Method::Other,
        };
        let framing = Framing::decide(fields.content_length, fields.transfer_encoding, version);
        let checked = framing.and_then(|framing| fields.check_host(version).map(|()| framing));
        let stays = match version {
            Version::Http10 => fields.connection.has_keep_alive && !fields.connection.has_close,
            Version::Http11 => !fields.connection.has_close,
        };
        Self {
            method,
            target,
            version,
            framing: checked.unwrap_or(Framing::Absent),
            after: if stays && checked.is_ok() {
                After::KeepAlive
            } else {
                After::Close
            },
            fault: checked.err(),
            fields,
        }
    }

    /// Returns the client's expectation: whether it waits for `100 Continue` before it sends
    /// content. HTTP/1.0 has no such response, so the expectation of an HTTP/1.0 client is ignored
    /// (RFC 9110, 10.1.1).
    #[must_use]
    pub fn expectation(&self) -> Expectation {
        match (self.fields.expectation, self.version) {
            (Expectation::Continue, Version::Http10) => Expectation::Absent,
            (expectation, _) => expectation,
        }
    }

    /// Adds a fault if the method is not supported, if the expectation is unknown, or if the
    /// request has content. This is for listeners that do not accept content. They never read the
    /// content, so that no second request can be smuggled in it, and they never send `100
    /// Continue`.
    pub(super) fn without_content(mut self) -> Self {
        let content = match self.framing {
            Framing::Absent | Framing::Counted(0) => None,
            Framing::Chunked => Some(Refusal::TransferCoding),
            Framing::Counted(_) => Some(Refusal::ContentUnwanted),
        };
        if content.is_some() {
            self.after = After::Close;
        }
        let method = match self.method {
            Method::Get | Method::Head | Method::Options => None,
            Method::Post | Method::Other => Some(Refusal::Method),
        };
        let expectation = match self.expectation() {
            Expectation::Unknown => Some(Refusal::Expectation),
            Expectation::Absent | Expectation::Continue => None,
        };
        // The method is checked before the content. So a POST request is refused because of its
        // method, and not because of its content.
        self.fault = self.fault.or(method).or(expectation).or(content);
        self
    }
}

/// Reads a request head from the front of `bytes`. The request must not have content. At most
/// `head_bytes_max` bytes are examined.
pub fn read_head(bytes: &[u8], head_bytes_max: usize) -> HeadRead<'_> {
    match read_message_head(bytes, head_bytes_max) {
        HeadRead::Complete { length, head } => HeadRead::Complete {
            length,
            head: head.without_content(),
        },
        other @ (HeadRead::Incomplete | HeadRead::Refused(_)) => other,
    }
}

/// Reads a request head from the front of `bytes`. The request may have content. The caller checks
/// the method and the expectation.
pub fn read_message_head(bytes: &[u8], head_bytes_max: usize) -> HeadRead<'_> {
    match find(bytes, head_bytes_max) {
        Found::Incomplete => HeadRead::Incomplete,
        Found::Refused(refusal) => HeadRead::Refused(refusal),
        Found::All { before, lines } => match parse(lines) {
            Ok(head) => HeadRead::Complete {
                length: before + lines.len(),
                head,
            },
            Err(refusal) => HeadRead::Refused(refusal),
        },
    }
}

fn parse(lines: &[u8]) -> Result<Head<'_>, Refusal> {
    let mut headers = [httparse::EMPTY_HEADER; REQUEST_HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(lines) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) => return Err(Refusal::NotHttp),
        Err(error) => return Err(refusal_of(error)),
    }
    let (Some(method), Some(target)) = (request.method, request.path) else {
        return Err(Refusal::NotHttp);
    };
    if target.len() > REQUEST_TARGET_BYTES_MAX {
        return Err(Refusal::TargetTooLong {
            limit: REQUEST_TARGET_BYTES_MAX,
        });
    }
    let version = match request.version {
        Some(0) => Version::Http10,
        Some(1) => Version::Http11,
        Some(_) | None => return Err(Refusal::Version),
    };
    let mut fields = Fields {
        lines: FieldLines::of(lines),
        ..Fields::default()
    };
    for header in request.headers.iter() {
        fields.note(header.name, header.value);
    }
    Ok(Head::new(method, target, version, fields))
}

fn refusal_of(error: httparse::Error) -> Refusal {
    match error {
        httparse::Error::HeaderName | httparse::Error::HeaderValue => Refusal::Field,
        httparse::Error::TooManyHeaders => Refusal::FieldsTooMany {
            limit: REQUEST_HEADERS_MAX,
        },
        // The version was checked earlier, so a version error means a malformed request line.
        httparse::Error::NewLine
        | httparse::Error::Status
        | httparse::Error::Token
        | httparse::Error::Version => Refusal::NotHttp,
    }
}

/// Returns the non-empty elements of a comma-separated list (RFC 9110, 5.6.1), without surrounding
/// white space.
fn elements(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value
        .split(|&byte| byte == b',')
        .map(<[u8]>::trim_ascii)
        .filter(|element| !element.is_empty())
}

fn has_token(value: &[u8], token: &str) -> bool {
    elements(value).any(|element| element.eq_ignore_ascii_case(token.as_bytes()))
}
