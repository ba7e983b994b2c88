//! Where the real binary's bounds bind: descriptors, conns, request heads, floods and the feed.
//!
//! Each test is a peer that asks for too much, and somebody beside it who must not notice.
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

use std::io::{BufReader, ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use live::raw::connect;
use live::socket::frame;
use live::{Feeder, Raw, Server, Socket, within};
use serde_json::json;
use socket2::SockRef;

const MIB: u64 = 1024 * 1024;

/// By how much a hostile client or feeder may make the process grow. The allocator takes memory
/// from the kernel in pieces of some MiB, so there is nothing to see below that.
const GROWTH_BYTES_MAX: u64 = 16 * MIB;

/// How long a neighbour of a flood may wait. The goal of 50 ms is for a release build alone on its
/// machine.
const NEIGHBOUR_WAIT: Duration = Duration::from_secs(2);

/// Sends RST instead of FIN.
fn reset(stream: TcpStream) {
    SockRef::from(&stream)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    drop(stream);
}

/// A handshake by hand; what follows is the caller's to read or not.
fn upgrade(addr: SocketAddr, query: &str) -> TcpStream {
    let mut stream = connect(addr);
    stream.write_all(&handshake(query)).unwrap();
    stream
}

fn handshake(query: &str) -> Vec<u8> {
    format!(
        "GET /ws?{query} HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    .into_bytes()
}

/// Whether the server has ended the connection; what it says is read and dropped.
fn has_ended(stream: &mut TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() != ErrorKind::WouldBlock,
        }
    }
}

/// Writes the same bytes again and again without reading, until told to stop, refused, or `total`
/// is reached. How much was taken.
fn flood(stream: &TcpStream, piece: &[u8], total: usize, stop: &AtomicBool) -> usize {
    stream.set_nonblocking(true).unwrap();
    let (mut sent, mut at) = (0, 0);
    while sent < total && !stop.load(Ordering::Relaxed) {
        let mut stream = stream;
        match stream.write(&piece[at..]) {
            Ok(count) => {
                at = (at + count) % piece.len();
                sent += count;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                thread::sleep(Duration::from_millis(1));
            }
            Err(_) => break,
        }
    }
    sent
}

/// The longest of some rounds of the client's own ping on a neighbour's conn.
fn slowest_pong(neighbour: &mut Socket, rounds: u32) -> Duration {
    let round = |n| {
        let start = Instant::now();
        neighbour.send(&json!({"type": "ping", "ref": n}));
        assert_eq!(neighbour.json()["ref"], n);
        start.elapsed()
    };
    (0..rounds).map(round).max().unwrap()
}

fn descriptors_run_out(workers: &str) {
    let server = Server::with("[limits]\nconns = 100000\n", &["--workers", workers]);
    let process = server.process();
    let mut old = Socket::subscribed(server.addr, "channel=a");
    let mut feeder = Feeder::connect(&server.feed);
    feeder.publish("a", 0);
    old.publication();
    let limit = process.descriptors_max() + 12;
    process.limit_descriptors(limit);
    let mut excess: Vec<TcpStream> = (0..300).map(|_| connect(server.addr)).collect();
    within("somebody is turned away", || {
        excess.iter_mut().any(has_ended).then_some(())
    });
    let mut published = 0;
    let share = process.cpu_share(Duration::from_secs(1), || {
        published += 1;
        let id = feeder.publish("a", published);
        assert_eq!(old.publication()["id"], id.as_str());
        thread::sleep(Duration::from_millis(20));
    });
    assert!(share < 0.6, "{share} of a processor");
    assert!(process.descriptors_max() <= limit);
    drop(excess);
    let start = Instant::now();
    // Until the others are out of the backlog, whoever comes is turned away with them.
    let mut fresh = within("somebody new is served", || {
        Socket::try_subscribed(server.addr, "channel=a")
    });
    let waited = start.elapsed();
    assert!(waited < Duration::from_secs(3), "{waited:?}");
    let id = feeder.publish("a", "to both");
    assert_eq!(old.publication()["id"], id.as_str());
    assert_eq!(fresh.publication()["id"], id.as_str());
    assert!(server.metric("fanfare_descriptors_exhausted_total") >= 2.0);
}

#[test]
fn descriptors_of_one_worker_run_out_without_harm() {
    descriptors_run_out("1");
}

#[test]
fn descriptors_of_two_workers_run_out_without_harm() {
    descriptors_run_out("2");
}

#[test]
fn client_over_the_limit_on_conns_is_refused_at_once_until_one_leaves() {
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
    // The kernel spreads conns over the workers by chance; forty of them reach both.
    assert_eq!((kept.len(), refused), (6, 34));
    server.await_metric("fanfare_conns_refused_total{limit=\"conns\"}", 34.0);
}

