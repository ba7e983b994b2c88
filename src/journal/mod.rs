//! SHELL: publications on disk, so that a restart loses none.
//!
//! The sequencer stages each publication, appends a batch before it is broadcast and asks what
//! became of it through a [`commit::Commit`]; [`replay`] gives the workers what was published
//! before this process. [`record_writer`] appends to a store, [`recover`] opens it, `syncer` makes it
//! durable; [`engine`] is what a store has to do, [`lsm`] does it with fjall, [`folder`] is where.
//!
//! What an acknowledgement stands for is the operator's choice: `always` syncs before a batch is
//! broadcast, `batch` before it is acknowledged, `os` not at all. A process that is killed loses
//! nothing in any of them, since a batch is written before anybody sees it. After a sync that has
//! failed, `always` and `batch` acknowledge nothing more until the system is started anew: the
//! store reads its log as far as that is whole, so what comes behind a hole is no safer than the
//! hole.
//!
//! Writing to a file that was removed succeeds. [`Journal::check`] therefore compares what is on
//! the file system with what was opened, and refuses publications until the original is back.
//! `files` has what the store needs, also while it is not open: it opens without a log that is
//! missing.
//! Nothing is made again meanwhile: a part of a journal would keep the next start from beginning
//! another.
//!
//! Why fjall: its write-ahead log has a batch whole or not at all, without a sync it outlives the
//! process, and it syncs when asked. redb has nothing between a commit with a sync and one that is
//! gone when the process is killed, so that `batch` could not broadcast before it syncs;
//! `benches/load/stores` has the figures of both. fjall refuses everything after an error of the
//! disk, so the keeper lets it go and opens it again; a log with a hole, which it does not open,
//! `repair` cuts off. What it costs in memory: three times
//! [`JOURNAL_MEMTABLE_BYTES`] and a little for records that are not in its tables yet, one
//! thread, and at a start what its write-ahead log holds.
//!
//! [`JOURNAL_MEMTABLE_BYTES`]: crate::config::limits::JOURNAL_MEMTABLE_BYTES

mod chunk_stats;
pub mod commit;
pub mod engine;
mod files;
pub mod folder;
pub mod lsm;
pub mod record;
pub mod record_writer;
pub mod recover;
mod repair;
pub mod replay;
pub mod state;
mod syncer;

#[cfg(test)]
pub(crate) mod fake;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use self::commit::{Commit, Fate};
use self::engine::EngineError;
use self::record::{PayloadRef, Record};
use self::record_writer::Keeper;
use self::syncer::{Request, Syncer, Tools};
use crate::config::JournalSync;
use crate::config::limits::{FILES_CHECK_MS, JOURNAL_QUIET_MS};
use crate::frame::Publication;
use crate::id::Cursor;
use crate::metrics::FeedMetrics;
use crate::sys::wake::Wake;

/// Why publications are refused.
#[derive(Debug)]
struct Failure {
    reason: String,
    is_removed: bool,
    /// When the last batch was refused.
    refused: Instant,
}

/// The feed's end of the journal.
#[derive(Debug)]
pub struct Journal {
    keeper: Keeper,
    /// Only with `batch`.
    syncer: Option<Syncer>,
    /// The batch that is being collected.
    open: Option<Arc<Commit>>,
    /// The batch before it.
    newest: Arc<Commit>,
    /// When the batch that is being collected began: microseconds since 1970.
    unix_us: u64,
    records: u64,
    /// A publication was too long for a record.
    has_misfit: bool,
    /// Why publications are refused.
    failure: Option<Failure>,
    checked: Instant,
    metrics: Arc<FeedMetrics>,
}

impl Journal {
    /// Takes an open store. `wake` wakes the feed when something has become durable.
    ///
    /// # Errors
    /// When the system has no thread left.
    pub fn new(keeper: Keeper, wake: Arc<Wake>, metrics: Arc<FeedMetrics>) -> io::Result<Self> {
        let syncer = match keeper.settings.sync {
            JournalSync::Always | JournalSync::Os => None,
            JournalSync::Batch => {
                let metrics = Arc::clone(&metrics);
                Some(Syncer::spawn(Tools { wake, metrics })?)
            }
        };
        let newest = Commit::default();
        newest.decide(Fate::Kept);
        Ok(Self {
            keeper,
            syncer,
            open: None,
            newest: Arc::new(newest),
            unix_us: 0,
            records: 0,
            has_misfit: false,
            failure: None,
            checked: Instant::now(),
            metrics,
        })
    }

