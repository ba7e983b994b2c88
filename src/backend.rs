//! The messages between a backend and one client, beside publications.
//!
//! Downstream, the feed posts a [`DirectMessage`] to the one worker that has the conn, and the
//! message's [`DeliveryStatus`] records the outcome. Upstream, a worker sends [`Report`]s to the
//! feed. This module holds only the types, which feed, workers and machines share;
//! [`crate::worker::mail::inbox`] and [`crate::worker::mail::upstream`] transport them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::effect::{Audience, Reference};
use crate::frame::{Payload, WorkerAck};
use crate::id::{ChannelName, ConnName, Cursor};
use crate::pattern::Pattern;

/// A message for one conn alone.
#[derive(Debug)]
pub struct DirectMessage {
    /// The conn that receives it.
    pub to: ConnName,
    /// The content.
    pub message: BackendMessage,
    /// Where the worker records the outcome, if the sender wants to know it.
    pub status: Option<Arc<DeliveryStatus>>,
}

/// A message from the feed or a backend to a conn.
#[derive(Debug)]
pub enum BackendMessage {
    /// The answer to a client's request for the number of subscribers.
    PresenceReply {
        /// The channel of the request.
        channel: ChannelName,
        /// The number of subscribers on all workers.
        subscribers: u64,
        /// The reference of the client's command.
        reference: Option<Reference>,
    },
    /// The backend closes the conn.
    Disconnect(CloseInfo),
    /// A payload from the backend.
    Payload(Payload),
    /// The outcome of a client's publication.
    PublishReply {
        /// The outcome.
        outcome: PublishOutcome,
        /// The reference of the client's command.
        reference: Option<Reference>,
    },
}

/// The close code and reason with which a backend closes a conn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CloseInfo {
    /// The close code (RFC 6455, 7.4).
    pub code: u16,
    /// At most [`crate::config::limits::CLOSE_REASON_BYTES_MAX`] bytes.
    pub reason: Box<str>,
}

/// Closes all conns whose token has a given subject.
#[derive(Debug)]
pub struct Revocation {
    /// The subject.
    pub sub: Box<str>,
    /// The close code and reason that the clients receive.
    pub close_info: CloseInfo,
    /// Each worker confirms here when it is done; the sum is the number of conns it closed.
    pub worker_ack: WorkerAck,
}

/// The outcome of a client's publication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PublishOutcome {
    /// It is in the log, under this id.
    Broadcast(Cursor),
    /// It was dropped: too many reports are waiting.
    Busy,
    /// At least one consumer wants it, and each of them has received it.
    Consumed,
    /// It was dropped: no consumer wants it.
    NoConsumer,
    /// It was refused by the feed and dropped.
    Refused,
    /// It is in the log, but the disk may not keep it.
    Unsynced,
}

/// Where a worker records the outcome of a [`DirectMessage`].
#[derive(Debug, Default)]
pub struct DeliveryStatus(AtomicU8);

/// The outcome of a [`DirectMessage`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// The message is in the conn's outbox.
    Done,
    /// The message was dropped: too many bytes already wait in the conn's outbox.
    Full,
    /// No such conn exists, or it is not a stream.
    NoConn,
}

impl DeliveryStatus {
    /// Records the outcome.
    pub fn settle(&self, delivery: Delivery) {
        let code = match delivery {
            Delivery::Done => 1,
            Delivery::Full => 2,
            Delivery::NoConn => 3,
        };
        self.0.store(code, Ordering::Release);
    }

    /// The outcome; `None` while it is not known.
    #[must_use]
    pub fn delivery(&self) -> Option<Delivery> {
        match self.0.load(Ordering::Acquire) {
            0 => None,
            1 => Some(Delivery::Done),
            2 => Some(Delivery::Full),
            _ => Some(Delivery::NoConn),
        }
    }
}

/// A message from a worker to the feed.
#[derive(Debug, PartialEq, Eq)]
pub enum Report {
    /// A client requests the number of subscribers of a channel.
    Count {
        /// The client's conn.
        from: ConnName,
        /// The channel.
        channel: ChannelName,
        /// The reference of the client's command.
        reference: Option<Reference>,
    },
    /// The number of notices that were dropped because the feed had no room.
    Lost(u64),
    /// A conn has subscribed to a channel or unsubscribed from it.
    Notice(Notice),
    /// A client publishes.
    Publish(ClientPublication),
}

/// A publication by a client.
#[derive(Debug, PartialEq, Eq)]
pub struct ClientPublication {
    /// The client's conn.
    pub from: ConnName,
    /// The subject of the client's token.
    pub sub: Option<Arc<str>>,
    /// The channel.
    pub channel: ChannelName,
    /// The JSON text as the client sent it.
    pub data: Box<str>,
    /// The reference of the client's command. Without one the client receives failures only.
    pub reference: Option<Reference>,
    /// The receivers.
    pub audience: Audience,
}

/// A conn has subscribed to a channel or unsubscribed from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// The conn.
    pub conn: ConnName,
    /// The subject of the client's token.
    pub sub: Option<Arc<str>>,
    /// The channel.
    pub channel: ChannelName,
    /// True if it has subscribed, false if it has unsubscribed.
    pub has_subscribed: bool,
}

/// Channels whose subscribers all workers count. The sum of each [`WorkerAck`] is the number.
pub type SubscriberCounts = Arc<[(ChannelName, WorkerAck)]>;

/// The channels for which consumers want notices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WatchedChannels(pub Vec<Pattern>);

impl WatchedChannels {
    /// Whether no consumer wants notices.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a consumer wants the notices of a channel.
    #[must_use]
    pub fn covers(&self, channel: &ChannelName) -> bool {
        self.0.iter().any(|pattern| pattern.matches(channel))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delivery_status_is_open_until_it_is_settled() {
        let status = DeliveryStatus::default();
        assert_eq!(status.delivery(), None);
        for delivery in [Delivery::Done, Delivery::Full, Delivery::NoConn] {
            status.settle(delivery);
            assert_eq!(status.delivery(), Some(delivery));
        }
    }
}
