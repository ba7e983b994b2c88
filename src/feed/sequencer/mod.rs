//! SHELL: the sequencer numbers publications, adds them to the log, and posts them to the workers
//! that have subscribers.
//!
//! The node has one sequence, and only the sequencer assigns its numbers. So all workers receive
//! publications in the same order. A batch contains the publications from one read of one feeder. A
//! batch that becomes large is posted early, and the other publications form another batch. While a
//! worker's inbox is full, posting blocks the whole feed. During that time the log's bounds are
//! still enforced.

use std::sync::Arc;

use crossbeam_channel::Receiver;

use super::FeedChange;
use super::answer_queue::Ack;
use super::protocol::draft::{Channels, Draft};
use crate::backend::{
    BackendMessage, CloseInfo, Delivery, DeliveryStatus, DirectMessage, Revocation,
    SubscriberCounts, WatchedChannels,
};
use crate::certain;
use crate::config::limits::{
    BATCH_BYTES_MAX, BATCH_PUBLICATIONS_MAX, CHANNELS_PER_PUBLICATION_MAX, EVICTIONS_PER_TURN_MAX,
};
use crate::frame::{Publication, WorkerAck};
use crate::id::{ChannelName, ConnName, Cursor, Sequence};
use crate::journal::Journal;
use crate::journal::commit_state::Commit;
#[cfg(test)]
use crate::log::EpochChange;
use crate::log::Writer;
use crate::log::dedupe::DedupeKeys;
use crate::metrics::FeedMetrics;
use crate::spans::{PublicationSpan, Tracer};
use crate::sys::clock::Clock;
use crate::time::{Deadline, Now};
use crate::warnings::{self, Event, WarningKind, Warnings};
use crate::worker::mail::inbox::{Mail, Mailbox, Posted};
use crate::worker::mail::outgoing::Outgoing;

/// Assigns sequence numbers and posts batches to the workers.
#[derive(Debug)]
pub(super) struct Sequencer {
    /// The last assigned id.
    head: Cursor,
    writer: Writer,
    dedupe: DedupeKeys,
    mailboxes: Vec<Mailbox>,
    batch: Vec<Staged>,
    outgoing: Outgoing,
    clock: Clock,
    /// The total number of bytes of the publications in `batch`.
    batch_bytes: u64,
    /// The journal; `None` if no journal is configured. A batch is written to the journal before it
    /// is posted.
    journal: Option<Journal>,
    metrics: Arc<FeedMetrics>,
    warnings: Arc<Warnings>,
    /// Decides which publications have a span; `None` if tracing is off.
    tracer: Option<Tracer>,
}

/// A publication of the batch, with its acknowledgement.
#[derive(Debug)]
struct Staged {
    publication: Publication,
    worker_ack: Option<Arc<WorkerAck>>,
    /// The span, if the publication is sampled.
    span: Option<Arc<PublicationSpan>>,
}

/// The state with which a sequencer starts.
#[derive(Debug)]
pub(super) struct SequencerStart {
    pub(super) head: Cursor,
    pub(super) dedupe: DedupeKeys,
    pub(super) journal: Option<Journal>,
}

/// The outcome of posting a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
enum BatchOutcome {
    /// The batch was posted, or it still collects publications.
    Accepted,
    /// The journal refused the batch. The batch was not posted, and its numbers are free again.
    Refused,
}

/// Whether a publication is acknowledged after the workers have received it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Acknowledge {
    Yes,
    No,
}

impl Sequencer {
    pub(super) fn new(
        start: SequencerStart,
        writer: Writer,
        mailboxes: Vec<Mailbox>,
        clock: Clock,
        metrics: Arc<FeedMetrics>,
        warnings: Arc<Warnings>,
    ) -> Self {
        Self {
            head: start.head,
            writer,
            dedupe: start.dedupe,
            outgoing: Outgoing::new(mailboxes.len()),
            mailboxes,
            clock,
            batch: Vec::new(),
            batch_bytes: 0,
            journal: start.journal,
            metrics,
            warnings,
            tracer: None,
        }
    }

    /// Begins spans for the publications that the tracer samples.
    pub(super) fn traced_by(mut self, tracer: Option<Tracer>) -> Self {
        self.tracer = tracer;
        self
    }

