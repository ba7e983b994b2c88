//! pending: conns that have yet to complete a request head, and a WebSocket that has yet to
//! subscribe.
//!
//! Of the former there may be so many; then the oldest goes, because a client that means it is
//! through in a round trip or two, and whoever only holds places has held the oldest. The queue
//! keeps names of conns that are through until it is twice as long as it needs to be. The latter
//! have a deadline here until they subscribe. Told by every call into a machine, by close and reap.

use std::collections::VecDeque;

use foldhash::fast::RandomState;
use hashbrown::HashMap;

use super::Worker;
use super::net::Net;
use crate::conn::Stance;
use crate::effect::CloseReason;
use crate::id::ConnId;
use crate::time::Deadline;

/// Names of conns that are through before anybody looks for them.
const QUEUE_SLACK: usize = 64;

/// Who has yet to do what it is here for.
#[derive(Debug, Default)]
pub(super) struct Pending {
    /// Conns whose first request head is not complete.
    count: u32,
    /// Their names, the oldest first, and some others. Empty where there is no limit.
    queue: VecDeque<ConnId>,
    /// By when a WebSocket has to subscribe to something, by slot. Empty where it need not.
    silent: HashMap<u32, Deadline, RandomState>,
}

impl Pending {
    pub(super) fn shrink(&mut self) {
        self.queue.shrink_to_fit();
        self.silent.shrink_to_fit();
    }

    /// By when the WebSocket in a slot has to subscribe to something.
    pub(super) fn subscribes_by(&self, slot: u32) -> Option<Deadline> {
        if self.silent.is_empty() {
            return None;
        }
        self.silent.get(&slot).copied()
    }

    /// It has subscribed, or is not there any more.
    pub(super) fn forget_silent(&mut self, slot: u32) {
        if !self.silent.is_empty() {
            self.silent.remove(&slot);
        }
    }

    /// A conn that was pending is not any more.
    pub(super) fn leave(&mut self) {
        self.count = self.count.saturating_sub(1);
    }

    pub(super) fn count(&self) -> u32 {
        self.count
    }
}

impl<N: Net> Worker<N> {
    /// A conn has come. If it is one too many, the oldest goes.
    pub(super) fn note_pending(&mut self, id: ConnId) {
        self.pending.count += 1;
        let most = self.parts.guard.pending_max;
        if most == 0 {
            return;
        }
        if self.pending.queue.len() > 2 * self.pending.count as usize + QUEUE_SLACK {
            let mut queue = std::mem::take(&mut self.pending.queue);
            queue.retain(|id| self.is_pending(*id));
            self.pending.queue = queue;
        }
        self.pending.queue.push_back(id);
        while self.pending.count > most
            && let Some(oldest) = self.pending.queue.pop_front()
        {
            if self.is_pending(oldest) {
                self.close(oldest, CloseReason::CrowdedOut);
            }
        }
    }

    fn is_pending(&mut self, id: ConnId) -> bool {
        let slot = self.slot(id);
        slot.is_some_and(|slot| slot.conn.stance() == Stance::Pending)
    }

    /// What a call has made of a conn.
    pub(super) fn note_stance(&mut self, id: ConnId, before: Stance, after: Stance) {
        if before == after {
            return;
        }
        if before == Stance::Pending {
            self.pending.leave();
        }
        if after == Stance::WebSocket
            && let Some(limit) = self.parts.config.limits.first_subscribe()
        {
            let deadline = self.now.after(limit);
            self.pending.silent.insert(id.slot, deadline);
        }
    }

    /// Ends a WebSocket that should have subscribed by now. True if it was one.
    pub(super) fn end_silent(&mut self, id: ConnId) -> bool {
        let due = self.pending.subscribes_by(id.slot);
        let is_due = due.is_some_and(|due| self.now.has_reached(due));
        if is_due {
            self.pending.forget_silent(id.slot);
            self.call(id, |conn, out, context| conn.handle_loitering(out, context));
        }
        is_due
    }
}
