//! A server as a child process, and what the kernel says it has used.
//!
//! Processor time is the sum over its threads of what the scheduler has given them
//! (`/proc/PID/task/TID/schedstat`, nanoseconds), user and system together: the system's part
//! includes the network stack up to the receiver's queue on loopback. Memory is PSS
//! (`smaps_rollup`). The child ends with its handle.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tempfile::TempDir;

use super::options::Options;

/// A running server.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    /// Where clients connect.
    pub(crate) address: SocketAddr,
    /// Where publications go.
    pub(crate) feed: PathBuf,
    _folder: TempDir,
}

/// Memory at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    /// The process's proportional share of its pages, in bytes.
    pub(crate) pss: i64,
    /// The whole machine's slab, in bytes: sockets, inodes, epoll items of both ends, and others'.
    pub(crate) slab: i64,
}

impl Process {
    /// The program under test.
    pub(crate) fn fanfare(options: &Options) -> Result<Self> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fanfare"));
        command
            .args(["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
            .args(["--log", "warn", "--workers", &options.workers.to_string()])
            .args(options.server_flags.split_whitespace());
        Self::start(command, "--feed")
    }

    /// What it is compared with.
    pub(crate) fn floor(options: &Options) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["--workers", &options.workers.to_string()]);
        Self::start(command, "--serve-floor")
    }

    fn start(mut command: Command, feed_flag: &str) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let feed = folder.path().join("feed.sock");
        let mut child = command
            .arg(feed_flag)
            .arg(&feed)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut ready = String::new();
        if let Some(stdout) = child.stdout.take() {
            BufReader::new(stdout).read_line(&mut ready)?;
        }
        let address = ready.split_once("http://").map_or("", |(_, rest)| rest);
        let address = address.split_whitespace().next().unwrap_or_default();
        let Ok(address) = address.parse() else {
            // It has ended, or is ended here.
            drop(child.kill());
            bail!("{command:?} is not ready but {:?}: {ready}", child.wait()?);
        };
        Ok(Self {
            child,
            address,
            feed,
            _folder: folder,
        })
    }

    /// The processor time used so far by all its threads.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        let mut sum = Duration::ZERO;
        for task in fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let path = task?.path().join("schedstat");
            let text = fs::read_to_string(path)?;
            let nanoseconds = text.split_whitespace().next().context("schedstat")?;
            sum += Duration::from_nanos(nanoseconds.parse()?);
        }
        Ok(sum)
    }

    /// What it and the machine hold now.
    pub(crate) fn memory(&self) -> Result<Memory> {
        let rollup = format!("/proc/{}/smaps_rollup", self.child.id());
        Ok(Memory {
            pss: kibibytes(Path::new(&rollup), "Pss:")? * 1024,
            slab: kibibytes(Path::new("/proc/meminfo"), "Slab:")? * 1024,
        })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn kibibytes(path: &Path, key: &str) -> Result<i64> {
    let text = fs::read_to_string(path)?;
    let value = text.lines().find_map(|line| line.strip_prefix(key));
    let value = value.and_then(|value| value.split_whitespace().next());
    Ok(value
        .with_context(|| format!("{} has no {key}", path.display()))?
        .parse()?)
}
