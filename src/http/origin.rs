//! The origin of the page that sent a request (RFC 6454, 7), and whether the page may read the
//! response (Fetch, 3.3).
//!
//! A browser lets any page send requests to any host, with the cookies of that host. The field
//! `Origin` names the page's origin. A WebSocket of a foreign page is refused, because the browser
//! would let the page read everything. The browser hides other responses from a foreign page,
//! unless the response names the page's origin. The server names only configured origins, so it
//! never reflects an unknown origin. The callers are the router, and the transports for heads that
//! they send later.

use crate::config::browser::{Browser, Fingerprint, fingerprint};
use crate::config::limits::BROWSER_ORIGINS_MAX;

use super::head::{Field, Head};
use super::response::push_field;
use super::target::Target;

/// The kind of page that sent a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// A page of another host, whose origin is not configured.
    Foreign,
    /// A page of a configured origin, given as an index into the configured list.
    Listed(u8),
    /// A page of the requested host.
    SameHost,
    /// The request has no `Origin`, because it is not from a browser or because its page is on the
    /// requested host.
    Unsaid,
}

impl Source {
    pub(super) fn of(head: &Head<'_>, browser: &Browser) -> Self {
        let origin = match head.fields.origin {
            Field::Absent => return Self::Unsaid,
            Field::Once(origin) => origin,
            Field::Repeated => return Self::Foreign,
        };
        if let Some(place) = browser.place(origin) {
            return Self::Listed(place);
        }
        match host(head) {
            Some(host) if is_same_host(origin, host) => Self::SameHost,
            Some(_) | None => Self::Foreign,
        }
    }

    /// Returns the origins whose pages may read an immediate response.
    pub(super) fn reader(self, browser: &Browser) -> Reader<'_> {
        Reader::of(self.listed(browser).map(|(_place, origin)| origin))
    }

    /// Returns the origins whose pages may read a later response.
    pub(super) fn sharing(self, browser: &Browser) -> Sharing {
        let listed = self.listed(browser);
        listed.map_or_else(Sharing::default, |(place, origin)| Sharing {
            place,
            fingerprint: fingerprint(origin),
        })
    }

    fn listed(self, browser: &Browser) -> Option<(u8, &str)> {
        match self {
            Self::Listed(place) => Some((place, browser.origin(place)?)),
            Self::Foreign | Self::SameHost | Self::Unsaid => None,
        }
    }
}

/// Returns the host of the request (RFC 9112, 3.2.2).
fn host<'b>(head: &Head<'b>) -> Option<&'b [u8]> {
    let target = Target::parse(head.target).ok();
    if let Some(authority) = target.and_then(|target| target.authority) {
        return Some(authority.as_bytes());
    }
    match head.fields.host {
        Field::Once(host) => Some(host),
        Field::Absent | Field::Repeated => None,
    }
}

/// Whether an origin and a host have equal names and ports. The scheme is not compared, because a
/// proxy may terminate TLS. The scheme only determines the default port.
fn is_same_host(origin: &[u8], host: &[u8]) -> bool {
    let (origin, port) = match (
        origin.strip_prefix(b"https://"),
        origin.strip_prefix(b"http://"),
    ) {
        (Some(rest), _) => (rest, &b":443"[..]),
        (None, Some(rest)) => (rest, &b":80"[..]),
        (None, None) => return false,
    };
    let without_port = |authority| {
        let plain = <[u8]>::strip_suffix(authority, port);
        plain
            .or_else(|| authority.strip_suffix(b":"))
            .unwrap_or(authority)
    };
    !origin.is_empty() && without_port(origin).eq_ignore_ascii_case(without_port(host))
}

/// The origins whose pages may read a later response. The value refers to an entry of the
/// configured list, so that a conn that waits for its response stores no text.
///
/// A reload can change the list while the conn waits. Therefore the value contains a fingerprint of
/// the entry. If the entry has moved, it is found again. If it was removed, the response names no
/// origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sharing {
    /// The index of the entry at the time of the request, or [`NO_PLACE`].
    place: u8,
    /// The fingerprint of the entry, as bytes so that the value needs no alignment.
    fingerprint: Fingerprint,
}

/// The index for a response that names no origin.
const NO_PLACE: u8 = u8::MAX;
const _: () = assert!(BROWSER_ORIGINS_MAX <= NO_PLACE as usize);
const _: () = assert!(size_of::<Sharing>() == 5);

impl Default for Sharing {
    fn default() -> Self {
        Self {
            place: NO_PLACE,
            fingerprint: Fingerprint::default(),
        }
    }
}

impl Sharing {
    /// Returns the origins whose pages may read the response.
    #[must_use]
    pub fn reader(self, browser: &Browser) -> Reader<'_> {
        if self.place == NO_PLACE {
            return Reader::SameOrigin;
        }
        let is_meant = |origin: &&str| fingerprint(origin) == self.fingerprint;
        let unmoved = browser.origin(self.place).filter(is_meant);
        Reader::of(unmoved.or_else(|| {
            let mut all = browser.origins.iter().map(String::as_str);
            all.find(is_meant)
        }))
    }
}

/// The origins whose pages may read a response (CORS).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader<'a> {
    /// Pages of any origin may read responses to requests without cookies.
    Any,
    /// Pages of this origin may read the response, even to a request with cookies.
    Origin(&'a str),
    /// Only pages of the server's own origin may read the response.
    SameOrigin,
}

impl<'a> Reader<'a> {
    fn of(listed: Option<&'a str>) -> Self {
        match listed {
            None => Self::SameOrigin,
            Some(origin) if Browser::is_any(origin) => Self::Any,
            Some(origin) => Self::Origin(origin),
        }
    }

