//! SHELL: the feeder: stamped publications of one size, and the acknowledgements for them.
//!
//! Each publication carries its number and the time it was due, so that a generator that is late
//! does not hide a server that is late. Each line of the feed asks for `ack`, as each POST is
//! answered, and no more than `UNACKNOWLEDGED_MAX` are under way. Numbers are dealt over channels
//! in turn.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;
use tungstenite::protocol::frame::Frame;
use tungstenite::protocol::frame::coding::{Data, OpCode};

use super::client_pool::lock;
use super::plan::channel_name;
use super::stream_parser::{NUMBER, NUMBER_DIGITS, STAMP, STAMP_DIGITS};

/// The fewest bytes that a stamped payload has room in.
pub const PAYLOAD_BYTES_MIN: usize = 64;
/// From how many bytes on there are records in a payload.
const RECORDS_BYTES_MIN: usize = 256;
/// The most bytes that stand behind the records: the padding without anything in it.
const BEHIND_RECORDS_BYTES: usize = "],\"p\":\"\"}".len();
/// Publications under way without an acknowledgement.
const UNACKNOWLEDGED_MAX: u64 = 1024;
/// The longest wait for an acknowledgement.
const PATIENCE: Duration = Duration::from_secs(30);

/// How publications are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// WebSocket frames with their length in four bytes before them; nothing is answered.
    Frames,
    /// Lines of the feed, each of which is acknowledged.
    Lines,
    /// Payloads alone, one a line; nothing is answered.
    Payloads,
    /// HTTP requests with the payload as content, one behind another without waiting; each is
    /// answered (RFC 9112, 9.3.2).
    Posts,
}

impl Form {
    fn is_answered(self) -> bool {
        matches!(self, Self::Lines | Self::Posts)
    }
}

/// What is published.
#[derive(Clone, Debug)]
pub struct Payloads {
    /// Bytes of JSON in each.
    pub bytes: usize,
    /// The channel's name, or the beginning of several.
    pub channel: String,
    /// How many channels.
    pub channels: u16,
}

/// What the feed has answered.
#[derive(Debug, Default)]
struct Answers {
    acknowledged: AtomicU64,
    /// The first answer that is no acknowledgement.
    refusal: Mutex<Option<String>>,
    /// Subscribers that all acknowledgements together told of.
    subscribers: AtomicU64,
}

/// One answer of the feed.
#[derive(Deserialize)]
struct Answer {
    ok: bool,
    #[serde(default)]
    subscribers: u64,
}

/// One feeder.
#[derive(Debug)]
pub struct Publisher {
    feed: UnixStream,
    form: Form,
    answers: Arc<Answers>,
    payloads: Payloads,
    number: u64,
}

impl Publisher {
    /// Connects to a feed.
    ///
    /// # Errors
    /// When nobody listens there.
    pub fn new(feed: &Path, form: Form, payloads: Payloads) -> Result<Self> {
        let stream = UnixStream::connect(feed)
            .with_context(|| format!("cannot connect to the feed {}", feed.display()))?;
        let answers = Arc::new(Answers::default());
        if form.is_answered() {
            let lines = BufReader::new(stream.try_clone()?);
            let noted = Arc::clone(&answers);
            thread::Builder::new()
                .name("bench-answers".to_owned())
                .spawn(move || {
                    for line in lines.lines().map_while(Result::ok) {
                        match form {
                            Form::Posts => note_status(&line, &noted),
                            Form::Frames | Form::Lines | Form::Payloads => note(&line, &noted),
                        }
                    }
                })?;
        }
        Ok(Self {
            feed: stream,
            form,
            answers,
            payloads,
            number: 0,
        })
    }

    /// How many have been published.
    #[must_use]
    pub fn published(&self) -> u64 {
        self.number
    }

    /// Subscribers that all publications together were said to have.
    #[must_use]
    pub fn subscribers(&self) -> u64 {
        self.answers.subscribers.load(Ordering::Relaxed)
    }

