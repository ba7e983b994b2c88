//! The answers of the operator's socket.
//!
//! Each type is the whole answer to one request, except [`ErrorAnswer`], which answers a request
//! that failed. Times are in the unit that the end of the name says.

use serde::{Deserialize, Serialize};

use super::request::ConnTransport;

/// The answer to a request that failed. Nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct ErrorAnswer {
    /// What is wrong, one problem per line.
    pub error: String,
}

/// The answer to `backup`, after the copy is complete and durable.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct BackupAnswer {
    /// The id of the last publication in the copy.
    pub last: String,
    /// The number of publications in the copy.
    pub publications: u64,
    /// The total size of their records in bytes.
    pub bytes: u64,
    /// The time that the backup took.
    pub took_ms: u64,
}

/// The answer to `conns`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct ConnsAnswer {
    /// The connections, in the order of the request.
    pub conns: Vec<ConnRow>,
    /// The number of connections that match the filter.
    pub matched: u64,
    /// The number of all connections.
    pub open: u64,
    /// The numbers of the workers that have not answered in time. Their connections are missing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub silent_workers: Vec<u16>,
}

/// A connection.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct ConnRow {
    /// The name of the connection, as in logs and in messages to backends.
    pub connection: String,
    /// The number of the worker that serves the connection.
    pub worker: u16,
    /// The address of the peer, unless the kernel no longer knows it.
    pub peer: Option<String>,
    /// The address of the client, if a proxy has named it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    /// What the connection is used for.
    pub transport: ConnTransport,
    /// Whether the connection uses TLS.
    pub tls: bool,
    /// Whether the server is closing the connection.
    pub closing: bool,
    /// The subject of the connection's token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sub: Option<String>,
    /// The number of channels.
    pub channels: u64,
    /// The names of at most three of the channels.
    pub first_channels: Vec<String>,
    /// The number of publications that wait for the connection.
    pub behind: u64,
    /// The size of these publications in bytes.
    pub behind_bytes: u64,
    /// The number of bytes that the socket has not accepted.
    pub unsent_bytes: u64,
    /// The number of bytes that the socket has accepted and the peer has not acknowledged.
    pub unacknowledged_bytes: u64,
    /// The time since the last sign of life of the peer.
    pub silent_ms: u64,
}

/// The answer to `channels`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct ChannelsAnswer {
    /// The channels, in the order of the request.
    pub channels: Vec<ChannelRow>,
    /// The number of channels that match the pattern.
    pub matched: u64,
    /// The number of all channels.
    pub open: u64,
    /// The numbers of the workers that have not answered in time. Their subscribers are missing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub silent_workers: Vec<u16>,
}

/// A channel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct ChannelRow {
    /// The name.
    pub channel: String,
    /// The number of subscribers.
    pub subscribers: u64,
    /// The number of publications in the log.
    pub publications: u64,
    /// The size of these publications in bytes, without the server's own data.
    pub bytes: u64,
    /// The number of these publications that were accepted in the last ten seconds.
    pub recent: u64,
    /// The id of the newest publication, even if it has left the log. `None` if there was none.
    pub last_id: Option<String>,
    /// The age of the newest publication in the log.
    pub last_age_ms: Option<u64>,
}

/// The answer to `workers`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct WorkersAnswer {
    /// The workers, by number.
    pub workers: Vec<WorkerRow>,
    /// The numbers of the workers that have not answered in time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub silent_workers: Vec<u16>,
}

/// A worker.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct WorkerRow {
    /// The number.
    pub worker: u16,
    /// The time until the worker has answered this request. `None` if it took longer than a second.
    pub answered_us: Option<u64>,
    /// The number of open connections.
    pub conns: u64,
    /// The number of subscriptions.
    pub subscriptions: u64,
    /// The number of messages in the worker's inbox.
    pub inbox: u64,
    /// The number of publications delivered to subscribers since the start.
    pub deliveries: u64,
    /// The number of bytes written to sockets since the start.
    pub sent_bytes: u64,
    /// The number of turns of the worker's loop since the start.
    pub turns: u64,
    /// The number of late turns since the start.
    pub turns_late: u64,
    /// The time that all turns together have worked since the start, without waiting.
    pub worked_us: u64,
}

/// The answer to `kick`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct KickAnswer {
    /// The number of connections that are being closed.
    pub kicked: u64,
    /// The numbers of the workers that have not answered in time. They will still close their
    /// connections.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub silent_workers: Vec<u16>,
    /// The numbers of the workers that could not receive the request. They will not close their
    /// connections.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unreached_workers: Vec<u16>,
}

/// The answer to `config`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct ConfigAnswer {
    /// The keys, in alphabetical order.
    pub keys: Vec<KeyRow>,
}

/// A key of the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct KeyRow {
    /// The key, as `section.key`.
    pub key: String,
    /// The value in use, as in the file.
    pub value: String,
    /// Where the value is from: `default`, `FILE:LINE`, a variable, a flag, or `operator` for a log
    /// level that `fanfare log-level` has set.
    pub source: String,
    /// The value that a restart will use, if it differs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after_restart: Option<String>,
}

/// The answer to `log_level`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct LogLevelAnswer {
    /// The level in use.
    pub level: String,
}

/// The answer to `reload`, after a reload that has succeeded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct ReloadAnswer {
    /// The keys whose new values are in use.
    pub changed: Vec<String>,
    /// The keys whose new values need a restart.
    pub kept: Vec<String>,
    /// The keys that have changed in the file, but that a flag or a variable sets.
    pub overridden: Vec<String>,
    /// Other messages.
    pub warnings: Vec<String>,
}

/// The answer to `top`. All numbers ending in `_total` count since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct TopAnswer {
    /// The version of the server.
    pub version: String,
    /// The time since the start.
    pub uptime_ms: u64,
    /// The time on the server's clock, for the calculation of rates.
    pub now_us: u64,
    /// The stage of the server and the health of its parts.
    pub state: String,
    /// The number of open `WebSocket`s.
    pub websockets: u64,
    /// The number of open event streams.
    pub event_streams: u64,
    /// Polls that wait.
    pub polls: u64,
    /// All open connections.
    pub conns: u64,
    /// The maximum number of connections.
    pub conns_max: u64,
    /// Accepted connections.
    pub accepted_total: u64,
    /// Refused connections and requests.
    pub refused_total: u64,
    /// Publications added to the log.
    pub publications_total: u64,
    /// Publications delivered to subscribers.
    pub deliveries_total: u64,
    /// Bytes written to sockets.
    pub sent_bytes_total: u64,
    /// Publications that subscribers have not received because they were too slow.
    pub skipped_total: u64,
    /// Publications in the log.
    pub log_publications: u64,
    /// Bytes of the log.
    pub log_bytes: u64,
    /// The maximum number of bytes of the log.
    pub log_bytes_max: u64,
    /// Memory of the process in bytes.
    pub memory_bytes: u64,
    /// The workers, by number.
    pub workers: Vec<WorkerRow>,
    /// The five connections for which the most publications wait; only those that are behind.
    pub laggards: Vec<ConnRow>,
    /// The channels with the most publications in the last ten seconds, at most ten.
    pub channels: Vec<ChannelRow>,
    /// The latest warnings and errors of the log, the newest last.
    pub problems: Vec<ProblemRow>,
}

/// A warning or error of the log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct ProblemRow {
    /// The time, in milliseconds since 1970-01-01 UTC.
    pub unix_ms: u64,
    /// `WARN` or `ERROR`.
    pub level: String,
    /// The text of the line with its fields.
    pub text: String,
}
