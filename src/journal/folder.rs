//! SHELL: this module manages the journal's directory, with its lock, its contents, and the mark.
//! The mark is a file with the highest sequence number known to be assigned.
//!
//! The file `lock` is locked while a [`Folder`] exists, because two servers that append to the same
//! journal would destroy the journal. The directory `store` contains the store. It is created under
//! another name, and is renamed when it is complete. So a killed server cannot leave an incomplete
//! store. A directory that contains other files but no store is foreign, and no new journal is
//! created in it. A backup that is not complete has the file `incomplete-backup`, and is refused.
//! [`Folder::check`] checks whether the files still exist.

use std::fs::{DirBuilder, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::UNIX_EPOCH;

use rustix::fs::{FlockOperation, flock};

use super::engine::EngineError;
use super::files::{StoreFiles, expect_present, expect_same};
use super::state::{Mark, Place};
use crate::id::Sequence;
use crate::sys::directory;
use crate::sys::inode::Inode;
use crate::sys::regular;

/// The file whose lock protects the directory.
pub(super) const LOCK: &str = "lock";
/// The file with the mark: the highest sequence number known to be assigned.
pub(super) const MARK: &str = "mark";
/// A backup creates this file first and removes it last. So a directory with this file is an
/// incomplete backup.
pub(super) const INCOMPLETE: &str = "incomplete-backup";
/// The store's directory.
pub(super) const STORE: &str = "store";
/// The name of the store's directory while the store is being created.
pub(super) const UNFINISHED: &str = "unfinished";
/// The directory `lost+found`, which some file systems have in their root. A new journal can be
/// created in a directory that contains it.
const LOST_AND_FOUND: &str = "lost+found";
/// A file that every store has.
const VERSION: &str = "version";
/// The directory of the store's tables.
const KEYSPACES: &str = "keyspaces";

/// A locked journal directory.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    inode: Inode,
    mark: File,
    /// The locked file. The directory stays locked while this file is open.
    lock: File,
    /// The inode of the store's directory, set when the store is first opened.
    store: OnceLock<Inode>,
    /// The files of the store. The list is kept while the store is closed.
    files: Mutex<StoreFiles>,
}

