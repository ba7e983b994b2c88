//! The encodings of one publication. Each encoding is created once for all workers and stored in a
//! cell.
//!
//! A publication, the workers that are about to write it, and the conns that have written a part of
//! it share the encodings. The first worker that needs a cell fills it. Another worker that needs
//! the same cell waits until the cell is filled. Reading a filled cell takes no lock.

use std::ops::Deref;
use std::sync::{Arc, OnceLock};

use crate::certain;

use super::ledger::{Ledger, Weight};
use super::{
    Compressor, Envelope, Frame, FrameKind, Publication, event_stream, json_element, websocket,
};

/// The encodings of one publication, one cell per encoding. [`FrameKind::cell`] returns the index
/// of a cell.
#[derive(Debug)]
pub struct Frames {
    cells: [OnceLock<Cell>; FrameKind::CELLS],
    weight: Weight,
}

/// The content of a cell.
#[derive(Debug)]
enum Cell {
    /// No frame, because compression would not shorten the message. The plain frame with this
    /// envelope is sent instead.
    AsPlain(Envelope),
    /// The frame to send.
    Frame(Frame),
}

impl Frames {
    /// The memory that the cells and the reference counts use before anything is encoded, in bytes.
    pub const BYTES: u64 = (size_of::<Self>() + 2 * size_of::<usize>()) as u64;

    pub(super) fn new(ledger: &Arc<Ledger>, is_logged: bool) -> Self {
        Self {
            cells: Default::default(),
            weight: Weight::new(ledger, Self::BYTES, is_logged),
        }
    }

    /// Records that the log has evicted the publication.
    pub(super) fn leave_log(&self) {
        self.weight.leave_log();
    }

    /// Returns the frame for one kind of conn, and encodes the frame if it does not exist. Returns
    /// `None` only if the kind has no cell. `publication` must own these encodings.
    pub fn encode(
        &self,
        publication: &Publication,
        kind: FrameKind,
        compressor: &mut Compressor,
    ) -> Option<&Frame> {
        let filled = self.cell(kind.cell())?.get_or_init(|| {
            let cell = encode(publication, kind, compressor);
            if let Cell::Frame(frame) = &cell {
                self.weight.add(frame.bytes_held());
            }
            cell
        });
        match filled {
            Cell::AsPlain(envelope) => {
                self.encode(publication, FrameKind::WebSocket(*envelope), compressor)
            }
            Cell::Frame(frame) => Some(frame),
        }
    }

    /// Returns the frame for one kind of conn, if the frame exists.
    #[must_use]
    pub fn get(&self, kind: FrameKind) -> Option<&Frame> {
        match self.cell(kind.cell())?.get()? {
            Cell::AsPlain(envelope) => self.frame_in(FrameKind::WebSocket(*envelope).cell()),
            Cell::Frame(frame) => Some(frame),
        }
    }

    /// Returns the wire bytes for one kind of conn, or an empty slice if the frame does not exist.
    #[must_use]
    pub fn wire(&self, kind: FrameKind) -> &[u8] {
        self.get(kind)
            .map(|frame| frame.wire(kind))
            .unwrap_or_default()
    }

    /// Returns the index of the cell that contains the bytes for one kind of conn. Returns `None`
    /// until the cell of that kind is filled.
    #[must_use]
    pub fn holder(&self, kind: FrameKind) -> Option<usize> {
        let cell = kind.cell();
        match self.cell(cell)?.get()? {
            Cell::AsPlain(envelope) => Some(FrameKind::WebSocket(*envelope).cell()),
            Cell::Frame(_) => Some(cell),
        }
    }

    /// Returns the memory of the frame in a cell, in bytes. Returns `None` if the cell contains no
    /// frame.
    #[must_use]
    pub fn encoded(&self, cell: usize) -> Option<u64> {
        self.frame_in(cell).map(Frame::bytes_held)
    }

    /// Returns the memory that the cells and all encodings use, in bytes.
    #[must_use]
    pub fn bytes_held(&self) -> u64 {
        self.weight.bytes()
    }

    /// Whether the publication is in the log.
    #[must_use]
    pub fn is_logged(&self) -> bool {
        self.weight.is_logged()
    }

    fn cell(&self, cell: usize) -> Option<&OnceLock<Cell>> {
        certain::some(self.cells.get(cell), "each kind has a cell")
    }

    fn frame_in(&self, cell: usize) -> Option<&Frame> {
        match self.cell(cell)?.get()? {
            Cell::AsPlain(_) => None,
            Cell::Frame(frame) => Some(frame),
        }
    }
}

fn encode(publication: &Publication, kind: FrameKind, compressor: &mut Compressor) -> Cell {
    Cell::Frame(match kind {
        FrameKind::EventStream(envelope) | FrameKind::EventStreamUntilClose(envelope) => {
            event_stream::encode(publication, envelope)
        }
        FrameKind::Poll(envelope) => json_element::encode(publication, envelope),
        FrameKind::WebSocket(envelope) => websocket::encode(publication, envelope),
        FrameKind::WebSocketDeflated(envelope) => match compressor.deflate(publication, envelope) {
            Some(frame) => frame,
            None => return Cell::AsPlain(envelope),
        },
    })
}

/// A conn's reference to encodings. The conn is about to write one of them, or has written a part
/// of it.
#[derive(Debug)]
pub struct Hold(Arc<Frames>);

impl Hold {
    /// Creates a reference to the encodings. They then count as kept in memory by one more conn.
    #[must_use]
    pub fn new(frames: Arc<Frames>) -> Self {
        frames.weight.hold();
        Self(frames)
    }

    /// Returns the bytes of the encodings, divided by the number of conns that hold them.
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

/// A copy of a part of an encoding. With the copy, the whole encoding need not stay in memory.
#[derive(Debug)]
pub struct Copied {
    bytes: Box<[u8]>,
    ledger: Arc<Ledger>,
}

impl Copied {
    /// Copies a part of one of the encodings, for one conn. The ledger counts the copy as memory
    /// that only conns keep in use.
    #[must_use]
    pub fn of(frames: &Frames, bytes: &[u8]) -> Self {
        let ledger = Arc::clone(frames.weight.ledger());
        ledger.add_pinned(bytes.len() as u64);
        Self {
            bytes: Box::from(bytes),
            ledger,
        }
    }

    /// Returns the copied bytes.
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
