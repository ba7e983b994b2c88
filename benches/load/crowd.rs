//! The subscribers: threads with thousands of connections each, which only read and check.
//!
//! A thread has a descriptor table of its own, so that the limit on descriptors binds per thread,
//! and binds its connections to addresses of 127.0.0.0/8 that no other thread uses, so that ports
//! do not run out. Level-triggered, one read per report: the least work for a generator that shares
//! its processors with the server.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use fanfare::sys::descriptors::unshare_table;
use rustix::event::{Timespec, epoll};
use socket2::{Domain, Protocol, Socket, Type};

use super::stream::{Heard, Kind, Stream};
use super::tally::{Ear, Tally};

/// Connections of one source address. Well below the number of ports.
const CONNS_PER_ADDRESS: usize = 5_000;
/// Requests of one thread that wait for their answer. Well below the listen backlog.
const ASKING_MAX: u64 = 256;
/// How long nothing may happen before the crowd gives up.
const PATIENCE: Duration = Duration::from_secs(15);
/// The receive buffer of a connection that will not read, so that it is full soon.
const STALLED_BUFFER_BYTES: usize = 4096;
/// A pong without payload (RFC 6455, 5.5.3), masked with zeros.
const PONG: [u8; 6] = [0x8a, 0x80, 0, 0, 0, 0];

/// What to open.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// The server.
    pub(crate) address: SocketAddr,
    /// Second byte of the source addresses; different for crowds that live at the same time.
    pub(crate) network: u8,
    /// How many of each kind.
    pub(crate) kinds: [(Kind, usize); 2],
    /// Threads to spread them over.
    pub(crate) threads: usize,
    /// Per cent of them that do not read until they are told to.
    pub(crate) stalled: usize,
    /// The time that stamps are relative to.
    pub(crate) clock: Instant,
}

/// What threads and main program tell each other.
#[derive(Debug, Default)]
struct Board {
    ready: AtomicU64,
    delivered: AtomicU64,
    caught_up: AtomicU64,
    /// The last number that was published; stalled connections read up to it.
    published: AtomicU64,
    is_resumed: AtomicBool,
    is_over: AtomicBool,
}

/// Connected and subscribed clients.
#[derive(Debug)]
pub(crate) struct Crowd {
    board: Arc<Board>,
    tallies: Vec<Arc<Mutex<Tally>>>,
    threads: Vec<JoinHandle<Result<()>>>,
    conns: u64,
    stalled: u64,
}

impl Crowd {
    /// Opens all connections and waits until each of them is subscribed.
    pub(crate) fn open(plan: &Plan) -> Result<Self> {
        let board = Arc::new(Board::default());
        let mut crowd = Self {
            board: Arc::clone(&board),
            tallies: Vec::new(),
            threads: Vec::new(),
            conns: plan.kinds.iter().map(|(_, count)| *count as u64).sum(),
            stalled: 0,
        };
        for number in 0..plan.threads {
            let conns = share(plan, number);
            crowd.stalled += conns.iter().filter(|(_, is_stalled)| *is_stalled).count() as u64;
            let tally = Arc::new(Mutex::new(Tally::default()));
            crowd.tallies.push(Arc::clone(&tally));
            let (plan, board) = (plan.clone(), Arc::clone(&board));
            crowd.threads.push(
                thread::Builder::new()
                    .name(format!("crowd-{number}"))
                    .spawn(move || {
                        let outcome = Party::new(&plan, number, board, tally)?.live(&conns);
                        if let Err(error) = &outcome {
                            eprintln!("fanout: a thread of clients: {error:#}");
                        }
                        outcome
                    })?,
            );
        }
        crowd.wait(|board| board.ready.load(Ordering::Relaxed), crowd.conns)?;
        Ok(crowd)
    }

    /// How many connections read as they should.
    pub(crate) fn readers(&self) -> u64 {
        self.conns - self.stalled
    }

    /// Waits until every connection that reads has everything up to this number. False when they
    /// stopped getting anything before that.
    pub(crate) fn wait_for(&self, number: u64) -> bool {
        let wanted = self.readers() * number;
        self.wait(|board| board.delivered.load(Ordering::Relaxed), wanted)
            .is_ok()
    }

