//! SHELL: this module writes the access log to standard output, in a separate thread.
//!
//! A line describes an answered request, an ended stream, or a connection that ended without a
//! request. Workers put lines into a bounded queue. When the queue is full, lines are dropped and
//! counted, so a slow reader of the log never delays a worker. Lines that cannot be written are
//! counted, too.

use std::fmt;
use std::io::{self, Write};
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};

use crate::config::limits::{ACCESS_LINES_MAX, LINES_STOP_MS};
use crate::config::{AccessFormat, Logging, Share};
use crate::frame::envelope::{push_display, push_json_string};
use crate::id::ConnName;
use crate::line_queue::{LineQueue, LineThread, WholeLines};
use crate::proxy::Source;
use crate::traceparent::TraceId;

/// The sending end of the queue of lines. Each worker has a clone.
#[derive(Clone, Debug)]
pub struct AccessLog {
    format: AccessFormat,
    sample: Share,
    lines: Lines,
    /// The number of lines that the thread could not write.
    failed: Arc<AtomicU64>,
    /// A buffer for one line.
    line: Vec<u8>,
}

/// Where a worker puts its lines.
#[derive(Clone)]
enum Lines {
    /// The queue of the thread that writes.
    Queue(LineQueue),
    /// The writer itself.
    Direct(Arc<Mutex<dyn Write + Send>>),
}

impl fmt::Debug for Lines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Queue(_) => "Queue",
            Self::Direct(_) => "Direct",
        })
    }
}

/// The values of one line. Absent values are not in the line.
#[derive(Clone, Copy, Debug)]
pub struct Line<'a> {
    /// The address of the connection's peer. Behind a proxy, this is the proxy.
    pub peer: Option<SocketAddr>,
    /// The client that a trusted proxy has named.
    pub client: Option<Source>,
    /// The name of the connection, as backends know it.
    pub connection: ConnName,
    /// The transport, or `http` for a response of the server itself.
    pub transport: Option<&'static str>,
    /// The path, and those parameters of the query that are not secret.
    pub path: Option<&'a str>,
    /// The trace of the client's trace context.
    pub trace_id: Option<TraceId>,
    /// The status of the response.
    pub status: Option<u16>,
    /// The code of the close frame that ended a WebSocket.
    pub close_code: Option<u16>,
    /// The reason for which the connection was closed, as in the metrics.
    pub reason: Option<&'static str>,
    /// The time since the request or the connection began.
    pub duration: Duration,
    /// The number of publications that were sent completely.
    pub publications: u64,
    /// The number of bytes that were sent.
    pub bytes: u64,
    /// The subject of the client's token.
    pub sub: Option<&'a str>,
}

impl AccessLog {
    /// Starts the thread that writes lines to `writer`. Returns `None` if the access log is off.
    ///
    /// # Errors
    /// Returns the error of the system if the thread cannot be started.
    pub fn start(
        logging: &Logging,
        writer: impl Write + Send + 'static,
    ) -> io::Result<Option<(Self, AccessLogThread)>> {
        if logging.access == AccessFormat::Off {
            return Ok(None);
        }
        let writer = CountFailures::new(writer);
        let failed = Arc::clone(&writer.failed);
        let (lines, thread) = LineQueue::start("fanfare-access", ACCESS_LINES_MAX, writer)?;
        let log = Self::new(logging, Lines::Queue(lines), failed);
        Ok(Some((log, AccessLogThread(thread))))
    }

    /// Makes a log without a thread: each call of [`Self::write`] writes to `writer`. For tests.
    #[doc(hidden)]
    #[must_use]
    pub fn direct(logging: &Logging, writer: impl Write + Send + 'static) -> Option<Self> {
        let writer = CountFailures::new(writer);
        let failed = Arc::clone(&writer.failed);
        let lines = Lines::Direct(Arc::new(Mutex::new(writer)));
        (logging.access != AccessFormat::Off).then(|| Self::new(logging, lines, failed))
    }

