//! SHELL: this module checks a journal that no server uses, and changes nothing in it.
//!
//! The store writes when it is opened: it truncates its log, and repairs it. So the check opens a
//! mirror of the store in a temporary directory. The mirror has copies of all files that the store
//! may write to, and symbolic links to the tables, which never change. The check then reads the
//! journal exactly as a start of the server does.

use std::collections::HashSet;
use std::fs::{self, File};
use std::hash::{BuildHasher as _, RandomState};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt as _, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use tempfile::TempDir;

use super::engine::EngineError;
use super::files::TABLES;
use super::folder::{self, Folder, LOCK, MARK, STORE};
use super::lsm::LsmOpener;
use super::recover::{self, ReplayEvent};
use super::replay::boot_id;
use crate::certain;
use crate::id::{ChannelName, Cursor, Epoch, Sequence};
use crate::log::PastEpoch;
use crate::sys::regular;

/// The number of holes that a report lists. Further holes are only counted.
const HOLES_LISTED_MAX: usize = 20;
/// Stands for the epoch that a start from a copy would begin. It is never shown.
const NEXT: u64 = u64::MAX;
/// The size of the pieces in which a file is copied, in bytes.
const PIECE_BYTES: usize = 64 * 1024;

/// The contents of a journal, and what a start would do with it.
#[derive(Clone, Debug)]
pub struct Report {
    /// The version of the journal's format.
    pub format: u8,
    /// The epoch of the newest publications.
    pub epoch: Epoch,
    /// The earlier epochs that a start knows, oldest first.
    pub past: Vec<PastEpoch>,
    /// The first publication; `None` if there is none.
    pub first: Option<Cursor>,
    /// The last id that is not lost: of the last publication, or of a number that an earlier start
    /// has skipped. If the journal is a copy, no later id of this epoch is valid after a start.
    pub last: Cursor,
    /// The number after which a start continues. It is larger than the number of `last` if later
    /// publications may be missing.
    pub head: Sequence,
    /// The number of publications.
    pub publications: u64,
    /// The number of publications with an idempotency key.
    pub with_key: u64,
    /// The number of publications that a start ignores, because their channels have invalid names.
    pub ignored: u64,
    /// The number of channels.
    pub channels: u64,
    /// The total size of the records in bytes.
    pub record_bytes: u64,
    /// The total size of the store's logs and tables in bytes.
    pub disk_bytes: u64,
    /// The first holes: numbers without a publication, which clients may have received.
    pub holes: Vec<Hole>,
    /// The number of all holes.
    pub hole_count: u64,
    /// The number of bytes that a start would cut off, because they follow a hole in the store's
    /// log; `None` if the log has no hole.
    pub cut_bytes: Option<u64>,
    /// Whether a start begins a new epoch, because the journal is a copy.
    pub is_copy: bool,
}

impl Report {
    /// Whether no publication is missing or damaged.
    #[must_use]
    pub fn is_intact(&self) -> bool {
        self.hole_count == 0 && self.cut_bytes.is_none()
    }
}

/// Numbers without a publication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hole {
    /// The first number.
    pub first: Cursor,
    /// The last number.
    pub last: Cursor,
}

/// The reason why a journal could not be checked.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// A server uses the journal.
    #[error(
        "a server uses it. Check a backup: `fanfare journal backup DIR`, then `fanfare journal \
         check DIR`"
    )]
    InUse,
    /// The directory has no store.
    #[error("there is no journal")]
    None,
    /// The journal is damaged or foreign, so a start refuses it.
    #[error("{0}")]
    Refused(EngineError),
    /// The journal cannot be read.
    #[error("it cannot be read: {0}")]
    Unreadable(io::Error),
    /// The mirror cannot be written.
    #[error(
        "its logs cannot be copied to {}: {error}. Set TMPDIR to a directory with enough space",
        .path.display()
    )]
    Mirror {
        /// The temporary directory.
        path: PathBuf,
        /// The error of the system call.
        error: io::Error,
    },
}

