//! What the journal needs of a store, and why a store may refuse.
//!
//! Small on purpose, so that a store that fails, fills up and forgets can stand in for the real one
//! in tests; [`super::lsm`] is the real one. Records lie in chunks, each of which has a range of
//! numbers of its own, so that old ones go at one stroke. After an error of anything that writes,
//! an engine refuses everything until it is dropped and opened again.

use std::fmt::Debug;
use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::sync::Arc;

use super::state::Mark;
use crate::id::Sequence;

/// Why a store refuses.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// It failed before.
    #[error("it has failed and has to be opened again")]
    Broken,
    /// Its content is not what was written.
    #[error(
        "it is damaged ({0}). Restore the directory, or move it away to start without its \
         publications"
    )]
    Damaged(String),
    /// Something that is not a journal's lies in its place.
    #[error(
        "{0:?} there does not belong to a journal. Name another directory, or move that file away"
    )]
    Foreign(String),
    /// The disk is full, and what failed for that was not being made durable.
    #[error("the disk is full")]
    Full,
    /// Somebody else has it.
    #[error("it is in use by another server")]
    InUse,
    /// The system refuses.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A file or directory of it is no longer where it was when it was opened.
    #[error(
        "{} was removed or replaced while the server ran. Put the original back, or restart the \
         server to continue with what is left",
        .0.display()
    )]
    Removed(PathBuf),
    /// A publication is longer than any record may be.
    #[error("a publication is too long for it")]
    TooLong,
    /// It was written by a version of the store that this one does not read.
    #[error(
        "it was written by another version of the store. Start the version that wrote it, or move \
         the directory away to start without its publications"
    )]
    Version,
}

impl EngineError {
    /// Whether all that was durable before the error still is.
    #[must_use]
    pub fn forgets_nothing(&self) -> bool {
        self.is_full() || self.is_removed()
    }

    /// Whether no later start succeeds before the directory was changed.
    #[must_use]
    pub fn is_lasting(&self) -> bool {
        matches!(self, Self::Damaged(_) | Self::Foreign(_) | Self::Version)
    }

    /// Whether files were removed while they were in use.
    #[must_use]
    pub fn is_removed(&self) -> bool {
        matches!(self, Self::Removed(_))
    }

    /// Whether a full disk is to blame.
    #[must_use]
    pub fn is_full(&self) -> bool {
        let kinds = [ErrorKind::StorageFull, ErrorKind::QuotaExceeded];
        match self {
            Self::Full => true,
            Self::Io(error) => kinds.contains(&error.kind()),
            Self::Broken
            | Self::Damaged(_)
            | Self::Foreign(_)
            | Self::InUse
            | Self::Removed(_)
            | Self::TooLong
            | Self::Version => false,
        }
    }
}

/// Records with consecutive numbers, on their way into the store.
#[derive(Debug, Default)]
pub struct Batch {
    /// The number of the first.
    first: Sequence,
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

/// Bytes of a batch's buffer that are kept from one batch to the next.
const BYTES_KEPT: usize = 2 * 1024 * 1024;

impl Batch {
    /// Gives the first record this number, and the others those after it.
    pub(super) fn number_from(&mut self, first: Sequence) {
        self.first = first;
    }

    /// Where the next record's bytes go; [`Batch::end`] makes a record of them.
    pub(super) fn bytes_mut(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    pub(super) fn end(&mut self) {
        self.ends.push(self.bytes.len());
    }

    /// How many records there are.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.ends.len() as u64
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The length of all records.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// The records with their numbers.
    pub fn records(&self) -> impl Iterator<Item = (Sequence, &[u8])> {
        let mut begin = 0;
        let ends = self.ends.iter().zip(self.first.0..);
        ends.map(move |(end, sequence)| {
            let bytes = self.bytes.get(begin..*end).unwrap_or_default();
            begin = *end;
            (Sequence(sequence), bytes)
        })
    }

    /// Makes it empty. A burst's buffer is given back.
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(BYTES_KEPT);
        self.ends.clear();
    }
}

/// Takes a record that was read, or says why reading ends.
pub type Each<'a> = &'a mut dyn FnMut(Sequence, &[u8]) -> Result<(), EngineError>;

/// An open store.
pub trait Engine: Debug + Send + Sync {
    /// Compares what is on the file system with what was opened. Writing to a file that was removed
    /// succeeds, so only this shows that a later start would not find what is written.
    ///
    /// # Errors
    /// [`EngineError::Removed`] with the path that is missing or is another file now;
    /// [`EngineError::Io`] if the check itself is not possible, which shows nothing.
    fn check(&self) -> Result<(), EngineError>;

    /// What the journal keeps beside its records.
    ///
    /// # Errors
    /// What the store says.
    fn state(&self) -> Result<Option<Vec<u8>>, EngineError>;

    /// Replaces that, durably and with all records before it.
    ///
    /// # Errors
    /// What the store says.
    fn put_state(&self, state: &[u8]) -> Result<(), EngineError>;

    /// How far numbers were given out, as far as that is known without the records.
    ///
    /// # Errors
    /// What the system says.
    fn mark(&self) -> Result<Mark, EngineError>;

    /// Replaces that. It outlives the process.
    ///
    /// # Errors
    /// What the system says.
    fn put_mark(&self, mark: Mark) -> Result<(), EngineError>;

    /// Makes the mark durable.
    ///
    /// # Errors
    /// What the system says.
    fn sync_mark(&self) -> Result<(), EngineError>;

    /// The first numbers of all chunks, ascending.
    ///
    /// # Errors
    /// What the store says.
    fn chunks(&self) -> Result<Vec<Sequence>, EngineError>;

    /// Makes an empty chunk, durably, in the place of one that begins with the same number.
    ///
    /// # Errors
    /// What the store says.
    fn begin_chunk(&self, first: Sequence) -> Result<(), EngineError>;

    /// Removes a chunk.
    ///
    /// # Errors
    /// What the store says.
    fn remove_chunk(&self, first: Sequence) -> Result<(), EngineError>;

    /// Hands on a chunk's records in order.
    ///
    /// # Errors
    /// What the store or `each` says.
    fn read_chunk(&self, first: Sequence, each: Each<'_>) -> Result<(), EngineError>;

    /// Writes a batch into a chunk, all of it or nothing. It outlives the process.
    ///
    /// # Errors
    /// What the store says.
    fn append(&self, chunk: Sequence, batch: &Batch) -> Result<(), EngineError>;

    /// Makes everything durable that was written.
    ///
    /// # Errors
    /// What the store says. What was not durable before may then never be.
    fn sync(&self) -> Result<(), EngineError>;
}

/// Opens a store, again and again if need be.
pub trait Opener: Debug + Send {
    /// Opens it; makes it if there is none.
    ///
    /// # Errors
    /// What the store or the system says.
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
