//! SHELL: this module reads the processor time and the memory of a process from procfs.
//!
//! Processor time is the sum of the user and system time of all threads of a process
//! (`/proc/PID/task/TID/schedstat`, in nanoseconds). On loopback, the system time of a sender
//! includes the network stack up to the receiver's queue. Memory is the PSS (`smaps_rollup`). Slab
//! memory is that of the whole machine. A server can consist of several processes, so the figures
//! of a process include its descendants.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};

/// A process to measure, identified by its process id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process(pub u32);

impl Process {
    /// Returns this process.
    #[must_use]
    pub fn own() -> Self {
        Self(std::process::id())
    }

    /// Returns the processor time of the process and its descendants. Threads that have ended are
    /// not included.
    ///
    /// # Errors
    /// Returns an error if there is no such process.
    pub fn cpu(self) -> Result<Duration> {
        let descendants = self.descendants().into_iter();
        // A descendant may end before its processor time is read.
        let theirs = descendants.filter_map(|process| process.own_threads_cpu().ok());
        Ok(self.own_threads_cpu()? + theirs.sum::<Duration>())
    }

    fn own_threads_cpu(self) -> Result<Duration> {
        let folder = format!("/proc/{}/task", self.0);
        let tasks = fs::read_dir(&folder).with_context(|| format!("no process {}", self.0))?;
        let mut sum = Duration::ZERO;
        for task in tasks {
            // A thread may end before its processor time is read.
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

    /// Returns the proportional set size of the process and its descendants, in bytes.
    ///
    /// # Errors
    /// Returns an error if the process does not exist, or if the process or a descendant belongs to
    /// another user.
    pub fn pss(self) -> Result<i64> {
        let mut sum = 0;
        for process in std::iter::once(self).chain(self.descendants()) {
            let rollup = format!("/proc/{}/smaps_rollup", process.0);
            sum += kibibytes(Path::new(&rollup), "Pss:")? * 1024;
        }
        Ok(sum)
    }

    /// Returns the running descendants of the process. The result is empty if the kernel lacks
    /// `CONFIG_PROC_CHILDREN`.
    #[must_use]
    pub fn descendants(self) -> Vec<Self> {
        let mut found = self.children();
        let mut read = 0;
        while let Some(next) = found.get(read) {
            let children = next.children();
            found.extend(children);
            read += 1;
        }
        found
    }

    fn children(self) -> Vec<Self> {
        let Ok(tasks) = fs::read_dir(format!("/proc/{}/task", self.0)) else {
            return Vec::new();
        };
        let texts = tasks.flatten().filter_map(|task| {
            let path = task.path().join("children");
            fs::read_to_string(path).ok()
        });
        let text: String = texts.collect();
        let numbers = text.split_whitespace();
        numbers
            .filter_map(|pid| pid.parse().ok().map(Self))
            .collect()
    }
}

/// Returns the machine's slab memory in bytes. Slab memory includes the sockets, inodes and epoll
/// items of both ends of each local connection.
///
/// # Errors
/// Returns an error if procfs cannot be read.
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
    use std::time::Instant;

    use super::*;

    #[test]
    fn own_process_has_figures_and_a_missing_one_is_an_error() {
        let process = Process::own();
        // The kernel counts processor time in ticks of 10 ms, so the first values can be zero.
        let end = Instant::now() + Duration::from_secs(20);
        while process.cpu().unwrap() == Duration::ZERO {
            assert!(Instant::now() < end, "no processor time is counted");
        }
        assert!(process.pss().unwrap() > 0);
        assert!(slab().unwrap() > 0);
        assert!(Process(u32::MAX).cpu().is_err());
    }

    #[test]
    fn descendants_count_with_their_process() {
        let mut shell = std::process::Command::new("sh")
            .args(["-c", "(sleep 60 & echo begun; wait) & wait"])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut begun = [0; 5];
        let stdout = shell.stdout.as_mut().unwrap();
        std::io::Read::read_exact(stdout, &mut begun).unwrap();
        let process = Process(shell.id());
        let descendants = process.descendants();
        let alone: i64 = {
            let rollup = format!("/proc/{}/smaps_rollup", shell.id());
            kibibytes(Path::new(&rollup), "Pss:").unwrap() * 1024
        };
        let together = process.pss().unwrap();
        for each in descendants.iter().rev().chain([&process]) {
            let pid = rustix::process::Pid::from_raw(each.0.cast_signed()).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        }
        shell.wait().unwrap();
        assert_eq!(descendants.len(), 2, "{descendants:?}");
        assert!(together > alone, "{together} {alone}");
        assert_eq!(process.descendants(), []);
    }
}
