//! The proxies of `systemd/proxies` in front of the server. Every transport passes without delay
//! and with the client's address, and a quiet poll is not cut off. When the server drains or is
//! killed, clients see the behaviour that the guide describes.
//!
//! With `FANFARE_LONG=N` there are N consecutive polls that wait for 110 s each. The streams are
//! quiet for the same time.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use tungstenite::client::IntoClientRequest as _;
use tungstenite::{HandshakeError, error::Error};

use crate::support::raw::{connect, connect_from};
use crate::support::{Feeder, Lines, Proxy, Raw, Recipe, Server, Socket};

const CONFIG: &str = "[proxy]\ntrusted = [\"127.0.0.1\"]\n[limits]\nconns_per_source = 1\n\
                      [drain]\nretry_ms = 500\n";
/// The longest time that an event needs from the feed to a client behind the proxy.
const LATENCY_MAX: Duration = Duration::from_millis(20);

/// A server and a proxy in front of it.
struct Front {
    proxy: Proxy,
    server: Server,
}

impl Front {
    fn start(recipe: Recipe) -> Self {
        let server = Server::with(CONFIG, &["--listen", "127.0.0.1:0 proxy"]);
        let proxy = recipe.start(server.addr, server.last_addr());
        Self { proxy, server }
    }

    fn addr(&self) -> SocketAddr {
        self.proxy.addr
    }

    fn curl(&self, path: &str) -> Lines {
        Lines::curl([format!("http://{}{path}", self.addr())])
    }

    /// Sends a request and does not wait for the response.
    fn ask(&self, target: &str) -> BufReader<TcpStream> {
        let mut stream = connect(self.addr());
        stream.set_read_timeout(Some(2 * quiet().0)).unwrap();
        let request = format!("GET {target} HTTP/1.1\r\nHost: {}\r\n\r\n", self.addr());
        stream.write_all(request.as_bytes()).unwrap();
        BufReader::new(stream)
    }

    /// Returns the current position, from a short poll.
    fn position(&self) -> String {
        let position = Raw::get(self.addr(), "/poll?channel=a&timeout=0");
        let tag = position.field("etag").expect("a tag").to_owned();
        tag.trim_start_matches("W/").trim_matches('"').to_owned()
    }
}

/// Returns how long a poll without publications waits, and how many such polls a test sends.
fn quiet() -> (Duration, u32) {
    match std::env::var("FANFARE_LONG") {
        Ok(polls) => (Duration::from_secs(110), polls.parse().unwrap()),
        Err(_) => (Duration::from_secs(3), 1),
    }
}

/// Returns the status of a WebSocket handshake from a page of this origin.
fn handshake(front: SocketAddr, origin: &str) -> u16 {
    let mut request = format!("ws://{front}/ws?channel=a")
        .into_client_request()
        .unwrap();
    request
        .headers_mut()
        .insert("Origin", origin.parse().unwrap());
    match tungstenite::client(request, connect(front)) {
        Ok((_, response)) => response.status().as_u16(),
        Err(HandshakeError::Failure(Error::Http(response))) => response.status().as_u16(),
        Err(error) => panic!("{error}"),
    }
}

/// Runs all checks of a proxy, the fastest first.
fn check(recipe: Recipe) {
    let front = Front::start(recipe);
    check_transports(&front);
    check_latency(&front);
    check_client_address(&front);
    check_quiet_time(&front);
    drop(front);
    check_drain(Front::start(recipe));
    check_kill(recipe, Front::start(recipe));
}

/// Checks that a WebSocket from a page of the same origin is accepted and one from another origin
/// is refused. Also checks that a publication arrives on every transport.
fn check_transports(front: &Front) {
    let addr = front.addr();
    assert_eq!(handshake(addr, &format!("http://{addr}")), 101);
    assert_eq!(handshake(addr, "http://elsewhere.example"), 403);
    let mut socket = Socket::subscribed(addr, "channel=a");
    let mut stream = front.curl("/sse?channel=a");
    stream.until("id: ");
    let since = front.position();
    let mut poll = front.ask(&format!("/poll?channel=a&timeout=20&since={since}"));
    let id = Feeder::connect(&front.server.feed).publish("a", "through");
    assert_eq!(socket.publication()["id"], id.as_str());
    assert_eq!(stream.until("data: "), "data: \"through\"");
    assert!(answer_to(&mut poll).contains("\"through\""));
    let mut unmoved = connect(addr);
    let request = format!(
        "GET /poll?channel=a&timeout=0&since={id} HTTP/1.1\r\nHost: {addr}\r\n\
         If-None-Match: \"{id}\"\r\nConnection: close\r\n\r\n"
    );
    unmoved.write_all(request.as_bytes()).unwrap();
    assert_eq!(Raw::read(&mut BufReader::new(unmoved)).status, 304);
    let mut packed = connect(addr);
    let fields = format!("Host: {addr}\r\nAccept-Encoding: gzip\r\n");
    let request = format!("GET /sse?channel=a HTTP/1.1\r\n{fields}\r\n");
    packed.write_all(request.as_bytes()).unwrap();
    let head = Raw::read(&mut BufReader::new(packed));
    assert_eq!(head.field("content-encoding"), None, "{head:?}");
}

/// Returns the JSON document in the response to a poll. The response may be chunked.
fn answer_to(poll: &mut BufReader<TcpStream>) -> String {
    let head = Raw::read(poll);
    assert_eq!(head.status, 200, "{head:?}");
    if !head.body.is_empty() {
        return head.body_text().to_owned();
    }
    let mut lines = poll.lines().map(Result::unwrap);
    lines.find(|line| line.starts_with('{')).expect("an answer")
}