    /// Lets the stalled connections read, and waits until they have come to this number.
    pub(crate) fn resume(&self, number: u64) -> bool {
        self.board.published.store(number, Ordering::Release);
        self.board.is_resumed.store(true, Ordering::Release);
        self.wait(
            |board| board.caught_up.load(Ordering::Relaxed),
            self.stalled,
        )
        .is_ok()
    }

    /// Takes what has been received since the last call.
    pub(crate) fn take_tally(&self) -> Tally {
        let mut sum = Tally::default();
        for tally in &self.tallies {
            let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
            sum.add(&std::mem::take(&mut *tally));
        }
        sum
    }

    fn wait(&self, progress: impl Fn(&Board) -> u64, wanted: u64) -> Result<()> {
        let mut seen = (0, Instant::now());
        loop {
            let now = progress(&self.board);
            if now >= wanted {
                return Ok(());
            }
            if now != seen.0 {
                seen = (now, Instant::now());
            } else if seen.1.elapsed() > PATIENCE {
                bail!("{now} of {wanted} after {PATIENCE:?} without progress");
            }
            thread::sleep(Duration::from_micros(500));
        }
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.board.is_over.store(true, Ordering::Release);
        for thread in self.threads.drain(..) {
            // What went wrong has been said by the thread.
            drop(thread.join());
        }
    }
}

/// The connections of one thread: kinds in turn, so that they mix, and every so many do not read.
fn share(plan: &Plan, number: usize) -> Vec<(Kind, bool)> {
    let mut left = plan
        .kinds
        .map(|(_, count)| count / plan.threads + usize::from(number < count % plan.threads));
    let mut conns = Vec::new();
    while left.iter().any(|left| *left > 0) {
        for ((kind, _), left) in plan.kinds.iter().zip(&mut left) {
            if *left > 0 {
                *left -= 1;
                // 37 has no factor in common with 100, so both kinds get their part.
                conns.push((*kind, conns.len() * 37 % 100 < plan.stalled));
            }
        }
    }
    conns
}

/// One connection.
struct Conn {
    socket: TcpStream,
    stream: Stream,
    ear: Ear,
    is_ready: bool,
    is_stalled: bool,
    is_caught_up: bool,
}

/// One thread's connections.
struct Party {
    address: SocketAddr,
    network: u8,
    number: u8,
    clock: Instant,
    board: Arc<Board>,
    tally: Arc<Mutex<Tally>>,
    epoll: std::os::fd::OwnedFd,
    conns: Vec<Conn>,
    asking: u64,
    buffer: Vec<u8>,
    events: Vec<epoll::Event>,
}

impl Party {
    fn new(
        plan: &Plan,
        number: usize,
        board: Arc<Board>,
        tally: Arc<Mutex<Tally>>,
    ) -> Result<Self> {
        unshare_table()
            .context("no descriptor table of its own")?
            .keep_only(&[]);
        Ok(Self {
            address: plan.address,
            network: plan.network,
            number: u8::try_from(number)?,
            clock: plan.clock,
            board,
            tally,
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            conns: Vec::new(),
            asking: 0,
            buffer: vec![0; 256 * 1024],
            events: Vec::with_capacity(1024),
        })
    }

    fn live(&mut self, conns: &[(Kind, bool)]) -> Result<()> {
        for (kind, is_stalled) in conns {
            self.open(*kind, *is_stalled)?;
            while self.asking >= ASKING_MAX {
                self.turn()?;
            }
        }
        let mut is_resumed = false;
        while !self.board.is_over.load(Ordering::Acquire) {
            self.turn()?;
            if !is_resumed && self.board.is_resumed.load(Ordering::Acquire) {
                is_resumed = true;
                self.resume()?;
            }
        }
        Ok(())
    }

