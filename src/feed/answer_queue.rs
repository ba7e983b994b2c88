//! The queue of answers to one feeder, in the order of the feeder's lines and requests, and the
//! bytes that are not sent yet.
//!
//! This module performs no I/O. The answer to a publication is sent when each worker that received
//! the publication has confirmed it. Answers stay in order, so an incomplete answer delays all
//! later answers. Unsent bytes are stored in one buffer. When the buffer is empty and large, it is
//! freed. While [`AnswerQueue::is_congested`] is true, the feeder's socket is not read.

use std::collections::VecDeque;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::SystemTime;

use super::http_answers::{push_accepted, push_refused};
use super::protocol::http_publish::Shape;
use super::protocol::refusal::Refusal;
use super::protocol::request_refusal::RequestRefusal;
use crate::backend::{Delivery, DeliveryStatus, Revocation, SubscriberCounts};
use crate::certain;
use crate::config::limits::{FEED_ACKS_MAX, FEED_ANSWER_BYTES_MAX};
use crate::frame::WorkerAck;
use crate::frame::envelope::{push_display, push_json_string};
use crate::http::head::Method;
use crate::http::response::Status;
use crate::id::Cursor;
use crate::journal::commit_state::{Commit, CommitState};

/// The maximum capacity of an empty buffer that is kept.
const BUFFER_BYTES_KEPT: usize = 4096;

/// The buffer is compacted when this number of sent bytes precedes the unsent bytes.
const SENT_BYTES_KEPT: usize = FEED_ANSWER_BYTES_MAX / 2;

/// A sequenced publication that may still need the confirmation of workers or of the journal.
#[derive(Debug)]
pub(super) struct Ack {
    /// The id of the publication. For a repetition, the id of the original publication.
    pub(super) id: Cursor,
    /// The confirmations of workers. They are complete when each worker with subscribers has
    /// confirmed the publication. `None` if the publication repeats another publication or needs no
    /// acknowledgement.
    pub(super) worker_ack: Option<Arc<WorkerAck>>,
    /// The outcome of writing the publication's batch to the journal; `None` if there is no
    /// journal.
    pub(super) commit: Option<Arc<Commit>>,
}

impl Ack {
    /// Returns the number of subscribers, or the reason why there is no acknowledgement. Returns
    /// `None` if the outcome is not known yet.
    pub(super) fn outcome(&self) -> Option<Result<u64, Refusal>> {
        match self
            .commit
            .as_ref()
            .map_or(CommitState::Committed, |c| c.state())
        {
            CommitState::Committed => {}
            CommitState::Pending | CommitState::Written => return None,
            CommitState::Refused => return Some(Err(Refusal::Journal)),
            CommitState::Unsynced => return Some(Err(Refusal::JournalUnsynced)),
        }
        self.worker_ack
            .as_ref()
            .map_or(Some(0), |r| r.sum())
            .map(Ok)
    }
}

/// The answers to one feeder, and the bytes not yet sent.
#[derive(Debug, Default)]
pub(super) struct AnswerQueue {
    unsent: Vec<u8>,
    /// The number of bytes in `unsent` that have been sent already. It is less than the length of
    /// `unsent`, unless both are zero.
    sent: usize,
    /// The number of bytes sent since the feeder connected.
    sent_total: u64,
    queued: VecDeque<QueuedAnswer>,
    /// The number of acknowledgements in `queued`.
    acks: usize,
    /// The number of bytes in `queued` that are ready to be sent.
    ready_bytes: usize,
}

#[derive(Debug)]
enum QueuedAnswer {
    /// An answer that is complete when every worker has executed the command.
    Confirmation {
        line: u64,
        worker_ack: Arc<WorkerAck>,
    },
    Counts {
        line: u64,
        counts: SubscriberCounts,
    },
    Direct {
        line: u64,
        wants_ack: bool,
        status: Arc<DeliveryStatus>,
    },
    Line {
        line: u64,
        ack: Ack,
    },
    /// The answer to `disconnect_sub`. It is complete when every worker has closed the conns whose
    /// token has the given subject.
    Revocation {
        line: u64,
        revocation: Arc<Revocation>,
    },
    Ready(Box<[u8]>),
    Response(Box<Response>),
    /// Consecutive lines without `ack`. They are answered only if the journal refuses their batch.
    Silent {
        first: u64,
        last: u64,
        commit: Arc<Commit>,
    },
}

