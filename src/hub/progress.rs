//! How far the visits to a channel's subscribers have come after one publication.
//!
//! The worker asks for the progress of sampled publications only. The answer is derived from the
//! state of the walk, so visits cost nothing more.

use super::Hub;
use super::channel::Channel;
use crate::log::ChannelKey;

/// The progress of the visits after a publication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WalkProgress {
    /// Subscribers are still to be visited.
    At(WalkPosition),
    /// Each subscriber was visited after the publication, or has left.
    Over,
}

/// A position among the subscribers of a channel. Each visit changes the position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalkPosition(u32);

impl Hub {
    /// Returns how far the visits have come after a publication of the channel at this index.
    /// `publications` is the number of the channel's publications up to and including it.
    #[must_use]
    pub fn walk_progress(&self, place: u32, key: ChannelKey, publications: u64) -> WalkProgress {
        let channel = self.channels.get(place as usize);
        let channel = channel.filter(|channel| channel.key == key);
        channel.map_or(WalkProgress::Over, |channel| channel.progress(publications))
    }
}

impl Channel {
    fn progress(&self, publications: u64) -> WalkProgress {
        match &self.walk {
            // All subscribers were visited after the publications up to the floor.
            Some(walk)
                if self.subscribers.is_walking() && walk.floor.publications < publications =>
            {
                WalkProgress::At(WalkPosition(self.subscribers.position()))
            }
            Some(_) | None => WalkProgress::Over,
        }
    }
}
