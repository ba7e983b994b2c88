//! [`MioNet`]: the network over real sockets.
//!
//! This is the only file of the worker that uses mio. The network owns the poll, the listeners, and
//! the `io_uring` ring if the kernel allows one. It translates the results of system calls into
//! outcomes. A batch of writes is submitted to the ring; without a ring, each write is a system
//! call.

use std::io::{self, IoSlice, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use mio::net::{TcpListener, TcpStream};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use rustix::net::{SendAncillaryBuffer, SendFlags};

use super::fanout_limiter::Permit;
use super::net::{AcceptOutcome, Net, Polled, ReadOutcome, Readiness, Write, WriteOutcome};
use crate::certain;
use crate::config::limits::{FLUSH_VISITS_PER_CLOCK, POLL_READINESS_MAX, RING_WRITES_MAX};
use crate::id::ConnId;
use crate::sys::clock::Clock;
use crate::sys::descriptors::Spare;
use crate::sys::listener::{self, SocketOptions};
use crate::sys::ring::{Ring, Send};
use crate::sys::unacknowledged::unacknowledged_bytes;
use crate::sys::wake::Wake;
use crate::time::Now;

/// Has the same layout as an entry of the `slab` crate.
#[expect(dead_code, reason = "only its size is used")]
enum SlabEntry<T> {
    Vacant(usize),
    Occupied(T),
}

// Each conn has one entry in the slab, so the size of an entry matters. In an entry, the socket
// takes four bytes, and the slab itself takes none.
const _: () = assert!(
    size_of::<SlabEntry<crate::worker::Slot<TcpStream>>>()
        <= if cfg!(debug_assertions) { 72 } else { 56 }
);

/// The mio token of the object that wakes the worker.
const WAKE: Token = Token(usize::MAX);

/// The network, implemented with mio.
#[derive(Debug)]
pub struct MioNet {
    poll: Poll,
    events: Events,
    /// The listeners by index; `None` if the listener was closed.
    listeners: Vec<Option<TcpListener>>,
    wake: Arc<Wake>,
    clock: Clock,
    random: fastrand::Rng,
    /// A spare descriptor. When no other descriptor is left, the spare descriptor is closed for a
    /// moment. A waiting connection can then be accepted and closed, so that it does not stay in
    /// the backlog.
    spare: Spare,
    /// The `io_uring` ring that submits batches of writes, if the kernel allows one.
    ring: Option<Ring>,
    /// The results of the writes of the last batch. `None` means that the ring did not do the
    /// write.
    answers: Vec<Option<io::Result<usize>>>,
    /// The handle with which this worker acquires a permit to visit subscribers. `None` if the
    /// number of workers that may do this at the same time is not limited.
    permit: Option<Permit>,
}

impl MioNet {
    /// Creates a network whose poll also returns when `wake` is woken. The listeners are added
    /// later, by the thread that uses the poll.
    ///
    /// # Errors
    /// Returns the kernel's error if no descriptor is left.
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
            permit: None,
        })
    }

    /// Returns the descriptors that must stay open when the worker's thread gets a descriptor table
    /// of its own.
    #[must_use]
    pub fn descriptors(&self) -> Vec<RawFd> {
        let others = self.permit.iter().flat_map(Permit::wakes);
        let wakes = others.chain([&self.wake]).map(|wake| wake.as_raw_fd());
        wakes.chain([self.poll.as_raw_fd()]).collect()
    }

    /// Adds a bound listener, and reserves a spare descriptor. Returns the listener's index.
    ///
    /// # Errors
    /// Returns the kernel's error if it cannot register the listener.
    pub fn listen(&mut self, listener: std::net::TcpListener) -> io::Result<u32> {
        listener.set_nonblocking(true)?;
        let mut listener = TcpListener::from_std(listener);
        let index = self.listeners.iter().position(Option::is_none);
        let index = index.unwrap_or(self.listeners.len());
        self.poll
            .registry()
            .register(&mut listener, listener_token(index), Interest::READABLE)?;
        match self.listeners.get_mut(index) {
            Some(place) => *place = Some(listener),
            None => self.listeners.push(Some(listener)),
        }
        self.spare.reserve();
        Ok(certain::to_u32(index))
    }

    fn listener(&self, index: u32) -> Option<&TcpListener> {
        let listener = self.listeners.get(index as usize)?.as_ref();
        certain::some(listener, "the listener is open")
    }

    fn deregister(&self, mut listener: TcpListener) {
        // Errors are ignored: closing the descriptor removes the listener from the poll in any
        // case.
        drop(self.poll.registry().deregister(&mut listener));
    }

    /// From now on, submits batches of writes to an `io_uring` ring.
    pub fn use_ring(&mut self, ring: Ring) {
        self.ring = Some(ring);
    }

    /// From now on, the worker needs a permit to visit the subscribers of channels.
    pub fn use_fanout_permit(&mut self, permit: Permit) {
        self.permit = Some(permit);
    }

    /// Submits writes to the `io_uring` ring, if there is one. If a write has no result afterwards,
    /// the ring did not do the write.
    fn write_through_ring(&mut self, writes: &[Write<'_, TcpStream>]) {
        self.answers.clear();
        // A single write needs one system call with or without the ring.
        if let (Some(ring), [_, _, ..]) = (&mut self.ring, writes) {
            let sends = writes.iter().map(|one| Send {
                socket: one.socket.as_fd(),
                slices: one.slices,
            });
            let sends: Vec<_> = sends.collect();
            if let Err(error) = ring.send(&sends, &mut self.answers) {
                tracing::warn!(%error, "io_uring failed: writes are made one by one from now on");
                self.ring = None;
            }
        }
    }

    /// Accepts a connection by means of the spare descriptor, and closes it. Otherwise the client
    /// would wait for an answer.
    fn drop_waiting(&mut self, listener: u32) {
        self.spare.release();
        if let Some(listener) = self.listener(listener) {
            drop(listener.accept());
        }
        self.spare.reserve();
    }
}

