//! Runs the state machine of one connection from its first byte to its last. This file takes the
//! place of the worker.
//!
//! The first check sends only bytes, cut into pieces in several ways. The answers must be the same
//! for every way. The second check adds events between the bytes: timers, a socket that accepts
//! nothing, the peer's FIN, a backend's messages. In the second check the state machine must always
//! have a deadline, send nothing after its FIN, and stay within its memory limit. It must also end
//! in time when its peer becomes silent.
//!
//! The bytes determine the environment. A connection that begins with a PROXY header belongs to a
//! listener for that protocol. A connection with a forwarded address comes from a trusted proxy. If
//! the bytes contain a token, the server has keys.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use fanfare::auth::{Access, ConnAccess};
use fanfare::backend::{BackendMessage, CloseInfo, Delivery, PublishOutcome};
use fanfare::config::limits::CONTROL_BYTES_MAX;
use fanfare::config::{ClientPublish, Config, Namespace};
use fanfare::conn::{Conn, SendState};
use fanfare::context::{Context, Draw, WorkBudget};
use fanfare::deflate::Inflater;
use fanfare::effect::{Acknowledgement, CloseReason, ConnClass, Effect, Join, Leave};
use fanfare::frame::{Compressor, Encoded, FrameKind, Payload, Publication};
use fanfare::hub::{Acknowledged, Gap, GapCause, JoinOutcome, Joined};
use fanfare::id::{ChannelName, ConnName, Cursor, Epoch, RunId, Sequence, Since};
use fanfare::metrics::WorkerMetrics;
use fanfare::proxy::TooMany;
use fanfare::time::{Deadline, Now};
use fanfare::transport::poll_answer::News;
use fanfare::transport::{Goodbye, StreamEvent};

use super::head::DATE;
use super::script::{Script, Step};
use super::{memory, parts, token, wire};

const HEAD_BYTES_MAX: u32 = 512;
const MESSAGE_BYTES_MAX: u32 = 300;
const CHANNELS_MAX: usize = 3;
/// If the replies in one call have more than this number of bytes, the state machine answers
/// further pings only as the client reads.
const PONG_BACKLOG_BYTES: usize = 4096;
/// The maximum number of timers that fire before a conn with a silent peer ends.
const TIMEOUTS_MAX: u32 = 12;
const SLOT: u32 = 1;
/// The possible beginnings of a PROXY header.
const PROXY_HEADERS: [&[u8]; 2] = [b"PROXY ", b"\r\n\r\n\0\r\nQUIT\n"];
/// The beginning of a token: `{"` in base64url.
const TOKEN: &[u8] = b"eyJ";
/// The common part of the field names `Forwarded` and `X-Forwarded-For`.
const FORWARDED: &[u8] = b"orwarded";
/// The maximum number of bytes that a conn may store in addition to its input and pending output.
const HELD_BYTES: usize = 4096;

/// Runs the target on an input: a script with the peer's bytes and the events between them.
pub fn attack(bytes: &[u8]) {
    let script = Script::new(bytes);
    let mut config = config();
    if bytes_have(script.stream, TOKEN) {
        // Tokens are enabled if a key file is configured. No file is read, because the harness has
        // its own key.
        config.auth.jwks = "keys".into();
    }
    check_cuts(script.stream, &config);
    let harness = run_script(script, &config);
    let bound = 2 * HEAD_BYTES_MAX + 4 * MESSAGE_BYTES_MAX;
    let bound = bound as usize + 4 * harness.waited_bytes_max + HELD_BYTES;
    let held = memory::held_by(harness.conn);
    assert!(held <= bound, "{held} bytes held, at most {bound}");
    run_script(script, &config).fall_silent();
}

/// Returns a configuration with small limits, and with namespaces in which clients may publish and
/// count subscribers.
pub(super) fn config() -> Config {
    let mut config = Config::default();
    config.heartbeat.interval_ms = 1000;
    config.limits.request_head_bytes = HEAD_BYTES_MAX;
    config.limits.request_head_ms = 2000;
    config.limits.client_message_bytes = MESSAGE_BYTES_MAX;
    config.limits.channels_per_conn = CHANNELS_MAX as u32;
    config.limits.poll_timeout_ms = 2000;
    for (pattern, publish) in [
        ("b*", ClientPublish::Broadcast),
        ("d*", ClientPublish::Consume),
    ] {
        config.namespace.push(Namespace {
            pattern: pattern.into(),
            client_publish: Some(publish),
            client_presence: Some(true),
            anonymous_subscribe: Some(pattern == "b*"),
            subscribe: None,
            publish: None,
            ..Namespace::default()
        });
    }
    config
}

