//! Parses `Sec-WebSocket-Extensions` (RFC 6455, 9.1) and accepts the first suitable offer of
//! permessage-deflate (RFC 7692, 5.1 and 7.1).
//!
//! An offer with an unknown, repeated, invalid or unsupported parameter is declined, and the next
//! offer is examined. Other extensions are ignored. If the field is not a list of extensions, the
//! handshake is refused. The answer excludes context takeover on both sides. So all subscribers
//! share one compressed frame, and no conn owns a compressor. For the same reason the window is
//! always [`DEFLATE_WINDOW_BITS`], and an offer that demands a smaller window is declined. The
//! parser borrows the field and allocates nothing.

use super::framing::is_token_byte;
use crate::certain;
use crate::config::limits::DEFLATE_WINDOW_BITS;

/// The only supported extension.
const NAME: &[u8] = b"permessage-deflate";

/// An accepted offer of permessage-deflate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deflate {
    /// Whether the client limits the size of the server's compression window. The answer must then
    /// contain a size (RFC 7692, 7.1.2.1).
    pub tells_window: bool,
}

/// The result of parsing a client's offers, line by line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offers {
    /// The first suitable offer of permessage-deflate.
    pub deflate: Option<Deflate>,
    /// Set if a line was not a valid list of extensions.
    pub is_malformed: bool,
}

impl Offers {
    /// Parses the value of one field line. If the field has several lines, they form one list (RFC
    /// 6455, 9.1).
    pub(super) fn note(&mut self, value: &[u8]) {
        match (Parser { rest: value }).read_list() {
            Ok(found) => self.deflate = self.deflate.or(found),
            Err(Malformed) => self.is_malformed = true,
        }
    }
}

/// The error for a field that violates the grammar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Malformed;

/// The value of a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Value {
    /// The parameter has no value.
    Absent,
    /// The binary logarithm of a window's size (RFC 7692, 7.1.2): 8 to 15, without leading zeros.
    Bits(u8),
    /// The parameter has another value.
    Other,
}

/// The parameters of one offer.
#[derive(Debug, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each parameter may be there or not"
)]
struct Offer {
    has_server_takeover: bool,
    has_client_takeover: bool,
    has_server_window: bool,
    has_client_window: bool,
    is_declined: bool,
}

impl Offer {
    fn note(&mut self, name: &[u8], value: Value) {
        let (seen, is_kept) = match name {
            b"server_no_context_takeover" => {
                (&mut self.has_server_takeover, value == Value::Absent)
            }
            b"client_no_context_takeover" => {
                (&mut self.has_client_takeover, value == Value::Absent)
            }
            b"server_max_window_bits" => (
                &mut self.has_server_window,
                matches!(value, Value::Bits(bits) if bits >= DEFLATE_WINDOW_BITS),
            ),
            // This parameter does not bind the server, because the server can decompress with any
            // window.
            b"client_max_window_bits" => (&mut self.has_client_window, value != Value::Other),
            _ => return self.is_declined = true,
        };
        let is_repeated = std::mem::replace(seen, true);
        self.is_declined |= is_repeated || !is_kept;
    }

    fn accept(&self) -> Option<Deflate> {
        (!self.is_declined).then_some(Deflate {
            tells_window: self.has_server_window,
        })
    }
}

/// A number of one or two digits, read byte by byte.
#[derive(Debug, Default)]
struct Digits {
    count: usize,
    /// The number. `None` if a byte is not a digit, if the first of two digits is zero, or if there
    /// are more than two bytes.
    number: Option<u8>,
}

impl Digits {
    fn push(&mut self, byte: u8) {
        let digit = byte.is_ascii_digit().then(|| byte.wrapping_sub(b'0'));
        self.number = match (self.count, self.number, digit) {
            (0, _, Some(digit)) => Some(digit),
            (1, Some(ten @ 1..=9), Some(digit)) => Some(ten * 10 + digit),
            _ => None,
        };
        self.count = self.count.saturating_add(1);
    }

    fn value(&self) -> Value {
        match self.number {
            Some(bits @ 8..=15) => Value::Bits(bits),
            Some(_) | None => Value::Other,
        }
    }
}

struct Parser<'b> {
    rest: &'b [u8],
}

impl<'b> Parser<'b> {
    /// Returns the first suitable offer of the list. Empty elements are ignored (RFC 9110,
    /// 5.6.1.2).
    fn read_list(mut self) -> Result<Option<Deflate>, Malformed> {
        let mut found = None;
        loop {
            while self.skip(b',') {}
            if self.rest.is_empty() {
                return Ok(found);
            }
            let offer = self.read_offer()?;
            found = found.or(offer);
            if !self.rest.is_empty() && !self.skip(b',') {
                return Err(Malformed);
            }
        }
    }

