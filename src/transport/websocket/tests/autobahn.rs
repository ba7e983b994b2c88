//! The cases of the Autobahn test suite, as tables. The test names contain the suite's case
//! numbers. The suite expects an echo of each message. These tests expect instead that the conn
//! stays open.

use super::super::*;
use super::{Outcome, close_frame, frame, run, run_every_cut};

const HELLO: &[u8] = b"Hello";

fn check_open(case: &str, input: &[u8], pongs: &[&[u8]]) {
    let outcome = run_every_cut(Envelope::Data, input);
    assert_eq!(outcome.flow, Flow::Open, "{case}");
    let expected: Vec<_> = pongs
        .iter()
        .map(|pong| (Opcode::Pong, pong.to_vec()))
        .collect();
    assert_eq!(outcome.frames, expected, "{case}");
}

/// Checks that the conn ends with this close code, and that bytes after the fault have no effect.
fn check_failed(case: &str, input: &[u8], pongs: usize, code: u16) {
    let expected_flow = Flow::Ended(match code {
        1002 => CloseReason::ProtocolError,
        1007 => CloseReason::InvalidText,
        1009 => CloseReason::MessageTooBig,
        other => panic!("no fault has code {other}"),
    });
    for envelope in [Envelope::Data, Envelope::Full] {
        let Outcome { frames, flow, .. } = run_every_cut(envelope, input);
        assert_eq!(flow, expected_flow, "{case}");
        let own = frames
            .iter()
            .filter(|frame| frame.0 == Opcode::Pong)
            .count();
        assert_eq!(own, pongs, "{case}");
        let (opcode, body) = frames.last().unwrap();
        assert_eq!(*opcode, Opcode::Close, "{case}");
        assert_eq!(body[..2], code.to_be_bytes(), "{case}");
    }
}

/// Checks that the client's close frame is echoed, and that bytes after this frame have no effect.
fn check_closed(case: &str, input: &[u8], echo: &[u8]) {
    let outcome = run_every_cut(Envelope::Data, input);
    assert_eq!(outcome.flow, Flow::Ended(CloseReason::Done), "{case}");
    assert_eq!(outcome.frames, [(Opcode::Close, echo.to_vec())], "{case}");
}

fn fragments(opcode: u8, pieces: &[&[u8]]) -> Vec<u8> {
    let last = pieces.len() - 1;
    let frames = pieces.iter().enumerate().map(|(at, piece)| {
        let first = if at == 0 { opcode } else { 0 };
        frame(first | u8::from(at == last) << 7, piece)
    });
    frames.collect::<Vec<_>>().concat()
}

#[test]
fn case_1_messages_of_every_length_form_are_read() {
    for length in [0, 125, 126, 127, 128, 65_535, 65_536] {
        check_open("1.1", &frame(0x81, &vec![b'*'; length]), &[]);
        check_open("1.2", &frame(0x82, &vec![0xfe; length]), &[]);
    }
    let long = frame(0x81, &vec![b'*'; 65_536]);
    let chopped: Vec<&[u8]> = long.chunks(997).collect();
    assert_eq!(run(Envelope::Data, &chopped).flow, Flow::Open, "1.1.8");
    check_failed("over the limit", &frame(0x81, &vec![b'*'; 65_537]), 0, 1009);
}

#[test]
fn case_2_pings_are_answered_and_pongs_are_not() {
    let binary = [0x00, 0xff, 0xfe, 0xfd, 0xfc, 0xfb, 0x00, 0xff];
    check_open("2.1", &frame(0x89, b""), &[b""]);
    check_open("2.2", &frame(0x89, HELLO), &[HELLO]);
    check_open("2.3", &frame(0x89, &binary), &[&binary]);
    check_open("2.4", &frame(0x89, &[0xfe; 125]), &[&[0xfe; 125]]);
    check_failed("2.5", &frame(0x89, &[0xfe; 126]), 0, 1002);
    check_open("2.7", &frame(0x8a, b""), &[]);
    check_open("2.8", &frame(0x8a, b"unsolicited"), &[]);
    let pong_then_ping = [frame(0x8a, b"unsolicited"), frame(0x89, b"ping")].concat();
    check_open("2.9", &pong_then_ping, &[b"ping"]);
    let payloads: Vec<Vec<u8>> = (0..10)
        .map(|at| format!("payload-{at}").into_bytes())
        .collect();
    let pings: Vec<Vec<u8>> = payloads
        .iter()
        .map(|payload| frame(0x89, payload))
        .collect();
    let pongs: Vec<&[u8]> = payloads.iter().map(Vec::as_slice).collect();
    check_open("2.10", &pings.concat(), &pongs);
}

