//! Wakes a thread that sleeps in a poll, from any thread.
//!
//! An eventfd, made before the threads part ways with their descriptor tables, so that its number
//! means the same in each of them. A second wake before the sleeper has looked costs one atomic
//! swap and no system call.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::event::{EventfdFlags, eventfd};

/// An eventfd and whether it has been written since the sleeper last looked.
#[derive(Debug)]
pub struct Wake {
    fd: OwnedFd,
    is_pending: AtomicBool,
    writes: AtomicU64,
}

impl Wake {
    /// Makes one.
    ///
    /// # Errors
    /// When no descriptor is left.
    pub fn new() -> io::Result<Self> {
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self {
            fd,
            is_pending: AtomicBool::new(false),
            writes: AtomicU64::new(0),
        })
    }

    /// Makes the sleeper's poll return. What was put in its mailbox before is seen by it.
    pub fn wake(&self) {
        if !self.is_pending.swap(true, Ordering::AcqRel) {
            self.writes.fetch_add(1, Ordering::Relaxed);
            // The only failure is a counter at its maximum, and then the sleeper is awake anyway.
            let written = rustix::io::write(&self.fd, &1u64.to_ne_bytes());
            debug_assert!(written.is_ok());
        }
    }

    /// How many wakes took a system call.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.writes.load(Ordering::Relaxed)
    }

    /// The sleeper calls this after its poll returned and before it looks at its mailbox.
    pub fn acknowledge(&self) {
        let mut count = [0u8; 8];
        // Nothing to read is fine: another wake was acknowledged already.
        let read = rustix::io::read(&self.fd, &mut count);
        debug_assert!(read.is_ok() || read == Err(rustix::io::Errno::AGAIN));
        // A swap and not a store: a waker that still finds the mark set has put its mail before
        // this swap in the order of swaps, hence the sleeper sees the mail. A store could be
        // overtaken by the sleeper's own look at the mailbox, and the mail would lie there
        // unannounced.
        self.is_pending.swap(false, Ordering::AcqRel);
    }
}

impl AsRawFd for Wake {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl AsFd for Wake {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wake_can_be_seen_once_and_given_again() {
        let wake = Wake::new().unwrap();
        wake.wake();
        wake.wake();
        assert_eq!(wake.count(), 1);
        let mut count = [0u8; 8];
        assert_eq!(rustix::io::read(&wake.fd, &mut count), Ok(8));
        assert_eq!(u64::from_ne_bytes(count), 1);
        wake.acknowledge();
        wake.wake();
        assert_eq!(rustix::io::read(&wake.fd, &mut count), Ok(8));
    }
}