/// The response to a request with publications.
#[derive(Debug)]
pub(super) struct Response {
    pub(super) acks: Vec<Ack>,
    pub(super) shape: Shape,
    pub(super) is_last: bool,
}

impl AnswerQueue {
    /// Queues the acknowledgement of a line.
    pub(super) fn queue_ack(&mut self, line: u64, ack: Ack) {
        self.acks += 1;
        self.queued.push_back(QueuedAnswer::Line { line, ack });
    }

    /// Queues an answer that is sent only if the journal refuses the line.
    pub(super) fn queue_silent(&mut self, line: u64, commit: Arc<Commit>) {
        if let Some(QueuedAnswer::Silent {
            last, commit: same, ..
        }) = self.queued.back_mut()
            && *last + 1 == line
            && Arc::ptr_eq(same, &commit)
        {
            *last = line;
            return;
        }
        self.acks += 1;
        self.queued.push_back(QueuedAnswer::Silent {
            first: line,
            last: line,
            commit,
        });
    }

    /// Queues the response to a request.
    pub(super) fn queue_response(&mut self, response: Response) {
        self.acks += response.acks.len();
        self.queued
            .push_back(QueuedAnswer::Response(Box::new(response)));
    }

    /// Queues the outcome of a command for one conn.
    pub(super) fn queue_delivery(
        &mut self,
        line: u64,
        wants_ack: bool,
        status: Arc<DeliveryStatus>,
    ) {
        self.acks += 1;
        self.queued.push_back(QueuedAnswer::Direct {
            line,
            wants_ack,
            status,
        });
    }

    /// Queues the confirmation that every worker has executed a command.
    pub(super) fn queue_confirmation(&mut self, line: u64, worker_ack: Arc<WorkerAck>) {
        self.acks += 1;
        self.queued
            .push_back(QueuedAnswer::Confirmation { line, worker_ack });
    }

    /// Queues the number of conns closed by a `disconnect_sub`.
    pub(super) fn queue_revocation(&mut self, line: u64, revocation: Arc<Revocation>) {
        self.acks += 1;
        self.queued
            .push_back(QueuedAnswer::Revocation { line, revocation });
    }

    /// Queues the numbers of subscribers of channels.
    pub(super) fn queue_counts(&mut self, line: u64, counts: SubscriberCounts) {
        self.acks += counts.len();
        self.queued.push_back(QueuedAnswer::Counts { line, counts });
    }

    /// Queues bytes that need no confirmation.
    pub(super) fn queue_bytes(&mut self, bytes: &[u8]) {
        if self.queued.is_empty() {
            self.unsent.extend_from_slice(bytes);
        } else {
            self.ready_bytes += bytes.len();
            self.queued.push_back(QueuedAnswer::Ready(Box::from(bytes)));
        }
    }

    /// Writes the complete answers before the first incomplete answer into the buffer.
    pub(super) fn settle(&mut self, date: SystemTime) {
        while let Some(queued) = self.queued.front() {
            let Some(acks) = push_settled(queued, date, &mut self.unsent) else {
                return;
            };
            self.acks -= acks;
            if let QueuedAnswer::Ready(bytes) = queued {
                self.ready_bytes -= bytes.len();
            }
            self.queued.pop_front();
        }
        // An idle feeder does not keep the memory that a burst required.
        if self.queued.capacity() * size_of::<QueuedAnswer>() > BUFFER_BYTES_KEPT {
            self.queued = VecDeque::new();
        }
    }

    /// Returns the bytes to send next.
    pub(super) fn unsent(&self) -> &[u8] {
        certain::skip(&self.unsent, self.sent)
    }

