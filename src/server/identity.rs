//! What the server proves where TLS is spoken: read from files at start and again when asked.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::files::{Unreadable, read};
use crate::config::{Config, Listen};
use crate::tls::{Identity, IdentityError, Material, self_signed};

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A file cannot be read.
    #[error(transparent)]
    Read(#[from] Unreadable),
    /// A certificate or key cannot be used.
    #[error("{path}: {source}")]
    Pair {
        /// The file that is to blame.
        path: PathBuf,
        /// Why.
        source: IdentityError,
    },
    /// What was read cannot be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

/// Reads what the configuration names, or makes a certificate if that is what it says. `former` is
/// what it will replace.
pub(super) fn load(config: &Config, former: Option<&Identity>) -> Result<Identity, LoadError> {
    let tls = &config.tls;
    let mut material = Material {
        client_auth: tls.client_auth,
        ..Material::default()
    };
    if tls.self_signed {
        let made = self_signed(trial_names(&config.listen))?;
        material
            .pairs
            .push((made.certificate.into_bytes(), made.key.into_bytes()));
    }
    for (certificate, key) in tls.certificates.iter().zip(&tls.keys) {
        material.pairs.push((read(certificate)?, read(key)?));
    }
    if !tls.client_authorities.as_os_str().is_empty() {
        material.client_authorities = read(&tls.client_authorities)?;
    }
    Identity::new(&material, former).map_err(|error| {
        let path = match &error {
            IdentityError::Certificate { index, .. } => tls.certificates.get(*index),
            IdentityError::Key { index, .. } => tls.keys.get(*index),
            IdentityError::ClientAuthorities(_) => Some(&tls.client_authorities),
            IdentityError::NoCertificate | IdentityError::Library(_) => None,
        };
        match path.cloned() {
            Some(path) => LoadError::Pair {
                path,
                source: error,
            },
            None => LoadError::Identity(error),
        }
    })
}

/// Under which names a server that is tried out may be called: this host's, and the addresses.
fn trial_names(listen: &[Listen]) -> Vec<String> {
    let mut names: Vec<String> = ["localhost", "127.0.0.1", "::1"].map(String::from).into();
    let hostname = rustix::system::uname();
    names.extend(hostname.nodename().to_str().map(str::to_ascii_lowercase));
    let addresses = listen.iter().map(|listen| listen.address.ip());
    let named = addresses.filter(|ip| !ip.is_unspecified());
    names.extend(named.map(|ip| ip.to_string()));
    names.retain(|name| !name.is_empty());
    names.sort();
    names.dedup();
    names
}

/// Which of these addresses have TLS, a bit each.
pub(super) fn secure_listeners(listen: &[Listen]) -> u64 {
    bits_of(listen, |listen| listen.is_tls)
}

/// On which of these addresses the PROXY protocol is spoken, a bit each.
pub(super) fn proxied_listeners(listen: &[Listen]) -> u64 {
    bits_of(listen, |listen| listen.is_proxied)
}

fn bits_of(listen: &[Listen], has: impl Fn(&Listen) -> bool) -> u64 {
    let bits = listen.iter().enumerate();
    let bits = bits.filter(|(_, listen)| has(listen));
    bits.fold(0, |all, (index, _)| all | 1 << (index % 64))
}

/// The URL under which clients connect.
#[must_use]
pub fn url(listen: &Listen) -> String {
    let address: SocketAddr = listen.address;
    let scheme = if listen.is_tls { "https" } else { "http" };
    format!("{scheme}://{address}")
}
