//! The phases of a conn, from its first byte to its last.
//!
//! Data that is valid in one phase only is stored in that phase, so it cannot become stale. Only
//! the conn's state machine and its submodules use these types.

use super::publish_phase::Publishing;
use crate::effect::CloseReason;
use crate::metrics::{Counter, WorkerMetrics};
use crate::transport::{Poll, Transport};

#[derive(Debug)]
pub(super) enum Phase {
    /// The conn waits for a PROXY header.
    ProxyHeader {
        /// The received bytes of the PROXY header's first part, which names the client.
        partial: Option<Box<Partial>>,
        /// The number of bytes of the PROXY header's extensions that have not arrived yet. These
        /// bytes will be dropped. `None` while the first part of the PROXY header, which names the
        /// client, is incomplete.
        extensions_left: Option<u16>,
    },
    /// The conn waits for a request head.
    Request {
        /// A partial head, or requests that wait until the outbox is empty.
        partial: Option<Box<Partial>>,
        /// True until the first request has been answered.
        is_first: bool,
    },
    /// The conn serves a poll whose answer is not written yet.
    Poll {
        poll: Poll,
        /// Later requests, which wait for the answer.
        partial: Option<Box<Partial>>,
    },
    /// The conn receives a publication over HTTP, or waits for its outcome.
    Publish {
        publishing: Box<Publishing>,
        /// Content that is not read yet, or later requests.
        partial: Option<Box<Partial>>,
    },
    /// Publications are sent to the conn. If `closing` is set, the server's close frame is in the
    /// outbox or sent, and the peer's close frame is awaited.
    Stream {
        transport: Transport,
        closing: Option<CloseReason>,
    },
    /// The conn sends its outbox, then FIN, and then waits for the peer's FIN. Closing a socket
    /// with unread input would reset the connection, which may destroy the last bytes that were
    /// sent.
    Ending {
        reason: CloseReason,
        has_sent_fin: bool,
    },
}

impl Phase {
    /// Returns the gauge that counts conns in this phase. A short poll has no gauge, because a
    /// short poll is answered in the turn in which it arrives.
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
            | Self::ProxyHeader { .. }
            | Self::Request { .. }
            | Self::Publish { .. }
            | Self::Ending { .. } => None,
        }
    }

    pub(super) fn is_subscribed(&self) -> bool {
        match self {
            Self::Poll { .. } | Self::Stream { .. } => true,
            Self::ProxyHeader { .. }
            | Self::Request { .. }
            | Self::Publish { .. }
            | Self::Ending { .. } => false,
        }
    }
}

/// The bytes of an incomplete head, or of requests that wait for an earlier response.
#[derive(Debug)]
pub(super) struct Partial {
    pub(super) bytes: Vec<u8>,
    /// Whether the bytes had to wait for an earlier response. Such bytes may contain a complete
    /// request.
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
