//! WebSocket connections, with the tungstenite client and with hand-written frames.

use std::io::{BufReader, Write as _};

use serde_json::{Value, json};
use tungstenite::Message;

use crate::support::raw::{connect, exchange};
use crate::support::socket::frame;
use crate::support::{Feeder, Raw, Server, Socket};

const TEXT: u8 = 0x81;
const PING: u8 = 0x89;

/// Skips messages up to the first message of this type, and returns that message.
fn next_of_type(socket: &mut Socket, kind: &str) -> Value {
    loop {
        let value = socket.json();
        if value["type"] == kind {
            return value;
        }
    }
}

#[test]
fn subscriber_receives_a_greeting_its_position_and_publications() {
    let server = Server::start();
    let mut feeder = Feeder::connect(&server.feed);
    let before = feeder.publish("a", 0);
    let mut socket = Socket::open(server.addr, "channel=a");
    let welcome = socket.json();
    assert_eq!(welcome["type"], "welcome");
    assert!(welcome["conn"].is_string(), "{welcome}");
    assert_eq!(welcome["heartbeat_ms"], 25_000);
    let subscribed = socket.json();
    assert_eq!(subscribed["type"], "subscribed");
    assert_eq!(subscribed["channel"], "a");
    assert_eq!(subscribed["id"], before.as_str());

    feeder.write("{\"channel\":\"a\",\"event\":\"e\",\"data\":{\"x\": [1, 2]},\"ack\":true}\n");
    let answer = feeder.answer();
    assert_eq!(answer["subscribers"], 1);
    let id = answer["id"].as_str().unwrap();
    let Message::Text(text) = socket.message() else {
        panic!("not text")
    };
    let expected =
        format!("{{\"channel\":\"a\",\"id\":\"{id}\",\"event\":\"e\",\"data\":{{\"x\":[1,2]}}}}");
    assert_eq!(text.as_str(), expected);
}

#[test]
fn text_and_bytes_have_separate_keys_in_the_full_envelope() {
    let server = Server::start();
    let mut socket = Socket::subscribed(server.addr, "channel=a");
    let mut feeder = Feeder::connect(&server.feed);
    feeder.write("{\"channel\":\"a\",\"text\":\"say \\\"hi\\\"\"}\n{\"channel\":\"a\",\"base64\":\"AP8=\"}\n");
    assert_eq!(socket.publication()["text"], "say \"hi\"");
    assert_eq!(socket.publication()["base64"], "AP8=");
}

#[test]
fn data_envelope_is_the_payload_alone() {
    let server = Server::start();
    let mut socket = Socket::open(server.addr, "channel=a&envelope=data");
    server.await_metric("fanfare_subscribers", 1.0);
    let mut feeder = Feeder::connect(&server.feed);
    feeder.write("{\"channel\":\"a\",\"data\":{\"n\":1}}\n{\"channel\":\"a\",\"text\":\"t\"}\n");
    feeder.write("{\"channel\":\"a\",\"base64\":\"AP8=\"}\n");
    assert_eq!(socket.message(), Message::text("{\"n\":1}"));
    assert_eq!(socket.message(), Message::text("t"));
    assert_eq!(socket.message(), Message::binary(vec![0, 255]));
    // With `envelope=data`, messages from the client are checked and then ignored.
    socket.send(&json!({"type": "subscribe", "channel": "b", "ref": 1}));
    feeder.publish("b", 1);
    feeder.publish("a", 2);
    assert_eq!(socket.message(), Message::text("2"));
}

#[test]
fn subscribe_command_resumes_after_its_since() {
    let server = Server::start();
    let mut feeder = Feeder::connect(&server.feed);
    let ids: Vec<String> = (0..4).map(|n| feeder.publish("a", n)).collect();
    let mut socket = Socket::open(server.addr, "");
    assert_eq!(socket.json()["type"], "welcome");
    socket.send(&json!({"type": "subscribe", "channel": "a", "since": ids[1], "ref": "r-1"}));
    let subscribed = socket.json();
    assert_eq!(subscribed["type"], "subscribed", "{subscribed}");
    assert_eq!(subscribed["ref"], "r-1");
    assert_eq!(subscribed["recovered"], true);
    for (n, id) in ids.iter().enumerate().skip(2) {
        let publication = socket.publication();
        assert_eq!(publication["id"], id.as_str());
        assert_eq!(publication["data"], n);
    }
    let live = feeder.publish("a", "live");
    assert_eq!(socket.publication()["id"], live.as_str());
}

