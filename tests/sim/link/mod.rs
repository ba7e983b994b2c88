//! One connection from the peer's side: the peer's requests, and the messages that it has received.
//!
//! A link sends bytes, reads bytes, parses them, and compares every message with
//! [`ExpectedDeliveries`] and with the exact wire bytes of the publications. [`requests`] has
//! everything that a peer sends. A failed check panics. Only the peer uses this module.

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

use crate::model::{
    Delay, ExpectedDeliveries, Facts, Observation, ReportedGap, Requested, check_start,
};
use crate::net::{FakeNet, PipeRef};
use crate::tokens::ShownToken;
use crate::wire::{client_frame, inflate, server_frame, take_frame, take_head};

/// The kind of request that the peer sends.
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
        /// Whether the connection stays open: the requests do not ask the server to close it.
        is_kept_open: bool,
    },
    WebSocket {
        is_full: bool,
    },
}

/// The part of the response that the peer expects next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    AwaitHead,
    EventStream {
        has_gap: bool,
    },
    /// The content of a poll's answer.
    Answer,
    /// Nothing more is parsed: the request was refused, the response has ended, or its content does
    /// not matter.
    Over,
    WebSocket,
}

/// A command that the server still has to answer.
#[derive(Clone, Copy, Debug)]
enum Command {
    Ping,
    Presence {
        channel: usize,
    },
    Publish {
        channel: usize,
    },
    /// An acknowledgement. `is_right` means that its id is valid.
    Acknowledge {
        channel: Option<usize>,
        is_right: bool,
    },
    Subscribe {
        channel: usize,
        requested: Requested,
        at: u64,
        window: Option<u32>,
    },
    Unsubscribe {
        channel: usize,
    },
}

/// How the server ended the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Goodbye {
    Close { code: u16, reason: String },
    LastChunk,
}

/// The code with which the simulated backend closes conns.
pub(crate) const DISCONNECT_CODE: u16 = 4242;

#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) pipe: PipeRef,
    /// The worker that has accepted the connection.
    pub(crate) worker: usize,
    pub(crate) service: Service,
    pub(crate) stage: Stage,
    pub(crate) expected: ExpectedDeliveries,
    pub(crate) last_id: Option<u64>,
    /// Messages that change the client's position, and that `take_observations` has not returned
    /// yet.
    observations: Vec<Observation>,
    /// Whether at least one publication has been delivered.
    has_delivery: bool,
    /// Whether the client is tracked: it always resumes at its last id and keeps the channels of
    /// its request.
    pub(crate) is_tracked: bool,
    /// Whether the peer has broken a rule of the protocol.
    pub(crate) has_broken_protocol: bool,
    /// Whether the peer no longer reads or sends anything, and has not closed the connection.
    pub(crate) is_abandoned: bool,
    /// Whether the connection was opened in the fault phase. If so, the server may still close it
    /// because of events in that phase.
    pub(crate) is_from_fault_phase: bool,
    pub(crate) has_sent_close: bool,
    pub(crate) has_fin: bool,
    /// Whether the peer sends FIN directly after its request and continues to read.
    pub(crate) is_half_closing: bool,
    pub(crate) goodbye: Option<Goodbye>,
    /// Whether the connection has resumed at a position that its worker had not reached yet.
    was_ahead: bool,
    /// Whether the connection was served when the server was about to drain. If so, it must receive
    /// a close frame, the end of its stream, or its answers.
    pub(crate) must_get_goodbye: bool,
    /// Whether `log.pinned_bytes` is below one publication and its frame. If so, the server may
    /// close a slow client.
    pub(crate) may_be_cut_off: bool,
    /// The number of `retry` fields in an event stream. A complete stream has one field at its
    /// start and one at its end.
    retries: u32,
    channels: Vec<usize>,
    requested: Requested,
    requested_at: u64,
    /// The window that the request specifies. It applies to each channel of the request.
    window: Option<u32>,
    outgoing: VecDeque<u8>,
    incoming: Vec<u8>,
    /// The content of an event stream, without the chunk framing.
    body: Vec<u8>,
    /// Pongs and the close frame that the peer still has to send.
    replies: Vec<u8>,
    /// Whether the peer has read the start position of the event stream. The gaps that the server
    /// reports in answer to the request come before it.
    is_opened: bool,
    /// The gaps of channels that are not confirmed yet. All these gaps come before the
    /// confirmations.
    early_gaps: Vec<ReportedGap>,
    /// The channels of the request that are not confirmed yet.
    unconfirmed: VecDeque<usize>,
    commands: BTreeMap<u64, Command>,
    next_reference: u64,
    /// The number of unanswered messages that are invalid and contain no readable `ref`.
    unreferenced: u32,
    /// The number of the last direct message from a backend.
    last_direct: u64,
    pings: VecDeque<Vec<u8>>,
    responses_awaited: u32,
    /// The number of the client for which the peer last sent a request, if the peer is a proxy.
    client: u32,
    has_response: bool,
    polls: poll::Polls,
    /// The offer of permessage-deflate in the request, if the request had an offer.
    offer: Option<requests::Offer>,
    /// Whether the server has accepted the offer of permessage-deflate.
    is_deflated: bool,
    /// The token that the peer sends, if tokens are required.
    pub(crate) shown_token: Option<ShownToken>,
    key: [u8; 4],
}

