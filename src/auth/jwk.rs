//! Parses sets of keys in JSON (JWK sets, RFC 7517).
//!
//! An issuer's set often contains keys for several uses. A key for another use or of an unknown
//! kind is ignored and reported (RFC 7517, 5). A key of a known kind is an error if the key is
//! malformed or cannot verify tokens. If such a key were ignored, all tokens with this key would be
//! refused.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::DecodingKey;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::key::{self, Key, KeyError};
use super::rsa;
use crate::config::Algorithm;
use crate::config::limits::TOKEN_KEYS_MAX;

/// The length of a coordinate of P-256 in bytes. In contrast to RSA numbers, a coordinate has a
/// fixed length, with leading zeros (RFC 7518, 6.2.1.2).
const COORDINATE_BYTES: usize = 32;
/// The first byte of an encoded point that contains both coordinates, uncompressed (SEC 1, 2.3.3).
const UNCOMPRESSED: u8 = 4;

/// A parsed JWK set.
#[derive(Debug)]
pub struct KeySet {
    /// The keys that can verify tokens, in the order of the set.
    pub keys: Vec<Key>,
    /// The ignored keys, in the order of the set.
    pub ignored: Vec<Ignored>,
}

/// An ignored key of a set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ignored {
    /// The name of the key.
    pub name: KeyName,
    /// The reason to ignore the key.
    pub reason: Reason,
}

/// The reason for which a key is ignored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// The key's `use` or `key_ops` is not for verifying signatures.
    #[error("is not for signatures")]
    OtherUse,
    /// The key's `alg` is not supported.
    #[error("is for the algorithm {0:?}")]
    OtherAlgorithm(Box<str>),
    /// The key's `kty` or `crv` is not supported.
    #[error("is of the kind {0:?}")]
    OtherKind(Box<str>),
    /// The key is a secret without `alg`. Such a secret fits several algorithms, but each key must
    /// be for one algorithm.
    #[error("is a secret without `alg`")]
    UnnamedAlgorithm,
}

/// The name of a key in messages: its number in the set and its `kid`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyName {
    /// The number of the key in the set, counted from one.
    pub place: usize,
    /// The `kid` of the key.
    pub id: Option<Box<str>>,
}

impl fmt::Display for KeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "key {}", self.place)?;
        match &self.id {
            Some(id) => write!(f, " (kid {id:?})"),
            None => Ok(()),
        }
    }
}

/// The members of a JWK that the server uses.
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    #[serde(rename = "use")]
    purpose: Option<String>,
    key_ops: Option<Vec<String>>,
    alg: Option<String>,
    kid: Option<String>,
    crv: Option<String>,
    n: Option<Value>,
    e: Option<Value>,
    x: Option<Value>,
    y: Option<Value>,
    k: Option<Value>,
}

impl KeySet {
    /// Parses a JWK set.
    ///
    /// # Errors
    /// Returns [`KeyError::Jwks`] if the text is not a JWK set, and [`KeyError::InSet`] for the
    /// first malformed key. Returns [`KeyError::Unusable`] if the set has no usable key, and
    /// [`KeyError::TooMany`] if it has too many usable keys.
    pub fn parse(json: &[u8]) -> Result<Self, KeyError> {
        #[derive(Deserialize)]
        struct Set<'a> {
            #[serde(borrow)]
            keys: Vec<&'a RawValue>,
        }
        let set: Set<'_> =
            serde_json::from_slice(json).map_err(|error| KeyError::Jwks(text(&error)))?;
        let (mut keys, mut ignored) = (Vec::new(), Vec::new());
        for (json, place) in set.keys.iter().zip(1..) {
            let mut name = KeyName { place, id: None };
            let read = read(json.get(), &mut name.id);
            match read {
                Ok(Ok(key)) if keys.len() < TOKEN_KEYS_MAX => keys.push(key),
                Ok(Ok(_one_more)) => return Err(KeyError::TooMany),
                Ok(Err(reason)) => ignored.push(Ignored { name, reason }),
                Err(error) => {
                    let error = Box::new(error);
                    return Err(KeyError::InSet { name, error });
                }
            }
        }
        if keys.is_empty() {
            return Err(KeyError::Unusable);
        }
        Ok(Self { keys, ignored })
    }
}

