//! apply: applies the effects that the conns' state machines return: to timers, the hub and the
//! sockets. No other module applies effects.

use super::Worker;
use super::wire::net::Net;
use crate::backend::ClientPublication;
use crate::effect::{Acknowledgement, Effect, Join, Leave, Window};
use crate::hub::{Acknowledged, JoinOutcome, Joined};
use crate::id::{ChannelName, ConnId};
use crate::time::Deadline;
use crate::transport::StreamEvent;
use crate::warnings::WarningKind;

impl<N: Net> Worker<N> {
    /// Applies the effects of one call to a conn's state machine, in order. The results of some
    /// effects are passed back to the state machine. These nested calls can return further effects,
    /// which are applied too.
    pub(super) fn apply(&mut self, id: ConnId) {
        if self.scratch.effects.is_empty() {
            return;
        }
        let mut effects = std::mem::take(&mut self.scratch.effects);
        for effect in effects.drain(..) {
            match effect {
                Effect::Acknowledge(acknowledgement) => self.acknowledge(id, &acknowledgement),
                Effect::Answer {
                    since,
                    is_up_to_date: true,
                } => self.answer_when_caught_up(id, since),
                Effect::Answer { since, .. } => self.answer(id, since),
                Effect::SetTimer(deadline) => self.arm(id, deadline),
                Effect::Close(reason) => self.close_when_sent(id, reason),
                Effect::IdentifyByForwardedHeader(client) => {
                    self.identify_by_forwarded_header(id, client);
                }
                Effect::IdentifyByProxyHeader(client) => self.identify_by_proxy_header(id, client),
                Effect::DropUnauthorized => self.drop_unauthorized(id),
                Effect::Count { channel, reference } => self.report_count(id, channel, reference),
                Effect::Join(join) => self.join(id, &join),
                Effect::Leave(leave) => self.leave(id, &leave),
                Effect::LeaveAll { is_stream } => self.leave_all(id, is_stream),
                Effect::NoteAnswer(answered) => self.log_answer(id, answered),
                Effect::NoteClose(code) => self.access_records.note_close(id.slot, code),
                Effect::NoteRequest(request) => self.note_request(id, request),
                Effect::NoteRefusedToken(code) => self.warn(id, WarningKind::TokenRefused, &code),
                Effect::NoteUnsentAnswers => {
                    let cause = "closed: too many answers to its commands were unsent";
                    self.warn(id, WarningKind::SlowReader, &cause);
                }
                Effect::Publish {
                    channel,
                    data,
                    dedupe,
                    reference,
                    audience,
                    traceparent,
                    sub,
                } => {
                    let publication = ClientPublication {
                        from: self.name(id),
                        sub: sub.or_else(|| self.access.sub(id.slot)),
                        channel,
                        data,
                        dedupe,
                        reference,
                        audience,
                        traceparent,
                    };
                    self.report_publication(id, publication);
                }
                Effect::Reclassify { before, class } => self.reclassify(id, before, class),
                Effect::ShutdownWrite => self.shutdown_write(id),
            }
        }
        // A nested call may have left a list with less capacity in `scratch.effects`. `effects`
        // replaces that list, so that its larger capacity is used again.
        self.scratch.effects = effects;
    }

    /// Sets a conn's timer to the given deadline, or to an earlier time in three cases: the conn's
    /// token expires earlier, the conn must subscribe earlier, or the conn must be sent its goodbye
    /// earlier during a drain.
    pub(super) fn arm(&mut self, id: ConnId, deadline: Deadline) {
        let is_ending = self.slot(id).is_some_and(|slot| slot.conn.is_ending());
        if is_ending && self.draining.is_some() {
            self.leaving.add(id, self.now);
        }
        let latest = self
            .draining
            .filter(|_| !is_ending)
            .map(|draining| draining.goodbye_by);
        let due = self.access.next_due(id.slot);
        let subscribes_by = self.pending.subscribes_by(id.slot);
        let earlier = [latest, due, subscribes_by].into_iter().flatten();
        self.wheel
            .arm(id.slot, earlier.fold(deadline, Deadline::min));
    }

