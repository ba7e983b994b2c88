//! Start, signals, drain, the feed's socket file, and the admin listener's answers during a drain.

use std::collections::BTreeSet;
use std::io::{BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::raw::{connect, connect_small};
use crate::support::{Feeder, Lines, Raw, Server, Socket, within};

const SHORT_DRAIN: &str = "[drain]\nwindow_ms = 500\nretry_ms = 4000\n";

fn drains(signal: &str) {
    let mut server = Server::with(SHORT_DRAIN, &[]);
    let mut stream = Lines::curl([server.url("/sse?channel=a")]);
    stream.until("id: ");
    let mut socket = Socket::subscribed(server.addr, "channel=a");
    let id = Feeder::connect(&server.feed).publish("a", "last words");
    let signalled = Instant::now();
    server.signal(signal);

    assert_eq!(socket.publication()["id"], id.as_str());
    let (code, reason) = socket.closed();
    assert_eq!(code, 1012);
    let retry_ms: u64 = reason.strip_prefix("retry_ms=").unwrap().parse().unwrap();
    assert!(retry_ms <= 4000, "{reason}");
    // The server ends when the client has answered the close frame.
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
        signalled.elapsed() < Duration::from_secs(5),
        "{:?}",
        signalled.elapsed()
    );
    assert!(TcpStream::connect(server.addr).is_err());
    assert!(!server.feed.exists(), "the feed's file is left behind");
}

#[test]
fn sigterm_drains_all_clients_and_exits_with_zero() {
    drains("TERM");
}

#[test]
fn sigint_drains_all_clients_and_exits_with_zero() {
    drains("INT");
}

/// The kernel may deliver pending signals to different threads. Worker threads have descriptor
/// tables of their own, so a signal must work whatever thread receives it.
#[test]
fn simultaneous_signals_reach_the_server_and_disturb_no_client() {
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
fn second_signal_ends_a_server_that_waits_for_its_feed() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::in_folder(folder.path(), "127.0.0.1:0", "", &[]).unwrap();
    let process = server.process();
    let stopped = process.stop_thread("fanfare-feed");
    server.signal("TERM");
    within("the end of the drain", || process.thread("fanfare-join"));
    server.signal("TERM");
    stopped.await_end();
    assert!(server.wait().success());
    let log = std::fs::read_to_string(folder.path().join("stderr.txt")).unwrap();
    assert!(
        log.contains("second signal: ending without waiting for the feed"),
        "{log}"
    );
}

/// Drains a server whose clients never close. Returns the duration of the drain.
fn drain_with_silent_clients() -> Duration {
    let mut server = Server::start();
    let mut socket = Socket::subscribed(server.addr, "channel=a");
    let mut stream = BufReader::new(connect(server.addr));
    let request = b"GET /sse?channel=a HTTP/1.1\r\nHost: a\r\n\r\n";
    stream.get_mut().write_all(request).unwrap();
    server.await_metric("fanfare_subscribers", 2.0);
    let _silent = TcpStream::connect(server.addr).unwrap();
    let begun = Instant::now();
    server.signal("TERM");
    assert!(server.wait().success());
    let took = begun.elapsed();
    assert_eq!(socket.closed().0, 1012);
    let mut rest = String::new();
    stream.read_to_string(&mut rest).unwrap();
    assert!(rest.ends_with("0\r\n\r\n"), "{rest}");
    took
}

#[test]
fn clients_that_do_not_close_do_not_delay_the_exit() {
    // Closing so few clients takes at most a second. The best of three runs counts, because the
    // machine may be busy.
    let took = (0..3).map(|_| drain_with_silent_clients()).min();
    assert!(took < Some(Duration::from_millis(700)), "{took:?}");
}

