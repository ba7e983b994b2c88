//! Runs the examples of a page from top to bottom, in an empty folder and in one shell.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group, test_kill_process_group};
use tempfile::TempDir;

use super::page::{Block, Kind, matches};
use crate::support::raw::Raw;
use crate::support::secure::Certificate;
use crate::support::{PATIENCE, dependency, fanfare, within};

/// The longest time that an example in the foreground takes, and in which one in the background
/// starts. A browser needs several seconds on a busy machine.
const EXAMPLE_MAX: Duration = Duration::from_secs(60);
/// The program that runs a script in a browser, and its module.
const BROWSER: [&str; 2] = ["page_script.mjs", "chromium.mjs"];

/// A shell, the server of the page and the examples that run in the background.
pub(super) struct Session {
    folder: TempDir,
    /// The loopback address that replaces 127.0.0.1, so that several pages can run at the same
    /// time.
    host: String,
    shell: Child,
    input: ChildStdin,
    /// The lines that the shell prints.
    answers: Receiver<String>,
    server: Option<Child>,
    /// The configuration of the server.
    config: Option<String>,
    examples: usize,
    background: Vec<Background>,
}

/// An example that runs in the background.
struct Background {
    line: usize,
    number: usize,
    process: u32,
    expected: Option<String>,
    /// Whether the example is a script in a page.
    is_page: bool,
}

