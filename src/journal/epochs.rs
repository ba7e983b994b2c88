//! The epochs of a journal's sequence numbers.
//!
//! A start from a copy of a journal begins a new epoch, because the original may have assigned the
//! numbers after the copy's last record to other publications. The records up to this number keep
//! the ids that they had, so the journal stores the earlier epochs and the number at which each of
//! them ended. This module performs no I/O.

use crate::config::limits::PREVIOUS_EPOCHS_MAX;
use crate::id::{Cursor, Epoch, Sequence};
use crate::log::PastEpoch;

/// The length in bytes of the encoding of one earlier epoch.
const PAST_BYTES: usize = 16;

/// The epoch of new publications, and the earlier epochs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Epochs {
    /// The epoch of new publications.
    current: Epoch,
    /// The earlier epochs in the order of their ends; at most [`PREVIOUS_EPOCHS_MAX`].
    past: Vec<PastEpoch>,
}

impl Epochs {
    /// Creates the epochs of a new journal.
    #[must_use]
    pub fn new(current: Epoch) -> Self {
        let past = Vec::new();
        Self { current, past }
    }

    /// Returns the epoch of new publications.
    #[must_use]
    pub fn current(&self) -> Epoch {
        self.current
    }

    /// Returns the earlier epochs in the order of their ends.
    #[must_use]
    pub fn past(&self) -> &[PastEpoch] {
        &self.past
    }

    /// Returns the id of the publication with this number.
    #[must_use]
    pub fn id(&self, sequence: Sequence) -> Cursor {
        let past = self.past.iter().find(|past| sequence <= past.until);
        let epoch = past.map_or(self.current, |past| past.epoch);
        Cursor { epoch, sequence }
    }

    /// Forgets the oldest epoch if no further epoch could be added. Its publications get ids of the
    /// next epoch.
    #[must_use]
    pub(super) fn with_room(mut self) -> Self {
        let surplus = (self.past.len() + 1).saturating_sub(PREVIOUS_EPOCHS_MAX);
        self.past.drain(..surplus);
        self
    }

    /// Begins a new epoch. The publications up to `until` keep their ids, and no later publication
    /// exists. If there are too many earlier epochs, the oldest is forgotten, as with
    /// [`Epochs::with_room`].
    #[must_use]
    pub(super) fn followed_by(&self, next: Epoch, until: Sequence) -> Self {
        // The journal may have lost the last publications of an earlier epoch.
        let Self { current, mut past } = self.clone().with_room();
        for past in &mut past {
            past.until = past.until.min(until);
        }
        // An epoch without publications is kept, too, because clients may have its position.
        past.push(PastEpoch {
            epoch: current,
            until,
        });
        Self {
            current: next,
            past,
        }
    }

    /// Appends the encoding: the current epoch, and the earlier epochs with their ends.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.current.bits().to_le_bytes());
        for past in &self.past {
            out.extend_from_slice(&past.epoch.bits().to_le_bytes());
            out.extend_from_slice(&past.until.0.to_le_bytes());
        }
    }

    /// Decodes the epochs from all of `bytes`. Returns `None` if the bytes are invalid.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (current, past) = bytes.split_first_chunk()?;
        let (past, rest) = past.as_chunks::<PAST_BYTES>();
        let past = past.iter().map(|bytes| {
            let (epoch, until) = bytes.split_first_chunk()?;
            Some(PastEpoch {
                epoch: Epoch::new(u64::from_le_bytes(*epoch)),
                until: Sequence(u64::from_le_bytes(until.try_into().ok()?)),
            })
        });
        let past: Vec<_> = past.collect::<Option<_>>()?;
        let is_valid = rest.is_empty()
            && past.len() <= PREVIOUS_EPOCHS_MAX
            && past.is_sorted_by_key(|past| past.until);
        is_valid.then(|| Self {
            current: Epoch::new(u64::from_le_bytes(*current)),
            past,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(epoch: u64, number: u64) -> Cursor {
        Cursor {
            epoch: Epoch::new(epoch),
            sequence: Sequence(number),
        }
    }

    #[test]
    fn publications_keep_their_ids_when_an_epoch_begins() {
        let first = Epochs::new(Epoch::new(1));
        assert_eq!(first.id(Sequence(9)), id(1, 9));
        let second = first.followed_by(Epoch::new(2), Sequence(9));
        let third = second.followed_by(Epoch::new(3), Sequence(12));
        for (number, epoch) in [(1, 1), (9, 1), (10, 2), (12, 2), (13, 3)] {
            assert_eq!(third.id(Sequence(number)), id(epoch, number));
        }
    }

    #[test]
    fn epoch_without_a_publication_is_kept_and_names_none() {
        let first = Epochs::new(Epoch::new(1)).followed_by(Epoch::new(2), Sequence(9));
        let again = first.followed_by(Epoch::new(3), Sequence(9));
        assert_eq!(again.past().len(), 2);
        assert_eq!(again.id(Sequence(9)), id(1, 9));
        assert_eq!(again.id(Sequence(10)), id(3, 10));
    }

    #[test]
    fn earlier_epochs_end_where_the_journal_ends() {
        let first = Epochs::new(Epoch::new(1)).followed_by(Epoch::new(2), Sequence(9));
        let shorter = first.followed_by(Epoch::new(3), Sequence(5));
        let ends = shorter.past().iter().map(|past| past.until.0);
        assert!(ends.eq([5, 5]));
        assert_eq!(shorter.id(Sequence(5)), id(1, 5));
        assert_eq!(shorter.id(Sequence(6)), id(3, 6));
    }

    #[test]
    fn epochs_survive_encoding_and_other_bytes_are_refused() {
        let mut epochs = Epochs::new(Epoch::new(1));
        let count = PREVIOUS_EPOCHS_MAX as u64 + 3;
        for number in 1..=count {
            let mut bytes = Vec::new();
            epochs.encode(&mut bytes);
            assert_eq!(Epochs::decode(&bytes).as_ref(), Some(&epochs));
            assert_eq!(Epochs::decode(&bytes[..bytes.len() - 1]), None);
            epochs = epochs.followed_by(Epoch::new(number + 1), Sequence(number * 10));
        }
        assert_eq!(epochs.past().len(), PREVIOUS_EPOCHS_MAX);
        // The oldest epochs are forgotten: their publications belong to the next one.
        assert_eq!(epochs.id(Sequence(1)), id(4, 1));
        let mut bytes = Vec::new();
        epochs.encode(&mut bytes);
        bytes.extend_from_slice(&[0; PAST_BYTES]);
        assert_eq!(Epochs::decode(&bytes), None);
    }
}
