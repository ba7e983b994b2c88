//! Admission control: which connections are accepted, for which source each connection counts, how
//! long a silent connection may stay, and how fast a client may send.

pub mod guard;
pub mod pending;
pub(super) mod rates;
pub mod sources;
