//! What the server proves and what it believes: certificates where TLS is spoken, and the keys by
//! which tokens are known. Loaded at start, shared with the workers, read again together.

use std::sync::Arc;

use super::{identity, keys};
use crate::config::{Config, Listen};
use crate::worker::keys::Keys;
use crate::worker::tls::{Identities, Secure};

/// Why they cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// The certificates for TLS cannot be used.
    #[error("cannot speak TLS: {0}")]
    Identity(#[from] identity::LoadError),
    /// The keys for tokens cannot be used.
    #[error("cannot verify tokens: {0}")]
    Keys(#[from] keys::LoadError),
}

/// Each is there if the configuration asks for it.
#[derive(Clone, Debug)]
pub(super) struct Credentials {
    /// What workers need for the addresses where TLS is spoken.
    pub(super) secure: Option<Secure>,
    /// By which tokens are known.
    pub(super) keys: Option<Arc<Keys>>,
}

impl Credentials {
    /// Reads them for the first time.
    pub(super) fn load(config: &Config, listen: &[Listen]) -> Result<Self, CredentialError> {
        let listeners = identity::secure_listeners(listen);
        let secure = match listeners {
            0 => None,
            _ => Some(Secure {
                listeners,
                identities: Arc::new(Identities::new(identity::load(config, None)?)),
            }),
        };
        let keys = keys::load(config)?.map(|verifier| Arc::new(Keys::new(verifier)));
        Ok(Self { secure, keys })
    }

    /// Reads them again, for whoever connects or shows a token from now on. All of them change, or
    /// nothing does.
    pub(super) fn reload(&self, config: &Config) -> Result<(), CredentialError> {
        let identities = self.secure.as_ref().map(|secure| &secure.identities);
        let identity = identities
            .map(|identities| identity::load(config, Some(&identities.current())))
            .transpose()?;
        let verifier = keys::load(config)?;
        if let (Some(identities), Some(identity)) = (identities, identity) {
            identities.replace(identity);
        }
        if let (Some(keys), Some(verifier)) = (&self.keys, verifier) {
            keys.replace(verifier);
        }
        Ok(())
    }
}
