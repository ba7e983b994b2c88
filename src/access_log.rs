//! SHELL: this module writes the access log to standard output, in a separate thread.
//!
//! A line describes an answered request, an ended stream, or a connection that ended without a
//! request. Workers put lines into a bounded queue. When the queue is full, lines are dropped and
//! counted, so a slow reader of the log never delays a worker.

use std::io::Write;
use std::net::SocketAddr;
use std::time::Duration;

use tracing_appender::non_blocking::{NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};

use crate::config::limits::ACCESS_LINES_MAX;
use crate::config::{AccessFormat, Logging, Share};
use crate::frame::envelope::{push_display, push_json_string};
use crate::id::ConnName;
use crate::proxy::Source;

/// The sending end of the queue of lines. Each worker has a clone.
#[derive(Clone, Debug)]
pub struct AccessLog {
    format: AccessFormat,
    sample: Share,
    lines: NonBlocking,
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
    /// The status of the response.
    pub status: Option<u16>,
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
    /// The queued lines are written when the guard is dropped.
    pub fn start(
        logging: &Logging,
        writer: impl Write + Send + 'static,
    ) -> Option<(Self, WorkerGuard)> {
        if logging.access == AccessFormat::Off {
            return None;
        }
        let (lines, guard) = NonBlockingBuilder::default()
            .buffered_lines_limit(ACCESS_LINES_MAX)
            .lossy(true)
            .thread_name("fanfare-access")
            .finish(writer);
        let log = Self {
            format: logging.access,
            sample: logging.access_sample,
            lines,
        };
        Some((log, guard))
    }

    /// Whether a connection is in the sample. `draw` is a random number.
    #[must_use]
    pub fn is_sampled(&self, draw: u64) -> bool {
        let part = self.sample.of(u64::MAX);
        part == u64::MAX || draw < part
    }

    /// Queues a line, or drops and counts the line if the queue is full.
    pub fn write(&mut self, line: &Line<'_>) {
        let mut text = Vec::with_capacity(256);
        match self.format {
            AccessFormat::Off => return,
            AccessFormat::Json => line.push(&mut text, &Json),
            AccessFormat::Logfmt => line.push(&mut text, &Logfmt),
        }
        // The queue never returns an error: a line without room is counted.
        let _queued = self.lines.write(&text);
    }

    /// Returns the number of dropped lines.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.lines.error_counter().dropped_lines() as u64
    }
}

/// The syntax of lines.
trait Syntax {
    const OPEN: &'static str;
    const SEPARATOR: u8;
    const CLOSE: &'static str;
    /// Appends the name of a field and the character after it.
    fn name(&self, name: &str, out: &mut Vec<u8>);
    /// Appends a text in quotes. Control characters are escaped.
    fn text(&self, text: &str, out: &mut Vec<u8>);
}

/// A JSON object.
struct Json;

impl Syntax for Json {
    const OPEN: &'static str = "{";
    const SEPARATOR: u8 = b',';
    const CLOSE: &'static str = "}\n";

    fn name(&self, name: &str, out: &mut Vec<u8>) {
        push_display(&format_args!("\"{name}\":"), out);
    }

    fn text(&self, text: &str, out: &mut Vec<u8>) {
        push_json_string(text, out);
    }
}

/// Fields of the form `name=value`.
struct Logfmt;

impl Syntax for Logfmt {
    const OPEN: &'static str = "";
    const SEPARATOR: u8 = b' ';
    const CLOSE: &'static str = "\n";

    fn name(&self, name: &str, out: &mut Vec<u8>) {
        push_display(&format_args!("{name}="), out);
    }

    fn text(&self, text: &str, out: &mut Vec<u8>) {
        push_display(&format_args!("{text:?}"), out);
    }
}

