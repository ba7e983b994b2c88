//! SHELL: this module reads from the connections of one thread and processes the received bytes.
//!
//! Each connection has a parser, which turns bytes into events, and a sequence checker, which
//! checks the events. This module also answers pings, sends the next poll, and updates the shared
//! counters. It opens no connections, but closes connections that the server has ended.
//! [`ClientThread::serve`] is called once for each connection that epoll reports as ready.

use std::sync::atomic::Ordering;

use anyhow::Result;
use rustix::event::epoll;
use rustix::io::Errno;

use super::client_thread::{ClientThread, Conn, Phase, READ_BYTES, send};
use super::plan::ClientSpec;
use super::position::Position;
use super::schedule::SlowReaders;
use super::stream_parser::{ClientEvent, Kind};
use super::sys::monotonic_ns;
use super::tally::{Expectation, Role, SequenceChecker, Start, Tally};

/// A pong without payload (RFC 6455, 5.5.3), masked with zeros.
const PONG: [u8; 6] = [0x8a, 0x80, 0, 0, 0, 0];

/// A summary of the events in the bytes of one read. Publications are already in the tally.
#[derive(Default)]
struct ReadOutcome {
    /// The number of publications that the events account for: received, reported in a gap, or
    /// lost.
    accounted: u64,
    pings: usize,
    is_subscribed: bool,
    /// The position from which the next poll continues.
    next_poll: Option<Position>,
    /// The event that ended the connection.
    end: Option<ClientEvent>,
}

impl ReadOutcome {
    fn note(
        &mut self,
        event: ClientEvent,
        checker: &mut SequenceChecker,
        expectation: &Expectation,
        tally: &mut Tally,
    ) {
        match event {
            ClientEvent::Closed { .. }
            | ClientEvent::Ended
            | ClientEvent::NotDeflated
            | ClientEvent::Refused { .. } => {
                self.end = Some(event);
                return;
            }
            ClientEvent::Ping => {
                self.pings += 1;
                return;
            }
            ClientEvent::PollAnswered { position } => self.next_poll = Some(position),
            ClientEvent::Subscribed { .. } => self.is_subscribed = true,
            ClientEvent::Gap { .. } | ClientEvent::Publication { .. } => {}
        }
        self.accounted += checker.note(event, expectation, tally);
    }
}

impl ClientThread {
    /// Sends the request if the connection has not sent it yet, and reads until the socket is
    /// empty. Returns the number of publications that the received bytes account for.
    pub(super) fn serve(
        &mut self,
        index: usize,
        is_ending: bool,
        tally: &mut Tally,
    ) -> Result<i64> {
        if self.phase(index) == Phase::Connecting && !self.send_request(index, is_ending)? {
            return Ok(0);
        }
        let mut accounted = 0;
        loop {
            let Some(fd) = self.conns.get(index).and_then(|conn| conn.fd.as_ref()) else {
                return Ok(accounted);
            };
            match rustix::io::read(fd, &mut *self.buffer) {
                Err(Errno::AGAIN) => return Ok(accounted),
                Err(Errno::INTR) => {}
                Ok(0) => return Ok(accounted + self.handle_end(index, None, tally)),
                Err(error) => return Ok(accounted + self.handle_end(index, Some(error), tally)),
                Ok(count) => {
                    accounted += self.process(index, count, tally)?;
                    // A short read means that the socket is empty, and epoll reports bytes that
                    // arrive later. But if epoll has already reported the end of the connection
                    // (`is_ending`), it does not report the end again, so the end must be read now.
                    if count < READ_BYTES && !is_ending {
                        return Ok(accounted);
                    }
                }
            }
        }
    }

