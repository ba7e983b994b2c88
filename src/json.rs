//! Checks the limits on JSON texts of clients and feeders, and parses whole numbers in them.
//!
//! A payload is forwarded byte by byte. The parser of a backend or a subscriber may fail on very
//! deep nesting or very long numbers, so both are refused at the input. The functions here expect
//! texts that serde has checked; they do not allocate or recurse.

use crate::config::limits::{JSON_DIGITS_MAX, JSON_LEVELS_MAX};

/// The limit that a JSON text exceeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LimitError {
    /// A number has too many digits, including the digits of its fraction and exponent.
    #[error("a JSON number has at most {JSON_DIGITS_MAX} digits")]
    Digits,
    /// Arrays and objects are nested too deeply.
    #[error("a JSON value has at most {JSON_LEVELS_MAX} levels of arrays and objects")]
    Levels,
}

/// Checks a payload.
///
/// # Errors
/// Returns the limit that the payload exceeds.
pub fn check_value(json: &str) -> Result<(), LimitError> {
    check(json, JSON_LEVELS_MAX)
}

/// Checks an object whose values are payloads. The object may have one more level of nesting than a
/// payload.
///
/// # Errors
/// Returns the limit that the object exceeds.
pub fn check_envelope(json: &str) -> Result<(), LimitError> {
    check(json, JSON_LEVELS_MAX + 1)
}

fn check(json: &str, levels_max: usize) -> Result<(), LimitError> {
    let bytes = json.as_bytes();
    // Most texts need no full check. They are too short to exceed the limit on digits, and have too
    // few brackets to exceed the limit on levels.
    let is_short = bytes.len() <= JSON_DIGITS_MAX;
    if is_short && memchr::memchr2_iter(b'[', b'{', bytes).count() <= levels_max {
        return Ok(());
    }
    let (mut at, mut levels, mut digits) = (0, 0_usize, 0);
    while let Some(byte) = bytes.get(at) {
        at += 1;
        match byte {
            b'"' => at = string_end(bytes, at),
            b'[' | b'{' => levels += 1,
            b']' | b'}' => levels = levels.saturating_sub(1),
            b'0'..=b'9' => digits += 1,
            b'+' | b'-' | b'.' | b'E' | b'e' => {}
            // Any other byte ends the number, for example white space or a comma.
            _ => digits = 0,
        }
        if levels > levels_max {
            return Err(LimitError::Levels);
        }
        if digits > JSON_DIGITS_MAX {
            return Err(LimitError::Digits);
        }
    }
    Ok(())
}

/// Returns the offset after a string's closing quote. `start` is the offset after its opening
/// quote.
#[must_use]
pub fn string_end(bytes: &[u8], start: usize) -> usize {
    let mut at = start;
    while let Some(found) = bytes
        .get(at..)
        .and_then(|rest| memchr::memchr2(b'"', b'\\', rest))
    {
        at += found;
        if bytes.get(at) == Some(&b'"') {
            return at + 1;
        }
        // Skips the backslash and the byte that it escapes.
        at += 2;
    }
    bytes.len()
}

