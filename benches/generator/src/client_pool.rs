//! SHELL: the subscribers as a whole: starts their threads, waits for them, sums up.
//!
//! Threads and main program share a board of counters and one tally per thread, whose lock only
//! its thread takes until it is read out. Dropping the crowd closes every connection.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::client_thread::Party;
use super::plan::Plan;
use super::tally::Tally;

/// How long nothing may happen before the crowd gives up.
const PATIENCE: Duration = Duration::from_secs(15);
/// How often it is looked whether something has happened.
const LOOK_INTERVAL: Duration = Duration::from_micros(500);

/// What threads and main program tell each other.
#[derive(Debug)]
pub(super) struct Board {
    /// Connections that stay and are subscribed.
    pub(super) ready: AtomicU64,
    /// Connections that read as they should, for each channel.
    pub(super) readers: Vec<AtomicU32>,
    /// Publications accounted for by them: received, told as missing, or lost.
    pub(super) accounted: AtomicI64,
    /// Stalled and slow connections.
    pub(super) impaired: AtomicU64,
    /// Those of them that have come to the last publication.
    pub(super) caught_up: AtomicU64,
    /// The last number that was given to the feed.
    sent: AtomicU64,
    /// The last number that was published, once stalled connections shall read up to it.
    pub(super) published: AtomicU64,
    /// Connections that were not let in.
    pub(super) refused: AtomicU64,
    /// Whether connections come and go.
    pub(super) is_churning: AtomicBool,
    pub(super) is_over: AtomicBool,
    /// Why connections or threads have failed, each once.
    troubles: Mutex<Vec<String>>,
}

impl Board {
    fn new(channels: u16) -> Self {
        Self {
            ready: AtomicU64::new(0),
            readers: (0..channels.max(1)).map(|_| AtomicU32::new(0)).collect(),
            accounted: AtomicI64::new(0),
            impaired: AtomicU64::new(0),
            caught_up: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            published: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            is_churning: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
            troubles: Mutex::default(),
        }
    }

    /// Notes why something failed, unless that is known.
    pub(super) fn trouble(&self, what: String) {
        let mut troubles = lock(&self.troubles);
        if troubles.len() < 3 && !troubles.contains(&what) {
            troubles.push(what);
        }
    }

    /// How many deliveries to those who read these publications are.
    fn deliveries(&self, plan: &Plan, published: u64) -> u64 {
        (0..plan.channels)
            .zip(&self.readers)
            .map(|(channel, readers)| {
                let readers = u64::from(readers.load(Ordering::Relaxed));
                readers * plan.lane(channel).count_to(published)
            })
            .sum()
    }

    fn troubles(&self) -> String {
        let mut text = String::new();
        for trouble in lock(&self.troubles).iter() {
            // Writing to a string does not fail.
            let _written = write!(text, "; {trouble}");
        }
        text
    }
}

/// What it holds stays right whoever panics: counts are whole after every statement.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Connected and subscribed clients.
#[derive(Debug)]
pub struct Crowd {
    plan: Arc<Plan>,
    board: Arc<Board>,
    tallies: Vec<Arc<Mutex<Tally>>>,
    threads: Vec<JoinHandle<()>>,
}

impl Crowd {
    /// Opens all connections and waits until each of them is subscribed. `look` is shown how many
    /// are.
    ///
    /// # Errors
    /// When one of them was not let in, or nothing happens for too long.
    pub fn open(plan: Plan, mut look: impl FnMut(u64)) -> Result<Self> {
        let mut crowd = Self {
            board: Arc::new(Board::new(plan.channels)),
            plan: Arc::new(plan),
            tallies: Vec::new(),
            threads: Vec::new(),
        };
        for number in 0..crowd.plan.threads {
            crowd.start(number)?;
        }
        let conns = crowd.plan.conns() as u64;
        let mut seen = (0, Instant::now());
        loop {
            let ready = crowd.board.ready.load(Ordering::Acquire);
            look(ready);
            if ready >= conns {
                return Ok(crowd);
            }
            let refused = crowd.board.refused.load(Ordering::Relaxed);
            if ready != seen.0 {
                seen = (ready, Instant::now());
            }
            if refused > 0 || seen.1.elapsed() > PATIENCE || crowd.is_broken() {
                let why = crowd.board.troubles();
                bail!("{ready} of {conns} connections are subscribed, {refused} were refused{why}");
            }
            thread::sleep(LOOK_INTERVAL);
        }
    }

