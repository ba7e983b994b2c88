//! `fanfare publish --ack`: publishes each line of the input once, over several connections if
//! necessary.
//!
//! SHELL: the code runs threads and connections. Each line has an idempotency key and stays in the
//! [`SendWindow`] until the feed has answered the line. If the connection ends before the answer,
//! the unanswered lines are sent again on the next connection. If the feed has already published
//! such a line, it recognises the key. It then answers with the same id and does not publish the
//! line twice. The feed remembers a key for a limited time; with a journal, also after a restart.
//! One thread reads the input, one thread writes and one thread reads answers. If the feed stays
//! unreachable, the command fails without waiting for more input.

use std::io::{self, BufRead, BufReader, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::send_window::{SendWindow, Taken};
use super::{ANSWER_BYTES_MAX, Answer, BUFFER_BYTES, Exchange, Put, Sent};
use crate::cli::Failure;
use crate::cli::lines::{self, LineRead};
use fanfare::config::limits::DEDUPE_WINDOW_MS;

/// The maximum time for which the feed may be unreachable. After this time, the command fails.
pub(super) const RECONNECT_TIME: Duration = Duration::from_secs(60);
/// A line is sent again only within this time after it was first sent. Later, the feed may have
/// forgotten the line's idempotency key, and would publish the line twice.
const RESEND_MAX: Duration = Duration::from_millis(DEDUPE_WINDOW_MS - 10_000);
/// The shortest and the longest pause between two connection attempts. The pause doubles each time.
const PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));
/// If a connection lasts this long, the outage counts as ended, even if no answer has arrived.
const STEADY: Duration = Duration::from_secs(5);

/// The acknowledgement of one publication, as a line of output in JSON.
#[derive(Serialize)]
struct Acknowledged<'a> {
    line: u64,
    id: &'a str,
    subscribers: u64,
}

/// Publishes the lines of `input`, and prints the acknowledgements.
pub(super) fn run(
    exchange: &Arc<Exchange>,
    stream: UnixStream,
    feed: FeedAddress<'_>,
    input: impl FnOnce(&Exchange, Put<'_>) -> Result<Sent, Failure> + Send + 'static,
    out: &mut impl Write,
) -> Result<(), Failure> {
    let window = Arc::new(SendWindow::default());
    let reader = {
        let (window, exchange) = (Arc::clone(&window), Arc::clone(exchange));
        thread::spawn(move || {
            let sent = input(&exchange, &mut |number, wire, _| window.push(number, wire));
            window.finish();
            sent
        })
    };
    let mut resender = Resender {
        exchange,
        window: &window,
        feed,
        out,
        refused: 0,
        outage: None,
    };
    let ended = resender.run(stream);
    let refused = resender.refused;
    window.abandon();
    exchange.bar.finish_and_clear();
    // The thread that reads the input is joined only after success. After a failure, it may wait
    // for input for ever.
    ended?;
    let sent = reader
        .join()
        .map_err(|_panic| anyhow::anyhow!("the thread that reads the input panicked"))??;
    if sent.unfit > 0 || refused > 0 {
        return Err(Failure::Reported);
    }
    Ok(())
}

/// The path of the feed's socket, and the time after which the client stops trying to reconnect.
#[derive(Clone, Copy, Debug)]
pub(super) struct FeedAddress<'a> {
    pub(super) path: &'a Path,
    pub(super) reconnect_time: Duration,
}

struct Resender<'a, W> {
    exchange: &'a Exchange,
    window: &'a SendWindow,
    feed: FeedAddress<'a>,
    out: &'a mut W,
    refused: u64,
    /// The start of the feed's current outage, and the pause before the next connection attempt.
    outage: Option<(Instant, Duration)>,
}

