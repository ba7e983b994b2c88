//! Where a conn stands between its first byte and its last.
//!
//! What is true in one phase only is data of that phase, so that nothing has to be kept in step.
//! The conn's machine and its parts are the only users.

use crate::effect::CloseReason;
use crate::metrics::{Counter, WorkerMetrics};
use crate::transport::{Poll, Transport};

#[derive(Debug)]
pub(super) enum Phase {
    /// Waiting for a request head.
    Request {
        /// The beginning of a head, or requests that wait for a response to go out first.
        partial: Option<Box<Partial>>,
        stage: Stage,
    },
    /// A request whose answer is yet to be given.
    Poll {
        poll: Poll,
        /// Requests that wait for the answer to go out first.
        partial: Option<Box<Partial>>,
    },
    /// Serving publications; or, with a reason, waiting for the peer to answer our goodbye.
    Stream {
        transport: Transport,
        closing: Option<CloseReason>,
    },
    /// What is in the outbox goes out, then FIN; then the peer's own end is awaited, so that unread
    /// input does not turn our last bytes into a reset.
    Ending {
        reason: CloseReason,
        has_sent_fin: bool,
    },
}

/// What has come before the next request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Nothing yet, and the first thing is a header of the PROXY protocol.
    Proxied,
    /// The part of such a header that names the client, which is kept. The bytes of it that are
    /// left are dropped as they come.
    Skipping { left: u16 },
    /// Nothing, or such a header.
    Fresh,
    /// Other requests.
    Served,
}

impl Phase {
    /// Where it is counted as open. A short poll is over before anybody could see it.
    pub(super) fn gauge<'a>(&self, metrics: &'a WorkerMetrics) -> Option<&'a Counter> {
        match self {
            Self::Stream {
                transport: Transport::EventStream(_),
                ..
            } => Some(&metrics.event_stream_open),
            Self::Stream {
                transport: Transport::WebSocket(_),
                ..
            } => Some(&metrics.websocket_open),
            Self::Poll {
                poll: Poll::Long(_),
                ..
            } => Some(&metrics.long_poll_open),
            Self::Poll {
                poll: Poll::Short(_),
                ..
            }
            | Self::Request { .. }
            | Self::Ending { .. } => None,
        }
    }

    pub(super) fn is_subscribed(&self) -> bool {
        match self {
            Self::Poll { .. } | Self::Stream { .. } => true,
            Self::Request { .. } | Self::Ending { .. } => false,
        }
    }
}

/// Bytes of requests that are incomplete or have to wait.
#[derive(Debug)]
pub(super) struct Partial {
    pub(super) bytes: Vec<u8>,
    /// Whether they waited for a response to go out, so that a whole request may be among them.
    pub(super) is_unhandled: bool,
}

impl Partial {
    pub(super) fn push(kept: &mut Option<Box<Self>>, bytes: &[u8]) {
        if !bytes.is_empty() {
            let partial = kept.get_or_insert_with(|| {
                Box::new(Self {
                    bytes: Vec::new(),
                    is_unhandled: false,
                })
            });
            partial.bytes.extend_from_slice(bytes);
        }
    }
}
