//! TLS with independent clients (curl, openssl, sslscan, Python, Node and Chromium) and with
//! hostile clients.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Instant;

use serde_json::{Value, json};
use tempfile::TempDir;
use tungstenite::{Message, WebSocket};

use crate::support::raw::connect_small;
use crate::support::secure::{Certificate, Secured, secured, secured_over, tls_addr};
use crate::support::{Feeder, Lines, PATIENCE, Server, dependency, within};

const TLS: &[&str] = &["--listen", "127.0.0.1:0 tls"];

/// A server with a certificate, and the address of its TLS listener.
struct Rig {
    folder: TempDir,
    certificate: Certificate,
    server: Server,
    addr: SocketAddr,
}

impl Rig {
    fn with(config: &str) -> Self {
        Self::with_tls(config, "")
    }

    /// Starts a server with additional lines in the section `[tls]`.
    fn with_tls(config: &str, lines: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let certificate = Certificate::make(folder.path(), "own");
        let config = format!("{config}{}{lines}", certificate.config());
        let server = Server::with(&config, TLS);
        let addr = tls_addr(&server);
        Self {
            folder,
            certificate,
            server,
            addr,
        }
    }

    fn start() -> Self {
        Self::with("")
    }

    fn url(&self, scheme: &str, path: &str) -> String {
        format!("{scheme}://localhost:{}{path}", self.addr.port())
    }

    fn stream(&self) -> Secured {
        secured(self.addr, &self.certificate.trusting())
    }

    fn socket(&self, query: &str) -> WebSocket<Secured> {
        let url = self.url("ws", &format!("/ws?{query}"));
        let (mut socket, _) = tungstenite::client(url, self.stream()).unwrap();
        assert_eq!(next_json(&mut socket)["type"], "welcome");
        assert_eq!(next_json(&mut socket)["type"], "subscribed");
        socket
    }
}

fn next_json(socket: &mut WebSocket<Secured>) -> Value {
    loop {
        if let Message::Text(text) = socket.read().unwrap() {
            return serde_json::from_str(&text).unwrap();
        }
    }
}

/// Publishes as many publications as the client expects, and checks that the client receives them.
fn check_peer(server: &Server, peer: &mut Lines) {
    assert_eq!(peer.json()["protocol"], "fanfare.v1");
    assert_eq!(peer.json()["type"], "welcome");
    assert_eq!(peer.json()["type"], "subscribed");
    let mut feeder = Feeder::connect(&server.feed);
    for n in 0..20 {
        // Some payloads need several records.
        let data = json!({"n": n, "fill": "ü".repeat(n * 2000)});
        let id = feeder.publish("a", data.clone());
        let value = peer.json();
        assert_eq!(value["id"], id.as_str());
        assert_eq!(value["data"], data);
    }
    assert_eq!(peer.json_with("closed")["closed"], 1000);
    assert!(peer.wait().success(), "{}", peer.stderr());
}

fn openssl(addr: SocketAddr, args: &[&str], input: &[u8]) -> Output {
    let mut child = Command::new("openssl")
        .args([
            "s_client",
            "-connect",
            &addr.to_string(),
            "-servername",
            "localhost",
        ])
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    child.wait_with_output().unwrap()
}

