//! What a peer says: its request, its commands, and what it should not say.
//!
//! Bytes only go into the outgoing queue here, in whole messages; how they are cut and when they
//! leave is decided by the link and the network. Everything that awaits an answer is noted, so that
//! the link can see whether one came. The peer calls it when it feels like talking.

use std::fmt::Write as _;

use super::windows::draw_window;
use super::{Command, Link, Service, Stage};
use crate::model::{Ask, Facts};
use crate::net::FakeNet;
use crate::wire::{client_frame, deflate};

/// A handshake that is good, but for the page that it comes from.
const FOREIGN_UPGRADE: &str = "Origin: https://elsewhere.example\r\nUpgrade: websocket\r\n\
     Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
     Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// An offer of permessage-deflate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Offer {
    Bounded,
    Free,
    /// One that the server cannot keep.
    Narrow,
}

impl Link {
    pub(super) fn ask_for(&mut self, facts: &Facts, random: &mut fastrand::Rng) {
        let request = match self.service {
            Service::Garbage => {
                self.is_spoiled = true;
                let length = random.usize(0..400);
                let head = [
                    "",
                    "GET / HTTP/1.1\r\n",
                    "GET /ws?channel=c0 HTTP/1.1\r\nHost: h\r\n",
                ];
                let mut bytes = head[random.usize(0..3)].as_bytes().to_vec();
                bytes.extend((0..length).map(|_| random.u8(..)));
                self.outgoing.extend(bytes);
                return;
            }
            Service::Plain => self.plain_requests(facts, random),
            Service::Poll { .. } => {
                let ask = self.ask;
                return self.say_poll(ask, facts, random);
            }
            Service::EventStream { is_chunked, .. } => {
                let version = if is_chunked { "1.1" } else { "1.0" };
                let (target, field) = self.target("/sse", self.ask, facts, random);
                format!("GET {target} HTTP/{version}\r\nHost: h\r\n{field}\r\n")
            }
            Service::WebSocket { .. } => {
                let (target, field) = self.target("/ws", self.ask, facts, random);
                let extensions = self.offer_deflate(random);
                format!(
                    "GET {target} HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\n\
                     Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                     Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{field}{extensions}\r\n"
                )
            }
        };
        self.outgoing.extend(request.as_bytes());
        self.outgoing.extend(self.token_frame());
    }

    pub(super) fn check_extension(&mut self, agreed: Option<&str>, has_deflate: bool) {
        let free = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
        let bounded = format!("{free}; server_max_window_bits=12");
        let expected = match self.offer.filter(|_| has_deflate) {
            Some(Offer::Bounded) => Some(bounded.as_str()),
            Some(Offer::Free) => Some(free),
            Some(Offer::Narrow) | None => None,
        };
        assert_eq!(agreed, expected, "to {:?}", self.offer);
        self.is_deflated = agreed.is_some();
    }

