//! Gaps: what a subscriber receives when something is missing.

use crate::id::Cursor;

/// Publications of one channel that a subscriber has not received and will not receive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The last position before the gap: what the subscriber had. `None` if the position was
    /// malformed.
    pub since: Option<Cursor>,
    /// The last position inside the gap; the subscriber continues after it.
    pub until: Cursor,
    /// How many publications are missing, if that is known.
    pub missed: Option<u64>,
    /// Why they are missing.
    pub cause: GapCause,
}

/// Why publications are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GapCause {
    /// Later publications with the same keys supersede them.
    Conflated,
    /// The log no longer has them.
    Expired,
    /// The position is of another epoch, or what came after it may be lost.
    Restart,
    /// The subscriber was further behind than its quota.
    Slow,
    /// The position is malformed, or beyond the head of the current epoch.
    Unknown,
}

impl GapCause {
    /// The word on the wire.
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

    /// Whether the subscriber's position is of no use here. Later losses then do not change the
    /// cause.
    #[must_use]
    pub fn is_foreign(self) -> bool {
        matches!(self, Self::Restart | Self::Unknown)
    }
}
