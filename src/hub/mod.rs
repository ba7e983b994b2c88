//! Who is owed what: the log, the channels, their subscribers, and the arithmetic of cursors and
//! quotas.

pub mod gap;

pub use gap::{Gap, GapCause};

use crate::id::Cursor;

/// What came of subscribing to one channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JoinOutcome {
    /// The conn is a subscriber now.
    Joined(Joined),
    /// The conn was a subscriber already; nothing has changed.
    AlreadyJoined,
    /// The conn has as many channels as it may have.
    TooManyChannels,
}

/// Where a subscription starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Joined {
    /// The position from which the subscriber is served: everything after it follows.
    pub position: Cursor,
    /// Whether a position was asked for and nothing after it is missing.
    pub is_recovered: bool,
    /// What is missing of what was asked for. It has to be told before anything else of the
    /// channel.
    pub gap: Option<Gap>,
}
