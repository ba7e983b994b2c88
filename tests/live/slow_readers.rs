//! Peers that are slow, silent or unreachable: quotas and gaps, heartbeats, and the kernel's
//! buffers.
//!
//! Each publication to a slow subscriber is checked by id: it is either delivered or counted in a
//! gap.

use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use socket2::SockRef;
use tungstenite::Message;
use tungstenite::client::IntoClientRequest as _;

use crate::support::raw::connect_small;
use crate::support::{Feeder, Raw, Server, Socket, within};

const MIB: u64 = 1024 * 1024;

/// Opens a WebSocket with a small receive buffer, and reads up to the answer to its subscription.
fn subscribe_small(addr: SocketAddr) -> Socket {
    let mut request = format!("ws://{addr}/ws?channel=a")
        .into_client_request()
        .unwrap();
    let headers = request.headers_mut();
    headers.insert("Sec-WebSocket-Protocol", "fanfare.v1".parse().unwrap());
    let (socket, _) = tungstenite::client(request, connect_small(addr)).unwrap();
    let mut socket = Socket(socket);
    assert_eq!(socket.json()["type"], "welcome");
    assert_eq!(socket.json()["type"], "subscribed");
    socket
}

/// Opens an event stream with a small receive buffer, and reads nothing.
fn stream_small(addr: SocketAddr) -> TcpStream {
    let mut stream = connect_small(addr);
    stream
        .write_all(b"GET /sse?channel=a HTTP/1.0\r\n\r\n")
        .unwrap();
    stream
}

/// Publishes texts of this length in steps. A healthy subscriber reads each step before the next
/// step, so that it never lags. Returns the ids.
fn publish_in_steps(
    feeder: &mut Feeder,
    healthy: &mut Socket,
    count: usize,
    bytes: usize,
) -> Vec<String> {
    let text = "x".repeat(bytes);
    let mut ids = Vec::new();
    while ids.len() < count {
        let step = (30_000 / bytes).clamp(1, count - ids.len());
        for _ in 0..step {
            feeder.send(&json!({"channel": "a", "text": text, "ack": true}));
        }
        for _ in 0..step {
            ids.push(feeder.answer()["id"].as_str().unwrap().to_owned());
            assert_eq!(healthy.publication()["id"], ids[ids.len() - 1].as_str());
        }
    }
    ids
}

/// A message received by a slow subscriber.
#[derive(Debug)]
enum Given {
    Gap(Value),
    Id(String),
}

/// Checks that publications and gaps cover each of these ids once and in order, and that a gap
/// starts at the last delivered id. Returns the number of publications after the last gap.
fn covered(ids: &[String], given: &[Given]) -> usize {
    let (mut next, mut tail) = (0, 0);
    for given in given {
        match given {
            Given::Id(id) => {
                assert_eq!(*id, ids[next]);
                next += 1;
                tail += 1;
            }
            Given::Gap(gap) => {
                assert_eq!(gap["cause"], "slow", "{gap}");
                assert_eq!(gap["channel"], "a", "{gap}");
                assert!(next > 0, "a gap before anything");
                assert_eq!(gap["since"], ids[next - 1].as_str(), "{gap}");
                let missed = usize::try_from(gap["missed"].as_u64().unwrap()).unwrap();
                assert!(missed > 0, "{gap}");
                next += missed;
                assert_eq!(gap["until"], ids[next - 1].as_str(), "{gap}");
                tail = 0;
            }
        }
    }
    assert_eq!(next, ids.len());
    tail
}

/// Reads from a WebSocket up to this id, but at most this many messages.
fn read_some(socket: &mut Socket, last: &str, at_most: usize) -> Vec<Given> {
    let mut given = Vec::new();
    while given.len() < at_most {
        let value = socket.json();
        if value["type"] == "gap" {
            given.push(Given::Gap(value));
            continue;
        }
        let id = value["id"].as_str().unwrap().to_owned();
        let is_last = id == last;
        given.push(Given::Id(id));
        if is_last {
            break;
        }
    }
    given
}

/// Reads from a WebSocket up to this id.
fn read_to(socket: &mut Socket, last: &str) -> Vec<Given> {
    read_some(socket, last, usize::MAX)
}

/// Reads from an event stream up to this id. The first id of the stream is a position, not a
/// publication.
fn read_events_to(stream: TcpStream, last: &str) -> Vec<Given> {
    let mut lines = BufReader::new(stream).lines().map(|line| line.unwrap());
    let mut given = Vec::new();
    let (mut id, mut is_gap) = (None, false);
    for line in &mut lines {
        if let Some(value) = line.strip_prefix("id: ") {
            id = Some(value.to_owned());
        } else if line.starts_with("event: fanfare.gap") {
            is_gap = true;
        } else if let Some(data) = line.strip_prefix("data: ") {
            if is_gap {
                given.push(Given::Gap(serde_json::from_str(data).unwrap()));
            } else {
                given.push(Given::Id(id.clone().unwrap()));
            }
        } else if line.is_empty() {
            if !is_gap && !given.is_empty() && id.as_deref() == Some(last) {
                return given;
            }
            (id, is_gap) = (None, false);
        }
    }
    panic!("the stream ended after {given:?}")
}

