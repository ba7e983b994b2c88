//! SHELL: one thread's connections, thousands of them, which only read and check.
//!
//! A thread has a descriptor table of its own, so that the limit on descriptors binds per thread.
//! A connection is some tens of bytes and no heap block; one report of readiness costs one read
//! into the thread's buffer, since reports come on a change and a read that does not fill the
//! buffer has taken everything. What is read is judged in `hear`; coming and going, and slow
//! reading, are in `pace`.

use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;

use super::client_pool::{Board, lock};
use super::inflate_cache::Inflations;
use super::plan::{Plan, Seat};
use super::schedule::{Churn, Nibbling};
use super::stream_parser::Stream;
use super::sys::{self, Outgoing, unshare_descriptors};
use super::tally::{Ear, Role, Tally};

/// The receive buffer of a connection that will not read, so that it is full soon.
const IMPAIRED_BUFFER_BYTES: usize = 4096;
/// Bytes that one read takes at most.
pub(super) const READ_BYTES: usize = 64 * 1024;
const EVENTS: usize = 1024;
/// The longest wait for reports, when nothing else is to be done.
const IDLE_WAIT: Duration = Duration::from_millis(100);
/// The same while the thread has something else to do.
const BUSY_WAIT: Duration = Duration::from_millis(10);

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// The request is not sent yet.
    Connecting,
    /// The request is sent.
    Asking,
    /// Subscribed.
    Subscribed,
    /// Closed, by whichever end.
    Gone,
}

/// One connection.
#[derive(Debug)]
pub(super) struct Conn {
    pub(super) stream: Stream,
    pub(super) ear: Ear,
    pub(super) fd: Option<OwnedFd>,
    pub(super) channel: u16,
    pub(super) role: Role,
    pub(super) phase: Phase,
    pub(super) is_caught_up: bool,
}

// A million of them have to be next to nothing beside what the kernel needs.
const _: () = assert!(size_of::<Conn>() <= 64);

/// One thread's connections.
pub(super) struct Party {
    pub(super) plan: Arc<Plan>,
    pub(super) number: usize,
    pub(super) board: Arc<Board>,
    pub(super) tally: Arc<Mutex<Tally>>,
    pub(super) epoll: OwnedFd,
    pub(super) conns: Vec<Conn>,
    /// Places of connections that have come and gone.
    pub(super) free: Vec<usize>,
    /// Places of stalled and slow connections.
    pub(super) impaired: Vec<usize>,
    pub(super) is_resumed: bool,
    /// Requests without an answer.
    pub(super) asking: usize,
    pub(super) churn: Churn,
    pub(super) nibbling: Nibbling,
    pub(super) buffer: Box<[u8]>,
    pub(super) inflations: Inflations,
    /// A poll on its way into its socket.
    pub(super) request: Vec<u8>,
    pub(super) events: Vec<epoll::Event>,
}

impl Party {
    pub(super) fn new(
        plan: Arc<Plan>,
        number: usize,
        board: Arc<Board>,
        tally: Arc<Mutex<Tally>>,
    ) -> Result<Self> {
        unshare_descriptors().context("no descriptor table of its own")?;
        Ok(Self {
            churn: Churn::new(&plan, number),
            plan,
            number,
            board,
            tally,
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            conns: Vec::new(),
            free: Vec::new(),
            impaired: Vec::new(),
            is_resumed: false,
            asking: 0,
            nibbling: Nibbling::default(),
            buffer: vec![0; READ_BYTES].into(),
            inflations: Inflations::default(),
            request: Vec::new(),
            events: Vec::with_capacity(EVENTS),
        })
    }

    /// Opens the thread's connections and serves them until the crowd is over.
    pub(super) fn live(&mut self) -> Result<()> {
        let seats = self.plan.seats(self.number);
        self.conns.reserve_exact(seats.len());
        let asking_max = self.plan.asking_max();
        for seat in seats {
            self.open(seat)?;
            while self.asking >= asking_max && !self.is_over() {
                self.turn(BUSY_WAIT)?;
            }
            if self.is_over() {
                return Ok(());
            }
        }
        while !self.is_over() {
            let is_busy = !self.churn.is_idle(&self.board) || self.nibbling.is_busy();
            self.turn(if is_busy { BUSY_WAIT } else { IDLE_WAIT })?;
            self.churn()?;
            let published = self.board.published.load(Ordering::Acquire);
            if published > 0 && !self.is_resumed {
                self.resume()?;
            }
        }
        Ok(())
    }

    fn is_over(&self) -> bool {
        self.board.is_over.load(Ordering::Acquire)
    }

