//! `listener_conns`: the numbers of open connections by listener.
//!
//! A listener is known by its address and protocols. Workers open and close their listeners at
//! different times, so an index in one worker may stand for another listener in another worker.
//! Therefore all workers ask [`ListenerConns`] for the number of a listener. A number is never
//! given to another listener, because connections outlive the listener that accepted them.

use std::sync::{PoisonError, RwLock};

use crate::certain;
use crate::config::Listen;
use crate::metrics::Counter;

/// The number of a listener that all workers use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenerNumber(u8);

impl ListenerNumber {
    /// The number of all listeners that are not counted separately, because reloads have added very
    /// many addresses.
    pub const OTHER: Self = Self(u8::MAX);
}

/// The number of listeners that are counted separately.
pub const KNOWN_MAX: usize = u8::MAX as usize;

/// The open connections of all workers, by listener.
#[derive(Debug)]
pub struct ListenerConns {
    /// The listeners by number.
    known: RwLock<Vec<Listen>>,
    /// For each worker, the counts by number. Only the worker writes them.
    by_worker: Vec<[Counter; KNOWN_MAX + 1]>,
}

impl ListenerConns {
    /// Creates the counts of a number of workers.
    #[must_use]
    pub fn new(workers: usize) -> Self {
        let none = || std::array::from_fn(|_| Counter::default());
        Self {
            known: RwLock::default(),
            by_worker: (0..workers).map(|_| none()).collect(),
        }
    }

    /// Returns the number of a listener. All workers get the same number.
    pub fn number(&self, listen: Listen) -> ListenerNumber {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let index = known.iter().position(|one| *one == listen);
        let index = index.unwrap_or_else(|| {
            if known.len() < KNOWN_MAX {
                known.push(listen);
                return known.len() - 1;
            }
            KNOWN_MAX
        });
        u8::try_from(index).map_or(ListenerNumber::OTHER, ListenerNumber)
    }

    /// Counts a connection that a worker has accepted from a listener.
    pub fn add(&self, worker: u16, number: ListenerNumber) {
        if let Some(count) = self.count(worker, number) {
            count.increment();
        }
    }

    /// Stops counting a connection, because it was freed.
    pub fn remove(&self, worker: u16, number: ListenerNumber) {
        if let Some(count) = self.count(worker, number) {
            count.decrement();
        }
    }

    fn count(&self, worker: u16, number: ListenerNumber) -> Option<&Counter> {
        let counts = self.by_worker.get(usize::from(worker));
        let count = counts.and_then(|counts| counts.get(usize::from(number.0)));
        certain::some(count, "each worker has counts for all numbers")
    }

    /// Returns the number of a worker's open connections of a listener.
    #[must_use]
    pub fn of(&self, worker: u16, number: ListenerNumber) -> u64 {
        self.count(worker, number).map_or(0, Counter::value)
    }

    /// Returns the number of a worker's open connections.
    #[must_use]
    pub fn total(&self, worker: u16) -> u64 {
        let counts = self.by_worker.get(usize::from(worker));
        counts.into_iter().flatten().map(Counter::value).sum()
    }

    /// Returns the listener with a number; `None` for [`ListenerNumber::OTHER`].
    #[must_use]
    pub fn listener(&self, number: ListenerNumber) -> Option<Listen> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.get(usize::from(number.0)).copied()
    }

    /// Returns each known listener with the open connections of all workers. `None` stands for
    /// further listeners and is last. It is absent while they have no connections.
    #[must_use]
    pub fn figures(&self) -> Vec<(Option<Listen>, u64)> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let conns = |index: usize| {
            let counts = self.by_worker.iter();
            let counts = counts.filter_map(|counts| counts.get(index));
            counts.map(Counter::value).sum()
        };
        let each = known.iter().enumerate();
        let mut figures: Vec<_> = each
            .map(|(index, listen)| (Some(*listen), conns(index)))
            .collect();
        let others = conns(KNOWN_MAX);
        if others > 0 {
            figures.push((None, others));
        }
        figures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listen(port: u16) -> Listen {
        Listen::plain(([127, 0, 0, 1], port).into())
    }

    #[test]
    fn listener_keeps_its_number_and_protocols_make_another_one() {
        let conns = ListenerConns::new(2);
        let first = conns.number(listen(1));
        let second = conns.number(Listen {
            is_tls: true,
            ..listen(1)
        });
        assert_ne!(first, second);
        assert_eq!(conns.number(listen(1)), first);
    }

    #[test]
    fn conns_of_all_workers_are_added() {
        let conns = ListenerConns::new(2);
        let (first, second) = (conns.number(listen(1)), conns.number(listen(2)));
        for (worker, number) in [(0, first), (1, first), (1, second)] {
            conns.add(worker, number);
        }
        let expected = [(Some(listen(1)), 2), (Some(listen(2)), 1)];
        assert_eq!(conns.figures(), expected);
        conns.remove(1, first);
        assert_eq!((conns.of(0, first), conns.of(1, first)), (1, 0));
    }

    #[test]
    fn listeners_beyond_the_bound_are_counted_together() {
        let conns = ListenerConns::new(1);
        let numbers: Vec<_> = (0..300).map(|port| conns.number(listen(port))).collect();
        for number in &numbers {
            conns.add(0, *number);
        }
        let figures = conns.figures();
        assert_eq!(figures.len(), KNOWN_MAX + 1);
        assert_eq!(figures.last(), Some(&(None, 300 - KNOWN_MAX as u64)));
        assert_eq!(conns.listener(numbers[299]), None);
        assert_eq!(conns.listener(numbers[7]), Some(listen(7)));
    }
}
