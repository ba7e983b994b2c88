//! Compares the cost of the journal, which uses fjall, with the cost of redb and of plain fjall.
//!
//! Each store receives the same records in the same batches and keeps the newest records. A
//! separate process fills each store and then kills itself as with `kill -9`. After that, another
//! process opens and reads the store. In the mode `always`, each batch is synced. In the mode `os`,
//! nothing is synced, but all records must be in the store after the kill. redb has no such mode,
//! so its file layer here ignores syncs. The program prints a table. The script `run` starts it.

use std::error::Error;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fanfare::config::{JournalSync, LogBounds};
use fanfare::id::Epoch;
use fanfare::journal::folder::Folder;
use fanfare::journal::lsm::LsmOpener;
use fanfare::journal::record::{self, PayloadRef, Record};
use fanfare::journal::record_writer::{RecordWriter, Settings};
use fanfare::journal::recover::{self, ReplayEvent};
use fanfare::journal::state::BootId;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use redb::{Builder, ReadableDatabase as _, ReadableTable as _, StorageBackend, TableDefinition};

type Done<T> = Result<T, Box<dyn Error>>;

/// The number of records that a store keeps, equal to the maximum number of entries of the
/// journal's log.
const KEPT: u64 = 200_000;
const PAYLOAD_BYTES: usize = 200;
const TABLE: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("publications");
/// The name of redb's file.
const REDB: &str = "journal.redb";
const STORES: [&str; 3] = ["journal", "redb", "fjall"];

struct Case {
    sync: &'static str,
    batch: u64,
    records: u64,
}

const CASES: [Case; 4] = [
    Case {
        sync: "always",
        batch: 1,
        records: 2_000,
    },
    Case {
        sync: "always",
        batch: 256,
        records: 256 * 1_000,
    },
    Case {
        sync: "os",
        batch: 1,
        records: 200_000,
    },
    Case {
        sync: "os",
        batch: 256,
        records: 256 * 8_000,
    },
];

fn main() -> Done<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let parts: Vec<&str> = args.iter().map(String::as_str).collect();
    match parts.as_slice() {
        [folder] => compare(Path::new(folder)),
        ["fill", store, sync, batch, records, folder] => fill(
            store,
            sync,
            batch.parse()?,
            records.parse()?,
            Path::new(folder),
        ),
        ["read", store, folder] => read(store, Path::new(folder)),
        _ => Err("usage: stores FOLDER".into()),
    }
}

fn compare(folder: &Path) -> Done<()> {
    println!("store     sync    batch   records/s   CPU us/record   MB on disk   replay ms");
    for case in &CASES {
        for store in STORES {
            let place = folder.join(store);
            let _nothing_there = fs::remove_dir_all(&place);
            fs::create_dir_all(&place)?;
            let filled = child(&[
                "fill",
                store,
                case.sync,
                &case.batch.to_string(),
                &case.records.to_string(),
                &place.to_string_lossy(),
            ])?;
            let disk = bytes_below(&place)?;
            let read = child(&["read", store, &place.to_string_lossy()])?;
            let mut figures = filled.split_whitespace().map(str::parse::<f64>);
            let seconds = figures.next().ok_or("no time")??;
            let cpu = figures.next().ok_or("no processor time")??;
            let (ms, newest) = read.trim().split_once(' ').ok_or("no answer")?;
            if newest.parse::<u64>()? != case.records {
                return Err(format!("{store} ends with {newest} of {}", case.records).into());
            }
            println!(
                "{store:<9} {:<7} {:>5} {:>11.0} {:>15.2} {:>12.1} {:>18}",
                case.sync,
                case.batch,
                case.records as f64 / seconds,
                cpu * 1e6 / case.records as f64,
                disk as f64 / 1e6,
                ms,
            );
            fs::remove_dir_all(&place)?;
        }
    }
    Ok(())
}

