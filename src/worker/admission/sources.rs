//! Limits the number of conns and the rate of new connections of each source, over all workers. A
//! *source* is an IPv4 address, or an IPv6 network of 64 bits.
//!
//! The kernel spreads the conns of one source over all listeners, so the workers share the table.
//! The table has several parts, and each part has a lock that is held for one look-up. The table
//! exists only if a limit per source is configured. A source has an entry while it has conns or has
//! connected recently. `guard` calls this module when conns open and close.
//! `server/memory_watch.rs` removes old entries.

use std::hash::BuildHasher as _;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use foldhash::quality::RandomState;
use hashbrown::HashMap;

use crate::certain;
use crate::config::Limits;
use crate::config::limits::{CONNECTS_AT_ONCE_S, SOURCE_TABLE_PARTS};
use crate::proxy::{Source, TooMany};
use crate::time::Now;

/// The shared table of sources.
#[derive(Debug)]
pub struct SourceLimiter {
    parts: Vec<Mutex<Part>>,
    hasher: RandomState,
    conns_max: AtomicU32,
    /// The microseconds that the limit allows for one new connection. Zero if there is no limit on
    /// new connections.
    interval_us: AtomicU64,
}

type Part = HashMap<Source, Account, RandomState>;

/// The reason why a conn is counted for a source. It decides whether the rate limit on new
/// connections applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// The source opened the conn, or is the first source that a proxy names on the conn.
    Connect,
    /// A proxy reuses the conn for another source. The rate limit does not apply.
    Reuse,
}

/// The current conns and the recent connections of one source.
#[derive(Clone, Copy, Debug, Default)]
struct Account {
    conns: u32,
    /// The rate limit on new connections compares this time with the clock, as in the generic cell
    /// rate algorithm. Each new connection moves the time forward by `interval_us`.
    paid_us: u64,
}

const _: () = assert!(size_of::<(Source, Account)>() <= 32);

impl SourceLimiter {
    /// Creates an empty table, or returns `None` if there is no limit per source.
    #[must_use]
    pub fn new(limits: &Limits) -> Option<Self> {
        limits.counts_sources().then(|| {
            let limiter = Self {
                parts: (0..SOURCE_TABLE_PARTS).map(|_| Mutex::default()).collect(),
                hasher: RandomState::default(),
                conns_max: AtomicU32::default(),
                interval_us: AtomicU64::default(),
            };
            limiter.set_limits(limits);
            limiter
        })
    }

    /// Changes the limits. Open conns stay open, even if a source has too many.
    pub fn set_limits(&self, limits: &Limits) {
        let conns_max = match limits.conns_per_source {
            0 => u32::MAX,
            limit => limit,
        };
        self.conns_max.store(conns_max, Ordering::Relaxed);
        let per_second = u64::from(limits.connects_per_second_per_source);
        let interval_us = 1_000_000_u64.checked_div(per_second).unwrap_or(0);
        self.interval_us.store(interval_us, Ordering::Relaxed);
    }

    /// Counts one more conn of a source.
    ///
    /// # Errors
    /// Returns the limit that the conn would exceed. The conn is then not counted.
    pub fn add_conn(&self, source: Source, arrival: Arrival, now: Now) -> Result<(), TooMany> {
        let Some(mut part) = self.part(source) else {
            return Ok(());
        };
        let account = part.get(&source).copied().unwrap_or_default();
        if account.conns >= self.conns_max.load(Ordering::Relaxed) {
            return Err(TooMany::Conns);
        }
        let paid_us = match arrival {
            Arrival::Connect => {
                account.paid_us.max(now.0) + self.interval_us.load(Ordering::Relaxed)
            }
            Arrival::Reuse => account.paid_us,
        };
        let latest_us = now.0 + CONNECTS_AT_ONCE_S * 1_000_000;
        if arrival == Arrival::Connect && paid_us > latest_us {
            return Err(TooMany::Connects);
        }
        let conns = account.conns + 1;
        part.insert(source, Account { conns, paid_us });
        Ok(())
    }

    /// Subtracts one conn from the number of conns of a source.
    pub fn remove_conn(&self, source: Source, now: Now) {
        let Some(mut part) = self.part(source) else {
            return;
        };
        let Some(account) = part.get_mut(&source) else {
            return debug_assert!(false, "{source} has no conn to release");
        };
        debug_assert!(account.conns > 0, "{source} has no conn to release");
        account.conns = account.conns.saturating_sub(1);
        if is_idle(*account, now) {
            part.remove(&source);
        }
    }

