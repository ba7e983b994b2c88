//! Independent client libraries: Python `websockets`, `httpx-sse` and `sseclient-py`; Node `ws`,
//! `eventsource` and `@microsoft/fetch-event-source`. `FANFARE_LONG` adds ten more libraries, which
//! `tests/long/run` installs.

use std::panic::catch_unwind;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::support::{Feeder, Lines, Relay, Server, dependency, within};

const COUNT: usize = 50;

/// Starts a Python client.
fn python(script: &str, args: &[&str]) -> Lines {
    let script = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/peers")
        .join(script);
    Lines::run(
        Command::new(dependency("venv/bin/python"))
            .arg(script)
            .args(args),
    )
}

/// Starts a Node client.
fn node(script: &str, args: &[&str]) -> Lines {
    Lines::run(
        Command::new("node")
            .arg(dependency("node").join(script))
            .args(args),
    )
}

/// Starts a library's client on a URL. The client ends after this many publications.
fn library(name: &str, url: &str, count: &str) -> Lines {
    match name {
        "websockets" => python("websockets_client.py", &[url, count]),
        "ws" => node("ws_client.mjs", &[url, count]),
        "httpx-sse" | "sseclient-py" => python("event_stream_client.py", &[name, url, count]),
        "http.client" => python("poll_client.py", &[url, count]),
        "fetch-event-source" => node("fetch_event_source_client.mjs", &[url, count]),
        "niquests" | "requests" | "aiohttp" | "picows" | "websocket-client" => {
            let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/long/client.py");
            Lines::run(
                Command::new(dependency("long/venv/bin/python"))
                    .arg(script)
                    .args([name, url, count]),
            )
        }
        _ => Lines::run(
            Command::new("node")
                .arg(dependency("long/node/client.mjs"))
                .args([name, url, count]),
        ),
    }
}

/// Checks each library that `tests/run` installs. With `FANFARE_LONG`, also checks each library
/// that `tests/long/run` installs.
fn check_each(libraries: &[&str], of_long_run: &[&str], check: fn(&str)) {
    let of_long_run: &[_] = match std::env::var_os("FANFARE_LONG") {
        Some(_) => of_long_run,
        None => &[],
    };
    let failed: Vec<_> = [libraries, of_long_run]
        .concat()
        .into_iter()
        .filter(|name| {
            let outcome = catch_unwind(|| check(name));
            println!("{name}: {}", if outcome.is_ok() { "ok" } else { "FAILED" });
            outcome.is_err()
        })
        .collect();
    assert!(failed.is_empty(), "libraries that fail: {failed:?}");
}

/// Publishes, and checks that the client receives every publication in order with its id.
fn check_websocket_peer(server: &Server, mut peer: Lines) {
    assert_eq!(peer.json()["protocol"], "fanfare.v1");
    assert_eq!(peer.json()["type"], "welcome");
    assert_eq!(peer.json()["type"], "subscribed");
    check_publications(server, peer);
}

/// Like `check_websocket_peer`, for a client that negotiates compression and receives compressed
/// frames.
fn check_deflating_peer(start: impl FnOnce(&str) -> Lines, agreed: &str) {
    let server = Server::with("[deflate]\nenabled = true\n", &[]);
    let url = format!("ws://{}/ws?channel=a", server.addr);
    let mut peer = start(&url);
    assert_eq!(peer.json()["protocol"], "fanfare.v1");
    assert_eq!(peer.json()["extensions"], agreed);
    assert_eq!(peer.json()["type"], "welcome");
    assert_eq!(peer.json()["type"], "subscribed");
    assert_eq!(peer.json(), json!({"type": "pong", "ref": 7}));
    check_publications(&server, peer);
    server.await_metric("fanfare_client_messages_inflated_total", 1.0);
    let compressed = server.metric("fanfare_frames_deflated_total");
    // Short payloads are not compressed.
    assert!(
        compressed > 20.0 && compressed < COUNT as f64,
        "{compressed}"
    );
    let bytes = |side| server.metric(&format!("fanfare_deflate_bytes_total{{side=\"{side}\"}}"));
    assert!(bytes("after") < bytes("before") / 2.0);
}

