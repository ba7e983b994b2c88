//! `fanfare journal`: checks a journal that no server uses, or lets a server back up its journal.

use std::fmt::Write as _;
use std::io::{ErrorKind, Write};

use super::args::{JournalAction, JournalArgs};
use super::operator::backup;
use super::{Failure, print_error};
use fanfare::id::Cursor;
use fanfare::journal::check::{self, CheckError, Report};

/// Runs the action.
pub(super) fn run(args: &JournalArgs, out: &mut dyn Write) -> Result<(), Failure> {
    match args.action {
        JournalAction::Backup => backup::run(&args.directory, &args.socket, out),
        JournalAction::Check => check(args, out),
    }
}

/// Checks the journal and prints what it contains.
fn check(args: &JournalArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let path = args.directory.display();
    let report = check::check(&args.directory).map_err(|error| match error {
        CheckError::None => Failure::Usage(format!("{path}: {error}")),
        CheckError::Unreadable(cause) if cause.kind() == ErrorKind::NotFound => {
            Failure::Usage(format!("{path}: {cause}"))
        }
        CheckError::Refused(_) => Failure::Running(anyhow::anyhow!(
            "{path}: {error}. A start of the server refuses this journal"
        )),
        CheckError::InUse | CheckError::Unreadable(_) | CheckError::Mirror { .. } => {
            Failure::Running(anyhow::anyhow!("{path}: {error}"))
        }
    })?;
    let text = format!("journal: {path}\n{}", describe(&report));
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    written.map_err(Failure::of_output)?;
    if report.is_intact() {
        return Ok(());
    }
    print_error(&format!(
        "fanfare: {path}: publications are missing, or may be. A start continues with the others; \
         a client that resumes from before a hole receives a gap"
    ));
    Err(Failure::Reported)
}

/// Returns one line for each fact.
fn describe(report: &Report) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        let _infallible = writeln!(text, "{name}: {value}");
    };
    line("format", &report.format.to_string());
    line("epoch", &report.epoch.to_string());
    for past in &report.past {
        line(
            "earlier epoch",
            &format!("{}, up to {}", past.epoch, past.until.0),
        );
    }
    let first = report
        .first
        .map_or_else(|| String::from("none"), |id| id.to_string());
    line("first id", &first);
    line("last id", &report.last.to_string());
    let Report {
        publications,
        with_key,
        channels,
        ignored,
        ..
    } = report;
    line("publications", &publications.to_string());
    line("with an idempotency key", &with_key.to_string());
    line("channels", &channels.to_string());
    if *ignored > 0 {
        line(
            "ignored",
            &format!("{ignored} publications of channels with invalid names"),
        );
    }
    let (records, disk) = (report.record_bytes, report.disk_bytes);
    line("bytes", &format!("{records} in records, {disk} on disk"));
    for hole in &report.holes {
        line(
            "hole",
            &format!("{} to {} are missing, or may be", hole.first, hole.last),
        );
    }
    let listed = report.holes.len() as u64;
    if report.hole_count > listed {
        line("holes", &format!("{} more", report.hole_count - listed));
    }
    if let Some(bytes) = report.cut_bytes {
        line(
            "damage",
            &format!("the log has a hole; a start cuts off {bytes} bytes"),
        );
    }
    line("start", &start(report));
    text
}

/// Returns what a start would do.
fn start(report: &Report) -> String {
    let (last, epoch) = (report.last, report.epoch);
    match report.is_copy {
        true => format!("begins a new epoch, because this is a copy; ids up to {last} stay valid"),
        false => format!(
            "continues after {}",
            Cursor {
                epoch,
                sequence: report.head
            }
        ),
    }
}