impl Folder {
    /// Locks a directory. Creates the directory if it is missing.
    ///
    /// # Errors
    /// Returns an error if another process has locked the directory, if its contents are foreign,
    /// or if a system call fails.
    pub fn take(path: &Path) -> Result<Self, EngineError> {
        examine(path)?;
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700).create(path)?;
        Self::lock(path)
    }

    /// Locks the directory of a backup that is not complete yet. [`Folder::take`] refuses it.
    ///
    /// # Errors
    /// Returns an error if another process has locked the directory, or if a system call fails.
    pub(super) fn take_incomplete(path: &Path) -> Result<Self, EngineError> {
        Self::lock(path)
    }

    fn lock(path: &Path) -> Result<Self, EngineError> {
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).read(true).write(true);
        options.mode(0o600);
        let lock = open(path, LOCK, &mut options)?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Err(EngineError::InUse),
            outcome => outcome.map_err(io::Error::from)?,
        }
        Ok(Self {
            path: path.to_path_buf(),
            inode: Inode::at(path)?,
            mark: open(path, MARK, &mut options)?,
            lock,
            store: OnceLock::new(),
            files: Mutex::default(),
        })
    }

    /// Checks whether the paths still refer to the directory and the files that were opened.
    ///
    /// # Errors
    /// Returns [`EngineError::Removed`] with the first path that is missing or replaced. Returns
    /// [`EngineError::Io`] if the check itself fails; the files may then still exist.
    pub fn check(&self) -> Result<(), EngineError> {
        expect_same(&self.path, self.inode)?;
        expect_same(&self.path.join(LOCK), Inode::of(&self.lock)?)?;
        expect_same(&self.path.join(MARK), Inode::of(&self.mark)?)?;
        let Some(inode) = self.store.get() else {
            return Ok(());
        };
        let store = self.path.join(STORE);
        expect_same(&store, *inode)?;
        for name in [VERSION, KEYSPACES] {
            expect_present(&store.join(name))?;
        }
        self.files().check(&store)
    }

    /// Returns the list of the store's files that [`Folder::check`] expects to exist.
    pub(super) fn files(&self) -> MutexGuard<'_, StoreFiles> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lists the write-ahead logs that exist now. From then on, [`Folder::check`] expects these
    /// logs to exist.
    pub(super) fn note_logs(&self) -> Result<(), EngineError> {
        Ok(self.files().replace_logs(&self.path.join(STORE))?)
    }

    /// Returns the path of the store's directory. If the directory is missing, `make` creates it.
    /// If it is missing but was opened before, the function returns an error instead, because a
    /// second directory would lack the records of the first.
    ///
    /// # Errors
    /// Returns the error of `make` or of a system call.
    pub fn store(
        &self,
        make: impl FnOnce(&Path) -> Result<(), EngineError>,
    ) -> Result<PathBuf, EngineError> {
        self.check()?;
        let store = self.path.join(STORE);
        self.make_store(&store, make)?;
        let inode = Inode::at(&store)?;
        let _first = self.store.get_or_init(|| inode);
        Ok(store)
    }

    fn make_store(
        &self,
        store: &Path,
        make: impl FnOnce(&Path) -> Result<(), EngineError>,
    ) -> Result<(), EngineError> {
        if store.try_exists()? {
            return Ok(());
        }
        let unfinished = self.path.join(UNFINISHED);
        match std::fs::remove_dir_all(&unfinished) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
            Ok(()) | Err(_) => {}
        }
        DirBuilder::new().mode(0o700).create(&unfinished)?;
        make(&unfinished)?;
        self.reset_mark()?;
        std::fs::rename(&unfinished, store)?;
        Ok(File::open(&self.path)?.sync_all()?)
    }

    /// Writes the mark of a new store, before the store gets its name. So a store without a mark is
    /// a part of a copy.
    fn reset_mark(&self) -> Result<(), EngineError> {
        let last = self.mark()?.unwrap_or_default().sequence;
        if last > Sequence::ZERO {
            tracing::warn!(
                last = last.0,
                "the journal's publications were removed: a new journal begins, with a new epoch"
            );
        }
        self.put_mark(Mark::default())?;
        self.sync_mark()
    }

    /// Returns the number of free bytes in the file system; `u64::MAX` if it is unknown.
    #[must_use]
    pub fn room(&self) -> u64 {
        rustix::fs::fstatvfs(&self.mark)
            .map_or(u64::MAX, |stat| stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    /// Returns the place of the directory.
    ///
    /// # Errors
    /// Returns the error of the system call.
    pub fn place(&self) -> Result<Place, EngineError> {
        Ok(place_of(&self.mark.metadata()?))
    }

    /// Reads the mark, which contains the highest sequence number known to be assigned. Returns
    /// `None` if the mark was never written.
    ///
    /// # Errors
    /// Returns an error if a system call fails or if the file is not a mark.
    pub fn mark(&self) -> Result<Option<Mark>, EngineError> {
        let mut bytes = [0; Mark::BYTES];
        match self.mark.read_exact_at(&mut bytes, 0) {
            Ok(()) => {}
            // The file is written with one call. So if the file is shorter than a mark, no mark was
            // ever written.
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        let mark = Mark::decode(&bytes);
        let mark = mark.ok_or_else(|| EngineError::Damaged(format!("file {MARK}")))?;
        Ok(Some(mark))
    }

    /// Replaces the mark, which contains the highest sequence number known to be assigned.
    ///
    /// # Errors
    /// Returns the error of the system call.
    pub fn put_mark(&self, mark: Mark) -> Result<(), EngineError> {
        Ok(self.mark.write_all_at(&mark.encode(), 0)?)
    }

    /// Makes the file with the mark durable, with `fdatasync(2)`. See [`Folder::put_mark`].
    ///
    /// # Errors
    /// Returns the error of the system call.
    pub fn sync_mark(&self) -> Result<(), EngineError> {
        Ok(self.mark.sync_data()?)
    }
}

/// Returns the place of a journal's directory; `None` if the directory has no mark.
///
/// # Errors
/// Returns the error of the system call.
pub(super) fn place(path: &Path) -> io::Result<Option<Place>> {
    match std::fs::symlink_metadata(path.join(MARK)) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        outcome => outcome.map(|found| Some(place_of(&found))),
    }
}

/// Returns the place of the journal whose mark has this metadata.
fn place_of(mark: &Metadata) -> Place {
    // Some file systems do not store the time of birth. A copy is then recognised by its inode
    // only.
    let born = mark.created().ok();
    let born = born.and_then(|born| born.duration_since(UNIX_EPOCH).ok());
    let born_ns = born.and_then(|born| u64::try_from(born.as_nanos()).ok());
    Place {
        inode: mark.ino(),
        born_ns: born_ns.unwrap_or(0),
    }
}

/// Checks whether a directory can be used, even if another server has locked it. Creates nothing.
///
/// # Errors
/// Returns an error if the contents of the directory are foreign or damaged, or if a system call
/// fails.
pub fn examine(path: &Path) -> Result<(), EngineError> {
    directory::check(path)?;
    if !path.try_exists()? {
        return Ok(());
    }
    for name in [LOCK, MARK] {
        match open(path, name, File::options().read(true).write(true)) {
            Err(EngineError::Io(error)) if error.kind() == ErrorKind::NotFound => {}
            outcome => drop(outcome?),
        }
    }
    check(path)
}

fn open(path: &Path, name: &str, options: &mut OpenOptions) -> Result<File, EngineError> {
    let file = regular::open(&path.join(name), options)?;
    file.ok_or_else(|| EngineError::Foreign(String::from(name)))
}

/// Returns an error for a foreign or damaged directory. Called before any file is changed.
pub(super) fn check(path: &Path) -> Result<(), EngineError> {
    check_complete(path)?;
    let store = path.join(STORE);
    if !store.try_exists()? {
        let ours = [LOCK, MARK, UNFINISHED, LOST_AND_FOUND];
        return check_names(path, |name| ours.contains(&name));
    }
    let keyspaces = store.join(KEYSPACES);
    match (store.join(VERSION).is_file(), keyspaces.is_dir()) {
        (true, true) => {}
        (true, false) => return Err(missing(KEYSPACES)),
        // The directory is a store from which files were removed.
        (false, true) => return Err(missing(VERSION)),
        (false, false) => return Err(EngineError::Foreign(String::from(STORE))),
    }
    // The store would abort the process if it found unknown names.
    check_names(&keyspaces, is_number)?;
    check_names(&store, |name| {
        let log = name.strip_suffix(".jnl");
        log.is_none_or(|number| is_number(number) && store.join(name).is_file())
    })
}

/// Returns an error for the directory of an incomplete backup.
pub(super) fn check_complete(path: &Path) -> Result<(), EngineError> {
    match std::fs::symlink_metadata(path.join(INCOMPLETE)) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error.into()),
        Ok(_) => Err(EngineError::Incomplete),
    }
}

