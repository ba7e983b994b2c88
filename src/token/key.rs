//! Keys by which tokens are verified, each for one algorithm.
//!
//! Made of the contents of files: a secret, a public key in PEM (RFC 7468), or a set of keys as
//! JSON (RFC 7517). What is weak, private or for something else is refused when it is read, so that
//! a mistake shows at start and not as a stream of refused clients.

use jsonwebtoken::DecodingKey;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::algorithm::Algorithm;
use crate::config::limits::TOKEN_KEYS_MAX;

/// How a PEM text begins.
const PEM: &[u8] = b"-----BEGIN ";
/// Bytes of a point on P-256 as it stands in a key (SEC 1, 2.3.3).
const P256_POINT_BYTES: usize = 65;
/// Bytes of a public key of Ed25519 (RFC 8032, 5.1.5).
const ED25519_KEY_BYTES: usize = 32;
/// The smallest RSA modulus, in bytes (RFC 7518, 3.3), and the largest that is verified with.
const RSA_MODULUS_BYTES_MIN: usize = 256;
const RSA_MODULUS_BYTES_MAX: usize = 1024;
/// What a public RSA key of PKCS #1 has beside its modulus, at most.
const RSA_FRAME_BYTES_MAX: usize = 32;

/// A key, and the one algorithm that it is for.
#[derive(Clone, Debug)]
pub struct Key {
    pub(super) algorithm: Algorithm,
    /// By which a token may choose it.
    pub(super) id: Option<Box<str>>,
    pub(super) key: DecodingKey,
}

/// Why something is no key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// A set of keys that is not one.
    #[error("is no JWK set: {0}")]
    Jwks(Box<str>),
    /// Another kind of key, a broken one, or one whose size is not for the algorithm.
    #[error("is no public key for {0} in PEM (-----BEGIN PUBLIC KEY-----)")]
    Pem(Algorithm),
    /// A key that should be with the issuer only.
    #[error("is a private key; only the public one belongs here")]
    Private,
    /// A PEM text where a secret should be.
    #[error("is a PEM text; a secret for {0} has to be known to nobody but issuer and server")]
    PemAsSecret(Algorithm),
    /// A secret that can be guessed.
    #[error("has {got} bytes; a secret for {algorithm} has at least {least}")]
    Short {
        /// For what.
        algorithm: Algorithm,
        /// How many it has.
        got: usize,
        /// How many it needs.
        least: usize,
    },
    /// More keys than are looked through.
    #[error("has more than {TOKEN_KEYS_MAX} keys")]
    TooMany,
    /// A set without a single key that can be used.
    #[error("has no key for HS256, HS384, HS512, RS256, ES256 or EdDSA")]
    Unusable,
}

impl Key {
    /// Makes a key of a file's content: a secret, or a public key in PEM.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn new(algorithm: Algorithm, content: &[u8]) -> Result<Self, KeyError> {
        let key = match algorithm.secret_bytes_min() {
            Some(least) => secret(algorithm, content, least)?,
            None => public(algorithm, content)?,
        };
        Ok(Self {
            algorithm,
            id: None,
            key,
        })
    }

    /// Makes keys of a JWK set. Those that are for something else are passed over (RFC 7517, 5).
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn of_set(json: &[u8]) -> Result<Vec<Self>, KeyError> {
        #[derive(Deserialize)]
        struct Set<'a> {
            #[serde(borrow)]
            keys: Vec<&'a RawValue>,
        }
        let set: Set<'_> = serde_json::from_slice(json)
            .map_err(|error| KeyError::Jwks(error.to_string().into_boxed_str()))?;
        let keys = set.keys.iter().filter_map(|json| Self::of_jwk(json.get()));
        let keys: Vec<Self> = keys.take(TOKEN_KEYS_MAX + 1).collect();
        match keys.len() {
            0 => Err(KeyError::Unusable),
            1..=TOKEN_KEYS_MAX => Ok(keys),
            _ => Err(KeyError::TooMany),
        }
    }

    /// A JWK whose algorithm is named, or is the only one for its kind.
    fn of_jwk(json: &str) -> Option<Self> {
        let jwk: Jwk = serde_json::from_str(json).ok()?;
        let is_for_signatures = match &jwk.common.public_key_use {
            Some(PublicKeyUse::Signature) | None => true,
            Some(PublicKeyUse::Encryption | PublicKeyUse::Other(_)) => false,
        };
        let operations = jwk.common.key_operations.as_ref();
        let may_verify = operations.is_none_or(|all| all.contains(&KeyOperations::Verify));
        if !is_for_signatures || !may_verify {
            return None;
        }
        let named = jwk.common.key_algorithm.map(|name| name.to_string());
        let kinds: &[Algorithm] = match &jwk.algorithm {
            AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => {
                &[Algorithm::Es256]
            }
            AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => {
                &[Algorithm::EdDsa]
            }
            AlgorithmParameters::RSA(_) => &[Algorithm::Rs256],
            AlgorithmParameters::OctetKey(_) => {
                &[Algorithm::Hs256, Algorithm::Hs384, Algorithm::Hs512]
            }
            _ => return None,
        };
        let algorithm = match (named, kinds) {
            (Some(name), _) => *kinds.iter().find(|kind| kind.name() == name)?,
            (None, [only]) => *only,
            (None, _) => return None,
        };
        let key = DecodingKey::from_jwk(&jwk).ok()?;
        if !fits(algorithm, &key) {
            return None;
        }
        Some(Self {
            algorithm,
            id: jwk.common.key_id.map(String::into_boxed_str),
            key,
        })
    }
}

