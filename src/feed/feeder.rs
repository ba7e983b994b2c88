//! SHELL: one connected feeder: its socket, what it has sent so far, and what it is owed.
//!
//! A turn writes what is owed, reads at most once, hands over what was read, and writes again. A
//! feeder that owes us its attention is not read; one that has broken the rules is answered and
//! then only listened to until it hangs up, since a close with unread bytes would cost it the
//! answer. The loop in [`super`] decides who has a turn.

use std::io;
use std::net::Shutdown;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::answer_queue::{self, AnswerQueue, Response};
use super::backends::commands::StallTimer;
use super::backends::consumer::{ConsumeOptions, NoticeBudget};
use super::feeder_socket::{ReadOutcome, Socket};
use super::http_answers::{self, push_refused};
use super::protocol::decode::Decoder;
use super::protocol::item::{Item, Request};
use super::sequencer::{Acknowledge, Sequencer};
use crate::config::Limits;
use crate::config::limits::{FEED_READ_BYTES, LINGER_MS};
use crate::frame::WorkerAck;
use crate::http::head::Method;
use crate::metrics::FeedMetrics;
use crate::time::{Deadline, Now};

/// Reads that a feeder still has when the feed stops: enough for what the kernel's buffer holds.
const READS_AT_STOP: u32 = 4;

/// What the feeders share: where publications go, and the one read buffer.
#[derive(Debug)]
pub(super) struct Intake {
    pub(super) sequencer: Sequencer,
    pub(super) buffer: Vec<u8>,
    pub(super) metrics: Arc<FeedMetrics>,
    /// There when a feeder has begun to consume, or wants something else: complete when the
    /// workers know it.
    pub(super) consumers_changed: Option<Arc<WorkerAck>>,
}

impl Intake {
    pub(super) fn new(sequencer: Sequencer, metrics: Arc<FeedMetrics>) -> Self {
        Self {
            sequencer,
            buffer: vec![0; FEED_READ_BYTES],
            metrics,
            consumers_changed: None,
        }
    }

    /// Notes that what consumers want has changed; the loop tells the workers in this round.
    pub(super) fn note_consumers_changed(&mut self) -> Arc<WorkerAck> {
        let worker_ack = || Arc::new(self.sequencer.ack_of_workers());
        Arc::clone(self.consumers_changed.get_or_insert_with(worker_ack))
    }
}

/// One connected feeder.
#[derive(Debug)]
pub(super) struct Feeder {
    pub(super) socket: Socket,
    pub(super) phase: Phase,
    decoder: Decoder,
    /// Bytes that were read and not consumed: part of a line, or more if the feeder is congested.
    rest: Vec<u8>,
    /// How much of `rest` has been consumed after all. Zero when `rest` is empty.
    rest_start: usize,
    /// Whether `rest` may hold a whole item, because decoding stopped for congestion.
    is_stalled: bool,
    pub(super) answers: AnswerQueue,
    /// There while it consumes.
    pub(super) consume_options: Option<ConsumeOptions>,
    pub(super) notice_budget: NoticeBudget,
    /// There while it makes others wait, and until it has read enough.
    pub(super) stall_timer: Option<StallTimer>,
    /// Whether the loop has it on its list.
    pub(super) is_queued: bool,
    /// How often it may still be read; set when the feed stops.
    reads_left: Option<u32>,
    publications: u64,
    errors: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Feeds.
    Open,
    /// Has sent its last byte; may still read answers.
    Ended,
    /// Will not be listened to any more; is owed its answers.
    Leaving,
    /// Has been told that no more comes, and may take until then to hang up.
    Lingering { until: Deadline },
    /// Nobody is there any more.
    Gone,
}

/// What a turn leaves behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum TurnOutcome {
    /// There is more to do at once.
    Again,
    /// The feeder is finished with.
    Gone,
    /// Nothing to do until the socket or a worker says so.
    Wait,
}

