//! The keys by which tokens are known, shared by all workers and changed while they run.

use std::sync::{Arc, PoisonError, RwLock};

use crate::auth::Verifier;

/// The keys now. Whoever has come in stays until his token is over, also when its key is gone.
#[derive(Debug)]
pub struct Keys(RwLock<Arc<Verifier>>);

impl Keys {
    /// Holds the first.
    #[must_use]
    pub fn new(verifier: Verifier) -> Self {
        Self(RwLock::new(Arc::new(verifier)))
    }

    /// What decides about tokens that are shown now.
    #[must_use]
    pub fn current(&self) -> Arc<Verifier> {
        let held = self.0.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&held)
    }

    /// Lets something else decide from now on.
    pub fn replace(&self, verifier: Verifier) {
        let mut held = self.0.write().unwrap_or_else(PoisonError::into_inner);
        *held = Arc::new(verifier);
    }
}
