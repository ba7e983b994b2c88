//! pending: limits the number of silent conns, and the time that a `WebSocket` takes to subscribe.
//!
//! A conn is *silent* if its first request head is not complete after the worker has read
//! everything that the conn has sent so far (`worker/round.rs`). When the node has too many silent
//! conns, the oldest are closed: a legitimate client sends its request head within a round trip or
//! two. A worker closes its own silent conns only while it has more than its share of the limit. So
//! if another worker is flooded, this worker does not close its own conns. This module also stores
//! the deadline by which each WebSocket has to subscribe.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering};

use foldhash::fast::RandomState;
use hashbrown::HashMap;

use crate::effect::{CloseReason, ConnClass};
use crate::id::ConnId;
use crate::time::Deadline;
use crate::transport::Goodbye;
use crate::worker::Worker;
use crate::worker::wire::net::Net;

/// The queue may contain ids of conns that are no longer silent. These ids are removed when they
/// outnumber the silent conns by more than this number.
const QUEUE_SLACK: usize = 64;

/// The limit on silent conns, shared by all workers.
#[derive(Debug)]
pub struct SilentLimit {
    most: AtomicU32,
    workers: u32,
    count: AtomicU32,
}

impl SilentLimit {
    /// Creates a limit on the silent conns of all workers together. Returns `None` if the limit is
    /// zero.
    #[must_use]
    pub fn new(most: u32, workers: u32) -> Option<Self> {
        (most > 0).then(|| Self {
            most: AtomicU32::new(most),
            workers: workers.max(1),
            count: AtomicU32::new(0),
        })
    }

    /// Changes the limit. It must not be zero.
    pub fn set_most(&self, most: u32) {
        debug_assert!(most > 0, "a limit stays a limit");
        self.most.store(most, Ordering::Relaxed);
    }

    /// Returns the number of silent conns of all workers.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count.load(Ordering::Relaxed)
    }

    /// Whether a worker with `own` silent conns would have to close some of them if `more` conns of
    /// this worker became silent.
    fn is_exceeded_by(&self, own: u32, more: u32) -> bool {
        let most = self.most.load(Ordering::Relaxed);
        // A worker closes silent conns only if it has more of them than its share.
        self.count() + more > most && own + more > most / self.workers
    }
}

/// This worker's conns without a complete request head, and its WebSocket conns without a
/// subscription.
#[derive(Debug, Default)]
pub(in crate::worker) struct Pending {
    silent: u32,
    /// The ids of silent conns, oldest first. Some of these conns may no longer be silent. The
    /// queue is empty if there is no limit.
    queue: VecDeque<ConnId>,
    /// For each WebSocket without a subscription, by slot, the deadline by which it has to
    /// subscribe. The map is empty if there is no such limit.
    subscribes_by: HashMap<u32, Deadline, RandomState>,
}

impl Pending {
    pub(in crate::worker) fn shrink(&mut self) {
        self.queue.shrink_to_fit();
        self.subscribes_by.shrink_to_fit();
    }

    /// Returns the deadline by which the WebSocket in a slot has to subscribe.
    pub(in crate::worker) fn subscribes_by(&self, slot: u32) -> Option<Deadline> {
        if self.subscribes_by.is_empty() {
            return None;
        }
        self.subscribes_by.get(&slot).copied()
    }

    /// Removes the deadline of a conn that has subscribed or is freed.
    pub(in crate::worker) fn forget_subscribes_by(&mut self, slot: u32) {
        if !self.subscribes_by.is_empty() {
            self.subscribes_by.remove(&slot);
        }
    }

    /// Returns the number of silent conns of this worker.
    pub(in crate::worker) fn silent(&self) -> u32 {
        self.silent
    }
}

impl<N: Net> Worker<N> {
    /// Called when the worker has read everything that a new conn has sent so far. The conn becomes
    /// silent if its request head is not complete.
    pub(in crate::worker) fn note_silent(&mut self, id: ConnId) {
        self.call(id, |conn, _out, context| conn.handle_silent(context));
    }

    /// Updates the number of silent conns and the deadlines after the class of a conn has changed.
    /// The conn may already be closing.
    pub(in crate::worker) fn reclassify(
        &mut self,
        id: ConnId,
        before: ConnClass,
        class: ConnClass,
    ) {
        if class == ConnClass::Silent {
            self.add_silent(id);
        }
        if before == ConnClass::Silent {
            self.remove_silent();
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

    fn add_silent(&mut self, id: ConnId) {
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

    /// Subtracts one from the number of silent conns. The conn has sent a request head or is
    /// closed.
    pub(in crate::worker) fn remove_silent(&mut self) {
        debug_assert!(self.pending.silent > 0);
        self.pending.silent = self.pending.silent.saturating_sub(1);
        if let Some(limit) = &self.parts.guard.silent {
            limit.count.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Whether the limit would be exceeded if all new conns were silent.
    pub(in crate::worker) fn may_have_too_many_silent(&self) -> bool {
        let limit = self.parts.guard.silent.as_ref();
        let (silent, arrived) = (self.pending.silent, self.round.arrived());
        limit.is_some_and(|limit| limit.is_exceeded_by(silent, arrived))
    }

    fn has_too_many_silent(&self) -> bool {
        let limit = self.parts.guard.silent.as_ref();
        limit.is_some_and(|limit| limit.is_exceeded_by(self.pending.silent, 0))
    }

    /// Closes the oldest silent conns until the limit is no longer exceeded. A conn with unread
    /// bytes is moved to the end of the queue instead. Called at the end of a round.
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

    /// Ends a WebSocket if its deadline to subscribe has passed. Returns whether the deadline has
    /// passed.
    pub(in crate::worker) fn close_unsubscribed(&mut self, id: ConnId) -> bool {
        let due = self.pending.subscribes_by(id.slot);
        let is_due = due.is_some_and(|due| self.running.now().has_reached(due));
        if is_due {
            self.pending.forget_subscribes_by(id.slot);
            self.call(id, |conn, out, context| {
                conn.handle_goodbye(Goodbye::NoSubscription, out, context);
            });
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worker_within_its_share_closes_none_during_a_flood_on_another() {
        let limit = SilentLimit::new(100, 4).unwrap();
        limit.count.store(101, Ordering::Relaxed);
        assert!(!limit.is_exceeded_by(25, 0));
        assert!(limit.is_exceeded_by(26, 0));
        limit.count.store(100, Ordering::Relaxed);
        assert!(!limit.is_exceeded_by(100, 0));
        assert!(limit.is_exceeded_by(100, 1));
    }

    #[test]
    fn bound_of_zero_is_none() {
        assert!(SilentLimit::new(0, 4).is_none());
    }
}
