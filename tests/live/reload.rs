//! Tests of SIGHUP: the server reads its configuration, certificates and keys again. If a file or a
//! key is invalid, nothing changes. A log line names the settings that need a restart.

use std::fs;
use std::io::{BufReader, Read as _, Write as _};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use fanfare::config::Config;
use fanfare::config::limits::LISTENERS_MAX;
use fanfare::sys::listener::{self, SocketOptions};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::json;
use tempfile::TempDir;

use crate::support::secure::{Certificate, secured_over};
use crate::support::{Feeder, Raw, Server, Socket, fanfare, raw, within};

const SECRETS: [&str; 2] = [
    "0123456789abcdef0123456789abcdef",
    "another secret of more than 32 bytes",
];

/// A server with a secret, and its log.
struct Rig {
    server: Server,
    folder: TempDir,
    secret: PathBuf,
}

impl Rig {
    fn start(flags: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let secret = folder.path().join("secret");
        fs::write(&secret, SECRETS[0]).unwrap();
        let config = configuration(&secret, "");
        let server = Server::in_folder(folder.path(), "127.0.0.1:0", &config, flags).unwrap();
        Self {
            server,
            folder,
            secret,
        }
    }

    /// Writes the file, sends SIGHUP, and returns the log lines up to a line that contains `end`.
    fn reload(&self, config: &str, end: &str) -> String {
        let log = || fs::read_to_string(self.folder.path().join("stderr.txt")).unwrap();
        let before = log().len();
        fs::write(self.file(), config).unwrap();
        self.server.signal("HUP");
        within(&format!("`{end}` in the log"), || {
            let printed = log().split_off(before);
            let is_whole = printed.ends_with('\n');
            (is_whole && printed.contains(end)).then_some(printed)
        })
    }

    /// Waits until a listener without TLS has a number of open connections.
    fn await_conns(&self, listener: std::net::SocketAddr, expected: f64) {
        let labels = format!("listener=\"{listener}\",protocol=\"http\"");
        let name = format!("fanfare_listener_conns{{{labels}}}");
        self.server.await_metric(&name, expected);
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("fanfare.toml")
    }

    /// Whether the server accepts a token signed with this secret.
    fn takes(&self, secret: &str) -> bool {
        let key = self.folder.path().join("issuer");
        fs::write(&key, secret).unwrap();
        let mut command = fanfare();
        command
            .args(["token", "--subscribe", "a", "--key"])
            .arg(&key);
        let token = String::from_utf8(command.output().unwrap().stdout).unwrap();
        let request = format!(
            "GET /poll?channel=a&timeout=0 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\
             Authorization: Bearer {}\r\n\r\n",
            token.trim()
        );
        raw::exchange(self.server.addr, request.as_bytes()).status == 200
    }
}

fn configuration(secret: &std::path::Path, rest: &str) -> String {
    format!("[auth]\nkeys = [\"HS256 {}\"]\n{rest}", secret.display())
}

/// Returns the lines of a level, without their times.
fn lines<'a>(printed: &'a str, level: &str) -> Vec<&'a str> {
    let lines = printed.lines().filter(|line| line.contains(level));
    lines.collect()
}

#[test]
fn broken_file_changes_nothing_and_each_problem_is_an_error_with_file_line_and_key() {
    let rig = Rig::start(&[]);
    // The new secret is valid, but a reload with a broken file changes no key.
    fs::write(&rig.secret, SECRETS[1]).unwrap();
    let broken = "[heartbeat]\ninterval_ms = 5\n[quota]\noverflow = \"burst\"\ncolour = 1\n";
    let config = configuration(&rig.secret, broken);
    let printed = rig.reload(&config, "heartbeat.interval_ms");
    let errors = lines(&printed, "ERROR");
    assert_eq!(errors.len(), 3, "{printed}");
    let file = rig.file();
    let found = [
        (4, "heartbeat.interval_ms"),
        (6, "quota.overflow"),
        (7, "quota.colour"),
    ];
    for (line, key) in found {
        let place = format!("nothing has changed: {}:{line}: {key}: ", file.display());
        assert_eq!(printed.matches(&place).count(), 1, "{place}: {printed}");
    }
    let config = configuration(&rig.secret, "[heartbeat]\ninterval_ms = 5\n");
    let printed = rig.reload(&config, "heartbeat.interval_ms");
    assert_eq!(lines(&printed, "ERROR").len(), 1, "{printed}");
    // The loop runs longer than the interval at which workers check for changed keys.
    let until = Instant::now() + Duration::from_millis(700);
    while Instant::now() < until {
        assert!(rig.takes(SECRETS[0]) && !rig.takes(SECRETS[1]));
    }
    let printed = rig.reload(&configuration(&rig.secret, ""), "read again");
    // The log of the last refused token may be late.
    let mut warnings = lines(&printed, "WARN").into_iter();
    assert!(
        warnings.all(|line| line.contains("token_refused")),
        "{printed}"
    );
    within("the new secret", || {
        (!rig.takes(SECRETS[0]) && rig.takes(SECRETS[1])).then_some(())
    });
}

