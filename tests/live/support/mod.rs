//! Parts that the live tests share: the real binary on free ports, clients, and waiting with a
//! deadline.
//!
//! Tests wait at most [`PATIENCE`] for a line, a byte or the end of a stream. Each process that a
//! test starts is killed when its handle is dropped.

pub(crate) mod feeder;
pub(crate) mod handmade;
pub(crate) mod lines;
pub(crate) mod process;
pub(crate) mod proxy;
pub(crate) mod raw;
pub(crate) mod relay;
pub(crate) mod secure;
pub(crate) mod socket;

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

pub(crate) use feeder::Feeder;
pub(crate) use lines::Lines;
pub(crate) use process::Process;
pub(crate) use proxy::{Proxy, Recipe};
pub(crate) use raw::Raw;
pub(crate) use relay::Relay;
pub(crate) use socket::Socket;

/// The longest time that a test waits for an event.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A running server with its own feed, admin listener and folder.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    folder: Option<TempDir>,
    /// The file with the server's standard error.
    stderr: PathBuf,
    /// The address to which clients connect.
    pub(crate) addr: SocketAddr,
    /// The address of the admin listener, which serves metrics and health checks.
    pub(crate) admin: SocketAddr,
    /// The path of the feed's socket.
    pub(crate) feed: PathBuf,
    /// The line that the server printed when it became ready.
    pub(crate) ready: String,
}

impl Server {
    /// Starts a server with default settings.
    pub(crate) fn start() -> Self {
        Self::with("", &[])
    }

    /// Starts a server with this configuration file and these flags.
    pub(crate) fn with(config: &str, flags: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut server = Self::in_folder(folder.path(), "127.0.0.1:0", config, flags)
            .unwrap_or_else(|(status, stderr)| panic!("no server ({status}): {stderr}"));
        server.folder = Some(folder);
        server
    }

    /// Starts a server whose feed is in this folder. If `listen` is empty, the configuration has
    /// the addresses. Returns the exit status and standard error if the server ends immediately.
    pub(crate) fn in_folder(
        folder: &Path,
        listen: &str,
        config: &str,
        flags: &[&str],
    ) -> Result<Self, (ExitStatus, String)> {
        let file = folder.join("fanfare.toml");
        fs::write(&file, config).unwrap();
        let stderr = folder.join("stderr.txt");
        let own_feed = flags.iter().position(|flag| *flag == "--feed");
        let feed = own_feed.map_or_else(|| folder.join("feed.sock"), |at| flags[at + 1].into());
        let workers: &[&str] = if flags.contains(&"--workers") {
            &[]
        } else {
            &["--workers", "2"]
        };
        let mut child = fanfare()
            .args(["serve", "--admin", "127.0.0.1:0"])
            .args((!listen.is_empty()).then_some("--listen"))
            .args((!listen.is_empty()).then_some(listen))
            .args(workers)
            .arg("--config")
            .arg(file)
            .args(own_feed.is_none().then_some("--feed"))
            .args(own_feed.is_none().then_some(&feed))
            .args(flags)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(&stderr).unwrap())
            .spawn()
            .unwrap();
        let stdout = child.stdout.take().unwrap();
        let (line_out, line_in) = mpsc::channel();
        let mut copy = File::create(folder.join("stdout.txt")).unwrap();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                writeln!(copy, "{line}").unwrap();
                let _ = line_out.send(line);
            }
        });
        let Ok(ready) = line_in.recv_timeout(PATIENCE) else {
            // No line was printed, so the process has ended or hangs. A process that hangs is
            // killed here.
            let _ = child.kill();
            let status = child.wait().unwrap();
            return Err((status, fs::read_to_string(stderr).unwrap()));
        };
        Ok(Self {
            stderr,
            addr: address(&ready, "ready: http://"),
            admin: address(&ready, "admin=http://"),
            child,
            folder: None,
            feed,
            ready,
        })
    }

    /// Returns the server's process in procfs.
    pub(crate) fn process(&self) -> Process {
        Process(self.child.id())
    }

    /// Returns the address of the last plain listener.
    pub(crate) fn last_addr(&self) -> SocketAddr {
        let mut words = self.ready.split_whitespace().rev();
        let last = words.find_map(|word| word.strip_prefix("http://"));
        last.unwrap().parse().unwrap()
    }

    /// Returns a URL on the client listener.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }

    /// Sends a signal by its name.
    pub(crate) fn signal(&self, name: &str) {
        self.process().signal(name);
    }

    /// Waits for the process to end.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        within("the server's end", || self.child.try_wait().unwrap())
    }

    /// Returns the value of one metric. The name includes its labels.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let response = Raw::get(self.admin, "/metrics");
        let line = response
            .body_text()
            .lines()
            .find_map(|line| {
                line.strip_prefix(name)?
                    .strip_prefix(' ')
                    .map(str::to_owned)
            })
            .unwrap_or_else(|| panic!("no metric {name} in {}", response.body_text()));
        line.parse().unwrap()
    }

    /// Waits until a metric has this value.
    pub(crate) fn await_metric(&self, name: &str, value: f64) {
        within(&format!("{name} {value}"), || {
            ((self.metric(name) - value).abs() < 0.5).then_some(())
        });
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        // A test may have removed the folder.
        let stderr = fs::read_to_string(&self.stderr).unwrap_or_default();
        if thread::panicking() {
            eprintln!("-- the server's standard error:\n{stderr}");
        } else {
            // In a debug build, a server lives on without the thread whose assertion has failed.
            assert!(!stderr.contains("panicked at"), "{stderr}");
        }
    }
}

/// Returns a command for the binary under test, without `FANFARE_` variables in its environment.
pub(crate) fn fanfare() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fanfare"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("FANFARE_") {
            command.env_remove(name);
        }
    }
    command
}

fn address(line: &str, mark: &str) -> SocketAddr {
    line.split_once(mark)
        .and_then(|(_, rest)| rest.split_whitespace().next()?.parse().ok())
        .unwrap_or_else(|| panic!("no address after `{mark}` in: {line}"))
}

/// Calls `ask` until it returns a value, for at most [`PATIENCE`].
pub(crate) fn within<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "not in {PATIENCE:?}: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Returns a path below `tests/.deps`, where `tests/run` installs packages.
pub(crate) fn dependency(path: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/.deps")
        .join(path);
    assert!(
        path.exists(),
        "{} is missing: run tests/run",
        path.display()
    );
    path
}
