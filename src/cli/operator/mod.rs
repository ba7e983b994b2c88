//! SHELL: the commands of the operator's socket, with one file per command.
//!
//! Each command sends one request ([`client`]) and prints the answer as a table ([`text`]) or as
//! JSON. Only `fanfare top` sends more than one request. Names, subjects and reasons come from the
//! network, so every text of an answer is escaped before it is printed.

pub(super) mod args;
pub(super) mod backup;
pub(super) mod channels;
mod client;
pub(super) mod config;
pub(super) mod conns;
pub(super) mod kick;
pub(super) mod log_level;
pub(super) mod reload;
mod text;
pub(super) mod top;
pub(super) mod workers;

use std::io::Write;

use super::{Failure, print_error};

/// Writes a finished text to standard output.
fn print(text: &str, out: &mut dyn Write) -> Result<(), Failure> {
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    written.map_err(Failure::of_output)
}

/// Writes an answer as one line of JSON.
fn print_json(line: &str, out: &mut dyn Write) -> Result<(), Failure> {
    print(&format!("{}\n", text::escape_json(line)), out)
}

/// Reports on standard error that an answer is incomplete.
fn warn_of_silent_workers(workers: &[u16], consequence: &str) {
    if let Some(numbers) = text::list_numbers(workers) {
        let verb = if workers.len() == 1 { "has" } else { "have" };
        print_error(&format!(
            "fanfare: {numbers} {verb} not answered in time; {consequence}"
        ));
    }
}

/// Returns the columns of the terminal, or `None` if standard output is not a terminal.
fn columns() -> Option<usize> {
    let (width, _) = terminal_size::terminal_size_of(std::io::stdout())?;
    Some(usize::from(width.0))
}
