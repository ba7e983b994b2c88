//! The flags and help texts of the commands that use the operator's socket.
//!
//! Values are checked here as far as they do not depend on the server, so that a wrong value is a
//! usage error.

#![expect(
    clippy::doc_markdown,
    reason = "help texts have names of variables in clap's form"
)]

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use serde::de::DeserializeOwned;

use super::super::args::{pattern, seconds};
use fanfare::config::Logging;
use fanfare::config::limits::{CLOSE_REASON_BYTES_MAX, OPERATOR_ROWS_MAX};
use fanfare::id::{ChannelName, ConnName};
use fanfare::operator::request::{ChannelSort, ConnFilter, ConnSort, ConnTransport, RowLimit};
use fanfare::proxy::Network;

/// The shortest interval of `fanfare top`.
const INTERVAL_MIN: Duration = Duration::from_millis(200);

/// The flag that names the server.
#[derive(Debug, Args)]
pub(crate) struct SocketArgs {
    /// Operator's socket of the server [env: FANFARE_ADMIN_SOCKET] [default: the path of the
    /// feed and .admin].
    #[arg(
        long,
        value_name = "PATH",
        env = "FANFARE_ADMIN_SOCKET",
        hide_env = true
    )]
    pub(crate) socket: Option<PathBuf>,
}

/// The flags that select connections.
#[derive(Debug, Args)]
pub(crate) struct FilterArgs {
    /// Only the connection with this name, as in logs and messages to backends.
    #[arg(long, value_name = "NAME", value_parser = connection)]
    connection: Option<String>,
    /// Only connections from this address or network, also if a proxy has named it.
    #[arg(long, value_name = "ADDR", value_parser = network)]
    address: Option<String>,
    /// Only connections that are subscribed to this channel.
    #[arg(long, value_name = "NAME", value_parser = channel)]
    channel: Option<String>,
    /// Only connections whose token has this subject.
    #[arg(long, value_name = "NAME")]
    sub: Option<String>,
    /// Only connections of this kind.
    #[arg(long, value_name = "KIND", value_parser = words::<ConnTransport>(&TRANSPORTS))]
    transport: Option<ConnTransport>,
    /// Only connections for which at least this many publications wait.
    #[arg(long, value_name = "N")]
    behind: Option<u64>,
    /// Only connections whose sockets have not accepted at least this many bytes.
    #[arg(long, value_name = "BYTES")]
    unsent: Option<u64>,
}

impl FilterArgs {
    /// Returns the filter of the request.
    #[must_use]
    pub(super) fn filter(&self) -> ConnFilter {
        ConnFilter {
            connection: self.connection.clone(),
            address: self.address.clone(),
            channel: self.channel.clone(),
            sub: self.sub.clone(),
            transport: self.transport,
            behind: self.behind,
            unsent: self.unsent,
        }
    }
}

/// The values of `--transport`.
const TRANSPORTS: [&str; 4] = ["websocket", "event_stream", "poll", "request"];
/// The values of `fanfare conns --sort`.
const CONN_SORTS: [&str; 5] = ["behind", "channels", "silent", "unsent", "connection"];
/// The values of `fanfare channels --sort`.
const CHANNEL_SORTS: [&str; 5] = ["subscribers", "bytes", "publications", "recent", "name"];

/// Arguments of `fanfare conns`.
#[derive(Debug, Args)]
#[command(after_help = "\
Flags that select connections can be combined; a connection must match all of them. The columns:
BEHIND     publications that wait for the connection
UNSENT     bytes that the socket has not accepted, because the client reads too slowly
SILENT     time since the last sign of life of the client
A table that is too wide for the terminal has two lines for each connection. Only root and the
server's user can use the operator's socket.

Exit status:
  0  success
  1  the server does not answer, or refuses the request
  2  bad usage

Guide: fanfare help operations

Examples:
  fanfare conns
  fanfare conns --behind 100 --sort unsent
  fanfare conns --address 203.0.113.0/24 --transport websocket --limit 1000
  sudo -u fanfare fanfare conns --channel prices:eur --json")]
pub(crate) struct ConnsArgs {
    /// The flags that select connections.
    #[command(flatten)]
    pub(super) filter: FilterArgs,
    /// Order of the list: the largest value first, or by name of the connection.
    #[arg(long, value_name = "KEY", default_value = "behind")]
    #[arg(value_parser = words::<ConnSort>(&CONN_SORTS))]
    pub(super) sort: ConnSort,
    /// Maximum length of the list.
    #[arg(long, value_name = "N", default_value = "20", value_parser = limit())]
    pub(super) limit: RowLimit,
    /// Print the server's answer as one line of JSON.
    #[arg(long)]
    pub(super) json: bool,
    /// The flag that names the server.
    #[command(flatten)]
    pub(super) socket: SocketArgs,
}

/// Arguments of `fanfare channels`.
#[derive(Debug, Args)]
#[command(after_help = "\
The columns:
PUBLICATIONS  publications of the channel in the log
BYTES         their size, without the server's own data
RECENT        those of them that were accepted in the last ten seconds
LAST          time since the newest of them