#[test]
fn second_channel_is_replayed_while_the_first_continues() {
    let server = Server::start();
    let mut feeder = Feeder::connect(&server.feed);
    let start = feeder.publish("b", "before");
    let old = feeder.publish("b", "old");
    let mut socket = Socket::subscribed(server.addr, "channel=a");
    let first = feeder.publish("a", 1);
    assert_eq!(socket.publication()["id"], first.as_str());
    socket.send(&json!({"type": "subscribe", "channel": "b", "since": start, "ref": 2}));
    assert_eq!(next_of_type(&mut socket, "subscribed")["channel"], "b");
    assert_eq!(socket.publication()["id"], old.as_str());
    let ids = [
        feeder.publish("a", 2),
        feeder.publish("b", 3),
        feeder.publish("a", 4),
    ];
    for id in ids {
        assert_eq!(socket.publication()["id"], id.as_str());
    }
}

#[test]
fn unsubscribed_channel_is_silent() {
    let server = Server::start();
    let mut socket = Socket::subscribed(server.addr, "channel=a&channel=b");
    socket.send(&json!({"type": "unsubscribe", "channel": "a", "ref": 7}));
    let answer = socket.json();
    assert_eq!(answer["type"], "unsubscribed");
    assert_eq!(answer["channel"], "a");
    let mut feeder = Feeder::connect(&server.feed);
    feeder.publish("a", 1);
    let id = feeder.publish("b", 2);
    assert_eq!(socket.publication()["id"], id.as_str());
}

#[test]
fn id_of_another_epoch_gets_a_gap() {
    let server = Server::start();
    let mut feeder = Feeder::connect(&server.feed);
    let first = feeder.publish("a", 1);
    let mut socket = Socket::open(server.addr, "channel=a&since=0123456789ab-3");
    let gap = next_of_type(&mut socket, "gap");
    assert_eq!(gap["channel"], "a");
    assert_eq!(gap["cause"], "restart");
    assert_eq!(gap["missed"], Value::Null);
    assert_eq!(gap["until"], first.replace("-1", "-0"));
    let second = feeder.publish("a", 2);
    let messages = std::iter::from_fn(|| Some(socket.json()));
    let mut given = messages.filter(|value| value.get("type").is_none());
    for id in [first, second] {
        assert_eq!(given.next().unwrap()["id"], id);
    }
}

#[test]
fn unassigned_id_gets_a_gap_of_unknown_cause() {
    let server = Server::start();
    let mut feeder = Feeder::connect(&server.feed);
    let last = feeder.publish("a", 1);
    let mut socket = Socket::open(server.addr, "");
    for since in [
        Value::from("nonsense"),
        Value::from(7),
        Value::from(last.replace("-1", "-2")),
    ] {
        socket.send(&json!({"type": "subscribe", "channel": "a", "since": since}));
        let gap = next_of_type(&mut socket, "gap");
        assert_eq!(gap["cause"], "unknown", "{since}: {gap}");
        assert_eq!(gap["until"], last.as_str(), "{since}: {gap}");
        socket.send(&json!({"type": "unsubscribe", "channel": "a"}));
        assert_eq!(next_of_type(&mut socket, "unsubscribed")["channel"], "a");
    }
}

#[test]
fn evicted_id_gets_a_gap() {
    let server = Server::with("[log]\nentries = 4\n", &[]);
    let mut feeder = Feeder::connect(&server.feed);
    let ids: Vec<String> = (0..10).map(|n| feeder.publish("a", n)).collect();
    let mut socket = Socket::open(server.addr, &format!("channel=a&since={}", ids[0]));
    let gap = next_of_type(&mut socket, "gap");
    assert_eq!(gap["cause"], "expired", "{gap}");
    assert_eq!(gap["since"], ids[0].as_str(), "{gap}");
}

#[test]
fn pings_of_the_protocol_and_of_the_client_are_answered() {
    let server = Server::start();
    let mut socket = Socket::subscribed(server.addr, "channel=a");
    socket.0.send(Message::Ping("payload".into())).unwrap();
    assert_eq!(socket.0.read().unwrap(), Message::Pong("payload".into()));
    socket.send(&json!({"type": "ping", "ref": 5}));
    assert_eq!(socket.json()["ref"], 5);
}

#[test]
fn server_pings_idle_conns_and_closes_silent_ones() {
    let server = Server::with("[heartbeat]\ninterval_ms = 200\n", &[]);
    let mut alive = Socket::subscribed(server.addr, "channel=a");
    let silent = Socket::subscribed(server.addr, "channel=a");
    // The client library answers pings while it reads. `silent` is open but is never read.
    for _ in 0..4 {
        assert!(matches!(alive.0.read().unwrap(), Message::Ping(_)));
    }
    alive
        .0
        .get_ref()
        .set_read_timeout(Some(std::time::Duration::from_millis(20)))
        .unwrap();
    crate::support::within("the end of the silent connection", || {
        // The client answers pings, and its reads time out between them.
        let _ = alive.0.read();
        (server.metric("fanfare_conns_closed_total{reason=\"idle\"}") > 0.5).then_some(())
    });
    drop(silent);
    server.await_metric("fanfare_streams{transport=\"websocket\"}", 1.0);
}

