//! SHELL: this module lists and checks the files that the store needs.
//!
//! The files must exist while the store is open and before the store is reopened. If a log is
//! missing, the store opens without an error, but lacks the log's records. [`super::lsm`] updates
//! the list. [`super::folder`] owns the list and calls the check.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::engine::EngineError;
use crate::sys::inode::Inode;

/// The file extension of write-ahead logs. The stem of the file name is a number.
const LOG: &str = "jnl";
/// The file with the current version of a keyspace. The store replaces the file atomically, so the
/// file always exists.
const CURRENT: &str = "current";
/// The directory of a chunk's tables.
pub(super) const TABLES: &str = "tables";

/// The files that a store needs.
#[derive(Debug, Default)]
pub(super) struct StoreFiles {
    /// The write-ahead logs, in ascending order of their numbers.
    logs: Vec<Log>,
    /// The number of write-ahead logs that the store reports. It is greater than `logs.len()` if a
    /// log's file was removed before the file could be opened and added to `logs`.
    pub(super) log_count: usize,
    pub(super) chunks: Vec<ChunkFiles>,
}

/// A write-ahead log.
#[derive(Debug)]
struct Log {
    number: u64,
    path: PathBuf,
    /// Kept open, so that no other file gets the same inode.
    file: File,
}

/// The directory of a keyspace, usually of a chunk.
#[derive(Debug)]
pub(super) struct ChunkFiles {
    pub(super) path: PathBuf,
    pub(super) table_count: usize,
}

impl StoreFiles {
    /// Adds new logs to the list. If the list then has more than `log_count` logs, the oldest logs
    /// are removed from the list. The store also removes its oldest logs first.
    fn update_logs(&mut self, found: Vec<(u64, PathBuf)>) -> io::Result<()> {
        for (number, path) in found {
            if self.logs.iter().any(|log| log.number == number) {
                continue;
            }
            match open_handle(&path) {
                Ok(file) => self.logs.push(Log { number, path, file }),
                // The store may remove old logs at any time.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        self.logs.sort_unstable_by_key(|log| log.number);
        let surplus = self.logs.len().saturating_sub(self.log_count);
        self.logs.drain(..surplus);
        Ok(())
    }

    /// Replaces the listed logs with the logs in the directory.
    pub(super) fn replace_logs(&mut self, store: &Path) -> io::Result<()> {
        let found = find_logs(store)?;
        let mut fresh = Self {
            log_count: found.len(),
            ..Self::default()
        };
        fresh.update_logs(found)?;
        (self.logs, self.log_count) = (fresh.logs, fresh.log_count);
        Ok(())
    }

    /// Checks that all files exist.
    pub(super) fn check(&mut self, store: &Path) -> Result<(), EngineError> {
        self.update_logs(find_logs(store)?)?;
        for log in &self.logs {
            expect_same(&log.path, Inode::of(&log.file)?)?;
        }
        if self.logs.len() < self.log_count {
            return Err(EngineError::Removed(store.join(format!("*.{LOG}"))));
        }
        for chunk in &self.chunks {
            expect_present(&chunk.path)?;
            expect_present(&chunk.path.join(CURRENT))?;
            if chunk.table_count > 0 {
                let tables = chunk.path.join(TABLES);
                let found = unless_missing(&tables, fs::read_dir(&tables))?;
                if found.count() < chunk.table_count {
                    return Err(EngineError::Removed(tables));
                }
            }
        }
        Ok(())
    }
}

/// Opens a file with `O_PATH`. A plain open of a FIFO would block until the FIFO has a writer.
fn open_handle(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.read(true).custom_flags(libc::O_PATH).open(path)
}

/// Returns the numbers and paths of a store's logs.
pub(super) fn find_logs(store: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let entries = match fs::read_dir(store) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        outcome => outcome?,
    };
    let mut logs = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let is_log = path.extension().is_some_and(|end| end == LOG);
        let stem = path.file_stem().and_then(|stem| stem.to_str());
        let number = stem.and_then(|stem| stem.parse().ok());
        if let (true, Some(number)) = (is_log, number) {
            logs.push((number, path));
        }
    }
    Ok(logs)
}

/// Returns [`EngineError::Removed`] if the path is missing or refers to another file or directory.
pub(super) fn expect_same(path: &Path, inode: Inode) -> Result<(), EngineError> {
    match unless_missing(path, Inode::at(path))? == inode {
        true => Ok(()),
        false => Err(EngineError::Removed(path.to_path_buf())),
    }
}

/// Returns [`EngineError::Removed`] if the path is missing.
pub(super) fn expect_present(path: &Path) -> Result<(), EngineError> {
    unless_missing(path, Inode::at(path)).map(drop)
}

