//! Copies of a journal: a server that starts from one gives no id to two publications, and clients
//! resume from every id that any server has given them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use serde_json::{Value, json};

use crate::support::{Feeder, Lines, Raw, Server, Socket, fanfare, within};

/// The publications of all servers by their ids.
type Known = BTreeMap<String, u64>;

fn server(folder: &Path, journal: &Path) -> Server {
    let config = format!("[journal]\npath = {journal:?}\n");
    Server::in_folder(folder, "127.0.0.1:0", &config, &[])
        .unwrap_or_else(|(status, printed)| panic!("no server ({status}): {printed}"))
}

/// Publishes the numbers. No id may be known already. Returns the last id.
fn publish(server: &Server, numbers: impl IntoIterator<Item = u64>, known: &mut Known) -> String {
    let mut feeder = Feeder::connect(&server.feed);
    let mut last = String::new();
    for number in numbers {
        last = feeder.publish("a", number);
        let other = known.insert(last.clone(), number);
        assert_eq!(other, None, "{last} names two publications");
    }
    last
}

fn copied(from: &Path, to: &str) -> PathBuf {
    let to = from.with_file_name(to);
    let status = Command::new("cp").arg("-a").args([from, &to]).status();
    assert!(status.unwrap().success());
    to
}

/// What a client receives after a resume: whether there was a gap, and the publications.
#[derive(Debug, PartialEq)]
struct Resumed {
    gap: Option<String>,
    publications: Vec<(String, u64)>,
}

fn publication(value: &Value) -> (String, u64) {
    let id = value["id"].as_str().unwrap().to_owned();
    (id, value["data"].as_u64().unwrap())
}

fn resume_socket(server: &Server, since: &str, last: u64) -> Resumed {
    let mut socket = Socket::open(server.addr, &format!("channel=a&since={since}"));
    let (mut gap, mut publications) = (None, Vec::<(String, u64)>::new());
    while publications.last().is_none_or(|(_, data)| *data != last) {
        let value = socket.json();
        match value["type"].as_str() {
            Some("gap") => gap = Some(value["cause"].as_str().unwrap().to_owned()),
            Some(_) => {}
            None => publications.push(publication(&value)),
        }
    }
    Resumed { gap, publications }
}

fn resume_event_stream(server: &Server, since: &str, last: u64) -> Resumed {
    let url = server.url("/sse?channel=a");
    let mut lines = Lines::curl(["-sN", "-H", &format!("Last-Event-ID: {since}"), &url]);
    let (mut gap, mut publications) = (None, Vec::<(String, u64)>::new());
    let (mut id, mut is_gap) = (String::new(), false);
    while publications.last().is_none_or(|(_, data)| *data != last) {
        let line = lines.next().unwrap();
        if let Some(name) = line.strip_prefix("event: ") {
            is_gap = name == "fanfare.gap";
        } else if let Some(text) = line.strip_prefix("id: ") {
            text.clone_into(&mut id);
        } else if let Some(data) = line.strip_prefix("data: ") {
            let value: Value = serde_json::from_str(data).unwrap();
            if std::mem::take(&mut is_gap) {
                gap = Some(value["cause"].as_str().unwrap().to_owned());
            } else if let Some(number) = value.as_u64() {
                publications.push((id.clone(), number));
            }
        }
    }
    Resumed { gap, publications }
}

fn resume_poll(server: &Server, since: &str, last: u64) -> Resumed {
    let (mut gap, mut publications) = (None, Vec::<(String, u64)>::new());
    let mut since = since.to_owned();
    while publications.last().is_none_or(|(_, data)| *data != last) {
        let target = format!("/poll?channel=a&timeout=0&since={since}");
        let answer = Raw::get(server.addr, &target);
        let answer: Value = serde_json::from_str(answer.body_text()).unwrap();
        if let Some(cause) = answer["gaps"][0]["cause"].as_str() {
            gap = Some(cause.to_owned());
        }
        let found = answer["publications"].as_array().unwrap().iter();
        publications.extend(found.map(publication));
        answer["id"].as_str().unwrap().clone_into(&mut since);
    }
    Resumed { gap, publications }
}

