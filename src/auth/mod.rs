//! Authorization: verifies JSON Web Tokens (RFC 7519) and turns each token into a [`Grant`].
//!
//! This module is pure: its inputs are keys ([`Key`]) as bytes, the time as seconds since 1970, and
//! a token as the peer sent it. Each key is for one algorithm. A token whose header names another
//! algorithm is refused before its claims are used (RFC 8725, 3.1). So a public key is never used
//! as a secret. This module never stores, shows or logs a token.
//!
//! [`Verifier`] verifies one token. [`Access`] holds the permissions of the conns of one worker.
//! `http` checks requests, the transports check commands, and the conn's timer checks expiry.
//!
//! # Threats
//!
//! Each item names an attack and then the defence:
//!
//! - *Sign with the public key as if it were a secret*: each key is for one algorithm, which the
//!   operator or the key's JWK names; a PEM text is refused as a secret.
//! - *Use `none`, or an algorithm without a key*: a token is refused if its algorithm is unknown or
//!   no key is for this algorithm.
//! - *Bring a key in the header (`jwk`, `jku`, `x5c`)*: these members are ignored, and a header
//!   with `crit` is refused.
//! - *Guess a secret*: a secret that is shorter than the hash is refused.
//! - *Use a token of another service*: if `aud` is present, it must name this server; if an issuer
//!   is configured, `iss` must match.
//! - *Use a token forever*: `exp` is required, and open conns end when the token expires.
//! - *Keep permissions that a newer token lacks*: a client that sends a new token loses all
//!   subscriptions that the new token does not allow.
//! - *Take over another user's conn*: a token that the client sends over its open connection must
//!   have the same `sub` as the conn's previous token.
//! - *Exhaust the CPU with verifications*: an invalid token ends the conn or request; a conn can
//!   show at most one valid token per second; at most 64 keys are tried for a token.
//! - *Exhaust memory with claims*: a token has at most 64 KiB and must fit within the limit on
//!   request heads or messages. It has at most 64 patterns, and `sub` has at most 256 bytes.
//! - *Connect and show no token*: the client must show a token before a deadline, and no channel is
//!   served until then.
//! - *Read tokens from logs, metrics or responses*: no error contains a byte of a token; the
//!   subprotocol is not echoed; the query parameter is off by default.
//! - *Send a request from a foreign page with the user's cookie*: tokens do not prevent this
//!   attack; `SameSite` cookies and the check of origins prevent it.
//! - *Use a stolen token*: tokens should have short lifetimes, and `disconnect_sub` closes open
//!   conns; there is no list of revoked tokens.
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

pub use access::{Access, Due, ShowError, Shown, TokenChange, Warning};
pub use conn_access::ConnAccess;
pub use grant::Grant;
pub use jwk::{Ignored, KeyName, KeySet, Reason};
pub use key::{Key, KeyError};
pub use mint::{MintError, TokenSpec, mint};
pub use verify::{TokenError, Verifier};

#[cfg(test)]
mod tests;
