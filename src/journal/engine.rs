//! The interface between the journal and a store, and the errors of a store.
//!
//! The interface is small, so that tests can implement it with a store that fails, becomes full and
//! loses data. [`super::lsm`] is the real store. Records are stored in chunks. Each chunk has its
//! own range of sequence numbers, so old records are removed one chunk at a time. After a failed
//! write, an engine refuses all operations. The store must then be dropped and reopened.

use std::fmt::Debug;
use std::io::{self, ErrorKind};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

use super::state::{Mark, Place};
use crate::certain;
use crate::id::Sequence;

/// An error of a store.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// An earlier write failed. The store must be reopened.
    #[error("it has failed and has to be opened again")]
    Broken,
    /// The files do not contain the data that was written.
    #[error(
        "it is damaged ({0}). Restore the directory, or move it away to start without its \
         publications"
    )]
    Damaged(String),
    /// The directory contains a file that does not belong to a journal.
    #[error(
        "{0:?} there does not belong to a journal. Name another directory, or move that file away"
    )]
    Foreign(String),
    /// The disk is full. The failed operation was a write, not a sync.
    #[error("the disk is full")]
    Full,
    /// The directory is a backup that was interrupted.
    #[error(
        "it is an incomplete backup: the backup was interrupted, so publications are missing. \
         Name a complete backup, or remove the directory"
    )]
    Incomplete,
    /// Another process has locked the store.
    #[error("it is in use by another server")]
    InUse,
    /// A system call failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A file or directory was removed or replaced after it was opened.
    #[error(
        "{} was removed or replaced while the server ran. Put the original back, or restart the \
         server to continue with what is left",
        .0.display()
    )]
    Removed(PathBuf),
    /// A publication exceeds the maximum length of a record.
    #[error("a publication is too long for it")]
    TooLong,
    /// The store was written in a format that this version does not read.
    #[error(
        "it was written by another version of the store. Start the version that wrote it, or move \
         the directory away to start without its publications"
    )]
    Version,
}

impl EngineError {
    /// Whether all data that was durable before the error is still durable.
    #[must_use]
    pub fn keeps_durable_data(&self) -> bool {
        self.is_full() || self.is_removed()
    }

    /// Whether every later start fails until the operator changes the directory.
    #[must_use]
    pub fn is_lasting(&self) -> bool {
        matches!(
            self,
            Self::Damaged(_) | Self::Foreign(_) | Self::Incomplete | Self::Version
        )
    }

    /// Whether a file or directory was removed or replaced after it was opened.
    #[must_use]
    pub fn is_removed(&self) -> bool {
        matches!(self, Self::Removed(_))
    }

    /// Whether the disk is full.
    #[must_use]
    pub fn is_full(&self) -> bool {
        let kinds = [ErrorKind::StorageFull, ErrorKind::QuotaExceeded];
        match self {
            Self::Full => true,
            Self::Io(error) => kinds.contains(&error.kind()),
            Self::Broken
            | Self::Damaged(_)
            | Self::Foreign(_)
            | Self::Incomplete
            | Self::InUse
            | Self::Removed(_)
            | Self::TooLong
            | Self::Version => false,
        }
    }
}

/// Records with consecutive sequence numbers, which can be appended together.
#[derive(Debug, Default)]
pub struct Batch {
    /// The sequence number of the first record.
    first: Sequence,
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

/// The maximum capacity in bytes of the buffer that is kept for the next batch.
const BYTES_KEPT: usize = 2 * 1024 * 1024;

impl Batch {
    /// Numbers the records consecutively, beginning with `first`.
    pub(super) fn number_from(&mut self, first: Sequence) {
        self.first = first;
    }

    /// Returns the buffer for the next record. [`Batch::end`] completes the record.
    pub(super) fn bytes_mut(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    pub(super) fn end(&mut self) {
        self.ends.push(self.bytes.len());
    }

    /// Returns the number of records.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.ends.len() as u64
    }

    /// Whether the batch has no records.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Returns the total length of the records in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Returns the records with their sequence numbers.
    pub fn records(&self) -> impl Iterator<Item = (Sequence, &[u8])> {
        let mut begin = 0;
        let ends = self.ends.iter().zip(self.first.0..);
        ends.map(move |(end, sequence)| {
            let bytes = certain::skip(certain::take(&self.bytes, *end), begin);
            begin = *end;
            (Sequence(sequence), bytes)
        })
    }

    /// Empties the batch, and shrinks a large buffer.
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(BYTES_KEPT);
        self.ends.clear();
    }
}

/// A function that is called with one record at a time. If it returns an error, no more records are
/// read.
pub type RecordVisitor<'a> = &'a mut dyn FnMut(Sequence, &[u8]) -> Result<(), EngineError>;

/// A function that is called with one record at a time, and returns `Break` to end the reading.
pub type PartVisitor<'a> =
    &'a mut dyn FnMut(Sequence, &[u8]) -> Result<ControlFlow<()>, EngineError>;