/// Runs this program as a child and returns its output. The exit status is ignored, because a child
/// that fills a store kills itself with a signal.
fn child(args: &[&str]) -> Done<String> {
    let out = Command::new(std::env::current_exe()?).args(args).output()?;
    if out.stdout.is_empty() {
        return Err(String::from_utf8_lossy(&out.stderr).into());
    }
    Ok(String::from_utf8(out.stdout)?)
}

/// Returns the number of bytes that the files in a folder and its subfolders occupy on disk.
fn bytes_below(folder: &Path) -> Done<u64> {
    use std::os::unix::fs::MetadataExt as _;
    let mut sum = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        sum += match entry.file_type()?.is_dir() {
            true => bytes_below(&entry.path())?,
            false => entry.metadata()?.blocks() * 512,
        };
    }
    Ok(sum)
}

fn fill(store: &str, sync: &str, batch: u64, records: u64, folder: &Path) -> Done<()> {
    let is_synced = sync == "always";
    let mut store: Box<dyn Kept> = match store {
        "journal" => Box::new(journal(folder, is_synced, &mut |_| {})?),
        "redb" => Box::new(Redb::open(folder, is_synced)?),
        _ => Box::new(Fjall::open(folder, is_synced)?),
    };
    let payload = "x".repeat(PAYLOAD_BYTES);
    let begun = Instant::now();
    let cpu_before = processor_time();
    for first in (1..=records).step_by(usize::try_from(batch)?) {
        let batch = (first..first + batch).map(|sequence| (sequence, record(sequence, &payload)));
        store.append(&mut batch.into_iter())?;
    }
    let seconds = begun.elapsed().as_secs_f64();
    let cpu = processor_time() - cpu_before;
    println!("{seconds} {}", cpu.as_secs_f64());
    let own_pid = rustix::process::getpid();
    rustix::process::kill_process(own_pid, rustix::process::Signal::KILL)?;
    Ok(())
}

fn read(store: &str, folder: &Path) -> Done<()> {
    let begun = Instant::now();
    let mut newest = 0;
    let mut take = |sequence: u64, bytes: &[u8]| {
        if record::decode(bytes).is_some() {
            newest = sequence;
        }
    };
    match store {
        "journal" => {
            let mut take = |replayed: ReplayEvent<'_>| {
                if let ReplayEvent::Record(sequence, _) = replayed {
                    newest = sequence.0;
                }
            };
            let _keeper = journal(folder, true, &mut take)?;
        }
        "redb" => {
            let database = redb::Database::create(folder.join(REDB))?;
            let table = database.begin_read()?.open_table(TABLE)?;
            for entry in table.iter()? {
                let (key, value) = entry?;
                take(key.value(), value.value());
            }
        }
        _ => {
            let store = Fjall::open(folder, true)?;
            for entry in store.records.iter() {
                let (key, value) = entry.into_inner()?;
                take(u64::from_be_bytes(key.as_ref().try_into()?), &value);
            }
        }
    }
    println!("{} {newest}", begun.elapsed().as_millis());
    Ok(())
}

fn processor_time() -> Duration {
    let usage = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(
        usage.tv_sec.try_into().unwrap_or_default(),
        usage.tv_nsec.try_into().unwrap_or_default(),
    )
}

fn record(sequence: u64, payload: &str) -> Record<'_> {
    Record {
        published_us: sequence,
        ttl_us: None,
        channel: "chat:42",
        event: None,
        key: None,
        dedupe: None,
        is_from_client: false,
        traceparent: None,
        payload: PayloadRef::Text(payload),
    }
}

fn encoded<'a>(record: &Record<'_>, out: &'a mut Vec<u8>) -> &'a [u8] {
    out.clear();
    assert!(record::encode(record, out));
    out
}

