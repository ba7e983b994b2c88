//! One connection of an operator: one request and its answer.

use std::io::{self, BufRead as _, BufReader, Read, Write};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::answer::ErrorAnswer;
use super::execute::{self, Operated};
use super::request::Request;
use crate::config::limits::{OPERATOR_REQUEST_BYTES_MAX, OPERATOR_STEP_MS};
use crate::sys::peer::PeerProcess;

/// Reads the request, carries it out and sends the answer. Nothing is reported if the operator has
/// closed the connection.
pub(super) fn serve(stream: &UnixStream, operated: &Operated) {
    let requester = match admit(stream) {
        Ok(requester) => requester,
        Err(error) => return refuse(stream, &error),
    };
    match read(stream) {
        Ok(request) => {
            let has_left = || has_closed(stream);
            let answer = execute::execute(&request, (requester, &has_left), operated);
            send(stream, &answer);
        }
        Err(error) => refuse(stream, &error),
    }
}

/// Sends an error.
pub(super) fn refuse(stream: &UnixStream, error: &str) {
    let error = String::from(error);
    let answer = serde_json::to_string(&ErrorAnswer { error });
    debug_assert!(answer.is_ok(), "an error can be written as JSON");
    send(stream, &answer.unwrap_or_default());
}

/// Checks who has connected. The mode of the socket's file already keeps other users out, but it
/// can be changed, and an open directory descriptor passes it.
fn admit(stream: &UnixStream) -> Result<PeerProcess, String> {
    let requester = PeerProcess::of(stream)
        .map_err(|error| format!("the user of the connection is not known: {error}"))?;
    let own = rustix::process::geteuid().as_raw();
    if requester.uid != 0 && requester.uid != own {
        tracing::warn!(
            uid = requester.uid,
            pid = requester.pid,
            "a request of an operator was refused: only root and the server's user may send one"
        );
        return Err(format!(
            "user {} may not use this socket: only root and user {own} may",
            requester.uid
        ));
    }
    Ok(requester)
}

fn read(stream: &UnixStream) -> Result<Request, String> {
    let limited = Timed::new(stream).take(OPERATOR_REQUEST_BYTES_MAX);
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
    let mut timed = Timed::new(stream);
    let sent = timed
        .write_all(answer.as_bytes())
        .and_then(|()| timed.write_all(b"\n"));
    if let Err(error) = sent {
        tracing::debug!(%error, "an operator has not received the answer");
    }
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
    fn new(stream: &'a UnixStream) -> Self {
        let deadline = Instant::now() + Duration::from_millis(OPERATOR_STEP_MS);
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
