//! The network as a worker sees it: the trait [`Net`].
//!
//! Everything a worker learns from outside comes through here, time and chance included, so that a
//! whole worker runs under a simulation that lies about all of it. Edge-triggered: a socket is
//! registered once, for both directions. [`super::kernel`] has the one that is real.

use std::io::{self, IoSlice};
use std::net::IpAddr;
use std::time::Duration;

use crate::config::limits::FLUSH_VISITS_PER_CLOCK;
use crate::id::ConnId;
use crate::time::Now;

/// What a worker needs from outside.
pub trait Net {
    /// One accepted connection.
    type Socket;

    /// The time.
    fn now(&self) -> Now;

    /// A random number; for jitter.
    fn draw(&mut self) -> u64;

    /// The calendar's time since 1970.
    fn unix_time(&self) -> Duration;

    /// Waits until something is ready or the time is over, and reports what is ready. `None` waits
    /// without end.
    fn poll(&mut self, timeout: Option<Duration>, ready: &mut Vec<Readiness>) -> Polled;

    /// How many listeners there are.
    fn listener_count(&self) -> u32;

    /// Whether there is a descriptor for another connection.
    fn has_descriptor(&mut self) -> bool {
        true
    }

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
    fn write(&mut self, socket: &Self::Socket, slices: &[IoSlice<'_>]) -> WriteOutcome;

    /// Up to how many writes are worth collecting for [`Net::write_batch`]. Nobody looks at the
    /// clock before all of them are done.
    fn batch_writes_max(&self) -> usize {
        FLUSH_VISITS_PER_CLOCK
    }

    /// Writes to several sockets, no one of them twice, and notes an outcome for each, in order.
    fn write_batch(
        &mut self,
        writes: &[Write<'_, Self::Socket>],
        outcomes: &mut Vec<WriteOutcome>,
    ) {
        outcomes.clear();
        outcomes.extend(writes.iter().map(|one| self.write(one.socket, one.slices)));
    }

    /// Whether the walks over channels may go on now. If not, a poll returns when they may.
    fn may_fan_out(&mut self) -> bool {
        true
    }

    /// The walks have gone on for their slice of the turn; says whether somebody is left to visit.
    fn yield_fanout(&mut self, _is_walking: bool) {}

    /// How much of what was written to a socket, FIN included, the peer's kernel has yet to
    /// acknowledge. When that is nothing, closing the socket loses nothing.
    fn unacknowledged_bytes(&self, _socket: &Self::Socket) -> u32 {
        0
    }

    /// Sends FIN.
    fn shutdown_write(&mut self, socket: &mut Self::Socket);

    /// Says no to a connection that has no slot, as far as the socket takes it, and closes it.
    fn refuse(&mut self, socket: Self::Socket, response: &[u8]);

    /// Accepts no more.
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
    Accepted {
        /// Its near end.
        socket: S,
        /// Where its far end is.
        address: IpAddr,
    },
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

/// One write of a batch.
#[derive(Debug)]
pub struct Write<'a, S> {
    /// Where to.
    pub socket: &'a S,
    /// What; at least one byte.
    pub slices: &'a [IoSlice<'a>],
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
