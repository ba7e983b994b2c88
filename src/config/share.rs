//! A type for fractions of an amount.

use serde::{Deserialize, Serialize};

use crate::certain;

/// A fraction between 0 and 1, stored in millionths so that configurations can be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct Share(u32);

const WHOLE: u32 = 1_000_000;

/// The error for a number that is not between 0 and 1.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error("is {0}, but must be from 0 to 1")]
pub struct ShareError(f64);

impl Share {
    /// The whole amount.
    pub const WHOLE: Self = Self(WHOLE);
    /// One hundredth.
    pub const HUNDREDTH: Self = Self(WHOLE / 100);
    /// One half.
    pub const HALF: Self = Self(WHOLE / 2);

    /// Returns this fraction of an amount, rounded down.
    #[must_use]
    pub fn of(self, amount: u64) -> u64 {
        let part = u128::from(amount) * u128::from(self.0) / u128::from(WHOLE);
        certain::to_u64(part)
    }

    /// Whether a random number is in this part of all numbers.
    #[must_use]
    pub fn contains(self, draw: u64) -> bool {
        // The comparison alone would leave out the largest number of the whole.
        self == Self::WHOLE || draw < self.of(u64::MAX)
    }
}

impl TryFrom<f64> for Share {
    type Error = ShareError;

    fn try_from(number: f64) -> Result<Self, ShareError> {
        if !(0.0..=1.0).contains(&number) {
            return Err(ShareError(number));
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "the number is from 0 to 1"
        )]
        let millionths = (number * f64::from(WHOLE)).round() as u32;
        Ok(Self(millionths))
    }
}

impl From<Share> for f64 {
    fn from(share: Share) -> Self {
        Self::from(share.0) / Self::from(WHOLE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn share_is_a_number_from_zero_to_one() {
        for (number, of_ten) in [(0.0, 0), (0.25, 2), (0.5, 5), (1.0, 10)] {
            let share = Share::try_from(number).unwrap();
            assert_eq!((share.of(10), f64::from(share)), (of_ten, number));
        }
        assert_eq!(Share::try_from(1.0).unwrap().of(u64::MAX), u64::MAX);
        for (number, contained) in [
            (0.0, [false; 4]),
            (0.5, [true, true, false, false]),
            (1.0, [true; 4]),
        ] {
            let share = Share::try_from(number).unwrap();
            let draws = [0, u64::MAX / 2 - 1, u64::MAX / 2, u64::MAX];
            assert_eq!(
                draws.map(|draw| share.contains(draw)),
                contained,
                "{number}"
            );
        }
        for number in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
            assert!(Share::try_from(number).is_err(), "{number}");
        }
    }
}
