//! SHELL: the journal's records in a store: stages and appends them, begins new chunks, removes old
//! ones, and opens the store again after an error.
//!
//! One thread appends. A batch is in the store whole or is refused. After any error the store is
//! let go and, with pauses, opened again; what it may still have of refused batches is left behind
//! in the old chunk, since the new one begins with the number after the last batch that was taken.
//! Opening after a restart is [`super::recover`]'s.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::chunk_stats::{Content, is_forgotten};
use super::engine::{Batch, Engine, EngineError, Opener};
use super::record::{self, Record};
use super::state::{Boot, Mark, State};
use crate::config::limits::{
    FAULT_REPEATED_MS, JOURNAL_CHUNK_BYTES, JOURNAL_CHUNKS_MAX, JOURNAL_NUMBERS_ASIDE,
};
use crate::config::{JournalSync, LogBounds};
use crate::id::{Epoch, Sequence};
use crate::sys::descriptors;

/// What an operator chose, and where we are.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Bounds of the log: what it cannot hold need not be kept.
    pub bounds: LogBounds,
    /// Bytes of records above which the oldest chunks go, whatever they hold.
    pub bytes_max: u64,
    /// When to sync.
    pub sync: JournalSync,
    /// The time since the system was started.
    pub boot: Boot,
    /// How long a store that has failed is left alone before it is opened again.
    pub pause: Duration,
}

impl Settings {
    /// Bytes after which a chunk is full.
    fn chunk_bytes(&self) -> u64 {
        JOURNAL_CHUNK_BYTES.max(self.bytes_max / JOURNAL_CHUNKS_MAX)
    }
}

/// Records that go together.
#[derive(Debug)]
pub(super) struct Chunk {
    /// The number of its first record.
    pub(super) first: Sequence,
    pub(super) content: Content,
    pub(super) bytes: u64,
}

impl Chunk {
    pub(super) fn new(first: Sequence) -> Self {
        Self {
            first,
            content: Content::default(),
            bytes: 0,
        }
    }
}

/// Whether there is a store to write to.
#[derive(Debug)]
enum Access {
    Open(Arc<dyn Engine>),
    Broken {
        /// Others may still have it; it cannot be opened as long as they do.
        engine: Weak<dyn Engine>,
        until: Instant,
    },
}

/// The records, and the store that has them.
#[derive(Debug)]
pub struct Keeper {
    opener: Box<dyn Opener>,
    access: Access,
    pub(super) settings: Settings,
    epoch: Epoch,
    /// The last number in the store, or the last that was left out.
    head: Sequence,
    ceiling: Sequence,
    is_doubtful: bool,
    current: Chunk,
    /// Oldest first.
    older: VecDeque<Chunk>,
    /// The lengths of `older` together.
    older_bytes: u64,
    /// Everything in `older` and `current`.
    total: Content,
    staged: Batch,
    staged_content: Content,
    /// When the log last said that a check was not possible.
    unchecked_logged: Option<Instant>,
}

/// What opening has found and made ready.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) engine: Arc<dyn Engine>,
    pub(super) epoch: Epoch,
    pub(super) head: Sequence,
    pub(super) ceiling: Sequence,
    pub(super) is_doubtful: bool,
    pub(super) older: VecDeque<Chunk>,
    pub(super) current: Chunk,
}

impl Keeper {
    pub(super) fn new(opener: Box<dyn Opener>, settings: Settings, found: Found) -> Self {
        let older = found.older;
        Self {
            opener,
            access: Access::Open(found.engine),
            settings,
            epoch: found.epoch,
            head: found.head,
            ceiling: found.ceiling,
            is_doubtful: found.is_doubtful,
            total: older
                .iter()
                .fold(found.current.content, |sum, one| sum.plus(one.content)),
            current: found.current,
            older_bytes: older.iter().map(|one| one.bytes).sum(),
            older,
            staged: Batch::default(),
            staged_content: Content::default(),
            unchecked_logged: None,
        }
    }