#[test]
fn broken_key_is_an_error_that_names_it_and_changes_nothing() {
    let rig = Rig::start(&[]);
    fs::write(&rig.secret, "short").unwrap();
    let printed = rig.reload(&configuration(&rig.secret, ""), "ERROR");
    let place = format!(
        "{}:2: auth.keys: {}",
        rig.file().display(),
        rig.secret.display()
    );
    assert!(printed.contains(&place), "{printed}");
    assert_eq!(
        printed.matches(rig.secret.to_str().unwrap()).count(),
        1,
        "{printed}"
    );
    assert!(rig.takes(SECRETS[0]));
}

#[test]
fn settings_that_need_a_restart_are_named_until_they_are_restored() {
    let rig = Rig::start(&[]);
    let changed = "[limits]\nfeed_line_bytes = 5000\n[io]\nring = \"off\"\n";
    let config = configuration(&rig.secret, changed);
    for _ in 0..2 {
        let printed = rig.reload(&config, "WARN");
        let warnings = lines(&printed, "WARN");
        assert_eq!(warnings.len(), 1, "{printed}");
        let keys = "needs a restart: io.ring, limits.feed_line_bytes";
        assert!(warnings[0].ends_with(keys), "{printed}");
    }
    let printed = rig.reload(&configuration(&rig.secret, ""), "read again");
    assert!(lines(&printed, "WARN").is_empty(), "{printed}");
}

#[test]
fn limits_and_page_change_for_open_and_new_connections() {
    let folder = tempfile::tempdir().unwrap();
    let config = "[limits]\nchannels_per_conn = 1\n";
    let server = Server::in_folder(folder.path(), "127.0.0.1:0", config, &[]).unwrap();
    let rig = Rig {
        server,
        secret: PathBuf::new(),
        folder,
    };
    let mut socket = Socket::subscribed(rig.server.addr, "channel=a");
    let subscribe = |socket: &mut Socket, channel: &str| {
        socket.send(&json!({"type": "subscribe", "channel": channel}));
        let answer = socket.json();
        (answer["type"].clone(), answer["code"].clone())
    };
    let refused = (json!("error"), json!("too_many_channels"));
    assert_eq!(subscribe(&mut socket, "b"), refused);
    assert_eq!(status(&rig, "/"), 200);

    let config = "page = false\n[limits]\nchannels_per_conn = 2\nclient_message_bytes = 1000\n\
                  [heartbeat]\ninterval_ms = 5000\n";
    let printed = rig.reload(config, "in use from now on");
    let keys = "from now on: heartbeat.interval_ms, limits.channels_per_conn, \
                limits.client_message_bytes, page\n";
    assert!(printed.contains(keys), "{printed}");
    within("the new number of channels", || {
        (subscribe(&mut socket, "b") != refused).then_some(())
    });
    assert_eq!(subscribe(&mut socket, "c"), refused);
    within("the end of the page", || {
        (status(&rig, "/") == 404).then_some(())
    });
    let mut other = Socket::open(rig.server.addr, "channel=a");
    assert_eq!(other.json()["heartbeat_ms"], 5000);
    socket.send(&json!({"type": "ping", "more": "x".repeat(1000)}));
    assert_eq!(socket.closed().0, 1009);
}

