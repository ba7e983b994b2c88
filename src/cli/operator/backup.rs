//! `fanfare journal backup`: lets a running server copy its journal.

use std::io::{ErrorKind, Write};
use std::path::Path;
use std::time::Duration;

use super::super::Failure;
use super::super::units::grouped;
use super::args::SocketArgs;
use super::client::Client;
use super::print;
use super::text::escape;
use fanfare::operator::answer::BackupAnswer;
use fanfare::operator::request::{BackupRequest, Request};

/// The longest time for a backup. Control+C ends it earlier.
const PATIENCE: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// Lets the server copy its journal to a directory, and prints what the copy has. A relative path
/// begins at the working directory of this process.
///
/// # Errors
/// Returns an error if there is no complete copy, or if the server does not answer.
pub(in crate::cli) fn run(
    directory: &Path,
    socket: &SocketArgs,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let to = std::path::absolute(directory);
    let to = to.map_err(|error| Failure::Usage(format!("{}: {error}", directory.display())))?;
    if to.to_str().is_none() {
        let message = format!("{}: the path is not UTF-8", escape(&to.to_string_lossy()));
        return Err(Failure::Usage(message));
    }
    let request = Request::Backup(BackupRequest { to: to.clone() });
    let client = Client::new(socket)?.patient(PATIENCE);
    let answer = client.ask::<BackupAnswer>(&request)?.content;
    print(&outcome(&to, &answer), out)?;
    // A user that may not look into the directory above sees no error of this kind.
    let is_missing = std::fs::symlink_metadata(&to);
    if is_missing.is_err_and(|error| error.kind() == ErrorKind::NotFound) {
        let to = escape(&to.to_string_lossy());
        return Err(Failure::Running(anyhow::anyhow!(
            "the server has written the backup, but {to} does not exist here: the server sees \
             another file system, for example because of PrivateTmp= in its unit"
        )));
    }
    Ok(())
}

fn outcome(to: &Path, answer: &BackupAnswer) -> String {
    let BackupAnswer {
        last,
        publications,
        bytes,
        took_ms,
    } = answer;
    format!(
        "backup: {}\nlast id: {}\npublications: {publications}\nbytes: {bytes} in records\n\
         took: {} ms\n",
        escape(&to.to_string_lossy()),
        escape(last),
        grouped(*took_ms)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcome_has_a_line_for_each_fact() {
        let answer = BackupAnswer {
            last: "ab-7".to_owned(),
            publications: 7,
            bytes: 1_234,
            took_ms: 1_234,
        };
        assert_eq!(
            outcome(Path::new("/a"), &answer),
            "backup: /a\nlast id: ab-7\npublications: 7\nbytes: 1234 in records\ntook: 1,234 ms\n"
        );
    }
}
