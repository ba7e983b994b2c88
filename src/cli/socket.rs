//! A TCP socket whose reads and writes fail after a deadline.
//!
//! The socket blocks, like everything in the command line. All reads share one deadline, so that a
//! server cannot extend the deadline by sending a byte now and then. TCP keep-alive detects that
//! the peer has vanished, even if the server sends no heartbeats.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::time::{Duration, Instant};

use socket2::{SockRef, TcpKeepalive};

/// A socket with a deadline.
#[derive(Debug)]
pub(super) struct Socket {
    stream: TcpStream,
    deadline: Option<Instant>,
}

impl Socket {
    /// Connects to the first address of the host that accepts the connection. Returns `NotFound` if
    /// the host is unknown.
    pub(super) fn connect(host: &str, port: u16, deadline: Instant) -> io::Result<Self> {
        let mut failure = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
        for address in (host, port).to_socket_addrs().map_err(unresolved)? {
            match TcpStream::connect_timeout(&address, left(deadline)?) {
                Ok(stream) => return Self::new(stream, deadline),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    fn new(stream: TcpStream, deadline: Instant) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        let keepalive = TcpKeepalive::new()
            .with_time(Duration::from_secs(30))
            .with_interval(Duration::from_secs(10))
            .with_retries(3);
        SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
        Ok(Self {
            stream,
            deadline: Some(deadline),
        })
    }

    /// Replaces the deadline. `None` removes the deadline.
    pub(super) fn set_deadline(&mut self, deadline: Option<Instant>) {
        self.deadline = deadline;
    }

    fn left(&self) -> io::Result<Option<Duration>> {
        self.deadline.map(left).transpose()
    }
}

/// Returns the time until a deadline, or `TimedOut` if the deadline has passed.
fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(io::ErrorKind::TimedOut.into());
    }
    Ok(left)
}

/// The error texts of glibc and musl for a host that does not exist. The standard library has no
/// `ErrorKind` for this error.
const UNKNOWN_HOST: [&str; 3] = [
    "Name or service not known",
    "No address associated with hostname",
    "Name does not resolve",
];

/// Converts the resolver's error for an unknown host to `NotFound`. Returns other errors unchanged,
/// for example if the resolver does not respond.
fn unresolved(error: io::Error) -> io::Error {
    let text = error.to_string();
    match UNKNOWN_HOST.iter().find(|known| text.contains(**known)) {
        Some(known) => io::Error::new(io::ErrorKind::NotFound, *known),
        None => error,
    }
}

/// Converts `WouldBlock` to `TimedOut`. The kernel reports `WouldBlock` if a blocking socket times
/// out.
fn timed_out(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::WouldBlock => io::ErrorKind::TimedOut.into(),
        _ => error,
    }
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(self.left()?)?;
        self.stream.read(buffer).map_err(timed_out)
    }
}

impl Write for Socket {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(self.left()?)?;
        self.stream.write(buffer).map_err(timed_out)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn read_and_write_fail_after_the_deadline() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let deadline = Instant::now() + Duration::from_millis(50);
        let mut socket = Socket::connect("127.0.0.1", port, deadline).unwrap();
        let error = socket.read(&mut [0u8; 8]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        let error = socket.write(&[0u8; 8]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
