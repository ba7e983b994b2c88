//! What the server proves and what it believes: certificates where TLS is spoken, and the keys by
//! which tokens are known. Loaded at start, shared with the workers, read again together.

use std::sync::Arc;

use super::{certificates, token_keys};
use crate::auth::Verifier;
use crate::config::validate::Invalid;
use crate::config::{Config, Listen};
use crate::tls::Identity;
use crate::worker::reloadable::Reloadable;
use crate::worker::wire::tls::Secure;

/// The content of the files that the configuration names. Each is there if it is asked for.
#[derive(Debug)]
pub(super) struct Material {
    identity: Option<Identity>,
    verifier: Option<Verifier>,
}

impl Material {
    /// Reads the files. `has_inherited_tls` is whether TLS is spoken on a socket that the service
    /// manager opened. Everything that is wrong goes into `found`.
    pub(super) fn load(
        config: &Config,
        has_inherited_tls: bool,
        former: Option<&Identity>,
        found: &mut Vec<Invalid>,
    ) -> Self {
        // Certificates are read wherever they are named, so that `fanfare check` reads what a start
        // behind a socket unit reads.
        let tls = &config.tls;
        let is_secure = has_inherited_tls || tls.self_signed || !tls.certificates.is_empty();
        let identity = is_secure.then(|| certificates::load(config, former, found));
        Self {
            identity: identity.flatten(),
            verifier: token_keys::load(config, found),
        }
    }
}

/// Each is there if the configuration asks for it.
#[derive(Clone, Debug)]
pub(super) struct Credentials {
    /// What workers need for the addresses where TLS is spoken.
    pub(super) secure: Option<Secure>,
    /// By which tokens are known.
    pub(super) keys: Option<Arc<Reloadable<Arc<Verifier>>>>,
}

impl Credentials {
    /// Shares them with the workers of these listeners.
    pub(super) fn new(material: Material, listen: &[Listen]) -> Self {
        let listeners = certificates::secure_listeners(listen);
        let identity = material.identity.filter(|_| listeners != 0);
        Self {
            secure: identity.map(|identity| Secure {
                listeners,
                identity: Arc::new(Reloadable::new(identity)),
            }),
            keys: material
                .verifier
                .map(|keys| Arc::new(Reloadable::new(Arc::new(keys)))),
        }
    }

    /// Reads them again, for new connections and tokens. All of them change, or nothing does.
    pub(super) fn reload(&self, config: &Config) -> Result<(), Vec<Invalid>> {
        let mut found = Vec::new();
        let current = self.secure.as_ref().map(|secure| &secure.identity);
        let former = current.map(|identity| identity.current());
        let material = Material::load(config, former.is_some(), former.as_ref(), &mut found);
        if !found.is_empty() {
            return Err(found);
        }
        if let (Some(current), Some(identity)) = (current, material.identity) {
            current.replace(identity);
        }
        if let (Some(keys), Some(verifier)) = (&self.keys, material.verifier) {
            keys.replace(Arc::new(verifier));
        }
        Ok(())
    }
}
