//! The PROXY protocol, versions 1 and 2. With this protocol, a proxy sends a header that names the
//! proxy's client. The header precedes all other bytes.
//!
//! [`read_header`] reads one header from the start of the received bytes. For an incomplete header,
//! it returns the number of further bytes that certainly belong to the header. So the caller reads
//! no byte after the header, where TLS may begin. Bytes that cannot become a header are refused
//! immediately. A header of version 1 has at most 107 bytes. In a header of version 2, only the
//! addresses are read. The caller skips the extensions after the addresses, at most 65,535 bytes,
//! so that it stores at most [`HEADER_BYTES_MAX`] bytes. Extensions and the checksum are ignored.
//! This module does not allocate.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::certain;

/// The signature of version 1.
const V1_START: &[u8] = b"PROXY ";
/// The maximum length of a version 1 header, including the line end.
const V1_BYTES_MAX: usize = 107;
/// The minimum length of a version 1 header: `PROXY UNKNOWN` and the line end.
const V1_BYTES_MIN: usize = 15;
/// The signature of version 2.
const V2_START: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// The length of the fixed part of a version 2 header.
const V2_BYTES_MIN: usize = 16;
/// The maximum length of the addresses and ports that are read in a version 2 header.
const V2_ADDRESS_BYTES_MAX: usize = 36;

/// The maximum number of bytes of a header that are read.
pub const HEADER_BYTES_MAX: usize = V1_BYTES_MAX;
const _: () = assert!(V2_BYTES_MIN + V2_ADDRESS_BYTES_MAX <= HEADER_BYTES_MAX);

/// The result of [`read_header`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum HeaderRead {
    /// The part of the header that names the client is complete.
    Complete {
        /// The length of this part in bytes.
        length: usize,
        /// The number of further bytes of the header, whether received or not. The caller must skip
        /// these bytes.
        skip: u16,
        /// The address of the client. `None` if the proxy connects on its own behalf or does not
        /// know the client.
        client: Option<IpAddr>,
    },
    /// The bytes are an incomplete header.
    Incomplete {
        /// The minimum number of missing bytes; never zero.
        more: usize,
    },
}

/// The reason for which the bytes are not a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// The bytes have the signature of neither version.
    #[error("no PROXY header")]
    Missing,
    /// The bytes have a signature, but violate the rules of its version.
    #[error("a malformed PROXY header")]
    Malformed,
    /// A header of version 1 is longer than 107 bytes.
    #[error("a PROXY header that is too long")]
    TooLong,
}

/// Reads a header from the start of `bytes`.
///
/// # Errors
/// Returns a [`HeaderError`] if the bytes cannot become a header, whatever bytes are received next.
pub fn read_header(bytes: &[u8]) -> Result<HeaderRead, HeaderError> {
    if begins_like(bytes, V2_START) && !bytes.is_empty() {
        read_v2(bytes)
    } else if begins_like(bytes, V1_START) {
        read_v1(bytes)
    } else {
        Err(HeaderError::Missing)
    }
}

/// Whether the bytes begin with `start`, or are a prefix of `start`.
fn begins_like(bytes: &[u8], start: &[u8]) -> bool {
    let length = bytes.len().min(start.len());
    bytes.get(..length) == start.get(..length)
}

fn read_v1(bytes: &[u8]) -> Result<HeaderRead, HeaderError> {
    // The first bytes of each kind of header, and the minimum length of such a header.
    const LEAST: [(&[u8], usize); 3] = [
        (b"PROXY TCP4 ", 32),
        (b"PROXY TCP6 ", 22),
        (b"PROXY UNKNOWN", V1_BYTES_MIN),
    ];
    let kinds = LEAST.iter().filter(|(start, _)| begins_like(bytes, start));
    let least = kinds.map(|(_, least)| *least).min();
    let least = least.ok_or(HeaderError::Malformed)?;
    let Some(end) = bytes
        .iter()
        .take(V1_BYTES_MAX)
        .position(|byte| *byte == b'\r')
    else {
        // Neither CR nor LF of the line end has been received, so at least two bytes are missing.
        let more = least.saturating_sub(bytes.len()).max(2);
        return match bytes.len() + more {
            0..=V1_BYTES_MAX => Ok(HeaderRead::Incomplete { more }),
            _ => Err(HeaderError::TooLong),
        };
    };
    if end + 2 > V1_BYTES_MAX {
        return Err(HeaderError::TooLong);
    }
    let client = parse_v1(certain::take(bytes, end))?;
    match bytes.get(end + 1) {
        Some(b'\n') => Ok(HeaderRead::Complete {
            length: end + 2,
            skip: 0,
            client,
        }),
        None => Ok(HeaderRead::Incomplete { more: 1 }),
        Some(_) => Err(HeaderError::Malformed),
    }
}

