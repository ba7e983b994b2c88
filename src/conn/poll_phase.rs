//! The poll phase: the conn is a subscriber until its poll is answered.
//!
//! Later requests wait for the answer, within the limit on a request head. The outbox holds the
//! answer's publications by reference, so a conn whose peer reads slowly keeps these publications
//! in memory. Such a conn is closed after two heartbeat intervals without write progress.

use std::time::Duration;

use super::request::{admit, request_join};
use super::{Conn, Partial, Phase, millis};
use crate::auth::Warning;
use crate::context::Context;
use crate::effect::{AnsweredRequest, Effect};
use crate::http::PollRequest;
use crate::time::Deadline;
use crate::transport::poll_answer::{News, TAIL};
use crate::transport::{LongPoll, Poll, ShortPoll};

impl Conn {
    pub(super) fn open_poll(
        &mut self,
        request: PollRequest,
        rest: &[u8],
        context: &mut Context<'_>,
    ) {
        let PollRequest {
            channels,
            since,
            envelope,
            timeout,
            validators,
            sharing,
            after,
            entry,
        } = request;
        let poll = match timeout.is_zero() {
            true => {
                let (has, head) = (&validators, context.head);
                Poll::Short(ShortPoll::new(envelope, after, sharing, since, has, head))
            }
            false => Poll::Long(LongPoll::new(envelope, after, sharing)),
        };
        let mut partial = None;
        Partial::push(&mut partial, rest);
        let phase = Phase::Poll { poll, partial };
        let end = context.now.after(timeout);
        let join = request_join(channels, since, None);
        let join = admit(entry, join, Warning::None, context);
        self.open(phase, join, end, context);
    }

    /// Writes the poll's answer. After the answer, the conn waits for the next request or ends.
    pub fn handle_answer(&mut self, news: News, out: &mut Vec<u8>, context: &mut Context<'_>) {
        let Phase::Poll { poll, partial } = &mut self.phase else {
            return debug_assert!(false, "only polls are answered");
        };
        let (status, end) = poll.handle_answer(&news, out, context);
        let partial = partial.take();
        let publications = news.publications.len() as u64;
        self.outbox.append(out);
        out.clear();
        if !news.publications.is_empty() {
            self.outbox.append_answer(news.publications, TAIL);
        }
        if context.is_observed {
            context.ask(Effect::NoteAnswer(AnsweredRequest {
                status: status.code(),
                publications,
                bytes: self.outbox.bytes() as u64,
                reason: end,
            }));
        }
        self.life_ms = millis(context.now);
        match end {
            Some(reason) => self.end(reason, context),
            None => self.await_request(partial, context),
        }
    }

    fn await_request(&mut self, mut partial: Option<Box<Partial>>, context: &mut Context<'_>) {
        if let Some(partial) = &mut partial {
            partial.is_unhandled = true;
        }
        if let Some(gauge) = self.phase.gauge(context.metrics) {
            gauge.decrement();
        }
        context.ask(Effect::LeaveAll { is_stream: false });
        self.phase = Phase::Request {
            partial,
            is_first: false,
        };
        let deadline = match self.outbox.has_answer() {
            true => self.answer_deadline(context),
            false => context.now.after(context.config.limits.request_head()),
        };
        context.ask(Effect::SetTimer(deadline));
    }

    /// Whether a poll's answer is being sent, and the peer has accepted bytes recently enough.
    pub(super) fn is_answer_taken(&self, context: &Context<'_>) -> bool {
        self.outbox.has_answer() && !self.patience(context).is_zero()
    }

    /// Returns the time by which the peer must accept more bytes of an answer.
    pub(super) fn answer_deadline(&self, context: &Context<'_>) -> Deadline {
        context.now.after(self.patience(context))
    }

    /// Returns how long the peer may still be silent. The limit is two heartbeat intervals after
    /// the peer's last sign of life.
    fn patience(&self, context: &Context<'_>) -> Duration {
        let silent = u64::from(millis(context.now).wrapping_sub(self.life_ms));
        let limit = context.config.heartbeat.interval() * 2;
        limit.saturating_sub(Duration::from_millis(silent))
    }
}
