//! Tables that grow without moving their entries.
//!
//! A vector that doubles its capacity copies all entries. The copy takes long for a million conns
//! and leaves unused memory. These tables consist of chunks of a fixed size instead. Room in a
//! chunk that was never written to occupies no memory. An empty chunk is freed immediately.

use slab::Slab;

use crate::certain;

/// The default number of entries in a chunk.
const CHUNK: usize = 1024;

/// A vector that stores its entries in chunks.
#[derive(Debug)]
pub struct ChunkedVec<T> {
    /// All chunks except the last are full. No chunk is empty.
    chunks: Vec<Vec<T>>,
}

impl<T> Default for ChunkedVec<T> {
    fn default() -> Self {
        Self { chunks: Vec::new() }
    }
}

impl<T> ChunkedVec<T> {
    /// Returns the number of entries.
    #[must_use]
    pub fn len(&self) -> usize {
        let last = self.chunks.last().map_or(CHUNK, Vec::len);
        self.chunks.len() * CHUNK + last - CHUNK
    }

    /// Whether the table has no entries.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// Returns the entry at an index.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<&T> {
        self.chunks.get(index / CHUNK)?.get(index % CHUNK)
    }

    /// Returns a mutable reference to the entry at an index.
    pub fn get_mut(&mut self, index: usize) -> Option<&mut T> {
        self.chunks.get_mut(index / CHUNK)?.get_mut(index % CHUNK)
    }

    /// Appends entries until there are `len` entries. Does nothing if there are already that many.
    pub fn grow_to(&mut self, len: usize, mut fresh: impl FnMut() -> T) {
        while self.len() < len {
            if self.len().is_multiple_of(CHUNK) {
                self.chunks.push(Vec::with_capacity(CHUNK));
            }
            if let Some(last) = certain::some(self.chunks.last_mut(), "a chunk has room") {
                last.push(fresh());
            }
        }
    }

    /// Keeps only the first `len` entries.
    pub fn truncate(&mut self, len: usize) {
        self.chunks.truncate(len.div_ceil(CHUNK));
        if let Some(last) = self.chunks.get_mut(len / CHUNK) {
            last.truncate(len % CHUNK);
        }
        self.chunks.shrink_to_fit();
    }

    /// Returns all entries in order.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.chunks.iter().flatten()
    }
}

/// A slab that stores its entries in chunks of `N`. A new entry is added to the lowest chunk with
/// room, so that high chunks become empty.
#[derive(Debug)]
pub struct ChunkedSlab<T, const N: usize = CHUNK> {
    /// The chunks in the order of their keys. The last chunk is not empty.
    chunks: Vec<Slab<T>>,
    /// The index of the first chunk that is not full.
    first_with_room: usize,
    len: usize,
}

impl<T, const N: usize> Default for ChunkedSlab<T, N> {
    fn default() -> Self {
        Self {
            chunks: Vec::new(),
            first_with_room: 0,
            len: 0,
        }
    }
}

impl<T, const N: usize> ChunkedSlab<T, N> {
    /// Returns the number of entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the table has no entries.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns the highest key in use plus one; zero if the table is empty.
    #[must_use]
    pub fn end(&self) -> usize {
        self.iter().next_back().map_or(0, |(key, _)| key + 1)
    }

    /// Returns the entry with a key.
    #[must_use]
    pub fn get(&self, key: usize) -> Option<&T> {
        self.chunks.get(key / N)?.get(key % N)
    }

    /// Returns a mutable reference to the entry with a key.
    pub fn get_mut(&mut self, key: usize) -> Option<&mut T> {
        self.chunks.get_mut(key / N)?.get_mut(key % N)
    }

    /// Returns the key that the next entry will have.
    #[must_use]
    pub fn vacant_key(&self) -> usize {
        let chunk = self.chunks.get(self.first_with_room);
        self.first_with_room * N + chunk.map_or(0, Slab::vacant_key)
    }

    /// Adds an entry and returns its key.
    pub fn insert(&mut self, entry: T) -> usize {
        let at = self.first_with_room;
        if at == self.chunks.len() {
            self.chunks.push(Slab::new());
        }
        let Some(chunk) = self.chunks.get_mut(at) else {
            debug_assert!(false, "there is no chunk {at}");
            return usize::MAX;
        };
        // The chunk is allocated completely for its first entry and never grows.
        chunk.reserve_exact(N - chunk.len());
        let key = at * N + chunk.insert(entry);
        self.len += 1;
        let mut later = self.chunks.iter().skip(at);
        let full = later.position(|chunk| chunk.len() < N);
        self.first_with_room = full.map_or(self.chunks.len(), |skipped| at + skipped);
        key
    }

