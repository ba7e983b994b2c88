//! The transports. Each transport has its own file. The enum [`Transport`] contains the transports
//! of streams, and the enum [`Poll`] contains the polls.
//!
//! A transport handles events of a conn: bytes from the client, the outcome of a subscription, a
//! gap, a heartbeat, the end. It answers with bytes in the conn's control queue, and with effects
//! for the worker. A transport owns only the state of its protocol. Transports do not handle
//! publications: `frame` encodes them, and they are sent from the log. Transports do not use
//! sockets, timers or the hub. No transport imports another, so a transport can be removed by
//! deleting its file. The conn's state machine is the only caller.
#![cfg_attr(not(test), deny(clippy::indexing_slicing))]
#![warn(clippy::wildcard_enum_match_arm)]

pub mod event_stream;
pub mod long_poll;
pub mod poll_answer;
pub mod short_poll;
pub mod websocket;

use std::time::Duration;

pub use event_stream::EventStream;
pub use long_poll::LongPoll;
pub use short_poll::ShortPoll;
pub use websocket::WebSocket;

use crate::backend::{BackendMessage, CloseInfo};
use crate::context::Context;
use crate::effect::{Acknowledgement, CloseReason, Effect, Join, Leave};
use crate::frame::FrameKind;
use crate::frame::envelope::{push_display, push_json_string};
use crate::http::{Sharing, Status};
use crate::hub::{Acknowledged, Gap, JoinOutcome};
use crate::id::{ChannelName, Cursor};
use poll_answer::{News, PollTerms};

/// The transport of a stream.
///
/// In all functions, `out` is the conn's control queue. Functions only append bytes to it. After
/// the end of the stream, they append nothing.
#[derive(Debug)]
pub enum Transport {
    /// The transport is a stream of server-sent events.
    EventStream(EventStream),
    /// The transport is a WebSocket.
    WebSocket(WebSocket),
}

// The size matters because each conn's slot contains a transport. Larger state is boxed and exists
// only while it is needed.
const _: () = assert!(size_of::<Transport>() <= 16);

/// The transport of a poll.
///
/// Polls have their own enum because a poll has only one answer. A poll has no heartbeats, no gap
/// events and no closing handshake.
#[derive(Debug)]
pub enum Poll {
    /// A poll that is answered when a publication or gap is pending, or after a timeout.
    Long(LongPoll),
    /// A poll that is answered immediately.
    Short(ShortPoll),
}

const _: () = assert!(size_of::<Poll>() <= 8);

impl Poll {
    /// Returns the encoding in which publications are sent.
    #[must_use]
    pub fn frame_kind(&self) -> FrameKind {
        self.terms().frame_kind()
    }

    /// Returns the origins whose pages may read the answer.
    #[must_use]
    pub fn sharing(&self) -> Sharing {
        self.terms().sharing()
    }

    /// Called when the conn has subscribed. The outcome of the subscription becomes part of the
    /// answer.
    pub fn handle_joined(&self, join: &Join, context: &mut Context<'_>) {
        match self {
            Self::Long(_) => LongPoll::handle_joined(join, context),
            Self::Short(_) => ShortPoll::handle_joined(join, context),
        }
    }

    /// Asks the worker to answer now, even if there are no publications or gaps. If `reason` is
    /// set, the conn is closed after the answer, even if the client has asked for keep-alive.
    pub fn handle_end(&mut self, reason: Option<CloseReason>, context: &mut Context<'_>) {
        self.terms_mut().end_with(reason);
        context.ask(Effect::Answer {
            since: None,
            is_up_to_date: matches!(reason, None | Some(CloseReason::Done)),
        });
    }

    /// Writes the part of the answer before its publications to `out`. Returns the answer's status,
    /// and the reason to close the conn after the answer; `None` if the conn stays open.
    pub fn handle_answer(
        &self,
        news: &News,
        out: &mut Vec<u8>,
        context: &Context<'_>,
    ) -> (Status, Option<CloseReason>) {
        match self {
            Self::Long(poll) => poll.terms().answer(news, out, context),
            Self::Short(poll) => poll.handle_answer(news, out, context),
        }
    }

    fn terms(&self) -> &PollTerms {
        match self {
            Self::Long(poll) => poll.terms(),
            Self::Short(poll) => poll.terms(),
        }
    }

    fn terms_mut(&mut self) -> &mut PollTerms {
        match self {
            Self::Long(poll) => poll.terms_mut(),
            Self::Short(poll) => poll.terms_mut(),
        }
    }
}

