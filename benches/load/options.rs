//! What can be asked of the load generator on its command line.
//!
//! Data and a little arithmetic. The defaults are small, so that `cargo bench` and `cargo test` run
//! the program in a few seconds; each figure that is quoted somewhere comes with the flags for it.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

/// Connections of one generator thread, hence of one descriptor table.
const CONNS_PER_THREAD: usize = 10_000;

/// Subscribes thousands of clients to a real server and accounts for every publication.
#[derive(Debug, Parser)]
#[command(name = "fanout")]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a switch of the command line"
)]
pub(crate) struct Options {
    /// WebSocket connections.
    #[arg(long, default_value_t = 100)]
    pub(crate) websockets: usize,
    /// Event streams.
    #[arg(long, default_value_t = 100)]
    pub(crate) event_streams: usize,
    /// Publications per second.
    #[arg(long, default_value_t = 20.0)]
    pub(crate) rate: f64,
    /// For how long to publish.
    #[arg(long, default_value_t = 2)]
    pub(crate) seconds: u64,
    /// Bytes of JSON in each publication; at least 64.
    #[arg(long, default_value_t = 100)]
    pub(crate) payload: usize,
    /// Publications that arrive together. With --floor it may be repeated [default there: 1 and
    /// 10].
    #[arg(long)]
    pub(crate) burst: Vec<u32>,
    /// Per cent of the connections that stop reading once they are subscribed.
    #[arg(long, default_value_t = 0)]
    pub(crate) stalled: usize,
    /// Compare with the floor, in turns: the next burst when everybody has the last one.
    #[arg(long)]
    pub(crate) floor: bool,
    /// Bursts that are measured at a time with --floor.
    #[arg(long, default_value_t = 20)]
    pub(crate) bursts: u32,
    /// Times that both servers are started and measured with --floor.
    #[arg(long, default_value_t = 1)]
    pub(crate) rounds: u32,
    /// Workers of the server.
    #[arg(long, default_value_t = 2)]
    pub(crate) workers: u32,
    /// Flags handed on to `fanfare serve`, as one argument.
    #[arg(long, default_value = "", allow_hyphen_values = true)]
    pub(crate) server_flags: String,
    /// Print one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
    /// Be the floor's server with its feed at this path; for the program itself.
    #[arg(long, hide = true)]
    pub(crate) serve_floor: Option<PathBuf>,
    /// What cargo adds.
    #[arg(long, hide = true)]
    pub(crate) bench: bool,
    /// What some test runners add.
    #[arg(long, hide = true)]
    pub(crate) test: bool,
}

impl Options {
    /// All connections.
    pub(crate) fn conns(&self) -> usize {
        self.websockets + self.event_streams
    }

    /// Threads of the generator, each with a descriptor table of its own.
    pub(crate) fn threads(&self) -> usize {
        self.conns().div_ceil(CONNS_PER_THREAD).max(2)
    }

    /// Publications that arrive together, for the run without the floor.
    pub(crate) fn burst(&self) -> u32 {
        self.burst.first().copied().unwrap_or(1).max(1)
    }

    /// The sizes of bursts to compare.
    pub(crate) fn burst_sizes(&self) -> Vec<u32> {
        if self.burst.is_empty() {
            vec![1, 10]
        } else {
            self.burst.clone()
        }
    }

    /// Time between two bursts.
    pub(crate) fn interval(&self) -> Duration {
        Duration::from_secs_f64(f64::from(self.burst()) / self.rate.max(0.001))
    }
}