    /// Publishes some together that were due at this time.
    ///
    /// # Errors
    /// When the feed refuses one, hangs up, or acknowledges nothing for too long.
    pub fn publish(&mut self, count: u32, due_ns: u64) -> Result<()> {
        let mut bytes = Vec::new();
        for _ in 0..count {
            let channel = u16::try_from(self.number % u64::from(self.payloads.channels.max(1)))?;
            self.number += 1;
            let payload = self.payload(due_ns)?;
            match self.form {
                Form::Frames => {
                    let mut frame = Vec::new();
                    Frame::message(payload, OpCode::Data(Data::Text), true).format(&mut frame)?;
                    bytes.extend(u32::try_from(frame.len())?.to_be_bytes());
                    bytes.extend_from_slice(&frame);
                }
                Form::Lines => {
                    let Payloads {
                        channel: base,
                        channels,
                        ..
                    } = &self.payloads;
                    let name = serde_json::to_string(&channel_name(base, *channels, channel))?;
                    writeln!(
                        bytes,
                        "{{\"channel\":{name},\"ack\":true,\"data\":{payload}}}"
                    )?;
                }
                Form::Payloads => writeln!(bytes, "{payload}")?,
                Form::Posts => write!(
                    bytes,
                    "POST /publish HTTP/1.1\r\nHost: feed\r\nContent-Length: {}\r\n\r\n{payload}",
                    payload.len()
                )?,
            }
        }
        self.feed.write_all(&bytes).context("the feed is gone")?;
        self.hold_back(UNACKNOWLEDGED_MAX)
    }

    /// Waits until everything is acknowledged.
    ///
    /// # Errors
    /// When the feed refuses one, or acknowledges nothing for too long.
    pub fn finish(&self) -> Result<()> {
        self.hold_back(1)
    }

    fn payload(&self, due_ns: u64) -> Result<String> {
        let mut payload = format!("{NUMBER}{:0NUMBER_DIGITS$}", self.number);
        write!(payload, "{STAMP}{due_ns:0STAMP_DIGITS$}\"")?;
        if self.payloads.bytes >= RECORDS_BYTES_MIN {
            push_records(self.number, self.payloads.bytes, &mut payload);
        }
        payload.push_str(",\"p\":\"");
        let pad = self.payloads.bytes.saturating_sub(payload.len() + 2);
        payload.extend(std::iter::repeat_n('.', pad));
        payload.push_str("\"}");
        Ok(payload)
    }

    /// Waits while as many as this or more are under way.
    fn hold_back(&self, most: u64) -> Result<()> {
        if !self.form.is_answered() {
            return Ok(());
        }
        let mut seen = (0, Instant::now());
        loop {
            if let Some(line) = &*lock(&self.answers.refusal) {
                bail!("the feed has refused a publication: {line}");
            }
            let acknowledged = self.answers.acknowledged.load(Ordering::Relaxed);
            if self.number - acknowledged < most {
                return Ok(());
            }
            if acknowledged != seen.0 {
                seen = (acknowledged, Instant::now());
            } else if seen.1.elapsed() > PATIENCE {
                bail!(
                    "{acknowledged} of {} publications acknowledged",
                    self.number
                );
            }
            thread::sleep(Duration::from_micros(200));
        }
    }
}

/// Fills a payload with records up to so many bytes: members that come again and values that do
/// not, of which a compressor makes no more and no less than of what others publish.
fn push_records(number: u64, bytes: usize, payload: &mut String) {
    let mut draw = fastrand::Rng::with_seed(number);
    let mut opening = ",\"r\":[";
    loop {
        let item: String = (0..4).map(|_| draw.uppercase()).collect();
        let (whole, part, volume) = (draw.u32(..1000), draw.u32(10..100), draw.u32(..1_000_000));
        let record = format!(
            "{opening}{{\"item\":\"{item}\",\"price\":{whole}.{part},\"volume\":{volume}}}"
        );
        if payload.len() + record.len() + BEHIND_RECORDS_BYTES > bytes {
            break;
        }
        payload.push_str(&record);
        opening = ",";
    }
    payload.push(']');
}

impl Drop for Publisher {
    fn drop(&mut self) {
        // Ends the thread that reads the answers. The feed may have hung up already.
        drop(self.feed.shutdown(std::net::Shutdown::Both));
    }
}

fn note(line: &str, answers: &Answers) {
    match serde_json::from_str::<Answer>(line) {
        Ok(answer) if answer.ok => {
            let told = answer.subscribers;
            answers.subscribers.fetch_add(told, Ordering::Relaxed);
            answers.acknowledged.fetch_add(1, Ordering::Relaxed);
        }
        Ok(_) | Err(_) => {
            lock(&answers.refusal).get_or_insert_with(|| line.to_owned());
        }
    }
}

