//! `fanfare publish`: sends one publication, or each line of standard input, to the feed.
//!
//! Two threads use blocking calls: this thread writes lines, the other thread reads the answers. So
//! there is no deadlock with a feed that stops reading until its answers are read. A line that
//! cannot be sent is reported and skipped. After the last line, the write direction is shut down.
//! Answers are read until the feed closes the connection, so that late errors are reported too.
//! With `--ack`, [`resend`] does the same, and sends unacknowledged lines again after a reconnect.

mod resend;
mod send_window;
mod template;

use std::borrow::Cow;
use std::io::{self, BufReader, BufWriter, IsTerminal as _, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use indicatif::{ProgressBar, ProgressStyle};
use serde::Deserialize;

use super::args::PublishArgs;
use super::lines::{self, LineRead};
use super::{Failure, print_error};
use fanfare::config::file;
use resend::FeedAddress;
use template::{LINE_BYTES_MAX, PayloadError, Template};

/// The maximum length of a feed's answer, in bytes.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// Size of the read and write buffers, in bytes.
const BUFFER_BYTES: usize = 64 * 1024;
/// The feed socket of the packaged service, used if the default path does not exist.
const SERVICE_FEED: &str = "/run/fanfare/feed.sock";

/// Publishes the argument, or each line of standard input.
pub(super) fn run(args: &PublishArgs) -> Result<(), Failure> {
    let run = match args.ack {
        true => Some(run_name()?),
        false => None,
    };
    let template = Template::new(args, run.as_deref());
    let mut out = io::stdout();
    let path = feed_path(args);
    let mut only = None;
    if let Some(data) = &args.data {
        let mut line = Vec::new();
        template.push_line(1, data.as_bytes(), &mut line)?;
        only = Some(line);
    }
    let exchange = Arc::new(Exchange::new(template, progress(args)));
    let stream = connect(&path)?;
    let read = move |exchange: &Exchange, put: Put<'_>| match only {
        Some(line) => put_one(&line, put),
        None => exchange.read_lines(BufReader::with_capacity(BUFFER_BYTES, io::stdin()), put),
    };
    if args.ack {
        let feed = FeedAddress {
            path: &path,
            reconnect_time: resend::RECONNECT_TIME,
        };
        return resend::run(&exchange, stream, feed, read, &mut out);
    }
    exchange.run(&stream, |put| read(&exchange, put))
}

/// Returns the random prefix of this run's idempotency keys.
fn run_name() -> Result<String, Failure> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)
        .map_err(|e| anyhow::Error::new(e).context("cannot get random bytes from the system"))?;
    Ok(format!("{:032x}", u128::from_ne_bytes(bytes)))
}

fn feed_path(args: &PublishArgs) -> PathBuf {
    if let Some(path) = args
        .feed
        .as_ref()
        .filter(|path| !path.as_os_str().is_empty())
    {
        return path.clone();
    }
    let own = file::default_feed_path();
    let service = Path::new(SERVICE_FEED);
    if !own.exists() && service.exists() {
        return service.to_path_buf();
    }
    own
}

fn connect(path: &Path) -> Result<UnixStream, Failure> {
    UnixStream::connect(path).map_err(|error| {
        let shown = path.display();
        let advice = match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                "no server listens there; start `fanfare serve`, or name another socket with \
                 --feed or FANFARE_FEED"
            }
            io::ErrorKind::PermissionDenied => {
                "its access mode forbids it; join the group of the feed (feed_group)"
            }
            _ => "cannot connect",
        };
        Failure::Running(anyhow::Error::new(error).context(format!("feed {shown}: {advice}")))
    })
}

