//! Finds the lines of a request head (RFC 9112, 2 and 3): the start of the head, its end, and a
//! first check of the request line.
//!
//! A line ends in CR LF. RFC 9112, 2.2 lets a recipient accept a bare LF, too. But if a server
//! accepts a bare LF and a proxy does not, they see two different heads, which allows request
//! smuggling. No known client sends a bare LF, so a bare LF is refused, like a bare CR. A refusal
//! depends only on the received bytes, not on how these bytes are split into reads. [`super::head`]
//! is the caller.

use super::Refusal;
use super::framing::is_token_byte;
use crate::certain;

/// The maximum length of a method in bytes. The longest registered method has 17 bytes.
const METHOD_BYTES_MAX: usize = 32;

/// The first byte that a TLS client sends: the content type of a handshake record (RFC 8446, 5.1).
const TLS_HANDSHAKE: u8 = 0x16;

/// The result of the search for the lines of a head.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum Found<'b> {
    /// All lines have been received.
    All {
        /// The number of bytes of empty lines before the head.
        before: usize,
        /// The request line and the field lines, with the empty line at the end.
        lines: &'b [u8],
    },
    /// The end of the head is missing.
    Incomplete,
    /// The bytes cannot become a valid head.
    Refused(Refusal),
}

/// Finds the lines at the front of `bytes`. At most `head_bytes_max` bytes are examined.
pub(super) fn find(bytes: &[u8], head_bytes_max: usize) -> Found<'_> {
    let window = bytes.get(..head_bytes_max).unwrap_or(bytes);
    let rest = without_empty_lines(window);
    if rest.first() == Some(&TLS_HANDSHAKE) {
        return Found::Refused(Refusal::TlsOnPlain);
    }
    if !may_be_request(rest) {
        return Found::Refused(Refusal::NotHttp);
    }
    match through_empty_line(rest) {
        Err(refusal) => Found::Refused(refusal),
        Ok(Some(lines)) => Found::All {
            before: window.len() - rest.len(),
            lines,
        },
        Ok(None) if bytes.len() < head_bytes_max => Found::Incomplete,
        Ok(None) => Found::Refused(overflow(rest, head_bytes_max)),
    }
}

/// Skips the empty lines that old clients send before a request (RFC 9112, 2.2).
fn without_empty_lines(mut bytes: &[u8]) -> &[u8] {
    while let Some(rest) = bytes.strip_prefix(b"\r\n") {
        bytes = rest;
    }
    bytes
}

/// Whether the bytes begin with a method and a space, or may be the incomplete beginning of a
/// request. Most binary protocols are refused at the first byte, without waiting for more bytes.
fn may_be_request(bytes: &[u8]) -> bool {
    if matches!(bytes, [] | [b'\r']) {
        return true;
    }
    let front = bytes.get(..METHOD_BYTES_MAX).unwrap_or(bytes);
    match front.iter().position(|&byte| !is_token_byte(byte)) {
        Some(end) => end > 0 && front.get(end) == Some(&b' '),
        None => front.len() < METHOD_BYTES_MAX,
    }
}

/// Returns the bytes up to and including the first empty line; `None` if there is no empty line
/// yet.
fn through_empty_line(bytes: &[u8]) -> Result<Option<&[u8]>, Refusal> {
    let mut start = 0;
    while let Some(line) = next_line(certain::skip(bytes, start))? {
        if start == 0 {
            check_request_line(line)?;
        }
        start += line.len() + 2;
        if line.is_empty() {
            return Ok(bytes.get(..start));
        }
    }
    Ok(None)
}

/// Returns the first line without its end; `None` if the end of the line is missing.
fn next_line(bytes: &[u8]) -> Result<Option<&[u8]>, Refusal> {
    let Some(at) = memchr::memchr2(b'\r', b'\n', bytes) else {
        return Ok(None);
    };
    match bytes.get(at..) {
        Some([b'\r', b'\n', ..]) => Ok(bytes.get(..at)),
        Some([b'\r']) => Ok(None),
        _ => Err(Refusal::LineEnd),
    }
}

