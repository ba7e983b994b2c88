//! A journal on a disk in memory, which a killed server finds again.
//!
//! The real keeper and the real recovery over a store that refuses a batch now and then and has to
//! be opened again. What was taken outlives the process. What was refused last may turn up when the
//! process is killed, as with a store that writes its buffers on its way out; when it is opened
//! again in the same life, it never does.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fanfare::config::{Config, JournalSync, LogBounds};
use fanfare::frame::Publication;
use fanfare::id::{Epoch, Sequence};
use fanfare::journal::engine::{Batch, Each, Engine, EngineError, Opener};
use fanfare::journal::keeper::{Keeper, Settings};
use fanfare::journal::past::{Circumstances, Collector};
use fanfare::journal::record::{PayloadRef, Record};
use fanfare::journal::recover;
use fanfare::journal::state::{Boot, Mark};
use fanfare::log::Writer;
use fanfare::time::Now;

type Records = Vec<(u64, Vec<u8>)>;

#[derive(Debug)]
struct Platter {
    /// By chunk.
    chunks: BTreeMap<u64, BTreeMap<u64, Vec<u8>>>,
    begun: BTreeSet<u64>,
    state: Option<Vec<u8>>,
    mark: Mark,
    refused: Option<(u64, Records)>,
    is_broken: bool,
    /// Its directory is elsewhere.
    is_moved: bool,
    /// How likely it is moved away before a batch, in thousandths.
    moves: u32,
    /// How likely a write or a sync fails, in thousandths.
    failures: u32,
    random: fastrand::Rng,
}

/// The disk; clones are the same disk.
#[derive(Clone, Debug)]
pub(crate) struct Disk(Arc<Mutex<Platter>>);

#[derive(Debug)]
struct OpenDisk(Disk);

impl Disk {
    fn new(random: fastrand::Rng) -> Self {
        Self(Arc::new(Mutex::new(Platter {
            chunks: BTreeMap::new(),
            begun: BTreeSet::new(),
            state: None,
            mark: Mark::default(),
            refused: None,
            is_broken: false,
            is_moved: false,
            moves: 0,
            failures: 0,
            random,
        })))
    }

    fn set_faults(&self, failures: u32, moves: u32) {
        let mut platter = self.0.lock().unwrap();
        platter.failures = failures;
        platter.moves = moves;
    }

    /// From now on nothing fails, and the directory is where it was.
    pub(crate) fn calm_down(&self) {
        self.set_faults(0, 0);
        self.put_back();
    }

    fn put_back(&self) {
        self.0.lock().unwrap().is_moved = false;
    }

    /// Moves the directory away or puts it back, if chance has it. Whether it is away.
    fn move_about(&self) -> bool {
        let mut platter = self.0.lock().unwrap();
        let likely = match platter.is_moved {
            true => 200,
            false => platter.moves,
        };
        let is_moving = platter.random.u32(0..1000) < likely;
        platter.is_moved ^= is_moving;
        platter.is_moved
    }

    /// The process that has it open is killed.
    fn kill(&self) {
        let mut platter = self.0.lock().unwrap();
        if let Some((chunk, records)) = platter.refused.take()
            && platter.random.bool()
        {
            platter.chunks.entry(chunk).or_default().extend(records);
        }
    }

    /// Loses the newest record, which no disk may.
    pub(crate) fn forget(&self) {
        let mut platter = self.0.lock().unwrap();
        if let Some(mut chunk) = platter.chunks.last_entry() {
            chunk.get_mut().pop_last();
        }
    }
}

impl OpenDisk {
    fn with<T>(
        &self,
        act: impl FnOnce(&mut Platter) -> Result<T, EngineError>,
    ) -> Result<T, EngineError> {
        let mut platter = self.0.0.lock().unwrap();
        if platter.is_broken {
            return Err(EngineError::Broken);
        }
        let outcome = act(&mut platter);
        platter.is_broken = outcome.is_err();
        outcome
    }
}

impl Platter {
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
        let mut platter = self.0.lock().unwrap();
        platter.check()?;
        platter.is_broken = false;
        platter.refused = None;
        Ok(Arc::new(OpenDisk(self.clone())))
    }
}

impl Engine for OpenDisk {
    fn check(&self) -> Result<(), EngineError> {
        self.0.0.lock().unwrap().check()
    }

    fn state(&self) -> Result<Option<Vec<u8>>, EngineError> {
        self.with(|platter| Ok(platter.state.clone()))
    }

    fn put_state(&self, state: &[u8]) -> Result<(), EngineError> {
        self.with(|platter| {
            platter.state = Some(state.to_vec());
            Ok(())
        })
    }

    fn mark(&self) -> Result<Mark, EngineError> {
        self.with(|platter| Ok(platter.mark))
    }

    fn put_mark(&self, mark: Mark) -> Result<(), EngineError> {
        // The mark is no part of the store and outlives its errors.
        self.0.0.lock().unwrap().mark = mark;
        Ok(())
    }

    fn sync_mark(&self) -> Result<(), EngineError> {
        Ok(())
    }

    fn chunks(&self) -> Result<Vec<Sequence>, EngineError> {
        self.with(|platter| Ok(platter.begun.iter().copied().map(Sequence).collect()))
    }

    fn begin_chunk(&self, first: Sequence) -> Result<(), EngineError> {
        self.with(|platter| {
            platter.chunks.insert(first.0, BTreeMap::new());
            platter.begun.insert(first.0);
            Ok(())
        })
    }

