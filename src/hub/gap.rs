//! Gaps: reports to a subscriber that publications are missing.

use crate::id::Cursor;

/// Publications of one channel that a subscriber has not received and will not receive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The last position before the gap, which is the position that the subscriber had. `None` if
    /// that position was malformed.
    pub since: Option<Cursor>,
    /// The last position inside the gap; the subscriber continues after it.
    pub until: Cursor,
    /// The number of missing publications, if it is known.
    pub missed: Option<u64>,
    /// The reason why the publications are missing.
    pub cause: GapCause,
}

/// The reason why publications are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GapCause {
    /// Later publications with the same keys supersede the missing ones.
    Conflated,
    /// The log no longer has the missing publications.
    Expired,
    /// The subscriber's position belongs to another epoch, or publications after it may be lost.
    Restart,
    /// The subscriber was further behind than its quota.
    Slow,
    /// The subscriber's position is malformed, or beyond the newest position of the current epoch.
    Unknown,
}

impl GapCause {
    /// Returns the name of the cause in the wire protocol.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Conflated => "conflated",
            Self::Expired => "expired",
            Self::Restart => "restart",
            Self::Slow => "slow",
            Self::Unknown => "unknown",
        }
    }

    /// Whether the gap's first position may be unusable in this epoch. If so, later losses do not
    /// change the cause.
    #[must_use]
    pub fn is_foreign(self) -> bool {
        matches!(self, Self::Restart | Self::Unknown)
    }
}