/// Creates a progress bar for a file, or a counter for a pipe. The bar is hidden for a single
/// publication, if standard input is a terminal, and if acknowledgements are printed on the
/// terminal.
fn progress(args: &PublishArgs) -> ProgressBar {
    let prints_here = args.ack && io::stdout().is_terminal();
    if args.data.is_some() || prints_here || io::stdin().is_terminal() {
        return ProgressBar::hidden();
    }
    let length = std::fs::metadata("/dev/stdin").ok();
    let length = length.filter(std::fs::Metadata::is_file).map(|m| m.len());
    let (bar, style) = match length {
        Some(length) => (
            ProgressBar::new(length),
            "{bar:30} {bytes}/{total_bytes} {bytes_per_sec} {msg}",
        ),
        None => (
            ProgressBar::new_spinner(),
            "{spinner} {bytes} {bytes_per_sec} {msg}",
        ),
    };
    let style = ProgressStyle::with_template(style);
    debug_assert!(style.is_ok(), "both styles are valid");
    match style {
        Ok(style) => bar.with_style(style),
        Err(_invalid) => bar,
    }
}

/// One answer of the feed, as JSON.
#[derive(Deserialize)]
struct Answer<'a> {
    ok: bool,
    #[serde(default)]
    line: u64,
    #[serde(borrow)]
    id: Option<Cow<'a, str>>,
    subscribers: Option<u64>,
    #[serde(borrow)]
    error: Option<Cow<'a, str>>,
    #[serde(borrow)]
    message: Option<Cow<'a, str>>,
}

impl Answer<'_> {
    fn refusal(&self, line: u64) -> String {
        let code = self.error.as_deref().unwrap_or("error");
        let message = self.message.as_deref().unwrap_or("refused");
        match line {
            0 => format!("the feed: {message} ({code})"),
            _ => format!("line {line}: {message} ({code})"),
        }
    }
}

/// Sends one line. The arguments are the line's number in the input, the bytes for the feed, and
/// whether to send immediately because no further line is buffered.
type Put<'a> = &'a mut dyn FnMut(u64, &[u8], bool) -> io::Result<()>;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sent {
    lines: u64,
    /// The number of input lines that could not be sent.
    unfit: u64,
    /// Whether the feed closed the connection before all lines were sent.
    is_cut: bool,
}

/// The state that two threads share: one writes lines to the feed, and the other reads the answers.
struct Exchange {
    template: Template,
    /// The numbers of the input lines that were not sent. The feed counts only the lines that it
    /// receives. So these numbers are needed to find the input line to which an answer belongs.
    skipped: Mutex<Vec<u64>>,
    bar: ProgressBar,
}

impl Exchange {
    fn new(template: Template, bar: ProgressBar) -> Self {
        Self {
            template,
            skipped: Mutex::default(),
            bar,
        }
    }