fn secret(algorithm: Algorithm, content: &[u8], least: usize) -> Result<DecodingKey, KeyError> {
    if content.starts_with(PEM) {
        return Err(KeyError::PemAsSecret(algorithm));
    }
    let secret = without_line_end(content);
    let got = secret.len();
    if got < least {
        return Err(KeyError::Short {
            algorithm,
            got,
            least,
        });
    }
    Ok(DecodingKey::from_secret(secret))
}

/// A secret that was written as a line of text ends before the line end; one of random bytes may
/// end in anything.
pub(super) fn without_line_end(content: &[u8]) -> &[u8] {
    let line = content.strip_suffix(b"\n").unwrap_or(content);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let is_text = line.iter().all(|byte| matches!(byte, b' '..=b'~'));
    if is_text { line } else { content }
}

fn public(algorithm: Algorithm, content: &[u8]) -> Result<DecodingKey, KeyError> {
    let text = content.trim_ascii_start();
    let is_private = text.starts_with(PEM)
        && text
            .split(|byte| *byte == b'\n')
            .next()
            .is_some_and(|line| line.windows(11).any(|word| word == b"PRIVATE KEY"));
    if is_private {
        return Err(KeyError::Private);
    }
    let is_public = text.starts_with(b"-----BEGIN PUBLIC KEY-----")
        || text.starts_with(b"-----BEGIN RSA PUBLIC KEY-----");
    let key = match algorithm {
        Algorithm::Es256 => DecodingKey::from_ec_pem(text),
        Algorithm::EdDsa => DecodingKey::from_ed_pem(text),
        Algorithm::Rs256 => rsa_pem(text),
        Algorithm::Hs256 | Algorithm::Hs384 | Algorithm::Hs512 => {
            return Err(KeyError::Pem(algorithm));
        }
    };
    let key = key.ok().filter(|key| is_public && fits(algorithm, key));
    key.ok_or(KeyError::Pem(algorithm))
}

/// The library would take the bits of any other key for one of RSA, so that these are told apart
/// first.
fn rsa_pem(text: &[u8]) -> jsonwebtoken::errors::Result<DecodingKey> {
    if DecodingKey::from_ec_pem(text).is_ok() || DecodingKey::from_ed_pem(text).is_ok() {
        return Err(jsonwebtoken::errors::ErrorKind::InvalidKeyFormat.into());
    }
    DecodingKey::from_rsa_pem(text)
}

/// Whether a key has the size that its algorithm asks for.
fn fits(algorithm: Algorithm, key: &DecodingKey) -> bool {
    let bytes = key.try_get_as_bytes().map_or(0, <[u8]>::len);
    match algorithm {
        Algorithm::Es256 => bytes == P256_POINT_BYTES,
        Algorithm::EdDsa => bytes == ED25519_KEY_BYTES,
        Algorithm::Hs256 | Algorithm::Hs384 | Algorithm::Hs512 => algorithm
            .secret_bytes_min()
            .is_some_and(|least| bytes >= least),
        Algorithm::Rs256 => match key.kind() {
            jsonwebtoken::DecodingKeyKind::RsaModulusExponent { n, .. } => {
                (RSA_MODULUS_BYTES_MIN..=RSA_MODULUS_BYTES_MAX).contains(&n.len())
            }
            jsonwebtoken::DecodingKeyKind::SecretOrDer(der) => {
                let most = RSA_MODULUS_BYTES_MAX + RSA_FRAME_BYTES_MAX;
                (RSA_MODULUS_BYTES_MIN..=most).contains(&der.len())
            }
        },
    }
}