    /// Adds the publications of a draft to the batch. The returned acknowledgement has the id of
    /// the last publication.
    pub(super) fn sequence(&mut self, draft: Draft, acknowledge: Acknowledge, now: Now) -> Ack {
        if let (None, Channels::One(channel)) = (&draft.dedupe, &draft.channels) {
            let channel = channel.clone();
            let worker_ack = Self::worker_ack(acknowledge, 1);
            return self.sequence_one(draft, channel, worker_ack, now);
        }
        self.sequence_many(&draft, acknowledge, now)
    }

    /// Sends a message to one conn. The message is sent after all earlier publications.
    pub(super) fn send_to_conn(
        &mut self,
        to: ConnName,
        message: BackendMessage,
        status: Option<Arc<DeliveryStatus>>,
    ) {
        self.post();
        let unheard = status.as_ref().map(Arc::clone);
        let direct = DirectMessage {
            to,
            message,
            status,
        };
        let posted = self.send(usize::from(to.worker), Mail::Direct(direct));
        if posted == Posted::WorkerGone
            && let Some(status) = unheard
        {
            status.settle(Delivery::NoConn);
        }
    }

    /// Closes all conns whose token has this subject. The conns are closed after all earlier
    /// publications.
    pub(super) fn revoke(&mut self, sub: Box<str>, close_info: CloseInfo) -> Arc<Revocation> {
        self.post();
        let revocation = Arc::new(Revocation {
            sub,
            close_info,
            worker_ack: self.ack_of_workers(),
        });
        for worker in 0..self.mailboxes.len() {
            let mail = Mail::Revoke(Arc::clone(&revocation));
            if self.send(worker, mail) == Posted::WorkerGone {
                // The feed does not need a wake, because it checks the feeder's answer after this
                // call.
                let _is_last = revocation.worker_ack.confirm(0);
            }
        }
        revocation
    }

    /// Asks all workers for the numbers of subscribers of channels. Each worker counts after it has
    /// processed all earlier publications.
    pub(super) fn count(
        &mut self,
        channels: impl IntoIterator<Item = ChannelName>,
    ) -> SubscriberCounts {
        self.post();
        let counts = channels.into_iter();
        let counts: SubscriberCounts = counts.map(|name| (name, self.ack_of_workers())).collect();
        for worker in 0..self.mailboxes.len() {
            if self.send(worker, Mail::Count(Arc::clone(&counts))) == Posted::WorkerGone {
                for (_, worker_ack) in counts.iter() {
                    // The feed does not need a wake, because it checks the feeder's answer after
                    // this call.
                    let _is_last = worker_ack.confirm(0);
                }
            }
        }
        counts
    }

    /// Asks all workers to report when a subscription of these channels begins or ends.
    /// `worker_ack` is complete when all workers have confirmed the request.
    pub(super) fn watch(&mut self, watch: &Arc<WatchedChannels>, worker_ack: &Arc<WorkerAck>) {
        for worker in 0..self.mailboxes.len() {
            let mail = Mail::Watch {
                watched: Arc::clone(watch),
                worker_ack: Arc::clone(worker_ack),
            };
            if self.send(worker, mail) == Posted::WorkerGone {
                // The worker has stopped and cannot confirm, so its confirmation is added here. The
                // feed does not need a wake, because it checks the feeder's answer after this call.
                let _is_last = worker_ack.confirm(0);
            }
        }
    }

    /// Posts a message to one worker. Enforces the log's bounds while the worker's inbox is full.
    fn send(&mut self, worker: usize, mail: Mail) -> Posted {
        let Self {
            writer,
            mailboxes,
            metrics,
            warnings,
            clock,
            ..
        } = self;
        let mailbox = mailboxes.get(worker);
        let Some(mailbox) = certain::some(mailbox, "each worker has a mailbox") else {
            return Posted::WorkerGone;
        };
        let meanwhile = || enforce_bounds(writer, metrics, clock.now());
        let posted = mailbox.post_and_meanwhile(mail, meanwhile);
        if posted == Posted::AfterWait {
            metrics.inbox_waits.increment();
            warn_of_wait(warnings, worker, clock.now());
        }
        posted
    }

