//! Addresses for clients, and the protocols on each of them.
//!
//! This module contains only data. An entry of the file is a text or a table. The text is an
//! address followed by words; the command line and the environment use the same form.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};
use serde::{Serialize, Serializer};

/// The word after an address that selects TLS.
const TLS: &str = "tls";
/// The word after an address that selects the PROXY protocol.
const PROXY: &str = "proxy";

/// One address to listen on, and its protocols.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listen {
    /// The IP address and port.
    pub address: SocketAddr,
    /// Whether connections to this address use TLS.
    pub is_tls: bool,
    /// Whether connections to this address begin with a PROXY header, before TLS.
    pub is_proxied: bool,
}

/// The error for a text that is not an address with optional words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an address and port, optionally followed by `tls` and `proxy`")]
pub struct ListenError(String);

impl Listen {
    /// Creates an entry without TLS and without the PROXY protocol.
    #[must_use]
    pub fn plain(address: SocketAddr) -> Self {
        Self {
            address,
            is_tls: false,
            is_proxied: false,
        }
    }
}

impl FromStr for Listen {
    type Err = ListenError;

    fn from_str(text: &str) -> Result<Self, ListenError> {
        let bad = || ListenError(String::from(text));
        let mut words = text.split_whitespace();
        let address = words.next().unwrap_or_default();
        let mut listen = Self::plain(address.parse().map_err(|_not_one| bad())?);
        for word in words {
            match word {
                TLS if !listen.is_tls => listen.is_tls = true,
                PROXY if !listen.is_proxied => listen.is_proxied = true,
                _ => return Err(bad()),
            }
        }
        Ok(listen)
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.address)?;
        for (is_said, word) in [(self.is_tls, TLS), (self.is_proxied, PROXY)] {
            if is_said {
                write!(f, " {word}")?;
            }
        }
        Ok(())
    }
}

impl Serialize for Listen {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Listen {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(EntryVisitor)
    }
}

struct EntryVisitor;

impl<'de> Visitor<'de> for EntryVisitor {
    type Value = Listen;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an address such as \"127.0.0.1:8080\" or { address = \"…\", tls = true }")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Listen, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Listen, A::Error> {
        let entry = Entry::deserialize(MapAccessDeserializer::new(map))?;
        Ok(Listen {
            address: entry.address,
            is_tls: entry.tls,
            is_proxied: entry.proxy_protocol,
        })
    }
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    address: SocketAddr,
    #[serde(default)]
    tls: bool,
    #[serde(default)]
    proxy_protocol: bool,
}

/// Certificates and keys for TLS.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tls {
    /// The files with certificate chains in PEM. The server name that a client requests (SNI)
    /// selects a chain. The first chain is the default.
    pub certificates: Vec<PathBuf>,
    /// Files with the private keys of the certificates, in the same order.
    pub keys: Vec<PathBuf>,
    /// File with the certificates of the authorities that sign client certificates.
    pub client_authorities: PathBuf,
    /// Whether clients need a certificate.
    pub client_auth: ClientAuth,
    /// The maximum time for the TLS handshake, in milliseconds. The time for the request head
    /// starts after the handshake.
    pub handshake_ms: u64,
    /// Whether a self-signed certificate is generated at the start, for testing.
    pub self_signed: bool,
}

impl Tls {
    /// Whether the server has a certificate of its own.
    #[must_use]
    pub fn has_certificates(&self) -> bool {
        self.self_signed || !self.certificates.is_empty()
    }

    /// Returns the maximum time for the TLS handshake.
    #[must_use]
    pub fn handshake(&self) -> Duration {
        Duration::from_millis(self.handshake_ms)
    }
}

impl Default for Tls {
    fn default() -> Self {
        Self {
            certificates: Vec::new(),
            keys: Vec::new(),
            client_authorities: PathBuf::new(),
            client_auth: ClientAuth::default(),
            handshake_ms: 10_000,
            self_signed: false,
        }
    }
}

/// Whether clients need a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ClientAuth {
    /// No certificate is requested.
    #[default]
    Off,
    /// A certificate that a client sends must be valid.
    Optional,
    /// Each client must send a valid certificate.
    Required,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entry_is_a_text_or_a_table_and_prints_as_the_text() {
        #[derive(serde::Deserialize)]
        struct File {
            listen: Vec<Listen>,
        }
        let text = "listen = [\"127.0.0.1:80\", \"[::1]:443  tls\", \
                    { address = \"0.0.0.0:443\", tls = true }, { address = \"0.0.0.0:80\" }, \
                    \"0.0.0.0:81 proxy tls\", \
                    { address = \"0.0.0.0:82\", proxy_protocol = true }]";
        let file: File = toml::from_str(text).unwrap();
        let texts: Vec<_> = file.listen.iter().map(ToString::to_string).collect();
        let expected = [
            "127.0.0.1:80",
            "[::1]:443 tls",
            "0.0.0.0:443 tls",
            "0.0.0.0:80",
            "0.0.0.0:81 tls proxy",
            "0.0.0.0:82 proxy",
        ];
        assert_eq!(texts, expected);
    }

    #[test]
    fn text_with_a_bad_address_or_an_unknown_word_is_refused() {
        for text in [
            "",
            "tls",
            "localhost:80",
            "127.0.0.1",
            "127.0.0.1:80 ssl",
            "127.0.0.1:80 tls tls",
            "127.0.0.1:80 proxy tls proxy",
        ] {
            let error = text.parse::<Listen>().unwrap_err();
            assert!(error.to_string().contains(&format!("`{text}`")), "{error}");
        }
    }
}
