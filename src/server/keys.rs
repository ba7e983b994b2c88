//! The keys by which tokens are known: read from files at start and again when asked.

use std::path::{Path, PathBuf};

use super::files::{Unreadable, read};
use crate::config::Config;
use crate::token::{Key, KeyError, Verifier};

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A file cannot be read.
    #[error(transparent)]
    Read(#[from] Unreadable),
    /// A file has no key in it that can be used.
    #[error("{path} {source}")]
    Key {
        /// Which.
        path: PathBuf,
        /// Why.
        source: KeyError,
    },
    /// The keys together cannot be used.
    #[error("what [auth] names {0}")]
    Keys(#[from] KeyError),
}

/// Reads what the configuration names; `None` where it names nothing.
pub(super) fn load(config: &Config) -> Result<Option<Verifier>, LoadError> {
    let auth = &config.auth;
    if !auth.is_on() {
        return Ok(None);
    }
    let mut keys = Vec::new();
    for file in &auth.keys {
        let content = read(&file.path)?;
        keys.push(Key::new(file.algorithm, &content).map_err(of(&file.path))?);
    }
    if !auth.jwks.as_os_str().is_empty() {
        keys.extend(Key::of_set(&read(&auth.jwks)?).map_err(of(&auth.jwks))?);
    }
    Ok(Some(Verifier::new(keys, auth.terms())?))
}

fn of(path: &Path) -> impl FnOnce(KeyError) -> LoadError {
    let path = path.to_path_buf();
    |source| LoadError::Key { path, source }
}