/// The state machine of a connection, and what a worker would keep for it.
struct Harness<'c> {
    conn: Conn,
    config: &'c Config,
    now: Now,
    deadline: Option<Deadline>,
    metrics: WorkerMetrics,
    inflater: Inflater,
    access: Access,
    is_trusted: bool,
    effects: Vec<Effect>,
    out: Vec<u8>,
    subscribed: BTreeSet<ChannelName>,
    /// The feed's pending answers.
    messages: Vec<BackendMessage>,
    written: Vec<u8>,
    waited_bytes_max: usize,
    is_blocked: bool,
    /// Whether `handle_eof` must be called again, after the answer to a poll.
    has_eof: bool,
    is_read_closed: bool,
    has_fin: bool,
    class: ConnClass,
    /// The number of nested calls. A nested call is made while the effects of the outer call are
    /// applied.
    depth: u32,
    closed: Option<CloseReason>,
}

fn cursor(sequence: u64) -> Cursor {
    Cursor {
        epoch: Epoch::new(1),
        sequence: Sequence(sequence),
    }
}

/// Refuses a proxy's client if the last byte of its IPv4 address or of its IPv6 /64 network is odd.
fn admitted(client: Option<IpAddr>) -> Result<(), TooMany> {
    let last = client.map(|client| match client {
        IpAddr::V4(client) => client.octets()[3],
        IpAddr::V6(client) => client.octets()[7],
    });
    match last.is_some_and(|last| last % 2 == 1) {
        true => Err(TooMany::Conns),
        false => Ok(()),
    }
}

impl<'c> Harness<'c> {
    /// Returns a conn whose peer will send these bytes.
    fn new(stream: &[u8], config: &'c Config) -> Self {
        let now = Now(7);
        let is_proxied = PROXY_HEADERS.iter().any(|begin| stream.starts_with(begin));
        let mut access = Access::default();
        if bytes_have(stream, TOKEN) {
            let time = std::time::Duration::from_secs(token::NOW_S);
            access.renew(Some(Arc::new(token::verifier())), time, Now(0));
        }
        let mut harness = Self {
            conn: match is_proxied {
                true => Conn::proxied(now),
                false => Conn::new(now),
            },
            config,
            now,
            deadline: None,
            metrics: WorkerMetrics::default(),
            inflater: Inflater::default(),
            access,
            is_trusted: bytes_have(stream, FORWARDED),
            effects: Vec::new(),
            out: Vec::new(),
            subscribed: BTreeSet::new(),
            messages: Vec::new(),
            written: Vec::new(),
            waited_bytes_max: 0,
            is_blocked: false,
            has_eof: false,
            is_read_closed: false,
            has_fin: false,
            class: ConnClass::Arriving,
            depth: 0,
            closed: None,
        };
        let _result = harness.call(|conn, _out, context| conn.handle_accepted(context));
        harness
    }

