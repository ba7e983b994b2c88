//! Everything that a peer sends: its request, its commands, and violations of the protocol.
//!
//! Whole messages are added to the outgoing queue. The link and the network decide how they are
//! split and when they are sent. Each message that needs an answer is recorded, so that the link
//! can check that the answer arrives.

use std::fmt::Write as _;

use super::windows::draw_window;
use super::{Command, Link, Service, Stage};
use crate::model::{Facts, Requested};
use crate::net::FakeNet;
use crate::wire::{client_frame, deflate};

/// A valid handshake from a page of a foreign origin.
const FOREIGN_UPGRADE: &str = "Origin: https://elsewhere.example\r\nUpgrade: websocket\r\n\
     Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
     Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// An offer of permessage-deflate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Offer {
    Bounded,
    Free,
    /// An offer with a window that the server does not support.
    Narrow,
}

/// Returns a request that publishes, with a length or in chunks. It is the last of its connection.
fn publication(channel: &str, client: &str, random: &mut fastrand::Rng) -> String {
    let data = "[1,\n2]";
    let (framing, content) = match random.bool() {
        true => (
            format!("Content-Length: {}", data.len()),
            String::from(data),
        ),
        false => {
            let (start, end) = data.split_at(random.usize(1..data.len()));
            let chunks = [start, end].map(|part| format!("{:x}\r\n{part}\r\n", part.len()));
            let content = format!("{}0\r\n\r\n", chunks.concat());
            (String::from("Transfer-Encoding: chunked"), content)
        }
    };
    format!(
        "POST /publish?channel={channel} HTTP/1.1\r\nHost: h\r\n{client}Connection: close\r\n\
         {framing}\r\n\r\n{content}"
    )
}

impl Link {
    pub(super) fn send_request(&mut self, facts: &Facts, random: &mut fastrand::Rng) {
        let request = match self.service {
            Service::Garbage => {
                self.has_broken_protocol = true;
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
                let requested = self.requested;
                return self.queue_poll(requested, facts, random);
            }
            Service::EventStream { is_chunked, .. } => {
                let version = if is_chunked { "1.1" } else { "1.0" };
                let (target, field) = self.target("/sse", self.requested, facts, random);
                format!("GET {target} HTTP/{version}\r\nHost: h\r\n{field}\r\n")
            }
            Service::WebSocket { .. } => {
                let (target, field) = self.target("/ws", self.requested, facts, random);
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
        requested: Requested,
        facts: &Facts,
        random: &mut fastrand::Rng,
    ) -> (String, String) {
        let is_full = matches!(
            self.service,
            Service::WebSocket { is_full: true }
                | Service::EventStream { is_full: true, .. }
                | Service::Poll { is_full: true, .. }
        );
        self.expected.gets_no_gaps = self.service == Service::WebSocket { is_full: false };
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
        // The parameters below are sent alone or with a position. A position takes precedence over
        // them.
        match requested {
            Requested::First => target.push_str("&since=first"),
            Requested::Last(count) => write!(target, "&last={count}").unwrap(),
            Requested::After(_) => {
                target.push_str(["", "", "&last=5", "&since=first"][random.usize(0..4)]);
            }
            Requested::OtherEpoch | Requested::Invalid | Requested::Now => {}
        }
        let token = self.token_field() + &self.forwarded_field(facts);
        let Some(since) = requested_text(requested, facts, random) else {
            return (target, token);
        };
        if random.bool() {
            return (target, format!("Last-Event-ID: {since}\r\n{token}"));
        }
        let name = ["since", "last_event_id", "lastEventId"][random.usize(0..3)];
        write!(target, "&{name}={since}").unwrap();
        (target, token)
    }

    /// Returns the header field with which a trusted proxy names its next client.
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
            // A refused publication ends the connection, so it is the last request. After the fault
            // phase, clients publish nothing, so that the run can end.
            if is_last && self.is_from_fault_phase && random.u32(0..3) == 0 {
                let name = &facts.names[random.usize(0..facts.names.len())];
                text.push_str(&publication(name, &client, random));
                break;
            }
            write!(
                text,
                "GET {target} HTTP/1.1\r\nHost: h\r\n{client}{field}\r\n"
            )
            .unwrap();
        }
        text
    }

