//! Parses the header of a client's frame (RFC 6455, 5.2) and checks the rules that concern the
//! header alone.
//!
//! `receive` checks whether the frame fits the message in progress and the size limit. A
//! violation is reported at the first byte that breaks a rule. So the result does not depend on how
//! the bytes are split into reads. Tests compare the results with tungstenite's parser.

use crate::config::limits::CONTROL_PAYLOAD_BYTES_MAX;
use crate::frame::websocket::{FIN, Opcode, RSV1};

/// The header of a client's frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// The length of the payload in bytes; below 2^63.
    pub payload_bytes: u64,
    /// The key with which the payload is masked.
    pub masking_key: [u8; 4],
    /// The type of the frame.
    pub opcode: Opcode,
    /// Whether the frame is the last of its message.
    pub is_final: bool,
    /// Whether the frame is the first of a compressed message (RFC 7692, 6).
    pub is_compressed: bool,
}

/// The meaning of the first reserved bit (RSV1) on a conn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rsv1 {
    /// RSV1 marks the first frame of a compressed message (RFC 7692, 6).
    Compressed,
    /// RSV1 must be zero, because no extension was negotiated.
    Reserved,
}

/// The reason for which a header is invalid. All variants end the conn with close code 1002.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// A control frame is fragmented (5.5).
    #[error("a control frame is never fragmented")]
    ControlFragmented,
    /// A control frame's payload is longer than 125 bytes (5.5).
    #[error("a control frame has at most 125 bytes")]
    ControlTooLong,
    /// The length could be encoded in a shorter form (5.2).
    #[error("a length takes the shortest form")]
    LengthNotMinimal,
    /// The top bit of a 64-bit length is set (5.2).
    #[error("a length is below 2^63")]
    LengthTooLarge,
    /// A reserved bit is set, but its extension was not negotiated (5.2) or does not apply to the
    /// frame.
    #[error("a reserved bit is set")]
    ReservedBits,
    /// The opcode is reserved (5.2).
    #[error("a reserved opcode")]
    ReservedOpcode,
    /// The frame is not masked (5.1).
    #[error("a client's frame is masked")]
    Unmasked,
}

/// Parses the header at the beginning of `bytes`. Returns the header and its length, or `None` if
/// the header is incomplete.
///
/// # Errors
/// Returns the first rule that the header breaks. A header may be refused before it is complete.
pub fn parse_header(bytes: &[u8], rsv1: Rsv1) -> Result<Option<(FrameHeader, usize)>, HeaderError> {
    let Some((&first, rest)) = bytes.split_first() else {
        return Ok(None);
    };
    let (is_final, opcode) = parse_first_byte(first, rsv1)?;
    let Some((&second, rest)) = rest.split_first() else {
        return Ok(None);
    };
    let short_length = parse_second_byte(second, opcode)?;
    let Some((payload_bytes, rest)) = parse_length(short_length, rest)? else {
        return Ok(None);
    };
    let Some((&masking_key, rest)) = rest.split_first_chunk::<4>() else {
        return Ok(None);
    };
    let header = FrameHeader {
        payload_bytes,
        masking_key,
        opcode,
        is_final,
        is_compressed: first & RSV1 != 0,
    };
    Ok(Some((header, bytes.len() - rest.len())))
}

fn parse_first_byte(byte: u8, rsv1: Rsv1) -> Result<(bool, Opcode), HeaderError> {
    let reserved = match rsv1 {
        Rsv1::Compressed => byte & 0x30,
        Rsv1::Reserved => byte & 0x70,
    };
    if reserved != 0 {
        return Err(HeaderError::ReservedBits);
    }
    let is_final = byte & FIN != 0;
    let opcode = Opcode::from_bits(byte & 0x0f);
    // Only the first frame of a message may have the bit RSV1. Control frames are never compressed.
    if byte & RSV1 != 0 && !matches!(opcode, Some(Opcode::Text | Opcode::Binary)) {
        return Err(HeaderError::ReservedBits);
    }
    let opcode = opcode.ok_or(HeaderError::ReservedOpcode)?;
    if opcode.is_control() && !is_final {
        return Err(HeaderError::ControlFragmented);
    }
    Ok((is_final, opcode))
}