impl Session {
    pub(super) fn new() -> Self {
        static PAGES: AtomicU8 = AtomicU8::new(0);
        let [.., high, low] = std::process::id().to_be_bytes();
        let page = PAGES.fetch_add(1, Ordering::Relaxed);
        let host = format!("127.{}.{high}.{}", 100 + page, low.clamp(1, 254));
        let folder = tempfile::tempdir().unwrap();
        prepare(folder.path());
        let mut shell = with_environment(Command::new("bash"), folder.path(), &host)
            .args(["--noprofile", "--norc"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap();
        let mut input = shell.stdin.take().unwrap();
        writeln!(input, "set -e").unwrap();
        let lines = BufReader::new(shell.stdout.take().unwrap()).lines();
        let (line_in, answers) = channel();
        thread::spawn(move || {
            let lines = lines.map_while(Result::ok);
            lines
                .map(|line| line_in.send(line))
                .all(|sent| sent.is_ok())
        });
        Self {
            host,
            input,
            answers,
            shell,
            folder,
            server: None,
            config: None,
            examples: 0,
            background: Vec::new(),
        }
    }

    /// Runs the examples, and compares each with its expected output.
    pub(super) fn run(&mut self, blocks: &[Block]) {
        let starts_its_own = blocks.iter().any(|block| {
            block.kind == Kind::Shell
                && !block.is_only_parsed
                && block.text.contains("fanfare serve")
        });
        if !starts_its_own {
            self.start_server();
        }
        let mut blocks = blocks.iter().peekable();
        while let Some(block) = blocks.next() {
            let expected = blocks.next_if(|next| next.kind == Kind::Output);
            let expected = expected.map(|output| self.adapt(&output.text));
            match block.kind {
                Kind::Shell | Kind::Python | Kind::Node | Kind::Browser => {
                    self.run_program(block, expected);
                }
                Kind::Config => self.check_config(block),
                Kind::Json => check_json(block),
                Kind::Output => panic!("line {}: the output of no example", block.line),
                Kind::Other => {}
            }
        }
        self.end();
    }

    fn run_program(&mut self, block: &Block, expected: Option<String>) {
        let (command, text) = self.program(block);
        self.examples += 1;
        let number = self.examples;
        if block.is_only_parsed {
            return check_syntax(self.folder.path(), block);
        }
        fs::write(self.path(&format!("{number}.example")), text).unwrap();
        let is_background = block.is_background || block.kind == Kind::Browser;
        if !is_background {
            let line = format!("{command} >{number}.out 2>&1 </dev/null; echo \"ended $?\"");
            let line = line.replace("EXAMPLE", &format!("{number}.example"));
            let answer = self.ask(&line);
            let output = self.output(number);
            assert_eq!(
                answer.as_deref(),
                Some("ended 0"),
                "line {}: the example failed with this output:\n{output}",
                block.line
            );
            if let Some(expected) = expected {
                assert!(
                    matches(&expected, &output, false),
                    "line {}: expected:\n{expected}\nbut the output is:\n{output}",
                    block.line
                );
            }
            return;
        }
        let before = self.activity();
        let line = format!("{command} >{number}.out 2>&1 </dev/null & echo \"started $!\"");
        let line = line.replace("EXAMPLE", &format!("{number}.example"));
        let started = self.ask(&line).unwrap_or_default();
        let process = started.strip_prefix("started ").unwrap_or_default();
        self.background.push(Background {
            line: block.line,
            number,
            process: process.parse().unwrap(),
            expected,
            is_page: block.kind == Kind::Browser,
        });
        if block.text.contains("fanfare serve") {
            within("the ready line of the example's server", || {
                self.output(number).contains("ready: ").then_some(())
            });
        } else {
            self.await_activity(&before, block.line, number);
        }
    }

    /// Returns the shell command for an example, and the text of its file.
    fn program(&self, block: &Block) -> (&'static str, String) {
        let text = self.adapt(&block.text);
        let command = match block.kind {
            Kind::Python => "python3 EXAMPLE",
            Kind::Node => "cp EXAMPLE EXAMPLE.mjs && node EXAMPLE.mjs",
            // The page at / has subscriptions of its own, which `await_activity` would notice. So
            // the script runs in a page without content.
            Kind::Browser => {
                "node page_script.mjs /usr/bin/chromium \"http://$PAGE_HOST:8080/no-page\" \
                 \"$PWD/EXAMPLE.profile\" EXAMPLE"
            }
            // Variables have priority over the file.
            _ if text.contains("serve --config") => {
                "{ unset FANFARE_LISTEN FANFARE_ADMIN; source ./EXAMPLE; }"
            }
            _ => "source ./EXAMPLE",
        };
        (command, text)
    }

    /// Returns figures that change when a client connects, subscribes or consumes.
    fn activity(&self) -> Vec<String> {
        let address: SocketAddr = format!("{}:9180", self.host).parse().unwrap();
        if TcpStream::connect(address).is_err() {
            return Vec::new();
        }
        let page = Raw::get(address, "/metrics");
        let names = [
            "fanfare_subscribers ",
            "fanfare_feed_consumers ",
            "fanfare_feed_publications_total ",
        ];
        let lines = page.body_text().lines().map(str::to_owned);
        let lines = lines.filter(|line| names.iter().any(|name| line.starts_with(name)));
        lines.collect()
    }

    /// Waits until a client in the background is connected or has printed something.
    #[track_caller]
    fn await_activity(&self, before: &[String], line: usize, number: usize) {
        let deadline = Instant::now() + EXAMPLE_MAX;
        while self.activity() == before && self.output(number).is_empty() {
            assert!(
                Instant::now() < deadline,
                "line {line}: the example in the background has not connected or printed anything"
            );
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn check_config(&mut self, block: &Block) {
        let text = self.adapt(&block.text);
        let path = self.path("checked.toml");
        fs::write(&path, &text).unwrap();
        let mut check = with_environment(fanfare(), self.folder.path(), &self.host);
        prefer_file(&mut check, &text);
        let checked = check.arg("check").arg(&path).output().unwrap();
        assert!(
            checked.status.success(),
            "line {}: {}",
            block.line,
            String::from_utf8_lossy(&checked.stdout) + String::from_utf8_lossy(&checked.stderr)
        );
        if block.is_server {
            self.config = Some(text);
            self.start_server();
        }
    }

    fn start_server(&mut self) {
        self.await_pages();
        self.stop_server();
        let mut command = with_environment(fanfare(), self.folder.path(), &self.host);
        command.arg("serve");
        if let Some(config) = &self.config {
            let path = self.path("server.toml");
            fs::write(&path, config).unwrap();
            command.arg("--config").arg(path);
            prefer_file(&mut command, config);
        }
        let log = self.path("server.log");
        let file = fs::File::create(&log).unwrap();
        command
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file);
        self.server = Some(command.spawn().unwrap());
        within("the ready line of the page's server", || {
            let text = fs::read_to_string(&log).unwrap();
            text.contains("ready: ").then_some(())
        });
    }

    /// Waits for the outputs of the scripts in pages. A page that has not connected to its server
    /// cannot connect to the next one.
    fn await_pages(&self) {
        let pages = self.background.iter().filter(|example| example.is_page);
        for page in pages {
            if let Some(expected) = &page.expected {
                self.await_output(page.line, page.number, expected);
            }
        }
    }

    fn stop_server(&mut self) {
        if let Some(mut server) = self.server.take() {
            let _ = server.kill();
            let _ = server.wait();
        }
    }

    /// Waits for the outputs of the examples in the background, and checks that none has failed.
    fn end(&mut self) {
        for example in std::mem::take(&mut self.background) {
            let (line, number) = (example.line, example.number);
            if let Some(expected) = &example.expected {
                self.await_output(line, number, expected);
            }
            let process = example.process;
            let state = self.ask(&format!(
                "if kill -0 {process} 2>&-; then echo running; else wait {process}; echo ended; fi"
            ));
            let output = self.output(number);
            assert!(
                state.is_some(),
                "line {line}: the example failed with this output:\n{output}"
            );
        }
    }

    fn await_output(&self, line: usize, number: usize, expected: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let output = self.output(number);
            if matches(expected, &output, true) {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "line {line}: expected:\n{expected}\nbut the output is:\n{output}"
            );
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Sends a line to the shell and returns the line that it prints, or `None` if the shell has
    /// ended or prints nothing in time.
    fn ask(&mut self, line: &str) -> Option<String> {
        writeln!(self.input, "{line}").ok()?;
        self.answers.recv_timeout(EXAMPLE_MAX).ok()
    }

    fn output(&self, number: usize) -> String {
        fs::read_to_string(self.path(&format!("{number}.out"))).unwrap_or_default()
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    /// Replaces the address and the paths of the page by those of the test.
    fn adapt(&self, text: &str) -> String {
        let folder = self.folder.path().display();
        text.replace("127.0.0.1", &self.host)
            .replace("/etc/fanfare", &format!("{folder}/etc"))
            .replace("/run/fanfare", &format!("{folder}/run"))
            .replace("/var/lib/fanfare", &format!("{folder}/lib"))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.stop_server();
        // The shell and its children are one process group. Browsers end with their script.
        let group = i32::try_from(self.shell.id()).ok().and_then(Pid::from_raw);
        let group = group.expect("the number of a process");
        for signal in [Signal::TERM, Signal::KILL] {
            // The call fails if all processes of the group have ended.
            let _ = kill_process_group(group, signal);
            let deadline = Instant::now() + Duration::from_secs(5);
            while Instant::now() < deadline && test_kill_process_group(group).is_ok() {
                let _ = self.shell.try_wait();
                thread::sleep(Duration::from_millis(10));
            }
        }
        let _ = self.shell.wait();
    }
}

/// Puts the files into the folder that pages mention.
fn prepare(folder: &Path) {
    for name in ["bin", "etc", "run", "lib"] {
        fs::create_dir(folder.join(name)).unwrap();
    }
    symlink(env!("CARGO_BIN_EXE_fanfare"), folder.join("bin/fanfare")).unwrap();
    symlink(dependency("node/node_modules"), folder.join("node_modules")).unwrap();
    for name in BROWSER {
        fs::copy(dependency("node").join(name), folder.join(name)).unwrap();
    }
    let etc = folder.join("etc");
    for name in ["example.org", "example.net", "clients-ca"] {
        Certificate::make(&etc, name);
    }
    let tokens = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tokens");
    fs::copy(tokens.join("rs256.pem"), etc.join("issuer.pem")).unwrap();
    fs::copy(tokens.join("jwks.json"), etc.join("jwks.json")).unwrap();
    fs::write(etc.join("secret"), "0123456789abcdef0123456789abcdef").unwrap();
}

fn with_environment(mut command: Command, folder: &Path, host: &str) -> Command {
    let path = std::env::var("PATH").unwrap_or_default();
    let (bin, python) = (folder.join("bin"), dependency("venv/bin"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("FANFARE_") {
            command.env_remove(name);
        }
    }
    command
        .current_dir(folder)
        .env(
            "PATH",
            format!("{}:{}:{path}", bin.display(), python.display()),
        )
        .env("HOME", folder)
        .env("PAGE_HOST", host)
        .env("PYTHONUNBUFFERED", "1")
        .env("FANFARE_FEED", folder.join("run/feed.sock"))
        .env("FANFARE_LISTEN", format!("{host}:8080"))
        .env("FANFARE_ADMIN", format!("{host}:9180"));
    command
}

/// Removes the variables of the test for the keys of a file, because variables have priority.
fn prefer_file(command: &mut Command, config: &str) {
    for (key, name) in [
        ("listen", "FANFARE_LISTEN"),
        ("admin", "FANFARE_ADMIN"),
        ("feed", "FANFARE_FEED"),
    ] {
        let assignment = format!("{key} = ");
        if config.lines().any(|line| line.starts_with(&assignment)) {
            command.env_remove(name);
        }
    }
}

fn check_json(block: &Block) {
    let is_valid = |text: &str| serde_json::from_str::<serde_json::Value>(text).is_ok();
    let mut lines = block.text.lines().filter(|line| !line.trim().is_empty());
    assert!(
        is_valid(&block.text) || lines.all(is_valid),
        "line {}: not JSON: {}",
        block.line,
        block.text
    );
}

fn check_syntax(folder: &Path, block: &Block) {
    let name = match block.kind {
        Kind::Node | Kind::Browser => "parsed.mjs",
        _ => "parsed",
    };
    let path = folder.join(name);
    fs::write(&path, &block.text).unwrap();
    let mut command = match block.kind {
        Kind::Python => Command::new("python3"),
        Kind::Node | Kind::Browser => Command::new("node"),
        _ => Command::new("bash"),
    };
    match block.kind {
        Kind::Python => command.args(["-m", "py_compile"]),
        Kind::Node | Kind::Browser => command.arg("--check"),
        _ => command.arg("-n"),
    };
    let checked = command.arg(&path).output().unwrap();
    let errors = String::from_utf8_lossy(&checked.stderr);
    assert!(checked.status.success(), "line {}: {errors}", block.line);
}
