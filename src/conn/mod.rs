//! The state machine of one connection. A connection first serves requests and polls, then possibly
//! one stream, and then ends.
//!
//! The state machine combines `http` and `transport`. Its inputs are bytes, the time and the
//! outcomes of effects. It writes bytes for the peer to the [`Outbox`]; every other action is an
//! effect. The state machine never uses a socket, a clock or the hub: the worker calls it and
//! applies its effects.
//!
//! An idle conn owns no memory beyond its slot. A partial request head and the outbox are boxed,
//! and exist only while they are not empty.
#![cfg_attr(not(test), deny(clippy::indexing_slicing))]
#![warn(clippy::wildcard_enum_match_arm)]

mod ending;
mod outbox;
mod phase;
mod poll_phase;
mod proxied;
mod publish_phase;
mod request;

use std::time::Duration;

pub use outbox::{Drained, Outbox};
use phase::{Partial, Phase};

use crate::auth::Due;
use crate::backend::{BackendMessage, Delivery};
use crate::config::limits::{
    ANSWER_BYTES_PAUSE, CONTROL_BYTES_MAX, DIRECT_BYTES_MAX, READ_BUFFER_BYTES, STREAM_READ_BYTES,
};
use crate::context::Context;
use crate::effect::{CloseReason, ConnClass, ConnTransport, Effect, Join};
use crate::frame::FrameKind;
use crate::http::{self, Refusal};
use crate::hub::JoinOutcome;
use crate::metrics::WorkerMetrics;
use crate::proxy::TooMany;
use crate::time::Now;
use crate::transport::{Goodbye, StreamEvent, Transport};

/// The state of one accepted connection, without its socket.
#[derive(Debug)]
pub struct Conn {
    phase: Phase,
    outbox: Outbox,
    /// The time of the peer's last sign of life, in milliseconds modulo 2^32. It is measured on
    /// the clock that stops while the worker's thread does not run.
    life_ms: u32,
    ping: Ping,
    class: ConnClass,
    /// Whether the peer has sent FIN. Such a peer may still read, but sends nothing more.
    is_peer_done: bool,
}

const _: () = assert!(size_of::<Conn>() <= 40);

/// The state of the heartbeat's ping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ping {
    /// The peer has shown a sign of life after the last ping, or no ping was sent.
    Answered,
    /// The ping is in the outbox. The peer cannot answer it yet.
    Queued,
    /// The kernel has accepted the ping. When the timer fires next, the peer has had a full
    /// interval to answer.
    Sent,
}

/// The state of a conn's unsent bytes and publications when the conn's timer fires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendState {
    /// Bytes or publications wait to be sent, and the socket would block.
    Blocked,
    /// Nothing waits to be sent, and the client's position is the log's head.
    CaughtUp,
    /// Publications wait for the worker's next flush, or until the client acknowledges earlier
    /// ones. The state is also `Pending` if the client's position is after the last publication
    /// that the worker has processed.
    Pending,
}

impl Conn {
    /// Makes a conn that waits for its first request.
    #[must_use]
    pub fn new(now: Now) -> Self {
        let phase = Phase::Request {
            partial: None,
            is_first: true,
        };
        Self::at(phase, now)
    }

    /// Makes a conn that waits for a PROXY header, and then for its first request.
    #[must_use]
    pub fn proxied(now: Now) -> Self {
        let phase = Phase::ProxyHeader {
            partial: None,
            extensions_left: None,
        };
        Self::at(phase, now)
    }

    fn at(phase: Phase, now: Now) -> Self {
        Self {
            phase,
            outbox: Outbox::default(),
            life_ms: millis(now),
            ping: Ping::Answered,
            class: ConnClass::Arriving,
            is_peer_done: false,
        }
    }

    /// Starts the timer for the first request head.
    pub fn handle_accepted(&self, context: &mut Context<'_>) {
        context.ask(Effect::SetTimer(
            context.now.after(context.config.limits.request_head()),
        ));
    }

