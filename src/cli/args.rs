//! The subcommands, their flags and the help texts.
//!
//! This module contains only data: the file of each subcommand reads the struct of its flags. The
//! `serve` flags that set configuration keys declare no environment variable here, because
//! [`fanfare::config::file`] has one for every key. The help texts of these flags name the variable
//! in clap's form.
//!
//! All help texts have one layout: summary, usage, arguments, options, notes, exit status,
//! examples. They are wrapped at `HELP_COLUMNS_MAX`.

#![expect(
    clippy::doc_markdown,
    reason = "help texts have names of variables in clap's form"
)]

use std::ffi::{OsStr, OsString};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{NonEmptyStringValueParser, Resettable};
use clap::{
    Arg, ArgMatches, Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand, ValueEnum,
};

use super::operator::args::{
    ChannelsArgs, ConfigArgs, ConnsArgs, KickArgs, LogLevelArgs, ReloadArgs, SocketArgs, TopArgs,
    WorkersArgs,
};
use fanfare::config::file::Overrides;
use fanfare::config::{ADMIN_DEFAULT, Algorithm, Listen};
use fanfare::feed::protocol::draft::check_event;
use fanfare::feed::protocol::refusal::Refusal;
use fanfare::id::ChannelName;
use fanfare::pattern::Pattern;
use fanfare::traceparent::TraceParent;
use fanfare_generator::options::BenchArgs;

/// The maximum width of a help text, in columns.
const HELP_COLUMNS_MAX: usize = 100;

/// The version of the program, with the commit of a release build.
pub(crate) const VERSION: &str =
    concat!(env!("CARGO_PKG_VERSION"), " (", env!("BUILD_COMMIT"), ")");
/// The version, and what the program was built for.
const LONG_VERSION: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    " (",
    env!("BUILD_COMMIT"),
    ")\ntarget: ",
    env!("BUILD_TARGET"),
    "\nfeatures: websocket sse poll tls journal deflate io_uring jwt proxy_protocol systemd"
);

/// A push server for one Linux machine: it takes publications from a Unix socket and delivers them
/// over WebSocket, server-sent events and polls.
#[derive(Debug, Parser)]
#[command(name = "fanfare", version = VERSION, long_version = LONG_VERSION)]
#[command(propagate_version = true, disable_help_subcommand = true)]
#[command(max_term_width = HELP_COLUMNS_MAX)]
#[command(after_help = "\
Exit status:
  0  success
  1  failure while running
  2  bad usage or configuration

Guide: fanfare help topics

Examples:
  fanfare serve --demo
  fanfare subscribe 'ws://127.0.0.1:8080/ws?channel=prices'
  fanfare publish prices '{\"eur\":1.0841}'
  fanfare check /etc/fanfare/fanfare.toml
  fanfare doctor --target 1000000
  fanfare top")]
pub(crate) struct Arguments {
    /// The subcommand.
    #[command(subcommand)]
    pub(crate) command: Command,
}

impl Arguments {
    /// Parses the arguments. A negative number after an option is parsed as the value of the
    /// option, so that an error names the option. An empty environment variable counts as unset.
    ///
    /// # Errors
    /// Returns the text to print and the exit status: a usage error, a help text or the version.
    pub(crate) fn take(line: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let is_empty = |name: &OsStr| std::env::var_os(name).is_some_and(|value| value.is_empty());
        let take_negative = |arg: Arg| match arg.get_action().takes_values() {
            true => arg.allow_negative_numbers(true),
            false => arg,
        };
        let skip_empty = |arg: Arg| match arg.get_env() {
            Some(name) if is_empty(name) => arg.env(Resettable::Reset),
            _ => arg,
        };
        let mut command = Self::command()
            .mut_subcommands(|sub| sub.mut_args(|arg| skip_empty(take_negative(arg))));
        let mut matches: ArgMatches = command.try_get_matches_from_mut(line)?;
        Self::from_arg_matches_mut(&mut matches).map_err(|error| error.format(&mut command))
    }
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Put load on a server and account for every publication.
    Bench(Box<BenchArgs>),
    /// List the channels of a running server.
    Channels(ChannelsArgs),
    /// Validate a configuration and the files that it names.
    Check(CheckArgs),
    /// Print the configuration that a running server uses, and where each value is from.
    Config(ConfigArgs),
    /// List the connections of a running server.
    Conns(ConnsArgs),
    /// Report how many connections this machine can hold and which limit binds first.
    Doctor(DoctorArgs),
    /// Write man pages and shell completions.
    Generate(GenerateArgs),
    /// Ask a running server whether it is ready.
    Health(HealthArgs),
    /// Print the help of a command, or a page of the guide.
    Help(HelpArgs),
    /// Back up the journal of a running server, or check a journal.
    Journal(JournalArgs),
    /// Close connections of a running server.
    Kick(KickArgs),
    /// Print or change the log level of a running server.
    LogLevel(LogLevelArgs),
    /// Send publications to the feed of a running server.
    Publish(PublishArgs),
    /// Reload the configuration, certificates and keys of a running server.
    Reload(ReloadArgs),
    /// Run the server.
    Serve(ServeArgs),
    /// Print what a subscriber receives.
    Subscribe(SubscribeArgs),
    /// Make a token for testing.
    Token(TokenArgs),
    /// Watch the load, the slowest connections and the busiest channels of a running server.
    Top(TopArgs),
    /// List the workers of a running server.
    Workers(WorkersArgs),
}