    /// Publishes the lines of `input` without `--ack`. In this case, the feed answers only the
    /// lines that it refuses.
    fn run(
        &self,
        stream: &UnixStream,
        input: impl FnOnce(Put<'_>) -> Result<Sent, Failure>,
    ) -> Result<(), Failure> {
        let (sent, refused) = std::thread::scope(|scope| {
            let reader = scope.spawn(|| self.read_refusals(stream));
            let sent = write_lines(stream, input);
            // An error is ignored. It means that the feed has already closed the connection.
            let _ended = stream.shutdown(Shutdown::Write);
            (sent, reader.join())
        });
        self.bar.finish_and_clear();
        let refused =
            refused.map_err(|_panic| anyhow::anyhow!("the thread that reads answers panicked"))?;
        let sent = sent?;
        if sent.is_cut {
            return Err(Failure::Running(anyhow::anyhow!(
                "the feed closed the connection after {} lines",
                sent.lines
            )));
        }
        if sent.unfit > 0 || refused > 0 {
            return Err(Failure::Reported);
        }
        Ok(())
    }

    /// Sends every valid line of the input.
    fn read_lines(&self, mut input: BufReader<impl Read>, put: Put<'_>) -> Result<Sent, Failure> {
        let (mut sent, mut line, mut wire) = (Sent::default(), Vec::new(), Vec::new());
        for number in 1u64.. {
            let read = lines::read(&mut input, LINE_BYTES_MAX, &mut line)
                .map_err(|e| anyhow::Error::new(e).context("cannot read standard input"))?;
            self.bar.inc(line.len() as u64 + 1);
            // Without --text, an empty line is a separator between publications. With --text, it is
            // an empty payload.
            let is_separator = line.is_empty() && !self.template.is_text();
            wire.clear();
            let fit = match read {
                LineRead::End => break,
                LineRead::Line if is_separator => {
                    self.skip(number);
                    continue;
                }
                LineRead::Line => self.template.push_line(number, &line, &mut wire),
                LineRead::TooLong => Err(PayloadError::TooLong),
            };
            if let Err(error) = fit {
                self.skip(number);
                sent.unfit += 1;
                self.print_error(&format!("line {number}: {error}"));
                continue;
            }
            // If no further line is buffered, this line is sent immediately, because the input may
            // be slow.
            match put(number, &wire, !input.buffer().contains(&b'\n')) {
                Ok(()) => sent.lines += 1,
                Err(error) => return cut(sent, error),
            }
        }
        Ok(sent)
    }

    /// Prints the errors that the feed sends, until it closes the connection. Returns the number of
    /// errors.
    fn read_refusals(&self, stream: &UnixStream) -> u64 {
        let mut reader = BufReader::with_capacity(BUFFER_BYTES, stream);
        let (mut refused, mut line) = (0, Vec::new());
        loop {
            match lines::read(&mut reader, ANSWER_BYTES_MAX, &mut line) {
                Ok(LineRead::Line) => {}
                // The feed has closed the connection. The read fails if the feed did so before it
                // had read all lines, because the kernel then resets the connection.
                Ok(LineRead::End) | Err(_) => return refused,
                Ok(LineRead::TooLong) => line.clear(),
            }
            refused += 1;
            match serde_json::from_slice::<Answer<'_>>(&line) {
                Ok(answer) => self.print_error(&answer.refusal(self.input_line(answer.line))),
                Err(_not_an_answer) => {
                    let shown = String::from_utf8_lossy(&line);
                    self.print_error(&format!("unexpected answer: {shown}"));
                }
            }
        }
    }

    fn skip(&self, number: u64) {
        if let Ok(mut skipped) = self.skipped.lock() {
            skipped.push(number);
        }
    }

    /// Returns the position in the input of a line whose number in the feed's answer is `sent`. The
    /// feed counts only the lines that it receives. Returns zero if `sent` is zero, because such an
    /// answer belongs to no line.
    fn input_line(&self, sent: u64) -> u64 {
        if sent == 0 {
            return 0;
        }
        let Ok(skipped) = self.skipped.lock() else {
            return sent;
        };
        skipped
            .iter()
            .fold(sent, |line, skipped| line + u64::from(*skipped <= line))
    }

    fn print_error(&self, line: &str) {
        self.bar.suspend(|| print_error(line));
    }
}

fn put_one(line: &[u8], put: Put<'_>) -> Result<Sent, Failure> {
    let sent = Sent::default();
    match put(1, line, true) {
        Ok(()) => Ok(Sent { lines: 1, ..sent }),
        Err(error) => cut(sent, error),
    }
}