    fn new(logging: &Logging, lines: Lines, failed: Arc<AtomicU64>) -> Self {
        Self {
            format: logging.access,
            sample: logging.access_sample,
            lines,
            failed,
            line: Vec::new(),
        }
    }

    /// Whether a connection is in the sample. `draw` is a random number.
    #[must_use]
    pub fn is_sampled(&self, draw: u64) -> bool {
        self.sample.contains(draw)
    }

    /// Queues a line, or drops and counts the line if the queue is full.
    pub fn write(&mut self, line: &Line<'_>) {
        self.line.clear();
        match self.format {
            AccessFormat::Off => return,
            AccessFormat::Json => line.push::<Json>(&mut self.line),
            AccessFormat::Logfmt => line.push::<Logfmt>(&mut self.line),
        }
        match &self.lines {
            Lines::Queue(queue) => queue.push(&self.line),
            Lines::Direct(writer) => {
                let mut writer = writer.lock().unwrap_or_else(PoisonError::into_inner);
                // This never fails: a line that is lost is counted.
                let _written = writer.write(&self.line);
            }
        }
    }

    /// Returns the number of lines for which the queue had no room or whose write has failed.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        let dropped = match &self.lines {
            Lines::Queue(queue) => queue.dropped(),
            Lines::Direct(_) => 0,
        };
        dropped + self.failed.load(Ordering::Relaxed)
    }
}

/// The thread that writes. When this is dropped, the queued lines are written, as far as this
/// succeeds within [`LINES_STOP_MS`].
#[derive(Debug)]
pub struct AccessLogThread(LineThread);

impl Drop for AccessLogThread {
    fn drop(&mut self) {
        let lost = self.0.stop(Duration::from_millis(LINES_STOP_MS));
        if lost > 0 {
            tracing::warn!(
                "{lost} lines of the access log are lost at the end of the server: standard \
                 output was not read in time"
            );
        }
    }
}

/// Passes lines to the writer of the log. A line that cannot be written is dropped and counted.
struct CountFailures<W> {
    writer: WholeLines<W>,
    failed: Arc<AtomicU64>,
    is_failing: bool,
}

impl<W: Write> CountFailures<W> {
    fn new(writer: W) -> Self {
        Self {
            writer: WholeLines::new(writer),
            failed: Arc::default(),
            is_failing: false,
        }
    }
}

impl<W: Write> Write for CountFailures<W> {
    /// Writes one line. Never fails, because the thread that calls this function ignores errors.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let written = self.writer.write_all(line);
        let was_failing = std::mem::replace(&mut self.is_failing, written.is_err());
        if let Err(error) = written {
            self.failed.fetch_add(1, Ordering::Relaxed);
            if !was_failing {
                tracing::warn!(
                    %error,
                    "cannot write the access log to standard output; lines are dropped and \
                     counted until a write succeeds"
                );
            }
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

/// The syntax of lines.
trait Syntax {
    const OPEN: &'static str;
    const SEPARATOR: u8;
    const CLOSE: &'static str;
    /// Appends the name of a field and the character after it.
    fn push_name(name: &str, out: &mut Vec<u8>);
    /// Appends a text in quotes. Control characters are escaped.
    fn push_text(text: &str, out: &mut Vec<u8>);
}

/// A JSON object.
struct Json;

impl Syntax for Json {
    const OPEN: &'static str = "{";
    const SEPARATOR: u8 = b',';
    const CLOSE: &'static str = "}\n";

    fn push_name(name: &str, out: &mut Vec<u8>) {
        out.push(b'"');
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b"\":");
    }

    fn push_text(text: &str, out: &mut Vec<u8>) {
        push_json_string(text, out);
    }
}

/// Fields of the form `name=value`.
struct Logfmt;

impl Syntax for Logfmt {
    const OPEN: &'static str = "";
    const SEPARATOR: u8 = b' ';
    const CLOSE: &'static str = "\n";

