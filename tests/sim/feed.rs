//! The feed's side of publications: it numbers them, adds them to the log and posts them to
//! workers.
//!
//! The real sequencer does all [`Step`]s in one pass. Here each step may be late: adding a
//! publication, posting a message to a worker, marking the batch as posted, confirming the batch,
//! and evicting from the log. [`crate::world`] runs steps between turns. A worker's network runs
//! steps in the middle of a turn, because the feed's thread may act at any time.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use fanfare::config::Config;
use fanfare::frame::{Payload, Publication, WorkerAck};
use fanfare::id::{ChannelName, Cursor, Epoch, Sequence};
use fanfare::log::{EpochChange, Writer};
use fanfare::time::Now;
use fanfare::worker::mail::inbox::{AskOutcome, Batch, DrainOrder, Mail, Mailbox, Posted};
use fanfare::worker::mail::outgoing::Outgoing;
use fanfare::worker::mail::survey::Survey;

use crate::disk::Journal;
use crate::net::MidTurn;
use crate::spans::Spans;
use crate::world::node::NodeWorker;

/// The maximum number of batches in an inbox. It is below an inbox's capacity, so posting never has
/// to wait for room.
const BATCHES_MAX: usize = 50;
/// If an inbox has this many messages, the backend sends no more messages. The number is below an
/// inbox's capacity.
const MAILS_MAX: usize = 55;
/// The maximum number of publications in a fault phase.
const PUBLICATIONS_MAX: u64 = 800;
/// The chance of an epoch change when the feed acts in the middle of a turn, in thousandths.
const CHANGES_PER_ACT: u32 = 20;
/// The number of parts in which the writer visits the channels of the log.
const SHARDS: usize = 256;
/// The payload size of the last publication of each channel. The last publication has no key.
pub(crate) const LAST_BYTES: usize = 5;

/// The mailboxes of all workers, by worker number. A worker that has ended has no mailbox.
#[derive(Clone, Debug)]
pub(crate) struct Mailboxes(Vec<Option<Mailbox>>);

impl Mailboxes {
    pub(crate) fn new(all: impl IntoIterator<Item = Mailbox>) -> Self {
        Self(all.into_iter().map(Some).collect())
    }

    pub(crate) fn count(&self) -> u32 {
        self.0.len() as u32
    }

    /// Whether the inboxes have room for a message from the backend.
    pub(crate) fn have_room(&self) -> bool {
        let mut open = self.0.iter().flatten();
        open.all(|mailbox| mailbox.waiting() < MAILS_MAX)
    }

    /// Whether a worker has messages that it has not processed.
    pub(crate) fn is_waiting(&self, worker: usize) -> bool {
        let mailbox = self.0[worker].as_ref();
        mailbox.is_some_and(|mailbox| mailbox.waiting() > 0)
    }

    fn has_room_for_batch(&self, worker: usize) -> bool {
        let mailbox = self.0[worker].as_ref();
        mailbox.is_none_or(|mailbox| mailbox.waiting() < BATCHES_MAX)
    }

    /// Posts a message to one worker. Returns false if the worker has ended.
    pub(crate) fn post(&self, worker: usize, mail: Mail) -> bool {
        let Some(mailbox) = &self.0[worker] else {
            return false;
        };
        assert_eq!(mailbox.post(mail), Posted::AtOnce);
        true
    }

    pub(crate) fn order_config(&self, config: &Arc<Config>) {
        let open = self.0.iter().flatten();
        open.for_each(|mailbox| mailbox.order_config(Arc::clone(config)));
    }

    /// Asks a worker a question of an operator. Returns false if the worker has ended, or if too
    /// many questions wait.
    pub(crate) fn ask(&self, worker: usize, survey: Survey) -> bool {
        let mailbox = self.0[worker].as_ref();
        mailbox.is_some_and(|mailbox| mailbox.ask(survey) == AskOutcome::Queued)
    }

    pub(crate) fn order_drain(&self, order: DrainOrder) {
        let open = self.0.iter().flatten();
        open.for_each(|mailbox| mailbox.order_drain(order));
    }

    /// Posts a message to each worker. Returns the number of workers that have ended.
    pub(crate) fn post_to_all(&self, mut mail: impl FnMut() -> Mail) -> usize {
        let workers = 0..self.0.len();
        workers.filter(|worker| !self.post(*worker, mail())).count()
    }
}

