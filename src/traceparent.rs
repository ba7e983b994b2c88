//! The W3C trace context of a request or a publication: the value of `traceparent` (Trace Context
//! level 1, 3.2).
//!
//! The value connects a publication or a connection with the trace of the program that sent it.
//! The server passes the value on unchanged. A value of a higher version is read as the
//! specification requires: the four fields of version 00, of which only the sampled flag has a
//! known meaning. The text after these fields is ignored. At most [`TEXT_BYTES`] bytes and the
//! byte after them are examined.

use std::fmt;
use std::str::FromStr;

/// The length of the text of version 00 in bytes.
pub const TEXT_BYTES: usize = 55;

/// The flag of a trace whose spans are recorded.
const SAMPLED: u8 = 1;

/// A valid `traceparent`: the ids of a trace and of the span that is the parent, and the flags.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceParent {
    trace: TraceId,
    span: SpanId,
    flags: u8,
}

// The journal stores this many bytes.
const _: () = assert!(size_of::<TraceParent>() == TraceParent::BYTES);

/// The id of a trace. Not all bytes are zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceId([u8; 16]);

/// The id of a span. Not all bytes are zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SpanId([u8; 8]);

/// The text or the bytes are not a valid `traceparent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not of the form 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")]
pub struct TraceParentError;

impl TraceParent {
    /// The length of the binary form in bytes.
    pub const BYTES: usize = 25;

    /// Parses the text of a header field or of a JSON value.
    ///
    /// # Errors
    /// Returns [`TraceParentError`] if the text is not lowercase hexadecimal in the four fields of
    /// version 00, if an id is zero, or if the version is `ff`, which is invalid.
    pub fn from_bytes(text: &[u8]) -> Result<Self, TraceParentError> {
        Self::parse(text).ok_or(TraceParentError)
    }

    fn parse(text: &[u8]) -> Option<Self> {
        let mut rest = text;
        let [version] = hex(&mut rest)?;
        dash(&mut rest)?;
        let trace = TraceId::new(hex(&mut rest)?)?;
        dash(&mut rest)?;
        let span = SpanId::new(hex(&mut rest)?)?;
        dash(&mut rest)?;
        let [flags] = hex(&mut rest)?;
        let flags = match (version, rest.first()) {
            (0, None) => flags,
            (1..=0xfe, None | Some(b'-')) => flags & SAMPLED,
            _ => return None,
        };
        Some(Self { trace, span, flags })
    }

    /// Returns the binary form: the id of the trace, the id of the span, the flags.
    #[must_use]
    pub fn to_binary(self) -> [u8; Self::BYTES] {
        let mut binary = [0; Self::BYTES];
        let bytes = self.trace.0.into_iter().chain(self.span.0);
        for (place, byte) in binary.iter_mut().zip(bytes.chain([self.flags])) {
            *place = byte;
        }
        binary
    }

    /// Decodes the binary form. Returns `None` if an id is zero.
    #[must_use]
    pub fn from_binary(binary: [u8; Self::BYTES]) -> Option<Self> {
        let (trace, rest) = binary.split_first_chunk()?;
        let (span, flags) = rest.split_first_chunk()?;
        let [flags] = flags else {
            return None;
        };
        Some(Self {
            trace: TraceId::new(*trace)?,
            span: SpanId::new(*span)?,
            flags: *flags,
        })
    }

    /// Returns the id of the trace.
    #[must_use]
    pub fn trace(self) -> TraceId {
        self.trace
    }

    /// Returns the id of the parent span.
    #[must_use]
    pub fn span(self) -> SpanId {
        self.span
    }

    /// Whether the sender records the trace.
    #[must_use]
    pub fn is_sampled(self) -> bool {
        self.flags & SAMPLED != 0
    }
}

impl TraceId {
    /// Creates an id. Returns `None` if all bytes are zero.
    #[must_use]
    pub fn new(bytes: [u8; 16]) -> Option<Self> {
        (bytes != [0; 16]).then_some(Self(bytes))
    }

    /// Returns the bytes of the id.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 16] {
        self.0
    }
}

impl SpanId {
    /// Creates an id. Returns `None` if all bytes are zero.
    #[must_use]
    pub fn new(bytes: [u8; 8]) -> Option<Self> {
        (bytes != [0; 8]).then_some(Self(bytes))
    }

    /// Returns the bytes of the id.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 8] {
        self.0
    }
}

/// Takes `N` bytes in lowercase hexadecimal.
fn hex<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (digits, tail) = rest.split_at_checked(2 * N)?;
    *rest = tail;
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let [high, low] = pair else { return None };
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(bytes)
}

fn digit(character: u8) -> Option<u8> {
    match character {
        b'0'..=b'9' => Some(character - b'0'),
        b'a'..=b'f' => Some(character - b'a' + 10),
        _ => None,
    }
}

fn dash(rest: &mut &[u8]) -> Option<()> {
    let (dash, tail) = rest.split_first()?;
    *rest = tail;
    (*dash == b'-').then_some(())
}

