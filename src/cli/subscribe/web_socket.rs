//! Receives publications over a WebSocket (RFC 6455), with tungstenite as the client.
//!
//! Publications are printed unchanged. Messages with a `type` are control messages. Gaps and errors
//! are printed on standard error; other control messages are printed only with `--verbose`. A
//! reconnect resumes with `since` in the query. With `envelope=data`, publications have no ids, so
//! a reconnect cannot resume.
//!
//! A server that needs a token accepts the WebSocket and waits for an `auth` command, which this
//! client never sends. So this client sends a ping command after the handshake. If the pong arrives
//! before a `welcome` message, the server waits for a token.

use std::borrow::Cow;
use std::convert::Infallible;
use std::io;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use tungstenite::client::IntoClientRequest as _;
use tungstenite::error::ProtocolError;
use tungstenite::handshake::client::Request;
use tungstenite::http::header::AUTHORIZATION;
use tungstenite::http::{HeaderName, HeaderValue};
use tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tungstenite::{Error, HandshakeError, Message, WebSocket};

use super::Subscriber;
use super::connection::Connection;
use super::end::{End, retry_after};
use crate::cli::print_error;

/// The maximum length of a message, in bytes. It is larger than any publication with its envelope.
const MESSAGE_BYTES_MAX: usize = 128 * 1024 * 1024;

/// The first command that is sent. If its answer arrives before a `welcome` message, the server
/// waits for a token.
const PING: &str = r#"{"type":"ping"}"#;
/// The error message if the server waits for a token.
const TOKEN_MISSING: &str = "token missing (401): the server waits for a token; send one with \
                             --token-file FILE";

/// The members that distinguish messages: a control message has a type, and a publication has an
/// id.
#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<Cow<'a, str>>,
    #[serde(borrow)]
    id: Option<Cow<'a, str>>,
}

/// Receives publications until the connection ends.
pub(super) fn follow(subscriber: &mut Subscriber<'_>) -> End {
    match attempt(subscriber) {
        Ok(never) => match never {},
        Err(end) => end,
    }
}

fn attempt(subscriber: &mut Subscriber<'_>) -> Result<Infallible, End> {
    let target = subscriber.target;
    let socket = subscriber.connect()?;
    let request = request(subscriber).map_err(|error| End::Failed(error.to_string()))?;
    let limits = WebSocketConfig::default()
        .max_message_size(Some(MESSAGE_BYTES_MAX))
        .max_frame_size(Some(MESSAGE_BYTES_MAX));
    let (mut conn, _response) = tungstenite::client::client_with_config(
        request,
        socket,
        Some(limits),
    )
    .map_err(|failure| match failure {
        HandshakeError::Failure(error) => refused(error, subscriber),
        HandshakeError::Interrupted(_) => subscriber.unreached(&io::ErrorKind::TimedOut.into()),
    })?;
    conn.get_mut().set_deadline(subscriber.deadline);
    subscriber.note("connected");
    if target.is_bare() {
        subscriber.last_id = None;
    } else {
        conn.send(Message::text(PING))
            .map_err(|error| ended(error, None, subscriber))?;
    }
    let end = read_messages(&mut conn, subscriber);
    if matches!(end, Err(End::Enough)) {
        // Without a close frame, the server would count the connection as lost.
        let _closed = conn.close(None);
        let _flushed = conn.flush();
    }
    end
}

fn request(subscriber: &Subscriber<'_>) -> Result<Request, Error> {
    let target = subscriber.target;
    let path = match subscriber.last_id.as_deref() {
        Some(id) if !id.is_empty() => target.request_target_since(id),
        Some(_) | None => target.request_target(),
    };
    // The connection already speaks TLS if the URL has `wss`.
    let url = format!("ws://{}{path}", target.authority);
    let mut request = url.as_str().into_client_request()?;
    let ours: Vec<HeaderName> = request.headers().keys().cloned().collect();
    for header in &subscriber.args.headers {
        let name = HeaderName::try_from(&header.name)?;
        let value = HeaderValue::try_from(&header.value)?;
        if ours.contains(&name) {
            request.headers_mut().insert(name, value);
        } else {
            request.headers_mut().append(name, value);
        }
    }
    if let Some(value) = subscriber.authorization() {
        let mut value = HeaderValue::try_from(value)?;
        value.set_sensitive(true);
        request.headers_mut().insert(AUTHORIZATION, value);
    }
    Ok(request)
}

/// Returns the [`End`] for a failed handshake.
fn refused(error: Error, subscriber: &Subscriber<'_>) -> End {
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
                return End::Failed(format!("the server redirects to {location}; use that URL"));
            }
            let body = response.body().as_deref().unwrap_or_default();
            End::of_response(status, field("retry-after").and_then(retry_after), body)
        }
        Error::Io(error) => subscriber.unreached(&error),
        Error::ConnectionClosed | Error::Protocol(ProtocolError::HandshakeIncomplete) => {
            subscriber.unreached(&io::Error::other("closed without a response"))
        }
        other => End::Failed(format!("the server does not accept a WebSocket: {other}")),
    }
}

fn read_messages(
    conn: &mut WebSocket<Connection>,
    subscriber: &mut Subscriber<'_>,
) -> Result<Infallible, End> {
    let (mut close, mut is_welcome) = (None, false);
    loop {
        match conn.read() {
            Ok(Message::Text(text)) => take_text(text.as_str(), &mut is_welcome, subscriber)?,
            Ok(Message::Binary(bytes)) => subscriber.publication("", &STANDARD.encode(&bytes))?,
            Ok(Message::Close(frame)) => close = Some(frame),
            Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_)) => {}
            Err(error) => return Err(ended(error, close, subscriber)),
        }
    }
}

fn take_text(
    text: &str,
    is_welcome: &mut bool,
    subscriber: &mut Subscriber<'_>,
) -> Result<(), End> {
    if subscriber.target.is_bare() {
        return subscriber.publication("", text);
    }
    let Ok(envelope) = serde_json::from_str::<Envelope<'_>>(text) else {
        print_error(&format!("unexpected message: {text}"));
        return Ok(());
    };
    let id = envelope.id.as_deref().unwrap_or_default();
    let Some(kind) = envelope.kind.as_deref() else {
        subscriber.last_id = Some(String::from(id));
        return subscriber.publication(id, text);
    };
    match kind {
        // The id in `subscribed` is the position before the first publication. A subscription that
        // has resumed keeps its own, earlier id, because publications after that id may still
        // arrive.
        "subscribed" if subscriber.last_id.is_none() && !id.is_empty() => {
            subscriber.last_id = Some(String::from(id));
            subscriber.note(text);
        }
        "pong" if !*is_welcome => return Err(End::Failed(String::from(TOKEN_MISSING))),
        "pong" => {}
        "welcome" => {
            *is_welcome = true;
            subscriber.note(text);
        }
        "error" | "gap" => print_error(&format!("{kind}: {text}")),
        _ => subscriber.note(text),
    }
    Ok(())
}

/// Returns the [`End`] for the received close frame, or for the read error if no close frame was
/// received.
fn ended(error: Error, close: Option<Option<CloseFrame>>, subscriber: &Subscriber<'_>) -> End {
    match (error, close) {
        (_, Some(Some(frame))) => End::of_close(frame.code.into(), frame.reason.as_str()),
        // The close frame has no code (RFC 6455, 7.1.5).
        (_, Some(None)) => End::orderly("closed by the server", None),
        (Error::Io(error), None) => subscriber.broken(&error, None),
        (error, None) => End::broken(format!("the connection broke: {error}"), None),
    }
}
