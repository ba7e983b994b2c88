//! The trace context of a publication: it reaches subscribers unchanged, by every way in and out.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::handmade::deflating;
use crate::support::{Feeder, Lines, Raw, Server, Socket, fanfare};

const CONFIG: &str = "[deflate]\nenabled = true\n\
                      [[namespace]]\nmatch = \"chat:*\"\nclient_publish = \"consume\"\n\
                      [[namespace]]\nmatch = \"room:*\"\nclient_publish = \"broadcast\"\n";

/// Returns a trace context whose parent span has this number.
fn context(span: u64) -> String {
    format!("00-4bf92f3577b34da6a3ce929d0e0e4736-{span:016x}-01")
}

/// Publishes a JSON payload with curl, with these further arguments.
fn post(feed: &Path, query: &str, args: &[&str]) -> String {
    let mut curl = std::process::Command::new("curl");
    curl.args(["-sS", "--unix-socket"]).arg(feed);
    curl.args(["-H", "content-type: application/json"])
        .args(args);
    let output = curl.arg(format!("http://feed/publish{query}")).output();
    String::from_utf8(output.unwrap().stdout).unwrap()
}

#[test]
fn trace_context_arrives_as_the_last_key_on_every_transport() {
    let server = Server::with(CONFIG, &[]);
    let mut socket = Socket::subscribed(server.addr, "channel=a");
    let mut deflated = deflating(server.addr, "channel=a");
    let sse = server.url("/sse?channel=a&envelope=full");
    let mut sse = Lines::curl([sse]);
    server.await_metric("fanfare_subscribers", 3.0);
    let mut feeder = Feeder::connect(&server.feed);
    feeder.send(&json!({"channel": "a", "data": 1, "traceparent": context(1), "ack": true}));
    let id = feeder.answer()["id"].as_str().unwrap().to_owned();
    let expected = format!(
        r#"{{"channel":"a","id":"{id}","data":1,"traceparent":"{}"}}"#,
        context(1)
    );
    assert_eq!(socket.message().into_text().unwrap().as_str(), expected);
    assert_eq!(sse.until("data: {\"channel\""), format!("data: {expected}"));
    let poll = Raw::get(server.addr, "/poll?channel=a&since=first&timeout=0");
    let initial = expected.replace("\"data\"", "\"initial\":true,\"data\"");
    assert!(poll.body_text().contains(&initial), "{}", poll.body_text());
    // A short message is not compressed.
    let mut received = Vec::new();
    while !received.ends_with(expected.as_bytes()) {
        let mut byte = [0];
        deflated.read_exact(&mut byte).unwrap();
        received.extend(byte);
    }
    let bare = Raw::get(
        server.addr,
        "/poll?channel=a&since=first&timeout=0&envelope=data",
    );
    assert!(
        bare.body_text().ends_with("\"publications\":[1]}"),
        "{}",
        bare.body_text()
    );
}

#[test]
fn each_way_to_publish_takes_a_trace_context() {
    let server = Server::with(CONFIG, &[]);
    let mut socket = Socket::subscribed(server.addr, "channel=a");
    let field = format!("traceparent: {}", context(1));
    post(&server.feed, "?channel=a", &["-H", &field, "-d", "1"]);
    let two = format!(
        r#"[{{"channel":"a","data":2,"traceparent":"{}"}},{{"channel":"a","data":3}}]"#,
        context(2)
    );
    post(&server.feed, "", &["-H", &field, "-d", &two]);
    let twice = ["-H", &field, "-H", &field, "-d", "4"];
    post(&server.feed, "?channel=a", &twice);
    post(
        &server.feed,
        "?channel=a",
        &["-H", "traceparent: 00-1", "-d", "5"],
    );
    let mut command = fanfare();
    command.args(["publish", "a", "6", "--traceparent", &context(6)]);
    let status = command.arg("--feed").arg(&server.feed).status().unwrap();
    assert!(status.success());
    let received: Vec<_> = (0..6).map(|_| socket.publication()).collect();
    let contexts = received.iter().map(|one| one.get("traceparent").cloned());
    let context = |span| Some(Value::from(context(span)));
    let expected = [context(1), context(2), context(1), None, None, context(6)];
    assert_eq!(contexts.collect::<Vec<_>>(), expected);
    for (query, body) in [
        ("?channel=a&traceparent=00", "1"),
        ("", r#"{"channel":"a","data":1,"traceparent":"x"}"#),
    ] {
        let refused = post(&server.feed, query, &["-d", body]);
        assert!(refused.contains("bad_value"), "{refused}");
        assert!(
            refused.contains("`traceparent` is not of the form 00-"),
            "{refused}"
        );
    }
    let mut command = fanfare();
    command.args(["publish", "a", "6", "--traceparent", "00-1"]);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let printed = String::from_utf8(output.stderr).unwrap();
    assert!(printed.contains("not of the form 00-4bf92f"), "{printed}");
}

#[test]
fn publication_of_a_client_has_its_trace_context() {
    let server = Server::with(CONFIG, &[]);
    let mut backend = Feeder::connect(&server.feed);
    backend.send(&json!({"consume": "chat:*", "ack": true}));
    assert_eq!(backend.answer()["ok"], true);
    let mut client = Socket::subscribed(server.addr, "channel=other");
    let mut reader = Socket::subscribed(server.addr, "channel=room:1");
    let publish = |channel: &str, traceparent: &str| {
        let mut command = json!({"type": "publish", "channel": channel, "data": 1, "ref": 1});
        command["traceparent"] = traceparent.into();
        command
    };
    client.send(&publish("chat:1", &context(1)));
    let report = backend.answer();
    assert_eq!(report["traceparent"], context(1), "{report}");
    assert_eq!(client.json()["type"], "ok");
    client.send(&publish("room:1", &context(2)));
    assert_eq!(reader.publication()["traceparent"], context(2));
    assert_eq!(client.json()["type"], "ok");
    client.send(&publish("room:1", "00-1"));
    assert_eq!(client.json()["code"], "bad_traceparent");
}

#[test]
fn trace_context_survives_a_restart_with_a_journal() {
    let folder = tempfile::tempdir().unwrap();
    let config = format!("[journal]\npath = {:?}\n", folder.path().join("journal"));
    let start = || Server::in_folder(folder.path(), "127.0.0.1:0", &config, &[]).unwrap();
    let mut first = start();
    let mut feed = UnixStream::connect(&first.feed).unwrap();
    let traced = json!({"channel": "a", "data": 1, "key": "k", "traceparent": context(1)});
    feed.write_all(format!("{traced}\n").as_bytes()).unwrap();
    let mut feeder = Feeder::connect(&first.feed);
    feeder.publish("a", 2);
    first.await_metric("fanfare_publications_total", 2.0);
    first.signal("KILL");
    first.wait();
    let second = start();
    let poll = Raw::get(second.addr, "/poll?channel=a&since=first&timeout=0");
    let body: Value = serde_json::from_str(poll.body_text()).unwrap();
    let mut contexts: Vec<_> = (0..2)
        .map(|at| &body["publications"][at]["traceparent"])
        .collect();
    contexts.sort_by_key(|context| context.is_null());
    assert_eq!(contexts, [&json!(context(1)), &Value::Null]);
}
