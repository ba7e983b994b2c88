//! TLS 1.2 and 1.3 as a filter that converts ciphertext to plaintext and back (RFC 8446, RFC 5246).
//!
//! This module is pure, and the only module of the server that uses rustls. An [`Identity`]
//! contains the server's certificates, which are parsed from PEM texts that the caller has read. A
//! [`Filter`] is the TLS state of one conn. A filter never uses a socket: the worker passes
//! received bytes to the filter, and sends the records that the filter has encrypted. Requests,
//! frames and the log are plaintext. Conns with and without TLS share the same frames.
//!
//! The unbuffered interface of rustls is used, so that an idle conn stores only keys and no
//! buffers.
#![cfg_attr(not(test), deny(clippy::indexing_slicing))]

mod filter;
mod identity;

pub use filter::{Filter, TlsError};
pub use identity::{
    Expiry, Identity, IdentityError, Material, SelfSigned, check_pair, self_signed,
};

#[cfg(test)]
mod tests;
