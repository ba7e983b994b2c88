//! SHELL: the journal stores publications on disk, so that a restart loses none of them.
//!
//! The sequencer stages publications in a batch. It appends the batch to the journal before it
//! broadcasts the batch, and reads the outcome from a [`commit_state::Commit`]. [`replay`] fills
//! the log with the publications of earlier runs. [`record_writer`] appends records to a store,
//! [`recover`] opens the store, and `syncer` makes the records durable. [`engine`] defines the
//! interface of a store. [`lsm`] implements this interface with fjall. [`folder`] manages the
//! store's directory. [`backup`] copies the journal while the server runs,
//! and [`check`] examines a journal that no server uses.
//!
//! `journal.sync` determines what an acknowledgement guarantees. With `always`, a batch is synced
//! before it is broadcast. With `batch`, the batch is synced before it is acknowledged. With `os`,
//! the batch is not synced. In all modes a batch is written before it is broadcast, so a killed
//! process loses nothing. After a failed sync, `always` and `batch` acknowledge no publications
//! until the machine is rebooted. The reason is that the failed sync may have left a hole in the
//! store's log. The store reads its log only up to the first hole, so a power failure could lose
//! later records.
//!
//! Writing to a removed file succeeds, but the data is lost. Therefore [`Journal::check`] compares
//! the files on disk with the files that were opened. If these differ, the journal refuses
//! publications until the original files are restored. `files` lists the files that the store
//! needs. The list is kept while the store is closed, because the store would open even if a log
//! were missing. While files are missing, the server recreates none of them. The reason is that a
//! partial journal would prevent the next start from creating a new journal.
//!
//! The journal uses fjall for three reasons. The write-ahead log contains a batch as a whole or not
//! at all. A killed process loses nothing of this log, even without a sync. The log is synced only
//! on request. In redb, a commit without a sync is lost if the process is killed. So with
//! `journal.sync = "batch"`, the server could not broadcast before the sync. `benches/load/stores`
//! has the figures of both stores. After a disk error, fjall refuses all operations, so
//! `record_writer` drops and reopens the store. fjall does not open a log with a hole, so `repair`
//! truncates the log at the hole. fjall keeps records in memory until it writes them to table
//! files. For this it needs a little more than three times [`JOURNAL_MEMTABLE_BYTES`]. It also
//! needs one thread. When the server starts, the contents of the write-ahead log are in memory,
//! too.
//!
//! [`JOURNAL_MEMTABLE_BYTES`]: crate::config::limits::JOURNAL_MEMTABLE_BYTES

pub mod backup;
pub mod check;
mod chunk_stats;
pub mod commit_state;
pub mod engine;
pub mod epochs;
mod files;
pub mod folder;
pub mod lsm;
pub mod record;
pub mod record_writer;
pub mod recover;
mod repair;
pub mod replay;
mod source;
pub mod state;
mod syncer;
mod target;

#[cfg(test)]
mod copy_tests;
#[cfg(test)]
pub(crate) mod fake;
#[cfg(test)]
mod on_disk;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use self::commit_state::{Commit, CommitState};
use self::engine::EngineError;
use self::record::{PayloadRef, Record};
use self::record_writer::{RecordWriter, Retained};
use self::syncer::{SyncRequest, Syncer, SyncerParts};
use crate::config::JournalSync;
use crate::config::limits::{FILES_CHECK_MS, JOURNAL_QUIET_MS};
use crate::frame::Publication;
use crate::id::Cursor;
use crate::metrics::FeedMetrics;
use crate::sys::wake::Wake;
use crate::time::micros;

/// The reason why publications are refused.
#[derive(Debug)]
struct Failure {
    reason: String,
    is_removed: bool,
    /// The time of the last refused batch.
    refused: Instant,
}

/// A batch that was written, for the metrics of its commit.
#[derive(Clone, Copy, Debug)]
struct WrittenBatch {
    /// The time at which the write began.
    begun: Instant,
    records: u64,
}

impl WrittenBatch {
    /// Counts the batch after it was committed.
    fn note_committed(self, is_synced: bool, metrics: &FeedMetrics) {
        metrics
            .journal_commit_us
            .record(micros(self.begun.elapsed()));
        if is_synced {
            metrics.journal_synced.add(self.records);
        }
    }
}