    fn read_offer(&mut self) -> Result<Option<Deflate>, Malformed> {
        let is_deflate = self.read_token()? == NAME;
        let mut offer = Offer::default();
        while self.skip(b';') {
            let name = self.read_token()?;
            let value = if self.skip(b'=') {
                self.read_value()?
            } else {
                Value::Absent
            };
            offer.note(name, value);
        }
        Ok(offer.accept().filter(|_| is_deflate))
    }

    fn read_token(&mut self) -> Result<&'b [u8], Malformed> {
        self.skip_space();
        let end = self.rest.iter().position(|&byte| !is_token_byte(byte));
        let (token, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
        self.rest = rest;
        self.skip_space();
        if token.is_empty() {
            return Err(Malformed);
        }
        Ok(token)
    }

    /// Reads the value of a parameter: a token, or a quoted string that contains a token (RFC 6455,
    /// 9.1).
    fn read_value(&mut self) -> Result<Value, Malformed> {
        let mut digits = Digits::default();
        if !self.skip(b'"') {
            for &byte in self.read_token()? {
                digits.push(byte);
            }
            return Ok(digits.value());
        }
        loop {
            let byte = match self.read_byte()? {
                b'"' => break,
                b'\\' => self.read_byte()?,
                byte => byte,
            };
            if !is_token_byte(byte) {
                return Err(Malformed);
            }
            digits.push(byte);
        }
        self.skip_space();
        if digits.count == 0 {
            return Err(Malformed);
        }
        Ok(digits.value())
    }

    fn read_byte(&mut self) -> Result<u8, Malformed> {
        let (byte, rest) = self.rest.split_first().ok_or(Malformed)?;
        self.rest = rest;
        Ok(*byte)
    }

    /// Skips white space. If the next byte is `byte`, also skips this byte and the white space
    /// after this byte, and returns true.
    fn skip(&mut self, byte: u8) -> bool {
        self.skip_space();
        match self.rest.split_first() {
            Some((first, rest)) if *first == byte => {
                self.rest = rest;
                self.skip_space();
                true
            }
            _ => false,
        }
    }

