//! outgoing: the new entries that the feed is about to post, in one batch per worker.
//!
//! A publication is posted only to the workers that have subscribers of its channel. The feed looks
//! these workers up under the same shard lock under which it adds the entry. So a worker that
//! registers meanwhile either receives the entry or finds it in the log.

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

    /// Adds a publication to the log, and to the batch of each worker with subscribers of its
    /// channel. Each of these workers confirms once; the caller's own confirmation must be
    /// outstanding. Returns the number of entries that the log has removed because of the
    /// publication.
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

    /// Takes the number and the batch of the next worker.
    pub fn take(&mut self) -> Option<(usize, Batch)> {
        let worker = usize::from(self.pending.pop()?);
        let batch = self.batches.get_mut(worker)?;
        Some((worker, std::mem::take(batch)))
    }
}
