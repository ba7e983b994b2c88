//! The feed's side of publications: numbers them, adds them to the log and posts them.
//!
//! What the real sequencer does in a row happens here in steps ([`Step`]), any of which may be
//! late: each publication is added, each worker's mail is posted, all of it is noted
//! as posted and confirmed, the log evicts. The world calls between turns. A worker's network calls
//! in the middle of a turn, as the feed's thread may act at any time.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use fanfare::frame::{Payload, Publication, WorkerAck};
use fanfare::id::{ChannelName, Cursor, Epoch, Sequence};
use fanfare::log::{EpochChange, Writer};
use fanfare::time::Now;
use fanfare::worker::mail::inbox::{Batch, DrainOrder, Mail, Mailbox, Posted};
use fanfare::worker::mail::outgoing::Outgoing;

use crate::disk::Journal;
use crate::net::MidTurn;
use crate::world::node::Member;

/// Batches posted at once; below what the inbox holds, so that posting never waits.
const BATCHES_MAX: usize = 50;
/// Mails in an inbox from which on a backend says nothing; below what it holds.
const MAILS_MAX: usize = 55;
/// Publications of a chaos.
const PUBLICATIONS_MAX: u64 = 800;
/// How likely the epoch changes when it acts in the middle of a turn, in thousandths.
const CHANGES_PER_ACT: u32 = 20;
/// Of the publications that come one by one in the end, which have no key.
pub(crate) const LONELY_BYTES: usize = 5;

/// The mailboxes of all workers, by number. A worker that has ended has none.
#[derive(Clone, Debug)]
pub(crate) struct Mailboxes(Vec<Option<Mailbox>>);

impl Mailboxes {
    pub(crate) fn new(all: impl IntoIterator<Item = Mailbox>) -> Self {
        Self(all.into_iter().map(Some).collect())
    }

    pub(crate) fn count(&self) -> u32 {
        self.0.len() as u32
    }

    /// Whether a backend may say something to any worker.
    pub(crate) fn have_room(&self) -> bool {
        let mut open = self.0.iter().flatten();
        open.all(|mailbox| mailbox.waiting() < MAILS_MAX)
    }

    /// Whether mail waits for a worker.
    pub(crate) fn is_waiting(&self, worker: usize) -> bool {
        let mailbox = self.0[worker].as_ref();
        mailbox.is_some_and(|mailbox| mailbox.waiting() > 0)
    }

    fn has_room_for_batch(&self, worker: usize) -> bool {
        let mailbox = self.0[worker].as_ref();
        mailbox.is_none_or(|mailbox| mailbox.waiting() < BATCHES_MAX)
    }

    /// Posts to one worker. False if it has ended.
    pub(crate) fn post(&self, worker: usize, mail: Mail) -> bool {
        let Some(mailbox) = &self.0[worker] else {
            return false;
        };
        assert_eq!(mailbox.post(mail), Posted::AtOnce);
        true
    }

    pub(crate) fn order_drain(&self, order: DrainOrder) {
        let open = self.0.iter().flatten();
        open.for_each(|mailbox| mailbox.order_drain(order));
    }

    /// Posts to each worker. Returns how many have ended.
    pub(crate) fn post_to_all(&self, mut mail: impl FnMut() -> Mail) -> usize {
        let workers = 0..self.0.len();
        workers.filter(|worker| !self.post(*worker, mail())).count()
    }
}

/// What the sequencer does next with a batch.
#[derive(Debug)]
enum Step {
    /// Adds it to the log.
    Add(Box<Publication>, Option<Arc<WorkerAck>>),
    /// Takes what is to be posted.
    Collect,
    Post(usize, Batch),
    NotePosted,
    Confirm(Vec<Arc<WorkerAck>>),
    Evict,
}

/// What has happened in the log.
#[derive(Debug)]
pub(crate) enum Fresh {
    Epoch(EpochChange),
    Publication(Arc<Publication>),
}

/// A feeder waits for this.
#[derive(Debug)]
pub(crate) struct Owed {
    pub(crate) sequence: u64,
    pub(crate) worker_ack: Arc<WorkerAck>,
    /// The workers that it was posted to, or is about to be.
    pub(crate) workers: Vec<usize>,
    /// The feed has confirmed it.
    pub(crate) is_posted: bool,
}