/// Reads a journal and checks every record. A server cannot open the journal during the check.
///
/// # Errors
/// Returns the reason why the journal cannot be checked, or why a start would refuse it.
pub fn check(path: &Path) -> Result<Report, CheckError> {
    fs::read_dir(path).map_err(CheckError::Unreadable)?;
    let _lock = lock(path)?;
    folder::check_complete(path).map_err(refused)?;
    let has_store = path.join(STORE).try_exists();
    if !has_store.map_err(CheckError::Unreadable)? {
        return Err(CheckError::None);
    }
    folder::check(path).map_err(refused)?;
    let mirror = Mirror::make(path)?;
    let folder = Folder::take(mirror.0.path()).map_err(refused)?;
    let (engine, cut_bytes) = LsmOpener::new(folder).open_repaired().map_err(refused)?;
    let Some((state, mark)) = recover::read_state(engine.as_ref()).map_err(refused)? else {
        return Err(CheckError::None);
    };
    // Without the mark, a start creates it at another place.
    let here = folder::place(path).map_err(CheckError::Unreadable)?;
    let is_copy = here.is_none_or(|here| state.home.is_copy_at(here));
    let format = engine.state().map_err(refused)?;
    let mut reader = Reader::default();
    let mut each = |event: ReplayEvent<'_>| reader.take(&event);
    let found = (state, mark);
    let contents = recover::read(engine.as_ref(), found, is_copy, boot_id(), &mut each);
    let contents = contents.map_err(refused)?;
    let (tally, epochs) = (reader.tally, &contents.state.epochs);
    let next = contents.epochs_after_start(Epoch::new(NEXT));
    let past = next.past().iter().copied();
    let past = past.filter(|past| past.epoch != epochs.current());
    let holes = tally.holes.iter().map(|(first, last)| Hole {
        first: epochs.id(*first),
        last: epochs.id(*last),
    });
    Ok(Report {
        format: format.and_then(|state| state.first().copied()).unwrap_or(0),
        epoch: epochs.current(),
        past: past.collect(),
        first: tally.first.map(|first| epochs.id(first)),
        last: epochs.id(contents.last.unwrap_or_default()),
        head: contents.head,
        publications: tally.publications,
        with_key: tally.with_key,
        ignored: tally.ignored,
        channels: tally.channels.len() as u64,
        record_bytes: contents.record_bytes(),
        disk_bytes: engine.disk_bytes().map_err(refused)?,
        holes: holes.collect(),
        hole_count: tally.hole_count,
        cut_bytes,
        is_copy,
    })
}

/// Sorts the errors of the store: some mean that the journal cannot be read, others that a start
/// would refuse it.
fn refused(error: EngineError) -> CheckError {
    match error {
        EngineError::Io(error) => CheckError::Unreadable(error),
        EngineError::InUse => CheckError::InUse,
        other => CheckError::Refused(other),
    }
}

/// Locks a journal, so that no server opens it during the check. A copy without the file `lock` is
/// not locked.
fn lock(path: &Path) -> Result<Option<File>, CheckError> {
    let lock = match regular::open(&path.join(LOCK), File::options().read(true)) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        outcome => outcome.map_err(CheckError::Unreadable)?,
    };
    let foreign = || CheckError::Refused(EngineError::Foreign(String::from(LOCK)));
    let lock = lock.ok_or_else(foreign)?;
    match flock(&lock, FlockOperation::NonBlockingLockShared) {
        Err(error) if error.kind() == ErrorKind::WouldBlock => Err(CheckError::InUse),
        outcome => {
            outcome.map_err(|error| CheckError::Unreadable(error.into()))?;
            Ok(Some(lock))
        }
    }
}

/// A directory that stands for a journal and can be written to. It is removed on drop.
struct Mirror(TempDir);

impl Mirror {
    fn make(journal: &Path) -> Result<Self, CheckError> {
        let path = std::env::temp_dir();
        let failed = |fault| match fault {
            MirrorFault::Read(error) => CheckError::Unreadable(error),
            MirrorFault::Write(error) => CheckError::Mirror { path, error },
        };
        Self::try_make(journal).map_err(failed)
    }

    fn try_make(journal: &Path) -> Result<Self, MirrorFault> {
        let mirror = tempfile::Builder::new().prefix("fanfare-check-").tempdir();
        let mirror = mirror.map_err(MirrorFault::Write)?;
        // Symbolic links need absolute paths.
        let journal = std::path::absolute(journal).map_err(MirrorFault::Read)?;
        let mark = journal.join(MARK);
        if mark.try_exists().map_err(MirrorFault::Read)? {
            copy_without_zeros(&mark, &mirror.path().join(MARK))?;
        }
        mirror_directory(&journal.join(STORE), &mirror.path().join(STORE))?;
        Ok(Self(mirror))
    }
}

/// The reason why there is no mirror.
enum MirrorFault {
    /// The journal cannot be read.
    Read(io::Error),
    /// The mirror cannot be written.
    Write(io::Error),
}

