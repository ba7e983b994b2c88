//! PURE: the feed's protocol decodes the bytes of one feeder into publications and commands.
//!
//! The entry point is [`decode`], which splits the input into lines or passes HTTP requests to
//! [`request`]. Each line or request becomes an [`item`]. [`command`] decodes one line, and
//! [`http_publish`] decodes one request body. Both modules decode into `fields`, and check the
//! fields to create a [`draft`]. The protocol uses no sockets, sequence numbers or clocks. The
//! feeder calls the decoder.

pub mod command;
pub mod decode;
pub mod draft;
mod fields;
pub mod http_publish;
pub mod item;
pub mod minify;
pub mod refusal;
pub mod request;
pub mod request_refusal;