    /// Reads a few bytes from a slow connection, if bytes have arrived.
    pub(super) fn read_slowly(&mut self, index: usize, tally: &mut Tally) -> Result<i64> {
        let Some(fd) = self.conns.get(index).and_then(|conn| conn.fd.as_ref()) else {
            return Ok(0);
        };
        let part = self.buffer.get_mut(..SlowReaders::BYTES);
        match rustix::io::read(fd, part.unwrap_or_default()) {
            Ok(0) => Ok(self.handle_end(index, None, tally)),
            Ok(count) => self.process(index, count, tally),
            Err(Errno::AGAIN | Errno::INTR) => Ok(0),
            Err(error) => Ok(self.handle_end(index, Some(error), tally)),
        }
    }

    /// Sends the request. Returns false if the connection is not established yet.
    fn send_request(&mut self, index: usize, is_ending: bool) -> Result<bool> {
        let Some(conn) = self.conns.get_mut(index) else {
            return Ok(false);
        };
        let spec = ClientSpec {
            kind: conn.parser.kind(),
            role: conn.role,
            channel: conn.channel,
        };
        let Some(fd) = &conn.fd else {
            return Ok(false);
        };
        // If sending fails, the next read from the socket returns the error.
        if !is_ending && send(fd, &self.plan.request(spec)) == Ok(false) {
            return Ok(false);
        }
        conn.phase = Phase::Requesting;
        Ok(true)
    }

    /// Processes the bytes that were read into the buffer. Returns the number of publications that
    /// these bytes account for.
    fn process(&mut self, index: usize, count: usize, tally: &mut Tally) -> Result<i64> {
        let outcome = self.parse(index, count, tally);
        if outcome.pings > 0
            && let Some(fd) = self.conns.get(index).and_then(|conn| conn.fd.as_ref())
        {
            // If the send buffer is full, the pong is dropped. This is harmless, because the bytes
            // in the buffer also show the server that the client is alive.
            let _sent = rustix::io::write(fd, &PONG.repeat(outcome.pings));
        }
        if outcome.is_subscribed && self.phase(index) == Phase::Requesting {
            self.note_subscribed(index)?;
        }
        if let Some(position) = outcome.next_poll {
            self.poll_again(index, position);
        }
        let accounted = self.credit(index, i64::try_from(outcome.accounted)?);
        let Some(end) = outcome.end else {
            return Ok(accounted);
        };
        if let Some(description) = describe(end) {
            self.counters.trouble(description);
        }
        Ok(accounted + self.handle_end(index, None, tally))
    }

    /// Parses the buffer and counts its publications in the tally.
    fn parse(&mut self, index: usize, count: usize, tally: &mut Tally) -> ReadOutcome {
        let mut outcome = ReadOutcome::default();
        let Some(conn) = self.conns.get_mut(index) else {
            return outcome;
        };
        let expectation = Expectation {
            stride: self.plan.stride(conn.channel),
            role: conn.role,
            start: match (conn.role, self.plan.start) {
                (Role::Churning, Start::First) => self.plan.churn_start(),
                (_, start) => start,
            },
            ids: self.plan.ids,
            now_ns: monotonic_ns(),
        };
        let bytes = self.buffer.get(..count).unwrap_or_default();
        let Conn {
            parser, checker, ..
        } = conn;
        parser.push(bytes, &mut self.inflate_cache, &mut |event| {
            outcome.note(event, checker, &expectation, tally);
        });
        let deflated = self.inflate_cache.take_messages();
        if !conn.role.is_impaired() {
            tally.deflated += deflated;
        }
        tally.inflated += self.inflate_cache.take_inflated();
        outcome
    }

    /// Sends the next poll, which continues from the position in the last response.
    fn poll_again(&mut self, index: usize, position: Position) {
        let Some(conn) = self.conns.get(index) else {
            return;
        };
        let Some(fd) = &conn.fd else {
            return;
        };
        self.request.clear();
        self.plan
            .push_request(Kind::Poll, conn.channel, Some(position), &mut self.request);
        // If the server has closed the connection, the next read returns the error.
        if send(fd, &self.request) == Ok(false) {
            let what = "a poll did not fit into its socket, although the last one was answered";
            self.counters.trouble(what.to_owned());
        }
    }

