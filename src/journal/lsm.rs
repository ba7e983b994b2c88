//! SHELL: this module implements the real store with fjall, in the journal's directory.
//!
//! Each batch is one write batch of fjall, so the write-ahead log contains the batch as a whole or
//! not at all. Each chunk is one keyspace of fjall, so that old records are removed one keyspace at
//! a time. Records are read only when the server starts. So the store needs almost no cache, no
//! filter and no compaction. This module does not read fjall's files; `repair` truncates a log with
//! a hole.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use fjall::compaction::Fifo;
use fjall::config::{BlockSizePolicy, FilterPolicy};
use fjall::{Database, Guard, Keyspace, KeyspaceCreateOptions, PersistMode, UserValue};

use super::engine::{Batch, Engine, EngineError, Opener, PartEnd, PartVisitor, RecordVisitor};
use super::files::ChunkFiles;
use super::folder::Folder;
use super::repair::{self, Opened};
use super::state::{Mark, Place};
use crate::config::limits::{
    JOURNAL_CACHE_BYTES, JOURNAL_CHUNKS_UNFLUSHED_MAX, JOURNAL_FILES_MAX, JOURNAL_LOG_BYTES,
    JOURNAL_MEMTABLE_BYTES,
};
use crate::id::Sequence;

/// The name of the keyspace that contains the state, and the key of the state in this keyspace.
const STATE: &str = "state";
/// The directory of the keyspace that contains the names of all keyspaces.
const NAMES: &str = "0";
/// Bytes per data block.
const BLOCK_BYTES: u32 = 64 * 1024;
/// Before a new chunk begins, the writer waits until earlier chunks are on disk. It waits for at
/// most this number of [`FLUSH_WAIT_STEP`]s.
const FLUSH_WAIT_STEPS: u32 = 1_000;
const FLUSH_WAIT_STEP: Duration = Duration::from_millis(1);

/// Opens the store in a directory.
#[derive(Clone, Debug)]
pub struct LsmOpener(Arc<Folder>);

impl LsmOpener {
    /// Creates an opener for this directory.
    #[must_use]
    pub fn new(folder: Folder) -> Self {
        Self(Arc::new(folder))
    }
}

impl Opener for LsmOpener {
    fn open(&self) -> Result<Arc<dyn Engine>, EngineError> {
        self.open_repaired().map(|(engine, _)| engine)
    }
}

impl LsmOpener {
    /// Opens the store. Also returns the number of bytes that were cut off the store's log, if it
    /// had a hole.
    pub(super) fn open_repaired(&self) -> Result<(Arc<dyn Engine>, Option<u64>), EngineError> {
        let path = self.0.store(|path| {
            let (database, _state) = open(path).map_err(opening)?;
            Ok(database.persist(PersistMode::SyncAll)?)
        })?;
        let opened = repair::open(&path, || match open(&path) {
            Err(fjall::Error::JournalRecovery(error)) => {
                Ok(Opened::Torn(EngineError::Damaged(error.to_string())))
            }
            outcome => Ok(Opened::Whole(outcome.map_err(opening)?)),
        });
        // `repair` may have replaced a log after the last list was made, so the logs are listed
        // again.
        self.0.note_logs()?;
        let ((database, state), cut) = opened?;
        let engine = Arc::new(Lsm {
            database,
            state,
            unflushed: Mutex::default(),
            chunk_changes: Mutex::default(),
            on_close: OnClose {
                folder: Arc::clone(&self.0),
                is_complete: false,
            },
        });
        Ok((engine, cut))
    }
}

fn open(path: &Path) -> Result<(Database, Keyspace), fjall::Error> {
    let database = Database::builder(path)
        .worker_threads(1)
        .cache_size(JOURNAL_CACHE_BYTES)
        .max_cached_files(Some(JOURNAL_FILES_MAX))
        .max_journaling_size(JOURNAL_LOG_BYTES)
        .open()?;
    let state = database.keyspace(STATE, KeyspaceCreateOptions::default)?;
    Ok((database, state))
}

