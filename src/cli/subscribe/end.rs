//! The reason why a stream ended, and the next step: success, failure, or a reconnect after a
//! delay.
//!
//! PURE: this module classifies close codes, statuses and lost connections. The code of each
//! transport returns an [`End`], and the loop in the parent module decides by this value.

use std::time::{Duration, SystemTime};

use serde::Deserialize;

use crate::cli::Failure;

/// The upper bound of the random delay before the first reconnect.
const BASE: Duration = Duration::from_secs(1);
/// The random delay has an upper bound. The bound doubles with each failed attempt, up to this
/// value.
const CEILING: Duration = Duration::from_secs(30);
/// The minimum delay. It prevents a busy loop if the server closes every connection.
const FLOOR: Duration = Duration::from_millis(50);
/// The maximum delay that a server can request.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);

/// The reason why a stream ended.
#[derive(Debug)]
pub(super) enum End {
    /// As many publications as `--count` requests have been printed.
    Enough,
    /// The stream failed, and a reconnect would fail in the same way.
    Failed(String),
    /// The server has ended the stream, and the client must not reconnect.
    Finished(String),
    /// The connection was lost or could not be established. A reconnect may succeed.
    Lost(Lost),
    /// Standard output was closed or has failed.
    Output(Failure),
    /// The time of `--timeout` has passed.
    TimedOut,
    /// The server refuses the token. Only a reconnect with another token can succeed.
    TokenRefused(String),
}

/// A lost connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Lost {
    /// The message for the user.
    pub(super) cause: String,
    /// The delay that the server requests.
    pub(super) retry_after: Option<Duration>,
    /// Whether the stream had begun before the connection was lost.
    pub(super) was_subscribed: bool,
    /// Whether the server closed the connection in the way that the protocol defines.
    pub(super) is_orderly: bool,
}

impl Lost {
    /// Returns the loss of a connection that could not be established.
    pub(super) fn unreached(cause: impl Into<String>) -> Self {
        Self {
            cause: cause.into(),
            retry_after: None,
            was_subscribed: false,
            is_orderly: false,
        }
    }
}

impl End {
    /// Returns the [`End`] for a connection that could not be established.
    pub(super) fn unreached(cause: impl Into<String>) -> Self {
        Self::Lost(Lost::unreached(cause))
    }

    /// Returns the [`End`] for a connection that broke after the stream had begun.
    pub(super) fn broken(cause: impl Into<String>, retry_after: Option<Duration>) -> Self {
        Self::Lost(Lost {
            cause: cause.into(),
            retry_after,
            was_subscribed: true,
            is_orderly: false,
        })
    }

    /// Returns the [`End`] for a connection that the server closed in the way that the protocol
    /// defines.
    pub(super) fn orderly(cause: impl Into<String>, retry_after: Option<Duration>) -> Self {
        Self::Lost(Lost {
            cause: cause.into(),
            retry_after,
            was_subscribed: true,
            is_orderly: true,
        })
    }

    /// Returns the [`End`] for a response that is not a stream.
    pub(super) fn of_response(status: u16, retry_after: Option<Duration>, body: &[u8]) -> Self {
        let problem = Problem::read(body);
        let mut cause = match problem.code {
            Some(code) => format!("{} ({status})", code.replace('_', " ")),
            None => format!("the server answered {status}"),
        };
        if let Some(detail) = problem.detail.or(problem.title) {
            cause.push_str(": ");
            cause.push_str(&detail);
        }
        match status {
            204 => Self::Finished(cause),
            401 => Self::TokenRefused(cause),
            408 | 429 | 500..=599 => Self::Lost(Lost {
                cause,
                retry_after,
                was_subscribed: false,
                is_orderly: false,
            }),
            _ => Self::Failed(cause),
        }
    }

    /// Returns the [`End`] for a close code. Codes below 4000 are defined by RFC 6455, 7.4. Codes
    /// from 4000 to 4099 are errors that a reconnect would not solve, except that 4001 and 4002
    /// allow a reconnect with another token. Codes from 4200 to 4299 ask for an immediate
    /// reconnect.
    pub(super) fn of_close(code: u16, reason: &str) -> Self {
        let cause = match reason {
            "" => format!("closed by the server with code {code}"),
            _ => format!("closed by the server with code {code} ({reason})"),
        };
        match code {
            1000 => Self::Finished(cause),
            4001 | 4002 => Self::TokenRefused(cause),
            1002 | 1003 | 1007..=1010 | 4000..=4099 => Self::Failed(cause),
            1012 | 1013 => Self::orderly(cause, retry_ms(reason)),
            1001 => Self::orderly(cause, None),
            4200..=4299 => Self::orderly(cause, Some(Duration::ZERO)),
            _ => Self::broken(cause, None),
        }
    }
}

/// Returns the delay in the field `Retry-After`.
pub(super) fn retry_after(value: &str) -> Option<Duration> {
    fanfare::http::retry_after::delay(value, SystemTime::now())
}

/// Parses the delay `retry_ms=N` in the reason of a close frame.
fn retry_ms(reason: &str) -> Option<Duration> {
    let (_, digits) = reason.split_once("retry_ms=")?;
    let end = digits
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(digits.len());
    let number = digits.get(..end)?.parse().ok()?;
    Some(Duration::from_millis(number))
}