    /// Counts a connection whose subscription the server has confirmed.
    fn note_subscribed(&mut self, index: usize) -> Result<()> {
        let Some(conn) = self.conns.get_mut(index) else {
            return Ok(());
        };
        conn.phase = Phase::Subscribed;
        self.requesting = self.requesting.saturating_sub(1);
        match conn.role {
            Role::Churning => return Ok(()),
            Role::Reader => {
                if let Some(readers) = self.counters.readers.get(usize::from(conn.channel)) {
                    readers.fetch_add(1, Ordering::Relaxed);
                }
            }
            Role::Slow | Role::Stalled => {
                if let Some(fd) = conn.fd.as_ref().filter(|_| !self.is_resumed) {
                    epoll::delete(&self.epoll, fd)?;
                }
            }
        }
        self.counters.subscribed.fetch_add(1, Ordering::Release);
        Ok(())
    }

    /// Returns how many publications count as deliveries to readers: `accounted` if this connection
    /// is a reader, otherwise none. Also counts each stalled or slow connection once, in the
    /// counter `caught_up`, when the connection has reached the last publication.
    pub(super) fn credit(&mut self, index: usize, accounted: i64) -> i64 {
        let Some(conn) = self.conns.get_mut(index) else {
            return 0;
        };
        match conn.role {
            Role::Churning => 0,
            Role::Reader => accounted,
            Role::Slow | Role::Stalled => {
                let published = self.counters.published.load(Ordering::Acquire);
                let end = self.plan.stride(conn.channel).after(published);
                if self.is_resumed && !conn.is_caught_up && conn.checker.next() >= end {
                    conn.is_caught_up = true;
                    self.counters.caught_up.fetch_add(1, Ordering::Relaxed);
                }
                0
            }
        }
    }

    /// Closes a connection that the server has ended. Returns the change of the number of
    /// deliveries to readers. If the connection was a reader, the change is negative, because its
    /// deliveries no longer count.
    fn handle_end(&mut self, index: usize, error: Option<Errno>, tally: &mut Tally) -> i64 {
        let Some(conn) = self.conns.get_mut(index) else {
            return 0;
        };
        let was = std::mem::replace(&mut conn.phase, Phase::Closed);
        conn.fd = None;
        let why = error.map_or_else(|| "it ended".to_owned(), |error| error.to_string());
        if was != Phase::Subscribed {
            self.requesting = self.requesting.saturating_sub(1);
            tally.faults.refused += 1;
            self.counters.refused.fetch_add(1, Ordering::Relaxed);
            self.counters
                .trouble(format!("a connection was refused: {why}"));
            return 0;
        }
        if conn.role.is_impaired() {
            tally.gaps.cut += 1;
            if !std::mem::replace(&mut conn.is_caught_up, true) {
                self.counters.caught_up.fetch_add(1, Ordering::Relaxed);
            }
            return 0;
        }
        tally.faults.ended += 1;
        self.counters
            .trouble(format!("a subscriber was lost: {why}"));
        if conn.role == Role::Churning {
            return 0;
        }
        let stride = self.plan.stride(conn.channel);
        if let Some(readers) = self.counters.readers.get(usize::from(conn.channel)) {
            readers.fetch_sub(1, Ordering::Relaxed);
        }
        let accounted = stride.count_to(conn.checker.next().saturating_sub(stride.step));
        -i64::try_from(accounted).unwrap_or(0)
    }
}

/// Returns a description of how the server ended a connection, or `None` if the event has no
/// details.
fn describe(end: ClientEvent) -> Option<String> {
    match end {
        ClientEvent::NotDeflated => {
            let what = "the server does not agree to permessage-deflate without context takeover";
            Some(what.to_owned())
        }
        ClientEvent::Closed { code } => Some(format!("closed with code {code}")),
        ClientEvent::Refused { status } => Some(format!("answered with status {status}")),
        ClientEvent::PollAnswered { .. }
        | ClientEvent::Ended
        | ClientEvent::Gap { .. }
        | ClientEvent::Ping
        | ClientEvent::Publication { .. }
        | ClientEvent::Subscribed { .. } => None,
    }
}