    /// Queues a random command or another message that the protocol allows.
    pub(crate) fn send_at_random(
        &mut self,
        net: &FakeNet,
        facts: &Facts,
        random: &mut fastrand::Rng,
    ) {
        if !self.may_send() {
            return;
        }
        let choice = random.u32(0..100);
        if self.expected.gets_no_gaps || self.is_tracked {
            if choice < 10 {
                self.queue_ping(random);
            }
            return;
        }
        match choice {
            0..12 => self.queue_subscribe(facts, random),
            12..20 => self.queue_unsubscribe(facts, random),
            20..24 => self.queue_command("{\"type\":\"ping\"", Command::Ping, random),
            24..30 => self.queue_ping(random),
            30..32 => self.queue_frame(0x8a, b"unasked"),
            32..34 => {
                let texts = ["{", "[]", "{\"type\":\"sing\"}", "{\"type\":\"subscribe\"}"];
                self.queue_message(0x81, texts[random.usize(0..4)].as_bytes(), random);
                self.unreferenced += 1;
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
                self.queue_command(&head, command, random);
            }
            34..35 => {
                self.queue_message(0x82, &[0xff, 0], random);
                self.unreferenced += 1;
            }
            _ => {}
        }
        net.note("speak", choice.into(), 0);
    }

    pub(super) fn may_send(&self) -> bool {
        self.stage == Stage::WebSocket
            && !self.has_sent_close
            && !self.has_broken_protocol
            && !self.has_fin
            && self.goodbye.is_none()
            && self.outgoing.len() < 10_000
    }

    fn queue_frame(&mut self, first: u8, payload: &[u8]) {
        self.key.rotate_left(1);
        self.outgoing.extend(client_frame(first, payload, self.key));
    }

    /// Returns the first byte and the payload of a message's frame. If compression was agreed, half
    /// of the messages are compressed.
    fn code(&self, first: u8, message: &[u8], random: &mut fastrand::Rng) -> (u8, Vec<u8>) {
        if self.is_deflated && random.bool() {
            (first | 0x40, deflate(message))
        } else {
            (first, message.to_vec())
        }
    }

    pub(super) fn queue_message(&mut self, first: u8, message: &[u8], random: &mut fastrand::Rng) {
        let (first, payload) = self.code(first, message, random);
        self.queue_frame(first, &payload);
    }

    fn queue_ping(&mut self, random: &mut fastrand::Rng) {
        // Every ping has a different payload, so that its pong can be identified.
        self.next_reference += 1;
        let mut payload = self.next_reference.to_be_bytes().to_vec();
        payload.resize(random.usize(8..=125), b'-');
        self.queue_frame(0x89, &payload);
        self.pings.push_back(payload);
    }

    /// Queues a command, whole or in two fragments that may have a ping between them. `head` is the
    /// command without its end.
    pub(super) fn queue_command(
        &mut self,
        head: &str,
        command: Command,
        random: &mut fastrand::Rng,
    ) {
        self.next_reference += 1;
        let text = format!("{head},\"ref\":{}}}", self.next_reference);
        self.commands.insert(self.next_reference, command);
        let (first, payload) = self.code(0x81, text.as_bytes(), random);
        if random.u32(0..4) > 0 {
            return self.queue_frame(first, &payload);
        }
        let (start, second) = payload.split_at(random.usize(0..=payload.len()));
        self.queue_frame(first & 0x7f, start);
        if random.bool() {
            self.queue_ping(random);
        }
        self.queue_frame(0x80, second);
    }

