//! The notices that wait for the feed, in one bounded table for all workers. A notice says that a
//! conn has subscribed to a channel (*arrival*) or unsubscribed (*departure*).
//!
//! The table is separate from the queue of reports, so that notices never delay publications. An
//! arrival and a departure of the same conn and channel cancel each other, unless the conn has
//! published in between. So the size of the table depends on what has changed, not on how often it
//! changed. A conn with too many waiting notices is not read until the feed has accepted some of
//! them. Notices that exceed the limit for all conns are dropped and counted as lost.
//!
//! Workers add notices, and the feed removes them. The lock is held only for a few look-ups.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use foldhash::fast::RandomState;
use hashbrown::HashMap;

use crate::backend::{Notice, Report};
use crate::certain;
use crate::config::limits::{NOTICES_MAX, NOTICES_PER_CONN_MAX};
use crate::id::{ChannelName, ConnName};

/// If the table is empty and its capacity exceeds this number, its memory is freed.
const CAPACITY_KEPT: usize = 1024;

/// The limits on waiting notices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// The maximum number of waiting notices of all conns together. Further notices are dropped and
    /// counted as lost.
    pub notices: usize,
    /// The maximum number of waiting notices of one conn. A conn that reaches this number is not
    /// read.
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

/// A notice that waits for the feed, or a number of lost notices.
#[derive(Debug, PartialEq, Eq)]
pub struct WaitingNotice {
    /// The position of the notice among all notices: a later notice has a larger number.
    pub order: u64,
    /// The notice ([`Report::Notice`]), or the number of lost notices ([`Report::Lost`]).
    pub report: Report,
    /// Whether the notice may be sent now: the feed has accepted all earlier reports of the
    /// notice's worker.
    pub is_due: bool,
}

/// The worker that adds a notice, and counters of that worker when the notice is added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    /// The index of the worker.
    pub(super) end: usize,
    /// The number of earlier reports of the worker. The feed accepts these reports before the
    /// notice.
    pub(super) reports: u64,
    /// The number of times that the watched channels changed before the notice.
    pub(super) watch: u64,
}

/// The outcome of adding a notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Added {
    /// The notice and a waiting notice have cancelled each other.
    Cancelled,
    /// The notice waits. The conn has too many waiting notices and must not be read.
    Full,
    /// The notice waits, and its conn may be read.
    Kept,
    /// The table was full. The notice was dropped and counted as lost.
    Lost,
}

/// The table with its lock, and counts that can be read without the lock.
#[derive(Debug)]
pub(super) struct Notices {
    table: Mutex<Table>,
    bounds: Bounds,
    /// The number of waiting notices, plus one if notices were lost.
    waiting: AtomicUsize,
    /// The number of conns that are not read because too many of their notices wait.
    held: AtomicUsize,
    /// For each worker, whether some of its conns may be read again.
    has_released: Box<[AtomicBool]>,
    cancelled: AtomicU64,
}

#[derive(Debug, Default)]
struct Table {
    next_order: u64,
    by_order: BTreeMap<u64, Entry>,
    /// The number (`order`) of the latest waiting notice of each conn and channel.
    latest: HashMap<(ConnName, ChannelName), u64, RandomState>,
    conns: HashMap<ConnName, Conn, RandomState>,
    /// The number of conns that are not read because too many of their notices wait.
    held: usize,
    lost: Option<Lost>,
    cancelled: u64,
    /// For each worker, its conns that may be read again.
    released: Vec<Vec<ConnName>>,
}

#[derive(Debug)]
struct Entry {
    notice: Notice,
    origin: Origin,
}

/// The waiting notices of one conn. There is at least one.
#[derive(Debug, Default)]
struct Conn {
    orders: BTreeSet<u64>,
    /// Notices with a smaller number (`order`) were added before the conn's latest publication.
    published: u64,
    is_held: bool,
}

/// The number of lost notices. Consumers receive it at the position of the first lost notice.
#[derive(Clone, Copy, Debug)]
struct Lost {
    order: u64,
    count: u64,
}

