//! Tests of a conn's state machine with bytes and times as input. The tests take the role of the
//! worker.

mod access;
mod polls;
mod proxied;
mod publish;

use super::*;
use crate::auth::{Access, ConnAccess};
use crate::backend::CloseInfo;
use crate::config::Config;
use crate::config::limits::{COMMAND_WORK, WORK_AT_ONCE_MAX};
use crate::context::{Draw, ReconnectDelay, WorkBudget};
use crate::deflate::Inflater;
use crate::effect::Origin;
use crate::frame::Payload;
use crate::hub::Joined;
use crate::id::{ChannelName, ConnName, Cursor, Epoch, RunId, Sequence, Since};
use crate::transport::test_context::World;

const PAGE: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const STREAM: &[u8] = b"GET /sse?channel=c HTTP/1.1\r\nHost: a\r\n\r\n";
const UPGRADE: &[u8] = b"GET /ws?channel=c HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// One conn and its context, with the functions of a worker.
pub(super) struct Rig {
    pub(super) conn: Conn,
    now: Now,
    pub(super) config: Config,
    pub(super) metrics: WorkerMetrics,
    inflater: Inflater,
    access: Access,
    pub(super) effects: Vec<Effect>,
    pub(super) is_trusted: bool,
    pub(super) is_observed: bool,
    pub(super) drain: Option<ReconnectDelay>,
    out: Vec<u8>,
}

impl Rig {
    pub(super) fn new() -> Self {
        let conn = Conn::new(Now(0));
        let (config, metrics) = (Config::default(), WorkerMetrics::default());
        Self {
            conn,
            now: Now(0),
            config,
            metrics,
            inflater: Inflater::default(),
            access: Access::default(),
            effects: Vec::new(),
            is_trusted: false,
            is_observed: false,
            drain: None,
            out: Vec::new(),
        }
    }

    pub(super) fn call<R>(
        &mut self,
        act: impl FnOnce(&mut Conn, &mut Vec<u8>, &mut Context<'_>) -> R,
    ) -> R {
        let mut work = WorkBudget::default();
        let mut context = Context {
            now: self.now,
            draw: Draw(u64::MAX / 2),
            conn: ConnName {
                run: RunId(3),
                worker: 0,
                slot: 1,
                serial: 2,
            },
            head: cursor(9),
            date: "Sun, 06 Nov 1994 08:49:37 GMT",
            is_trusted: self.is_trusted,
            is_observed: self.is_observed,
            drain: self.drain,
            config: &self.config,
            metrics: &self.metrics,
            work: &mut work,
            inflater: &mut self.inflater,
            access: ConnAccess::new(&self.access, 1),
            frames: &mut 0,
            effects: &mut self.effects,
        };
        let result = act(&mut self.conn, &mut self.out, &mut context);
        if let Some(change) = context.access.into_change() {
            self.access.store(1, change);
        }
        result
    }

    pub(super) fn feed(&mut self, bytes: &[u8]) {
        let mut bytes = bytes.to_vec();
        self.call(|conn, out, context| conn.handle_bytes(&mut bytes, out, context));
    }

    /// Removes the effect that subscribes the conn of a stream, and reports that the subscription
    /// succeeded.
    pub(super) fn join(&mut self) {
        let at = self
            .effects
            .iter()
            .position(|effect| matches!(effect, Effect::Join(_)));
        let Effect::Join(join) = self.effects.remove(at.expect("it asked to join")) else {
            panic!("the position was found by the same pattern");
        };
        let joined = Joined {
            position: cursor(9),
            is_recovered: false,
            gap: None,
        };
        let outcomes = vec![JoinOutcome::Joined(joined); join.channels.len()];
        self.call(|conn, out, context| conn.handle_joined(&join, &outcomes, out, context));
    }

    /// Writes the whole outbox and then handles waiting input, as the worker does. Returns the
    /// written bytes.
    pub(super) fn drain(&mut self) -> Vec<u8> {
        let bytes = self.conn.outbox().slices().collect::<Vec<_>>().concat();
        if !bytes.is_empty() {
            let drained = self.conn.outbox_mut().drain(bytes.len());
            assert_eq!(drained.left, 0);
            self.call(|conn, out, context| conn.handle_drained(out, context));
            if self.conn.has_unhandled() {
                self.feed(b"");
            }
        }
        bytes
    }

    pub(super) fn time_out(&mut self, send_state: SendState) {
        self.call(|conn, out, context| conn.handle_timeout(send_state, out, context));
    }

    pub(super) fn closed(&self) -> Option<CloseReason> {
        self.effects.iter().find_map(|effect| {
            if let Effect::Close(reason) = effect {
                Some(*reason)
            } else {
                None
            }
        })
    }

    pub(super) fn pass(&mut self, heartbeats: u64) {
        self.now = Now(self.now.0 + heartbeats * self.config.heartbeat.interval_ms * 1000);
    }
}

pub(super) fn cursor(sequence: u64) -> Cursor {
    Cursor {
        epoch: Epoch::new(1),
        sequence: Sequence(sequence),
    }
}

fn streaming(request: &[u8]) -> Rig {
    let mut rig = Rig::new();
    rig.feed(request);
    rig.join();
    rig.drain();
    rig.effects.clear();
    rig
}

/// Returns a masked frame of a client, with an all-zero key.
fn client_frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).unwrap();
    let mut frame = vec![0x80 | opcode, 0x80 | length, 0, 0, 0, 0];
    frame.extend_from_slice(payload);
    frame
}

