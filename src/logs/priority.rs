//! SHELL: the priority of a log line, for the journal of systemd.
//!
//! The journal takes the priority of a line from a prefix such as `<4>`, which it removes; see
//! sd-daemon(3). With it, `journalctl -p warning` finds the warnings. Other readers of the log
//! would see the prefix, so only lines for the journal have one.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::fd::AsFd;

use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

use crate::line_queue::LineQueue;

/// The prefix of errors.
const ERROR: &str = "<3>";

/// Returns the prefix of a line.
fn prefix(level: Level) -> &'static str {
    match level {
        Level::ERROR => ERROR,
        Level::WARN => "<4>",
        Level::INFO => "<6>",
        _ => "<7>",
    }
}

/// Whether systemd has connected standard error to its journal.
fn is_journal() -> bool {
    let named = std::env::var_os("JOURNAL_STREAM");
    named.is_some_and(|named| is_named(&named, io::stderr()))
}

/// Whether `named`, the value of `JOURNAL_STREAM`, names an open file. A program whose standard
/// error was redirected still inherits the variable.
fn is_named(named: &OsStr, file: impl AsFd) -> bool {
    let found = rustix::fs::fstat(file);
    found.is_ok_and(|found| named == format!("{}:{}", found.st_dev, found.st_ino).as_str())
}

/// Returns the lines of an error message as standard error needs them: with a prefix for the
/// journal.
#[must_use]
pub fn error_lines(text: &str) -> String {
    match is_journal() {
        true => with_prefixes(text),
        false => String::from(text),
    }
}

fn with_prefixes(text: &str) -> String {
    let lines: Vec<String> = text.lines().map(|line| format!("{ERROR}{line}")).collect();
    lines.join("\n")
}

/// Makes a writer for each line of the log.
#[derive(Debug)]
pub(super) struct LineWriters {
    queue: LineQueue,
    has_prefixes: bool,
}

impl LineWriters {
    /// The lines have prefixes if standard error is the journal.
    pub(super) fn new(queue: LineQueue) -> Self {
        let has_prefixes = is_journal();
        Self {
            queue,
            has_prefixes,
        }
    }
}

impl<'a> MakeWriter<'a> for LineWriters {
    type Writer = LineWriter<'a>;

    /// Lines without a level have the priority of the unit, which is `info` by default.
    fn make_writer(&'a self) -> LineWriter<'a> {
        LineWriter {
            queue: &self.queue,
            prefix: "",
        }
    }

    fn make_writer_for(&'a self, metadata: &Metadata<'_>) -> LineWriter<'a> {
        let prefix = match self.has_prefixes {
            true => prefix(*metadata.level()),
            false => "",
        };
        LineWriter {
            queue: &self.queue,
            prefix,
        }
    }
}

/// Queues a line with its prefix.
#[derive(Debug)]
pub(super) struct LineWriter<'a> {
    queue: &'a LineQueue,
    prefix: &'static str,
}

/// Each call queues one line. The calls never fail: a lost line is counted.
impl Write for LineWriter<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match self.prefix {
            "" => self.queue.push(line),
            prefix => self.queue.push(&[prefix.as_bytes(), line].concat()),
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_of_an_error_has_a_prefix() {
        assert_eq!(with_prefixes("a: b\nc"), "<3>a: b\n<3>c");
    }
}
