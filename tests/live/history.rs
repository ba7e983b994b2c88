//! Tests of `since=first` and `last=N`. Each transport begins with the history in the log and
//! continues without a gap or a repetition. Publications of the history are marked if they have an
//! envelope.

use std::net::SocketAddr;
use std::thread;

use serde_json::{Value, json};

use crate::support::{Feeder, Lines, Raw, Server, Socket, fanfare};

const WAITING: &str = "fanfare_streams{transport=\"long_poll\"}";
/// A configuration whose log keeps three publications.
const THREE: &str = "[log]\nentries = 3\n";

fn publish(server: &Server, channel: &str, count: usize) -> Vec<String> {
    let mut feeder = Feeder::connect(&server.feed);
    (1..=count)
        .map(|number| feeder.publish(channel, number))
        .collect()
}

fn id(publication: &Value) -> &str {
    publication["id"].as_str().unwrap()
}

fn marks(publication: &Value) -> bool {
    match &publication["initial"] {
        Value::Null => false,
        mark => mark.as_bool().unwrap(),
    }
}

fn poll(addr: SocketAddr, query: &str) -> Value {
    let response = Raw::get(addr, &format!("/poll?{query}"));
    assert_eq!(response.status, 200, "{response:?}");
    let answer: Value = serde_json::from_slice(&response.body).unwrap();
    assert_eq!(answer["gap"], false, "{query}");
    assert_eq!(response.field("fanfare-gap"), None);
    answer
}

/// Returns the ids in an answer, each with its `initial` mark.
fn given(answer: &Value) -> Vec<(&str, bool)> {
    let publications = answer["publications"].as_array().unwrap().iter();
    publications.map(|one| (id(one), marks(one))).collect()
}

fn expected(ids: &[String], is_initial: bool) -> Vec<(&str, bool)> {
    ids.iter().map(|id| (id.as_str(), is_initial)).collect()
}

/// Returns the fields of the next publication of a stream. Skips the head and the blocks that have
/// only a position, and fails on a gap.
fn event(stream: &mut Lines) -> Vec<String> {
    loop {
        let lines = std::iter::from_fn(|| stream.next());
        let lines: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
        let text = lines.join("\n").to_ascii_lowercase();
        assert!(!lines.is_empty(), "the stream has ended");
        assert!(!text.contains("gap"), "{text}");
        if lines[0].starts_with("id: ") {
            return lines;
        }
    }
}

#[test]
fn every_transport_begins_with_the_log_and_no_gap() {
    let server = Server::with(THREE, &[]);
    let ids = publish(&server, "a", 5);
    for (start, left) in [
        ("since=first", &ids[2..]),
        ("last=2", &ids[3..]),
        ("last=3", &ids[2..]),
        ("last=4294967295", &ids[2..]),
        ("last=1&since=first", &ids[2..]),
        ("last=2.0&since=", &ids[3..]),
    ] {
        for timeout in [0, 20] {
            let answer = poll(server.addr, &format!("channel=a&{start}&timeout={timeout}"));
            assert_eq!(given(&answer), expected(left, true), "{start}");
            assert_eq!(answer["id"], ids[4].as_str());
        }
        let mut socket = Socket::subscribed(server.addr, &format!("channel=a&{start}"));
        let path = format!("/sse?channel=a&envelope=full&{start}");
        let mut stream = Lines::curl([server.url(&path)]);
        for id in left {
            let publication = socket.publication();
            assert_eq!(
                (publication["id"].as_str(), marks(&publication)),
                (Some(&**id), true)
            );
            let event = event(&mut stream);
            assert_eq!(event[0], format!("id: {id}"));
            let full: Value = serde_json::from_str(&event[1]["data: ".len()..]).unwrap();
            assert_eq!(full, publication);
        }
    }
}

#[test]
fn publications_after_history_are_live_and_have_no_mark() {
    let server = Server::start();
    let ids = publish(&server, "a", 3);
    let mut socket = Socket::subscribed(server.addr, "channel=a&channel=b&last=2");
    let full = "/sse?channel=a&envelope=full&last=2";
    let mut streams = [full, "/sse?channel=a&last=2"].map(|path| Lines::curl([server.url(path)]));
    server.await_metric("fanfare_subscribers", 4.0);
    let live = publish(&server, "a", 1);
    for (id, is_initial) in [(&ids[1], true), (&ids[2], true), (&live[0], false)] {
        let publication = socket.publication();
        assert_eq!(publication["id"], id.as_str());
        assert_eq!(marks(&publication), is_initial);
        for (stream, is_full) in streams.iter_mut().zip([true, false]) {
            let event = event(stream);
            assert_eq!(event[0], format!("id: {id}"));
            let has_mark = event[1].contains("\"initial\":true");
            assert_eq!(has_mark, is_full && is_initial, "{event:?}");
        }
    }
}

