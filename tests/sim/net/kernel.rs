//! The worker's side of the network: the operations of a kernel, with random faults.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use fanfare::effect::CloseReason;
use fanfare::id::ConnId;
use fanfare::sys::listener::SocketOptions;
use fanfare::time::Now;
use fanfare::worker::wire::net::{
    AcceptOutcome, Net, Polled, ReadOutcome, Readiness, Write, WriteOutcome,
};

use super::{Backlog, FakeNet, Socket, pause};

impl Net for FakeNet {
    type Socket = Socket;

    fn now(&self) -> Now {
        self.let_others_act();
        self.machine.now()
    }

    fn draw(&mut self) -> u64 {
        self.random.u64(..)
    }

    fn unix_time(&self) -> Duration {
        self.machine.unix_time()
    }

    fn poll(&mut self, timeout: Option<Duration>, ready: &mut Vec<Readiness>) -> Polled {
        self.note_starved();
        self.let_others_act();
        let timeout = match self.is_woken.take() {
            true => Some(Duration::ZERO),
            false => timeout,
        };
        self.was_busy = timeout == Some(Duration::ZERO);
        let polled = self.wait(timeout, ready);
        self.turn_us = self.now_us();
        self.noted_us = 0;
        self.turn_running_us = self.turn_us - self.paused_us;
        polled
    }

    fn listener_count(&self) -> u32 {
        self.backlogs.len() as u32
    }

    fn accept(&mut self, listener: u32) -> AcceptOutcome<Socket> {
        let listener = listener as usize;
        self.take_time(0, 4);
        if self.happens(self.faults.accept_exhausted) {
            self.note("accept exhausted", listener as u64, 0);
            return AcceptOutcome::Exhausted;
        }
        let backlog = self.backlogs[listener].as_mut().expect("it is open");
        let Some(pipe) = backlog.waiting.pop_front() else {
            return AcceptOutcome::Drained;
        };
        if self.happens(self.faults.accept_failed) {
            let mut open = pipe.borrow_mut();
            (open.is_reset, open.is_closed, open.is_refused) = (true, true, true);
            return AcceptOutcome::Failed;
        }
        self.note("accept", pipe.borrow().number.into(), 0);
        let address = pipe.borrow().address;
        AcceptOutcome::Accepted {
            socket: Socket(pipe),
            address,
        }
    }

    fn register(&mut self, socket: &mut Socket, id: ConnId) -> io::Result<()> {
        if self.happens(self.faults.register_failed) {
            socket.0.borrow_mut().is_refused = true;
            return Err(io::Error::from(io::ErrorKind::OutOfMemory));
        }
        let mut open = socket.0.borrow_mut();
        open.id = Some(id);
        open.registered_us = self.turn_us;
        let is_readable = !open.to_server.is_empty() || open.has_peer_fin || open.is_reset;
        let is_read_closed = open.has_peer_fin || open.is_reset;
        let number = open.number;
        drop(open);
        self.note("register", number.into(), id.to_bits());
        let pipe = Rc::clone(&socket.0);
        self.report(&pipe, is_readable, true, is_read_closed);
        Ok(())
    }

