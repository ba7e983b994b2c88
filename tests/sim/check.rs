//! What must hold of each worker, and of all of them together, between two turns and at the end.
//!
//! A worker's own parts agree (its `check_invariants`), what it counts is what happened, its log
//! keeps to its bounds, and every receipt is confirmed. A panic is a finding.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use fanfare::config::{Config, Quota, Retention, namespace};
use fanfare::effect::CloseReason;
use fanfare::frame::Receipt;
use fanfare::hub::{Amount, Hub};
use fanfare::id::Sequence;
use fanfare::metrics::WorkerMetrics;
use fanfare::time::Now;
use fanfare::worker::Worker;

use crate::model::{Facts, LogFacts};
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

/// What the last turn had counted.
#[derive(Debug, Default)]
pub(crate) struct Checker {
    publications: u64,
    evicted: u64,
    /// The log was over its bound.
    was_over: bool,
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
        self.check_log(worker, metrics, config);
    }

    /// A turn evicts before it encodes what it writes. So it may end over the bound in bytes, but
    /// the next one then evicts; entries keep to theirs after every turn that appends nothing.
    fn check_log(&mut self, worker: &Worker<FakeNet>, metrics: &WorkerMetrics, config: &Config) {
        let (publications, evicted) = (metrics.publications.value(), metrics.evicted.value());
        let has_appended = publications != self.publications;
        let has_evicted = evicted != self.evicted;
        let log = worker.hub().log();
        let bytes = worker.hub().log_bytes();
        let is_over = bytes > config.log.bytes;
        assert!(
            !(self.was_over && is_over) || has_evicted,
            "{bytes} bytes and nothing is evicted"
        );
        assert!(
            has_appended || log.len() as u64 <= config.log.entries,
            "{} entries",
            log.len()
        );
        (self.publications, self.evicted, self.was_over) = (publications, evicted, is_over);
        if log.is_empty() {
            assert_eq!(worker.hub().log_bytes(), 0, "an empty log holds nothing");
        }
    }
}

/// The node counts each channel once that any of its workers has: for its subscribers, or because
/// something of it is in the log.
pub(crate) fn census(workers: &[Member], facts: &Facts) {
    let mut all = BTreeSet::new();
    for (Member { worker, .. }, log) in workers.iter().zip(&facts.logs) {
        let hub = worker.hub();
        let has_channel = |channel: &usize| {
            let newest = Sequence(facts.newest(*channel, log.head));
            hub.log().get(newest).is_some() || hub.subscribers_of(&facts.channels[*channel]) > 0
        };
        let own: Vec<usize> = (0..facts.names.len()).filter(has_channel).collect();
        assert_eq!(hub.channel_count(), own.len(), "channels of a worker");
        all.extend(own);
    }
    for Member { worker, .. } in workers {
        assert_eq!(worker.census(), all.len() as u64, "the count of channels");
    }
}

/// A receipt is complete when every worker has the publication, and not before. Returns the newest
/// that is.
pub(crate) fn receipts(receipts: &mut VecDeque<(u64, Arc<Receipt>)>, workers: &[Member]) -> u64 {
    let heads = workers.iter().filter(|member| !member.has_ended);
    let heads = heads.map(|member| member.worker.hub().head().sequence.0);
    let Some(everywhere) = heads.min() else {
        return 0;
    };
    let mut acknowledged = 0;
    while let Some((sequence, receipt)) = receipts.front()
        && *sequence <= everywhere
    {
        let is_complete = receipt.subscribers().is_some();
        assert!(is_complete, "{sequence} is in all logs and not confirmed");
        acknowledged = *sequence;
        receipts.pop_front();
    }
    if let Some((sequence, receipt)) = receipts.front() {
        let is_early = receipt.subscribers().is_some();
        assert!(!is_early, "{sequence} is confirmed and not in all logs");
    }
    acknowledged
}

/// Follows what leaves a worker's log, and finds each that left before it had to.
pub(crate) fn what_is_kept(hub: &Hub, worker: usize, now: Now, facts: &mut Facts) {
    let log = &facts.logs[worker];
    let (head, tail) = (log.head, log.tail);
    for channel in 0..facts.names.len() {
        let all = &facts.by_channel[channel];
        let appended = all.partition_point(|sequence| *sequence <= head);
        let mut gone =
            all.partition_point(|sequence| *sequence <= facts.logs[worker].evicted[channel]);
        while gone < appended && hub.log().get(Sequence(all[gone])).is_none() {
            let newer = &all[gone..appended];
            let (entries, bytes) = held(newer, facts);
            let rules = &facts.rules[channel];
            let newest = facts.publication(all[gone]);
            let age = Duration::from_millis(rules.age_ms);
            let had_to_go = newer.len() > 1 && (entries > rules.entries || bytes > rules.bytes)
                || all[gone] <= tail
                || now.has_reached(newest.published.after(age));
            assert!(
                had_to_go,
                "{} of {} has left the log",
                all[gone], facts.names[channel]
            );
            facts.logs[worker].evicted[channel] = all[gone];
            gone += 1;
        }
    }
}

/// When all is quiet no channel has more in the log than its bounds allow.
pub(crate) fn bounds_of_channels(hub: &Hub, log: &LogFacts, facts: &Facts) {
    for (channel, name) in facts.names.iter().enumerate() {
        let all = &facts.by_channel[channel];
        let kept = all.partition_point(|sequence| *sequence <= log.evicted[channel]);
        let (entries, bytes) = held(&all[kept..], facts);
        let rules = &facts.rules[channel];
        let is_within = entries <= rules.entries && bytes <= rules.bytes;
        assert!(
            is_within || entries <= 1,
            "{name} has {entries} of {bytes} bytes"
        );
    }
    hub.check_invariants();
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
