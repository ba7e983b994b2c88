//! A feeder that numbers its publications and repeats each publication until it is acknowledged.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::END;
use crate::support::PATIENCE;

/// The maximum number of publications without an acknowledgement.
const WINDOW: usize = 64;

/// A feeder with a random number generator of its own.
pub(crate) struct Feeder {
    pub(crate) path: PathBuf,
    pub(crate) channels: Vec<String>,
    pub(crate) rng: fastrand::Rng,
    /// The approximate number of publications per second.
    pub(crate) rate: u32,
}

/// All publications, and the ids of the acknowledged publications.
#[derive(Debug, Default)]
pub(crate) struct Published {
    /// The channel and data of every publication, by its number.
    pub(crate) lines: Vec<(String, Value)>,
    /// The numbers of the acknowledged publications, by id.
    pub(crate) acknowledged: BTreeMap<String, usize>,
    /// The number of lines that were sent again.
    pub(crate) repeated: u64,
}

impl Feeder {
    /// Publishes until `stop` is set. Then publishes the last publication of each channel and waits
    /// for all answers.
    pub(crate) fn publish(mut self, stop: &AtomicBool) -> Published {
        let mut published = Published::default();
        let mut unanswered = VecDeque::new();
        let mut is_ended = false;
        while !is_ended || !unanswered.is_empty() {
            if let Err(error) =
                self.run_connection(&mut published, &mut unanswered, stop, &mut is_ended)
            {
                assert_ne!(error.kind(), io::ErrorKind::WouldBlock, "no answer");
                thread::sleep(Duration::from_millis(20));
            }
        }
        published
    }

    /// Publishes on one connection until the connection breaks or everything is acknowledged.
    fn run_connection(
        &mut self,
        published: &mut Published,
        unanswered: &mut VecDeque<usize>,
        stop: &AtomicBool,
        is_ended: &mut bool,
    ) -> io::Result<()> {
        let mut stream = UnixStream::connect(&self.path)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut answers = BufReader::new(stream.try_clone()?);
        published.repeated += unanswered.len() as u64;
        for &number in unanswered.iter() {
            stream.write_all(line(published, number).as_bytes())?;
        }
        loop {
            let began = Instant::now();
            if stop.load(Ordering::Relaxed) && !*is_ended {
                *is_ended = true;
                // The last publication of every channel is recorded before the first of them is
                // sent, because the server may be killed while they are sent.
                let ends = self.channels.iter().map(|channel| {
                    let number = record(published, channel.clone(), json!({"number": END}));
                    unanswered.push_back(number);
                    number
                });
                for number in ends.collect::<Vec<_>>() {
                    stream.write_all(line(published, number).as_bytes())?;
                }
            }
            let mut burst = 0;
            while !*is_ended && burst < self.rng.u32(1..20) && unanswered.len() < WINDOW {
                let number = self.draw(published);
                unanswered.push_back(number);
                stream.write_all(line(published, number).as_bytes())?;
                burst += 1;
            }
            let wanted = if *is_ended {
                unanswered.len()
            } else {
                self.rng.usize(0..=unanswered.len())
            };
            for _ in 0..wanted {
                take_answer(&mut answers, published, unanswered)?;
            }
            if *is_ended {
                return Ok(());
            }
            let pause = Duration::from_secs(1) * burst / self.rate;
            thread::sleep(pause.saturating_sub(began.elapsed()));
        }
    }

    fn draw(&mut self, published: &mut Published) -> usize {
        let channel = self.rng.choice(&self.channels).unwrap().clone();
        // Some payloads are too long for one read or write.
        let length = match self.rng.u32(..50) {
            0 => self.rng.usize(..20_000),
            _ => self.rng.usize(..200),
        };
        let data = json!({"number": published.lines.len(), "filling": "x".repeat(length)});
        record(published, channel, data)
    }
}

fn record(published: &mut Published, channel: String, data: Value) -> usize {
    published.lines.push((channel, data));
    published.lines.len() - 1
}

fn line(published: &Published, number: usize) -> String {
    let (channel, data) = &published.lines[number];
    let dedupe = number.to_string();
    let line = json!({"channel": channel, "data": data, "dedupe": dedupe, "ack": true});
    format!("{line}\n")
}

fn take_answer(
    answers: &mut BufReader<UnixStream>,
    published: &mut Published,
    unanswered: &mut VecDeque<usize>,
) -> io::Result<()> {
    let mut line = String::new();
    answers.read_line(&mut line)?;
    if !line.ends_with('\n') {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let answer: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(answer["ok"], true, "{answer}");
    let id = answer["id"].as_str().unwrap().to_owned();
    let number = unanswered.pop_front().unwrap();
    let other = published.acknowledged.insert(id, number);
    assert_eq!(other, None, "one id for two publications");
    Ok(())
}