Exit status:
  0  success
  1  the server does not answer, or refuses the request
  2  bad usage

Guide: fanfare help operations

Examples:
  fanfare channels
  fanfare channels 'prices:*' --sort recent --limit 100
  fanfare channels prices:eur --json")]
pub(crate) struct ChannelsArgs {
    /// Name of a channel, or a prefix and *.
    #[arg(value_name = "PATTERN", value_parser = pattern)]
    pub(super) channel: Option<String>,
    /// Order of the list: the largest value first, or by name.
    #[arg(long, value_name = "KEY", default_value = "subscribers")]
    #[arg(value_parser = words::<ChannelSort>(&CHANNEL_SORTS))]
    pub(super) sort: ChannelSort,
    /// Maximum length of the list.
    #[arg(long, value_name = "N", default_value = "20", value_parser = limit())]
    pub(super) limit: RowLimit,
    /// Print the server's answer as one line of JSON.
    #[arg(long)]
    pub(super) json: bool,
    /// The flag that names the server.
    #[command(flatten)]
    pub(super) socket: SocketArgs,
}

/// Arguments of `fanfare workers`.
#[derive(Debug, Args)]
#[command(after_help = "\
The columns DELIVERIES, SENT, TURNS, LATE and WORKED count since the start of the server; `fanfare
top` shows rates. ANSWERED is the time until the worker has answered this command.

Exit status:
  0  success
  1  the server does not answer, or refuses the request
  2  bad usage

Guide: fanfare help operations

Examples:
  fanfare workers
  fanfare workers --json")]
pub(crate) struct WorkersArgs {
    /// Print the server's answer as one line of JSON.
    #[arg(long)]
    pub(super) json: bool,
    /// The flag that names the server.
    #[command(flatten)]
    pub(super) socket: SocketArgs,
}

/// Arguments of `fanfare kick`.
#[derive(Debug, Args)]
#[command(after_help = "\
Needs at least one flag that selects connections. Prints how many connections are being closed. A
WebSocket receives the close code and the reason, and an event stream receives them in an event.
Other connections end. Clients may connect again. To see the connections first, run `fanfare conns`
with the same flags.

Exit status:
  0  success
  1  no connection matches, or the server does not answer or refuses the request
  2  bad usage

Guide: fanfare help operations

Examples:
  fanfare kick --sub alice --reason 'account closed'
  fanfare kick --address 203.0.113.7
  fanfare kick --channel prices:eur --behind 200 --code 4100")]
pub(crate) struct KickArgs {
    /// The flags that select connections.
    #[command(flatten)]
    pub(super) filter: FilterArgs,
    /// Close code for WebSockets [default: 4003].
    #[arg(long, value_name = "CODE")]
    pub(super) code: Option<u16>,
    /// Close reason for WebSockets, at most 123 bytes.
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true
    )]
    #[arg(value_parser = reason)]
    pub(super) reason: String,
    /// The flag that names the server.
    #[command(flatten)]
    pub(super) socket: SocketArgs,
}

/// Arguments of `fanfare config`.
#[derive(Debug, Args)]
#[command(after_help = "\
The source of a value is `default`, the line of a file, a variable or a flag. If the file has a new
value that needs a restart, the value in use is followed by the value after a restart.

Exit status:
  0  success
  1  the server does not answer, or refuses the request
  2  bad usage

Guide: fanfare help operations

Examples:
  fanfare config
  fanfare config --changed
  fanfare config --json")]
pub(crate) struct ConfigArgs {
    /// Only keys that are not at their default, or that change after a restart.
    #[arg(long)]
    pub(super) changed: bool,
    /// Print the server's answer as one line of JSON.
    #[arg(long)]
    pub(super) json: bool,
    /// The flag that names the server.
    #[command(flatten)]
    pub(super) socket: SocketArgs,
}

/// Arguments of `fanfare log-level`.
#[derive(Debug, Args)]
#[command(after_help = "\
Prints the level in use. The new level applies at once, until a restart, or until a reload changes
`logging.level`.

Exit status:
  0  success
  1  the server does not answer, or refuses the request
  2  bad usage

Guide: fanfare help operations

Examples:
  fanfare log-level
  fanfare log-level debug")]
pub(crate) struct LogLevelArgs {
    /// New level.
    #[arg(value_name = "LEVEL", value_parser = PossibleValuesParser::new(Logging::LEVELS))]
    pub(super) level: Option<String>,
    /// The flag that names the server.
    #[command(flatten)]
    pub(super) socket: SocketArgs,
}

/// Arguments of `fanfare reload`.
#[derive(Debug, Args)]
#[command(after_help = "\
Does the same as SIGHUP and `systemctl reload`, and reports the outcome. Prints the keys that have
changed, those that need a restart, and those that a flag or a variable sets. If there is a problem,
it prints all problems on standard error, and nothing has changed.

Exit status:
  0  success: the new configuration is in use
  1  the new configuration is refused, or the server does not answer
  2  bad usage

Guide: fanfare help operations

Examples:
  fanfare reload
  fanfare check /etc/fanfare/fanfare.toml && fanfare reload")]
