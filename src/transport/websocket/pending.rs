//! The incomplete frames and messages of a WebSocket, and a postponed pong.
//!
//! The WebSocket boxes this state and keeps the box only while the state is not empty. So a client
//! that sends complete frames occupies no memory between frames. The size of every part is limited.
//! A header has at most 14 bytes, and a control payload has at most 125 bytes. A message has at
//! most the configured size, and unhandled input has at most the size of one read. Memory grows
//! with the received bytes, never with an announced length.

use super::decode::{FrameHeader, HeaderError, Rsv1, parse_header};
use super::utf8::{InvalidUtf8, Utf8Check};
use crate::certain;
use crate::config::limits::FRAME_HEADER_BYTES_MAX;
use crate::frame::websocket::Opcode;

/// State that waits for more bytes from the client, or for room in the queue of control bytes.
#[derive(Debug, Default)]
pub(super) struct Pending {
    /// An incomplete header. Empty while `frame` is set.
    pub(super) header: PartialHeader,
    /// The frame whose payload is incomplete.
    pub(super) frame: Option<PartialFrame>,
    /// The received part of a control frame's payload, unmasked. The control frame is in `frame`.
    pub(super) control: Vec<u8>,
    /// The message that the next data frame continues.
    pub(super) message: Option<PartialMessage>,
    /// Input that was not handled because the budget of work was used up. Such input begins with
    /// the header of a frame, so `header` and `frame` are empty while there is any.
    pub(super) unhandled: Vec<u8>,
    /// The payload of the newest ping, if the pong could not be sent yet.
    pub(super) pong: Option<Vec<u8>>,
}

impl Pending {
    pub(super) fn is_empty(&self) -> bool {
        self.header.length == 0
            && self.frame.is_none()
            && self.message.is_none()
            && self.unhandled.is_empty()
            && self.pong.is_none()
    }
}

/// The first bytes of an incomplete header.
#[derive(Debug, Default)]
pub(super) struct PartialHeader {
    bytes: [u8; FRAME_HEADER_BYTES_MAX],
    /// The number of received bytes, less than the length of the complete header.
    length: u8,
}

impl PartialHeader {
    pub(super) fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Appends `input`. If the header is complete, returns the header and the number of bytes of
    /// `input` that belong to it. Otherwise keeps all of `input`.
    pub(super) fn push(
        &mut self,
        input: &[u8],
        rsv1: Rsv1,
    ) -> Result<Option<(FrameHeader, usize)>, HeaderError> {
        let before = usize::from(self.length);
        let room = certain::skip_mut(&mut self.bytes, before);
        let copied = room.len().min(input.len());
        for (to, from) in room.iter_mut().zip(input) {
            *to = *from;
        }
        let filled = before + copied;
        match parse_header(certain::take(&self.bytes, filled), rsv1)? {
            Some((header, taken)) => {
                self.length = 0;
                // Without the new bytes, the header was incomplete.
                debug_assert!(taken > before, "{taken} bytes with {before} from earlier");
                Ok(Some((header, taken.saturating_sub(before))))
            }
            None => {
                // A full buffer always contains a complete header. Here the header is still
                // incomplete, so the buffer is not full and all of `input` was copied.
                debug_assert_eq!(copied, input.len());
                self.length = certain::to_u8(filled);
                Ok(None)
            }
        }
    }
}

/// A frame whose payload has been received in part.
#[derive(Clone, Copy, Debug)]
pub(super) struct PartialFrame {
    pub(super) header: FrameHeader,
    /// The number of received payload bytes; at most the payload length in the header.
    pub(super) received: u64,
}

impl PartialFrame {
    /// Returns the number of payload bytes that were not received yet.
    pub(super) fn remaining(&self) -> u64 {
        self.header.payload_bytes - self.received
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MessageKind {
    Binary,
    Text,
}

impl MessageKind {
    /// Returns the kind of message that a data frame begins. For a continuation frame, the result
    /// is not used.
    pub(super) fn of(opcode: Opcode) -> Self {
        match opcode {
            Opcode::Binary => Self::Binary,
            Opcode::Continuation | Opcode::Text | Opcode::Close | Opcode::Ping | Opcode::Pong => {
                Self::Text
            }
        }
    }
}

/// The part of a message's payload that is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keep {
    /// The compressed bytes, at most `bytes_max`. They are inflated and checked when the message is
    /// complete. Inflating each part on arrival would occupy an inflater until the client has sent
    /// the last part.
    Compressed { bytes_max: usize },
    /// Nothing is kept, because the payload is only checked.
    Nothing,
    /// The payload, at most `bytes_max` bytes.
    Payload { bytes_max: usize },
}

/// An incomplete message.
#[derive(Debug)]
pub(super) struct PartialMessage {
    pub(super) kind: MessageKind,
    keep: Keep,
    /// The received bytes, if they are kept.
    payload: Vec<u8>,
    /// The number of received bytes, kept or not.
    pub(super) received: u64,
    utf8: Utf8Check,
}

impl PartialMessage {
    pub(super) fn new(kind: MessageKind, keep: Keep) -> Self {
        Self {
            kind,
            keep,
            payload: Vec::new(),
            received: 0,
            utf8: Utf8Check::default(),
        }
    }

    /// Adds the next part of the payload, which is already unmasked.
    pub(super) fn push(&mut self, part: &[u8]) -> Result<(), InvalidUtf8> {
        self.received += part.len() as u64;
        if self.kind == MessageKind::Text && !self.is_compressed() {
            self.utf8.push(part)?;
        }
        if let Keep::Compressed { bytes_max } | Keep::Payload { bytes_max } = self.keep {
            let needed = self.payload.len() + part.len();
            if needed > self.payload.capacity() {
                // The capacity is doubled, as in a growing vector, but does not exceed the limit on
                // the message.
                let target = needed.max((needed * 2).min(bytes_max));
                self.payload.reserve_exact(target - self.payload.len());
            }
            self.payload.extend_from_slice(part);
        }
        Ok(())
    }

    pub(super) fn is_compressed(&self) -> bool {
        matches!(self.keep, Keep::Compressed { .. })
    }

    /// Returns the payload of the complete message.
    pub(super) fn finish(self) -> Result<Vec<u8>, InvalidUtf8> {
        if self.utf8.is_complete() {
            Ok(self.payload)
        } else {
            Err(InvalidUtf8)
        }
    }
}
