//! SHELL: this module creates the directory of a backup, and removes it if the backup fails.
//!
//! The directory has a file that marks it as incomplete, until the copy is durable. Only files that
//! the backup has created are removed.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use super::backup::{BackupError, Refusal};
use super::folder::{INCOMPLETE, LOCK, MARK, STORE, UNFINISHED};

/// The directory of a backup. Unless the backup is complete, all that it has created is removed on
/// drop. Files that others have put into the directory stay.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) path: PathBuf,
    /// The permissions of the directory, if it existed before.
    before: Option<Permissions>,
    /// Whether the directory has the file [`INCOMPLETE`] of this backup, and no backup of another
    /// server.
    is_claimed: bool,
    is_complete: bool,
}

impl Target {
    /// Creates the directory `to`, or checks that it is empty, and marks it as incomplete.
    pub(super) fn prepare(journal: &Path, to: &Path) -> Result<Self, Refusal> {
        let (Some(parent), Some(name), true) = (to.parent(), to.file_name(), to.is_absolute())
        else {
            return Err(Refusal::NoName);
        };
        // Only the last part is created, so that a spelling mistake does not create directories.
        let parent = match fs::canonicalize(parent) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Err(Refusal::NoParent),
            outcome => outcome?,
        };
        let path = parent.join(name);
        if path.starts_with(fs::canonicalize(journal)?) {
            return Err(Refusal::Inside);
        }
        let mut target = Self {
            before: create(&path)?,
            path,
            is_claimed: false,
            is_complete: false,
        };
        target.claim()?;
        File::open(parent)?.sync_all()?;
        Ok(target)
    }

    /// Creates the file that marks the directory as incomplete.
    fn claim(&mut self) -> Result<(), Refusal> {
        let mut options = File::options();
        options.write(true).create_new(true).mode(0o600);
        let file = match options.open(self.path.join(INCOMPLETE)) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                return Err(Refusal::NotEmpty);
            }
            outcome => outcome?,
        };
        self.is_claimed = true;
        file.sync_all()?;
        for entry in fs::read_dir(&self.path)? {
            if entry?.file_name() != INCOMPLETE {
                return Err(Refusal::NotEmpty);
            }
        }
        fs::set_permissions(&self.path, Permissions::from_mode(0o700))?;
        Ok(File::open(&self.path)?.sync_all()?)
    }

    /// Makes the copy durable, and removes the file that marks it as incomplete. Only the owner may
    /// read the copy afterwards, wherever it is moved.
    pub(super) fn complete(
        &mut self,
        may_continue: &dyn Fn() -> Result<(), BackupError>,
    ) -> Result<(), BackupError> {
        sync_all(&self.path, may_continue)?;
        fs::remove_file(self.path.join(INCOMPLETE))?;
        File::open(&self.path)?.sync_all()?;
        self.is_complete = true;
        Ok(())
    }

    /// Removes what the backup has created. The file that marks the directory as incomplete is the
    /// last one: if something stays, the directory is still refused.
    fn remove(&self) -> io::Result<()> {
        if self.is_claimed {
            for name in [STORE, UNFINISHED] {
                unless_missing(fs::remove_dir_all(self.path.join(name)))?;
            }
            for name in [LOCK, MARK, INCOMPLETE] {
                unless_missing(fs::remove_file(self.path.join(name)))?;
            }
        }
        match &self.before {
            Some(before) if fs::metadata(&self.path)?.permissions() == *before => Ok(()),
            Some(before) => fs::set_permissions(&self.path, before.clone()),
            None => fs::remove_dir(&self.path),
        }
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if !self.is_complete
            && let Err(error) = self.remove()
        {
            let path = self.path.display();
            tracing::warn!(%path, %error, "cannot remove the incomplete backup: remove it");
        }
    }
}

/// Creates a directory. If there is an empty one, returns its permissions.
fn create(path: &Path) -> Result<Option<Permissions>, Refusal> {
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => return Ok(None),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error.into()),
    }
    let found = fs::symlink_metadata(path)?;
    if !found.is_dir() {
        return Err(Refusal::NotDirectory);
    }
    if fs::read_dir(path)?.next().is_some() {
        return Err(Refusal::NotEmpty);
    }
    Ok(Some(found.permissions()))
}

fn unless_missing(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    }
}

fn sync_all(
    path: &Path,
    may_continue: &dyn Fn() -> Result<(), BackupError>,
) -> Result<(), BackupError> {
    may_continue()?;
    let file = File::open(path)?;
    let is_directory = file.metadata()?.is_dir();
    if is_directory {
        for entry in fs::read_dir(path)? {
            sync_all(&entry?.path(), may_continue)?;
        }
    }
    let mode = if is_directory { 0o700 } else { 0o600 };
    file.set_permissions(Permissions::from_mode(mode))?;
    Ok(file.sync_all()?)
}
