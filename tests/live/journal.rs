//! Tests of the journal: a server is killed at random times and started again, the disk is full, or
//! a second server opens the same journal.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Feeder, Lines, Raw, Server, Socket, fanfare, within};

/// The default number of kills. `FANFARE_SIM_KILLS` overrides it.
const KILLS: u64 = 10;

fn server(folder: &Path, sync: &str) -> Server {
    // No subscriber is slow or late, so a gap would be a fault of the journal.
    let config = format!(
        "[quota]\nbehind_bytes = 1073741824\nbehind_publications = 1000000\n\
         [log]\nbytes = 1073741824\nage_ms = 3600000\n\
         [journal]\npath = {:?}\nsync = \"{sync}\"\n",
        folder.join("journal")
    );
    Server::in_folder(folder, "127.0.0.1:0", &config, &[])
        .unwrap_or_else(|(status, printed)| panic!("no server ({status}): {printed}"))
}

/// Returns the number of kills, the seed, and the random number generator.
fn chance() -> (u64, u64, fastrand::Rng) {
    let kills = std::env::var("FANFARE_SIM_KILLS").map_or(KILLS, |n| n.parse().unwrap());
    let seed = std::env::var("FANFARE_SIM_SEED")
        .map_or_else(|_| fastrand::u64(..), |n| n.parse().unwrap());
    println!("seed {seed}");
    (kills, seed, fastrand::Rng::with_seed(seed))
}

