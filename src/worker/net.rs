//! The network as a worker sees it: the trait [`Net`], and [`MioNet`], which is the kernel's.
//!
//! Everything a worker learns from outside comes through here, time and chance included, so that a
//! whole worker runs under a simulation that lies about all of it. This is the only file of the
//! worker that names mio. Edge-triggered: a socket is registered once, for both directions.

use std::io::{self, IoSlice, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use mio::net::{TcpListener, TcpStream};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use rustix::net::{SendAncillaryBuffer, SendFlags};

use crate::config::limits::POLL_READINESS_MAX;
use crate::id::ConnId;
use crate::sys::clock::Clock;
use crate::sys::wake::Wake;
use crate::time::Now;

/// What a worker needs from outside.
pub trait Net {
    /// One accepted connection.
    type Socket;

    /// The time.
    fn now(&self) -> Now;

    /// A random number; for jitter.
    fn draw(&mut self) -> u64;

    /// The calendar's time, in seconds since 1970.
    fn unix_seconds(&self) -> u64;

    /// Waits until something is ready or the time is over, and reports what is ready. `None` waits
    /// without end.
    fn poll(&mut self, timeout: Option<Duration>, ready: &mut Vec<Readiness>);

    /// How many listeners there are.
    fn listener_count(&self) -> u32;

    /// Takes one connection from a listener.
    fn accept(&mut self, listener: u32) -> AcceptOutcome<Self::Socket>;

    /// Has a connection's readiness reported under this name.
    ///
    /// # Errors
    /// When the kernel has no room for it.
    fn register(&mut self, socket: &mut Self::Socket, id: ConnId) -> io::Result<()>;

    /// Reads.
    fn read(&mut self, socket: &mut Self::Socket, into: &mut [u8]) -> ReadOutcome;

    /// Writes.
    fn write(&mut self, socket: &mut Self::Socket, slices: &[IoSlice<'_>]) -> WriteOutcome;

    /// Sends FIN.
    fn shutdown_write(&mut self, socket: &mut Self::Socket);

    /// Says no to a connection that has no slot, as far as the socket takes it, and closes it.
    fn refuse(&mut self, socket: Self::Socket, response: &[u8]);

    /// Accepts no more.
    fn stop_listening(&mut self);
}

/// What the kernel reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// A connection may be read, written, or both.
    Conn {
        /// Which.
        id: ConnId,
        /// Reading will not block.
        is_readable: bool,
        /// Writing will not block.
        is_writable: bool,
        /// The peer sends no more, so the end of the input is to be read.
        is_read_closed: bool,
    },
    /// A listener has connections.
    Listener(u32),
}

/// What came of accepting.
#[derive(Debug)]
#[must_use]
pub enum AcceptOutcome<S> {
    /// A connection.
    Accepted(S),
    /// Nobody is left.
    Drained,
    /// No descriptor or no memory is left; the connection stays in the backlog or was turned away.
    Exhausted,
    /// The connection had failed before it was taken.
    Failed,
}

/// What came of reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum ReadOutcome {
    /// So many bytes, at least one.
    Bytes {
        /// How many.
        count: usize,
        /// Nothing is left: the next readiness will be reported.
        is_drained: bool,
    },
    /// Nothing to read for now.
    Drained,
    /// The peer sends no more.
    Eof,
    /// The connection is dead.
    Failed,
    /// Nothing happened; to be tried again.
    Interrupted,
    /// The connection is dead because the peer took nothing for as long as it may.
    TimedOut,
}

/// What came of writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum WriteOutcome {
    /// The connection is dead.
    Failed,
    /// The connection is dead because the peer took nothing for as long as it may.
    TimedOut,
    /// So many bytes were taken.
    Wrote {
        /// How many; may be none.
        count: usize,
        /// No more is taken for now: the next readiness will be reported.
        is_blocked: bool,
    },
}