/// Writes the lines of `input` through a buffer.
fn write_lines(
    stream: &UnixStream,
    input: impl FnOnce(Put<'_>) -> Result<Sent, Failure>,
) -> Result<Sent, Failure> {
    let mut writer = BufWriter::with_capacity(BUFFER_BYTES, stream);
    let sent = input(&mut |_, wire, is_last_at_hand| {
        writer.write_all(wire)?;
        match is_last_at_hand {
            true => writer.flush(),
            false => Ok(()),
        }
    })?;
    match writer.flush() {
        Ok(()) => Ok(sent),
        Err(error) => cut(sent, error),
    }
}

/// Handles a write error. If the feed has closed the connection, sets `is_cut` instead of returning
/// an error, because the feed's last answer usually gives the reason.
fn cut(sent: Sent, error: io::Error) -> Result<Sent, Failure> {
    match error.kind() {
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => Ok(Sent {
            is_cut: true,
            ..sent
        }),
        _ => Err(Failure::Running(
            anyhow::Error::new(error).context("cannot write to the feed"),
        )),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::os::unix::net::UnixListener;
    use std::thread::JoinHandle;

    use super::*;
    use fanfare::id::ChannelName;

    pub(super) fn args(has_ack: bool, is_text: bool) -> PublishArgs {
        PublishArgs {
            channel: ChannelName::new("prices").unwrap(),
            data: None,
            text: is_text,
            event: None,
            key: None,
            traceparent: None,
            ack: has_ack,
            feed: None,
        }
    }

    /// Starts a fake feed that accepts one connection and answers each line with the result of
    /// `answer`. Returns the received lines.
    fn feed(
        path: &Path,
        answer: impl Fn(usize) -> Option<&'static str> + Send + 'static,
    ) -> JoinHandle<Vec<String>> {
        let listener = UnixListener::bind(path).unwrap();
        std::thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let mut writer = stream.try_clone().unwrap();
            let mut lines = Vec::new();
            for line in io::BufRead::lines(BufReader::new(stream)) {
                lines.push(line.unwrap());
                if let Some(answer) = answer(lines.len()) {
                    writer.write_all(answer.as_bytes()).unwrap();
                }
            }
            lines
        })
    }

    fn publish(
        args: &PublishArgs,
        input: &'static str,
        answer: impl Fn(usize) -> Option<&'static str> + Send + 'static,
    ) -> (Result<(), Failure>, Vec<String>) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("feed.sock");
        let feed = feed(&path, answer);
        let exchange = Exchange::new(Template::new(args, None), ProgressBar::hidden());
        let stream = connect(&path).unwrap();
        let input = BufReader::new(input.as_bytes());
        let ended = exchange.run(&stream, |put| exchange.read_lines(input, put));
        (ended, feed.join().unwrap())
    }

    #[test]
    fn publish_sends_each_line() {
        let (ended, lines) = publish(&args(false, false), "1\n2\n", |_| None);
        assert!(ended.is_ok());
        assert_eq!(lines.len(), 2);
    }

    #[test]
    fn publish_skips_an_invalid_line_and_fails_at_the_end() {
        let (ended, lines) = publish(&args(false, false), "1\n\nnonsense\n2", |_| None);
        assert!(matches!(ended, Err(Failure::Reported)));
        assert_eq!(lines.len(), 2);
        assert!(lines[1].ends_with("\"data\":2}"));
    }

    #[test]
    fn publish_fails_when_the_feed_refuses_a_line() {
        let (ended, lines) = publish(&args(false, true), "a\n\n", |n| {
            (n == 2).then_some("{\"ok\":false,\"line\":2,\"error\":\"x\",\"message\":\"y\"}\n")
        });
        assert!(matches!(ended, Err(Failure::Reported)));
        assert_eq!(lines.len(), 2);
    }

    #[test]
    fn publish_fails_when_the_feed_closes_the_connection() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("feed.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let stream = connect(&path).unwrap();
        drop(listener.accept().unwrap());
        let sent = write_lines(&stream, |put| put_one(b"{}\n", put)).unwrap();
        assert!(sent.is_cut);
    }

    #[test]
    fn connect_error_names_the_socket_and_the_remedy() {
        let failure = connect(Path::new("/nonexistent/feed.sock")).unwrap_err();
        let text = failure.to_string();
        assert!(text.contains("/nonexistent/feed.sock"), "{text}");
        assert!(text.contains("fanfare serve"), "{text}");
    }

    #[test]
    fn line_numbers_are_those_of_the_input() {
        let template = Template::new(&args(false, false), None);
        let exchange = Exchange::new(template, ProgressBar::hidden());
        for skipped in [1, 3] {
            exchange.skip(skipped);
        }
        assert_eq!(exchange.input_line(0), 0);
        assert_eq!(exchange.input_line(1), 2);
        assert_eq!(exchange.input_line(2), 4);
        assert_eq!(exchange.input_line(3), 5);
    }
}
