//! Tokens in a world that asks for them: one secret, tokens that last and tokens that do not.
//!
//! Every stream and poll has one then. Those that end soon are for streams of the chaos: what ends
//! in the calm would have to be served there.

use std::sync::Arc;

use fanfare::config::Config;
use fanfare::token::{Algorithm, Key, Verifier, Wish, mint};
use fanfare::worker::keys::Keys;

use crate::link::{Link, Service};
use crate::model::Facts;
use crate::wire::client_frame;

const SECRET: [u8; 32] = [7; 32];

/// A client's token and how it is shown.
#[derive(Clone, Debug)]
pub(crate) struct Ticket {
    pub(crate) token: String,
    /// In the first message, instead of the request.
    pub(crate) is_message: bool,
    pub(crate) ends_soon: bool,
}

/// Has everybody asked for a token.
pub(crate) fn ask_for(config: &mut Config) {
    config.auth.jwks = "jwks.json".into();
    config.auth.leeway_ms = 0;
    config.auth.deadline_ms = 60_000;
}

/// By what the worker knows tokens.
pub(crate) fn keys(config: &Config) -> Option<Arc<Keys>> {
    let key = Key::new(Algorithm::Hs256, &SECRET).expect("a key");
    let verifier = Verifier::new(vec![key], config.auth.terms()).expect("a key");
    let keys = Arc::new(Keys::new(verifier));
    config.auth.is_on().then_some(keys)
}

/// A token for everything.
fn draw(may_end: bool, unix_s: u64, random: &mut fastrand::Rng) -> Ticket {
    let ends_soon = may_end && random.bool();
    let lasts_s = if ends_soon {
        random.u64(1..=2)
    } else {
        1_000_000
    };
    let wish = Wish {
        sub: Some(format!("u{}", random.u32(0..3))),
        subscribe: vec!["*".into()],
        publish: vec!["*".into()],
        expires_s: unix_s + lasts_s,
        ..Wish::default()
    };
    Ticket {
        token: mint(Algorithm::Hs256, &SECRET, &wish).expect("a token"),
        is_message: false,
        ends_soon,
    }
}

impl Link {
    /// Gets a token where one is needed.
    pub(crate) fn draw_ticket(&mut self, unix_s: u64, facts: &Facts, random: &mut fastrand::Rng) {
        if facts.config.auth.is_on() && self.is_stream() {
            let is_poll = matches!(self.service, Service::Poll { .. });
            let mut ticket = draw(!facts.is_calm && !is_poll, unix_s, random);
            let is_heard = self.service == Service::WebSocket { is_full: true };
            ticket.is_message = is_heard && random.bool();
            self.ticket = Some(ticket);
        }
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