/// Converts an error that occurred while a store was opened. A missing or short file then means
/// that the store is damaged. A store without its version file is also damaged, because fjall would
/// try to create a new store in the directory.
fn opening(error: fjall::Error) -> EngineError {
    use std::io::ErrorKind::{AlreadyExists, InvalidData, NotFound, UnexpectedEof};
    match EngineError::from(error) {
        EngineError::Io(error)
            if matches!(
                error.kind(),
                AlreadyExists | InvalidData | NotFound | UnexpectedEof
            ) =>
        {
            EngineError::Damaged(error.to_string())
        }
        other => other,
    }
}

impl From<fjall::Error> for EngineError {
    fn from(error: fjall::Error) -> Self {
        match error {
            fjall::Error::Io(error) | fjall::Error::Storage(fjall::LsmError::Io(error)) => {
                Self::Io(error)
            }
            fjall::Error::Locked => Self::InUse,
            fjall::Error::Poisoned => Self::Broken,
            fjall::Error::InvalidVersion(_)
            | fjall::Error::Storage(fjall::LsmError::InvalidVersion(_)) => Self::Version,
            other => Self::Damaged(other.to_string()),
        }
    }
}

struct Lsm {
    database: Database,
    state: Keyspace,
    unflushed: Mutex<Unflushed>,
    /// Locked while the set of chunks changes, and while another thread looks up a chunk. The store
    /// would create a chunk that is removed between the check whether it exists and the look-up.
    chunk_changes: Mutex<()>,
    /// The last field, so that it is dropped after the database is closed.
    on_close: OnClose,
}

/// The chunks that are not flushed to tables yet.
#[derive(Default)]
struct Unflushed {
    /// The chunk of the last append, and the number of bytes appended to it.
    current: Option<(Sequence, u64)>,
    /// The full chunks. The records of some of these chunks may not be in tables on disk yet.
    full: Vec<Keyspace>,
}

impl std::fmt::Debug for Lsm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lsm")
            .field("folder", &self.on_close.folder)
            .finish_non_exhaustive()
    }
}

/// On drop, lists the write-ahead logs again. This happens after the database is closed, because
/// the database's own thread may remove logs until then.
struct OnClose {
    folder: Arc<Folder>,
    /// Whether all files existed immediately before the database was closed.
    is_complete: bool,
}

impl Drop for Lsm {
    fn drop(&mut self) {
        self.on_close.is_complete = self.check().is_ok();
    }
}

impl Drop for OnClose {
    fn drop(&mut self) {
        if self.is_complete
            && let Err(error) = self.folder.note_logs()
        {
            tracing::debug!(%error, "cannot list the logs of the journal");
        }
    }
}

impl Lsm {
    fn chunk(&self, first: Sequence) -> Result<Keyspace, EngineError> {
        let options = || {
            KeyspaceCreateOptions::default()
                .max_memtable_size(JOURNAL_MEMTABLE_BYTES)
                .data_block_size_policy(BlockSizePolicy::all(BLOCK_BYTES))
                .filter_policy(FilterPolicy::disabled())
                // Keys only increase, so the tables need no compaction. `Fifo` removes the oldest
                // tables if their total size exceeds its limit. The limit is the largest number, so
                // that no table is removed.
                .compaction_strategy(Arc::new(Fifo::new(u64::MAX, None)))
        };
        Ok(self.database.keyspace(&name(first), options)?)
    }

    /// Returns a chunk; `None` if it does not exist.
    fn existing_chunk(&self, first: Sequence) -> Result<Option<Keyspace>, EngineError> {
        let _guard = self.lock_chunks();
        match self.database.keyspace_exists(&name(first)) {
            true => self.chunk(first).map(Some),
            false => Ok(None),
        }
    }

    fn lock_chunks(&self) -> MutexGuard<'_, ()> {
        let locked = self.chunk_changes.lock();
        locked.unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the cause of a failed operation. If fjall's own thread has failed, fjall does not
    /// report the cause. A full disk always causes this failure, so the free space is checked.
    fn refine_error(&self, error: fjall::Error) -> EngineError {
        match EngineError::from(error) {
            EngineError::Broken if self.on_close.folder.room() < 2 * JOURNAL_MEMTABLE_BYTES => {
                EngineError::Full
            }
            other => other,
        }
    }

