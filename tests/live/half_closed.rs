//! Clients that send FIN directly after their requests and continue to read (RFC 9112, 9.6), on
//! every socket of the server, with and without TLS.
//!
//! The server is stopped while the clients send, so that it always finds the requests and FIN
//! together.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;

use crate::support::raw::{connect, connect_small};
use crate::support::secure::{Certificate, Secured, secured, tls_addr};
use crate::support::{Feeder, PATIENCE, Server};

/// The header fields of a valid WebSocket handshake.
const UPGRADE: &str = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// The close frame to a WebSocket client that has sent FIN.
const CLOSE: &str = "\u{88}\u{e}\u{3}\u{e8}end of input";

fn get(target: &str, fields: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: h\r\n{fields}\r\n")
}

/// Starts a server with two publications in channel `a`. Returns the server and the id of the first
/// publication.
fn started(config: &str, flags: &[&str]) -> (Server, String) {
    let server = Server::with(config, flags);
    let mut feeder = Feeder::connect(&server.feed);
    let first = feeder.publish("a", "first");
    feeder.publish("a", "second");
    (server, first)
}

/// A sequence of requests and the expected response: its statuses, a text in it, and its end.
struct Case {
    requests: String,
    statuses: &'static str,
    has: &'static str,
    end: &'static str,
}

fn cases(since: &str) -> Vec<Case> {
    let case = |requests, statuses, has, end| Case {
        requests,
        statuses,
        has,
        end,
    };
    let stream = format!("/sse?channel=a&since={since}");
    let socket = format!("/ws?channel=a&since={since}");
    let http10 = format!("GET {stream} HTTP/1.0\r\n\r\n");
    let new = get("/poll?channel=a&timeout=10", "");
    let long = get(&format!("/poll?channel=empty&since={since}&timeout=10"), "");
    let short = get(&format!("/poll?channel=a&since={since}&timeout=0"), "");
    let page = get("/", "");
    let pipelined = [
        &page[..],
        &long,
        &short,
        &get("/none", ""),
        &get(&stream, ""),
    ]
    .concat();
    vec![
        case(page, "200", "Connection: ", "</html>\n"),
        case(get("/none", ""), "404", "not_found", "}\n"),
        case(get("/ws?channel=a", ""), "426", "upgrade_required", "}\n"),
        case(String::from("nonsense"), "", "", ""),
        case(String::from("\u{3}nonsense"), "400", "not_http", "}\n"),
        case(new, "200", "\"publications\":[", "]}"),
        case(long, "200", "Connection: close", "]}"),
        case(short, "200", "\"second\"", "]}"),
        case(get(&stream, ""), "200", "data: \"second\"\n\n", "0\r\n\r\n"),
        case(get("/sse?channel=b", ""), "200", "retry: ", "0\r\n\r\n"),
        case(http10, "200", "id: ", "data: \"second\"\n\n"),
        case(get(&socket, UPGRADE), "101", "\"data\":\"second\"", CLOSE),
        case(
            pipelined,
            "200 200 200 404 200",
            "data: \"second\"\n\n",
            "0\r\n\r\n",
        ),
    ]
}

impl Case {
    fn check(&self, came: &[u8]) {
        let came: String = came.iter().copied().map(char::from).collect();
        assert_eq!(statuses(&came).join(" "), self.statuses, "{came}");
        assert!(came.contains(self.has), "{came}");
        assert!(came.ends_with(self.end), "{came}");
    }
}

/// Reads to the end of the stream.
fn rest(stream: &mut impl std::io::Read) -> Vec<u8> {
    let mut came = Vec::new();
    stream.read_to_end(&mut came).unwrap();
    came
}

#[test]
fn requests_followed_by_fin_are_answered() {
    let (server, since) = started("", &[]);
    let cases = cases(&since);
    server.signal("STOP");
    let asked = cases.iter().map(|case| {
        let mut stream = connect(server.addr);
        stream.write_all(case.requests.as_bytes()).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        stream
    });
    let asked: Vec<TcpStream> = asked.collect();
    server.signal("CONT");
    for (case, mut stream) in cases.iter().zip(asked) {
        case.check(&rest(&mut stream));
    }
    server.await_metric("fanfare_subscribers", 0.0);
    server.await_metric("fanfare_conns", 0.0);
}

/// How a TLS client ends its sending direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TlsEnd {
    CloseNotify,
    BareFin,
}

/// Sends requests and the end of the sending direction in one piece.
fn ask_and_end(stream: &mut Secured, requests: &str, end: TlsEnd) {
    stream.conn.writer().write_all(requests.as_bytes()).unwrap();
    if end == TlsEnd::CloseNotify {
        stream.conn.send_close_notify();
    }
    let mut records = Vec::new();
    while stream.conn.wants_write() {
        stream.conn.write_tls(&mut records).unwrap();
    }
    stream.sock.write_all(&records).unwrap();
    stream.sock.shutdown(Shutdown::Write).unwrap();
}

