//! Reads the certificates and keys that the configuration names.

use std::path::Path;

use crate::config::input::InputReader;

/// Reads a file. The error is a message that names the file and the cause.
pub(super) fn read(reader: &InputReader, path: &Path) -> Result<Vec<u8>, String> {
    let content = reader.read(path);
    content.map_err(|error| format!("cannot read {}: {error}", path.display()))
}