/// Resumes from an id over each transport. All must receive the same.
fn resume(server: &Server, since: &str, last: u64) -> Resumed {
    let resumed = resume_socket(server, since, last);
    assert_eq!(resume_event_stream(server, since, last), resumed, "{since}");
    assert_eq!(resume_poll(server, since, last), resumed, "{since}");
    resumed
}

/// The publications of one run of a server, with consecutive numbers as data.
fn of_run(known: &Known, numbers: impl IntoIterator<Item = u64>) -> Vec<(String, u64)> {
    let id = |number| known.iter().find(|(_, data)| **data == number).unwrap().0;
    let numbers = numbers.into_iter();
    numbers.map(|number| (id(number).clone(), number)).collect()
}

#[test]
fn server_that_starts_from_an_older_copy_gives_no_id_twice() {
    let folder = tempfile::tempdir().unwrap();
    let journal = folder.path().join("journal");
    let mut known = Known::new();
    let mut original = server(folder.path(), &journal);
    publish(&original, 1..=9, &mut known);
    original.signal("TERM");
    original.wait();
    let copy = copied(&journal, "copy");
    let mut original = server(folder.path(), &journal);
    let void = publish(&original, 10..=19, &mut known);
    original.signal("KILL");
    original.wait();
    let mut restored = server(folder.path(), &copy);
    for start in 0..3 {
        let first = 100 + 10 * start;
        publish(&restored, first..first + 5, &mut known);
        let last = first + 4;
        let later = (0..=start).flat_map(|start| 100 + 10 * start..105 + 10 * start);
        let later = of_run(&known, later);
        // The copy has this publication, so the client continues after it.
        let [(valid, _)] = of_run(&known, [5]).try_into().unwrap();
        let resumed = resume(&restored, &valid, last);
        let expected = [of_run(&known, 6..=9), later.clone()].concat();
        assert_eq!((resumed.gap, resumed.publications), (None, expected));
        // The copy does not have this one.
        let resumed = resume(&restored, &void, last);
        assert_eq!(resumed.gap.as_deref(), Some("restart"));
        assert_eq!(resumed.publications, later);
        acknowledge_void(&restored, &void);
        // The next start from the same directory continues the epoch.
        restored.signal(if start == 1 { "KILL" } else { "TERM" });
        restored.wait();
        restored = server(folder.path(), &copy);
    }
}

/// A client resumes from an id that the copy does not have, and acknowledges it. The server accepts
/// the acknowledgement, and the window does not change.
fn acknowledge_void(server: &Server, void: &str) {
    let mut socket = Socket::open(server.addr, &format!("channel=a&since={void}&window=1"));
    let ack = json!({"type": "ack", "channel": "a", "id": void, "ref": 1});
    socket.send(&ack);
    let mut received = 0;
    let answer = loop {
        let value = socket.json();
        match value["ref"].as_u64() {
            Some(_) => break value,
            None => received += u64::from(value["data"].is_u64()),
        }
    };
    assert_eq!(answer["type"], "ok", "{answer}");
    assert!(received <= 1, "the window was opened");
}

