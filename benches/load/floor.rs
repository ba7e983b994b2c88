//! Compares fanfare with the floor, a baseline server that does the minimum of work per delivery.
//!
//! `cargo bench --bench floor -- --websockets 10000 --event-streams 10000 --bursts 10 --rounds 4`
//! starts `fanfare` and [`baseline_server`] as child processes. The benchmark connects the clients
//! of `fanfare bench` to both servers, publishes to them alternately and prints ratios. The exit
//! status is 1 if a publication was lost, duplicated, out of order, or skipped.
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
mod options;
mod ratio;

use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use anyhow::Result;
use clap::Parser;
use fanfare_generator::load_test::LoadTest;
use fanfare_generator::publisher::FeedFormat;
use fanfare_generator::stream_parser::Kind;

use comparison::{Comparison, Side};
use contender::Contender;
use options::SharedOptions;

/// Compares fanfare with the floor, the baseline server. Each burst is sent after all clients have
/// received the previous burst.
#[derive(Debug, Parser)]
#[command(name = "floor")]
struct Options {
    /// WebSocket connections.
    #[arg(long, default_value_t = 100)]
    websockets: usize,
    /// The number of event stream connections. The floor (the baseline server) sends WebSocket
    /// frames even on these.
    #[arg(long, default_value_t = 100)]
    event_streams: usize,
    #[command(flatten)]
    shared: SharedOptions,
}

impl Options {
    /// Starts one of the two servers.
    fn start(&self, side: Side) -> Result<LoadTest> {
        let payload_bytes = self.shared.payload;
        let contender = match side {
            Side::Fanfare => Contender {
                command: contender::fanfare(self.shared.workers, &self.shared.server_flags),
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
                command: contender::floor(self.shared.workers)?,
                feed_flag: "--serve-floor",
                form: FeedFormat::Frames,
                kinds: vec![(Kind::RawWebSocket, self.websockets + self.event_streams)],
                network: 17,
                payload_bytes,
            },
        };
        contender.start()
    }
}

fn main() -> ExitCode {
    let options = Options::parse();
    options::run("floor", &options.shared, || compare(&options))
}

/// Measures the two servers alternately, so that other load on the machine affects both.
fn compare(options: &Options) -> Result<Comparison> {
    let mut comparison = Comparison::default();
    for round in 0..options.shared.rounds {
        // The kernel's caches are cold for the first server of a round, so the order changes in
        // each round.
        let order = if round % 2 == 0 {
            [Side::Floor, Side::Fanfare]
        } else {
            [Side::Fanfare, Side::Floor]
        };
        let mut load_tests = Vec::new();
        for side in order {
            let load_test = options.start(side)?;
            comparison
                .connected
                .push((side, load_test.connected().clone()));
            load_tests.push((side, load_test));
        }
        for burst in options.shared.burst_sizes() {
            for (side, load_test) in &mut load_tests {
                // In this pause, the kernel finishes the work that is left from the previous
                // measurement.
                thread::sleep(Duration::from_millis(50));
                let measured = load_test.publish_in_turns(burst, options.shared.bursts)?;
                comparison.measured.push((*side, measured));
            }
        }
    }
    Ok(comparison)
}
