//! epoch: switches the hub to a new epoch of the log, while no planned write is pending.
//!
//! The worker switches at the start of a turn, before it accepts an entry of the new epoch, and
//! before a conn subscribes. It also switches if a query of the log returned too few entries
//! because the log is in a newer epoch. To announce a new epoch, the feed wakes the worker without
//! sending mail. In the inbox, entries of the new epoch come after entries of the previous epoch.

use super::Worker;
use super::wire::net::Net;
use crate::effect::Join;
use crate::hub::JoinOutcome;
use crate::id::ConnId;

impl<N: Net> Worker<N> {
    /// Switches the hub to the log's newest epoch. If there is a newer epoch, lists all conns for
    /// flush, even conns that cannot be written to. Flush then checks the quota of each conn again,
    /// because a conn may now be further behind: entries that the new epoch has discarded no longer
    /// supersede older entries. Also, a query in the old epoch may have returned too few entries.
    pub(super) fn follow_epoch(&mut self) {
        debug_assert!(self.scratch.collected.is_empty());
        if !self.hub.follow_epoch(self.now) {
            return;
        }
        self.enforce_all();
        for (posted, _, _) in &mut self.to_answer {
            *posted = self.hub.in_this_epoch(*posted);
        }
    }

    /// Lists all conns for flush, even conns that cannot be written to. Flush then enforces the
    /// quota of each conn.
    pub(super) fn enforce_all(&mut self) {
        let ids: Vec<ConnId> = self.ids().collect();
        for id in ids {
            self.list_to_enforce(id);
        }
    }

    /// Switches to the log's newest epoch if the log was already in that epoch when the hub queried
    /// it, because such a query returns too few entries. Nothing may be delivered before the
    /// switch. Otherwise the client's position would move past entries that were not read.
    pub(super) fn follow_for_postponed(&mut self) {
        while self.hub.has_postponed() {
            self.follow_epoch();
        }
    }

    /// Subscribes a conn to all channels of a request. All subscriptions must begin in the log's
    /// newest epoch. So if the epoch changes meanwhile, unsubscribes the conn and starts again.
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
