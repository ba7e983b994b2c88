//! A faulty network: an implementation of `Net` for each worker, with pipes in memory and a
//! simulated clock.
//!
//! The workers of a node share one [`Machine`]: its clock, its calendar and the trace of events.
//! This module simulates the kernel buffers of both ends, pending readiness, and every fault. The
//! faults are short reads and writes, writes that block at any byte, interruptions, resets, late,
//! spurious and stale readiness reports, and failures of accepts and registrations. All faults are
//! drawn from the seed. As in a kernel, a blocked socket is reported as ready at some later time.
//! The peers use the other ends of the pipes.

mod kernel;
mod machine;
mod pause;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::io::IoSlice;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::rc::Rc;

use fanfare::config::Listen;
use fanfare::id::ConnId;
use fanfare::worker::wire::net::{Polled, Readiness};

use super::secure::PeerEnd;
pub(crate) use machine::{Machine, MidTurn};
use pause::PartialPoll;

/// One connection, shared by both ends.
pub(crate) type PipeRef = Rc<RefCell<Pipe>>;

/// The faults of a network: durations in microseconds (`_us`), and the chances of the other faults
/// in thousandths.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Faults {
    pub(crate) read_short: u32,
    pub(crate) read_blocks: u32,
    pub(crate) interrupted: u32,
    pub(crate) write_short: u32,
    pub(crate) spurious: u32,
    pub(crate) stale: u32,
    pub(crate) reset: u32,
    pub(crate) accept_exhausted: u32,
    pub(crate) accept_failed: u32,
    pub(crate) register_failed: u32,
    /// The maximum delay of a readiness report.
    pub(crate) delay_us: u64,
    /// The maximum duration of a write. `read_us` is the maximum duration of a read.
    pub(crate) write_us: u64,
    pub(crate) read_us: u64,
    /// The chance that a worker must wait before it may deliver publications.
    pub(crate) walk_waits: u32,
    /// The chance that the whole simulated computer is paused in the middle of a turn. Its peers
    /// are paused, too.
    pub(crate) pause: u32,
    /// The chance that the process is stopped between two turns. Its peers continue.
    pub(crate) stop: u32,
    /// The chance that the peer's kernel acknowledges a write only after the next write.
    pub(crate) unacknowledged: u32,
}

/// The maximum time until the peer's kernel acknowledges a write, in microseconds.
pub(crate) const ACKNOWLEDGED_US_MAX: u64 = 60_000;

/// A bug that a test injects into the network or the disk, to prove that the checks detect such
/// bugs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sabotage {
    /// Bug: some writes lose a byte.
    DropByte,
    /// Bug: some sockets that become ready are never reported.
    LoseReadiness,
    /// Bug: the disk loses the newest record when the server is killed.
    LoseRecord,
    /// Bug: some writes send a byte twice.
    RepeatByte,
}

/// The kernel buffers between a peer and the worker.
#[derive(Debug)]
pub(crate) struct Pipe {
    number: u32,
    /// The peer's address.
    address: IpAddr,
    /// The address to which the peer connected.
    listener: Option<SocketAddr>,
    id: Option<ConnId>,
    to_server: VecDeque<u8>,
    /// The bytes that the worker has written and the peer has not read.
    pub(crate) to_peer: VecDeque<u8>,
    /// The peer's TLS state, if the listener has TLS.
    secure: Option<Box<PeerEnd>>,
    /// The capacity of `to_peer`, in bytes.
    pub(crate) room: usize,
    pub(crate) has_peer_fin: bool,
    pub(crate) is_reset: bool,
    pub(crate) has_server_fin: bool,
    /// Whether the worker has dropped its end.
    pub(crate) is_closed: bool,
    /// Whether the worker refused the connection or never accepted it.
    pub(crate) is_refused: bool,
    is_write_blocked: bool,
    /// Whether a write was cut short, and no poll has reported since then that the socket is
    /// writable.
    is_full: bool,
    /// The time at which a poll last reported that a full socket is writable again.
    freed_us: u64,
    registered_us: u64,
    /// Whether the worker has closed the connection because the peer was silent.
    is_closed_as_idle: bool,
    /// Whether the server closed the connection before it had sent all bytes.
    pub(crate) is_cut_off: bool,
    /// The earliest time at which a poll may report the unread bytes.
    unread_us: Option<u64>,
    /// The `turn_running_us` of the turn in which the worker first wrote after its last read.
    unanswered_us: Option<u64>,
    /// The start of the turn in which the worker last read.
    read_turn_us: u64,
    /// The time of the worker's last write.
    pub(crate) written_us: u64,
    /// The time at which the peer's kernel has acknowledged all written bytes.
    acknowledged_us: u64,
    /// Whether a write of the worker was cut short at least once.
    pub(crate) has_blocked: bool,
}

