//! The reasons why a line or a publication is refused, with their error codes.
//!
//! The same enum is used for lines and requests. The codes are part of the public interface. The
//! messages are human-readable, and quote at most a short piece of the input.

use crate::config::limits::{CHANNELS_PER_PUBLICATION_MAX, CONSUME_PATTERNS_MAX};
use crate::id::{CONN_NAME_BYTES_MAX, ChannelNameError};
use crate::json::LimitError;
use crate::traceparent::TraceParentError;

/// The reason why a line or a publication is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The close code is not allowed for backends (RFC 6455, 7.4).
    #[error("`code` is 1000, 1001, 1008, 1011 to 1013 or 3000 to 4999")]
    BadCode,
    /// The text cannot be the name of a conn.
    #[error("`{0}` is the name of a connection, 1 to {CONN_NAME_BYTES_MAX} bytes of ASCII")]
    BadConn(Key),
    /// The value is not base64 with padding (RFC 4648, 4).
    #[error("`base64` is not base64 with padding")]
    BadBase64,
    /// The channel name is invalid.
    #[error("{0}")]
    BadChannel(ChannelNameError),
    /// The pattern cannot match any channel.
    #[error("`consume` takes names of channels, or beginnings of names with one `*` at the end")]
    BadPattern,
    /// The event type has control characters.
    #[error("`event` has no control characters")]
    BadEvent,
    /// The trace context is invalid.
    #[error("`traceparent` is {0}")]
    BadTraceparent(TraceParentError),
    /// The JSON is invalid. The value is the parser's message.
    #[error("not a JSON object: {0}")]
    BadJson(Box<str>),
    /// The value has the wrong type.
    #[error("`{key}` is {expected}")]
    BadValue {
        /// The key with the wrong value.
        key: Key,
        /// The expected value.
        expected: &'static str,
    },
    /// The key occurs twice.
    #[error("`{0}` occurs twice")]
    DuplicateKey(Key),
    /// The value is empty, usually because of a template with an unset variable.
    #[error("`{0}` is empty; leave it out, or set it to null")]
    Empty(Key),
    /// The JSON exceeds a limit, so that other parsers may refuse it.
    #[error(transparent)]
    JsonLimit(#[from] LimitError),
    /// The journal cannot be written.
    #[error("the journal cannot be written; the publication was not accepted")]
    Journal,
    /// The publication was delivered, but the sync of the journal failed.
    #[error("the publication was delivered, but the journal could not be synced to disk")]
    JournalUnsynced,
    /// The line exceeds the limit. The connection is closed after the answer.
    #[error("a line has at most {limit} bytes")]
    LineTooLong {
        /// The limit in bytes.
        limit: usize,
    },
    /// A required key is absent, `null` or an empty array.
    #[error("`{0}` is missing")]
    Missing(Key),
    /// The JSON is not an object.
    #[error("a publication is a JSON object")]
    NotAnObject,
    /// The text is not UTF-8.
    #[error("not UTF-8")]
    NotUtf8,
    /// The publication has no payload, or more than one.
    #[error(
        "exactly one of `data`, `text` and `base64` is needed, not {0}; `\"data\":null` is one"
    )]
    PayloadCount(usize),
    /// The value of this key is too long.
    #[error("`{key}` has at most {limit} bytes, not {got}")]
    TooLong {
        /// The key whose value is too long.
        key: Key,
        /// The limit in bytes.
        limit: usize,
        /// The length of the value in bytes.
        got: usize,
    },
    /// The time to live is zero.
    #[error("`ttl_ms` is at least 1; leave it out for a publication that does not expire")]
    NoTime,
    /// The event type is reserved for the server.
    #[error("types of publications do not begin with `fanfare.`: those are the server's events")]
    ReservedEvent,
    /// The consumer has too many patterns.
    #[error("`consume` has at most {CONSUME_PATTERNS_MAX} patterns")]
    TooManyPatterns,
    /// The publication has too many channels.
    #[error("`channel` names at most {CHANNELS_PER_PUBLICATION_MAX} channels")]
    TooManyChannels,
    /// The key is unknown or does not belong to the command. The variant contains the first 40
    /// characters of the key.
    #[error("`{0}` is not a key here")]
    UnknownKey(Box<str>),
}

