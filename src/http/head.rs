//! Reads one request head (RFC 9112, 2 to 6) and checks everything that decides where it ends.
//!
//! A head is parsed once, when its end has arrived; until then a call costs one search for an empty
//! line. What can never become a request is refused at its first bytes. Field values are borrowed
//! and gathered in one pass; nothing is allocated but the ids of `If-None-Match`. Faults in the
//! framing do not hide the method: the head is handed out with the fault in it, and with
//! [`After::Close`].
//! The one reader for everybody: [`super::read_request`] and the admin listener, whose requests
//! have no content, take [`read_head`]; the feed, which reads it, takes [`read_message_head`].

use crate::config::limits::{REQUEST_HEADERS_MAX, REQUEST_TARGET_BYTES_MAX};

use super::extensions::Offers;
use super::field_lines::FieldLines;
use super::framing::{Expectation, Framing, is_authority};
use super::lines::{Found, find};
use super::{After, Refusal, Validators};

/// The one subprotocol (RFC 6455, 1.9).
pub const SUBPROTOCOL: &str = "fanfare.v1";

/// How an offered subprotocol begins that is a token: the one place of a handshake where a page can
/// put something of its own. Never spoken, and so never echoed.
const TOKEN_SUBPROTOCOL: &[u8] = b"fanfare.token.";

/// What came of looking for a head.
#[derive(Debug)]
#[must_use]
#[expect(
    clippy::large_enum_variant,
    reason = "lives on the stack for one call and is never moved"
)]
pub enum HeadRead<'b> {
    /// Its end has not arrived, and it may still become a good one.
    Incomplete,
    /// A head that can be answered.
    Complete {
        /// Its bytes, with the empty lines before it.
        length: usize,
        /// What it says.
        head: Head<'b>,
    },
    /// No head that can be understood. Where the next one begins is unknown: the conn has to close.
    Refused(Refusal),
}

/// One request head.
#[derive(Debug)]
pub struct Head<'b> {
    /// What is wanted of the target.
    pub method: Method,
    /// The request target as it was sent.
    pub target: &'b str,
    /// The protocol version.
    pub version: Version,
    /// The fields that mean something here.
    pub fields: Fields<'b>,
    /// How the end of the content is known; absent too if there is a fault in it.
    pub framing: Framing,
    /// Whether another request may follow.
    pub after: After,
    /// What makes the request unfit to be answered in any other way.
    pub fault: Option<Refusal>,
}

/// What is wanted of the target (RFC 9110, 9).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// The representation.
    Get,
    /// The same without its content.
    Head,
    /// What may be asked.
    Options,
    /// To take the content; only the feed does.
    Post,
    /// Something that nothing here does.
    Other,
}

/// The protocol version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// Conns close unless asked to stay; no chunks.
    Http10,
    /// Conns stay unless asked to close.
    Http11,
}

/// A field that may stand in a head once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Field<'b> {
    /// Not there.
    #[default]
    Absent,
    /// There, with this value.
    Once(&'b [u8]),
    /// On several lines.
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

/// The connection options that mean something here (RFC 9110, 7.6.1).
#[derive(Clone, Copy, Debug, Default)]
pub struct ConnectionOptions {
    /// `close`
    pub has_close: bool,
    /// `keep-alive`
    pub has_keep_alive: bool,
    /// `upgrade`
    pub has_upgrade: bool,
}

/// The fields that mean something here, gathered in one pass.
#[derive(Debug, Default)]
pub struct Fields<'b> {
    /// `Authorization`
    pub authorization: Field<'b>,
    /// `Connection`
    pub connection: ConnectionOptions,
    /// `Content-Length`
    pub content_length: Field<'b>,
    /// `Content-Type`
    pub content_type: Field<'b>,
    /// `Expect`
    pub expectation: Expectation,
    /// `Sec-WebSocket-Extensions`
    pub extensions: Offers,
    /// `Host`
    pub host: Field<'b>,
    /// `If-None-Match`
    pub if_none_match: Validators,
    /// `Last-Event-ID`, the first one.
    pub last_event_id: Option<&'b [u8]>,
    /// `Origin`
    pub origin: Field<'b>,
    /// Whether `Upgrade` names WebSocket.
    pub offers_websocket: bool,
    /// Whether `Sec-WebSocket-Protocol` names [`SUBPROTOCOL`].
    pub offers_subprotocol: bool,
    /// The token that `Sec-WebSocket-Protocol` offers.
    pub offered_token: Field<'b>,
    /// All lines, for `Cookie`, `Forwarded` and `X-Forwarded-For`.
    pub lines: FieldLines<'b>,
    /// `Transfer-Encoding`
    pub transfer_encoding: Field<'b>,
    /// `Sec-WebSocket-Key`
    pub websocket_key: Field<'b>,
    /// `Sec-WebSocket-Version`
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

    /// The one whom the request is for (RFC 9112, 3.2).
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

    /// What the client waits for. HTTP/1.0 cannot be told to go on, so it is not waiting
    /// (RFC 9110, 10.1.1).
    #[must_use]
    pub fn expectation(&self) -> Expectation {
        match (self.fields.expectation, self.version) {
            (Expectation::Continue, Version::Http10) => Expectation::Absent,
            (expectation, _) => expectation,
        }
    }

    /// The head where requests have no content: whatever has some is at fault. It is not read, so
    /// that nobody can hide a second request in it, and nobody is asked to send it.
    fn without_content(mut self) -> Self {
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
        // The method comes before the content: who sends POST needs to hear of POST.
        self.fault = self.fault.or(method).or(expectation).or(content);
        self
    }
}

/// Reads a head from the front of `bytes`, of which no more than `head_bytes_max` are looked at,
/// where requests have no content.
pub fn read_head(bytes: &[u8], head_bytes_max: usize) -> HeadRead<'_> {
    match read_message_head(bytes, head_bytes_max) {
        HeadRead::Complete { length, head } => HeadRead::Complete {
            length,
            head: head.without_content(),
        },
        other @ (HeadRead::Incomplete | HeadRead::Refused(_)) => other,
    }
}

/// Reads a head in the same way, behind which there may be content. Which methods and expectations
/// there are is the caller's.
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
        // The version has been looked at, so it stands where something else should.
        httparse::Error::NewLine
        | httparse::Error::Status
        | httparse::Error::Token
        | httparse::Error::Version => Refusal::NotHttp,
    }
}

/// The elements of a comma-separated list (RFC 9110, 5.6.1), without the white space around them.
fn elements(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value
        .split(|&byte| byte == b',')
        .map(<[u8]>::trim_ascii)
        .filter(|element| !element.is_empty())
}

fn has_token(value: &[u8], token: &str) -> bool {
    elements(value).any(|element| element.eq_ignore_ascii_case(token.as_bytes()))
}
