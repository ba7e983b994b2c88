//! The statuses that the server sends, with their codes and reason phrases.
//!
//! This module contains only data. `refusal` and `response` choose the status of a response.

/// The statuses that the server sends (RFC 9110, 15).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Status 101.
    SwitchingProtocols,
    /// Status 200.
    Ok,
    /// Status 204.
    NoContent,
    /// Status 304.
    NotModified,
    /// Status 400.
    BadRequest,
    /// Status 401.
    Unauthorized,
    /// Status 403.
    Forbidden,
    /// Status 404.
    NotFound,
    /// Status 405.
    MethodNotAllowed,
    /// Status 408.
    RequestTimeout,
    /// Status 411.
    LengthRequired,
    /// Status 413.
    ContentTooLarge,
    /// Status 414.
    UriTooLong,
    /// Status 415.
    UnsupportedMediaType,
    /// Status 417.
    ExpectationFailed,
    /// Status 426.
    UpgradeRequired,
    /// Status 429.
    TooManyRequests,
    /// Status 431.
    FieldsTooLarge,
    /// Status 501.
    NotImplemented,
    /// Status 503.
    ServiceUnavailable,
    /// Status 505.
    VersionNotSupported,
}

impl Status {
    /// Returns the three-digit status code.
    #[must_use]
    pub fn code(self) -> u16 {
        match self {
            Self::SwitchingProtocols => 101,
            Self::Ok => 200,
            Self::NoContent => 204,
            Self::NotModified => 304,
            Self::BadRequest => 400,
            Self::Unauthorized => 401,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::RequestTimeout => 408,
            Self::LengthRequired => 411,
            Self::ContentTooLarge => 413,
            Self::UriTooLong => 414,
            Self::UnsupportedMediaType => 415,
            Self::ExpectationFailed => 417,
            Self::UpgradeRequired => 426,
            Self::TooManyRequests => 429,
            Self::FieldsTooLarge => 431,
            Self::NotImplemented => 501,
            Self::ServiceUnavailable => 503,
            Self::VersionNotSupported => 505,
        }
    }

    /// Returns the reason phrase.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::SwitchingProtocols => "Switching Protocols",
            Self::Ok => "OK",
            Self::NoContent => "No Content",
            Self::NotModified => "Not Modified",
            Self::BadRequest => "Bad Request",
            Self::Unauthorized => "Unauthorized",
            Self::Forbidden => "Forbidden",
            Self::NotFound => "Not Found",
            Self::MethodNotAllowed => "Method Not Allowed",
            Self::RequestTimeout => "Request Timeout",
            Self::LengthRequired => "Length Required",
            Self::ContentTooLarge => "Content Too Large",
            Self::UriTooLong => "URI Too Long",
            Self::UnsupportedMediaType => "Unsupported Media Type",
            Self::ExpectationFailed => "Expectation Failed",
            Self::UpgradeRequired => "Upgrade Required",
            Self::TooManyRequests => "Too Many Requests",
            Self::FieldsTooLarge => "Request Header Fields Too Large",
            Self::NotImplemented => "Not Implemented",
            Self::ServiceUnavailable => "Service Unavailable",
            Self::VersionNotSupported => "HTTP Version Not Supported",
        }
    }
}
