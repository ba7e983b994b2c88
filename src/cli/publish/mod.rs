//! `fanfare publish`: sends one publication, or each line of standard input, to the feed.
//!
//! Blocking on both sides: this thread writes lines, a second one reads the answers, so that a feed
//! that stops reading until its answers are taken and we never wait for each other. A line that is
//! not fit to send costs that line alone. The end of our lines is told by shutting down the writing
//! half, and the end of the answers is the end of the conn, so late errors are seen too.

mod template;

use std::borrow::Cow;
use std::io::{self, BufReader, BufWriter, IsTerminal as _, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use indicatif::{ProgressBar, ProgressStyle};
use serde::{Deserialize, Serialize};

use super::args::PublishArgs;
use super::lines::{self, LineRead};
use super::{Failure, tell};
use crate::config::file;
use template::{LINE_BYTES_MAX, PayloadError, Template};

/// The longest answer of the feed that is understood.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// Bytes gathered before they are read or written.
const BUFFER_BYTES: usize = 64 * 1024;
/// Where the packaged service has its feed: tried when the user's own default is not there.
const SERVICE_FEED: &str = "/run/fanfare/feed.sock";

/// Publishes what the arguments and standard input say.
pub(super) fn run(args: &PublishArgs) -> Result<(), Failure> {
    let template = Template::new(args);
    let exchange = Exchange {
        template: &template,
        skipped: Mutex::default(),
        bar: progress(args),
    };
    let mut out = io::stdout();
    if let Some(data) = &args.data {
        let mut line = Vec::new();
        template.push_line(data.as_bytes(), &mut line)?;
        let stream = connect(&feed_path(args))?;
        return exchange.run(&stream, || send_line(&stream, &line), &mut out);
    }
    let stream = connect(&feed_path(args))?;
    let input = BufReader::with_capacity(BUFFER_BYTES, io::stdin());
    exchange.run(&stream, || exchange.send_lines(&stream, input), &mut out)
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
                "nobody listens there; is `fanfare serve` running? \
                 --feed or FANFARE_FEED names another socket"
            }
            io::ErrorKind::PermissionDenied => {
                "you may not open it; the feed's group (feed_group) may"
            }
            _ => "cannot connect",
        };
        Failure::Running(anyhow::Error::new(error).context(format!("feed {shown}: {advice}")))
    })
}

/// A bar for a file, a counter for a pipe, nothing where nobody watches or waits.
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
    // A style that does not parse would be our mistake, and the plain one serves as well.
    match ProgressStyle::with_template(style) {
        Ok(style) => bar.with_style(style),
        Err(_mistake) => bar,
    }
}

/// One answer of the feed.
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

/// What `--ack` prints.
#[derive(Serialize)]
struct Acknowledged<'a> {
    line: u64,
    id: &'a str,
    subscribers: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sent {
    lines: u64,
    /// Lines of the input that were not fit to send.
    unfit: u64,
    /// Whether the feed hung up on us.
    is_cut: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Answers {
    acknowledged: u64,
    refused: u64,
}

/// Both directions of one conn to the feed.
struct Exchange<'a> {
    template: &'a Template,
    /// Numbers of the input's lines that were not sent, so that the feed's numbers can be told as
    /// those of the input.
    skipped: Mutex<Vec<u64>>,
    bar: ProgressBar,
}