/// Checks that events pass without delay on open streams.
fn check_latency(front: &Front) {
    let mut socket = Socket::subscribed(front.addr(), "channel=l");
    let mut stream = front.curl("/sse?channel=l");
    stream.until("id: ");
    let mut feeder = Feeder::connect(&front.server.feed);
    let mut times: Vec<_> = (0..21)
        .map(|n| {
            let begun = Instant::now();
            feeder.publish("l", n);
            socket.publication();
            let by_socket = begun.elapsed();
            stream.until("data: ");
            (by_socket, begun.elapsed())
        })
        .collect();
    times.sort_by_key(|(by_socket, _)| *by_socket);
    let by_socket = times[times.len() / 2].0;
    times.sort_by_key(|(_, by_stream)| *by_stream);
    let by_stream = times[times.len() / 2].1;
    println!("median latency: WebSocket {by_socket:?}, event stream {by_stream:?}");
    assert!(by_socket < LATENCY_MAX, "{times:?}");
    assert!(by_stream < LATENCY_MAX, "{times:?}");
}

/// Checks that each client address may have one stream, and that a forged address is ignored.
fn check_client_address(front: &Front) {
    let stream_from = |octet: u8, forged: &str| {
        let mut stream = connect_from(octet, front.addr());
        let request = format!("GET /sse?channel=a HTTP/1.1\r\nHost: a\r\n{forged}\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut stream = BufReader::new(stream);
        (Raw::read(&mut stream).status, stream)
    };
    let forged = "X-Forwarded-For: 192.0.2.1\r\n";
    let (status, _first) = stream_from(9, "");
    assert_eq!(status, 200);
    assert_eq!(stream_from(9, forged).0, 429);
    let (status, _other) = stream_from(10, forged);
    assert_eq!(status, 200);
}

/// Checks that polls without publications and streams with heartbeats only are not cut off.
fn check_quiet_time(front: &Front) {
    let (wait, polls) = quiet();
    let mut socket = Socket::subscribed(front.addr(), "channel=q");
    let patience = Some((polls + 1) * wait);
    socket.0.get_ref().set_read_timeout(patience).unwrap();
    let mut stream = front.curl("/sse?channel=q");
    stream.until("id: ");
    let since = front.position();
    let target = format!("/poll?channel=q&since={since}&timeout={}", wait.as_secs());
    thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..polls {
                let begun = Instant::now();
                let answer = answer_to(&mut front.ask(&target));
                assert!(answer.contains("\"publications\":[]"), "{answer}");
                assert!(begun.elapsed() >= wait, "{:?}", begun.elapsed());
            }
            Feeder::connect(&front.server.feed).publish("q", "later")
        });
        // The client library answers the pings while it reads.
        assert_eq!(socket.publication()["data"], "later");
    });
    assert_eq!(stream.until("data: "), "data: \"later\"");
}

/// Checks that a drain works as without a proxy: every client receives its reconnect delay and a
/// complete end.
fn check_drain(mut front: Front) {
    let mut socket = Socket::subscribed(front.addr(), "channel=a");
    let mut stream = front.curl("/sse?channel=a");
    stream.until("id: ");
    let since = front.position();
    let mut poll = front.ask(&format!("/poll?channel=a&since={since}&timeout=20"));
    let name = "fanfare_streams{transport=\"long_poll\"}";
    front.server.await_metric(name, 1.0);
    front.server.signal("TERM");
    let (code, reason) = socket.closed();
    assert_eq!(code, 1012);
    assert!(reason.starts_with("retry_ms="), "{reason}");
    let _ = socket.0.flush();
    stream.until("retry: ");
    stream.rest();
    assert!(stream.wait().success(), "cut off: {}", stream.stderr());
    let answer = Raw::read(&mut poll);
    assert_eq!(answer.status, 200);
    assert!(answer.field("retry-after").is_some(), "{answer:?}");
    assert!(front.server.wait().success());
}

/// Checks that clients can detect that their streams are cut off when the server is killed. A
/// killed server sends no close frame and no end of a stream. Behind Caddy, event streams end as if
/// they were complete.
fn check_kill(recipe: Recipe, mut front: Front) {
    let mut socket = Socket::subscribed(front.addr(), "channel=a");
    let mut stream = front.curl("/sse?channel=a");
    stream.until("id: ");
    front.server.signal("KILL");
    front.server.wait();
    stream.rest();
    let is_clean = stream.wait().success();
    assert_eq!(is_clean, recipe == Recipe::Caddy, "{}", stream.stderr());
    socket.0.read().expect_err("an end without a close frame");
}

#[test]
fn apache_passes_everything() {
    check(Recipe::Apache);
}

#[test]
fn caddy_passes_everything() {
    check(Recipe::Caddy);
}

#[test]
fn haproxy_passes_everything() {
    check(Recipe::Haproxy);
}

#[test]
fn haproxy_in_tcp_mode_passes_everything() {
    check(Recipe::HaproxyTcp);
}

#[test]
fn lighttpd_passes_everything() {
    check(Recipe::Lighttpd);
}

#[test]
fn nginx_passes_everything() {
    check(Recipe::Nginx);
}

#[test]
fn squid_passes_everything() {
    check(Recipe::Squid);
}

#[test]
fn varnish_passes_everything() {
    check(Recipe::Varnish);
}

#[test]
fn guide_names_every_recipe_and_each_has_its_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("src/guide/proxies.md")).unwrap();
    let files: BTreeSet<String> = fs::read_dir(root.join("systemd/proxies"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    for file in &files {
        assert!(page.contains(&format!("`{file}`")), "{file}");
    }
    let tested: BTreeSet<String> = Recipe::ALL.map(|recipe| recipe.file().to_owned()).into();
    assert_eq!(files, tested);
}
