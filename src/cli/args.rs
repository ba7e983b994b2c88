//! What can be written behind `fanfare`: the subcommands, their flags and the help texts.
//!
//! Data only: each struct is read by the file of its subcommand. Flags of `serve` that stand for
//! keys of the configuration have no environment name here, since [`crate::config::file`] gives
//! every key its own.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Parser, Subcommand};

use super::bench::options::BenchArgs;
use crate::config::Listen;
use crate::config::file::Overrides;
use crate::feed::draft::check_event;
use crate::feed::refusal::Refusal;
use crate::id::ChannelName;
use crate::pattern::Pattern;
use crate::token::Algorithm;

/// A push server for one Linux machine: publications in over a Unix socket, out over WebSocket and
/// server-sent events.
#[derive(Debug, Parser)]
#[command(name = "fanfare", version, propagate_version = true)]
#[command(after_help = "\
Exit status: 0 fine; 1 failed while running; 2 bad usage or configuration, which includes files that
the configuration names and that are missing or cannot be used.

Examples:
  fanfare serve --demo
  fanfare subscribe 'ws://127.0.0.1:8080/ws?channel=prices'
  fanfare publish prices '{\"eur\":1.0841}'
  fanfare check /etc/fanfare/fanfare.toml
  fanfare doctor --target 1000000")]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Put load on a server and account for every publication.
    Bench(Box<BenchArgs>),
    /// Validate a configuration, and the files that it names.
    Check(CheckArgs),
    /// Say how many connections this machine holds, and what stops more.
    Doctor(DoctorArgs),
    /// Send publications to the feed of a running server.
    Publish(PublishArgs),
    /// Run the server.
    Serve(ServeArgs),
    /// Print what a subscriber receives.
    Subscribe(SubscribeArgs),
    /// Make a token for trying out.
    Token(TokenArgs),
}

/// Arguments of `fanfare serve`.
#[derive(Debug, Default, Args)]
#[command(after_help = "\
A value is taken from the first of these that names it: flag, environment variable, file, default.
Every key of the file has a variable: FANFARE_, its section and its name in capitals. An empty
variable is as if unset.

Exit status: 0 drained; 1 the start failed although the configuration is right, such as for an
address in use or an address of another machine; 2 what `fanfare check` finds is wrong.

Examples:
  fanfare serve
  fanfare serve --demo
  fanfare serve --listen 0.0.0.0:8080 --workers 4
  FANFARE_HEARTBEAT_INTERVAL_MS=15000 fanfare serve --config /etc/fanfare/fanfare.toml")]
pub struct ServeArgs {
    /// Configuration file; without it no file is read.
    #[arg(long, value_name = "FILE", env = "FANFARE_CONFIG")]
    pub config: Option<PathBuf>,
    /// Where clients connect, "ADDR:PORT tls" with TLS; may be repeated [default: 127.0.0.1:8080].
    #[arg(long, value_name = "ADDR:PORT")]
    pub listen: Vec<Listen>,
    /// Path of the feed's Unix socket.
    #[arg(long, value_name = "PATH")]
    pub feed: Option<PathBuf>,
    /// Directory of the journal, by which publications outlive a restart [default: none].
    #[arg(long, value_name = "DIR")]
    pub journal: Option<PathBuf>,
    /// Where metrics and health are served; off for nowhere [default: 127.0.0.1:9180].
    #[arg(long, value_name = "ADDR:PORT")]
    pub admin: Option<String>,
    /// Worker threads; 0 is one per core [default: 0].
    #[arg(long, value_name = "N")]
    pub workers: Option<u32>,
    /// Diagnostics: error, warn, info or debug [default: info].
    #[arg(long, value_name = "LEVEL")]
    pub log: Option<String>,
    /// Speak TLS with a certificate made now, which clients have to be told to trust; on
    /// 127.0.0.1:8443 if no address says tls. For trying out.
    #[arg(long)]
    pub tls_self_signed: bool,
    /// Publish this machine's own load, memory and network figures every second.
    #[arg(long)]
    pub demo: bool,
}