#[test]
fn slow_heads_are_answered_in_time_and_delay_nobody() {
    let server = Server::with("[limits]\nrequest_head_ms = 2500\n", &[]);
    let start = Instant::now();
    let slow: Vec<TcpStream> = (0..300)
        .map(|_| {
            let mut stream = connect(server.addr);
            stream.write_all(b"GET / HTTP/1.1\r\nX-A: ").unwrap();
            stream
        })
        .collect();
    let mut waits = Vec::new();
    for _ in 0..40 {
        for mut stream in &slow {
            // On a busy machine some may be over their time already.
            let _ = stream.write(b"a");
        }
        let asked = Instant::now();
        assert_eq!(Raw::get(server.addr, "/").status, 200);
        waits.push(asked.elapsed());
    }
    waits.sort();
    let p95 = waits[waits.len() * 95 / 100];
    assert!(p95 < NEIGHBOUR_WAIT, "{p95:?} of {}", waits.len());
    for stream in slow {
        let mut stream = BufReader::new(stream);
        let mut said = Vec::new();
        // The end may come as a reset, since the last bytes were not read.
        let _ = stream.read_to_end(&mut said);
        assert!(said.starts_with(b"HTTP/1.1 408 "), "{said:?}");
    }
    // Bytes that drip in give nobody more time; two seconds of linger come on top.
    let took = start.elapsed();
    assert!(took < Duration::from_secs(12), "{took:?}");
    server.await_metric("fanfare_conns_closed_total{reason=\"head_timeout\"}", 300.0);
    server.await_metric("fanfare_conns", 0.0);
}

#[test]
fn silent_conn_is_closed_when_its_head_is_due() {
    let server = Server::with("[limits]\nrequest_head_ms = 300\n", &[]);
    let mut silent = connect(server.addr);
    within("the end", || has_ended(&mut silent).then_some(()));
    server.await_metric("fanfare_conns_closed_total{reason=\"head_timeout\"}", 1.0);
}

#[test]
fn head_that_drips_in_time_is_served() {
    let server = Server::start();
    let mut stream = connect(server.addr);
    for byte in b"GET /sse?channel=a HTTP/1.1\r\nHost: a\r\n\r\n" {
        stream.write_all(&[*byte]).unwrap();
    }
    assert_eq!(Raw::read(&mut BufReader::new(stream)).status, 200);
}

#[test]
fn requests_without_end_and_nobody_reading_cost_little_memory() {
    let server = Server::start();
    let process = server.process();
    assert_eq!(Raw::get(server.addr, "/").status, 200);
    let before = process.resident_bytes();
    let request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let stream = connect(server.addr);
    let writer = stream.try_clone().unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&stop);
    let flooding =
        thread::spawn(move || flood(&writer, &request.repeat(100), 10_000 * request.len(), &told));
    within("the server is blocked", || {
        (server.metric("fanfare_writes_blocked_total") > 0.5).then_some(())
    });
    for _ in 0..20 {
        assert_eq!(Raw::get(server.addr, "/").status, 200);
        let grown = process.resident_bytes().saturating_sub(before);
        assert!(grown < GROWTH_BYTES_MAX, "{grown}");
    }
    // Whoever reads at last is answered request by request.
    stream.set_nonblocking(false).unwrap();
    let mut stream = BufReader::new(stream);
    for _ in 0..500 {
        assert_eq!(Raw::read(&mut stream).status, 200);
    }
    stop.store(true, Ordering::Relaxed);
    flooding.join().unwrap();
}

