//! A model of the epochs of a run. It finds the publication that an id names, and knows which
//! publications an epoch change has discarded.
//!
//! An id has an epoch and a number. Two epochs may use the same numbers for different publications.
//! So the model gives each publication a *serial*, which increases over all epochs. The position
//! where an epoch begins has a serial too. The model translates each id from the wire into a
//! serial.
//!
//! At an epoch change, the numbers of the previous epoch up to a limit stay valid in the new epoch.
//! The new epoch's own numbers may begin above this limit. A number in between stands for the
//! position where the new epoch begins.

use fanfare::id::{Cursor, Epoch, Sequence};
use fanfare::log::EpochChange;

/// The epochs, oldest first.
#[derive(Debug)]
pub(crate) struct Epochs(Vec<EpochSpan>);

/// One epoch. The position where it begins has the number `begin` and the serial `start`. Its first
/// publication has the number `begin + 1`.
#[derive(Debug)]
struct EpochSpan {
    epoch: Epoch,
    begin: u64,
    start: u64,
    /// The last number of the previous epoch that stays valid, or `None` if none does.
    valid_until: Option<u64>,
    /// The serial of the last publication that stays valid. The epoch change discards the
    /// publications after it.
    kept: Option<u64>,
}

impl Epochs {
    pub(crate) fn new(epoch: Epoch) -> Self {
        Self(vec![EpochSpan {
            epoch,
            begin: 0,
            start: 0,
            valid_until: None,
            kept: None,
        }])
    }

    /// Adds an epoch that begins at the serial `start`. Returns the last serial that stays valid.
    pub(crate) fn change(&mut self, change: &EpochChange, start: u64) -> Option<u64> {
        assert_eq!(change.from, self.newest().epoch);
        let kept = change.valid_until;
        let kept = kept.map(|valid| self.last_until(self.0.len() - 1, valid.0));
        self.0.push(EpochSpan {
            epoch: change.to,
            begin: change.head.0,
            start,
            valid_until: change.valid_until.map(|valid| valid.0),
            kept,
        });
        kept
    }

    /// Returns the serial of an epoch's last publication whose number is at most `number`.
    fn last_until(&self, index: usize, number: u64) -> u64 {
        let one = &self.0[index];
        match one.valid_until {
            _ if number >= one.begin || index == 0 => one.start + (number - one.begin),
            Some(valid) => self.last_until(index - 1, number.min(valid)),
            None => one.start,
        }
    }

    fn newest(&self) -> &EpochSpan {
        self.0.last().expect("an epoch")
    }

    /// Returns the number of epoch changes so far.
    pub(crate) fn changes(&self) -> u64 {
        self.0.len() as u64 - 1
    }

    /// Whether the epoch changed in this run.
    pub(crate) fn have_changed(&self) -> bool {
        self.changes() > 0
    }

    /// Returns the serial of a position, or `None` if its epoch is unknown.
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

    /// Returns the serial of the publication with this number in the newest epoch.
    pub(crate) fn published(&self, number: u64) -> u64 {
        let mut all = self.0.iter().rev();
        let of = all.find(|one| number > one.begin);
        of.map_or(0, |one| one.start + (number - one.begin))
    }

    /// Returns a position in the newest epoch.
    pub(crate) fn newest_at(&self, number: u64) -> Cursor {
        Cursor {
            epoch: self.newest().epoch,
            sequence: Sequence(number),
        }
    }

    /// Returns the id of a serial, in the epoch in which it was published.
    pub(crate) fn cursor(&self, serial: u64) -> Cursor {
        let mut all = self.0.iter().rev();
        let of = all.find(|one| one.start <= serial).expect("an epoch");
        Cursor {
            epoch: of.epoch,
            sequence: Sequence(of.begin.saturating_add(serial - of.start)),
        }
    }

    /// If an epoch change has discarded the position `serial`, returns the first serial of the new
    /// epoch.
    pub(crate) fn restart(&self, serial: u64) -> Option<u64> {
        let mut later = self.0.iter().skip(1);
        let is_void =
            |one: &&EpochSpan| serial < one.start && one.kept.is_none_or(|kept| serial > kept);
        later.find(is_void).map(|one| one.start)
    }

    /// If `serial` is the last publication that an epoch change keeps, returns the serial of the
    /// new epoch's beginning, which is the same position. If several epochs begin there, returns
    /// the serial of the last beginning. Otherwise returns `serial`.
    pub(crate) fn same_as(&self, serial: u64) -> u64 {
        let next = |serial, one: &EpochSpan| match one.kept == Some(serial) {
            true => one.start,
            false => serial,
        };
        self.0.iter().fold(serial, next)
    }

    /// If an epoch begins at `serial`, returns the serial of the last earlier publication that this
    /// epoch keeps. Returns `serial` itself if the epoch keeps none, or if no epoch begins there.
    pub(crate) fn last_before(&self, serial: u64) -> u64 {
        let before = |serial, one: &EpochSpan| match one.start == serial {
            true => one.kept.unwrap_or(serial),
            false => serial,
        };
        self.0.iter().rev().fold(serial, before)
    }

    /// Whether this is the serial of a position where an epoch begins. No publication has such a
    /// serial.
    pub(crate) fn is_beginning(&self, serial: u64) -> bool {
        self.0.iter().any(|one| one.start == serial)
    }

    /// Whether this epoch began after a serial.
    pub(crate) fn is_later(&self, epoch: Epoch, serial: u64) -> bool {
        let mut all = self.0.iter();
        all.any(|one| one.epoch == epoch && one.start > serial)
    }

    /// Whether any epoch began after a serial.
    pub(crate) fn has_one_after(&self, serial: u64) -> bool {
        self.newest().start > serial
    }
}

#[test]
fn beginning_of_an_epoch_without_publications_stays_valid_with_what_the_epoch_keeps() {
    let [first, second, third] = [1, 2, 3].map(Epoch::new);
    let mut epochs = Epochs::new(first);
    let change = |from, to, head| EpochChange {
        from,
        to,
        head: Sequence(head),
        valid_until: Some(Sequence(5)),
    };
    // The second epoch discards publication 6, begins at this number, and has no publication.
    epochs.change(&change(first, second, 6), 7);
    let beginning = epochs.same_as(5);
    assert_eq!(beginning, 7);
    epochs.change(&change(second, third, 5), 8);
    assert_eq!(epochs.restart(beginning), Some(8));
    assert_eq!(epochs.restart(epochs.last_before(beginning)), None);
    assert_eq!(epochs.restart(6), Some(7));
}
