//! Tests of SIGHUP: the server reads certificates and keys again. If a file or a key is invalid,
//! nothing changes. A log line names the settings that need a restart.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::support::{Server, fanfare, raw, within};

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
    let printed = rig.reload(&config, "quota.overflow");
    let errors = lines(&printed, "ERROR");
    assert_eq!(errors.len(), 2, "{printed}");
    let file = rig.file();
    for (line, key) in [(6, "quota.overflow"), (7, "quota.colour")] {
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
    assert!(lines(&printed, "WARN").is_empty(), "{printed}");
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
    let namespace = "[[namespace]]\nmatch = \"chat:*\"\nlog_entries = 1\n";
    let changed = format!("[heartbeat]\ninterval_ms = 5000\n[log]\nage_ms = 1000\n{namespace}");
    let config = configuration(&rig.secret, &changed);
    for _ in 0..2 {
        let printed = rig.reload(&config, "WARN");
        let warnings = lines(&printed, "WARN");
        assert_eq!(warnings.len(), 1, "{printed}");
        let keys = "needs a restart: heartbeat.interval_ms, log.age_ms, namespace";
        assert!(warnings[0].ends_with(keys), "{printed}");
    }
    let printed = rig.reload(&configuration(&rig.secret, ""), "read again");
    assert!(lines(&printed, "WARN").is_empty(), "{printed}");
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