/// Returns the client that a version 1 header names. `line` does not contain the line end.
fn parse_v1(line: &[u8]) -> Result<Option<IpAddr>, HeaderError> {
    if let Some(rest) = line.strip_prefix(b"PROXY UNKNOWN") {
        // The PROXY protocol requires that the text after `UNKNOWN` is ignored.
        let is_word = rest.is_empty() || rest.starts_with(b" ");
        return is_word.then_some(None).ok_or(HeaderError::Malformed);
    }
    let text = str::from_utf8(line).map_err(|_not_text| HeaderError::Malformed)?;
    let mut words = text.split(' ');
    let words = [(); 7].map(|()| words.next());
    let [
        Some(_),
        Some(family),
        Some(client),
        Some(server),
        Some(client_port),
        Some(server_port),
        None,
    ] = words
    else {
        return Err(HeaderError::Malformed);
    };
    let is_right = is_port(client_port) && is_port(server_port);
    let client = match family {
        "TCP4" => v1_address::<Ipv4Addr>(client, server),
        "TCP6" => v1_address::<Ipv6Addr>(client, server),
        _ => None,
    };
    match client {
        Some(client) if is_right => Ok(Some(client.to_canonical())),
        Some(_) | None => Err(HeaderError::Malformed),
    }
}

/// Returns the client's address if both addresses are of the family `A`.
fn v1_address<A: std::str::FromStr + Into<IpAddr>>(client: &str, server: &str) -> Option<IpAddr> {
    let _server: A = server.parse().ok()?;
    client.parse::<A>().ok().map(Into::into)
}

/// Whether the text is a number from 0 to 65535 without leading zeros.
fn is_port(text: &str) -> bool {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit());
    let has_zero = text.len() > 1 && text.starts_with('0');
    is_plain && !has_zero && text.parse::<u16>().is_ok()
}

fn read_v2(bytes: &[u8]) -> Result<HeaderRead, HeaderError> {
    // Empty until more than the start is received.
    let fixed = bytes.get(V2_START.len()..).unwrap_or_default();
    // Each byte is checked as soon as it is received.
    let is_local = match fixed.first() {
        Some(0x20) => true,
        Some(0x21) | None => false,
        Some(_) => return Err(HeaderError::Malformed),
    };
    let family = match fixed.get(1) {
        // The standard requires that the family of a LOCAL command is ignored.
        Some(family) if !is_local => Family::parse(*family)?,
        Some(_) | None => Family::Unspecified,
    };
    let Some([high, low]) = fixed.get(2..4) else {
        return Ok(HeaderRead::Incomplete {
            more: V2_BYTES_MIN - bytes.len(),
        });
    };
    let rest = u16::from_be_bytes([*high, *low]);
    let Some(after_addresses) = rest.checked_sub(family.bytes()) else {
        return Err(HeaderError::Malformed);
    };
    let (read, skip) = match family {
        Family::V4 | Family::V6 => (family.bytes(), after_addresses),
        Family::Unix | Family::Unspecified => (0, rest),
    };
    let length = V2_BYTES_MIN + usize::from(read);
    let Some(addresses) = bytes.get(V2_BYTES_MIN..length) else {
        return Ok(HeaderRead::Incomplete {
            more: length - bytes.len(),
        });
    };
    Ok(HeaderRead::Complete {
        length,
        skip,
        client: family.client(addresses),
    })
}

/// The address family in a version 2 header.
#[derive(Clone, Copy)]
enum Family {
    Unix,
    Unspecified,
    V4,
    V6,
}

impl Family {
    /// Parses a byte that contains the address family in the upper half, and the transport (stream
    /// or datagram) in the lower half. If one of the halves is unspecified, the addresses must be
    /// ignored. Undefined values are errors.
    fn parse(byte: u8) -> Result<Self, HeaderError> {
        match (byte >> 4, byte & 0x0f) {
            (0, 0..=2) | (1..=3, 0) => Ok(Self::Unspecified),
            (1, 1 | 2) => Ok(Self::V4),
            (2, 1 | 2) => Ok(Self::V6),
            (3, 1 | 2) => Ok(Self::Unix),
            _ => Err(HeaderError::Malformed),
        }
    }

    /// Returns the total length of both addresses and both ports, in bytes.
    fn bytes(self) -> u16 {
        match self {
            Self::Unix => 216,
            Self::Unspecified => 0,
            Self::V4 => 12,
            Self::V6 => 36,
        }
    }