    /// Returns the bytes that wait to be written.
    #[must_use]
    pub fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    /// Returns the outbox, so that the flush can remove the bytes that it has written.
    pub fn outbox_mut(&mut self) -> &mut Outbox {
        &mut self.outbox
    }

    /// Returns the encoding of the publications for this conn; `None` if the conn is not a
    /// subscriber.
    #[must_use]
    pub fn serving(&self) -> Option<FrameKind> {
        match &self.phase {
            Phase::Stream {
                transport,
                closing: None,
            } => Some(transport.frame_kind()),
            Phase::Poll { poll, .. } => Some(poll.frame_kind()),
            Phase::ProxyHeader { .. }
            | Phase::Request { .. }
            | Phase::Publish { .. }
            | Phase::Stream { .. }
            | Phase::Ending { .. } => None,
        }
    }

    /// Whether the conn is a stream. Also true during the closing handshake.
    #[must_use]
    pub fn is_stream(&self) -> bool {
        matches!(self.phase, Phase::Stream { .. })
    }

    /// Returns what the conn is used for.
    #[must_use]
    pub fn transport(&self) -> ConnTransport {
        match &self.phase {
            Phase::Stream {
                transport: Transport::EventStream(_),
                ..
            } => ConnTransport::EventStream,
            Phase::Stream {
                transport: Transport::WebSocket(_),
                ..
            } => ConnTransport::WebSocket,
            Phase::Poll { .. } => ConnTransport::Poll,
            Phase::ProxyHeader { .. }
            | Phase::Request { .. }
            | Phase::Publish { .. }
            | Phase::Ending { .. } => ConnTransport::Request,
        }
    }

    /// Returns the time since the peer's last sign of life.
    #[must_use]
    pub fn silence(&self, now: Now) -> Duration {
        Duration::from_millis(millis(now).wrapping_sub(self.life_ms).into())
    }

    /// Returns the class in which the worker counts the conn.
    #[must_use]
    pub fn class(&self) -> ConnClass {
        self.class
    }

    /// Sets the class and reports the change to the worker, if the class is new.
    fn set_class(&mut self, class: ConnClass, context: &mut Context<'_>) {
        let before = std::mem::replace(&mut self.class, class);
        if before != class {
            context.ask(Effect::Reclassify { before, class });
        }
    }

    /// Whether the conn's class matches its phase. Only assertions call this function.
    fn is_class_right(&self) -> bool {
        match &self.phase {
            Phase::ProxyHeader { .. } | Phase::Request { is_first: true, .. } => {
                matches!(self.class, ConnClass::Arriving | ConnClass::Silent)
            }
            Phase::Stream {
                transport: Transport::WebSocket(_),
                closing: None,
            } => self.class == ConnClass::WebSocket,
            Phase::Request { .. }
            | Phase::Poll { .. }
            | Phase::Publish { .. }
            | Phase::Stream { .. }
            | Phase::Ending { .. } => self.class == ConnClass::Other,
        }
    }

    /// Whether the conn is a stream whose peer has sent FIN and whose outbox is empty. Such a
    /// stream ends as soon as all its pending publications have been sent.
    #[must_use]
    pub fn ends_when_served(&self) -> bool {
        let is_open = matches!(self.phase, Phase::Stream { closing: None, .. });
        self.is_peer_done && is_open && self.outbox.is_empty()
    }

    /// Whether the conn expects a PROXY header or a request as the peer's next bytes.
    #[must_use]
    pub fn takes_requests(&self) -> bool {
        matches!(
            self.phase,
            Phase::ProxyHeader { .. } | Phase::Request { .. }
        )
    }

    /// Whether the conn is still in the phase of its PROXY header.
    #[must_use]
    pub fn is_proxied(&self) -> bool {
        matches!(self.phase, Phase::ProxyHeader { .. })
    }

    /// Whether the conn is in the closing handshake of its stream, or is ending or ended.
    #[must_use]
    pub fn is_ending(&self) -> bool {
        match &self.phase {
            Phase::Ending { .. }
            | Phase::Stream {
                closing: Some(_), ..
            } => true,
            Phase::ProxyHeader { .. }
            | Phase::Request { .. }
            | Phase::Poll { .. }
            | Phase::Publish { .. }
            | Phase::Stream { closing: None, .. } => false,
        }
    }

