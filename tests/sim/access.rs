//! Checks of the access log. Each answered request, each ended stream and each connection without a
//! request must have exactly one line. A line whose write fails must be counted as dropped.
//!
//! The lines are compared with the worker's counters, which other code increments.

use std::collections::HashMap;
use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use fanfare::access_log::AccessLog;
use fanfare::config::{AccessFormat, Logging, Share};
use fanfare::metrics::WorkerMetrics;
use serde_json::Value;

use crate::spans::WorkerTracer;

/// The access log of one worker, and the lines that the worker has written.
pub(crate) struct Access {
    log: AccessLog,
    written: Arc<Mutex<Written>>,
    has_all_conns: bool,
}

#[derive(Default)]
struct Written {
    /// All lines, also those whose write has failed.
    lines: Vec<String>,
    failed: u64,
}

/// A writer that fails at random.
struct Recorder {
    written: Arc<Mutex<Written>>,
    random: fastrand::Rng,
}

impl Write for Recorder {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut written = self.written.lock().unwrap();
        let text = std::str::from_utf8(line).expect("UTF-8");
        written.lines.push(text.to_owned());
        if self.random.u32(0..10) == 0 {
            written.failed += 1;
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Access {
    /// Draws whether a worker has an access log, and whether the log has all connections.
    pub(crate) fn draw(mut random: fastrand::Rng) -> Option<Self> {
        let access_sample = match random.u32(0..8) {
            0 => return None,
            1 => Share::HALF,
            _ => Share::WHOLE,
        };
        let logging = Logging {
            access: AccessFormat::Json,
            access_sample,
            ..Logging::default()
        };
        let written = Arc::default();
        let recorder = Recorder {
            written: Arc::clone(&written),
            random,
        };
        Some(Self {
            log: AccessLog::direct(&logging, recorder).expect("a log that is on"),
            written,
            has_all_conns: access_sample == Share::WHOLE,
        })
    }

    /// Returns the log for the worker.
    pub(crate) fn log(&self) -> AccessLog {
        self.log.clone()
    }

    /// Checks the lines. `has_ended` is false if the server was killed. Then its open connections
    /// have no lines yet, or only lines of their first requests.
    pub(crate) fn check(
        &self,
        metrics: &WorkerMetrics,
        tracer: Option<&WorkerTracer>,
        has_ended: bool,
    ) {
        let written = self.written.lock().unwrap();
        assert_eq!(self.log.dropped(), written.failed, "dropped lines");
        let lines = written.lines.iter().map(|line| {
            assert!(line.ends_with("}\n"), "{line}");
            serde_json::from_str(line).expect("JSON")
        });
        let lines: Vec<Value> = lines.collect();
        let conns = check_order(&lines);
        let unended = if has_ended {
            metrics.conns_open.value()
        } else {
            0
        };
        let counts = [
            ("conns", conns, metrics.conns_accepted.value() - unended),
            (
                "refusals",
                count(&lines, |line| status(line) >= 400),
                metrics.requests_refused.value(),
            ),
            (
                "polls",
                count(&lines, |line| is_poll(line) && status(line) == 200),
                metrics.polls_with_news.value() + metrics.polls_without_news.value(),
            ),
            (
                "polls without changes",
                count(&lines, |line| is_poll(line) && status(line) == 304),
                metrics.polls_not_modified.value(),
            ),
            (
                "requests",
                count(&lines, is_counted_request),
                metrics.requests.value(),
            ),
        ];
        for (what, logged, counted) in counts {
            let is_right = match (self.has_all_conns, has_ended) {
                (true, true) => logged == counted,
                (_, false) | (false, true) => logged <= counted,
            };
            assert!(is_right, "{what}: {logged} in the log, {counted} counted");
        }
        if let Some(tracer) = tracer
            && self.has_all_conns
        {
            tracer.check_ended(lines.len() as u64);
        }
        let publications = lines.iter().map(|line| number(line, "publications"));
        let publications: u64 = publications.sum();
        let delivered = metrics.deliveries.value();
        // The line of a poll has the publications of its answer, which may not be written
        // completely.
        assert!(
            publications >= delivered || !self.has_all_conns || !has_ended,
            "{publications} publications in the log, {delivered} delivered"
        );
    }
}

/// Checks that no line follows the last line of a connection. Returns the number of connections.
fn check_order(lines: &[Value]) -> u64 {
    let mut ended: HashMap<&str, bool> = HashMap::new();
    for line in lines {
        let conn = line["connection"].as_str().expect("a name");
        let is_last = !line["reason"].is_null();
        let before = ended.insert(conn, is_last);
        assert_ne!(before, Some(true), "a line after the last one: {line}");
        let has_request = !line["path"].is_null() || !line["status"].is_null();
        assert!(is_last || has_request, "{line}");
        let is_first = before.is_none();
        assert!(has_request || is_first, "a conn with requests: {line}");
        let is_stream = !is_poll(line) && matches!(status(line), 101 | 200);
        assert!(is_last || !is_stream || transport(line) == "http", "{line}");
        let has_code = !line["close_code"].is_null();
        assert!(!has_code || transport(line) == "websocket", "{line}");
    }
    ended.len() as u64
}

/// Whether the request of the line was parsed. The server refuses some requests before that,
/// because it drains or because the client has too many connections.
fn is_counted_request(line: &Value) -> bool {
    let is_early = transport(line) == "http"
        && matches!(line["reason"].as_str(), Some("refused" | "shutdown"));
    !line["path"].is_null() && !is_early
}

fn count(lines: &[Value], is_counted: impl Fn(&Value) -> bool) -> u64 {
    lines.iter().filter(|line| is_counted(line)).count() as u64
}

fn transport(line: &Value) -> &str {
    line["transport"].as_str().unwrap_or_default()
}

fn is_poll(line: &Value) -> bool {
    transport(line).ends_with("_poll")
}

fn status(line: &Value) -> u64 {
    line["status"].as_u64().unwrap_or(0)
}

fn number(line: &Value, field: &str) -> u64 {
    line[field].as_u64().expect("a number")
}
