//! What the hub's own arithmetic costs: appending, evicting, looking up what a cursor stands
//! before.
//!
//! Stands for everything between the inbox and the first write of a broadcast. Appending has to
//! cost the same for no subscriber and for a thousand, since nobody is touched until flush; plan
//! and advance are paid once per subscriber and write, so their nanoseconds count most of all.
#![allow(clippy::unwrap_used, reason = "a bench may panic")]

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput};
use fanfare::config::Config;
use fanfare::frame::{Encoder, Envelope, FrameKind, Payload, Publication};
use fanfare::hub::Hub;
use fanfare::id::{ChannelName, Cursor, Epoch, Sequence, Since};
use fanfare::time::Now;

const KIND: FrameKind = FrameKind::WebSocket(Envelope::Full);
/// Publications appended in one measured round.
const ROUND: u64 = 1000;
/// Later than any age that the log allows.
const MUCH_LATER: Now = Now(u64::MAX / 2);

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    append(&mut criterion);
    evict(&mut criterion);
    serve(&mut criterion);
    criterion.final_summary();
}

fn channel() -> ChannelName {
    ChannelName::new("prices").unwrap()
}

fn publications(first: u64, count: u64) -> Vec<Arc<Publication>> {
    let publication = |sequence| {
        let id = Cursor {
            epoch: Epoch::new(1),
            sequence: Sequence(sequence),
        };
        let payload = Payload::Json(format!("\"{}\"", "x".repeat(98)).into());
        Arc::new(Publication::new(id, channel(), payload, Now(0)))
    };
    (first..first + count).map(publication).collect()
}

fn hub(subscribers: u32) -> Hub {
    let mut hub = Hub::new(Epoch::new(1), Sequence::ZERO, &Config::default());
    for slot in 0..subscribers {
        let _joined = hub.subscribe(slot, &channel(), Since::Now, Sequence::ZERO);
    }
    hub
}

fn fill(hub: &mut Hub, publications: Vec<Arc<Publication>>) {
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

/// One subscriber's share of a flush: gaps, plan, frames, advance, quota; without the write.
fn serve_one(
    hub: &mut Hub,
    slot: u32,
    encoder: &mut Encoder,
    planned: &mut Vec<fanfare::hub::Planned>,
) -> usize {
    let gap = hub.take_gap(slot);
    debug_assert!(gap.is_none());
    hub.plan(slot, KIND, Now(0), 65_536, encoder, planned);
    let mut total = 0;
    for step in &*planned {
        total += black_box(hub.frame(step.sequence, KIND)).len();
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
        let (mut encoder, mut planned) = (Encoder::default(), Vec::new());
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
                        serve_one(&mut hub, slot, &mut encoder, &mut planned);
                    }
                    hub
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}