impl<W: Write> Resender<'_, W> {
    fn run(&mut self, first: UnixStream) -> Result<(), Failure> {
        let mut stream = first;
        loop {
            let begun = Instant::now();
            let answers = self.send_window(&stream)?;
            if self.window.is_done() {
                return Ok(());
            }
            if answers > 0 || begun.elapsed() > STEADY {
                self.outage = None;
            }
            stream = self.reconnect()?;
            self.check_age()?;
        }
    }

    /// Sends the lines in the window, which are unacknowledged, and reads answers until the
    /// connection ends. Returns the number of answers.
    fn send_window(&mut self, stream: &UnixStream) -> Result<u64, Failure> {
        let window = self.window;
        window.rewind();
        thread::scope(|scope| {
            let writer = scope.spawn(|| write_lines(window, stream));
            let answers = self.read_answers(stream);
            window.hang_up();
            // An error is ignored. It means that the feed has already closed the connection.
            let _ended = stream.shutdown(Shutdown::Both);
            let written = writer.join();
            written.map_err(|_panic| anyhow::anyhow!("the thread that sends lines panicked"))?;
            answers
        })
    }

    fn read_answers(&mut self, stream: &UnixStream) -> Result<u64, Failure> {
        let mut reader = BufReader::with_capacity(BUFFER_BYTES, stream);
        let mut line = Vec::new();
        for answers in 0.. {
            match lines::read(&mut reader, ANSWER_BYTES_MAX, &mut line) {
                Ok(LineRead::Line) => {}
                // A read error is also an end: a feed that exits may reset the connection instead
                // of closing it.
                Ok(LineRead::End) | Err(_) => return Ok(answers),
                Ok(LineRead::TooLong) => line.clear(),
            }
            let answer = serde_json::from_slice::<Answer<'_>>(&line);
            match answer {
                // An answer with line 0 belongs to no line: the feed refuses the connection.
                Ok(answer) if !answer.ok && answer.line == 0 => {
                    self.exchange.print_error(&answer.refusal(0));
                    return Ok(answers);
                }
                Ok(answer) if answer.line == answers + 1 => self.take(&answer)?,
                // The feed was killed while it wrote this answer. So the answer is incomplete and
                // is ignored.
                Err(_) if has_ended(&mut reader) => return Ok(answers),
                Ok(_) | Err(_) => return Err(unexpected(&line)),
            }
        }
        Ok(u64::MAX)
    }

    fn take(&mut self, answer: &Answer<'_>) -> Result<(), Failure> {
        let Some(line) = self.window.answered() else {
            return Err(Failure::Running(anyhow::anyhow!(
                "the feed answered a line that was not sent"
            )));
        };
        if !answer.ok {
            self.refused += 1;
            self.exchange.print_error(&answer.refusal(line));
            return Ok(());
        }
        let acknowledged = Acknowledged {
            line,
            id: answer.id.as_deref().unwrap_or_default(),
            subscribers: answer.subscribers.unwrap_or(0),
        };
        self.print(&acknowledged).map_err(Failure::of_output)
    }

    fn print(&mut self, acknowledged: &Acknowledged<'_>) -> io::Result<()> {
        let mut line = serde_json::to_vec(acknowledged)?;
        line.push(b'\n');
        self.out.write_all(&line)?;
        self.out.flush()
    }

    /// Connects to the feed again, with pauses between the attempts.
    fn reconnect(&mut self) -> Result<UnixStream, Failure> {
        if self.outage.is_none() {
            self.exchange
                .print_error("the feed closed the connection: trying again");
        }
        let mut reported = None;
        loop {
            let fresh = || (Instant::now(), PAUSE.0);
            let (since, pause) = self.outage.unwrap_or_else(fresh);
            if since.elapsed() > self.feed.reconnect_time {
                let limit = self.feed.reconnect_time.as_secs_f64();
                return Err(self.give_up(&format!("no answer from the feed for {limit} s")));
            }
            thread::sleep(pause);
            self.outage = Some((since, (pause * 2).min(PAUSE.1)));
            let error = match UnixStream::connect(self.feed.path) {
                Ok(stream) => return Ok(stream),
                Err(error) => error,
            };
            if reported != Some(error.kind()) {
                reported = Some(error.kind());
                let path = self.feed.path.display();
                self.exchange
                    .print_error(&format!("cannot connect to the feed {path}: {error}"));
            }
        }
    }

    /// Returns an error if the oldest line is too old to be sent again, because the feed may have
    /// forgotten the line's idempotency key.
    fn check_age(&self) -> Result<(), Failure> {
        let oldest = self.window.oldest().and_then(|(_, first_sent)| first_sent);
        if oldest.is_some_and(|first_sent| first_sent.elapsed() > RESEND_MAX) {
            let age = RESEND_MAX.as_secs();
            let reason =
                format!("not sent again after {age} s, since the feed may publish it twice");
            return Err(self.give_up(&reason));
        }
        Ok(())
    }

    fn give_up(&self, reason: &str) -> Failure {
        Failure::Running(match self.window.oldest() {
            Some((line, _)) => anyhow::anyhow!(
                "{reason}: line {line} and later lines are not acknowledged; they may or may not \
                 be published"
            ),
            None => anyhow::anyhow!("{reason}: all lines so far are acknowledged"),
        })
    }
}

