//! Measures the latency from a feeder to one subscriber, compared with an echo, and the lines per
//! second from a feeder to the log.
//!
//! `cargo bench --bench latency` starts the `fanfare` program and [`echo`] as children. To measure
//! the latency, the program sends one line at a time, alternately to the two servers, on an
//! otherwise idle machine. The latency is the time from just before the feeder's `write` until the
//! subscriber's `read` returns the line. To measure the lines per second, a feeder writes lines to
//! a channel without subscribers as fast as the socket accepts them. The last line asks for an
//! acknowledgement, which the server sends after all lines are in the log. In this measurement,
//! server and feeder have one processor each. The exit status is 1 if a line is missing.
#![allow(
    clippy::expect_used,
    clippy::format_push_string,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "a program for the command line, on input of its own"
)]

mod echo;
mod ratio;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use fanfare::sys::cpu;
use fanfare_generator::server::Server;
use serde_json::{Value, json};

use ratio::Ratio;

/// The time between two lines. It is so long that both servers sleep before each line.
const PING_INTERVAL: Duration = Duration::from_millis(1);
/// The longest wait for a response.
const TIMEOUT: Duration = Duration::from_secs(60);
/// The number of lines that the feeder sends in one write.
const LINES_TOGETHER: u64 = 4096;

/// Measures the path from a feeder to the log and to one subscriber.
#[derive(Debug, Parser)]
#[command(name = "latency")]
struct Options {
    /// Lines to each server in each round of latencies.
    #[arg(long, default_value_t = 1000)]
    pings: u32,
    /// Lines in each round of throughput; 0 skips the throughput.
    #[arg(long, default_value_t = 2_000_000)]
    lines: u64,
    /// Bytes of JSON in each publication.
    #[arg(long, default_value_t = 100)]
    payload: usize,
    /// Number of rounds of the latency measurement, and of the throughput measurement.
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Flags for `fanfare serve`, as one argument.
    #[arg(long, default_value = "", allow_hyphen_values = true)]
    server_flags: String,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    /// Run as the echo (the baseline server), with the feed at this path. Only this program sets
    /// the flag.
    #[arg(long, hide = true)]
    serve_echo: Option<PathBuf>,
    /// cargo sets this flag. It is ignored.
    #[arg(long, hide = true)]
    bench: bool,
    /// Some test runners set this flag. It is ignored.
    #[arg(long, hide = true)]
    test: bool,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("latency: {error:#}");
            ExitCode::from(1)
        }
    }
}

fn run(options: &Options) -> Result<()> {
    if let Some(feed) = &options.serve_echo {
        return echo::serve(feed);
    }
    let latency = latency(options)?;
    let throughput = if options.lines == 0 {
        Value::Null
    } else {
        throughput(options)?
    };
    let result = json!({ "latency": latency, "throughput": throughput });
    let text = if options.json {
        format!("{result}\n")
    } else {
        format!("{result:#}\n")
    };
    Ok(std::io::stdout().write_all(text.as_bytes())?)
}

/// Returns the command that starts fanfare with one worker. If `processor` is set, the server runs
/// on that processor only.
fn fanfare(options: &Options, processor: Option<usize>) -> Command {
    let program = env!("CARGO_BIN_EXE_fanfare");
    let mut command = match processor {
        Some(number) => {
            let mut command = Command::new("taskset");
            command.args(["--cpu-list", &number.to_string(), program]);
            command
        }
        None => Command::new(program),
    };
    command
        .args(["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
        .args(["--log", "warn", "--workers", "1"])
        .args(options.server_flags.split_whitespace());
    command
}

/// Returns one line of the feed. The payload has `payload_bytes` bytes and contains the number.
fn line(number: u64, payload_bytes: usize, ack: &str) -> Vec<u8> {
    let mark = mark(number);
    let fill = "x".repeat(payload_bytes.saturating_sub(mark.len() + 2));
    format!("{{\"channel\":\"latency\",\"data\":\"{mark}{fill}\"{ack}}}\n").into_bytes()
}

fn mark(number: u64) -> String {
    format!("<{number:012}>")
}

/// A server with one feeder and one subscriber.
struct Pipeline {
    feeder: UnixStream,
    subscriber: TcpStream,
    buffer: Vec<u8>,
    _server: Server,
}

impl Pipeline {
    fn open(server: Server) -> Result<Self> {
        let feeder = UnixStream::connect(feed(&server)?)?;
        let subscriber = TcpStream::connect(server.address())?;
        subscriber.set_read_timeout(Some(TIMEOUT))?;
        let buffer = vec![0; 64 * 1024];
        Ok(Self {
            feeder,
            subscriber,
            buffer,
            _server: server,
        })
    }

    /// Connects a feeder and a subscriber to the server. Returns after the server has confirmed the
    /// subscription.
    fn subscribed(server: Server) -> Result<Self> {
        let mut pipeline = Self::open(server)?;
        pipeline.subscriber.write_all(
            b"GET /ws?channel=latency HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\n\
              Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
              Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
        )?;
        pipeline.read_until(b"\"subscribed\"")?;
        Ok(pipeline)
    }

    /// Reads until the wanted bytes have arrived. Bytes that come after the wanted bytes are
    /// dropped.
    fn read_until(&mut self, wanted: &[u8]) -> Result<()> {
        let mut held = 0;
        loop {
            let count = self.subscriber.read(&mut self.buffer[held..])?;
            ensure!(count > 0, "the server has closed the connection");
            held += count;
            if memchr::memmem::find(&self.buffer[..held], wanted).is_some() {
                return Ok(());
            }
            ensure!(
                held < self.buffer.len(),
                "the expected bytes did not arrive"
            );
        }
    }

    fn ping(&mut self, number: u64, payload_bytes: usize) -> Result<Duration> {
        let (line, mark) = (line(number, payload_bytes, ""), mark(number));
        let start = Instant::now();
        self.feeder.write_all(&line)?;
        self.read_until(mark.as_bytes())?;
        Ok(start.elapsed())
    }
}

fn feed(server: &Server) -> Result<&Path> {
    server.feed().context("a server without a feed")
}

fn quantile_us(sorted: &[Duration], quantile: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "an index among a few thousand"
    )]
    let index = (last as f64 * quantile).round() as usize;
    sorted[index.min(last)].as_secs_f64() * 1e6
}

