//! SHELL: the parts of a running server that have failed, for `/readyz`.
//!
//! Each part that can fail while the server runs records its reason here, and clears it when it
//! works again. Written a few times in the life of a process, read once for each probe.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A part that can fail while the server runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// Descriptors for feeders.
    FeedDescriptors,
    /// The feed's socket on the file system.
    FeedSocket,
    /// The journal's files.
    Journal,
}

/// The reasons of the parts that have failed.
#[derive(Debug, Default)]
pub struct Health(Mutex<BTreeMap<Part, String>>);

impl Health {
    /// Replaces a part's reason; `None` if the part works.
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

    /// One reason for each part that has failed.
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
