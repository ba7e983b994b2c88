//! The journal's metadata: the epoch, the highest sequence number that may be assigned, and whether
//! the last run ended cleanly.
//!
//! This module performs no I/O. The store contains the state, which is replaced when the server
//! starts, at a clean stop, and every few billion publications. The mark is the highest sequence
//! number known to be assigned. It is in a file outside the store and is replaced with every batch.
//! At the end of its log, the store may mistake damage for an incomplete write and truncate
//! records. The mark then reveals the missing records. `recover` calls
//! [`State::may_have_lost`] to check whether numbers after the last record may have been assigned.

use crate::config::JournalSync;
use crate::id::{Epoch, Sequence};

/// The length of the kernel's boot id, in bytes.
const BOOT_BYTES: usize = 36;
/// The version of the encoding of [`State`].
const FORMAT_VERSION: u8 = 1;

/// The kernel's boot id. While the boot id is the same, written data is intact even without a sync.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BootId([u8; BOOT_BYTES]);

impl BootId {
    /// Converts the kernel's text. Texts of other lengths are truncated or padded.
    #[must_use]
    pub fn new(text: &str) -> Self {
        let mut bytes = [0; BOOT_BYTES];
        for (place, byte) in bytes.iter_mut().zip(text.trim().bytes()) {
            *place = byte;
        }
        Self(bytes)
    }
}

/// The highest sequence number known to be assigned, and whether a sync has failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// The last assigned sequence number, or a slightly lower one.
    pub sequence: Sequence,
    /// Whether a sync has failed. In this case, a power failure may lose any record, whatever the
    /// value of `journal.sync`.
    pub has_unsynced: bool,
}

impl Mark {
    /// The length of the encoding in bytes.
    pub const BYTES: usize = 24;
    /// A constant that makes a file of zeros invalid.
    const SALT: u64 = 0x6d61_726b_6661_6e66;

    /// Encodes this [`Mark`] as the content of its file.
    #[must_use]
    pub fn encode(self) -> [u8; Self::BYTES] {
        let numbers = [self.sequence.0, u64::from(self.has_unsynced)];
        let mut out = [0; Self::BYTES];
        let check = Self::check(numbers);
        let bytes = [numbers[0], numbers[1], check].map(u64::to_le_bytes);
        for (place, byte) in out.iter_mut().zip(bytes.into_iter().flatten()) {
            *place = byte;
        }
        out
    }

    /// Decodes the content of the file with the [`Mark`]. Returns `None` if the bytes are invalid.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (sequence, rest) = bytes.split_first_chunk()?;
        let (unsynced, rest) = rest.split_first_chunk()?;
        let numbers = [u64::from_le_bytes(*sequence), u64::from_le_bytes(*unsynced)];
        let check: [u8; 8] = rest.try_into().ok()?;
        (u64::from_le_bytes(check) == Self::check(numbers)).then_some(Self {
            sequence: Sequence(numbers[0]),
            has_unsynced: numbers[1] != 0,
        })
    }

    fn check([sequence, unsynced]: [u64; 2]) -> u64 {
        !sequence ^ unsynced.rotate_left(32) ^ Self::SALT
    }
}

/// The journal's metadata in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// The epoch of all sequence numbers.
    pub epoch: Epoch,
    /// The highest sequence number that may have been assigned.
    pub ceiling: Sequence,
    /// The last assigned number if the last run ended cleanly, else `None`.
    pub clean: Option<Sequence>,
    /// The value of `journal.sync` in the last run.
    pub sync: JournalSync,
    /// The boot id of the last run.
    pub boot: BootId,
}

impl State {
    /// Whether numbers above `last` may have been assigned and lost. `last` is the last number in
    /// the store.
    #[must_use]
    pub fn may_have_lost(&self, last: Option<Sequence>, mark: Mark, boot: BootId) -> bool {
        let Some(last) = last else { return true };
        if last < mark.sequence {
            return true;
        }
        if let Some(clean) = self.clean {
            return last < clean;
        }
        // Without a reboot, no assigned number is lost: a batch is written before it is broadcast,
        // and a killed process does not lose written data.
        let is_unsure = self.sync != JournalSync::Always || mark.has_unsynced;
        is_unsure && self.boot != boot
    }

