//! read: reads bytes from sockets and passes them to the state machines of the conns. The worker
//! has one read buffer.
//!
//! In each turn, a conn has budgets of bytes (inflated bytes included), of work and of time. The
//! whole phase has budgets of conns, of inflated bytes and of time. A conn whose budget is spent
//! stays on the list. Each conn is read at most once per turn, whatever its send rate. A conn's
//! state machine first handles input that it has kept, then input from the socket. A conn is not
//! read while it has too many unsent answers.

use super::admission::rates::Rates;
use super::lists::List;
use super::wire::net::{Net, ReadOutcome};
use super::{Slot, Worker};
use crate::certain;
use crate::config::limits::{
    CONN_SLICE_US_MAX, INFLATED_BYTES_PER_TURN_MAX, INTERRUPTED_READS_MAX,
    READ_BYTES_PER_CONN_TURN_MAX, READ_CONNS_PER_TURN_MAX, READ_SLICE_US_MAX,
    WORKS_PER_CONN_TURN_MAX,
};
use crate::effect::{CloseReason, ConnClass};
use crate::id::ConnId;
use crate::time::Now;
use crate::transport::Goodbye;

impl<S> Slot<S> {
    /// Returns how many bytes from the client the conn accepts now.
    pub(super) fn read_bytes_max(&self, head_bytes: u32, rates: &Rates) -> usize {
        let most = self.conn.read_bytes_max(head_bytes);
        match self.conn.class() {
            ConnClass::WebSocket => most.min(rates.read_bytes_max()),
            ConnClass::Arriving | ConnClass::Silent | ConnClass::Other => most,
        }
    }
}

impl<N: Net> Worker<N> {
    pub(super) fn read(&mut self) {
        let start = self.now;
        let mut inflated_bytes = 0;
        // A conn with more input is added again at the end of the list, and is read in the next
        // turn.
        let listed = self.to_read.len().min(READ_CONNS_PER_TURN_MAX as usize);
        for _ in 0..listed {
            // The clock is read for each conn, because clients can choose input that takes long to
            // process.
            let now = self.net.now();
            let took = now.since(start).as_micros();
            if inflated_bytes > INFLATED_BYTES_PER_TURN_MAX || took >= READ_SLICE_US_MAX.into() {
                break;
            }
            let Some(id) = self.to_read.pop() else {
                break;
            };
            if let Some(slot) = self.slot(id) {
                slot.lists.remove(List::Read);
                inflated_bytes += self.read_conn(id, now);
            }
        }
        if !self.to_read.is_empty() {
            self.parts.metrics.read_budget_exhausted.increment();
        }
        self.run_handshakes();
    }

    /// Reads from a conn within its budgets. Returns the number of inflated bytes.
    fn read_conn(&mut self, id: ConnId, start: Now) -> u64 {
        let mut budget = u64::from(READ_BYTES_PER_CONN_TURN_MAX);
        let mut works = 0;
        self.work = self.work_at_once;
        let mut inflated_bytes = 0;
        let mut buffer = std::mem::take(&mut self.scratch.read_buffer);
        while budget > 0 {
            if self.work.is_spent() {
                works += 1;
                let took = self.net.now().since(start).as_micros();
                if works == WORKS_PER_CONN_TURN_MAX || took >= CONN_SLICE_US_MAX.into() {
                    break;
                }
                self.work = self.work_at_once;
            }
            let Some(count) = self.read_once(id, &mut buffer) else {
                break;
            };
            let inflated = self.scratch.inflater.take_inflated_bytes();
            inflated_bytes += inflated;
            budget = budget.saturating_sub(count as u64 + inflated);
        }
        self.scratch.read_buffer = buffer;
        self.list_to_read(id);
        inflated_bytes
    }

    /// If the conn's state machine still has unhandled input, lets the state machine handle it.
    /// Otherwise reads the socket once. Returns the number of bytes that count towards the conn's
    /// budget, or `None` if the conn cannot be read now.
    fn read_once(&mut self, id: ConnId, buffer: &mut [u8]) -> Option<usize> {
        let head_bytes = self.parts.config.limits.request_head_bytes;
        let slot = self.conns.get_mut(id.slot as usize)?;
        if slot.generation != id.generation || slot.is_closing || !slot.holds.is_empty() {
            return None;
        }
        if slot.conn.has_unhandled() {
            self.hand_bytes(id, &mut [])?;
            return Some(0);
        }
        let length = slot.read_bytes_max(head_bytes, &self.rates);
        if length == 0 || !slot.is_readable {
            return None;
        }
        if self.filters.has(id.slot) {
            return self.read_sealed(id, buffer);
        }
        let length = length.min(buffer.len());
        self.read_socket(id, certain::take_mut(buffer, length), Self::hand_bytes)
    }

