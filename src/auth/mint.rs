//! Makes a token, for trying out: signed with a secret that the server knows too.
//!
//! Who signs with a private key has a service of his own for it, so there is no more than HMAC
//! here. Used by the command line and by tests; the server itself never makes a token.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::EncodingKey;
use serde_json::{Map, Value, json};

use super::algorithm::Algorithm;
use super::key::{Key, KeyError, without_line_end};

/// What a token is to say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wish {
    /// Whom it is about.
    pub sub: Option<String>,
    /// Patterns of channels that may be subscribed to.
    pub subscribe: Vec<String>,
    /// Patterns of channels that may be published to.
    pub publish: Vec<String>,
    /// For whom it is.
    pub audience: Option<String>,
    /// From whom it is.
    pub issuer: Option<String>,
    /// When it ends, in seconds of the calendar.
    pub expires_s: u64,
}

/// Why there is no token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MintError {
    /// The key is none.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// Not an algorithm with a secret.
    #[error("only HS256, HS384 and HS512 can be signed here, not {0}")]
    Algorithm(Algorithm),
    /// The library refuses.
    #[error("cannot sign")]
    Library,
}

/// Makes a token, signed with the secret in a file's content.
///
/// # Errors
/// When the content is no secret for the algorithm.
pub fn mint(algorithm: Algorithm, content: &[u8], wish: &Wish) -> Result<String, MintError> {
    if algorithm.secret_bytes_min().is_none() {
        return Err(MintError::Algorithm(algorithm));
    }
    Key::new(algorithm, content)?;
    let header = json!({"alg": algorithm.name(), "typ": "JWT"});
    let message = [encode(&header), encode(&claims(wish))].join(".");
    let key = EncodingKey::from_secret(without_line_end(content));
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, algorithm.of_library());
    let signature = signature.map_err(|_refused| MintError::Library)?;
    Ok([message, signature].join("."))
}

fn claims(wish: &Wish) -> Value {
    let mut claims = Map::new();
    let named = [
        ("sub", &wish.sub),
        ("aud", &wish.audience),
        ("iss", &wish.issuer),
    ];
    for (name, value) in named {
        if let Some(value) = value {
            claims.insert(String::from(name), json!(value));
        }
    }
    claims.insert(String::from("exp"), json!(wish.expires_s));
    let rights = json!({"subscribe": wish.subscribe, "publish": wish.publish});
    claims.insert(String::from("fanfare"), rights);
    Value::Object(claims)
}

fn encode(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}
