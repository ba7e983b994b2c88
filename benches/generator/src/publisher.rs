//! SHELL: this module is the feeder, which sends stamped publications of one size and counts their
//! acknowledgements.
//!
//! Each publication contains its number and the time at which it was due, so a delay of the
//! generator counts as latency. Each line of the feed asks for an acknowledgement with `ack`, and
//! each POST has a response. In both formats, at most `UNACKNOWLEDGED_MAX` publications are
//! unacknowledged. Publication 1 is sent to the first channel, publication 2 to the second, and so
//! on. After the last channel, the first channel is next.

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

/// The minimum size of a stamped payload in bytes.
pub const PAYLOAD_BYTES_MIN: usize = 64;
/// The minimum size in bytes of a payload that contains records.
const RECORDS_BYTES_MIN: usize = 256;
/// The number of bytes after the records: the end of the list of records, and an empty padding
/// string.
const AFTER_RECORDS_BYTES: usize = "],\"p\":\"\"}".len();
/// The maximum number of publications that are sent but not acknowledged yet.
const UNACKNOWLEDGED_MAX: u64 = 1024;
/// The longest wait for an acknowledgement.
const ACK_TIMEOUT: Duration = Duration::from_secs(30);

/// The format in which publications are written to the feed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FeedFormat {
    /// WebSocket frames, each preceded by its length in four bytes. The feed sends no response.
    Frames,
    /// Lines of fanfare's feed. Each line is acknowledged.
    Lines,
    /// One payload per line, without an envelope. The feed sends no response.
    Payloads,
    /// Pipelined HTTP requests (RFC 9112, 9.3.2) with the payload as content. Each request has a
    /// response.
    Posts,
}

impl FeedFormat {
    fn is_answered(self) -> bool {
        matches!(self, Self::Lines | Self::Posts)
    }
}

/// The payloads to publish.
#[derive(Clone, Debug)]
pub struct Payloads {
    /// The number of bytes of JSON in each payload.
    pub bytes: usize,
    /// The channel's name. If there are several channels, it is the common prefix of their names.
    pub channel: String,
    /// The number of channels.
    pub channels: u16,
}

/// The responses of the feed.
#[derive(Debug, Default)]
struct FeedAnswers {
    acknowledged: AtomicU64,
    /// The first response that is not an acknowledgement.
    refusal: Mutex<Option<String>>,
    /// The sum of the subscriber counts in the acknowledgements.
    subscribers: AtomicU64,
}

#[derive(Deserialize)]
struct FeedAnswer {
    ok: bool,
    #[serde(default)]
    subscribers: u64,
}

/// A feeder: a connection to the feed of a server.
#[derive(Debug)]
pub struct Publisher {
    feed: UnixStream,
    format: FeedFormat,
    answers: Arc<FeedAnswers>,
    payloads: Payloads,
    number: u64,
}

impl Publisher {
    /// Connects to a feed.
    ///
    /// # Errors
    /// Returns an error if the socket does not accept the connection.
    pub fn new(feed: &Path, format: FeedFormat, payloads: Payloads) -> Result<Self> {
        let stream = UnixStream::connect(feed)
            .with_context(|| format!("cannot connect to the feed {}", feed.display()))?;
        let answers = Arc::new(FeedAnswers::default());
        if format.is_answered() {
            let lines = BufReader::new(stream.try_clone()?);
            let noted = Arc::clone(&answers);
            thread::Builder::new()
                .name("bench-answers".to_owned())
                .spawn(move || {
                    for line in lines.lines().map_while(Result::ok) {
                        match format {
                            FeedFormat::Posts => note_status(&line, &noted),
                            FeedFormat::Frames | FeedFormat::Lines | FeedFormat::Payloads => {
                                note_line(&line, &noted);
                            }
                        }
                    }
                })?;
        }
        Ok(Self {
            feed: stream,
            format,
            answers,
            payloads,
            number: 0,
        })
    }

    /// Returns the number of publications that were sent.
    #[must_use]
    pub fn published(&self) -> u64 {
        self.number
    }

    /// Returns the sum of the subscriber counts in all acknowledgements.
    #[must_use]
    pub fn subscribers(&self) -> u64 {
        self.answers.subscribers.load(Ordering::Relaxed)
    }

