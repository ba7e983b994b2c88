//! The keys that verify tokens. They are read at the start and at each reload.

use std::path::Path;

use super::files::read;
use crate::auth::{Ignored, Key, KeyError, KeySet, Reason, Verifier};
use crate::config::Config;
use crate::config::input::InputReader;
use crate::config::validate::Invalid;

/// Reads the key files that the configuration names. Returns `None` if no key is configured, or if
/// a problem was added to `found`.
pub(super) fn load(
    config: &Config,
    reader: &InputReader,
    found: &mut Vec<Invalid>,
) -> Option<Verifier> {
    let auth = &config.auth;
    if !auth.is_on() {
        return None;
    }
    let before = found.len();
    let mut keys = Vec::new();
    for file in &auth.keys {
        let key = read(reader, &file.path).and_then(|content| {
            Key::new(file.algorithm, &content).map_err(|error| refused(&file.path, &error))
        });
        match key {
            Ok(key) => keys.push(key),
            Err(message) => found.push(Invalid::new("auth.keys", message)),
        }
    }
    if !auth.jwks.as_os_str().is_empty() {
        match read_set(reader, &auth.jwks) {
            Ok(set) => keys.extend(set.keys),
            Err(message) => found.push(Invalid::new("auth.jwks", message)),
        }
    }
    if found.len() > before {
        return None;
    }
    let verifier = Verifier::new(keys, auth.token_rules());
    let invalid = |error| Invalid {
        keys: vec![String::from("auth.keys"), String::from("auth.jwks")],
        message: format!("together with auth.jwks: {error}"),
    };
    verifier.map_err(|error| found.push(invalid(error))).ok()
}

fn read_set(reader: &InputReader, path: &Path) -> Result<KeySet, String> {
    let set = KeySet::parse(&read(reader, path)?).map_err(|error| refused(path, &error))?;
    report_ignored(path, &set);
    Ok(set)
}

fn refused(path: &Path, error: &KeyError) -> String {
    format!("{} {error}", path.display())
}

/// Logs the ignored keys of a set. A key for encryption is normal in a set. An unsupported
/// signature key causes a warning, because the server will refuse tokens that are signed with the
/// key.
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
