//! epoch: follows the log to a new epoch, while no planned write waits.
//!
//! That is at the start of a turn, before an entry of the new epoch is taken in, before a conn
//! subscribes, and after the head has moved past entries that the log could not return. The feed
//! wakes the worker for it without mail. In the inbox, entries of the new epoch follow those of the
//! previous one.

use super::Worker;
use super::wire::net::Net;
use crate::effect::Join;
use crate::hub::JoinOutcome;
use crate::id::ConnId;

impl<N: Net> Worker<N> {
    /// Follows the log to its newest epoch and lists all conns for flush. What each is owed may
    /// have changed, even with a full socket or a closed window: void entries supersede nothing,
    /// and the previous epoch did not show all that counts for a quota.
    pub(super) fn follow_epoch(&mut self) {
        debug_assert!(self.scratch.collected.is_empty());
        if !self.hub.follow_epoch(self.now) {
            return;
        }
        let ids: Vec<ConnId> = self.ids().collect();
        for id in ids {
            self.list_to_enforce(id);
        }
        for (posted, _, _) in &mut self.to_answer {
            *posted = self.hub.in_this_epoch(*posted);
        }
    }

    /// Follows the log if it could not return a channel's entries up to the head because it is in a
    /// newer epoch. Until then nothing is delivered, since no id may pass entries that were not
    /// read.
    pub(super) fn follow_for_postponed(&mut self) {
        while self.hub.has_postponed() {
            self.follow_epoch();
        }
    }

    /// Subscribes a conn to channels, all in the newest epoch. Starts over if the epoch changes
    /// meanwhile.
    pub(super) fn subscribe_in_one_epoch(&mut self, id: ConnId, join: &Join) -> Vec<JoinOutcome> {
        loop {
            self.follow_epoch();
            let hub = &mut self.hub;
            let sequenced = hub.sequenced();
            let channels = join.channels.iter();
            let outcomes: Vec<JoinOutcome> = channels
                .map(|channel| hub.subscribe(id.slot, channel, join.since, sequenced))
                .collect();
            if self.hub.is_in_newest_epoch() {
                return outcomes;
            }
            for (channel, outcome) in join.channels.iter().zip(&outcomes) {
                if outcome.joined().is_some() {
                    self.hub.unsubscribe(id.slot, channel);
                }
            }
        }
    }
}
