//! Subscribers and a feeder that reconnect to a server that is killed repeatedly. Afterwards the
//! messages of the subscribers are checked.
//!
//! [`subscriber`] is a client that resumes from its last id over any transport ([`transport`]).
//! [`feeder`] repeats publications that were not acknowledged. [`record`] compares the messages of
//! each subscriber with the publications.

pub(crate) mod feeder;
mod kills;
pub(crate) mod record;
pub(crate) mod subscriber;
pub(crate) mod transport;

/// The number in the last publication of each channel. A subscriber that receives this number has
/// received everything of that channel.
pub(crate) const END: u64 = u64::MAX;
