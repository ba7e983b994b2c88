//! Checks of the memory of publications and encodings. The number of bytes that the server counts
//! must be the number that the simulation counts.

use std::collections::HashMap;
use std::sync::Arc;

use fanfare::config::Config;
use fanfare::frame::{Frames, Publication};
use fanfare::log::Log;

use crate::world::node::NodeWorker;

/// Draws `log.pinned_bytes`: the limit on memory for publications that have left the log but are
/// not sent yet. In half of the runs a few conns exceed the limit.
pub(crate) fn draw_bound(config: &mut Config, seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed ^ 0x5eed);
    config.log.pinned_bytes = [0, 0, 1, 2_000][random.usize(0..4)];
}

/// Checks, after a worker's turn, the memory of publications that have left the log but are not
/// sent yet. All of them must be in outboxes of conns. Their memory must be within the limit. The
/// limit may be exceeded while conns of another worker have such publications, because that worker
/// closes its conns only in its own turn.
pub(crate) fn check_turn(workers: &[NodeWorker], turned: usize, log: &Log, config: &Config) {
    workers[turned].worker.check_holders();
    let pinned = log.ledger().pinned();
    assert_eq!(pinned, sum(pinned_by_conns(workers)), "bytes pinned");
    let mut others = workers.iter().enumerate();
    let do_others_pin = others.any(|(number, node_worker)| {
        number != turned && node_worker.worker.pinned_by_conns().next().is_some()
    });
    let is_within = pinned <= config.log.pinned_bytes();
    assert!(is_within || do_others_pin, "{pinned} bytes pinned");
}

/// Checks the total memory of publications. Each publication must be in the log, in a worker, or in
/// the outbox of a conn. Called when the feed has nothing left to post.
pub(crate) fn check_all(workers: &[NodeWorker], log: &Log) {
    let mut all = pinned_by_conns(workers);
    for publication in log.publications() {
        let frames = publication.made_frames();
        note(&mut all, &publication, frames.as_ref());
    }
    for node_worker in workers {
        for (publication, frames) in node_worker.worker.hub().held_here() {
            note(&mut all, &publication, frames.as_ref());
            // Other workers may have made more encodings of the publication. They count, too.
            note(&mut all, &publication, publication.made_frames().as_ref());
        }
    }
    assert_eq!(log.ledger().resident(), sum(all), "bytes in memory");
}

/// The sizes of publications and encodings in bytes, by their memory address.
type Held = HashMap<usize, u64>;

fn pinned_by_conns(workers: &[NodeWorker]) -> Held {
    let workers = workers.iter();
    workers
        .flat_map(|node_worker| node_worker.worker.pinned_by_conns())
        .collect()
}

fn note(all: &mut Held, publication: &Arc<Publication>, frames: Option<&Arc<Frames>>) {
    let address = Arc::as_ptr(publication).addr();
    all.insert(address, publication.bytes_held());
    all.extend(frames.map(|frames| (Arc::as_ptr(frames).addr(), frames.bytes_held())));
}

fn sum(held: Held) -> u64 {
    held.into_values().sum()
}