/// Starts the server of this folder several times. Kills the server at a random point of each
/// start.
fn kill_while_starting(folder: &Path, rng: &mut fastrand::Rng) {
    for _ in 0..rng.u32(..3) {
        let mut child = fanfare()
            .args(["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
            .arg("--config")
            .arg(folder.join("fanfare.toml"))
            .arg("--feed")
            .arg(folder.join("feed.sock"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        thread::sleep(Duration::from_micros(rng.u64(..40_000)));
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

fn sequence(id: &str) -> u64 {
    id.split_once('-').unwrap().1.parse().unwrap()
}

/// Publishes batches until this many publications are acknowledged, then kills the server while
/// more are in flight. Returns the acknowledged data by id.
fn publish_and_kill(
    server: &mut Server,
    next: &mut u64,
    acks: usize,
    rng: &mut fastrand::Rng,
) -> BTreeMap<u64, u64> {
    let mut stream = UnixStream::connect(&server.feed).unwrap();
    let mut answers = BufReader::new(stream.try_clone().unwrap());
    let mut sent = Vec::new();
    let mut acknowledged = BTreeMap::new();
    while acknowledged.len() < acks {
        let mut lines = String::new();
        for _ in 0..rng.usize(1..60) {
            lines += &json!({"channel": "a", "data": *next, "ack": true}).to_string();
            lines.push('\n');
            sent.push(*next);
            *next += 1;
        }
        stream.write_all(lines.as_bytes()).unwrap();
        for _ in 0..rng.usize(1..20) {
            if acknowledged.len() == sent.len() {
                break;
            }
            let mut line = String::new();
            answers.read_line(&mut line).unwrap();
            let answer: Value = serde_json::from_str(&line).unwrap();
            assert_eq!(answer["ok"], true, "{answer}");
            let id = sequence(answer["id"].as_str().unwrap());
            acknowledged.insert(id, sent[acknowledged.len()]);
        }
    }
    server.signal("KILL");
    server.wait();
    // Acknowledgements sent just before the kill count too.
    for line in answers.lines().map_while(Result::ok) {
        let Ok(answer) = serde_json::from_str::<Value>(&line) else {
            break;
        };
        let id = sequence(answer["id"].as_str().unwrap());
        acknowledged.insert(id, sent[acknowledged.len()]);
    }
    acknowledged
}

/// Resumes over WebSocket and reads up to the number `until`. Returns the ids with their data.
fn resume_socket(server: &Server, since: &str, until: u64) -> Vec<(u64, u64)> {
    let mut socket = Socket::open(server.addr, &format!("channel=a&since={since}"));
    let mut seen = Vec::new();
    while seen.last().is_none_or(|(id, _)| *id < until) {
        let value = socket.json();
        assert_ne!(value["type"], "gap", "{value}");
        if value["type"] == "subscribed" {
            assert_eq!(value["recovered"], true, "{value}");
        }
        if let Some(data) = value["data"].as_u64() {
            seen.push((sequence(value["id"].as_str().unwrap()), data));
        }
    }
    seen
}

/// Like `resume_socket`, over an event stream.
fn resume_event_stream(server: &Server, since: &str, until: u64) -> Vec<(u64, u64)> {
    let url = server.url("/sse?channel=a");
    let resume = format!("Last-Event-ID: {since}");
    let mut lines = Lines::curl(["-sN", "-H", &resume, &url]);
    let mut seen: Vec<(u64, u64)> = Vec::new();
    let mut id = 0;
    while seen.last().is_none_or(|(id, _)| *id < until) {
        let line = lines.next().unwrap();
        assert!(!line.contains("fanfare.gap"));
        if let Some(text) = line.strip_prefix("id: ") {
            id = sequence(text);
        }
        if let Some(data) = line.strip_prefix("data: ") {
            seen.push((id, data.parse().unwrap()));
        }
    }
    seen
}

/// Like `resume_socket`, by polling.
fn resume_poll(server: &Server, since: &str, until: u64) -> Vec<(u64, u64)> {
    let mut seen: Vec<(u64, u64)> = Vec::new();
    let mut since = since.to_owned();
    while seen.last().is_none_or(|(id, _)| *id < until) {
        let target = format!("/poll?channel=a&timeout=0&since={since}");
        let answer: Value =
            serde_json::from_str(Raw::get(server.addr, &target).body_text()).unwrap();
        assert_eq!(answer["gap"], false, "{answer}");
        for one in answer["publications"].as_array().unwrap() {
            let id = sequence(one["id"].as_str().unwrap());
            seen.push((id, one["data"].as_u64().unwrap()));
        }
        answer["id"].as_str().unwrap().clone_into(&mut since);
    }
    seen
}

#[test]
fn no_acknowledged_publication_is_lost_when_the_server_is_killed() {
    let (kills, seed, mut rng) = chance();
    for sync in ["always", "batch", "os"] {
        let folder = tempfile::tempdir().unwrap();
        let mut running = server(folder.path(), sync);
        let mut since = Feeder::connect(&running.feed).publish("a", 0);
        let mut next = 1;
        let mut known = BTreeMap::new();
        for _ in 0..kills {
            let acks = rng.usize(1..300);
            let acknowledged = publish_and_kill(&mut running, &mut next, acks, &mut rng);
            kill_while_starting(folder.path(), &mut rng);
            running = server(folder.path(), sync);
            let until = *acknowledged.last_key_value().unwrap().0;
            let seen = resume_socket(&running, &since, until);
            let seen_again = resume_event_stream(&running, &since, until);
            let polled = resume_poll(&running, &since, until);
            let common = seen.len().min(seen_again.len()).min(polled.len());
            assert_eq!(seen[..common], seen_again[..common], "seed {seed}");
            assert_eq!(seen[..common], polled[..common], "seed {seed}");
            assert!(
                seen.is_sorted_by(|a, b| a.0 + 1 == b.0 && a.1 < b.1),
                "seed {seed}: {seen:?}"
            );
            let by_id: BTreeMap<u64, u64> = seen.iter().copied().collect();
            for (id, data) in &acknowledged {
                assert_eq!(by_id.get(id), Some(data), "seed {seed}: {sync}: {id}");
            }
            for (id, data) in &by_id {
                assert_eq!(
                    *known.entry(*id).or_insert(*data),
                    *data,
                    "seed {seed}: {id} twice"
                );
            }
            let epoch = since.split_once('-').unwrap().0.to_owned();
            since = format!("{epoch}-{until}");
        }
        running.signal("KILL");
        running.wait();
    }
}

/// Reads this many acknowledgements of `fanfare publish`. Returns the id and the line of each.
fn read_acks(
    lines: impl Iterator<Item = std::io::Result<String>>,
    count: usize,
) -> Vec<(u64, u64)> {
    lines
        .take(count)
        .map(|line| {
            let ack: Value = serde_json::from_str(&line.unwrap()).unwrap();
            let id = sequence(ack["id"].as_str().unwrap());
            (id, ack["line"].as_u64().unwrap())
        })
        .collect()
}

#[test]
fn publisher_loses_and_doubles_nothing_while_the_server_is_killed() {
    let (kills, seed, mut rng) = chance();
    let folder = tempfile::tempdir().unwrap();
    let mut running = server(folder.path(), "batch");
    let since = Feeder::connect(&running.feed).publish("a", 0);
    let mut publisher = fanfare()
        .args(["publish", "a", "--ack", "--feed"])
        .arg(&running.feed)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = publisher.stdin.take().unwrap();
    let (order, orders) = mpsc::channel();
    let writer = thread::spawn(move || {
        let mut line = 0_u64;
        for count in orders {
            for _ in 0..count {
                line += 1;
                writeln!(input, "{line}").unwrap();
            }
        }
        line
    });
    let mut lines = BufReader::new(publisher.stdout.take().unwrap()).lines();
    let mut acks = Vec::new();
    let mut ordered = 0;
    // The number of lines per kill is bounded, because each start reads the whole journal.
    let most = (20_000 / usize::try_from(kills).unwrap()).max(2);
    for _ in 0..kills {
        let count = rng.usize(1..most);
        order.send(count).unwrap();
        ordered += count;
        // The lines without an acknowledgement are still in a buffer of the publisher or of the
        // server.
        let awaited = ordered - rng.usize(0..count) - acks.len();
        acks.extend(read_acks(lines.by_ref(), awaited));
        running.signal("KILL");
        running.wait();
        kill_while_starting(folder.path(), &mut rng);
        running = server(folder.path(), "batch");
    }
    drop(order);
    acks.extend(read_acks(lines, usize::MAX));
    let written: u64 = writer.join().unwrap();
    assert!(publisher.wait().unwrap().success());
    let acknowledged: Vec<u64> = acks.iter().map(|(_, line)| *line).collect();
    assert_eq!(acknowledged, Vec::from_iter(1..=written), "seed {seed}");
    let seen = resume_poll(&running, &since, acks.last().unwrap().0);
    // Each line arrives once, in order, with the id that was acknowledged.
    assert!(seen == acks, "seed {seed}");
    running.signal("KILL");
}

#[test]
fn repeat_after_a_restart_goes_only_to_channels_without_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut first_run = server(folder.path(), "always");
    let mut feeder = Feeder::connect(&first_run.feed);
    feeder.send(&json!({"channel": ["a", "b"], "data": 1, "dedupe": "k", "ack": true}));
    let first = sequence(feeder.answer()["id"].as_str().unwrap());
    first_run.signal("KILL");
    first_run.wait();
    let second_run = server(folder.path(), "always");
    let mut feeder = Feeder::connect(&second_run.feed);
    let _subscriber = Socket::subscribed(second_run.addr, "channel=c");
    feeder.send(&json!({"channel": ["b", "c"], "data": 1, "dedupe": "k", "ack": true}));
    let second = feeder.answer();
    assert_eq!(sequence(second["id"].as_str().unwrap()), first + 1);
    assert_eq!(second["subscribers"], 1, "{second}");
    second_run.signal("KILL");
}

#[test]
fn repeat_after_a_restart_gets_the_first_id() {
    let folder = tempfile::tempdir().unwrap();
    let publish = |server: &Server| {
        let mut feeder = Feeder::connect(&server.feed);
        feeder.send(&json!({"channel": "a", "data": 1, "dedupe": "k", "ack": true}));
        feeder.answer()
    };
    let mut first_run = server(folder.path(), "batch");
    let first = publish(&first_run);
    first_run.signal("KILL");
    first_run.wait();
    let second_run = server(folder.path(), "batch");
    let second = publish(&second_run);
    assert_eq!(second["id"], first["id"]);
    assert_eq!(second["repeated"], true, "{second}");
    second_run.signal("KILL");
}

/// Starts a server with a journal in its folder. Its clients may publish by broadcast.
fn open_server(folder: &Path, sync: &str) -> Server {
    let config = format!(
        "[journal]\npath = {:?}\nsync = \"{sync}\"\n\
         [[namespace]]\nmatch = \"room:*\"\nclient_publish = \"broadcast\"\n\
         [[namespace]]\nmatch = \"last:*\"\nlog_entries = 1\n",
        folder.join("journal")
    );
    Server::in_folder(folder, "127.0.0.1:0", &config, &[]).unwrap()
}

fn poll(server: &Server, query: &str) -> Value {
    let target = format!("/poll?timeout=0&{query}");
    serde_json::from_str(Raw::get(server.addr, &target).body_text()).unwrap()
}

#[test]
fn acknowledged_client_publication_survives_a_kill() {
    for sync in ["always", "batch", "os"] {
        let folder = tempfile::tempdir().unwrap();
        let mut first = open_server(folder.path(), sync);
        let since = Feeder::connect(&first.feed).publish("room:1", 0);
        let mut socket = Socket::subscribed(first.addr, "channel=room:2");
        socket.send(&json!({"type": "publish", "channel": "room:1", "data": {"n": 1}, "ref": 7}));
        let accepted = socket.json();
        assert_eq!(
            (&accepted["type"], &accepted["ref"]),
            (&json!("ok"), &json!(7))
        );
        first.signal("KILL");
        first.wait();
        let second = open_server(folder.path(), sync);
        let answer = poll(&second, &format!("channel=room:1&since={since}"));
        assert_eq!(answer["gap"], false, "{answer}");
        assert_eq!(answer["publications"][0]["id"], accepted["id"]);
        assert_eq!(answer["publications"][0]["data"], json!({"n": 1}));
        second.signal("KILL");
    }
}

#[test]
fn repeated_key_of_a_client_gets_the_first_id_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let publish = |server: &Server| {
        let mut client = Socket::subscribed(server.addr, "channel=c");
        client.send(&json!({
            "type": "publish", "channel": "room:1", "data": 1, "dedupe": "k", "ref": 1,
        }));
        client.json()["id"].clone()
    };
    let mut first_run = open_server(folder.path(), "batch");
    let first = publish(&first_run);
    assert!(first.is_string(), "{first}");
    first_run.signal("KILL");
    first_run.wait();
    let second_run = open_server(folder.path(), "batch");
    assert_eq!(publish(&second_run), first);
    // A key of a client is not a key of a feeder, also after the restart.
    let mut feeder = Feeder::connect(&second_run.feed);
    feeder.send(&json!({"channel": "room:1", "data": 1, "dedupe": ":k", "ack": true}));
    assert_eq!(feeder.answer().get("repeated"), None);
    second_run.signal("KILL");
}

#[test]
fn namespace_rules_hold_for_publications_from_before_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let mut first = open_server(folder.path(), "os");
    let mut feeder = Feeder::connect(&first.feed);
    let since = feeder.publish("a", 0);
    for data in 0..3 {
        feeder.publish("last:1", data);
    }
    feeder.send(&json!({"channel": "a", "data": "late", "ttl_ms": 1, "ack": true}));
    assert_eq!(feeder.answer()["ok"], true);
    let last = feeder.publish("a", 2);
    first.signal("KILL");
    first.wait();
    let second = open_server(folder.path(), "os");
    let answer = poll(&second, &format!("channel=last:1&since={since}"));
    assert_ne!(answer["gap"], false, "{answer}");
    assert_eq!(answer["publications"].as_array().unwrap().len(), 1);
    let answer = poll(&second, &format!("channel=a&since={since}"));
    assert_eq!(answer["gap"], false, "{answer}");
    assert_eq!(answer["publications"].as_array().unwrap().len(), 1);
    assert_eq!(answer["publications"][0]["id"], Value::from(last));
    second.signal("KILL");
}

#[test]
fn second_server_on_the_same_journal_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let first = server(folder.path(), "batch");
    let other = tempfile::tempdir().unwrap();
    let journal = folder.path().join("journal");
    let flags = ["--journal", journal.to_str().unwrap()];
    let (status, printed) = Server::in_folder(other.path(), "127.0.0.1:0", "", &flags).unwrap_err();
    assert_eq!(status.code(), Some(1));
    assert!(printed.contains("in use by another server"), "{printed}");
    first.signal("KILL");
}

/// Checks that a server with this journal does not start, and that its exit status forbids a
/// restart. Returns the error.
fn refusal(folder: &Path) -> String {
    let journal = folder.join("journal");
    let flags = ["--journal", journal.to_str().unwrap()];
    let other = tempfile::tempdir().unwrap();
    let (status, printed) = Server::in_folder(other.path(), "127.0.0.1:0", "", &flags).unwrap_err();
    assert_eq!(status.code(), Some(2));
    assert!(printed.contains(flags[1]), "{printed}");
    printed
}

#[test]
fn foreign_folder_is_an_error_that_names_it_and_is_not_changed() {
    let folder = tempfile::tempdir().unwrap();
    let journal = folder.path().join("journal");
    std::fs::create_dir(&journal).unwrap();
    std::fs::write(journal.join("notes.txt"), "mine").unwrap();
    let printed = refusal(folder.path());
    assert!(
        printed.contains("notes.txt") && printed.contains("does not belong"),
        "{printed}"
    );
    assert_eq!(std::fs::read(journal.join("notes.txt")).unwrap(), b"mine");
    assert_eq!(std::fs::read_dir(&journal).unwrap().count(), 1);
}

#[test]
fn unreadable_folder_is_an_error_that_names_it() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("journal"), "a file").unwrap();
    refusal(folder.path());
    assert_eq!(
        std::fs::read(folder.path().join("journal")).unwrap(),
        b"a file"
    );
}

