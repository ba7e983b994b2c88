//! SHELL: this is the only module with unsafe code. It makes system calls that the standard library
//! lacks.
//!
//! Each file wraps one task in safe functions, for example waking a thread, unsharing a descriptor
//! table, pinning a thread or raising limits. Nothing here depends on conns.
#![expect(unsafe_code, reason = "the only module that may use unsafe code")]

pub mod activation;
pub mod clock;
pub mod cpu;
pub mod descriptors;
pub mod directory;
pub mod group;
pub mod inode;
pub mod listener;
pub mod memory;
pub mod peer;
pub mod pressure;
pub mod regular;
pub mod ring;
pub mod signals;
pub mod socket_file;
pub mod standard_output;
pub mod unacknowledged;
pub mod usage;
pub mod wake;