    /// Returns an acknowledgement that is complete when each worker has confirmed it once.
    pub(super) fn ack_of_workers(&self) -> WorkerAck {
        WorkerAck::new(certain::to_u32(self.mailboxes.len()))
    }

    /// Begins the changes that reloads have ordered, or continues a change that has begun.
    pub(super) fn take_changes(&mut self, changes: &Receiver<FeedChange>) {
        for FeedChange { rules, journal } in changes.try_iter() {
            self.writer.change_rules(rules);
            if let Some(open) = &mut self.journal {
                open.set_retained(journal);
            }
        }
        if self.writer.is_changing_rules() {
            self.writer.continue_change();
            // Sleeping workers are woken, so that they update the rules of their channels.
            if !self.writer.is_changing_rules() {
                self.mailboxes.iter().for_each(Mailbox::wake);
            }
        }
    }

    /// Enforces the log's bounds if an eviction is due, and updates the log's metrics.
    pub(super) fn evict_if_due(&mut self, now: Now) {
        let due = self.next_eviction();
        if due.is_some_and(|due| now.has_reached(due)) {
            enforce_bounds(&mut self.writer, &self.metrics, now);
        }
        // Workers may have encoded more frames, which use memory of the log. So the metrics are
        // updated even if no eviction is due.
        show_log(&self.writer, &self.metrics);
    }

    /// Returns the time at which the next publication must be removed from the log.
    pub(super) fn next_eviction(&self) -> Option<Deadline> {
        self.writer.next_eviction()
    }

    /// Adds the batch to the log and posts it. Blocks while an inbox is full.
    pub(super) fn post(&mut self) {
        // The outcome is ignored here. If the journal refuses the batch, the feeders receive an
        // error through the [`Commit`] of the batch.
        let _outcome = self.post_batch();
    }

    /// Begins a new epoch, whose numbers continue after `head`. Publications of the old epoch up to
    /// `valid_until` remain valid in the new epoch. The current batch belongs to the old epoch.
    // Only tests call this function. In a running server, an epoch change would need a storage
    // engine that orders the publications, and no such engine exists yet.
    #[cfg(test)]
    pub(super) fn change_epoch(&mut self, head: Cursor, valid_until: Option<Sequence>) {
        self.post();
        self.writer.change_epoch(&EpochChange {
            from: self.head.epoch,
            to: head.epoch,
            head: head.sequence,
            valid_until,
        });
        self.head = head;
        self.dedupe.forget_after(valid_until.unwrap_or_default());
        // Sleeping workers are woken, so that they switch to the new epoch immediately.
        self.mailboxes.iter().for_each(Mailbox::wake);
    }

    /// Checks the journal's files if a check is due.
    pub(super) fn check_journal(&mut self) {
        if let Some(journal) = &mut self.journal {
            journal.check();
        }
    }

    /// Returns the reason why the journal refuses publications. Returns `None` if the journal
    /// accepts publications or if there is no journal.
    pub(super) fn journal_failure(&self) -> Option<&str> {
        self.journal.as_ref().and_then(Journal::failure)
    }

    /// Makes all written records durable, and closes the journal.
    pub(super) fn close(self) {
        if let Some(journal) = self.journal {
            journal.close();
        }
    }

