//! Reports from workers to the feed, in one bounded queue on which workers never block.
//!
//! All workers share the queue for publications and requests of clients. If the queue has no room,
//! a worker keeps its reports, in order, and is woken when the queue has room again. Until then, a
//! conn with a kept report is not read. The memory for kept reports is limited too; reports that
//! exceed the limit are refused.
//!
//! Notices (a conn has subscribed or unsubscribed) are stored in a separate table, from which the
//! feed reads each notice as a [`WaitingNotice`]. A publication may overtake notices of other
//! conns, but the reports and notices of one conn stay in order. So a notice stores the number of
//! earlier reports of its worker, and waits until the feed has accepted these reports. Before the
//! feed accepts a publication, it accepts the earlier notices of the same conn.

mod notices;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::{Receiver, Sender, TrySendError};
use foldhash::fast::RandomState;
use hashbrown::HashSet;

use self::notices::{Added, HAS_END, Notices, Origin, Woken};
use crate::backend::{Notice, Report};
use crate::certain;
use crate::config::limits::{REPORTS_MAX, UPSTREAM_BYTES_MAX};
use crate::id::ConnName;
use crate::sys::wake::Wake;
use crate::traceparent::TraceParent;

pub use self::notices::{Bounds, WaitingNotice};

/// The sender of one worker for reports and notices to the feed.
#[derive(Debug)]
pub struct Upstream {
    end: usize,
    sender: Sender<Sent>,
    feed: Arc<Wake>,
    /// Whether this worker waits for room in the queue.
    is_waiting: Arc<AtomicBool>,
    /// Reports that did not fit into the queue, oldest first.
    kept: VecDeque<Report>,
    /// The number of bytes in `kept`.
    bytes: usize,
    notices: Arc<Notices>,
    /// The number of reports that were sent or kept so far.
    reports: u64,
    /// The number of times that the watched channels have changed.
    watch: u64,
    /// Conns that are not read because too many of their notices wait for the feed.
    full: HashSet<ConnName, RandomState>,
}

/// The receiver in the feed for the reports and notices of all workers.
#[derive(Debug)]
pub struct Reports {
    receiver: Receiver<Sent>,
    /// The oldest report. It was removed from the queue, and the feed has not accepted it yet.
    front: Option<Sent>,
    workers: Vec<(Arc<Wake>, Arc<AtomicBool>)>,
    /// The number of reports that the feed has accepted from each worker.
    taken: Vec<u64>,
    notices: Arc<Notices>,
}

/// A report, and the index of the worker that sent it.
#[derive(Debug)]
struct Sent {
    end: usize,
    report: Report,
}

/// The result of [`Upstream::report`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Reported {
    /// The report is in the feed's queue.
    AtOnce,
    /// The queue has no room. The worker keeps the report until it has room.
    Later,
    /// The report was dropped, because the worker already keeps too many bytes.
    Refused,
}

/// The result of [`Upstream::notify`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Noticed {
    /// The worker may continue to read from the conn.
    AtOnce,
    /// The worker must not read from the conn until [`Upstream::take_released`] returns this conn.
    Full,
}

/// Creates one sending end for each worker, and the receiving end for the feed. The feed wakes
/// worker `i` with `wakes[i]`. Workers wake the feed with `feed`.
#[must_use]
pub fn upstream(wakes: &[Arc<Wake>], feed: &Arc<Wake>, bounds: Bounds) -> (Vec<Upstream>, Reports) {
    let (sender, receiver) = crossbeam_channel::bounded(REPORTS_MAX);
    let notices = Arc::new(Notices::new(wakes.len(), bounds));
    let flags: Vec<Arc<AtomicBool>> = wakes.iter().map(|_| Arc::default()).collect();
    let ends = flags.iter().enumerate().map(|(end, flag)| Upstream {
        end,
        sender: sender.clone(),
        feed: Arc::clone(feed),
        is_waiting: Arc::clone(flag),
        kept: VecDeque::new(),
        bytes: 0,
        notices: Arc::clone(&notices),
        reports: 0,
        watch: 0,
        full: HashSet::default(),
    });
    let ends = ends.collect();
    let reports = Reports {
        receiver,
        front: None,
        workers: wakes.iter().map(Arc::clone).zip(flags).collect(),
        taken: vec![0; wakes.len()],
        notices,
    };
    (ends, reports)
}

