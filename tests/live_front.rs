//! nginx and `HAProxy` in front of the server, set up as the README says: every transport passes,
//! the server knows whose page a request is from, and a restart ends no `EventSource`.
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

use std::io::{BufReader, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;

use live::raw::connect;
use live::{Feeder, Lines, Proxy, Raw, Server, Socket, dependency};
use serde_json::{Value, json};
use tungstenite::client::IntoClientRequest as _;
use tungstenite::{HandshakeError, error::Error};

/// The blocks of the README in a language.
fn blocks(language: &str) -> Vec<String> {
    let readme = include_str!("../README.md");
    let mut blocks = readme.split("```");
    let mut found = Vec::new();
    while let (Some(_), Some(block)) = (blocks.next(), blocks.next()) {
        if let Some(text) = block.strip_prefix(&format!("{language}\n")) {
            found.push(text.to_owned());
        }
    }
    found
}

/// The README's blocks around this server.
fn nginx(server: SocketAddr) -> Proxy {
    let [location, map] = blocks("nginx").try_into().unwrap();
    assert!(location.contains("http://127.0.0.1:8080;"));
    let location = location.replace("127.0.0.1:8080", &server.to_string());
    let page = "location / { default_type text/html; return 200 page; }";
    Proxy::nginx(|front| format!("{map}server {{\nlisten {front};\n{location}{page}}}\n"))
}

fn haproxy(server: SocketAddr) -> Proxy {
    let [example, _in_tcp_mode] = blocks("haproxy").try_into().unwrap();
    assert!(example.contains("127.0.0.1:8080"));
    let example = example.replace("127.0.0.1:8080", &server.to_string());
    Proxy::haproxy(|front| example.replace("bind :80", &format!("bind {front}")))
}

/// The status of a WebSocket handshake of a page.
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

fn check(start: impl FnOnce(SocketAddr) -> Proxy) {
    let server = Server::start();
    let proxy = start(server.addr);
    let front = proxy.addr;
    let mut feeder = Feeder::connect(&server.feed);

    assert_eq!(handshake(front, &format!("http://{front}")), 101);
    assert_eq!(handshake(front, "http://elsewhere.example"), 403);
    let mut socket = Socket::subscribed(front, "channel=a");
    let mut stream = Lines::curl([format!("http://{front}/sse?channel=a")]);
    stream.until("id: ");
    let mut poll = BufReader::new(connect(front));
    let mut ask = |query: &str, field: &str| {
        let request = format!(
            "GET /poll?channel=a&{query} HTTP/1.1\r\nHost: {front}\r\n{field}Connection: keep-alive\r\n\r\n"
        );
        poll.get_mut().write_all(request.as_bytes()).unwrap();
        Raw::read(&mut poll)
    };
    let position = ask("timeout=0", "");
    let tag = position.field("etag").unwrap().to_owned();
    let since = tag.trim_matches('"');
    let unmoved = ask(
        &format!("timeout=0&since={since}"),
        &format!("If-None-Match: {tag}\r\n"),
    );
    assert_eq!(unmoved.status, 304);

    let id = feeder.publish("a", "through");
    assert_eq!(socket.publication()["id"], id.as_str());
    assert_eq!(stream.until("data: "), "data: \"through\"");
    let news = ask(&format!("timeout=20&since={since}"), "");
    assert_eq!(news.status, 200);
    assert!(news.body_text().contains("\"through\""));
}

#[test]
fn nginx_lets_every_transport_through() {
    check(nginx);
}

#[test]
fn haproxy_lets_every_transport_through() {
    check(haproxy);
}

/// What a service manager is to the server: it keeps the listening socket and starts it again.
struct Manager {
    process: Lines,
    pid: String,
    addr: SocketAddr,
}

impl Manager {
    fn start(folder: &Path) -> Self {
        let launcher = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/activation.py");
        let process = Lines::run(
            Command::new("python3")
                .arg(launcher)
                .arg("--again")
                .arg(folder)
                .arg(env!("CARGO_BIN_EXE_fanfare"))
                .args(["serve", "--workers", "2", "--listen", "127.0.0.1:1"]),
        );
        let mut manager = Self {
            process,
            pid: String::new(),
            addr: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        };
        manager.await_start();
        manager
    }

    fn await_start(&mut self) {
        let started: Value = serde_json::from_str(&self.process.until("{\"pid\"")).unwrap();
        self.pid = started["pid"].to_string();
        let port = u16::try_from(started["tcp"].as_u64().unwrap()).unwrap();
        self.addr.set_port(port);
        self.process.until("fanfare ");
    }

    /// Ends the server by a signal, and waits until the next one serves. How the first has ended.
    fn restart(&mut self, signal: &str) -> i64 {
        let sent = Command::new("kill")
            .args(["-s", signal, &self.pid])
            .status();
        assert!(sent.unwrap().success());
        let ended = self.process.until("{\"ended\"");
        let ended: Value = serde_json::from_str(&ended).unwrap();
        self.await_start();
        ended["ended"].as_i64().unwrap()
    }
}

/// The proxy's own answer to a request that comes while nothing listens, 502, ends an `EventSource`
/// for good. With the socket unit's listener nothing gets that answer, although the streams return
/// before the next server has started.
#[test]
fn restarts_behind_nginx_stop_no_event_source() {
    const ORIGINS: u64 = 10;
    let folder = tempfile::tempdir().unwrap();
    let mut manager = Manager::start(folder.path());
    let proxy = nginx(manager.addr);
    let profile = folder.path().join("profile");
    let mut browser = Lines::run(
        Command::new("node")
            .arg(dependency("node").join("browser_restart.mjs"))
            .args(["/usr/bin/chromium", &format!("http://{}/", proxy.addr)])
            .arg(&profile)
            .args([&ORIGINS.to_string(), "2"]),
    );
    assert_eq!(browser.json()["open"], 6 * ORIGINS);
    for (signal, status) in [("TERM", 0), ("KILL", -9)] {
        assert_eq!(manager.restart(signal), status);
        let expected = json!({"reopened": 6 * ORIGINS, "stopped": 0});
        assert_eq!(browser.json(), expected, "after {signal}");
    }
    assert!(browser.wait().success(), "{}", browser.stderr());
}