#[test]
fn requests_followed_by_the_end_are_answered_over_tls() {
    let folder = tempfile::tempdir().unwrap();
    let certificate = Certificate::make(folder.path(), "own");
    let flags = ["--listen", "127.0.0.1:0 tls"];
    let (server, since) = started(&certificate.config(), &flags);
    let addr = tls_addr(&server);
    for end in [TlsEnd::CloseNotify, TlsEnd::BareFin] {
        let cases = cases(&since);
        let mut streams: Vec<Secured> = cases
            .iter()
            .map(|_| secured(addr, &certificate.trusting()))
            .collect();
        for stream in &mut streams {
            stream.conn.complete_io(&mut stream.sock).unwrap();
        }
        server.signal("STOP");
        for (case, stream) in cases.iter().zip(&mut streams) {
            ask_and_end(stream, &case.requests, end);
        }
        server.signal("CONT");
        for (case, stream) in cases.iter().zip(&mut streams) {
            // An end of the stream without `close_notify` is an error here.
            let mut came = Vec::new();
            let ended = stream.read_to_end(&mut came);
            if case.statuses.is_empty() {
                continue;
            }
            assert!(ended.is_ok(), "{end:?} {}: {ended:?}", case.requests);
            case.check(&came);
        }
        server.await_metric("fanfare_conns", 0.0);
    }
}

#[test]
fn stream_ends_in_order_when_its_client_sends_fin_later() {
    let (server, since) = started("", &[]);
    for (target, fields, end) in [
        (format!("/sse?channel=a&since={since}"), "", "0\r\n\r\n"),
        (format!("/ws?channel=a&since={since}"), UPGRADE, CLOSE),
    ] {
        let mut stream = connect(server.addr);
        stream.write_all(get(&target, fields).as_bytes()).unwrap();
        server.await_metric("fanfare_subscribers", 1.0);
        stream.shutdown(Shutdown::Write).unwrap();
        let came: String = rest(&mut stream).into_iter().map(char::from).collect();
        assert!(came.contains("second") && came.ends_with(end), "{came}");
        server.await_metric("fanfare_subscribers", 0.0);
    }
    server.await_metric("fanfare_conns_closed_total{reason=\"done\"}", 1.0);
    server.await_metric("fanfare_conns_closed_total{reason=\"peer_gone\"}", 1.0);
}

#[test]
fn slow_half_closed_reader_receives_all_of_the_log() {
    let (server, since) = started("[quota]\nsend_buffer_bytes = 65536\n", &[]);
    let mut feeder = Feeder::connect(&server.feed);
    for _ in 0..40 {
        feeder.publish("a", "x".repeat(100_000));
    }
    let last = feeder.publish("a", "last");
    let mut stream = connect_small(server.addr);
    let request = get(&format!("/sse?channel=a&since={since}"), "");
    stream.write_all(request.as_bytes()).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    server.await_metric("fanfare_subscribers", 1.0);
    let came = String::from_utf8(rest(&mut stream)).unwrap();
    assert_eq!(came.matches("xxx\"\n\n").count(), 40);
    assert!(came.contains(&format!("id: {last}\n")), "the last one");
    assert!(came.ends_with("0\r\n\r\n"));
}

#[test]
fn half_closed_reader_that_reads_nothing_is_closed() {
    let config = "[heartbeat]\ninterval_ms = 200\n[quota]\nsend_buffer_bytes = 65536\n";
    let (server, since) = started(config, &[]);
    let mut feeder = Feeder::connect(&server.feed);
    for _ in 0..40 {
        feeder.publish("a", "x".repeat(100_000));
    }
    let mut stream = connect_small(server.addr);
    let request = get(&format!("/sse?channel=a&since={since}"), "");
    stream.write_all(request.as_bytes()).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    server.await_metric("fanfare_conns_closed_total{reason=\"idle\"}", 1.0);
    server.await_metric("fanfare_conns", 0.0);
}

#[test]
fn feed_and_admin_answer_requests_followed_by_fin() {
    let (server, _) = started("", &[]);
    let post = "POST /publish?channel=a HTTP/1.1\r\nHost: f\r\nContent-Length: 1\r\n\r\n1";
    let bad = "GET /none HTTP/1.1\r\nHost: f\r\n\r\n";
    let feed = [
        (post.repeat(3), &["200", "200", "200"][..]),
        (format!("{post}{bad}{post}"), &["200", "404", "200"]),
        (bad.to_owned(), &["404"]),
    ];
    let admin = [
        (get("/healthz", ""), "200"),
        (get("/metrics", ""), "200"),
        (get("/none", ""), "404"),
    ];
    server.signal("STOP");
    let feeders = feed.iter().map(|(requests, _)| {
        let mut stream = UnixStream::connect(&server.feed).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(requests.as_bytes()).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        stream
    });
    let feeders: Vec<UnixStream> = feeders.collect();
    let admins: Vec<TcpStream> = admin
        .iter()
        .map(|(request, _)| asked(server.admin, request))
        .collect();
    server.signal("CONT");
    for ((requests, expected), mut stream) in feed.iter().zip(feeders) {
        let came = String::from_utf8(rest(&mut stream)).unwrap();
        assert_eq!(statuses(&came), *expected, "{requests}");
    }
    for ((_, expected), mut stream) in admin.iter().zip(admins) {
        let came = String::from_utf8(rest(&mut stream)).unwrap();
        assert_eq!(statuses(&came), [*expected]);
    }
}

fn asked(addr: SocketAddr, request: &str) -> TcpStream {
    let mut stream = connect(addr);
    stream.write_all(request.as_bytes()).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    stream
}

fn statuses(came: &str) -> Vec<&str> {
    let after = came.split("HTTP/1.1 ").skip(1);
    let codes = after.map(|after| &after[..3]);
    codes.filter(|code| code.parse::<u16>().is_ok()).collect()
}
