//! The feed's side of publications: numbers them and posts them to all workers.
//!
//! Each worker gets every publication in order, in batches of its own and at times late, so that
//! workers are at different places in the sequence. The world calls between turns. A worker's
//! network calls in the middle of a turn, as the feed's thread may act at any time.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use fanfare::frame::{Payload, Publication, Receipt};
use fanfare::id::{ChannelName, Cursor, Epoch, Sequence};
use fanfare::time::Now;
use fanfare::worker::inbox::{DrainOrder, Mail, Mailbox, Posted};

use crate::disk::Journal;
use crate::net::MidTurn;

/// Batches posted at once; below what the inbox holds, so that posting never waits.
const BATCHES_MAX: usize = 50;
/// Mails in an inbox from which on a backend says nothing; below what it holds.
const MAILS_MAX: usize = 55;
/// Publications of a chaos.
const PUBLICATIONS_MAX: u64 = 800;
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

/// What is sequenced and not yet posted to one worker.
#[derive(Debug, Default)]
struct Outgoing {
    waiting: VecDeque<Arc<Publication>>,
    /// Nothing is posted for a while.
    is_late: bool,
}

/// The sequencer's side of a node.
#[derive(Debug)]
pub(crate) struct Feed {
    epoch: Epoch,
    channels: Vec<ChannelName>,
    size_max: usize,
    /// The last number that was given out.
    head: u64,
    /// The same for the workers.
    sequenced: Arc<AtomicU64>,
    pub(crate) mailboxes: Mailboxes,
    outgoing: Vec<Outgoing>,
    /// With it the server may be killed and goes on.
    pub(crate) journal: Option<Journal>,
    /// Publications of which the world does not know yet.
    fresh: Vec<Arc<Publication>>,
    /// Those that are not complete, by the number of the publication.
    pub(crate) receipts: VecDeque<(u64, Arc<Receipt>)>,
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
        random: fastrand::Rng,
    ) -> Self {
        Self {
            epoch,
            channels,
            size_max,
            head: 0,
            sequenced: Arc::default(),
            mailboxes: Mailboxes::new([]),
            outgoing: Vec::new(),
            journal,
            fresh: Vec::new(),
            receipts: VecDeque::new(),
            random,
            is_mid_turn: false,
            acts_in_turns: 0,
        }
    }

    /// The workers of a server that begins, and after which publication they do.
    pub(crate) fn begin(&mut self, mailboxes: Mailboxes, sequenced: Arc<AtomicU64>, head: u64) {
        self.outgoing = mailboxes.0.iter().map(|_| Outgoing::default()).collect();
        self.mailboxes = mailboxes;
        self.sequenced = sequenced;
        self.head = head;
        self.receipts.clear();
    }

    /// What was published since the world asked last.
    pub(crate) fn take_fresh(&mut self) -> Vec<Arc<Publication>> {
        std::mem::take(&mut self.fresh)
    }

    /// Some workers' mail may be late from now on, or no more.
    pub(crate) fn draw_lateness(&mut self) {
        for outgoing in &mut self.outgoing {
            outgoing.is_late ^= self.random.u32(0..100) == 0;
        }
    }

    /// Nothing is late any more, and nothing happens in the middle of turns.
    pub(crate) fn calm_down(&mut self) {
        self.acts_in_turns = 0;
        for outgoing in &mut self.outgoing {
            outgoing.is_late = false;
        }
    }

    pub(crate) fn publish_at_random(&mut self, now: Now) {
        if self.head >= PUBLICATIONS_MAX {
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

    /// Gives a publication its number. Its payload begins with it too.
    pub(crate) fn sequence(&mut self, channel: usize, size: usize, ttl_ms: Option<u64>, now: Now) {
        let sequence = self.head + 1;
        let id = Cursor {
            epoch: self.epoch,
            sequence: Sequence(sequence),
        };
        let payload = match self.random.u32(0..3) {
            0 => Payload::Json(format!("{sequence}.0{}", "7".repeat(size)).into()),
            1 => Payload::Text(format!("{sequence}.{}", "ä\nb\r".repeat(size / 4)).into()),
            _ => {
                let mut bytes = format!("{sequence}.").into_bytes();
                bytes.resize(bytes.len() + size, 0xfe);
                Payload::Bytes(bytes.into())
            }
        };
        let name = self.channels[channel].clone();
        let mut publication = Publication::new(id, name, payload, now);
        let key = self.random.u32(0..6);
        let has_key = ttl_ms.is_some() || key < 3;
        publication.key = (has_key && size != LONELY_BYTES).then(|| format!("k{key}").into());
        publication.event = (self.random.u32(0..5) == 0).then(|| "tick".into());
        publication.expires = ttl_ms.map(|ms| now.after(Duration::from_millis(ms)));
        let workers = self.mailboxes.count();
        let receipt = (self.random.u32(0..8) == 0).then(|| Arc::new(Receipt::new(workers)));
        publication.receipt = receipt.as_ref().map(Arc::clone);
        let publication = Arc::new(publication);
        if let Some(journal) = &mut self.journal
            && !journal.take(&publication)
        {
            return;
        }
        self.head = sequence;
        let receipts = &mut self.receipts;
        receipts.extend(receipt.map(|receipt| (sequence, receipt)));
        self.fresh.push(Arc::clone(&publication));
        self.sequenced.store(sequence, Ordering::Release);
        for worker in 0..self.outgoing.len() {
            let waiting = &mut self.outgoing[worker].waiting;
            waiting.push_back(Arc::clone(&publication));
            self.confirm_if_ended(worker);
        }
    }

    /// Posts a batch to each worker whose mail is not late; to most of them.
    pub(crate) fn post_some(&mut self) {
        for worker in 0..self.outgoing.len() {
            if !self.outgoing[worker].is_late && self.random.u32(0..3) > 0 {
                self.post(worker);
            }
        }
    }

    /// Posts a batch to each worker.
    pub(crate) fn post_to_all(&mut self) {
        for worker in 0..self.outgoing.len() {
            self.post(worker);
        }
    }

    /// Posts what waits, as far as the inboxes have room.
    pub(crate) fn post_everything(&mut self) {
        for worker in 0..self.outgoing.len() {
            while self.post(worker) {}
        }
    }

    /// Hands a worker a batch. False if there is none or its inbox has no room.
    fn post(&mut self, worker: usize) -> bool {
        let waiting = &mut self.outgoing[worker].waiting;
        if waiting.is_empty() || !self.mailboxes.has_room_for_batch(worker) {
            return false;
        }
        let count = self.random.usize(1..=waiting.len());
        let batch: Vec<_> = waiting.drain(..count).collect();
        self.mailboxes.post(worker, Mail::Publish(batch.into()))
    }

    /// A worker has ended and confirmed what was posted to it.
    pub(crate) fn note_ended(&mut self, worker: usize) {
        self.mailboxes.0[worker] = None;
        self.confirm_if_ended(worker);
    }

    fn confirm_if_ended(&mut self, worker: usize) {
        if self.mailboxes.0[worker].is_none() {
            let waiting = self.outgoing[worker].waiting.drain(..);
            for receipt in waiting.filter_map(|publication| publication.receipt.clone()) {
                let _is_last = receipt.confirm(0);
            }
        }
    }
}

impl MidTurn for Feed {
    fn act(&mut self, now: Now) -> bool {
        let is_possible = self.is_mid_turn && self.acts_in_turns > 0;
        if !is_possible || self.random.u32(0..1000) >= self.acts_in_turns {
            return false;
        }
        let choice = self.random.u32(0..4);
        for _ in 0..choice {
            self.publish_at_random(now);
        }
        if choice != 1 {
            let worker = self.random.usize(0..self.outgoing.len());
            if !self.outgoing[worker].is_late {
                self.post(worker);
            }
        }
        true
    }
}