impl Entry {
    /// Whether this waiting notice and a new notice cancel each other. A departure cancels any
    /// waiting arrival. An arrival cancels a waiting departure only if both have the same token
    /// subject and the set of watched channels has not changed in between.
    fn is_cancelled_by(&self, notice: &Notice, origin: Origin) -> bool {
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

    /// Adds a notice. If a waiting notice and the new one cancel each other, removes the waiting
    /// one instead.
    pub(super) fn add(&self, notice: Notice, origin: Origin) -> Added {
        let mut table = self.lock();
        let (added, woken) = table.add(notice, origin, self.bounds);
        self.note_released(woken);
        self.count(&table);
        added
    }

    /// Records that a conn publishes. From now on, no new notice cancels its earlier notices.
    pub(super) fn note_published(&self, conn: ConnName) {
        let mut table = self.lock();
        let next_order = table.next_order;
        if let Some(conn) = table.conns.get_mut(&conn) {
            conn.published = next_order;
        }
    }

    /// Returns the first waiting notice whose number is `from` or larger, and whether it is due. A
    /// notice is due if the feed has accepted all earlier reports of the same worker. `taken` has
    /// the number of accepted reports of each worker.
    pub(super) fn first(&self, from: u64, taken: &[u64]) -> Option<WaitingNotice> {
        self.lock().first(from, taken)
    }

    /// Returns the waiting notices of a conn that consumers must receive before a report of the
    /// conn. `reports` is the number of reports that the conn's worker sent before this report. If
    /// notices were lost before one of the returned notices, the result has their number at that
    /// position.
    pub(super) fn of_conn(&self, conn: ConnName, reports: u64) -> Vec<WaitingNotice> {
        let table = self.lock();
        let orders = table.conns.get(&conn).map(|conn| conn.orders.iter());
        let entries = orders.into_iter().flatten().filter_map(|order| {
            let entry = table.by_order.get(order);
            let entry = certain::some(entry, "a conn lists waiting notices")?;
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

    /// Removes a waiting entry from the table: a notice, or a number of lost notices. Returns
    /// `None` if the notice was cancelled meanwhile. If a conn may now be read again, the result
    /// contains the index of the conn's worker, which must be woken.
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
        if let Some(Woken(Some(end))) = woken
            && let Some(has_released) = certain::some(self.has_released.get(end), HAS_END)
        {
            has_released.store(true, Ordering::Release);
        }
    }

    /// Called when a conn has closed. The conn is removed from the number of conns that are not
    /// read. Its notices keep waiting for the feed.
    pub(super) fn forget(&self, conn: ConnName) {
        let mut table = self.lock();
        table.forget(conn);
        self.count(&table);
    }

    /// Whether some conns of a worker may be read again.
    pub(super) fn has_released(&self, end: usize) -> bool {
        let has_released = certain::some(self.has_released.get(end), HAS_END);
        has_released.is_some_and(|has_released| has_released.load(Ordering::Acquire))
    }

    /// Returns the conns of a worker that may be read again, and clears the list.
    pub(super) fn take_released(&self, end: usize) -> Vec<ConnName> {
        let mut table = self.lock();
        if let Some(has_released) = certain::some(self.has_released.get(end), HAS_END) {
            has_released.store(false, Ordering::Release);
        }
        let released = certain::some(table.released.get_mut(end), HAS_END);
        let mut released = released.map(std::mem::take).unwrap_or_default();
        // A conn in this list may have reached the limit on its notices again. Such a conn must not
        // be read, so it is removed from the list.
        released.retain(|name| !table.conns.get(name).is_some_and(|conn| conn.is_held));
        released
    }

    /// Returns the number of waiting notices, plus one if notices were lost.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Acquire)
    }

    /// Returns the number of conns that are not read because too many of their notices wait.
    pub(super) fn held(&self) -> usize {
        self.held.load(Ordering::Acquire)
    }

    /// Returns the number of cancelled notices. Each pair counts as two.
    pub(super) fn cancelled(&self) -> u64 {
        self.cancelled.load(Ordering::Relaxed)
    }

    /// Whether the worker of a conn must not read the conn, or has not yet learned that it may read
    /// the conn again.
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

/// The index of the worker to wake, or `None`.
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

/// The message if a worker's index is out of range, which is a bug.
pub(super) const HAS_END: &str = "each worker has an end";

impl Table {
    /// Adds a notice. If a waiting notice and the new one cancel each other, removes the waiting
    /// one instead. The conn may then be read again.
    fn add(&mut self, notice: Notice, origin: Origin, bounds: Bounds) -> (Added, Option<Woken>) {
        let key = (notice.conn, notice.channel.clone());
        let latest = self.latest.get(&key).copied();
        let published = self.conns.get(&notice.conn).map(|conn| conn.published);
        if let Some(order) = latest.filter(|order| published <= Some(*order))
            && let Some(entry) = self.by_order.get(&order)
            && entry.is_cancelled_by(&notice, origin)
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

    /// Called after a number of lost notices was reported to consumers. If more notices were lost
    /// meanwhile, the difference is kept and reported later.
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
        let conn = self.conns.get_mut(&notice.conn);
        if let Some(conn) = certain::some(conn, "the conn of a waiting notice is listed") {
            conn.orders.remove(&order);
            // The conn may be read again only when half of its notices are left. Otherwise its
            // worker would be woken for each notice.
            if conn.is_held && conn.orders.len() <= bounds.per_conn / 2 {
                conn.is_held = false;
                self.held -= 1;
                let released = self.released.get_mut(origin.end);
                if let Some(released) = certain::some(released, HAS_END) {
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
        let taken = super::reports_taken(taken, entry.origin.end);
        Some(entry.waiting(*order, taken))
    }
}
