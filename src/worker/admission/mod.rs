//! Admission control: which connections are accepted, which source each one counts for, how long
//! a silent one may stay, and how fast a client may send.

pub mod guard;
pub mod pending;
pub(super) mod rates;
pub mod sources;