    /// The epoch of all numbers.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The number after which the next publication comes.
    #[must_use]
    pub fn head(&self) -> Sequence {
        self.head
    }

    /// No number above this is given out before the store has a higher one.
    #[must_use]
    pub fn ceiling(&self) -> Sequence {
        self.ceiling
    }

    /// Whether a sync has failed since the system was started: what was written since then may not
    /// outlive it, since the store reads its log only as far as that is whole.
    #[must_use]
    pub fn is_doubtful(&self) -> bool {
        self.is_doubtful
    }

    /// The store, unless it has failed.
    #[must_use]
    pub fn engine(&self) -> Option<Arc<dyn Engine>> {
        match &self.access {
            Access::Open(engine) => Some(Arc::clone(engine)),
            Access::Broken { .. } => None,
        }
    }

    /// Adds a record to the batch that the next [`Keeper::append`] writes. False if it is too long.
    #[must_use]
    pub fn stage(&mut self, record: &Record<'_>) -> bool {
        let is_staged = record::encode(record, self.staged.bytes_mut());
        if is_staged {
            self.staged.end();
            self.staged_content.add(record);
        }
        is_staged
    }

    /// Lets go of the batch.
    pub fn discard(&mut self) {
        self.staged.clear();
        self.staged_content = Content::default();
    }

