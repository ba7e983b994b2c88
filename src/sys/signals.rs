//! Ignores signals.
//!
//! Handlers, such as those of `signal_hook`, are not enough for the signals of terminals. While
//! SIGTTOU has a handler, the kernel restarts the write that caused the signal. The write succeeds
//! only if the signal is ignored (setpgid(2), termios(3)).

/// Ignores signals in the whole process. A handler that is installed later replaces this setting.
///
/// # Errors
/// Returns the error of `signal(2)` if a number does not name a signal that can be ignored.
pub fn ignore(signals: &[i32]) -> std::io::Result<()> {
    for signal in signals {
        // SAFETY: SIG_IGN is not a function, so no code runs in a signal handler.
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
    fn ignored_signal_has_no_effect_and_kill_cannot_be_ignored() {
        ignore(&[libc::SIGURG]).unwrap();
        // SAFETY: the signal is ignored, and it is sent only to the calling thread.
        assert_eq!(unsafe { libc::raise(libc::SIGURG) }, 0);
        assert!(ignore(&[libc::SIGKILL]).is_err());
    }
}