    /// Reads a socket once and passes the bytes to `receive`. Returns the number of bytes that
    /// count towards the conn's budget, or `None` if there is nothing more to read now.
    pub(super) fn read_socket(
        &mut self,
        id: ConnId,
        buffer: &mut [u8],
        receive: fn(&mut Self, ConnId, &mut [u8]) -> Option<()>,
    ) -> Option<usize> {
        let slot = self.conns.get_mut(id.slot as usize)?;
        if slot.generation != id.generation || slot.is_closing || !slot.is_readable {
            return None;
        }
        match read_uninterrupted(&mut self.net, &mut slot.socket, buffer) {
            ReadOutcome::Bytes { count, is_drained } => {
                // If the peer has sent FIN, the kernel does not report that again. So the socket
                // stays readable until the end of the input is read.
                slot.is_readable = !is_drained || slot.is_read_closed;
                self.parts.metrics.received_bytes.add(count as u64);
                receive(self, id, certain::take_mut(buffer, count))?;
                return Some(count);
            }
            ReadOutcome::Interrupted => return Some(1),
            ReadOutcome::Drained => slot.is_readable = false,
            ReadOutcome::Eof => self.read_end(id),
            ReadOutcome::Failed => self.close(id, CloseReason::PeerGone),
            ReadOutcome::TimedOut => self.close_timed_out(id),
        }
        None
    }

    /// Passes bytes from a client to the state machine of its conn, and counts them towards the
    /// client's rates. Bytes from sockets reach the state machines only through this function.
    pub(super) fn hand_bytes(&mut self, id: ConnId, bytes: &mut [u8]) -> Option<()> {
        // If a trusted proxy sent the bytes, the state machine may first return an effect that
        // identifies the client. It then handles the bytes when the worker applies this effect.
        self.scratch.frames = 0;
        self.call(id, |conn, out, context| {
            conn.handle_bytes(bytes, out, context);
        })?;
        self.charge(id, self.scratch.frames, bytes.len());
        Some(())
    }

    /// Handles the end of a conn's input.
    pub(super) fn read_end(&mut self, id: ConnId) {
        if let Some(slot) = self.slot(id) {
            slot.is_readable = false;
        }
        let is_early = self.call(id, |conn, out, context| conn.handle_eof(out, context));
        if is_early == Some(true)
            && let Some(slot) = self.slot(id)
        {
            slot.is_readable = true;
        }
        self.end_if_served(id);
    }

    /// If the peer of a stream has sent FIN, ends the stream as soon as nothing is pending for it.
    pub(super) fn end_if_served(&mut self, id: ConnId) {
        let ends = self
            .slot(id)
            .is_some_and(|slot| slot.conn.ends_when_served());
        if ends && !self.hub.is_behind(id.slot) {
            self.call(id, |conn, out, context| {
                conn.handle_goodbye(Goodbye::PeerDone, out, context);
            });
        }
    }
}

