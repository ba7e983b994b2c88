//! Who may do what: JSON Web Tokens (RFC 7519) are verified here and become a [`Grant`].
//!
//! Pure. Keys come in as bytes that somebody else has read ([`Key`]), the time as seconds of the
//! calendar, and a token as the peer sent it. A key says itself for which algorithm it is, and a
//! token whose header says another one is refused before any of it is believed (RFC 8725, 3.1), so
//! that a public key can never be taken for a secret. Nothing here keeps, shows or logs a token.
//!
//! [`Verifier`] decides about one token, [`Access`] remembers for one worker what its conns may do.
//! Requests are checked by `http`, commands by the transports, time by the conn's one timer.
//!
//! # Threats
//!
//! Who tries what, and what stops it:
//!
//! - *To sign with our public key as if it were a secret*: a key is for one algorithm, named by
//!   the operator or its JWK; a secret is never PEM.
//! - *`none`, or an algorithm nobody chose*: it is no name, or no key's.
//! - *To bring a key along (`jwk`, `jku`, `x5c`)*: passed over; `crit` is refused.
//! - *To guess a secret*: none below the hash's size is taken.
//! - *Another service's token*: `aud` has to name us wherever it stands, `iss` where one is
//!   named.
//! - *A token for ever*: `exp` has to be there; open conns end with it.
//! - *To keep what a newer token no longer allows*: channels are left when one is shown.
//! - *To wear somebody else's conn*: a token shown in band has to be of the same `sub`.
//! - *To have us verify without end*: a bad token ends the conn or request, good ones come once
//!   a second, at most 64 keys are tried.
//! - *Memory by claims*: 64 KiB of token, and no more than the request head or message may have; 64
//!   patterns, 256 bytes of `sub`.
//! - *To come in and show nothing*: a deadline, and no channel until then.
//! - *To read tokens from logs, metrics or responses*: no error holds a byte of one; the
//!   subprotocol is not echoed; the query is off.
//! - *A page of another origin, with the user's cookie*: not tokens: `SameSite`, and the check
//!   of origins.
//! - *A stolen token*: short lives, and `disconnect_sub` for what is open; there is no list of
//!   revoked ones.
#![cfg_attr(not(test), deny(clippy::indexing_slicing))]

mod access;
mod algorithm;
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
pub use algorithm::{Algorithm, AlgorithmError};
pub use conn_access::ConnAccess;
pub use grant::Grant;
pub use jwk::{Ignored, KeyName, KeySet, Reason};
pub use key::{Key, KeyError};
pub use mint::{MintError, Wish, mint};
pub use verify::{Terms, TokenError, Verifier};

#[cfg(test)]
mod tests;
