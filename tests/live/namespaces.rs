//! Namespaces: replay and gaps after a reconnect on each transport, subscribers that lag, expiry
//! without traffic, and the output of `fanfare check`.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::support::{Feeder, Lines, Raw, Server, Socket, fanfare, within};

const LAST_ONLY: &str = "[[namespace]]\nmatch = \"prices:*\"\nlog_entries = 1\n";

/// Publishes to a channel of the namespace and to another channel. Returns the last id before these
/// publications, and the ids of these publications.
fn publish_some(server: &Server) -> (String, Vec<String>) {
    let mut feeder = Feeder::connect(&server.feed);
    let before = feeder.publish("chat", 0);
    let all = (1..=5).map(|number| {
        feeder.publish("chat", number);
        feeder.publish("prices:oil", number)
    });
    let all: Vec<String> = all.collect();
    server.await_metric("fanfare_log_entries", 6.0 + 1.0);
    (before, all)
}

fn assert_gap(gap: &Value, before: &str, ids: &[String]) {
    assert_eq!(gap["channel"], "prices:oil", "{gap}");
    assert_eq!(gap["cause"], "expired", "{gap}");
    assert_eq!(gap["since"], before, "{gap}");
    assert_eq!(gap["until"], ids[3].as_str(), "{gap}");
}

#[test]
fn websocket_that_reconnects_receives_the_newest_and_a_gap() {
    let server = Server::with(LAST_ONLY, &[]);
    let (before, ids) = publish_some(&server);
    let query = format!("channel=prices:oil&since={before}");
    let mut socket = Socket::open(server.addr, &query);
    assert_eq!(socket.json()["type"], "welcome");
    assert_gap(&socket.json(), &before, &ids);
    assert_eq!(socket.json()["recovered"], false);
    assert_eq!(socket.publication()["data"], 5);
    let mut other = Socket::subscribed(server.addr, &format!("channel=chat&since={before}"));
    for number in 1..=5 {
        assert_eq!(other.publication()["data"], number);
    }
}

#[test]
fn event_stream_that_reconnects_receives_the_newest_and_a_gap() {
    let server = Server::with(LAST_ONLY, &[]);
    let (before, ids) = publish_some(&server);
    let url = server.url(&format!("/sse?channel=prices:oil&since={before}"));
    let mut stream = Lines::curl(["-sN", &url]);
    stream.until("event: fanfare.gap");
    let data = stream.until("data: ");
    let gap: Value = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
    assert_gap(&gap, &before, &ids);
    assert_eq!(stream.until("data: "), "data: 5");
}

#[test]
fn polls_that_resume_receive_the_newest_and_a_gap() {
    let server = Server::with(LAST_ONLY, &[]);
    let (before, ids) = publish_some(&server);
    for timeout in [0, 5] {
        let target = format!("/poll?channel=prices:oil&since={before}&timeout={timeout}");
        let answer = Raw::get(server.addr, &target);
        let answer: Value = serde_json::from_slice(&answer.body).unwrap();
        assert_gap(&answer["gaps"][0], &before, &ids);
        assert_eq!(answer["publications"].as_array().unwrap().len(), 1);
        assert_eq!(answer["publications"][0]["data"], 5);
        assert_eq!(answer["id"], ids[4].as_str());
    }
}

const CONFLATED: &str = "[quota]\nbehind_publications = 4\n\
                         [[namespace]]\nmatch = \"prices:*\"\noverflow = \"conflate\"\n";

/// Publishes two keys alternately, five times each. Returns the last id before these publications,
/// and the ids of these publications.
fn publish_keys(server: &Server) -> (String, Vec<String>) {
    let mut feeder = Feeder::connect(&server.feed);
    let before = feeder.publish("chat", 0);
    let all = (0..10).map(|number| {
        let key = ["oil", "gas"][number % 2];
        let line = json!({"channel": "prices:a", "data": number, "key": key, "ack": true});
        feeder.send(&line);
        feeder.answer()["id"].as_str().unwrap().to_owned()
    });
    (before, all.collect())
}

fn assert_conflated(gap: &Value, before: &str, ids: &[String]) {
    assert_eq!(gap["channel"], "prices:a", "{gap}");
    assert_eq!(gap["cause"], "conflated", "{gap}");
    assert_eq!(gap["missed"], 8, "{gap}");
    assert_eq!(gap["since"], before, "{gap}");
    assert_eq!(gap["until"], ids[7].as_str(), "{gap}");
}