pub(super) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn request_gets_the_same_response_at_every_cut() {
    for request in [PAGE, STREAM, UPGRADE, b"BREW / HTTP/1.1\r\nHost: a\r\n\r\n"] {
        let mut whole = Rig::new();
        whole.feed(request);
        for cut in 1..request.len() {
            let mut rig = Rig::new();
            rig.feed(&request[..cut]);
            assert!(rig.conn.outbox().is_empty(), "answered too early");
            rig.feed(&request[cut..]);
            assert!(rig.conn.outbox().slices().eq(whole.conn.outbox().slices()));
            assert_eq!(rig.effects.last(), whole.effects.last());
        }
    }
}

#[test]
fn request_that_comes_byte_by_byte_is_answered() {
    let mut rig = Rig::new();
    for byte in PAGE {
        rig.feed(&[*byte]);
    }
    assert!(text(&rig.drain()).starts_with("HTTP/1.1 200 "));
}

#[test]
fn pipelined_requests_are_answered_one_at_a_time() {
    let mut rig = Rig::new();
    rig.feed(&[PAGE, PAGE, b"GET /none HTTP/1.1\r\nHost: a\r\n\r\nGET"].concat());
    assert_eq!(
        rig.conn.read_bytes_max(8192),
        0,
        "a client that does not read is not read either"
    );
    let responses = [rig.drain(), rig.drain(), rig.drain()];
    let statuses = responses.map(|response| text(&response)[9..12].to_owned());
    assert_eq!(statuses, ["200", "200", "404"]);
    assert!(rig.conn.outbox().is_empty());
    assert_eq!(rig.conn.read_bytes_max(8192), 8192 - 3);
}

#[test]
fn head_timeout_is_answered_only_if_the_head_had_begun() {
    let mut rig = Rig::new();
    rig.time_out(SendState::CaughtUp);
    assert_eq!(rig.closed(), Some(CloseReason::HeadTimeout));

    let mut rig = Rig::new();
    rig.feed(b"GET / HT");
    rig.time_out(SendState::CaughtUp);
    assert!(text(&rig.drain()).starts_with("HTTP/1.1 408 "));
    assert_eq!(rig.effects.last(), Some(&Effect::ShutdownWrite));

    let mut rig = Rig::new();
    rig.feed(PAGE);
    rig.drain();
    rig.time_out(SendState::CaughtUp);
    assert_eq!(rig.closed(), Some(CloseReason::Done));
}

