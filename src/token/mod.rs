//! Who may do what: JSON Web Tokens (RFC 7519) are verified here and become a [`Grant`].
//!
//! Pure. Keys come in as bytes that somebody else has read ([`Key`]), the time as seconds of the
//! calendar, and a token as the peer sent it. A key says itself for which algorithm it is, and a
//! token whose header says another one is refused before any of it is believed (RFC 8725, 3.1), so
//! that a public key can never be taken for a secret. Nothing here keeps, shows or logs a token.
//!
//! [`Verifier`] decides about one token, [`Access`] remembers for one worker what its conns may do.
//! Requests are checked by `http`, commands by the transports, time by the conn's one timer.
#![cfg_attr(not(test), deny(clippy::indexing_slicing))]

mod access;
mod algorithm;
mod claims;
mod grant;
mod key;
mod mint;
mod verify;

pub use access::{Access, Due, ShowError, Shown, Warning};
pub use algorithm::{Algorithm, AlgorithmError};
pub use grant::Grant;
pub use key::{Key, KeyError};
pub use mint::{MintError, Wish, mint};
pub use verify::{Terms, TokenError, Verifier};

#[cfg(test)]
mod tests;
