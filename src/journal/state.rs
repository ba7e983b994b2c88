//! The journal's metadata: the epochs, the highest sequence number that may be assigned, whether
//! the last run ended cleanly, and where the journal lies.
//!
//! This module performs no I/O. The store contains the state, which is replaced when the server
//! starts, at a clean stop, and every few billion publications. The mark is the highest sequence
//! number known to be assigned. It is in a file outside the store and is replaced with every batch.
//! At the end of its log, the store may mistake damage for an incomplete write and truncate
//! records. The mark then reveals the missing records. `recover` calls
//! [`State::may_have_lost`] to check whether numbers after the last record may have been assigned.

use super::epochs::Epochs;
use crate::config::JournalSync;
use crate::id::{Epoch, Sequence};

/// The length of the kernel's boot id, in bytes.
const BOOT_BYTES: usize = 36;
/// The version of the encoding of [`State`].
pub const FORMAT_VERSION: u8 = 2;
/// The earlier version, which has one epoch and no place.
const FORMAT_WITHOUT_PLACE: u8 = 1;

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

/// Identifies the directory of a journal by the file with the mark, which is never replaced. The
/// file of a copy has another inode or another time of birth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The number of the inode. The number of the device is not included, because it may change at
    /// a reboot.
    pub inode: u64,
    /// The time at which the file was created, in nanoseconds since 1970. Zero if the file system
    /// does not store it.
    pub born_ns: u64,
}

/// The place for which a state was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Home {
    /// The journal's own directory.
    At(Place),
    /// A backup. Every start from it begins a new epoch.
    Backup,
    /// Unknown, because an earlier version wrote the state.
    Unknown,
}

impl Home {
    /// The length of the encoding in bytes.
    const BYTES: usize = 17;

    /// Whether the journal at this place is a copy of the journal for which the state was written.
    #[must_use]
    pub fn is_copy_at(self, here: Place) -> bool {
        match self {
            Self::At(place) => place != here,
            Self::Backup => true,
            Self::Unknown => false,
        }
    }

    fn encode(self) -> [u8; Self::BYTES] {
        let (kind, place) = match self {
            Self::Unknown => (0, [0; 2]),
            Self::Backup => (1, [0; 2]),
            Self::At(place) => (2, [place.inode, place.born_ns]),
        };
        let mut out = [0; Self::BYTES];
        let bytes = place.map(u64::to_le_bytes);
        let bytes = std::iter::once(kind).chain(bytes.into_iter().flatten());
        for (place, byte) in out.iter_mut().zip(bytes) {
            *place = byte;
        }
        out
    }

    fn decode([kind, rest @ ..]: [u8; Self::BYTES]) -> Option<Self> {
        let (inode, born_ns) = rest.split_first_chunk()?;
        match kind {
            0 => Some(Self::Unknown),
            1 => Some(Self::Backup),
            2 => Some(Self::At(Place {
                inode: u64::from_le_bytes(*inode),
                born_ns: u64::from_le_bytes(born_ns.try_into().ok()?),
            })),
            _ => None,
        }
    }
}

/// The journal's metadata in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// The epochs of all sequence numbers.
    pub epochs: Epochs,
    /// The highest sequence number that may have been assigned.
    pub ceiling: Sequence,
    /// The last assigned number if the last run ended cleanly, else `None`.
    pub clean: Option<Sequence>,
    /// The value of `journal.sync` in the last run.
    pub sync: JournalSync,
    /// The boot id of the last run.
    pub boot: BootId,
    /// The place of the journal.
    pub home: Home,
}

impl State {
    /// Whether numbers above `last` may have been assigned and lost. `last` is the last number in
    /// the store.
    #[must_use]
    pub fn may_have_lost(&self, last: Option<Sequence>, mark: Option<Mark>, boot: BootId) -> bool {
        let Some(last) = last else { return true };
        if mark.is_some_and(|mark| last < mark.sequence) {
            return true;
        }
        if let Some(clean) = self.clean {
            return last < clean;
        }
        // A running server always has a mark. Without it, other files may be missing, too.
        let Some(mark) = mark else { return true };
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
        out.extend_from_slice(&self.ceiling.0.to_le_bytes());
        out.extend_from_slice(&self.clean.unwrap_or_default().0.to_le_bytes());
        out.extend_from_slice(&self.boot.0);
        out.extend_from_slice(&self.home.encode());
        self.epochs.encode(&mut out);
        out
    }

    /// Decodes a state. Returns `None` if the bytes are invalid.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        match bytes.split_first()? {
            (&FORMAT_VERSION, rest) => {
                let (fields, rest) = Fields::decode(rest)?;
                let (home, epochs) = rest.split_first_chunk()?;
                Some(fields.with(Epochs::decode(epochs)?, Home::decode(*home)?))
            }
            (&FORMAT_WITHOUT_PLACE, rest) => {
                // This version has the epoch after the first two of the common fields.
                let (flags, rest) = rest.split_first_chunk::<2>()?;
                let (epoch, rest) = rest.split_first_chunk()?;
                let common = [flags, rest].concat();
                let (fields, []) = Fields::decode(&common)? else {
                    return None;
                };
                let epochs = Epochs::new(Epoch::new(u64::from_le_bytes(*epoch)));
                Some(fields.with(epochs, Home::Unknown))
            }
            _ => None,
        }
    }
}