impl Link {
    pub(crate) fn open(
        service: Service,
        requested: Requested,
        tracked_channels: Option<&[usize]>,
        room: usize,
        net: &mut FakeNet,
        facts: &Facts,
        random: &mut fastrand::Rng,
    ) -> Self {
        let pipe = net.connect(room);
        let mut channels =
            tracked_channels.map_or_else(|| facts.draw_channels(random), <[usize]>::to_vec);
        random.shuffle(&mut channels);
        let worker = net.worker;
        let mut link = Self {
            pipe,
            worker,
            service,
            stage: Stage::AwaitHead,
            expected: ExpectedDeliveries::new(worker),
            last_id: None,
            observations: Vec::new(),
            has_delivery: false,
            is_tracked: tracked_channels.is_some(),
            has_broken_protocol: false,
            is_abandoned: false,
            is_from_fault_phase: false,
            has_sent_close: false,
            has_fin: false,
            is_half_closing: false,
            goodbye: None,
            was_ahead: false,
            must_get_goodbye: false,
            may_be_cut_off: false,
            retries: 0,
            unconfirmed: channels.iter().copied().collect(),
            channels,
            requested,
            requested_at: facts.logs[worker].head,
            window: None,
            outgoing: VecDeque::new(),
            incoming: Vec::new(),
            body: Vec::new(),
            replies: Vec::new(),
            is_opened: false,
            early_gaps: Vec::new(),
            commands: BTreeMap::new(),
            next_reference: 0,
            unreferenced: 0,
            last_direct: 0,
            pings: VecDeque::new(),
            responses_awaited: 0,
            client: 0,
            has_response: false,
            polls: poll::Polls::default(),
            offer: None,
            is_deflated: false,
            shown_token: None,
            key: random.u32(..).to_ne_bytes(),
        };
        link.draw_token(net, facts, random);
        link.send_request(facts, random);
        link
    }

    /// Decides whether the peer sends FIN directly after its request. In the quiet phase, the peer
    /// does so on every stream that it does not keep open.
    pub(crate) fn decide_half_closing(&mut self, is_quiet: bool, is_kept_open: bool) {
        self.is_half_closing = match (self.service, is_quiet) {
            (Service::Garbage, _) => false,
            (Service::Plain, _) => self.key[0].is_multiple_of(2),
            (_, true) => !is_kept_open,
            (_, false) => !self.is_tracked && self.key[2].is_multiple_of(6),
        };
    }

    pub(crate) fn is_stream(&self) -> bool {
        matches!(
            self.service,
            Service::WebSocket { .. } | Service::EventStream { .. } | Service::Poll { .. }
        )
    }

    /// Returns the messages since the last call that change the client's position. Returns none
    /// while an answer is incomplete, because a client discards an incomplete answer.
    pub(crate) fn take_observations(&mut self) -> Vec<Observation> {
        match self.stage {
            Stage::Answer => Vec::new(),
            Stage::AwaitHead | Stage::EventStream { .. } | Stage::Over | Stage::WebSocket => {
                std::mem::take(&mut self.observations)
            }
        }
    }

