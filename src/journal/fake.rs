//! A store in memory that injects faults, for the journal's tests.
//!
//! A seed determines all faults. A process crash loses no writes. A power failure keeps the synced
//! writes and a random part of the other writes. But if a sync has failed, a power failure loses
//! the writes that the sync missed, and all later writes. A refused batch may appear in the store
//! when the store is closed, as in a store that flushes its buffers on close.

use std::collections::BTreeSet;
use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use fastrand::Rng;

use super::engine::{Batch, Engine, EngineError, Opener, PartEnd, PartVisitor, RecordVisitor};
use super::state::{Mark, Place};
use crate::id::Sequence;

/// The probability that an operation fails, in thousandths.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Faults {
    pub(crate) write_errors: u32,
    pub(crate) sync_errors: u32,
}

#[derive(Clone, Debug)]
struct Written {
    chunk: u64,
    records: Vec<(u64, Vec<u8>)>,
}

impl Written {
    fn new(chunk: Sequence, batch: &Batch) -> Self {
        let records = batch.records();
        Self {
            chunk: chunk.0,
            records: records.map(|(n, bytes)| (n.0, bytes.to_vec())).collect(),
        }
    }
}

/// The result of a check of the store's files.
#[derive(Clone, Copy, Debug, Default)]
enum Files {
    #[default]
    There,
    Removed,
    /// The check fails because no descriptor is free.
    Unchecked,
}

#[derive(Debug, Default)]
struct Inner {
    chunks: BTreeSet<u64>,
    /// The batches in the order of their writes.
    log: Vec<Written>,
    /// The number of batches that survive a power failure.
    kept: usize,
    /// A failed sync may lose data at a power failure. This is the index of the first batch that is
    /// then lost.
    doomed: Option<usize>,
    state: Option<Vec<u8>>,
    mark: Mark,
    mark_kept: Mark,
    /// A refused batch that may appear in the store later.
    refused: Option<Written>,
    /// The place of the store. A copy has another one.
    place: u64,
    is_open: bool,
    is_broken: bool,
    files: Files,
    room: usize,
    faults: Faults,
    rng: Rng,
    syncs: u64,
}

/// The store. Clones share one state.
#[derive(Clone, Debug)]
pub(crate) struct FakeStore(Arc<Mutex<Inner>>);

/// The open store.
#[derive(Debug)]
struct FakeEngine(FakeStore);

impl FakeStore {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            room: usize::MAX,
            rng: Rng::with_seed(seed),
            ..Inner::default()
        })))
    }

    /// Returns a copy of the store at another place, with all writes so far.
    pub(super) fn copied(&self) -> Self {
        let inner = self.0.lock().unwrap();
        Self(Arc::new(Mutex::new(Inner {
            chunks: inner.chunks.clone(),
            log: inner.log.clone(),
            state: inner.state.clone(),
            mark: inner.mark,
            mark_kept: inner.mark,
            kept: inner.kept,
            place: inner.place + 1,
            room: usize::MAX,
            rng: inner.rng.clone(),
            ..Inner::default()
        })))
    }

    pub(crate) fn set_faults(&self, faults: Faults) {
        self.0.lock().unwrap().faults = faults;
    }

    /// Sets the free space in bytes.
    pub(crate) fn set_room(&self, bytes: usize) {
        self.0.lock().unwrap().room = bytes;
    }

    /// Makes checks report that the store's files are removed, or that they exist again.
    pub(crate) fn set_removed(&self, is_removed: bool) {
        self.0.lock().unwrap().files = match is_removed {
            true => Files::Removed,
            false => Files::There,
        };
    }

    /// Makes checks fail because no descriptor is free.
    pub(super) fn set_unchecked(&self) {
        self.0.lock().unwrap().files = Files::Unchecked;
    }

    pub(crate) fn syncs(&self) -> u64 {
        self.0.lock().unwrap().syncs
    }

    pub(super) fn chunks_len(&self) -> usize {
        self.0.lock().unwrap().chunks.len()
    }

    /// Returns the total number of bytes of the records in chunks.
    pub(super) fn bytes(&self) -> u64 {
        let inner = self.0.lock().unwrap();
        let written = inner.log.iter();
        let there = written.filter(|one| inner.chunks.contains(&one.chunk));
        let records = there.flat_map(|one| &one.records);
        records.map(|(_, bytes)| bytes.len() as u64).sum()
    }

    pub(super) fn forget_state(&self) {
        self.0.lock().unwrap().state = None;
    }

    /// Keeps only the first `batches` batches, like a store that mistakes damage for an incomplete
    /// write at the end of its log.
    pub(super) fn cut(&self, batches: usize) {
        let mut inner = self.0.lock().unwrap();
        inner.log.truncate(batches);
        inner.kept = inner.kept.min(batches);
    }

    /// Whether the next power failure loses a write because of a failed sync.
    pub(super) fn is_doomed(&self) -> bool {
        self.0.lock().unwrap().doomed.is_some()
    }

    pub(crate) fn lose_power(&self) {
        let mut inner = self.0.lock().unwrap();
        let end = inner.doomed.unwrap_or(inner.log.len());
        let kept = inner.kept.min(end);
        let left = inner.rng.usize(kept..=end);
        inner.log.truncate(left);
        (inner.kept, inner.doomed) = (left, None);
        if inner.rng.bool() {
            inner.mark = inner.mark_kept;
        }
    }
}

