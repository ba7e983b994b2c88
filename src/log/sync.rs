//! The locks and atomics of the log: from the standard library, or from loom when models are built.
//!
//! loom runs the threads of a model on one system thread, in every order that it considers
//! different. So the models must be deterministic, and they have few shards to keep the number of
//! orders low.

#[cfg(not(all(test, feature = "model")))]
mod parts {
    pub(in super::super) use std::sync::atomic::AtomicU64;
    pub(in super::super) use std::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

    pub(in super::super) use foldhash::quality::RandomState as Hasher;

    /// The number of bits of a key that contain the shard's number.
    pub(in super::super) const SHARD_BITS: u32 = 8;

    #[cfg(debug_assertions)]
    thread_local! {
        /// The number of locks that this thread holds.
        pub(in super::super) static LOCKS: std::cell::Cell<u32> = const { std::cell::Cell::new(0) };
    }
}

#[cfg(all(test, feature = "model"))]
mod parts {
    pub(in super::super) use loom::sync::atomic::AtomicU64;
    pub(in super::super) use loom::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

    pub(in super::super) use foldhash::quality::FixedState as Hasher;

    /// The number of bits of a key that contain the shard's number.
    pub(in super::super) const SHARD_BITS: u32 = 1;

    #[cfg(debug_assertions)]
    loom::thread_local! {
        /// The number of locks that this thread holds.
        pub(in super::super) static LOCKS: std::cell::Cell<u32> = std::cell::Cell::new(0);
    }
}

pub(super) use parts::*;
