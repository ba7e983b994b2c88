//! Encode once: the wire bytes of a publication are encoded once for each transport and envelope.
//!
//! A [`Frame`] is immutable. The first worker that needs a frame encodes it into a cell of the
//! publication's [`Frames`]; all sockets of all workers share the frame. Payloads are not copied
//! after that, with two exceptions. TLS encrypts a frame into a buffer of the conn. If the log has
//! evicted a publication, a conn may copy the unsent rest of its frame and release the frame. Each
//! worker has one [`Compressor`]. This module performs no I/O.

pub mod compressor;
pub mod envelope;
pub mod event_stream;
pub mod frames;
pub mod json_element;
pub mod ledger;
pub mod publication;
pub mod websocket;
pub mod worker_ack;

pub use compressor::Compressor;
pub use frames::{Copied, Frames, Hold};
pub use ledger::Ledger;
pub use publication::{Encoded, Payload, Publication};

use crate::certain;
pub use worker_ack::WorkerAck;

/// The form in which a subscriber receives a publication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Envelope {
    /// Only the payload.
    Data,
    /// A JSON object with channel, id, event type and payload.
    Full,
    /// The full envelope with `"initial":true`, which marks publications of the history that the
    /// client requested when it subscribed.
    Initial,
}

/// The encodings of a publication, by transport and envelope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameKind {
    /// A server-sent event in one chunk of an HTTP/1.1 body.
    EventStream(Envelope),
    /// A server-sent event in a body that ends when the connection is closed (HTTP/1.0).
    EventStreamUntilClose(Envelope),
    /// An element of a JSON array, after a comma.
    Poll(Envelope),
    /// A WebSocket frame.
    WebSocket(Envelope),
    /// A WebSocket frame of a compressed message (RFC 7692), or the plain frame if compression does
    /// not shorten the message.
    WebSocketDeflated(Envelope),
}

impl FrameKind {
    /// The number of cells for a publication. Chunked and unchunked events share a cell.
    pub const CELLS: usize = 12;

    /// Returns the index of the cell in which a publication stores its frame of this kind.
    #[must_use]
    pub fn cell(self) -> usize {
        match self {
            Self::EventStream(Envelope::Data) | Self::EventStreamUntilClose(Envelope::Data) => 0,
            Self::EventStream(Envelope::Full) | Self::EventStreamUntilClose(Envelope::Full) => 1,
            Self::WebSocket(Envelope::Data) => 2,
            Self::WebSocket(Envelope::Full) => 3,
            Self::WebSocketDeflated(Envelope::Data) => 4,
            Self::WebSocketDeflated(Envelope::Full) => 5,
            Self::Poll(Envelope::Data) => 6,
            Self::Poll(Envelope::Full) => 7,
            Self::EventStream(Envelope::Initial)
            | Self::EventStreamUntilClose(Envelope::Initial) => 8,
            Self::WebSocket(Envelope::Initial) => 9,
            Self::WebSocketDeflated(Envelope::Initial) => 10,
            Self::Poll(Envelope::Initial) => 11,
        }
    }

    /// Returns the kind of frame for publications of the history that the client requested when it
    /// subscribed. The full envelope then contains a flag. The data envelope does not change,
    /// because it contains only the payload.
    #[must_use]
    pub fn initial(self) -> Self {
        let marked = |envelope| match envelope {
            Envelope::Data => Envelope::Data,
            Envelope::Full | Envelope::Initial => Envelope::Initial,
        };
        match self {
            Self::EventStream(envelope) => Self::EventStream(marked(envelope)),
            Self::EventStreamUntilClose(envelope) => Self::EventStreamUntilClose(marked(envelope)),
            Self::Poll(envelope) => Self::Poll(marked(envelope)),
            Self::WebSocket(envelope) => Self::WebSocket(marked(envelope)),
            Self::WebSocketDeflated(envelope) => Self::WebSocketDeflated(marked(envelope)),
        }
    }
}

/// The immutable wire bytes of one publication.
#[derive(Debug)]
pub struct Frame {
    bytes: Box<[u8]>,
    /// The offset of the event in the frame. If the frame is a chunk (RFC 9112, 7.1), the chunk's
    /// size line comes before the event. Otherwise the offset is zero.
    body_start: u32,
    /// The offset of the event's end in the frame. If the frame is a chunk, the chunk's line end
    /// comes after the event. Otherwise this is the length of the frame.
    body_end: u32,
}

impl Frame {
    /// Creates a frame that is always sent whole.
    #[must_use]
    pub fn whole(bytes: Vec<u8>) -> Self {
        let end = certain::to_u32(bytes.len());
        Self {
            bytes: bytes.into_boxed_slice(),
            body_start: 0,
            body_end: end,
        }
    }

    /// Creates a chunk of a chunked body (RFC 9112, 7.1). The content can also be sent without the
    /// chunk's size line and line end.
    #[must_use]
    pub fn chunk(content: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(content.len() + 12);
        let size_line = event_stream::push_chunk(content, &mut bytes);
        let body_start = certain::to_u32(size_line);
        let body_end = certain::to_u32(size_line + content.len());
        Self {
            bytes: bytes.into_boxed_slice(),
            body_start,
            body_end,
        }
    }

    /// Returns the bytes that are sent to a conn of this kind.
    #[must_use]
    pub fn wire(&self, kind: FrameKind) -> &[u8] {
        match kind {
            FrameKind::EventStream(_)
            | FrameKind::Poll(_)
            | FrameKind::WebSocket(_)
            | FrameKind::WebSocketDeflated(_) => &self.bytes,
            FrameKind::EventStreamUntilClose(_) => {
                let front = certain::take(&self.bytes, self.body_end as usize);
                certain::skip(front, self.body_start as usize)
            }
        }
    }

    /// Returns the memory of the frame in bytes.
    #[must_use]
    pub fn bytes_held(&self) -> u64 {
        self.bytes.len() as u64
    }
}
