//! Opens files that must be regular files, such as locks.
//!
//! Without this module, opening a FIFO would block until its other end is open, and opening a
//! device could have side effects.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// Opens a regular file without waiting. Returns `None` if the path names a different kind of file,
/// such as a symbolic link.
///
/// # Errors
/// Returns the error of `open(2)` or `fstat(2)`, for example if a directory is opened for writing.
pub fn open(path: &Path, options: &mut OpenOptions) -> io::Result<Option<File>> {
    let found = fs::symlink_metadata(path);
    if found.is_ok_and(|found| !found.is_file() && !found.is_dir()) {
        return Ok(None);
    }
    // The path may name a different file after the check. These flags make it safe to open that
    // file.
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = options.custom_flags(flags).open(path)?;
    Ok(file.metadata()?.is_file().then_some(file))
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    #[test]
    fn only_regular_files_are_opened_and_open_never_waits() {
        let place = tempfile::tempdir().unwrap();
        let fifo = place.path().join("fifo");
        mknodat(CWD, &fifo, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let file = place.path().join("file");
        let link = place.path().join("link");
        std::os::unix::fs::symlink(&file, &link).unwrap();
        let mut options = File::options();
        options.write(true);
        let missing = open(&file, &mut options).unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::NotFound);
        fs::write(&file, "").unwrap();
        assert!(open(&file, &mut options).unwrap().is_some());
        for other in [&fifo, &link, Path::new("/dev/null")] {
            let opened = open(other, &mut options).unwrap();
            assert!(opened.is_none(), "{}", other.display());
        }
        let directory = open(place.path(), &mut options).unwrap_err();
        assert_eq!(directory.kind(), ErrorKind::IsADirectory);
        let opened = open(place.path(), File::options().read(true)).unwrap();
        assert!(opened.is_none());
    }
}
