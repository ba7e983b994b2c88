//! The receiving half of a WebSocket. The result does not depend on how the client's bytes are
//! split into reads.
//!
//! Input is processed in parts. A part is a header and the available bytes of its payload, which
//! are unmasked in place. Complete frames and messages are handled in place; only an incomplete
//! rest is kept. This module checks every rule that needs more than one header (RFC 6455, 5.4 to
//! 5.6). Memory grows with the received bytes, never with an announced length. An inflated message
//! has the same limit as any other message.

use super::close;
use super::decode::{FrameHeader, Rsv1, parse_header};
use super::fault::Fault;
use super::message::{self, Action, Refusal};
use super::pending::{Keep, MessageKind, PartialFrame, PartialMessage, Pending};
use super::unmask::unmask;
use super::utf8::InvalidUtf8;
use super::{Compression, State, WebSocket, refuse};
use crate::auth::{ShowError, Shown};
use crate::certain;
use crate::config::ClientPublish;
use crate::config::limits::{COMMAND_WORK, CONTROL_BYTES_MAX, INFLATED_BYTES_PER_WORK};
use crate::context::Context;
use crate::deflate::{InflateError, deflated_bytes_max};
use crate::effect::{
    Acknowledgement, Audience, CloseReason, Effect, Join, Leave, Origin, Reference,
};
use crate::frame::websocket::{Opcode, push_frame};
use crate::id::ChannelName;
use crate::transport::Flow;

/// A ping is answered immediately if the control queue has fewer bytes than this. Otherwise, only
/// the newest ping is answered, when the queue has room again (RFC 6455, 5.5.3, allows this).
/// Without this rule, a client that sends pings and does not read could fill the queue.
const PONG_BACKLOG_BYTES: usize = 4096;

impl WebSocket {
    pub(in crate::transport) fn handle_bytes(
        &mut self,
        bytes: &mut [u8],
        out: &mut Vec<u8>,
        context: &mut Context<'_>,
    ) -> Flow {
        self.answer_postponed_ping(out);
        match self.take_unhandled() {
            None => self.take_parts(bytes, out, context),
            Some(mut unhandled) => {
                unhandled.extend_from_slice(bytes);
                self.take_parts(&mut unhandled, out, context);
            }
        }
        self.release_pending();
        self.flow()
    }

    fn take_unhandled(&mut self) -> Option<Vec<u8>> {
        let unhandled = &mut self.pending.as_mut()?.unhandled;
        (!unhandled.is_empty()).then(|| std::mem::take(unhandled))
    }

    /// Handles the input until the budget of work is used up. The rest of the input is kept for a
    /// later call.
    fn take_parts(&mut self, bytes: &mut [u8], out: &mut Vec<u8>, context: &mut Context<'_>) {
        let mut rest = bytes;
        while !rest.is_empty() && !matches!(self.state, State::Ended(_)) {
            if context.work.is_spent() {
                self.pending().unhandled = rest.to_vec();
                break;
            }
            context.work.spend(1);
            match self.take_part(rest, out, context) {
                Ok(after) => rest = after,
                Err(fault) => {
                    self.fail(fault, out, context);
                    break;
                }
            }
        }
    }

    /// Ends the conn because the client broke a rule. If the server has already sent a close frame,
    /// the close reason does not change.
    fn fail(&mut self, fault: Fault, out: &mut Vec<u8>, context: &mut Context<'_>) {
        match self.state {
            State::Open => {
                close::push_close(fault.close_code(), fault, out, context);
                self.state = State::Ended(fault.close_reason());
                if let Fault::TooManyAnswers = fault {
                    context.ask(Effect::NoteUnsentAnswers);
                }
            }
            State::Closing(reason) => self.state = State::Ended(reason),
            State::Ended(_) => {}
        }
    }

