//! Measures the journal: appends in each sync mode, and the replay when the server starts.
//!
//! The journal is on the disk of the target folder, because a sync costs nothing on a file system
//! in memory. One append writes one batch, which is as large as one read of the feed. In the modes
//! `batch` and `os`, only the cost on the feed's thread is measured, because another thread syncs.
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    missing_docs,
    reason = "a benchmark may panic"
)]

use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use fanfare::config::{JournalSync, LogBounds};
use fanfare::id::Epoch;
use fanfare::journal::folder::Folder;
use fanfare::journal::lsm::LsmOpener;
use fanfare::journal::record::{PayloadRef, Record};
use fanfare::journal::record_writer::{RecordWriter, Settings};
use fanfare::journal::recover::{ReplayEvent, open};
use fanfare::journal::state::BootId;

/// The number of publications in one read of the feed. Each payload has 200 bytes.
const BATCH: u64 = 256;
const REPLAYED: u64 = 200_000;

fn record_writer(
    path: &Path,
    sync: JournalSync,
    each: &mut dyn FnMut(ReplayEvent<'_>),
) -> RecordWriter {
    let settings = Settings {
        bounds: LogBounds::default(),
        bytes_max: 1 << 30,
        sync,
        boot: BootId::new("bench"),
        pause: Duration::ZERO,
    };
    let opener = Box::new(LsmOpener::new(Folder::take(path).unwrap()));
    open(opener, settings, Epoch::new(1), each).unwrap()
}

fn append(record_writer: &mut RecordWriter, payload: &str) {
    let head = record_writer.head().0;
    for index in 1..=BATCH {
        assert!(record_writer.stage(&Record {
            published_us: head + index,
            ttl_us: None,
            channel: "chat:42",
            event: None,
            key: None,
            dedupe: None,
            is_from_client: false,
            traceparent: None,
            payload: PayloadRef::Json(payload),
        }));
    }
    black_box(record_writer.append().unwrap());
}

fn journal(criterion: &mut Criterion) {
    let payload = format!("\"{}\"", "x".repeat(198));
    let mut group = criterion.benchmark_group("journal");
    group.throughput(Throughput::Elements(BATCH));
    for (name, sync) in [
        ("append_always", JournalSync::Always),
        ("append_batch_or_os", JournalSync::Os),
    ] {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let mut record_writer = record_writer(folder.path(), sync, &mut |_| {});
        group.bench_function(name, |bencher| {
            bencher.iter(|| append(&mut record_writer, &payload));
        });
    }
    group.throughput(Throughput::Elements(REPLAYED));
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut filled = record_writer(folder.path(), JournalSync::Os, &mut |_| {});
    while filled.head().0 < REPLAYED {
        append(&mut filled, &payload);
    }
    drop(filled);
    group.bench_function("replay", |bencher| {
        bencher.iter_custom(|rounds| {
            let mut took = Duration::ZERO;
            for _ in 0..rounds {
                let mut bytes = 0;
                let begun = Instant::now();
                let opened = record_writer(folder.path(), JournalSync::Os, &mut |replayed| {
                    if let ReplayEvent::Record(_, record) = replayed {
                        bytes += record.channel.len();
                    }
                });
                took += begun.elapsed();
                black_box((opened, bytes));
            }
            took
        });
    });
    group.finish();
}

criterion_group!(benches, journal);
criterion_main!(benches);
