//! Wakes a thread that sleeps in a poll. Any thread can wake the sleeper.
//!
//! A [`Wake`] uses an eventfd. The eventfd is created before the threads unshare their descriptor
//! tables, so that it has the same number in every table. If the sleeper has not acknowledged a
//! wake yet, another wake costs one atomic swap and no system call. The eventfd is never read,
//! because polls are edge-triggered and each write is an edge (epoll(7)).

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::event::{EventfdFlags, eventfd};

/// An eventfd, and whether it was written after the last [`Wake::acknowledge`].
#[derive(Debug)]
pub struct Wake {
    fd: OwnedFd,
    is_pending: AtomicBool,
    writes: AtomicU64,
}

impl Wake {
    /// Creates the eventfd.
    ///
    /// # Errors
    /// Returns the error of `eventfd(2)`, for example if no descriptor is free.
    pub fn new() -> io::Result<Self> {
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self {
            fd,
            is_pending: AtomicBool::new(false),
            writes: AtomicU64::new(0),
        })
    }

    /// Makes the sleeper's poll return. The sleeper then sees all messages that were put into its
    /// mailbox before this call.
    pub fn wake(&self) {
        if !self.is_pending.swap(true, Ordering::AcqRel) {
            self.writes.fetch_add(1, Ordering::Relaxed);
            // The write fails only if the counter is at its maximum. In this case the sleeper is
            // already awake.
            let written = rustix::io::write(&self.fd, &1u64.to_ne_bytes());
            debug_assert!(written.is_ok());
        }
    }

    /// Returns the number of writes to the eventfd. Each write is one system call.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.writes.load(Ordering::Relaxed)
    }

    /// Acknowledges a wake, so that the next wake writes to the eventfd again. The sleeper calls
    /// this function after its poll has returned and before it reads its mailbox.
    pub fn acknowledge(&self) {
        // This is a swap, because a plain store could be reordered after the sleeper's next read of
        // its mailbox. A waker whose swap came before that store has found `is_pending` set and has
        // not written to the eventfd. Its message could then stay in the mailbox without a wake.
        // With the swap, the sleeper sees the message of such a waker when it reads the mailbox.
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
    use rustix::event::{Timespec, epoll};

    use super::*;

    #[test]
    fn poll_returns_once_for_each_acknowledged_wake() {
        let wake = Wake::new().unwrap();
        let poll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
        let (data, edges) = (
            epoll::EventData::new_u64(1),
            epoll::EventFlags::IN | epoll::EventFlags::ET,
        );
        epoll::add(&poll, &wake, data, edges).unwrap();
        let is_woken = || {
            let mut events = Vec::with_capacity(4);
            let at_once = Timespec::default();
            let buffer = rustix::buffer::spare_capacity(&mut events);
            epoll::wait(&poll, buffer, Some(&at_once)).unwrap() > 0
        };
        for writes in 1..=3 {
            assert!(!is_woken());
            wake.wake();
            wake.wake();
            assert_eq!(wake.count(), writes);
            assert!(is_woken());
            assert!(!is_woken(), "it is reported once");
            wake.wake();
            assert!(!is_woken(), "it was not acknowledged");
            wake.acknowledge();
        }
    }
}