    /// Updates the list of the store's files, and checks whether these files exist.
    fn check_files(&self) -> Result<(), EngineError> {
        let state = self.state.path();
        // The number of tables is not checked for the keyspaces of the names and of the state,
        // because the store may merge their tables.
        let names = state.with_file_name(NAMES);
        let mut chunks: Vec<_> = [names, state.to_path_buf()]
            .map(|path| ChunkFiles {
                path,
                table_count: 0,
            })
            .into();
        for first in self.chunks()? {
            let chunk = self.chunk(first)?;
            chunks.push(ChunkFiles {
                // `table_count` counts only complete tables, and the store removes a table only
                // together with its chunk. So at least this number of table files must exist.
                table_count: chunk.table_count(),
                path: chunk.path().to_path_buf(),
            });
        }
        let folder = &self.on_close.folder;
        folder.files().chunks = chunks;
        folder.files().log_count = self.database.journal_count();
        folder.check()
    }

    fn unflushed(&self) -> MutexGuard<'_, Unflushed> {
        self.unflushed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn note_appended(&self, chunk: Sequence, bytes: u64) {
        let mut unflushed = self.unflushed();
        let before = unflushed.current.filter(|(first, _)| *first == chunk);
        unflushed.current = Some((chunk, before.map_or(0, |(_, bytes)| bytes) + bytes));
    }

    /// Waits while too many full chunks are not written to disk yet, which happens if the disk is
    /// slow. The wait is bounded, because the store's thread may have failed and will then write
    /// nothing. In this case the next append returns the error.
    fn wait_for_flushes(&self) -> Result<(), EngineError> {
        let mut unflushed = self.unflushed();
        if let Some((chunk, bytes)) = unflushed.current.take()
            && bytes >= JOURNAL_MEMTABLE_BYTES
        {
            let chunk = self.chunk(chunk)?;
            unflushed.full.push(chunk);
        }
        for _ in 0..FLUSH_WAIT_STEPS {
            unflushed.full.retain(|chunk| chunk.disk_space() == 0);
            if unflushed.full.len() < JOURNAL_CHUNKS_UNFLUSHED_MAX {
                break;
            }
            thread::sleep(FLUSH_WAIT_STEP);
        }
        Ok(())
    }
}

fn name(first: Sequence) -> String {
    format!("{:016x}", first.0)
}

/// Returns the number and the value of a record of a chunk.
fn record(chunk: Sequence, entry: Guard) -> Result<(Sequence, UserValue), EngineError> {
    let (key, value) = entry.into_inner().map_err(opening)?;
    let key: [u8; 8] = key
        .as_ref()
        .try_into()
        .map_err(|_not_ours| EngineError::Foreign(name(chunk)))?;
    Ok((Sequence(u64::from_be_bytes(key)), value))
}

impl Engine for Lsm {
    fn check(&self) -> Result<(), EngineError> {
        match self.check_files() {
            // The store's thread may have removed an old log after the logs were counted, so the
            // check is repeated.
            Err(EngineError::Removed(_)) => self.check_files(),
            outcome => outcome,
        }
    }

    fn state(&self) -> Result<Option<Vec<u8>>, EngineError> {
        let state = self.state.get(STATE)?;
        Ok(state.map(|state| state.to_vec()))
    }

    fn put_state(&self, state: &[u8]) -> Result<(), EngineError> {
        self.state.insert(STATE, state)?;
        Ok(self.database.persist(PersistMode::SyncAll)?)
    }

    fn mark(&self) -> Result<Option<Mark>, EngineError> {
        self.on_close.folder.mark()
    }

    fn put_mark(&self, mark: Mark) -> Result<(), EngineError> {
        self.on_close.folder.put_mark(mark)
    }

    fn sync_mark(&self) -> Result<(), EngineError> {
        self.on_close.folder.sync_mark()
    }