#[test]
fn curl_receives_page_stream_and_poll() {
    let rig = Rig::start();
    let authority = rig.certificate.path.to_str().unwrap();
    let page = Lines::curl(["--cacert", authority, &rig.url("https", "/")]).rest();
    assert!(page[0].starts_with("HTTP/1.1 200"), "{page:?}");
    assert_eq!(page.last().unwrap(), "</html>");
    let stream_url = rig.url("https", "/sse?channel=a");
    let mut stream = Lines::curl(["--cacert", authority, &stream_url]);
    stream.until("id:");
    let mut feeder = Feeder::connect(&rig.server.feed);
    let first = feeder.publish("a", "first");
    assert_eq!(stream.until("id:"), format!("id: {first}"));
    assert_eq!(stream.next().unwrap(), r#"data: "first""#);
    let second = feeder.publish("a", "x".repeat(200_000));
    let poll_url = rig.url("https", &format!("/poll?channel=a&since={first}"));
    let answer = Lines::curl(["--cacert", authority, &poll_url]).rest();
    let answer: Value = serde_json::from_str(answer.last().unwrap()).unwrap();
    assert_eq!(answer["publications"][0]["id"], second.as_str());
    assert_eq!(answer["publications"][0]["data"], "x".repeat(200_000));
}

#[test]
fn python_and_node_receive_everything_in_order() {
    let rig = Rig::start();
    let url = rig.url("wss", "/ws?channel=a");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/websockets_client.py");
    let mut python = Command::new(dependency("venv/bin/python"));
    python
        .arg(script)
        .env("SSL_CERT_FILE", &rig.certificate.path);
    let mut node = Command::new("node");
    node.arg(dependency("node").join("ws_client.mjs"))
        .env("NODE_EXTRA_CA_CERTS", &rig.certificate.path);
    for mut command in [python, node] {
        let mut peer = Lines::run(command.args([&url, "20"]));
        check_peer(&rig.server, &mut peer);
    }
}

#[test]
fn browser_receives_a_stream_over_tls() {
    let rig = Rig::start();
    let mut browser = Lines::run(
        Command::new("node")
            .arg(dependency("node").join("browser_resume.mjs"))
            .arg("/usr/bin/chromium")
            .arg(rig.url("https", "/nowhere"))
            .arg(rig.folder.path().join("profile")),
    );
    assert_eq!(browser.json()["opened"], 1);
    rig.server.await_metric("fanfare_subscribers", 1.0);
    let mut feeder = Feeder::connect(&rig.server.feed);
    for text in ["one", "two"] {
        let id = feeder.publish("a", text);
        assert_eq!(browser.json()["id"], id.as_str());
    }
    assert!(browser.wait().success(), "{}", browser.stderr());
}

#[test]
fn openssl_connects_with_tls_1_2_and_1_3_and_no_older_version() {
    let rig = Rig::start();
    let request = b"GET /poll?channel=a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    for (version, is_spoken) in [("-tls1_3", true), ("-tls1_2", true), ("-tls1_1", false)] {
        let args = [version, "-ign_eof", "-alpn", "h2,http/1.1"];
        let output = openssl(rig.addr, &args, request);
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(
            printed.contains("HTTP/1.1 200 OK"),
            is_spoken,
            "{version}: {printed}"
        );
        assert_eq!(
            printed.contains("ALPN protocol: http/1.1"),
            is_spoken,
            "{printed}"
        );
    }
}

