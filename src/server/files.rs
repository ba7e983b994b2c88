//! Reads the certificates and keys that the configuration names.

use std::path::Path;

use crate::config::input;

/// Reads a file. The error is a message that names the file and the cause.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, String> {
    input::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()))
}
