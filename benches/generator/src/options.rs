//! The command line of `fanfare bench`, and the checks of its flags.
//!
//! With the default flags, a run takes a few seconds.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::plan::{CHURN_SECONDS, Plan};
use super::publisher::{PAYLOAD_BYTES_MIN, Payloads};
use super::stream_parser::Kind;
use super::tally::{IdRule, Start};

/// The maximum of `--seconds` and `--idle`.
const SECONDS_MAX: f64 = 1e6;
/// The maximum of `--rate`, in publications per second.
const RATE_MAX: f64 = 1e9;

/// The shortest message that fanfare compresses, in bytes.
pub const DEFLATE_BYTES_MIN: usize = 256;
/// The number of descriptors that a client thread needs in addition to those of its connections.
const SPARE_DESCRIPTORS: u64 = 64;

/// Arguments of `fanfare bench`.
#[derive(Clone, Debug, Args)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a switch of the command line, and any of them can be combined"
)]
#[command(after_help = "\
Starts a server of its own, or attaches to a running one, subscribes, publishes stamped publications
through the feed, and checks on every connection that each arrives once and in order.

Exit status:
  0  success: every publication is accounted for
  1  one was lost, doubled, out of order or skipped without a gap, or failure while running
  2  bad usage or configuration

Guide: fanfare help benchmarks

Examples:
  fanfare bench
  fanfare bench --websockets 10000 --event-streams 10000 --rate 100 --burst 10 --seconds 30
  fanfare bench --websockets 20000 --event-streams 0 --stalled 10 --rate 100 --json
  fanfare bench --websockets 0 --event-streams 0 --polls 20000 --rate 1 --seconds 10
  fanfare bench --websockets 10000 --event-streams 0 --deflate --payload 1024
  fanfare bench --websockets 1000000 --event-streams 0 --workers 56 --rate 0.1 --seconds 30 --probe
  fanfare bench --attach 127.0.0.1:8080 --feed /run/fanfare/feed.sock --pid 4711
  fanfare bench --attach 192.0.2.7:80 --channel prices --listen-only --seconds 60")]
pub struct BenchArgs {
    /// WebSocket connections.
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub websockets: usize,
    /// Event stream connections.
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub event_streams: usize,
    /// Connections that send one long poll after another.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub polls: usize,
    /// Channel name; several are NAME:0, NAME:1 and so on.
    #[arg(long, value_name = "NAME", default_value = "bench")]
    pub channel: String,
    /// Channels that connections and publications use in turn.
    #[arg(long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..))]
    pub channels: u16,
    /// Publications per second in total; 0 publishes nothing, like --listen-only.
    #[arg(long, value_name = "PER_SECOND", default_value_t = 20.0)]
    pub rate: f64,
    /// Time to publish or listen; 0 only connects.
    #[arg(long, value_name = "SECONDS", default_value_t = 2.0)]
    pub seconds: f64,
    /// Publications sent together.
    #[arg(long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub burst: u32,
    /// Bytes of JSON in each publication, 64 or more.
    #[arg(long, value_name = "BYTES", default_value_t = 100)]
    #[arg(default_value_if("deflate", "true", "1024"))]
    pub payload: usize,
    /// Offer permessage-deflate on each WebSocket; --payload is then 256 or more, by default 1024.
    #[arg(long)]
    pub deflate: bool,
    /// Publish nothing; check what others publish.
    #[arg(long)]
    pub listen_only: bool,
    /// Percentage of connections that read only at the end.
    #[arg(long, value_name = "PERCENT", default_value_t = 0)]
    pub stalled: usize,
    /// Percentage of connections that read slowly.
    #[arg(long, value_name = "PERCENT", default_value_t = 0)]
    pub slow: usize,
    /// Extra connections per second, each open for one second.
    #[arg(long, value_name = "PER_SECOND", default_value_t = 0)]
    pub churn: usize,
    /// Measure idle connections for this time before publishing.
    #[arg(long, value_name = "SECONDS", default_value_t = 0.0)]
    pub idle: f64,
    /// Times to connect and drop all clients; publishes nothing.
    #[arg(long, value_name = "TIMES", default_value_t = 0)]
    pub storms: u32,
    /// While publishing, request / on a new connection every 50 ms.
    #[arg(long)]
    pub probe: bool,
    /// Fail if a connection that reads at full speed has a gap.
    #[arg(long)]
    pub strict: bool,
    /// Use a server that is already running.
    #[arg(long, value_name = "ADDR:PORT")]
    pub attach: Option<SocketAddr>,
    /// Feed of that server, to publish.
    #[arg(long, value_name = "PATH", requires = "attach")]
    pub feed: Option<PathBuf>,
    /// Process of that server, to measure it.
    #[arg(long, value_name = "PID", requires = "attach")]
    pub pid: Option<u32>,
    /// Worker threads of the server that is started.
    #[arg(long, value_name = "N", default_value_t = 2, conflicts_with = "attach")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub workers: u32,
    /// Flags for `fanfare serve`, as one argument.
    #[arg(
        long,
        value_name = "FLAGS",
        default_value = "",
        conflicts_with = "attach"
    )]
    #[arg(allow_hyphen_values = true)]
    pub server_flags: String,
    /// Address to connect from; repeatable [default: many of 127.0.0.0/8].
    #[arg(long, value_name = "ADDR")]
    pub source: Vec<IpAddr>,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
    /// Write a plot of the latencies to this SVG file.
    #[arg(long, value_name = "FILE")]
    pub plot: Option<PathBuf>,
}