    fn push_name(name: &str, out: &mut Vec<u8>) {
        out.extend_from_slice(name.as_bytes());
        out.push(b'=');
    }

    fn push_text(text: &str, out: &mut Vec<u8>) {
        push_display(&format_args!("{text:?}"), out);
    }
}

/// The fields of a line that is being written. Values are written straight to the buffer.
struct Fields<'a, S> {
    out: &'a mut Vec<u8>,
    syntax: PhantomData<S>,
}

impl<S: Syntax> Fields<'_, S> {
    fn begin(&mut self, name: &str) {
        self.out.push(S::SEPARATOR);
        S::push_name(name, self.out);
    }

    fn text(&mut self, name: &str, text: Option<&str>) {
        if let Some(text) = text {
            self.begin(name);
            S::push_text(text, self.out);
        }
    }

    /// Appends an address or a name of the server, in quotes. It has no character to escape.
    fn name(&mut self, name: &str, value: Option<impl fmt::Display>) {
        if let Some(value) = value {
            self.begin(name);
            push_display(&format_args!("\"{value}\""), self.out);
        }
    }

    fn number(&mut self, name: &str, number: Option<u64>) {
        if let Some(number) = number {
            self.begin(name);
            push_display(&number, self.out);
        }
    }
}

impl Line<'_> {
    fn push<S: Syntax>(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(S::OPEN.as_bytes());
        S::push_name("time", out);
        push_now(out);
        let syntax = PhantomData::<S>;
        let mut fields = Fields { out, syntax };
        fields.name("peer", self.peer);
        fields.name("client", self.client);
        fields.name("connection", Some(self.connection));
        fields.text("transport", self.transport);
        fields.text("path", self.path);
        fields.name("trace_id", self.trace_id);
        fields.text("reason", self.reason);
        fields.text("sub", self.sub);
        let duration_ms = u64::try_from(self.duration.as_millis()).unwrap_or(u64::MAX);
        fields.number("status", self.status.map(u64::from));
        fields.number("close_code", self.close_code.map(u64::from));
        fields.number("duration_ms", Some(duration_ms));
        fields.number("publications", Some(self.publications));
        fields.number("bytes", Some(self.bytes));
        out.extend_from_slice(S::CLOSE.as_bytes());
    }
}

/// Appends the time in UTC (RFC 3339), in quotes.
fn push_now(out: &mut Vec<u8>) {
    out.push(b'"');
    let formatted = SystemTime.format_time(&mut Writer::new(&mut Text(out)));
    debug_assert!(formatted.is_ok(), "writing to a vector cannot fail");
    out.push(b'"');
}

/// A buffer to which formatted text is appended.
struct Text<'a>(&'a mut Vec<u8>);