    /// Removes the first `bytes` unsent bytes, which have been sent.
    pub(super) fn advance(&mut self, bytes: usize) {
        self.sent += bytes;
        self.sent_total += bytes as u64;
        debug_assert!(self.sent <= self.unsent.len());
        if self.sent < self.unsent.len() {
            // The buffer must not grow if a feeder always leaves a few bytes unread.
            if self.sent >= SENT_BYTES_KEPT {
                self.unsent.drain(..self.sent);
                self.sent = 0;
            }
            return;
        }
        self.sent = 0;
        self.unsent.clear();
        if self.unsent.capacity() > BUFFER_BYTES_KEPT {
            self.unsent = Vec::new();
        }
    }

    /// Drops all answers and bytes, as if they had been sent.
    pub(super) fn abandon(&mut self) {
        *self = Self {
            sent_total: self.ready_total(),
            ..Self::default()
        };
    }

    /// Returns the number of bytes sent so far.
    pub(super) fn sent_total(&self) -> u64 {
        self.sent_total
    }

    /// Returns the number of bytes that have been sent or are ready to be sent.
    pub(super) fn ready_total(&self) -> u64 {
        self.sent_total + (self.unsent().len() + self.ready_bytes) as u64
    }

    /// Whether an answer is incomplete because it needs further confirmations of workers or of the
    /// journal.
    pub(super) fn is_waiting(&self) -> bool {
        !self.queued.is_empty()
    }

    /// Whether the queue has neither unsent bytes nor pending answers.
    pub(super) fn is_empty(&self) -> bool {
        self.queued.is_empty() && self.unsent.is_empty()
    }

    /// Whether so many answers are unsent that the feeder's socket should not be read.
    pub(super) fn is_congested(&self) -> bool {
        self.acks >= FEED_ACKS_MAX
            || self.unsent().len() + self.ready_bytes >= FEED_ANSWER_BYTES_MAX
    }
}

/// Returns the answer to a refused line.
pub(super) fn refusal_line(line: u64, refusal: &Refusal) -> Vec<u8> {
    error_line(line, refusal.code(), &refusal.to_string())
}

/// Returns the answer to an executed command.
fn ok_line(line: u64) -> Vec<u8> {
    format!("{{\"ok\":true,\"line\":{line}}}\n").into_bytes()
}

/// Appends an answer to `out` and returns the number of acknowledgements in the answer. If the
/// answer is not complete yet, returns `None`.
fn push_settled(queued: &QueuedAnswer, date: SystemTime, out: &mut Vec<u8>) -> Option<usize> {
    match queued {
        QueuedAnswer::Confirmation { line, worker_ack } => {
            worker_ack.sum()?;
            out.extend_from_slice(&ok_line(*line));
            Some(1)
        }
        QueuedAnswer::Counts { line, counts } => {
            push_counts(*line, counts, out).then_some(counts.len())
        }
        QueuedAnswer::Direct {
            line,
            wants_ack,
            status,
        } => {
            push_delivery(*line, *wants_ack, status.delivery()?, out);
            Some(1)
        }
        QueuedAnswer::Line { line, ack } => {
            push_line(*line, ack, ack.outcome()?, out);
            Some(1)
        }
        QueuedAnswer::Ready(bytes) => {
            out.extend_from_slice(bytes);
            Some(0)
        }
        QueuedAnswer::Response(response) => {
            push_response(response, date, out).then_some(response.acks.len())
        }
        QueuedAnswer::Revocation { line, revocation } => {
            let conns = revocation.worker_ack.sum()?;
            let answer = format_args!("{{\"ok\":true,\"line\":{line},\"conns\":{conns}}}\n");
            push_display(&answer, out);
            Some(1)
        }
        QueuedAnswer::Silent {
            first,
            last,
            commit,
        } => {
            match commit.state() {
                CommitState::Pending => return None,
                CommitState::Refused => push_refusals(*first..=*last, out),
                CommitState::Written | CommitState::Committed | CommitState::Unsynced => {}
            }
            Some(1)
        }
    }
}

