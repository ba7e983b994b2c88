//! Reads the files that the configuration names beside itself: certificates and keys.

use std::path::Path;

use crate::sys::input;

/// The content of a file, or why it cannot be read.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, String> {
    input::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()))
}
