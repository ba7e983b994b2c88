//! The machine on which the workers of a node run: one clock, one calendar, one trace of events.
//!
//! The clock only moves forward, and the time that one worker uses passes for all workers. The feed
//! ([`MidTurn`]) may act while a worker is in the middle of a turn.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use fanfare::time::Now;

/// The feed, which may act while a worker runs. The network calls `act` in the middle of turns.
pub(crate) trait MidTurn: fmt::Debug {
    /// Acts at random. Returns whether this may have woken the worker.
    fn act(&mut self, now: Now) -> bool;
}

/// The trace of events: a hash of all events so far. If `is_shown` is set, each event is also
/// printed.
#[derive(Debug)]
struct Trace {
    hash: u64,
    is_shown: bool,
}

#[derive(Debug)]
pub(crate) struct Machine {
    clock_us: Cell<u64>,
    calendar_s: Cell<u64>,
    /// The calendar time just before the last change of the calendar, and the clock time of that
    /// change.
    calendar_before: Cell<Option<(Duration, u64)>>,
    /// The number of connections so far.
    pipes: Cell<u32>,
    trace: RefCell<Trace>,
}

impl Machine {
    pub(crate) fn new(random: &mut fastrand::Rng, is_shown: bool) -> Rc<Self> {
        Rc::new(Self {
            clock_us: Cell::new(random.u64(0..10_000_000)),
            calendar_s: Cell::new(random.u64(1_000_000..4_000_000_000)),
            calendar_before: Cell::new(None),
            pipes: Cell::new(0),
            trace: RefCell::new(Trace {
                hash: 0xcbf2_9ce4_8422_2325,
                is_shown,
            }),
        })
    }

    pub(crate) fn now_us(&self) -> u64 {
        self.clock_us.get()
    }

    pub(crate) fn now(&self) -> Now {
        Now(self.now_us())
    }

    pub(crate) fn pass(&self, us: u64) {
        self.clock_us.set(self.now_us() + us);
    }

    /// Returns the number of a new connection.
    pub(super) fn next_pipe(&self) -> u32 {
        self.pipes.replace(self.pipes.get() + 1)
    }

    pub(crate) fn note(&self, worker: usize, what: &str, a: u64, b: u64) {
        let now_us = self.now_us();
        let mut trace = self.trace.borrow_mut();
        let numbers = [now_us, worker as u64, a, b];
        for byte in what.bytes().map(u64::from).chain(numbers) {
            trace.hash = (trace.hash ^ byte).wrapping_mul(0x0100_0000_01b3);
        }
        if trace.is_shown {
            eprintln!("{now_us:>12} {worker} {what} {a} {b}");
        }
    }

    /// Returns a hash of all events.
    pub(crate) fn hash(&self) -> u64 {
        self.trace.borrow().hash
    }

    pub(super) fn unix_time(&self) -> Duration {
        Duration::from_secs(self.calendar_s.get()) + Duration::from_micros(self.now_us())
    }

    /// Sets the calendar forward or back, as an operator or the resume of a suspended machine does.
    pub(crate) fn step_calendar(&self, seconds: i64) {
        let before = self.unix_time_believed();
        self.calendar_before.set(Some((before, self.now_us())));
        let set = self.calendar_s.get().saturating_add_signed(seconds);
        self.calendar_s.set(set);
        self.note(0, "calendar", set, 0);
    }

    /// Returns the calendar's time in whole seconds.
    pub(crate) fn unix_seconds(&self) -> u64 {
        self.unix_time().as_secs()
    }

    /// Returns the latest calendar second that a worker may still use. A worker reads the calendar
    /// every half second. Between two reads it adds the elapsed time to the second that it has
    /// read.
    pub(crate) fn unix_seconds_believed(&self) -> u64 {
        self.unix_time_believed().as_secs()
    }

    fn unix_time_believed(&self) -> Duration {
        let before = self.calendar_before.get().map(|(before, at_us)| {
            let since = Duration::from_micros(self.now_us() - at_us);
            let is_believed = since <= Duration::from_millis(600);
            if is_believed {
                before + since
            } else {
                Duration::ZERO
            }
        });
        before.unwrap_or_default().max(self.unix_time())
    }
}
