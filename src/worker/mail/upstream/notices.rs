//! Notices on their way to consumers: one bounded table for all workers.
//!
//! Apart from the queue of reports, so that no number of notices delays what clients publish. The
//! latest notice of a conn and channel that still waits is removed by one that undoes it, unless
//! the conn has published in between: the table holds what has changed, not how often. A conn with
//! too many notices here is not read until the feed has taken some. Beyond the bound for all conns
//! notices are counted as lost.
//!
//! Workers add and the feed takes, each through its end in [`super`]. The lock is held
//! for a few look-ups.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use foldhash::fast::RandomState;
use hashbrown::HashMap;

use crate::backend::{Notice, Report};
use crate::config::limits::{NOTICES_MAX, NOTICES_PER_CONN_MAX};
use crate::id::{ChannelName, ConnName};

/// Tables with room for more are given back when they are empty.
const CAPACITY_KEPT: usize = 1024;

/// How many notices may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// For all conns together; beyond it they are counted as lost.
    pub notices: usize,
    /// With so many a conn is not read.
    pub per_conn: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            notices: NOTICES_MAX,
            per_conn: NOTICES_PER_CONN_MAX,
        }
    }
}

/// A notice, or a count of lost ones, that waits for room at its consumers.
#[derive(Debug, PartialEq, Eq)]
pub struct WaitingNotice {
    /// Its place in the order in which notices were caused.
    pub order: u64,
    /// [`Report::Notice`] or [`Report::Lost`].
    pub report: Report,
    /// Whether the feed has taken the reports that its worker made before.
    pub is_due: bool,
}

/// Where a notice comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    /// The end of the worker that adds it.
    pub(super) end: usize,
    /// Reports of that worker before it. The feed takes them first.
    pub(super) reports: u64,
    /// What consumers wanted then: how often that had changed.
    pub(super) watch: u64,
}

/// What became of a notice that was added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Added {
    /// It has removed the one that it undoes.
    Cancelled,
    /// It waits, and its conn has so many now that it must not be read.
    Full,
    /// It waits.
    Kept,
    /// There was no room.
    Lost,
}

/// The table and its lock.
#[derive(Debug)]
pub(super) struct Notices {
    table: Mutex<Table>,
    bounds: Bounds,
    /// What the feed has to take, readable without the lock.
    waiting: AtomicUsize,
    /// Conns that are not read, readable without the lock.
    held: AtomicUsize,
    /// Whether conns of an end may be read again, readable without the lock.
    has_released: Box<[AtomicBool]>,
    /// As in the table, readable without the lock.
    cancelled: AtomicU64,
}

#[derive(Debug, Default)]
struct Table {
    next_order: u64,
    by_order: BTreeMap<u64, Entry>,
    /// The order of the latest that waits.
    latest: HashMap<(ConnName, ChannelName), u64, RandomState>,
    conns: HashMap<ConnName, Conn, RandomState>,
    /// Conns that are not read.
    held: usize,
    lost: Option<Lost>,
    cancelled: u64,
    /// Conns that may be read again, for each worker's end.
    released: Vec<Vec<ConnName>>,
}

#[derive(Debug)]
struct Entry {
    notice: Notice,
    origin: Origin,
}

/// The notices of one conn that wait; at least one.
#[derive(Debug, Default)]
struct Conn {
    orders: BTreeSet<u64>,
    /// Those before this place come before something that the conn has published.
    published: u64,
    is_held: bool,
}

/// The number of lost notices, which consumers get where the first of them would stand.
#[derive(Clone, Copy, Debug)]
struct Lost {
    order: u64,
    count: u64,
}

impl Entry {
    /// Whether consumers know the same with neither as with both. An arrival that they have not
    /// heard of is undone by any departure. A departure is undone only by an arrival that is the
    /// same for every consumer.
    fn is_undone_by(&self, notice: &Notice, origin: Origin) -> bool {
        match (self.notice.has_subscribed, notice.has_subscribed) {
            (true, false) => true,
            (false, true) => self.notice.sub == notice.sub && self.origin.watch == origin.watch,
            (true, true) | (false, false) => false,
        }
    }
}