    fn post_batch(&mut self) -> BatchOutcome {
        if self.batch.is_empty() {
            return BatchOutcome::Accepted;
        }
        if !self.journal.as_mut().is_none_or(Journal::append) {
            self.release_ids();
            return BatchOutcome::Refused;
        }
        self.batch_bytes = 0;
        let count = self.batch.len() as u64;
        let accepted = self.batch.first().map(|first| first.publication.published);
        self.metrics.publications.add(count);
        // Only the numbers of this batch are announced. If the journal refuses a later batch, the
        // numbers of that batch are assigned again.
        if let Some(last) = self.batch.last() {
            self.writer.announce(last.publication.id.sequence);
        }
        let (mut worker_acks, mut spans) = (Vec::new(), Vec::new());
        for staged in std::mem::take(&mut self.batch) {
            let (writer, outgoing) = (&mut self.writer, &mut self.outgoing);
            let (worker_ack, span) = (staged.worker_ack, staged.span);
            let publication = staged.publication;
            let trimmed = outgoing.add(writer, publication, worker_ack.as_ref(), span.as_ref());
            self.metrics.logged.increment();
            self.metrics.evicted.add(u64::from(trimmed));
            worker_acks.extend(worker_ack);
            spans.extend(span);
        }
        self.post_outgoing();
        self.writer.note_posted();
        // From now on, a client that resumes receives these publications, whichever worker serves
        // it. So the sequencer adds its own confirmation to each acknowledgement.
        for worker_ack in worker_acks {
            let subscribers = 0;
            // The feed does not need a wake, because its thread sends the answers after posting.
            let _is_last = worker_ack.confirm(subscribers);
        }
        let now = self.clock.now();
        spans.iter().for_each(|span| span.note_posted(now));
        // All publications of a batch were accepted at the same time.
        if let Some(accepted) = accepted {
            let took = now.micros_since(accepted);
            self.metrics.post_us.record_many(took, count);
        }
        enforce_bounds(&mut self.writer, &self.metrics, now);
        BatchOutcome::Accepted
    }

    /// Posts the entries that were added to the log. Blocks while an inbox is full.
    fn post_outgoing(&mut self) {
        while let Some((worker, batch)) = self.outgoing.take() {
            let worker_acks: Vec<_> = batch.iter().filter_map(|i| i.worker_ack.clone()).collect();
            if self.send(worker, Mail::Publish(batch)) == Posted::WorkerGone {
                // A stopped worker has no subscribers and cannot confirm, so the sequencer confirms
                // 0 subscribers for it.
                worker_acks.iter().for_each(|worker_ack| {
                    let _is_last = worker_ack.confirm(0);
                });
            }
        }
    }

    /// Drops the batch, and frees its numbers for the next batch.
    fn release_ids(&mut self) {
        if let Some(first) = self.batch.first() {
            self.head.sequence = Sequence(first.publication.id.sequence.0 - 1);
        }
        self.metrics.errors.add(self.batch.len() as u64);
        self.batch.clear();
        self.batch_bytes = 0;
        self.dedupe.forget_after(self.head.sequence);
    }

    fn commit(&mut self) -> Option<Arc<Commit>> {
        self.journal.as_mut().map(Journal::commit)
    }

    /// Handles the common case of one channel and no idempotency key. In this case the payload is
    /// moved instead of cloned.
    fn sequence_one(
        &mut self,
        draft: Draft,
        channel: ChannelName,
        worker_ack: Option<Arc<WorkerAck>>,
        now: Now,
    ) -> Ack {
        let id = self.next_id();
        let ledger = self.writer.log().ledger();
        let publication = Publication::new(id, channel, draft.payload, now, ledger)
            .labelled(draft.event, draft.key)
            .traced(draft.traceparent)
            .expiring(draft.ttl.map(|ttl| now.after(ttl)));
        let commit = self.commit();
        let staged = Staged {
            span: self.begin_span(&publication, draft.is_from_client),
            publication,
            worker_ack: worker_ack.clone(),
        };
        let _outcome = self.push(staged, None, draft.is_from_client);
        Ack {
            id,
            worker_ack,
            commit,
        }
    }

    fn sequence_many(&mut self, draft: &Draft, acknowledge: Acknowledge, now: Now) -> Ack {
        let mut last = self.head;
        let mut fresh = Vec::new();
        for channel in draft.channels.as_slice() {
            match self.first_id(channel, draft, now) {
                Some(first) => {
                    self.metrics.repeated.increment();
                    last = first;
                }
                None => {
                    last = self.next_id();
                    fresh.push((last, channel));
                    if let Some(key) = &draft.dedupe {
                        let keys = self.dedupe.of(draft.is_from_client);
                        keys.remember(channel, key, last, now);
                    }
                }
            }
        }
        // The acknowledgement is created with the number of expected confirmations, so the new
        // publications must be counted first.
        let worker_ack = match fresh.len() {
            0 => None,
            publications => Self::worker_ack(acknowledge, publications),
        };
        // If the draft repeats an earlier publication, the journal may not have written that
        // publication yet. The outcome of the newest batch is known last, so the acknowledgement
        // waits for that outcome.
        let mut commit = self.journal.as_ref().map(Journal::newest);
        for (id, channel) in fresh {
            let (channel, payload) = (channel.clone(), draft.payload.clone());
            let ledger = self.writer.log().ledger();
            let publication = Publication::new(id, channel, payload, now, ledger)
                .labelled(draft.event.clone(), draft.key.clone())
                .traced(draft.traceparent.clone())
                .expiring(draft.ttl.map(|ttl| now.after(ttl)));
            commit = self.commit();
            let staged = Staged {
                span: self.begin_span(&publication, draft.is_from_client),
                publication,
                worker_ack: worker_ack.clone(),
            };
            if self.push(staged, draft.dedupe.as_deref(), draft.is_from_client)
                == BatchOutcome::Refused
            {
                break;
            }
        }
        Ack {
            id: last,
            worker_ack,
            commit,
        }
    }