/// Appends the outcome of a command for one conn. Success is reported only if the command has
/// `ack`.
fn push_delivery(line: u64, wants_ack: bool, delivery: Delivery, out: &mut Vec<u8>) {
    let answer = match delivery {
        Delivery::Done if wants_ack => ok_line(line),
        Delivery::Done => return,
        Delivery::Full => error_line(line, "conn_full", "too many bytes wait for this connection"),
        Delivery::NoConn => error_line(line, "no_conn", "there is no such connection"),
    };
    out.extend_from_slice(&answer);
}

/// Appends the numbers of subscribers if all are known. Returns whether they were appended.
fn push_counts(line: u64, counts: &SubscriberCounts, out: &mut Vec<u8>) -> bool {
    let numbers = counts.iter().map(|(_, worker_ack)| worker_ack.sum());
    let Some(numbers) = numbers.collect::<Option<Vec<u64>>>() else {
        return false;
    };
    push_display(
        &format_args!("{{\"ok\":true,\"line\":{line},\"presence\":"),
        out,
    );
    let mut before = b'{';
    for ((channel, _), subscribers) in counts.iter().zip(numbers) {
        out.push(before);
        push_json_string(channel.as_str(), out);
        push_display(&format_args!(":{subscribers}"), out);
        before = b',';
    }
    out.extend_from_slice(b"}}\n");
    true
}

/// Returns an error line.
pub(super) fn error_line(line: u64, code: &str, message: &str) -> Vec<u8> {
    let mut out = b"{\"ok\":false,\"line\":".to_vec();
    push_display(&line, &mut out);
    out.extend_from_slice(b",\"error\":\"");
    out.extend_from_slice(code.as_bytes());
    out.extend_from_slice(b"\",\"message\":");
    push_json_string(message, &mut out);
    out.extend_from_slice(b"}\n");
    out
}

fn push_refusals(lines: RangeInclusive<u64>, out: &mut Vec<u8>) {
    for line in lines {
        out.extend_from_slice(&refusal_line(line, &Refusal::Journal));
    }
}

fn push_line(line: u64, ack: &Ack, outcome: Result<u64, Refusal>, out: &mut Vec<u8>) {
    match outcome {
        Ok(subscribers) => {
            push_ack(Some(line), ack, subscribers, out);
            out.push(b'\n');
        }
        Err(refusal) => out.extend_from_slice(&refusal_line(line, &refusal)),
    }
}

/// Appends `{"ok":true,…}`.
fn push_ack(line: Option<u64>, ack: &Ack, subscribers: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"ok\":true");
    if let Some(line) = line {
        out.extend_from_slice(b",\"line\":");
        push_display(&line, out);
    }
    out.extend_from_slice(b",\"id\":\"");
    push_display(&ack.id, out);
    out.extend_from_slice(b"\",\"subscribers\":");
    push_display(&subscribers, out);
    if ack.worker_ack.is_none() {
        out.extend_from_slice(b",\"repeated\":true");
    }
    out.push(b'}');
}

