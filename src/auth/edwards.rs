//! Checks whether 32 bytes are a public key of Ed25519 (RFC 8032, 5.1.3 and 5.1.7).
//!
//! The cryptographic library decodes the point only when it verifies a signature. At that time, an
//! invalid key cannot be distinguished from an invalid signature. This check runs once for each key
//! and handles no secret. So its code is short rather than fast or constant-time: it does about
//! 200,000 additions modulo 2^255 - 19 per key.

/// A number below the prime 2^255 - 19, in two halves. The high half is the first field, so that
/// the derived `Ord` compares the numbers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Element {
    high: u128,
    low: u128,
}

const ONE: Element = Element { high: 0, low: 1 };
const ZERO: Element = Element { high: 0, low: 0 };
const PRIME: Element = Element {
    high: u128::MAX >> 1,
    low: u128::MAX - 18,
};
/// Half of the prime minus one: (2^255 - 20) / 2. A number to this power is one if and only if the
/// number is a non-zero square.
const HALF: Element = Element {
    high: u128::MAX >> 2,
    low: u128::MAX - 9,
};
/// The constant of the curve -x^2 + y^2 = 1 + d x^2 y^2.
const D: Element = Element {
    high: 0x5203_6cee_2b6f_fe73_8cc7_4079_7779_e898,
    low: 0x0070_0a4d_4141_d8ab_75eb_4dca_1359_78a3,
};

impl Element {
    fn plus(self, other: Self) -> Self {
        let (low, carry) = self.low.overflowing_add(other.low);
        let sum = Self {
            // Both high halves are below 2^127, so the sum does not overflow.
            high: self.high + other.high + u128::from(carry),
            low,
        };
        if sum < PRIME { sum } else { sum.less(PRIME) }
    }

    /// Returns `self` minus `other`. `other` must not be greater than `self`.
    fn less(self, other: Self) -> Self {
        let (low, borrow) = self.low.overflowing_sub(other.low);
        Self {
            high: self.high - other.high - u128::from(borrow),
            low,
        }
    }

    fn times(self, other: Self) -> Self {
        other.bits().fold(ZERO, |product, bit| {
            let doubled = product.plus(product);
            if bit { doubled.plus(self) } else { doubled }
        })
    }

    fn to_the(self, exponent: Self) -> Self {
        exponent.bits().fold(ONE, |power, bit| {
            let squared = power.times(power);
            if bit { squared.times(self) } else { squared }
        })
    }

    /// Returns the bits of the number, the highest bit first.
    fn bits(self) -> impl Iterator<Item = bool> {
        let halves = [self.high, self.low].into_iter();
        halves.flat_map(|half| (0..128).rev().map(move |bit| half >> bit & 1 == 1))
    }
}

/// Whether the bytes are the canonical encoding of a point on the curve, and the point is not one
/// of the eight points of small order. With a key of small order, signatures can be forged without
/// a private key.
pub(super) fn is_public_key(bytes: [u8; 32]) -> bool {
    let number = bytes.iter().rev().fold(ZERO, |number, byte| Element {
        high: number.high << 8 | number.low >> 120,
        low: number.low << 8 | u128::from(*byte),
    });
    // The highest bit is the sign of x and not a part of y.
    let y = Element {
        high: number.high & (u128::MAX >> 1),
        low: number.low,
    };
    if y >= PRIME {
        return false;
    }
    let y2 = y.times(y);
    let numerator = y2.plus(PRIME.less(ONE));
    let dy2 = D.times(y2);
    // x^2 = (y^2 - 1) / (d y^2 + 1). This quotient is a square if numerator times denominator is a
    // square.
    let is_on_curve = numerator.times(dy2.plus(ONE)).to_the(HALF) == ONE;
    // The points of order 1 and 2 have x = 0 and fail the check above. The next line finds the
    // points of order 4 and 8.
    let has_small_order = y == ZERO || dy2.times(y2).plus(y2).plus(y2) == ONE;
    is_on_curve && !has_small_order
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(hex: &str) -> [u8; 32] {
        let digits = |at: usize| u8::from_str_radix(&hex[at * 2..at * 2 + 2], 16).unwrap();
        std::array::from_fn(digits)
    }

    #[test]
    fn public_keys_of_the_standard_are_accepted() {
        // The public keys of RFC 8032, 7.1.
        for key in [
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
            "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
            "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
            "278117fc144c72340f67d0f2316e8386ceffbf2b2428c9c51fef7c597f1d426e",
            "ec172b93ad5e563f4932c70e1245034c35467ef2efd4d64ebf819683467e2bf2",
        ] {
            assert!(is_public_key(bytes(key)), "{key}");
        }
    }

    #[test]
    fn points_of_small_order_are_refused() {
        for key in [
            "0100000000000000000000000000000000000000000000000000000000000000",
            "0100000000000000000000000000000000000000000000000000000000000080",
            "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
            "0000000000000000000000000000000000000000000000000000000000000000",
            "0000000000000000000000000000000000000000000000000000000000000080",
            "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
            "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
            "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
            "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
        ] {
            assert!(!is_public_key(bytes(key)), "{key}");
        }
    }

    #[test]
    fn encodings_of_no_point_are_refused() {
        for key in [
            // The curve has no point with y = 2.
            "0200000000000000000000000000000000000000000000000000000000000000",
            // The prime itself and two larger numbers, which are not canonical encodings.
            "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
            "f0ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
            "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
        ] {
            assert!(!is_public_key(bytes(key)), "{key}");
        }
    }
}
