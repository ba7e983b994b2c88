//! The lines of a request head (RFC 9112, 2 and 3): where it begins, where it ends, and whether its
//! first line can be one of ours.
//!
//! A line ends in CR LF. RFC 9112, 2.2 lets a recipient take a bare LF for an end too, but whoever
//! does and whoever stands in front and does not see two different heads, and that is how requests
//! are smuggled. No client of the field sends one, so it is refused, as is a CR that stands alone.
//! Each refusal is certain from the bytes up to it, however they are cut. [`super::head`] calls.

use super::Refusal;
use super::framing::is_token_byte;

/// The longest method, in bytes, that is taken for one. The longest registered one has 17.
const METHOD_BYTES_MAX: usize = 32;

/// The first byte of a TLS client: the content type of its handshake's record (RFC 8446, 5.1).
const TLS_HANDSHAKE: u8 = 0x16;

/// What came of looking for the lines of a head.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum Found<'b> {
    /// The lines, with the empty one that ends them.
    All {
        /// How many bytes they begin behind.
        before: usize,
        /// From the request line on.
        lines: &'b [u8],
    },
    /// The end has not arrived.
    Incomplete,
    /// There will be no head.
    Refused(Refusal),
}

/// Looks for the lines in front of `bytes`, of which no more than `head_bytes_max` are looked at.
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

/// Drops the empty lines that old clients send before a request (RFC 9112, 2.2).
fn without_empty_lines(mut bytes: &[u8]) -> &[u8] {
    while let Some(rest) = bytes.strip_prefix(b"\r\n") {
        bytes = rest;
    }
    bytes
}

/// Whether the bytes begin with a method, or could once more of them have come. A binary protocol
/// is known by its first byte and gets no time to wait for an answer.
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

/// The bytes up to and with the first empty line.
fn through_empty_line(bytes: &[u8]) -> Result<Option<&[u8]>, Refusal> {
    let mut start = 0;
    while let Some(line) = next_line(bytes.get(start..).unwrap_or_default())? {
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

/// The first line without its end, if its end has come.
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

/// Looks only at how the line ends: HTTP/0.9 has no version and no fields, so that nothing more
/// would ever come, and another version has rules of its own (RFC 9112, 2.3).
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

/// What is too large in a head that has not ended where it should have.
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
    fn lines_are_found_behind_empty_ones_and_before_what_follows() {
        let bytes = b"\r\n\r\nGET / HTTP/1.1\r\nA: b\r\n\r\nmore";
        let lines = b"GET / HTTP/1.1\r\nA: b\r\n\r\n".as_slice();
        assert_eq!(find(bytes, 100), Found::All { before: 4, lines });
        for cut in 0..bytes.len() - b"more".len() {
            assert_eq!(find(&bytes[..cut], 100), Found::Incomplete, "{cut}");
        }
    }

    #[test]
    fn line_that_ends_otherwise_is_refused_as_soon_as_it_is_seen() {
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
