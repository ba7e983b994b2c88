//! The encodings of one publication, each made once for all workers.
//!
//! Shared by the publication, the workers that are about to write it and the conns that have begun
//! to. A cell is filled by the first worker that needs it; a worker that needs it in the
//! same moment waits for the other. Reading takes no lock.

use std::ops::Deref;
use std::sync::{Arc, OnceLock};

use super::ledger::{Ledger, Weight};
use super::{
    Encoder, Envelope, Frame, FrameKind, Publication, event_stream, json_element, websocket,
};

/// A cell for each encoding, by [`FrameKind::cell`].
#[derive(Debug)]
pub struct Frames {
    cells: [OnceLock<Cell>; FrameKind::CELLS],
    weight: Weight,
}

/// What a cell is filled with.
#[derive(Debug)]
enum Cell {
    /// Nothing of its own: the plain frame of this envelope serves.
    AsPlain(Envelope),
    /// Bytes.
    Frame(Frame),
}

impl Frames {
    /// Bytes of memory without any encoding: the cells, and the counts of references.
    pub const BYTES: u64 = (size_of::<Self>() + 2 * size_of::<usize>()) as u64;

    pub(super) fn new(ledger: &Arc<Ledger>, is_logged: bool) -> Self {
        Self {
            cells: Default::default(),
            weight: Weight::new(ledger, Self::BYTES, is_logged),
        }
    }

    /// The log has let go of them.
    pub(super) fn leave_log(&self) {
        self.weight.leave_log();
    }

    /// The frame for one kind of conn, encoded now if it has not been needed yet. `None` for no
    /// kind there is. The publication is the one whose encodings these are.
    pub fn encode(
        &self,
        publication: &Publication,
        kind: FrameKind,
        encoder: &mut Encoder,
    ) -> Option<&Frame> {
        let filled = self.cells.get(kind.cell())?.get_or_init(|| {
            let cell = encode(publication, kind, encoder);
            if let Cell::Frame(frame) = &cell {
                self.weight.add(frame.bytes_held());
            }
            cell
        });
        match filled {
            Cell::AsPlain(envelope) => {
                self.encode(publication, FrameKind::WebSocket(*envelope), encoder)
            }
            Cell::Frame(frame) => Some(frame),
        }
    }

    /// The frame for one kind of conn, if it has been needed.
    #[must_use]
    pub fn get(&self, kind: FrameKind) -> Option<&Frame> {
        match self.cells.get(kind.cell())?.get()? {
            Cell::AsPlain(envelope) => self.frame_in(FrameKind::WebSocket(*envelope).cell()),
            Cell::Frame(frame) => Some(frame),
        }
    }

    /// The wire bytes for one kind of conn; none if they have not been needed.
    #[must_use]
    pub fn wire(&self, kind: FrameKind) -> &[u8] {
        self.get(kind)
            .map(|frame| frame.wire(kind))
            .unwrap_or_default()
    }

    /// The cell whose bytes a kind of conn is sent, once that is known.
    #[must_use]
    pub fn holder(&self, kind: FrameKind) -> Option<usize> {
        let cell = kind.cell();
        match self.cells.get(cell)?.get()? {
            Cell::AsPlain(envelope) => Some(FrameKind::WebSocket(*envelope).cell()),
            Cell::Frame(_) => Some(cell),
        }
    }

    /// Bytes held by a cell of its own, if it has any.
    #[must_use]
    pub fn encoded(&self, cell: usize) -> Option<u64> {
        self.frame_in(cell).map(Frame::bytes_held)
    }

    /// Bytes of memory held.
    #[must_use]
    pub fn bytes_held(&self) -> u64 {
        self.weight.bytes()
    }

    /// Whether the log has them.
    #[must_use]
    pub fn is_logged(&self) -> bool {
        self.weight.is_logged()
    }

    fn frame_in(&self, cell: usize) -> Option<&Frame> {
        match self.cells.get(cell)?.get()? {
            Cell::AsPlain(_) => None,
            Cell::Frame(frame) => Some(frame),
        }
    }
}

fn encode(publication: &Publication, kind: FrameKind, encoder: &mut Encoder) -> Cell {
    Cell::Frame(match kind {
        FrameKind::EventStream(envelope) | FrameKind::EventStreamUntilClose(envelope) => {
            event_stream::encode(publication, envelope)
        }
        FrameKind::Poll(envelope) => json_element::encode(publication, envelope),
        FrameKind::WebSocket(envelope) => websocket::encode(publication, envelope),
        FrameKind::WebSocketDeflated(envelope) => match encoder.deflate(publication, envelope) {
            Some(frame) => frame,
            None => return Cell::AsPlain(envelope),
        },
    })
}

/// A conn's hold on encodings that it has begun to write, or is about to.
#[derive(Debug)]
pub struct Hold(Arc<Frames>);

impl Hold {
    /// Another conn holds them.
    #[must_use]
    pub fn new(frames: Arc<Frames>) -> Self {
        frames.weight.hold();
        Self(frames)
    }

    /// How many of their bytes there are for each conn that holds them.
    #[must_use]
    pub fn share(&self) -> u64 {
        self.0.weight.bytes() / self.0.weight.conns().max(1)
    }
}

impl Deref for Hold {
    type Target = Arc<Frames>;

    fn deref(&self) -> &Arc<Frames> {
        &self.0
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.0.weight.release();
    }
}

/// Bytes copied out of an encoding, so that the whole of it need not be held for them.
#[derive(Debug)]
pub struct Copied {
    bytes: Box<[u8]>,
    ledger: Arc<Ledger>,
}

impl Copied {
    /// Copies a part of the encodings' bytes. They count in the ledger like what they stand for.
    #[must_use]
    pub fn of(frames: &Frames, bytes: &[u8]) -> Self {
        let ledger = Arc::clone(frames.weight.ledger());
        ledger.add_pinned(bytes.len() as u64);
        Self {
            bytes: Box::from(bytes),
            ledger,
        }
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Copied {
    fn drop(&mut self) {
        self.ledger.remove_pinned(self.bytes.len() as u64);
    }
}
