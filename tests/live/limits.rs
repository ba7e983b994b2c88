//! Tests of the limits on connections, request heads, messages, the feed, and descriptors.
//!
//! In each test a peer exceeds one of these limits. Peers that send continuously are in `attack`.

use std::io::{BufReader, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::thread;

use serde_json::json;
use tempfile::TempDir;

use crate::support::handmade::{has_ended, upgrade};
use crate::support::raw::connect;
use crate::support::socket::frame;
use crate::support::{Feeder, Lines, PATIENCE, Raw, Server, Socket, within};

#[test]
fn conn_over_the_limit_is_refused_until_one_closes() {
    let server = Server::with("[limits]\nconns = 3\n", &["--workers", "1"]);
    let mut conns: Vec<Socket> = (0..3)
        .map(|_| Socket::subscribed(server.addr, "channel=a"))
        .collect();
    for refused in 1..=40 {
        let response = Raw::get(server.addr, "/");
        response.assert_problem(503);
        let wait: u32 = response.field("retry-after").unwrap().parse().unwrap();
        assert!((1..=60).contains(&wait));
        server.await_metric(
            "fanfare_conns_refused_total{limit=\"conns\"}",
            f64::from(refused),
        );
    }
    server.await_metric("fanfare_conns_accepted_total", 3.0);
    server.await_metric("fanfare_conns", 3.0);
    drop(conns.pop());
    server.await_metric("fanfare_conns", 2.0);
    Socket::subscribed(server.addr, "channel=a");
}

#[test]
fn limit_on_conns_is_shared_by_the_workers() {
    let server = Server::with("[limits]\nconns = 6\n", &["--workers", "2"]);
    let mut kept = Vec::new();
    let mut refused = 0;
    for _ in 0..40 {
        let mut stream = BufReader::new(upgrade(server.addr, "channel=a"));
        let response = Raw::read(&mut stream);
        match response.status {
            101 => kept.push(stream),
            503 => refused += 1,
            other => panic!("{other}"),
        }
    }
    // The kernel spreads connections over the workers at random. Forty connections reach both
    // workers.
    assert_eq!((kept.len(), refused), (6, 34));
    server.await_metric("fanfare_conns_refused_total{limit=\"conns\"}", 34.0);
}

#[test]
fn silent_conn_is_closed_at_the_deadline_of_its_head() {
    let server = Server::with("[limits]\nrequest_head_ms = 300\n", &[]);
    let mut silent = connect(server.addr);
    within("the end", || has_ended(&mut silent).then_some(()));
    server.await_metric("fanfare_conns_closed_total{reason=\"head_timeout\"}", 1.0);
}

#[test]
fn slow_head_within_its_deadline_is_served() {
    let server = Server::start();
    let mut stream = connect(server.addr);
    for byte in b"GET /sse?channel=a HTTP/1.1\r\nHost: a\r\n\r\n" {
        stream.write_all(&[*byte]).unwrap();
    }
    assert_eq!(Raw::read(&mut BufReader::new(stream)).status, 200);
}

#[test]
fn pipelined_requests_are_all_answered_without_further_input() {
    let server = Server::start();
    let mut stream = connect(server.addr);
    let count = 300;
    let requests = b"GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n".repeat(count);
    stream.write_all(&requests).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut stream = BufReader::new(stream);
    for _ in 0..count {
        assert_eq!(Raw::read(&mut stream).status, 404);
    }
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();
    assert!(rest.is_empty());
}

#[test]
fn message_over_the_limit_is_refused_after_its_header() {
    let server = Server::with("[limits]\nclient_message_bytes = 1000\n", &[]);
    let mut socket = Socket::subscribed(server.addr, "channel=a");
    socket.send_raw(&[0x82, 0xfe, 0x03, 0xe9, 0, 0, 0, 0]);
    assert_eq!(socket.closed().0, 1009);
    let mut socket = Socket::subscribed(server.addr, "channel=a");
    socket.send_raw(&[
        0x82, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0,
    ]);
    assert_eq!(socket.closed().0, 1009);
    // The server adds up the sizes of a message's fragments. The size in the header of the second
    // fragment is so large that the message exceeds the limit.
    let mut socket = Socket::subscribed(server.addr, "channel=a");
    socket.send_raw(&frame(0x02, &[0; 600]));
    socket.send_raw(&[0x80, 0xfe, 0x01, 0x91, 0, 0, 0, 0]);
    assert_eq!(socket.closed().0, 1009);
}

#[test]
fn feeder_that_disconnects_within_a_line_loses_that_line_only() {
    let server = Server::start();
    let mut socket = Socket::subscribed(server.addr, "channel=a");
    let mut other = Feeder::connect(&server.feed);
    let mut dying = Feeder::connect(&server.feed);
    dying.write("{\"channel\":\"a\",\"data\":1}\n{\"channel\":\"a\",\"data\":2");
    assert_eq!(socket.publication()["data"], 1);
    drop(dying);
    server.await_metric("fanfare_feed_cut_off_total", 1.0);
    other.publish("a", 3);
    assert_eq!(socket.publication()["data"], 3);
    server.await_metric("fanfare_feeders", 1.0);
}

#[test]
fn two_hundred_feeders_are_all_acknowledged() {
    let config = "[quota]\nbehind_bytes = 16777216\nbehind_publications = 100000\n";
    let server = Server::with(config, &[]);
    let mut socket = Socket::subscribed(server.addr, "channel=a");
    let mut feeders = Vec::new();
    for _ in 0..200 {
        feeders.push(Feeder::connect(&server.feed));
    }
    server.await_metric("fanfare_feeders", 200.0);
    let mut threads = Vec::new();
    for (number, mut feeder) in feeders.into_iter().enumerate() {
        threads.push(thread::spawn(move || {
            let publish = |n| feeder.publish("a", json!([number, n]));
            (0..10).map(publish).collect::<Vec<String>>()
        }));
    }
    let mut seen: Vec<String> = (0..2000)
        .map(|_| socket.publication()["id"].as_str().unwrap().to_owned())
        .collect();
    let mut acknowledged: Vec<String> = threads
        .into_iter()
        .flat_map(|thread| thread.join().unwrap())
        .collect();
    let number = |id: &String| -> u64 { id.split_once('-').unwrap().1.parse().unwrap() };
    assert!(seen.is_sorted_by_key(number));
    seen.sort();
    acknowledged.sort();
    assert_eq!(seen, acknowledged);
}

/// A server that cannot raise its limit on descriptors.
struct Limited {
    process: Lines,
    addr: SocketAddr,
    admin: SocketAddr,
    log: String,
    _folder: TempDir,
}

impl Limited {
    /// Starts a server with this limit on descriptors. Returns its standard error if it does not
    /// start.
    fn start(flags: &[&str], limit: u64) -> Result<Self, String> {
        let folder = tempfile::tempdir().unwrap();
        let launcher = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/limited.py");
        let mut process = Lines::run(
            Command::new("python3")
                .arg(launcher)
                .args(flags)
                .arg(limit.to_string())
                .arg(env!("CARGO_BIN_EXE_fanfare"))
                .args(["serve", "--workers", "2", "--listen", "127.0.0.1:0"])
                .args(["--admin", "127.0.0.1:0", "--feed"])
                .arg(folder.path().join("feed.sock")),
        );
        let Some(ready) = process.next() else {
            process.wait();
            return Err(process.stderr());
        };
        let address = |mark: &str| {
            let (_, rest) = ready.split_once(mark).unwrap();
            rest.split(' ').next().unwrap().parse().unwrap()
        };
        Ok(Self {
            addr: address("ready: http://"),
            admin: address("admin=http://"),
            process,
            log: String::new(),
            _folder: folder,
        })
    }

    fn await_log(&mut self, text: &str) {
        within(text, || {
            self.log += &self.process.stderr();
            self.log.contains(text).then_some(())
        });
    }

    fn readiness(&self) -> (u16, String) {
        let answer = Raw::get(self.admin, "/readyz");
        (answer.status, answer.body_text().to_owned())
    }

    /// Whether a client receives anything before its connection ends.
    fn serves(&self) -> bool {
        let mut stream = TcpStream::connect(self.addr).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        // The server may have closed the connection already.
        let _ = stream.write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n");
        stream.read(&mut [0]).is_ok_and(|bytes| bytes > 0)
    }
}

#[test]
fn low_descriptor_limit_is_reported_with_the_number_of_conns_it_allows() {
    let mut server = Limited::start(&[], 1024).unwrap();
    server.await_log(
        "WARN cannot raise the limit on descriptors (RLIMIT_NOFILE): Operation not permitted",
    );
    // Each worker has its own descriptor table, which reserves 64 descriptors and one for each
    // worker.
    server.await_log("It stays at 1024 for each of 2 workers, which is enough for about 1916 ");
    assert_eq!(server.readiness(), (200, String::from("ready\n")));
    assert!(server.serves());
}

#[test]
fn server_without_descriptors_for_connections_is_not_ready_and_reports_why() {
    let mut found = [false; 3];
    for limit in 10..40 {
        let Ok(server) = Limited::start(&["--shared"], limit) else {
            found[0] = true;
            continue;
        };
        let printed = format!(
            "not ready: no connection fits: the server itself uses all descriptors that \
             RLIMIT_NOFILE, {limit}, allows"
        );
        // The last descriptor may be used by this client or by the readiness request.
        let is_served = within("a client is served, or /readyz has a reason", || {
            let is_served = server.serves();
            let (status, reason) = server.readiness();
            let is_known = status == 503 && reason.contains(&printed);
            (is_served || is_known).then_some(is_served)
        });
        found[if is_served { 2 } else { 1 }] = true;
    }
    assert_eq!(found, [true; 3], "a limit for each outcome");
}
