//! SHELL: this module starts the threads of all subscribers, waits for them and adds their tallies.
//!
//! The client threads and the main program share counters. In addition, each client thread has a
//! tally of its own. A tally is locked by its client thread only, until the main program takes its
//! counts. Dropping the pool closes all connections.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::client_thread::ClientThread;
use super::plan::Plan;
use super::tally::Tally;

/// The longest wait without progress before the pool gives up.
const STALL_TIMEOUT: Duration = Duration::from_secs(15);
/// The time between two reads of the counters while the pool waits.
const CHECK_INTERVAL: Duration = Duration::from_micros(500);

/// The state that client threads share with the main program.
#[derive(Debug)]
pub(super) struct SharedCounters {
    /// The number of subscribed connections, excluding churning ones.
    pub(super) subscribed: AtomicU64,
    /// The number of readers per channel: connections that are neither stalled, slow nor churning.
    pub(super) readers: Vec<AtomicU32>,
    /// The number of publications that the readers have received, that were reported to them in
    /// gaps, or that they have lost.
    pub(super) accounted: AtomicI64,
    /// The number of stalled and slow connections.
    pub(super) impaired: AtomicU64,
    /// The number of stalled and slow connections that have reached the last publication.
    pub(super) caught_up: AtomicU64,
    /// The number of the last publication that was sent to the feed.
    sent: AtomicU64,
    /// The number of the last publication, or 0 until the last publication is sent. Stalled
    /// connections start to read when this number is set.
    pub(super) published: AtomicU64,
    /// The number of connections that the server refused.
    pub(super) refused: AtomicU64,
    /// Whether churning connections are opened.
    pub(super) is_churning: AtomicBool,
    /// Whether the threads must end.
    pub(super) is_stopping: AtomicBool,
    /// The reasons why connections or threads have failed. Each reason is stored once.
    troubles: Mutex<Vec<String>>,
}

impl SharedCounters {
    fn new(channels: u16) -> Self {
        Self {
            subscribed: AtomicU64::new(0),
            readers: (0..channels.max(1)).map(|_| AtomicU32::new(0)).collect(),
            accounted: AtomicI64::new(0),
            impaired: AtomicU64::new(0),
            caught_up: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            published: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            is_churning: AtomicBool::new(false),
            is_stopping: AtomicBool::new(false),
            troubles: Mutex::default(),
        }
    }

    /// Adds a reason for a failure. Ignores the reason if it is already stored or if three are
    /// stored.
    pub(super) fn trouble(&self, what: String) {
        let mut troubles = lock(&self.troubles);
        if troubles.len() < 3 && !troubles.contains(&what) {
            troubles.push(what);
        }
    }

    /// Returns how many deliveries the readers receive in total, if the publication with this
    /// number and all earlier publications are sent.
    fn deliveries(&self, plan: &Plan, published: u64) -> u64 {
        (0..plan.channels)
            .zip(&self.readers)
            .map(|(channel, readers)| {
                let readers = u64::from(readers.load(Ordering::Relaxed));
                readers * plan.stride(channel).count_to(published)
            })
            .sum()
    }

    fn troubles(&self) -> String {
        let mut text = String::new();
        for trouble in lock(&self.troubles).iter() {
            // The result is ignored, because writing to a string cannot fail.
            let _written = write!(text, "; {trouble}");
        }
        text
    }
}

/// Locks a mutex and ignores poisoning, because the counts are consistent after every statement.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The clients, all connected and subscribed.
#[derive(Debug)]
pub struct ClientPool {
    plan: Arc<Plan>,
    counters: Arc<SharedCounters>,
    tallies: Vec<Arc<Mutex<Tally>>>,
    threads: Vec<JoinHandle<()>>,
}

impl ClientPool {
    /// Opens all connections and waits until each is subscribed. Calls `on_progress` repeatedly
    /// with the number of subscribed connections.
    ///
    /// # Errors
    /// Returns an error if a connection is refused, if a thread ends, or if no connection becomes
    /// subscribed within `STALL_TIMEOUT`.
    pub fn open(plan: Plan, mut on_progress: impl FnMut(u64)) -> Result<Self> {
        let mut pool = Self {
            counters: Arc::new(SharedCounters::new(plan.channels)),
            plan: Arc::new(plan),
            tallies: Vec::new(),
            threads: Vec::new(),
        };
        for number in 0..pool.plan.threads {
            pool.start(number)?;
        }
        let conns = pool.plan.conns() as u64;
        let mut seen = (0, Instant::now());
        loop {
            let subscribed = pool.counters.subscribed.load(Ordering::Acquire);
            on_progress(subscribed);
            if subscribed >= conns {
                return Ok(pool);
            }
            let refused = pool.counters.refused.load(Ordering::Relaxed);
            if subscribed != seen.0 {
                seen = (subscribed, Instant::now());
            }
            if refused > 0 || seen.1.elapsed() > STALL_TIMEOUT || pool.is_broken() {
                let why = pool.counters.troubles();
                bail!(
                    "{subscribed} of {conns} connections are subscribed, {refused} were refused{why}"
                );
            }
            thread::sleep(CHECK_INTERVAL);
        }
    }