impl Pipe {
    pub(crate) fn number(&self) -> u32 {
        self.number
    }

    /// Whether the worker has read everything that the peer sent.
    pub(crate) fn is_read(&self) -> bool {
        self.to_server.is_empty() && !self.is_handshaking()
    }

    /// Returns the number of the conn's slot in the worker, or `None` if the worker has closed the
    /// conn or the conn was reset.
    pub(crate) fn slot(&self) -> Option<u32> {
        let id = self.id.filter(|_| !self.is_closed && !self.is_reset);
        id.map(|id| id.slot)
    }

    /// Whether the server has sent FIN and the peer has read everything.
    pub(crate) fn is_at_end(&self) -> bool {
        self.has_server_fin && self.to_peer.is_empty()
    }

    /// Whether the TLS handshake is unfinished. Until the handshake ends, the peer's data is not
    /// sent.
    pub(crate) fn is_handshaking(&self) -> bool {
        let end = self.secure.as_deref();
        end.is_some_and(PeerEnd::is_handshaking)
    }

    /// Reads at most `max` bytes, and decrypts them if the pipe has TLS. Returns whether TLS has
    /// sent bytes in response.
    pub(crate) fn take(&mut self, max: usize, into: &mut Vec<u8>) -> bool {
        let count = max.min(self.to_peer.len());
        let taken = self.to_peer.drain(..count);
        let Some(end) = &mut self.secure else {
            into.extend(taken);
            return false;
        };
        let sealed: Vec<u8> = taken.collect();
        end.open(&sealed, into);
        let answer = end.sealed();
        self.to_server.extend(&answer);
        !answer.is_empty()
    }
}

/// The worker's end of a pipe.
#[derive(Debug)]
pub(crate) struct Socket(PipeRef);

impl Socket {
    /// Returns the address to which the peer connected.
    pub(crate) fn listener(&self) -> Option<SocketAddr> {
        self.0.borrow().listener
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.0.borrow_mut().is_closed = true;
    }
}

#[derive(Debug)]
pub(crate) struct FakeNet {
    pub(crate) machine: Rc<Machine>,
    pub(crate) worker: usize,
    /// The feed, which acts while the worker is in the middle of a turn.
    pub(crate) mid_turn: Option<Rc<RefCell<dyn MidTurn>>>,
    /// Whether the feed has acted and may have woken the worker. If so, the next poll does not
    /// sleep.
    is_woken: Cell<bool>,
    pub(crate) random: fastrand::Rng,
    pub(crate) faults: Faults,
    pub(crate) sabotage: Option<Sabotage>,
    /// The time until which a poll may sleep.
    pub(crate) horizon_us: u64,
    /// The listeners, by index; `None` if a listener was closed.
    backlogs: Vec<Option<Backlog>>,
    /// The number of addresses. At the start, there is a listener for each address.
    addresses: usize,
    /// A bit set of the addresses with TLS.
    pub(crate) secure_listeners: u64,
    /// A bit set of the addresses with the PROXY protocol.
    pub(crate) proxied_listeners: u64,
    pipes: Vec<PipeRef>,
    /// Pending readiness, by the time at which it is reported.
    reports: BTreeMap<(u64, u64), Readiness>,
    order: u64,
    writes: u64,
    batch_writes_max: usize,
    /// If the worker must wait before it delivers publications: the time at which it may deliver
    /// them.
    may_walk_us: Option<u64>,
    pub(crate) heartbeat_us: u64,
    /// The sum of all pauses and stops.
    paused_us: u64,
    /// The total time in which this worker had no turn while other workers had turns.
    starved_us: u64,
    /// The total time of the pauses and stops after the last poll returned.
    noted_us: u64,
    /// Whether the worker still had work at its last poll. If so, that poll did not sleep.
    was_busy: bool,
    /// Whether the process has just been stopped. If so, its poll is interrupted.
    was_stopped: bool,
    /// The start of the last complete poll: the last one that reported every ready socket.
    /// `complete_running_us` is this time minus `paused_us`.
    complete_us: u64,
    complete_running_us: u64,
    /// The polls after the last complete poll. They may not have reported every ready socket.
    partial: Vec<PartialPoll>,
    pub(crate) head_us: u64,
    /// The time at which the last poll ended. The worker uses this time during the whole turn.
    /// `turn_running_us` is this time minus `paused_us`.
    turn_us: u64,
    turn_running_us: u64,
}

