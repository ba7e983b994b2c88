//! An incremental check for UTF-8 (RFC 3629; RFC 6455, 8.1).
//!
//! The check keeps only the bytes of an incomplete character, at most three. It reports an error at
//! the first byte that cannot continue the text, so a client that slowly sends invalid text is
//! closed immediately. The check is used for text messages that arrive in parts. A complete message
//! is checked in one call, without this state.

use crate::certain;

/// The error for a text that is not UTF-8.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("text is not UTF-8")]
pub struct InvalidUtf8;

/// The state of the check, after all parts that were checked so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Utf8Check {
    /// The bytes of an incomplete character. Between two calls, there are at most three such bytes.
    carry: [u8; 4],
    carry_bytes: u8,
}

impl Utf8Check {
    /// Checks the next part.
    ///
    /// # Errors
    /// Returns [`InvalidUtf8`] if no continuation can make the text valid.
    pub fn push(&mut self, part: &[u8]) -> Result<(), InvalidUtf8> {
        let rest = self.finish_character(part)?;
        match simdutf8::compat::from_utf8(rest) {
            Ok(_) => Ok(()),
            Err(error) if error.error_len().is_some() => Err(InvalidUtf8),
            Err(error) => {
                for &byte in certain::skip(rest, error.valid_up_to()) {
                    self.carry_byte(byte)?;
                }
                Ok(())
            }
        }
    }

    /// Whether the text may end after the parts that were checked so far.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.carry_bytes == 0
    }

    /// Reads bytes until the incomplete character of the previous part is complete. Returns the
    /// bytes after it.
    fn finish_character<'part>(
        &mut self,
        mut part: &'part [u8],
    ) -> Result<&'part [u8], InvalidUtf8> {
        while !self.is_complete() {
            let Some((&byte, rest)) = part.split_first() else {
                break;
            };
            part = rest;
            self.carry_byte(byte)?;
            match std::str::from_utf8(self.carried()) {
                Ok(_) => self.carry_bytes = 0,
                Err(error) if error.error_len().is_some() => return Err(InvalidUtf8),
                Err(_incomplete) => {}
            }
        }
        Ok(part)
    }

    fn carry_byte(&mut self, byte: u8) -> Result<(), InvalidUtf8> {
        let room = self.carry.get_mut(usize::from(self.carry_bytes));
        // The buffer always has room, because an incomplete character has at most three bytes.
        *room.ok_or(InvalidUtf8)? = byte;
        self.carry_bytes += 1;
        Ok(())
    }

    fn carried(&self) -> &[u8] {
        self.carry
            .get(..usize::from(self.carry_bytes))
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(parts: &[&[u8]]) -> Result<bool, InvalidUtf8> {
        let mut check = Utf8Check::default();
        for part in parts {
            check.push(part)?;
        }
        Ok(check.is_complete())
    }

    #[test]
    fn utf8_check_accepts_every_cut_of_a_text() {
        let text = "aß水𝄞\u{0}\u{7ff}\u{800}\u{ffff}\u{10ffff}".as_bytes();
        for first in 0..=text.len() {
            for second in first..=text.len() {
                let parts = [&text[..first], &text[first..second], &text[second..]];
                assert_eq!(check(&parts), Ok(true), "{first} {second}");
            }
        }
    }

    #[test]
    fn utf8_check_fails_at_the_first_invalid_byte() {
        for (bytes, fails_at) in [
            (&b"\x80"[..], 0),
            (b"\xc0", 0),
            (b"\xc1", 0),
            (b"\xf5", 0),
            (b"\xff", 0),
            (b"\xe0\x9f", 1),
            (b"\xed\xa0", 1),
            (b"\xf0\x8f", 1),
            (b"\xf4\x90", 1),
            (b"\xce\xba\xe1\xbd\x41", 4),
            (b"\xf0\x9f\x98\xc0", 3),
        ] {
            let mut check = Utf8Check::default();
            for (at, &byte) in bytes.iter().enumerate() {
                assert_eq!(
                    check.push(&[byte]).is_err(),
                    at == fails_at,
                    "{bytes:x?} {at}"
                );
            }
            assert_eq!(Utf8Check::default().push(bytes), Err(InvalidUtf8));
        }
    }

    #[test]
    fn utf8_check_is_incomplete_within_a_character() {
        for bytes in [&b"\xc3"[..], b"a\xe2\x82", b"\xf0\x9f\x98"] {
            assert_eq!(check(&[bytes]), Ok(false));
        }
    }

    proptest! {
        #[test]
        fn utf8_check_agrees_with_the_standard_library(
            bytes in proptest::collection::vec(
                prop_oneof![any::<u8>(), prop::sample::select(b"\xe2\x82\xac\xf0\x9f".to_vec())],
                0..24,
            ),
            cut in 0_usize..24,
        ) {
            let (first, second) = bytes.split_at(cut.min(bytes.len()));
            let is_valid = check(&[first, second]) == Ok(true);
            prop_assert_eq!(is_valid, std::str::from_utf8(&bytes).is_ok());
        }
    }
}
