//! The hub's record of one conn: its subscriptions, each with a cursor.
//!
//! A subscriber owns no queue. One subscription, the common case, is stored in place; only a conn
//! on several channels has a list on the heap. The hub keeps these records in a vector, by slot.

use super::channel::ChannelIndex;
use crate::id::Sequence;

/// A conn's subscription to a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subscription {
    /// The cursor: all publications in the channel up to this number were delivered or are reported
    /// as a gap.
    pub position: Sequence,
    /// The channel.
    pub channel: ChannelIndex,
    /// The conn's index in the channel's list of subscribers.
    pub place: u32,
}

/// The subscriptions of one conn.
#[derive(Clone, Debug, Default)]
pub enum Member {
    /// The conn has several subscriptions.
    Many(Box<Subscriptions>),
    /// The conn has no subscription.
    #[default]
    None,
    /// The conn has one subscription.
    One(Subscription),
}

/// Several subscriptions of one conn.
#[derive(Clone, Debug, Default)]
pub struct Subscriptions(Vec<Subscription>);

const _: () = assert!(size_of::<Subscription>() == 16);
const _: () = assert!(size_of::<Member>() <= 24);

impl Member {
    /// Returns all subscriptions.
    #[must_use]
    pub fn all(&self) -> &[Subscription] {
        match self {
            Self::Many(many) => &many.0,
            Self::None => &[],
            Self::One(one) => std::slice::from_ref(one),
        }
    }

    /// Returns all subscriptions. The caller can move their cursors.
    pub fn all_mut(&mut self) -> &mut [Subscription] {
        match self {
            Self::Many(many) => &mut many.0,
            Self::None => &mut [],
            Self::One(one) => std::slice::from_mut(one),
        }
    }

    /// Returns the subscription to a channel.
    #[must_use]
    pub fn find(&self, channel: ChannelIndex) -> Option<&Subscription> {
        self.all()
            .iter()
            .find(|subscription| subscription.channel == channel)
    }

    /// Adds a subscription.
    pub fn add(&mut self, subscription: Subscription) {
        match self {
            Self::Many(many) => many.0.push(subscription),
            Self::None => *self = Self::One(subscription),
            Self::One(one) => {
                *self = Self::Many(Box::new(Subscriptions(vec![*one, subscription])));
            }
        }
    }

    /// Removes the subscription to a channel, and returns it.
    pub fn take(&mut self, channel: ChannelIndex) -> Option<Subscription> {
        let found = *self.find(channel)?;
        match self {
            Self::Many(many) => {
                many.0
                    .retain(|subscription| subscription.channel != channel);
                if let [one] = many.0.as_slice() {
                    *self = Self::One(*one);
                }
            }
            Self::None | Self::One(_) => *self = Self::None,
        }
        Some(found)
    }

    /// Records the conn's index in a channel's list of subscribers, after the list has changed.
    pub fn set_place(&mut self, channel: ChannelIndex, place: u32) {
        for subscription in self.all_mut() {
            if subscription.channel == channel {
                subscription.place = place;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subscription(channel: u32) -> Subscription {
        Subscription {
            position: Sequence(1),
            channel: ChannelIndex(channel),
            place: channel,
        }
    }

    #[test]
    fn member_grows_to_a_list_and_shrinks_back_to_one_in_place() {
        let mut member = Member::default();
        member.add(subscription(1));
        member.add(subscription(2));
        assert!(matches!(member, Member::Many(_)));
        assert_eq!(member.take(ChannelIndex(1)), Some(subscription(1)));
        assert!(matches!(member, Member::One(_)));
        assert_eq!(member.take(ChannelIndex(1)), None);
        assert_eq!(member.take(ChannelIndex(2)), Some(subscription(2)));
        assert!(matches!(member, Member::None));
    }
}
