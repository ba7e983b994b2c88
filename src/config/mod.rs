//! The control plane: what an operator may choose, checked once and then immutable.
//!
//! [`Config`] has the shape of the configuration file, key by key, so that the file, the
//! environment and this struct cannot drift apart. Plain data without I/O: reading files and the
//! environment is [`mod@file`]'s, the only shell part; [`validate`] knows what a value may be.
//! Durations end in `_ms`, sizes in `_bytes`; the accessors hand out [`Duration`]s.

pub mod auth;
pub mod browser;
mod changes;
pub mod file;
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

pub use auth::{Auth, KeyFile};
pub use browser::Browser;
pub use listen::{ClientAuth, Listen, Tls};
pub use namespace::{ClientPublish, ClientRules, Namespace, Retention};
pub use proxy::{ForwardedField, Proxy};
pub use share::Share;

/// Everything an operator may choose. `Config::default()` is a server that works.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where clients connect.
    pub listen: Vec<Listen>,
    /// Path of the feed's Unix socket. Empty: chosen from the environment when the server starts.
    pub feed: PathBuf,
    /// Access mode of the feed's socket, as an octal text such as `"0660"`.
    pub feed_mode: String,
    /// Group that owns the feed's socket, by name. Empty: the process's own.
    pub feed_group: String,
    /// Where metrics and health are served. `off` or an empty text: nowhere.
    #[serde(with = "optional_address")]
    pub admin: Option<SocketAddr>,
    /// Worker threads; 0 is one per core.
    pub workers: u32,
    /// Whether `/` shows the live page.
    pub page: bool,
    /// What is proved where TLS is spoken.
    pub tls: Tls,
    /// Heartbeats.
    pub heartbeat: Heartbeat,
    /// Who may come in.
    pub auth: Auth,
    /// Pages of other hosts.
    pub browser: Browser,
    /// Whose word counts for where a client comes from.
    pub proxy: Proxy,
    /// Bounds on what a client or feeder may ask for.
    pub limits: Limits,
    /// Bounds on what one conn may be owed.
    pub quota: Quota,
    /// Bounds on the log of recent publications.
    pub log: LogBounds,
    /// Publications kept on disk.
    pub journal: Journal,
    /// How the server stops.
    pub drain: Drain,
    /// How the kernel is asked.
    pub io: Io,
    /// Compression of WebSocket messages.
    pub deflate: Deflate,
    /// Diagnostics.
    pub logging: Logging,
    /// Channels with rules of their own.
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

/// Bounds on what a client or feeder may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Bytes of a request head, from the request line to the empty line.
    pub request_head_bytes: u32,
    /// Milliseconds from accepting, or from the end of the last request, to the end of a head.
    pub request_head_ms: u64,
    /// Bytes of one message or frame from a WebSocket client.
    pub client_message_bytes: u32,
    /// Bytes of one line, or of one request body, on the feed.
    pub feed_line_bytes: u32,
    /// Channels one conn may subscribe to.
    pub channels_per_conn: u32,
    /// Milliseconds that a long poll may wait, however long its client would.
    pub poll_timeout_ms: u64,
    /// Conns of the whole server, shared out evenly among the workers and rounded up; 0 is as many
    /// as there are descriptors. A client is refused when the worker it came to has its share.
    pub conns: u32,
    /// Silent conns of the whole server: everything that arrived has been read, and the first
    /// request head is not complete. 0 is no limit. Above it the oldest of them is closed.
    pub pending_conns: u32,
    /// Conns from one address of IPv4 or one /64 of IPv6; 0 is no limit. A conn that a trusted
    /// proxy reuses counts for the client of its latest request.
    pub conns_per_source: u32,
    /// Conns that may come each second from one such source; 0 is no limit. A conn that a trusted
    /// proxy reuses is a new one only of the first client that is named on it.
    pub connects_per_second_per_source: u32,
    /// Milliseconds after which a WebSocket that has subscribed to nothing is closed; 0 is never.
    pub first_subscribe_ms: u64,
    /// Channels with subscribers on the whole server; 0 is no limit. At the limit, a subscription
    /// to a channel without subscribers is refused.
    pub channels: u32,
    /// Frames that a WebSocket client may send each second; 0 is no limit. Whoever sends more is
    /// read more slowly.
    pub client_frames_per_second: u32,
    /// Bytes that a WebSocket client may send each second; 0 is no limit.
    pub client_bytes_per_second: u32,
    /// Bytes of the process in memory above which nobody new comes in; 0 follows what the system
    /// says.
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
    /// Time in which a request head has to be complete.
    #[must_use]
    pub fn request_head(&self) -> Duration {
        Duration::from_millis(self.request_head_ms)
    }

    /// Time in which a WebSocket has to subscribe to something, if it has to.
    #[must_use]
    pub fn first_subscribe(&self) -> Option<Duration> {
        let limit = Some(self.first_subscribe_ms).filter(|limit| *limit > 0);
        limit.map(Duration::from_millis)
    }

    /// Whether anything is counted by where conns come from.
    #[must_use]
    pub fn counts_sources(&self) -> bool {
        self.conns_per_source > 0 || self.connects_per_second_per_source > 0
    }

    /// Time that a long poll may wait.
    #[must_use]
    pub fn poll_timeout(&self) -> Duration {
        Duration::from_millis(self.poll_timeout_ms)
    }
}