impl Refusal {
    /// Returns the machine-readable error code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::BadChannel(_) | Self::Missing(Key::Channel | Key::Presence) => "bad_channel",
            Self::BadJson(_) | Self::JsonLimit(_) | Self::NotAnObject | Self::NotUtf8 => "bad_json",
            Self::BadBase64 | Self::PayloadCount(_) => "bad_payload",
            Self::BadCode
            | Self::BadConn(_)
            | Self::BadEvent
            | Self::BadPattern
            | Self::BadTraceparent(_)
            | Self::Empty(_)
            | Self::Missing(_)
            | Self::NoTime
            | Self::ReservedEvent => "bad_value",
            Self::BadValue { key, .. } => match key {
                Key::Base64 | Key::Data | Key::Text => "bad_payload",
                Key::Channel => "bad_channel",
                Key::Ack
                | Key::Code
                | Key::Consume
                | Key::Dedupe
                | Key::Disconnect
                | Key::DisconnectSub
                | Key::Event
                | Key::Key
                | Key::Notices
                | Key::Presence
                | Key::Reason
                | Key::Send
                | Key::Traceparent
                | Key::TtlMs => "bad_value",
            },
            Self::DuplicateKey(_) => "duplicate_key",
            Self::Journal => "journal",
            Self::JournalUnsynced => "journal_unsynced",
            Self::LineTooLong { .. } | Self::TooLong { .. } => "too_long",
            Self::TooManyChannels => "too_many_channels",
            Self::TooManyPatterns => "too_many_patterns",
            Self::UnknownKey(_) => "unknown_key",
        }
    }

    /// Creates the refusal of an unknown key.
    #[must_use]
    pub fn unknown_key(name: &str) -> Self {
        Self::UnknownKey(name.chars().take(40).collect())
    }

    /// Creates the refusal of a value of the wrong type.
    #[must_use]
    pub fn bad_value(key: Key) -> Self {
        let expected = match key {
            Key::Ack | Key::Notices => "true or false",
            Key::Base64
            | Key::Dedupe
            | Key::Disconnect
            | Key::DisconnectSub
            | Key::Event
            | Key::Key
            | Key::Reason
            | Key::Send
            | Key::Text
            | Key::Traceparent => "a string",
            Key::Channel | Key::Consume | Key::Presence => "a string or an array of strings",
            Key::Code => "a whole number",
            Key::Data => "a JSON value",
            Key::TtlMs => "a whole number of milliseconds, below 2^64",
        };
        Self::BadValue { key, expected }
    }
}

/// A key of a publication or of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Key {
    /// Whether an acknowledgement is requested.
    Ack,
    /// A payload of bytes, as base64.
    Base64,
    /// The channels to publish to.
    Channel,
    /// The close code of a conn.
    Code,
    /// Command: become a consumer.
    Consume,
    /// A payload of JSON.
    Data,
    /// The idempotency key.
    Dedupe,
    /// Command: close one conn.
    Disconnect,
    /// Command: close all conns of a token's subject.
    DisconnectSub,
    /// The event type.
    Event,
    /// The conflation key.
    Key,
    /// Whether a consumer receives notices.
    Notices,
    /// Command: count subscribers.
    Presence,
    /// The close reason of a conn.
    Reason,
    /// Command: send a message to one conn.
    Send,
    /// A payload that is a string.
    Text,
    /// The trace context of the publisher.
    Traceparent,
    /// The time to live.
    TtlMs,
}

/// A set of keys, one bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Keys(u32);

impl Keys {
    pub(super) const fn of(keys: &[Key]) -> Self {
        let mut bits = 0;
        let mut rest = keys;
        while let [key, others @ ..] = rest {
            bits |= 1 << *key as u8;
            rest = others;
        }
        Self(bits)
    }

    /// Adds a key. Returns false if the set already has the key.
    pub(super) fn insert(&mut self, key: Key) -> bool {
        let before = self.0;
        self.0 |= 1 << key as u8;
        self.0 != before
    }

    pub(super) fn has(self, key: Key) -> bool {
        self.0 & (1 << key as u8) != 0
    }
}

impl Key {
    /// All keys, in alphabetical order.
    pub(super) const ALL: [Self; 18] = [
        Self::Ack,
        Self::Base64,
        Self::Channel,
        Self::Code,
        Self::Consume,
        Self::Data,
        Self::Dedupe,
        Self::Disconnect,
        Self::DisconnectSub,
        Self::Event,
        Self::Key,
        Self::Notices,
        Self::Presence,
        Self::Reason,
        Self::Send,
        Self::Text,
        Self::Traceparent,
        Self::TtlMs,
    ];

    /// Returns the key of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "ack" => Self::Ack,
            "base64" => Self::Base64,
            "channel" => Self::Channel,
            "code" => Self::Code,
            "consume" => Self::Consume,
            "data" => Self::Data,
            "dedupe" => Self::Dedupe,
            "disconnect" => Self::Disconnect,
            "disconnect_sub" => Self::DisconnectSub,
            "event" => Self::Event,
            "key" => Self::Key,
            "notices" => Self::Notices,
            "presence" => Self::Presence,
            "reason" => Self::Reason,
            "send" => Self::Send,
            "text" => Self::Text,
            "traceparent" => Self::Traceparent,
            "ttl_ms" => Self::TtlMs,
            _ => return None,
        })
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Ack => "ack",
            Self::Base64 => "base64",
            Self::Channel => "channel",
            Self::Code => "code",
            Self::Consume => "consume",
            Self::Data => "data",
            Self::Dedupe => "dedupe",
            Self::Disconnect => "disconnect",
            Self::DisconnectSub => "disconnect_sub",
            Self::Event => "event",
            Self::Key => "key",
            Self::Notices => "notices",
            Self::Presence => "presence",
            Self::Reason => "reason",
            Self::Send => "send",
            Self::Text => "text",
            Self::Traceparent => "traceparent",
            Self::TtlMs => "ttl_ms",
        })
    }
}