/// Where the reading of a part of a chunk ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartEnd {
    /// After the last record of the chunk.
    End,
    /// The chunk does not exist.
    NoChunk,
    /// The visitor has read enough.
    Stopped,
}

/// An open store.
pub trait Engine: Debug + Send + Sync {
    /// Compares the files on disk with the files that were opened. A write to a removed file
    /// succeeds, so only this check detects that a later start would not find the data.
    ///
    /// # Errors
    /// Returns [`EngineError::Removed`] with the path that is missing or replaced. Returns
    /// [`EngineError::Io`] if the check itself fails; the files may then still exist.
    fn check(&self) -> Result<(), EngineError>;

    /// Returns the encoded [`State`](super::state::State); `None` if it was never stored.
    ///
    /// # Errors
    /// Returns the error of the store.
    fn state(&self) -> Result<Option<Vec<u8>>, EngineError>;

    /// Replaces the state. Afterwards the state and all earlier records are durable.
    ///
    /// # Errors
    /// Returns the error of the store.
    fn put_state(&self, state: &[u8]) -> Result<(), EngineError>;

    /// Returns the mark, which is stored separately from the records. The mark contains the highest
    /// sequence number known to be assigned. `None` if it is missing, as in an incomplete copy.
    ///
    /// # Errors
    /// Returns the error of the system call.
    fn mark(&self) -> Result<Option<Mark>, EngineError>;

    /// Replaces the mark, which contains the highest sequence number known to be assigned. The new
    /// mark is not lost if the process is killed.
    ///
    /// # Errors
    /// Returns the error of the system call.
    fn put_mark(&self, mark: Mark) -> Result<(), EngineError>;

    /// Makes the last written mark durable, so that it survives a power failure.
    ///
    /// # Errors
    /// Returns the error of the system call.
    fn sync_mark(&self) -> Result<(), EngineError>;

    /// Returns the place of the store. A copy of the store has another place.
    ///
    /// # Errors
    /// Returns the error of the system call.
    fn place(&self) -> Result<Place, EngineError>;

    /// Returns the first sequence number of each chunk, in ascending order.
    ///
    /// # Errors
    /// Returns the error of the store.
    fn chunks(&self) -> Result<Vec<Sequence>, EngineError>;

    /// Creates an empty chunk durably. An existing chunk with the same first number is replaced.
    ///
    /// # Errors
    /// Returns the error of the store.
    fn begin_chunk(&self, first: Sequence) -> Result<(), EngineError>;

    /// Removes a chunk.
    ///
    /// # Errors
    /// Returns the error of the store.
    fn remove_chunk(&self, first: Sequence) -> Result<(), EngineError>;

    /// Passes a chunk's records to `each`, in order.
    ///
    /// # Errors
    /// Returns the error of the store or of `each`.
    fn read_chunk(&self, first: Sequence, each: RecordVisitor<'_>) -> Result<(), EngineError>;

    /// Passes a chunk's records from the number `from` on to `each`, in order, until `each` returns
    /// `Break`. Another thread may write to the store at the same time, and may remove the chunk.
    ///
    /// # Errors
    /// Returns the error of the store or of `each`.
    fn read_part(
        &self,
        chunk: Sequence,
        from: Sequence,
        each: PartVisitor<'_>,
    ) -> Result<PartEnd, EngineError>;

    /// Appends a batch to a chunk atomically. The batch is not lost if the process is killed.
    ///
    /// # Errors
    /// Returns the error of the store.
    fn append(&self, chunk: Sequence, batch: &Batch) -> Result<(), EngineError>;

    /// Returns the size of the store's logs and tables on disk, in bytes. Lists no directories.
    ///
    /// # Errors
    /// Returns the error of the store.
    fn disk_bytes(&self) -> Result<u64, EngineError>;

    /// Makes all writes durable.
    ///
    /// # Errors
    /// Returns the error of the store. After an error, the writes since the last successful sync
    /// may never become durable.
    fn sync(&self) -> Result<(), EngineError>;
}

/// Opens a store, and reopens the store after an error.
pub trait Opener: Debug + Send {
    /// Opens the store. Creates the store if it does not exist.
    ///
    /// # Errors
    /// Returns the error of the store or of the system call.
    fn open(&self) -> Result<Arc<dyn Engine>, EngineError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batch_gives_its_records_with_consecutive_numbers() {
        let mut batch = Batch {
            first: Sequence(7),
            ..Batch::default()
        };
        for text in ["one", "", "three"] {
            batch.bytes_mut().extend_from_slice(text.as_bytes());
            batch.end();
        }
        let records: Vec<_> = batch.records().collect();
        let expected: [(Sequence, &[u8]); 3] = [
            (Sequence(7), b"one"),
            (Sequence(8), b""),
            (Sequence(9), b"three"),
        ];
        assert_eq!(records, expected);
        assert_eq!((batch.len(), batch.bytes()), (3, 8));
        batch.clear();
        assert!(batch.is_empty() && batch.records().next().is_none());
    }
}
