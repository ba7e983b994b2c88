//! Why a publication is not taken, with the code that its feeder is told.
//!
//! One enum for lines and requests alike. The codes are part of the contract; the messages are for
//! people and never repeat more than a short piece of what was sent.

use crate::config::limits::{CHANNELS_PER_PUBLICATION_MAX, CONSUME_PATTERNS_MAX};
use crate::id::{CONN_NAME_BYTES_MAX, ChannelNameError};
use crate::json::LimitError;

/// Why a publication is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A close code that may not be sent (RFC 6455, 7.4).
    #[error("`code` is 1000, 1001, 1008, 1011 to 1013 or 3000 to 4999")]
    BadCode,
    /// A text that cannot be the name of a conn.
    #[error("`{0}` is the name of a connection, 1 to {CONN_NAME_BYTES_MAX} bytes of ASCII")]
    BadConn(Key),
    /// Not base64 with padding (RFC 4648, 4).
    #[error("`base64` is not base64 with padding")]
    BadBase64,
    /// A name that no channel can have.
    #[error("{0}")]
    BadChannel(ChannelNameError),
    /// A pattern that no channel can match.
    #[error("`consume` takes names of channels, or beginnings of names with one `*` at the end")]
    BadPattern,
    /// An event type with control characters.
    #[error("`event` has no control characters")]
    BadEvent,
    /// Not a JSON text; the parser's own words.
    #[error("not a JSON object: {0}")]
    BadJson(Box<str>),
    /// A value of the wrong type.
    #[error("`{key}` is {expected}")]
    BadValue {
        /// The key.
        key: Key,
        /// What its value has to be.
        expected: &'static str,
    },
    /// The same key twice.
    #[error("`{0}` stands there twice")]
    DuplicateKey(Key),
    /// A key that would be the same for all publications of a template whose variable is not set.
    #[error("`{0}` is empty; leave it out, or set it to null")]
    Empty(Key),
    /// A text that parsers of other programs may fail on.
    #[error(transparent)]
    JsonLimit(#[from] LimitError),
    /// The journal cannot be written.
    #[error("the journal cannot be written; the publication was not taken")]
    Journal,
    /// The disk did not say that it would keep what it was given.
    #[error("the publication was delivered, but the disk may not keep it")]
    JournalUnsynced,
    /// A line over the limit. The connection ends with it.
    #[error("a line has at most {limit} bytes")]
    LineTooLong {
        /// The limit in bytes.
        limit: usize,
    },
    /// A key that is needed is absent, `null` or an empty array.
    #[error("`{0}` is missing")]
    Missing(Key),
    /// JSON, but not an object.
    #[error("a publication is a JSON object")]
    NotAnObject,
    /// Not UTF-8.
    #[error("not UTF-8")]
    NotUtf8,
    /// Not exactly one of the three kinds of payload.
    #[error(
        "exactly one of `data`, `text` and `base64` is needed, not {0}; `\"data\":null` is one"
    )]
    PayloadCount(usize),
    /// A label over its limit.
    #[error("`{key}` has at most {limit} bytes, not {got}")]
    TooLong {
        /// The key.
        key: Key,
        /// The limit in bytes.
        limit: usize,
        /// Its length in bytes.
        got: usize,
    },
    /// A publication that is over before a subscriber can have it.
    #[error("`ttl_ms` is at least 1; leave it out for a publication that does not expire")]
    NoTime,
    /// An event type of the server's own.
    #[error("types of publications do not begin with `fanfare.`: those are the server's events")]
    ReservedEvent,
    /// More patterns than one consumer may have.
    #[error("`consume` has at most {CONSUME_PATTERNS_MAX} patterns")]
    TooManyPatterns,
    /// More channels than one publication may name.
    #[error("`channel` names at most {CHANNELS_PER_PUBLICATION_MAX} channels")]
    TooManyChannels,
    /// A key that publications do not have, or that does not belong to the command; its beginning.
    #[error("`{0}` is not a key here")]
    UnknownKey(Box<str>),
}

impl Refusal {
    /// The word that programs look at.
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

    /// The refusal of a key that publications do not have.
    #[must_use]
    pub fn unknown_key(name: &str) -> Self {
        Self::UnknownKey(name.chars().take(40).collect())
    }

    /// The refusal of a value of the wrong type.
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
            | Key::Text => "a string",
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
    /// Whether to answer.
    Ack,
    /// Payload: bytes.
    Base64,
    /// Where it goes.
    Channel,
    /// The code with which a conn is closed.
    Code,
    /// Command: become a consumer.
    Consume,
    /// Payload: JSON.
    Data,
    /// Idempotency key.
    Dedupe,
    /// Command: close one conn.
    Disconnect,
    /// Command: close all conns of somebody.
    DisconnectSub,
    /// Event type.
    Event,
    /// Conflation key.
    Key,
    /// Whether a consumer is told who comes and goes.
    Notices,
    /// Command: count subscribers.
    Presence,
    /// The reason with which a conn is closed.
    Reason,
    /// Command: send to one conn.
    Send,
    /// Payload: a string.
    Text,
    /// Time to live.
    TtlMs,
}

/// Some keys, a bit each.
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

    /// False if it was there already.
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
    /// All of them, in their order.
    pub(super) const ALL: [Self; 17] = [
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
        Self::TtlMs,
    ];

    /// Reads a key's name.
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
            Self::TtlMs => "ttl_ms",
        })
    }
}
