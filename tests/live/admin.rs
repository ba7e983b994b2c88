//! The admin listener: correct metrics in Prometheus' text format, and health checks that no other
//! client of the listener can delay.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufReader, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::raw::connect;
use crate::support::secure::{Certificate, secured, tls_addr};
use crate::support::{Feeder, Raw, Server, Socket, fanfare, within};

/// The maximum time from a health check to its answer, whatever load other clients cause.
const HEALTHY_WITHIN: Duration = Duration::from_secs(2);
/// The maximum number of descriptors that a test may add to one thread's descriptor table.
const DESCRIPTORS_MAX: usize = 200;

/// Requests `/healthz` continuously while `disturb` is repeated.
fn assert_healthy_while(server: &Server, mut disturb: impl FnMut(SocketAddr)) {
    let before = server.process().descriptors_max();
    let mut slowest = Duration::ZERO;
    let end = Instant::now() + Duration::from_secs(4);
    while Instant::now() < end {
        for _ in 0..10 {
            disturb(server.admin);
        }
        let asked = Instant::now();
        let mut stream = connect(server.admin);
        stream.set_read_timeout(Some(HEALTHY_WITHIN)).unwrap();
        stream
            .write_all(b"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n")
            .unwrap();
        let response = Raw::read(&mut BufReader::new(stream));
        assert_eq!(response.status, 200);
        slowest = slowest.max(asked.elapsed());
        // A thread that was starting may have closed descriptors since then.
        let more = server.process().descriptors_max().saturating_sub(before);
        assert!(more <= DESCRIPTORS_MAX, "{more} descriptors more");
        thread::sleep(Duration::from_millis(20));
    }
    assert!(slowest < HEALTHY_WITHIN, "{slowest:?}");
}

#[test]
fn health_checks_are_answered_beside_silent_connections_and_half_heads() {
    let server = Server::start();
    let mut held = Vec::new();
    assert_healthy_while(&server, |admin| {
        let mut stream = connect(admin);
        if held.len() % 2 == 0 {
            stream.write_all(b"GET /metrics HTTP/1.1\r\nHo").unwrap();
        }
        held.push(stream);
    });
}

#[test]
fn health_checks_are_answered_with_few_descriptors_left() {
    for left in [0, 1, 2] {
        let server = Server::start();
        let process = server.process();
        let main = process.descriptors()[&process.0];
        process.limit_descriptors(main + left);
        let mut held = Vec::new();
        assert_healthy_while(&server, |admin| held.push(connect(admin)));
    }
}

#[test]
fn health_checks_are_answered_without_a_descriptor_left() {
    let server = Server::start();
    let process = server.process();
    process.limit_descriptors(process.descriptors()[&process.0]);
    for _ in 0..50 {
        assert_eq!(Raw::get(server.admin, "/healthz").status, 200);
    }
}

#[test]
fn health_checks_are_answered_beside_clients_that_never_read() {
    let server = Server::start();
    let mut held = Vec::new();
    let request = "GET /metrics HTTP/1.1\r\nHost: h\r\nConnection: keep-alive\r\n\r\n";
    assert_healthy_while(&server, |admin| {
        let mut stream = connect(admin);
        let count = if held.len() % 2 == 0 { 1 } else { 50 };
        stream.write_all(request.repeat(count).as_bytes()).unwrap();
        held.push(stream);
    });
}

#[test]
fn health_checks_are_answered_beside_clients_that_send_continuously() {
    let server = Server::start();
    let admin = server.admin;
    let flood = "GET /metrics HTTP/1.1\r\nHost: h\r\nContent-Length: 9000000\r\n\r\n".to_owned()
        + &"x".repeat(100_000);
    let end = Instant::now() + Duration::from_secs(4);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while Instant::now() < end {
                    let mut stream = connect(admin);
                    while stream.write_all(flood.as_bytes()).is_ok() {}
                }
            });
        }
        assert_healthy_while(&server, |_| {});
    });
}

