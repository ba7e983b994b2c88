//! census: how many channels there are on the node, each counted once.
//!
//! Every worker has its own entry of a channel, so the sum over workers counts a channel several
//! times. Hubs report each channel that they add and drop. With several workers a table holds, for
//! the hash of each name, how many workers have the channel: 16 bytes for each channel, in maps
//! that double as they grow. With one worker there is only a number. Two names with one hash count
//! as one channel.

use std::hash::BuildHasher as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use foldhash::quality::RandomState;
use hashbrown::HashMap;

use crate::hub::ChannelCensus;
use crate::id::ChannelName;

/// Maps with a lock each, so that workers rarely wait for one another.
const MAPS: usize = 64;

type WorkersByHash = HashMap<u64, u32, RandomState>;

/// The count. The default is for one worker.
#[derive(Debug, Default)]
pub struct Census {
    count: AtomicU64,
    hashes: RandomState,
    /// How many workers have a channel, by the hash of its name. Empty with one worker.
    maps: Box<[Mutex<WorkersByHash>]>,
}

impl Census {
    /// A count for so many workers.
    #[must_use]
    pub fn new(workers: usize) -> Self {
        let maps = if workers > 1 { MAPS } else { 0 };
        Self {
            maps: (0..maps).map(|_| Mutex::default()).collect(),
            ..Self::default()
        }
    }

    /// Channels that any worker has.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    fn map_of(&self, name: &ChannelName) -> Option<(u64, MutexGuard<'_, WorkersByHash>)> {
        let hash = self.hashes.hash_one(name);
        let index = usize::try_from(hash >> 32).unwrap_or_default() % MAPS;
        let map = self.maps.get(index)?;
        Some((hash, map.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

impl ChannelCensus for Census {
    fn add(&self, name: &ChannelName) {
        if let Some((hash, mut map)) = self.map_of(name) {
            let workers = map.entry(hash).or_insert(0);
            *workers += 1;
            if *workers > 1 {
                return;
            }
        }
        self.count.fetch_add(1, Ordering::Relaxed);
    }

    fn remove(&self, name: &ChannelName) {
        if let Some((hash, mut map)) = self.map_of(name) {
            if let Some(workers) = map.get_mut(&hash).filter(|workers| **workers > 1) {
                *workers -= 1;
                return;
            }
            map.remove(&hash);
            if map.len() < map.capacity() / 4 {
                map.shrink_to_fit();
            }
        }
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channel_counts_once_until_the_last_worker_drops_it() {
        let names: Vec<_> = (0..1000)
            .map(|number| ChannelName::new(&format!("c{number}")).unwrap())
            .collect();
        for workers in [1, 3] {
            let census = Census::new(workers);
            for worker in 1..=workers {
                names.iter().for_each(|name| census.add(name));
                assert_eq!(census.count(), 1000, "{worker}");
            }
            for worker in (0..workers).rev() {
                names.iter().for_each(|name| census.remove(name));
                assert_eq!(census.count(), if worker > 0 { 1000 } else { 0 });
            }
        }
    }
}
