//! A client in another process, whose output is read line by line.

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;

use serde_json::Value;

use super::{PATIENCE, within};

/// A process and the lines that it prints.
#[derive(Debug)]
pub(crate) struct Lines {
    child: Child,
    lines: Receiver<String>,
    errors: Receiver<String>,
    seen: Vec<String>,
}

impl Lines {
    /// Starts a command.
    pub(crate) fn run(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}; run tests/run"));
        let lines = read_lines(child.stdout.take().unwrap());
        let errors = read_lines(child.stderr.take().unwrap());
        Self {
            child,
            lines,
            errors,
            seen: Vec::new(),
        }
    }

    /// Starts curl with these arguments. curl prints the response, with its head, as it arrives.
    pub(crate) fn curl<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Self {
        Self::run(
            Command::new("curl")
                .args(["-sS", "-N", "-i", "--max-time", "600"])
                .args(args),
        )
    }

    /// Returns the next line without its line end, or `None` after the last line.
    pub(crate) fn next(&mut self) -> Option<String> {
        match self.lines.recv_timeout(PATIENCE) {
            Ok(line) => {
                self.seen.push(line.clone());
                Some(line)
            }
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => {
                panic!("no line in {PATIENCE:?} after {:#?}", self.seen)
            }
        }
    }

    /// Skips lines up to the first line with this prefix, and returns that line.
    pub(crate) fn until(&mut self, start: &str) -> String {
        loop {
            match self.next() {
                Some(line) if line.starts_with(start) => return line,
                Some(_) => {}
                None => panic!("no line `{start}…` in {:#?}\n{}", self.seen, self.stderr()),
            }
        }
    }

    /// Returns the next line as JSON.
    pub(crate) fn json(&mut self) -> Value {
        let Some(line) = self.next() else {
            panic!("ended after {:#?}\n{}", self.seen, self.stderr())
        };
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line}: {error}"))
    }

    /// Returns the next JSON line that has this key.
    pub(crate) fn json_with(&mut self, key: &str) -> Value {
        loop {
            let value = self.json();
            if value.get(key).is_some() {
                return value;
            }
        }
    }

    /// Returns all remaining lines.
    pub(crate) fn rest(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        while let Some(line) = self.next() {
            lines.push(line);
        }
        lines
    }

    /// Waits for the process to end.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        within("the client's end", || self.child.try_wait().unwrap())
    }

    /// Returns the standard error that has not been returned yet.
    pub(crate) fn stderr(&self) -> String {
        self.errors.try_iter().collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read_lines(source: impl Read + Send + 'static) -> Receiver<String> {
    let (out, lines) = channel();
    thread::spawn(move || {
        for line in BufReader::new(source).lines().map_while(Result::ok) {
            let line = line.trim_end_matches('\r').to_owned();
            if out.send(line).is_err() {
                return;
            }
        }
    });
    lines
}
