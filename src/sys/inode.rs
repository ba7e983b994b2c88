//! The identity of files. If another file replaces the file at a path, the inode differs.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// The device and inode numbers of a file. While this file is open or bound, no other file has the
/// same numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inode {
    device: u64,
    number: u64,
}

impl Inode {
    /// Returns the inode of the file at a path. Follows a symbolic link.
    ///
    /// # Errors
    /// Returns the error of `stat(2)`.
    pub fn at(path: &Path) -> io::Result<Self> {
        fs::metadata(path).map(|found| Self::from(&found))
    }

    /// Returns the inode of the file at a path. Does not follow a symbolic link.
    ///
    /// # Errors
    /// Returns the error of `lstat(2)`.
    pub fn at_link(path: &Path) -> io::Result<Self> {
        fs::symlink_metadata(path).map(|found| Self::from(&found))
    }

    /// Returns the inode of an open file.
    ///
    /// # Errors
    /// Returns the error of `fstat(2)`.
    pub fn of(file: &File) -> io::Result<Self> {
        file.metadata().map(|found| Self::from(&found))
    }
}

impl From<&Metadata> for Inode {
    fn from(found: &Metadata) -> Self {
        Self {
            device: found.dev(),
            number: found.ino(),
        }
    }
}
