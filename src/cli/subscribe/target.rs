//! The URL to subscribe to, parsed.
//!
//! PURE: the code parses and builds texts. It selects the transport. A WebSocket resumes with the
//! query parameter `since`, as in browsers, which cannot set header fields on a WebSocket. This
//! parameter replaces every other start position in the query.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use tungstenite::http::Uri;

/// Characters that are escaped in a query: all except the unreserved characters (RFC 3986, 2.3).
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');
/// The query parameters that determine where a subscription starts.
const START_NAMES: [&str; 4] = ["since", "last_event_id", "lastEventId", "last"];

/// The transport of a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scheme {
    /// Server-sent events, selected by `http://` or `https://`.
    EventStream,
    /// Polls, selected by `http://` or `https://` and a path that ends in `/poll`.
    Poll,
    /// WebSocket, selected by `ws://` or `wss://`.
    WebSocket,
}

/// A parsed URL of a subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// The transport that the URL selects.
    pub(super) scheme: Scheme,
    /// Whether the URL requests TLS.
    pub(super) is_tls: bool,
    /// The host name or address; an IPv6 address without brackets.
    pub(super) host: String,
    /// The TCP port.
    pub(super) port: u16,
    /// The value of the `Host` field.
    pub(super) authority: String,
    /// The path of the URL, unchanged.
    pub(super) path: String,
    /// The part of the URL after the question mark.
    pub(super) query: Option<String>,
}

impl Target {
    /// Parses a URL. An error is a message for the user.
    pub(super) fn parse(url: &str) -> Result<Self, String> {
        let uri: Uri = url
            .parse()
            .map_err(|error| format!("`{url}` is not a URL: {error}"))?;
        let scheme = match uri.scheme_str() {
            Some("http" | "https") if uri.path().ends_with("/poll") => Scheme::Poll,
            Some("http" | "https") => Scheme::EventStream,
            Some("ws" | "wss") => Scheme::WebSocket,
            _ => {
                return Err(format!(
                    "`{url}` does not begin with ws://, wss://, http:// or https://"
                ));
            }
        };
        let is_tls = matches!(uri.scheme_str(), Some("https" | "wss"));
        let host = uri.host().unwrap_or_default();
        if host.is_empty() {
            return Err(format!("`{url}` has no host"));
        }
        let default_port = if is_tls { 443 } else { 80 };
        let port = port(&uri, host, default_port).ok_or_else(|| {
            format!("`{url}` is not a URL: its port is not a number from 1 to 65535")
        })?;
        let authority = match uri.port_u16() {
            Some(port) => format!("{host}:{port}"),
            None => String::from(host),
        };
        Ok(Self {
            scheme,
            is_tls,
            host: String::from(host.trim_start_matches('[').trim_end_matches(']')),
            port,
            authority,
            path: String::from(uri.path()),
            query: uri.query().map(String::from),
        })
    }

    /// Whether the URL requests publications without an envelope (`envelope=data`).
    pub(super) fn is_bare(&self) -> bool {
        self.pairs().any(|pair| pair == "envelope=data")
    }

    /// Returns the request target (RFC 9112, 3.2) of the URL.
    pub(super) fn request_target(&self) -> String {
        match &self.query {
            Some(query) => format!("{}?{query}", self.path),
            None => self.path.clone(),
        }
    }

    /// Returns the request target of a subscription that resumes after `id`.
    pub(super) fn request_target_since(&self, id: &str) -> String {
        let since = format!("since={}", utf8_percent_encode(id, ESCAPED));
        format!("{}?{}", self.path, self.query_with(&since))
    }

    /// Adds `since=first` or `last=N` to the query. The parameter is used only until an id has been
    /// received. After that, the subscription resumes after the last id.
    pub(super) fn begin_with(&mut self, history: &str) {
        self.query = Some(self.query_with(history));
    }

