//! `fanfare log-level`: prints or changes the log level.

use std::io::Write;

use super::super::Failure;
use super::args::LogLevelArgs;
use super::client::Client;
use super::print;
use super::text::escape;
use fanfare::operator::answer::LogLevelAnswer;
use fanfare::operator::request::{LogLevelRequest, Request};

/// Changes the level if one is given, and prints the level in use.
///
/// # Errors
/// Returns an error if the server does not answer, or refuses the request.
pub(in crate::cli) fn run(args: &LogLevelArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let request = Request::LogLevel(LogLevelRequest {
        level: args.level.clone(),
    });
    let answer = Client::new(&args.socket)?.ask::<LogLevelAnswer>(&request)?;
    print(&format!("{}\n", escape(&answer.content.level)), out)
}
