//! Compares other servers with fanfare and the floor. One generator measures all servers in one
//! run.
//!
//! `cargo bench --bench peers -- --conns 5000 --peer 'NAME|RUNS AS|KIND|FEED|COMMAND'` starts
//! fanfare, the floor ([`baseline_server`]) and each peer as children. The program connects the
//! clients of `fanfare bench` to each server, publishes to one server after another and prints one
//! table. A peer must accept the path of its feed as `--feed PATH`, serve `/ws` or `/sse`, and
//! print `http://ADDR:PORT` when it is ready. A peer that cannot be measured is left out of the
//! table, and a line of the output states the cause. The exit status is 1 if fanfare or the floor
//! lost a publication. `benches/load/peers/run` defines the peers.
#![allow(
    clippy::expect_used,
    clippy::format_push_string,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "a program for the command line, on input of its own"
)]

mod baseline_server;
mod contender;
mod options;
mod ratio;
mod results;

use std::process::{Command, ExitCode};
use std::str::FromStr;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Error, Result, anyhow, bail};
use clap::Parser;
use fanfare_generator::figures::PublishFigures;
use fanfare_generator::load_test::LoadTest;
use fanfare_generator::publisher::FeedFormat;
use fanfare_generator::stream_parser::Kind;

use contender::Contender;
use options::SharedOptions;
use results::{OWN, Results, Round, ServerResults};

/// The second byte of the loopback addresses of the first server's clients.
const FIRST_NETWORK: u8 = 32;

/// Compares servers. Each burst is sent after all clients have received the previous burst.
#[derive(Debug, Parser)]
#[command(name = "peers")]
struct Options {
    /// Connections to each server.
    #[arg(long, default_value_t = 100)]
    conns: usize,
    /// One more server: `NAME|RUNS AS|websocket or events|lines or posts|COMMAND ...`; may be
    /// repeated. RUNS AS is shown in the table; lines or posts is the format of its feed.
    #[arg(long)]
    peer: Vec<Peer>,
    #[command(flatten)]
    shared: SharedOptions,
}

/// A server of another project.
#[derive(Clone, Debug)]
struct Peer {
    name: String,
    runs_as: String,
    kind: Kind,
    form: FeedFormat,
    command: Vec<String>,
}

impl FromStr for Peer {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parts: Vec<&str> = text.splitn(5, '|').collect();
        let [name, runs_as, kind, feed, command] = parts[..] else {
            bail!("a peer has five parts, separated by |");
        };
        Ok(Self {
            name: name.to_owned(),
            runs_as: runs_as.to_owned(),
            kind: match kind {
                "websocket" => Kind::RawWebSocket,
                "events" => Kind::RawEvents,
                other => bail!("{other} is neither websocket nor events"),
            },
            form: match feed {
                "lines" => FeedFormat::Payloads,
                "posts" => FeedFormat::Posts,
                other => bail!("{other} is neither lines nor posts"),
            },
            command: command.split_whitespace().map(str::to_owned).collect(),
        })
    }
}

impl Options {
    /// Returns empty results for all servers. The floor (the baseline server) is the first, because
    /// all other servers are compared with the first.
    fn results(&self) -> Results {
        let workers = format!("{} threads", self.shared.workers);
        let own = ["floor", "fanfare WebSocket", "fanfare SSE"];
        let own = own.map(|name| (name.to_owned(), workers.clone()));
        let peers = self.peer.iter();
        let peers = peers.map(|peer| (peer.name.clone(), peer.runs_as.clone()));
        let server = |(name, runs_as)| ServerResults {
            name,
            runs_as,
            rounds: Vec::new(),
            failure: None,
        };
        Results(own.into_iter().chain(peers).map(server).collect())
    }

    /// Starts the server with this index in the results.
    fn start(&self, index: usize) -> Result<LoadTest> {
        let fanfare = || contender::fanfare(self.shared.workers, &self.shared.server_flags);
        let (command, feed_flag, form, kind) = match index {
            0 => {
                let command = contender::floor(self.shared.workers)?;
                (
                    command,
                    "--serve-floor",
                    FeedFormat::Frames,
                    Kind::RawWebSocket,
                )
            }
            1 => (fanfare(), "--feed", FeedFormat::Lines, Kind::WebSocket),
            2 => (fanfare(), "--feed", FeedFormat::Lines, Kind::EventStream),
            _ => {
                let peer = self.peer.get(index - OWN).context("no such peer")?;
                let (program, arguments) = peer.command.split_first().context("no command")?;
                let mut command = Command::new(program);
                command.args(arguments);
                (command, "--feed", peer.form, peer.kind)
            }
        };
        let contender = Contender {
            command,
            feed_flag,
            form,
            kinds: vec![(kind, self.conns)],
            network: FIRST_NETWORK + u8::try_from(index)?,
            payload_bytes: self.shared.payload,
        };
        contender.start()
    }
}

fn main() -> ExitCode {
    let options = Options::parse();
    options::run("peers", &options.shared, || compare(&options))
}

fn compare(options: &Options) -> Result<Results> {
    let mut results = options.results();
    for number in 0..options.shared.rounds {
        round(options, usize::try_from(number)?, &mut results.0);
    }
    Ok(results)
}

/// Runs one round: starts all servers that have not failed, and measures them one after another for
/// each burst size, so that other load on the machine affects all servers.
fn round(options: &Options, number: usize, results: &mut [ServerResults]) {
    let mut order: Vec<usize> = (0..results.len()).collect();
    // The kernel's caches are cold for the first server, so each round starts with a different
    // server.
    order.rotate_left(number % results.len());
    let mut load_tests: Vec<(usize, LoadTest, Vec<PublishFigures>)> = Vec::new();
    for index in order {
        let server = &mut results[index];
        if server.failure.is_some() {
            continue;
        }
        match options.start(index) {
            Ok(load_test) => load_tests.push((index, load_test, Vec::new())),
            Err(error) => fail(server, &error),
        }
    }
    for burst in options.shared.burst_sizes() {
        for (index, load_test, all_measured) in &mut load_tests {
            let server = &mut results[*index];
            if server.failure.is_some() {
                continue;
            }
            // In this pause, the kernel finishes the work that is left from the previous
            // measurement.
            thread::sleep(Duration::from_millis(50));
            match load_test.publish_in_turns(burst, options.shared.bursts) {
                Ok(measured) => all_measured.push(measured),
                Err(error) => fail(server, &anyhow!("{error:#}; {}", load_test.troubles())),
            }
        }
    }
    for (index, load_test, measured) in load_tests {
        if results[index].failure.is_none() {
            let connected = load_test.connected().clone();
            results[index].rounds.push(Round {
                connected,
                measured,
            });
        }
    }
}

/// Records the failure of a server, which is then not started in later rounds.
fn fail(server: &mut ServerResults, error: &Error) {
    server.failure = Some(format!("{error:#}"));
}