fn parse_second_byte(byte: u8, opcode: Opcode) -> Result<u8, HeaderError> {
    if byte & 0x80 == 0 {
        return Err(HeaderError::Unmasked);
    }
    let short_length = byte & 0x7f;
    if opcode.is_control() && usize::from(short_length) > CONTROL_PAYLOAD_BYTES_MAX {
        return Err(HeaderError::ControlTooLong);
    }
    Ok(short_length)
}

/// Parses the length of the payload. Returns the payload's length and the bytes after the length
/// field.
fn parse_length(short_length: u8, rest: &[u8]) -> Result<Option<(u64, &[u8])>, HeaderError> {
    match short_length {
        126 => {
            let Some((&length, rest)) = rest.split_first_chunk::<2>() else {
                return Ok(None);
            };
            let length = u64::from(u16::from_be_bytes(length));
            if length < 126 {
                return Err(HeaderError::LengthNotMinimal);
            }
            Ok(Some((length, rest)))
        }
        127 => {
            let Some((&length, rest)) = rest.split_first_chunk::<8>() else {
                return Ok(None);
            };
            let length = u64::from_be_bytes(length);
            if length > u64::MAX / 2 {
                return Err(HeaderError::LengthTooLarge);
            }
            if length <= u64::from(u16::MAX) {
                return Err(HeaderError::LengthNotMinimal);
            }
            Ok(Some((length, rest)))
        }
        _ => Ok(Some((u64::from(short_length), rest))),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use proptest::prelude::*;
    use tungstenite::protocol::frame::FrameHeader as OracleHeader;
    use tungstenite::protocol::frame::coding::OpCode;

    use super::*;

    type Parsed = Result<Option<(FrameHeader, usize)>, HeaderError>;

    #[test]
    fn header_is_parsed_at_every_boundary_of_the_length() {
        for (head, payload_bytes) in [
            (vec![0x82, 0x80], 0),
            (vec![0x82, 0xfd], 125),
            (vec![0x82, 0xfe, 0, 126], 126),
            (vec![0x82, 0xfe, 0xff, 0xff], 65_535),
            (vec![0x82, 0xff, 0, 0, 0, 0, 0, 1, 0, 0], 65_536),
        ] {
            let mut bytes = head;
            bytes.extend([1, 2, 3, 4]);
            let header = FrameHeader {
                payload_bytes,
                masking_key: [1, 2, 3, 4],
                opcode: Opcode::Binary,
                is_final: true,
                is_compressed: false,
            };
            assert_eq!(
                parse_header(&bytes, Rsv1::Reserved),
                Ok(Some((header, bytes.len())))
            );
            for cut in 0..bytes.len() {
                assert_eq!(
                    parse_header(&bytes[..cut], Rsv1::Reserved),
                    Ok(None),
                    "{payload_bytes} {cut}"
                );
            }
        }
    }

    #[test]
    fn header_is_refused_at_the_byte_that_breaks_a_rule() {
        for (bytes, error) in [
            (&[0xc1][..], HeaderError::ReservedBits),
            (&[0xa1], HeaderError::ReservedBits),
            (&[0x91], HeaderError::ReservedBits),
            (&[0x83], HeaderError::ReservedOpcode),
            (&[0x8f], HeaderError::ReservedOpcode),
            (&[0x09], HeaderError::ControlFragmented),
            (&[0x81, 0x05], HeaderError::Unmasked),
            (&[0x89, 0xfe], HeaderError::ControlTooLong),
            (&[0x81, 0xfe, 0, 125], HeaderError::LengthNotMinimal),
            (
                &[0x81, 0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff],
                HeaderError::LengthNotMinimal,
            ),
            (
                &[0x81, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0],
                HeaderError::LengthTooLarge,
            ),
        ] {
            assert_eq!(parse_header(bytes, Rsv1::Reserved), Err(error));
            let (_, before) = bytes.split_last().unwrap();
            assert_eq!(parse_header(before, Rsv1::Reserved), Ok(None));
        }
    }

    /// Whether the parser's result agrees with that of tungstenite's parser (the oracle). The
    /// oracle accepts headers that break most of the rules. For such a header, `breaks_rule` checks
    /// that the header really breaks the rule that our parser reports.
    fn agrees_with_oracle(bytes: &[u8], parsed: Parsed) -> bool {
        let mut cursor = Cursor::new(bytes);
        let oracle = OracleHeader::parse(&mut cursor);
        match (parsed, oracle) {
            (Ok(None), Ok(None)) => true,
            (Ok(Some((header, taken))), Ok(Some((oracle, payload_bytes)))) => {
                header.payload_bytes == payload_bytes
                    && Some(header.masking_key) == oracle.mask
                    && OpCode::from(header.opcode as u8) == oracle.opcode
                    && header.is_final == oracle.is_final
                    && !(oracle.rsv1 || oracle.rsv2 || oracle.rsv3)
                    && taken as u64 == cursor.position()
            }
            (Err(error), Ok(Some((oracle, payload_bytes)))) => {
                breaks_rule(error, &oracle, payload_bytes, bytes)
            }
            (Err(error), Err(_reserved_opcode)) => {
                matches!(
                    error,
                    HeaderError::ReservedOpcode | HeaderError::ReservedBits
                )
            }
            // A header may be refused before it is complete.
            (Err(_), Ok(None)) => true,
            _ => false,
        }
    }

    fn breaks_rule(error: HeaderError, oracle: &OracleHeader, length: u64, bytes: &[u8]) -> bool {
        let is_control = matches!(oracle.opcode, OpCode::Control(_));
        match error {
            HeaderError::ControlFragmented => is_control && !oracle.is_final,
            HeaderError::ControlTooLong => is_control && bytes[1] & 0x7f > 125,
            HeaderError::LengthNotMinimal => match bytes[1] & 0x7f {
                126 => length < 126,
                127 => length <= 65_535,
                _ => false,
            },
            HeaderError::LengthTooLarge => length > u64::MAX / 2,
            HeaderError::ReservedBits => oracle.rsv1 || oracle.rsv2 || oracle.rsv3,
            HeaderError::ReservedOpcode => false,
            HeaderError::Unmasked => oracle.mask.is_none(),
        }
    }

    fn header_bytes() -> impl Strategy<Value = Vec<u8>> {
        let first = prop_oneof![
            any::<u8>(),
            prop::sample::select(vec![0x81, 0x82, 0x01, 0x02, 0x80, 0x00, 0x88, 0x89, 0x8a])
        ];
        let second = prop_oneof![any::<u8>(), 0x80_u8..=0xff, Just(0xfe), Just(0xff)];
        let long = prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..14),
            proptest::collection::vec(prop_oneof![Just(0_u8), any::<u8>()], 8..14),
        ];
        (first, second, long).prop_map(|(first, second, long)| {
            let mut bytes = vec![first, second];
            bytes.extend(long);
            bytes
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        #[test]
        fn header_agrees_with_tungstenite(bytes in header_bytes()) {
            for cut in 0..=bytes.len() {
                let part = &bytes[..cut];
                let parsed = parse_header(part, Rsv1::Reserved);
                prop_assert!(agrees_with_oracle(part, parsed), "{:?} {:x?}", parsed, part);
                // Without the extension, the bit RSV1 is an error. All other results are the same.
                let with = parse_header(part, Rsv1::Compressed);
                let [first @ (0x41 | 0x42 | 0xc1 | 0xc2), ref rest @ ..] = *part else {
                    prop_assert_eq!(with, parsed);
                    continue;
                };
                let plain = [&[first & !RSV1], rest].concat();
                let plain = parse_header(&plain, Rsv1::Reserved);
                let unmarked = with.map(|read| {
                    read.map(|(header, taken)| {
                        assert!(header.is_compressed);
                        (FrameHeader { is_compressed: false, ..header }, taken)
                    })
                });
                prop_assert_eq!(unmarked, plain);
            }
        }

        #[test]
        fn header_written_by_tungstenite_is_parsed_back(
            opcode in prop::sample::select(vec![0_u8, 1, 2, 8, 9, 10]),
            masking_key in any::<[u8; 4]>(),
            length in prop_oneof![0_u64..300, 65_000_u64..66_000, 0..=u64::MAX / 2],
        ) {
            let is_control = opcode >= 8;
            let length = if is_control { length % 126 } else { length };
            let oracle = OracleHeader {
                is_final: true,
                opcode: OpCode::from(opcode),
                mask: Some(masking_key),
                ..OracleHeader::default()
            };
            let mut bytes = Vec::new();
            oracle.format(length, &mut bytes).unwrap();
            let (header, taken) = parse_header(&bytes, Rsv1::Reserved).unwrap().unwrap();
            prop_assert_eq!(taken, bytes.len());
            prop_assert_eq!(header.payload_bytes, length);
            prop_assert_eq!(header.masking_key, masking_key);
            prop_assert_eq!(header.opcode as u8, opcode);
        }
    }
}