    fn query_with(&self, start: &str) -> String {
        let kept = self.pairs().filter(|pair| {
            let name = pair.split_once('=').map_or(*pair, |(name, _)| name);
            !START_NAMES.contains(&name)
        });
        let pairs: Vec<&str> = kept.chain(std::iter::once(start)).collect();
        pairs.join("&")
    }

    fn pairs(&self) -> impl Iterator<Item = &str> {
        let query = self.query.as_deref().unwrap_or_default();
        query.split('&').filter(|pair| !pair.is_empty())
    }
}

/// Returns the port of the URL, or the default port if it is missing or empty (RFC 3986, 3.2.3).
fn port(uri: &Uri, host: &str, default_port: u16) -> Option<u16> {
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    let (_user, authority) = authority.rsplit_once('@').unwrap_or(("", authority));
    let after_host = authority.strip_prefix(host)?;
    match after_host.trim_start_matches(':') {
        "" => Some(default_port),
        digits => digits.parse().ok().filter(|port| *port > 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn target_has_the_parts_of_the_url() {
        let target = Target::parse("ws://127.0.0.1:8080/ws?channel=a").unwrap();
        assert_eq!(target.scheme, Scheme::WebSocket);
        assert_eq!((target.host.as_str(), target.port), ("127.0.0.1", 8080));
        assert_eq!(target.request_target(), "/ws?channel=a");
        let target = Target::parse("http://[::1]/sse").unwrap();
        assert_eq!((target.host.as_str(), target.port), ("::1", 80));
        assert_eq!(target.authority, "[::1]");
        assert_eq!(target.request_target(), "/sse");
        assert_eq!(target.scheme, Scheme::EventStream);
        let port = |url| Target::parse(url).unwrap().port;
        assert_eq!((port("ws://8:80/ws"), port("ws://u@h:/ws")), (80, 80));
        let target = Target::parse("http://h/poll?channel=a").unwrap();
        assert_eq!((target.scheme, target.is_tls), (Scheme::Poll, false));
        for (url, scheme) in [
            ("https://h/poll?channel=a", Scheme::Poll),
            ("https://h/sse?channel=a", Scheme::EventStream),
            ("wss://h/ws?channel=a", Scheme::WebSocket),
        ] {
            let target = Target::parse(url).unwrap();
            assert_eq!((target.scheme, target.is_tls), (scheme, true), "{url}");
            assert_eq!((target.port, target.authority.as_str()), (443, "h"));
        }
    }

    #[test]
    fn target_refuses_invalid_and_unsupported_urls() {
        for url in [
            "",
            "ws://127.0.0.1:99999/ws",
            "http://[::1]:0/sse",
            "http://h:x/poll",
            "127.0.0.1:8080/ws",
            "ftp://h/",
            "http:///x",
            "ws://h/ x",
        ] {
            assert!(Target::parse(url).is_err(), "{url}");
        }
    }

    #[test]
    fn new_position_replaces_every_earlier_one() {
        let target = Target::parse("ws://h/ws?since=a&channel=c&lastEventId=b").unwrap();
        assert_eq!(
            target.request_target_since("e-1"),
            "/ws?channel=c&since=e-1"
        );
        let mut target = Target::parse("ws://h/ws").unwrap();
        assert_eq!(target.request_target_since("a b&c"), "/ws?since=a%20b%26c");
        target.begin_with("last=3");
        assert_eq!(target.request_target(), "/ws?last=3");
        target.begin_with("since=first");
        assert_eq!(target.request_target(), "/ws?since=first");
        assert_eq!(target.request_target_since("e-1"), "/ws?since=e-1");
    }

    #[test]
    fn target_recognises_a_bare_envelope() {
        assert!(Target::parse("ws://h/ws?envelope=data").unwrap().is_bare());
        assert!(
            !Target::parse("ws://h/ws?channel=envelope")
                .unwrap()
                .is_bare()
        );
    }
}
