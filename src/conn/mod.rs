//! One connection's machine: request after request, polls among them, then perhaps a stream, then
//! the end.
//!
//! Composes `http` and `transport`; bytes, the time and what became of a wish go in, bytes for the
//! peer go to the [`Outbox`], and everything else is asked for as an effect. Never touches a
//! socket, a clock or the hub; the worker calls it and applies what it asks.
//!
//! An idle conn owns nothing beyond its slot: a partial request head and the outbox are boxed and
//! exist only while non-empty.
#![cfg_attr(not(test), deny(clippy::indexing_slicing))]
#![warn(clippy::wildcard_enum_match_arm)]

mod outbox;
mod phase;
mod poll_phase;
mod proxied;
mod request;

use std::time::Duration;

pub use outbox::{Drained, Outbox};
use phase::{Partial, Phase, Stage};

use crate::auth::Due;
use crate::backend::{BackendMessage, CloseInfo, Delivery};
use crate::config::limits::{
    ANSWER_BYTES_PAUSE, CONTROL_BYTES_MAX, DIRECT_BYTES_MAX, LINGER_MS, READ_BUFFER_BYTES,
    STREAM_READ_BYTES,
};
use crate::effect::{Acknowledgement, CloseReason, ConnClass, Context, Effect, Join, Leave};
use crate::frame::FrameKind;
use crate::http::origin::Reader;
use crate::http::{self, Refusal};
use crate::hub::{Acknowledged, Gap, JoinOutcome};
use crate::id::{ChannelName, Cursor};
use crate::metrics::WorkerMetrics;
use crate::proxy::TooMany;
use crate::time::{Deadline, Now};
use crate::transport::{Flow, Goodbye, Transport};

/// One accepted socket's state, without the socket.
#[derive(Debug)]
pub struct Conn {
    phase: Phase,
    outbox: Outbox,
    /// When the peer last showed that it is there, in milliseconds of the worker's running clock,
    /// wrapping.
    life_ms: u32,
    ping: Ping,
    class: ConnClass,
    /// The peer has sent FIN: it may still read, and sends no more.
    is_peer_done: bool,
}

const _: () = assert!(size_of::<Conn>() <= 40);

/// Where the ping is that the peer has to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ping {
    /// The peer has shown life since the last one, or none was sent.
    Answered,
    /// It waits for the socket to take it, which is not the peer's silence.
    Queued,
    /// The kernel has it. When the timer fires next, the peer has had a full interval.
    Sent,
}

/// How a conn stands when its timer fires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendState {
    /// The socket takes nothing, and something waits.
    Blocked,
    /// Nothing waits, and the log's head is the client's position.
    CaughtUp,
    /// Something waits and the socket may take it, or a window holds it back, or the client is
    /// ahead of the log.
    Pending,
}

impl Conn {
    /// A conn that waits for its first request.
    #[must_use]
    pub fn new(now: Now) -> Self {
        Self::at(Stage::Fresh, now)
    }

    /// A conn that waits for a header of the PROXY protocol, and then for its first request.
    #[must_use]
    pub fn proxied(now: Now) -> Self {
        Self::at(Stage::Proxied, now)
    }

    fn at(stage: Stage, now: Now) -> Self {
        Self {
            phase: Phase::Request {
                partial: None,
                stage,
            },
            outbox: Outbox::default(),
            life_ms: millis(now),
            ping: Ping::Answered,
            class: ConnClass::Arriving,
            is_peer_done: false,
        }
    }

    /// The conn has been accepted. Its head has to come in time.
    pub fn handle_accepted(&self, context: &mut Context<'_>) {
        context.ask(Effect::SetTimer(
            context.now.after(context.config.limits.request_head()),
        ));
    }

    /// What is on its way out.
    #[must_use]
    pub fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    /// What is on its way out, for flush to move on.
    pub fn outbox_mut(&mut self) -> &mut Outbox {
        &mut self.outbox
    }

    /// How the conn is served, while it is.
    #[must_use]
    pub fn serving(&self) -> Option<FrameKind> {
        match &self.phase {
            Phase::Stream {
                transport,
                closing: None,
            } => Some(transport.frame_kind()),
            Phase::Poll { poll, .. } => Some(poll.frame_kind()),
            Phase::Request { .. } | Phase::Stream { .. } | Phase::Ending { .. } => None,
        }
    }

    /// Whether it is a stream, until its end has been settled.
    #[must_use]
    pub fn is_stream(&self) -> bool {
        matches!(self.phase, Phase::Stream { .. })
    }

