//! outgoing: what the feed adds to the log and is about to post, by worker.
//!
//! A publication is posted only to the workers that have subscribers of its channel. Which ones
//! these are is read in the same hold of the shard's lock in which the log gets the entry, so a
//! worker that registers meanwhile either is sent the entry or finds it in the log.

use std::sync::Arc;

use super::inbox::{Batch, Item};
use crate::frame::{Publication, WorkerAck};
use crate::log::Writer;

/// Entries to be posted.
#[derive(Debug)]
pub struct Outgoing {
    /// One for each worker.
    batches: Vec<Batch>,
    /// The workers whose batch is not empty.
    concerned: Vec<u16>,
}

impl Outgoing {
    /// Nothing yet, for so many workers.
    #[must_use]
    pub fn new(workers: usize) -> Self {
        Self {
            batches: (0..workers).map(|_| Batch::new()).collect(),
            concerned: Vec::new(),
        }
    }

    /// Adds a publication to the log, and to what is posted to workers with subscribers of its
    /// channel. Each of them confirms once; the caller's own confirmation must be outstanding.
    /// Returns how many entries the log has removed for it.
    pub fn add(
        &mut self,
        writer: &mut Writer,
        publication: Publication,
        worker_ack: Option<&Arc<WorkerAck>>,
    ) -> u32 {
        let Self { batches, concerned } = self;
        writer.publish(Arc::new(publication), |stake, key, entry| {
            let Some(batch) = batches.get_mut(usize::from(stake.worker)) else {
                debug_assert!(false, "there is no worker {}", stake.worker);
                return;
            };
            if batch.is_empty() {
                concerned.push(stake.worker);
            }
            if let Some(worker_ack) = worker_ack {
                worker_ack.expect_another();
            }
            batch.push(Item {
                place: stake.place,
                key,
                entry,
                worker_ack: worker_ack.map(Arc::clone),
            });
        })
    }

    /// Takes the next worker's number and batch.
    pub fn take(&mut self) -> Option<(usize, Batch)> {
        let worker = usize::from(self.concerned.pop()?);
        let batch = self.batches.get_mut(worker)?;
        Some((worker, std::mem::take(batch)))
    }
}
