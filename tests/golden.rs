//! Compares encoded frames of each kind byte by byte with committed files, the golden wire bytes.
//!
//! If the wire format changes, the comparison fails, and `FANFARE_GOLDEN=write` writes the files
//! again. Review the difference before you commit it. The files do not contain long filler
//! payloads. Instead the test compares the header, both ends, and the uniform middle.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::string_slice,
    clippy::unwrap_used,
    reason = "a test may panic"
)]

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use fanfare::frame::websocket::{Opcode, push_frame};
use fanfare::frame::{Compressor, Envelope, FrameKind, Payload, Publication};
use fanfare::id::{ChannelName, Cursor, Epoch, Sequence};
use fanfare::time::Now;

const KINDS: [(&str, FrameKind); 6] = [
    ("sse-data", FrameKind::EventStream(Envelope::Data)),
    ("sse-full", FrameKind::EventStream(Envelope::Full)),
    (
        "sse10-data",
        FrameKind::EventStreamUntilClose(Envelope::Data),
    ),
    (
        "sse10-full",
        FrameKind::EventStreamUntilClose(Envelope::Full),
    ),
    ("ws-data", FrameKind::WebSocket(Envelope::Data)),
    ("ws-full", FrameKind::WebSocket(Envelope::Full)),
];

fn publication(channel: &str, event: Option<&str>, payload: Payload) -> Publication {
    let id = Cursor {
        epoch: Epoch::new(0x0123_4567_89ab),
        sequence: Sequence(42),
    };
    let channel = ChannelName::new(channel).unwrap();
    Publication::new(id, channel, payload, Now(0), &Arc::default())
        .labelled(event.map(Box::from), None)
}

fn wire(publication: &Publication, kind: FrameKind) -> Vec<u8> {
    let frames = publication.frames();
    let frame = frames.encode(publication, kind, &mut Compressor::default());
    frame.unwrap().wire(kind).to_vec()
}

fn json(text: &str) -> Payload {
    Payload::Json(Box::from(text))
}

fn text(text: &str) -> Payload {
    Payload::Text(Box::from(text))
}

/// Compares the bytes with the file of this name, or writes the file.
fn compare(name: &str, wire: &[u8]) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(format!("{name}.bin"));
    if std::env::var_os("FANFARE_GOLDEN").is_some_and(|value| value == "write") {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, wire).unwrap();
        return;
    }
    let golden = fs::read(&path).unwrap_or_else(|error| {
        panic!("{}: {error}; run with FANFARE_GOLDEN=write", path.display())
    });
    assert!(
        golden == wire,
        "{name} differs\n golden: {}\n    now: {}",
        golden.escape_ascii(),
        wire.escape_ascii()
    );
}

fn compare_every_kind(name: &str, publication: &Publication) {
    for (kind_name, kind) in KINDS {
        compare(&format!("{name}.{kind_name}"), &wire(publication, kind));
    }
}

