//! SHELL: this module runs one client thread, which can have thousands of connections.
//!
//! Each thread has its own descriptor table, so that the limit on descriptors applies per thread.
//! The state of a connection occupies some tens of bytes and no heap block. All connections of a
//! thread share one read buffer. Epoll reports are edge-triggered. A read that does not fill the
//! buffer has emptied the socket, so usually one read per report is sufficient. `client_io`
//! processes the bytes. `schedule` implements churn and slow reading.

use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;

use super::client_pool::{SharedCounters, lock};
use super::inflate_cache::InflateCache;
use super::plan::{ClientSpec, Plan};
use super::schedule::{Churn, SlowReaders};
use super::stream_parser::StreamParser;
use super::sys::{self, Outgoing, unshare_descriptors};
use super::tally::{Role, SequenceChecker, Tally};

/// The size of the receive buffer of a stalled or slow connection. It is small, so that the buffer
/// is soon full.
const IMPAIRED_BUFFER_BYTES: usize = 4096;
/// The maximum number of bytes in one read.
pub(super) const READ_BYTES: usize = 64 * 1024;
const EVENTS: usize = 1024;
/// The longest wait for epoll reports in a thread without scheduled work.
const IDLE_WAIT: Duration = Duration::from_millis(100);
/// The longest wait for epoll reports in a thread that also opens connections or reads slowly.
const BUSY_WAIT: Duration = Duration::from_millis(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// The request is not sent yet.
    Connecting,
    /// The request is sent, but the subscription is not confirmed.
    Requesting,
    /// The server has confirmed the subscription.
    Subscribed,
    /// One of the two ends has closed the connection.
    Closed,
}

/// The state of one connection.
#[derive(Debug)]
pub(super) struct Conn {
    pub(super) parser: StreamParser,
    pub(super) checker: SequenceChecker,
    pub(super) fd: Option<OwnedFd>,
    pub(super) channel: u16,
    pub(super) role: Role,
    pub(super) phase: Phase,
    pub(super) is_caught_up: bool,
}

// The state of a million connections must be small compared with the kernel's memory for their
// sockets.
const _: () = assert!(size_of::<Conn>() <= 64);

/// The state of a client thread.
pub(super) struct ClientThread {
    pub(super) plan: Arc<Plan>,
    pub(super) number: usize,
    pub(super) counters: Arc<SharedCounters>,
    pub(super) tally: Arc<Mutex<Tally>>,
    pub(super) epoll: OwnedFd,
    pub(super) conns: Vec<Conn>,
    /// The indices of closed churning connections, which new connections reuse.
    pub(super) free: Vec<usize>,
    /// The indices of the stalled and slow connections.
    pub(super) impaired: Vec<usize>,
    pub(super) is_resumed: bool,
    /// The number of connections that are open but not subscribed yet.
    pub(super) requesting: usize,
    pub(super) churn: Churn,
    pub(super) slow_readers: SlowReaders,
    pub(super) buffer: Box<[u8]>,
    pub(super) inflate_cache: InflateCache,
    /// A buffer in which the request of a poll is built.
    pub(super) request: Vec<u8>,
    pub(super) events: Vec<epoll::Event>,
}

impl ClientThread {
    pub(super) fn new(
        plan: Arc<Plan>,
        number: usize,
        counters: Arc<SharedCounters>,
        tally: Arc<Mutex<Tally>>,
    ) -> Result<Self> {
        unshare_descriptors().context("cannot unshare the descriptor table")?;
        Ok(Self {
            churn: Churn::new(&plan, number),
            plan,
            number,
            counters,
            tally,
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            conns: Vec::new(),
            free: Vec::new(),
            impaired: Vec::new(),
            is_resumed: false,
            requesting: 0,
            slow_readers: SlowReaders::default(),
            buffer: vec![0; READ_BYTES].into(),
            inflate_cache: InflateCache::default(),
            request: Vec::new(),
            events: Vec::with_capacity(EVENTS),
        })
    }

    /// Opens the thread's connections and serves them until the pool is dropped.
    pub(super) fn run(&mut self) -> Result<()> {
        let specs = self.plan.specs(self.number);
        self.conns.reserve_exact(specs.len());
        let requests_max = self.plan.requests_max();
        for spec in specs {
            self.open(spec)?;
            while self.requesting >= requests_max && !self.is_stopping() {
                self.turn(BUSY_WAIT)?;
            }
            if self.is_stopping() {
                return Ok(());
            }
        }
        while !self.is_stopping() {
            let is_busy = !self.churn.is_idle(&self.counters) || self.slow_readers.is_busy();
            self.turn(if is_busy { BUSY_WAIT } else { IDLE_WAIT })?;
            self.churn()?;
            let published = self.counters.published.load(Ordering::Acquire);
            if published > 0 && !self.is_resumed {
                self.resume()?;
            }
        }
        Ok(())
    }

    fn is_stopping(&self) -> bool {
        self.counters.is_stopping.load(Ordering::Acquire)
    }