/// The journal, as the sequencer uses it.
#[derive(Debug)]
pub struct Journal {
    record_writer: RecordWriter,
    /// The sync thread; used only with `journal.sync = "batch"`.
    syncer: Option<Syncer>,
    /// The outcome, not known yet, of the batch that is being collected.
    open: Option<Arc<Commit>>,
    /// The outcome of the last batch that was written.
    newest: Arc<Commit>,
    /// The time at which the collection of the batch began, in microseconds since 1970.
    unix_us: u64,
    records: u64,
    /// Whether a publication of the batch was too long for a record.
    has_oversized: bool,
    /// The reason why publications are refused; `None` while they are accepted.
    failure: Option<Failure>,
    checked: Instant,
    metrics: Arc<FeedMetrics>,
}

impl Journal {
    /// Starts the journal with an open store. `wake` wakes the feed when a batch has become
    /// durable.
    ///
    /// # Errors
    /// Returns an error if no thread can be started.
    pub fn new(
        record_writer: RecordWriter,
        wake: Arc<Wake>,
        metrics: Arc<FeedMetrics>,
    ) -> io::Result<Self> {
        let syncer = match record_writer.settings.sync {
            JournalSync::Always | JournalSync::Os => None,
            JournalSync::Batch => {
                let metrics = Arc::clone(&metrics);
                Some(Syncer::spawn(SyncerParts { wake, metrics })?)
            }
        };
        let newest = Commit::default();
        newest.set(CommitState::Committed);
        let journal = Self {
            record_writer,
            syncer,
            open: None,
            newest: Arc::new(newest),
            unix_us: 0,
            records: 0,
            has_oversized: false,
            failure: None,
            checked: Instant::now(),
            metrics,
        };
        journal.note_disk_bytes();
        Ok(journal)
    }

    /// Changes which records are kept.
    pub fn set_retained(&mut self, retained: Retained) {
        let settings = &mut self.record_writer.settings;
        (settings.bounds, settings.bytes_max) = (retained.bounds, retained.bytes_max);
    }

    /// Returns the id of the last publication in the store.
    #[must_use]
    pub fn head(&self) -> Cursor {
        Cursor {
            epoch: self.record_writer.epoch(),
            sequence: self.record_writer.head(),
        }
    }

    /// Returns the [`Commit`] that will contain the outcome of the batch that is being collected.
    pub fn commit(&mut self) -> Arc<Commit> {
        if let Some(open) = &self.open {
            return Arc::clone(open);
        }
        self.unix_us = unix_us();
        Arc::clone(self.open.insert(Arc::default()))
    }

    /// Returns the [`Commit`] with the outcome of the newest batch. When this outcome is known, the
    /// outcomes of all earlier batches are known, too.
    #[must_use]
    pub fn newest(&self) -> Arc<Commit> {
        Arc::clone(self.open.as_ref().unwrap_or(&self.newest))
    }

    /// Adds a publication to the batch. `is_from_client` is true if a client chose the idempotency
    /// key.
    pub fn stage(&mut self, publication: &Publication, dedupe: Option<&str>, is_from_client: bool) {
        let ttl_us = publication
            .expires()
            .map(|expires| expires.0.saturating_sub(publication.published.0));
        let is_staged = self.record_writer.stage(&Record {
            published_us: self.unix_us,
            ttl_us,
            channel: publication.channel.as_str(),
            event: publication.event(),
            key: publication.key(),
            dedupe,
            is_from_client,
            traceparent: publication.traceparent().copied(),
            payload: PayloadRef::of(&publication.payload),
        });
        self.records += 1;
        self.has_oversized |= !is_staged;
    }

    /// Writes the batch. Returns false if the write failed, so that the batch must not be
    /// broadcast.
    #[must_use]
    pub fn append(&mut self) -> bool {
        let Some(commit) = self.open.take() else {
            return true;
        };
        self.check();
        let begun = Instant::now();
        let records = std::mem::take(&mut self.records);
        let outcome = self.write();
        self.update_failure(outcome.as_ref().err());
        let Ok(bytes) = outcome else {
            self.metrics.journal_write_errors.increment();
            commit.set(CommitState::Refused);
            return false;
        };
        self.metrics.journal_records.add(records);
        self.metrics.journal_bytes.add(bytes);
        self.newest = Arc::clone(&commit);
        self.settle_commit(commit, WrittenBatch { begun, records });
        true
    }