/// Members of a problem document (RFC 9457). `code` is an extension of the server.
#[derive(Default, Deserialize)]
struct Problem {
    code: Option<String>,
    detail: Option<String>,
    title: Option<String>,
}

impl Problem {
    /// Parses a body. Returns an empty problem if the body is not a problem document.
    fn read(body: &[u8]) -> Self {
        serde_json::from_slice(body).unwrap_or_default()
    }
}

/// Exponential back-off with full jitter.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    /// The number of attempts that have failed since the last stream.
    failures: u32,
}

impl Backoff {
    /// Returns the delay before the next attempt. `random` is between 0 and 1. A delay that the
    /// server requests gets no random part, because the server has already chosen it at random.
    pub(super) fn delay(&mut self, lost: &Lost, random: f64) -> Duration {
        if lost.was_subscribed {
            self.failures = 0;
        }
        let ceiling = BASE.saturating_mul(1 << self.failures.min(10)).min(CEILING);
        self.failures += 1;
        let delay = match lost.retry_after {
            Some(requested) => requested.min(RETRY_AFTER_MAX),
            None => ceiling.mul_f64(random.clamp(0.0, 1.0)),
        };
        delay.max(FLOOR)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lost(end: End) -> Lost {
        match end {
            End::Lost(lost) => lost,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn close_codes_finish_fail_or_reconnect() {
        assert!(matches!(End::of_close(1000, ""), End::Finished(_)));
        for code in [1002, 1008, 1009, 4000, 4003, 4099] {
            assert!(matches!(End::of_close(code, ""), End::Failed(_)), "{code}");
        }
        for code in [4001, 4002] {
            let end = End::of_close(code, "");
            assert!(matches!(end, End::TokenRefused(_)), "{code}");
        }
        for code in [1001, 1006, 1011, 1012, 1013, 4100, 4199] {
            assert!(matches!(End::of_close(code, ""), End::Lost(_)), "{code}");
        }
        let at_once = lost(End::of_close(4200, ""));
        assert_eq!(at_once.retry_after, Some(Duration::ZERO));
    }

    #[test]
    fn close_for_a_restart_has_the_requested_delay() {
        let delay = |reason| lost(End::of_close(1012, reason)).retry_after;
        assert_eq!(delay("retry_ms=1500"), Some(Duration::from_millis(1500)));
        assert_eq!(
            delay("restart retry_ms=7; x"),
            Some(Duration::from_millis(7))
        );
        assert_eq!(delay("retry_ms="), None);
        assert_eq!(delay("retry_ms=99999999999999999999"), None);
        assert_eq!(delay(""), None);
    }

    #[test]
    fn responses_finish_fail_or_reconnect() {
        assert!(matches!(End::of_response(204, None, b""), End::Finished(_)));
        let end = End::of_response(401, None, b"");
        assert!(matches!(end, End::TokenRefused(_)));
        for status in [301, 400, 403, 404, 426] {
            assert!(matches!(
                End::of_response(status, None, b""),
                End::Failed(_)
            ));
        }
        let busy = lost(End::of_response(503, retry_after("7"), b""));
        assert_eq!(busy.retry_after, Some(Duration::from_secs(7)));
        assert!(!busy.was_subscribed);
        let date = "Fri, 31 Dec 9999 23:59:59 GMT";
        let busy = lost(End::of_response(503, retry_after(date), b""));
        assert_eq!(Backoff::default().delay(&busy, 0.5), RETRY_AFTER_MAX);
    }

    #[test]
    fn refusal_has_the_detail_of_the_problem() {
        let End::Failed(cause) = End::of_response(400, None, br#"{"title":"t","detail":"d"}"#)
        else {
            panic!("another end");
        };
        assert_eq!(cause, "the server answered 400: d");
        let body = br#"{"title":"t","detail":"d","code":"token_missing"}"#;
        let End::TokenRefused(cause) = End::of_response(401, None, body) else {
            panic!("another end");
        };
        assert_eq!(cause, "token missing (401): d");
    }

    #[test]
    fn delay_grows_to_its_ceiling_and_is_reset_by_a_stream() {
        let mut backoff = Backoff::default();
        let unreached = lost(End::unreached("x"));
        let seconds: Vec<u64> = (0..7)
            .map(|_| backoff.delay(&unreached, 1.0).as_secs())
            .collect();
        assert_eq!(seconds, [1, 2, 4, 8, 16, 30, 30]);
        let broken = lost(End::broken("x", None));
        assert_eq!(backoff.delay(&broken, 1.0), Duration::from_secs(1));
        assert_eq!(backoff.delay(&broken, 0.0), FLOOR);
    }

    #[test]
    fn requested_delay_is_bounded() {
        let mut backoff = Backoff::default();
        let mut delay = |ms| {
            let lost = lost(End::orderly("x", Some(Duration::from_millis(ms))));
            backoff.delay(&lost, 0.5)
        };
        assert_eq!(delay(1234), Duration::from_millis(1234));
        assert_eq!(delay(0), FLOOR);
        assert_eq!(delay(u64::MAX), RETRY_AFTER_MAX);
    }
}
