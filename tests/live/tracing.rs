//! Spans: the way of one publication and of its connections, in a file and at a collector.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};

use crate::support::raw::connect;
use crate::support::{Feeder, PATIENCE, Raw, Server, Socket, within};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

/// Returns a trace context whose parent span has this number.
fn context(span: u64, flags: &str) -> String {
    format!("00-{TRACE}-{span:016x}-{flags}")
}

/// Returns the spans of requests in OTLP.
fn spans(requests: impl IntoIterator<Item = Value>) -> Vec<Value> {
    let scope = |request: Value| request["resourceSpans"][0]["scopeSpans"][0]["spans"].clone();
    let spans = requests.into_iter().map(scope);
    spans
        .flat_map(|spans| spans.as_array().unwrap().clone())
        .collect()
}

fn spans_in(file: &Path) -> Vec<Value> {
    let text = fs::read_to_string(file).unwrap_or_default();
    // The last line may be incomplete.
    let complete = text
        .rsplit_once('\n')
        .map_or("", |(complete, _rest)| complete);
    let lines = complete.lines().filter(|line| !line.is_empty());
    spans(lines.map(|line| serde_json::from_str(line).unwrap()))
}

/// Waits until the file has a span with this name and parent. Returns the span, and all spans.
fn await_span(file: &Path, name: &str, parent: &str) -> (Value, Vec<Value>) {
    within(&format!("the span {name} of {parent}"), || {
        let all = spans_in(file);
        let mut found = all.iter().filter(|span| span["name"] == name);
        let found = found.find(|span| span["parentSpanId"] == parent)?.clone();
        Some((found, all))
    })
}

fn attribute(span: &Value, key: &str) -> Value {
    let all = span["attributes"].as_array().unwrap();
    let found = all.iter().find(|attribute| attribute["key"] == key);
    let value = found.map(|found| found["value"].as_object().unwrap());
    value.map_or(Value::Null, |value| value.values().next().unwrap().clone())
}

fn times(span: &Value) -> (u64, u64) {
    let nanos = |key: &str| span[key].as_str().unwrap().parse().unwrap();
    (nanos("startTimeUnixNano"), nanos("endTimeUnixNano"))
}

/// Starts a server that traces only what has a sampled parent.
fn traced(folder: &Path, target: &str) -> Server {
    let config = format!("[tracing]\nsample = 0.0\n{target}\n");
    Server::in_folder(folder, "127.0.0.1:0", &config, &[])
        .unwrap_or_else(|(status, printed)| panic!("no server ({status}): {printed}"))
}

fn file_target(file: &Path) -> String {
    format!("file = {file:?}")
}

#[test]
fn way_of_one_publication_is_read_from_its_spans() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("spans.json");
    let server = traced(folder.path(), &file_target(&file));
    let mut sockets: Vec<_> = (0..8)
        .map(|_| Socket::subscribed(server.addr, "channel=a"))
        .collect();
    let mut feeder = Feeder::connect(&server.feed);
    feeder.publish("a", "not sampled");
    let unsampled = context(7, "00");
    feeder.send(&json!({"channel": "a", "data": 1, "traceparent": unsampled, "ack": true}));
    feeder.answer();
    let sampled = context(9, "01");
    feeder.send(&json!({"channel": "a", "data": "secret", "traceparent": sampled, "ack": true}));
    let answer = feeder.answer();
    for socket in &mut sockets {
        let contexts = (0..3).map(|_| socket.publication()["traceparent"].clone());
        assert_eq!(contexts.last().unwrap(), *sampled);
    }
    let (root, all) = await_span(&file, "publication", "0000000000000009");
    assert_eq!(all.len(), 5, "{all:#?}");
    assert_eq!(root["traceId"], TRACE);
    assert_eq!(attribute(&root, "messaging.destination.name"), "a");
    assert_eq!(attribute(&root, "messaging.message.id"), answer["id"]);
    assert_eq!(attribute(&root, "messaging.message.body.size"), "8");
    assert_eq!(attribute(&root, "fanfare.subscribers"), "8");
    let child = |name: &str| {
        let found = all.iter().find(|span| span["name"] == name).unwrap();
        assert_eq!(found["parentSpanId"], root["spanId"], "{name}");
        assert_eq!(found["traceId"], TRACE);
        times(found)
    };
    let (begin, end) = times(&root);
    let (feed, log) = (child("feed"), child("log"));
    let (first, last) = (child("first_subscriber"), child("last_subscriber"));
    assert_eq!((feed.0, feed.1), (begin, log.0));
    assert!(log.0 <= log.1 && log.1 <= end, "{all:#?}");
    assert!(feed.1 <= first.1 && first.1 <= last.1, "{all:#?}");
    assert_eq!(end, last.1.max(log.1));
    let text = fs::read_to_string(&file).unwrap();
    assert!(
        !text.contains("secret") && !text.contains("not sampled"),
        "{text}"
    );
    server.await_metric("fanfare_spans_exported_total{target=\"file\"}", 1.0);
}