/// A store that keeps the newest records.
trait Kept {
    fn append(&mut self, batch: &mut dyn Iterator<Item = (u64, Record<'_>)>) -> Done<()>;
}

fn journal(
    folder: &Path,
    is_synced: bool,
    each: &mut dyn FnMut(ReplayEvent<'_>),
) -> Done<RecordWriter> {
    let settings = Settings {
        bounds: LogBounds {
            entries: KEPT,
            ..LogBounds::default()
        },
        bytes_max: 1 << 30,
        sync: if is_synced {
            JournalSync::Always
        } else {
            JournalSync::Os
        },
        boot: BootId::new("here"),
        pause: Duration::ZERO,
    };
    let opener = Box::new(LsmOpener::new(Folder::take(folder)?));
    Ok(recover::open(opener, settings, Epoch::new(1), each)?)
}

impl Kept for RecordWriter {
    fn append(&mut self, batch: &mut dyn Iterator<Item = (u64, Record<'_>)>) -> Done<()> {
        for (_, record) in batch {
            assert!(self.stage(&record));
        }
        Self::append(self)?;
        Ok(())
    }
}

/// redb's own file layer, except that it syncs only if `is_synced` is set.
#[derive(Debug)]
struct File {
    inner: redb::backends::FileBackend,
    is_synced: bool,
}

impl StorageBackend for File {
    fn len(&self) -> std::io::Result<u64> {
        self.inner.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
        self.inner.read(offset, out)
    }
    fn set_len(&self, len: u64) -> std::io::Result<()> {
        self.inner.set_len(len)
    }
    fn sync_data(&self) -> std::io::Result<()> {
        if self.is_synced {
            return self.inner.sync_data();
        }
        Ok(())
    }
    fn write(&self, offset: u64, data: &[u8]) -> std::io::Result<()> {
        self.inner.write(offset, data)
    }
    fn close(&self) -> std::io::Result<()> {
        self.inner.close()
    }
}

struct Redb {
    database: redb::Database,
    oldest: u64,
}

impl Redb {
    fn open(folder: &Path, is_synced: bool) -> Done<Self> {
        let mut options = fs::OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let inner = redb::backends::FileBackend::new(options.open(folder.join(REDB))?)?;
        let database = Builder::new().create_with_backend(File { inner, is_synced })?;
        Ok(Self {
            database,
            oldest: 1,
        })
    }
}

impl Kept for Redb {
    fn append(&mut self, batch: &mut dyn Iterator<Item = (u64, Record<'_>)>) -> Done<()> {
        let transaction = self.database.begin_write()?;
        {
            let mut table = transaction.open_table(TABLE)?;
            let mut bytes = Vec::new();
            let mut newest = 0;
            for (sequence, record) in batch {
                newest = sequence;
                table.insert(newest, encoded(&record, &mut bytes))?;
            }
            // The oldest records are removed in one step when the store has a tenth more than
            // `KEPT` records. This is faster than removing records one by one.
            if newest > self.oldest + KEPT + KEPT / 10 {
                self.oldest = newest - KEPT;
                table.retain_in(..self.oldest, |_, _| false)?;
            }
        }
        Ok(transaction.commit()?)
    }
}

struct Fjall {
    database: Database,
    records: Keyspace,
    mode: PersistMode,
}

impl Fjall {
    fn open(folder: &Path, is_synced: bool) -> Done<Self> {
        let database = Database::builder(folder).open()?;
        // fjall's own eviction limits the size of the store. It removes the oldest files (SSTables)
        // as a whole.
        let bytes = KEPT * (PAYLOAD_BYTES as u64 + 64);
        let options = move || {
            KeyspaceCreateOptions::default()
                .compaction_strategy(Arc::new(fjall::compaction::Fifo::new(bytes, None)))
        };
        let records = database.keyspace("publications", options)?;
        let mode = if is_synced {
            PersistMode::SyncData
        } else {
            PersistMode::Buffer
        };
        Ok(Self {
            database,
            records,
            mode,
        })
    }
}

impl Kept for Fjall {
    fn append(&mut self, batch: &mut dyn Iterator<Item = (u64, Record<'_>)>) -> Done<()> {
        let mut writes = self.database.batch().durability(Some(self.mode));
        let mut bytes = Vec::new();
        for (sequence, record) in batch {
            let key = sequence.to_be_bytes();
            writes.insert(&self.records, key, encoded(&record, &mut bytes));
        }
        Ok(writes.commit()?)
    }
}