/// One step of the sequencer's work on a batch of publications.
#[derive(Debug)]
enum Step {
    /// Adds a publication to the log.
    Add(Box<Publication>, Option<Arc<WorkerAck>>),
    /// Collects the batches to post.
    Collect,
    Post(usize, Batch),
    NotePosted,
    Confirm(Vec<Arc<WorkerAck>>),
    Evict,
}

/// An event in the log.
#[derive(Debug)]
pub(crate) enum LogEvent {
    /// The oldest entry of each channel directly before an epoch change. `None` if the channel has
    /// no entries.
    Evicted(Vec<Option<Sequence>>),
    Epoch(EpochChange),
    /// A change of the rules to those of a configuration has begun.
    Rules(Box<Config>),
    Publication(Arc<Publication>),
}

/// An acknowledgement for which a feeder waits.
#[derive(Debug)]
pub(crate) struct PendingAck {
    pub(crate) sequence: u64,
    pub(crate) worker_ack: Arc<WorkerAck>,
    /// The workers to which the publication was posted, or is about to be posted.
    pub(crate) workers: Vec<usize>,
    /// Whether the feed has posted the publication to all of these workers.
    pub(crate) is_posted: bool,
}

/// Returns the trace context of the publication with this serial, if it has one.
pub(crate) fn traceparent(serial: u64) -> String {
    let flags = serial % 256;
    format!("00-{serial:032x}-{serial:016x}-{flags:02x}")
}

/// The simulated sequencer, which numbers publications and posts them to the workers.
#[derive(Debug)]
pub(crate) struct Feed {
    epoch: Epoch,
    channels: Vec<ChannelName>,
    pub(crate) size_max: usize,
    /// The last number that was assigned to a publication.
    head: u64,
    /// The last serial: the number of publications and epoch changes so far.
    serial: u64,
    /// For each epoch: the number at which it begins, and the last number of the previous epoch
    /// that stays valid (0 if none does).
    spans: Vec<(u64, u64)>,
    /// The maximum number of further epoch changes.
    changes: u32,
    chances: fastrand::Rng,
    pub(crate) writer: Writer,
    pub(crate) mailboxes: Mailboxes,
    /// The numbered publications that are not yet in a batch.
    staged: Vec<(Publication, Option<Arc<WorkerAck>>)>,
    outgoing: Outgoing,
    steps: VecDeque<Step>,
    /// The worker that receives no messages for a while.
    late: Option<usize>,
    /// The time of the last eviction from the log.
    pub(crate) evicted_at: Now,
    /// The journal, in runs where the server may be killed and started again.
    pub(crate) journal: Option<Journal>,
    pub(crate) traced: Spans,
    /// Events that `take_events` has not returned yet.
    events: Vec<LogEvent>,
    /// Acknowledgements that not all workers have confirmed, in the order of their publications.
    pub(crate) worker_acks: Vec<PendingAck>,
    random: fastrand::Rng,
    /// Whether a worker is in the middle of a turn.
    pub(crate) is_mid_turn: bool,
    /// The chance that the feed acts when a worker makes a system call, in thousandths.
    pub(crate) acts_in_turns: u32,
}

impl Feed {
    pub(crate) fn new(
        epoch: Epoch,
        channels: Vec<ChannelName>,
        size_max: usize,
        journal: Option<Journal>,
        writer: Writer,
        random: fastrand::Rng,
    ) -> Self {
        Self {
            epoch,
            channels,
            size_max,
            head: 0,
            serial: 0,
            spans: vec![(0, 0)],
            changes: 0,
            chances: random.clone(),
            writer,
            mailboxes: Mailboxes::new([]),
            staged: Vec::new(),
            outgoing: Outgoing::new(0),
            steps: VecDeque::new(),
            late: None,
            evicted_at: Now(0),
            journal,
            traced: Spans::new(),
            events: Vec::new(),
            worker_acks: Vec::new(),
            random,
            is_mid_turn: false,
            acts_in_turns: 0,
        }
    }

