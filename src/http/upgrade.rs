//! Checks a WebSocket handshake (RFC 6455, 4.2.1).
//!
//! The router checks the path and the channels. The fields are checked against the standard, not
//! against the behaviour of browsers, so that every conforming client is accepted.

use tungstenite::handshake::derive_accept_key;

use super::Refusal;
use super::head::{Field, Head, Method, Version};

/// The protocol version of RFC 6455.
const WEBSOCKET_VERSION: &[u8] = b"13";

/// The length of `Sec-WebSocket-Key` in bytes. The key is 16 bytes in base64.
const KEY_BYTES: usize = 24;

/// Checks the handshake and returns the value of `Sec-WebSocket-Accept`.
pub(super) fn accept(head: &Head<'_>) -> Result<String, Refusal> {
    // HTTP/1.0 has no Upgrade (RFC 9110, 7.8), and the method of a handshake is always GET.
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

/// Whether `key` is 16 bytes in base64. The last digit has four unused bits. They are not checked,
/// because some of them are set in the example in RFC 6455, 4.1.
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