#[test]
fn connection_has_a_span_below_the_trace_context_of_its_request() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("spans.json");
    let config = format!(
        "[tracing]\nsample = 0.0\n{}\n[auth]\nquery = \"token\"\nkeys = [\"HS256 {}\"]\n",
        file_target(&file),
        folder.path().join("key").display()
    );
    fs::write(
        folder.path().join("key"),
        "0123456789abcdef0123456789abcdef",
    )
    .unwrap();
    let server = Server::in_folder(folder.path(), "127.0.0.1:0", &config, &[])
        .unwrap_or_else(|(status, printed)| panic!("no server ({status}): {printed}"));
    let request = |path: &str, span: u64, flags: &str| {
        let mut stream = connect(server.addr);
        let context = context(span, flags);
        let head = format!(
            "GET {path} HTTP/1.1\r\nHost: a\r\nTraceparent: {context}\r\nCookie: c=hidden\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        Raw::read(&mut BufReader::new(stream)).status
    };
    assert_eq!(
        request("/poll?channel=a&timeout=0&token=hidden", 1, "01"),
        401
    );
    assert_eq!(
        request("/poll?channel=a&timeout=0&token=hidden", 2, "00"),
        401
    );
    let (span, all) = await_span(&file, "connection", "0000000000000001");
    assert_eq!(all.len(), 1, "{all:#?}");
    for (key, value) in [
        ("network.peer.address", json!("127.0.0.1")),
        ("fanfare.transport", json!("http")),
        ("url.path", json!("/poll")),
        ("url.query", json!("channel=a&timeout=0")),
        ("http.response.status_code", json!("401")),
        ("fanfare.publications", json!("0")),
    ] {
        assert_eq!(attribute(&span, key), value, "{key} of {span:#}");
    }
    let (begin, end) = times(&span);
    assert!(begin <= end, "{span:#}");
    let text = fs::read_to_string(&file).unwrap();
    assert!(!text.contains("hidden"), "{text}");
}

#[test]
fn sampled_flags_of_clients_beyond_the_limit_cause_no_spans() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("spans.json");
    let target = format!(
        "{}\nclient_spans_per_second = 0\n[[namespace]]\nmatch = \"a\"\n\
         client_publish = \"broadcast\"\n",
        file_target(&file)
    );
    let server = traced(folder.path(), &target);
    let mut reader = Socket::subscribed(server.addr, "channel=a");
    let mut client = Socket::open(server.addr, "");
    let published = json!({
        "type": "publish", "channel": "a", "data": 1, "ref": 1, "traceparent": context(1, "01")
    });
    client.send(&published);
    assert_eq!(reader.publication()["traceparent"], context(1, "01"));
    let mut stream = connect(server.addr);
    let head = format!(
        "GET /none HTTP/1.1\r\nHost: a\r\ntraceparent: {}\r\n\r\n",
        context(2, "01")
    );
    stream.write_all(head.as_bytes()).unwrap();
    assert_eq!(Raw::read(&mut BufReader::new(stream)).status, 404);
    publish(&server, 3);
    let (_, all) = await_span(&file, "publication", "0000000000000003");
    let roots: Vec<_> = all.iter().map(|span| &span["parentSpanId"]).collect();
    assert!(!roots.contains(&&json!("0000000000000001")), "{all:#?}");
    assert!(!roots.contains(&&json!("0000000000000002")), "{all:#?}");
}

/// Waits for a time in which a connection is idle. Returns the time since 1970 in nanoseconds.
fn after_idling() -> u64 {
    std::thread::sleep(IDLE);
    let since = std::time::UNIX_EPOCH.elapsed().unwrap();
    u64::try_from(since.as_nanos()).unwrap()
}

const IDLE: Duration = Duration::from_millis(600);

/// Checks that a span begins with its request, and not in the idle time before it.
fn check_begin(span: &Value, sent: u64) {
    // A worker's time is the begin of its turn, which can be before the request.
    let tolerance = u64::try_from(IDLE.as_nanos() / 2).unwrap();
    assert!(times(span).0 + tolerance >= sent, "{span:#}");
}

#[test]
fn each_request_of_a_connection_has_a_span_that_begins_with_its_head() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("spans.json");
    let server = traced(folder.path(), &file_target(&file));
    let mut stream = BufReader::new(connect(server.addr));
    for span in 1..3 {
        let sent = after_idling();
        let head = format!(
            "GET /poll?channel=a&timeout=0 HTTP/1.1\r\nHost: a\r\ntraceparent: {}\r\n\r\n",
            context(span, "01")
        );
        stream.get_mut().write_all(head.as_bytes()).unwrap();
        assert_eq!(Raw::read(&mut stream).status, 200);
        let (span, _) = await_span(&file, "connection", &format!("{span:016x}"));
        check_begin(&span, sent);
    }
}