/// What the slab keeps for each slot, in the shape that `slab` gives it.
#[expect(dead_code, reason = "only its size is of interest")]
enum SlabEntry<T> {
    Vacant(usize),
    Occupied(T),
}

// What the kernel's socket costs beside the machine is four bytes, and the slab adds none.
const _: () = assert!(
    size_of::<SlabEntry<super::Slot<TcpStream>>>() <= if cfg!(debug_assertions) { 88 } else { 72 }
);

/// The token of the worker's own wake.
const WAKE: Token = Token(usize::MAX);

/// The kernel, through mio.
#[derive(Debug)]
pub struct MioNet {
    poll: Poll,
    events: Events,
    listeners: Vec<TcpListener>,
    wake: Arc<Wake>,
    clock: Clock,
    random: fastrand::Rng,
    /// Given up for a moment when no other descriptor is left, so that a connection can be taken
    /// and turned away instead of staying in the backlog for ever.
    spare: Option<std::fs::File>,
}

impl MioNet {
    /// A poll that also returns when `wake` is woken. Listeners are added by the thread that uses
    /// it.
    ///
    /// # Errors
    /// When no descriptor is left.
    pub fn new(wake: Arc<Wake>, clock: Clock) -> io::Result<Self> {
        let poll = Poll::new()?;
        poll.registry()
            .register(&mut SourceFd(&wake.as_raw_fd()), WAKE, Interest::READABLE)?;
        Ok(Self {
            poll,
            events: Events::with_capacity(POLL_READINESS_MAX as usize),
            listeners: Vec::new(),
            wake,
            clock,
            random: fastrand::Rng::new(),
            spare: None,
        })
    }

    /// The descriptors without which this worker cannot live.
    #[must_use]
    pub fn descriptors(&self) -> [i32; 2] {
        [self.poll.as_raw_fd(), self.wake.as_raw_fd()]
    }

    /// Takes a bound listener in, and keeps a descriptor in reserve.
    ///
    /// # Errors
    /// When the listener cannot be registered or no descriptor is left.
    pub fn listen(&mut self, listener: std::net::TcpListener) -> io::Result<()> {
        listener.set_nonblocking(true)?;
        let mut listener = TcpListener::from_std(listener);
        let token = listener_token(self.listeners.len());
        self.poll
            .registry()
            .register(&mut listener, token, Interest::READABLE)?;
        self.listeners.push(listener);
        self.reserve();
        Ok(())
    }

    fn reserve(&mut self) {
        if self.spare.is_none() {
            self.spare = std::fs::File::open("/dev/null").ok();
        }
    }

    /// Takes a connection with the spare descriptor and drops it, so that its client learns at
    /// once.
    fn turn_away(&mut self, listener: u32) {
        self.spare = None;
        if let Some(listener) = self.listeners.get(listener as usize) {
            drop(listener.accept());
        }
        self.reserve();
    }
}

/// Listeners count down from below [`WAKE`]; conns never have names so large, see
/// [`super::Worker`].
fn listener_token(index: usize) -> Token {
    Token(WAKE.0 - 1 - index)
}

impl Net for MioNet {
    type Socket = TcpStream;

    fn now(&self) -> Now {
        self.clock.now()
    }

    fn draw(&mut self) -> u64 {
        self.random.u64(..)
    }

    fn unix_seconds(&self) -> u64 {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        since.map_or(0, |since| since.as_secs())
    }

    fn poll(&mut self, timeout: Option<Duration>, ready: &mut Vec<Readiness>) {
        // An interrupted wait is a wait that was short.
        if self.poll.poll(&mut self.events, timeout).is_err() {
            return;
        }
        for event in &self.events {
            let token = event.token();
            if token == WAKE {
                self.wake.acknowledge();
            } else if WAKE.0 - token.0 <= self.listeners.len() {
                let index = WAKE.0 - 1 - token.0;
                ready.push(Readiness::Listener(u32::try_from(index).unwrap_or(0)));
            } else {
                ready.push(Readiness::Conn {
                    id: ConnId::from_bits(token.0 as u64),
                    is_readable: event.is_readable() || event.is_error(),
                    is_writable: event.is_writable() || event.is_error(),
                    is_read_closed: event.is_read_closed() || event.is_error(),
                });
            }
        }
    }

