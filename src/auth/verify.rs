//! Verifies one token: its form, its key, its signature and its claims, in that order.
//!
//! Two members of the header are used: the key's name (`kid`) and the algorithm (`alg`). The
//! algorithm must equal the algorithm of the key (RFC 8725, 3.1 and 3.2). Keys that a header
//! contains or refers to (`jwk`, `jku`, `x5c`) are ignored, and a header with `crit` is refused
//! (RFC 7515, 4.1.11). The work for a token is bounded by the token's length and the number of
//! keys.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::claims;
use super::grant::Grant;
use super::key::{Key, KeyError};
use crate::config::limits::{TOKEN_BYTES_MAX, TOKEN_KEYS_MAX};
use crate::config::{Algorithm, TokenRules};

/// The reason for which a token is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// The token is unsigned, or no key that matches the token's `kid` is for the token's
    /// algorithm.
    #[error("no matching key of this server is for the token's algorithm")]
    Algorithm,
    /// The claim `aud` does not name this server.
    #[error("the token is for another audience")]
    Audience,
    /// A claim is missing or has the wrong type, or the token has too many channel patterns.
    #[error("the token's claims cannot be used")]
    Claims,
    /// A claim that contains a time is not a number.
    #[error("the token's `{0}` must be a number of seconds since 1970")]
    Date(&'static str),
    /// The expiry (`exp`) is in the past.
    #[error("the token has expired")]
    Expired,
    /// The claim `iss` is not the configured issuer.
    #[error("the token is from another issuer")]
    Issuer,
    /// The token does not have three parts, or a part is not base64url or not JSON, or the header
    /// has `crit`.
    #[error("the token is malformed")]
    Malformed,
    /// The token has no expiry (`exp`).
    #[error("the token has no `exp`")]
    NoEnd,
    /// The start of the token's validity (`nbf`) is in the future.
    #[error("the token is not valid yet")]
    NotYet,
    /// The signature was not made with a key of this server, or the token was modified.
    #[error("the token's signature is wrong")]
    Signature,
    /// The token is too long.
    #[error("a token has at most {TOKEN_BYTES_MAX} bytes")]
    TooLong,
    /// The `kid` in the token's header names no key of this server.
    #[error("the token names an unknown key")]
    UnknownKey,
}

impl TokenError {
    /// Returns the machine-readable code of the error, for problem documents and close reasons.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Algorithm => "token_algorithm",
            Self::Audience => "token_audience",
            Self::Claims | Self::Date(_) | Self::NoEnd => "token_claims",
            Self::Expired => "token_expired",
            Self::Issuer => "token_issuer",
            Self::Malformed => "token_malformed",
            Self::NotYet => "token_not_yet",
            Self::Signature => "token_signature",
            Self::TooLong => "token_too_long",
            Self::UnknownKey => "token_key",
        }
    }
}

/// The keys and the rules with which tokens are verified.
#[derive(Debug)]
pub struct Verifier {
    keys: Box<[Key]>,
    rules: TokenRules,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    crit: Option<IgnoredAny>,
}

impl Verifier {
    /// Makes a verifier that accepts tokens signed with these keys. The keys are tried in this
    /// order.
    ///
    /// # Errors
    /// Returns [`KeyError::Unusable`] if there are no keys, and [`KeyError::TooMany`] if there are
    /// too many.
    pub fn new(keys: Vec<Key>, rules: TokenRules) -> Result<Self, KeyError> {
        match keys.len() {
            0 => Err(KeyError::Unusable),
            1..=TOKEN_KEYS_MAX => Ok(Self {
                keys: keys.into_boxed_slice(),
                rules,
            }),
            _ => Err(KeyError::TooMany),
        }
    }

    /// Verifies a token. `unix_s` is the current time in seconds since 1970.
    ///
    /// # Errors
    /// Returns the reason to refuse the token.
    pub fn verify(&self, token: &str, unix_s: u64) -> Result<Grant, TokenError> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(TokenError::TooLong);
        }
        let (message, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
        let (header, payload) = message.split_once('.').ok_or(TokenError::Malformed)?;
        let header = read_header(header)?;
        let payload = decode(payload)?;
        let algorithm = Algorithm::from_name(&header.alg).ok_or(TokenError::Algorithm)?;
        self.check_signature(algorithm, header.kid.as_deref(), message, signature)?;
        claims::grant(&payload, &self.rules, unix_s)
    }

    fn check_signature(
        &self,
        algorithm: Algorithm,
        id: Option<&str>,
        message: &str,
        signature: &str,
    ) -> Result<(), TokenError> {
        // A key without `kid` matches every token. Keys from secret and PEM files have no `kid`.
        let is_named = |key: &&Key| id.is_none() || key.id.is_none() || key.id.as_deref() == id;
        let mut named = self.keys.iter().filter(is_named).peekable();
        if named.peek().is_none() {
            return Err(TokenError::UnknownKey);
        }
        let mut pinned = named.filter(|key| key.algorithm == algorithm).peekable();
        if pinned.peek().is_none() {
            return Err(TokenError::Algorithm);
        }
        let is_right = pinned.any(|key| {
            let algorithm = key.algorithm.of_library();
            let checked =
                jsonwebtoken::crypto::verify(signature, message.as_bytes(), &key.key, algorithm);
            checked.is_ok_and(|is_right| is_right)
        });
        if is_right {
            Ok(())
        } else {
            Err(TokenError::Signature)
        }
    }
}

fn read_header(text: &str) -> Result<Header, TokenError> {
    let json = decode(text)?;
    // serde would also accept an array of the members' values, so the first character is checked.
    if !json.trim_ascii_start().starts_with(b"{") {
        return Err(TokenError::Malformed);
    }
    let header: Header = serde_json::from_slice(&json).map_err(|_fault| TokenError::Malformed)?;
    if header.crit.is_some() {
        return Err(TokenError::Malformed);
    }
    Ok(header)
}

fn decode(part: &str) -> Result<Vec<u8>, TokenError> {
    let bytes = URL_SAFE_NO_PAD.decode(part);
    bytes.map_err(|_fault| TokenError::Malformed)
}
