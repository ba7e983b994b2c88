//! Tests of the limit on channels with subscribers, while workers register and leave at the same
//! time.

use std::sync::{Arc, Barrier};
use std::thread;

use super::*;
use crate::frame::{Payload, Publication};
use crate::id::{Cursor, Epoch};
use crate::time::Now;

fn names(count: usize) -> Vec<ChannelName> {
    let name = |number| ChannelName::new(&format!("c{number}")).unwrap();
    (0..count).map(name).collect()
}

/// Returns a writer whose log keeps 20 entries across all channels.
fn writer(channels_max: u32) -> Writer {
    let mut config = Config::default();
    config.limits.channels = channels_max;
    config.log.entries = 20;
    Writer::new(&config, Sequence::ZERO)
}

fn enter(log: &Log, worker: u16, name: &ChannelName) -> Option<ChannelKey> {
    let (none, interest) = (Amount::default(), WorkerInterest { worker, place: 0 });
    let horizon = log.state().horizon(log.posted());
    let entered = log.register_interest(name, interest, horizon, none, &mut Vec::new());
    entered.map(|(channel_state, _)| channel_state.key)
}

/// Publishes one payload in each of these channels, and enforces the bounds of the log.
fn publish_to_each(writer: &mut Writer, names: &[ChannelName]) {
    for name in names {
        let sequence = writer.head().next();
        let epoch = Epoch::new(7);
        let id = Cursor { epoch, sequence };
        let (payload, ledger) = (Payload::Text("x".into()), writer.log().ledger());
        let one = Publication::new(id, name.clone(), payload, Now(0), ledger);
        writer.announce(sequence);
        let _removed = writer.publish(Arc::new(one), |_, _, _| {});
        writer.note_posted();
        writer.evict(Now(0), 4);
    }
}

#[test]
fn channel_counts_once_until_its_last_worker_leaves_it() {
    const WORKERS: u16 = 3;
    let (names, writer) = (names(100), writer(0));
    let log = writer.log();
    let mut keys = Vec::new();
    for worker in 0..WORKERS {
        keys = names
            .iter()
            .filter_map(|name| enter(log, worker, name))
            .collect();
        assert_eq!((keys.len(), log.subscribed()), (100, 100), "{worker}");
    }
    for worker in (0..WORKERS).rev() {
        keys.iter().for_each(|key| log.leave(*key, worker));
        assert_eq!(log.subscribed(), if worker > 0 { 100 } else { 0 });
    }
    assert_eq!(log.channel_count(), 0);
}

#[test]
fn only_a_channel_without_subscribers_is_refused_at_the_limit() {
    let (names, mut writer) = (names(4), writer(3));
    publish_to_each(&mut writer, &names[3..]);
    let log = writer.log();
    let keys: Vec<_> = names.iter().map(|name| enter(log, 0, name)).collect();
    let is_entered: Vec<_> = keys.iter().map(Option::is_some).collect();
    assert_eq!(is_entered, [true, true, true, false]);
    let first = enter(log, 1, &names[0]).expect("another worker has it");
    assert_eq!(log.subscribed(), 3);
    log.leave(first, 0);
    assert_eq!(enter(log, 0, &names[3]), None, "one worker still has it");
    log.leave(first, 1);
    assert!(enter(log, 0, &names[3]).is_some());
    writer.check_invariants();
}

#[test]
fn workers_that_subscribe_at_once_reach_the_limit_and_never_pass_it() {
    const WORKERS: u16 = 4;
    const MOST: u64 = 10;
    let (names, mut writer) = (names(40), writer(10));
    let log = Arc::clone(writer.log());
    let start = Barrier::new(usize::from(WORKERS) + 1);
    for round in 0..300 {
        let enter_all = |worker: u16| {
            start.wait();
            let shift = (usize::from(worker) * 10 + round) % names.len();
            let (before, after) = names.split_at(shift);
            let in_turn = after.iter().chain(before);
            let entered = in_turn.filter_map(|name| enter(&log, worker, name));
            let entered: Vec<_> = entered.collect();
            assert!(log.subscribed() <= MOST);
            entered
        };
        let entered: Vec<Vec<ChannelKey>> = thread::scope(|scope| {
            let mut threads = Vec::new();
            for worker in 0..WORKERS {
                threads.push(scope.spawn(move || enter_all(worker)));
            }
            start.wait();
            publish_to_each(&mut writer, &names);
            threads.into_iter().map(|one| one.join().unwrap()).collect()
        });
        assert_eq!(log.subscribed(), MOST, "each asked for more than there is");
        let distinct: hashbrown::HashSet<_> = entered.iter().flatten().collect();
        assert_eq!(distinct.len() as u64, MOST);
        writer.check_invariants();
        thread::scope(|scope| {
            for (worker, own) in (0..).zip(&entered) {
                let log = &log;
                scope.spawn(move || own.iter().for_each(|key| log.leave(*key, worker)));
            }
            publish_to_each(&mut writer, &names);
        });
        assert_eq!(log.subscribed(), 0);
        writer.check_invariants();
    }
}