#[test]
fn limits_of_the_whole_server_change_and_open_connections_stay() {
    let limits = |conns: u32, channels: u32, per_source: u32, pending: u32| {
        format!(
            "[limits]\nconns = {conns}\nchannels = {channels}\nconns_per_source = {per_source}\n\
             pending_conns = {pending}\nmemory_bytes = 8000000000\n"
        )
    };
    let folder = tempfile::tempdir().unwrap();
    let workers = ["--workers", "1"];
    let config = limits(1, 1, 0, 0);
    let server = Server::in_folder(folder.path(), "127.0.0.1:0", &config, &workers).unwrap();
    let rig = Rig {
        server,
        folder,
        secret: PathBuf::new(),
    };
    let mut first = Socket::subscribed(rig.server.addr, "channel=a");
    assert_eq!(status(&rig, "/poll?channel=a&timeout=0"), 503);
    let printed = rig.reload(&limits(2, 2, 1, 10), "needs a restart");
    let kept = "needs a restart: limits.conns_per_source, limits.pending_conns\n";
    assert!(printed.contains(kept), "{printed}");
    let changed = "from now on: limits.channels, limits.conns\n";
    assert!(printed.contains(changed), "{printed}");
    within("room for another connection", || {
        (status(&rig, "/poll?channel=b&timeout=0") == 200).then_some(())
    });
    assert_eq!(rig.server.metric("fanfare_conns_limit"), 2.0);
    assert_eq!(rig.server.metric("fanfare_channels_limit"), 2.0);
    let mut subscribe = |channel: &str| {
        first.send(&json!({"type": "subscribe", "channel": channel}));
        first.json()["type"].clone()
    };
    assert_eq!(["b", "c"].map(&mut subscribe), ["subscribed", "error"]);
    rig.reload(&limits(1, 1, 0, 0), "in use from now on");
    within("the lower limit", || {
        (status(&rig, "/poll?channel=a&timeout=0") == 503).then_some(())
    });
    first.send(&json!({"type": "ping"}));
    assert_eq!(first.json()["type"], "pong");
}

#[test]
fn limits_on_sources_silent_connections_and_memory_have_their_new_values() {
    let limits = |per_source: u32, pending: u32, memory: u64| {
        format!(
            "[limits]\nconns_per_source = {per_source}\npending_conns = {pending}\n\
             memory_bytes = {memory}\n"
        )
    };
    let folder = tempfile::tempdir().unwrap();
    let (workers, enough) = (["--workers", "1"], 8_000_000_000);
    let config = limits(1, 100, enough);
    let server = Server::in_folder(folder.path(), "127.0.0.1:0", &config, &workers).unwrap();
    let rig = Rig {
        server,
        folder,
        secret: PathBuf::new(),
    };
    let addr = rig.server.addr;
    let applied = "in use from now on";
    // The limit of a source.
    let status_from = |octet| {
        let mut stream = raw::connect_from(octet, addr);
        let request = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        stream.write_all(request).unwrap();
        Raw::read(&mut BufReader::new(stream)).status
    };
    let _kept = raw::connect_from(9, addr);
    within("the limit of a source", || {
        (status_from(9) == 429).then_some(())
    });
    rig.reload(&limits(12, 100, enough), applied);
    within("the new limit of a source", || {
        (status_from(9) == 200).then_some(())
    });
    // The limit of silent connections.
    let _silent: Vec<_> = (0..8).map(|_| raw::connect_from(10, addr)).collect();
    rig.server.await_metric("fanfare_conns_pending", 9.0);
    let crowded_out = "fanfare_conns_closed_total{reason=\"crowded_out\"}";
    assert_eq!(rig.server.metric(crowded_out), 0.0);
    rig.reload(&limits(12, 3, enough), applied);
    let _one_more = raw::connect_from(11, addr);
    within("connections that are crowded out", || {
        (rig.server.metric(crowded_out) >= 1.0).then_some(())
    });
    rig.reload(&limits(12, 100, 1_000_000), applied);
    within("a refusal for lack of memory", || {
        (status_from(12) == 503).then_some(())
    });
    assert_eq!(rig.server.metric("fanfare_memory_limit_bytes"), 1_000_000.0);
    rig.reload(&limits(12, 100, enough), applied);
    within("enough memory", || (status_from(12) == 200).then_some(()));
}

