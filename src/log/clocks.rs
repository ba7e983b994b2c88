//! The clocks, which find the entries that become too old by the rules of their channels.
//!
//! There is a clock for each age limit that is shorter than the log's age limit. It searches the
//! entries in order for the next one that becomes too old, and passes over each entry once. Each
//! entry has the number of its clock. After a change of the rules, all entries get the clocks of
//! their channels' new rules, and the clocks start again.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{ChannelKey, Writer};
use crate::certain;
use crate::id::Sequence;
use crate::time::Deadline;

/// The number of a clock. Zero means that an entry has the age limit of the log, which has no
/// clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ClockNumber(u16);

/// All clocks. The index of a clock is its number minus one. A place is `None` if no entry has its
/// number.
#[derive(Debug, Default)]
pub(super) struct Clocks(Vec<Option<Clock>>);

/// The search for the oldest entry that has a certain age limit.
#[derive(Clone, Debug)]
struct Clock {
    age: Duration,
    /// The number at which the search continues. Earlier entries have another age limit or have
    /// been removed.
    next: Sequence,
    /// The time at which the oldest entry with this age limit becomes too old. `None` if no such
    /// entry has been found.
    due: Option<Deadline>,
}

impl Clocks {
    /// Creates clocks for age limits.
    pub(super) fn new(ages: &BTreeSet<Duration>) -> Self {
        let mut clocks = Self::default();
        clocks.add(ages);
        clocks
    }

    /// Adds clocks for the age limits that have none.
    pub(super) fn add(&mut self, ages: &BTreeSet<Duration>) {
        for age in ages {
            if self.number_of(*age) != ClockNumber::default() {
                continue;
            }
            let clock = Some(Clock {
                age: *age,
                next: Sequence::ZERO,
                due: None,
            });
            match self.0.iter_mut().find(|place| place.is_none()) {
                Some(place) => *place = clock,
                None => self.0.push(clock),
            }
        }
    }

    /// Removes the clocks of all other age limits, and makes the remaining clocks search all
    /// entries again.
    pub(super) fn restart(&mut self, ages: &BTreeSet<Duration>) {
        for place in &mut self.0 {
            place.take_if(|clock| !ages.contains(&clock.age));
            if let Some(clock) = place {
                (clock.next, clock.due) = (Sequence::ZERO, None);
            }
        }
    }

    /// Returns the number of the clock for an age limit.
    pub(super) fn number_of(&self, age: Duration) -> ClockNumber {
        let is_it = |place: &Option<Clock>| place.as_ref().is_some_and(|clock| clock.age == age);
        let found = self.0.iter().position(is_it);
        ClockNumber(found.map_or(0, |index| certain::to_u16(index + 1)))
    }

    /// Returns the numbers of all clocks.
    pub(super) fn numbers(&self) -> impl Iterator<Item = ClockNumber> + use<> {
        (1..=certain::to_u16(self.0.len())).map(ClockNumber)
    }

    /// Returns the times at which entries become too old.
    pub(super) fn due(&self) -> impl Iterator<Item = Deadline> {
        self.0.iter().flatten().filter_map(|clock| clock.due)
    }

    /// Makes the clocks search again among the entries after `kept`, which begin with the number
    /// `begin`.
    pub(super) fn rewind(&mut self, kept: Sequence, begin: Sequence) {
        for clock in self.0.iter_mut().flatten() {
            if clock.next > kept {
                (clock.next, clock.due) = (clock.next.min(begin), None);
            }
        }
    }

    fn get_mut(&mut self, ClockNumber(number): ClockNumber) -> Option<&mut Clock> {
        let place = self.0.get_mut(usize::from(number).checked_sub(1)?);
        place.and_then(Option::as_mut)
    }
}

impl Writer {
    /// Returns the number of the clock for entries with an age limit.
    pub(super) fn clock_for(&self, age: Duration) -> ClockNumber {
        match age < self.bounds.age() {
            true => self.clocks.number_of(age),
            false => ClockNumber::default(),
        }
    }

    /// Finds the oldest entry that has the age limit of a clock. It is the oldest entry of its
    /// channel, unless the channel had another rule before. Returns the time at which the entry
    /// becomes too old, and its channel.
    pub(super) fn next_expiry(&mut self, number: ClockNumber) -> Option<(Deadline, ChannelKey)> {
        let clock = self.clocks.get_mut(number)?;
        let (mut next, age) = (clock.next, clock.age);
        let mut found = None;
        while let Some(entry) = self.oldest_from(next) {
            next = entry.sequence;
            if entry.clock == number {
                found = Some((entry.published.after(age), entry.channel));
                break;
            }
            next = next.next();
        }
        if found.is_none() {
            next = self.head.next();
        }
        if let Some(clock) = certain::some(self.clocks.get_mut(number), "the clock exists") {
            clock.next = next;
            clock.due = found.map(|(due, _)| due);
        }
        found
    }
}