#[test]
fn stalled_websocket_receives_a_gap_and_the_newest_within_its_quota() {
    let server = Server::start();
    let mut feeder = Feeder::connect(&server.feed);
    let mut healthy = Socket::subscribed(server.addr, "channel=a");
    let mut stalled = subscribe_small(server.addr);
    let ids = publish_in_steps(&mut feeder, &mut healthy, 1000, 1000);
    let given = read_to(&mut stalled, &ids[999]);
    // A quota of 64 KiB has room for 65 publications of 1000 bytes.
    assert_eq!(covered(&ids, &given), 65);
    let skipped: u64 = given
        .iter()
        .map(|given| match given {
            Given::Gap(gap) => gap["missed"].as_u64().unwrap(),
            Given::Id(_) => 0,
        })
        .sum();
    #[expect(clippy::cast_precision_loss, reason = "at most a thousand")]
    server.await_metric("fanfare_publications_skipped_total", skipped as f64);
    let id = feeder.publish("a", "after");
    assert_eq!(stalled.publication()["id"], id.as_str());
}

#[test]
fn quota_on_the_count_binds_for_small_publications() {
    let config = "[quota]\nbehind_publications = 10\nsend_buffer_bytes = 4096\n\
                  notsent_lowat_bytes = 1024\n";
    let server = Server::with(config, &[]);
    let mut feeder = Feeder::connect(&server.feed);
    let mut stalled = subscribe_small(server.addr);
    let ids: Vec<String> = (0..1500)
        .map(|_| feeder.publish("a", "x".repeat(100)))
        .collect();
    assert_eq!(covered(&ids, &read_to(&mut stalled, &ids[1499])), 10);
}

#[test]
fn stalled_event_stream_receives_a_gap_and_the_newest_within_its_quota() {
    let server = Server::start();
    let mut feeder = Feeder::connect(&server.feed);
    let mut healthy = Socket::subscribed(server.addr, "channel=a");
    let stalled = stream_small(server.addr);
    server.await_metric("fanfare_subscribers", 2.0);
    let ids = publish_in_steps(&mut feeder, &mut healthy, 1000, 1000);
    assert_eq!(covered(&ids, &read_events_to(stalled, &ids[999])), 65);
}

#[test]
fn repeatedly_stalling_reader_misses_nothing_outside_gaps() {
    let server = Server::with("[quota]\nbehind_bytes = 10000\n", &[]);
    let mut feeder = Feeder::connect(&server.feed);
    let mut healthy = Socket::subscribed(server.addr, "channel=a");
    let mut stalled = subscribe_small(server.addr);
    let mut given = Vec::new();
    let mut ids = Vec::new();
    for round in 0..12 {
        let fresh = publish_in_steps(&mut feeder, &mut healthy, 150, 900 + round);
        ids.extend(fresh);
        given.extend(read_some(&mut stalled, &ids[ids.len() - 1], round * 3));
    }
    ids.push(feeder.publish("a", "last"));
    given.extend(read_to(&mut stalled, &ids[ids.len() - 1]));
    covered(&ids, &given);
}

#[test]
fn stalled_subscribers_cost_no_memory_beyond_the_log() {
    let server = Server::with("[log]\nbytes = 1048576\n", &[]);
    let process = server.process();
    let mut feeder = Feeder::connect(&server.feed);
    let mut healthy = Socket::subscribed(server.addr, "channel=a");
    let mut stalled: Vec<Socket> = (0..40).map(|_| subscribe_small(server.addr)).collect();
    publish_in_steps(&mut feeder, &mut healthy, 300, 4000);
    let before = process.resident_bytes();
    publish_in_steps(&mut feeder, &mut healthy, 2000, 4000);
    let grown = process.resident_bytes().saturating_sub(before);
    assert!(grown < 4 * MIB, "{grown}");
    let last = feeder.publish("a", "last");
    for socket in &mut stalled {
        read_to(socket, &last);
    }
}

