//! HTTP and server-sent events, with curl and with hand-written bytes.

use std::io::{BufReader, Read as _, Write as _};
use std::process::Command;

use crate::support::raw::{connect, exchange};
use crate::support::{Feeder, Lines, Raw, Server};

/// Returns the output of curl with these arguments.
fn curl(args: &[&str]) -> String {
    let output = Command::new("curl")
        .args(["-sS", "--max-time", "20"])
        .args(args)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// Returns the lines of the next event that has a `data` field, from `id:` to the last `data:`.
fn event(stream: &mut Lines) -> Vec<String> {
    let mut lines = Vec::new();
    loop {
        let line = stream.next().expect("the stream continues");
        if !line.is_empty() {
            lines.push(line);
        } else if lines.iter().any(|line| line.starts_with("data:")) {
            return lines;
        } else {
            lines.clear();
        }
    }
}

/// Starts a stream with curl, and reads up to its first id.
fn stream(args: &[&str]) -> (Lines, Vec<String>) {
    let mut stream = Lines::curl(args);
    let mut head = Vec::new();
    loop {
        let line = stream.next().expect("a head");
        let is_priming = line.starts_with("id:");
        head.push(line.to_lowercase());
        if is_priming {
            return (stream, head);
        }
    }
}

#[test]
fn browser_module_is_served_to_pages_of_any_origin() {
    let server = Server::with("page = false\n", &[]);
    for (path, file, media_type) in [
        ("/fanfare.js", "fanfare.min.js", "text/javascript"),
        ("/fanfare-acks.js", "acks.min.js", "text/javascript"),
        ("/fanfare-outbox.js", "outbox.min.js", "text/javascript"),
        ("/fanfare.d.ts", "fanfare.d.ts", "text/plain"),
    ] {
        let file = format!("{}/src/web/{file}", env!("CARGO_MANIFEST_DIR"));
        let origin = ["-H", "Origin: https://elsewhere.example"];
        let url = server.url(path);
        let whole = curl(&[&origin[..], &["-i", &url]].concat());
        let (head, content) = whole.split_once("\r\n\r\n").unwrap();
        assert_eq!(content, std::fs::read_to_string(file).unwrap(), "{path}");
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        let lines = [
            format!("Content-Type: {media_type}; charset=utf-8"),
            String::from("Access-Control-Allow-Origin: *"),
        ];
        for line in lines {
            assert!(head.lines().any(|own| own == line), "{line} in {head}");
        }
        assert_eq!(curl(&["-I", &url]).trim_end(), head.trim_end());
    }
    let refused = curl(&["-i", &server.url("/")]);
    assert!(refused.starts_with("HTTP/1.1 404 "), "{refused}");
}

#[test]
fn page_is_served_whole() {
    let server = Server::start();
    let answer = curl(&["-i", &server.url("/")]);
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(
        answer.to_lowercase().contains("content-type: text/html"),
        "{answer}"
    );
    assert!(answer.ends_with(include_str!("../../src/http/page.html")));
}

#[test]
fn page_can_be_disabled() {
    let server = Server::with("page = false\n", &[]);
    Raw::get(server.addr, "/").assert_problem(404);
}

#[test]
fn head_has_the_fields_and_no_body() {
    let server = Server::start();
    let page = include_str!("../../src/http/page.html");
    let answer = curl(&["-I", &server.url("/")]);
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(
        answer
            .to_lowercase()
            .contains(&format!("content-length: {}", page.len()))
    );
    assert!(answer.ends_with("\r\n\r\n"), "{answer}");
}

#[test]
fn options_answers_a_preflight() {
    let server = Server::with("[browser]\norigins = [\"https://app.example\"]\n", &[]);
    let answer = curl(&[
        "-i",
        "-X",
        "OPTIONS",
        "-H",
        "Origin: https://app.example",
        "-H",
        "Access-Control-Request-Method: GET",
        "-H",
        "Access-Control-Request-Headers: last-event-id",
        &server.url("/sse?channel=a"),
    ])
    .to_lowercase();
    assert!(answer.starts_with("http/1.1 20"), "{answer}");
    assert!(
        answer.contains("access-control-allow-origin: https://app.example\r\n"),
        "{answer}"
    );
    assert!(
        answer.contains("access-control-allow-methods: get"),
        "{answer}"
    );
    assert!(answer.contains("last-event-id"), "{answer}");
}

#[test]
fn refusals_are_problem_documents() {
    let server = Server::start();
    Raw::get(server.addr, "/nowhere").assert_problem(404);
    Raw::get(server.addr, "/sse").assert_problem(400);
    Raw::get(server.addr, "/sse?channel=a%20b").assert_problem(400);
    Raw::get(server.addr, "/ws?channel=a").assert_problem(426);
    let many = "channel=a&".repeat(64)
        + &(0..129)
            .map(|n| format!("channel={n}&"))
            .collect::<String>();
    Raw::get(server.addr, &format!("/sse?{many}")).assert_problem(400);
    let posted = exchange(
        server.addr,
        b"POST /sse?channel=a HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
    );
    posted.assert_problem(405);
    assert!(
        posted
            .field("allow")
            .is_some_and(|methods| methods.contains("GET"))
    );
    exchange(server.addr, b"nonsense\r\n\r\n").assert_problem(400);
}

#[test]
fn pipelined_requests_are_answered_in_order_on_one_connection() {
    let server = Server::start();
    let mut stream = BufReader::new(connect(server.addr));
    let requests = "GET /a HTTP/1.1\r\nHost: a\r\n\r\nHEAD / HTTP/1.1\r\nHost: a\r\n\r\n\
         GET /sse HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n";
    stream.get_mut().write_all(requests.as_bytes()).unwrap();
    Raw::read(&mut stream).assert_problem(404);
    // The response to HEAD states the length of a body that is not sent.
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    assert!(
        head.starts_with(b"HTTP/1.1 200 "),
        "{}",
        head.escape_ascii()
    );
    Raw::read(&mut stream).assert_problem(400);
    assert_eq!(Raw::read(&mut stream).status, 200);
}

#[test]
fn request_sent_byte_by_byte_is_answered() {
    let server = Server::start();
    let mut stream = BufReader::new(connect(server.addr));
    for _ in 0..2 {
        for byte in b"GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n" {
            stream.get_mut().write_all(&[*byte]).unwrap();
        }
        Raw::read(&mut stream).assert_problem(404);
    }
}

#[test]
fn late_head_is_refused() {
    let server = Server::with("[limits]\nrequest_head_ms = 200\n", &[]);
    let mut stream = BufReader::new(connect(server.addr));
    stream
        .get_mut()
        .write_all(b"GET / HTTP/1.1\r\nHost:")
        .unwrap();
    Raw::read(&mut stream).assert_problem(408);
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();
    assert!(rest.is_empty());
    server.await_metric("fanfare_conns_closed_total{reason=\"head_timeout\"}", 1.0);
}

#[test]
fn head_over_the_limit_is_refused() {
    let server = Server::start();
    let fields = format!("X-Long: {}\r\n", "x".repeat(500)).repeat(20);
    let request = format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
    exchange(server.addr, request.as_bytes()).assert_problem(431);
    let target = "x".repeat(9000);
    let status = exchange(
        server.addr,
        format!("GET /{target} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes(),
    )
    .status;
    assert!(matches!(status, 414 | 431), "{status}");
}

#[test]
fn event_stream_starts_with_its_fields_a_retry_and_its_position() {
    let server = Server::start();
    let (_stream, head) = stream(&[&server.url("/sse?channel=a")]);
    assert!(head[0].starts_with("http/1.1 200"), "{head:?}");
    for field in [
        "content-type: text/event-stream; charset=utf-8",
        "connection: close",
        "cache-control: no-cache, no-transform",
        "x-accel-buffering: no",
        "transfer-encoding: chunked",
    ] {
        assert!(head.iter().any(|line| line == field), "{field}: {head:?}");
    }
    assert!(
        head.iter().any(|line| line.starts_with("retry: ")),
        "{head:?}"
    );
    assert!(
        !head.iter().any(|line| line.starts_with("fanfare-gap")),
        "{head:?}"
    );
}

#[test]
fn event_stream_carries_publications_of_all_its_channels_in_order() {
    let server = Server::start();
    let (mut stream, _) = stream(&[&server.url("/sse?channel=a&channel=b")]);
    let mut feeder = Feeder::connect(&server.feed);
    let first = feeder.publish("a", serde_json::json!({"n": 1}));
    feeder.publish("c", 0);
    feeder.write("{\"channel\":\"b\",\"event\":\"note\",\"text\":\"two\\nlines\"}\n");
    let third = feeder.publish("a", "x");
    assert_eq!(
        event(&mut stream),
        [format!("id: {first}"), "data: {\"n\":1}".into()]
    );
    let second = event(&mut stream);
    assert_eq!(second[1..], ["event: note", "data: two", "data: lines"]);
    assert_eq!(
        event(&mut stream),
        [format!("id: {third}"), "data: \"x\"".into()]
    );
}

#[test]
fn event_stream_resumes_after_the_given_id() {
    let server = Server::start();
    let mut feeder = Feeder::connect(&server.feed);
    let ids: Vec<String> = (0..5).map(|n| feeder.publish("a", n)).collect();
    let header = format!("Last-Event-ID: {}", ids[1]);
    let url = |query: &str, id: &str| server.url(&format!("/sse?channel=a{query}{id}"));
    for (fields, url) in [
        (&["-H", &header][..], url("", "")),
        (&[], url("&since=", &ids[1])),
        (&[], url("&last_event_id=", &ids[1])),
        (&[], url("&lastEventId=", &ids[1])),
        // The header takes precedence, because a browser sends it when it reconnects to the
        // original URL.
        (&["-H", &header][..], url("&since=", &ids[3])),
    ] {
        let args: Vec<&str> = fields.iter().copied().chain([&*url]).collect();
        let (mut stream, head) = stream(&args);
        assert!(
            !head.iter().any(|line| line.starts_with("fanfare-gap")),
            "{head:?}"
        );
        for (n, id) in ids.iter().enumerate().skip(2) {
            assert_eq!(
                event(&mut stream),
                [format!("id: {id}"), format!("data: {n}")]
            );
        }
    }
}

#[test]
fn event_stream_reports_a_gap_for_an_id_of_another_epoch() {
    let server = Server::start();
    Feeder::connect(&server.feed).publish("a", 1);
    for (since, cause) in [("0123456789ab-7", "restart"), ("nonsense", "unknown")] {
        gap_comes_first(&server.url(&format!("/sse?channel=a&since={since}")), cause);
    }
}

fn gap_comes_first(url: &str, cause: &str) {
    let (_stream, head) = stream(&[url]);
    assert!(head.iter().any(|line| line == "fanfare-gap: 1"), "{head:?}");
    // The first id of the stream comes after the gap. So a client that loses its connection before
    // it reads the gap still has its old id. When it resumes, it receives the gap.
    let gap = head.iter().position(|line| line == "event: fanfare.gap");
    let gap = &head[gap.expect("a gap before the position")..];
    let data = gap
        .iter()
        .find_map(|line| line.strip_prefix("data: "))
        .unwrap();
    let data: serde_json::Value = serde_json::from_str(data).unwrap();
    assert_eq!(data["cause"], cause, "{data}");
}

#[test]
fn event_stream_in_the_full_envelope_has_channel_and_id() {
    let server = Server::start();
    let (mut stream, _) = stream(&[&server.url("/sse?channel=a&envelope=full")]);
    let mut feeder = Feeder::connect(&server.feed);
    let id = feeder.publish("a", 1);
    let data = format!("data: {{\"channel\":\"a\",\"id\":\"{id}\",\"data\":1}}");
    assert_eq!(event(&mut stream), [format!("id: {id}"), data]);
    Raw::get(server.addr, "/sse?channel=a&envelope=other").assert_problem(400);
}

#[test]
fn event_stream_of_http_1_0_has_no_chunks_and_ends_with_the_connection() {
    let server = Server::with("[drain]\nwindow_ms = 200\n", &[]);
    let mut stream = BufReader::new(connect(server.addr));
    stream
        .get_mut()
        .write_all(b"GET /sse?channel=a HTTP/1.0\r\nHost: a\r\n\r\n")
        .unwrap();
    let mut text = String::new();
    while !text.contains("\nid: ") || !text.ends_with("\n\n") {
        let mut bytes = [0; 512];
        let count = stream.read(&mut bytes).unwrap();
        assert!(count > 0, "{text}");
        text += std::str::from_utf8(&bytes[..count]).unwrap();
    }
    assert!(!text.to_lowercase().contains("transfer-encoding"), "{text}");
    let id = Feeder::connect(&server.feed).publish("a", 1);
    server.signal("TERM");
    let mut rest = String::new();
    stream.read_to_string(&mut rest).unwrap();
    assert!(
        rest.starts_with(&format!("id: {id}\ndata: 1\n\n")),
        "{rest}"
    );
}

#[test]
fn curl_with_http_1_0_sees_the_end_of_the_stream() {
    let mut server = Server::with("[drain]\nwindow_ms = 200\n", &[]);
    let mut old = Lines::curl(["-0", &server.url("/sse?channel=a")]);
    old.until("id: ");
    server.signal("TERM");
    old.rest();
    assert!(old.wait().success());
    assert!(server.wait().success());
}

#[test]
fn heartbeat_is_a_position() {
    let server = Server::with("[heartbeat]\ninterval_ms = 200\n", &[]);
    let (mut stream, head) = stream(&[&server.url("/sse?channel=a")]);
    for _ in 0..2 {
        assert_eq!(stream.until("event:"), "event:fanfare.position");
        assert_eq!(Some(&stream.until("id:")), head.last());
        assert_eq!(stream.next().as_deref(), Some(""));
    }
}

#[test]
fn clients_that_leave_are_counted_and_freed() {
    let server = Server::start();
    let (streams, _): (Vec<_>, Vec<_>) = (0..5)
        .map(|_| stream(&[&server.url("/sse?channel=a")]))
        .unzip();
    server.await_metric("fanfare_streams{transport=\"event_stream\"}", 5.0);
    drop(streams);
    server.await_metric("fanfare_streams{transport=\"event_stream\"}", 0.0);
    server.await_metric("fanfare_subscribers", 0.0);
}
