//! What a WebSocket holds of a frame or message that is not complete, and a pong put off.
//!
//! Boxed by the machine and there only while something is in it; a client that sends whole frames
//! costs nothing between them. Every part has its bound: a header 14 bytes, a control payload 125,
//! a message what the operator allows, unhandled input one read. Memory grows with what has
//! arrived, never with what a header announces.

use super::decode::{FrameHeader, HeaderError, Rsv1, parse_header};
use super::utf8::{InvalidUtf8, Utf8Check};
use crate::config::limits::FRAME_HEADER_BYTES_MAX;

/// Everything that waits for more bytes from the client, or for room in the control queue.
#[derive(Debug, Default)]
pub(super) struct Pending {
    /// A header of which only the beginning is there. Empty while `frame` is set.
    pub(super) header: PartialHeader,
    /// The frame whose payload is arriving; never one that is complete.
    pub(super) frame: Option<PartialFrame>,
    /// The payload of the control frame in `frame` as far as it has come, unmasked.
    pub(super) control: Vec<u8>,
    /// The message in whose midst the next data frame goes on.
    pub(super) message: Option<PartialMessage>,
    /// Whole input, as it came, for which the budget of its turn was not enough. Begins with a
    /// header, so no frame or header is incomplete beside it.
    pub(super) unhandled: Vec<u8>,
    /// The payload of the newest ping, if the answer was put off.
    pub(super) pong: Option<Vec<u8>>,
}

impl Pending {
    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.header.length == 0
            && self.frame.is_none()
            && self.message.is_none()
            && self.unhandled.is_empty()
            && self.pong.is_none()
    }
}

/// The beginning of a header.
#[derive(Debug, Default)]
pub(super) struct PartialHeader {
    bytes: [u8; FRAME_HEADER_BYTES_MAX],
    /// Below the size of a whole header.
    length: u8,
}

impl PartialHeader {
    /// Whether there is no beginning.
    pub(super) fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Goes on with `input`. A header that is now whole is taken out, with the number of bytes it
    /// took of the input; otherwise all of the input is kept.
    pub(super) fn push(
        &mut self,
        input: &[u8],
        rsv1: Rsv1,
    ) -> Result<Option<(FrameHeader, usize)>, HeaderError> {
        let before = usize::from(self.length);
        let room = self.bytes.get_mut(before..).unwrap_or_default();
        let copied = room.len().min(input.len());
        for (to, from) in room.iter_mut().zip(input) {
            *to = *from;
        }
        let filled = before + copied;
        match parse_header(self.bytes.get(..filled).unwrap_or_default(), rsv1)? {
            Some((header, taken)) => {
                self.length = 0;
                Ok(Some((header, taken.saturating_sub(before))))
            }
            None => {
                // A whole buffer always holds a header, so here all of the input has gone in.
                self.length = u8::try_from(filled).unwrap_or(0);
                Ok(None)
            }
        }
    }
}

/// A frame and how much of its payload has come.
#[derive(Clone, Copy, Debug)]
pub(super) struct PartialFrame {
    pub(super) header: FrameHeader,
    /// At most the header's payload length.
    pub(super) received: u64,
}

impl PartialFrame {
    /// How much of the payload is still to come.
    pub(super) fn remaining(&self) -> u64 {
        self.header.payload_bytes - self.received
    }
}

/// Whether a message is text or bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MessageKind {
    Binary,
    Text,
}

/// What becomes of a message's payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keep {
    /// It is collected as it comes, up to this many bytes, and inflated and checked when it is
    /// whole. To inflate it part by part would take an inflater and a window of its own for as long
    /// as its sender likes.
    Compressed { bytes_max: usize },
    /// Nothing: it is only checked.
    Nothing,
    /// It is collected, up to this many bytes.
    Payload { bytes_max: usize },
}

/// A message of which a part has come.
#[derive(Debug)]
pub(super) struct PartialMessage {
    pub(super) kind: MessageKind,
    keep: Keep,
    /// What has come, if it is kept.
    payload: Vec<u8>,
    /// How much has come, kept or not.
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

    /// Takes the next part, unmasked.
    pub(super) fn push(&mut self, part: &[u8]) -> Result<(), InvalidUtf8> {
        self.received += part.len() as u64;
        if self.kind == MessageKind::Text && !self.is_compressed() {
            self.utf8.push(part)?;
        }
        if let Keep::Compressed { bytes_max } | Keep::Payload { bytes_max } = self.keep {
            let needed = self.payload.len() + part.len();
            if needed > self.payload.capacity() {
                // Doubling, as a vector would, but not beyond what the message may come to.
                let target = needed.max((needed * 2).min(bytes_max));
                self.payload.reserve_exact(target - self.payload.len());
            }
            self.payload.extend_from_slice(part);
        }
        Ok(())
    }

    /// Whether it has to be inflated before it means anything.
    pub(super) fn is_compressed(&self) -> bool {
        matches!(self.keep, Keep::Compressed { .. })
    }

    /// The payload, at the message's end.
    pub(super) fn finish(self) -> Result<Vec<u8>, InvalidUtf8> {
        if self.utf8.is_complete() {
            Ok(self.payload)
        } else {
            Err(InvalidUtf8)
        }
    }
}
