//! The keys by which tokens are known: read from files at start and again when asked.

use std::path::{Path, PathBuf};

use super::files::{Unreadable, read};
use crate::config::Config;
use crate::token::{Ignored, Key, KeyError, KeySet, Reason, Verifier};

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
        let set = KeySet::parse(&read(&auth.jwks)?).map_err(of(&auth.jwks))?;
        report_ignored(&auth.jwks, &set);
        keys.extend(set.keys);
    }
    Ok(Some(Verifier::new(keys, auth.terms())?))
}

/// A key for encryption is nothing unusual in a set. One that seems to be for tokens may be missed.
fn report_ignored(path: &Path, set: &KeySet) {
    let path = path.display();
    for Ignored { name, reason } in &set.ignored {
        if *reason == Reason::OtherUse {
            tracing::info!("{path}: {name} is ignored: it {reason}");
        } else {
            tracing::warn!("{path}: {name} is ignored: it {reason}, which is not supported");
        }
    }
}

fn of(path: &Path) -> impl FnOnce(KeyError) -> LoadError {
    let path = path.to_path_buf();
    |source| LoadError::Key { path, source }
}