/// Bounds on what one conn may be owed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Quota {
    /// Payload bytes a subscriber may be behind.
    pub behind_bytes: u64,
    /// Publications a subscriber may be behind.
    pub behind_publications: u64,
    /// What happens to a subscriber that is further behind.
    pub overflow: Overflow,
    /// Bytes written to one conn before the others have their turn.
    pub write_bytes_per_turn: u32,
    /// Bytes of the kernel's send buffer per conn (`SO_SNDBUF`; the kernel books twice this).
    pub send_buffer_bytes: u32,
    /// Bytes not yet sent above which the kernel takes no more (`TCP_NOTSENT_LOWAT`).
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

/// What happens to a subscriber that is further behind than its quota.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase", try_from = "String")]
pub enum Overflow {
    /// The conn is closed with code 4100 (slow consumer).
    Close,
    /// Publications that a later one with the same key supersedes are left out, which is told; and
    /// if that is not enough, the oldest are skipped.
    Conflate,
    /// The oldest publications are skipped and the gap is told.
    Skip,
}

impl Overflow {
    /// The word in a configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Close => "close",
            Self::Conflate => "conflate",
            Self::Skip => "skip",
        }
    }
}

/// The text names no policy.
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
    /// Milliseconds a publication is held.
    pub age_ms: u64,
    /// Bytes of publications that have left the log and that conns still hold; 0 is a quarter of
    /// `bytes`. A publication that is longer than half of it may never reach a client that takes
    /// it in parts, since both its text and a frame are held.
    pub pinned_bytes: u64,
    /// Part of `bytes` and `entries` for channels whose namespace lets clients broadcast.
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
    /// Bytes of publications that have left the log and that conns still hold.
    #[must_use]
    pub fn pinned_bytes(&self) -> u64 {
        match self.pinned_bytes {
            0 => self.bytes / 4,
            some => some,
        }
    }

    /// The part of `bytes` that encodings may have. Beyond it the oldest are made again if they are
    /// needed again.
    #[must_use]
    pub fn encodings_bytes(&self) -> u64 {
        self.bytes / 4
    }

    /// Time for which a publication is held.
    #[must_use]
    pub fn age(&self) -> Duration {
        Duration::from_millis(self.age_ms)
    }
}

/// Publications kept on disk, so that a restart loses none.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Journal {
    /// The journal's directory. Empty: there is no journal.
    pub path: PathBuf,
    /// Bytes that its records may take on disk. What is older goes, although a log or the memory of
    /// idempotency keys could still have it after a restart.
    pub bytes: u64,
    /// When the disk is made to keep what was written.
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

/// When the disk is made to keep what was written, and so what an acknowledgement stands for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum JournalSync {
    /// Before a batch is broadcast: whatever anybody has seen outlives a power cut.
    Always,
    /// After it is broadcast and before it is acknowledged, many at a time: what was acknowledged
    /// outlives a power cut.
    #[default]
    Batch,
    /// When the system likes: everything outlives the process, and nothing a power cut for sure.
    Os,
}

/// How the server stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Drain {
    /// The longest that a drain takes, in milliseconds.
    pub window_ms: u64,
    /// Upper end of the reconnect delay drawn outside drains, in milliseconds.
    pub retry_ms: u64,
    /// How many clients a second return after a drain.
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
    /// The longest that a drain takes.
    #[must_use]
    pub fn window(&self) -> Duration {
        Duration::from_millis(self.window_ms)
    }
}

/// How the kernel is asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Io {
    /// Whether publications are sent many at a time, through `io_uring(7)`.
    pub ring: KernelFeature,
}

/// Whether use is made of something that not every kernel offers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum KernelFeature {
    /// Where the kernel offers it, which is found out at start.
    #[default]
    Auto,
    /// Not at all.
    Off,
}

/// Compression of WebSocket messages (RFC 7692).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Deflate {
    /// Whether the extension is agreed to when a client offers it. How hard, how far back and from
    /// which length on publications are compressed is measured and fixed in [`limits`]: one frame
    /// serves everybody.
    pub enabled: bool,
}

/// Diagnostics.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Logging {
    /// `error`, `warn`, `info` or `debug`.
    pub level: String,
    /// Lines for people or for machines.
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

/// How diagnostics are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One JSON object per line.
    Json,
    /// One line of text.
    Text,
}

/// An address that may be left out by an empty text: TOML has no null.
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