#[test]
fn last_counts_per_channel_and_starts_before_the_oldest() {
    let server = Server::start();
    let mut feeder = Feeder::connect(&server.feed);
    let channels = ["a", "b", "a", "b", "b", "c", "a"];
    let ids: Vec<String> = channels.map(|channel| feeder.publish(channel, 1)).into();
    let query = "channel=a&channel=b&channel=empty&last=2";
    let answer = poll(server.addr, query);
    assert_eq!(
        given(&answer),
        expected(&[2, 3, 4, 6].map(|at| ids[at].clone()), true)
    );
    let mut socket = Socket::open(server.addr, query);
    assert_eq!(socket.json()["type"], "welcome");
    for channel in ["a", "b", "empty"] {
        let subscribed = socket.json();
        assert_eq!(subscribed["channel"], channel);
        assert_eq!(
            subscribed["id"],
            ids[1].as_str(),
            "the number before the oldest"
        );
        assert_eq!(subscribed["recovered"], false);
    }
}

#[test]
fn subscribe_command_asks_for_history_beside_other_channels() {
    let server = Server::start();
    let ids = publish(&server, "a", 4);
    let mut socket = Socket::subscribed(server.addr, "channel=b");
    for (fields, from) in [
        (json!({"since": "first"}), 0),
        (json!({"last": 2}), 2),
        (json!({"last": 1.0, "since": null}), 3),
        (json!({"last": 0}), 4),
        (json!({"last": null}), 4),
    ] {
        let mut command = json!({"type": "subscribe", "channel": "a", "ref": 1});
        let fields = fields.as_object().unwrap().clone();
        command.as_object_mut().unwrap().extend(fields);
        socket.send(&command);
        let subscribed = socket.json();
        assert_eq!(subscribed["type"], "subscribed", "{command}");
        assert_eq!(subscribed["recovered"], false);
        for id in &ids[from..] {
            let publication = socket.publication();
            assert_eq!(publication["id"], id.as_str(), "{command}");
            assert_eq!(publication["initial"], true);
        }
        socket.send(&json!({"type": "unsubscribe", "channel": "a"}));
        assert_eq!(socket.json()["type"], "unsubscribed", "{command}");
    }
    // `since` takes precedence over `last`. Publications after that position are not marked as
    // initial.
    let command = json!({"type": "subscribe", "channel": "a", "since": ids[2], "last": 4});
    socket.send(&command);
    assert_eq!(socket.json()["recovered"], true);
    let publication = socket.publication();
    assert_eq!((id(&publication), marks(&publication)), (&*ids[3], false));
}

#[test]
fn position_overrides_history_so_that_a_reconnect_does_not_repeat_it() {
    let server = Server::start();
    let ids = publish(&server, "a", 5);
    for start in ["last=4", "since=first"] {
        let field = format!("Last-Event-ID: {}", ids[3]);
        let url = server.url(&format!("/sse?channel=a&envelope=full&{start}"));
        let mut stream = Lines::curl(["-H", &field, &url]);
        let event = event(&mut stream);
        assert_eq!(event[0], format!("id: {}", ids[4]));
        assert!(!event[1].contains("initial"), "{event:?}");
        for name in ["last_event_id", "lastEventId"] {
            let query = format!("channel=a&{start}&{name}={}", ids[3]);
            let answer = poll(server.addr, &query);
            assert_eq!(given(&answer), expected(&ids[4..], false), "{query}");
        }
    }
    let query = format!("channel=a&last=4&since={}", ids[3]);
    let mut socket = Socket::subscribed(server.addr, &query);
    let publication = socket.publication();
    assert_eq!((id(&publication), marks(&publication)), (&*ids[4], false));
}

#[test]
fn truncated_answer_is_continued_from_its_id_as_a_resume() {
    let server = Server::start();
    let ids = publish(&server, "a", 100);
    let first = poll(server.addr, "channel=a&since=first&timeout=0");
    assert_eq!(given(&first), expected(&ids[..64], true));
    let position = id(&first);
    assert_eq!(position, ids[63]);
    let rest = poll(
        server.addr,
        &format!("channel=a&since={position}&timeout=0"),
    );
    assert_eq!(given(&rest), expected(&ids[64..], false));
}

#[test]
fn only_a_long_poll_waits_for_history_of_an_empty_channel() {
    let server = Server::start();
    let before = publish(&server, "elsewhere", 1);
    for start in ["since=first", "last=3"] {
        let answer = poll(server.addr, &format!("channel=a&{start}&timeout=0"));
        assert_eq!(given(&answer), []);
        assert_eq!(answer["id"], before[0].as_str());
    }
    let addr = server.addr;
    let polls = ["since=first", "last=3"].map(|start| {
        let query = format!("channel=a&{start}&timeout=20");
        thread::spawn(move || poll(addr, &query))
    });
    server.await_metric(WAITING, 2.0);
    let ids = publish(&server, "a", 1);
    for poll in polls {
        let answer = poll.join().unwrap();
        // The publication was not in the log at the time of the request.
        assert_eq!(given(&answer), expected(&ids, false));
        assert_eq!(answer["id"], ids[0].as_str());
    }
    // `last=0` asks for no history, so the answer has only the position and is sent immediately.
    let answer = poll(server.addr, "channel=a&last=0&timeout=20");
    assert_eq!((given(&answer), id(&answer)), (Vec::new(), ids[0].as_str()));
}