    fn client(self, addresses: &[u8]) -> Option<IpAddr> {
        match self {
            Self::Unix | Self::Unspecified => None,
            Self::V4 => {
                let octets = addresses.first_chunk::<4>()?;
                Some(Ipv4Addr::from(*octets).into())
            }
            Self::V6 => {
                let octets = addresses.first_chunk::<16>()?;
                Some(IpAddr::from(Ipv6Addr::from(*octets)).to_canonical())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [V2_START, &[command, family], &length, rest].concat()
    }

    /// Checks that the parser finds the client `client`, and that it asks the caller to skip the
    /// last `skip` bytes of the header.
    fn complete(header: &[u8], skip: u16, client: Option<&str>) {
        let length = header.len() - usize::from(skip);
        assert!(length <= HEADER_BYTES_MAX);
        let expected = HeaderRead::Complete {
            length,
            skip,
            client: client.map(|text| text.parse().unwrap()),
        };
        // The result does not depend on the bytes that follow the header. It also does not depend
        // on whether the last `skip` bytes have been received.
        for next in [&b""[..], b"GET / HTTP/1.1\r\n", b"\r\n", b"\0\xff"] {
            for header in [header, &header[..length]] {
                let longer = [header, next].concat();
                assert_eq!(
                    read_header(&longer),
                    Ok(expected),
                    "{}",
                    header.escape_ascii()
                );
            }
        }
        // If a part of the header is missing, the parser requests at least one more byte, and never
        // more bytes than are missing.
        for cut in 0..length {
            match read_header(&header[..cut]) {
                Ok(HeaderRead::Incomplete { more }) => {
                    assert!((1..=length - cut).contains(&more), "{cut}: {more}");
                }
                other => panic!("{cut} of {}: {other:?}", header.escape_ascii()),
            }
        }
    }

    #[test]
    fn headers_of_version_one_name_the_client() {
        let longest = b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n";
        let widest = format!("PROXY UNKNOWN {}\r\n", "x".repeat(107 - 16));
        let v6 = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
        let long_v6 = format!("PROXY TCP6 {v6} {v6} 65535 65535\r\n");
        for (header, client) in [
            (
                &b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\n"[..],
                Some("192.0.2.1"),
            ),
            (b"PROXY TCP4 1.1.1.1 1.1.1.1 0 0\r\n", Some("1.1.1.1")),
            (
                b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n",
                Some("255.255.255.255"),
            ),
            (
                b"PROXY TCP6 2001:db8::1 ::1 1 65535\r\n",
                Some("2001:db8::1"),
            ),
            (b"PROXY TCP6 :: :: 1 1\r\n", Some("::")),
            (
                b"PROXY TCP6 ::ffff:192.0.2.1 ::1 1 2\r\n",
                Some("192.0.2.1"),
            ),
            (long_v6.as_bytes(), Some(v6)),
            (b"PROXY UNKNOWN\r\n", None),
            (longest, None),
            (widest.as_bytes(), None),
        ] {
            complete(header, 0, client);
        }
    }

    #[test]
    fn headers_of_version_two_name_the_client() {
        let v4 = [192, 0, 2, 1, 198, 51, 100, 2, 1, 0, 1, 187];
        let mut v6 = [0; 36];
        v6[..4].copy_from_slice(&[0x20, 1, 0x0d, 0xb8]);
        v6[15] = 1;
        let with_tlvs = [&v4[..], &[4, 0, 3, 0, 0, 0], &[0xee; 100]].concat();
        complete(&v2(0x21, 0x11, &v4), 0, Some("192.0.2.1"));
        complete(&v2(0x21, 0x12, &v4), 0, Some("192.0.2.1"));
        complete(&v2(0x21, 0x11, &with_tlvs), 106, Some("192.0.2.1"));
        complete(&v2(0x21, 0x21, &v6), 0, Some("2001:db8::1"));
        let longest = [&v6[..], &vec![3; 0xffff - 36]].concat();
        complete(&v2(0x21, 0x21, &longest), 0xffff - 36, Some("2001:db8::1"));
        complete(
            &v2(0x21, 0x11, &vec![1; 0xffff]),
            0xffff - 12,
            Some("1.1.1.1"),
        );
    }

    #[test]
    fn headers_of_version_two_may_have_no_client() {
        for family in [0x31, 0x32] {
            complete(&v2(0x21, family, &[7; 216]), 216, None);
            complete(&v2(0x21, family, &vec![7; 0xffff]), 0xffff, None);
        }
        for family in [0x00, 0x01, 0x02, 0x10, 0x20, 0x30] {
            complete(&v2(0x21, family, &[]), 0, None);
            complete(&v2(0x21, family, &[9; 40]), 40, None);
        }
        for family in 0..=0xff {
            complete(&v2(0x20, family, &[]), 0, None);
            complete(&v2(0x20, family, &[1; 5]), 5, None);
        }
        complete(&v2(0x20, 0x11, &vec![1; 0xffff]), 0xffff, None);
    }

    #[test]
    fn bytes_that_are_not_a_header_are_refused() {
        let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(107 - 15));
        for (bytes, error) in [
            (&b"GET / HTTP/1.1\r\n"[..], HeaderError::Missing),
            (b"\x16\x03\x01", HeaderError::Missing),
            (b"\r\n\r\n\0\r\nQUIT\r", HeaderError::Missing),
            (b"PROXy", HeaderError::Missing),
            (b"PROXY TCP5", HeaderError::Malformed),
            (b"PROXY  TCP4", HeaderError::Malformed),
            (b"PROXY UNKNOWNS\r\n", HeaderError::Malformed),
            (b"PROXY TCP4 1.1.1.1\r", HeaderError::Malformed),
            (b"PROXY  for=a\r", HeaderError::Malformed),
            (
                b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\r",
                HeaderError::Malformed,
            ),
            (
                b"PROXY TCP4 192.0.2.1 198.51.100.2 56324\r\n",
                HeaderError::Malformed,
            ),
            (
                b"PROXY TCP4 192.0.2.1 198.51.100.2 1 2 3\r\n",
                HeaderError::Malformed,
            ),
            (
                b"PROXY TCP4 192.0.2.1 198.51.100.2 1 2 3 4\r\n",
                HeaderError::Malformed,
            ),
            (
                b"PROXY TCP4 192.0.2.1  198.51.100.2 1 2\r\n",
                HeaderError::Malformed,
            ),
            (
                b"PROXY TCP4 192.0.2.1 198.51.100.2 1 65536\r\n",
                HeaderError::Malformed,
            ),
            (
                b"PROXY TCP4 192.0.2.1 198.51.100.2 01 2\r\n",
                HeaderError::Malformed,
            ),
            (
                b"PROXY TCP4 192.0.2.1 198.51.100.2 +1 2\r\n",
                HeaderError::Malformed,
            ),
            (
                b"PROXY TCP4 192.0.2.256 198.51.100.2 1 2\r\n",
                HeaderError::Malformed,
            ),
            (b"PROXY TCP4 ::1 ::1 1 2\r\n", HeaderError::Malformed),
            (
                b"PROXY TCP6 192.0.2.1 198.51.100.2 1 2\r\n",
                HeaderError::Malformed,
            ),
            (b"PROXY TCP4 192.0.2.1 \xff 1 2\r\n", HeaderError::Malformed),
            (long.as_bytes(), HeaderError::TooLong),
            (&v2(0x22, 0x11, &[0; 12]), HeaderError::Malformed),
            (&v2(0x11, 0x11, &[0; 12]), HeaderError::Malformed),
            (&v2(0x21, 0x41, &[0; 12]), HeaderError::Malformed),
            (&v2(0x21, 0x13, &[0; 12]), HeaderError::Malformed),
            (&v2(0x21, 0x11, &[0; 11]), HeaderError::Malformed),
            (&v2(0x21, 0x21, &[0; 35]), HeaderError::Malformed),
            (&v2(0x21, 0x31, &[0; 215]), HeaderError::Malformed),
            (&v2(0x21, 0x03, &[0; 12]), HeaderError::Malformed),
            (&v2(0x21, 0xff, &[0; 12]), HeaderError::Malformed),
            (&v2(0x00, 0x00, &[]), HeaderError::Malformed),
        ] {
            assert_eq!(read_header(bytes), Err(error), "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn line_without_end_is_refused_before_it_is_too_long() {
        let line = [&b"PROXY UNKNOWN "[..], &[b'x'; 200]].concat();
        let refused = (0..=line.len()).find(|cut| read_header(&line[..*cut]).is_err());
        assert_eq!(refused, Some(V1_BYTES_MAX - 1));
    }

    proptest! {
        #[test]
        fn reading_byte_by_byte_has_the_same_result(
            start in 0usize..4,
            tail in proptest::collection::vec(any::<u8>(), 0..60),
        ) {
            let starts: [&[u8]; 4] = [b"", b"PROXY TCP4 ", V2_START, b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c"];
            let bytes = [starts[start], &tail].concat();
            let whole = read_header(&bytes);
            let first = (0..=bytes.len()).map(|cut| read_header(&bytes[..cut]));
            let first = first.take_while(|read| matches!(read, Ok(HeaderRead::Incomplete { .. })));
            let at = first.count();
            if at <= bytes.len() {
                prop_assert_eq!(read_header(&bytes[..at]), whole);
            } else {
                let is_incomplete = matches!(whole, Ok(HeaderRead::Incomplete { .. }));
                prop_assert!(is_incomplete);
            }
        }
    }
}
