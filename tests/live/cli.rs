//! The command line: help texts have one layout, errors name the argument, a failure prints its
//! first cause immediately, and no processes or files remain.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::TcpListener;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Child, Output, Stdio};
use std::time::{Duration, Instant};

use crate::support::{Feeder, Process, Server, fanfare, within};

const SUBCOMMANDS: [&str; 11] = [
    "bench",
    "check",
    "doctor",
    "generate",
    "health",
    "help",
    "journal",
    "publish",
    "serve",
    "subscribe",
    "token",
];
/// The maximum time until a command ends, or reports that its first attempt failed. It is too short
/// for a second attempt.
const AT_ONCE: Duration = Duration::from_secs(5);

fn run(line: &[&str]) -> Output {
    fanfare()
        .env_remove("COLUMNS")
        .args(line)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn help(line: &[&str]) -> String {
    let output = run(line);
    assert!(output.status.success(), "{line:?}");
    assert!(output.stderr.is_empty(), "{line:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Runs a command that must end immediately with this status. Returns standard error.
fn ends_at_once(line: &[&str], status: i32) -> String {
    let started = Instant::now();
    let output = run(line);
    assert!(started.elapsed() < AT_ONCE, "{line:?}");
    let printed = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(status), "{line:?}: {printed}");
    printed
}

#[test]
fn help_texts_fit_a_hundred_columns_and_have_one_layout() {
    for subcommand in SUBCOMMANDS {
        let text = help(&[subcommand, "--help"]);
        assert_eq!(text, help(&[subcommand, "-h"]), "{subcommand}");
        assert_eq!(text, help(&["help", subcommand]), "{subcommand}");
        let summary = text.lines().next().unwrap();
        assert!(summary.starts_with(char::is_uppercase), "{summary}");
        assert!(
            !summary.contains(". ") && !summary.ends_with('.'),
            "{summary}"
        );
        let marks = [
            format!("\nUsage: fanfare {subcommand}"),
            "\nOptions:\n".to_owned(),
            "  -h, --help".to_owned(),
            "  -V, --version".to_owned(),
            "\nExit status:\n  0  success".to_owned(),
            "\n  1  ".to_owned(),
            "\n  2  bad usage or configuration\n\nGuide: fanfare help ".to_owned(),
            "\n\nExamples:\n  ".to_owned(),
        ];
        let places: Vec<usize> = marks
            .iter()
            .map(|mark| {
                text.find(mark)
                    .unwrap_or_else(|| panic!("{mark:?} in {text}"))
            })
            .collect();
        assert!(places.is_sorted(), "{subcommand}: {places:?}");
        let arguments = text.find("\nArguments:\n").unwrap_or(places[1]);
        assert!((places[0]..=places[1]).contains(&arguments), "{subcommand}");
    }
    let mut all: Vec<String> = SUBCOMMANDS.iter().map(|sub| help(&[sub, "-h"])).collect();
    all.extend([help(&["--help"]), help(&["-h"]), help(&["help"])]);
    for line in all.iter().flat_map(|text| text.lines()) {
        assert!(line.chars().count() <= 100, "{line}");
        assert_eq!(line, line.trim_end(), "{line:?}");
        for open in ["[env:", "[default:"] {
            assert!(!line.ends_with(open), "{line}");
        }
    }
}

#[test]
fn version_is_that_of_the_package_everywhere() {
    let version = env!("CARGO_PKG_VERSION");
    let short = help(&["-V"]);
    assert!(
        short.starts_with(&format!("fanfare {version} (")),
        "{short}"
    );
    assert_eq!(short.lines().count(), 1, "{short}");
    let long = help(&["--version"]);
    assert!(long.starts_with(short.trim_end()), "{long}");
    for part in ["\ntarget: ", "\nfeatures: ", " journal", " tls"] {
        assert!(long.contains(part), "{part}: {long}");
    }
    for subcommand in SUBCOMMANDS {
        let printed = help(&[subcommand, "--version"]);
        assert!(printed.contains(version), "{printed}");
    }
}

#[test]
fn errors_of_usage_name_the_argument_and_have_status_two() {
    for (line, name) in [
        (&["serve", "--listen", "x"][..], "--listen"),
        (&["serve", "--workers", "9999"], "--workers"),
        (&["serve", "--log", "loud"], "--log"),
        (&["serve", "--admin", "x"], "--admin"),
        (&["doctor", "--workers", "9999"], "--workers"),
        (&["doctor", "--stalled", "101"], "--stalled"),
        (&["subscribe", "nowhere"], "<URL>"),
        (&["subscribe", "ftp://a/ws"], "<URL>"),
        (&["subscribe", "ws://a/ws", "--insecure"], "--insecure"),
        (
            &["subscribe", "wss://a/ws", "--cacert", "/dev/null"],
            "--cacert",
        ),
        (&["subscribe", "ws://a/ws", "--token", ""], "--token"),
        (
            &["subscribe", "ws://a/ws", "--token-file", "/dev/null"],
            "--token-file",
        ),
        (&["subscribe", "ws://a/ws", "--count", "-1"], "--count"),
        (&["publish", "a", "1", "--event", "a\nb"], "--event"),
        (&["publish", "a b", "1"], "<CHANNEL>"),
        (&["journal", "copy", "a"], "<ACTION>"),
        (&["journal", "check"], "<DIR>"),
        (&["token", "--key", "/dev/null"], "--key"),
        (&["bench", "--payload", "1"], "--payload"),
        (&["bench", "--seconds", "-1"], "--seconds"),
        (&["bench", "--attach", "127.0.0.1:1"], "--attach"),
        (&["bench", "--feed", "x"], "--attach"),
        (&["bench", "--nonsense"], "--nonsense"),
    ] {
        let printed = ends_at_once(line, 2);
        assert!(printed.contains(name), "{line:?}: {printed}");
    }
}

/// Starts a server that requires a token.
fn guarded(folder: &Path) -> Server {
    let secret = folder.join("secret");
    fs::write(&secret, "0123456789abcdef0123456789abcdef").unwrap();
    Server::with(
        &format!("[auth]\nkeys = [\"HS256 {}\"]\n", secret.display()),
        &[],
    )
}

#[test]
fn subscribe_reports_a_missing_token_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let server = guarded(folder.path());
    for url in [
        format!("ws://{}/ws?channel=a", server.addr),
        format!("ws://{}/ws", server.addr),
        format!("ws://{}/ws?channel=a&envelope=data", server.addr),
        server.url("/sse?channel=a"),
        server.url("/poll?channel=a"),
    ] {
        let printed = ends_at_once(&["subscribe", &url], 1);
        assert!(
            printed.starts_with("fanfare: token missing (401)"),
            "{printed}"
        );
        assert_eq!(printed.lines().count(), 1, "{printed}");
        let header = "Authorization: Bearer x.y.z";
        let printed = ends_at_once(&["subscribe", &url, "--header", header], 1);
        assert!(printed.contains("(401)"), "{printed}");
    }
}

#[test]
fn subscribe_with_a_token_receives_over_websocket() {
    let folder = tempfile::tempdir().unwrap();
    let server = guarded(folder.path());
    let key = folder.path().join("secret");
    let token = help(&["token", "--key", key.to_str().unwrap(), "--subscribe", "*"]);
    let header = format!("Authorization: Bearer {}", token.trim());
    let url = format!("ws://{}/ws?channel=a", server.addr);
    let mut child = fanfare()
        .args(["subscribe", &url, "--count", "1", "--header", &header])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    server.await_metric("fanfare_subscribers", 1.0);
    Feeder::connect(&server.feed).publish("a", 1);
    let mut line = String::new();
    let stdout = child.stdout.as_mut().unwrap();
    BufReader::new(stdout).read_line(&mut line).unwrap();
    assert!(line.contains("\"data\":1"), "{line}");
    assert!(child.wait().unwrap().success());
}

#[test]
fn subscribe_ends_at_once_if_no_retry_can_help() {
    let server = Server::start();
    let web_socket = |path: &str| format!("ws://{}{path}", server.addr);
    for (url, mark) in [
        (web_socket("/nope"), "(404)"),
        (server.url("/nope"), "(404)"),
        (web_socket("/ws?channel="), "(400)"),
        (server.url("/sse?channel=a%20b"), "(400)"),
        (server.url("/poll?channel="), "(400)"),
        (server.url("/ws?channel=a"), "(426)"),
        (format!("http://{}/", server.addr), "not an event stream"),
        (
            "ws://unknown.invalid/ws?channel=a".to_owned(),
            "cannot reach unknown.invalid",
        ),
    ] {
        // Without a network the resolver may fail, which counts as temporary.
        if url.contains(".invalid") && !is_unknown("unknown.invalid") {
            continue;
        }
        let printed = ends_at_once(&["subscribe", &url], 1);
        assert!(printed.contains(mark), "{url}: {printed}");
        assert_eq!(printed.lines().count(), 1, "{printed}");
    }
}

fn is_unknown(host: &str) -> bool {
    use std::net::ToSocketAddrs as _;
    let resolved = (host, 80).to_socket_addrs();
    resolved.is_err_and(|error| error.to_string().contains("not known"))
}

#[test]
fn subscribe_reports_each_failed_attempt_and_retries() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = free.local_addr().unwrap();
    drop(free);
    let mut child = fanfare()
        .args(["subscribe", &format!("ws://{addr}/ws?channel=a")])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let started = Instant::now();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    for _ in 0..2 {
        let line = lines.next().unwrap().unwrap();
        assert!(line.contains("Connection refused"), "{line}");
        assert!(line.contains("trying again in"), "{line}");
    }
    assert!(started.elapsed() < AT_ONCE);
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn subscribe_ends_when_the_server_forbids_reconnecting() {
    let folder = tempfile::tempdir().unwrap();
    let server = guarded(folder.path());
    let key = folder.path().join("secret");
    let token = help(&[
        "token",
        "--key",
        key.to_str().unwrap(),
        "--subscribe",
        "*",
        "--sub",
        "alice",
    ]);
    let header = format!("Authorization: Bearer {}", token.trim());
    for url in [
        format!("ws://{}/ws?channel=a", server.addr),
        server.url("/sse?channel=a"),
    ] {
        let mut child = fanfare()
            .args(["subscribe", &url, "--header", &header])
            .stderr(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        server.await_metric("fanfare_subscribers", 1.0);
        let mut feeder = Feeder::connect(&server.feed);
        feeder.write("{\"disconnect_sub\":\"alice\",\"code\":4003,\"reason\":\"banned\"}\n");
        let status = within("the end", || child.try_wait().unwrap());
        assert_eq!(status.code(), Some(1));
        let (mut errors, mut printed) = (String::new(), String::new());
        child.stderr.unwrap().read_to_string(&mut errors).unwrap();
        child.stdout.unwrap().read_to_string(&mut printed).unwrap();
        assert!(errors.contains("4003 (banned)"), "{errors}");
        assert_eq!(printed, "");
        server.await_metric("fanfare_subscribers", 0.0);
    }
}

#[test]
fn subscribe_works_under_cron_and_ends_silently_on_a_closed_pipe() {
    let server = Server::start();
    let url = format!("ws://{}/ws?channel=a", server.addr);
    // The command runs as in a cron job: standard input is closed, and there is no terminal.
    let script = format!(
        "exec setsid {} subscribe '{url}' <&- | head -n 2",
        env!("CARGO_BIN_EXE_fanfare")
    );
    let child = std::process::Command::new("bash")
        .args(["-c", &format!("set -o pipefail; {script}")])
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    server.await_metric("fanfare_subscribers", 1.0);
    let mut feeder = Feeder::connect(&server.feed);
    for number in 0..2 {
        feeder.publish("a", number);
    }
    // The reader has closed the pipe, so writing fails after one or two publications.
    within("the end of the subscriber", || {
        feeder.publish("a", "x".repeat(10_000));
        (server.metric("fanfare_subscribers") < 0.5).then_some(())
    });
    let output = child.wait_with_output().unwrap();
    let printed = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{printed}");
    assert_eq!(printed, "");
    assert_eq!(output.stdout.split(|b| *b == b'\n').count(), 3);
}

#[test]
fn publish_reports_an_unreachable_feed_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("feed.sock");
    let missing = missing.to_str().unwrap();
    for flags in [&[][..], &["--ack"]] {
        let line = [&["publish", "a", "1", "--feed", missing], flags].concat();
        let printed = ends_at_once(&line, 1);
        assert!(
            printed.contains(missing) && printed.contains("--feed"),
            "{printed}"
        );
        assert_eq!(printed.lines().count(), 1, "{printed}");
    }
}

#[test]
fn publish_reports_why_it_cannot_reconnect() {
    let mut server = Server::start();
    let mut child = fanfare()
        .args(["publish", "a", "--ack", "--feed"])
        .arg(&server.feed)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    server.await_metric("fanfare_feeders", 1.0);
    server.signal("KILL");
    server.wait();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let closed = lines.next().unwrap().unwrap();
    assert!(closed.contains("closed the connection"), "{closed}");
    let cause = lines.next().unwrap().unwrap();
    assert!(cause.contains("Connection refused"), "{cause}");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn bench_reports_a_refusing_target_at_once() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = free.local_addr().unwrap().to_string();
    drop(free);
    let printed = ends_at_once(&["bench", "--attach", &addr, "--listen-only"], 1);
    assert!(printed.contains("Connection refused"), "{printed}");
    let folder = tempfile::tempdir().unwrap();
    let server = guarded(folder.path());
    let addr = server.addr.to_string();
    let streams = ["--websockets", "0", "--event-streams", "5"];
    let line = [&["bench", "--attach", &addr, "--listen-only"], &streams[..]].concat();
    let printed = ends_at_once(&line, 1);
    assert!(printed.contains("401"), "{printed}");
}

/// Starts a load generator with its own server. Returns both processes.
fn bench(folder: &Path) -> (Child, Process) {
    let child = fanfare()
        .args(["bench", "--websockets", "2", "--event-streams", "2"])
        .args(["--seconds", "600", "--rate", "1"])
        .env("TMPDIR", folder)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let number = child.id();
    let path = format!("/proc/{number}/task/{number}/children");
    let server = within("the server of the bench", || {
        let is_ready = fs::read_dir(folder)
            .unwrap()
            .flatten()
            .any(|entry| entry.path().join("feed.sock").exists());
        let text = fs::read_to_string(&path).unwrap_or_default();
        text.trim().parse().ok().filter(|_| is_ready)
    });
    (child, Process(server))
}

fn await_end(process: Process) {
    within("the end of the server", || {
        // A zombie has ended, although its new parent may not have reaped it yet.
        let stat = fs::read_to_string(format!("/proc/{}/stat", process.0));
        let is_over = stat.map_or(true, |stat| stat.contains(") Z "));
        is_over.then_some(())
    });
}

#[test]
fn bench_ended_by_a_signal_leaves_no_process_and_no_file() {
    for (name, number) in [("INT", 2), ("TERM", 15), ("HUP", 1), ("KILL", 9)] {
        let folder = tempfile::tempdir().unwrap();
        let (mut child, server) = bench(folder.path());
        Process(child.id()).signal(name);
        let status = within("the end of the bench", || child.try_wait().unwrap());
        assert_eq!(status.signal(), Some(number), "{name}");
        await_end(server);
        if name != "KILL" {
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "{name}");
        }
    }
}
