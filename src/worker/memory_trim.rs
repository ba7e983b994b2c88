//! memory_trim: gives memory back after many conns have come or gone.
//!
//! Tables that have grown for a crowd stay large, and what requests and outboxes have freed stays
//! with the allocator, until somebody asks for it. That takes a millisecond, so it waits until
//! nobody comes or goes, but not for ever. Called at the end of reap; frees room, never a conn.

use std::time::Duration;

use super::Worker;
use super::wire::net::Net;
use crate::config::limits::{MEMORY_TRIM_CONNS, MEMORY_TRIM_DELAY_MS_MAX, MEMORY_TRIM_QUIET_MS};
use crate::sys::memory;
use crate::time::{Deadline, Now};

/// Conns that have come or gone since memory was given back last.
#[derive(Debug, Default)]
pub(super) struct MemoryTrim {
    conns: u32,
    began: Now,
    latest: Now,
}

impl MemoryTrim {
    /// A conn has come or gone.
    pub(super) fn note(&mut self, now: Now) {
        if self.conns == 0 {
            self.began = now;
        }
        self.conns = self.conns.saturating_add(1);
        self.latest = now;
    }

    /// When memory is to be given back, if there has been a memory_trim.
    pub(super) fn due(&self) -> Option<Deadline> {
        (self.conns >= MEMORY_TRIM_CONNS).then(|| {
            let quiet = self
                .latest
                .after(Duration::from_millis(MEMORY_TRIM_QUIET_MS));
            quiet.min(
                self.began
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

    /// Gives memory back now. Public for the simulation, whose crowds are too small for a memory_trim.
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
        self.reaped.shrink_to_fit();
        self.to_read.shrink();
        self.to_flush.shrink_to_fit();
        memory::give_back();
    }
}