    /// Sends `count` publications together. All of them are stamped with the same due time.
    ///
    /// # Errors
    /// Returns an error if the feed refuses a publication, closes the connection, or acknowledges
    /// nothing for too long.
    pub fn publish(&mut self, count: u32, due_ns: u64) -> Result<()> {
        let mut bytes = Vec::new();
        for _ in 0..count {
            let channel = u16::try_from(self.number % u64::from(self.payloads.channels.max(1)))?;
            self.number += 1;
            let payload = self.payload(due_ns)?;
            match self.format {
                FeedFormat::Frames => {
                    let mut frame = Vec::new();
                    Frame::message(payload, OpCode::Data(Data::Text), true).format(&mut frame)?;
                    bytes.extend(u32::try_from(frame.len())?.to_be_bytes());
                    bytes.extend_from_slice(&frame);
                }
                FeedFormat::Lines => {
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
                FeedFormat::Payloads => writeln!(bytes, "{payload}")?,
                FeedFormat::Posts => write!(
                    bytes,
                    "POST /publish HTTP/1.1\r\nHost: feed\r\nContent-Length: {}\r\n\r\n{payload}",
                    payload.len()
                )?,
            }
        }
        self.feed.write_all(&bytes).context("the feed is gone")?;
        self.wait_until_below(UNACKNOWLEDGED_MAX)
    }

    /// Waits until all publications are acknowledged.
    ///
    /// # Errors
    /// Returns an error if the feed refuses a publication, or acknowledges nothing for too long.
    pub fn finish(&self) -> Result<()> {
        self.wait_until_below(1)
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

    /// Waits until fewer than `limit` publications are unacknowledged.
    fn wait_until_below(&self, limit: u64) -> Result<()> {
        if !self.format.is_answered() {
            return Ok(());
        }
        let mut seen = (0, Instant::now());
        loop {
            if let Some(line) = &*lock(&self.answers.refusal) {
                bail!("the feed has refused a publication: {line}");
            }
            let acknowledged = self.answers.acknowledged.load(Ordering::Relaxed);
            if self.number - acknowledged < limit {
                return Ok(());
            }
            if acknowledged != seen.0 {
                seen = (acknowledged, Instant::now());
            } else if seen.1.elapsed() > ACK_TIMEOUT {
                bail!(
                    "{acknowledged} of {} publications acknowledged",
                    self.number
                );
            }
            thread::sleep(Duration::from_micros(200));
        }
    }
}

/// Appends records as long as the payload stays within this number of bytes. The records have equal
/// member names and different values, so that the compression ratio is that of typical JSON.
fn push_records(number: u64, bytes: usize, payload: &mut String) {
    let mut draw = fastrand::Rng::with_seed(number);
    let mut opening = ",\"r\":[";
    loop {
        let item: String = (0..4).map(|_| draw.uppercase()).collect();
        let (whole, part, volume) = (draw.u32(..1000), draw.u32(10..100), draw.u32(..1_000_000));
        let record = format!(
            "{opening}{{\"item\":\"{item}\",\"price\":{whole}.{part},\"volume\":{volume}}}"
        );
        if payload.len() + record.len() + AFTER_RECORDS_BYTES > bytes {
            break;
        }
        payload.push_str(&record);
        opening = ",";
    }
    payload.push(']');
}

impl Drop for Publisher {
    fn drop(&mut self) {
        // The shutdown ends the thread that reads the responses. The result is ignored, because the
        // feed may already have closed the connection.
        drop(self.feed.shutdown(std::net::Shutdown::Both));
    }
}

fn note_line(line: &str, answers: &FeedAnswers) {
    match serde_json::from_str::<FeedAnswer>(line) {
        Ok(answer) if answer.ok => {
            answers
                .subscribers
                .fetch_add(answer.subscribers, Ordering::Relaxed);
            answers.acknowledged.fetch_add(1, Ordering::Relaxed);
        }
        Ok(_) | Err(_) => {
            lock(&answers.refusal).get_or_insert_with(|| line.to_owned());
        }
    }
}

/// Counts the status of a response, if the line contains one. The content of a response need not
/// end with a line end. So the status may be on the same line as the content of the previous
/// response. No other text contains `HTTP/1.1 `.
fn note_status(line: &str, answers: &FeedAnswers) {
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
    fn lines_have_a_stamp_their_size_and_channels_in_turn() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("feed");
        let listener = UnixListener::bind(&path).unwrap();
        let payloads = Payloads {
            bytes: 100,
            channel: "a".to_owned(),
            channels: 2,
        };
        let mut publisher = Publisher::new(&path, FeedFormat::Lines, payloads).unwrap();
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
    fn long_payloads_have_their_size_and_compress_to_about_half() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("feed");
        let _listener = UnixListener::bind(&path).unwrap();
        for bytes in (250..330).chain([1024, 5000]) {
            let payloads = Payloads {
                bytes,
                channel: "a".to_owned(),
                channels: 1,
            };
            let publisher = Publisher::new(&path, FeedFormat::Payloads, payloads).unwrap();
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
    fn posts_are_counted_by_their_status_lines() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("feed");
        let listener = UnixListener::bind(&path).unwrap();
        let payloads = Payloads {
            bytes: 70,
            channel: "a".to_owned(),
            channels: 1,
        };
        let mut publisher = Publisher::new(&path, FeedFormat::Posts, payloads).unwrap();
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
        // The content of this response has no line end.
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
