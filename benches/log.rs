//! Measures the log, and a worker's hub, which reads the log for the worker's subscribers:
//! appending, evicting, and reading the entries after a cursor.
//!
//! Covers everything from a worker's inbox to the first write of a broadcast. Appending must cost
//! the same with no subscriber and with a thousand, because appending visits no subscribers. The
//! functions `plan` and `advance` run once per subscriber and write, so their cost matters most.
#![allow(
    clippy::cast_possible_truncation,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a bench may panic and print, and runs where usize has 64 bits"
)]

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput};
use fanfare::config::{Config, Namespace};
use fanfare::frame::{Compressor, Envelope, FrameKind, Payload, Publication};
use fanfare::hub::{Hub, Node};
use fanfare::id::{ChannelName, Cursor, Epoch, Sequence, Since};
use fanfare::log::{ChannelKey, Entry, Writer};
use fanfare::time::Now;

const KIND: FrameKind = FrameKind::WebSocket(Envelope::Full);
/// The number of publications that are appended in one measured round.
const ROUND: u64 = 1000;
/// A time at which every entry is older than any age limit of the log.
const MUCH_LATER: Now = Now(u64::MAX / 2);

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    append(&mut criterion);
    halves(&mut criterion);
    evict(&mut criterion);
    serve(&mut criterion);
    million(&mut criterion);
    criterion.final_summary();
}

fn channel() -> ChannelName {
    ChannelName::new("prices").unwrap()
}

fn publications(first: u64, count: u64) -> Vec<Arc<Publication>> {
    publications_to(first, count, |_| channel())
}

fn publications_to(
    first: u64,
    count: u64,
    channel: impl Fn(u64) -> ChannelName,
) -> Vec<Arc<Publication>> {
    let ledger = Arc::default();
    let publication = |sequence| {
        let id = Cursor {
            epoch: Epoch::new(1),
            sequence: Sequence(sequence),
        };
        let payload = Payload::Json(format!("\"{}\"", "x".repeat(98)).into());
        let ledger = &ledger;
        Arc::new(Publication::new(
            id,
            channel(sequence),
            payload,
            Now(0),
            ledger,
        ))
    };
    (first..first + count).map(publication).collect()
}

fn hub(subscribers: u32) -> Node {
    let mut hub = Node::new(Epoch::new(1), Sequence::ZERO, &Config::default());
    for slot in 0..subscribers {
        let _joined = hub.subscribe(slot, &channel(), Since::Now, Sequence::ZERO);
    }
    hub
}

fn fill(hub: &mut Node, publications: Vec<Arc<Publication>>) {
    for publication in publications {
        hub.publish(publication, Now(0));
    }
}

