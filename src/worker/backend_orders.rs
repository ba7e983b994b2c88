//! Executes the orders of backends on this worker, and delivers messages of backends to single
//! conns.
//!
//! A message is passed to the conn's state machine if the conn still exists. The sender can learn
//! whether the message was delivered. `broadcast` calls this module for each order, in the order of
//! the inbox.

use std::sync::Arc;

use super::Worker;
use super::wire::net::Net;
use crate::backend::{
    BackendMessage, Delivery, DirectMessage, Revocation, SubscriberCounts, WatchedChannels,
};
use crate::certain;
use crate::frame::WorkerAck;
use crate::id::ConnId;

impl<N: Net> Worker<N> {
    /// Delivers a message to one conn. If the sender has asked for the result, records it.
    pub(super) fn deliver_direct(&mut self, direct: &DirectMessage) {
        let delivery = match self.find(direct.to) {
            Some(id) => self.deliver(id, &direct.message),
            None => Delivery::NoConn,
        };
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

    pub(super) fn deliver(&mut self, id: ConnId, message: &BackendMessage) -> Delivery {
        self.warn_of_reply(id, message);
        let delivery = self.call(id, |conn, out, context| {
            conn.handle_backend_message(message, out, context)
        });
        // The conn may now be closing. A closing conn must be read even if it has too many unsent
        // answers.
        self.list_to_read(id);
        delivery.unwrap_or(Delivery::NoConn)
    }

    /// Ends each conn whose token has the revoked subject. Confirms the revocation with the number
    /// of these conns.
    pub(super) fn revoke(&mut self, revocation: &Revocation) {
        let ids: Vec<ConnId> = self
            .access
            .slots_of(&revocation.sub)
            .into_iter()
            .filter_map(|slot| certain::some(self.id_in(slot), "only conns have tokens"))
            .chain(self.publishers(&revocation.sub))
            .collect();
        let ended = ids
            .into_iter()
            .filter(|id| self.disconnect(*id, &revocation.close_info));
        let count = certain::to_u32(ended.count());
        if revocation.worker_ack.confirm(count) {
            self.parts.feed.wake();
        }
    }

    /// Returns the conns that serve a publication over HTTP with a token of this subject.
    fn publishers(&self, sub: &str) -> Vec<ConnId> {
        if !self.access.is_on() {
            return Vec::new();
        }
        let is_one = |id: &ConnId| {
            let slot = self.conns.get(id.slot as usize);
            let found = slot.and_then(|slot| slot.conn.publishing_sub());
            found.as_deref() == Some(sub)
        };
        self.ids().filter(is_one).collect()
    }

    /// Returns the subject of the token with which a conn is served.
    pub(super) fn sub(&self, id: ConnId) -> Option<Arc<str>> {
        let slot = self.conns.get(id.slot as usize);
        let publishing = slot.and_then(|slot| slot.conn.publishing_sub());
        publishing.or_else(|| self.access.sub(id.slot))
    }

    /// Answers a request for the numbers of subscribers of some channels. Confirms each channel
    /// with the number of its subscribers on this worker.
    pub(super) fn count_subscribers(&self, counts: &SubscriberCounts) {
        let mut is_last = false;
        for (channel, worker_ack) in counts.iter() {
            is_last = worker_ack.confirm(self.hub.subscribers_of(channel));
        }
        if is_last {
            self.parts.feed.wake();
        }
    }

    /// Replaces the set of watched channels. From now on, subscriptions to these channels are
    /// reported to consumers. Confirms the request.
    pub(super) fn watch(&mut self, watched: Arc<WatchedChannels>, worker_ack: &WorkerAck) {
        self.watched = watched;
        self.parts.upstream.note_watch();
        if worker_ack.confirm(0) {
            self.parts.feed.wake();
        }
    }
}
