//! What an operator can see of the hub.

use super::Hub;
use super::member::Member;
use crate::id::ChannelName;

impl Hub {
    /// Returns the channel with an index, and its number of subscribers on this worker. Returns
    /// `None` if no channel has the index.
    #[must_use]
    pub fn channel_at(&self, place: usize) -> Option<(&ChannelName, u32)> {
        let channel = self.channels.get(place)?;
        Some((&channel.name, channel.subscribers.len()))
    }

    /// Returns a number that is above the index of each channel.
    #[must_use]
    pub fn channels_end(&self) -> usize {
        self.channels.end()
    }

    /// Returns the number of subscriptions of the conn in a slot.
    #[must_use]
    pub fn subscription_count(&self, slot: u32) -> usize {
        let member = self.members.get(slot as usize);
        member.map_or(0, |member| Member::all(member).len())
    }
}