#[test]
fn slow_reader_gets_all_metrics_beside_silent_connections() {
    let server = Server::start();
    let mut slow = connect(server.admin);
    slow.write_all(b"GET /metrics HTTP/1.1\r\nHost: h\r\n\r\n")
        .unwrap();
    let mut head = [0; 15];
    slow.read_exact(&mut head).unwrap();
    assert_eq!(&head, b"HTTP/1.1 200 OK");
    let silent: Vec<TcpStream> = (0..300).map(|_| connect(server.admin)).collect();
    let mut rest = String::new();
    let mut piece = [0; 512];
    loop {
        match slow.read(&mut piece) {
            Ok(0) => break,
            Ok(count) => rest.push_str(std::str::from_utf8(&piece[..count]).unwrap()),
            Err(error) => panic!("{error}"),
        }
        thread::sleep(Duration::from_millis(1));
    }
    assert!(rest.ends_with('\n') && rest.contains("process_resident_memory_bytes "));
    drop(silent);
}

#[test]
fn request_sent_while_the_server_was_stopped_is_answered() {
    let server = Server::start();
    let mut early = connect(server.admin);
    early.write_all(b"GET /healthz HTTP/1.1\r\n").unwrap();
    server.signal("STOP");
    early.write_all(b"Host: h\r\n\r\n").unwrap();
    let mut late = connect(server.admin);
    late.write_all(b"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n")
        .unwrap();
    let silent: Vec<TcpStream> = (0..60).map(|_| connect(server.admin)).collect();
    // The server is stopped for longer than the deadline of a request head.
    thread::sleep(Duration::from_millis(2_500));
    server.signal("CONT");
    for stream in [early, late] {
        assert_eq!(Raw::read(&mut BufReader::new(stream)).status, 200);
    }
    drop(silent);
}

#[test]
fn silent_connection_is_answered_408_and_closed_in_time() {
    let server = Server::start();
    let mut stream = connect(server.admin);
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
}

/// Returns the samples of `/metrics` by name.
fn samples(server: &Server) -> BTreeMap<String, f64> {
    let response = Raw::get(server.admin, "/metrics");
    let lines = response.body_text().lines().filter(|l| !l.starts_with('#'));
    let sample = |line: &str| {
        let (name, value) = line.rsplit_once(' ').unwrap();
        (name.to_owned(), value.parse().unwrap())
    };
    lines.map(sample).collect()
}

/// Fails if `promtool check metrics` reports a problem.
fn assert_promtool_accepts(server: &Server) {
    let response = Raw::get(server.admin, "/metrics");
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool is missing: run tests/run");
    let mut stdin = promtool.stdin.take().unwrap();
    stdin.write_all(&response.body).unwrap();
    drop(stdin);
    let output = promtool.wait_with_output().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && printed.trim().is_empty(),
        "{printed}"
    );
}

#[test]
fn promtool_accepts_the_metrics_of_a_busy_and_a_draining_server() {
    let folder = tempfile::tempdir().unwrap();
    let certificate = Certificate::make(folder.path(), "own");
    let config = format!(
        "{}[journal]\npath = {:?}\n[limits]\nconns_per_source = 100\n[deflate]\nenabled = true\n\
         [[namespace]]\nmatch = \"up:*\"\nclient_publish = \"consume\"\n",
        certificate.config(),
        folder.path().join("journal")
    );
    let mut server = Server::with(&config, &["--listen", "127.0.0.1:0 tls"]);
    drop(secured(tls_addr(&server), &certificate.trusting()));
    let mut consumer = Feeder::connect(&server.feed);
    consumer.send(&json!({"consume": ["up:*"], "notices": true, "ack": true}));
    consumer.skip_line();
    let mut socket = Socket::subscribed(server.addr, "channel=a&channel=up:1");
    socket.send(&json!({"type": "publish", "channel": "up:1", "data": 1, "ref": 1}));
    let mut feeder = Feeder::connect(&server.feed);
    feeder.publish("a", "x".repeat(1000));
    feeder.write("nonsense\n");
    // The client's own publication and the answer to it arrive in either order.
    while socket.json()["channel"] != "a" {}
    Raw::get(server.addr, "/poll?channel=a&timeout=0");
    Raw::get(server.addr, "/nothing").assert_problem(404);
    assert_promtool_accepts(&server);
    // A client that does not answer the close frame keeps the drain open.
    server.signal("TERM");
    within("the drain", || {
        (Raw::get(server.admin, "/readyz").status == 503).then_some(())
    });
    assert_promtool_accepts(&server);
    drop(socket);
    assert!(server.wait().success());
}

