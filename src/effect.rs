//! What a pure machine is told and what it asks for.
//!
//! A machine's inputs are `handle_*` calls with a [`Context`]; bytes for the peer go to the conn's
//! own outbox, and everything else it wants from the world goes as an [`Effect`] into a scratch
//! list that the worker owns and drains after each call. Nothing here acts: `worker/apply.rs` is
//! the only place where an effect becomes real.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::auth::Access;
use crate::config::limits::{JOIN_WORK, RESTART_MS, WINDOW_PUBLICATIONS_MAX, WORK_AT_ONCE_MAX};
use crate::config::{Config, Drain};
use crate::deflate::Inflater;
use crate::id::{ChannelName, ConnName, Cursor, Since};
use crate::metrics::WorkerMetrics;
use crate::time::{Deadline, Now};

/// When a client may return whose connection is lost, in milliseconds. Below the start, a server
/// that was killed would meet all its clients at once. The end is short, because most connections
/// are lost alone.
const AFTER_LOSS_MS: RangeInclusive<u64> = 1_000..=5_000;
/// When a client that is refused may return at the earliest, in milliseconds.
const AFTER_REFUSAL_MS: u64 = 5_000;

/// What surrounds one call into a machine.
#[derive(Debug)]
pub struct Context<'a> {
    /// The time of this turn.
    pub now: Now,
    /// Chance for this call: jitter, never secrets.
    pub draw: Draw,
    /// The conn that is called, by the name that clients and backends know.
    pub conn: ConnName,
    /// The newest publication's id in this worker's log.
    pub head: Cursor,
    /// The calendar's time as the `Date` field has it (RFC 9110, 5.6.7).
    pub date: &'a str,
    /// Whether the conn comes from a proxy whose word counts. Said only while it is asked for.
    pub is_trusted: bool,
    /// When the clients may return, while the server drains.
    pub drain: Option<ReconnectDelay>,
    /// What the operator chose.
    pub config: &'a Config,
    /// This worker's counters.
    pub metrics: &'a WorkerMetrics,
    /// What the conn's input may still cause at once.
    pub work: &'a mut WorkBudget,
    /// Takes compressed messages apart; nothing of one message or conn is left in it for the next.
    pub inflater: &'a mut Inflater,
    /// What the worker's conns may do.
    pub access: &'a mut Access,
    /// Where the machine's wishes go, in order.
    pub effects: &'a mut Vec<Effect>,
}

impl Context<'_> {
    /// Asks for something. A join is work for each of its channels.
    pub fn ask(&mut self, effect: Effect) {
        if let Effect::Join(join) = &effect {
            let channels = u32::try_from(join.channels.len()).unwrap_or(u32::MAX);
            self.work.spend(channels.saturating_mul(JOIN_WORK));
        }
        self.effects.push(effect);
    }

    /// Draws how long a client whose stream or poll ends waits before it returns, in milliseconds.
    #[must_use]
    pub fn reconnect_ms(&self) -> u64 {
        let delay = self.drain;
        let delay = delay.unwrap_or_else(|| ReconnectDelay::after_loss(&self.config.drain));
        delay.draw_ms(self.draw)
    }

    /// Draws how long a client that is refused for now waits before it returns, in seconds.
    #[must_use]
    pub fn retry_after_s(&self) -> u64 {
        let delay = self.drain;
        let delay = delay.unwrap_or_else(|| ReconnectDelay::after_refusal(&self.config.drain));
        delay.draw_s(self.draw)
    }
}

/// What is left of the work that the input of one conn may cause at once, in the units of
/// [`WORK_AT_ONCE_MAX`]. The last command may take more than is left. Input beyond it waits in the
/// machine.
#[derive(Clone, Copy, Debug)]
pub struct WorkBudget(u32);

impl Default for WorkBudget {
    fn default() -> Self {
        Self::new(WORK_AT_ONCE_MAX)
    }
}

impl WorkBudget {
    /// So much.
    #[must_use]
    pub fn new(work: u32) -> Self {
        Self(work)
    }

    /// Takes so much away.
    pub fn spend(&mut self, work: u32) {
        self.0 = self.0.saturating_sub(work);
    }

