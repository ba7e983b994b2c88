//! `fanfare bench` as users run it: with its own server, against a running server, and against a
//! server that breaks the protocol. The command must detect each violation.
//!
//! The tests check counts and the exit status, not figures of time and memory.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;

use fanfare::frame::websocket::{Opcode, push_frame};
use serde_json::Value;

use crate::support::{Server, fanfare};

/// Returns the exit status, the JSON object (null if none was printed), and standard error.
fn bench(flags: &[&str]) -> (i32, Value, String) {
    let output = fanfare().arg("bench").args(flags).output().unwrap();
    let value = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    let printed = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code().unwrap(), value, printed)
}

fn assert_faultless(result: &Value) {
    for (name, count) in result["publish"]["faults"].as_object().unwrap() {
        assert_eq!(count, 0, "{name}: {result:#}");
    }
    assert_eq!(result["clean"], true, "{result:#}");
    assert_eq!(result["publish"]["complete"], true, "{result:#}");
}

#[test]
fn small_run_counts_every_delivery_and_measures_the_server() {
    let folder = tempfile::tempdir().unwrap();
    let plot = folder.path().join("plot.svg");
    let flags = "--websockets 20 --event-streams 15 --rate 50 --seconds 1 --burst 5 --idle 0.2 --probe --json";
    let mut flags: Vec<&str> = flags.split(' ').collect();
    flags.extend(["--plot", plot.to_str().unwrap()]);
    let (status, result, printed) = bench(&flags);
    assert_eq!(status, 0, "{printed}{result:#}");
    assert_faultless(&result);
    assert_eq!(printed, "", "no bar without a terminal");
    let publish = &result["publish"];
    assert_eq!(publish["publications"], 50);
    assert_eq!(publish["deliveries"], 50 * 35);
    assert_eq!(publish["deliveries_due"], 50 * 35);
    assert_eq!(publish["subscribers_told"], 50 * 35);
    assert_eq!(result["connect"]["conns"], 35);
    assert_eq!(publish["gaps_told"]["readers"], 0);
    for (object, figure) in [
        (&result["connect"], "server_cpu_us_per_conn"),
        (publish, "server_cpu_us_per_delivery"),
        (&publish["latency_ms"], "p99.9"),
        (&publish["last_subscriber_ms"], "max"),
        (&publish["probe_ms"]["all"], "p50"),
    ] {
        assert!(
            object[figure].as_f64().unwrap() > 0.0,
            "{figure}: {result:#}"
        );
    }
    assert!(result["idle"]["server_cpu_us_per_conn_second"].is_number());
    let picture = std::fs::read_to_string(plot).unwrap();
    assert!(picture.starts_with("<svg ") && picture.contains("percentile"));
}

#[test]
fn text_ends_with_a_verdict() {
    let flags = [
        "bench",
        "--websockets",
        "5",
        "--event-streams",
        "5",
        "--seconds",
        "0.2",
    ];
    let output = fanfare().args(flags).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    assert!(text.starts_with("10 conns in "), "{text}");
    assert!(
        text.ends_with("every publication once and in order\n"),
        "{text}"
    );
}

#[test]
fn stalled_and_slow_conns_receive_gaps_and_readers_none() {
    let flags = "--websockets 20 --event-streams 20 --stalled 20 --slow 10 --rate 400 --burst 20 --seconds 4 \
                 --payload 1000 --strict --json";
    let (status, result, printed) = bench(&flags.split_whitespace().collect::<Vec<_>>());
    assert_eq!(status, 0, "{printed}{result:#}");
    assert_faultless(&result);
    let publish = &result["publish"];
    let gaps = publish["gaps_told"]["stalled_or_slow"].as_u64().unwrap();
    assert!(gaps >= 10, "{result:#}");
    assert!(publish["skipped_and_told"].as_u64().unwrap() > gaps);
    assert_eq!(publish["deliveries"], publish["deliveries_due"]);
}

#[test]
fn churning_conns_connect_and_leave_without_a_fault() {
    let flags =
        "--websockets 10 --event-streams 10 --channels 3 --churn 100 --rate 200 --seconds 3 --json";
    let (status, result, printed) = bench(&flags.split_whitespace().collect::<Vec<_>>());
    assert_eq!(status, 0, "{printed}{result:#}");
    assert_faultless(&result);
    let publish = &result["publish"];
    assert!(
        publish["came_and_went"].as_u64().unwrap() > 100,
        "{result:#}"
    );
    assert!(publish["deliveries"].as_u64() > publish["deliveries_due"].as_u64());
}

#[test]
fn polls_are_answered_with_each_publication_once_and_counted() {
    let flags = "--websockets 5 --event-streams 5 --polls 30 --channels 2 --rate 100 --burst 5 --seconds 1 \
                 --idle 0.2 --strict --json";
    let (status, result, printed) = bench(&flags.split_whitespace().collect::<Vec<_>>());
    assert_eq!(status, 0, "{printed}{result:#}");
    assert_faultless(&result);
    assert_eq!(result["connect"]["kinds"]["polls"], 30);
    let publish = &result["publish"];
    assert_eq!(publish["deliveries"], 100 * 20);
    assert_eq!(publish["deliveries"], publish["deliveries_due"]);
    // Five publications arrive together, and each channel has at least one of them.
    let answers = publish["poll_answers"].as_u64().unwrap();
    assert!((30 * 20..=30 * 100).contains(&answers), "{answers}");
}

