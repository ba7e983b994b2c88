//! WebSocket, the server's side of RFC 6455 after the handshake, and subprotocol `fanfare.v1`.
//!
//! Takes the client's bytes however they are cut, checks every rule of the protocol, answers pings
//! and closes, and turns commands into effects. Holds one pointer and four bytes while nothing is
//! incomplete: a frame that lies whole in the input is handled where it lies. Compressed messages
//! are inflated by the worker's one inflater, ours are said uncompressed: they are short. With the
//! data envelope the client's messages are checked and passed over. Never sends publications, which
//! are framed by `frame` and go from the log to the socket. Called by the enum over the transports.

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
use crate::effect::{Acknowledgement, CloseReason, Context, Join, Leave, Origin, Reference};
use crate::frame::websocket::{Opcode, push_frame};
use crate::frame::{Envelope, FrameKind, Payload};
use crate::hub::{Acknowledged, Gap, JoinOutcome};
use crate::id::ChannelName;
use crate::transport::{Flow, Goodbye};
use message::Refusal;
use pending::Pending;

/// One WebSocket.
#[derive(Debug)]
pub struct WebSocket {
    /// There only while something is in it.
    pending: Option<Box<Pending>>,
    envelope: Envelope,
    compression: Compression,
    phase: Phase,
}

/// Whether messages may be compressed, as the handshake has agreed (RFC 7692). No context is taken
/// over on either side, so to know this is all it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Each side compresses the messages it likes to.
    Deflate,
    /// Nobody does.
    None,
}

/// How far the conn is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Both sides may speak.
    Open,
    /// We have sent our close frame and read on until the client's.
    Closing(CloseReason),
    /// Nothing is read and nothing said any more.
    Ended(CloseReason),
}

impl WebSocket {
    /// A WebSocket whose handshake has been answered.
    #[must_use]
    pub fn new(envelope: Envelope, compression: Compression) -> Self {
        Self {
            pending: None,
            envelope,
            compression,
            phase: Phase::Open,
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
        if !self.is_talking() {
            return self.flow();
        }
        let reference = match &join.origin {
            Origin::Command(reference) => reference.as_ref(),
            Origin::Request => {
                message::push_welcome(out, context);
                None
            }
        };
        // Gaps come before any id from which a client could resume: one that is cut off between is
        // told of them again.
        for (channel, outcome) in join.channels.iter().zip(outcomes) {
            if let Some(gap) = outcome.joined().and_then(|joined| joined.gap) {
                self.handle_gap(channel, &gap, out, context);
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

    pub(super) fn handle_left(
        &self,
        leave: &Leave,
        was_subscribed: bool,
        out: &mut Vec<u8>,
        context: &Context<'_>,
    ) {
        if !self.is_talking() {
            return;
        }
        let reference = leave.reference.as_ref();
        if was_subscribed {
            message::push_unsubscribed(&leave.channel, reference, out);
        } else {
            refuse(Refusal::NotSubscribed, reference, out, context);
        }
    }

    pub(super) fn handle_acknowledged(
        &self,
        what: &Acknowledgement,
        outcome: Acknowledged,
        out: &mut Vec<u8>,
        context: &Context<'_>,
    ) {
        if !self.is_talking() {
            return;
        }
        let reference = what.reference.as_ref();
        match outcome {
            Acknowledged::BadId => refuse(Refusal::BadId, reference, out, context),
            Acknowledged::ChannelUnclear => {
                refuse(Refusal::ChannelUnclear, reference, out, context);
            }
            Acknowledged::NoWindow => refuse(Refusal::NoWindow, reference, out, context),
            Acknowledged::Opened | Acknowledged::Taken => {
                message::push_ok(Some(what.id), reference, out);
            }
        }
    }

    pub(super) fn handle_gap(
        &self,
        channel: &ChannelName,
        gap: &Gap,
        out: &mut Vec<u8>,
        context: &Context<'_>,
    ) {
        if self.is_talking() {
            message::push_gap(channel, gap, out);
            context.metrics.gaps.increment();
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
        if self.is_talking() {
            message::push_expiring(left, out);
        }
    }

    pub(super) fn handle_heartbeat(&self, out: &mut Vec<u8>, context: &Context<'_>) {
        if self.phase == Phase::Open {
            push_frame(Opcode::Ping, &[], out);
            context.metrics.heartbeats.increment();
        }
    }

    pub(super) fn handle_drained(&mut self, out: &mut Vec<u8>) {
        self.answer_put_off_ping(out);
        self.release_pending();
    }

    pub(super) fn handle_goodbye(
        &mut self,
        goodbye: Goodbye<'_>,
        out: &mut Vec<u8>,
        context: &Context<'_>,
    ) -> Flow {
        if self.phase == Phase::Open {
            match goodbye {
                Goodbye::Disconnect(close_info) => {
                    close::push_close(close_info.code, &close_info.reason, out);
                }
                Goodbye::Idle => close::push_close(close::GOING_AWAY, "idle", out),
                Goodbye::NoSubscription => {
                    close::push_close(close::POLICY, "no subscription", out);
                }
                Goodbye::Overflow => close::push_close(close::SLOW_CONSUMER, "slow consumer", out),
                Goodbye::PeerDone => {
                    close::push_close(close::NORMAL, "end of input", out);
                    // It ends without the closing handshake that its protocol asks for.
                    self.phase = Phase::Ended(CloseReason::PeerGone);
                    return self.flow();
                }
                Goodbye::TokenExpired => {
                    close::push_close(close::TOKEN_EXPIRED, "token_expired", out);
                }
                Goodbye::TokenMissing => {
                    close::push_close(close::UNAUTHORIZED, "token_missing", out);
                }
                Goodbye::Shutdown => {
                    let reason = format_args!("retry_ms={}", context.reconnect_ms());
                    close::push_close(close::RESTART, reason, out);
                }
            }
            self.phase = Phase::Closing(goodbye.close_reason());
        }
        self.flow()
    }

    /// Whether messages of the subprotocol are exchanged.
    fn is_talking(&self) -> bool {
        self.phase == Phase::Open && self.envelope != Envelope::Data
    }

    fn flow(&self) -> Flow {
        match self.phase {
            Phase::Open => Flow::Open,
            Phase::Closing(reason) => Flow::Closing(reason),
            Phase::Ended(reason) => Flow::Ended(reason),
        }
    }

    fn release_pending(&mut self) {
        let is_over = matches!(self.phase, Phase::Ended(_));
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

/// Tells a client what became of what it published. Success is told to whoever can tell what it
/// was that succeeded.
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
