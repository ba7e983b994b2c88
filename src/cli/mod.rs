//! SHELL: this module is the command line, with one file per subcommand.
//!
//! It parses the arguments, runs the subcommand and returns an exit status: 0 success, 1 failure
//! while running, 2 bad usage or configuration. It is the only module of the crate that writes to
//! standard output and standard error. `main` is the only caller.

pub(crate) mod args;
mod bench;
mod check;
mod doctor;
mod guide;
mod health;
mod journal;
mod lines;
mod operator;
mod publish;
mod serve;
mod socket;
mod subscribe;
mod token;
mod units;

use std::io::{self, Write as _};
use std::process::ExitCode;

use signal_hook::consts::{SIGUSR1, SIGUSR2};

use args::{Arguments, Command};
use fanfare::config::file::ConfigError;
use fanfare::logs::priority::error_lines;
use fanfare::sys::signals;

/// The reason why a subcommand ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The configuration is invalid: status 2.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The reader of standard output has closed the pipe: status 0 without a message.
    #[error("standard output is closed")]
    OutputClosed,
    /// The subcommand has failed while running: status 1.
    #[error(transparent)]
    Running(#[from] anyhow::Error),
    /// The subcommand has failed, and the reason is already on standard error: status 1.
    #[error("failed")]
    Reported,
    /// The arguments are invalid: status 2.
    #[error("{0}")]
    Usage(String),
}

impl Failure {
    /// Returns the failure for an error that occurred while writing to standard output.
    fn of_output(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::OutputClosed;
        }
        Self::Running(anyhow::Error::new(error).context("cannot write to standard output"))
    }

    /// Prints the reason of the failure on standard error and returns the exit status.
    fn report(&self) -> ExitCode {
        match self {
            // Each line of this text begins with the name of a file or variable. So the prefix
            // `fanfare:` is not needed.
            Self::Config(error) => {
                print_error(&error_lines(&error.to_string()));
                ExitCode::from(2)
            }
            Self::OutputClosed => ExitCode::SUCCESS,
            Self::Running(_) => {
                // The format `{:#}` includes the causes of the error.
                print_error(&error_lines(&format!("fanfare: {self:#}")));
                ExitCode::FAILURE
            }
            Self::Reported => ExitCode::FAILURE,
            Self::Usage(_) => {
                print_error(&error_lines(&format!("fanfare: {self}")));
                ExitCode::from(2)
            }
        }
    }
}

/// Runs the subcommand that the command line of the process names.
#[must_use]
pub(crate) fn run() -> ExitCode {
    let arguments = match Arguments::take(std::env::args_os()) {
        Ok(arguments) => arguments,
        Err(error) => {
            // A request for the help text or the version is also an `Err`, with exit status 0.
            return match error.print() {
                Err(failed) if failed.kind() != io::ErrorKind::BrokenPipe => ExitCode::FAILURE,
                _ => u8::try_from(error.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from),
            };
        }
    };
    // `pkill -USR1 fanfare`, meant for a server, must not end a publisher or a subscriber. The call
    // cannot fail for these signals.
    let _ignored = signals::ignore(&[SIGUSR1, SIGUSR2]);
    let ended = match &arguments.command {
        Command::Bench(args) => bench::run(args, &mut io::stdout()),
        Command::Channels(args) => operator::channels::run(args, &mut io::stdout().lock()),
        Command::Check(args) => check::run(args, &mut io::stdout().lock()),
        Command::Config(args) => operator::config::run(args, &mut io::stdout().lock()),
        Command::Conns(args) => operator::conns::run(args, &mut io::stdout().lock()),
        Command::Doctor(args) => doctor::run(args, &mut io::stdout().lock()),
        Command::Generate(args) => guide::generate(args),
        Command::Health(args) => health::run(args, &mut io::stdout().lock()),
        Command::Help(args) => guide::help(args),
        Command::Journal(args) => journal::run(args, &mut io::stdout().lock()),
        Command::Kick(args) => operator::kick::run(args, &mut io::stdout().lock()),
        Command::LogLevel(args) => operator::log_level::run(args, &mut io::stdout().lock()),
        Command::Publish(args) => publish::run(args),
        Command::Reload(args) => operator::reload::run(args, &mut io::stdout().lock()),
        Command::Serve(args) => serve::run(args),
        Command::Subscribe(args) => subscribe::run(args, &mut io::stdout().lock()),
        Command::Token(args) => token::run(args, &mut io::stdout().lock()),
        Command::Top(args) => operator::top::run(args, &mut io::stdout().lock()),
        Command::Workers(args) => operator::workers::run(args, &mut io::stdout().lock()),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

/// Writes a line to standard error. A failure is ignored, because it cannot be reported.
fn print_error(line: &str) {
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
