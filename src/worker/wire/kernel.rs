//! [`MioNet`]: the network that is the kernel's.
//!
//! The only file of the worker that names mio. Owns the poll, the listeners, and the ring if there
//! is one; knows what an answer of the kernel means to a worker. A batch of writes goes through the
//! ring where the kernel lets us have one, and otherwise one by one.

use std::io::{self, IoSlice, Read as _, Write as _};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use mio::net::{TcpListener, TcpStream};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use rustix::net::{SendAncillaryBuffer, SendFlags};

use super::fanout_limiter::Permit;
use super::net::{AcceptOutcome, Net, Polled, ReadOutcome, Readiness, Write, WriteOutcome};
use crate::config::limits::{FLUSH_VISITS_PER_CLOCK, POLL_READINESS_MAX, RING_WRITES_MAX};
use crate::id::ConnId;
use crate::sys::clock::Clock;
use crate::sys::descriptors::Spare;
use crate::sys::ring::{Ring, Send};
use crate::sys::unacknowledged::unacknowledged_bytes;
use crate::sys::wake::Wake;
use crate::time::Now;

/// What the slab keeps for each slot, in the shape that `slab` gives it.
#[expect(dead_code, reason = "only its size is of interest")]
enum SlabEntry<T> {
    Vacant(usize),
    Occupied(T),
}

// What the kernel's socket costs beside the machine is four bytes, and the slab adds none.
const _: () = assert!(
    size_of::<SlabEntry<crate::worker::Slot<TcpStream>>>()
        <= if cfg!(debug_assertions) { 72 } else { 56 }
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
    spare: Spare,
    /// Takes batches of writes, where the kernel lets us have it.
    ring: Option<Ring>,
    /// What the ring has answered; kept for its room.
    answers: Vec<Option<io::Result<usize>>>,
    /// Needed for walking where there are more workers than processors.
    place: Option<Permit>,
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
            spare: Spare::default(),
            ring: None,
            answers: Vec::new(),
            place: None,
        })
    }

    /// The descriptors without which this worker cannot live.
    #[must_use]
    pub fn descriptors(&self) -> Vec<RawFd> {
        let others = self.place.iter().flat_map(Permit::wakes);
        let wakes = others.chain([&self.wake]).map(|wake| wake.as_raw_fd());
        wakes.chain([self.poll.as_raw_fd()]).collect()
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
        self.spare.reserve();
        Ok(())
    }

    /// Has batches of writes done through a ring. Without one they are done one by one.
    pub fn use_ring(&mut self, ring: Ring) {
        self.ring = Some(ring);
    }

    /// Has the worker walk only while it has a place.
    pub fn use_fanout_permit(&mut self, place: Permit) {
        self.place = Some(place);
    }

    /// Writes what the ring can be given; the answers tell what it was.
    fn write_through_ring(&mut self, writes: &[Write<'_, TcpStream>]) {
        self.answers.clear();
        // For one write there is nothing to save.
        if let (Some(ring), [_, _, ..]) = (&mut self.ring, writes) {
            let sends = writes.iter().map(|one| Send {
                socket: one.socket.as_fd(),
                slices: one.slices,
            });
            let sends: Vec<_> = sends.collect();
            if let Err(error) = ring.send(&sends, &mut self.answers) {
                tracing::warn!(%error, "io_uring has failed: sends are made one by one");
                self.ring = None;
            }
        }
    }

    /// Takes a connection with the spare descriptor and drops it, so that its client learns at
    /// once.
    fn turn_away(&mut self, listener: u32) {
        self.spare.release();
        if let Some(listener) = self.listeners.get(listener as usize) {
            drop(listener.accept());
        }
        self.spare.reserve();
    }
}

/// Listeners count down from below [`WAKE`]; conns never have names so large, see
/// [`crate::worker::Worker`].
fn listener_token(index: usize) -> Token {
    Token(WAKE.0 - 1 - index)
}

