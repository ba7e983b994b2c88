//! TLS 1.2 and 1.3 as a filter of bytes: ciphertext goes in, plaintext comes out, and the other way
//! round (RFC 8446, RFC 5246).
//!
//! Pure, and the only module that names rustls: [`Identity`] is what a server proves, made of PEM
//! texts that somebody else has read, and [`Filter`] is one conn's state. A filter never touches
//! a socket; the worker gives it what it read and sends what it sealed. Nothing above it knows
//! whether there is one: requests, frames and the log are plaintext, and shared by all conns.
//!
//! The unbuffered interface of rustls is used, so that an idle conn holds keys and no buffers.
#![cfg_attr(not(test), deny(clippy::indexing_slicing))]

mod filter;
mod identity;

pub use filter::{Filter, TlsError};
pub use identity::{Identity, IdentityError, Material, SelfSigned, check_pair, self_signed};

#[cfg(test)]
mod tests;
