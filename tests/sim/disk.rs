//! A journal on a simulated disk in memory. The contents of the disk survive when the server is
//! killed.
//!
//! The real record writer and the real recovery use a store that sometimes refuses a batch. After a
//! refusal, the store must be opened again. An accepted batch survives the end of the process.
//! After the process is killed, the batch that was refused last may be in the store, as with a
//! store that writes its buffers on exit. If the same process opens the store again, no refused
//! batch is in it.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fanfare::config::{Config, JournalSync, LogBounds};
use fanfare::frame::Publication;
use fanfare::id::{Epoch, Sequence};
use fanfare::journal::engine::{
    Batch, Engine, EngineError, Opener, PartEnd, PartVisitor, RecordVisitor,
};
use fanfare::journal::record::{PayloadRef, Record};
use fanfare::journal::record_writer::{RecordWriter, Settings};
use fanfare::journal::recover;
use fanfare::journal::replay::{Collector, OpenContext};
use fanfare::journal::state::{BootId, Mark, Place};
use fanfare::log::{EpochChange, Writer};
use fanfare::time::Now;

type Records = Vec<(u64, Vec<u8>)>;

#[derive(Debug)]
struct DiskInner {
    /// The stored records, grouped by the chunk (a part of the store) that contains them.
    chunks: BTreeMap<u64, BTreeMap<u64, Vec<u8>>>,
    begun: BTreeSet<u64>,
    state: Option<Vec<u8>>,
    mark: Mark,
    refused: Option<(u64, Records)>,
    is_broken: bool,
    /// The number of times that the journal was replaced by a copy.
    copies: u64,
    /// Whether the journal's directory has been moved away.
    is_moved: bool,
    /// The chance that the directory is moved away before a batch, in thousandths.
    moves: u32,
    /// The chance that a write or a sync fails, in thousandths.
    failures: u32,
    random: fastrand::Rng,
}

/// The disk. Clones share its contents.
#[derive(Clone, Debug)]
pub(crate) struct Disk(Arc<Mutex<DiskInner>>);

#[derive(Debug)]
struct OpenDisk(Disk);

impl Disk {
    fn new(random: fastrand::Rng) -> Self {
        Self(Arc::new(Mutex::new(DiskInner {
            chunks: BTreeMap::new(),
            begun: BTreeSet::new(),
            state: None,
            mark: Mark::default(),
            refused: None,
            is_broken: false,
            copies: 0,
            is_moved: false,
            moves: 0,
            failures: 0,
            random,
        })))
    }

    fn set_faults(&self, failures: u32, moves: u32) {
        let mut inner = self.0.lock().unwrap();
        inner.failures = failures;
        inner.moves = moves;
    }

    /// Ends the simulated failures. If the journal's directory was moved away, puts it back.
    pub(crate) fn end_faults(&self) {
        self.set_faults(0, 0);
        self.put_back();
    }

    fn put_back(&self) {
        self.0.lock().unwrap().is_moved = false;
    }

    /// Moves the directory away or puts it back, at random. Returns whether the directory is away.
    fn move_at_random(&self) -> bool {
        let mut inner = self.0.lock().unwrap();
        let likely = match inner.is_moved {
            true => 200,
            false => inner.moves,
        };
        let is_moving = inner.random.u32(0..1000) < likely;
        inner.is_moved ^= is_moving;
        inner.is_moved
    }

    /// Kills the process that has opened the disk. The batch that was refused last may be on the
    /// disk afterwards.
    fn kill(&self) {
        let mut inner = self.0.lock().unwrap();
        if let Some((chunk, records)) = inner.refused.take()
            && inner.random.bool()
        {
            inner.chunks.entry(chunk).or_default().extend(records);
        }
    }

    /// Replaces the journal with a copy that was made before its last few publications. Returns the
    /// last number in the copy.
    fn replace_with_older_copy(&self) -> Sequence {
        let mut inner = self.0.lock().unwrap();
        let first = *inner.begun.first().expect("a chunk");
        let last = inner.mark.sequence.0;
        let least = last.saturating_sub(11).max(first - 1);
        let kept = inner.random.u64(least..=last);
        inner.begun.retain(|first| *first <= kept + 1);
        inner.chunks.retain(|first, _| *first <= kept + 1);
        for records in inner.chunks.values_mut() {
            records.retain(|number, _| *number <= kept);
        }
        inner.mark.sequence = Sequence(kept);
        inner.copies += 1;
        Sequence(kept)
    }

    /// Loses the newest record. A correct disk never does that.
    pub(crate) fn lose_newest_record(&self) {
        let mut inner = self.0.lock().unwrap();
        if let Some(mut chunk) = inner.chunks.last_entry() {
            chunk.get_mut().pop_last();
        }
    }
}

impl OpenDisk {
    fn with<T>(
        &self,
        act: impl FnOnce(&mut DiskInner) -> Result<T, EngineError>,
    ) -> Result<T, EngineError> {
        let mut inner = self.0.0.lock().unwrap();
        if inner.is_broken {
            return Err(EngineError::Broken);
        }
        let outcome = act(&mut inner);
        inner.is_broken = outcome.is_err();
        outcome
    }
}

