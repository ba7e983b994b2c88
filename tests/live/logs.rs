//! Warnings in the log: which events cause a line, what the line contains, and how the number of
//! lines is limited.

use std::fs;
use std::io::{BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::MetadataExt as _;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::raw::{connect, connect_small};
use crate::support::secure::{Certificate, tls_addr};
use crate::support::{Feeder, Process, Raw, Server, Socket, fanfare, within};

const JSON: &str = "[logging]\nformat = \"json\"\n";
/// The metric that counts the lines that were not written.
const SUPPRESSED: &str = "fanfare_log_lines_suppressed_total";

fn log_of(server: &Server) -> String {
    let path = server.feed.parent().unwrap().join("stderr.txt");
    fs::read_to_string(path).unwrap()
}

/// Returns the complete lines of one kind of warning, from a log in JSON.
fn warnings(server: &Server, kind: &str) -> Vec<Value> {
    let log = log_of(server);
    let complete = log
        .rsplit_once('\n')
        .map_or("", |(complete, _rest)| complete);
    let lines = complete.lines().map(|line| {
        let line: Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"));
        line
    });
    let warnings = lines.filter(|line| line["level"] == "WARN");
    let fields = warnings.map(|mut line| line["fields"].take());
    fields.filter(|fields| fields["kind"] == kind).collect()
}

/// Waits for the first warning of this kind, and returns it.
fn warning(server: &Server, kind: &str) -> Value {
    within(&format!("a warning {kind}"), || {
        warnings(server, kind).into_iter().next()
    })
}

/// A server that requires tokens, and takes them from the query too.
fn guarded(format: &str) -> (tempfile::TempDir, Server) {
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    fs::write(&secret, "0123456789abcdef0123456789abcdef").unwrap();
    let keys = format!("HS256 {}", secret.display());
    let config = format!("{format}[auth]\nkeys = [\"{keys}\"]\nquery = \"token\"\n");
    let server = Server::in_folder(folder.path(), "127.0.0.1:0", &config, &[]).unwrap();
    (folder, server)
}

/// Sends one GET. Returns the client's address and the response's status.
fn get(addr: SocketAddr, target: &str) -> (SocketAddr, u16) {
    let mut stream = connect(addr);
    let own = stream.local_addr().unwrap();
    let head = format!("GET {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    (own, Raw::read(&mut BufReader::new(stream)).status)
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value}"))
}

#[test]
fn refused_token_is_logged_with_its_peer_and_without_the_token() {
    let (_folder, server) = guarded(JSON);
    let token = "eyJzZWNyZXQiOiJ5ZXMifQ.c2VjcmV0.c2VjcmV0";
    let (own, status) = get(server.addr, &format!("/poll?channel=a&token={token}"));
    assert_eq!(status, 401);
    let line = warning(&server, "token_refused");
    assert_eq!(line["cause"], "token_malformed", "{line}");
    assert_eq!(line["peer"], own.to_string(), "{line}");
    assert_eq!(line["connection"].as_str().unwrap().len(), 40, "{line}");
    assert!(line["client"].is_null(), "{line}");
    // A WebSocket whose first message is a token with a line feed.
    let mut socket = Socket::open(server.addr, "");
    socket.send(&json!({"type": "auth", "token": "line\nWARN feed: line"}));
    assert_eq!(socket.closed().0, 4001);
    let two = within("a second line", || {
        Some(warnings(&server, "token_refused")).filter(|lines| lines.len() == 2)
    });
    assert_eq!(two[1]["cause"], "token_malformed", "{two:?}");
    let log = log_of(&server);
    for secret in [token, "c2VjcmV0", "WARN feed"] {
        assert!(!log.contains(secret), "{log}");
    }
}

#[test]
fn client_of_a_trusted_proxy_is_logged_beside_the_proxy() {
    let config =
        format!("{JSON}[proxy]\ntrusted = [\"127.0.0.1\"]\n[limits]\nconns_per_source = 1\n");
    let server = Server::with(&config, &["--workers", "1"]);
    let mut kept = Vec::new();
    for status in [200, 429] {
        let mut stream = connect(server.addr);
        let head = "GET /sse?channel=a HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 192.0.2.7\r\n\r\n";
        stream.write_all(head.as_bytes()).unwrap();
        let mut line = [0; 12];
        stream.read_exact(&mut line).unwrap();
        assert_eq!(line, format!("HTTP/1.1 {status}").as_bytes());
        kept.push(stream);
    }
    let line = warning(&server, "limit_reached");
    assert_eq!(line["client"], "192.0.2.7", "{line}");
    let own = kept[1].local_addr().unwrap();
    assert_eq!(line["peer"], own.to_string(), "{line}");
    let cause = line["cause"].as_str().unwrap();
    assert!(cause.contains("limits.conns_per_source"), "{line}");
}

#[test]
fn flood_of_one_kind_is_limited_and_counted() {
    let (_folder, server) = guarded(JSON);
    let began = Instant::now();
    let mut refused = 0;
    // The flood ends when lines were suppressed, because a busy machine needs a second or more for
    // the events of one window.
    within("suppressed lines", || {
        for _ in 0..50 {
            let (_, status) = get(server.addr, "/poll?channel=a&token=x");
            assert_eq!(status, 401);
            refused += 1;
        }
        (server.metric(SUPPRESSED) > 0.5).then_some(())
    });
    let windows = began.elapsed().as_secs() + 2;
    let counted = within("all events are in a line or in a number", || {
        let lines = warnings(&server, "token_refused");
        let (numbers, lines): (Vec<_>, Vec<_>) = lines
            .into_iter()
            .partition(|line| line["suppressed"].is_u64());
        let suppressed = numbers.iter().map(|line| number(&line["suppressed"]));
        let suppressed: u64 = suppressed.sum();
        (lines.len() as u64 + suppressed == refused).then_some((lines.len() as u64, suppressed))
    });
    let (lines, suppressed) = counted;
    assert!((10..=10 * windows).contains(&lines), "{lines}");
    server.await_metric(SUPPRESSED, suppressed as f64);
}

#[test]
fn full_limit_is_logged_with_the_peer_and_the_key() {
    let server = Server::with(&format!("{JSON}[limits]\nconns = 1\n"), &["--workers", "1"]);
    let _kept = Socket::subscribed(server.addr, "channel=a");
    let (own, status) = get(server.addr, "/");
    assert_eq!(status, 503);
    let line = warning(&server, "server_full");
    assert_eq!(line["peer"], own.to_string(), "{line}");
    assert!(
        line["cause"].as_str().unwrap().contains("limits.conns"),
        "{line}"
    );
    assert!(line["connection"].is_null(), "{line}");
}

#[test]
fn tls_failures_are_logged_with_their_peers() {
    let folder = tempfile::tempdir().unwrap();
    let certificate = Certificate::make(folder.path(), "own");
    let config = format!("{JSON}{}handshake_ms = 200\n", certificate.config());
    let server = Server::with(&config, &["--listen", "127.0.0.1:0 tls"]);
    let addr = tls_addr(&server);
    let mut peers = Vec::new();
    // Not TLS, plain HTTP, and a handshake that is never completed.
    for bytes in [&b"\0what is this?"[..], b"GET / HTTP/1.1\r\n\r\n", b""] {
        let mut stream = connect(addr);
        stream.write_all(bytes).unwrap();
        peers.push(stream.local_addr().unwrap().to_string());
        let _answer = stream.read_to_end(&mut Vec::new());
    }
    let lines = within("three warnings", || {
        Some(warnings(&server, "tls_failed")).filter(|lines| lines.len() == 3)
    });
    let logged = lines.iter().map(|line| line["peer"].as_str().unwrap());
    assert_eq!(logged.collect::<Vec<_>>(), peers, "{lines:?}");
    let causes: Vec<&str> = lines
        .iter()
        .map(|line| line["cause"].as_str().unwrap())
        .collect();
    assert!(causes[1].contains("plain HTTP"), "{causes:?}");
    assert!(causes[2].contains("tls.handshake_ms"), "{causes:?}");
}

/// Subscribes without reading, and publishes until the subscriber has a gap or is closed.
fn stall(server: &Server, channel: &str, metric: &str) -> TcpStream {
    let mut stream = connect_small(server.addr);
    let head = format!("GET /sse?channel={channel} HTTP/1.0\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    server.await_metric("fanfare_subscribers", 1.0);
    let mut feeder = Feeder::connect(&server.feed);
    let channel = channel.replace("%E2%80%AE", "\u{202e}");
    within(metric, || {
        feeder.publish(&channel, "x".repeat(30_000));
        (server.metric(metric) > 0.5).then_some(())
    });
    stream
}

#[test]
fn slow_reader_is_logged_when_it_is_closed() {
    let config = format!("{JSON}[quota]\noverflow = \"close\"\n");
    let server = Server::with(&config, &[]);
    let slow = stall(
        &server,
        "a",
        "fanfare_conns_closed_total{reason=\"overflow\"}",
    );
    let line = warning(&server, "slow_reader");
    assert_eq!(
        line["peer"],
        slow.local_addr().unwrap().to_string(),
        "{line}"
    );
    assert!(
        line["cause"].as_str().unwrap().contains("its quota"),
        "{line}"
    );
    assert_eq!(warnings(&server, "slow_reader").len(), 1);
}

#[test]
fn client_that_never_reads_is_logged_when_the_kernel_gives_up() {
    let config = format!("{JSON}[heartbeat]\ninterval_ms = 1000\n");
    let server = Server::with(&config, &[]);
    let _slow = stall(&server, "a", "fanfare_publications_skipped_total");
    let line = warning(&server, "slow_reader");
    let cause = line["cause"].as_str().unwrap();
    assert!(cause.contains("accepted no bytes"), "{line}");
    assert_eq!(line["connection"].as_str().unwrap().len(), 40, "{line}");
}

#[test]
fn slow_reader_is_logged_when_it_receives_a_gap() {
    let server = Server::with("", &[]);
    // The channel's name changes the direction of text in a terminal, so it must be escaped.
    let mut slow = stall(&server, "a%E2%80%AEb", "fanfare_publications_skipped_total");
    slow.set_read_timeout(Some(Duration::from_millis(50)))
        .unwrap();
    let log = within("a line about the gap", || {
        let _read = slow.read(&mut [0; 10_000]);
        Some(log_of(&server)).filter(|log| log.contains("slow_reader"))
    });
    let line = log
        .lines()
        .find(|line| line.contains("slow_reader"))
        .unwrap();
    assert!(
        line.contains("publications of channel a\\u{202e}b"),
        "{line}"
    );
    let peer = format!("peer={}", slow.local_addr().unwrap());
    assert!(line.contains(&peer), "{line}");
}

#[test]
fn worker_of_a_stopped_process_is_logged_as_late() {
    let server = Server::with(JSON, &["--workers", "1"]);
    let _client = Socket::subscribed(server.addr, "channel=a");
    server.signal("STOP");
    // The time for which the process does not run is the input of the test.
    std::thread::sleep(Duration::from_millis(3_000));
    server.signal("CONT");
    let line = warning(&server, "worker_late");
    assert_eq!(line["worker"], 0, "{line}");
    let cause = line["cause"].as_str().unwrap();
    let late_ms: u64 = cause.split(' ').next().unwrap().parse().unwrap();
    assert!((500..60_000).contains(&late_ms), "{line}");
}

const CONSUMED: &str = "[[namespace]]\nmatch = \"*\"\nclient_publish = \"consume\"\n";

#[test]
fn publication_without_a_consumer_is_logged_with_its_client() {
    let server = Server::with(&format!("{JSON}{CONSUMED}"), &[]);
    let mut client = Socket::open(server.addr, "channel=a");
    let welcome = client.json();
    assert_eq!(client.json()["type"], "subscribed");
    client.send(&json!({"type": "publish", "channel": "a", "data": "a payload", "ref": 1}));
    assert_eq!(client.json()["code"], "no_consumer");
    let line = warning(&server, "backend_unreachable");
    assert_eq!(line["connection"], welcome["conn"], "{line}");
    assert!(
        line["peer"].as_str().unwrap().starts_with("127.0.0.1:"),
        "{line}"
    );
    assert!(!log_of(&server).contains("a payload"));
}

#[test]
fn stalled_consumer_is_logged_with_its_process() {
    let server = Server::with(&format!("{JSON}{CONSUMED}"), &[]);
    let mut consumer = Feeder::connect(&server.feed);
    consumer.send(&json!({"consume": ["*"], "ack": true}));
    assert_eq!(consumer.answer()["ok"], true);
    let mut client = Socket::subscribed(server.addr, "channel=a");
    let data = Value::from("x".repeat(60_000));
    let writer = std::thread::spawn(move || {
        for number in 0..200 {
            client.send(&json!({"type": "publish", "channel": "a", "data": data, "ref": number}));
        }
        client
    });
    let line = warning(&server, "consumer_disconnected");
    assert_eq!(line["pid"], std::process::id(), "{line}");
    drop(writer.join().unwrap());
}

/// Runs a server until it ends. Returns its log. `JOURNAL_STREAM` has the inode of the log plus
/// `offset`. So with 0, the log looks like a stream that systemd has connected to its journal.
fn log_beside(offset: u64, args: &[&str]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("stderr.txt");
    let log = fs::File::create(&path).unwrap();
    let file = log.metadata().unwrap();
    let mut command = fanfare();
    command
        .args(["serve", "--listen", "127.0.0.1:0", "--admin", "off"])
        .args(args)
        .arg("--feed")
        .arg(folder.path().join("feed.sock"))
        .env(
            "JOURNAL_STREAM",
            format!("{}:{}", file.dev(), file.ino() + offset),
        )
        // A misspelt variable causes a warning.
        .env("FANFARE_HEARTBEAT_INTERVALL_MS", "1")
        .env("FANFARE_LOGGING_LEVEL", "debug")
        .stdout(Stdio::null())
        .stderr(log);
    let mut process = command.spawn().unwrap();
    let mut is_stopped = false;
    within("the end", || {
        let has_started = folder.path().join("feed.sock").exists();
        if has_started && !std::mem::replace(&mut is_stopped, has_started) {
            Process(process.id()).signal("TERM");
        }
        process.try_wait().unwrap()
    });
    fs::read_to_string(path).unwrap()
}

#[test]
fn lines_for_the_journal_of_systemd_have_a_priority() {
    let log = log_beside(0, &[]);
    for (prefix, level) in [("<4>", " WARN "), ("<6>", " INFO ")] {
        assert!(log.contains(level), "{log}");
        for line in log.lines().filter(|line| line.contains(level)) {
            assert!(line.starts_with(prefix), "{line}");
        }
    }
    // All problems of a configuration are errors.
    let wrong = tempfile::NamedTempFile::new().unwrap();
    fs::write(&wrong, "workers = 1025\nheartbeat = 5\n").unwrap();
    let problems = log_beside(0, &["--config", wrong.path().to_str().unwrap()]);
    assert_eq!(problems.lines().count(), 2, "{problems}");
    assert!(
        problems.lines().all(|line| line.starts_with("<3>")),
        "{problems}"
    );
    let other_stream = log_beside(1, &[]);
    assert!(!other_stream.contains('<'), "{other_stream}");
}
