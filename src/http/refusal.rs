//! All reasons to refuse a request, each with its status, code and text.
//!
//! The text becomes the `detail` of a problem document (RFC 9457), and proxies may log it. So the
//! text contains only the server's own numbers and names, never a byte from the peer.

use crate::config::limits::WINDOW_PUBLICATIONS_MAX;
use crate::id::ChannelNameError;
use crate::proxy::TooMany;

use super::entry::EntryError;
use super::publish::PublishError;
use super::response::Status;

/// The reason to refuse a request, or a connection without a valid request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A `channel` parameter of the query is not a valid channel name.
    #[error("channel: {0}")]
    ChannelName(ChannelNameError),
    /// The request names no channel, but must name at least one channel.
    #[error("name at least one channel: ?channel=NAME")]
    ChannelMissing,
    /// The query names more channels than a conn may subscribe to.
    #[error("at most {limit} channels per connection, not {got}")]
    ChannelsTooMany {
        /// The maximum number of channels.
        limit: usize,
        /// The number of channels in the query.
        got: usize,
    },
    /// The request has `Content-Length` and `Transfer-Encoding`, or `Transfer-Encoding` in
    /// HTTP/1.0.
    #[error("Transfer-Encoding is given beside Content-Length or in HTTP/1.0")]
    ContentFraming,
    /// `Content-Length` occurs twice or is not a number.
    #[error("Content-Length must be one number")]
    ContentLength,
    /// The request has content, which this listener does not accept.
    #[error("requests have no content here; publish with POST /publish, or over the feed")]
    ContentUnwanted,
    /// The query has a percent sign without two hexadecimal digits, or a value that is not UTF-8.
    #[error("the query is not percent-encoded UTF-8")]
    Encoding,
    /// The request is not admitted, because its token is refused or missing.
    #[error(transparent)]
    Entry(#[from] EntryError),
    /// The parameter `envelope` is neither `full` nor `data`.
    #[error("envelope is either full or data")]
    Envelope,
    /// The field `Expect` contains an undefined expectation (RFC 9110, 10.1.1).
    #[error("only the expectation 100-continue is supported")]
    Expectation,
    /// A field line is malformed (RFC 9112, 5).
    #[error("a header field is malformed")]
    Field,
    /// The head has too many field lines.
    #[error("at most {limit} header fields")]
    FieldsTooMany {
        /// The maximum number of field lines.
        limit: usize,
    },
    /// The request head is longer than the limit.
    #[error("a request head has at most {limit} bytes")]
    HeadTooLarge {
        /// The maximum number of bytes of the request head.
        limit: usize,
    },
    /// The request head was not complete in time.
    #[error("no complete request head in time")]
    HeadTimeout,
    /// The field `Host` is missing in HTTP/1.1, repeated or malformed (RFC 9112, 3.2).
    #[error("exactly one well-formed Host header field is needed")]
    Host,
    /// The client sent the preface of HTTP/2 (RFC 9113, 3.4).
    #[error("HTTP/2 is not supported, only HTTP/1.0 and HTTP/1.1")]
    Http2,
    /// The head contains a bare CR or LF (RFC 9112, 2.2).
    #[error("lines must end in CR LF; a bare CR or LF is not accepted")]
    LineEnd,
    /// The server is short of memory.
    #[error("the server is short of memory")]
    MemoryShort,
    /// The method is not supported.
    #[error("only GET, HEAD and OPTIONS are supported")]
    Method,
    /// The bytes are not an HTTP/1 request.
    #[error("this is not an HTTP/1.1 request")]
    NotHttp,
    /// The origin of the page is not configured (RFC 6454, 7).
    #[error("pages of this origin are not admitted; see [browser] origins")]
    Origin,
    /// The path of the request does not exist.
    #[error("no such path; see /poll, /publish, /sse and /ws")]
    Path,
    /// The client sent plaintext HTTP to a TLS listener.
    #[error("plain HTTP was sent to a port that speaks TLS: use https:// or wss://")]
    PlainOnTls,
    /// A publication is refused.
    #[error(transparent)]
    Publish(PublishError),
    /// The server started to drain before the request head was complete.
    #[error("the server is restarting")]
    Restarting,
    /// The server has reached its limit on channels.
    #[error("the server has reached its limit of channels")]
    ServerFullOfChannels,
    /// The server has reached its limit on connections.
    #[error("the server is full")]
    ServerFullOfConns,
    /// The request target has none of the forms of RFC 9112, 3.2.
    #[error("the request target is malformed")]
    Target,
    /// The request target is too long.
    #[error("the request target is too long: at most {limit} bytes with all of the head")]
    TargetTooLong {
        /// The maximum number of bytes of the request head.
        limit: usize,
    },
    /// The parameter `timeout` is not a number of seconds.
    #[error("timeout is a whole number of seconds")]
    Timeout,
    /// The client sent a TLS handshake to a plaintext listener.
    #[error("a TLS handshake was sent to a port that speaks plain HTTP: use http:// or ws://")]
    TlsOnPlain,
    /// The client has too many connections, or opens connections too fast.
    #[error(transparent)]
    TooMany(#[from] TooMany),
    /// The content has an unsupported transfer coding.
    #[error("this transfer coding is not implemented")]
    TransferCoding,
    /// `Transfer-Encoding` occurs on several lines, contains `chunked` twice, or does not end in
    /// `chunked` (RFC 9112, 6.3).
    #[error("Transfer-Encoding must end in chunked and contain it once")]
    TransferEncoding,
    /// The field `Connection` does not list `Upgrade`.
    #[error("Connection does not name Upgrade")]
    UpgradeConnection,
    /// `Sec-WebSocket-Extensions` is not a list of extensions (RFC 6455, 9.1).
    #[error("Sec-WebSocket-Extensions is malformed")]
    UpgradeExtensions,
    /// `Sec-WebSocket-Key` is missing, repeated or not 16 bytes in base64.
    #[error("Sec-WebSocket-Key must be 16 bytes in base64, once")]
    UpgradeKey,
    /// A request to the WebSocket path has no valid `Upgrade`.
    #[error("this path serves WebSocket only; a proxy on the way may have removed Upgrade")]
    UpgradeMissing,
    /// The WebSocket version is missing or not 13.
    #[error("only version 13 of the WebSocket protocol is supported")]
    UpgradeVersion,
    /// The HTTP version is neither 1.0 nor 1.1.
    #[error("only HTTP/1.0 and HTTP/1.1 are supported")]
    Version,
    /// The parameter `last` is not a number of publications.
    #[error("last is a whole number from 0 to {}", u32::MAX)]
    Last,
    /// The parameter `window` is not a number of publications within the limit.
    #[error("window is a whole number from 1 to {WINDOW_PUBLICATIONS_MAX}")]
    Window,
    /// The request has a `window` and `envelope=data`. With this envelope, publications have no ids
    /// that a client could acknowledge.
    #[error("a window needs the full envelope: publications are acknowledged by their ids")]
    WindowWithoutIds,
    /// The request has a `window` on a transport whose clients cannot acknowledge publications.
    #[error("a window needs a WebSocket: clients of other transports cannot acknowledge")]
    WindowUnheard,
}

impl Refusal {
    /// Returns the status of the response.
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
            Self::Publish(error) => error.status(),
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

    /// Returns the `code` of the problem document.
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
            Self::Publish(error) => error.code(),
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
    use crate::json::LimitError;

    fn next_publish(error: PublishError) -> Option<PublishError> {
        use PublishError as Error;
        Some(match error {
            Error::Busy => Error::Chunks,
            Error::Chunks => Error::ContentCoding,
            Error::ContentCoding => Error::ContentTooLong { limit: 1 },
            Error::ContentTooLong { .. } => Error::Dedupe,
            Error::Dedupe => Error::Json,
            Error::Json => Error::JsonLimit(LimitError::Digits),
            Error::JsonLimit(_) => Error::LengthMissing,
            Error::LengthMissing => Error::Method,
            Error::Method => Error::NoConsumer,
            Error::NoConsumer => Error::NotAllowed,
            Error::NotAllowed => Error::Unavailable,
            Error::Unavailable => Error::Unsynced,
            Error::Unsynced => return None,
        })
    }

    impl Refusal {
        /// Returns one value of each variant. If an inner error determines the `code`, returns one
        /// value for each such error.
        pub(in crate::http) fn one_of_each() -> Vec<Self> {
            let mut all = vec![Self::ChannelMissing];
            while let Some(next) = all.last().and_then(|last| last.next()) {
                all.push(next);
            }
            all
        }

        /// Returns the variant after `self`, or `None` after the last variant. So a test can visit
        /// all variants. If a new variant is not added to the `match`, the `match` does not
        /// compile.
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
                Self::PlainOnTls => Self::Publish(PublishError::Busy),
                Self::Publish(error) => match next_publish(error) {
                    Some(next) => Self::Publish(next),
                    None => Self::Restarting,
                },
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
    fn code_is_one_word_and_distinguishes_the_refusals() {
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
        // Some refusals share a code: two refusals for the HTTP version, two for a full server,
        // three for a bad upgrade, and three for a bad window. Two refusals of a publication are
        // for its JSON, and two have the code of a refusal of other requests.
        assert_eq!(codes.len(), all.len() - 9);
    }
}