/// Arguments of `fanfare serve`.
#[derive(Clone, Debug, Default, Args)]
#[command(after_help = "\
A value is taken from the first of these that has it: flag, environment variable, file, default.
Every key of the file has a variable: FANFARE_, its section and its name in capitals. An empty
variable counts as unset. A problem that `fanfare check` finds, or a damaged journal, ends with
status 2. An address that is in use ends with status 1.

Exit status:
  0  success, after a signal and a drain
  1  failure at the start or while running
  2  bad usage or configuration

Guide: fanfare help operations

Examples:
  fanfare serve
  fanfare serve --demo
  fanfare serve --listen 0.0.0.0:8080 --workers 4
  FANFARE_HEARTBEAT_INTERVAL_MS=15000 fanfare serve --config /etc/fanfare/fanfare.toml")]
pub(crate) struct ServeArgs {
    /// Configuration file [env: FANFARE_CONFIG] [default: none].
    #[arg(long, value_name = "FILE", env = "FANFARE_CONFIG", hide_env = true)]
    pub(crate) config: Option<PathBuf>,
    /// Address to listen on for clients; "ADDR:PORT tls" serves TLS; repeatable
    /// [env: FANFARE_LISTEN] [default: 127.0.0.1:8080].
    #[arg(long, value_name = "ADDR:PORT")]
    pub(crate) listen: Vec<Listen>,
    /// Unix socket of the feed [env: FANFARE_FEED] [default: feed.sock in $RUNTIME_DIRECTORY,
    /// /run/user/UID/fanfare or /tmp/fanfare-UID].
    #[arg(long, value_name = "PATH")]
    pub(crate) feed: Option<PathBuf>,
    /// Directory of the journal of publications [env: FANFARE_JOURNAL_PATH] [default: none].
    #[arg(long, value_name = "DIR")]
    pub(crate) journal: Option<PathBuf>,
    /// Address for metrics and health checks, or off [env: FANFARE_ADMIN]
    /// [default: 127.0.0.1:9180].
    #[arg(long, value_name = "ADDR:PORT")]
    pub(crate) admin: Option<String>,
    /// Worker threads; 0 is one per core [env: FANFARE_WORKERS] [default: 0].
    #[arg(long, value_name = "N")]
    pub(crate) workers: Option<u32>,
    /// Log level: error, warn, info or debug [env: FANFARE_LOGGING_LEVEL] [default: info].
    #[arg(long, value_name = "LEVEL")]
    pub(crate) log: Option<String>,
    /// Serve TLS with a certificate generated at start, for testing; on 127.0.0.1:8443 if no
    /// address has tls [env: FANFARE_TLS_SELF_SIGNED].
    #[arg(long)]
    pub(crate) tls_self_signed: bool,
    /// Publish load, memory and network figures of this machine every second.
    #[arg(long)]
    pub(crate) demo: bool,
}

