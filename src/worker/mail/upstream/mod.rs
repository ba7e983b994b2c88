//! Reports from workers to the feed: one bounded queue. Workers never block on it.
//!
//! All workers share one queue for publications and questions. A worker for whose report there is
//! no room keeps it, in order, and is woken when the feed has taken some; meanwhile the conn that
//! caused it is not read. What a worker keeps is bounded too, and publications beyond that are
//! refused.
//!
//! Notices have a table of their own ([`Waiting`] is one of them). A publication may overtake
//! notices of other conns; what one conn causes stays in order. A notice therefore notes how many
//! reports its worker had made, and waits until the feed has taken them. A publication comes with
//! the notices that its conn had caused before it.

mod notices;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::{Receiver, Sender, TrySendError};
use foldhash::fast::RandomState;
use hashbrown::HashSet;

use self::notices::{Added, Notices, Origin, Woken};
use crate::backend::{Notice, Report};
use crate::config::limits::{REPORTS_MAX, UPSTREAM_BYTES_MAX};
use crate::id::ConnName;
use crate::sys::wake::Wake;

pub use self::notices::{Bounds, Waiting};

/// A worker's end.
#[derive(Debug)]
pub struct Upstream {
    end: usize,
    sender: Sender<Sent>,
    feed: Arc<Wake>,
    /// Whether this worker waits for room.
    is_waiting: Arc<AtomicBool>,
    /// What there was no room for, oldest first.
    kept: VecDeque<Report>,
    /// Bytes of `kept`.
    bytes: usize,
    notices: Arc<Notices>,
    /// Reports so far, without refused ones.
    reports: u64,
    /// How often consumers have changed which notices they want.
    watch: u64,
    /// Conns with so many notices that they are not read.
    full: HashSet<ConnName, RandomState>,
}

/// The feed's end.
#[derive(Debug)]
pub struct Reports {
    receiver: Receiver<Sent>,
    /// The oldest that is not taken.
    front: Option<Sent>,
    workers: Vec<(Arc<Wake>, Arc<AtomicBool>)>,
    /// Reports of each worker that were taken.
    taken: Vec<u64>,
    notices: Arc<Notices>,
}

/// A report and the end that it comes from.
#[derive(Debug)]
struct Sent {
    end: usize,
    report: Report,
}

/// How a report was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Reported {
    /// The feed will see it.
    AtOnce,
    /// It is kept until the feed has room.
    Later,
    /// Too much is kept already, and this is gone.
    Refused,
}

/// How a notice was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Noticed {
    /// Its conn may cause more.
    AtOnce,
    /// It waits, and its conn must not be read until [`Upstream::take_released`] names it.
    Full,
}

/// Makes both ends, one of them for each worker's wake. `feed` wakes the feed.
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
    /// Gives the feed a publication or a question, now or later.
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

    /// Gives the feed a notice, or takes back the one that it undoes.
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

    /// Whether a conn has so many notices that it is not read.
    #[must_use]
    pub fn is_full(&self, conn: ConnName) -> bool {
        !self.full.is_empty() && self.full.contains(&conn)
    }

    /// Forgets a conn that has closed. Its notices hold up no client any more.
    pub fn forget(&mut self, conn: ConnName) {
        if !self.full.is_empty() && self.full.remove(&conn) {
            self.notices.forget(conn);
        }
    }

    /// Whether [`Upstream::take_released`] names a conn.
    #[must_use]
    pub fn has_released(&self) -> bool {
        self.notices.has_released(self.end)
    }

    /// Conns of which the feed has taken enough notices.
    pub fn take_released(&mut self) -> Vec<ConnName> {
        if !self.has_released() {
            return Vec::new();
        }
        let released = self.notices.released(self.end);
        for conn in &released {
            self.full.remove(conn);
        }
        released
    }

    /// Consumers want something else now. A departure from before is not cancelled any more: a new
    /// consumer would miss the arrival.
    pub fn note_watch(&mut self) {
        self.watch += 1;
    }

    /// Whether a report waits for room.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        !self.kept.is_empty()
    }

    /// Hands over what was kept, as far as there is room.
    pub fn send_kept(&mut self) {
        if !self.is_behind() {
            return;
        }
        // The feed looks at the flag after making room, so it is set before room is looked for.
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
            // The feed has ended and misses nothing.
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

    /// Panics if a conn would never be read again for its notices.
    #[doc(hidden)]
    pub fn check_invariants(&self) {
        for conn in &self.full {
            assert!(
                self.notices.holds(*conn, self.end),
                "{conn} is full of nothing"
            );
        }
    }
}

/// The bytes for which a report counts.
fn weight(report: &Report) -> usize {
    size_of::<Report>()
        + match report {
            Report::Publish(publication) => publication.data.len(),
            Report::Count { .. } | Report::Lost(_) | Report::Notice(_) => 0,
        }
}

impl Reports {
    /// The oldest publication or question, if there is one. Wakes workers that wait for room.
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

    /// The notices that consumers of the publication in front have to be given before it.
    #[must_use]
    pub fn notices_before_front(&self) -> Vec<Waiting> {
        let Some(Sent { end, report }) = &self.front else {
            return Vec::new();
        };
        match report {
            Report::Publish(publication) if self.has_notices() => {
                let taken = self.taken.get(*end).copied().unwrap_or(u64::MAX);
                self.notices.of_conn(publication.from, taken)
            }
            _ => Vec::new(),
        }
    }

    /// Takes the one in front.
    #[must_use]
    pub fn take(&mut self) -> Option<Report> {
        self.front()?;
        let Sent { end, report } = self.front.take()?;
        if let Some(taken) = self.taken.get_mut(end) {
            *taken += 1;
        }
        Some(report)
    }

    /// The oldest notice, or count of lost ones, from a place in their order on. One that is passed
    /// over stays, and so must all of its conn.
    #[must_use]
    pub fn notice(&self, from: u64) -> Option<Waiting> {
        match self.has_notices() {
            true => self.notices.first(from, &self.taken),
            false => None,
        }
    }

    /// Takes a notice that is about to be handed out. False if it was undone meanwhile.
    #[must_use]
    pub fn take_notice(&self, notice: &Waiting) -> bool {
        let Some(Woken(end)) = self.notices.take(notice) else {
            return false;
        };
        if let Some((wake, _)) = end.and_then(|end| self.workers.get(end)) {
            wake.wake();
        }
        true
    }

    /// Whether no publication and no question waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.front.is_none() && self.receiver.is_empty()
    }

    /// Whether notices wait, or a count of lost ones.
    #[must_use]
    pub fn has_notices(&self) -> bool {
        self.notices_waiting() > 0
    }

    /// How many notices wait.
    #[must_use]
    pub fn notices_waiting(&self) -> usize {
        self.notices.waiting()
    }

    /// Whether conns are not read until more notices are taken.
    #[must_use]
    pub fn has_held(&self) -> bool {
        self.notices.held() > 0
    }

    /// How many notices were not handed out because one of the pair undid the other.
    #[must_use]
    pub fn notices_cancelled(&self) -> u64 {
        self.notices.cancelled()
    }
}
