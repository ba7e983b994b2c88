//! Certificates and keys for TLS listeners. They are read at the start and at each reload.

use std::net::SocketAddr;
use std::path::Path;

use super::files::read;
use crate::config::input::InputReader;
use crate::config::limits::LISTENERS_MAX;
use crate::config::validate::Invalid;
use crate::config::{Config, Listen};
use crate::tls::{Identity, IdentityError, Material, check_pair, self_signed};

const CERTIFICATES: &str = "tls.certificates";
const KEYS: &str = "tls.keys";
const AUTHORITIES: &str = "tls.client_authorities";

/// Reads the files that the configuration names. Generates a self-signed certificate if
/// `tls.self_signed` is set. `former` is the identity that will be replaced. If there is a problem,
/// adds it to `found` and returns `None`.
pub(super) fn load(
    config: &Config,
    former: Option<&Identity>,
    reader: &InputReader,
    found: &mut Vec<Invalid>,
) -> Option<Identity> {
    let tls = &config.tls;
    let before = found.len();
    let mut material = Material {
        client_auth: tls.client_auth,
        ..Material::default()
    };
    if tls.self_signed {
        match self_signed(trial_names(&config.listen)) {
            Ok(made) => {
                let pair = (made.certificate.into_bytes(), made.key.into_bytes());
                material.names.push(String::from("self-signed"));
                material.pairs.push(pair);
            }
            Err(error) => found.push(Invalid::new("tls.self_signed", error.to_string())),
        }
    }
    let mut take = |key: &str, path: &Path| match read(reader, path) {
        Ok(content) => Some(content),
        Err(message) => {
            found.push(Invalid::new(key, message));
            None
        }
    };
    let mut pairs = Vec::new();
    for (chain, key) in tls.certificates.iter().zip(&tls.keys) {
        let content = take(CERTIFICATES, chain).zip(take(KEYS, key));
        pairs.extend(content.map(|content| (content, chain, key)));
    }
    if !tls.client_authorities.as_os_str().is_empty() {
        let content = take(AUTHORITIES, &tls.client_authorities);
        material.client_authorities = content.unwrap_or_default();
    }
    for ((chain, key), chain_path, key_path) in pairs {
        match check_pair(&chain, &key) {
            Ok(()) => {
                material.names.push(chain_path.display().to_string());
                material.pairs.push((chain, key));
            }
            Err(error) => found.push(invalid(error, chain_path, key_path)),
        }
    }
    if found.len() > before {
        return None;
    }
    let identity = Identity::new(&material, former);
    let authorities = &tls.client_authorities;
    identity
        .map_err(|error| found.push(invalid(error, authorities, authorities)))
        .ok()
}

/// Converts an error to a problem of the configuration that names the file. Each pair of a
/// certificate and a key is checked earlier. So the creation of an identity can fail only because
/// of the client authorities, a missing pair, or the TLS library.
fn invalid(error: IdentityError, chain: &Path, key: &Path) -> Invalid {
    let at =
        |name, path: &Path, reason| Invalid::new(name, format!("{}: {reason}", path.display()));
    match error {
        IdentityError::Certificate { reason, .. } => at(CERTIFICATES, chain, reason),
        IdentityError::Key { reason, .. } => at(KEYS, key, reason),
        IdentityError::ClientAuthorities(reason) => at(AUTHORITIES, chain, reason),
        IdentityError::NoCertificate => Invalid::new(
            CERTIFICATES,
            "is empty, but a socket unit has FileDescriptorName=tls; name a certificate",
        ),
        IdentityError::Library(_) => Invalid::new(CERTIFICATES, error.to_string()),
    }
}

/// Returns the names for the self-signed certificate: `localhost`, this host's name and the listen
/// addresses.
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

/// Returns a bit for each address. A bit is set if the address has TLS.
pub(super) fn secure_listeners(listen: &[Listen]) -> u64 {
    bits_of(listen, |listen| listen.is_tls)
}

/// Returns a bit for each address. A bit is set if connections begin with a PROXY header.
pub(super) fn proxied_listeners(listen: &[Listen]) -> u64 {
    bits_of(listen, |listen| listen.is_proxied)
}

fn bits_of(listen: &[Listen], has: impl Fn(&Listen) -> bool) -> u64 {
    debug_assert!(listen.len() <= LISTENERS_MAX);
    let bits = listen.iter().enumerate();
    let bits = bits.filter(|(_, listen)| has(listen));
    bits.fold(0, |all, (index, _)| all | 1 << (index % 64))
}

/// Returns the URL of a listen address.
#[must_use]
pub fn url(listen: &Listen) -> String {
    let address: SocketAddr = listen.address;
    let scheme = if listen.is_tls { "https" } else { "http" };
    format!("{scheme}://{address}")
}