/// Checks only the version at the end of the request line. A request of HTTP/0.9 has no version and
/// no fields, so such a request is refused without waiting for fields. Other versions are refused
/// because they have different rules (RFC 9112, 2.3).
fn check_request_line(line: &[u8]) -> Result<(), Refusal> {
    if line == b"PRI * HTTP/2.0" {
        return Err(Refusal::Http2);
    }
    let last_word = line.rsplit(|&byte| byte == b' ').next().unwrap_or(line);
    match last_word.strip_prefix(b"HTTP/") {
        Some(b"1.0" | b"1.1") => Ok(()),
        Some([major]) if major.is_ascii_digit() => Err(Refusal::Version),
        Some([major, b'.', minor]) if major.is_ascii_digit() && minor.is_ascii_digit() => {
            Err(Refusal::Version)
        }
        Some(_) | None => Err(Refusal::NotHttp),
    }
}

/// Returns the refusal for a head that exceeds the limit. The refusal says which part of the head
/// is too long.
fn overflow(bytes: &[u8], limit: usize) -> Refusal {
    if bytes.is_empty() || bytes == b"\r" {
        Refusal::NotHttp
    } else if bytes.contains(&b'\n') {
        Refusal::HeadTooLarge { limit }
    } else {
        Refusal::TargetTooLong { limit }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_found_between_empty_lines_and_later_bytes() {
        let bytes = b"\r\n\r\nGET / HTTP/1.1\r\nA: b\r\n\r\nmore";
        let lines = b"GET / HTTP/1.1\r\nA: b\r\n\r\n".as_slice();
        assert_eq!(find(bytes, 100), Found::All { before: 4, lines });
        for cut in 0..bytes.len() - b"more".len() {
            assert_eq!(find(&bytes[..cut], 100), Found::Incomplete, "{cut}");
        }
    }

    #[test]
    fn bare_cr_or_lf_is_refused_at_the_first_certain_byte() {
        for (bytes, certain) in [
            (&b"GET / HTTP/1.1\nHost: h\r\n\r\n"[..], 15),
            (b"GET / HTTP/1.1\r\nHost: h\n\r\n", 24),
            (b"GET / HTTP/1.1\r\nHost: h\r\n\n", 26),
            (b"GET / HTTP/1.1\r\nHost: h\r\r\n", 25),
            (b"GET / HTTP/1.1\r\nHost: a\rb\r\n\r\n", 25),
            (b"GET /a\rb HTTP/1.1\r\n\r\n", 8),
        ] {
            for cut in 0..=bytes.len() {
                let expected = if cut < certain {
                    Found::Incomplete
                } else {
                    Found::Refused(Refusal::LineEnd)
                };
                assert_eq!(find(&bytes[..cut], 100), expected, "{cut} of {bytes:?}");
            }
        }
    }

    #[test]
    fn request_line_is_refused_without_waiting_for_fields() {
        for (line, refusal) in [
            ("GET /\r\n", Refusal::NotHttp),
            ("GET / \r\n", Refusal::NotHttp),
            ("GET / HTTP/1.1 \r\n", Refusal::NotHttp),
            ("GET / HTTP/1.x\r\n", Refusal::NotHttp),
            ("GET / http/1.1\r\n", Refusal::NotHttp),
            ("GET / HTTP/1.2\r\n", Refusal::Version),
            ("GET / HTTP/0.9\r\n", Refusal::Version),
            ("PRI * HTTP/2.0\r\n", Refusal::Http2),
            ("GET / HTTP/2.0\r\n", Refusal::Version),
            ("\u{16}", Refusal::TlsOnPlain),
            ("GET / HTTP/3\r\n", Refusal::Version),
        ] {
            assert_eq!(
                find(line.as_bytes(), 100),
                Found::Refused(refusal),
                "{line}"
            );
        }
    }
}
