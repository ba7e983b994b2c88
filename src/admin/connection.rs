//! One connection of the admin listener: one request, its answer, and a close that loses neither.
//!
//! A state machine over a non-blocking socket. [`Exchange::advance`] does what the socket allows
//! and never waits. Each step has a deadline for the whole of it and not for each read, so a peer
//! that sends a byte now and then gets no more time than a silent one. The loop in the parent is
//! the only caller; it decides when a deadline has passed and which connection makes room.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant, SystemTime};

use super::{Sources, endpoints};
use crate::config::limits::ADMIN_HEAD_BYTES_MAX;
use crate::http::Refusal;
use crate::http::head::{HeadRead, Method, read_head};

/// Bytes taken from the socket at a time: more than the longest head, so that one read decides
/// whether a request has arrived.
const READ_BYTES: usize = 2 * ADMIN_HEAD_BYTES_MAX;

/// How far a connection is.
#[derive(Debug)]
enum Step {
    /// The head is incomplete; what has arrived of it.
    Reading(Vec<u8>),
    /// The answer, and how much of it the socket has taken.
    Writing(Vec<u8>, usize),
    /// The answer is out and the peer has not closed. Closing with bytes unread would reset the
    /// connection and might take the answer along.
    Lingering,
}

/// The order in which connections make room for new ones, the first first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Worth {
    /// Its request has not arrived.
    Silent,
    /// Its answer has left.
    Answered,
    /// Its answer is on the way.
    Waiting,
}

/// One connection.
#[derive(Debug)]
pub(super) struct Exchange {
    stream: TcpStream,
    step: Step,
    /// When the step has to be over.
    deadline: Instant,
    /// Time for each step.
    patience: Duration,
}

impl Exchange {
    /// Takes an accepted connection.
    pub(super) fn new(stream: TcpStream, patience: Duration) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream,
            step: Step::Reading(Vec::new()),
            deadline: Instant::now() + patience,
            patience,
        })
    }

    pub(super) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Whether it waits for room in the socket, and not for bytes.
    pub(super) fn is_writing(&self) -> bool {
        matches!(self.step, Step::Writing(..))
    }

    pub(super) fn worth(&self) -> Worth {
        match self.step {
            Step::Reading(_) => Worth::Silent,
            Step::Lingering => Worth::Answered,
            Step::Writing(..) => Worth::Waiting,
        }
    }

    /// Does what the socket allows: reads once, and answers when the head is complete. False when
    /// the connection is over.
    pub(super) fn advance(&mut self, sources: &Sources) -> bool {
        let advanced = match &mut self.step {
            Step::Reading(_) => self.read(sources),
            Step::Writing(..) => self.write(),
            Step::Lingering => self.take().map(|taken| taken != Some(0)),
        };
        advanced.unwrap_or_else(|error| {
            tracing::debug!(%error, "admin connection ended early");
            false
        })
    }

    /// Ends the step whose deadline has passed. False when the connection is over.
    pub(super) fn expire(&mut self) -> bool {
        matches!(self.step, Step::Reading(_)) && self.refuse(Refusal::HeadTimeout)
    }

    fn read(&mut self, sources: &Sources) -> io::Result<bool> {
        match self.take()? {
            None => return Ok(true),
            Some(0) => return Ok(false),
            Some(_) => {}
        }
        let Step::Reading(held) = &self.step else {
            return Ok(true);
        };
        match read_head(held, ADMIN_HEAD_BYTES_MAX) {
            HeadRead::Incomplete => Ok(true),
            HeadRead::Complete { head, .. } => {
                let bytes = endpoints::answer(&head, sources, &date());
                self.answer(bytes)
            }
            HeadRead::Refused(refusal) => Ok(self.refuse(refusal)),
        }
    }

    fn refuse(&mut self, refusal: Refusal) -> bool {
        let bytes = endpoints::refuse(refusal, Method::Get, &date());
        self.answer(bytes).unwrap_or(false)
    }

    fn answer(&mut self, bytes: Vec<u8>) -> io::Result<bool> {
        self.deadline = Instant::now() + self.patience;
        self.step = Step::Writing(bytes, 0);
        self.write()
    }

    fn write(&mut self) -> io::Result<bool> {
        let Step::Writing(bytes, sent) = &mut self.step else {
            return Ok(true);
        };
        while let Some(left) = bytes.get(*sent..).filter(|left| !left.is_empty()) {
            match later(self.stream.write(left))? {
                None => return Ok(true),
                Some(0) => return Ok(false),
                Some(count) => *sent += count,
            }
        }
        self.stream.shutdown(Shutdown::Write)?;
        self.step = Step::Lingering;
        Ok(true)
    }

    /// Reads once. What belongs to no head is discarded. `None` if nothing is there yet.
    fn take(&mut self) -> io::Result<Option<usize>> {
        let mut chunk = [0; READ_BYTES];
        let count = later(self.stream.read(&mut chunk))?;
        if let (Step::Reading(held), Some(count)) = (&mut self.step, count) {
            held.extend_from_slice(chunk.get(..count).unwrap_or_default());
        }
        Ok(count)
    }
}

/// `None` for what the next poll reports again.
fn later(result: io::Result<usize>) -> io::Result<Option<usize>> {
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