impl DiskInner {
    fn check(&self) -> Result<(), EngineError> {
        match self.is_moved {
            true => Err(EngineError::Removed("store".into())),
            false => Ok(()),
        }
    }

    fn may_fail(&mut self) -> Result<(), EngineError> {
        if self.random.u32(0..1000) < self.failures {
            let kinds = [ErrorKind::StorageFull, ErrorKind::Other];
            return Err(EngineError::Io(kinds[self.random.usize(0..2)].into()));
        }
        Ok(())
    }
}

impl Opener for Disk {
    fn open(&self) -> Result<Arc<dyn Engine>, EngineError> {
        let mut inner = self.0.lock().unwrap();
        inner.check()?;
        inner.is_broken = false;
        inner.refused = None;
        Ok(Arc::new(OpenDisk(self.clone())))
    }
}

impl Engine for OpenDisk {
    fn check(&self) -> Result<(), EngineError> {
        self.0.0.lock().unwrap().check()
    }

    fn state(&self) -> Result<Option<Vec<u8>>, EngineError> {
        self.with(|inner| Ok(inner.state.clone()))
    }

    fn put_state(&self, state: &[u8]) -> Result<(), EngineError> {
        self.with(|inner| {
            inner.state = Some(state.to_vec());
            Ok(())
        })
    }

    fn mark(&self) -> Result<Option<Mark>, EngineError> {
        self.with(|inner| Ok(Some(inner.mark)))
    }

    fn put_mark(&self, mark: Mark) -> Result<(), EngineError> {
        // The mark (the highest assigned sequence number) is in a file outside the store. That file
        // has none of the simulated errors.
        self.0.0.lock().unwrap().mark = mark;
        Ok(())
    }

    fn sync_mark(&self) -> Result<(), EngineError> {
        Ok(())
    }

    fn place(&self) -> Result<Place, EngineError> {
        Ok(Place {
            inode: self.0.0.lock().unwrap().copies,
            born_ns: 0,
        })
    }

    fn chunks(&self) -> Result<Vec<Sequence>, EngineError> {
        self.with(|inner| Ok(inner.begun.iter().copied().map(Sequence).collect()))
    }

    fn begin_chunk(&self, first: Sequence) -> Result<(), EngineError> {
        self.with(|inner| {
            inner.chunks.insert(first.0, BTreeMap::new());
            inner.begun.insert(first.0);
            Ok(())
        })
    }

    fn remove_chunk(&self, first: Sequence) -> Result<(), EngineError> {
        self.with(|inner| {
            inner.chunks.remove(&first.0);
            inner.begun.remove(&first.0);
            Ok(())
        })
    }

    fn read_chunk(&self, first: Sequence, each: RecordVisitor<'_>) -> Result<(), EngineError> {
        let records = self.with(|inner| Ok(inner.chunks.get(&first.0).cloned()))?;
        for (sequence, bytes) in records.unwrap_or_default() {
            each(Sequence(sequence), &bytes)?;
        }
        Ok(())
    }

    fn read_part(
        &self,
        chunk: Sequence,
        from: Sequence,
        each: PartVisitor<'_>,
    ) -> Result<PartEnd, EngineError> {
        let Some(records) = self.with(|inner| Ok(inner.chunks.get(&chunk.0).cloned()))? else {
            return Ok(PartEnd::NoChunk);
        };
        for (sequence, bytes) in records.range(from.0..) {
            if each(Sequence(*sequence), bytes)?.is_break() {
                return Ok(PartEnd::Stopped);
            }
        }
        Ok(PartEnd::End)
    }

    fn append(&self, chunk: Sequence, batch: &Batch) -> Result<(), EngineError> {
        let records = batch.records().map(|(n, bytes)| (n.0, bytes.to_vec()));
        let records: Records = records.collect();
        self.with(|inner| {
            if let Err(error) = inner.may_fail() {
                inner.refused = Some((chunk.0, records));
                return Err(error);
            }
            inner.chunks.entry(chunk.0).or_default().extend(records);
            Ok(())
        })
    }

    fn disk_bytes(&self) -> Result<u64, EngineError> {
        Ok(0)
    }

    fn sync(&self) -> Result<(), EngineError> {
        self.with(|inner| {
            // If a sync fails, the batch counts as refused, although it is in the store.
            inner.may_fail()
        })
    }
}

/// The journal of a run, which all starts of the server use.
#[derive(Debug)]
pub(crate) struct Journal {
    pub(crate) disk: Disk,
    records: Option<RecordWriter>,
    settings: Settings,
    /// The publication that the store refused last, unless a publication was accepted after it. It
    /// may be in the journal after the server is killed.
    refused: Option<Arc<Publication>>,
    /// Whether a check has found that the directory was moved away.
    has_noticed: bool,
}

