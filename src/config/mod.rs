//! The configuration: each value of this type is validated before its use and then immutable. A
//! reload replaces the whole value ([`changes`]).
//!
//! [`Config`] has the structure of the configuration file, key by key, so that the file, the
//! environment and this struct cannot differ. The module contains only data, except for
//! [`mod@file`] and [`input`], which do I/O, and [`validate`], which checks values. Durations end
//! in `_ms` and sizes in `_bytes`. The methods return [`Duration`]s.

mod admin_socket;
mod algorithm;
pub mod auth;
pub mod browser;
pub mod changes;
pub mod file;
pub mod input;
pub mod limits;
pub mod listen;
pub mod namespace;
pub mod problem;
pub mod proxy;
pub mod report;
pub mod share;
pub mod tracing;
pub mod validate;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use self::tracing::Tracing;
pub use admin_socket::AdminSocket;
pub use algorithm::{Algorithm, AlgorithmError};
pub use auth::{Auth, KeyFile, TokenRules};
pub use browser::Browser;
pub use listen::{ClientAuth, Listen, Tls};
pub use namespace::{ClientPublish, ClientRules, Namespace, Retention};
pub use proxy::{ForwardedField, Proxy};
pub use share::Share;

/// The default address of the admin listener.
pub const ADMIN_DEFAULT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9180);

/// All settings. A server can run with `Config::default()`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Addresses to listen on for clients.
    pub listen: Vec<Listen>,
    /// Path of the feed's Unix socket. If empty, [`file::default_feed_path`] is used.
    pub feed: PathBuf,
    /// Access mode of the feed's socket, as an octal text such as `"0660"`.
    pub feed_mode: String,
    /// The group that owns the feed's socket, by name or number. If empty, the group of the process
    /// owns the socket.
    pub feed_group: String,
    /// Address for metrics and health checks; `None` if they are turned off.
    #[serde(with = "optional_address")]
    pub admin: Option<SocketAddr>,
    /// The socket on which operators inspect and control the server.
    pub admin_socket: AdminSocket,
    /// The number of worker threads; 0 means one per core.
    pub workers: u32,
    /// Whether the server shows the live page at `/`.
    pub page: bool,
    /// Certificates and keys for TLS.
    pub tls: Tls,
    /// The interval of heartbeats.
    pub heartbeat: Heartbeat,
    /// Keys that verify tokens.
    pub auth: Auth,
    /// Origins of web pages that may connect.
    pub browser: Browser,
    /// Proxies whose client addresses are accepted.
    pub proxy: Proxy,
    /// Bounds on clients, feeders and memory.
    pub limits: Limits,
    /// Bounds on the data that waits for one conn.
    pub quota: Quota,
    /// Bounds on the log of recent publications.
    pub log: LogBounds,
    /// The log on disk, from which a restart restores publications.
    pub journal: Journal,
    /// How the server stops.
    pub drain: Drain,
    /// Which optional kernel features are used.
    pub io: Io,
    /// Compression of WebSocket messages.
    pub deflate: Deflate,
    /// The level and format of log lines.
    pub logging: Logging,
    /// Spans of publications and connections.
    pub tracing: Tracing,
    /// Channels that have their own rules.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub namespace: Vec<Namespace>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: vec![Listen::plain(SocketAddr::from(([127, 0, 0, 1], 8080)))],
            feed: PathBuf::new(),
            feed_mode: String::from("0660"),
            feed_group: String::new(),
            admin: Some(ADMIN_DEFAULT),
            admin_socket: AdminSocket::BesideFeed,
            workers: 0,
            page: true,
            tls: Tls::default(),
            heartbeat: Heartbeat::default(),
            auth: Auth::default(),
            browser: Browser::default(),
            proxy: Proxy::default(),
            limits: Limits::default(),
            quota: Quota::default(),
            log: LogBounds::default(),
            journal: Journal::default(),
            drain: Drain::default(),
            io: Io::default(),
            deflate: Deflate::default(),
            logging: Logging::default(),
            tracing: Tracing::default(),
            namespace: Vec::new(),
        }
    }
}