fn mirror_directory(from: &Path, to: &Path) -> Result<(), MirrorFault> {
    fs::create_dir(to).map_err(MirrorFault::Write)?;
    let are_tables = from.file_name().is_some_and(|name| name == TABLES);
    for entry in fs::read_dir(from).map_err(MirrorFault::Read)? {
        let entry = entry.map_err(MirrorFault::Read)?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type().map_err(MirrorFault::Read)?;
        if kind.is_dir() {
            mirror_directory(&source, &target)?;
        } else if are_tables {
            symlink(&source, &target).map_err(MirrorFault::Write)?;
        } else if kind.is_file() {
            copy_without_zeros(&source, &target)?;
        }
    }
    Ok(())
}

/// Copies a file, but writes no pieces of zeros, which a log of the store may have at its end.
fn copy_without_zeros(from: &Path, to: &Path) -> Result<(), MirrorFault> {
    let from = File::open(from).map_err(MirrorFault::Read)?;
    let to = File::create_new(to).map_err(MirrorFault::Write)?;
    let mut piece = vec![0; PIECE_BYTES];
    let mut at = 0;
    loop {
        let length = from.read_at(&mut piece, at).map_err(MirrorFault::Read)?;
        let bytes = certain::take(&piece, length);
        if bytes.is_empty() {
            return to.set_len(at).map_err(MirrorFault::Write);
        }
        if bytes.iter().any(|byte| *byte != 0) {
            to.write_all_at(bytes, at).map_err(MirrorFault::Write)?;
        }
        at += length as u64;
    }
}

/// Sums up the records.
#[derive(Default)]
struct Reader {
    hasher: RandomState,
    tally: Tally,
}

#[derive(Default)]
struct Tally {
    first: Option<Sequence>,
    publications: u64,
    with_key: u64,
    ignored: u64,
    /// The hashes of the channels' names, which need less memory than the names.
    channels: HashSet<u64>,
    /// The first and the last number of each listed hole.
    holes: Vec<(Sequence, Sequence)>,
    hole_count: u64,
}

impl Reader {
    fn take(&mut self, event: &ReplayEvent<'_>) {
        match event {
            ReplayEvent::Epochs(_) => {}
            ReplayEvent::Lost { after, until } => self.note_hole(after.next(), *until),
            ReplayEvent::Record(sequence, record) => {
                let tally = &mut self.tally;
                let _first = tally.first.get_or_insert(*sequence);
                tally.publications += 1;
                tally.with_key += u64::from(record.dedupe.is_some());
                let is_valid = ChannelName::with_reserved(record.channel).is_ok();
                tally.ignored += u64::from(!is_valid);
                tally.channels.insert(self.hasher.hash_one(record.channel));
            }
        }
    }

    fn note_hole(&mut self, first: Sequence, last: Sequence) {
        self.tally.hole_count += 1;
        if self.tally.holes.len() < HOLES_LISTED_MAX {
            self.tally.holes.push((first, last));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::SystemTime;

    use super::super::on_disk::{append, copied, id, open};
    use super::*;

    /// Returns the files with their contents and times of change.
    fn files(path: &Path) -> BTreeMap<PathBuf, (Vec<u8>, SystemTime)> {
        let mut files = BTreeMap::new();
        for entry in fs::read_dir(path).unwrap() {
            let entry = entry.unwrap();
            let found = entry.metadata().unwrap();
            if found.is_dir() {
                files.extend(self::files(&entry.path()));
            }
            let content = fs::read(entry.path()).unwrap_or_default();
            files.insert(entry.path(), (content, found.modified().unwrap()));
        }
        files
    }

    /// Checks a journal and passes the result to `then`. The check must change nothing.
    fn checked<T>(path: &Path, then: impl FnOnce(Result<Report, CheckError>) -> T) -> T {
        let before = files(path);
        let checked = check(path);
        assert!(files(path) == before, "the check has changed a file");
        then(checked)
    }

    fn report(path: &Path) -> Report {
        checked(path, Result::unwrap)
    }

    fn refusal(path: &Path) -> CheckError {
        checked(path, Result::unwrap_err)
    }

    /// Makes a journal with some records that are in a table, and others in the store's log.
    fn filled(path: &Path) {
        let (mut writer, _, _) = open(path, 7);
        for _ in 0..20 {
            append(&mut writer, 1_000_000);
        }
        append(&mut writer, 3);
        writer.close().unwrap();
    }

    #[test]
    fn intact_journal_is_described_and_not_changed() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("journal");
        filled(&path);
        for _ in 0..2 {
            let found = report(&path);
            assert!(found.is_intact() && !found.is_copy, "{found:?}");
            assert_eq!(found.first, Some(id(7, 1)));
            assert_eq!(found.last, id(7, 21));
            assert_eq!((found.publications, found.channels), (21, 1));
            assert!(found.record_bytes > 20_000_000 && found.disk_bytes > 20_000_000);
        }
        let (_, _, records) = open(&path, 8);
        assert_eq!(records.len(), 21);
    }

    #[test]
    fn copy_is_recognised() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("journal");
        filled(&path);
        let copy = copied(&path, "copy");
        assert!(report(&copy).is_copy);
        fs::remove_file(path.join(MARK)).unwrap();
        assert!(report(&path).is_copy);
    }

