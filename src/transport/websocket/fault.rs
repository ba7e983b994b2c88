//! The faults of a client that end its conn. Each fault has a close code, and a close reason for
//! the metrics.
//!
//! `decode` and `receive` detect faults. Only `receive` acts on a fault: it closes the conn. The
//! text of a fault is the reason in the close frame, for the client's developer.

use super::close::{self, CloseError};
use super::decode::HeaderError;
use super::utf8::InvalidUtf8;
use crate::auth::TokenError;
use crate::effect::CloseReason;

/// A fault of the client that ends its conn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Fault {
    #[error(transparent)]
    Close(#[from] CloseError),
    #[error("a continuation frame without a message to continue")]
    ContinuationWithoutStart,
    #[error(transparent)]
    Header(#[from] HeaderError),
    #[error("a compressed message cannot be inflated")]
    InvalidDeflate,
    #[error(transparent)]
    InvalidText(#[from] InvalidUtf8),
    #[error("a new message inside a fragmented one")]
    MessageInsideMessage,
    #[error("a message has at most {limit} bytes")]
    MessageTooBig { limit: u32 },
    #[error("not_allowed")]
    NotAllowed,
    #[error("{}", .0.code())]
    Token(TokenError),
    #[error("too many answers unread")]
    TooManyAnswers,
}

impl Fault {
    pub(super) fn close_code(self) -> u16 {
        match self {
            Self::Close(CloseError::ReasonNotUtf8)
            | Self::InvalidDeflate
            | Self::InvalidText(_) => close::INVALID_PAYLOAD,
            Self::MessageTooBig { .. } => close::MESSAGE_TOO_BIG,
            Self::NotAllowed => close::NOT_ALLOWED,
            Self::Token(TokenError::Expired) => close::TOKEN_EXPIRED,
            Self::Token(_) => close::UNAUTHORIZED,
            Self::TooManyAnswers => close::SLOW_CONSUMER,
            Self::Close(CloseError::BodyOfOneByte | CloseError::Code { .. })
            | Self::ContinuationWithoutStart
            | Self::Header(_)
            | Self::MessageInsideMessage => close::PROTOCOL_ERROR,
        }
    }

    pub(super) fn close_reason(self) -> CloseReason {
        match self {
            Self::Close(CloseError::ReasonNotUtf8) | Self::InvalidText(_) => {
                CloseReason::InvalidText
            }
            Self::InvalidDeflate => CloseReason::InvalidDeflate,
            Self::MessageTooBig { .. } => CloseReason::MessageTooBig,
            Self::NotAllowed => CloseReason::NotAllowed,
            Self::Token(TokenError::Expired) => CloseReason::TokenExpired,
            Self::Token(_) => CloseReason::Unauthorized,
            Self::TooManyAnswers => CloseReason::Overflow,
            Self::Close(CloseError::BodyOfOneByte | CloseError::Code { .. })
            | Self::ContinuationWithoutStart
            | Self::Header(_)
            | Self::MessageInsideMessage => CloseReason::ProtocolError,
        }
    }
}