    /// Whether nothing is left.
    #[must_use]
    pub fn is_spent(self) -> bool {
        self.0 == 0
    }
}

/// How long a client waits before it returns. It is drawn, because clients that lose their
/// connections together would return together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReconnectDelay {
    least_ms: u64,
    spread_ms: u64,
}

impl ReconnectDelay {
    /// In a drain that ends after `rest`, for clients that return over `spread`: nothing listens
    /// before the next server has started.
    #[must_use]
    pub fn after_drain(rest: Duration, spread: Duration) -> Self {
        Self {
            least_ms: millis(rest) + RESTART_MS,
            spread_ms: millis(spread),
        }
    }

    /// For a connection that is lost although the server does not drain.
    #[must_use]
    pub fn after_loss(drain: &Drain) -> Self {
        Self::between(&AFTER_LOSS_MS, drain.retry_ms)
    }

    /// For a connection or request that is refused for now.
    #[must_use]
    pub fn after_refusal(drain: &Drain) -> Self {
        Self::between(&(AFTER_REFUSAL_MS..=drain.retry_ms), drain.retry_ms)
    }

    fn between(range: &RangeInclusive<u64>, retry_ms: u64) -> Self {
        let least_ms = retry_ms.min(*range.start());
        Self {
            least_ms,
            spread_ms: retry_ms.min(*range.end()) - least_ms,
        }
    }

    /// Draws the delay, in milliseconds.
    #[must_use]
    pub fn draw_ms(self, draw: Draw) -> u64 {
        self.least_ms + draw.below(self.spread_ms + 1)
    }

    /// Draws the delay, in whole seconds, as `Retry-After` has it (RFC 9110, 10.2.3).
    #[must_use]
    pub fn draw_s(self, draw: Draw) -> u64 {
        self.draw_ms(draw).div_ceil(1000)
    }
}

/// Rounded up, so that a delay is never too short.
fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros().div_ceil(1000)).unwrap_or(u64::MAX / 4)
}

/// A random number handed in from outside.
#[derive(Clone, Copy, Debug)]
pub struct Draw(pub u64);

impl Draw {
    /// A number below `bound`; zero when the bound is zero.
    #[must_use]
    pub fn below(self, bound: u64) -> u64 {
        let wide = u128::from(self.0) * u128::from(bound);
        u64::try_from(wide >> 64).unwrap_or(0)
    }
}

/// What a machine asks the worker to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Effect {
    /// Take what the client has done with, then call `handle_acknowledged` with what came of it.
    Acknowledge(Acknowledgement),
    /// Gather what the conn is owed, and call `handle_answer` with it, even if it is nothing.
    Answer {
        /// Where a client stays that is owed nothing; without it, it is taken as far as the log is.
        since: Option<Cursor>,
        /// Whether everything has to be in it that had been posted to the workers by now.
        is_up_to_date: bool,
    },
    /// Call `handle_timeout` at this time; replaces what was armed before.
    Arm(Deadline),
    /// Ask the feed how many subscribers a channel has, then call `handle_saying` with the answer.
    Count {
        /// The channel.
        channel: ChannelName,
        /// The reference that the client wants to see in the answer.
        reference: Option<Reference>,
    },
    /// Count the conn for the client of the HTTP proxy behind it, if that is known, then call
    /// `handle_entered`.
    Enter(Option<IpAddr>),
    /// The conn has another token since the effects before this one were asked for: report it by
    /// that token's subject from now on, and leave what the token does not allow.
    Confine,
    /// Free the conn now. What is still unsent is lost, so a polite end comes as
    /// [`Effect::ShutdownWrite`] first.
    Close(CloseReason),
    /// Subscribe, then call `handle_joined` with what came of it.
    Join(Join),
    /// Unsubscribe, then call `handle_left`.
    Leave(Leave),
    /// Stop serving publications for good; what is in the outbox still goes out.
    LeaveAll {
        /// Whether a stream ends. A poll that is answered has not gone.
        is_stream: bool,
    },
    /// Count the conn for whoever its PROXY header names, if it does, then call `handle_proxied`.
    Proxied(Option<IpAddr>),
    /// Hand what the client publishes to the feed, then call `handle_saying` with what came of it.
    Publish {
        /// Where to.
        channel: ChannelName,
        /// The JSON text.
        data: Box<str>,
        /// The reference that the client wants to see in the answer.
        reference: Option<Reference>,
        /// For whom it is.
        audience: Audience,
    },
    /// Send FIN. Only asked for when the outbox is empty.
    ShutdownWrite,
}

