//! PURE: this module parses and formats positions in the server's sequence of publications.
//!
//! A poll sends a position back to the server, so a position includes the epoch. The text form is
//! that of ids, `<epoch>-<sequence>`: twelve hexadecimal digits, a hyphen, and a decimal number.

use std::fmt;
use std::str::FromStr;

/// The number of hexadecimal digits of an epoch.
const EPOCH_DIGITS: usize = 12;

/// The id of the last publication that a client has received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The epoch to which the sequence number belongs.
    pub epoch: u64,
    /// The sequence number.
    pub sequence: u64,
}

/// The error that parsing returns for a text that is not an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an id")]
pub struct PositionError;

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { epoch, sequence } = self;
        write!(f, "{epoch:0EPOCH_DIGITS$x}-{sequence}")
    }
}

impl FromStr for Position {
    type Err = PositionError;

    fn from_str(text: &str) -> Result<Self, PositionError> {
        let (epoch, sequence) = text.split_once('-').ok_or(PositionError)?;
        let is_canonical = epoch.len() == EPOCH_DIGITS
            && epoch
                .bytes()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
            && !sequence.is_empty()
            && sequence.bytes().all(|byte| byte.is_ascii_digit())
            && (sequence == "0" || !sequence.starts_with('0'));
        if !is_canonical {
            return Err(PositionError);
        }
        Ok(Self {
            epoch: u64::from_str_radix(epoch, 16).map_err(|_not_hex| PositionError)?,
            sequence: sequence.parse().map_err(|_too_large| PositionError)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn position_reads_what_it_shows_and_nothing_else() {
        let position = Position {
            epoch: 0x0123_4567_89ab,
            sequence: 7,
        };
        assert_eq!(position.to_string(), "0123456789ab-7");
        assert_eq!("0123456789ab-7".parse(), Ok(position));
        for text in [
            "",
            "0123456789ab",
            "0123456789ab-",
            "0123456789ab-07",
            "0123456789AB-7",
            "123456789ab-7",
            "0123456789ab-18446744073709551616",
        ] {
            assert_eq!(text.parse::<Position>(), Err(PositionError), "{text}");
        }
    }
}