impl ServeArgs {
    /// What the flags say about the configuration.
    #[must_use]
    pub fn overrides(&self) -> Overrides {
        Overrides {
            listen: self.listen.clone(),
            feed: self.feed.clone(),
            journal: self.journal.clone(),
            admin: self.admin.clone(),
            workers: self.workers,
            log: self.log.clone(),
            tls_self_signed: self.tls_self_signed,
        }
    }
}

/// Arguments of `fanfare publish`.
#[derive(Debug, Args)]
#[command(after_help = "\
Without DATA each line of standard input is one publication. Exit status 1 when the feed refused a
line; the other lines are published all the same. With --ack each line has an idempotency key of its
own: when the server ends, what it has not acknowledged is sent again to the next one, for up to a
minute, and nothing is lost or doubled if the server has a journal.

Examples:
  fanfare publish prices '{\"eur\":1.0841}'
  fanfare publish chat:42 --text 'Good morning' --event greeting
  vmstat -n 1 | fanfare publish load --text
  fanfare publish prices --ack < prices.ndjson")]
pub struct PublishArgs {
    /// The channel.
    #[arg(value_parser = ChannelName::new)]
    pub channel: ChannelName,
    /// The payload: JSON, or any text with --text.
    #[arg(allow_hyphen_values = true)]
    pub data: Option<String>,
    /// Send text as it is instead of JSON.
    #[arg(long)]
    pub text: bool,
    /// Type of the publication: `event:` of server-sent events.
    #[arg(long, value_name = "NAME", value_parser = event)]
    pub event: Option<String>,
    /// Conflation key: a later publication with it supersedes this one for whoever is behind.
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    pub key: Option<String>,
    /// Wait for each publication to be sequenced; print its id and number of subscribers as JSON.
    #[arg(long)]
    pub ack: bool,
    /// Path of the feed's Unix socket.
    #[arg(long, value_name = "PATH", env = "FANFARE_FEED")]
    pub feed: Option<PathBuf>,
}

/// Arguments of `fanfare subscribe`.
#[derive(Debug, Args)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a switch of the command line, and any of them can be combined"
)]
#[command(after_help = "\
ws://HOST/ws?channel=NAME prints each message as it comes, one JSON object per line;
http://HOST/sse?channel=NAME prints the data of each event; http://HOST/poll?channel=NAME polls and
prints each publication as ws:// does. When the connection is lost it is made again with exponential
back-off and jitter, and resumes behind the last id. Notices such as gaps go to standard error.

Examples:
  fanfare subscribe 'ws://127.0.0.1:8080/ws?channel=prices'
  fanfare subscribe 'http://127.0.0.1:8080/sse?channel=prices&channel=news' --ids
  fanfare subscribe 'ws://127.0.0.1:8080/ws?channel=a' --count 1 --timeout 5
  fanfare subscribe 'http://127.0.0.1:8080/sse?channel=a' --header 'Authorization: Bearer …'")]
pub struct SubscribeArgs {
    /// Where to subscribe: ws:// or http:// with the path of the transport and the channels.
    pub url: String,
    /// End after so many publications.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// Fail when this much time is over before the end.
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub timeout: Option<Duration>,
    /// Resume behind this id.
    #[arg(long, value_name = "ID")]
    pub since: Option<String>,
    /// Send this header field; may be repeated.
    #[arg(long = "header", value_name = "NAME: VALUE", value_parser = header)]
    pub headers: Vec<Header>,
    /// End when the connection ends.
    #[arg(long)]
    pub no_reconnect: bool,
    /// Print the id and a tab before each publication.
    #[arg(long, conflicts_with = "json")]
    pub ids: bool,
    /// Print events as {"id","event","data"}, one per line also if their data has several.
    #[arg(long)]
    pub json: bool,
    /// Tell on standard error of control messages and of the connection's life.
    #[arg(long, short)]
    pub verbose: bool,
}

/// A header field of a request (RFC 9110, 5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Its name, a token.
    pub name: String,
    /// Its value, on one line.
    pub value: String,
}

/// Arguments of `fanfare token`.
#[derive(Debug, Args)]
#[command(after_help = "\
Prints the token alone. The server knows it when the key's file is in [auth] keys.