fn check_publications(server: &Server, mut peer: Lines) {
    publish_and_compare(server, &mut peer);
    assert_eq!(peer.json_with("closed")["closed"], 1000);
    assert!(peer.wait().success(), "{}", peer.stderr());
}

fn publish_and_compare(server: &Server, peer: &mut Lines) {
    let mut feeder = Feeder::connect(&server.feed);
    for n in 0..COUNT {
        // The lengths are on both sides of the limits of the frame header's length fields.
        let data = json!({"n": n, "fill": "ü".repeat(n * 5)});
        let id = feeder.publish("a", data.clone());
        let value = peer.json();
        assert_eq!(value["id"], id.as_str(), "{n}");
        assert_eq!(value["channel"], "a");
        assert_eq!(value["data"], data);
    }
}

#[test]
fn websocket_libraries_receive_everything_in_order() {
    let of_long_run = [
        "aiohttp",
        "picows",
        "websocket-client",
        "reconnecting-websocket",
        "websocket",
    ];
    check_each(&["websockets", "ws"], &of_long_run, |name| {
        let server = Server::start();
        let url = format!("ws://{}/ws?channel=a", server.addr);
        check_websocket_peer(&server, library(name, &url, &COUNT.to_string()));
    });
}

#[test]
fn poll_libraries_lose_nothing() {
    check_each(&["http.client"], &["requests"], |name| {
        let server = Server::start();
        let url = server.url("/poll?channel=a");
        let mut peer = library(name, &url, &COUNT.to_string());
        assert!(peer.json()["id"].is_string());
        publish_and_compare(&server, &mut peer);
        assert!(peer.wait().success(), "{}", peer.stderr());
    });
}

#[test]
fn python_websockets_inflates_shared_frames() {
    let agreed = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
    let bounded = format!("{agreed}; server_max_window_bits=12");
    for (offer, agreed) in [("deflate", agreed), ("bounded", &bounded)] {
        let start = |url: &str| python("websockets_client.py", &[url, &COUNT.to_string(), offer]);
        check_deflating_peer(start, agreed);
    }
}

#[test]
fn node_ws_inflates_shared_frames() {
    check_deflating_peer(
        |url| node("ws_client.mjs", &[url, &COUNT.to_string(), "deflate"]),
        "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
    );
}

#[test]
fn node_eventsource_receives_everything_in_order() {
    let server = Server::start();
    let url = server.url("/sse?channel=a&channel=b");
    let mut peer = node("eventsource_client.mjs", &[&url, &COUNT.to_string()]);
    assert_eq!(peer.json()["opened"], 1);
    server.await_metric("fanfare_subscribers", 2.0);
    let mut feeder = Feeder::connect(&server.feed);
    for n in 0..COUNT {
        let text = format!("{n}\nsecond line");
        let channel = if n % 2 == 0 { "a" } else { "b" };
        let event = if n % 3 == 0 { "price" } else { "message" };
        feeder.send(&json!({"channel": channel, "event": event, "text": text, "ack": true}));
        let id = feeder.answer()["id"].as_str().unwrap().to_owned();
        assert_eq!(peer.json(), json!({"id": id, "event": event, "data": text}));
    }
    assert!(peer.wait().success(), "{}", peer.stderr());
}