#[test]
fn case_3_reserved_bits_end_the_conn() {
    let text = frame(0x81, HELLO);
    let ping = frame(0x89, b"");
    check_failed("3.1", &frame(0x81 | 0x10, HELLO), 0, 1002);
    for rsv in [0x20, 0x30, 0x40] {
        let input = [&text[..], &frame(0x81 | rsv, HELLO), &ping].concat();
        check_failed("3.2 3.3 3.4", &input, 0, 1002);
    }
    check_failed("3.5", &frame(0x82 | 0x50, &[0xff; 8]), 0, 1002);
    check_failed("3.6", &frame(0x89 | 0x60, HELLO), 0, 1002);
    check_failed("3.7", &frame(0x88 | 0x70, b""), 0, 1002);
}

#[test]
fn case_4_reserved_opcodes_end_the_conn() {
    let text = frame(0x81, HELLO);
    for opcode in [3, 4, 5, 6, 7, 11, 12, 13, 14, 15] {
        check_failed("4.1 4.2", &frame(0x80 | opcode, b""), 0, 1002);
        let input = [&text[..], &frame(0x80 | opcode, HELLO), &frame(0x89, b"")].concat();
        check_failed("4.1 4.2", &input, 0, 1002);
    }
}

#[test]
fn case_5_fragmentation_keeps_its_order() {
    let ping = frame(0x89, b"p");
    check_failed(
        "5.1",
        &[frame(0x09, b"a"), frame(0x80, b"b")].concat(),
        0,
        1002,
    );
    check_failed(
        "5.2",
        &[frame(0x0a, b"a"), frame(0x80, b"b")].concat(),
        0,
        1002,
    );
    check_open("5.3", &fragments(1, &[b"fragment1", b"fragment2"]), &[]);
    let interleaved = [&frame(0x01, b"a")[..], &ping, &frame(0x80, b"b")].concat();
    check_open("5.6", &interleaved, &[b"p"]);
    for first in [0x80, 0x00] {
        let input = [frame(first, b"non-continuation"), frame(0x81, HELLO)].concat();
        check_failed("5.9 5.12", &input, 0, 1002);
    }
    let finished = [fragments(1, &[b"a", b"b"]), frame(0x00, b"c")].concat();
    check_failed(
        "5.15",
        &[&finished[..], &frame(0x81, b"d")].concat(),
        0,
        1002,
    );
    let restarted = [frame(0x01, b"a"), frame(0x81, b"b")].concat();
    check_failed("5.18", &restarted, 0, 1002);
    let binary_in_text = [frame(0x01, b"a"), frame(0x02, b"b")].concat();
    check_failed("5.18", &binary_in_text, 0, 1002);
    let busy = [
        &frame(0x01, b"1")[..],
        &frame(0x00, b"2"),
        &ping,
        &frame(0x00, b"3"),
        &frame(0x00, b"4"),
        &ping,
        &frame(0x80, b"5"),
    ]
    .concat();
    check_open("5.19 5.20", &busy, &[b"p", b"p"]);
}

#[test]
fn case_6_text_is_utf8_at_every_cut() {
    check_open("6.1.1", &frame(0x81, b""), &[]);
    check_open("6.1.2", &fragments(1, &[b"", b"", b""]), &[]);
    check_open("6.1.3", &fragments(1, &[b"", b"middle", b""]), &[]);
    let valid = "Hello-µ@ßöäüàá-UTF-8!!".as_bytes();
    check_open("6.2.1", &frame(0x81, valid), &[]);
    check_open("6.2.2", &fragments(1, &[&valid[..7], &valid[7..]]), &[]);
    let octets: Vec<&[u8]> = valid.chunks(1).collect();
    check_open("6.2.3", &fragments(1, &octets), &[]);
    let invalid = b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited";
    check_failed("6.3.1", &frame(0x81, invalid), 0, 1007);
    let octets: Vec<&[u8]> = invalid.chunks(1).collect();
    check_failed("6.3.2", &fragments(1, &octets), 0, 1007);
    // Invalid text is refused before the message is complete.
    check_failed("6.4.1", &frame(0x01, b"\xce\xba\xf4\x90\x80\x80"), 0, 1007);
    let in_mid_frame = &frame(0x81, b"\xce\xba\xf4\x90\x80\x80edited")[..6 + 4];
    check_failed("6.4.3", in_mid_frame, 0, 1007);
    // Binary messages are not checked for UTF-8.
    check_open("binary", &fragments(2, &[b"\xff", b"\xc0"]), &[]);
}

#[test]
fn case_6_valid_sequences_pass() {
    for text in [
        "κόσμε",
        "\u{0}",
        "\u{80}",
        "\u{800}",
        "\u{10000}",
        "\u{7f}",
        "\u{7ff}",
        "\u{ffff}",
        "\u{10ffff}",
        "\u{d7ff}",
        "\u{e000}",
        "\u{fffd}",
        "\u{fffe}",
        "\u{1fffe}",
        "\u{1ffff}",
        "\u{8fffe}",
        "\u{ffffe}",
        "\u{fff9}",
        "\u{fffc}",
    ] {
        check_open(
            "6.5 6.7 6.9 6.11 6.22 6.23",
            &frame(0x81, text.as_bytes()),
            &[],
        );
        let octets: Vec<&[u8]> = text.as_bytes().chunks(1).collect();
        check_open("6.5 6.7 6.9 6.11 6.22 6.23", &fragments(1, &octets), &[]);
    }
}