#[test]
fn refused_commands_get_an_error_and_the_conn_continues() {
    let server = Server::with("[limits]\nchannels_per_conn = 2\n", &[]);
    let mut socket = Socket::subscribed(server.addr, "channel=a");
    for command in [
        json!({"type": "auth", "token": "t", "ref": 1}),
        json!({"type": "publish", "channel": "a", "data": 1, "ref": 1}),
        json!({"type": "subscribe", "channel": "a b", "ref": 1}),
        json!({"type": "dance", "ref": 1}),
    ] {
        socket.send(&command);
        let answer = socket.json();
        assert_eq!(answer["type"], "error", "{command} {answer}");
        assert_eq!(answer["ref"], 1, "{command} {answer}");
        assert!(
            answer["code"].is_string() && answer["message"].is_string(),
            "{answer}"
        );
    }
    for message in [Message::text("not json"), Message::binary(vec![1])] {
        socket.0.send(message).unwrap();
        assert_eq!(socket.json()["type"], "error");
    }
    socket.send(&json!({"type": "subscribe", "channel": "b"}));
    assert_eq!(socket.json()["type"], "subscribed");
    socket.send(&json!({"type": "subscribe", "channel": "c", "ref": 9}));
    assert_eq!(socket.json()["type"], "error");
    let id = Feeder::connect(&server.feed).publish("b", 1);
    assert_eq!(socket.publication()["id"], id.as_str());
}

#[test]
fn broken_frames_close_with_the_code_of_their_fault() {
    let server = Server::start();
    let unmasked = vec![TEXT, 2, b'h', b'i'];
    let not_minimal = vec![TEXT, 0x80 | 126, 0, 2, 0, 0, 0, 0, b'h', b'i'];
    let big = frame(TEXT, &vec![b'x'; 65_537]);
    let huge_header = [&[TEXT, 0x80 | 127][..], &u64::MAX.to_be_bytes(), &[0; 4]].concat();
    let cases: &[(&str, Vec<u8>, &[u16])] = &[
        ("unmasked", unmasked, &[1002]),
        ("reserved bit", frame(0xc1, b"hi"), &[1002]),
        ("reserved opcode", frame(0x83, b"hi"), &[1002]),
        ("reserved control opcode", frame(0x8b, b"hi"), &[1002]),
        ("length not minimal", not_minimal, &[1002]),
        ("fragmented ping", frame(0x09, b"hi"), &[1002]),
        ("long ping", frame(PING, &[b'x'; 126]), &[1002]),
        ("continuation of nothing", frame(0x80, b"hi"), &[1002]),
        (
            "message within a message",
            [frame(0x01, b"a"), frame(TEXT, b"b")].concat(),
            &[1002],
        ),
        ("close of one byte", frame(0x88, b"x"), &[1002]),
        (
            "close with a reserved code",
            frame(0x88, &1005u16.to_be_bytes()),
            &[1002],
        ),
        (
            "close with a reason that is no text",
            frame(0x88, b"\x03\xe8\xff"),
            &[1007],
        ),
        ("text that is no text", frame(TEXT, b"a\xff"), &[1007]),
        (
            "text cut within a character",
            frame(TEXT, b"\xe2\x82"),
            &[1007],
        ),
        ("message over the limit", big, &[1009]),
        ("header over the limit", huge_header, &[1009, 1002]),
    ];
    for (name, bytes, codes) in cases {
        let mut socket = Socket::subscribed(server.addr, "channel=a");
        socket.send_raw(bytes);
        let (code, _) = socket.closed();
        assert!(codes.contains(&code), "{name}: {code}");
    }
    server.await_metric("fanfare_streams{transport=\"websocket\"}", 0.0);
}

#[test]
fn invalid_utf8_is_refused_before_the_message_ends() {
    let server = Server::start();
    let mut socket = Socket::subscribed(server.addr, "channel=a");
    socket.send_raw(&frame(0x01, b"a\xffb"));
    assert_eq!(socket.closed().0, 1007);
}

