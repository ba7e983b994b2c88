//! Tests of compressed messages from clients (RFC 7692, 6 and 7), as tables. Every input is passed
//! in one piece, byte by byte, and in two pieces that are split at every position.

use flate2::{Compress, Compression as Level, FlushCompress};
use proptest::prelude::*;

use super::super::*;
use super::{Outcome, cut_at, frame, frame_with_key, run_every_cut_with, run_with, server_frames};
use crate::transport::test_context::World;

const PING: &str = r#"{"type":"ping","ref":1}"#;
const PONG: &str = r#"{"type":"pong","ref":1}"#;

/// Compresses a message as a client does.
fn deflate(message: &[u8]) -> Vec<u8> {
    let mut engine = Compress::new(Level::best(), false);
    let mut out = Vec::with_capacity(message.len() + 64);
    engine
        .compress_vec(message, &mut out, FlushCompress::Sync)
        .unwrap();
    assert!(out.ends_with(&[0, 0, 0xff, 0xff]));
    out.truncate(out.len() - 4);
    out
}

fn run_every_cut(envelope: Envelope, input: &[u8]) -> Outcome {
    run_every_cut_with(Compression::Deflate, envelope, input)
}

fn check_failed(case: &str, input: &[u8], code: u16) {
    let reason = match code {
        1002 => CloseReason::ProtocolError,
        1009 => CloseReason::MessageTooBig,
        other => panic!("no fault of the protocol has code {other}"),
    };
    check_failed_for(case, input, code, reason);
}

fn check_failed_for(case: &str, input: &[u8], code: u16, reason: CloseReason) {
    for envelope in [Envelope::Data, Envelope::Full] {
        let outcome = run_every_cut(envelope, input);
        assert_eq!(outcome.flow, Flow::Ended(reason), "{case}");
        let (opcode, body) = outcome.frames.last().unwrap();
        assert_eq!(*opcode, Opcode::Close, "{case}");
        assert_eq!(body[..2], code.to_be_bytes(), "{case}");
    }
}

fn check_open(case: &str, input: &[u8], answers: &[(Opcode, &[u8])]) {
    let outcome = run_every_cut(Envelope::Full, input);
    assert_eq!(outcome.flow, Flow::Open, "{case}");
    let expected: Vec<_> = answers
        .iter()
        .map(|(opcode, payload)| (*opcode, payload.to_vec()))
        .collect();
    assert_eq!(outcome.frames, expected, "{case}");
    let outcome = run_every_cut(Envelope::Data, input);
    assert_eq!(outcome.flow, Flow::Open, "{case}");
}

#[test]
fn compressed_and_plain_commands_can_be_mixed() {
    let compressed = deflate(PING.as_bytes());
    let answer = (Opcode::Text, PONG.as_bytes());
    check_open("whole", &frame(0xc1, &compressed), &[answer]);
    let mixed = [
        frame(0x81, PING.as_bytes()),
        frame(0xc1, &compressed),
        frame(0x81, PING.as_bytes()),
        frame(0xc1, &compressed),
    ];
    check_open("mixed", &mixed.concat(), &[answer; 4]);
}

#[test]
fn inflated_bytes_cost_work_in_every_message() {
    for (first, envelope) in [(0xc1, Envelope::Data), (0xc2, Envelope::Full)] {
        let input = frame(first, &deflate(&vec![b' '; 60_000])).repeat(20);
        let mut world = World::default();
        let mut socket = WebSocket::new(envelope, Compression::Deflate);
        let mut out = Vec::new();
        let flow = socket.handle_bytes(&mut input.clone(), &mut out, &mut world.context());
        assert_eq!(flow, Flow::Open);
        let mut calls = 1;
        while socket.has_unhandled() {
            calls += 1;
            let flow = socket.handle_bytes(&mut [], &mut out, &mut world.context());
            assert_eq!(flow, Flow::Open);
        }
        assert_eq!(calls, 20, "each exceeds the work budget of a call");
        assert_eq!(world.metrics.client_messages_inflated.value(), 20);
    }
}

