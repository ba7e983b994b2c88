//! The new entries of the log that the feed will send next, in one batch per worker.
//!
//! A publication is sent only to the workers that have subscribers of its channel. The feed looks
//! up these workers under the same lock under which it adds the entry to the log. So if a worker
//! gets its first subscriber of the channel meanwhile, it receives the entry or finds it in the
//! log.

use std::sync::Arc;

use super::inbox::{Batch, Item};
use crate::certain;
use crate::frame::{Publication, WorkerAck};
use crate::log::Writer;
use crate::spans::PublicationSpan;

/// The entries to post, in one batch per worker.
#[derive(Debug)]
pub struct Outgoing {
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
    /// channel. Each of these workers later confirms `worker_ack` once, and adds to `span`. After
    /// this call, the caller must confirm `worker_ack` once, too. Returns the number of entries
    /// that the log has evicted to make room.
    pub fn add(
        &mut self,
        writer: &mut Writer,
        publication: Publication,
        worker_ack: Option<&Arc<WorkerAck>>,
        span: Option<&Arc<PublicationSpan>>,
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
                span: span.map(Arc::clone),
            });
        })
    }

    /// Removes and returns the batch of the next worker, with the worker's number.
    pub fn take(&mut self) -> Option<(usize, Batch)> {
        let worker = usize::from(self.pending.pop()?);
        let batch = certain::some(self.batches.get_mut(worker), "each worker has a batch")?;
        Some((worker, std::mem::take(batch)))
    }
}
