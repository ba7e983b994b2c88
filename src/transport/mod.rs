//! How a subscriber is served: one file per way of delivery, one enum over those that stream and
//! one over those that answer.
//!
//! A transport turns what happens to a conn (bytes from the client, the outcome of a subscription,
//! a gap, a heartbeat, the end) into bytes in the conn's control queue and effects for the worker.
//! It owns the protocol's state and nothing else: publications are encoded by `frame` and sent from
//! the log without passing here, and sockets, timers and the hub are unknown. No transport knows
//! another; deleting a file deletes a way of delivery. The conn's machine is the only caller.
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
use crate::effect::{Acknowledgement, CloseReason, Context, Effect, Join, Leave};
use crate::frame::FrameKind;
use crate::frame::envelope::{push_display, push_json_string};
use crate::http::Sharing;
use crate::hub::{Acknowledged, Gap, JoinOutcome};
use crate::id::{ChannelName, Cursor};
use poll_answer::{News, Terms};

/// One subscriber's way of delivery, if it goes on.
///
/// `out` is always the conn's control queue: bytes are appended in order and nothing in it is ever
/// changed. After an end nothing is appended any more, whatever is called.
#[derive(Debug)]
pub enum Transport {
    /// Server-sent events.
    EventStream(EventStream),
    /// WebSocket.
    WebSocket(WebSocket),
}

// Hundreds of thousands of these are held; what is bigger is boxed while there is any of it.
const _: () = assert!(size_of::<Transport>() <= 16);

/// One subscriber's way of delivery, if it is one answer.
///
/// An enum of its own because nothing comes before the answer and nothing after it: no heartbeat,
/// no gap by itself, no closing handshake.
#[derive(Debug)]
pub enum Poll {
    /// When there is news or time is over.
    Long(LongPoll),
    /// At once.
    Short(ShortPoll),
}

const _: () = assert!(size_of::<Poll>() <= 8);

impl Poll {
    /// Which encoding of a publication the conn is sent.
    #[must_use]
    pub fn frame_kind(&self) -> FrameKind {
        self.terms().frame_kind()
    }

    /// Whose pages may read the answer.
    #[must_use]
    pub fn sharing(&self) -> Sharing {
        self.terms().sharing()
    }

    /// Takes that the conn is subscribed. What came of it is part of the answer.
    pub fn handle_joined(&self, join: &Join, context: &mut Context<'_>) {
        match self {
            Self::Long(_) => LongPoll::handle_joined(join, context),
            Self::Short(_) => ShortPoll::handle_joined(join, context),
        }
    }

    /// Has the poll answered with what there is, and the conn closed for this reason if it would
    /// have stayed.
    pub fn handle_end(&mut self, reason: Option<CloseReason>, context: &mut Context<'_>) {
        self.terms_mut().end_with(reason);
        context.ask(Effect::Answer {
            since: None,
            is_up_to_date: matches!(reason, None | Some(CloseReason::Done)),
        });
    }

    /// Writes the answer up to its publications, which go out behind `out`. Returns why the conn
    /// ends behind it, if it does.
    pub fn handle_answer(
        &self,
        news: &News,
        out: &mut Vec<u8>,
        context: &Context<'_>,
    ) -> Option<CloseReason> {
        match self {
            Self::Long(poll) => poll.terms().answer(news, out, context),
            Self::Short(poll) => poll.handle_answer(news, out, context),
        }
    }

    fn terms(&self) -> &Terms {
        match self {
            Self::Long(poll) => poll.terms(),
            Self::Short(poll) => poll.terms(),
        }
    }

    fn terms_mut(&mut self) -> &mut Terms {
        match self {
            Self::Long(poll) => poll.terms_mut(),
            Self::Short(poll) => poll.terms_mut(),
        }
    }
}

/// What the conn should do after a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Flow {
    /// Go on.
    Open,
    /// Our goodbye is in `out`; the peer's answer is awaited, with a deadline. Bytes that come are
    /// still to be handed in.
    Closing(CloseReason),
    /// Nothing more will come from or go to the peer beyond what is in `out`: send it, then FIN.
    Ended(CloseReason),
}

/// Why the server ends a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goodbye<'a> {
    /// The backend wants it ended.
    Disconnect(&'a CloseInfo),
    /// The peer has been silent for too long.
    Idle,
    /// The client has subscribed to nothing in time.
    NoSubscription,
    /// The peer is further behind than its quota.
    Overflow,
    /// The peer has sent FIN, and has been given everything.
    PeerDone,
    /// The server stops.
    Shutdown,
    /// The client's token has ended.
    TokenExpired,
    /// The client has shown no token in time.
    TokenMissing,
}