#[test]
fn compressed_message_in_fragments_is_inflated_at_its_end() {
    let compressed = deflate(PING.as_bytes());
    let (first, rest) = compressed.split_at(5);
    let (second, third) = rest.split_at(9);
    let input = [
        frame(0x41, first),
        frame(0x89, b"a"),
        frame(0x00, second),
        frame(0x00, b""),
        frame(0x89, b"b"),
        frame(0x80, third),
    ];
    let answers = [
        (Opcode::Pong, &b"a"[..]),
        (Opcode::Pong, b"b"),
        (Opcode::Text, PONG.as_bytes()),
    ];
    check_open("fragments", &input.concat(), &answers);
    let empty_ends = [frame(0x41, b""), frame(0x00, &compressed), frame(0x80, b"")];
    check_open("empty ends", &empty_ends.concat(), &answers[2..]);
}

#[test]
fn rsv1_is_accepted_on_first_frames_of_messages_only() {
    let compressed = deflate(PING.as_bytes());
    let (first, rest) = compressed.split_at(7);
    for (case, input) in [
        ("ping", frame(0xc9, b"")),
        ("pong", frame(0xca, b"")),
        ("close", frame(0xc8, b"")),
        (
            "continuation",
            [frame(0x41, first), frame(0xc0, rest)].concat(),
        ),
        (
            "in the midst",
            [frame(0x41, first), frame(0x40, rest)].concat(),
        ),
        (
            "of a plain one",
            [frame(0x01, b"a"), frame(0xc0, b"b")].concat(),
        ),
        (
            "ping between",
            [frame(0x41, first), frame(0xc9, b"")].concat(),
        ),
        ("continuation of nothing", frame(0xc0, &compressed)),
        ("reserved opcode", frame(0xc3, &compressed)),
        ("second bit", frame(0xa1, b"{}")),
        ("third bit", frame(0x91, b"{}")),
        ("all bits", frame(0xf1, &compressed)),
        (
            "message in message",
            [frame(0x41, first), frame(0xc1, rest)].concat(),
        ),
    ] {
        check_failed(case, &input, 1002);
    }
    let without = run_with(
        Compression::None,
        Envelope::Full,
        &[&frame(0xc1, &compressed)],
    );
    assert_eq!(without.flow, Flow::Ended(CloseReason::ProtocolError));
}

#[test]
fn message_that_cannot_be_inflated_ends_the_conn() {
    let compressed = deflate(PING.as_bytes());
    for (case, broken) in [
        ("garbage", &[0xff; 12][..]),
        ("cut off", &compressed[..compressed.len() - 1]),
        ("a reserved block type", &[0x07]),
        (
            "a reference to what was before",
            &[0xf2, 0x00, 0x11, 0x00, 0x00],
        ),
        ("plain text", PING.as_bytes()),
    ] {
        for first in [0xc1, 0xc2] {
            let input = [frame(first, broken), frame(0x89, b"late")].concat();
            check_failed_for(case, &input, 1007, CloseReason::InvalidDeflate);
        }
        let (start, end) = broken.split_at(broken.len() / 2);
        let input = [frame(0x42, start), frame(0x80, end)].concat();
        check_failed_for(case, &input, 1007, CloseReason::InvalidDeflate);
    }
}