#[test]
fn sslscan_finds_no_weak_cipher() {
    let rig = Rig::start();
    let scan = Command::new("sslscan")
        .args(["--no-colour", &rig.addr.to_string()])
        .output()
        .expect("sslscan, of the Debian package of that name");
    let text = String::from_utf8_lossy(&scan.stdout);
    let words = |line: &str| {
        line.split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let lines: Vec<Vec<String>> = text.lines().map(words).collect();
    let says = |wanted: &str| lines.contains(&words(wanted));
    for old in ["SSLv2", "SSLv3", "TLSv1.0", "TLSv1.1"] {
        assert!(says(&format!("{old} disabled")), "{text}");
    }
    for version in ["TLSv1.2", "TLSv1.3"] {
        assert!(says(&format!("{version} enabled")), "{text}");
        let heartbleed = format!("{version} not vulnerable to heartbleed");
        assert!(says(&heartbleed), "{text}");
    }
    assert!(says("Session renegotiation not supported"), "{text}");
    let suites = lines.iter().filter(|line| {
        let first = line.first().map(String::as_str);
        matches!(first, Some("Preferred" | "Accepted"))
    });
    let suites: Vec<&str> = suites.map(|line| line[4].as_str()).collect();
    assert!(suites.len() >= 6, "{text}");
    for suite in suites {
        let is_sealed = suite.contains("GCM") || suite.contains("CHACHA20");
        let is_forward_secret = suite.starts_with("TLS_") || suite.starts_with("ECDHE-");
        assert!(is_sealed && is_forward_secret, "{suite}");
    }
}

#[test]
fn openssl_resumes_with_its_ticket_after_a_reload() {
    let rig = Rig::start();
    let ticket = rig.folder.path().join("ticket");
    let ticket = ticket.to_str().unwrap();
    let request = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let first = openssl(rig.addr, &["-ign_eof", "-sess_out", ticket], request);
    assert!(String::from_utf8_lossy(&first.stdout).contains("\nNew, TLSv1.3"));
    rig.server.signal("HUP");
    within("the reload", || rig.has_logged("keys were read again"));
    let again = openssl(rig.addr, &["-ign_eof", "-sess_in", ticket], request);
    let again = String::from_utf8_lossy(&again.stdout).into_owned();
    assert!(again.contains("\nReused, TLSv1.3"), "{again}");
    assert!(again.contains("HTTP/1.1 200 OK"), "{again}");
    let resumed = "fanfare_tls_handshakes_resumed_total";
    rig.server.await_metric(resumed, 1.0);
}

impl Rig {
    /// Returns `Some` if the server's log contains this text.
    fn has_logged(&self, text: &str) -> Option<()> {
        let path = self.server.feed.parent()?.join("stderr.txt");
        let log = std::fs::read_to_string(path).ok()?;
        log.contains(text).then_some(())
    }
}

#[test]
fn reload_shows_the_new_certificate_and_closes_no_conn() {
    let rig = Rig::start();
    let mut socket = rig.socket("channel=a");
    let other = Certificate::make(rig.folder.path(), "other");
    assert!(rig.certificate.is_shown_at(rig.addr));
    assert!(!other.is_shown_at(rig.addr));
    other.write_as(&rig.certificate);
    rig.server.signal("HUP");
    within("the new certificate", || {
        other.is_shown_at(rig.addr).then_some(())
    });
    // A reload with an unusable key file changes nothing.
    std::fs::write(&rig.certificate.key, "no key").unwrap();
    rig.server.signal("HUP");
    within("the refusal", || rig.has_logged("nothing has changed"));
    assert!(rig.has_logged("own.key").is_some());
    assert!(other.is_shown_at(rig.addr));
    let mut feeder = Feeder::connect(&rig.server.feed);
    let id = feeder.publish("a", "still here");
    assert_eq!(next_json(&mut socket)["id"], id.as_str());
}

#[test]
fn bytes_that_are_not_tls_get_an_alert_without_effect_on_others() {
    let rig = Rig::start();
    let mut socket = rig.socket("channel=a");
    let mut stream = TcpStream::connect(rig.addr).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    // These bytes are neither TLS nor HTTP. The module `refusals` tests plain HTTP.
    stream.write_all(b"\0what is this?").unwrap();
    let mut answer = Vec::new();
    let _ended = stream.read_to_end(&mut answer);
    // The answer is a fatal alert (RFC 8446, 6).
    assert_eq!((answer[0], answer.len()), (21, 7), "{answer:?}");
    let closed = "fanfare_conns_closed_total{reason=\"tls_error\"}";
    rig.server.await_metric(closed, 1.0);
    let mut feeder = Feeder::connect(&rig.server.feed);
    let id = feeder.publish("a", 1);
    assert_eq!(next_json(&mut socket)["id"], id.as_str());
}

#[test]
fn unfinished_handshake_is_closed_at_its_deadline() {
    let rig = Rig::with_tls(
        "[limits]\nrequest_head_ms = 60000\n",
        "handshake_ms = 300\n",
    );
    let mut socket = rig.socket("channel=a");
    let silent: Vec<_> = (0..50)
        .map(|_| TcpStream::connect(rig.addr).unwrap())
        .collect();
    let mut halves = Vec::new();
    for _ in 0..50 {
        let mut stream = TcpStream::connect(rig.addr).unwrap();
        stream.write_all(&[22, 3, 1, 2, 0, 1, 0, 1, 252]).unwrap();
        halves.push(stream);
    }
    for mut stream in silent.into_iter().chain(halves) {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        assert_eq!(stream.read(&mut [0; 64]).unwrap_or(0), 0);
    }
    let mut feeder = Feeder::connect(&rig.server.feed);
    let id = feeder.publish("a", 1);
    assert_eq!(next_json(&mut socket)["id"], id.as_str());
}

#[test]
fn stalled_subscriber_receives_a_gap_and_memory_stays_bounded() {
    let rig = Rig::with("[quota]\nsend_buffer_bytes = 16384\n[log]\nbytes = 1048576\n");
    let mut socket = rig.socket("channel=a");
    let mut feeder = Feeder::connect(&rig.server.feed);
    let before = rig.server.process().resident_bytes();
    let payload = "x".repeat(50_000);
    let mut last = String::new();
    for _ in 0..400 {
        last = feeder.publish("a", payload.clone());
    }
    let grown = rig.server.process().resident_bytes().saturating_sub(before);
    assert!(
        grown < 12 << 20,
        "{grown} bytes for a subscriber that does not read"
    );
    let (mut missed, mut received) = (0, 0);
    loop {
        let value = next_json(&mut socket);
        if value["type"] == "gap" {
            missed += value["missed"].as_u64().unwrap();
        } else {
            received += 1;
            if value["id"] == last.as_str() {
                break;
            }
        }
    }
    assert_eq!(missed + received, 400);
    assert!(missed > 100, "{missed}");
}

#[test]
fn client_that_has_sent_close_notify_still_gets_its_answer() {
    let rig = Rig::start();
    let mut stream = rig.stream();
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        .unwrap();
    stream.conn.send_close_notify();
    stream.flush().unwrap();
    stream.sock.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    // The read fails if the server has not sent `close_notify`.
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    assert!(answer.ends_with("</html>\n"));
}

#[test]
fn pipelined_requests_are_answered_in_order_over_tls() {
    let rig = Rig::start();
    let mut stream = rig.stream();
    let count = 500;
    let request = "GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n".repeat(count);
    let begun = Instant::now();
    stream.write_all(request.as_bytes()).unwrap();
    let mut lines = BufReader::new(stream).lines().map(Result::unwrap);
    let answered = lines
        .by_ref()
        .filter(|line| line.starts_with("HTTP/1.1 404"));
    assert_eq!(answered.take(count).count(), count);
    assert!(begun.elapsed() < PATIENCE);
}

#[test]
fn client_certificate_is_requested_if_configured() {
    let folder = tempfile::tempdir().unwrap();
    let own = Certificate::make(folder.path(), "own");
    let authority = Certificate::make(folder.path(), "authority");
    let config = format!(
        "{}client_auth = \"required\"\nclient_authorities = {:?}\n",
        own.config(),
        authority.path
    );
    let server = Server::with(&config, TLS);
    let url = format!("https://localhost:{}/", tls_addr(&server).port());
    let trust = ["--cacert", own.path.to_str().unwrap()];
    let shown = [
        "--cert",
        authority.path.to_str().unwrap(),
        "--key",
        authority.key.to_str().unwrap(),
    ];
    let mut stranger = Lines::curl(trust.into_iter().chain([url.as_str()]));
    stranger.rest();
    assert!(!stranger.wait().success());
    let mut friend = Lines::curl(trust.into_iter().chain(shown).chain([url.as_str()]));
    assert!(
        friend.rest()[0].starts_with("HTTP/1.1 200"),
        "{}",
        friend.stderr()
    );
}

#[test]
fn self_signed_certificate_is_made_at_start() {
    let server = Server::with("", &["--tls-self-signed", "--listen", "127.0.0.1:0 tls"]);
    let url = format!("https://{}/", tls_addr(&server));
    let page = Lines::curl(["--insecure", &url]).rest();
    assert!(page[0].starts_with("HTTP/1.1 200"), "{page:?}");
}

#[test]
fn unusable_files_are_named_at_start() {
    let folder = tempfile::tempdir().unwrap();
    let own = Certificate::make(folder.path(), "own");
    for (spoilt, path) in [("nonsense", &own.key), ("", &own.path)] {
        std::fs::write(path, spoilt).unwrap();
        let (status, printed) =
            Server::in_folder(folder.path(), "127.0.0.1:0 tls", &own.config(), &[]).unwrap_err();
        assert_eq!(status.code(), Some(2), "{printed}");
        assert!(printed.contains(path.to_str().unwrap()), "{printed}");
    }
}

#[test]
fn publications_of_all_sizes_and_many_records_in_one_segment_pass() {
    let rig = Rig::start();
    let mut socket = rig.socket("channel=a");
    let mut others = [rig.socket("channel=a"), rig.socket("channel=a")];
    let mut feeder = Feeder::connect(&rig.server.feed);
    for length in [1, 1400, 16_384, 300_000] {
        let data = "x".repeat(length);
        let id = feeder.publish("a", data.clone());
        for socket in others.iter_mut().chain([&mut socket]) {
            let value = next_json(socket);
            assert_eq!((&value["id"], &value["data"]), (&json!(id), &json!(data)));
        }
    }
    drop(others);
    // The client sends many records in one TCP segment.
    for n in 0..20 {
        let ping = Message::Ping(vec![n; 100].into());
        socket.write(ping).unwrap();
    }
    socket.flush().unwrap();
    for n in 0..20 {
        assert_eq!(socket.read().unwrap(), Message::Pong(vec![n; 100].into()));
    }
    socket.close(None).unwrap();
    while socket.read().is_ok() {}
    rig.server.await_metric("fanfare_conns", 0.0);
}

#[test]
fn tls_1_2_carries_a_page() {
    let rig = Rig::start();
    let head = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let answer = openssl(rig.addr, &["-tls1_2", "-quiet", "-ign_eof"], head);
    let text = String::from_utf8_lossy(&answer.stdout);
    assert!(text.ends_with("</html>\n"), "{text}");
}

#[test]
fn invalid_record_closes_its_conn_without_effect_on_others() {
    let rig = Rig::start();
    let mut bystander = rig.socket("channel=a");
    let mut socket = rig.socket("channel=a");
    // No key can decrypt this application data record.
    let record = [&[23, 3, 3, 0, 40][..], &[0; 40]].concat();
    socket.get_mut().sock.write_all(&record).unwrap();
    let ended = loop {
        match socket.read() {
            Ok(_) => {}
            Err(error) => break error.to_string(),
        }
    };
    assert!(ended.contains("BadRecordMac"), "{ended}");
    rig.server.await_metric("fanfare_conns", 1.0);
    let closed = "fanfare_conns_closed_total{reason=\"tls_error\"}";
    rig.server.await_metric(closed, 1.0);
    let mut feeder = Feeder::connect(&rig.server.feed);
    let id = feeder.publish("a", 1);
    assert_eq!(next_json(&mut bystander)["id"], id.as_str());
}

#[test]
fn client_that_updates_its_key_continues() {
    let rig = Rig::start();
    let mut socket = rig.socket("channel=a");
    let mut feeder = Feeder::connect(&rig.server.feed);
    let first = feeder.publish("a", 1);
    assert_eq!(next_json(&mut socket)["id"], first.as_str());
    socket.get_mut().conn.refresh_traffic_keys().unwrap();
    socket.get_mut().flush().unwrap();
    socket.send(Message::Ping(vec![1].into())).unwrap();
    assert_eq!(socket.read().unwrap(), Message::Pong(vec![1].into()));
    let second = feeder.publish("a", 2);
    assert_eq!(next_json(&mut socket)["id"], second.as_str());
}

/// Returns a client whose handshake is complete, except that its last flight has not been sent yet.
fn connected_without_last_flight(rig: &Rig) -> Secured {
    let mut stream = rig.stream();
    stream.conn.write_tls(&mut stream.sock).unwrap();
    while stream.conn.is_handshaking() {
        stream.conn.read_tls(&mut stream.sock).unwrap();
        stream.conn.process_new_packets().unwrap();
    }
    stream
}

/// Sends all pending bytes in one write.
fn send_pending(stream: &mut Secured) {
    let mut bytes = Vec::new();
    while stream.conn.wants_write() {
        stream.conn.write_tls(&mut bytes).unwrap();
    }
    stream.sock.write_all(&bytes).unwrap();
}

const CLOSING: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

#[test]
fn key_update_with_the_first_request_is_answered() {
    let rig = Rig::start();
    for _ in 0..5 {
        let mut stream = connected_without_last_flight(&rig);
        stream.conn.refresh_traffic_keys().unwrap();
        stream.conn.writer().write_all(CLOSING).unwrap();
        send_pending(&mut stream);
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.ends_with("</html>\n"), "{answer}");
    }
}