pub(crate) struct ReloadArgs {
    /// The flag that names the server.
    #[command(flatten)]
    pub(super) socket: SocketArgs,
}

/// Arguments of `fanfare top`.
#[derive(Debug, Args)]
#[command(after_help = "\
The first rates are averages since the start of the server; later rates are of the last interval. If
the server restarts, the command waits for it. Control+C ends the command. If standard output is not
a terminal, the figures are printed one below the other, without limits of width and length.

Exit status:
  0  success: --count, Control+C, or a closed standard output
  1  the server does not answer the first request, or refuses it
  2  bad usage

Guide: fanfare help operations

Examples:
  fanfare top
  fanfare top --interval 0.5
  fanfare top --count 2 --interval 10 > figures.txt")]
pub(crate) struct TopArgs {
    /// Time between two requests, at least 0.2.
    #[arg(long, value_name = "SECONDS", default_value = "2", value_parser = interval)]
    pub(super) interval: Duration,
    /// End after this many screens.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) count: Option<u64>,
    /// The flag that names the server.
    #[command(flatten)]
    pub(super) socket: SocketArgs,
}

/// Returns a parser for words of the protocol.
fn words<T>(list: &'static [&'static str]) -> impl TypedValueParser<Value = T> + use<T>
where
    T: DeserializeOwned + Clone + Send + Sync + 'static,
{
    PossibleValuesParser::new(list)
        .try_map(|text| serde_json::from_value::<T>(serde_json::Value::String(text)))
}

fn limit() -> impl TypedValueParser<Value = RowLimit> {
    clap::value_parser!(u32)
        .range(1..=i64::from(OPERATOR_ROWS_MAX))
        .try_map(RowLimit::try_from)
}

fn connection(text: &str) -> Result<String, String> {
    let is_name = text.parse::<ConnName>().is_ok();
    match is_name {
        true => Ok(String::from(text)),
        false => Err(String::from(
            "the name of a connection has 40 hexadecimal digits",
        )),
    }
}

fn network(text: &str) -> Result<String, String> {
    let network: Result<Network, _> = text.parse();
    network.map_err(|error| error.to_string())?;
    Ok(String::from(text))
}

fn channel(text: &str) -> Result<String, String> {
    ChannelName::with_reserved(text).map_err(|error| error.to_string())?;
    if text.contains('*') {
        return Err(String::from("it is the name of one channel, without *"));
    }
    Ok(String::from(text))
}

fn reason(text: &str) -> Result<String, String> {
    match text.len() {
        0..=CLOSE_REASON_BYTES_MAX => Ok(String::from(text)),
        bytes => Err(format!(
            "it has {bytes} bytes, more than {CLOSE_REASON_BYTES_MAX}"
        )),
    }
}

fn interval(text: &str) -> Result<Duration, String> {
    let interval = seconds(text)?;
    if interval < INTERVAL_MIN {
        return Err(String::from("the shortest interval is 0.2 seconds"));
    }
    Ok(interval)
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, FromArgMatches as _, Parser};

    use super::*;

    #[derive(Debug, Parser)]
    struct Conns {
        #[command(flatten)]
        args: ConnsArgs,
    }

    fn conns(line: &str) -> Result<ConnsArgs, clap::Error> {
        let matches = Conns::command().try_get_matches_from(line.split(' '))?;
        Ok(Conns::from_arg_matches(&matches)?.args)
    }

    #[test]
    fn each_word_of_a_list_is_a_word_of_the_protocol() {
        for word in TRANSPORTS {
            let args = conns(&format!("conns --transport {word}")).unwrap();
            let sent = serde_json::to_string(&args.filter.filter()).unwrap();
            assert_eq!(sent, format!("{{\"transport\":\"{word}\"}}"));
        }
        for word in CONN_SORTS {
            let args = conns(&format!("conns --sort {word}")).unwrap();
            assert_eq!(serde_json::to_value(args.sort).unwrap(), word);
        }
        for word in CHANNEL_SORTS {
            let value = serde_json::Value::from(word);
            assert!(serde_json::from_value::<ChannelSort>(value).is_ok());
        }
    }

    #[test]
    fn defaults_are_those_of_the_protocol() {
        let args = conns("conns").unwrap();
        assert!(args.filter.filter().is_empty());
        assert_eq!(args.sort, ConnSort::default());
        assert_eq!(args.limit, RowLimit::default());
    }

    #[test]
    fn wrong_values_are_usage_errors() {
        for flag in [
            "--limit 0",
            "--limit 1001",
            "--sort age",
            "--transport tcp",
            "--address example.org",
            "--address 10.0.0.1/8",
            "--connection abc",
            "--channel a*",
            "--behind -1",
        ] {
            assert_eq!(conns(&format!("conns {flag}")).unwrap_err().exit_code(), 2);
        }
        assert!(reason(&"x".repeat(123)).is_ok() && reason(&"x".repeat(124)).is_err());
        assert_eq!(interval("0.2"), Ok(INTERVAL_MIN));
        assert!(interval("0.1").is_err());
    }
}
