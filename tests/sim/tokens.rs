//! Tokens in a run that requires them: one secret, tokens that outlast the run, and tokens that end
//! soon.
//!
//! In such a run every stream and poll has a token. Tokens that end soon are only for streams of
//! the fault phase, because in the quiet phase every stream must be served. In the fault phase the
//! calendar is changed at random. The end of a token depends on the calendar, not on the clock.

use std::sync::Arc;

use fanfare::auth::{Key, TokenSpec, Verifier, mint};
use fanfare::config::Algorithm;
use fanfare::config::Config;
use fanfare::hub::Hub;
use fanfare::worker::reloadable::Reloadable;

use crate::link::{Link, Service};
use crate::model::Facts;
use crate::net::{FakeNet, Machine};
use crate::wire::client_frame;

const SECRET: [u8; 32] = [7; 32];

/// A client's token and how it is sent.
#[derive(Clone, Debug)]
pub(crate) struct ShownToken {
    pub(crate) token: String,
    /// Whether the token is sent in the first message instead of the request.
    pub(crate) is_message: bool,
    pub(crate) ends_soon: bool,
    /// The expiry time of the token, in seconds since the Unix epoch.
    ends_s: u64,
    /// The latest calendar second that the worker may have read since the token was chosen.
    latest_s: u64,
    /// The time at which the calendar passed the end of the token, as `FakeNet::running_us`.
    ended_us: Option<u64>,
}

/// The maximum time for which a conn may be served after the end of its token: half a second until
/// the worker reads the calendar, a second for rounding, and the rest for timers and turns.
const LATE_US_MAX: u64 = 1_800_000;
/// The steps by which the calendar may be changed, in seconds.
const STEPS_S: [i64; 8] = [-3600, -30, -1, 1, 2, 30, 3600, 40_000];

/// Configures the server to require a token from each client.
pub(crate) fn require(config: &mut Config) {
    config.auth.jwks = "jwks.json".into();
    config.auth.leeway_ms = 0;
    config.auth.deadline_ms = 60_000;
    // Each heartbeat also sets the timer for the end of the token. With short heartbeat intervals,
    // the test would not detect that a worker has missed a change of the calendar.
    config.heartbeat.interval_ms *= 4;
}

/// Returns the worker's keys, if tokens are required.
pub(crate) fn keys(config: &Config) -> Option<Arc<Reloadable<Arc<Verifier>>>> {
    let key = Key::new(Algorithm::Hs256, &SECRET).expect("a key");
    let verifier = Verifier::new(vec![key], config.auth.token_rules()).expect("a key");
    let keys = Arc::new(Reloadable::new(Arc::new(verifier)));
    config.auth.is_on().then_some(keys)
}

/// Returns a random change of the calendar, in seconds.
pub(crate) fn draw_step_s(random: &mut fastrand::Rng) -> i64 {
    STEPS_S[random.usize(0..STEPS_S.len())]
}

/// Returns a random token, which ends soon or outlasts the run.
fn draw(may_end: bool, unix_s: u64, random: &mut fastrand::Rng) -> ShownToken {
    let ends_soon = may_end && random.bool();
    let lasts_s = if ends_soon {
        [1, 2, 20, 3_000][random.usize(0..4)]
    } else {
        1_000_000
    };
    let ends_s = unix_s + lasts_s;
    ShownToken {
        ends_s,
        latest_s: unix_s,
        ended_us: None,
        token: token(random.u32(0..3), ends_s),
        is_message: false,
        ends_soon,
    }
}

/// Returns a token for all channels that ends at `ends_s`.
pub(crate) fn token(sub: u32, ends_s: u64) -> String {
    let spec = TokenSpec {
        sub: Some(format!("u{sub}")),
        subscribe: vec!["*".into()],
        publish: vec!["*".into()],
        expires_s: ends_s,
        ..TokenSpec::default()
    };
    mint(Algorithm::Hs256, &SECRET, &spec).expect("a token")
}

impl Link {
    /// Sets a random token if the configuration requires a token.
    pub(crate) fn draw_token(&mut self, net: &FakeNet, facts: &Facts, random: &mut fastrand::Rng) {
        if facts.config.auth.is_on() && self.is_stream() {
            let is_poll = matches!(self.service, Service::Poll { .. });
            let unix_s = net.machine.unix_seconds();
            let mut shown_token = draw(!facts.is_quiet && !is_poll, unix_s, random);
            shown_token.latest_s = net.machine.unix_seconds_believed();
            let has_messages = self.service == Service::WebSocket { is_full: true };
            shown_token.is_message = has_messages && random.bool();
            self.shown_token = Some(shown_token);
        }
    }

    /// Records the time of the calendar. Called after each turn.
    pub(crate) fn note_calendar(&mut self, machine: &Machine) {
        if let Some(shown_token) = &mut self.shown_token {
            shown_token.latest_s = shown_token.latest_s.max(machine.unix_seconds_believed());
        }
    }

    /// Checks that the conn is not subscribed long after the end of its token. Called after each
    /// turn of its worker. Pauses of the server do not count.
    pub(crate) fn check_token(&mut self, net: &FakeNet, hub: &Hub) {
        let (unix_s, running_us) = (net.machine.unix_seconds(), net.running_us());
        let Some(shown_token) = &mut self.shown_token else {
            return;
        };
        if unix_s < shown_token.ends_s {
            shown_token.ended_us = None;
            return;
        }
        let ended_us = *shown_token.ended_us.get_or_insert(running_us);
        let late_us = running_us.saturating_sub(ended_us);
        let slot = self.pipe.borrow().slot();
        let is_served = slot.is_some_and(|slot| hub.channels_of(slot).next().is_some());
        assert!(
            !is_served || late_us <= LATE_US_MAX,
            "served for {late_us} us after its token"
        );
    }

    /// Whether the worker may have seen a calendar time at or after the token's end.
    pub(crate) fn has_ended(&self) -> bool {
        let shown_token = self.shown_token.as_ref();
        shown_token.is_some_and(|shown_token| shown_token.latest_s >= shown_token.ends_s)
    }

    /// Whether the token may end within the run.
    pub(crate) fn ends_soon(&self) -> bool {
        self.shown_token
            .as_ref()
            .is_some_and(|shown_token| shown_token.ends_soon)
    }

    /// Returns the header field with the token, if the request carries the token.
    pub(crate) fn token_field(&self) -> String {
        let shown_token = self
            .shown_token
            .as_ref()
            .filter(|shown_token| !shown_token.is_message);
        shown_token.map_or_else(String::new, |shown_token| {
            format!("Authorization: Bearer {}\r\n", shown_token.token)
        })
    }

    /// Returns the frame with the token, if a message carries the token.
    pub(crate) fn token_frame(&self) -> Vec<u8> {
        let shown_token = self
            .shown_token
            .as_ref()
            .filter(|shown_token| shown_token.is_message);
        shown_token.map_or_else(Vec::new, |shown_token| {
            let auth = format!("{{\"type\":\"auth\",\"token\":\"{}\"}}", shown_token.token);
            client_frame(0x81, auth.as_bytes(), [1, 2, 3, 4])
        })
    }
}
