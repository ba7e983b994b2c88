//! The outcome of writing one batch to the journal. The answers to the feeders of the batch are
//! sent after the outcome is known.
//!
//! One [`Commit`] is shared by the answers that wait for it, the sequencer and the sync thread. Its
//! state is an atomic byte, so no lock is needed. This module performs no I/O.

use std::sync::atomic::{AtomicU8, Ordering};

/// The state of a batch in the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommitState {
    /// The batch is not written yet.
    Pending,
    /// The batch is written and broadcast, but not yet as durable as `journal.sync` demands.
    Written,
    /// The batch is as durable as `journal.sync` demands.
    Committed,
    /// The batch was neither written nor broadcast.
    Refused,
    /// The batch was broadcast, but may not be durable, because no sync has succeeded.
    Unsynced,
}

/// The [`CommitState`] of one batch.
#[derive(Debug, Default)]
pub struct Commit(AtomicU8);

impl Commit {
    /// Returns the current state.
    #[must_use]
    pub fn state(&self) -> CommitState {
        match self.0.load(Ordering::Acquire) {
            0 => CommitState::Pending,
            1 => CommitState::Written,
            2 => CommitState::Committed,
            3 => CommitState::Refused,
            code => {
                debug_assert_eq!(code, 4);
                CommitState::Unsynced
            }
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