    fn read(&mut self, socket: &mut Socket, into: &mut [u8]) -> ReadOutcome {
        assert!(!into.is_empty(), "read into nothing");
        self.let_others_act();
        self.take_time(0, 2 + self.faults.read_us);
        self.pause_at_random();
        if self.happens(self.faults.reset) {
            self.reset(&Rc::clone(&socket.0));
        }
        let pipe = Rc::clone(&socket.0);
        let (waiting, has_fin, is_reset) = {
            let open = pipe.borrow();
            (open.to_server.len(), open.has_peer_fin, open.is_reset)
        };
        if is_reset {
            return ReadOutcome::Failed;
        }
        if self.happens(self.faults.interrupted) {
            return ReadOutcome::Interrupted;
        }
        if self.happens(self.faults.read_blocks) {
            // This read returns nothing, even if bytes are waiting. A later readiness report
            // announces these bytes, as if they had arrived after the read.
            pipe.borrow_mut().unread_us = None;
            self.pass(1);
            if waiting > 0 || has_fin {
                self.report(&pipe, true, false, has_fin);
            }
            return ReadOutcome::Drained;
        }
        if waiting == 0 {
            return if has_fin {
                ReadOutcome::Eof
            } else {
                ReadOutcome::Drained
            };
        }
        let mut count = waiting.min(into.len());
        if self.happens(self.faults.read_short) {
            count = self.random.usize(1..=count);
        }
        let mut open = pipe.borrow_mut();
        for (to, from) in into.iter_mut().zip(open.to_server.drain(..count)) {
            *to = from;
        }
        let is_drained = open.to_server.is_empty() && count < into.len();
        open.unanswered_us = None;
        open.read_turn_us = self.turn_us;
        // A short read leaves bytes unread. They count as if they arrived after this read.
        open.unread_us = (!open.to_server.is_empty()).then_some(self.now_us() + 1);
        self.note("read", open.number.into(), count as u64);
        ReadOutcome::Bytes { count, is_drained }
    }