impl Opener for FakeStore {
    fn open(&self) -> Result<Arc<dyn Engine>, EngineError> {
        let mut inner = self.0.lock().unwrap();
        if inner.is_open {
            return Err(EngineError::InUse);
        }
        inner.check()?;
        inner.is_open = true;
        inner.is_broken = false;
        Ok(Arc::new(FakeEngine(self.clone())))
    }
}

impl Drop for FakeEngine {
    fn drop(&mut self) {
        let mut inner = self.0.0.lock().unwrap();
        inner.is_open = false;
        if let Some(refused) = inner.refused.take()
            && inner.rng.bool()
        {
            inner.log.push(refused);
        }
    }
}

impl FakeEngine {
    fn with<T>(
        &self,
        act: impl FnOnce(&mut Inner) -> Result<T, ErrorKind>,
    ) -> Result<T, EngineError> {
        let mut inner = self.0.0.lock().unwrap();
        if inner.is_broken {
            return Err(EngineError::Broken);
        }
        act(&mut inner).map_err(|kind| {
            inner.is_broken = true;
            EngineError::Io(kind.into())
        })
    }
}

impl Inner {
    fn draw(&mut self, thousandths: u32) -> bool {
        self.rng.u32(..1000) < thousandths
    }

    fn check(&self) -> Result<(), EngineError> {
        match self.files {
            Files::There => Ok(()),
            Files::Removed => Err(EngineError::Removed(PathBuf::from("store"))),
            Files::Unchecked => {
                let error = io::Error::from_raw_os_error(libc::EMFILE);
                Err(EngineError::Io(error))
            }
        }
    }

    fn sync(&mut self) -> Result<(), ErrorKind> {
        self.syncs += 1;
        if self.draw(self.faults.sync_errors) {
            self.doomed = self.doomed.or(Some(self.kept));
            return Err(ErrorKind::Other);
        }
        self.kept = self.log.len();
        Ok(())
    }
}

impl Engine for FakeEngine {
    fn check(&self) -> Result<(), EngineError> {
        self.0.0.lock().unwrap().check()
    }

    fn state(&self) -> Result<Option<Vec<u8>>, EngineError> {
        self.with(|inner| Ok(inner.state.clone()))
    }

    fn put_state(&self, state: &[u8]) -> Result<(), EngineError> {
        self.with(|inner| {
            inner.sync()?;
            inner.state = Some(state.to_vec());
            Ok(())
        })
    }

    fn mark(&self) -> Result<Option<Mark>, EngineError> {
        Ok(Some(self.0.0.lock().unwrap().mark))
    }

    fn put_mark(&self, mark: Mark) -> Result<(), EngineError> {
        self.0.0.lock().unwrap().mark = mark;
        Ok(())
    }

    fn sync_mark(&self) -> Result<(), EngineError> {
        let mut inner = self.0.0.lock().unwrap();
        inner.mark_kept = inner.mark;
        Ok(())
    }

    fn place(&self) -> Result<Place, EngineError> {
        Ok(Place {
            inode: self.0.0.lock().unwrap().place,
            born_ns: 0,
        })
    }

    fn chunks(&self) -> Result<Vec<Sequence>, EngineError> {
        self.with(|inner| Ok(inner.chunks.iter().copied().map(Sequence).collect()))
    }

    fn begin_chunk(&self, first: Sequence) -> Result<(), EngineError> {
        self.remove_chunk(first)?;
        self.with(|inner| {
            inner.chunks.insert(first.0);
            Ok(())
        })
    }

    fn remove_chunk(&self, first: Sequence) -> Result<(), EngineError> {
        self.check()?;
        self.with(|inner| {
            inner.chunks.remove(&first.0);
            for written in inner.log.iter_mut().filter(|one| one.chunk == first.0) {
                written.records.clear();
            }
            Ok(())
        })
    }

    fn read_chunk(&self, first: Sequence, each: RecordVisitor<'_>) -> Result<(), EngineError> {
        let log = self.with(|inner| Ok(inner.log.clone()))?;
        let written = log.iter().filter(|one| one.chunk == first.0);
        for (sequence, bytes) in written.flat_map(|one| &one.records) {
            each(Sequence(*sequence), bytes)?;
        }
        Ok(())
    }

    fn read_part(
        &self,
        first: Sequence,
        from: Sequence,
        each: PartVisitor<'_>,
    ) -> Result<PartEnd, EngineError> {
        let (log, exists) =
            self.with(|inner| Ok((inner.log.clone(), inner.chunks.contains(&first.0))))?;
        let written = log.iter().filter(|one| one.chunk == first.0);
        let records = written.flat_map(|one| &one.records);
        for (sequence, bytes) in records.filter(|(sequence, _)| *sequence >= from.0) {
            if each(Sequence(*sequence), bytes)?.is_break() {
                return Ok(PartEnd::Stopped);
            }
        }
        Ok(match exists {
            true => PartEnd::End,
            false => PartEnd::NoChunk,
        })
    }

    fn append(&self, chunk: Sequence, batch: &Batch) -> Result<(), EngineError> {
        self.with(|inner| {
            let written = Written::new(chunk, batch);
            let bytes = usize::try_from(batch.bytes()).unwrap();
            let is_full = inner.room < bytes;
            if is_full || inner.draw(inner.faults.write_errors) {
                inner.refused = Some(written);
                return Err(match is_full {
                    true => ErrorKind::StorageFull,
                    false => ErrorKind::Other,
                });
            }
            inner.room -= bytes;
            inner.log.push(written);
            Ok(())
        })
    }

    fn disk_bytes(&self) -> Result<u64, EngineError> {
        Ok(self.0.bytes())
    }

    fn sync(&self) -> Result<(), EngineError> {
        self.with(Inner::sync)
    }
}
