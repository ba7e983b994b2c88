//! The new entries that the feed will post next, in one batch per worker.
//!
//! A publication is posted only to the workers that have subscribers of its channel. The feed looks
//! up these workers while it holds the shard lock for adding the entry. So a worker that registers
//! interest meanwhile either receives the entry or finds the entry in the log.

use std::sync::Arc;

use super::inbox::{Batch, Item};
use crate::frame::{Publication, WorkerAck};
use crate::log::Writer;

/// The entries to post, in one batch per worker.
#[derive(Debug)]
pub struct Outgoing {
    /// One batch for each worker.
    batches: Vec<Batch>,
    /// The workers whose batch is not empty.
    pending: Vec<u16>,
}

impl Outgoing {
    /// Creates empty batches for a number of workers.
    #[must_use]
    pub fn new(workers: usize) -> Self {
        Self {
            batches: (0..workers).map(|_| Batch::new()).collect(),
            pending: Vec::new(),
        }
    }

    /// Adds a publication to the log, and to the batch of each worker with subscribers of the
    /// channel. Each of these workers confirms `worker_ack` once. During the call, the caller's own
    /// confirmation must be outstanding. Returns the number of entries that the log has removed to
    /// make room for the publication.
    pub fn add(
        &mut self,
        writer: &mut Writer,
        publication: Publication,
        worker_ack: Option<&Arc<WorkerAck>>,
    ) -> u32 {
        let Self { batches, pending } = self;
        writer.publish(Arc::new(publication), |interest, key, entry| {
            let Some(batch) = batches.get_mut(usize::from(interest.worker)) else {
                debug_assert!(false, "there is no worker {}", interest.worker);
                return;
            };
            if batch.is_empty() {
                pending.push(interest.worker);
            }
            if let Some(worker_ack) = worker_ack {
                worker_ack.expect_another();
            }
            batch.push(Item {
                place: interest.place,
                key,
                entry,
                worker_ack: worker_ack.map(Arc::clone),
            });
        })
    }

    /// Removes and returns the batch of the next worker, with the worker's number.
    pub fn take(&mut self) -> Option<(usize, Batch)> {
        let worker = usize::from(self.pending.pop()?);
        let batch = self.batches.get_mut(worker)?;
        Some((worker, std::mem::take(batch)))
    }
}