fn push_hex(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

impl fmt::Display for TraceParent {
    /// Writes version 00: `00-`, the id of the trace, the id of the span, the flags.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{}-{}-{:02x}", self.trace, self.span, self.flags)
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        push_hex(&self.0, f)
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        push_hex(&self.0, f)
    }
}

impl fmt::Debug for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for TraceParent {
    type Err = TraceParentError;

    fn from_str(text: &str) -> Result<Self, TraceParentError> {
        Self::from_bytes(text.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const EXAMPLE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn example_of_the_specification_is_read_and_written_unchanged() {
        let parsed: TraceParent = EXAMPLE.parse().unwrap();
        assert_eq!(parsed.to_string(), EXAMPLE);
        assert_eq!(EXAMPLE.len(), TEXT_BYTES);
        assert!(parsed.is_sampled());
        assert_eq!(
            parsed.trace().to_string(),
            "4bf92f3577b34da6a3ce929d0e0e4736"
        );
        assert_eq!(parsed.span().to_string(), "00f067aa0ba902b7");
        let unsampled = EXAMPLE.replace("-01", "-00").parse::<TraceParent>();
        assert!(!unsampled.unwrap().is_sampled());
    }

    #[test]
    fn invalid_values_are_refused() {
        let id = "4bf92f3577b34da6a3ce929d0e0e4736";
        let zero = "0".repeat(32);
        for text in [
            String::new(),
            EXAMPLE[..54].to_owned(),
            EXAMPLE.to_uppercase(),
            format!("{EXAMPLE}-"),
            format!("{EXAMPLE}0"),
            format!(" {EXAMPLE}"),
            format!("{EXAMPLE} "),
            EXAMPLE.replace('-', "_"),
            EXAMPLE.replacen("00-", "ff-", 1),
            EXAMPLE.replacen("00-", "0-", 1),
            EXAMPLE.replacen("00-", "0g-", 1),
            EXAMPLE.replace(id, &zero),
            EXAMPLE.replace("00f067aa0ba902b7", "0000000000000000"),
            EXAMPLE.replace("f0", "\u{e9}"),
            EXAMPLE.replacen("00-", "cc-", 1) + "0",
            EXAMPLE.replacen("00-", "cc-", 1) + ".what",
        ] {
            assert_eq!(text.parse::<TraceParent>(), Err(TraceParentError), "{text}");
        }
    }

    #[test]
    fn higher_version_is_read_as_version_00_with_the_sampled_flag_only() {
        for text in [
            EXAMPLE.replacen("00-", "01-", 1),
            EXAMPLE.replacen("00-", "fe-", 1) + "-",
            EXAMPLE.replacen("00-", "cc-", 1) + "-what-the-future-will-be-like",
            EXAMPLE.replacen("00-", "cc-", 1).replace("-01", "-ff"),
        ] {
            assert_eq!(text.parse::<TraceParent>().unwrap().to_string(), EXAMPLE);
        }
    }

    #[test]
    fn binary_form_with_a_zero_id_is_none() {
        let mut binary = EXAMPLE.parse::<TraceParent>().unwrap().to_binary();
        assert!(TraceParent::from_binary(binary).is_some());
        binary[16..24].fill(0);
        assert_eq!(TraceParent::from_binary(binary), None);
        binary[16] = 1;
        binary[..16].fill(0);
        assert_eq!(TraceParent::from_binary(binary), None);
    }

    proptest! {
        #[test]
        fn text_and_binary_form_return_the_same_value(
            trace in any::<[u8; 16]>(),
            span in any::<[u8; 8]>(),
            flags in any::<u8>(),
        ) {
            prop_assume!(trace != [0; 16] && span != [0; 8]);
            let mut binary = [flags; 25];
            binary[..16].copy_from_slice(&trace);
            binary[16..24].copy_from_slice(&span);
            let value = TraceParent::from_binary(binary).unwrap();
            prop_assert_eq!(value.to_binary(), binary);
            let text = value.to_string();
            prop_assert_eq!(text.len(), TEXT_BYTES);
            prop_assert_eq!(text.parse(), Ok(value));
            let mut cut = text.as_bytes();
            while let [front @ .., _] = cut {
                cut = front;
                prop_assert!(TraceParent::from_bytes(cut).is_err());
            }
        }

        #[test]
        fn every_accepted_text_is_the_text_of_its_value_or_of_a_higher_version(
            text in "(00|01|ff)-[0-1a]{32}-[0-1a]{16}-[0-3]{2}(-.*)?|.{0,70}",
        ) {
            if let Ok(value) = text.parse::<TraceParent>() {
                let written = value.to_string();
                prop_assert!(text == written || !text.starts_with("00"));
                prop_assert_eq!(&text[2..53], &written[2..53]);
            }
        }

        #[test]
        fn no_bytes_make_the_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _value = TraceParent::from_bytes(&bytes);
        }
    }
}
