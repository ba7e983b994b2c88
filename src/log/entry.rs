//! An entry: one publication in its channel.

use std::sync::Arc;

use super::Class;
use crate::config::Quota;
use crate::frame::Publication;
use crate::id::Sequence;

/// A publication, with the number and size of all earlier publications in its channel. From these
/// sums, a subscriber's lag is computed by a subtraction.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The publication.
    pub publication: Arc<Publication>,
    /// The number and size of the channel's publications before this entry, since the channel was
    /// created.
    pub before: Amount,
    /// The number of the channel's previous entry, even if that entry has left the log. Zero for
    /// the channel's first entry. If publications of the channel between that entry and this one
    /// may be lost, this is the last number that may be lost.
    pub previous: Sequence,
    /// Whether a later entry of the channel has the same key. Set only in channels that conflate.
    pub is_superseded: bool,
    /// The part of the log to which the entry belongs. A reload can change the class of the
    /// channel, but not the class of its entries.
    pub class: Class,
}

const _: () = assert!(size_of::<Entry>() <= 40);

impl Entry {
    /// Returns the publication's number.
    #[must_use]
    pub fn sequence(&self) -> Sequence {
        self.publication.id.sequence
    }

    /// Returns the number and size of the channel's publications up to and including this entry.
    #[must_use]
    pub fn total(&self) -> Amount {
        self.before.plus(Amount::of(&self.publication))
    }
}

/// A number of publications, and the total size of their payloads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// The total size of the payloads in bytes.
    pub bytes: u64,
    /// The number of publications.
    pub publications: u64,
}

impl Amount {
    /// Returns the amount by which a conn may be behind.
    #[must_use]
    pub fn of_quota(quota: &Quota) -> Self {
        Self {
            bytes: quota.behind_bytes,
            publications: quota.behind_publications,
        }
    }

    /// Returns the number 1 and the payload size of one publication.
    #[must_use]
    pub fn of(publication: &Publication) -> Self {
        Self {
            bytes: publication.payload_bytes(),
            publications: 1,
        }
    }

    /// Returns the sum of two amounts.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            bytes: self.bytes + other.bytes,
            publications: self.publications + other.publications,
        }
    }

    /// Returns the difference of two amounts; a negative difference becomes zero.
    #[must_use]
    pub fn minus(self, other: Self) -> Self {
        Self {
            bytes: self.bytes.saturating_sub(other.bytes),
            publications: self.publications.saturating_sub(other.publications),
        }
    }

    /// Whether this amount has more bytes than `bound`, or more publications.
    #[must_use]
    pub fn exceeds(self, bound: Self) -> bool {
        self.bytes > bound.bytes || self.publications > bound.publications
    }
}
