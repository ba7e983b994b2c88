//! Descriptors: the limit on their number, and a table of one's own for each worker.
//!
//! `RLIMIT_NOFILE` binds per descriptor table. A thread that calls `unshare(CLONE_FILES)` gets a
//! copy of the table, so one process holds as many sockets as it has workers times the limit, and
//! look-ups in a table that is not shared are cheaper. What must mean the same everywhere is made
//! before.

use std::fs::File;
use std::io;
use std::marker::PhantomData;
use std::os::fd::RawFd;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// The limit on descriptors after an attempt to raise it.
#[derive(Debug)]
pub struct RaisedLimit {
    /// Descriptors in each table.
    pub in_force: u64,
    /// Why it is still the soft limit that the process was started with.
    pub refused: Option<io::Error>,
}

/// Whether something failed because no descriptor was free, so that nothing was done.
#[must_use]
pub fn is_exhausted(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

/// Raises the soft limit on descriptors to the hard one.
///
/// Where the system refuses (a sandbox that forbids `setrlimit`), the limit stays as it is.
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

/// The limit on descriptors in each table.
#[must_use]
pub fn limit() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Descriptors that are open in the calling thread's table; none if the system does not say.
#[must_use]
pub fn open_count() -> u64 {
    std::fs::read_dir("/proc/thread-self/fd").map_or(0, |entries| entries.count() as u64)
}

/// A descriptor in reserve, for one more connection when the limit is reached.
#[derive(Debug, Default)]
pub struct Spare(Option<File>);

impl Spare {
    /// Takes a descriptor if there is none in reserve. Whether there is one now.
    pub fn reserve(&mut self) -> bool {
        if self.0.is_none() {
            self.0 = File::open("/dev/null").ok();
        }
        self.0.is_some()
    }

    /// Frees it. Whether there was one.
    pub fn release(&mut self) -> bool {
        self.0.take().is_some()
    }

    /// Whether the table has room for another descriptor beside the one in reserve.
    pub fn has_another(&mut self) -> bool {
        self.reserve() && Self::default().reserve()
    }
}

/// Gives the calling thread a descriptor table of its own: a copy of the one it shared. The thread
/// takes no signals from then on.
///
/// # Errors
/// When the system refuses; the table is shared as before.
pub fn unshare_table() -> io::Result<OwnTable> {
    refuse_signals()?;
    // SAFETY: descriptors of the old table stay valid in the copy under the same numbers, and
    // threads do not hand each other descriptors they open after this.
    unsafe { unshare_unsafe(UnshareFlags::FILES) }?;
    Ok(OwnTable(PhantomData))
}

/// Blocks all signals in the calling thread, so that the system hands them to others.
///
/// A handler writes to a descriptor by its number. In a table of its own that number may be a
/// client's socket: the client would get a byte that nobody meant for it, and the signal be lost.
fn refuse_signals() -> io::Result<()> {
    let mut all = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: the pointer is to a set, which is written whole; for such a one it cannot fail.
    let _always_zero = unsafe { libc::sigfillset(all.as_mut_ptr()) };
    // SAFETY: the set has just been written; the mask from before is not asked for.
    let refused =
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), std::ptr::null_mut()) };
    match refused {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(code)),
    }
}

/// The calling thread's own descriptor table. Stays on the thread it was made on.
#[derive(Debug)]
pub struct OwnTable(PhantomData<*const ()>);

impl OwnTable {
    /// Closes every descriptor in this table but standard input, output and error and those in
    /// `keep`.
    ///
    /// Without this a drained listener or a closed feed would live on in the copies.
    pub fn keep_only(&self, keep: &[RawFd]) {
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
    // SAFETY: the table is this thread's own, so whoever owns these descriptors on another thread
    // keeps its own copies; nothing on this thread uses them.
    let closed = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    // Kernels before 5.9 do not know the call: then the copies stay open, which costs descriptors
    // only.
    debug_assert!(closed == 0 || io::Error::last_os_error().raw_os_error() == Some(libc::ENOSYS));
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn closing_in_a_table_of_its_own_leaves_the_others_alone() {
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
    fn thread_with_a_table_of_its_own_takes_no_signals() {
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
