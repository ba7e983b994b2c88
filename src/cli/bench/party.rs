//! SHELL: one thread's connections, thousands of them, which only read and check.
//!
//! A thread has a descriptor table of its own, so that the limit on descriptors binds per thread.
//! A connection is some tens of bytes and no heap block; one report of readiness costs one read
//! into the thread's buffer, since reports come on a change and a read that does not fill the
//! buffer has taken everything. Opening, coming and going, and slow reading are in
//! [`super::pace`].

use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;

use super::crowd::{Board, lock};
use super::pace::{Churn, Nibbling};
use super::plan::{Plan, Seat};
use super::stream::{Heard, Stream};
use super::tally::{Ear, Hearing, Role, Start, Tally};
use crate::sys::clock::monotonic_ns;
use crate::sys::descriptors::unshare_table;
use crate::sys::outgoing::{self, Outgoing};

/// The receive buffer of a connection that will not read, so that it is full soon.
const IMPAIRED_BUFFER_BYTES: usize = 4096;
/// Bytes that one read takes at most.
const READ_BYTES: usize = 64 * 1024;
const EVENTS: usize = 1024;
/// A pong without payload (RFC 6455, 5.5.3), masked with zeros.
const PONG: [u8; 6] = [0x8a, 0x80, 0, 0, 0, 0];
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
    stream: Stream,
    ear: Ear,
    fd: Option<OwnedFd>,
    channel: u16,
    role: Role,
    phase: Phase,
    is_caught_up: bool,
}

// A million of them have to be next to nothing beside what the kernel needs.
const _: () = assert!(size_of::<Conn>() <= 64);

/// One thread's connections.
pub(super) struct Party {
    pub(super) plan: Arc<Plan>,
    pub(super) number: usize,
    pub(super) board: Arc<Board>,
    tally: Arc<Mutex<Tally>>,
    epoll: OwnedFd,
    conns: Vec<Conn>,
    /// Places of connections that have come and gone.
    free: Vec<usize>,
    /// Places of stalled and slow connections.
    impaired: Vec<usize>,
    is_resumed: bool,
    /// Requests without an answer.
    pub(super) asking: usize,
    pub(super) churn: Churn,
    pub(super) nibbling: Nibbling,
    buffer: Box<[u8]>,
    events: Vec<epoll::Event>,
}

