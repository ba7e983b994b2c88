//! Pauses of the server, and checks of the conns that the server closes after a pause.
//!
//! Either the machine is paused with its peers, or the process is stopped and the peers continue.
//! In both cases the server must not close a conn as late or silent if the server had no chance to
//! read the peer's bytes.

use std::collections::BTreeSet;

use fanfare::config::limits::TURN_RUNNING_MS_MAX;
use fanfare::effect::CloseReason;
use fanfare::id::ConnId;

use super::{FakeNet, Pipe, PipeRef, Readiness};

/// A poll for ready sockets that has filled its list of reports. More sockets may have been ready.
#[derive(Debug)]
pub(super) struct PartialPoll {
    begin_us: u64,
    begin_running_us: u64,
    reports: usize,
}

/// The close frame that the server writes to a silent WebSocket.
pub(super) const CLOSE_AS_IDLE: &[u8] = b"\x88\x06\x03\xe9idle";

/// The maximum time from the report that a full socket is writable again until the server writes
/// the bytes that waited for it.
const WRITTEN_US: u64 = 100_000;
/// The start of the response to a late request head.
pub(super) const HEAD_TIMEOUT: &[u8] = b"HTTP/1.1 408";

impl FakeNet {
    /// Pauses the machine at random.
    pub(super) fn pause_at_random(&mut self) {
        if self.happens(self.faults.pause) {
            let us = draw_pause(&mut self.random);
            self.pass(us);
            self.note_pause(us);
            self.note("paused", us, 0);
        }
    }

    /// Returns the total time in which the worker could run. Pauses and the turns of other workers
    /// are not included.
    pub(crate) fn running_us(&self) -> u64 {
        self.now_us() - self.paused_us - self.starved_us
    }

    /// Returns the time at which the last poll returned.
    pub(crate) fn polled_us(&self) -> u64 {
        self.turn_us
    }

    /// Adds the time since the worker's last poll to `starved_us`, because other workers had turns
    /// in this time. The first `TURN_RUNNING_MS_MAX` of this time is not added. It counts as
    /// running time of this worker.
    pub(super) fn note_starved(&mut self) {
        let us = self.now_us() - self.turn_us;
        let most = TURN_RUNNING_MS_MAX * 1000;
        self.starved_us += us.saturating_sub(self.noted_us.max(most));
    }

    /// Decides at random whether the process is stopped now. If so, returns the duration of the
    /// stop.
    pub(crate) fn draw_stop(&mut self) -> Option<u64> {
        let stops = self.happens(self.faults.stop);
        stops.then(|| draw_pause(&mut self.random))
    }

    /// Records a stop of the process.
    pub(crate) fn note_stop(&mut self, us: u64) {
        self.note_pause(us);
        self.was_stopped = true;
        self.note("stopped", us, 0);
    }

    /// Records a pause of the worker, in microseconds. The first `TURN_RUNNING_MS_MAX` of the pause
    /// counts as running time of the worker.
    fn note_pause(&mut self, us: u64) {
        self.paused_us += us.saturating_sub(TURN_RUNNING_MS_MAX * 1000);
        self.noted_us += us;
    }

    /// Records a complete poll: it has reported everything that was ready when it began.
    pub(super) fn note_complete(&mut self, begin_us: u64, begin_running_us: u64) {
        self.complete_us = begin_us;
        self.complete_running_us = begin_running_us;
        self.partial.clear();
    }

    /// Records a poll that has returned a full list of reports, so that more sockets may have been
    /// ready. Sockets are reported in the order in which they became ready. If consecutive polls
    /// together have returned as many reports as there are sockets, they have reported every socket
    /// that was ready before the first of these polls.
    pub(super) fn note_partial(&mut self, begin_us: u64, ready: &[Readiness]) {
        let is_open = |pipe: &&PipeRef| !pipe.borrow().is_closed;
        let open = self
            .pipes
            .iter()
            .filter(is_open)
            .filter_map(|pipe| pipe.borrow().id);
        let open: BTreeSet<u64> = open.map(ConnId::to_bits).collect();
        let reports = ready.iter().filter(|report| match report {
            Readiness::Conn { id, .. } => open.contains(&id.to_bits()),
            Readiness::Listener(_) => true,
        });
        self.partial.push(PartialPoll {
            begin_us,
            begin_running_us: begin_us - self.paused_us,
            reports: reports.count(),
        });
        let sockets = open.len() + self.backlogs.len();
        let mut sum = 0;
        let since = self.partial.iter().rev().find(|poll| {
            sum += poll.reports;
            sum >= sockets
        });
        if let Some(since) = since {
            self.complete_us = self.complete_us.max(since.begin_us);
            self.complete_running_us = self.complete_running_us.max(since.begin_running_us);
        }
    }

