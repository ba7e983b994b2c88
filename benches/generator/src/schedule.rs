//! SHELL: this module implements the timed actions of a client thread: churn and slow reading.
//!
//! The actions are distributed evenly over time, and they add no cost to the processing of an epoll
//! report. Churning connections are in a queue, ordered by age. In each interval, every slow
//! connection is read once, one connection after another.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Result;

use super::client_pool::SharedCounters;
use super::client_thread::{ClientThread, Conn, Phase};
use super::plan::{CHURN_SECONDS, Plan};
use super::sys::monotonic_ns;

/// The maximum time from opening a churning connection to its subscription.
const SUBSCRIBE_NS_MAX: u64 = 10_000_000_000;
const SECOND_NS: u64 = 1_000_000_000;

/// The state of churn: connections that are opened and closed while other connections stay open.
#[derive(Debug)]
pub(super) struct Churn {
    per_second: u64,
    /// The time at which churn began, or `None` if it has not begun.
    begun_ns: Option<u64>,
    /// The number of churning connections that were opened so far.
    opened: u64,
    /// The index and the opening time of each open churning connection, oldest first.
    open: VecDeque<(usize, u64)>,
}

impl Churn {
    pub(super) fn new(plan: &Plan, thread: usize) -> Self {
        let threads = plan.threads.max(1);
        let own = plan.churn / threads + usize::from(thread < plan.churn % threads);
        Self {
            per_second: own as u64,
            begun_ns: None,
            opened: 0,
            open: VecDeque::new(),
        }
    }

    /// Whether no churning connection is open and none has to be opened.
    pub(super) fn is_idle(&self, counters: &SharedCounters) -> bool {
        self.open.is_empty()
            && (self.per_second == 0 || !counters.is_churning.load(Ordering::Acquire))
    }
}

impl ClientThread {
    /// Opens and closes the churning connections that are due.
    pub(super) fn churn(&mut self) -> Result<()> {
        if self.churn.is_idle(&self.counters) {
            return Ok(());
        }
        let now_ns = monotonic_ns();
        let is_churning = self.counters.is_churning.load(Ordering::Acquire);
        if is_churning {
            let begun_ns = *self.churn.begun_ns.get_or_insert(now_ns);
            let due = (now_ns - begun_ns).saturating_mul(self.churn.per_second) / SECOND_NS;
            while self.churn.opened < due && self.requesting < self.plan.requests_max() {
                let count = usize::try_from(self.churn.opened)?;
                let index = self.open(self.plan.churn_spec(self.number, count))?;
                self.churn.opened += 1;
                self.churn.open.push_back((index, now_ns));
            }
        }
        let life_ns = CHURN_SECONDS as u64 * SECOND_NS;
        while let Some((index, opened_ns)) = self.churn.open.front().copied() {
            let age_ns = now_ns - opened_ns;
            let is_due = match self.phase(index) {
                Phase::Connecting | Phase::Requesting => age_ns > SUBSCRIBE_NS_MAX,
                Phase::Closed => true,
                Phase::Subscribed => age_ns > life_ns || !is_churning,
            };
            if !is_due {
                break;
            }
            self.churn.open.pop_front();
            self.close_churning(index);
        }
        Ok(())
    }
}

/// The schedule of the connections that read a few bytes at intervals.
#[derive(Debug, Default)]
pub(super) struct SlowReaders {
    /// The indices of the slow connections that are read in the current round.
    indices: Vec<usize>,
    next: usize,
    last_ns: u64,
    is_stopped: bool,
}

impl SlowReaders {
    /// The number of bytes in one read of a slow connection.
    pub(super) const BYTES: usize = 512;
    /// The time between two reads of the same connection.
    const INTERVAL: Duration = Duration::from_millis(500);

    /// Whether any connection reads slowly.
    pub(super) fn is_busy(&self) -> bool {
        !self.is_stopped && !self.indices.is_empty()
    }

    /// Ends slow reading. From now on, no connection is due.
    pub(super) fn stop(&mut self) {
        self.is_stopped = true;
    }

    /// Returns the indices of the connections to read now. Each connection is due once per
    /// interval.
    pub(super) fn due(&mut self, impaired: &[usize], conns: &[Conn]) -> Vec<usize> {
        if self.is_stopped || impaired.is_empty() {
            return Vec::new();
        }
        let now_ns = monotonic_ns();
        let passed = Duration::from_nanos(now_ns - self.last_ns);
        if self.indices.is_empty() {
            if passed >= Self::INTERVAL {
                self.last_ns = now_ns;
                self.begin_round(impaired, conns);
            }
            return Vec::new();
        }
        let count = passed.as_nanos() * self.indices.len() as u128 / Self::INTERVAL.as_nanos();
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        if count == 0 {
            return Vec::new();
        }
        self.last_ns = now_ns;
        let rest = self.indices.iter().skip(self.next).take(count);
        let due: Vec<usize> = rest.copied().collect();
        self.next += due.len();
        if self.next >= self.indices.len() {
            self.begin_round(impaired, conns);
        }
        due
    }

    /// Starts a new round, in which each connection that is slow now is read once. The set of slow
    /// connections may have changed since the previous round began.
    fn begin_round(&mut self, impaired: &[usize], conns: &[Conn]) {
        let is_slow = |index: &&usize| conns.get(**index).is_some_and(Conn::is_slow);
        self.next = 0;
        self.indices.clear();
        self.indices.extend(impaired.iter().filter(is_slow));
    }
}