/// The sequencer's side of a node.
#[derive(Debug)]
pub(crate) struct Feed {
    epoch: Epoch,
    channels: Vec<ChannelName>,
    pub(crate) size_max: usize,
    /// The last number that was given out.
    head: u64,
    /// How much has happened over all epochs.
    serial: u64,
    /// Where each epoch begins, and up to where it has the numbers of the one before.
    stretches: Vec<(u64, u64)>,
    /// How often the epoch may change.
    changes: u32,
    chances: fastrand::Rng,
    pub(crate) writer: Writer,
    pub(crate) mailboxes: Mailboxes,
    /// Numbered and not yet part of a batch.
    staged: Vec<(Publication, Option<Arc<WorkerAck>>)>,
    outgoing: Outgoing,
    steps: VecDeque<Step>,
    /// The worker that is not posted to for a while.
    late: Option<usize>,
    /// With it the server may be killed and goes on.
    pub(crate) journal: Option<Journal>,
    /// Publications of which the world does not know yet.
    fresh: Vec<Fresh>,
    /// Those that are not complete, in the order of their publications.
    pub(crate) worker_acks: Vec<Owed>,
    random: fastrand::Rng,
    /// A worker is in the middle of a turn.
    pub(crate) is_mid_turn: bool,
    /// How likely it acts at each place there, in thousandths.
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
            stretches: vec![(0, 0)],
            changes: 0,
            chances: random.clone(),
            writer,
            mailboxes: Mailboxes::new([]),
            staged: Vec::new(),
            outgoing: Outgoing::new(0),
            steps: VecDeque::new(),
            late: None,
            journal,
            fresh: Vec::new(),
            worker_acks: Vec::new(),
            random,
            is_mid_turn: false,
            acts_in_turns: 0,
        }
    }

    /// The workers of a server that begins, and after which publication they do.
    pub(crate) fn begin(&mut self, mailboxes: Mailboxes, writer: Writer, head: u64) {
        self.outgoing = Outgoing::new(mailboxes.0.len());
        self.mailboxes = mailboxes;
        self.writer = writer;
        (self.head, self.serial) = (head, head);
        self.staged.clear();
        self.steps.clear();
        self.worker_acks.clear();
    }

    /// What was published since the world asked last.
    pub(crate) fn take_fresh(&mut self) -> Vec<Fresh> {
        std::mem::take(&mut self.fresh)
    }

    /// A worker may not be posted to from now on, or is again. All that follows waits for it.
    pub(crate) fn draw_lateness(&mut self) {
        if self.random.u32(0..50) == 0 {
            let workers = self.mailboxes.0.len();
            let is_late = self.late.is_none() && self.random.bool();
            self.late = is_late.then(|| self.random.usize(0..workers));
        }
    }

    /// Nothing is late any more, and nothing happens in the middle of turns.
    pub(crate) fn calm_down(&mut self) {
        (self.acts_in_turns, self.changes) = (0, 0);
        self.late = None;
    }

    /// Draws whether the epoch changes in this life.
    pub(crate) fn draw_changes(&mut self, mut chances: fastrand::Rng) {
        if chances.bool() {
            self.changes = chances.u32(1..=4);
        }
        self.chances = chances;
    }

    /// Begins a new epoch, with a chance in thousandths, if everything can be posted before.
    /// True if it has.
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
        // Numbers between the two stand for nothing.
        let valid_until = valid_until.map(|valid: u64| {
            let mut all = self.stretches.iter().rev();
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
        self.writer.change_epoch(&change);
        self.serial += 1;
        (self.epoch, self.head) = (change.to, begin);
        self.stretches.push((begin, least));
        self.fresh.push(Fresh::Epoch(change));
        true
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

    /// Gives a publication its number. Its payload begins with its serial.
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
        let has_key = has_key && size != LONELY_BYTES;
        let event = (self.random.u32(0..5) == 0).then(|| "tick".into());
        let make = |ledger: &Arc<_>| {
            let name = self.channels[channel].clone();
            let key = has_key.then(|| format!("k{key}").into());
            Publication::new(id, name, payload.clone(), now, ledger)
                .labelled(event.clone(), key)
                .expiring(ttl_ms.map(|ms| now.after(Duration::from_millis(ms))))
        };
        let publication = make(self.writer.log().ledger());
        let worker_ack = (self.random.u32(0..8) == 0).then(|| Arc::new(WorkerAck::new(1)));
        // What the world keeps is not what the log evicts.
        let for_world = Arc::new(make(&Arc::default()));
        if let Some(journal) = &mut self.journal
            && !journal.take(&for_world)
        {
            return;
        }
        (self.head, self.serial) = (number, sequence);
        self.writer.announce(Sequence(number));
        self.worker_acks
            .extend(worker_ack.as_ref().map(|worker_ack| Owed {
                sequence,
                worker_ack: Arc::clone(worker_ack),
                workers: Vec::new(),
                is_posted: false,
            }));
        self.fresh.push(Fresh::Publication(for_world));
        self.staged.push((publication, worker_ack));
    }

    /// Does some of what is to be done.
    pub(crate) fn post_some(&mut self, now: Now) {
        for _ in 0..self.random.u32(0..12) {
            if !self.step(now) {
                return;
            }
        }
    }

    /// Does all of it, as far as the inboxes have room.
    pub(crate) fn post_everything(&mut self, now: Now) {
        while self.step(now) {}
    }

    /// Whether nothing is to be done.
    pub(crate) fn is_done(&self) -> bool {
        self.staged.is_empty() && self.steps.is_empty()
    }

    /// Whether nothing is on its way to any worker.
    pub(crate) fn has_all_taken(&self, workers: &[Member]) -> bool {
        let head = Cursor {
            epoch: self.epoch,
            sequence: self.writer.head(),
        };
        let mut workers = workers.iter().map(|one| &one.worker);
        self.is_done() && workers.all(|one| one.hub().head() == head && !one.has_mail())
    }

    /// Makes a batch of what was numbered.
    fn hand_over(&mut self) {
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

    /// Does the next thing. False if there is nothing, or it has to wait for an inbox.
    fn step(&mut self, now: Now) -> bool {
        if self.steps.is_empty() && !self.staged.is_empty() {
            self.hand_over();
        }
        let Some(step) = self.steps.pop_front() else {
            // The log ages without publications.
            self.writer.evict(now, u32::MAX);
            return false;
        };
        match step {
            Step::Add(publication, worker_ack) => {
                self.outgoing
                    .add(&mut self.writer, *publication, worker_ack.as_ref());
            }
            Step::Collect => {
                while let Some((worker, batch)) = self.outgoing.take() {
                    self.note_owed(worker, &batch);
                    self.steps.push_front(Step::Post(worker, batch));
                }
            }
            Step::Post(worker, batch) => return self.post(worker, batch, now),
            Step::NotePosted => self.writer.note_posted(),
            Step::Confirm(worker_acks) => worker_acks.iter().for_each(|worker_ack| {
                let _is_last = worker_ack.confirm(0);
                let mut all = self.worker_acks.iter_mut();
                let owed = all.find(|owed| Arc::ptr_eq(&owed.worker_ack, worker_ack));
                owed.expect("an acknowledgement that is owed").is_posted = true;
            }),
            Step::Evict => {
                self.writer.trim(u32::MAX);
                self.writer.evict(now, u32::MAX);
                assert!(!self.writer.log().has_too_many_encodings());
            }
        }
        true
    }

    fn note_owed(&mut self, worker: usize, batch: &Batch) {
        for worker_ack in batch.iter().filter_map(|item| item.worker_ack.as_ref()) {
            let mut all = self.worker_acks.iter_mut();
            let owed = all.find(|owed| Arc::ptr_eq(&owed.worker_ack, worker_ack));
            owed.expect("an acknowledgement that is owed")
                .workers
                .push(worker);
        }
    }

    /// Hands a worker its mail. False if its inbox has no room; then the log's bounds are kept.
    fn post(&mut self, worker: usize, batch: Batch, now: Now) -> bool {
        let is_late = self.late == Some(worker);
        if is_late || !self.mailboxes.has_room_for_batch(worker) {
            self.steps.push_front(Step::Post(worker, batch));
            self.writer.evict(now, u32::MAX);
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

    /// A worker has ended and confirmed what was posted to it.
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
            // Numbers that the worker knows of the epoch before come again at once.
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
