//! Signals that the process ignores.
//!
//! `signal_hook` installs handlers, which is not enough for the signals of terminals: while
//! SIGTTOU has a handler the kernel repeats the write that it was sent for, and only a signal that
//! is ignored lets the write through (setpgid(2), termios(3)).

/// Ignores signals for the whole process. A handler that is installed later replaces this.
///
/// # Errors
/// Returns the system's error if a number is not that of a signal that can be ignored.
pub fn ignore(signals: &[i32]) -> std::io::Result<()> {
    for signal in signals {
        // SAFETY: SIG_IGN is no handler, so no code of ours runs on a signal.
        if unsafe { libc::signal(*signal, libc::SIG_IGN) } == libc::SIG_ERR {
            return Err(std::io::Error::last_os_error());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_signal_leaves_the_process_alone_and_kill_cannot_be_ignored() {
        ignore(&[libc::SIGURG]).unwrap();
        // SAFETY: the signal is ignored, and is sent to this thread's own process.
        assert_eq!(unsafe { libc::raise(libc::SIGURG) }, 0);
        assert!(ignore(&[libc::SIGKILL]).is_err());
    }
}