#[test]
fn stalled_slow_and_passing_polls_receive_gaps() {
    let flags = "--websockets 0 --event-streams 0 --polls 40 --stalled 20 --slow 10 --churn 40 --rate 400 \
                 --burst 20 --seconds 3 --payload 1000 --strict --json";
    let (status, result, printed) = bench(&flags.split_whitespace().collect::<Vec<_>>());
    assert_eq!(status, 0, "{printed}{result:#}");
    assert_faultless(&result);
    let publish = &result["publish"];
    assert!(
        publish["came_and_went"].as_u64().unwrap() > 20,
        "{result:#}"
    );
    assert!(publish["deliveries"].as_u64() > publish["deliveries_due"].as_u64());
}

#[test]
fn compressed_publications_are_checked_and_inflated_once_for_each_thread() {
    let flags = "--websockets 40 --event-streams 5 --deflate --rate 50 --burst 5 --seconds 1 --strict --json";
    let (status, result, printed) = bench(&flags.split(' ').collect::<Vec<_>>());
    assert_eq!(status, 0, "{printed}{result:#}");
    assert_faultless(&result);
    assert_eq!(result["connect"]["kinds"]["compressed_websockets"], 40);
    let publish = &result["publish"];
    assert_eq!(publish["deliveries"], 50 * 45);
    assert_eq!(publish["compressed"], 50 * 40);
    let inflated = publish["inflated"].as_u64().unwrap();
    assert!((50..=50 * 40 / 2).contains(&inflated), "{inflated}");
}

#[test]
fn server_that_does_not_compress_is_reported() {
    let server = Server::start();
    let address = server.addr.to_string();
    let mut flags = vec!["--attach", &address, "--deflate", "--listen-only"];
    flags.extend(["--seconds", "0"]);
    let (status, _, printed) = bench(&flags);
    assert_eq!(status, 1, "{printed}");
    assert!(
        printed.contains("does not agree to permessage-deflate"),
        "{printed}"
    );
}

#[test]
fn text_names_the_kinds_of_clients() {
    let flags = "bench --websockets 0 --event-streams 2 --polls 3 --seconds 0.2";
    let output = fanfare().args(flags.split(' ')).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("\n  2 event streams, 3 polls\n"), "{text}");
    assert!(text.contains("answers to polls\n"), "{text}");
}

#[test]
fn memory_is_reported_after_each_storm() {
    let flags = "--websockets 100 --event-streams 100 --storms 2 --json";
    let (status, result, printed) = bench(&flags.split_whitespace().collect::<Vec<_>>());
    assert_eq!(status, 0, "{printed}{result:#}");
    let storms = result["storms"].as_array().unwrap();
    assert_eq!(storms.len(), 2);
    assert!(
        storms
            .iter()
            .all(|storm| storm["server_pss_mb_after"].as_f64().unwrap() > 1.0)
    );
}

#[test]
fn running_server_is_published_to_and_measured() {
    let server = Server::start();
    let address = server.addr.to_string();
    let pid = server.process().0.to_string();
    let mut flags = vec![
        "--attach",
        &address,
        "--feed",
        server.feed.to_str().unwrap(),
    ];
    flags.extend("--websockets 5 --event-streams 5 --seconds 0.5 --json".split(' '));
    // In the second run, the server's ids continue after those of the first run. So they differ
    // from the numbers with which the command counts its publications.
    for _ in 0..2 {
        let (status, result, printed) = bench(&flags);
        assert_eq!(status, 0, "{printed}{result:#}");
        assert_faultless(&result);
        assert_eq!(result["publish"]["deliveries"], 10 * 10);
        assert_eq!(result["publish"]["server_cpu_us_per_delivery"], Value::Null);
    }
    flags.extend(["--pid", &pid]);
    let (_, result, _) = bench(&flags);
    assert!(
        result["connect"]["server_cpu_us_per_conn"]
            .as_f64()
            .unwrap()
            > 0.0
    );
}

#[test]
fn listening_checks_the_publications_of_others() {
    let server = Server::with("", &["--demo"]);
    let address = server.addr.to_string();
    let mut flags = vec![
        "--attach",
        &address,
        "--listen-only",
        "--channel",
        "demo:load",
    ];
    flags.extend("--websockets 3 --event-streams 3 --seconds 3 --json".split(' '));
    let (status, result, printed) = bench(&flags);
    assert_eq!(status, 0, "{printed}{result:#}");
    let foreign = result["publish"]["foreign"].as_u64().unwrap();
    assert!(foreign >= 6, "{result:#}");
}