    /// Removes the sources that have no conns and have not connected recently.
    pub fn sweep(&self, now: Now) {
        for part in &self.parts {
            let mut part = lock(part);
            part.retain(|_, account| !is_idle(*account, now));
            if part.len() * 4 < part.capacity() {
                part.shrink_to_fit();
            }
        }
    }

    /// Returns the number of sources.
    #[must_use]
    pub fn count(&self) -> usize {
        self.parts.iter().map(|part| lock(part).len()).sum()
    }

    fn part(&self, source: Source) -> Option<MutexGuard<'_, Part>> {
        let hash = certain::to_usize(self.hasher.hash_one(source));
        let part = self.parts.get(hash % SOURCE_TABLE_PARTS);
        debug_assert!(part.is_some(), "the table has all its parts");
        part.map(lock)
    }
}

fn is_idle(account: Account, now: Now) -> bool {
    account.conns == 0 && account.paid_us <= now.0
}

fn lock(part: &Mutex<Part>) -> MutexGuard<'_, Part> {
    part.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(conns: u32, per_second: u32) -> SourceLimiter {
        let limits = Limits {
            conns_per_source: conns,
            connects_per_second_per_source: per_second,
            ..Limits::default()
        };
        SourceLimiter::new(&limits).unwrap()
    }

    fn connect(sources: &SourceLimiter, source: Source, now_us: u64) -> Result<(), TooMany> {
        sources.add_conn(source, Arrival::Connect, Now(now_us))
    }

    const A: Source = Source::V4([192, 0, 2, 1]);
    const B: Source = Source::V6([7; 8]);

    #[test]
    fn table_exists_only_with_a_limit() {
        assert!(SourceLimiter::new(&Limits::default()).is_none());
    }

    #[test]
    fn each_source_has_a_limit_of_its_own_and_released_conns_do_not_count() {
        let sources = sources(2, 0);
        for source in [A, A, B] {
            assert_eq!(connect(&sources, source, 0), Ok(()));
        }
        assert_eq!(connect(&sources, A, 0), Err(TooMany::Conns));
        assert_eq!(connect(&sources, B, 0), Ok(()));
        sources.remove_conn(A, Now(1));
        assert_eq!(connect(&sources, A, 1), Ok(()));
        for source in [A, A, B, B] {
            sources.remove_conn(source, Now(2));
        }
        assert_eq!(sources.count(), 0);
    }

    #[test]
    fn connects_are_limited_to_a_rate_with_a_burst_of_some_seconds() {
        let sources = sources(0, 10);
        let burst = 10 * CONNECTS_AT_ONCE_S;
        let accepted = |now: Now, count: u64| {
            (0..count)
                .filter(|_| connect(&sources, A, now.0).is_ok())
                .count() as u64
        };
        assert_eq!(accepted(Now(0), 1000), burst);
        assert_eq!(connect(&sources, A, 99_999), Err(TooMany::Connects));
        assert_eq!(connect(&sources, A, 100_000), Ok(()));
        assert_eq!(accepted(Now(1_100_000), 1000), 10);
        assert_eq!(connect(&sources, B, 1_100_000), Ok(()));
    }

    #[test]
    fn reused_conns_count_as_conns_and_not_as_connects() {
        let sources = sources(50, 1);
        for _ in 0..CONNECTS_AT_ONCE_S {
            assert_eq!(connect(&sources, A, 0), Ok(()));
        }
        assert_eq!(connect(&sources, A, 0), Err(TooMany::Connects));
        for _ in CONNECTS_AT_ONCE_S..50 {
            assert_eq!(sources.add_conn(A, Arrival::Reuse, Now(0)), Ok(()));
        }
        let one_more = sources.add_conn(A, Arrival::Reuse, Now(0));
        assert_eq!(one_more, Err(TooMany::Conns));
        // The rate limit did not count the reused conns. So it allows a new connection after one
        // second.
        sources.remove_conn(A, Now(1_000_000));
        assert_eq!(connect(&sources, A, 1_000_000), Ok(()));
    }

    #[test]
    fn source_without_conns_is_kept_until_its_connects_are_paid_for() {
        let sources = sources(0, 1);
        assert_eq!(connect(&sources, A, 0), Ok(()));
        sources.remove_conn(A, Now(10));
        sources.sweep(Now(999_999));
        assert_eq!(sources.count(), 1);
        sources.sweep(Now(1_000_000));
        assert_eq!(sources.count(), 0);
    }
}
