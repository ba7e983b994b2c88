//! One connection of the admin listener, with one request and its response.
//!
//! [`AdminConn`] is a state machine over a non-blocking socket. [`AdminConn::advance`] does what
//! the socket allows and never waits. A deadline applies to a whole step, such as receiving the
//! head, and not to each read. So a client that sends single bytes gets no more time than a silent
//! client. The loop in the parent module is the only caller. It decides when a deadline has passed,
//! and which connection is closed to make room for a new one.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant, SystemTime};

use super::{FigureSources, endpoints};
use crate::certain;
use crate::config::limits::ADMIN_HEAD_BYTES_MAX;
use crate::http::Refusal;
use crate::http::head::{HeadRead, Method, read_head};

/// The size of one read from the socket, in bytes. It exceeds the maximum length of a head. So if a
/// complete head has arrived, one read receives all of it.
const READ_BYTES: usize = 2 * ADMIN_HEAD_BYTES_MAX;

#[derive(Debug)]
enum Step {
    /// The head is incomplete. The value contains the bytes that have arrived.
    Reading(Vec<u8>),
    /// The response is being sent. The values are the response and the number of bytes that the
    /// socket has accepted.
    Writing(Vec<u8>, usize),
    /// The response was sent, but the client has not closed the connection yet. If the server
    /// closed it now, unread bytes would reset the connection, and the client might lose the
    /// response.
    Lingering,
}

/// The priority of a connection. If there are too many connections, one of the lowest priority is
/// closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Priority {
    /// The request has not arrived.
    Silent,
    /// The response has been sent.
    Answered,
    /// The response is being sent.
    Waiting,
}

/// One connection of the admin listener.
#[derive(Debug)]
pub(super) struct AdminConn {
    stream: TcpStream,
    step: Step,
    /// The time at which the current step must have ended.
    deadline: Instant,
    /// The maximum duration of each step.
    step_time: Duration,
}

impl AdminConn {
    pub(super) fn new(stream: TcpStream, step_time: Duration) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream,
            step: Step::Reading(Vec::new()),
            deadline: Instant::now() + step_time,
            step_time,
        })
    }

    pub(super) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Whether the connection waits until the socket is writable. Otherwise the connection waits
    /// until the socket is readable.
    pub(super) fn is_writing(&self) -> bool {
        matches!(self.step, Step::Writing(..))
    }

    pub(super) fn priority(&self) -> Priority {
        match self.step {
            Step::Reading(_) => Priority::Silent,
            Step::Lingering => Priority::Answered,
            Step::Writing(..) => Priority::Waiting,
        }
    }

    /// Does what the socket allows now. Reads once while the head is incomplete, and sends the
    /// response when the head is complete. Returns false if the connection has ended.
    pub(super) fn advance(&mut self, figures: &FigureSources) -> bool {
        let advanced = match &mut self.step {
            Step::Reading(_) => self.read(figures),
            Step::Writing(..) => self.write(),
            Step::Lingering => self.take().map(|taken| taken != Some(0)),
        };
        is_open(advanced)
    }

    /// Acts on a deadline that has passed. If the head is incomplete, sends a refusal. Otherwise
    /// the connection ends. Returns false if the connection has ended.
    pub(super) fn expire(&mut self) -> bool {
        matches!(self.step, Step::Reading(_)) && is_open(self.refuse(Refusal::HeadTimeout))
    }

    fn read(&mut self, figures: &FigureSources) -> io::Result<bool> {
        match self.take()? {
            None => return Ok(true),
            Some(0) => return Ok(false),
            Some(_) => {}
        }
        let Step::Reading(received) = &self.step else {
            debug_assert!(false, "the step is to read");
            return Ok(true);
        };
        match read_head(received, ADMIN_HEAD_BYTES_MAX) {
            HeadRead::Incomplete => Ok(true),
            HeadRead::Complete { head, .. } => {
                let bytes = endpoints::answer(&head, figures, &date());
                self.answer(bytes)
            }
            HeadRead::Refused(refusal) => self.refuse(refusal),
        }
    }

    fn refuse(&mut self, refusal: Refusal) -> io::Result<bool> {
        let bytes = endpoints::refuse(refusal, Method::Get, &date());
        self.answer(bytes)
    }

    fn answer(&mut self, bytes: Vec<u8>) -> io::Result<bool> {
        self.deadline = Instant::now() + self.step_time;
        self.step = Step::Writing(bytes, 0);
        self.write()
    }

    fn write(&mut self) -> io::Result<bool> {
        let Step::Writing(bytes, sent) = &mut self.step else {
            debug_assert!(false, "the step is to write");
            return Ok(true);
        };
        while let Some(left) = bytes.get(*sent..).filter(|left| !left.is_empty()) {
            match if_ready(self.stream.write(left))? {
                None => return Ok(true),
                Some(0) => return Ok(false),
                Some(count) => *sent += count,
            }
        }
        self.stream.shutdown(Shutdown::Write)?;
        self.step = Step::Lingering;
        Ok(true)
    }

    /// Reads once. Keeps the bytes only while the head is incomplete. Returns `None` if no bytes
    /// have arrived.
    fn take(&mut self) -> io::Result<Option<usize>> {
        let mut chunk = [0; READ_BYTES];
        let count = if_ready(self.stream.read(&mut chunk))?;
        if let (Step::Reading(received), Some(count)) = (&mut self.step, count) {
            received.extend_from_slice(certain::take(&chunk, count));
        }
        Ok(count)
    }
}

/// Returns whether a connection stays open after a step. An error ends the connection.
fn is_open(advanced: io::Result<bool>) -> bool {
    advanced.unwrap_or_else(|error| {
        tracing::debug!(%error, "admin connection ended early");
        false
    })
}

/// Returns `None` if the socket was not ready. The caller repeats the call after the next poll.
fn if_ready(result: io::Result<usize>) -> io::Result<Option<usize>> {
    match result {
        Ok(count) => Ok(Some(count)),
        Err(error) if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn date() -> String {
    httpdate::fmt_http_date(SystemTime::now())
}
