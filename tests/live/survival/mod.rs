//! Subscribers and a feeder that outlive the server, and what must be true of them afterwards.
//!
//! The server is killed again and again. [`subscriber`] is a client that comes back over any
//! transport ([`transport`]) from its last id; [`feeder`] sends what was not acknowledged again;
//! [`record`] holds what each subscriber was told against what was published.

pub(crate) mod feeder;
mod kills;
pub(crate) mod record;
pub(crate) mod subscriber;
pub(crate) mod transport;

/// Where a channel's publications stop. Whoever has it has seen everything.
pub(crate) const END: u64 = u64::MAX;
