//! Why following a stream ended, and what that asks of us: stop, fail, or come back when.
//!
//! PURE: sorts close codes, statuses and losses; draws nothing and waits for nothing. Both
//! transports end in an [`End`], and the loop in the parent acts on it.

use std::time::Duration;

use serde::Deserialize;

use crate::cli::Failure;

/// The first ceiling of the drawn delay.
const BASE: Duration = Duration::from_secs(1);
/// The last one.
const CEILING: Duration = Duration::from_secs(30);
/// No delay is shorter, so that a server that always hangs up is not asked without a pause.
const FLOOR: Duration = Duration::from_millis(50);
/// No delay that a server asks for is longer.
const ASKED_MAX: Duration = Duration::from_secs(3600);

/// How following a stream ended.
#[derive(Debug)]
pub(super) enum End {
    /// The wanted number of publications is printed.
    Enough,
    /// It makes no sense to come back.
    Failed(String),
    /// The server said that there is no more.
    Finished(String),
    /// The stream is lost or was not had yet; it may be had again.
    Lost(Lost),
    /// Standard output takes no more, or takes nothing.
    Output(Failure),
    /// The time that was given is over.
    TimedOut,
}

/// A stream that is lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Lost {
    /// What happened.
    pub(super) cause: String,
    /// How long the server wants us to stay away.
    pub(super) asked: Option<Duration>,
    /// Whether the stream was ours before.
    pub(super) was_joined: bool,
    /// Whether the server ended it as its protocol says.
    pub(super) is_orderly: bool,
}

impl End {
    /// A conn that could not be made.
    pub(super) fn unreached(cause: impl Into<String>) -> Self {
        Self::Lost(Lost {
            cause: cause.into(),
            asked: None,
            was_joined: false,
            is_orderly: false,
        })
    }

    /// A stream that broke.
    pub(super) fn broken(cause: impl Into<String>, asked: Option<Duration>) -> Self {
        Self::Lost(Lost {
            cause: cause.into(),
            asked,
            was_joined: true,
            is_orderly: false,
        })
    }

    /// A stream that the server ended.
    pub(super) fn orderly(cause: impl Into<String>, asked: Option<Duration>) -> Self {
        Self::Lost(Lost {
            cause: cause.into(),
            asked,
            was_joined: true,
            is_orderly: true,
        })
    }

    /// What a response other than the wanted one means.
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
            408 | 429 | 500..=599 => Self::Lost(Lost {
                cause,
                asked: retry_after,
                was_joined: false,
                is_orderly: false,
            }),
            _ => Self::Failed(cause),
        }
    }

    /// What a WebSocket's close frame means: the standard codes (RFC 6455, 7.4) and the server's
    /// own, by their hundred.
    pub(super) fn of_close(code: u16, reason: &str) -> Self {
        let cause = match reason {
            "" => format!("closed by the server with code {code}"),
            _ => format!("closed by the server with code {code} ({reason})"),
        };
        match code {
            1000 => Self::Finished(cause),
            1002 | 1003 | 1007..=1010 | 4000..=4099 => Self::Failed(cause),
            1012 | 1013 => Self::orderly(cause, retry_ms(reason)),
            1001 => Self::orderly(cause, None),
            4200..=4299 => Self::orderly(cause, Some(Duration::ZERO)),
            _ => Self::broken(cause, None),
        }
    }
}

/// Reads a number of seconds, as `Retry-After` has it.
pub(super) fn seconds(text: &str) -> Option<Duration> {
    text.trim().parse().ok().map(Duration::from_secs)
}

/// Reads `retry_ms=N` out of a close reason.
fn retry_ms(reason: &str) -> Option<Duration> {
    let (_, digits) = reason.split_once("retry_ms=")?;
    let end = digits
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(digits.len());
    let number = digits.get(..end)?.parse().ok()?;
    Some(Duration::from_millis(number))
}

/// What a problem document says (RFC 9457), with our own `code`.
#[derive(Default, Deserialize)]
struct Problem {
    code: Option<String>,
    detail: Option<String>,
    title: Option<String>,
}

impl Problem {
    /// Reads a body. Nothing, if it is no problem document.
    fn read(body: &[u8]) -> Self {
        serde_json::from_slice(body).unwrap_or_default()
    }
}

/// Exponential back-off with full jitter.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    /// Losses since a stream was last had.
    losses: u32,
}

impl Backoff {
    /// How long to wait; `chance` is drawn from 0 to 1. What the server asks for is drawn already,
    /// so it is taken as it is.
    pub(super) fn delay(&mut self, lost: &Lost, chance: f64) -> Duration {
        if lost.was_joined {
            self.losses = 0;
        }
        let ceiling = BASE.saturating_mul(1 << self.losses.min(10)).min(CEILING);
        self.losses += 1;
        let delay = match lost.asked {
            Some(asked) => asked.min(ASKED_MAX),
            None => ceiling.mul_f64(chance.clamp(0.0, 1.0)),
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
    fn close_codes_stop_fail_or_bring_back() {
        assert!(matches!(End::of_close(1000, ""), End::Finished(_)));
        for code in [1002, 1008, 1009, 4000, 4003, 4099] {
            assert!(matches!(End::of_close(code, ""), End::Failed(_)), "{code}");
        }
        for code in [1001, 1006, 1011, 1012, 1013, 4100, 4199] {
            assert!(matches!(End::of_close(code, ""), End::Lost(_)), "{code}");
        }
        assert_eq!(lost(End::of_close(4200, "")).asked, Some(Duration::ZERO));
    }

    #[test]
    fn restart_carries_the_drawn_delay() {
        let asked = |reason| lost(End::of_close(1012, reason)).asked;
        assert_eq!(asked("retry_ms=1500"), Some(Duration::from_millis(1500)));
        assert_eq!(
            asked("restart retry_ms=7; x"),
            Some(Duration::from_millis(7))
        );
        assert_eq!(asked("retry_ms="), None);
        assert_eq!(asked("retry_ms=99999999999999999999"), None);
        assert_eq!(asked(""), None);
    }

    #[test]
    fn responses_stop_fail_or_bring_back() {
        assert!(matches!(End::of_response(204, None, b""), End::Finished(_)));
        for status in [301, 400, 401, 403, 404, 426] {
            assert!(matches!(
                End::of_response(status, None, b""),
                End::Failed(_)
            ));
        }
        let busy = lost(End::of_response(503, seconds(" 7"), b""));
        assert_eq!(busy.asked, Some(Duration::from_secs(7)));
        assert!(!busy.was_joined);
    }

    #[test]
    fn refusal_tells_the_problem_in_words() {
        let End::Failed(cause) = End::of_response(400, None, br#"{"title":"t","detail":"d"}"#)
        else {
            panic!("another end");
        };
        assert_eq!(cause, "the server answered 400: d");
        let body = br#"{"title":"t","detail":"d","code":"token_missing"}"#;
        let End::Failed(cause) = End::of_response(401, None, body) else {
            panic!("another end");
        };
        assert_eq!(cause, "token missing (401): d");
    }

    #[test]
    fn delay_grows_to_its_ceiling_and_starts_again_after_a_stream() {
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
    fn delay_that_is_asked_for_is_kept_within_bounds() {
        let mut backoff = Backoff::default();
        let mut asked = |ms| {
            let lost = lost(End::orderly("x", Some(Duration::from_millis(ms))));
            backoff.delay(&lost, 0.5)
        };
        assert_eq!(asked(1234), Duration::from_millis(1234));
        assert_eq!(asked(0), FLOOR);
        assert_eq!(asked(u64::MAX), ASKED_MAX);
    }
}