    /// Reads a header or continues a frame, handles the available part of its payload, and returns
    /// the rest of the input.
    fn take_part<'bytes>(
        &mut self,
        bytes: &'bytes mut [u8],
        out: &mut Vec<u8>,
        context: &mut Context<'_>,
    ) -> Result<&'bytes mut [u8], Fault> {
        let Some((mut frame, bytes)) = self.take_frame(bytes, context)? else {
            return Ok(&mut []);
        };
        let length = certain::to_usize(frame.remaining());
        let (payload, rest) = bytes.split_at_mut(length.min(bytes.len()));
        // The masking key repeats every four bytes.
        let offset = certain::to_usize(frame.received % 4);
        unmask(payload, frame.header.masking_key, offset);
        frame.received += payload.len() as u64;
        if frame.header.opcode.is_control() {
            self.take_control_part(&frame, payload, out, context)?;
        } else {
            self.take_data_part(&frame, payload, out, context)?;
        }
        if frame.remaining() > 0 {
            self.pending().frame = Some(frame);
        }
        if out.len() > CONTROL_BYTES_MAX {
            return Err(Fault::TooManyAnswers);
        }
        Ok(rest)
    }

    /// Returns the frame to which the bytes belong, and the bytes after its header. If the header
    /// is incomplete, keeps the bytes and returns `None`.
    fn take_frame<'bytes>(
        &mut self,
        bytes: &'bytes mut [u8],
        context: &mut Context<'_>,
    ) -> Result<Option<(PartialFrame, &'bytes mut [u8])>, Fault> {
        if let Some(frame) = self
            .pending
            .as_mut()
            .and_then(|pending| pending.frame.take())
        {
            return Ok(Some((frame, bytes)));
        }
        let rsv1 = match self.compression {
            Compression::Deflate => Rsv1::Compressed,
            Compression::None => Rsv1::Reserved,
        };
        let parsed = match self
            .pending
            .as_mut()
            .filter(|pending| !pending.header.is_empty())
        {
            Some(pending) => pending.header.push(bytes, rsv1)?,
            None => match parse_header(bytes, rsv1)? {
                None => self.pending().header.push(bytes, rsv1)?,
                whole => whole,
            },
        };
        let Some((header, taken)) = parsed else {
            return Ok(None);
        };
        context.metrics.client_frames.increment();
        *context.frames += 1;
        let frame = PartialFrame {
            header,
            received: 0,
        };
        self.check_fits(&frame, context)?;
        let (_header, rest) = bytes.split_at_mut(taken.min(bytes.len()));
        Ok(Some((frame, rest)))
    }

    /// Checks whether a frame is allowed now (RFC 6455, 5.4). Only the header is used, so that no
    /// memory is reserved for a refused frame.
    fn check_fits(&self, frame: &PartialFrame, context: &Context<'_>) -> Result<(), Fault> {
        let (before, is_compressed) = match (frame.header.opcode, self.message()) {
            (Opcode::Close | Opcode::Ping | Opcode::Pong, _) => return Ok(()),
            (Opcode::Continuation, None) => return Err(Fault::ContinuationWithoutStart),
            (Opcode::Continuation, Some(message)) => (message.received, message.is_compressed()),
            (Opcode::Text | Opcode::Binary, Some(_)) => return Err(Fault::MessageInsideMessage),
            (Opcode::Text | Opcode::Binary, None) => (0, frame.header.is_compressed),
        };
        let limit = context.config.limits.client_message_bytes;
        let bytes_max = if is_compressed {
            deflated_bytes_max(limit)
        } else {
            u64::from(limit)
        };
        if before.saturating_add(frame.header.payload_bytes) > bytes_max {
            return Err(Fault::MessageTooBig { limit });
        }
        Ok(())
    }

    /// Accepts a part of a control frame, and handles the frame when it is complete.
    fn take_control_part(
        &mut self,
        frame: &PartialFrame,
        part: &[u8],
        out: &mut Vec<u8>,
        context: &mut Context<'_>,
    ) -> Result<(), Fault> {
        let opcode = frame.header.opcode;
        if frame.header.payload_bytes == part.len() as u64 {
            return self.handle_control(opcode, part, out, context);
        }
        let control = &mut self.pending().control;
        control.extend_from_slice(part);
        if frame.remaining() > 0 {
            return Ok(());
        }
        let payload = std::mem::take(control);
        self.handle_control(opcode, &payload, out, context)
    }

    fn handle_control(
        &mut self,
        opcode: Opcode,
        payload: &[u8],
        out: &mut Vec<u8>,
        context: &mut Context<'_>,
    ) -> Result<(), Fault> {
        match opcode {
            Opcode::Close => self.handle_close(payload, out, context)?,
            Opcode::Ping => self.handle_ping(payload, out),
            // A pong needs no handling, because any received byte counts as a sign of life.
            Opcode::Pong => {}
            Opcode::Continuation | Opcode::Text | Opcode::Binary => {
                debug_assert!(false, "not a control frame");
            }
        }
        Ok(())
    }

    fn handle_close(
        &mut self,
        body: &[u8],
        out: &mut Vec<u8>,
        context: &mut Context<'_>,
    ) -> Result<(), Fault> {
        let code = close::parse(body)?;
        match self.state {
            State::Open => {
                close::push_echo(code, out, context);
                self.state = State::Ended(CloseReason::Done);
            }
            State::Closing(reason) => self.state = State::Ended(reason),
            State::Ended(_) => {}
        }
        Ok(())
    }

    fn handle_ping(&mut self, payload: &[u8], out: &mut Vec<u8>) {
        if self.state != State::Open {
            return;
        }
        if out.len() < PONG_BACKLOG_BYTES {
            push_frame(Opcode::Pong, payload, out);
            return;
        }
        let pong = self.pending().pong.get_or_insert_default();
        pong.clear();
        pong.extend_from_slice(payload);
    }

    pub(super) fn answer_postponed_ping(&mut self, out: &mut Vec<u8>) {
        if self.state == State::Open
            && out.len() < PONG_BACKLOG_BYTES
            && let Some(payload) = self
                .pending
                .as_mut()
                .and_then(|pending| pending.pong.take())
        {
            push_frame(Opcode::Pong, &payload, out);
        }
    }

    /// Accepts a part of a data frame. A complete message in one frame is handled in place.
    fn take_data_part(
        &mut self,
        frame: &PartialFrame,
        part: &[u8],
        out: &mut Vec<u8>,
        context: &mut Context<'_>,
    ) -> Result<(), Fault> {
        let header = &frame.header;
        let is_whole_frame = header.payload_bytes == part.len() as u64;
        if is_whole_frame && header.is_final && self.message().is_none() {
            let kind = MessageKind::of(header.opcode);
            return match header.is_compressed {
                true => self.inflate_message(kind, part, out, context),
                false => self.handle_message(kind, part, out, context),
            };
        }
        match self.take_message_part(frame, part, context)? {
            Some(message) => self.handle_collected(message, out, context),
            None => Ok(()),
        }
    }

    /// Adds a part to the message in progress, or begins a new message. Returns the message if it
    /// is complete.
    fn take_message_part(
        &mut self,
        frame: &PartialFrame,
        part: &[u8],
        context: &Context<'_>,
    ) -> Result<Option<PartialMessage>, Fault> {
        let kind = MessageKind::of(frame.header.opcode);
        let keep = self.keep_of(kind, &frame.header, context);
        let slot = &mut self.pending().message;
        let message = slot.get_or_insert_with(|| PartialMessage::new(kind, keep));
        message.push(part)?;
        let is_complete = frame.remaining() == 0 && frame.header.is_final;
        Ok(slot.take_if(|_| is_complete))
    }

    /// Handles a complete message that was collected from several parts.
    fn handle_collected(
        &self,
        message: PartialMessage,
        out: &mut Vec<u8>,
        context: &mut Context<'_>,
    ) -> Result<(), Fault> {
        let (kind, is_compressed) = (message.kind, message.is_compressed());
        let payload = message.finish()?;
        match is_compressed {
            true => self.inflate_message(kind, &payload, out, context),
            false => self.handle_message(kind, &payload, out, context),
        }
    }

    /// Returns which bytes of a message must be kept until it is complete: text that may be a
    /// command, or compressed bytes.
    fn keep_of(&self, kind: MessageKind, first: &FrameHeader, context: &Context<'_>) -> Keep {
        let limit = context.config.limits.client_message_bytes;
        if first.is_compressed {
            return Keep::Compressed {
                bytes_max: certain::to_usize(deflated_bytes_max(limit)),
            };
        }
        if !self.has_subprotocol() || kind == MessageKind::Binary {
            return Keep::Nothing;
        }
        Keep::Payload {
            bytes_max: limit as usize,
        }
    }

    /// Inflates a complete message and handles the inflated message. An inflated message that
    /// exceeds the limit on messages is a fault.
    fn inflate_message(
        &self,
        kind: MessageKind,
        compressed: &[u8],
        out: &mut Vec<u8>,
        context: &mut Context<'_>,
    ) -> Result<(), Fault> {
        let limit = context.config.limits.client_message_bytes;
        let inflated = context.inflater.inflate(compressed, limit as usize);
        let message = inflated.map_err(|error| match error {
            InflateError::Broken => Fault::InvalidDeflate,
            InflateError::TooLong => Fault::MessageTooBig { limit },
        })?;
        context.metrics.client_messages_inflated.increment();
        let work = message.len() / INFLATED_BYTES_PER_WORK;
        context.work.spend(certain::to_u32(work));
        let handled = self.handle_message(kind, &message, out, context);
        context.inflater.recycle(message);
        handled
    }

    fn handle_message(
        &self,
        kind: MessageKind,
        payload: &[u8],
        out: &mut Vec<u8>,
        context: &mut Context<'_>,
    ) -> Result<(), Fault> {
        if self.has_subprotocol() {
            context.work.spend(COMMAND_WORK);
        }
        match kind {
            MessageKind::Binary if self.has_subprotocol() => {
                refuse(Refusal::BinaryMessage, None, out, context);
            }
            MessageKind::Binary => {}
            MessageKind::Text => {
                let text = simdutf8::basic::from_utf8(payload).map_err(|_where| InvalidUtf8)?;
                if self.has_subprotocol() {
                    handle_command(text, out, context)?;
                }
            }
        }
        Ok(())
    }

    fn pending(&mut self) -> &mut Pending {
        self.pending.get_or_insert_default()
    }

    fn message(&self) -> Option<&PartialMessage> {
        self.pending.as_ref()?.message.as_ref()
    }
}