impl Feeder {
    /// Takes over a connection.
    pub(super) fn new(stream: UnixStream, limits: Limits) -> io::Result<Self> {
        let feeder = Self {
            socket: Socket::new(stream)?,
            phase: Phase::Open,
            decoder: Decoder::new(limits),
            rest: Vec::new(),
            rest_start: 0,
            is_stalled: false,
            answers: AnswerQueue::default(),
            consume_options: None,
            notice_budget: NoticeBudget::default(),
            stall_timer: None,
            is_queued: false,
            reads_left: None,
            publications: 0,
            errors: 0,
        };
        let peer = &feeder.socket.peer;
        tracing::info!(
            pid = peer.pid,
            uid = peer.uid,
            gid = peer.gid,
            "feeder connected"
        );
        Ok(feeder)
    }

    /// Whether an answer waits for workers.
    pub(super) fn is_waiting(&self) -> bool {
        self.answers.is_waiting()
    }

    /// Whether room in its socket matters: it is owed what the kernel did not take, or it consumes,
    /// and then what it has read decides what it is given next.
    pub(super) fn awaits_room(&self) -> bool {
        !self.socket.is_writable || self.consume_options.is_some()
    }

    /// When the feeder is dropped although it has not hung up.
    pub(super) fn deadline(&self) -> Option<Deadline> {
        match self.phase {
            Phase::Lingering { until } => Some(until),
            Phase::Ended | Phase::Gone | Phase::Leaving | Phase::Open => None,
        }
    }

    /// From now on only what has already been written is read.
    pub(super) fn begin_stop(&mut self) {
        self.reads_left = Some(READS_AT_STOP);
    }

    /// One turn: answers, one read, and what comes of it.
    pub(super) fn turn(&mut self, intake: &mut Intake, now: Now) -> TurnOutcome {
        // Only the `Date` of HTTP answers needs the calendar; to look at it costs no system call.
        let date = SystemTime::now();
        self.answers.settle(date);
        self.write();
        match self.phase {
            Phase::Open => self.read_input(intake, now, date),
            Phase::Leaving | Phase::Lingering { .. } => self.discard(&mut intake.buffer),
            Phase::Ended | Phase::Gone => {}
        }
        intake.sequencer.post();
        self.answers.settle(date);
        self.write();
        self.outcome(now)
    }

    fn write(&mut self) {
        match self.consume_options {
            None => self.socket.write(&mut self.answers, usize::MAX),
            Some(_) => self.socket.write_to_consumer(&mut self.answers),
        }
    }

    fn read_input(&mut self, intake: &mut Intake, now: Now, date: SystemTime) {
        if self.answers.is_congested() {
            return;
        }
        if self.is_stalled {
            return self.decode_rest(intake, now, date);
        }
        if let Some(reads_left) = &mut self.reads_left {
            if *reads_left == 0 || !self.socket.is_readable {
                self.leave(&intake.metrics);
                return;
            }
            *reads_left -= 1;
        }
        if !self.socket.is_readable {
            return;
        }
        let mut buffer = std::mem::take(&mut intake.buffer);
        match self.socket.read(&mut buffer) {
            ReadOutcome::Bytes(bytes) => {
                intake.metrics.received_bytes.add(bytes as u64);
                let fresh = buffer.get(..bytes).unwrap_or_default();
                self.decode_fresh(fresh, intake, now, date);
            }
            ReadOutcome::Drained => {}
            ReadOutcome::End => self.end(intake, now, date),
            ReadOutcome::Failed => {
                self.note_cut_off(&intake.metrics);
                self.phase = Phase::Gone;
            }
        }
        intake.buffer = buffer;
    }

    /// Decodes straight from the read buffer if nothing was left over.
    fn decode_fresh(&mut self, fresh: &[u8], intake: &mut Intake, now: Now, date: SystemTime) {
        if !self.rest.is_empty() {
            self.rest.drain(..self.rest_start);
            self.rest_start = 0;
            self.rest.extend_from_slice(fresh);
            return self.decode_rest(intake, now, date);
        }
        let used = self.decode(fresh, intake, now, date);
        self.rest
            .extend_from_slice(fresh.get(used..).unwrap_or_default());
    }