    /// Encodes the state for the store.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let sync = match self.sync {
            JournalSync::Always => 0,
            JournalSync::Batch => 1,
            JournalSync::Os => 2,
        };
        let mut out = vec![FORMAT_VERSION, sync, u8::from(self.clean.is_some())];
        out.extend_from_slice(&self.epoch.bits().to_le_bytes());
        out.extend_from_slice(&self.ceiling.0.to_le_bytes());
        out.extend_from_slice(&self.clean.unwrap_or_default().0.to_le_bytes());
        out.extend_from_slice(&self.boot.0);
        out
    }

    /// Decodes a state. Returns `None` if the bytes are invalid.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let ([form, sync, is_clean], rest) = bytes.split_first_chunk::<3>()?;
        let (epoch, rest) = rest.split_first_chunk::<8>()?;
        let (ceiling, rest) = rest.split_first_chunk::<8>()?;
        let (clean, boot) = rest.split_first_chunk::<8>()?;
        let sync = match sync {
            0 => JournalSync::Always,
            1 => JournalSync::Batch,
            2 => JournalSync::Os,
            _ => return None,
        };
        (*form == FORMAT_VERSION && *is_clean <= 1).then_some(())?;
        Some(Self {
            epoch: Epoch::new(u64::from_le_bytes(*epoch)),
            ceiling: Sequence(u64::from_le_bytes(*ceiling)),
            clean: (*is_clean != 0).then_some(Sequence(u64::from_le_bytes(*clean))),
            sync,
            boot: BootId(boot.try_into().ok()?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> State {
        State {
            epoch: Epoch::new(0xabc),
            ceiling: Sequence(1 << 40),
            clean: None,
            sync: JournalSync::Batch,
            boot: BootId::new("0123"),
        }
    }

    fn mark(sequence: u64) -> Mark {
        Mark {
            sequence: Sequence(sequence),
            has_unsynced: false,
        }
    }

    #[test]
    fn state_survives_encoding_and_truncated_bytes_are_refused() {
        let clean = State {
            clean: Some(Sequence(9)),
            ..state()
        };
        for one in [state(), clean] {
            let bytes = one.encode();
            assert_eq!(State::decode(&bytes), Some(one));
            for cut in 0..bytes.len() {
                assert_eq!(State::decode(&bytes[..cut]), None);
            }
            for (at, value) in [(0, 0), (0, 2), (1, 3), (2, 2)] {
                let mut other = bytes.clone();
                other[at] = value;
                assert_eq!(State::decode(&other), None, "{value} at {at}");
            }
        }
    }

    #[test]
    fn mark_survives_encoding_and_damaged_bytes_are_refused() {
        for one in [mark(0), mark(7), mark(u64::MAX)] {
            for has_unsynced in [false, true] {
                let one = Mark {
                    has_unsynced,
                    ..one
                };
                let bytes = one.encode();
                assert_eq!(Mark::decode(&bytes), Some(one));
                for bit in 0..bytes.len() * 8 {
                    let mut damaged = bytes;
                    damaged[bit / 8] ^= 1 << (bit % 8);
                    assert_eq!(Mark::decode(&damaged), None, "bit {bit}");
                }
                for cut in 0..bytes.len() {
                    assert_eq!(Mark::decode(&bytes[..cut]), None);
                }
            }
        }
        assert_eq!(Mark::decode(&[0; Mark::BYTES]), None);
    }

    #[test]
    fn numbers_may_be_lost_only_after_a_reboot_without_syncs() {
        let (same, other) = (BootId::new("0123"), BootId::new("4567"));
        let last = Some(Sequence(9));
        assert!(!state().may_have_lost(last, mark(9), same));
        assert!(state().may_have_lost(last, mark(9), other));
        assert!(state().may_have_lost(None, mark(0), same));
        let always = State {
            sync: JournalSync::Always,
            ..state()
        };
        assert!(!always.may_have_lost(last, mark(9), other));
        let unsynced = Mark {
            has_unsynced: true,
            ..mark(9)
        };
        assert!(always.may_have_lost(last, unsynced, other));
        assert!(!always.may_have_lost(last, unsynced, same));
        let clean = State {
            clean: last,
            ..state()
        };
        assert!(!clean.may_have_lost(last, mark(9), other));
        assert!(clean.may_have_lost(Some(Sequence(8)), mark(0), other));
    }

    #[test]
    fn mark_above_the_last_record_shows_that_records_are_lost() {
        let last = Some(Sequence(9));
        for sync in [JournalSync::Always, JournalSync::Batch, JournalSync::Os] {
            let state = State { sync, ..state() };
            assert!(state.may_have_lost(last, mark(10), state.boot));
            assert!(!state.may_have_lost(last, mark(8), state.boot));
        }
    }
}