    /// Prepares for a start of the server in an epoch. `mailboxes` are the mailboxes of its
    /// workers, and `serial` is the newest serial so far.
    pub(crate) fn begin(
        &mut self,
        mailboxes: Mailboxes,
        writer: Writer,
        (epoch, serial): (Epoch, u64),
    ) {
        self.outgoing = Outgoing::new(mailboxes.0.len());
        self.mailboxes = mailboxes;
        (self.epoch, self.head, self.serial) = (epoch, writer.head().0, serial);
        self.writer = writer;
        self.staged.clear();
        self.steps.clear();
        self.worker_acks.clear();
    }

    /// Returns the events that were added after the last call.
    pub(crate) fn take_events(&mut self) -> Vec<LogEvent> {
        std::mem::take(&mut self.events)
    }

    /// At random, begins or ends a delay of the messages to one worker. The feed's later steps wait
    /// until the delay ends.
    pub(crate) fn draw_late_worker(&mut self) {
        if self.random.u32(0..50) == 0 {
            let workers = self.mailboxes.0.len();
            let is_late = self.late.is_none() && self.random.bool();
            self.late = is_late.then(|| self.random.usize(0..workers));
        }
    }

    /// Ends the faults of the feed: delayed messages, actions in the middle of turns, and epoch
    /// changes.
    pub(crate) fn end_faults(&mut self) {
        (self.acts_in_turns, self.changes) = (0, 0);
        self.late = None;
    }

    /// Decides at random whether the epoch changes in this run.
    pub(crate) fn draw_changes(&mut self, mut chances: fastrand::Rng) {
        if chances.bool() {
            self.changes = chances.u32(1..=4);
        }
        self.chances = chances;
    }

    /// Begins a new epoch with a chance of `likely` thousandths, if all earlier publications can be
    /// posted first. Returns whether an epoch began.
    pub(crate) fn change_epoch_at_random(&mut self, likely: u32, now: Now) -> bool {
        if self.changes == 0 || self.chances.u32(0..1000) >= likely {
            return false;
        }
        self.post_everything(now);
        if !self.is_done() {
            return false;
        }
        self.changes -= 1;
        let (head, chances) = (self.head, &mut self.chances);
        let valid_until = match chances.u32(0..5) {
            0 => None,
            1 => Some(head),
            _ => Some(head.saturating_sub(chances.u64(1..12))),
        };
        // Each earlier epoch has a range of numbers without publications: the numbers above its
        // `valid_until`, up to its `begin`. If the limit is in such a range, it is raised to the
        // end of the range.
        let valid_until = valid_until.map(|valid: u64| {
            let mut all = self.spans.iter().rev();
            let of = all.find(|(_, valid_until)| valid >= *valid_until);
            of.map_or(valid, |(begin, _)| valid.max(*begin))
        });
        let least = valid_until.unwrap_or(0);
        let begin = match chances.u32(0..4) {
            0 => least + chances.u64(0..200),
            1 => least + chances.u64(0..3),
            2 if valid_until.is_none() => head,
            _ => least,
        };
        let change = EpochChange {
            from: self.epoch,
            to: Epoch::new(chances.u64(..) >> 1),
            head: Sequence(begin),
            valid_until: valid_until.map(Sequence),
        };
        let log = self.writer.log();
        let oldest = self.channels.iter().map(|name| log.oldest_of(name));
        self.events.push(LogEvent::Evicted(oldest.collect()));
        self.writer.change_epoch(&change);
        self.serial += 1;
        (self.epoch, self.head) = (change.to, begin);
        self.spans.push((begin, least));
        self.events.push(LogEvent::Epoch(change));
        true
    }

    /// Begins to change the rules of the log to those of a configuration.
    pub(crate) fn change_rules(&mut self, config: Config) {
        let change = self.writer.log().rules().change(&config);
        self.writer.change_rules(change.expect("few patterns"));
        self.events.push(LogEvent::Rules(Box::new(config)));
    }

    pub(crate) fn publish_at_random(&mut self, now: Now) {
        if self.serial >= PUBLICATIONS_MAX {
            return;
        }
        let channel = self.random.usize(0..self.channels.len());
        let size = match self.random.u32(0..10) {
            0 => self.random.usize(0..=self.size_max),
            1..4 => self.random.usize(0..300),
            _ => self.random.usize(0..30),
        };
        let ttl_ms = (self.random.u32(0..8) == 0).then(|| self.random.u64(0..200));
        self.sequence(channel, size, ttl_ms, now);
    }

