//! SHELL: what a thread of clients does by the clock: connections that come and go, and slow
//! reading.
//!
//! Both are spread evenly over time and cost nothing per report: coming and going follows a queue
//! in order of age, slow reading goes round the slow connections once per interval.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Result;

use super::client_pool::Board;
use super::client_thread::{Conn, Party, Phase};
use super::plan::{PASSING_SECONDS, Plan};
use super::sys::monotonic_ns;

/// How long a connection may take to be subscribed that is due to go.
const SUBSCRIBE_NS_MAX: u64 = 10_000_000_000;
const SECOND_NS: u64 = 1_000_000_000;

/// Connections that come and go.
#[derive(Debug)]
pub(super) struct Churn {
    per_second: u64,
    /// When it began; `None` while it does not run.
    begun_ns: Option<u64>,
    /// How many have been opened since.
    opened: u64,
    /// Place and time of opening, oldest first.
    living: VecDeque<(usize, u64)>,
}

impl Churn {
    pub(super) fn new(plan: &Plan, thread: usize) -> Self {
        let threads = plan.threads.max(1);
        let own = plan.churn / threads + usize::from(thread < plan.churn % threads);
        Self {
            per_second: own as u64,
            begun_ns: None,
            opened: 0,
            living: VecDeque::new(),
        }
    }

    /// Whether there is nothing to be done.
    pub(super) fn is_idle(&self, board: &Board) -> bool {
        self.living.is_empty()
            && (self.per_second == 0 || !board.is_churning.load(Ordering::Acquire))
    }
}

impl Party {
    /// Opens what is due to come and closes what is due to go.
    pub(super) fn churn(&mut self) -> Result<()> {
        if self.churn.is_idle(&self.board) {
            return Ok(());
        }
        let now_ns = monotonic_ns();
        let is_churning = self.board.is_churning.load(Ordering::Acquire);
        if is_churning {
            let begun_ns = *self.churn.begun_ns.get_or_insert(now_ns);
            let due = (now_ns - begun_ns).saturating_mul(self.churn.per_second) / SECOND_NS;
            while self.churn.opened < due && self.asking < self.plan.asking_max() {
                let count = usize::try_from(self.churn.opened)?;
                let place = self.open(self.plan.passing_seat(self.number, count))?;
                self.churn.opened += 1;
                self.churn.living.push_back((place, now_ns));
            }
        }
        let life_ns = PASSING_SECONDS as u64 * SECOND_NS;
        while let Some((place, opened_ns)) = self.churn.living.front().copied() {
            let age_ns = now_ns - opened_ns;
            let is_due = match self.phase(place) {
                Phase::Connecting | Phase::Asking => age_ns > SUBSCRIBE_NS_MAX,
                Phase::Gone => true,
                Phase::Subscribed => age_ns > life_ns || !is_churning,
            };
            if !is_due {
                break;
            }
            self.churn.living.pop_front();
            self.dismiss(place);
        }
        Ok(())
    }
}

/// Slow reading.
#[derive(Debug, Default)]
pub(super) struct Nibbling {
    /// Places of the slow connections.
    places: Vec<usize>,
    next: usize,
    last_ns: u64,
    is_over: bool,
}

impl Nibbling {
    /// Bytes that a slow connection reads at a time.
    pub(super) const BYTES: usize = 512;
    /// How often each of them does.
    const INTERVAL: Duration = Duration::from_millis(500);

    /// Whether somebody has to be looked after.
    pub(super) fn is_busy(&self) -> bool {
        !self.is_over && !self.places.is_empty()
    }

    /// Nobody reads slowly any more.
    pub(super) fn stop(&mut self) {
        self.is_over = true;
    }

    /// Those whose turn it is: in one interval each has one.
    pub(super) fn due(&mut self, impaired: &[usize], conns: &[Conn]) -> Vec<usize> {
        if self.is_over || impaired.is_empty() {
            return Vec::new();
        }
        let now_ns = monotonic_ns();
        let passed = Duration::from_nanos(now_ns - self.last_ns);
        if self.places.is_empty() {
            if passed >= Self::INTERVAL {
                self.last_ns = now_ns;
                self.begin_round(impaired, conns);
            }
            return Vec::new();
        }
        let count = passed.as_nanos() * self.places.len() as u128 / Self::INTERVAL.as_nanos();
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        if count == 0 {
            return Vec::new();
        }
        self.last_ns = now_ns;
        let rest = self.places.iter().skip(self.next).take(count);
        let due: Vec<usize> = rest.copied().collect();
        self.next += due.len();
        if self.next >= self.places.len() {
            self.begin_round(impaired, conns);
        }
        due
    }

    /// Looks once per round who is slow, since connections are opened and lost meanwhile.
    fn begin_round(&mut self, impaired: &[usize], conns: &[Conn]) {
        let is_slow = |place: &&usize| conns.get(**place).is_some_and(Conn::is_nibbling);
        self.next = 0;
        self.places.clear();
        self.places.extend(impaired.iter().filter(is_slow));
    }
}
