//! The items that a decoder finds in the bytes of one feeder.
//!
//! This module contains only data types. [`super::decode`] and [`super::request`] produce items,
//! and the feeder handles the items.

use super::command::Command;
use super::draft::Draft;
use super::http_publish::Publish;
use super::refusal::Refusal;
use super::request_refusal::RequestRefusal;
use crate::http::head::Method;

/// The outcome of one decoding step.
#[derive(Debug, PartialEq)]
#[must_use]
pub struct Step {
    /// The number of consumed bytes.
    pub consumed: usize,
    /// The item that was found; `None` if more bytes are needed.
    pub item: Option<Item>,
}

/// One unit of a feeder's input.
#[derive(Debug, PartialEq)]
pub enum Item {
    /// A request head that asks for `100 Continue` before the body (RFC 9110, 10.1.1).
    Continue,
    /// A line with a command.
    Command {
        /// The number of the line in the feeder's input, counted from 1.
        line: u64,
        /// Whether the line requests an acknowledgement.
        wants_ack: bool,
        /// The command.
        command: Box<Command>,
    },
    /// A line with a publication.
    Publish {
        /// The number of the line in the feeder's input, counted from 1.
        line: u64,
        /// Whether the line requests an acknowledgement.
        wants_ack: bool,
        /// The publication.
        draft: Draft,
    },
    /// A refused line.
    Refuse {
        /// The number of the line in the feeder's input, counted from 1.
        line: u64,
        /// The reason for the refusal.
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

/// One complete HTTP request.
#[derive(Debug, PartialEq)]
pub struct Request {
    /// The publications of the request, or the reason why the request is refused.
    pub outcome: Result<Publish, RequestRefusal>,
    /// Whether the connection is closed after the response.
    pub is_last: bool,
    /// The method, or `POST` if the head is refused. The response to `HEAD` has no body.
    pub method: Method,
}