    /// Checks that the worker polled and read before it closed a conn because its peer was late or
    /// silent.
    pub(crate) fn check_silent(&self, id: ConnId, reason: CloseReason) {
        let pipe = self.pipes.iter().find(|pipe| pipe.borrow().id == Some(id));
        let pipe = pipe.expect("a conn has a pipe").borrow();
        // These conns are skipped, because the server had decided earlier to close them. It had
        // written its response and given the client time to read it.
        let is_seen = pipe.secure.is_none();
        if pipe.has_server_fin
            || pipe.is_closed_as_idle
            || (reason == CloseReason::Idle && !is_seen)
        {
            return;
        }
        self.check_polled(&pipe, reason);
        self.check_read(&pipe, reason);
    }

    /// Records that the worker closes a conn before all bytes for this conn were sent.
    pub(crate) fn note_cut_off(&self, id: ConnId) {
        let pipe = self.pipes.iter().find(|pipe| pipe.borrow().id == Some(id));
        pipe.expect("a conn has a pipe").borrow_mut().is_cut_off = true;
    }

    /// Checks that a complete poll came before the decision that a peer is late or silent.
    pub(super) fn check_polled(&self, pipe: &Pipe, reason: CloseReason) {
        let polled_by = match reason {
            CloseReason::HeadTimeout => pipe.registered_us + self.head_us,
            CloseReason::CrowdedOut => pipe.registered_us,
            _ => 0,
        };
        assert!(
            self.complete_us >= polled_by,
            "pipe {} is closed ({}) without a complete poll since {polled_by}",
            pipe.number,
            reason.label(),
        );
    }

    /// Checks that the worker has read the bytes that the last complete poll reported.
    fn check_read(&self, pipe: &Pipe, reason: CloseReason) {
        let is_unread = pipe.unread_us.is_some_and(|due| due <= self.complete_us);
        // The server does not read from a client that does not read its answers. Unread bytes of
        // such a client are therefore allowed.
        assert!(
            !is_unread || !pipe.to_peer.is_empty() || pipe.is_full,
            "pipe {} is closed ({}) with {} bytes unread since {:?}",
            pipe.number,
            reason.label(),
            pipe.to_server.len(),
            pipe.unread_us
        );
    }

    /// Checks a conn that the worker closes because its peer was silent. The peer must have had at
    /// least one heartbeat interval of the server's running time to answer.
    pub(super) fn check_idle(&self, pipe: &Pipe) {
        // The server may have decided to close the conn while the socket was full. It could then
        // write the close frame only when the socket had room again. Such a conn is not checked.
        let has_waited = pipe.freed_us + WRITTEN_US >= self.turn_us && pipe.freed_us > 0;
        if has_waited || pipe.read_turn_us == self.turn_us {
            return;
        }
        let running_us = self.turn_running_us;
        let waited_us = pipe.unanswered_us.map(|asked| running_us - asked);
        assert!(
            pipe.is_full || waited_us.is_some_and(|waited| waited >= self.heartbeat_us),
            "pipe {} is closed as idle {waited_us:?} us after it was asked",
            pipe.number
        );
        let due_us = pipe.unanswered_us.unwrap_or_default() + self.heartbeat_us;
        assert!(
            pipe.is_full || self.complete_running_us >= due_us,
            "pipe {} is closed as idle without a complete poll since {due_us}",
            pipe.number
        );
    }
}

/// Returns a random length of a pause: at least the time slice of a scheduler, at most the
/// migration time of a virtual machine.
fn draw_pause(random: &mut fastrand::Rng) -> u64 {
    let most = [10_000, 300_000, 5_000_000, 60_000_000][random.usize(0..4)];
    random.u64(10_000..=most)
}