#[test]
fn close_policy_sends_a_close_frame_to_a_slow_reader() {
    let server = Server::with("[quota]\noverflow = \"close\"\n", &[]);
    let mut feeder = Feeder::connect(&server.feed);
    let mut healthy = Socket::subscribed(server.addr, "channel=a");
    let mut stalled = subscribe_small(server.addr);
    let ids = publish_in_steps(&mut feeder, &mut healthy, 600, 1000);
    server.await_metric("fanfare_subscribers", 1.0);
    // The earlier messages are complete and in order. They are followed by the close frame, or by a
    // reset if the buffer has no room for the close frame.
    let mut next = 0;
    loop {
        match stalled.0.read() {
            Ok(Message::Text(text)) => {
                let value: Value = serde_json::from_str(&text).unwrap();
                assert_eq!(value["id"], ids[next].as_str(), "{value}");
                next += 1;
            }
            Ok(Message::Close(Some(close))) => break assert_eq!(u16::from(close.code), 4100),
            Ok(other) => panic!("{other:?}"),
            Err(_cut) => break,
        }
    }
    assert!(next > 0 && next < 535, "{next}");
    drop(stalled);
    server.await_metric("fanfare_conns_closed_total{reason=\"overflow\"}", 1.0);
}

#[test]
fn close_policy_cuts_off_a_subscriber_that_does_not_read() {
    let server = Server::with("[quota]\noverflow = \"close\"\n", &[]);
    let mut feeder = Feeder::connect(&server.feed);
    let mut healthy = Socket::subscribed(server.addr, "channel=a");
    let socket = subscribe_small(server.addr);
    let stream = stream_small(server.addr);
    server.await_metric("fanfare_subscribers", 3.0);
    publish_in_steps(&mut feeder, &mut healthy, 600, 1000);
    server.await_metric("fanfare_conns_closed_total{reason=\"overflow\"}", 2.0);
    server.await_metric("fanfare_conns", 1.0);
    drop((socket, stream));
}

#[test]
fn kernel_buffers_no_more_for_a_stalled_subscriber_than_configured() {
    let config = "[quota]\nsend_buffer_bytes = 32768\nnotsent_lowat_bytes = 8192\n";
    assert!(sent_to_a_stalled_subscriber(config, 2 * 32_768) > 0);
}

#[test]
fn unsent_bytes_in_the_kernel_stay_below_the_low_water_mark() {
    // The send buffer alone has room for all the data. A write may exceed the low-water mark by one
    // segment of the loopback device.
    let config = "[quota]\nsend_buffer_bytes = 4194304\nnotsent_lowat_bytes = 16384\n";
    assert!(sent_to_a_stalled_subscriber(config, 16_384 + 2 * 65_536) > 0);
}

/// Returns the number of bytes written to a subscriber that does not read. Checks that this number
/// is at most `at_most` plus the size of the client's receive buffer.
fn sent_to_a_stalled_subscriber(config: &str, at_most: usize) -> usize {
    let server = Server::with(config, &["--workers", "1"]);
    let mut feeder = Feeder::connect(&server.feed);
    let stalled = subscribe_small(server.addr);
    let buffered = SockRef::from(stalled.0.get_ref())
        .recv_buffer_size()
        .unwrap();
    let text = "x".repeat(1000);
    for _ in 0..2000 {
        feeder.publish("a", text.as_str());
    }
    within("the socket is full", || {
        (server.metric("fanfare_writes_blocked_total") > 0.5).then_some(())
    });
    let sent = server.metric("fanfare_sent_bytes_total");
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a count of bytes"
    )]
    let sent = sent as usize;
    assert!(
        sent <= at_most + buffered,
        "{sent} of {at_most} and {buffered}"
    );
    sent
}

#[test]
fn idle_websocket_that_answers_pings_stays_open() {
    let server = Server::with("[heartbeat]\ninterval_ms = 200\n", &[]);
    let mut socket = Socket::subscribed(server.addr, "channel=a");
    let mut pings = 0;
    while pings < 6 {
        match socket.0.read().unwrap() {
            Message::Ping(_) => pings += 1,
            other => panic!("{other:?}"),
        }
    }
    let id = Feeder::connect(&server.feed).publish("a", 1);
    assert_eq!(socket.publication()["id"], id.as_str());
}

#[test]
fn idle_websocket_without_pongs_is_closed_and_counted() {
    let server = Server::with("[heartbeat]\ninterval_ms = 300\n", &[]);
    let socket = Socket::subscribed(server.addr, "channel=a");
    let started = Instant::now();
    let mut stream = socket.0.get_ref().try_clone().unwrap();
    let mut received = Vec::new();
    stream.read_to_end(&mut received).unwrap();
    let took = started.elapsed();
    assert!(took >= Duration::from_millis(500), "{took:?}");
    let close = received.len() - 8;
    assert_eq!(received[close..], *b"\x88\x06\x03\xe9idle", "{received:x?}");
    assert!(received[..close].chunks(2).all(|ping| ping == b"\x89\x00"));
    assert!((2..=6).contains(&close), "{received:x?}");
    server.await_metric("fanfare_conns_closed_total{reason=\"idle\"}", 1.0);
}

