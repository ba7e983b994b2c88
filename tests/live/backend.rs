//! Backends and clients. Clients publish upstream. Backends consume these publications, send to one
//! connection, disconnect a connection, and count presence.

use std::collections::BTreeSet;
use std::net::Shutdown;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::socket::frame;
use crate::support::{Feeder, Lines, PATIENCE, Server, Socket, fanfare, within};

const OPEN: &str = "[[namespace]]\nmatch = \"chat:*\"\nclient_publish = \"consume\"\n\
                    client_presence = true\n\
                    [[namespace]]\nmatch = \"room:*\"\nclient_publish = \"broadcast\"\n";

/// Connects a backend that consumes these patterns, with or without notices of subscriptions.
fn consumer(server: &Server, patterns: &Value, notices: bool) -> Feeder {
    let mut backend = Feeder::connect(&server.feed);
    backend.send(&json!({"consume": patterns, "notices": notices, "ack": true}));
    assert_eq!(backend.answer(), json!({"ok": true, "line": 1}));
    backend
}

/// Opens a WebSocket. Returns the socket and the name of its connection.
fn welcomed(server: &Server, query: &str) -> (Socket, String) {
    let mut socket = Socket::open(server.addr, query);
    let conn = socket.json()["conn"].as_str().unwrap().to_owned();
    assert_eq!(socket.json()["type"], "subscribed");
    (socket, conn)
}

fn publish(channel: &str, data: &Value, reference: u64) -> Value {
    json!({"type": "publish", "channel": channel, "data": data, "ref": reference})
}

/// Returns the notice that a consumer receives when a connection subscribes or unsubscribes.
fn notice(kind: &str, conn: &str, sub: &Value, channel: &str) -> Value {
    json!({"type": kind, "conn": conn, "sub": sub, "channel": channel})
}

#[test]
fn client_publishes_and_backend_answers() {
    let server = Server::with(OPEN, &[]);
    let mut backend = consumer(&server, &json!(["chat:*"]), false);
    let (mut client, conn) = welcomed(&server, "channel=chat:1");
    client.send(&publish("chat:1", &json!({"say": "hello"}), 7));
    let received = backend.answer();
    let data = json!({"say": "hello"});
    let expected =
        json!({"type": "publish", "conn": conn, "sub": null, "channel": "chat:1", "data": data});
    assert_eq!(received, expected);
    assert_eq!(client.json(), json!({"type": "ok", "ref": 7}));
    backend.send(&json!({"send": conn, "data": {"hello": "you"}, "ack": true}));
    assert_eq!(
        client.json(),
        json!({"type": "direct", "data": {"hello": "you"}})
    );
    assert_eq!(backend.answer(), json!({"ok": true, "line": 2}));
    // A consumer's connection may also publish.
    backend.publish("chat:1", "to all");
    assert_eq!(client.publication()["data"], "to all");
    backend.send(&json!({"disconnect": conn, "code": 4100, "reason": "not you"}));
    assert_eq!(client.closed(), (4100, "not you".to_owned()));
    backend.send(&json!({"send": conn, "data": 1}));
    let refused = backend.answer();
    assert_eq!(refused["error"], "no_conn", "{refused}");
}

#[test]
fn disconnect_without_a_code_says_not_allowed() {
    let server = Server::with(OPEN, &[]);
    let mut backend = Feeder::connect(&server.feed);
    let (mut client, conn) = welcomed(&server, "channel=chat:1");
    backend.send(&json!({"disconnect": conn, "ack": true}));
    assert_eq!(backend.answer(), json!({"ok": true, "line": 1}));
    assert_eq!(client.closed(), (4003, String::new()));
}

