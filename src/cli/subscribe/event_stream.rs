//! Follows a stream of server-sent events over HTTP/1.1.
//!
//! Writes one request, reads the head of the response with httparse, then body and events with the
//! pure parts beside it. Resumes with the `Last-Event-ID` field; takes the reconnection time that
//! the stream names.

use std::convert::Infallible;
use std::io::{Read as _, Write as _};
use std::time::Duration;

use serde::Serialize;

use super::Connection;
use super::body::{Body, Framing};
use super::end::End;
use super::parser::{Item, Parser};
use super::socket::Socket;
use crate::cli::tell;

/// The longest head of a response, in bytes.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// How much of a refusal is read for the sake of its explanation.
const REFUSAL_BYTES_MAX: usize = 16 * 1024;
/// Header fields of one response.
const FIELDS_MAX: usize = 128;

/// What matters of a response's head, and what came behind it.
struct Response {
    status: u16,
    framing: Framing,
    is_event_stream: bool,
    retry_after: Option<String>,
    location: Option<String>,
    rest: Vec<u8>,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Shown<'a> {
    id: &'a str,
    event: &'a str,
    data: &'a str,
}

/// Follows the stream until it ends in some way.
pub(super) fn follow(connection: &mut Connection<'_>) -> End {
    match attempt(connection) {
        Ok(never) => match never {},
        Err(end) => end,
    }
}

fn attempt(connection: &mut Connection<'_>) -> Result<Infallible, End> {
    let target = connection.target;
    let mut socket = Socket::connect(&target.host, target.port, connection.handshake_deadline())
        .map_err(|error| connection.unreached(&error))?;
    socket
        .write_all(request(connection).as_bytes())
        .map_err(|error| connection.unreached(&error))?;
    let response = read_head(&mut socket, connection)?;
    if response.status != 200 {
        return Err(refusal(&mut socket, response));
    }
    if !response.is_event_stream {
        return Err(End::Failed(String::from(
            "the answer is not an event stream; the path of one is /sse",
        )));
    }
    socket.set_deadline(connection.deadline);
    connection.note("connected");
    read_events(&mut socket, response, connection)
}

fn request(connection: &Connection<'_>) -> String {
    let target = connection.target;
    let mut text = format!("GET {} HTTP/1.1\r\n", target.request_target());
    let agent = concat!("fanfare/", env!("CARGO_PKG_VERSION"));
    let ours = [
        ("Host", Some(target.authority.as_str())),
        ("Accept", Some("text/event-stream")),
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

fn read_head(socket: &mut Socket, connection: &Connection<'_>) -> Result<Response, End> {
    let mut bytes = Vec::new();
    let mut buffer = [0u8; 4096];
    loop {
        let count = socket
            .read(&mut buffer)
            .map_err(|error| connection.unreached(&error))?;
        if count == 0 {
            return Err(End::unreached("the server closed without an answer"));
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
        is_event_stream: field("content-type").is_some_and(|t| t.starts_with("text/event-stream")),
        retry_after: field("retry-after"),
        location: field("location"),
        rest: Vec::from(bytes.get(length..).unwrap_or_default()),
    }))
}

fn refusal(socket: &mut Socket, response: Response) -> End {
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
    End::of_response(response.status, response.retry_after.as_deref(), &content)
}

fn read_events(
    socket: &mut Socket,
    response: Response,
    connection: &mut Connection<'_>,
) -> Result<Infallible, End> {
    let mut parser = Parser::new(connection.last_id.as_deref());
    let mut body = Body::new(response.framing);
    let (mut content, mut items) = (Vec::new(), Vec::new());
    let mut retry = None;
    let mut buffer = vec![0u8; 64 * 1024];
    let mut piece = response.rest;
    loop {
        body.push(&piece, &mut content)
            .map_err(|error| End::broken(error.to_string(), retry))?;
        parser
            .push(&content, &mut items)
            .map_err(|error| End::Failed(error.to_string()))?;
        content.clear();
        for item in items.drain(..) {
            handle(item, &mut retry, connection)?;
        }
        if body.is_done() {
            return Err(End::orderly("the server ended the stream", retry));
        }
        let count = socket
            .read(&mut buffer)
            .map_err(|error| connection.broken(&error, retry))?;
        if count == 0 {
            return Err(match body.may_end() {
                true => End::orderly("the server ended the stream", retry),
                false => End::broken("the connection ended in mid-stream", retry),
            });
        }
        piece.clear();
        piece.extend_from_slice(buffer.get(..count).unwrap_or_default());
    }
}

fn handle(
    item: Item,
    retry: &mut Option<Duration>,
    connection: &mut Connection<'_>,
) -> Result<(), End> {
    match item {
        Item::Retry(ms) => {
            *retry = Some(Duration::from_millis(ms));
            Ok(())
        }
        Item::Position(id) => {
            connection.note(&format!("at {id}"));
            connection.last_id = Some(id);
            Ok(())
        }
        Item::Event { id, event, data } => {
            connection.last_id = Some(id.clone());
            if event == "fanfare.gap" {
                tell(&format!("gap: {data}"));
                return Ok(());
            }
            if !connection.args.json {
                return connection.publication(&id, &data);
            }
            let shown = Shown {
                id: &id,
                event: &event,
                data: &data,
            };
            // Three strings cannot fail to become JSON.
            let line = serde_json::to_string(&shown).unwrap_or_default();
            connection.publication(&id, &line)
        }
    }
}
