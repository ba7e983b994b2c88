//! Keys that verify tokens, and the parts of a request that may contain a token.
//!
//! Without keys, all clients are anonymous and may subscribe to every channel. With keys, a client
//! needs a token unless a namespace allows anonymous subscriptions. This file contains only data.
//! [`super::validate`] checks the values, and the server reads the files.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Algorithm;
use super::Config;
use crate::id::ChannelName;

/// The configuration of tokens (RFC 7519).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Auth {
    /// Files that contain one key each.
    pub keys: Vec<KeyFile>,
    /// A file with a set of keys (RFC 7517). Empty means no set.
    pub jwks: PathBuf,
    /// The required audience (`aud`). If empty, tokens must not have an audience.
    pub audience: String,
    /// The required issuer (`iss`). If empty, any issuer with a valid signature is accepted.
    pub issuer: String,
    /// The maximum difference between the clocks of issuer and server, in milliseconds.
    pub leeway_ms: u64,
    /// The name of the cookie that may contain a token. Empty means no cookie.
    pub cookie: String,
    /// The name of the query parameter that may contain a token. Empty means no parameter.
    pub query: String,
    /// The maximum time that a WebSocket without a token in its handshake may take to send an
    /// `auth` command, in milliseconds.
    pub deadline_ms: u64,
}

impl Default for Auth {
    fn default() -> Self {
        Self {
            keys: Vec::new(),
            jwks: PathBuf::new(),
            audience: String::new(),
            issuer: String::new(),
            leeway_ms: 5_000,
            cookie: String::new(),
            query: String::new(),
            deadline_ms: 10_000,
        }
    }
}

impl Auth {
    /// Whether keys are configured, so that clients need tokens.
    #[must_use]
    pub fn is_on(&self) -> bool {
        !self.keys.is_empty() || !self.jwks.as_os_str().is_empty()
    }

    /// Returns the requirements that every token must meet in addition to a valid signature.
    #[must_use]
    pub fn token_rules(&self) -> TokenRules {
        let named = |text: &str| (!text.is_empty()).then(|| Box::from(text));
        TokenRules {
            audience: named(&self.audience),
            issuer: named(&self.issuer),
            leeway_s: self.leeway_ms.div_ceil(1000),
        }
    }

    /// Returns the maximum time that a WebSocket may take to send an `auth` command.
    #[must_use]
    pub fn deadline(&self) -> Duration {
        Duration::from_millis(self.deadline_ms)
    }
}

/// The requirements that every token must meet in addition to a valid signature.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenRules {
    /// This server's name in `aud`. If `None`, tokens with an audience are refused.
    pub audience: Option<Box<str>>,
    /// The required `iss`. If `None`, `iss` is not checked.
    pub issuer: Option<Box<str>>,
    /// The tolerated difference between the clocks, in seconds.
    pub leeway_s: u64,
}

/// A key file and the only algorithm of its key, as in `RS256 /etc/fanfare/issuer.pem`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct KeyFile {
    /// The algorithm of the key.
    pub algorithm: Algorithm,
    /// The path of the file.
    pub path: PathBuf,
}

/// The error for a text that is not an algorithm followed by a path.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not an algorithm (HS256, HS384, HS512, RS256, ES256 or EdDSA) followed by a file, \
     as in `RS256 /etc/fanfare/issuer.pem`"
)]
pub struct KeyFileError(String);

impl TryFrom<String> for KeyFile {
    type Error = KeyFileError;

    fn try_from(text: String) -> Result<Self, KeyFileError> {
        let parts = text.trim().split_once(' ');
        let parts = parts.map(|(name, path)| (Algorithm::from_name(name), path.trim()));
        match parts {
            Some((Some(algorithm), path)) if !path.is_empty() => Ok(Self {
                algorithm,
                path: PathBuf::from(path),
            }),
            _ => Err(KeyFileError(text)),
        }
    }
}

impl From<KeyFile> for String {
    fn from(file: KeyFile) -> Self {
        file.to_string()
    }
}

impl fmt::Display for KeyFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.algorithm, self.path.display())
    }
}

impl Config {
    /// Whether clients may subscribe to a channel without a token.
    #[must_use]
    pub fn is_open(&self, channel: &ChannelName) -> bool {
        !self.auth.is_on() || self.client_rules(channel).anonymous_subscribe
    }

    /// Whether clients may subscribe to at least one channel without a token.
    #[must_use]
    pub fn has_open_channels(&self) -> bool {
        let mut namespaces = self.namespace.iter();
        !self.auth.is_on()
            || namespaces.any(|namespace| namespace.anonymous_subscribe == Some(true))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Namespace;

    #[test]
    fn key_file_is_an_algorithm_and_a_path() {
        let file = KeyFile::try_from(String::from("ES256 /a b/key.pem")).unwrap();
        assert_eq!(file.algorithm, Algorithm::Es256);
        assert_eq!(file.path, PathBuf::from("/a b/key.pem"));
        assert_eq!(String::from(file), "ES256 /a b/key.pem");
        for text in [
            "",
            "/key.pem",
            "ES256",
            "ES256 ",
            "es256 /key.pem",
            "none /key",
        ] {
            assert!(KeyFile::try_from(String::from(text)).is_err(), "{text}");
        }
    }

    #[test]
    fn channels_are_open_without_keys_or_if_their_namespace_allows_it() {
        let channel = |name| ChannelName::new(name).unwrap();
        let mut config = Config::default();
        assert!(config.is_open(&channel("a")) && config.has_open_channels());
        config.auth.jwks = PathBuf::from("jwks.json");
        assert!(!config.is_open(&channel("a")) && !config.has_open_channels());
        config.namespace.push(Namespace {
            pattern: "news:*".into(),
            anonymous_subscribe: Some(true),
            ..Namespace::default()
        });
        assert!(config.is_open(&channel("news:1")) && config.has_open_channels());
        assert!(!config.is_open(&channel("new")));
    }
}
