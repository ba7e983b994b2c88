//! SHELL: this module manages the server under load: a child process, or a server that is already
//! running.
//!
//! Like `fanfare serve`, a child must listen on a free port, have a feed in a private folder, and
//! print a line when it is ready. Dropping the [`Server`] kills the child and its descendants. If a
//! signal ends this process, the process first kills the child and its descendants and removes the
//! folder. If this process is killed with SIGKILL, the kernel kills the child.

use std::fs::DirBuilder;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, WaitId, WaitIdOptions};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::{Handle, Signals};
use signal_hook::low_level::emulate_default_handler;

use super::process::{Process, slab};
use super::sys::kill_with_parent;

/// A server: its address and, if known, its feed and its process.
#[derive(Debug)]
pub struct Server {
    /// The address to which clients connect.
    pub(super) address: SocketAddr,
    /// The path of the server's feed, if known.
    pub(super) feed: Option<PathBuf>,
    /// The server's process, if known.
    pub(super) process: Option<Process>,
    /// The child process, if this process has started the server. Dropping this field kills the
    /// child.
    _child: Option<ChildServer>,
}

/// A child process, its folder and its signal handler.
#[derive(Debug)]
struct ChildServer {
    child: Child,
    folder: PathBuf,
    /// A handle that stops the thread that waits for signals.
    signals: Handle,
    /// A lock that is locked while the child is being ended. After a signal, the lock stays locked
    /// until this process ends.
    ending: Arc<Mutex<()>>,
}

impl Server {
    /// Starts a server, and waits for its first line, which contains `http://ADDR:PORT`. The path
    /// of the feed is the value of the flag `feed_flag`.
    ///
    /// # Errors
    /// Returns an error if the process does not start, or if its first line contains no address.
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
        let ending = Arc::default();
        let mut child_server = ChildServer {
            signals: end_on_signal(Process(child.id()), folder.clone(), Arc::clone(&ending))?,
            child,
            folder,
            ending,
        };
        let mut ready = String::new();
        if let Some(stdout) = child_server.child.stdout.take() {
            BufReader::new(stdout).read_line(&mut ready)?;
        }
        let address = ready.split_once("http://").map_or("", |(_, rest)| rest);
        let address = address.split_whitespace().next().unwrap_or_default();
        let Ok(address) = address.parse() else {
            bail!("the server ({command:?}) is not ready; its first line is {ready:?}");
        };
        Ok(Self {
            address,
            feed: Some(feed),
            process: Some(Process(child_server.child.id())),
            _child: Some(child_server),
        })
    }

    /// Returns a handle for a server that is already running.
    #[must_use]
    pub fn attach(address: SocketAddr, feed: Option<PathBuf>, pid: Option<u32>) -> Self {
        Self {
            address,
            feed,
            process: pid.map(Process),
            _child: None,
        }
    }

    /// Returns the address to which clients connect.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the path of the server's feed, if known.
    #[must_use]
    pub fn feed(&self) -> Option<&Path> {
        self.feed.as_deref()
    }

    /// Returns the processor time that the server and the generator have used so far.
    ///
    /// # Errors
    /// Returns an error if the process has ended or cannot be inspected.
    pub fn usage(&self) -> Result<Usage> {
        Ok(Usage {
            cpu: self.process.map(Process::cpu).transpose()?,
            own_cpu: Process::own().cpu()?,
        })
    }

    /// Returns the server's current memory and the machine's current slab memory.
    ///
    /// # Errors
    /// Returns an error if the process has ended or cannot be inspected.
    pub fn memory(&self) -> Result<Memory> {
        Ok(Memory {
            pss: self.process.map(Process::pss).transpose()?,
            slab: slab()?,
        })
    }
}

impl Drop for ChildServer {
    fn drop(&mut self) {
        // After a signal, this call blocks until the signal ends the process, so that the exit
        // status is right.
        let _ending = self.ending.lock();
        self.signals.close();
        // The descendants must be killed, too, because they would outlive the child.
        let descendants = Process(self.child.id()).descendants();
        // The child may have ended already.
        drop(self.child.kill());
        drop(self.child.wait());
        descendants.into_iter().for_each(kill);
        remove(&self.folder);
    }
}

/// Starts a thread that waits for a signal. After a signal, the thread kills the child and its
/// descendants and removes the folder. Then the thread makes the signal's default action end this
/// process.
fn end_on_signal(child: Process, folder: PathBuf, ending: Arc<Mutex<()>>) -> Result<Handle> {
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM]).context("cannot wait for signals")?;
    let handle = signals.handle();
    thread::Builder::new()
        .name("bench-signal".to_owned())
        .spawn(move || {
            if let Some(signal) = signals.forever().next() {
                let _ending = ending.lock();
                let descendants = child.descendants();
                kill(child);
                descendants.into_iter().for_each(kill);
                await_end(child);
                remove(&folder);
                // The call fails only for unknown signals.
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

/// Waits until a killed child has ended, because the child can create files until it ends. Does not
/// reap the child.
fn await_end(Process(pid): Process) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    if let Some(pid) = pid {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        let _ended = rustix::process::waitid(WaitId::Pid(pid), options);
    }
}

/// The server's memory and the machine's slab memory at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// The proportional set size (PSS) of the server in bytes, if known.
    pub pss: Option<i64>,
    /// The slab memory of the whole machine in bytes.
    pub slab: i64,
}

/// The processor time that was used until one moment, or between two moments.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// The server's processor time, if known.
    pub cpu: Option<Duration>,
    /// The generator's processor time.
    pub own_cpu: Duration,
}

impl Usage {
    /// Returns the processor time that was used after the measurement `before`.
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

/// Removes a folder. Errors are ignored: the folder then stays in the directory for temporary
/// files.
fn remove(folder: &Path) {
    drop(std::fs::remove_dir_all(folder));
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn dropped_server_ends_with_its_descendants_and_removes_its_folder() {
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
        // The process that adopts the child may be slow to reap it.
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
    fn child_without_a_ready_line_is_an_error() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo no; exec sleep 60"]);
        let error = Server::start(command, "feed").unwrap_err().to_string();
        assert!(error.contains("no\\n"), "{error}");
    }
}
