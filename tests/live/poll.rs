//! Long and short polls, sent by hand, with curl, with Python's own client, and with `fanfare
//! subscribe`. One client also changes its transport.

use std::io::{BufReader, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::raw::connect;
use crate::support::{Feeder, Lines, Raw, Server, Socket, fanfare, within};

const WAITING: &str = "fanfare_streams{transport=\"long_poll\"}";

/// A connection on which a client polls.
struct Poller {
    stream: BufReader<TcpStream>,
    host: SocketAddr,
}

impl Poller {
    fn connect(addr: SocketAddr) -> Self {
        Self {
            stream: BufReader::new(connect(addr)),
            host: addr,
        }
    }

    fn ask(&mut self, query: &str, fields: &str) {
        let host = self.host;
        let request = format!("GET /poll?{query} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n");
        self.stream.get_mut().write_all(request.as_bytes()).unwrap();
    }

    fn answer(&mut self) -> (Raw, Value) {
        let response = Raw::read(&mut self.stream);
        assert_eq!(response.status, 200, "{response:?}");
        assert_eq!(response.field("content-type"), Some("application/json"));
        let answer: Value = serde_json::from_slice(&response.body).unwrap();
        let tag = format!("\"{}\"", answer["id"].as_str().unwrap());
        assert_eq!(response.field("etag"), Some(tag.as_str()));
        let gap = response.field("fanfare-gap") == Some("1");
        assert_eq!(answer["gap"], gap);
        (response, answer)
    }

    fn poll(&mut self, query: &str) -> Value {
        self.ask(query, "");
        self.answer().1
    }

    fn has_ended(&mut self) -> bool {
        self.stream.read(&mut [0; 1]).unwrap() == 0
    }
}

/// Returns the current position of a channel.
fn position(server: &Server, channel: &str) -> String {
    let answer = Poller::connect(server.addr).poll(&format!("channel={channel}"));
    assert_eq!(answer["publications"], Value::Array(Vec::new()));
    answer["id"].as_str().unwrap().to_owned()
}

fn ids(answer: &Value) -> Vec<&str> {
    let publications = answer["publications"].as_array().unwrap();
    publications
        .iter()
        .map(|publication| publication["id"].as_str().unwrap())
        .collect()
}

#[test]
fn long_poll_waits_on_two_channels_and_the_conn_is_reused() {
    let server = Server::start();
    let mut feeder = Feeder::connect(&server.feed);
    let mut since = position(&server, "a");
    let mut poller = Poller::connect(server.addr);
    for channel in ["a", "b", "a"] {
        poller.ask(&format!("channel=a&channel=b&since={since}&timeout=20"), "");
        server.await_metric(WAITING, 1.0);
        feeder.publish("elsewhere", 0);
        let id = feeder.publish(channel, 1);
        let (_, answer) = poller.answer();
        assert_eq!(ids(&answer), [id.as_str()]);
        assert_eq!(answer["publications"][0]["channel"], channel);
        since = id;
    }
    server.await_metric(WAITING, 0.0);
    let news = server.metric("fanfare_poll_answers_total{outcome=\"news\"}");
    assert!((news - 3.0).abs() < 0.5);
    assert!((server.metric("fanfare_deliveries_total") - 3.0).abs() < 0.5);
}

#[test]
fn answers_have_everything_in_order_and_join_without_a_hole() {
    let server = Server::start();
    let mut feeder = Feeder::connect(&server.feed);
    let mut since = position(&server, "a");
    let published: Vec<String> = (0..300)
        .map(|n| feeder.publish(["a", "b"][n % 2], "x".repeat(n * 7)))
        .collect();
    let mut poller = Poller::connect(server.addr);
    let mut seen = Vec::new();
    while seen.len() < published.len() {
        let answer = poller.poll(&format!("channel=a&channel=b&since={since}&timeout=0"));
        assert!(!ids(&answer).is_empty(), "nothing behind {since}");
        seen.extend(ids(&answer).into_iter().map(str::to_owned));
        since = answer["id"].as_str().unwrap().to_owned();
        assert_eq!(seen.last(), Some(&since));
    }
    assert_eq!(seen, published);
}

#[test]
fn pipelined_polls_are_answered_one_by_one() {
    let server = Server::start();
    let mut feeder = Feeder::connect(&server.feed);
    let since = position(&server, "a");
    let mut poller = Poller::connect(server.addr);
    let query = format!("channel=a&since={since}");
    poller.ask(&query, "");
    poller.ask(&format!("{query}&envelope=data"), "");
    poller.ask(&format!("{query}&timeout=0"), "Connection: close\r\n");
    server.await_metric(WAITING, 1.0);
    feeder.publish("a", 17);
    assert_eq!(poller.answer().1["publications"][0]["data"], 17);
    assert_eq!(poller.answer().1["publications"][0], 17);
    let (response, answer) = poller.answer();
    assert_eq!(answer["publications"][0]["data"], 17);
    assert_eq!(response.field("connection"), Some("close"));
    assert!(poller.has_ended());
}

#[test]
fn poll_times_out_with_the_position() {
    let server = Server::with("[limits]\npoll_timeout_ms = 300\n", &[]);
    let since = position(&server, "a");
    let head = Feeder::connect(&server.feed).publish("elsewhere", 1);
    let mut poller = Poller::connect(server.addr);
    for timeout in ["", "&timeout=1000"] {
        let asked = Instant::now();
        let answer = poller.poll(&format!("channel=a&since={since}{timeout}"));
        assert!(asked.elapsed() >= Duration::from_millis(290));
        assert_eq!(answer["id"], head.as_str());
        assert_eq!(answer["publications"], Value::Array(Vec::new()));
    }
}

#[test]
fn short_poll_without_news_is_not_modified() {
    let server = Server::start();
    let since = position(&server, "a");
    let mut poller = Poller::connect(server.addr);
    let query = format!("channel=a&timeout=0&since={since}");
    let answer = poller.poll(&query);
    assert_eq!(answer["id"], since.as_str());
    for tag in [
        format!("\"{since}\""),
        format!("W/\"{since}\", \"x\""),
        format!("\"x\", W/\"{since}-gzip\""),
        format!("\"{since};br\""),
        format!("\"x\"\r\nIf-None-Match: \"y\", \"{since}--gzip\""),
        "*".into(),
    ] {
        poller.ask(&query, &format!("If-None-Match: {tag}\r\n"));
        let response = Raw::read(&mut poller.stream);
        assert_eq!(response.status, 304);
        assert_eq!(response.field("etag"), Some(&*format!("\"{since}\"")));
    }
    let id = Feeder::connect(&server.feed).publish("a", 1);
    poller.ask(&query, &format!("If-None-Match: \"{since}\"\r\n"));
    assert_eq!(ids(&poller.answer().1), [id.as_str()]);
}

#[test]
fn gap_is_reported_for_evicted_and_for_unknown_ids() {
    let server = Server::with("[log]\nentries = 2\n", &["--workers", "1"]);
    let mut feeder = Feeder::connect(&server.feed);
    let since = position(&server, "a");
    let all: Vec<String> = (0..5).map(|n| feeder.publish("a", n)).collect();
    let mut poller = Poller::connect(server.addr);
    let answer = poller.poll(&format!("channel=a&since={since}"));
    assert_eq!(answer["gaps"][0]["cause"], "expired");
    assert_eq!(answer["gaps"][0]["since"], since.as_str());
    assert_eq!(answer["gaps"][0]["until"], all[2].as_str());
    assert_eq!(ids(&answer), [all[3].as_str(), all[4].as_str()]);
    for (foreign, cause) in [
        ("nonsense", "unknown"),
        (&since.replace("-0", "-999"), "unknown"),
        (&since.replace("-0", "-00"), "unknown"),
    ] {
        let answer = poller.poll(&format!("channel=a&since={foreign}"));
        assert_eq!(answer["gaps"][0]["cause"], cause, "{foreign}");
        assert_eq!(answer["gaps"][0]["channel"], "a");
        assert_eq!(answer["id"], all[4].as_str());
        assert_eq!(answer["publications"], Value::Array(Vec::new()));
    }
}

fn number(id: &Value) -> u64 {
    let (_, number) = id.as_str().unwrap().split_once('-').unwrap();
    number.parse().unwrap()
}

/// A gap: its channel, its ends, and its number of missing publications.
type Gap = (String, u64, u64, Option<u64>);

/// Polls from a position to the last publication. Sends each request twice, as a client does that
/// has lost the first answer. Returns the publications and the gaps.
fn poll_to_the_end(
    server: &Server,
    query: &str,
    mut since: String,
    last: u64,
) -> (Vec<u64>, Vec<Gap>) {
    let mut poller = Poller::connect(server.addr);
    let (mut given, mut gaps) = (Vec::new(), Vec::new());
    loop {
        let query = format!("{query}&since={since}");
        let answer = poller.poll(&query);
        assert_eq!(
            poller.poll(&query),
            answer,
            "nothing is lost with an answer"
        );
        let id = number(&answer["id"]);
        for gap in answer["gaps"].as_array().into_iter().flatten() {
            let until = number(&gap["until"]);
            assert!(until <= id, "{gap} in an answer up to {id}");
            let channel = gap["channel"].as_str().unwrap().to_owned();
            gaps.push((
                channel,
                number(&gap["since"]),
                until,
                gap["missed"].as_u64(),
            ));
        }
        let publications = answer["publications"].as_array().unwrap();
        given.extend(
            publications
                .iter()
                .map(|publication| number(&publication["id"])),
        );
        if id >= last {
            return (given, gaps);
        }
        since = answer["id"].as_str().unwrap().to_owned();
    }
}

#[test]
fn each_publication_is_delivered_or_in_one_gap_over_successive_polls() {
    const QUOTA: &str = "[quota]\nbehind_publications = 50\n";
    for (rules, bytes, is_counted) in [
        ("overflow = \"conflate\"", 1, true),
        ("overflow = \"conflate\"", 3000, true),
        ("log_entries = 4", 1, false),
        ("log_entries = 4", 3000, false),
        ("log_entries = 20\noverflow = \"conflate\"", 1, false),
    ] {
        let toml = format!("{QUOTA}[[namespace]]\nmatch = \"c\"\n{rules}\n");
        let server = Server::with(&toml, &["--workers", "1"]);
        let mut feeder = Feeder::connect(&server.feed);
        let since = feeder.publish("d", 0);
        let mut published = Vec::new();
        for n in 0..300 {
            // Most publications of `d` come before most publications of `c`.
            let channel = if n > 250 || n % 9 == 0 { "c" } else { "d" };
            let key = ["k", "l"][n % 2];
            let text = "x".repeat(bytes);
            feeder.send(&json!({"channel": channel, "text": text, "key": key, "ack": true}));
            published.push((channel, number(&feeder.answer()["id"])));
        }
        let (_, last) = published[published.len() - 1];
        for timeout in [0, 20] {
            let query = format!("channel=c&channel=d&timeout={timeout}");
            let (given, gaps) = poll_to_the_end(&server, &query, since.clone(), last);
            assert!(!gaps.is_empty(), "{rules}");
            for (channel, id) in &published {
                let times = given.iter().filter(|given| *given == id).count();
                let found = gaps
                    .iter()
                    .filter(|(of, since, until, _)| of == channel && since < id && id <= until);
                assert_eq!(
                    times + found.count(),
                    1,
                    "{id} of {channel}, {rules}: {gaps:?}"
                );
            }
            for (of, since, until, missed) in &gaps {
                let lies_in =
                    |(channel, id): &&(&str, u64)| channel == of && since < id && id <= until;
                let count = published.iter().filter(lies_in).count() as u64;
                assert!(missed.is_none_or(|missed| missed == count), "{gaps:?}");
                assert!(missed.is_some() || !is_counted, "{gaps:?}");
            }
        }
    }
}

#[test]
fn position_of_an_earlier_epoch_gets_the_whole_log_on_all_transports() {
    // The quota on undelivered publications does not include publications that are replayed from
    // the log.
    let toml = "[quota]\nbehind_publications = 2\n[[namespace]]\nmatch = \"c\"\nlog_entries = 5\n";
    let server = Server::with(toml, &["--workers", "1"]);
    let mut feeder = Feeder::connect(&server.feed);
    let ids_of = |all: &[String], from: usize| -> Vec<String> {
        all.iter().skip(from).step_by(2).cloned().collect()
    };
    let all: Vec<String> = (0..40)
        .map(|n| feeder.publish(["a", "c"][n % 2], n))
        .collect();
    let (in_a, in_c) = (ids_of(&all, 0), ids_of(&all, 31));
    let since = "0123456789ab-7";
    for (channel, has) in [("a", &in_a), ("c", &in_c)] {
        let first = number(&json!(has[0]));
        let check_gap = |gap: &Value| {
            assert_eq!(gap["cause"], "restart");
            assert_eq!(
                (&gap["channel"], &gap["since"]),
                (&json!(channel), &json!(since))
            );
            assert_eq!(
                (number(&gap["until"]), &gap["missed"]),
                (first - 1, &Value::Null)
            );
        };
        for timeout in [0, 20] {
            let query = format!("channel={channel}&timeout={timeout}&since={since}");
            let answer = Poller::connect(server.addr).poll(&query);
            assert_eq!(ids(&answer), *has, "{answer}");
            assert_eq!(answer["gaps"].as_array().unwrap().len(), 1);
            check_gap(&answer["gaps"][0]);
            assert_eq!(answer["id"], *has.last().unwrap());
        }

        let mut socket = Socket::open(server.addr, "");
        assert_eq!(socket.json()["type"], "welcome");
        socket.send(&json!({"type": "subscribe", "channel": channel, "since": since}));
        let mut messages: Vec<Value> = (0..2).map(|_| socket.json()).collect();
        messages.sort_by_key(|message| message["type"] == "subscribed");
        check_gap(&messages[0]);
        assert_eq!(messages[1]["recovered"], false);
        assert_eq!(messages[1]["id"], messages[0]["until"]);
        for id in has {
            assert_eq!(socket.publication()["id"], **id);
        }

        let target = format!("/sse?channel={channel}&since={since}");
        let mut stream = Lines::curl([server.url(&target)]);
        stream.until("event: fanfare.gap");
        let data = stream.until("data: ");
        check_gap(&serde_json::from_str(&data["data: ".len()..]).unwrap());
        let position = format!("id: {}", json!(first - 1));
        assert!(stream.until("id: ").ends_with(&position["id: ".len()..]));
        for id in has {
            assert_eq!(stream.until("id: "), format!("id: {id}"));
        }
    }
    let query = format!("channel=a&channel=c&channel=quiet&timeout=0&since={since}");
    let answer = Poller::connect(server.addr).poll(&query);
    assert_eq!(answer["gaps"].as_array().unwrap().len(), 3);
    let mut both = [in_a, in_c].concat();
    both.sort_by_key(|id| number(&json!(id)));
    assert_eq!(ids(&answer), both);
}

#[test]
fn long_poll_passes_more_expired_publications_than_one_answer_examines() {
    let server = Server::with("", &["--workers", "1"]);
    let mut feeder = Feeder::connect(&server.feed);
    let since = feeder.publish("a", 0);
    for n in 0..4100 {
        feeder.send(&json!({"channel": "a", "data": n, "ttl_ms": 1}));
    }
    let id = feeder.publish("a", 1);
    let (epoch, number) = id.split_once('-').unwrap();
    let before = number.parse::<u64>().unwrap() - 2;
    let mut poller = Poller::connect(server.addr);
    within("all before it have expired", || {
        let newest = poller.poll(&format!("channel=a&since={epoch}-{before}&timeout=0"));
        (ids(&newest) == [id.as_str()]).then_some(())
    });
    let query = format!("channel=a&channel=quiet&since={since}&timeout=100");
    assert_eq!(ids(&poller.poll(&query)), [id.as_str()]);
}

#[test]
fn event_stream_sends_its_position_after_a_gap() {
    let toml = "[quota]\nbehind_publications = 2\noverflow = \"conflate\"\n";
    let server = Server::with(toml, &["--workers", "1"]);
    let mut feeder = Feeder::connect(&server.feed);
    let since = feeder.publish("c", 0);
    for n in 0..9 {
        feeder.send(&json!({"channel": "c", "data": n, "key": "k", "ack": true}));
        feeder.answer();
    }
    let mut stream = Lines::curl([server.url(&format!("/sse?channel=c&since={since}"))]);
    stream.until(&format!("id: {since}"));
    stream.until("event: fanfare.gap");
    let gap = stream.until("data: ");
    stream.until("event:fanfare.position");
    let position = stream.until("id: ")["id: ".len()..].to_owned();
    assert!(
        gap.contains(&format!("\"until\":\"{position}\"")),
        "{gap} {position}"
    );
}

#[test]
fn half_closed_client_is_answered_at_once() {
    let server = Server::start();
    let since = position(&server, "a");
    let mut poller = Poller::connect(server.addr);
    poller.ask(&format!("channel=a&since={since}&timeout=100"), "");
    server.await_metric(WAITING, 1.0);
    poller.stream.get_ref().shutdown(Shutdown::Write).unwrap();
    let (response, answer) = poller.answer();
    assert_eq!(answer["id"], since.as_str());
    assert_eq!(response.field("connection"), Some("close"));
    assert!(poller.has_ended());
    server.await_metric("fanfare_conns_closed_total{reason=\"peer_gone\"}", 0.0);
}

#[test]
fn waiting_client_that_disconnects_is_removed() {
    let server = Server::start();
    let since = position(&server, "a");
    let mut poller = Poller::connect(server.addr);
    poller.ask(&format!("channel=a&since={since}&timeout=100"), "");
    server.await_metric(WAITING, 1.0);
    drop(poller);
    server.await_metric(WAITING, 0.0);
    server.await_metric("fanfare_subscribers", 0.0);
    server.await_metric("fanfare_conns", 0.0);
}

#[test]
fn shutdown_answers_waiting_polls_and_closes_after_the_answer() {
    let mut server = Server::with("[drain]\nwindow_ms = 500\n", &[]);
    let since = position(&server, "a");
    let mut poller = Poller::connect(server.addr);
    poller.ask(&format!("channel=a&since={since}&timeout=100"), "");
    server.await_metric(WAITING, 1.0);
    server.signal("TERM");
    let (response, answer) = poller.answer();
    assert_eq!(answer["id"], since.as_str());
    assert_eq!(response.field("connection"), Some("close"));
    assert!(poller.has_ended());
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn unread_answer_closes_the_conn_after_two_heartbeats() {
    let config = "[heartbeat]\ninterval_ms = 200\n[quota]\nwrite_bytes_per_turn = 16777216\n\
                  [limits]\nfeed_line_bytes = 16777216\n";
    let server = Server::with(config, &[]);
    let mut feeder = Feeder::connect(&server.feed);
    let since = position(&server, "a");
    let mut poller = Poller::connect(server.addr);
    feeder.publish("a", "x".repeat(12_000_000));
    poller.ask(&format!("channel=a&since={since}"), "");
    server.await_metric("fanfare_conns_closed_total{reason=\"idle\"}", 1.0);
    // The answer is correct up to the byte at which it stops, and the server sends nothing after
    // that byte.
    let mut rest = Vec::new();
    let _ = poller.stream.read_to_end(&mut rest);
    assert!(rest.starts_with(b"HTTP/1.1 200 ") && rest.len() < 12_000_000);
}

#[test]
fn curl_polls_with_get_and_head() {
    let server = Server::start();
    let since = position(&server, "a");
    Feeder::connect(&server.feed).publish("a", "ünï");
    let curl = |args: &[&str]| {
        let output = Command::new("curl")
            .args(["-sS", "--max-time", "20"])
            .args(args)
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let url = server.url(&format!("/poll?channel=a&since={since}&envelope=data"));
    let answer: Value = serde_json::from_str(&curl(&[&url])).unwrap();
    assert_eq!(answer["publications"][0], "ünï");
    let answer = curl(&["--http1.0", "-i", &url]);
    assert!(answer.contains("\r\nConnection: close\r\n"), "{answer}");
    let head = curl(&["-I", &url]);
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert!(head.contains("\r\nContent-Type: application/json\r\n"));
}

#[test]
fn subscribe_polls_again_after_a_timeout_and_after_a_publication() {
    let server = Server::with("[limits]\npoll_timeout_ms = 200\n", &[]);
    let url = server.url("/poll?channel=a");
    let mut peer = Lines::run(fanfare().args([
        "subscribe",
        &url,
        "--count",
        "3",
        "--verbose",
        "--timeout",
        "20",
    ]));
    server.await_metric(WAITING, 1.0);
    let mut feeder = Feeder::connect(&server.feed);
    for n in 0..3 {
        feeder.publish("a", n);
        assert_eq!(peer.json()["data"], n);
    }
    assert!(peer.wait().success(), "{}", peer.stderr());
}

#[test]
fn client_changes_between_all_transports_and_loses_nothing() {
    let server = Server::start();
    let mut feeder = Feeder::connect(&server.feed);
    let mut published = vec![position(&server, "a")];
    let mut publish = |published: &mut Vec<String>| {
        for channel in ["a", "b"] {
            published.push(feeder.publish(channel, published.len()));
        }
    };
    let mut seen = vec![published[0].clone()];
    let last = |seen: &[String]| seen.last().unwrap().clone();
    for _round in 0..3 {
        publish(&mut published);
        let query = format!("channel=a&channel=b&since={}", last(&seen));
        let mut stream = Lines::curl([server.url(&format!("/sse?{query}"))]);
        stream.until("id: ");
        publish(&mut published);
        while seen.len() < published.len() {
            seen.push(stream.until("id: ")["id: ".len()..].to_owned());
        }
        drop(stream);
        publish(&mut published);
        let query = format!("channel=a&channel=b&since={}", last(&seen));
        let answer = Poller::connect(server.addr).poll(&query);
        seen.extend(ids(&answer).into_iter().map(str::to_owned));
        publish(&mut published);
        let query = format!("channel=a&channel=b&since={}", last(&seen));
        let mut socket = Socket::subscribed(server.addr, &query);
        publish(&mut published);
        while seen.len() < published.len() {
            let id = socket.publication()["id"].as_str().unwrap().to_owned();
            seen.push(id);
        }
        drop(socket);
        publish(&mut published);
        let query = format!("channel=a&channel=b&timeout=0&since={}", last(&seen));
        let answer = Poller::connect(server.addr).poll(&query);
        seen.extend(ids(&answer).into_iter().map(str::to_owned));
        assert_eq!(seen, published);
    }
}

#[test]
fn one_publication_answers_many_waiting_polls() {
    let server = Server::start();
    let since = position(&server, "a");
    let mut pollers: Vec<Poller> = (0..500).map(|_| Poller::connect(server.addr)).collect();
    for poller in &mut pollers {
        poller.ask(&format!("channel=a&since={since}&timeout=60"), "");
    }
    server.await_metric(WAITING, 500.0);
    let id = Feeder::connect(&server.feed).publish("a", 1);
    for poller in &mut pollers {
        assert_eq!(ids(&poller.answer().1), [id.as_str()]);
    }
    within("the end of all", || {
        (server.metric(WAITING) < 0.5).then_some(())
    });
}
