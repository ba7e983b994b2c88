//! Tokens in a world that asks for them: one secret, tokens that last and tokens that do not.
//!
//! Every stream and poll has one then. Those that end soon are for streams of the chaos: what ends
//! in the calm would have to be served there. In the chaos the calendar is set now and then, also
//! while a token is open: it ends by the calendar, whatever the clock says.

use std::sync::Arc;

use fanfare::auth::{Algorithm, Key, Verifier, Wish, mint};
use fanfare::config::Config;
use fanfare::hub::Hub;
use fanfare::worker::reloadable::Reloadable;

use crate::link::{Link, Service};
use crate::model::Facts;
use crate::net::{FakeNet, Machine};
use crate::wire::client_frame;

const SECRET: [u8; 32] = [7; 32];

/// A client's token and how it is shown.
#[derive(Clone, Debug)]
pub(crate) struct Ticket {
    pub(crate) token: String,
    /// In the first message, instead of the request.
    pub(crate) is_message: bool,
    pub(crate) ends_soon: bool,
    /// When it ends, in seconds of the calendar.
    ends_s: u64,
    /// The latest second of the calendar since it was drawn, as the worker may know it.
    latest_s: u64,
    /// Since when it has ended, by the clock.
    ended_us: Option<u64>,
}

/// How long a conn may be served after the end of its token: half a second until the calendar is
/// looked at, a second for its rounding, and what timers and turns take.
const LATE_US_MAX: u64 = 1_800_000;
/// By how much the calendar is set, in seconds.
const STEPS_S: [i64; 8] = [-3600, -30, -1, 1, 2, 30, 3600, 40_000];

/// Has everybody asked for a token.
pub(crate) fn ask_for(config: &mut Config) {
    config.auth.jwks = "jwks.json".into();
    config.auth.leeway_ms = 0;
    config.auth.deadline_ms = 60_000;
    // Each heartbeat arms the end of the token again, so with short ones no step could be missed.
    config.heartbeat.interval_ms *= 4;
}

/// By what the worker knows tokens.
pub(crate) fn keys(config: &Config) -> Option<Arc<Reloadable<Arc<Verifier>>>> {
    let key = Key::new(Algorithm::Hs256, &SECRET).expect("a key");
    let verifier = Verifier::new(vec![key], config.auth.terms()).expect("a key");
    let keys = Arc::new(Reloadable::new(Arc::new(verifier)));
    config.auth.is_on().then_some(keys)
}

/// By how much the calendar is set.
pub(crate) fn draw_step_s(random: &mut fastrand::Rng) -> i64 {
    STEPS_S[random.usize(0..STEPS_S.len())]
}

/// One that ends soon, or lasts longer than the world.
fn draw(may_end: bool, unix_s: u64, random: &mut fastrand::Rng) -> Ticket {
    let ends_soon = may_end && random.bool();
    let lasts_s = if ends_soon {
        [1, 2, 20, 3_000][random.usize(0..4)]
    } else {
        1_000_000
    };
    let ends_s = unix_s + lasts_s;
    Ticket {
        ends_s,
        latest_s: unix_s,
        ended_us: None,
        token: token(random.u32(0..3), ends_s),
        is_message: false,
        ends_soon,
    }
}

/// A token for everything, until then.
pub(crate) fn token(sub: u32, ends_s: u64) -> String {
    let wish = Wish {
        sub: Some(format!("u{sub}")),
        subscribe: vec!["*".into()],
        publish: vec!["*".into()],
        expires_s: ends_s,
        ..Wish::default()
    };
    mint(Algorithm::Hs256, &SECRET, &wish).expect("a token")
}

impl Link {
    /// Gets a token where one is needed.
    pub(crate) fn draw_ticket(&mut self, net: &FakeNet, facts: &Facts, random: &mut fastrand::Rng) {
        if facts.config.auth.is_on() && self.is_stream() {
            let is_poll = matches!(self.service, Service::Poll { .. });
            let unix_s = net.machine.unix_seconds();
            let mut ticket = draw(!facts.is_calm && !is_poll, unix_s, random);
            ticket.latest_s = net.machine.unix_seconds_believed();
            let is_heard = self.service == Service::WebSocket { is_full: true };
            ticket.is_message = is_heard && random.bool();
            self.ticket = Some(ticket);
        }
    }

    /// After each turn: notes what the calendar shows.
    pub(crate) fn note_calendar(&mut self, machine: &Machine) {
        if let Some(ticket) = &mut self.ticket {
            ticket.latest_s = ticket.latest_s.max(machine.unix_seconds_believed());
        }
    }

    /// After each turn of its worker: no conn is subscribed long after the end of its token. Pauses
    /// of the server do not count.
    pub(crate) fn check_token(&mut self, net: &FakeNet, hub: &Hub) {
        let (unix_s, running_us) = (net.machine.unix_seconds(), net.running_us());
        let Some(ticket) = &mut self.ticket else {
            return;
        };
        if unix_s < ticket.ends_s {
            ticket.ended_us = None;
            return;
        }
        let ended_us = *ticket.ended_us.get_or_insert(running_us);
        let late_us = running_us.saturating_sub(ended_us);
        let slot = self.pipe.borrow().slot();
        let is_served = slot.is_some_and(|slot| hub.channels_of(slot).next().is_some());
        assert!(
            !is_served || late_us <= LATE_US_MAX,
            "served for {late_us} us after its token"
        );
    }

    /// Whether its token has ended at any time, and not only by a timer.
    pub(crate) fn has_ended(&self) -> bool {
        let ticket = self.ticket.as_ref();
        ticket.is_some_and(|ticket| ticket.latest_s >= ticket.ends_s)
    }

    /// Whether its token ends before the world does.
    pub(crate) fn ends_soon(&self) -> bool {
        self.ticket.as_ref().is_some_and(|ticket| ticket.ends_soon)
    }

    /// The field with the token, if that is where it is shown.
    pub(crate) fn token_field(&self) -> String {
        let ticket = self.ticket.as_ref().filter(|ticket| !ticket.is_message);
        ticket.map_or_else(String::new, |ticket| {
            format!("Authorization: Bearer {}\r\n", ticket.token)
        })
    }

    /// The message with the token, if that is where it is shown.
    pub(crate) fn token_frame(&self) -> Vec<u8> {
        let ticket = self.ticket.as_ref().filter(|ticket| ticket.is_message);
        ticket.map_or_else(Vec::new, |ticket| {
            let auth = format!("{{\"type\":\"auth\",\"token\":\"{}\"}}", ticket.token);
            client_frame(0x81, auth.as_bytes(), [1, 2, 3, 4])
        })
    }
}
