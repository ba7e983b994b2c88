//! The poll phase: a request that is a subscriber until it has its one answer.
//!
//! What comes behind it waits, within the limit on a request head. The answer's publications are in
//! the outbox by reference, so a slow reader holds on to them: it is given up when it has taken
//! nothing for two heartbeats.

use std::time::Duration;

use super::request::{enter, joining};
use super::{Conn, Partial, Phase, Stage, millis};
use crate::auth::Warning;
use crate::effect::{Context, Effect};
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
        let over = context.now.after(timeout);
        let join = joining(channels, since, None);
        let join = enter(entry, join, Warning::None, context);
        self.open(phase, join, over, context);
    }

    /// Everything that a poll is owed: its one answer, behind which the conn goes on with the next
    /// request, or ends.
    pub fn handle_answer(&mut self, news: News, out: &mut Vec<u8>, context: &mut Context<'_>) {
        let Phase::Poll { poll, partial } = &mut self.phase else {
            return;
        };
        let end = poll.handle_answer(&news, out, context);
        let partial = partial.take();
        self.outbox.append(out);
        out.clear();
        if !news.publications.is_empty() {
            self.outbox.append_answer(news.publications, TAIL);
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
            stage: Stage::Served,
        };
        let deadline = match self.outbox.has_answer() {
            true => self.answer_deadline(context),
            false => context.now.after(context.config.limits.request_head()),
        };
        context.ask(Effect::SetTimer(deadline));
    }

    /// Whether publications of an answer are on their way, and the peer takes them.
    pub(super) fn is_answer_taken(&self, context: &Context<'_>) -> bool {
        self.outbox.has_answer() && !self.patience(context).is_zero()
    }

    /// By when the peer has to take more of an answer.
    pub(super) fn answer_deadline(&self, context: &Context<'_>) -> Deadline {
        context.now.after(self.patience(context))
    }

    fn patience(&self, context: &Context<'_>) -> Duration {
        let silent = u64::from(millis(context.now).wrapping_sub(self.life_ms));
        let limit = context.config.heartbeat.interval() * 2;
        limit.saturating_sub(Duration::from_millis(silent))
    }
}
