//! SHELL: this module measures the response times of new connections while the server is under
//! load.
//!
//! At intervals, the probe opens a new connection, sends `HEAD /`, and measures the time to the
//! first byte of the response, whatever its status. Requests do not overlap: if a response takes
//! longer than the interval, the next request is sent immediately after the response.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::Result;

/// The time between the starts of two requests.
const INTERVAL: Duration = Duration::from_millis(50);
/// The longest wait for a response.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(20);

/// A thread that sends requests on new connections and measures the response times.
#[derive(Debug)]
pub struct Probe {
    is_stopping: Arc<AtomicBool>,
    thread: JoinHandle<ProbeResults>,
}

/// The response times of the probe's requests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProbeResults {
    /// The response times of all requests that received a response.
    pub all: Times,
    /// The response times of requests that began or ended during a broadcast.
    pub during_broadcast: Times,
    /// The number of requests without a response.
    pub failed: u64,
}

/// Response times in ascending order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Times(Vec<Duration>);

impl Probe {
    /// Starts a thread that sends requests. `is_delivering` returns whether a broadcast is in
    /// progress.
    ///
    /// # Errors
    /// Returns an error if the thread cannot be started.
    pub fn start(
        target: SocketAddr,
        is_delivering: impl Fn() -> bool + Send + 'static,
    ) -> Result<Self> {
        let is_stopping = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&is_stopping);
        let thread = thread::Builder::new()
            .name("bench-probe".to_owned())
            .spawn(move || probe_until(&seen, target, &is_delivering))?;
        Ok(Self {
            is_stopping,
            thread,
        })
    }

    /// Stops the thread and returns the response times.
    #[must_use]
    pub fn finish(self) -> ProbeResults {
        self.is_stopping.store(true, Ordering::Release);
        let mut results = self.thread.join().unwrap_or_default();
        results.all.0.sort_unstable();
        results.during_broadcast.0.sort_unstable();
        results
    }
}

impl Times {
    /// Returns the number of responses.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Returns the response time that this fraction of the responses did not exceed.
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

fn probe_until(
    is_stopping: &AtomicBool,
    target: SocketAddr,
    is_delivering: &dyn Fn() -> bool,
) -> ProbeResults {
    let mut results = ProbeResults::default();
    let mut due = Instant::now();
    while !is_stopping.load(Ordering::Acquire) {
        let was_delivering = is_delivering();
        let begun = Instant::now();
        let response = send_request(target);
        let took = begun.elapsed();
        if response.is_err() {
            results.failed += 1;
        } else {
            results.all.0.push(took);
            if was_delivering || is_delivering() {
                results.during_broadcast.0.push(took);
            }
        }
        due = (due + INTERVAL).max(Instant::now());
        thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    results
}

fn send_request(target: SocketAddr) -> std::io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&target, RESPONSE_TIMEOUT)?;
    stream.set_read_timeout(Some(RESPONSE_TIMEOUT))?;
    let request = format!("HEAD / HTTP/1.1\r\nHost: {target}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut first = [0; 1];
    stream.read_exact(&mut first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_response_times_and_zero_without_any() {
        let results = Times((1..=101).map(Duration::from_millis).collect());
        assert_eq!(results.quantile(0.5), Duration::from_millis(51));
        assert_eq!(results.quantile(0.99), Duration::from_millis(100));
        assert_eq!(results.quantile(1.0), Duration::from_millis(101));
        assert_eq!(Times::default().quantile(0.5), Duration::ZERO);
    }
}
