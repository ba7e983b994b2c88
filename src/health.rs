//! SHELL: this module records the parts of a running server that have failed, for `/readyz`.
//!
//! Each part that can fail while the server runs records the reason here, and clears the reason
//! when the part works again. Reasons are written a few times in the life of a process and read
//! once for each probe.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A part that can fail while the server runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// The descriptors for feeders.
    FeedDescriptors,
    /// The feed's socket in the file system.
    FeedSocket,
    /// The journal's files.
    Journal,
}

/// The parts that have failed, each with its reason.
#[derive(Debug, Default)]
pub struct Health(Mutex<BTreeMap<Part, String>>);

impl Health {
    /// Sets the reason why a part has failed. `None` means that the part works.
    pub fn set(&self, part: Part, reason: Option<&str>) {
        let mut reasons = self.reasons_mut();
        match reason {
            Some(reason) if reasons.get(&part).is_none_or(|known| known != reason) => {
                reasons.insert(part, String::from(reason));
            }
            Some(_) => {}
            None => {
                reasons.remove(&part);
            }
        }
    }

    /// Returns one reason for each part that has failed.
    #[must_use]
    pub fn reasons(&self) -> Vec<String> {
        self.reasons_mut().values().cloned().collect()
    }

    fn reasons_mut(&self) -> MutexGuard<'_, BTreeMap<Part, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn health_has_one_reason_for_each_part_until_that_works() {
        let health = Health::default();
        health.set(Part::Journal, Some("first"));
        health.set(Part::Journal, Some("second"));
        health.set(Part::FeedSocket, Some("gone"));
        assert_eq!(health.reasons(), ["gone", "second"]);
        health.set(Part::FeedSocket, None);
        assert_eq!(health.reasons(), ["second"]);
        health.set(Part::Journal, None);
        assert!(health.reasons().is_empty());
    }
}
