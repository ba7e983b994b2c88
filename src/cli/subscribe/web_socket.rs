//! Follows a WebSocket (RFC 6455) with tungstenite as the client.
//!
//! Prints publications as they come. Messages with a `type` are the server's own and are not
//! printed: gaps and errors are told on standard error, the rest to the curious. Resumes with
//! `since` in the query; with `envelope=data` there are no ids, so there is nothing to resume by.
//!
//! A server that wants a token accepts the WebSocket and waits for a command that brings one, which
//! never comes from here. A pong without a welcome before it shows that the server waits.

use std::borrow::Cow;
use std::convert::Infallible;
use std::io;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use tungstenite::client::IntoClientRequest as _;
use tungstenite::error::ProtocolError;
use tungstenite::handshake::client::Request;
use tungstenite::http::{HeaderName, HeaderValue};
use tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tungstenite::{Error, HandshakeError, Message, WebSocket};

use super::Connection;
use super::end::{End, seconds};
use super::socket::Socket;
use crate::cli::tell;

/// The longest message, in bytes: more than the longest publication in its envelope.
const MESSAGE_BYTES_MAX: usize = 128 * 1024 * 1024;

/// Asks whether the server waits for a token.
const PING: &str = r#"{"type":"ping"}"#;
/// What ends a conn whose server waits for a token.
const TOKEN_MISSING: &str = "token missing (401): the server waits for a token; send one with \
                             --header 'Authorization: Bearer TOKEN'";

/// What tells the server's own messages from publications, and where a publication stands.
#[derive(Deserialize)]
struct Glance<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<Cow<'a, str>>,
    #[serde(borrow)]
    id: Option<Cow<'a, str>>,
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
    let request = request(connection).map_err(|error| End::Failed(error.to_string()))?;
    let socket = Socket::connect(&target.host, target.port, connection.handshake_deadline())
        .map_err(|error| connection.unreached(&error))?;
    let limits = WebSocketConfig::default()
        .max_message_size(Some(MESSAGE_BYTES_MAX))
        .max_frame_size(Some(MESSAGE_BYTES_MAX));
    let (mut conn, _response) = tungstenite::client::client_with_config(
        request,
        socket,
        Some(limits),
    )
    .map_err(|failure| match failure {
        HandshakeError::Failure(error) => refused(error, connection),
        HandshakeError::Interrupted(_) => connection.unreached(&io::ErrorKind::TimedOut.into()),
    })?;
    conn.get_mut().set_deadline(connection.deadline);
    connection.note("connected");
    if target.is_bare() {
        connection.last_id = None;
    } else {
        conn.send(Message::text(PING))
            .map_err(|error| ended(error, None, connection))?;
    }
    let end = read_messages(&mut conn, connection);
    if matches!(end, Err(End::Enough)) {
        // A courtesy: the server counts us as done instead of gone.
        let _closed = conn.close(None);
        let _flushed = conn.flush();
    }
    end
}

fn request(connection: &Connection<'_>) -> Result<Request, Error> {
    let target = connection.target;
    let path = match connection.last_id.as_deref() {
        Some(id) if !id.is_empty() => target.request_target_since(id),
        Some(_) | None => target.request_target(),
    };
    let url = format!("ws://{}{path}", target.authority);
    let mut request = url.as_str().into_client_request()?;
    let ours: Vec<HeaderName> = request.headers().keys().cloned().collect();
    for header in &connection.args.headers {
        let name = HeaderName::try_from(&header.name)?;
        let value = HeaderValue::try_from(&header.value)?;
        if ours.contains(&name) {
            request.headers_mut().insert(name, value);
        } else {
            request.headers_mut().append(name, value);
        }
    }
    Ok(request)
}

/// What a failed handshake means.
fn refused(error: Error, connection: &Connection<'_>) -> End {
    match error {
        Error::Http(response) => {
            let field = |name| {
                response
                    .headers()
                    .get(name)
                    .and_then(|value| value.to_str().ok())
            };
            let status = response.status().as_u16();
            if let (300..=399, Some(location)) = (status, field("location")) {
                return End::Failed(format!("the server points to {location}"));
            }
            let body = response.body().as_deref().unwrap_or_default();
            End::of_response(status, field("retry-after").and_then(seconds), body)
        }
        Error::Io(error) => connection.unreached(&error),
        Error::ConnectionClosed | Error::Protocol(ProtocolError::HandshakeIncomplete) => {
            connection.unreached(&io::Error::other("closed without an answer"))
        }
        other => End::Failed(format!("no WebSocket there: {other}")),
    }
}

fn read_messages(
    conn: &mut WebSocket<Socket>,
    connection: &mut Connection<'_>,
) -> Result<Infallible, End> {
    let (mut close, mut is_welcome) = (None, false);
    loop {
        match conn.read() {
            Ok(Message::Text(text)) => take_text(text.as_str(), &mut is_welcome, connection)?,
            Ok(Message::Binary(bytes)) => connection.publication("", &STANDARD.encode(&bytes))?,
            Ok(Message::Close(frame)) => close = Some(frame),
            Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_)) => {}
            Err(error) => return Err(ended(error, close, connection)),
        }
    }
}

fn take_text(
    text: &str,
    is_welcome: &mut bool,
    connection: &mut Connection<'_>,
) -> Result<(), End> {
    if connection.target.is_bare() {
        return connection.publication("", text);
    }
    let Ok(glance) = serde_json::from_str::<Glance<'_>>(text) else {
        tell(&format!("unexpected message: {text}"));
        return Ok(());
    };
    let id = glance.id.as_deref().unwrap_or_default();
    let Some(kind) = glance.kind.as_deref() else {
        connection.last_id = Some(String::from(id));
        return connection.publication(id, text);
    };
    match kind {
        // Where we stand before the first publication. With a position of our own, ours is the
        // earlier one and what lies between may still be on its way.
        "subscribed" if connection.last_id.is_none() && !id.is_empty() => {
            connection.last_id = Some(String::from(id));
            connection.note(text);
        }
        "pong" if !*is_welcome => return Err(End::Failed(String::from(TOKEN_MISSING))),
        "pong" => {}
        "welcome" => {
            *is_welcome = true;
            connection.note(text);
        }
        "error" | "gap" => tell(&format!("{kind}: {text}")),
        _ => connection.note(text),
    }
    Ok(())
}

/// What the end of reading means, given the close frame if one came.
fn ended(error: Error, close: Option<Option<CloseFrame>>, connection: &Connection<'_>) -> End {
    match (error, close) {
        (_, Some(Some(frame))) => End::of_close(frame.code.into(), frame.reason.as_str()),
        // A close frame without a code (RFC 6455, 7.1.5).
        (_, Some(None)) => End::orderly("closed by the server", None),
        (Error::Io(error), None) => connection.broken(&error, None),
        (error, None) => End::broken(format!("the connection broke: {error}"), None),
    }
}
