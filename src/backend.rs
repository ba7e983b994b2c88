//! The messages between a backend and one client, except delivered publications.
//!
//! Downstream, the feed posts a [`DirectMessage`] to the one worker that has the conn, and the
//! message's [`DeliveryStatus`] records the outcome. Upstream, a worker sends [`Report`]s to the
//! feed. This module contains only the types, which are shared by the feed, the workers and the
//! state machines of conns. [`crate::worker::mail::inbox`] and [`crate::worker::mail::upstream`]
//! transport the messages.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::effect::{Audience, Reference};
use crate::frame::{Payload, WorkerAck};
use crate::id::{ChannelName, ConnName, Cursor};
use crate::pattern::Pattern;
use crate::traceparent::TraceParent;

/// A message from the feed to a single conn.
#[derive(Debug)]
pub struct DirectMessage {
    /// The conn that receives the message.
    pub to: ConnName,
    /// The content of the message.
    pub message: BackendMessage,
    /// The place where the worker records the outcome; `None` if the sender does not need the
    /// outcome.
    pub status: Option<Arc<DeliveryStatus>>,
}

/// A message from the feed or a backend to a conn.
#[derive(Debug)]
pub enum BackendMessage {
    /// The answer to a client's request for a channel's number of subscribers.
    PresenceReply {
        /// The channel of the request.
        channel: ChannelName,
        /// The number of subscribers on all workers.
        subscribers: u64,
        /// The reference (`ref`) with which the client labelled the command, if any.
        reference: Option<Reference>,
    },
    /// The backend closes the conn.
    Disconnect(CloseInfo),
    /// A payload from the backend.
    Payload(Payload),
    /// The outcome of a client's publication.
    PublishReply {
        /// The outcome of the publication.
        outcome: PublishOutcome,
        /// The reference (`ref`) with which the client labelled the command, if any.
        reference: Option<Reference>,
    },
}

/// The close code and reason with which a backend or an operator closes a conn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CloseInfo {
    /// The close code (RFC 6455, 7.4).
    pub code: u16,
    /// The close reason, at most [`crate::config::limits::CLOSE_REASON_BYTES_MAX`] bytes.
    pub reason: Box<str>,
}

impl CloseInfo {
    /// The default close code. It means "not allowed", so that clients do not reconnect.
    pub const DEFAULT_CODE: u16 = 4003;

    /// Whether a backend or an operator may use a close code. The close codes for protocol errors
    /// of the client are reserved for the server.
    #[must_use]
    pub fn allows(code: u16) -> bool {
        matches!(code, 1000 | 1001 | 1008 | 1011..=1013 | 3000..=4999)
    }
}

/// A command to close all conns whose token has a given subject.
#[derive(Debug)]
pub struct Revocation {
    /// The subject of the tokens.
    pub sub: Box<str>,
    /// The close code and reason that the clients receive.
    pub close_info: CloseInfo,
    /// The acknowledgement of each worker, given after the worker has closed its conns. The sum is
    /// the number of closed conns.
    pub worker_ack: WorkerAck,
}

/// The outcome of a client's publication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PublishOutcome {
    /// The publication is in the log with this id.
    Broadcast(Cursor),
    /// The publication was dropped because too many messages to the feed are waiting.
    Busy,
    /// At least one consumer wants the publication, and all such consumers have received it.
    Consumed,
    /// The publication was dropped because no consumer wants it.
    NoConsumer,
    /// The feed refused the publication and dropped it.
    Refused,
    /// The publication is in the log, but it may be missing from the disk after a crash.
    Unsynced,
}

/// The place where a worker records the outcome of a [`DirectMessage`].
#[derive(Debug, Default)]
pub struct DeliveryStatus(AtomicU8);

/// The outcome of a [`DirectMessage`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// The message is in the conn's outbox.
    Done,
    /// The message was dropped because too many bytes already wait in the conn's outbox.
    Full,
    /// The conn does not exist or is not an open stream.
    NoConn,
}

impl DeliveryStatus {
    /// Records the outcome of the delivery.
    pub fn settle(&self, delivery: Delivery) {
        let code = match delivery {
            Delivery::Done => 1,
            Delivery::Full => 2,
            Delivery::NoConn => 3,
        };
        self.0.store(code, Ordering::Release);
    }

    /// Returns the outcome of the delivery; `None` while the outcome is not known.
    #[must_use]
    pub fn delivery(&self) -> Option<Delivery> {
        match self.0.load(Ordering::Acquire) {
            0 => None,
            1 => Some(Delivery::Done),
            2 => Some(Delivery::Full),
            code => {
                debug_assert_eq!(code, 3);
                Some(Delivery::NoConn)
            }
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
        /// The reference (`ref`) with which the client labelled the command, if any.
        reference: Option<Reference>,
    },
    /// The number of notices that a worker dropped because too many messages to the feed were
    /// waiting.
    Lost(u64),
    /// A notice that a conn has subscribed to a channel or unsubscribed from it.
    Notice(Notice),
    /// A client has sent a publication.
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
    /// The publication's JSON text as the client sent it.
    pub data: Box<str>,
    /// The idempotency key, 1 to 256 bytes, if the client has sent one.
    pub dedupe: Option<Box<str>>,
    /// The reference (`ref`) with which the client labelled the command. Without a reference, the
    /// client is notified of failures only.
    pub reference: Option<Reference>,
    /// The receivers of the publication.
    pub audience: Audience,
    /// The trace context of the publication, if the client has sent one.
    pub traceparent: Option<Box<TraceParent>>,
}

/// A notice that a conn has subscribed to a channel or unsubscribed from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// The conn whose subscription has begun or ended.
    pub conn: ConnName,
    /// The subject of the client's token.
    pub sub: Option<Arc<str>>,
    /// The channel.
    pub channel: ChannelName,
    /// True if the conn has subscribed, false if it has unsubscribed.
    pub has_subscribed: bool,
}

/// A count of the subscribers of some channels. Each worker adds its own number of subscribers to
/// the [`WorkerAck`] of the channel. The sum is the channel's number of subscribers.
pub type SubscriberCounts = Arc<[(ChannelName, WorkerAck)]>;

/// The channels for which consumers want notices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WatchedChannels(pub Vec<Pattern>);

impl WatchedChannels {
    /// Whether the list is empty. In this case, no consumer wants notices.
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
