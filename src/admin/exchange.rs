//! One request and its answer over a blocking socket, each under a deadline.
//!
//! The deadline is for the whole step and not for each read: a peer that sends a byte now and then
//! gets no more time than one that sends nothing. A peer is late only if its socket had nothing
//! after the deadline: the process may have been stopped meanwhile. One request per conn, then the
//! conn closes.
//! Called by the conn's own thread.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant, SystemTime};

use crate::config::limits::ADMIN_HEAD_BYTES_MAX;
use crate::http::Refusal;
use crate::http::head::{HeadRead, Method, read_head};

use super::{Sources, answer};

/// Bytes taken from the socket at a time.
const READ_BYTES: usize = 2048;
/// The wait after the deadline. No socket takes zero as a timeout.
const LAST_WAIT: Duration = Duration::from_millis(1);

/// Reads one head, answers it, and says goodbye so that the answer arrives.
pub(super) fn run(stream: &TcpStream, sources: &Sources, step: Duration) -> io::Result<()> {
    let Some(bytes) = answer_to_one(stream, sources, Instant::now() + step)? else {
        return Ok(());
    };
    let deadline = Instant::now() + step;
    write_all(stream, &bytes, deadline)?;
    stream.shutdown(Shutdown::Write)?;
    // Closing with bytes unread would reset the conn and might take the answer along.
    let mut unread = [0; READ_BYTES];
    while matches!(read(stream, &mut unread, deadline)?, Took::Bytes(_)) {}
    Ok(())
}

/// Tells a conn for which there is no place to come back, without waiting for anything.
pub(super) fn turn_away(mut stream: &TcpStream) {
    let bytes = answer::busy(&date());
    let told = stream
        .set_nonblocking(true)
        .and_then(|()| stream.write_all(&bytes))
        .and_then(|()| stream.shutdown(Shutdown::Write));
    if let Err(error) = told {
        tracing::debug!(%error, "admin conn turned away without a word");
    }
}

/// The answer, or `None` if the peer went away first.
fn answer_to_one(
    stream: &TcpStream,
    sources: &Sources,
    deadline: Instant,
) -> io::Result<Option<Vec<u8>>> {
    let mut held = Vec::new();
    let mut chunk = [0; READ_BYTES];
    loop {
        match read(stream, &mut chunk, deadline)? {
            Took::Bytes(bytes) => held.extend_from_slice(bytes),
            Took::End => return Ok(None),
            Took::Timeout => {
                let refusal = Refusal::HeadTimeout;
                return Ok(Some(answer::refuse(refusal, Method::Get, &date())));
            }
        }
        match read_head(&held, ADMIN_HEAD_BYTES_MAX) {
            HeadRead::Incomplete => {}
            HeadRead::Complete { head, .. } => {
                return Ok(Some(answer::answer(&head, sources, &date())));
            }
            HeadRead::Refused(refusal) => {
                return Ok(Some(answer::refuse(refusal, Method::Get, &date())));
            }
        }
    }
}

/// What one read took.
enum Took<'b> {
    Bytes(&'b [u8]),
    End,
    Timeout,
}

fn read<'b>(
    mut stream: &TcpStream,
    chunk: &'b mut [u8],
    deadline: Instant,
) -> io::Result<Took<'b>> {
    loop {
        let wait = wait(deadline);
        stream.set_read_timeout(Some(wait))?;
        match stream.read(chunk) {
            Ok(0) => return Ok(Took::End),
            Ok(count) => return Ok(Took::Bytes(chunk.get(..count).unwrap_or_default())),
            Err(error) if !is_retry(&error) => return Err(error),
            Err(_) if wait == LAST_WAIT => return Ok(Took::Timeout),
            Err(_) => {}
        }
    }
}

fn write_all(mut stream: &TcpStream, mut bytes: &[u8], deadline: Instant) -> io::Result<()> {
    while !bytes.is_empty() {
        let wait = wait(deadline);
        stream.set_write_timeout(Some(wait))?;
        match stream.write(bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
            Err(error) if !is_retry(&error) => return Err(error),
            Err(_) if wait == LAST_WAIT => return Err(ErrorKind::TimedOut.into()),
            Err(_) => {}
        }
    }
    Ok(())
}

/// How long a socket may wait: for the time left, and once more for a moment after the deadline.
fn wait(deadline: Instant) -> Duration {
    deadline
        .saturating_duration_since(Instant::now())
        .max(LAST_WAIT)
}

/// Whether to look at the clock and try again: Linux reports a timeout as `WouldBlock`.
fn is_retry(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Interrupted | ErrorKind::TimedOut | ErrorKind::WouldBlock
    )
}

fn date() -> String {
    httpdate::fmt_http_date(SystemTime::now())
}