#[test]
fn namespaces_and_bounds_of_the_log_change_for_channels_in_use() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::in_folder(folder.path(), "127.0.0.1:0", "", &[]).unwrap();
    let rig = Rig {
        server,
        folder,
        secret: PathBuf::new(),
    };
    let mut feeder = Feeder::connect(&rig.server.feed);
    let mut publish = |channel: &str, count: usize| {
        for _ in 0..count {
            feeder.publish(channel, "text");
        }
    };
    let entries = |count: f64| rig.server.await_metric("fanfare_log_entries", count);
    let mut socket = Socket::subscribed(rig.server.addr, "channel=chat:1");
    publish("chat:1", 5);
    publish("news", 5);
    entries(10.0);
    (0..5).for_each(|_| assert_eq!(socket.json()["channel"], "chat:1"));
    let say = json!({"type": "publish", "channel": "chat:1", "data": "hi", "ref": 1});
    let mut sender = Socket::subscribed(rig.server.addr, "channel=other");
    let mut say = || {
        sender.send(&say);
        sender.json()
    };
    assert_eq!(say()["code"], "not_allowed");

    let chat = "[[namespace]]\nmatch = \"chat:*\"\nlog_entries = 2\n\
                client_publish = \"broadcast\"\n";
    rig.reload(chat, "in use from now on: namespace\n");
    entries(7.0);
    within("a publication of a client", || {
        (say()["type"] == "ok").then_some(())
    });
    assert_eq!(socket.json()["data"], "hi");
    publish("chat:1", 4);
    entries(7.0);
    let in_chat = |name: &str| {
        rig.server
            .metric(&format!("{name}{{namespace=\"chat:*\"}}"))
    };
    assert!(in_chat("fanfare_namespace_publications_total") >= 5.0);
    assert_eq!(in_chat("fanfare_namespace_subscribers"), 1.0);

    let broken = "[[namespace]]\nmatch = \"news\"\nlog_entries = 0\n";
    let printed = rig.reload(broken, "ERROR");
    assert!(printed.contains("namespace[0].log_entries"), "{printed}");
    publish("news", 1);
    entries(8.0);

    rig.reload(
        "[log]\nentries = 3\n",
        "in use from now on: log.entries, namespace\n",
    );
    entries(3.0);
    assert_eq!(rig.server.metric("fanfare_log_entries_limit"), 3.0);
    rig.reload("[log]\nage_ms = 100\n", "in use from now on");
    entries(0.0);
}

#[test]
fn addresses_are_added_and_removed_and_open_connections_stay() {
    let folder = tempfile::tempdir().unwrap();
    let [first, second] = [free_address(), free_address()];
    let listen = |addresses: &[String]| format!("listen = {addresses:?}\n");
    let config = listen(&[first.to_string()]);
    let server = Server::in_folder(folder.path(), "", &config, &[]).unwrap();
    let rig = Rig {
        server,
        folder,
        secret: PathBuf::new(),
    };
    let mut socket = Socket::subscribed(first, "channel=a");

    let busy = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    // Another program would share this address, and takes part of the connections.
    let other = std::net::SocketAddr::new(second.ip(), first.port());
    let _shared = listener::bind(other, SocketOptions::new(&Config::default())).unwrap();
    for (added, problem) in [
        (
            busy.local_addr().unwrap().to_string(),
            "Address already in use",
        ),
        (other.to_string(), "Address already in use"),
        (String::from("127.0.0.1:0"), "port 0"),
        (format!("{second} tls"), "tls.certificates: is empty"),
    ] {
        let printed = rig.reload(&listen(&[first.to_string(), added]), "ERROR");
        assert!(printed.contains(problem), "{printed}");
    }

    let both = listen(&[first.to_string(), second.to_string()]);
    rig.reload(&both, "in use from now on: listen\n");
    let is_open = |address| std::net::TcpStream::connect(address).is_ok();
    within("the second address", || is_open(second).then_some(()));
    let mut other = Socket::subscribed(second, "channel=a");
    assert!(is_open(first));
    rig.await_conns(first, 1.0);
    rig.await_conns(second, 1.0);

    // This connection has sent nothing when its address is removed.
    let mut waiting = raw::connect(first);
    rig.reload(
        &listen(&[second.to_string()]),
        "in use from now on: listen\n",
    );
    within("the end of the first address", || {
        (!is_open(first)).then_some(())
    });
    waiting
        .write_all(b"GET /poll?channel=a&timeout=0 HTTP/1.1\r\nHost: a\r\n\r\n")
        .unwrap();
    let mut waiting = BufReader::new(waiting);
    assert_eq!(Raw::read(&mut waiting).status, 200);
    // Open connections count for the listener that accepted them, although it is closed.
    rig.await_conns(first, 2.0);
    drop(waiting);
    rig.await_conns(first, 1.0);
    Feeder::connect(&rig.server.feed).publish("a", "text");
    assert_eq!(
        [&mut socket, &mut other].map(|one| one.json()["data"].clone()),
        ["text"; 2]
    );

    rig.reload(&both, "in use from now on: listen\n");
    within("the first address again", || is_open(first).then_some(()));
    rig.server.signal("TERM");
    within("no address after the drain", || {
        (!is_open(first) && !is_open(second)).then_some(())
    });
}

