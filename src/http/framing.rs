//! What decides where a request ends and whom it is for: `Content-Length`, `Transfer-Encoding`,
//! `Expect` and `Host` (RFC 9112, 3.2 and 6).
//!
//! One verdict for everybody who reads heads, since two verdicts on one request are how requests
//! are smuggled (RFC 9112, 11.2). Where the standard leaves a choice between mending and refusing,
//! it is refusing. Looks at single values only; [`super::head`] gathers them and is the caller.

use super::Refusal;
use super::head::{Field, Version};

/// How the end of a request's content is known (RFC 9112, 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is no content.
    Absent,
    /// By its last chunk.
    Chunked,
    /// By its length in bytes. One too large to be a number is the greatest.
    Counted(u64),
}

impl Framing {
    /// Whether there may be any content.
    #[must_use]
    pub fn has_content(self) -> bool {
        !matches!(self, Self::Absent | Self::Counted(0))
    }

    /// Decides by the two fields that can say it.
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

/// Digits alone: no sign, no list, not even of the same number twice.
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

/// Whatever does not end in `chunked`, or has it twice, has no end that is known (RFC 9112, 6.3).
/// Other codings below it would have one, and nobody sends them.
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

/// What a client waits for before it sends content (RFC 9110, 10.1.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Expectation {
    /// Nothing.
    #[default]
    Absent,
    /// `100 Continue`.
    Continue,
    /// Something that nobody has defined.
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

/// Whether this is a host with or without a port (RFC 9110, 7.2), and no more: no user before it,
/// no path behind it. Narrower than RFC 3986, 3.2.2 by the marks that no name of a host has; a
/// comma would be two hosts to whoever joins field lines.
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

/// Nothing, or a colon with a number behind it, or with nothing (RFC 3986, 3.2.3).
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

/// `tchar` (RFC 9110, 5.6.2).
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
    fn two_ways_to_know_the_end_are_one_too_many() {
        assert_eq!(decide(&["1"], &["chunked"]), Err(Refusal::ContentFraming));
        assert_eq!(decide(&["0"], &["gzip"]), Err(Refusal::ContentFraming));
        let old = decide_in(&[], &["chunked"], Version::Http10);
        assert_eq!(old, Err(Refusal::ContentFraming));
    }

    #[test]
    fn expectation_is_the_one_that_is_defined_or_unknown() {
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
    fn authority_is_a_host_with_or_without_a_port() {
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