#[test]
fn request_followed_by_fin_in_the_first_flight_is_answered() {
    let rig = Rig::start();
    let mut stream = connected_without_last_flight(&rig);
    stream.conn.writer().write_all(CLOSING).unwrap();
    rig.server.signal("STOP");
    send_pending(&mut stream);
    stream.sock.shutdown(Shutdown::Write).unwrap();
    rig.server.signal("CONT");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.ends_with("</html>\n"), "{answer}");
}

#[test]
fn slow_reader_receives_the_whole_last_answer() {
    let rig = Rig::start();
    let mut feeder = Feeder::connect(&rig.server.feed);
    let first = feeder.publish("a", "first");
    // The answers have different lengths. So the number of bytes in the socket's buffer differs
    // when the server writes the last byte.
    for length in (20_000..150_000).step_by(10_000) {
        let channel = format!("a{length}");
        let data = "x".repeat(length);
        feeder.publish(&channel, data.clone());
        let mut stream = secured_over(connect_small(rig.addr), &rig.certificate.trusting());
        let written = ["fanfare_writes_blocked_total", "fanfare_deliveries_total"];
        let sum = || {
            written
                .iter()
                .map(|name| rig.server.metric(name))
                .sum::<f64>()
        };
        let before = sum();
        let request = format!(
            "GET /poll?channel={channel}&since={first} HTTP/1.1\r\nHost: a\r\n\
             Connection: close\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).unwrap();
        within("a full socket, or a complete delivery", || {
            (sum() > before).then_some(())
        });
        let mut answer = String::new();
        // The read fails if the stream ends without `close_notify`.
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.contains(&data), "{} of {length} bytes", answer.len());
    }
}