#[test]
fn node_eventsource_loses_nothing_over_a_cut_connection() {
    let server = Server::start();
    let relay = Relay::to(server.addr);
    let url = format!("http://{}/sse?channel=a", relay.addr);
    let mut peer = node("eventsource_client.mjs", &[&url, "6"]);
    assert_eq!(peer.json()["opened"], 1);
    server.await_metric("fanfare_subscribers", 1.0);
    let mut feeder = Feeder::connect(&server.feed);
    let mut ids: Vec<String> = (0..2).map(|n| feeder.publish("a", n)).collect();
    for id in &ids {
        assert_eq!(peer.json()["id"], id.as_str());
    }
    relay.cut();
    server.await_metric("fanfare_subscribers", 0.0);
    // No client is connected when these publications arrive, so the second connection must deliver
    // them.
    ids.extend((2..4).map(|n| feeder.publish("a", n)));
    assert_eq!(peer.json_with("lost")["lost"], 1);
    assert_eq!(peer.json()["opened"], 2);
    for id in &ids[2..] {
        assert_eq!(peer.json()["id"], id.as_str());
    }
    for n in 4..6 {
        let id = feeder.publish("a", n);
        assert_eq!(peer.json()["id"], id.as_str());
    }
    assert!(peer.wait().success(), "{}", peer.stderr());
}

#[test]
fn node_eventsource_survives_a_restart_and_receives_the_gap() {
    let folder = tempfile::tempdir().unwrap();
    let config = "[drain]\nwindow_ms = 200\nretry_ms = 500\n";
    let start = |listen: &str| Server::in_folder(folder.path(), listen, config, &[]).unwrap();
    let mut first = start("127.0.0.1:0");
    let addr = first.addr.to_string();
    let mut peer = node(
        "eventsource_client.mjs",
        &[&first.url("/sse?channel=a"), "2"],
    );
    assert_eq!(peer.json()["opened"], 1);
    first.await_metric("fanfare_subscribers", 1.0);
    let id = Feeder::connect(&first.feed).publish("a", 1);
    assert_eq!(peer.json()["id"], id.as_str());
    first.signal("TERM");
    assert!(first.wait().success());
    let second = start(&addr);
    assert_eq!(peer.json_with("opened")["opened"], 2);
    assert_eq!(peer.json()["gap"]["cause"], "restart");
    let id = Feeder::connect(&second.feed).publish("a", 2);
    assert_eq!(peer.json()["id"], id.as_str());
    assert!(peer.wait().success(), "{}", peer.stderr());
}

/// Returns the next report of an event stream library. Skips positions.
fn reported(peer: &mut Lines) -> Value {
    loop {
        let value = peer.json();
        if value["event"] != "fanfare.position" {
            return value;
        }
        assert_eq!(value["data"], "", "{value}");
    }
}

/// Publishes texts that are hard to parse. Returns the events that a library has to dispatch.
fn publish_texts(server: &Server) -> Vec<Value> {
    let mut feeder = Feeder::connect(&server.feed);
    let texts = [
        "one",
        "",
        "two\nlines\n",
        "  ü\u{2028}🎺 ",
        ": no comment\nid: 7",
        "last",
    ];
    let mut publish = |(n, text): (usize, &str)| {
        let event = if n % 2 == 0 { "message" } else { "price" };
        let mut line = json!({"channel": "a", "text": text, "ack": true});
        if event != "message" {
            line["event"] = event.into();
        }
        feeder.send(&line);
        json!({"id": feeder.answer()["id"], "event": event, "data": text})
    };
    texts.into_iter().enumerate().map(&mut publish).collect()
}