    fn remove_chunk(&self, first: Sequence) -> Result<(), EngineError> {
        self.with(|platter| {
            platter.chunks.remove(&first.0);
            platter.begun.remove(&first.0);
            Ok(())
        })
    }

    fn read_chunk(&self, first: Sequence, each: Each<'_>) -> Result<(), EngineError> {
        let records = self.with(|platter| Ok(platter.chunks.get(&first.0).cloned()))?;
        for (sequence, bytes) in records.unwrap_or_default() {
            each(Sequence(sequence), &bytes)?;
        }
        Ok(())
    }

    fn append(&self, chunk: Sequence, batch: &Batch) -> Result<(), EngineError> {
        let records = batch.records().map(|(n, bytes)| (n.0, bytes.to_vec()));
        let records: Records = records.collect();
        self.with(|platter| {
            if let Err(error) = platter.may_fail() {
                platter.refused = Some((chunk.0, records));
                return Err(error);
            }
            platter.chunks.entry(chunk.0).or_default().extend(records);
            Ok(())
        })
    }

    fn sync(&self) -> Result<(), EngineError> {
        self.with(|platter| {
            // What a sync did not confirm is refused and yet there.
            platter.may_fail()
        })
    }
}

/// The journal over a server's lives.
#[derive(Debug)]
pub(crate) struct Journal {
    pub(crate) disk: Disk,
    keeper: Option<Keeper>,
    settings: Settings,
    /// What was refused since the last that was taken: the first of it may turn up.
    refused: Option<Arc<Publication>>,
    /// A check has noticed that the directory is away.
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
            boot: Boot::new("one"),
            pause: Duration::ZERO,
        };
        let opener = Box::new(disk.clone());
        let keeper = recover::open(opener, settings, epoch, &mut |_| {}).expect("an empty disk");
        let failures = [0, 0, 20, 200][random.usize(0..4)];
        disk.set_faults(failures, [0, 10, 50][random.usize(0..3)]);
        Self {
            disk,
            keeper: Some(keeper),
            settings,
            refused: None,
            has_noticed: false,
        }
    }

    /// Whether the disk takes a publication. One that it refuses has not happened.
    pub(crate) fn take(&mut self, publication: &Arc<Publication>) -> bool {
        self.move_about();
        let keeper = self.keeper.as_mut().expect("it is open");
        assert_eq!(keeper.head().next(), publication.id.sequence);
        let published = publication.published;
        let is_staged = keeper.stage(&Record {
            published_us: published.0,
            ttl_us: publication.expires().map(|expires| expires.0 - published.0),
            channel: publication.channel.as_str(),
            event: publication.event(),
            key: publication.key(),
            dedupe: None,
            payload: PayloadRef::of(&publication.payload),
        });
        assert!(is_staged, "a short record");
        match keeper.append() {
            Ok(_) => self.refused = None,
            // Nothing was tried, so what turns up is what was refused before.
            Err(EngineError::Removed(_)) => return false,
            Err(_) => {
                self.refused = Some(Arc::clone(publication));
                return false;
            }
        }
        assert!(!self.has_noticed, "taken into files that are away");
        true
    }

    /// The directory may be moved away or put back, and a check may come.
    fn move_about(&mut self) {
        let is_away = self.disk.move_about();
        self.has_noticed &= is_away;
        let is_due = self.disk.0.lock().unwrap().random.bool();
        let keeper = self.keeper.as_mut().expect("it is open");
        if is_due {
            let checked = keeper.check();
            assert!(checked.is_err() || !is_away, "nothing was noticed");
            self.has_noticed |= is_away;
        }
    }

    /// The server is killed, and the next one opens what it left. Returns the writer of its log
    /// and, if it turned up, what had been refused.
    pub(crate) fn kill(
        &mut self,
        epoch: Epoch,
        now: Now,
        config: &Config,
    ) -> (Writer, Option<Arc<Publication>>) {
        let before = self.keeper.take().map(|keeper| keeper.head());
        let head = before.expect("it is open");
        self.disk.kill();
        // What the next server finds without it is another journal.
        self.disk.put_back();
        self.has_noticed = false;
        let circumstances = Circumstances {
            // It has to be the journal's, not this one.
            fresh: Epoch::new(0),
            dedupe_seed: 7,
            now,
            config,
        };
        let mut collector = Collector::new(circumstances, now.0);
        let opener = Box::new(self.disk.clone());
        let mut each = |replayed: recover::Replayed<'_>| collector.take(&replayed);
        let keeper = recover::open(opener, self.settings, Epoch::new(0), &mut each);
        let keeper = keeper.expect("a disk that keeps its promises");
        let (writer, _dedupe) = collector.finish(&keeper);
        assert_eq!(keeper.epoch(), epoch, "the epoch after a restart");
        assert_eq!(writer.head(), keeper.head());
        let turned_up = match keeper.head().cmp(&head) {
            Ordering::Less => panic!("{head:?} was taken and is gone"),
            Ordering::Equal => None,
            Ordering::Greater => Some(self.refused.take().expect("something was refused")),
        };
        let most = head.0 + u64::from(turned_up.is_some());
        assert_eq!(keeper.head().0, most, "what nobody published");
        self.keeper = Some(keeper);
        (writer, turned_up)
    }
}
