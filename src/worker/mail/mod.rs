//! Mail between the feed and a worker. The inbox receives publications and orders for the worker;
//! the upstream queue receives reports of the worker's conns.

pub mod inbox;
pub mod outgoing;
pub mod survey;
pub mod upstream;