    fn write(&mut self, socket: &Socket, slices: &[IoSlice<'_>]) -> WriteOutcome {
        let pipe = Rc::clone(&socket.0);
        let total: usize = slices.iter().map(|slice| slice.len()).sum();
        assert!(total > 0, "a write of nothing");
        assert!(
            !pipe.borrow().has_server_fin,
            "pipe {}: a write after FIN",
            pipe.borrow().number
        );
        self.take_time(1, 1 + self.faults.write_us);
        if self.happens(self.faults.reset) {
            self.reset(&pipe);
        }
        if pipe.borrow().is_reset {
            return WriteOutcome::Failed;
        }
        if self.happens(self.faults.interrupted) {
            return WriteOutcome::Wrote {
                count: 0,
                is_blocked: false,
            };
        }
        let mut open = pipe.borrow_mut();
        let free = open.room.saturating_sub(open.to_peer.len());
        let mut count = total.min(free);
        let is_cut_short = count > 0 && self.happens(self.faults.write_short);
        if is_cut_short {
            count = self.random.usize(0..count);
        }
        if slices
            .last()
            .is_some_and(|last| last.ends_with(pause::CLOSE_AS_IDLE))
        {
            self.check_idle(&open);
            open.is_closed_as_idle = true;
        }
        if slices
            .iter()
            .any(|slice| slice.starts_with(pause::HEAD_TIMEOUT))
        {
            self.check_polled(&open, CloseReason::HeadTimeout);
        }
        self.append(&mut open, slices, count);
        if count > 0 {
            open.unanswered_us.get_or_insert(self.turn_running_us);
        }
        let number = open.number;
        let is_blocked = count < total;
        open.is_write_blocked = is_blocked && !is_cut_short;
        open.has_blocked |= is_blocked;
        open.is_full |= is_blocked;
        drop(open);
        if is_cut_short {
            self.report(&pipe, false, true, false);
        }
        self.note("write", number.into(), count as u64);
        WriteOutcome::Wrote { count, is_blocked }
    }

    fn batch_writes_max(&self) -> usize {
        self.batch_writes_max
    }

    /// Does the writes of a batch in random order, because the worker must not depend on their
    /// order.
    fn write_batch(&mut self, writes: &[Write<'_, Socket>], outcomes: &mut Vec<WriteOutcome>) {
        let mut order: Vec<usize> = (0..writes.len()).collect();
        self.random.shuffle(&mut order);
        let mut unordered = BTreeMap::new();
        let mut seen = BTreeSet::new();
        for place in order {
            self.let_others_act();
            let Write { socket, slices } = writes[place];
            let number = socket.0.borrow().number;
            assert!(seen.insert(number), "pipe {number}: twice in a batch");
            unordered.insert(place, self.write(socket, slices));
        }
        outcomes.clear();
        outcomes.extend(unordered.into_values());
    }

    fn may_fan_out(&mut self) -> bool {
        if let Some(due) = self.may_walk_us {
            self.may_walk_us = (due > self.now_us()).then_some(due);
        } else if self.happens(self.faults.walk_waits) {
            self.may_walk_us = Some(self.now_us() + self.random.u64(1..20_000));
        }
        self.may_walk_us.is_none()
    }

    fn yield_fanout(&mut self, is_walking: bool) {
        if !is_walking {
            self.may_walk_us = None;
        }
    }

    fn unacknowledged_bytes(&self, socket: &Socket) -> u32 {
        (socket.0.borrow().acknowledged_us > self.now_us()).into()
    }

    fn shutdown_write(&mut self, socket: &mut Socket) {
        let number = socket.0.borrow().number;
        let before_us = socket.0.borrow().acknowledged_us;
        let fin_us = self.acknowledgement_us();
        socket.0.borrow_mut().acknowledged_us = before_us.max(fin_us);
        let had = std::mem::replace(&mut socket.0.borrow_mut().has_server_fin, true);
        assert!(!had, "pipe {number}: FIN twice");
        self.note("server fin", number.into(), 0);
    }

    fn refuse(&mut self, socket: Socket, response: &[u8]) {
        let mut open = socket.0.borrow_mut();
        let count = open.room.min(response.len());
        open.to_peer.extend(response.iter().take(count));
        (open.has_server_fin, open.is_refused) = (true, true);
    }

    fn local_address(&self, listener: u32) -> Option<SocketAddr> {
        let backlog = self.backlogs[listener as usize].as_ref();
        backlog.map(|backlog| super::address_of(backlog.address))
    }

    fn open_listener(&mut self, address: SocketAddr, _options: SocketOptions) -> io::Result<u32> {
        let backlog = Some(Backlog::new(usize::from(address.port()) - 1));
        let free = self.backlogs.iter().position(Option::is_none);
        let index = free.unwrap_or(self.backlogs.len());
        self.note("listen", index as u64, address.port().into());
        match self.backlogs.get_mut(index) {
            Some(place) => *place = backlog,
            None => self.backlogs.push(backlog),
        }
        Ok(index as u32)
    }

    fn close_listener(&mut self, listener: u32) {
        self.note("close listener", listener.into(), 0);
        let closed = self.backlogs[listener as usize].take();
        let waiting = closed.expect("it is open").waiting;
        // The kernel does not report closed sockets.
        let report = Readiness::Listener(listener);
        self.reports.retain(|_, pending| *pending != report);
        assert!(waiting.is_empty(), "a connection waits at {listener}");
    }

    fn stop_listening(&mut self) {
        let backlogs = std::mem::take(&mut self.backlogs).into_iter().flatten();
        for pipe in backlogs.flat_map(|backlog| backlog.waiting) {
            let mut open = pipe.borrow_mut();
            (open.is_reset, open.is_closed, open.is_refused) = (true, true, true);
        }
    }
}

impl FakeNet {
    fn wait(&mut self, timeout: Option<Duration>, ready: &mut Vec<Readiness>) -> Polled {
        self.take_time(1, 3);
        self.pause_at_random();
        if std::mem::take(&mut self.was_stopped) || self.happens(self.faults.interrupted) {
            self.note("poll interrupted", 0, 0);
            return Polled::Partial;
        }
        let mut polled = self.take_due(ready);
        if ready.is_empty() && timeout != Some(Duration::ZERO) {
            let now = self.now_us();
            let wait = timeout.map_or(u64::MAX, |timeout| timeout.as_micros() as u64);
            let next = self
                .reports
                .first_key_value()
                .map_or(u64::MAX, |((due, _), _)| *due);
            let walk = self.may_walk_us.unwrap_or(u64::MAX).max(now);
            let until = now.saturating_add(wait).min(next).min(walk);
            let until = until.min(self.horizon_us);
            self.pass(until.saturating_sub(now));
            self.pause_at_random();
            if self.happens(self.faults.interrupted) {
                self.note("poll interrupted", 0, 0);
                return Polled::Partial;
            }
            polled = self.take_due(ready);
        }
        if polled == Polled::Complete {
            self.report_spuriously(ready);
        }
        self.note("poll", ready.len() as u64, 0);
        polled
    }
}