/// Heartbeats to idle conns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Heartbeat {
    /// The time between two heartbeats to one conn, in milliseconds. A conn that is silent for two
    /// intervals is closed.
    pub interval_ms: u64,
}

impl Default for Heartbeat {
    fn default() -> Self {
        Self {
            interval_ms: 25_000,
        }
    }
}

impl Heartbeat {
    /// Returns the time between two heartbeats.
    #[must_use]
    pub fn interval(&self) -> Duration {
        Duration::from_millis(self.interval_ms)
    }
}

/// Bounds on clients, feeders and memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// The maximum length of a request head in bytes, from the request line to the empty line.
    pub request_head_bytes: u32,
    /// The maximum time for a request head to arrive, in milliseconds. The time begins when the
    /// conn is accepted or when the previous request ends.
    pub request_head_ms: u64,
    /// The maximum length of a message or frame from a WebSocket client, in bytes.
    pub client_message_bytes: u32,
    /// The maximum length of a line, or of a request body, on the feed, in bytes.
    pub feed_line_bytes: u32,
    /// The maximum number of channels to which one conn may subscribe.
    pub channels_per_conn: u32,
    /// The maximum duration of a long poll in milliseconds, whatever the client requests.
    pub poll_timeout_ms: u64,
    /// The maximum number of conns of the whole server. The number is divided evenly among the
    /// workers and rounded up. 0 means that only the number of descriptors limits conns. A worker
    /// that has its share of conns refuses new clients.
    pub conns: u32,
    /// The maximum number of conns whose first request head is incomplete although all received
    /// bytes have been read. The maximum applies to the whole server; 0 means no limit. If there
    /// are more such conns, the oldest of them is closed.
    pub pending_conns: u32,
    /// The maximum number of conns from one source: an IPv4 address or an IPv6 /64. 0 means no
    /// limit. If a trusted proxy reuses a conn, the conn counts for the client of its latest
    /// request.
    pub conns_per_source: u32,
    /// The maximum number of new conns per second from one source; 0 means no limit. If a trusted
    /// proxy reuses a conn, the conn counts once, for the first client that the proxy names.
    pub connects_per_second_per_source: u32,
    /// The time after which a WebSocket without a subscription is closed, in milliseconds. 0 means
    /// that such a WebSocket stays open.
    pub first_subscribe_ms: u64,
    /// The maximum number of channels with subscribers on the whole server; 0 means no limit. At
    /// the limit, subscriptions to channels without subscribers are refused.
    pub channels: u32,
    /// The maximum number of frames that a WebSocket client may send per second; 0 means no limit.
    /// If a client sends more, the server reads from the client more slowly.
    pub client_frames_per_second: u32,
    /// The maximum number of bytes that a WebSocket client may send per second; 0 means no limit.
    pub client_bytes_per_second: u32,
    /// The resident memory of the process above which new connections are refused, in bytes. 0
    /// means that the limit of the cgroup or of the machine is used.
    pub memory_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            request_head_bytes: 8192,
            request_head_ms: 10_000,
            client_message_bytes: 65_536,
            feed_line_bytes: 1_048_576,
            channels_per_conn: 128,
            poll_timeout_ms: 120_000,
            conns: 0,
            pending_conns: 10_000,
            conns_per_source: 0,
            connects_per_second_per_source: 0,
            first_subscribe_ms: 0,
            channels: 2_000_000,
            client_frames_per_second: 0,
            client_bytes_per_second: 0,
            memory_bytes: 0,
        }
    }
}

impl Limits {
    /// Returns the maximum time for a request head to arrive.
    #[must_use]
    pub fn request_head(&self) -> Duration {
        Duration::from_millis(self.request_head_ms)
    }

    /// Returns the time until the first subscription of a WebSocket, or `None` if there is no
    /// limit.
    #[must_use]
    pub fn first_subscribe(&self) -> Option<Duration> {
        let limit = Some(self.first_subscribe_ms).filter(|limit| *limit > 0);
        limit.map(Duration::from_millis)
    }

    /// Whether conns are counted for each source.
    #[must_use]
    pub fn counts_sources(&self) -> bool {
        self.conns_per_source > 0 || self.connects_per_second_per_source > 0
    }