impl ServeArgs {
    /// Returns the configuration keys that the flags set.
    #[must_use]
    pub(crate) fn overrides(&self) -> Overrides {
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
Without DATA, each line of standard input is one publication. A line that the feed refuses does not
stop the others. With --ack, each line has an idempotency key. If the server restarts, the lines
that it has not acknowledged are sent again, for up to a minute; with a journal no line is lost or
published twice.

Exit status:
  0  success
  1  a line was refused, or failure while running
  2  bad usage or configuration

Guide: fanfare help publishing

Examples:
  fanfare publish prices '{\"eur\":1.0841}'
  fanfare publish chat:42 --text 'Good morning' --event greeting
  vmstat -n 1 | fanfare publish load --text
  fanfare publish prices --ack < prices.ndjson")]
pub(crate) struct PublishArgs {
    /// Channel to publish to.
    #[arg(value_parser = ChannelName::new)]
    pub(crate) channel: ChannelName,
    /// Payload: JSON, or any text with --text.
    #[arg(allow_hyphen_values = true)]
    pub(crate) data: Option<String>,
    /// Send the payload as text instead of JSON.
    #[arg(long)]
    pub(crate) text: bool,
    /// Type of the publication: `event:` of server-sent events.
    #[arg(long, value_name = "NAME", value_parser = event)]
    pub(crate) event: Option<String>,
    /// Conflation key; a later publication with the same key supersedes this one.
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    pub(crate) key: Option<String>,
    /// W3C trace context of the publications, such as 00-TRACE-SPAN-01.
    #[arg(long, value_name = "CONTEXT")]
    pub(crate) traceparent: Option<TraceParent>,
    /// Wait for acknowledgements; print ids and numbers of subscribers as JSON.
    #[arg(long)]
    pub(crate) ack: bool,
    /// Unix socket of the feed [env: FANFARE_FEED] [default: as for serve].
    #[arg(long, value_name = "PATH", env = "FANFARE_FEED", hide_env = true)]
    pub(crate) feed: Option<PathBuf>,
}

/// Arguments of `fanfare subscribe`.
#[derive(Debug, Args)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a switch of the command line, and any of them can be combined"
)]
#[command(after_help = "\
ws://HOST/ws?channel=NAME prints each publication as one line of JSON; http://HOST/sse?channel=NAME
prints the data of each event; http://HOST/poll?channel=NAME polls and prints each publication as
ws:// does. wss:// and https:// use TLS. A lost connection is made again with exponential back-off
and jitter, and resumes after the last id. Failed attempts and gaps are reported on standard error.
An error that a further attempt would repeat, such as a missing token or an unknown certificate, ends
the program at once.

Exit status:
  0  success: --count publications, the end of the stream, or a closed standard output
  1  refused by the server, --timeout, or failure while running
  2  bad usage or configuration

Guide: fanfare help subscribing

Examples:
  fanfare subscribe 'ws://127.0.0.1:8080/ws?channel=prices'
  fanfare subscribe 'http://127.0.0.1:8080/sse?channel=prices&channel=news' --ids
  fanfare subscribe 'ws://127.0.0.1:8080/ws?channel=a' --count 1 --timeout 5
  fanfare subscribe 'wss://example.org/ws?channel=a' --token-file token --cacert authority.pem")]
pub(crate) struct SubscribeArgs {
    /// URL with the transport and the channels, such as ws://HOST/ws?channel=NAME.
    pub(crate) url: String,
    /// End after this many publications.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
    /// Fail if the program has not ended after this time.
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub(crate) timeout: Option<Duration>,
    /// Resume after this id; with `first`, begin with everything that the log holds.
    #[arg(long, value_name = "ID")]
    pub(crate) since: Option<String>,
    /// Begin with this many of the newest publications of each channel.
    #[arg(long, value_name = "N", conflicts_with = "since")]
    pub(crate) last: Option<u32>,
    /// Send this header field; repeatable.
    #[arg(long = "header", value_name = "NAME: VALUE", value_parser = header)]
    pub(crate) headers: Vec<Header>,
    /// Send this token; other users of the machine see it in the list of processes.
    #[arg(long, value_name = "TOKEN", conflicts_with = "token_file")]
    pub(crate) token: Option<String>,
    /// Send the token in this file, which is read for each connection.
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// Trust the certificates in this PEM file instead of the authorities of the system.
    #[arg(long, value_name = "FILE")]
    pub(crate) cacert: Option<PathBuf>,
    /// Accept any certificate: for tests only, the server can be an impostor.
    #[arg(long, conflicts_with = "cacert")]
    pub(crate) insecure: bool,
    /// End when the connection ends.
    #[arg(long)]
    pub(crate) no_reconnect: bool,
    /// Print the id and a tab before each publication.
    #[arg(long, conflicts_with = "json")]
    pub(crate) ids: bool,
    /// Print each event of an event stream on one line: {"id","event","data"}.
    #[arg(long)]
    pub(crate) json: bool,
    /// Report control messages and connections on standard error.
    #[arg(long, short)]
    pub(crate) verbose: bool,
}