    fn open(&mut self, kind: Kind, is_stalled: bool) -> Result<()> {
        let index = self.conns.len();
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
        if is_stalled {
            socket.set_recv_buffer_size(STALLED_BUFFER_BYTES)?;
        }
        let host = u8::try_from(1 + index / CONNS_PER_ADDRESS)?;
        let source = Ipv4Addr::new(127, self.network, self.number, host);
        socket.bind(&SocketAddr::from((source, 0)).into())?;
        socket.connect(&self.address.into()).context("connect")?;
        let mut socket = TcpStream::from(socket);
        socket.write_all(request(kind).as_bytes())?;
        socket.set_nonblocking(true)?;
        self.listen_to(&socket, index)?;
        self.asking += 1;
        self.conns.push(Conn {
            socket,
            stream: Stream::new(kind),
            ear: Ear::new(!is_stalled),
            is_ready: false,
            is_stalled,
            is_caught_up: false,
        });
        Ok(())
    }

    fn listen_to(&self, socket: &TcpStream, index: usize) -> Result<()> {
        let data = epoll::EventData::new_u64(index as u64);
        epoll::add(&self.epoll, socket, data, epoll::EventFlags::IN)?;
        Ok(())
    }

    /// Waits a little for bytes and reads once from each connection that has some.
    fn turn(&mut self) -> Result<()> {
        let wait = Timespec {
            tv_sec: 0,
            tv_nsec: 20_000_000,
        };
        let mut events = std::mem::take(&mut self.events);
        events.clear();
        match epoll::wait(
            &self.epoll,
            rustix::buffer::spare_capacity(&mut events),
            Some(&wait),
        ) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let tally = Arc::clone(&self.tally);
        let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
        let mut delivered = 0;
        for event in &events {
            delivered += self.read(usize::try_from(event.data.u64())?, &mut tally)?;
        }
        drop(tally);
        self.board.delivered.fetch_add(delivered, Ordering::Relaxed);
        self.events = events;
        Ok(())
    }

    /// Reads once. Returns how many publications came that count.
    fn read(&mut self, index: usize, tally: &mut Tally) -> Result<u64> {
        let conn = &mut self.conns[index];
        let count = match conn.socket.read(&mut self.buffer) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(0),
            Ok(0) | Err(_) => {
                tally.faults.ended += 1;
                epoll::delete(&self.epoll, &conn.socket)?;
                return Ok(0);
            }
            Ok(count) => count,
        };
        let now_ns = u64::try_from(self.clock.elapsed().as_nanos())?;
        let before = tally.delivered;
        let (mut pings, was_ready) = (0, conn.is_ready);
        let Conn {
            stream,
            ear,
            is_ready,
            ..
        } = conn;
        stream.push(&self.buffer[..count], &mut |heard| {
            pings += usize::from(heard == Heard::Ping);
            *is_ready |= heard == Heard::Ready;
            ear.note(heard, now_ns, tally);
        });
        if pings > 0 {
            // A pong that does not fit is one that the server does not wait for alone.
            drop(conn.socket.write(&PONG.repeat(pings)));
        }
        if conn.is_ready && !was_ready {
            self.asking -= 1;
            self.board.ready.fetch_add(1, Ordering::Relaxed);
            if conn.is_stalled {
                epoll::delete(&self.epoll, &conn.socket)?;
            }
        }
        if conn.is_stalled {
            self.note_catching_up(index);
            return Ok(0);
        }
        Ok(tally.delivered - before)
    }

    fn note_catching_up(&mut self, index: usize) {
        let conn = &mut self.conns[index];
        let published = self.board.published.load(Ordering::Acquire);
        if published > 0 && conn.ear.next() > published && !conn.is_caught_up {
            conn.is_caught_up = true;
            self.board.caught_up.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn resume(&self) -> Result<()> {
        for (index, conn) in self.conns.iter().enumerate() {
            if conn.is_stalled {
                self.listen_to(&conn.socket, index)?;
            }
        }
        Ok(())
    }
}

fn request(kind: Kind) -> &'static str {
    match kind {
        Kind::EventStream => {
            "GET /sse?channel=bench HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: fanout\r\n\
             Accept: text/event-stream\r\nCache-Control: no-cache\r\n\r\n"
        }
        Kind::Floor | Kind::WebSocket => {
            "GET /ws?channel=bench HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: fanout\r\n\
             Upgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        }
    }
}
