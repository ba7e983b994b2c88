//! SHELL: the journal's directory: who has it, what lies in it, and the mark beside the store.
//! [`Folder::check`] finds out whether it is still there.
//!
//! `lock` is locked for as long as a [`Folder`] lives: two servers that append to one journal would
//! destroy it. `store` is the store's own directory; it is made under another name and renamed when
//! it is whole, so that a server that is killed meanwhile leaves nothing that cannot be opened.
//! Whatever else lies there is somebody else's: with it, no new journal is begun.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use rustix::fs::{FlockOperation, flock};

use super::engine::EngineError;
use super::files::{StoreFiles, expect, expect_any};
use super::state::Mark;
use crate::sys::directory;
use crate::sys::inode::Inode;
use crate::sys::regular;

/// The file whose lock stands for the directory's.
const LOCK: &str = "lock";
/// The file with the mark.
const MARK: &str = "mark";
/// The store.
const STORE: &str = "store";
/// How the store is called until it is whole.
const UNFINISHED: &str = "unfinished";
/// What a new file system has at its root.
const LOST_AND_FOUND: &str = "lost+found";
/// The file that every store has.
const VERSION: &str = "version";
/// Where the store has its tables.
const KEYSPACES: &str = "keyspaces";

/// A directory that is ours.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    inode: Inode,
    mark: File,
    /// Holds the lock.
    lock: File,
    /// The store's directory, since it was opened for the first time.
    store: OnceLock<Inode>,
    /// What the store has, also while it is not open.
    files: Mutex<StoreFiles>,
}

