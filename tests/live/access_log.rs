//! The access log: one line per answered request, ended stream and connection without a request.

use std::fs;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::{OFlags, fcntl_setfl};
use serde_json::{Value, json};

use crate::support::raw::connect;
use crate::support::socket::frame;
use crate::support::{Feeder, Process, Raw, Server, Socket, fanfare, within};

const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// Starts a server that requires tokens and logs in this format.
fn guarded(format: &str, more: &str) -> (tempfile::TempDir, Server) {
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    fs::write(&secret, SECRET).unwrap();
    let config = format!(
        "[logging]\naccess = \"{format}\"\n{more}\
         [auth]\nkeys = [\"HS256 {}\"]\nquery = \"token\"\n",
        secret.display()
    );
    let server = Server::in_folder(folder.path(), "127.0.0.1:0", &config, &[]).unwrap();
    (folder, server)
}

fn token(folder: &tempfile::TempDir) -> String {
    let mut command = fanfare();
    command.args(["token", "--subscribe", "*", "--sub=al \"ice\"", "--key"]);
    let output = command.arg(folder.path().join("secret")).output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Returns the complete lines of standard output after the line with `ready`.
fn lines(server: &Server) -> Vec<String> {
    let path = server.feed.parent().unwrap().join("stdout.txt");
    let text = fs::read_to_string(path).unwrap();
    let complete = text
        .rsplit_once('\n')
        .map_or("", |(complete, _rest)| complete);
    complete.lines().skip(1).map(str::to_owned).collect()
}

/// Waits for this many lines.
fn await_lines(server: &Server, count: usize) -> Vec<String> {
    within(&format!("{count} lines"), || {
        Some(lines(server)).filter(|lines| lines.len() >= count)
    })
}

fn parsed(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"))
}

#[test]
fn ended_stream_has_a_line_with_what_it_received() {
    let (folder, server) = guarded("json", "");
    let token = token(&folder);
    let query = format!("channel=a&token={token}");
    let mut socket = Socket::open(server.addr, &query);
    let name = socket.json()["conn"].clone();
    assert_eq!(socket.json()["type"], "subscribed");
    let mut feeder = Feeder::connect(&server.feed);
    for number in 0..3 {
        feeder.publish("a", number);
        assert_eq!(socket.publication()["data"], number);
    }
    drop(socket);
    let first = parsed(&await_lines(&server, 1)[0]);
    let expected = json!({
        "connection": name,
        "transport": "websocket",
        "path": "/ws?channel=a",
        "status": 101,
        "reason": "peer_gone",
        "publications": 3,
        "sub": "al \"ice\"",
    });
    for (field, value) in expected.as_object().unwrap() {
        assert_eq!(first[field], *value, "{field} of {first}");
    }
    assert!(
        first["peer"].as_str().unwrap().starts_with("127.0.0.1:"),
        "{first}"
    );
    assert!(first["bytes"].as_u64().unwrap() > 200, "{first}");
    assert!(first["time"].as_str().unwrap().ends_with('Z'), "{first}");
}

#[test]
fn ended_websocket_has_the_close_code_of_either_side() {
    let (folder, server) = guarded("json", "");
    let query = format!("channel=a&token={}", token(&folder));
    // The client closes the first one, a backend closes the second one, and the server closes the
    // third one after FIN.
    let mut done = Socket::subscribed(server.addr, &query);
    done.send_raw(&frame(0x88, &3000_u16.to_be_bytes()));
    let first = parsed(&await_lines(&server, 1)[0]);
    let _stopped = Socket::subscribed(server.addr, &query);
    let mut feeder = Feeder::connect(&server.feed);
    feeder.send(&json!({"disconnect_sub": "al \"ice\"", "code": 4321}));
    let second = parsed(&await_lines(&server, 2)[1]);
    drop(Socket::subscribed(server.addr, &query));
    let third = parsed(&await_lines(&server, 3)[2]);
    // An event stream has no close code.
    let mut stream = connect(server.addr);
    let head = format!("GET /sse?{query} HTTP/1.1\r\nHost: a\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    server.await_metric("fanfare_streams{transport=\"event_stream\"}", 1.0);
    drop(stream);
    let fourth = parsed(&await_lines(&server, 4)[3]);
    for (line, reason, code) in [
        (first, "done", json!(3000)),
        (second, "disconnected", json!(4321)),
        (third, "peer_gone", json!(1000)),
        (fourth, "peer_gone", Value::Null),
    ] {
        assert_eq!(
            (&line["reason"], &line["close_code"]),
            (&json!(reason), &code),
            "{line}"
        );
    }
}

#[test]
fn poll_refusal_and_silent_connection_have_a_line_each() {
    let (folder, server) = guarded("json", "");
    let query = format!("channel=a&token={}", token(&folder));
    let mut feeder = Feeder::connect(&server.feed);
    for number in 0..3 {
        feeder.publish("a", number);
    }
    // A poll and a refused request on one connection.
    let mut stream = connect(server.addr);
    let peer = stream.local_addr().unwrap().to_string();
    let context = "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let polled = format!(
        "GET /poll?timeout=0&last=2&{query} HTTP/1.1\r\nHost: a\r\n{context}\r\n\r\n\
         GET /poll?channel=b&token=wrong HTTP/1.1\r\nHost: a\r\n\r\n"
    );
    stream.write_all(polled.as_bytes()).unwrap();
    let mut stream = BufReader::new(stream);
    let poll = Raw::read(&mut stream);
    assert_eq!((poll.status, Raw::read(&mut stream).status), (200, 401));
    let all = await_lines(&server, 2);
    let (first, second) = (parsed(&all[0]), parsed(&all[1]));
    let short = |line: &Value| {
        let fields = [
            "transport",
            "path",
            "status",
            "publications",
            "sub",
            "peer",
            "reason",
        ];
        Value::from_iter(fields.map(|field| line[field].clone()))
    };
    assert_eq!(first["trace_id"], "4bf92f3577b34da6a3ce929d0e0e4736");
    assert_eq!(second["trace_id"], Value::Null);
    let path = "/poll?timeout=0&last=2&channel=a";
    let sub = "al \"ice\"";
    assert_eq!(
        short(&first),
        json!(["short_poll", path, 200, 2, sub, peer, null])
    );
    assert!(
        first["bytes"].as_u64().unwrap() > poll.body.len() as u64,
        "{first}"
    );
    let path = "/poll?channel=b";
    assert_eq!(
        short(&second),
        json!(["http", path, 401, 0, null, peer, "unauthorized"])
    );

    // A connection that ends without a request.
    let silent = connect(server.addr);
    let peer = silent.local_addr().unwrap().to_string();
    drop(silent);
    let all = await_lines(&server, 3);
    let last = parsed(&all[2]);
    assert_eq!(
        short(&last),
        json!([null, null, null, 0, null, peer, "peer_gone"])
    );
    assert_eq!(all.len(), 3, "{all:?}");
    for line in all {
        assert!(!line.contains("token") && !line.contains("wrong"), "{line}");
    }
}

#[test]
fn token_is_in_no_log_and_no_span_wherever_the_client_sends_it() {
    let place = tempfile::tempdir().unwrap();
    let spans = place.path().join("spans.json");
    let more = format!("level = \"debug\"\n[tracing]\nsample = 1.0\nfile = {spans:?}\n");
    let (folder, mut server) = guarded("json", &more);
    let token = token(&folder);
    let targets = [
        format!("/{token}"),
        format!("/some/{token}"),
        format!("/sse/{token}?channel=a"),
        format!("/poll?timeout=0&channel={token}"),
        format!("/poll?timeout=0&channel=a&since={token}"),
        format!("/poll?timeout=0&channel=a&window={token}"),
        format!("/poll?timeout=0&channel=a&token={token}"),
        format!("/poll?timeout=0&channel=a&access_token={token}"),
    ];
    let fields = [
        format!("Authorization: Bearer {token}"),
        format!("Cookie: session={token}"),
        format!("Origin: http://{token}"),
        format!("Referer: http://a/?token={token}"),
        format!("Sec-WebSocket-Protocol: fanfare.v1, {token}"),
        format!("Traceparent: {token}"),
        format!("X-Forwarded-For: {token}"),
    ];
    let requests = targets.map(|target| (target, String::new())).into_iter();
    let fields = fields.map(|field| ("/poll?timeout=0&channel=a".to_owned(), field + "\r\n"));
    let requests: Vec<_> = requests.chain(fields).collect();
    for (target, fields) in &requests {
        let mut stream = BufReader::new(connect(server.addr));
        let head = format!("GET {target} HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
        stream.get_mut().write_all(head.as_bytes()).unwrap();
        Raw::read(&mut stream);
    }
    await_lines(&server, requests.len());
    server.signal("TERM");
    server.wait();
    let outputs = ["stdout.txt", "stderr.txt"].map(|name| folder.path().join(name));
    let spans = [spans];
    for path in outputs.iter().chain(&spans) {
        let text = fs::read_to_string(path).unwrap();
        assert!(!text.is_empty(), "{}", path.display());
        for part in token.split('.') {
            assert!(!text.contains(part), "{part} in {text}");
        }
    }
}

/// Sends a request for a page that does not exist, with these fields. Returns the status.
fn ask(stream: &mut BufReader<TcpStream>, fields: &str) -> u16 {
    let head = format!("GET /x?channel=a HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
    stream.get_mut().write_all(head.as_bytes()).unwrap();
    Raw::read(stream).status
}

#[test]
fn each_request_of_a_proxy_names_its_own_client_also_if_it_is_refused() {
    let config = "[logging]\naccess = \"json\"\n[limits]\nconns_per_source = 1\n\
                  [proxy]\ntrusted = [\"127.0.0.1\"]\n";
    let folder = tempfile::tempdir().unwrap();
    let server = Server::in_folder(folder.path(), "127.0.0.1:0", config, &[]).unwrap();
    let (one, two) = (
        "X-Forwarded-For: 192.0.2.1\r\n",
        "X-Forwarded-For: 192.0.2.2\r\n",
    );
    // The only connection that the second client may have.
    let mut held = BufReader::new(connect(server.addr));
    assert_eq!(ask(&mut held, two), 404);
    let mut stream = BufReader::new(connect(server.addr));
    for (fields, status) in [(one, 404), ("", 404), (two, 429)] {
        assert_eq!(ask(&mut stream, fields), status);
    }
    let all = await_lines(&server, 4);
    let short = |line: &String| {
        let line = parsed(line);
        Value::from_iter(["client", "path", "status", "reason"].map(|name| line[name].clone()))
    };
    let path = "/x?channel=a";
    let expected = [
        json!(["192.0.2.2", path, 404, null]),
        json!(["192.0.2.1", path, 404, null]),
        json!([null, path, 404, null]),
        json!(["192.0.2.2", path, 429, "refused"]),
    ];
    assert_eq!(Vec::from_iter(all.iter().map(short)), expected);

    // From the reload on, the address of the proxy itself is the source.
    drop((held, stream));
    server.await_metric("fanfare_sources", 0.0);
    let mut stream = BufReader::new(connect(server.addr));
    assert_eq!(ask(&mut stream, one), 404);
    let config = config.replace("127.0.0.1", "192.0.2.99");
    fs::write(folder.path().join("fanfare.toml"), config).unwrap();
    server.signal("HUP");
    within("a request without a client", || {
        assert_eq!(ask(&mut stream, one), 404);
        let all = lines(&server);
        parsed(all.last()?).get("client").is_none().then_some(())
    });
    assert_eq!(Raw::get(server.addr, "/x").status, 429, "the proxy is full");
    drop(stream);
    server.await_metric("fanfare_sources", 0.0);
}

#[test]
fn late_request_has_one_line_with_its_status_and_reason() {
    let config = "[logging]\naccess = \"json\"\n[limits]\nrequest_head_ms = 200\n";
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::in_folder(folder.path(), "127.0.0.1:0", config, &[]).unwrap();
    let mut stream = BufReader::new(connect(server.addr));
    stream.get_mut().write_all(b"GET / HT").unwrap();
    assert_eq!(Raw::read(&mut stream).status, 408);
    drop(stream);
    server.signal("TERM");
    assert!(server.wait().success());
    let all = await_lines(&server, 1);
    assert_eq!(all.len(), 1, "{all:?}");
    let line = parsed(&all[0]);
    assert_eq!(
        (&line["status"], &line["reason"], &line["transport"]),
        (&json!(408), &json!("head_timeout"), &json!("http")),
        "{line}"
    );
    assert!(line["duration_ms"].as_u64().unwrap() >= 199, "{line}");
}

#[test]
fn logfmt_quotes_texts_and_a_drain_writes_all_lines() {
    let (folder, mut server) = guarded("logfmt", "");
    let query = format!("channel=a&token={}", token(&folder));
    let _sockets = [(); 20].map(|()| Socket::subscribed(server.addr, &query));
    server.signal("TERM");
    assert!(server.wait().success());
    let lines = await_lines(&server, 20);
    for line in &lines {
        assert!(line.starts_with("time=\"20"), "{line}");
        assert!(line.contains(r#" path="/ws?channel=a" "#), "{line}");
        assert!(
            line.contains(r#" reason="shutdown" sub="al \"ice\"" status=101 "#),
            "{line}"
        );
    }
    assert_eq!(lines.len(), 20);
}

#[test]
fn sample_of_zero_and_the_default_write_nothing() {
    for config in ["", "[logging]\naccess = \"json\"\naccess_sample = 0.0\n"] {
        let mut server = Server::with(config, &[]);
        assert_eq!(Raw::get(server.addr, "/").status, 200);
        drop(Socket::subscribed(server.addr, "channel=a"));
        server.await_metric("fanfare_conns", 0.0);
        assert!(server.metric("fanfare_access_log_lines_dropped_total") < 0.5);
        server.signal("TERM");
        assert!(server.wait().success());
        assert_eq!(lines(&server), Vec::<String>::new());
    }
}

/// A process that is killed when the test ends.
struct Started(Child);

impl Drop for Started {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[test]
fn ready_line_precedes_the_lines_of_requests_that_arrive_during_the_start() {
    // The pipe of the log is full, so the start waits before it prints the line with `ready`.
    let (_log, errors) = full_pipe();
    let folder = tempfile::tempdir().unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new("python3");
    command
        .arg(root.join("tests/peers/activation.py"))
        .arg(folder.path())
        .arg(env!("CARGO_BIN_EXE_fanfare"))
        .args(["serve", "--workers", "1", "--admin", "off"])
        .args([
            "--listen",
            "127.0.0.1:1",
            "--feed",
            "/nonexistent/feed.sock",
        ])
        .env("FANFARE_LOGGING_ACCESS", "json")
        .stdout(Stdio::piped())
        .stderr(errors);
    let mut process = Started(command.spawn().unwrap());
    let mut lines = BufReader::new(process.0.stdout.take().unwrap()).lines();
    let mut next = || lines.next().unwrap().unwrap();
    let started: Value = serde_json::from_str(&next()).unwrap();
    let port = u16::try_from(started["tcp"].as_u64().unwrap()).unwrap();
    let answer = Raw::get(SocketAddr::from((Ipv4Addr::LOCALHOST, port)), "/none");
    assert_eq!(answer.status, 404);
    let ready = next();
    assert!(ready.contains(" ready: "), "{ready}");
    let logged = next();
    assert!(logged.contains("\"/none\""), "{logged}");
}

/// Starts a server whose access log goes to a pipe that the caller does not read after the line
/// with `ready`.
fn unread(folder: &Path, stdout: Stdio, stderr: Stdio) -> Started {
    let mut command = fanfare();
    command
        .args(["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
        .args(["--workers", "1", "--feed"])
        .arg(folder.join("feed.sock"))
        .env("FANFARE_LOGGING_ACCESS", "json")
        .stdout(stdout)
        .stderr(stderr);
    Started(command.spawn().unwrap())
}

fn address_after(line: &str, mark: &str) -> SocketAddr {
    let rest = line.split_once(mark).unwrap().1;
    rest.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn reader_of_the_access_log_that_is_stuck_does_not_delay_the_end_of_the_server() {
    for is_log_stuck in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("stderr.txt");
        let (lines, pipe) = io::pipe().unwrap();
        let stderr: Stdio = match is_log_stuck {
            true => pipe.try_clone().unwrap().into(),
            false => fs::File::create(&log).unwrap().into(),
        };
        let mut process = unread(folder.path(), pipe.into(), stderr);
        let mut lines = BufReader::new(lines).lines();
        let ready = within("the line with ready", || {
            let line = lines.next().unwrap().unwrap();
            line.contains(" ready: ").then_some(line)
        });
        let admin = address_after(&ready, "admin=http://");
        // More lines than the pipe and the queue have room for.
        let mut stream = BufReader::new(connect(address_after(&ready, "ready: http://")));
        for _ in 0..100 {
            let requests = "GET /x HTTP/1.1\r\nHost: a\r\n\r\n".repeat(200);
            stream.get_mut().write_all(requests.as_bytes()).unwrap();
            for _ in 0..200 {
                assert_eq!(Raw::read(&mut stream).status, 404);
            }
        }
        drop(stream);
        let metrics = Raw::get(admin, "/metrics");
        let dropped = "\nfanfare_access_log_lines_dropped_total ";
        let dropped = metrics.body_text().split_once(dropped).unwrap().1;
        assert!(!dropped.starts_with('0'), "the queue was full");
        Process(process.0.id()).signal("TERM");
        let begun = Instant::now();
        let status = within("the end", || process.0.try_wait().unwrap());
        assert!(status.success(), "{status}");
        assert!(begun.elapsed() < Duration::from_secs(8), "{begun:?}");
        if !is_log_stuck {
            let log = fs::read_to_string(log).unwrap();
            let lost = log.matches("lines of the access log are lost").count();
            assert_eq!(lost, 1, "{log}");
        }
    }
}

/// A pipe that is full and that nothing reads, until the first end is dropped.
fn full_pipe() -> (io::PipeReader, io::PipeWriter) {
    let (reader, mut writer) = io::pipe().unwrap();
    fcntl_setfl(&writer, OFlags::NONBLOCK).unwrap();
    while writer.write(&[b'\n'; 512]).is_ok() {}
    fcntl_setfl(&writer, OFlags::empty()).unwrap();
    (reader, writer)
}

#[test]
fn server_whose_ready_line_cannot_be_printed_runs_and_warns() {
    let full_disk = || fs::File::options().write(true).open("/dev/full").unwrap();
    let (_unread, stuck) = full_pipe();
    let (reader, without_reader) = io::pipe().unwrap();
    drop(reader);
    let outputs: [Stdio; 3] = [full_disk().into(), without_reader.into(), stuck.into()];
    for stdout in outputs {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("stderr.txt");
        let stderr = fs::File::create(&log).unwrap();
        let mut process = unread(folder.path(), stdout, stderr.into());
        within("the warning", || {
            let log = fs::read_to_string(&log).unwrap();
            log.contains("cannot print the line with `ready`")
                .then_some(())
        });
        let mut feeder = Feeder::connect(&folder.path().join("feed.sock"));
        feeder.send(&json!({"channel": "a", "data": 1, "ack": true}));
        assert_eq!(feeder.answer()["ok"], true);
        drop(feeder);
        Process(process.0.id()).signal("TERM");
        let status = within("the end", || process.0.try_wait().unwrap());
        assert!(status.success(), "{status}");
    }
}

#[test]
fn full_pipe_of_the_log_does_not_stop_a_start_with_warnings() {
    let (_unread, stuck) = full_pipe();
    let folder = tempfile::tempdir().unwrap();
    let printed = folder.path().join("stdout.txt");
    let mut command = fanfare();
    command
        .args(["serve", "--listen", "127.0.0.1:0", "--admin", "off"])
        .arg("--feed")
        .arg(folder.path().join("feed.sock"))
        // A misspelt variable causes a warning.
        .env("FANFARE_HEARTBEAT_INTERVALL_MS", "1")
        .stdout(fs::File::create(&printed).unwrap())
        .stderr(stuck);
    let _process = Started(command.spawn().unwrap());
    within("the line with ready", || {
        let printed = fs::read_to_string(&printed).unwrap();
        printed.contains(" ready: ").then_some(())
    });
}
