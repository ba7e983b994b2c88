//! Checks the verifier of tokens and the parser of key files.
//!
//! The first byte selects what the other bytes are: a token, claims, a header, or a file with keys.
//! A token that is not signed with the configured key must be refused. Claims and headers get a
//! valid signature. A header must be refused if `serde_json` reads another algorithm or critical
//! parameters in it. Claims must be refused if they do not expire in the future. The rights of an
//! accepted token must be within their limits. If one bit of its signature is changed, the token
//! must be refused.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use fanfare::auth::{Grant, Key, KeySet, TokenError, Verifier};
use fanfare::config::limits::{TOKEN_KEYS_MAX, TOKEN_PATTERNS_MAX, TOKEN_SUB_BYTES_MAX};
use fanfare::config::{Algorithm, TokenRules};
use jsonwebtoken::EncodingKey;
use serde_json::Value;

const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";
const HEADER: &[u8] = br#"{"alg":"HS256"}"#;
const CLAIMS: &[u8] = br#"{"exp":2000000000}"#;
/// The time, in seconds since 1970.
pub(super) const NOW_S: u64 = 1_800_000_000;

/// Runs the target on an input: a token, claims, a header, or a file with keys.
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

/// Returns a verifier with our key.
pub(super) fn verifier() -> Verifier {
    let key = Key::new(Algorithm::Hs256, SECRET).expect("a secret");
    Verifier::new(vec![key], TokenRules::default()).expect("a key")
}

fn verify(token: &str) -> Result<Grant, TokenError> {
    verifier().verify(token, NOW_S)
}

/// Returns a token with this header, these claims and a valid signature.
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
    assert!(verify(&text).is_err(), "accepted without our key: {text}");
}

fn claims(bytes: &[u8]) {
    let token = signed(HEADER, bytes);
    let Ok(grant) = verify(&token) else { return };
    // Unknown claims are ignored. They may contain numbers or text that `serde_json` cannot read.
    let Ok(json) = serde_json::from_slice::<Value>(bytes) else {
        return;
    };
    // The server rounds the token's times to seconds, so the checks allow a difference of one
    // second.
    let exp = json["exp"].as_f64().expect("an end");
    assert!(exp > NOW_S as f64 - 1.0 && grant.ends_s > NOW_S, "{json}");
    let has_begun = |nbf: f64| nbf < NOW_S as f64 + 1.0;
    assert!(json["nbf"].is_null() || json["nbf"].as_f64().is_some_and(has_begun));
    assert!(json["iat"].is_null() || json["iat"].is_number());
    assert!(json["aud"].is_null(), "for another audience: {json}");
    let sub = grant.sub.as_deref();
    assert_eq!(sub, json["sub"].as_str().filter(|sub| !sub.is_empty()));
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
        && let Ok(json) = serde_json::from_slice::<Value>(bytes)
    {
        assert_eq!(json["alg"], "HS256");
        assert!(json["crit"].is_null(), "critical parameters: {json}");
    }
}

/// Checks that no secret is shorter than its algorithm needs, and that a key set has an allowed
/// number of keys.
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
