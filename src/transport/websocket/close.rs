//! Close frames: the codes, the parser and the writer (RFC 6455, 5.5.1 and 7.4).
//!
//! The transport ([`super`]) decides how a close frame changes the state of the conn.

use std::fmt::Display;

use crate::config::limits::CONTROL_PAYLOAD_BYTES_MAX;
use crate::context::Context;
use crate::effect::Effect;
use crate::frame::envelope::push_display;
use crate::frame::websocket::{Opcode, push_frame};

/// The client has sent FIN, and all its pending publications have been sent.
pub(super) const NORMAL: u16 = 1000;
/// The client violated the protocol.
pub(super) const PROTOCOL_ERROR: u16 = 1002;
/// A text message is not UTF-8, or a compressed message cannot be inflated.
pub(super) const INVALID_PAYLOAD: u16 = 1007;
/// The client did not subscribe in time.
pub(super) const POLICY: u16 = 1008;
/// A message exceeds the limit.
pub(super) const MESSAGE_TOO_BIG: u16 = 1009;
/// The client did not answer the heartbeat.
pub(super) const GOING_AWAY: u16 = 1001;
/// The server restarts; the client should return later.
pub(super) const RESTART: u16 = 1012;
/// The client's token is missing or invalid.
pub(super) const UNAUTHORIZED: u16 = 4001;
/// The client's token has expired.
pub(super) const TOKEN_EXPIRED: u16 = 4002;
/// The client's token does not allow the command.
pub(super) const NOT_ALLOWED: u16 = 4003;
/// The client reads too slowly; it should back off.
pub(super) const SLOW_CONSUMER: u16 = 4100;

/// The reason for which a client's close frame is invalid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum CloseError {
    #[error("a close frame has a code of two bytes or nothing")]
    BodyOfOneByte,
    #[error("close code {got} must not be sent")]
    Code { got: u16 },
    #[error("the reason is not UTF-8")]
    ReasonNotUtf8,
}

/// Parses the body of a close frame. Returns the close code, or `None` if the body is empty.
pub(super) fn parse(body: &[u8]) -> Result<Option<u16>, CloseError> {
    if body.is_empty() {
        return Ok(None);
    }
    let Some((&code, reason)) = body.split_first_chunk::<2>() else {
        return Err(CloseError::BodyOfOneByte);
    };
    let code = u16::from_be_bytes(code);
    if !is_sendable(code) {
        return Err(CloseError::Code { got: code });
    }
    if simdutf8::basic::from_utf8(reason).is_err() {
        return Err(CloseError::ReasonNotUtf8);
    }
    Ok(Some(code))
}

/// Whether an endpoint may send a close code. The codes of RFC 6455, 7.4.1, codes that were
/// registered later, and the ranges for frameworks and applications are allowed.
fn is_sendable(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

/// Appends the answer to a client's close frame, with the client's close code if its frame contains
/// a code.
pub(super) fn push_echo(code: Option<u16>, out: &mut Vec<u8>, context: &mut Context<'_>) {
    match code {
        Some(code) => {
            push_frame(Opcode::Close, &code.to_be_bytes(), out);
            note(code, context);
        }
        None => push_frame(Opcode::Close, &[], out),
    }
}

/// Appends a close frame. A reason that is too long is truncated. The server's own reasons are
/// short ASCII texts.
pub(super) fn push_close(
    code: u16,
    reason: impl Display,
    out: &mut Vec<u8>,
    context: &mut Context<'_>,
) {
    let mut body = Vec::with_capacity(CONTROL_PAYLOAD_BYTES_MAX);
    body.extend_from_slice(&code.to_be_bytes());
    push_display(&reason, &mut body);
    body.truncate(CONTROL_PAYLOAD_BYTES_MAX);
    push_frame(Opcode::Close, &body, out);
    note(code, context);
}

/// Passes the code of the conn's only close frame to the access log.
fn note(code: u16, context: &mut Context<'_>) {
    if context.is_observed {
        context.ask(Effect::NoteClose(code));
    }
}

#[cfg(test)]
mod tests {
    use tungstenite::protocol::frame::coding::CloseCode;

    use super::*;

    #[test]
    fn close_codes_are_those_that_tungstenite_allows() {
        for code in 0..=u16::MAX {
            // Code 1014 (Bad Gateway) is registered, but tungstenite does not accept this code.
            let is_newer = code == 1014;
            let expected = CloseCode::from(code).is_allowed() || is_newer;
            assert_eq!(is_sendable(code), expected, "{code}");
        }
    }

    #[test]
    fn close_body_is_empty_or_a_code_and_a_text() {
        assert_eq!(parse(b""), Ok(None));
        assert_eq!(parse(b"\x03"), Err(CloseError::BodyOfOneByte));
        assert_eq!(parse(b"\x03\xe8"), Ok(Some(1000)));
        assert_eq!(parse(b"\x03\xe8bye"), Ok(Some(1000)));
        assert_eq!(parse(b"\x03\xe8\xff"), Err(CloseError::ReasonNotUtf8));
        assert_eq!(parse(b"\x03\xed"), Err(CloseError::Code { got: 1005 }));
    }
}
