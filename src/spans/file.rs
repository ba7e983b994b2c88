//! SHELL: the file to which spans are appended, one JSON line for each batch.
//!
//! If the file was renamed or removed, as logrotate does, the next batch begins a new file. Only a
//! regular file is accepted, because the open of a FIFO could wait forever.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};

/// The mode of a new file, before the process's umask. Spans contain addresses of clients.
const MODE: u32 = 0o640;

/// An open file of spans.
#[derive(Debug)]
pub(super) struct SpanFile {
    path: PathBuf,
    file: File,
}

impl SpanFile {
    /// Opens the file, or creates it.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self {
            path: path.to_path_buf(),
            file: open(path)?,
        })
    }

    /// Appends one line.
    pub(super) fn append(&mut self, line: &[u8]) -> io::Result<()> {
        self.reopen_if_moved()?;
        let before: &[u8] = match self.has_cut_line()? {
            true => b"\n",
            false => b"",
        };
        // One write, so that lines of other writers cannot come in between.
        let whole = [before, line, b"\n"].concat();
        self.file.write_all(&whole)
    }

    /// Whether the last line is incomplete. A full disk can cut a line, also a line of an earlier
    /// process.
    fn has_cut_line(&self) -> io::Result<bool> {
        let Some(last) = self.file.metadata()?.len().checked_sub(1) else {
            return Ok(false);
        };
        let mut byte = [0];
        // No byte is read if the file was truncated in the meantime.
        let read = self.file.read_at(&mut byte, last)?;
        Ok(read > 0 && byte != *b"\n")
    }

    fn reopen_if_moved(&mut self) -> io::Result<()> {
        let own = self.file.metadata()?;
        let is_same = std::fs::metadata(&self.path)
            .is_ok_and(|named| (named.dev(), named.ino()) == (own.dev(), own.ino()));
        if !is_same {
            self.file = open(&self.path)?;
        }
        Ok(())
    }
}

/// Checks whether a file can be opened, or created in its directory. Creates nothing.
pub(super) fn check(path: &Path) -> io::Result<()> {
    match std::fs::metadata(path) {
        Ok(found) => {
            check_kind(&found)?;
            return Ok(access(path, Access::READ_OK | Access::WRITE_OK)?);
        }
        // If a link's target is missing, the open creates the target.
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) | None => Path::new("."),
    };
    Ok(access(directory, Access::WRITE_OK | Access::EXEC_OK)?)
}

/// Opens the file without waiting. A FIFO would wait for its reader, and opening a device can have
/// side effects.
fn open(path: &Path) -> io::Result<File> {
    if let Ok(found) = std::fs::metadata(path) {
        check_kind(&found)?;
    }
    let mut options = OpenOptions::new();
    options.read(true).append(true).create(true).mode(MODE);
    // The path may name a different file after the check. These flags make it safe to open that
    // file.
    options.custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
    let file = options.open(path)?;
    check_kind(&file.metadata()?)?;
    Ok(file)
}

/// Refuses everything but regular files. A link is followed.
fn check_kind(found: &Metadata) -> io::Result<()> {
    if found.is_dir() {
        return Err(ErrorKind::IsADirectory.into());
    }
    if !found.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    #[test]
    fn renamed_file_is_followed_by_a_new_one() {
        let folder = tempfile::tempdir().unwrap();
        let (path, old) = (folder.path().join("a"), folder.path().join("b"));
        let mut file = SpanFile::open(&path).unwrap();
        file.append(b"1").unwrap();
        std::fs::rename(&path, &old).unwrap();
        file.append(b"2").unwrap();
        file.append(b"3").unwrap();
        let text = |path: &Path| std::fs::read_to_string(path).unwrap();
        assert_eq!((text(&old), text(&path)), ("1\n".into(), "2\n3\n".into()));
        let mode = std::fs::metadata(&path).unwrap().mode();
        assert_eq!(mode & 0o137, 0, "{mode:o}");
        std::fs::remove_dir_all(folder.path()).unwrap();
        assert!(file.append(b"4").is_err());
    }

    #[test]
    fn check_finds_a_missing_directory_and_creates_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        assert!(check(&path).is_ok());
        assert!(!path.exists());
        std::fs::write(&path, "").unwrap();
        assert!(check(&path).is_ok());
        assert!(check(folder.path()).is_err());
        assert!(check(&folder.path().join("b/c")).is_err());
    }

    #[test]
    fn line_after_a_cut_line_begins_a_new_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        std::fs::write(&path, "{\"cut").unwrap();
        let mut file = SpanFile::open(&path).unwrap();
        file.append(b"1").unwrap();
        file.append(b"2").unwrap();
        let mut other = File::options().append(true).open(&path).unwrap();
        other.write_all(b"{").unwrap();
        file.append(b"3").unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, "{\"cut\n1\n2\n{\n3\n");
    }

    #[test]
    fn fifo_or_device_is_refused_without_waiting() {
        let folder = tempfile::tempdir().unwrap();
        let (path, fifo) = (folder.path().join("a"), folder.path().join("fifo"));
        mknodat(CWD, &fifo, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        for special in [&fifo, Path::new("/dev/null")] {
            let refused = [check(special), SpanFile::open(special).map(drop)];
            for refused in refused.map(Result::unwrap_err) {
                assert!(refused.to_string().contains("regular file"), "{refused}");
            }
        }
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        check(&link).unwrap();
        let mut file = SpanFile::open(&link).unwrap();
        file.append(b"1").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "1\n");
        // A FIFO that takes the place of the file does not stop the thread.
        std::fs::rename(&fifo, &path).unwrap();
        assert!(file.append(b"2").is_err());
    }
}
