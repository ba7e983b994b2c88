//! What the journal has to know beyond its records: the epoch, how far numbers may have gone, and
//! how the last run ended.
//!
//! Pure. The state lies in the store and is replaced at start, at a clean stop and every few
//! thousand million publications. The mark lies in a file beside the store and is replaced with
//! every batch: a store that takes damage for a torn tail and cuts it off is found out by it.
//! Whoever opens the journal asks [`State::may_have_lost`] whether numbers behind the last record
//! may have been given out.

use crate::config::JournalSync;
use crate::id::{Epoch, Sequence};

/// Bytes of the system's name for the time since it was started.
const BOOT_BYTES: usize = 36;
/// Tells this form of the state from later ones.
const FORM: u8 = 1;

/// What the system calls the time since it was started. As long as that is the same, what was
/// written is there, synced or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Boot([u8; BOOT_BYTES]);

impl Boot {
    /// Takes the system's text; a text of another length than usual is cut or filled up.
    #[must_use]
    pub fn new(text: &str) -> Self {
        let mut bytes = [0; BOOT_BYTES];
        for (place, byte) in bytes.iter_mut().zip(text.trim().bytes()) {
            *place = byte;
        }
        Self(bytes)
    }
}

/// How far numbers were given out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// The last that was given out, or one a few before.
    pub sequence: Sequence,
    /// A sync has failed, so that nothing is sure to outlive a power cut whatever was asked for.
    pub is_doubtful: bool,
}

impl Mark {
    /// Its length in the file.
    pub const BYTES: usize = 24;
    /// No file of zeros is a mark.
    const SALT: u64 = 0x6d61_726b_6661_6e66;

    /// The file's content.
    #[must_use]
    pub fn encode(self) -> [u8; Self::BYTES] {
        let numbers = [self.sequence.0, u64::from(self.is_doubtful)];
        let mut out = [0; Self::BYTES];
        let check = Self::check(numbers);
        let bytes = [numbers[0], numbers[1], check].map(u64::to_le_bytes);
        for (place, byte) in out.iter_mut().zip(bytes.into_iter().flatten()) {
            *place = byte;
        }
        out
    }

    /// Reads it; `None` if it is something else.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (sequence, rest) = bytes.split_first_chunk()?;
        let (doubt, rest) = rest.split_first_chunk()?;
        let numbers = [u64::from_le_bytes(*sequence), u64::from_le_bytes(*doubt)];
        let check: [u8; 8] = rest.try_into().ok()?;
        (u64::from_le_bytes(check) == Self::check(numbers)).then_some(Self {
            sequence: Sequence(numbers[0]),
            is_doubtful: numbers[1] != 0,
        })
    }

    fn check([sequence, doubt]: [u64; 2]) -> u64 {
        !sequence ^ doubt.rotate_left(32) ^ Self::SALT
    }
}

/// What is known beyond the records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// The epoch of all numbers.
    pub epoch: Epoch,
    /// No number above this was given out.
    pub ceiling: Sequence,
    /// The last number, if the last run ended cleanly.
    pub clean: Option<Sequence>,
    /// How the last run synced.
    pub sync: JournalSync,
    /// When the last run was.
    pub boot: Boot,
}

impl State {
    /// Whether numbers above `last`, the last one in the store, may have been given out and lost.
    #[must_use]
    pub fn may_have_lost(&self, last: Option<Sequence>, mark: Mark, boot: Boot) -> bool {
        let Some(last) = last else { return true };
        if last < mark.sequence {
            return true;
        }
        if let Some(clean) = self.clean {
            return last < clean;
        }
        // What was broadcast was written before, and what was written outlives the process.
        let is_unsure = self.sync != JournalSync::Always || mark.is_doubtful;
        is_unsure && self.boot != boot
    }

    /// As it lies in the store.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let sync = match self.sync {
            JournalSync::Always => 0,
            JournalSync::Batch => 1,
            JournalSync::Os => 2,
        };
        let mut out = vec![FORM, sync, u8::from(self.clean.is_some())];
        out.extend_from_slice(&self.epoch.bits().to_le_bytes());
        out.extend_from_slice(&self.ceiling.0.to_le_bytes());
        out.extend_from_slice(&self.clean.unwrap_or_default().0.to_le_bytes());
        out.extend_from_slice(&self.boot.0);
        out
    }

    /// Reads it; `None` if it is something else.
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
        (*form == FORM && *is_clean <= 1).then_some(())?;
        Some(Self {
            epoch: Epoch::new(u64::from_le_bytes(*epoch)),
            ceiling: Sequence(u64::from_le_bytes(*ceiling)),
            clean: (*is_clean != 0).then_some(Sequence(u64::from_le_bytes(*clean))),
            sync,
            boot: Boot(boot.try_into().ok()?),
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
            boot: Boot::new("0123"),
        }
    }

    fn mark(sequence: u64) -> Mark {
        Mark {
            sequence: Sequence(sequence),
            is_doubtful: false,
        }
    }

    #[test]
    fn state_comes_back_and_no_part_of_it_is_one() {
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
    fn mark_comes_back_and_no_other_bytes_are_one() {
        for one in [mark(0), mark(7), mark(u64::MAX)] {
            for is_doubtful in [false, true] {
                let one = Mark { is_doubtful, ..one };
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
    fn numbers_may_be_lost_only_with_the_machine_and_without_syncs() {
        let (same, other) = (Boot::new("0123"), Boot::new("4567"));
        let last = Some(Sequence(9));
        assert!(!state().may_have_lost(last, mark(9), same));
        assert!(state().may_have_lost(last, mark(9), other));
        assert!(state().may_have_lost(None, mark(0), same));
        let always = State {
            sync: JournalSync::Always,
            ..state()
        };
        assert!(!always.may_have_lost(last, mark(9), other));
        let doubtful = Mark {
            is_doubtful: true,
            ..mark(9)
        };
        assert!(always.may_have_lost(last, doubtful, other));
        assert!(!always.may_have_lost(last, doubtful, same));
        let clean = State {
            clean: last,
            ..state()
        };
        assert!(!clean.may_have_lost(last, mark(9), other));
        assert!(clean.may_have_lost(Some(Sequence(8)), mark(0), other));
    }

    #[test]
    fn mark_beyond_the_last_record_says_that_something_is_lost() {
        let last = Some(Sequence(9));
        for sync in [JournalSync::Always, JournalSync::Batch, JournalSync::Os] {
            let state = State { sync, ..state() };
            assert!(state.may_have_lost(last, mark(10), state.boot));
            assert!(!state.may_have_lost(last, mark(8), state.boot));
        }
    }
}