/// Executes a command: returns an effect to the worker, or writes an answer.
fn handle_command(text: &str, out: &mut Vec<u8>, context: &mut Context<'_>) -> Result<(), Fault> {
    let command = match message::parse(text) {
        Ok(command) => command,
        Err(refused) => {
            refuse(refused.refusal, refused.reference.as_ref(), out, context);
            return Ok(());
        }
    };
    let reference = command.reference;
    let may_wait = matches!(command.action, Action::Authenticate { .. } | Action::Ping);
    if !may_wait && context.access.is_waiting() {
        refuse(Refusal::NotAuthenticated, reference.as_ref(), out, context);
        return Ok(());
    }
    let effect = match command.action {
        Action::Authenticate { token } => {
            return authenticate(&token, reference.as_ref(), out, context);
        }
        Action::Ping => {
            message::push_pong(reference.as_ref(), out);
            return Ok(());
        }
        Action::Acknowledge { channel, id } => Effect::Acknowledge(Acknowledgement {
            channel,
            id,
            reference,
        }),
        Action::Unsubscribe { channel } => Effect::Leave(Leave { channel, reference }),
        Action::Presence { channel } if may_count(&channel, context) => {
            Effect::Count { channel, reference }
        }
        Action::Subscribe {
            channel,
            since,
            window,
        } if may_subscribe(&channel, context) => Effect::Join(Join {
            channels: vec![channel],
            since,
            window,
            origin: Origin::Command(reference),
        }),
        Action::Publish {
            channel,
            data,
            dedupe,
            traceparent,
        } => match publish_audience(&channel, context) {
            Some(audience) => Effect::Publish {
                channel,
                data,
                dedupe,
                reference,
                audience,
                traceparent,
                sub: None,
            },
            None => {
                refuse(Refusal::NotAllowed, reference.as_ref(), out, context);
                return Ok(());
            }
        },
        Action::Presence { .. } | Action::Subscribe { .. } => {
            refuse(Refusal::NotAllowed, reference.as_ref(), out, context);
            return Ok(());
        }
    };
    context.ask(effect);
    Ok(())
}

