//! Certificates for TLS, and keys that verify tokens. They are loaded at the start, shared with the
//! workers, and reloaded together.

use std::sync::Arc;

use super::threads::Listeners;
use super::{certificates, token_keys};
use crate::auth::Verifier;
use crate::config::Config;
use crate::config::input::InputReader;
use crate::config::validate::Invalid;
use crate::tls::Identity;
use crate::worker::reloadable::Reloadable;
use crate::worker::wire::tls::Secure;

/// The content of the files that the configuration names. A field is `None` if the configuration
/// does not need it.
#[derive(Debug)]
pub(super) struct Material {
    identity: Option<Identity>,
    verifier: Option<Verifier>,
}

impl Material {
    /// Reads the files and adds each problem to `found`. `has_inherited_tls` is true if the service
    /// manager passed a socket for TLS.
    pub(super) fn load(
        config: &Config,
        has_inherited_tls: bool,
        former: Option<&Identity>,
        found: &mut Vec<Invalid>,
    ) -> Self {
        // Certificates are read even if no address has TLS, because `fanfare check` does not know
        // the sockets that a unit will pass.
        let tls = &config.tls;
        let is_secure = has_inherited_tls || tls.has_certificates();
        let reader = InputReader::default();
        let identity = is_secure.then(|| certificates::load(config, former, &reader, found));
        Self {
            identity: identity.flatten(),
            verifier: token_keys::load(config, &reader, found),
        }
    }
}

/// The certificates and keys that all workers share.
#[derive(Clone, Debug)]
pub(super) struct Credentials {
    /// The listeners that use TLS, and the certificates.
    pub(super) secure: Secure,
    /// The keys that verify tokens. `None` if the configuration does not need them.
    pub(super) keys: Option<Arc<Reloadable<Arc<Verifier>>>>,
    /// Whether the service manager passed a socket for TLS, so that there must be a certificate.
    has_inherited_tls: bool,
}

impl Credentials {
    /// Prepares the certificates and keys for use by all workers. Certificates without a TLS
    /// listener are kept, because a reload can add such a listener.
    pub(super) fn new(material: Material, listeners: &Listeners) -> Self {
        Self {
            secure: Secure {
                listeners: certificates::secure_listeners(listeners.addresses()),
                identity: Arc::new(Reloadable::new(material.identity.map(Arc::new))),
            },
            keys: material
                .verifier
                .map(|keys| Arc::new(Reloadable::new(Arc::new(keys)))),
            has_inherited_tls: listeners.has_inherited_tls(),
        }
    }

    /// Reads the files again, for [`Self::replace`].
    ///
    /// # Errors
    /// Returns the problems of all files.
    pub(super) fn read(&self, config: &Config) -> Result<Material, Vec<Invalid>> {
        let mut found = Vec::new();
        let former = self.secure.identity.current();
        let has_inherited_tls = self.has_inherited_tls;
        let material = Material::load(config, has_inherited_tls, former.as_deref(), &mut found);
        match found.is_empty() {
            true => Ok(material),
            false => Err(found),
        }
    }

    /// Uses the content of the files for new connections and tokens.
    pub(super) fn replace(&self, material: Material) {
        let identity = material.identity.map(Arc::new);
        self.secure.identity.replace(identity);
        if let (Some(keys), Some(verifier)) = (&self.keys, material.verifier) {
            keys.replace(Arc::new(verifier));
        }
    }
}
