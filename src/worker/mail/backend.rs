//! dialogue: what a backend says to one conn of this worker, and what its conns say upstream.
//!
//! Downstream, a saying goes to the conn's machine if the conn is still there, and the verdict says
//! so. Upstream, publications and questions become reports, and arrivals and departures become
//! notices. A conn whose report has to wait, or with too many notices that wait, is not read until
//! the feed has caught up.

use std::sync::Arc;

use super::upstream::{Noticed, Reported};
use crate::backend::{
    BackendMessage, ClientPublication, Delivery, DirectMessage, Notice, PublishOutcome, Report,
    Revocation, SubscriberCounts, WatchedChannels,
};
use crate::effect::{Join, Reference};
use crate::frame::WorkerAck;
use crate::hub::JoinOutcome;
use crate::id::{ChannelName, ConnId, ConnName};
use crate::worker::Worker;
use crate::worker::wire::net::Net;

impl<N: Net> Worker<N> {
    /// The name of a conn outside this worker.
    pub(in crate::worker) fn name(&self, id: ConnId) -> ConnName {
        ConnName {
            run: self.parts.run,
            worker: self.parts.number,
            slot: id.slot,
            serial: id.serial(self.accepted),
        }
    }

    /// The conn that has a name, if there is one now.
    fn find(&self, name: ConnName) -> Option<ConnId> {
        let id = self.id_in(name.slot)?;
        (self.name(id) == name).then_some(id)
    }

    /// Says something to one conn, and lets whoever asked know what became of it.
    pub(in crate::worker) fn say(&mut self, direct: &DirectMessage) {
        let told = self
            .find(direct.to)
            .map(|id| self.tell(id, &direct.message));
        let delivery = told.unwrap_or(Delivery::NoConn);
        let Some(status) = &direct.status else {
            return;
        };
        match delivery {
            Delivery::Done => self.parts.metrics.direct.increment(),
            Delivery::Full | Delivery::NoConn => self.parts.metrics.direct_refused.increment(),
        }
        status.settle(delivery);
        self.parts.feed.wake();
    }

    fn tell(&mut self, id: ConnId, message: &BackendMessage) -> Delivery {
        let told = self.call(id, |conn, out, context| {
            conn.handle_backend_message(message, out, context)
        });
        // One that ends is read even where its answers had piled up.
        self.list_to_read(id);
        told.unwrap_or(Delivery::NoConn)
    }

    /// Ends the conns whose token is about somebody, and says how many those were.
    pub(in crate::worker) fn revoke(&mut self, revocation: &Revocation) {
        let ids: Vec<ConnId> = self
            .access
            .slots_of(&revocation.sub)
            .into_iter()
            .filter_map(|slot| self.id_in(slot))
            .collect();
        let count = u32::try_from(ids.len()).unwrap_or(u32::MAX);
        for id in ids {
            self.call(id, |conn, out, context| {
                conn.handle_revoked(&revocation.close_info, out, context);
            });
            self.list_to_read(id);
        }
        if revocation.worker_ack.confirm(count) {
            self.parts.feed.wake();
        }
    }

    /// Says how many subscribers channels have here.
    pub(in crate::worker) fn count(&self, counts: &SubscriberCounts) {
        let mut is_last = false;
        for (channel, worker_ack) in counts.iter() {
            is_last = worker_ack.confirm(self.hub.subscribers_of(channel));
        }
        if is_last {
            self.parts.feed.wake();
        }
    }

    /// From now on reports comings and goings of these channels, and says so.
    pub(in crate::worker) fn start_watching(
        &mut self,
        watch: Arc<WatchedChannels>,
        worker_ack: &WorkerAck,
    ) {
        self.watch = watch;
        self.parts.upstream.note_watch();
        if worker_ack.confirm(0) {
            self.parts.feed.wake();
        }
    }

    pub(in crate::worker) fn ask_count(
        &mut self,
        id: ConnId,
        channel: ChannelName,
        reference: Option<Reference>,
    ) {
        let from = self.name(id);
        let refused = BackendMessage::PublishReply {
            outcome: PublishOutcome::Busy,
            reference: reference.clone(),
        };
        let report = Report::Count {
            from,
            channel,
            reference,
        };
        self.report_for(id, report, &refused);
    }