/// The state of a stream after a call to its transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Flow {
    /// The stream stays open.
    Open,
    /// The server has written its close frame to `out` and waits for the peer's close frame, up to
    /// a deadline. Until then, the transport still receives the peer's bytes.
    Closing(CloseReason),
    /// The stream is over. The conn sends `out`, then FIN. The transport receives no more bytes.
    Ended(CloseReason),
}

/// The reason for which the server ends a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goodbye<'a> {
    /// A backend closes the conn.
    Disconnect(&'a CloseInfo),
    /// The peer has been silent for too long.
    Idle,
    /// The client has not subscribed in time.
    NoSubscription,
    /// The client is behind by more than its quota.
    Overflow,
    /// The peer has sent FIN, and all its pending publications have been sent.
    PeerDone,
    /// The server stops.
    Shutdown,
    /// The client's token has expired.
    TokenExpired,
    /// The client has not shown a token in time.
    TokenMissing,
}

/// An event of an open stream. The event does not end the stream.
#[derive(Clone, Copy, Debug)]
pub enum StreamEvent<'a> {
    /// The outcome of an acknowledgement.
    Acknowledged(&'a Acknowledgement, Acknowledged),
    /// A gap in a channel. It must be sent before all later publications of the channel.
    Gap(&'a ChannelName, &'a Gap),
    /// All known gaps were sent. Everything up to and including this position was sent or is in a
    /// gap.
    GapsSent(Cursor),
    /// The result of unsubscribing from a channel. The flag is false if the conn was not
    /// subscribed.
    Left(&'a Leave, bool),
}

impl Goodbye<'_> {
    /// Returns the close reason under which the metrics count this end.
    #[must_use]
    pub fn close_reason(self) -> CloseReason {
        match self {
            Self::Disconnect(_) => CloseReason::Disconnected,
            Self::Idle => CloseReason::Idle,
            Self::NoSubscription => CloseReason::NoSubscription,
            Self::Overflow => CloseReason::Overflow,
            Self::PeerDone => CloseReason::Done,
            Self::Shutdown => CloseReason::Shutdown,
            Self::TokenExpired => CloseReason::TokenExpired,
            Self::TokenMissing => CloseReason::Unauthorized,
        }
    }
}

impl Transport {
    /// Returns the encoding in which publications are sent.
    #[must_use]
    pub fn frame_kind(&self) -> FrameKind {
        match self {
            Self::EventStream(stream) => stream.frame_kind(),
            Self::WebSocket(socket) => socket.frame_kind(),
        }
    }

    /// Whether the transport has bytes from the client that it has not handled yet. This happens
    /// when it has used up its budget of work.
    #[must_use]
    pub fn has_unhandled(&self) -> bool {
        match self {
            Self::EventStream(_) => false,
            Self::WebSocket(socket) => socket.has_unhandled(),
        }
    }

    /// Handles bytes from the client. Payloads are unmasked in place.
    pub fn handle_bytes(
        &mut self,
        bytes: &mut [u8],
        out: &mut Vec<u8>,
        context: &mut Context<'_>,
    ) -> Flow {
        match self {
            Self::EventStream(stream) => stream.handle_bytes(),
            Self::WebSocket(socket) => socket.handle_bytes(bytes, out, context),
        }
    }

    /// Handles the outcome of subscribing to the channels of `join`. `outcomes` has one entry for
    /// each channel, in the same order.
    pub fn handle_joined(
        &mut self,
        join: &Join,
        outcomes: &[JoinOutcome],
        out: &mut Vec<u8>,
        context: &mut Context<'_>,
    ) -> Flow {
        debug_assert_eq!(join.channels.len(), outcomes.len());
        match self {
            Self::EventStream(stream) => stream.handle_joined(join, outcomes, out, context),
            Self::WebSocket(socket) => socket.handle_joined(join, outcomes, out, context),
        }
    }

    /// Handles an event of an open stream.
    pub fn handle_event(
        &self,
        event: StreamEvent<'_>,
        out: &mut Vec<u8>,
        context: &mut Context<'_>,
    ) {
        match self {
            Self::EventStream(stream) => stream.handle_event(event, out, context),
            Self::WebSocket(socket) => socket.handle_event(event, out, context),
        }
    }

    /// Sends a heartbeat. `is_caught_up` is true if everything up to `context.head` was sent to the
    /// conn.
    pub fn handle_heartbeat(
        &mut self,
        is_caught_up: bool,
        out: &mut Vec<u8>,
        context: &mut Context<'_>,
    ) {
        match self {
            Self::EventStream(stream) => stream.handle_heartbeat(is_caught_up, out, context),
            Self::WebSocket(socket) => socket.handle_heartbeat(out, context),
        }
    }