    /// Calls the state machine and applies the effects that it requests, as a worker does.
    fn call<R>(
        &mut self,
        act: impl FnOnce(&mut Conn, &mut Vec<u8>, &mut Context<'_>) -> R,
    ) -> Option<R> {
        if self.closed.is_some() {
            return None;
        }
        let before = self.conn.outbox().control_bytes();
        let mut work = WorkBudget::default();
        let mut context = Context {
            now: self.now,
            draw: Draw(u64::MAX / 3),
            conn: ConnName {
                run: RunId(1),
                worker: 0,
                slot: SLOT,
                serial: 2,
            },
            head: cursor(9),
            date: DATE,
            is_trusted: self.is_trusted && self.conn.takes_requests(),
            is_observed: true,
            drain: None,
            config: self.config,
            metrics: &self.metrics,
            work: &mut work,
            inflater: &mut self.inflater,
            access: ConnAccess::new(&self.access, SLOT),
            frames: &mut 0,
            effects: &mut self.effects,
        };
        let result = act(&mut self.conn, &mut self.out, &mut context);
        if let Some(change) = context.access.into_change() {
            self.access.store(SLOT, change);
        }
        assert!(self.out.is_empty(), "output outside the outbox");
        let waits = self.conn.outbox().control_bytes();
        assert!(!self.has_fin || waits <= before, "output after the FIN");
        self.waited_bytes_max = self.waited_bytes_max.max(waits);
        self.depth += 1;
        for effect in std::mem::take(&mut self.effects) {
            self.apply(effect);
        }
        self.depth -= 1;
        // After a nested call, effects of the outer call are still to be applied. So the conn's
        // class is compared with the counted class only after the outermost call.
        assert!(
            self.depth > 0 || self.conn.class() == self.class,
            "the worker counts another class"
        );
        assert!(self.closed.is_some() || self.deadline.is_some(), "no timer");
        let is_within = self.conn.serving().is_none() || waits <= CONTROL_BYTES_MAX;
        assert!(is_within || self.closed.is_some(), "{waits} bytes wait");
        Some(result)
    }

    fn apply(&mut self, effect: Effect) {
        match effect {
            Effect::Acknowledge(what) => self.acknowledge(&what),
            Effect::Answer { since, .. } => self.answer(since, Vec::new()),
            Effect::SetTimer(deadline) => {
                assert!(deadline.0 >= self.now.0);
                let due = self.access.next_due(SLOT);
                self.deadline = Some(due.map_or(deadline, |due| due.min(deadline)));
            }
            Effect::Count { channel, reference } => {
                self.messages.push(BackendMessage::PresenceReply {
                    channel,
                    subscribers: 5,
                    reference,
                });
            }
            Effect::IdentifyByForwardedHeader(client) => {
                assert!(
                    self.is_trusted,
                    "an address from a proxy that is not trusted"
                );
                let _result = self.call(|conn, out, context| {
                    conn.handle_forwarded_client(admitted(client), out, context);
                });
            }
            Effect::IdentifyByProxyHeader(client) => {
                let _result = self.call(|conn, out, context| {
                    conn.handle_proxy_client(admitted(client), out, context);
                });
            }
            Effect::DropUnauthorized => {
                self.access.start_reporting(SLOT);
                self.drop_unauthorized();
            }
            Effect::Close(reason) => self.closed = self.closed.or(Some(reason)),
            Effect::Join(join) => self.join(&join),
            Effect::Leave(leave) => self.leave(&leave),
            Effect::LeaveAll { .. } => {
                self.subscribed.clear();
                self.access.forget(SLOT);
            }
            Effect::NoteAnswer(_)
            | Effect::NoteClose(_)
            | Effect::NoteRefusedToken(_)
            | Effect::NoteRequest(_)
            | Effect::NoteUnsentAnswers => {}
            Effect::Publish { reference, .. } => self.messages.push(BackendMessage::PublishReply {
                outcome: PublishOutcome::Broadcast(cursor(8)),
                reference,
            }),
            Effect::Reclassify { before, class } => {
                assert_eq!(self.class, before, "a class that it was not");
                self.class = class;
            }
            Effect::ShutdownWrite => {
                assert!(
                    self.conn.outbox().is_empty(),
                    "a FIN before the outbox is empty"
                );
                assert!(!self.has_fin, "a second FIN");
                self.has_fin = true;
            }
        }
    }

    fn acknowledge(&mut self, what: &Acknowledgement) {
        let outcome = match self.subscribed.len() {
            0 => Acknowledged::NoWindow,
            1 => Acknowledged::Opened,
            _ if what.channel.is_none() => Acknowledged::ChannelUnclear,
            _ => Acknowledged::Taken,
        };
        let _result = self.call(|conn, out, context| {
            conn.handle_event(StreamEvent::Acknowledged(what, outcome), out, context);
        });
    }

    fn join(&mut self, join: &Join) {
        let gap = Gap {
            since: None,
            until: cursor(9),
            missed: None,
            cause: GapCause::Unknown,
        };
        let (gap, is_recovered) = match join.since {
            Since::First | Since::Last(_) | Since::Now => (None, false),
            Since::After(since) => (None, since.epoch == cursor(0).epoch),
            Since::Unrecognised => (Some(gap), false),
        };
        let joined = Joined {
            position: cursor(9),
            is_recovered,
            gap,
        };
        let mut outcomes = Vec::new();
        for channel in &join.channels {
            outcomes.push(match self.subscribed.len() {
                _ if self.subscribed.contains(channel) => JoinOutcome::AlreadyJoined,
                CHANNELS_MAX.. => JoinOutcome::TooManyChannels,
                _ => JoinOutcome::Joined(joined),
            });
            if self.subscribed.len() < CHANNELS_MAX {
                self.subscribed.insert(channel.clone());
            }
        }
        let _result = self.call(|conn, out, context| {
            conn.handle_joined(join, &outcomes, out, context);
        });
    }

    /// Unsubscribes from the channels that the token does not allow.
    fn drop_unauthorized(&mut self) {
        assert!(
            self.access.is_on(),
            "a token was taken where there are no keys"
        );
        for channel in self.subscribed.clone() {
            if !self.access.may_subscribe(SLOT, &channel, self.config) {
                let reference = None;
                self.leave(&Leave { channel, reference });
            }
        }
    }

    fn leave(&mut self, leave: &Leave) {
        let was_subscribed = self.subscribed.remove(&leave.channel);
        let _result = self.call(|conn, out, context| {
            conn.handle_event(StreamEvent::Left(leave, was_subscribed), out, context);
        });
    }

    /// Answers a pending poll.
    fn answer(&mut self, since: Option<Cursor>, payloads: Vec<Payload>) {
        let Some(kind @ FrameKind::Poll(_)) = self.conn.serving() else {
            return;
        };
        // The first publication is marked as initial, as in an answer with history.
        let kinds = [kind.initial(), kind]
            .into_iter()
            .chain(std::iter::repeat(kind));
        let publications = payloads.into_iter().zip(kinds).map(|(payload, kind)| {
            let channel = ChannelName::new("c").expect("a name");
            let ledger = Arc::default();
            let publication = Publication::new(cursor(9), channel, payload, self.now, &ledger);
            let frames = publication.frames();
            let _frame = frames.encode(&publication, kind, &mut Compressor::default());
            let id = publication.id;
            Encoded { id, kind, frames }
        });
        let publications: Vec<_> = publications.collect();
        let news = News {
            gaps: Vec::new(),
            position: since.unwrap_or_else(|| cursor(9)),
            is_unmoved: since.is_some() && publications.is_empty(),
            publications,
        };
        let _result = self.call(|conn, out, context| conn.handle_answer(news, out, context));
    }

    /// Writes at most this many bytes of the outbox to the socket.
    fn flush(&mut self, mut most: usize) {
        while most > 0 && self.closed.is_none() && !self.conn.outbox().is_empty() {
            let bytes = self.conn.outbox().slices().collect::<Vec<_>>().concat();
            assert!(!self.has_fin, "bytes after the FIN");
            let count = most.min(bytes.len());
            self.written.extend_from_slice(&bytes[..count]);
            assert_eq!(self.conn.outbox_mut().drain(count).left, 0);
            self.conn.handle_written(self.now, self.is_blocked);
            if self.conn.outbox().is_empty() {
                let _result = self.call(|conn, out, context| conn.handle_drained(out, context));
                self.handle_unhandled();
                self.end_if_served();
            }
            most -= count;
        }
    }

    /// Passes the bytes to the state machine until it reads no more. Returns the remaining bytes,
    /// which stay in the kernel's buffer.
    fn read<'b>(&mut self, mut bytes: &'b [u8]) -> &'b [u8] {
        while !bytes.is_empty() && self.closed.is_none() && !self.is_read_closed {
            let most = self.conn.read_bytes_max(HEAD_BYTES_MAX);
            let (piece, rest) = bytes.split_at(most.min(bytes.len()));
            if piece.is_empty() {
                break;
            }
            let mut piece = piece.to_vec();
            let _result = self.call(|conn, out, context| {
                conn.handle_bytes(&mut piece, out, context);
            });
            self.handle_unhandled();
            if !self.is_blocked {
                self.flush(usize::MAX);
            }
            bytes = rest;
        }
        bytes
    }

    /// Lets the state machine handle bytes that it has received but not handled yet. Each call may
    /// do the work of one turn of the worker.
    fn handle_unhandled(&mut self) {
        while self.closed.is_none() && self.conn.has_unhandled() {
            let _result = self.call(|conn, out, context| {
                conn.handle_bytes(&mut [], out, context);
            });
        }
    }

    fn time_out(&mut self) {
        let due = self.deadline.expect("a deadline");
        self.now = Now(self.now.0.max(due.0));
        let send_state = match (self.conn.outbox().is_empty(), self.is_blocked) {
            (true, _) => SendState::CaughtUp,
            (false, true) => SendState::Blocked,
            (false, false) => SendState::Pending,
        };
        let _result = self.call(|conn, out, context| conn.handle_timeout(send_state, out, context));
    }

    fn handle_message(&mut self, message: &BackendMessage) {
        let before = self.conn.outbox().bytes();
        let delivery =
            self.call(|conn, out, context| conn.handle_backend_message(message, out, context));
        if delivery.is_some_and(|delivery| delivery != Delivery::Done) {
            assert_eq!(self.conn.outbox().bytes(), before, "{delivery:?}");
        }
    }

    fn end_of_input(&mut self) {
        self.is_read_closed = true;
        let is_met_again = self.call(|conn, out, context| conn.handle_eof(out, context));
        self.has_eof = is_met_again == Some(true);
        self.end_if_served();
    }

    /// Ends a stream after the peer's FIN. The harness has no log, so no publication is still to be
    /// sent.
    fn end_if_served(&mut self) {
        if self.closed.is_none() && self.conn.ends_when_served() {
            let _result = self
                .call(|conn, out, context| conn.handle_goodbye(Goodbye::PeerDone, out, context));
            assert!(!self.conn.ends_when_served(), "it ends twice");
        }
    }

    fn take_step(&mut self, step: Step) {
        match step.event {
            1 => self.time_out(),
            2 => self.now.0 += 300_000,
            3 => self.is_blocked = true,
            4 => self.is_blocked = false,
            5 => self.flush(step.amount),
            6 => self.end_of_input(),
            7 => self.handle_message(&BackendMessage::Payload(Payload::Json("{\"a\":1}".into()))),
            8 => self.handle_message(&BackendMessage::Payload(Payload::Text(
                "x".repeat(step.amount * 8).into(),
            ))),
            9 => self.handle_message(&BackendMessage::Disconnect(CloseInfo {
                code: 4000,
                reason: "enough".into(),
            })),
            10 => {
                let messages = std::mem::take(&mut self.messages);
                messages
                    .iter()
                    .for_each(|message| self.handle_message(message));
            }
            11 => self.skip(),
            12 if self.conn.serving().is_some() => {
                let _result = self.call(|conn, out, context| {
                    conn.handle_goodbye(Goodbye::Overflow, out, context);
                });
            }
            13 if self.conn.is_ending() && self.conn.outbox().is_empty() => {
                let _result = self.call(|conn, out, context| {
                    conn.handle_goodbye_acknowledged(out, context);
                });
            }
            13 => {
                let _result = self.call(|conn, out, context| conn.handle_shutdown(out, context));
            }
            14 => self.answer(None, vec![Payload::Text("news".into())]),
            15 => self.answer(None, Vec::new()),
            _ => {}
        }
        let is_due = self.deadline.is_some_and(|due| self.now.has_reached(due));
        if is_due && self.closed.is_none() {
            self.time_out();
        }
        if !self.is_blocked {
            self.flush(usize::MAX);
        }
        if self.has_eof {
            self.end_of_input();
        }
    }

    /// Reports a gap to the subscriber of a channel.
    fn skip(&mut self) {
        let Some(channel) = self.subscribed.first().cloned() else {
            return;
        };
        let gap = Gap {
            since: Some(cursor(3)),
            until: cursor(7),
            missed: Some(4),
            cause: GapCause::Slow,
        };
        let _result = self.call(|conn, out, context| {
            conn.handle_event(StreamEvent::Gap(&channel, &gap), out, context);
        });
    }

    /// Fires timers until the conn ends, while the peer neither sends nor reads.
    fn fall_silent(mut self) {
        self.is_blocked = true;
        let mut timeouts = 0;
        while self.closed.is_none() {
            assert!(timeouts < TIMEOUTS_MAX, "it does not end");
            self.time_out();
            timeouts += 1;
        }
        self.conn.handle_closed(&self.metrics);
        let metrics = &self.metrics;
        assert_eq!(metrics.websocket_open.value(), 0);
        assert_eq!(metrics.event_stream_open.value(), 0);
        assert_eq!(metrics.long_poll_open.value(), 0);
    }
}