fn append(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("log/append_1000");
    group.throughput(Throughput::Elements(ROUND));
    for subscribers in [0, 1, 1000] {
        let id = BenchmarkId::new("subscribers", subscribers);
        group.bench_function(id, |bencher| {
            bencher.iter_batched(
                || (hub(subscribers), publications(1, ROUND)),
                |(mut hub, publications)| {
                    fill(&mut hub, publications);
                    hub
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

/// The entries that the writer sends to one worker. Each entry has the index and the key of its
/// channel.
type Sent = Vec<(u32, ChannelKey, Entry)>;

/// Returns a writer, a worker's hub with one subscriber, and a buffer for the sent entries.
fn writer_and_hub() -> (Writer, Hub, Sent) {
    let (config, epoch, head) = (Config::default(), Epoch::new(1), Sequence::ZERO);
    let writer = Writer::new(&config, head);
    let mut hub = Hub::new(Arc::clone(writer.log()), 0, epoch, head, &config);
    let _joined = hub.subscribe(0, &channel(), Since::Now, head);
    (writer, hub, Vec::with_capacity(ROUND as usize))
}

fn write(writer: &mut Writer, publications: Vec<Arc<Publication>>, sent: &mut Sent) {
    writer.announce(Sequence(ROUND));
    for publication in publications {
        writer.publish(publication, |stake, key, entry| {
            sent.push((stake.place, key, entry));
        });
    }
    writer.note_posted();
}

/// Measures the two halves of appending: the feed's thread adds an entry, and a worker receives it.
fn halves(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("log/append_1000_in");
    group.throughput(Throughput::Elements(ROUND));
    group.bench_function("writer", |bencher| {
        bencher.iter_batched(
            || (writer_and_hub(), publications(1, ROUND)),
            |((mut writer, hub, mut sent), publications)| {
                write(&mut writer, publications, &mut sent);
                (writer, hub, sent)
            },
            BatchSize::SmallInput,
        );
    });
    group.bench_function("worker", |bencher| {
        bencher.iter_batched(
            || {
                let (mut writer, hub, mut sent) = writer_and_hub();
                write(&mut writer, publications(1, ROUND), &mut sent);
                (writer, hub, sent)
            },
            |(writer, mut hub, mut sent)| {
                for (place, key, entry) in sent.drain(..) {
                    black_box(hub.has_room_for(place, key, &entry));
                    hub.take(place, key, entry, Now(0));
                }
                (writer, hub, sent)
            },
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

fn evict(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("log/evict_1000");
    group.throughput(Throughput::Elements(ROUND));
    group.bench_function("by_age", |bencher| {
        bencher.iter_batched(
            || {
                let mut hub = hub(1);
                fill(&mut hub, publications(1, ROUND));
                hub
            },
            |mut hub| {
                assert_eq!(u64::from(hub.evict(MUCH_LATER, u32::MAX)), ROUND);
                hub
            },
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

/// Does the work of a delivery to one subscriber, except the write: takes the gap, selects the
/// publications, reads their frames, advances the cursor and checks the quota.
fn serve_one(
    hub: &mut Node,
    slot: u32,
    compressor: &mut Compressor,
    planned: &mut Vec<fanfare::hub::Planned>,
) -> usize {
    let gap = hub.take_gap(slot);
    debug_assert!(gap.is_none());
    hub.plan(slot, KIND, Now(0), 65_536, compressor, planned);
    let mut total = 0;
    for step in &*planned {
        total += black_box(hub.frame(step)).len();
    }
    let advanced = hub.advance(slot, planned, total);
    debug_assert!(advanced.begun.is_none());
    let _verdict = black_box(hub.enforce(slot, Now(0)));
    total
}

fn serve(criterion: &mut Criterion) {
    const SUBSCRIBERS: u32 = 1000;
    let mut group = criterion.benchmark_group("log/serve_1000_subscribers");
    group.throughput(Throughput::Elements(u64::from(SUBSCRIBERS)));
    for waiting in [1, 10, 64] {
        let id = BenchmarkId::new("publications_waiting", waiting);
        let (mut compressor, mut planned) = (Compressor::default(), Vec::new());
        group.bench_function(id, |bencher| {
            bencher.iter_batched(
                || {
                    let mut hub = hub(SUBSCRIBERS);
                    fill(&mut hub, publications(1, ROUND));
                    for slot in 0..SUBSCRIBERS {
                        hub.leave(slot);
                        let _joined = hub.subscribe(slot, &channel(), Since::Now, Sequence(ROUND));
                    }
                    fill(&mut hub, publications(ROUND + 1, waiting));
                    hub
                },
                |mut hub| {
                    for slot in 0..SUBSCRIBERS {
                        serve_one(&mut hub, slot, &mut compressor, &mut planned);
                    }
                    hub
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

/// Permutes the numbers below a million: no two numbers have the same result.
fn scatter(number: u64) -> u64 {
    number.wrapping_mul(611_953) % MILLION
}

const MILLION: u64 = 1_000_000;

/// Measures a log of a million channels that keeps only the newest publication of each channel.
fn million(criterion: &mut Criterion) {
    let mut config = Config::default();
    config.log.bytes = 1 << 40;
    config.log.entries = 2 * MILLION;
    config.namespace.push(Namespace {
        pattern: "user:*".into(),
        log_entries: Some(1),
        ..Namespace::default()
    });
    let names: Vec<ChannelName> = (0..MILLION)
        .map(|number| ChannelName::new(&format!("user:{number:06}")).unwrap())
        .collect();
    let name = |sequence| names[scatter(sequence) as usize].clone();
    let resident = resident_bytes();
    let mut hub = Node::new(Epoch::new(1), Sequence::ZERO, &config);
    fill(&mut hub, publications_to(1, MILLION, name));
    // Publishing to half of the channels again, out of order, leaves many holes in the log.
    fill(&mut hub, publications_to(MILLION + 1, MILLION / 2, name));
    hub.trim(u32::MAX);
    assert_eq!(hub.log().len(), MILLION);
    let grown = resident_bytes() - resident;
    println!(
        "a million channels with an entry of 100 bytes each: {} B each by the log's bound, {} B \
         resident",
        hub.log_bytes() / MILLION,
        grown / MILLION
    );
    let mut group = criterion.benchmark_group("log/million_channels");
    group.throughput(Throughput::Elements(ROUND));
    let mut next = MILLION * 3 / 2 + 1;
    group.bench_function("append_and_trim_1000", |bencher| {
        bencher.iter_custom(|rounds| {
            let mut took = Duration::ZERO;
            for _ in 0..rounds {
                let round = publications_to(next, ROUND, name);
                next += ROUND;
                let start = Instant::now();
                fill(&mut hub, round);
                hub.trim(u32::MAX);
                took += start.elapsed();
            }
            took
        });
    });
    let mut seed = 0;
    let head = Sequence(next - 1);
    group.bench_function("resume_and_leave_1000", |bencher| {
        bencher.iter(|| {
            for _ in 0..ROUND {
                seed += 1;
                let since = Since::After(Cursor {
                    epoch: Epoch::new(1),
                    sequence: Sequence(head.0 - seed % MILLION),
                });
                let _joined = black_box(hub.subscribe(0, &name(seed * 7), since, head));
                black_box(hub.is_behind(0));
                hub.leave(0);
            }
        });
    });
    group.finish();
}

fn resident_bytes() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = pages.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}