#[test]
fn damaged_journal_is_an_error_and_is_not_changed() {
    let folder = tempfile::tempdir().unwrap();
    let running = server(folder.path(), "always");
    Feeder::connect(&running.feed).publish("a", 1);
    running.signal("KILL");
    drop(running);
    let store = folder.path().join("journal/store");
    std::fs::rename(store.join("keyspaces"), folder.path().join("elsewhere")).unwrap();
    let printed = refusal(folder.path());
    assert!(
        printed.contains("damaged") && printed.contains("move it away"),
        "{printed}"
    );
    std::fs::rename(folder.path().join("elsewhere"), store.join("keyspaces")).unwrap();
    let running = server(folder.path(), "always");
    running.signal("KILL");
}

/// The invalid files of the store are detected only when the journal opens the store.
#[test]
fn journal_that_cannot_be_opened_is_an_error_that_forbids_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let running = server(folder.path(), "always");
    let id = Feeder::connect(&running.feed).publish("a", 1);
    running.signal("KILL");
    drop(running);
    let store = folder.path().join("journal/store");
    for (name, content, reason) in [
        ("version", &b"FJL\x02"[..], "another version"),
        ("version", b"other", "another version"),
        ("keyspaces/1/current", b"", "is damaged"),
    ] {
        let path = store.join(name);
        let original = std::fs::read(&path).unwrap();
        std::fs::write(&path, content).unwrap();
        let printed = refusal(folder.path());
        assert!(
            printed.contains("--journal: journal.path: ") && printed.contains(reason),
            "{name}: {printed}"
        );
        assert!(
            printed.to_lowercase().contains("move "),
            "{name}: {printed}"
        );
        assert_eq!(std::fs::read(&path).unwrap(), content);
        std::fs::write(&path, original).unwrap();
    }
    let running = server(folder.path(), "always");
    let next = Feeder::connect(&running.feed).publish("a", 2);
    assert_eq!(sequence(&next), sequence(&id) + 1);
    running.signal("KILL");
}

