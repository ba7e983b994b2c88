//! What must hold of the worker between two turns, and at its end.
//!
//! The worker's own parts agree (its `check_invariants`), what it counts is what happened, its log
//! keeps to its bounds, and every receipt is confirmed. A panic is a finding.

use std::collections::VecDeque;
use std::sync::Arc;

use fanfare::config::Config;
use fanfare::effect::CloseReason;
use fanfare::frame::Receipt;
use fanfare::metrics::WorkerMetrics;
use fanfare::worker::Worker;

use crate::net::FakeNet;

/// What the last turn had counted.
#[derive(Debug, Default)]
pub(crate) struct Checker {
    writes: u64,
    publications: u64,
    pub(crate) receipts: VecDeque<(u64, Arc<Receipt>)>,
}

impl Checker {
    pub(crate) fn after_turn(
        &mut self,
        worker: &Worker<FakeNet>,
        metrics: &WorkerMetrics,
        config: &Config,
    ) {
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
        let head = worker.hub().head().sequence.0;
        while let Some((sequence, receipt)) = self.receipts.front()
            && *sequence <= head
        {
            let subscribers = receipt.subscribers();
            assert!(
                subscribers.is_some(),
                "{sequence} is in the log and not confirmed"
            );
            self.receipts.pop_front();
        }
    }

    /// A turn evicts before it writes, and writing encodes; so the bounds hold after a turn that
    /// did neither append nor write.
    fn check_log(&mut self, worker: &Worker<FakeNet>, metrics: &WorkerMetrics, config: &Config) {
        let (writes, publications) = (metrics.writes.value(), metrics.publications.value());
        let is_quiet = writes == self.writes && publications == self.publications;
        (self.writes, self.publications) = (writes, publications);
        let log = worker.hub().log();
        if is_quiet {
            assert!(log.bytes() <= config.log.bytes, "{} bytes", log.bytes());
            assert!(log.len() as u64 <= config.log.entries, "{}", log.len());
        }
        if log.is_empty() {
            assert_eq!(log.bytes(), 0, "an empty log holds nothing");
        }
    }
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