/// Returns the mio token of a listener. The tokens of listeners are the largest numbers below
/// [`WAKE`], and the ids of conns are smaller than all of them.
fn listener_token(index: usize) -> Token {
    Token(WAKE.0 - 1 - index)
}

/// Converts the result of `send(2)` or `sendmsg(2)`.
fn outcome(slices: &[IoSlice<'_>], answer: io::Result<usize>) -> WriteOutcome {
    match answer {
        // If not all bytes were written, the send buffer is full. The kernel will report when it
        // has room again.
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
        // A clock that is set to a time before 1970 counts as 1970.
        since.unwrap_or_default()
    }

    fn poll(&mut self, timeout: Option<Duration>, ready: &mut Vec<Readiness>) -> Polled {
        // SIGSTOP or a debugger can interrupt the wait. The poll then reports no sockets.
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
                ready.push(Readiness::Listener(certain::to_u32(index)));
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
        certain::to_u32(self.listeners.len())
    }

    fn accept(&mut self, listener: u32) -> AcceptOutcome<TcpStream> {
        let Some(socket) = self.listener(listener) else {
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
                self.drop_waiting(listener);
                AcceptOutcome::Exhausted
            }
            _ if error.kind() == io::ErrorKind::WouldBlock => AcceptOutcome::Drained,
            _ => AcceptOutcome::Failed,
        }
    }

    fn register(&mut self, socket: &mut TcpStream, id: ConnId) -> io::Result<()> {
        let token = Token(certain::to_usize(id.to_bits()));
        self.poll
            .registry()
            .register(socket, token, Interest::READABLE | Interest::WRITABLE)
    }

    fn read(&mut self, socket: &mut TcpStream, into: &mut [u8]) -> ReadOutcome {
        match socket.read(into) {
            Ok(0) => ReadOutcome::Eof,
            // If a stream socket returns fewer bytes than requested, the receive buffer is empty
            // (epoll(7)).
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
        // send(2) and sendmsg(2) are used, because writev(2) takes a lock for the file position.
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

    fn peer_address(&self, socket: &TcpStream) -> Option<SocketAddr> {
        socket.peer_addr().ok()
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
        let permit = self.permit.as_mut();
        permit.is_none_or(|permit| permit.acquire(now))
    }

    fn yield_fanout(&mut self, is_walking: bool) {
        let Some(permit) = &mut self.permit else {
            return;
        };
        if is_walking {
            permit.yield_now(self.clock.now());
        } else {
            permit.release();
        }
    }

    fn unacknowledged_bytes(&self, socket: &TcpStream) -> u32 {
        unacknowledged_bytes(socket.as_fd())
    }

    fn shutdown_write(&mut self, socket: &mut TcpStream) {
        // Errors are ignored: if the connection is dead, the next read reports that.
        drop(socket.shutdown(Shutdown::Write));
    }

    fn refuse(&mut self, mut socket: TcpStream, response: &[u8]) {
        // The send buffer of a new socket is empty, so a short response fits. Bytes that do not fit
        // are not sent.
        drop(socket.write(response));
        drop(socket.shutdown(Shutdown::Write));
    }

    fn local_address(&self, listener: u32) -> Option<SocketAddr> {
        self.listener(listener)?.local_addr().ok()
    }

    fn open_listener(&mut self, address: SocketAddr, options: SocketOptions) -> io::Result<u32> {
        self.listen(listener::bind(address, options)?)
    }

    fn close_listener(&mut self, listener: u32) {
        let place = self.listeners.get_mut(listener as usize);
        let open = certain::some(place.and_then(Option::take), "the listener is open");
        if let Some(listener) = open {
            self.deregister(listener);
        }
    }

    fn set_options(&mut self, options: SocketOptions) {
        for listener in self.listeners.iter().flatten() {
            if let Err(error) = listener::set_user_timeout(listener, options) {
                tracing::warn!(%error, "cannot change TCP_USER_TIMEOUT of a listener");
            }
        }
    }

    fn stop_listening(&mut self) {
        for listener in std::mem::take(&mut self.listeners).into_iter().flatten() {
            self.deregister(listener);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;
    use crate::config::Config;

    #[test]
    fn options_of_a_reload_are_those_of_sockets_that_are_accepted_later() {
        let mut config = Config::default();
        let address = "127.0.0.1:0".parse().unwrap();
        let listener = listener::bind(address, SocketOptions::new(&config)).unwrap();
        let address = listener.local_addr().unwrap();
        let mut net = net();
        net.listen(listener).unwrap();
        config.heartbeat.interval_ms = 7_000;
        net.set_options(SocketOptions::new(&config));
        let _client = std::net::TcpStream::connect(address).unwrap();
        let AcceptOutcome::Accepted { socket, .. } = net.accept(0) else {
            panic!("no connection");
        };
        let timeout = socket2::SockRef::from(&socket).tcp_user_timeout().unwrap();
        assert_eq!(timeout, Some(Duration::from_secs(14)));
    }

    fn net() -> MioNet {
        MioNet::new(Arc::new(Wake::new().unwrap()), Clock::start()).unwrap()
    }

    /// Creates a connection. Returns the worker's socket and the peer's socket.
    fn connection() -> (TcpStream, std::net::TcpStream) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let near = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        near.set_nonblocking(true).unwrap();
        (TcpStream::from_std(near), listener.accept().unwrap().0)
    }

    /// Makes three writes in one batch and checks the results. The first write has one slice. The
    /// second has one slice for a socket that has already sent FIN. The third has two slices.
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
    fn batch_has_the_same_outcomes_with_and_without_a_ring() {
        let mut net = net();
        write_three(&mut net);
        if let Ok(ring) = Ring::new(8) {
            net.use_ring(ring);
            write_three(&mut net);
            assert!(net.ring.is_some());
        }
    }

    #[test]
    fn batch_is_written_without_the_ring_when_the_ring_fails() {
        let mut net = net();
        // A ring works only on the thread that created it.
        let made = std::thread::spawn(|| Ring::new(8)).join().unwrap();
        if let Ok(ring) = made {
            net.use_ring(ring);
            write_three(&mut net);
            assert!(net.ring.is_none());
            write_three(&mut net);
        }
    }
}
