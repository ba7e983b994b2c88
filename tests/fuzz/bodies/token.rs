//! Tokens: as a peer sends them, with a right signature below anything, and keys from files.
//!
//! The first byte says what the rest is. Nothing is let in that was not signed with our key, and of
//! what was, nothing that another reader of its JSON would refuse: no header of another algorithm
//! or with something critical, no claims without an end ahead of now. A grant is within its bounds,
//! and a signature that differs by one bit is worth nothing.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use fanfare::auth::{Algorithm, Grant, Key, KeySet, Terms, TokenError, Verifier};
use fanfare::config::limits::{TOKEN_KEYS_MAX, TOKEN_PATTERNS_MAX, TOKEN_SUB_BYTES_MAX};
use jsonwebtoken::EncodingKey;
use serde_json::Value;

const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";
const HEADER: &[u8] = br#"{"alg":"HS256"}"#;
const CLAIMS: &[u8] = br#"{"exp":2000000000}"#;
/// The time, in seconds since 1970.
pub(super) const NOW_S: u64 = 1_800_000_000;

/// A token, its claims, its header, or a file with keys.
pub fn attack(bytes: &[u8]) {
    let Some((kind, rest)) = bytes.split_first() else {
        return;
    };
    match kind % 4 {
        0 => token(rest),
        1 => claims(rest),
        2 => header(rest),
        _ => keys(rest),
    }
}

/// What knows our key.
pub(super) fn verifier() -> Verifier {
    let key = Key::new(Algorithm::Hs256, SECRET).expect("a secret");
    Verifier::new(vec![key], Terms::default()).expect("a key")
}

fn verify(token: &str) -> Result<Grant, TokenError> {
    verifier().verify(token, NOW_S)
}

/// A header and claims with the signature that belongs to them.
fn signed(header: &[u8], claims: &[u8]) -> String {
    let message = format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(header),
        URL_SAFE_NO_PAD.encode(claims)
    );
    let key = EncodingKey::from_secret(SECRET);
    let algorithm = jsonwebtoken::Algorithm::HS256;
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, algorithm);
    format!("{message}.{}", signature.expect("a signature"))
}

fn token(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    assert!(verify(&text).is_err(), "let in without our key: {text}");
}

fn claims(bytes: &[u8]) {
    let token = signed(HEADER, bytes);
    let Ok(grant) = verify(&token) else { return };
    // What means nothing here is passed over, and may hold numbers or text that nobody can.
    let Ok(said) = serde_json::from_slice::<Value>(bytes) else {
        return;
    };
    // Parts of seconds are rounded.
    let exp = said["exp"].as_f64().expect("an end");
    assert!(exp > NOW_S as f64 - 1.0 && grant.ends_s > NOW_S, "{said}");
    let has_begun = |nbf: f64| nbf < NOW_S as f64 + 1.0;
    assert!(said["nbf"].is_null() || said["nbf"].as_f64().is_some_and(has_begun));
    assert!(said["iat"].is_null() || said["iat"].is_number());
    assert!(said["aud"].is_null(), "for somebody else: {said}");
    let sub = grant.sub.as_deref();
    assert_eq!(sub, said["sub"].as_str().filter(|sub| !sub.is_empty()));
    assert!(sub.is_none_or(|sub| sub.len() <= TOKEN_SUB_BYTES_MAX));
    assert!(grant.subscribe.len() + grant.publish.len() <= 2 * TOKEN_PATTERNS_MAX);

    let (message, signature) = token.rsplit_once('.').expect("a signature");
    let mut signature = URL_SAFE_NO_PAD.decode(signature).expect("base64url");
    let at = bytes.len() % signature.len();
    signature[at] ^= 1 << (bytes.len() % 8);
    let forged = format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature));
    assert_eq!(verify(&forged), Err(TokenError::Signature));
}

fn header(bytes: &[u8]) {
    if verify(&signed(bytes, CLAIMS)).is_ok()
        && let Ok(said) = serde_json::from_slice::<Value>(bytes)
    {
        assert_eq!(said["alg"], "HS256");
        assert!(said["crit"].is_null(), "something critical: {said}");
    }
}

/// Whatever a file holds, what it is not is said, and no key is made of less than it takes.
fn keys(bytes: &[u8]) {
    for algorithm in Algorithm::ALL {
        let is_key = Key::new(algorithm, bytes).is_ok();
        let least = algorithm.secret_bytes_min().unwrap_or(1);
        assert!(!is_key || bytes.len() >= least, "{algorithm}");
    }
    if let Ok(set) = KeySet::parse(bytes) {
        assert!((1..=TOKEN_KEYS_MAX).contains(&set.keys.len()));
    }
}
