//! `memory_trim`: returns memory to the system after many conns have opened or closed.
//!
//! Tables keep their capacity, and the allocator keeps the memory that requests and outboxes have
//! freed. Trimming takes a millisecond, so it is delayed until no conn has opened or closed for a
//! while. The delay has a maximum. This module is called at the end of reap. A trim frees unused
//! capacity, never a conn.

use std::time::Duration;

use super::Worker;
use super::wire::net::Net;
use crate::config::limits::{MEMORY_TRIM_CONNS, MEMORY_TRIM_DELAY_MS_MAX, MEMORY_TRIM_QUIET_MS};
use crate::sys::memory;
use crate::time::{Deadline, Now};

/// The number of conns that opened or closed after the last trim, and the times of the first and
/// the latest of these events.
#[derive(Debug, Default)]
pub(super) struct MemoryTrim {
    conns: u32,
    first: Now,
    latest: Now,
}

impl MemoryTrim {
    /// Records that a conn has opened or closed.
    pub(super) fn note(&mut self, now: Now) {
        if self.conns == 0 {
            self.first = now;
        }
        self.conns = self.conns.saturating_add(1);
        self.latest = now;
    }

    /// Returns the time at which to trim memory, or `None` if too few conns have opened or closed.
    pub(super) fn due(&self) -> Option<Deadline> {
        (self.conns >= MEMORY_TRIM_CONNS).then(|| {
            let quiet = self
                .latest
                .after(Duration::from_millis(MEMORY_TRIM_QUIET_MS));
            quiet.min(
                self.first
                    .after(Duration::from_millis(MEMORY_TRIM_DELAY_MS_MAX)),
            )
        })
    }
}

impl<N: Net> Worker<N> {
    pub(super) fn trim_memory(&mut self) {
        if self
            .memory_trim
            .due()
            .is_some_and(|due| self.now.has_reached(due))
        {
            self.trim_memory_now();
        }
    }

    /// Trims memory now. Public for the simulation, which has too few conns to trigger a trim.
    #[doc(hidden)]
    pub fn trim_memory_now(&mut self) {
        self.memory_trim = MemoryTrim::default();
        self.conns.shrink_to_fit();
        let slots = self.conns.end();
        self.wheel.shrink_to(slots);
        self.hub.shrink_to(slots);
        self.peers.shrink();
        self.pending.shrink();
        self.filters.shrink();
        self.access_records.shrink();
        self.reaped.shrink_to_fit();
        self.to_read.shrink();
        self.to_flush.shrink_to_fit();
        memory::give_back();
    }
}