/// Runs a library's client on a stream with heartbeats, over a cut connection and a restart. The
/// client must dispatch every publication once, and nothing else that looks like a publication.
fn check_event_stream_library(start_peer: impl FnOnce(&str, &str) -> Lines) {
    let folder = tempfile::tempdir().unwrap();
    let journal = folder.path().join("journal");
    let config = format!(
        "[heartbeat]\ninterval_ms = 100\n[drain]\nwindow_ms = 200\nretry_ms = 500\n\
         [journal]\npath = {journal:?}\n"
    );
    let start = |listen: &str| Server::in_folder(folder.path(), listen, &config, &[]).unwrap();
    let mut first = start("127.0.0.1:0");
    let addr = first.addr.to_string();
    let relay = Relay::to(first.addr);
    let url = format!("http://{}/sse?channel=a", relay.addr);
    let mut peer = start_peer(&url, "24");
    assert_eq!(reported(&mut peer)["opened"], 1);
    first.await_metric("fanfare_subscribers", 1.0);
    let await_heartbeats = |server: &Server| {
        let sent = || server.metric("fanfare_heartbeats_total");
        let before = sent();
        within("heartbeats", || (sent() >= before + 2.0).then_some(()));
    };
    await_heartbeats(&first);
    for expected in publish_texts(&first) {
        assert_eq!(reported(&mut peer), expected);
    }
    await_heartbeats(&first);

    relay.cut();
    first.await_metric("fanfare_subscribers", 0.0);
    let missed = publish_texts(&first);
    assert_eq!(reported(&mut peer)["lost"], 1);
    assert_eq!(reported(&mut peer)["opened"], 2);
    for expected in missed {
        assert_eq!(reported(&mut peer), expected);
    }

    first.signal("TERM");
    assert!(first.wait().success());
    let second = start(&addr);
    let missed = publish_texts(&second);
    assert_eq!(reported(&mut peer)["lost"], 2);
    assert_eq!(reported(&mut peer)["opened"], 3);
    await_heartbeats(&second);
    for expected in missed.into_iter().chain(publish_texts(&second)) {
        assert_eq!(reported(&mut peer), expected);
    }
    assert!(peer.wait().success(), "{}", peer.stderr());
}

#[test]
fn event_stream_libraries_dispatch_every_publication_and_no_blank_message() {
    let of_long_run = [
        "niquests",
        "eventsource-client",
        "launchdarkly-eventsource",
        "undici",
    ];
    let of_run = ["httpx-sse", "sseclient-py", "fetch-event-source"];
    check_each(&of_run, &of_long_run, |name| {
        check_event_stream_library(|url, count| library(name, url, count));
    });
}

/// Kills the server of an event stream client, and publishes before the client can reconnect. The
/// client must receive all three publications in order, without a gap.
fn check_over_a_kill(start_peer: impl FnOnce(&str) -> Lines) {
    let folder = tempfile::tempdir().unwrap();
    let journal = folder.path().join("journal");
    let config = format!("[drain]\nretry_ms = 500\n[journal]\npath = {journal:?}\n");
    let start = |listen: &str| Server::in_folder(folder.path(), listen, &config, &[]).unwrap();
    let mut first = start("127.0.0.1:0");
    let addr = first.addr.to_string();
    let mut peer = start_peer(&first.url("/sse?channel=a"));
    assert_eq!(peer.json()["opened"], 1);
    first.await_metric("fanfare_subscribers", 1.0);
    let mut feeder = Feeder::connect(&first.feed);
    let mut ids: Vec<_> = ["one", "two"].map(|text| feeder.publish("a", text)).into();
    first.signal("KILL");
    first.wait();
    let second = start(&addr);
    ids.push(Feeder::connect(&second.feed).publish("a", "three"));
    let mut had = Vec::new();
    while had.len() < ids.len() {
        let message = peer.json();
        assert_eq!(message.get("gap"), None, "{message}");
        had.extend(message["id"].as_str().map(str::to_owned));
    }
    assert_eq!(had, ids);
    assert!(peer.wait().success(), "{}", peer.stderr());
}

#[test]
fn node_eventsource_misses_nothing_over_a_kill_with_a_journal() {
    check_over_a_kill(|url| node("eventsource_client.mjs", &[url, "3"]));
}

#[test]
fn browser_misses_nothing_over_a_kill_with_a_journal() {
    let folder = tempfile::tempdir().unwrap();
    let profile = folder.path().join("profile");
    check_over_a_kill(|url| {
        let page = url.replace("/sse?channel=a", "/nowhere");
        let args = ["/usr/bin/chromium", &page, profile.to_str().unwrap(), "3"];
        node("browser_resume.mjs", &args)
    });
}
