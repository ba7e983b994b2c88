//! Mail between the feed and a worker: publications and orders in its inbox, reports of its conns
//! upstream.

pub mod inbox;
pub mod outgoing;
pub mod upstream;