/// A header field of a request (RFC 9110, 5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// The name, a token (RFC 9110, 5.6.2).
    pub(crate) name: String,
    /// The value, without control characters.
    pub(crate) value: String,
}

/// Arguments of `fanfare token`.
#[derive(Debug, Args)]
#[command(after_help = "\
Prints only the token. The server accepts it if the key file is in [auth] keys.

Exit status:
  0  success
  1  failure while running
  2  bad usage or configuration

Guide: fanfare help authorization

Examples:
  head -c 32 /dev/urandom | base64 -w0 > secret
  FANFARE_AUTH_KEYS='HS256 secret' fanfare serve
  curl -N -H \"Authorization: Bearer $(fanfare token --key secret --subscribe 'chat:*')\" \\
      'http://127.0.0.1:8080/sse?channel=chat:1'")]
pub(crate) struct TokenArgs {
    /// File with the secret.
    #[arg(long, value_name = "FILE")]
    pub(crate) key: PathBuf,
    /// Algorithm: HS256, HS384 or HS512.
    #[arg(long, value_name = "NAME", default_value = "HS256", value_parser = algorithm)]
    pub(crate) algorithm: Algorithm,
    /// Subject of the token.
    #[arg(long, value_name = "NAME")]
    pub(crate) sub: Option<String>,
    /// Channels to subscribe to: a name, or a prefix and *; repeatable.
    #[arg(long, value_name = "PATTERN", value_parser = pattern)]
    pub(crate) subscribe: Vec<String>,
    /// Channels to publish to; repeatable.
    #[arg(long, value_name = "PATTERN", value_parser = pattern)]
    pub(crate) publish: Vec<String>,
    /// Audience, if the server requires one.
    #[arg(long, value_name = "NAME")]
    pub(crate) audience: Option<String>,
    /// Issuer, if the server requires one.
    #[arg(long, value_name = "NAME")]
    pub(crate) issuer: Option<String>,
    /// Lifetime of the token.
    #[arg(long, value_name = "SECONDS", default_value_t = 3600)]
    pub(crate) expires_in: u64,
}

fn algorithm(text: &str) -> Result<Algorithm, String> {
    let algorithm = Algorithm::try_from(String::from(text)).map_err(|error| error.to_string())?;
    match algorithm.secret_bytes_min() {
        Some(_) => Ok(algorithm),
        None => Err(format!(
            "{algorithm} does not sign with a secret; use HS256, HS384 or HS512"
        )),
    }
}

fn event(text: &str) -> Result<String, Refusal> {
    check_event(text).map(|()| String::from(text))
}

pub(super) fn pattern(text: &str) -> Result<String, String> {
    let pattern = Pattern::new(text);
    pattern.map_err(|error| error.to_string())?;
    Ok(String::from(text))
}

/// Arguments of `fanfare check`.
#[derive(Debug, Args)]
#[command(after_help = "\
Reads the certificates, keys and JWK set that the configuration names, and checks the directories of
the feed and the journal, as a start of the server does. Binds, locks and creates nothing, so it can
run beside a server. It runs with the permissions of its user: as ExecStartPre= of the unit it sees
what the server will see. Prints one line for each problem, with file, line and key.

Exit status:
  0  success: there is no problem
  1  failure while running
  2  bad usage or configuration

Guide: fanfare help configuration

Examples:
  fanfare check /etc/fanfare/fanfare.toml
  FANFARE_WORKERS=2 fanfare check")]
pub(crate) struct CheckArgs {
    /// Configuration file; without it, the environment is checked over the defaults.
    pub(crate) file: Option<PathBuf>,
}

/// Arguments of `fanfare doctor`.
#[derive(Debug, Args)]
#[command(after_help = "\
To examine another host, record it there with `fanfare doctor --record DIR`, copy DIR here and run
`fanfare doctor --root DIR`.

Exit status:
  0  success: the target fits, or none was given
  1  the target does not fit, or failure while running
  2  bad usage or configuration

Guide: fanfare help capacity

Examples:
  fanfare doctor
  fanfare doctor --target 1000000
  fanfare doctor --target 1000000 --workers 56 --json
  fanfare doctor --pid $(systemctl show -P MainPID fanfare)")]