    fn skip_space(&mut self) {
        let is_space = |byte: &u8| matches!(byte, b' ' | b'\t');
        let end = self.rest.iter().position(|byte| !is_space(byte));
        self.rest = certain::skip(self.rest, end.unwrap_or(self.rest.len()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACCEPTED: Offers = Offers {
        deflate: Some(Deflate {
            tells_window: false,
        }),
        is_malformed: false,
    };
    const BOUNDED: Offers = Offers {
        deflate: Some(Deflate { tells_window: true }),
        is_malformed: false,
    };
    const DECLINED: Offers = Offers {
        deflate: None,
        is_malformed: false,
    };

    fn read(lines: &[&str]) -> Offers {
        let mut offers = Offers::default();
        for line in lines {
            offers.note(line.as_bytes());
        }
        offers
    }

    #[test]
    fn offers_of_clients_in_the_field_are_accepted() {
        for (line, expected) in [
            // These are the offers of browsers, Node and Python, then the offers of embedded
            // clients, then the offers of Go and .NET.
            ("permessage-deflate; client_max_window_bits", ACCEPTED),
            (
                "permessage-deflate; server_max_window_bits=12; client_max_window_bits=12",
                BOUNDED,
            ),
            (
                "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
                ACCEPTED,
            ),
            ("permessage-deflate", ACCEPTED),
            (
                "x-webkit-deflate-frame, permessage-deflate;client_max_window_bits=15",
                ACCEPTED,
            ),
            (
                "permessage-bzip2; level=9, permessage-deflate; server_max_window_bits=15",
                BOUNDED,
            ),
        ] {
            assert_eq!(read(&[line]), expected, "{line}");
        }
    }

    #[test]
    fn offer_with_an_unsupported_parameter_is_declined() {
        for parameters in [
            "unknown",
            "unknown=1",
            "server_no_context_takeover=true",
            "client_no_context_takeover=1",
            "server_no_context_takeover; server_no_context_takeover",
            "client_max_window_bits; client_max_window_bits=10",
            "server_max_window_bits",
            "server_max_window_bits=8",
            "server_max_window_bits=11",
            "server_max_window_bits=16",
            "server_max_window_bits=012",
            "server_max_window_bits=112",
            "server_max_window_bits=x",
            "server_max_window_bits=12; server_max_window_bits=12",
            "client_max_window_bits=7",
            "client_max_window_bits=08",
            "client_max_window_bits=9x",
            "client_max_window_bits=16",
            "Server_no_context_takeover",
        ] {
            let line = format!("permessage-deflate; {parameters}");
            assert_eq!(read(&[&line]), DECLINED, "{line}");
            // After a declined offer, the next offer is examined. It may be on the same line or on
            // another line.
            let next = format!("{line}, permessage-deflate");
            assert_eq!(read(&[&next]), ACCEPTED, "{next}");
            assert_eq!(read(&[&line, "permessage-deflate"]), ACCEPTED, "{line}");
        }
        assert_eq!(
            read(&["permessage-deflate-2, deflate, PERMESSAGE-DEFLATE"]),
            DECLINED
        );
    }

    #[test]
    fn first_suitable_offer_is_accepted() {
        let bounded = "permessage-deflate; server_max_window_bits=13";
        assert_eq!(read(&[bounded, "permessage-deflate"]), BOUNDED);
        assert_eq!(read(&["permessage-deflate", bounded]), ACCEPTED);
        for bits in 8..=15 {
            let line = format!("permessage-deflate; client_max_window_bits={bits}");
            assert_eq!(read(&[&line]), ACCEPTED);
            let line = format!("permessage-deflate; server_max_window_bits={bits}");
            let expected = if bits >= 12 { BOUNDED } else { DECLINED };
            assert_eq!(read(&[&line]), expected);
        }
    }

    #[test]
    fn white_space_quotes_and_empty_elements_are_ignored() {
        for line in [
            "permessage-deflate;server_max_window_bits=12",
            "\tpermessage-deflate ; server_max_window_bits = 12 ",
            "permessage-deflate; server_max_window_bits=\"12\"",
            "permessage-deflate; server_max_window_bits=\"\\1\\2\" ,",
            ",, ,permessage-deflate; server_max_window_bits= \"12\",",
        ] {
            assert_eq!(read(&[line]), BOUNDED, "{line}");
        }
        for line in ["", " ", ",", " ,\t, "] {
            assert_eq!(read(&[line]), DECLINED, "{line:?}");
        }
    }

    #[test]
    fn malformed_line_is_reported_after_a_valid_line() {
        for line in [
            ";",
            "=",
            "permessage-deflate;",
            "permessage-deflate; ;",
            "permessage-deflate; =",
            "permessage-deflate; a=",
            "permessage-deflate; a=,",
            "permessage-deflate; a=\"",
            "permessage-deflate; a=\"\"",
            "permessage-deflate; a=\"b",
            "permessage-deflate; a=\"b\\",
            "permessage-deflate; a=\"b c\"",
            "permessage-deflate; a=\"b\\\"\"",
            "permessage-deflate; a=\"b\"c",
            "permessage-deflate; a=b=c",
            "permessage-deflate client_max_window_bits",
            "permessage-deflate, (",
            "permessage-deflate, \u{fc}",
            "permessage-deflate\u{0}",
        ] {
            let offers = read(&["permessage-deflate", line]);
            assert!(offers.is_malformed, "{line:?}");
        }
    }

    #[test]
    fn every_prefix_of_a_line_is_a_list_or_malformed() {
        let line = "a; b=\"c\", permessage-deflate ; server_max_window_bits=15, d";
        for cut in 0..=line.len() {
            let part = &line[..cut];
            let is_open = part.contains('"') && !part.contains("c\"");
            let is_malformed = is_open || part.trim_end().ends_with([';', '=']);
            let offers = read(&[part]);
            assert_eq!(offers.is_malformed, is_malformed, "{part:?}");
            if !is_malformed && cut >= line.find(", d").unwrap() {
                assert_eq!(offers, BOUNDED);
            }
        }
    }

    #[test]
    fn any_bytes_are_parsed_without_a_panic() {
        let mut random = fastrand::Rng::with_seed(3);
        let alphabet = b"ab=;,\"\\ \t158permessage-deflate\xff\x00";
        for _ in 0..20_000 {
            let length = random.usize(0..30);
            let line: Vec<u8> = (0..length)
                .map(|_| alphabet[random.usize(0..alphabet.len())])
                .collect();
            let mut offers = Offers::default();
            offers.note(&line);
            assert!(
                !(offers.is_malformed && offers.deflate.is_some()),
                "{line:?}"
            );
        }
    }
}
