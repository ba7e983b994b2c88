//! Deadlines and limits measure the peer, not the server's own lag. In these tests the server lags
//! after SIGSTOP and SIGCONT, because of a slow consumer, or during many simultaneous connection
//! attempts.

use std::io::{BufReader, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::handmade::{handshake, upgraded};
use crate::support::raw::{connect, connect_from};
use crate::support::secure::{Certificate, secured, tls_addr};
use crate::support::socket::frame;
use crate::support::{Feeder, Raw, Server, Socket, within};

const PING: &[u8] = &[0x89, 0];
const CLOSE: u8 = 0x88;

/// The heartbeat interval of the tests that stop the server. `FANFARE_PAUSE_HEARTBEAT_MS=25000`
/// selects the server's default.
fn heartbeat() -> Duration {
    let chosen = std::env::var("FANFARE_PAUSE_HEARTBEAT_MS").ok();
    Duration::from_millis(chosen.map_or(1000, |text| text.parse().unwrap()))
}

/// A client that answers pings, and sends its other data as fast as the server accepts the data.
struct Client {
    stream: TcpStream,
    unsent: Vec<u8>,
}

impl Client {
    /// Reads and writes once. Returns false if the server has closed the connection.
    fn act(&mut self) -> bool {
        let mut bytes = [0; 4096];
        let is_open = match self.stream.read(&mut bytes) {
            Ok(0) => false,
            Ok(count) => {
                let got = &bytes[..count];
                let pings = got.windows(2).filter(|pair| *pair == PING).count();
                // Pongs are queued after the frames that are not sent yet.
                self.unsent.extend(frame(0x8a, b"").repeat(pings));
                !got.contains(&CLOSE)
            }
            Err(error) => error.kind() == ErrorKind::WouldBlock,
        };
        if let Ok(count) = self.stream.write(&self.unsent) {
            self.unsent.drain(..count);
        }
        is_open
    }
}

/// Several clients, and the number of clients whose connection has ended.
struct Clients {
    open: Vec<Client>,
    ended: usize,
}

impl Clients {
    fn connect(server: &Server, count: usize) -> Self {
        let open = (0..count).map(|_| {
            let stream = upgraded(server.addr, "channel=a");
            stream.set_nonblocking(true).unwrap();
            let unsent = Vec::new();
            Client { stream, unsent }
        });
        Self {
            open: open.collect(),
            ended: 0,
        }
    }

    /// Lets all clients act for this time.
    fn act(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            let before = self.open.len();
            self.open.retain_mut(Client::act);
            self.ended += before - self.open.len();
            thread::sleep(Duration::from_millis(10));
        }
    }
}

#[test]
fn stopped_server_closes_no_client_that_answers() {
    let heartbeat = heartbeat();
    let phases = [0.0, 0.4, 0.96, 1.96].map(|phase| {
        thread::spawn(move || {
            let interval = heartbeat.as_millis();
            let server = Server::with(&format!("[heartbeat]\ninterval_ms = {interval}\n"), &[]);
            let mut quiet = Clients::connect(&server, 200);
            quiet.act(heartbeat.mul_f64(phase));
            server.signal("STOP");
            quiet.act(heartbeat.mul_f64(2.4));
            server.signal("CONT");
            quiet.act(heartbeat * 3);
            let idle = server.metric("fanfare_conns_closed_total{reason=\"idle\"}");
            assert_eq!((quiet.ended, idle), (0, 0.0), "stopped at {phase}");
            assert!(server.metric("fanfare_turns_late_total") > 0.0);
        })
    });
    for phase in phases {
        phase.join().unwrap();
    }
}

#[test]
fn client_that_answers_no_ping_is_closed() {
    let server = Server::with("[heartbeat]\ninterval_ms = 300\n", &[]);
    let _deaf = upgraded(server.addr, "channel=a");
    server.await_metric("fanfare_conns_closed_total{reason=\"idle\"}", 1.0);
}

#[test]
fn requests_and_handshakes_sent_to_a_stopped_server_are_answered() {
    let folder = tempfile::tempdir().unwrap();
    let certificate = Certificate::make(folder.path(), "one");
    let limits = "[limits]\nrequest_head_ms = 2000\n";
    let tls = format!("{}handshake_ms = 2000\n", certificate.config());
    let server = Server::with(&format!("{limits}{tls}"), &["--listen", "127.0.0.1:0 tls"]);
    let mut plain: Vec<_> = (0..100).map(|_| connect(server.addr)).collect();
    let mut sealed: Vec<_> = (0..20)
        .map(|_| secured(tls_addr(&server), &certificate.trusting()))
        .collect();
    server.await_metric("fanfare_conns", 120.0);
    server.signal("STOP");
    let request = b"GET /poll?channel=a&timeout=0 HTTP/1.1\r\nHost: a\r\n\r\n";
    for client in &mut plain {
        client.write_all(request).unwrap();
    }
    for client in &mut sealed {
        // The client sends only its ClientHello. The rest of the handshake needs the server.
        client.conn.write_tls(&mut client.sock).unwrap();
    }
    // The sleep is longer than both deadlines. Each deadline is long enough for 20 handshakes on a
    // busy machine.
    thread::sleep(Duration::from_millis(2300));
    server.signal("CONT");
    for client in plain {
        assert_eq!(Raw::read(&mut BufReader::new(client)).status, 200);
    }
    for mut client in sealed {
        client.write_all(request).unwrap();
        let mut head = [0; 12];
        client.read_exact(&mut head).unwrap();
        assert_eq!(&head, b"HTTP/1.1 200");
    }
    for reason in ["head_timeout", "tls_error"] {
        let name = format!("fanfare_conns_closed_total{{reason=\"{reason}\"}}");
        assert!(server.metric(&name) < 0.5, "{reason}");
    }
}

