//! PURE: the feed's protocol: the bytes of one feeder, and the publications and commands in them.
//!
//! [`decode`] is the entry. It splits lines and passes HTTP to [`request`], which gives an [`item`]
//! each. [`command`] reads one line and [`publish`] one request body. Both read `fields` and check
//! them into a [`draft`]. No sockets, sequence numbers or clocks here. The feeder is the only
//! caller.

pub mod command;
pub mod decode;
pub mod draft;
mod fields;
pub mod item;
pub mod minify;
pub mod publish;
pub mod refusal;
pub mod request;
pub mod request_refusal;
