//! PURE: formats numbers for people: counts, sizes, rates and times.
//!
//! The texts are for tables and sentences, and are not parsed. The JSON of each command has the
//! exact numbers.

/// Formats a number with a comma before every three digits.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Formats a number of bytes with one decimal, in the largest unit that is not larger than the
/// number.
pub(super) fn bytes(number: u64) -> String {
    in_units(number).unwrap_or_else(|| format!("{number} bytes"))
}

/// Formats a number of bytes as [`bytes`] does, with a shorter unit for less than 1024 bytes.
pub(super) fn short_bytes(number: u64) -> String {
    in_units(number).unwrap_or_else(|| match number {
        0 => String::from("0"),
        _ => format!("{number} B"),
    })
}

fn in_units(number: u64) -> Option<String> {
    const UNITS: [(&str, u64); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    let (unit, size) = UNITS.into_iter().find(|(_, size)| number >= *size)?;
    let tenths = u128::from(number) * 10 / u128::from(size);
    Some(format!("{}.{} {unit}", tenths / 10, tenths % 10))
}

/// Formats a time in its two largest units.
pub(super) fn milliseconds(time: u64) -> String {
    let seconds = time / 1_000;
    let (minutes, hours, days) = (seconds / 60, seconds / 3_600, seconds / 86_400);
    match time {
        0..1_000 => format!("{time} ms"),
        1_000..60_000 => format!("{seconds}.{} s", time % 1_000 / 100),
        60_000..3_600_000 => format!("{minutes} min {} s", seconds % 60),
        3_600_000..86_400_000 => format!("{hours} h {} min", minutes % 60),
        _ => format!("{days} d {} h", hours % 24),
    }
}

/// Formats a time in microseconds, if it is shorter than a millisecond.
pub(super) fn microseconds(time: u64) -> String {
    match time {
        0..1_000 => format!("{time} us"),
        1_000..1_000_000 => format!("{}.{} ms", time / 1_000, time % 1_000 / 100),
        _ => milliseconds(time / 1_000),
    }
}

/// Formats tenths with one decimal if the number is below ten, and grouped without one otherwise.
pub(super) fn tenths(number: u64) -> String {
    match number {
        0 => String::from("0"),
        1..100 => format!("{}.{}", number / 10, number % 10),
        _ => grouped(number / 10),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_grouped_by_three() {
        let shown = [0, 12, 999, 1000, 123_456, 1_234_567].map(grouped);
        assert_eq!(shown, ["0", "12", "999", "1,000", "123,456", "1,234,567"]);
        assert_eq!(grouped(u64::MAX), "18,446,744,073,709,551,615");
    }

    #[test]
    fn bytes_are_shown_in_the_largest_unit() {
        let shown = [0, 1023, 1536, 5 << 20, 23_019_642_880].map(bytes);
        assert_eq!(
            shown,
            ["0 bytes", "1023 bytes", "1.5 KiB", "5.0 MiB", "21.4 GiB"]
        );
        assert_eq!(bytes(u64::MAX), "17179869183.9 GiB");
        assert_eq!([0, 1023, 1536].map(short_bytes), ["0", "1023 B", "1.5 KiB"]);
    }

    #[test]
    fn times_are_shown_in_their_two_largest_units() {
        let shown = [0, 999, 1_000, 59_999, 61_000, 3_725_000, 90_061_000].map(milliseconds);
        assert_eq!(
            shown,
            [
                "0 ms",
                "999 ms",
                "1.0 s",
                "59.9 s",
                "1 min 1 s",
                "1 h 2 min",
                "1 d 1 h"
            ]
        );
        let shown = [0, 999, 1_500, 2_000_000, u64::MAX].map(microseconds);
        assert_eq!(
            shown,
            ["0 us", "999 us", "1.5 ms", "2.0 s", "213503982 d 8 h"]
        );
    }

    #[test]
    fn small_rates_have_a_decimal() {
        assert_eq!(
            [0, 1, 99, 100, 12_345].map(tenths),
            ["0", "0.1", "9.9", "10", "1,234"]
        );
    }
}