pub(crate) struct DoctorArgs {
    /// Report what must change for this many connections.
    #[arg(long, value_name = "CONNS", value_parser = clap::value_parser!(u64).range(1..=TARGET_MAX))]
    pub(crate) target: Option<u64>,
    /// Configuration file [env: FANFARE_CONFIG] [default: none].
    #[arg(long, value_name = "FILE", env = "FANFARE_CONFIG", hide_env = true)]
    pub(crate) config: Option<PathBuf>,
    /// Worker threads; 0 is one per core [env: FANFARE_WORKERS] [default: 0].
    #[arg(long, value_name = "N")]
    pub(crate) workers: Option<u32>,
    /// Percentage of connections whose send buffers are full at the same time.
    #[arg(long, value_name = "PERCENT", default_value_t = 1, value_parser = clap::value_parser!(u8).range(..=100))]
    pub(crate) stalled: u8,
    /// Examine the limits of this process, such as the running server.
    #[arg(long, value_name = "PID")]
    pub(crate) pid: Option<u32>,
    /// Print one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
    /// Read the recorded host below this directory [default: /].
    #[arg(long, value_name = "DIR")]
    pub(crate) root: Option<PathBuf>,
    /// Copy the files that are read to this directory.
    #[arg(long, value_name = "DIR")]
    pub(crate) record: Option<PathBuf>,
}

/// Arguments of `fanfare health`.
#[derive(Debug, Args)]
#[command(after_help = "\
Sends one request to the admin listener of a running server and prints the answer, which takes at
most 3 seconds. Health checks of containers can use it, because it needs no other program.

Exit status:
  0  success: the server is ready, or alive with --live
  1  the server is not ready, or it does not answer
  2  bad usage or configuration

Guide: fanfare help operations

Examples:
  fanfare health
  fanfare health --live --admin 127.0.0.1:9180")]
pub(crate) struct HealthArgs {
    /// Admin listener [env: FANFARE_ADMIN] [default: 127.0.0.1:9180].
    #[arg(long, value_name = "ADDR:PORT", value_parser = admin, default_value_t = ADMIN_DEFAULT)]
    #[arg(env = "FANFARE_ADMIN", hide_env = true, hide_default_value = true)]
    pub(crate) admin: SocketAddr,
    /// Ask only whether the process answers (/healthz), not whether it is ready (/readyz).
    #[arg(long)]
    pub(crate) live: bool,
}

fn admin(text: &str) -> Result<SocketAddr, String> {
    if text == "off" {
        return Err(String::from(
            "a server without admin listener has no health check",
        ));
    }
    text.parse()
        .map_err(|_not_an_address| String::from("it is not an address with a port"))
}

/// Arguments of `fanfare journal`.
#[derive(Debug, Args)]
#[command(after_help = "\
`backup` lets a running server copy its journal to DIR, which must not exist or must be empty. The
server's user writes DIR; under systemd it can write below /var/lib/fanfare. Publications continue
meanwhile. If the command is ended, the copy is removed. A start from the copy begins a new epoch.

`check` reads every record as a start of the server does, and changes nothing. It prints what the
journal contains and what a start would do. It copies the store's logs to TMPDIR for the check. A
directory without a journal ends with status 2.

Exit status:
  0  success: the copy is complete and on disk, or no publication is missing
  1  publications are missing or damaged, a server uses the journal, or failure while running
  2  bad usage or configuration

Guide: fanfare help operations

Examples:
  sudo fanfare journal backup /var/lib/fanfare/backup
  sudo -u fanfare fanfare journal check /var/lib/fanfare/backup")]
pub(crate) struct JournalArgs {
    /// What to do: backup or check.
    #[arg(value_enum, hide_possible_values = true)]
    pub(crate) action: JournalAction,
    /// New directory for the backup, or directory of the journal to check.
    #[arg(value_name = "DIR")]
    pub(crate) directory: PathBuf,
    /// The flag that names the server of a backup.
    #[command(flatten)]
    pub(crate) socket: SocketArgs,
}

/// What `fanfare journal` does.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum JournalAction {
    /// Let a running server copy its journal.
    Backup,
    /// Check a journal that no server uses.
    Check,
}

/// Arguments of `fanfare help`.
#[derive(Debug, Args)]
#[command(after_help = "\
A page is shown in a pager if standard output is a terminal. PAGER names the pager; the default is
less.

Exit status:
  0  success
  1  failure while running
  2  bad usage or configuration

Guide: fanfare help getting-started

Examples:
  fanfare help topics
  fanfare help troubleshooting
  fanfare help protocol | grep -A5 since
  fanfare help serve")]
