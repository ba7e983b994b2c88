//! Tests of copies on a store in memory: a backup while the store changes, and starts from copies
//! of any age.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;

use super::backup::copy;
use super::engine::{Batch, Engine, Opener as _};
use super::epochs::Epochs;
use super::fake::FakeStore;
use super::on_disk::record;
use super::record::{self, PayloadRef};
use super::record_writer::{RecordWriter, Settings};
use super::recover::{self, ReplayEvent};
use super::source::{Facts, Source};
use super::state::BootId;
use crate::config::limits::JOURNAL_CHUNK_BYTES;
use crate::config::{JournalSync, LogBounds};
use crate::id::{Cursor, Epoch, Sequence};

/// The number of random seeds with which each property is tested.
const SEEDS: u64 = 400;

fn settings() -> Settings {
    Settings {
        bounds: LogBounds::default(),
        bytes_max: JOURNAL_CHUNK_BYTES,
        sync: JournalSync::Batch,
        boot: BootId::new("boot"),
        pause: Duration::ZERO,
    }
}

/// A started journal: its writer, and its publications by their ids.
struct Started {
    writer: RecordWriter,
    texts: BTreeMap<(u64, u64), String>,
    lost_until: Option<u64>,
}

fn start(store: &FakeStore, fresh: u64) -> Started {
    let (mut texts, mut lost_until, mut epochs) = (BTreeMap::new(), None, None);
    let mut each = |replayed: ReplayEvent<'_>| match replayed {
        ReplayEvent::Epochs(found) => epochs = Some(found.clone()),
        ReplayEvent::Record(sequence, record) => {
            let id = epochs.as_ref().unwrap().id(sequence);
            if let PayloadRef::Text(text) = record.payload {
                texts.insert(key(id), text.to_owned());
            }
        }
        ReplayEvent::Lost { until, .. } => lost_until = Some(until.0),
    };
    let opener = Box::new(store.clone());
    let writer = recover::open(opener, settings(), Epoch::new(fresh), &mut each).unwrap();
    Started {
        writer,
        texts,
        lost_until,
    }
}

fn key(id: Cursor) -> (u64, u64) {
    (id.epoch.bits(), id.sequence.0)
}

/// A store to which records are appended at random while a backup reads it.
struct Feed {
    engine: Arc<dyn Engine>,
    source: Arc<Source>,
    rng: Rng,
    chunks: Vec<u64>,
    texts: BTreeMap<u64, String>,
    last: u64,
}

impl Feed {
    fn new(store: &FakeStore, rng: &mut Rng) -> Self {
        let engine = store.open().unwrap();
        let facts = Facts {
            epochs: Epochs::new(Epoch::new(7)),
            sync: JournalSync::Batch,
            boot: BootId::new("boot"),
        };
        engine.begin_chunk(Sequence(1)).unwrap();
        Self {
            source: Arc::new(Source::new(&engine, Sequence::ZERO, facts)),
            engine,
            rng: rng.fork(),
            chunks: vec![1],
            texts: BTreeMap::new(),
            last: 0,
        }
    }

    fn step(&mut self) {
        match self.rng.u32(..20) {
            0 => {
                let skipped = self.rng.u64(..3);
                self.begin_chunk(self.last + 1 + skipped);
            }
            1 if self.chunks.len() > 1 => {
                let oldest = self.chunks.remove(0);
                self.engine.remove_chunk(Sequence(oldest)).unwrap();
                let first = self.chunks[0];
                self.texts.retain(|number, _| *number >= first);
            }
            2 => {
                // A refused batch appears in the chunk, and its numbers are assigned again.
                self.append(&["refused".to_owned()]);
                self.begin_chunk(self.last + 1);
            }
            // Some numbers in the middle of a chunk are missing.
            3 => self.last += 1,
            _ => {
                let count = self.rng.u64(1..4);
                let texts: Vec<_> = (0..count).map(|_| self.rng.u64(..).to_string()).collect();
                self.append(&texts);
                for text in texts {
                    self.last += 1;
                    self.texts.insert(self.last, text);
                }
            }
        }
        self.source.set_head(Sequence(self.last));
    }

    fn begin_chunk(&mut self, first: u64) {
        self.engine.begin_chunk(Sequence(first)).unwrap();
        self.chunks.retain(|chunk| *chunk < first);
        self.chunks.push(first);
        self.last = first - 1;
    }

    fn append(&self, texts: &[String]) {
        let mut batch = Batch::default();
        for text in texts {
            assert!(record::encode(&record(text), batch.bytes_mut()));
            batch.end();
        }
        batch.number_from(Sequence(self.last + 1));
        let chunk = Sequence(*self.chunks.last().unwrap());
        self.engine.append(chunk, &batch).unwrap();
    }
}

