//! Tests of the whole transport. Every input is passed in one piece, byte by byte, and in two
//! pieces that are split at every position. The outcomes must be equal.

mod autobahn;
mod closing;
mod compressed;
mod tokens;

use proptest::prelude::*;

use super::*;
use crate::config::{ClientPublish, Namespace};
use crate::effect::{Audience, Effect, Leave};
use crate::hub::{Gap, GapCause, Joined};
use crate::id::{ChannelName, Since};
use crate::transport::Transport;
use crate::transport::test_context::{World, cursor};

const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// The outcome of processing an input.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) frames: Vec<(Opcode, Vec<u8>)>,
    pub(super) flow: Flow,
    pub(super) effects: Vec<Effect>,
}

/// Returns a masked frame of a client. `first` is the first byte of the frame.
pub(super) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    frame_with_key(first, payload, KEY)
}

pub(super) fn frame_with_key(first: u8, payload: &[u8], key: [u8; 4]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        short @ 0..126 => bytes.push(0x80 | u8::try_from(short).unwrap()),
        middle @ 126..65_536 => {
            bytes.push(0x80 | 126);
            bytes.extend(u16::try_from(middle).unwrap().to_be_bytes());
        }
        long => {
            bytes.push(0x80 | 127);
            bytes.extend(u64::try_from(long).unwrap().to_be_bytes());
        }
    }
    bytes.extend(key);
    bytes.extend(payload.iter().zip(key.iter().cycle()).map(|(b, k)| b ^ k));
    bytes
}

pub(super) fn close_frame(code: u16, reason: &[u8]) -> Vec<u8> {
    frame(0x88, &[&code.to_be_bytes(), reason].concat())
}

/// Parses the server's frames.
pub(super) fn server_frames(mut bytes: &[u8]) -> Vec<(Opcode, Vec<u8>)> {
    let mut frames = Vec::new();
    while let [first, second, ..] = *bytes {
        assert_eq!(first & 0xf0, 0x80, "the server's frames are final");
        let (length, header) = match second {
            126 => (usize::from(u16::from_be_bytes([bytes[2], bytes[3]])), 4),
            short => (usize::from(short), 2),
        };
        let payload = &bytes[header..header + length];
        frames.push((Opcode::from_bits(first & 0x0f).unwrap(), payload.to_vec()));
        bytes = &bytes[header + length..];
    }
    assert!(bytes.is_empty());
    frames
}

pub(super) fn run(envelope: Envelope, parts: &[&[u8]]) -> Outcome {
    run_with(Compression::None, envelope, parts)
}

pub(super) fn run_with(compression: Compression, envelope: Envelope, parts: &[&[u8]]) -> Outcome {
    let mut world = World::default();
    let mut socket = WebSocket::new(envelope, compression);
    let mut out = Vec::new();
    let mut flow = Flow::Open;
    for part in parts {
        flow = socket.handle_bytes(&mut part.to_vec(), &mut out, &mut world.context());
    }
    if matches!(flow, Flow::Ended(_)) {
        assert!(socket.pending.is_none());
    }
    Outcome {
        frames: server_frames(&out),
        flow,
        effects: world.effects,
    }
}

/// Processes the input in one piece, byte by byte, and in two pieces. All positions of the split
/// are tried for a short input, and some positions for a long input.
pub(super) fn run_every_cut(envelope: Envelope, input: &[u8]) -> Outcome {
    run_every_cut_with(Compression::None, envelope, input)
}

pub(super) fn run_every_cut_with(
    compression: Compression,
    envelope: Envelope,
    input: &[u8],
) -> Outcome {
    let run = |parts: &[&[u8]]| run_with(compression, envelope, parts);
    let whole = run(&[input]);
    let bytes: Vec<&[u8]> = input.chunks(1).collect();
    assert_eq!(run(&bytes), whole);
    for cut in (0..=input.len()).step_by(1 + input.len() / 400) {
        let (first, second) = input.split_at(cut);
        assert_eq!(run(&[first, second]), whole, "cut {cut}");
    }
    whole
}

fn answers(outcome: &Outcome) -> Vec<String> {
    let texts = outcome.frames.iter().map(|(opcode, payload)| {
        assert_eq!(*opcode, Opcode::Text);
        String::from_utf8(payload.clone()).unwrap()
    });
    texts.collect()
}

fn channel(name: &str) -> ChannelName {
    ChannelName::new(name).unwrap()
}

