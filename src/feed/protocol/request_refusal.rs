//! Why an HTTP request on the feed is refused.
//!
//! Pure data. `feed::http_answers` writes it as a problem document (RFC 9457).

use super::refusal::Refusal;
use crate::http;
use crate::http::response::Status;

/// Why a request is refused (RFC 9457).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestRefusal {
    /// The status of the response.
    pub status: Status,
    /// The error code, for programs.
    pub error: &'static str,
    /// The explanation, for people.
    pub detail: Box<str>,
    /// The index of the publication at fault, from zero.
    pub index: Option<usize>,
    /// A header field of the response that names what is accepted.
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

    /// Refuses a media type or content coding. `field` names what is accepted (RFC 9110, 15.5.16).
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
