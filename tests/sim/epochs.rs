//! Epochs of a life: which numbers stand for which publications, and what is void.
//!
//! Numbers of two epochs may be the same. So the model counts with *serials*, which grow over all
//! epochs: each publication has one, and so has the position where an epoch begins. An id of the
//! wire is translated once. A position of an epoch that stands for nothing of its own is where the
//! epoch begins.

use fanfare::id::{Cursor, Epoch, Sequence};
use fanfare::log::EpochChange;

/// The epochs, oldest first.
#[derive(Debug)]
pub(crate) struct Epochs(Vec<Stretch>);

/// One epoch.
#[derive(Debug)]
struct Stretch {
    epoch: Epoch,
    /// Its numbers go on after this one, whose position has the serial `start`.
    begin: u64,
    start: u64,
    /// Up to here it has the numbers of the one before.
    valid_until: Option<u64>,
    /// The serial of the last of them. What comes after that and before `start` is void.
    kept: Option<u64>,
}

impl Epochs {
    pub(crate) fn new(epoch: Epoch) -> Self {
        Self(vec![Stretch {
            epoch,
            begin: 0,
            start: 0,
            valid_until: None,
            kept: None,
        }])
    }

    /// Another epoch, which begins at a serial. Returns the last serial that stays.
    pub(crate) fn change(&mut self, change: &EpochChange, start: u64) -> Option<u64> {
        assert_eq!(change.from, self.newest().epoch);
        let kept = change.valid_until;
        let kept = kept.map(|valid| self.last_until(self.0.len() - 1, valid.0));
        self.0.push(Stretch {
            epoch: change.to,
            begin: change.head.0,
            start,
            valid_until: change.valid_until.map(|valid| valid.0),
            kept,
        });
        kept
    }

    /// The serial of the last that an epoch has up to a number.
    fn last_until(&self, index: usize, number: u64) -> u64 {
        let one = &self.0[index];
        match one.valid_until {
            _ if number >= one.begin || index == 0 => one.start + (number - one.begin),
            Some(valid) => self.last_until(index - 1, number.min(valid)),
            None => one.start,
        }
    }

    fn newest(&self) -> &Stretch {
        self.0.last().expect("an epoch")
    }

    /// How often the epoch changed.
    pub(crate) fn changes(&self) -> u64 {
        self.0.len() as u64 - 1
    }

    /// Whether it ever did.
    pub(crate) fn have_changed(&self) -> bool {
        self.changes() > 0
    }

    /// The serial of a position, if its epoch is known.
    pub(crate) fn position(&self, cursor: Cursor) -> Option<u64> {
        let index = self.0.iter().position(|one| one.epoch == cursor.epoch)?;
        Some(self.position_in(index, cursor.sequence.0))
    }

    fn position_in(&self, index: usize, number: u64) -> u64 {
        let one = &self.0[index];
        match one.valid_until {
            _ if number > one.begin || index == 0 => one.start.saturating_add(number - one.begin),
            Some(valid) if number < valid => self.position_in(index - 1, number),
            Some(_) | None => one.start,
        }
    }

    /// The serial of what the newest epoch has with a number.
    pub(crate) fn published(&self, number: u64) -> u64 {
        let mut all = self.0.iter().rev();
        let of = all.find(|one| number > one.begin);
        of.map_or(0, |one| one.start + (number - one.begin))
    }

    /// A position in the newest epoch.
    pub(crate) fn newest_at(&self, number: u64) -> Cursor {
        Cursor {
            epoch: self.newest().epoch,
            sequence: Sequence(number),
        }
    }

    /// A position as the epoch names it in which it was met.
    pub(crate) fn cursor(&self, serial: u64) -> Cursor {
        let mut all = self.0.iter().rev();
        let of = all.find(|one| one.start <= serial).expect("an epoch");
        Cursor {
            epoch: of.epoch,
            sequence: Sequence(of.begin.saturating_add(serial - of.start)),
        }
    }

    /// Where the epoch begins in which a position is void.
    pub(crate) fn restart(&self, serial: u64) -> Option<u64> {
        let mut later = self.0.iter().skip(1);
        let is_void =
            |one: &&Stretch| serial < one.start && one.kept.is_none_or(|kept| serial > kept);
        later.find(is_void).map(|one| one.start)
    }

    /// The last position that stands for the same: the last publication that stays is where the
    /// next epoch begins, and the one after that if nothing was published between.
    pub(crate) fn same_as(&self, serial: u64) -> u64 {
        let next = |serial, one: &Stretch| match one.kept == Some(serial) {
            true => one.start,
            false => serial,
        };
        self.0.iter().fold(serial, next)
    }

    /// The last that stays of what comes before an epoch, if one begins at a serial.
    pub(crate) fn last_before(&self, serial: u64) -> u64 {
        let before = |serial, one: &Stretch| match one.start == serial {
            true => one.kept.unwrap_or(serial),
            false => serial,
        };
        self.0.iter().rev().fold(serial, before)
    }

    /// Whether an epoch begins at a serial, so that no publication has it.
    pub(crate) fn is_beginning(&self, serial: u64) -> bool {
        self.0.iter().any(|one| one.start == serial)
    }

    /// Whether an epoch began after a serial.
    pub(crate) fn is_later(&self, epoch: Epoch, serial: u64) -> bool {
        let mut all = self.0.iter();
        all.any(|one| one.epoch == epoch && one.start > serial)
    }

    /// Whether any epoch began after a serial.
    pub(crate) fn has_one_after(&self, serial: u64) -> bool {
        self.newest().start > serial
    }
}