    /// Starts to open a connection and returns the connection's index.
    pub(super) fn open(&mut self, spec: ClientSpec) -> Result<usize> {
        let index = self.free.pop().unwrap_or(self.conns.len());
        let fd = sys::connect(&Outgoing {
            target: self.plan.target,
            source: self.plan.source(self.number, index),
            receive_buffer_bytes: spec.role.is_impaired().then_some(IMPAIRED_BUFFER_BYTES),
        })
        .with_context(|| format!("cannot connect to {}", self.plan.target))?;
        // On loopback, `connect` establishes the connection immediately, so the request can be sent
        // without waiting for an epoll report.
        let is_sent = match send(&fd, &self.plan.request(spec)) {
            Ok(is_sent) => is_sent,
            // On a churning connection, this error is ignored here, because the next read also
            // returns an error, which is then counted.
            Err(_) if spec.role == Role::Churning => true,
            Err(error) => bail!("cannot connect to {}: {error}", self.plan.target),
        };
        let mut flags = epoll::EventFlags::IN | epoll::EventFlags::RDHUP | epoll::EventFlags::ET;
        flags.set(epoll::EventFlags::OUT, !is_sent);
        let data = epoll::EventData::new_u64(index as u64);
        epoll::add(&self.epoll, &fd, data, flags)?;
        let conn = Conn {
            parser: StreamParser::new(spec.kind),
            checker: SequenceChecker::default(),
            fd: Some(fd),
            channel: spec.channel,
            role: spec.role,
            phase: if is_sent {
                Phase::Requesting
            } else {
                Phase::Connecting
            },
            is_caught_up: false,
        };
        match self.conns.get_mut(index) {
            Some(free) => *free = conn,
            None => self.conns.push(conn),
        }
        self.requesting += 1;
        if spec.role.is_impaired() {
            self.impaired.push(index);
            self.counters.impaired.fetch_add(1, Ordering::Relaxed);
        }
        Ok(index)
    }

    /// Returns the phase of the connection at an index.
    pub(super) fn phase(&self, index: usize) -> Phase {
        self.conns
            .get(index)
            .map_or(Phase::Closed, |conn| conn.phase)
    }

    /// Closes a churning connection and makes its index available for a new connection.
    pub(super) fn close_churning(&mut self, index: usize) {
        let Some(conn) = self.conns.get_mut(index) else {
            return;
        };
        match conn.phase {
            Phase::Connecting | Phase::Requesting => {
                self.requesting = self.requesting.saturating_sub(1);
            }
            Phase::Subscribed => lock(&self.tally).churned += 1,
            Phase::Closed => {}
        }
        conn.phase = Phase::Closed;
        conn.fd = None;
        self.free.push(index);
    }

    /// Waits for epoll reports and reads from each reported connection, then from the slow
    /// connections that are due.
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
            let index = usize::try_from(data)?;
            let ends = epoll::EventFlags::RDHUP | epoll::EventFlags::HUP | epoll::EventFlags::ERR;
            accounted += self.serve(index, flags.intersects(ends), &mut tally)?;
        }
        let due = self.slow_readers.due(&self.impaired, &self.conns);
        for index in due {
            accounted += self.read_slowly(index, &mut tally)?;
        }
        self.events = events;
        if accounted != 0 {
            self.counters
                .accounted
                .fetch_add(accounted, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Makes the stalled and slow connections read at full speed.
    fn resume(&mut self) -> Result<()> {
        self.is_resumed = true;
        self.slow_readers.stop();
        let impaired = std::mem::take(&mut self.impaired);
        for index in &impaired {
            if let Some(fd) = self.conns.get(*index).and_then(|conn| conn.fd.as_ref()) {
                let data = epoll::EventData::new_u64(*index as u64);
                let flags = epoll::EventFlags::IN | epoll::EventFlags::RDHUP;
                epoll::add(&self.epoll, fd, data, flags | epoll::EventFlags::ET)?;
            }
            // If the connection has already received the last publication, it is counted as caught
            // up now.
            self.credit(*index, 0);
        }
        self.impaired = impaired;
        Ok(())
    }
}

impl Conn {
    /// Whether the connection is subscribed and reads slowly.
    pub(super) fn is_slow(&self) -> bool {
        self.role == Role::Slow && self.phase == Phase::Subscribed
    }
}

/// Sends all bytes. Returns false, without having sent any bytes, if the socket is not writable
/// yet.
pub(super) fn send(fd: &OwnedFd, bytes: &[u8]) -> Result<bool, Errno> {
    match rustix::net::send(fd, bytes, rustix::net::SendFlags::NOSIGNAL) {
        // The send buffer of a new socket has room for a whole request.
        Ok(count) if count == bytes.len() => Ok(true),
        Ok(_) => Err(Errno::NOBUFS),
        Err(Errno::AGAIN | Errno::INTR) => Ok(false),
        Err(error) => Err(error),
    }
}