/// Runs `fanfare journal check`. Returns the status, standard output and standard error.
fn check(path: &Path) -> (Option<i32>, String, String) {
    let output = fanfare().args(["journal", "check"]).arg(path).output();
    let output = output.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

#[test]
fn check_describes_a_journal_and_reports_a_server_that_uses_it() {
    let folder = tempfile::tempdir().unwrap();
    let journal = folder.path().join("journal");
    let mut known = Known::new();
    let mut running = server(folder.path(), &journal);
    let last = publish(&running, 1..=9, &mut known);
    let (status, _, error) = check(&journal);
    assert_eq!(status, Some(1));
    assert!(error.contains("a server uses it"), "{error}");
    running.signal("KILL");
    running.wait();
    let (status, text, error) = check(&journal);
    assert_eq!((status, error.as_str()), (Some(0), ""));
    for line in [
        format!("last id: {last}\n"),
        "publications: 9\n".to_owned(),
        format!("start: continues after {last}\n"),
    ] {
        assert!(text.contains(&line), "{line:?} in {text}");
    }
    let log = journal.join("store/0.jnl");
    let bytes = std::fs::read(&log).unwrap();
    let written = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    std::fs::write(&log, &bytes[..written - 10]).unwrap();
    let (status, text, error) = check(&journal);
    assert_eq!(status, Some(1), "{text}");
    assert!(text.contains(&format!("hole: {last} to ")), "{text}");
    assert!(error.contains("publications are missing"), "{error}");
    std::fs::write(&log, &bytes).unwrap();
    assert_eq!(check(&journal).0, Some(0));
    std::fs::remove_file(journal.join("store/version")).unwrap();
    let (status, _, error) = check(&journal);
    assert_eq!(status, Some(1));
    assert!(error.contains("store/version is missing"), "{error}");
    for none in [folder.path().join("none"), folder.path().to_path_buf()] {
        let (status, _, error) = check(&none);
        assert_eq!(status, Some(2), "{error}");
    }
}

#[test]
fn clients_receive_the_publications_before_a_loss_and_then_a_gap() {
    let folder = tempfile::tempdir().unwrap();
    let journal = folder.path().join("journal");
    let mut known = Known::new();
    let mut running = server(folder.path(), &journal);
    publish(&running, 1..=9, &mut known);
    running.signal("KILL");
    running.wait();
    // A power cut has lost the end of the store's log, with the last publication.
    let log = journal.join("store/0.jnl");
    let bytes = std::fs::read(&log).unwrap();
    let written = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    std::fs::write(&log, &bytes[..written - 10]).unwrap();
    let [(since, _)] = of_run(&known, [3]).try_into().unwrap();
    for start in 0..2 {
        let mut running = server(folder.path(), &journal);
        let last = 100 + start;
        publish(&running, [last], &mut known);
        let resumed = resume(&running, &since, last);
        assert_eq!(resumed.gap.as_deref(), Some("restart"));
        let expected = of_run(&known, (4..=8).chain(100..=last));
        assert_eq!(resumed.publications, expected);
        running.signal("TERM");
        running.wait();
    }
}

/// A feeder that publishes as fast as the server takes its lines.
struct Flood {
    /// The last number that was acknowledged.
    acknowledged: Arc<AtomicU64>,
    is_over: Arc<AtomicBool>,
    thread: JoinHandle<Known>,
}

impl Flood {
    fn start(feed: &Path, first: u64) -> Self {
        let stream = UnixStream::connect(feed).unwrap();
        let (acknowledged, is_over) = (Arc::default(), Arc::default());
        let flood = (Arc::clone(&acknowledged), Arc::clone(&is_over));
        let thread = thread::spawn(move || publish_until(&stream, first, &flood.0, &flood.1));
        Self {
            acknowledged,
            is_over,
            thread,
        }
    }

    /// Returns the publications by their ids.
    fn end(self) -> Known {
        self.is_over.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

fn publish_until(
    mut stream: &UnixStream,
    first: u64,
    acknowledged: &AtomicU64,
    is_over: &AtomicBool,
) -> Known {
    let mut answers = BufReader::new(stream).lines();
    let (mut known, mut next) = (Known::new(), first);
    while !is_over.load(Ordering::Relaxed) {
        let mut lines = String::new();
        for number in next..next + 100 {
            let line = json!({"channel": "a", "data": number, "ack": true});
            writeln!(lines, "{line}").unwrap();
        }
        stream.write_all(lines.as_bytes()).unwrap();
        for number in next..next + 100 {
            let answer: Value = serde_json::from_str(&answers.next().unwrap().unwrap()).unwrap();
            let id = answer["id"].as_str().unwrap_or_else(|| panic!("{answer}"));
            known.insert(id.to_owned(), number);
        }
        next += 100;
        acknowledged.store(next - 1, Ordering::Relaxed);
    }
    known
}

/// Runs `fanfare journal backup`, in this folder.
fn back_up(server: &Server, folder: &Path, to: &str) -> Output {
    fanfare()
        .args(["journal", "backup", to])
        .current_dir(folder)
        .env("FANFARE_FEED", &server.feed)
        .output()
        .unwrap()
}

/// Returns the value of a line that a command has printed.
fn value(text: &str, name: &str) -> String {
    let mut lines = text.lines();
    let line = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    line.unwrap_or_else(|| panic!("{name} in {text}"))
        .to_owned()
}

#[test]
fn backup_of_a_busy_server_is_complete_and_resumes_at_each_id() {
    let folder = tempfile::tempdir().unwrap();
    let journal = folder.path().join("journal");
    let mut original = server(folder.path(), &journal);
    let flood = Flood::start(&original.feed, 1);
    let some = || (flood.acknowledged.load(Ordering::Relaxed) > 2_000).then_some(());
    within("some publications", some);
    let before = flood.acknowledged.load(Ordering::Relaxed);
    let output = back_up(&original, folder.path(), "copy");
    let after = flood.acknowledged.load(Ordering::Relaxed);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{text}"
    );
    within("later publications", || {
        (flood.acknowledged.load(Ordering::Relaxed) > after + 1_000).then_some(())
    });
    let mut known = flood.end();
    original.signal("KILL");
    original.wait();
    let copy = folder.path().join("copy");
    let (status, checked, error) = check(&copy);
    assert_eq!((status, error.as_str()), (Some(0), ""));
    let last = value(&text, "last id");
    assert_eq!(value(&checked, "last id"), last);
    // The backup has all publications that were acknowledged before it began.
    let end = known[&last];
    assert!(
        (before..after + 1_000).contains(&end),
        "{before} {end} {after}"
    );
    assert_eq!(value(&text, "publications"), end.to_string());
    let mut restored = server(folder.path(), &copy);
    let new = 1_000_000;
    publish(&restored, new..new + 5, &mut known);
    let id_of = |number| of_run(&known, [number]).remove(0).0;
    let fresh = of_run(&known, new..new + 5);
    let resumed = resume(&restored, &id_of(end - 50), new + 4);
    let kept = of_run(&known, end - 49..=end);
    assert_eq!(
        (resumed.gap, resumed.publications),
        (None, [kept, fresh.clone()].concat())
    );
    for number in [end + 1, after + 900] {
        let resumed = resume(&restored, &id_of(number), new + 4);
        assert_eq!(resumed.gap.as_deref(), Some("restart"));
        assert_eq!(resumed.publications, fresh);
    }
    let resumed = resume_socket(&restored, &id_of(1), new + 4);
    assert_eq!(
        (resumed.gap, resumed.publications.len() as u64),
        (None, end - 1 + 5)
    );
    restored.signal("KILL");
    restored.wait();
}

#[test]
fn backup_that_fails_says_why_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let running = server(folder.path(), &folder.path().join("journal"));
    publish(&running, 1..=9, &mut Known::new());
    for (to, reason) in [
        ("journal/copy", "it is inside the journal"),
        ("missing/copy", "Create it first"),
        ("feed.sock", "not a directory"),
        (".", "it is not empty"),
        ("/proc/copy", "cannot make the backup in /proc/copy"),
    ] {
        let output = back_up(&running, folder.path(), to);
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(error.contains(reason), "{to}: {error}");
    }
    let small = folder.path().join("small");
    std::fs::create_dir(&small).unwrap();
    let mut mount = Command::new("mount");
    mount
        .args(["-t", "tmpfs", "-o", "size=64k", "tmpfs"])
        .arg(&small);
    if mount.output().is_ok_and(|output| output.status.success()) {
        Feeder::connect(&running.feed).publish("a", "x".repeat(200_000));
        let output = back_up(&running, folder.path(), "small/copy");
        let is_empty = std::fs::read_dir(&small).unwrap().next().is_none();
        let _ = Command::new("umount").arg("-l").arg(&small).status();
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(error.contains("the disk is full"), "{error}");
        assert!(is_empty && output.status.code() == Some(1), "{error}");
        let text = format!(
            "cannot make the backup in {}: ",
            small.join("copy").display()
        );
        assert!(error.contains(&text), "{error}");
        let log = std::fs::read_to_string(folder.path().join("stderr.txt")).unwrap();
        assert!(
            log.contains("error=the disk is full") && !log.contains("ERROR"),
            "{log}"
        );
    }
    // The server still takes publications and makes backups.
    publish(&running, [10], &mut Known::new());
    assert!(back_up(&running, folder.path(), "copy").status.success());
    running.signal("KILL");
    let without = Server::start();
    let output = back_up(&without, folder.path(), "other");
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("no journal"), "{error}");
}

