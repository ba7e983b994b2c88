//! A hub with its own log. The log's writer and the only worker's hub are in one thread.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use super::Hub;
use crate::config::Config;
use crate::frame::Publication;
use crate::id::{Epoch, Sequence};
use crate::log::{Amount, EpochChange, Writer};
use crate::time::{Deadline, Now};

/// A hub and the writer of its log.
#[derive(Debug)]
pub struct Node {
    writer: Writer,
    hub: Hub,
}

/// The number of the node's only worker.
const WORKER: u16 = 0;

impl Node {
    /// Creates an empty log that continues after `head`, and a hub without subscribers.
    #[must_use]
    pub fn new(epoch: Epoch, head: Sequence, config: &Config) -> Self {
        let writer = Writer::new(config, head);
        let hub = Hub::new(Arc::clone(writer.log()), WORKER, epoch, head, config);
        Self { writer, hub }
    }

    /// Adds a publication to the log and delivers it to the hub, which marks the channel's
    /// subscribers as behind. Returns the number of these subscribers.
    pub fn publish(&mut self, publication: Arc<Publication>, now: Now) -> u32 {
        let Self { writer, hub } = self;
        let id = publication.id;
        writer.announce(id.sequence);
        let mut subscribers = 0;
        let mut sent = None;
        let _trimmed = writer.publish(publication, |interest, key, entry| {
            sent = Some((interest.place, key, entry));
        });
        writer.note_posted();
        if let Some((place, key, entry)) = sent {
            subscribers = hub.take(place, key, entry, now);
        }
        hub.advance_head(id, now);
        subscribers
    }

    /// Whether the hub can accept a publication now without a loss for a subscriber that keeps up.
    #[must_use]
    pub fn has_room_for(&self, publication: &Publication) -> bool {
        let channel = self.hub.named(&publication.channel);
        channel.is_none_or(|channel| self.hub.has_room(channel, Amount::of(publication)))
    }

    /// Calls [`Writer::note_lost`]. The hub's head is then at least `until`, as after a start.
    pub fn note_lost(&mut self, until: Sequence) {
        self.writer.note_lost(until);
        let head = self.hub.cursor(until);
        self.hub.advance_head(head, Now(0));
    }

    /// Calls [`Writer::change_epoch`]. The hub does not switch to the new epoch until
    /// [`Hub::follow_epoch`] is called.
    pub fn change_epoch(&mut self, change: &EpochChange) {
        self.writer.change_epoch(change);
    }

    /// Calls [`Writer::trim`].
    pub fn trim(&mut self, max: u32) -> u32 {
        self.writer.trim(max)
    }

    /// Calls [`Writer::evict`].
    pub fn evict(&mut self, now: Now, max: u32) -> u32 {
        self.writer.evict(now, max)
    }

    /// Calls [`Writer::next_eviction`].
    #[must_use]
    pub fn next_eviction(&self) -> Option<Deadline> {
        self.writer.next_eviction()
    }

    /// Returns the bytes of memory that count towards the log's bound.
    #[must_use]
    pub fn log_bytes(&self) -> u64 {
        self.writer.bytes()
    }

    /// Frees memory of conns and channels that no longer exist. All conns with subscriptions are in
    /// slots below `slots`.
    pub fn shrink_to(&mut self, slots: usize) {
        self.hub.shrink_to(slots);
        self.writer.shrink_to_fit();
    }

    /// Panics if the log or the hub is inconsistent. For tests.
    #[doc(hidden)]
    pub fn check_invariants(&self) {
        self.writer.check_invariants();
        self.hub.check_invariants();
    }
}

impl Deref for Node {
    type Target = Hub;

    fn deref(&self) -> &Hub {
        &self.hub
    }
}

impl DerefMut for Node {
    fn deref_mut(&mut self) -> &mut Hub {
        &mut self.hub
    }
}