    /// The last id on disk.
    #[must_use]
    pub fn head(&self) -> Cursor {
        Cursor {
            epoch: self.keeper.epoch(),
            sequence: self.keeper.head(),
        }
    }

    /// What will become of the batch that is being collected.
    pub fn commit(&mut self) -> Arc<Commit> {
        if let Some(open) = &self.open {
            return Arc::clone(open);
        }
        self.unix_us = unix_us();
        Arc::clone(self.open.insert(Arc::default()))
    }

    /// What will become, or has become, of the newest batch; nothing before it is decided later.
    #[must_use]
    pub fn newest(&self) -> Arc<Commit> {
        Arc::clone(self.open.as_ref().unwrap_or(&self.newest))
    }

    /// Puts a publication into the batch.
    pub fn stage(&mut self, publication: &Publication, dedupe: Option<&str>) {
        let ttl_us = publication
            .expires()
            .map(|expires| expires.0.saturating_sub(publication.published.0));
        let is_staged = self.keeper.stage(&Record {
            published_us: self.unix_us,
            ttl_us,
            channel: publication.channel.as_str(),
            event: publication.event(),
            key: publication.key(),
            dedupe,
            payload: PayloadRef::of(&publication.payload),
        });
        self.records += 1;
        self.has_misfit |= !is_staged;
    }

    /// Writes the batch. False if it is not to be broadcast: nothing of it is on disk then.
    #[must_use]
    pub fn append(&mut self) -> bool {
        let Some(commit) = self.open.take() else {
            return true;
        };
        self.check();
        let records = std::mem::take(&mut self.records);
        let outcome = self.write();
        self.note(outcome.as_ref().err());
        let Ok(bytes) = outcome else {
            self.metrics.journal_write_errors.increment();
            commit.decide(Fate::Refused);
            return false;
        };
        self.metrics.journal_records.add(records);
        self.metrics.journal_bytes.add(bytes);
        self.newest = Arc::clone(&commit);
        self.hand_on(commit);
        true
    }

    fn write(&mut self) -> Result<u64, EngineError> {
        if self.syncer.as_ref().is_some_and(Syncer::take_failure) {
            self.keeper.doubt();
        }
        if std::mem::take(&mut self.has_misfit) {
            self.keeper.discard();
            return Err(EngineError::TooLong);
        }
        self.keeper.append()
    }

    /// Says what has become of a batch, or who will.
    fn hand_on(&self, commit: Arc<Commit>) {
        if self.keeper.settings.sync == JournalSync::Always {
            self.metrics.journal_syncs.increment();
        }
        let is_doubtful = self.keeper.is_doubtful() && self.keeper.settings.sync != JournalSync::Os;
        match (&self.syncer, self.keeper.engine()) {
            _ if is_doubtful => commit.decide(Fate::Unsynced),
            (Some(syncer), Some(engine)) => {
                commit.decide(Fate::Written);
                syncer.request(Request { engine, commit });
            }
            _ => commit.decide(Fate::Kept),
        }
    }

    /// Checks that the files are where they were, if the last check was long enough ago: what is
    /// written to a file that was removed succeeds and is lost.
    pub fn check(&mut self) {
        if self.checked.elapsed() >= Duration::from_millis(FILES_CHECK_MS) {
            self.check_now();
        }
    }

    fn check_now(&mut self) {
        self.checked = Instant::now();
        // A store that has failed otherwise is tried with the next batch: that it can be opened
        // does not show that it has room. Without batches an attempt has to do.
        let quiet = Duration::from_millis(JOURNAL_QUIET_MS);
        if let Some(failure) = &self.failure
            && !failure.is_removed
            && failure.refused.elapsed() < quiet
        {
            return;
        }
        match self.keeper.check() {
            // It is left alone for a while, and what it failed with is known.
            Err(EngineError::Broken) => {}
            checked => self.note(checked.err().as_ref()),
        }
    }

    /// Why publications are refused; nothing if they are not.
    #[must_use]
    pub fn failure(&self) -> Option<&str> {
        self.failure.as_ref().map(|failure| failure.reason.as_str())
    }

    fn note(&mut self, error: Option<&EngineError>) {
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

    /// Makes everything durable and notes that the stop was clean.
    pub fn close(mut self) {
        if self.syncer.take().is_some_and(Syncer::join) {
            self.keeper.doubt();
        }
        if let Err(error) = self.keeper.close() {
            tracing::warn!(%error, "the journal cannot be closed cleanly");
        }
    }
}

/// The calendar's time, in microseconds since 1970.
fn unix_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
    })
}
