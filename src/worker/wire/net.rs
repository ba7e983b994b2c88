//! The trait [`Net`]: the sockets, clocks and random numbers of a worker.
//!
//! Apart from its inbox, a worker receives all its input through this trait. So the simulation can
//! run whole workers over a faulty network. Readiness is edge-triggered: a socket is registered
//! once, for both directions. [`super::kernel`] implements the trait over real sockets.

use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::config::limits::FLUSH_VISITS_PER_CLOCK;
use crate::id::ConnId;
use crate::sys::listener::SocketOptions;
use crate::time::Now;

/// The network, the clocks and the random numbers of a worker.
pub trait Net {
    /// An accepted connection.
    type Socket;

    /// Returns the monotonic time.
    fn now(&self) -> Now;

    /// Returns a random number, for example for random delays.
    fn draw(&mut self) -> u64;

    /// Returns the calendar time, as the duration since 1970.
    fn unix_time(&self) -> Duration;

    /// Waits until a socket is ready or the timeout has passed, and adds the readiness reports to
    /// `ready`. A timeout of `None` means no timeout.
    fn poll(&mut self, timeout: Option<Duration>, ready: &mut Vec<Readiness>) -> Polled;

    /// Returns a number that is above the index of each listener.
    fn listener_count(&self) -> u32;

    /// Returns the address of a listener; `None` if it is unknown.
    fn local_address(&self, _listener: u32) -> Option<SocketAddr> {
        None
    }

    /// Binds a listener to an address, and returns the listener's index.
    ///
    /// # Errors
    /// Returns the kernel's error if it cannot bind or register the listener.
    fn open_listener(&mut self, _address: SocketAddr, _options: SocketOptions) -> io::Result<u32> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Closes a listener. Its index becomes free.
    fn close_listener(&mut self, _listener: u32) {}

    /// Whether a descriptor for another connection is free.
    fn has_descriptor(&mut self) -> bool {
        true
    }

    /// Accepts one connection from a listener.
    fn accept(&mut self, listener: u32) -> AcceptOutcome<Self::Socket>;

    /// Registers a connection. From then on, the readiness of the connection is reported with this
    /// id.
    ///
    /// # Errors
    /// Returns the kernel's error if it cannot register the socket.
    fn register(&mut self, socket: &mut Self::Socket, id: ConnId) -> io::Result<()>;

    /// Reads from a connection.
    fn read(&mut self, socket: &mut Self::Socket, into: &mut [u8]) -> ReadOutcome;

    /// Writes to a connection.
    fn write(&mut self, socket: &Self::Socket, slices: &[IoSlice<'_>]) -> WriteOutcome;

    /// Returns the maximum number of writes in one [`Net::write_batch`]. The worker does not check
    /// its time slice within a batch.
    fn batch_writes_max(&self) -> usize {
        FLUSH_VISITS_PER_CLOCK
    }

    /// Writes to several sockets, each at most once. Stores one outcome for each write, in order.
    fn write_batch(
        &mut self,
        writes: &[Write<'_, Self::Socket>],
        outcomes: &mut Vec<WriteOutcome>,
    ) {
        outcomes.clear();
        outcomes.extend(writes.iter().map(|one| self.write(one.socket, one.slices)));
    }

    /// Whether the worker may now visit the subscribers of channels that have new publications. If
    /// not, the worker's poll returns as soon as this is allowed.
    fn may_fan_out(&mut self) -> bool {
        true
    }

    /// Called when the worker stops visiting subscribers in this turn. `is_walking` is true if some
    /// subscribers are still to be visited.
    fn yield_fanout(&mut self, _is_walking: bool) {}

    /// Returns the address of a connection's peer, or `None` if the kernel no longer knows it.
    fn peer_address(&self, _socket: &Self::Socket) -> Option<SocketAddr> {
        None
    }

    /// Returns how many bytes the peer's kernel has not acknowledged, FIN included. If the number
    /// is zero, closing the socket loses nothing.
    fn unacknowledged_bytes(&self, _socket: &Self::Socket) -> u32 {
        0
    }

    /// Sends FIN on a connection.
    fn shutdown_write(&mut self, socket: &mut Self::Socket);

    /// Refuses an accepted connection. Writes as much of the response as the socket accepts, and
    /// closes the connection.
    fn refuse(&mut self, socket: Self::Socket, response: &[u8]);

    /// Sets the options of a new configuration that accepted sockets inherit from their listeners.
    fn set_options(&mut self, _options: SocketOptions) {}

    /// Closes all listeners.
    fn stop_listening(&mut self);
}

/// Whether a poll has reported all sockets that were ready when the poll began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Polled {
    /// All sockets that were ready are reported.
    Complete,
    /// More sockets may be ready, because the list was full or the wait was interrupted.
    Partial,
}

/// A report of the poll that a socket is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// A connection is readable, writable, or both.
    Conn {
        /// The id with which the connection was registered.
        id: ConnId,
        /// Whether a read will not block.
        is_readable: bool,
        /// Whether a write will not block.
        is_writable: bool,
        /// Whether the peer has ended its output. If so, reads return the end of the input after
        /// the remaining bytes.
        is_read_closed: bool,
    },
    /// A listener has connections to accept.
    Listener(u32),
}

/// The outcome of accepting a connection.
#[derive(Debug)]
#[must_use]
pub enum AcceptOutcome<S> {
    /// A connection was accepted.
    Accepted {
        /// The socket.
        socket: S,
        /// The peer's address.
        address: IpAddr,
    },
    /// The listener has no more connections.
    Drained,
    /// No descriptor or no memory is left. The connection stays in the backlog or was refused.
    Exhausted,
    /// The connection failed before it was accepted.
    Failed,
}

/// The outcome of reading from a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum ReadOutcome {
    /// At least one byte was read.
    Bytes {
        /// The number of bytes that were read.
        count: usize,
        /// Whether nothing is left to read. If so, the poll reports when the socket is readable
        /// again.
        is_drained: bool,
    },
    /// No bytes can be read now.
    Drained,
    /// The peer has ended its output, and all input was read.
    Eof,
    /// The connection has failed.
    Failed,
    /// The call was interrupted and has to be repeated.
    Interrupted,
    /// The connection has failed: the peer has not acknowledged bytes in the time allowed.
    TimedOut,
}

/// One write of a batch to one socket.
#[derive(Debug)]
pub struct Write<'a, S> {
    /// The connection.
    pub socket: &'a S,
    /// The slices to write. There is at least one slice.
    pub slices: &'a [IoSlice<'a>],
}

/// The outcome of writing to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum WriteOutcome {
    /// The connection has failed.
    Failed,
    /// The connection has failed: the peer has not acknowledged bytes in the time allowed.
    TimedOut,
    /// The socket accepted some bytes, or none.
    Wrote {
        /// The number of bytes that the socket accepted.
        count: usize,
        /// Whether another write would block. If so, the poll reports when the socket is writable
        /// again.
        is_blocked: bool,
    },
}
