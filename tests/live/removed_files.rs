//! Files that are removed, moved or replaced while the server runs: the feed's socket, its
//! directory, and the journal's files.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::{Value, json};
use socket2::{Domain, SockAddr, Socket, Type};
use tempfile::TempDir;

use crate::support::{Feeder, Raw, Server, fanfare, within};

/// The maximum time from the removal of a file to the first refusal.
const NOTICED_WITHIN: Duration = Duration::from_secs(1);
/// A time that is longer than the server's pause before it opens a store again.
const REFUSED_FOR: Duration = Duration::from_secs(3);

fn log(server: &Server) -> String {
    fs::read_to_string(server.feed.with_file_name("stderr.txt")).unwrap()
}

/// Waits until `/readyz` has this status. Returns its body.
fn await_readiness(server: &Server, status: u16) -> String {
    within(&format!("/readyz {status}"), || {
        let answer = Raw::get(server.admin, "/readyz");
        (answer.status == status).then(|| answer.body_text().to_owned())
    })
}

fn await_log(server: &Server, text: &str) {
    within(text, || log(server).contains(text).then_some(()));
}

/// Connects as soon as the socket exists.
fn await_feed(server: &Server) -> Feeder {
    within("the feed's socket", || {
        UnixStream::connect(&server.feed).ok()
    });
    Feeder::connect(&server.feed)
}

fn await_connection(feed: &Path) {
    within("the feed's socket", || UnixStream::connect(feed).ok());
}

fn make_fifo(path: &Path) {
    mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
}

