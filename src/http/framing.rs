//! Parses the fields that determine the end of a request and its host: `Content-Length`,
//! `Transfer-Encoding`, `Expect` and `Host` (RFC 9112, 3.2 and 6).
//!
//! All parsers of heads use these functions, because two interpretations of one request allow
//! request smuggling (RFC 9112, 11.2). If the standard allows a recipient to repair or refuse a
//! field, the field is refused. The functions check single values; [`super::head`] collects the
//! values and is the caller.

use super::Refusal;
use super::head::{Field, Version};

/// The way in which the end of a request's content is marked (RFC 9112, 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// The request has no content.
    Absent,
    /// The end is marked by the last chunk.
    Chunked,
    /// The length in bytes is known. A length beyond 64 bits counts as `u64::MAX`.
    Counted(u64),
}

impl Framing {
    /// Whether the request may have content.
    #[must_use]
    pub fn has_content(self) -> bool {
        !matches!(self, Self::Absent | Self::Counted(0))
    }

    /// Determines the framing from `Content-Length` and `Transfer-Encoding`.
    pub(super) fn decide(
        content_length: Field<'_>,
        transfer_encoding: Field<'_>,
        version: Version,
    ) -> Result<Self, Refusal> {
        let length = match content_length {
            Field::Absent => None,
            Field::Once(value) => Some(length(value)?),
            Field::Repeated => return Err(Refusal::ContentLength),
        };
        let codings = match transfer_encoding {
            Field::Absent => return Ok(length.map_or(Self::Absent, Self::Counted)),
            Field::Once(value) => value,
            Field::Repeated => return Err(Refusal::TransferEncoding),
        };
        if length.is_some() || version == Version::Http10 {
            return Err(Refusal::ContentFraming);
        }
        chunked_only(codings)
    }
}

/// Parses a length. Only digits are accepted: no sign and no list, not even a list of equal
/// numbers.
fn length(value: &[u8]) -> Result<u64, Refusal> {
    if value.is_empty() {
        return Err(Refusal::ContentLength);
    }
    let digits = value.iter().map(|byte| match byte {
        b'0'..=b'9' => Ok(u64::from(byte - b'0')),
        _ => Err(Refusal::ContentLength),
    });
    digits.into_iter().try_fold(0_u64, |number, digit| {
        let digit = digit?;
        Ok(number.saturating_mul(10).saturating_add(digit))
    })
}

/// Accepts `chunked` as the only transfer coding. If a list does not end in `chunked` or contains
/// `chunked` twice, the end of the content is unknown (RFC 9112, 6.3). Other codings before
/// `chunked` are valid, but not implemented.
fn chunked_only(codings: &[u8]) -> Result<Framing, Refusal> {
    let mut from_last = codings.split(|byte| *byte == b',').rev();
    let is_chunked = |coding: &[u8]| coding.trim_ascii().eq_ignore_ascii_case(b"chunked");
    if !from_last.next().is_some_and(is_chunked) {
        return Err(Refusal::TransferEncoding);
    }
    let mut below = from_last.peekable();
    if below.peek().is_none() {
        return Ok(Framing::Chunked);
    }
    if below.any(is_chunked) {
        return Err(Refusal::TransferEncoding);
    }
    Err(Refusal::TransferCoding)
}

/// The response that a client waits for before it sends content (RFC 9110, 10.1.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Expectation {
    /// The client awaits no response.
    #[default]
    Absent,
    /// The client awaits `100 Continue`.
    Continue,
    /// The expectation is undefined.
    Unknown,
}

impl Expectation {
    pub(super) fn note(&mut self, value: &[u8]) {
        let mut members = value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
        let is_known = members.all(|member| member.eq_ignore_ascii_case(b"100-continue"));
        *self = match (is_known, *self) {
            (true, Self::Absent | Self::Continue) => Self::Continue,
            (true, Self::Unknown) | (false, _) => Self::Unknown,
        };
    }
}

/// Whether `value` is a host with an optional port (RFC 9110, 7.2), without a user and a path. The
/// check is stricter than RFC 3986, 3.2.2: characters that do not occur in host names are refused.
/// This includes the comma, because a recipient that joins field lines would read the value as two
/// hosts.
#[must_use]
pub fn is_authority(value: &[u8]) -> bool {
    let (host, port) = match value.strip_prefix(b"[") {
        Some(literal) => {
            let Some(end) = literal.iter().position(|byte| *byte == b']') else {
                return false;
            };
            let (address, rest) = literal.split_at(end);
            if !address.iter().copied().all(is_address_byte) {
                return false;
            }
            (address, rest.strip_prefix(b"]").unwrap_or_default())
        }
        None => {
            let end = value.iter().position(|byte| *byte == b':');
            let (name, rest) = value.split_at(end.unwrap_or(value.len()));
            if !name.iter().copied().all(is_name_byte) {
                return false;
            }
            (name, rest)
        }
    };
    !host.is_empty() && is_port(port)
}