    /// Returns the maximum number of bytes to read from the socket now. The number is zero while
    /// responses wait in the outbox. So the server does not read from a client that does not read
    /// its responses.
    #[must_use]
    pub fn read_bytes_max(&self, request_head_bytes: u32) -> usize {
        match &self.phase {
            Phase::ProxyHeader {
                partial,
                extensions_left: None,
            } => proxied::missing_bytes(partial.as_deref()),
            Phase::ProxyHeader {
                extensions_left: Some(left),
                ..
            } => usize::from(*left),
            Phase::Request { .. } if !self.outbox.is_empty() => 0,
            Phase::Publish { publishing, .. } if publishing.is_receiving() => {
                STREAM_READ_BYTES as usize
            }
            Phase::Request { partial, .. }
            | Phase::Poll { partial, .. }
            | Phase::Publish { partial, .. } => {
                let kept = partial.as_ref().map_or(0, |partial| partial.bytes.len());
                (request_head_bytes as usize).saturating_sub(kept)
            }
            Phase::Stream { .. } if self.outbox.control_bytes() >= ANSWER_BYTES_PAUSE => 0,
            Phase::Stream { .. } => STREAM_READ_BYTES as usize,
            Phase::Ending { .. } => READ_BUFFER_BYTES as usize,
        }
    }

    /// Whether the conn stores bytes that were read earlier and can be handled now. If so, the
    /// worker calls [`Conn::handle_bytes`] without new bytes.
    #[must_use]
    pub fn has_unhandled(&self) -> bool {
        match &self.phase {
            Phase::Request { partial, .. } => {
                let is_unhandled = partial.as_ref().is_some_and(|kept| kept.is_unhandled);
                is_unhandled && self.outbox.is_empty()
            }
            Phase::Stream { transport, .. } => {
                transport.has_unhandled() && self.outbox.control_bytes() < ANSWER_BYTES_PAUSE
            }
            Phase::ProxyHeader { .. }
            | Phase::Poll { .. }
            | Phase::Publish { .. }
            | Phase::Ending { .. } => false,
        }
    }

    /// Called when the socket has accepted bytes. On a WebSocket, this is a sign of life only if
    /// the socket was full before, because then the peer must have read bytes. On other conns,
    /// accepted bytes are always a sign of life.
    pub fn handle_written(&mut self, now: Now, was_blocked: bool) {
        let is_life = match &self.phase {
            Phase::Stream { transport, .. } => was_blocked || !transport.expects_pong(),
            Phase::ProxyHeader { .. }
            | Phase::Request { .. }
            | Phase::Poll { .. }
            | Phase::Publish { .. }
            | Phase::Ending { .. } => true,
        };
        if is_life {
            self.life_ms = millis(now);
        }
    }

    /// Called after a pause in which the worker did not read from the conn. The pause does not
    /// count as silence of the peer.
    pub fn handle_resumed(&mut self, now: Now) {
        self.note_life(now);
    }

    /// Records a sign of life of the peer. Does nothing while a poll's answer or the conn's last
    /// bytes are being sent. During that time, only write progress is a sign of life.
    fn note_life(&mut self, now: Now) {
        let is_over = matches!(self.phase, Phase::Ending { .. });
        if !is_over && !self.outbox.has_answer() {
            self.life_ms = millis(now);
            self.ping = Ping::Answered;
        }
    }

    /// Called when the worker has read everything that a new conn has sent so far. If the first
    /// request head is still incomplete, the conn's class becomes [`ConnClass::Silent`].
    pub fn handle_silent(&mut self, context: &mut Context<'_>) {
        if self.class == ConnClass::Arriving {
            self.set_class(ConnClass::Silent, context);
        }
    }