    pub(in crate::worker) fn publish_upstream(
        &mut self,
        id: ConnId,
        publication: ClientPublication,
    ) {
        let refused = BackendMessage::PublishReply {
            outcome: PublishOutcome::Busy,
            reference: publication.reference.clone(),
        };
        if self.report_for(id, Report::Publish(publication), &refused) {
            self.parts.metrics.client_publications.increment();
        }
    }

    /// Reports what a conn has caused. While that waits, the conn does. False if it is refused.
    fn report_for(&mut self, id: ConnId, report: Report, refused: &BackendMessage) -> bool {
        match self.parts.upstream.report(report) {
            Reported::AtOnce => true,
            Reported::Later => {
                self.hold(id);
                true
            }
            Reported::Refused => {
                let _told = self.tell(id, refused);
                self.hold(id);
                false
            }
        }
    }

    fn hold(&mut self, id: ConnId) {
        if let Some(slot) = self.slot(id).filter(|slot| !slot.is_held) {
            slot.is_held = true;
            self.held.push(id);
        }
    }

    /// Hands over what waits for the feed. Conns are read again when that is all, and when the feed
    /// has taken enough of their notices.
    pub(in crate::worker) fn send_upstream(&mut self) {
        self.parts.upstream.send_kept();
        for name in self.parts.upstream.take_released() {
            if let Some(id) = self.find(name) {
                self.release(id);
            }
        }
        if self.parts.upstream.is_behind() {
            return;
        }
        for id in std::mem::take(&mut self.held) {
            self.release(id);
        }
    }

    /// One reason not to read a conn is gone; it is read again unless there is another.
    pub(in crate::worker) fn release(&mut self, id: ConnId) {
        let name = self.name(id);
        let upstream = &self.parts.upstream;
        if self.rates.is_paused(id.slot) || upstream.is_full(name) {
            return;
        }
        let is_behind = upstream.is_behind();
        let Some(slot) = self.slot(id).filter(|slot| slot.is_held) else {
            return;
        };
        if is_behind {
            return self.held.push(id);
        }
        slot.is_held = false;
        self.list_to_read(id);
    }

    /// Reports the channels that a stream has come to, if somebody wants to know.
    pub(in crate::worker) fn note_joined(
        &mut self,
        id: ConnId,
        join: &Join,
        outcomes: &[JoinOutcome],
    ) {
        if self.watch.is_empty() {
            return;
        }
        for (channel, outcome) in join.channels.iter().zip(outcomes) {
            if outcome.joined().is_some() {
                self.notify(id, channel, true);
            }
        }
    }

    /// Reports that a stream has left a channel, if somebody wants to know.
    pub(in crate::worker) fn note_left(&mut self, id: ConnId, channel: &ChannelName) {
        self.notify(id, channel, false);
    }

    fn notify(&mut self, id: ConnId, channel: &ChannelName, has_subscribed: bool) {
        if !self.watch.covers(channel) {
            return;
        }
        let notice = Notice {
            conn: self.name(id),
            sub: self.access.sub(id.slot),
            channel: channel.clone(),
            has_subscribed,
        };
        // What finds no room is counted there, and consumers get the count.
        if self.parts.upstream.notify(notice) == Noticed::Full
            && let Some(slot) = self.slot(id).filter(|slot| !slot.is_held)
        {
            slot.is_held = true;
            self.parts.metrics.client_reads_held.increment();
        }
    }

    /// Ends all subscriptions of a conn, and what its token allowed. A poll comes and goes with
    /// each of its requests, which is no news.
    pub(in crate::worker) fn leave_all(&mut self, id: ConnId, is_stream: bool) {
        if is_stream && !self.watch.is_empty() {
            let channels: Vec<_> = self.hub.channels_of(id.slot).cloned().collect();
            for channel in channels {
                self.notify(id, &channel, false);
            }
        }
        self.hub.leave(id.slot);
        self.access.forget(id.slot);
        let name = self.name(id);
        if self.parts.upstream.is_full(name) {
            self.parts.upstream.forget(name);
            self.release(id);
        }
    }
}
