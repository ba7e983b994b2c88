//! Checks of each worker and of all workers together. The checks run after each turn and at the
//! end.
//!
//! The parts of a worker must agree (`check_invariants`), its counters must match the events, the
//! log must keep its bounds, and every acknowledgement must be confirmed. A failed check panics.

use std::time::Duration;

use fanfare::config::{Config, Retention, namespace};
use fanfare::effect::CloseReason;
use fanfare::hub::Amount;
use fanfare::id::Sequence;
use fanfare::log::Writer;
use fanfare::metrics::WorkerMetrics;
use fanfare::time::Now;
use fanfare::worker::Worker;

use crate::feed::PendingAck;
use crate::model::Facts;
use crate::net::FakeNet;
use crate::world::node::NodeWorker;

/// Statistics of the lag of conns. Each flush of a conn adds one sample.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LagStats {
    pub(crate) samples: u64,
    /// The maximum lag as a percentage of the quota. The quota limits bytes and publications, and
    /// the higher of the two percentages counts.
    pub(crate) percent_max: u64,
    /// The maximum number of bytes by which a conn's lag exceeded the quota.
    pub(crate) bytes_over: u64,
    pub(crate) publications_over: u64,
}

impl LagStats {
    fn add(&mut self, behind: Amount, quota: Amount) {
        if behind == Amount::default() {
            return;
        }
        let Amount {
            bytes,
            publications,
        } = behind;
        let (bytes_max, publications_max) = (quota.bytes, quota.publications);
        let percent = (bytes * 100 / bytes_max).max(publications * 100 / publications_max);
        self.merge(&Self {
            samples: 1,
            percent_max: percent,
            bytes_over: bytes.saturating_sub(bytes_max),
            publications_over: publications.saturating_sub(publications_max),
        });
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        self.samples += other.samples;
        self.percent_max = self.percent_max.max(other.percent_max);
        self.bytes_over = self.bytes_over.max(other.bytes_over);
        self.publications_over = self.publications_over.max(other.publications_over);
    }
}

/// The checks of one worker, and the lag that they measure.
#[derive(Debug, Default)]
pub(crate) struct Checker {
    pub(crate) lag: LagStats,
}

impl Checker {
    pub(crate) fn after_turn(&mut self, worker: &Worker<FakeNet>, metrics: &WorkerMetrics) {
        for slot in worker.hub().member_slots() {
            if worker.has_flushed(slot) {
                let hub = worker.hub();
                self.lag.add(hub.behind(slot), hub.quota());
            }
        }
        worker.check_invariants();
        for (socket, listener) in worker.listeners_of_conns() {
            let listener = listener.map(|listener| listener.address);
            assert_eq!(listener, socket.listener(), "the listener of a conn");
        }
        let conns = worker.conn_count() as u64;
        assert_eq!(metrics.conns_open.value(), conns);
        assert_eq!(
            closed(metrics) + conns,
            metrics.conns_accepted.value(),
            "every accepted conn is open or was closed once"
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

/// Checks the log's counts of channels. `subscribed` counts each channel once, even if the channel
/// has subscribers on several workers. `channel_count` counts the channels that have subscribers or
/// entries.
pub(crate) fn check_channel_counts(workers: &[NodeWorker], writer: &Writer, facts: &Facts) {
    writer.check_invariants();
    let log = writer.log();
    let (mut subscribed, mut known) = (0, 0);
    for (channel, name) in facts.channels.iter().enumerate() {
        let mut hubs = workers.iter().map(|node_worker| node_worker.worker.hub());
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

/// Checks each acknowledgement. It must be complete if and only if its publication was posted, and
/// each worker that needs the publication has processed it. Returns the serial of the newest
/// publication whose acknowledgement is complete.
pub(crate) fn check_worker_acks(
    worker_acks: &mut Vec<PendingAck>,
    workers: &[NodeWorker],
    facts: &Facts,
) -> u64 {
    let mut acknowledged = 0;
    worker_acks.retain(|pending| {
        let concerned = || pending.workers.iter().map(|worker| &workers[*worker]);
        let has_it = |node_worker: &NodeWorker| {
            let head = facts.position(node_worker.worker.hub().head());
            node_worker.has_ended || head >= pending.sequence
        };
        // A worker also confirms publications that an epoch change has discarded, but its position
        // does not move to them. So for such a publication, it is enough that the worker is in a
        // later epoch.
        let is_over = facts.epochs.has_one_after(pending.sequence);
        let may_wait = is_over && concerned().any(|node_worker| node_worker.worker.has_mail());
        let is_void = facts.epochs.restart(pending.sequence).is_some();
        let has_followed = |node_worker: &NodeWorker| {
            let id = node_worker.worker.hub().head();
            is_void && facts.epochs.is_later(id.epoch, pending.sequence)
        };
        let has_to_be = pending.is_posted && concerned().all(has_it);
        let may_be = pending.is_posted && concerned().all(|one| has_it(one) || has_followed(one));
        let is_complete = pending.worker_ack.sum().is_some();
        let is_right = match is_complete {
            true => may_be,
            false => !has_to_be || may_wait,
        };
        assert!(is_right, "is the acknowledgement complete? {pending:?}");
        if is_complete {
            acknowledged = acknowledged.max(pending.sequence);
        }
        !is_complete
    });
    acknowledged
}

/// Records which publications have left the log, and checks that each eviction was necessary.
pub(crate) fn check_evictions(writer: &Writer, now: Now, facts: &mut Facts) {
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
            let published = facts.publication(all[gone]).published;
            let is_over = |rule: &Retention| {
                let age = Duration::from_millis(rule.age_ms);
                newer.len() > 1 && (entries > rule.entries || bytes > rule.bytes)
                    || now.has_reached(published.after(age))
            };
            let had_to_go = facts.is_tight
                // Publications that an epoch change has discarded may have filled the bounds.
                || has_new_epoch
                || facts.rules[channel].since(published).any(is_over);
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

/// Checks that the entries of each channel are within the bounds of that channel, and that none was
/// too old at the last eviction. Called when all publications are posted.
pub(crate) fn check_channel_bounds(evicted_at: Now, facts: &Facts) {
    for (channel, name) in facts.names.iter().enumerate() {
        let all = &facts.by_channel[channel];
        let kept = all.partition_point(|sequence| *sequence <= facts.logs[0].evicted[channel]);
        let (entries, bytes) = held(&all[kept..], facts);
        let rules = &facts.rules[channel].newest;
        let is_within = entries <= rules.entries && bytes <= rules.bytes;
        assert!(
            is_within || entries <= 1,
            "{name} has {entries} entries with {bytes} bytes in the log"
        );
        for serial in &all[kept..] {
            let age = Duration::from_millis(rules.age_ms);
            let end = facts.publication(*serial).published.after(age);
            assert!(
                !evicted_at.has_reached(end),
                "{serial} of {name} is too old"
            );
        }
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

/// Checks that a worker that has ended has no conns and no subscribers.
pub(crate) fn check_ended(worker: &Worker<FakeNet>, metrics: &WorkerMetrics) {
    assert_eq!(worker.conn_count(), 0);
    assert_eq!(worker.hub().subscriber_count(), 0);
    assert_eq!(metrics.conns_open.value(), 0);
    assert_eq!(metrics.websocket_open.value(), 0);
    assert_eq!(metrics.event_stream_open.value(), 0);
    assert_eq!(metrics.long_poll_open.value(), 0);
    assert_eq!(metrics.subscribers.value(), 0);
    assert_eq!(closed(metrics), metrics.conns_accepted.value());
}
