//! SHELL: posts batches of spans to a collector over HTTP (OTLP/HTTP).
//!
//! A batch that the collector cannot accept now is posted again after a pause. The pauses double,
//! up to a limit, and a batch is dropped after [`SPAN_RETRY_MS_MAX`]. Meanwhile, a bounded number
//! of later batches waits. Answers that a repetition would not change drop the batch at once.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use ureq::Agent;
use ureq::http::StatusCode;

use super::SpanMetrics;
use crate::config::limits::{
    SPAN_POST_MS_MAX, SPAN_RETRY_FIRST_MS, SPAN_RETRY_MS_MAX, SPAN_RETRY_PAUSE_MS_MAX,
};

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
    /// Whether the last attempt has failed. Only changes are logged.
    is_failing: bool,
}

/// The outcome of one attempt.
#[derive(Debug)]
enum Attempt {
    Accepted,
    /// The attempt has failed. The collector may ask for a pause before the next one.
    Again(Cause, Option<Duration>),
    /// The collector refuses the batch, and would refuse it again.
    Refused(Cause),
}

/// The reason why an attempt has failed.
#[derive(Debug)]
enum Cause {
    Error(ureq::Error),
    Status(StatusCode),
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Error(error) => error.fmt(f),
            Self::Status(status) => write!(f, "it answered with status {}", status.as_u16()),
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
            is_failing: false,
        }
    }

    /// Posts batches until the sender is gone.
    pub(super) fn run(mut self, batches: &Receiver<Batch>) {
        for batch in batches {
            let number = match self.post(&batch) {
                true => &self.metrics.posted,
                false => &self.metrics.dropped_by_collector,
            };
            number.fetch_add(batch.spans, Ordering::Relaxed);
        }
    }

    /// Posts one batch, and repeats this while it may succeed. Returns whether the collector has
    /// accepted the batch.
    fn post(&mut self, batch: &Batch) -> bool {
        let begun = Instant::now();
        let mut pause = Duration::from_millis(SPAN_RETRY_FIRST_MS);
        loop {
            let wait = match self.attempt(batch) {
                Attempt::Accepted => {
                    self.note_success();
                    return true;
                }
                Attempt::Refused(cause) => {
                    self.note_failure(&cause, "the spans are dropped");
                    return false;
                }
                Attempt::Again(cause, wait) => {
                    self.note_failure(&cause, "trying again");
                    wait.unwrap_or_else(|| jittered(pause))
                }
            };
            let max = Duration::from_millis(SPAN_RETRY_PAUSE_MS_MAX);
            let wait = wait.min(max);
            pause = (2 * pause).min(max);
            let left = Duration::from_millis(SPAN_RETRY_MS_MAX);
            if begun.elapsed() + wait > left || !self.wait(wait) {
                return false;
            }
        }
    }

    /// Waits. Returns false if the server stops.
    fn wait(&self, pause: Duration) -> bool {
        matches!(
            self.stop.recv_timeout(pause),
            Err(RecvTimeoutError::Timeout)
        )
    }

    fn attempt(&self, batch: &Batch) -> Attempt {
        let request = self.agent.post(&self.url);
        let request = request.header("content-type", "application/json");
        match request.send(&*batch.json) {
            Ok(response) => match response.status() {
                status if status.is_success() => Attempt::Accepted,
                // The answers after which OTLP allows a repetition.
                status @ (StatusCode::TOO_MANY_REQUESTS
                | StatusCode::BAD_GATEWAY
                | StatusCode::SERVICE_UNAVAILABLE
                | StatusCode::GATEWAY_TIMEOUT) => {
                    let wait = response.headers().get("retry-after");
                    let wait = wait.and_then(|value| value.to_str().ok()?.parse().ok());
                    Attempt::Again(Cause::Status(status), wait.map(Duration::from_secs))
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

    fn note_failure(&mut self, cause: &Cause, consequence: &str) {
        if !std::mem::replace(&mut self.is_failing, true) {
            let url = &self.url;
            tracing::warn!("the collector {url} does not accept spans ({cause}); {consequence}");
        }
    }
}

/// Returns a random time between the half of a pause and the whole pause.
fn jittered(pause: Duration) -> Duration {
    pause / 2 + pause.mul_f64(fastrand::f64() / 2.0)
}
