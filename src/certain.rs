//! Numbers that always fit, slices that always exist, and values that are always there.
//!
//! The compiler does not know these facts, but the caller does. Each function states one of them. A
//! debug build panics at the place of the call if the fact is wrong. A release build never panics:
//! it takes the nearest result that exists. A number from outside that may not fit needs a real
//! error instead.

use std::fmt::Debug;

// Tokens of sockets and offsets into buffers need 64 bits.
const _: () = assert!(usize::BITS >= u64::BITS);

/// Converts a number that fits into 8 bits.
#[inline]
#[must_use]
#[track_caller]
pub fn to_u8(number: usize) -> u8 {
    fit(number, u8::MAX)
}

/// Converts a number that fits into 16 bits.
#[inline]
#[must_use]
#[track_caller]
pub fn to_u16(number: usize) -> u16 {
    fit(number, u16::MAX)
}

/// Converts a number that fits into 32 bits.
#[inline]
#[must_use]
#[track_caller]
pub fn to_u32<N: TryInto<u32> + Copy + Debug>(number: N) -> u32 {
    fit(number, u32::MAX)
}

/// Converts a number that fits into 64 bits.
#[inline]
#[must_use]
#[track_caller]
pub fn to_u64(number: u128) -> u64 {
    fit(number, u64::MAX)
}

#[inline]
#[track_caller]
fn fit<N: TryInto<M> + Copy + Debug, M: Debug>(number: N, max: M) -> M {
    let fits = number.try_into().ok();
    debug_assert!(fits.is_some(), "{number:?} is above {max:?}");
    fits.unwrap_or(max)
}

/// Converts a number of 64 bits, which is never too large.
#[inline]
#[must_use]
pub fn to_usize(number: u64) -> usize {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the width of usize is checked at compile time"
    )]
    let number = number as usize;
    number
}

/// Returns all entries after the first `count`. The caller ensures that there are at least `count`
/// entries. If there are fewer, a release build returns no entries.
#[inline]
#[must_use]
#[track_caller]
pub fn skip<T>(all: &[T], count: usize) -> &[T] {
    debug_assert!(count <= all.len(), "{count} of {}", all.len());
    all.get(count..).unwrap_or_default()
}

/// Like [`skip`], for entries that are changed.
#[inline]
#[must_use]
#[track_caller]
pub fn skip_mut<T>(all: &mut [T], count: usize) -> &mut [T] {
    debug_assert!(count <= all.len(), "{count} of {}", all.len());
    all.get_mut(count..).unwrap_or_default()
}

/// Returns the first `count` entries. There are at least so many. Returns no entries if there are
/// fewer.
#[inline]
#[must_use]
#[track_caller]
pub fn take<T>(all: &[T], count: usize) -> &[T] {
    debug_assert!(count <= all.len(), "{count} of {}", all.len());
    all.get(..count).unwrap_or_default()
}

/// Like [`take`], for entries that are changed.
#[inline]
#[must_use]
#[track_caller]
pub fn take_mut<T>(all: &mut [T], count: usize) -> &mut [T] {
    debug_assert!(count <= all.len(), "{count} of {}", all.len());
    all.get_mut(..count).unwrap_or_default()
}

/// Returns `value`, which must be `Some` for the given `reason`. If it is `None`, a debug build
/// panics, and a release build returns `None`.
#[inline]
#[track_caller]
pub fn some<T>(value: Option<T>, reason: &'static str) -> Option<T> {
    debug_assert!(value.is_some(), "{reason}");
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_slices_within_their_bounds_are_exact() {
        assert_eq!(to_u8(255), u8::MAX);
        assert_eq!(to_u16(255), 255);
        assert_eq!(to_u32(7_usize), 7);
        assert_eq!(to_u64(7), 7);
        assert_eq!(to_usize(u64::MAX), usize::MAX);
        assert_eq!(skip(b"abc", 3), b"");
        assert_eq!(take(b"abc", 2), b"ab");
        assert_eq!(skip_mut(&mut [1, 2], 1), [2]);
        assert_eq!(take_mut(&mut [1, 2], 1), [1]);
        assert_eq!(some(Some(1), "there is a one"), Some(1));
    }

    #[test]
    #[cfg_attr(debug_assertions, should_panic(expected = "4 of 3"))]
    fn skip_beyond_the_end_panics_only_in_debug_builds() {
        assert_eq!(skip(b"abc", 4), b"");
    }

    #[test]
    #[cfg_attr(debug_assertions, should_panic(expected = "is above"))]
    fn too_large_number_panics_only_in_debug_builds() {
        assert_eq!(to_u32(u64::MAX), u32::MAX);
    }
}
