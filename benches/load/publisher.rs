//! The feeder: stamped publications of one size, and the acknowledgements for them.
//!
//! Each publication carries its number and the time it was due, so that a generator that is late
//! does not hide a server that is late. Against the real server each line asks for `ack`, and no
//! more than [`UNACKNOWLEDGED_MAX`] are under way.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::stream::{NUMBER, NUMBER_DIGITS, STAMP, STAMP_DIGITS};

/// Publications under way without an acknowledgement.
const UNACKNOWLEDGED_MAX: u64 = 1024;
/// The longest wait for an acknowledgement.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the feed has answered.
#[derive(Debug)]
struct Answers {
    acknowledged: AtomicU64,
    refused: AtomicU64,
    /// The fewest subscribers that an acknowledgement told of.
    subscribers_min: AtomicU64,
}

/// One feeder.
#[derive(Debug)]
pub(crate) struct Publisher {
    feed: UnixStream,
    /// `None` for the floor, which answers nothing.
    answers: Option<Arc<Answers>>,
    clock: Instant,
    payload_bytes: usize,
    number: u64,
}

impl Publisher {
    /// A feeder of the real server.
    pub(crate) fn fanfare(feed: &Path, clock: Instant, payload_bytes: usize) -> Result<Self> {
        let feed = UnixStream::connect(feed)?;
        let answers = Arc::new(Answers {
            acknowledged: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            subscribers_min: AtomicU64::new(u64::MAX),
        });
        let lines = BufReader::new(feed.try_clone()?);
        let noted = Arc::clone(&answers);
        thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                note(&line, &noted);
            }
        });
        Ok(Self {
            feed,
            answers: Some(answers),
            clock,
            payload_bytes,
            number: 0,
        })
    }

    /// A feeder of the floor.
    pub(crate) fn floor(feed: &Path, clock: Instant, payload_bytes: usize) -> Result<Self> {
        Ok(Self {
            feed: UnixStream::connect(feed)?,
            answers: None,
            clock,
            payload_bytes,
            number: 0,
        })
    }

    /// How many have been published.
    pub(crate) fn published(&self) -> u64 {
        self.number
    }

    /// The fewest subscribers that any publication was said to have; `None` if nobody says.
    pub(crate) fn subscribers_min(&self) -> Option<u64> {
        let answers = self.answers.as_ref()?;
        Some(answers.subscribers_min.load(Ordering::Relaxed))
    }

    /// Publishes some together that were due at this time.
    pub(crate) fn publish(&mut self, count: u32, due: Instant) -> Result<()> {
        let stamp_ns = due.duration_since(self.clock).as_nanos();
        let mut bytes = Vec::new();
        for _ in 0..count {
            self.number += 1;
            let payload = self.payload(stamp_ns)?;
            if self.answers.is_some() {
                bytes.extend_from_slice(b"{\"channel\":\"bench\",\"ack\":true,\"data\":");
                bytes.extend_from_slice(payload.as_bytes());
                bytes.extend_from_slice(b"}\n");
            } else {
                let mut frame = Vec::new();
                fanfare::frame::websocket::push_frame(
                    fanfare::frame::websocket::Opcode::Text,
                    payload.as_bytes(),
                    &mut frame,
                );
                bytes.extend(u32::try_from(frame.len())?.to_be_bytes());
                bytes.extend_from_slice(&frame);
            }
        }
        self.feed.write_all(&bytes)?;
        self.hold_back()
    }

    fn payload(&self, stamp_ns: u128) -> Result<String> {
        let mut payload = format!("{NUMBER}{:0NUMBER_DIGITS$}", self.number);
        write!(payload, "{STAMP}{stamp_ns:0STAMP_DIGITS$}\",\"p\":\"")?;
        let pad = self.payload_bytes.saturating_sub(payload.len() + 2);
        payload.extend(std::iter::repeat_n('.', pad));
        payload.push_str("\"}");
        Ok(payload)
    }

    /// Waits while too many are under way.
    fn hold_back(&self) -> Result<()> {
        let Some(answers) = &self.answers else {
            return Ok(());
        };
        let begun = Instant::now();
        loop {
            if answers.refused.load(Ordering::Relaxed) > 0 {
                bail!("the feed has refused a publication");
            }
            let acknowledged = answers.acknowledged.load(Ordering::Relaxed);
            if self.number - acknowledged < UNACKNOWLEDGED_MAX {
                return Ok(());
            }
            if begun.elapsed() > PATIENCE {
                bail!("{acknowledged} of {} acknowledged", self.number);
            }
            thread::sleep(Duration::from_micros(200));
        }
    }
}

fn note(line: &str, answers: &Answers) {
    let Ok(answer) = serde_json::from_str::<serde_json::Value>(line) else {
        answers.refused.fetch_add(1, Ordering::Relaxed);
        return;
    };
    if answer["ok"] == true {
        let subscribers = answer["subscribers"].as_u64().unwrap_or(0);
        answers
            .subscribers_min
            .fetch_min(subscribers, Ordering::Relaxed);
        answers.acknowledged.fetch_add(1, Ordering::Relaxed);
    } else {
        eprintln!("fanout: the feed says {line}");
        answers.refused.fetch_add(1, Ordering::Relaxed);
    }
}