/// A listener, and the connections that wait there.
#[derive(Debug)]
struct Backlog {
    /// The number of the listener's address.
    address: usize,
    waiting: VecDeque<PipeRef>,
}

/// Returns the address with a number.
fn address_of(number: usize) -> SocketAddr {
    ([127, 0, 0, 1], number as u16 + 1).into()
}

impl Backlog {
    fn new(address: usize) -> Self {
        Self {
            address,
            waiting: VecDeque::new(),
        }
    }
}

impl FakeNet {
    pub(crate) fn new(
        machine: &Rc<Machine>,
        worker: usize,
        mut random: fastrand::Rng,
        listeners: usize,
    ) -> Self {
        // From 1 to 256 writes in one batch.
        let batch_writes_max = 1 << random.u32(0..=8);
        Self {
            machine: Rc::clone(machine),
            worker,
            mid_turn: None,
            is_woken: Cell::new(false),
            random,
            faults: Faults::default(),
            sabotage: None,
            horizon_us: 0,
            backlogs: (0..listeners).map(Backlog::new).map(Some).collect(),
            addresses: listeners,
            secure_listeners: 0,
            proxied_listeners: 0,
            pipes: Vec::new(),
            reports: BTreeMap::new(),
            order: 0,
            writes: 0,
            batch_writes_max,
            may_walk_us: None,
            heartbeat_us: 0,
            paused_us: 0,
            starved_us: 0,
            noted_us: 0,
            was_busy: false,
            was_stopped: false,
            complete_us: 0,
            complete_running_us: 0,
            partial: Vec::new(),
            head_us: 0,
            turn_us: machine.now_us(),
            turn_running_us: 0,
        }
    }

    pub(crate) fn now_us(&self) -> u64 {
        self.machine.now_us()
    }

    pub(crate) fn note(&self, what: &str, a: u64, b: u64) {
        self.machine.note(self.worker, what, a, b);
    }

    /// Lets the feed act, because the threads of a real server may act at any time.
    fn let_others_act(&self) {
        if let Some(others) = &self.mid_turn {
            let has_acted = others.borrow_mut().act(self.machine.now());
            self.is_woken.set(self.is_woken.get() || has_acted);
        }
    }

    /// Whether the worker still has work, or a readiness report is due.
    pub(crate) fn is_due(&self) -> bool {
        let next = self.reports.first_key_value();
        self.was_busy || next.is_some_and(|((due, _), _)| *due <= self.now_us())
    }

    fn happens(&mut self, thousandths: u32) -> bool {
        thousandths > 0 && self.random.u32(0..1000) < thousandths
    }

    /// Lets the time of one operation pass: from `least` to `most` microseconds.
    fn take_time(&mut self, least: u64, most: u64) {
        let us = self.random.u64(least..=most);
        self.pass(us);
    }

    fn pass(&self, us: u64) {
        self.machine.pass(us);
    }

