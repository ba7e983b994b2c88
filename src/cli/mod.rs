//! SHELL: the command line, one file per subcommand.
//!
//! Parses the arguments, calls one function and turns what comes back into an exit status: 0 fine,
//! 1 failed while running, 2 bad usage or configuration. The only place of the crate that writes
//! to standard output and standard error on purpose. `main` is the only caller.

pub(crate) mod args;
mod bench;
mod check;
mod doctor;
mod lines;
mod publish;
mod serve;
mod subscribe;
mod token;

use std::io::{self, Write as _};
use std::process::ExitCode;

use signal_hook::consts::{SIGUSR1, SIGUSR2};

use args::{Arguments, Command};
use fanfare::config::file::ConfigError;
use fanfare::sys::signals;

/// Why a subcommand did not end well.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The configuration is wrong: status 2.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Whoever read our standard output has seen enough: status 0, and not a word.
    #[error("standard output is closed")]
    OutputClosed,
    /// Failed while running: status 1.
    #[error(transparent)]
    Running(#[from] anyhow::Error),
    /// Failed while running, and standard error says why already: status 1.
    #[error("failed")]
    Told,
    /// The arguments make no sense together: status 2.
    #[error("{0}")]
    Usage(String),
}

impl Failure {
    /// What failing to write to standard output means.
    fn of_output(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::OutputClosed;
        }
        Self::Running(anyhow::Error::new(error).context("cannot write to standard output"))
    }

    /// Says on standard error what happened, and returns the exit status.
    fn report(&self) -> ExitCode {
        match self {
            // Each line begins with a file or variable already.
            Self::Config(error) => {
                tell(&error.to_string());
                ExitCode::from(2)
            }
            Self::OutputClosed => ExitCode::SUCCESS,
            Self::Running(_) => {
                // The alternate form has the context, too.
                tell(&format!("fanfare: {self:#}"));
                ExitCode::FAILURE
            }
            Self::Told => ExitCode::FAILURE,
            Self::Usage(_) => {
                tell(&format!("fanfare: {self}"));
                ExitCode::from(2)
            }
        }
    }
}

/// Runs the subcommand that the process's arguments name.
#[must_use]
pub(crate) fn run() -> ExitCode {
    let arguments = match Arguments::take(std::env::args_os()) {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version come this way too, with status 0. A closed terminal is no failure.
            let _printed = error.print();
            return u8::try_from(error.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from);
        }
    };
    // `pkill -USR1 fanfare`, meant for a server, ends no publisher or subscriber either. Failing to
    // ignore a signal that exists is impossible.
    let _ignored = signals::ignore(&[SIGUSR1, SIGUSR2]);
    let ended = match &arguments.command {
        Command::Bench(args) => bench::run(args, &mut io::stdout()),
        Command::Check(args) => check::run(args, &mut io::stdout().lock()),
        Command::Doctor(args) => doctor::run(args, &mut io::stdout().lock()),
        Command::Publish(args) => publish::run(args),
        Command::Serve(args) => serve::run(args),
        Command::Subscribe(args) => subscribe::run(args, &mut io::stdout().lock()),
        Command::Token(args) => token::run(args, &mut io::stdout().lock()),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

/// Writes a line to standard error. Where nobody reads it there is nobody to tell.
fn tell(line: &str) {
    let _written = writeln!(io::stderr().lock(), "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closed_output_is_quiet_and_other_output_errors_are_not() {
        let closed = Failure::of_output(io::Error::from(io::ErrorKind::BrokenPipe));
        assert!(matches!(closed, Failure::OutputClosed));
        let full = Failure::of_output(io::Error::from(io::ErrorKind::StorageFull));
        assert!(matches!(full, Failure::Running(_)));
    }
}
