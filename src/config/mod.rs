//! The configuration: validated once and then immutable.
//!
//! [`Config`] has the shape of the configuration file, key by key, so that the file, the
//! environment and this struct cannot differ. Plain data without I/O: [`mod@file`], the only shell
//! part, reads files and the environment; [`validate`] checks values. Durations end in `_ms`, sizes
//! in `_bytes`; the accessors return [`Duration`]s.

mod algorithm;
pub mod auth;
pub mod browser;
mod changes;
pub mod file;
pub mod input;
pub mod limits;
pub mod listen;
pub mod namespace;
pub mod problem;
pub mod proxy;
pub mod share;
pub mod validate;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use algorithm::{Algorithm, AlgorithmError};
pub use auth::{Auth, KeyFile, TokenRules};
pub use browser::Browser;
pub use listen::{ClientAuth, Listen, Tls};
pub use namespace::{ClientPublish, ClientRules, Namespace, Retention};
pub use proxy::{ForwardedField, Proxy};
pub use share::Share;

/// All settings. A server runs with `Config::default()`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Addresses for clients.
    pub listen: Vec<Listen>,
    /// Path of the feed's Unix socket. Empty: [`file::default_feed_path`].
    pub feed: PathBuf,
    /// Access mode of the feed's socket, as an octal text such as `"0660"`.
    pub feed_mode: String,
    /// Group that owns the feed's socket, by name or number. Empty: the process's own.
    pub feed_group: String,
    /// Address for metrics and health; `None` if turned off.
    #[serde(with = "optional_address")]
    pub admin: Option<SocketAddr>,
    /// Worker threads; 0 is one per core.
    pub workers: u32,
    /// Whether `/` shows the live page.
    pub page: bool,
    /// Certificates and keys.
    pub tls: Tls,
    /// Interval of heartbeats.
    pub heartbeat: Heartbeat,
    /// Keys that verify tokens.
    pub auth: Auth,
    /// Origins of pages that may connect.
    pub browser: Browser,
    /// Proxies whose client addresses are accepted.
    pub proxy: Proxy,
    /// Bounds on clients and feeders.
    pub limits: Limits,
    /// Bounds on what waits for one conn.
    pub quota: Quota,
    /// Bounds on the log of recent publications.
    pub log: LogBounds,
    /// The log on disk.
    pub journal: Journal,
    /// The stop of the server.
    pub drain: Drain,
    /// Use of optional kernel features.
    pub io: Io,
    /// Compression of WebSocket messages.
    pub deflate: Deflate,
    /// Diagnostics.
    pub logging: Logging,
    /// Channels with their own rules.
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
            admin: Some(SocketAddr::from(([127, 0, 0, 1], 9180))),
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
            namespace: Vec::new(),
        }
    }
}

/// Heartbeats to idle conns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Heartbeat {
    /// Milliseconds between two heartbeats to one conn. A conn that is silent for two of them is
    /// closed.
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
    /// Time between two heartbeats.
    #[must_use]
    pub fn interval(&self) -> Duration {
        Duration::from_millis(self.interval_ms)
    }
}

/// Bounds on clients and feeders.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Bytes of a request head, from the request line to the empty line.
    pub request_head_bytes: u32,
    /// Milliseconds from the accept, or from the end of the last request, to the end of a request
    /// head.
    pub request_head_ms: u64,
    /// Bytes of one message or frame from a WebSocket client.
    pub client_message_bytes: u32,
    /// Bytes of one line, or of one request body, on the feed.
    pub feed_line_bytes: u32,
    /// Channels one conn may subscribe to.
    pub channels_per_conn: u32,
    /// The longest wait of a long poll, in milliseconds, whatever its client asks for.
    pub poll_timeout_ms: u64,
    /// Conns of the whole server, divided evenly among the workers and rounded up; 0 is as many as
    /// there are descriptors. A client is refused if its worker has its share.
    pub conns: u32,
    /// Conns of the whole server whose first request head is not complete although all received
    /// bytes are read. 0 is no limit. Above it the oldest of them is closed.
    pub pending_conns: u32,
    /// Conns from one IPv4 address or one IPv6 /64; 0 is no limit. A conn that a trusted proxy
    /// reuses counts for the client of its latest request.
    pub conns_per_source: u32,
    /// New conns each second from one such source; 0 is no limit. A conn that a trusted proxy
    /// reuses counts once, for the first client that is named on it.
    pub connects_per_second_per_source: u32,
    /// Milliseconds after which a WebSocket that has subscribed to nothing is closed; 0 is never.
    pub first_subscribe_ms: u64,
    /// Channels with subscribers on the whole server; 0 is no limit. At the limit, a subscription
    /// to a channel without subscribers is refused.
    pub channels: u32,
    /// Frames that a WebSocket client may send each second; 0 is no limit. A client that sends more
    /// is read more slowly.
    pub client_frames_per_second: u32,
    /// Bytes that a WebSocket client may send each second; 0 is no limit.
    pub client_bytes_per_second: u32,
    /// Resident bytes of the process above which new connections are refused; 0 uses the limit of
    /// the cgroup or the machine.
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
    /// Time for a complete request head.
    #[must_use]
    pub fn request_head(&self) -> Duration {
        Duration::from_millis(self.request_head_ms)
    }

    /// Time for the first subscription of a WebSocket; `None` if there is no limit.
    #[must_use]
    pub fn first_subscribe(&self) -> Option<Duration> {
        let limit = Some(self.first_subscribe_ms).filter(|limit| *limit > 0);
        limit.map(Duration::from_millis)
    }

    /// Whether conns are counted by source.
    #[must_use]
    pub fn counts_sources(&self) -> bool {
        self.conns_per_source > 0 || self.connects_per_second_per_source > 0
    }

    /// The longest wait of a long poll.
    #[must_use]
    pub fn poll_timeout(&self) -> Duration {
        Duration::from_millis(self.poll_timeout_ms)
    }
}

