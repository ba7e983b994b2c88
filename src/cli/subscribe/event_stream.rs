//! Follows a stream of server-sent events over HTTP/1.1.
//!
//! The module sends one request and reads its response. [`super::response_body`] decodes the body,
//! and [`super::parser`] parses the events. Before a reconnect, the client waits for the
//! reconnection time of the stream (`retry`).

use std::convert::Infallible;
use std::io::{Read as _, Write as _};
use std::time::Duration;

use fanfare::certain;

use serde::{Deserialize, Serialize};

use super::Subscriber;
use super::connection::Connection;
use super::end::End;
use super::exchange::{Response, read_head, refusal, request};
use super::parser::{Item, Parser};
use super::response_body::Body;
use crate::cli::print_error;

/// An event as a line of `--json` output.
#[derive(Serialize)]
struct Shown<'a> {
    id: &'a str,
    event: &'a str,
    data: &'a str,
}

/// Receives publications until the connection ends.
pub(super) fn follow(subscriber: &mut Subscriber<'_>) -> End {
    match attempt(subscriber) {
        Ok(never) => match never {},
        Err(end) => end,
    }
}

fn attempt(subscriber: &mut Subscriber<'_>) -> Result<Infallible, End> {
    let mut socket = subscriber.connect()?;
    socket
        .write_all(request("text/event-stream", subscriber).as_bytes())
        .map_err(|error| subscriber.unreached(&error))?;
    let response = read_head(&mut socket, |error| subscriber.unreached(error))?;
    if response.status != 200 {
        return Err(refusal(&mut socket, response));
    }
    if !response.media_type.starts_with("text/event-stream") {
        return Err(End::Failed(String::from(
            "the response is not an event stream; use /sse or /poll, or /ws with ws://",
        )));
    }
    socket.set_deadline(subscriber.deadline);
    subscriber.note("connected");
    read_events(&mut socket, response, subscriber)
}

fn read_events(
    socket: &mut Connection,
    response: Response,
    subscriber: &mut Subscriber<'_>,
) -> Result<Infallible, End> {
    let mut parser = Parser::new(subscriber.last_id.as_deref());
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
            handle(item, &mut retry, subscriber)?;
        }
        if body.is_done() {
            return Err(End::orderly("the server ended the stream", retry));
        }
        let count = socket
            .read(&mut buffer)
            .map_err(|error| subscriber.broken(&error, retry))?;
        if count == 0 {
            return Err(match body.may_end() {
                true => End::orderly("the server ended the stream", retry),
                false => End::broken("the connection ended within the stream", retry),
            });
        }
        piece.clear();
        piece.extend_from_slice(certain::take(&buffer, count));
    }
}

fn handle(
    item: Item,
    retry: &mut Option<Duration>,
    subscriber: &mut Subscriber<'_>,
) -> Result<(), End> {
    match item {
        Item::Retry(ms) => {
            *retry = Some(Duration::from_millis(ms));
            Ok(())
        }
        Item::Position(id) => {
            subscriber.note(&format!("at {id}"));
            subscriber.last_id = Some(id);
            Ok(())
        }
        Item::Event { id, event, data } => {
            subscriber.last_id = Some(id.clone());
            // Events whose type begins with `fanfare.` are control messages and not publications.
            match event.strip_prefix("fanfare.") {
                Some("disconnect") => return Err(disconnected(&data)),
                Some("gap") => {
                    print_error(&format!("gap: {data}"));
                    return Ok(());
                }
                Some(_) => {
                    subscriber.note(&format!("{event}: {data}"));
                    return Ok(());
                }
                None => {}
            }
            if !subscriber.args.json {
                return subscriber.publication(&id, &data);
            }
            let shown = Shown {
                id: &id,
                event: &event,
                data: &data,
            };
            let line = serde_json::to_string(&shown);
            debug_assert!(line.is_ok(), "three strings can be written as JSON");
            subscriber.publication(&id, &line.unwrap_or_default())
        }
    }
}

/// Returns the [`End`] for the event `fanfare.disconnect`. The event contains a close code, like a
/// WebSocket close frame.
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
