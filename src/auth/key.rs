//! Keys that verify tokens, each for one algorithm.
//!
//! A key is made from the contents of a file: a secret, a public key in PEM (RFC 7468), or a JWK
//! set ([`super::jwk`]). A key that is weak, private, for another use, or cannot verify anything is
//! refused when it is read, so that a mistake shows at start, not as refused clients.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ParsedPublicKey};
use jsonwebtoken::DecodingKey;

use super::jwk::KeyName;
use super::rsa::{EXPONENT_BITS_MAX, MODULUS_BITS_MAX, MODULUS_BITS_MIN};
use super::{edwards, rsa};
use crate::config::Algorithm;
use crate::config::limits::TOKEN_KEYS_MAX;

/// The beginning of a PEM text.
const PEM: &[u8] = b"-----BEGIN ";

/// A key and its one algorithm.
#[derive(Clone, Debug)]
pub struct Key {
    pub(super) algorithm: Algorithm,
    /// The `kid` by which a token may choose it.
    pub(super) id: Option<Box<str>>,
    pub(super) key: DecodingKey,
}

/// Why a key is refused. Each text continues the name of the file or of the key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not a valid public key of Ed25519.
    #[error("has no public key of Ed25519: 32 bytes that encode a point, not of small order")]
    Ed25519,
    /// Not a point of P-256.
    #[error("has no point on the curve P-256")]
    Es256,
    /// An even RSA exponent, which has no inverse.
    #[error("has an even RSA exponent (e)")]
    ExponentEven,
    /// No RSA exponent.
    #[error("has no RSA exponent (e): it is empty or zero")]
    ExponentMissing,
    /// The RSA exponent 1, with which each message is its own signature.
    #[error("has the RSA exponent (e) 1")]
    ExponentOne,
    /// An RSA exponent that is too large to verify quickly.
    #[error("has an RSA exponent (e) of {got} bits; at most {EXPONENT_BITS_MAX} are accepted")]
    ExponentSize {
        /// Its size in bits.
        got: usize,
    },
    /// A key of a set.
    #[error("cannot be used: {name} {error}")]
    InSet {
        /// The key.
        name: KeyName,
        /// The reason.
        error: Box<Self>,
    },
    /// A key of a set that is not a JWK.
    #[error("is not a JWK: {0}")]
    Jwk(Box<str>),
    /// The text is not a JWK set.
    #[error("is not a JWK set: {0}")]
    Jwks(Box<str>),
    /// A value of a JWK that is not base64url (RFC 7515, 2).
    #[error("has a `{0}` that is not base64url without padding")]
    MemberEncoding(&'static str),
    /// A JWK lacks a value that its kind requires.
    #[error("has no `{0}`")]
    MemberMissing(&'static str),
    /// A value of a JWK has the wrong length.
    #[error("has a `{name}` of {got} bytes; {expected} are required, leading zeros included")]
    MemberSize {
        /// The name of the value.
        name: &'static str,
        /// Its length.
        got: usize,
        /// The required length.
        expected: usize,
    },
    /// An even RSA modulus, which is not a product of two large primes.
    #[error("has an even RSA modulus (n)")]
    ModulusEven,
    /// An RSA modulus that is too small to be safe or too large to be verified.
    #[error(
        "has an RSA modulus (n) of {got} bits; {MODULUS_BITS_MIN} to {MODULUS_BITS_MAX} are accepted"
    )]
    ModulusSize {
        /// Its size in bits.
        got: usize,
    },
    /// A JWK whose `alg` is for another kind of key.
    #[error("has the `alg` {0}, which is for another `kty` or `crv`")]
    OtherKind(Algorithm),
    /// Another kind of key, or a malformed one.
    #[error("is not a public key for {0} in PEM (-----BEGIN PUBLIC KEY-----)")]
    Pem(Algorithm),
    /// A private key, which only the issuer needs.
    #[error("is a private key; only the public one belongs here")]
    Private,
    /// A PEM text in place of a secret.
    #[error("is a PEM text; a secret for {0} must be known to issuer and server only")]
    PemAsSecret(Algorithm),
    /// A PEM text with more than one key.
    #[error("has more than one PEM block; give each key a file, or use a JWK set")]
    Several,
    /// A secret that is too short to be safe.
    #[error("has {got} bytes; a secret for {algorithm} has at least {least}")]
    Short {
        /// The algorithm.
        algorithm: Algorithm,
        /// The length of the secret.
        got: usize,
        /// The minimum length.
        least: usize,
    },
    /// Too many keys.
    #[error("has more than {TOKEN_KEYS_MAX} keys")]
    TooMany,
    /// A set without a usable key.
    #[error("has no key for HS256, HS384, HS512, RS256, ES256 or EdDSA")]
    Unusable,
}