    /// Counts the connection, at most once, if it has resumed at a position that its worker has not
    /// reached yet. Called after each turn of that worker.
    pub(crate) fn count_ahead(&mut self, hub: &Hub, facts: &mut Facts) {
        let slot = self.pipe.borrow().slot();
        let is_ahead = slot.is_some_and(|slot| hub.is_ahead(slot));
        facts.ahead += u64::from(is_ahead && !self.was_ahead);
        self.was_ahead |= is_ahead;
    }

    /// Sends at most `max` bytes.
    pub(crate) fn push(&mut self, net: &mut FakeNet, max: usize) {
        let count = max.min(self.outgoing.len());
        if count > 0 && !self.has_fin {
            let bytes: Vec<u8> = self.outgoing.drain(..count).collect();
            net.send(&self.pipe, &bytes);
        }
        // After the FIN the peer sends nothing more, but still reads the answers.
        let is_handshaking = self.pipe.borrow().is_handshaking();
        let is_done = self.is_half_closing && self.outgoing.is_empty() && !is_handshaking;
        if is_done && !self.has_fin {
            self.has_fin = true;
            net.finish(&self.pipe);
        }
    }

    /// Reads at most `max` bytes and parses them.
    pub(crate) fn pull(&mut self, net: &mut FakeNet, max: usize, facts: &mut Facts) {
        net.receive(&self.pipe, max, &mut self.incoming);
        self.parse(facts);
        if self.pipe.borrow().is_at_end() && !self.has_fin && !self.key[1].is_multiple_of(8) {
            self.has_fin = true;
            net.finish(&self.pipe);
        }
    }

    /// Parses all bytes that the server wrote before the connection ended, even if the peer has not
    /// read them.
    pub(crate) fn parse_rest(&mut self, facts: &mut Facts) {
        let before = self.last_id;
        let mut pipe = self.pipe.borrow_mut();
        pipe.take(usize::MAX, &mut self.incoming);
        drop(pipe);
        self.parse(facts);
        self.last_id = before;
    }

    /// Whether nothing more can arrive on the connection. If `reads` is set, the peer must have
    /// read everything first.
    pub(crate) fn is_over(&self, reads: bool) -> bool {
        let pipe = self.pipe.borrow();
        pipe.is_closed && (pipe.is_reset || !reads || pipe.to_peer.is_empty())
    }