#[test]
fn fin_is_sent_once_and_after_the_last_byte() {
    let mut rig = Rig::new();
    rig.feed(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert!(!rig.effects.contains(&Effect::ShutdownWrite));
    rig.drain();
    rig.feed(b"more");
    let fins = rig
        .effects
        .iter()
        .filter(|effect| **effect == Effect::ShutdownWrite);
    assert_eq!(fins.count(), 1);
    rig.call(|conn, out, context| conn.handle_eof(out, context));
    assert_eq!(rig.closed(), Some(CloseReason::Done));
}

#[test]
fn response_is_still_sent_to_a_client_that_has_sent_fin() {
    let mut rig = Rig::new();
    rig.feed(PAGE);
    rig.call(|conn, out, context| conn.handle_eof(out, context));
    assert_eq!(rig.closed(), None);
    assert!(text(&rig.drain()).starts_with("HTTP/1.1 200 "));
    assert_eq!(
        rig.effects.iter().rev().nth(1),
        Some(&Effect::ShutdownWrite)
    );
    assert_eq!(rig.closed(), Some(CloseReason::Done));
}

#[test]
fn frames_that_follow_the_handshake_in_one_read_are_handled() {
    let mut rig = Rig::new();
    rig.feed(&[UPGRADE, &client_frame(9, b"hi")].concat());
    rig.join();
    let bytes = rig.drain();
    let pong = b"\x8a\x02hi";
    assert!(bytes.starts_with(b"HTTP/1.1 101 "));
    assert!(bytes.windows(pong.len()).any(|window| window == pong));
    assert!(text(&bytes).contains("\"type\":\"welcome\""));
}

#[test]
fn worker_learns_each_change_of_class_from_an_effect() {
    let classes = |rig: &Rig| {
        let effects = rig.effects.iter();
        let classes = effects.filter_map(|effect| {
            let Effect::Reclassify { before, class } = effect else {
                return None;
            };
            Some((*before, *class))
        });
        classes.collect::<Vec<_>>()
    };
    let mut rig = Rig::new();
    rig.call(|conn, _out, context| conn.handle_silent(context));
    assert_eq!(classes(&rig), [(ConnClass::Arriving, ConnClass::Silent)]);
    rig.effects.clear();
    rig.feed(UPGRADE);
    assert_eq!(classes(&rig), [(ConnClass::Silent, ConnClass::WebSocket)]);
    rig.effects.clear();
    rig.call(|conn, out, context| conn.handle_goodbye(Goodbye::Overflow, out, context));
    assert_eq!(classes(&rig), [(ConnClass::WebSocket, ConnClass::Other)]);
}

#[test]
fn first_heartbeat_is_drawn_between_half_and_a_whole_interval() {
    let mut rig = Rig::new();
    rig.feed(STREAM);
    let [
        Effect::Reclassify { .. },
        Effect::SetTimer(first),
        Effect::Join(_),
    ] = rig.effects.as_slice()
    else {
        panic!("nothing armed")
    };
    let interval = rig.config.heartbeat.interval_ms * 1000;
    assert!((interval / 2..=interval).contains(&first.0));
}

#[test]
fn silent_websocket_is_pinged_and_then_closed() {
    let mut rig = streaming(UPGRADE);
    rig.pass(1);
    rig.time_out(SendState::CaughtUp);
    assert_eq!(rig.drain()[0], 0x89);
    rig.pass(1);
    rig.time_out(SendState::CaughtUp);
    assert_eq!(rig.drain()[..4], [0x88, 6, 0x03, 0xe9]);
    assert!(rig.conn.is_ending());
    assert_eq!(rig.closed(), None, "the peer may answer");
    rig.time_out(SendState::CaughtUp);
    assert_eq!(rig.closed(), Some(CloseReason::Idle));
}

#[test]
fn late_timer_sends_a_ping_and_does_not_close() {
    let mut rig = streaming(UPGRADE);
    rig.pass(5);
    rig.time_out(SendState::CaughtUp);
    assert_eq!(rig.drain()[0], 0x89);
    assert!(!rig.conn.is_ending());
    rig.pass(1);
    rig.time_out(SendState::CaughtUp);
    assert!(rig.conn.is_ending());
}

#[test]
fn ping_that_the_socket_has_not_taken_does_not_count_as_silence() {
    let mut rig = streaming(UPGRADE);
    rig.pass(2);
    rig.time_out(SendState::CaughtUp);
    rig.pass(3);
    rig.time_out(SendState::Pending);
    assert!(!rig.conn.is_ending());
    rig.effects.clear();
    assert_eq!(rig.drain()[0], 0x89);
    let deadline = rig.now.after(rig.config.heartbeat.interval());
    assert_eq!(
        rig.effects,
        [Effect::SetTimer(deadline)],
        "a full interval to answer"
    );
}

#[test]
fn pongs_keep_a_websocket_open() {
    let mut rig = streaming(UPGRADE);
    for _ in 0..10 {
        rig.pass(1);
        rig.time_out(SendState::CaughtUp);
        assert_eq!(rig.drain()[0], 0x89);
        rig.feed(&client_frame(10, b""));
    }
    assert!(!rig.conn.is_ending());
}

#[test]
fn event_stream_stays_with_write_progress_and_ends_when_blocked() {
    let mut rig = streaming(STREAM);
    for _ in 0..5 {
        rig.pass(1);
        rig.time_out(SendState::CaughtUp);
        assert!(text(&rig.drain()).contains("event:fanfare.position\nid: "));
        let now = rig.now;
        rig.conn.handle_written(now, false);
    }
    rig.pass(1);
    rig.time_out(SendState::Blocked);
    assert!(!rig.conn.is_ending());
    rig.pass(1);
    rig.time_out(SendState::Blocked);
    assert!(rig.conn.is_ending());
}

#[test]
fn shutdown_ends_each_phase_in_its_own_protocol() {
    let mut rig = Rig::new();
    rig.call(|conn, out, context| conn.handle_shutdown(out, context));
    assert_eq!(rig.closed(), Some(CloseReason::Shutdown));

    let mut rig = streaming(STREAM);
    rig.call(|conn, out, context| conn.handle_shutdown(out, context));
    let bytes = rig.drain();
    assert!(text(&bytes).contains("retry: ") && bytes.ends_with(b"0\r\n\r\n"));
    assert_eq!(rig.effects.last(), Some(&Effect::ShutdownWrite));

    let mut rig = streaming(UPGRADE);
    rig.call(|conn, out, context| conn.handle_shutdown(out, context));
    assert!(text(&rig.drain()).contains("retry_ms="));
    assert!(
        !rig.effects.contains(&Effect::ShutdownWrite),
        "the peer's close comes first"
    );
    rig.feed(&client_frame(8, &[0x03, 0xf4]));
    assert_eq!(rig.effects.last(), Some(&Effect::ShutdownWrite));
}

#[test]
fn partial_request_is_answered_at_shutdown_with_retry_after() {
    let mut rig = Rig::new();
    let rest = Duration::from_millis(700);
    rig.drain = Some(ReconnectDelay::after_drain(rest, Duration::ZERO));
    rig.feed(&PAGE[..10]);
    rig.call(|conn, out, context| conn.handle_shutdown(out, context));
    let response = rig.drain();
    let response = text(&response);
    assert!(response.starts_with("HTTP/1.1 503 "), "{response}");
    assert!(response.contains("\r\nRetry-After: 2\r\n"), "{response}");
    assert_eq!(rig.effects.last(), Some(&Effect::ShutdownWrite));
}

#[test]
fn shutdown_names_the_delay_of_the_drain_on_every_transport() {
    for (request, expected) in [(STREAM, "retry: 11007\n"), (UPGRADE, "retry_ms=11007")] {
        let mut rig = streaming(request);
        let rest = Duration::from_secs(10);
        rig.drain = Some(ReconnectDelay::after_drain(rest, Duration::from_millis(14)));
        rig.call(|conn, out, context| conn.handle_shutdown(out, context));
        let goodbye = rig.drain();
        assert!(text(&goodbye).contains(expected), "{}", text(&goodbye));
    }
}

#[test]
fn conn_ends_without_its_peer_once_its_last_bytes_are_acknowledged() {
    let acknowledge = |rig: &mut Rig| {
        rig.call(|conn, out, context| conn.handle_goodbye_acknowledged(out, context));
    };
    for (request, was_fin_sent) in [(STREAM, true), (UPGRADE, false)] {
        let mut rig = streaming(request);
        acknowledge(&mut rig);
        assert!(!rig.conn.is_ending(), "the conn is not closing");
        rig.call(|conn, out, context| conn.handle_shutdown(out, context));
        rig.drain();
        assert_eq!(rig.effects.contains(&Effect::ShutdownWrite), was_fin_sent);
        if !was_fin_sent {
            acknowledge(&mut rig);
            assert_eq!(rig.effects.last(), Some(&Effect::ShutdownWrite));
            assert_eq!(rig.closed(), None);
        }
        acknowledge(&mut rig);
        assert_eq!(rig.closed(), Some(CloseReason::Shutdown));
    }
}

#[test]
fn end_of_input_is_handled_by_each_phase() {
    let mut rig = Rig::new();
    rig.call(|conn, out, context| conn.handle_eof(out, context));
    assert_eq!(rig.closed(), Some(CloseReason::PeerGone));
    for (request, end, expected) in [
        (STREAM, &b"0\r\n\r\n"[..], CloseReason::Done),
        (
            UPGRADE,
            b"\x88\x0e\x03\xe8end of input",
            CloseReason::PeerGone,
        ),
    ] {
        let mut rig = streaming(request);
        rig.call(|conn, out, context| conn.handle_eof(out, context));
        assert!(rig.conn.ends_when_served());
        assert_eq!(rig.closed(), None, "it may be owed something");
        rig.call(|conn, out, context| conn.handle_goodbye(Goodbye::PeerDone, out, context));
        assert!(!rig.conn.ends_when_served());
        assert_eq!(rig.drain(), end);
        let fin = rig.effects.iter().rev().nth(1);
        assert_eq!(fin, Some(&Effect::ShutdownWrite));
        assert_eq!(rig.closed(), Some(expected));
    }
}

#[test]
fn stream_whose_head_is_not_sent_does_not_end_at_fin() {
    for request in [STREAM, UPGRADE] {
        let mut rig = Rig::new();
        rig.feed(request);
        rig.join();
        rig.call(|conn, out, context| conn.handle_eof(out, context));
        assert_eq!((rig.closed(), rig.conn.ends_when_served()), (None, false));
        assert!(text(&rig.drain()).starts_with("HTTP/1.1 "));
        assert!(rig.conn.ends_when_served());
    }
}

#[test]
fn goodbye_is_sent_to_a_half_closed_client_without_waiting_for_its_close() {
    let mut rig = streaming(UPGRADE);
    rig.call(|conn, out, context| conn.handle_shutdown(out, context));
    rig.call(|conn, out, context| conn.handle_eof(out, context));
    assert_eq!(rig.closed(), None);
    assert!(text(&rig.drain()).contains("retry_ms="));
    assert_eq!(rig.closed(), Some(CloseReason::Shutdown));
    let mut rig = streaming(UPGRADE);
    rig.call(|conn, out, context| conn.handle_eof(out, context));
    rig.call(|conn, out, context| conn.handle_shutdown(out, context));
    rig.drain();
    assert_eq!(rig.closed(), Some(CloseReason::Shutdown));
}

#[test]
fn open_streams_are_counted_once_and_uncounted_once() {
    for request in [STREAM, UPGRADE] {
        let mut rig = streaming(request);
        let open =
            |rig: &Rig| rig.metrics.event_stream_open.value() + rig.metrics.websocket_open.value();
        assert_eq!(open(&rig), 1);
        rig.call(|conn, out, context| conn.handle_goodbye(Goodbye::Overflow, out, context));
        rig.drain();
        rig.conn.handle_closed(&rig.metrics);
        assert_eq!(open(&rig), 0);
    }
}

#[test]
fn conn_that_never_reads_its_answers_is_closed() {
    let mut rig = streaming(UPGRADE);
    let join = Join {
        channels: vec![ChannelName::new(&"x".repeat(200)).unwrap()],
        since: Since::Now,
        window: None,
        origin: Origin::Command(None),
    };
    let outcomes = [JoinOutcome::TooManyChannels];
    while rig.closed().is_none() {
        assert!(rig.conn.outbox().control_bytes() <= CONTROL_BYTES_MAX);
        rig.call(|conn, out, context| conn.handle_joined(&join, &outcomes, out, context));
    }
    assert!(rig.effects.contains(&Effect::NoteUnsentAnswers));
    assert_eq!(rig.closed(), Some(CloseReason::Overflow));
    assert_eq!(rig.conn.read_bytes_max(8192), 0);
}

#[test]
fn client_that_sends_fin_after_its_last_request_gets_the_whole_response() {
    let mut world = World::default();
    let mut out = Vec::new();
    let mut conn = Conn::new(Now(0));
    conn.handle_accepted(&mut world.context());
    let mut request = *b"GET /none HTTP/1.0\r\n\r\n";
    conn.handle_bytes(&mut request, &mut out, &mut world.context());
    world.effects.clear();
    conn.handle_eof(&mut out, &mut world.context());
    assert_eq!(world.effects, [], "the response has not gone out");
    let response = conn.outbox().slices().collect::<Vec<_>>().concat();
    assert!(response.starts_with(b"HTTP/1.1 404 "));
    assert_eq!(conn.outbox_mut().drain(response.len()).left, 0);
    conn.handle_drained(&mut out, &mut world.context());
    let end = [
        Effect::ShutdownWrite,
        Effect::Close(CloseReason::BadRequest),
    ];
    assert_eq!(world.effects, end);
}

#[test]
fn burst_of_the_shortest_bad_commands_closes_no_conn() {
    for command in [client_frame(1, b""), client_frame(1, b"{}")] {
        let mut rig = streaming(UPGRADE);
        let burst = command.repeat(STREAM_READ_BYTES as usize / command.len());
        rig.feed(&burst);
        while rig.conn.has_unhandled() {
            rig.feed(b"");
        }
        assert_eq!(rig.closed(), None);
        assert_eq!(
            rig.conn.read_bytes_max(8192),
            0,
            "not read again before it reads"
        );
        while !rig.conn.outbox().is_empty() {
            rig.drain();
        }
        assert!(rig.conn.read_bytes_max(8192) > 0);
    }
}

#[test]
fn commands_beyond_the_budget_wait_and_are_answered_in_order() {
    let mut rig = streaming(UPGRADE);
    let command = |number| format!("{{\"type\":\"ping\",\"ref\":{number}}}");
    let burst = (0..300).flat_map(|number| client_frame(1, command(number).as_bytes()));
    rig.feed(&burst.collect::<Vec<_>>());
    let answered = |out: &[u8]| String::from_utf8_lossy(out).matches("pong").count();
    let at_once = answered(&rig.conn.outbox().slices().collect::<Vec<_>>().concat());
    let at_once_max = (WORK_AT_ONCE_MAX / COMMAND_WORK) as usize;
    assert!(at_once > 0 && at_once <= at_once_max, "{at_once}");
    // The commands that still wait are handled before a command that arrives later.
    let last = client_frame(1, command(300).as_bytes());
    rig.feed(&last);
    let mut out = Vec::new();
    while !rig.conn.outbox().is_empty() {
        let before = answered(&out);
        out.extend(rig.drain());
        assert!(answered(&out) - before <= 2 * at_once_max);
    }
    let out = String::from_utf8_lossy(&out);
    let numbers = out.match_indices("\"ref\":").map(|(at, field)| {
        let rest = &out[at + field.len()..];
        rest[..rest.find('}').unwrap()].parse::<u32>().unwrap()
    });
    assert!(numbers.eq(0..=300), "{out}");
    assert!(!rig.conn.has_unhandled());
}

#[test]
fn pipelined_requests_are_handled_one_per_call() {
    let mut rig = Rig::new();
    rig.feed(&b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".repeat(3));
    for left in [2, 1, 0] {
        let bytes = rig.conn.outbox().bytes();
        assert!(
            bytes > 0 && !rig.conn.has_unhandled(),
            "{left} wait for a response"
        );
        let drained = rig.conn.outbox_mut().drain(bytes);
        assert_eq!(drained.left, 0);
        rig.call(|conn, out, context| conn.handle_drained(out, context));
        assert!(
            rig.conn.outbox().is_empty(),
            "the next is handled when it is read"
        );
        assert_eq!(rig.conn.has_unhandled(), left > 0);
        rig.feed(b"");
    }
    // The beginning of a request must wait for more bytes, so it does not count as unhandled.
    rig.feed(b"GET / HT");
    assert!(!rig.conn.has_unhandled());
}

fn message(bytes: usize) -> BackendMessage {
    BackendMessage::Payload(Payload::Text("x".repeat(bytes).into()))
}

#[test]
fn only_an_open_stream_receives_direct_messages() {
    let mut rig = Rig::new();
    let tell = |rig: &mut Rig| {
        rig.call(|conn, out, context| conn.handle_backend_message(&message(3), out, context))
    };
    assert_eq!(tell(&mut rig), Delivery::NoConn);
    rig.feed(STREAM);
    rig.join();
    rig.drain();
    assert_eq!(tell(&mut rig), Delivery::Done);
    let sent = String::from_utf8(rig.drain()).unwrap();
    assert!(
        sent.contains("event: fanfare.direct\ndata: xxx\n\n"),
        "{sent}"
    );
    let close_info = BackendMessage::Disconnect(CloseInfo {
        code: 4001,
        reason: "\"late\"".into(),
    });
    rig.call(|conn, out, context| conn.handle_backend_message(&close_info, out, context));
    let sent = String::from_utf8(rig.drain()).unwrap();
    let event = "event: fanfare.disconnect\ndata: {\"code\":4001,\"reason\":\"\\\"late\\\"\"}\n\n";
    assert!(sent.contains(event), "{sent}");
    assert_eq!(tell(&mut rig), Delivery::NoConn);
}

#[test]
fn backend_cannot_overflow_a_client_that_does_not_read() {
    let mut rig = Rig::new();
    rig.feed(UPGRADE);
    rig.join();
    let mut done = 0;
    loop {
        let message = message(10_000);
        let sent =
            rig.call(|conn, out, context| conn.handle_backend_message(&message, out, context));
        if sent != Delivery::Done {
            assert_eq!(sent, Delivery::Full);
            break;
        }
        done += 1;
        assert!(done < 100, "never full");
    }
    assert!(done >= 10, "{done}");
    assert!(rig.conn.outbox().control_bytes() <= DIRECT_BYTES_MAX);
    assert_eq!(rig.closed(), None);
    // Messages are accepted again as soon as the outbox has room.
    rig.drain();
    let sent =
        rig.call(|conn, out, context| conn.handle_backend_message(&message(1), out, context));
    assert_eq!(sent, Delivery::Done);
}