#[test]
fn backup_ends_when_the_command_or_the_server_ends() {
    let folder = tempfile::tempdir().unwrap();
    let mut running = server(folder.path(), &folder.path().join("journal"));
    let flood = Flood::start(&running.feed, 1);
    within("some publications", || {
        (flood.acknowledged.load(Ordering::Relaxed) > 2_000).then_some(())
    });
    let start = |to: &Path| {
        let mut command = fanfare();
        let command = command.args(["journal", "backup"]).arg(to);
        let command = command.env("FANFARE_FEED", &running.feed);
        let output = command.stdout(Stdio::null()).stderr(Stdio::piped());
        output.spawn().unwrap()
    };
    // The backup may also be complete before the command or the server ends.
    let is_settled = |to: &Path| !to.exists() || check(to).0 == Some(0);
    for number in 0..5 {
        let to = folder.path().join(number.to_string());
        let mut command = start(&to);
        within("the begin of the backup", || {
            (to.exists() || command.try_wait().unwrap().is_some()).then_some(())
        });
        command.kill().unwrap();
        command.wait().unwrap();
        within("the end of the backup", || is_settled(&to).then_some(()));
    }
    flood.end();
    let to = folder.path().join("last");
    let mut command = start(&to);
    within("the begin of the backup", || {
        (to.exists() || command.try_wait().unwrap().is_some()).then_some(())
    });
    running.signal("TERM");
    running.wait();
    let output = command.wait_with_output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(
        output.status.success() || error.contains("the server stops"),
        "{error}"
    );
    assert!(is_settled(&to));
    assert_eq!(check(&folder.path().join("journal")).0, Some(0));
}

