//! Encode once: a publication's wire bytes for each transport and envelope.
//!
//! A [`Frame`] is immutable. It is made by the first worker that needs it, into a cell of the
//! publication's [`Frames`], and shared by every socket of every worker from then on. After this
//! module nothing copies a payload, but for the rest of one that a conn alone keeps in memory. What
//! a compressor holds belongs to the worker's [`Encoder`]. Pure: bytes in, bytes out.

pub mod encoder;
pub mod envelope;
pub mod event_stream;
pub mod frames;
pub mod json_element;
pub mod ledger;
pub mod publication;
pub mod websocket;
pub mod worker_ack;

pub use encoder::Encoder;
pub use frames::{Copied, Frames, Hold};
pub use ledger::Ledger;
pub use publication::{Encoded, Payload, Publication};
pub use worker_ack::WorkerAck;

/// What a subscriber gets of a publication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Envelope {
    /// The payload alone.
    Data,
    /// A JSON object with channel, id, event and payload.
    Full,
    /// The same with a mark: it is given because the subscriber asked for history.
    Initial,
}

/// Which of a publication's encodings a conn is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameKind {
    /// Server-sent event in one chunk of an HTTP/1.1 body.
    EventStream(Envelope),
    /// Server-sent event in a body that ends with the conn (HTTP/1.0).
    EventStreamUntilClose(Envelope),
    /// Element of a JSON array, behind its comma.
    Poll(Envelope),
    /// WebSocket frame.
    WebSocket(Envelope),
    /// WebSocket frame of a compressed message (RFC 7692), or the plain one where compressing is of
    /// no use.
    WebSocketDeflated(Envelope),
}

impl FrameKind {
    /// The number of cells in a publication: chunked and unchunked events share theirs.
    pub const CELLS: usize = 12;

    /// The cell that holds this kind's bytes.
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

    /// The kind for what the subscriber's history brings. The payload alone has no mark.
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

/// Immutable wire bytes of one publication.
#[derive(Debug)]
pub struct Frame {
    bytes: Box<[u8]>,
    /// Where the event begins behind the chunk's size line. Zero for all other frames.
    body_start: u32,
    /// Where the event ends before the chunk's line end. The whole length for all others.
    body_end: u32,
}

impl Frame {
    /// A frame all of whose bytes are sent.
    #[must_use]
    pub fn whole(bytes: Vec<u8>) -> Self {
        let end = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        Self {
            bytes: bytes.into_boxed_slice(),
            body_start: 0,
            body_end: end,
        }
    }

    /// One chunk of a chunked body (RFC 9112, 7.1) whose content can be sent without the chunk
    /// around it.
    #[must_use]
    pub fn chunk(content: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(content.len() + 12);
        let size_line = event_stream::push_chunk(content, &mut bytes);
        let body_start = u32::try_from(size_line).unwrap_or(u32::MAX);
        let body_end = u32::try_from(size_line + content.len()).unwrap_or(u32::MAX);
        Self {
            bytes: bytes.into_boxed_slice(),
            body_start,
            body_end,
        }
    }

    /// The bytes that a conn of this kind is sent.
    #[must_use]
    pub fn wire(&self, kind: FrameKind) -> &[u8] {
        match kind {
            FrameKind::EventStream(_)
            | FrameKind::Poll(_)
            | FrameKind::WebSocket(_)
            | FrameKind::WebSocketDeflated(_) => &self.bytes,
            FrameKind::EventStreamUntilClose(_) => self
                .bytes
                .get(self.body_start as usize..self.body_end as usize)
                .unwrap_or_default(),
        }
    }

    /// Bytes of memory the frame holds.
    #[must_use]
    pub fn bytes_held(&self) -> u64 {
        self.bytes.len() as u64
    }
}