pub(crate) struct HelpArgs {
    /// A command, a topic of the guide, or `topics` for the list of topics.
    pub(crate) name: Option<String>,
}

/// Arguments of `fanfare generate`.
#[derive(Debug, Args)]
#[command(after_help = "\
Writes man/man1, man/man5, man/man7 and completions/{bash,fish,zsh} below DIR. Existing files of
the same names are replaced.

Exit status:
  0  success
  1  failure while running
  2  bad usage or configuration

Guide: fanfare help getting-started

Examples:
  fanfare generate /tmp/fanfare
  fanfare generate . && man -l man/man7/fanfare-protocol.7")]
pub(crate) struct GenerateArgs {
    /// Directory to write to. It is created if it does not exist.
    #[arg(value_name = "DIR")]
    pub(crate) directory: PathBuf,
}

/// The maximum value of `--target`. It is far more than any machine can hold.
const TARGET_MAX: u64 = 1_000_000_000_000;

pub(super) fn seconds(text: &str) -> Result<Duration, String> {
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
        return Err(format!("the value of `{name}` has a control character"));
    }
    Ok(Header {
        name: String::from(name),
        value: String::from(value),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Command, clap::Error> {
        let line = line.split_whitespace().map(OsString::from);
        Arguments::take(line).map(|arguments| arguments.command)
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
    fn bad_usage_has_status_2_and_help_has_0() {
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
        for (line, flag) in [
            ("fanfare bench --seconds x", "--seconds"),
            ("fanfare bench --websockets -1", "--websockets"),
            ("fanfare subscribe ws://h/ws --count -1", "--count"),
            ("fanfare subscribe ws://h/ws --timeout -1", "--timeout"),
            ("fanfare token --key k --expires-in -1", "--expires-in"),
            ("fanfare serve --workers -1", "--workers"),
            ("fanfare doctor --target -1", "--target"),
        ] {
            let error = parsed(line).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{line}");
            assert!(error.to_string().contains(flag), "{error}");
        }
        assert_eq!(parsed("fanfare --help").unwrap_err().exit_code(), 0);
        assert_eq!(parsed("fanfare --version").unwrap_err().exit_code(), 0);
    }

    #[test]
    fn help_texts_fit_and_name_a_page_and_two_examples() {
        let mut program = Arguments::command().term_width(HELP_COLUMNS_MAX);
        program.build();
        for sub in program.get_subcommands_mut() {
            let help = sub.render_long_help().to_string();
            let name = sub.get_name();
            for line in help.lines() {
                let columns = line.chars().count();
                assert!(columns <= HELP_COLUMNS_MAX, "{name}: {line}");
            }
            let (_, rest) = help.split_once("Guide: fanfare help ").unwrap();
            let guide_page = rest.split_whitespace().next().unwrap();
            assert!(
                fanfare::guide::page(guide_page).is_some(),
                "{name}: {guide_page}"
            );
            let (_, examples) = help.split_once("Examples:\n").unwrap();
            assert!(examples.lines().count() >= 2, "{name}");
        }
    }

    #[test]
    fn help_texts_name_variables_of_the_configuration() {
        let mut names = 0;
        for sub in Arguments::command().get_subcommands() {
            for arg in sub.get_arguments() {
                let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
                let Some((_, rest)) = help.split_once("[env: ") else {
                    continue;
                };
                let name = rest.split(']').next().unwrap_or_default();
                if name != "FANFARE_CONFIG" {
                    let value = match name {
                        "FANFARE_TLS_SELF_SIGNED" => "true",
                        "FANFARE_LOGGING_LEVEL" => "warn",
                        "FANFARE_LISTEN" | "FANFARE_ADMIN" => "127.0.0.1:1",
                        "FANFARE_WORKERS" => "1",
                        _ => "/tmp/x",
                    };
                    let variable = (name.to_owned(), value.to_owned());
                    let loaded = fanfare::config::file::load(
                        None,
                        [variable].into_iter(),
                        &Overrides::default(),
                    );
                    assert!(loaded.is_ok(), "{name}: {:?}", loaded.err());
                    names += 1;
                }
            }
        }
        assert!(names >= 8, "{names}");
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
    fn seconds_may_have_fractions_and_must_be_a_duration() {
        assert_eq!(seconds("0.25"), Ok(Duration::from_millis(250)));
        assert!(seconds("-1").is_err());
        assert!(seconds("NaN").is_err());
        assert!(seconds("1e99").is_err());
    }
}
