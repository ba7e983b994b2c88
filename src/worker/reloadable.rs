//! A value that a reload can replace while workers use the value: token keys, TLS certificates or
//! the configuration.

use std::sync::{PoisonError, RwLock};

/// A value behind a lock. The lock is held only while the value is cloned or replaced.
#[derive(Debug, Default)]
pub struct Reloadable<T>(RwLock<T>);

impl<T: Clone> Reloadable<T> {
    /// Creates a container with its first value.
    #[must_use]
    pub fn new(value: T) -> Self {
        Self(RwLock::new(value))
    }

    /// Returns a clone of the current value. The clone does not change when the value is replaced.
    #[must_use]
    pub fn current(&self) -> T {
        let held = self.0.read().unwrap_or_else(PoisonError::into_inner);
        held.clone()
    }

    /// Replaces the value. All later calls of [`Reloadable::current`] return the new value.
    pub fn replace(&self, value: T) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = value;
    }
}