impl Notices {
    pub(super) fn new(ends: usize, bounds: Bounds) -> Self {
        let table = Table {
            released: vec![Vec::new(); ends],
            ..Table::default()
        };
        Self {
            table: Mutex::new(table),
            bounds,
            waiting: AtomicUsize::new(0),
            held: AtomicUsize::new(0),
            has_released: (0..ends).map(|_| AtomicBool::new(false)).collect(),
            cancelled: AtomicU64::new(0),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a notice, or removes the one that it undoes.
    pub(super) fn add(&self, notice: Notice, origin: Origin) -> Added {
        let mut table = self.lock();
        let (added, woken) = table.add(notice, origin, self.bounds);
        self.note_released(woken);
        self.count(&table);
        added
    }

    /// A conn publishes: what consumers get with that is what was so then.
    pub(super) fn note_published(&self, conn: ConnName) {
        let mut table = self.lock();
        let next_order = table.next_order;
        if let Some(conn) = table.conns.get_mut(&conn) {
            conn.published = next_order;
        }
    }

    /// The first from a place in the order on. `taken` is how many reports of each worker the feed
    /// has taken.
    pub(super) fn first(&self, from: u64, taken: &[u64]) -> Option<WaitingNotice> {
        self.lock().first(from, taken)
    }

    /// The notices of a conn that it had caused before its worker made a report, in order, with the
    /// count of lost ones where that comes before one of them.
    pub(super) fn of_conn(&self, conn: ConnName, reports: u64) -> Vec<WaitingNotice> {
        let table = self.lock();
        let orders = table.conns.get(&conn).map(|conn| conn.orders.iter());
        let entries = orders.into_iter().flatten().filter_map(|order| {
            let entry = table.by_order.get(order)?;
            Some(entry.waiting(*order, reports))
        });
        let mut found: Vec<_> = entries.filter(|waiting| waiting.is_due).collect();
        if let Some(lost) = table.lost
            && let Some(at) = found.iter().position(|waiting| waiting.order > lost.order)
        {
            found.insert(at, lost.waiting());
        }
        found
    }

    /// Takes one. `None` if it was undone meanwhile; otherwise the end whose worker has to be woken
    /// because a conn may be read again.
    pub(super) fn take(&self, waiting: &WaitingNotice) -> Option<Woken> {
        let mut table = self.lock();
        let woken = match waiting.report {
            Report::Lost(count) => {
                table.take_lost(count);
                Some(Woken(None))
            }
            _ => table.remove(waiting.order, self.bounds),
        };
        self.note_released(woken);
        self.count(&table);
        woken
    }

    fn note_released(&self, woken: Option<Woken>) {
        let end = woken.and_then(|Woken(end)| end);
        if let Some(has_released) = end.and_then(|end| self.has_released.get(end)) {
            has_released.store(true, Ordering::Release);
        }
    }

    /// A conn has closed. Its notices wait on, and it is not read in any case.
    pub(super) fn forget(&self, conn: ConnName) {
        let mut table = self.lock();
        table.forget(conn);
        self.count(&table);
    }

    /// Whether conns of an end may be read again.
    pub(super) fn has_released(&self, end: usize) -> bool {
        let has_released = self.has_released.get(end);
        has_released.is_some_and(|has_released| has_released.load(Ordering::Acquire))
    }

    /// Conns of an end that may be read again.
    pub(super) fn released(&self, end: usize) -> Vec<ConnName> {
        let mut table = self.lock();
        if let Some(has_released) = self.has_released.get(end) {
            has_released.store(false, Ordering::Release);
        }
        let released = table.released.get_mut(end).map(std::mem::take);
        let mut released = released.unwrap_or_default();
        // One that had caused more before its worker noticed is held again.
        released.retain(|name| !table.conns.get(name).is_some_and(|conn| conn.is_held));
        released
    }

    /// How many wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Acquire)
    }

    /// How many conns are not read because of those that wait.
    pub(super) fn held(&self) -> usize {
        self.held.load(Ordering::Acquire)
    }

    /// How many were not handed out because another has undone them, and those others.
    pub(super) fn cancelled(&self) -> u64 {
        self.cancelled.load(Ordering::Relaxed)
    }

    /// Whether a conn has too many, or has its release yet to be noticed by its worker.
    pub(super) fn holds(&self, conn: ConnName, end: usize) -> bool {
        let table = self.lock();
        let is_released = |names: &Vec<ConnName>| names.contains(&conn);
        table.conns.get(&conn).is_some_and(|conn| conn.is_held)
            || table.released.get(end).is_some_and(is_released)
    }

    fn count(&self, table: &Table) {
        let waiting = table.by_order.len() + usize::from(table.lost.is_some());
        self.waiting.store(waiting, Ordering::Release);
        self.held.store(table.held, Ordering::Release);
        self.cancelled.store(table.cancelled, Ordering::Relaxed);
    }
}

/// The end of the worker that has to be woken, if one has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Woken(pub(super) Option<usize>);

impl Lost {
    fn waiting(self) -> WaitingNotice {
        WaitingNotice {
            order: self.order,
            report: Report::Lost(self.count),
            is_due: true,
        }
    }
}

impl Entry {
    fn waiting(&self, order: u64, taken: u64) -> WaitingNotice {
        WaitingNotice {
            order,
            report: Report::Notice(self.notice.clone()),
            is_due: taken >= self.origin.reports,
        }
    }
}

impl Table {
    /// Adds a notice, or removes the one that it undoes. That may let its conn be read again.
    fn add(&mut self, notice: Notice, origin: Origin, bounds: Bounds) -> (Added, Option<Woken>) {
        let key = (notice.conn, notice.channel.clone());
        let latest = self.latest.get(&key).copied();
        let published = self.conns.get(&notice.conn).map(|conn| conn.published);
        if let Some(order) = latest.filter(|order| published <= Some(*order))
            && let Some(entry) = self.by_order.get(&order)
            && entry.is_undone_by(&notice, origin)
        {
            self.cancelled += 2;
            return (Added::Cancelled, self.remove(order, bounds));
        }
        let order = self.next_order;
        self.next_order += 1;
        if self.by_order.len() >= bounds.notices {
            self.lost.get_or_insert(Lost { order, count: 0 }).count += 1;
            return (Added::Lost, None);
        }
        let conn = self.conns.entry(notice.conn).or_default();
        conn.orders.insert(order);
        let is_full = conn.orders.len() >= bounds.per_conn;
        self.held += usize::from(is_full && !conn.is_held);
        conn.is_held |= is_full;
        self.latest.insert(key, order);
        self.by_order.insert(order, Entry { notice, origin });
        match is_full {
            true => (Added::Full, None),
            false => (Added::Kept, None),
        }
    }