impl Party {
    pub(super) fn new(
        plan: Arc<Plan>,
        number: usize,
        board: Arc<Board>,
        tally: Arc<Mutex<Tally>>,
    ) -> Result<Self> {
        unshare_table()
            .context("no descriptor table of its own")?
            .keep_only(&[]);
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
        let fd = outgoing::connect(&Outgoing {
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

    /// Sends the request if that is due, and reads until there is nothing more. Returns how many
    /// publications are accounted for that were not before.
    fn serve(&mut self, place: usize, is_ending: bool, tally: &mut Tally) -> Result<i64> {
        if self.phase(place) == Phase::Connecting && !self.ask(place, is_ending)? {
            return Ok(0);
        }
        let mut accounted = 0;
        loop {
            let Some(fd) = self.conns.get(place).and_then(|conn| conn.fd.as_ref()) else {
                return Ok(accounted);
            };
            match rustix::io::read(fd, &mut *self.buffer) {
                Err(Errno::AGAIN) => return Ok(accounted),
                Err(Errno::INTR) => {}
                Ok(0) => return Ok(accounted + self.lose(place, None, tally)),
                Err(error) => return Ok(accounted + self.lose(place, Some(error), tally)),
                Ok(count) => {
                    accounted += self.take(place, count, tally)?;
                    // What comes after a short read is reported again; an end that was reported
                    // together with these bytes is not.
                    if count < READ_BYTES && !is_ending {
                        return Ok(accounted);
                    }
                }
            }
        }
    }

    /// Reads a little. Nothing to read is fine.
    fn nibble(&mut self, place: usize, tally: &mut Tally) -> Result<i64> {
        let Some(fd) = self.conns.get(place).and_then(|conn| conn.fd.as_ref()) else {
            return Ok(0);
        };
        let part = self.buffer.get_mut(..Nibbling::BYTES).unwrap_or_default();
        match rustix::io::read(fd, part) {
            Ok(0) => Ok(self.lose(place, None, tally)),
            Ok(count) => self.take(place, count, tally),
            Err(Errno::AGAIN | Errno::INTR) => Ok(0),
            Err(error) => Ok(self.lose(place, Some(error), tally)),
        }
    }

    /// Sends a request that had to wait for its connection. False while it still has to.
    fn ask(&mut self, place: usize, is_ending: bool) -> Result<bool> {
        let Some(conn) = self.conns.get_mut(place) else {
            return Ok(false);
        };
        let seat = Seat {
            kind: conn.stream.kind(),
            role: conn.role,
            channel: conn.channel,
        };
        let Some(fd) = &conn.fd else {
            return Ok(false);
        };
        // An error that is pending is found by the read that follows.
        if !is_ending && send(fd, &self.plan.request(seat)) == Ok(false) {
            return Ok(false);
        }
        conn.phase = Phase::Asking;
        Ok(true)
    }

    /// Hears what has been read into the buffer.
    fn take(&mut self, place: usize, count: usize, tally: &mut Tally) -> Result<i64> {
        let Some(conn) = self.conns.get_mut(place) else {
            return Ok(0);
        };
        let hearing = Hearing {
            lane: self.plan.lane(conn.channel),
            role: conn.role,
            start: match (conn.role, self.plan.start) {
                (Role::Passing, Start::First) => self.plan.passing_start(),
                (_, start) => start,
            },
            ids: self.plan.ids,
            now_ns: monotonic_ns(),
        };
        let bytes = self.buffer.get(..count).unwrap_or_default();
        let (mut pings, mut accounted, mut is_ready, mut end) = (0, 0, false, None);
        let Conn { stream, ear, .. } = conn;
        stream.push(bytes, &mut |heard| match heard {
            Heard::End => end = Some(None),
            Heard::Refused { status } => end = Some(Some(status)),
            Heard::Ping => pings += 1,
            heard => {
                is_ready |= matches!(heard, Heard::Ready { .. });
                accounted += ear.note(heard, &hearing, tally);
            }
        });
        if pings > 0
            && let Some(fd) = &conn.fd
        {
            // A pong that does not fit is one that the server does not wait for alone.
            let _sent = rustix::io::write(fd, &PONG.repeat(pings));
        }
        if is_ready && conn.phase == Phase::Asking {
            self.subscribed(place)?;
        }
        let accounted = self.credit(place, i64::try_from(accounted)?);
        match end {
            None => Ok(accounted),
            Some(status) => {
                if let Some(status) = status {
                    self.board.trouble(format!("answered with status {status}"));
                }
                Ok(accounted + self.lose(place, None, tally))
            }
        }
    }

    fn subscribed(&mut self, place: usize) -> Result<()> {
        let Some(conn) = self.conns.get_mut(place) else {
            return Ok(());
        };
        conn.phase = Phase::Subscribed;
        self.asking = self.asking.saturating_sub(1);
        match conn.role {
            Role::Passing => return Ok(()),
            Role::Reader => {
                if let Some(readers) = self.board.readers.get(usize::from(conn.channel)) {
                    readers.fetch_add(1, Ordering::Relaxed);
                }
            }
            Role::Slow | Role::Stalled => {
                if let Some(fd) = conn.fd.as_ref().filter(|_| !self.is_resumed) {
                    epoll::delete(&self.epoll, fd)?;
                }
            }
        }
        self.board.ready.fetch_add(1, Ordering::Release);
        Ok(())
    }

    /// What counts of that which a connection has accounted for.
    fn credit(&mut self, place: usize, accounted: i64) -> i64 {
        let Some(conn) = self.conns.get_mut(place) else {
            return 0;
        };
        match conn.role {
            Role::Passing => 0,
            Role::Reader => accounted,
            Role::Slow | Role::Stalled => {
                let published = self.board.published.load(Ordering::Acquire);
                let end = self.plan.lane(conn.channel).after(published);
                if self.is_resumed && !conn.is_caught_up && conn.ear.next() >= end {
                    conn.is_caught_up = true;
                    self.board.caught_up.fetch_add(1, Ordering::Relaxed);
                }
                0
            }
        }
    }

    /// Closes a connection that has ended by itself. What it had accounted for is taken back, as
    /// it is no reader any more.
    fn lose(&mut self, place: usize, error: Option<Errno>, tally: &mut Tally) -> i64 {
        let Some(conn) = self.conns.get_mut(place) else {
            return 0;
        };
        let was = std::mem::replace(&mut conn.phase, Phase::Gone);
        conn.fd = None;
        let why = error.map_or_else(|| "it ended".to_owned(), |error| error.to_string());
        if was != Phase::Subscribed {
            self.asking = self.asking.saturating_sub(1);
            tally.faults.refused += 1;
            self.board.refused.fetch_add(1, Ordering::Relaxed);
            self.board
                .trouble(format!("a connection was refused: {why}"));
            return 0;
        }
        if conn.role.is_impaired() {
            tally.gaps.cut += 1;
            if !std::mem::replace(&mut conn.is_caught_up, true) {
                self.board.caught_up.fetch_add(1, Ordering::Relaxed);
            }
            return 0;
        }
        tally.faults.ended += 1;
        self.board.trouble(format!("a subscriber was lost: {why}"));
        if conn.role == Role::Passing {
            return 0;
        }
        let lane = self.plan.lane(conn.channel);
        if let Some(readers) = self.board.readers.get(usize::from(conn.channel)) {
            readers.fetch_sub(1, Ordering::Relaxed);
        }
        -i64::try_from(lane.count_to(conn.ear.next().saturating_sub(lane.step))).unwrap_or(0)
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
fn send(fd: &OwnedFd, bytes: &[u8]) -> Result<bool, Errno> {
    match rustix::net::send(fd, bytes, rustix::net::SendFlags::NOSIGNAL) {
        // A new socket takes a request whole or not at all.
        Ok(count) if count == bytes.len() => Ok(true),
        Ok(_) => Err(Errno::NOBUFS),
        Err(Errno::AGAIN | Errno::INTR) => Ok(false),
        Err(error) => Err(error),
    }
}