    /// Connects a new peer. `room` is the capacity of the peer's receive buffer.
    pub(crate) fn connect(&mut self, room: usize) -> PipeRef {
        let number = self.machine.next_pipe();
        let pipe = Rc::new(RefCell::new(Pipe {
            number,
            // The peers' addresses are in a few /64 networks with many addresses each.
            address: Ipv6Addr::from(u128::from(number % 3) << 64 | u128::from(number)).into(),
            listener: None,
            id: None,
            to_server: VecDeque::new(),
            to_peer: VecDeque::new(),
            secure: None,
            room,
            has_peer_fin: false,
            is_reset: false,
            has_server_fin: false,
            is_closed: self.backlogs.is_empty(),
            is_refused: self.backlogs.is_empty(),
            is_write_blocked: false,
            is_full: false,
            freed_us: 0,
            registered_us: 0,
            is_closed_as_idle: false,
            is_cut_off: false,
            unread_us: None,
            unanswered_us: None,
            read_turn_us: 0,
            written_us: 0,
            acknowledged_us: 0,
            has_blocked: false,
        }));
        self.pipes.push(Rc::clone(&pipe));
        self.note("connect", number.into(), room as u64);
        if !self.backlogs.is_empty() {
            let (listener, address) = self.draw_listener();
            pipe.borrow_mut().listener = Some(address_of(address));
            if self.proxied_listeners & (1 << address) != 0 {
                let header = header(number);
                pipe.borrow_mut().to_server.extend(header);
            }
            if self.secure_listeners & (1 << address) != 0 {
                let mut end = Box::new(PeerEnd::new());
                pipe.borrow_mut().to_server.extend(end.sealed());
                pipe.borrow_mut().secure = Some(end);
            }
            let backlog = self.backlogs[listener].as_mut().expect("it is open");
            backlog.waiting.push_back(Rc::clone(&pipe));
            self.report_listener(listener);
        }
        pipe
    }

    /// Returns the addresses, as a configuration names them.
    pub(crate) fn listen(&self) -> Vec<Listen> {
        let addresses = (0..self.addresses).map(|number| Listen {
            address: address_of(number),
            is_tls: self.secure_listeners & (1 << number) != 0,
            is_proxied: self.proxied_listeners & (1 << number) != 0,
        });
        addresses.collect()
    }

    /// Returns the index of a random open listener, and the number of its address.
    fn draw_listener(&mut self) -> (usize, usize) {
        let open = self.backlogs.iter().enumerate();
        let open = open.filter_map(|(index, one)| Some((index, one.as_ref()?.address)));
        let open: Vec<_> = open.collect();
        open[self.random.usize(0..open.len())]
    }

    /// Sends bytes of a peer.
    pub(crate) fn send(&mut self, pipe: &PipeRef, bytes: &[u8]) {
        let mut open = pipe.borrow_mut();
        let sealed = open.secure.as_mut().map(|end| {
            if self.random.u32(0..20) == 0 {
                end.change_keys();
            }
            end.send(bytes);
            end.sealed()
        });
        open.to_server.extend(sealed.as_deref().unwrap_or(bytes));
        drop(open);
        self.note("send", pipe.borrow().number.into(), bytes.len() as u64);
        self.report(pipe, true, false, false);
    }

    /// Reads at most `max` bytes on the peer's side.
    pub(crate) fn receive(&mut self, pipe: &PipeRef, max: usize, into: &mut Vec<u8>) {
        let mut open = pipe.borrow_mut();
        let count = max.min(open.to_peer.len());
        let has_answer = open.take(max, into);
        let has_room = open.is_write_blocked && open.to_peer.len() < open.room;
        open.is_write_blocked &= !has_room;
        let number = open.number;
        drop(open);
        if count > 0 {
            self.note("receive", number.into(), count as u64);
        }
        if has_room {
            self.report(pipe, false, true, false);
        }
        if has_answer {
            self.report(pipe, true, false, false);
        }
    }

    /// Enlarges a peer's receive buffer.
    pub(crate) fn widen(&mut self, pipe: &PipeRef, room: usize) {
        pipe.borrow_mut().room = room;
        self.receive(pipe, 0, &mut Vec::new());
    }

