//! Windows and acknowledgements: delivery stops at a full window and continues after an
//! acknowledgement, and invalid windows are refused. A client that is killed resumes after the last
//! effect that it stored.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{Feeder, Lines, Raw, Server, Socket, dependency, within};

/// Publishes numbers and returns their ids.
fn publish(feeder: &mut Feeder, channel: &str, numbers: std::ops::Range<u64>) -> Vec<String> {
    numbers
        .map(|number| feeder.publish(channel, number))
        .collect()
}

fn ack(id: &str) -> Value {
    json!({"type": "ack", "id": id})
}

/// Checks that no message is pending: the next message must be the answer to a ping.
fn assert_quiet(socket: &mut Socket) {
    socket.send(&json!({"type": "ping", "ref": "quiet"}));
    assert_eq!(socket.json(), json!({"type": "pong", "ref": "quiet"}));
}

#[test]
fn full_window_stops_delivery_until_an_acknowledgement() {
    let server = Server::start();
    let mut feeder = Feeder::connect(&server.feed);
    let mut socket = Socket::subscribed(server.addr, "channel=a&window=3");
    let ids = publish(&mut feeder, "a", 0..10);
    for id in &ids[..3] {
        assert_eq!(socket.publication()["id"], **id);
    }
    assert_quiet(&mut socket);
    // Acknowledges a part, then all deliveries, then an earlier id again.
    socket.send(&ack(&ids[0]));
    assert_eq!(socket.publication()["id"], ids[3]);
    assert_quiet(&mut socket);
    socket.send(&json!({"type": "ack", "id": ids[3], "channel": "a", "ref": 1}));
    // The answer may arrive before or after the publications that the acknowledgement releases.
    let mut messages: Vec<Value> = (0..4).map(|_| socket.json()).collect();
    messages.sort_by_key(|value| value.get("type").is_some());
    let given: Vec<&Value> = messages[..3].iter().map(|value| &value["id"]).collect();
    assert_eq!(given, [&ids[4], &ids[5], &ids[6]]);
    assert_eq!(messages[3], json!({"type": "ok", "id": ids[3], "ref": 1}));
    socket.send(&ack(&ids[2]));
    assert_quiet(&mut socket);
    socket.send(&ack(&ids[9]));
    for id in &ids[7..] {
        assert_eq!(socket.publication()["id"], **id);
    }
    server.await_metric("fanfare_client_acknowledgements_total", 4.0);
}

#[test]
fn full_window_delays_no_other_channel() {
    let server = Server::start();
    let mut feeder = Feeder::connect(&server.feed);
    let mut socket = Socket::subscribed(server.addr, "channel=free");
    socket.send(&json!({"type": "subscribe", "channel": "slow", "window": 1, "ref": 1}));
    assert_eq!(socket.json()["ref"], 1);
    let slow = publish(&mut feeder, "slow", 0..2);
    let free = publish(&mut feeder, "free", 0..2);
    let given: Vec<Value> = (0..3).map(|_| socket.publication()["id"].clone()).collect();
    assert_eq!(given, [&*slow[0], &*free[0], &*free[1]]);
    assert_quiet(&mut socket);
    // If there are several channels, the acknowledgement must name one of them.
    socket.send(&ack(&free[1]));
    assert_eq!(socket.json()["code"], "bad_channel");
    assert_quiet(&mut socket);
    socket.send(&json!({"type": "ack", "id": slow[0], "channel": "slow"}));
    assert_eq!(socket.publication()["id"], slow[1]);
}

#[test]
fn invalid_acknowledgement_gets_an_error_and_changes_nothing() {
    let server = Server::start();
    let mut feeder = Feeder::connect(&server.feed);
    let mut socket = Socket::subscribed(server.addr, "channel=a&window=1");
    let ids = publish(&mut feeder, "a", 0..2);
    assert_eq!(socket.publication()["id"], ids[0]);
    let (epoch, _) = ids[0].split_once('-').unwrap();
    // The message distinguishes an id of an unknown epoch from one that was never assigned.
    for (id, reason) in [
        (format!("{epoch}-999999"), "above the newest id"),
        ("00000000000a-1".to_owned(), "an epoch that the server"),
    ] {
        socket.send(&json!({"type": "ack", "id": id}));
        let answer = socket.json();
        let message = answer["message"].as_str().unwrap();
        assert!(message.contains(reason), "{answer}");
    }
    for (wrong, code) in [
        (json!({"type": "ack"}), "bad_id"),
        (json!({"type": "ack", "id": "nonsense"}), "bad_id"),
        (
            json!({"type": "ack", "id": format!("{epoch}-999999")}),
            "bad_id",
        ),
        (json!({"type": "ack", "id": "00000000000a-1"}), "bad_id"),
        (
            json!({"type": "ack", "id": ids[0], "channel": "b"}),
            "no_window",
        ),
        (
            json!({"type": "ack", "id": ids[0], "channel": ""}),
            "bad_channel",
        ),
        (
            json!({"type": "subscribe", "channel": "b", "window": 0}),
            "bad_window",
        ),
        (
            json!({"type": "subscribe", "channel": "b", "window": 1025}),
            "bad_window",
        ),
        (
            json!({"type": "subscribe", "channel": "a", "window": 5}),
            "already_subscribed",
        ),
    ] {
        let mut command = wrong.clone();
        command["ref"] = json!(7);
        socket.send(&command);
        let answer = socket.json();
        assert_eq!(answer["type"], "error", "{wrong}: {answer}");
        assert_eq!(answer["code"], code, "{wrong}: {answer}");
        assert_eq!(answer["ref"], 7, "{wrong}: {answer}");
    }
    assert_quiet(&mut socket);
    socket.send(&ack(&ids[0]));
    assert_eq!(socket.publication()["id"], ids[1]);
    // The window ends when the channel is unsubscribed, so the acknowledgement is refused.
    socket.send(&json!({"type": "unsubscribe", "channel": "a"}));
    assert_eq!(socket.json()["type"], "unsubscribed");
    socket.send(&ack(&ids[1]));
    assert_eq!(socket.json()["code"], "no_window");
}