    fn parse(&mut self, facts: &mut Facts) {
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
        self.check_refused_client(head.status, facts);
        match (self.service, head.status) {
            (Service::WebSocket { .. }, 101) => {
                let accept = head.field("sec-websocket-accept");
                assert_eq!(accept, Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
                self.check_extension(head.field("sec-websocket-extensions"), facts.has_deflate);
                self.stage = Stage::WebSocket;
                if self.expected.gets_no_gaps {
                    let position = match self.requested {
                        Requested::After(since) => since,
                        // The client receives the publications in the log, but no gaps for missing
                        // publications.
                        Requested::First | Requested::Last(_) | Requested::OtherEpoch => 0,
                        Requested::Invalid | Requested::Now => self.requested_at,
                    };
                    for channel in self.channels.clone() {
                        self.expected.start(channel, position, facts);
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
                    self.has_broken_protocol = true;
                } else {
                    assert!(self.responses_awaited > 0, "a response without a request");
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

    /// Checks a refusal with status 429 in a run that limits only the rate of new connections. Such
    /// a refusal must be the first response on its connection. If a proxy later sends requests of
    /// other clients on the connection, the limit does not apply, because no connection is opened.
    fn check_refused_client(&self, status: u16, facts: &Facts) {
        let limits = &facts.config.limits;
        if status == 429 && limits.conns_per_source == 0 {
            assert!(
                !self.has_response,
                "a client that did not connect is refused"
            );
            assert!(limits.connects_per_second_per_source > 0);
        }
    }

    /// Returns the kind of frame in which the peer expects publications. Compressed messages are
    /// inflated before they are compared.
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

    /// Checks a publication that was read. Its bytes must be right, and it must be the next
    /// publication to deliver.
    fn deliver(&mut self, sequence: u64, whole: &[u8], facts: &mut Facts) {
        let mark = self.read_mark(sequence, whole, facts);
        self.expected.deliver(sequence, mark, facts);
        self.count_full_window(sequence, facts);
        self.has_delivery = true;
        self.last_id = Some(sequence);
        self.observations.push(Observation::Publication(sequence));
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
                    self.replies.extend(pong);
                }
                10 => {
                    let at = self.pings.iter().position(|ping| ping == frame.payload);
                    // After an incomplete frame, the server may parse the following bytes as a
                    // ping.
                    assert!(
                        at.is_some() || self.has_broken_protocol,
                        "a pong without a ping"
                    );
                    self.pings.drain(..at.map_or(0, |at| at + 1));
                }
                _ if self.expected.gets_no_gaps => {
                    let text = String::from_utf8_lossy(payload);
                    if text.starts_with("direct-") {
                        self.handle_direct(&text);
                        return frame.whole.len();
                    }
                    let sequence = text.split('.').next().and_then(|text| text.parse().ok());
                    let sequence =
                        sequence.unwrap_or_else(|| panic!("not a publication: {text:?}"));
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

    /// Sends the pongs and the close frame that still have to be sent, or discards them.
    pub(crate) fn send_replies(&mut self, sends_replies: bool) {
        if self.stage == Stage::WebSocket {
            let replies = std::mem::take(&mut self.replies);
            if sends_replies && !self.has_sent_close && !self.has_broken_protocol {
                self.outgoing.extend(replies);
                self.has_sent_close |= matches!(self.goodbye, Some(Goodbye::Close { .. }));
            }
        }
    }

    /// Records the reconnect delay that a draining server has sent.
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
            1002 | 1007 | 1009 => self.has_broken_protocol,
            1000 => self.has_sent_close || self.has_fin,
            4002 => self.has_ended(),
            1008 => facts.config.limits.first_subscribe().is_some() && self.expected.len() == 0,
            _ => false,
        };
        assert!(is_known, "closed with {code} {reason}");
        self.goodbye = Some(Goodbye::Close { code, reason });
        let echo = client_frame(0x88, &code.to_be_bytes(), self.key);
        self.replies.extend(echo);
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
            assert!(is_next, "{:?} is followed by {json}", self.early_gaps);
        }
        let Some(kind) = kind else {
            let id = text("id").expect("an id");
            return self.deliver(facts.sequence(&id), whole, facts);
        };
        assert!(!is_compressed, "{kind} is compressed");
        let command = json["ref"].as_u64().map(|reference| {
            let found = self.commands.remove(&reference);
            found.unwrap_or_else(|| panic!("an answer without a command: {json}"))
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
                self.expected.stop(asked);
            }
            ("gap", None) => self.handle_gap(&parse_gap(&json, facts), facts),
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
            (kind, command) => panic!("{kind} in answer to {command:?}: {json}"),
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
        let (asked, requested, at, window) = match command {
            Some(Command::Subscribe {
                channel,
                requested,
                at,
                window,
            }) => (channel, requested, at, window),
            None => {
                let next = self
                    .unconfirmed
                    .pop_front()
                    .expect("a channel of the request");
                (next, self.requested, self.requested_at, self.window)
            }
            Some(other) => panic!("subscribed to {other:?}"),
        };
        assert_eq!(channel, asked);
        // A client that has received no publication yet resumes at the position in the answer to
        // its subscription.
        if self.is_tracked {
            self.last_id = self.last_id.or(Some(position));
        }
        let is_of_channel = |gap: &ReportedGap| gap.channel == channel;
        let gap = self.early_gaps.iter().position(is_of_channel);
        let gap = gap.map(|at| self.early_gaps.remove(at));
        let has_position = matches!(requested, Requested::After(_));
        assert_eq!(is_recovered, gap.is_none() && has_position);
        let start = gap.as_ref().map_or(position, |gap| gap.until);
        assert!(
            position <= start,
            "the position is {position}, the start {start}"
        );
        self.expected.start(channel, start, facts);
        self.expected.set_window(channel, window);
        let position = start;
        check_start(self.worker, requested, at, position, gap.as_ref(), facts);
        self.begin(channel, position, requested, at, facts);
    }

    fn handle_gap(&mut self, gap: &ReportedGap, facts: &mut Facts) {
        self.observations.push(gap.observation(facts));
        if self.expected.has(gap.channel) {
            self.live_gap(gap, facts);
        } else {
            self.early_gaps.push(gap.clone());
        }
        facts.gaps += 1;
    }

    /// Checks a gap that is reported after the subscription began. While the log has room, a
    /// channel's own bounds must not cause a loss for a client that reads everything. There are two
    /// exceptions: publications that were in the log when the client subscribed, and gaps before
    /// the first delivery. Until the first delivery the server does not know that the client reads.
    fn live_gap(&mut self, gap: &ReportedGap, facts: &Facts) {
        if gap.cause == "restart" {
            return self.expected.note_gap(gap, facts);
        }
        // The position at which a gap ends may be after the last publication in the gap.
        let last = facts.newest(gap.channel, gap.until);
        let is_excused = self.pipe.borrow().has_blocked
            || facts.is_tight
            || !self.has_delivery
            || self.expected.has_window(gap.channel)
            || gap.until <= facts.logs[self.worker].tail
            || last <= self.expected.newest_at_start(gap.channel)
            || self.is_superseded_after_start(gap, facts)
            || facts.is_too_old(gap.channel, gap.until)
            || facts.begins_too_old(gap);
        // These are the causes of gaps for a client that exceeds its quota.
        let is_over = matches!(gap.cause.as_str(), "conflated" | "slow");
        let now = facts.now;
        assert!(
            is_excused || is_over,
            "{gap:?} at {now:?}, but the client kept up"
        );
        self.expected.note_gap(gap, facts);
    }

    /// Whether conflation explains a gap of a subscription with history. `newest_at_start` is the
    /// newest publication that was in the log when the subscription started. The gap must begin
    /// before it. After it, the gap may contain only publications that have expired or that a later
    /// publication with the same key supersedes.
    fn is_superseded_after_start(&self, gap: &ReportedGap, facts: &Facts) -> bool {
        let newest_at_start = self.expected.newest_at_start(gap.channel);
        let log = &facts.logs[self.worker];
        facts.rules[gap.channel].has_had(Overflow::Conflate)
            && gap
                .begins(facts)
                .is_some_and(|since| since < newest_at_start)
            && facts
                .first_newest(log, gap.channel, newest_at_start, gap.until)
                .is_none()
    }

    fn handle_error(&mut self, json: &serde_json::Value, command: Option<Command>, facts: &Facts) {
        let code = json["code"].as_str().expect("a code");
        match (code, command) {
            ("already_subscribed", Some(Command::Subscribe { channel, .. })) => {
                assert!(self.expected.has(channel), "{json}");
            }
            ("too_many_channels", Some(Command::Subscribe { channel, .. })) => {
                let is_full = self.expected.len() >= facts.channels_per_conn;
                assert!(is_full && !self.expected.has(channel), "{json}");
            }
            ("not_subscribed", Some(Command::Unsubscribe { channel })) => {
                assert!(!self.expected.has(channel), "{json}");
            }
            (code, Some(Command::Acknowledge { channel, is_right })) => {
                self.check_refused(code, channel, is_right);
            }
            ("bad_json" | "unknown_type" | "binary_message" | "bad_channel", None) => {
                assert!(self.unreferenced > 0 || self.has_broken_protocol, "{json}");
                self.unreferenced = self.unreferenced.saturating_sub(1);
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

    /// Checks that a backend's direct messages to a conn arrive in order.
    fn handle_direct(&mut self, text: &str) {
        let number = text.strip_prefix("direct-").and_then(|n| n.parse().ok());
        let number = number.unwrap_or_else(|| panic!("not a direct message: {text:?}"));
        assert!(
            number > self.last_direct,
            "{number} after {}",
            self.last_direct
        );
        self.last_direct = number;
    }
}

fn parse_gap(json: &serde_json::Value, facts: &Facts) -> ReportedGap {
    ReportedGap {
        channel: facts.channel(json["channel"].as_str().expect("a channel")),
        since: json["since"].as_str().map(str::to_owned),
        until: facts.sequence(json["until"].as_str().expect("an end")),
        missed: json["missed"].as_u64(),
        cause: json["cause"].as_str().expect("a cause").to_owned(),
    }
}