impl Goodbye<'_> {
    /// How the conn's end is counted.
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
    /// Which encoding of a publication the conn is sent.
    #[must_use]
    pub fn frame_kind(&self) -> FrameKind {
        match self {
            Self::EventStream(stream) => stream.frame_kind(),
            Self::WebSocket(socket) => socket.frame_kind(),
        }
    }

    /// Whether bytes of the client's wait that the budget for work did not cover.
    #[must_use]
    pub fn has_unhandled(&self) -> bool {
        match self {
            Self::EventStream(_) => false,
            Self::WebSocket(socket) => socket.has_unhandled(),
        }
    }

    /// Takes bytes from the client. Payloads are unmasked in place.
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

    /// Takes what came of subscribing; `outcomes` has one for each channel of `join`, in its order.
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

    /// Takes that the conn has been unsubscribed.
    pub fn handle_left(
        &mut self,
        leave: &Leave,
        was_subscribed: bool,
        out: &mut Vec<u8>,
        context: &mut Context<'_>,
    ) {
        match self {
            // A client of an event stream cannot ask for anything, so nothing answers.
            Self::EventStream(_) => {}
            Self::WebSocket(socket) => socket.handle_left(leave, was_subscribed, out, context),
        }
    }

    /// Takes what came of an acknowledgement.
    pub fn handle_acknowledged(
        &mut self,
        what: &Acknowledgement,
        outcome: Acknowledged,
        out: &mut Vec<u8>,
        context: &mut Context<'_>,
    ) {
        match self {
            Self::EventStream(_) => {}
            Self::WebSocket(socket) => socket.handle_acknowledged(what, outcome, out, context),
        }
    }

    /// Tells a gap found while serving, before anything later of the channel.
    pub fn handle_gap(
        &mut self,
        channel: &ChannelName,
        gap: &Gap,
        out: &mut Vec<u8>,
        context: &mut Context<'_>,
    ) {
        match self {
            Self::EventStream(stream) => stream.handle_gap(channel, gap, out, context),
            Self::WebSocket(socket) => socket.handle_gap(channel, gap, out, context),
        }
    }

    /// The client has received all known gaps. With them it has everything up to a position.
    pub fn handle_gaps_sent(&self, reached: Cursor, out: &mut Vec<u8>) {
        match self {
            Self::EventStream(stream) => stream.handle_gaps_sent(reached, out),
            // Its client has a position for each channel: where the channel's gap ends.
            Self::WebSocket(_) => {}
        }
    }

    /// Nothing was sent for a heartbeat's interval. `is_caught_up` says that the conn has been
    /// given everything up to `context.head`.
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

    /// The client's token ends in this time.
    pub fn handle_expiring(&self, left: Duration, out: &mut Vec<u8>) {
        match self {
            // Its client cannot answer: it comes back with another token when the stream ends.
            Self::EventStream(_) => {}
            Self::WebSocket(socket) => socket.handle_expiring(left, out),
        }
    }

    /// Everything in `out` has been sent: what was put off to keep it short is said now.
    pub fn handle_drained(&mut self, out: &mut Vec<u8>) {
        match self {
            Self::EventStream(_) => {}
            Self::WebSocket(socket) => socket.handle_drained(out),
        }
    }

    /// Tells the client what is for it alone. What is not for a transport's clients is passed over.
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

    /// Ends the stream from our side.
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

    /// Whether silence from the peer means that it is gone. A WebSocket answers pings; an event
    /// stream's client cannot.
    #[must_use]
    pub fn expects_pong(&self) -> bool {
        match self {
            Self::EventStream(_) => false,
            Self::WebSocket(_) => true,
        }
    }
}

/// Appends the fields by which every transport tells a gap, without braces around them.
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
    //! A context for tests of the transports.

    use super::*;
    use crate::auth::{Access, ConnAccess};
    use crate::config::Config;
    use crate::deflate::Inflater;
    use crate::effect::{Draw, Effect, WorkBudget};
    use crate::id::{ConnName, Cursor, Epoch, RunId, Sequence};
    use crate::metrics::WorkerMetrics;
    use crate::time::Now;

    /// What a [`Context`] borrows.
    #[derive(Debug, Default)]
    pub(crate) struct World {
        pub(crate) config: Config,
        pub(crate) metrics: WorkerMetrics,
        pub(crate) work: WorkBudget,
        pub(crate) inflater: Inflater,
        pub(crate) access: Access,
        pub(crate) effects: Vec<Effect>,
        pub(crate) draw: u64,
    }

    impl World {
        /// With a whole budget for work.
        pub(crate) fn context(&mut self) -> Context<'_> {
            self.work = WorkBudget::default();
            Context {
                now: Now(0),
                draw: Draw(self.draw),
                is_trusted: false,
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
                access: ConnAccess::new(&mut self.access, 5),
                frames: 0,
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