#[test]
fn window_is_refused_where_no_acknowledgement_is_possible() {
    let server = Server::start();
    for target in [
        "/sse?channel=a&window=5",
        "/poll?channel=a&window=5",
        "/poll?channel=a&timeout=0&window=5",
    ] {
        let refused = Raw::get(server.addr, target);
        refused.assert_problem(400);
        assert!(refused.body_text().contains("WebSocket"), "{target}");
    }
    for query in [
        "channel=a&window=5&envelope=data",
        "channel=a&window=0",
        "channel=a&window=1025",
        "channel=a&window=x",
        "window=5",
    ] {
        assert!(
            Socket::try_subscribed(server.addr, query).is_none(),
            "{query}"
        );
    }
}

#[test]
fn gap_after_a_full_window_is_sent_when_it_opens_and_a_resume_has_none() {
    let server = Server::with("[quota]\nbehind_publications = 3\n", &[]);
    let mut feeder = Feeder::connect(&server.feed);
    let mut socket = Socket::subscribed(server.addr, "channel=a&window=2");
    let ids = publish(&mut feeder, "a", 0..10);
    assert_eq!(socket.publication()["id"], ids[0]);
    assert_eq!(socket.publication()["id"], ids[1]);
    server.await_metric("fanfare_publications_skipped_total", 5.0);
    assert_quiet(&mut socket);
    socket.send(&ack(&ids[1]));
    let gap = socket.json();
    let expected = json!({"type": "gap", "channel": "a", "since": ids[1], "until": ids[6],
                          "missed": 5, "cause": "slow"});
    assert_eq!(gap, expected);
    assert_eq!(socket.publication()["id"], ids[7]);
    // The client resumes without a gap, because the log still has every publication.
    let query = format!("channel=a&window=1024&since={}", ids[1]);
    let mut socket = Socket::subscribed(server.addr, &query);
    for id in &ids[2..] {
        assert_eq!(socket.publication()["id"], **id);
    }
}

/// Starts the example of the guide's page on delivery.
fn example(server: &Server, folder: &TempDir) -> Lines {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/guide/delivery.md");
    let page = fs::read_to_string(page).unwrap();
    let (_, script) = page.split_once("```python background\n").unwrap();
    let (script, _) = script.split_once("```\n").unwrap();
    let script = script.replace("127.0.0.1:8080", &server.addr.to_string());
    Lines::run(
        Command::new(dependency("venv/bin/python"))
            .args(["-c", &script])
            .current_dir(folder.path()),
    )
}

/// Returns the results that the example has stored.
fn stored(folder: &TempDir) -> Vec<u64> {
    let script = "import sqlite3\n\
                  db = sqlite3.connect('file:orders.db?mode=ro', uri=True)\n\
                  print([int(row[0]) for row in db.execute('SELECT data FROM orders')])";
    let mut lines = Lines::run(
        Command::new(dependency("venv/bin/python"))
            .args(["-c", script])
            .current_dir(folder.path()),
    );
    let line = lines.next().unwrap_or_default();
    serde_json::from_str(&line).unwrap_or_default()
}

#[test]
fn example_has_each_effect_exactly_once_over_kills() {
    const COUNT: u64 = 400;
    let server = Server::with("[quota]\nbehind_publications = 1000\n", &[]);
    let mut feeder = Feeder::connect(&server.feed);
    let folder = tempfile::tempdir().unwrap();
    // The client starts with everything that the log has. It stores the id of each publication
    // together with the result.
    let mut client = example(&server, &folder);
    server.await_metric("fanfare_subscribers", 1.0);
    feeder.publish("orders", 0);
    within("a first effect", || (stored(&folder) == [0]).then_some(()));
    let mut published = 1;
    let mut kills = 0;
    while published < COUNT {
        feeder.publish("orders", published);
        published += 1;
        if published % 40 == 0 {
            // The client may be in the middle of its work when it is killed.
            drop(client);
            kills += 1;
            client = example(&server, &folder);
            if kills % 2 == 0 {
                within("half of the effects", || {
                    (stored(&folder).len() as u64 * 2 > published).then_some(())
                });
            }
        }
    }
    let expected: Vec<u64> = (0..COUNT).collect();
    within("all effects", || {
        (stored(&folder).len() as u64 >= COUNT).then_some(())
    });
    assert_eq!(stored(&folder), expected);
    drop(client);
}