#[test]
fn case_6_invalid_sequences_fail() {
    let sequences: [&[u8]; 34] = [
        // 6.6: truncated texts.
        b"\xce",
        b"\xce\xba\xe1",
        b"\xce\xba\xe1\xbd",
        b"\xce\xba\xe1\xbd\xb9\xcf",
        // 6.8, 6.10: sequences of five and six bytes, and code points above U+10FFFF.
        b"\xf8\x88\x80\x80\x80",
        b"\xfc\x84\x80\x80\x80\x80",
        b"\xf7\xbf\xbf\xbf",
        b"\xfb\xbf\xbf\xbf\xbf",
        b"\xfd\xbf\xbf\xbf\xbf\xbf",
        b"\xf4\x90\x80\x80",
        // 6.12: continuation bytes without a leading byte.
        b"\x80",
        b"\xbf",
        b"\x80\xbf",
        b"\x80\xbf\x80\xbf\x80\xbf",
        // 6.13: leading bytes without continuation bytes.
        b"\xc0 \xc1 ",
        b"\xe0 \xe1 ",
        b"\xf0 \xf1 ",
        b"\xf8 ",
        b"\xfc ",
        // 6.14, 6.15: sequences whose last byte is missing.
        b"\xdf",
        b"\xef\xbf",
        b"\xf7\xbf\xbf",
        b"\xc0\xe0\x80\xf0\x80\x80",
        // 6.16: bytes that never occur in UTF-8.
        b"\xfe",
        b"\xff",
        b"\xfe\xfe\xff\xff",
        // 6.17 to 6.19: overlong forms.
        b"\xc0\xaf",
        b"\xe0\x80\xaf",
        b"\xf0\x80\x80\xaf",
        b"\xc1\xbf",
        b"\xe0\x9f\xbf",
        b"\xc0\x80",
        // 6.20, 6.21: surrogates.
        b"\xed\xa0\x80",
        b"\xed\xaf\xbf\xed\xbf\xbf",
    ];
    for sequence in sequences {
        check_failed("6.6 to 6.21", &frame(0x81, sequence), 0, 1007);
        let octets: Vec<&[u8]> = sequence.chunks(1).collect();
        check_failed("6.6 to 6.21", &fragments(1, &octets), 0, 1007);
    }
}

#[test]
fn case_7_close_is_echoed_and_later_bytes_are_ignored() {
    let normal = 1000_u16.to_be_bytes();
    let close = close_frame(1000, b"");
    let text = frame(0x81, HELLO);
    check_closed("7.1.1", &[&text[..], &close].concat(), &normal);
    check_closed("7.1.2", &[&close[..], &close].concat(), &normal);
    check_closed("7.1.3", &[&close[..], &frame(0x89, b"")].concat(), &normal);
    check_closed("7.1.4", &[&close[..], &text].concat(), &normal);
    let fragmented = [&frame(0x01, b"a")[..], &close, &frame(0x80, b"b")].concat();
    check_closed("7.1.5", &fragmented, &normal);
    let large = [&frame(0x81, &vec![b'*'; 65_536])[..], &text, &close].concat();
    check_closed("7.1.6", &large, &normal);
    check_closed("7.3.1", &frame(0x88, b""), b"");
    check_failed("7.3.2", &frame(0x88, b"a"), 0, 1002);
    check_closed("7.3.3", &close, &normal);
    check_closed("7.3.4", &close_frame(1000, b"Hello World!"), &normal);
    check_closed("7.3.5", &close_frame(1000, &[b'*'; 123]), &normal);
    check_failed("7.3.6", &close_frame(1000, &[b'*'; 124]), 0, 1002);
    let reason = b"\xce\xba\xe1\xbd\xb9\xed\xa0\x80edited";
    check_failed("7.5.1", &close_frame(1000, reason), 0, 1007);
}

#[test]
fn case_7_close_codes_are_checked() {
    for code in [
        1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999,
    ] {
        check_closed("7.7", &close_frame(code, b""), &code.to_be_bytes());
    }
    for code in [
        0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535,
    ] {
        check_failed("7.9 7.13", &close_frame(code, b""), 0, 1002);
    }
}

#[test]
fn case_10_long_message_in_frames_of_one_segment_is_read() {
    let message = vec![b'*'; 65_536];
    let pieces: Vec<&[u8]> = message.chunks(1300).collect();
    check_open("10.1.1", &fragments(1, &pieces), &[]);
}
