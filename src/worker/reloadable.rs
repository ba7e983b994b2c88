//! A value that a reload replaces while all workers use it: token keys, or TLS certificates.

use std::sync::{PoisonError, RwLock};

/// The value, behind a lock that is held only to clone or to replace it.
#[derive(Debug)]
pub struct Reloadable<T>(RwLock<T>);

impl<T: Clone> Reloadable<T> {
    /// Creates a container with its first value.
    #[must_use]
    pub fn new(value: T) -> Self {
        Self(RwLock::new(value))
    }

    /// Returns the current value. A clone of the value does not change when the value is replaced.
    #[must_use]
    pub fn current(&self) -> T {
        let held = self.0.read().unwrap_or_else(PoisonError::into_inner);
        held.clone()
    }

    /// Replaces the value for all later calls of [`Reloadable::current`].
    pub fn replace(&self, value: T) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = value;
    }
}
