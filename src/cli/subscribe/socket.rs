//! A TCP socket whose reads and writes fail when a deadline has come.
//!
//! Blocking, like all of the command line. The deadline is one moment for any number of reads, so
//! that a server that sends a byte now and then cannot put it off. The kernel probes a silent conn,
//! so a peer that has vanished is noticed without knowing how often it should speak.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::time::{Duration, Instant};

use socket2::{SockRef, TcpKeepalive};

/// The socket and its deadline.
#[derive(Debug)]
pub(super) struct Socket {
    stream: TcpStream,
    deadline: Option<Instant>,
}

impl Socket {
    /// Connects to the first address of the host that answers. `NotFound` if the host is unknown.
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

    /// Sets another deadline, or none.
    pub(super) fn set_deadline(&mut self, deadline: Option<Instant>) {
        self.deadline = deadline;
    }

    fn left(&self) -> io::Result<Option<Duration>> {
        self.deadline.map(left).transpose()
    }
}

/// The time until a deadline; an error when there is none left.
fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(io::ErrorKind::TimedOut.into());
    }
    Ok(left)
}

/// What the resolver says of a host that does not exist, with glibc and with musl. The standard
/// library has no code for it.
const UNKNOWN_HOST: [&str; 3] = [
    "Name or service not known",
    "No address associated with hostname",
    "Name does not resolve",
];

/// Tells an unknown host from a resolver that does not answer.
fn unresolved(error: io::Error) -> io::Error {
    let text = error.to_string();
    match UNKNOWN_HOST.iter().find(|known| text.contains(**known)) {
        Some(known) => io::Error::new(io::ErrorKind::NotFound, *known),
        None => error,
    }
}

/// The kernel says that a wait was too long as if the socket did not block.
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
    fn read_fails_when_the_deadline_comes() {
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
