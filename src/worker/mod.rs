//! SHELL: one thread with its own poll, slab, timer wheel and hub.

pub mod inbox;
