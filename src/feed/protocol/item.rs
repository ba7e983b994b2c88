//! What a decoder finds in the bytes of one feeder.
//!
//! Pure data. [`super::decode`] and [`super::request`] produce it, the feeder acts on it.

use super::command::Command;
use super::draft::Draft;
use super::publish::Publish;
use super::refusal::Refusal;
use super::request_refusal::RequestRefusal;

/// What one call found.
#[derive(Debug, PartialEq)]
#[must_use]
pub struct Step {
    /// Bytes that are done with.
    pub consumed: usize,
    /// What they were; `None` when more bytes are needed.
    pub item: Option<Item>,
}

/// One thing that a feeder said.
#[derive(Debug, PartialEq)]
pub enum Item {
    /// The head of a request asks for `100 Continue` before its body (RFC 9110, 10.1.1).
    Continue,
    /// A line with a command.
    Command {
        /// The line's number.
        line: u64,
        /// Whether an answer is asked for.
        wants_ack: bool,
        /// The command.
        command: Box<Command>,
    },
    /// A line with a publication.
    Publish {
        /// The line's number.
        line: u64,
        /// Whether an answer is asked for.
        wants_ack: bool,
        /// The publication.
        draft: Draft,
    },
    /// A line that is not taken.
    Refuse {
        /// The line's number.
        line: u64,
        /// Why.
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

/// One request, read to its end.
#[derive(Debug, PartialEq)]
pub struct Request {
    /// What it publishes, or what is wrong with it.
    pub outcome: Result<Publish, RequestRefusal>,
    /// Whether the connection ends with its answer.
    pub is_last: bool,
    /// Whether the answer has no body (`HEAD`).
    pub is_head: bool,
}
