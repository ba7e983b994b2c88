//! Reads the fields in which HTTP proxies name their clients: `X-Forwarded-For` and `Forwarded`
//! (RFC 7239).
//!
//! Both fields are lists. Each proxy appends an element, so all elements before the element that a
//! trusted proxy appended may be forged. The lists are read from the right: the first address that
//! is not a trusted proxy is the client's address. The configuration selects the field, because a
//! proxy that writes one field forwards the other field as the client sent it. Quotes are also
//! matched from the right. So if the client sends an opening quote without a closing quote, the
//! proxy's element does not become part of the quoted text.

use std::net::{IpAddr, Ipv6Addr};

use crate::certain;

use super::network::{Network, contains};

/// The field that contains the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum List {
    /// The field `Forwarded`.
    Forwarded,
    /// The field `X-Forwarded-For`.
    XForwardedFor,
}

/// Returns the client's address: the last address that is not a trusted proxy, or the first address
/// if all addresses are trusted proxies. Returns `None` if there is no element, or if an element
/// has no address. Some proxies append to a field line, and others add a new line. So the caller
/// passes all lines of the field, the last line first.
#[must_use]
pub fn client(
    newest_first: impl Iterator<Item: AsRef<[u8]>>,
    list: List,
    trusted: &[Network],
) -> Option<IpAddr> {
    let mut first = None;
    for line in newest_first {
        let mut rest = line.as_ref();
        while let Some((before, element)) = take_last(rest) {
            rest = before;
            // A list may have empty elements (RFC 9110, 5.6.1.2).
            if element.is_empty() {
                continue;
            }
            let node = match list {
                List::Forwarded => named_for(element)?,
                List::XForwardedFor => element,
            };
            let address = parse_node(node)?;
            if !contains(trusted, address) {
                return Some(address);
            }
            first = Some(address);
        }
    }
    first
}

/// Splits a list into the part before its last element, and the last element.
fn take_last(list: &[u8]) -> Option<(&[u8], &[u8])> {
    if list.is_empty() {
        return None;
    }
    let mut is_quoted = false;
    for (at, byte) in list.iter().enumerate().rev() {
        let before = certain::take(list, at);
        match byte {
            b'"' => {
                let slashes = before.iter().rev().take_while(|byte| **byte == b'\\');
                is_quoted ^= slashes.count().is_multiple_of(2);
            }
            b',' if !is_quoted => {
                let element = certain::skip(list, at + 1);
                return Some((before, element.trim_ascii()));
            }
            _ => {}
        }
    }
    Some((&[], list.trim_ascii()))
}

/// Returns the value of `for` in an element of `Forwarded` (RFC 7239, 4), without quotes.
fn named_for(element: &[u8]) -> Option<&[u8]> {
    let mut is_quoted = false;
    // Escaped quotes are not treated specially. Such a quote can split a value in the wrong place,
    // but then the value is not an address.
    let pairs = element.split(|byte| {
        is_quoted ^= *byte == b'"';
        *byte == b';' && !is_quoted
    });
    for pair in pairs.map(<[u8]>::trim_ascii) {
        let Some((name, value)) = pair.split_at_checked(4) else {
            continue;
        };
        if name.eq_ignore_ascii_case(b"for=") {
            let inner = value.strip_prefix(b"\"");
            return match inner {
                Some(inner) => inner.strip_suffix(b"\""),
                None => Some(value),
            };
        }
    }
    None
}

/// Parses the address of a node (RFC 7239, 6). The node may have a port.
fn parse_node(node: &[u8]) -> Option<IpAddr> {
    let text = str::from_utf8(node).ok()?;
    if let Some(inner) = text.strip_prefix('[') {
        let (address, port) = inner.split_once(']')?;
        let is_port = port.is_empty() || port.strip_prefix(':').is_some_and(is_node_port);
        let address: Ipv6Addr = address.parse().ok()?;
        return is_port.then(|| IpAddr::V6(address).to_canonical());
    }
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(address.to_canonical());
    }
    let (address, port) = text.split_once(':')?;
    if !is_node_port(port) {
        return None;
    }
    address.parse().ok().map(IpAddr::V4)
}

