//! The section `[tracing]`: which spans are recorded, and where they are written.

use std::net::Ipv6Addr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::Share;

/// The path to which spans are posted if the endpoint has none (OTLP/HTTP).
const DEFAULT_PATH: &str = "/v1/traces";
const SCHEME: &str = "http://";

/// Where spans are written, and which part of them.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tracing {
    /// The URL of a collector that accepts OTLP over HTTP in JSON. If empty, spans are not posted.
    pub endpoint: String,
    /// The file to which spans are appended, one JSON line for each batch. If empty, spans are not
    /// written to a file.
    pub file: PathBuf,
    /// The part of the publications and connections without a trace context of which spans are
    /// recorded. A trace context decides by its sampled flag.
    pub sample: Share,
    /// The maximum number of spans per second that sampled flags of clients cause. The flags of the
    /// feed have no limit, because its processes are trusted. Beyond the limit, `sample` decides.
    pub client_spans_per_second: u32,
}

impl Default for Tracing {
    fn default() -> Self {
        Self {
            endpoint: String::new(),
            file: PathBuf::new(),
            sample: Share::HUNDREDTH,
            client_spans_per_second: 10,
        }
    }
}

/// The reason why an endpoint cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// The URL has credentials, which would be in plain sight.
    #[error("must not contain a user name or password")]
    Credentials,
    /// The URL has no valid host.
    #[error("must name a host or an address, such as http://127.0.0.1:4318 or http://[::1]:4318")]
    Host,
    /// The path has a character that a URL cannot contain.
    #[error("must have a path of characters that a URL can contain; escape others with %")]
    Path,
    /// The text after the host is not a port.
    #[error("must have a port from 1 to 65535 after the host, or none for port 80")]
    Port,
    /// The URL has a query or a fragment.
    #[error("must not have a query or fragment")]
    Query,
    /// The scheme is not `http`.
    #[error("must begin with http://; the server does not speak TLS to a collector")]
    Scheme,
}

impl Tracing {
    /// Whether spans are written anywhere.
    #[must_use]
    pub fn is_on(&self) -> bool {
        !self.endpoint.is_empty() || !self.file.as_os_str().is_empty()
    }

    /// Returns the URL to which spans are posted; `None` if they are not posted. Without a path in
    /// the endpoint, the URL has the path `/v1/traces`.
    ///
    /// # Errors
    /// Returns an [`EndpointError`] if the endpoint is not a plain `http` URL.
    pub fn url(&self) -> Result<Option<String>, EndpointError> {
        if self.endpoint.is_empty() {
            return Ok(None);
        }
        let (scheme, rest) = self
            .endpoint
            .split_at_checked(SCHEME.len())
            .unwrap_or_default();
        if !scheme.eq_ignore_ascii_case(SCHEME) {
            return Err(EndpointError::Scheme);
        }
        if rest.contains('@') {
            return Err(EndpointError::Credentials);
        }
        if rest.contains(['?', '#']) {
            return Err(EndpointError::Query);
        }
        let at = rest.find('/').unwrap_or(rest.len());
        let (authority, path) = rest.split_at(at);
        check_authority(authority)?;
        if !path.bytes().all(is_path_byte) {
            return Err(EndpointError::Path);
        }
        let path = match path {
            "" | "/" => DEFAULT_PATH,
            path => path,
        };
        Ok(Some(format!("{SCHEME}{authority}{path}")))
    }

    /// Returns the endpoint for a message, unless it may contain a secret.
    #[must_use]
    pub fn shown_endpoint(&self) -> Option<&str> {
        let endpoint = self.endpoint.as_str();
        (!endpoint.contains(['@', '?', '#'])).then_some(endpoint)
    }
}

/// Checks a host name or address, with an optional port.
fn check_authority(text: &str) -> Result<(), EndpointError> {
    let (is_host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']').ok_or(EndpointError::Host)?;
            (address.parse::<Ipv6Addr>().is_ok(), port)
        }
        None => {
            let (name, port) = text.split_at(text.find(':').unwrap_or(text.len()));
            (!name.is_empty() && name.bytes().all(is_name_byte), port)
        }
    };
    if !is_host {
        return Err(EndpointError::Host);
    }
    match port.strip_prefix(':') {
        None if port.is_empty() => Ok(()),
        Some(digits) if is_port(digits) => Ok(()),
        Some(_) | None => Err(EndpointError::Port),
    }
}

fn is_port(digits: &str) -> bool {
    let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
    is_number && digits.parse::<u16>().is_ok_and(|port| port > 0)
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._".contains(&byte)
}

/// Whether a byte may be in a path (RFC 3986, 3.3).
fn is_path_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(endpoint: &str) -> Result<Option<String>, EndpointError> {
        let endpoint = endpoint.to_owned();
        let tracing = Tracing {
            endpoint,
            ..Tracing::default()
        };
        tracing.url()
    }

    #[test]
    fn endpoint_is_a_plain_url_with_the_path_of_otlp_by_default() {
        assert_eq!(url(""), Ok(None));
        for (endpoint, expected) in [
            ("http://127.0.0.1:4318", "http://127.0.0.1:4318/v1/traces"),
            ("http://[::1]:4318/", "http://[::1]:4318/v1/traces"),
            ("http://[::1]", "http://[::1]/v1/traces"),
            ("http://otel.internal", "http://otel.internal/v1/traces"),
            ("http://a:1/otlp/v1/traces", "http://a:1/otlp/v1/traces"),
            ("HTTP://a_b:65535/x%20y", "http://a_b:65535/x%20y"),
        ] {
            assert_eq!(url(endpoint), Ok(Some(expected.to_owned())), "{endpoint}");
        }
        for (endpoint, expected) in [
            ("127.0.0.1:4318", EndpointError::Scheme),
            ("https://a", EndpointError::Scheme),
            ("http://", EndpointError::Host),
            ("http:///v1/traces", EndpointError::Host),
            ("http:/", EndpointError::Scheme),
            ("http://a:b/", EndpointError::Port),
            ("http://a:99999/", EndpointError::Port),
            ("http://a:0/", EndpointError::Port),
            ("http://a:+80/", EndpointError::Port),
            ("http://a:/", EndpointError::Port),
            ("http://[::1]4318", EndpointError::Port),
            ("http://[::1/", EndpointError::Host),
            ("http://[a]:1/", EndpointError::Host),
            ("http://[]/", EndpointError::Host),
            ("http://a\\b/", EndpointError::Host),
            ("http://::1/", EndpointError::Host),
            ("http://:4318/", EndpointError::Host),
            ("http://a b/", EndpointError::Host),
            ("http://a/\u{e9}", EndpointError::Path),
            ("http://a/<x>", EndpointError::Path),
            ("http://u:p/x@a/", EndpointError::Credentials),
            ("http://u:p@a/", EndpointError::Credentials),
            ("http://a/?token=x", EndpointError::Query),
            ("http://a/#x", EndpointError::Query),
        ] {
            assert_eq!(url(endpoint), Err(expected), "{endpoint}");
        }
    }

    #[test]
    fn file_or_endpoint_turns_tracing_on() {
        let off = Tracing::default();
        assert!(!off.is_on());
        let file = PathBuf::from("spans.json");
        let endpoint = String::from("http://a");
        assert!(
            Tracing {
                file,
                ..off.clone()
            }
            .is_on()
        );
        assert!(Tracing { endpoint, ..off }.is_on());
    }
}