impl Key {
    /// Makes a key from a file's content: a secret, or a public key in PEM.
    ///
    /// # Errors
    /// Returns the reason to refuse it, such as [`KeyError::Short`] or [`KeyError::Private`].
    pub fn new(algorithm: Algorithm, content: &[u8]) -> Result<Self, KeyError> {
        let key = match algorithm.secret_bytes_min() {
            Some(_) if content.starts_with(PEM) => return Err(KeyError::PemAsSecret(algorithm)),
            Some(_) => secret(algorithm, without_line_end(content))?,
            None => public(algorithm, content)?,
        };
        Ok(Self {
            algorithm,
            id: None,
            key,
        })
    }
}

/// Makes a key from a secret.
pub(super) fn secret(algorithm: Algorithm, secret: &[u8]) -> Result<DecodingKey, KeyError> {
    let least = algorithm.secret_bytes_min().unwrap_or(usize::MAX);
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

/// Makes a key from a point on P-256 (SEC 1, 2.3.3).
pub(super) fn es256(point: &[u8]) -> Result<DecodingKey, KeyError> {
    match ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point) {
        Ok(_is_on_the_curve) => Ok(DecodingKey::from_ec_der(point)),
        Err(_rejected) => Err(KeyError::Es256),
    }
}

/// Makes a key from an encoded point of Ed25519.
pub(super) fn ed25519(point: &[u8]) -> Result<DecodingKey, KeyError> {
    let bytes = point.try_into();
    if bytes.is_ok_and(edwards::is_public_key) {
        Ok(DecodingKey::from_ed_der(point))
    } else {
        Err(KeyError::Ed25519)
    }
}

/// The secret in a file. A line end is removed from text, but not from random bytes, which may end
/// in any byte.
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
    let mut begins = memchr::memmem::find_iter(text, PEM);
    if begins.nth(1).is_some() {
        return Err(KeyError::Several);
    }
    let is_public = text.starts_with(b"-----BEGIN PUBLIC KEY-----")
        || text.starts_with(b"-----BEGIN RSA PUBLIC KEY-----");
    let made = match algorithm {
        _ if !is_public => None,
        Algorithm::Es256 => bytes(DecodingKey::from_ec_pem(text)).map(|point| es256(&point)),
        Algorithm::EdDsa => bytes(DecodingKey::from_ed_pem(text)).map(|point| ed25519(&point)),
        Algorithm::Rs256 => {
            bytes(DecodingKey::from_rsa_pem(text)).and_then(|der| rsa::of_der(&der))
        }
        Algorithm::Hs256 | Algorithm::Hs384 | Algorithm::Hs512 => None,
    };
    made.ok_or(KeyError::Pem(algorithm))?
}

/// The bytes that the library has extracted from a PEM text. It does not check them, and accepts
/// any other key as one of RSA.
fn bytes(found: jsonwebtoken::errors::Result<DecodingKey>) -> Option<Vec<u8>> {
    found.ok()?.try_get_as_bytes().ok().map(<[u8]>::to_vec)
}