    fn place(&self) -> Result<Place, EngineError> {
        self.on_close.folder.place()
    }

    fn chunks(&self) -> Result<Vec<Sequence>, EngineError> {
        let mut chunks = Vec::new();
        for name in self.database.list_keyspace_names() {
            let name: &str = &name;
            if name == STATE {
                continue;
            }
            let first = u64::from_str_radix(name, 16);
            let first = first.map_err(|_not_ours| EngineError::Foreign(String::from(name)))?;
            chunks.push(Sequence(first));
        }
        chunks.sort_unstable();
        Ok(chunks)
    }

    fn begin_chunk(&self, first: Sequence) -> Result<(), EngineError> {
        self.wait_for_flushes()?;
        self.remove_chunk(first)?;
        self.chunk(first)?;
        Ok(())
    }

    fn remove_chunk(&self, first: Sequence) -> Result<(), EngineError> {
        // The store refers to directories by path. It would recreate removed directories. If
        // another journal's directories were at these paths, the store would remove them.
        self.check()?;
        let Some(chunk) = self.existing_chunk(first)? else {
            return Ok(());
        };
        let _guard = self.lock_chunks();
        Ok(self.database.delete_keyspace(chunk)?)
    }

    fn read_chunk(&self, first: Sequence, each: RecordVisitor<'_>) -> Result<(), EngineError> {
        for entry in self.chunk(first)?.iter() {
            let (sequence, value) = record(first, entry)?;
            each(sequence, &value)?;
        }
        Ok(())
    }

    fn read_part(
        &self,
        first: Sequence,
        from: Sequence,
        each: PartVisitor<'_>,
    ) -> Result<PartEnd, EngineError> {
        let Some(chunk) = self.existing_chunk(first)? else {
            return Ok(PartEnd::NoChunk);
        };
        for entry in chunk.range(from.0.to_be_bytes()..) {
            let (sequence, value) = record(first, entry)?;
            if each(sequence, &value)?.is_break() {
                return Ok(PartEnd::Stopped);
            }
        }
        Ok(PartEnd::End)
    }

    fn append(&self, first: Sequence, batch: &Batch) -> Result<(), EngineError> {
        let chunk = self.chunk(first)?;
        let mut writes = self.database.batch();
        for (sequence, record) in batch.records() {
            writes.insert(&chunk, sequence.0.to_be_bytes(), record);
        }
        writes.commit().map_err(|error| self.refine_error(error))?;
        self.note_appended(first, batch.bytes());
        Ok(())
    }

    fn disk_bytes(&self) -> Result<u64, EngineError> {
        Ok(self.database.disk_space()?)
    }

