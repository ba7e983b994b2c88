//! SHELL: what a thread of clients does with a connection that has something to say.
//!
//! Reads, hands the bytes to the connection's stream and ear, answers pings, polls again, and keeps
//! the board: who is subscribed, what is accounted for, who was lost. Opens nothing; a connection
//! that has ended is closed here. [`Party::serve`] is called once per report of readiness.

use std::sync::atomic::Ordering;

use anyhow::Result;
use rustix::event::epoll;
use rustix::io::Errno;

use super::client_thread::{Conn, Party, Phase, READ_BYTES, send};
use super::plan::Seat;
use super::position::Position;
use super::schedule::Nibbling;
use super::stream_parser::{Heard, Kind};
use super::sys::monotonic_ns;
use super::tally::{Hearing, Role, Start, Tally};

/// A pong without payload (RFC 6455, 5.5.3), masked with zeros.
const PONG: [u8; 6] = [0x8a, 0x80, 0, 0, 0, 0];

impl Party {
    /// Sends the request if that is due, and reads until there is nothing more. Returns how many
    /// publications are accounted for that were not before.
    pub(super) fn serve(
        &mut self,
        place: usize,
        is_ending: bool,
        tally: &mut Tally,
    ) -> Result<i64> {
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
    pub(super) fn nibble(&mut self, place: usize, tally: &mut Tally) -> Result<i64> {
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
        let mut answered = None;
        let Conn { stream, ear, .. } = conn;
        stream.push(bytes, &mut self.inflations, &mut |heard| match heard {
            Heard::Closed { .. } | Heard::End | Heard::NotDeflated | Heard::Refused { .. } => {
                end = Some(heard);
            }
            Heard::Ping => pings += 1,
            heard => {
                is_ready |= matches!(heard, Heard::Ready { .. });
                if let Heard::Answered { position } = heard {
                    answered = Some(position);
                }
                accounted += ear.note(heard, &hearing, tally);
            }
        });
        let deflated = self.inflations.take_messages();
        if !conn.role.is_impaired() {
            tally.deflated += deflated;
        }
        tally.inflated += self.inflations.take_inflated();
        if pings > 0
            && let Some(fd) = &conn.fd
        {
            // A pong that does not fit is one that the server does not wait for alone.
            let _sent = rustix::io::write(fd, &PONG.repeat(pings));
        }
        if is_ready && conn.phase == Phase::Asking {
            self.subscribed(place)?;
        }
        if let Some(position) = answered {
            self.poll_again(place, position);
        }
        let accounted = self.credit(place, i64::try_from(accounted)?);
        match end {
            None => Ok(accounted),
            Some(end) => {
                if let Some(complaint) = complaint(end) {
                    self.board.trouble(complaint);
                }
                Ok(accounted + self.lose(place, None, tally))
            }
        }
    }

    /// Asks for what comes behind the answer that has been heard.
    fn poll_again(&mut self, place: usize, position: Position) {
        let Some(conn) = self.conns.get(place) else {
            return;
        };
        let Some(fd) = &conn.fd else {
            return;
        };
        self.request.clear();
        self.plan
            .push_request(Kind::Poll, conn.channel, Some(position), &mut self.request);
        // An error that says that the server has gone is found by the next read.
        if send(fd, &self.request) == Ok(false) {
            let what = "a poll found no room in its socket, although the last one was answered";
            self.board.trouble(what.to_owned());
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
    pub(super) fn credit(&mut self, place: usize, accounted: i64) -> i64 {
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
}

/// What there is to say of a server that ends a connection, beside that it has.
fn complaint(end: Heard) -> Option<String> {
    match end {
        Heard::NotDeflated => {
            let what = "the server does not agree to permessage-deflate without context takeover";
            Some(what.to_owned())
        }
        Heard::Closed { code } => Some(format!("closed with code {code}")),
        Heard::Refused { status } => Some(format!("answered with status {status}")),
        Heard::Answered { .. }
        | Heard::End
        | Heard::Gap { .. }
        | Heard::Ping
        | Heard::Publication { .. }
        | Heard::Ready { .. } => None,
    }
}
