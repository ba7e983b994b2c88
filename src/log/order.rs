//! All entries of the log in the order of their numbers, across all channels.
//!
//! Entries are added at the end and removed anywhere. They are stored in chunks. A removed entry
//! leaves a *dead* slot, which no longer counts as an entry. A chunk is compacted when more than
//! half of its slots are dead, and merged with the previous chunk if both are small. So the size of
//! the list depends on the number of entries, not on the holes between their numbers. The list
//! stores numbers, times, keys and clocks, but no publications.

use std::collections::VecDeque;

use super::ChannelKey;
use super::clocks::ClockNumber;
use crate::id::Sequence;
use crate::time::Now;

/// The maximum number of entries in one chunk.
const CHUNK_ENTRIES: usize = 512;

/// An entry, as stored in the order list.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ordered {
    pub(super) sequence: Sequence,
    /// The time of publication.
    pub(super) published: Now,
    /// The entry's channel.
    pub(super) channel: ChannelKey,
    /// The clock that finds when the entry becomes too old.
    pub(super) clock: ClockNumber,
    is_dead: bool,
}

const _: () = assert!(size_of::<Ordered>() <= 24);

impl Ordered {
    pub(super) fn new(
        sequence: Sequence,
        published: Now,
        channel: ChannelKey,
        clock: ClockNumber,
    ) -> Self {
        Self {
            sequence,
            published,
            channel,
            clock,
            is_dead: false,
        }
    }
}

/// The list of all entries in the order of their numbers.
#[derive(Debug, Default)]
pub(super) struct Order {
    /// Each chunk has at least one entry that is not removed. The first slot of the first chunk
    /// contains such an entry.
    chunks: VecDeque<Chunk>,
    len: u64,
    /// The number of slots in all chunks, including the slots of removed entries.
    places: u64,
}

#[derive(Debug)]
struct Chunk {
    /// The sequence number of the first slot. Stored here so that a search reads no slots of other
    /// chunks.
    first: Sequence,
    /// The sequence number of the last slot, or a larger number if slots at the end were dropped.
    last: Sequence,
    places: VecDeque<Ordered>,
    dead: usize,
}

impl Chunk {
    fn live(&self) -> usize {
        self.places.len() - self.dead
    }

    /// Returns the index of the first slot whose sequence number is at least `sequence`.
    fn index_from(&self, sequence: Sequence) -> usize {
        let is_before = |index| {
            let place: Option<&Ordered> = self.places.get(index);
            place.is_some_and(|place| place.sequence < sequence)
        };
        let guess = interpolate(self.first, self.last, self.places.len(), sequence);
        partition_point_near(guess, self.places.len(), is_before)
    }

    fn get_mut(&mut self, sequence: Sequence) -> Option<&mut Ordered> {
        let place = self.places.get_mut(self.index_from(sequence));
        place.filter(|place| place.sequence == sequence && !place.is_dead)
    }

    /// Drops the slots of removed entries at the front of the chunk. Returns the number of dropped
    /// slots.
    fn drop_dead_in_front(&mut self) -> u64 {
        let before = self.dead;
        while self.places.pop_front_if(|place| place.is_dead).is_some() {
            self.dead -= 1;
        }
        self.note_first();
        (before - self.dead) as u64
    }

    fn note_first(&mut self) {
        if let Some(first) = self.places.front() {
            self.first = first.sequence;
        }
    }

    /// Drops all slots of removed entries. Returns the number of dropped slots.
    fn pack(&mut self) -> u64 {
        if self.dead > 0 {
            self.places.retain(|place| !place.is_dead);
            self.places.shrink_to_fit();
            self.note_first();
        }
        std::mem::take(&mut self.dead) as u64
    }
}

impl Order {
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Returns the number of bytes of memory held.
    pub(super) fn bytes(&self) -> u64 {
        self.places * size_of::<Ordered>() as u64 + (self.chunks.len() * size_of::<Chunk>()) as u64
    }

    /// Returns the oldest entry.
    pub(super) fn oldest(&self) -> Option<Ordered> {
        self.chunks.front()?.places.front().copied()
    }

    /// Returns the oldest entry from this number on.
    pub(super) fn oldest_from(&self, sequence: Sequence) -> Option<Ordered> {
        let chunk = self.chunk_of(sequence);
        let mut chunks = self.chunks.range(chunk..);
        let here = chunks.next()?;
        let mut rest = here.places.range(here.index_from(sequence)..);
        let found = rest.find(|place| !place.is_dead);
        let found = found.or_else(|| chunks.next()?.places.iter().find(|place| !place.is_dead));
        found.copied()
    }