    /// Handles bytes from the peer. Bytes that the conn has stored earlier are handled first.
    /// Payloads are unmasked in place. Bytes that exceed the work budget are stored for a later
    /// call.
    pub fn handle_bytes(&mut self, bytes: &mut [u8], out: &mut Vec<u8>, context: &mut Context<'_>) {
        self.note_life(context.now);
        match &mut self.phase {
            Phase::ProxyHeader {
                partial,
                extensions_left: None,
            } => {
                Partial::push(partial, bytes);
                self.handle_proxy_header(context);
            }
            Phase::ProxyHeader { .. } => self.skip_extensions(bytes, context),
            Phase::Request { partial, .. } => match partial.take() {
                Some(mut partial) => {
                    partial.bytes.extend_from_slice(bytes);
                    self.handle_requests(&mut partial.bytes, out, context);
                }
                None => self.handle_requests(bytes, out, context),
            },
            Phase::Poll { partial, .. } => Partial::push(partial, bytes),
            Phase::Publish { .. } => self.handle_content(bytes, out, context),
            Phase::Stream { transport, .. } => {
                let flow = transport.handle_bytes(bytes, out, context);
                self.follow(flow, context);
            }
            Phase::Ending { .. } => {}
        }
        self.settle(out, context);
    }

    /// Handles the end of the peer's input. The peer may still read, so its requests are answered
    /// (RFC 9112, 9.6). Returns true if the conn serves a poll. Further requests may wait for its
    /// answer, so this function must be called again after the answer.
    ///
    /// A stream does not end here, because publications from the log may still have to be sent on
    /// it. See [`Conn::ends_when_served`].
    pub fn handle_eof(&mut self, out: &mut Vec<u8>, context: &mut Context<'_>) -> bool {
        let is_early = match &self.phase {
            Phase::Poll { .. } => true,
            Phase::Publish { publishing, .. } => !publishing.is_receiving(),
            Phase::ProxyHeader { .. }
            | Phase::Request { .. }
            | Phase::Stream { .. }
            | Phase::Ending { .. } => false,
        };
        self.is_peer_done = true;
        match &mut self.phase {
            // The response that waits in the outbox is sent before the conn ends.
            Phase::Request { .. } if !self.outbox.is_empty() => {
                self.end(CloseReason::Done, context);
            }
            Phase::Request {
                partial: None,
                is_first: false,
            } => {
                context.ask(Effect::Close(CloseReason::Done));
            }
            Phase::ProxyHeader { .. } | Phase::Request { .. } => {
                context.ask(Effect::Close(CloseReason::PeerGone));
            }
            Phase::Publish { publishing, .. } if publishing.is_receiving() => {
                context.ask(Effect::Close(CloseReason::PeerGone));
            }
            Phase::Publish { .. } => {}
            // The peer has sent its last request, so the poll is answered immediately.
            Phase::Poll { poll, partial } => {
                let reason = partial.is_none().then_some(CloseReason::Done);
                poll.handle_end(reason, context);
            }
            Phase::Stream { closing: None, .. } => {}
            // The peer can no longer answer the server's close frame.
            Phase::Stream {
                closing: Some(reason),
                ..
            } => {
                let reason = *reason;
                self.end(reason, context);
            }
            Phase::Ending {
                reason,
                has_sent_fin: true,
            } => context.ask(Effect::Close(*reason)),
            Phase::Ending { .. } => {}
        }
        self.settle(out, context);
        is_early
    }