#[test]
fn stream_has_a_span_from_its_request_to_its_close() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("spans.json");
    let server = traced(folder.path(), &file_target(&file));
    let mut stream = connect(server.addr);
    let sent = after_idling();
    let head = format!(
        "GET /sse?channel=a HTTP/1.1\r\nHost: a\r\ntraceparent: {}\r\n\r\n",
        context(3, "01")
    );
    stream.write_all(head.as_bytes()).unwrap();
    server.await_metric("fanfare_subscribers", 1.0);
    let mut feeder = Feeder::connect(&server.feed);
    feeder.publish("a", 1);
    let mut lines = BufReader::new(stream).lines();
    let delivered = lines.find(|line| line.as_ref().unwrap() == "data: 1");
    assert!(delivered.is_some());
    assert!(spans_in(&file).is_empty());
    drop(lines);
    let (span, _) = await_span(&file, "connection", "0000000000000003");
    check_begin(&span, sent);
    for (key, value) in [
        ("fanfare.transport", json!("event_stream")),
        ("http.response.status_code", json!("200")),
        ("fanfare.close_reason", json!("done")),
        ("fanfare.publications", json!("1")),
    ] {
        assert_eq!(attribute(&span, key), value, "{key} of {span:#}");
    }
}

/// A collector that a test serves by hand.
struct Collector(TcpListener);

impl Collector {
    fn bind() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").unwrap())
    }

    fn target(&self) -> String {
        format!("endpoint = \"http://{}\"", self.0.local_addr().unwrap())
    }

    /// Accepts a request. Returns its stream and its spans.
    fn request(&self) -> (TcpStream, Vec<Value>) {
        self.0.set_nonblocking(true).unwrap();
        let (stream, _) = within("a request", || self.0.accept().ok());
        stream.set_nonblocking(false).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let mut head = Vec::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            if line == "\r\n" {
                break;
            }
            head.push(line.trim_end().to_ascii_lowercase());
        }
        assert_eq!(head[0], "post /v1/traces http/1.1");
        assert!(
            head.contains(&"content-type: application/json".to_owned()),
            "{head:?}"
        );
        let length = head
            .iter()
            .find_map(|line| line.strip_prefix("content-length: "));
        let mut body = vec![0; length.unwrap().parse().unwrap()];
        reader.read_exact(&mut body).unwrap();
        (stream, spans([serde_json::from_slice(&body).unwrap()]))
    }
}

fn answer(stream: &mut TcpStream, status: &str) {
    answer_with(stream, status, "{}");
}

/// Answers a request. `status` can contain further header fields.
fn answer_with(stream: &mut TcpStream, status: &str, body: &str) {
    let length = body.len();
    let response =
        format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}");
    stream.write_all(response.as_bytes()).unwrap();
}

/// Publishes with a sampled trace context.
fn publish(server: &Server, span: u64) {
    let mut feeder = Feeder::connect(&server.feed);
    let context = context(span, "01");
    feeder.send(&json!({"channel": "a", "data": 1, "traceparent": context, "ack": true}));
    assert_eq!(feeder.answer()["ok"], true);
}

fn parents(spans: &[Value]) -> Vec<&str> {
    let roots = spans.iter().filter(|span| span["name"] == "publication");
    roots
        .map(|span| span["parentSpanId"].as_str().unwrap())
        .collect()
}