    /// Returns the maximum duration of a long poll.
    #[must_use]
    pub fn poll_timeout(&self) -> Duration {
        Duration::from_millis(self.poll_timeout_ms)
    }
}

/// Bounds on the data that waits for one conn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Quota {
    /// The maximum number of payload bytes by which a subscriber may be behind.
    pub behind_bytes: u64,
    /// The maximum number of publications by which a subscriber may be behind.
    pub behind_publications: u64,
    /// The policy for a subscriber that exceeds `behind_bytes` or `behind_publications`.
    pub overflow: Overflow,
    /// The maximum number of bytes written to one conn in one turn.
    pub write_bytes_per_turn: u32,
    /// The size of a conn's send buffer in the kernel, in bytes (`SO_SNDBUF`, which the kernel
    /// doubles).
    pub send_buffer_bytes: u32,
    /// The number of unsent bytes above which a socket is not writable (`TCP_NOTSENT_LOWAT`).
    pub notsent_lowat_bytes: u32,
}

impl Default for Quota {
    fn default() -> Self {
        Self {
            behind_bytes: 65_536,
            behind_publications: 256,
            overflow: Overflow::Skip,
            write_bytes_per_turn: 65_536,
            send_buffer_bytes: 65_536,
            notsent_lowat_bytes: 16_384,
        }
    }
}

/// The policy for a subscriber that is further behind than its quota allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase", try_from = "String")]
pub enum Overflow {
    /// The conn is closed with code 4100 (slow consumer).
    Close,
    /// Publications are skipped if a later publication with the same key supersedes them. If this
    /// is not enough, the oldest publications are skipped. The subscriber receives a gap.
    Conflate,
    /// The oldest publications are skipped. The subscriber receives a gap.
    Skip,
}

impl Overflow {
    /// Returns the policy's name in the configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Close => "close",
            Self::Conflate => "conflate",
            Self::Skip => "skip",
        }
    }
}

/// The error for a text that is not a policy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a policy; choose `skip`, `conflate` or `close`")]
pub struct OverflowError(String);

impl TryFrom<String> for Overflow {
    type Error = OverflowError;

    fn try_from(text: String) -> Result<Self, OverflowError> {
        match text.as_str() {
            "close" => Ok(Self::Close),
            "conflate" => Ok(Self::Conflate),
            "skip" => Ok(Self::Skip),
            _ => Err(OverflowError(text)),
        }
    }
}

/// Bounds on the log of recent publications.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogBounds {
    /// The maximum total size of the stored publications and their encoded frames, in bytes.
    pub bytes: u64,
    /// The maximum number of stored publications.
    pub entries: u64,
    /// The time for which a publication is stored, in milliseconds.
    pub age_ms: u64,
    /// The maximum total size of publications that conns still send after the log has evicted them
    /// (pinned publications), in bytes; 0 means a quarter of `bytes`. While a client reads a
    /// publication in parts, both the publication's text and a frame are pinned. So a publication
    /// larger than half of this limit may never reach such a client.
    pub pinned_bytes: u64,
    /// The fraction of `bytes` and `entries` that is available to channels whose namespace allows
    /// clients to broadcast.
    pub client_share: Share,
}

impl Default for LogBounds {
    fn default() -> Self {
        Self {
            bytes: 67_108_864,
            entries: 1_000_000,
            age_ms: 60_000,
            pinned_bytes: 0,
            client_share: Share::HALF,
        }
    }
}

impl LogBounds {
    /// Returns the maximum total size of publications that conns still send after the log has
    /// evicted them, in bytes.
    #[must_use]
    pub fn pinned_bytes(&self) -> u64 {
        match self.pinned_bytes {
            0 => self.bytes / 4,
            some => some,
        }
    }

    /// Returns the part of `bytes` that the encoded frames of publications may use. If the frames
    /// need more memory, the oldest frames are dropped, and are encoded again when needed.
    #[must_use]
    pub fn encodings_bytes(&self) -> u64 {
        self.bytes / 4
    }

    /// Returns the time for which a publication is stored.
    #[must_use]
    pub fn age(&self) -> Duration {
        Duration::from_millis(self.age_ms)
    }
}

