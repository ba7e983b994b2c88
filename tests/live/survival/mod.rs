//! Subscribers and a feeder that reconnect to a server which is killed repeatedly, and checks of
//! their records afterwards.
//!
//! [`subscriber`] is a client that resumes from its last id over any transport ([`transport`]).
//! [`feeder`] repeats publications without an acknowledgement. [`record`] compares the messages of
//! each subscriber with the publications.

pub(crate) mod feeder;
mod kills;
pub(crate) mod record;
pub(crate) mod subscriber;
pub(crate) mod transport;

/// Number of the last publication of each channel. A subscriber that has received it has seen
/// everything.
pub(crate) const END: u64 = u64::MAX;
