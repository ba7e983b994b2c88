//! The reason why an HTTP request on the feed is refused.
//!
//! This module contains only a data type. `feed::http_answers` encodes it as a problem document
//! (RFC 9457).

use super::refusal::Refusal;
use crate::http;
use crate::http::response::Status;

/// The reason why a request is refused, as in a problem document (RFC 9457).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestRefusal {
    /// The status of the response.
    pub status: Status,
    /// The machine-readable error code.
    pub error: &'static str,
    /// A human-readable explanation.
    pub detail: Box<str>,
    /// The index of the faulty publication, counted from zero.
    pub index: Option<usize>,
    /// The name and value of a header field of the response that lists the supported values.
    pub field: Option<(&'static str, &'static str)>,
}

impl RequestRefusal {
    pub(crate) fn new(status: Status, error: &'static str, detail: &str) -> Self {
        Self {
            status,
            error,
            detail: Box::from(detail),
            index: None,
            field: None,
        }
    }

    /// Creates the refusal of a media type or content coding. `field` lists the supported values
    /// (RFC 9110, 15.5.16).
    pub(crate) fn unsupported(
        error: &'static str,
        detail: &str,
        field: (&'static str, &'static str),
    ) -> Self {
        Self {
            field: Some(field),
            ..Self::new(Status::UnsupportedMediaType, error, detail)
        }
    }
}

impl From<Refusal> for RequestRefusal {
    fn from(refusal: Refusal) -> Self {
        Self::new(Status::BadRequest, refusal.code(), &refusal.to_string())
    }
}

impl From<http::Refusal> for RequestRefusal {
    fn from(refusal: http::Refusal) -> Self {
        Self::new(refusal.status(), refusal.code(), &refusal.to_string())
    }
}
