//! SHELL: this module gives a backup access to the store of a running journal.
//!
//! The record writer owns the store. It reports here which store is open and which record is the
//! last. A backup borrows the store for one part of the records at a time, because after an error
//! the record writer can reopen the store only if no other thread uses it.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use super::backup::BackupError;
use super::engine::Engine;
use super::epochs::Epochs;
use super::state::BootId;
use crate::config::JournalSync;
use crate::id::Sequence;

/// The store of a running journal, as a backup sees it.
#[derive(Debug)]
pub(super) struct Source {
    /// The open store; `None` after an error and after the end of the journal.
    engine: Mutex<Option<Weak<dyn Engine>>>,
    head: AtomicU64,
    backups: Mutex<Running>,
    /// Notified when a backup has ended.
    ended: Condvar,
    pub(super) facts: Facts,
}

/// Which backups run and may run.
#[derive(Debug, Default)]
struct Running {
    /// The directory of the running backup.
    to: Option<PathBuf>,
    /// Whether no further backup may begin, because the server stops.
    is_refusing: bool,
    /// Whether the running backup has to end.
    is_stopping: bool,
}

/// What does not change while a journal is open.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    pub(super) epochs: Epochs,
    pub(super) sync: JournalSync,
    pub(super) boot: BootId,
}

impl Source {
    pub(super) fn new(engine: &Arc<dyn Engine>, head: Sequence, facts: Facts) -> Self {
        Self {
            engine: Mutex::new(Some(Arc::downgrade(engine))),
            head: AtomicU64::new(head.0),
            backups: Mutex::default(),
            ended: Condvar::new(),
            facts,
        }
    }

    /// Sets the last record. All records up to it can be read in the open store.
    pub(super) fn set_head(&self, head: Sequence) {
        self.head.store(head.0, Ordering::Release);
    }

    pub(super) fn head(&self) -> Sequence {
        Sequence(self.head.load(Ordering::Acquire))
    }

    /// Sets the open store, or `None` if no store is open.
    pub(super) fn set_engine(&self, engine: Option<&Arc<dyn Engine>>) {
        let mut current = self.engine.lock().unwrap_or_else(PoisonError::into_inner);
        *current = engine.map(Arc::downgrade);
    }

    /// Returns the open store. The caller must drop it soon, because the store cannot be reopened
    /// while it is in use.
    pub(super) fn engine(&self) -> Option<Arc<dyn Engine>> {
        let current = self.engine.lock().unwrap_or_else(PoisonError::into_inner);
        current.as_ref().and_then(Weak::upgrade)
    }

    /// Begins a backup.
    ///
    /// # Errors
    /// Returns an error while another backup is running, and while the server stops.
    pub(super) fn begin(self: &Arc<Self>, to: &Path) -> Result<Turn, BackupError> {
        let mut backups = self.backups();
        if backups.is_refusing {
            return Err(BackupError::Stopping);
        }
        if let Some(other) = &backups.to {
            return Err(BackupError::Busy(other.clone()));
        }
        backups.to = Some(to.to_path_buf());
        Ok(Turn(Arc::clone(self)))
    }

    /// Refuses further backups, because the server stops.
    pub(super) fn refuse_backups(&self) {
        self.backups().is_refusing = true;
    }

    /// Refuses further backups, and ends the running one.
    pub(super) fn stop_backups(&self) {
        let mut backups = self.backups();
        (backups.is_refusing, backups.is_stopping) = (true, true);
    }

    /// Whether the running backup has to end, because the server stops.
    pub(super) fn is_stopping(&self) -> bool {
        self.backups().is_stopping
    }

    /// Waits until no backup is running, at most for the time `most`. Returns the directory of a
    /// backup that has not ended.
    pub(super) fn wait(&self, most: Duration) -> Option<PathBuf> {
        let is_running = |backups: &mut Running| backups.to.is_some();
        let ended = self
            .ended
            .wait_timeout_while(self.backups(), most, is_running);
        let (backups, _) = ended.unwrap_or_else(PoisonError::into_inner);
        backups.to.clone()
    }

    fn backups(&self) -> MutexGuard<'_, Running> {
        self.backups.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to make a backup, which ends on drop.
#[derive(Debug)]
pub(super) struct Turn(Arc<Source>);

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.backups().to = None;
        self.0.ended.notify_all();
    }
}