impl fmt::Write for Text<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use crossbeam_channel::{Receiver, bounded};

    use super::*;
    use crate::id::RunId;
    use crate::logs::capture::logged;

    fn line<'a>(path: &'a str, sub: &'a str) -> Line<'a> {
        Line {
            peer: Some("192.0.2.1:5".parse().unwrap()),
            client: None,
            connection: ConnName {
                run: RunId(1),
                worker: 2,
                slot: 3,
                serial: 4,
            },
            transport: Some("websocket"),
            path: Some(path),
            trace_id: TraceId::new([0xab; 16]),
            status: Some(101),
            close_code: Some(1000),
            reason: Some("done"),
            duration: Duration::from_millis(1_500),
            publications: 7,
            bytes: 900,
            sub: Some(sub),
        }
    }

    fn pushed<S: Syntax>(line: Line<'_>) -> String {
        let mut out = Vec::new();
        line.push::<S>(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn control_characters_do_not_end_a_line() {
        let line = line("/ws?a=\"", "eve\nreason=\"done\"\u{1b}[2J");
        for text in [pushed::<Json>(line), pushed::<Logfmt>(line)] {
            let (text, rest) = text.split_once('\n').unwrap();
            assert!(rest.is_empty() && !text.contains('\u{1b}'), "{text}");
        }
        let json: serde_json::Value = serde_json::from_str(&pushed::<Json>(line)).unwrap();
        assert_eq!(json["trace_id"], "ab".repeat(16));
        assert_eq!(json["sub"], "eve\nreason=\"done\"\u{1b}[2J");
        assert_eq!(
            (&json["bytes"], &json["status"]),
            (&900.into(), &101.into())
        );
        let logfmt = pushed::<Logfmt>(line);
        assert!(logfmt.contains(r#" path="/ws?a=\"" "#), "{logfmt}");
        assert!(
            logfmt.ends_with(
                " status=101 close_code=1000 duration_ms=1500 publications=7 bytes=900\n"
            ),
            "{logfmt}"
        );
    }

    /// A writer that waits until the test drops its sender.
    struct Stuck(Receiver<()>);

    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ended = self.0.recv();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn full_queue_drops_and_counts_lines_without_waiting_and_its_end_is_bounded() {
        let (release, stuck) = bounded::<()>(0);
        let logging = Logging {
            access: AccessFormat::Json,
            ..Logging::default()
        };
        let (mut log, thread) = AccessLog::start(&logging, Stuck(stuck)).unwrap().unwrap();
        for _ in 0..ACCESS_LINES_MAX + 100 {
            log.write(&line("/", "a"));
        }
        // The thread has taken at most one line from the queue.
        assert!((99..=100).contains(&log.dropped()), "{}", log.dropped());
        // Nothing is lost silently: each line was dropped before the end or is lost at the end.
        let logged = logged(|| drop(thread));
        assert_eq!(log.dropped(), ACCESS_LINES_MAX as u64 + 100);
        assert_eq!(logged.lines().count(), 1, "{logged}");
        assert!(logged.contains(" 819"), "{logged}");
        drop(release);
    }

    /// A writer that fails while the flag is set.
    struct Full(Arc<AtomicBool>);

    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            match self.0.load(Ordering::Relaxed) {
                true => Err(io::ErrorKind::StorageFull.into()),
                false => Ok(bytes.len()),
            }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_that_cannot_be_written_are_counted_with_one_warning_per_streak() {
        let is_full = Arc::new(AtomicBool::new(true));
        let mut writer = CountFailures::new(Full(Arc::clone(&is_full)));
        let mut warnings = String::new();
        for full in [true, true, true, false, true, false] {
            is_full.store(full, Ordering::Relaxed);
            let logged = logged(|| writer.write_all(b"line\n").unwrap());
            warnings.push_str(&logged);
        }
        assert_eq!(writer.failed.load(Ordering::Relaxed), 4);
        let all: Vec<&str> = warnings.lines().collect();
        assert_eq!(all.len(), 2, "{warnings}");
        assert!(all[0].contains("cannot write the access log"), "{warnings}");

        let logging = Logging {
            access: AccessFormat::Json,
            ..Logging::default()
        };
        is_full.store(true, Ordering::Relaxed);
        let (mut log, guard) = AccessLog::start(&logging, Full(is_full)).unwrap().unwrap();
        log.write(&line("/", "a"));
        log.write(&line("/", "a"));
        drop(guard);
        assert_eq!(log.dropped(), 2);
    }

    #[test]
    fn sample_is_a_part_of_all_draws() {
        for (sample, sampled) in [
            (0.0, [false; 3]),
            (0.5, [true, false, false]),
            (1.0, [true; 3]),
        ] {
            let logging = Logging {
                access: AccessFormat::Logfmt,
                access_sample: Share::try_from(sample).unwrap(),
                ..Logging::default()
            };
            let (log, _guard) = AccessLog::start(&logging, io::sink()).unwrap().unwrap();
            let draws = [0, u64::MAX / 2 + 9, u64::MAX];
            assert_eq!(draws.map(|draw| log.is_sampled(draw)), sampled, "{sample}");
        }
        let off = AccessLog::start(&Logging::default(), io::sink()).unwrap();
        assert!(off.is_none());
    }
}