#[test]
fn close_notify_without_fin_ends_a_waiting_poll() {
    // If the server ignored `close_notify`, the connection would stay open for a minute.
    let rig = Rig::with("[limits]\nrequest_head_ms = 60000\npoll_timeout_ms = 60000\n");
    let mut feeder = Feeder::connect(&rig.server.feed);
    let first = feeder.publish("a", "first");
    for behind in ["", "GET / HTTP/1.1\r\nHost: a\r\n\r\n"] {
        let mut stream = rig.stream();
        let poll = format!("GET /poll?channel=a&since={first} HTTP/1.1\r\nHost: a\r\n\r\n");
        stream.write_all(poll.as_bytes()).unwrap();
        let waiting = "fanfare_streams{transport=\"long_poll\"}";
        rig.server.await_metric(waiting, 1.0);
        stream.write_all(behind.as_bytes()).unwrap();
        stream.conn.send_close_notify();
        stream.flush().unwrap();
        rig.server.await_metric("fanfare_conns", 0.0);
    }
}

#[test]
fn every_cipher_carries_a_page() {
    let rig = Rig::start();
    let ciphers = [
        "TLS_AES_128_GCM_SHA256",
        "TLS_AES_256_GCM_SHA384",
        "TLS_CHACHA20_POLY1305_SHA256",
    ];
    for cipher in ciphers {
        let args = ["-tls1_3", "-ciphersuites", cipher, "-quiet", "-ign_eof"];
        let answer = openssl(rig.addr, &args, CLOSING);
        let text = String::from_utf8_lossy(&answer.stdout);
        assert!(text.ends_with("</html>\n"), "{cipher}: {text}");
    }
}
