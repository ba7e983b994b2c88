//! SHELL: the demo publishes load, memory and network figures of this machine, so that a new user
//! sees real data.
//!
//! Once a second, the demo reads load, memory and network figures from `/proc` and writes them to
//! the feed's Unix socket, like any feeder. The demo does not depend on workers, hub or frames. If
//! the feed closes the connection, the demo reconnects a second later. Only `serve --demo` starts
//! it.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use serde::Serialize;

/// The time between two sets of figures.
const INTERVAL: Duration = Duration::from_secs(1);

/// The maximum time for a write to a feed that does not read. Such a write delays the thread's end.
const WRITE_WAIT: Duration = Duration::from_millis(50);

/// Starts a thread that publishes to the feed at this path. The thread ends after a message on
/// `stop`, or when the sender of `stop` is dropped.
///
/// # Errors
/// Returns the system's error if the thread cannot be started.
pub fn spawn(feed_path: PathBuf, stop: Receiver<()>) -> io::Result<JoinHandle<()>> {
    thread::Builder::new()
        .name(String::from("demo"))
        .spawn(move || run(&feed_path, &stop))
}

fn run(feed_path: &Path, stop: &Receiver<()>) {
    let mut feed = None;
    let mut before = Sample::read();
    while stop.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
        let sample = Sample::read();
        let sent = send(&mut feed, feed_path, &lines(&before, &sample));
        if let Err(error) = sent {
            tracing::debug!(%error, "the demo's figures did not reach the feed");
            feed = None;
        }
        before = sample;
    }
}

/// Writes to the feed. If there is no connection, connects first.
fn send(feed: &mut Option<UnixStream>, feed_path: &Path, lines: &[u8]) -> io::Result<()> {
    let mut stream = match feed.take() {
        Some(stream) => stream,
        None => {
            let stream = UnixStream::connect(feed_path)?;
            stream.set_write_timeout(Some(WRITE_WAIT))?;
            stream
        }
    };
    stream.write_all(lines)?;
    // The connection is kept only after a complete write, because half a line would corrupt the
    // next line.
    *feed = Some(stream);
    Ok(())
}

/// The figures of one moment. If a file is missing or malformed, only its own figures are missing.
#[derive(Debug)]
struct Sample {
    at: Instant,
    unix_ms: u64,
    load: Option<Load>,
    cpu: Option<CpuTime>,
    memory: Option<Memory>,
    network: Option<Traffic>,
}

impl Sample {
    fn read() -> Self {
        let text = |path| fs::read_to_string(path).unwrap_or_default();
        Self {
            at: Instant::now(),
            unix_ms: unix_ms(),
            load: parse_load(&text("/proc/loadavg")),
            cpu: parse_cpu(&text("/proc/stat")),
            memory: parse_memory(&text("/proc/meminfo")),
            network: parse_traffic(&text("/proc/net/dev")),
        }
    }
}

fn unix_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX))
}

/// A publication as one line for the feed.
#[derive(Debug, Serialize)]
struct Line<T> {
    channel: &'static str,
    event: &'static str,
    data: T,
}

#[derive(Debug, Serialize)]
struct LoadFigures {
    unix_ms: u64,
    cpu_percent: f64,
    load_1_min: f64,
    load_5_min: f64,
    load_15_min: f64,
    tasks_running: u64,
    tasks: u64,
}

#[derive(Debug, Serialize)]
struct MemoryFigures {
    unix_ms: u64,
    used_percent: f64,
    used_bytes: u64,
    available_bytes: u64,
    total_bytes: u64,
}

#[derive(Debug, Serialize)]
struct NetworkFigures {
    unix_ms: u64,
    received_bytes_per_s: u64,
    sent_bytes_per_s: u64,
    loopback_bytes_per_s: u64,
}