    /// Writes the batch and says how many bytes that were; with `always` it is durable then. If
    /// that fails, the batch is gone, and the store is let go.
    ///
    /// # Errors
    /// What the store says, or that it is not open.
    pub fn append(&mut self) -> Result<u64, EngineError> {
        let mut batch = std::mem::take(&mut self.staged);
        let content = std::mem::take(&mut self.staged_content);
        batch.number_from(self.head.next());
        let written = self.open_again().and_then(|engine| {
            let written = self.write(&engine, &batch, content);
            drop(engine);
            if written.is_err() {
                self.let_go();
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
        content: Content,
    ) -> Result<(), EngineError> {
        let head = Sequence(self.head.0.saturating_add(batch.len()));
        if head >= self.ceiling {
            let ceiling = Sequence(head.0.saturating_add(JOURNAL_NUMBERS_ASIDE));
            let put = self.put_state(engine, ceiling, None);
            self.unless_doubtful(engine, put)?;
            self.ceiling = ceiling;
        }
        if self.current.bytes >= self.settings.chunk_bytes() {
            let begun = self.begin_chunk(engine);
            self.unless_doubtful(engine, begun)?;
        }
        let appended = engine.append(self.current.first, batch);
        self.unless_doubtful(engine, appended)?;
        if self.settings.sync == JournalSync::Always
            && let Err(error) = engine.sync()
        {
            if !matches!(error, EngineError::Full) {
                self.note_doubt(engine.as_ref());
            }
            return Err(error);
        }
        engine.put_mark(Mark {
            sequence: head,
            is_doubtful: self.is_doubtful,
        })?;
        self.current.bytes += batch.bytes();
        self.current.content = self.current.content.plus(content);
        self.total = self.total.plus(content);
        self.head = head;
        self.remove_old(engine.as_ref(), content.newest_us);
        Ok(())
    }

    /// Begins a chunk with the next number, which may leave the current one without records.
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

    /// Removes chunks of which neither the log nor the memory of idempotency keys could have
    /// anything, and the oldest of those that are too much.
    fn remove_old(&mut self, engine: &dyn Engine, now_us: u64) {
        while let Some(oldest) = self.older.front() {
            let later = self.total.minus(oldest.content);
            let is_room = self.older_bytes + self.current.bytes <= self.settings.bytes_max;
            if is_room && !is_forgotten(oldest.content, later, self.settings.bounds, now_us) {
                return;
            }
            if let Err(error) = engine.remove_chunk(oldest.first) {
                // It is tried again with the next batch, and does no harm until then.
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
            epoch: self.epoch,
            ceiling,
            clean,
            sync: self.settings.sync,
            boot: self.settings.boot,
        };
        engine.put_state(&state.encode())
    }

    /// Checks that the store is where it was. If not, it is let go; one that was let go is opened
    /// again if that is possible. A check that the system does not allow, such as without a free
    /// descriptor, finds nothing: the store can be written to.
    ///
    /// # Errors
    /// What keeps the store from being written to.
    pub fn check(&mut self) -> Result<(), EngineError> {
        match self.open_again()?.check() {
            Err(EngineError::Io(error)) => {
                self.note_unchecked(&error);
                Ok(())
            }
            Err(error) => {
                self.let_go();
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

    /// Notes that a sync has failed: the system may have forgotten what it could not write, so the
    /// store cannot be believed, nor what comes behind it in the same file.
    pub fn doubt(&mut self) {
        if let Some(engine) = self.engine() {
            self.note_doubt(engine.as_ref());
        }
        self.let_go();
    }

    /// Passes on what became of something that may sync. Nothing is forgotten if the disk is full,
    /// if files were removed, or if no descriptor was free. After any other error it may be.
    fn unless_doubtful(
        &mut self,
        engine: &Arc<dyn Engine>,
        outcome: Result<(), EngineError>,
    ) -> Result<(), EngineError> {
        if outcome
            .as_ref()
            .is_err_and(|error| !error.forgets_nothing() && !lacks_descriptor(error))
        {
            self.note_doubt(engine.as_ref());
        }
        outcome
    }

    fn note_doubt(&mut self, engine: &dyn Engine) {
        self.is_doubtful = true;
        let mark = Mark {
            sequence: self.head,
            is_doubtful: true,
        };
        let noted = engine.put_mark(mark).and_then(|()| engine.sync_mark());
        if let Err(error) = noted {
            tracing::warn!(%error, "cannot note that the journal may not outlive a power cut");
        }
    }

    fn let_go(&mut self) {
        if let Some(engine) = self.engine() {
            self.access = Access::Broken {
                engine: Arc::downgrade(&engine),
                until: Instant::now() + self.settings.pause,
            };
        }
    }

    /// The store, opened again if it was let go long enough ago.
    fn open_again(&mut self) -> Result<Arc<dyn Engine>, EngineError> {
        let (engine, until) = match &mut self.access {
            Access::Open(engine) => return Ok(Arc::clone(engine)),
            Access::Broken { engine, until } => (engine, until),
        };
        if engine.strong_count() > 0 || Instant::now() < *until {
            return Err(EngineError::Broken);
        }
        let opened = self.opener.open().and_then(|engine| {
            let begun = self.begin_chunk(&engine);
            // Also shows that the store can be written to.
            let ready = begun.and_then(|()| self.put_state(&engine, self.ceiling, None));
            self.unless_doubtful(&engine, ready)?;
            Ok(engine)
        });
        match opened {
            Ok(engine) => {
                self.access = Access::Open(Arc::clone(&engine));
                Ok(engine)
            }
            Err(error) => {
                if let Access::Broken { until, .. } = &mut self.access {
                    *until = Instant::now() + self.settings.pause;
                }
                Err(error)
            }
        }
    }

    /// Makes everything durable and notes that nothing is missing.
    ///
    /// # Errors
    /// What the store says; the next start then looks more closely.
    pub fn close(mut self) -> Result<(), EngineError> {
        self.check()?;
        let engine = self.open_again()?;
        engine.sync()?;
        engine.sync_mark()?;
        self.put_state(&engine, self.ceiling, Some(self.head))
    }
}

/// Whether a file could not be opened, which is no failed sync.
fn lacks_descriptor(error: &EngineError) -> bool {
    matches!(error, EngineError::Io(error) if descriptors::is_exhausted(error))
}