#[test]
fn name_of_a_conn_of_an_earlier_process_matches_no_conn() {
    let folder = tempfile::tempdir().unwrap();
    let start = || Server::in_folder(folder.path(), "127.0.0.1:0", OPEN, &[]).unwrap();
    let mut first = start();
    let (old, names): (Vec<_>, Vec<_>) = (0..8).map(|_| welcomed(&first, "channel=a")).unzip();
    let mut names = BTreeSet::from_iter(names);
    first.signal("KILL");
    let _killed = first.wait();
    drop(old);
    let second = start();
    let mut backend = Feeder::connect(&second.feed);
    let mut clients = Vec::new();
    // The second server gets as many connections on each worker as the first server had. Therefore
    // its conns have the same slots and generation numbers.
    for name in names.clone() {
        assert!(name.len() <= 40 && name.is_ascii(), "{name}");
        let (client, conn) = welcomed(&second, "channel=a");
        clients.push((client, conn.clone()));
        assert!(names.insert(conn), "a name is used twice");
        for command in ["send", "disconnect"] {
            let mut line = json!({command: name, "ack": true});
            if command == "send" {
                line["data"] = json!("private");
            }
            backend.send(&line);
            assert_eq!(backend.answer()["error"], "no_conn", "{line}");
        }
    }
    // These names do not have the format of this version. Another version may have issued them.
    for (name, error) in [("1-0-0", "no_conn"), ("x", "no_conn"), ("", "bad_value")] {
        backend.send(&json!({"send": name, "data": 1}));
        assert_eq!(backend.answer()["error"], error, "{name:?}");
    }
    // The messages to invalid names have reached no client: its next message is the publication.
    backend.publish("a", "public");
    for (client, _) in &mut clients {
        assert_eq!(client.json()["data"], "public");
    }
}

#[test]
fn names_differ_when_slots_are_reused() {
    let server = Server::with(OPEN, &["--workers", "1"]);
    let mut backend = Feeder::connect(&server.feed);
    let mut names = BTreeSet::new();
    let mut last = None;
    for _ in 0..5 {
        let (client, conn) = welcomed(&server, "channel=a");
        assert!(names.insert(conn.clone()), "{conn} is used twice");
        if let Some(last) = last.replace(conn) {
            backend.send(&json!({"send": last, "data": "private"}));
            assert_eq!(backend.answer()["error"], "no_conn");
        }
        drop(client);
        server.await_metric("fanfare_conns", 0.0);
    }
}

/// Starts a server whose channels, except `open*`, require a token. A secret in this folder signs
/// the tokens.
fn guarded(folder: &std::path::Path) -> Server {
    let secret = folder.join("secret");
    std::fs::write(&secret, "0123456789abcdef0123456789abcdef").unwrap();
    let keys = format!("HS256 {}", secret.display());
    let config = format!(
        "[auth]\nkeys = [\"{keys}\"]\nquery = \"token\"\n{OPEN}\
         [[namespace]]\nmatch = \"open*\"\nanonymous_subscribe = true\n"
    );
    Server::in_folder(folder, "127.0.0.1:0", &config, &[]).unwrap()
}

