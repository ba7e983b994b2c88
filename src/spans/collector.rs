//! SHELL: posts batches of spans to a collector over HTTP (OTLP/HTTP).
//!
//! A batch that the collector cannot accept now is posted again after a pause. The pauses double,
//! up to a limit, unless the collector asks for a pause. A batch is dropped after
//! [`SPAN_RETRY_MS_MAX`]. Meanwhile, a bounded number of later batches waits. Answers that a
//! repetition would not change drop the batch at once.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use ureq::Agent;
use ureq::http::StatusCode;

use super::SpanMetrics;
use crate::config::limits::{
    SPAN_POST_MS_MAX, SPAN_RETRY_AFTER_MS_MAX, SPAN_RETRY_FIRST_MS, SPAN_RETRY_MS_MAX,
    SPAN_RETRY_PAUSE_MS_MAX, SPAN_WARNING_MS,
};
use crate::http::retry_after;

/// The maximum length of a collector's answer in bytes. The rest of a longer answer is not read.
const RESPONSE_BYTES_MAX: u64 = 64 * 1024;
/// The maximum length of a collector's message in the log, in characters.
const MESSAGE_CHARS_MAX: usize = 200;

/// A batch of spans, encoded as JSON.
#[derive(Clone, Debug)]
pub(super) struct Batch {
    pub(super) json: Arc<[u8]>,
    /// The number of spans, with each publication and each connection as one.
    pub(super) spans: u64,
}

/// Posts batches to one collector.
#[derive(Debug)]
pub(super) struct Collector {
    agent: Agent,
    url: String,
    metrics: Arc<SpanMetrics>,
    /// Disconnected when the server stops.
    stop: Receiver<()>,
    /// The time before which the collector gets no further post.
    paused_until: Instant,
    /// The time of the last warning.
    warned: Option<Instant>,
    /// Whether a warning was the last line in the log.
    is_failing: bool,
}

/// What has become of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// The collector has accepted the batch, except for this number of spans in OTLP.
    Accepted { rejected: u64 },
    /// The collector refuses the batch.
    Refused,
    /// No attempt was successful in time.
    Unreachable,
    /// The server stops.
    Stopped,
}

/// The outcome of one attempt.
#[derive(Debug)]
enum Attempt {
    Accepted,
    /// The collector has accepted the batch, except for some spans.
    AcceptedInPart(Rejected),
    /// The attempt has failed. The collector may ask for a pause before the next one.
    Again(Cause, Option<Duration>),
    /// The collector refuses the batch, and would refuse it again.
    Refused(Cause),
}

/// The spans that a collector has rejected, and its message about them.
#[derive(Debug, PartialEq, Eq)]
struct Rejected {
    spans: u64,
    message: String,
}

/// The reason why an attempt has failed.
#[derive(Debug)]
enum Cause {
    Error(ureq::Error),
    Status(StatusCode),
    Rejected(Rejected),
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Error(error) => error.fmt(f),
            Self::Status(status) => write!(f, "it answered with status {}", status.as_u16()),
            Self::Rejected(Rejected { spans, message }) if message.is_empty() => {
                write!(f, "it rejected {spans} spans of a batch")
            }
            Self::Rejected(Rejected { spans, message }) => {
                write!(f, "it rejected {spans} spans of a batch: {message}")
            }
        }
    }
}

impl Collector {
    pub(super) fn new(url: String, metrics: Arc<SpanMetrics>, stop: Receiver<()>) -> Self {
        let config = Agent::config_builder()
            .timeout_global(Some(Duration::from_millis(SPAN_POST_MS_MAX)))
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            // The environment of the process does not decide where spans are sent.
            .proxy(None)
            .user_agent(concat!("fanfare/", env!("CARGO_PKG_VERSION")))
            .build();
        Self {
            agent: config.new_agent(),
            url,
            metrics,
            stop,
            paused_until: Instant::now(),
            warned: None,
            is_failing: false,
        }
    }

    /// Posts batches until the sender is gone.
    pub(super) fn run(mut self, batches: &Receiver<Batch>) {
        for batch in batches {
            let outcome = self.post(&batch);
            let metrics = &self.metrics;
            let (lost, number) = match outcome {
                // A publication has up to five spans in OTLP, but it counts once.
                Outcome::Accepted { rejected } => (rejected.min(batch.spans), &metrics.refused),
                Outcome::Refused => (batch.spans, &metrics.refused),
                Outcome::Unreachable => (batch.spans, &metrics.unreachable),
                Outcome::Stopped => (batch.spans, &metrics.stopped),
            };
            number.fetch_add(lost, Ordering::Relaxed);
            metrics
                .posted
                .fetch_add(batch.spans - lost, Ordering::Relaxed);
        }
    }

