//! Authorization: JSON Web Tokens (RFC 7519) are verified here and become a [`Grant`].
//!
//! Pure: keys ([`Key`]) are given as bytes, the time as seconds since 1970, and a token as the peer
//! sent it. Each key is for one algorithm. A token whose header names another one is refused before
//! its other contents are used (RFC 8725, 3.1), so a public key is never used as a secret. This
//! module never stores, shows or logs a token.
//!
//! [`Verifier`] verifies one token. [`Access`] holds the permissions of the conns of one worker.
//! `http` checks requests, the transports check commands, and the conn's timer checks expiry.
//!
//! # Threats
//!
//! Each attack, and the defence:
//!
//! - *Sign with the public key as if it were a secret*: a key is for one algorithm, named by the
//!   operator or its JWK; a secret is never PEM.
//! - *`none`, or an algorithm without a key*: the name is unknown, or no key is for it.
//! - *Bring a key in the header (`jwk`, `jku`, `x5c`)*: the members are ignored; `crit` is refused.
//! - *Guess a secret*: a secret shorter than the hash is refused.
//! - *Use a token of another service*: `aud` must name this server if it is present, and `iss` must
//!   match if one is configured.
//! - *Use a token forever*: `exp` is required; open conns end with it.
//! - *Keep permissions that a newer token lacks*: showing a token ends subscriptions that it does
//!   not allow.
//! - *Take over another user's conn*: a token shown in band must have the same `sub`.
//! - *Exhaust the CPU with verifications*: an invalid token ends the conn or request, a valid one
//!   is accepted once per second, and at most 64 keys are tried.
//! - *Exhaust memory with claims*: a token has at most 64 KiB and fits the limit of its request
//!   head or message; at most 64 patterns, and 256 bytes of `sub`.
//! - *Connect and show no token*: a deadline, and no channel until then.
//! - *Read tokens from logs, metrics or responses*: no error contains a byte of a token; the
//!   subprotocol is not echoed; the query parameter is off by default.
//! - *A foreign page with the user's cookie*: not a matter of tokens: `SameSite`, and the check of
//!   origins.
//! - *A stolen token*: short lifetimes, and `disconnect_sub` for open conns; there is no list of
//!   revoked tokens.
#![cfg_attr(not(test), deny(clippy::indexing_slicing))]

mod access;
mod calendar;
mod claims;
mod conn_access;
mod edwards;
mod grant;
mod jwk;
mod key;
mod mint;
mod rsa;
mod verify;

pub use access::{Access, Due, ShowError, Shown, Warning};
pub use conn_access::ConnAccess;
pub use grant::Grant;
pub use jwk::{Ignored, KeyName, KeySet, Reason};
pub use key::{Key, KeyError};
pub use mint::{MintError, TokenSpec, mint};
pub use verify::{TokenError, Verifier};

#[cfg(test)]
mod tests;