    /// Appends the CORS fields. Also appends `Vary`, because the response depends on the origin.
    pub(super) fn push_fields(self, out: &mut Vec<u8>) {
        push_field("Vary", "Origin", out);
        match self {
            Self::SameOrigin => return,
            Self::Any => push_field("Access-Control-Allow-Origin", "*", out),
            Self::Origin(origin) => {
                push_field("Access-Control-Allow-Origin", origin, out);
                push_field("Access-Control-Allow-Credentials", "true", out);
            }
        }
        push_field(
            "Access-Control-Expose-Headers",
            "ETag, Fanfare-Gap, Retry-After",
            out,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::head::{HeadRead, read_head};

    fn source(fields: &str, origins: &[&str]) -> Source {
        source_of("GET /ws", fields, origins)
    }

    fn source_of(start: &str, fields: &str, origins: &[&str]) -> Source {
        let text = format!("{start} HTTP/1.1\r\n{fields}\r\n\r\n");
        let browser = Browser {
            origins: origins.iter().copied().map(String::from).collect(),
        };
        match read_head(text.as_bytes(), 8192) {
            HeadRead::Complete { head, .. } => Source::of(&head, &browser),
            other @ (HeadRead::Incomplete | HeadRead::Refused(_)) => panic!("{other:?}"),
        }
    }

    #[test]
    fn page_of_the_same_host_is_recognised_by_host_and_port() {
        for (origin, host) in [
            ("https://example.com", "example.com"),
            ("http://example.com", "example.com"),
            ("https://example.com", "EXAMPLE.com:443"),
            ("http://example.com", "example.com:80"),
            ("http://example.com:8080", "example.com:8080"),
            ("http://[::1]:8080", "[::1]:8080"),
            ("http://127.0.0.1:8080", "127.0.0.1:8080"),
        ] {
            let fields = format!("Host: {host}\r\nOrigin: {origin}");
            assert_eq!(source(&fields, &[]), Source::SameHost, "{fields}");
        }
    }

    #[test]
    fn page_of_another_host_is_foreign() {
        for (origin, host) in [
            ("https://evil.example", "example.com"),
            ("https://example.com.evil.example", "example.com"),
            ("https://evilexample.com", "example.com"),
            ("https://sub.example.com", "example.com"),
            ("https://example.com", "sub.example.com"),
            ("http://example.com:8081", "example.com:8080"),
            ("http://example.com:443", "example.com"),
            ("https://example.com", "example.com:80"),
            ("https://example.com:80", "example.com"),
            ("ftp://example.com", "example.com"),
            ("example.com", "example.com"),
            ("https://example.com/", "example.com"),
            ("https://example.com https://evil.example", "example.com"),
            ("null", "null"),
            ("", "example.com"),
            ("https://", "example.com"),
            ("*", "example.com"),
        ] {
            let fields = format!("Host: {host}\r\nOrigin: {origin}");
            assert_eq!(source(&fields, &[]), Source::Foreign, "{fields}");
        }
        let twice = "Host: h\r\nOrigin: http://h\r\nOrigin: http://h";
        assert_eq!(source(twice, &["http://h"]), Source::Foreign);
    }

    #[test]
    fn absolute_target_replaces_the_host() {
        let fields = "Host: other\r\nOrigin: http://h:1";
        assert_eq!(
            source_of("GET http://h:1/ws", fields, &[]),
            Source::SameHost
        );
        let fields = "Host: h:1\r\nOrigin: http://h:1";
        assert_eq!(source_of("GET http://g/ws", fields, &[]), Source::Foreign);
    }

    #[test]
    fn listed_origin_is_compared_byte_by_byte() {
        let list = ["https://a.example", "https://b.example:8443"];
        let of = |origin: &str| source(&format!("Host: h\r\nOrigin: {origin}"), &list);
        assert_eq!(of("https://a.example"), Source::Listed(0));
        assert_eq!(of("https://b.example:8443"), Source::Listed(1));
        for other in [
            "http://a.example",
            "https://a.example:8443",
            "https://A.example",
            "https://x.a.example",
            "null",
        ] {
            assert_eq!(of(other), Source::Foreign, "{other}");
        }
        assert_eq!(source("Host: h", &list), Source::Unsaid);
        let fields = "Host: h\r\nOrigin: null";
        assert_eq!(source(fields, &["null"]), Source::Listed(0));
        assert_eq!(source(fields, &["*"]), Source::Listed(0));
    }

    fn list(origins: &[&str]) -> Browser {
        let origins = origins.iter().copied().map(String::from).collect();
        Browser { origins }
    }

    #[test]
    fn only_listed_origins_are_named() {
        let browser = list(&["*", "https://a"]);
        for (source, reader) in [
            (Source::Listed(0), Reader::Any),
            (Source::Listed(1), Reader::Origin("https://a")),
            (Source::Foreign, Reader::SameOrigin),
            (Source::SameHost, Reader::SameOrigin),
            (Source::Unsaid, Reader::SameOrigin),
        ] {
            assert_eq!(source.reader(&browser), reader);
            assert_eq!(source.sharing(&browser).reader(&browser), reader);
        }
    }

    #[test]
    fn later_response_names_the_origin_of_its_request_or_none_after_a_change_of_the_list() {
        let old = list(&["https://a", "https://b", "*"]);
        let new = list(&["https://evil", "https://a", "https://c"]);
        let later = |place| Source::Listed(place).sharing(&old).reader(&new);
        assert_eq!(later(0), Reader::Origin("https://a"));
        assert_eq!(later(1), Reader::SameOrigin);
        assert_eq!(later(2), Reader::SameOrigin);
    }
}
