//! A server of a comparison: the command that starts it, the protocols of its clients, and the
//! format of its feed.
//!
//! This file starts the server and connects all clients, but measures nothing. It also defines the
//! commands of fanfare and of the floor (the baseline server), which are part of every comparison.
//! The user of the comparison defines the commands of other servers.

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

/// The number of descriptors that a client thread needs in addition to those of its connections.
const SPARE_DESCRIPTORS: usize = 64;
/// The channel to which all clients subscribe.
const CHANNEL: &str = "bench";

/// A server to compare.
pub(crate) struct Contender {
    /// The command that starts the server, without the path of its feed.
    pub(crate) command: Command,
    /// The flag of the command whose value is the path of the feed.
    pub(crate) feed_flag: &'static str,
    /// The format in which publications are written to the server's feed.
    pub(crate) form: FeedFormat,
    /// The number of connections of each kind.
    pub(crate) kinds: Vec<(Kind, usize)>,
    /// The second byte of the clients' loopback addresses. Servers that run at the same time have
    /// clients with different second bytes.
    pub(crate) network: u8,
    /// The number of bytes of JSON in each publication.
    pub(crate) payload_bytes: usize,
}

impl Contender {
    /// Starts the server and connects all clients.
    pub(crate) fn start(self) -> Result<LoadTest> {
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
        let payloads = Some((self.form, payloads));
        LoadTest::open(server, plan, payloads, &ProgressBar::hidden())
    }
}

/// Returns the command of the program under test.
pub(crate) fn fanfare(workers: u32, server_flags: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fanfare"));
    command
        .args(["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
        .args(["--log", "warn", "--workers", &workers.to_string()])
        .args(server_flags.split_whitespace());
    command
}

/// Returns the command that starts the floor (the baseline server). The floor is this program with
/// the flag `--serve-floor` and the path of the feed. The caller must add the flag and the path.
pub(crate) fn floor(workers: u32) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["--workers", &workers.to_string()]);
    Ok(command)
}