impl BenchArgs {
    /// Checks the flags against each other and against the number of descriptors per table.
    ///
    /// # Errors
    /// Returns a message for the user that names the flag.
    pub fn check(&self, descriptors: u64) -> Result<(), String> {
        if self.conns() == 0 {
            let what = "no connections: --websockets, --event-streams and --polls are all 0";
            return Err(what.to_owned());
        }
        if self.payload < PAYLOAD_BYTES_MIN {
            let payload = self.payload;
            return Err(format!(
                "--payload is {payload}; use {PAYLOAD_BYTES_MIN} or more"
            ));
        }
        if self.deflate && self.payload < DEFLATE_BYTES_MIN {
            return Err(format!(
                "--deflate needs --payload {DEFLATE_BYTES_MIN} or more: less is not compressed"
            ));
        }
        if self.deflate && self.websockets == 0 {
            return Err("--deflate is for --websockets, of which there are none".to_owned());
        }
        if self.stalled + self.slow > 0 && !self.publishes() {
            return Err(
                "--stalled and --slow need publications: --rate and --seconds above 0, and \
                        neither --listen-only nor --storms"
                    .to_owned(),
            );
        }
        if self.stalled + self.slow > 99 {
            return Err(
                "--stalled and --slow are 100 % or more: no connection is left that reads"
                    .to_owned(),
            );
        }
        for (flag, value, max) in [
            ("--seconds", self.seconds, SECONDS_MAX),
            ("--idle", self.idle, SECONDS_MAX),
            ("--rate", self.rate, RATE_MAX),
        ] {
            if !(0.0..=max).contains(&value) {
                return Err(format!("{flag} is {value}; use a number from 0 to {max}"));
            }
        }
        if self.channels > 1 && usize::from(self.channels) > self.conns() {
            return Err("--channels is more than the number of connections".to_owned());
        }
        if self.attach.is_some() && self.publishes() && self.feed.is_none() {
            let what = "--attach needs --feed PATH to publish, or --listen-only";
            return Err(what.to_owned());
        }
        if let Some(source) = self.source.iter().find(|source| {
            self.attach
                .is_some_and(|target| source.is_ipv4() != target.is_ipv4())
                || (self.attach.is_none() && !source.is_loopback())
        }) {
            return Err(format!(
                "--source is {source}, which cannot reach the server"
            ));
        }
        let per_worker = descriptors.saturating_sub(SPARE_DESCRIPTORS).max(1);
        let all = self.population() as u64;
        if self.attach.is_none() && u64::from(self.workers) * per_worker < all {
            // The kernel distributes connections over workers at random, so each worker needs some
            // spare descriptors.
            let enough = (all + all / 20).div_ceil(per_worker);
            return Err(format!(
                "{all} connections need --workers {enough}: each has {descriptors} descriptors"
            ));
        }
        Ok(())
    }

    /// Returns a name that is at least as long as the longest channel name of the run.
    #[must_use]
    pub fn longest_channel_name(&self) -> String {
        format!("{}:{}", self.channel, self.channels)
    }

    /// Returns the number of connections, excluding churning ones.
    #[must_use]
    pub fn conns(&self) -> usize {
        self.websockets + self.event_streams + self.polls
    }

    /// Returns the number of connections of each kind.
    #[must_use]
    pub fn kinds(&self) -> Vec<(Kind, usize)> {
        let websocket = if self.deflate {
            Kind::CompressedWebSocket
        } else {
            Kind::WebSocket
        };
        vec![
            (websocket, self.websockets),
            (Kind::EventStream, self.event_streams),
            (Kind::Poll, self.polls),
        ]
    }