#[test]
fn all_addresses_can_be_replaced_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let [before, after] = [(); 2].map(|()| {
        let addresses = (0..LISTENERS_MAX).map(|_| free_address());
        addresses.collect::<Vec<_>>()
    });
    let listen = |addresses: &[std::net::SocketAddr]| {
        let addresses = addresses.iter().map(ToString::to_string);
        format!("listen = {:?}\n", addresses.collect::<Vec<_>>())
    };
    let server = Server::in_folder(folder.path(), "", &listen(&before), &[]).unwrap();
    let rig = Rig {
        server,
        folder,
        secret: PathBuf::new(),
    };
    let printed = rig.reload(&listen(&after), "in use from now on: listen\n");
    assert!(lines(&printed, "ERROR").is_empty(), "{printed}");
    let is_open = |address: &_| std::net::TcpStream::connect(address).is_ok();
    for address in after {
        within("an added address", || is_open(&address).then_some(()));
    }
    for address in before {
        within("a removed address", || (!is_open(&address)).then_some(()));
    }
}

#[test]
fn protocol_of_an_address_changes_and_an_address_with_tls_is_added() {
    let folder = tempfile::tempdir().unwrap();
    let [first, second] = [free_address(), free_address()];
    let config = |listen: &[String]| format!("listen = {listen:?}\n[tls]\nself_signed = true\n");
    let before = config(&[first.to_string()]);
    let server = Server::in_folder(folder.path(), "", &before, &[]).unwrap();
    let rig = Rig {
        server,
        folder,
        secret: PathBuf::new(),
    };
    let answers = |url: String| {
        let mut curl = std::process::Command::new("curl");
        let curl = curl.args(["--silent", "--insecure", "--max-time", "10", "--fail", &url]);
        curl.output().unwrap().status.success()
    };
    assert!(answers(format!("http://{first}/")));
    let after = config(&[format!("{first} tls"), format!("{second} tls")]);
    rig.reload(&after, "in use from now on: listen\n");
    for address in [first, second] {
        within("an answer over TLS", || {
            answers(format!("https://{address}/")).then_some(())
        });
    }
    assert!(!answers(format!("http://{first}/")));
    rig.reload(&before, "in use from now on: listen\n");
    within("an answer without TLS", || {
        answers(format!("http://{first}/")).then_some(())
    });
}

