//! The trait [`Net`]: sockets, clocks and randomness of a worker.
//!
//! Apart from its inbox, a worker has no other input from outside, so the simulation can run whole
//! workers over a faulty network. Readiness is edge-triggered: a socket is registered once, for
//! both directions. [`super::kernel`] implements the trait over real sockets.

use std::io::{self, IoSlice};
use std::net::IpAddr;
use std::time::Duration;

use crate::config::limits::FLUSH_VISITS_PER_CLOCK;
use crate::id::ConnId;
use crate::time::Now;

/// The network, the clocks and the random numbers of a worker.
pub trait Net {
    /// An accepted connection.
    type Socket;

    /// Returns the monotonic time.
    fn now(&self) -> Now;

    /// Draws a random number for jitter.
    fn draw(&mut self) -> u64;

    /// Returns the calendar time since 1970.
    fn unix_time(&self) -> Duration;

    /// Waits until there is readiness or the timeout has passed, and reports the readiness. `None`
    /// means that there is no timeout.
    fn poll(&mut self, timeout: Option<Duration>, ready: &mut Vec<Readiness>) -> Polled;

    /// Returns the number of listeners.
    fn listener_count(&self) -> u32;

    /// Whether a descriptor for another connection is free.
    fn has_descriptor(&mut self) -> bool {
        true
    }

    /// Accepts one connection from a listener.
    fn accept(&mut self, listener: u32) -> AcceptOutcome<Self::Socket>;

    /// Registers a connection. Its readiness is then reported with this id.
    ///
    /// # Errors
    /// Returns the kernel's error if it cannot register the socket.
    fn register(&mut self, socket: &mut Self::Socket, id: ConnId) -> io::Result<()>;

    /// Reads from a connection.
    fn read(&mut self, socket: &mut Self::Socket, into: &mut [u8]) -> ReadOutcome;

    /// Writes to a connection.
    fn write(&mut self, socket: &Self::Socket, slices: &[IoSlice<'_>]) -> WriteOutcome;

    /// Returns the maximum number of writes in one [`Net::write_batch`]. The clock is not read
    /// before the batch is done.
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

    /// Whether the walks over channels may continue. If not, a later poll returns when they may
    /// continue.
    fn may_fan_out(&mut self) -> bool {
        true
    }

    /// Called after the time slice of the walks. `is_walking` is whether subscribers remain.
    fn yield_fanout(&mut self, _is_walking: bool) {}

    /// Returns the bytes written to a socket, FIN included, that the peer's kernel has not
    /// acknowledged. If there are none, closing the socket loses nothing.
    fn unacknowledged_bytes(&self, _socket: &Self::Socket) -> u32 {
        0
    }

    /// Sends FIN on a connection.
    fn shutdown_write(&mut self, socket: &mut Self::Socket);

    /// Refuses a connection that has no slot: writes as much of the response as the socket takes,
    /// and closes it.
    fn refuse(&mut self, socket: Self::Socket, response: &[u8]);

    /// Closes all listeners.
    fn stop_listening(&mut self);
}

/// Whether a poll has reported everything that was ready when it began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Polled {
    /// Everything that was ready is reported.
    Complete,
    /// The list was full or the wait was interrupted: more may be ready.
    Partial,
}

/// A readiness report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// A connection is readable, writable, or both.
    Conn {
        /// The connection.
        id: ConnId,
        /// Whether reading will not block.
        is_readable: bool,
        /// Whether writing will not block.
        is_writable: bool,
        /// Whether the peer sends no more. If so, the end of the input can be read.
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
        /// The number of bytes.
        count: usize,
        /// Whether nothing is left to read. If so, the next readiness will be reported.
        is_drained: bool,
    },
    /// Reading would block.
    Drained,
    /// The input has ended: the peer sends no more.
    Eof,
    /// The connection is dead.
    Failed,
    /// The call was interrupted and has to be repeated.
    Interrupted,
    /// The connection is dead: the peer accepted no bytes in the time allowed.
    TimedOut,
}

/// One write of a batch.
#[derive(Debug)]
pub struct Write<'a, S> {
    /// The connection.
    pub socket: &'a S,
    /// The slices to write; at least one.
    pub slices: &'a [IoSlice<'a>],
}

/// The outcome of writing to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum WriteOutcome {
    /// The connection is dead.
    Failed,
    /// The connection is dead: the peer accepted no bytes in the time allowed.
    TimedOut,
    /// The socket accepted some bytes, or none.
    Wrote {
        /// The number of bytes.
        count: usize,
        /// Whether writing more would block. If so, the next readiness will be reported.
        is_blocked: bool,
    },
}