/// Runs a command on a configuration. The command must end without waiting.
fn end_of(command: &str, config: &Path) -> Output {
    let mut child = fanfare()
        .arg(command)
        .args((command == "serve").then_some("--config"))
        .arg(config)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    within("the end of the command", || child.try_wait().unwrap());
    child.wait_with_output().unwrap()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn removed_feed_socket_is_made_again_with_the_same_mode() {
    let server = Server::with("feed_mode = \"0640\"\n", &[]);
    let feed = &server.feed;
    let aside = feed.with_file_name("aside.sock");
    let mut connected = Feeder::connect(feed);
    connected.publish("a", 0);
    let changes: [&dyn Fn(); 5] = [
        &|| fs::remove_file(feed).unwrap(),
        &|| fs::rename(feed, &aside).unwrap(),
        // A socket without a listening process replaces the feed's socket.
        &|| {
            fs::remove_file(feed).unwrap();
            drop(UnixListener::bind(feed).unwrap());
        },
        &|| {
            fs::remove_file(feed).unwrap();
            fs::remove_file(feed.with_file_name("feed.sock.lock")).unwrap();
        },
        &|| fs::remove_file(feed).unwrap(),
    ];
    for (count, change) in (1..).zip(changes) {
        change();
        let mut fresh = await_feed(&server);
        fresh.publish("a", 1);
        connected.publish("a", 2);
        assert_eq!(mode(feed), 0o640);
        let printed = format!(
            "the feed's socket was removed or replaced: it was made again path={}",
            feed.display()
        );
        within("a line in the log", || {
            (log(&server).matches(&printed).count() == count).then_some(())
        });
        assert_eq!(await_readiness(&server, 200), "ready\n");
    }
    assert_eq!(mode(&feed.with_file_name("feed.sock.lock")), 0o600);
    let mut server = server;
    server.signal("TERM");
    assert!(server.wait().success());
    assert!(!server.feed.exists());
}

#[test]
fn feeders_in_the_backlog_of_a_removed_socket_are_served() {
    let server = Server::start();
    server.signal("STOP");
    let mut waiting = Feeder::connect(&server.feed);
    fs::remove_file(&server.feed).unwrap();
    server.signal("CONT");
    waiting.publish("a", 1);
    await_feed(&server).publish("a", 2);
    waiting.publish("a", 3);
}

#[test]
fn socket_bound_by_another_process_is_kept_and_reported() {
    let mut server = Server::start();
    let mut connected = Feeder::connect(&server.feed);
    connected.publish("a", 0);
    fs::remove_file(&server.feed).unwrap();
    // The backlog has room for one connection, which the test does not accept.
    let other = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None).unwrap();
    other.bind(&SockAddr::unix(&server.feed).unwrap()).unwrap();
    other.listen(0).unwrap();
    let reason = await_readiness(&server, 503);
    let path = server.feed.display().to_string();
    assert!(reason.starts_with("not ready: no feeder can connect: "));
    assert!(
        reason.contains(&path) && reason.contains("another process is listening"),
        "{reason}"
    );
    await_log(
        &server,
        &format!("ERROR {}", &reason["not ready: ".len()..].trim()),
    );
    // While the server checks the socket several times, publications are acknowledged, and the line
    // is logged only once.
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(2500) {
        connected.publish("a", 1);
        thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(log(&server).matches("no feeder can connect").count(), 1);
    server.signal("TERM");
    assert!(server.wait().success());
    // The server's checks of the socket have left no connection in the backlog of `other`.
    let accepted = other.accept().unwrap_err();
    assert_eq!(accepted.kind(), ErrorKind::WouldBlock);
    assert!(UnixStream::connect(&server.feed).is_ok());
}

#[test]
fn stale_socket_of_another_process_is_replaced() {
    let server = Server::start();
    fs::remove_file(&server.feed).unwrap();
    let other = UnixListener::bind(&server.feed).unwrap();
    await_readiness(&server, 503);
    drop(other);
    assert_eq!(await_readiness(&server, 200), "ready\n");
    await_feed(&server).publish("a", 1);
}

#[test]
fn fifo_in_place_of_the_lock_is_refused_without_waiting() {
    let server = Server::start();
    let lock = server.feed.with_file_name("feed.sock.lock");
    // The file is replaced by a rename, because the server could otherwise see the state between
    // two separate steps.
    let fifo = server.feed.with_file_name("fifo");
    make_fifo(&fifo);
    fs::rename(&fifo, &lock).unwrap();
    let reason = await_readiness(&server, 503);
    let printed = format!("{} exists and is not a regular file", lock.display());
    assert!(reason.contains(&printed), "{reason}");
    assert!(!reason.contains("no feeder can connect"), "{reason}");
    Feeder::connect(&server.feed).publish("a", 1);
    let config = server.feed.with_file_name("other.toml");
    fs::write(
        &config,
        format!("feed = {:?}\nlisten = [\"127.0.0.1:0\"]\n", server.feed),
    )
    .unwrap();
    for command in ["check", "serve"] {
        let ended = end_of(command, &config);
        assert_eq!(ended.status.code(), Some(2), "{ended:?}");
        let stderr = String::from_utf8_lossy(&ended.stderr);
        assert!(stderr.contains(&printed), "{stderr}");
    }
    fs::remove_file(&lock).unwrap();
    assert_eq!(await_readiness(&server, 200), "ready\n");
    await_log(
        &server,
        "the feed's socket and its lock file are in place again",
    );
}

#[test]
fn socket_is_not_made_again_in_a_directory_that_others_can_write_to() {
    let place = tempfile::tempdir().unwrap();
    let made = place.path().join("made");
    let feed = made.join("feed.sock");
    let server = Server::with("", &["--feed", feed.to_str().unwrap()]);
    await_connection(&feed);
    fs::remove_dir_all(&made).unwrap();
    // The server creates the directory of the socket again, too.
    await_connection(&feed);
    fs::remove_dir_all(&made).unwrap();
    let open = place.path().join("open");
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
    // The server may create the directory again between the removal and the creation of the link.
    within("a symbolic link", || {
        let _ = fs::remove_dir_all(&made);
        std::os::unix::fs::symlink(&open, &made).ok()
    });
    let reason = await_readiness(&server, 503);
    let printed = format!(
        "{} belongs to another user or is open to others",
        open.display()
    );
    assert!(reason.contains(&printed), "{reason}");
    assert_eq!(fs::read_dir(&open).unwrap().count(), 0);
    fs::remove_file(&made).unwrap();
    await_connection(&feed);
    assert_eq!(await_readiness(&server, 200), "ready\n");
}

#[test]
fn feed_is_restored_when_a_file_in_its_place_is_removed() {
    let server = Server::start();
    fs::remove_file(&server.feed).unwrap();
    fs::write(&server.feed, "other").unwrap();
    let reason = await_readiness(&server, 503);
    assert!(reason.contains("exists and is not a socket"), "{reason}");
    assert_eq!(fs::read(&server.feed).unwrap(), b"other");
    fs::remove_file(&server.feed).unwrap();
    await_feed(&server).publish("a", 1);
    assert_eq!(await_readiness(&server, 200), "ready\n");
    await_log(
        &server,
        "the feed's socket and its lock file are in place again",
    );
}

#[test]
fn server_waits_for_a_directory_that_it_did_not_make() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("run");
    fs::create_dir(&folder).unwrap();
    let server = Server::in_folder(&folder, "127.0.0.1:0", "", &[]).unwrap();
    let log_file = fs::File::open(folder.join("stderr.txt")).unwrap();
    fs::remove_dir_all(&folder).unwrap();
    let reason = await_readiness(&server, 503);
    assert!(reason.contains("No such file or directory"), "{reason}");
    assert!(!folder.exists());
    within("a line in the removed log", || {
        let mut printed = [0; 4096];
        let length = log_file.read_at(&mut printed, 0).unwrap();
        let printed = String::from_utf8_lossy(&printed[..length]);
        printed.contains("no feeder can connect").then_some(())
    });
    fs::create_dir(&folder).unwrap();
    await_feed(&server).publish("a", 1);
    assert_eq!(await_readiness(&server, 200), "ready\n");
}

