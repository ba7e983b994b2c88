//! Checks the files and directories that the configuration names, before anything is bound or
//! created.
//!
//! `fanfare check` performs only this check, and each start performs it first. So `check` and a
//! start report the same problems in the same words. Addresses and locks are not checked here,
//! because another process may use them during `check`.

use super::credentials::Material;
use crate::config::validate::Invalid;
use crate::config::{AdminSocket, Config};
use crate::feed;
use crate::journal::folder;
use crate::spans;
use crate::sys::activation::Inherited;
use crate::sys::socket_file;

/// Checks the files and directories that a configuration names. Binds no sockets and creates no
/// files.
///
/// # Errors
/// Returns every problem that would prevent a start.
pub fn check(config: &Config) -> Result<(), Vec<Invalid>> {
    prepare(config, &Inherited::default()).map(drop)
}

/// Reads certificates and keys, and checks the directories of the feed and the journal.
pub(super) fn prepare(config: &Config, inherited: &Inherited) -> Result<Material, Vec<Invalid>> {
    let mut found = Vec::new();
    let has_inherited_tls = inherited.tcp.iter().any(|inherited| inherited.is_tls);
    let material = Material::load(config, has_inherited_tls, None, &mut found);
    if inherited.unix.is_empty() {
        let errors = feed::check(config).into_iter();
        found.extend(errors.map(|error| Invalid::new(feed::key_of(&error), error.to_string())));
    }
    if let AdminSocket::Path(path) = &config.admin_socket
        && let Err(error) = socket_file::check_path(path)
    {
        found.push(Invalid::new("admin_socket", error.to_string()));
    }
    let journal = &config.journal.path;
    if !journal.as_os_str().is_empty()
        && let Err(error) = folder::examine(journal)
    {
        let message = format!("{}: {error}", journal.display());
        found.push(Invalid::new("journal.path", message));
    }
    if let Err(message) = spans::check(&config.tracing) {
        found.push(Invalid::new("tracing.file", message));
    }
    if found.is_empty() {
        Ok(material)
    } else {
        Err(found)
    }
}
