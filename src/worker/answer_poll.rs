//! `answer_poll`: collects all gaps and publications that are pending for a poll into one answer.
//!
//! The worker visits a waiting poll like any subscriber, and answers it when a publication or a gap
//! is pending for it. The outbox keeps references to the publications, within the byte budget of
//! one turn. The client's next poll starts after these publications. `flush` calls this module for
//! polls that wait, and `apply` for polls that are answered immediately.

use std::time::Duration;

use super::Worker;
use super::flush::record_lag;
use super::wire::net::Net;
use crate::certain;
use crate::config::limits::{ANSWER_WAIT_MS, POLL_PLANS_MAX};
use crate::frame::{Encoded, FrameKind};
use crate::hub::Gap;
use crate::id::{ChannelName, ConnId, Cursor};
use crate::transport::poll_answer::News;

impl<N: Net> Worker<N> {
    /// Returns the kind of frames that a conn receives, or `None` if the conn is not a poll.
    pub(super) fn poll_kind(&mut self, id: ConnId) -> Option<FrameKind> {
        let kind = self.slot(id)?.conn.serving()?;
        matches!(kind, FrameKind::Poll(_)).then_some(kind)
    }

    /// Answers a poll after the worker has processed all mail that was posted before the request. A
    /// feeder may already have received an acknowledgement for a publication in this mail, so the
    /// answer must include the publication.
    pub(super) fn answer_when_caught_up(&mut self, id: ConnId, since: Option<Cursor>) {
        match self.hub.posted().sequence <= self.hub.head().sequence {
            true => self.answer(id, since),
            false => self.postpone_answer(id, since),
        }
    }

    fn postpone_answer(&mut self, id: ConnId, since: Option<Cursor>) {
        // If the poll already waits and its timer has fired, its entry in `to_answer` is kept.
        if self.awaiting_answer.insert(id) {
            self.to_answer.push_back((self.hub.posted(), id, since));
        }
        // Like every conn, a waiting poll needs a timer.
        let again = Duration::from_millis(ANSWER_WAIT_MS);
        self.arm(id, self.running.now().after(again));
    }

    /// Answers the polls for which the worker has processed all mail that was posted before their
    /// requests.
    pub(super) fn answer_due_polls(&mut self) {
        let head = self.hub.head().sequence;
        let is_due = |first: &mut (Cursor, ConnId, Option<Cursor>)| first.0.sequence <= head;
        // If the log has switched to a newer epoch, queries of the log may return nothing. So the
        // polls wait until the hub has switched to that epoch too.
        while self.hub.is_in_newest_epoch()
            && let Some((_, id, since)) = self.to_answer.pop_front_if(is_due)
        {
            self.awaiting_answer.remove(&id);
            self.answer(id, since);
        }
    }

    /// Whether a poll waits until the worker has processed the mail that was posted before the
    /// request.
    pub(super) fn awaits_answer(&self, id: ConnId) -> bool {
        !self.awaiting_answer.is_empty() && self.awaiting_answer.contains(&id)
    }

    /// Answers a poll, even if nothing is pending for it. `since` is the position that the client
    /// sent in its request. The id of an empty answer is usually this position.
    pub(super) fn answer(&mut self, id: ConnId, since: Option<Cursor>) {
        if let Some(kind) = self.poll_kind(id) {
            let news = self.gather(id.slot, kind, since);
            // The epoch is checked after the query: if the log has switched to a newer epoch, the
            // query may have found nothing.
            match news.is_empty() && !self.hub.is_in_newest_epoch() {
                true => self.postpone_answer(id, since),
                false => self.send_answer(id, news),
            }
        }
    }

    /// Answers a waiting poll if a publication or a gap is pending for it. Does nothing while the
    /// poll waits for the worker to process mail.
    pub(super) fn answer_if_owed(&mut self, id: ConnId, kind: FrameKind) {
        if self.hub.is_behind(id.slot) && !self.awaits_answer(id) {
            let news = self.gather(id.slot, kind, None);
            if !news.is_empty() {
                self.send_answer(id, news);
            } else if self.hub.is_behind(id.slot) {
                // Only expired publications were read, but more are pending. The poll is visited
                // again.
                self.list_to_serve(id);
            }
        }
    }