    fn decode_rest(&mut self, intake: &mut Intake, now: Now, date: SystemTime) {
        let rest = std::mem::take(&mut self.rest);
        let unconsumed = rest.get(self.rest_start..).unwrap_or_default();
        self.rest_start += self.decode(unconsumed, intake, now, date);
        // A buffer that is used up is given back: an idle feeder holds none.
        if self.rest_start < rest.len() {
            self.rest = rest;
        } else {
            self.rest_start = 0;
        }
    }

    /// Decodes until bytes are lacking or the feeder is owed too much, and says how far it came.
    fn decode(&mut self, input: &[u8], intake: &mut Intake, now: Now, date: SystemTime) -> usize {
        let mut used = 0;
        loop {
            self.is_stalled = self.answers.is_congested();
            if self.is_stalled {
                return used;
            }
            let step = self.decoder.next(input.get(used..).unwrap_or_default());
            used += step.consumed;
            match step.item {
                Some(item) => self.handle(item, intake, now, date),
                None => break,
            }
        }
        if self.decoder.is_over() && self.phase == Phase::Open {
            self.phase = Phase::Leaving;
        }
        used
    }

    fn handle(&mut self, item: Item, intake: &mut Intake, now: Now, date: SystemTime) {
        match item {
            Item::Command {
                line,
                wants_ack,
                command,
            } => self.execute(*command, line, wants_ack, intake),
            Item::Continue => self.answers.queue_bytes(http_answers::CONTINUE),
            Item::Publish {
                line,
                wants_ack,
                draft,
            } => {
                self.publications += 1;
                let acknowledge = if wants_ack {
                    Acknowledge::Yes
                } else {
                    Acknowledge::No
                };
                let ack = intake.sequencer.sequence(draft, acknowledge, now);
                if wants_ack {
                    self.answers.queue_ack(line, ack);
                } else if let Some(commit) = ack.commit {
                    self.answers.queue_silent(line, commit);
                }
            }
            Item::Refuse { line, refusal } => {
                self.errors += 1;
                intake.metrics.errors.increment();
                self.answers
                    .queue_bytes(&answer_queue::refusal_line(line, &refusal));
            }
            Item::Request(request) => self.handle_request(*request, intake, now, date),
        }
    }

    fn handle_request(
        &mut self,
        request: Request,
        intake: &mut Intake,
        now: Now,
        date: SystemTime,
    ) {
        let is_last = request.is_last;
        match request.outcome {
            Ok(publish) => {
                self.publications += publish.drafts.len() as u64;
                let acks = publish
                    .drafts
                    .into_iter()
                    .map(|draft| intake.sequencer.sequence(draft, Acknowledge::Yes, now))
                    .collect();
                self.answers.queue_response(Response {
                    acks,
                    shape: publish.shape,
                    is_last,
                });
            }
            Err(refusal) => {
                self.errors += 1;
                intake.metrics.errors.increment();
                let method = match request.is_head {
                    true => Method::Head,
                    false => Method::Post,
                };
                let mut answer = Vec::new();
                push_refused(&refusal, is_last, method, date, &mut answer);
                self.answers.queue_bytes(&answer);
            }
        }
    }

    /// The feeder has sent its last byte.
    fn end(&mut self, intake: &mut Intake, now: Now, date: SystemTime) {
        let rest = std::mem::take(&mut self.rest);
        let unconsumed = rest.get(self.rest_start..).unwrap_or_default();
        self.rest_start = 0;
        match self.decoder.finish(unconsumed) {
            Some(item) => {
                if let Item::Refuse { .. } = &item {
                    intake.metrics.cut_off.increment();
                }
                self.handle(item, intake, now, date);
            }
            None if self.decoder.is_inside_request() || !unconsumed.trim_ascii().is_empty() => {
                intake.metrics.cut_off.increment();
            }
            None => {}
        }
        self.phase = Phase::Ended;
    }