fn may_subscribe(channel: &ChannelName, context: &Context<'_>) -> bool {
    context.access.may_subscribe(channel, context.config)
}

fn may_count(channel: &ChannelName, context: &Context<'_>) -> bool {
    context.config.client_rules(channel).presence && may_subscribe(channel, context)
}

/// Returns the receivers of a client's publications to a channel; `None` if the client may not
/// publish.
fn publish_audience(channel: &ChannelName, context: &Context<'_>) -> Option<Audience> {
    let audience = match context.config.client_rules(channel).publish {
        ClientPublish::Off => return None,
        ClientPublish::Broadcast => Audience::Subscribers,
        ClientPublish::Consume => Audience::Consumers,
    };
    let may_publish = context.access.may_publish(channel, context.config);
    may_publish.then_some(audience)
}

/// Checks a token. An invalid token ends the conn, so that a client cannot cause many
/// verifications.
fn authenticate(
    token: &str,
    reference: Option<&Reference>,
    out: &mut Vec<u8>,
    context: &mut Context<'_>,
) -> Result<(), Fault> {
    let shown = match context.access.show(token, context.now) {
        Ok(shown) => shown,
        Err(ShowError::Token(error)) => {
            context.metrics.tokens_refused.increment();
            context.ask(Effect::NoteRefusedToken(error.code()));
            return Err(Fault::Token(error));
        }
        Err(ShowError::Off | ShowError::OtherSub) => {
            refuse(Refusal::NotAllowed, reference, out, context);
            return Ok(());
        }
        Err(ShowError::TooSoon) => {
            refuse(Refusal::Busy, reference, out, context);
            return Ok(());
        }
    };
    context.metrics.tokens_accepted.increment();
    // The timer is set for the next heartbeat. If the token expires earlier, the worker sets the
    // timer for that time.
    let interval = context.config.heartbeat.interval();
    context.ask(Effect::SetTimer(context.now.after(interval)));
    let effect = match shown {
        Shown::First(join) => {
            let mut channels = join.channels.iter();
            if !channels.all(|channel| may_subscribe(channel, context)) {
                context.ask(Effect::NoteRefusedToken("not_allowed"));
                return Err(Fault::NotAllowed);
            }
            Effect::Join(join)
        }
        Shown::Next => Effect::DropUnauthorized,
    };
    message::push_ok(None, reference, out);
    context.ask(effect);
    Ok(())
}
