//! RSA public keys: parses their two numbers, and checks whether the verifier can use them.
//!
//! The cryptographic library checks the numbers only when it verifies a signature. At that time, an
//! invalid key cannot be distinguished from an invalid signature. Leading zero bytes of a number
//! are removed, because some issuers write them in spite of RFC 7518, 6.3.1.1. This module is pure;
//! the callers are [`super::key`] and [`super::jwk`].

use jsonwebtoken::DecodingKey;

use super::key::KeyError;
use crate::certain;

/// The minimum size of a modulus in bits (RFC 7518, 3.3), and the maximum size that the library
/// supports.
pub(super) const MODULUS_BITS_MIN: usize = 2048;
pub(super) const MODULUS_BITS_MAX: usize = 8192;
/// The maximum size of an exponent in bits. Verification takes longer with a larger exponent.
pub(super) const EXPONENT_BITS_MAX: usize = 33;

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;

/// Makes a key from the modulus and the exponent, both in big-endian order.
pub(super) fn of_numbers(n: &[u8], e: &[u8]) -> Result<DecodingKey, KeyError> {
    let (n, e) = (without_zeros(n), without_zeros(e));
    match bits(e) {
        0 => return Err(KeyError::ExponentMissing),
        1 => return Err(KeyError::ExponentOne),
        2..=EXPONENT_BITS_MAX => {}
        got => return Err(KeyError::ExponentSize { got }),
    }
    if !is_odd(e) {
        return Err(KeyError::ExponentEven);
    }
    let got = bits(n);
    if !(MODULUS_BITS_MIN..=MODULUS_BITS_MAX).contains(&got) {
        return Err(KeyError::ModulusSize { got });
    }
    if !is_odd(n) {
        return Err(KeyError::ModulusEven);
    }
    Ok(DecodingKey::from_rsa_raw_components(n, e))
}

/// Makes a key from an `RSAPublicKey` in DER (RFC 8017, A.1.1). Returns `None` for data of another
/// form.
pub(super) fn of_der(der: &[u8]) -> Option<Result<DecodingKey, KeyError>> {
    let (numbers, []) = value(SEQUENCE, der)? else {
        return None;
    };
    let (n, rest) = value(INTEGER, numbers)?;
    let (e, []) = value(INTEGER, rest)? else {
        return None;
    };
    let is_negative = |number: &[u8]| number.first().is_some_and(|byte| *byte >= 0x80);
    if is_negative(n) || is_negative(e) {
        return None;
    }
    Some(of_numbers(n, e))
}

/// Returns the value of the first DER element and the bytes after this element. Returns `None` if
/// the element does not have this tag.
fn value(tag: u8, der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = match der {
        [first, 0x82, high, low, rest @ ..] if *first == tag => {
            (usize::from(u16::from_be_bytes([*high, *low])), rest)
        }
        [first, 0x81, length, rest @ ..] if *first == tag => (usize::from(*length), rest),
        [first, length @ ..=0x7f, rest @ ..] if *first == tag => (usize::from(*length), rest),
        _ => return None,
    };
    rest.split_at_checked(length)
}

fn without_zeros(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    certain::skip(number, zeros)
}

/// Returns the size in bits of a number without leading zero bytes.
fn bits(number: &[u8]) -> usize {
    let spare = number.first().map_or(0, |byte| byte.leading_zeros());
    (number.len() * 8).saturating_sub(spare as usize)
}

fn is_odd(number: &[u8]) -> bool {
    number.last().is_some_and(|byte| byte & 1 == 1)
}
