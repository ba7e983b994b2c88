//! The requests and answers of the operator's socket.
//!
//! A request is one JSON object on one line, with the name of the request as its only key:
//! `{"workers":{}}`. The answer is one JSON object on one line. It has the key `error` if the
//! request failed. The server writes these types and `fanfare conns` and the other commands read
//! them, so both have the same words.

use std::num::NonZeroU32;
use std::path::PathBuf;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

use crate::config::limits::OPERATOR_ROWS_MAX;
pub use crate::effect::{ConnSort, ConnTransport};
use crate::whole_number;

/// A request of an operator.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Copy the journal to a new directory.
    Backup(BackupRequest),
    /// List channels.
    Channels(ChannelsRequest),
    /// List the keys of the configuration.
    Config(Empty),
    /// List connections.
    Conns(ConnsRequest),
    /// Close connections.
    Kick(KickRequest),
    /// Return the log level, and change it if a level is given.
    LogLevel(LogLevelRequest),
    /// Read the configuration, certificates and keys again.
    Reload(Empty),
    /// Return the figures of `fanfare top`.
    Top(Empty),
    /// List workers.
    Workers(Empty),
}

/// The content of a request without parameters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Empty {}

/// A request for a copy of the journal.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct BackupRequest {
    /// The absolute path of the directory, which must not exist or must be empty.
    pub to: PathBuf,
}

/// A request for a list of connections.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct ConnsRequest {
    /// The connections to list. The default is all.
    pub filter: ConnFilter,
    /// The order of the list.
    pub sort: ConnSort,
    /// The maximum length of the list.
    pub limit: RowLimit,
}

/// A request to close connections.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct KickRequest {
    /// The connections to close. An empty filter is refused.
    pub filter: ConnFilter,
    /// The close code of a `WebSocket` (RFC 6455, 7.4). The default is 4003.
    #[serde(deserialize_with = "whole_number::deserialize_optional")]
    pub code: Option<u16>,
    /// The close reason of a `WebSocket`, at most 123 bytes.
    pub reason: String,
}

/// A request for the log level.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogLevelRequest {
    /// The new level, as in `logging.level`. `None` changes nothing.
    pub level: Option<String>,
}

/// A request for a list of channels.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct ChannelsRequest {
    /// The name of the channel, or a prefix of names and a `*`. The default is all channels.
    pub channel: Option<String>,
    /// The order of the list.
    pub sort: ChannelSort,
    /// The maximum length of the list.
    pub limit: RowLimit,
}

/// The properties that a connection must have. Absent properties are not checked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct ConnFilter {
    /// The name of the connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connection: Option<String>,
    /// The address of the peer or of the client that a proxy has named: an address, or a network
    /// such as `10.0.0.0/8`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// A channel to which the connection is subscribed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channel: Option<String>,
    /// The subject of the connection's token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sub: Option<String>,
    /// The transport.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transport: Option<ConnTransport>,
    /// The minimum number of publications that wait for the connection.
    #[serde(
        deserialize_with = "whole_number::deserialize_optional",
        skip_serializing_if = "Option::is_none"
    )]
    pub behind: Option<u64>,
    /// The minimum number of bytes that the server keeps because the connection's socket does not
    /// accept them.
    #[serde(
        deserialize_with = "whole_number::deserialize_optional",
        skip_serializing_if = "Option::is_none"
    )]
    pub unsent: Option<u64>,
}

impl ConnFilter {
    /// Whether every connection matches.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// The order of a list of channels. Each order but the last has the largest value first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ChannelSort {
    /// By the number of subscribers.
    #[default]
    Subscribers,
    /// By the number of bytes in the log.
    Bytes,
    /// By the number of publications in the log.
    Publications,
    /// By the number of publications of the last ten seconds that are still in the log.
    Recent,
    /// By name.
    Name,
}

/// The maximum length of a list: 1 to [`OPERATOR_ROWS_MAX`], 20 by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(into = "u32")]
pub struct RowLimit(NonZeroU32);

/// The error for a limit that is zero or too large.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("limit is {0}, but must be 1 to {OPERATOR_ROWS_MAX}")]
pub struct RowLimitError(u32);

impl RowLimit {
    /// Returns the number of rows.
    #[must_use]
    pub fn rows(self) -> usize {
        self.0.get() as usize
    }
}

impl Default for RowLimit {
    fn default() -> Self {
        Self(NonZeroU32::MIN.saturating_add(19))
    }
}

impl TryFrom<u32> for RowLimit {
    type Error = RowLimitError;

    fn try_from(rows: u32) -> Result<Self, RowLimitError> {
        let rows_valid = NonZeroU32::new(rows).filter(|rows| rows.get() <= OPERATOR_ROWS_MAX);
        rows_valid.map(Self).ok_or(RowLimitError(rows))
    }
}

impl<'de> Deserialize<'de> for RowLimit {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        let rows: u32 = whole_number::deserialize(input)?;
        Self::try_from(rows).map_err(D::Error::custom)
    }
}

impl From<RowLimit> for u32 {
    fn from(limit: RowLimit) -> Self {
        limit.0.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Request, String> {
        serde_json::from_str(json).map_err(|error| error.to_string())
    }

    #[test]
    fn request_has_defaults_for_everything_that_it_does_not_name() {
        let request = read(r#"{"conns":{}}"#).unwrap();
        assert_eq!(request, Request::Conns(ConnsRequest::default()));
        let request = read(r#"{"conns":{"filter":{"transport":"websocket"},"limit":3}}"#).unwrap();
        let Request::Conns(conns) = request else {
            panic!("{request:?}");
        };
        assert_eq!(conns.filter.transport, Some(ConnTransport::WebSocket));
        assert!(!conns.filter.is_empty());
        assert_eq!((conns.limit.rows(), conns.sort), (3, ConnSort::Behind));
        assert_eq!(RowLimit::default().rows(), 20);
        let request = read(r#"{"channels":{"limit":1e3}}"#).unwrap();
        let Request::Channels(channels) = request else {
            panic!("{request:?}");
        };
        assert_eq!(channels.limit.rows(), 1_000);
    }

    #[test]
    fn unknown_words_and_values_out_of_range_are_named() {
        for (json, part) in [
            (r#"{"conn":{}}"#, "unknown variant `conn`"),
            (r#"{"conns":{"order":"behind"}}"#, "unknown field `order`"),
            (r#"{"conns":{"filter":{"ip":"::1"}}}"#, "unknown field `ip`"),
            (
                r#"{"conns":{"limit":0}}"#,
                "limit is 0, but must be 1 to 1000",
            ),
            (r#"{"conns":{"limit":1001}}"#, "limit is 1001, but must be"),
            (
                r#"{"conns":{"limit":1.5}}"#,
                "`1.5`, expected a whole number",
            ),
            (
                r#"{"kick":{"code":-1}}"#,
                "`-1`, expected a whole number from 0 to 65535",
            ),
            (
                r#"{"conns":{"filter":{"behind":"1"}}}"#,
                "expected a whole number",
            ),
            (r#"{"workers":{"a":1}}"#, "unknown field `a`"),
            (r#"{"workers":{},"config":{}}"#, "expected"),
            ("[]", "expected"),
        ] {
            let error = read(json).unwrap_err();
            assert!(error.contains(part), "{json}: {error}");
        }
    }
}
