//! Keys that verify tokens. Each key is for one algorithm.
//!
//! Keys are made from the content of a file: a secret, a public key in PEM (RFC 7468), or a JWK set
//! ([`super::jwk`]). A key that is weak or private, or cannot verify tokens, is refused when it is
//! read. So the operator notices a mistake when the server starts, before clients are refused.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ParsedPublicKey};
use jsonwebtoken::DecodingKey;

use super::jwk::KeyName;
use super::rsa::{EXPONENT_BITS_MAX, MODULUS_BITS_MAX, MODULUS_BITS_MIN};
use super::{edwards, rsa};
use crate::config::Algorithm;
use crate::config::limits::TOKEN_KEYS_MAX;

/// The first bytes of a PEM text.
const PEM: &[u8] = b"-----BEGIN ";

/// A key and its algorithm.
#[derive(Clone, Debug)]
pub struct Key {
    pub(super) algorithm: Algorithm,
    /// The `kid` with which a token may select the key.
    pub(super) id: Option<Box<str>>,
    pub(super) key: DecodingKey,
}

/// The reason for which a key is refused. The message of each variant completes a sentence that
/// begins with the name of the file or the key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The key is not a valid public key of Ed25519.
    #[error("has no public key of Ed25519: 32 bytes that encode a point, not of small order")]
    Ed25519,
    /// The key is not a point on P-256.
    #[error("has no point on the curve P-256")]
    Es256,
    /// The RSA exponent is even and therefore has no inverse.
    #[error("has an even RSA exponent (e)")]
    ExponentEven,
    /// The RSA exponent is missing.
    #[error("has no RSA exponent (e): it is empty or zero")]
    ExponentMissing,
    /// The RSA exponent is 1. With this exponent, each message is its own signature.
    #[error("has the RSA exponent (e) 1")]
    ExponentOne,
    /// The RSA exponent is so large that verifying a signature would take too long.
    #[error("has an RSA exponent (e) of {got} bits; at most {EXPONENT_BITS_MAX} are accepted")]
    ExponentSize {
        /// The size in bits.
        got: usize,
    },
    /// A key of a JWK set is refused.
    #[error("cannot be used: {name} {error}")]
    InSet {
        /// The name of the key.
        name: KeyName,
        /// The reason for which the key is refused.
        error: Box<Self>,
    },
    /// A key of a JWK set is not a JWK.
    #[error("is not a JWK: {0}")]
    Jwk(Box<str>),
    /// The text is not a JWK set.
    #[error("is not a JWK set: {0}")]
    Jwks(Box<str>),
    /// A value of a JWK is not base64url (RFC 7515, 2).
    #[error("has a `{0}` that is not base64url without padding")]
    MemberEncoding(&'static str),
    /// A JWK has no value for a member that its kind requires.
    #[error("has no `{0}`")]
    MemberMissing(&'static str),
    /// A value of a JWK has the wrong length.
    #[error("has a `{name}` of {got} bytes; {expected} are required, leading zeros included")]
    MemberSize {
        /// The name of the member.
        name: &'static str,
        /// The actual length in bytes.
        got: usize,
        /// The required length in bytes.
        expected: usize,
    },
    /// The RSA modulus is even and therefore not a product of two large primes.
    #[error("has an even RSA modulus (n)")]
    ModulusEven,
    /// The RSA modulus is too small to be secure, or larger than the library supports.
    #[error(
        "has an RSA modulus (n) of {got} bits; {MODULUS_BITS_MIN} to {MODULUS_BITS_MAX} are accepted"
    )]
    ModulusSize {
        /// The size in bits.
        got: usize,
    },
    /// The `alg` of a JWK is for another kind of key.
    #[error("has the `alg` {0}, which is for another `kty` or `crv`")]
    OtherKind(Algorithm),
    /// The key is malformed, or is not a public key for the algorithm.
    #[error("is not a public key for {0} in PEM (-----BEGIN PUBLIC KEY-----)")]
    Pem(Algorithm),
    /// The key is private. Only the issuer needs a private key.
    #[error("is a private key; only the public one belongs here")]
    Private,
    /// The file for a secret contains a PEM text.
    #[error("is a PEM text; a secret for {0} must be known to issuer and server only")]
    PemAsSecret(Algorithm),
    /// The PEM text contains more than one key.
    #[error("has more than one PEM block; give each key a file, or use a JWK set")]
    Several,
    /// The secret is too short to be secure.
    #[error("has {got} bytes; a secret for {algorithm} has at least {least}")]
    Short {
        /// The algorithm of the key.
        algorithm: Algorithm,
        /// The length of the secret in bytes.
        got: usize,
        /// The minimum length in bytes.
        least: usize,
    },
    /// The number of keys exceeds the limit.
    #[error("has more than {TOKEN_KEYS_MAX} keys")]
    TooMany,
    /// There is no usable key.
    #[error("has no key for HS256, HS384, HS512, RS256, ES256 or EdDSA")]
    Unusable,
}

impl Key {
    /// Makes a key from a file's content: a secret, or a public key in PEM.
    ///
    /// # Errors
    /// Returns the reason to refuse the key, such as [`KeyError::Short`] or [`KeyError::Private`].
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

/// Makes a key from an encoded point on P-256 (SEC 1, 2.3.3).
pub(super) fn es256(point: &[u8]) -> Result<DecodingKey, KeyError> {
    match ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point) {
        Ok(_is_on_the_curve) => Ok(DecodingKey::from_ec_der(point)),
        Err(_rejected) => Err(KeyError::Es256),
    }
}

/// Makes a key from an encoded point on Ed25519.
pub(super) fn ed25519(point: &[u8]) -> Result<DecodingKey, KeyError> {
    let bytes = point.try_into();
    if bytes.is_ok_and(edwards::is_public_key) {
        Ok(DecodingKey::from_ed_der(point))
    } else {
        Err(KeyError::Ed25519)
    }
}

/// Returns the secret in a file's content. If the content is text, the line end is removed. Other
/// content is returned unchanged, because its last bytes may be random.
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

/// Returns the bytes of the key that the jsonwebtoken crate has found in a PEM text. The crate does
/// not check these bytes. It also accepts keys of other kinds as RSA keys.
fn bytes(found: jsonwebtoken::errors::Result<DecodingKey>) -> Option<Vec<u8>> {
    found.ok()?.try_get_as_bytes().ok().map(<[u8]>::to_vec)
}
