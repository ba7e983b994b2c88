//! One connection from the peer's side: what it asked for, what came, what that means.
//!
//! Sends bytes, reads bytes, takes them apart and holds every message against the [`Ledger`] and
//! the publications' exact wire bytes. What it says is in `speech`. A panic is a finding; the peer
//! is its only user.

mod end;
mod event_stream;
mod history;
mod poll;
mod requests;
mod windows;

use std::collections::{BTreeMap, VecDeque};

use fanfare::config::{ClientPublish, Overflow};
use fanfare::frame::{Envelope, FrameKind};
use fanfare::hub::Hub;

use crate::model::{Ask, Delay, Facts, Ledger, Seen, Told, check_start};
use crate::net::{FakeNet, PipeRef};
use crate::tokens::Ticket;
use crate::wire::{client_frame, inflate, server_frame, take_frame, take_head};

/// What is asked of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Service {
    EventStream {
        is_chunked: bool,
        is_full: bool,
    },
    Garbage,
    Plain,
    Poll {
        is_full: bool,
        is_long: bool,
        /// It has no request close the connection.
        stays: bool,
    },
    WebSocket {
        is_full: bool,
    },
}

/// How far the response is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    AwaitHead,
    EventStream {
        has_gap: bool,
    },
    /// In the content of a poll's answer.
    Answer,
    /// Refused, closed, or nothing that has a meaning.
    Over,
    WebSocket,
}

/// A command whose answer is awaited.
#[derive(Clone, Copy, Debug)]
enum Command {
    Ping,
    Presence {
        channel: usize,
    },
    Publish {
        channel: usize,
    },
    /// One that is right, or one that is not.
    Acknowledge {
        channel: Option<usize>,
        is_right: bool,
    },
    Subscribe {
        channel: usize,
        ask: Ask,
        at: u64,
        window: Option<u32>,
    },
    Unsubscribe {
        channel: usize,
    },
}

/// How the server said that it ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Goodbye {
    Close { code: u16, reason: String },
    LastChunk,
}

/// With which the simulated backend ends conns.
pub(crate) const DISCONNECT_CODE: u16 = 4242;

#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) pipe: PipeRef,
    /// The worker that it is connected to.
    pub(crate) worker: usize,
    pub(crate) service: Service,
    pub(crate) stage: Stage,
    pub(crate) ledger: Ledger,
    pub(crate) last_id: Option<u64>,
    /// What the peer learnt since somebody looked.
    seen: Vec<Seen>,
    /// A publication has come.
    was_given: bool,
    /// It keeps to the channels of its request.
    pub(crate) is_loyal: bool,
    /// The peer broke a rule.
    pub(crate) is_spoiled: bool,
    /// The peer has gone without a word.
    pub(crate) is_abandoned: bool,
    /// It was opened in the chaos, and may still be cut off for what happened there.
    pub(crate) is_from_chaos: bool,
    pub(crate) has_said_close: bool,
    pub(crate) has_fin: bool,
    /// It sends FIN right after its request, and reads on.
    pub(crate) is_half_closing: bool,
    pub(crate) goodbye: Option<Goodbye>,
    /// Its worker had not reached its position.
    was_ahead: bool,
    /// It is served, and the server is about to stop.
    pub(crate) must_hear_goodbye: bool,
    /// How often an event stream was told when to come back: at its beginning and at its end.
    retries: u32,
    channels: Vec<usize>,
    ask: Ask,
    asked_at: u64,
    /// Of each channel of the request.
    window: Option<u32>,
    outgoing: VecDeque<u8>,
    incoming: Vec<u8>,
    /// Of an event stream, without its chunks.
    body: Vec<u8>,
    /// What the server is owed for pings and its close.
    answers: Vec<u8>,
    /// The event stream's gaps are told, and then its position.
    is_opened: bool,
    /// Gaps of channels whose subscription is not confirmed yet, which comes after all of them.
    early_gaps: Vec<Told>,
    /// Channels of the request that are not confirmed yet.
    unconfirmed: VecDeque<usize>,
    commands: BTreeMap<u64, Command>,
    next_reference: u64,
    /// Commands that cannot be answered by name.
    nameless: u32,
    /// The last that a backend said to it alone.
    last_direct: u64,
    pings: VecDeque<Vec<u8>>,
    responses_awaited: u32,
    /// The last of the clients that it speaks for, where it is a proxy.
    client: u32,
    has_response: bool,
    polls: poll::Polls,
    /// permessage-deflate was offered, and how: with a bound on the server's window or without.
    offer: Option<requests::Offer>,
    /// It was agreed to.
    is_deflated: bool,
    /// What it shows where tokens are asked for.
    pub(crate) ticket: Option<Ticket>,
    key: [u8; 4],
}

