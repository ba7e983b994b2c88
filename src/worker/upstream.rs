//! The one way out of the workers: reports to the feed, bounded, and never waited for.
//!
//! All workers share one queue. A worker for whose report there is no room keeps it, in order, and
//! is woken when the feed has taken some; meanwhile the conn that caused it is not read. What it
//! keeps is bounded too: comings and goings beyond that are counted, so that a consumer is told how
//! many it missed, and publications are refused.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::{Receiver, Sender, TrySendError};

use crate::config::limits::{NOTICES_MAX, REPORTS_MAX, UPSTREAM_BYTES_MAX};
use crate::dialogue::Report;
use crate::sys::wake::Wake;

/// A worker's end.
#[derive(Debug)]
pub struct Upstream {
    sender: Sender<Report>,
    feed: Arc<Wake>,
    /// Whether this worker waits for room.
    is_waiting: Arc<AtomicBool>,
    /// What there was no room for, oldest first.
    kept: VecDeque<Report>,
    /// Notices in `kept`.
    notices: usize,
    /// Bytes of publications in `kept`.
    bytes: usize,
    /// Notices that were not even kept.
    lost: u64,
}

/// The feed's end.
#[derive(Debug)]
pub struct Reports {
    receiver: Receiver<Report>,
    workers: Vec<(Arc<Wake>, Arc<AtomicBool>)>,
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

/// Makes both ends, one of them for each worker's wake. `feed` wakes the feed.
#[must_use]
pub fn upstream(wakes: &[Arc<Wake>], feed: &Arc<Wake>) -> (Vec<Upstream>, Reports) {
    let (sender, receiver) = crossbeam_channel::bounded(REPORTS_MAX);
    let flags: Vec<Arc<AtomicBool>> = wakes.iter().map(|_| Arc::default()).collect();
    let ends = flags.iter().map(|flag| Upstream {
        sender: sender.clone(),
        feed: Arc::clone(feed),
        is_waiting: Arc::clone(flag),
        kept: VecDeque::new(),
        notices: 0,
        bytes: 0,
        lost: 0,
    });
    let ends = ends.collect();
    let workers = wakes.iter().map(Arc::clone).zip(flags).collect();
    (ends, Reports { receiver, workers })
}

impl Upstream {
    /// Tells the feed something, now or later.
    pub fn report(&mut self, report: Report) -> Reported {
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

    /// Whether something waits for the feed.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        !self.kept.is_empty() || self.lost > 0
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
            let (notices, bytes) = weight(&report);
            match self.try_send(report) {
                Ok(()) => {
                    self.notices -= notices;
                    self.bytes -= bytes;
                    has_sent = true;
                }
                Err(report) => {
                    self.kept.push_front(report);
                    break;
                }
            }
        }
        if self.kept.is_empty() && self.lost > 0 && self.try_send(Report::Lost(self.lost)).is_ok() {
            self.lost = 0;
            has_sent = true;
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
        match self.sender.try_send(report) {
            // Nobody listens any more, so nobody misses it.
            Ok(()) | Err(TrySendError::Disconnected(_)) => Ok(()),
            Err(TrySendError::Full(report)) => Err(report),
        }
    }

    fn keep(&mut self, report: Report) -> Reported {
        let (notices, bytes) = weight(&report);
        if self.notices + notices > NOTICES_MAX {
            self.lost += 1;
            return Reported::Refused;
        }
        if self.bytes + bytes > UPSTREAM_BYTES_MAX {
            return Reported::Refused;
        }
        self.notices += notices;
        self.bytes += bytes;
        self.kept.push_back(report);
        Reported::Later
    }
}

/// What a report counts for: notices, and bytes.
fn weight(report: &Report) -> (usize, usize) {
    match report {
        Report::Notice(_) => (1, 0),
        Report::Publish(publication) => (0, size_of::<Report>() + publication.data.len()),
        Report::Count { .. } | Report::Lost(_) => (0, size_of::<Report>()),
    }
}

impl Reports {
    /// The next report, if there is one. Whoever waits for room is told.
    #[must_use]
    pub fn take(&self) -> Option<Report> {
        let report = self.receiver.try_recv().ok()?;
        for (wake, is_waiting) in &self.workers {
            if is_waiting.load(Ordering::SeqCst) && is_waiting.swap(false, Ordering::SeqCst) {
                wake.wake();
            }
        }
        Some(report)
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.receiver.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialogue::{ClientPublication, Notice};
    use crate::effect::Audience;
    use crate::id::{ChannelName, ConnName, RunId};

    fn ends() -> (Upstream, Reports) {
        let wake = || Arc::new(Wake::new().unwrap());
        let (mut ends, reports) = upstream(&[wake()], &wake());
        (ends.pop().unwrap(), reports)
    }

    fn from(slot: u32) -> ConnName {
        ConnName {
            run: RunId(0),
            worker: 0,
            slot,
            serial: 0,
        }
    }

    fn notice(slot: u32) -> Report {
        Report::Notice(Notice {
            conn: from(slot),
            sub: None,
            channel: ChannelName::new("a").unwrap(),
            has_come: true,
        })
    }

    fn publication(bytes: usize) -> Report {
        Report::Publish(ClientPublication {
            from: from(0),
            sub: None,
            channel: ChannelName::new("a").unwrap(),
            data: "1".repeat(bytes).into(),
            reference: None,
            audience: Audience::Consumers,
        })
    }

    #[test]
    fn reports_keep_their_order_over_a_full_queue() {
        let (mut end, reports) = ends();
        let count = u32::try_from(REPORTS_MAX).unwrap();
        for slot in 0..count {
            assert_eq!(end.report(notice(slot)), Reported::AtOnce);
        }
        assert_eq!(end.report(notice(count)), Reported::Later);
        assert_eq!(end.report(notice(count + 1)), Reported::Later);
        assert!(end.is_behind());
        for slot in 0..count + 2 {
            assert_eq!(reports.take(), Some(notice(slot)));
            end.send_kept();
        }
        assert!(!end.is_behind());
        assert!(reports.is_empty());
    }

    #[test]
    fn feed_that_makes_room_finds_who_waits_for_it() {
        let (mut end, reports) = ends();
        let (_wake, is_waiting) = reports.workers[0].clone();
        for _ in 0..REPORTS_MAX {
            let _reported = end.report(notice(0));
        }
        assert!(!is_waiting.load(Ordering::SeqCst));
        let _reported = end.report(notice(0));
        assert!(is_waiting.load(Ordering::SeqCst));
        let _report = reports.take();
        assert!(!is_waiting.load(Ordering::SeqCst));
    }

    #[test]
    fn what_is_kept_is_bounded_and_lost_notices_are_told_when_there_is_room() {
        let (mut end, reports) = ends();
        for _ in 0..REPORTS_MAX + NOTICES_MAX {
            assert_ne!(end.report(notice(0)), Reported::Refused);
        }
        assert_eq!(end.report(notice(0)), Reported::Refused);
        assert_eq!(end.report(publication(100)), Reported::Later);
        assert_eq!(
            end.report(publication(UPSTREAM_BYTES_MAX)),
            Reported::Refused
        );
        let mut last = None;
        while let Some(report) = reports.take() {
            last = Some(report);
            end.send_kept();
        }
        assert_eq!(last, Some(Report::Lost(1)));
    }
}