    /// Returns the maximum number of simultaneous connections, including churning ones.
    fn population(&self) -> usize {
        self.conns() + self.churn * (CHURN_SECONDS + 1)
    }

    /// Whether anything is published.
    #[must_use]
    pub fn publishes(&self) -> bool {
        self.rate > 0.0 && !self.listen_only && self.seconds > 0.0 && self.storms == 0
    }

    /// Returns the time between two bursts.
    #[must_use]
    pub fn interval(&self) -> Duration {
        Duration::try_from_secs_f64(f64::from(self.burst) / self.rate).unwrap_or(Duration::MAX)
    }

    /// Returns a plan of the connections to this server.
    #[must_use]
    pub fn plan(&self, target: SocketAddr, descriptors: u64, cpus: usize) -> Plan {
        let per_thread = descriptors.saturating_sub(SPARE_DESCRIPTORS).max(1);
        let per_thread = usize::try_from(per_thread).unwrap_or(usize::MAX);
        let needed = self.population().div_ceil(per_thread);
        let has_own_ids = self.attach.is_none()
            && self.publishes()
            && !self
                .server_flags
                .split_whitespace()
                .any(|flag| flag == "--demo");
        Plan {
            target,
            sources: self.source.clone(),
            network: 16,
            kinds: self.kinds(),
            threads: needed.max(cpus.min(self.conns())).max(1),
            channel: self.channel.clone(),
            channels: self.channels,
            stalled: self.stalled,
            slow: self.slow,
            churn: self.churn,
            ids: if has_own_ids {
                IdRule::Numbers
            } else {
                IdRule::Rising
            },
            start: if self.publishes() {
                Start::First
            } else {
                Start::Anywhere
            },
        }
    }

    /// Returns the payloads to publish.
    #[must_use]
    pub fn payloads(&self) -> Payloads {
        Payloads {
            bytes: self.payload,
            channel: self.channel.clone(),
            channels: self.channels,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: BenchArgs,
    }

    fn parsed(flags: &str) -> BenchArgs {
        let line = ["bench"].into_iter().chain(flags.split_whitespace());
        Line::try_parse_from(line).unwrap().args
    }

    #[test]
    fn contradictory_flags_are_refused_by_name() {
        for (flags, word) in [
            ("--websockets 0 --event-streams 0", "no connections"),
            ("--payload 10", "64"),
            ("--deflate --payload 255", "256"),
            ("--deflate --websockets 0", "--websockets"),
            ("--stalled 60 --slow 40", "--slow"),
            ("--rate=-1", "--rate"),
            ("--seconds nan", "--seconds"),
            ("--channels 300", "--channels"),
            ("--attach 127.0.0.1:1", "--feed"),
            ("--source 192.0.2.1", "--source"),
            ("--websockets 1000000", "--workers 53"),
        ] {
            let refused = parsed(flags).check(20_000).unwrap_err();
            assert!(refused.contains(word), "{flags}: {refused}");
        }
        parsed("--websockets 1000000 --workers 56")
            .check(20_000)
            .unwrap();
        parsed("--attach 127.0.0.1:1 --rate 0")
            .check(20_000)
            .unwrap();
    }

    #[test]
    fn default_payload_is_long_enough_to_be_compressed() {
        assert_eq!(parsed("").payload, 100);
        assert_eq!(parsed("--deflate").payload, 1024);
        assert_eq!(parsed("--payload 300 --deflate").payload, 300);
    }

    #[test]
    fn threads_follow_from_descriptors_and_processors() {
        let target = "127.0.0.1:1".parse().unwrap();
        let threads = |flags: &str| parsed(flags).plan(target, 20_000, 2).threads;
        assert_eq!(threads(""), 2);
        assert_eq!(threads("--websockets 1 --event-streams 0"), 1);
        assert_eq!(threads("--websockets 1000000 --event-streams 0"), 51);
    }

    #[test]
    fn ids_are_numbers_only_without_other_publishers() {
        let target = "127.0.0.1:1".parse().unwrap();
        let plan = |flags: &str| parsed(flags).plan(target, 20_000, 2);
        assert_eq!(
            (plan("").ids, plan("").start),
            (IdRule::Numbers, Start::First)
        );
        let attached = plan("--attach 127.0.0.1:1 --feed /f");
        assert_eq!(
            (attached.ids, attached.start),
            (IdRule::Rising, Start::First)
        );
        let listening = plan("--attach 127.0.0.1:1 --listen-only");
        assert_eq!(
            (listening.ids, listening.start),
            (IdRule::Rising, Start::Anywhere)
        );
        assert_eq!(plan("--server-flags --demo").ids, IdRule::Rising);
    }
}
