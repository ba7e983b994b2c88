//! `fanfare publish --ack`: every line of the input once, over as many conns as it takes.
//!
//! SHELL. Each line has an idempotency key of its own, and stays in the [`Window`] until it is
//! answered. When the conn ends before that, what is left is sent again on the next one; a feed
//! that had taken a line already answers with the id of then. This holds as long as the feed
//! remembers keys, over a restart if it has a journal. One thread reads the input, one writes and
//! one reads answers; whoever gives up does not wait for the input.

use std::io::{self, BufRead, BufReader, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::send_window::{Taken, Window};
use super::{ANSWER_BYTES_MAX, Answer, BUFFER_BYTES, Exchange, Put, Sent};
use crate::cli::Failure;
use crate::cli::lines::{self, LineRead};
use fanfare::config::limits::DEDUPE_WINDOW_MS;

/// For how long a feed may be gone.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);
/// A line that was sent so long ago is not sent again: the feed may have forgotten its key.
const RESEND_MAX: Duration = Duration::from_millis(DEDUPE_WINDOW_MS - 10_000);
/// The pause before the first and, doubled each time, before the last attempt to connect.
const PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));
/// A conn that has lasted so long was a good one, although nothing was asked of it.
const STEADY: Duration = Duration::from_secs(5);

/// What `--ack` prints.
#[derive(Serialize)]
struct Acknowledged<'a> {
    line: u64,
    id: &'a str,
    subscribers: u64,
}

/// Publishes what `input` puts, and prints what the feed acknowledges.
pub(super) fn run(
    exchange: &Arc<Exchange>,
    stream: UnixStream,
    way: Way<'_>,
    input: impl FnOnce(&Exchange, Put<'_>) -> Result<Sent, Failure> + Send + 'static,
    out: &mut impl Write,
) -> Result<(), Failure> {
    let window = Arc::new(Window::default());
    let reader = {
        let (window, exchange) = (Arc::clone(&window), Arc::clone(exchange));
        thread::spawn(move || {
            let sent = input(&exchange, &mut |number, wire, _| window.push(number, wire));
            window.finish();
            sent
        })
    };
    let mut courier = Courier {
        exchange,
        window: &window,
        way,
        out,
        refused: 0,
        trouble: None,
    };
    let carried = courier.run(stream);
    let refused = courier.refused;
    window.abandon();
    exchange.bar.finish_and_clear();
    // The reader may wait for input that never comes, so it is only waited for when it has ended.
    carried?;
    let sent = reader
        .join()
        .map_err(|_panic| anyhow::anyhow!("the thread that reads the input failed"))??;
    if sent.unfit > 0 || refused > 0 {
        return Err(Failure::Told);
    }
    Ok(())
}

/// How to come to the feed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Way<'a> {
    pub(super) path: &'a Path,
    pub(super) patience: Duration,
}

struct Courier<'a, W> {
    exchange: &'a Exchange,
    window: &'a Window,
    way: Way<'a>,
    out: &'a mut W,
    refused: u64,
    /// Since when no conn has been of use, and the next pause.
    trouble: Option<(Instant, Duration)>,
}