impl Link {
    pub(crate) fn open(
        service: Service,
        ask: Ask,
        loyalty: Option<&[usize]>,
        room: usize,
        net: &mut FakeNet,
        facts: &Facts,
        random: &mut fastrand::Rng,
    ) -> Self {
        let pipe = net.connect(room);
        let mut channels = loyalty.map_or_else(|| facts.draw_channels(random), <[usize]>::to_vec);
        random.shuffle(&mut channels);
        let worker = net.worker;
        let mut link = Self {
            pipe,
            worker,
            service,
            stage: Stage::AwaitHead,
            ledger: Ledger::new(worker),
            last_id: None,
            seen: Vec::new(),
            was_given: false,
            is_loyal: loyalty.is_some(),
            is_spoiled: false,
            is_abandoned: false,
            is_from_chaos: false,
            has_said_close: false,
            has_fin: false,
            is_half_closing: false,
            goodbye: None,
            was_ahead: false,
            must_hear_goodbye: false,
            retries: 0,
            unconfirmed: channels.iter().copied().collect(),
            channels,
            ask,
            asked_at: facts.logs[worker].head,
            window: None,
            outgoing: VecDeque::new(),
            incoming: Vec::new(),
            body: Vec::new(),
            answers: Vec::new(),
            is_opened: false,
            early_gaps: Vec::new(),
            commands: BTreeMap::new(),
            next_reference: 0,
            nameless: 0,
            last_direct: 0,
            pings: VecDeque::new(),
            responses_awaited: 0,
            client: 0,
            has_response: false,
            polls: poll::Polls::default(),
            offer: None,
            is_deflated: false,
            ticket: None,
            key: random.u32(..).to_ne_bytes(),
        };
        link.draw_ticket(net, facts, random);
        link.ask_for(facts, random);
        link
    }

    /// Decides whether it sends FIN right after its request. In a calm world a stream that does not
    /// stay does.
    pub(crate) fn decide_half_closing(&mut self, is_calm: bool, stays: bool) {
        self.is_half_closing = match (self.service, is_calm) {
            (Service::Garbage, _) => false,
            (Service::Plain, _) => self.key[0].is_multiple_of(2),
            (_, true) => !stays,
            (_, false) => !self.is_loyal && self.key[2].is_multiple_of(6),
        };
    }

    pub(crate) fn is_stream(&self) -> bool {
        matches!(
            self.service,
            Service::WebSocket { .. } | Service::EventStream { .. } | Service::Poll { .. }
        )
    }

    /// What was learnt. A client makes nothing of an answer that breaks off.
    pub(crate) fn take_seen(&mut self) -> Vec<Seen> {
        match self.stage {
            Stage::Answer => Vec::new(),
            Stage::AwaitHead | Stage::EventStream { .. } | Stage::Over | Stage::WebSocket => {
                std::mem::take(&mut self.seen)
            }
        }
    }

    /// After each turn of its worker: counts it once if it is ahead of its worker.
    pub(crate) fn count_ahead(&mut self, hub: &Hub, facts: &mut Facts) {
        let slot = self.pipe.borrow().slot();
        let is_ahead = slot.is_some_and(|slot| hub.is_ahead(slot));
        facts.ahead += u64::from(is_ahead && !self.was_ahead);
        self.was_ahead |= is_ahead;
    }

    /// Sends what is to be sent, at most `max` bytes.
    pub(crate) fn push(&mut self, net: &mut FakeNet, max: usize) {
        let count = max.min(self.outgoing.len());
        if count > 0 && !self.has_fin {
            let bytes: Vec<u8> = self.outgoing.drain(..count).collect();
            net.send(&self.pipe, &bytes);
        }
        // It sends no more and still wants the answers.
        let is_handshaking = self.pipe.borrow().is_handshaking();
        let is_done = self.is_half_closing && self.outgoing.is_empty() && !is_handshaking;
        if is_done && !self.has_fin {
            self.has_fin = true;
            net.finish(&self.pipe);
        }
    }