    /// Adds an entry whose number is larger than all others.
    pub(super) fn push(&mut self, entry: Ordered) {
        self.len += 1;
        self.places += 1;
        if let Some(last) = self.chunks.back_mut()
            && last.places.len() < CHUNK_ENTRIES
        {
            last.last = entry.sequence;
            return last.places.push_back(entry);
        }
        self.chunks.push_back(Chunk {
            first: entry.sequence,
            last: entry.sequence,
            places: VecDeque::from([entry]),
            dead: 0,
        });
    }

    /// Changes the clock of an entry. Returns false if no entry has this number.
    pub(super) fn set_clock(&mut self, sequence: Sequence, clock: ClockNumber) -> bool {
        let chunk = self.chunks.get_mut(self.chunk_of(sequence));
        let place = chunk.and_then(|chunk| chunk.get_mut(sequence));
        place.is_some_and(|place| {
            place.clock = clock;
            true
        })
    }

    /// Removes an entry. Returns false if no entry has this number.
    pub(super) fn remove(&mut self, sequence: Sequence) -> bool {
        let index = self.chunk_of(sequence);
        let Some(chunk) = self.chunks.get_mut(index) else {
            return false;
        };
        let Some(place) = chunk.get_mut(sequence) else {
            return false;
        };
        place.is_dead = true;
        chunk.dead += 1;
        self.len -= 1;
        self.tidy(index);
        true
    }

    /// Drops the slots of removed entries at the end of the list. After that, the next entry may
    /// have any number above the newest remaining entry.
    pub(super) fn drop_dead_at_end(&mut self) {
        while let Some(last) = self.chunks.back_mut()
            && last.places.pop_back_if(|place| place.is_dead).is_some()
        {
            last.dead -= 1;
            self.places -= 1;
        }
    }

    pub(super) fn shrink_to_fit(&mut self) {
        self.chunks.shrink_to_fit();
    }

    /// Returns the index of the chunk that contains a number, or that would contain it.
    fn chunk_of(&self, sequence: Sequence) -> usize {
        let begins_before = |index| {
            let chunk = self.chunks.get(index);
            chunk.is_some_and(|chunk| chunk.first <= sequence)
        };
        let (Some(front), Some(back)) = (self.chunks.front(), self.chunks.back()) else {
            return 0;
        };
        let guess = interpolate(front.first, back.first, self.chunks.len(), sequence);
        partition_point_near(guess, self.chunks.len(), begins_before).saturating_sub(1)
    }

    /// Frees memory that a chunk does not need.
    fn tidy(&mut self, index: usize) {
        let Some(chunk) = self.chunks.get_mut(index) else {
            return debug_assert!(false, "there is no chunk {index}");
        };
        if chunk.live() == 0 {
            self.places -= chunk.places.len() as u64;
            self.chunks.remove(index);
        } else if chunk.dead * 2 > chunk.places.len() {
            self.places -= chunk.pack();
            self.join_with_the_one_before(index);
        }
        // The first slot of the list must not be the slot of a removed entry.
        if index == 0
            && let Some(front) = self.chunks.front_mut()
        {
            self.places -= front.drop_dead_in_front();
        }
    }

    fn join_with_the_one_before(&mut self, index: usize) {
        let Some(before) = index.checked_sub(1) else {
            return;
        };
        debug_assert!(index < self.chunks.len(), "there is no chunk {index}");
        let live = |index: usize| self.chunks.get(index).map_or(0, Chunk::live);
        if live(before) + live(index) > CHUNK_ENTRIES / 2 {
            return;
        }
        if let Some(mut chunk) = self.chunks.remove(index)
            && let Some(before) = self.chunks.get_mut(before)
        {
            self.places -= before.pack();
            before.places.append(&mut chunk.places);
            before.last = chunk.last;
        }
    }
}

/// Returns the index that a number would have if `len` numbers were spread evenly from `first` to
/// `last`.
fn interpolate(first: Sequence, last: Sequence, len: usize, number: Sequence) -> usize {
    let offset = u128::from(number.0.saturating_sub(first.0));
    let span = u128::from(last.0.saturating_sub(first.0).max(1));
    let most = len.saturating_sub(1);
    let index = offset * most as u128 / span;
    usize::try_from(index).map_or(most, |index| index.min(most))
}

