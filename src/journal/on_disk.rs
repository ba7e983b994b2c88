//! Journals on the disk, for tests of whole directories.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use super::check::{CheckError, Report, check};
use super::engine::EngineError;
use super::epochs::Epochs;
use super::folder::Folder;
use super::lsm::LsmOpener;
use super::record::{PayloadRef, Record};
use super::record_writer::{RecordWriter, Settings};
use super::recover::{self, ReplayEvent};
use super::replay::boot_id;
use crate::config::limits::JOURNAL_CHUNK_BYTES;
use crate::config::{JournalSync, LogBounds};
use crate::id::{Cursor, Epoch, Sequence};

/// Opens a journal without losses. `fresh` is the epoch of a journal that is new or a copy. Also
/// returns the epochs, and the numbers and lengths of the records.
pub(super) fn open(path: &Path, fresh: u64) -> (RecordWriter, Epochs, Vec<(u64, usize)>) {
    let settings = Settings {
        bounds: LogBounds::default(),
        bytes_max: 2 * JOURNAL_CHUNK_BYTES,
        sync: JournalSync::Batch,
        boot: boot_id(),
        pause: Duration::ZERO,
    };
    let mut records = Vec::new();
    let mut each = |replayed: ReplayEvent<'_>| match replayed {
        ReplayEvent::Epochs(_) => {}
        ReplayEvent::Record(sequence, record) => match record.payload {
            PayloadRef::Text(text) => records.push((sequence.0, text.len())),
            other => panic!("{other:?}"),
        },
        ReplayEvent::Lost { until, .. } => panic!("records up to {until:?} are lost"),
    };
    let opener = Box::new(LsmOpener::new(take(path)));
    let writer = recover::open(opener, settings, Epoch::new(fresh), &mut each).unwrap();
    let epochs = writer.epochs().clone();
    (writer, epochs, records)
}

/// Locks a journal. Other tests start processes. Between its fork and its exec, such a process has
/// the lock of a journal that was just closed.
pub(super) fn take(path: &Path) -> Folder {
    until_unlocked(|| match Folder::take(path) {
        Err(EngineError::InUse) => None,
        taken => Some(taken.unwrap()),
    })
}

/// Checks a journal that was just closed, as [`take`] opens it.
pub(super) fn checked(path: &Path) -> Report {
    until_unlocked(|| match check(path) {
        Err(CheckError::InUse) => None,
        checked => Some(checked.unwrap()),
    })
}

fn until_unlocked<T>(mut attempt: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match attempt() {
            Some(outcome) => return outcome,
            None => assert!(Instant::now() < deadline, "the journal is locked"),
        }
        thread::yield_now();
    }
}

/// Returns a record with a text as its payload.
pub(super) fn record(text: &str) -> Record<'_> {
    Record {
        published_us: 1,
        ttl_us: None,
        channel: "a",
        event: None,
        key: None,
        dedupe: None,
        is_from_client: false,
        traceparent: None,
        payload: PayloadRef::Text(text),
    }
}

/// Appends a record with a payload of this length.
pub(super) fn append(writer: &mut RecordWriter, bytes: usize) {
    let text = "x".repeat(bytes);
    let is_staged = writer.stage(&record(&text));
    assert!(is_staged);
    writer.append().unwrap();
}

/// Copies a directory, beside itself.
pub(super) fn copied(path: &Path, name: &str) -> PathBuf {
    let copy = path.with_file_name(name);
    let copied = Command::new("cp").arg("-a").args([path, &copy]).status();
    assert!(copied.unwrap().success());
    copy
}

pub(super) fn id(epoch: u64, number: u64) -> Cursor {
    Cursor {
        epoch: Epoch::new(epoch),
        sequence: Sequence(number),
    }
}