/// Runs `fanfare health`. Returns its status, standard output and standard error.
fn health(admin: SocketAddr, flags: &[&str]) -> (Option<i32>, String, String) {
    let mut command = fanfare();
    command.args(["health", "--admin", &admin.to_string()]);
    let ended = command.args(flags).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (ended.status.code(), text(ended.stdout), text(ended.stderr))
}

#[test]
fn health_command_prints_the_answer_and_fails_unless_the_server_is_ready() {
    let server = Server::start();
    let healthy = |text: &str| (Some(0), text.to_owned(), String::new());
    assert_eq!(health(server.admin, &[]), healthy("ready\n"));
    assert_eq!(health(server.admin, &["--live"]), healthy("ok\n"));
    let admin = server.admin.to_string();
    let by_variable = fanfare().arg("health").env("FANFARE_ADMIN", admin).output();
    assert!(by_variable.unwrap().status.success());
    // A client that does not answer the close frame keeps the drain open.
    let socket = Socket::subscribed(server.addr, "channel=a");
    server.signal("TERM");
    let refusal = within("the drain", || {
        let (status, _, error) = health(server.admin, &[]);
        (status == Some(1)).then_some(error)
    });
    let expected = format!(
        "fanfare: http://{}/readyz: status 503: draining",
        server.admin
    );
    assert!(refusal.starts_with(&expected), "{refusal}");
    assert_eq!(health(server.admin, &["--live"]).0, Some(0));
    drop((socket, server));
}

#[test]
fn health_command_fails_soon_without_an_answer() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = listener.local_addr().unwrap();
    let begun = Instant::now();
    let (status, _, error) = health(silent, &[]);
    assert_eq!(status, Some(1), "{error}");
    assert!(error.contains("timed out"), "{error}");
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "{:?}",
        begun.elapsed()
    );
    drop(listener);
    let (status, _, error) = health(silent, &[]);
    assert_eq!(status, Some(1), "{error}");
    assert!(error.contains("Connection refused"), "{error}");
    let off = fanfare().args(["health", "--admin", "off"]).output();
    assert_eq!(off.unwrap().status.code(), Some(2));
}

#[test]
fn each_event_is_counted_once_with_any_number_of_workers() {
    const PUBLICATIONS: u32 = 40;
    let config = "[[namespace]]\nmatch = \"short:*\"\nlog_entries = 1\n";
    let server = Server::with(config, &["--workers", "3"]);
    let sockets: Vec<Socket> = (0..12)
        .map(|number| {
            let own = number % 6;
            Socket::subscribed(server.addr, &format!("channel=all&channel=own:{own}"))
        })
        .collect();
    assert_eq!(samples(&server)["fanfare_channels"], 7.0);
    let mut feeder = Feeder::connect(&server.feed);
    for number in 0..PUBLICATIONS {
        feeder.publish(&format!("c{}", number % 10), number);
    }
    for number in 0..5 {
        feeder.publish("short:1", number);
    }
    within("every worker's log", || {
        (samples(&server)["fanfare_log_evicted_total"] >= 4.0).then_some(())
    });
    let samples_now = samples(&server);
    for (name, value) in [
        ("fanfare_publications_total", 45.0),
        ("fanfare_feed_publications_total", 45.0),
        ("fanfare_log_entries", 41.0),
        ("fanfare_log_evicted_total", 4.0),
        ("fanfare_channels", 7.0),
        ("fanfare_subscribers", 24.0),
        ("fanfare_conns", 12.0),
        ("fanfare_streams{transport=\"websocket\"}", 12.0),
        ("fanfare_conns_accepted_total", 12.0),
        ("fanfare_upgrades_total", 12.0),
        ("fanfare_requests_total", 12.0),
        ("fanfare_deliveries_total", 0.0),
        ("fanfare_walks_total", 0.0),
        ("fanfare_workers", 3.0),
    ] {
        assert_eq!(samples_now[name], value, "{name}");
    }
    // The log has 41 entries of at least 112 bytes each.
    let bytes = samples_now["fanfare_log_bytes"];
    assert!((41.0 * 112.0..41.0 * 1_000.0).contains(&bytes), "{bytes}");
    drop(sockets);
    server.await_metric("fanfare_channels", 0.0);
}

