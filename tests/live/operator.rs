//! The operator's socket and its commands: lists, kick, configuration, log level, reload and top.
//!
//! Each command runs as an operator would run it. It finds the socket beside the feed that
//! `FANFARE_FEED` names.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::raw::{connect, connect_small};
use crate::support::{Feeder, Lines, PATIENCE, Server, Socket, fanfare, handmade, within};

/// A user and group that are neither root nor those of the server.
const OTHER_USER: u32 = 65_534;

fn socket_of(server: &Server) -> PathBuf {
    let mut path = server.feed.clone().into_os_string();
    path.push(".admin");
    path.into()
}

/// Runs a command against a server.
fn run(server: &Server, args: &[&str]) -> Output {
    fanfare()
        .args(args)
        .env("FANFARE_FEED", &server.feed)
        .output()
        .unwrap()
}

/// Runs a command that succeeds without messages, and returns what it prints.
#[track_caller]
fn printed(server: &Server, args: &[&str]) -> String {
    let output = run(server, args);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {errors}");
    assert!(errors.is_empty(), "{args:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// Runs a command that fails with this exit status, and returns its messages.
#[track_caller]
fn failed(server: &Server, args: &[&str], status: i32) -> String {
    let output = run(server, args);
    let shown = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(
        output.status.code(),
        Some(status),
        "{args:?}: {shown}{errors}"
    );
    assert!(shown.is_empty(), "{args:?}: {shown}");
    errors
}

fn json_of(server: &Server, args: &[&str]) -> Value {
    serde_json::from_str(&printed(server, args)).unwrap()
}

/// Opens a WebSocket with a small receive buffer, and reads nothing. Publishes until its
/// publications wait. Returns the WebSocket and its address.
fn slow_reader(server: &Server) -> (TcpStream, String) {
    let mut slow = connect_small(server.addr);
    let address = slow.local_addr().unwrap().to_string();
    slow.write_all(&handmade::handshake("channel=big")).unwrap();
    server.await_metric("fanfare_subscribers", 1.0);
    let mut feeder = Feeder::connect(&server.feed);
    for _ in 0..100 {
        feeder.publish("big", "x".repeat(20_000));
    }
    (slow, address)
}

#[test]
fn lists_name_connections_channels_and_workers() {
    let server = Server::start();
    let mut socket = Socket::subscribed(server.addr, "channel=prices:eur&channel=news");
    let mut feeder = Feeder::connect(&server.feed);
    let id = feeder.publish("prices:eur", 1);
    assert_eq!(socket.publication()["id"], id.as_str());

    let conns = printed(&server, &["conns"]);
    let peer = socket.0.get_ref().local_addr().unwrap().to_string();
    for part in [
        &peer,
        " websocket ",
        " prices:eur news\n",
        "1 of 1 matching, 1 open\n",
    ] {
        assert!(conns.contains(part), "{part}: {conns}");
    }
    assert!(conns.starts_with("CONNECTION "), "{conns}");
    let name = json_of(&server, &["conns", "--json"])["conns"][0]["connection"].clone();
    let name = name.as_str().unwrap();
    for (filter, matched) in [
        (["--connection", name], 1),
        (["--address", "127.0.0.0/8"], 1),
        (["--address", "::1"], 0),
        (["--channel", "news"], 1),
        (["--channel", "new"], 0),
        (["--sub", "alice"], 0),
        (["--transport", "websocket"], 1),
        (["--transport", "poll"], 0),
        (["--behind", "1"], 0),
        (["--unsent", "1"], 0),
    ] {
        let answer = json_of(&server, &["conns", filter[0], filter[1], "--json"]);
        assert_eq!(answer["matched"], matched, "{filter:?}: {answer}");
    }

    let channels = printed(&server, &["channels", "prices:*"]);
    for part in ["prices:eur", &id, "1 of 1 matching, 2 in all\n"] {
        assert!(channels.contains(part), "{part}: {channels}");
    }
    let by_name = json_of(
        &server,
        &["channels", "--sort", "name", "--limit", "1", "--json"],
    );
    assert_eq!(by_name["channels"][0]["channel"], "news");
    assert_eq!(by_name["matched"], 2);

    let workers = json_of(&server, &["workers", "--json"]);
    let workers = workers["workers"].as_array().unwrap();
    assert_eq!(workers.len(), 2);
    let sum: u64 = workers
        .iter()
        .map(|worker| worker["conns"].as_u64().unwrap())
        .sum();
    assert_eq!(sum, 1);
    assert!(
        workers.iter().all(|worker| worker["answered_us"].is_u64()),
        "{workers:?}"
    );
    assert_eq!(printed(&server, &["workers"]).lines().count(), 3);
}

#[test]
fn uptime_is_the_time_since_the_start() {
    let before = Instant::now();
    let server = Server::start();
    let ready = Instant::now();
    let uptime = || {
        let at_least = ready.elapsed().as_millis();
        let answer = exchange(&server, b"{\"top\":{}}\n");
        let uptime = u128::from(answer["uptime_ms"].as_u64().unwrap());
        let at_most = before.elapsed().as_millis();
        assert!((at_least..=at_most).contains(&uptime), "{answer}");
        uptime
    };
    let first = uptime();
    within("a later uptime", || (uptime() > first).then_some(()));
}

#[test]
fn json_is_read_by_another_program() {
    let server = Server::start();
    let _socket = Socket::subscribed(server.addr, "channel=a");
    let program = "import json, sys; print(len(json.load(sys.stdin)[sys.argv[1]]))";
    for (args, key, rows) in [
        (vec!["conns", "--json"], "conns", "1"),
        (vec!["channels", "--json"], "channels", "1"),
        (vec!["workers", "--json"], "workers", "2"),
        (vec!["config", "--json", "--changed"], "keys", "4"),
    ] {
        let mut python = Command::new("python3")
            .args(["-c", program, key])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let line = printed(&server, &args);
        assert_eq!(line.lines().count(), 1, "{line}");
        python
            .stdin
            .take()
            .unwrap()
            .write_all(line.as_bytes())
            .unwrap();
        let output = python.wait_with_output().unwrap();
        assert_eq!(
            String::from_utf8_lossy(&output.stdout).trim(),
            rows,
            "{line}"
        );
    }
}

#[test]
fn kick_closes_the_selected_connections_with_code_and_reason() {
    let server = Server::start();
    let mut kicked = Socket::subscribed(server.addr, "channel=a");
    let mut kept = Socket::subscribed(server.addr, "channel=b");
    let said = printed(
        &server,
        &[
            "kick",
            "--channel",
            "a",
            "--code",
            "4100",
            "--reason",
            "moved",
        ],
    );
    assert_eq!(said, "1 connection is being closed\n");
    assert_eq!(kicked.closed(), (4100, "moved".to_owned()));
    within("one connection", || {
        (json_of(&server, &["conns", "--json"])["open"] == 1).then_some(())
    });
    let mut feeder = Feeder::connect(&server.feed);
    let id = feeder.publish("b", 1);
    assert_eq!(kept.publication()["id"], id.as_str());
    let said = printed(&server, &["kick", "--transport", "websocket"]);
    assert_eq!(said, "1 connection is being closed\n");
    assert_eq!(kept.closed(), (4003, String::new()));

    let error = failed(&server, &["kick", "--channel", "a"], 1);
    assert_eq!(error, "fanfare: no connection matches\n");
    let error = failed(&server, &["kick"], 2);
    assert!(
        error.contains("needs a flag that selects connections"),
        "{error}"
    );
    let error = failed(&server, &["kick", "--sub", "a", "--code", "999"], 1);
    assert!(error.contains("code is 999, but must be "), "{error}");
}

#[test]
fn slow_reader_is_found_with_conns_and_top() {
    let server = Server::start();
    let (slow, address) = slow_reader(&server);
    let found = within("a connection with unsent bytes", || {
        let answer = json_of(
            &server,
            &["conns", "--unsent", "1", "--behind", "1", "--json"],
        );
        (answer["matched"] == 1).then_some(answer)
    });
    assert_eq!(found["conns"][0]["peer"], address.as_str());
    assert_eq!(found["conns"][0]["first_channels"], json!(["big"]));
    let list = printed(&server, &["conns", "--sort", "unsent"]);
    assert!(list.lines().nth(1).unwrap().contains(&address), "{list}");
    let top = printed(&server, &["top", "--count", "1"]);
    let (_, laggards) = top.split_once("\nBEHIND ").unwrap();
    assert!(laggards.lines().nth(1).unwrap().contains(&address), "{top}");
    let (_, channels) = top.split_once("\nPUBLICATIONS/S ").unwrap();
    assert!(channels.lines().nth(1).unwrap().ends_with(" big"), "{top}");
    let said = printed(&server, &["kick", "--unsent", "1"]);
    assert_eq!(said, "1 connection is being closed\n");
    within("no connection", || {
        (json_of(&server, &["conns", "--json"])["open"] == 0).then_some(())
    });
    drop(slow);
}

#[test]
fn reader_that_stops_within_one_large_publication_is_in_top() {
    let server = Server::with("[quota]\nsend_buffer_bytes = 65536\n", &[]);
    let mut slow = connect_small(server.addr);
    let address = slow.local_addr().unwrap().to_string();
    slow.write_all(&handmade::handshake("channel=big")).unwrap();
    server.await_metric("fanfare_subscribers", 1.0);
    Feeder::connect(&server.feed).publish("big", "x".repeat(1_000_000));
    let found = within("a connection with unsent bytes", || {
        let answer = json_of(&server, &["conns", "--unsent", "1", "--json"]);
        (answer["matched"] == 1).then_some(answer)
    });
    assert_eq!(found["conns"][0]["behind"], 0, "{found}");
    let top = printed(&server, &["top", "--count", "1"]);
    let (_, laggards) = top.split_once("\nBEHIND ").unwrap();
    assert!(laggards.lines().nth(1).unwrap().contains(&address), "{top}");
}

#[test]
fn text_of_clients_cannot_control_the_terminal() {
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    fs::write(&secret, "0123456789abcdef0123456789abcdef").unwrap();
    let server = Server::with(
        &format!("[auth]\nkeys = [\"HS256 {}\"]\n", secret.display()),
        &[],
    );
    let sub = "x\u{1b}[2J\nfake\u{9b}1m";
    let token = fanfare()
        .args(["token", "--subscribe", "a", "--sub", sub, "--key"])
        .arg(&secret)
        .output()
        .unwrap();
    let token = String::from_utf8(token.stdout).unwrap();
    let mut stream = connect(server.addr);
    let head = "GET /sse?channel=a HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer";
    write!(stream, "{head} {}\r\n\r\n", token.trim()).unwrap();
    server.await_metric("fanfare_subscribers", 1.0);
    let (list, line) = (
        printed(&server, &["conns", "--sub", sub]),
        printed(&server, &["conns", "--json"]),
    );
    assert!(list.contains("x\\u{1b}[2J\\nfake\\u{9b}1m"), "{list}");
    for text in [&list, &line] {
        assert!(
            !text.contains(|c: char| c.is_control() && c != '\n'),
            "{text:?}"
        );
    }
    let answer: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(answer["conns"][0]["sub"], sub);
}

#[test]
fn config_names_values_and_sources() {
    let server = Server::with("[limits]\nconns = 5000\n", &[]);
    let all = printed(&server, &["config"]);
    for part in [
        "limits.conns ",
        "fanfare.toml:2\n",
        "drain.window_ms ",
        " default\n",
    ] {
        assert!(all.contains(part), "{part}: {all}");
    }
    let changed = json_of(&server, &["config", "--changed", "--json"]);
    let keys = changed["keys"].as_array().unwrap();
    let key = keys
        .iter()
        .find(|key| key["key"] == "limits.conns")
        .unwrap();
    assert_eq!(key["value"], "5000");
    assert!(
        keys.iter().all(|key| key["source"] != "default"),
        "{changed}"
    );
}

#[test]
fn log_level_is_printed_and_changed() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::in_folder(folder.path(), "127.0.0.1:0", "", &[]).unwrap();
    let log = || fs::read_to_string(folder.path().join("stderr.txt")).unwrap();
    assert_eq!(printed(&server, &["log-level"]), "info\n");
    drop(Socket::subscribed(server.addr, "channel=a"));
    assert!(!log().contains(" DEBUG "), "{}", log());
    assert_eq!(printed(&server, &["log-level", "debug"]), "debug\n");
    drop(Socket::subscribed(server.addr, "channel=a"));
    within("a line of level DEBUG", || {
        log().contains(" DEBUG ").then_some(())
    });
    assert_eq!(printed(&server, &["log-level"]), "debug\n");
    assert_eq!(printed(&server, &["log-level", "error"]), "error\n");
    let error = failed(&server, &["log-level", "loud"], 2);
    assert!(error.contains("possible values"), "{error}");
}

#[test]
fn reload_reports_the_outcome() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("fanfare.toml");
    let config = "[heartbeat]\ninterval_ms = 20000\n";
    let server = Server::in_folder(folder.path(), "127.0.0.1:0", config, &[]).unwrap();
    let said = printed(&server, &["reload"]);
    assert_eq!(said, "reloaded, no key in use has changed\n");
    let config = "workers = 7\n[heartbeat]\ninterval_ms = 30000\n[journal]\npath = \"/tmp/j\"\n";
    fs::write(&file, config).unwrap();
    let said = printed(&server, &["reload"]);
    for line in [
        "changed: heartbeat.interval_ms\n",
        "needs a restart: journal.path\n",
        "without effect, set by a flag or a variable: workers",
    ] {
        assert!(said.contains(line), "{line}: {said}");
    }
    let keys = printed(&server, &["config", "--changed"]);
    assert!(keys.contains("(after a restart: \"/tmp/j\")"), "{keys}");
    let interval = || {
        let keys = json_of(&server, &["config", "--json"]);
        let mut keys = keys["keys"].as_array().unwrap().iter();
        let key = keys.find(|key| key["key"] == "heartbeat.interval_ms");
        key.unwrap()["value"].clone()
    };
    assert_eq!(interval(), "30000");
    fs::write(
        &file,
        "[heartbeat]\ninterval_ms = \"often\"\n[limits]\nspeed = 1\n",
    )
    .unwrap();
    let errors = failed(&server, &["reload"], 1);
    for part in ["fanfare.toml:2", "fanfare.toml:4", "heartbeat.interval_ms"] {
        assert!(errors.contains(part), "{part}: {errors}");
    }
    assert_eq!(interval(), "30000");
}