#[test]
fn torn_log_is_truncated_and_a_resume_from_before_gets_a_gap() {
    let folder = tempfile::tempdir().unwrap();
    let mut running = server(folder.path(), "always");
    let mut feeder = Feeder::connect(&running.feed);
    let ids: Vec<String> = (0..9).map(|data| feeder.publish("a", data)).collect();
    running.signal("KILL");
    running.wait();
    let store = folder.path().join("journal/store");
    let logs = std::fs::read_dir(&store)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let log = logs
        .filter(|path| path.extension().is_some_and(|end| end == "jnl"))
        .max()
        .unwrap();
    let mut bytes = std::fs::read(&log).unwrap();
    let written = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    bytes[written - 100] ^= 1;
    std::fs::write(&log, bytes).unwrap();
    let running = server(folder.path(), "always");
    let answer = |since: &str| -> Value {
        let target = format!("/poll?channel=a&timeout=0&since={since}");
        serde_json::from_str(Raw::get(running.addr, &target).body_text()).unwrap()
    };
    // The publications before the hole are received first, and then a gap.
    let before = answer(&ids[0]);
    assert_eq!(before["gap"], false, "{before}");
    let kept = before["publications"].as_array().unwrap();
    let kept = kept.iter().map(|one| one["id"].as_str().unwrap());
    assert!(kept.eq(ids[1..7].iter().map(String::as_str)), "{before}");
    let after = answer(&ids[6]);
    assert_eq!(after["gaps"][0]["cause"], "restart", "{after}");
    assert_eq!(after["gaps"][0]["since"], ids[6], "{after}");
    let next = Feeder::connect(&running.feed).publish("a", 9);
    assert!(sequence(&next) > sequence(&ids[8]), "{next}");
    assert_eq!(
        next.split_once('-').unwrap().0,
        ids[0].split_once('-').unwrap().0
    );
    running.signal("KILL");
}

