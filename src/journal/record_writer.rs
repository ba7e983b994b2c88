//! SHELL: this module writes the journal's records. It appends batches, begins chunks, removes old
//! chunks, and reopens the store after an error.
//!
//! Only one thread appends records. A batch is stored as a whole or refused. After any error the
//! store is released, and reopened after a pause. The reopened store may still contain parts of
//! refused batches. These parts remain in the old chunk. They are ignored, because the new chunk
//! begins with the number after the last stored batch. [`super::recover`] opens the store when the
//! server starts.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::chunk_stats::{ChunkStats, is_unneeded};
use super::engine::{Batch, Engine, EngineError, Opener};
use super::epochs::Epochs;
use super::record::{self, Record};
use super::source::{Facts, Source};
use super::state::{BootId, Home, Mark, State};
use crate::config::limits::{
    FAULT_REPEATED_MS, JOURNAL_CHUNK_BYTES, JOURNAL_CHUNKS_MAX, JOURNAL_IDS_RESERVED,
};
use crate::config::{Config, JournalSync, LogBounds};
use crate::id::{Epoch, Sequence};
use crate::sys::descriptors;

/// The configuration of the journal, and the boot id.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// The bounds of the log. Records outside these bounds may be removed.
    pub bounds: LogBounds,
    /// The maximum total size of the records in bytes. Above it, the oldest chunks are removed,
    /// whatever records they contain.
    pub bytes_max: u64,
    /// The setting that determines when records are synced.
    pub sync: JournalSync,
    /// The kernel's boot id.
    pub boot: BootId,
    /// The pause before a failed store is reopened.
    pub pause: Duration,
}

/// The bounds of the journal that a reload can change.
#[derive(Clone, Copy, Debug)]
pub struct Retained {
    /// See [`Settings::bounds`].
    pub bounds: LogBounds,
    /// See [`Settings::bytes_max`].
    pub bytes_max: u64,
}

impl Retained {
    /// Returns the bounds that a configuration selects.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let bounds = match config.namespace.is_empty() {
            true => config.log,
            // With namespaces, the number and size of later records do not make a chunk removable.
            // Otherwise the records of a busy namespace could cause the removal of records that a
            // quiet namespace still needs.
            false => LogBounds {
                bytes: u64::MAX,
                entries: u64::MAX,
                ..config.log
            },
        };
        Self {
            bounds,
            bytes_max: config.journal.bytes,
        }
    }
}

impl Settings {
    /// Returns the number of bytes above which a chunk is full.
    fn chunk_bytes(&self) -> u64 {
        JOURNAL_CHUNK_BYTES.max(self.bytes_max / JOURNAL_CHUNKS_MAX)
    }
}

/// A chunk: records that are removed together.
#[derive(Debug)]
pub(super) struct Chunk {
    /// The sequence number of the chunk's first record.
    pub(super) first: Sequence,
    pub(super) stats: ChunkStats,
    pub(super) bytes: u64,
}

impl Chunk {
    pub(super) fn new(first: Sequence) -> Self {
        Self {
            first,
            stats: ChunkStats::default(),
            bytes: 0,
        }
    }
}

/// The open store, or the state of a store that was released after an error.
#[derive(Debug)]
enum StoreAccess {
    Open(Arc<dyn Engine>),
    Broken {
        /// A weak reference to the engine that was released. The store cannot be reopened while
        /// other threads still use this engine.
        engine: Weak<dyn Engine>,
        until: Instant,
    },
}

/// Appends records to a store.
#[derive(Debug)]
pub struct RecordWriter {
    opener: Box<dyn Opener>,
    access: StoreAccess,
    pub(super) settings: Settings,
    /// What backups see of this journal.
    source: Arc<Source>,
    home: Home,
    /// The last sequence number that was stored or skipped.
    head: Sequence,
    ceiling: Sequence,
    has_unsynced: bool,
    current: Chunk,
    /// The full chunks, oldest first.
    older: VecDeque<Chunk>,
    /// The total size of the chunks in `older`, in bytes.
    older_bytes: u64,
    /// The statistics of all records, in the chunks of `older` and in `current`.
    total: ChunkStats,
    staged: Batch,
    staged_stats: ChunkStats,
    /// The time at which a failed check was last logged.
    unchecked_logged: Option<Instant>,
}