    /// What the worker counts it as.
    #[must_use]
    pub fn class(&self) -> ConnClass {
        self.class
    }

    /// Changes the class, and tells the worker if that is a change.
    fn set_class(&mut self, class: ConnClass, context: &mut Context<'_>) {
        let before = std::mem::replace(&mut self.class, class);
        if before != class {
            context.ask(Effect::Reclassify { before, class });
        }
    }

    /// Whether the class is that of the phase.
    fn is_class_right(&self) -> bool {
        match &self.phase {
            Phase::Request {
                stage: Stage::Proxied | Stage::Skipping { .. } | Stage::Fresh,
                ..
            } => matches!(self.class, ConnClass::Arriving | ConnClass::Silent),
            Phase::Stream {
                transport: Transport::WebSocket(_),
                closing: None,
            } => self.class == ConnClass::WebSocket,
            Phase::Request { .. }
            | Phase::Poll { .. }
            | Phase::Stream { .. }
            | Phase::Ending { .. } => self.class == ConnClass::Other,
        }
    }

    /// Whether it is a stream that ends when the peer has been given what it is owed now.
    #[must_use]
    pub fn ends_when_served(&self) -> bool {
        let is_open = matches!(self.phase, Phase::Stream { closing: None, .. });
        self.is_peer_done && is_open && self.outbox.is_empty()
    }

    /// Whether what comes next is a request.
    #[must_use]
    pub fn takes_requests(&self) -> bool {
        matches!(self.phase, Phase::Request { .. })
    }

    /// Whether a header of the PROXY protocol is yet to come.
    #[must_use]
    pub fn is_proxied(&self) -> bool {
        matches!(
            self.phase,
            Phase::Request {
                stage: Stage::Proxied | Stage::Skipping { .. },
                ..
            }
        )
    }

    /// Whether goodbye has been said.
    #[must_use]
    pub fn is_ending(&self) -> bool {
        match &self.phase {
            Phase::Ending { .. }
            | Phase::Stream {
                closing: Some(_), ..
            } => true,
            Phase::Request { .. } | Phase::Poll { .. } | Phase::Stream { closing: None, .. } => {
                false
            }
        }
    }

    /// How many bytes may be read from the socket now. Zero while answers wait to be taken: a
    /// client that does not read is not read.
    #[must_use]
    pub fn read_bytes_max(&self, request_head_bytes: u32) -> usize {
        match &self.phase {
            Phase::Request {
                partial,
                stage: Stage::Proxied,
            } => proxied::bytes_to_come(partial.as_deref()),
            Phase::Request {
                stage: Stage::Skipping { left },
                ..
            } => usize::from(*left),
            Phase::Request { .. } if !self.outbox.is_empty() => 0,
            Phase::Request { partial, .. } | Phase::Poll { partial, .. } => {
                let kept = partial.as_ref().map_or(0, |partial| partial.bytes.len());
                (request_head_bytes as usize).saturating_sub(kept)
            }
            Phase::Stream { .. } if self.outbox.control_bytes() >= ANSWER_BYTES_PAUSE => 0,
            Phase::Stream { .. } => STREAM_READ_BYTES as usize,
            Phase::Ending { .. } => READ_BUFFER_BYTES as usize,
        }
    }

