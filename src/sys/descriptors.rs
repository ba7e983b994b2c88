//! Descriptors: the limit on their number, and a descriptor table for each worker.
//!
//! `RLIMIT_NOFILE` applies to each descriptor table. A thread that calls `unshare(CLONE_FILES)`
//! gets a copy of the table. So one process can have as many sockets as the limit times the number
//! of workers. Lookups in a table that is not shared are also cheaper. Descriptors that several
//! threads use are opened before the tables are unshared.

use std::fs::File;
use std::io;
use std::marker::PhantomData;
use std::os::fd::RawFd;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// The limit on descriptors after an attempt to raise it.
#[derive(Debug)]
pub struct RaisedLimit {
    /// The maximum number of descriptors in each table.
    pub in_force: u64,
    /// The error if the soft limit could not be raised to the hard limit.
    pub refused: Option<io::Error>,
}

/// Whether a call failed because no descriptor was free.
#[must_use]
pub fn is_exhausted(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

/// Raises the soft limit on descriptors to the hard limit.
///
/// If the system refuses, for example in a sandbox that forbids `setrlimit`, the limit does not
/// change.
pub fn raise_limit() -> RaisedLimit {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    let outcome = match current == maximum {
        true => Ok(()),
        false => setrlimit(Resource::Nofile, raised),
    };
    RaisedLimit {
        in_force: limit(),
        refused: outcome.err().map(io::Error::from),
    }
}

/// Returns the maximum number of descriptors in one descriptor table (`RLIMIT_NOFILE`).
#[must_use]
pub fn limit() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Returns the number of open descriptors in the calling thread's table. Returns zero if `/proc` is
/// not readable.
#[must_use]
pub fn open_count() -> u64 {
    std::fs::read_dir("/proc/thread-self/fd").map_or(0, |entries| entries.count() as u64)
}

/// A descriptor in reserve. When it is released, one more connection can be accepted at the limit.
#[derive(Debug, Default)]
pub struct Spare(Option<File>);

impl Spare {
    /// Opens the descriptor in reserve if it is not open. Returns whether it is open now.
    pub fn reserve(&mut self) -> bool {
        if self.0.is_none() {
            self.0 = File::open("/dev/null").ok();
        }
        self.0.is_some()
    }

    /// Closes the descriptor in reserve. Returns whether it was open.
    pub fn release(&mut self) -> bool {
        self.0.take().is_some()
    }

    /// Whether the table has a free descriptor in addition to the descriptor in reserve.
    pub fn has_another(&mut self) -> bool {
        self.reserve() && Self::default().reserve()
    }
}

/// Gives the calling thread its own descriptor table: a copy of the shared table. From this call
/// on, the thread blocks all signals.
///
/// # Errors
/// Returns the error of `pthread_sigmask(3)` or `unshare(2)`. After an error, the table is still
/// shared.
pub fn unshare_table() -> io::Result<OwnTable> {
    block_signals()?;
    // SAFETY: descriptors of the old table stay valid in the copy under the same numbers. Threads
    // do not pass each other descriptors that they open after this call.
    unsafe { unshare_unsafe(UnshareFlags::FILES) }?;
    Ok(OwnTable(PhantomData))
}

/// Blocks all signals in the calling thread, so that the system delivers them to other threads.
///
/// A signal handler writes to a descriptor by its number. In this thread's table, the number may
/// belong to a client's socket. The client would then receive a stray byte, and the signal would be
/// lost.
fn block_signals() -> io::Result<()> {
    let mut all = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: the pointer is valid, and the call writes the set completely. The call cannot fail
    // for a valid pointer.
    let outcome = unsafe { libc::sigfillset(all.as_mut_ptr()) };
    debug_assert_eq!(outcome, 0, "the pointer is valid");
    // SAFETY: the set was written above; the previous mask is not requested.
    let refused =
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), std::ptr::null_mut()) };
    match refused {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(code)),
    }
}

/// The calling thread's own descriptor table. It cannot be sent to another thread.
#[derive(Debug)]
pub struct OwnTable(PhantomData<*const ()>);

impl OwnTable {
    /// Closes every descriptor in this table except standard input, output, error and the
    /// descriptors in `keep`.
    ///
    /// Without this call, a listener or feed that another thread closes would stay open in the
    /// copied tables.
    pub fn keep_only(&self, keep: &[RawFd]) {
        debug_assert!(keep.iter().all(|fd| *fd >= 0), "{keep:?}");
        let mut keep: Vec<u32> = keep
            .iter()
            .filter_map(|fd| u32::try_from(*fd).ok())
            .collect();
        keep.extend([0, 1, 2]);
        keep.sort_unstable();
        keep.dedup();
        let mut first = 0;
        for fd in keep {
            if fd > first {
                close_range(first, fd - 1);
            }
            first = fd + 1;
        }
        close_range(first, u32::MAX);
    }
}

fn close_range(first: u32, last: u32) {
    // SAFETY: the table belongs only to this thread, so owners on other threads keep their copies
    // of these descriptors. Nothing on this thread uses the closed descriptors.
    let closed = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    // Linux before 5.9 has no `close_range`. The descriptors then stay open, which only reduces the
    // number of free descriptors.
    debug_assert!(closed == 0 || io::Error::last_os_error().raw_os_error() == Some(libc::ENOSYS));
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn close_in_an_unshared_table_does_not_affect_other_tables() {
        let kept = File::open("/dev/null").unwrap();
        let dropped = File::open("/dev/null").unwrap();
        let (kept_fd, dropped_fd) = (kept.as_raw_fd(), dropped.as_raw_fd());
        let link = |fd: RawFd| std::fs::read_link(format!("/proc/thread-self/fd/{fd}")).is_ok();
        let seen = std::thread::spawn(move || {
            unshare_table().unwrap().keep_only(&[kept_fd]);
            (link(kept_fd), link(dropped_fd))
        });
        assert_eq!(seen.join().unwrap(), (true, false));
        assert!(link(dropped_fd));
    }

    #[test]
    fn thread_with_an_unshared_table_blocks_all_signals() {
        let blocked = std::thread::spawn(|| {
            let _table = unshare_table().unwrap();
            std::fs::read_to_string("/proc/thread-self/status").unwrap()
        });
        let status = blocked.join().unwrap();
        let mask = status.lines().find_map(|line| line.strip_prefix("SigBlk:"));
        let mask = u64::from_str_radix(mask.unwrap().trim(), 16).unwrap();
        for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGTERM] {
            assert_ne!(mask & 1 << (signal - 1), 0, "{signal} in {mask:x}");
        }
    }

    #[test]
    fn limit_is_raised_to_the_hard_one() {
        let raised = raise_limit();
        let hard = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
        assert_eq!((raised.in_force, limit()), (hard, hard));
        assert!(raised.refused.is_none());
    }
}
