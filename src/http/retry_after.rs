//! Parses the field `Retry-After` of another server's response (RFC 9110, 10.2.3).
//!
//! The callers are the exporter of spans and `fanfare subscribe`. They limit the delay.

use std::time::{Duration, SystemTime};

/// Returns the delay that a server asks for, as a number of seconds or as a date. The delay is zero
/// if the date has passed. Returns `None` if the value is malformed.
#[must_use]
pub fn delay(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delay_is_a_number_of_seconds_or_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        for (value, expected) in [
            ("120", Some(120)),
            (" 7 ", Some(7)),
            ("Sun, 06 Nov 1994 08:51:37 GMT", Some(120)),
            // The obsolete forms of RFC 9110, 5.6.7, must be accepted, too.
            ("Sunday, 06-Nov-94 08:51:37 GMT", Some(120)),
            ("Sun Nov  6 08:51:37 1994", Some(120)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(0)),
            ("Sun, 06 Nov 1994 08:00:00 GMT", Some(0)),
            ("Sun, 06 Nov 1994", None),
            ("-1", None),
            ("soon", None),
            ("", None),
        ] {
            let expected = expected.map(Duration::from_secs);
            assert_eq!(delay(value, now), expected, "{value}");
        }
    }
}