/// Whether the text is empty, or a colon with an optional number (RFC 3986, 3.2.3).
fn is_port(text: &[u8]) -> bool {
    match text {
        [] => true,
        [b':', digits @ ..] => digits.len() <= 5 && digits.iter().all(u8::is_ascii_digit),
        _ => false,
    }
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~%".contains(&byte)
}

fn is_address_byte(byte: u8) -> bool {
    byte.is_ascii_hexdigit() || b":.".contains(&byte)
}

/// Whether a byte may occur in a token (`tchar` in RFC 9110, 5.6.2).
#[must_use]
pub fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decide(length: &[&'static str], coding: &[&'static str]) -> Result<Framing, Refusal> {
        decide_in(length, coding, Version::Http11)
    }

    fn decide_in(
        length: &[&'static str],
        coding: &[&'static str],
        version: Version,
    ) -> Result<Framing, Refusal> {
        let field = |values: &[&'static str]| match values {
            [] => Field::Absent,
            [value] => Field::Once(value.as_bytes()),
            _ => Field::Repeated,
        };
        Framing::decide(field(length), field(coding), version)
    }

    #[test]
    fn length_is_one_number_in_digits() {
        assert_eq!(decide(&[], &[]), Ok(Framing::Absent));
        for (text, number) in [
            ("0", 0),
            ("42", 42),
            ("007", 7),
            ("18446744073709551615", u64::MAX),
            ("18446744073709551616", u64::MAX),
            ("99999999999999999999999999", u64::MAX),
        ] {
            assert_eq!(decide(&[text], &[]), Ok(Framing::Counted(number)), "{text}");
        }
        for text in [
            "", "+1", "-1", "1 ", "1 1", "1,1", "0x10", "1.0", "1e3", "\u{661}",
        ] {
            assert_eq!(decide(&[text], &[]), Err(Refusal::ContentLength), "{text}");
        }
        assert_eq!(decide(&["1", "1"], &[]), Err(Refusal::ContentLength));
    }

    #[test]
    fn coding_is_chunked_alone() {
        for text in ["chunked", "Chunked", " chunked\t"] {
            assert_eq!(decide(&[], &[text]), Ok(Framing::Chunked), "{text}");
        }
        for text in [
            "",
            "identity",
            "xchunked",
            "chunked, gzip",
            "chunked,",
            "chunked;q=1",
        ] {
            assert_eq!(
                decide(&[], &[text]),
                Err(Refusal::TransferEncoding),
                "{text}"
            );
        }
        let twice = Err(Refusal::TransferEncoding);
        assert_eq!(decide(&[], &["chunked, chunked"]), twice);
        assert_eq!(decide(&[], &["chunked, gzip, chunked"]), twice);
        assert_eq!(decide(&[], &["chunked", "chunked"]), twice);
        assert_eq!(
            decide(&[], &["gzip, chunked"]),
            Err(Refusal::TransferCoding)
        );
    }

    #[test]
    fn length_and_coding_together_are_refused() {
        assert_eq!(decide(&["1"], &["chunked"]), Err(Refusal::ContentFraming));
        assert_eq!(decide(&["0"], &["gzip"]), Err(Refusal::ContentFraming));
        let old = decide_in(&[], &["chunked"], Version::Http10);
        assert_eq!(old, Err(Refusal::ContentFraming));
    }

    #[test]
    fn expectation_is_continue_or_unknown() {
        for (values, expected) in [
            (&[][..], Expectation::Absent),
            (&["100-continue"], Expectation::Continue),
            (&["100-Continue, 100-continue"], Expectation::Continue),
            (&["100-continue", "100-continue"], Expectation::Continue),
            (&["tea"], Expectation::Unknown),
            (&[""], Expectation::Unknown),
            (&["tea", "100-continue"], Expectation::Unknown),
            (&["100-continue, tea"], Expectation::Unknown),
        ] {
            let mut expectation = Expectation::default();
            for value in values {
                expectation.note(value.as_bytes());
            }
            assert_eq!(expectation, expected, "{values:?}");
        }
    }

    #[test]
    fn authority_is_a_host_with_an_optional_port() {
        for good in [
            "h",
            "example.com",
            "EXAMPLE.com:443",
            "127.0.0.1:8080",
            "[::1]",
            "[::1]:80",
            "a_b",
            "h:",
            "xn--bcher-kva.example",
            "[::ffff:1.2.3.4]:65535",
        ] {
            assert!(is_authority(good.as_bytes()), "{good}");
        }
        for bad in [
            "",
            ":",
            ":80",
            "h:x",
            "h:80:80",
            "h:999999",
            "user@h",
            "u:p@h",
            "h/",
            "h/path",
            "h?q",
            "h#f",
            "a b",
            "a,b",
            "h\t",
            "[::1",
            "::1",
            "[]",
            "[::1]x",
            "[v]",
            "\u{fc}",
            "a\\b",
            "http://h",
            "h:-1",
            "[fe80::1%25eth0]",
        ] {
            assert!(!is_authority(bad.as_bytes()), "{bad}");
        }
    }
}