    /// Called when the conn's timer fires.
    pub fn handle_timeout(
        &mut self,
        send_state: SendState,
        out: &mut Vec<u8>,
        context: &mut Context<'_>,
    ) {
        if self.is_answer_taken(context) {
            return context.ask(Effect::SetTimer(self.answer_deadline(context)));
        }
        match &mut self.phase {
            Phase::Request { .. } if !self.outbox.is_empty() => match send_state {
                SendState::Blocked => context.ask(Effect::Close(CloseReason::Idle)),
                // The socket has accepted all written bytes, so the server causes the delay, not
                // the client.
                SendState::CaughtUp | SendState::Pending => {
                    let deadline = context.now.after(context.config.limits.request_head());
                    context.ask(Effect::SetTimer(deadline));
                }
            },
            Phase::Poll { poll, .. } => poll.handle_end(None, context),
            Phase::Publish { publishing, .. } if publishing.is_receiving() => {
                let response =
                    http::response::refuse_connection(Refusal::HeadTimeout, context.date);
                self.refuse(&response, CloseReason::HeadTimeout, out, context);
            }
            // The feed has the publication, so the server causes the delay.
            Phase::Publish { .. } => {
                let deadline = context.now.after(context.config.heartbeat.interval());
                context.ask(Effect::SetTimer(deadline));
            }
            Phase::ProxyHeader { .. } => context.ask(Effect::Close(CloseReason::BadProxyHeader)),
            Phase::Request {
                partial: Some(_), ..
            } => {
                let refusal = Refusal::HeadTimeout;
                let response = http::response::refuse_connection(refusal, context.date);
                self.refuse(&response, CloseReason::HeadTimeout, out, context);
            }
            Phase::Request {
                partial: None,
                is_first,
            } => {
                let reason = match is_first {
                    true => CloseReason::HeadTimeout,
                    false => CloseReason::Done,
                };
                context.ask(Effect::Close(reason));
            }
            Phase::Stream { closing: None, .. } => self.check_heartbeat(send_state, out, context),
            Phase::Stream {
                closing: Some(reason),
                ..
            }
            | Phase::Ending { reason, .. } => {
                context.ask(Effect::Close(*reason));
            }
        }
        self.settle(out, context);
    }

    /// Called when everything in the outbox has been written.
    pub fn handle_drained(&mut self, out: &mut Vec<u8>, context: &mut Context<'_>) {
        match &mut self.phase {
            Phase::Request { .. } => {
                // The time limit for the next request head starts now.
                let deadline = context.now.after(context.config.limits.request_head());
                context.ask(Effect::SetTimer(deadline));
            }
            Phase::Stream { transport, .. } => {
                if self.ping == Ping::Queued {
                    self.ping = Ping::Sent;
                    let deadline = context.now.after(context.config.heartbeat.interval());
                    context.ask(Effect::SetTimer(deadline));
                }
                transport.handle_drained(out);
            }
            Phase::ProxyHeader { .. }
            | Phase::Poll { .. }
            | Phase::Publish { .. }
            | Phase::Ending { .. } => {}
        }
        self.settle(out, context);
    }

    /// Handles the outcome of [`Effect::Join`].
    pub fn handle_joined(
        &mut self,
        join: &Join,
        outcomes: &[JoinOutcome],
        out: &mut Vec<u8>,
        context: &mut Context<'_>,
    ) {
        let is_refused = outcomes.contains(&JoinOutcome::ServerFull);
        match &mut self.phase {
            // The refusal is sent as the response to the request, because the response head is not
            // written yet.
            Phase::Stream {
                transport: Transport::EventStream(stream),
                closing: None,
            } if is_refused => {
                let sharing = stream.sharing();
                self.refuse_joining(sharing, out, context);
            }
            Phase::Poll { poll, .. } if is_refused => {
                let sharing = poll.sharing();
                self.refuse_joining(sharing, out, context);
            }
            Phase::Stream {
                transport,
                closing: None,
            } => {
                let flow = transport.handle_joined(join, outcomes, out, context);
                self.follow(flow, context);
            }
            Phase::Poll { poll, .. } => poll.handle_joined(join, context),
            Phase::ProxyHeader { .. }
            | Phase::Request { .. }
            | Phase::Publish { .. }
            | Phase::Stream { .. }
            | Phase::Ending { .. } => {}
        }
        self.settle(out, context);
    }

    /// Passes an event to the stream, if the stream is open.
    pub fn handle_event(
        &mut self,
        event: StreamEvent<'_>,
        out: &mut Vec<u8>,
        context: &mut Context<'_>,
    ) {
        if let Some(transport) = self.open_transport() {
            transport.handle_event(event, out, context);
        }
        self.settle(out, context);
    }

