//! Public keys of RSA: their two numbers, and whether the verifier can do anything with them.
//!
//! The library looks at the numbers only when it verifies, where a bad key looks like a bad
//! signature. Zero bytes ahead of a number change nothing; some issuers write them, against RFC
//! 7518, 6.3.1.1, and they are taken off. Pure; [`super::key`] and [`super::jwk`] bring the bytes.

use jsonwebtoken::DecodingKey;

use super::key::KeyError;

/// Bits of the smallest modulus (RFC 7518, 3.3), and of the largest that is verified with.
pub(super) const MODULUS_BITS_MIN: usize = 2048;
pub(super) const MODULUS_BITS_MAX: usize = 8192;
/// Bits of the largest exponent that is verified with: the time for a signature grows with them.
pub(super) const EXPONENT_BITS_MAX: usize = 33;

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;

/// Makes a key of modulus and exponent, the highest byte first.
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

/// Makes a key of an `RSAPublicKey` in DER (RFC 8017, A.1.1); `None` if it is not one.
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

/// The value of the first element, which has to be of this kind, and what follows it.
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
    number.get(zeros..).unwrap_or_default()
}

/// How many bits a number has that begins with a byte other than zero.
fn bits(number: &[u8]) -> usize {
    let spare = number.first().map_or(0, |byte| byte.leading_zeros());
    (number.len() * 8).saturating_sub(spare as usize)
}

fn is_odd(number: &[u8]) -> bool {
    number.last().is_some_and(|byte| byte & 1 == 1)
}