/// Whether the text is a port or an obfuscated port (RFC 7239, 6.3).
fn is_node_port(port: &str) -> bool {
    let is_name_byte = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    !port.is_empty() && port.bytes().all(is_name_byte)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn trusted() -> Vec<Network> {
        ["10.0.0.0/8", "::1", "fd00::/8"]
            .map(|text| text.parse().unwrap())
            .into()
    }

    fn client_of(list: List, values: &[&str]) -> String {
        let newest_first = values.iter().rev().map(|value| value.as_bytes());
        let client = client(newest_first, list, &trusted());
        client.map_or_else(|| String::from("-"), |address| address.to_string())
    }

    #[test]
    fn client_is_the_last_address_that_is_not_a_trusted_proxy() {
        for (values, expected) in [
            (&["192.0.2.1"][..], "192.0.2.1"),
            (&["6.6.6.6, 192.0.2.1"], "192.0.2.1"),
            (&["6.6.6.6, 192.0.2.1, 10.1.1.1"], "192.0.2.1"),
            (&["6.6.6.6", "192.0.2.1", "10.1.1.1,::1"], "192.0.2.1"),
            (&["garbage, 192.0.2.1"], "192.0.2.1"),
            (&["\", 192.0.2.1"], "192.0.2.1"),
            (&["10.0.0.1, 10.0.0.2"], "10.0.0.1"),
            (&[" , 192.0.2.1 ,, "], "192.0.2.1"),
            (&["192.0.2.1:4711"], "192.0.2.1"),
            (&["2001:db8::1"], "2001:db8::1"),
            (&["[2001:db8::1]"], "2001:db8::1"),
            (&["[2001:db8::1]:80"], "2001:db8::1"),
            (&["::ffff:192.0.2.1"], "192.0.2.1"),
            (
                &[
                    "6.6.6.6", "1.1.1.1", "10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4",
                ],
                "1.1.1.1",
            ),
        ] {
            assert_eq!(
                client_of(List::XForwardedFor, values),
                expected,
                "{values:?}"
            );
        }
    }

    #[test]
    fn field_without_an_address_at_its_end_has_no_client() {
        for value in [
            "",
            " ",
            ",",
            "unknown",
            "192.0.2.1, unknown",
            "192.0.2.1:",
            "192.0.2.1:a b",
            "[::1",
            "[::1]x",
            "[192.0.2.1]",
            "192.0.2",
            "192.0.2.1 10.0.0.1",
            "\u{e9}",
        ] {
            assert_eq!(client_of(List::XForwardedFor, &[value]), "-", "{value}");
        }
    }

    #[test]
    fn forwarded_has_its_client_with_or_without_quotes() {
        for (value, expected) in [
            ("for=192.0.2.60;proto=http;by=203.0.113.43", "192.0.2.60"),
            ("For=\"[2001:db8:cafe::17]:4711\"", "2001:db8:cafe::17"),
            ("proto=https; FOR=192.0.2.60", "192.0.2.60"),
            ("for=6.6.6.6, for=192.0.2.1;host=\"a,b\"", "192.0.2.1"),
            ("for=6.6.6.6, for=192.0.2.1;host=\"a\\\",b\"", "192.0.2.1"),
            ("for=\", for=192.0.2.1", "192.0.2.1"),
            ("for=192.0.2.1, for=10.0.0.1, for=\"[::1]\"", "192.0.2.1"),
            ("for=192.0.2.1, for=unknown", "-"),
            ("for=_hidden", "-"),
            ("for=\"192.0.2.1", "-"),
            ("by=192.0.2.1", "-"),
            ("192.0.2.1", "-"),
            ("fo", "-"),
        ] {
            assert_eq!(client_of(List::Forwarded, &[value]), expected, "{value}");
        }
    }

    proptest! {
        /// Whatever the client sends, the result depends only on the element that a trusted proxy
        /// appended.
        #[test]
        fn nothing_before_the_last_element_matters(forged in "[ -~]{0,60}", client_address: [u8; 4]) {
            let address = IpAddr::from(client_address);
            prop_assume!(!contains(&trusted(), address));
            for (list, value) in [
                (List::XForwardedFor, format!("{forged}, {address}")),
                (List::Forwarded, format!("{forged}, for={address}")),
            ] {
                prop_assert_eq!(client_of(list, &[&value]), address.to_string());
            }
            prop_assert_eq!(
                client_of(List::XForwardedFor, &[&forged, &address.to_string()]),
                address.to_string()
            );
        }
    }
}