#[test]
fn utf8_of_a_compressed_text_is_checked_when_it_is_inflated() {
    for text in [&b"\xff"[..], b"\xc3", b"ab\xed\xa0\x80c"] {
        let compressed = deflate(text);
        let whole = frame(0xc1, &compressed);
        check_failed_for("text", &whole, 1007, CloseReason::InvalidText);
        let (start, end) = compressed.split_at(1);
        let parts = [frame(0x41, start), frame(0x80, end)].concat();
        check_failed_for("fragments", &parts, 1007, CloseReason::InvalidText);
        let binary = run_every_cut(Envelope::Data, &frame(0xc2, &compressed));
        assert_eq!(binary.flow, Flow::Open);
    }
    // A fragment may end in the middle of a character.
    let text = deflate("äöü€𝄞".as_bytes());
    let bytes: Vec<Vec<u8>> = text.iter().map(|byte| frame(0x00, &[*byte])).collect();
    let input = [frame(0x41, b""), bytes.concat(), frame(0x80, b"")].concat();
    assert_eq!(run_every_cut(Envelope::Data, &input).flow, Flow::Open);
}

#[test]
fn bomb_is_refused_at_the_limit_on_messages() {
    let limit = 65_536;
    let bomb = deflate(&vec![b'x'; 16 << 20]);
    assert!(bomb.len() < 17_000);
    check_failed("whole", &frame(0xc1, &bomb), 1009);
    let mut pieces: Vec<Vec<u8>> = bomb.chunks(1000).map(|piece| frame(0x00, piece)).collect();
    pieces.insert(0, frame(0x42, b""));
    pieces.push(frame(0x80, b""));
    check_failed("fragments", &pieces.concat(), 1009);
    let one_more = deflate(&vec![b'x'; limit + 1]);
    check_failed("one more", &frame(0xc2, &one_more), 1009);
    let just = deflate(&vec![b'x'; limit]);
    let outcome = run_every_cut(Envelope::Data, &frame(0xc1, &just));
    assert_eq!(outcome.flow, Flow::Open);
}

#[test]
fn bomb_leaves_no_state_and_grows_the_inflater_to_the_limit_only() {
    let mut world = World::default();
    let mut socket = WebSocket::new(Envelope::Data, Compression::Deflate);
    let mut input = frame(0xc2, &deflate(&vec![0; 16 << 20]));
    let flow = socket.handle_bytes(&mut input, &mut Vec::new(), &mut world.context());
    assert_eq!(flow, Flow::Ended(CloseReason::MessageTooBig));
    assert!(socket.pending.is_none());
    assert_eq!(world.inflater.take_inflated_bytes(), 65_537);
    assert_eq!(world.metrics.client_messages_inflated.value(), 0);
}

#[test]
fn longest_incompressible_message_is_accepted() {
    let mut random = fastrand::Rng::with_seed(5);
    let noise: Vec<u8> = (0..65_536).map(|_| random.u8(..)).collect();
    let compressed = deflate(&noise);
    assert!(compressed.len() > noise.len());
    let input = frame(0xc2, &compressed);
    let outcome = run_with(Compression::Deflate, Envelope::Data, &[&input]);
    assert_eq!(outcome.flow, Flow::Open);
    let (start, end) = compressed.split_at(40_000);
    let input = [frame(0x42, start), frame(0x80, end)].concat();
    let pieces: Vec<&[u8]> = input.chunks(1000).collect();
    let outcome = run_with(Compression::Deflate, Envelope::Data, &pieces);
    assert_eq!(outcome.flow, Flow::Open);
}

#[test]
fn compressed_message_longer_than_any_compressor_output_is_refused_by_its_header() {
    let header = [0xc2, 0xff, 0, 0, 0, 0, 0, 2, 0, 0, 1, 2, 3, 4];
    check_failed("announced", &header, 1009);
    // The input consists of empty blocks that inflate to nothing and never end the stream.
    let blocks = [0, 0, 0, 0xff, 0xff].repeat(4000);
    let input = [frame(0x42, &blocks), vec![0x00; 0]].concat();
    let endless: Vec<Vec<u8>> = (0..4).map(|_| frame(0x00, &blocks)).collect();
    let input = [input, endless.concat()].concat();
    for envelope in [Envelope::Data, Envelope::Full] {
        let outcome = run_with(Compression::Deflate, envelope, &[&input]);
        assert_eq!(outcome.flow, Flow::Ended(CloseReason::MessageTooBig));
    }
}

