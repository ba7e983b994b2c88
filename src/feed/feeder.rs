//! SHELL: this module handles one connected feeder: its socket, its input and its queue of answers.
//!
//! A turn writes answers, reads at most once, handles the input, and writes again. While a feeder
//! leaves too many answers unread, its socket is not read. After a protocol error, the feeder
//! receives an answer. The server then discards the feeder's input until the feeder closes the
//! connection. Closing a socket with unread bytes would destroy the answer. The loop in [`super`]
//! calls [`Feeder::turn`].

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
use crate::certain;
use crate::config::Limits;
use crate::config::limits::{FEED_READ_BYTES, LINGER_MS};
use crate::frame::WorkerAck;
use crate::metrics::FeedMetrics;
use crate::time::{Deadline, Now};

/// The maximum number of reads per feeder after the feed begins to stop. This number of reads is
/// enough to drain the kernel's buffer.
const READS_AT_STOP: u32 = 4;

/// The sequencer and the read buffer, which all feeders share.
#[derive(Debug)]
pub(super) struct Intake {
    pub(super) sequencer: Sequencer,
    pub(super) buffer: Vec<u8>,
    pub(super) metrics: Arc<FeedMetrics>,
    /// Set if the set of reports that feeders want to receive has changed and the workers have not
    /// been informed yet. The workers confirm the change with this acknowledgement.
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

    /// Records that a feeder has changed which channels or notices it consumes. Later in the same
    /// iteration, the feed's event loop informs the workers. Returns the acknowledgement that the
    /// workers confirm.
    pub(super) fn note_consumers_changed(&mut self) -> Arc<WorkerAck> {
        let worker_ack = || Arc::new(self.sequencer.ack_of_workers());
        Arc::clone(self.consumers_changed.get_or_insert_with(worker_ack))
    }
}

/// A connected feeder.
#[derive(Debug)]
pub(super) struct Feeder {
    pub(super) socket: Socket,
    pub(super) phase: Phase,
    decoder: Decoder,
    /// Bytes that were read but not decoded yet. They are an incomplete line or request, unless
    /// decoding has stopped because too many answers are unsent.
    rest: Vec<u8>,
    /// The number of decoded bytes in `rest`. Zero when `rest` is empty.
    rest_start: usize,
    /// Whether the decoding stopped because too many answers were unsent. In this case, `rest` may
    /// contain complete lines or requests.
    is_stalled: bool,
    pub(super) answers: AnswerQueue,
    /// The reports that the feeder wants to receive; `None` if the feeder is not a consumer.
    pub(super) consume_options: Option<ConsumeOptions>,
    pub(super) notice_budget: NoticeBudget,
    /// The stall timer. It starts when clients or other consumers wait for this consumer. It runs
    /// until this consumer has read enough.
    pub(super) stall_timer: Option<StallTimer>,
    /// Whether the feeder is in the loop's list of ready feeders.
    pub(super) is_queued: bool,
    /// The number of remaining reads; `None` until the feed begins to stop.
    reads_left: Option<u32>,
    publications: u64,
    errors: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// The input is decoded.
    Open,
    /// The peer has sent its last byte, and may still read answers.
    InputEnded,
    /// The input is discarded; answers are still sent.
    Closing,
    /// All answers are sent, and the sending side is shut down. The connection is closed at the
    /// deadline if the peer has not closed it before.
    Lingering { until: Deadline },
    /// The connection is finished.
    Closed,
}

/// The outcome of one [`Feeder::turn`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum TurnOutcome {
    /// More work can be done immediately.
    Again,
    /// The connection is finished.
    Closed,
    /// Nothing can be done before the next event of the socket or a worker.
    Wait,
}