    fn sync(&self) -> Result<(), EngineError> {
        let synced = self.database.persist(PersistMode::SyncData);
        synced.map_err(|error| self.refine_error(error))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use super::super::files::TABLES;
    use super::*;
    use crate::config::limits::JOURNAL_CHUNK_BYTES;

    const FIRST: Sequence = Sequence(1);

    fn place(path: &Path) -> LsmOpener {
        LsmOpener::new(Folder::take(path).unwrap())
    }

    fn batch(first: u64, texts: &[&str]) -> Batch {
        let mut batch = Batch::default();
        for text in texts {
            batch.bytes_mut().extend_from_slice(text.as_bytes());
            batch.end();
        }
        batch.number_from(Sequence(first));
        batch
    }

    /// Writes three batches of two, five and one record. The store is not closed cleanly.
    fn fill(path: &Path) {
        let engine = place(path).open().unwrap();
        engine.put_state(b"state").unwrap();
        engine.begin_chunk(FIRST).unwrap();
        for (first, texts) in [
            (1, &["one", "two"][..]),
            (3, &["three", "4", "", "six", "seven"]),
            (8, &["eight"]),
        ] {
            engine.append(FIRST, &batch(first, texts)).unwrap();
        }
        engine.sync().unwrap();
    }

    fn texts(engine: &dyn Engine) -> Result<Vec<(u64, String)>, EngineError> {
        let mut texts = Vec::new();
        for chunk in engine.chunks()? {
            engine.read_chunk(chunk, &mut |sequence, bytes| {
                let text = String::from_utf8_lossy(bytes).into_owned();
                texts.push((sequence.0, text));
                Ok(())
            })?;
        }
        Ok(texts)
    }

    /// Returns the path of the newest write-ahead log, and the number of bytes written to it.
    fn log_of(path: &Path) -> (PathBuf, usize) {
        let mut logs: Vec<_> = fs::read_dir(path.join("store"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|name| name == "jnl"))
            .collect();
        logs.sort();
        let log = logs.pop().unwrap();
        let bytes = fs::read(&log).unwrap();
        let written = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
        (log, written)
    }

    #[test]
    fn records_and_state_survive_the_process_and_chunks_are_removed_whole() {
        let folder = tempfile::tempdir().unwrap();
        fill(folder.path());
        let engine = place(folder.path()).open().unwrap();
        assert_eq!(engine.state().unwrap().as_deref(), Some(&b"state"[..]));
        let found = texts(engine.as_ref()).unwrap();
        assert_eq!(found.len(), 8);
        assert_eq!(found[4], (5, String::new()));
        engine.begin_chunk(Sequence(9)).unwrap();
        engine.append(Sequence(9), &batch(9, &["nine"])).unwrap();
        engine.remove_chunk(FIRST).unwrap();
        assert_eq!(engine.chunks().unwrap(), [Sequence(9)]);
        drop(engine);
        let engine = place(folder.path()).open().unwrap();
        let found = texts(engine.as_ref()).unwrap();
        assert_eq!(found, [(9, "nine".to_owned())]);
    }

    #[test]
    fn chunk_that_is_begun_again_is_empty() {
        let folder = tempfile::tempdir().unwrap();
        fill(folder.path());
        let engine = place(folder.path()).open().unwrap();
        engine.begin_chunk(FIRST).unwrap();
        assert!(texts(engine.as_ref()).unwrap().is_empty());
        engine.append(FIRST, &batch(1, &["new"])).unwrap();
        drop(engine);
        let engine = place(folder.path()).open().unwrap();
        let found = texts(engine.as_ref()).unwrap();
        assert_eq!(found, [(1, "new".to_owned())]);
    }

    /// A truncated log, as after a power failure, leaves only whole batches.
    #[test]
    fn truncated_log_leaves_whole_batches() {
        let folder = tempfile::tempdir().unwrap();
        fill(folder.path());
        let (log, written) = log_of(folder.path());
        let whole = fs::read(&log).unwrap();
        let mut lengths_seen = Vec::new();
        for cut in (written - 120..=written).rev().step_by(7) {
            for fill in [None, Some(0), Some(0xa5)] {
                let mut torn = whole[..cut].to_vec();
                torn.extend(fill.into_iter().flat_map(|byte| [byte; 200]));
                fs::write(&log, torn).unwrap();
                let engine = place(folder.path()).open().unwrap();
                let found = texts(engine.as_ref()).unwrap();
                let numbers: Vec<_> = found.iter().map(|(number, _)| *number).collect();
                assert_eq!(numbers, Vec::from_iter(1..=numbers.len() as u64), "{cut}");
                assert!([0, 2, 7, 8].contains(&numbers.len()), "{cut}: {numbers:?}");
                lengths_seen.push(numbers.len());
                drop(engine);
            }
        }
        lengths_seen.dedup();
        assert!(lengths_seen.starts_with(&[8, 7, 2]), "{lengths_seen:?}");
    }

    /// After one flipped bit in the log, every record that is read equals a written record.
    #[test]
    fn damaged_log_gives_whole_batches_before_the_damage() {
        let folder = tempfile::tempdir().unwrap();
        fill(folder.path());
        let (log, written) = log_of(folder.path());
        let engine = place(folder.path()).open().unwrap();
        let expected = texts(engine.as_ref()).unwrap();
        drop(engine);
        let whole = fs::read(&log).unwrap()[..written].to_vec();
        for at in (written - 120..written).step_by(7) {
            let mut damaged = whole.clone();
            damaged[at] ^= 1 << (at % 8);
            fs::write(&log, damaged).unwrap();
            let engine = place(folder.path()).open().unwrap();
            let found = texts(engine.as_ref()).unwrap();
            assert!(expected.starts_with(&found), "byte {at}: {found:?}");
        }
    }

    #[test]
    fn damaged_table_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let engine = place(folder.path()).open().unwrap();
        let table = fill_chunk(engine.as_ref(), folder.path());
        drop(engine);
        let mut bytes = fs::read(&table).unwrap();
        bytes[1000] ^= 1;
        fs::write(&table, bytes).unwrap();
        let outcome = place(folder.path())
            .open()
            .and_then(|engine| texts(engine.as_ref()));
        assert!(matches!(outcome, Err(EngineError::Damaged(_))));
    }

