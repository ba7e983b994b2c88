//! The server's process in procfs: memory, processor time, descriptors and their limit.
//!
//! Reading procfs uses no descriptor of the observed process.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};

use super::within;

/// The signals that tests send. The program `kill` is not used: the package procps may be missing.
const SIGNALS: [(&str, Signal); 20] = [
    ("ALRM", Signal::ALARM),
    ("CHLD", Signal::CHILD),
    ("CONT", Signal::CONT),
    ("HUP", Signal::HUP),
    ("INT", Signal::INT),
    ("IO", Signal::IO),
    ("KILL", Signal::KILL),
    ("PIPE", Signal::PIPE),
    ("PROF", Signal::PROF),
    ("PWR", Signal::POWER),
    ("STOP", Signal::STOP),
    ("TERM", Signal::TERM),
    ("TTIN", Signal::TTIN),
    ("TTOU", Signal::TTOU),
    ("URG", Signal::URG),
    ("USR1", Signal::USR1),
    ("USR2", Signal::USR2),
    ("VTALRM", Signal::VTALARM),
    ("WINCH", Signal::WINCH),
    ("XFSZ", Signal::XFSZ),
];

/// A running process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Process(pub(crate) u32);

/// A stopped thread of a process. It continues when this is dropped. Use it only on the thread that
/// has created it (ptrace(2)).
#[derive(Debug)]
pub(crate) struct StoppedThread(nix::unistd::Pid);

impl StoppedThread {
    /// Waits until the thread has ended together with its process. Before, the process cannot be
    /// awaited.
    pub(crate) fn await_end(&self) {
        within("the end of a stopped thread", || {
            let flags = WaitPidFlag::WNOHANG | WaitPidFlag::__WALL;
            match waitpid(self.0, Some(flags)).unwrap() {
                WaitStatus::Exited(..) | WaitStatus::Signaled(..) => Some(()),
                _ => None,
            }
        });
    }
}

impl Drop for StoppedThread {
    fn drop(&mut self) {
        if ptrace::detach(self.0, None).is_err() {
            // The thread has ended. Its process can be awaited after this.
            let _ended = waitpid(self.0, Some(WaitPidFlag::__WALL));
        }
    }
}

impl Process {
    /// Returns the id of the thread with this name.
    pub(crate) fn thread(self, name: &str) -> Option<i32> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.0)).unwrap();
        let mut tasks = tasks.map(|task| task.unwrap());
        let found = tasks.find(|task| {
            let comm = fs::read_to_string(task.path().join("comm"));
            comm.is_ok_and(|comm| comm.trim_end() == name)
        });
        found?.file_name().to_str()?.parse().ok()
    }

    /// Stops the thread with this name. Needs a process that this process has started.
    pub(crate) fn stop_thread(self, name: &str) -> StoppedThread {
        // A thread sets its name itself, so a new thread may not have it yet.
        let thread = within(name, || self.thread(name));
        let thread = nix::unistd::Pid::from_raw(thread);
        ptrace::seize(thread, ptrace::Options::empty()).unwrap();
        ptrace::interrupt(thread).unwrap();
        StoppedThread(thread)
    }

    /// Sends a signal by its name without `SIG`.
    pub(crate) fn signal(self, name: &str) {
        let known = SIGNALS.iter().find(|(known, _)| *known == name);
        let (_, signal) = known.unwrap_or_else(|| panic!("{name} is not in SIGNALS"));
        let pid = Pid::from_raw(i32::try_from(self.0).unwrap()).unwrap();
        kill_process(pid, *signal).unwrap();
    }

    /// Returns the anonymous resident memory. File pages, such as the pages of the binary, do not
    /// count, because the kernel loads and discards them at any time.
    pub(crate) fn resident_bytes(self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0)).unwrap();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("RssAnon:"))
            .unwrap();
        let kibibytes: u64 = line.trim().trim_end_matches(" kB").parse().unwrap();
        kibibytes * 1024
    }

    /// Returns the processor time used so far, in user space and in the kernel.
    pub(crate) fn cpu_time(self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0)).unwrap();
        // The process name may contain any character, so fields are counted from its closing
        // parenthesis.
        let fields = stat.rsplit_once(')').unwrap().1.split_whitespace();
        let ticks: Vec<u64> = fields
            .skip(11)
            .take(2)
            .map(|t| t.parse().unwrap())
            .collect();
        let per_second = rustix::param::clock_ticks_per_second();
        Duration::from_millis(ticks.iter().sum::<u64>() * 1000 / per_second)
    }

    /// Calls `doing` repeatedly until the time `least` has passed. Returns the share of one
    /// processor that the process used in this time.
    pub(crate) fn cpu_share(self, least: Duration, mut doing: impl FnMut()) -> f64 {
        let (start, before) = (Instant::now(), self.cpu_time());
        while start.elapsed() < least {
            doing();
        }
        (self.cpu_time() - before).as_secs_f64() / start.elapsed().as_secs_f64()
    }

    /// Returns the number of descriptors in each thread's table, by thread id.
    pub(crate) fn descriptors(self) -> BTreeMap<u32, usize> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.0)).unwrap();
        let tasks = tasks.map(|task| task.unwrap());
        tasks
            .filter_map(|task| {
                let number = task.file_name().to_str()?.parse().ok()?;
                // The thread may have ended in the meantime.
                let count = fs::read_dir(task.path().join("fd")).ok()?.count();
                Some((number, count))
            })
            .collect()
    }

    /// Returns the number of descriptors in the descriptor table that has the most.
    pub(crate) fn descriptors_max(self) -> usize {
        self.descriptors().into_values().max().unwrap()
    }

    /// Sets the limit on descriptors. The limit applies to each table.
    pub(crate) fn limit_descriptors(self, count: usize) {
        let pid = Pid::from_raw(i32::try_from(self.0).unwrap());
        let limit = Rlimit {
            current: Some(count as u64),
            maximum: Some(count as u64),
        };
        prlimit(pid, Resource::Nofile, limit).unwrap();
    }
}
