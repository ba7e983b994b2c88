//! The items that a decoder finds in the bytes of one feeder.
//!
//! Pure data. [`super::decode`] and [`super::request`] produce items, the feeder acts on them.

use super::command::Command;
use super::draft::Draft;
use super::publish::Publish;
use super::refusal::Refusal;
use super::request_refusal::RequestRefusal;

/// The outcome of one call.
#[derive(Debug, PartialEq)]
#[must_use]
pub struct Step {
    /// The number of consumed bytes.
    pub consumed: usize,
    /// What was found; `None` if more bytes are needed.
    pub item: Option<Item>,
}

/// One unit of a feeder's input.
#[derive(Debug, PartialEq)]
pub enum Item {
    /// The head of a request asks for `100 Continue` before its body (RFC 9110, 10.1.1).
    Continue,
    /// A line with a command.
    Command {
        /// The line's number.
        line: u64,
        /// Whether the line asks for an acknowledgement.
        wants_ack: bool,
        /// The command.
        command: Box<Command>,
    },
    /// A line with a publication.
    Publish {
        /// The line's number.
        line: u64,
        /// Whether the line asks for an acknowledgement.
        wants_ack: bool,
        /// The publication.
        draft: Draft,
    },
    /// A refused line.
    Refuse {
        /// The line's number.
        line: u64,
        /// The reason.
        refusal: Refusal,
    },
    /// A complete HTTP request.
    Request(Box<Request>),
}

impl Step {
    pub(super) fn item(consumed: usize, item: Item) -> Self {
        Self {
            consumed,
            item: Some(item),
        }
    }

    pub(super) fn more(consumed: usize) -> Self {
        Self {
            consumed,
            item: None,
        }
    }
}

/// One complete request.
#[derive(Debug, PartialEq)]
pub struct Request {
    /// What it publishes, or why it is refused.
    pub outcome: Result<Publish, RequestRefusal>,
    /// Whether the connection is closed after the response.
    pub is_last: bool,
    /// Whether the response has no body (`HEAD`).
    pub is_head: bool,
}
