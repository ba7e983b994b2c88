//! Why an HTTP request on the feed is refused.
//!
//! Pure data. `feed::http_answers` makes a problem document of it (RFC 9457).

use super::refusal::Refusal;
use crate::http;
use crate::http::response::Status;

/// Why a request is refused (RFC 9457).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestRefusal {
    /// The status of the answer.
    pub status: Status,
    /// The word that programs look at.
    pub error: &'static str,
    /// What is wrong, for people.
    pub detail: Box<str>,
    /// Which publication of the body is at fault, counted from zero.
    pub index: Option<usize>,
    /// A field line of the answer that says what would be accepted.
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

    /// Content of a type or coding that is not taken, and the field line that names what is taken
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
