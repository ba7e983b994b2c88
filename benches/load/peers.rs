//! Other servers beside fanfare and the floor, all measured by the same generator in one run.
//!
//! `cargo bench --bench peers -- --conns 5000 --peer 'NAME|RUNS AS|KIND|FEED|COMMAND'` starts
//! fanfare, the floor ([`baseline_server`]) and each peer as children, connects everybody to all of them with
//! the parts of `fanfare bench`, publishes to them in turns, and prints one table. A peer is told
//! the path of its feed by `--feed PATH`, serves `/ws` or `/sse`, and prints `http://ADDR:PORT`
//! when it is ready. One that cannot be measured is left out with a line that says why. Exit
//! status 1 when fanfare or the floor lost a publication; `benches/load/peers/run` has the peers.
#![allow(
    clippy::expect_used,
    clippy::format_push_string,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "a program for the command line, on input of its own"
)]

mod baseline_server;
mod contender;
mod ratio;
mod results;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::str::FromStr;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Error, Result, anyhow, bail, ensure};
use clap::Parser;
use fanfare_generator::figures::PublishFigures;
use fanfare_generator::load_test::LoadTest;
use fanfare_generator::publisher::{FeedFormat, PAYLOAD_BYTES_MIN};
use fanfare_generator::stream_parser::Kind;

use contender::Contender;
use results::{Results, Round, ServerResults};

/// Second byte of the addresses that the first server's clients come from.
const FIRST_NETWORK: u8 = 32;
/// Fanfare with each of its transports, and the floor.
const OWN: usize = 3;

/// Compares servers, in turns: the next burst when everybody has the last one.
#[derive(Debug, Parser)]
#[command(name = "peers")]
struct Options {
    /// Connections to each server.
    #[arg(long, default_value_t = 100)]
    conns: usize,
    /// Bytes of JSON in each publication; at least 64.
    #[arg(long, default_value_t = 100)]
    payload: usize,
    /// Publications that arrive together; may be repeated [default: 1 and 10].
    #[arg(long)]
    burst: Vec<u32>,
    /// Bursts that are measured at a time.
    #[arg(long, default_value_t = 20)]
    bursts: u32,
    /// Times that all servers are started and measured.
    #[arg(long, default_value_t = 1)]
    rounds: u32,
    /// Workers of fanfare and of the floor.
    #[arg(long, default_value_t = 2)]
    workers: u32,
    /// Flags handed on to `fanfare serve`, as one argument.
    #[arg(long, default_value = "", allow_hyphen_values = true)]
    server_flags: String,
    /// One more server: `NAME|RUNS AS|websocket or events|lines or posts|COMMAND ...`; may be
    /// repeated. RUNS AS is for the table, lines and posts say what its feed takes.
    #[arg(long)]
    peer: Vec<Peer>,
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

/// A server of somebody else.
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
            bail!("five parts are needed, with | between them");
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
    fn burst_sizes(&self) -> Vec<u32> {
        if self.burst.is_empty() {
            vec![1, 10]
        } else {
            self.burst.clone()
        }
    }

    /// The floor first, since all others are compared with it.
    fn results(&self) -> Results {
        let workers = format!("{} threads", self.workers);
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

    /// The server with this place in the results.
    fn stage(&self, index: usize) -> Result<LoadTest> {
        let fanfare = || contender::fanfare(self.workers, &self.server_flags);
        let (command, feed_flag, form, kind) = match index {
            0 => {
                let command = contender::floor(self.workers)?;
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
            payload_bytes: self.payload,
        };
        contender.stage()
    }
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("peers: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// False when one of our own lost something.
fn run(options: &Options) -> Result<bool> {
    if let Some(feed) = &options.serve_floor {
        return baseline_server::serve(feed, options.workers).map(|()| true);
    }
    ensure!(
        options.payload >= PAYLOAD_BYTES_MIN,
        "a payload has at least {PAYLOAD_BYTES_MIN} bytes"
    );
    let mut results = options.results();
    for number in 0..options.rounds {
        round(options, usize::try_from(number)?, &mut results.0);
    }
    let text = if options.json {
        results.json()
    } else {
        results.text()
    };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(results.0.iter().take(OWN).all(ServerResults::is_clean))
}

/// Starts all that have not failed, and measures them in turns, so that whatever else the machine
/// does falls on all of them.
fn round(options: &Options, number: usize, results: &mut [ServerResults]) {
    let mut order: Vec<usize> = (0..results.len()).collect();
    // Whoever comes first finds the kernel's caches cold, so they take turns at that too.
    order.rotate_left(number % results.len());
    let mut stages: Vec<(usize, LoadTest, Vec<PublishFigures>)> = Vec::new();
    for index in order {
        let server = &mut results[index];
        if server.failure.is_some() {
            continue;
        }
        match options.stage(index) {
            Ok(stage) => stages.push((index, stage, Vec::new())),
            Err(error) => fail(server, &error),
        }
    }
    for burst in options.burst_sizes() {
        for (index, stage, all_measured) in &mut stages {
            let server = &mut results[*index];
            if server.failure.is_some() {
                continue;
            }
            // What another server's turn has left in the queues is not this one's.
            thread::sleep(Duration::from_millis(50));
            match stage.publish_in_turns(burst, options.bursts) {
                Ok(measured) => all_measured.push(measured),
                Err(error) => fail(server, &anyhow!("{error:#}; {}", stage.troubles())),
            }
        }
    }
    for (index, stage, measured) in stages {
        if results[index].failure.is_none() {
            let connected = stage.connected().clone();
            results[index].rounds.push(Round {
                connected,
                measured,
            });
        }
    }
}

/// Notes what went wrong, so that no further rounds follow.
fn fail(server: &mut ServerResults, error: &Error) {
    server.failure = Some(format!("{error:#}"));
}