#[test]
fn certificates_are_added_to_a_server_without_any_and_removed() {
    let folder = tempfile::tempdir().unwrap();
    let [first, second] = [free_address(), free_address()];
    let plain = format!("listen = [\"{first}\"]\n");
    let server = Server::in_folder(folder.path(), "", &plain, &[]).unwrap();
    let rig = Rig {
        server,
        folder,
        secret: PathBuf::new(),
    };
    let made = Certificate::make(rig.folder.path(), "made");
    let secure = |more: &str| {
        let listen = format!("listen = [\"{first}\", \"{second} tls\"]\n");
        listen + &made.config() + more
    };
    let answers = || {
        let stream = std::net::TcpStream::connect(second).ok()?;
        let mut stream = secured_over(stream, &made.trusting());
        stream
            .write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            .ok()?;
        let mut start = [0; 12];
        stream.read_exact(&mut start).ok()?;
        (start == *b"HTTP/1.1 200").then_some(())
    };
    let expires = || {
        let page = Raw::get(rig.server.admin, "/metrics");
        let name = "fanfare_certificate_expiry_timestamp_seconds{";
        page.body_text().contains(name)
    };
    // A part of this reload would let clients without a certificate in.
    let printed = rig.reload(&secure("client_auth = \"required\"\n"), "ERROR");
    assert!(printed.contains("tls.client_authorities"), "{printed}");
    assert!(!expires());
    let printed = rig.reload(&secure(""), "in use from now on");
    let keys = "in use from now on: listen, tls.certificates, tls.keys\n";
    assert!(printed.contains(keys), "{printed}");
    within("an answer over TLS", answers);
    assert!(expires());
    let printed = rig.reload(&plain, "in use from now on");
    assert!(printed.contains(keys), "{printed}");
    let is_open = || std::net::TcpStream::connect(second).is_ok();
    within("the end of TLS", || (!is_open()).then_some(()));
    assert!(!expires());
    let authorities = format!("client_authorities = {:?}\n", made.path);
    let strict = secure(&format!("client_auth = \"required\"\n{authorities}"));
    rig.reload(&strict, "in use from now on");
    within("the second address", || is_open().then_some(()));
    assert_eq!(answers(), None);
    rig.server
        .await_metric("fanfare_conns_closed_total{reason=\"tls_error\"}", 1.0);
    assert_eq!(status(&rig, "/"), 200);
}

/// Returns an address that no socket uses. Its IP address belongs to this process and to this call,
/// so no other test takes the port before the server does.
fn free_address() -> std::net::SocketAddr {
    static CALLS: AtomicU8 = AtomicU8::new(1);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    let own = [127, CALLS.fetch_add(1, Ordering::Relaxed), high, low];
    let listener = std::net::TcpListener::bind((std::net::Ipv4Addr::from(own), 0)).unwrap();
    listener.local_addr().unwrap()
}

#[test]
fn lower_quota_applies_to_connections_that_are_already_behind() {
    let quota = |publications: u32| {
        format!("[quota]\nbehind_bytes = 50000000\nbehind_publications = {publications}\n")
    };
    let folder = tempfile::tempdir().unwrap();
    let server = Server::in_folder(folder.path(), "127.0.0.1:0", &quota(1000), &[]).unwrap();
    let rig = Rig {
        server,
        folder,
        secret: PathBuf::new(),
    };
    // This client reads nothing, so more waits for it than the buffers of the system hold.
    let mut stream = raw::connect(rig.server.addr);
    let request = "GET /sse?channel=a HTTP/1.1\r\nHost: a\r\n\r\n";
    stream.write_all(request.as_bytes()).unwrap();
    rig.server.await_metric("fanfare_subscribers", 1.0);
    let mut feeder = Feeder::connect(&rig.server.feed);
    for _ in 0..200 {
        feeder.publish("a", "x".repeat(100_000));
    }
    rig.server.await_metric("fanfare_publications_total", 200.0);
    assert_eq!(rig.server.metric("fanfare_publications_skipped_total"), 0.0);
    rig.reload(&quota(5), "from now on: quota.behind_publications\n");
    within("the skipped publications", || {
        let skipped = rig.server.metric("fanfare_publications_skipped_total");
        (skipped > 0.0).then_some(())
    });
}

#[test]
fn origins_change_and_a_new_list_of_keys_is_read() {
    let rig = Rig::start(&[]);
    let upgrade = |rig: &Rig| {
        let request = "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\n\
                       Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                       Origin: https://app.example\r\n\r\n";
        raw::exchange(rig.server.addr, request.as_bytes()).status
    };
    assert_eq!(upgrade(&rig), 403);
    let second = rig.folder.path().join("second");
    fs::write(&second, SECRETS[1]).unwrap();
    let origins = "[browser]\norigins = [\"https://app.example\"]\n";
    let printed = rig.reload(&configuration(&second, origins), "in use from now on");
    assert!(
        printed.contains("from now on: auth.keys, browser.origins\n"),
        "{printed}"
    );
    // Each worker follows in its next turn. Eight connections reach both workers.
    within("the new key on both workers", || {
        let mut all = 0..8;
        all.all(|_| !rig.takes(SECRETS[0]) && rig.takes(SECRETS[1]))
            .then_some(())
    });
    within("the new origin", || (upgrade(&rig) == 101).then_some(()));
    // Without keys no client would need a token. Such a change needs a restart.
    let printed = rig.reload(origins, "WARN");
    assert!(
        printed.contains("needs a restart: auth.keys\n"),
        "{printed}"
    );
    assert!(rig.takes(SECRETS[1]));
    assert_eq!(status(&rig, "/poll?channel=a&timeout=0"), 401);
}