#[test]
fn backup_of_a_store_that_changes_has_all_records_up_to_its_end() {
    let mut shortened = 0;
    for seed in 0..SEEDS {
        let mut rng = Rng::with_seed(seed);
        let mut feed = Feed::new(&FakeStore::new(seed), &mut rng);
        for _ in 0..rng.u32(..60) {
            feed.step();
        }
        let before: BTreeMap<u64, String> = feed.texts.clone();
        let feed = RefCell::new(feed);
        let target = FakeStore::new(seed);
        let to = target.open().unwrap();
        // The backup asks before each part whether it is cancelled.
        let steps = rng.u32(..6);
        let meanwhile = || {
            let mut feed = feed.borrow_mut();
            (0..steps).for_each(|_| feed.step());
            false
        };
        let source = Arc::clone(&feed.borrow().source);
        let backup = copy(&source, to.as_ref(), &meanwhile).unwrap();
        drop(to);
        let started = start(&target, 8);
        assert_eq!(started.writer.head(), backup.last.sequence, "seed {seed}");
        let after = &feed.borrow().texts;
        let copied: BTreeMap<u64, String> = started
            .texts
            .into_iter()
            .map(|((_, number), text)| (number, text))
            .collect();
        for (number, text) in &copied {
            assert_eq!(before.get(number), Some(text), "seed {seed}: {number}");
        }
        let head = backup.last.sequence.0;
        for (number, text) in after.range(..=head) {
            assert_eq!(copied.get(number), Some(text), "seed {seed}: {number}");
        }
        let first = copied.keys().next().copied().unwrap_or(head + 1);
        let expected = before.range(first..).filter(|(number, _)| **number <= head);
        assert!(expected.eq(copied.iter()), "seed {seed}");
        shortened += u32::from(copied.len() < before.len());
    }
    assert!(shortened > 0, "no chunk was removed during a backup");
}

/// A journal or a copy of one, which is started again and again.
struct Line {
    store: FakeStore,
    started: Started,
}

/// The publications of all journals by their ids.
type Known = BTreeMap<(u64, u64), String>;

/// Starts a store. Each id that it has must name the publication that it always named, and a
/// position that is valid must have the publications that it stands for.
fn start_checked(store: FakeStore, fresh: u64, known: &Known, seed: u64) -> Line {
    let started = start(&store, fresh);
    assert_eq!(started.lost_until, None, "seed {seed}");
    for (id, text) in &started.texts {
        assert_eq!(known.get(id), Some(text), "seed {seed}: {id:?}");
    }
    for past in started.writer.epochs().past() {
        let epoch = past.epoch.bits();
        for (id, text) in known.range((epoch, 0)..=(epoch, past.until.0)) {
            assert_eq!(started.texts.get(id), Some(text), "seed {seed}: {id:?}");
        }
    }
    Line { store, started }
}

impl Line {
    fn publish(&mut self, rng: &mut Rng, known: &mut Known, seed: u64) {
        let text = rng.u64(..).to_string();
        let writer = &mut self.started.writer;
        assert!(writer.stage(&record(&text)));
        writer.append().unwrap();
        let id = key(writer.epochs().id(writer.head()));
        let other = known.insert(id, text);
        assert_eq!(other, None, "seed {seed}: {id:?} names two publications");
    }
}

#[test]
fn no_id_names_two_publications_in_a_journal_and_its_copies() {
    for seed in 0..SEEDS {
        let mut rng = Rng::with_seed(seed);
        let mut known = Known::new();
        let mut epochs = 1..;
        let mut fresh = || epochs.next().unwrap();
        let first = start_checked(FakeStore::new(seed), fresh(), &known, seed);
        let (mut lines, mut copies) = (vec![first], Vec::new());
        for _ in 0..rng.u32(..60) {
            let at = rng.usize(..lines.len());
            match rng.u32(..10) {
                0 => {
                    let to = FakeStore::new(seed);
                    let engine = to.open().unwrap();
                    let source = lines[at].started.writer.source();
                    copy(source, engine.as_ref(), &|| false).unwrap();
                    copies.push(to);
                }
                1 => copies.push(lines[at].store.copied()),
                2 if !copies.is_empty() => {
                    // One copy may be restored several times.
                    let copy = copies[rng.usize(..copies.len())].copied();
                    lines.push(start_checked(copy, fresh(), &known, seed));
                }
                3 => {
                    let Line { store, started } = lines.swap_remove(at);
                    let epoch = started.writer.epoch();
                    drop(started);
                    let again = start_checked(store, fresh(), &known, seed);
                    assert_eq!(again.started.writer.epoch(), epoch, "seed {seed}");
                    lines.push(again);
                }
                _ => lines[at].publish(&mut rng, &mut known, seed),
            }
        }
    }
}
