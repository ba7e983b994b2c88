//! One request and the head of its response, over HTTP/1.1.
//!
//! Event streams and polls share this module. A request uses the `Last-Event-ID` field to resume.
//! The httparse crate parses the head of the response. A refusal is reported with the server's
//! text.

use std::io::{self, Read as _};
use std::time::Duration;

use fanfare::certain;

use super::Subscriber;
use super::connection::Connection;
use super::end::{End, retry_after};
use super::response_body::{Body, Framing};

/// The maximum length of a response's head, in bytes.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// The maximum number of bytes that are read from the body of a response that refuses the request.
const REFUSAL_BYTES_MAX: usize = 16 * 1024;
/// The maximum number of header fields of a response.
const FIELDS_MAX: usize = 128;

/// The head of a response, and the bytes received after it.
pub(super) struct Response {
    pub(super) status: u16,
    pub(super) framing: Framing,
    /// The media type in lower case; empty if the response has none.
    pub(super) media_type: String,
    /// Whether the server closes the connection after this response.
    pub(super) is_last: bool,
    /// The delay that the `Retry-After` field requests.
    pub(super) retry_after: Option<Duration>,
    location: Option<String>,
    pub(super) rest: Vec<u8>,
}

/// Builds the head of a request for the publications after the last received id.
pub(super) fn request(accept: &str, subscriber: &Subscriber<'_>) -> String {
    let target = subscriber.target;
    let mut text = format!("GET {} HTTP/1.1\r\n", target.request_target());
    let agent = concat!("fanfare/", env!("CARGO_PKG_VERSION"));
    let ours = [
        ("Host", Some(target.authority.as_str())),
        ("Accept", Some(accept)),
        ("Cache-Control", Some("no-store")),
        ("User-Agent", Some(agent)),
        (
            "Last-Event-ID",
            subscriber.last_id.as_deref().filter(|id| !id.is_empty()),
        ),
    ];
    let from_user = &subscriber.args.headers;
    for (name, value) in ours {
        // A field that the user sets replaces the default. `Last-Event-ID` is an exception, because
        // its value changes when publications arrive.
        let is_set =
            name != "Last-Event-ID" && from_user.iter().any(|h| h.name.eq_ignore_ascii_case(name));
        if let Some(value) = value.filter(|_| !is_set) {
            push_field(name, value, &mut text);
        }
    }
    for header in from_user {
        push_field(&header.name, &header.value, &mut text);
    }
    if let Some(value) = subscriber.authorization() {
        push_field("Authorization", &value, &mut text);
    }
    text.push_str("\r\n");
    text
}

fn push_field(name: &str, value: &str, out: &mut String) {
    for part in [name, ": ", value, "\r\n"] {
        out.push_str(part);
    }
}

/// Reads the head of a response. `failed` returns the [`End`] for a connection error.
pub(super) fn read_head(
    socket: &mut Connection,
    failed: impl Fn(&io::Error) -> End,
) -> Result<Response, End> {
    let mut bytes = Vec::new();
    let mut buffer = [0u8; 4096];
    loop {
        let count = socket.read(&mut buffer).map_err(|error| failed(&error))?;
        if count == 0 {
            return Err(failed(&io::Error::other("closed without a response")));
        }
        bytes.extend_from_slice(certain::take(&buffer, count));
        let parsed = parse_head(&bytes)
            .map_err(|error| End::Failed(format!("the response is not HTTP: {error}")))?;
        match parsed {
            // Interim responses precede the final response (RFC 9110, 15.2).
            Some(interim) if interim.status < 200 => bytes = interim.rest,
            Some(response) => return Ok(response),
            None if bytes.len() > HEAD_BYTES_MAX => {
                return Err(End::Failed(format!(
                    "the head of the response has more than {HEAD_BYTES_MAX} bytes"
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
        retry_after: field("retry-after").as_deref().and_then(retry_after),
        location: field("location"),
        rest: Vec::from(certain::skip(bytes, length)),
    }))
}

/// Reads the body of a response that is not a stream, and returns the [`End`] for the response.
pub(super) fn refusal(socket: &mut Connection, response: Response) -> End {
    let mut body = Body::new(response.framing);
    let mut content = Vec::new();
    let mut buffer = [0u8; 4096];
    let mut piece = response.rest;
    // If the body cannot be read, the message contains only the status.
    while body.push(&piece, &mut content).is_ok()
        && !body.is_done()
        && content.len() < REFUSAL_BYTES_MAX
        && !matches!(response.status, 204 | 304)
    {
        match socket.read(&mut buffer) {
            Ok(0) | Err(_) => break,
            Ok(count) => piece = Vec::from(certain::take(&buffer, count)),
        }
    }
    if let (300..=399, Some(location)) = (response.status, response.location) {
        return End::Failed(format!("the server redirects to {location}; use that URL"));
    }
    End::of_response(response.status, response.retry_after, &content)
}