    /// Sends FIN from the peer's side.
    pub(crate) fn finish(&mut self, pipe: &PipeRef) {
        if !std::mem::replace(&mut pipe.borrow_mut().has_peer_fin, true) {
            self.note("fin", pipe.borrow().number.into(), 0);
            self.report(pipe, true, false, true);
        }
    }

    /// Resets the connection.
    pub(crate) fn reset(&mut self, pipe: &PipeRef) {
        if !std::mem::replace(&mut pipe.borrow_mut().is_reset, true) {
            self.note("reset", pipe.borrow().number.into(), 0);
            self.report(pipe, true, true, true);
        }
    }

    /// Kills the server's process. The kernel closes its open connections.
    pub(crate) fn lose_server(&mut self) {
        self.note("killed", self.pipes.len() as u64, 0);
        self.reports.clear();
        self.may_walk_us = None;
        for backlog in self.backlogs.drain(..).flatten() {
            for pipe in backlog.waiting {
                pipe.borrow_mut().is_refused = true;
            }
        }
        self.backlogs = (0..self.addresses).map(Backlog::new).map(Some).collect();
        for pipe in &self.pipes {
            let mut open = pipe.borrow_mut();
            (open.id, open.is_reset, open.is_closed) = (None, true, true);
        }
    }

    /// Schedules a report of readiness.
    fn report(&mut self, pipe: &PipeRef, readable: bool, writable: bool, read_closed: bool) {
        let Some(id) = pipe.borrow().id else { return };
        if self.sabotage == Some(Sabotage::LoseReadiness) && writable && self.order % 3 == 2 {
            self.order += 1;
            return;
        }
        let report = Readiness::Conn {
            id,
            is_readable: readable,
            is_writable: writable,
            is_read_closed: read_closed,
        };
        let due = self.schedule(report);
        let mut open = pipe.borrow_mut();
        if readable && !open.to_server.is_empty() {
            open.unread_us = Some(open.unread_us.map_or(due, |before| before.min(due)));
        }
        drop(open);
        if self.happens(self.faults.stale) {
            // Schedules a second report of the same readiness. When the second report is due, the
            // conn may have ended.
            self.order += 1;
            let due = self.now_us() + self.random.u64(0..2_000_000);
            let echo = Readiness::Conn {
                id,
                is_readable: readable,
                is_writable: false,
                is_read_closed: read_closed,
            };
            self.reports.insert((due, self.order), echo);
        }
    }

    fn report_listener(&mut self, listener: usize) {
        self.schedule(Readiness::Listener(listener as u32));
    }

    /// Schedules a report and returns the time at which it is due.
    fn schedule(&mut self, report: Readiness) -> u64 {
        self.order += 1;
        let due = self.now_us() + self.random.u64(0..=self.faults.delay_us);
        self.reports.insert((due, self.order), report);
        due
    }

    /// Adds the due readiness reports to `ready`, until that list is full.
    fn take_due(&mut self, ready: &mut Vec<Readiness>) -> Polled {
        let max = self.random.usize(1..=64);
        let begin_us = self.now_us();
        while let Some(entry) = self.reports.first_entry()
            && entry.key().0 <= begin_us
        {
            if ready.len() == max {
                self.note_partial(begin_us, ready);
                return Polled::Partial;
            }
            let report = entry.remove();
            ready.push(self.merge(report, begin_us));
        }
        self.note_complete(begin_us, begin_us - self.paused_us);
        Polled::Complete
    }

