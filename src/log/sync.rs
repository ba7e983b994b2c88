//! The locks and atomics of the log: the standard library's, or loom's in the models' build.
//!
//! loom runs a model's threads on one system thread, in each order that it finds to differ. So
//! nothing in the models' build may depend on chance, and few shards keep the number of orders low.

#[cfg(not(all(test, feature = "model")))]
mod parts {
    pub(in super::super) use std::sync::atomic::AtomicU64;
    pub(in super::super) use std::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

    pub(in super::super) use foldhash::quality::RandomState as Hasher;

    /// Bits of a key that name the shard.
    pub(in super::super) const SHARD_BITS: u32 = 8;

    #[cfg(debug_assertions)]
    thread_local! {
        /// Locks that this thread holds.
        pub(in super::super) static LOCKS: std::cell::Cell<u32> = const { std::cell::Cell::new(0) };
    }
}

#[cfg(all(test, feature = "model"))]
mod parts {
    pub(in super::super) use loom::sync::atomic::AtomicU64;
    pub(in super::super) use loom::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

    pub(in super::super) use foldhash::quality::FixedState as Hasher;

    /// Bits of a key that name the shard.
    pub(in super::super) const SHARD_BITS: u32 = 1;

    #[cfg(debug_assertions)]
    loom::thread_local! {
        /// Locks that this thread holds.
        pub(in super::super) static LOCKS: std::cell::Cell<u32> = std::cell::Cell::new(0);
    }
}

pub(super) use parts::*;