#[test]
fn history_of_a_busy_channel_begins_without_a_gap() {
    let server = Server::with("[log]\nentries = 200\n", &[]);
    publish(&server, "a", 200);
    let mut feeder = Feeder::connect(&server.feed);
    for _ in 0..100 {
        // Each publication evicts another one from the log while the requests are served.
        feeder.write(&"{\"channel\":\"a\",\"data\":0}\n".repeat(20));
        let answer = poll(server.addr, "channel=a&since=first&timeout=20");
        assert!(!given(&answer).is_empty());
        let mut socket = Socket::subscribed(server.addr, "channel=a&since=first");
        assert_eq!(socket.publication()["initial"], true);
    }
}

#[test]
fn payloads_without_an_envelope_have_no_mark() {
    let server = Server::start();
    publish(&server, "a", 2);
    let query = "channel=a&envelope=data&since=first";
    let answer = poll(server.addr, query);
    assert_eq!(answer["publications"], json!([1, 2]));
    let mut socket = Socket::open(server.addr, query);
    assert_eq!([socket.json(), socket.json()], [json!(1), json!(2)]);
}

#[test]
fn window_delays_history_until_it_is_acknowledged() {
    let server = Server::start();
    let ids = publish(&server, "a", 4);
    let mut socket = Socket::subscribed(server.addr, "channel=a&last=3&window=2");
    for id in &ids[1..3] {
        assert_eq!(socket.publication()["id"], id.as_str());
    }
    socket.send(&json!({"type": "ping", "ref": 1}));
    assert_eq!(socket.json()["type"], "pong", "the window is full");
    socket.send(&json!({"type": "ack", "id": ids[1]}));
    let publication = socket.publication();
    assert_eq!((id(&publication), marks(&publication)), (&*ids[3], true));
}

#[test]
fn history_is_encoded_once_and_compressed_like_live_publications() {
    let server = Server::with("[deflate]\nenabled = true\n", &["--workers", "1"]);
    let mut feeder = Feeder::connect(&server.feed);
    feeder.publish("a", json!({"rows": vec!["a row like any other"; 200]}));
    let _streams: Vec<_> = (0..3)
        .map(|_| crate::support::handmade::deflating(server.addr, "channel=a&since=first"))
        .collect();
    server.await_metric("fanfare_deliveries_total", 3.0);
    server.await_metric("fanfare_frames_deflated_total", 1.0);
    let mut plain = Socket::subscribed(server.addr, "channel=a&last=1");
    assert_eq!(plain.publication()["initial"], true);
    server.await_metric("fanfare_frames_deflated_total", 1.0);
}

#[test]
fn invalid_last_is_refused_on_every_transport() {
    let server = Server::start();
    let upgrade = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    for wrong in ["", "x", "-1", "1.5", "4294967296", "first"] {
        for (path, fields) in [("/poll", ""), ("/sse", ""), ("/ws", upgrade)] {
            let head = format!("GET {path}?channel=a&last={wrong} HTTP/1.1\r\nHost: h\r\n");
            let request = format!("{head}{fields}\r\n");
            let response = crate::support::raw::exchange(server.addr, request.as_bytes());
            response.assert_problem(400);
            let document: Value = serde_json::from_slice(&response.body).unwrap();
            assert_eq!(document["code"], "bad_last", "{path} {wrong}");
        }
    }
    let mut socket = Socket::subscribed(server.addr, "");
    for wrong in [json!(-1), json!(1.5), json!("5"), json!(4_294_967_296_u64)] {
        socket.send(&json!({"type": "subscribe", "channel": "a", "last": wrong, "ref": 7}));
        let error = socket.json();
        assert_eq!(
            (&error["type"], &error["code"]),
            (&json!("error"), &json!("bad_last"))
        );
        assert_eq!(error["ref"], 7);
    }
}

#[test]
fn subscribe_command_begins_with_history() {
    let server = Server::start();
    publish(&server, "a", 5);
    for (path, scheme) in [("/ws", "ws"), ("/sse", "http"), ("/poll", "http")] {
        let url = format!("{scheme}://{}{path}?channel=a&envelope=full", server.addr);
        for (flags, count) in [("--since=first", 5), ("--last=2", 2)] {
            let count = count.to_string();
            let output = fanfare()
                .args([
                    "subscribe",
                    &url,
                    flags,
                    "--count",
                    &count,
                    "--timeout",
                    "20",
                ])
                .output()
                .unwrap();
            assert!(output.status.success(), "{output:?}");
            let text = String::from_utf8(output.stdout).unwrap();
            let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
            assert_eq!(
                (&last["data"], marks(&last)),
                (&json!(5), true),
                "{path} {flags}"
            );
        }
    }
    let output = fanfare()
        .args([
            "subscribe",
            &server.url("/sse?channel=a"),
            "--since=first",
            "--last=2",
        ])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}