    fn leave(&mut self, metrics: &FeedMetrics) {
        self.note_cut_off(metrics);
        self.phase = Phase::Leaving;
    }

    fn note_cut_off(&mut self, metrics: &FeedMetrics) {
        if !self.rest.is_empty() || self.decoder.is_inside_request() {
            metrics.cut_off.increment();
            let lost_bytes = self.rest.len() - self.rest_start;
            tracing::debug!(
                pid = self.socket.peer.pid,
                lost_bytes,
                "feeder cut off in mid-line"
            );
        }
        self.rest = Vec::new();
        self.rest_start = 0;
        self.is_stalled = false;
    }

    fn outcome(&mut self, now: Now) -> TurnOutcome {
        match self.phase {
            Phase::Open => self.outcome_while_open(),
            Phase::Ended => self.outcome_after_input(),
            Phase::Leaving => self.outcome_while_leaving(now),
            Phase::Lingering { until } if now.has_reached(until) => TurnOutcome::Gone,
            Phase::Lingering { .. } => self.again_if_readable(),
            Phase::Gone => TurnOutcome::Gone,
        }
    }

    fn outcome_while_open(&self) -> TurnOutcome {
        if self.answers.is_congested() {
            return TurnOutcome::Wait;
        }
        // When the feed stops, an idle feeder gets one more turn, in which it leaves.
        let is_stopping = self.reads_left.is_some();
        match self.is_stalled || self.socket.is_readable || is_stopping {
            true => TurnOutcome::Again,
            false => TurnOutcome::Wait,
        }
    }

    fn outcome_after_input(&self) -> TurnOutcome {
        // A consumer still receives reports after its last byte, until it closes the connection.
        let is_consumer = self.consume_options.is_some() && self.reads_left.is_none();
        let is_done = match is_consumer {
            true => self.socket.is_hung_up,
            false => self.answers.is_empty(),
        };
        match is_done {
            true => TurnOutcome::Gone,
            false => TurnOutcome::Wait,
        }
    }

    fn outcome_while_leaving(&mut self, now: Now) -> TurnOutcome {
        if !self.answers.is_empty() {
            return self.again_if_readable();
        }
        if self.reads_left.is_some() {
            return TurnOutcome::Gone;
        }
        self.linger(now)
    }

    fn again_if_readable(&self) -> TurnOutcome {
        if self.socket.is_readable && self.reads_left.is_none() {
            TurnOutcome::Again
        } else {
            TurnOutcome::Wait
        }
    }

    fn linger(&mut self, now: Now) -> TurnOutcome {
        if self.socket.shutdown(Shutdown::Write).is_err() {
            return TurnOutcome::Gone;
        }
        let until = now.after(Duration::from_millis(LINGER_MS));
        self.phase = Phase::Lingering { until };
        self.again_if_readable()
    }

    fn discard(&mut self, buffer: &mut [u8]) {
        self.rest = Vec::new();
        self.rest_start = 0;
        if !self.socket.is_readable || self.reads_left.is_some() {
            return;
        }
        match self.socket.read(buffer) {
            ReadOutcome::Bytes(_) | ReadOutcome::Drained => {}
            ReadOutcome::End => self.phase = Phase::Ended,
            ReadOutcome::Failed => self.phase = Phase::Gone,
        }
    }

    /// Ends the connection for whoever else may hold a copy of the descriptor.
    pub(super) fn close(self) {
        // The peer may have closed first, which is as good.
        let _closed = self.socket.shutdown(Shutdown::Both);
        tracing::debug!(
            pid = self.socket.peer.pid,
            publications = self.publications,
            errors = self.errors,
            "feeder disconnected"
        );
    }
}

impl AsRawFd for Feeder {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}