#[test]
fn requests_sent_ahead_are_all_answered_although_the_client_sends_no_more() {
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
fn resets_at_every_stage_leave_no_descriptor_behind() {
    let server = Server::start();
    let process = server.process();
    let mut neighbour = Socket::subscribed(server.addr, "channel=a");
    let mut feeder = Feeder::connect(&server.feed);
    let before = process.descriptors();
    for _ in 0..100 {
        reset(connect(server.addr));
        let mut in_head = connect(server.addr);
        in_head.write_all(b"GET /ws?chan").unwrap();
        reset(in_head);
        reset(upgrade(server.addr, "channel=a"));
        let mut upgraded = BufReader::new(upgrade(server.addr, "channel=a"));
        assert_eq!(Raw::read(&mut upgraded).status, 101);
        feeder.publish("a", "x".repeat(3000));
        reset(upgraded.into_inner());
        let mut in_frame = upgrade(server.addr, "channel=a");
        in_frame
            .write_all(&frame(0x81, b"half of it")[..9])
            .unwrap();
        feeder.publish("a", "x".repeat(3000));
        reset(in_frame);
        let mut stream = connect(server.addr);
        stream
            .write_all(b"GET /sse?channel=a HTTP/1.1\r\nHost: a\r\n\r\n")
            .unwrap();
        reset(stream);
        neighbour.publication();
        neighbour.publication();
    }
    server.await_metric("fanfare_conns", 1.0);
    server.await_metric("fanfare_subscribers", 1.0);
    within("the descriptors are given back", || {
        let now = process.descriptors();
        let is_as_before = |(thread, count): (&u32, &usize)| now[thread] <= count + 5;
        before.iter().all(is_as_before).then_some(())
    });
}

/// A client floods with these frames and reads nothing; its neighbour hardly notices.
fn flood_costs_little(frames: &[u8]) {
    let server = Server::with("", &["--workers", "1"]);
    let process = server.process();
    let mut neighbour = Socket::subscribed(server.addr, "channel=a");
    slowest_pong(&mut neighbour, 3);
    let before = process.resident_bytes();
    let hostile = upgrade(server.addr, "channel=b");
    let stop = Arc::new(AtomicBool::new(false));
    let (told, frames) = (Arc::clone(&stop), frames.to_vec());
    let flooding = thread::spawn(move || {
        flood(&hostile, &frames, usize::MAX, &told);
        hostile
    });
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(2) {
        let slowest = slowest_pong(&mut neighbour, 5);
        assert!(slowest < NEIGHBOUR_WAIT, "{slowest:?}");
        let grown = process.resident_bytes().saturating_sub(before);
        assert!(grown < GROWTH_BYTES_MAX, "{grown}");
    }
    stop.store(true, Ordering::Relaxed);
    drop(flooding.join().unwrap());
    server.await_metric("fanfare_conns", 1.0);
}

#[test]
fn flood_of_pings_is_held_back() {
    flood_costs_little(&frame(0x89, &[b'p'; 125]).repeat(50));
}

#[test]
fn flood_of_commands_is_held_back() {
    let mut frames = Vec::new();
    for kind in ["subscribe", "unsubscribe"] {
        let command = json!({"type": kind, "channel": "c", "since": "x", "ref": 1});
        frames.extend(frame(0x81, command.to_string().as_bytes()));
    }
    flood_costs_little(&frames.repeat(50));
}

#[test]
fn flood_of_refused_commands_is_held_back() {
    flood_costs_little(&frame(0x81, br#"{"type":"x"}"#).repeat(50));
}

#[test]
fn hundred_thousand_empty_fragments_delay_nobody() {
    let server = Server::with("", &["--workers", "1"]);
    let mut neighbour = Socket::subscribed(server.addr, "channel=a");
    let mut hostile = Socket::subscribed(server.addr, "channel=b");
    let mut writer = hostile.0.get_ref().try_clone().unwrap();
    let flooding = thread::spawn(move || {
        let mut frames = frame(0x01, b"");
        frames.extend(frame(0x00, b"").repeat(100_000));
        frames.extend(frame(0x80, br#"{"type":"ping","ref":7}"#));
        writer.write_all(&frames).unwrap();
    });
    let slowest = slowest_pong(&mut neighbour, 20);
    assert!(slowest < NEIGHBOUR_WAIT, "{slowest:?}");
    assert_eq!(hostile.json()["ref"], 7);
    flooding.join().unwrap();
}

#[test]
fn message_over_the_limit_is_refused_from_its_header_alone() {
    let server = Server::with("[limits]\nclient_message_bytes = 1000\n", &[]);
    let mut socket = Socket::subscribed(server.addr, "channel=a");
    socket.send_raw(&[0x82, 0xfe, 0x03, 0xe9, 0, 0, 0, 0]);
    assert_eq!(socket.closed().0, 1009);
    let mut socket = Socket::subscribed(server.addr, "channel=a");
    socket.send_raw(&[
        0x82, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0,
    ]);
    assert_eq!(socket.closed().0, 1009);
    // Neither does a message in fragments get past it: the second one's header is too much.
    let mut socket = Socket::subscribed(server.addr, "channel=a");
    socket.send_raw(&frame(0x02, &[0; 600]));
    socket.send_raw(&[0x80, 0xfe, 0x01, 0x91, 0, 0, 0, 0]);
    assert_eq!(socket.closed().0, 1009);
}

#[test]
fn feeder_that_dies_in_a_line_costs_that_line_only() {
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
fn line_without_end_is_refused_and_costs_little_memory() {
    let server = Server::start();
    let process = server.process();
    Feeder::connect(&server.feed).publish("a", 1);
    let before = process.resident_bytes();
    let mut giant = std::os::unix::net::UnixStream::connect(&server.feed).unwrap();
    giant.write_all(b"{\"channel\":\"a\",\"text\":\"").unwrap();
    let piece = vec![b'x'; 65_536];
    let mut taken = 0;
    // The server reads on for a while so that its answer is not lost, and then hangs up.
    while taken < 64 * MIB {
        let Ok(count) = giant.write(&piece) else {
            break;
        };
        taken += count as u64;
        let grown = process.resident_bytes().saturating_sub(before);
        assert!(grown < GROWTH_BYTES_MAX, "{grown}");
    }
    let mut answer = String::new();
    let _ = giant.shutdown(Shutdown::Write);
    giant.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("{\"ok\":false,\"line\":1,"), "{answer}");
    server.await_metric("fanfare_feeders", 0.0);
    Feeder::connect(&server.feed).publish("a", 2);
}

#[test]
fn two_hundred_feeders_at_once_are_all_heard() {
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
    let mut told: Vec<String> = threads
        .into_iter()
        .flat_map(|thread| thread.join().unwrap())
        .collect();
    let number = |id: &String| -> u64 { id.split_once('-').unwrap().1.parse().unwrap() };
    assert!(seen.is_sorted_by_key(number));
    seen.sort();
    told.sort();
    assert_eq!(seen, told);
}
