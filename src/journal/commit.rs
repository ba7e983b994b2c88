//! What became of a batch in the journal, for whoever is owed an answer about it.
//!
//! One per batch, shared by its answers, the feed and the thread that syncs. An atomic byte, no
//! lock; pure but for that.

use std::sync::atomic::{AtomicU8, Ordering};

/// What became of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Not decided.
    Open,
    /// Written and on its way to the workers; not yet durable in the way that was asked for.
    Written,
    /// As durable as was asked for.
    Kept,
    /// Neither written nor broadcast.
    Refused,
    /// Broadcast, but the disk did not say that it would keep it.
    Unsynced,
}

/// A batch's [`Fate`], decided once.
#[derive(Debug, Default)]
pub struct Commit(AtomicU8);

impl Commit {
    /// What has become of the batch.
    #[must_use]
    pub fn fate(&self) -> Fate {
        match self.0.load(Ordering::Acquire) {
            0 => Fate::Open,
            1 => Fate::Written,
            2 => Fate::Kept,
            3 => Fate::Refused,
            _ => Fate::Unsynced,
        }
    }

    /// Notes what has become of it.
    pub fn decide(&self, fate: Fate) {
        let code = match fate {
            Fate::Open => 0,
            Fate::Written => 1,
            Fate::Kept => 2,
            Fate::Refused => 3,
            Fate::Unsynced => 4,
        };
        self.0.store(code, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fate_is_what_was_decided_last() {
        let commit = Commit::default();
        assert_eq!(commit.fate(), Fate::Open);
        for fate in [Fate::Written, Fate::Kept, Fate::Refused, Fate::Unsynced] {
            commit.decide(fate);
            assert_eq!(commit.fate(), fate);
        }
    }
}
