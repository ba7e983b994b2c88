//! The feed: lines, HTTP, many feeders, and the subcommands that use the feed.

use std::io::{BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::process::{Command, Output, Stdio};
use std::thread;

use serde_json::{Value, json};
use tungstenite::Message;

use crate::support::handmade::upgrade;
use crate::support::{Feeder, Lines, Raw, Server, Socket, fanfare};

/// Runs a command with this standard input until it ends.
fn run(command: &mut Command, input: &str) -> Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that does not read its input may end before the whole input is written.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn ack_has_the_line_the_id_and_the_number_of_subscribers() {
    let server = Server::start();
    let _subscribers: Vec<Socket> = (0..3)
        .map(|_| Socket::subscribed(server.addr, "channel=a"))
        .collect();
    let mut feeder = Feeder::connect(&server.feed);
    feeder.write("{\"channel\":\"b\",\"data\":1}\n\n");
    feeder.write("{\"channel\":\"a\",\"data\":2,\"ack\":true}\n{\"channel\":\"b\",\"data\":3,\"ack\":true}\n");
    let first = feeder.answer();
    assert_eq!(first["ok"], true, "{first}");
    assert_eq!(first["line"], 3, "{first}");
    assert_eq!(first["subscribers"], 3, "{first}");
    let second = feeder.answer();
    assert_eq!(second["line"], 4, "{second}");
    assert_eq!(second["subscribers"], 0, "{second}");
    assert_ne!(first["id"], second["id"]);
}

#[test]
fn bad_line_is_an_error_and_later_lines_are_read() {
    let server = Server::start();
    let mut socket = Socket::subscribed(server.addr, "channel=a");
    let mut feeder = Feeder::connect(&server.feed);
    let bad = [
        // The first byte of a connection selects lines or HTTP, so this malformed line must not
        // come first.
        "{}",
        "not json",
        "[]",
        "{\"channel\":\"a\"}",
        "{\"channel\":\"a b\",\"data\":1}",
        "{\"channel\":\"a\",\"data\":1,\"text\":\"x\"}",
        "{\"channel\":\"a\",\"data\":{]}",
        "{\"channel\":\"a\",\"base64\":\"!\"}",
        "{\"channel\":\"a\",\"data\":1,\"colour\":2}",
        "{\"channel\":7,\"data\":1}",
    ];
    for (at, line) in bad.iter().enumerate() {
        feeder.write(&format!("{line}\n"));
        let answer = feeder.answer();
        assert_eq!(answer["ok"], false, "{line}: {answer}");
        assert_eq!(answer["line"], at + 1, "{line}: {answer}");
        assert!(
            answer["error"].is_string() && answer["message"].is_string(),
            "{answer}"
        );
    }
    let id = feeder.publish("a", 1);
    assert_eq!(socket.publication()["id"], id.as_str());
}

#[test]
fn line_over_the_limit_is_an_error_and_closes_the_connection() {
    let server = Server::with("[limits]\nfeed_line_bytes = 1000\n", &[]);
    let mut feeder = Feeder::connect(&server.feed);
    feeder.write(&format!(
        "{{\"channel\":\"a\",\"text\":\"{}\"",
        "x".repeat(2000)
    ));
    let answer = feeder.answer();
    assert_eq!(answer["ok"], false, "{answer}");
    assert!(feeder.has_ended());
    Feeder::connect(&server.feed).publish("a", 1);
}

#[test]
fn publication_to_several_channels_has_consecutive_ids() {
    let server = Server::start();
    let mut socket = Socket::subscribed(server.addr, "channel=a&channel=b");
    let mut feeder = Feeder::connect(&server.feed);
    feeder.write("{\"channel\":[\"a\",\"b\"],\"data\":1}\n");
    let (a, b) = (socket.publication(), socket.publication());
    assert_eq!((&a["channel"], &b["channel"]), (&json!("a"), &json!("b")));
    let sequence = |value: &Value| -> u64 {
        let id = value["id"].as_str().unwrap();
        id.split_once('-').unwrap().1.parse().unwrap()
    };
    assert_eq!(sequence(&a) + 1, sequence(&b));
}

#[test]
fn repeated_dedupe_key_gets_the_first_id_and_is_not_delivered_again() {
    let server = Server::start();
    let mut socket = Socket::subscribed(server.addr, "channel=a");
    let mut feeder = Feeder::connect(&server.feed);
    let line = json!({"channel": "a", "data": 1, "dedupe": "order-7", "ack": true});
    feeder.send(&line);
    feeder.send(&line);
    assert_eq!(feeder.answer()["id"], feeder.answer()["id"]);
    let next = feeder.publish("a", 2);
    assert_eq!(socket.publication()["data"], 1);
    assert_eq!(socket.publication()["id"], next.as_str());
}

/// Sends a request to the feed with curl. Returns the status with the content type, and the body.
fn curl(server: &Server, target: &str, content_type: &str, body: &str) -> (String, String) {
    let output = Command::new("curl")
        .args([
            "-sS",
            "--max-time",
            "20",
            "-w",
            "\n%{http_code} %{content_type}",
        ])
        .arg("--unix-socket")
        .arg(&server.feed)
        .args(["-H", &format!("content-type: {content_type}"), "-d", body])
        .arg(format!("http://feed{target}"))
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let (body, status) = text.rsplit_once('\n').unwrap();
    (status.to_owned(), body.to_owned())
}

#[test]
fn curl_publishes_over_the_unix_socket() {
    let server = Server::start();
    let mut socket = Socket::subscribed(server.addr, "channel=a");
    let to_a = "/publish?channel=a";
    let (status, body) = curl(&server, to_a, "application/json", "{\"x\": 1}");
    assert!(status.starts_with("200 "), "{status}");
    assert!(body.contains("\"ok\":true"), "{body}");
    assert_eq!(socket.publication()["data"], json!({"x": 1}));
    curl(&server, to_a, "text/plain; charset=utf-8", "hello");
    assert_eq!(socket.publication()["text"], "hello");
    curl(&server, to_a, "application/octet-stream", "hi!");
    assert_eq!(socket.publication()["base64"], "aGkh");
    let many =
        "[{\"channel\":\"a\",\"data\":1},{\"channel\":\"a\",\"text\":\"2\",\"event\":\"e\"}]";
    let (status, body) = curl(&server, "/publish", "application/json", many);
    assert!(status.starts_with("200 "), "{status} {body}");
    assert_eq!(socket.publication()["data"], 1);
    assert_eq!(socket.publication()["event"], "e");
}

#[test]
fn bad_requests_to_the_feed_are_problem_documents() {
    let server = Server::start();
    for (target, body) in [
        ("/publish?channel=a", "{"),
        ("/publish?channel=a%20b", "1"),
        ("/publish", "{}"),
        ("/nowhere", "1"),
    ] {
        let (status, body) = curl(&server, target, "application/json", body);
        let is_problem = status.starts_with('4') && status.ends_with(" application/problem+json");
        assert!(is_problem, "{target}: {status} {body}");
    }
}

/// Sends a POST to the feed with these field lines. Returns the head and body of the response.
fn post(server: &Server, target: &str, fields: &[&str], body: &[u8]) -> (String, String) {
    let mut stream = UnixStream::connect(&server.feed).unwrap();
    let head = format!(
        "POST {target} HTTP/1.1\r\nHost: feed\r\nConnection: close\r\n{}\r\n\
         Content-Length: {}\r\n\r\n",
        fields.join("\r\n"),
        body.len()
    );
    stream.write_all(&[head.as_bytes(), body].concat()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

#[test]
fn bodies_of_unsupported_types_get_415_and_publish_nothing() {
    const JSON: &str = "Content-Type: application/json";
    const FORM: &str = "Content-Type: application/x-www-form-urlencoded";
    let server = Server::start();
    let mut socket = Socket::subscribed(server.addr, "channel=a");
    let to_a = "/publish?channel=a";
    let gzip: &[u8] = b"\x1f\x8b\x08\0\0\0\0\0\0\x033\x04\0\xb7\xef\xdc\x83\x01\0\0\0";
    let coding = ("content_coding", "Accept-Encoding: identity\r\n");
    let media_type = ("unsupported_media_type", "Accept: application/json");
    for (target, fields, body, (code, field)) in [
        (to_a, vec!["Content-Encoding: gzip"], gzip, coding),
        (to_a, vec![JSON, "Content-Encoding: br"], b"1", coding),
        (
            to_a,
            vec!["Content-Encoding: identity", "content-encoding: gzip"],
            b"x",
            coding,
        ),
        (
            "/publish",
            vec![JSON, "Content-Encoding: deflate, identity"],
            b"[{\"channel\":\"a\",\"data\":1}]",
            coding,
        ),
        (to_a, vec![FORM], b"{\"x\":1}", media_type),
        (
            "/publish",
            vec!["Content-Type: multipart/form-data; boundary=b"],
            b"--b--",
            media_type,
        ),
        (
            to_a,
            vec!["Content-Type: text/plain; charset=latin1"],
            b"x",
            media_type,
        ),
        (to_a, vec!["Content-Type: json"], b"1", media_type),
    ] {
        let (head, body) = post(&server, target, &fields, body);
        assert!(head.starts_with("HTTP/1.1 415 "), "{fields:?}: {head}");
        assert!(head.contains(field), "{fields:?}: {head}");
        let problem: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(problem["code"], code, "{fields:?}: {problem}");
    }
    // curl sends a Content-Type by default, which the server refuses with a hint.
    let mut curl = Command::new("curl");
    curl.args(["-sS", "-d", "{\"x\":1}", "--unix-socket"]);
    let output = run(
        curl.arg(&server.feed).arg("http://feed/publish?channel=a"),
        "",
    );
    let hint = "-H 'content-type: application/json'";
    assert!(text(&output.stdout).contains(hint), "{output:?}");
    // Without a content coding and without a type, the payload is the bytes of the body.
    let (head, _) = post(&server, to_a, &["Content-Encoding: identity"], b"hi!");
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert_eq!(socket.publication()["base64"], "aGkh");
}

#[test]
fn null_is_absent_and_numbers_have_any_spelling_on_every_input() {
    let config = "[[namespace]]\nmatch = \"*\"\nclient_publish = \"broadcast\"\n";
    let server = Server::with(config, &[]);
    let mut socket = Socket::subscribed(server.addr, "channel=a");
    let mut feeder = Feeder::connect(&server.feed);
    for nulls in [
        r#""event":null,"key":null,"dedupe":null,"ttl_ms":null,"text":null,"base64":null"#,
        r#""ttl_ms":60000.0"#,
        r#""ttl_ms":6e4,"channel":["a"]"#,
        r#""consume":null,"disconnect":null,"code":null"#,
    ] {
        let line = format!(r#"{{"channel":"a","data":null,{nulls},"ack":null}}"#);
        let line = match nulls.contains("\"channel\"") {
            true => line.replacen(r#""channel":"a","#, "", 1),
            false => line,
        };
        feeder.write(&format!("{line}\n"));
        assert_eq!(socket.publication()["data"], Value::Null, "{line}");
        let array = format!("[{line}]");
        let (head, body) = post(
            &server,
            "/publish",
            &["Content-Type: application/json"],
            array.as_bytes(),
        );
        assert!(head.starts_with("HTTP/1.1 200 "), "{line}: {body}");
        assert_eq!(socket.publication()["data"], Value::Null, "{line}");
    }
    socket.send(&json!({"type": "publish", "channel": "a", "data": null, "ref": null}));
    assert_eq!(socket.publication()["data"], Value::Null);
    let subscribe = r#"{"type":"subscribe","channel":"b","since":null,"window":5.0,"ref":5.0}"#;
    socket.0.send(subscribe.into()).unwrap();
    assert_eq!(socket.json()["type"], "subscribed");
    // A required key with the value null counts as missing.
    for (line, message) in [
        (r#"{"channel":null,"data":1}"#, "`channel` is missing"),
        (r#"{"disconnect":null}"#, "`disconnect` is missing"),
        (
            r#"{"channel":"a","data":1,"ttl_ms":5000.5}"#,
            "`ttl_ms` is a whole number",
        ),
        (
            r#"{"channel":"a","data":1,"ttl_ms":1e400}"#,
            "`ttl_ms` is a whole number",
        ),
    ] {
        feeder.write(&format!("{line}\n"));
        let answer = feeder.answer();
        let printed = answer["message"].as_str().unwrap();
        assert!(printed.starts_with(message), "{line}: {answer}");
    }
    let (mut other, conn) = {
        let mut other = Socket::open(server.addr, "channel=a");
        let welcome = other.json();
        (other, welcome["conn"].as_str().unwrap().to_owned())
    };
    let end = format!(r#"{{"disconnect":"{conn}","code":null,"reason":null}}"#);
    feeder.write(&format!("{end}\n"));
    assert_eq!(other.closed(), (4003, String::new()));
}

#[test]
fn empty_keys_and_a_ttl_of_zero_are_refused() {
    let server = Server::start();
    let mut socket = Socket::subscribed(server.addr, "channel=a");
    let mut feeder = Feeder::connect(&server.feed);
    for (name, value) in [
        ("dedupe", json!("")),
        ("key", json!("")),
        ("ttl_ms", json!(0)),
    ] {
        let line = json!({"channel": "a", "data": 1, name: value});
        feeder.send(&line);
        assert_eq!(feeder.answer()["error"], "bad_value", "{line}");
        let query = format!(
            "/publish?channel=a&{name}={}",
            value.as_u64().map_or(String::new(), |n| n.to_string())
        );
        for (target, body) in [("/publish", line.to_string()), (&*query, "1".into())] {
            let (status, body) = curl(&server, target, "application/json", &body);
            assert!(status.starts_with("400 "), "{target}: {status}");
            assert!(body.contains("bad_value"), "{target}: {body}");
        }
    }
    let mut publish = fanfare();
    publish.args(["publish", "a", "1", "--key", "", "--feed"]);
    let refused = run(publish.arg(&server.feed), "");
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    feeder.send(&json!({"channel": "a", "text": "", "event": ""}));
    assert_eq!(socket.publication()["text"], "");
}

#[test]
fn patterns_are_refused_where_names_are_taken() {
    let config = "[[namespace]]\nmatch = \"*\"\nclient_publish = \"broadcast\"\n\
        client_presence = true\n";
    let server = Server::with(config, &[]);
    let mut socket = Socket::subscribed(server.addr, "channel=a");
    let mut feeder = Feeder::connect(&server.feed);
    for (line, error) in [
        (json!({"consume": ["*x*"]}), "bad_value"),
        (json!({"consume": "a*b"}), "bad_value"),
        (json!({"consume": ["a", "**"]}), "bad_value"),
        (json!({"presence": ["chat:*"]}), "bad_channel"),
        (json!({"channel": "prices:*", "data": 1}), "bad_channel"),
        (json!({"channel": ["a", "*"], "data": 1}), "bad_channel"),
    ] {
        feeder.send(&line);
        let answer = feeder.answer();
        assert_eq!(answer["error"], error, "{line}: {answer}");
        assert!(answer["message"].as_str().unwrap().contains('*'), "{line}");
    }
    for name in ["prices:*", "*", "a*b", "%2a"] {
        for target in [
            format!("/sse?channel={name}"),
            format!("/poll?channel=a&channel={name}&timeout=0"),
        ] {
            let answer = Raw::get(server.addr, &target);
            answer.assert_problem(400);
            assert!(answer.body_text().contains("bad_channel"), "{target}");
        }
        let handshake = upgrade(server.addr, &format!("channel={name}"));
        Raw::read(&mut BufReader::new(handshake)).assert_problem(400);
    }
    for kind in ["subscribe", "unsubscribe", "publish", "presence"] {
        let command = json!({"type": kind, "channel": "prices:*", "data": 1, "ref": 1});
        socket.send(&command);
        let answer = socket.json();
        assert_eq!(answer["code"], "bad_channel", "{command}");
        assert!(
            answer["message"].as_str().unwrap().contains('*'),
            "{answer}"
        );
    }
    let mut publish = fanfare();
    publish.args(["publish", "prices:*", "1", "--feed"]);
    let refused = run(publish.arg(&server.feed), "");
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
}

#[test]
fn payloads_that_other_parsers_reject_are_refused_on_every_input() {
    let config = "[[namespace]]\nmatch = \"*\"\nclient_publish = \"consume\"\n";
    let server = Server::with(config, &[]);
    let mut backend = Feeder::connect(&server.feed);
    backend.send(&json!({"consume": ["*"], "ack": true}));
    assert_eq!(backend.answer()["ok"], true);
    let mut socket = Socket::subscribed(server.addr, "channel=a");
    let mut feeder = Feeder::connect(&server.feed);
    // Tests the number of nesting levels and the number of digits, at their limits and beyond.
    let deep = |levels| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
    let long = |digits: usize| format!("-0.{}", "7".repeat(digits - 1));
    for (payload, is_good) in [
        (deep(128), true),
        (deep(129), false),
        (deep(100_000), false),
        (long(1000), true),
        (long(1001), false),
    ] {
        let start = &payload[..20];
        let line = format!("{{\"channel\":\"a\",\"data\":{payload},\"ack\":true}}");
        feeder.write(&format!("{line}\n"));
        let answer = feeder.answer();
        assert_eq!(answer["ok"], is_good, "{start}: {answer}");
        for (target, body) in [
            ("/publish?channel=a", payload.clone()),
            ("/publish", format!("[{line}]")),
        ] {
            let (head, answer) = post(
                &server,
                target,
                &["Content-Type: application/json"],
                body.as_bytes(),
            );
            let status = if is_good { "200" } else { "400" };
            assert!(
                head.starts_with(&format!("HTTP/1.1 {status} ")),
                "{start}: {answer}"
            );
        }
        if is_good {
            for _ in 0..3 {
                let Message::Text(publication) = socket.message() else {
                    panic!("no text")
                };
                assert!(publication.contains(&payload), "{start}");
            }
        }
        if payload.len() > 60_000 {
            continue;
        }
        let command =
            format!(r#"{{"type":"publish","channel":"a","data":{payload},"x":[{{}}],"ref":7}}"#);
        socket.0.send(command.into()).unwrap();
        if is_good {
            backend.skip_line();
        }
        let answer = socket.json();
        assert_eq!(answer["ref"], 7, "{start}: {answer}");
        let is_ok = answer["type"] == "ok";
        assert_eq!(is_ok, is_good, "{start}: {answer}");
        assert!(is_good || answer["code"] == "bad_json", "{answer}");
    }
}

#[test]
fn reserved_names_are_refused_on_every_input() {
    let config = "[[namespace]]\nmatch = \"*\"\nclient_publish = \"broadcast\"\n";
    let server = Server::with(config, &[]);
    let mut socket = Socket::subscribed(server.addr, "channel=a");
    let mut feeder = Feeder::connect(&server.feed);
    for (channel, event, error) in [
        ("a", "fanfare.disconnect", "bad_value"),
        ("a", " fanfare.gap", "bad_value"),
        ("fanfare:stats", "e", "bad_channel"),
    ] {
        let publication = json!({"channel": channel, "event": event, "data": 1});
        feeder.send(&publication);
        assert_eq!(feeder.answer()["error"], error, "{publication}");
        let line = publication.to_string();
        let query = format!(
            "/publish?channel={channel}&event={}",
            event.replace(' ', "+")
        );
        for (target, body) in [
            ("/publish", &*line),
            ("/publish", &format!("[{line}]")),
            (&query, "1"),
        ] {
            let (status, body) = curl(&server, target, "application/json", body);
            assert!(status.starts_with("400 "), "{target}: {status} {body}");
            assert!(body.contains(error), "{target}: {body}");
        }
        let mut publish = fanfare();
        publish.args(["publish", channel, "1", "--event", event, "--feed"]);
        let refused = run(publish.arg(&server.feed), "");
        assert_eq!(refused.status.code(), Some(2), "{refused:?}");
        assert!(
            text(&refused.stderr).contains("begin with `fanfare"),
            "{refused:?}"
        );
    }
    for command in ["subscribe", "publish"] {
        socket.send(&json!({"type": command, "channel": "fanfare:stats", "data": 1, "ref": 1}));
        assert_eq!(socket.json()["code"], "bad_channel", "{command}");
    }
    for path in ["/sse", "/poll"] {
        Raw::get(server.addr, &format!("{path}?channel=fanfare:stats")).assert_problem(400);
    }
    // Nothing was published. Names that only start like a reserved name are accepted.
    feeder.send(&json!({"channel": "a", "event": "fanfares", "data": 2, "ack": true}));
    assert_eq!(feeder.answer()["ok"], true);
    assert_eq!(socket.publication()["event"], "fanfares");
}

#[test]
fn many_feeders_each_keep_their_order() {
    const FEEDERS: usize = 8;
    const EACH: usize = 200;
    let server = Server::with(
        "[quota]\nbehind_publications = 100000\nbehind_bytes = 60000000\n",
        &[],
    );
    let mut socket = Socket::subscribed(server.addr, "channel=a");
    thread::scope(|scope| {
        for own in 0..FEEDERS {
            let feed = &server.feed;
            scope.spawn(move || {
                let mut feeder = Feeder::connect(feed);
                for n in 0..EACH {
                    feeder.send(&json!({"channel": "a", "data": [own, n]}));
                }
                feeder.publish("end", own);
            });
        }
        let mut next = [0; FEEDERS];
        for _ in 0..FEEDERS * EACH {
            let value = socket.publication();
            let own = usize::try_from(value["data"][0].as_u64().unwrap()).unwrap();
            assert_eq!(value["data"][1], next[own], "feeder {own}");
            next[own] += 1;
        }
    });
}

#[test]
fn python_publishes_with_its_standard_library() {
    let server = Server::start();
    let mut socket = Socket::subscribed(server.addr, "channel=a");
    let program = "import json, socket, sys\n\
        feed = socket.socket(socket.AF_UNIX)\n\
        feed.connect(sys.argv[1])\n\
        line = {'channel': 'a', 'data': {'price': 1.5}, 'ack': True}\n\
        feed.sendall(json.dumps(line).encode() + b'\\n')\n\
        print(feed.makefile().readline())\n";
    let output = run(
        Command::new("python3")
            .args(["-c", program])
            .arg(&server.feed),
        "",
    );
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["subscribers"], 1, "{answer}");
    assert_eq!(socket.publication()["data"], json!({"price": 1.5}));
}

#[test]
fn publish_command_sends_an_argument_or_each_line() {
    let server = Server::start();
    let mut socket = Socket::subscribed(server.addr, "channel=a");
    let publish = |args: &[&str], input: &str| {
        run(
            fanfare()
                .arg("publish")
                .arg("--feed")
                .arg(&server.feed)
                .arg("a")
                .args(args),
            input,
        )
    };
    let output = publish(&["{\"n\":1}", "--event", "tell", "--ack"], "");
    assert!(output.status.success(), "{output:?}");
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    let publication = socket.publication();
    assert_eq!(publication["id"], answer["id"]);
    assert_eq!(publication["event"], "tell");
    assert!(publish(&["--text", "a \"word\""], "").status.success());
    assert_eq!(socket.publication()["text"], "a \"word\"");
    assert!(publish(&[], "1\n{\"two\":2}\n").status.success());
    assert_eq!(socket.publication()["data"], 1);
    assert_eq!(socket.publication()["data"], json!({"two": 2}));
    let refused = publish(&[], "1\nnot json\n2\n");
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(!refused.stderr.is_empty());
    assert_eq!(socket.publication()["data"], 1);
    assert_eq!(socket.publication()["data"], 2);
    let unreachable = run(
        fanfare().args(["publish", "a", "1", "--feed", "/nowhere/feed.sock"]),
        "",
    );
    assert_eq!(unreachable.status.code(), Some(1));
    assert!(
        text(&unreachable.stderr).contains("/nowhere/feed.sock"),
        "{unreachable:?}"
    );
}

#[test]
fn subscribe_command_prints_publications_over_both_transports() {
    let server = Server::start();
    let subscribe = |url: &str, flags: &[&str]| {
        Lines::run(
            fanfare()
                .args(["subscribe", url, "--count", "2", "--timeout", "20"])
                .args(flags),
        )
    };
    let mut by_socket = subscribe(&format!("ws://{}/ws?channel=a", server.addr), &[]);
    let mut by_stream = subscribe(&server.url("/sse?channel=a"), &["--ids"]);
    server.await_metric("fanfare_subscribers", 2.0);
    let mut feeder = Feeder::connect(&server.feed);
    let ids = [feeder.publish("a", 1), feeder.publish("a", json!({"n": 2}))];
    let mut publications = Vec::new();
    while publications.len() < 2 {
        let value = by_socket.json();
        if value.get("type").is_none() {
            publications.push(value["id"].as_str().unwrap().to_owned());
        }
    }
    assert_eq!(publications, ids);
    let expected = [format!("{}\t1", ids[0]), format!("{}\t{{\"n\":2}}", ids[1])];
    assert_eq!(by_stream.rest(), expected);
    assert!(by_socket.wait().success());
    assert!(by_stream.wait().success());
}

#[test]
fn check_command_accepts_good_files_and_refuses_bad_ones() {
    let folder = tempfile::tempdir().unwrap();
    let check = |config: &str| {
        let file = folder.path().join("fanfare.toml");
        std::fs::write(&file, config).unwrap();
        run(fanfare().arg("check").arg(file), "")
    };
    let good = check("listen = [\"127.0.0.1:0\"]\n[quota]\noverflow = \"close\"\n");
    assert_eq!(good.status.code(), Some(0), "{good:?}");
    for (config, key) in [
        ("[quota]\noverflow = \"explode\"\n", "overflow"),
        ("[heartbeat]\ninterval = 5\n", "interval"),
        ("workers = \"many\"\n", "workers"),
    ] {
        let bad = check(config);
        assert_eq!(bad.status.code(), Some(2), "{bad:?}");
        let printed = text(&bad.stderr);
        assert!(
            printed.contains("fanfare.toml") && printed.contains(key),
            "{printed}"
        );
        let line = config.lines().position(|line| line.contains(key)).unwrap() + 1;
        assert!(printed.contains(&format!(":{line}")), "{printed}");
    }
    let missing = run(fanfare().args(["check", "/nowhere/fanfare.toml"]), "");
    assert_eq!(missing.status.code(), Some(2), "{missing:?}");
    let usage = run(fanfare().args(["serve", "--listen", "nonsense"]), "");
    assert_eq!(usage.status.code(), Some(2), "{usage:?}");
}
