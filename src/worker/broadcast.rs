//! broadcast: inbox -> hub: append to the log, mark the channel's subscribers as behind.
//!
//! Stops when the walk over a channel is more than a quota behind: the rest waits in the inbox, and
//! behind it the feed. So a subscriber that keeps up is never skipped because this worker is late.

use std::sync::Arc;
use std::time::Duration;

use super::inbox::Mail;
use super::net::Net;
use super::{Draining, Worker};
use crate::config::limits::{DRAIN_SPACING_US, PUBLICATIONS_PER_TURN_MAX};
use crate::frame::Publication;

impl<N: Net> Worker<N> {
    pub(super) fn broadcast(&mut self) {
        self.is_batch_held = false;
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
                Mail::Drain => self.start_draining(),
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

    /// Accepts no more, and draws for each conn when it is told goodbye.
    fn start_draining(&mut self) {
        if self.draining.is_some() {
            return;
        }
        self.net.stop_listening();
        self.accepting.ready = 0;
        // A few conns are told at once; many are spread over most of the window. What is left of it
        // is for their answers.
        let window = self.parts.config.drain.window();
        let spacing = Duration::from_micros(DRAIN_SPACING_US);
        let count = u32::try_from(self.conns.len()).unwrap_or(u32::MAX);
        let spread = spacing.saturating_mul(count).min(window * 3 / 5);
        let spread_us = u64::try_from(spread.as_micros()).unwrap_or(u64::MAX);
        let draining = Draining {
            goodbye_by: self.running.now().after(spread),
            end: self.now.after(window),
        };
        self.draining = Some(draining);
        for (key, slot) in &self.conns {
            if !slot.conn.is_ending() {
                let wait = Duration::from_micros(self.net.draw() % spread_us.max(1));
                let slot = u32::try_from(key).unwrap_or(u32::MAX);
                self.wheel.arm(slot, self.running.now().after(wait));
            }
        }
    }
}