    /// Whether bytes that were read before wait in the machine, and may be handled now: by a call
    /// of [`Conn::handle_bytes`] without further bytes.
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
            Phase::Poll { .. } | Phase::Ending { .. } => false,
        }
    }

    /// The socket took bytes. For all but a WebSocket this is the only sign of life there is; that
    /// one has to show more, unless the socket had been full, since then the peer has read.
    pub fn handle_written(&mut self, now: Now, was_blocked: bool) {
        let is_life = match &self.phase {
            Phase::Stream { transport, .. } => was_blocked || !transport.expects_pong(),
            Phase::Request { .. } | Phase::Poll { .. } | Phase::Ending { .. } => true,
        };
        if is_life {
            self.life_ms = millis(now);
        }
    }

    /// The conn was not read for a while, which is not the peer's silence.
    pub fn handle_resumed(&mut self, now: Now) {
        self.note_life(now);
    }

    /// The peer has shown that it is there. A peer that has to take an answer, or the last bytes,
    /// shows that by taking them only.
    fn note_life(&mut self, now: Now) {
        let is_over = matches!(self.phase, Phase::Ending { .. });
        if !is_over && !self.outbox.has_answer() {
            self.life_ms = millis(now);
            self.ping = Ping::Answered;
        }
    }

    /// A round that began after the conn was accepted is over, and its first request head is not
    /// complete.
    pub fn handle_silent(&mut self, context: &mut Context<'_>) {
        if self.class == ConnClass::Arriving {
            self.set_class(ConnClass::Silent, context);
        }
    }

    /// Bytes came from the peer, after those that wait. They are unmasked in place. What the budget
    /// for work does not cover waits too.
    pub fn handle_bytes(&mut self, bytes: &mut [u8], out: &mut Vec<u8>, context: &mut Context<'_>) {
        self.note_life(context.now);
        match &mut self.phase {
            Phase::Request {
                partial,
                stage: Stage::Proxied,
            } => {
                Partial::push(partial, bytes);
                self.handle_proxy_header(context);
            }
            Phase::Request {
                stage: Stage::Skipping { .. },
                ..
            } => self.skip_extensions(bytes, context),
            Phase::Request { partial, .. } => match partial.take() {
                Some(mut partial) => {
                    partial.bytes.extend_from_slice(bytes);
                    self.handle_requests(&mut partial.bytes, out, context);
                }
                None => self.handle_requests(bytes, out, context),
            },
            Phase::Poll { partial, .. } => Partial::push(partial, bytes),
            Phase::Stream { transport, .. } => {
                let flow = transport.handle_bytes(bytes, out, context);
                self.follow(flow, context);
            }
            Phase::Ending { .. } => {}
        }
        self.settle(out, context);
    }

    /// The peer sends no more, and may still read: what it has asked for is answered (RFC 9112,
    /// 9.6). True if the end is to be met once more: what came before it has to be answered first.
    ///
    /// A stream is not ended here: it is owed what the log has for it. See
    /// [`Conn::ends_when_served`].
    pub fn handle_eof(&mut self, out: &mut Vec<u8>, context: &mut Context<'_>) -> bool {
        let is_met_again = matches!(self.phase, Phase::Poll { .. });
        self.is_peer_done = true;
        match &mut self.phase {
            // A conn is not read while a response waits; were it, the response would go first.
            Phase::Request { .. } if !self.outbox.is_empty() => {
                self.end(CloseReason::Done, context);
            }
            Phase::Request {
                partial: None,
                stage: Stage::Served,
            } => {
                context.ask(Effect::Close(CloseReason::Done));
            }
            Phase::Request { .. } => context.ask(Effect::Close(CloseReason::PeerGone)),
            // Who has sent the last request may still read, and has nothing to wait for.
            Phase::Poll { poll, partial } => {
                let reason = partial.is_none().then_some(CloseReason::Done);
                poll.handle_end(reason, context);
            }
            Phase::Stream { closing: None, .. } => {}
            // It cannot answer our goodbye any more.
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
        is_met_again
    }

    /// The armed deadline has come.
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
                // The client has taken what was written, and the rest is for the server to write.
                SendState::CaughtUp | SendState::Pending => {
                    let deadline = context.now.after(context.config.limits.request_head());
                    context.ask(Effect::SetTimer(deadline));
                }
            },
            Phase::Poll { poll, .. } => poll.handle_end(None, context),
            Phase::Request {
                stage: Stage::Proxied | Stage::Skipping { .. },
                ..
            } => context.ask(Effect::Close(CloseReason::BadProxyHeader)),
            Phase::Request {
                partial: Some(_), ..
            } => {
                let refusal = Refusal::HeadTimeout;
                let response = http::response::turn_away(refusal, context.date);
                out.extend_from_slice(&response.bytes);
                self.end(CloseReason::HeadTimeout, context);
            }
            Phase::Request {
                partial: None,
                stage,
            } => {
                let reason = match stage {
                    Stage::Served => CloseReason::Done,
                    Stage::Proxied | Stage::Skipping { .. } | Stage::Fresh => {
                        CloseReason::HeadTimeout
                    }
                };
                context.ask(Effect::Close(reason));
            }
            Phase::Stream { closing: None, .. } => self.beat(send_state, out, context),
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

    /// Everything in the outbox has been written.
    pub fn handle_drained(&mut self, out: &mut Vec<u8>, context: &mut Context<'_>) {
        match &mut self.phase {
            Phase::Request { .. } => {
                // The next request has its time from now on.
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
            Phase::Poll { .. } | Phase::Ending { .. } => {}
        }
        self.settle(out, context);
    }

    /// What became of a wish to subscribe.
    pub fn handle_joined(
        &mut self,
        join: &Join,
        outcomes: &[JoinOutcome],
        out: &mut Vec<u8>,
        context: &mut Context<'_>,
    ) {
        let is_refused = outcomes.contains(&JoinOutcome::ServerFull);
        match &mut self.phase {
            // Its request is not answered yet, and it could not be told later.
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
            Phase::Request { .. } | Phase::Stream { .. } | Phase::Ending { .. } => {}
        }
        self.settle(out, context);
    }

    /// What became of a wish to unsubscribe.
    pub fn handle_left(
        &mut self,
        leave: &Leave,
        was_subscribed: bool,
        out: &mut Vec<u8>,
        context: &mut Context<'_>,
    ) {
        if let Some(transport) = self.open_transport() {
            transport.handle_left(leave, was_subscribed, out, context);
        }
        self.settle(out, context);
    }

    /// What became of an acknowledgement.
    pub fn handle_acknowledged(
        &mut self,
        what: &Acknowledgement,
        outcome: Acknowledged,
        out: &mut Vec<u8>,
        context: &mut Context<'_>,
    ) {
        if let Some(transport) = self.open_transport() {
            transport.handle_acknowledged(what, outcome, out, context);
        }
        self.settle(out, context);
    }

    /// Something is missing in a channel and the client has to be told.
    pub fn handle_gap(
        &mut self,
        channel: &ChannelName,
        gap: &Gap,
        out: &mut Vec<u8>,
        context: &mut Context<'_>,
    ) {
        if let Some(transport) = self.open_transport() {
            transport.handle_gap(channel, gap, out, context);
        }
        self.settle(out, context);
    }

    /// The client has received all known gaps. With them it has everything up to a position.
    pub fn handle_gaps_sent(
        &mut self,
        reached: Cursor,
        out: &mut Vec<u8>,
        context: &mut Context<'_>,
    ) {
        if let Some(transport) = self.open_transport() {
            transport.handle_gaps_sent(reached, out);
        }
        self.settle(out, context);
    }

    /// The backend, or the feed in answer to a command, has something for this conn alone. Only a
    /// stream that is open can be told.
    pub fn handle_backend_message(
        &mut self,
        message: &BackendMessage,
        out: &mut Vec<u8>,
        context: &mut Context<'_>,
    ) -> Delivery {
        let Some(transport) = self.open_transport() else {
            return Delivery::NoConn;
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

    /// The conn is over its quota and the policy is to close it.
    pub fn handle_overflow(&mut self, out: &mut Vec<u8>, context: &mut Context<'_>) {
        if let Phase::Poll { poll, .. } = &mut self.phase {
            poll.handle_end(Some(CloseReason::Overflow), context);
        }
        self.say_goodbye(Goodbye::Overflow, out, context);
        self.settle(out, context);
    }

    /// The peer has sent FIN and has been given everything: the stream ends.
    pub fn handle_served(&mut self, out: &mut Vec<u8>, context: &mut Context<'_>) {
        self.say_goodbye(Goodbye::PeerDone, out, context);
        self.settle(out, context);
    }

    /// It has subscribed to nothing for longer than it may.
    pub fn handle_subscribe_timeout(&mut self, out: &mut Vec<u8>, context: &mut Context<'_>) {
        self.say_goodbye(Goodbye::NoSubscription, out, context);
        self.settle(out, context);
    }

    /// The backend ends whatever the conn has by its token.
    pub fn handle_revoked(
        &mut self,
        close_info: &CloseInfo,
        out: &mut Vec<u8>,
        context: &mut Context<'_>,
    ) {
        if let Phase::Poll { poll, .. } = &mut self.phase {
            poll.handle_end(Some(CloseReason::Disconnected), context);
        }
        self.say_goodbye(Goodbye::Disconnect(close_info), out, context);
        self.settle(out, context);
    }

    /// The server stops.
    pub fn handle_shutdown(&mut self, out: &mut Vec<u8>, context: &mut Context<'_>) {
        match &mut self.phase {
            Phase::Request {
                partial: Some(_),
                stage: Stage::Fresh | Stage::Served,
            } if self.outbox.is_empty() => {
                let wait_s = context.retry_after_s();
                let refusal = Refusal::Restarting;
                let response =
                    http::response::put_off(refusal, Reader::SameOrigin, wait_s, context.date);
                out.extend_from_slice(&response.bytes);
                self.end(CloseReason::Shutdown, context);
            }
            Phase::Request { .. } if self.outbox.is_empty() => {
                context.ask(Effect::Close(CloseReason::Shutdown));
            }
            Phase::Poll { poll, .. } => poll.handle_end(Some(CloseReason::Shutdown), context),
            Phase::Request { .. } => self.end(CloseReason::Shutdown, context),
            Phase::Stream { closing: None, .. } => {
                self.say_goodbye(Goodbye::Shutdown, out, context);
            }
            Phase::Stream { .. } | Phase::Ending { .. } => {}
        }
        self.settle(out, context);
    }

    /// The peer's kernel has acknowledged all that was sent, and nothing from the peer waits to be
    /// read. A WebSocket gets its FIN, and with it one round trip more for the peer's close.
    pub fn handle_goodbye_acknowledged(&mut self, out: &mut Vec<u8>, context: &mut Context<'_>) {
        match self.phase {
            Phase::Stream {
                closing: Some(reason),
                ..
            } => self.end(reason, context),
            Phase::Ending {
                reason,
                has_sent_fin: true,
                ..
            } => context.ask(Effect::Close(reason)),
            Phase::Ending { .. }
            | Phase::Request { .. }
            | Phase::Poll { .. }
            | Phase::Stream { .. } => {}
        }
        self.settle(out, context);
    }

    /// The transport of a stream that has not been told goodbye.
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

    /// A heartbeat is due, or the peer has answered none for too long. A timer of its token is
    /// earlier, so its silence is not judged then.
    fn beat(&mut self, send_state: SendState, out: &mut Vec<u8>, context: &mut Context<'_>) {
        let interval = context.config.heartbeat.interval();
        let silent = u64::from(millis(context.now).wrapping_sub(self.life_ms));
        let silent = Duration::from_millis(silent);
        let Phase::Stream { transport, .. } = &mut self.phase else {
            return;
        };
        let due = context.access.take_due(context.now);
        match due {
            Some(Due::Late) => return self.say_goodbye(Goodbye::TokenMissing, out, context),
            Some(Due::Over) => return self.say_goodbye(Goodbye::TokenExpired, out, context),
            Some(Due::Soon(left)) => transport.handle_expiring(left, out),
            None => {}
        }
        let has_gone = self.ping == Ping::Sent || send_state == SendState::Blocked;
        if has_gone && due.is_none() && silent >= interval * 2 {
            return self.say_goodbye(Goodbye::Idle, out, context);
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

    fn say_goodbye(&mut self, goodbye: Goodbye<'_>, out: &mut Vec<u8>, context: &mut Context<'_>) {
        if let Some(transport) = self.open_transport() {
            let flow = transport.handle_goodbye(goodbye, out, context);
            self.follow(flow, context);
        }
    }

    fn follow(&mut self, flow: Flow, context: &mut Context<'_>) {
        match flow {
            Flow::Open => {}
            // Nothing that the peer could answer will come.
            Flow::Closing(reason) if self.is_peer_done => self.end(reason, context),
            Flow::Closing(reason) => {
                if let Phase::Stream { closing, .. } = &mut self.phase
                    && closing.is_none()
                {
                    *closing = Some(reason);
                    self.set_class(ConnClass::Other, context);
                    context.ask(Effect::LeaveAll { is_stream: true });
                    context.ask(Effect::SetTimer(linger(context.now)));
                }
            }
            Flow::Ended(reason) => self.end(reason, context),
        }
    }

    /// Nothing is served any more; the outbox still goes out.
    fn end(&mut self, reason: CloseReason, context: &mut Context<'_>) {
        if let Some(gauge) = self.phase.gauge(context.metrics) {
            gauge.decrement();
        }
        if self.phase.is_subscribed() {
            let is_stream = self.is_stream();
            context.ask(Effect::LeaveAll { is_stream });
        }
        self.phase = Phase::Ending {
            reason,
            has_sent_fin: false,
        };
        self.set_class(ConnClass::Other, context);
        let deadline = match self.outbox.has_answer() {
            true => self.answer_deadline(context),
            false => linger(context.now),
        };
        context.ask(Effect::SetTimer(deadline));
    }

    /// The end of every call: what was said goes to the outbox, and a conn that has nothing more to
    /// say sends FIN.
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
            context.ask(Effect::Close(CloseReason::Overflow));
        }
    }

    /// The worker frees the conn: what it counted as open is open no more.
    pub fn handle_closed(&self, metrics: &WorkerMetrics) {
        if let Some(gauge) = self.phase.gauge(metrics) {
            gauge.decrement();
        }
    }
}

fn linger(now: Now) -> Deadline {
    now.after(Duration::from_millis(LINGER_MS))
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