/// Reads from a socket, and repeats a read that a signal has interrupted. Otherwise the socket
/// could have unread bytes although the conn counts as read (`round.rs`).
fn read_uninterrupted<N: Net>(net: &mut N, socket: &mut N::Socket, into: &mut [u8]) -> ReadOutcome {
    let mut outcome = ReadOutcome::Interrupted;
    for _ in 0..INTERRUPTED_READS_MAX {
        outcome = net.read(socket, into);
        if outcome != ReadOutcome::Interrupted {
            break;
        }
    }
    outcome
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::io::{self, IoSlice};
    use std::net::Ipv4Addr;
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::config::Config;
    use crate::config::limits::{COMMAND_WORK, STREAM_READ_BYTES, WORK_AT_ONCE_MAX};
    use crate::hub::Hub;
    use crate::id::{Epoch, RunId, Sequence};
    use crate::log::Writer;
    use crate::sys::wake::Wake;
    use crate::time::Now;
    use crate::worker::admission::guard::Guard;
    use crate::worker::listener_conns::ListenerConns;
    use crate::worker::mail::inbox::inbox;
    use crate::worker::mail::upstream::{Bounds, upstream};
    use crate::worker::wire::net::{AcceptOutcome, Polled, Readiness, WriteOutcome};
    use crate::worker::wire::tls::Secure;
    use crate::worker::{Parts, Turn};

    const HANDSHAKE: &[u8] = b"GET /ws?channel=a HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\
        Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    /// A pong without a payload. The server does not answer pongs, so reading never stops because
    /// of unsent answers.
    const PONG: &[u8] = b"\x8a\x80\0\0\0\0";

    /// A network of clients that repeat one frame forever.
    struct Endless {
        frame: Vec<u8>,
        now_us: Cell<u64>,
        /// The time that each read from a socket takes.
        read_us: u64,
        /// The time that each call to a conn's state machine takes.
        call_us: u64,
        waiting: usize,
        ready: Vec<Readiness>,
    }

    /// The number of bytes that a client has sent.
    #[derive(Debug, Default)]
    struct Client(usize);

    impl Net for Endless {
        type Socket = Client;

        fn now(&self) -> Now {
            Now(self.now_us.get())
        }

        fn draw(&mut self) -> u64 {
            self.now_us.set(self.now_us.get() + self.call_us);
            0x5555_5555_5555_5555
        }

        fn unix_time(&self) -> Duration {
            Duration::from_secs(784_111_777)
        }

        fn poll(&mut self, _timeout: Option<Duration>, ready: &mut Vec<Readiness>) -> Polled {
            ready.append(&mut self.ready);
            Polled::Complete
        }

        fn listener_count(&self) -> u32 {
            1
        }

        fn accept(&mut self, _listener: u32) -> AcceptOutcome<Client> {
            let Some(waiting) = self.waiting.checked_sub(1) else {
                return AcceptOutcome::Drained;
            };
            self.waiting = waiting;
            AcceptOutcome::Accepted {
                socket: Client::default(),
                address: Ipv4Addr::LOCALHOST.into(),
            }
        }

        fn register(&mut self, _socket: &mut Client, id: ConnId) -> io::Result<()> {
            self.ready.push(Readiness::Conn {
                id,
                is_readable: true,
                is_writable: true,
                is_read_closed: false,
            });
            Ok(())
        }

        fn read(&mut self, socket: &mut Client, into: &mut [u8]) -> ReadOutcome {
            self.now_us.set(self.now_us.get() + self.read_us);
            // The first read returns only the request head.
            let (sent, at, most) = match socket.0.checked_sub(HANDSHAKE.len()) {
                None => (HANDSHAKE, socket.0, HANDSHAKE.len() - socket.0),
                Some(past) => (&*self.frame, past % self.frame.len(), into.len()),
            };
            let count = most.min(into.len());
            for (to, from) in into
                .iter_mut()
                .zip(sent.iter().cycle().skip(at))
                .take(count)
            {
                *to = *from;
            }
            socket.0 += count;
            ReadOutcome::Bytes {
                count,
                is_drained: false,
            }
        }

        fn write(&mut self, _socket: &Client, slices: &[IoSlice<'_>]) -> WriteOutcome {
            WriteOutcome::Wrote {
                count: slices.iter().map(|slice| slice.len()).sum(),
                is_blocked: false,
            }
        }

        fn shutdown_write(&mut self, _socket: &mut Client) {}

        fn refuse(&mut self, _socket: Client, _response: &[u8]) {}

        fn stop_listening(&mut self) {}
    }

    /// Creates a worker whose clients are all subscribed and flood it with a frame.
    fn flooded(clients: usize, frame: &[u8]) -> Worker<Endless> {
        let config = Arc::new(Config::default());
        let wake = || Arc::new(Wake::new().unwrap());
        let (_mailbox, inbox) = inbox(wake());
        let feed = wake();
        let (mut ends, _reports) = upstream(&[wake()], &feed, Bounds::default());
        let parts = Parts {
            run: RunId(1),
            number: 0,
            config: Arc::clone(&config),
            metrics: Arc::default(),
            listener_conns: Arc::new(ListenerConns::new(1)),
            inbox,
            feed,
            upstream: ends.remove(0),
            pulse: Arc::default(),
            conns_fitting: 1000,
            workers: 1,
            guard: Guard::default(),
            secure: Secure::default(),
            keys: None,
            warnings: Arc::default(),
            access_log: None,
            tracer: None,
        };
        let net = Endless {
            frame: frame.to_vec(),
            now_us: Cell::new(0),
            read_us: 0,
            call_us: 0,
            waiting: clients,
            ready: vec![Readiness::Listener(0)],
        };
        let writer = Writer::new(&config, Sequence::ZERO);
        let log = Arc::clone(writer.log());
        let hub = Hub::new(log, 0, Epoch::new(1), Sequence::ZERO, &config);
        let mut worker = Worker::new(net, hub, parts);
        while worker.hub().subscriber_count() < clients as u64 {
            assert_eq!(worker.turn(), Turn::Continues);
        }
        worker
    }

    /// A command that is parsed, refused and answered.
    const EMPTY_TEXT: &[u8] = b"\x81\x80\0\0\0\0";

    /// A command whose result the worker passes to the conn's state machine in a second call.
    fn unsubscribe() -> Vec<u8> {
        let command = br#"{"type":"unsubscribe","channel":"b"}"#;
        let length = u8::try_from(command.len()).unwrap();
        [&[0x81, 0x80 | length, 0, 0, 0, 0], command.as_slice()].concat()
    }

    /// Returns the number of frames handled in one turn.
    fn handled_in_a_turn(worker: &mut Worker<Endless>) -> u64 {
        let before = worker.parts.metrics.client_frames.value();
        assert_eq!(worker.turn(), Turn::Continues);
        worker.parts.metrics.client_frames.value() - before
    }

    #[test]
    fn conn_that_keeps_sending_commands_has_a_budget_of_work() {
        let each = u64::from(WORKS_PER_CONN_TURN_MAX * (WORK_AT_ONCE_MAX / COMMAND_WORK));
        for clients in [1, 3] {
            let mut worker = flooded(clients, EMPTY_TEXT);
            for _ in 0..20 {
                let handled = handled_in_a_turn(&mut worker);
                assert!(handled > 0 && handled <= each * clients as u64, "{handled}");
            }
            let sent: Vec<_> = worker.conns.iter().map(|(_, slot)| slot.socket.0).collect();
            assert_eq!(sent, vec![sent[0]; clients], "all are read equally");
        }
    }

    #[test]
    fn conn_whose_commands_take_long_has_a_budget_of_time() {
        let mut worker = flooded(3, &unsubscribe());
        worker.net_mut().call_us = 200;
        let at_once = u64::from(WORK_AT_ONCE_MAX / COMMAND_WORK);
        for _ in 0..20 {
            let handled = handled_in_a_turn(&mut worker);
            assert!(handled > 0 && handled <= 3 * at_once, "{handled}");
        }
    }

    /// Returns the number of bytes read in one turn.
    fn read_in_a_turn(worker: &mut Worker<Endless>) -> u64 {
        let before = worker.parts.metrics.received_bytes.value();
        assert_eq!(worker.turn(), Turn::Continues);
        worker.parts.metrics.received_bytes.value() - before
    }

    #[test]
    fn conn_that_always_has_more_is_read_once_a_turn() {
        let each = u64::from(READ_BYTES_PER_CONN_TURN_MAX + STREAM_READ_BYTES);
        for clients in [1, 3] {
            let mut worker = flooded(clients, PONG);
            for _ in 0..3 {
                let read = read_in_a_turn(&mut worker);
                assert!(read > 0 && read <= each * clients as u64, "{read}");
            }
        }
    }

    #[test]
    fn reading_ends_when_its_time_is_over_and_goes_on_with_the_others() {
        let mut worker = flooded(40, PONG);
        worker.net_mut().read_us = 1_000;
        let sent = |worker: &Worker<Endless>| -> Vec<usize> {
            worker.conns.iter().map(|(_, slot)| slot.socket.0).collect()
        };
        let (before, sent_before) = (worker.net.now(), sent(&worker));
        let turns = 20;
        for _ in 0..turns {
            let start = worker.net.now();
            assert!(read_in_a_turn(&mut worker) > 0);
            let took = worker.net.now().since(start);
            assert!(took < Duration::from_millis(20), "{took:?}");
        }
        let mut conns = sent_before.into_iter().zip(sent(&worker));
        assert!(conns.all(|(before, after)| after > before), "each is read");
        assert!(worker.net.now().since(before) > Duration::from_millis(100));
    }
}