/// Whether the server has accepted a connection and read all its bytes, according to the kernel's
/// table of connections (`proc_pid_net`(5)). A connection that is not accepted has no inode.
fn is_read(client: SocketAddr, server: SocketAddr) -> bool {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let end = |addr: SocketAddr| format!("0100007F:{:04X}", addr.port());
    let (near, far) = (end(server), end(client));
    table.lines().any(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        fields.get(1..3) == Some(&[near.as_str(), far.as_str()])
            && fields[4].ends_with(":00000000")
            && fields[9] != "0"
    })
}

#[test]
fn health_check_sent_to_a_stopped_server_is_answered() {
    let server = Server::start();
    let mut check = connect(server.admin);
    check.write_all(b"GET /healthz HTTP/1.1\r\n").unwrap();
    within("the first line to be read", || {
        is_read(check.local_addr().unwrap(), server.admin).then_some(())
    });
    server.signal("STOP");
    check.write_all(b"Host: a\r\n\r\n").unwrap();
    thread::sleep(Duration::from_millis(2200));
    server.signal("CONT");
    assert_eq!(Raw::read(&mut BufReader::new(check)).status, 200);
}

#[test]
fn client_that_sends_half_a_head_is_closed() {
    let server = Server::with("[limits]\nrequest_head_ms = 300\n", &[]);
    let mut slow = connect(server.addr);
    slow.write_all(b"GET / HTTP/1.1\r\n").unwrap();
    assert_eq!(Raw::read(&mut BufReader::new(slow)).status, 408);
}

/// A server, a consumer, and clients that send more publications than all buffers have room for.
struct Held {
    server: Server,
    consumer: Feeder,
    clients: Clients,
    messages: usize,
}

impl Held {
    fn new(heartbeat_ms: u32) -> Self {
        const CLIENTS: usize = 40;
        const EACH: usize = 12;
        let config = format!(
            "[heartbeat]\ninterval_ms = {heartbeat_ms}\n\
             [[namespace]]\nmatch = \"chat:*\"\nclient_publish = \"consume\"\n"
        );
        let server = Server::with(&config, &[]);
        let mut consumer = Feeder::connect(&server.feed);
        consumer.send(&json!({"consume": ["chat:*"], "ack": true}));
        assert_eq!(consumer.answer()["ok"], true);
        let mut clients = Clients::connect(&server, CLIENTS);
        let pad = "x".repeat(20_000);
        let message = json!({"type": "publish", "channel": "chat:1", "data": pad}).to_string();
        for client in &mut clients.open {
            client.unsent = frame(0x81, message.as_bytes()).repeat(EACH);
        }
        Self {
            server,
            consumer,
            clients,
            messages: CLIENTS * EACH,
        }
    }

    /// Reads all messages as the consumer, with a pause after each message. No client may be
    /// closed.
    fn consume(mut self, pause: Duration) {
        let messages = self.messages;
        let reader = thread::spawn(move || {
            for _ in 0..messages {
                assert_eq!(self.consumer.answer()["type"], "publish");
                thread::sleep(pause);
            }
        });
        while !reader.is_finished() {
            self.clients.act(Duration::from_millis(50));
        }
        reader.join().unwrap();
        let idle = "fanfare_conns_closed_total{reason=\"idle\"}";
        assert_eq!((self.clients.ended, self.server.metric(idle)), (0, 0.0));
    }
}

#[test]
fn clients_held_up_by_a_slow_consumer_are_not_closed_as_idle() {
    // The slow consumer delays each client for longer than two heartbeats.
    Held::new(1_000).consume(Duration::from_millis(20));
}

#[test]
fn consumer_is_not_cut_off_for_time_while_the_server_was_stopped() {
    let mut held = Held::new(25_000);
    let name = "fanfare_client_publications_total";
    let mut before = -1.0;
    within("a full consumer", || {
        held.clients.act(Duration::from_millis(200));
        let published = held.server.metric(name);
        let is_full = published > 0.0 && (published - before).abs() < 0.5;
        before = published;
        is_full.then_some(())
    });
    held.server.signal("STOP");
    // The server is stopped for longer than a consumer may read nothing.
    thread::sleep(Duration::from_millis(10_500));
    held.server.signal("CONT");
    held.consume(Duration::ZERO);
}

#[test]
fn unread_requests_of_a_storm_are_not_crowded_out() {
    const CLIENTS: u16 = 600;
    let server = Server::with("[limits]\npending_conns = 50\n", &["--workers", "1"]);
    let mut busy: Vec<_> = (0..50)
        .map(|_| Socket::subscribed(server.addr, "channel=a"))
        .collect();
    let join = frame(0x81, br#"{"type":"subscribe","channel":"b"}"#);
    let leave = frame(0x81, br#"{"type":"unsubscribe","channel":"b"}"#);
    let commands = [join, leave].concat().repeat(300);
    server.signal("STOP");
    for socket in &mut busy {
        socket.send_raw(&commands);
    }
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let mut client = connect_from(u8::try_from(number % 200).unwrap() + 1, server.addr);
            client.write_all(&handshake("channel=a")).unwrap();
            client
        })
        .collect();
    server.signal("CONT");
    for client in clients {
        assert_eq!(Raw::read(&mut BufReader::new(client)).status, 101);
    }
    assert!(server.metric("fanfare_conns_closed_total{reason=\"crowded_out\"}") < 0.5);
}
