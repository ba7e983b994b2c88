//! Reads whole numbers from JSON.
//!
//! JSON has one type of number, so `1e3` and `1000.0` are the whole number 1000. The error for any
//! other value names the numbers that are allowed.

use std::fmt;
use std::marker::PhantomData;

use serde::Deserializer;
use serde::de::{Error, Unexpected, Visitor};

/// The whole numbers up to this one have a floating point number of their own.
const EXACT_MAX: f64 = 9_007_199_254_740_992.0;

/// A type of whole numbers from zero on.
pub trait WholeNumber: TryFrom<u64> {
    /// The largest number.
    const MAX: u64;
}

impl WholeNumber for u16 {
    const MAX: u64 = Self::MAX as u64;
}

impl WholeNumber for u32 {
    const MAX: u64 = Self::MAX as u64;
}

impl WholeNumber for u64 {
    const MAX: Self = Self::MAX;
}

/// Reads a whole number.
///
/// # Errors
/// Returns an error for another value, or for a number that is too large for the type.
pub fn deserialize<'de, D: Deserializer<'de>, T: WholeNumber>(input: D) -> Result<T, D::Error> {
    input.deserialize_any(NumberVisitor(PhantomData))
}

/// Reads a whole number or `null`.
///
/// # Errors
/// Returns the errors of [`deserialize`].
pub fn deserialize_optional<'de, D: Deserializer<'de>, T: WholeNumber>(
    input: D,
) -> Result<Option<T>, D::Error> {
    input.deserialize_option(OptionVisitor(PhantomData))
}

struct NumberVisitor<T>(PhantomData<T>);

impl<T: WholeNumber> Visitor<'_> for NumberVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a whole number from 0 to {}", T::MAX)
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<T, E> {
        T::try_from(number)
            .map_err(|_too_large| E::invalid_value(Unexpected::Unsigned(number), &self))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<T, E> {
        let is_whole = number.fract() == 0.0 && (0.0..=EXACT_MAX).contains(&number);
        if !is_whole {
            return Err(E::invalid_value(Unexpected::Float(number), &self));
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "the number is whole, and not negative"
        )]
        self.visit_u64(number as u64)
    }
}

struct OptionVisitor<T>(PhantomData<T>);

impl<'de, T: WholeNumber> Visitor<'de> for OptionVisitor<T> {
    type Value = Option<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        NumberVisitor::<T>(PhantomData).expecting(f)
    }

    fn visit_unit<E: Error>(self) -> Result<Option<T>, E> {
        Ok(None)
    }

    fn visit_none<E: Error>(self) -> Result<Option<T>, E> {
        Ok(None)
    }

    fn visit_some<D: Deserializer<'de>>(self, input: D) -> Result<Option<T>, D::Error> {
        deserialize(input).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(default)]
    struct Numbers {
        #[serde(deserialize_with = "deserialize")]
        plain: u32,
        #[serde(deserialize_with = "deserialize_optional")]
        optional: Option<u16>,
    }

    impl Default for Numbers {
        fn default() -> Self {
            Self {
                plain: 7,
                optional: Some(8),
            }
        }
    }

    fn read(json: &str) -> Result<(u32, Option<u16>), String> {
        let read: Result<Numbers, _> = serde_json::from_str(json);
        let read = read.map(|numbers| (numbers.plain, numbers.optional));
        read.map_err(|error| error.to_string())
    }

    #[test]
    fn whole_numbers_are_read_in_every_notation() {
        for (json, expected) in [
            (r#"{}"#, (7, Some(8))),
            (r#"{"plain":1000,"optional":1}"#, (1000, Some(1))),
            (r#"{"plain":1e3,"optional":1.0}"#, (1000, Some(1))),
            (r#"{"plain":0.0,"optional":null}"#, (0, None)),
            (r#"{"plain":4294967295}"#, (u32::MAX, Some(8))),
        ] {
            assert_eq!(read(json), Ok(expected), "{json}");
        }
    }

    #[test]
    fn other_values_are_refused_with_the_allowed_numbers() {
        for (json, part) in [
            (
                r#"{"plain":1.5}"#,
                "`1.5`, expected a whole number from 0 to 4294967295",
            ),
            (
                r#"{"plain":-1}"#,
                "`-1`, expected a whole number from 0 to 4294967295",
            ),
            (
                r#"{"plain":4294967296}"#,
                "`4294967296`, expected a whole number",
            ),
            (r#"{"plain":1e30}"#, "expected a whole number"),
            (r#"{"plain":"1"}"#, "expected a whole number"),
            (r#"{"plain":null}"#, "expected a whole number"),
            (
                r#"{"optional":65536}"#,
                "expected a whole number from 0 to 65535",
            ),
            (
                r#"{"optional":[]}"#,
                "expected a whole number from 0 to 65535",
            ),
        ] {
            let error = read(json).unwrap_err();
            assert!(error.contains(part), "{json}: {error}");
        }
    }
}
