//! Checks a request for a WebSocket (RFC 6455, 4.2.1).
//!
//! Says what the handshake needs or why there is none; which path it is for, and which channels,
//! is the router's. Fields are held against the standard and not against what browsers happen to
//! send, so that every client of the field gets through and nothing else does.

use tungstenite::handshake::derive_accept_key;

use super::Refusal;
use super::head::{Field, Head, Method, Version};

/// The version of the protocol of RFC 6455.
const WEBSOCKET_VERSION: &[u8] = b"13";

/// Bytes of `Sec-WebSocket-Key`: 16 bytes in base64.
const KEY_BYTES: usize = 24;

/// Answers the client's key with the value of `Sec-WebSocket-Accept`.
pub(super) fn accept(head: &Head<'_>) -> Result<String, Refusal> {
    // Upgrade means nothing in HTTP/1.0 (RFC 9110, 7.8), and nothing to another method here.
    let can_upgrade = head.method == Method::Get && head.version == Version::Http11;
    if !can_upgrade || !head.fields.offers_websocket {
        return Err(Refusal::UpgradeMissing);
    }
    if !head.fields.connection.has_upgrade {
        return Err(Refusal::UpgradeConnection);
    }
    if head.fields.websocket_version != Field::Once(WEBSOCKET_VERSION) {
        return Err(Refusal::UpgradeVersion);
    }
    if head.fields.extensions.is_malformed {
        return Err(Refusal::UpgradeExtensions);
    }
    match head.fields.websocket_key {
        Field::Once(key) if is_key(key) => Ok(derive_accept_key(key)),
        Field::Absent | Field::Once(_) | Field::Repeated => Err(Refusal::UpgradeKey),
    }
}

/// Whether this is 16 bytes in base64. The four bits that the last digit has to spare are not
/// looked at: the example in RFC 6455, 4.1 has some of them set.
fn is_key(key: &[u8]) -> bool {
    let Some(digits) = key.strip_suffix(b"==") else {
        return false;
    };
    key.len() == KEY_BYTES
        && digits
            .iter()
            .all(|&byte| byte.is_ascii_alphanumeric() || byte == b'+' || byte == b'/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_is_sixteen_bytes_in_base64() {
        for good in [
            b"dGhlIHNhbXBsZSBub25jZQ==",
            b"AQIDBAUGBwgJCgsMDQ4PEC==",
            b"++++++++//////////////==",
        ] {
            assert!(is_key(good));
        }
        for bad in [
            &b""[..],
            b"==",
            b"dGhlIHNhbXBsZSBub25jZQ",
            b"dGhlIHNhbXBsZSBub25jZQ= ",
            b"dGhlIHNhbXBsZSBub25jZQ===",
            b"dGhlIHNhbXBsZSBub25j_Q==",
            b"dGhlIHNhbXBsZSBub25jZQ==dGhlIHNhbXBsZSBub25jZQ==",
        ] {
            assert!(!is_key(bad), "{bad:?}");
        }
    }
}
