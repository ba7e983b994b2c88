//! report: sends the publications, requests and notices of conns to the feed.
//!
//! Publications of clients, and requests for the number of subscribers, become *reports*. A
//! *notice* says that a stream has subscribed to a channel or unsubscribed. A conn is not read
//! while its report waits for room in the feed's queue, or while too many of its notices wait for
//! the feed.

use super::Worker;
use super::hold::Hold;
use super::mail::upstream::{Noticed, Reported};
use super::wire::net::Net;
use crate::backend::{BackendMessage, ClientPublication, Notice, PublishOutcome, Report};
use crate::effect::{Join, Reference};
use crate::hub::JoinOutcome;
use crate::id::{ChannelName, ConnId};

impl<N: Net> Worker<N> {
    /// Sends the reports that waited for room in the queue. If all of them were sent, the conns
    /// that sent them may be read again. A conn may also be read again after the feed has accepted
    /// enough of its notices.
    pub(super) fn report(&mut self) {
        self.parts.upstream.send_kept();
        for name in self.parts.upstream.take_released() {
            if let Some(id) = self.find(name) {
                self.release_from_feed(id);
            }
        }
        if self.parts.upstream.is_behind() {
            return;
        }
        for id in std::mem::take(&mut self.awaiting_feed) {
            self.release_from_feed(id);
        }
    }

    /// Lets the worker read again from a conn that had to wait for the feed. The conn continues to
    /// wait while too many of its notices wait, or while any report of this worker waits.
    pub(super) fn release_from_feed(&mut self, id: ConnId) {
        let name = self.name(id);
        let is_held = self.slot(id).is_some_and(|slot| slot.holds.has(Hold::Feed));
        if !is_held || self.parts.upstream.is_full(name) {
            return;
        }
        if self.parts.upstream.is_behind() {
            return self.awaiting_feed.push(id);
        }
        self.release(id, Hold::Feed);
    }

    /// Reports the request of a client for the number of subscribers of a channel.
    pub(super) fn report_count(
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

    /// Reports a publication of a client.
    pub(super) fn report_publication(&mut self, id: ConnId, publication: ClientPublication) {
        let refused = BackendMessage::PublishReply {
            outcome: PublishOutcome::Busy,
            reference: publication.reference.clone(),
        };
        if self.report_for(id, Report::Publish(publication), &refused) {
            self.parts.metrics.client_publications.increment();
        }
    }

    /// Sends a report to the feed. If the report has to wait for room in the queue, stops reading
    /// from the conn. If the report is refused, sends `refused` to the client and returns false.
    fn report_for(&mut self, id: ConnId, report: Report, refused: &BackendMessage) -> bool {
        let reported = self.parts.upstream.report(report);
        if reported == Reported::Refused {
            let _delivery = self.deliver(id, refused);
        }
        if reported != Reported::AtOnce && self.hold(id, Hold::Feed) {
            self.awaiting_feed.push(id);
        }
        reported != Reported::Refused
    }

    /// Adds a notice for each channel to which a stream has subscribed.
    pub(super) fn notify_joined(&mut self, id: ConnId, join: &Join, outcomes: &[JoinOutcome]) {
        if self.watched.is_empty() {
            return;
        }
        for (channel, outcome) in join.channels.iter().zip(outcomes) {
            if outcome.joined().is_some() {
                self.notify(id, channel, true);
            }
        }
    }

    /// Adds a notice that a stream has unsubscribed from a channel.
    pub(super) fn notify_left(&mut self, id: ConnId, channel: &ChannelName) {
        self.notify(id, channel, false);
    }

    fn notify(&mut self, id: ConnId, channel: &ChannelName, has_subscribed: bool) {
        if !self.watched.covers(channel) {
            return;
        }
        let notice = Notice {
            conn: self.name(id),
            sub: self.access.sub(id.slot),
            channel: channel.clone(),
            has_subscribed,
        };
        // If the table of notices is full, the notice is counted as lost, and consumers receive the
        // count.
        if self.parts.upstream.notify(notice) == Noticed::Full && self.hold(id, Hold::Feed) {
            self.parts.metrics.client_reads_held.increment();
        }
    }
}