/// Returns the publications computed from two consecutive samples.
fn lines(before: &Sample, now: &Sample) -> Vec<u8> {
    let unix_ms = now.unix_ms;
    let mut out = Vec::new();
    if let (Some(load), Some(cpu), Some(cpu_before)) = (now.load, now.cpu, before.cpu) {
        let data = LoadFigures {
            unix_ms,
            cpu_percent: cpu.busy_percent_since(cpu_before),
            load_1_min: load.averages[0],
            load_5_min: load.averages[1],
            load_15_min: load.averages[2],
            tasks_running: load.tasks_running,
            tasks: load.tasks,
        };
        push_line("demo:load", "load", data, &mut out);
    }
    if let Some(memory) = now.memory {
        let used_bytes = memory.total_bytes.saturating_sub(memory.available_bytes);
        let data = MemoryFigures {
            unix_ms,
            used_percent: percent(used_bytes, memory.total_bytes),
            used_bytes,
            available_bytes: memory.available_bytes,
            total_bytes: memory.total_bytes,
        };
        push_line("demo:memory", "memory", data, &mut out);
    }
    if let (Some(traffic), Some(earlier)) = (now.network, before.network) {
        let elapsed = now.at.saturating_duration_since(before.at);
        let data = NetworkFigures {
            unix_ms,
            received_bytes_per_s: rate(earlier.received_bytes, traffic.received_bytes, elapsed),
            sent_bytes_per_s: rate(earlier.sent_bytes, traffic.sent_bytes, elapsed),
            loopback_bytes_per_s: rate(earlier.loopback_bytes, traffic.loopback_bytes, elapsed),
        };
        push_line("demo:network", "network", data, &mut out);
    }
    out
}

fn push_line<T: Serialize>(channel: &'static str, event: &'static str, data: T, out: &mut Vec<u8>) {
    let line = Line {
        channel,
        event,
        data,
    };
    // Numbers are serialised into a vector, which cannot fail.
    let written = serde_json::to_writer(&mut *out, &line);
    debug_assert!(written.is_ok());
    out.push(b'\n');
}

/// Returns a ratio in percent, with one decimal.
fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        return 0.0;
    }
    (part as f64 * 1000.0 / whole as f64).round() / 10.0
}

/// Returns the growth per second. A counter that has decreased was reset, so its growth counts as
/// zero.
fn rate(before: u64, now: u64, elapsed: Duration) -> u64 {
    let elapsed_us = elapsed.as_micros().max(1);
    let grown = u128::from(now.saturating_sub(before));
    u64::try_from(grown * 1_000_000 / elapsed_us).unwrap_or(u64::MAX)
}

/// The figures of `/proc/loadavg`.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Load {
    averages: [f64; 3],
    tasks_running: u64,
    tasks: u64,
}

fn parse_load(text: &str) -> Option<Load> {
    let mut words = text.split_ascii_whitespace();
    let mut average = || words.next()?.parse().ok();
    let averages = [average()?, average()?, average()?];
    let (running, all) = words.next()?.split_once('/')?;
    Some(Load {
        averages,
        tasks_running: running.parse().ok()?,
        tasks: all.parse().ok()?,
    })
}

/// The `cpu` line of `/proc/stat`: the time of all cores since the boot, in clock ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct CpuTime {
    busy: u64,
    all: u64,
}

impl CpuTime {
    fn busy_percent_since(self, before: Self) -> f64 {
        percent(
            self.busy.saturating_sub(before.busy),
            self.all.saturating_sub(before.all),
        )
    }
}

fn parse_cpu(text: &str) -> Option<CpuTime> {
    let line = text.lines().find_map(|line| line.strip_prefix("cpu "))?;
    // The last two of the ten numbers are guest time, which is already included in user time.
    let times: Vec<u64> = line
        .split_ascii_whitespace()
        .take(8)
        .map(|word| word.parse().ok())
        .collect::<Option<_>>()?;
    let all = times.iter().sum();
    // The fourth and fifth numbers are idle time and I/O wait.
    let resting: u64 = times.get(3..5)?.iter().sum();
    Some(CpuTime {
        busy: all - resting,
        all,
    })
}

/// The figures of `/proc/meminfo`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Memory {
    total_bytes: u64,
    available_bytes: u64,
}

fn parse_memory(text: &str) -> Option<Memory> {
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        let kib: u64 = line.split_ascii_whitespace().next()?.parse().ok()?;
        kib.checked_mul(1024)
    };
    Some(Memory {
        total_bytes: field("MemTotal:")?,
        available_bytes: field("MemAvailable:")?,
    })
}

/// The figures of `/proc/net/dev`: the bytes since the boot. For the loopback device, only the
/// received bytes are stored, because it receives exactly the bytes that it sends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Traffic {
    received_bytes: u64,
    sent_bytes: u64,
    loopback_bytes: u64,
}

