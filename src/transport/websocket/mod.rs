//! WebSocket: the server's side of RFC 6455 after the handshake, and the subprotocol `fanfare.v1`.
//!
//! This transport accepts the client's bytes however they are split, and checks every rule of the
//! protocol. It answers pings and close frames, and turns commands into effects. While there is no
//! incomplete input, a WebSocket occupies only one pointer and four bytes, because complete frames
//! are handled in place. The worker's inflater inflates compressed messages. Control messages of
//! the server are short, so they are sent uncompressed. A client that receives only payloads (data
//! envelope) cannot send commands, so its messages are checked and ignored. Publications are not
//! written here, because `frame` encodes them. The caller is the enum `Transport`.

pub mod decode;
pub mod unmask;
pub mod utf8;

mod close;
mod fault;
mod message;
mod pending;
mod receive;
#[cfg(test)]
mod tests;

use std::time::Duration;

use crate::backend::{BackendMessage, PublishOutcome};
use crate::context::Context;
use crate::effect::{Acknowledgement, CloseReason, Join, Origin, Reference};
use crate::frame::websocket::{Opcode, push_frame};
use crate::frame::{Envelope, FrameKind, Payload};
use crate::hub::{Acknowledged, JoinOutcome};
use crate::transport::{Flow, Goodbye, StreamEvent};
use message::Refusal;
use pending::Pending;

/// The state of a WebSocket.
#[derive(Debug)]
pub struct WebSocket {
    /// Incomplete or unhandled input, and a postponed pong; `None` while there is neither.
    pending: Option<Box<Pending>>,
    envelope: Envelope,
    compression: Compression,
    state: State,
}

/// Whether messages may be compressed, as negotiated in the handshake (RFC 7692). No further state
/// is needed, because neither side uses context takeover.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Both sides may compress their messages.
    Deflate,
    /// No message is compressed.
    None,
}

/// The state of the closing handshake (RFC 6455, 7.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// No close frame was sent or received.
    Open,
    /// The server has sent its close frame and waits for the client's close frame.
    Closing(CloseReason),
    /// The stream is over. Nothing more is read or written.
    Ended(CloseReason),
}

impl WebSocket {
    /// Makes a WebSocket whose handshake has been answered.
    #[must_use]
    pub fn new(envelope: Envelope, compression: Compression) -> Self {
        Self {
            pending: None,
            envelope,
            compression,
            state: State::Open,
        }
    }

    pub(super) fn has_unhandled(&self) -> bool {
        let pending = self.pending.as_ref();
        pending.is_some_and(|pending| !pending.unhandled.is_empty())
    }

    pub(super) fn frame_kind(&self) -> FrameKind {
        match self.compression {
            Compression::Deflate => FrameKind::WebSocketDeflated(self.envelope),
            Compression::None => FrameKind::WebSocket(self.envelope),
        }
    }

    pub(super) fn handle_joined(
        &self,
        join: &Join,
        outcomes: &[JoinOutcome],
        out: &mut Vec<u8>,
        context: &Context<'_>,
    ) -> Flow {
        if !self.has_subprotocol() {
            return self.flow();
        }
        let reference = match &join.origin {
            Origin::Command(reference) => reference.as_ref(),
            Origin::Request => {
                message::push_welcome(out, context);
                None
            }
        };
        // Gaps are sent before any id from which a client could resume. A client that loses the
        // connection in between receives the gaps again.
        for (channel, outcome) in join.channels.iter().zip(outcomes) {
            if let Some(gap) = outcome.joined().and_then(|joined| joined.gap) {
                message::push_gap(channel, &gap, out);
                context.metrics.gaps.increment();
            }
        }
        let position = JoinOutcome::position(outcomes).unwrap_or(context.head);
        for (channel, outcome) in join.channels.iter().zip(outcomes) {
            match outcome {
                JoinOutcome::AlreadyJoined => {
                    refuse(Refusal::AlreadySubscribed, reference, out, context);
                }
                JoinOutcome::Joined(joined) => {
                    let is_recovered = joined.is_recovered;
                    message::push_subscribed(channel, position, is_recovered, reference, out);
                }
                JoinOutcome::ServerFull => refuse(Refusal::ServerFull, reference, out, context),
                JoinOutcome::TooManyChannels => {
                    refuse(Refusal::TooManyChannels, reference, out, context);
                }
            }
        }
        self.flow()
    }

    pub(super) fn handle_event(
        &self,
        event: StreamEvent<'_>,
        out: &mut Vec<u8>,
        context: &Context<'_>,
    ) {
        if !self.has_subprotocol() {
            return;
        }
        match event {
            StreamEvent::Acknowledged(what, outcome) => {
                push_acknowledged(what, outcome, out, context);
            }
            StreamEvent::Gap(channel, gap) => {
                message::push_gap(channel, gap, out);
                context.metrics.gaps.increment();
            }
            // The client needs no message with its new position. A client keeps a position for each
            // channel, and has set this position to the end of the gap.
            StreamEvent::GapsSent(_) => {}
            StreamEvent::Left(leave, true) => {
                message::push_unsubscribed(&leave.channel, leave.reference.as_ref(), out);
            }
            StreamEvent::Left(leave, false) => {
                refuse(
                    Refusal::NotSubscribed,
                    leave.reference.as_ref(),
                    out,
                    context,
                );
            }
        }
    }

