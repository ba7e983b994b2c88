//! One server of a comparison: how it is started, what its clients speak, and how it is fed.
//!
//! Makes of it a stage, that is the server with everybody connected. Knows the two servers that
//! every comparison has, fanfare and the floor; others come with a command of their own. Measures
//! nothing itself. The comparisons beside this file are the only callers.

use std::process::Command;

use anyhow::Result;
use fanfare::sys::descriptors::raise_limit;
use fanfare_generator::load_test::LoadTest;
use fanfare_generator::plan::Plan;
use fanfare_generator::publisher::{FeedFormat, Payloads};
use fanfare_generator::server::Server;
use fanfare_generator::stream_parser::Kind;
use fanfare_generator::tally::{IdRule, Start};
use indicatif::ProgressBar;

/// Descriptors of a thread that are no connections.
const SPARE_DESCRIPTORS: usize = 64;
/// The one channel of everybody.
const CHANNEL: &str = "bench";

/// A server that takes part.
pub(crate) struct Contender {
    /// Starts it, but for the path of its feed.
    pub(crate) command: Command,
    /// The flag that the path of the feed comes behind.
    pub(crate) feed_flag: &'static str,
    /// How publications are given to it.
    pub(crate) form: FeedFormat,
    /// Its connections.
    pub(crate) kinds: Vec<(Kind, usize)>,
    /// Second byte of its clients' addresses. Crowds of the same time have different ones.
    pub(crate) network: u8,
    /// Bytes of JSON in each publication.
    pub(crate) payload_bytes: usize,
}

impl Contender {
    /// Starts it and connects everybody.
    pub(crate) fn stage(self) -> Result<LoadTest> {
        let server = Server::start(self.command, self.feed_flag)?;
        let conns: usize = self.kinds.iter().map(|(_, count)| count).sum();
        let per_thread = usize::try_from(raise_limit().in_force)?.saturating_sub(SPARE_DESCRIPTORS);
        let plan = Plan {
            target: server.address(),
            sources: Vec::new(),
            network: self.network,
            kinds: self.kinds,
            threads: conns.div_ceil(per_thread.max(1)).max(2),
            channel: CHANNEL.to_owned(),
            channels: 1,
            stalled: 0,
            slow: 0,
            churn: 0,
            ids: IdRule::Numbers,
            start: Start::First,
        };
        let payloads = Payloads {
            bytes: self.payload_bytes,
            channel: CHANNEL.to_owned(),
            channels: 1,
        };
        let publishing = Some((self.form, payloads));
        LoadTest::open(server, plan, publishing, &ProgressBar::hidden())
    }
}

/// The program under test.
pub(crate) fn fanfare(workers: u32, server_flags: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fanfare"));
    command
        .args(["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
        .args(["--log", "warn", "--workers", &workers.to_string()])
        .args(server_flags.split_whitespace());
    command
}

/// The comparison's own program as the floor's server, fed by its flag `--serve-floor`.
pub(crate) fn floor(workers: u32) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["--workers", &workers.to_string()]);
    Ok(command)
}