    fn start(&mut self, number: usize) -> Result<()> {
        let tally = Arc::new(Mutex::new(Tally::default()));
        self.tallies.push(Arc::clone(&tally));
        let (plan, board) = (Arc::clone(&self.plan), Arc::clone(&self.board));
        let thread = thread::Builder::new()
            .name(format!("crowd-{number}"))
            .spawn(move || {
                let lived = Party::new(plan, number, Arc::clone(&board), tally)
                    .and_then(|mut party| party.live());
                if let Err(error) = lived {
                    board.trouble(format!("a thread of clients has ended: {error:#}"));
                }
            })?;
        self.threads.push(thread);
        Ok(())
    }

    fn is_broken(&self) -> bool {
        self.threads.iter().any(JoinHandle::is_finished)
    }

    /// How many connections read as they should.
    #[must_use]
    pub fn readers(&self) -> u64 {
        let readers = self.board.readers.iter();
        readers
            .map(|count| u64::from(count.load(Ordering::Relaxed)))
            .sum()
    }

    /// How many deliveries to those connections these publications are.
    #[must_use]
    pub fn deliveries(&self, published: u64) -> u64 {
        self.board.deliveries(&self.plan, published)
    }

    /// Notes that publications up to this number were given to the feed.
    pub fn note_sent(&self, number: u64) {
        self.board.sent.store(number, Ordering::Relaxed);
    }

    /// Tells from any thread whether a publication is still on its way to somebody who reads.
    pub fn is_delivering(&self) -> impl Fn() -> bool + Send + use<> {
        let (plan, board) = (Arc::clone(&self.plan), Arc::clone(&self.board));
        move || {
            let sent = board.sent.load(Ordering::Relaxed);
            let due = i64::try_from(board.deliveries(&plan, sent)).unwrap_or(i64::MAX);
            board.accounted.load(Ordering::Relaxed) < due
        }
    }

    /// Waits until everything up to this number is accounted for at every connection that reads.
    /// False when they stopped getting anything before that.
    #[must_use]
    pub fn wait_for(&self, published: u64) -> bool {
        let board = &self.board;
        let accounted = || u64::try_from(board.accounted.load(Ordering::Relaxed)).unwrap_or(0);
        self.wait(accounted, || self.deliveries(published))
    }

    /// Lets the stalled and slow connections read, and waits until they have come to this number.
    #[must_use]
    pub fn resume(&self, published: u64) -> bool {
        let board = &self.board;
        board.published.store(published, Ordering::Release);
        self.wait(
            || board.caught_up.load(Ordering::Relaxed),
            || board.impaired.load(Ordering::Relaxed),
        )
    }

    /// Lets connections come and go, or ends that.
    pub fn churn(&self, is_churning: bool) {
        self.board.is_churning.store(is_churning, Ordering::Release);
    }

    /// Takes what has been received since the last call.
    #[must_use]
    pub fn take_tally(&self) -> Tally {
        let mut sum = Tally::default();
        for tally in &self.tallies {
            sum.add(&std::mem::take(&mut *lock(tally)));
        }
        sum
    }

    /// Why connections have failed since the crowd was opened; empty if none has.
    #[must_use]
    pub fn troubles(&self) -> String {
        let text = self.board.troubles();
        text.trim_start_matches("; ").to_owned()
    }

    fn wait(&self, progress: impl Fn() -> u64, wanted: impl Fn() -> u64) -> bool {
        let mut seen = (0, Instant::now());
        loop {
            let now = progress();
            // What is wanted shrinks when connections end.
            if now >= wanted() {
                return true;
            }
            if now != seen.0 {
                seen = (now, Instant::now());
            } else if seen.1.elapsed() > PATIENCE || self.is_broken() {
                return false;
            }
            thread::sleep(LOOK_INTERVAL);
        }
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.board.is_over.store(true, Ordering::Release);
        for thread in self.threads.drain(..) {
            // What went wrong stands on the board.
            drop(thread.join());
        }
    }
}