    fn queue_subscribe(&mut self, facts: &Facts, random: &mut fastrand::Rng) {
        let channel = random.usize(0..facts.names.len());
        let published = facts.publications.len() as u64;
        let requested = match random.u32(0..6) {
            0..2 => Requested::Now,
            2 => [Requested::OtherEpoch, Requested::Invalid][random.usize(0..2)],
            3 => Requested::After(random.u64(0..=published)),
            4 => Requested::draw_history(random),
            _ => Requested::After(published.saturating_sub(random.u64(0..40))),
        };
        let mut head = format!(
            "{{\"type\":\"subscribe\",\"channel\":\"{}\"",
            facts.names[channel]
        );
        match requested {
            Requested::First => head.push_str(",\"since\":\"first\",\"last\":1"),
            Requested::Last(count) => write!(head, ",\"since\":null,\"last\":{count}.0").unwrap(),
            Requested::After(_) | Requested::OtherEpoch | Requested::Invalid | Requested::Now => {}
        }
        if let Some(since) = requested_text(requested, facts, random) {
            write!(head, ",\"since\":\"{since}\"").unwrap();
        }
        let window = draw_window(random);
        if let Some(window) = window {
            write!(head, ",\"window\":{window}").unwrap();
        }
        let at = facts.logs[self.worker].head;
        let command = Command::Subscribe {
            channel,
            requested,
            at,
            window,
        };
        self.queue_command(&head, command, random);
    }

    fn queue_unsubscribe(&mut self, facts: &Facts, random: &mut fastrand::Rng) {
        let channel = random.usize(0..facts.names.len());
        let head = format!(
            "{{\"type\":\"unsubscribe\",\"channel\":\"{}\"",
            facts.names[channel]
        );
        self.queue_command(&head, Command::Unsubscribe { channel }, random);
    }

    /// Breaks a rule of the protocol, or disconnects.
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
            3..7 if self.stage == Stage::WebSocket && !self.has_sent_close => {
                self.has_sent_close = true;
                self.queue_frame(0x88, &1000_u16.to_be_bytes());
            }
            7..11 if self.stage == Stage::WebSocket => {
                self.has_broken_protocol = true;
                // This message is larger than any limit on messages. It is listed four times so
                // that it is chosen often, because few connections reach this point.
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
                self.has_broken_protocol = true;
                self.queue_message(0x81, &[b'{', 0xff, 0xfe], random);
            }
            // A frame without its last byte.
            14..16 if self.stage == Stage::WebSocket => {
                self.has_broken_protocol = true;
                let cut = client_frame(0x81, facts.names[0].as_bytes(), self.key);
                self.outgoing.extend(&cut[..cut.len() - 1]);
            }
            // Two payloads that cannot be inflated, and a payload that is too large when inflated.
            16..22 if self.stage == Stage::WebSocket && self.is_deflated => {
                self.has_broken_protocol = true;
                let bomb = deflate(&b" ".repeat(70_000));
                let cut = deflate(b"{\"type\":\"ping\"}");
                let wrong: [&[u8]; 3] = [b"\xff\xff\xff", &cut[..cut.len() - 1], &bomb];
                self.queue_frame([0xc1, 0xc2][random.usize(0..2)], wrong[random.usize(0..3)]);
            }
            _ => {}
        }
    }
}

/// Returns the text of a requested position.
pub(super) fn requested_text(
    requested: Requested,
    facts: &Facts,
    random: &mut fastrand::Rng,
) -> Option<String> {
    match requested {
        Requested::First | Requested::Last(_) | Requested::Now => None,
        Requested::After(sequence) => Some(facts.id(sequence)),
        Requested::OtherEpoch => Some(match random.bool() {
            true => "ffffffffffff-7".to_owned(),
            false => format!("ffffffffffff-{}", u64::MAX),
        }),
        Requested::Invalid => Some(match random.u32(0..3) {
            0 => facts.id(u64::MAX),
            1 => facts.id(facts.publications.len() as u64 + 1_000_000),
            _ => "nonsense".to_owned(),
        }),
    }
}