    /// Creates a publication with the next number. Its payload begins with its serial, which counts
    /// over all epochs.
    pub(crate) fn sequence(&mut self, channel: usize, size: usize, ttl_ms: Option<u64>, now: Now) {
        let number = self.head + 1;
        let id = Cursor {
            epoch: self.epoch,
            sequence: Sequence(number),
        };
        let sequence = self.serial + 1;
        let payload = match self.random.u32(0..3) {
            0 => Payload::Json(format!("{sequence}.0{}", "7".repeat(size)).into()),
            1 => Payload::Text(format!("{sequence}.{}", "ä\nb\r".repeat(size / 4)).into()),
            _ => {
                let mut bytes = format!("{sequence}.").into_bytes();
                bytes.resize(bytes.len() + size, 0xfe);
                Payload::Bytes(bytes.into())
            }
        };
        let key = self.random.u32(0..6);
        let has_key = ttl_ms.is_some() || key < 3;
        let has_key = has_key && size != LAST_BYTES;
        let event = (self.random.u32(0..5) == 0).then(|| "tick".into());
        let traceparent = (self.random.u32(0..3) == 0).then(|| traceparent(sequence));
        let traceparent = traceparent.map(|text| Box::new(text.parse().expect("a trace context")));
        let make = |ledger: &Arc<_>| {
            let name = self.channels[channel].clone();
            let key = has_key.then(|| format!("k{key}").into());
            Publication::new(id, name, payload.clone(), now, ledger)
                .labelled(event.clone(), key)
                .traced(traceparent.clone())
                .expiring(ttl_ms.map(|ms| now.after(Duration::from_millis(ms))))
        };
        let publication = make(self.writer.log().ledger());
        let worker_ack = (self.random.u32(0..8) == 0).then(|| Arc::new(WorkerAck::new(1)));
        // The simulation keeps its own copy of each publication. The copy must not count as memory
        // of the log.
        let for_world = Arc::new(make(&Arc::default()));
        if let Some(journal) = &mut self.journal
            && !journal.take(&for_world)
        {
            return;
        }
        (self.head, self.serial) = (number, sequence);
        self.writer.announce(Sequence(number));
        self.worker_acks
            .extend(worker_ack.as_ref().map(|worker_ack| PendingAck {
                sequence,
                worker_ack: Arc::clone(worker_ack),
                workers: Vec::new(),
                is_posted: false,
            }));
        self.events.push(LogEvent::Publication(for_world));
        self.staged.push((publication, worker_ack));
    }

    /// Does a random number of steps.
    pub(crate) fn post_some(&mut self, now: Now) {
        for _ in 0..self.random.u32(0..12) {
            if !self.step(now) {
                return;
            }
        }
    }

    /// Does steps until none is left, or until the next step has to wait.
    pub(crate) fn post_everything(&mut self, now: Now) {
        while self.step(now) || self.writer.is_changing_rules() {}
    }

    /// Whether no step is left.
    pub(crate) fn is_done(&self) -> bool {
        !self.writer.is_changing_rules() && self.staged.is_empty() && self.steps.is_empty()
    }

    /// Whether every worker has processed everything and no step is left.
    pub(crate) fn has_all_taken(&self, workers: &[NodeWorker]) -> bool {
        let head = Cursor {
            epoch: self.epoch,
            sequence: self.writer.head(),
        };
        let mut workers = workers.iter().map(|one| &one.worker);
        self.is_done() && workers.all(|one| one.hub().head() == head && !one.has_mail())
    }

    /// Makes a batch from numbered publications.
    fn make_batch(&mut self) {
        let count = match self.random.bool() {
            true => self.staged.len(),
            false => self.random.usize(1..=self.staged.len()),
        };
        let batch: Vec<_> = self.staged.drain(..count).collect();
        let worker_acks = batch
            .iter()
            .filter_map(|(_, worker_ack)| worker_ack.clone());
        let worker_acks = worker_acks.collect();
        let adds = batch.into_iter();
        self.steps.extend(
            adds.map(|(publication, worker_ack)| Step::Add(Box::new(publication), worker_ack)),
        );
        let rest = [
            Step::Collect,
            Step::NotePosted,
            Step::Confirm(worker_acks),
            Step::Evict,
        ];
        self.steps.extend(rest);
    }