/// Measures the latencies of both servers, with lines that are sent to the two servers alternately.
fn latency(options: &Options) -> Result<Value> {
    let mut echo = Command::new(std::env::current_exe()?);
    echo.args(["--lines", "0"]);
    let mut echo = Pipeline::open(Server::start(echo, "--serve-echo")?)?;
    let mut fanfare = Pipeline::subscribed(Server::start(fanfare(options, None), "--feed")?)?;
    let (mut echo_p50, mut fanfare_p50) = (Vec::new(), Vec::new());
    let (mut echo_all, mut fanfare_all) = (Vec::new(), Vec::new());
    let mut number = 0;
    for round in 0..=options.rounds {
        let (mut of_echo, mut of_fanfare) = (Vec::new(), Vec::new());
        for _ in 0..options.pings {
            number += 1;
            thread::sleep(PING_INTERVAL);
            of_echo.push(echo.ping(number, options.payload)?);
            thread::sleep(PING_INTERVAL);
            of_fanfare.push(fanfare.ping(number, options.payload)?);
        }
        // The first round only warms up both servers, so its results are dropped.
        if round > 0 {
            of_echo.sort_unstable();
            of_fanfare.sort_unstable();
            echo_p50.push(quantile_us(&of_echo, 0.5));
            fanfare_p50.push(quantile_us(&of_fanfare, 0.5));
            echo_all.extend(of_echo);
            fanfare_all.extend(of_fanfare);
        }
    }
    echo_all.sort_unstable();
    fanfare_all.sort_unstable();
    let figures = |all: &[Duration]| {
        json!({
            "p50_us": quantile_us(all, 0.5),
            "p90_us": quantile_us(all, 0.9),
            "p99_us": quantile_us(all, 0.99),
        })
    };
    Ok(json!({
        "echo": figures(&echo_all),
        "fanfare": figures(&fanfare_all),
        "p50_ratio": Ratio::new(&fanfare_p50, &echo_p50).json(),
    }))
}

/// Measures how many lines per second a server with one processor appends to the log.
fn throughput(options: &Options) -> Result<Value> {
    let processors = cpu::allowed()?;
    let (own, theirs) = match processors.as_slice() {
        [first, second, ..] => (Some(*second), Some(*first)),
        _ => (None, None),
    };
    let server = Server::start(fanfare(options, theirs), "--feed")?;
    let feed = feed(&server)?.to_owned();
    let payload_bytes = options.payload;
    let lines = options.lines.next_multiple_of(LINES_TOGETHER);
    let mut by_clock = Vec::new();
    let mut by_cpu = Vec::new();
    for round in 0..=options.rounds {
        let before = server.usage()?;
        let feed = feed.clone();
        // Only the feeder's thread is pinned, because processes that the main thread starts later
        // would inherit the pinning.
        let feeding = thread::spawn(move || {
            if let Some(number) = own {
                cpu::pin(number)?;
            }
            write_lines(&feed, lines, payload_bytes, u64::from(round) * (lines + 1))
        });
        let took = feeding
            .join()
            .ok()
            .context("the feeder panicked")??
            .as_secs_f64();
        let used = server.usage()?.since(before);
        let cpu = used.cpu.context("the server cannot be measured")?;
        if round > 0 {
            #[expect(clippy::cast_precision_loss, reason = "a few millions")]
            let lines = lines as f64;
            by_clock.push(lines / took);
            by_cpu.push(lines / cpu.as_secs_f64());
        }
    }
    Ok(json!({
        "lines_per_second": spread(&by_clock),
        "lines_per_server_cpu_second": spread(&by_cpu),
    }))
}

fn spread(figures: &[f64]) -> Value {
    let mut sorted = figures.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    json!({
        "median": sorted.get(sorted.len() / 2),
        "least": sorted.first(),
        "greatest": sorted.last(),
    })
}

/// Writes lines, and returns the time from the first byte to the acknowledgement of the last line.
/// The sequence number in the acknowledgement must show that no line is missing.
fn write_lines(feed: &Path, lines: u64, payload_bytes: usize, before: u64) -> Result<Duration> {
    let mut feeder = UnixStream::connect(feed)?;
    feeder.set_read_timeout(Some(TIMEOUT))?;
    let mut piece = Vec::new();
    for number in 0..LINES_TOGETHER {
        piece.extend(line(number, payload_bytes, ""));
    }
    let start = Instant::now();
    for _ in 0..lines / LINES_TOGETHER {
        feeder.write_all(&piece)?;
    }
    feeder.write_all(&line(lines, payload_bytes, ",\"ack\":true"))?;
    let mut answer = String::new();
    BufReader::new(&feeder).read_line(&mut answer)?;
    let took = start.elapsed();
    let number = format!("-{}\"", before + lines + 1);
    let is_last = answer.contains("\"ok\":true") && answer.contains(&number);
    ensure!(is_last, "{number} is not acknowledged: {answer}");
    Ok(took)
}
