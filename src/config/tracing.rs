//! The section `[tracing]`: which spans are recorded, and where they are written.

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
    /// The URL has no valid host and port.
    #[error("must name a host, such as http://127.0.0.1:4318")]
    Host,
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
        let rest = self.endpoint.strip_prefix(SCHEME);
        let rest = rest.ok_or(EndpointError::Scheme)?;
        if rest.contains(['?', '#']) {
            return Err(EndpointError::Query);
        }
        let at = rest.find('/').unwrap_or(rest.len());
        let (authority, path) = rest.split_at(at);
        if authority.contains('@') {
            return Err(EndpointError::Credentials);
        }
        let is_url = self.endpoint.bytes().all(|byte| byte.is_ascii_graphic());
        if !is_url || !is_authority(authority) {
            return Err(EndpointError::Host);
        }
        let path = match path {
            "" | "/" => DEFAULT_PATH,
            path => path,
        };
        Ok(Some(format!("{SCHEME}{authority}{path}")))
    }
}

/// Whether a text is a host name or address, with an optional port.
fn is_authority(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    let is_host = match host.strip_prefix('[') {
        Some(rest) => rest.ends_with(']'),
        None => !host.is_empty() && !host.contains([':', '[', ']']),
    };
    is_host && port.is_none_or(|port| port.parse::<u16>().is_ok())
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
        ] {
            assert_eq!(url(endpoint), Ok(Some(expected.to_owned())), "{endpoint}");
        }
        for (endpoint, expected) in [
            ("127.0.0.1:4318", EndpointError::Scheme),
            ("https://a", EndpointError::Scheme),
            ("http://", EndpointError::Host),
            ("http:///v1/traces", EndpointError::Host),
            ("http://a:b/", EndpointError::Host),
            ("http://a:99999/", EndpointError::Host),
            ("http://::1/", EndpointError::Host),
            ("http://a b/", EndpointError::Host),
            ("http://a/\u{e9}", EndpointError::Host),
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
