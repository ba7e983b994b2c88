//! drain: ends the worker. The worker sends each conn a goodbye, and closes the conn when the peer
//! has received the goodbye.
//!
//! A drain lasts until all goodbyes are received, but no longer than `drain.window_ms`. Each
//! goodbye contains a reconnect delay. The delay must not end before the drain does, so the drain's
//! maximum duration is computed at the start, from the number of conns of all workers. A peer that
//! does not close its side does not delay the drain: once the peer's kernel has acknowledged all
//! bytes, closing the socket loses nothing.

use std::collections::VecDeque;
use std::time::Duration;

use super::Worker;
use super::lists::List;
use super::mail::inbox::DrainOrder;
use super::wire::net::Net;
use crate::certain;
use crate::config::Drain;
use crate::config::limits::{
    DRAIN_ARRIVAL_MS, DRAIN_CHECK_MS, DRAIN_CHECKS_MAX, DRAIN_PENDING_MS, DRAIN_SPACING_US,
    RECONNECTS_MS_MIN,
};
use crate::context::ReconnectDelay;
use crate::effect::{CloseReason, ConnClass};
use crate::id::ConnId;
use crate::time::{Deadline, Now, micros};

/// The durations of the parts of a drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Plan {
    /// The time over which the goodbyes are spread.
    goodbyes: Duration,
    /// The maximum duration of the whole drain.
    window: Duration,
    /// The time over which the clients' reconnect delays are spread.
    reconnects: Duration,
}

impl Plan {
    /// Plans a drain of all workers, which have `conns` conns. The more conns there are, the longer
    /// the time over which the goodbyes are spread. This time is at most three fifths of the
    /// maximum duration. The rest is for bytes in flight.
    fn new(drain: &Drain, conns: u64) -> Self {
        let window = drain.window();
        let goodbyes = Duration::from_micros(DRAIN_SPACING_US.saturating_mul(conns));
        let goodbyes = goodbyes.min(window * 3 / 5);
        let arrival = Duration::from_millis(DRAIN_ARRIVAL_MS);
        let rate = u64::from(drain.reconnects_per_second.max(1));
        let reconnects_ms = conns.saturating_mul(1000).div_ceil(rate);
        Self {
            goodbyes,
            window: window.min(goodbyes * 5 / 3 + arrival),
            reconnects: Duration::from_millis(reconnects_ms.max(RECONNECTS_MS_MIN)),
        }
    }
}

/// A drain in progress.
#[derive(Clone, Copy, Debug)]
pub(super) struct Draining {
    /// The time by which each conn is sent a goodbye, even a conn that opens a stream during the
    /// drain. This deadline is on the worker's own clock, which stops while the worker's thread
    /// does not run.
    pub(super) goodbye_by: Deadline,
    /// The time at which the remaining conns are closed. This deadline is on the monotonic clock,
    /// which does not stop. So the drain ends before the reconnect delays in the goodbyes have
    /// passed.
    pub(super) end: Deadline,
    /// The time over which the clients' reconnect delays are spread.
    reconnects: Duration,
    /// Whether `end` has passed and every conn was sent a goodbye.
    is_over: bool,
}

impl Draining {
    /// Returns the reconnect delay for a goodbye that is sent now.
    pub(super) fn delay(&self, now: Now) -> ReconnectDelay {
        ReconnectDelay::after_drain(self.end.remaining(now), self.reconnects)
    }
}

/// Conns that were sent a goodbye, and the time at which they are checked next. The checks are
/// periodic, because the kernel does not report when a peer has acknowledged the last byte.
#[derive(Debug, Default)]
pub(super) struct Leaving {
    conns: VecDeque<ConnId>,
    due: Option<Deadline>,
}

impl Leaving {
    /// Adds a conn that was sent a goodbye. A conn that is added twice is checked twice.
    pub(super) fn add(&mut self, id: ConnId, now: Now) {
        self.conns.push_back(id);
        self.due.get_or_insert_with(|| next_check(now));
    }

    /// Returns the time of the next check, or `None` if there are no conns to check.
    pub(super) fn due(&self) -> Option<Deadline> {
        self.due
    }
}

fn next_check(now: Now) -> Deadline {
    now.after(Duration::from_millis(DRAIN_CHECK_MS))
}

impl<N: Net> Worker<N> {
    /// Starts to drain if the order to drain has been given. During the drain, the worker still
    /// processes the mail in its inbox.
    pub(super) fn drain_if_ordered(&mut self) {
        if self.draining.is_none()
            && let Some(order) = self.parts.inbox.drain_order()
        {
            self.start_draining(order);
        }
    }

