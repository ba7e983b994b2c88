//! SHELL: a feeder that is a backend: what it says to one conn, what it asks, and what it consumes.
//!
//! The part of a [`Feeder`] that has to do with conns instead of publications. Commands go to the
//! workers through the sequencer, behind what was published before; reports are owed to consumers
//! like answers, within the same bounds, and notices within a share of them. A consumer that makes
//! others wait is judged by what it reads.

use std::sync::Arc;
use std::time::Duration;

use super::consumer::Wants;
use crate::backend::{BackendMessage, Delivery, DeliveryStatus, Report};
use crate::config::limits::{CONSUMER_READ_BYTES_MIN, CONSUMER_STALL_MS};
use crate::feed::feeder::{Feeder, Intake, Phase};
use crate::feed::protocol::command::Command;
use crate::time::{Deadline, Now};

impl Feeder {
    /// Carries out a command, and owes the answer.
    pub(crate) fn carry_out(
        &mut self,
        command: Command,
        line: u64,
        wants_ack: bool,
        intake: &mut Intake,
    ) {
        let sequencer = &mut intake.sequencer;
        let (conn, message) = match command {
            Command::Consume { patterns, notices } => {
                self.wants = (!patterns.is_empty()).then_some(Wants { patterns, notices });
                let worker_ack = intake.note_wants();
                if wants_ack {
                    self.answers.owe_confirmation(line, worker_ack);
                }
                return;
            }
            Command::Presence(channels) => {
                let counts = sequencer.count(channels);
                return self.answers.owe_counts(line, counts);
            }
            Command::DisconnectSub { sub, close_info } => {
                let revocation = sequencer.revoke(sub, close_info);
                if wants_ack {
                    self.answers.owe_revocation(line, revocation);
                }
                return;
            }
            Command::Disconnect { conn, close_info } => {
                (conn, BackendMessage::Disconnect(close_info))
            }
            Command::Send { conn, payload } => (conn, BackendMessage::Payload(payload)),
        };
        let status = Arc::new(DeliveryStatus::default());
        match conn {
            Some(conn) => sequencer.say(conn, message, Some(Arc::clone(&status))),
            None => status.settle(Delivery::NoConn),
        }
        self.answers.owe_verdict(line, wants_ack, status);
    }

    /// What it consumes, if it does.
    pub(crate) fn wants(&self) -> Option<&Wants> {
        let reads = self.phase != Phase::Gone && !self.socket.is_hung_up;
        self.wants.as_ref().filter(|_| reads)
    }

    /// Whether consumers are fewer without it.
    pub(crate) fn was_consumer(&self) -> bool {
        self.wants.is_some()
    }

    /// Whether a report is for this feeder.
    pub(crate) fn consumes(&self, report: &Report) -> bool {
        self.wants().is_some_and(|wants| wants.covers(report))
    }

    /// Whether it is owed so much that nothing more can be.
    pub(crate) fn is_congested(&self) -> bool {
        self.answers.is_congested()
    }

    /// Whether a notice may be owed to it.
    pub(crate) fn has_notice_room(&mut self) -> bool {
        let sent = self.answers.sent_total();
        let socket = &mut self.socket;
        self.notice_share.has_room(sent, || socket.look_at_unread())
    }

    /// Owes a report to a consumer.
    pub(crate) fn owe_report(&mut self, line: &[u8]) {
        self.answers.owe_bytes(line);
    }

    /// Owes a notice to a consumer.
    pub(crate) fn owe_notice(&mut self, line: &[u8]) {
        self.answers.owe_bytes(line);
        let (sent, end) = (self.answers.sent_total(), self.answers.ready_total());
        self.notice_share.note(sent, line.len(), end);
    }

    /// It makes others wait from now on, if it has not before.
    pub(crate) fn begin_patience(&mut self, running: Now) {
        self.socket.look_at_unread();
        let read_before = self.socket.read_by_peer();
        self.patience
            .get_or_insert_with(|| Patience::new(read_before, running));
    }

    /// Whether something that it is owed finds room in the kernel.
    pub(crate) fn can_write(&self) -> bool {
        self.socket.is_writable && !self.answers.unsent().is_empty()
    }

    /// Judges it by what it has read. `is_waited_for` says that others wait for it now.
    pub(crate) fn judge(&mut self, is_waited_for: bool, running: Now) -> Judgement {
        let Some(patience) = self.patience else {
            return Judgement::Settled;
        };
        let unread = self.socket.look_at_unread();
        let read = self.socket.read_by_peer();
        if read.saturating_sub(patience.read_before) >= CONSUMER_READ_BYTES_MIN {
            self.patience = is_waited_for.then(|| Patience::new(read, running));
        } else if unread == 0 && self.answers.unsent().is_empty() {
            self.patience = None;
        } else if is_waited_for && running.has_reached(patience.until) {
            self.cut_off();
            return Judgement::CutOff;
        }
        match self.patience {
            Some(patience) if is_waited_for => Judgement::Until(patience.until),
            Some(_) => Judgement::Open,
            None => Judgement::Settled,
        }
    }

    /// It has read next to nothing for too long, and others wait for it.
    fn cut_off(&mut self) {
        tracing::warn!(
            pid = self.socket.peer.pid,
            "a consumer reads next to nothing and is cut off"
        );
        self.phase = Phase::Gone;
    }
}

/// How long others wait for a consumer. Not ended by a little room alone, or a consumer that reads
/// a line now and then would never be judged.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    until: Deadline,
    /// What the consumer had read when it began.
    read_before: u64,
}

impl Patience {
    fn new(read_before: u64, running: Now) -> Self {
        let until = running.after(Duration::from_millis(CONSUMER_STALL_MS));
        Self { until, read_before }
    }
}

/// What is found of a consumer that others have waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Judgement {
    /// It has read too little.
    CutOff,
    /// Others wait, and may until then.
    Until(Deadline),
    /// Nothing waits for it, but it has not read enough either.
    Open,
    /// It reads.
    Settled,
}