#[test]
fn late_resume_receives_the_newest_of_each_key_on_every_transport() {
    let server = Server::with(CONFLATED, &[]);
    let (before, ids) = publish_keys(&server);
    let query = format!("channel=prices:a&since={before}");

    let mut socket = Socket::subscribed(server.addr, &query);
    assert_conflated(&socket.json(), &before, &ids);
    assert_eq!(socket.publication()["data"], 8);
    assert_eq!(socket.publication()["data"], 9);

    let mut stream = Lines::curl(["-sN", &server.url(&format!("/sse?{query}"))]);
    stream.until("event: fanfare.gap");
    let data = stream.until("data: ");
    let gap = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
    assert_conflated(&gap, &before, &ids);
    assert_eq!(stream.until("data: "), "data: 8");
    assert_eq!(stream.until("data: "), "data: 9");

    for timeout in [0, 5] {
        let target = format!("/poll?{query}&timeout={timeout}");
        let answer: Value = serde_json::from_slice(&Raw::get(server.addr, &target).body).unwrap();
        assert_conflated(&answer["gaps"][0], &before, &ids);
        let given = answer["publications"].as_array().unwrap();
        assert_eq!(
            (&given[0]["data"], &given[1]["data"]),
            (&json!(8), &json!(9))
        );
        assert_eq!(answer["id"], ids[9].as_str());
    }
}

#[test]
fn subscriber_that_lags_receives_the_newest_and_gaps_for_the_rest() {
    const COUNT: u64 = 10_000;
    let config = "[quota]\noverflow = \"conflate\"\n";
    let server = Server::with(config, &[]);
    let mut feeder = Feeder::connect(&server.feed);
    let mut lagging = Socket::subscribed(server.addr, "channel=prices:a");
    let text = "x".repeat(4_000);
    for number in 0..COUNT {
        let key = (number % 4).to_string();
        feeder.send(&json!({"channel": "prices:a", "data": [number, text], "key": key}));
    }
    server.await_metric("fanfare_publications_total", COUNT as f64);
    let (mut given, mut missed) = (0, 0);
    let mut newest = BTreeMap::new();
    while given + missed < COUNT {
        let message = lagging.json();
        if message["type"] == "gap" {
            assert_eq!(message["cause"], "conflated", "{message}");
            missed += message["missed"].as_u64().unwrap();
        } else {
            given += 1;
            let number = message["data"][0].as_u64().unwrap();
            assert!(newest.insert(number % 4, number) < Some(number), "in order");
        }
    }
    let last: Vec<u64> = newest.into_values().collect();
    assert_eq!(last, [COUNT - 4, COUNT - 3, COUNT - 2, COUNT - 1]);
    assert!(missed > 0, "it took everything");
    server.await_metric("fanfare_publications_conflated_total", missed as f64);
    server.await_metric("fanfare_publications_skipped_total", 0.0);
}

#[test]
fn expired_publications_are_not_replayed() {
    let server = Server::start();
    let mut feeder = Feeder::connect(&server.feed);
    let before = feeder.publish("chat", 0);
    feeder.send(&json!({"channel": "chat", "data": "brief", "ttl_ms": 50}));
    feeder.publish("chat", "lasting");
    let query = format!("channel=chat&since={before}");
    let answer = within("its end", || {
        let body = Raw::get(server.addr, &format!("/poll?{query}&timeout=0")).body;
        let answer: Value = serde_json::from_slice(&body).unwrap();
        (answer["publications"].as_array()?.len() == 1).then_some(answer)
    });
    assert_eq!(answer["publications"][0]["data"], "lasting");
    assert_eq!(answer["gap"], false);
    let mut socket = Socket::subscribed(server.addr, &query);
    assert_eq!(socket.publication()["data"], "lasting");
    let mut stream = Lines::curl(["-sN", &server.url(&format!("/sse?{query}"))]);
    assert_eq!(stream.until("data: "), "data: \"lasting\"");
}

#[test]
fn subscriber_that_keeps_up_receives_everything_with_a_short_log() {
    let server = Server::with(LAST_ONLY, &[]);
    let mut feeder = Feeder::connect(&server.feed);
    let mut socket = Socket::subscribed(server.addr, "channel=prices:oil");
    for number in 0..2_000 {
        feeder.send(&serde_json::json!({"channel": "prices:oil", "data": number}));
    }
    for number in 0..2_000 {
        assert_eq!(socket.publication()["data"], number);
    }
    server.await_metric("fanfare_log_entries", 1.0);
}

#[test]
fn namespace_expires_without_traffic() {
    let config = "[[namespace]]\nmatch = \"typing:*\"\nlog_age_ms = 200\n";
    let server = Server::with(config, &[]);
    let mut feeder = Feeder::connect(&server.feed);
    feeder.publish("chat", 1);
    feeder.publish("typing:1", 1);
    server.await_metric("fanfare_log_entries", 2.0);
    server.await_metric("fanfare_log_entries", 1.0);
    server.await_metric("fanfare_log_channels", 1.0);
}

#[test]
fn check_shows_the_rules_of_each_namespace() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("fanfare.toml");
    std::fs::write(&file, LAST_ONLY).unwrap();
    let output = fanfare().arg("check").arg(&file).output().unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0));
    let rules = "namespace prices:*: 1 publications, 67108864 bytes, 60000 ms, skip";
    assert_eq!(printed.lines().nth(1), Some(rules), "{printed}");
    std::fs::write(&file, LAST_ONLY.replace("= 1", "= 0")).unwrap();
    let output = fanfare().arg("check").arg(&file).output().unwrap();
    let printed = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(
        printed.contains(":3: namespace[0].log_entries: is 0"),
        "{printed}"
    );
}