    fn start(&mut self, number: usize) -> Result<()> {
        let tally = Arc::new(Mutex::new(Tally::default()));
        self.tallies.push(Arc::clone(&tally));
        let (plan, counters) = (Arc::clone(&self.plan), Arc::clone(&self.counters));
        let thread = thread::Builder::new()
            .name(format!("pool-{number}"))
            .spawn(move || {
                let ended = ClientThread::new(plan, number, Arc::clone(&counters), tally)
                    .and_then(|mut client| client.run());
                if let Err(error) = ended {
                    counters.trouble(format!("a thread of clients has ended: {error:#}"));
                }
            })?;
        self.threads.push(thread);
        Ok(())
    }

    fn is_broken(&self) -> bool {
        self.threads.iter().any(JoinHandle::is_finished)
    }

    /// Returns the number of connections that read at full speed and stay open.
    #[must_use]
    pub fn readers(&self) -> u64 {
        let readers = self.counters.readers.iter();
        readers
            .map(|count| u64::from(count.load(Ordering::Relaxed)))
            .sum()
    }

    /// Returns how many deliveries the readers receive in total, if the publication with this
    /// number and all earlier publications are sent.
    #[must_use]
    pub fn deliveries(&self, published: u64) -> u64 {
        self.counters.deliveries(&self.plan, published)
    }

    /// Records that the publication with this number and all earlier publications were sent to the
    /// feed.
    pub fn note_sent(&self, number: u64) {
        self.counters.sent.store(number, Ordering::Relaxed);
    }

    /// Returns a function for the probe. The function returns true while a publication that was
    /// sent has not reached all readers.
    pub fn is_delivering(&self) -> impl Fn() -> bool + Send + use<> {
        let (plan, counters) = (Arc::clone(&self.plan), Arc::clone(&self.counters));
        move || {
            let sent = counters.sent.load(Ordering::Relaxed);
            let due = i64::try_from(counters.deliveries(&plan, sent)).unwrap_or(i64::MAX);
            counters.accounted.load(Ordering::Relaxed) < due
        }
    }

    /// Waits until, on every reader, the publication with this number and all earlier publications
    /// are received, reported in a gap, or lost. Returns false if there is no progress for
    /// `STALL_TIMEOUT`, or if a thread ends.
    #[must_use]
    pub fn wait_for(&self, published: u64) -> bool {
        let counters = &self.counters;
        let accounted = || u64::try_from(counters.accounted.load(Ordering::Relaxed)).unwrap_or(0);
        self.wait(accounted, || self.deliveries(published))
    }

    /// Makes the stalled and slow connections read at full speed, and waits until each has reached
    /// this publication. Returns false if there is no progress for `STALL_TIMEOUT`, or if a
    /// thread ends.
    #[must_use]
    pub fn resume(&self, published: u64) -> bool {
        let counters = &self.counters;
        counters.published.store(published, Ordering::Release);
        self.wait(
            || counters.caught_up.load(Ordering::Relaxed),
            || counters.impaired.load(Ordering::Relaxed),
        )
    }

    /// Starts or stops churn.
    pub fn set_churning(&self, is_churning: bool) {
        self.counters
            .is_churning
            .store(is_churning, Ordering::Release);
    }

    /// Returns the counts of all threads and resets them.
    #[must_use]
    pub fn take_tally(&self) -> Tally {
        let mut sum = Tally::default();
        for tally in &self.tallies {
            sum.add(&std::mem::take(&mut *lock(tally)));
        }
        sum
    }

    /// Returns the reasons why connections have failed. The text is empty if no connection has
    /// failed.
    #[must_use]
    pub fn troubles(&self) -> String {
        let text = self.counters.troubles();
        text.trim_start_matches("; ").to_owned()
    }

    fn wait(&self, progress: impl Fn() -> u64, wanted: impl Fn() -> u64) -> bool {
        let mut seen = (0, Instant::now());
        loop {
            let now = progress();
            // `wanted` is called in each iteration, because its result decreases when connections
            // end.
            if now >= wanted() {
                return true;
            }
            if now != seen.0 {
                seen = (now, Instant::now());
            } else if seen.1.elapsed() > STALL_TIMEOUT || self.is_broken() {
                return false;
            }
            thread::sleep(CHECK_INTERVAL);
        }
    }
}

impl Drop for ClientPool {
    fn drop(&mut self) {
        self.counters.is_stopping.store(true, Ordering::Release);
        for thread in self.threads.drain(..) {
            // If a thread has failed, its error is already in the shared counters.
            drop(thread.join());
        }
    }
}