fn run_script<'c>(script: Script<'_>, config: &'c Config) -> Harness<'c> {
    let mut harness = Harness::new(script.stream, config);
    let mut rest = script.stream;
    for step in script.steps() {
        let (piece, _) = rest.split_at(step.amount.min(rest.len()));
        let unread = harness.read(piece).len();
        rest = &rest[piece.len() - unread..];
        harness.take_step(step);
        if harness.closed.is_some() {
            return harness;
        }
    }
    let _unread = harness.read(rest);
    if !bytes_have(script.stream, b"HEAD") {
        split_written(&harness.written);
    }
    harness
}

fn bytes_have(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// The output for bytes without events.
#[derive(Debug, PartialEq)]
struct Output {
    responses: Vec<u8>,
    /// The frames in sorted order. Their original order depends on how the input is cut into
    /// pieces. For each piece, the server first sends its other answers, and then the results of
    /// the commands in the piece.
    frames: Vec<Vec<u8>>,
    /// The body of the server's close frame.
    close: Option<Vec<u8>>,
    closed: Option<CloseReason>,
    has_fin: bool,
}

fn check_cuts(stream: &[u8], config: &Config) {
    // A response to HEAD has no content, but the parser of responses cannot know that. Therefore
    // inputs with HEAD are not checked.
    if bytes_have(stream, b"HEAD") {
        return;
    }
    let Some(whole) = run_pieces(&[stream], config) else {
        return;
    };
    for way in parts::ways_to_cut(stream) {
        let Some(mut output) = run_pieces(&way, config) else {
            continue;
        };
        if whole.close.is_some() {
            // If one piece contains commands and a fault, the commands may stay unanswered.
            output.frames.clone_from(&whole.frames);
        }
        assert_eq!(output, whole, "{way:?}");
    }
}

/// Sends these pieces of the input to the state machine of a connection. The simulated peer reads
/// everything, and each poll is answered immediately. Returns `None` if the answers to one piece
/// are so long that the number of answers depends on how the input is cut.
fn run_pieces(pieces: &[&[u8]], config: &Config) -> Option<Output> {
    let mut harness = Harness::new(&pieces.concat(), config);
    for piece in pieces {
        let mut rest = *piece;
        loop {
            let left = harness.read(rest).len();
            if let Some(FrameKind::Poll(_)) = harness.conn.serving() {
                harness.answer(None, Vec::new());
                harness.flush(usize::MAX);
            } else if left == 0 || left == rest.len() {
                break;
            }
            rest = &rest[rest.len() - left..];
        }
    }
    if harness.waited_bytes_max >= PONG_BACKLOG_BYTES {
        return None;
    }
    let (length, mut frames) = split_written(&harness.written);
    frames.sort();
    let close = frames.iter().find(|frame| frame[0] == 0x88);
    Some(Output {
        responses: harness.written[..length].to_vec(),
        close: close.cloned(),
        frames,
        closed: harness.closed,
        has_fin: harness.has_fin,
    })
}

/// Splits the written bytes into responses and frames, and checks their form. The last response or
/// frame may be incomplete. Returns the total length of the responses, and the frames.
fn split_written(written: &[u8]) -> (usize, Vec<Vec<u8>>) {
    let mut at = 0;
    while let Some(head) = wire::take_head(&written[at..]) {
        at += head.length;
        if head.status == 101 {
            return (at, take_frames(&written[at..]));
        }
        if head.field("content-type") == Some("text/event-stream; charset=utf-8") {
            if head.field("transfer-encoding").is_some() {
                take_chunks(&written[at..]);
            }
            return (written.len(), Vec::new());
        }
        let length = head
            .field("content-length")
            .map_or(0, |length| length.parse::<usize>().expect("a length"));
        if head.status != 304 {
            at = written.len().min(at + length);
        }
    }
    (written.len(), Vec::new())
}

fn take_frames(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    while let Some(frame) = wire::take_frame(bytes) {
        frames.push(frame.whole.to_vec());
        bytes = &bytes[frame.whole.len()..];
    }
    frames
}

fn take_chunks(mut bytes: &[u8]) {
    while let Some((chunk, length)) = wire::take_chunk(bytes) {
        bytes = &bytes[length..];
        assert!(
            !chunk.is_empty() || bytes.is_empty(),
            "behind the last chunk"
        );
    }
}