#[test]
fn another_user_is_refused_by_the_file_and_by_the_server() {
    // The program is copied, because the other user may not reach the folder of the build.
    let folder = tempfile::tempdir().unwrap();
    let public = fs::Permissions::from_mode(0o755);
    fs::set_permissions(folder.path(), public).unwrap();
    let program = folder.path().join("fanfare");
    fs::copy(env!("CARGO_BIN_EXE_fanfare"), &program).unwrap();
    let server = Server::in_folder(folder.path(), "127.0.0.1:0", "", &[]).unwrap();
    let socket = socket_of(&server);
    let mode = fs::metadata(&socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let refusal = || {
        let output = as_other_user(&program, &["conns", "--socket"], &socket);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let error = refusal();
    assert!(
        error.contains("run the command as root or as the server's user"),
        "{error}"
    );
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o666)).unwrap();
    let error = refusal();
    assert!(
        error.contains("user 65534 may not use this socket"),
        "{error}"
    );
    // A loop of such requests must not fill the log.
    for _ in 0..15 {
        refusal();
    }
    let log = fs::read_to_string(folder.path().join("stderr.txt")).unwrap();
    let lines = log.lines().filter(|line| line.contains("operator_refused"));
    let causes = lines.filter(|line| line.contains("user 65534 is neither root nor"));
    assert!(causes.count() > 0, "{log}");
}