impl<W: Write> Courier<'_, W> {
    fn run(&mut self, first: UnixStream) -> Result<(), Failure> {
        let mut stream = first;
        loop {
            let begun = Instant::now();
            let answers = self.carry(&stream)?;
            if self.window.is_done() {
                return Ok(());
            }
            if answers > 0 || begun.elapsed() > STEADY {
                self.trouble = None;
            }
            stream = self.connect_again()?;
            self.check_age()?;
        }
    }

    /// Sends and reads until the conn ends; the number of answers.
    fn carry(&mut self, stream: &UnixStream) -> Result<u64, Failure> {
        let window = self.window;
        window.rewind();
        thread::scope(|scope| {
            let writer = scope.spawn(|| write_lines(window, stream));
            let answers = self.read_answers(stream);
            window.hang_up();
            // Fails where the feed has hung up already, and then there is nothing to end.
            let _ended = stream.shutdown(Shutdown::Both);
            let written = writer.join();
            written.map_err(|_panic| anyhow::anyhow!("the thread that sends lines failed"))?;
            answers
        })
    }

    fn read_answers(&mut self, stream: &UnixStream) -> Result<u64, Failure> {
        let mut reader = BufReader::with_capacity(BUFFER_BYTES, stream);
        let mut line = Vec::new();
        for answers in 0.. {
            match lines::read(&mut reader, ANSWER_BYTES_MAX, &mut line) {
                Ok(LineRead::Line) => {}
                // A feed that ends may reset the conn instead of closing it.
                Ok(LineRead::End) | Err(_) => return Ok(answers),
                Ok(LineRead::TooLong) => line.clear(),
            }
            let answer = serde_json::from_slice::<Answer<'_>>(&line);
            match answer {
                // Not about a line: the feed does not want this conn.
                Ok(answer) if !answer.ok && answer.line == 0 => {
                    self.exchange.tell(&answer.refusal(0));
                    return Ok(answers);
                }
                Ok(answer) if answer.line == answers + 1 => self.take(&answer)?,
                // Killed in the middle of an answer, which then counts for nothing.
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
            self.exchange.tell(&answer.refusal(line));
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

    /// The next conn.
    fn connect_again(&mut self) -> Result<UnixStream, Failure> {
        if self.trouble.is_none() {
            self.exchange
                .tell("the feed closed the connection: trying again");
        }
        let mut told = None;
        loop {
            let fresh = || (Instant::now(), PAUSE.0);
            let (since, pause) = self.trouble.unwrap_or_else(fresh);
            if since.elapsed() > self.way.patience {
                return Err(self.give_up("the feed did not come back"));
            }
            thread::sleep(pause);
            self.trouble = Some((since, (pause * 2).min(PAUSE.1)));
            let error = match UnixStream::connect(self.way.path) {
                Ok(stream) => return Ok(stream),
                Err(error) => error,
            };
            if told != Some(error.kind()) {
                told = Some(error.kind());
                let path = self.way.path.display();
                self.exchange
                    .tell(&format!("cannot connect to the feed {path}: {error}"));
            }
        }
    }

    /// Refuses to send again what the feed may not recognise.
    fn check_age(&self) -> Result<(), Failure> {
        let oldest = self.window.oldest().and_then(|(_, first_sent)| first_sent);
        if oldest.is_some_and(|first_sent| first_sent.elapsed() > RESEND_MAX) {
            return Err(self.give_up("what was sent is too old to be sent again without doubling"));
        }
        Ok(())
    }

    fn give_up(&self, why: &str) -> Failure {
        Failure::Running(match self.window.oldest() {
            Some((line, _)) => anyhow::anyhow!(
                "{why}: line {line} and those after it are not acknowledged, and may or may not be \
                 published"
            ),
            None => anyhow::anyhow!("{why}: every line so far was acknowledged"),
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

/// Sends what the window has. Why that ended is told by the answers.
fn write_lines(window: &Window, mut stream: &UnixStream) {
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

    /// A feed that takes conn after conn and answers each line of each as told, and hangs up when
    /// told `None`; returns the lines of every conn.
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
        let way = Way {
            path: &path,
            patience: Duration::from_millis(300),
        };
        let mut out = Vec::new();
        let read = |exchange: &Exchange, put: Put<'_>| {
            exchange.read_lines(BufReader::new(input.as_bytes()), put)
        };
        let ended = run(&exchange, stream, way, read, &mut out);
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
    fn publish_sends_again_with_the_same_keys_what_was_not_acknowledged() {
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
    fn publish_sends_again_what_was_answered_only_in_part() {
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
    fn publish_goes_on_behind_a_refused_line_and_fails_at_the_end() {
        let (ended, out, lines) = publish("1\n2\n", 1, |_, line| match line {
            1 => Some("{\"ok\":false,\"line\":1,\"error\":\"x\",\"message\":\"y\"}\n".into()),
            _ => ok(line),
        });
        assert!(matches!(ended, Err(Failure::Told)));
        assert_eq!((out.lines().count(), lines[0].len()), (1, 2));
    }

    #[test]
    fn publish_gives_up_when_no_conn_brings_an_answer() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("feed.sock");
        let feed = feed(&path, 1, |_, _| None);
        let template = Template::new(&args(true, false), Some("run"));
        let exchange = Arc::new(Exchange::new(template, ProgressBar::hidden()));
        let stream = connect(&path).unwrap();
        let way = Way {
            path: &path,
            patience: Duration::from_millis(100),
        };
        // Input that does not end: nobody waits for it.
        let (_writer, idle) = io::pipe().map(|(read, write)| (write, read)).unwrap();
        let read = |exchange: &Exchange, put: Put<'_>| {
            put(7, b"{}\n", true).unwrap();
            exchange.read_lines(BufReader::new(idle), put)
        };
        let ended = run(&exchange, stream, way, read, &mut Vec::new());
        let message = ended.unwrap_err().to_string();
        assert!(message.contains("did not come back: line 7"), "{message}");
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
        // More of both than the buffers of a socket hold.
        let input: &'static str = Box::leak("12345678\n".repeat(50_000).into_boxed_str());
        let (ended, out, lines) = publish(input, 1, |_, line| ok(line));
        assert!(ended.is_ok());
        assert_eq!((lines[0].len(), out.lines().count()), (50_000, 50_000));
    }
}