// -- Files that the configuration names.

#[test]
fn configuration_and_keys_may_come_from_a_fifo() {
    let place = tempfile::tempdir().unwrap();
    let (config, key) = (place.path().join("config"), place.path().join("key"));
    make_fifo(&config);
    make_fifo(&key);
    let text = format!("[auth]\nkeys = [\"HS256 {}\"]\n", key.display());
    let writer = thread::spawn({
        let config = config.clone();
        move || {
            fs::write(config, text).unwrap();
            fs::write(key, "0123456789abcdef0123456789abcdef").unwrap();
        }
    });
    let ended = end_of("check", &config);
    assert!(ended.status.success(), "{ended:?}");
    writer.join().unwrap();
}

#[test]
fn fifo_without_a_writer_stops_neither_a_check_nor_a_reload() {
    let mut server = Server::start();
    let config = server.feed.with_file_name("fanfare.toml");
    fs::remove_file(&config).unwrap();
    make_fifo(&config);
    server.signal("HUP");
    let printed = format!("{}: it did not end within 10 s", config.display());
    let ended = end_of("check", &config);
    assert_eq!(ended.status.code(), Some(2), "{ended:?}");
    let stderr = String::from_utf8_lossy(&ended.stderr);
    assert!(stderr.contains(&printed), "{stderr}");
    await_log(
        &server,
        &format!("not reloaded, nothing has changed: {printed}"),
    );
    server.signal("TERM");
    assert!(server.wait().success());
}

// -- The journal.

/// Starts a server with a journal in its folder.
fn journalled(folder: &Path, sync: &str) -> Result<Server, String> {
    let config = format!(
        "[journal]\npath = {:?}\nsync = \"{sync}\"\n",
        folder.join("journal")
    );
    Server::in_folder(folder, "127.0.0.1:0", &config, &[]).map_err(|(_, printed)| printed)
}

fn publish(feeder: &mut Feeder) -> Value {
    feeder.send(&json!({"channel": "a", "data": 1, "ack": true}));
    feeder.answer()
}

