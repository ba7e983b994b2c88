//! Refusals on the clients' listeners, the admin listener and the feed.
//!
//! Each refusal is a problem document (RFC 9457), and its `code` names the reason.

use std::io::{BufReader, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::Command;

use serde_json::Value;

use crate::support::raw::{Raw, connect, exchange};
use crate::support::secure::{Certificate, tls_addr};
use crate::support::{Lines, PATIENCE, Server, Socket};

/// Checks that a response is a problem document with this code.
fn check(response: &Raw, status: u16, code: &str) {
    response.assert_problem(status);
    let document: Value = serde_json::from_slice(&response.body).unwrap();
    assert_eq!(document["code"], code, "{document}");
    assert!(document["detail"].is_string(), "{document}");
    let is_put_off = matches!(status, 429 | 503);
    assert_eq!(response.field("retry-after").is_some(), is_put_off);
}

/// Sends bytes and reads the one response to them.
fn ask(addr: SocketAddr, request: &str) -> Raw {
    exchange(addr, request.as_bytes())
}

#[test]
fn refused_request_gets_a_code() {
    let server = Server::start();
    let get = |target: &str, fields: &str| {
        format!("GET {target} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n{fields}\r\n")
    };
    for (request, status, code) in [
        (String::from("\x03\x01 nonsense"), 400, "not_http"),
        (String::from("\x16\x03\x01"), 400, "tls_on_plain_http"),
        (get("/none", ""), 404, "not_found"),
        (get("/sse", ""), 400, "channel_missing"),
        (get("/sse?channel=%00", ""), 400, "bad_channel"),
        (get("/sse?channel=%", ""), 400, "bad_encoding"),
        (get("/poll?channel=a&timeout=x", ""), 400, "bad_timeout"),
        (get("/poll?channel=a&envelope=x", ""), 400, "bad_envelope"),
        (get("/poll?channel=a&window=1", ""), 400, "bad_window"),
        (get("/ws?channel=a", ""), 426, "upgrade_required"),
        (get("/", "Host: again\r\n"), 400, "bad_host"),
        (get("/", "Expect: more\r\n"), 417, "expectation_failed"),
        (get("/", "Content-Length: 1\r\n"), 413, "content_unwanted"),
        (
            get("/", "Transfer-Encoding: chunked\r\n"),
            501,
            "transfer_coding",
        ),
        (get(&"x".repeat(9000), ""), 414, "target_too_long"),
        (
            get("/", &format!("A: {}\r\n", "x".repeat(9000))),
            431,
            "head_too_large",
        ),
        (String::from("GET / HTTP/3.0\r\n"), 505, "http_version"),
        (
            String::from("PUT / HTTP/1.1\r\nHost: h\r\n\r\n"),
            405,
            "method_not_allowed",
        ),
    ] {
        check(&ask(server.addr, &request), status, code);
    }
}

#[test]
fn late_client_and_client_over_a_limit_get_a_code() {
    let server = Server::with("[limits]\nrequest_head_ms = 200\n", &[]);
    let late = ask(server.addr, "GET / HTTP/1.1\r\n");
    check(&late, 408, "head_timeout");
    for (limit, code, status) in [
        ("conns = 2", "server_full", 503),
        ("conns_per_source = 2", "too_many_connections", 429),
        (
            "connects_per_second_per_source = 1",
            "too_many_connects",
            429,
        ),
    ] {
        let server = Server::with(&format!("[limits]\n{limit}\n"), &["--workers", "1"]);
        // Connections are accepted in order, and the last connection is far above each limit.
        let mut held: Vec<TcpStream> = (0..40).map(|_| connect(server.addr)).collect();
        let last = held.pop().unwrap();
        check(&Raw::read(&mut BufReader::new(last)), status, code);
    }
}

#[test]
fn refused_channel_has_a_code_that_pages_can_read() {
    let config = "[limits]\nchannels = 1\n[browser]\norigins = [\"https://a.example\"]\n";
    let server = Server::with(config, &["--workers", "1"]);
    let _first = Socket::subscribed(server.addr, "channel=a");
    for target in ["/sse?channel=b", "/poll?channel=b"] {
        let fields = "Host: h\r\nOrigin: https://a.example\r\n";
        let refused = ask(
            server.addr,
            &format!("GET {target} HTTP/1.1\r\n{fields}\r\n"),
        );
        check(&refused, 503, "server_full");
        let origin = refused.field("access-control-allow-origin");
        assert_eq!(origin, Some("https://a.example"), "{refused:?}");
        let exposed = refused.field("access-control-expose-headers").unwrap();
        assert!(exposed.contains("Retry-After"), "{exposed}");
    }
}

#[test]
fn admin_listener_refuses_with_a_code() {
    let server = Server::start();
    for (request, status, code) in [
        ("GET /none HTTP/1.1\r\nHost: h\r\n\r\n", 404, "not_found"),
        (
            "POST /metrics HTTP/1.1\r\nHost: h\r\n\r\n",
            405,
            "method_not_allowed",
        ),
        ("GET /metrics HTTP/1.1\r\n\r\n", 400, "bad_host"),
        ("GET /metrics HTTP/3.0\r\n\r\n", 505, "http_version"),
        ("\x16\x03\x01", 400, "tls_on_plain_http"),
    ] {
        check(&ask(server.admin, request), status, code);
    }
}

#[test]
fn feed_refuses_with_a_code() {
    let server = Server::start();
    for (request, status, code) in [
        ("GET /none HTTP/1.1\r\nHost: f\r\n\r\n", 404, "not_found"),
        (
            "GET /publish HTTP/1.1\r\nHost: f\r\n\r\n",
            405,
            "method_not_allowed",
        ),
        (
            "POST /publish HTTP/1.1\r\nHost: f\r\n\r\n",
            411,
            "length_required",
        ),
        (
            "POST /publish HTTP/1.1\r\nHost: f\r\nContent-Type: application/json\r\n\
             Content-Length: 2\r\n\r\n{}",
            400,
            "bad_channel",
        ),
        ("PRI * HTTP/2.0\r\n\r\n", 505, "http_version"),
    ] {
        let mut feed = UnixStream::connect(&server.feed).unwrap();
        feed.set_read_timeout(Some(PATIENCE)).unwrap();
        feed.write_all(request.as_bytes()).unwrap();
        feed.shutdown(Shutdown::Write).unwrap();
        let mut came = String::new();
        feed.read_to_string(&mut came).unwrap();
        assert!(came.starts_with(&format!("HTTP/1.1 {status} ")), "{came}");
        let (_, content) = came.split_once("\r\n\r\n").unwrap();
        let document: Value = serde_json::from_str(content).unwrap();
        assert_eq!(document["status"], status, "{document}");
        assert_eq!(document["code"], code, "{document}");
        assert_eq!(document["error"], code, "{document}");
    }
}

#[test]
fn plain_http_on_a_tls_port_gets_a_code_in_plain_text() {
    let folder = tempfile::tempdir().unwrap();
    let certificate = Certificate::make(folder.path(), "own");
    let server = Server::with(&certificate.config(), &["--listen", "127.0.0.1:0 tls"]);
    let addr = tls_addr(&server);
    let refused = Raw::get(addr, "/sse?channel=a");
    check(&refused, 400, "plain_http_on_tls");
    assert_eq!(refused.field("connection"), Some("close"));
    // The first byte decides the protocol. The server reads all later bytes and discards them.
    let mut stream = connect(addr);
    stream.write_all(b"P").unwrap();
    stream.write_all(&b"x".repeat(100_000)).unwrap();
    let response = Raw::read(&mut BufReader::new(stream));
    check(&response, 400, "plain_http_on_tls");
    let url = format!("http://{addr}/");
    let output = Lines::curl([&url]).rest();
    assert!(output[0].starts_with("HTTP/1.1 400 "), "{output:?}");
    // After a PROXY header, the first byte that follows decides the protocol.
    let flags = ["--listen", "127.0.0.1:0 tls proxy"];
    let server = Server::with(&certificate.config(), &flags);
    let request = "PROXY TCP4 192.0.2.1 198.51.100.1 4711 443\r\nGET / HTTP/1.1\r\n\r\n";
    check(&ask(tls_addr(&server), request), 400, "plain_http_on_tls");
    server.await_metric("fanfare_conns", 0.0);
}

#[test]
fn http2_client_reports_that_http1_is_required() {
    let server = Server::start();
    let url = format!("http://{}/", server.addr);
    let curl = Command::new("curl")
        .args(["-sSv", "--max-time", "20", "--http2-prior-knowledge", &url])
        .output()
        .unwrap();
    let output = String::from_utf8_lossy(&curl.stderr);
    assert!(output.contains("GOAWAY, error=13"), "{output}");
    let script = "const client = require('http2').connect(process.argv[1]);\
        client.on('goaway', (code, last, data) => console.log(JSON.stringify({code, last, \
        document: JSON.parse(data)})));\
        client.on('error', () => {});\
        client.request({':path': '/'}).on('error', () => {});";
    let mut node = Lines::run(Command::new("node").args(["-e", script, &url]));
    let output = node.json();
    assert_eq!((&output["code"], &output["last"]), (&13.into(), &0.into()));
    assert_eq!(output["document"]["code"], "http_version", "{output}");
    // This client sends the HTTP/2 preface by hand and reads to the end of the stream.
    let mut stream = connect(server.addr);
    stream
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
        .unwrap();
    let mut came = Vec::new();
    stream.read_to_end(&mut came).unwrap();
    assert!(came.ends_with(b"\"code\":\"http_version\"}\n"));
}