/// Drains a server. Returns the reconnect delays in milliseconds that WebSocket clients, event
/// streams and a poll receive.
fn delays(server: &Server, sockets: usize) -> (Vec<u64>, Vec<u64>, u64) {
    let connect_one = |_| Socket::subscribed(server.addr, "channel=a");
    let mut sockets: Vec<Socket> = (0..sockets).map(connect_one).collect();
    let mut streams: Vec<Lines> = (0..3)
        .map(|_| Lines::curl([server.url("/sse?channel=a")]))
        .collect();
    streams
        .iter_mut()
        .for_each(|stream| drop(stream.until("id: ")));
    let since = Raw::get(server.addr, "/poll?channel=a&timeout=0");
    let since = since.field("etag").unwrap().trim_matches('"').to_owned();
    let mut poll = BufReader::new(connect(server.addr));
    let request = format!("GET /poll?channel=a&since={since} HTTP/1.1\r\nHost: a\r\n\r\n");
    poll.get_mut().write_all(request.as_bytes()).unwrap();
    server.await_metric("fanfare_streams{transport=\"long_poll\"}", 1.0);
    server.signal("TERM");
    let of_sockets = sockets.iter_mut().map(|socket| {
        let (code, reason) = socket.closed();
        assert_eq!(code, 1012);
        reason.strip_prefix("retry_ms=").unwrap().parse().unwrap()
    });
    let of_sockets = of_sockets.collect();
    let of_streams = streams.iter_mut().map(|stream| {
        let retry = stream.until("retry: ");
        retry["retry: ".len()..].parse().unwrap()
    });
    let of_streams = of_streams.collect();
    let answer = Raw::read(&mut poll);
    assert_eq!(answer.status, 200);
    let of_poll: u64 = answer.field("retry-after").unwrap().parse().unwrap();
    (of_sockets, of_streams, of_poll * 1000)
}

#[test]
fn twelve_clients_reconnect_within_three_seconds_and_not_before_the_next_server() {
    let mut server = Server::start();
    let (sockets, streams, poll) = delays(&server, 12);
    assert!(server.wait().success());
    for delay in sockets.iter().chain(&streams).chain([&poll]) {
        assert!((1000..=3000).contains(delay), "{delay}");
    }
    let distinct: BTreeSet<u64> = sockets.iter().copied().collect();
    assert!(distinct.len() > 6, "{sockets:?}");
}

#[test]
fn reconnects_of_all_workers_are_spread_at_the_configured_rate() {
    let config = "[drain]\nreconnects_per_second = 2\n";
    let mut server = Server::with(config, &["--workers", "4"]);
    let (sockets, _streams, _poll) = delays(&server, 16);
    // There are twenty clients: sixteen WebSockets and four others. At two per second, their delays
    // are spread over ten seconds. Each delay is in the second half of this time with a probability
    // of one half, so all sixteen are in the first half in one of 65,536 runs. If each of the four
    // workers counted only its own five clients, no delay would be in the second half.
    let latest = sockets.iter().max().unwrap();
    assert!((7_000..=13_500).contains(latest), "{sockets:?}");
    assert!(server.wait().success());
}

/// Other daemons reopen their logs on SIGUSR1, so scripts may send this signal to the server, too.
/// A background job of a terminal receives SIGTTOU when it writes.
#[test]
fn signals_without_a_meaning_neither_end_nor_stop_the_server() {
    let mut server = Server::start();
    let mut socket = Socket::subscribed(server.addr, "channel=a");
    let mut feeder = Feeder::connect(&server.feed);
    let ignored = [
        "USR1", "USR2", "HUP", "PIPE", "ALRM", "VTALRM", "PROF", "IO", "PWR", "XFSZ", "TTIN",
        "TTOU", "WINCH", "URG", "CHLD", "CONT",
    ];
    for (number, signal) in ignored.into_iter().enumerate() {
        server.signal(signal);
        let id = feeder.publish("a", number);
        assert_eq!(socket.publication()["id"], id.as_str(), "after {signal}");
    }
    server.signal("TERM");
    assert!(server.wait().success());
}