    /// Warns the client that its token expires in `left`.
    pub fn handle_expiring(&self, left: Duration, out: &mut Vec<u8>) {
        match self {
            // The client cannot send a new token on this stream. When the stream ends, the client
            // reconnects with a new token.
            Self::EventStream(_) => {}
            Self::WebSocket(socket) => socket.handle_expiring(left, out),
        }
    }

    /// Called when the control queue has become empty. Sends a pong that had to wait because the
    /// queue was too long.
    pub fn handle_drained(&mut self, out: &mut Vec<u8>) {
        match self {
            Self::EventStream(_) => {}
            Self::WebSocket(socket) => socket.handle_drained(out),
        }
    }

    /// Sends a message of a backend. Messages that a transport cannot carry are ignored.
    pub fn handle_backend_message(
        &mut self,
        message: &BackendMessage,
        out: &mut Vec<u8>,
        context: &mut Context<'_>,
    ) -> Flow {
        if let BackendMessage::Disconnect(close_info) = message {
            return self.handle_goodbye(Goodbye::Disconnect(close_info), out, context);
        }
        match self {
            Self::EventStream(stream) => stream.handle_backend_message(message, out),
            Self::WebSocket(socket) => socket.handle_backend_message(message, out, context),
        }
    }

    /// Ends the stream for the reason `goodbye`.
    pub fn handle_goodbye(
        &mut self,
        goodbye: Goodbye<'_>,
        out: &mut Vec<u8>,
        context: &mut Context<'_>,
    ) -> Flow {
        match self {
            Self::EventStream(stream) => stream.handle_goodbye(goodbye, out, context),
            Self::WebSocket(socket) => socket.handle_goodbye(goodbye, out, context),
        }
    }

    /// Whether the client must answer pings. If such a client is silent for too long, its
    /// connection is considered lost.
    #[must_use]
    pub fn expects_pong(&self) -> bool {
        match self {
            Self::EventStream(_) => false,
            Self::WebSocket(_) => true,
        }
    }
}

/// Appends the JSON fields of a gap event, without braces. The fields are the same for all
/// transports.
fn push_gap_fields(channel: &ChannelName, gap: &Gap, out: &mut Vec<u8>) {
    out.extend_from_slice(b"\"channel\":");
    push_json_string(channel.as_str(), out);
    out.extend_from_slice(b",\"since\":");
    match gap.since {
        Some(since) => push_display(&format_args!("\"{since}\""), out),
        None => out.extend_from_slice(b"null"),
    }
    push_display(
        &format_args!(",\"until\":\"{}\",\"missed\":", gap.until),
        out,
    );
    match gap.missed {
        Some(missed) => push_display(&missed, out),
        None => out.extend_from_slice(b"null"),
    }
    push_display(&format_args!(",\"cause\":\"{}\"", gap.cause.as_str()), out);
}

#[cfg(test)]
pub(crate) mod test_context {
    //! Makes contexts for tests of the transports.

    use super::*;
    use crate::auth::{Access, ConnAccess};
    use crate::config::Config;
    use crate::context::{Draw, WorkBudget};
    use crate::deflate::Inflater;
    use crate::effect::Effect;
    use crate::id::{ConnName, Cursor, Epoch, RunId, Sequence};
    use crate::metrics::WorkerMetrics;
    use crate::time::Now;

    /// The values that a [`Context`] borrows.
    #[derive(Debug, Default)]
    pub(crate) struct World {
        pub(crate) config: Config,
        pub(crate) metrics: WorkerMetrics,
        pub(crate) work: WorkBudget,
        pub(crate) inflater: Inflater,
        pub(crate) access: Access,
        pub(crate) effects: Vec<Effect>,
        pub(crate) frames: u32,
        pub(crate) draw: u64,
        pub(crate) is_observed: bool,
    }

    impl World {
        /// Makes a context. The transport may use its whole budget of work.
        pub(crate) fn context(&mut self) -> Context<'_> {
            self.work = WorkBudget::default();
            Context {
                now: Now(0),
                draw: Draw(self.draw),
                is_trusted: false,
                is_observed: self.is_observed,
                conn: ConnName {
                    run: RunId(0xfa9),
                    worker: 3,
                    slot: 5,
                    serial: 7,
                },
                head: cursor(900),
                date: "Sun, 06 Nov 1994 08:49:37 GMT",
                drain: None,
                config: &self.config,
                metrics: &self.metrics,
                work: &mut self.work,
                inflater: &mut self.inflater,
                access: ConnAccess::new(&self.access, 5),
                frames: &mut self.frames,
                effects: &mut self.effects,
            }
        }
    }

    pub(crate) fn cursor(sequence: u64) -> Cursor {
        Cursor {
            epoch: Epoch::new(0xabc),
            sequence: Sequence(sequence),
        }
    }
}
