//! The real binary behind proxies: `haproxy` with the PROXY protocol, nginx with the field that
//! names the client, and hand-made headers that are wrong, late or a lie.
//!
//! Whom a conn is counted for is seen by a limit of one conn for each source.
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

use std::io::{BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use live::handmade::ends_without_a_word;
use live::raw::{connect, connect_from};
use live::secure::{Certificate, secured, tls_addr};
use live::{Feeder, Lines, Proxy, Raw, Server, Socket, within};

const ONE_EACH: &str = "[limits]\nconns_per_source = 1\nrequest_head_ms = 1500\n";
const TRUSTING: &str = "[proxy]\ntrusted = [\"127.0.0.1\", \"::1\"]\n";
const PROXIED: &[&str] = &["--listen", "127.0.0.1:0 proxy"];

/// A server whose one listener expects the header. The tests' own listener is not used.
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

/// Opens a stream and keeps it.
fn stream_from(octet: u8, addr: SocketAddr, fields: &str) -> (u16, BufReader<TcpStream>) {
    let head = format!("GET /sse?channel=a HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
    let (response, stream) = ask(connect_from(octet, addr), &head);
    (response.status, stream)
}

fn v1(client: &str) -> String {
    format!("PROXY TCP4 {client} 198.51.100.1 4711 443\r\n")
}

/// Clients of one address have one stream, those of another their own, and all get everything.
fn check_sources(server: &Server, addr: SocketAddr) {
    let (status, mut first) = stream_from(9, addr, "");
    assert_eq!(status, 200);
    assert_eq!(stream_from(9, addr, "").0, 429);
    let (status, mut other) = stream_from(10, addr, "");
    assert_eq!(status, 200);
    let mut feeder = Feeder::connect(&server.feed);
    let id = feeder.publish("a", "to both");
    for stream in [&mut first, &mut other] {
        let mut said = String::new();
        let mut byte = [0];
        while !said.contains(&id) || !said.contains("to both") {
            stream.read_exact(&mut byte).unwrap();
            said.push(char::from(byte[0]));
        }
    }
    drop(first);
    within("the place is free again", || {
        // Some proxies look for the client's end only when there is something to give it.
        feeder.publish("a", "is anybody there");
        (stream_from(9, addr, "").0 == 200).then_some(())
    });
    drop(other);
    within("the table is empty", || {
        feeder.publish("a", "is anybody there");
        (server.metric("fanfare_sources") < 0.5).then_some(())
    });
}

#[test]
fn haproxy_names_its_clients_in_both_versions() {
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
fn checks_of_a_proxy_are_nobody_and_never_refused() {
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
    // It adds a line; what a client says before is not believed.
    let lie = "X-Forwarded-For: 192.0.2.1\r\n";
    let (status, _kept) = stream_from(11, proxy.addr, lie);
    assert_eq!(status, 200);
    let (status, _kept) = stream_from(12, proxy.addr, lie);
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
    let lie = "X-Forwarded-For: 192.0.2.1\r\nForwarded: for=192.0.2.1\r\n";
    let (status, _kept) = stream_from(11, proxy.addr, lie);
    assert_eq!(status, 200);
    assert_eq!(stream_from(11, proxy.addr, "").0, 429);
    // Others may use the conns that it keeps to us, and each is counted for itself.
    for octet in 20..40 {
        let request = "GET /poll?channel=a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        assert_eq!(ask(connect_from(octet, proxy.addr), request).0.status, 200);
    }
    let mut socket = Socket::subscribed(proxy.addr, "channel=a");
    let id = Feeder::connect(&server.feed).publish("a", 1);
    assert_eq!(socket.publication()["id"], id.as_str());
}

#[test]
fn curl_speaks_for_itself() {
    let proxied = Proxied::with("");
    let url = format!("http://{}/", proxied.addr);
    let page = Lines::curl(["--haproxy-protocol", &url]).rest();
    assert!(page[0].starts_with("HTTP/1.1 200"), "{page:?}");
    let mut bare = Lines::curl([&url]);
    assert!(bare.rest().is_empty());
    assert!(!bare.wait().success());
}

#[test]
fn tls_begins_behind_the_header_however_it_is_cut() {
    let folder = tempfile::tempdir().unwrap();
    let certificate = Certificate::make(folder.path(), "own");
    let config = format!("{}{ONE_EACH}", certificate.config());
    let server = Server::with(&config, &["--listen", "127.0.0.1:0 tls proxy"]);
    let addr = tls_addr(&server);
    let mut v2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0f\xc0\0\x02\x07".to_vec();
    v2.extend([198, 51, 100, 1, 0x12, 0x67, 1, 0xbb, 4, 0, 0]);
    let mut kept = Vec::new();
    for (header, pause) in [
        (v1("192.0.2.5").into_bytes(), 0),
        (v1("192.0.2.6").into_bytes(), 1),
        (v2, 1),
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
    server.await_metric("fanfare_tls_handshakes_total", 3.0);
    // One too many is closed before the handshake.
    let mut again = connect(addr);
    again.write_all(v1("192.0.2.5").as_bytes()).unwrap();
    ends_without_a_word(again);
    server.await_metric("fanfare_conns_refused_total{limit=\"source_conns\"}", 1.0);
    let proxy = haproxy("tcp", "SERVER send-proxy-v2", addr);
    // Nothing is left of whoever looked whether the proxy was there.
    server.await_metric("fanfare_conns", 3.0);
    let mut through = secured(proxy.addr, &certificate.trusting());
    through
        .write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        .unwrap();
    let mut start = [0; 12];
    through.read_exact(&mut start).unwrap();
    assert_eq!(&start, b"HTTP/1.1 200");
}

#[test]
fn header_that_is_wrong_missing_or_late_ends_the_conn() {
    let proxied = Proxied::with(ONE_EACH);
    let mut neighbour = Socket::subscribed(proxied.server.addr, "channel=a");
    let wrong: [&[u8]; 5] = [
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.1 4711\r\n",
        b"\r\n\r\n\0\r\nQUIT\n\x31",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff",
        b"PROXY TCP4 192.0.2.1 198.51",
    ];
    for bytes in wrong {
        let mut stream = connect(proxied.addr);
        stream.write_all(bytes).unwrap();
        ends_without_a_word(stream);
    }
    ends_without_a_word(connect(proxied.addr));
    let name = "fanfare_conns_closed_total{reason=\"bad_proxy_header\"}";
    proxied.server.await_metric(name, 6.0);
    let id = Feeder::connect(&proxied.server.feed).publish("a", 1);
    assert_eq!(neighbour.publication()["id"], id.as_str());
    // Behind a good one the request has its time and its answers.
    let (response, _) = ask(
        connect(proxied.addr),
        &format!("{}GET / HTTP/1.1\r\n", v1("192.0.2.1")),
    );
    assert_eq!(response.status, 408);
}

#[test]
fn proxies_that_are_not_trusted_are_not_believed() {
    let config = format!("{ONE_EACH}[proxy]\ntrusted = [\"127.0.0.77\"]\n");
    let proxied = Proxied::with(&config);
    let mut liar = connect(proxied.addr);
    let _ = liar.write_all(v1("192.0.2.1").as_bytes());
    ends_without_a_word(liar);
    let name = "fanfare_conns_refused_total{limit=\"proxy\"}";
    proxied.server.await_metric(name, 1.0);
    let head = format!("{}GET / HTTP/1.1\r\nHost: a\r\n\r\n", v1("192.0.2.1"));
    assert_eq!(ask(connect_from(77, proxied.addr), &head).0.status, 200);
    // On the other listener nobody's field counts but the proxy's.
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
    // One that names nobody is held to nothing itself.
    let (_, _kept) = stream_from(77, addr, "X-Forwarded-For: unknown\r\n");
    assert_eq!(stream_from(77, addr, "").0, 200);
}

#[test]
fn field_that_is_configured_is_the_one_that_counts() {
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