/// Publishes until a publication is refused, which must happen within [`NOTICED_WITHIN`]. Checks
/// that readiness, log and metrics report the refusal, and that no publication is accepted
/// afterwards.
fn await_refusal(server: &Server, feeder: &mut Feeder, removed: &Path) {
    let begun = Instant::now();
    loop {
        // The time is measured when the publication is sent, because a slow disk may delay the
        // answer.
        let sent_after = begun.elapsed();
        let answer = publish(feeder);
        if answer["ok"] != true {
            assert_eq!(answer["error"], "journal", "{answer}");
            break;
        }
        assert!(sent_after < NOTICED_WITHIN, "{}", removed.display());
    }
    let reason = await_readiness(server, 503);
    let taken_again = || {
        let log = log(server);
        log.matches("the journal can be written again").count()
    };
    let (refused, before) = (Instant::now(), taken_again());
    while refused.elapsed() < REFUSED_FOR {
        assert_eq!(publish(feeder)["error"], "journal");
        assert_eq!(Raw::get(server.admin, "/readyz").status, 503);
        thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(taken_again(), before);
    let printed = format!(
        "{} was removed or replaced while the server ran. Put the original back, or restart the \
         server",
        removed.display()
    );
    assert!(
        reason.starts_with("not ready: the journal refuses publications: ")
            && reason.contains(&printed),
        "{reason}"
    );
    await_log(
        server,
        &format!("ERROR the journal cannot be written: publications are refused error={printed}"),
    );
    server.await_metric("fanfare_journal_failing", 1.0);
}

fn newest_log(store: &Path) -> PathBuf {
    let files = fs::read_dir(store).unwrap();
    let files = files.map(|entry| entry.unwrap().path());
    let logs = files.filter(|path| path.extension().is_some_and(|end| end == "jnl"));
    logs.max().unwrap()
}

#[test]
fn journal_that_is_removed_refuses_publications_and_the_next_start_begins_another() {
    for sync in ["always", "batch", "os"] {
        let folder = tempfile::tempdir().unwrap();
        let journal = folder.path().join("journal");
        let mut server = journalled(folder.path(), sync).unwrap();
        let mut feeder = Feeder::connect(&server.feed);
        let before = feeder.publish("a", 0);
        fs::remove_dir_all(&journal).unwrap();
        // Publishes enough data to fill a chunk of the store, so that the store needs a new one.
        let large = "x".repeat(1_000_000);
        for _ in 0..40 {
            feeder.send(&json!({"channel": "a", "text": large}));
        }
        feeder.write("\n");
        let mut feeder = Feeder::connect(&server.feed);
        await_refusal(&server, &mut feeder, &journal);
        server.signal("TERM");
        assert!(server.wait().success());
        assert!(log(&server).contains("the journal cannot be closed cleanly"));
        assert!(!journal.exists(), "a part of a journal is left behind");
        let server = journalled(folder.path(), sync).unwrap();
        let after = Feeder::connect(&server.feed).publish("a", 1);
        let epoch = |id: &str| id.split_once('-').unwrap().0.to_owned();
        assert_ne!(epoch(&after), epoch(&before));
        assert!(log(&server).contains("a new journal was begun"));
        server.signal("KILL");
    }
}

#[test]
fn journal_that_is_moved_away_continues_when_restored() {
    let folder = tempfile::tempdir().unwrap();
    let journal = folder.path().join("journal");
    let away = folder.path().join("away");
    let server = journalled(folder.path(), "always").unwrap();
    let mut feeder = Feeder::connect(&server.feed);
    let first = feeder.publish("a", 0);
    for is_replaced in [false, true] {
        fs::rename(&journal, &away).unwrap();
        if is_replaced {
            fs::create_dir(&journal).unwrap();
            fs::write(journal.join("mark"), "other").unwrap();
        }
        await_refusal(&server, &mut feeder, &journal);
        if is_replaced {
            assert_eq!(fs::read_dir(&journal).unwrap().count(), 1);
            fs::remove_dir_all(&journal).unwrap();
        }
        fs::rename(&away, &journal).unwrap();
        // The server recovers without a publication.
        assert_eq!(await_readiness(&server, 200), "ready\n");
        feeder.publish("a", 1);
    }
    assert_continues(server, feeder, &folder, &first);
}

/// Publishes twice and restarts the server. Checks that a client can resume without a gap from
/// `first`, the id of the first publication, and from the first of the two new ids.
fn assert_continues(mut server: Server, mut feeder: Feeder, folder: &TempDir, first: &str) {
    let last_but_one = feeder.publish("a", 1);
    let last = feeder.publish("a", 2);
    server.signal("TERM");
    assert!(server.wait().success());
    let server = journalled(folder.path(), "always").unwrap();
    let poll = |since: &str| -> Value {
        let target = format!("/poll?channel=a&timeout=0&since={since}");
        serde_json::from_str(Raw::get(server.addr, &target).body_text()).unwrap()
    };
    assert_eq!(poll(first)["gap"], false);
    let answer = poll(&last_but_one);
    assert_eq!(answer["gap"], false, "{answer}");
    assert_eq!(answer["publications"][0]["id"], last.as_str(), "{answer}");
    server.signal("KILL");
}

#[test]
fn journal_file_that_is_moved_away_is_awaited_and_a_copy_refused() {
    let folder = tempfile::tempdir().unwrap();
    let server = journalled(folder.path(), "always").unwrap();
    let mut feeder = Feeder::connect(&server.feed);
    let first = feeder.publish("a", 0);
    let log = newest_log(&folder.path().join("journal/store"));
    let away = folder.path().join("away");
    fs::rename(&log, &away).unwrap();
    await_refusal(&server, &mut feeder, &log);
    fs::copy(&away, &log).unwrap();
    await_refusal(&server, &mut feeder, &log);
    fs::rename(&away, &log).unwrap();
    assert_eq!(await_readiness(&server, 200), "ready\n");
    assert_continues(server, feeder, &folder, &first);
}

#[test]
fn server_without_a_free_descriptor_still_writes_its_journal() {
    let folder = tempfile::tempdir().unwrap();
    let server = journalled(folder.path(), "always").unwrap();
    let mut feeder = Feeder::connect(&server.feed);
    let first = feeder.publish("a", 0);
    let connect = |count| {
        let feeders = (0..count).map(|_| Feeder::connect(&server.feed));
        feeders.collect::<Vec<_>>()
    };
    let mut others = connect(20);
    server.await_metric("fanfare_feeders", 21.0);
    let process = server.process();
    let limit = process.descriptors_max();
    process.limit_descriptors(limit);
    // These connections use the descriptors that are left below the limit.
    others.extend(connect(20));
    let unchecked = "WARN cannot check whether the journal's files are still there";
    await_log(&server, unchecked);
    let begun = Instant::now();
    while begun.elapsed() < REFUSED_FOR {
        feeder.publish("a", 1);
        thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(log(&server).matches(unchecked).count(), 1);
    assert!(!log(&server).contains("the journal cannot be written"));
    drop(others);
    within("free descriptors", || {
        (process.descriptors_max() < limit - 10).then_some(())
    });
    assert_eq!(await_readiness(&server, 200), "ready\n");
    assert_continues(server, feeder, &folder, &first);
}

#[test]
fn removed_file_of_a_journal_stops_it_and_the_next_start_works_or_names_the_remedy() {
    for name in [
        "lock",
        "mark",
        "store",
        "store/version",
        "store/keyspaces",
        "log",
        ".",
    ] {
        let folder = tempfile::tempdir().unwrap();
        let journal = folder.path().join("journal");
        let mut server = journalled(folder.path(), "batch").unwrap();
        let mut feeder = Feeder::connect(&server.feed);
        feeder.publish("a", 0);
        let path = match name {
            "log" => newest_log(&journal.join("store")),
            name => journal.join(name),
        };
        let noticed = match name {
            // Removes all entries of the directory, but not the directory itself.
            "." => {
                for entry in fs::read_dir(&journal).unwrap() {
                    let path = entry.unwrap().path();
                    fs::remove_file(&path)
                        .or_else(|_| fs::remove_dir_all(&path))
                        .unwrap();
                }
                journal.join("lock")
            }
            _ => {
                fs::remove_file(&path)
                    .or_else(|_| fs::remove_dir_all(&path))
                    .unwrap();
                path
            }
        };
        await_refusal(&server, &mut feeder, &noticed);
        server.signal("TERM");
        assert!(server.wait().success());
        match journalled(folder.path(), "batch") {
            Ok(server) => {
                Feeder::connect(&server.feed).publish("a", 1);
                server.signal("KILL");
            }
            Err(printed) => {
                assert!(
                    printed.contains("is damaged") && printed.contains("move it away"),
                    "{name}: {printed}"
                );
                fs::rename(&journal, folder.path().join("away")).unwrap();
                let server = journalled(folder.path(), "batch").unwrap();
                Feeder::connect(&server.feed).publish("a", 1);
                server.signal("KILL");
            }
        }
    }
}
