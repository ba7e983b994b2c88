//! Every way in which a request is refused, with its status and the words for it.
//!
//! The words become the `detail` of a problem document (RFC 9457) and may end up in logs on the
//! way, so they hold numbers and names of ours alone: never a byte that the peer sent.

use crate::config::limits::WINDOW_PUBLICATIONS_MAX;
use crate::id::ChannelNameError;
use crate::proxy::TooMany;

use super::entry::EntryError;
use super::response::Status;

/// Why a request is refused, or the connection before there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A `channel` of the query is no channel name.
    #[error("channel: {0}")]
    ChannelName(ChannelNameError),
    /// No channel where one is needed.
    #[error("name at least one channel: ?channel=NAME")]
    ChannelMissing,
    /// More channels than a conn may have.
    #[error("at most {limit} channels per connection, not {got}")]
    ChannelsTooMany {
        /// How many it may have.
        limit: usize,
        /// How many were asked for.
        got: usize,
    },
    /// `Content-Length` and `Transfer-Encoding` together, or the latter in HTTP/1.0.
    #[error("the length of the content is given in two ways, or in one that HTTP/1.0 lacks")]
    ContentFraming,
    /// `Content-Length` is repeated or no number.
    #[error("Content-Length has to be one number")]
    ContentLength,
    /// The request has content.
    #[error("requests have no content here; publications go to the feed")]
    ContentUnwanted,
    /// A percent sign without two hexadecimal digits, or a value that is not UTF-8.
    #[error("the query is not percent-encoded UTF-8")]
    Encoding,
    /// It may not come in.
    #[error(transparent)]
    Entry(#[from] EntryError),
    /// `envelope` is neither of the two.
    #[error("envelope is either full or data")]
    Envelope,
    /// An expectation that nobody has defined (RFC 9110, 10.1.1).
    #[error("no expectation but 100-continue is known")]
    Expectation,
    /// A field line is malformed (RFC 9112, 5).
    #[error("a header field is malformed")]
    Field,
    /// More field lines than are read.
    #[error("at most {limit} header fields")]
    FieldsTooMany {
        /// How many are read.
        limit: usize,
    },
    /// The head is not complete within its limit.
    #[error("a request head has at most {limit} bytes")]
    HeadTooLarge {
        /// How many bytes it may have.
        limit: usize,
    },
    /// The head is not complete in time.
    #[error("no complete request head in time")]
    HeadTimeout,
    /// `Host` is missing in HTTP/1.1, repeated or malformed (RFC 9112, 3.2).
    #[error("exactly one well-formed Host header field is needed")]
    Host,
    /// The preface of HTTP/2 (RFC 9113, 3.4).
    #[error("HTTP/2 is not spoken here, only HTTP/1.0 and HTTP/1.1")]
    Http2,
    /// CR or LF stands alone (RFC 9112, 2.2).
    #[error("lines end in CR LF, and neither of the two stands alone")]
    LineEnd,
    /// Memory is short.
    #[error("the server is short of memory")]
    MemoryShort,
    /// A method that nothing here has.
    #[error("only GET, HEAD and OPTIONS are answered here")]
    Method,
    /// Not a request of HTTP/1.
    #[error("this is not an HTTP/1.1 request")]
    NotHttp,
    /// A page that is not let in (RFC 6454, 7).
    #[error("pages of this origin are not let in; see [browser] origins")]
    Origin,
    /// No such path.
    #[error("there is nothing here; see /poll, /sse and /ws")]
    Path,
    /// HTTP without TLS where TLS is spoken.
    #[error("plain HTTP was sent to a port that speaks TLS: use https:// or wss://")]
    PlainOnTls,
    /// The server drains, and the request head is not complete.
    #[error("the server is restarting")]
    Restarting,
    /// The server has as many channels as it may have.
    #[error("the server has as many channels as it may have")]
    ServerFullOfChannels,
    /// The server has as many connections as it may have.
    #[error("the server is full")]
    ServerFullOfConns,
    /// The request target is in none of the forms of RFC 9112, 3.2.
    #[error("the request target is malformed")]
    Target,
    /// The request target does not fit.
    #[error("the request target is too long: at most {limit} bytes with all of the head")]
    TargetTooLong {
        /// How many bytes fit.
        limit: usize,
    },
    /// `timeout` is no number of seconds.
    #[error("timeout is a whole number of seconds")]
    Timeout,
    /// A TLS handshake where TLS is not spoken.
    #[error("a TLS handshake was sent to a port that speaks plain HTTP: use http:// or ws://")]
    TlsOnPlain,
    /// The client has or opens too many connections.
    #[error(transparent)]
    TooMany(#[from] TooMany),
    /// The content has a transfer coding that is not undone here.
    #[error("this transfer coding is not implemented here")]
    TransferCoding,
    /// `Transfer-Encoding` is repeated, has `chunked` twice or not at its end (RFC 9112, 6.3).
    #[error("Transfer-Encoding has to end in chunked, and to have it once")]
    TransferEncoding,
    /// `Upgrade` without the connection option of its name.
    #[error("Connection does not name Upgrade")]
    UpgradeConnection,
    /// `Sec-WebSocket-Extensions` is no list of extensions (RFC 6455, 9.1).
    #[error("Sec-WebSocket-Extensions is malformed")]
    UpgradeExtensions,
    /// `Sec-WebSocket-Key` is missing, repeated or not 16 bytes in base64.
    #[error("Sec-WebSocket-Key has to be 16 bytes in base64, once")]
    UpgradeKey,
    /// No wish for a WebSocket where nothing else is served.
    #[error("only WebSocket is served here; a proxy on the way may have removed Upgrade")]
    UpgradeMissing,
    /// Another version of the WebSocket protocol than 13, or none.
    #[error("only version 13 of the WebSocket protocol is spoken here")]
    UpgradeVersion,
    /// Another version of HTTP than 1.0 and 1.1.
    #[error("only HTTP/1.0 and HTTP/1.1 are spoken here")]
    Version,
    /// `last` is no number of publications.
    #[error("last is a whole number from 0 to {}", u32::MAX)]
    Last,
    /// `window` is no number of publications within the limit.
    #[error("window is a whole number from 1 to {WINDOW_PUBLICATIONS_MAX}")]
    Window,
    /// `window` with the data envelope, which has no ids to acknowledge.
    #[error("a window needs the full envelope: publications are acknowledged by their ids")]
    WindowWithoutIds,
    /// `window` on a transport whose clients cannot acknowledge.
    #[error("a window needs a WebSocket: nobody else can acknowledge")]
    WindowUnheard,
}

impl Refusal {
    /// The status of the response.
    #[must_use]
    pub fn status(self) -> Status {
        match self {
            Self::ChannelMissing
            | Self::ChannelName(_)
            | Self::ChannelsTooMany { .. }
            | Self::ContentFraming
            | Self::ContentLength
            | Self::Encoding
            | Self::Envelope
            | Self::Field
            | Self::Host
            | Self::LineEnd
            | Self::NotHttp
            | Self::PlainOnTls
            | Self::Target
            | Self::Timeout
            | Self::TlsOnPlain
            | Self::TransferEncoding
            | Self::UpgradeConnection
            | Self::UpgradeExtensions
            | Self::UpgradeKey
            | Self::Last
            | Self::Window
            | Self::WindowUnheard
            | Self::WindowWithoutIds => Status::BadRequest,
            Self::Entry(error) => error.status(),
            Self::ContentUnwanted => Status::ContentTooLarge,
            Self::Expectation => Status::ExpectationFailed,
            Self::FieldsTooMany { .. } | Self::HeadTooLarge { .. } => Status::FieldsTooLarge,
            Self::HeadTimeout => Status::RequestTimeout,
            Self::MemoryShort
            | Self::Restarting
            | Self::ServerFullOfChannels
            | Self::ServerFullOfConns => Status::ServiceUnavailable,
            Self::Method => Status::MethodNotAllowed,
            Self::Origin => Status::Forbidden,
            Self::Path => Status::NotFound,
            Self::TargetTooLong { .. } => Status::UriTooLong,
            Self::TooMany(_) => Status::TooManyRequests,
            Self::TransferCoding => Status::NotImplemented,
            Self::UpgradeMissing | Self::UpgradeVersion => Status::UpgradeRequired,
            Self::Http2 | Self::Version => Status::VersionNotSupported,
        }
    }

    /// The word that programs look at.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::ChannelMissing => "channel_missing",
            Self::ChannelName(_) => "bad_channel",
            Self::ChannelsTooMany { .. } => "too_many_channels",
            Self::ContentFraming => "content_framing",
            Self::ContentLength => "content_length",
            Self::ContentUnwanted => "content_unwanted",
            Self::Encoding => "bad_encoding",
            Self::Entry(error) => error.code(),
            Self::Envelope => "bad_envelope",
            Self::Expectation => "expectation_failed",
            Self::Field => "bad_field",
            Self::FieldsTooMany { .. } => "too_many_fields",
            Self::HeadTooLarge { .. } => "head_too_large",
            Self::HeadTimeout => "head_timeout",
            Self::Host => "bad_host",
            Self::LineEnd => "line_end",
            Self::MemoryShort => "memory_short",
            Self::Method => "method_not_allowed",
            Self::NotHttp => "not_http",
            Self::Origin => "origin_not_allowed",
            Self::Path => "not_found",
            Self::PlainOnTls => "plain_http_on_tls",
            Self::Restarting => "restarting",
            Self::ServerFullOfChannels | Self::ServerFullOfConns => "server_full",
            Self::Target => "bad_target",
            Self::TargetTooLong { .. } => "target_too_long",
            Self::Timeout => "bad_timeout",
            Self::TlsOnPlain => "tls_on_plain_http",
            Self::TooMany(TooMany::Conns) => "too_many_connections",
            Self::TooMany(TooMany::Connects) => "too_many_connects",
            Self::TransferCoding => "transfer_coding",
            Self::TransferEncoding => "transfer_encoding",
            Self::UpgradeConnection | Self::UpgradeExtensions | Self::UpgradeKey => "bad_upgrade",
            Self::UpgradeMissing => "upgrade_required",
            Self::UpgradeVersion => "upgrade_version",
            Self::Http2 | Self::Version => "http_version",
            Self::Last => "bad_last",
            Self::Window | Self::WindowUnheard | Self::WindowWithoutIds => "bad_window",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::auth::TokenError;

    impl Refusal {
        /// One of each variant, and the errors inside those whose code they decide.
        pub(in crate::http) fn one_of_each() -> Vec<Self> {
            let mut all = vec![Self::ChannelMissing];
            while let Some(next) = all.last().and_then(|last| last.next()) {
                all.push(next);
            }
            all
        }

        /// The variant after this one: a new one does not compile before it has its place.
        fn next(self) -> Option<Self> {
            let limit = 1;
            Some(match self {
                Self::ChannelMissing => Self::ChannelName(ChannelNameError::Empty),
                Self::ChannelName(_) => Self::ChannelsTooMany { limit, got: 2 },
                Self::ChannelsTooMany { .. } => Self::ContentFraming,
                Self::ContentFraming => Self::ContentLength,
                Self::ContentLength => Self::ContentUnwanted,
                Self::ContentUnwanted => Self::Encoding,
                Self::Encoding => Self::Entry(EntryError::NotAllowed),
                Self::Entry(EntryError::NotAllowed) => Self::Entry(EntryError::TokenMissing),
                Self::Entry(EntryError::TokenMissing) => Self::Entry(EntryError::TokenRepeated),
                Self::Entry(EntryError::TokenRepeated) => {
                    Self::Entry(EntryError::Token(TokenError::Malformed))
                }
                Self::Entry(EntryError::Token(_)) => Self::Envelope,
                Self::Envelope => Self::Expectation,
                Self::Expectation => Self::Field,
                Self::Field => Self::FieldsTooMany { limit },
                Self::FieldsTooMany { .. } => Self::HeadTimeout,
                Self::HeadTimeout => Self::HeadTooLarge { limit },
                Self::HeadTooLarge { .. } => Self::Host,
                Self::Host => Self::Http2,
                Self::Http2 => Self::LineEnd,
                Self::LineEnd => Self::MemoryShort,
                Self::MemoryShort => Self::Method,
                Self::Method => Self::NotHttp,
                Self::NotHttp => Self::Origin,
                Self::Origin => Self::Path,
                Self::Path => Self::PlainOnTls,
                Self::PlainOnTls => Self::Restarting,
                Self::Restarting => Self::ServerFullOfChannels,
                Self::ServerFullOfChannels => Self::ServerFullOfConns,
                Self::ServerFullOfConns => Self::Target,
                Self::Target => Self::TargetTooLong { limit },
                Self::TargetTooLong { .. } => Self::Timeout,
                Self::Timeout => Self::TlsOnPlain,
                Self::TlsOnPlain => Self::TooMany(TooMany::Conns),
                Self::TooMany(TooMany::Conns) => Self::TooMany(TooMany::Connects),
                Self::TooMany(TooMany::Connects) => Self::TransferCoding,
                Self::TransferCoding => Self::TransferEncoding,
                Self::TransferEncoding => Self::UpgradeConnection,
                Self::UpgradeConnection => Self::UpgradeExtensions,
                Self::UpgradeExtensions => Self::UpgradeKey,
                Self::UpgradeKey => Self::UpgradeMissing,
                Self::UpgradeMissing => Self::UpgradeVersion,
                Self::UpgradeVersion => Self::Version,
                Self::Version => Self::Last,
                Self::Last => Self::Window,
                Self::Window => Self::WindowWithoutIds,
                Self::WindowWithoutIds => Self::WindowUnheard,
                Self::WindowUnheard => return None,
            })
        }
    }

    #[test]
    fn code_is_one_word_and_tells_apart_what_a_program_would() {
        let all = Refusal::one_of_each();
        for refusal in &all {
            let is_part = |byte: u8| byte.is_ascii_lowercase() || byte == b'_' || byte == b'2';
            let code = refusal.code();
            assert!(
                !code.is_empty() && code.bytes().all(is_part),
                "{refusal:?}: {code}"
            );
        }
        let codes: BTreeSet<_> = all.iter().map(|refusal| refusal.code()).collect();
        // Those that share one: two of HTTP's version, two of a full server, three each of a bad
        // upgrade and a bad window.
        assert_eq!(codes.len(), all.len() - 6);
    }
}