impl Journal {
    pub(crate) fn new(epoch: Epoch, config: &Config, random: &mut fastrand::Rng) -> Self {
        let disk = Disk::new(random.fork());
        let modes = [JournalSync::Always, JournalSync::Batch, JournalSync::Os];
        let settings = Settings {
            bounds: LogBounds {
                age_ms: config.log.age_ms,
                ..LogBounds::default()
            },
            bytes_max: u64::MAX,
            sync: modes[random.usize(0..3)],
            boot: BootId::new("one"),
            pause: Duration::ZERO,
        };
        let opener = Box::new(disk.clone());
        let records = recover::open(opener, settings, epoch, &mut |_| {}).expect("an empty disk");
        let failures = [0, 0, 20, 200][random.usize(0..4)];
        disk.set_faults(failures, [0, 10, 50][random.usize(0..3)]);
        Self {
            disk,
            records: Some(records),
            settings,
            refused: None,
            has_noticed: false,
        }
    }

    /// Writes a publication. Returns whether the disk has accepted it. A refused publication counts
    /// as not published.
    pub(crate) fn take(&mut self, publication: &Arc<Publication>) -> bool {
        self.move_at_random();
        let records = self.records.as_mut().expect("it is open");
        assert_eq!(records.head().next(), publication.id.sequence);
        let published = publication.published;
        let is_staged = records.stage(&Record {
            published_us: published.0,
            ttl_us: publication.expires().map(|expires| expires.0 - published.0),
            channel: publication.channel.as_str(),
            event: publication.event(),
            key: publication.key(),
            dedupe: None,
            is_from_client: false,
            traceparent: publication.traceparent().copied(),
            payload: PayloadRef::of(&publication.payload),
        });
        assert!(is_staged, "a short record");
        match records.append() {
            Ok(_) => self.refused = None,
            // The store did not try to write, so `refused` does not change.
            Err(EngineError::Removed(_)) => return false,
            Err(_) => {
                self.refused = Some(Arc::clone(publication));
                return false;
            }
        }
        assert!(!self.has_noticed, "accepted into a directory that is away");
        true
    }

    /// Moves the directory away or puts it back at random. Also checks the directory at random.
    fn move_at_random(&mut self) {
        let is_away = self.disk.move_at_random();
        self.has_noticed &= is_away;
        let is_due = self.disk.0.lock().unwrap().random.bool();
        let records = self.records.as_mut().expect("it is open");
        if is_due {
            let checked = records.check();
            assert!(checked.is_err() || !is_away, "the check did not notice it");
            self.has_noticed |= is_away;
        }
    }

    /// Kills the server and opens the journal for the next server. Returns the writer of the log,
    /// and the refused publication if the journal contains it.
    pub(crate) fn kill(
        &mut self,
        epoch: Epoch,
        now: Now,
        config: &Config,
    ) -> (Writer, Option<Arc<Publication>>) {
        let before = self.records.take().map(|records| records.head());
        let head = before.expect("it is open");
        self.disk.kill();
        // Without the directory, the next server would create another journal.
        self.disk.put_back();
        self.has_noticed = false;
        // A new journal would get this epoch. The journal of this disk already exists, so it keeps
        // its own epoch.
        let (records, writer) = self.open(Epoch::new(0), now, config);
        assert_eq!(records.epoch(), epoch, "the epoch after a restart");
        assert_eq!(writer.head(), records.head());
        let recovered = match records.head().cmp(&head) {
            Ordering::Less => panic!("{head:?} was accepted and is gone"),
            Ordering::Equal => None,
            Ordering::Greater => Some(self.refused.take().expect("a refused publication")),
        };
        let most = head.0 + u64::from(recovered.is_some());
        assert_eq!(
            records.head().0,
            most,
            "a publication that was never published"
        );
        self.records = Some(records);
        (writer, recovered)
    }

    /// Replaces the journal with an older copy, after the server was killed, and opens it for the
    /// next server. Returns the writer of the log, and the change from the epoch `from` to a new
    /// one.
    pub(crate) fn restore_older_copy(
        &mut self,
        from: Epoch,
        to: Epoch,
        now: Now,
        config: &Config,
    ) -> (Writer, EpochChange) {
        drop(self.records.take());
        self.refused = None;
        let head = self.disk.replace_with_older_copy();
        let (records, writer) = self.open(to, now, config);
        assert_eq!(records.epoch(), to, "the epoch after a start from a copy");
        assert_eq!((records.head(), writer.head()), (head, head));
        self.records = Some(records);
        let change = EpochChange {
            from,
            to,
            head,
            valid_until: Some(head),
        };
        (writer, change)
    }

    fn open(&self, fresh: Epoch, now: Now, config: &Config) -> (RecordWriter, Writer) {
        let context = OpenContext {
            fresh,
            dedupe_seed: 7,
            now,
            config,
        };
        let mut collector = Collector::new(context, now.0);
        let opener = Box::new(self.disk.clone());
        let mut each = |replayed: recover::ReplayEvent<'_>| collector.take(&replayed);
        let records = recover::open(opener, self.settings, fresh, &mut each);
        let records = records.expect("a journal that opens");
        let (writer, _dedupe) = collector.finish(&records);
        (records, writer)
    }
}