#[test]
fn heartbeats_of_an_idle_event_stream_are_its_position() {
    let server = Server::with("[heartbeat]\ninterval_ms = 200\n", &[]);
    let mut stream = BufReader::new(connect_small(server.addr));
    stream
        .get_mut()
        .write_all(b"GET /sse?channel=a HTTP/1.0\r\n\r\n")
        .unwrap();
    assert_eq!(Raw::read(&mut stream).status, 200);
    let mut lines = stream.lines().map(|line| line.unwrap());
    let mut next = move |start: &str| lines.find(|line| line.starts_with(start)).unwrap();
    let first = next("id: ");
    for _ in 0..3 {
        assert_eq!(next("event:"), "event:fanfare.position");
        assert_eq!(next("id: "), first);
    }
    // The position of a quiet channel advances with publications of other channels.
    let id = Feeder::connect(&server.feed).publish("b", 1);
    let moved = format!("id: {id}");
    within("the position moves", || {
        (next("id: ") == moved).then_some(())
    });
}

#[test]
fn unreachable_peer_is_closed_while_data_waits() {
    let config = "[heartbeat]\ninterval_ms = 500\n";
    let server = Server::with(config, &[]);
    let socket = subscribe_small(server.addr);
    let stream = stream_small(server.addr);
    server.await_metric("fanfare_subscribers", 2.0);
    let mut feeder = Feeder::connect(&server.feed);
    for _ in 0..300 {
        feeder.publish("a", "x".repeat(2000));
    }
    server.await_metric("fanfare_conns_closed_total{reason=\"idle\"}", 2.0);
    server.await_metric("fanfare_conns", 0.0);
    drop((socket, stream));
}

#[test]
fn heartbeats_of_simultaneous_conns_are_spread() {
    let interval = Duration::from_secs(3);
    let server = Server::with("[heartbeat]\ninterval_ms = 3000\n", &[]);
    let streams: Vec<TcpStream> = (0..200).map(|_| stream_small(server.addr)).collect();
    server.await_metric("fanfare_subscribers", 200.0);
    for stream in &streams {
        stream.set_nonblocking(true).unwrap();
    }
    let mut heads = vec![Vec::new(); streams.len()];
    let mut arrivals: Vec<Instant> = Vec::new();
    within("a heartbeat for each", || {
        for (mut stream, head) in streams.iter().zip(&mut heads) {
            let mut bytes = [0; 1024];
            match stream.read(&mut bytes) {
                Ok(count) => {
                    let had: usize = beats(head);
                    head.extend_from_slice(&bytes[..count]);
                    if had == 0 && beats(head) > 0 {
                        arrivals.push(Instant::now());
                    }
                }
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
        }
        (arrivals.len() == streams.len()).then_some(())
    });
    for (index, first) in arrivals.iter().enumerate() {
        let together = arrivals[index..]
            .iter()
            .take_while(|arrival| **arrival - *first < interval / 10)
            .count();
        // Heartbeats are spread over half the interval. If they are spread evenly, forty of the 200
        // arrive in a tenth of the interval.
        assert!(
            together < 100,
            "{together} of 200 in a tenth of the interval"
        );
    }
}

/// Returns the number of heartbeats in an event stream. Every position after the first one is a
/// heartbeat.
fn beats(received: &[u8]) -> usize {
    let text = str::from_utf8(received).unwrap();
    text.matches("event:fanfare.position\nid: ")
        .count()
        .saturating_sub(1)
}

#[test]
fn feeder_faster_than_the_workers_loses_nothing() {
    let server = Server::start();
    let count = 10_000;
    let readers: Vec<_> = (0..20)
        .map(|_| {
            let mut socket = Socket::subscribed(server.addr, "channel=a");
            thread::spawn(move || {
                let mut given = Vec::new();
                loop {
                    let value = socket.json();
                    if value["type"] == "gap" {
                        given.push(Given::Gap(value));
                        continue;
                    }
                    given.push(Given::Id(value["id"].as_str().unwrap().to_owned()));
                    if value["data"] == count - 1 {
                        return given;
                    }
                }
            })
        })
        .collect();
    let mut feeder = Feeder::connect(&server.feed);
    let lines: String = (0..count)
        .map(|n| format!("{{\"channel\":\"a\",\"data\":{n}}}\n"))
        .collect();
    feeder.write(&lines);
    let last = feeder.publish("b", "behind them all");
    let (epoch, behind) = last.split_once('-').unwrap();
    let first = behind.parse::<u64>().unwrap() - count;
    let ids: Vec<String> = (0..count)
        .map(|n| format!("{epoch}-{}", first + n))
        .collect();
    for reader in readers {
        covered(&ids, &reader.join().unwrap());
    }
    server.await_metric("fanfare_feed_publications_total", 10_001.0);
    server.await_metric("fanfare_publications_total", 10_001.0);
}
