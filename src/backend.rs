//! What a backend and one client say to each other beside publications.
//!
//! Downstream, a [`Direct`] goes from the feed to the one worker that has the conn, and its
//! [`Verdict`] says what became of it. Upstream, a [`Report`] goes from a worker to the feed. Words
//! only, shared by feed, workers and machines; who carries them is
//! [`crate::worker::mail::inbox`] and [`crate::worker::mail::upstream`].

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::effect::{Audience, Reference};
use crate::frame::{Payload, Receipt};
use crate::id::{ChannelName, ConnName, Cursor};
use crate::pattern::Pattern;

/// Something for one conn alone.
#[derive(Debug)]
pub struct Direct {
    /// The conn.
    pub to: ConnName,
    /// What.
    pub saying: Saying,
    /// For whoever wants to know what became of it.
    pub verdict: Option<Arc<Verdict>>,
}

/// What a conn is told.
#[derive(Debug)]
pub enum Saying {
    /// The answer to a client's question for the number of subscribers.
    Counted {
        /// Whose.
        channel: ChannelName,
        /// How many.
        subscribers: u64,
        /// The client's mark.
        reference: Option<Reference>,
    },
    /// The backend ends the conn.
    Disconnect(Farewell),
    /// A payload from the backend.
    Message(Payload),
    /// What became of a client's publication.
    Published {
        /// What.
        outcome: Published,
        /// The client's mark.
        reference: Option<Reference>,
    },
}

/// With what a backend ends a conn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Farewell {
    /// The close code (RFC 6455, 7.4).
    pub code: u16,
    /// At most [`crate::config::limits::CLOSE_REASON_BYTES_MAX`] bytes.
    pub reason: Box<str>,
}

/// That a backend ends all conns whose token is about somebody.
#[derive(Debug)]
pub struct Revocation {
    /// Whom.
    pub sub: Box<str>,
    /// What their clients are told.
    pub farewell: Farewell,
    /// Where workers say that it is done, and to how many conns.
    pub receipt: Receipt,
}

/// What became of a client's publication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Published {
    /// It is in every log, under this id.
    Broadcast(Cursor),
    /// Too much waits already. It is gone.
    Busy,
    /// Every consumer that wants it has it, and there is one.
    Consumed,
    /// No consumer wants it. It is gone.
    NoConsumer,
    /// It was refused on the way. It is gone.
    Refused,
    /// It is in every log, but the disk may not keep it.
    Unsynced,
}

/// What became of a [`Direct`].
#[derive(Debug, Default)]
pub struct Verdict(AtomicU8);

/// What became of it, in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// It is on its way out.
    Done,
    /// So much is on its way to the client already that this does not fit.
    Full,
    /// There is no such conn, or it is no stream.
    NoConn,
}

impl Verdict {
    /// Notes it.
    pub fn decide(&self, delivery: Delivery) {
        let code = match delivery {
            Delivery::Done => 1,
            Delivery::Full => 2,
            Delivery::NoConn => 3,
        };
        self.0.store(code, Ordering::Release);
    }

    /// What became of it; `None` while that is open.
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

/// What a worker tells the feed.
#[derive(Debug, PartialEq, Eq)]
pub enum Report {
    /// A client asks how many subscribers a channel has.
    Count {
        /// Who asks.
        from: ConnName,
        /// About what.
        channel: ChannelName,
        /// The client's mark.
        reference: Option<Reference>,
    },
    /// Comings and goings that could not be kept until the feed had room.
    Lost(u64),
    /// A conn has come to a channel or left it.
    Notice(Notice),
    /// A client publishes.
    Publish(ClientPublication),
}

/// What a client publishes.
#[derive(Debug, PartialEq, Eq)]
pub struct ClientPublication {
    /// Who.
    pub from: ConnName,
    /// The subject of the token that the client had shown.
    pub sub: Option<Arc<str>>,
    /// Where to.
    pub channel: ChannelName,
    /// The JSON text as it was sent.
    pub data: Box<str>,
    /// The client's mark. Without one it hears of failures only.
    pub reference: Option<Reference>,
    /// For whom it is.
    pub audience: Audience,
}

/// That a conn has come to a channel or left it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Who.
    pub conn: ConnName,
    /// The subject of the token that the client had shown.
    pub sub: Option<Arc<str>>,
    /// Where.
    pub channel: ChannelName,
    /// Whether it has come.
    pub has_come: bool,
}

/// Channels whose subscribers all workers count, each with where to say it.
pub type Counts = Arc<[(ChannelName, Receipt)]>;

/// The channels whose comings and goings somebody wants to know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Watch(pub Vec<Pattern>);

impl Watch {
    /// Whether nobody wants to know anything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a channel is among them.
    #[must_use]
    pub fn covers(&self, channel: &ChannelName) -> bool {
        self.0.iter().any(|pattern| pattern.matches(channel))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdict_is_open_until_it_is_decided() {
        let verdict = Verdict::default();
        assert_eq!(verdict.delivery(), None);
        for delivery in [Delivery::Done, Delivery::Full, Delivery::NoConn] {
            verdict.decide(delivery);
            assert_eq!(verdict.delivery(), Some(delivery));
        }
    }
}