#[test]
fn signals_without_a_meaning_do_not_end_a_subscriber() {
    let server = Server::start();
    let mut follower = Command::new(env!("CARGO_BIN_EXE_fanfare"))
        .args(["subscribe", &server.url("/sse?channel=a"), "--count", "1"])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    server.await_metric("fanfare_subscribers", 1.0);
    let pid = Pid::from_child(&follower);
    for signal in [Signal::USR1, Signal::USR2] {
        kill_process(pid, signal).unwrap();
    }
    Feeder::connect(&server.feed).publish("a", 1);
    let status = within("the subscriber's end", || follower.try_wait().unwrap());
    assert!(status.success(), "{status}");
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
fn second_server_on_the_same_feed_is_refused_without_effect() {
    let folder = tempfile::tempdir().unwrap();
    let start = || Server::in_folder(folder.path(), "127.0.0.1:0", "", &[]);
    let first = start().unwrap();
    let (status, printed) = start().expect_err("two servers on one feed");
    assert_eq!(status.code(), Some(1), "{printed}");
    assert!(printed.contains("feed.sock"), "{printed}");
    Feeder::connect(&first.feed).publish("a", 1);
}

#[test]
fn regular_file_in_place_of_the_feed_is_not_removed() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("feed.sock");
    std::fs::write(&file, "precious").unwrap();
    let (status, printed) = Server::in_folder(folder.path(), "127.0.0.1:0", "", &[]).unwrap_err();
    assert_eq!(status.code(), Some(2), "{printed}");
    assert_eq!(std::fs::read_to_string(file).unwrap(), "precious");
}

#[test]
fn address_in_use_is_an_error_that_names_it() {
    let server = Server::start();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let folder = tempfile::tempdir().unwrap();
    let (status, printed) = Server::in_folder(folder.path(), &addr, "", &[]).unwrap_err();
    assert_eq!(status.code(), Some(1), "{printed}");
    assert!(printed.contains(&addr), "{printed}");
    drop(server);
}

#[test]
fn health_continues_and_readiness_ends_with_the_drain() {
    let mut server = Server::with("[drain]\nwindow_ms = 3000\n", &[]);
    assert_eq!(Raw::get(server.admin, "/healthz").status, 200);
    assert_eq!(Raw::get(server.admin, "/readyz").status, 200);
    assert_eq!(Raw::get(server.admin, "/nowhere").status, 404);
    // A client that reads nothing keeps the drain open until the drain's window ends.
    let mut stalled = connect_small(server.addr);
    stalled
        .write_all(b"GET /sse?channel=a HTTP/1.1\r\nHost: a\r\n\r\n")
        .unwrap();
    server.await_metric("fanfare_subscribers", 1.0);
    let mut feeder = Feeder::connect(&server.feed);
    for _ in 0..8 {
        feeder.publish("a", "x".repeat(500_000));
    }
    server.signal("TERM");
    within("readiness to end", || {
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
        // The value of a label may contain a space.
        let words: Vec<&str> = match line.starts_with('#') {
            true => line.splitn(4, ' ').collect(),
            false => line.rsplitn(2, ' ').collect(),
        };
        match words[..] {
            ["#", "HELP", name, help] => {
                // Prometheus reserves the prefix `process_` for metrics that every process has.
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
            [value, series] => {
                value.parse::<f64>().unwrap();
                let name = series.split('{').next().unwrap();
                // The series of a histogram have the histogram's name and one of these endings.
                let parts = ["_bucket", "_sum", "_count"];
                let base = parts.iter().find_map(|part| name.strip_suffix(part));
                let is_typed = typed.contains(name) || base.is_some_and(|b| typed.contains(b));
                assert!(is_typed, "no type before {line}");
                assert!(values.insert(series), "twice: {line}");
            }
            _ => panic!("not Prometheus text: {line}"),
        }
    }
    assert!(values.len() > 20, "{values:?}");
}