/// Parses one key. Stores the `kid` in `id` first, so that a message about a later error can name
/// the key.
fn read(json: &str, id: &mut Option<Box<str>>) -> Result<Result<Key, Reason>, KeyError> {
    // serde would also accept an array of the members' values, so the first character is checked.
    if !json.starts_with('{') {
        return Err(KeyError::Jwk("not an object".into()));
    }
    let jwk: Jwk = serde_json::from_str(json).map_err(|error| KeyError::Jwk(text(&error)))?;
    *id = jwk.kid.clone().map(String::into_boxed_str);
    let algorithm = match jwk.algorithm()? {
        Ok(algorithm) => algorithm,
        Err(reason) => return Ok(Err(reason)),
    };
    Ok(Ok(Key {
        algorithm,
        id: id.clone(),
        key: jwk.key(algorithm)?,
    }))
}

impl Jwk {
    /// Returns the algorithm of the key, or the reason to ignore the key.
    fn algorithm(&self) -> Result<Result<Algorithm, Reason>, KeyError> {
        let is_for_signatures = self
            .purpose
            .as_deref()
            .is_none_or(|purpose| purpose == "sig");
        let operations = self.key_ops.as_ref();
        let may_verify = operations.is_none_or(|all| all.iter().any(|one| one == "verify"));
        if !is_for_signatures || !may_verify {
            return Ok(Err(Reason::OtherUse));
        }
        let curve = self.crv.as_deref().unwrap_or_default();
        let kinds: &[Algorithm] = match (&*self.kty, curve) {
            ("EC", "P-256") => &[Algorithm::Es256],
            ("OKP", "Ed25519") => &[Algorithm::EdDsa],
            ("EC" | "OKP", "") => return Err(KeyError::MemberMissing("crv")),
            ("RSA", _) => &[Algorithm::Rs256],
            ("oct", _) => &[Algorithm::Hs256, Algorithm::Hs384, Algorithm::Hs512],
            _ => &[],
        };
        let named = self
            .alg
            .as_deref()
            .map(|name| (name, Algorithm::from_name(name)));
        Ok(match (named, kinds) {
            (Some((_, Some(algorithm))), kinds) if kinds.contains(&algorithm) => Ok(algorithm),
            // The key's `alg` contradicts its `kty` or `crv`.
            (Some((_, Some(algorithm))), _) => return Err(KeyError::OtherKind(algorithm)),
            (Some((name, None)), _) => Err(Reason::OtherAlgorithm(name.into())),
            (None, [only]) => Ok(*only),
            (None, []) => {
                let kind = [&*self.kty, curve].join(" ");
                Err(Reason::OtherKind(kind.trim_end().into()))
            }
            (None, _) => Err(Reason::UnnamedAlgorithm),
        })
    }

    fn key(&self, algorithm: Algorithm) -> Result<DecodingKey, KeyError> {
        match algorithm {
            Algorithm::Rs256 => rsa::of_numbers(&member("n", &self.n)?, &member("e", &self.e)?),
            Algorithm::Es256 => {
                let (x, y) = (coordinate("x", &self.x)?, coordinate("y", &self.y)?);
                key::es256(&[&[UNCOMPRESSED][..], &x, &y].concat())
            }
            Algorithm::EdDsa => key::ed25519(&member("x", &self.x)?),
            Algorithm::Hs256 | Algorithm::Hs384 | Algorithm::Hs512 => {
                key::secret(algorithm, &member("k", &self.k)?)
            }
        }
    }
}

fn coordinate(name: &'static str, value: &Option<Value>) -> Result<Vec<u8>, KeyError> {
    let bytes = member(name, value)?;
    match bytes.len() {
        COORDINATE_BYTES => Ok(bytes),
        got => Err(KeyError::MemberSize {
            name,
            got,
            expected: COORDINATE_BYTES,
        }),
    }
}

fn member(name: &'static str, value: &Option<Value>) -> Result<Vec<u8>, KeyError> {
    let value = value.as_ref().ok_or(KeyError::MemberMissing(name))?;
    let bytes = value
        .as_str()
        .and_then(|text| URL_SAFE_NO_PAD.decode(text).ok());
    bytes.ok_or(KeyError::MemberEncoding(name))
}

fn text(error: &serde_json::Error) -> Box<str> {
    error.to_string().into_boxed_str()
}