#[test]
fn bad_usage_has_status_two_and_an_unreachable_server_one() {
    for (flags, status, word) in [
        ("--attach 127.0.0.1:9", 2, "--feed"),
        ("--websockets 0 --event-streams 0", 2, "no connections"),
        ("--feed /tmp/x", 2, "--attach"),
        ("--stalled 100", 2, "--stalled"),
        ("--attach 127.0.0.1:9 --listen-only", 1, "refused"),
    ] {
        let (code, _, printed) = bench(&flags.split(' ').collect::<Vec<_>>());
        assert_eq!(code, status, "{flags}: {printed}");
        assert!(printed.contains(word), "{flags}: {printed}");
    }
}

/// What the faulty server does wrong when it delivers its third publication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    Duplicate,
    Loss,
    /// Sends a gap instead of the publication.
    Gap,
    /// Delivers the third publication after the fourth one.
    Reorder,
    /// Closes the connection instead of delivering the publication.
    Close,
}

fn text_frame(text: &str) -> Vec<u8> {
    let mut frame = Vec::new();
    push_frame(Opcode::Text, text.as_bytes(), &mut frame);
    frame
}

/// Runs a faulty WebSocket server with one channel until its feeder disconnects.
fn serve(fault: Fault, feed: &Path) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let feed = UnixListener::bind(feed).unwrap();
    let clients: Arc<Mutex<Vec<TcpStream>>> = Arc::default();
    let accepted = Arc::clone(&clients);
    thread::spawn(move || {
        for mut client in listener.incoming().map_while(Result::ok) {
            let mut request = Vec::new();
            let mut byte = [0];
            while !request.ends_with(b"\r\n\r\n") && client.read(&mut byte).unwrap() > 0 {
                request.push(byte[0]);
            }
            let mut answer = b"HTTP/1.1 101 Switching Protocols\r\n\r\n".to_vec();
            answer.extend(text_frame("{\"type\":\"subscribed\",\"id\":\"e-0\"}"));
            client.write_all(&answer).unwrap();
            accepted.lock().unwrap().push(client);
        }
    });
    thread::spawn(move || {
        let (feeder, _) = feed.accept().unwrap();
        let mut answers = feeder.try_clone().unwrap();
        let mut held = Vec::new();
        for (line, number) in BufReader::new(feeder)
            .lines()
            .map_while(Result::ok)
            .zip(1..)
        {
            // The payload is passed on unchanged, as a real server does.
            let (_, data) = line.split_once("\"data\":").unwrap();
            let data = data.strip_suffix('}').unwrap();
            let frame = text_frame(&format!(
                "{{\"channel\":\"bench\",\"id\":\"e-{number}\",\"data\":{data}}}"
            ));
            let mut bytes = match (fault, number) {
                (Fault::Duplicate, 3) => frame.repeat(2),
                (Fault::Reorder, 3) => {
                    held = frame;
                    Vec::new()
                }
                (Fault::Gap, 3) => text_frame("{\"type\":\"gap\",\"until\":\"e-3\"}"),
                (Fault::Loss | Fault::Close, 3) => Vec::new(),
                _ => frame,
            };
            if number == 4 {
                bytes.append(&mut held);
            }
            let mut clients = clients.lock().unwrap();
            for client in clients.iter_mut() {
                let _ = client.write_all(&bytes);
            }
            if fault == Fault::Close && number == 3 {
                clients.clear();
            }
            let _ =
                answers.write_all(b"{\"ok\":true,\"line\":1,\"id\":\"e-1\",\"subscribers\":4}\n");
        }
    });
    address
}

#[test]
fn server_that_breaks_the_protocol_is_detected() {
    for (fault, status, counter) in [
        (Fault::None, 0, ""),
        (Fault::Duplicate, 1, "duplicates"),
        (Fault::Loss, 1, "lost"),
        (Fault::Reorder, 1, "reordered"),
        (Fault::Close, 1, "ended"),
        (Fault::Gap, 0, ""),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let feed = folder.path().join("feed");
        let address = serve(fault, &feed).to_string();
        let mut flags = vec!["--attach", &address, "--feed", feed.to_str().unwrap()];
        flags.extend("--websockets 4 --event-streams 0 --rate 50 --seconds 0.2 --json".split(' '));
        let (code, result, printed) = bench(&flags);
        assert_eq!(code, status, "{fault:?}: {printed}{result:#}");
        if !counter.is_empty() {
            assert_eq!(
                result["publish"]["faults"][counter], 4,
                "{fault:?}: {result:#}"
            );
        }
        let gaps = if fault == Fault::Gap { 4 } else { 0 };
        assert_eq!(result["publish"]["gaps_told"]["readers"], gaps, "{fault:?}");
    }
}

#[test]
fn gap_of_a_reader_fails_a_strict_run() {
    let folder = tempfile::tempdir().unwrap();
    let feed = folder.path().join("feed");
    let address = serve(Fault::Gap, &feed).to_string();
    let mut flags = vec![
        "--attach",
        &address,
        "--feed",
        feed.to_str().unwrap(),
        "--strict",
    ];
    flags.extend("--websockets 4 --event-streams 0 --rate 50 --seconds 0.2 --json".split(' '));
    assert_eq!(bench(&flags).0, 1);
}
