//! nginx and `HAProxy` in front of the server, set up as the README says: every transport passes,
//! and the server knows whose page a request is from.
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

use std::fs;
use std::io::{BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;

use live::raw::connect;
use live::{Feeder, Lines, Raw, Server, Socket, within};
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

fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

/// The README's blocks around this server.
fn nginx(folder: &Path, front: SocketAddr, server: SocketAddr) -> Command {
    let [location, map] = blocks("nginx").try_into().unwrap();
    assert!(location.contains("http://127.0.0.1:8080;"));
    let location = location.replace("127.0.0.1:8080", &server.to_string());
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {}/{kind};\n", folder.display()))
        .concat();
    let config = format!(
        "daemon off;\nmaster_process off;\npid {}/pid;\nerror_log stderr;\nevents {{}}\n\
         http {{\naccess_log off;\n{temporary}{map}\
         server {{\nlisten {front};\n{location}}}\n}}\n",
        folder.display()
    );
    let file = folder.join("nginx.conf");
    fs::write(&file, config).unwrap();
    let mut command = Command::new("/usr/sbin/nginx");
    command.args(["-e", "stderr", "-p"]).arg(folder);
    command.arg("-c").arg(file);
    command
}

fn haproxy(folder: &Path, front: SocketAddr, server: SocketAddr) -> Command {
    let [example, _in_tcp_mode] = blocks("haproxy").try_into().unwrap();
    assert!(example.contains("127.0.0.1:8080"));
    let example = example.replace("127.0.0.1:8080", &server.to_string());
    let config = example.replace("bind :80", &format!("bind {front}"));
    let file = folder.join("haproxy.cfg");
    fs::write(&file, config).unwrap();
    let mut command = Command::new("/usr/sbin/haproxy");
    command.args(["-db", "-f"]).arg(file);
    command
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

fn check(start: impl FnOnce(&Path, SocketAddr, SocketAddr) -> Command) {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start();
    let front = free_address();
    let _proxy = Lines::run(&mut start(folder.path(), front, server.addr));
    within("the proxy", || TcpStream::connect(front).ok());
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