Examples:
  head -c 32 /dev/urandom | base64 -w0 > secret
  FANFARE_AUTH_KEYS='HS256 secret' fanfare serve
  curl -N -H \"Authorization: Bearer $(fanfare token --key secret --subscribe 'chat:*')\" \\
      'http://127.0.0.1:8080/sse?channel=chat:1'")]
pub struct TokenArgs {
    /// The file with the secret.
    #[arg(long, value_name = "FILE")]
    pub key: PathBuf,
    /// HS256, HS384 or HS512.
    #[arg(long, value_name = "NAME", default_value = "HS256", value_parser = algorithm)]
    pub algorithm: Algorithm,
    /// Whom the token is about.
    #[arg(long, value_name = "NAME")]
    pub sub: Option<String>,
    /// Channels that may be subscribed to: a name, or a beginning with one * behind; repeatable.
    #[arg(long, value_name = "PATTERN", value_parser = pattern)]
    pub subscribe: Vec<String>,
    /// Channels that may be published to; repeatable.
    #[arg(long, value_name = "PATTERN", value_parser = pattern)]
    pub publish: Vec<String>,
    /// For whom it is, if the server asks for an audience.
    #[arg(long, value_name = "NAME")]
    pub audience: Option<String>,
    /// From whom it is, if the server asks for an issuer.
    #[arg(long, value_name = "NAME")]
    pub issuer: Option<String>,
    /// How long it lasts.
    #[arg(long, value_name = "SECONDS", default_value_t = 3600)]
    pub expires_in: u64,
}

fn algorithm(text: &str) -> Result<Algorithm, String> {
    let algorithm = Algorithm::try_from(String::from(text)).map_err(|error| error.to_string())?;
    match algorithm.secret_bytes_min() {
        Some(_) => Ok(algorithm),
        None => Err(format!("only secrets sign here, and {algorithm} has none")),
    }
}

fn event(text: &str) -> Result<String, Refusal> {
    check_event(text).map(|()| String::from(text))
}

fn pattern(text: &str) -> Result<String, String> {
    let pattern = Pattern::new(text);
    pattern.map_err(|error| error.to_string())?;
    Ok(String::from(text))
}

/// Arguments of `fanfare check`.
#[derive(Debug, Args)]
#[command(after_help = "\
Reads the certificates, keys and JWK set that the configuration names, and checks the directories of
the feed and the journal, as a start of the server does. Binds, locks and makes nothing, so it can
run beside a server. Permissions are those of the user that runs it: the unit's ExecStartPre= sees
what the server will see.

Exit status: 0 all is well; 2 something is wrong: one line for each problem, with file, line and key.

Examples:
  fanfare check /etc/fanfare/fanfare.toml
  FANFARE_WORKERS=2 fanfare check")]
pub struct CheckArgs {
    /// The file; without it the environment is checked over the defaults.
    pub file: Option<PathBuf>,
}

/// Arguments of `fanfare doctor`.
#[derive(Debug, Args)]
#[command(after_help = "\
Exit status 1 when the target does not fit. To examine another host, record it there with
`fanfare doctor --record DIR`, bring DIR here and say `fanfare doctor --root DIR`.

Examples:
  fanfare doctor
  fanfare doctor --target 1000000
  fanfare doctor --target 1000000 --workers 56 --json
  fanfare doctor --pid $(systemctl show -P MainPID fanfare)")]
pub struct DoctorArgs {
    /// Say what has to change for so many connections.
    #[arg(long, value_name = "CONNS", value_parser = clap::value_parser!(u64).range(1..=TARGET_MAX))]
    pub target: Option<u64>,
    /// Configuration file; without it no file is read.
    #[arg(long, value_name = "FILE", env = "FANFARE_CONFIG")]
    pub config: Option<PathBuf>,
    /// Worker threads; 0 is one per core [default: 0].
    #[arg(long, value_name = "N")]
    pub workers: Option<u32>,
    /// How many of a hundred connections have a full send buffer at the same time.
    #[arg(long, value_name = "PERCENT", default_value_t = 1, value_parser = clap::value_parser!(u8).range(..=100))]
    pub stalled: u8,
    /// Examine this process's limits instead of our own, such as those of the running server.
    #[arg(long, value_name = "PID")]
    pub pid: Option<u32>,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
    /// Read below this folder: for examining another host's recorded tree.
    #[arg(long, value_name = "DIR", hide_short_help = true)]
    pub root: Option<PathBuf>,
    /// Copy what is read to this folder: for examining this host elsewhere.
    #[arg(long, value_name = "DIR", hide_short_help = true)]
    pub record: Option<PathBuf>,
}

