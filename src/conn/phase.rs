//! The phase of a conn between its first byte and its last.
//!
//! Data that is valid in one phase only is stored in that phase, so it cannot become stale. The
//! conn's machine and its parts are the only users.

use crate::effect::CloseReason;
use crate::metrics::{Counter, WorkerMetrics};
use crate::transport::{Poll, Transport};

#[derive(Debug)]
pub(super) enum Phase {
    /// Waiting for a PROXY header.
    ProxyHeader {
        /// The bytes so far of the part that names the client.
        partial: Option<Box<Partial>>,
        /// How many bytes of extensions are still to come and be dropped; `None` until the part
        /// that names the client is complete.
        extensions_left: Option<u16>,
    },
    /// Waiting for a request head.
    Request {
        /// A partial head, or requests that wait until the outbox is empty.
        partial: Option<Box<Partial>>,
        /// No request has been answered yet.
        is_first: bool,
    },
    /// A poll whose answer is not written yet.
    Poll {
        poll: Poll,
        /// Requests that wait for the answer.
        partial: Option<Box<Partial>>,
    },
    /// Serving publications. With a reason, the close frame is written and the peer's is awaited.
    Stream {
        transport: Transport,
        closing: Option<CloseReason>,
    },
    /// The outbox is sent, then FIN. Then the peer's FIN is awaited, because closing a socket with
    /// unread input resets the connection and may destroy the last bytes.
    Ending {
        reason: CloseReason,
        has_sent_fin: bool,
    },
}

impl Phase {
    /// The gauge that counts it. A short poll has none: its answer follows in the same turn.
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
            | Self::Ending { .. } => None,
        }
    }

    pub(super) fn is_subscribed(&self) -> bool {
        match self {
            Self::Poll { .. } | Self::Stream { .. } => true,
            Self::ProxyHeader { .. } | Self::Request { .. } | Self::Ending { .. } => false,
        }
    }
}

/// Bytes of an incomplete head, or of requests that have to wait.
#[derive(Debug)]
pub(super) struct Partial {
    pub(super) bytes: Vec<u8>,
    /// The bytes had to wait for a response, so they may contain a complete request.
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