impl Exchange<'_> {
    fn run(
        &self,
        stream: &UnixStream,
        send: impl FnOnce() -> Result<Sent, Failure>,
        out: &mut (impl Write + Send),
    ) -> Result<(), Failure> {
        let (sent, answers) = std::thread::scope(|scope| {
            let reader = scope.spawn(|| self.read_answers(stream, out));
            let sent = send();
            // Fails where the feed has hung up already, and then there is nothing to end.
            let _ended = stream.shutdown(Shutdown::Write);
            let answers = reader.join();
            (sent, answers)
        });
        self.bar.finish_and_clear();
        let answers = answers
            .map_err(|_panic| anyhow::anyhow!("the thread that reads the answers failed"))??;
        let sent = sent?;
        self.verdict(sent, answers)
    }

    fn verdict(&self, sent: Sent, answers: Answers) -> Result<(), Failure> {
        let answered = answers.acknowledged + answers.refused;
        if sent.is_cut {
            return Err(Failure::Running(anyhow::anyhow!(
                "the feed closed the connection after {} lines",
                sent.lines
            )));
        }
        if sent.unfit > 0 || answers.refused > 0 {
            return Err(Failure::Told);
        }
        if self.template.has_ack() && answered < sent.lines {
            return Err(Failure::Running(anyhow::anyhow!(
                "the feed acknowledged {answered} of {} publications",
                sent.lines
            )));
        }
        Ok(())
    }

    fn send_lines(
        &self,
        stream: &UnixStream,
        mut input: BufReader<impl Read>,
    ) -> Result<Sent, Failure> {
        let mut writer = BufWriter::with_capacity(BUFFER_BYTES, stream);
        let (mut sent, mut line, mut wire) = (Sent::default(), Vec::new(), Vec::new());
        for number in 1u64.. {
            let read = lines::read(&mut input, LINE_BYTES_MAX, &mut line)
                .map_err(|e| anyhow::Error::new(e).context("cannot read standard input"))?;
            self.bar.inc(line.len() as u64 + 1);
            // A line with nothing in it is a separator, but an empty text is a text.
            let is_separator = line.is_empty() && !self.template.is_text();
            wire.clear();
            let fit = match read {
                LineRead::End => break,
                LineRead::Line if is_separator => {
                    self.skip(number);
                    continue;
                }
                LineRead::Line => self.template.push_line(&line, &mut wire),
                LineRead::TooLong => Err(PayloadError::TooLong),
            };
            if let Err(fault) = fit {
                self.skip(number);
                sent.unfit += 1;
                self.tell(&format!("line {number}: {fault}"));
                continue;
            }
            let mut written = writer.write_all(&wire);
            // Whoever types or pipes slowly wants each line out when it is complete.
            if written.is_ok() && !input.buffer().contains(&b'\n') {
                written = writer.flush();
            }
            match written {
                Ok(()) => sent.lines += 1,
                Err(error) => return cut(sent, error),
            }
        }
        match writer.flush() {
            Ok(()) => Ok(sent),
            Err(error) => cut(sent, error),
        }
    }

    /// Prints acknowledgements and errors until the feed has no more of them.
    fn read_answers(&self, stream: &UnixStream, out: &mut impl Write) -> Result<Answers, Failure> {
        let mut reader = BufReader::with_capacity(BUFFER_BYTES, stream);
        let (mut answers, mut line) = (Answers::default(), Vec::new());
        let mut output = Ok(());
        loop {
            match lines::read(&mut reader, ANSWER_BYTES_MAX, &mut line) {
                Ok(LineRead::Line) => {}
                // A feed that hangs up on unread lines shows as a reset behind its last answer.
                Ok(LineRead::End) | Err(_) => break,
                Ok(LineRead::TooLong) => line.clear(),
            }
            match serde_json::from_slice::<Answer<'_>>(&line) {
                Ok(answer) if answer.ok => {
                    answers.acknowledged += 1;
                    // The feed would stop reading our lines if we stopped reading its answers.
                    if output.is_ok() {
                        output = self.print(&answer, out);
                    }
                }
                Ok(answer) => {
                    answers.refused += 1;
                    self.tell(&self.refusal(&answer));
                }
                Err(_not_an_answer) => {
                    answers.refused += 1;
                    self.tell(&format!(
                        "unexpected answer: {}",
                        String::from_utf8_lossy(&line)
                    ));
                }
            }
        }
        output.map_err(Failure::of_output)?;
        Ok(answers)
    }

    fn print(&self, answer: &Answer<'_>, out: &mut impl Write) -> io::Result<()> {
        if !self.template.has_ack() {
            return Ok(());
        }
        let acknowledged = Acknowledged {
            line: self.input_line(answer.line),
            id: answer.id.as_deref().unwrap_or_default(),
            subscribers: answer.subscribers.unwrap_or(0),
        };
        let mut line = serde_json::to_vec(&acknowledged)?;
        line.push(b'\n');
        out.write_all(&line)?;
        out.flush()
    }

    fn refusal(&self, answer: &Answer<'_>) -> String {
        let code = answer.error.as_deref().unwrap_or("error");
        let message = answer.message.as_deref().unwrap_or("refused");
        format!("line {}: {message} ({code})", self.input_line(answer.line))
    }

    fn skip(&self, number: u64) {
        if let Ok(mut skipped) = self.skipped.lock() {
            skipped.push(number);
        }
    }

    /// The input's line behind the `sent`th line that was sent.
    fn input_line(&self, sent: u64) -> u64 {
        let Ok(skipped) = self.skipped.lock() else {
            return sent;
        };
        skipped
            .iter()
            .fold(sent, |line, skipped| line + u64::from(*skipped <= line))
    }

    fn tell(&self, line: &str) {
        self.bar.suspend(|| tell(line));
    }
}

fn send_line(mut stream: &UnixStream, line: &[u8]) -> Result<Sent, Failure> {
    let sent = Sent {
        lines: 1,
        ..Sent::default()
    };
    match stream.write_all(line) {
        Ok(()) => Ok(sent),
        Err(error) => cut(sent, error),
    }
}