    /// Does the next step. Returns false if no step is left, or if the step waits for room in an
    /// inbox.
    fn step(&mut self, now: Now) -> bool {
        if self.writer.is_changing_rules() {
            self.change_more_rules();
        }
        if self.steps.is_empty() && !self.staged.is_empty() {
            self.make_batch();
        }
        let Some(step) = self.steps.pop_front() else {
            // Entries of the log also expire when nothing is published.
            self.evict(now);
            return false;
        };
        match step {
            Step::Add(publication, worker_ack) => {
                let span = self.traced.begin(&publication, now);
                let (worker_ack, span) = (worker_ack.as_ref(), span.as_ref());
                self.outgoing
                    .add(&mut self.writer, *publication, worker_ack, span);
            }
            Step::Collect => {
                while let Some((worker, batch)) = self.outgoing.take() {
                    self.note_workers(worker, &batch);
                    self.steps.push_front(Step::Post(worker, batch));
                }
            }
            Step::Post(worker, batch) => return self.post(worker, batch, now),
            Step::NotePosted => self.writer.note_posted(),
            Step::Confirm(worker_acks) => worker_acks.iter().for_each(|worker_ack| {
                let _is_last = worker_ack.confirm(0);
                let mut all = self.worker_acks.iter_mut();
                let pending = all.find(|pending| Arc::ptr_eq(&pending.worker_ack, worker_ack));
                pending.expect("an acknowledgement that is owed").is_posted = true;
            }),
            Step::Evict => {
                self.writer.trim(u32::MAX);
                self.evict(now);
                assert!(!self.writer.log().has_too_many_encodings());
            }
        }
        true
    }

    /// Continues a change of the rules. All shards are visited together, because the log's hash is
    /// random, so the shard of a channel differs between two runs of the same seed.
    fn change_more_rules(&mut self) {
        for _ in 0..SHARDS {
            self.writer.continue_change();
        }
    }

    fn evict(&mut self, now: Now) {
        self.writer.evict(now, u32::MAX);
        self.evicted_at = now;
    }

    fn note_workers(&mut self, worker: usize, batch: &Batch) {
        for worker_ack in batch.iter().filter_map(|item| item.worker_ack.as_ref()) {
            let mut all = self.worker_acks.iter_mut();
            let pending = all.find(|pending| Arc::ptr_eq(&pending.worker_ack, worker_ack));
            pending
                .expect("an acknowledgement that is owed")
                .workers
                .push(worker);
        }
    }

    /// Posts a batch to a worker. If the inbox has no room, evicts from the log and returns false.
    fn post(&mut self, worker: usize, batch: Batch, now: Now) -> bool {
        let is_late = self.late == Some(worker);
        if is_late || !self.mailboxes.has_room_for_batch(worker) {
            self.steps.push_front(Step::Post(worker, batch));
            self.evict(now);
            return false;
        }
        let worker_acks: Vec<_> = batch
            .iter()
            .filter_map(|item| item.worker_ack.clone())
            .collect();
        if !self.mailboxes.post(worker, Mail::Publish(batch)) {
            worker_acks.iter().for_each(|worker_ack| {
                let _is_last = worker_ack.confirm(0);
            });
        }
        true
    }

    /// Records that a worker has ended. The worker has confirmed all messages that were posted to
    /// it.
    pub(crate) fn note_ended(&mut self, worker: usize) {
        self.mailboxes.0[worker] = None;
    }
}

impl MidTurn for Feed {
    fn act(&mut self, now: Now) -> bool {
        let is_possible = self.is_mid_turn && self.acts_in_turns > 0;
        if !is_possible || self.random.u32(0..1000) >= self.acts_in_turns {
            return false;
        }
        if self.change_epoch_at_random(CHANGES_PER_ACT, now) {
            // The new epoch reuses numbers that the worker knows from the previous epoch.
            for _ in 0..self.chances.u32(0..12) {
                self.publish_at_random(now);
            }
            self.post_everything(now);
        }
        let choice = self.random.u32(0..4);
        for _ in 0..choice {
            self.publish_at_random(now);
        }
        match choice {
            1 => {}
            2 => self.post_everything(now),
            _ => self.post_some(now),
        }
        true
    }
}