/// For whom a client's publication is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// The channel's subscribers.
    Subscribers,
    /// Consumers on the feed.
    Consumers,
}

/// A wish to subscribe to channels.
#[derive(Debug, PartialEq, Eq)]
pub struct Join {
    /// The channels, without repetition.
    pub channels: Vec<ChannelName>,
    /// From where.
    pub since: Since,
    /// How much of each may be given before it is acknowledged; without one it does not matter.
    pub window: Option<Window>,
    /// What asked for it.
    pub origin: Origin,
}

/// How many publications of a channel a client may be given beyond the last it has acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window(u32);

impl Window {
    /// Takes 1 to [`WINDOW_PUBLICATIONS_MAX`].
    #[must_use]
    pub fn new(publications: u32) -> Option<Self> {
        (1..=WINDOW_PUBLICATIONS_MAX)
            .contains(&publications)
            .then_some(Self(publications))
    }

    /// The number.
    #[must_use]
    pub fn publications(self) -> u32 {
        self.0
    }
}

/// What a client has done with.
#[derive(Debug, PartialEq, Eq)]
pub struct Acknowledgement {
    /// The channel; without one, the only one that the conn has.
    pub channel: Option<ChannelName>,
    /// Everything up to here.
    pub id: Cursor,
    /// The reference that the client wants to see in the answer.
    pub reference: Option<Reference>,
}

/// What a [`Join`] answers to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A command on a WebSocket, with the reference that the client wants to see in the answer.
    Command(Option<Reference>),
    /// The request that opened the stream.
    Request,
}

/// A wish to unsubscribe from one channel.
#[derive(Debug, PartialEq, Eq)]
pub struct Leave {
    /// The channel.
    pub channel: ChannelName,
    /// The reference that the client wants to see in the answer.
    pub reference: Option<Reference>,
}

/// A client's own mark on a command, a JSON number or string, given back verbatim in the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference(Box<str>);

impl Reference {
    /// The longest reference, in bytes of JSON.
    pub const BYTES_MAX: usize = 64;

    /// Takes a JSON number or string of at most [`Reference::BYTES_MAX`] bytes.
    #[must_use]
    pub fn from_json(json: &str) -> Option<Self> {
        let is_scalar = json.starts_with(|c: char| c == '"' || c == '-' || c.is_ascii_digit());
        (is_scalar && json.len() <= Self::BYTES_MAX).then(|| Self(Box::from(json)))
    }

    /// The reference as JSON.
    #[must_use]
    pub fn as_json(&self) -> &str {
        &self.0
    }
}

/// Why a conn ended, sorted by whose doing it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CloseReason {
    // The peer, in order.
    /// The client ended it as its protocol says.
    Done,
    /// The client went away in mid-stream: end of file or reset.
    PeerGone,
    // The peer, out of order.
    /// No PROXY header where one is expected, or not in time, or from somebody who is not trusted.
    BadProxyHeader,
    /// The request was refused and the conn cannot go on.
    BadRequest,
    /// No complete request head in time.
    HeadTimeout,
    /// Neither pong nor write progress for two heartbeats.
    Idle,
    /// A compressed message that cannot be inflated (1007).
    InvalidDeflate,
    /// Text that is not UTF-8 (1007).
    InvalidText,
    /// A message over the limit (1009).
    MessageTooBig,
    /// A WebSocket that has subscribed to nothing in time (1008).
    NoSubscription,
    /// A channel that the token does not allow (4003).
    NotAllowed,
    /// The WebSocket protocol was broken (1002).
    ProtocolError,
    /// TLS was broken, or the client may not come in.
    TlsError,
    /// The token has ended, and no other one has come (4002).
    TokenExpired,
    /// No token in time, or one that is no good (4001).
    Unauthorized,
    /// Further behind than its quota, and the policy is to close (4100), or too many control bytes
    /// unread, or the oldest of too many publications that have left the log is held for it.
    Overflow,
    // We.
    /// The oldest of too many conns that have yet to complete a request head.
    CrowdedOut,
    /// No room for another conn.
    Refused,
    /// The backend ended it, with a code of its own.
    Disconnected,
    /// The server stops (1012).
    Shutdown,
}

