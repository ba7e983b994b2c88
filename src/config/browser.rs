//! The origins of web pages that may connect.
//!
//! The module contains data and its checks. A browser sends the origin of the page in `Origin`. The
//! browser lets the page read a response only if the response allows this origin. For a WebSocket,
//! browsers have no such rule, so the server itself refuses the handshake. [`crate::http::origin`]
//! compares requests with this list.

use serde::{Deserialize, Serialize};

use super::Config;
use super::limits::BROWSER_ORIGINS_MAX;
use super::validate::{Invalid, push};
use crate::certain;

/// The entry that matches every origin.
const ANY: &str = "*";

/// The value that browsers send for an opaque origin, such as the origin of a sandboxed page.
const OPAQUE: &str = "null";

/// The access of browsers to the server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Browser {
    /// Allowed origins as browsers send them, such as `https://example.com`. `*` allows every
    /// origin. Pages of the server's own host need no entry.
    pub origins: Vec<String>,
}

impl Browser {
    /// Returns the index of the entry that allows this origin: an equal entry, or else `*`.
    #[must_use]
    pub fn place(&self, origin: &[u8]) -> Option<u8> {
        let place_of = |wanted: &[u8]| {
            let mut origins = self.origins.iter();
            origins.position(|listed| listed.as_bytes() == wanted)
        };
        let place = place_of(origin).or_else(|| place_of(ANY.as_bytes()));
        place.map(certain::to_u8)
    }

    /// Returns the entry at an index.
    #[must_use]
    pub fn origin(&self, place: u8) -> Option<&str> {
        self.origins.get(usize::from(place)).map(String::as_str)
    }

    /// Whether an entry matches every origin. Such an entry must not be used together with cookies.
    #[must_use]
    pub fn is_any(origin: &str) -> bool {
        origin == ANY
    }
}

/// A short hash of an origin. Two origins of one list have different fingerprints.
pub type Fingerprint = [u8; 4];

/// Returns the fingerprint of an origin: FNV-1a with 32 bits. All origins are from the
/// configuration, so the hash needs no secret key.
#[must_use]
pub fn fingerprint(origin: &str) -> Fingerprint {
    let hash = origin.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    });
    hash.to_le_bytes()
}

impl Config {
    pub(super) fn check_browser(&self, found: &mut Vec<Invalid>) {
        const KEY: &str = "browser.origins";
        let origins = &self.browser.origins;
        if origins.len() > BROWSER_ORIGINS_MAX {
            let count = origins.len();
            let message = format!("names {count}, but at most {BROWSER_ORIGINS_MAX} are allowed");
            push(found, &[KEY], message);
        }
        for (index, origin) in origins.iter().enumerate() {
            let is_special = [ANY, OPAQUE].contains(&origin.as_str());
            if !is_special && !is_origin(origin) {
                let message = format!(
                    "`{origin}` is not an origin as a browser sends it; write scheme, host and, \
                     unless it is the default, port in lower case, such as https://example.com"
                );
                push(found, &[KEY], message);
            } else if let Some(other) = twin(origin, origins.get(..index).unwrap_or(&[])) {
                let message = match other == origin {
                    true => format!("names `{origin}` twice"),
                    false => format!(
                        "the server cannot tell `{origin}` and `{other}` apart, because they have \
                         the same hash; use another name for one of them"
                    ),
                };
                push(found, &[KEY], message);
            }
            if is_special && !self.auth.cookie.is_empty() {
                let message = format!(
                    "`{origin}` would let any page use its visitor's cookie; name the origins"
                );
                push(found, &[KEY, "auth.cookie"], message);
            }
        }
    }
}

/// Returns the first of the origins that has the fingerprint of `origin`.
fn twin<'a>(origin: &str, origins: &'a [String]) -> Option<&'a String> {
    let mut origins = origins.iter();
    origins.find(|other| fingerprint(other) == fingerprint(origin))
}

/// Whether the text is an origin as browsers write it (RFC 6454, 6.2).
fn is_origin(text: &str) -> bool {
    let Some((scheme, authority)) = text.split_once("://") else {
        return false;
    };
    let default_port = match scheme {
        "http" => ":80",
        "https" => ":443",
        _ => "",
    };
    let is_scheme_byte = |byte: u8| byte.is_ascii_lowercase() || b"+-.0123456789".contains(&byte);
    let is_host_byte =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-._[]:".contains(&byte);
    let has_default_port = !default_port.is_empty() && authority.ends_with(default_port);
    scheme.starts_with(|first: char| first.is_ascii_lowercase())
        && scheme.bytes().all(is_scheme_byte)
        && !authority.is_empty()
        && authority.bytes().all(is_host_byte)
        && !authority.ends_with(':')
        && !has_default_port
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(origins: &[&str], cookie: &str) -> usize {
        let mut config = Config::default();
        config.browser.origins = origins.iter().copied().map(String::from).collect();
        config.auth.cookie = String::from(cookie);
        let mut found = Vec::new();
        config.check_browser(&mut found);
        found.len()
    }

    #[test]
    fn entries_are_what_browsers_send() {
        for good in [
            "https://example.com",
            "http://localhost:5173",
            "http://[::1]:8080",
            "https://xn--bcher-kva.example",
            "https://example.com:80",
            "chrome-extension://abcdefghijklmnop",
            "*",
            "null",
        ] {
            assert_eq!(problems(&[good], ""), 0, "{good}");
        }
        for bad in [
            "",
            "example.com",
            "https://",
            "https://example.com/",
            "https://Example.com",
            "HTTPS://example.com",
            "https://example.com:443",
            "http://example.com:80",
            "https://*.example.com",
            "https://user@example.com",
            "https://a b",
            "https://example.com:",
            "://example.com",
        ] {
            assert_eq!(problems(&[bad], ""), 1, "{bad}");
        }
        assert_eq!(problems(&["https://a", "https://a"], ""), 1);
        let many: Vec<String> = (0..=BROWSER_ORIGINS_MAX)
            .map(|n| format!("http://h{n}"))
            .collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(problems(&many, ""), 1);
        assert_eq!(problems(&many[1..], ""), 0);
    }

    #[test]
    fn origins_with_one_fingerprint_are_refused() {
        let mut seen = std::collections::BTreeMap::new();
        let names = (0_u32..).map(|number| format!("https://{number}.example"));
        let (one, other) = names
            .map(|name| (seen.insert(fingerprint(&name), name.clone()), name))
            .find_map(|(former, name)| Some((former?, name)))
            .unwrap();
        assert_ne!(one, other);
        assert_eq!(problems(&[&one, &other], ""), 1);
    }

    #[test]
    fn origin_that_matches_any_page_is_refused_with_a_cookie() {
        assert_eq!(problems(&["*"], "token"), 1);
        assert_eq!(problems(&["https://a", "null"], "token"), 1);
        assert_eq!(problems(&["https://a"], "token"), 0);
    }

    #[test]
    fn own_entry_of_an_origin_precedes_the_wildcard() {
        let origins = ["*", "https://a", "null"].map(String::from).into();
        let browser = Browser { origins };
        assert_eq!(browser.place(b"https://a"), Some(1));
        assert_eq!(browser.place(b"https://b"), Some(0));
        assert_eq!(browser.place(b"null"), Some(2));
        assert_eq!(browser.origin(1), Some("https://a"));
        assert_eq!(Browser::default().place(b"*"), None);
    }
}