fn join(names: &[&str], origin: Origin) -> Join {
    Join {
        channels: names.iter().map(|name| channel(name)).collect(),
        since: Since::Now,
        window: None,
        origin,
    }
}

fn gap() -> Gap {
    Gap {
        since: None,
        until: cursor(40),
        missed: None,
        cause: GapCause::Restart,
    }
}

#[test]
fn commands_become_effects_with_their_reference() {
    let input = [
        frame(
            0x81,
            br#"{"type":"subscribe","channel":"c","since":"000000000abc-4","ref":7}"#,
        ),
        frame(0x81, br#"{"type":"unsubscribe","channel":"c","ref":"u"}"#),
    ]
    .concat();
    let outcome = run_every_cut(Envelope::Full, &input);
    let expected = [
        Effect::Join(Join {
            channels: vec![channel("c")],
            since: Since::After(cursor(4)),
            window: None,
            origin: Origin::Command(Reference::from_json("7")),
        }),
        Effect::Leave(Leave {
            channel: channel("c"),
            reference: Reference::from_json("\"u\""),
        }),
    ];
    assert_eq!(outcome.effects, expected);
    assert_eq!(outcome.frames, []);
    assert_eq!(outcome.flow, Flow::Open);
}

#[test]
fn command_in_fragments_with_pings_between_is_carried_out() {
    let input = [
        frame(0x01, b"{\"type\":\"pi"),
        frame(0x89, b"1"),
        frame(0x00, b""),
        frame(0x00, b"ng\",\"ref\":"),
        frame(0x8a, b"unasked"),
        frame(0x80, b"12}"),
    ]
    .concat();
    let outcome = run_every_cut(Envelope::Full, &input);
    let expected = [
        (Opcode::Pong, b"1".to_vec()),
        (Opcode::Text, br#"{"type":"pong","ref":12}"#.to_vec()),
    ];
    assert_eq!(outcome.frames, expected);
}

#[test]
fn refused_command_is_answered_and_counted_without_ending_the_conn() {
    let mut world = World::default();
    let mut socket = WebSocket::new(Envelope::Full, Compression::None);
    let mut input = [
        frame(
            0x81,
            br#"{"type":"publish","channel":"c","data":1,"ref":3}"#,
        ),
        frame(0x81, b"hello"),
        frame(0x82, b"hello"),
    ]
    .concat();
    let mut out = Vec::new();
    let flow = socket.handle_bytes(&mut input, &mut out, &mut world.context());
    assert_eq!(flow, Flow::Open);
    assert_eq!(world.metrics.client_commands_refused.value(), 3);
    assert_eq!(world.metrics.client_frames.value(), 3);
    let codes: Vec<String> = server_frames(&out)
        .iter()
        .map(|(_, payload)| {
            let value: serde_json::Value = serde_json::from_slice(payload).unwrap();
            value["code"].as_str().unwrap().to_owned()
        })
        .collect();
    assert_eq!(codes, ["not_allowed", "bad_json", "binary_message"]);
}

#[test]
fn publish_and_presence_reach_the_feed_where_the_namespace_allows_them() {
    let mut world = World::default();
    world.config.namespace.push(Namespace {
        pattern: "c".into(),
        client_publish: Some(ClientPublish::Consume),
        client_presence: Some(true),
        ..Namespace::default()
    });
    let mut socket = WebSocket::new(Envelope::Full, Compression::None);
    let commands = [
        &br#"{"type":"publish","channel":"c","data":{"x": 1},"ref":3}"#[..],
        br#"{"type":"presence","channel":"c"}"#,
        br#"{"type":"publish","channel":"c"}"#,
        br#"{"type":"presence","channel":"d"}"#,
    ];
    let mut input = commands.map(|command| frame(0x81, command)).concat();
    let mut out = Vec::new();
    let flow = socket.handle_bytes(&mut input, &mut out, &mut world.context());
    assert_eq!(flow, Flow::Open);
    let expected = [
        Effect::Publish {
            channel: channel("c"),
            data: "{\"x\": 1}".into(),
            dedupe: None,
            reference: Reference::from_json("3"),
            audience: Audience::Consumers,
            traceparent: None,
            sub: None,
        },
        Effect::Count {
            channel: channel("c"),
            reference: None,
        },
    ];
    assert_eq!(world.effects, expected);
    let refused: Vec<String> = server_frames(&out)
        .into_iter()
        .map(|(_, payload)| String::from_utf8(payload).unwrap())
        .collect();
    assert!(refused[0].contains("bad_payload"), "{refused:?}");
    assert!(refused[1].contains("not_allowed"), "{refused:?}");
    assert_eq!(refused.len(), 2);
}

#[test]
fn backend_messages_are_messages_of_the_subprotocol_or_bare_payloads() {
    let mut world = World::default();
    let reference = Reference::from_json("1");
    let published = |outcome| BackendMessage::PublishReply {
        outcome,
        reference: reference.clone(),
    };
    let messages = [
        BackendMessage::Payload(Payload::Json("[1]".into())),
        published(PublishOutcome::Broadcast(cursor(7))),
        published(PublishOutcome::Consumed),
        BackendMessage::PublishReply {
            outcome: PublishOutcome::Consumed,
            reference: None,
        },
        published(PublishOutcome::Busy),
        BackendMessage::PresenceReply {
            channel: channel("c"),
            subscribers: 2,
            reference: reference.clone(),
        },
    ];
    let sent = |envelope, world: &mut World| {
        let socket = WebSocket::new(envelope, Compression::None);
        let mut out = Vec::new();
        for message in &messages {
            let flow = socket.handle_backend_message(message, &mut out, &world.context());
            assert_eq!(flow, Flow::Open);
        }
        let texts = server_frames(&out).into_iter();
        let texts = texts.map(|(_, payload)| String::from_utf8(payload).unwrap());
        texts.collect::<Vec<_>>()
    };
    let expected = [
        r#"{"type":"direct","data":[1]}"#,
        r#"{"type":"ok","id":"000000000abc-7","ref":1}"#,
        r#"{"type":"ok","ref":1}"#,
        concat!(
            r#"{"type":"error","code":"busy","#,
            r#""message":"too many commands in a short time; try again later","ref":1}"#
        ),
        r#"{"type":"presence","channel":"c","subscribers":2,"ref":1}"#,
    ];
    assert_eq!(sent(Envelope::Full, &mut world), expected);
    assert_eq!(sent(Envelope::Data, &mut world), ["[1]"]);
}

#[test]
fn data_envelope_checks_messages_and_ignores_them() {
    let fine = [
        frame(0x81, br#"{"type":"subscribe","channel":"c"}"#),
        frame(0x02, b"\xff"),
        frame(0x80, b"\xff"),
        frame(0x81, b"no command"),
        frame(0x89, b"p"),
    ]
    .concat();
    let outcome = run_every_cut(Envelope::Data, &fine);
    assert_eq!(outcome.effects, []);
    assert_eq!(outcome.frames, [(Opcode::Pong, b"p".to_vec())]);

    let outcome = run_every_cut(Envelope::Data, &frame(0x81, b"\xff"));
    assert_eq!(outcome.flow, Flow::Ended(CloseReason::InvalidText));
}

#[test]
fn data_envelope_keeps_no_payload() {
    let mut world = World::default();
    let mut socket = WebSocket::new(Envelope::Data, Compression::None);
    let mut input = frame(0x01, &[b'x'; 4000]);
    let flow = socket.handle_bytes(&mut input, &mut Vec::new(), &mut world.context());
    assert_eq!(flow, Flow::Open);
    let message = socket.pending.unwrap().message.unwrap();
    assert_eq!(message.received, 4000);
    assert_eq!(message.finish().unwrap().capacity(), 0);
}

#[test]
fn state_is_released_whenever_nothing_is_incomplete() {
    let mut world = World::default();
    let mut socket = WebSocket::new(Envelope::Full, Compression::None);
    let input = [frame(0x01, b"ab"), frame(0x89, b"p"), frame(0x80, b"c")].concat();
    for at in 0..input.len() {
        let mut byte = [input[at]];
        let flow = socket.handle_bytes(&mut byte, &mut Vec::new(), &mut world.context());
        assert_eq!(flow, Flow::Open);
        let is_last = at + 1 == input.len();
        assert_eq!(socket.pending.is_none(), is_last, "{at}");
    }
}

#[test]
fn message_over_the_limit_is_refused_by_its_header_alone() {
    let ended = Flow::Ended(CloseReason::MessageTooBig);
    let announced = [0x81, 0xff, 0, 0, 0, 0, 0, 1, 0, 1, 1, 2, 3, 4];
    let outcome = run_every_cut(Envelope::Full, &announced);
    assert_eq!(outcome.flow, ended);
    assert_eq!(outcome.frames[0].1[..2], 1009_u16.to_be_bytes());

    let vast = [
        0x82, 0xff, 0x7f, 255, 255, 255, 255, 255, 255, 255, 1, 2, 3, 4,
    ];
    assert_eq!(run_every_cut(Envelope::Data, &vast).flow, ended);

    let in_fragments = [
        frame(0x01, &vec![b'x'; 65_535]),
        frame(0x00, b"y"),
        frame(0x00, b"z"),
    ]
    .concat();
    assert_eq!(run_every_cut(Envelope::Data, &in_fragments).flow, ended);
    let one_less = &in_fragments[..in_fragments.len() - 7];
    assert_eq!(run(Envelope::Data, &[one_less]).flow, Flow::Open);

    // The sum of the two lengths exceeds 64 bits.
    let overflowing = [frame(0x02, b"x"), vec![0x80], vast[1..].to_vec()].concat();
    assert_eq!(run_every_cut(Envelope::Full, &overflowing).flow, ended);
}

#[test]
fn announced_length_reserves_nothing() {
    let mut world = World::default();
    let mut socket = WebSocket::new(Envelope::Full, Compression::None);
    let mut input = vec![0x81, 0xfe, 0xff, 0xff, 0, 0, 0, 0, b'x'];
    let flow = socket.handle_bytes(&mut input, &mut Vec::new(), &mut world.context());
    assert_eq!(flow, Flow::Open);
    let payload = socket.pending.unwrap().message.unwrap().finish().unwrap();
    assert!(payload.capacity() <= 8, "{}", payload.capacity());
}

#[test]
fn text_fails_at_the_first_invalid_byte_within_a_frame() {
    let input = frame(0x81, b"ab\xf4\x90 and a long rest that never needs to come");
    let header_bytes = 6;
    let until_wrong = header_bytes + 4;
    let before = run(Envelope::Full, &[&input[..until_wrong - 1]]);
    assert_eq!(before.flow, Flow::Open);
    let after = run(Envelope::Full, &[&input[..until_wrong]]);
    assert_eq!(after.flow, Flow::Ended(CloseReason::InvalidText));
    assert_eq!(after.frames[0].1[..2], 1007_u16.to_be_bytes());
}

#[test]
fn goodbye_waits_for_the_clients_close_and_sends_nothing_more() {
    for (goodbye, reason, body) in [
        (Goodbye::Idle, CloseReason::Idle, &b"\x03\xe9idle"[..]),
        (
            Goodbye::Overflow,
            CloseReason::Overflow,
            b"\x10\x04slow consumer",
        ),
        (
            Goodbye::Shutdown,
            CloseReason::Shutdown,
            b"\x03\xf4retry_ms=3000",
        ),
    ] {
        let mut world = World {
            draw: u64::MAX / 2,
            ..World::default()
        };
        let mut socket = WebSocket::new(Envelope::Full, Compression::None);
        let mut out = Vec::new();
        let flow = socket.handle_goodbye(goodbye, &mut out, &mut world.context());
        assert_eq!(flow, Flow::Closing(reason));
        let (opcode, payload) = &server_frames(&out)[0];
        assert_eq!(*opcode, Opcode::Close);
        assert_eq!(payload, body);

        out.clear();
        let mut still_talking = [
            frame(0x89, b"p"),
            frame(0x81, br#"{"type":"ping"}"#),
            frame(0x81, br#"{"type":"subscribe","channel":"c"}"#),
        ]
        .concat();
        let flow = socket.handle_bytes(&mut still_talking, &mut out, &mut world.context());
        assert_eq!(flow, Flow::Closing(reason));
        socket.handle_heartbeat(&mut out, &world.context());
        let (name, gap) = (channel("c"), gap());
        socket.handle_event(StreamEvent::Gap(&name, &gap), &mut out, &world.context());
        let again = socket.handle_goodbye(Goodbye::Idle, &mut out, &mut world.context());
        assert_eq!(again, Flow::Closing(reason));
        let late = join(&["c"], Origin::Request);
        let outcomes = [JoinOutcome::AlreadyJoined];
        let flow = socket.handle_joined(&late, &outcomes, &mut out, &world.context());
        assert_eq!(flow, Flow::Closing(reason));

        let mut close = close_frame(1000, b"");
        let flow = socket.handle_bytes(&mut close, &mut out, &mut world.context());
        assert_eq!(flow, Flow::Ended(reason));
        assert_eq!(out, b"");
        assert_eq!(world.effects, []);
    }
}

#[test]
fn fault_after_the_servers_close_ends_the_conn_for_the_first_reason() {
    let mut world = World::default();
    let mut socket = WebSocket::new(Envelope::Full, Compression::None);
    let mut out = Vec::new();
    let flow = socket.handle_goodbye(Goodbye::Shutdown, &mut out, &mut world.context());
    assert_eq!(flow, Flow::Closing(CloseReason::Shutdown));
    let length = out.len();
    let flow = socket.handle_bytes(&mut [0xff, 0xff], &mut out, &mut world.context());
    assert_eq!(flow, Flow::Ended(CloseReason::Shutdown));
    assert_eq!(out.len(), length);
}

#[test]
fn heartbeat_is_a_ping_in_both_envelopes() {
    for envelope in [Envelope::Data, Envelope::Full] {
        let mut world = World::default();
        let mut transport = Transport::WebSocket(WebSocket::new(envelope, Compression::None));
        let mut out = Vec::new();
        transport.handle_heartbeat(true, &mut out, &mut world.context());
        assert_eq!(out, [0x89, 0]);
        assert_eq!(world.metrics.heartbeats.value(), 1);
        assert!(transport.expects_pong());
    }
}

#[test]
fn pings_are_answered_up_to_the_backlog_and_then_only_the_newest() {
    let mut world = World::default();
    let mut socket = WebSocket::new(Envelope::Data, Compression::None);
    let mut out = Vec::new();
    for number in 0..5000_u32 {
        let mut ping = frame(0x89, &number.to_be_bytes());
        let flow = socket.handle_bytes(&mut ping, &mut out, &mut world.context());
        assert_eq!(flow, Flow::Open);
        assert!(out.len() < 4096 + 127);
    }
    out.clear();
    socket.handle_drained(&mut out);
    let expected = [(Opcode::Pong, 4999_u32.to_be_bytes().to_vec())];
    assert_eq!(server_frames(&out), expected);
    assert!(socket.pending.is_none());
    // A ping is never answered twice.
    out.clear();
    socket.handle_drained(&mut out);
    assert_eq!(out, b"");
}

#[test]
fn client_with_too_many_unread_answers_is_closed() {
    let mut world = World::default();
    let mut socket = WebSocket::new(Envelope::Full, Compression::None);
    let mut out = Vec::new();
    let flow = (0..1000)
        .map(|_| {
            let mut input = frame(0x81, b"x").repeat(10);
            socket.handle_bytes(&mut input, &mut out, &mut world.context())
        })
        .find(|flow| *flow != Flow::Open);
    assert_eq!(flow, Some(Flow::Ended(CloseReason::Overflow)));
    assert!(out.len() < crate::config::limits::CONTROL_BYTES_MAX + 512);
    assert_eq!(
        server_frames(&out).last().unwrap().1[..2],
        4100_u16.to_be_bytes()
    );
    assert_eq!(world.effects, [Effect::NoteUnsentAnswers]);
}

#[test]
fn join_by_request_sends_welcome_then_gaps_then_channels_with_one_position() {
    let world = &mut World::default();
    let socket = WebSocket::new(Envelope::Full, Compression::None);
    let outcomes = [
        JoinOutcome::Joined(Joined {
            position: cursor(17),
            is_recovered: true,
            gap: None,
        }),
        JoinOutcome::Joined(Joined {
            position: cursor(40),
            is_recovered: false,
            gap: Some(gap()),
        }),
        JoinOutcome::TooManyChannels,
    ];
    let join = join(&["a", "b", "c"], Origin::Request);
    let mut out = Vec::new();
    let flow = socket.handle_joined(&join, &outcomes, &mut out, &world.context());
    let outcome = Outcome {
        frames: server_frames(&out),
        flow,
        effects: Vec::new(),
    };
    let expected = [
        r#"{"type":"welcome","conn":"0000000000000fa9000300000005000000000007","heartbeat_ms":25000}"#,
        concat!(
            r#"{"type":"gap","channel":"b","since":null,"until":"000000000abc-40","#,
            r#""missed":null,"cause":"restart"}"#
        ),
        r#"{"type":"subscribed","channel":"a","id":"000000000abc-17","recovered":true}"#,
        r#"{"type":"subscribed","channel":"b","id":"000000000abc-17","recovered":false}"#,
        concat!(
            r#"{"type":"error","code":"too_many_channels","#,
            r#""message":"the connection has reached its limit of channels"}"#
        ),
    ];
    assert_eq!(answers(&outcome), expected);
    assert_eq!(outcome.flow, Flow::Open);
    assert_eq!(world.metrics.gaps.value(), 1);
}

#[test]
fn join_and_leave_by_command_carry_the_reference() {
    let world = &mut World::default();
    let socket = WebSocket::new(Envelope::Full, Compression::None);
    let reference = Reference::from_json("\"r\"");
    let mut out = Vec::new();
    let joined = JoinOutcome::Joined(Joined {
        position: cursor(1),
        is_recovered: false,
        gap: None,
    });
    for outcome in [joined, JoinOutcome::AlreadyJoined] {
        let join = join(&["a"], Origin::Command(reference.clone()));
        let flow = socket.handle_joined(&join, &[outcome], &mut out, &world.context());
        assert_eq!(flow, Flow::Open);
    }
    let leave = Leave {
        channel: channel("a"),
        reference,
    };
    for was_subscribed in [true, false] {
        let event = StreamEvent::Left(&leave, was_subscribed);
        socket.handle_event(event, &mut out, &world.context());
    }
    let outcome = Outcome {
        frames: server_frames(&out),
        flow: Flow::Open,
        effects: Vec::new(),
    };
    let expected = [
        r#"{"type":"subscribed","channel":"a","id":"000000000abc-1","recovered":false,"ref":"r"}"#,
        concat!(
            r#"{"type":"error","code":"already_subscribed","#,
            r#""message":"the connection is already subscribed to the channel","ref":"r"}"#
        ),
        r#"{"type":"unsubscribed","channel":"a","ref":"r"}"#,
        concat!(
            r#"{"type":"error","code":"not_subscribed","#,
            r#""message":"the connection is not subscribed to the channel","ref":"r"}"#
        ),
    ];
    assert_eq!(answers(&outcome), expected);
    assert_eq!(world.metrics.client_commands_refused.value(), 2);
}

#[test]
fn data_envelope_has_no_messages_of_the_subprotocol() {
    let world = &mut World::default();
    let socket = WebSocket::new(Envelope::Data, Compression::None);
    let join = join(&["a"], Origin::Request);
    let outcomes = [JoinOutcome::Joined(Joined {
        position: cursor(40),
        is_recovered: false,
        gap: Some(gap()),
    })];
    let mut out = Vec::new();
    let flow = socket.handle_joined(&join, &outcomes, &mut out, &world.context());
    assert_eq!(flow, Flow::Open);
    let (name, gap) = (channel("a"), gap());
    socket.handle_event(StreamEvent::Gap(&name, &gap), &mut out, &world.context());
    assert_eq!(out, b"");
    assert_eq!(world.metrics.gaps.value(), 0);
}

#[test]
fn close_reason_of_every_fault_fits_a_control_frame() {
    let mut world = World::default();
    world.config.limits.client_message_bytes = u32::MAX;
    for input in [
        &[0x70_u8][..],
        &[0x83],
        &[0x08],
        &[0x81, 0x00],
        &[0x89, 0xfe],
    ] {
        let mut socket = WebSocket::new(Envelope::Full, Compression::None);
        let mut out = Vec::new();
        let flow = socket.handle_bytes(&mut input.to_vec(), &mut out, &mut world.context());
        assert_eq!(flow, Flow::Ended(CloseReason::ProtocolError));
        let frames = server_frames(&out);
        assert_eq!(frames.len(), 1);
        assert_eq!(frames[0].1[..2], 1002_u16.to_be_bytes());
        assert!(std::str::from_utf8(&frames[0].1[2..]).is_ok());
    }
}

/// An input of the property tests.
#[derive(Clone, Debug)]
enum ClientInput {
    /// A ping command, split into this number of fragments. A protocol-level ping is sent after
    /// each fragment except the last.
    Command { reference: u32, fragments: usize },
    /// A binary message, which is not a command.
    Binary(Vec<u8>),
    /// A protocol-level ping.
    Ping(Vec<u8>),
    /// An unsolicited pong.
    Pong(Vec<u8>),
}

impl ClientInput {
    fn strategy() -> impl Strategy<Value = Self> {
        let bytes = || proptest::collection::vec(any::<u8>(), 0..126);
        prop_oneof![
            (any::<u32>(), 1_usize..5).prop_map(|(reference, fragments)| Self::Command {
                reference,
                fragments
            }),
            proptest::collection::vec(any::<u8>(), 0..400).prop_map(Self::Binary),
            bytes().prop_map(Self::Ping),
            bytes().prop_map(Self::Pong),
        ]
    }

    /// Appends the client's bytes to `input`, and the expected answers to `expected`.
    fn push(&self, key: [u8; 4], input: &mut Vec<u8>, expected: &mut Vec<(Opcode, Vec<u8>)>) {
        let mut send = |first: u8, payload: &[u8]| {
            input.extend(frame_with_key(first, payload, key));
        };
        match self {
            Self::Command {
                reference,
                fragments,
            } => {
                let text = format!(r#"{{"type":"ping","ref":{reference},"pad":"äöü"}}"#);
                let pieces: Vec<&[u8]> = text
                    .as_bytes()
                    .chunks(text.len().div_ceil(*fragments))
                    .collect();
                for (at, piece) in pieces.iter().enumerate() {
                    let opcode = u8::from(at == 0);
                    let is_final = at + 1 == pieces.len();
                    send(opcode | u8::from(is_final) << 7, piece);
                    if !is_final {
                        send(0x89, b"between");
                        expected.push((Opcode::Pong, b"between".to_vec()));
                    }
                }
                let answer = format!(r#"{{"type":"pong","ref":{reference}}}"#);
                expected.push((Opcode::Text, answer.into_bytes()));
            }
            Self::Binary(bytes) => {
                send(0x82, bytes);
                let answer = concat!(
                    r#"{"type":"error","code":"binary_message","#,
                    r#""message":"a command is a text message"}"#
                );
                expected.push((Opcode::Text, answer.as_bytes().to_vec()));
            }
            Self::Ping(payload) => {
                send(0x89, payload);
                expected.push((Opcode::Pong, payload.clone()));
            }
            Self::Pong(payload) => send(0x8a, payload),
        }
    }
}

/// Splits the input at these positions. Each position is reduced modulo the input's length plus
/// one.
pub(super) fn cut_at<'a>(input: &'a [u8], places: &[usize]) -> Vec<&'a [u8]> {
    let mut ends: Vec<usize> = places.iter().map(|at| at % (input.len() + 1)).collect();
    ends.push(input.len());
    ends.sort_unstable();
    let mut start = 0;
    let mut parts = Vec::new();
    for end in ends {
        parts.push(&input[start..end]);
        start = end;
    }
    parts
}

proptest! {
    #[test]
    fn every_cut_of_a_valid_conversation_has_the_expected_answers(
        messages in proptest::collection::vec(ClientInput::strategy(), 0..12),
        key in any::<[u8; 4]>(),
        places in proptest::collection::vec(any::<usize>(), 0..20),
    ) {
        let mut input = Vec::new();
        let mut expected = Vec::new();
        for message in &messages {
            message.push(key, &mut input, &mut expected);
        }
        let outcome = run(Envelope::Full, &cut_at(&input, &places));
        prop_assert_eq!(outcome.frames, expected);
        prop_assert_eq!(outcome.flow, Flow::Open);
    }

    #[test]
    fn garbage_ends_in_the_same_state_at_every_cut(
        input in proptest::collection::vec(
            prop_oneof![
                any::<u8>(),
                prop::sample::select(b"\x81\x01\x80\x00\x82\x89\x88\xfe\xff\x85".to_vec())
            ],
            0..200,
        ),
        places in proptest::collection::vec(any::<usize>(), 0..8),
    ) {
        for envelope in [Envelope::Data, Envelope::Full] {
            let whole = run(envelope, &[&input]);
            let in_parts = run(envelope, &cut_at(&input, &places));
            prop_assert_eq!(&whole, &in_parts);
            match whole.flow {
                Flow::Open => prop_assert!(whole.frames.iter().all(|f| f.0 != Opcode::Close)),
                Flow::Ended(_) => prop_assert_eq!(whole.frames.last().unwrap().0, Opcode::Close),
                Flow::Closing(reason) => prop_assert!(false, "closing for {:?}", reason),
            }
        }
    }
}
