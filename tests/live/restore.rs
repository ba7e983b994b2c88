//! Copies of a journal: a server that starts from one gives no id to two publications, and clients
//! resume from every id that any server has given them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::support::{Feeder, Lines, Raw, Server, Socket, fanfare};

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
        // The next start from the same directory continues the epoch.
        restored.signal(if start == 1 { "KILL" } else { "TERM" });
        restored.wait();
        restored = server(folder.path(), &copy);
    }
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