/// The fields that both versions of the encoding have.
struct Fields {
    ceiling: Sequence,
    clean: Option<Sequence>,
    sync: JournalSync,
    boot: BootId,
}

impl Fields {
    /// Decodes the fields. Also returns the bytes after them.
    fn decode(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let ([sync, is_clean], rest) = bytes.split_first_chunk::<2>()?;
        let (ceiling, rest) = rest.split_first_chunk::<8>()?;
        let (clean, rest) = rest.split_first_chunk::<8>()?;
        let (boot, rest) = rest.split_first_chunk()?;
        let sync = match sync {
            0 => JournalSync::Always,
            1 => JournalSync::Batch,
            2 => JournalSync::Os,
            _ => return None,
        };
        (*is_clean <= 1).then_some(())?;
        let fields = Self {
            ceiling: Sequence(u64::from_le_bytes(*ceiling)),
            clean: (*is_clean != 0).then_some(Sequence(u64::from_le_bytes(*clean))),
            sync,
            boot: BootId(*boot),
        };
        Some((fields, rest))
    }

    fn with(self, epochs: Epochs, home: Home) -> State {
        State {
            epochs,
            ceiling: self.ceiling,
            clean: self.clean,
            sync: self.sync,
            boot: self.boot,
            home,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> State {
        State {
            epochs: Epochs::new(Epoch::new(0xabc)),
            ceiling: Sequence(1 << 40),
            clean: None,
            sync: JournalSync::Batch,
            boot: BootId::new("0123"),
            home: Home::At(Place {
                inode: 7,
                born_ns: u64::MAX,
            }),
        }
    }

    fn mark(sequence: u64) -> Option<Mark> {
        Some(Mark {
            sequence: Sequence(sequence),
            has_unsynced: false,
        })
    }

    #[test]
    fn state_survives_encoding_and_truncated_bytes_are_refused() {
        let clean = State {
            clean: Some(Sequence(9)),
            ..state()
        };
        let backup = State {
            home: Home::Backup,
            epochs: state().epochs.followed_by(Epoch::new(1), Sequence(9)),
            ..state()
        };
        for one in [state(), clean, backup] {
            let bytes = one.encode();
            assert_eq!(State::decode(&bytes), Some(one.clone()));
            for cut in 0..bytes.len() {
                // Without the last earlier epoch, the rest is a valid state.
                let found = State::decode(&bytes[..cut]);
                assert!(found.is_none() || bytes.len() - cut == 16, "{found:?}");
            }
            let home = bytes.len() - 8 - 16 * one.epochs.past().len() - Home::BYTES;
            for (at, value) in [(0, 0), (0, 1), (0, 3), (1, 3), (2, 2), (home, 3)] {
                let mut other = bytes.clone();
                other[at] = value;
                assert_eq!(State::decode(&other), None, "{value} at {at}");
            }
        }
    }

    #[test]
    fn state_of_the_earlier_version_has_one_epoch_and_an_unknown_place() {
        let mut bytes = vec![1, 1, 0];
        for number in [0xabc, 1_u64 << 40, 0] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.extend_from_slice(&state().boot.0);
        let expected = State {
            home: Home::Unknown,
            ..state()
        };
        assert_eq!(State::decode(&bytes), Some(expected));
        for cut in 0..bytes.len() {
            assert_eq!(State::decode(&bytes[..cut]), None);
        }
        bytes.push(0);
        assert_eq!(State::decode(&bytes), None);
    }

    #[test]
    fn journal_is_a_copy_if_it_lies_elsewhere() {
        let here = Place {
            inode: 7,
            born_ns: 1,
        };
        let reused = Place { born_ns: 2, ..here };
        assert!(!Home::At(here).is_copy_at(here) && Home::At(reused).is_copy_at(here));
        assert!(Home::Backup.is_copy_at(here) && !Home::Unknown.is_copy_at(here));
    }

    #[test]
    fn mark_survives_encoding_and_damaged_bytes_are_refused() {
        for one in [mark(0), mark(7), mark(u64::MAX)].into_iter().flatten() {
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
        let unsynced = mark(9).map(|mark| Mark {
            has_unsynced: true,
            ..mark
        });
        assert!(always.may_have_lost(last, unsynced, other));
        assert!(!always.may_have_lost(last, unsynced, same));
        let clean = State {
            clean: last,
            ..state()
        };
        assert!(!clean.may_have_lost(last, mark(9), other));
        assert!(clean.may_have_lost(Some(Sequence(8)), mark(0), other));
        assert!(!clean.may_have_lost(last, None, other));
        assert!(always.may_have_lost(last, None, same), "an incomplete copy");
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