/// Makes a token for `chat:*` with this `sub`.
fn token(folder: &std::path::Path, sub: Option<&str>, seconds: u64) -> String {
    let mut command = fanfare();
    command.args(["token", "--subscribe", "chat:*", "--publish", "chat:*"]);
    command.arg("--key").arg(folder.join("secret"));
    command.args(["--expires-in", &seconds.to_string()]);
    command.args(sub.map(|sub| format!("--sub={sub}")));
    let output = command.output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn backend_receives_the_subject_of_the_clients_token() {
    let folder = tempfile::tempdir().unwrap();
    let server = guarded(folder.path());
    let mut backend = consumer(&server, &json!(["*"]), true);
    let mut expect = |kind: &str, sub: Value, channel: &str| {
        let line = backend.answer();
        let found = (&line["type"], &line["sub"], &line["channel"]);
        assert_eq!(found, (&json!(kind), &sub, &json!(channel)), "{line}");
    };
    // Each WebSocket sends its token in the request. The first `sub` needs JSON escapes.
    let query = |sub: Option<&str>, seconds| {
        let token = token(folder.path(), sub, seconds);
        format!("channel=chat:1&token={token}")
    };
    let (mut client, _) = welcomed(&server, &query(Some("a\"l\\é"), 60));
    expect("subscribed", json!("a\"l\\é"), "chat:1");
    client.send(&publish("chat:1", &json!(1), 1));
    expect("publish", json!("a\"l\\é"), "chat:1");
    client.send(&json!({"type": "unsubscribe", "channel": "chat:1"}));
    expect("unsubscribed", json!("a\"l\\é"), "chat:1");
    // This token has no subject.
    let (client, _) = welcomed(&server, &query(None, 60));
    expect("subscribed", Value::Null, "chat:1");
    drop(client);
    expect("unsubscribed", Value::Null, "chat:1");
    // This token expires while the client is subscribed.
    let (mut client, _) = welcomed(&server, &query(Some("brief"), 1));
    expect("subscribed", json!("brief"), "chat:1");
    assert_eq!(client.closed().0, 4002);
    expect("unsubscribed", json!("brief"), "chat:1");
    // A backend disconnects this event stream by the subject of its token.
    let target = format!("/sse?{}", query(Some("bob"), 60));
    let mut stream = Lines::curl([&server.url(&target)]);
    stream.until("id:");
    expect("subscribed", json!("bob"), "chat:1");
    Feeder::connect(&server.feed).send(&json!({"disconnect_sub": "bob"}));
    stream.until("event: fanfare.disconnect");
    assert_eq!(stream.next().unwrap(), r#"data: {"code":4003,"reason":""}"#);
    expect("unsubscribed", json!("bob"), "chat:1");
}

#[test]
fn backend_receives_the_subject_after_a_token_in_band() {
    let folder = tempfile::tempdir().unwrap();
    let server = guarded(folder.path());
    let mut backend = consumer(&server, &json!(["*"]), true);
    let (mut client, conn) = welcomed(&server, "channel=open");
    let notice_of = |kind: &str, sub: &Value, channel: &str| notice(kind, &conn, sub, channel);
    let (none, carol) = (Value::Null, json!("carol"));
    assert_eq!(backend.answer(), notice_of("subscribed", &none, "open"));
    // All commands are sent in one write. The notices about the commands before `auth` contain no
    // subject.
    let token = token(folder.path(), Some("carol"), 60);
    let commands = [
        json!({"type": "unsubscribe", "channel": "open"}),
        json!({"type": "subscribe", "channel": "open2"}),
        json!({"type": "auth", "token": token}),
        json!({"type": "subscribe", "channel": "chat:1"}),
        publish("chat:1", &json!(1), 1),
    ];
    let frames = commands.map(|command| frame(0x81, command.to_string().as_bytes()));
    client.send_raw(&frames.concat());
    assert_eq!(backend.answer(), notice_of("unsubscribed", &none, "open"));
    assert_eq!(backend.answer(), notice_of("subscribed", &none, "open2"));
    assert_eq!(backend.answer(), notice_of("subscribed", &carol, "chat:1"));
    let received = backend.answer();
    assert_eq!(received["sub"], "carol", "{received}");
    assert_eq!(received["conn"], conn.as_str(), "{received}");
    drop(client);
    let mut left = [backend.answer(), backend.answer()];
    left.sort_by_key(|line| line["channel"].to_string());
    let expected = ["chat:1", "open2"].map(|channel| notice_of("unsubscribed", &carol, channel));
    assert_eq!(left, expected);
}

#[test]
fn client_publishes_only_where_allowed_and_consumed() {
    let server = Server::with(OPEN, &[]);
    let (mut client, _) = welcomed(&server, "channel=a");
    for (channel, code) in [("a", "not_allowed"), ("chat:1", "no_consumer")] {
        client.send(&publish(channel, &json!(1), 1));
        let refused = client.json();
        assert_eq!(refused["type"], "error", "{refused}");
        assert_eq!(refused["code"], code, "{refused}");
        assert_eq!(refused["ref"], 1, "{refused}");
    }
    client.send(&json!({"type": "presence", "channel": "a", "ref": 2}));
    assert_eq!(client.json()["code"], "not_allowed");
}

#[test]
fn client_publication_is_broadcast_if_the_namespace_allows_it() {
    let server = Server::with(OPEN, &[]);
    let (mut one, _) = welcomed(&server, "channel=room:1");
    let (mut other, _) = welcomed(&server, "channel=room:1");
    one.send(&publish("room:1", &json!([1, 2]), 5));
    let published = other.publication();
    assert_eq!(published["data"], json!([1, 2]));
    // The client's own publication and the answer to it arrive in either order.
    let mut own = [one.json(), one.json()];
    own.sort_by_key(|value| value.get("type").is_some());
    assert_eq!(own[0], published);
    assert_eq!(
        own[1],
        json!({"type": "ok", "id": published["id"], "ref": 5})
    );
}

/// Publishes with an idempotency key. Returns the answer.
fn publish_once(client: &mut Socket, channel: &str, data: u64, key: &str) -> Value {
    let command = json!({
        "type": "publish", "channel": channel, "data": data, "dedupe": key, "ref": data,
    });
    client.send(&command);
    client.json()
}

#[test]
fn repeated_key_of_a_client_gets_the_first_result() {
    let folder = tempfile::tempdir().unwrap();
    let server = guarded(folder.path());
    let query = |sub: Option<&str>| {
        let mut command = fanfare();
        command.args(["token", "--publish", "*", "--expires-in", "60"]);
        command.arg("--key").arg(folder.path().join("secret"));
        command.args(sub.map(|sub| format!("--sub={sub}")));
        let token = String::from_utf8(command.output().unwrap().stdout).unwrap();
        format!("channel=open&token={}", token.trim())
    };
    let client = |sub: Option<&str>| welcomed(&server, &query(sub)).0;
    let mut alice = client(Some("alice"));
    let first = publish_once(&mut alice, "room:1", 1, "k");
    assert_eq!(first["type"], "ok", "{first}");
    // The repetition arrives on another connection. Its payload is not looked at.
    drop(alice);
    let mut alice = client(Some("alice"));
    let again = publish_once(&mut alice, "room:1", 2, "k");
    assert_eq!((&again["id"], &again["ref"]), (&first["id"], &json!(2)));
    let mut ids = vec![first["id"].clone()];
    ids.extend([
        publish_once(&mut alice, "room:2", 3, "k")["id"].clone(),
        publish_once(&mut alice, "room:1", 4, "l")["id"].clone(),
        publish_once(&mut client(Some("bob")), "room:1", 5, "k")["id"].clone(),
        publish_once(&mut client(None), "room:1", 6, "k")["id"].clone(),
    ]);
    let mut feeder = Feeder::connect(&server.feed);
    feeder.send(&json!({"channel": "room:1", "data": 7, "dedupe": "k", "ack": true}));
    let answer = feeder.answer();
    assert_eq!(answer.get("repeated"), None, "{answer}");
    ids.push(answer["id"].clone());
    let different: BTreeSet<_> = ids.iter().map(Value::to_string).collect();
    assert_eq!(different.len(), 6, "{ids:?}");
    server.await_metric("fanfare_publications_total", 6.0);
    assert_eq!(server.metric("fanfare_feed_repeated_total"), 1.0);

    // A publication that no consumer wants may be sent again with the same key.
    let refused = publish_once(&mut alice, "chat:1", 8, "k");
    assert_eq!(refused["code"], "no_consumer", "{refused}");
    let mut backend = consumer(&server, &json!(["chat:*"]), false);
    let taken = json!({"type": "ok", "ref": 9});
    assert_eq!(publish_once(&mut alice, "chat:1", 9, "k"), taken);
    assert_eq!(publish_once(&mut alice, "chat:1", 9, "k"), taken);
    assert_eq!(publish_once(&mut alice, "chat:1", 10, "l")["type"], "ok");
    let received = [backend.answer(), backend.answer()].map(|line| line["data"].clone());
    assert_eq!(received, [json!(9), json!(10)]);
}

#[test]
fn consumer_receives_notices_of_subscriptions() {
    let server = Server::with(OPEN, &[]);
    let mut backend = consumer(&server, &json!(["chat:*"]), true);
    let (mut client, conn) = welcomed(&server, "channel=chat:1");
    let notice_of =
        |kind: &str, conn: &str, channel: &str| notice(kind, conn, &Value::Null, channel);
    assert_eq!(backend.answer(), notice_of("subscribed", &conn, "chat:1"));
    for (command, kind) in [("subscribe", "subscribed"), ("unsubscribe", "unsubscribed")] {
        client.send(&json!({"type": command, "channel": "other"}));
        client.send(&json!({"type": command, "channel": "chat:2"}));
        assert_eq!(backend.answer(), notice_of(kind, &conn, "chat:2"));
    }
    drop(client);
    assert_eq!(backend.answer(), notice_of("unsubscribed", &conn, "chat:1"));
    // A poll causes no notice to the backend, so the next notice is about the event stream.
    let url = server.url("/poll?channel=chat:1");
    assert!(Lines::curl([&url]).until("HTTP/1.1 200").contains("200"));
    let mut stream = Lines::curl([&server.url("/sse?channel=chat:3")]);
    stream.until("id:");
    let came = backend.answer();
    assert_eq!(came["type"], "subscribed", "{came}");
    assert_eq!(came["channel"], "chat:3", "{came}");
}

#[test]
fn event_stream_receives_and_is_disconnected_by_its_name() {
    let server = Server::with(OPEN, &[]);
    let mut backend = consumer(&server, &json!("chat:*"), true);
    let mut stream = Lines::curl([&server.url("/sse?channel=chat:1")]);
    stream.until("id:");
    let conn = backend.answer()["conn"].as_str().unwrap().to_owned();
    backend.send(&json!({"send": conn, "text": "two\nlines"}));
    stream.until("event: fanfare.direct");
    assert_eq!(stream.next().unwrap(), "data: two");
    assert_eq!(stream.next().unwrap(), "data: lines");
    backend.send(&json!({"disconnect": conn, "code": 4001, "reason": "late"}));
    stream.until("event: fanfare.disconnect");
    assert_eq!(
        stream.next().unwrap(),
        r#"data: {"code":4001,"reason":"late"}"#
    );
    stream.until("");
    assert_eq!(stream.next(), None);
    assert_eq!(backend.answer()["type"], "unsubscribed");
}

#[test]
fn subscribers_are_counted_over_all_workers() {
    let server = Server::with(OPEN, &[]);
    let mut backend = Feeder::connect(&server.feed);
    let mut clients: Vec<_> = (0..5)
        .map(|_| welcomed(&server, "channel=chat:1").0)
        .collect();
    backend.send(&json!({"presence": ["chat:1", "empty"]}));
    let expected = json!({"ok": true, "line": 1, "presence": {"chat:1": 5, "empty": 0}});
    assert_eq!(backend.answer(), expected);
    clients[0].send(&json!({"type": "presence", "channel": "chat:1", "ref": "x"}));
    let expected = json!({"type": "presence", "channel": "chat:1", "subscribers": 5, "ref": "x"});
    assert_eq!(clients[0].json(), expected);
}

#[test]
fn consumer_that_stops_reading_delays_clients_and_loses_nothing() {
    const COUNT: u64 = 3_000;
    let server = Server::with(OPEN, &[]);
    let mut backend = consumer(&server, &json!(["chat:*"]), false);
    let (mut client, _) = welcomed(&server, "channel=chat:1");
    // Publishes more data than the socket, the feed and a worker can buffer together.
    let data = Value::from("x".repeat(8_000));
    let writer = std::thread::spawn(move || {
        for number in 0..COUNT {
            client.send(&publish("chat:1", &json!([number, data]), number));
        }
        client
    });
    // All lines arrive, however late the consumer reads them.
    for number in 0..COUNT {
        let received = backend.answer();
        assert_eq!(received["data"][0], number, "{number}");
    }
    let mut client = writer.join().unwrap();
    for number in 0..COUNT {
        assert_eq!(client.json(), json!({"type": "ok", "ref": number}));
    }
}

/// Returns the commands of a client as frames.
fn frames<'a>(commands: impl IntoIterator<Item = (&'a str, &'a str)>) -> Vec<u8> {
    let commands = commands.into_iter();
    let frames = commands.flat_map(|(kind, channel)| {
        let command = json!({"type": kind, "channel": channel}).to_string();
        frame(0x81, command.as_bytes())
    });
    frames.collect()
}

#[test]
fn notices_of_one_client_delay_no_publication_and_no_other_notice() {
    let server = Server::with(OPEN, &["--workers", "1"]);
    let mut backend = consumer(&server, &json!(["chat:*"]), true);
    let (mut honest, honest_conn) = welcomed(&server, "channel=other");
    let (mut flooder, conn) = welcomed(&server, "channel=other");
    // First the client causes more notices than the consumer's socket can buffer. Then it
    // subscribes and unsubscribes more often than all sockets and buffers have room for. These
    // pairs of notices cancel out.
    let long = "x".repeat(150);
    let names: Vec<String> = (0..120)
        .map(|number| format!("chat:{number}-{long}"))
        .collect();
    let mut flood = frames(names.iter().map(|name| ("subscribe", name.as_str())));
    let pair = frames([("subscribe", "chat:pair"), ("unsubscribe", "chat:pair")]);
    flood.extend(pair.repeat(20_000));
    flood.extend(frames([("subscribe", "chat:last")]));
    let mut answers = flooder.0.get_ref().try_clone().unwrap();
    let reader = std::thread::spawn(move || std::io::copy(&mut answers, &mut std::io::sink()));
    let writer = std::thread::spawn(move || {
        flooder.send_raw(&flood);
        flooder
    });
    let is_held = || (server.metric("fanfare_client_reads_held_total") > 0.5).then_some(());
    within("the flooder is held", is_held);
    // The consumer has read nothing, but publications of other clients are still passed to it.
    honest.send(&json!({"type": "subscribe", "channel": "chat:honest"}));
    honest.send(&publish("chat:1", &json!("urgent"), 7));
    assert_eq!(honest.json()["type"], "subscribed");
    assert_eq!(honest.json(), json!({"type": "ok", "ref": 7}));
    assert!(server.metric("fanfare_feed_notices_waiting") > 0.5);
    let notice_of = |kind: &str, channel: &str| notice(kind, &conn, &Value::Null, channel);
    let own = notice("subscribed", &honest_conn, &Value::Null, "chat:honest");
    let (mut came, mut has_own, mut has_publication) = (0, false, false);
    loop {
        let line = backend.answer();
        if line["type"] == "publish" {
            assert!(has_own, "a publication before the notice of its own client");
            assert!(came < names.len(), "after all notices of the flood");
            has_publication = true;
        } else if line == own {
            has_own = true;
        } else if line == notice_of("subscribed", "chat:last") {
            break;
        } else if line["channel"] != "chat:pair" {
            assert_eq!(line, notice_of("subscribed", &names[came]));
            came += 1;
        }
    }
    assert!(
        has_publication && came == names.len(),
        "{has_publication}, {came}"
    );
    let flooder = writer.join().unwrap();
    flooder.0.get_ref().shutdown(Shutdown::Both).unwrap();
    let _ended = reader.join().unwrap();
    // The consumer receives one notice for each channel that the client has left, and nothing else.
    for _ in 0..=names.len() {
        assert_eq!(backend.answer()["type"], "unsubscribed");
    }
    assert!(server.metric("fanfare_feed_notices_lost_total") < 0.5);
    server.await_metric("fanfare_feed_notices_waiting", 0.0);
}

#[test]
fn pair_of_notices_cancels_out_while_no_consumer_has_the_first() {
    let server = Server::with(OPEN, &["--workers", "1"]);
    let mut backend = consumer(&server, &json!(["chat:*"]), true);
    let long = "x".repeat(150);
    let query: String = (0..120)
        .map(|number| format!("&channel=chat:{number}-{long}"))
        .collect();
    // Each channel has a connection of its own, because long queries are refused.
    let _crowd: Vec<_> = query
        .split_inclusive(&long)
        .map(|channel| Socket::subscribed(server.addr, channel.trim_start_matches('&')))
        .collect();
    let waits = || (server.metric("fanfare_feed_notices_waiting") > 0.5).then_some(());
    within("waiting notices", waits);
    let (mut client, conn) = welcomed(&server, "channel=chat:1");
    client.send_raw(&frames([
        ("subscribe", "chat:brief"),
        ("unsubscribe", "chat:brief"),
        ("unsubscribe", "chat:1"),
        ("subscribe", "chat:stays"),
    ]));
    for _ in 0..4 {
        let _answer = client.json();
    }
    // The client's earlier notices (subscribed, then unsubscribed) cancelled each other out and
    // were not sent. So the first notice about this client is `stays`.
    let stays = notice("subscribed", &conn, &Value::Null, "chat:stays");
    let mut others = 0;
    loop {
        let line = backend.answer();
        if line == stays {
            break;
        }
        assert_ne!(line["conn"], conn.as_str(), "{line}");
        others += 1;
    }
    assert_eq!(others, 120);
    server.await_metric("fanfare_feed_notices_cancelled_total", 4.0);
}

#[test]
fn notices_for_a_stalled_consumer_delay_no_other_consumer() {
    let server = Server::with(OPEN, &["--workers", "1"]);
    let _stalled = consumer(&server, &json!(["chat:*"]), true);
    let mut backend = consumer(&server, &json!(["room:*"]), true);
    let (mut crowd, _) = welcomed(&server, "channel=other");
    let long = "x".repeat(150);
    let names: Vec<String> = (0..100)
        .map(|number| format!("chat:{number}-{long}"))
        .collect();
    crowd.send_raw(&frames(
        names.iter().map(|name| ("subscribe", name.as_str())),
    ));
    let waits = || (server.metric("fanfare_feed_notices_waiting") > 0.5).then_some(());
    within("waiting notices", waits);
    for number in 0..3 {
        let channel = format!("room:{number}");
        let (client, conn) = welcomed(&server, &format!("channel={channel}"));
        let notice_of = |kind: &str| notice(kind, &conn, &Value::Null, &channel);
        assert_eq!(backend.answer(), notice_of("subscribed"));
        drop(client);
        assert_eq!(backend.answer(), notice_of("unsubscribed"));
    }
    assert!(server.metric("fanfare_feed_notices_waiting") > 0.5);
    assert!(server.metric("fanfare_feed_consumers_cut_off_total") < 0.5);
}

#[test]
fn consumer_that_reads_slowly_is_not_cut_off() {
    const COUNT: u64 = 100;
    let server = Server::with(OPEN, &[]);
    let mut backend = consumer(&server, &json!(["chat:*"]), false);
    let (mut client, _) = welcomed(&server, "channel=chat:1");
    let data = Value::from("x".repeat(60_000));
    let writer = std::thread::spawn(move || {
        for number in 0..COUNT {
            client.send(&publish("chat:1", &data, number));
        }
        client
    });
    // The test reads so little that the server's socket does not become writable. The test reads
    // for longer than the time within which a consumer must read something.
    let (start, mut lines) = (Instant::now(), 0);
    while start.elapsed() < Duration::from_secs(13) {
        let mut bytes = [0; 2048];
        backend.take_bytes(&mut bytes);
        lines += bytes.iter().filter(|byte| **byte == b'\n').count() as u64;
        std::thread::sleep(Duration::from_millis(500));
    }
    assert!(lines < COUNT / 2, "it did not read slowly");
    for _ in lines..COUNT {
        backend.skip_line();
    }
    let mut client = writer.join().unwrap();
    for number in 0..COUNT {
        assert_eq!(client.json(), json!({"type": "ok", "ref": number}));
    }
    assert!(server.metric("fanfare_feed_consumers_cut_off_total") < 0.5);
}

#[test]
fn consumer_that_pauses_is_not_cut_off_while_no_client_waits_for_it() {
    const CLIENTS: usize = 20;
    let server = Server::with(OPEN, &[]);
    let mut backend = consumer(&server, &json!(["chat:*"]), true);
    let long = "x".repeat(150);
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let names = (0..20).map(|number| format!("channel=chat:{client}-{number}-{long}"));
            welcomed(&server, &Vec::from_iter(names).join("&"))
        })
        .collect();
    let waits = || (server.metric("fanfare_feed_notices_waiting") > 100.0).then_some(());
    within("waiting notices", waits);
    let paused = Instant::now();
    while paused.elapsed() < Duration::from_secs(13) {
        assert!(server.metric("fanfare_feed_consumers_cut_off_total") < 0.5);
        std::thread::sleep(Duration::from_millis(500));
    }
    for _ in 0..CLIENTS * 20 {
        assert_eq!(backend.answer()["type"], "subscribed");
    }
    drop(clients);
}

