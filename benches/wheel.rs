//! Measures the timers of a million conns: arming, disarming and firing.
//!
//! The bench models heartbeats: each conn has one deadline, which is armed again in every interval.
//! On a worker with a million conns and 25 s between heartbeats, forty thousand timers fire per
//! second. The links of a million slots occupy twelve megabytes, so cache misses are as frequent as
//! in production.

use criterion::{BatchSize, Criterion, Throughput};
use fanfare::time::wheel::{TICK_US, Wheel};
use fanfare::time::{Deadline, Now};

const SLOTS: u32 = 1_000_000;
/// The default heartbeat interval.
const INTERVAL_US: u64 = 25_000_000;
/// The number of slots that are armed in one measured round.
const ROUND: u32 = 10_000;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    wheel(&mut criterion);
    criterion.final_summary();
}

/// Returns slots in random order, so that memory is not read in sequence. The order is similar
/// after many connects and disconnects.
fn scattered() -> impl Iterator<Item = u32> {
    let mut random = fastrand::Rng::with_seed(7);
    std::iter::repeat_with(move || random.u32(..SLOTS))
}

/// Returns a timer wheel in which every slot is armed. The deadlines are distributed over one
/// interval that starts at `now`.
fn full(now: Now) -> Wheel {
    let mut random = fastrand::Rng::with_seed(11);
    let mut wheel = Wheel::new(now);
    wheel.arm(SLOTS - 1, Deadline(now.0 + INTERVAL_US));
    for slot in 0..SLOTS {
        wheel.arm(slot, Deadline(now.0 + random.u64(..INTERVAL_US)));
    }
    wheel
}

fn wheel(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("wheel/1000000_slots");
    group.throughput(Throughput::Elements(u64::from(ROUND)));
    let mut armed = full(Now(0));
    let mut slots = scattered();
    let mut random = fastrand::Rng::with_seed(13);
    group.bench_function("arm_again_10000", |bencher| {
        bencher.iter(|| {
            for slot in slots.by_ref().take(ROUND as usize) {
                armed.arm(slot, Deadline(random.u64(..INTERVAL_US)));
            }
        });
    });
    group.bench_function("disarm_and_arm_10000", |bencher| {
        bencher.iter(|| {
            for slot in slots.by_ref().take(ROUND as usize) {
                armed.disarm(slot);
                armed.arm(slot, Deadline(INTERVAL_US));
            }
        });
    });
    drop(armed);
    turns(&mut group);
    group.finish();
}

/// Measures the heartbeats of one tick, in which every due timer fires and is armed for the next
/// interval. Also measures a turn in which no timer is due.
fn turns(group: &mut criterion::BenchmarkGroup<'_, criterion::measurement::WallTime>) {
    let per_tick = u64::from(SLOTS) * TICK_US / INTERVAL_US;
    group.throughput(Throughput::Elements(per_tick));
    let mut wheel = full(Now(0));
    let mut now = Now(0);
    let mut fired = Vec::new();
    group.bench_function("one_tick_of_heartbeats", |bencher| {
        bencher.iter(|| {
            now = Now(now.0 + TICK_US);
            wheel.expire(now, u32::MAX, &mut fired);
            for slot in fired.drain(..) {
                wheel.arm(slot, Deadline(now.0 + INTERVAL_US));
            }
        });
    });
    group.throughput(Throughput::Elements(1));
    group.bench_function("turn_with_nothing_due", |bencher| {
        bencher.iter_batched(
            || (),
            |()| {
                let is_done = wheel.expire(now, u32::MAX, &mut fired);
                (is_done, wheel.next_deadline())
            },
            BatchSize::SmallInput,
        );
    });
}