    #[test]
    fn copy_that_was_interrupted_is_refused_or_has_a_hole() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("journal");
        let (mut writer, _, _) = open(&path, 7);
        (0..9).for_each(|_| append(&mut writer, 100));
        writer.close().unwrap();
        for mark in [None, Some(0)] {
            let copy = copied(&path, &format!("{mark:?}"));
            fs::remove_file(copy.join(MARK)).unwrap();
            if mark.is_some() {
                fs::write(copy.join(MARK), "").unwrap();
            }
            assert!(report(&copy).is_intact(), "it was stopped cleanly");
            let log = copy.join("store/0.jnl");
            let whole = fs::read(&log).unwrap();
            let written = whole.iter().rposition(|byte| *byte != 0).unwrap() + 1;
            fs::write(&log, &whole[..written - 1000]).unwrap();
            let found = report(&copy);
            assert!(!found.is_intact() && found.is_copy, "{found:?}");
            for is_empty in [true, false] {
                if is_empty {
                    fs::write(&log, "").unwrap();
                } else {
                    fs::remove_file(&log).unwrap();
                }
                let refused = refusal(&copy).to_string();
                assert!(refused.contains("its state is missing"), "{refused}");
            }
        }
    }

    #[test]
    fn journal_in_use_is_left_alone() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("journal");
        let (writer, _, _) = open(&path, 7);
        let refused = refusal(&path);
        assert!(matches!(refused, CheckError::InUse), "{refused}");
        drop(writer);
        report(&path);
    }

    #[test]
    fn directory_without_a_journal_is_no_journal() {
        let place = tempfile::tempdir().unwrap();
        assert!(matches!(refusal(place.path()), CheckError::None));
        let missing = check(&place.path().join("missing")).unwrap_err();
        assert!(matches!(missing, CheckError::Unreadable(_)), "{missing}");
        fs::create_dir(place.path().join("store")).unwrap();
        let foreign = refusal(place.path());
        assert!(foreign.to_string().contains("store"), "{foreign}");
    }

    #[test]
    fn damaged_table_is_reported() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("journal");
        filled(&path);
        let tables = files(&path);
        let (table, (bytes, _)) = tables
            .iter()
            .filter(|(path, _)| path.parent().unwrap().ends_with(TABLES))
            .max_by_key(|(_, (bytes, _))| bytes.len())
            .unwrap();
        assert!(bytes.len() > 10_000_000, "no records are in a table");
        let mut damaged = bytes.clone();
        damaged[1_000_000] ^= 1;
        fs::write(table, damaged).unwrap();
        let refused = refusal(&path);
        assert!(
            matches!(refused, CheckError::Refused(EngineError::Damaged(_))),
            "{refused}"
        );
        fs::remove_file(table).unwrap();
        let refused = refusal(&path);
        assert!(
            matches!(refused, CheckError::Refused(EngineError::Damaged(_))),
            "{refused}"
        );
    }

    #[test]
    fn records_that_the_store_cuts_off_are_a_hole() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("journal");
        let (mut writer, _, _) = open(&path, 7);
        (0..9).for_each(|_| append(&mut writer, 100));
        let ceiling = writer.ceiling();
        drop(writer);
        let log = path.join("store/0.jnl");
        let whole = fs::read(&log).unwrap();
        let written = whole.iter().rposition(|byte| *byte != 0).unwrap() + 1;
        fs::write(&log, &whole[..written - 20]).unwrap();
        let found = report(&path);
        let hole = Hole {
            first: id(7, 9),
            last: id(7, ceiling.0),
        };
        assert_eq!((found.hole_count, found.holes.as_slice()), (1, &[hole][..]));
        assert_eq!((found.last, found.publications), (id(7, 8), 8));
        assert_eq!(found.head, ceiling);
        assert!(!found.is_intact());
        // Zeros in the middle are a hole in the log, which a start cuts off.
        let mut torn = whole;
        torn[written - 700..written - 300].fill(0);
        fs::write(&log, torn).unwrap();
        let found = report(&path);
        assert!(!found.is_intact() && found.publications < 8, "{found:?}");
    }
}