    /// Stops listening, and chooses a random time for the goodbye of each conn.
    fn start_draining(&mut self, order: DrainOrder) {
        self.net.stop_listening();
        self.accepting.ready = 0;
        let plan = Plan::new(&self.parts.config.drain, order.conns);
        let goodbye_by = self.running.now().after(plan.goodbyes);
        self.draining = Some(Draining {
            goodbye_by,
            end: order.given.after(plan.window),
            reconnects: plan.reconnects,
            is_over: false,
        });
        let goodbyes_us = micros(plan.goodbyes);
        let pending = plan.goodbyes + Duration::from_millis(DRAIN_PENDING_MS);
        for (key, slot) in self.conns.iter() {
            let number = certain::to_u32(key);
            if slot.conn.is_ending() {
                let generation = slot.generation;
                let slot = number;
                self.leaving.add(ConnId { slot, generation }, self.now);
                continue;
            }
            let wait = match slot.conn.class() {
                // The conn's request may be in flight. If the server closed the conn now, a proxy
                // would answer with status 502.
                ConnClass::Arriving | ConnClass::Silent => pending,
                ConnClass::WebSocket | ConnClass::Other => {
                    Duration::from_micros(self.net.draw() % goodbyes_us.max(1))
                }
            };
            self.wheel.arm(number, self.running.now().after(wait));
        }
    }

    /// Ends the conns whose peers have acknowledged all bytes, including the goodbye.
    pub(super) fn end_acknowledged(&mut self) {
        if !self
            .leaving
            .due
            .is_some_and(|due| self.now.has_reached(due))
        {
            return;
        }
        for _ in 0..self.leaving.conns.len().min(DRAIN_CHECKS_MAX) {
            let Some(id) = self.leaving.conns.pop_front() else {
                break;
            };
            if self.has_peer_everything(id) {
                self.call(id, |conn, out, context| {
                    conn.handle_goodbye_acknowledged(out, context);
                });
            }
            if self.slot(id).is_some() {
                self.leaving.conns.push_back(id);
            }
        }
        self.leaving.due = (!self.leaving.conns.is_empty()).then(|| next_check(self.now));
    }

    /// Closes the conns that are left at the end of the drain. If the worker's thread did not run
    /// for a while, some conns were not sent a goodbye yet. They are sent a goodbye now and are
    /// closed in the next turn.
    pub(super) fn close_remaining(&mut self) {
        let Some(draining) = self.draining else {
            return;
        };
        if !self.now.has_reached(draining.end) {
            return;
        }
        let ids: Vec<ConnId> = self.ids().collect();
        if draining.is_over {
            for id in ids {
                self.close(id, CloseReason::Shutdown);
            }
            return;
        }
        let is_over = true;
        self.draining = Some(Draining {
            is_over,
            ..draining
        });
        for id in ids {
            if self.slot(id).is_some_and(|slot| slot.conn.is_ending()) {
                self.close(id, CloseReason::Shutdown);
            } else {
                self.call(id, |conn, out, context| conn.handle_shutdown(out, context));
                self.list_to_read(id);
            }
        }
    }

    /// Whether the peer has acknowledged all bytes and all its input has been read. Closing a
    /// socket with unread input would reset the connection.
    fn has_peer_everything(&self, id: ConnId) -> bool {
        if self.filters.has_unsent(id.slot) {
            return false;
        }
        let Some(slot) = self.conns.get(id.slot as usize) else {
            return false;
        };
        slot.generation == id.generation
            && slot.conn.outbox().is_empty()
            && !slot.lists.has(List::Read)
            && (slot.holds.is_empty() || !slot.is_readable)
            && self.net.unacknowledged_bytes(&slot.socket) == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(conns: u64) -> [u64; 3] {
        let plan = Plan::new(&Drain::default(), conns);
        [plan.goodbyes, plan.window, plan.reconnects]
            .map(|part| u64::try_from(part.as_millis()).unwrap())
    }

    #[test]
    fn few_clients_leave_and_return_within_three_seconds() {
        let [goodbyes, window, reconnects] = plan(12);
        assert_eq!((goodbyes, window, reconnects), (2, 1_004, 500));
    }

    #[test]
    fn many_clients_take_the_window_and_return_at_the_configured_rate() {
        assert_eq!(plan(100_000), [6_000, 10_000, 20_000]);
    }

    #[test]
    fn window_is_never_longer_than_configured() {
        for window_ms in [0, 1, 200, 600_000] {
            let drain = Drain {
                window_ms,
                ..Drain::default()
            };
            for conns in [0, 1, 12, 1_000_000, u64::MAX] {
                let plan = Plan::new(&drain, conns);
                assert!(plan.window <= drain.window());
                assert!(plan.goodbyes <= plan.window);
            }
        }
    }

    #[test]
    fn delay_ends_after_the_drain_whenever_goodbye_is_said() {
        let draining = Draining {
            goodbye_by: Deadline(100_000),
            end: Deadline(1_000_000),
            reconnects: Duration::from_millis(3),
            is_over: false,
        };
        for now_us in [0, 50_000, 999_999] {
            let delay = draining.delay(Now(now_us)).draw_ms(crate::context::Draw(0));
            assert!(now_us + delay * 1000 >= 2_000_000);
        }
    }
}
