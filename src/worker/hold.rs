//! hold: the reasons not to read from a conn whose socket is readable.
//!
//! The reasons are independent: a client that sends too fast may also have reports that wait for
//! the feed. The conn is read again when no reason is left.

use super::Worker;
use super::wire::net::Net;
use crate::id::ConnId;

/// A reason not to read from a conn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hold {
    /// The client has sent more than its rate allows (`admission/rates.rs`).
    Rate,
    /// A report of the conn waits for the feed or was refused, or too many notices of the conn
    /// wait. The conn is read again after the feed has accepted the reports of its worker and
    /// enough of its notices (`report.rs`).
    Feed,
}

/// The reasons not to read from one conn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Holds(u8);

impl Holds {
    fn bit(cause: Hold) -> u8 {
        match cause {
            Hold::Rate => 1,
            Hold::Feed => 2,
        }
    }

    pub(super) fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(super) fn has(self, cause: Hold) -> bool {
        self.0 & Self::bit(cause) != 0
    }

    /// Adds a reason. Returns false if the reason was already present.
    fn add(&mut self, cause: Hold) -> bool {
        let is_new = !self.has(cause);
        self.0 |= Self::bit(cause);
        is_new
    }

    fn remove(&mut self, cause: Hold) {
        self.0 &= !Self::bit(cause);
    }
}

impl<N: Net> Worker<N> {
    /// Stops reading from a conn. Returns false if the conn is already not read for this reason.
    pub(super) fn hold(&mut self, id: ConnId, cause: Hold) -> bool {
        self.slot(id).is_some_and(|slot| slot.holds.add(cause))
    }

    /// Removes a reason. The conn is read again if no other reason is left.
    pub(super) fn release(&mut self, id: ConnId, cause: Hold) {
        if let Some(slot) = self.slot(id) {
            slot.holds.remove(cause);
            self.list_to_read(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conn_is_held_until_the_last_cause_is_gone() {
        let mut holds = Holds::default();
        assert!(holds.add(Hold::Rate) && holds.add(Hold::Feed));
        assert!(!holds.add(Hold::Rate), "it was there before");
        holds.remove(Hold::Rate);
        assert!(holds.has(Hold::Feed) && !holds.is_empty());
        holds.remove(Hold::Feed);
        assert!(holds.is_empty());
    }
}
