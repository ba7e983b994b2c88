//! Makes a token for tests and development, signed with a secret that the server shares.
//!
//! Only HMAC is supported, because private keys belong in an issuer's own service. The callers are
//! the command line and tests; the server itself never makes a token.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::EncodingKey;
use serde_json::{Map, Value, json};

use super::key::{Key, KeyError, without_line_end};
use crate::config::Algorithm;

/// The claims of a new token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenSpec {
    /// The subject (`sub`).
    pub sub: Option<String>,
    /// Patterns of channels to which the client may subscribe.
    pub subscribe: Vec<String>,
    /// Patterns of channels to which the client may publish.
    pub publish: Vec<String>,
    /// The audience (`aud`).
    pub audience: Option<String>,
    /// The issuer (`iss`).
    pub issuer: Option<String>,
    /// The expiry (`exp`) in seconds since 1970.
    pub expires_s: u64,
}

/// The reason for which a token cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MintError {
    /// The secret is refused.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The algorithm does not use a secret.
    #[error("only HS256, HS384 and HS512 can be signed here, not {0}")]
    Algorithm(Algorithm),
    /// The signing library returned an error.
    #[error("cannot sign")]
    Library,
}

/// Makes a token, signed with the secret in a file's content.
///
/// # Errors
/// Returns [`MintError::Algorithm`] for an algorithm without a secret. Returns [`MintError::Key`]
/// if the content is not a secret for the algorithm.
pub fn mint(algorithm: Algorithm, content: &[u8], spec: &TokenSpec) -> Result<String, MintError> {
    if algorithm.secret_bytes_min().is_none() {
        return Err(MintError::Algorithm(algorithm));
    }
    Key::new(algorithm, content)?;
    let header = json!({"alg": algorithm.name(), "typ": "JWT"});
    let message = [encode(&header), encode(&claims(spec))].join(".");
    let key = EncodingKey::from_secret(without_line_end(content));
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, algorithm.of_library());
    let signature = signature.map_err(|_refused| MintError::Library)?;
    Ok([message, signature].join("."))
}

fn claims(spec: &TokenSpec) -> Value {
    let mut claims = Map::new();
    let named = [
        ("sub", &spec.sub),
        ("aud", &spec.audience),
        ("iss", &spec.issuer),
    ];
    for (name, value) in named {
        if let Some(value) = value {
            claims.insert(String::from(name), json!(value));
        }
    }
    claims.insert(String::from("exp"), json!(spec.expires_s));
    let rights = json!({"subscribe": spec.subscribe, "publish": spec.publish});
    claims.insert(String::from("fanfare"), rights);
    Value::Object(claims)
}

fn encode(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}