    /// Fills a chunk, and waits until the store has written the records to a table on disk.
    fn fill_chunk(engine: &dyn Engine, folder: &Path) -> PathBuf {
        engine.begin_chunk(FIRST).unwrap();
        let text = "x".repeat(1024 * 1024);
        let count = JOURNAL_CHUNK_BYTES / text.len() as u64 + 1;
        for number in 1..=count {
            engine.append(FIRST, &batch(number, &[&text])).unwrap();
        }
        engine.begin_chunk(Sequence(count + 1)).unwrap();
        let table = || {
            let keyspaces = fs::read_dir(folder.join("store/keyspaces")).unwrap();
            let tables = keyspaces.map(|entry| entry.unwrap().path().join("tables"));
            let files = tables.filter_map(|tables| fs::read_dir(tables).ok());
            let files = files.flatten().map(|entry| entry.unwrap().path());
            files.max_by_key(|path| fs::metadata(path).map_or(0, |meta| meta.len()))
        };
        loop {
            match table() {
                Some(path) if fs::metadata(&path).is_ok_and(|meta| meta.len() > 0) => return path,
                Some(_) | None => thread::sleep(Duration::from_millis(1)),
            }
        }
    }

    #[test]
    fn check_reports_missing_files_and_recreates_none() {
        for name in [
            "",
            "store",
            "store/0.jnl",
            "store/keyspaces/0",
            "store/keyspaces/0/current",
            "store/keyspaces/1",
            "store/keyspaces/1/current",
            "store/keyspaces/2/current",
        ] {
            let parent = tempfile::tempdir().unwrap();
            let folder = parent.path().join("journal");
            let engine = place(&folder).open().unwrap();
            engine.begin_chunk(FIRST).unwrap();
            engine.append(FIRST, &batch(1, &["one"])).unwrap();
            engine.check().unwrap();
            let removed = folder.join(name);
            if removed.is_dir() {
                fs::remove_dir_all(&removed).unwrap();
            } else {
                fs::remove_file(&removed).unwrap();
            }
            let found = engine.check().unwrap_err();
            assert!(found.is_removed(), "{name}: {found}");
            let refused = engine.begin_chunk(Sequence(1000)).unwrap_err();
            assert!(refused.is_removed(), "{name}: {refused}");
            drop(engine);
            assert_eq!(folder.exists(), !name.is_empty(), "{name}");
            let has_store = !["", "store"].contains(&name);
            assert_eq!(folder.join("store").exists(), has_store, "{name}");
        }
    }