/// Appends a response if it is complete. Returns whether it was appended.
fn push_response(response: &Response, date: SystemTime, out: &mut Vec<u8>) -> bool {
    let outcomes: Option<Vec<_>> = response.acks.iter().map(Ack::outcome).collect();
    let Some(outcomes) = outcomes else {
        return false;
    };
    let mut body = Vec::with_capacity(response.acks.len() * 64 + 3);
    for (index, (ack, outcome)) in response.acks.iter().zip(outcomes).enumerate() {
        if index > 0 {
            body.push(b',');
        }
        match outcome {
            Ok(subscribers) => push_ack(None, ack, subscribers, &mut body),
            Err(refusal) => {
                let refusal = RequestRefusal {
                    index: (response.shape == Shape::Array).then_some(index),
                    ..RequestRefusal::new(
                        Status::ServiceUnavailable,
                        refusal.code(),
                        &refusal.to_string(),
                    )
                };
                push_refused(&refusal, response.is_last, Method::Post, date, out);
                return true;
            }
        }
    }
    if response.shape == Shape::Array {
        body.insert(0, b'[');
        body.push(b']');
    }
    body.push(b'\n');
    push_accepted(&body, response.is_last, date, out);
    true
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::id::{Epoch, Sequence};

    fn ack(sequence: u64, worker_ack: Option<&Arc<WorkerAck>>) -> Ack {
        Ack {
            id: Cursor {
                epoch: Epoch::new(1),
                sequence: Sequence(sequence),
            },
            worker_ack: worker_ack.map(Arc::clone),
            commit: None,
        }
    }

    fn text(answers: &mut AnswerQueue) -> String {
        answers.settle(UNIX_EPOCH);
        let text = String::from_utf8(answers.unsent().to_vec()).unwrap();
        answers.advance(text.len());
        text
    }

    #[test]
    fn answers_keep_their_order_while_an_earlier_one_waits() {
        let mut answers = AnswerQueue::default();
        let worker_ack = Arc::new(WorkerAck::new(1));
        answers.queue_ack(1, ack(7, Some(&worker_ack)));
        answers.queue_bytes(&refusal_line(2, &Refusal::NotUtf8));
        answers.queue_ack(3, ack(7, None));
        assert_eq!(text(&mut answers), "");
        worker_ack.confirm(4);
        assert_eq!(
            text(&mut answers),
            "{\"ok\":true,\"line\":1,\"id\":\"000000000001-7\",\"subscribers\":4}\n\
             {\"ok\":false,\"line\":2,\"error\":\"bad_json\",\"message\":\"not UTF-8\"}\n\
             {\"ok\":true,\"line\":3,\"id\":\"000000000001-7\",\"subscribers\":0,\"repeated\":true}\n"
        );
        assert!(answers.is_empty());
    }

    #[test]
    fn response_waits_for_its_last_publication() {
        let mut answers = AnswerQueue::default();
        let worker_ack = Arc::new(WorkerAck::new(1));
        answers.queue_response(Response {
            acks: vec![ack(1, None), ack(2, Some(&worker_ack))],
            shape: Shape::Array,
            is_last: true,
        });
        assert_eq!(text(&mut answers), "");
        worker_ack.confirm(0);
        let response = text(&mut answers);
        let (head, body) = response.split_once("\r\n\r\n").unwrap();
        assert_eq!(
            head,
            format!(
                "HTTP/1.1 200 OK\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\n\
                 Content-Type: application/json\r\nContent-Length: {}\r\nConnection: close",
                body.len()
            )
        );
        assert_eq!(
            body,
            "[{\"ok\":true,\"id\":\"000000000001-1\",\"subscribers\":0,\"repeated\":true},\
             {\"ok\":true,\"id\":\"000000000001-2\",\"subscribers\":0}]\n"
        );
    }

    #[test]
    fn buffer_does_not_grow_if_a_feeder_never_catches_up() {
        let mut answers = AnswerQueue::default();
        answers.queue_bytes(b"x");
        for _ in 0..1000 {
            answers.queue_bytes(&[b'y'; 10_000]);
            answers.advance(10_000);
        }
        assert_eq!(answers.unsent().len(), 1);
        assert!(answers.unsent.capacity() <= 2 * FEED_ANSWER_BYTES_MAX);
    }

    #[test]
    fn answers_are_congested_by_bytes_and_by_acknowledgements() {
        let mut answers = AnswerQueue::default();
        answers.queue_bytes(&vec![b'x'; FEED_ANSWER_BYTES_MAX]);
        assert!(answers.is_congested());
        answers.advance(1);
        assert!(!answers.is_congested());
        let worker_ack = Arc::new(WorkerAck::new(1));
        let mut answers = AnswerQueue::default();
        for _ in 0..FEED_ACKS_MAX {
            assert!(!answers.is_congested());
            answers.queue_ack(1, ack(1, Some(&worker_ack)));
        }
        assert!(answers.is_congested());
        answers.queue_bytes(b"x");
        assert_eq!(answers.unsent(), b"");
    }
}
