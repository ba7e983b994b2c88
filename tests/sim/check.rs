//! What must hold of each worker, and of all of them together, between two turns and at the end.
//!
//! A worker's own parts agree (its `check_invariants`), what it counts is what happened, its log
//! keeps to its bounds, and every acknowledgement is confirmed. A panic is a finding.

use std::time::Duration;

use fanfare::config::{Config, Quota, Retention, namespace};
use fanfare::effect::CloseReason;
use fanfare::hub::Amount;
use fanfare::id::Sequence;
use fanfare::log::Writer;
use fanfare::metrics::WorkerMetrics;
use fanfare::time::Now;
use fanfare::worker::Worker;

use crate::feed::Owed;
use crate::model::Facts;
use crate::net::FakeNet;
use crate::world::node::Member;

/// What conns were behind, looked at whenever flush had done with them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Debts {
    pub(crate) looked_at: u64,
    /// The greatest, in percent of the quota that it comes nearest to.
    pub(crate) percent_max: u64,
    /// By how much the worst was over the quota.
    pub(crate) bytes_over: u64,
    pub(crate) publications_over: u64,
}

impl Debts {
    fn add(&mut self, behind: Amount, quota: &Quota) {
        if behind == Amount::default() {
            return;
        }
        let Amount {
            bytes,
            publications,
        } = behind;
        let (bytes_max, publications_max) = (quota.behind_bytes, quota.behind_publications);
        let percent = (bytes * 100 / bytes_max).max(publications * 100 / publications_max);
        self.merge(&Self {
            looked_at: 1,
            percent_max: percent,
            bytes_over: bytes.saturating_sub(bytes_max),
            publications_over: publications.saturating_sub(publications_max),
        });
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        self.looked_at += other.looked_at;
        self.percent_max = self.percent_max.max(other.percent_max);
        self.bytes_over = self.bytes_over.max(other.bytes_over);
        self.publications_over = self.publications_over.max(other.publications_over);
    }
}

/// What was found so far.
#[derive(Debug, Default)]
pub(crate) struct Checker {
    pub(crate) debts: Debts,
}

impl Checker {
    pub(crate) fn after_turn(
        &mut self,
        worker: &Worker<FakeNet>,
        metrics: &WorkerMetrics,
        config: &Config,
    ) {
        for slot in worker.hub().member_slots() {
            if worker.has_flushed(slot) {
                self.debts.add(worker.hub().behind(slot), &config.quota);
            }
        }
        worker.check_invariants();
        let conns = worker.conn_count() as u64;
        assert_eq!(metrics.conns_open.value(), conns);
        assert_eq!(
            closed(metrics) + conns,
            metrics.conns_accepted.value(),
            "every conn that was accepted is open or was closed once"
        );
        let streams = metrics.websocket_open.value()
            + metrics.event_stream_open.value()
            + metrics.long_poll_open.value();
        assert!(streams <= conns, "{streams} streams of {conns} conns");
        assert_eq!(
            metrics.subscribers.value(),
            worker.hub().subscriber_count(),
            "the gauge of subscribers"
        );
    }
}

/// The node counts each channel once that has subscribers on any worker, and the log has those and
/// the ones with entries.
pub(crate) fn census(workers: &[Member], writer: &Writer, facts: &Facts) {
    writer.check_invariants();
    let log = writer.log();
    let (mut subscribed, mut known) = (0, 0);
    for (channel, name) in facts.channels.iter().enumerate() {
        let mut hubs = workers.iter().map(|member| member.worker.hub());
        let has_subscribers = hubs.any(|hub| hub.subscribers_of(name) > 0);
        let newest = facts.newest(channel, u64::MAX);
        let last = log
            .newest_of(name)
            .map(|last| facts.epochs.published(last.0));
        let has_entries = last.is_some_and(|last| last <= newest);
        subscribed += u64::from(has_subscribers);
        known += u64::from(has_subscribers || has_entries);
    }
    assert_eq!(log.subscribed(), subscribed, "channels with subscribers");
    assert_eq!(log.channel_count(), known, "channels of the log");
}