    fn listener_count(&self) -> u32 {
        u32::try_from(self.listeners.len()).unwrap_or(0)
    }

    fn accept(&mut self, listener: u32) -> AcceptOutcome<TcpStream> {
        let Some(socket) = self.listeners.get(listener as usize) else {
            return AcceptOutcome::Drained;
        };
        let error = match socket.accept() {
            Ok((stream, _peer)) => return AcceptOutcome::Accepted(stream),
            Err(error) => error,
        };
        match error.raw_os_error() {
            Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => {
                self.turn_away(listener);
                AcceptOutcome::Exhausted
            }
            _ if error.kind() == io::ErrorKind::WouldBlock => AcceptOutcome::Drained,
            _ => AcceptOutcome::Failed,
        }
    }

    fn register(&mut self, socket: &mut TcpStream, id: ConnId) -> io::Result<()> {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "usize has 64 bits where this runs"
        )]
        let token = Token(id.to_bits() as usize);
        self.poll
            .registry()
            .register(socket, token, Interest::READABLE | Interest::WRITABLE)
    }

    fn read(&mut self, socket: &mut TcpStream, into: &mut [u8]) -> ReadOutcome {
        match socket.read(into) {
            Ok(0) => ReadOutcome::Eof,
            // For a stream socket a short read means that the buffer is empty (epoll(7)).
            Ok(count) => ReadOutcome::Bytes {
                count,
                is_drained: count < into.len(),
            },
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => ReadOutcome::Drained,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => ReadOutcome::Interrupted,
            Err(error) if error.kind() == io::ErrorKind::TimedOut => ReadOutcome::TimedOut,
            Err(_) => ReadOutcome::Failed,
        }
    }

    fn write(&mut self, socket: &mut TcpStream, slices: &[IoSlice<'_>]) -> WriteOutcome {
        let total: usize = slices.iter().map(|slice| slice.len()).sum();
        // By send(2) and sendmsg(2): writev(2) does the same, but as for a file, with a lock on the
        // position that a socket does not have.
        let written = match slices {
            [slice] => socket.write(slice),
            _ => rustix::net::sendmsg(
                &*socket,
                slices,
                &mut SendAncillaryBuffer::default(),
                SendFlags::NOSIGNAL,
            )
            .map_err(io::Error::from),
        };
        match written {
            // A short write means that the buffer is full, and room in it will be reported.
            Ok(count) => WriteOutcome::Wrote {
                count,
                is_blocked: count < total,
            },
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => WriteOutcome::Wrote {
                count: 0,
                is_blocked: true,
            },
            Err(error) if error.kind() == io::ErrorKind::Interrupted => WriteOutcome::Wrote {
                count: 0,
                is_blocked: false,
            },
            Err(error) if error.kind() == io::ErrorKind::TimedOut => WriteOutcome::TimedOut,
            Err(_) => WriteOutcome::Failed,
        }
    }

    fn shutdown_write(&mut self, socket: &mut TcpStream) {
        // A connection that is dead already is reported by the next read.
        drop(socket.shutdown(Shutdown::Write));
    }

    fn refuse(&mut self, mut socket: TcpStream, response: &[u8]) {
        // A fresh socket's buffer is empty, so a short response fits; nobody waits for what does
        // not.
        drop(socket.write(response));
        drop(socket.shutdown(Shutdown::Write));
    }

    fn stop_listening(&mut self) {
        for mut listener in self.listeners.drain(..) {
            // The descriptor is closed with the listener, and that takes it out of the poll too.
            drop(self.poll.registry().deregister(&mut listener));
        }
    }
}
