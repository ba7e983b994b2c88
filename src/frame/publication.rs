//! One payload addressed to a channel, with its id and a cell for each encoding.
//!
//! Made by the feed, shared by reference with the workers, dropped when the log and the last
//! half-written frame let go of it. Immutable but for the cells, each of which is filled once by
//! whoever needs it first; a worker that needs it in the same moment waits for the other.

use std::sync::OnceLock;

use super::{Encoder, Envelope, Frame, FrameKind, event_stream, poll, websocket};
use crate::id::{ChannelName, Cursor};
use crate::time::{Deadline, Now};

/// What the types of the server's own events begin with.
const RESERVED_EVENTS: &str = "fanfare.";

/// Whether a publication of this type would pass for an event of the server. White space before it
/// makes no difference, since some clients drop it.
#[must_use]
pub fn is_reserved_event(event: &str) -> bool {
    event.trim_start().starts_with(RESERVED_EVENTS)
}

/// What a publication carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    /// Bytes; base64 where only text can go.
    Bytes(Box<[u8]>),
    /// A JSON text without insignificant white space, passed on byte for byte.
    Json(Box<str>),
    /// A verbatim string.
    Text(Box<str>),
}

impl Payload {
    /// The payload's length in bytes: what quotas count.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::Json(text) | Self::Text(text) => text.len(),
        }
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A cell for each encoding; only the publication looks inside.
#[derive(Debug, Default)]
pub struct Frames([OnceLock<Cell>; FrameKind::CELLS]);

/// What a cell is filled with.
#[derive(Debug)]
enum Cell {
    /// Nothing of its own: the plain frame of this envelope serves.
    AsPlain(Envelope),
    /// Bytes.
    Frame(Frame),
}

/// One payload addressed to a channel.
#[derive(Debug)]
pub struct Publication {
    /// Its position in the node's one sequence.
    pub id: Cursor,
    /// Where it goes.
    pub channel: ChannelName,
    /// What it carries.
    pub payload: Payload,
    /// Its type, without control characters and none of the server's own: the `event:` field of
    /// server-sent events.
    pub event: Option<Box<str>>,
    /// Conflation key: a later publication of the same channel and key supersedes this one.
    pub key: Option<Box<str>>,
    /// When the feed took it in.
    pub published: Now,
    /// From when on it is not delivered any more.
    pub expires: Option<Deadline>,
    /// Its encodings, by [`FrameKind::cell`].
    pub frames: Frames,
}

impl Publication {
    /// A publication with neither event, key nor expiry.
    #[must_use]
    pub fn new(id: Cursor, channel: ChannelName, payload: Payload, published: Now) -> Self {
        Self {
            id,
            channel,
            payload,
            event: None,
            key: None,
            published,
            expires: None,
            frames: Frames::default(),
        }
    }

    /// The frame for one kind of conn; encoded now if nobody has needed it yet. `None` for no kind
    /// there is.
    pub fn encode(&self, kind: FrameKind, encoder: &mut Encoder) -> Option<&Frame> {
        let cell = self.frames.0.get(kind.cell())?;
        let filled = cell.get_or_init(|| match kind {
            FrameKind::EventStream(envelope) | FrameKind::EventStreamUntilClose(envelope) => {
                Cell::Frame(event_stream::encode(self, envelope))
            }
            FrameKind::Poll(envelope) => Cell::Frame(poll::encode(self, envelope)),
            FrameKind::WebSocket(envelope) => Cell::Frame(websocket::encode(self, envelope)),
            FrameKind::WebSocketDeflated(envelope) => encoder
                .deflate(self, envelope)
                .map_or(Cell::AsPlain(envelope), Cell::Frame),
        });
        match filled {
            Cell::AsPlain(envelope) => self.encode(FrameKind::WebSocket(*envelope), encoder),
            Cell::Frame(frame) => Some(frame),
        }
    }

    /// The frame for one kind of conn, if somebody has needed it.
    #[must_use]
    pub fn frame(&self, kind: FrameKind) -> Option<&Frame> {
        match self.frames.0.get(kind.cell())?.get()? {
            Cell::AsPlain(envelope) => self.frame_in(FrameKind::WebSocket(*envelope).cell()),
            Cell::Frame(frame) => Some(frame),
        }
    }

    /// The cell whose bytes a kind of conn is sent, once that is known.
    #[must_use]
    pub fn holder(&self, kind: FrameKind) -> Option<usize> {
        let cell = kind.cell();
        match self.frames.0.get(cell)?.get()? {
            Cell::AsPlain(envelope) => Some(FrameKind::WebSocket(*envelope).cell()),
            Cell::Frame(_) => Some(cell),
        }
    }

    /// Bytes held by a cell of its own, if it has any.
    #[must_use]
    pub fn encoded(&self, cell: usize) -> Option<u64> {
        self.frame_in(cell).map(Frame::bytes_held)
    }

    fn frame_in(&self, cell: usize) -> Option<&Frame> {
        match self.frames.0.get(cell)?.get()? {
            Cell::AsPlain(_) => None,
            Cell::Frame(frame) => Some(frame),
        }
    }

    /// What a quota counts for it: the payload's bytes.
    #[must_use]
    pub fn payload_bytes(&self) -> u64 {
        self.payload.len() as u64
    }

    /// Bytes of memory held without its encodings.
    #[must_use]
    pub fn bytes_held(&self) -> u64 {
        let labels =
            self.event.as_ref().map_or(0, |e| e.len()) + self.key.as_ref().map_or(0, |k| k.len());
        (size_of::<Self>() + self.channel.as_str().len() + labels + self.payload.len()) as u64
    }

    /// Whether its time to live is over.
    #[must_use]
    pub fn has_expired(&self, now: Now) -> bool {
        self.expires
            .is_some_and(|deadline| now.has_reached(deadline))
    }
}
