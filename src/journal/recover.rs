//! SHELL: this module opens a journal after a clean stop, a crash or a power failure.
//!
//! The reader reads every chunk in order, and passes the records to the caller. The store truncates
//! an incomplete write at the end of its log, and refuses records with bad checksums. Missing
//! numbers show whether the store truncated too much. The mark shows this too, because it contains
//! the highest sequence number known to be assigned. In this case all numbers that may have been
//! assigned are skipped. The loss is reported to the caller, so that resuming clients receive a
//! gap.
//!
//! A start from a copy of the journal begins a new epoch. The original may have assigned the
//! numbers after the last record of the copy to other publications. The new epoch does not share
//! these positions of the old epoch, so no client mistakes one publication for another.
//! Reading changes nothing, so [`super::check`] reads in the same way.

use std::collections::VecDeque;
use std::sync::Arc;

use super::engine::{Engine, EngineError, Opener};
use super::epochs::Epochs;
use super::record::{self, Record};
use super::record_writer::{Chunk, OpenedStore, RecordWriter, Settings};
use super::state::{BootId, Home, Mark, State};
use crate::config::limits::JOURNAL_IDS_RESERVED;
use crate::id::{Epoch, Sequence};

/// What was found while the journal was read when the server started: the epochs, a record or a
/// loss. Events are passed to the caller in order.
#[derive(Debug)]
pub enum ReplayEvent<'a> {
    /// The epochs of all records. Always the first event.
    Epochs(&'a Epochs),
    /// A publication with its sequence number.
    Record(Sequence, Record<'a>),
    /// Publications may be missing, so resuming clients receive a gap. The records that were passed
    /// before this event stay valid.
    Lost {
        /// The number before the first missing one.
        after: Sequence,
        /// The last missing number.
        until: Sequence,
    },
}

/// Opens the journal in a store, and passes the events of the replay to `each`. `fresh` is the
/// epoch of a new journal, or of a journal that is a copy.
///
/// # Errors
/// Returns an error if the store is damaged or foreign, or if a system call fails.
pub fn open(
    opener: Box<dyn Opener>,
    settings: Settings,
    fresh: Epoch,
    each: &mut dyn FnMut(ReplayEvent<'_>),
) -> Result<RecordWriter, EngineError> {
    let engine = opener.open()?;
    let (state, mark) = match read_state(engine.as_ref())? {
        Some(found) => found,
        None => create(engine.as_ref(), settings, fresh)?,
    };
    let is_copy = state.home.is_copy_at(engine.place()?);
    let contents = read(engine.as_ref(), (state, mark), is_copy, settings.boot, each)?;
    let found = prepare(engine, contents, settings, fresh)?;
    Ok(RecordWriter::new(opener, settings, found))
}

/// Returns the state and the mark of a store; `None` if the store is new. Only the state and the
/// chunks of a new store are missing. Its mark is written before the store gets its name.
///
/// # Errors
/// Returns an error if a store that is not new has no state, or if the state is of another version.
pub(super) fn read_state(
    engine: &dyn Engine,
) -> Result<Option<(State, Option<Mark>)>, EngineError> {
    let Some(bytes) = engine.state()? else {
        let is_new = engine.mark()? == Some(Mark::default()) && engine.chunks()?.is_empty();
        return match is_new {
            true => Ok(None),
            false => Err(EngineError::Damaged(String::from(
                "its state is missing, as in an incomplete copy",
            ))),
        };
    };
    let state = State::decode(&bytes).ok_or(EngineError::Version)?;
    Ok(Some((state, engine.mark()?)))
}

/// The contents of a store, and how a start continues.
#[derive(Debug)]
pub(super) struct Contents {
    pub(super) state: State,
    pub(super) mark: Option<Mark>,
    /// The last number that was read or skipped.
    pub(super) last: Option<Sequence>,
    /// The number after which a start continues. Numbers from `last` to this number may have been
    /// assigned and lost.
    pub(super) head: Sequence,
    /// Whether the store is a copy, so that a start begins a new epoch.
    pub(super) is_copy: bool,
    chunks: VecDeque<Chunk>,
}

impl Contents {
    /// Returns the epochs after a start. In a copy, the new epoch `fresh` shares the publications
    /// up to the last record with the earlier epochs.
    pub(super) fn epochs_after_start(&self, fresh: Epoch) -> Epochs {
        let until = self.last.unwrap_or_default();
        match self.is_copy {
            true => self.state.epochs.followed_by(fresh, until),
            false => self.state.epochs.clone(),
        }
    }

    /// Returns the total size of the records in bytes.
    pub(super) fn record_bytes(&self) -> u64 {
        self.chunks.iter().map(|chunk| chunk.bytes).sum()
    }
}

/// Reads the records of a store, and passes the events of the replay to `each`. `is_copy` says
/// whether the store is a copy. Changes nothing.
///
/// # Errors
/// Returns an error if the store is damaged, or if a system call fails.
pub(super) fn read(
    engine: &dyn Engine,
    (mut state, mark): (State, Option<Mark>),
    is_copy: bool,
    boot: BootId,
    each: &mut dyn FnMut(ReplayEvent<'_>),
) -> Result<Contents, EngineError> {
    if is_copy {
        // The ids that are replayed must be valid in the new epoch.
        state.epochs = state.epochs.with_room();
    }
    each(ReplayEvent::Epochs(&state.epochs));
    let mut reader = Reader {
        engine,
        last: None,
        chunks: VecDeque::new(),
        each,
    };
    reader.read_all(&engine.chunks()?)?;
    let (last, chunks) = (reader.last, reader.chunks);
    let head = match last {
        Some(last) if !state.may_have_lost(Some(last), mark, boot) => last,
        Some(_) | None => state.ceiling.max(mark.unwrap_or_default().sequence),
    };
    let after = last.unwrap_or_default();
    if after != head {
        each(ReplayEvent::Lost { after, until: head });
    }
    Ok(Contents {
        is_copy,
        state,
        mark,
        last,
        head,
        chunks,
    })
}

/// Creates the state of a new journal.
fn create(
    engine: &dyn Engine,
    settings: Settings,
    epoch: Epoch,
) -> Result<(State, Option<Mark>), EngineError> {
    tracing::info!("a new journal was begun: there was none");
    let state = State {
        epochs: Epochs::new(epoch),
        ceiling: Sequence::ZERO,
        clean: None,
        sync: settings.sync,
        boot: settings.boot,
        home: Home::At(engine.place()?),
    };
    engine.put_state(&state.encode())?;
    Ok((state, Some(Mark::default())))
}

/// Prepares the store for this run. Begins a new chunk if the last chunk cannot be continued. The
/// mark is written before the state. If only the new state were written, the next start would not
/// notice a loss of records.
fn prepare(
    engine: Arc<dyn Engine>,
    contents: Contents,
    settings: Settings,
    fresh: Epoch,
) -> Result<OpenedStore, EngineError> {
    let epochs = contents.epochs_after_start(fresh);
    if contents.is_copy {
        let until = contents.last.unwrap_or_default();
        tracing::warn!(
            until = until.0,
            "the journal is a copy: a new epoch begins, and earlier ids are valid up to this number"
        );
    }
    let Contents {
        state,
        mark,
        head,
        chunks: mut older,
        ..
    } = contents;
    let continues =
        |chunk: &Chunk| chunk.first.0.saturating_add(chunk.stats.records) == head.next().0;
    let current = match older.pop_back_if(|chunk| continues(chunk)) {
        Some(current) => current,
        None => {
            engine.begin_chunk(head.next())?;
            Chunk::new(head.next())
        }
    };
    let has_unsynced = mark.is_some_and(|mark| mark.has_unsynced) && state.boot == settings.boot;
    engine.put_mark(Mark {
        sequence: head,
        has_unsynced,
    })?;
    engine.sync_mark()?;
    let ceiling = Sequence(head.0.saturating_add(JOURNAL_IDS_RESERVED));
    let home = Home::At(engine.place()?);
    let begun = State {
        epochs,
        ceiling,
        clean: None,
        sync: settings.sync,
        boot: settings.boot,
        home,
    };
    engine.put_state(&begun.encode())?;
    Ok(OpenedStore {
        engine,
        epochs: begun.epochs,
        home,
        head,
        ceiling,
        has_unsynced,
        older,
        current,
    })
}

struct Reader<'a> {
    engine: &'a dyn Engine,
    /// The last sequence number that was read or skipped.
    last: Option<Sequence>,
    chunks: VecDeque<Chunk>,
    each: &'a mut dyn FnMut(ReplayEvent<'_>),
}

impl Reader<'_> {
    fn read_all(&mut self, chunks: &[Sequence]) -> Result<(), EngineError> {
        for (index, first) in chunks.iter().enumerate() {
            let end = chunks.get(index + 1).copied();
            self.report_loss_before(*first);
            let mut chunk = Chunk::new(*first);
            let engine = self.engine;
            engine.read_chunk(*first, &mut |sequence, bytes| {
                // The next chunk begins at the number `end`. Records of this chunk with this number
                // or a larger one are parts of refused batches, and are ignored.
                if end.is_none_or(|end| sequence < end) {
                    self.read_record(&mut chunk, sequence, bytes)?;
                }
                Ok(())
            })?;
            self.chunks.push_back(chunk);
        }
        Ok(())
    }

    fn read_record(
        &mut self,
        chunk: &mut Chunk,
        sequence: Sequence,
        bytes: &[u8],
    ) -> Result<(), EngineError> {
        let record = record::decode(bytes)
            .ok_or_else(|| EngineError::Damaged(format!("record {}", sequence.0)))?;
        if self.last.is_some_and(|last| sequence <= last) {
            let problem = format!("record {} is not in its place", sequence.0);
            return Err(EngineError::Damaged(problem));
        }
        self.report_loss_before(sequence);
        chunk.stats.add(&record);
        chunk.bytes += bytes.len() as u64;
        self.last = Some(sequence);
        (self.each)(ReplayEvent::Record(sequence, record));
        Ok(())
    }

    /// Reports a loss if numbers between the last record and `sequence` are missing.
    fn report_loss_before(&mut self, sequence: Sequence) {
        let before = Sequence(sequence.0.saturating_sub(1));
        if let Some(after) = self.last.filter(|last| *last < before) {
            let until = before;
            (self.each)(ReplayEvent::Lost { after, until });
        }
        self.last = self.last.max(Some(before));
    }
}
