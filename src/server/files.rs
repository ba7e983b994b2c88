//! Reads the files that the configuration names beside itself: certificates and keys.

use std::io;
use std::path::{Path, PathBuf};

/// A file cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {path}: {source}")]
pub struct Unreadable {
    /// Which.
    path: PathBuf,
    /// Why.
    source: io::Error,
}

/// What a file has in it.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, Unreadable> {
    std::fs::read(path).map_err(|source| Unreadable {
        path: path.to_path_buf(),
        source,
    })
}
