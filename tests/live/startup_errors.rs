//! Errors that prevent a start: `fanfare check` and `fanfare serve` find the same errors, print
//! each of them once, and end with the documented status.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

use crate::support::{Server, fanfare, within};

/// A folder with files of the wrong content or kind.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        let path = folder.0.path();
        fs::write(path.join("short"), "x").unwrap();
        fs::write(path.join("junk"), "no PEM, no JSON").unwrap();
        fs::write(path.join("empty.json"), "{\"keys\":[]}").unwrap();
        fs::create_dir(path.join("directory")).unwrap();
        fs::create_dir(path.join("locked.lock")).unwrap();
        fs::create_dir(path.join("foreign")).unwrap();
        fs::write(path.join("foreign/notes"), "").unwrap();
        symlink(path.join("nowhere"), path.join("dangling")).unwrap();
        for name in ["one", "two"] {
            let made = rcgen::generate_simple_self_signed([String::from("localhost")]).unwrap();
            fs::write(path.join(format!("{name}.pem")), made.cert.pem()).unwrap();
            let key = made.signing_key.serialize_pem();
            fs::write(path.join(format!("{name}.key")), key).unwrap();
        }
        folder
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Writes a configuration in which `@` means this folder.
    fn configuration(&self, text: &str) -> std::path::PathBuf {
        let text = text.replace('@', self.path().to_str().unwrap());
        let file = self.path().join("fanfare.toml");
        fs::write(&file, text).unwrap();
        file
    }

    /// Returns the names of all files below the folder.
    fn names(&self) -> Vec<String> {
        let found = Command::new("find").arg(self.path()).output().unwrap();
        let mut names: Vec<_> = text(&found.stdout).lines().map(str::to_owned).collect();
        names.sort();
        names
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Runs a command to its end. A server that wrongly starts is stopped.
fn run(command: &mut Command) -> Output {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let _ended = within("the end of a start", || child.try_wait().unwrap());
    child.wait_with_output().unwrap()
}

/// A configuration with free addresses. The tested lines are appended to it.
const TLS: &str = "listen = [\"127.0.0.1:0 tls\"]\nadmin = \"off\"\nfeed = \"@/feed.sock\"\n";
const PLAIN: &str = "listen = [\"127.0.0.1:0\"]\nadmin = \"off\"\nfeed = \"@/feed.sock\"\n";

/// A faulty configuration and its errors. Each error is a key and a part of a message.
type Case = (String, &'static [(&'static str, &'static str)]);

/// Returns the test cases with faulty certificates, keys and secrets.
fn credentials() -> Vec<Case> {
    let tls = |pair: &str| format!("{TLS}[tls]\n{pair}");
    let plain = |rest: &str| format!("{PLAIN}{rest}");
    vec![
        (
            tls("certificates = [\"@/none\"]\nkeys = [\"@/none.key\"]\n"),
            &[
                ("tls.certificates", "cannot read @/none: No such file"),
                ("tls.keys", "cannot read @/none.key: No such file"),
            ],
        ),
        (
            tls(
                "certificates = [\"@/junk\", \"@/one.pem\"]\nkeys = [\"@/one.key\", \"@/two.key\"]\n",
            ),
            &[
                ("tls.certificates", "@/junk: there is no certificate"),
                (
                    "tls.keys",
                    "@/two.key: it is not the key of the certificate",
                ),
            ],
        ),
        (
            tls("certificates = [\"@/directory\"]\nkeys = [\"@/one.pem\"]\n"),
            &[(
                "tls.certificates",
                "cannot read @/directory: Is a directory",
            )],
        ),
        (
            tls("certificates = [\"@/one.pem\"]\nkeys = [\"@/one.pem\"]\n"),
            &[("tls.keys", "@/one.pem: there is no private key")],
        ),
        (
            tls("certificates = [\"@/one.pem\"]\nkeys = [\"@/one.key\"]\n\
                 client_auth = \"required\"\nclient_authorities = \"@/junk\"\n"),
            &[("tls.client_authorities", "@/junk: there is no certificate")],
        ),
        (
            // Certificates are read even if no address uses TLS, because an inherited socket may
            // use TLS.
            plain("[tls]\ncertificates = [\"@/dangling\"]\nkeys = [\"@/one.key\"]\n"),
            &[("tls.certificates", "cannot read @/dangling: No such file")],
        ),
        (
            plain("[auth]\nkeys = [\"HS256 @/short\", \"RS256 @/junk\", \"HS256 @/none\"]\n"),
            &[
                ("auth.keys", "@/short has 1 bytes"),
                ("auth.keys", "@/junk is not a public key"),
                ("auth.keys", "cannot read @/none: No such file"),
            ],
        ),
        (
            plain("[auth]\njwks = \"@/junk\"\n"),
            &[("auth.jwks", "@/junk is not a JWK set")],
        ),
        (
            plain("[auth]\njwks = \"@/empty.json\"\n[journal]\npath = \"@/junk\"\n"),
            &[
                ("auth.", "no key for HS256"),
                ("journal.path", "@/junk: Not a directory"),
            ],
        ),
    ]
}

/// Returns the test cases with faulty paths and values.
fn values() -> Vec<Case> {
    let plain = |rest: &str| format!("{PLAIN}{rest}");
    let feed = |path: &str| PLAIN.replace("@/feed.sock", path);
    let long = "x".repeat(110);
    vec![
        (
            plain("[journal]\npath = \"@/junk/journal\"\n"),
            &[("journal.path", "@/junk/journal: Not a directory")],
        ),
        (
            plain("[journal]\npath = \"@/dangling\"\n"),
            &[("journal.path", "@/dangling: No such file")],
        ),
        (
            plain("[journal]\npath = \"@/foreign\"\n"),
            &[(
                "journal.path",
                "\"notes\" there does not belong to a journal",
            )],
        ),
        (
            // The lock file of this feed is a directory.
            feed("@/locked"),
            &[("feed", "cannot open @/locked.lock: Is a directory")],
        ),
        (
            feed("@/junk"),
            &[("feed", "@/junk exists and is not a socket")],
        ),
        (
            feed("@/directory"),
            &[("feed", "exists and is not a socket")],
        ),
        (
            feed("@/junk/feed.sock"),
            &[("feed", "@/junk: Not a directory")],
        ),
        (feed(&format!("/tmp/{long}/f")), &[("feed", "at most 107")]),
        (
            PLAIN.to_owned() + "feed_group = \"no such group\"\nworkers = 0\n",
            &[("feed_group", "`no such group` is not a group")],
        ),
        (plain("workers = 1025\n"), &[("workers", "from 0 to 1024")]),
        (
            plain("workers = -1\n[heartbeat]\ninterval_ms = \"x\"\n"),
            &[
                (
                    "heartbeat.interval_ms",
                    "a whole number from 100 to 3600000",
                ),
                ("workers", "a whole number from 0 to 1024"),
            ],
        ),
        (
            plain("[heartbeat]\ninterval = oops\n"),
            &[("heartbeat.interval: ", "fanfare.toml:5: ")],
        ),
    ]
}

/// Returns the longest text between separators that occurs twice in a line. Ignores texts of fewer
/// than 12 bytes.
fn repeated(line: &str) -> Option<&str> {
    let parts: Vec<&str> = line.split([':', '(', ')', ';']).map(str::trim).collect();
    let long = parts.iter().filter(|part| part.len() >= 12);
    long.copied()
        .filter(|part| line.matches(*part).count() > 1)
        .max_by_key(|part| part.len())
}

#[test]
fn check_and_serve_print_the_same_errors_once() {
    let folder = Folder::new();
    for (configuration, problems) in credentials().into_iter().chain(values()) {
        let file = folder.configuration(&configuration);
        let before = folder.names();
        let checked = run(fanfare().arg("check").arg(&file));
        let served = run(fanfare().args(["serve", "--config"]).arg(&file));
        let printed = text(&checked.stderr);
        assert_eq!(checked.status.code(), Some(2), "{configuration}{printed}");
        assert_eq!(served.status.code(), Some(2), "{configuration}{printed}");
        assert_eq!(printed, text(&served.stderr), "{configuration}");
        assert_eq!(text(&checked.stdout), "");
        let lines: Vec<&str> = printed.lines().collect();
        assert_eq!(lines.len(), problems.len(), "{printed}");
        for (line, (key, message)) in lines.iter().zip(problems) {
            let message = message.replace('@', folder.path().to_str().unwrap());
            assert!(line.starts_with(file.to_str().unwrap()), "{line}");
            assert!(line.contains(&format!(": {key}")), "{line}");
            assert!(line.contains(&message), "{line} lacks {message}");
            assert_eq!(repeated(line), None, "{line}");
        }
        assert_eq!(
            folder.names(),
            before,
            "{configuration} left something behind"
        );
    }
}

#[test]
fn failures_at_run_time_have_status_1_and_one_message() {
    let folder = Folder::new();
    let file = folder.configuration(PLAIN);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let socket = folder.path().join("other.sock");
    let _listener = UnixListener::bind(&socket).unwrap();
    for (flags, message) in [
        (
            ["--listen", "192.0.2.1:8080"],
            "cannot listen on 192.0.2.1:8080",
        ),
        (["--listen", &taken], "Address already in use"),
        (["--admin", &taken], "Address already in use"),
        (
            ["--feed", socket.to_str().unwrap()],
            "another process is listening",
        ),
    ] {
        let served = run(fanfare().args(["serve", "--config"]).arg(&file).args(flags));
        let printed = text(&served.stderr);
        assert_eq!(served.status.code(), Some(1), "{printed}");
        assert_eq!(printed.lines().count(), 1, "{printed}");
        assert!(printed.contains(message), "{printed}");
        assert_eq!(repeated(&printed), None, "{printed}");
    }
}

#[test]
fn invalid_flags_and_variables_have_status_2_and_are_named() {
    let folder = Folder::new();
    let file = folder.configuration(PLAIN);
    let journal = folder.path().join("junk");
    for (flags, variable, named) in [
        (
            vec!["--journal", journal.to_str().unwrap()],
            ("X", "x"),
            "--journal: journal.path: ",
        ),
        (
            vec![],
            ("FANFARE_WORKERS", "many"),
            "FANFARE_WORKERS: workers: ",
        ),
        (
            vec![],
            ("FANFARE_AUTH_JWKS", "/nonexistent"),
            "FANFARE_AUTH_JWKS: auth.jwks: ",
        ),
        (
            vec!["--workers", "1025"],
            ("X", "x"),
            "--workers: workers: ",
        ),
        (vec!["--admin", "here"], ("X", "x"), "--admin: admin: "),
        (
            vec!["--config", "/nonexistent"],
            ("X", "x"),
            "/nonexistent: No such file",
        ),
    ] {
        let mut command = fanfare();
        command.args(["serve"]).env(variable.0, variable.1);
        if !flags.contains(&"--config") {
            command.arg("--config").arg(&file);
        }
        let served = run(command.args(&flags));
        let printed = text(&served.stderr);
        assert_eq!(served.status.code(), Some(2), "{printed}");
        assert!(printed.starts_with(named), "{printed}");
        assert_eq!(repeated(&printed), None, "{printed}");
    }
}

#[test]
fn check_of_a_valid_file_creates_nothing_and_works_beside_a_running_server() {
    let folder = Folder::new();
    let file = folder.configuration(
        "listen = [\"127.0.0.1:0 tls\", \"192.0.2.1:80\"]\nfeed = \"@/run/feed.sock\"\n\
         [tls]\ncertificates = [\"@/one.pem\"]\nkeys = [\"@/one.key\"]\n\
         [journal]\npath = \"@/state/journal\"\n",
    );
    let before = folder.names();
    let checked = run(fanfare().arg("check").arg(&file));
    assert_eq!(checked.status.code(), Some(0), "{}", text(&checked.stderr));
    assert_eq!(folder.names(), before);
    let journal = folder.path().join("state/journal");
    let flags = ["--journal", journal.to_str().unwrap()];
    let home = tempfile::tempdir().unwrap();
    let server = Server::in_folder(home.path(), "127.0.0.1:0", "", &flags).unwrap();
    let feed = format!("feed = {:?}\n[journal]\npath = {journal:?}\n", server.feed);
    let file = folder.configuration(&feed);
    let checked = run(fanfare().arg("check").arg(&file));
    assert_eq!(checked.status.code(), Some(0), "{}", text(&checked.stderr));
}

#[test]
fn empty_variables_count_as_unset() {
    let folder = Folder::new();
    let mut command = fanfare();
    for name in [
        "FANFARE_CONFIG",
        "FANFARE_LISTEN",
        "FANFARE_ADMIN",
        "FANFARE_WORKERS",
        "FANFARE_FEED_MODE",
        "FANFARE_IO_RING",
        "FANFARE_LOGGING_LEVEL",
        "LISTEN_FDNAMES",
        "LISTEN_FDS",
        "LISTEN_PID",
        "NOTIFY_SOCKET",
        "RUNTIME_DIRECTORY",
        "WATCHDOG_PID",
        "WATCHDOG_USEC",
    ] {
        command.env(name, "");
    }
    let feed = folder.path().join("feed.sock");
    let flags = [
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--admin",
        "127.0.0.1:0",
        "--feed",
    ];
    let mut lines = crate::support::Lines::run(command.args(flags).arg(&feed));
    let ready = lines.next().unwrap();
    assert!(ready.contains(" ready: http://127.0.0.1:"), "{ready}");
    let checked = run(fanfare().arg("check").env("FANFARE_WORKERS", ""));
    assert_eq!(checked.status.code(), Some(0), "{}", text(&checked.stderr));
}
