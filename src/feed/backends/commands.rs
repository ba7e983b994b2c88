//! SHELL: this module executes the commands of feeders, and closes feeders that read too slowly.
//!
//! The functions belong to [`Feeder`]. A command concerns the conns of clients, and is not a
//! publication. The workers receive a command after all earlier publications. A *consumer* is a
//! feeder that has requested reports of the workers. These reports are queued together with the
//! answers to the feeder's own lines, within the same limits. Notices (a conn has subscribed or
//! unsubscribed) may use only a part of these limits. If clients or other consumers have to wait
//! because a consumer does not read, this consumer must read at a minimum rate.

use std::sync::Arc;
use std::time::Duration;

use super::consumer::ConsumeOptions;
use crate::backend::{BackendMessage, Delivery, DeliveryStatus, Report};
use crate::config::limits::{CONSUMER_READ_BYTES_MIN, CONSUMER_STALL_MS};
use crate::feed::feeder::{Feeder, Intake, Phase};
use crate::feed::protocol::command::Command;
use crate::time::{Deadline, Now};

impl Feeder {
    /// Executes a command and queues its answer.
    pub(crate) fn execute(
        &mut self,
        command: Command,
        line: u64,
        wants_ack: bool,
        intake: &mut Intake,
    ) {
        let sequencer = &mut intake.sequencer;
        let (conn, message) = match command {
            Command::Consume { patterns, notices } => {
                self.consume_options =
                    (!patterns.is_empty()).then_some(ConsumeOptions { patterns, notices });
                let worker_ack = intake.note_consumers_changed();
                if wants_ack {
                    self.answers.queue_confirmation(line, worker_ack);
                }
                return;
            }
            Command::Presence(channels) => {
                let counts = sequencer.count(channels);
                return self.answers.queue_counts(line, counts);
            }
            Command::DisconnectSub { sub, close_info } => {
                let revocation = sequencer.revoke(sub, close_info);
                if wants_ack {
                    self.answers.queue_revocation(line, revocation);
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
            Some(conn) => sequencer.send_to_conn(conn, message, Some(Arc::clone(&status))),
            None => status.settle(Delivery::NoConn),
        }
        self.answers.queue_delivery(line, wants_ack, status);
    }

    /// Returns the channels and notices that the feeder consumes. Returns `None` if the feeder is
    /// not a consumer or if its peer no longer reads.
    pub(crate) fn active_options(&self) -> Option<&ConsumeOptions> {
        let reads = self.phase != Phase::Closed && !self.socket.is_hung_up;
        self.consume_options.as_ref().filter(|_| reads)
    }

    /// Whether the feeder is a consumer, even if the feeder is closed now.
    pub(crate) fn is_consumer(&self) -> bool {
        self.consume_options.is_some()
    }

    /// Whether the feeder consumes a report.
    pub(crate) fn consumes(&self, report: &Report) -> bool {
        self.active_options()
            .is_some_and(|consume_options| consume_options.covers(report))
    }

    /// Whether too many answers are unsent, so that no report can be queued.
    pub(crate) fn is_congested(&self) -> bool {
        self.answers.is_congested()
    }

    /// Whether the notice budget of the feeder allows another notice.
    pub(crate) fn has_notice_room(&mut self) -> bool {
        let sent = self.answers.sent_total();
        let socket = &mut self.socket;
        self.notice_budget.has_room(sent, || socket.update_unread())
    }

    /// Queues a report for a consumer.
    pub(crate) fn queue_report(&mut self, line: &[u8]) {
        self.answers.queue_bytes(line);
    }

    /// Queues a notice for a consumer.
    pub(crate) fn queue_notice(&mut self, line: &[u8]) {
        self.answers.queue_bytes(line);
        let (sent, end) = (self.answers.sent_total(), self.answers.ready_total());
        self.notice_budget.note(sent, line.len(), end);
    }

    /// Starts the stall timer, unless it is running already.
    pub(crate) fn start_stall_timer(&mut self, running: Now) {
        self.socket.update_unread();
        let read_before = self.socket.read_by_peer();
        self.stall_timer
            .get_or_insert_with(|| StallTimer::new(read_before, running));
    }

    /// Whether unsent bytes can be written now.
    pub(crate) fn can_write(&self) -> bool {
        self.socket.is_writable && !self.answers.unsent().is_empty()
    }

    /// Returns the id of the peer's process, if the kernel reports it.
    pub(crate) fn pid(&self) -> Option<i32> {
        self.socket.pid()
    }

    /// Checks how much the consumer has read since the stall timer started. `is_waited_for` is set
    /// if clients or other consumers wait for the consumer now.
    pub(crate) fn check_stall(&mut self, is_waited_for: bool, running: Now) -> StallState {
        let Some(stall_timer) = self.stall_timer else {
            return StallState::Settled;
        };
        let unread = self.socket.update_unread();
        let read = self.socket.read_by_peer();
        if read.saturating_sub(stall_timer.read_before) >= CONSUMER_READ_BYTES_MIN {
            self.stall_timer = is_waited_for.then(|| StallTimer::new(read, running));
        } else if unread == 0 && self.answers.unsent().is_empty() {
            self.stall_timer = None;
        } else if is_waited_for && running.has_reached(stall_timer.until) {
            self.cut_off();
            return StallState::CutOff;
        }
        match self.stall_timer {
            Some(stall_timer) if is_waited_for => StallState::Until(stall_timer.until),
            Some(_) => StallState::Open,
            None => StallState::Settled,
        }
    }

    /// Closes a consumer that has stalled for too long while clients or other consumers waited for
    /// it.
    fn cut_off(&mut self) {
        self.phase = Phase::Closed;
    }
}

/// Limits how long clients and other consumers wait for a consumer. The timer stops only when the
/// consumer has read enough. Otherwise a consumer that reads a line now and then could delay the
/// others forever.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StallTimer {
    until: Deadline,
    /// The number of bytes that the consumer had read when the timer started.
    read_before: u64,
}

impl StallTimer {
    fn new(read_before: u64, running: Now) -> Self {
        let until = running.after(Duration::from_millis(CONSUMER_STALL_MS));
        Self { until, read_before }
    }
}

/// The state of a consumer for which clients or other consumers have waited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StallState {
    /// The consumer has read too little and was closed.
    CutOff,
    /// Clients or other consumers wait for this consumer, which must read enough before this
    /// deadline.
    Until(Deadline),
    /// No clients or other consumers wait now, but this consumer has not read enough yet.
    Open,
    /// No stall timer is running. If one was running, the consumer has read
    /// [`CONSUMER_READ_BYTES_MIN`] bytes since its start, or everything that was sent.
    Settled,
}
