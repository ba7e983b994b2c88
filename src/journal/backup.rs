//! SHELL: this module copies the journal of a running server to a new directory.
//!
//! The copy has all records up to the last one that was written when the backup began. Records do
//! not change after they were written, so the backup needs no snapshot and the server writes on. A
//! backup reads a part of the records at a time and appends them to a new store. While the copy is
//! incomplete, its directory has the file `incomplete-backup`. A start and `fanfare journal check`
//! refuse such a directory, which a killed server leaves behind. The copy is durable before this
//! file is removed. The state says that the store is a backup, so every start from it begins a new
//! epoch.
//!
//! Old records may be removed from the journal before the backup has read them. Then the server
//! does not need them, and the copy begins with later records.

use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::{Dispatch, dispatcher};

use super::engine::{Batch, Engine, EngineError, Opener as _, PartEnd};
use super::folder::Folder;
use super::lsm::LsmOpener;
use super::record;
use super::source::{Source, Turn};
use super::state::{Home, Mark, State};
use super::target::Target;
use crate::config::limits::{JOURNAL_BACKUP_PART_BYTES, JOURNAL_BACKUP_PART_RECORDS};
use crate::id::{Cursor, Sequence};

/// A complete backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backup {
    /// The id of the last publication in the copy.
    pub last: Cursor,
    /// The number of publications in the copy.
    pub publications: u64,
    /// The total size of their records in bytes.
    pub bytes: u64,
}

/// The reason why no backup was made. Nothing is left of an incomplete copy.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// Only one backup runs at a time. This is the directory of the other one.
    #[error("a backup is already running, to {}. Try again after its end", .0.display())]
    Busy(PathBuf),
    /// The caller has cancelled the backup.
    #[error("the backup was cancelled")]
    Cancelled,
    /// The store was closed during the backup.
    #[error("the journal has failed during the backup. The log of the server has the reason")]
    Closed,
    /// The directory for the copy cannot be used.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The journal cannot be read.
    #[error("cannot read the journal: {0}")]
    Source(EngineError),
    /// The server stops, so it makes no further backup and ends the running one.
    #[error("the server stops, so it makes no backup. Try again when it runs")]
    Stopping,
    /// The copy cannot be written.
    #[error("{}", target_problem(.0))]
    Target(EngineError),
}

/// Describes an error of the copy. The texts of [`EngineError`] are about the journal of a server.
fn target_problem(error: &EngineError) -> String {
    match error {
        error if error.is_full() => String::from("the disk is full"),
        EngineError::Removed(path) => {
            format!(
                "{} was removed or replaced during the backup",
                path.display()
            )
        }
        EngineError::InUse => String::from("another process uses the directory"),
        EngineError::Broken => String::from("an earlier write to it has failed"),
        EngineError::Damaged(problem) => problem.clone(),
        other => other.to_string(),
    }
}

/// A system call failed in the directory of the copy.
impl From<io::Error> for BackupError {
    fn from(error: io::Error) -> Self {
        Self::Target(error.into())
    }
}

/// The reason why a directory cannot be used for a backup.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The path is inside the directory of the journal.
    #[error("it is inside the journal. Name a directory outside of it")]
    Inside,
    /// A system call failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The path has no name, such as `/`, or is relative.
    #[error("name a new directory by its absolute path")]
    NoName,
    /// The directory above does not exist.
    #[error("the directory above it does not exist. Create it first")]
    NoParent,
    /// The path exists and is not a directory.
    #[error("it exists and is not a directory")]
    NotDirectory,
    /// The directory has contents.
    #[error("it is not empty. Name a new directory")]
    NotEmpty,
}

/// Makes backups of a running journal, from any thread. Clones share the journal.
#[derive(Clone, Debug)]
pub struct Backups {
    source: Arc<Source>,
    /// The directory of the journal.
    journal: PathBuf,
}

impl Backups {
    pub(super) fn new(source: Arc<Source>, journal: PathBuf) -> Self {
        Self { source, journal }
    }

