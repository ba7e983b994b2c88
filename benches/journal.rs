//! The cost of the journal: appends for each sync mode, and the replay at start.
//!
//! Writes to the disk of the target folder, since syncs cost nothing in a file system in memory. An
//! append is a batch of the size of one read of the feed. For `batch` and `os` it is the feed's
//! share only: another thread syncs.
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
use fanfare::journal::lsm::Place;
use fanfare::journal::record::{PayloadRef, Record};
use fanfare::journal::record_writer::{Keeper, Settings};
use fanfare::journal::recover::{Replayed, open};
use fanfare::journal::state::Boot;

/// Publications in one read of the feed, with payloads of 200 bytes.
const BATCH: u64 = 256;
const REPLAYED: u64 = 200_000;

fn keeper(path: &Path, sync: JournalSync, each: &mut dyn FnMut(Replayed<'_>)) -> Keeper {
    let settings = Settings {
        bounds: LogBounds::default(),
        bytes_max: 1 << 30,
        sync,
        boot: Boot::new("bench"),
        pause: Duration::ZERO,
    };
    let opener = Box::new(Place::new(Folder::take(path).unwrap()));
    open(opener, settings, Epoch::new(1), each).unwrap()
}

fn append(keeper: &mut Keeper, payload: &str) {
    let head = keeper.head().0;
    for index in 1..=BATCH {
        assert!(keeper.stage(&Record {
            published_us: head + index,
            ttl_us: None,
            channel: "chat:42",
            event: None,
            key: None,
            dedupe: None,
            payload: PayloadRef::Json(payload),
        }));
    }
    black_box(keeper.append().unwrap());
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
        let mut keeper = keeper(folder.path(), sync, &mut |_| {});
        group.bench_function(name, |bencher| {
            bencher.iter(|| append(&mut keeper, &payload));
        });
    }
    group.throughput(Throughput::Elements(REPLAYED));
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut filled = keeper(folder.path(), JournalSync::Os, &mut |_| {});
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
                let opened = keeper(folder.path(), JournalSync::Os, &mut |replayed| {
                    if let Replayed::Record(_, record) = replayed {
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
