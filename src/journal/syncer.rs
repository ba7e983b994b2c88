//! SHELL: the thread that makes the disk keep what was written, many batches at a time.
//!
//! While one sync is under way the next requests gather, so a slow disk makes groups larger and
//! not the queue longer. After a failed sync nothing more of that store is believed; the feed lets
//! it go and opens it again.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Receiver, Sender};

use super::commit::{Commit, Fate};
use super::engine::{Engine, EngineError};
use crate::config::limits::JOURNAL_SYNCS_WAITING_MAX;
use crate::metrics::FeedMetrics;
use crate::sys::wake::Wake;

/// A batch to be synced.
#[derive(Debug)]
pub(super) struct Request {
    /// The store that has it.
    pub(super) engine: Arc<dyn Engine>,
    pub(super) commit: Arc<Commit>,
}

/// What the thread works with.
#[derive(Debug)]
pub(super) struct Tools {
    pub(super) wake: Arc<Wake>,
    pub(super) metrics: Arc<FeedMetrics>,
}

/// The running thread.
#[derive(Debug)]
pub(super) struct Syncer {
    sender: Sender<Request>,
    has_failed: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Syncer {
    pub(super) fn spawn(tools: Tools) -> io::Result<Self> {
        let (sender, receiver) = crossbeam_channel::bounded(JOURNAL_SYNCS_WAITING_MAX);
        let has_failed = Arc::new(AtomicBool::new(false));
        let shared = Arc::clone(&has_failed);
        let thread = thread::Builder::new()
            .name(String::from("fanfare-journal"))
            .spawn(move || run(&receiver, &tools, &shared))?;
        Ok(Self {
            sender,
            has_failed,
            thread,
        })
    }

    /// Asks for a sync; waits when far too many are waiting.
    pub(super) fn request(&self, request: Request) {
        if let Err(refused) = self.sender.send(request) {
            refused.0.commit.decide(Fate::Unsynced);
        }
    }

    /// Whether a sync has failed since the last call.
    pub(super) fn take_failure(&self) -> bool {
        self.has_failed.swap(false, Ordering::AcqRel)
    }

    /// Syncs what is waiting and ends. Whether a sync has failed meanwhile.
    pub(super) fn join(self) -> bool {
        drop(self.sender);
        if self.thread.join().is_err() {
            tracing::error!("the journal's thread has panicked");
        }
        self.has_failed.load(Ordering::Acquire)
    }
}

fn run(receiver: &Receiver<Request>, tools: &Tools, has_failed: &AtomicBool) {
    let mut group = Vec::new();
    while let Ok(first) = receiver.recv() {
        group.push(first);
        group.extend(receiver.try_iter().take(JOURNAL_SYNCS_WAITING_MAX));
        for same in group.chunk_by(|a, b| Arc::ptr_eq(&a.engine, &b.engine)) {
            let outcome = sync(same, tools);
            let fate = match outcome {
                Ok(()) => Fate::Kept,
                Err(error) => {
                    // A full disk shows in the next append, too, and forgets nothing.
                    if !matches!(error, EngineError::Full) {
                        has_failed.store(true, Ordering::Release);
                    }
                    Fate::Unsynced
                }
            };
            for request in same {
                request.commit.decide(fate);
            }
        }
        group.clear();
        tools.wake.wake();
    }
}

fn sync(group: &[Request], tools: &Tools) -> Result<(), EngineError> {
    let Some(first) = group.first() else {
        return Ok(());
    };
    let outcome = first.engine.sync();
    match &outcome {
        Ok(()) => tools.metrics.journal_syncs.increment(),
        Err(error) => {
            tools.metrics.journal_sync_errors.increment();
            tracing::warn!(%error, "the journal cannot be synced");
        }
    }
    outcome
}
