//! broadcast: inbox -> hub: append to the log, mark the channel's subscribers as behind.
//!
//! Stops when the walk over a channel is more than a quota behind: the rest waits in the inbox, and
//! behind it the feed. So a subscriber that keeps up is never skipped because this worker is late.

use std::sync::Arc;

use super::Worker;
use super::inbox::Mail;
use super::net::Net;
use crate::config::limits::PUBLICATIONS_PER_TURN_MAX;
use crate::frame::Publication;

impl<N: Net> Worker<N> {
    pub(super) fn broadcast(&mut self) {
        self.is_batch_held = false;
        self.drain_if_ordered();
        for _ in 0..PUBLICATIONS_PER_TURN_MAX {
            let Some(publication) = self.next_publication() else {
                return;
            };
            if !self.hub.has_room_for(&publication) {
                self.put_back();
                return self.parts.metrics.broadcast_budget_exhausted.increment();
            }
            self.append(publication);
        }
        self.parts.metrics.broadcast_budget_exhausted.increment();
    }

    fn append(&mut self, publication: Arc<Publication>) {
        let receipt = publication.receipt.clone();
        let subscribers = self.hub.publish(publication, self.now);
        self.parts.metrics.publications.increment();
        if receipt.is_some_and(|receipt| receipt.confirm(subscribers)) {
            self.parts.feed.wake();
        }
    }

    /// The next publication of the batch under way, or of the next mail.
    fn next_publication(&mut self) -> Option<Arc<Publication>> {
        loop {
            if let Some((batch, index)) = &mut self.batch {
                if let Some(publication) = batch.get(*index) {
                    *index += 1;
                    return Some(Arc::clone(publication));
                }
                self.batch = None;
            }
            match self.parts.inbox.take()? {
                Mail::Count(counts) => self.count(&counts),
                Mail::Direct(direct) => self.say(&direct),
                Mail::Publish(batch) => self.batch = Some((batch, 0)),
                Mail::Revoke(revocation) => self.revoke(&revocation),
                Mail::Watch { watch, receipt } => self.start_watching(watch, &receipt),
            }
        }
    }

    fn put_back(&mut self) {
        if let Some((_, index)) = &mut self.batch {
            *index -= 1;
        }
        self.is_batch_held = true;
    }

    /// Confirms what arrived while this worker was ending, so that no feeder waits for it.
    #[doc(hidden)]
    pub fn confirm_the_rest(&mut self) {
        while let Some(publication) = self.next_publication() {
            if publication
                .receipt
                .as_ref()
                .is_some_and(|receipt| receipt.confirm(0))
            {
                self.parts.feed.wake();
            }
        }
    }
}