impl Folder {
    /// Takes a directory; makes it if it is not there.
    ///
    /// # Errors
    /// When somebody else has it or its content, or the system refuses.
    pub fn take(path: &Path) -> Result<Self, EngineError> {
        examine(path)?;
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700).create(path)?;
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).read(true).write(true);
        options.mode(0o600);
        let lock = open(path, LOCK, &mut options)?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Err(EngineError::InUse),
            outcome => outcome.map_err(std::io::Error::from)?,
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

    /// Checks that the directory and what lies in it are those that were opened.
    ///
    /// # Errors
    /// [`EngineError::Removed`] with the first path that is not; [`EngineError::Io`] if the system
    /// does not say, which leaves open whether anything is missing.
    pub fn check(&self) -> Result<(), EngineError> {
        expect(&self.path, self.inode)?;
        expect(&self.path.join(LOCK), Inode::of(&self.lock)?)?;
        expect(&self.path.join(MARK), Inode::of(&self.mark)?)?;
        let Some(inode) = self.store.get() else {
            return Ok(());
        };
        let store = self.path.join(STORE);
        expect(&store, *inode)?;
        for name in [VERSION, KEYSPACES] {
            expect_any(&store.join(name))?;
        }
        self.files().check(&store)
    }

    /// The files that [`Folder::check`] expects of the store.
    pub(super) fn files(&self) -> MutexGuard<'_, StoreFiles> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the logs that are there for all that the store has.
    pub(super) fn note_logs(&self) -> Result<(), EngineError> {
        Ok(self.files().replace_logs(&self.path.join(STORE))?)
    }

    /// The store's directory; `make` makes it if there is none. Once it was opened, it is not made
    /// again: what was written to the first one would be missing from the second.
    ///
    /// # Errors
    /// What `make` says, or the system.
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
        std::fs::rename(&unfinished, store)?;
        Ok(File::open(&self.path)?.sync_all()?)
    }

    /// Bytes that the file system has left; no limit if it does not say.
    #[must_use]
    pub fn room(&self) -> u64 {
        rustix::fs::fstatvfs(&self.mark)
            .map_or(u64::MAX, |stat| stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    /// The mark; zero if there is none.
    ///
    /// # Errors
    /// When the system refuses, or the file holds something else.
    pub fn mark(&self) -> Result<Mark, EngineError> {
        let mut bytes = [0; Mark::BYTES];
        match self.mark.read_exact_at(&mut bytes, 0) {
            Ok(()) => {}
            // It is written at one stroke: what is shorter was never written.
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(Mark::default()),
            Err(error) => return Err(error.into()),
        }
        Mark::decode(&bytes).ok_or_else(|| EngineError::Damaged(format!("file {MARK}")))
    }

    /// Replaces the mark.
    ///
    /// # Errors
    /// What the system says.
    pub fn put_mark(&self, mark: Mark) -> Result<(), EngineError> {
        Ok(self.mark.write_all_at(&mark.encode(), 0)?)
    }

    /// Makes the mark durable.
    ///
    /// # Errors
    /// What the system says.
    pub fn sync_mark(&self) -> Result<(), EngineError> {
        Ok(self.mark.sync_data()?)
    }
}

/// Checks that a directory can be taken, whether or not another server has it now. Makes nothing.
///
/// # Errors
/// When its content is not a journal's, or the system refuses.
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

/// Refuses what is not a journal's, before anything is touched.
fn check(path: &Path) -> Result<(), EngineError> {
    let store = path.join(STORE);
    if !store.try_exists()? {
        let ours = [LOCK, MARK, UNFINISHED, LOST_AND_FOUND];
        return check_names(path, |name| ours.contains(&name));
    }
    let keyspaces = store.join(KEYSPACES);
    match (store.join(VERSION).is_file(), keyspaces.is_dir()) {
        (true, true) => {}
        (true, false) => return Err(missing(KEYSPACES)),
        // A part of a store, from which files were removed.
        (false, true) => return Err(missing(VERSION)),
        (false, false) => return Err(EngineError::Foreign(String::from(STORE))),
    }
    // The store would end the process over names that it does not know.
    check_names(&keyspaces, is_number)?;
    check_names(&store, |name| {
        let log = name.strip_suffix(".jnl");
        log.is_none_or(|number| is_number(number) && store.join(name).is_file())
    })
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
    use crate::id::Sequence;

    fn make(path: &Path) -> Result<(), EngineError> {
        std::fs::create_dir(path.join(KEYSPACES))?;
        Ok(std::fs::write(path.join(VERSION), "3")?)
    }

    #[test]
    fn folder_belongs_to_one_at_a_time() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("a/b");
        let first = Folder::take(&path).unwrap();
        let refused = Folder::take(&path).unwrap_err();
        assert!(matches!(refused, EngineError::InUse), "{refused}");
        drop(first);
        Folder::take(&path).unwrap();
    }

    #[test]
    fn store_is_made_once_and_again_if_that_was_cut_short() {
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
    fn mark_is_what_was_put_last() {
        let place = tempfile::tempdir().unwrap();
        let folder = Folder::take(place.path()).unwrap();
        assert_eq!(folder.mark().unwrap(), Mark::default());
        for sequence in [7, 9] {
            let mark = Mark {
                sequence: Sequence(sequence),
                is_doubtful: false,
            };
            folder.put_mark(mark).unwrap();
            folder.sync_mark().unwrap();
            assert_eq!(folder.mark().unwrap(), mark);
        }
        std::fs::write(place.path().join(MARK), [0; Mark::BYTES]).unwrap();
        let refused = folder.mark().unwrap_err();
        assert!(matches!(refused, EngineError::Damaged(_)), "{refused}");
    }

    #[test]
    fn names_of_others_are_refused_and_nothing_is_touched() {
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
                    .store(|_| panic!("it would be another one"))
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
    fn part_of_a_store_is_damage_with_a_remedy() {
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
    fn names_beside_a_store_do_no_harm() {
        let place = tempfile::tempdir().unwrap();
        std::fs::create_dir(place.path().join(LOST_AND_FOUND)).unwrap();
        Folder::take(place.path()).unwrap().store(make).unwrap();
        std::fs::write(place.path().join("notes.txt"), "mine").unwrap();
        Folder::take(place.path()).unwrap();
    }
}