/// The log on disk, from which a restart restores publications.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Journal {
    /// The journal's directory. If empty, there is no journal.
    pub path: PathBuf,
    /// The maximum total size of the journal's records on disk, in bytes. Above this size, the
    /// oldest records are deleted. A restart then cannot restore these records to the log or to the
    /// table of idempotency keys.
    pub bytes: u64,
    /// The time at which records are synced to the disk.
    pub sync: JournalSync,
}

impl Default for Journal {
    fn default() -> Self {
        Self {
            path: PathBuf::new(),
            bytes: 1024 * 1024 * 1024,
            sync: JournalSync::default(),
        }
    }
}

/// The time at which records are synced to the disk. It decides what an acknowledgement guarantees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum JournalSync {
    /// Records are synced before their batch is broadcast. Every publication that a subscriber has
    /// received survives a power failure.
    Always,
    /// Records are synced after their batch is broadcast and before the batch is acknowledged. One
    /// sync covers several batches. Every acknowledged publication survives a power failure.
    #[default]
    Batch,
    /// The system decides when records are synced. Publications survive the end of the process, but
    /// perhaps not a power failure.
    Os,
}

/// How the server stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Drain {
    /// The maximum duration of a drain, in milliseconds.
    pub window_ms: u64,
    /// The upper bound of the random reconnect delay outside drains, in milliseconds.
    pub retry_ms: u64,
    /// The number of clients that return per second after a drain.
    pub reconnects_per_second: u32,
}

impl Default for Drain {
    fn default() -> Self {
        Self {
            window_ms: 10_000,
            retry_ms: 30_000,
            reconnects_per_second: 5_000,
        }
    }
}

impl Drain {
    /// Returns the maximum duration of a drain.
    #[must_use]
    pub fn window(&self) -> Duration {
        Duration::from_millis(self.window_ms)
    }
}

/// Which optional kernel features are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Io {
    /// Whether publications are sent in batches, through `io_uring(7)`.
    pub ring: KernelFeature,
}

/// The use of a kernel feature that some kernels do not have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum KernelFeature {
    /// The feature is used if the kernel supports it. The kernel is probed at the start.
    #[default]
    Auto,
    /// The feature is not used.
    Off,
}

/// Compression of WebSocket messages (RFC 7692).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Deflate {
    /// Whether permessage-deflate is accepted if a client offers it. The compression level, the
    /// window and the minimum length of a message cannot be configured, because one frame serves
    /// all subscribers. They are constants in [`limits`], found by measurement.
    pub enabled: bool,
}

/// The level and format of log lines.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Logging {
    /// The log level: `error`, `warn`, `info` or `debug`.
    pub level: String,
    /// The format of log lines: text or JSON.
    pub format: LogFormat,
    /// The format of the access log, if it is on.
    pub access: AccessFormat,
    /// The part of all connections that the access log contains.
    pub access_sample: Share,
}

impl Logging {
    /// The values of `level`.
    pub const LEVELS: [&str; 4] = ["error", "warn", "info", "debug"];
}

impl Default for Logging {
    fn default() -> Self {
        Self {
            level: String::from("info"),
            format: LogFormat::Text,
            access: AccessFormat::Off,
            access_sample: Share::WHOLE,
        }
    }
}

/// The format of the access log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AccessFormat {
    /// There is no access log.
    Off,
    /// Each line is a JSON object.
    Json,
    /// Each line has fields of the form `name=value`.
    Logfmt,
}

/// The format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Each line is a JSON object.
    Json,
    /// Each line is a human-readable text.
    Text,
}

/// Conversions of an optional address. `off` or an empty text means `None`, because TOML has no
/// null.
mod optional_address {
    use std::borrow::Cow;
    use std::net::SocketAddr;

    use serde::{Deserialize as _, Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(
        address: &Option<SocketAddr>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match address {
            Some(address) => serializer.collect_str(address),
            None => serializer.serialize_str("off"),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<SocketAddr>, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        if text.is_empty() || text == "off" {
            return Ok(None);
        }
        text.parse().map(Some).map_err(|_not_an_address| {
            de::Error::custom(format!(
                "`{text}` is neither an address and port such as 127.0.0.1:9180 nor `off`"
            ))
        })
    }
}