    /// Begins a backup to the directory `to`, which must not exist or must be empty. Only one
    /// backup runs at a time.
    ///
    /// # Errors
    /// Returns an error while another backup is running, and while the server stops.
    pub fn begin(&self, to: &Path) -> Result<RunningBackup, BackupError> {
        Ok(RunningBackup {
            _turn: self.source.begin(to)?,
            backups: self.clone(),
            to: to.to_path_buf(),
        })
    }

    /// Refuses further backups, because the server begins to stop.
    pub fn refuse(&self) {
        self.source.refuse_backups();
    }

    /// Refuses further backups, and ends the running one. [`Backups::wait`] waits for its end.
    pub fn stop(&self) {
        self.source.stop_backups();
    }

    /// Waits until no backup is running, at most for the time `most`. Returns the directory of a
    /// backup that has not ended, because a disk does not respond.
    #[must_use]
    pub fn wait(&self, most: Duration) -> Option<PathBuf> {
        self.source.wait(most)
    }
}

/// A backup that has begun. Other backups are refused, and the stop of the server waits, until this
/// is dropped.
#[derive(Debug)]
pub struct RunningBackup {
    _turn: Turn,
    backups: Backups,
    to: PathBuf,
}

impl RunningBackup {
    /// Copies the journal. Blocks until the copy is durable, so it must be called from a thread of
    /// its own. `is_cancelled` is called often; if it returns true, the backup ends.
    ///
    /// # Errors
    /// Returns the reason why there is no copy. What was written is removed.
    pub fn run(&self, is_cancelled: &dyn Fn() -> bool) -> Result<Backup, BackupError> {
        let begun = Instant::now();
        let to = &self.to;
        let mut target = Target::prepare(&self.backups.journal, to)?;
        // The library of the store logs an error of the copy as if the server had failed. The error
        // is returned, too, so the log of this thread is turned off.
        let backup =
            dispatcher::with_default(&Dispatch::none(), || self.fill(&mut target, is_cancelled));
        match &backup {
            Ok(backup) => {
                tracing::info!(
                    to = %to.display(),
                    last = %backup.last,
                    publications = backup.publications,
                    milliseconds = begun.elapsed().as_millis(),
                    "backup of the journal made"
                );
            }
            Err(error) => {
                tracing::warn!(to = %to.display(), %error, "no backup of the journal was made");
            }
        }
        backup
    }

    fn fill(
        &self,
        to: &mut Target,
        is_cancelled: &dyn Fn() -> bool,
    ) -> Result<Backup, BackupError> {
        let folder = Folder::take_incomplete(&to.path).map_err(BackupError::Target)?;
        let store = LsmOpener::new(folder).open().map_err(BackupError::Target)?;
        let source = &self.backups.source;
        let backup = copy(source, store.as_ref(), is_cancelled)?;
        drop(store);
        to.complete(&|| may_continue(source, is_cancelled))?;
        Ok(backup)
    }
}

/// Returns the open store of the journal.
fn open_engine(source: &Source) -> Result<Arc<dyn Engine>, BackupError> {
    // The running backup is stopped before the journal is closed. So a store that is closed without
    // a stop has failed.
    let closed = || match source.is_stopping() {
        true => BackupError::Stopping,
        false => BackupError::Closed,
    };
    source.engine().ok_or_else(closed)
}

/// Returns an error if the backup has to end.
fn may_continue(source: &Source, is_cancelled: &dyn Fn() -> bool) -> Result<(), BackupError> {
    if source.is_stopping() {
        return Err(BackupError::Stopping);
    }
    match is_cancelled() {
        true => Err(BackupError::Cancelled),
        false => Ok(()),
    }
}

/// Copies the records up to the last one to a new store, then the state. The contents of the store
/// are durable afterwards, except for the entries of its directories.
pub(super) fn copy(
    source: &Source,
    to: &dyn Engine,
    is_cancelled: &dyn Fn() -> bool,
) -> Result<Backup, BackupError> {
    // The chunks are listed after the last number was read. So each chunk that begins later than
    // this number has only later records.
    let head = source.head();
    let engine = open_engine(source)?;
    let chunks = engine.chunks().map_err(BackupError::Source)?;
    drop(engine);
    let mut copier = Copier {
        source,
        to,
        is_cancelled,
        batch: Batch::default(),
        chunks: Vec::new(),
        last: None,
        publications: 0,
        bytes: 0,
    };
    for (index, first) in chunks.iter().enumerate() {
        // Records of a chunk that are not below the next chunk are parts of refused batches.
        let next = chunks.get(index + 1).map(|next| next.0.saturating_sub(1));
        let end = next.map_or(head, |next| head.min(Sequence(next)));
        if *first <= head {
            copier.copy_chunk(*first, end)?;
        }
    }
    copier.finish(head).map_err(BackupError::Target)?;
    Ok(Backup {
        last: source.facts.epochs.id(head),
        publications: copier.publications,
        bytes: copier.bytes,
    })
}

