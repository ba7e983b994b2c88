//! hold: why a conn is not read although its socket is readable.
//!
//! The causes are independent: a client that sends too fast may also have reports that wait for the
//! feed. The conn is read again when none is left.

use super::Worker;
use super::wire::net::Net;
use crate::id::ConnId;

/// A cause not to read a conn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hold {
    /// The client has sent more than its rate allows (`admission/rates.rs`).
    Rate,
    /// A report of the conn waits for the feed, or too many of its notices do (`report.rs`).
    Feed,
}

/// The causes that hold one conn.
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

    /// False if the cause was there before.
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
    /// Stops reading a conn. False if it was held for this cause before.
    pub(super) fn hold(&mut self, id: ConnId, cause: Hold) -> bool {
        self.slot(id).is_some_and(|slot| slot.holds.add(cause))
    }

    /// Removes a cause. The conn is read again unless another one is left.
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