    /// Posts one batch, and repeats this while it may succeed.
    fn post(&mut self, batch: &Batch) -> Outcome {
        // The pause for which the collector has asked concerns all batches.
        if !self.wait() {
            return Outcome::Stopped;
        }
        let begun = Instant::now();
        let first = Duration::from_millis(SPAN_RETRY_FIRST_MS);
        let mut pause = first;
        loop {
            let wait = match self.attempt(batch) {
                Attempt::Accepted => {
                    self.note_success();
                    return Outcome::Accepted { rejected: 0 };
                }
                Attempt::AcceptedInPart(rejected) => {
                    let spans = rejected.spans;
                    self.note_failure(&Cause::Rejected(rejected), "these spans are dropped");
                    return Outcome::Accepted { rejected: spans };
                }
                Attempt::Refused(cause) => {
                    self.note_failure(&cause, "the spans are dropped");
                    return Outcome::Refused;
                }
                Attempt::Again(cause, wait) => {
                    self.note_failure(&cause, "trying again for up to a minute");
                    let most = Duration::from_millis(SPAN_RETRY_AFTER_MS_MAX);
                    wait.map_or_else(|| jittered(pause), |wait| wait.clamp(first, most))
                }
            };
            pause = (2 * pause).min(Duration::from_millis(SPAN_RETRY_PAUSE_MS_MAX));
            self.paused_until = Instant::now() + wait;
            if begun.elapsed() + wait > Duration::from_millis(SPAN_RETRY_MS_MAX) {
                return Outcome::Unreachable;
            }
            if !self.wait() {
                return Outcome::Stopped;
            }
        }
    }

    /// Waits until the collector may get a post. Returns false if the server stops meanwhile.
    fn wait(&self) -> bool {
        let pause = self.paused_until.saturating_duration_since(Instant::now());
        pause.is_zero()
            || matches!(
                self.stop.recv_timeout(pause),
                Err(RecvTimeoutError::Timeout)
            )
    }

    fn attempt(&self, batch: &Batch) -> Attempt {
        let request = self.agent.post(&self.url);
        let request = request.header("content-type", "application/json");
        match request.send(&*batch.json) {
            Ok(mut response) => match response.status() {
                status if status.is_success() => {
                    let body = response.body_mut().with_config().limit(RESPONSE_BYTES_MAX);
                    // Without a readable body, the status says that the batch was accepted.
                    let rejected = body
                        .read_to_vec()
                        .ok()
                        .and_then(|body| Rejected::parse(&body));
                    rejected.map_or(Attempt::Accepted, Attempt::AcceptedInPart)
                }
                // The answers after which OTLP allows a repetition.
                status @ (StatusCode::TOO_MANY_REQUESTS
                | StatusCode::BAD_GATEWAY
                | StatusCode::SERVICE_UNAVAILABLE
                | StatusCode::GATEWAY_TIMEOUT) => {
                    let wait = response.headers().get("retry-after");
                    let wait = wait.and_then(|value| value.to_str().ok());
                    let wait = wait.and_then(|value| retry_after::delay(value, SystemTime::now()));
                    Attempt::Again(Cause::Status(status), wait)
                }
                status => Attempt::Refused(Cause::Status(status)),
            },
            Err(error) => Attempt::Again(Cause::Error(error), None),
        }
    }

    fn note_success(&mut self) {
        if std::mem::take(&mut self.is_failing) {
            tracing::info!("the collector {} accepts spans again", self.url);
        }
    }

    /// Writes a warning, unless one was written shortly before.
    fn note_failure(&mut self, cause: &Cause, consequence: &str) {
        let interval = Duration::from_millis(SPAN_WARNING_MS);
        if self
            .warned
            .is_some_and(|warned| warned.elapsed() < interval)
        {
            return;
        }
        self.warned = Some(Instant::now());
        self.is_failing = true;
        let url = &self.url;
        tracing::warn!("the collector {url} does not accept spans ({cause}); {consequence}");
    }
}

impl Rejected {
    /// Reads the answer of a collector that has accepted a request. Returns `None` if the collector
    /// has rejected no span.
    fn parse(body: &[u8]) -> Option<Self> {
        let answer: serde_json::Value = serde_json::from_slice(body).ok()?;
        let partial = answer.get("partialSuccess")?;
        // In the JSON of Protobuf, a number of 64 bits is a string. A number is accepted, too.
        let spans = partial.get("rejectedSpans")?;
        let spans = spans.as_u64().or_else(|| spans.as_str()?.parse().ok())?;
        let message = partial.get("errorMessage").and_then(|text| text.as_str());
        let message = message.unwrap_or_default().chars().take(MESSAGE_CHARS_MAX);
        (spans > 0).then(|| Self {
            spans,
            message: message.collect(),
        })
    }
}

/// Returns a random time between the half of a pause and the whole pause.
fn jittered(pause: Duration) -> Duration {
    pause / 2 + pause.mul_f64(fastrand::f64() / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rejected_spans_are_read_from_the_answer() {
        let rejected = |spans, message: &str| {
            let message = message.to_owned();
            Some(Rejected { spans, message })
        };
        for (body, expected) in [
            (
                r#"{"partialSuccess":{"rejectedSpans":"3"}}"#,
                rejected(3, ""),
            ),
            (
                r#"{"partialSuccess":{"rejectedSpans":2,"errorMessage":"old"}}"#,
                rejected(2, "old"),
            ),
            (r#"{"partialSuccess":{"rejectedSpans":"0"}}"#, None),
            (r#"{"partialSuccess":{"errorMessage":"only a hint"}}"#, None),
            (r#"{"partialSuccess":{"rejectedSpans":-1}}"#, None),
            (r#"{"partialSuccess":{}}"#, None),
            ("{}", None),
            ("", None),
            ("\u{0}", None),
        ] {
            assert_eq!(Rejected::parse(body.as_bytes()), expected, "{body}");
        }
        let long = format!(
            r#"{{"partialSuccess":{{"rejectedSpans":1,"errorMessage":"{}"}}}}"#,
            "\u{e9}".repeat(1_000)
        );
        let parsed = Rejected::parse(long.as_bytes()).unwrap();
        assert_eq!(parsed.message.chars().count(), MESSAGE_CHARS_MAX);
    }
}
