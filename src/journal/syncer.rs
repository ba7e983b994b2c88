//! SHELL: this module runs the thread that syncs the store. One sync covers many batches.
//!
//! Requests that arrive during a sync are collected for the next sync. So a slow disk causes larger
//! groups of requests instead of a longer queue. After a failed sync, the feed releases the store
//! and reopens it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Receiver, Sender};

use super::WrittenBatch;
use super::commit_state::{Commit, CommitState};
use super::engine::{Engine, EngineError};
use crate::config::limits::JOURNAL_SYNCS_WAITING_MAX;
use crate::metrics::FeedMetrics;
use crate::sys::wake::Wake;

/// A request to sync a batch.
#[derive(Debug)]
pub(super) struct SyncRequest {
    /// The store that contains the batch.
    pub(super) engine: Arc<dyn Engine>,
    pub(super) commit: Arc<Commit>,
    pub(super) batch: WrittenBatch,
}

/// The objects that the thread needs.
#[derive(Debug)]
pub(super) struct SyncerParts {
    pub(super) wake: Arc<Wake>,
    pub(super) metrics: Arc<FeedMetrics>,
}

/// A handle to the sync thread.
#[derive(Debug)]
pub(super) struct Syncer {
    sender: Sender<SyncRequest>,
    has_failed: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Syncer {
    pub(super) fn spawn(parts: SyncerParts) -> io::Result<Self> {
        let (sender, receiver) = crossbeam_channel::bounded(JOURNAL_SYNCS_WAITING_MAX);
        let has_failed = Arc::new(AtomicBool::new(false));
        let shared = Arc::clone(&has_failed);
        let thread = thread::Builder::new()
            .name(String::from("fanfare-journal"))
            .spawn(move || run(&receiver, &parts, &shared))?;
        Ok(Self {
            sender,
            has_failed,
            thread,
        })
    }

    /// Requests a sync. Blocks while [`JOURNAL_SYNCS_WAITING_MAX`] requests are waiting.
    pub(super) fn request(&self, request: SyncRequest) {
        if let Err(refused) = self.sender.send(request) {
            refused.0.commit.set(CommitState::Unsynced);
        }
    }

    /// Returns whether a sync has failed since the last call. Failures because of a full disk do
    /// not count.
    pub(super) fn take_failure(&self) -> bool {
        self.has_failed.swap(false, Ordering::AcqRel)
    }

    /// Syncs all waiting batches, and ends the thread. Returns whether a sync has failed.
    pub(super) fn join(self) -> bool {
        drop(self.sender);
        if self.thread.join().is_err() {
            tracing::error!("the journal's thread has panicked");
        }
        self.has_failed.load(Ordering::Acquire)
    }
}

/// The records of batches whose sync has failed because the disk was full. They are intact in the
/// store's log, so the next successful sync makes them durable.
#[derive(Debug, Default)]
struct LateRecords(u64);

impl LateRecords {
    /// Updates the number after a sync of `records` records. Returns the number of records of
    /// earlier batches that are durable now.
    fn note(&mut self, records: u64, outcome: &Result<(), EngineError>) -> u64 {
        match outcome {
            Ok(()) => std::mem::take(&mut self.0),
            Err(EngineError::Full) => {
                self.0 += records;
                0
            }
            // The system may have dropped pages that it could not write, so no later sync makes
            // these records durable.
            Err(_) => {
                self.0 = 0;
                0
            }
        }
    }
}

fn run(receiver: &Receiver<SyncRequest>, parts: &SyncerParts, has_failed: &AtomicBool) {
    let mut group = Vec::new();
    let mut late = LateRecords::default();
    while let Ok(first) = receiver.recv() {
        group.push(first);
        group.extend(receiver.try_iter().take(JOURNAL_SYNCS_WAITING_MAX));
        for same in group.chunk_by(|a, b| Arc::ptr_eq(&a.engine, &b.engine)) {
            let outcome = sync(same, parts);
            let records = same.iter().map(|request| request.batch.records).sum();
            parts
                .metrics
                .journal_synced
                .add(late.note(records, &outcome));
            let state = match outcome {
                Ok(()) => CommitState::Committed,
                Err(error) => {
                    // A full disk causes no loss of durable data, and the next append also reports
                    // it.
                    if !matches!(error, EngineError::Full) {
                        has_failed.store(true, Ordering::Release);
                    }
                    CommitState::Unsynced
                }
            };
            for request in same {
                if state == CommitState::Committed {
                    request.batch.note_committed(true, &parts.metrics);
                }
                request.commit.set(state);
            }
        }
        group.clear();
        parts.wake.wake();
    }
}

fn sync(group: &[SyncRequest], parts: &SyncerParts) -> Result<(), EngineError> {
    let Some(first) = group.first() else {
        debug_assert!(false, "an empty group");
        return Ok(());
    };
    let outcome = first.engine.sync();
    match &outcome {
        Ok(()) => parts.metrics.journal_syncs.increment(),
        Err(error) => {
            parts.metrics.journal_sync_errors.increment();
            tracing::warn!(%error, "the journal cannot be synced");
        }
    }
    outcome
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use super::*;

    #[test]
    fn records_that_a_full_disk_delays_count_after_the_next_sync_and_lost_ones_never() {
        let mut late = LateRecords::default();
        assert_eq!(late.note(3, &Ok(())), 0);
        assert_eq!(late.note(4, &Err(EngineError::Full)), 0);
        assert_eq!(late.note(5, &Err(EngineError::Full)), 0);
        assert_eq!(late.note(1, &Ok(())), 9);
        assert_eq!(late.note(1, &Ok(())), 0);
        assert_eq!(late.note(4, &Err(EngineError::Full)), 0);
        let lost = EngineError::Io(ErrorKind::Other.into());
        assert_eq!(late.note(2, &Err(lost)), 0);
        assert_eq!(late.note(1, &Ok(())), 0);
    }
}