impl CloseReason {
    /// Every reason, in the order of the metrics.
    pub const ALL: [Self; 20] = [
        Self::Done,
        Self::PeerGone,
        Self::BadProxyHeader,
        Self::BadRequest,
        Self::HeadTimeout,
        Self::Idle,
        Self::InvalidDeflate,
        Self::InvalidText,
        Self::MessageTooBig,
        Self::NoSubscription,
        Self::NotAllowed,
        Self::ProtocolError,
        Self::TlsError,
        Self::TokenExpired,
        Self::Unauthorized,
        Self::Overflow,
        Self::CrowdedOut,
        Self::Refused,
        Self::Disconnected,
        Self::Shutdown,
    ];

    /// The reason's name in metrics and logs.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::PeerGone => "peer_gone",
            Self::BadProxyHeader => "bad_proxy_header",
            Self::BadRequest => "bad_request",
            Self::HeadTimeout => "head_timeout",
            Self::Idle => "idle",
            Self::InvalidDeflate => "invalid_deflate",
            Self::InvalidText => "invalid_text",
            Self::MessageTooBig => "message_too_big",
            Self::NoSubscription => "no_subscription",
            Self::NotAllowed => "not_allowed",
            Self::ProtocolError => "protocol_error",
            Self::TlsError => "tls_error",
            Self::TokenExpired => "token_expired",
            Self::Unauthorized => "unauthorized",
            Self::Overflow => "overflow",
            Self::CrowdedOut => "crowded_out",
            Self::Refused => "refused",
            Self::Disconnected => "disconnected",
            Self::Shutdown => "shutdown",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draw_stays_below_its_bound_at_both_ends() {
        assert_eq!(Draw(u64::MAX).below(10), 9);
        assert_eq!(Draw(0).below(10), 0);
        assert_eq!(Draw(u64::MAX).below(0), 0);
    }

    #[test]
    fn delay_after_a_drain_is_the_rest_of_it_and_a_restart_and_a_draw() {
        let rest = Duration::from_micros(1_500);
        let delay = ReconnectDelay::after_drain(rest, Duration::from_secs(20));
        assert_eq!(delay.draw_ms(Draw(0)), 1_002);
        assert_eq!(delay.draw_ms(Draw(u64::MAX)), 21_002);
        assert_eq!(delay.draw_s(Draw(0)), 2, "rounded up");
    }

    #[test]
    fn delays_outside_drains_end_at_the_configured_one() {
        for (retry_ms, lost, refused) in [
            (30_000, (1_000, 5_000), (5_000, 30_000)),
            (3_000, (1_000, 3_000), (3_000, 3_000)),
            (0, (0, 0), (0, 0)),
        ] {
            let drain = Drain {
                retry_ms,
                ..Drain::default()
            };
            let ends =
                |delay: ReconnectDelay| (delay.draw_ms(Draw(0)), delay.draw_ms(Draw(u64::MAX)));
            assert_eq!(ends(ReconnectDelay::after_loss(&drain)), lost);
            assert_eq!(ends(ReconnectDelay::after_refusal(&drain)), refused);
        }
    }

    #[test]
    fn window_takes_one_to_its_limit() {
        let numbers = [0, 1, WINDOW_PUBLICATIONS_MAX, WINDOW_PUBLICATIONS_MAX + 1];
        let taken = numbers.map(|number| Window::new(number).is_some());
        assert_eq!(taken, [false, true, true, false]);
    }

    #[test]
    fn reference_takes_short_scalars_only() {
        assert!(Reference::from_json("17").is_some());
        assert!(Reference::from_json("\"a\"").is_some());
        assert!(Reference::from_json("{}").is_none());
        assert!(Reference::from_json(&"1".repeat(65)).is_none());
    }
}
