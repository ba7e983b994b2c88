//! SHELL: opens a journal after whatever happened to it.
//!
//! Reads every chunk in order and hands on its records. The store itself cuts off a torn tail and
//! refuses what fails its checksums; what it may have cut off too much is told by numbers that are
//! missing and by the mark. Then numbers are left out that may have been given out, and the hole is
//! handed on, so that nobody who resumes takes what is there for all there was.

use std::collections::VecDeque;
use std::sync::Arc;

use super::engine::{Engine, EngineError, Opener};
use super::record::{self, Record};
use super::record_writer::{Chunk, Found, Keeper, Settings};
use super::state::{Mark, State};
use crate::config::limits::JOURNAL_NUMBERS_ASIDE;
use crate::id::{Epoch, Sequence};

/// What the journal tells whoever opens it, in order.
#[derive(Debug)]
pub enum Replayed<'a> {
    /// The epoch of all numbers. Comes first.
    Epoch(Epoch),
    /// A publication and its number.
    Record(Sequence, Record<'a>),
    /// Numbers up to this one may have been given out and are lost; what came before is history
    /// with a hole behind it.
    Hole(Sequence),
}

/// Opens the journal in a store; `fresh` is its epoch if there is none.
///
/// # Errors
/// When the store is damaged or foreign, or when the system refuses.
pub fn open(
    opener: Box<dyn Opener>,
    settings: Settings,
    fresh: Epoch,
    each: &mut dyn FnMut(Replayed<'_>),
) -> Result<Keeper, EngineError> {
    let engine = opener.open()?;
    let chunks = engine.chunks()?;
    let (state, mark) = match engine.state()? {
        Some(bytes) => {
            let state = State::decode(&bytes).ok_or(EngineError::Version)?;
            (state, engine.mark()?)
        }
        None if chunks.is_empty() => begin(engine.as_ref(), settings, fresh)?,
        None => return Err(EngineError::Damaged(String::from("its state is missing"))),
    };
    each(Replayed::Epoch(state.epoch));
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
        each(Replayed::Hole(head));
    }
    let found = make_ready(engine, (&state, mark), settings, head, older)?;
    Ok(Keeper::new(opener, settings, found))
}

/// The state of a journal that has none: from here on chunks without a state are a state that was
/// lost.
fn begin(
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
    // In this order: a mark of an epoch that is gone would only leave out numbers.
    engine.put_state(&state.encode())?;
    engine.put_mark(Mark::default())?;
    Ok((state, Mark::default()))
}

/// Begins the chunk that this run appends to, if the last one cannot be gone on with; then the
/// mark, then the state, since a new state alone would say that nothing was lost.
fn make_ready(
    engine: Arc<dyn Engine>,
    (state, mark): (&State, Mark),
    settings: Settings,
    head: Sequence,
    mut older: VecDeque<Chunk>,
) -> Result<Found, EngineError> {
    let is_gone_on_with =
        |chunk: &Chunk| chunk.first.0.saturating_add(chunk.content.records) == head.next().0;
    let current = match older.pop_back_if(|chunk| is_gone_on_with(chunk)) {
        Some(current) => current,
        None => {
            engine.begin_chunk(head.next())?;
            Chunk::new(head.next())
        }
    };
    let is_doubtful = mark.is_doubtful && state.boot == settings.boot;
    engine.put_mark(Mark {
        sequence: head,
        is_doubtful,
    })?;
    engine.sync_mark()?;
    let ceiling = Sequence(head.0.saturating_add(JOURNAL_NUMBERS_ASIDE));
    let begun = State {
        ceiling,
        clean: None,
        sync: settings.sync,
        boot: settings.boot,
        ..*state
    };
    engine.put_state(&begun.encode())?;
    Ok(Found {
        engine,
        epoch: state.epoch,
        head,
        ceiling,
        is_doubtful,
        older,
        current,
    })
}

struct Reader<'a> {
    engine: &'a dyn Engine,
    /// The last number that was read or left out.
    last: Option<Sequence>,
    chunks: VecDeque<Chunk>,
    each: &'a mut dyn FnMut(Replayed<'_>),
}

impl Reader<'_> {
    fn read_all(&mut self, chunks: &[Sequence]) -> Result<(), EngineError> {
        for (index, first) in chunks.iter().enumerate() {
            let end = chunks.get(index + 1).copied();
            self.expect(*first);
            let mut chunk = Chunk::new(*first);
            let engine = self.engine;
            engine.read_chunk(*first, &mut |sequence, bytes| {
                // What the next chunk has too was refused when it was written here.
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
        self.expect(sequence);
        chunk.content.add(&record);
        chunk.bytes += bytes.len() as u64;
        self.last = Some(sequence);
        (self.each)(Replayed::Record(sequence, record));
        Ok(())
    }

    /// Tells a hole if numbers before this one are missing.
    fn expect(&mut self, sequence: Sequence) {
        let before = Sequence(sequence.0.saturating_sub(1));
        if self.last.is_some_and(|last| last < before) {
            (self.each)(Replayed::Hole(before));
        }
        self.last = self.last.max(Some(before));
    }
}