/// Runs a program as another user. Needs root or sudo, as `tests/run` does.
fn as_other_user(program: &Path, args: &[&str], last: &Path) -> Output {
    let user = OTHER_USER.to_string();
    let mut command = match rustix::process::geteuid().is_root() {
        true => Command::new("setpriv"),
        false => Command::new("sudo"),
    };
    match rustix::process::geteuid().is_root() {
        true => command.args(["--reuid", &user, "--regid", &user, "--clear-groups"]),
        false => command.args(["-n", "-u", &format!("#{user}")]),
    };
    command.arg(program).args(args).arg(last);
    let output = command.output();
    output.unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

#[test]
fn foreign_requests_are_answered_with_an_error() {
    let server = Server::start();
    for (request, part) in [
        ("{}\n", "not a request"),
        ("hello\n", "not a request"),
        ("{\"shutdown\":{}}\n", "unknown variant `shutdown`"),
        ("{\"conns\":{\"limit\":1001}}\n", "limit is 1001"),
        ("{\"kick\":{}}\n", "the filter is empty"),
        ("{\"workers\":{}}", "ends without a line feed"),
    ] {
        let mut stream = UnixStream::connect(socket_of(&server)).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let answer: Value = serde_json::from_str(&answer).unwrap();
        let error = answer["error"].as_str().unwrap();
        assert!(error.contains(part), "{request}: {error}");
    }
    assert!(printed(&server, &["conns"]).contains("0 open"));
}

/// Sends a request, and returns the answer. The connection must not end with a reset.
fn exchange(server: &Server, request: &[u8]) -> Value {
    let mut stream = UnixStream::connect(socket_of(server)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(request).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert_eq!(answer.lines().count(), 1, "{answer}");
    serde_json::from_str(&answer).unwrap()
}

#[test]
fn ninth_connection_is_refused_and_closed_without_a_reset() {
    let server = Server::start();
    let open: Vec<UnixStream> = (0..8)
        .map(|_| UnixStream::connect(socket_of(&server)).unwrap())
        .collect();
    for _ in 0..20 {
        let answer = exchange(&server, b"{\"workers\":{}}\n");
        let error = answer["error"].as_str().unwrap();
        assert!(error.contains("too many requests of operators"), "{answer}");
    }
    let error = failed(&server, &["workers"], 1);
    assert!(error.contains("too many requests of operators"), "{error}");
    drop(open);
    within("an answer", || {
        exchange(&server, b"{\"workers\":{}}\n")
            .get("workers")
            .cloned()
    });
}

#[test]
fn long_request_is_refused_and_closed_without_a_reset() {
    let server = Server::start();
    for length in [65_536, 65_537, 2_000_000] {
        let answer = exchange(&server, &vec![b' '; length]);
        let error = answer["error"].as_str().unwrap();
        assert_eq!(error, "the request is longer than 65536 bytes", "{length}");
    }
    let mut longest = b"{\"workers\":{}}".to_vec();
    longest.resize(65_535, b' ');
    longest.push(b'\n');
    assert!(exchange(&server, &longest)["workers"].is_array());
    // What follows the request is ignored.
    longest.extend([b'x'; 10_000]);
    assert!(exchange(&server, &longest)["workers"].is_array());
}

/// Runs a command that succeeds, and returns what it prints and its messages.
#[track_caller]
fn warned(server: &Server, args: &[&str]) -> (String, String) {
    let output = run(server, args);
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{args:?}: {errors}");
    (String::from_utf8(output.stdout).unwrap(), errors)
}

#[test]
fn stuck_worker_is_named_and_delays_an_answer_only_once() {
    const SILENT: &str = "fanfare: worker 1 has not answered in time; ";
    let server = Server::start();
    // The kernel spreads connections over the workers at random.
    let mut open = Vec::new();
    within("connections of both workers", || {
        open.push(Socket::subscribed(server.addr, "channel=a"));
        let workers = json_of(&server, &["workers", "--json"]);
        let rows = workers["workers"].as_array().unwrap();
        rows.iter().all(|row| row["conns"] != 0).then_some(())
    });
    Feeder::connect(&server.feed).publish("a", 1);
    let stopped = server.process().stop_thread("fanfare-1");
    let (list, error) = warned(&server, &["workers"]);
    let row = list.lines().nth(2).unwrap();
    assert!(row.trim_start().starts_with("1        no "), "{list}");
    assert!(error.starts_with(SILENT), "{error}");
    for list in ["conns", "channels"] {
        let (_, error) = warned(&server, &[list]);
        assert!(error.starts_with(SILENT), "{error}");
        assert!(error.ends_with("are missing from the list\n"), "{error}");
    }
    for list in ["conns", "channels", "workers"] {
        let (answer, _) = warned(&server, &[list, "--json"]);
        let answer: Value = serde_json::from_str(&answer).unwrap();
        assert_eq!(answer["silent_workers"], json!([1]), "{answer}");
    }
    let begun = Instant::now();
    let top = printed(&server, &["top", "--count", "1"]);
    // Three questions that wait for the worker would take 3 s.
    assert!(begun.elapsed() < Duration::from_millis(2_500));
    assert!(top.contains(" a\n"), "{top}");
    let (said, error) = warned(&server, &["kick", "--channel", "a"]);
    assert!(said.contains("being closed"), "{said}");
    assert!(error.starts_with(SILENT), "{error}");

    // The queue of the stuck worker has room for 16 questions.
    let ask = |_: usize| {
        let mut stream = UnixStream::connect(socket_of(&server)).unwrap();
        stream.write_all(b"{\"workers\":{}}\n").unwrap();
        stream
    };
    for _ in 0..2 {
        let asked: Vec<UnixStream> = (0..8).map(ask).collect();
        for mut stream in asked {
            stream.read_to_string(&mut String::new()).unwrap();
        }
    }
    let output = run(&server, &["kick", "--channel", "b"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let error = String::from_utf8(output.stderr).unwrap();
    let unreached = "fanfare: worker 1 could not receive the request";
    assert!(error.starts_with(unreached), "{error}");

    // The worker carries out the first request when it runs again.
    drop(stopped);
    within("no connection", || {
        (json_of(&server, &["conns", "--json"])["open"] == 0).then_some(())
    });
}

#[test]
fn socket_that_was_removed_is_made_again() {
    let server = Server::start();
    let socket = socket_of(&server);
    fs::remove_file(&socket).unwrap();
    within("the socket", || socket.exists().then_some(()));
    within("an answer", || {
        run(&server, &["workers"]).status.success().then_some(())
    });
    let mode = fs::metadata(&socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn level_of_an_operator_is_in_the_configuration() {
    let server = Server::with("[logging]\nlevel = \"warn\"\n", &[]);
    let level = || {
        let answer = json_of(&server, &["config", "--json"]);
        let keys = answer["keys"].as_array().unwrap();
        let mut keys = keys.iter();
        keys.find(|key| key["key"] == "logging.level")
            .unwrap()
            .clone()
    };
    assert_eq!(level()["value"], "\"warn\"");
    assert!(
        level()["source"]
            .as_str()
            .unwrap()
            .ends_with("fanfare.toml:2")
    );
    printed(&server, &["log-level", "debug"]);
    assert_eq!(level()["value"], "\"debug\"");
    assert_eq!(level()["source"], "operator");
    assert_eq!(level()["after_restart"], "\"warn\"");
    let changed = printed(&server, &["config", "--changed"]);
    assert!(changed.contains("operator"), "{changed}");
}

/// Starts `fanfare top` below a shell that prints the process's number first.
fn top(feed: &Path, args: &str) -> (Lines, String) {
    let script = format!("echo $$; exec \"$0\" top {args}");
    let mut lines = Lines::run(
        Command::new("sh")
            .args(["-c", &script, env!("CARGO_BIN_EXE_fanfare")])
            .env("FANFARE_FEED", feed),
    );
    let process = lines.next().unwrap();
    (lines, process)
}

#[test]
fn top_goes_on_after_a_restart_and_ends_with_a_signal() {
    let folder = tempfile::tempdir().unwrap();
    let start = || Server::in_folder(folder.path(), "127.0.0.1:0", "", &[]).unwrap();
    let server = start();
    let (mut lines, process) = top(&server.feed, "--interval 0.2");
    let first = lines.until("fanfare ");
    assert!(first.ends_with("rates since the start"), "{first}");
    let second = lines.until("fanfare ");
    assert!(second.contains("rates of the last "), "{second}");
    drop(server);
    lines.until("trying again every 0.2 s");
    let _server = start();
    let first = lines.until("fanfare ");
    assert!(
        first.contains("restarted while this command runs"),
        "{first}"
    );
    let sent = Command::new("kill").args(["-s", "INT", &process]).status();
    assert!(sent.unwrap().success());
    assert_eq!(lines.wait().code(), Some(0));
    assert_eq!(lines.stderr(), "");
}

#[test]
fn top_counts_its_screens_and_needs_a_server_at_first() {
    let mut server = Server::start();
    let text = printed(&server, &["top", "--count", "2", "--interval", "0.2"]);
    assert_eq!(text.matches("\nWORKER ").count(), 2, "{text}");
    server.signal("KILL");
    server.wait();
    let error = failed(&server, &["top"], 1);
    assert!(error.contains("no server listens there"), "{error}");
}

#[test]
fn lists_and_top_fit_a_terminal() {
    let server = Server::start();
    let _socket = Socket::subscribed(server.addr, "channel=prices:eur");
    let on_terminal = |line: &str| {
        let output = Command::new("script")
            .args([
                "-qec",
                &format!("stty cols 100 rows 20; {line}"),
                "/dev/null",
            ])
            .env("PROGRAM", env!("CARGO_BIN_EXE_fanfare"))
            .env("FANFARE_FEED", &server.feed)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().replace('\r', "")
    };
    let list = on_terminal("\"$PROGRAM\" conns");
    assert!(list.contains("\n  websocket, worker "), "{list}");
    assert!(list.lines().all(|line| line.len() <= 100), "{list}");
    let top = on_terminal("\"$PROGRAM\" top --count 1");
    let text = top.strip_prefix("\u{1b}[H\u{1b}[2J").unwrap();
    assert!(!text.contains('\u{1b}'), "{text:?}");
    assert!(text.lines().count() < 20, "{text}");
}

#[test]
fn socket_can_be_elsewhere_or_off() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("operators");
    let config = format!("admin_socket = {path:?}\n");
    let server = Server::with(&config, &[]);
    let error = failed(&server, &["workers"], 1);
    assert!(
        error.contains("feed.sock.admin: no server listens there"),
        "{error}"
    );
    let named = printed(&server, &["workers", "--socket", path.to_str().unwrap()]);
    assert_eq!(named.lines().count(), 3);
    let output = fanfare()
        .arg("workers")
        .env("FANFARE_ADMIN_SOCKET", &path)
        .output();
    assert!(output.unwrap().status.success());
    let server = Server::with("admin_socket = \"off\"\n", &[]);
    assert!(!socket_of(&server).exists());
    failed(&server, &["workers"], 1);
}