/// Takes note of a status line. It may stand behind the content of the answer before it, which
/// need not end its last line, and no other line looks like one.
fn note_status(line: &str, answers: &Answers) {
    let Some((_, status)) = line.split_once("HTTP/1.1 ") else {
        return;
    };
    if status.starts_with('2') {
        answers.acknowledged.fetch_add(1, Ordering::Relaxed);
    } else {
        lock(&answers.refusal).get_or_insert_with(|| status.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::super::inflate_cache::deflate;
    use super::*;

    #[test]
    fn lines_are_stamped_have_their_size_and_take_channels_in_turn() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("feed");
        let listener = UnixListener::bind(&path).unwrap();
        let payloads = Payloads {
            bytes: 100,
            channel: "a".to_owned(),
            channels: 2,
        };
        let mut publisher = Publisher::new(&path, Form::Lines, payloads).unwrap();
        let (mut feed, _) = listener.accept().unwrap();
        publisher.publish(3, 42).unwrap();
        let mut lines = BufReader::new(feed.try_clone().unwrap()).lines();
        for number in 1..=3 {
            let line = lines.next().unwrap();
            let value: serde_json::Value = serde_json::from_str(&line.unwrap()).unwrap();
            assert_eq!(value["channel"], format!("a:{}", (number - 1) % 2));
            assert_eq!(value["data"]["n"], format!("{number:012}"));
            assert_eq!(value["data"]["t"], format!("{:019}", 42));
            assert_eq!(value["data"].to_string().len(), 100);
        }
        let answer = b"{\"ok\":true,\"line\":1,\"id\":\"a-1\",\"subscribers\":5}\n";
        feed.write_all(&answer.repeat(3)).unwrap();
        publisher.finish().unwrap();
        assert_eq!((publisher.published(), publisher.subscribers()), (3, 15));
        feed.write_all(b"{\"ok\":false,\"error\":\"no\"}\n")
            .unwrap();
        let published = publisher.publish(1, 1);
        let error = published.and_then(|()| publisher.finish());
        let error = error.unwrap_err().to_string();
        assert!(error.contains("\"no\""), "{error}");
    }

    #[test]
    fn long_payloads_have_their_size_and_can_be_compressed_by_half_and_no_more() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("feed");
        let _listener = UnixListener::bind(&path).unwrap();
        for bytes in (250..330).chain([1024, 5000]) {
            let payloads = Payloads {
                bytes,
                channel: "a".to_owned(),
                channels: 1,
            };
            let publisher = Publisher::new(&path, Form::Payloads, payloads).unwrap();
            let payload = publisher.payload(42).unwrap();
            assert_eq!(payload.len(), bytes);
            let value: serde_json::Value = serde_json::from_str(&payload).unwrap();
            assert_eq!(value["t"], format!("{:019}", 42));
            assert_eq!(value["r"].is_array(), bytes >= RECORDS_BYTES_MIN);
            if bytes >= 1024 {
                let left = deflate(payload.as_bytes()).len();
                assert!(
                    (bytes / 4..bytes * 2 / 3).contains(&left),
                    "{left} of {bytes}"
                );
            }
        }
    }

    #[test]
    fn posts_are_counted_by_their_status_wherever_it_stands() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("feed");
        let listener = UnixListener::bind(&path).unwrap();
        let payloads = Payloads {
            bytes: 70,
            channel: "a".to_owned(),
            channels: 1,
        };
        let mut publisher = Publisher::new(&path, Form::Posts, payloads).unwrap();
        let (mut feed, _) = listener.accept().unwrap();
        publisher.publish(2, 42).unwrap();
        let mut lines = BufReader::new(feed.try_clone().unwrap()).lines();
        let head: Vec<String> = (0..4).map(|_| lines.next().unwrap().unwrap()).collect();
        let expected = [
            "POST /publish HTTP/1.1",
            "Host: feed",
            "Content-Length: 70",
            "",
        ];
        assert_eq!(head, expected);
        // Content without a line end at its end.
        let answer = b"HTTP/1.1 202 Accepted\r\nContent-Length: 5\r\n\r\na: 17";
        feed.write_all(&answer.repeat(2)).unwrap();
        feed.write_all(b"\n").unwrap();
        publisher.finish().unwrap();
        feed.write_all(b"HTTP/1.1 413 Too Large\r\n\r\n").unwrap();
        let published = publisher.publish(1, 1).and_then(|()| publisher.finish());
        let error = published.unwrap_err().to_string();
        assert!(error.contains("413 Too Large"), "{error}");
    }
}