fn parse_traffic(text: &str) -> Option<Traffic> {
    let mut sum = Traffic::default();
    // The first two lines are headings.
    let mut devices = text.lines().skip(2).peekable();
    devices.peek()?;
    for line in devices {
        let (device, numbers) = line.split_once(':')?;
        let mut numbers = numbers.split_ascii_whitespace();
        let received: u64 = numbers.next()?.parse().ok()?;
        // The line has eight numbers about received data. The number of sent bytes comes next.
        let sent: u64 = numbers.nth(7)?.parse().ok()?;
        if device.trim() == "lo" {
            sum.loopback_bytes = sum.loopback_bytes.saturating_add(received);
        } else {
            sum.received_bytes = sum.received_bytes.saturating_add(received);
            sum.sent_bytes = sum.sent_bytes.saturating_add(sent);
        }
    }
    Some(sum)
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader};
    use std::os::unix::net::UnixListener;

    use super::*;

    const LOADAVG: &str = "0.52 1.08 0.75 3/412 27011\n";
    const STAT: &str = "cpu  100 20 30 800 40 5 5 0 7 0\ncpu0 1 2 3 4 5 6 7 8 0 0\nintr 1\n";
    const MEMINFO: &str = "MemTotal:       24610104 kB\nMemFree:         1000000 kB\n\
        MemAvailable:   20000000 kB\nBuffers:            1 kB\n";
    const NET_DEV: &str = "Inter-|   Receive                            |  Transmit\n\
         face |bytes packets errs drop fifo frame compressed multicast|bytes packets errs\n\
            lo:  500   10    0    0    0     0          0         0      500      10    0\n\
          eth0: 1000   20    0    0    0     0          0         0     2000      30    0\n\
          eth1:    1    1    0    0    0     0          0         0        2       1    0\n";

    #[test]
    fn recorded_samples_are_parsed() {
        assert_eq!(
            parse_load(LOADAVG),
            Some(Load {
                averages: [0.52, 1.08, 0.75],
                tasks_running: 3,
                tasks: 412,
            })
        );
        let cpu = CpuTime {
            busy: 160,
            all: 1000,
        };
        assert_eq!(parse_cpu(STAT), Some(cpu));
        let memory = Memory {
            total_bytes: 24_610_104 * 1024,
            available_bytes: 20_000_000 * 1024,
        };
        assert_eq!(parse_memory(MEMINFO), Some(memory));
        let traffic = Traffic {
            received_bytes: 1001,
            sent_bytes: 2002,
            loopback_bytes: 500,
        };
        assert_eq!(parse_traffic(NET_DEV), Some(traffic));
    }

    #[test]
    fn truncated_samples_never_panic() {
        for text in [LOADAVG, STAT, MEMINFO, NET_DEV] {
            for cut in 0..text.len() {
                let part = &text[..cut];
                let _ = (parse_load(part), parse_cpu(part));
                let _ = (parse_memory(part), parse_traffic(part));
            }
        }
        assert_eq!(parse_load("a b c 1/2"), None);
        assert_eq!(parse_cpu("cpu  1 2 3"), None);
        assert_eq!(parse_memory("MemTotal: 5 kB\n"), None);
        assert_eq!(parse_traffic(""), None);
    }

    #[test]
    fn ratios_and_rates_handle_zero_and_reset_counters() {
        assert_eq!(percent(1, 3).to_string(), "33.3");
        assert_eq!(percent(1, 0).to_string(), "0");
        assert_eq!(rate(0, 1000, Duration::from_millis(500)), 2000);
        assert_eq!(rate(1000, 0, Duration::from_secs(1)), 0);
        assert_eq!(rate(0, 0, Duration::ZERO), 0);
    }

    #[test]
    fn lines_are_publications_of_the_figures_that_could_be_read() {
        let mut now = Sample::read();
        now.load = parse_load(LOADAVG);
        now.cpu = parse_cpu(STAT);
        now.memory = None;
        now.network = parse_traffic(NET_DEV);
        let text = String::from_utf8(lines(&now, &now)).unwrap();
        let channels: Vec<String> = text
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
            .map(|line| line["channel"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(channels, ["demo:load", "demo:network"]);
    }

    #[test]
    fn thread_publishes_reconnects_and_ends_on_request() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("feed.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let (stop, stopped) = crossbeam_channel::bounded(0);
        let thread = spawn(path, stopped).unwrap();
        for _ in 0..2 {
            let (stream, _) = listener.accept().unwrap();
            let mut line = String::new();
            BufReader::new(stream).read_line(&mut line).unwrap();
            assert!(line.starts_with("{\"channel\":\"demo:load\""), "{line}");
        }
        let stopped_at = Instant::now();
        drop(stop);
        thread.join().unwrap();
        assert!(stopped_at.elapsed() < Duration::from_millis(100));
    }
}