/// What the answer of `send(2)` or `sendmsg(2)` means.
fn outcome(slices: &[IoSlice<'_>], answer: io::Result<usize>) -> WriteOutcome {
    match answer {
        // A short write means that the buffer is full, and room in it will be reported.
        Ok(count) => WriteOutcome::Wrote {
            count,
            is_blocked: count < slices.iter().map(|slice| slice.len()).sum(),
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

impl Net for MioNet {
    type Socket = TcpStream;

    fn now(&self) -> Now {
        self.clock.now()
    }

    fn draw(&mut self) -> u64 {
        self.random.u64(..)
    }

    fn unix_time(&self) -> Duration {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        since.unwrap_or_default()
    }

    fn poll(&mut self, timeout: Option<Duration>, ready: &mut Vec<Readiness>) -> Polled {
        // An interrupted wait reports nothing, whatever is ready: SIGSTOP and a debugger do that.
        if self.poll.poll(&mut self.events, timeout).is_err() {
            return Polled::Partial;
        }
        let mut count = 0;
        for event in &self.events {
            count += 1;
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
        match count < POLL_READINESS_MAX {
            true => Polled::Complete,
            false => Polled::Partial,
        }
    }

    fn has_descriptor(&mut self) -> bool {
        self.spare.has_another()
    }

    fn listener_count(&self) -> u32 {
        u32::try_from(self.listeners.len()).unwrap_or(0)
    }

    fn accept(&mut self, listener: u32) -> AcceptOutcome<TcpStream> {
        let Some(socket) = self.listeners.get(listener as usize) else {
            return AcceptOutcome::Drained;
        };
        let error = match socket.accept() {
            Ok((socket, peer)) => {
                let address = peer.ip();
                return AcceptOutcome::Accepted { socket, address };
            }
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

    fn write(&mut self, mut socket: &TcpStream, slices: &[IoSlice<'_>]) -> WriteOutcome {
        // By send(2) and sendmsg(2): writev(2) does the same, but as for a file, with a lock on the
        // position that a socket does not have.
        let answer = match slices {
            [slice] => socket.write(slice),
            _ => rustix::net::sendmsg(
                socket,
                slices,
                &mut SendAncillaryBuffer::default(),
                SendFlags::NOSIGNAL,
            )
            .map_err(io::Error::from),
        };
        outcome(slices, answer)
    }

    fn batch_writes_max(&self) -> usize {
        match self.ring {
            Some(_) => RING_WRITES_MAX.into(),
            None => FLUSH_VISITS_PER_CLOCK,
        }
    }

    fn write_batch(&mut self, writes: &[Write<'_, TcpStream>], outcomes: &mut Vec<WriteOutcome>) {
        self.write_through_ring(writes);
        outcomes.clear();
        for (number, one) in writes.iter().enumerate() {
            let answer = self.answers.get_mut(number).and_then(Option::take);
            outcomes.push(match answer {
                Some(answer) => outcome(one.slices, answer),
                None => self.write(one.socket, one.slices),
            });
        }
    }

    fn may_fan_out(&mut self) -> bool {
        let now = self.clock.now();
        self.place.as_mut().is_none_or(|place| place.take(now))
    }

    fn yield_fanout(&mut self, is_walking: bool) {
        let Some(place) = &mut self.place else { return };
        if is_walking {
            place.rest(self.clock.now());
        } else {
            place.leave();
        }
    }

    fn unacknowledged_bytes(&self, socket: &TcpStream) -> u32 {
        unacknowledged_bytes(socket.as_fd())
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

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    fn net() -> MioNet {
        MioNet::new(Arc::new(Wake::new().unwrap()), Clock::start()).unwrap()
    }

    /// A connection whose near end is the worker's, and the far end.
    fn connection() -> (TcpStream, std::net::TcpStream) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let near = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        near.set_nonblocking(true).unwrap();
        (TcpStream::from_std(near), listener.accept().unwrap().0)
    }

    /// Writes one text of one piece and one of two, and a third to a socket that is shut.
    fn write_three(net: &mut MioNet) {
        let (one, mut one_reader) = connection();
        let (two, mut two_reader) = connection();
        let (shut, _shut_reader) = connection();
        shut.shutdown(Shutdown::Write).unwrap();
        let (x, y) = (IoSlice::new(b"x"), IoSlice::new(b"yy"));
        let writes = [(&one, &[x][..]), (&shut, &[x][..]), (&two, &[x, y][..])];
        let writes = writes.map(|(socket, slices)| Write { socket, slices });
        let mut outcomes = vec![WriteOutcome::Failed];
        net.write_batch(&writes, &mut outcomes);
        let wrote = |count| WriteOutcome::Wrote {
            count,
            is_blocked: false,
        };
        assert_eq!(outcomes, [wrote(1), WriteOutcome::Failed, wrote(3)]);
        drop((one, two));
        let mut got = Vec::new();
        one_reader.read_to_end(&mut got).unwrap();
        assert_eq!(got, b"x");
        two_reader.read_to_end(&mut got).unwrap();
        assert_eq!(got, b"xxyy");
    }

    #[test]
    fn batch_brings_the_same_with_and_without_a_ring() {
        let mut net = net();
        write_three(&mut net);
        if let Ok(ring) = Ring::new(8) {
            net.use_ring(ring);
            write_three(&mut net);
            assert!(net.ring.is_some());
        }
    }

    #[test]
    fn ring_that_fails_is_given_up_and_the_batch_is_written_all_the_same() {
        let mut net = net();
        // A ring serves the thread that made it and refuses all others.
        let made = std::thread::spawn(|| Ring::new(8)).join().unwrap();
        if let Ok(ring) = made {
            net.use_ring(ring);
            write_three(&mut net);
            assert!(net.ring.is_none());
            write_three(&mut net);
        }
    }
}