/// Returns the first index for which `is_before` is false. The search starts at the index `guess`
/// and moves outwards. If `guess` is close to the result, the search reads one cache line. A binary
/// search would read another cache line in each of its first steps.
fn partition_point_near(guess: usize, len: usize, is_before: impl Fn(usize) -> bool) -> usize {
    let guess = guess.min(len);
    let (mut low, mut high, mut step) = (guess, guess, 1);
    while high < len && is_before(high) {
        low = high + 1;
        high = (high + step).min(len);
        step *= 2;
    }
    while low > 0 && !is_before(low - 1) {
        high = low - 1;
        low = low.saturating_sub(step);
        step *= 2;
    }
    while low < high {
        let middle = low.midpoint(high);
        match is_before(middle) {
            true => low = middle + 1,
            false => high = middle,
        }
    }
    low
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(sequence: u64) -> Ordered {
        let (channel, clock) = (ChannelKey(0), ClockNumber::default());
        Ordered::new(Sequence(sequence), Now(0), channel, clock)
    }

    fn number(entry: Option<Ordered>) -> Option<u64> {
        entry.map(|entry| entry.sequence.0)
    }

    fn places(order: &Order) -> usize {
        order.chunks.iter().map(|chunk| chunk.places.len()).sum()
    }

    #[test]
    fn list_has_the_size_of_what_is_left_in_it() {
        let mut order = Order::default();
        for sequence in 1..=100_000 {
            order.push(entry(sequence));
        }
        for sequence in (1..=100_000).filter(|sequence| sequence % 1000 != 0) {
            assert!(order.remove(Sequence(sequence)));
            assert!(!order.remove(Sequence(sequence)));
        }
        assert_eq!((order.len(), number(order.oldest())), (100, Some(1000)));
        assert!(places(&order) <= 200, "{}", places(&order));
        assert!(order.chunks.len() <= 4, "{}", order.chunks.len());
        assert_eq!(number(order.oldest_from(Sequence(1001))), Some(2000));
        assert_eq!(number(order.oldest_from(Sequence(100_001))), None);
    }

    proptest! {
        #[test]
        fn search_near_a_guess_finds_what_a_binary_search_finds(
            numbers in proptest::collection::btree_set(0u64..500, 1..80),
            number in 0u64..600,
            guess in 0usize..100,
        ) {
            let numbers: Vec<u64> = numbers.into_iter().collect();
            let is_before = |index: usize| numbers[index] < number;
            let expected = numbers.partition_point(|known| *known < number);
            prop_assert_eq!(partition_point_near(guess, numbers.len(), is_before), expected);
            let (first, last) = (numbers[0], numbers[numbers.len() - 1]);
            let guess = interpolate(Sequence(first), Sequence(last), numbers.len(), Sequence(number));
            prop_assert!(guess < numbers.len());
        }

        #[test]
        fn order_agrees_with_a_list(
            acts in proptest::collection::vec((0u8..7, any::<prop::sample::Index>()), 1..3000)
        ) {
            let mut order = Order::default();
            let mut list: Vec<u64> = Vec::new();
            let mut next = 1;
            for (act, index) in acts {
                match act {
                    0..=2 => {
                        order.push(entry(next));
                        list.push(next);
                        // The numbers of entries need not be consecutive.
                        next += 1 + index.index(3) as u64;
                    }
                    3 | 4 if !list.is_empty() => {
                        let at = index.index(list.len());
                        prop_assert!(order.remove(Sequence(list.remove(at))));
                    }
                    // The newest entries are removed, and their numbers are used again.
                    5 if !list.is_empty() => {
                        for number in list.split_off(index.index(list.len())) {
                            prop_assert!(order.remove(Sequence(number)));
                        }
                        order.drop_dead_at_end();
                        next = list.last().map_or(1, |last| last + 1);
                    }
                    _ if !list.is_empty() => prop_assert!(order.remove(Sequence(list.remove(0)))),
                    _ => prop_assert!(!order.remove(Sequence(next))),
                }
                prop_assert_eq!(order.len(), list.len() as u64);
                prop_assert_eq!(order.places, places(&order) as u64);
                for chunk in &order.chunks {
                    let first = chunk.places.front().map(|first| first.sequence);
                    prop_assert_eq!(first, Some(chunk.first));
                }
                prop_assert!(order.places <= 2 * order.len() + 1, "{} places", order.places);
                prop_assert_eq!(number(order.oldest()), list.first().copied());
                let at = index.index(next as usize + 5) as u64;
                let later = list.iter().find(|sequence| **sequence >= at);
                prop_assert_eq!(number(order.oldest_from(Sequence(at))), later.copied());
            }
        }
    }
}