    fn send_answer(&mut self, id: ConnId, news: News) {
        self.call(id, |conn, out, context| {
            conn.handle_answer(news, out, context);
        });
        self.note_answered(id.slot);
    }

    /// Collects the gaps and publications for the answer to the poll in a slot. Moves the positions
    /// of the poll's subscriptions past these gaps and publications.
    fn gather(&mut self, slot: u32, kind: FrameKind, since: Option<Cursor>) -> News {
        let mut gaps = Vec::new();
        self.take_gaps(slot, &mut gaps);
        let publications = self.take_publications(slot, kind, &mut gaps);
        // The epoch may have changed after the request, so the position `since` may no longer be
        // valid.
        let since = since.filter(|since| self.hub.has_valid(*since));
        let stays = since.filter(|_| gaps.is_empty() && publications.is_empty());
        let position = self.position(slot, &gaps, &publications, stays);
        News {
            is_unmoved: stays == Some(position),
            gaps: self.hub.cut_gaps(slot, gaps, position),
            publications,
            position,
        }
    }

    /// Takes the gaps of the conn in a slot from the hub. Gaps that were taken before are first put
    /// back, because they may have grown.
    fn take_gaps(&mut self, slot: u32, gaps: &mut Vec<(ChannelName, Gap)>) {
        for (name, gap) in gaps.drain(..) {
            self.hub.keep_gap(slot, &name, gap);
        }
        gaps.extend(std::iter::from_fn(|| self.hub.take_gap(slot)));
    }

    /// Takes the next publications, within the byte budget, and skips expired ones. If the log has
    /// evicted the next publication, takes the gaps again.
    fn take_publications(
        &mut self,
        slot: u32,
        kind: FrameKind,
        gaps: &mut Vec<(ChannelName, Gap)>,
    ) -> Vec<Encoded> {
        let budget = self.parts.config.quota.write_bytes_per_turn as usize;
        let mut has_read = false;
        for _ in 0..POLL_PLANS_MAX {
            let planned = &mut self.scratch.planned;
            let compressor = &mut self.scratch.compressor;
            self.hub
                .plan(slot, kind, self.now, budget, compressor, planned);
            if self.hub.take_found_loss() && planned.is_empty() && !has_read {
                self.take_gaps(slot, gaps);
                continue;
            }
            let given = planned.iter().filter(|step| step.length > 0);
            let encoded = |step| certain::some(self.hub.encoded(step), "a planned entry is held");
            let given = given.filter_map(encoded);
            let given: Vec<_> = given.collect();
            let bytes = planned.iter().map(|step| step.length).sum();
            let is_all = planned.is_empty();
            let advanced = self.hub.advance(slot, planned, bytes);
            record_lag(planned, advanced.delivered, &self.parts.metrics);
            if is_all || !given.is_empty() {
                return given;
            }
            has_read = true;
        }
        Vec::new()
    }

    /// Returns the position from which the client continues: the id of the last publication of the
    /// answer, or a later position if nothing more is pending. A client sends only this position in
    /// its next poll, so the position applies to all channels of the client.
    fn position(
        &self,
        slot: u32,
        gaps: &[(ChannelName, Gap)],
        publications: &[Encoded],
        stays: Option<Cursor>,
    ) -> Cursor {
        let is_behind = self.hub.is_behind(slot);
        match (publications.last(), stays) {
            (Some(last), _) if is_behind => last.id,
            (Some(last), _) => {
                let ends = gaps.iter().map(|(_, gap)| gap.until);
                ends.fold(last.id, |a, b| if b.sequence > a.sequence { b } else { a })
            }
            (None, Some(stays))
                if !is_behind && !self.hub.nears_eviction(slot, stays.sequence, self.now) =>
            {
                stays
            }
            (None, _) => self.hub.reached(slot),
        }
    }
}