    fn join(&mut self, id: ConnId, join: &Join) {
        let outcomes = self.subscribe_in_one_epoch(id, join);
        self.note_outcomes(id, &outcomes);
        if let Some(window) = join.window {
            self.set_windows(id, join, &outcomes, window);
        }
        if self.poll_kind(id).is_some() {
            self.keep_gaps(id, join, &outcomes);
        } else {
            self.notify_joined(id, join, &outcomes);
        }
        self.call(id, |conn, out, context| {
            conn.handle_joined(join, &outcomes, out, context);
        });
        if self.hub.is_behind(id.slot) {
            self.list_to_serve(id);
        }
    }

    fn note_outcomes(&mut self, id: ConnId, outcomes: &[JoinOutcome]) {
        let refused = outcomes
            .iter()
            .filter(|outcome| **outcome == JoinOutcome::ServerFull);
        let refused = refused.count();
        self.parts.metrics.subscriptions_refused.add(refused as u64);
        if refused > 0 {
            let cause = "no room for another channel (limits.channels)";
            self.warn(id, WarningKind::ServerFull, &cause);
        }
        if outcomes.iter().any(|outcome| outcome.joined().is_some()) {
            self.pending.forget_subscribes_by(id.slot);
        }
    }

    fn leave(&mut self, id: ConnId, leave: &Leave) {
        let was_subscribed = self.hub.unsubscribe(id.slot, &leave.channel);
        if was_subscribed {
            self.notify_left(id, &leave.channel);
        }
        self.call(id, |conn, out, context| {
            conn.handle_event(StreamEvent::Left(leave, was_subscribed), out, context);
        });
    }

    /// Ends all subscriptions of a conn, and removes the permissions that its token granted.
    /// Consumers receive notices only if the conn is a stream, because a poll subscribes again with
    /// each request.
    pub(super) fn leave_all(&mut self, id: ConnId, is_stream: bool) {
        if is_stream && !self.watched.is_empty() {
            let channels: Vec<_> = self.hub.channels_of(id.slot).cloned().collect();
            for channel in channels {
                self.notify_left(id, &channel);
            }
        }
        self.hub.leave(id.slot);
        self.note_sub(id.slot);
        self.access.forget(id.slot);
        let name = self.name(id);
        if self.parts.upstream.is_full(name) {
            self.parts.upstream.forget(name);
            self.release_from_feed(id);
        }
    }

    /// Switches a conn to its new token. From now on, reports of the conn contain the token's
    /// subject. Unsubscribes the conn from the channels that the token does not allow.
    fn drop_unauthorized(&mut self, id: ConnId) {
        self.access.start_reporting(id.slot);
        let config = &self.parts.config;
        let channels = self.hub.channels_of(id.slot).filter(|channel| {
            let may_stay = self.access.may_subscribe(id.slot, channel, config);
            !may_stay
        });
        let channels: Vec<ChannelName> = channels.cloned().collect();
        for channel in channels {
            let reference = None;
            self.leave(id, &Leave { channel, reference });
        }
    }

    fn set_windows(&mut self, id: ConnId, join: &Join, outcomes: &[JoinOutcome], window: Window) {
        for (channel, outcome) in join.channels.iter().zip(outcomes) {
            if outcome.joined().is_some() {
                self.hub.set_window(id.slot, channel, window);
            }
        }
    }

    fn acknowledge(&mut self, id: ConnId, acknowledgement: &Acknowledgement) {
        self.follow_epoch();
        let sequenced = self.hub.sequenced();
        let channel = acknowledgement.channel.as_ref();
        let given = acknowledgement.id;
        let outcome = self.hub.acknowledge(id.slot, channel, given, sequenced);
        if matches!(outcome, Acknowledged::Opened | Acknowledged::Taken) {
            self.parts.metrics.acknowledgements.increment();
        }
        self.call(id, |conn, out, context| {
            conn.handle_event(
                StreamEvent::Acknowledged(acknowledgement, outcome),
                out,
                context,
            );
        });
        if outcome == Acknowledged::Opened && self.hub.is_behind(id.slot) {
            self.list_to_serve(id);
        }
    }

    /// Stores the gaps of a poll until the poll is answered.
    fn keep_gaps(&mut self, id: ConnId, join: &Join, outcomes: &[JoinOutcome]) {
        for (channel, outcome) in join.channels.iter().zip(outcomes) {
            if let JoinOutcome::Joined(Joined { gap: Some(gap), .. }) = outcome {
                self.hub.keep_gap(id.slot, channel, *gap);
            }
        }
    }
}