    /// Reads at most `max` bytes and understands them.
    pub(crate) fn pull(&mut self, net: &mut FakeNet, max: usize, facts: &mut Facts) {
        net.receive(&self.pipe, max, &mut self.incoming);
        self.understand(facts);
        if self.pipe.borrow().is_at_end() && !self.has_fin && !self.key[1].is_multiple_of(8) {
            self.has_fin = true;
            net.finish(&self.pipe);
        }
    }

    /// What the server wrote before its end is right even if nobody reads it.
    pub(crate) fn read_the_rest(&mut self, facts: &mut Facts) {
        let before = self.last_id;
        let mut pipe = self.pipe.borrow_mut();
        pipe.take(usize::MAX, &mut self.incoming);
        drop(pipe);
        self.understand(facts);
        self.last_id = before;
    }

    /// Whether nothing more can come of it, to a peer that reads or to one that does not.
    pub(crate) fn is_over(&self, reads: bool) -> bool {
        let pipe = self.pipe.borrow();
        pipe.is_closed && (pipe.is_reset || !reads || pipe.to_peer.is_empty())
    }

    fn understand(&mut self, facts: &mut Facts) {
        loop {
            let taken = match self.stage {
                Stage::AwaitHead => self.take_response(facts),
                Stage::WebSocket => self.take_frame(facts),
                Stage::Answer => self.take_answer(facts),
                Stage::EventStream { has_gap } => self.take_event_stream(has_gap, facts),
                Stage::Over => {
                    self.incoming.clear();
                    0
                }
            };
            if taken == 0 {
                return;
            }
            self.incoming.drain(..taken);
        }
    }

