//! lists: the lists of a worker that contain a conn. A conn is at most once in each.

/// A list of conns that a phase of the turn serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum List {
    /// The conns to read from.
    Read,
    /// The conns to write to.
    Flush,
}

/// The lists that contain one conn. One byte in the conn's slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Lists(u8);

impl Lists {
    fn bit(list: List) -> u8 {
        match list {
            List::Read => 1,
            List::Flush => 2,
        }
    }

    /// Whether the conn is in a list.
    pub(super) fn has(self, list: List) -> bool {
        self.0 & Self::bit(list) != 0
    }

    /// Notes that the conn was added to a list. Returns false if the conn was already there.
    pub(super) fn add(&mut self, list: List) -> bool {
        let is_new = !self.has(list);
        self.0 |= Self::bit(list);
        is_new
    }

    /// Notes that the conn was removed from a list.
    pub(super) fn remove(&mut self, list: List) {
        self.0 &= !Self::bit(list);
    }
}
