//! `fanfare health`: asks a running server whether it is ready or alive, as a health check of a
//! container. The image of a container may have no other program for this.
//!
//! It sends one request to the admin listener, prints the body of the response, and ends.

use std::io::{self, Read as _, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use fanfare::certain;

use super::Failure;
use super::args::HealthArgs;
use super::socket::Socket;

/// The time for the whole exchange. An answer takes less than a millisecond.
const PATIENCE: Duration = Duration::from_secs(3);
/// The maximum length of a response, in bytes.
const RESPONSE_BYTES_MAX: u64 = 64 * 1024;
/// The maximum number of header fields of a response.
const FIELDS_MAX: usize = 32;

/// Prints the server's answer.
///
/// # Errors
/// Returns an error if the server does not answer in time, or if its answer is not status 200.
pub(super) fn run(args: &HealthArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let path = if args.live { "/healthz" } else { "/readyz" };
    let body = ask(args, path).with_context(|| format!("http://{}{path}", args.admin))?;
    write!(out, "{body}").map_err(Failure::of_output)
}

/// Returns the body of a response with status 200.
fn ask(args: &HealthArgs, path: &str) -> anyhow::Result<String> {
    let (status, body) = parse(&exchange(args.admin, path)?)?;
    if status != 200 {
        bail!("status {status}: {}", body.trim_end().replace('\n', "; "));
    }
    Ok(body)
}

/// Sends a request and returns the whole response.
fn exchange(address: SocketAddr, path: &str) -> io::Result<Vec<u8>> {
    let deadline = Instant::now() + PATIENCE;
    let mut socket = Socket::connect(&address.ip().to_string(), address.port(), deadline)?;
    write!(
        socket,
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = Vec::new();
    socket.take(RESPONSE_BYTES_MAX).read_to_end(&mut answer)?;
    Ok(answer)
}

/// Returns the status and the body of a whole response.
fn parse(answer: &[u8]) -> anyhow::Result<(u16, String)> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut head = httparse::Response::new(&mut fields);
    let parsed = head.parse(answer).context("the response is not HTTP")?;
    let (httparse::Status::Complete(length), Some(status)) = (parsed, head.code) else {
        bail!("the response ends in its head");
    };
    let body = certain::skip(answer, length);
    Ok((status, String::from_utf8_lossy(body).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn response_has_a_status_and_a_body() {
        let answer = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\n\r\ndraining\n";
        let (status, body) = parse(answer).unwrap();
        assert_eq!((status, body.as_str()), (503, "draining\n"));
    }

    #[test]
    fn incomplete_and_foreign_responses_are_errors() {
        for answer in ["", "HTTP/1.1 200 OK\r\nContent-", "+PONG\r\n"] {
            assert!(parse(answer.as_bytes()).is_err(), "{answer}");
        }
    }
}
