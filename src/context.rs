//! The context that the state machine of a conn receives with each call.
//!
//! The worker makes a [`Context`] for each call of a `handle_*` function. It contains the time, a
//! random number, the configuration and the permissions of the conn's token. It also contains the
//! list of [`Effect`]s to which the state machine adds its requests.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::auth::ConnAccess;
use crate::certain;
use crate::config::limits::{JOIN_WORK, RESTART_MS, WORK_AT_ONCE_MAX};
use crate::config::{Config, Drain};
use crate::deflate::Inflater;
use crate::effect::Effect;
use crate::id::{ConnName, Cursor};
use crate::metrics::WorkerMetrics;
use crate::time::Now;

/// The time that a client waits after it has lost its connection, in milliseconds. The delay is
/// random, so that the clients of a killed server do not all return at the same time. The upper
/// bound is short, because usually only a single connection is lost.
const AFTER_LOSS_MS: RangeInclusive<u64> = 1_000..=5_000;
/// The minimum time that a refused client waits, in milliseconds.
const AFTER_REFUSAL_MS: u64 = 5_000;

/// The context of one call of a conn's state machine.
#[derive(Debug)]
pub struct Context<'a> {
    /// The time of this turn.
    pub now: Now,
    /// A random number for this call. It is used for random delays, never for secrets.
    pub draw: Draw,
    /// The public name of the conn.
    pub conn: ConnName,
    /// The worker's head: the position up to which this worker has processed the log.
    pub head: Cursor,
    /// The wall-clock time as a value of the `Date` field (RFC 9110, 5.6.7).
    pub date: &'a str,
    /// Whether a trusted proxy opened the conn, and the conn accepts requests.
    pub is_trusted: bool,
    /// Whether the conn passes its requests to the access log or to the spans.
    pub is_observed: bool,
    /// How long clients wait before they reconnect; `None` unless the server drains.
    pub drain: Option<ReconnectDelay>,
    /// The server's configuration.
    pub config: &'a Config,
    /// This worker's counters.
    pub metrics: &'a WorkerMetrics,
    /// The rest of the budget for work that the conn's input may cause in this turn.
    pub work: &'a mut WorkBudget,
    /// The worker's inflater, which keeps no state between two messages.
    pub inflater: &'a mut Inflater,
    /// The conn's token and its permissions. The worker stores a change after the call.
    pub access: ConnAccess<'a>,
    /// Counts the WebSocket frames that begin in the client's current input, and the publications
    /// over HTTP that end in it. The worker sets this
    /// counter to zero before it passes input to the state machine, which increments the counter.
    /// If an effect calls the state machine again for the same input, the count continues.
    pub frames: &'a mut u32,
    /// The effects of this call, in order.
    pub effects: &'a mut Vec<Effect>,
}

impl Context<'_> {
    /// Adds an effect. If the effect is a subscription ([`Effect::Join`]), also deducts the work
    /// for each of its channels from the work budget of this turn.
    pub fn ask(&mut self, effect: Effect) {
        if let Effect::Join(join) = &effect {
            let channels = certain::to_u32(join.channels.len());
            self.work.spend(channels.saturating_mul(JOIN_WORK));
        }
        self.effects.push(effect);
    }

    /// Returns a random time that a client waits after its stream or poll has ended, in
    /// milliseconds.
    #[must_use]
    pub fn reconnect_ms(&self) -> u64 {
        let delay = self.drain;
        let delay = delay.unwrap_or_else(|| ReconnectDelay::after_loss(&self.config.drain));
        delay.draw_ms(self.draw)
    }

    /// Returns a random time that a client waits after a temporary refusal, in seconds.
    #[must_use]
    pub fn retry_after_s(&self) -> u64 {
        let delay = self.drain;
        let delay = delay.unwrap_or_else(|| ReconnectDelay::after_refusal(&self.config.drain));
        delay.draw_s(self.draw)
    }
}

/// The rest of the budget for work that the input of one conn may cause in this turn, in the units
/// of [`WORK_AT_ONCE_MAX`]. The last command may exceed the budget. The input after this command
/// waits for a later turn.
#[derive(Clone, Copy, Debug)]
pub struct WorkBudget(u32);

impl Default for WorkBudget {
    fn default() -> Self {
        Self::new(WORK_AT_ONCE_MAX)
    }
}

impl WorkBudget {
    /// Makes a budget of this many units.
    #[must_use]
    pub fn new(work: u32) -> Self {
        Self(work)
    }

    /// Subtracts units of work. The budget never becomes negative.
    pub fn spend(&mut self, work: u32) {
        self.0 = self.0.saturating_sub(work);
    }

    /// Whether the budget is used up.
    #[must_use]
    pub fn is_spent(self) -> bool {
        self.0 == 0
    }
}

/// The time that a client waits before it reconnects. The delay is random, because otherwise
/// clients that lose their connections together would return together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReconnectDelay {
    least_ms: u64,
    spread_ms: u64,
}

impl ReconnectDelay {
    /// Returns the delay for clients of a server that is shutting down. `rest` is the time until
    /// all connections are closed. The delay is longer than `rest`, so that the next server has
    /// time to start. A random part of at most `spread` distributes the clients over time.
    #[must_use]
    pub fn after_drain(rest: Duration, spread: Duration) -> Self {
        Self {
            least_ms: millis(rest) + RESTART_MS,
            spread_ms: millis(spread),
        }
    }

    /// Returns the delay for a connection that is lost while the server does not drain.
    #[must_use]
    pub fn after_loss(drain: &Drain) -> Self {
        Self::between(&AFTER_LOSS_MS, drain.retry_ms)
    }

    /// Returns the delay for a connection or request that is temporarily refused.
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

    /// Returns a random delay, in milliseconds.
    #[must_use]
    pub fn draw_ms(self, draw: Draw) -> u64 {
        self.least_ms + draw.below(self.spread_ms + 1)
    }

    /// Returns a random delay, in whole seconds for `Retry-After` (RFC 9110, 10.2.3).
    #[must_use]
    pub fn draw_s(self, draw: Draw) -> u64 {
        self.draw_ms(draw).div_ceil(1000)
    }
}

/// Converts to milliseconds, rounded up so that a delay is never too short. If the number exceeds
/// 64 bits, returns a quarter of the maximum, so that sums of delays do not overflow.
fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros().div_ceil(1000)).unwrap_or(u64::MAX / 4)
}

/// A random number that the worker provides.
#[derive(Clone, Copy, Debug)]
pub struct Draw(pub u64);

impl Draw {
    /// Returns a number below `bound`; zero if the bound is zero.
    #[must_use]
    pub fn below(self, bound: u64) -> u64 {
        let wide = u128::from(self.0) * u128::from(bound);
        certain::to_u64(wide >> 64)
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
    fn delay_after_a_drain_is_its_rest_plus_a_restart_plus_a_draw() {
        let rest = Duration::from_micros(1_500);
        let delay = ReconnectDelay::after_drain(rest, Duration::from_secs(20));
        assert_eq!(delay.draw_ms(Draw(0)), 1_002);
        assert_eq!(delay.draw_ms(Draw(u64::MAX)), 21_002);
        assert_eq!(delay.draw_s(Draw(0)), 2, "rounded up");
    }

    #[test]
    fn delays_outside_drains_are_bounded_by_the_configuration() {
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
}