    fn forget(&mut self, conn: ConnName) {
        if let Some(conn) = self.conns.get_mut(&conn).filter(|conn| conn.is_held) {
            conn.is_held = false;
            self.held -= 1;
        }
    }

    /// Consumers have the count of so many that were lost. What was lost meanwhile keeps the place:
    /// it is missing before what comes after that.
    fn take_lost(&mut self, count: u64) {
        self.lost = self
            .lost
            .filter(|lost| lost.count > count)
            .map(|lost| Lost {
                count: lost.count - count,
                ..lost
            });
    }

    fn remove(&mut self, order: u64, bounds: Bounds) -> Option<Woken> {
        let Entry { notice, origin } = self.by_order.remove(&order)?;
        let key = (notice.conn, notice.channel.clone());
        if self.latest.get(&key) == Some(&order) {
            self.latest.remove(&key);
        }
        let mut woken = None;
        if let Some(conn) = self.conns.get_mut(&notice.conn) {
            conn.orders.remove(&order);
            // Not at the first, so that a worker is not woken for each.
            if conn.is_held && conn.orders.len() <= bounds.per_conn / 2 {
                conn.is_held = false;
                self.held -= 1;
                if let Some(released) = self.released.get_mut(origin.end) {
                    released.push(notice.conn);
                    woken = Some(origin.end);
                }
            }
            if conn.orders.is_empty() {
                self.conns.remove(&notice.conn);
            }
        }
        if self.by_order.is_empty() && self.latest.capacity() > CAPACITY_KEPT {
            self.latest = HashMap::default();
            self.conns = HashMap::default();
        }
        Some(Woken(woken))
    }

    fn first(&self, from: u64, taken: &[u64]) -> Option<WaitingNotice> {
        let first = self.by_order.range(from..).next();
        if let Some(Lost { order, count }) = self.lost
            && order >= from
            && first.is_none_or(|(first, _)| *first > order)
        {
            return Some(Lost { order, count }.waiting());
        }
        let (order, entry) = first?;
        let taken = taken.get(entry.origin.end).copied().unwrap_or(u64::MAX);
        Some(entry.waiting(*order, taken))
    }
}
