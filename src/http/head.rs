//! Reads one request head (RFC 9112, 2 to 6) and checks everything that decides where it ends.
//!
//! A head is parsed once, when its end has arrived; until then a call costs one search for an empty
//! line. What can never become a request is refused at its first bytes. Field values are borrowed
//! and gathered in one pass; nothing is allocated. Faults in the framing do not hide the method:
//! the head is handed out with the fault in it, and with [`After::Close`].
//! Called by [`super::read_request`] and by the admin listener.

use crate::config::limits::{REQUEST_HEADERS_MAX, REQUEST_TARGET_BYTES_MAX};

use super::extensions::Offers;
use super::{After, Refusal, Validators};

/// The longest method, in bytes, that is taken for one. The longest registered one has 17.
const METHOD_BYTES_MAX: usize = 32;

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
#[derive(Clone, Copy, Debug, Default)]
pub struct Fields<'b> {
    /// `Authorization`
    pub authorization: Field<'b>,
    /// `Connection`
    pub connection: ConnectionOptions,
    /// `Cookie`
    pub cookie: Field<'b>,
    /// `Content-Length`
    pub content_length: Field<'b>,
    /// `Sec-WebSocket-Extensions`
    pub extensions: Offers,
    /// `Host`
    pub host: Field<'b>,
    /// `If-None-Match`
    pub if_none_match: Validators,
    /// `Last-Event-ID`, the first one.
    pub last_event_id: Option<&'b [u8]>,
    /// Whether `Upgrade` names WebSocket.
    pub offers_websocket: bool,
    /// Whether `Sec-WebSocket-Protocol` names [`SUBPROTOCOL`].
    pub offers_subprotocol: bool,
    /// The token that `Sec-WebSocket-Protocol` offers.
    pub offered_token: Field<'b>,
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
        } else if is("authorization") {
            self.authorization.note(value);
        } else if is("cookie") {
            self.cookie.note(value);
        }
    }

    /// What makes the request's end or its addressee doubtful.
    fn fault(&self, version: Version) -> Option<Refusal> {
        let is_length_good = match self.content_length {
            Field::Absent => true,
            Field::Once(value) => !value.is_empty() && value.iter().all(u8::is_ascii_digit),
            Field::Repeated => false,
        };
        let is_host_good = match self.host {
            Field::Absent => version == Version::Http10,
            Field::Once(value) => value.iter().all(|&byte| is_host_byte(byte)),
            Field::Repeated => false,
        };
        let has_coding = self.transfer_encoding != Field::Absent;
        let has_length = self.content_length != Field::Absent;
        if !is_length_good {
            Some(Refusal::ContentLength)
        } else if has_coding && (has_length || version == Version::Http10) {
            Some(Refusal::ContentFraming)
        } else if !is_host_good {
            Some(Refusal::Host)
        } else {
            None
        }
    }

    /// Why the request's content is not read, if it has any.
    fn content(&self) -> Option<Refusal> {
        if self.transfer_encoding != Field::Absent {
            return Some(Refusal::TransferCoding);
        }
        match self.content_length {
            Field::Once(value) if value.iter().any(|&digit| digit != b'0') => {
                Some(Refusal::ContentUnwanted)
            }
            Field::Absent | Field::Once(_) | Field::Repeated => None,
        }
    }
}

impl<'b> Head<'b> {
    fn new(method: &str, target: &'b str, version: Version, fields: &Fields<'b>) -> Self {
        let method = match method {
            "GET" => Method::Get,
            "HEAD" => Method::Head,
            "OPTIONS" => Method::Options,
            _ => Method::Other,
        };
        let doubt = fields.fault(version);
        let content = fields.content();
        let stays = match version {
            Version::Http10 => fields.connection.has_keep_alive && !fields.connection.has_close,
            Version::Http11 => !fields.connection.has_close,
        };
        let may_stay = doubt.is_none() && content.is_none();
        let wrong_method = (method == Method::Other).then_some(Refusal::Method);
        Self {
            method,
            target,
            version,
            fields: *fields,
            after: if stays && may_stay {
                After::KeepAlive
            } else {
                After::Close
            },
            // The method comes before the content: who sends POST needs to hear of POST.
            fault: doubt.or(wrong_method).or(content),
        }
    }
}

