//! broadcast: processes the mail in the inbox. The hub accepts new entries and marks the
//! subscribers of their channels, which the worker then visits.
//!
//! Subscribers may still have to be visited because of earlier publications. If these publications
//! exceed the quota, the next entries wait in the inbox. A full inbox slows the feed. So a worker
//! that lags never skips publications for a subscriber that keeps up.
//!
//! The hub's *head* is the number up to which the hub has accepted all entries for this worker. The
//! head moves to each entry that the hub accepts. When the inbox is empty, the head moves to the
//! newest id that the feed has posted. All entries up to this id were accepted or concern only
//! other workers.

use super::Worker;
use super::mail::inbox::{Item, Mail};
use super::traced_walks::Traced;
use super::wire::net::Net;
use crate::config::limits::PUBLICATIONS_PER_TURN_MAX;

impl<N: Net> Worker<N> {
    pub(super) fn broadcast(&mut self) {
        self.is_batch_held = false;
        self.drain_if_ordered();
        // The newest posted id is read before the inbox. If it were read later, it could be the id
        // of an entry that was posted after the inbox was read.
        let posted = self.hub.posted();
        for _ in 0..PUBLICATIONS_PER_TURN_MAX {
            if !self.open_batch() {
                self.hub.advance_head(posted, self.now);
                return self.handle_new_head();
            }
            if !self.take_next() {
                self.is_batch_held = true;
                break;
            }
        }
        self.parts.metrics.broadcast_budget_exhausted.increment();
        self.handle_new_head();
    }

    /// Handles the work that had to wait until the hub had accepted more entries.
    fn handle_new_head(&mut self) {
        self.follow_for_postponed();
        self.answer_due_polls();
    }

    /// If the inbox is empty, this worker has received all entries that were posted so far. In this
    /// case, moves the hub's position (its *head*) to the newest posted id, so that a new
    /// subscriber starts at the newest publication.
    pub(super) fn catch_up(&mut self) {
        let posted = self.hub.posted();
        if self.batch.len() == 0 && self.parts.inbox.is_empty() {
            self.hub.advance_head(posted, self.now);
            self.follow_for_postponed();
        }
    }

    /// Processes messages of the inbox until one of them is a batch of entries. Returns true if the
    /// batch has entries to process, and false if the inbox is empty.
    fn open_batch(&mut self) -> bool {
        while self.batch.len() == 0 {
            let Some(mail) = self.parts.inbox.take() else {
                return false;
            };
            self.parts.metrics.mails.increment();
            match mail {
                Mail::Count(counts) => self.count_subscribers(&counts),
                Mail::Direct(direct) => self.deliver_direct(&direct),
                Mail::Publish(batch) => self.batch = batch.into_iter(),
                Mail::Revoke(revocation) => self.revoke(&revocation),
                Mail::Watch {
                    watched,
                    worker_ack,
                } => self.watch(watched, &worker_ack),
            }
        }
        true
    }

    /// Passes the next entry to the hub. Returns false if the hub cannot accept it yet, because too
    /// many earlier publications are still to be delivered.
    fn take_next(&mut self) -> bool {
        let next = self.batch.as_slice().first();
        if next.is_some_and(|item| item.entry.publication.id.epoch != self.hub.head().epoch) {
            self.follow_epoch();
        }
        let Some(Item {
            place, key, entry, ..
        }) = self.batch.as_slice().first()
        else {
            return true;
        };
        if !self.hub.has_room_for(*place, *key, entry) {
            return false;
        }
        let Some(mut item) = self.batch.next() else {
            debug_assert!(false, "a batch lost its first entry");
            return true;
        };
        let traced = Traced::of(&mut item);
        let Item {
            place,
            key,
            entry,
            worker_ack,
            ..
        } = item;
        let subscribers = self.hub.take(place, key, entry, self.now);
        if let Some(traced) = traced {
            self.begin_traced_walk(traced, subscribers);
        }
        self.parts.metrics.publications.increment();
        if worker_ack.is_some_and(|worker_ack| worker_ack.confirm(subscribers)) {
            self.parts.feed.wake();
        }
        true
    }

    /// Confirms the mail that arrived while this worker was ending. Feeders wait for these
    /// confirmations.
    #[doc(hidden)]
    pub fn confirm_remaining(&mut self) {
        while self.open_batch() {
            for item in std::mem::take(&mut self.batch) {
                if item
                    .worker_ack
                    .is_some_and(|worker_ack| worker_ack.confirm(0))
                {
                    self.parts.feed.wake();
                }
            }
        }
    }
}