impl Feeder {
    /// Creates a feeder from an accepted connection.
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
        let peer = feeder.socket.peer;
        tracing::info!(
            pid = feeder.socket.pid(),
            uid = peer.map(|peer| peer.uid),
            gid = peer.map(|peer| peer.gid),
            "feeder connected"
        );
        Ok(feeder)
    }

    /// Whether an answer still needs confirmations of workers or of the journal.
    pub(super) fn is_waiting(&self) -> bool {
        self.answers.is_waiting()
    }

    /// Whether the loop must be notified when the send buffer of the feeder's socket has free
    /// space. This is necessary after a write that would have blocked. It is always necessary for a
    /// consumer, because the consumer's reads determine which reports it receives next.
    pub(super) fn awaits_room(&self) -> bool {
        !self.socket.is_writable || self.consume_options.is_some()
    }

    /// Returns the time at which the connection is closed if the peer has not closed it.
    pub(super) fn deadline(&self) -> Option<Deadline> {
        match self.phase {
            Phase::Lingering { until } => Some(until),
            Phase::InputEnded | Phase::Closed | Phase::Closing | Phase::Open => None,
        }
    }

    /// Begins to stop the feeder. From then on, only bytes that the feeder has already sent are
    /// read.
    pub(super) fn begin_stop(&mut self) {
        self.reads_left = Some(READS_AT_STOP);
    }

    /// Takes one turn: writes answers, reads once, and handles the input.
    pub(super) fn turn(&mut self, intake: &mut Intake, now: Now) -> TurnOutcome {
        // The wall clock is needed only for `Date` in HTTP responses. It is read in every turn,
        // because reading it costs no system call.
        let date = SystemTime::now();
        self.answers.settle(date);
        self.write();
        match self.phase {
            Phase::Open => self.read_input(intake, now, date),
            Phase::Closing | Phase::Lingering { .. } => self.discard(&mut intake.buffer),
            Phase::InputEnded | Phase::Closed => {}
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
                self.begin_closing(&intake.metrics);
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
                self.decode_fresh(certain::take(&buffer, bytes), intake, now, date);
            }
            ReadOutcome::Drained => {}
            ReadOutcome::End => self.end(intake, now, date),
            ReadOutcome::Failed => {
                self.note_cut_off(&intake.metrics);
                self.phase = Phase::Closed;
            }
        }
        intake.buffer = buffer;
    }

    /// Decodes bytes that were just read. If `rest` is empty, decodes directly from the read
    /// buffer.
    fn decode_fresh(&mut self, fresh: &[u8], intake: &mut Intake, now: Now, date: SystemTime) {
        if !self.rest.is_empty() {
            self.rest.drain(..self.rest_start);
            self.rest_start = 0;
            self.rest.extend_from_slice(fresh);
            return self.decode_rest(intake, now, date);
        }
        let used = self.decode(fresh, intake, now, date);
        self.rest.extend_from_slice(certain::skip(fresh, used));
    }

    fn decode_rest(&mut self, intake: &mut Intake, now: Now, date: SystemTime) {
        let rest = std::mem::take(&mut self.rest);
        let unconsumed = certain::skip(&rest, self.rest_start);
        self.rest_start += self.decode(unconsumed, intake, now, date);
        // A buffer without undecoded bytes is freed, so an idle feeder has no buffer.
        if self.rest_start < rest.len() {
            self.rest = rest;
        } else {
            self.rest_start = 0;
        }
    }

    /// Decodes until more bytes are needed or too many answers are unsent. Returns the number of
    /// decoded bytes.
    fn decode(&mut self, input: &[u8], intake: &mut Intake, now: Now, date: SystemTime) -> usize {
        let mut used = 0;
        loop {
            self.is_stalled = self.answers.is_congested();
            if self.is_stalled {
                return used;
            }
            let step = self.decoder.next(certain::skip(input, used));
            used += step.consumed;
            debug_assert!(used <= input.len(), "{used} of {} bytes", input.len());
            match step.item {
                Some(item) => self.handle(item, intake, now, date),
                None => break,
            }
        }
        if self.decoder.is_over() && self.phase == Phase::Open {
            self.phase = Phase::Closing;
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
                let mut answer = Vec::new();
                push_refused(&refusal, is_last, request.method, date, &mut answer);
                self.answers.queue_bytes(&answer);
            }
        }
    }

    /// Handles the end of the input.
    fn end(&mut self, intake: &mut Intake, now: Now, date: SystemTime) {
        let rest = std::mem::take(&mut self.rest);
        let unconsumed = certain::skip(&rest, self.rest_start);
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
        self.phase = Phase::InputEnded;
    }

    fn begin_closing(&mut self, metrics: &FeedMetrics) {
        self.note_cut_off(metrics);
        self.phase = Phase::Closing;
    }

    fn note_cut_off(&mut self, metrics: &FeedMetrics) {
        if !self.rest.is_empty() || self.decoder.is_inside_request() {
            metrics.cut_off.increment();
            let lost_bytes = self.rest.len() - self.rest_start;
            tracing::debug!(
                pid = self.socket.pid(),
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
            Phase::InputEnded => self.outcome_after_input(),
            Phase::Closing => self.outcome_while_closing(now),
            Phase::Lingering { until } if now.has_reached(until) => TurnOutcome::Closed,
            Phase::Lingering { .. } => self.again_if_readable(),
            Phase::Closed => TurnOutcome::Closed,
        }
    }

    fn outcome_while_open(&self) -> TurnOutcome {
        if self.answers.is_congested() {
            return TurnOutcome::Wait;
        }
        // When the feed stops, an idle feeder takes one more turn, in which it begins to close.
        let is_stopping = self.reads_left.is_some();
        match self.is_stalled || self.socket.is_readable || is_stopping {
            true => TurnOutcome::Again,
            false => TurnOutcome::Wait,
        }
    }

    fn outcome_after_input(&self) -> TurnOutcome {
        // A consumer that has sent its last byte receives reports until it closes the connection.
        let receives_reports = self.consume_options.is_some() && self.reads_left.is_none();
        let is_done = match receives_reports {
            true => self.socket.is_hung_up,
            false => self.answers.is_empty(),
        };
        match is_done {
            true => TurnOutcome::Closed,
            false => TurnOutcome::Wait,
        }
    }

    fn outcome_while_closing(&mut self, now: Now) -> TurnOutcome {
        if !self.answers.is_empty() {
            return self.again_if_readable();
        }
        if self.reads_left.is_some() {
            return TurnOutcome::Closed;
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
            return TurnOutcome::Closed;
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
            ReadOutcome::End => self.phase = Phase::InputEnded,
            ReadOutcome::Failed => self.phase = Phase::Closed,
        }
    }

    /// Shuts the connection down. This also affects copies of the descriptor in other processes or
    /// in other descriptor tables.
    pub(super) fn close(self) {
        // An error means that the peer closed the connection first.
        let _closed = self.socket.shutdown(Shutdown::Both);
        tracing::debug!(
            pid = self.socket.pid(),
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
