//! Ignoring signals, and the signal that ends a child with its parent.
//!
//! `signal_hook` installs handlers, which is not enough for the signals of terminals: while SIGTTOU
//! has a handler, the kernel restarts the write that caused it. The write succeeds only if the
//! signal is ignored (setpgid(2), termios(3)).

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use rustix::process::{Signal, set_parent_process_death_signal};

/// Ignores signals in the whole process. A handler that is installed later replaces this.
///
/// # Errors
/// Returns the error of `signal(2)` if a number is not that of a signal that can be ignored.
pub fn ignore(signals: &[i32]) -> std::io::Result<()> {
    for signal in signals {
        // SAFETY: SIG_IGN is not a function, so no code runs in a signal handler.
        if unsafe { libc::signal(*signal, libc::SIG_IGN) } == libc::SIG_ERR {
            return Err(std::io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Asks the kernel to kill the command's process when the thread that spawns it ends for any reason
/// (`PR_SET_PDEATHSIG`, prctl(2)). That thread must live as long as the child is used.
pub fn kill_with_parent(command: &mut Command) {
    let parent = rustix::process::getpid();
    let prepare = move || {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // No signal is sent if the parent ended before the call above.
        match rustix::process::getppid() {
            Some(now) if now == parent => Ok(()),
            Some(_) | None => Err(std::io::ErrorKind::NotFound.into()),
        }
    };
    // SAFETY: between fork and exec, the closure makes two system calls and does not allocate.
    unsafe {
        command.pre_exec(prepare);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn child_is_killed_when_its_parent_ends() {
        let spawned = std::thread::spawn(|| {
            let mut command = Command::new("sleep");
            command.arg("60");
            kill_with_parent(&mut command);
            command.spawn().unwrap()
        });
        let mut child = spawned.join().unwrap();
        for _ in 0..2_000 {
            if let Some(status) = child.try_wait().unwrap() {
                assert!(!status.success());
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        child.kill().unwrap();
        panic!("it still runs");
    }

    #[test]
    fn ignored_signal_has_no_effect_and_kill_cannot_be_ignored() {
        ignore(&[libc::SIGURG]).unwrap();
        // SAFETY: the signal is ignored, and is sent to the calling thread.
        assert_eq!(unsafe { libc::raise(libc::SIGURG) }, 0);
        assert!(ignore(&[libc::SIGKILL]).is_err());
    }
}
