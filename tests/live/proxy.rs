//! The server behind proxies: `haproxy` with the PROXY protocol, nginx with the header field that
//! names the client, and hand-written headers that are malformed, late or forged.
//!
//! A limit of one connection per source reveals which source the server sees.

use std::io::{BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use crate::support::handmade::assert_ends_silently;
use crate::support::raw::{connect, connect_from};
use crate::support::secure::{Certificate, secured, tls_addr};
use crate::support::{Feeder, Lines, Proxy, Raw, Server, Socket, within};

const ONE_EACH: &str = "[limits]\nconns_per_source = 1\nrequest_head_ms = 1500\n";
const TRUSTING: &str = "[proxy]\ntrusted = [\"127.0.0.1\", \"::1\"]\n";
const PROXIED: &[&str] = &["--listen", "127.0.0.1:0 proxy"];

/// A server with a second listener, which expects a PROXY header.
struct Proxied {
    server: Server,
    addr: SocketAddr,
}

impl Proxied {
    fn with(config: &str) -> Self {
        let server = Server::with(config, PROXIED);
        let addr = server.last_addr();
        assert_ne!(addr, server.addr);
        Self { server, addr }
    }
}

fn haproxy(mode: &str, how: &str, to: SocketAddr) -> Proxy {
    Proxy::haproxy(|addr| {
        format!(
            "defaults\n mode {mode}\n timeout connect 5s\n timeout client 60s\n \
             timeout server 60s\n timeout tunnel 60s\n\
             listen fanfare\n bind {addr}\n {how}\n"
        )
        .replace("SERVER", &format!("server one {to}"))
    })
}

fn nginx(to: SocketAddr) -> Proxy {
    Proxy::nginx(|addr| {
        format!(
            "map $http_upgrade $connection_upgrade {{ default upgrade; \"\" \"\"; }}\n\
             upstream fanfare {{ server {to}; keepalive 4; }}\n\
             server {{ listen {addr};\n\
             location / {{ proxy_pass http://fanfare; proxy_http_version 1.1;\n\
             proxy_set_header Host $host;\n\
             proxy_set_header Upgrade $http_upgrade;\n\
             proxy_set_header Connection $connection_upgrade;\n\
             proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;\n\
             proxy_buffering off; }} }}\n"
        )
    })
}

fn ask(mut stream: TcpStream, head: &str) -> (Raw, BufReader<TcpStream>) {
    stream.write_all(head.as_bytes()).unwrap();
    let mut stream = BufReader::new(stream);
    (Raw::read(&mut stream), stream)
}

/// Opens an event stream. Returns its status, and the stream so that it stays open.
fn stream_from(octet: u8, addr: SocketAddr, fields: &str) -> (u16, BufReader<TcpStream>) {
    let head = format!("GET /sse?channel=a HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
    let (response, stream) = ask(connect_from(octet, addr), &head);
    (response.status, stream)
}

fn v1(client: &str) -> String {
    format!("PROXY TCP4 {client} 198.51.100.1 4711 443\r\n")
}

/// Checks that each client address is limited to one stream, and that all streams receive
/// everything.
fn check_sources(server: &Server, addr: SocketAddr) {
    let (status, mut first) = stream_from(9, addr, "");
    assert_eq!(status, 200);
    assert_eq!(stream_from(9, addr, "").0, 429);
    let (status, mut other) = stream_from(10, addr, "");
    assert_eq!(status, 200);
    let mut feeder = Feeder::connect(&server.feed);
    let id = feeder.publish("a", "to both");
    for stream in [&mut first, &mut other] {
        let mut received = String::new();
        let mut byte = [0];
        while !received.contains(&id) || !received.contains("to both") {
            stream.read_exact(&mut byte).unwrap();
            received.push(char::from(byte[0]));
        }
    }
    drop(first);
    within("room for the client", || {
        // Some proxies notice that a client has disconnected only when they write to it.
        feeder.publish("a", "probe");
        (stream_from(9, addr, "").0 == 200).then_some(())
    });
    drop(other);
    within("the table is empty", || {
        feeder.publish("a", "probe");
        (server.metric("fanfare_sources") < 0.5).then_some(())
    });
}

#[test]
fn haproxy_names_its_clients_in_both_header_versions() {
    for how in ["SERVER send-proxy", "SERVER send-proxy-v2"] {
        let proxied = Proxied::with(&format!("{ONE_EACH}{TRUSTING}"));
        let proxy = haproxy("tcp", how, proxied.addr);
        check_sources(&proxied.server, proxy.addr);
        assert_eq!(
            Socket::subscribed(proxy.addr, "channel=a")
                .0
                .get_ref()
                .peer_addr()
                .unwrap(),
            proxy.addr
        );
    }
}

#[test]
fn health_checks_of_a_proxy_have_no_source_and_are_not_refused() {
    let proxied = Proxied::with(&format!("{ONE_EACH}{TRUSTING}"));
    let how = "SERVER send-proxy-v2 check-send-proxy check inter 100ms";
    let proxy = haproxy("tcp", how, proxied.addr);
    within("some checks", || {
        (proxied.server.metric("fanfare_conns_accepted_total") > 8.0).then_some(())
    });
    check_sources(&proxied.server, proxy.addr);
    let name = "fanfare_conns_closed_total{reason=\"bad_proxy_header\"}";
    proxied.server.await_metric(name, 0.0);
}

#[test]
fn haproxy_names_its_clients_in_a_field() {
    let server = Server::with(&format!("{ONE_EACH}{TRUSTING}"), &[]);
    let proxy = haproxy("http", "option forwardfor\n SERVER", server.addr);
    check_sources(&server, proxy.addr);
    // HAProxy appends a field line. The client's own line is ignored.
    let forged = "X-Forwarded-For: 192.0.2.1\r\n";
    let (status, _kept) = stream_from(11, proxy.addr, forged);
    assert_eq!(status, 200);
    let (status, _kept) = stream_from(12, proxy.addr, forged);
    assert_eq!(status, 200);
    assert_eq!(
        stream_from(11, proxy.addr, "X-Forwarded-For: 192.0.2.2\r\n").0,
        429
    );
}

#[test]
fn nginx_names_its_clients_in_a_field() {
    let server = Server::with(&format!("{ONE_EACH}{TRUSTING}"), &[]);
    let proxy = nginx(server.addr);
    check_sources(&server, proxy.addr);
    let forged = "X-Forwarded-For: 192.0.2.1\r\nForwarded: for=192.0.2.1\r\n";
    let (status, _kept) = stream_from(11, proxy.addr, forged);
    assert_eq!(status, 200);
    assert_eq!(stream_from(11, proxy.addr, "").0, 429);
    // nginx reuses its connections for other clients. Each request counts for its own client.
    for octet in 20..40 {
        let request = "GET /poll?channel=a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        assert_eq!(ask(connect_from(octet, proxy.addr), request).0.status, 200);
    }
    let mut socket = Socket::subscribed(proxy.addr, "channel=a");
    let id = Feeder::connect(&server.feed).publish("a", 1);
    assert_eq!(socket.publication()["id"], id.as_str());
}

#[test]
fn curl_sends_a_proxy_header() {
    let proxied = Proxied::with("");
    let url = format!("http://{}/", proxied.addr);
    let page = Lines::curl(["--haproxy-protocol", &url]).rest();
    assert!(page[0].starts_with("HTTP/1.1 200"), "{page:?}");
    let mut bare = Lines::curl([&url]);
    assert!(bare.rest().is_empty());
    assert!(!bare.wait().success());
}

#[test]
fn tls_begins_after_the_header_at_every_cut() {
    let folder = tempfile::tempdir().unwrap();
    let certificate = Certificate::make(folder.path(), "own");
    let config = format!("{}{ONE_EACH}", certificate.config());
    let server = Server::with(&config, &["--listen", "127.0.0.1:0 tls proxy"]);
    let addr = tls_addr(&server);
    let mut v2_header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0f\xc0\0\x02\x07".to_vec();
    v2_header.extend([198, 51, 100, 1, 0x12, 0x67, 1, 0xbb, 4, 0, 0]);
    let mut kept = Vec::new();
    for (header, pause) in [
        (v1("192.0.2.5").into_bytes(), 0),
        (v1("192.0.2.6").into_bytes(), 1),
        (v2_header, 1),
        (v2([192, 0, 2, 8], 30_000), 0),
    ] {
        let mut stream = secured(addr, &certificate.trusting());
        match pause {
            0 => stream.sock.write_all(&header).unwrap(),
            _ => {
                for byte in &header {
                    stream.sock.write_all(&[*byte]).unwrap();
                    thread::sleep(Duration::from_millis(1));
                }
            }
        }
        stream
            .write_all(b"GET /sse?channel=a HTTP/1.1\r\nHost: a\r\n\r\n")
            .unwrap();
        let mut start = [0; 12];
        stream.read_exact(&mut start).unwrap();
        assert_eq!(&start, b"HTTP/1.1 200");
        kept.push(stream);
    }
    server.await_metric("fanfare_tls_handshakes_total", 4.0);
    // A connection over the limit is closed before the handshake.
    let mut again = connect(addr);
    again.write_all(v1("192.0.2.5").as_bytes()).unwrap();
    assert_ends_silently(again);
    server.await_metric("fanfare_conns_refused_total{limit=\"source_conns\"}", 1.0);
    let proxy = haproxy("tcp", "SERVER send-proxy-v2", addr);
    // Each source may have one connection. At first that may still be the connection with which the
    // test waited for the proxy to listen.
    let start = within("a place behind the proxy", || {
        let mut through = secured(proxy.addr, &certificate.trusting());
        let request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        through.write_all(request).ok()?;
        let mut start = [0; 12];
        through.read_exact(&mut start).ok()?;
        Some(start)
    });
    assert_eq!(&start, b"HTTP/1.1 200");
}

/// Returns a version 2 header for an IPv4 client, with this many bytes of extensions.
fn v2(client: [u8; 4], extensions: u16) -> Vec<u8> {
    let mut rest = [&client[..], &[198, 51, 100, 1, 0x12, 0x67, 1, 0xbb]].concat();
    rest.resize(12 + usize::from(extensions), 0xea);
    v2_of(0x21, 0x11, &rest)
}

fn v2_of(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
    let start = b"\r\n\r\n\0\r\nQUIT\n";
    [start, &[command, family][..], &length, rest].concat()
}

/// Sends a header in two pieces, and then a request. Returns the status of the response.
fn status_behind(header: &[u8], addr: SocketAddr) -> u16 {
    let mut stream = connect(addr);
    let (first, second) = header.split_at(header.len() / 3);
    for piece in [first, second] {
        stream.write_all(piece).unwrap();
    }
    let (response, _) = ask(stream, "GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    response.status
}

#[test]
fn header_of_any_length_and_family_is_read() {
    let proxied = Proxied::with("");
    for extensions in [0, 1, 524, 525, 4000, u16::MAX - 12] {
        let header = v2([192, 0, 2, 1], extensions);
        assert_eq!(status_behind(&header, proxied.addr), 200, "{extensions}");
    }
    for (command, family, length) in [
        (0x20, 0x00, 0),
        (0x20, 0xff, 7),
        (0x20, 0x11, 60_000),
        (0x21, 0x00, 300),
        (0x21, 0x10, 12),
        (0x21, 0x12, 12),
        (0x21, 0x21, 36),
        (0x21, 0x22, 3000),
        (0x21, 0x31, 216),
        (0x21, 0x32, 2000),
    ] {
        let header = v2_of(command, family, &vec![7; length]);
        let status = status_behind(&header, proxied.addr);
        assert_eq!(status, 200, "{command:x} {family:x} {length}");
    }
    let name = "fanfare_conns_closed_total{reason=\"bad_proxy_header\"}";
    proxied.server.await_metric(name, 0.0);
}

#[test]
fn conn_with_an_unfinished_long_header_buffers_none_of_it() {
    const CONNS: u16 = 200;
    let proxied = Proxied::with("[limits]\nrequest_head_ms = 20000\n");
    let header = v2([192, 0, 2, 1], 60_000);
    let process = proxied.server.process();
    let received = || proxied.server.metric("fanfare_received_bytes_total");
    let fill = || {
        let before = received();
        let mut streams: Vec<_> = (0..CONNS).map(|_| connect(proxied.addr)).collect();
        for stream in &mut streams {
            stream.write_all(&header[..header.len() - 1]).unwrap();
        }
        let bytes = f64::from(CONNS) * 60_000.0;
        within("everything is read", || {
            (received() - before > bytes).then_some(())
        });
        streams
    };
    // After this first round, the tables of the server have their final size.
    drop(fill());
    proxied.server.await_metric("fanfare_conns", 0.0);
    let before = process.resident_bytes();
    let _streams = fill();
    let grown = process.resident_bytes().saturating_sub(before);
    assert!(grown < u64::from(CONNS) * 4096, "{grown} bytes");
}

#[test]
fn malformed_missing_or_late_header_closes_the_conn() {
    let proxied = Proxied::with(ONE_EACH);
    let mut neighbour = Socket::subscribed(proxied.server.addr, "channel=a");
    let wrong: [&[u8]; 8] = [
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.1 4711\r\n",
        b"\r\n\r\n\0\r\nQUIT\n\x31",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x41",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x21\0\x0c",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff",
        &v2([192, 0, 2, 1], 500)[..400],
        b"PROXY TCP4 192.0.2.1 198.51",
    ];
    for bytes in wrong {
        let mut stream = connect(proxied.addr);
        stream.write_all(bytes).unwrap();
        assert_ends_silently(stream);
    }
    assert_ends_silently(connect(proxied.addr));
    let name = "fanfare_conns_closed_total{reason=\"bad_proxy_header\"}";
    proxied.server.await_metric(name, 9.0);
    let id = Feeder::connect(&proxied.server.feed).publish("a", 1);
    assert_eq!(neighbour.publication()["id"], id.as_str());
    // After a valid header, the request has its own deadline and gets an answer.
    let (response, _) = ask(
        connect(proxied.addr),
        &format!("{}GET / HTTP/1.1\r\n", v1("192.0.2.1")),
    );
    assert_eq!(response.status, 408);
}

#[test]
fn untrusted_proxies_are_refused_or_ignored() {
    let config = format!("{ONE_EACH}[proxy]\ntrusted = [\"127.0.0.77\"]\n");
    let proxied = Proxied::with(&config);
    let mut untrusted = connect(proxied.addr);
    let _ = untrusted.write_all(v1("192.0.2.1").as_bytes());
    assert_ends_silently(untrusted);
    let name = "fanfare_conns_refused_total{limit=\"proxy\"}";
    proxied.server.await_metric(name, 1.0);
    let head = format!("{}GET / HTTP/1.1\r\nHost: a\r\n\r\n", v1("192.0.2.1"));
    assert_eq!(ask(connect_from(77, proxied.addr), &head).0.status, 200);
    // On the plain listener, `X-Forwarded-For` is used if the trusted proxy sends it, and ignored
    // otherwise.
    let addr = proxied.server.addr;
    let (_, _kept) = stream_from(9, addr, "X-Forwarded-For: 192.0.2.50\r\n");
    let refused = ask(
        connect_from(9, addr),
        "GET / HTTP/1.1\r\nX-Forwarded-For: 192.0.2.51\r\n\r\n",
    );
    assert_eq!(refused.0.status, 429);
    let (status, _kept) = stream_from(77, addr, "X-Forwarded-For: 192.0.2.50\r\n");
    assert_eq!(status, 200);
    assert_eq!(
        stream_from(77, addr, "X-Forwarded-For: 192.0.2.50\r\n").0,
        429
    );
    // If a trusted proxy names no client, its connections are not limited.
    let (_, _kept) = stream_from(77, addr, "X-Forwarded-For: unknown\r\n");
    assert_eq!(stream_from(77, addr, "").0, 200);
}

/// Sends a short poll for a client on a kept-alive connection. Returns the status.
fn poll_for(client: &str, stream: &mut BufReader<TcpStream>) -> u16 {
    let head = format!(
        "GET /poll?channel=a&timeout=0 HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: {client}\r\n\r\n"
    );
    stream.get_mut().write_all(head.as_bytes()).unwrap();
    Raw::read(stream).status
}

#[test]
fn kept_alive_connection_counts_as_a_connect_of_its_first_client() {
    // A burst may contain as many connection attempts as are allowed in five seconds.
    const AT_ONCE: usize = 10;
    let config =
        format!("{TRUSTING}[limits]\nconnects_per_second_per_source = 2\nconns_per_source = 30\n");
    let server = Server::with(&config, &[]);
    let mut kept = BufReader::new(connect(server.addr));
    for number in 0..10 * AT_ONCE {
        let client = format!("192.0.2.{}", number % 3);
        assert_eq!(poll_for(&client, &mut kept), 200, "{number}: {client}");
    }
    // If a client opens a new connection for each request, the rate of its connections is limited.
    let connects: Vec<u16> = (0..2 * AT_ONCE)
        .map(|_| poll_for("192.0.2.1", &mut BufReader::new(connect(server.addr))))
        .collect();
    assert!(connects[..AT_ONCE].iter().all(|status| *status == 200));
    assert!(connects[AT_ONCE..].contains(&429), "{connects:?}");
    // The first request of each connection names no known client. The connection counts as a new
    // connection of the client that the second request names.
    let connects: Vec<u16> = (0..2 * AT_ONCE)
        .map(|_| {
            let mut stream = BufReader::new(connect(server.addr));
            assert_eq!(poll_for("unknown", &mut stream), 200);
            poll_for("192.0.2.9", &mut stream)
        })
        .collect();
    assert!(connects[AT_ONCE..].contains(&429), "{connects:?}");
    drop(kept);
    server.await_metric("fanfare_sources", 0.0);
}

#[test]
fn kept_alive_connection_counts_as_a_conn_of_its_latest_client() {
    let server = Server::with(&format!("{ONE_EACH}{TRUSTING}"), &[]);
    let mut kept = BufReader::new(connect(server.addr));
    let stream_for = |client: &str| {
        let field = format!("X-Forwarded-For: {client}\r\n");
        stream_from(1, server.addr, &field)
    };
    assert_eq!(poll_for("192.0.2.1", &mut kept), 200);
    assert_eq!(stream_for("192.0.2.1").0, 429);
    assert_eq!(poll_for("192.0.2.2", &mut kept), 200);
    let (status, stream) = stream_for("192.0.2.1");
    assert_eq!(status, 200);
    assert_eq!(stream_for("192.0.2.2").0, 429);
    // The stream is now the one connection that the first client may have. Therefore this request
    // is refused, and its connection is closed.
    assert_eq!(poll_for("192.0.2.1", &mut kept), 429);
    drop(kept);
    let other = within("room for the second client", || {
        let (status, stream) = stream_for("192.0.2.2");
        (status == 200).then_some(stream)
    });
    server.await_metric("fanfare_sources", 2.0);
    drop((stream, other));
    server.await_metric("fanfare_sources", 0.0);
}

#[test]
fn only_the_configured_field_names_the_client() {
    let config = format!("{ONE_EACH}{TRUSTING}field = \"forwarded\"\n");
    let server = Server::with(&config, &[]);
    let fields = "Forwarded: for=\"[2001:db8:1:2::3]:4711\";proto=http\r\n";
    let (status, _kept) = stream_from(1, server.addr, fields);
    assert_eq!(status, 200);
    let same_network = "Forwarded: for=\"[2001:db8:1:2::4]\"\r\nX-Forwarded-For: 192.0.2.9\r\n";
    assert_eq!(stream_from(1, server.addr, same_network).0, 429);
    let another = "Forwarded: for=\"[2001:db8:1:3::4]\"\r\n";
    assert_eq!(stream_from(1, server.addr, another).0, 200);
}