    fn write(&mut self) -> Result<u64, EngineError> {
        if self.syncer.as_ref().is_some_and(Syncer::take_failure) {
            self.record_writer.mark_unsynced();
        }
        if std::mem::take(&mut self.has_oversized) {
            self.record_writer.discard();
            return Err(EngineError::TooLong);
        }
        self.record_writer.append()
    }

    /// Sets the outcome of a batch that was written. If the batch must still be synced, the sync
    /// thread sets the outcome after the sync.
    fn settle_commit(&self, commit: Arc<Commit>, batch: WrittenBatch) {
        let is_synced = self.record_writer.settings.sync == JournalSync::Always;
        if is_synced {
            self.metrics.journal_syncs.increment();
        }
        let has_unsynced = self.record_writer.has_unsynced()
            && self.record_writer.settings.sync != JournalSync::Os;
        match (&self.syncer, self.record_writer.engine()) {
            _ if has_unsynced => commit.set(CommitState::Unsynced),
            (Some(syncer), Some(engine)) => {
                commit.set(CommitState::Written);
                syncer.request(SyncRequest {
                    engine,
                    commit,
                    batch,
                });
            }
            (None, _) => {
                batch.note_committed(is_synced, &self.metrics);
                commit.set(CommitState::Committed);
            }
            (Some(_), None) => {
                debug_assert!(false, "the batch was written, so the store is open");
                commit.set(CommitState::Unsynced);
            }
        }
    }

    /// Checks whether the files still exist, but at most once per [`FILES_CHECK_MS`]. A write to a
    /// removed file succeeds, but the data is lost.
    pub fn check(&mut self) {
        if self.checked.elapsed() >= Duration::from_millis(FILES_CHECK_MS) {
            self.check_now();
        }
    }

    fn check_now(&mut self) {
        self.checked = Instant::now();
        // Even if all files exist and the store can be opened, the disk may still be full. So a
        // successful check ends a failure only in two cases: removed files caused the failure, or
        // no batch was refused during [`JOURNAL_QUIET_MS`]. Otherwise the next batch shows whether
        // the journal works.
        let quiet = Duration::from_millis(JOURNAL_QUIET_MS);
        if let Some(failure) = &self.failure
            && !failure.is_removed
            && failure.refused.elapsed() < quiet
        {
            return;
        }
        match self.record_writer.check() {
            // During the pause after a failure, the reason for the failure is already known.
            Err(EngineError::Broken) => {}
            checked => self.update_failure(checked.err().as_ref()),
        }
        self.note_disk_bytes();
    }

    /// Updates the metric of the size on disk. While the store is closed, the metric keeps its
    /// value.
    fn note_disk_bytes(&self) {
        let bytes = self
            .record_writer
            .engine()
            .and_then(|engine| engine.disk_bytes().ok());
        if let Some(bytes) = bytes {
            self.metrics.journal_disk_bytes.set(bytes);
        }
    }

    /// Returns the reason why publications are refused; `None` while they are accepted.
    #[must_use]
    pub fn failure(&self) -> Option<&str> {
        self.failure.as_ref().map(|failure| failure.reason.as_str())
    }

    fn update_failure(&mut self, error: Option<&EngineError>) {
        match (error, &mut self.failure) {
            (None, None) => {}
            (None, Some(_)) => {
                tracing::warn!("the journal can be written again");
                self.failure = None;
            }
            (Some(error), Some(failure))
                if matches!(error, EngineError::Broken)
                    || failure.is_removed == error.is_removed() =>
            {
                failure.refused = Instant::now();
            }
            (Some(error), _) => {
                tracing::error!(%error, "the journal cannot be written: publications are refused");
                self.failure = Some(Failure {
                    reason: error.to_string(),
                    is_removed: error.is_removed(),
                    refused: Instant::now(),
                });
            }
        }
        let is_failing = self.failure.is_some();
        self.metrics.journal_failing.set(is_failing.into());
    }

    /// Makes all records durable, and records a clean stop.
    pub fn close(mut self) {
        if self.syncer.take().is_some_and(Syncer::join) {
            self.record_writer.mark_unsynced();
        }
        if let Err(error) = self.record_writer.close() {
            tracing::warn!(%error, "the journal cannot be closed cleanly");
        }
    }
}

/// Returns the wall-clock time in microseconds since 1970; zero if the clock is set to an earlier
/// year.
fn unix_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, micros)
}