    fn first_id(&mut self, channel: &ChannelName, draft: &Draft, now: Now) -> Option<Cursor> {
        let keys = self.dedupe.of(draft.is_from_client);
        keys.first(channel, draft.dedupe.as_ref()?, now)
    }

    fn next_id(&mut self) -> Cursor {
        self.head.sequence = self.head.sequence.next();
        self.head
    }

    fn worker_ack(acknowledge: Acknowledge, publications: usize) -> Option<Arc<WorkerAck>> {
        match acknowledge {
            Acknowledge::No => None,
            // The sequencer itself confirms each publication once. [`Outgoing::add`] adds one
            // expected confirmation for each worker that receives a publication.
            Acknowledge::Yes => {
                debug_assert!(
                    publications <= CHANNELS_PER_PUBLICATION_MAX,
                    "{publications}"
                );
                let confirmations = certain::to_u32(publications);
                Some(Arc::new(WorkerAck::new(confirmations)))
            }
        }
    }

    fn push(&mut self, staged: Staged, dedupe: Option<&str>, is_from_client: bool) -> BatchOutcome {
        if let Some(journal) = &mut self.journal {
            journal.stage(&staged.publication, dedupe, is_from_client);
        }
        self.batch_bytes += staged.publication.bytes_held();
        self.batch.push(staged);
        if self.batch.len() >= BATCH_PUBLICATIONS_MAX || self.batch_bytes >= BATCH_BYTES_MAX {
            return self.post_batch();
        }
        BatchOutcome::Accepted
    }
}

impl Sequencer {
    /// Begins the span of a publication, if the publication is sampled.
    fn begin_span(
        &self,
        publication: &Publication,
        is_from_client: bool,
    ) -> Option<Arc<PublicationSpan>> {
        let tracer = self.tracer.as_ref()?;
        let traceparent = publication.traceparent();
        let context = match is_from_client {
            true => tracer.sample_for_client(traceparent, publication.published),
            false => tracer.sample(traceparent),
        }?;
        // The feed accepts a publication at the time at which it has read the publication.
        let (read, numbered) = (publication.published, self.clock.now());
        let span = PublicationSpan::begin(tracer, context, publication, read, numbered);
        Some(span)
    }
}

/// Removes entries that the log's bounds no longer allow, and updates the log's metrics.
fn enforce_bounds(writer: &mut Writer, metrics: &FeedMetrics, now: Now) {
    let evicted = writer.trim(EVICTIONS_PER_TURN_MAX) + writer.evict(now, EVICTIONS_PER_TURN_MAX);
    metrics.evicted.add(u64::from(evicted));
    show_log(writer, metrics);
}

fn show_log(writer: &Writer, metrics: &FeedMetrics) {
    metrics.log_entries.set(writer.log().len());
    metrics.log_bytes.set(writer.log().bytes());
}

/// Writes a warning that the feed had to wait for a worker.
fn warn_of_wait(warnings: &Warnings, worker: usize, now: Now) {
    let kind = WarningKind::WorkerLate;
    if warnings.admit(kind, now) {
        let worker = u16::try_from(worker).ok();
        let cause = "its inbox was full, so all feeders waited for it";
        let event = Event {
            worker,
            ..Event::new(cause)
        };
        warnings::log(kind, event);
    }
}

#[cfg(test)]
mod tests;