/// Bounds on what waits for one conn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Quota {
    /// Payload bytes a subscriber may be behind.
    pub behind_bytes: u64,
    /// Publications a subscriber may be behind.
    pub behind_publications: u64,
    /// The policy for a subscriber that is further behind.
    pub overflow: Overflow,
    /// Bytes written to one conn in one turn.
    pub write_bytes_per_turn: u32,
    /// Bytes of the kernel's send buffer per conn (`SO_SNDBUF`; the kernel doubles it).
    pub send_buffer_bytes: u32,
    /// Unsent bytes above which a socket is not writable (`TCP_NOTSENT_LOWAT`).
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

/// The policy for a subscriber that is further behind than its quota.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase", try_from = "String")]
pub enum Overflow {
    /// The conn is closed with code 4100 (slow consumer).
    Close,
    /// Publications that a later one with the same key supersedes are skipped. If that is not
    /// enough, the oldest are skipped. The subscriber receives a gap.
    Conflate,
    /// The oldest publications are skipped. The subscriber receives a gap.
    Skip,
}

impl Overflow {
    /// The value in a configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Close => "close",
            Self::Conflate => "conflate",
            Self::Skip => "skip",
        }
    }
}

/// The text is not a policy.
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
    /// Bytes held for publications and their encoded frames.
    pub bytes: u64,
    /// Publications held.
    pub entries: u64,
    /// Milliseconds that a publication is held.
    pub age_ms: u64,
    /// Bytes of publications that have left the log and that conns still hold; 0 is a quarter of
    /// `bytes`. A publication longer than half of it may never reach a client that reads it in
    /// parts, since both its text and a frame are held.
    pub pinned_bytes: u64,
    /// Fraction of `bytes` and `entries` for channels whose namespace lets clients broadcast.
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
    /// The limit on publications that have left the log and that conns still hold.
    #[must_use]
    pub fn pinned_bytes(&self) -> u64 {
        match self.pinned_bytes {
            0 => self.bytes / 4,
            some => some,
        }
    }

    /// The part of `bytes` for encodings. Above it the oldest encodings are dropped, and encoded
    /// again if they are needed.
    #[must_use]
    pub fn encodings_bytes(&self) -> u64 {
        self.bytes / 4
    }

    /// How long a publication is held.
    #[must_use]
    pub fn age(&self) -> Duration {
        Duration::from_millis(self.age_ms)
    }
}

/// The log on disk, from which a restart restores publications.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Journal {
    /// The journal's directory. Empty: no journal.
    pub path: PathBuf,
    /// Bytes of its records on disk. Older records are deleted, even if the log or the table of
    /// idempotency keys would still hold them after a restart.
    pub bytes: u64,
    /// When records are synced to the disk.
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

/// When records are synced to the disk, and so what an acknowledgement guarantees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum JournalSync {
    /// Before a batch is broadcast: every publication that a subscriber has received survives a
    /// power failure.
    Always,
    /// After a batch is broadcast and before it is acknowledged, several batches at a time: every
    /// acknowledged publication survives a power failure.
    #[default]
    Batch,
    /// Left to the system: publications survive the process, but perhaps not a power failure.
    Os,
}

/// The stop of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Drain {
    /// The longest duration of a drain, in milliseconds.
    pub window_ms: u64,
    /// Upper end of the random reconnect delay outside drains, in milliseconds.
    pub retry_ms: u64,
    /// Clients that return each second after a drain.
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
    /// The longest duration of a drain.
    #[must_use]
    pub fn window(&self) -> Duration {
        Duration::from_millis(self.window_ms)
    }
}

/// Use of optional kernel features.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Io {
    /// Whether publications are sent in batches, through `io_uring(7)`.
    pub ring: KernelFeature,
}

/// Whether a feature is used that not every kernel has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum KernelFeature {
    /// Used if the kernel has it, which is probed at start.
    #[default]
    Auto,
    /// Not used.
    Off,
}

/// Compression of WebSocket messages (RFC 7692).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Deflate {
    /// Whether the extension is accepted if a client offers it. Level, window and shortest message
    /// are fixed in [`limits`] by measurement, since one frame serves all subscribers.
    pub enabled: bool,
}

/// Diagnostics.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Logging {
    /// `error`, `warn`, `info` or `debug`.
    pub level: String,
    /// Text or JSON.
    pub format: LogFormat,
}

impl Default for Logging {
    fn default() -> Self {
        Self {
            level: String::from("info"),
            format: LogFormat::Text,
        }
    }
}

/// The format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One JSON object per line.
    Json,
    /// One line of text.
    Text,
}

/// An optional address: `off` or an empty text is `None`, since TOML has no null.
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
