//! One request and the head of its response, over HTTP/1.1.
//!
//! What event streams and polls have in common: the request resumes with the `Last-Event-ID` field,
//! the head of the response is read with httparse, and a refusal is told in the server's words.

use std::io::{self, Read as _};
use std::time::Duration;

use super::Connection;
use super::end::{End, seconds};
use super::response_body::{Body, Framing};
use super::socket::Socket;

/// The longest head of a response, in bytes.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// How much of a refusal is read for the sake of its explanation.
const REFUSAL_BYTES_MAX: usize = 16 * 1024;
/// Header fields of one response.
const FIELDS_MAX: usize = 128;

/// What matters of a response's head, and what came behind it.
pub(super) struct Response {
    pub(super) status: u16,
    pub(super) framing: Framing,
    /// Without capitals; empty if there is none.
    pub(super) media_type: String,
    /// The server closes behind it.
    pub(super) is_last: bool,
    /// How long the server wants us to stay away.
    pub(super) retry_after: Option<Duration>,
    location: Option<String>,
    pub(super) rest: Vec<u8>,
}

/// The head of a request for what follows the last id.
pub(super) fn request(accept: &str, connection: &Connection<'_>) -> String {
    let target = connection.target;
    let mut text = format!("GET {} HTTP/1.1\r\n", target.request_target());
    let agent = concat!("fanfare/", env!("CARGO_PKG_VERSION"));
    let ours = [
        ("Host", Some(target.authority.as_str())),
        ("Accept", Some(accept)),
        ("Cache-Control", Some("no-store")),
        ("User-Agent", Some(agent)),
        (
            "Last-Event-ID",
            connection.last_id.as_deref().filter(|id| !id.is_empty()),
        ),
    ];
    let theirs = &connection.args.headers;
    for (name, value) in ours {
        // What the user sets himself is not said twice, but for the position: that is ours to move.
        let is_set =
            name != "Last-Event-ID" && theirs.iter().any(|h| h.name.eq_ignore_ascii_case(name));
        if let Some(value) = value.filter(|_| !is_set) {
            push_field(name, value, &mut text);
        }
    }
    for header in theirs {
        push_field(&header.name, &header.value, &mut text);
    }
    text.push_str("\r\n");
    text
}

fn push_field(name: &str, value: &str, out: &mut String) {
    for part in [name, ": ", value, "\r\n"] {
        out.push_str(part);
    }
}

/// Reads the head of a response; `failed` says what it means that there is none.
pub(super) fn read_head(
    socket: &mut Socket,
    failed: impl Fn(&io::Error) -> End,
) -> Result<Response, End> {
    let mut bytes = Vec::new();
    let mut buffer = [0u8; 4096];
    loop {
        let count = socket.read(&mut buffer).map_err(|error| failed(&error))?;
        if count == 0 {
            return Err(failed(&io::Error::other("closed without an answer")));
        }
        bytes.extend_from_slice(buffer.get(..count).unwrap_or_default());
        let parsed = parse_head(&bytes)
            .map_err(|error| End::Failed(format!("the answer is not HTTP: {error}")))?;
        match parsed {
            // An interim response says nothing yet (RFC 9110, 15.2).
            Some(interim) if interim.status < 200 => bytes = interim.rest,
            Some(response) => return Ok(response),
            None if bytes.len() > HEAD_BYTES_MAX => {
                return Err(End::Failed(String::from(
                    "the head of the answer has no end",
                )));
            }
            None => {}
        }
    }
}

fn parse_head(bytes: &[u8]) -> Result<Option<Response>, httparse::Error> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut head = httparse::Response::new(&mut fields);
    let httparse::Status::Complete(length) = head.parse(bytes)? else {
        return Ok(None);
    };
    let field = |name: &str| {
        let field = head
            .headers
            .iter()
            .find(|f| f.name.eq_ignore_ascii_case(name));
        field.map(|field| {
            String::from_utf8_lossy(field.value)
                .trim()
                .to_ascii_lowercase()
        })
    };
    let is_chunked = field("transfer-encoding").is_some_and(|codings| codings.ends_with("chunked"));
    let framing = match field("content-length").and_then(|length| length.parse().ok()) {
        _ if is_chunked => Framing::Chunked,
        Some(length) => Framing::Length(length),
        None => Framing::UntilClose,
    };
    Ok(Some(Response {
        status: head.code.unwrap_or(0),
        framing,
        media_type: field("content-type").unwrap_or_default(),
        is_last: field("connection").is_some_and(|options| options.contains("close")),
        retry_after: field("retry-after").as_deref().and_then(seconds),
        location: field("location"),
        rest: Vec::from(bytes.get(length..).unwrap_or_default()),
    }))
}

/// What a response other than the wanted one means.
pub(super) fn refusal(socket: &mut Socket, response: Response) -> End {
    let mut body = Body::new(response.framing);
    let mut content = Vec::new();
    let mut buffer = [0u8; 4096];
    let mut piece = response.rest;
    // Without the explanation the status alone has to do.
    while body.push(&piece, &mut content).is_ok()
        && !body.is_done()
        && content.len() < REFUSAL_BYTES_MAX
        && !matches!(response.status, 204 | 304)
    {
        match socket.read(&mut buffer) {
            Ok(0) | Err(_) => break,
            Ok(count) => piece = Vec::from(buffer.get(..count).unwrap_or_default()),
        }
    }
    if let (300..=399, Some(location)) = (response.status, response.location) {
        return End::Failed(format!("the server points to {location}"));
    }
    End::of_response(response.status, response.retry_after, &content)
}
