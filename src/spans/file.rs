//! SHELL: the file to which spans are appended, one JSON line for each batch.
//!
//! If the file was renamed or removed, as logrotate does, the next batch begins a new file.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};

/// The mode of a new file, before the process's umask. Spans contain addresses of clients.
const MODE: u32 = 0o640;

/// An open file of spans.
#[derive(Debug)]
pub(super) struct SpanFile {
    path: PathBuf,
    file: File,
    /// Whether the last line may be incomplete, because a write has failed.
    is_torn: bool,
}

impl SpanFile {
    /// Opens the file, or creates it.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self {
            path: path.to_path_buf(),
            file: open(path)?,
            is_torn: false,
        })
    }

    /// Appends one line.
    pub(super) fn append(&mut self, line: &[u8]) -> io::Result<()> {
        self.reopen_if_moved()?;
        let before: &[u8] = if self.is_torn { b"\n" } else { b"" };
        // One write, so that lines of other writers cannot come in between.
        let whole = [before, line, b"\n"].concat();
        let written = self.file.write_all(&whole);
        self.is_torn = written.is_err();
        written
    }

    fn reopen_if_moved(&mut self) -> io::Result<()> {
        let own = self.file.metadata()?;
        let is_same = std::fs::metadata(&self.path)
            .is_ok_and(|named| (named.dev(), named.ino()) == (own.dev(), own.ino()));
        if !is_same {
            self.file = open(&self.path)?;
            self.is_torn = false;
        }
        Ok(())
    }
}

/// Checks whether a file can be written, or created in its directory. Creates nothing.
pub(super) fn check(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    if path.exists() {
        return Ok(access(path, Access::WRITE_OK)?);
    }
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) | None => Path::new("."),
    };
    Ok(access(directory, Access::WRITE_OK | Access::EXEC_OK)?)
}

fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(MODE).open(path)
}

#[cfg(test)]
mod tests {
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
    fn line_after_a_failed_write_begins_a_new_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let mut file = SpanFile::open(&path).unwrap();
        file.append(b"1").unwrap();
        file.is_torn = true;
        file.append(b"2").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "1\n\n2\n");
    }
}
