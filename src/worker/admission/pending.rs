//! pending: silent connections, and `WebSocket`s that do not subscribe.
//!
//! A conn is *silent* if its first request head is not complete at the end of a round that began
//! after it was accepted. Too many of them on the node are a flood: then the oldest are closed,
//! because a legitimate client sends its head within a round trip or two. A worker closes its own
//! only while it has more than its share, so that it never pays for the flood of another. A
//! WebSocket that has to subscribe has a deadline here until it does.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering};

use foldhash::fast::RandomState;
use hashbrown::HashMap;

use crate::effect::{CloseReason, ConnClass};
use crate::id::ConnId;
use crate::time::Deadline;
use crate::worker::Worker;
use crate::worker::wire::net::Net;

/// Stale names that the queue may hold before it is cleaned up.
const QUEUE_SLACK: usize = 64;

/// The bound of silent conns, shared by all workers.
#[derive(Debug)]
pub struct SilentLimit {
    most: u32,
    /// Those of one worker below which it closes none.
    share: u32,
    count: AtomicU32,
}

impl SilentLimit {
    /// At most so many silent conns in all workers together; none for no bound.
    #[must_use]
    pub fn new(most: u32, workers: u32) -> Option<Self> {
        (most > 0).then(|| Self {
            most,
            share: most / workers.max(1),
            count: AtomicU32::new(0),
        })
    }

    /// Silent conns of all workers.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count.load(Ordering::Relaxed)
    }

    /// Whether a worker with so many silent conns of its own, and more that may be, has to close
    /// some.
    fn is_exceeded_by(&self, own: u32, more: u32) -> bool {
        own + more > self.share && self.count() + more > self.most
    }
}

/// The conns of one worker that say nothing.
#[derive(Debug, Default)]
pub(in crate::worker) struct Pending {
    silent: u32,
    /// Names of silent conns, the oldest first, and stale ones. Empty where there is no bound.
    queue: VecDeque<ConnId>,
    /// By when a WebSocket has to subscribe to something, by slot. Empty where it need not.
    subscribes_by: HashMap<u32, Deadline, RandomState>,
}

impl Pending {
    pub(in crate::worker) fn shrink(&mut self) {
        self.queue.shrink_to_fit();
        self.subscribes_by.shrink_to_fit();
    }

    /// By when the WebSocket in a slot has to subscribe to something.
    pub(in crate::worker) fn subscribes_by(&self, slot: u32) -> Option<Deadline> {
        if self.subscribes_by.is_empty() {
            return None;
        }
        self.subscribes_by.get(&slot).copied()
    }

    /// The conn has subscribed or is freed.
    pub(in crate::worker) fn forget_subscribes_by(&mut self, slot: u32) {
        if !self.subscribes_by.is_empty() {
            self.subscribes_by.remove(&slot);
        }
    }

    /// Silent conns of this worker.
    pub(in crate::worker) fn silent(&self) -> u32 {
        self.silent
    }
}

impl<N: Net> Worker<N> {
    /// A round is over that began after a conn was accepted.
    pub(in crate::worker) fn note_silent(&mut self, id: ConnId) {
        self.call(id, |conn, _out, context| conn.handle_silent(context));
    }

    /// Counts a conn as of another class. It may be closing: what it was counted as ends here.
    pub(in crate::worker) fn reclassify(
        &mut self,
        id: ConnId,
        before: ConnClass,
        class: ConnClass,
    ) {
        if class == ConnClass::Silent {
            self.enter_silent(id);
        }
        if before == ConnClass::Silent {
            self.leave_silent();
        }
        if before == ConnClass::WebSocket {
            self.pending.forget_subscribes_by(id.slot);
        }
        if class == ConnClass::WebSocket
            && let Some(limit) = self.parts.config.limits.first_subscribe()
        {
            let deadline = self.running.now().after(limit);
            self.pending.subscribes_by.insert(id.slot, deadline);
        }
    }

    fn enter_silent(&mut self, id: ConnId) {
        self.pending.silent += 1;
        let Some(limit) = &self.parts.guard.silent else {
            return;
        };
        limit.count.fetch_add(1, Ordering::Relaxed);
        if self.pending.queue.len() > 2 * self.pending.silent as usize + QUEUE_SLACK {
            let mut queue = std::mem::take(&mut self.pending.queue);
            queue.retain(|id| self.is_silent(*id));
            self.pending.queue = queue;
        }
        self.pending.queue.push_back(id);
    }

    /// A silent conn is silent no more, or is closed.
    pub(in crate::worker) fn leave_silent(&mut self) {
        debug_assert!(self.pending.silent > 0);
        self.pending.silent = self.pending.silent.saturating_sub(1);
        if let Some(limit) = &self.parts.guard.silent {
            limit.count.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Whether this worker has to close silent conns, if all that have arrived are silent too.
    pub(in crate::worker) fn may_have_too_many_silent(&self) -> bool {
        let limit = self.parts.guard.silent.as_ref();
        let (silent, arrived) = (self.pending.silent, self.round.arrived());
        limit.is_some_and(|limit| limit.is_exceeded_by(silent, arrived))
    }

    fn has_too_many_silent(&self) -> bool {
        let limit = self.parts.guard.silent.as_ref();
        limit.is_some_and(|limit| limit.is_exceeded_by(self.pending.silent, 0))
    }

    /// Closes the oldest silent conns beyond the bound, at the end of a round. One with something
    /// to be read becomes the newest.
    pub(in crate::worker) fn crowd_out(&mut self) {
        for _ in 0..self.pending.queue.len() {
            if !self.has_too_many_silent() {
                return;
            }
            let Some(oldest) = self.pending.queue.pop_front() else {
                return;
            };
            if self.is_to_be_read(oldest) {
                self.pending.queue.push_back(oldest);
            } else if self.is_silent(oldest) {
                self.close(oldest, CloseReason::CrowdedOut);
            }
        }
    }

    fn is_silent(&mut self, id: ConnId) -> bool {
        let slot = self.slot(id);
        slot.is_some_and(|slot| slot.conn.class() == ConnClass::Silent)
    }

    /// Ends a WebSocket that should have subscribed by now. True if it was one.
    pub(in crate::worker) fn close_unsubscribed(&mut self, id: ConnId) -> bool {
        let due = self.pending.subscribes_by(id.slot);
        let is_due = due.is_some_and(|due| self.running.now().has_reached(due));
        if is_due {
            self.pending.forget_subscribes_by(id.slot);
            self.call(id, |conn, out, context| {
                conn.handle_subscribe_timeout(out, context)
            });
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worker_within_its_share_closes_none_for_the_flood_of_another() {
        let limit = SilentLimit::new(100, 4).unwrap();
        limit.count.store(101, Ordering::Relaxed);
        assert!(!limit.is_exceeded_by(25, 0));
        assert!(limit.is_exceeded_by(26, 0));
        limit.count.store(100, Ordering::Relaxed);
        assert!(!limit.is_exceeded_by(100, 0));
        assert!(limit.is_exceeded_by(100, 1));
    }

    #[test]
    fn zero_is_no_bound() {
        assert!(SilentLimit::new(0, 4).is_none());
    }
}
