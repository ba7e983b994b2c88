//! An entry: one publication in its channel.

use std::sync::Arc;

use crate::frame::Publication;
use crate::id::Sequence;

/// A publication and the total before it in its channel, so that a subscriber's lag is a
/// subtraction.
#[derive(Clone, Debug)]
pub struct Entry {
    /// What was published.
    pub publication: Arc<Publication>,
    /// The total published in the channel before it, since the channel was made.
    pub before: Amount,
    /// The channel's entry before this one, which may have left the log. Zero for its first.
    pub previous: Sequence,
    /// Whether a later entry of its channel has the same key. Set only in channels that conflate.
    pub is_superseded: bool,
}

const _: () = assert!(size_of::<Entry>() <= 40);

impl Entry {
    /// The publication's number.
    #[must_use]
    pub fn sequence(&self) -> Sequence {
        self.publication.id.sequence
    }

    /// The total published in the channel up to this one.
    #[must_use]
    pub fn total(&self) -> Amount {
        self.before.plus(Amount::of(&self.publication))
    }
}

/// A number of publications and of their payload bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// Payload bytes.
    pub bytes: u64,
    /// Publications.
    pub publications: u64,
}

impl Amount {
    /// One publication.
    #[must_use]
    pub fn of(publication: &Publication) -> Self {
        Self {
            bytes: publication.payload_bytes(),
            publications: 1,
        }
    }

    /// The sum.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            bytes: self.bytes + other.bytes,
            publications: self.publications + other.publications,
        }
    }

    /// The difference; zero where it would be negative.
    #[must_use]
    pub fn minus(self, other: Self) -> Self {
        Self {
            bytes: self.bytes.saturating_sub(other.bytes),
            publications: self.publications.saturating_sub(other.publications),
        }
    }

    /// Whether either number is above its bound.
    #[must_use]
    pub fn exceeds(self, bound: Self) -> bool {
        self.bytes > bound.bytes || self.publications > bound.publications
    }
}