/// An acknowledgement is complete as soon as its publication was posted and every worker that it
/// was posted to has it, and not before. Returns the newest complete one.
pub(crate) fn worker_acks(worker_acks: &mut Vec<Owed>, workers: &[Member], facts: &Facts) -> u64 {
    let mut acknowledged = 0;
    worker_acks.retain(|owed| {
        let concerned = || owed.workers.iter().map(|worker| &workers[*worker]);
        let has_it = |member: &Member| {
            let head = facts.position(member.worker.hub().head());
            member.has_ended || head >= owed.sequence
        };
        // A worker confirms what was posted in an epoch that is over when it takes it. That does
        // not move the head if it is void: then only the worker's epoch says that it may be taken.
        let is_over = facts.epochs.has_one_after(owed.sequence);
        let may_wait = is_over && concerned().any(|member| member.worker.has_mail());
        let is_void = facts.epochs.restart(owed.sequence).is_some();
        let has_followed = |member: &Member| {
            let id = member.worker.hub().head();
            is_void && facts.epochs.is_later(id.epoch, owed.sequence)
        };
        let has_to_be = owed.is_posted && concerned().all(has_it);
        let may_be = owed.is_posted && concerned().all(|one| has_it(one) || has_followed(one));
        let is_complete = owed.worker_ack.sum().is_some();
        let is_right = match is_complete {
            true => may_be,
            false => !has_to_be || may_wait,
        };
        assert!(is_right, "is the acknowledgement complete? {owed:?}");
        if is_complete {
            acknowledged = acknowledged.max(owed.sequence);
        }
        !is_complete
    });
    acknowledged
}

/// Follows what leaves the log, and finds each that left before it had to.
pub(crate) fn what_is_kept(writer: &Writer, now: Now, facts: &mut Facts) {
    let log = writer.log();
    let serial = |number: Sequence| facts.epochs.published(number.0);
    let head = facts.publications.len() as u64;
    let head = head.min(facts.position(facts.epochs.newest_at(writer.head().0)));
    let tail = log.oldest().map_or(head, |oldest| serial(oldest) - 1);
    let oldest = facts
        .channels
        .iter()
        .map(|name| log.oldest_of(name).map(serial));
    let oldest: Vec<Option<u64>> = oldest.collect();
    let has_new_epoch = std::mem::take(&mut facts.has_new_epoch);
    for channel in 0..facts.names.len() {
        let oldest = oldest[channel];
        let all = &facts.by_channel[channel];
        let added = all.partition_point(|sequence| *sequence <= head);
        let mut gone = all.partition_point(|sequence| *sequence <= facts.logs[0].evicted[channel]);
        let mut evicted = facts.logs[0].evicted[channel];
        while gone < added && oldest.is_none_or(|oldest| all[gone] < oldest) {
            let newer = &all[gone..added];
            let (entries, bytes) = held(newer, facts);
            let rules = &facts.rules[channel];
            let newest = facts.publication(all[gone]);
            let age = Duration::from_millis(rules.age_ms);
            let had_to_go = newer.len() > 1 && (entries > rules.entries || bytes > rules.bytes)
                || facts.is_tight
                // Void publications may have taken their place.
                || has_new_epoch
                || now.has_reached(newest.published.after(age));
            assert!(
                had_to_go,
                "{} of {} has left the log",
                all[gone], facts.names[channel]
            );
            evicted = all[gone];
            gone += 1;
        }
        for log in &mut facts.logs {
            (log.evicted[channel], log.tail, log.added) = (evicted, tail, head);
        }
    }
}

/// When all is quiet no channel has more in the log than its bounds allow.
pub(crate) fn bounds_of_channels(facts: &Facts) {
    for (channel, name) in facts.names.iter().enumerate() {
        let all = &facts.by_channel[channel];
        let kept = all.partition_point(|sequence| *sequence <= facts.logs[0].evicted[channel]);
        let (entries, bytes) = held(&all[kept..], facts);
        let rules = &facts.rules[channel];
        let is_within = entries <= rules.entries && bytes <= rules.bytes;
        assert!(
            is_within || entries <= 1,
            "{name} has {entries} of {bytes} bytes"
        );
    }
}

fn held(sequences: &[u64], facts: &Facts) -> (u64, u64) {
    let bytes = sequences
        .iter()
        .map(|sequence| facts.publication(*sequence).payload_bytes());
    (sequences.len() as u64, bytes.sum())
}

pub(crate) fn rules(config: &Config, name: &str) -> Retention {
    let found = namespace::find(&config.namespace, name);
    found.map_or_else(
        || config.retention(),
        |index| config.retention_in(&config.namespace[index]),
    )
}

fn closed(metrics: &WorkerMetrics) -> u64 {
    let counts = CloseReason::ALL.map(|reason| metrics.closed(reason).value());
    counts.iter().sum()
}

/// The worker has ended: nobody and nothing is left.
pub(crate) fn at_the_end(worker: &Worker<FakeNet>, metrics: &WorkerMetrics) {
    assert_eq!(worker.conn_count(), 0);
    assert_eq!(worker.hub().subscriber_count(), 0);
    assert_eq!(metrics.conns_open.value(), 0);
    assert_eq!(metrics.websocket_open.value(), 0);
    assert_eq!(metrics.event_stream_open.value(), 0);
    assert_eq!(metrics.long_poll_open.value(), 0);
    assert_eq!(metrics.subscribers.value(), 0);
    assert_eq!(closed(metrics), metrics.conns_accepted.value());
}