impl Line<'_> {
    fn push<S: Syntax>(&self, out: &mut Vec<u8>, syntax: &S) {
        out.extend_from_slice(S::OPEN.as_bytes());
        syntax.name("time", out);
        syntax.text(&now(), out);
        let texts = [
            ("peer", self.peer.map(|peer| peer.to_string())),
            ("client", self.client.map(|client| client.to_string())),
            ("connection", Some(self.connection.to_string())),
            ("transport", self.transport.map(str::to_owned)),
            ("path", self.path.map(str::to_owned)),
            ("reason", self.reason.map(str::to_owned)),
            ("sub", self.sub.map(str::to_owned)),
        ];
        for (name, text) in texts {
            if let Some(text) = text {
                out.push(S::SEPARATOR);
                syntax.name(name, out);
                syntax.text(&text, out);
            }
        }
        let duration_ms = u64::try_from(self.duration.as_millis()).unwrap_or(u64::MAX);
        let numbers = [
            ("status", self.status.map(u64::from)),
            ("duration_ms", Some(duration_ms)),
            ("publications", Some(self.publications)),
            ("bytes", Some(self.bytes)),
        ];
        for (name, number) in numbers {
            if let Some(number) = number {
                out.push(S::SEPARATOR);
                syntax.name(name, out);
                push_display(&number, out);
            }
        }
        out.extend_from_slice(S::CLOSE.as_bytes());
    }
}

/// Returns the time in UTC (RFC 3339).
fn now() -> String {
    let mut text = String::new();
    let formatted = SystemTime.format_time(&mut Writer::new(&mut text));
    debug_assert!(formatted.is_ok(), "writing to a string cannot fail");
    text
}

#[cfg(test)]
mod tests {
    use std::io;

    use crossbeam_channel::{Receiver, bounded};

    use super::*;
    use crate::id::RunId;

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
            status: Some(101),
            reason: Some("done"),
            duration: Duration::from_millis(1_500),
            publications: 7,
            bytes: 900,
            sub: Some(sub),
        }
    }

    fn pushed<S: Syntax>(line: Line<'_>, syntax: &S) -> String {
        let mut out = Vec::new();
        line.push(&mut out, syntax);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn control_characters_do_not_end_a_line() {
        let line = line("/ws?a=\"", "eve\nreason=\"done\"\u{1b}[2J");
        for text in [pushed(line, &Json), pushed(line, &Logfmt)] {
            let (text, rest) = text.split_once('\n').unwrap();
            assert!(rest.is_empty() && !text.contains('\u{1b}'), "{text}");
        }
        let json: serde_json::Value = serde_json::from_str(&pushed(line, &Json)).unwrap();
        assert_eq!(json["sub"], "eve\nreason=\"done\"\u{1b}[2J");
        assert_eq!(
            (&json["bytes"], &json["status"]),
            (&900.into(), &101.into())
        );
        let logfmt = pushed(line, &Logfmt);
        assert!(logfmt.contains(r#" path="/ws?a=\"" "#), "{logfmt}");
        assert!(
            logfmt.ends_with(" duration_ms=1500 publications=7 bytes=900\n"),
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
    fn full_queue_drops_and_counts_lines_without_waiting() {
        let (release, stuck) = bounded::<()>(0);
        let logging = Logging {
            access: AccessFormat::Json,
            ..Logging::default()
        };
        let (mut log, guard) = AccessLog::start(&logging, Stuck(stuck)).unwrap();
        for _ in 0..ACCESS_LINES_MAX + 100 {
            log.write(&line("/", "a"));
        }
        // The thread has taken at most one line from the queue.
        assert!((99..=100).contains(&log.dropped()), "{}", log.dropped());
        drop(release);
        drop(guard);
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
            let (log, _guard) = AccessLog::start(&logging, io::sink()).unwrap();
            let draws = [0, u64::MAX / 2 + 9, u64::MAX];
            assert_eq!(draws.map(|draw| log.is_sampled(draw)), sampled, "{sample}");
        }
        assert!(AccessLog::start(&Logging::default(), io::sink()).is_none());
    }
}