#[test]
fn state_is_released_whenever_no_compressed_message_is_incomplete() {
    let mut world = World::default();
    let mut socket = WebSocket::new(Envelope::Full, Compression::Deflate);
    let compressed = deflate(PING.as_bytes());
    let input = [frame(0x41, &compressed), frame(0x80, b"")].concat();
    let mut out = Vec::new();
    for at in 0..input.len() {
        let mut byte = [input[at]];
        let flow = socket.handle_bytes(&mut byte, &mut out, &mut world.context());
        assert_eq!(flow, Flow::Open);
        assert_eq!(socket.pending.is_none(), at + 1 == input.len(), "{at}");
    }
    assert_eq!(world.metrics.client_messages_inflated.value(), 1);
    assert_eq!(server_frames(&out).len(), 1);
}

#[test]
fn control_messages_are_uncompressed_and_publications_are_compressed() {
    for (envelope, kind) in [
        (Envelope::Data, FrameKind::WebSocketDeflated(Envelope::Data)),
        (Envelope::Full, FrameKind::WebSocketDeflated(Envelope::Full)),
    ] {
        let socket = WebSocket::new(envelope, Compression::Deflate);
        assert_eq!(socket.frame_kind(), kind);
    }
    // The server's frames are not compressed, because `server_frames` would refuse compressed
    // frames.
    let refused = frame(0xc1, &deflate(b"{"));
    let outcome = run_every_cut(Envelope::Full, &refused);
    assert_eq!(outcome.frames.len(), 1);
}

proptest! {
    #[test]
    fn compressed_messages_have_the_outcome_of_plain_ones_at_every_cut(
        messages in prop::collection::vec(
            ("[a-z{}\"é ]{0,300}", any::<bool>(), any::<bool>(), 1_usize..5),
            0..8,
        ),
        key in any::<[u8; 4]>(),
        places in prop::collection::vec(any::<usize>(), 0..20),
    ) {
        let (mut plain, mut input) = (Vec::new(), Vec::new());
        for (text, is_text, is_compressed, count) in &messages {
            let opcode = if *is_text { 1 } else { 2 };
            plain.extend(frame(0x80 | opcode, text.as_bytes()));
            let (bit, payload) = match is_compressed {
                true => (0x40, deflate(text.as_bytes())),
                false => (0, text.clone().into_bytes()),
            };
            let size = payload.len().div_ceil(*count).max(1);
            let mut pieces: Vec<&[u8]> = payload.chunks(size).collect();
            if pieces.is_empty() {
                pieces.push(b"");
            }
            for (at, piece) in pieces.iter().enumerate() {
                let first = if at == 0 { bit | opcode } else { 0 };
                let fin = u8::from(at + 1 == pieces.len()) << 7;
                input.extend(frame_with_key(fin | first, piece, key));
            }
        }
        for envelope in [Envelope::Data, Envelope::Full] {
            let expected = run_with(Compression::None, envelope, &[&plain]);
            let parts = cut_at(&input, &places);
            prop_assert_eq!(run_with(Compression::Deflate, envelope, &parts), expected);
        }
    }

    #[test]
    fn compressed_garbage_ends_in_the_same_state_at_every_cut(
        input in prop::collection::vec(
            prop_oneof![
                any::<u8>(),
                prop::sample::select(b"\xc1\x41\x80\x00\xc2\x89\xf2\x48\x85\x81".to_vec())
            ],
            0..200,
        ),
        places in prop::collection::vec(any::<usize>(), 0..8),
    ) {
        for envelope in [Envelope::Data, Envelope::Full] {
            let whole = run_with(Compression::Deflate, envelope, &[&input]);
            let in_parts = run_with(Compression::Deflate, envelope, &cut_at(&input, &places));
            prop_assert_eq!(whole, in_parts);
        }
    }
}