    fn take_response(&mut self, facts: &Facts) -> usize {
        let Some(head) = take_head(&self.incoming) else {
            return 0;
        };
        self.check_too_many(head.status, facts);
        match (self.service, head.status) {
            (Service::WebSocket { .. }, 101) => {
                let accept = head.field("sec-websocket-accept");
                assert_eq!(accept, Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
                self.check_extension(head.field("sec-websocket-extensions"), facts.has_deflate);
                self.stage = Stage::WebSocket;
                if self.ledger.is_blind {
                    let position = match self.ask {
                        Ask::After(since) => since,
                        // It is given what the log has, and is blind to what that lacks.
                        Ask::First | Ask::Last(_) | Ask::Foreign => 0,
                        Ask::Nonsense | Ask::Now => self.asked_at,
                    };
                    for channel in self.channels.clone() {
                        self.ledger.start(channel, position, facts);
                    }
                }
            }
            (Service::EventStream { is_chunked, .. }, 200) => {
                let coding = head.field("transfer-encoding");
                assert_eq!(coding == Some("chunked"), is_chunked);
                let has_gap = head.field("fanfare-gap") == Some("1");
                self.stage = Stage::EventStream { has_gap };
            }
            (Service::Poll { .. }, 200 | 304) => self.begin_answer(&head, facts),
            (Service::Plain, status) => {
                let length = head.field("content-length").expect("a length");
                let length: usize = length.parse().expect("a length");
                if self.incoming.len() < head.length + length {
                    return 0;
                }
                if matches!(status, 408 | 429 | 503) {
                    self.stage = Stage::Over;
                    self.is_spoiled = true;
                } else {
                    assert!(self.responses_awaited > 0, "a response to nothing");
                    self.responses_awaited -= 1;
                }
                self.has_response = true;
                return head.length + length;
            }
            (_, 401) if self.has_ended() => self.stage = Stage::Over,
            (Service::Garbage, _) | (_, 408 | 429 | 503) => self.stage = Stage::Over,
            (service, status) => panic!("{status} for {service:?}"),
        }
        self.has_response = true;
        head.length
    }

    /// Only the first client of a connection can have connected too often, not one for whom a proxy
    /// reuses it.
    fn check_too_many(&self, status: u16, facts: &Facts) {
        let limits = &facts.config.limits;
        if status == 429 && limits.conns_per_source == 0 {
            assert!(!self.has_response, "a connection that was no connect");
            assert!(limits.connects_per_second_per_source > 0);
        }
    }

    /// The kind whose bytes are compared: a compressed message is inflated before.
    fn frame_kind(&self) -> FrameKind {
        let envelope = |is_full| match is_full {
            true => Envelope::Full,
            false => Envelope::Data,
        };
        match self.service {
            Service::EventStream { is_full, .. } => {
                FrameKind::EventStreamUntilClose(envelope(is_full))
            }
            Service::Poll { is_full, .. } => FrameKind::Poll(envelope(is_full)),
            Service::WebSocket { is_full } => FrameKind::WebSocket(envelope(is_full)),
            Service::Garbage | Service::Plain => panic!("no stream"),
        }
    }

    /// A publication came: its bytes are those, and it was owed.
    fn deliver(&mut self, sequence: u64, whole: &[u8], facts: &mut Facts) {
        let mark = self.read_mark(sequence, whole, facts);
        self.ledger.deliver(sequence, mark, facts);
        self.count_full_window(sequence, facts);
        self.was_given = true;
        self.last_id = Some(sequence);
        self.seen.push(Seen::Publication(sequence));
        facts.deliveries += 1;
    }

    fn take_frame(&mut self, facts: &mut Facts) -> usize {
        let incoming = std::mem::take(&mut self.incoming);
        let taken = take_frame(&incoming).map_or(0, |frame| {
            assert!(
                !matches!(self.goodbye, Some(Goodbye::Close { .. })),
                "a frame after close"
            );
            assert!(self.is_deflated || !frame.is_compressed, "compressed");
            let inflated = frame.is_compressed.then(|| {
                let message = inflate(frame.payload);
                let whole = server_frame(frame.opcode, &message);
                (message, whole)
            });
            let (payload, whole) = match &inflated {
                Some((message, whole)) => (&message[..], &whole[..]),
                None => (frame.payload, frame.whole),
            };
            match frame.opcode {
                8 => self.handle_close(frame.payload, facts),
                9 => {
                    let pong = client_frame(0x8a, frame.payload, self.key);
                    self.answers.extend(pong);
                }
                10 => {
                    let at = self.pings.iter().position(|ping| ping == frame.payload);
                    // What is said behind half a frame may look like a ping.
                    assert!(at.is_some() || self.is_spoiled, "a pong to no ping");
                    self.pings.drain(..at.map_or(0, |at| at + 1));
                }
                _ if self.ledger.is_blind => {
                    let text = String::from_utf8_lossy(payload);
                    if text.starts_with("direct-") {
                        self.handle_direct(&text);
                        return frame.whole.len();
                    }
                    let sequence = text.split('.').next().and_then(|text| text.parse().ok());
                    let sequence = sequence.unwrap_or_else(|| panic!("what is {text:?}"));
                    self.deliver(sequence, whole, facts);
                }
                _ => {
                    self.handle_text(payload, whole, frame.is_compressed, facts);
                }
            }
            frame.whole.len()
        });
        self.incoming = incoming;
        taken
    }

    /// Sends the answers that are due, or forgets them.
    pub(crate) fn react(&mut self, is_polite: bool) {
        if self.stage == Stage::WebSocket {
            let answers = std::mem::take(&mut self.answers);
            if is_polite && !self.has_said_close && !self.is_spoiled {
                self.outgoing.extend(answers);
                self.has_said_close |= matches!(self.goodbye, Some(Goodbye::Close { .. }));
            }
        }
    }

    /// A goodbye says when to return.
    fn note_delay(&self, retry: &str, facts: &mut Facts) {
        facts.delays.push(Delay {
            worker: self.worker,
            written_us: self.pipe.borrow().written_us,
            retry_ms: retry.parse().expect("a retry"),
        });
    }

    fn handle_close(&mut self, payload: &[u8], facts: &mut Facts) {
        let code = payload
            .get(..2)
            .map(|code| u16::from_be_bytes([code[0], code[1]]));
        let reason = String::from_utf8(payload.get(2..).unwrap_or_default().to_vec()).unwrap();
        let code = code.unwrap_or(1005);
        if code == 1012 {
            let retry = reason.strip_prefix("retry_ms=").expect("a retry");
            self.note_delay(retry, facts);
        }
        let is_known = match code {
            1001 | 1012 | 4100 => true,
            DISCONNECT_CODE => true,
            1002 | 1007 | 1009 => self.is_spoiled,
            1000 => self.has_said_close || self.has_fin,
            4002 => self.has_ended(),
            1008 => facts.config.limits.first_subscribe().is_some() && self.ledger.len() == 0,
            _ => false,
        };
        assert!(is_known, "closed with {code} {reason}");
        self.goodbye = Some(Goodbye::Close { code, reason });
        let echo = client_frame(0x88, &code.to_be_bytes(), self.key);
        self.answers.extend(echo);
    }

    fn handle_text(
        &mut self,
        payload: &[u8],
        whole: &[u8],
        is_compressed: bool,
        facts: &mut Facts,
    ) {
        let json: serde_json::Value = serde_json::from_slice(payload).expect("JSON");
        let text = |name: &str| json[name].as_str().map(str::to_owned);
        let kind = text("type");
        if !self.early_gaps.is_empty() {
            let is_next = matches!(kind.as_deref(), Some("gap" | "subscribed"));
            assert!(is_next, "{:?} and then {json}", self.early_gaps);
        }
        let Some(kind) = kind else {
            let id = text("id").expect("an id");
            return self.deliver(facts.sequence(&id), whole, facts);
        };
        assert!(!is_compressed, "{kind} is said uncompressed");
        let command = json["ref"].as_u64().map(|reference| {
            let found = self.commands.remove(&reference);
            found.unwrap_or_else(|| panic!("an answer to nothing: {json}"))
        });
        let channel = || facts.channel(json["channel"].as_str().expect("a channel"));
        match (kind.as_str(), command) {
            ("welcome", None) => {
                assert_eq!(json["heartbeat_ms"].as_u64(), Some(facts.heartbeat_ms));
            }
            ("subscribed", command) => {
                let position = facts.sequence(json["id"].as_str().expect("an id"));
                let is_recovered = json["recovered"].as_bool().expect("recovered");
                self.handle_subscribed(channel(), position, is_recovered, command, facts);
            }
            ("unsubscribed", Some(Command::Unsubscribe { channel: asked })) => {
                assert_eq!(channel(), asked);
                self.ledger.stop(asked);
            }
            ("gap", None) => self.handle_gap(&told(&json, facts), facts),
            ("pong", Some(Command::Ping)) => {}
            ("expiring", None) => {
                let in_ms = json["in_ms"].as_u64().expect("a time");
                assert!(self.ends_soon() && in_ms <= 30_000, "{json}");
            }
            ("ok", Some(Command::Publish { .. })) => {}
            ("presence", Some(Command::Presence { channel: asked })) => {
                assert_eq!(channel(), asked);
                assert!(json["subscribers"].is_u64(), "{json}");
            }
            ("direct", None) => self.handle_direct(&text("text").expect("a text")),
            ("ok", Some(Command::Acknowledge { channel, is_right })) => {
                assert!(is_right && self.has_window(channel), "{json}");
            }
            ("error", command) => self.handle_error(&json, command, facts),
            (kind, command) => panic!("{kind} to {command:?}: {json}"),
        }
    }

    fn handle_subscribed(
        &mut self,
        channel: usize,
        position: u64,
        is_recovered: bool,
        command: Option<Command>,
        facts: &Facts,
    ) {
        let (asked, ask, at, window) = match command {
            Some(Command::Subscribe {
                channel,
                ask,
                at,
                window,
            }) => (channel, ask, at, window),
            None => {
                let next = self.unconfirmed.pop_front().expect("a channel asked for");
                (next, self.ask, self.asked_at, self.window)
            }
            Some(other) => panic!("subscribed to {other:?}"),
        };
        assert_eq!(channel, asked);
        // A client that has been given nothing yet comes back to where it was told it stands.
        if self.is_loyal {
            self.last_id = self.last_id.or(Some(position));
        }
        let is_of_channel = |told: &Told| told.channel == channel;
        let gap = self.early_gaps.iter().position(is_of_channel);
        let gap = gap.map(|at| self.early_gaps.remove(at));
        let has_position = matches!(ask, Ask::After(_));
        assert_eq!(is_recovered, gap.is_none() && has_position);
        let start = gap.as_ref().map_or(position, |told| told.until);
        assert!(position <= start, "stands at {position}, starts at {start}");
        self.ledger.start(channel, start, facts);
        self.ledger.set_window(channel, window);
        let position = start;
        check_start(self.worker, ask, at, position, gap.as_ref(), facts);
        self.begin(channel, position, ask, at, facts);
    }

    fn handle_gap(&mut self, told: &Told, facts: &mut Facts) {
        self.seen.push(told.seen(facts));
        if self.ledger.has(told.channel) {
            self.live_gap(told, facts);
        } else {
            self.early_gaps.push(told.clone());
        }
        facts.gaps += 1;
    }

    /// A gap in mid-stream. A channel's own bounds take nothing from who takes everything, as long
    /// as there is room in the log, but for what was there when it subscribed. Before it was given
    /// anything it may not have been known to take anything.
    fn live_gap(&mut self, told: &Told, facts: &Facts) {
        if told.cause == "restart" {
            return self.ledger.gap(told, facts);
        }
        // A gap may end after the last that it covers.
        let last = facts.newest(told.channel, told.until);
        let is_excused = self.pipe.borrow().has_blocked
            || facts.is_tight
            || !self.was_given
            || self.ledger.has_window(told.channel)
            || told.until <= facts.logs[self.worker].tail
            || last <= self.ledger.there(told.channel)
            || self.is_superseded_beyond_what_was_there(told, facts)
            || facts.is_too_old(told.channel, told.until)
            || facts.begins_too_old(told);
        // These are for who is over its quota.
        let is_over = matches!(told.cause.as_str(), "conflated" | "slow");
        let now = facts.now;
        assert!(is_excused || is_over, "{told:?}: it kept up; {now:?}");
        self.ledger.gap(told, facts);
    }

    /// A gap that begins with what was there may go on over what is superseded.
    fn is_superseded_beyond_what_was_there(&self, told: &Told, facts: &Facts) -> bool {
        let there = self.ledger.there(told.channel);
        let log = &facts.logs[self.worker];
        facts.rules[told.channel].overflow == Overflow::Conflate
            && told.begins(facts).is_some_and(|since| since < there)
            && facts
                .first_newest(log, told.channel, there, told.until)
                .is_none()
    }

    fn handle_error(&mut self, json: &serde_json::Value, command: Option<Command>, facts: &Facts) {
        let code = json["code"].as_str().expect("a code");
        match (code, command) {
            ("already_subscribed", Some(Command::Subscribe { channel, .. })) => {
                assert!(self.ledger.has(channel), "{json}");
            }
            ("too_many_channels", Some(Command::Subscribe { channel, .. })) => {
                let is_full = self.ledger.len() >= facts.channels_per_conn;
                assert!(is_full && !self.ledger.has(channel), "{json}");
            }
            ("not_subscribed", Some(Command::Unsubscribe { channel })) => {
                assert!(!self.ledger.has(channel), "{json}");
            }
            (code, Some(Command::Acknowledge { channel, is_right })) => {
                self.check_refused(code, channel, is_right);
            }
            ("bad_json" | "unknown_type" | "binary_message" | "bad_channel", None) => {
                assert!(self.nameless > 0 || self.is_spoiled, "{json}");
                self.nameless = self.nameless.saturating_sub(1);
            }
            ("not_allowed", Some(Command::Presence { channel })) => {
                assert!(!facts.client_rules(channel).presence, "{json}");
            }
            ("not_allowed", Some(Command::Publish { channel })) => {
                let rule = facts.client_rules(channel).publish;
                assert_eq!(rule, ClientPublish::Off, "{json}");
            }
            ("no_consumer", Some(Command::Publish { channel })) => {
                let rule = facts.client_rules(channel).publish;
                assert_eq!(rule, ClientPublish::Consume, "{json}");
            }
            (_, command) => panic!("{json} to {command:?}"),
        }
    }

    /// A backend speaks to one conn in order, and nothing of it is lost before its end.
    fn handle_direct(&mut self, text: &str) {
        let number = text.strip_prefix("direct-").and_then(|n| n.parse().ok());
        let number = number.unwrap_or_else(|| panic!("what is {text:?}"));
        assert!(
            number > self.last_direct,
            "{number} after {}",
            self.last_direct
        );
        self.last_direct = number;
    }
}

fn told(json: &serde_json::Value, facts: &Facts) -> Told {
    Told {
        channel: facts.channel(json["channel"].as_str().expect("a channel")),
        since: json["since"].as_str().map(str::to_owned),
        until: facts.sequence(json["until"].as_str().expect("an end")),
        missed: json["missed"].as_u64(),
        cause: json["cause"].as_str().expect("a cause").to_owned(),
    }
}