#[test]
fn backup_of_a_killed_server_is_refused_by_a_check_and_a_start() {
    let folder = tempfile::tempdir().unwrap();
    let journal = folder.path().join("journal");
    let mut running = server(folder.path(), &journal);
    publish(&running, 1..=9, &mut Known::new());
    // The backup may be complete before the server is killed. Then another backup is made.
    let incomplete = (0..100).find_map(|number| {
        let to = folder.path().join(number.to_string());
        let marker = to.join("incomplete-backup");
        let mut command = fanfare();
        let command = command.args(["journal", "backup"]).arg(&to);
        let command = command.env("FANFARE_FEED", &running.feed);
        let command = command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut command = command.spawn().unwrap();
        within("the begin of the backup", || {
            (marker.exists() || command.try_wait().unwrap().is_some()).then_some(())
        });
        running.signal("KILL");
        running.wait();
        command.wait().unwrap();
        if marker.exists() {
            return Some(to);
        }
        running = server(folder.path(), &journal);
        None
    });
    let to = incomplete.unwrap();
    let (status, _, error) = check(&to);
    assert_eq!(status, Some(1), "{error}");
    assert!(error.contains("it is an incomplete backup"), "{error}");
    let config = format!("[journal]\npath = {to:?}\n");
    let started = Server::in_folder(folder.path(), "127.0.0.1:0", &config, &[]);
    let (_, printed) = started.err().unwrap();
    assert!(printed.contains("it is an incomplete backup"), "{printed}");
    assert_eq!(value(&check(&journal).1, "publications"), "9");
}
