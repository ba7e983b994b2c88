//! Mail between the feed and a worker: publications and orders in the worker's inbox, and reports
//! of its conns upstream.

pub mod inbox;
pub mod outgoing;
pub mod upstream;
