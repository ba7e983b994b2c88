//! SHELL: the server under load: a child of ours, or one that runs already.
//!
//! A child gets a port that is free and a feed in a folder of its own, says when it is ready as
//! `fanfare serve` does, and ends with its handle, together with whatever it has started. A signal
//! that ends this process ends the child first and removes the folder; if this process is killed,
//! the kernel kills the child.

use std::fs::DirBuilder;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::process::Pid;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::{Handle, Signals};
use signal_hook::low_level::emulate_default_handler;

use super::process::{Process, slab};
use super::sys::kill_with_parent;

/// A server, and as much of it as we may know.
#[derive(Debug)]
pub struct Server {
    /// Where clients connect.
    pub(super) address: SocketAddr,
    /// Where publications go.
    pub(super) feed: Option<PathBuf>,
    /// What is measured.
    pub(super) process: Option<Process>,
    /// Held so that it ends with us.
    _child: Option<Owned>,
}

/// What ends with us.
#[derive(Debug)]
struct Owned {
    child: Child,
    folder: PathBuf,
    /// Of the thread that waits for signals.
    signals: Handle,
}

impl Server {
    /// Starts a server whose line says `http://ADDR:PORT` when it is ready. The flag takes the path
    /// of the feed.
    ///
    /// # Errors
    /// When it does not start or is not ready.
    pub fn start(mut command: Command, feed_flag: &str) -> Result<Self> {
        let folder = private_folder()?;
        let feed = folder.join("feed.sock");
        kill_with_parent(&mut command);
        let spawned = command
            .arg(feed_flag)
            .arg(&feed)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn();
        let child = match spawned {
            Ok(child) => child,
            Err(error) => {
                remove(&folder);
                return Err(error).with_context(|| format!("cannot start {command:?}"));
            }
        };
        let mut owned = Owned {
            signals: end_on_signal(Process(child.id()), folder.clone())?,
            child,
            folder,
        };
        let mut ready = String::new();
        if let Some(stdout) = owned.child.stdout.take() {
            BufReader::new(stdout).read_line(&mut ready)?;
        }
        let address = ready.split_once("http://").map_or("", |(_, rest)| rest);
        let address = address.split_whitespace().next().unwrap_or_default();
        let Ok(address) = address.parse() else {
            bail!("the server is not ready ({command:?}) but says: {ready:?}");
        };
        Ok(Self {
            address,
            feed: Some(feed),
            process: Some(Process(owned.child.id())),
            _child: Some(owned),
        })
    }

    /// One that runs already.
    #[must_use]
    pub fn attach(address: SocketAddr, feed: Option<PathBuf>, pid: Option<u32>) -> Self {
        Self {
            address,
            feed,
            process: pid.map(Process),
            _child: None,
        }
    }

    /// Where clients connect.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The path of its feed, if it is known.
    #[must_use]
    pub fn feed(&self) -> Option<&Path> {
        self.feed.as_deref()
    }

    /// What it has used until now.
    ///
    /// # Errors
    /// When the process has ended or may not be looked at.
    pub fn usage(&self) -> Result<Usage> {
        Ok(Usage {
            cpu: self.process.map(Process::cpu).transpose()?,
            own_cpu: Process::own().cpu()?,
        })
    }

    /// What it and the machine hold now.
    ///
    /// # Errors
    /// When the process has ended or may not be looked at.
    pub fn memory(&self) -> Result<Memory> {
        Ok(Memory {
            pss: self.process.map(Process::pss).transpose()?,
            slab: slab()?,
        })
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        self.signals.close();
        // What it has started would outlive it.
        let descendants = Process(self.child.id()).descendants();
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
        descendants.into_iter().for_each(kill);
        remove(&self.folder);
    }
}

/// Starts a thread that does for a signal what dropping the handle does, and then lets the signal
/// end this process.
fn end_on_signal(child: Process, folder: PathBuf) -> Result<Handle> {
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM]).context("cannot wait for signals")?;
    let handle = signals.handle();
    thread::Builder::new()
        .name("bench-signal".to_owned())
        .spawn(move || {
            if let Some(signal) = signals.forever().next() {
                let descendants = child.descendants();
                kill(child);
                descendants.into_iter().for_each(kill);
                remove(&folder);
                // The numbers are those of signals that end a process.
                let _unknown = emulate_default_handler(signal);
            }
        })?;
    Ok(handle)
}

/// Kills a process that may have ended already.
fn kill(Process(pid): Process) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    if let Some(pid) = pid {
        let _ended = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
}

/// Memory at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// The server's PSS in bytes, if it is known.
    pub pss: Option<i64>,
    /// The whole machine's slab in bytes.
    pub slab: i64,
}

/// Processor time up to one moment, or between two.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// The server's, if it is known.
    pub cpu: Option<Duration>,
    /// The generator's.
    pub own_cpu: Duration,
}

impl Usage {
    /// What has been used since.
    #[must_use]
    pub fn since(self, before: Self) -> Self {
        let cpu = self.cpu.zip(before.cpu);
        Self {
            cpu: cpu.map(|(now, before)| now.saturating_sub(before)),
            own_cpu: self.own_cpu.saturating_sub(before.own_cpu),
        }
    }
}

fn private_folder() -> Result<PathBuf> {
    let name = format!(
        "fanfare-bench-{}-{:016x}",
        std::process::id(),
        fastrand::u64(..)
    );
    let folder = std::env::temp_dir().join(name);
    DirBuilder::new()
        .mode(0o700)
        .create(&folder)
        .with_context(|| format!("cannot create {}", folder.display()))?;
    Ok(folder)
}

/// A folder of temporary files that stays does no harm.
fn remove(folder: &Path) {
    drop(std::fs::remove_dir_all(folder));
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn server_ends_with_what_it_has_started_and_leaves_nothing_behind() {
        let mut command = Command::new("sh");
        let script = "sleep 60 & echo ready: http://127.0.0.1:1 $1; wait";
        command.args(["-c", script, "sh"]);
        let server = Server::start(command, "feed").unwrap();
        let folder = server.feed.clone().unwrap();
        let descendants = server.process.unwrap().descendants();
        assert_eq!(descendants.len(), 1);
        drop(server);
        assert!(!folder.parent().unwrap().exists());
        let end = Instant::now() + Duration::from_secs(10);
        // Whoever adopts it may be slow to take note of its end.
        let is_alive = |process: &Process| {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.0));
            stat.is_ok_and(|stat| !stat.contains(") Z "))
        };
        while descendants.iter().any(is_alive) {
            assert!(Instant::now() < end, "it still runs");
            thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn child_that_is_never_ready_is_an_error() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo no; exec sleep 60"]);
        let error = Server::start(command, "feed").unwrap_err().to_string();
        assert!(error.contains("no\\n"), "{error}");
    }
}
