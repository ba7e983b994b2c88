//! The first items in an order, out of many.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

/// Keeps a limited number of items: those with the largest ranks. Among items of the same rank, it
/// keeps those that were offered first.
#[derive(Debug)]
pub struct Largest<R, T> {
    limit: usize,
    offered: u64,
    kept: BinaryHeap<Reverse<Ranked<R, T>>>,
}

#[derive(Debug)]
struct Ranked<R, T> {
    rank: (R, Reverse<u64>),
    item: T,
}

impl<R: Ord, T> Largest<R, T> {
    /// Creates an empty list for at most `limit` items.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            offered: 0,
            kept: BinaryHeap::new(),
        }
    }

    /// Adds an item if its rank is among the largest.
    pub fn offer(&mut self, rank: R, item: T) {
        if self.admits(|last| rank.cmp(last)) {
            self.keep(rank, item);
        }
    }

    /// Like [`Self::offer`], for a rank that is costly to make. `compare` compares the offered rank
    /// with a kept one. The item is made only if it is kept.
    pub fn offer_with(
        &mut self,
        compare: impl FnOnce(&R) -> Ordering,
        make: impl FnOnce() -> (R, T),
    ) {
        if self.admits(compare) {
            let (rank, item) = make();
            self.keep(rank, item);
        }
    }

    /// Whether an item is kept. At the limit, it must have a larger rank than the last kept item.
    fn admits(&mut self, compare: impl FnOnce(&R) -> Ordering) -> bool {
        self.offered += 1;
        let last = self.kept.peek();
        self.kept.len() < self.limit
            || last.is_some_and(|Reverse(last)| compare(&last.rank.0).is_gt())
    }

    fn keep(&mut self, rank: R, item: T) {
        if self.kept.len() >= self.limit {
            self.kept.pop();
        }
        let rank = (rank, Reverse(self.offered));
        self.kept.push(Reverse(Ranked { rank, item }));
    }

    /// Returns the number of items that were offered.
    #[must_use]
    pub fn offered(&self) -> u64 {
        self.offered
    }

    /// Returns the items, the largest rank first.
    #[must_use]
    pub fn into_sorted(self) -> Vec<(R, T)> {
        let sorted = self.kept.into_sorted_vec().into_iter();
        sorted
            .map(|Reverse(ranked)| (ranked.rank.0, ranked.item))
            .collect()
    }
}

impl<R: Ord, T> Ord for Ranked<R, T> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.rank.cmp(&other.rank)
    }
}

impl<R: Ord, T> PartialOrd for Ranked<R, T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<R: Ord, T> PartialEq for Ranked<R, T> {
    fn eq(&self, other: &Self) -> bool {
        self.rank == other.rank
    }
}

impl<R: Ord, T> Eq for Ranked<R, T> {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn largest_are_the_first_of_the_sorted_list(
            ranks in proptest::collection::vec(0..20_u8, 0..60),
            limit in 0..30_usize,
        ) {
            let (mut largest, mut lazy) = (Largest::new(limit), Largest::new(limit));
            let mut all: Vec<(u8, usize)> = Vec::new();
            for (index, rank) in ranks.into_iter().enumerate() {
                largest.offer(rank, index);
                lazy.offer_with(|last| rank.cmp(last), || (rank, index));
                all.push((rank, index));
            }
            prop_assert_eq!(largest.offered(), all.len() as u64);
            all.sort_by_key(|(rank, index)| (Reverse(*rank), *index));
            all.truncate(limit);
            prop_assert_eq!(&largest.into_sorted(), &all);
            prop_assert_eq!(lazy.into_sorted(), all);
        }
    }

    #[test]
    fn items_are_made_only_if_they_are_kept() {
        let mut largest = Largest::new(2);
        let mut made = Vec::new();
        for rank in [5, 7, 1, 6, 6] {
            largest.offer_with(
                |last| rank.cmp(last),
                || {
                    made.push(rank);
                    (rank, ())
                },
            );
        }
        assert_eq!(made, [5, 7, 6]);
        assert_eq!(largest.into_sorted(), [(7, ()), (6, ())]);
    }
}