/// A small file system, which is unmounted when dropped.
struct SmallDisk<'a>(&'a Path);

impl<'a> SmallDisk<'a> {
    fn mount(path: &'a Path) -> Option<Self> {
        std::fs::create_dir(path).unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=256k", "tmpfs"])
            .arg(path)
            .output();
        mounted
            .is_ok_and(|out| out.status.success())
            .then_some(Self(path))
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

#[test]
fn full_disk_refuses_publications_until_space_is_free() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    let Some(_disk) = SmallDisk::mount(&path) else {
        eprintln!("skipped: no file system can be mounted here");
        return;
    };
    let ballast = path.join("ballast");
    let running = open_server(folder.path(), "always");
    let mut socket = Socket::subscribed(running.addr, "channel=room:1");
    let mut feeder = Feeder::connect(&running.feed);
    let first = feeder.publish("a", 1);
    std::fs::write(&ballast, vec![0; 200 * 1024]).unwrap();
    let large = "x".repeat(100 * 1024);
    feeder.send(&json!({"channel": "a", "text": large, "ack": true}));
    assert_eq!(feeder.answer()["error"], "journal");
    feeder.send(&json!({"channel": "a", "text": large}));
    assert_eq!(feeder.answer()["error"], "journal");
    socket.send(&json!({"type": "publish", "channel": "room:1", "data": 1, "ref": 7}));
    let refused = socket.json();
    assert_eq!(
        (&refused["code"], &refused["ref"]),
        (&json!("unavailable"), &json!(7))
    );
    assert!((running.metric("fanfare_journal_failing") - 1.0).abs() < f64::EPSILON);
    let reason = within("/readyz 503", || {
        let answer = Raw::get(running.admin, "/readyz");
        (answer.status == 503).then(|| answer.body_text().to_owned())
    });
    assert!(
        reason.starts_with("not ready: the journal refuses publications: "),
        "{reason}"
    );
    std::fs::remove_file(&ballast).unwrap();
    // After a failed write the server pauses before it writes again.
    let mut answer = Value::Null;
    for _ in 0..100 {
        feeder.send(&json!({"channel": "a", "data": 2, "ack": true}));
        answer = feeder.answer();
        if answer["ok"] == true {
            break;
        }
        assert_eq!(answer["error"], "journal");
        thread::sleep(Duration::from_millis(100));
    }
    let second = answer["id"].as_str().unwrap_or_else(|| panic!("{answer}"));
    assert_eq!(sequence(second), sequence(&first) + 1);
    assert!(running.metric("fanfare_journal_failing").abs() < f64::EPSILON);
    within("/readyz 200", || {
        (Raw::get(running.admin, "/readyz").status == 200).then_some(())
    });
    running.signal("KILL");
}