/// An opened store, to which records can be appended.
#[derive(Debug)]
pub(super) struct OpenedStore {
    pub(super) engine: Arc<dyn Engine>,
    pub(super) epochs: Epochs,
    pub(super) home: Home,
    pub(super) head: Sequence,
    pub(super) ceiling: Sequence,
    pub(super) has_unsynced: bool,
    pub(super) older: VecDeque<Chunk>,
    pub(super) current: Chunk,
}

impl RecordWriter {
    pub(super) fn new(opener: Box<dyn Opener>, settings: Settings, found: OpenedStore) -> Self {
        let older = found.older;
        let facts = Facts {
            epochs: found.epochs,
            sync: settings.sync,
            boot: settings.boot,
        };
        Self {
            source: Arc::new(Source::new(&found.engine, found.head, facts)),
            opener,
            access: StoreAccess::Open(found.engine),
            settings,
            home: found.home,
            head: found.head,
            ceiling: found.ceiling,
            has_unsynced: found.has_unsynced,
            total: older
                .iter()
                .fold(found.current.stats, |sum, one| sum.plus(one.stats)),
            current: found.current,
            older_bytes: older.iter().map(|one| one.bytes).sum(),
            older,
            staged: Batch::default(),
            staged_stats: ChunkStats::default(),
            unchecked_logged: None,
        }
    }

