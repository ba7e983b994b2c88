//! One connection of an operator: one request and its answer.

use std::io::{self, BufRead as _, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::answer::ErrorAnswer;
use super::execute::{self, Operated};
use super::request::Request;
use crate::config::limits::{LINGER_MS, OPERATOR_REQUEST_BYTES_MAX, OPERATOR_STEP_MS};
use crate::sys::peer::PeerProcess;
use crate::warnings::{self, Event, WarningKind};

/// Reads the request, carries it out and sends the answer. Nothing is reported if the operator has
/// closed the connection.
pub(super) fn serve(stream: &UnixStream, operated: &Operated) {
    let requester = match admit(stream, operated) {
        Ok(requester) => requester,
        Err(error) => return refuse(stream, &error),
    };
    match read(stream) {
        Ok(request) => {
            let has_left = || has_closed(stream);
            let answer = execute::execute(&request, (requester, &has_left), operated);
            send(stream, &answer.line);
            drop(answer);
            finish(stream);
        }
        Err(error) => refuse(stream, &error),
    }
}

/// Sends an error, and waits until the operator has read it.
pub(super) fn refuse(stream: &UnixStream, error: &str) {
    send_error(stream, error);
    finish(stream);
}

/// Sends an error. Does not wait on a new connection, whose buffer has room for the error.
pub(super) fn send_error(stream: &UnixStream, error: &str) {
    let error = String::from(error);
    let answer = serde_json::to_string(&ErrorAnswer { error });
    debug_assert!(answer.is_ok(), "an error can be written as JSON");
    send(stream, &answer.unwrap_or_default());
}

/// Checks who has connected. The mode of the socket's file already keeps other users out, but it
/// can be changed, and an open directory descriptor passes it.
fn admit(stream: &UnixStream, operated: &Operated) -> Result<PeerProcess, String> {
    let requester = PeerProcess::of(stream)
        .map_err(|error| format!("the user of the connection is not known: {error}"))?;
    let own = rustix::process::geteuid().as_raw();
    if requester.uid != 0 && requester.uid != own {
        warn_of_refused(requester, operated);
        return Err(format!(
            "user {} may not use this socket: only root and user {own} may",
            requester.uid
        ));
    }
    Ok(requester)
}

fn warn_of_refused(requester: PeerProcess, operated: &Operated) {
    let kind = WarningKind::OperatorRefused;
    if operated.figures.warnings.admit(kind, operated.clock.now()) {
        let uid = requester.uid;
        let cause = format!("user {uid} is neither root nor the server's user");
        let event = Event {
            pid: requester.pid,
            ..Event::new(&cause)
        };
        warnings::log(kind, event);
    }
}

fn read(stream: &UnixStream) -> Result<Request, String> {
    let limited = Timed::new(stream, OPERATOR_STEP_MS).take(OPERATOR_REQUEST_BYTES_MAX);
    let mut line = Vec::new();
    let read = BufReader::new(limited).read_until(b'\n', &mut line);
    read.map_err(|error| format!("the request did not arrive: {error}"))?;
    if line.last() != Some(&b'\n') {
        return Err(match line.len() as u64 >= OPERATOR_REQUEST_BYTES_MAX {
            true => format!("the request is longer than {OPERATOR_REQUEST_BYTES_MAX} bytes"),
            false => String::from("the request ends without a line feed"),
        });
    }
    serde_json::from_slice(&line).map_err(|error| format!("not a request: {error}"))
}

fn send(stream: &UnixStream, answer: &str) {
    let mut timed = Timed::new(stream, OPERATOR_STEP_MS);
    let sent = timed
        .write_all(answer.as_bytes())
        .and_then(|()| timed.write_all(b"\n"));
    if let Err(error) = sent {
        tracing::debug!(%error, "an operator has not received the answer");
    }
}

/// Shuts the sending side down, and reads what the operator still sends, for a limited time. If a
/// socket is closed while it has unread bytes, the kernel reports a reset after the answer.
fn finish(stream: &UnixStream) {
    // An error means that the operator has closed the connection first.
    let _closed = stream.shutdown(Shutdown::Write);
    let mut timed = Timed::new(stream, LINGER_MS);
    let _drained = io::copy(&mut timed, &mut io::sink());
}

/// Whether the operator has closed the connection in both directions.
fn has_closed(stream: &UnixStream) -> bool {
    let mut sockets = [PollFd::from_borrowed_fd(stream.as_fd(), PollFlags::empty())];
    let polled = poll(&mut sockets, Some(&Timespec::default()));
    let [socket] = sockets;
    polled.is_ok() && socket.revents().intersects(PollFlags::HUP | PollFlags::ERR)
}

/// A socket with one deadline for all reads, or all writes.
struct Timed<'a> {
    stream: &'a UnixStream,
    deadline: Instant,
}

impl<'a> Timed<'a> {
    fn new(stream: &'a UnixStream, most_ms: u64) -> Self {
        let deadline = Instant::now() + Duration::from_millis(most_ms);
        Self { stream, deadline }
    }

    fn left(&self) -> io::Result<Duration> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        Ok(left)
    }
}

impl Read for Timed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(Some(self.left()?))?;
        self.stream.read(buffer)
    }
}

impl Write for Timed<'_> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(Some(self.left()?))?;
        self.stream.write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