impl Upstream {
    /// Sends a report of a client to the feed: a publication or a request. If the queue to the feed
    /// has no room, the report waits here. If too many reports wait here, it is refused.
    pub fn report(&mut self, report: Report) -> Reported {
        debug_assert!(matches!(report, Report::Count { .. } | Report::Publish(_)));
        if let Report::Publish(publication) = &report
            && self.notices.waiting() > 0
        {
            self.notices.note_published(publication.from);
        }
        let reported = self.send_or_keep(report);
        self.reports += u64::from(reported != Reported::Refused);
        reported
    }

    fn send_or_keep(&mut self, report: Report) -> Reported {
        if !self.kept.is_empty() {
            return self.keep(report);
        }
        match self.try_send(report) {
            Ok(()) => {
                self.feed.wake();
                Reported::AtOnce
            }
            Err(report) => {
                let reported = self.keep(report);
                self.send_kept();
                reported
            }
        }
    }

    /// Adds a notice for the feed. If a waiting notice and the new one cancel each other, removes
    /// the waiting one instead.
    pub fn notify(&mut self, notice: Notice) -> Noticed {
        let conn = notice.conn;
        let origin = Origin {
            end: self.end,
            reports: self.reports,
            watch: self.watch,
        };
        let added = self.notices.add(notice, origin);
        if added == Added::Cancelled {
            return Noticed::AtOnce;
        }
        self.feed.wake();
        if added == Added::Full {
            self.full.insert(conn);
            return Noticed::Full;
        }
        Noticed::AtOnce
    }

    /// Whether a conn is not read because too many of its notices wait for the feed.
    #[must_use]
    pub fn is_full(&self, conn: ConnName) -> bool {
        !self.full.is_empty() && self.full.contains(&conn)
    }

    /// Called when a conn has closed. Its notices keep waiting for the feed.
    pub fn forget(&mut self, conn: ConnName) {
        if !self.full.is_empty() && self.full.remove(&conn) {
            self.notices.forget(conn);
        }
    }

    /// Whether [`Upstream::take_released`] has conns to return.
    #[must_use]
    pub fn has_released(&self) -> bool {
        self.notices.has_released(self.end)
    }

    /// Returns the conns that may be read again, because the feed has accepted enough of their
    /// notices.
    pub fn take_released(&mut self) -> Vec<ConnName> {
        if !self.has_released() {
            return Vec::new();
        }
        let released = self.notices.take_released(self.end);
        for conn in &released {
            self.full.remove(conn);
        }
        released
    }

    /// Records that the set of channels that consumers watch has changed. From now on, a new
    /// arrival does not cancel an earlier departure. Otherwise a consumer that has just begun to
    /// watch would not receive the arrival.
    pub fn note_watch(&mut self) {
        self.watch += 1;
    }

    /// Whether this worker keeps reports because the queue has no room.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        !self.kept.is_empty()
    }

    /// Sends kept reports while the queue has room.
    pub fn send_kept(&mut self) {
        if !self.is_behind() {
            return;
        }
        // `is_waiting` must be set before the worker tries to send. After the feed has removed a
        // report from the queue, it reads `is_waiting` and wakes the worker.
        self.is_waiting.store(true, Ordering::SeqCst);
        let mut has_sent = false;
        while let Some(report) = self.kept.pop_front() {
            let bytes = weight(&report);
            match self.try_send(report) {
                Ok(()) => {
                    self.bytes -= bytes;
                    has_sent = true;
                }
                Err(report) => {
                    self.kept.push_front(report);
                    break;
                }
            }
        }
        if has_sent {
            self.feed.wake();
        }
        if !self.is_behind() {
            self.is_waiting.store(false, Ordering::SeqCst);
            self.kept = VecDeque::new();
        }
    }

    fn try_send(&self, report: Report) -> Result<(), Report> {
        let end = self.end;
        match self.sender.try_send(Sent { end, report }) {
            // If the receiver is disconnected, the feed has ended and needs no reports.
            Ok(()) | Err(TrySendError::Disconnected(_)) => Ok(()),
            Err(TrySendError::Full(Sent { report, .. })) => Err(report),
        }
    }

    fn keep(&mut self, report: Report) -> Reported {
        let bytes = weight(&report);
        if self.bytes + bytes > UPSTREAM_BYTES_MAX {
            return Reported::Refused;
        }
        self.bytes += bytes;
        self.kept.push_back(report);
        Reported::Later
    }

    /// This worker lists the conns that it does not read because of too many waiting notices.
    /// Panics if, according to the table of notices, the worker may read one of these conns. For
    /// tests.
    #[doc(hidden)]
    pub fn check_invariants(&self) {
        for conn in &self.full {
            assert!(
                self.notices.holds(*conn, self.end),
                "{conn} is held without notices"
            );
        }
    }
}

