//! Decides about one token: its form, its key, its signature, its claims, in that order.
//!
//! The header is believed in two things only: which key it names, and that its algorithm is that
//! key's (RFC 8725, 3.1 and 3.2). Keys that a header brings along or points to (`jwk`, `jku`,
//! `x5c`) are passed over, and a header that names something critical is refused (RFC 7515,
//! 4.1.11). The work for one token is bounded by its length and by the number of keys.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::algorithm::Algorithm;
use super::claims;
use super::grant::Grant;
use super::key::{Key, KeyError};
use crate::config::limits::{TOKEN_BYTES_MAX, TOKEN_KEYS_MAX};

/// Why a token is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Signed by an algorithm that none of our keys is for, or not at all.
    #[error("the token's algorithm is not one that is trusted here")]
    Algorithm,
    /// For somebody else.
    #[error("the token is for another audience")]
    Audience,
    /// A claim that is missing or not of its type, or too many patterns.
    #[error("the token's claims cannot be used")]
    Claims,
    /// A time that is none.
    #[error("the token's `{0}` has to be a number of seconds since 1970")]
    Date(&'static str),
    /// Over.
    #[error("the token has expired")]
    Expired,
    /// From somebody else.
    #[error("the token is from another issuer")]
    Issuer,
    /// Not three parts, not base64url, not JSON, or with something critical in its header.
    #[error("the token is malformed")]
    Malformed,
    /// Valid without end.
    #[error("the token has no `exp`")]
    NoEnd,
    /// Not valid yet.
    #[error("the token is not valid yet")]
    NotYet,
    /// Signed by somebody else, or changed since.
    #[error("the token's signature is wrong")]
    Signature,
    /// Longer than any that is looked at.
    #[error("a token has at most {TOKEN_BYTES_MAX} bytes")]
    TooLong,
    /// Its `kid` is of no key.
    #[error("the token names a key that is not known here")]
    UnknownKey,
}

impl TokenError {
    /// The word that programs look at.
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

/// What the operator asks of every token beside its signature.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// Who we are in `aud`; without it no token may have an audience.
    pub audience: Option<Box<str>>,
    /// Whose tokens are taken; without it the signature says it.
    pub issuer: Option<Box<str>>,
    /// By how many seconds clocks may disagree.
    pub leeway_s: u64,
}

/// Keys and terms: all that is needed to decide about a token.
#[derive(Debug)]
pub struct Verifier {
    keys: Box<[Key]>,
    terms: Terms,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    crit: Option<IgnoredAny>,
}

impl Verifier {
    /// Trusts these keys, in this order.
    ///
    /// # Errors
    /// When there is none, or there are too many.
    pub fn new(keys: Vec<Key>, terms: Terms) -> Result<Self, KeyError> {
        match keys.len() {
            0 => Err(KeyError::Unusable),
            1..=TOKEN_KEYS_MAX => Ok(Self {
                keys: keys.into_boxed_slice(),
                terms,
            }),
            _ => Err(KeyError::TooMany),
        }
    }

    /// Decides about a token at a time in seconds of the calendar.
    ///
    /// # Errors
    /// Why it is refused.
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
        claims::grant(&payload, &self.terms, unix_s)
    }

    fn check_signature(
        &self,
        algorithm: Algorithm,
        id: Option<&str>,
        message: &str,
        signature: &str,
    ) -> Result<(), TokenError> {
        // A key without a name, from a file of its own, may be meant by any.
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
    // Serde would take an array for an object's values in their order.
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
