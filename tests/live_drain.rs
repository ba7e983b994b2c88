//! How the real binary starts, stops and reports: signals, the drain, the feed file, the admin
//! listener.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::let_underscore_must_use,
    clippy::panic,
    clippy::print_stderr,
    clippy::string_slice,
    clippy::unwrap_used,
    reason = "a test may panic"
)]

mod live;

use std::collections::BTreeSet;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use live::{Feeder, Lines, Raw, Server, Socket};

const SHORT_DRAIN: &str = "[drain]\nwindow_ms = 500\nretry_ms = 4000\n";

fn drains(signal: &str) {
    let mut server = Server::with(SHORT_DRAIN, &[]);
    let mut stream = Lines::curl([server.url("/sse?channel=a")]);
    stream.until("id: ");
    let mut socket = Socket::subscribed(server.addr, "channel=a");
    let id = Feeder::connect(&server.feed).publish("a", "last words");
    let told = Instant::now();
    server.signal(signal);

    assert_eq!(socket.publication()["id"], id.as_str());
    let (code, reason) = socket.closed();
    assert_eq!(code, 1012);
    let retry_ms: u64 = reason.strip_prefix("retry_ms=").unwrap().parse().unwrap();
    assert!(retry_ms <= 4000, "{reason}");
    // The client's answer lets the server go.
    let _ = socket.0.flush();

    assert_eq!(stream.until("id: "), format!("id: {id}"));
    let retry: u64 = stream.until("retry: ")["retry: ".len()..].parse().unwrap();
    assert!(retry <= 4000, "{retry}");
    stream.rest();
    assert!(
        stream.wait().success(),
        "the stream was cut, not ended: {}",
        stream.stderr()
    );

    let status = server.wait();
    assert_eq!(status.code(), Some(0), "{status}");
    assert!(
        told.elapsed() < Duration::from_secs(5),
        "{:?}",
        told.elapsed()
    );
    assert!(TcpStream::connect(server.addr).is_err());
    assert!(!server.feed.exists(), "the feed's file is left behind");
}

#[test]
fn sigterm_says_goodbye_to_everybody_and_exits_with_zero() {
    drains("TERM");
}

#[test]
fn sigint_says_goodbye_to_everybody_and_exits_with_zero() {
    drains("INT");
}

/// The system may hand signals that come together to different threads; those of workers have
/// descriptor tables of their own.
#[test]
fn signals_that_come_together_reach_the_server_and_no_client() {
    for _ in 0..5 {
        let mut server = Server::with(SHORT_DRAIN, &["--workers", "4"]);
        let connect = |_| Socket::subscribed(server.addr, "channel=a");
        let sockets: Vec<Socket> = (0..30).map(connect).collect();
        for signal in ["STOP", "HUP", "TERM", "CONT"] {
            server.signal(signal);
        }
        for mut socket in sockets {
            assert_eq!(socket.closed().0, 1012);
        }
        assert!(server.wait().success());
    }
}

#[test]
fn client_that_does_not_answer_does_not_hold_up_the_end() {
    let mut server = Server::with("[drain]\nwindow_ms = 200\n", &[]);
    let _silent = Socket::subscribed(server.addr, "channel=a");
    let _half = TcpStream::connect(server.addr).unwrap();
    let told = Instant::now();
    server.signal("TERM");
    assert!(server.wait().success());
    assert!(
        told.elapsed() < Duration::from_secs(8),
        "{:?}",
        told.elapsed()
    );
}

#[test]
fn ready_line_names_addresses_feed_and_workers() {
    let server = Server::start();
    let expected = format!(
        "fanfare {} ready: http://{} feed={} admin=http://{} workers=2",
        env!("CARGO_PKG_VERSION"),
        server.addr,
        server.feed.display(),
        server.admin
    );
    assert_eq!(server.ready, expected);
    let mode = std::fs::metadata(&server.feed)
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o660);
}

#[test]
fn feed_file_of_a_killed_server_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let start = || Server::in_folder(folder.path(), "127.0.0.1:0", "", &[]).unwrap();
    let mut first = start();
    first.signal("KILL");
    first.wait();
    assert!(first.feed.exists());
    let second = start();
    let mut socket = Socket::subscribed(second.addr, "channel=a");
    let id = Feeder::connect(&second.feed).publish("a", 1);
    assert_eq!(socket.publication()["id"], id.as_str());
}

#[test]
fn second_server_on_the_same_feed_is_refused_and_harms_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let start = || Server::in_folder(folder.path(), "127.0.0.1:0", "", &[]);
    let first = start().unwrap();
    let (status, said) = start().expect_err("two servers on one feed");
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("feed.sock"), "{said}");
    Feeder::connect(&first.feed).publish("a", 1);
}

#[test]
fn file_that_is_no_socket_is_not_removed() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("feed.sock");
    std::fs::write(&file, "precious").unwrap();
    let (status, said) = Server::in_folder(folder.path(), "127.0.0.1:0", "", &[]).unwrap_err();
    assert_eq!(status.code(), Some(1), "{said}");
    assert_eq!(std::fs::read_to_string(file).unwrap(), "precious");
}

#[test]
fn address_in_use_is_a_clear_refusal() {
    let server = Server::start();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let folder = tempfile::tempdir().unwrap();
    let (status, said) = Server::in_folder(folder.path(), &addr, "", &[]).unwrap_err();
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains(&addr), "{said}");
    drop(server);
}

#[test]
fn health_is_told_and_readiness_ends_with_the_drain() {
    let mut server = Server::with("[drain]\nwindow_ms = 3000\n", &[]);
    assert_eq!(Raw::get(server.admin, "/healthz").status, 200);
    assert_eq!(Raw::get(server.admin, "/readyz").status, 200);
    assert_eq!(Raw::get(server.admin, "/nowhere").status, 404);
    let _streams: Vec<Socket> = (0..8)
        .map(|_| Socket::subscribed(server.addr, "channel=a"))
        .collect();
    server.signal("TERM");
    live::within("readiness to end", || {
        (Raw::get(server.admin, "/readyz").status == 503).then_some(())
    });
    assert!(server.wait().success());
}

#[test]
fn metrics_are_prometheus_text() {
    let server = Server::start();
    let _socket = Socket::subscribed(server.addr, "channel=a");
    Feeder::connect(&server.feed).publish("a", 1);
    server.await_metric("fanfare_deliveries_total", 1.0);
    let response = Raw::get(server.admin, "/metrics");
    assert_eq!(response.status, 200);
    assert_eq!(
        response.field("content-type"),
        Some("text/plain; version=0.0.4; charset=utf-8")
    );
    let mut typed = BTreeSet::new();
    let mut values = BTreeSet::new();
    for line in response.body_text().lines() {
        let words: Vec<&str> = line.splitn(4, ' ').collect();
        match words[..] {
            ["#", "HELP", name, help] => {
                // The second prefix is Prometheus' own, for what every process has.
                assert!(
                    name.starts_with("fanfare_") || name.starts_with("process_"),
                    "{line}"
                );
                assert!(!help.is_empty(), "{line}");
            }
            ["#", "TYPE", name, kind] => {
                assert!(matches!(kind, "counter" | "gauge" | "histogram"), "{line}");
                assert!(typed.insert(name), "twice: {line}");
            }
            [series, value] => {
                value.parse::<f64>().unwrap();
                let name = series.split('{').next().unwrap();
                assert!(typed.contains(name), "no type before {line}");
                assert!(values.insert(series), "twice: {line}");
            }
            _ => panic!("not Prometheus text: {line}"),
        }
    }
    assert!(values.len() > 20, "{values:?}");
}