#[test]
fn stalled_consumer_delays_no_notices_of_another_with_the_same_channels() {
    const CLIENTS: usize = 250;
    let server = Server::with(OPEN, &[]);
    let mut stalled = consumer(&server, &json!(["chat:*"]), true);
    let mut held = vec![welcomed(&server, "channel=chat:first")];
    let long = "x".repeat(150);
    let mut come = |client: usize| {
        let names = (0..20).map(|number| format!("channel=chat:{client}-{number}-{long}"));
        held.push(welcomed(&server, &Vec::from_iter(names).join("&")));
    };
    (0..4).for_each(&mut come);
    let waits = || (server.metric("fanfare_feed_notices_waiting") > 10.0).then_some(());
    within("waiting notices", waits);
    let mut backend = consumer(&server, &json!(["chat:*"]), true);
    let started = Instant::now();
    let late = welcomed(&server, "channel=chat:late");
    let awaited = notice("subscribed", &late.1, &Value::Null, "chat:late");
    while backend.answer() != awaited {}
    assert!(started.elapsed() < Duration::from_secs(5));
    // There are more notices than may wait for one consumer. The consumer that does not read is cut
    // off, and the other consumer receives the remaining notices.
    (4..CLIENTS).for_each(come);
    let reader = std::thread::spawn(move || {
        for _ in 4 * 20..CLIENTS * 20 {
            assert_eq!(backend.answer()["type"], "subscribed");
        }
    });
    let handed = || server.metric("fanfare_feed_notices_total");
    within("a full queue", || {
        let before = handed();
        std::thread::sleep(Duration::from_millis(200));
        (handed() < before + 0.5).then_some(())
    });
    // The server delivers further notices as soon as the slower consumer has room for a few of
    // them.
    let (before, read) = (handed(), Instant::now());
    stalled.take_bytes(&mut vec![0; 100_000]);
    within("further notices", || {
        (handed() > before + 0.5).then_some(())
    });
    assert!(read.elapsed() < Duration::from_secs(5));
    reader.join().unwrap();
    assert!(server.metric("fanfare_feed_consumers_cut_off_total") > 0.5);
}