/// A feed that hangs up has usually said why, so its answers are still read.
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
    use crate::id::ChannelName;

    pub(super) fn args(has_ack: bool, is_text: bool) -> PublishArgs {
        PublishArgs {
            channel: ChannelName::new("prices").unwrap(),
            data: None,
            text: is_text,
            event: None,
            key: None,
            ack: has_ack,
            feed: None,
        }
    }

    /// A feed that takes one conn and answers each of its lines as told; returns the lines.
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
    ) -> (Result<(), Failure>, String, Vec<String>) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("feed.sock");
        let feed = feed(&path, answer);
        let template = Template::new(args);
        let exchange = Exchange {
            template: &template,
            skipped: Mutex::default(),
            bar: ProgressBar::hidden(),
        };
        let stream = connect(&path).unwrap();
        let input = BufReader::new(input.as_bytes());
        let mut out = Vec::new();
        let ended = exchange.run(&stream, || exchange.send_lines(&stream, input), &mut out);
        (ended, String::from_utf8(out).unwrap(), feed.join().unwrap())
    }

    #[test]
    fn publish_sends_each_line_and_prints_acknowledgements() {
        let (ended, out, lines) = publish(&args(true, false), "1\n2\n", |n| {
            Some(match n {
                1 => "{\"ok\":true,\"line\":1,\"id\":\"a-1\",\"subscribers\":3}\n",
                _ => "{\"ok\":true,\"line\":2,\"id\":\"a-2\",\"subscribers\":0}\n",
            })
        });
        assert!(ended.is_ok());
        assert_eq!(
            out,
            "{\"line\":1,\"id\":\"a-1\",\"subscribers\":3}\n\
             {\"line\":2,\"id\":\"a-2\",\"subscribers\":0}\n"
        );
        assert_eq!(lines.len(), 2);
    }

    #[test]
    fn publish_fails_but_goes_on_when_a_line_is_unfit() {
        let (ended, _, lines) = publish(&args(false, false), "1\n\nnonsense\n2", |_| None);
        assert!(matches!(ended, Err(Failure::Told)));
        assert_eq!(lines.len(), 2);
        assert!(lines[1].ends_with("\"data\":2}"));
    }

    #[test]
    fn publish_fails_when_the_feed_refuses_a_line() {
        let (ended, out, _) = publish(&args(false, true), "a\n\n", |n| {
            (n == 2).then_some("{\"ok\":false,\"line\":2,\"error\":\"x\",\"message\":\"y\"}\n")
        });
        assert!(matches!(ended, Err(Failure::Told)));
        assert_eq!(out, "");
    }

    #[test]
    fn publish_fails_when_acknowledgements_are_missing() {
        let (ended, _, _) = publish(&args(true, false), "1\n", |_| None);
        let message = ended.unwrap_err().to_string();
        assert_eq!(message, "the feed acknowledged 0 of 1 publications");
    }

    #[test]
    fn publish_reads_answers_while_it_writes() {
        // More of both than the buffers of a socket hold.
        let input: &'static str = Box::leak("12345678\n".repeat(50_000).into_boxed_str());
        let (ended, out, lines) = publish(&args(true, false), input, |_| {
            Some("{\"ok\":true,\"line\":1,\"id\":\"a-1\",\"subscribers\":3}\n")
        });
        assert!(ended.is_ok());
        assert_eq!(lines.len(), 50_000);
        assert_eq!(out.lines().count(), 50_000);
    }

    #[test]
    fn publish_fails_when_the_feed_hangs_up() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("feed.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let stream = connect(&path).unwrap();
        drop(listener.accept().unwrap());
        let sent = send_line(&stream, b"{}\n").unwrap();
        assert!(sent.is_cut);
    }

    #[test]
    fn connect_says_what_to_do_when_nobody_listens() {
        let failure = connect(Path::new("/nonexistent/feed.sock")).unwrap_err();
        let text = failure.to_string();
        assert!(text.contains("/nonexistent/feed.sock"), "{text}");
        assert!(text.contains("fanfare serve"), "{text}");
    }

    #[test]
    fn line_numbers_are_those_of_the_input() {
        let args = args(false, false);
        let template = Template::new(&args);
        let exchange = Exchange {
            template: &template,
            skipped: Mutex::new(vec![1, 3]),
            bar: ProgressBar::hidden(),
        };
        assert_eq!(exchange.input_line(1), 2);
        assert_eq!(exchange.input_line(2), 4);
        assert_eq!(exchange.input_line(3), 5);
    }
}