fn has_ended(reader: &mut impl BufRead) -> bool {
    reader.fill_buf().map_or(true, <[u8]>::is_empty)
}

fn unexpected(line: &[u8]) -> Failure {
    let line = String::from_utf8_lossy(line);
    Failure::Running(anyhow::anyhow!("unexpected answer of the feed: {line}"))
}

/// Sends lines from the window until the input or the connection ends. A write error is not
/// reported here, because the thread that reads the answers notices the end of the connection.
fn write_lines(window: &SendWindow, mut stream: &UnixStream) {
    let mut wire = Vec::new();
    loop {
        wire.clear();
        match window.take(&mut wire) {
            Taken::Lines if stream.write_all(&wire).is_ok() => {}
            Taken::End => {
                let _ended = stream.shutdown(Shutdown::Write);
                return;
            }
            Taken::Lines | Taken::HungUp => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::thread::JoinHandle;

    use indicatif::ProgressBar;

    use super::super::tests::args;
    use super::super::{Template, connect};
    use super::*;

    /// Starts a fake feed that accepts consecutive connections and answers each line with the
    /// result of `answer`. If the result is `None`, the fake feed closes the connection. Returns
    /// the lines of each connection.
    fn feed(
        path: &Path,
        conns: usize,
        answer: impl Fn(usize, usize) -> Option<String> + Send + 'static,
    ) -> JoinHandle<Vec<Vec<String>>> {
        let listener = UnixListener::bind(path).unwrap();
        thread::spawn(move || {
            let mut seen = Vec::new();
            for conn in 0..conns {
                let (stream, _) = listener.accept().unwrap();
                let mut writer = stream.try_clone().unwrap();
                let mut lines = Vec::new();
                for line in BufReader::new(stream).lines() {
                    lines.push(line.unwrap());
                    match answer(conn, lines.len()) {
                        Some(answer) => writer.write_all(answer.as_bytes()).unwrap(),
                        None => break,
                    }
                }
                seen.push(lines);
            }
            seen
        })
    }

    fn ok(line: usize) -> Option<String> {
        Some(format!(
            "{{\"ok\":true,\"line\":{line},\"id\":\"a-{line}\",\"subscribers\":3}}\n"
        ))
    }

    fn publish(
        input: &'static str,
        conns: usize,
        answer: impl Fn(usize, usize) -> Option<String> + Send + 'static,
    ) -> (Result<(), Failure>, String, Vec<Vec<String>>) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("feed.sock");
        let feed = feed(&path, conns, answer);
        let template = Template::new(&args(true, false), Some("run"));
        let exchange = Arc::new(Exchange::new(template, ProgressBar::hidden()));
        let stream = connect(&path).unwrap();
        let address = FeedAddress {
            path: &path,
            reconnect_time: Duration::from_millis(300),
        };
        let mut out = Vec::new();
        let read = |exchange: &Exchange, put: Put<'_>| {
            exchange.read_lines(BufReader::new(input.as_bytes()), put)
        };
        let ended = run(&exchange, stream, address, read, &mut out);
        (ended, String::from_utf8(out).unwrap(), feed.join().unwrap())
    }

    #[test]
    fn publish_sends_each_line_and_prints_acknowledgements() {
        let (ended, out, lines) = publish("1\n\n2\n", 1, |_, line| ok(line));
        assert!(ended.is_ok());
        assert_eq!(
            out,
            "{\"line\":1,\"id\":\"a-1\",\"subscribers\":3}\n\
             {\"line\":3,\"id\":\"a-2\",\"subscribers\":3}\n"
        );
        assert_eq!(lines[0].len(), 2);
        assert!(lines[0][1].contains("\"dedupe\":\"run-3\""));
    }

    #[test]
    fn publish_resends_unacknowledged_lines_with_the_same_keys() {
        let (ended, out, lines) = publish("1\n2\n3\n", 3, |conn, line| match (conn, line) {
            (0, 1) | (2, _) => ok(line),
            _ => None,
        });
        assert!(ended.is_ok());
        assert_eq!(out.lines().count(), 3);
        assert_eq!(lines[1][0], lines[0][1]);
        assert_eq!(lines[2].len(), 2);
        assert_eq!(lines[2][0], lines[0][1]);
    }

    #[test]
    fn publish_resends_a_line_with_a_truncated_answer() {
        let (ended, out, lines) = publish("1\n2\n", 2, |conn, line| match (conn, line) {
            (0, 2) => Some(String::from("{\"ok\":true,\"li")),
            (0, 3) => None,
            _ => ok(line),
        });
        assert!(ended.is_ok(), "{ended:?}");
        assert_eq!((out.lines().count(), lines[1].len()), (2, 1));
        assert_eq!(lines[1][0], lines[0][1]);
    }

    #[test]
    fn publish_continues_after_a_refused_line_and_fails_at_the_end() {
        let (ended, out, lines) = publish("1\n2\n", 1, |_, line| match line {
            1 => Some("{\"ok\":false,\"line\":1,\"error\":\"x\",\"message\":\"y\"}\n".into()),
            _ => ok(line),
        });
        assert!(matches!(ended, Err(Failure::Reported)));
        assert_eq!((out.lines().count(), lines[0].len()), (1, 2));
    }

    #[test]
    fn publish_gives_up_when_the_feed_stays_unreachable() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("feed.sock");
        let feed = feed(&path, 1, |_, _| None);
        let template = Template::new(&args(true, false), Some("run"));
        let exchange = Arc::new(Exchange::new(template, ProgressBar::hidden()));
        let stream = connect(&path).unwrap();
        let address = FeedAddress {
            path: &path,
            reconnect_time: Duration::from_millis(100),
        };
        // The input does not end, but `run` must return without waiting for its end.
        let (_writer, idle) = io::pipe().map(|(read, write)| (write, read)).unwrap();
        let read = |exchange: &Exchange, put: Put<'_>| {
            put(7, b"{}\n", true).unwrap();
            exchange.read_lines(BufReader::new(idle), put)
        };
        let ended = run(&exchange, stream, address, read, &mut Vec::new());
        let message = ended.unwrap_err().to_string();
        assert!(message.contains("for 0.1 s: line 7"), "{message}");
        feed.join().unwrap();
    }

    #[test]
    fn answer_out_of_place_is_an_error() {
        let (ended, _, _) = publish("1\n", 1, |_, _| ok(2));
        let message = ended.unwrap_err().to_string();
        assert!(message.contains("unexpected answer"), "{message}");
    }

    #[test]
    fn publish_reads_answers_while_it_writes() {
        // The lines and the answers are each larger than the buffers of a socket. So a client that
        // wrote all lines before it read an answer would block.
        let input: &'static str = Box::leak("12345678\n".repeat(50_000).into_boxed_str());
        let (ended, out, lines) = publish(input, 1, |_, line| ok(line));
        assert!(ended.is_ok());
        assert_eq!((lines[0].len(), out.lines().count()), (50_000, 50_000));
    }
}
