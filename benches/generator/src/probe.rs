//! SHELL: a client that comes while everybody is served: how long does it wait for an answer?
//!
//! Opens a new connection at intervals, asks for `/` with HEAD, and takes the time to the first
//! byte of the answer, whatever it says. One question at a time: where an answer takes longer than
//! the interval, the next question follows at once.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::Result;

/// Time between two questions.
const INTERVAL: Duration = Duration::from_millis(50);
/// The longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// A thread that asks.
#[derive(Debug)]
pub struct Probe {
    is_over: Arc<AtomicBool>,
    thread: JoinHandle<Answered>,
}

/// What the answers were like.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answered {
    /// All of them.
    pub all: Times,
    /// Those that were asked or answered while a broadcast was under way.
    pub during_broadcast: Times,
    /// Questions without an answer.
    pub failed: u64,
}

/// Times to answers, in rising order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Times(Vec<Duration>);

impl Probe {
    /// Begins to ask. `is_delivering` tells whether a broadcast is under way.
    ///
    /// # Errors
    /// When there is no thread for it.
    pub fn start(
        target: SocketAddr,
        is_delivering: impl Fn() -> bool + Send + 'static,
    ) -> Result<Self> {
        let is_over = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&is_over);
        let thread = thread::Builder::new()
            .name("bench-probe".to_owned())
            .spawn(move || ask_until(&told, target, &is_delivering))?;
        Ok(Self { is_over, thread })
    }

    /// Ends and tells.
    #[must_use]
    pub fn finish(self) -> Answered {
        self.is_over.store(true, Ordering::Release);
        let mut answered = self.thread.join().unwrap_or_default();
        answered.all.0.sort_unstable();
        answered.during_broadcast.0.sort_unstable();
        answered
    }
}

impl Times {
    /// How many answers.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The time that this part of the answers did not exceed.
    #[must_use]
    pub fn quantile(&self, quantile: f64) -> Duration {
        let last = self.0.len().saturating_sub(1);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_precision_loss,
            clippy::cast_sign_loss,
            reason = "an index, rounded"
        )]
        let index = (last as f64 * quantile.clamp(0.0, 1.0)).round() as usize;
        self.0.get(index).copied().unwrap_or_default()
    }
}

fn ask_until(
    is_over: &AtomicBool,
    target: SocketAddr,
    is_delivering: &dyn Fn() -> bool,
) -> Answered {
    let mut answered = Answered::default();
    let mut due = Instant::now();
    while !is_over.load(Ordering::Acquire) {
        let was_delivering = is_delivering();
        let begun = Instant::now();
        let answer = ask(target);
        let took = begun.elapsed();
        if answer.is_err() {
            answered.failed += 1;
        } else {
            answered.all.0.push(took);
            if was_delivering || is_delivering() {
                answered.during_broadcast.0.push(took);
            }
        }
        due = (due + INTERVAL).max(Instant::now());
        thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    answered
}

fn ask(target: SocketAddr) -> std::io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&target, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let request = format!("HEAD / HTTP/1.1\r\nHost: {target}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut first = [0; 1];
    stream.read_exact(&mut first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_the_answers_and_nothing_is_made_of_none() {
        let answered = Times((1..=101).map(Duration::from_millis).collect());
        assert_eq!(answered.quantile(0.5), Duration::from_millis(51));
        assert_eq!(answered.quantile(0.99), Duration::from_millis(100));
        assert_eq!(answered.quantile(1.0), Duration::from_millis(101));
        assert_eq!(Times::default().quantile(0.5), Duration::ZERO);
    }
}
