//! Tests that use both ends of the queue: that of the worker and that of the feed.

use std::collections::BTreeSet;

use super::*;
use crate::backend::ClientPublication;
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

fn notice(slot: u32, channel: &str, has_subscribed: bool) -> Notice {
    Notice {
        conn: from(slot),
        sub: None,
        channel: ChannelName::new(channel).unwrap(),
        has_subscribed,
    }
}

fn publication(slot: u32, data: &str) -> Report {
    Report::Publish(ClientPublication {
        from: from(slot),
        sub: None,
        channel: ChannelName::new("a").unwrap(),
        data: data.into(),
        dedupe: None,
        reference: None,
        audience: Audience::Consumers,
        traceparent: None,
    })
}

fn arrive(end: &mut Upstream, slot: u32, channel: &str) {
    assert_eq!(end.notify(notice(slot, channel, true)), Noticed::AtOnce);
}

fn depart(end: &mut Upstream, slot: u32, channel: &str) {
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

/// Takes the first notice that may be sent now, as the feed does. Leaves out the conn `skipped`. If
/// a notice may not be sent yet, also leaves out later notices of the same conn.
fn take_notice_skipping(reports: &Reports, skipped: ConnName) -> Option<Report> {
    let mut skipped = vec![skipped];
    let mut next = 0;
    while let Some(notice) = reports.notice(next) {
        next = notice.order + 1;
        match &notice.report {
            Report::Notice(Notice { conn, .. }) if skipped.contains(conn) => {}
            Report::Notice(Notice { conn, .. }) if !notice.is_due => skipped.push(*conn),
            _ => return reports.take_notice(&notice).then_some(notice.report),
        }
    }
    None
}

/// Takes the report at the front of the queue, as the feed does. Returns the notices that consumers
/// must receive before it, then the report.
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

/// Takes all remaining reports, then all remaining notices.
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

/// Returns a report as text: the slot, then `+channel`, `-channel` or the data.
fn text(report: &Report) -> String {
    match report {
        Report::Notice(notice) => {
            let sign = if notice.has_subscribed { '+' } else { '-' };
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
fn feed_that_makes_room_clears_the_flag_of_the_waiting_worker() {
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
fn publications_beyond_the_bytes_kept_are_refused() {
    let (mut end, mut reports) = ends(Bounds::default());
    (0..=REPORTS_MAX).for_each(|_| publish(&mut end, 0, "1"));
    let large = publication(0, &"1".repeat(UPSTREAM_BYTES_MAX));
    assert_eq!(end.report(large), Reported::Refused);
    // The refused report does not count: the notice waits only for the accepted reports before it.
    arrive(&mut end, 0, "a");
    let all = take_all(&mut end, &mut reports);
    assert_eq!(all.len(), REPORTS_MAX + 2);
    assert_eq!(all.last().unwrap(), "0 +a");
}

#[test]
fn publication_overtakes_notices_of_other_conns_only() {
    let (mut end, mut reports) = ends(Bounds::default());
    arrive(&mut end, OTHER, "a");
    arrive(&mut end, CONN, "a");
    publish(&mut end, CONN, "[1]");
    arrive(&mut end, CONN, "b");
    depart(&mut end, CONN, "c");
    publish(&mut end, CONN, "[2]");
    depart(&mut end, CONN, "a");
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
    arrive(&mut end, CONN, "a");
    publish(&mut end, OTHER, "[1]");
    depart(&mut end, CONN, "a");
    arrive(&mut end, CONN, "b");
    publish(&mut end, CONN, "[2]");
    depart(&mut end, CONN, "b");
    let all = take_all(&mut end, &mut reports);
    assert_eq!(all, ["2 [1]", "1 +b", "1 [2]", "1 -b"]);
}

#[test]
fn notice_does_not_overtake_a_publication_before_it() {
    let (mut end, mut reports) = ends(Bounds::default());
    publish(&mut end, CONN, "[1]");
    depart(&mut end, CONN, "a");
    assert!(!reports.notice(0).unwrap().is_due);
    assert!(reports.has_notices());
    assert_eq!(take_all(&mut end, &mut reports), ["1 [1]", "1 -a"]);
}

#[test]
fn only_notices_of_one_conn_and_channel_cancel_each_other() {
    let (mut end, mut reports) = ends(Bounds::default());
    arrive(&mut end, CONN, "a");
    depart(&mut end, CONN, "b");
    depart(&mut end, OTHER, "a");
    assert_eq!(take_all(&mut end, &mut reports), ["1 +a", "1 -b", "2 -a"]);
    assert_eq!(reports.notices_cancelled(), 0);
    for _ in 0..1000 {
        arrive(&mut end, CONN, "a");
        assert_eq!(reports.notices_waiting(), 1);
        depart(&mut end, CONN, "a");
        assert_eq!(reports.notices_waiting(), 0);
    }
    assert_eq!(reports.notices_cancelled(), 2000);
    depart(&mut end, CONN, "a");
    arrive(&mut end, CONN, "a");
    assert_eq!(take_all(&mut end, &mut reports), Vec::<String>::new());
}

#[test]
fn arrival_after_a_departure_is_kept_for_a_new_consumer_and_for_a_new_subject() {
    let (mut end, mut reports) = ends(Bounds::default());
    depart(&mut end, CONN, "a");
    end.note_watch();
    arrive(&mut end, CONN, "a");
    assert_eq!(take_all(&mut end, &mut reports), ["1 -a", "1 +a"]);
    depart(&mut end, CONN, "a");
    let sub = Some("carol".into());
    let by_carol = Notice {
        sub,
        ..notice(CONN, "a", true)
    };
    assert_eq!(end.notify(by_carol), Noticed::AtOnce);
    assert_eq!(take_all(&mut end, &mut reports), ["1 -a", "1 +a"]);
    // A departure cancels a waiting arrival even if their token subjects differ.
    end.note_watch();
    arrive(&mut end, CONN, "b");
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
fn notice_that_is_cancelled_before_it_is_taken_is_not_sent() {
    let (mut end, reports) = ends(Bounds::default());
    arrive(&mut end, CONN, "a");
    let waiting = reports.notice(0).unwrap();
    depart(&mut end, CONN, "a");
    assert!(!reports.take_notice(&waiting));
}

#[test]
fn notices_beyond_the_bound_are_counted_at_the_position_of_the_first() {
    let bounds = Bounds {
        notices: 2,
        per_conn: 100,
    };
    let (mut end, mut reports) = ends(bounds);
    for channel in ["a", "b", "c", "d"] {
        arrive(&mut end, CONN, channel);
    }
    // The departure and the arrival cancel each other. So the table has room for one more notice.
    depart(&mut end, CONN, "b");
    arrive(&mut end, CONN, "e");
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
        arrive(&mut end, CONN, channel);
    }
    assert_eq!(end.notify(notice(CONN, "d", true)), Noticed::Full);
    arrive(&mut end, OTHER, "a");
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
fn conn_that_is_full_again_before_its_worker_notices_is_not_released() {
    let bounds = Bounds {
        notices: 100,
        per_conn: 2,
    };
    let (mut end, reports) = ends(bounds);
    arrive(&mut end, CONN, "a");
    assert_eq!(end.notify(notice(CONN, "b", true)), Noticed::Full);
    let _notice = take_notice(&reports).unwrap();
    assert_eq!(end.notify(notice(CONN, "c", true)), Noticed::Full);
    assert_eq!(end.take_released(), []);
    end.check_invariants();
    let _notice = take_notice(&reports).unwrap();
    assert_eq!(end.take_released(), [from(CONN)]);
}

#[test]
fn conn_whose_notices_cancel_out_is_released_and_its_worker_does_not_sleep() {
    let bounds = Bounds {
        notices: 100,
        per_conn: 2,
    };
    let (mut end, _reports) = ends(bounds);
    arrive(&mut end, CONN, "a");
    assert_eq!(end.notify(notice(CONN, "b", true)), Noticed::Full);
    assert!(!end.has_released());
    depart(&mut end, CONN, "b");
    assert!(end.has_released());
    assert_eq!(end.take_released(), [from(CONN)]);
    assert!(!end.has_released());
}

#[test]
fn closed_conn_is_not_released() {
    let bounds = Bounds {
        notices: 100,
        per_conn: 2,
    };
    let (mut end, mut reports) = ends(bounds);
    arrive(&mut end, CONN, "a");
    assert_eq!(end.notify(notice(CONN, "b", true)), Noticed::Full);
    assert!(reports.has_held());
    end.forget(from(CONN));
    assert!(!reports.has_held());
    assert_eq!(take_all(&mut end, &mut reports), ["1 +a", "1 +b"]);
    assert!(!end.has_released());
}

#[test]
fn notices_lost_while_the_count_is_sent_are_reported_at_the_same_position() {
    let bounds = Bounds {
        notices: 1,
        per_conn: 100,
    };
    let (mut end, mut reports) = ends(bounds);
    for channel in ["a", "b"] {
        arrive(&mut end, CONN, channel);
    }
    assert!(take_notice(&reports).is_some());
    let lost = reports.notice(0).unwrap();
    arrive(&mut end, CONN, "c");
    arrive(&mut end, CONN, "d");
    assert!(reports.take_notice(&lost));
    assert_eq!(take_all(&mut end, &mut reports), ["lost 1", "1 +c"]);
}

#[test]
fn count_of_lost_notices_comes_before_a_later_notice_of_a_publication() {
    let bounds = Bounds {
        notices: 1,
        per_conn: 100,
    };
    let (mut end, mut reports) = ends(bounds);
    arrive(&mut end, CONN, "a");
    arrive(&mut end, CONN, "b");
    assert!(take_notice(&reports).is_some());
    arrive(&mut end, CONN, "c");
    publish(&mut end, CONN, "1");
    assert!(reports.front().is_some());
    let before = reports.notices_before_front();
    let before: Vec<_> = before.into_iter().map(|notice| notice.report).collect();
    let later = Report::Notice(notice(CONN, "c", true));
    assert_eq!(before, [Report::Lost(1), later]);
}

/// The actions of one conn, and the reports about them that consumers have received.
#[derive(Default)]
struct History {
    done: Vec<String>,
    received: Vec<String>,
}

/// Three conns in three channels, with a worker and a feed that act at random.
struct Model {
    end: Upstream,
    reports: Reports,
    histories: [History; 3],
    present: [[bool; 3]; 3],
    notices: u64,
    lost: u64,
}

impl Model {
    fn new(bounds: Bounds) -> Self {
        let (end, reports) = ends(bounds);
        Self {
            end,
            reports,
            histories: Default::default(),
            present: [[false; 3]; 3],
            notices: 0,
            lost: 0,
        }
    }

    fn act(&mut self, random: &mut fastrand::Rng) {
        let slot = random.u32(0..3);
        let done = &mut self.histories[slot as usize].done;
        match random.u32(0..10) {
            0..=4 if !self.end.is_full(from(slot)) => {
                let channel = random.usize(0..3);
                let has_subscribed = &mut self.present[slot as usize][channel];
                *has_subscribed ^= true;
                let notice = notice(slot, ["a", "b", "c"][channel], *has_subscribed);
                done.push(text(&Report::Notice(notice.clone())));
                let _noticed = self.end.notify(notice);
                self.notices += 1;
            }
            5 => {
                let data = done.len().to_string();
                publish(&mut self.end, slot, &data);
                done.push(format!("{slot} {data}"));
            }
            6 | 7 => self.take_front(),
            8 => {
                let skipped = from(random.u32(0..6));
                let taken = take_notice_skipping(&self.reports, skipped);
                self.note_received(taken);
            }
            _ => {
                self.end.send_kept();
                let _released = self.end.take_released();
            }
        }
    }

    fn take_front(&mut self) {
        let taken = take_front(&mut self.reports);
        self.note_received(taken);
    }

    fn note_received(&mut self, reports: impl IntoIterator<Item = Report>) {
        for report in reports {
            if let Report::Lost(count) = report {
                self.lost += count;
                continue;
            }
            let text = text(&report);
            let slot: usize = text[..1].parse().unwrap();
            self.histories[slot].received.push(text);
        }
    }

    fn end(&mut self) {
        while !self.reports.is_empty() || self.end.is_behind() {
            self.take_front();
            self.end.send_kept();
        }
        while let Some(report) = take_notice(&self.reports) {
            self.note_received([report]);
        }
        let _released = self.end.take_released();
    }
}

#[test]
fn notices_of_each_conn_keep_their_order_and_losses_are_counted() {
    for seed in 0..200 {
        let mut random = fastrand::Rng::with_seed(seed);
        let bounds = Bounds {
            notices: [4, 1000][random.usize(0..2)],
            per_conn: 3,
        };
        let mut model = Model::new(bounds);
        for _ in 0..random.u32(1..2000) {
            model.act(&mut random);
            assert!(model.reports.notices_waiting() <= bounds.notices + 1);
            model.end.check_invariants();
        }
        model.end();
        assert!(model.end.full.is_empty(), "seed {seed}: never released");
        let is_notice = |text: &&String| text.contains(['+', '-']);
        let received = model.histories.iter().flat_map(|history| &history.received);
        let received = received.filter(is_notice).count() as u64;
        let cancelled = model.reports.notices_cancelled();
        assert_eq!(
            received + cancelled + model.lost,
            model.notices,
            "seed {seed}"
        );
        for (history, present) in model.histories.iter().zip(model.present) {
            check_history(history, present, model.lost, seed);
        }
    }
}

/// For each publication of a conn, returns the channels to which the conn was subscribed then.
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

/// Checks that the received reports are in the order of the actions and include every publication.
/// If no notices were lost, also checks the final subscriptions.
fn check_history(history: &History, present: [bool; 3], lost: u64, seed: u64) {
    let mut done = history.done.iter();
    for text in &history.received {
        assert!(done.any(|other| other == text), "seed {seed}: {text}");
    }
    let publications = |texts: &[String]| {
        let texts = texts.iter().filter(|text| !text.contains(['+', '-']));
        texts.cloned().collect::<Vec<_>>()
    };
    let [done, received] = [&history.done, &history.received].map(|texts| publications(texts));
    assert_eq!(done, received, "seed {seed}");
    if lost > 0 {
        return;
    }
    let [done, received] = [&history.done, &history.received].map(|texts| at_publications(texts));
    assert_eq!(done, received, "seed {seed}: known when it published");
    for (channel, is_present) in ["a", "b", "c"].into_iter().zip(present) {
        let texts = history.received.iter();
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
