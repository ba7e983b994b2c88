//! Writes to standard output without the buffer of the standard library.
//!
//! That buffer hides how many bytes of a line were written before an error, and it writes its rest
//! at the end of the process. That write could block forever, because nothing may read the pipe.

use std::io::{self, StdoutLock, Write};
use std::os::fd::AsFd as _;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::retry_on_intr;

/// Standard output. Each write holds the lock of the standard library, so a thread that holds the
/// lock makes the other threads wait.
#[derive(Clone, Copy, Debug, Default)]
pub struct StandardOutput;

impl Write for StandardOutput {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let lock = io::stdout().lock();
        Ok(rustix::io::write(lock.as_fd(), bytes)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes one line, which must be shorter than a page. If standard output is a pipe that is full,
/// waits at most the time `most` for its reader.
///
/// # Errors
/// Returns [`io::ErrorKind::TimedOut`] if there is no room, or the error of a system call.
pub fn write_line(lock: &StdoutLock<'_>, line: &str, most: Duration) -> io::Result<()> {
    let timeout = Timespec::try_from(most).map_err(io::Error::other)?;
    let ready = retry_on_intr(|| {
        let mut waiting = [PollFd::new(lock, PollFlags::OUT)];
        poll(&mut waiting, Some(&timeout))
    })?;
    match ready {
        0 => Err(io::ErrorKind::TimedOut.into()),
        // A pipe that is ready has room for a page.
        _ => StandardOutput.write_all(format!("{line}\n").as_bytes()),
    }
}
