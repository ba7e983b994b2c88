//! Admission control: limits on connections from one source, on connections that have not sent a
//! request, on channels, on client messages, and on memory.
//!
//! In each test one client exceeds a limit, while another subscriber must miss nothing.

use std::io::{BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::handmade::{assert_ends_silently, handshake};
use crate::support::raw::{connect, connect_from};
use crate::support::secure::{Certificate, secured, tls_addr};
use crate::support::socket::frame;
use crate::support::{Feeder, Raw, Server, Socket, within};

/// A subscriber that must receive every publication.
struct Neighbour {
    socket: Socket,
    feeder: Feeder,
    published: u64,
}

impl Neighbour {
    fn new(server: &Server) -> Self {
        Self {
            socket: Socket::subscribed(server.addr, "channel=neighbour"),
            feeder: Feeder::connect(&server.feed),
            published: 0,
        }
    }

    fn check(&mut self) {
        self.published += 1;
        let id = self.feeder.publish("neighbour", self.published);
        let value = self.socket.publication();
        assert_eq!(
            (&value["id"], &value["data"]),
            (&json!(id), &json!(self.published))
        );
    }
}

fn get(mut stream: TcpStream) -> Raw {
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        .unwrap();
    Raw::read(&mut BufReader::new(stream))
}

fn assert_retry_later(response: &Raw, status: u16) {
    response.assert_problem(status);
    let wait: u32 = response.field("retry-after").unwrap().parse().unwrap();
    assert!((1..=60).contains(&wait), "{wait}");
}

#[test]
fn each_source_has_its_own_limit_of_conns() {
    let server = Server::with("[limits]\nconns_per_source = 4\n", &[]);
    let mut neighbour = Neighbour::new(&server);
    let mut kept: Vec<_> = (0..4).map(|_| connect_from(9, server.addr)).collect();
    server.await_metric("fanfare_conns", 5.0);
    for refused in 1..=20 {
        assert_retry_later(&get(connect_from(9, server.addr)), 429);
        let name = "fanfare_conns_refused_total{limit=\"source_conns\"}";
        server.await_metric(name, f64::from(refused));
        neighbour.check();
    }
    assert_eq!(get(connect_from(10, server.addr)).status, 200);
    drop(kept.pop());
    server.await_metric("fanfare_conns", 4.0);
    assert_eq!(get(connect_from(9, server.addr)).status, 200);
    drop(kept);
    drop(neighbour);
    server.await_metric("fanfare_conns", 0.0);
    server.await_metric("fanfare_sources", 0.0);
}

#[test]
fn ipv6_source_is_its_network() {
    let folder = tempfile::tempdir().unwrap();
    let config = "[limits]\nconns_per_source = 1\n";
    let server = Server::in_folder(folder.path(), "[::1]:0", config, &[]).unwrap();
    let kept = connect(server.addr);
    server.await_metric("fanfare_conns", 1.0);
    assert_retry_later(&get(connect(server.addr)), 429);
    drop(kept);
    server.await_metric("fanfare_conns", 0.0);
    assert_eq!(get(connect(server.addr)).status, 200);
}

#[test]
fn source_is_held_to_its_rate_of_connects() {
    let config = "[limits]\nconnects_per_second_per_source = 2\n";
    let server = Server::with(config, &[]);
    let mut neighbour = Neighbour::new(&server);
    let start = Instant::now();
    let statuses: Vec<u16> = (0..60)
        .map(|_| get(connect_from(9, server.addr)).status)
        .collect();
    let served = statuses.iter().filter(|status| **status == 200).count();
    let most = 10 + 2 * (1 + usize::try_from(start.elapsed().as_secs()).unwrap());
    assert!((10..=most).contains(&served), "{served}: {statuses:?}");
    assert!(statuses.iter().all(|status| [200, 429].contains(status)));
    neighbour.check();
    within("the source is served again", || {
        (get(connect_from(9, server.addr)).status == 200).then_some(())
    });
    let name = "fanfare_conns_refused_total{limit=\"source_rate\"}";
    assert!(server.metric(name) >= f64::from(60 - u8::try_from(served).unwrap()));
}

#[test]
fn oldest_of_too_many_pending_conns_is_closed() {
    let server = Server::with("[limits]\npending_conns = 20\n", &["--workers", "1"]);
    let mut neighbour = Neighbour::new(&server);
    let mut silent: Vec<TcpStream> = (0..20)
        .map(|_| {
            let mut stream = connect(server.addr);
            stream.write_all(b"GET / HT").unwrap();
            stream
        })
        .collect();
    server.await_metric("fanfare_conns_pending", 20.0);
    for gone in 1..=30 {
        // A client that sends its request is served. The server closes no other connection to make
        // room for this client.
        assert_eq!(Raw::get(server.addr, "/").status, 200);
        silent.push(connect(server.addr));
        assert_ends_silently(silent.remove(0));
        neighbour.check();
        assert!(server.metric("fanfare_conns_pending") <= 20.0);
        let name = "fanfare_conns_closed_total{reason=\"crowded_out\"}";
        server.await_metric(name, f64::from(gone));
    }
}

#[test]
fn oldest_of_too_many_unfinished_handshakes_is_closed() {
    let folder = tempfile::tempdir().unwrap();
    let certificate = Certificate::make(folder.path(), "one");
    let config = format!("{}[limits]\npending_conns = 5\n", certificate.config());
    let server = Server::with(&config, &["--listen", "127.0.0.1:0 tls", "--workers", "1"]);
    let secure = tls_addr(&server);
    let mut neighbour = Neighbour::new(&server);
    let first = connect(secure);
    let _others: Vec<_> = (0..5)
        .map(|_| {
            let mut stream = connect(secure);
            stream.write_all(&[0x16, 3, 1]).unwrap();
            stream
        })
        .collect();
    assert_ends_silently(first);
    neighbour.check();
}

#[test]
fn websocket_without_a_subscription_in_time_is_closed() {
    let server = Server::with("[limits]\nfirst_subscribe_ms = 500\n", &[]);
    let mut neighbour = Neighbour::new(&server);
    let start = Instant::now();
    let mut silent = Socket::open(server.addr, "");
    assert_eq!(silent.closed(), (1008, String::from("no subscription")));
    let waited = start.elapsed();
    assert!(waited >= Duration::from_millis(400), "{waited:?}");
    assert!(waited < Duration::from_secs(5), "{waited:?}");
    let mut late = Socket::open(server.addr, "");
    late.send(&json!({"type": "subscribe", "channel": "a"}));
    assert_eq!(late.json()["type"], "welcome");
    assert_eq!(late.json()["type"], "subscribed");
    late.send(&json!({"type": "unsubscribe", "channel": "a"}));
    assert_eq!(late.json()["type"], "unsubscribed");
    // Waits until the subscribe deadline of another connection has passed. `late` has subscribed
    // before, so its own deadline does not start again when it unsubscribes.
    let mut silent = Socket::open(server.addr, "");
    assert_eq!(silent.closed(), (1008, String::from("no subscription")));
    neighbour.check();
    late.send(&json!({"type": "ping", "ref": 1}));
    assert_eq!(late.json()["ref"], 1);
    let name = "fanfare_conns_closed_total{reason=\"no_subscription\"}";
    server.await_metric(name, 2.0);
}

#[test]
fn channels_are_limited_for_subscribers_and_not_for_feeders() {
    let server = Server::with("[limits]\nchannels = 5\n", &["--workers", "1"]);
    let mut neighbour = Neighbour::new(&server);
    let mut greedy = Socket::subscribed(server.addr, "channel=c0");
    for number in 1..60 {
        let channel = format!("c{number}");
        greedy.send(&json!({"type": "subscribe", "channel": channel, "ref": number}));
        let answer = greedy.json();
        match number {
            1..=3 => assert_eq!(answer["type"], "subscribed"),
            _ => assert_eq!(
                (&answer["code"], &answer["ref"]),
                (&json!("server_full"), &json!(number))
            ),
        }
        neighbour.check();
    }
    // An existing channel accepts further subscribers.
    Socket::subscribed(server.addr, "channel=c0");
    for path in [
        "/sse?channel=new",
        "/poll?channel=new",
        "/poll?channel=new&timeout=0",
    ] {
        assert_retry_later(&Raw::get(server.addr, path), 503);
    }
    server.await_metric("fanfare_subscriptions_refused_total", 59.0);
    server.await_metric("fanfare_channels", 5.0);
    neighbour.feeder.publish("another", 1);
    neighbour.check();
    server.await_metric("fanfare_channels", 5.0);
    greedy.send(&json!({"type": "unsubscribe", "channel": "c1"}));
    assert_eq!(greedy.json()["type"], "unsubscribed");
    greedy.send(&json!({"type": "subscribe", "channel": "another"}));
    assert_eq!(greedy.json()["type"], "subscribed");
}

#[test]
fn limit_of_channels_is_exact_over_workers_and_ignores_what_the_log_keeps() {
    const MOST: usize = 40;
    const EACH: usize = 20;
    let namespace = "[[namespace]]\nmatch = \"pub:*\"\nclient_publish = \"broadcast\"\n";
    let config = format!("[limits]\nchannels = {MOST}\n{namespace}");
    let server = Server::with(&config, &["--workers", "2"]);
    let mut publisher = Socket::open(server.addr, "");
    assert_eq!(publisher.json()["type"], "welcome");
    for number in 0..4 * MOST {
        let channel = format!("pub:{number}");
        publisher.send(&json!({"type": "publish", "channel": channel, "data": 1, "ref": number}));
        assert_eq!(publisher.json()["type"], "ok");
    }
    server.await_metric("fanfare_channels", 0.0);
    let start = Barrier::new(8);
    let subscribe = |thread: usize| {
        let mut socket = Socket::open(server.addr, "");
        assert_eq!(socket.json()["type"], "welcome");
        start.wait();
        let subscribed: Vec<String> = (0..EACH)
            .map(|number| format!("own:{thread}:{number}"))
            .filter(|channel| {
                socket.send(&json!({"type": "subscribe", "channel": channel}));
                let answer = socket.json();
                let is_refused = answer["code"] == "server_full";
                assert!(is_refused || answer["type"] == "subscribed", "{answer}");
                !is_refused
            })
            .collect();
        (socket, subscribed)
    };
    let conns: Vec<(Socket, Vec<String>)> = thread::scope(|scope| {
        let mut threads = Vec::new();
        threads.extend((0..8).map(|thread| scope.spawn(move || subscribe(thread))));
        threads.into_iter().map(|one| one.join().unwrap()).collect()
    });
    let subscribed: Vec<&String> = conns.iter().flat_map(|(_, own)| own).collect();
    assert_eq!(subscribed.len(), MOST);
    server.await_metric("fanfare_channels", MOST as f64);
    assert_retry_later(&Raw::get(server.addr, "/poll?channel=pub:1"), 503);
    // Each channel accepts further subscribers on every worker.
    for channel in subscribed {
        let poll = Raw::get(server.addr, &format!("/poll?channel={channel}&timeout=0"));
        assert_eq!(poll.status, 200, "{channel}");
    }
    drop(conns);
    server.await_metric("fanfare_channels", 0.0);
    let poll = Raw::get(server.addr, "/poll?channel=pub:1&timeout=0");
    assert_eq!(poll.status, 200);
}

/// Sends a frame many times. Returns the time until all of these frames were answered.
fn flood(config: &str, message: &[u8], count: usize) -> (Server, Duration) {
    let server = Server::with(config, &["--workers", "1"]);
    let mut neighbour = Neighbour::new(&server);
    let mut socket = Socket::subscribed(server.addr, "channel=a");
    let start = Instant::now();
    let mut writer = socket.0.get_ref().try_clone().unwrap();
    let frames = frame(0x81, message).repeat(count);
    let writing = thread::spawn(move || writer.write_all(&frames).unwrap());
    for number in 0..count {
        assert_eq!(socket.json()["ref"], 1);
        if number % 10 == 0 {
            neighbour.check();
        }
    }
    writing.join().unwrap();
    assert!(server.metric("fanfare_client_reads_paused_total") >= 1.0);
    (server, start.elapsed())
}

/// Writes all bytes at once. Reads until `count` answers have arrived, and checks that their
/// references are in order.
fn answers_in_order(mut stream: impl Read + Write, sent: &[u8], count: usize) {
    stream.write_all(sent).unwrap();
    let mut answers = Vec::new();
    let references = |answers: &[u8]| -> Vec<usize> {
        let text = String::from_utf8_lossy(answers);
        let fields = text.split("\"ref\":").skip(1);
        let numbers = fields.filter_map(|field| {
            // The digits of the last `ref` may not have arrived completely.
            let end = field.find(|c: char| !c.is_ascii_digit())?;
            field[..end].parse().ok()
        });
        numbers.collect()
    };
    while references(&answers).len() < count {
        let mut piece = [0; 4096];
        let length = stream.read(&mut piece).unwrap();
        assert!(length > 0, "it has ended");
        answers.extend_from_slice(&piece[..length]);
    }
    assert!(references(&answers).into_iter().eq(0..count));
}

#[test]
fn commands_sent_at_once_are_answered_in_order_with_others_served_between() {
    const COUNT: usize = 300;
    let folder = tempfile::tempdir().unwrap();
    let certificate = Certificate::make(folder.path(), "localhost");
    let flags = ["--listen", "127.0.0.1:0 tls", "--workers", "1"];
    let server = Server::with(&certificate.config(), &flags);
    let mut neighbour = Neighbour::new(&server);
    let since = neighbour.feeder.publish("big", 1);
    let commands = (0..COUNT).flat_map(|number| {
        let kind = ["subscribe", "unsubscribe"][number % 2];
        let since = [format!(",\"since\":\"{since}\""), String::new()];
        let rest = format!("\"channel\":\"big\",\"ref\":{number}{}", since[number % 2]);
        frame(0x81, format!("{{\"type\":\"{kind}\",{rest}}}").as_bytes())
    });
    let mut sent = handshake("");
    sent.extend(commands);
    thread::scope(|scope| {
        let plain = scope.spawn(|| answers_in_order(connect(server.addr), &sent, COUNT));
        let tls = scope.spawn(|| {
            let stream = secured(tls_addr(&server), &certificate.trusting());
            answers_in_order(stream, &sent, COUNT);
        });
        while !plain.is_finished() || !tls.is_finished() {
            neighbour.check();
        }
    });
    // Pipelined polls are also answered in the order of the requests.
    let mut polls = BufReader::new(connect(server.addr));
    let poll = format!("GET /poll?channel=big&since={since}&timeout=0 HTTP/1.1\r\nHost: a\r\n\r\n");
    let stream = polls.get_mut();
    stream.write_all(poll.repeat(COUNT).as_bytes()).unwrap();
    for _ in 0..COUNT {
        assert_eq!(Raw::read(&mut polls).status, 200);
        neighbour.check();
    }
}

#[test]
fn frames_beyond_the_rate_are_delayed_and_not_lost() {
    let config = "[limits]\nclient_frames_per_second = 50\n";
    let (_server, took) = flood(config, br#"{"type":"ping","ref":1}"#, 200);
    assert!(took > Duration::from_millis(2500), "{took:?}");
    assert!(took < Duration::from_secs(10), "{took:?}");
}

#[test]
fn frames_that_arrive_with_the_handshake_count_for_the_rate_behind_a_proxy_too() {
    for proxy in ["", "[proxy]\ntrusted = [\"127.0.0.1\", \"::1\"]\n"] {
        let config = format!("{proxy}[limits]\nclient_frames_per_second = 10\n");
        let server = Server::with(&config, &["--workers", "1"]);
        let mut sent = handshake("channel=a");
        sent.extend(frame(0x8a, b"").repeat(30));
        let mut client = connect(server.addr);
        client.write_all(&sent).unwrap();
        server.await_metric("fanfare_client_reads_paused_total", 1.0);
    }
}

#[test]
fn bytes_beyond_the_rate_are_delayed_and_not_lost() {
    let config = "[limits]\nclient_bytes_per_second = 20000\n";
    let padding = " ".repeat(970);
    let message = format!("{{\"type\":\"ping\",\"ref\":1{padding}}}");
    let (_server, took) = flood(config, message.as_bytes(), 80);
    assert!(took > Duration::from_millis(2000), "{took:?}");
    assert!(took < Duration::from_secs(10), "{took:?}");
}

#[test]
fn client_paused_for_longer_than_its_heartbeats_is_not_closed() {
    let config = "[limits]\nclient_frames_per_second = 1\n[heartbeat]\ninterval_ms = 300\n";
    let server = Server::with(config, &["--workers", "1"]);
    let mut socket = Socket::subscribed(server.addr, "channel=a");
    // The server reads two messages at a time. The pause after two messages is longer than the time
    // after which a silent peer is closed.
    socket.send_raw(&frame(0x81, br#"{"type":"ping","ref":1}"#).repeat(6));
    let start = Instant::now();
    for _ in 0..6 {
        assert_eq!(socket.json()["ref"], 1);
    }
    let took = start.elapsed();
    assert!(took > Duration::from_secs(3), "{took:?}");
    server.await_metric("fanfare_conns", 1.0);
}

#[test]
fn new_conns_are_refused_and_open_ones_stay_when_memory_is_short() {
    const LIMIT: u64 = 60 * 1024 * 1024;
    let config = format!(
        "[limits]\nmemory_bytes = {LIMIT}\n[log]\nbytes = 268435456\nage_ms = 4000\n\
         [quota]\nbehind_bytes = 268435456\n"
    );
    let server = Server::with(&config, &["--workers", "1"]);
    let mut neighbour = Neighbour::new(&server);
    assert!((server.metric("fanfare_memory_limit_bytes") - 62_914_560.0).abs() < 0.5);
    let fill = "x".repeat(1_000_000);
    let mut published = 0;
    let refused = within("a refusal for lack of memory", || {
        if published < 150 {
            published += 1;
            neighbour.feeder.publish("heap", fill.clone());
        }
        neighbour.check();
        let response = get(connect(server.addr));
        (response.status != 200).then_some(response)
    });
    assert_retry_later(&refused, 503);
    neighbour.check();
    assert!(server.metric("fanfare_memory_bytes") > 62_914_560.0);
    assert!(server.metric("fanfare_conns_refused_total{limit=\"memory\"}") >= 1.0);
}

#[test]
fn memory_of_the_system_is_watched_without_a_cgroup_limit() {
    let server = Server::start();
    let total = std::fs::read_to_string("/proc/meminfo").unwrap();
    let total = total
        .lines()
        .next()
        .unwrap()
        .split_whitespace()
        .nth(1)
        .unwrap();
    let total = total.parse::<f64>().unwrap() * 1024.0;
    let limit = server.metric("fanfare_memory_limit_bytes");
    assert!(limit > 0.0 && limit <= 0.91 * total, "{limit} of {total}");
    assert!(server.metric("fanfare_memory_bytes") > 0.0);
}