/// Converts an error. Only the error for a missing file means that a file was removed. Other errors
/// do not show whether the file exists.
fn unless_missing<T>(path: &Path, outcome: io::Result<T>) -> Result<T, EngineError> {
    outcome.map_err(|error| match error.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory => EngineError::Removed(path.to_path_buf()),
        _ => EngineError::Io(error),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write_logs(store: &Path, numbers: impl IntoIterator<Item = u64>) {
        for number in numbers {
            fs::write(store.join(format!("{number}.{LOG}")), "").unwrap();
        }
    }

    /// Checks a store that should have `log_count` logs. Returns the path that is missing.
    fn removed(files: &mut StoreFiles, store: &Path, log_count: usize) -> Option<PathBuf> {
        files.log_count = log_count;
        match files.check(store) {
            Ok(()) => None,
            Err(EngineError::Removed(path)) => Some(path),
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn log_that_is_removed_is_named_until_it_is_back() {
        for number in 9..12 {
            let folder = tempfile::tempdir().unwrap();
            let store = folder.path();
            write_logs(store, 9..12);
            let mut files = StoreFiles::default();
            assert_eq!(removed(&mut files, store, 3), None);
            let path = store.join(format!("{number}.{LOG}"));
            fs::rename(&path, store.join("away")).unwrap();
            assert_eq!(removed(&mut files, store, 3).as_ref(), Some(&path));
            fs::write(&path, "another").unwrap();
            assert_eq!(removed(&mut files, store, 3).as_ref(), Some(&path));
            fs::rename(store.join("away"), &path).unwrap();
            assert_eq!(removed(&mut files, store, 3), None);
        }
    }

    #[test]
    fn old_logs_that_the_store_counts_no_longer_are_not_expected() {
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path();
        write_logs(store, 9..11);
        let mut files = StoreFiles::default();
        assert_eq!(removed(&mut files, store, 2), None);
        fs::remove_file(store.join("9.jnl")).unwrap();
        write_logs(store, 11..12);
        assert_eq!(removed(&mut files, store, 2), None);
        fs::remove_file(store.join("10.jnl")).unwrap();
        files.replace_logs(store).unwrap();
        assert_eq!(removed(&mut files, store, 1), None);
        fs::remove_file(store.join("11.jnl")).unwrap();
        let missing = Some(store.join("11.jnl"));
        assert_eq!(removed(&mut files, store, 1), missing);
    }

    #[test]
    fn log_that_was_removed_before_it_was_listed_is_missing() {
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path();
        write_logs(store, [1, 3]);
        let mut files = StoreFiles::default();
        let missing = Some(store.join("*.jnl"));
        assert_eq!(removed(&mut files, store, 3), missing);
        write_logs(store, [2]);
        assert_eq!(removed(&mut files, store, 3), None);
    }

    #[test]
    fn logs_that_changed_while_the_directory_was_away_are_found_when_it_is_back() {
        let folder = tempfile::tempdir().unwrap();
        let (store, away) = (folder.path().join("store"), folder.path().join("away"));
        fs::create_dir(&store).unwrap();
        write_logs(&store, [3, 4]);
        let mut files = StoreFiles::default();
        assert_eq!(removed(&mut files, &store, 2), None);
        write_logs(&store, [5]);
        fs::remove_file(store.join("3.jnl")).unwrap();
        fs::rename(&store, &away).unwrap();
        assert!(removed(&mut files, &store, 2).is_some());
        fs::rename(&away, &store).unwrap();
        assert_eq!(removed(&mut files, &store, 2), None);
    }

    #[test]
    fn fifo_in_the_place_of_a_log_is_another_file_and_does_not_block() {
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path();
        let path = store.join("1.jnl");
        let make_fifo = || {
            use rustix::fs::{CWD, FileType, Mode, mknodat};
            mknodat(CWD, &path, FileType::Fifo, Mode::RUSR, 0).unwrap();
        };
        make_fifo();
        assert_eq!(removed(&mut StoreFiles::default(), store, 1), None);
        fs::remove_file(&path).unwrap();
        write_logs(store, [1]);
        let mut files = StoreFiles::default();
        assert_eq!(removed(&mut files, store, 1), None);
        fs::remove_file(&path).unwrap();
        make_fifo();
        assert_eq!(removed(&mut files, store, 1), Some(path.clone()));
    }

    #[test]
    fn only_a_missing_or_another_file_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "").unwrap();
        let inode = Inode::at(&path).unwrap();
        expect_same(&path, inode).unwrap();
        // Only the error for a missing file shows that the file does not exist. Other errors, such
        // as the error for a name that is too long, do not show this.
        let long = folder.path().join("x".repeat(300));
        for outcome in [expect_same(&long, inode), expect_present(&long)] {
            let unknown = outcome.unwrap_err();
            assert!(matches!(unknown, EngineError::Io(_)), "{unknown}");
        }
        for missing in [folder.path().join("none"), path.join("none")] {
            assert!(expect_present(&missing).unwrap_err().is_removed());
        }
        assert!(expect_same(folder.path(), inode).unwrap_err().is_removed());
    }
}