#[test]
fn waiting_poll_names_the_origin_of_its_request_after_the_list_has_changed() {
    const WAITING: &str = "fanfare_streams{transport=\"long_poll\"}";
    let origins = |list: &[&str]| format!("[browser]\norigins = {list:?}\n");
    let folder = tempfile::tempdir().unwrap();
    let config = origins(&["https://app.example", "https://old.example"]);
    let server = Server::in_folder(folder.path(), "127.0.0.1:0", &config, &[]).unwrap();
    let rig = Rig {
        server,
        folder,
        secret: PathBuf::new(),
    };
    let now = Raw::get(rig.server.addr, "/poll?channel=a");
    let since = now.field("etag").unwrap().trim_matches('"').to_owned();
    let polls = ["https://app.example", "https://old.example"].map(|origin| {
        let mut stream = raw::connect(rig.server.addr);
        let request = format!(
            "GET /poll?channel=a&since={since}&timeout=60 HTTP/1.1\r\nHost: a\r\n\
             Origin: {origin}\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).unwrap();
        BufReader::new(stream)
    });
    rig.server.await_metric(WAITING, 2.0);
    let config = origins(&["https://other.example", "https://app.example"]);
    rig.reload(&config, "in use from now on");
    Feeder::connect(&rig.server.feed).publish("a", 1);
    let readers = polls.map(|mut stream| {
        let answer = Raw::read(&mut stream);
        assert_eq!(answer.status, 200);
        let reader = answer.field("access-control-allow-origin");
        reader.map(String::from)
    });
    assert_eq!(readers, [Some(String::from("https://app.example")), None]);
}

#[test]
fn signals_during_a_reload_that_waits_for_a_fifo_end_the_server() {
    let folder = tempfile::tempdir().unwrap();
    let config = "[drain]\nwindow_ms = 600000\n";
    let mut server = Server::in_folder(folder.path(), "127.0.0.1:0", config, &[]).unwrap();
    let await_log = |text: &str| {
        let log = folder.path().join("stderr.txt");
        within(text, || {
            let log = fs::read_to_string(&log).unwrap();
            log.contains(text).then_some(())
        });
    };
    let file = folder.path().join("fanfare.toml");
    fs::remove_file(&file).unwrap();
    mknodat(CWD, &file, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    // Without a read, this client does not answer the close.
    let _open = Socket::subscribed(server.addr, "channel=a");
    let reload = fanfare()
        .arg("reload")
        .env("FANFARE_FEED", &server.feed)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    await_log("an operator reloads the configuration");
    let begun = Instant::now();
    server.signal("TERM");
    await_log("draining");
    server.signal("TERM");
    assert!(server.wait().success());
    // The server would wait for the FIFO for 10 s.
    assert!(begun.elapsed() < Duration::from_secs(8));
    await_log("second signal");
    let ended = reload.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    let stderr = String::from_utf8_lossy(&ended.stderr);
    assert!(stderr.contains("the server stops"), "{stderr}");
}

fn status(rig: &Rig, path: &str) -> u16 {
    let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    raw::exchange(rig.server.addr, request.as_bytes()).status
}

#[test]
fn flags_override_the_file_at_a_reload_as_at_a_start() {
    let rig = Rig::start(&["--workers", "2"]);
    let config = format!("workers = 3\n{}", configuration(&rig.secret, ""));
    let printed = rig.reload(&config, "WARN");
    let warnings = lines(&printed, "WARN");
    assert_eq!(warnings.len(), 1, "{printed}");
    assert!(
        warnings[0].ends_with("a flag or a variable sets it: workers (--workers)"),
        "{printed}"
    );
}
