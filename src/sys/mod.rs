//! SHELL: the only module that may call the system directly.
//!
//! Each file wraps one thing the standard library lacks in a safe function: waking a sleeping
//! thread, a descriptor table of one's own, pinning, limits. Nothing here knows what a conn is.
#![expect(
    unsafe_code,
    reason = "the only module that may call the system directly"
)]

pub mod activation;
pub mod clock;
pub mod cpu;
pub mod descriptors;
pub mod directory;
pub mod group;
pub mod inode;
pub mod input;
pub mod listener;
pub mod memory;
pub mod outgoing;
pub mod pressure;
pub mod regular;
pub mod ring;
pub mod signals;
pub mod unacknowledged;
pub mod wake;
