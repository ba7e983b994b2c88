//! TLS 1.2 and 1.3 as a filter of bytes: ciphertext to plaintext and back (RFC 8446, RFC 5246).
//!
//! Pure, and the only module that uses rustls. [`Identity`] is the server's certificates, made of
//! PEM texts that the caller has read; [`Filter`] is the state of one conn. A filter never touches
//! a socket: the worker passes in what it has read, and sends what the filter has sealed. Requests,
//! frames and the log are plaintext, shared by all conns with and without TLS.
//!
//! The unbuffered interface of rustls is used, so that an idle conn holds keys and no buffers.
#![cfg_attr(not(test), deny(clippy::indexing_slicing))]

mod filter;
mod identity;

pub use filter::{Filter, TlsError};
pub use identity::{Identity, IdentityError, Material, SelfSigned, check_pair, self_signed};

#[cfg(test)]
mod tests;
