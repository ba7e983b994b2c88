//! The one way out of the workers: reports to the feed, bounded, and never waited for.
//!
//! All workers share one queue for publications and questions. A worker for whose report there is
//! no room keeps it, in order, and is woken when the feed has taken some; meanwhile the conn that
//! caused it is not read. What a worker keeps is bounded too, and publications beyond that are
//! refused.
//!
//! Notices have a table of their own (`notices.rs`). A publication may overtake notices of
//! other conns; what one conn causes stays in order. A notice therefore notes how many reports its
//! worker had made, and waits until the feed has taken them; a publication comes with the notices
//! that its conn had caused before it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::{Receiver, Sender, TrySendError};
use foldhash::fast::RandomState;
use hashbrown::HashSet;

use super::notices::{Added, Notices, Origin, Woken};
use crate::config::limits::{REPORTS_MAX, UPSTREAM_BYTES_MAX};
use crate::dialogue::{Notice, Report};
use crate::id::ConnName;
use crate::sys::wake::Wake;

pub use super::notices::{Bounds, Waiting};

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

    /// Forgets a conn that is not read any more, or will be in any case.
    pub fn forget(&mut self, conn: ConnName) {
        if !self.full.is_empty() {
            self.full.remove(&conn);
        }
    }

    /// Conns of which the feed has taken enough notices.
    pub fn take_released(&mut self) -> Vec<ConnName> {
        if self.full.is_empty() {
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
            // Nobody listens any more, so nobody misses it.
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

    /// How many notices were not handed out because one of the pair undid the other.
    #[must_use]
    pub fn notices_cancelled(&self) -> u64 {
        self.notices.cancelled()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::dialogue::ClientPublication;
    use crate::effect::Audience;
    use crate::id::{ChannelName, RunId};

    const CONN: u32 = 1;
    const OTHER: u32 = 2;

    fn ends(bounds: Bounds) -> (Upstream, Reports) {
        let wake = || Arc::new(Wake::new().unwrap());
        let (mut ends, reports) = upstream(&[wake()], &wake(), bounds);
        (ends.pop().unwrap(), reports)
    }

    fn from(slot: u32) -> ConnName {
        ConnName {
            run: RunId(0),
            worker: 7,
            slot,
            serial: 0,
        }
    }

    fn notice(slot: u32, channel: &str, has_come: bool) -> Notice {
        Notice {
            conn: from(slot),
            sub: None,
            channel: ChannelName::new(channel).unwrap(),
            has_come,
        }
    }

    fn publication(slot: u32, data: &str) -> Report {
        Report::Publish(ClientPublication {
            from: from(slot),
            sub: None,
            channel: ChannelName::new("a").unwrap(),
            data: data.into(),
            reference: None,
            audience: Audience::Consumers,
        })
    }

    fn come(end: &mut Upstream, slot: u32, channel: &str) {
        assert_eq!(end.notify(notice(slot, channel, true)), Noticed::AtOnce);
    }

    fn go(end: &mut Upstream, slot: u32, channel: &str) {
        assert_eq!(end.notify(notice(slot, channel, false)), Noticed::AtOnce);
    }

    fn publish(end: &mut Upstream, slot: u32, data: &str) {
        assert_ne!(end.report(publication(slot, data)), Reported::Refused);
    }

    fn take_notice(reports: &Reports) -> Option<Report> {
        let notice = reports.notice(0).filter(|notice| notice.is_due)?;
        assert!(reports.take_notice(&notice));
        Some(notice.report)
    }

    /// Takes the first that may be taken of other conns.
    fn take_notice_passing(reports: &Reports, passed: ConnName) -> Option<Report> {
        let mut passed = vec![passed];
        let mut next = 0;
        while let Some(notice) = reports.notice(next) {
            next = notice.order + 1;
            match &notice.report {
                Report::Notice(Notice { conn, .. }) if passed.contains(conn) => {}
                Report::Notice(Notice { conn, .. }) if !notice.is_due => passed.push(*conn),
                _ => return reports.take_notice(&notice).then_some(notice.report),
            }
        }
        None
    }

    /// Takes the report in front and what has to come before it, as the feed does.
    fn take_front(reports: &mut Reports) -> Vec<Report> {
        if reports.front().is_none() {
            return Vec::new();
        }
        let before = reports.notices_before_front().into_iter();
        let before = before.filter(|notice| reports.take_notice(notice));
        let mut taken: Vec<Report> = before.map(|notice| notice.report).collect();
        taken.extend(reports.take());
        taken
    }

    /// What is left, notices last.
    fn take_all(end: &mut Upstream, reports: &mut Reports) -> Vec<String> {
        let mut all = Vec::new();
        while !reports.is_empty() || end.is_behind() {
            all.extend(take_front(reports));
            end.send_kept();
        }
        all.extend(std::iter::from_fn(|| take_notice(reports)));
        assert!(!reports.has_notices());
        all.iter().map(text).collect()
    }

    /// A report in short: slot, then `+channel`, `-channel` or the data.
    fn text(report: &Report) -> String {
        match report {
            Report::Notice(notice) => {
                let sign = if notice.has_come { '+' } else { '-' };
                format!("{} {sign}{}", notice.conn.slot, notice.channel)
            }
            Report::Publish(publication) => {
                format!("{} {}", publication.from.slot, publication.data)
            }
            Report::Lost(count) => format!("lost {count}"),
            Report::Count { .. } => "count".to_owned(),
        }
    }

    #[test]
    fn reports_keep_their_order_over_a_full_queue() {
        let (mut end, mut reports) = ends(Bounds::default());
        for _ in 0..REPORTS_MAX {
            assert_eq!(end.report(publication(1, "1")), Reported::AtOnce);
        }
        assert_eq!(end.report(publication(2, "1")), Reported::Later);
        assert_eq!(end.report(publication(3, "1")), Reported::Later);
        assert!(end.is_behind());
        let all = take_all(&mut end, &mut reports);
        assert_eq!(all[REPORTS_MAX - 1..], ["1 1", "2 1", "3 1"]);
        assert!(!end.is_behind() && reports.is_empty());
    }

    #[test]
    fn feed_that_makes_room_finds_who_waits_for_it() {
        let (mut end, mut reports) = ends(Bounds::default());
        let (_wake, is_waiting) = reports.workers[0].clone();
        (0..REPORTS_MAX).for_each(|_| publish(&mut end, 0, "1"));
        assert!(!is_waiting.load(Ordering::SeqCst));
        publish(&mut end, 0, "1");
        assert!(is_waiting.load(Ordering::SeqCst));
        let _report = reports.take();
        assert!(!is_waiting.load(Ordering::SeqCst));
    }

    #[test]
    fn publications_beyond_the_bytes_that_are_kept_are_refused() {
        let (mut end, mut reports) = ends(Bounds::default());
        (0..=REPORTS_MAX).for_each(|_| publish(&mut end, 0, "1"));
        let large = publication(0, &"1".repeat(UPSTREAM_BYTES_MAX));
        assert_eq!(end.report(large), Reported::Refused);
        // What was refused is not waited for.
        come(&mut end, 0, "a");
        let all = take_all(&mut end, &mut reports);
        assert_eq!(all.len(), REPORTS_MAX + 2);
        assert_eq!(all.last().unwrap(), "0 +a");
    }

    #[test]
    fn publication_overtakes_notices_of_other_conns_only() {
        let (mut end, mut reports) = ends(Bounds::default());
        come(&mut end, OTHER, "a");
        come(&mut end, CONN, "a");
        publish(&mut end, CONN, "[1]");
        come(&mut end, CONN, "b");
        go(&mut end, CONN, "c");
        publish(&mut end, CONN, "[2]");
        go(&mut end, CONN, "a");
        let mut taken = take_front(&mut reports);
        taken.extend(take_notice(&reports));
        taken.extend(take_front(&mut reports));
        let taken: Vec<String> = taken.iter().map(text).collect();
        let expected = ["1 +a", "1 [1]", "2 +a", "1 +b", "1 -c", "1 [2]"];
        assert_eq!(taken, expected);
        assert_eq!(take_all(&mut end, &mut reports), ["1 -a"]);
    }

    #[test]
    fn notices_around_a_publication_of_their_conn_are_kept() {
        let (mut end, mut reports) = ends(Bounds::default());
        come(&mut end, CONN, "a");
        publish(&mut end, OTHER, "[1]");
        go(&mut end, CONN, "a");
        come(&mut end, CONN, "b");
        publish(&mut end, CONN, "[2]");
        go(&mut end, CONN, "b");
        let all = take_all(&mut end, &mut reports);
        assert_eq!(all, ["2 [1]", "1 +b", "1 [2]", "1 -b"]);
    }

    #[test]
    fn notice_does_not_overtake_a_publication_before_it() {
        let (mut end, mut reports) = ends(Bounds::default());
        publish(&mut end, CONN, "[1]");
        go(&mut end, CONN, "a");
        assert!(!reports.notice(0).unwrap().is_due);
        assert!(reports.has_notices());
        assert_eq!(take_all(&mut end, &mut reports), ["1 [1]", "1 -a"]);
    }

    #[test]
    fn only_notices_of_one_conn_and_channel_undo_each_other() {
        let (mut end, mut reports) = ends(Bounds::default());
        come(&mut end, CONN, "a");
        go(&mut end, CONN, "b");
        go(&mut end, OTHER, "a");
        assert_eq!(take_all(&mut end, &mut reports), ["1 +a", "1 -b", "2 -a"]);
        assert_eq!(reports.notices_cancelled(), 0);
        for _ in 0..1000 {
            come(&mut end, CONN, "a");
            assert_eq!(reports.notices_waiting(), 1);
            go(&mut end, CONN, "a");
            assert_eq!(reports.notices_waiting(), 0);
        }
        assert_eq!(reports.notices_cancelled(), 2000);
        go(&mut end, CONN, "a");
        come(&mut end, CONN, "a");
        assert_eq!(take_all(&mut end, &mut reports), Vec::<String>::new());
    }

    #[test]
    fn arrival_after_a_departure_is_news_to_a_new_consumer_and_with_a_new_subject() {
        let (mut end, mut reports) = ends(Bounds::default());
        go(&mut end, CONN, "a");
        end.note_watch();
        come(&mut end, CONN, "a");
        assert_eq!(take_all(&mut end, &mut reports), ["1 -a", "1 +a"]);
        go(&mut end, CONN, "a");
        let sub = Some("carol".into());
        let by_carol = Notice {
            sub,
            ..notice(CONN, "a", true)
        };
        assert_eq!(end.notify(by_carol), Noticed::AtOnce);
        assert_eq!(take_all(&mut end, &mut reports), ["1 -a", "1 +a"]);
        // One that consumers do not know of leaves with any subject.
        end.note_watch();
        come(&mut end, CONN, "b");
        end.note_watch();
        let sub = Some("carol".into());
        let by_carol = Notice {
            sub,
            ..notice(CONN, "b", false)
        };
        assert_eq!(end.notify(by_carol), Noticed::AtOnce);
        assert_eq!(take_all(&mut end, &mut reports), Vec::<String>::new());
    }

    #[test]
    fn notice_that_is_undone_before_it_is_taken_is_not_handed_out() {
        let (mut end, reports) = ends(Bounds::default());
        come(&mut end, CONN, "a");
        let waiting = reports.notice(0).unwrap();
        go(&mut end, CONN, "a");
        assert!(!reports.take_notice(&waiting));
    }

    #[test]
    fn notices_beyond_the_bound_are_counted_where_the_first_is_missing() {
        let bounds = Bounds {
            notices: 2,
            per_conn: 100,
        };
        let (mut end, mut reports) = ends(bounds);
        for channel in ["a", "b", "c", "d"] {
            come(&mut end, CONN, channel);
        }
        // The one that it undoes makes room.
        go(&mut end, CONN, "b");
        come(&mut end, CONN, "e");
        assert_eq!(take_all(&mut end, &mut reports), ["1 +a", "lost 2", "1 +e"]);
    }

    #[test]
    fn conn_with_too_many_notices_is_held_until_half_are_taken() {
        let bounds = Bounds {
            notices: 100,
            per_conn: 4,
        };
        let (mut end, reports) = ends(bounds);
        for channel in ["a", "b", "c"] {
            come(&mut end, CONN, channel);
        }
        assert_eq!(end.notify(notice(CONN, "d", true)), Noticed::Full);
        come(&mut end, OTHER, "a");
        assert!(end.is_full(from(CONN)) && !end.is_full(from(OTHER)));
        for left in [3, 2] {
            assert_eq!(end.take_released(), []);
            let _notice = take_notice(&reports).unwrap();
            end.check_invariants();
            assert_eq!(reports.notices_waiting(), left + 1);
        }
        assert_eq!(end.take_released(), [from(CONN)]);
        assert!(!end.is_full(from(CONN)));
    }

    #[test]
    fn conn_that_became_full_again_before_its_worker_looked_is_not_released() {
        let bounds = Bounds {
            notices: 100,
            per_conn: 2,
        };
        let (mut end, reports) = ends(bounds);
        come(&mut end, CONN, "a");
        assert_eq!(end.notify(notice(CONN, "b", true)), Noticed::Full);
        let _notice = take_notice(&reports).unwrap();
        assert_eq!(end.notify(notice(CONN, "c", true)), Noticed::Full);
        assert_eq!(end.take_released(), []);
        end.check_invariants();
        let _notice = take_notice(&reports).unwrap();
        assert_eq!(end.take_released(), [from(CONN)]);
    }

    /// What one conn does, told apart by a number, and what consumers get of it.
    #[derive(Default)]
    struct History {
        done: Vec<String>,
        handed: Vec<String>,
    }

    #[test]
    fn notices_of_each_conn_keep_their_order_and_every_loss_is_counted() {
        for seed in 0..200 {
            let mut random = fastrand::Rng::with_seed(seed);
            let bounds = Bounds {
                notices: [4, 1000][random.usize(0..2)],
                per_conn: 3,
            };
            let (mut end, mut reports) = ends(bounds);
            let mut histories: [History; 3] = Default::default();
            let mut present = [[false; 3]; 3];
            let (mut notices, mut lost) = (0, 0);
            let mut hand = |histories: &mut [History; 3], report: &Report| match report {
                Report::Lost(count) => lost += count,
                _ => {
                    let text = text(report);
                    let slot: usize = text[..1].parse().unwrap();
                    histories[slot].handed.push(text);
                }
            };
            for step in 0..random.u32(1..2000) {
                let slot = random.u32(0..3);
                let history = &mut histories[slot as usize];
                match random.u32(0..10) {
                    0..=4 if !end.is_full(from(slot)) => {
                        let channel = random.usize(0..3);
                        let has_come = &mut present[slot as usize][channel];
                        *has_come ^= true;
                        let notice = notice(slot, ["a", "b", "c"][channel], *has_come);
                        history.done.push(text(&Report::Notice(notice.clone())));
                        let _noticed = end.notify(notice);
                        notices += 1;
                    }
                    5 => {
                        publish(&mut end, slot, &step.to_string());
                        history.done.push(format!("{slot} {step}"));
                    }
                    6 | 7 => take_front(&mut reports)
                        .iter()
                        .for_each(|report| hand(&mut histories, report)),
                    8 => {
                        let passed = from(random.u32(0..6));
                        let taken = take_notice_passing(&reports, passed);
                        taken.iter().for_each(|report| hand(&mut histories, report));
                    }
                    _ => {
                        end.send_kept();
                        let _released = end.take_released();
                    }
                }
                assert!(reports.notices_waiting() <= bounds.notices + 1);
                end.check_invariants();
            }
            while !reports.is_empty() || end.is_behind() {
                let taken = take_front(&mut reports);
                taken.iter().for_each(|report| hand(&mut histories, report));
                end.send_kept();
            }
            while let Some(report) = take_notice(&reports) {
                hand(&mut histories, &report);
            }
            let _released = end.take_released();
            assert!(end.full.is_empty(), "seed {seed}: never released");
            let is_notice = |text: &&String| text.contains(['+', '-']);
            let handed = histories.iter().flat_map(|history| &history.handed);
            let handed = handed.filter(is_notice).count() as u64;
            let cancelled = reports.notices_cancelled();
            assert_eq!(handed + cancelled + lost, notices, "seed {seed}");
            for (history, present) in histories.iter().zip(present) {
                check_history(history, present, lost, seed);
            }
        }
    }

    /// The channels of a conn at each of its publications.
    fn at_publications(texts: &[String]) -> Vec<BTreeSet<&str>> {
        let mut channels = BTreeSet::new();
        let mut all = Vec::new();
        for text in texts {
            match text.split_at(2).1.split_at(1) {
                ("+", channel) => assert!(channels.insert(channel)),
                ("-", channel) => assert!(channels.remove(channel)),
                _ => all.push(channels.clone()),
            }
        }
        all
    }

    /// What was handed out is in the order in which it was done, has every publication, and leaves
    /// consumers with the truth.
    fn check_history(history: &History, present: [bool; 3], lost: u64, seed: u64) {
        let mut done = history.done.iter();
        for text in &history.handed {
            assert!(done.any(|other| other == text), "seed {seed}: {text}");
        }
        let publications = |texts: &[String]| {
            let texts = texts.iter().filter(|text| !text.contains(['+', '-']));
            texts.cloned().collect::<Vec<_>>()
        };
        let [done, handed] = [&history.done, &history.handed].map(|texts| publications(texts));
        assert_eq!(done, handed, "seed {seed}");
        if lost > 0 {
            return;
        }
        let [done, handed] = [&history.done, &history.handed].map(|texts| at_publications(texts));
        assert_eq!(done, handed, "seed {seed}: known when it published");
        for (channel, is_present) in ["a", "b", "c"].into_iter().zip(present) {
            let texts = history.handed.iter();
            let of_channel = texts.filter(|text| text.ends_with(channel));
            let signs: Vec<char> = of_channel.filter_map(|text| text.chars().nth(2)).collect();
            let alternate = "+-".chars().cycle().take(signs.len());
            assert!(
                alternate.eq(signs.iter().copied()),
                "seed {seed}: {signs:?}"
            );
            assert_eq!(signs.len() % 2 == 1, is_present, "seed {seed}: {channel}");
        }
    }
}