#[test]
fn fragments_around_a_ping_make_one_message() {
    let server = Server::start();
    let mut socket = Socket::subscribed(server.addr, "channel=a");
    let command = json!({"type": "subscribe", "channel": "ü", "ref": 3}).to_string();
    // The fragments split a two-byte character.
    let (first, second) = command.as_bytes().split_at(command.find('ü').unwrap() + 1);
    for byte in [
        frame(0x01, first),
        frame(PING, b"between"),
        frame(0x80, second),
    ]
    .concat()
    {
        socket.send_raw(&[byte]);
    }
    assert_eq!(socket.0.read().unwrap(), Message::Pong("between".into()));
    let answer = socket.json();
    assert_eq!(answer["type"], "subscribed", "{answer}");
    assert_eq!(answer["channel"], "ü");
    assert_eq!(answer["ref"], 3);
}

#[test]
fn close_is_answered_with_its_own_code() {
    let server = Server::start();
    let mut socket = Socket::subscribed(server.addr, "channel=a");
    socket.send_raw(&frame(0x88, b"\x03\xe8bye"));
    assert_eq!(socket.closed().0, 1000);
    server.await_metric("fanfare_conns_closed_total{reason=\"done\"}", 1.0);
}

#[test]
fn invalid_handshakes_are_refused() {
    let server = Server::start();
    let handshake = |key: &str, version: &str, upgrade: &str| {
        let request = format!(
            "GET /ws?channel=a HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: {upgrade}\r\n\
             Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: {version}\r\n\r\n"
        );
        exchange(server.addr, request.as_bytes())
    };
    let key = "dGhlIHNhbXBsZSBub25jZQ==";
    let good = handshake(key, "13", "websocket");
    assert_eq!(good.status, 101);
    assert_eq!(
        good.field("sec-websocket-accept"),
        Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
    );
    assert_eq!(good.field("sec-websocket-protocol"), None);
    handshake("short", "13", "websocket").assert_problem(400);
    let old = handshake(key, "8", "websocket");
    assert!(matches!(old.status, 400 | 426), "{old:?}");
    assert_eq!(old.field("sec-websocket-version"), Some("13"));
    handshake(key, "13", "h2c").assert_problem(426);
}

#[test]
fn frames_sent_with_the_handshake_are_not_lost() {
    let server = Server::start();
    let mut stream = BufReader::new(connect(server.addr));
    let head = "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
    let command = frame(TEXT, br#"{"type":"subscribe","channel":"early","ref":1}"#);
    let bytes = [head.as_bytes(), &command[..]].concat();
    stream.get_mut().write_all(&bytes).unwrap();
    assert_eq!(Raw::read(&mut stream).status, 101);
    server.await_metric("fanfare_subscribers", 1.0);
}

#[test]
fn slow_subscriber_receives_a_gap_and_continues() {
    let server = Server::start();
    let mut slow = Socket::subscribed(server.addr, "channel=a");
    let mut feeder = Feeder::connect(&server.feed);
    let payload = "x".repeat(32 * 1024);
    // Publishes more data than the quota and all buffers between server and client have room for.
    let mut sent = Vec::new();
    while server.metric("fanfare_publications_skipped_total") < 1.0 {
        assert!(sent.len() < 10_000, "nothing is skipped");
        sent.extend((0..16).map(|_| feeder.publish("a", payload.as_str())));
    }
    let last = feeder.publish("a", "last");
    sent.push(last.clone());
    let (mut received, mut missed) = (Vec::new(), 0);
    while received.last() != Some(&last) {
        let value = slow.json();
        if value["type"] == "gap" {
            assert_eq!(value["cause"], "slow", "{value}");
            missed += value["missed"].as_u64().unwrap();
        } else {
            received.push(value["id"].as_str().unwrap().to_owned());
        }
    }
    assert_eq!(received.len() as u64 + missed, sent.len() as u64);
    let mut expected = sent.iter();
    assert!(
        received.iter().all(|id| expected.any(|sent| sent == id)),
        "out of order"
    );
}

#[test]
fn slow_subscriber_is_closed_by_the_close_policy() {
    let server = Server::with("[quota]\noverflow = \"close\"\n", &[]);
    let mut slow = Socket::subscribed(server.addr, "channel=a");
    let mut feeder = Feeder::connect(&server.feed);
    let payload = "x".repeat(32 * 1024);
    // The test reads nothing until the subscriber is too far behind. Then it reads the data in the
    // kernel's buffers, and the close frame after this data.
    let delivered = "fanfare_deliveries_total";
    let mut sent = 0.0;
    while server.metric(delivered) + 8.0 > sent {
        feeder.publish("a", payload.as_str());
        sent += 1.0;
        assert!(sent < 10_000.0, "everything is delivered");
    }
    assert_eq!(slow.closed().0, 4100);
    server.await_metric("fanfare_conns_closed_total{reason=\"overflow\"}", 1.0);
}
