//! SHELL: this module gives a backup access to the store of a running journal.
//!
//! The record writer owns the store. It reports here which store is open and which record is the
//! last. A backup borrows the store for one part of the records at a time, because after an error
//! the record writer can reopen the store only if no other thread uses it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};

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
    /// Whether a backup is running.
    is_busy: Mutex<bool>,
    /// Notified when a backup has ended.
    ended: Condvar,
    pub(super) facts: Facts,
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
            is_busy: Mutex::new(false),
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

    /// Begins a backup. Returns `None` while another backup is running.
    pub(super) fn begin(&self) -> Option<Turn<'_>> {
        let was_busy = std::mem::replace(&mut *self.busy(), true);
        (!was_busy).then_some(Turn(self))
    }

    /// Waits until no backup is running.
    pub(super) fn wait(&self) {
        let ended = self.ended.wait_while(self.busy(), |is_busy| *is_busy);
        drop(ended.unwrap_or_else(PoisonError::into_inner));
    }

    fn busy(&self) -> MutexGuard<'_, bool> {
        self.is_busy.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to make a backup, which ends on drop.
#[derive(Debug)]
pub(super) struct Turn<'a>(&'a Source);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *self.0.busy() = false;
        self.0.ended.notify_all();
    }
}