#[test]
fn collector_receives_spans_after_it_was_overloaded_and_a_refused_batch_is_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let collector = Collector::bind();
    let server = traced(folder.path(), &collector.target());
    publish(&server, 1);
    let (mut stream, first) = collector.request();
    let begun = Instant::now();
    answer(&mut stream, "503 Service Unavailable\r\nRetry-After: 0");
    let (mut stream, second) = collector.request();
    // A collector that asks for no pause gets one.
    assert!(begun.elapsed() > Duration::from_millis(200), "{begun:?}");
    assert_eq!(first, second);
    assert_eq!(parents(&second), ["0000000000000001"]);
    // The pause can also end at a date. Dates have whole seconds.
    let date = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(2));
    let begun = Instant::now();
    let status = format!("503 Service Unavailable\r\nRetry-After: {date}");
    answer(&mut stream, &status);
    let (mut stream, third) = collector.request();
    assert!(begun.elapsed() > Duration::from_millis(900), "{begun:?}");
    assert_eq!(first, third);
    answer(&mut stream, "200 OK");
    server.await_metric("fanfare_spans_exported_total{target=\"collector\"}", 1.0);
    publish(&server, 2);
    let (mut stream, _) = collector.request();
    answer(&mut stream, "400 Bad Request");
    let refused = "fanfare_spans_dropped_total{cause=\"collector_refused\"}";
    server.await_metric(refused, 1.0);
    publish(&server, 3);
    let (mut stream, later) = collector.request();
    assert_eq!(parents(&later), ["0000000000000003"]);
    answer(&mut stream, "200 OK");
    server.await_metric("fanfare_spans_exported_total{target=\"collector\"}", 2.0);
    // The collector rejects all five spans of the next publication.
    publish(&server, 4);
    let (mut stream, _) = collector.request();
    let rejected = r#"{"partialSuccess":{"rejectedSpans":"5","errorMessage":"too old"}}"#;
    answer_with(&mut stream, "200 OK", rejected);
    server.await_metric(refused, 2.0);
    // There is one warning, although the collector has failed four times.
    let log = fs::read_to_string(folder.path().join("stderr.txt")).unwrap();
    assert_eq!(log.matches("does not accept spans").count(), 1, "{log}");
    assert!(log.contains(&collector.0.local_addr().unwrap().to_string()));
    assert!(log.contains("answered with status 503"), "{log}");
}

#[test]
fn collector_that_is_down_or_slow_delays_no_publication_and_gets_the_spans_later() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("spans.json");
    let reserved = Collector::bind();
    let address = reserved.0.local_addr().unwrap();
    let target = format!("{}\n{}", reserved.target(), file_target(&file));
    drop(reserved);
    let mut server = traced(folder.path(), &target);
    let mut socket = Socket::subscribed(server.addr, "channel=a");
    publish(&server, 1);
    assert_eq!(socket.publication()["data"], 1);
    // The file has the span although nothing listens at the endpoint.
    await_span(&file, "publication", "0000000000000001");
    within("the warning", || {
        let printed = fs::read_to_string(folder.path().join("stderr.txt")).unwrap();
        printed.contains("does not accept spans").then_some(())
    });
    let collector = Collector(TcpListener::bind(address).unwrap());
    let (mut stream, spans) = collector.request();
    assert_eq!(parents(&spans), ["0000000000000001"]);
    // While the collector does not answer, publications are delivered and written to the file.
    for span in 2..5 {
        publish(&server, span);
        assert_eq!(socket.publication()["data"], 1);
    }
    await_span(&file, "publication", "0000000000000004");
    answer(&mut stream, "200 OK");
    drop(stream);
    let mut received = 1;
    while received < 4 {
        let (mut stream, spans) = collector.request();
        received += parents(&spans).len();
        answer(&mut stream, "200 OK");
    }
    assert_eq!(received, 4);
    // A collector that does not answer does not delay the end of the server for long.
    publish(&server, 9);
    drop(socket);
    let begun = Instant::now();
    server.signal("TERM");
    assert!(server.wait().success());
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "{:?}",
        begun.elapsed()
    );
}

#[test]
fn collector_at_an_ipv6_address_and_a_path_receives_spans() {
    let folder = tempfile::tempdir().unwrap();
    let collector = Collector(TcpListener::bind("[::1]:0").unwrap());
    let port = collector.0.local_addr().unwrap().port();
    // The path is the default one, but spelled out.
    let target = format!("endpoint = \"http://[::1]:{port}/v1/traces\"");
    let server = traced(folder.path(), &target);
    publish(&server, 1);
    let (mut stream, spans) = collector.request();
    assert_eq!(parents(&spans), ["0000000000000001"]);
    answer(&mut stream, "200 OK");
    server.await_metric("fanfare_spans_exported_total{target=\"collector\"}", 1.0);
}

#[test]
fn file_and_endpoint_that_cannot_be_used_are_reported_with_their_keys() {
    let folder = tempfile::tempdir().unwrap();
    for (target, expected) in [
        ("file = \"/no/such/folder/spans.json\"", "tracing.file"),
        ("file = \"/dev/null\"", "tracing.file"),
        ("endpoint = \"https://collector\"", "tracing.endpoint"),
        (
            "endpoint = \"http://user:hidden@collector\"",
            "tracing.endpoint",
        ),
        (
            "endpoint = \"https://user:hidden@collector\"",
            "tracing.endpoint",
        ),
        ("endpoint = \"http://a/?token=hidden\"", "tracing.endpoint"),
    ] {
        let config = format!("[tracing]\n{target}\n");
        let failed = Server::in_folder(folder.path(), "127.0.0.1:0", &config, &[]);
        let (status, printed) = failed.unwrap_err();
        assert_eq!(status.code(), Some(2), "{printed}");
        assert!(printed.contains(expected), "{printed}");
        assert!(!printed.contains("hidden"), "{printed}");
    }
}
