//! SHELL: what the kernel says a process has used.
//!
//! Processor time is the sum over its threads of what the scheduler has given them
//! (`/proc/PID/task/TID/schedstat`, nanoseconds), user and system together: the system's part
//! includes the network stack up to the receiver's queue on loopback. Memory is PSS
//! (`smaps_rollup`), and slab is the whole machine's.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};

/// A process that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process(pub u32);

impl Process {
    /// This one.
    #[must_use]
    pub fn own() -> Self {
        Self(std::process::id())
    }

    /// The processor time used so far by all its threads that still run.
    ///
    /// # Errors
    /// When there is no such process.
    pub fn cpu(self) -> Result<Duration> {
        let folder = format!("/proc/{}/task", self.0);
        let tasks = fs::read_dir(&folder).with_context(|| format!("no process {}", self.0))?;
        let mut sum = Duration::ZERO;
        for task in tasks {
            // A thread may end while it is looked at.
            let Ok(text) = fs::read_to_string(task?.path().join("schedstat")) else {
                continue;
            };
            let nanoseconds = text
                .split_whitespace()
                .next()
                .context("schedstat is empty")?;
            sum += Duration::from_nanos(nanoseconds.parse()?);
        }
        Ok(sum)
    }

    /// The process's proportional share of its pages, in bytes.
    ///
    /// # Errors
    /// When there is no such process, or it is somebody else's.
    pub fn pss(self) -> Result<i64> {
        let rollup = format!("/proc/{}/smaps_rollup", self.0);
        Ok(kibibytes(Path::new(&rollup), "Pss:")? * 1024)
    }
}

/// The machine's slab in bytes: sockets, inodes, epoll items of both ends, and others'.
///
/// # Errors
/// When procfs does not say.
pub fn slab() -> Result<i64> {
    Ok(kibibytes(Path::new("/proc/meminfo"), "Slab:")? * 1024)
}

fn kibibytes(path: &Path, key: &str) -> Result<i64> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let value = text.lines().find_map(|line| line.strip_prefix(key));
    let value = value.and_then(|value| value.split_whitespace().next());
    Ok(value
        .with_context(|| format!("{} has no {key}", path.display()))?
        .parse()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_process_has_used_time_and_memory_and_a_missing_one_is_an_error() {
        let process = Process::own();
        assert!(process.cpu().unwrap() > Duration::ZERO);
        assert!(process.pss().unwrap() > 0);
        assert!(slab().unwrap() > 0);
        assert!(Process(u32::MAX).cpu().is_err());
    }
}