#[test]
fn json_payload_is_passed_on_byte_for_byte() {
    let payload = json(r#"{"price":1.50,"note":"ünï \u0041 <&> \\"}"#);
    compare_every_kind("json", &publication("prices:eur", None, payload));
}

#[test]
fn event_type_has_its_field_and_its_key() {
    compare_every_kind(
        "event",
        &publication("prices", Some("tick \"up\""), json("1")),
    );
}

#[test]
fn trace_context_is_the_last_key_of_the_envelope_and_absent_without_one() {
    let context = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let context = context.parse().map(Box::new).unwrap();
    let publication = publication("prices", Some("tick"), json("1")).traced(Some(context));
    compare_every_kind("traced", &publication);
    for (name, kind) in KINDS {
        if let Some(transport) = name.strip_suffix("-full") {
            let wire = wire(&publication, kind.initial());
            compare(&format!("traced-initial.{transport}-full"), &wire);
        }
    }
    compare(
        "traced.poll-data",
        &wire(&publication, FrameKind::Poll(Envelope::Data)),
    );
    compare(
        "traced.poll-full",
        &wire(&publication, FrameKind::Poll(Envelope::Full)),
    );
}

#[test]
fn initial_publication_has_its_mark_before_the_payload_and_none_without_an_envelope() {
    let publication = publication("prices", Some("tick"), json("1"));
    let bytes = |kind| wire(&publication, kind);
    for (name, kind) in KINDS {
        let wire = bytes(kind.initial());
        match name.strip_suffix("-full") {
            Some(transport) => compare(&format!("initial.{transport}-full"), &wire),
            None => assert_eq!(wire, bytes(kind)),
        }
    }
}

#[test]
fn text_of_several_lines_becomes_several_data_lines() {
    let payload = text("first\nsecond\r\nthird\rfourth\n\n: no comment\nid: no field\n");
    compare_every_kind("lines", &publication("chat:42", None, payload));
}

#[test]
fn bytes_are_binary_or_base64() {
    let payload = Payload::Bytes(Box::from(&[0, 1, 2, 0xfd, 0xfe, 0xff, b'\n'][..]));
    compare_every_kind("bytes", &publication("камера", None, payload));
}

#[test]
fn empty_payload_is_still_a_publication() {
    compare_every_kind("empty-text", &publication("a", None, text("")));
    compare_every_kind(
        "empty-bytes",
        &publication("a", None, Payload::Bytes(Box::from(&[][..]))),
    );
}

#[test]
fn length_takes_the_shortest_form_at_every_edge() {
    let kind = FrameKind::WebSocket(Envelope::Data);
    for (length, header) in [(125, 2), (126, 4), (65_535, 4), (65_536, 10)] {
        let publication = publication("a", None, text(&"x".repeat(length)));
        let wire = wire(&publication, kind);
        compare(&format!("length-{length}.ws-header"), &wire[..header]);
        assert_eq!(wire.len(), header + length);
        assert!(wire[header..].iter().all(|byte| *byte == b'x'));
    }
}

#[test]
fn compressed_message_is_marked_and_an_incompressible_one_is_plain() {
    let rows = r#"{"symbol":"EURUSD","bid":1.0934,"ask":1.0936},"#.repeat(20);
    let long = publication("prices", None, json(&format!("[{rows}0]")));
    let short = publication("prices", None, json("[0]"));
    for (name, envelope) in [("data", Envelope::Data), ("full", Envelope::Full)] {
        let (plain, deflated) = (
            FrameKind::WebSocket(envelope),
            FrameKind::WebSocketDeflated(envelope),
        );
        let compressed = wire(&long, deflated);
        // Another version of the compressor may produce other bytes. Write the files again if the
        // new bytes are marked as compressed and inflate to the message.
        compare(&format!("rows.ws-deflated-{name}"), &compressed);
        assert_eq!(wire(&short, deflated), wire(&short, plain));
    }
}

#[test]
fn long_event_is_one_chunk_with_its_size_in_hexadecimal() {
    let kind = FrameKind::EventStream(Envelope::Data);
    let publication = publication("a", None, text(&"x".repeat(65_536)));
    let wire = wire(&publication, kind);
    let start = wire.iter().position(|byte| *byte == b'x').unwrap();
    let end = wire.iter().rposition(|byte| *byte == b'x').unwrap() + 1;
    assert_eq!(end - start, 65_536);
    compare("length-65536.sse-start", &wire[..start]);
    compare("length-65536.sse-end", &wire[end..]);
}

#[test]
fn control_frames_carry_their_opcode() {
    for (name, opcode, payload) in [
        ("ping", Opcode::Ping, &b"beat"[..]),
        ("pong", Opcode::Pong, b""),
        ("close", Opcode::Close, b"\x03\xf4retry_ms=1500"),
    ] {
        let mut wire = Vec::new();
        push_frame(opcode, payload, &mut wire);
        compare(&format!("control-{name}.ws"), &wire);
    }
}
