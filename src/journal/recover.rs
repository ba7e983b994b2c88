//! SHELL: this module opens a journal after a clean stop, a crash or a power failure.
//!
//! The reader reads every chunk in order, and passes the records to the caller. The store truncates
//! an incomplete write at the end of its log, and refuses records with bad checksums. Missing
//! numbers show whether the store truncated too much. The mark shows this too, because it contains
//! the highest sequence number known to be assigned. In this case all numbers that may have been
//! assigned are skipped. The loss is reported to the caller, so that resuming clients receive a
//! gap.

use std::collections::VecDeque;
use std::sync::Arc;

use super::engine::{Engine, EngineError, Opener};
use super::record::{self, Record};
use super::record_writer::{Chunk, OpenedStore, RecordWriter, Settings};
use super::state::{Mark, State};
use crate::config::limits::JOURNAL_IDS_RESERVED;
use crate::id::{Epoch, Sequence};

/// What was found while the journal was read when the server started: the epoch, a record or a
/// loss. Events are passed to the caller in order.
#[derive(Debug)]
pub enum ReplayEvent<'a> {
    /// The epoch of all sequence numbers. Always the first event.
    Epoch(Epoch),
    /// A publication with its sequence number.
    Record(Sequence, Record<'a>),
    /// Publications up to and including this number may be missing, so resuming clients receive a
    /// gap. The records that were passed before this event stay valid.
    Lost(Sequence),
}

/// Opens the journal in a store, and passes the events of the replay to `each`. `fresh` is the
/// epoch of a new journal.
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
    let chunks = engine.chunks()?;
    let (state, mark) = match engine.state()? {
        Some(bytes) => {
            let state = State::decode(&bytes).ok_or(EngineError::Version)?;
            (state, engine.mark()?)
        }
        None if chunks.is_empty() => create(engine.as_ref(), settings, fresh)?,
        None => return Err(EngineError::Damaged(String::from("its state is missing"))),
    };
    each(ReplayEvent::Epoch(state.epoch));
    let mut reader = Reader {
        engine: engine.as_ref(),
        last: None,
        chunks: VecDeque::new(),
        each,
    };
    reader.read_all(&chunks)?;
    let (last, older) = (reader.last, reader.chunks);
    let head = match last {
        Some(last) if !state.may_have_lost(Some(last), mark, settings.boot) => last,
        Some(_) | None => state.ceiling.max(mark.sequence),
    };
    if last.unwrap_or_default() != head {
        each(ReplayEvent::Lost(head));
    }
    let found = prepare(engine, (&state, mark), settings, head, older)?;
    Ok(RecordWriter::new(opener, settings, found))
}

/// Creates the state of a new journal. From then on, a store with chunks but without a state is
/// damaged.
fn create(
    engine: &dyn Engine,
    settings: Settings,
    epoch: Epoch,
) -> Result<(State, Mark), EngineError> {
    let mark = engine.mark()?;
    if mark.sequence > Sequence::ZERO {
        tracing::warn!(
            last = mark.sequence.0,
            "the journal's publications were removed: a new journal was begun, with a new epoch"
        );
    } else {
        tracing::info!("a new journal was begun: there was none");
    }
    let state = State {
        epoch,
        ceiling: Sequence::ZERO,
        clean: None,
        sync: settings.sync,
        boot: settings.boot,
    };
    // The state is written before the mark. If the process is killed in between, the mark of the
    // earlier journal remains. The next start then skips the numbers up to that mark, but loses
    // nothing.
    engine.put_state(&state.encode())?;
    engine.put_mark(Mark::default())?;
    Ok((state, Mark::default()))
}

/// Prepares the store for this run. Begins a new chunk if the last chunk cannot be continued. The
/// mark is written before the state. If only the new state were written, the next start would not
/// notice a loss of records.
fn prepare(
    engine: Arc<dyn Engine>,
    (state, mark): (&State, Mark),
    settings: Settings,
    head: Sequence,
    mut older: VecDeque<Chunk>,
) -> Result<OpenedStore, EngineError> {
    let continues =
        |chunk: &Chunk| chunk.first.0.saturating_add(chunk.stats.records) == head.next().0;
    let current = match older.pop_back_if(|chunk| continues(chunk)) {
        Some(current) => current,
        None => {
            engine.begin_chunk(head.next())?;
            Chunk::new(head.next())
        }
    };
    let has_unsynced = mark.has_unsynced && state.boot == settings.boot;
    engine.put_mark(Mark {
        sequence: head,
        has_unsynced,
    })?;
    engine.sync_mark()?;
    let ceiling = Sequence(head.0.saturating_add(JOURNAL_IDS_RESERVED));
    let begun = State {
        ceiling,
        clean: None,
        sync: settings.sync,
        boot: settings.boot,
        ..*state
    };
    engine.put_state(&begun.encode())?;
    Ok(OpenedStore {
        engine,
        epoch: state.epoch,
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
        if self.last.is_some_and(|last| last < before) {
            (self.each)(ReplayEvent::Lost(before));
        }
        self.last = self.last.max(Some(before));
    }
}
