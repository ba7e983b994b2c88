//! PURE: the feed's protocol: the bytes of one feeder, and the publications and commands in them.
//!
//! [`decode`] is the entry. It splits lines and hands HTTP to [`request`]; [`command`] reads one
//! line and [`publish`] one request body. Both read the fields ([`refusal::Key`]) and make a
//! [`draft`] of them. Knows nothing of sockets, sequence numbers or time. The caller is
//! `super::feeder`.

mod body;
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