    /// Merges all due reports of one socket, because a kernel lists a socket only once.
    fn merge(&mut self, report: Readiness, due_us: u64) -> Readiness {
        let Readiness::Conn {
            id,
            mut is_readable,
            mut is_writable,
            mut is_read_closed,
        } = report
        else {
            self.reports
                .retain(|(due, _), other| *due > due_us || *other != report);
            return report;
        };
        let due = self.reports.range(..=(due_us, u64::MAX));
        let same =
            due.filter(|(_, other)| matches!(other, Readiness::Conn { id: of, .. } if *of == id));
        let keys: Vec<_> = same.map(|(key, _)| *key).collect();
        for key in keys {
            if let Some(Readiness::Conn {
                is_readable: readable,
                is_writable: writable,
                is_read_closed: read_closed,
                ..
            }) = self.reports.remove(&key)
            {
                is_readable |= readable;
                is_writable |= writable;
                is_read_closed |= read_closed;
            }
        }
        let pipe = self.pipes.iter().find(|pipe| pipe.borrow().id == Some(id));
        if let Some(pipe) = pipe.filter(|_| is_writable) {
            let mut open = pipe.borrow_mut();
            if std::mem::take(&mut open.is_full) {
                open.freed_us = self.now_us();
            }
        }
        Readiness::Conn {
            id,
            is_readable,
            is_writable,
            is_read_closed,
        }
    }

    fn report_spuriously(&mut self, ready: &mut Vec<Readiness>) {
        if self.pipes.is_empty() || !self.happens(self.faults.spurious) {
            return;
        }
        let at = self.random.usize(0..self.pipes.len());
        if let Some(id) = self.pipes[at].borrow().id {
            let bits = self.random.u8(..);
            ready.push(Readiness::Conn {
                id,
                is_readable: bits & 1 != 0,
                is_writable: bits & 2 != 0,
                is_read_closed: false,
            });
        }
    }

    /// Returns a random time at which a write is acknowledged, or `u64::MAX` if the peer's network
    /// is down.
    fn acknowledgement_us(&mut self) -> u64 {
        if self.happens(self.faults.unacknowledged) {
            return u64::MAX;
        }
        self.now_us() + self.random.u64(0..=ACKNOWLEDGED_US_MAX)
    }

    /// Appends the first `count` bytes of a write to the pipe.
    fn append(&mut self, pipe: &mut Pipe, slices: &[IoSlice<'_>], count: usize) {
        self.writes += 1;
        let bytes = slices.iter().flat_map(|slice| slice.iter().copied());
        let before = pipe.to_peer.len();
        pipe.to_peer.extend(bytes.take(count));
        pipe.written_us = self.now_us();
        pipe.acknowledged_us = self.acknowledgement_us();
        if count > 2 && self.writes % 50 == 49 {
            match self.sabotage {
                Some(Sabotage::DropByte) => drop(pipe.to_peer.remove(before + count / 2)),
                Some(Sabotage::RepeatByte) => {
                    let byte = pipe.to_peer[before + count / 2];
                    pipe.to_peer.insert(before + count / 2, byte);
                }
                Some(Sabotage::LoseReadiness | Sabotage::LoseRecord) | None => {}
            }
        }
    }
}

/// Returns a PROXY header of version 1 or 2.
fn header(number: u32) -> Vec<u8> {
    let client = (number / 4 % 3) as u8;
    let v2 = |command: u8, family: u8, rest: &[u8]| {
        let length = (rest.len() as u16).to_be_bytes();
        [
            b"\r\n\r\n\0\r\nQUIT\n",
            &[command, family][..],
            &length,
            rest,
        ]
        .concat()
    };
    match number % 4 {
        0 => format!("PROXY TCP4 192.0.2.{client} 198.51.100.1 4711 443\r\n").into_bytes(),
        1 => b"PROXY UNKNOWN whatever\r\n".to_vec(),
        // A LOCAL header. The server must ignore its family and addresses.
        2 => v2(0x20, number as u8, &vec![0x20; number as usize % 300]),
        _ => {
            let mut rest = vec![192, 0, 2, client, 198, 51, 100, 1, 0x12, 0x67, 1, 0xbb];
            // Adds a TLV (type, length, value) of an unknown type and any length.
            let length = number.wrapping_mul(7919) as u16 % 5000;
            rest.extend([0xea]);
            rest.extend(length.to_be_bytes());
            rest.resize(rest.len() + usize::from(length), 0x21);
            v2(0x21, 0x11, &rest)
        }
    }
}