/// Reads a head from the front of `bytes`, of which no more than `head_bytes_max` are looked at.
pub fn read_head(bytes: &[u8], head_bytes_max: usize) -> HeadRead<'_> {
    let window = bytes.get(..head_bytes_max).unwrap_or(bytes);
    let rest = without_empty_lines(window);
    if !may_be_request(rest) {
        return HeadRead::Refused(Refusal::NotHttp);
    }
    let Some(lines) = through_empty_line(rest) else {
        return if bytes.len() < head_bytes_max {
            HeadRead::Incomplete
        } else {
            HeadRead::Refused(overflow(rest, head_bytes_max))
        };
    };
    match parse(lines) {
        Ok(head) => HeadRead::Complete {
            length: window.len() - rest.len() + lines.len(),
            head,
        },
        Err(refusal) => HeadRead::Refused(refusal),
    }
}

/// Drops the empty lines that old clients send before a request (RFC 9112, 2.2).
fn without_empty_lines(mut bytes: &[u8]) -> &[u8] {
    while let Some(rest) = bytes
        .strip_prefix(b"\r\n")
        .or_else(|| bytes.strip_prefix(b"\n"))
    {
        bytes = rest;
    }
    bytes
}

/// Whether the bytes begin with a method, or could once more of them have come. A TLS handshake or
/// a binary protocol is known by its first byte and gets no time to wait for an answer.
fn may_be_request(bytes: &[u8]) -> bool {
    if matches!(bytes, [] | [b'\r']) {
        return true;
    }
    let front = bytes.get(..METHOD_BYTES_MAX).unwrap_or(bytes);
    match front.iter().position(|&byte| !is_token_byte(byte)) {
        Some(end) => end > 0 && front.get(end) == Some(&b' '),
        None => front.len() < METHOD_BYTES_MAX,
    }
}

/// The bytes up to and with the first empty line.
fn through_empty_line(bytes: &[u8]) -> Option<&[u8]> {
    let mut line_start = 0;
    loop {
        let line = bytes.get(line_start..)?;
        line_start += line.iter().position(|&byte| byte == b'\n')? + 1;
        let head_end = match bytes.get(line_start..)? {
            [b'\n', ..] => line_start + 1,
            [b'\r', b'\n', ..] => line_start + 2,
            _ => continue,
        };
        return bytes.get(..head_end);
    }
}

/// What is too large in a head that has not ended where it should have.
fn overflow(bytes: &[u8], limit: usize) -> Refusal {
    if bytes.is_empty() || bytes == b"\r" {
        Refusal::NotHttp
    } else if bytes.contains(&b'\n') {
        Refusal::HeadTooLarge { limit }
    } else {
        Refusal::TargetTooLong { limit }
    }
}

fn parse(lines: &[u8]) -> Result<Head<'_>, Refusal> {
    let mut headers = [httparse::EMPTY_HEADER; REQUEST_HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(lines) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) => return Err(Refusal::NotHttp),
        Err(error) => return Err(refusal_of(error, lines)),
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
    let mut fields = Fields::default();
    for header in request.headers.iter() {
        fields.note(header.name, header.value);
    }
    Ok(Head::new(method, target, version, &fields))
}

fn refusal_of(error: httparse::Error, lines: &[u8]) -> Refusal {
    match error {
        httparse::Error::HeaderName | httparse::Error::HeaderValue => Refusal::Field,
        httparse::Error::TooManyHeaders => Refusal::FieldsTooMany {
            limit: REQUEST_HEADERS_MAX,
        },
        httparse::Error::Version if names_other_http(lines) => Refusal::Version,
        httparse::Error::NewLine
        | httparse::Error::Status
        | httparse::Error::Token
        | httparse::Error::Version => Refusal::NotHttp,
    }
}

/// Whether the request line ends in a version of HTTP that is not ours (RFC 9112, 2.3). Where it
/// ends in one that is, something else is wrong with it, such as a space in the target.
fn names_other_http(lines: &[u8]) -> bool {
    let line = lines.split(|&byte| byte == b'\n').next().unwrap_or(lines);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let last_word = line.rsplit(|&byte| byte == b' ').next().unwrap_or(line);
    match last_word.strip_prefix(b"HTTP/") {
        Some(b"1.0" | b"1.1") | None => false,
        Some([major]) => major.is_ascii_digit(),
        Some([major, b'.', minor]) => major.is_ascii_digit() && minor.is_ascii_digit(),
        Some(_) => false,
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

/// `tchar` (RFC 9110, 5.6.2).
pub(super) fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// What host names, addresses and ports are made of (RFC 3986, 3.2.2 and 3.2.3).
fn is_host_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=:[]".contains(&byte)
}