    /// Returns the epoch of new publications.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epochs().current()
    }

    /// Returns the epochs of all sequence numbers.
    #[must_use]
    pub fn epochs(&self) -> &Epochs {
        &self.source.facts.epochs
    }

    /// Returns what backups see of this journal.
    pub(super) fn source(&self) -> &Arc<Source> {
        &self.source
    }

    /// Returns the last sequence number that was stored or skipped.
    #[must_use]
    pub fn head(&self) -> Sequence {
        self.head
    }

    /// Returns the ceiling, which is the highest sequence number that may be assigned. A higher
    /// number is assigned only after a higher ceiling was stored.
    #[must_use]
    pub fn ceiling(&self) -> Sequence {
        self.ceiling
    }

    /// Whether a sync has failed since the system was booted. In this case, a power failure may
    /// lose later records. The failed sync may leave a hole in the store's log (a page that was not
    /// written), and the store reads its log only up to the first hole.
    #[must_use]
    pub fn has_unsynced(&self) -> bool {
        self.has_unsynced
    }

    /// Returns the open store; `None` after an error.
    #[must_use]
    pub fn engine(&self) -> Option<Arc<dyn Engine>> {
        match &self.access {
            StoreAccess::Open(engine) => Some(Arc::clone(engine)),
            StoreAccess::Broken { .. } => None,
        }
    }

    /// Adds a record to the batch that the next [`RecordWriter::append`] writes. Returns false if
    /// the record is too long.
    #[must_use]
    pub fn stage(&mut self, record: &Record<'_>) -> bool {
        let is_staged = record::encode(record, self.staged.bytes_mut());
        if is_staged {
            self.staged.end();
            self.staged_stats.add(record);
        }
        is_staged
    }

    /// Discards the staged batch.
    pub fn discard(&mut self) {
        self.staged.clear();
        self.staged_stats = ChunkStats::default();
    }

    /// Writes the batch and returns its length in bytes. With `journal.sync = "always"`, the batch
    /// is durable afterwards. On an error the batch is discarded, and the store is released.
    ///
    /// # Errors
    /// Returns the error of the store, or [`EngineError::Broken`] during the pause after an error.
    pub fn append(&mut self) -> Result<u64, EngineError> {
        let mut batch = std::mem::take(&mut self.staged);
        let stats = std::mem::take(&mut self.staged_stats);
        batch.number_from(self.head.next());
        let written = self.reopen().and_then(|engine| {
            let written = self.write(&engine, &batch, stats);
            drop(engine);
            if written.is_err() {
                self.release();
            }
            written
        });
        let bytes = batch.bytes();
        batch.clear();
        self.staged = batch;
        written.map(|()| bytes)
    }

    fn write(
        &mut self,
        engine: &Arc<dyn Engine>,
        batch: &Batch,
        stats: ChunkStats,
    ) -> Result<(), EngineError> {
        let head = Sequence(self.head.0.saturating_add(batch.len()));
        if head >= self.ceiling {
            let ceiling = Sequence(head.0.saturating_add(JOURNAL_IDS_RESERVED));
            let put = self.put_state(engine, ceiling, None);
            self.noting_sync_failure(engine, put)?;
            self.ceiling = ceiling;
        }
        if self.current.bytes >= self.settings.chunk_bytes() {
            let begun = self.begin_chunk(engine);
            self.noting_sync_failure(engine, begun)?;
        }
        let appended = engine.append(self.current.first, batch);
        self.noting_sync_failure(engine, appended)?;
        if self.settings.sync == JournalSync::Always
            && let Err(error) = engine.sync()
        {
            if !matches!(error, EngineError::Full) {
                self.write_unsynced_mark(engine.as_ref());
            }
            return Err(error);
        }
        engine.put_mark(Mark {
            sequence: head,
            has_unsynced: self.has_unsynced,
        })?;
        self.current.bytes += batch.bytes();
        self.current.stats = self.current.stats.plus(stats);
        self.total = self.total.plus(stats);
        self.head = head;
        self.source.set_head(head);
        self.remove_old(engine.as_ref(), stats.newest_us);
        Ok(())
    }

    /// Begins a chunk with the next sequence number. If the current chunk has no records, the new
    /// chunk replaces it.
    fn begin_chunk(&mut self, engine: &Arc<dyn Engine>) -> Result<(), EngineError> {
        let first = self.head.next();
        engine.begin_chunk(first)?;
        let full = std::mem::replace(&mut self.current, Chunk::new(first));
        if full.first != first {
            self.older_bytes += full.bytes;
            self.older.push_back(full);
        }
        Ok(())
    }

    /// Removes the oldest chunks. A chunk is removed if neither the log nor the idempotency keys
    /// can need its records, or if the total size exceeds `bytes_max`.
    fn remove_old(&mut self, engine: &dyn Engine, now_us: u64) {
        while let Some(oldest) = self.older.front() {
            let later = self.total.minus(oldest.stats);
            let is_room = self.older_bytes + self.current.bytes <= self.settings.bytes_max;
            if is_room && !is_unneeded(oldest.stats, later, self.settings.bounds, now_us) {
                return;
            }
            if let Err(error) = engine.remove_chunk(oldest.first) {
                // A failed removal is harmless, because the next batch tries to remove the chunk
                // again.
                tracing::debug!(%error, "cannot remove old records from the journal");
                return;
            }
            self.total = later;
            self.older_bytes -= oldest.bytes;
            self.older.pop_front();
        }
    }

    fn put_state(
        &self,
        engine: &Arc<dyn Engine>,
        ceiling: Sequence,
        clean: Option<Sequence>,
    ) -> Result<(), EngineError> {
        let state = State {
            epochs: self.epochs().clone(),
            ceiling,
            clean,
            sync: self.settings.sync,
            boot: self.settings.boot,
            home: self.home,
        };
        engine.put_state(&state.encode())
    }

    /// Checks whether the store's files still exist, and releases the store if they do not. A
    /// released store is reopened if possible. If the check itself fails, for example because no
    /// descriptor is free, the store stays open. The reason is that the files may still exist.
    ///
    /// # Errors
    /// Returns the reason why the store cannot be written to.
    pub fn check(&mut self) -> Result<(), EngineError> {
        match self.reopen()?.check() {
            Err(EngineError::Io(error)) => {
                self.note_unchecked(&error);
                Ok(())
            }
            Err(error) => {
                self.release();
                Err(error)
            }
            Ok(()) => Ok(()),
        }
    }

    fn note_unchecked(&mut self, error: &io::Error) {
        let repeated = Duration::from_millis(FAULT_REPEATED_MS);
        if self
            .unchecked_logged
            .is_none_or(|logged| logged.elapsed() >= repeated)
        {
            tracing::warn!(%error, "cannot check whether the journal's files are still there");
            self.unchecked_logged = Some(Instant::now());
        }
    }

    /// Records that a sync has failed. The kernel may have dropped pages that it could not write.
    /// So a power failure may lose the records in these pages, and all later records in the same
    /// file.
    pub fn mark_unsynced(&mut self) {
        if let Some(engine) = self.engine() {
            self.write_unsynced_mark(engine.as_ref());
        }
        self.release();
    }

    /// Returns the outcome of an operation that may sync, and records a failed sync. A full disk,
    /// removed files and a lack of descriptors cause no loss of durable data. Any other error may
    /// have lost durable data, so it is recorded as a failed sync.
    fn noting_sync_failure(
        &mut self,
        engine: &Arc<dyn Engine>,
        outcome: Result<(), EngineError>,
    ) -> Result<(), EngineError> {
        if outcome
            .as_ref()
            .is_err_and(|error| !error.keeps_durable_data() && !lacks_descriptor(error))
        {
            self.write_unsynced_mark(engine.as_ref());
        }
        outcome
    }

    fn write_unsynced_mark(&mut self, engine: &dyn Engine) {
        self.has_unsynced = true;
        let mark = Mark {
            sequence: self.head,
            has_unsynced: true,
        };
        let noted = engine.put_mark(mark).and_then(|()| engine.sync_mark());
        if let Err(error) = noted {
            tracing::warn!(%error, "cannot record in the journal that records may not survive a power failure");
        }
    }

    fn release(&mut self) {
        self.source.set_engine(None);
        if let Some(engine) = self.engine() {
            self.access = StoreAccess::Broken {
                engine: Arc::downgrade(&engine),
                until: Instant::now() + self.settings.pause,
            };
        }
    }

    /// Returns the open store. A store that was released after an error is reopened first, if the
    /// pause after the error has ended.
    fn reopen(&mut self) -> Result<Arc<dyn Engine>, EngineError> {
        let (engine, until) = match &mut self.access {
            StoreAccess::Open(engine) => return Ok(Arc::clone(engine)),
            StoreAccess::Broken { engine, until } => (engine, until),
        };
        if engine.strong_count() > 0 || Instant::now() < *until {
            return Err(EngineError::Broken);
        }
        let opened = self.opener.open().and_then(|engine| {
            let begun = self.begin_chunk(&engine);
            // Writing the state also tests whether the store accepts writes.
            let ready = begun.and_then(|()| self.put_state(&engine, self.ceiling, None));
            self.noting_sync_failure(&engine, ready)?;
            Ok(engine)
        });
        match opened {
            Ok(engine) => {
                self.access = StoreAccess::Open(Arc::clone(&engine));
                self.source.set_engine(Some(&engine));
                Ok(engine)
            }
            Err(error) => {
                if let StoreAccess::Broken { until, .. } = &mut self.access {
                    *until = Instant::now() + self.settings.pause;
                }
                Err(error)
            }
        }
    }

    /// Makes all records durable, and records a clean stop.
    ///
    /// # Errors
    /// Returns the error of the store. The next start then treats this stop as unclean.
    pub fn close(mut self) -> Result<(), EngineError> {
        self.check()?;
        let engine = self.reopen()?;
        engine.sync()?;
        engine.sync_mark()?;
        self.put_state(&engine, self.ceiling, Some(self.head))
    }
}

/// Whether a file could not be opened because no descriptor was free. Such an error does not mean
/// that a sync failed.
fn lacks_descriptor(error: &EngineError) -> bool {
    matches!(error, EngineError::Io(error) if descriptors::is_exhausted(error))
}