/// Copies chunks.
struct Copier<'a> {
    source: &'a Source,
    to: &'a dyn Engine,
    is_cancelled: &'a dyn Fn() -> bool,
    /// The records that were read last. They have consecutive numbers.
    batch: Batch,
    /// The first numbers of the chunks in the copy.
    chunks: Vec<Sequence>,
    /// The last number in the copy.
    last: Option<Sequence>,
    publications: u64,
    bytes: u64,
}

impl Copier<'_> {
    /// Copies the records of a chunk up to the number `end`.
    fn copy_chunk(&mut self, first: Sequence, end: Sequence) -> Result<(), BackupError> {
        self.to.begin_chunk(first).map_err(BackupError::Target)?;
        self.chunks.push(first);
        let mut next = first;
        loop {
            let (begin, part) = self.read(first, next, end)?;
            if part == PartEnd::NoChunk {
                return self.forget_chunks().map_err(BackupError::Target);
            }
            if !self.batch.is_empty() {
                self.batch.number_from(begin);
                next = Sequence(begin.0.saturating_add(self.batch.len()));
                self.last = Some(Sequence(next.0.saturating_sub(1)));
                self.publications += self.batch.len();
                self.bytes += self.batch.bytes();
                let appended = self.to.append(first, &self.batch);
                appended.map_err(BackupError::Target)?;
            }
            if part == PartEnd::End {
                return Ok(());
            }
        }
    }

    /// Reads records with consecutive numbers of a chunk, from the number `next` on and up to
    /// `end`. Returns the first number, and `Stopped` if there are further records to copy.
    fn read(
        &mut self,
        chunk: Sequence,
        next: Sequence,
        end: Sequence,
    ) -> Result<(Sequence, PartEnd), BackupError> {
        may_continue(self.source, self.is_cancelled)?;
        let engine = open_engine(self.source)?;
        let batch = &mut self.batch;
        batch.clear();
        let (mut begin, mut is_at_end) = (next, false);
        let part = engine.read_part(chunk, next, &mut |sequence, bytes| {
            if sequence > end {
                is_at_end = true;
                return Ok(ControlFlow::Break(()));
            }
            if batch.is_empty() {
                begin = sequence;
            }
            let is_full = batch.bytes() >= JOURNAL_BACKUP_PART_BYTES
                || batch.len() >= JOURNAL_BACKUP_PART_RECORDS;
            if is_full || sequence.0 != begin.0 + batch.len() {
                return Ok(ControlFlow::Break(()));
            }
            if record::decode(bytes).is_none() {
                return Err(EngineError::Damaged(format!("record {}", sequence.0)));
            }
            batch.bytes_mut().extend_from_slice(bytes);
            batch.end();
            Ok(ControlFlow::Continue(()))
        });
        let part = part.map_err(BackupError::Source)?;
        Ok(match is_at_end {
            true => (begin, PartEnd::End),
            false => (begin, part),
        })
    }

    /// Removes the chunks from the copy. The journal has removed the last one of them, so it does
    /// not need the earlier ones either. Without the rest of the last one, the copy would have a
    /// hole.
    fn forget_chunks(&mut self) -> Result<(), EngineError> {
        for chunk in self.chunks.drain(..) {
            self.to.remove_chunk(chunk)?;
        }
        (self.last, self.publications, self.bytes) = (None, 0, 0);
        Ok(())
    }

    /// Makes the records durable, and writes the state of a journal that was stopped after the
    /// number `head`.
    fn finish(&self, head: Sequence) -> Result<(), EngineError> {
        if self.last != Some(head) {
            self.to.begin_chunk(head.next())?;
        }
        self.to.sync()?;
        self.to.put_mark(Mark {
            sequence: head,
            has_unsynced: false,
        })?;
        self.to.sync_mark()?;
        let facts = &self.source.facts;
        let state = State {
            epochs: facts.epochs.clone(),
            ceiling: head,
            clean: Some(head),
            sync: facts.sync,
            boot: facts.boot,
            home: Home::Backup,
        };
        self.to.put_state(&state.encode())
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;

    use super::super::check::{CheckError, check};
    use super::super::epochs::Epochs;
    use super::super::on_disk::{append, copied, id, open};
    use super::super::record_writer::RecordWriter;
    use super::*;
    use crate::id::Epoch;

    const NEVER: &dyn Fn() -> bool = &|| false;

    impl Backups {
        fn run(&self, to: &Path, is_cancelled: &dyn Fn() -> bool) -> Result<Backup, BackupError> {
            self.begin(to)?.run(is_cancelled)
        }
    }

    fn backups_of(writer: &RecordWriter, journal: &Path) -> Backups {
        Backups::new(Arc::clone(writer.source()), journal.to_path_buf())
    }

    #[test]
    fn backup_of_a_journal_in_use_starts_with_a_new_epoch_and_keeps_the_ids() {
        let place = tempfile::tempdir().unwrap();
        let (journal, to) = (place.path().join("journal"), place.path().join("copy"));
        let (mut writer, _, _) = open(&journal, 7);
        for bytes in [3, 0, 5] {
            append(&mut writer, bytes);
        }
        let backup = backups_of(&writer, &journal).run(&to, NEVER).unwrap();
        assert_eq!((backup.last, backup.publications), (id(7, 3), 3));
        append(&mut writer, 9);
        for again in [8, 9] {
            // A copy of the backup is a copy, too.
            let copy = copied(&to, &again.to_string());
            let (mut restored, epochs, records) = open(&copy, again);
            assert_eq!(records, [(1, 3), (2, 0), (3, 5)]);
            append(&mut restored, 1);
            let ids = [1, 3, 4].map(|number| epochs.id(Sequence(number)));
            assert_eq!(ids, [id(7, 1), id(7, 3), id(again, 4)]);
            drop(restored);
            // The next start continues the new epoch.
            let (_, epochs, records) = open(&copy, 10);
            assert_eq!((records.len(), epochs.id(Sequence(4))), (4, id(again, 4)));
        }
    }

    #[test]
    fn journal_that_was_copied_by_other_means_starts_with_a_new_epoch() {
        let place = tempfile::tempdir().unwrap();
        let journal = place.path().join("journal");
        let (mut writer, _, _) = open(&journal, 7);
        append(&mut writer, 1);
        writer.close().unwrap();
        fs::rename(&journal, place.path().join("moved")).unwrap();
        let journal = place.path().join("moved");
        let (writer, epochs, _) = open(&journal, 8);
        assert_eq!(epochs, Epochs::new(Epoch::new(7)), "it was only moved");
        writer.close().unwrap();
        let (_, epochs, records) = open(&copied(&journal, "copy"), 8);
        assert_eq!(records, [(1, 1)]);
        let ids = [1, 2].map(|number| epochs.id(Sequence(number)));
        assert_eq!(ids, [id(7, 1), id(8, 2)]);
    }

    #[test]
    fn backup_beside_a_writer_has_a_prefix_without_a_hole() {
        let place = tempfile::tempdir().unwrap();
        let journal = place.path().join("journal");
        let (mut writer, _, _) = open(&journal, 7);
        let backups = backups_of(&writer, &journal);
        let is_over = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&is_over);
        let feed = thread::spawn(move || {
            while !flag.load(Ordering::Relaxed) {
                append(&mut writer, 300_000);
            }
            writer
        });
        for round in 0..3 {
            let to = place.path().join(round.to_string());
            let backup = backups.run(&to, NEVER).unwrap();
            let (_, _, records) = open(&to, 8);
            assert_eq!(records.len() as u64, backup.publications);
            let numbers = records.iter().map(|(number, _)| *number);
            let first = backup.last.sequence.0 + 1 - backup.publications;
            assert!(numbers.eq(first..=backup.last.sequence.0), "{records:?}");
        }
        is_over.store(true, Ordering::Relaxed);
        drop(feed.join().unwrap());
    }

    #[test]
    fn files_of_a_backup_are_closed_to_others() {
        let place = tempfile::tempdir().unwrap();
        let (journal, to) = (place.path().join("journal"), place.path().join("copy"));
        fs::create_dir(&to).unwrap();
        fs::set_permissions(&to, Permissions::from_mode(0o755)).unwrap();
        let (writer, _, _) = open(&journal, 7);
        backups_of(&writer, &journal).run(&to, NEVER).unwrap();
        let mut paths = vec![to];
        while let Some(path) = paths.pop() {
            let found = fs::metadata(&path).unwrap();
            let expected = if found.is_dir() { 0o700 } else { 0o600 };
            assert_eq!(found.mode() & 0o777, expected, "{}", path.display());
            if found.is_dir() {
                paths.extend(fs::read_dir(path).unwrap().map(|one| one.unwrap().path()));
            }
        }
    }

    #[test]
    fn interrupted_backup_is_refused_by_a_start_and_a_check() {
        let place = tempfile::tempdir().unwrap();
        let journal = place.path().join("journal");
        let (mut writer, _, _) = open(&journal, 7);
        append(&mut writer, 3);
        for steps in 0..4 {
            let to = place.path().join(steps.to_string());
            let target = Target::prepare(&journal, &to).unwrap();
            if steps > 0 {
                let folder = Folder::take_incomplete(&to).unwrap();
                if steps > 1 {
                    let store = LsmOpener::new(folder).open().unwrap();
                    if steps > 2 {
                        copy(writer.source(), store.as_ref(), NEVER).unwrap();
                    }
                }
            }
            // The process is killed.
            let _leaked = std::mem::ManuallyDrop::new(target);
            let refused = Folder::take(&to).unwrap_err();
            assert!(matches!(refused, EngineError::Incomplete), "{refused}");
            let refused = check(&to).unwrap_err();
            assert!(
                matches!(refused, CheckError::Refused(EngineError::Incomplete)),
                "{refused}"
            );
            let again = backups_of(&writer, &journal).run(&to, NEVER).unwrap_err();
            assert!(again.to_string().contains("not empty"), "{again}");
        }
    }

    #[test]
    fn foreign_files_in_the_directory_of_a_failed_backup_stay() {
        let place = tempfile::tempdir().unwrap();
        let journal = place.path().join("journal");
        let (mut writer, _, _) = open(&journal, 7);
        append(&mut writer, 3);
        let (new, empty) = (place.path().join("new"), place.path().join("empty"));
        fs::create_dir(&empty).unwrap();
        let mode = Permissions::from_mode(0o755);
        fs::set_permissions(&empty, mode).unwrap();
        for to in [&new, &empty] {
            let cancelled = backups_of(&writer, &journal).run(to, &|| {
                fs::write(to.join("mine"), "mine").unwrap();
                fs::create_dir_all(to.join("others/store")).unwrap();
                true
            });
            let cancelled = cancelled.unwrap_err();
            assert!(matches!(cancelled, BackupError::Cancelled), "{cancelled}");
            let mut names: Vec<_> = fs::read_dir(to)
                .unwrap()
                .map(|entry| entry.unwrap().file_name())
                .collect();
            names.sort();
            assert_eq!(names, ["mine", "others"]);
            assert!(to.join("others/store").exists());
        }
        assert_eq!(fs::metadata(&empty).unwrap().mode() & 0o777, 0o755);
    }

    #[test]
    fn unusable_directories_are_refused_and_left_alone() {
        let place = tempfile::tempdir().unwrap();
        let journal = place.path().join("journal");
        let (writer, _, _) = open(&journal, 7);
        let (full, link) = (place.path().join("full"), place.path().join("link"));
        fs::create_dir(&full).unwrap();
        fs::write(full.join("mine"), "").unwrap();
        std::os::unix::fs::symlink(&journal, &link).unwrap();
        for (path, expected) in [
            (Path::new("relative"), "absolute path"),
            (Path::new("/"), "absolute path"),
            (&full, "not empty"),
            (&full.join("mine"), "not a directory"),
            (&link, "not a directory"),
            (&link.join("copy"), "inside the journal"),
            (&journal, "inside the journal"),
            (&journal.join("store/copy"), "inside the journal"),
            (&place.path().join("missing/copy"), "Create it first"),
            (
                Path::new("/proc/copy"),
                "No such file or directory (os error 2)",
            ),
        ] {
            let refused = backups_of(&writer, &journal).run(path, NEVER).unwrap_err();
            assert!(refused.to_string().contains(expected), "{refused}");
        }
        assert!(full.join("mine").exists() && !journal.join("store/copy").exists());
    }

    #[test]
    fn failed_backup_leaves_nothing() {
        let place = tempfile::tempdir().unwrap();
        let (journal, empty) = (place.path().join("journal"), place.path().join("empty"));
        fs::create_dir(&empty).unwrap();
        let (mut writer, _, _) = open(&journal, 7);
        append(&mut writer, 1);
        let backups = backups_of(&writer, &journal);
        let new = place.path().join("new");
        for to in [&empty, &new] {
            let cancelled = backups.run(to, &|| true).unwrap_err();
            assert!(matches!(cancelled, BackupError::Cancelled), "{cancelled}");
        }
        drop(writer);
        for to in [&empty, &new] {
            let closed = backups.run(to, NEVER).unwrap_err();
            assert!(matches!(closed, BackupError::Closed), "{closed}");
        }
        assert!(fs::read_dir(&empty).unwrap().next().is_none() && !new.exists());
    }

    #[test]
    fn one_backup_runs_at_a_time_and_none_begins_or_goes_on_while_the_server_stops() {
        let place = tempfile::tempdir().unwrap();
        let (journal, to) = (place.path().join("journal"), place.path().join("copy"));
        let (mut writer, _, _) = open(&journal, 7);
        append(&mut writer, 1);
        let backups = backups_of(&writer, &journal);
        let running = backups.begin(&to).unwrap();
        let other = place.path().join("other");
        let busy = backups.run(&other, NEVER).unwrap_err().to_string();
        let expected = format!("a backup is already running, to {}", to.display());
        assert!(busy.starts_with(&expected) && !other.exists(), "{busy}");
        // The running backup may still end while the connections are closed.
        backups.refuse();
        running.run(NEVER).unwrap();
        drop(running);
        let refused = backups.run(&other, NEVER).unwrap_err();
        assert!(matches!(refused, BackupError::Stopping), "{refused}");
        assert!(!other.exists());
    }

    #[test]
    fn running_backup_ends_when_the_server_stops_and_the_wait_for_it_is_bounded() {
        let place = tempfile::tempdir().unwrap();
        let journal = place.path().join("journal");
        let (mut writer, _, _) = open(&journal, 7);
        append(&mut writer, 1);
        // The backup is stopped at each of its steps.
        for step in 0.. {
            let backups = Backups::new(
                Arc::new(Source::new(
                    &writer.engine().unwrap(),
                    writer.head(),
                    writer.source().facts.clone(),
                )),
                journal.clone(),
            );
            let to = place.path().join("copy");
            let calls = Cell::new(0);
            let running = backups.begin(&to).unwrap();
            let outcome = running.run(&|| {
                if calls.replace(calls.get() + 1) == step {
                    backups.stop();
                }
                false
            });
            assert_eq!(backups.wait(Duration::from_millis(1)), Some(to.clone()));
            drop(running);
            assert_eq!(backups.wait(Duration::MAX), None);
            if calls.get() <= step {
                outcome.unwrap();
                assert!(step > 10, "{step} steps");
                break;
            }
            // The backup was complete before its next step.
            match outcome {
                Ok(_) => fs::remove_dir_all(&to).unwrap(),
                Err(error) => assert!(matches!(error, BackupError::Stopping), "{error}"),
            }
            assert!(!to.exists());
        }
        // The journal is closed after the stop of the backup.
        let backups = backups_of(&writer, &journal);
        let running = backups.begin(&place.path().join("last")).unwrap();
        backups.stop();
        drop(writer);
        let refused = running.run(NEVER).unwrap_err();
        assert!(matches!(refused, BackupError::Stopping), "{refused}");
    }
}