    /// Starts to connect, and returns the connection's place.
    pub(super) fn open(&mut self, seat: Seat) -> Result<usize> {
        let place = self.free.pop().unwrap_or(self.conns.len());
        let fd = sys::connect(&Outgoing {
            target: self.plan.target,
            source: self.plan.source(self.number, place),
            receive_buffer_bytes: seat.role.is_impaired().then_some(IMPAIRED_BUFFER_BYTES),
        })
        .with_context(|| format!("cannot connect to {}", self.plan.target))?;
        // On loopback the connection is there already, and needs no report of being writable.
        let is_sent = match send(&fd, &self.plan.request(seat)) {
            Ok(is_sent) => is_sent,
            // Of those that come and go it is counted, by the next read.
            Err(_) if seat.role == Role::Passing => true,
            Err(error) => bail!("cannot connect to {}: {error}", self.plan.target),
        };
        let mut flags = epoll::EventFlags::IN | epoll::EventFlags::RDHUP | epoll::EventFlags::ET;
        flags.set(epoll::EventFlags::OUT, !is_sent);
        let data = epoll::EventData::new_u64(place as u64);
        epoll::add(&self.epoll, &fd, data, flags)?;
        let conn = Conn {
            stream: Stream::new(seat.kind),
            ear: Ear::default(),
            fd: Some(fd),
            channel: seat.channel,
            role: seat.role,
            phase: if is_sent {
                Phase::Asking
            } else {
                Phase::Connecting
            },
            is_caught_up: false,
        };
        match self.conns.get_mut(place) {
            Some(free) => *free = conn,
            None => self.conns.push(conn),
        }
        self.asking += 1;
        if seat.role.is_impaired() {
            self.impaired.push(place);
            self.board.impaired.fetch_add(1, Ordering::Relaxed);
        }
        Ok(place)
    }

    /// How far the connection in a place has come.
    pub(super) fn phase(&self, place: usize) -> Phase {
        self.conns.get(place).map_or(Phase::Gone, |conn| conn.phase)
    }

    /// Closes a connection that comes and goes, and gives its place to others.
    pub(super) fn dismiss(&mut self, place: usize) {
        let Some(conn) = self.conns.get_mut(place) else {
            return;
        };
        match conn.phase {
            Phase::Connecting | Phase::Asking => self.asking = self.asking.saturating_sub(1),
            Phase::Subscribed => lock(&self.tally).passed += 1,
            Phase::Gone => {}
        }
        conn.phase = Phase::Gone;
        conn.fd = None;
        self.free.push(place);
    }

    /// Waits a little for reports and reads from each connection that has something.
    fn turn(&mut self, wait: Duration) -> Result<()> {
        let wait = Timespec {
            tv_sec: 0,
            tv_nsec: i64::from(wait.subsec_nanos()),
        };
        let mut events = std::mem::take(&mut self.events);
        events.clear();
        let spare = rustix::buffer::spare_capacity(&mut events);
        match epoll::wait(&self.epoll, spare, Some(&wait)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let tally = Arc::clone(&self.tally);
        let mut tally = lock(&tally);
        let mut accounted = 0;
        for event in &events {
            let (flags, data) = (event.flags, event.data.u64());
            let place = usize::try_from(data)?;
            let ends = epoll::EventFlags::RDHUP | epoll::EventFlags::HUP | epoll::EventFlags::ERR;
            accounted += self.serve(place, flags.intersects(ends), &mut tally)?;
        }
        let due = self.nibbling.due(&self.impaired, &self.conns);
        for place in due {
            accounted += self.nibble(place, &mut tally)?;
        }
        self.events = events;
        if accounted != 0 {
            self.board.accounted.fetch_add(accounted, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Lets the stalled and slow connections read like the others.
    fn resume(&mut self) -> Result<()> {
        self.is_resumed = true;
        self.nibbling.stop();
        let impaired = std::mem::take(&mut self.impaired);
        for place in &impaired {
            if let Some(fd) = self.conns.get(*place).and_then(|conn| conn.fd.as_ref()) {
                let data = epoll::EventData::new_u64(*place as u64);
                let flags = epoll::EventFlags::IN | epoll::EventFlags::RDHUP;
                epoll::add(&self.epoll, fd, data, flags | epoll::EventFlags::ET)?;
            }
            // A slow one may have everything already.
            self.credit(*place, 0);
        }
        self.impaired = impaired;
        Ok(())
    }
}

impl Conn {
    /// Whether it reads a little at intervals, by now.
    pub(super) fn is_nibbling(&self) -> bool {
        self.role == Role::Slow && self.phase == Phase::Subscribed
    }
}

/// Sends all of it. False when the socket takes nothing yet.
pub(super) fn send(fd: &OwnedFd, bytes: &[u8]) -> Result<bool, Errno> {
    match rustix::net::send(fd, bytes, rustix::net::SendFlags::NOSIGNAL) {
        // A new socket takes a request whole or not at all.
        Ok(count) if count == bytes.len() => Ok(true),
        Ok(_) => Err(Errno::NOBUFS),
        Err(Errno::AGAIN | Errno::INTR) => Ok(false),
        Err(error) => Err(error),
    }
}