    fn offer_deflate(&mut self, random: &mut fastrand::Rng) -> &'static str {
        let (offer, field) = match random.u32(0..8) {
            0..3 => (
                Offer::Free,
                "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n",
            ),
            3..5 => (
                Offer::Bounded,
                "Sec-WebSocket-Extensions: x, permessage-deflate; server_max_window_bits=9\r\n\
                 Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=15\r\n",
            ),
            5 => (
                Offer::Narrow,
                "Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=9\r\n",
            ),
            _ => return "",
        };
        self.offer = Some(offer);
        field
    }

    pub(super) fn target(
        &mut self,
        path: &str,
        ask: Ask,
        facts: &Facts,
        random: &mut fastrand::Rng,
    ) -> (String, String) {
        let is_full = matches!(
            self.service,
            Service::WebSocket { is_full: true }
                | Service::EventStream { is_full: true, .. }
                | Service::Poll { is_full: true, .. }
        );
        self.ledger.is_blind = self.service == Service::WebSocket { is_full: false };
        let envelope = if is_full { "full" } else { "data" };
        let mut target = format!("{path}?envelope={envelope}");
        for channel in &self.channels {
            write!(target, "&channel={}", facts.names[*channel]).unwrap();
        }
        if self.service == (Service::WebSocket { is_full: true }) {
            self.window = draw_window(random);
        }
        if let Some(window) = self.window {
            write!(target, "&window={window}").unwrap();
        }
        // Beside a position, which wins, or alone.
        match ask {
            Ask::First => target.push_str("&since=first"),
            Ask::Last(count) => write!(target, "&last={count}").unwrap(),
            Ask::After(_) => {
                target.push_str(["", "", "&last=5", "&since=first"][random.usize(0..4)]);
            }
            Ask::Foreign | Ask::Nonsense | Ask::Now => {}
        }
        let token = self.token_field() + &self.forwarded_field(facts);
        let Some(since) = ask_text(ask, facts, random) else {
            return (target, token);
        };
        if random.bool() {
            return (target, format!("Last-Event-ID: {since}\r\n{token}"));
        }
        let name = ["since", "last_event_id", "lastEventId"][random.usize(0..3)];
        write!(target, "&{name}={since}").unwrap();
        (target, token)
    }

    /// Names the next client, where a proxy's word counts.
    fn forwarded_field(&mut self, facts: &Facts) -> String {
        if facts.config.proxy.trusted.is_empty() {
            return String::new();
        }
        self.client += 1;
        let client = (self.client + u32::from(self.key[3])) % 3;
        format!("X-Forwarded-For: 203.0.113.{client}\r\n")
    }

    fn plain_requests(&mut self, facts: &Facts, random: &mut fastrand::Rng) -> String {
        let mut text = String::new();
        self.responses_awaited = random.u32(1..5);
        for number in 1..=self.responses_awaited {
            let target = ["/none", "/", "/sse", "/ws?channel=a"][random.usize(0..4)];
            let is_last = number == self.responses_awaited;
            let field = match (target, is_last) {
                ("/ws?channel=a", false) => FOREIGN_UPGRADE,
                (_, false) => "",
                (_, true) => "Connection: close\r\n",
            };
            let client = self.forwarded_field(facts);
            write!(
                text,
                "GET {target} HTTP/1.1\r\nHost: h\r\n{client}{field}\r\n"
            )
            .unwrap();
        }
        text
    }

    /// Says something that may be said.
    pub(crate) fn speak(&mut self, net: &FakeNet, facts: &Facts, random: &mut fastrand::Rng) {
        if !self.may_speak() {
            return;
        }
        let choice = random.u32(0..100);
        if self.ledger.is_blind || self.is_loyal {
            if choice < 10 {
                self.say_ping(random);
            }
            return;
        }
        match choice {
            0..12 => self.say_subscribe(facts, random),
            12..20 => self.say_unsubscribe(facts, random),
            20..24 => self.say_command("{\"type\":\"ping\"", Command::Ping, random),
            24..30 => self.say_ping(random),
            30..32 => self.say_frame(0x8a, b"unasked"),
            32..34 => {
                let texts = ["{", "[]", "{\"type\":\"sing\"}", "{\"type\":\"subscribe\"}"];
                self.say_message(0x81, texts[random.usize(0..4)].as_bytes(), random);
                self.nameless += 1;
            }
            35..41 => {
                let channel = random.usize(0..facts.names.len());
                let name = &facts.names[channel];
                let (head, command) = match random.bool() {
                    true => (
                        format!("{{\"type\":\"publish\",\"channel\":\"{name}\",\"data\":[1,\n2]"),
                        Command::Publish { channel },
                    ),
                    false => (
                        format!("{{\"type\":\"presence\",\"channel\":\"{name}\""),
                        Command::Presence { channel },
                    ),
                };
                self.say_command(&head, command, random);
            }
            34..35 => {
                self.say_message(0x82, &[0xff, 0], random);
                self.nameless += 1;
            }
            _ => {}
        }
        net.note("speak", choice.into(), 0);
    }

    pub(super) fn may_speak(&self) -> bool {
        self.stage == Stage::WebSocket
            && !self.has_said_close
            && !self.is_spoiled
            && !self.has_fin
            && self.goodbye.is_none()
            && self.outgoing.len() < 10_000
    }

    fn say_frame(&mut self, first: u8, payload: &[u8]) {
        self.key.rotate_left(1);
        self.outgoing.extend(client_frame(first, payload, self.key));
    }

    /// A message's first byte and payload, compressed at times if that was agreed.
    fn code(&self, first: u8, message: &[u8], random: &mut fastrand::Rng) -> (u8, Vec<u8>) {
        if self.is_deflated && random.bool() {
            (first | 0x40, deflate(message))
        } else {
            (first, message.to_vec())
        }
    }

    pub(super) fn say_message(&mut self, first: u8, message: &[u8], random: &mut fastrand::Rng) {
        let (first, payload) = self.code(first, message, random);
        self.say_frame(first, &payload);
    }

    fn say_ping(&mut self, random: &mut fastrand::Rng) {
        // Every ping is another, so that its pong is known.
        self.next_reference += 1;
        let mut payload = self.next_reference.to_be_bytes().to_vec();
        payload.resize(random.usize(8..=125), b'-');
        self.say_frame(0x89, &payload);
        self.pings.push_back(payload);
    }

    /// `head` is a command without its end; it is sent whole or in fragments with a ping between.
    pub(super) fn say_command(&mut self, head: &str, command: Command, random: &mut fastrand::Rng) {
        self.next_reference += 1;
        let text = format!("{head},\"ref\":{}}}", self.next_reference);
        self.commands.insert(self.next_reference, command);
        let (first, payload) = self.code(0x81, text.as_bytes(), random);
        if random.u32(0..4) > 0 {
            return self.say_frame(first, &payload);
        }
        let (start, second) = payload.split_at(random.usize(0..=payload.len()));
        self.say_frame(first & 0x7f, start);
        if random.bool() {
            self.say_ping(random);
        }
        self.say_frame(0x80, second);
    }

    fn say_subscribe(&mut self, facts: &Facts, random: &mut fastrand::Rng) {
        let channel = random.usize(0..facts.names.len());
        let published = facts.publications.len() as u64;
        let ask = match random.u32(0..6) {
            0..2 => Ask::Now,
            2 => [Ask::Foreign, Ask::Nonsense][random.usize(0..2)],
            3 => Ask::After(random.u64(0..=published)),
            4 => Ask::draw_history(random),
            _ => Ask::After(published.saturating_sub(random.u64(0..40))),
        };
        let mut head = format!(
            "{{\"type\":\"subscribe\",\"channel\":\"{}\"",
            facts.names[channel]
        );
        match ask {
            Ask::First => head.push_str(",\"since\":\"first\",\"last\":1"),
            Ask::Last(count) => write!(head, ",\"since\":null,\"last\":{count}.0").unwrap(),
            Ask::After(_) | Ask::Foreign | Ask::Nonsense | Ask::Now => {}
        }
        if let Some(since) = ask_text(ask, facts, random) {
            write!(head, ",\"since\":\"{since}\"").unwrap();
        }
        let window = draw_window(random);
        if let Some(window) = window {
            write!(head, ",\"window\":{window}").unwrap();
        }
        let at = facts.logs[self.worker].head;
        let command = Command::Subscribe {
            channel,
            ask,
            at,
            window,
        };
        self.say_command(&head, command, random);
    }

    fn say_unsubscribe(&mut self, facts: &Facts, random: &mut fastrand::Rng) {
        let channel = random.usize(0..facts.names.len());
        let head = format!(
            "{{\"type\":\"unsubscribe\",\"channel\":\"{}\"",
            facts.names[channel]
        );
        self.say_command(&head, Command::Unsubscribe { channel }, random);
    }

    /// Breaks a rule, or goes.
    pub(crate) fn misbehave(
        &mut self,
        net: &mut FakeNet,
        facts: &Facts,
        random: &mut fastrand::Rng,
    ) {
        let choice = random.u32(0..22);
        net.note("misbehave", choice.into(), 0);
        match choice {
            0 => net.reset(&self.pipe),
            1 => {
                self.has_fin = true;
                net.finish(&self.pipe);
            }
            2 => {
                self.is_abandoned = true;
                self.pipe.borrow_mut().room = 0;
            }
            3..7 if self.stage == Stage::WebSocket && !self.has_said_close => {
                self.has_said_close = true;
                self.say_frame(0x88, &1000_u16.to_be_bytes());
            }
            7..11 if self.stage == Stage::WebSocket => {
                self.is_spoiled = true;
                // More than any limit on messages; four times, since few get that far.
                let too_big: &[u8] = &[0x82, 0xff, 0, 0, 0, 0, 0, 0x1f, 0, 0, 1, 2, 3, 4];
                let wrong: [&[u8]; 9] = [
                    too_big,
                    too_big,
                    too_big,
                    too_big,
                    &[0x81, 0x05],
                    &[0x83, 0x80],
                    &[0xc1],
                    &[0x80, 0x80, 0, 0, 0, 0],
                    &[0x81, 0xff, 0, 0, 0, 0, 0x7f, 0, 0, 0, 1, 2, 3, 4],
                ];
                self.outgoing.extend(wrong[random.usize(0..wrong.len())]);
            }
            11..14 if self.stage == Stage::WebSocket => {
                self.is_spoiled = true;
                self.say_message(0x81, &[b'{', 0xff, 0xfe], random);
            }
            // The beginning of a frame that never ends.
            14..16 if self.stage == Stage::WebSocket => {
                self.is_spoiled = true;
                let cut = client_frame(0x81, facts.names[0].as_bytes(), self.key);
                self.outgoing.extend(&cut[..cut.len() - 1]);
            }
            // What cannot be inflated, and what is too much when it is.
            16..22 if self.stage == Stage::WebSocket && self.is_deflated => {
                self.is_spoiled = true;
                let bomb = deflate(&b" ".repeat(70_000));
                let cut = deflate(b"{\"type\":\"ping\"}");
                let wrong: [&[u8]; 3] = [b"\xff\xff\xff", &cut[..cut.len() - 1], &bomb];
                self.say_frame([0xc1, 0xc2][random.usize(0..2)], wrong[random.usize(0..3)]);
            }
            _ => {}
        }
    }
}

/// How an ask is written.
pub(super) fn ask_text(ask: Ask, facts: &Facts, random: &mut fastrand::Rng) -> Option<String> {
    match ask {
        Ask::First | Ask::Last(_) | Ask::Now => None,
        Ask::After(sequence) => Some(facts.id(sequence)),
        Ask::Foreign => Some(match random.bool() {
            true => "ffffffffffff-7".to_owned(),
            false => format!("ffffffffffff-{}", u64::MAX),
        }),
        Ask::Nonsense => Some(match random.u32(0..3) {
            0 => facts.id(u64::MAX),
            1 => facts.id(facts.publications.len() as u64 + 1_000_000),
            _ => "nonsense".to_owned(),
        }),
    }
}
