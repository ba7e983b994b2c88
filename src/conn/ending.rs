//! The end of a conn: the goodbye to a stream, the shutdown of the server, and the closing
//! handshakes of WebSocket and TCP.

use std::time::Duration;

use super::{Conn, Phase};
use crate::config::limits::LINGER_MS;
use crate::context::Context;
use crate::effect::{CloseReason, ConnClass, Effect};
use crate::http::origin::Reader;
use crate::http::{self, Refusal};
use crate::time::{Deadline, Now};
use crate::transport::{Flow, Goodbye};

impl Conn {
    /// Ends a stream, or answers a poll immediately and then closes its conn. For a shutdown, the
    /// worker calls [`Conn::handle_shutdown`], which ends a conn in any phase.
    pub fn handle_goodbye(
        &mut self,
        goodbye: Goodbye<'_>,
        out: &mut Vec<u8>,
        context: &mut Context<'_>,
    ) {
        if let Phase::Poll { poll, .. } = &mut self.phase {
            poll.handle_end(Some(goodbye.close_reason()), context);
        }
        if matches!(self.phase, Phase::Publish { .. }) {
            self.end(goodbye.close_reason(), context);
        }
        self.send_goodbye(goodbye, out, context);
        self.settle(out, context);
    }

    /// Ends the conn because the server stops.
    pub fn handle_shutdown(&mut self, out: &mut Vec<u8>, context: &mut Context<'_>) {
        match &mut self.phase {
            Phase::Request {
                partial: Some(_), ..
            } if self.outbox.is_empty() => {
                let wait_s = context.retry_after_s();
                let (refusal, reader) = (Refusal::Restarting, Reader::SameOrigin);
                let response =
                    http::response::refuse_for_now(refusal, reader, wait_s, context.date);
                self.refuse(&response, CloseReason::Shutdown, out, context);
            }
            Phase::Request { .. } if self.outbox.is_empty() => {
                context.ask(Effect::Close(CloseReason::Shutdown));
            }
            Phase::ProxyHeader { .. } => context.ask(Effect::Close(CloseReason::Shutdown)),
            Phase::Poll { poll, .. } => poll.handle_end(Some(CloseReason::Shutdown), context),
            Phase::Publish { publishing, .. } if publishing.is_receiving() => {
                let (reason, refusal) = (CloseReason::Shutdown, Refusal::Restarting);
                self.refuse_to_receive(reason, refusal, out, context);
            }
            // The feed still answers. The conn ends after the response.
            Phase::Publish { publishing, .. } => publishing.close_after(),
            Phase::Request { .. } => self.end(CloseReason::Shutdown, context),
            Phase::Stream { closing: None, .. } => {
                self.send_goodbye(Goodbye::Shutdown, out, context);
            }
            Phase::Stream { .. } | Phase::Ending { .. } => {}
        }
        self.settle(out, context);
    }

    /// Called when two conditions hold: the peer's kernel has acknowledged all sent bytes, and the
    /// worker has read all received bytes. On a WebSocket, FIN is sent now, so that the peer's
    /// close frame has one more round trip to arrive.
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
            | Phase::ProxyHeader { .. }
            | Phase::Request { .. }
            | Phase::Poll { .. }
            | Phase::Publish { .. }
            | Phase::Stream { .. } => {}
        }
        self.settle(out, context);
    }

    pub(super) fn send_goodbye(
        &mut self,
        goodbye: Goodbye<'_>,
        out: &mut Vec<u8>,
        context: &mut Context<'_>,
    ) {
        if let Some(transport) = self.open_transport() {
            let flow = transport.handle_goodbye(goodbye, out, context);
            self.follow(flow, context);
        }
    }

    pub(super) fn follow(&mut self, flow: Flow, context: &mut Context<'_>) {
        match flow {
            Flow::Open => {}
            // The peer has sent FIN, so it cannot answer the close frame.
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

    /// Ends the conn for a reason. The rest of the outbox is still sent. Further publications are
    /// not sent.
    pub(super) fn end(&mut self, reason: CloseReason, context: &mut Context<'_>) {
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
}

fn linger(now: Now) -> Deadline {
    now.after(Duration::from_millis(LINGER_MS))
}