    /// Removes the entry with a key and returns it.
    pub fn remove(&mut self, key: usize) -> Option<T> {
        let at = key / N;
        let chunk = self.chunks.get_mut(at)?;
        let entry = chunk.try_remove(key % N)?;
        self.len -= 1;
        self.first_with_room = self.first_with_room.min(at);
        if chunk.is_empty() {
            *chunk = Slab::new();
            while self.chunks.pop_if(|last| last.is_empty()).is_some() {}
            self.first_with_room = self.first_with_room.min(self.chunks.len());
        }
        Some(entry)
    }

    /// Returns all entries with their keys, in the order of the keys.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (usize, &T)> {
        let chunks = self.chunks.iter().enumerate();
        chunks.flat_map(|(at, chunk)| chunk.iter().map(move |(key, entry)| (at * N + key, entry)))
    }

    /// Returns mutable references to all entries, in the order of their keys.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        let chunks = self.chunks.iter_mut();
        chunks.flat_map(|chunk| chunk.iter_mut().map(|(_, entry)| entry))
    }

    /// Frees unused memory of the list of chunks.
    pub fn shrink_to_fit(&mut self) {
        self.chunks.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn vector_grows_and_shrinks_over_chunks() {
        let mut table = ChunkedVec::default();
        for len in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK, CHUNK, 5, 0] {
            let mut next = table.len();
            table.truncate(len);
            table.grow_to(len, || {
                next += 1;
                next - 1
            });
            assert_eq!((table.len(), table.is_empty()), (len, len == 0));
            assert_eq!(table.chunks.len(), len.div_ceil(CHUNK));
            assert!(table.iter().copied().eq(0..len));
            assert_eq!(table.get(len), None);
            assert!(len == 0 || table.get_mut(len - 1) == Some(&mut (len - 1)));
        }
    }

    proptest! {
        #[test]
        fn slab_agrees_with_a_map(
            acts in proptest::collection::vec((0u8..4, any::<prop::sample::Index>()), 1..600)
        ) {
            let mut slab: ChunkedSlab<usize, 4> = ChunkedSlab::default();
            let mut map = BTreeMap::new();
            let mut has_grown = true;
            for (number, (act, index)) in acts.into_iter().enumerate() {
                // The slab grows first, then it shrinks.
                has_grown &= number < 300;
                match act {
                    0 => {
                        let lowest = (0..).find(|chunk| {
                            map.range(chunk * 4..chunk * 4 + 4).count() < 4
                        });
                        let key = slab.vacant_key();
                        prop_assert_eq!(Some(key / 4), lowest);
                        prop_assert_eq!(slab.insert(number), key);
                        prop_assert_eq!(map.insert(key, number), None);
                    }
                    1 if has_grown => {
                        let key = slab.insert(number);
                        prop_assert_eq!(map.insert(key, number), None);
                    }
                    _ if !map.is_empty() => {
                        let key = *index.get(&map.keys().copied().collect::<Vec<_>>());
                        prop_assert_eq!(slab.remove(key), map.remove(&key));
                        prop_assert_eq!(slab.remove(key), None);
                    }
                    _ => prop_assert_eq!(slab.remove(0), None),
                }
                prop_assert_eq!(slab.len(), map.len());
                prop_assert!(slab.iter().map(|(key, entry)| (key, *entry)).eq(map.clone()));
                let end = map.keys().next_back().map_or(0, |key| key + 1);
                prop_assert_eq!(slab.end(), end);
                prop_assert_eq!(slab.chunks.len(), end.div_ceil(4));
                for (key, entry) in &map {
                    prop_assert_eq!(slab.get(*key), Some(entry));
                    prop_assert_eq!(slab.get_mut(*key).copied(), Some(*entry));
                }
                for chunk in &slab.chunks {
                    prop_assert!(chunk.capacity() == 0 || chunk.capacity() == 4);
                    prop_assert_eq!(chunk.capacity() == 0, chunk.is_empty());
                }
            }
        }
    }
}