/// Returns the number of reports that the feed has accepted from a worker.
fn reports_taken(taken: &[u64], end: usize) -> u64 {
    let count = certain::some(taken.get(end), HAS_END);
    count.copied().unwrap_or(u64::MAX)
}

/// Returns the bytes of a report that count towards the limit on kept reports.
fn weight(report: &Report) -> usize {
    size_of::<Report>()
        + match report {
            Report::Publish(publication) => {
                let traced = publication.traceparent.as_ref();
                let key = publication.dedupe.as_ref().map_or(0, |key| key.len());
                publication.data.len() + key + traced.map_or(0, |_| TraceParent::BYTES)
            }
            Report::Count { .. } | Report::Lost(_) | Report::Notice(_) => 0,
        }
}

impl Reports {
    /// Returns the oldest publication or request, or `None` if there is none. If the queue then has
    /// room, wakes the workers that wait for it.
    pub fn front(&mut self) -> Option<&Report> {
        if self.front.is_none() {
            self.front = Some(self.receiver.try_recv().ok()?);
            for (wake, is_waiting) in &self.workers {
                if is_waiting.load(Ordering::SeqCst) && is_waiting.swap(false, Ordering::SeqCst) {
                    wake.wake();
                }
            }
        }
        self.front.as_ref().map(|sent| &sent.report)
    }

    /// If the front of the queue is a publication, returns the notices that consumers must receive
    /// before it.
    #[must_use]
    pub fn notices_before_front(&self) -> Vec<WaitingNotice> {
        let Some(Sent { end, report }) = &self.front else {
            return Vec::new();
        };
        match report {
            Report::Publish(publication) if self.has_notices() => {
                let taken = reports_taken(&self.taken, *end);
                self.notices.of_conn(publication.from, taken)
            }
            _ => Vec::new(),
        }
    }

    /// Removes and returns the report at the front of the queue.
    #[must_use]
    pub fn take(&mut self) -> Option<Report> {
        self.front()?;
        let Sent { end, report } = self.front.take()?;
        if let Some(taken) = certain::some(self.taken.get_mut(end), HAS_END) {
            *taken += 1;
        }
        Some(report)
    }

    /// Returns the first waiting entry whose `order` is at least `from`. The entry is a notice, or
    /// a number of lost notices. A caller that skips a notice must also skip all later notices of
    /// the same conn.
    #[must_use]
    pub fn notice(&self, from: u64) -> Option<WaitingNotice> {
        match self.has_notices() {
            true => self.notices.first(from, &self.taken),
            false => None,
        }
    }

    /// Removes a notice from the table. The caller sends it to consumers afterwards. Returns false
    /// if the notice was cancelled meanwhile.
    #[must_use]
    pub fn take_notice(&self, notice: &WaitingNotice) -> bool {
        let Some(Woken(end)) = self.notices.take(notice) else {
            return false;
        };
        if let Some(end) = end
            && let Some((wake, _)) = certain::some(self.workers.get(end), HAS_END)
        {
            wake.wake();
        }
        true
    }

    /// Whether no publication and no request is in the queue.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.front.is_none() && self.receiver.is_empty()
    }

    /// Whether a notice or a number of lost notices is waiting.
    #[must_use]
    pub fn has_notices(&self) -> bool {
        self.notices_waiting() > 0
    }

    /// Returns the number of waiting notices, plus one if notices were lost.
    #[must_use]
    pub fn notices_waiting(&self) -> usize {
        self.notices.waiting()
    }

    /// Whether some conns are not read because too many of their notices wait.
    #[must_use]
    pub fn has_held(&self) -> bool {
        self.notices.held() > 0
    }

    /// Returns how many notices were removed because a subscription and its end cancelled each
    /// other.
    #[must_use]
    pub fn notices_cancelled(&self) -> u64 {
        self.notices.cancelled()
    }
}
