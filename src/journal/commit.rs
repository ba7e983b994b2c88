//! The outcome of one batch in the journal, shared by the answers that wait for it.
//!
//! One per batch, shared by its answers, the sequencer and the sync thread. An atomic byte without
//! a lock; otherwise pure.

use std::sync::atomic::{AtomicU8, Ordering};

/// The state of a batch in the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommitState {
    /// Not written yet.
    Pending,
    /// Written and broadcast; not yet as durable as `journal.sync` demands.
    Written,
    /// As durable as `journal.sync` demands.
    Committed,
    /// Neither written nor broadcast.
    Refused,
    /// Broadcast, but not confirmed by a sync.
    Unsynced,
}

/// The [`CommitState`] of one batch.
#[derive(Debug, Default)]
pub struct Commit(AtomicU8);

impl Commit {
    /// The current state.
    #[must_use]
    pub fn state(&self) -> CommitState {
        match self.0.load(Ordering::Acquire) {
            0 => CommitState::Pending,
            1 => CommitState::Written,
            2 => CommitState::Committed,
            3 => CommitState::Refused,
            _ => CommitState::Unsynced,
        }
    }

    /// Sets the state.
    pub fn set(&self, state: CommitState) {
        let code = match state {
            CommitState::Pending => 0,
            CommitState::Written => 1,
            CommitState::Committed => 2,
            CommitState::Refused => 3,
            CommitState::Unsynced => 4,
        };
        self.0.store(code, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_is_the_one_that_was_set_last() {
        let commit = Commit::default();
        assert_eq!(commit.state(), CommitState::Pending);
        for state in [
            CommitState::Written,
            CommitState::Committed,
            CommitState::Refused,
            CommitState::Unsynced,
        ] {
            commit.set(state);
            assert_eq!(commit.state(), state);
        }
    }
}
