//! `fanfare reload`: reloads the configuration and reports the outcome.

use std::io::Write;
use std::time::Duration;

use super::super::{Failure, print_error};
use super::args::ReloadArgs;
use super::client::{Client, ClientError};
use super::print;
use super::text::{escape, join};
use fanfare::config::limits::{OPERATOR_RELOAD_MS, OPERATOR_STEP_MS};
use fanfare::operator::answer::ReloadAnswer;
use fanfare::operator::request::{Empty, Request};

/// The time for the exchange. The server has answered before, unless it is stopped.
const PATIENCE: Duration = Duration::from_millis(OPERATOR_RELOAD_MS + 2 * OPERATOR_STEP_MS);

/// Reloads the configuration and prints the names of the keys that it concerns.
///
/// # Errors
/// Returns an error if the new configuration is refused, or if the server does not answer.
pub(in crate::cli) fn run(args: &ReloadArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let client = Client::new(&args.socket)?.patient(PATIENCE);
    match client.try_ask::<ReloadAnswer>(&Request::Reload(Empty {})) {
        Ok(answer) => print(&outcome(&answer.content), out),
        Err(ClientError::Refused(problems)) => {
            // Each problem begins with the name of its file or variable, as in `fanfare check`.
            print_error(problems.trim_end());
            Err(Failure::Reported)
        }
        Err(error) => Err(client.failure(error)),
    }
}

fn outcome(answer: &ReloadAnswer) -> String {
    let ReloadAnswer {
        changed,
        kept,
        overridden,
        warnings,
    } = answer;
    let mut lines = vec![match changed.as_slice() {
        [] => String::from("reloaded, no key in use has changed"),
        keys => line("changed", keys),
    }];
    if !kept.is_empty() {
        lines.push(line("needs a restart", kept));
    }
    if !overridden.is_empty() {
        lines.push(line(
            "without effect, set by a flag or a variable",
            overridden,
        ));
    }
    let warnings = warnings.iter();
    lines.extend(warnings.map(|warning| format!("warning: {}", escape(warning))));
    join(&lines)
}

fn line(what: &str, keys: &[String]) -> String {
    format!("{what}: {}", escape(&keys.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcome_names_keys_by_what_has_happened() {
        let words = |list: &[&str]| list.iter().map(|word| String::from(*word)).collect();
        let answer = ReloadAnswer {
            changed: words(&["limits.conns", "namespace"]),
            kept: words(&["workers"]),
            overridden: words(&["listen"]),
            warnings: words(&["a\u{1b}b"]),
        };
        assert_eq!(
            outcome(&answer),
            "changed: limits.conns, namespace\nneeds a restart: workers\n\
             without effect, set by a flag or a variable: listen\nwarning: a\\u{1b}b\n"
        );
        assert_eq!(
            outcome(&ReloadAnswer::default()),
            "reloaded, no key in use has changed\n"
        );
    }
}