    /// Sends a message of a backend, or the feed's answer to a command. Only an open stream can
    /// receive such a message, or a conn that waits for the outcome of its publication.
    pub fn handle_backend_message(
        &mut self,
        message: &BackendMessage,
        out: &mut Vec<u8>,
        context: &mut Context<'_>,
    ) -> Delivery {
        let Some(transport) = self.open_transport() else {
            return self.handle_publish_reply(message, out, context);
        };
        let flow = transport.handle_backend_message(message, out, context);
        let bytes = self.outbox.control_bytes() + out.len();
        if bytes > DIRECT_BYTES_MAX && matches!(message, BackendMessage::Payload(_)) {
            out.clear();
            return Delivery::Full;
        }
        self.follow(flow, context);
        self.settle(out, context);
        Delivery::Done
    }

    /// Returns the transport of a stream that is not closing.
    fn open_transport(&mut self) -> Option<&mut Transport> {
        if let Phase::Stream {
            transport,
            closing: None,
        } = &mut self.phase
        {
            return Some(transport);
        }
        None
    }

    /// Sends a heartbeat, or closes the stream if the peer has been silent for too long. If the
    /// timer has fired because of the conn's token, handles the token instead of checking how long
    /// the peer has been silent.
    fn check_heartbeat(
        &mut self,
        send_state: SendState,
        out: &mut Vec<u8>,
        context: &mut Context<'_>,
    ) {
        let interval = context.config.heartbeat.interval();
        let silent = self.silence(context.now);
        let Phase::Stream { transport, .. } = &mut self.phase else {
            debug_assert!(false, "only streams have heartbeats");
            return;
        };
        let due = context.access.take_due(context.now);
        match due {
            Some(Due::Late) => return self.send_goodbye(Goodbye::TokenMissing, out, context),
            Some(Due::Over) => return self.send_goodbye(Goodbye::TokenExpired, out, context),
            Some(Due::Soon(left)) => transport.handle_expiring(left, out),
            None => {}
        }
        let has_gone = self.ping == Ping::Sent || send_state == SendState::Blocked;
        if has_gone && due.is_none() && silent >= interval * 2 {
            return self.send_goodbye(Goodbye::Idle, out, context);
        }
        if silent >= interval / 2 && self.outbox.is_empty() {
            let is_caught_up = send_state == SendState::CaughtUp;
            transport.handle_heartbeat(is_caught_up, out, context);
            if transport.expects_pong() {
                self.ping = Ping::Queued;
            }
        }
        context.ask(Effect::SetTimer(context.now.after(interval)));
    }

    /// Moves the bytes in `out` to the outbox. Sends FIN if the conn is ending and its outbox is
    /// empty.
    fn settle(&mut self, out: &mut Vec<u8>, context: &mut Context<'_>) {
        self.outbox.append(out);
        out.clear();
        debug_assert!(
            self.is_class_right(),
            "{:?} in {:?}",
            self.class,
            self.phase
        );
        if let Phase::Ending {
            reason,
            has_sent_fin,
        } = &mut self.phase
            && !*has_sent_fin
            && self.outbox.is_empty()
        {
            *has_sent_fin = true;
            context.ask(Effect::ShutdownWrite);
            if self.is_peer_done {
                context.ask(Effect::Close(*reason));
            }
        }
        if self.serving().is_some() && self.outbox.control_bytes() > CONTROL_BYTES_MAX {
            context.ask(Effect::NoteUnsentAnswers);
            context.ask(Effect::Close(CloseReason::Overflow));
        }
    }

    /// Decrements the gauge that counts the conns in this phase. The worker frees the conn after
    /// this call.
    pub fn handle_closed(&self, metrics: &WorkerMetrics) {
        if let Some(gauge) = self.phase.gauge(metrics) {
            gauge.decrement();
        }
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "wraps after 49 days, and only differences count"
)]
fn millis(now: Now) -> u32 {
    (now.0 / 1000) as u32
}

#[cfg(test)]
mod tests;