#[test]
fn worker_mails_and_wakes_are_counted() {
    let server = Server::with("", &["--workers", "1"]);
    let _subscriber = Socket::subscribed(server.addr, "channel=a");
    let mut feeder = Feeder::connect(&server.feed);
    // Each call waits for its answer, so each publication is a batch of its own.
    for number in 0..20 {
        feeder.publish("a", number);
    }
    server.await_metric("fanfare_mails_total", 20.0);
    let wakes = server.metric("fanfare_wakes_total");
    assert!((1.0..=20.0).contains(&wakes), "{wakes}");
}

#[test]
fn delivery_is_counted_once_per_subscriber() {
    let server = Server::with("", &["--workers", "3"]);
    let mut sockets: Vec<Socket> = (0..6)
        .map(|_| Socket::subscribed(server.addr, "channel=a"))
        .collect();
    let mut feeder = Feeder::connect(&server.feed);
    for number in 0..10 {
        feeder.publish("a", number);
    }
    for socket in &mut sockets {
        for number in 0..10 {
            assert_eq!(socket.publication()["data"], number);
        }
    }
    server.await_metric("fanfare_deliveries_total", 60.0);
    server.await_metric("fanfare_publications_total", 10.0);
    let samples = samples(&server);
    assert_eq!(samples["fanfare_gaps_total"], 0.0);
    let walk = samples["fanfare_walk_seconds"];
    assert!((0.000_001..5.0).contains(&walk), "{walk}");
}

/// Returns a field of a procfs file in bytes. The file contains the field in kibibytes.
fn kibibytes(path: &str, key: &str) -> f64 {
    let text = fs::read_to_string(path).unwrap();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(key))
        .unwrap();
    let number = line.trim().trim_end_matches(" kB").trim();
    number.parse::<f64>().unwrap() * 1024.0
}

/// Returns the help text of a metric.
fn help(server: &Server, name: &str) -> String {
    let response = Raw::get(server.admin, "/metrics");
    let mark = format!("# HELP {name} ");
    let lines = response.body_text().lines();
    lines
        .filter_map(|l| l.strip_prefix(&mark))
        .next()
        .unwrap()
        .to_owned()
}

fn assert_close(name: &str, shown: f64, expected: f64) {
    let tolerance = expected * 0.1 + f64::from(4 << 20);
    assert!(
        (shown - expected).abs() < tolerance,
        "{name}: {shown}, {expected}"
    );
}

#[test]
fn memory_metrics_match_their_help_texts() {
    let limited = Server::with("[limits]\nmemory_bytes = 1073741824\n", &[]);
    let rollup = format!("/proc/{}/smaps_rollup", limited.process().0);
    let now = samples(&limited);
    let resident = kibibytes(&rollup, "Rss:");
    assert!(help(&limited, "fanfare_memory_bytes").starts_with("Resident memory of this process"));
    assert_close("memory", now["fanfare_memory_bytes"], resident);
    assert_close("resident", now["process_resident_memory_bytes"], resident);
    assert_eq!(now["fanfare_memory_limit_bytes"], 1_073_741_824.0);

    let free = Server::start();
    let shown = samples(&free)["fanfare_memory_bytes"];
    let help = help(&free, "fanfare_memory_bytes");
    if help.contains("/proc/meminfo") {
        let meminfo = "/proc/meminfo";
        let used = kibibytes(meminfo, "MemTotal:") - kibibytes(meminfo, "MemAvailable:");
        // Other processes allocate and free memory in the meantime.
        let tolerance = used * 0.25 + f64::from(256 << 20);
        assert!((shown - used).abs() < tolerance, "{shown}, {used}");
    } else {
        assert!(help.contains("cgroup"), "{help}");
        assert!(shown > 0.0);
    }
}

#[test]
fn peer_that_resets_its_connection_disturbs_no_other() {
    let server = Server::start();
    for _ in 0..300 {
        let mut stream = connect(server.admin);
        stream
            .write_all(b"GET /metrics HTTP/1.1\r\nHost: h\r\n\r\n")
            .unwrap();
        crate::support::handmade::reset(stream);
    }
    let mut stream = connect(server.admin);
    stream.set_nonblocking(true).unwrap();
    let nothing = stream.read(&mut [0; 1]).unwrap_err();
    assert_eq!(nothing.kind(), ErrorKind::WouldBlock);
    assert_eq!(Raw::get(server.admin, "/healthz").status, 200);
}
