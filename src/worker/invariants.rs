//! invariants: checks the state of a worker between two turns, for the simulation and for tests.
//!
//! The checks do not change the state, and the running server never makes them. The message of a
//! panic names the first broken invariant.

use super::Worker;
use super::hold::Hold;
use super::lists::List;
use super::wire::net::Net;
use crate::config::Listen;
use crate::config::limits::CONTROL_BYTES_MAX;
use crate::effect::{CloseReason, ConnClass};
use crate::hub::Amount;
use crate::id::{ChannelName, ConnId, ConnName};
use crate::worker::listener_conns::ListenerNumber;

impl<N: Net> Worker<N> {
    /// Panics if the parts of the worker contradict each other, or if a conn has no timer. Also
    /// panics if a conn can be read from or written to but is in no list of the worker.
    #[doc(hidden)]
    pub fn check_invariants(&self) {
        self.hub.check_invariants();
        self.parts.upstream.check_invariants();
        assert!(self.to_reap.is_empty(), "a conn was not reaped");
        self.ids().for_each(|id| self.check_conn(id));
        let classes = self.conns.iter().map(|(_, slot)| slot.conn.class());
        let silent = classes.filter(|class| *class == ConnClass::Silent).count();
        assert_eq!(self.pending.silent() as usize, silent, "silent conns");
        self.check_listener_conns();
        for slot in self.hub.member_slots() {
            let slot = self.conns.get(slot as usize);
            assert!(
                slot.is_some_and(|slot| slot.conn.serving().is_some()),
                "subscribed but not served"
            );
        }
    }

    /// Whether the worker has finished its current writes to the conn in a slot. The conn must then
    /// be within its quota.
    #[doc(hidden)]
    #[must_use]
    pub fn has_flushed(&self, slot: u32) -> bool {
        let slot = self.conns.get(slot as usize);
        !self.hub.is_walking() && slot.is_some_and(|slot| !slot.lists.has(List::Flush))
    }

    /// Whether the inbox or the current batch has mail to process.
    #[doc(hidden)]
    #[must_use]
    pub fn has_mail(&self) -> bool {
        self.batch.len() > 0 || !self.parts.inbox.is_empty()
    }

    /// Returns the conns that were freed at the end of the last turn.
    #[doc(hidden)]
    #[must_use]
    pub fn reaped(&self) -> &[(ConnId, CloseReason)] {
        &self.reaped
    }

    /// Returns the subscriptions of all streams, with the names by which backends know the conns.
    #[doc(hidden)]
    pub fn streams_in_channels(&self) -> impl Iterator<Item = (ConnName, &ChannelName)> {
        let streams = self.ids().filter(|id| {
            let slot = self.conns.get(id.slot as usize);
            slot.is_some_and(|slot| slot.conn.is_stream())
        });
        streams.flat_map(move |id| {
            let channels = self.hub.channels_of(id.slot);
            channels.map(move |channel| (self.name(id), channel))
        })
    }

    /// Whether reports of this worker wait for room in the feed's queue.
    #[doc(hidden)]
    #[must_use]
    pub fn is_upstream_behind(&self) -> bool {
        self.parts.upstream.is_behind()
    }

    /// Panics if a conn is not counted for its listener.
    fn check_listener_conns(&self) {
        let mut conns: Vec<(ListenerNumber, u64)> = Vec::new();
        for (_, slot) in self.conns.iter() {
            let known = conns
                .iter_mut()
                .find(|(number, _)| *number == slot.listener);
            match known {
                Some((_, count)) => *count += 1,
                None => conns.push((slot.listener, 1)),
            }
        }
        let worker = self.parts.number;
        for (number, count) in &conns {
            let counted = self.parts.listener_conns.of(worker, *number);
            assert_eq!(counted, *count, "conns of {number:?}");
        }
        let all: u64 = conns.iter().map(|(_, count)| count).sum();
        assert_eq!(self.parts.listener_conns.total(worker), all, "conns");
    }

    /// Returns the socket of each conn, with the listener for which the conn is counted.
    #[doc(hidden)]
    pub fn listeners_of_conns(&self) -> impl Iterator<Item = (&N::Socket, Option<Listen>)> {
        let listener = |number| self.parts.listener_conns.listener(number);
        let slots = self.conns.iter();
        slots.map(move |(_, slot)| (&slot.socket, listener(slot.listener)))
    }

    fn check_conn(&self, id: ConnId) {
        let Some(slot) = self.conns.get(id.slot as usize) else {
            return;
        };
        assert!(!slot.is_closing, "{id:?} is closing after reap");
        let has_timer = self.wheel.is_armed(id.slot) || self.round.has_fired(id);
        assert!(has_timer, "{id:?} has no timer");
        assert!(
            self.access_records.has_reason(id.slot),
            "{id:?} has a record that nothing needs"
        );
        let is_in_read = self.to_read.contains(id);
        let is_in_flush = self.to_flush.contains(&id);
        let lists = slot.lists;
        assert_eq!(lists.has(List::Read), is_in_read, "{id:?} in Read");
        assert_eq!(lists.has(List::Flush), is_in_flush, "{id:?} in Flush");
        let head_bytes = self.parts.config.limits.request_head_bytes;
        let is_held = !slot.holds.is_empty();
        let is_paused = self.rates.has_pause(id);
        assert_eq!(slot.holds.has(Hold::Rate), is_paused, "{id:?} is paused");
        let is_full = self.parts.upstream.is_full(self.name(id));
        let waits = self.awaiting_feed.contains(&id) || is_full;
        assert_eq!(
            slot.holds.has(Hold::Feed),
            waits,
            "{id:?} waits for the feed"
        );
        assert!(
            !waits || is_full || self.is_upstream_behind(),
            "{id:?} is held for nothing"
        );
        let may_be_read = slot.is_readable && slot.conn.read_bytes_max(head_bytes) > 0;
        if !is_held && (may_be_read || slot.conn.has_unhandled()) {
            assert!(is_in_read, "{id:?} could be read and is not listed");
        }
        if slot.is_writable && !slot.conn.outbox().is_empty() {
            assert!(is_in_flush, "{id:?} could be written and is not listed");
        }
        let is_visited = is_in_flush || self.hub.is_walking();
        if slot.is_writable && self.hub.is_behind(id.slot) && !self.awaits_answer(id) {
            assert!(is_visited, "{id:?} is owed something and is not listed");
        }
        let quota = &self.parts.config.quota;
        let quota = Amount {
            bytes: quota.behind_bytes,
            publications: quota.behind_publications,
        };
        // During a change of the rules, the log may already count superseded publications that the
        // hub still expects to be skipped.
        let has_rules = self.hub.has_rules_of_log();
        if !is_visited && !self.awaits_answer(id) && has_rules {
            assert!(
                !self.hub.behind(id.slot).exceeds(quota),
                "{id:?} is over its quota"
            );
        }
        if slot.conn.serving().is_some() {
            assert!(
                slot.conn.outbox().control_bytes() <= CONTROL_BYTES_MAX,
                "{id:?} has too many control bytes"
            );
        }
    }
}