#[test]
fn consumer_that_reads_a_few_bytes_is_cut_off() {
    let server = Server::with(OPEN, &[]);
    // One consumer receives publications, and the other receives notices. Each of them can delay
    // clients.
    let mut readers = [
        consumer(&server, &json!(["chat:*"]), false),
        consumer(&server, &json!(["other:*"]), true),
    ];
    let (mut client, _) = welcomed(&server, "channel=chat:1");
    let (mut subscriber, _) = welcomed(&server, "channel=chat:1");
    let long = "x".repeat(150);
    for number in 0..100 {
        subscriber.send(&json!({"type": "subscribe", "channel": format!("other:{number}-{long}")}));
    }
    let data = Value::from("x".repeat(60_000));
    let writer = std::thread::spawn(move || {
        for number in 0..20 {
            client.send(&publish("chat:1", &data, number));
        }
        client
    });
    within("both are cut off", || {
        for reader in &mut readers {
            // Reads about ten bytes per second, while bytes are available.
            let _read = reader.try_take_byte();
        }
        std::thread::sleep(Duration::from_millis(100));
        (server.metric("fanfare_feed_consumers_cut_off_total") > 1.5).then_some(())
    });
    drop(writer.join().unwrap());
}

#[test]
fn consumer_that_never_reads_is_cut_off_and_its_clients_get_an_error() {
    let server = Server::with(OPEN, &[]);
    let mut backend = consumer(&server, &json!(["chat:*"]), false);
    let (mut client, _) = welcomed(&server, "channel=chat:1");
    let data = Value::from("x".repeat(60_000));
    let writer = std::thread::spawn(move || {
        for number in 0..200 {
            client.send(&publish("chat:1", &data, number));
        }
        client
    });
    let start = Instant::now();
    while server.metric("fanfare_feed_consumers_cut_off_total") < 1.0 {
        assert!(start.elapsed() < PATIENCE, "never cut off");
        std::thread::yield_now();
    }
    let mut client = writer.join().unwrap();
    let mut refused = 0;
    for _ in 0..200 {
        let answer = client.json();
        match answer["type"].as_str() {
            Some("ok") => assert_eq!(refused, 0, "{answer}"),
            _ => {
                assert_eq!(answer["code"], "no_consumer", "{answer}");
                refused += 1;
            }
        }
    }
    assert!(refused > 0);
    // The lines that are already in the buffer still arrive. Then the stream ends.
    while !backend.has_ended() {
        backend.skip_line();
    }
}
