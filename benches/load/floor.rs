//! The server beside the floor: the least that any server of this kind has to do.
//!
//! `cargo bench --bench floor -- --websockets 10000 --event-streams 10000 --bursts 10 --rounds 4`
//! starts the `fanfare` program and [`baseline_server`] as children, connects everybody to both with the
//! parts of `fanfare bench`, publishes to them in turns, and prints ratios. Exit status 1 when a
//! publication was lost, doubled, out of order, or skipped without a word.
#![allow(
    clippy::expect_used,
    clippy::format_push_string,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "a program for the command line, on input of its own"
)]

mod baseline_server;
mod comparison;
mod contender;
mod ratio;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Parser;
use fanfare_generator::load_test::LoadTest;
use fanfare_generator::publisher::{FeedFormat, PAYLOAD_BYTES_MIN};
use fanfare_generator::stream_parser::Kind;

use comparison::{Comparison, Side};
use contender::Contender;

/// Compares the server with the floor, in turns: the next burst when everybody has the last one.
#[derive(Debug, Parser)]
#[command(name = "floor")]
struct Options {
    /// WebSocket connections.
    #[arg(long, default_value_t = 100)]
    websockets: usize,
    /// Event streams. The floor has plain frames for them too.
    #[arg(long, default_value_t = 100)]
    event_streams: usize,
    /// Bytes of JSON in each publication; at least 64.
    #[arg(long, default_value_t = 100)]
    payload: usize,
    /// Publications that arrive together; may be repeated [default: 1 and 10].
    #[arg(long)]
    burst: Vec<u32>,
    /// Bursts that are measured at a time.
    #[arg(long, default_value_t = 20)]
    bursts: u32,
    /// Times that both servers are started and measured.
    #[arg(long, default_value_t = 1)]
    rounds: u32,
    /// Workers of each server.
    #[arg(long, default_value_t = 2)]
    workers: u32,
    /// Flags handed on to `fanfare serve`, as one argument.
    #[arg(long, default_value = "", allow_hyphen_values = true)]
    server_flags: String,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    /// Be the floor's server with its feed at this path; for the program itself.
    #[arg(long, hide = true)]
    serve_floor: Option<PathBuf>,
    /// What cargo adds.
    #[arg(long, hide = true)]
    bench: bool,
    /// What some test runners add.
    #[arg(long, hide = true)]
    test: bool,
}

impl Options {
    fn burst_sizes(&self) -> Vec<u32> {
        if self.burst.is_empty() {
            vec![1, 10]
        } else {
            self.burst.clone()
        }
    }

    fn stage(&self, which: Side) -> Result<LoadTest> {
        let payload_bytes = self.payload;
        let contender = match which {
            Side::Fanfare => Contender {
                command: contender::fanfare(self.workers, &self.server_flags),
                feed_flag: "--feed",
                form: FeedFormat::Lines,
                kinds: vec![
                    (Kind::WebSocket, self.websockets),
                    (Kind::EventStream, self.event_streams),
                ],
                network: 16,
                payload_bytes,
            },
            Side::Floor => Contender {
                command: contender::floor(self.workers)?,
                feed_flag: "--serve-floor",
                form: FeedFormat::Frames,
                kinds: vec![(Kind::RawWebSocket, self.websockets + self.event_streams)],
                network: 17,
                payload_bytes,
            },
        };
        contender.stage()
    }
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("floor: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// False when something was lost.
fn run(options: &Options) -> Result<bool> {
    if let Some(feed) = &options.serve_floor {
        return baseline_server::serve(feed, options.workers).map(|()| true);
    }
    ensure!(
        options.payload >= PAYLOAD_BYTES_MIN,
        "a payload has at least {PAYLOAD_BYTES_MIN} bytes"
    );
    let comparison = compare(options)?;
    let text = if options.json {
        comparison.json()
    } else {
        comparison.text()
    };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(comparison.is_clean())
}

/// Measures both in turns, so that whatever else the machine does falls on both.
fn compare(options: &Options) -> Result<Comparison> {
    let mut comparison = Comparison::default();
    for round in 0..options.rounds {
        // Whoever comes first finds the kernel's caches cold, so they swap.
        let order = if round % 2 == 0 {
            [Side::Floor, Side::Fanfare]
        } else {
            [Side::Fanfare, Side::Floor]
        };
        let mut stages = Vec::new();
        for which in order {
            let stage = options.stage(which)?;
            comparison
                .connected
                .push((which, stage.connected().clone()));
            stages.push((which, stage));
        }
        for burst in options.burst_sizes() {
            for (which, stage) in &mut stages {
                // What the other server's turn has left in the queues is not this one's.
                thread::sleep(Duration::from_millis(50));
                let measured = stage.publish_in_turns(burst, options.bursts)?;
                comparison.measured.push((*which, measured));
            }
        }
    }
    Ok(comparison)
}