    pub(super) fn handle_backend_message(
        &self,
        message: &BackendMessage,
        out: &mut Vec<u8>,
        context: &Context<'_>,
    ) -> Flow {
        match (message, self.envelope) {
            (BackendMessage::Payload(payload), Envelope::Full | Envelope::Initial) => {
                message::push_direct(payload, out);
            }
            (BackendMessage::Payload(payload), Envelope::Data) => {
                let (opcode, bytes) = match payload {
                    Payload::Bytes(bytes) => (Opcode::Binary, &**bytes),
                    Payload::Json(text) | Payload::Text(text) => (Opcode::Text, text.as_bytes()),
                };
                push_frame(opcode, bytes, out);
            }
            (
                BackendMessage::PresenceReply {
                    channel,
                    subscribers,
                    reference,
                },
                Envelope::Full | Envelope::Initial,
            ) => {
                message::push_presence(channel, *subscribers, reference.as_ref(), out);
            }
            (
                BackendMessage::PublishReply { outcome, reference },
                Envelope::Full | Envelope::Initial,
            ) => {
                push_published(*outcome, reference.as_ref(), out, context);
            }
            (
                BackendMessage::PresenceReply { .. } | BackendMessage::PublishReply { .. },
                Envelope::Data,
            )
            | (BackendMessage::Disconnect(_), _) => {}
        }
        self.flow()
    }

    pub(super) fn handle_expiring(&self, left: Duration, out: &mut Vec<u8>) {
        if self.has_subprotocol() {
            message::push_expiring(left, out);
        }
    }

    pub(super) fn handle_heartbeat(&self, out: &mut Vec<u8>, context: &Context<'_>) {
        if self.state == State::Open {
            push_frame(Opcode::Ping, &[], out);
            context.metrics.heartbeats.increment();
        }
    }

    pub(super) fn handle_drained(&mut self, out: &mut Vec<u8>) {
        self.answer_postponed_ping(out);
        self.release_pending();
    }

    pub(super) fn handle_goodbye(
        &mut self,
        goodbye: Goodbye<'_>,
        out: &mut Vec<u8>,
        context: &mut Context<'_>,
    ) -> Flow {
        if self.state != State::Open {
            return self.flow();
        }
        self.state = State::Closing(goodbye.close_reason());
        let (code, reason) = match goodbye {
            Goodbye::Disconnect(close_info) => (close_info.code, &*close_info.reason),
            Goodbye::Idle => (close::GOING_AWAY, "idle"),
            Goodbye::NoSubscription => (close::POLICY, "no subscription"),
            Goodbye::Overflow => (close::SLOW_CONSUMER, "slow consumer"),
            Goodbye::PeerDone => {
                // The client did not send a close frame, so the close reason is `PeerGone`.
                self.state = State::Ended(CloseReason::PeerGone);
                (close::NORMAL, "end of input")
            }
            Goodbye::TokenExpired => (close::TOKEN_EXPIRED, "token_expired"),
            Goodbye::TokenMissing => (close::UNAUTHORIZED, "token_missing"),
            Goodbye::Shutdown => {
                let reason = format!("retry_ms={}", context.reconnect_ms());
                close::push_close(close::RESTART, reason, out, context);
                return self.flow();
            }
        };
        close::push_close(code, reason, out, context);
        self.flow()
    }

    /// Whether the server may send messages of the subprotocol now.
    fn has_subprotocol(&self) -> bool {
        self.state == State::Open && self.envelope != Envelope::Data
    }

    fn flow(&self) -> Flow {
        match self.state {
            State::Open => Flow::Open,
            State::Closing(reason) => Flow::Closing(reason),
            State::Ended(reason) => Flow::Ended(reason),
        }
    }

    fn release_pending(&mut self) {
        let is_over = matches!(self.state, State::Ended(_));
        if is_over
            || self
                .pending
                .as_ref()
                .is_some_and(|pending| pending.is_empty())
        {
            self.pending = None;
        }
    }
}

fn push_acknowledged(
    what: &Acknowledgement,
    outcome: Acknowledged,
    out: &mut Vec<u8>,
    context: &Context<'_>,
) {
    let reference = what.reference.as_ref();
    match outcome {
        Acknowledged::BadId => refuse(Refusal::BadId, reference, out, context),
        Acknowledged::ChannelUnclear => refuse(Refusal::ChannelUnclear, reference, out, context),
        Acknowledged::NoWindow => refuse(Refusal::NoWindow, reference, out, context),
        Acknowledged::UnknownEpoch => refuse(Refusal::UnknownEpoch, reference, out, context),
        Acknowledged::Opened | Acknowledged::Taken => {
            message::push_ok(Some(what.id), reference, out);
        }
    }
}

/// Sends the outcome of a client's publication. Success is sent only for a command with a
/// reference, because otherwise the client could not match the answer to its command.
fn push_published(
    outcome: PublishOutcome,
    reference: Option<&Reference>,
    out: &mut Vec<u8>,
    context: &Context<'_>,
) {
    let refusal = match outcome {
        PublishOutcome::Broadcast(id) => {
            return message::push_ok(Some(id), reference, out);
        }
        PublishOutcome::Consumed => return message::push_ok(None, reference, out),
        PublishOutcome::Busy => Refusal::Busy,
        PublishOutcome::NoConsumer => Refusal::NoConsumer,
        PublishOutcome::Refused => Refusal::Unavailable,
        PublishOutcome::Unsynced => Refusal::Unsynced,
    };
    refuse(refusal, reference, out, context);
}

fn refuse(
    refusal: Refusal,
    reference: Option<&Reference>,
    out: &mut Vec<u8>,
    context: &Context<'_>,
) {
    message::push_error(refusal, reference, out);
    context.metrics.client_commands_refused.increment();
}