/// Returns the value of a whole JSON number in any notation: `5000.0` and `5e3` are 5000 (RFC 8259,
/// 6). Returns `None` if the text is not a number. Also returns `None` if the number has a
/// fraction, is negative or exceeds `u64::MAX`.
#[must_use]
pub fn whole_number(json: &str) -> Option<u64> {
    // The usual notation is tried first. Rust's parser also accepts a plus sign, but JSON does not
    // allow it.
    if let Ok(number) = json.parse()
        && !json.starts_with('+')
    {
        return Some(number);
    }
    let (mantissa, exponent) = json.split_once(['e', 'E']).unwrap_or((json, "0"));
    let (integer, fraction) = mantissa.split_once('.').unwrap_or((mantissa, "0"));
    let (is_negative, integer) = match integer.strip_prefix('-') {
        Some(integer) => (true, integer),
        None => (false, integer),
    };
    let unsigned = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
    let is_number = [integer, fraction, unsigned]
        .iter()
        .all(|digits| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()));
    if !is_number {
        return None;
    }
    let fraction = fraction.trim_end_matches('0');
    let digits = || integer.bytes().chain(fraction.bytes());
    if digits().all(|digit| digit == b'0') {
        return Some(0);
    }
    // If the exponent is beyond the range of `i64`, the number exceeds `u64` or has a fraction.
    let exponent = exponent.parse().unwrap_or(i64::MAX);
    let zeros = exponent.checked_sub(i64::try_from(fraction.len()).ok()?)?;
    let ends = digits()
        .count()
        .checked_add_signed(isize::try_from(zeros).ok()?)?;
    if is_negative || !digits().skip(ends).all(|digit| digit == b'0') {
        return None;
    }
    let padded = digits().chain(std::iter::repeat(b'0')).take(ends);
    padded
        .skip_while(|digit| *digit == b'0')
        .try_fold(0_u64, |number, digit| {
            number.checked_mul(10)?.checked_add(u64::from(digit - b'0'))
        })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn nested(levels: usize) -> String {
        // The levels are alternately arrays and objects.
        let open: String = (0..levels)
            .map(|level| if level % 2 == 0 { "[" } else { "{\"]\":" })
            .collect();
        let close: String = (0..levels)
            .rev()
            .map(|level| if level % 2 == 0 { ']' } else { '}' })
            .collect();
        format!("{open}1{close}")
    }

    #[test]
    fn levels_count_arrays_and_objects_but_not_strings() {
        assert_eq!(check_value(&nested(JSON_LEVELS_MAX)), Ok(()));
        let deep = nested(JSON_LEVELS_MAX + 1);
        assert_eq!(check_value(&deep), Err(LimitError::Levels));
        assert_eq!(check_envelope(&deep), Ok(()));
        assert_eq!(
            check_envelope(&nested(JSON_LEVELS_MAX + 2)),
            Err(LimitError::Levels)
        );
        let wide = format!("[{}[]]", "[[]],{\"a\":[]},".repeat(1000));
        assert_eq!(check_value(&wide), Ok(()));
        let text = format!("\"\\\"{}\"", "[{\\\\".repeat(1000));
        assert_eq!(check_value(&text), Ok(()));
    }

    #[test]
    fn digits_are_counted_in_each_number_with_fraction_and_exponent() {
        let digits = |count: usize| "7".repeat(count);
        let (half, rest) = (digits(JSON_DIGITS_MAX / 2), digits(JSON_DIGITS_MAX / 4));
        for good in [
            digits(JSON_DIGITS_MAX),
            format!("-{}", digits(JSON_DIGITS_MAX)),
            format!("[-{half}.{rest}E-{rest},{half}.{rest}e+{rest}, {half}]"),
            format!("{{\"{}\":{half}}}", digits(JSON_DIGITS_MAX)),
            format!("\"{}\"", digits(JSON_DIGITS_MAX + 1)),
        ] {
            assert_eq!(check_value(&good), Ok(()), "{good}");
        }
        for long in [
            digits(JSON_DIGITS_MAX + 1),
            format!("[1,{{\"a\":0.{}}}]", digits(JSON_DIGITS_MAX)),
            format!("{half}.{rest}E+{rest}1"),
        ] {
            assert_eq!(check_value(&long), Err(LimitError::Digits), "{long}");
        }
    }

    #[test]
    fn whole_number_has_the_same_value_in_every_notation() {
        for (json, number) in [
            ("0", 0),
            ("-0.0", 0),
            ("0e99999999999999999999", 0),
            ("5000", 5000),
            ("5000.0", 5000),
            ("5e3", 5000),
            ("5.00E+3", 5000),
            ("0.05e5", 5000),
            ("500000e-2", 5000),
            ("9007199254740993.0", 9_007_199_254_740_993),
            ("18446744073709551615", u64::MAX),
            ("1844674407370955161.5e1", u64::MAX),
        ] {
            assert_eq!(whole_number(json), Some(number), "{json}");
        }
        for json in [
            "",
            "-",
            "-1",
            "5000.5",
            "5e-1",
            "1e-99999999999999999999",
            "1e400",
            "1e20",
            "18446744073709551616",
            "1e99999999999999999999",
            "+5",
            "5.",
            ".5",
            "5e",
            "5e+-1",
            "null",
            "\"5\"",
            "[5]",
            "5 ",
            "٥",
            "1e9223372036854775807",
            "NaN",
            "inf",
        ] {
            assert_eq!(whole_number(json), None, "{json}");
        }
    }

    proptest! {
        #[test]
        fn whole_number_agrees_with_integers(number: u64, zeros in 0..4_usize) {
            let zeros = "0".repeat(zeros);
            prop_assert_eq!(whole_number(&number.to_string()), Some(number));
            prop_assert_eq!(whole_number(&format!("{number}.0{zeros}")), Some(number));
            let length = zeros.len();
            let shifted = format!("{number}{zeros}e-{length}");
            prop_assert_eq!(whole_number(&shifted), Some(number));
        }

        #[test]
        fn no_text_makes_the_functions_panic(text in ".*") {
            let _results = (check_value(&text), whole_number(&text));
        }
    }
}
