//! Follows a stream of server-sent events over HTTP/1.1.
//!
//! One request, then body and events with the pure parts beside it. Takes the reconnection time
//! that the stream names.

use std::convert::Infallible;
use std::io::{Read as _, Write as _};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Connection;
use super::end::End;
use super::exchange::{Response, read_head, refusal, request};
use super::parser::{Item, Parser};
use super::response_body::Body;
use super::socket::Socket;
use crate::cli::tell;

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
        .write_all(request("text/event-stream", connection).as_bytes())
        .map_err(|error| connection.unreached(&error))?;
    let response = read_head(&mut socket, |error| connection.unreached(error))?;
    if response.status != 200 {
        return Err(refusal(&mut socket, response));
    }
    if !response.media_type.starts_with("text/event-stream") {
        return Err(End::Failed(String::from(
            "the answer is not an event stream; the paths are /sse, /poll and, with ws://, /ws",
        )));
    }
    socket.set_deadline(connection.deadline);
    connection.note("connected");
    read_events(&mut socket, response, connection)
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
            // Events of the server itself are not publications.
            match event.strip_prefix("fanfare.") {
                Some("disconnect") => return Err(disconnected(&data)),
                Some("gap") => {
                    tell(&format!("gap: {data}"));
                    return Ok(());
                }
                Some(_) => {
                    connection.note(&format!("{event}: {data}"));
                    return Ok(());
                }
                None => {}
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

/// What it means that the server disconnects: the same as the close of a WebSocket with this code.
fn disconnected(data: &str) -> End {
    #[derive(Deserialize)]
    struct Disconnect {
        code: u16,
        #[serde(default)]
        reason: String,
    }
    match serde_json::from_str::<Disconnect>(data) {
        Ok(Disconnect { code, reason }) => End::of_close(code, &reason),
        Err(_unknown) => End::broken(format!("disconnected by the server: {data}"), None),
    }
}