fn missing(name: &str) -> EngineError {
    EngineError::Damaged(format!("{STORE}/{name} is missing"))
}

fn is_number(name: &str) -> bool {
    name.parse::<u64>().is_ok()
}

fn check_names(path: &Path, is_ours: impl Fn(&str) -> bool) -> Result<(), EngineError> {
    for entry in std::fs::read_dir(path)? {
        let name = entry?.file_name();
        let name = name.to_string_lossy();
        if !is_ours(&name) {
            return Err(EngineError::Foreign(name.into_owned()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    fn make(path: &Path) -> Result<(), EngineError> {
        std::fs::create_dir(path.join(KEYSPACES))?;
        Ok(std::fs::write(path.join(VERSION), "3")?)
    }

    #[test]
    fn directory_is_locked_by_one_process_at_a_time() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("a/b");
        let first = Folder::take(&path).unwrap();
        let refused = Folder::take(&path).unwrap_err();
        assert!(matches!(refused, EngineError::InUse), "{refused}");
        drop(first);
        Folder::take(&path).unwrap();
    }

    #[test]
    fn store_is_created_once_and_again_after_an_interrupted_attempt() {
        let place = tempfile::tempdir().unwrap();
        let folder = Folder::take(place.path()).unwrap();
        let cut_short = folder.store(|path| {
            make(path)?;
            Err(EngineError::Broken)
        });
        cut_short.unwrap_err();
        assert_eq!(folder.store(make).unwrap(), place.path().join(STORE));
        folder.store(|_| panic!("it is there")).unwrap();
        drop(folder);
        Folder::take(place.path()).unwrap();
    }

    #[test]
    fn mark_is_the_one_that_was_put_last() {
        let place = tempfile::tempdir().unwrap();
        let folder = Folder::take(place.path()).unwrap();
        assert_eq!(folder.mark().unwrap(), None);
        for sequence in [7, 9] {
            let mark = Mark {
                sequence: Sequence(sequence),
                has_unsynced: false,
            };
            folder.put_mark(mark).unwrap();
            folder.sync_mark().unwrap();
            assert_eq!(folder.mark().unwrap(), Some(mark));
        }
        std::fs::write(place.path().join(MARK), [0; Mark::BYTES]).unwrap();
        let refused = folder.mark().unwrap_err();
        assert!(matches!(refused, EngineError::Damaged(_)), "{refused}");
    }

    #[test]
    fn foreign_names_are_refused_and_left_untouched() {
        for (name, is_folder) in [
            ("notes.txt", false),
            ("00000000000000000001.journal", false),
            ("store", false),
            ("store", true),
            ("store/keyspaces/notes", true),
            ("store/notes.jnl", false),
            ("store/0.jnl", true),
        ] {
            let place = tempfile::tempdir().unwrap();
            if name.contains('/') {
                let folder = Folder::take(place.path()).unwrap();
                folder.store(make).unwrap();
            }
            let path = place.path().join(name);
            if is_folder {
                std::fs::create_dir(&path).unwrap();
            } else {
                std::fs::write(&path, "mine").unwrap();
            }
            let refused = Folder::take(place.path()).unwrap_err();
            assert!(
                matches!(refused, EngineError::Foreign(_)),
                "{name}: {refused}"
            );
            assert!(is_folder || std::fs::read(&path).unwrap() == b"mine");
        }
    }

    #[test]
    fn lock_and_mark_that_are_no_regular_files_are_refused_without_waiting() {
        for name in [LOCK, MARK] {
            let place = tempfile::tempdir().unwrap();
            let path = place.path().join(name);
            let mode = Mode::RUSR | Mode::WUSR;
            mknodat(CWD, &path, FileType::Fifo, mode, 0).unwrap();
            for refused in [
                examine(place.path()).unwrap_err(),
                Folder::take(place.path()).unwrap_err(),
            ] {
                assert!(matches!(refused, EngineError::Foreign(_)), "{refused}");
            }
        }
    }

    #[test]
    fn check_names_what_was_removed_or_replaced() {
        type Change = fn(&Path);
        let cases: [(&str, Change); 9] = [
            ("", |path| std::fs::remove_dir_all(path).unwrap()),
            ("", |path| {
                std::fs::rename(path, path.with_extension("away")).unwrap();
            }),
            ("", |path| {
                std::fs::rename(path, path.with_extension("away")).unwrap();
                std::fs::create_dir(path).unwrap();
            }),
            (LOCK, |path| std::fs::remove_file(path.join(LOCK)).unwrap()),
            (MARK, |path| std::fs::remove_file(path.join(MARK)).unwrap()),
            (MARK, |path| {
                std::fs::rename(path.join(MARK), path.join("old")).unwrap();
                std::fs::write(path.join(MARK), [0; Mark::BYTES]).unwrap();
            }),
            (STORE, |path| {
                std::fs::remove_dir_all(path.join(STORE)).unwrap();
            }),
            ("store/version", |path| {
                std::fs::remove_file(path.join(STORE).join(VERSION)).unwrap();
            }),
            ("store/keyspaces", |path| {
                std::fs::remove_dir(path.join(STORE).join(KEYSPACES)).unwrap();
            }),
        ];
        for (name, change) in cases {
            let place = tempfile::tempdir().unwrap();
            let path = place.path().join("journal");
            let folder = Folder::take(&path).unwrap();
            folder.check().unwrap();
            folder.store(make).unwrap();
            folder.check().unwrap();
            change(&path);
            let expected = match name {
                "" => path.clone(),
                name => path.join(name),
            };
            for found in [
                folder.check(),
                folder
                    .store(|_| panic!("a second store would be created"))
                    .map(|_| ()),
            ] {
                let found = found.unwrap_err();
                assert!(
                    matches!(&found, EngineError::Removed(path) if *path == expected),
                    "{name}: {found}"
                );
            }
        }
    }

    #[test]
    fn incomplete_store_is_reported_as_damage_with_a_remedy() {
        for missing in [VERSION, KEYSPACES] {
            let place = tempfile::tempdir().unwrap();
            let folder = Folder::take(place.path()).unwrap();
            folder.store(make).unwrap();
            drop(folder);
            let path = place.path().join(STORE).join(missing);
            std::fs::remove_file(&path)
                .or_else(|_| std::fs::remove_dir(&path))
                .unwrap();
            let refused = Folder::take(place.path()).unwrap_err();
            let text = refused.to_string();
            assert!(
                text.contains(missing) && text.contains("move it away"),
                "{text}"
            );
        }
    }

    #[test]
    fn foreign_names_beside_an_existing_store_are_ignored() {
        let place = tempfile::tempdir().unwrap();
        std::fs::create_dir(place.path().join(LOST_AND_FOUND)).unwrap();
        Folder::take(place.path()).unwrap().store(make).unwrap();
        std::fs::write(place.path().join("notes.txt"), "mine").unwrap();
        Folder::take(place.path()).unwrap();
    }
}