/// The most connections that can be asked for; above it no sum makes sense.
const TARGET_MAX: u64 = 1_000_000_000_000;

fn seconds(text: &str) -> Result<Duration, String> {
    let number: f64 = text
        .parse()
        .map_err(|_not_a_number| format!("`{text}` is not a number of seconds"))?;
    Duration::try_from_secs_f64(number).map_err(|error| error.to_string())
}

fn header(text: &str) -> Result<Header, String> {
    let (name, value) = text
        .split_once(':')
        .ok_or("a header field has the form `Name: value`")?;
    let is_token = !name.is_empty()
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b));
    if !is_token {
        return Err(format!("`{name}` is not a field name"));
    }
    let value = value.trim();
    if value.chars().any(|c| c.is_control() && c != '\t') {
        return Err(String::from("a field value has no control characters"));
    }
    Ok(Header {
        name: String::from(name),
        value: String::from(value),
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn parsed(line: &str) -> Result<Command, clap::Error> {
        Arguments::try_parse_from(line.split_whitespace()).map(|arguments| arguments.command)
    }

    #[test]
    fn arguments_are_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn serve_flags_become_overrides() {
        let line = "fanfare serve --listen 127.0.0.1:1 --listen [::1]:2 --admin= --workers 3 \
                    --log debug --feed /tmp/f";
        let Command::Serve(args) = parsed(line).unwrap() else {
            panic!("another subcommand");
        };
        let overrides = args.overrides();
        assert_eq!(overrides.listen.len(), 2);
        assert_eq!(overrides.admin.as_deref(), Some(""));
        assert_eq!(overrides.workers, Some(3));
        assert_eq!(overrides.log.as_deref(), Some("debug"));
        assert_eq!(overrides.feed, Some(PathBuf::from("/tmp/f")));
    }

    #[test]
    fn bad_usage_has_status_two_and_help_has_zero() {
        for line in [
            "fanfare",
            "fanfare serve --listen nowhere",
            "fanfare publish",
            "fanfare subscribe ws://h/ws --timeout soon",
            "fanfare subscribe ws://h/ws --count 0",
            "fanfare doctor --target 0",
            "fanfare doctor --stalled 101",
            "fanfare subscribe ws://h/ws --header nonsense",
        ] {
            assert_eq!(parsed(line).unwrap_err().exit_code(), 2, "{line}");
        }
        assert_eq!(parsed("fanfare --help").unwrap_err().exit_code(), 0);
        assert_eq!(parsed("fanfare --version").unwrap_err().exit_code(), 0);
    }

    #[test]
    fn publish_takes_data_that_begins_with_a_hyphen() {
        let Command::Publish(args) = parsed("fanfare publish a -1").unwrap() else {
            panic!("another subcommand");
        };
        assert_eq!(args.data.as_deref(), Some("-1"));
    }

    #[test]
    fn publish_refuses_a_channel_with_a_space() {
        let line = ["fanfare", "publish", "a b", "1"];
        assert_eq!(Arguments::try_parse_from(line).unwrap_err().exit_code(), 2);
    }

    #[test]
    fn header_is_split_at_the_first_colon() {
        let read = header("X-A:  b: c ").unwrap();
        assert_eq!((read.name.as_str(), read.value.as_str()), ("X-A", "b: c"));
        assert!(header("a b: c").is_err());
        assert!(header(": c").is_err());
        assert!(header("a: b\r\nc: d").is_err());
    }

    #[test]
    fn seconds_take_fractions_and_refuse_what_is_no_time() {
        assert_eq!(seconds("0.25"), Ok(Duration::from_millis(250)));
        assert!(seconds("-1").is_err());
        assert!(seconds("NaN").is_err());
        assert!(seconds("1e99").is_err());
    }
}