    #[test]
    fn store_is_reopened_only_with_all_its_files() {
        let text = "x".repeat(1024 * 1024);
        for is_closed in [false, true] {
            let folder = tempfile::tempdir().unwrap();
            let place = place(folder.path());
            let mut engine = place.open().unwrap();
            fill_chunk(engine.as_ref(), folder.path());
            let chunk = loop {
                engine.check().unwrap();
                let files = place.0.files();
                let mut chunks = files.chunks.iter();
                if let Some(chunk) = chunks.find(|chunk| chunk.table_count > 0) {
                    break chunk.path.clone();
                }
            };
            let mut tables = fs::read_dir(chunk.join(TABLES)).unwrap();
            let table = tables.next().unwrap().unwrap().path();
            let next = engine.chunks().unwrap().pop().unwrap();
            engine.append(next, &batch(next.0, &[&text])).unwrap();
            let count = texts(engine.as_ref()).unwrap().len();
            let (log, _) = log_of(folder.path());
            for path in [log, table, chunk, folder.path().join("store")] {
                let away = folder.path().join("away");
                if is_closed {
                    drop(engine);
                    fs::rename(&path, &away).unwrap();
                } else {
                    fs::rename(&path, &away).unwrap();
                    let found = engine.check().unwrap_err();
                    assert!(found.is_removed(), "{}: {found}", path.display());
                    drop(engine);
                }
                for _ in 0..3 {
                    let refused = place.open().unwrap_err();
                    assert!(refused.is_removed(), "{}: {refused}", path.display());
                    assert!(!path.exists());
                }
                fs::rename(&away, &path).unwrap();
                engine = place.open().unwrap();
                engine.check().unwrap();
                assert_eq!(texts(engine.as_ref()).unwrap().len(), count);
            }
        }
    }

    #[test]
    fn store_is_not_opened_with_an_older_copy_of_its_log() {
        let folder = tempfile::tempdir().unwrap();
        let place = place(folder.path());
        let engine = place.open().unwrap();
        engine.begin_chunk(FIRST).unwrap();
        engine.append(FIRST, &batch(1, &["one"])).unwrap();
        let (log, _) = log_of(folder.path());
        let copy = fs::read(&log).unwrap();
        engine.append(FIRST, &batch(2, &["two"])).unwrap();
        drop(engine);
        fs::remove_file(&log).unwrap();
        fs::write(&log, copy).unwrap();
        let refused = place.open().unwrap_err();
        assert!(refused.is_removed(), "{refused}");
    }

    #[test]
    fn logs_and_chunks_removed_by_the_store_are_not_expected() {
        let folder = tempfile::tempdir().unwrap();
        let place = place(folder.path());
        let text = "x".repeat(1024 * 1024);
        let mut first = 1;
        for _ in 0..5 {
            let engine = place.open().unwrap();
            for _ in 0..2 {
                engine.begin_chunk(Sequence(first)).unwrap();
                for number in first..first + 16 {
                    let chunk = Sequence(first);
                    engine.append(chunk, &batch(number, &[&text])).unwrap();
                }
                first += 16;
            }
            engine.check().unwrap();
            let oldest = engine.chunks().unwrap()[0];
            engine.remove_chunk(oldest).unwrap();
        }
        let (log, _) = log_of(folder.path());
        assert!(!log.ends_with("0.jnl"), "{}", log.display());
        place.open().unwrap().check().unwrap();
    }

    #[test]
    fn check_succeeds_while_the_store_adds_and_removes_logs() {
        let folder = tempfile::tempdir().unwrap();
        let engine = place(folder.path()).open().unwrap();
        let text = "x".repeat(1024 * 1024);
        engine.begin_chunk(FIRST).unwrap();
        for number in 1..=100 {
            if number % 16 == 0 {
                engine.begin_chunk(Sequence(number)).unwrap();
            }
            let chunk = Sequence((number / 16 * 16).max(1));
            engine.append(chunk, &batch(number, &[&text])).unwrap();
            engine.check().unwrap();
        }
        let (log, _) = log_of(folder.path());
        assert!(!log.ends_with("0.jnl"), "{}", log.display());
    }

    #[test]
    fn missing_part_is_damage() {
        let folder = tempfile::tempdir().unwrap();
        fill(folder.path());
        fs::remove_file(folder.path().join("store/keyspaces/0/current")).unwrap();
        let refused = place(folder.path()).open().unwrap_err();
        assert!(matches!(refused, EngineError::Damaged(_)), "{refused}");
        fs::remove_dir_all(folder.path().join("store/keyspaces")).unwrap();
        let refused = Folder::take(folder.path()).unwrap_err();
        assert!(matches!(refused, EngineError::Damaged(_)), "{refused}");
    }
}
