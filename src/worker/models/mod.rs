//! Models of the log: a writer and workers run under loom. Loom runs their threads in every order
//! that can make a difference. Each load returns, in some run, each value that the memory model
//! allows.
//!
//! The log, the hubs and the batches of mail are those of the server; the inbox is replaced by a
//! simple one. A client checks what it receives. Each publication of its channels after its first
//! position must be received once and in order, or be in a gap. A gap must be received before any
//! publication whose id is beyond the gap. The client unsubscribes, and resumes with one position
//! for all its channels.
//!
//! Run the models with `cargo test --features model --lib worker::models`. They end within a
//! minute, because threads are preempted at most [`PREEMPTIONS_MAX`] times. The variable
//! `LOOM_MAX_PREEMPTIONS` sets another maximum.

mod epoch;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use loom::sync::Mutex;
use loom::sync::atomic::{AtomicBool, AtomicUsize};
use loom::thread::{self, JoinHandle};

use crate::config::{Config, Namespace};
use crate::frame::{Compressor, Envelope, FrameKind, Ledger, Payload, Publication};
use crate::hub::{Gap, Hub, JoinOutcome, Visit};
use crate::id::{ChannelName, Cursor, Epoch, Sequence, Since};
use crate::log::{Amount, ChannelKey, Log, WorkerInterest, Writer};
use crate::time::Now;
use crate::worker::mail::inbox::{Batch, Item};
use crate::worker::mail::outgoing::Outgoing;

/// The default maximum number of preemptions of threads in one run of a model.
const PREEMPTIONS_MAX: usize = 3;
/// The stack size of a model's thread, in words. It is large enough for an unoptimised build.
const STACK_WORDS: usize = 1 << 16;
const KIND: FrameKind = FrameKind::WebSocket(Envelope::Data);
const SLOT: u32 = 0;
/// The time of all publications.
const NOW: Now = Now(0);
/// A time at which all publications are too old for the log.
const LATER: Now = Now(u64::MAX / 2);

/// An inbox like a lock-free channel: a worker may not see a batch yet that was already posted.
#[derive(Default)]
struct Inbox {
    mails: Mutex<VecDeque<Batch>>,
    /// The total number of batches that were posted.
    posted: AtomicUsize,
}

impl Inbox {
    fn post(&self, mail: Batch) {
        self.mails.lock().unwrap().push_back(mail);
        self.posted.fetch_add(1, Ordering::Release);
    }

    /// Returns the next batch. `taken` is the number of batches that were taken before. Returns
    /// `None` if the worker does not see yet that more batches were posted.
    fn take(&self, taken: usize) -> Option<Batch> {
        match self.posted.load(Ordering::Acquire) > taken {
            true => self.mails.lock().unwrap().pop_front(),
            false => None,
        }
    }
}

fn epoch() -> Epoch {
    Epoch::new(7)
}

fn name(channel: &str) -> ChannelName {
    ChannelName::new(channel).unwrap()
}

fn cursor(sequence: Sequence) -> Cursor {
    Cursor {
        epoch: epoch(),
        sequence,
    }
}

fn publication(id: Cursor, channel: &str, ledger: &Arc<Ledger>) -> Publication {
    let payload = Payload::Text("x".into());
    Publication::new(id, name(channel), payload, NOW, ledger)
}

/// Runs a model in a thread whose stack is large enough.
fn check(model: impl Fn() + Clone + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(PREEMPTIONS_MAX));
    builder.max_branches = 10_000;
    builder.check(move || {
        let model = model.clone();
        spawn(model).join().unwrap();
    });
}

fn spawn<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    let builder = thread::Builder::new().stack_size(STACK_WORDS);
    builder.spawn(run).unwrap()
}

/// Whether the feed sends a batch to the inboxes before or after it records the batch as posted.
/// The server sends it before; the other order is wrong.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Posting {
    ThenNoted,
    AfterNoted,
}

/// Whether a worker reads the newest posted id before or after its inbox. The server reads the id
/// first; the other order is wrong.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Looking {
    PostedFirst,
    InboxFirst,
}

struct Feed {
    writer: Writer,
    epoch: Epoch,
    outgoing: Outgoing,
    inboxes: Vec<Arc<Inbox>>,
    posting: Posting,
}

impl Feed {
    fn new(workers: usize, config: &Config) -> Self {
        Self {
            writer: Writer::new(config, Sequence::ZERO),
            epoch: epoch(),
            outgoing: Outgoing::new(workers),
            inboxes: (0..workers).map(|_| Arc::default()).collect(),
            posting: Posting::ThenNoted,
        }
    }

    fn log(&self) -> Arc<Log> {
        Arc::clone(self.writer.log())
    }

    /// Adds a batch to the log and posts it.
    fn publish(&mut self, batch: &[(u64, &str)]) {
        let last = batch.last().map_or(0, |(sequence, _)| *sequence);
        self.writer.announce(Sequence(last));
        for (sequence, channel) in batch {
            let ledger = self.writer.log().ledger();
            let id = Cursor {
                epoch: self.epoch,
                sequence: Sequence(*sequence),
            };
            let publication = publication(id, channel, ledger);
            let _removed = self.outgoing.add(&mut self.writer, publication, None, None);
        }
        if self.posting == Posting::AfterNoted {
            self.writer.note_posted();
        }
        while let Some((worker, batch)) = self.outgoing.take() {
            self.inboxes[worker].post(batch);
        }
        self.writer.note_posted();
    }

    /// Removes the log's entries that are too old or exceed a limit.
    fn evict(&mut self, now: Now) {
        self.writer.evict(now, u32::MAX);
    }
}

struct Worker {
    hub: Hub,
    inbox: Arc<Inbox>,
    /// The number of batches that were taken from the inbox.
    taken: usize,
    looking: Looking,
}

impl Worker {
    fn new(feed: &Feed, number: u16, config: &Config) -> Self {
        Self {
            hub: Hub::new(feed.log(), number, epoch(), Sequence::ZERO, config),
            inbox: Arc::clone(&feed.inboxes[usize::from(number)]),
            taken: 0,
            looking: Looking::PostedFirst,
        }
    }

    /// Processes the inbox, as `worker/broadcast.rs` does.
    fn broadcast(&mut self) {
        let before = self.hub.posted();
        while let Some(batch) = self.inbox.take(self.taken) {
            self.taken += 1;
            for item in batch {
                let Item {
                    place, key, entry, ..
                } = item;
                if entry.publication.id.epoch != self.hub.head().epoch {
                    self.hub.follow_epoch(NOW);
                }
                self.hub.take(place, key, entry, NOW);
            }
        }
        let posted = match self.looking {
            Looking::PostedFirst => before,
            Looking::InboxFirst => self.hub.posted(),
        };
        self.hub.advance_head(posted, NOW);
    }

    /// Processes the rest of the inbox. Checks that the worker has then accepted all publications.
    fn finish(mut self) {
        self.broadcast();
        assert!(!self.hub.has_late());
        self.hub.check_invariants();
    }
}

/// What a client received, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Event {
    Given(u64),
    /// A gap in a channel. It begins after the first number and includes the second number.
    Lost(ChannelName, u64, u64),
}

fn lost(channel: ChannelName, gap: &Gap, hub: &Hub) -> Event {
    // A gap must not end after the last publication that the hub has accepted. Otherwise the client
    // could skip publications of other channels.
    assert!(gap.until.sequence <= hub.head().sequence, "{gap:?}");
    let since = gap.since.map_or(0, |since| since.sequence.0);
    Event::Lost(channel, since, gap.until.sequence.0)
}

/// A client with one position for all its channels.
struct Client {
    channels: Vec<ChannelName>,
    /// The position at which the client first subscribed.
    start: Option<Sequence>,
    position: Sequence,
    events: Vec<Event>,
}

impl Client {
    fn new(channels: &[&str]) -> Self {
        Self {
            channels: channels.iter().map(|channel| name(channel)).collect(),
            start: None,
            position: Sequence::ZERO,
            events: Vec::new(),
        }
    }

    /// In the first call, subscribes to new publications. In later calls, resumes from the client's
    /// position.
    fn come(&mut self, worker: &mut Worker) {
        let since = match self.start {
            Some(_) => Since::After(cursor(self.position)),
            None => Since::Now,
        };
        let sequenced = worker.hub.sequenced();
        let mut outcomes = Vec::new();
        for name in &self.channels {
            let outcome = worker.hub.subscribe(SLOT, name, since, sequenced);
            let joined = outcome.joined().unwrap();
            let gap = joined.gap.map(|gap| lost(name.clone(), &gap, &worker.hub));
            self.events.extend(gap);
            outcomes.push(outcome);
        }
        self.position = JoinOutcome::position(&outcomes).unwrap().sequence;
        self.start.get_or_insert(self.position);
    }

    /// Receives all publications and gaps that are pending for the client.
    fn take(&mut self, worker: &mut Worker) {
        worker.broadcast();
        let hub = &mut worker.hub;
        while hub.visit() != Visit::Done {}
        let (mut planned, mut compressor) = (Vec::new(), Compressor::default());
        loop {
            while let Some((channel, gap)) = hub.take_gap(SLOT) {
                self.events.push(lost(channel, &gap, hub));
            }
            hub.plan(SLOT, KIND, NOW, usize::MAX, &mut compressor, &mut planned);
            let bytes = planned.iter().map(|step| step.length).sum();
            let _advanced = hub.advance(SLOT, &planned, bytes);
            for step in &planned {
                self.position = step.sequence;
                self.events.push(Event::Given(step.sequence.0));
            }
            hub.release_planned();
            if planned.is_empty() && !hub.take_found_loss() {
                break;
            }
        }
        hub.release_walked();
        assert!(!hub.is_behind(SLOT));
        self.position = hub.caught_up_position(SLOT).sequence;
    }

    fn leave(worker: &mut Worker) {
        worker.hub.leave(SLOT);
    }

    /// Panics unless each publication after the client's first position was received in order or is
    /// in a gap.
    fn check(&self, published: &[(u64, &str)]) {
        let start = self.start.unwrap().0;
        let concern = published.iter().filter(|(sequence, channel)| {
            let mut channels = self.channels.iter();
            *sequence > start && channels.any(|name| name.as_str() == *channel)
        });
        let is_reported = |until: usize, sequence: u64, channel: &str| {
            let mut events = self.events[..until].iter();
            events.any(|event| match event {
                Event::Given(given) => *given == sequence,
                Event::Lost(name, since, until) => {
                    name.as_str() == channel && *since < sequence && sequence <= *until
                }
            })
        };
        let context = || format!("from {start}: {:?}", self.events);
        for (sequence, channel) in concern.clone() {
            let all = self.events.len();
            assert!(
                is_reported(all, *sequence, channel),
                "{sequence}: {}",
                context()
            );
        }
        let mut newest = start;
        for (index, event) in self.events.iter().enumerate() {
            let Event::Given(given) = event else { continue };
            assert!(*given > newest, "{given} comes again: {}", context());
            newest = *given;
            let mut own = concern.clone().map(|(sequence, _)| sequence);
            let is_own = own.any(|sequence| sequence == given);
            assert!(is_own, "{given} is of another channel: {}", context());
            let mut before = concern.clone().filter(|(sequence, _)| sequence < given);
            assert!(
                before.all(|(sequence, channel)| is_reported(index, *sequence, channel)),
                "{given} is given too early: {}",
                context()
            );
        }
    }

    /// Panics if the client received a gap, or if `check` panics.
    fn check_without_loss(&self, published: &[(u64, &str)]) {
        self.check(published);
        let has_loss = |event: &Event| matches!(event, Event::Lost(..));
        assert!(!self.events.iter().any(has_loss), "{:?}", self.events);
    }
}

/// Publications, each with its number and its channel.
type Publications = &'static [(u64, &'static str)];

const ONE_CHANNEL: Publications = &[(1, "a"), (2, "a"), (3, "a")];
const TWO_CHANNELS: Publications = &[(1, "a"), (2, "b"), (3, "a")];

/// A model in which a feed publishes two batches, while a client subscribes, unsubscribes and
/// resumes.
#[derive(Clone)]
struct Return {
    config: Config,
    channels: &'static [&'static str],
    published: Publications,
    /// The number of publications in the first batch.
    first: usize,
    /// Whether the feed enforces the limits on the whole log after each batch.
    evicts: bool,
    /// Whether the worker processes mail while the client is not subscribed.
    advances: bool,
    posting: Posting,
    looking: Looking,
}

impl Return {
    fn new(channels: &'static [&'static str], published: Publications) -> Self {
        Self {
            config: Config::default(),
            channels,
            published,
            first: 2,
            evicts: false,
            advances: false,
            posting: Posting::ThenNoted,
            looking: Looking::PostedFirst,
        }
    }

    fn run(&self) -> Client {
        let mut feed = Feed::new(1, &self.config);
        feed.posting = self.posting;
        let mut worker = Worker::new(&feed, 0, &self.config);
        worker.looking = self.looking;
        let mut client = Client::new(self.channels);
        let (first, second) = self.published.split_at(self.first);
        let evicts = self.evicts;
        let feed = spawn(move || {
            for batch in [first, second] {
                feed.publish(batch);
                if evicts {
                    feed.evict(NOW);
                }
            }
            feed
        });
        client.come(&mut worker);
        client.take(&mut worker);
        Client::leave(&mut worker);
        if self.advances {
            worker.broadcast();
        }
        client.come(&mut worker);
        if self.advances {
            client.take(&mut worker);
        }
        let feed = feed.join().unwrap();
        client.take(&mut worker);
        worker.finish();
        feed.writer.check_invariants();
        client
    }

    fn check_with(self, judge: fn(&Client, Publications)) {
        for advances in [false, true] {
            let model = Self {
                advances,
                ..self.clone()
            };
            check(move || judge(&model.run(), model.published));
        }
    }

    fn check(self) {
        self.check_with(Client::check);
    }

    fn check_without_loss(self) {
        self.check_with(Client::check_without_loss);
    }
}

#[test]
fn client_that_comes_back_is_given_each_publication_once() {
    Return::new(&["a"], ONE_CHANNEL).check_without_loss();
}

#[test]
fn one_position_stands_for_two_channels() {
    for first in 1..=2 {
        let mut model = Return::new(&["a", "b"], TWO_CHANNELS);
        model.first = first;
        model.check_without_loss();
    }
}

#[test]
#[should_panic = ": from"]
fn worker_that_looks_at_its_inbox_first_loses_a_publication() {
    let mut model = Return::new(&["a"], ONE_CHANNEL);
    model.looking = Looking::InboxFirst;
    model.check_without_loss();
}

#[test]
#[should_panic = ": from"]
fn feed_that_notes_before_it_posts_loses_a_publication() {
    let mut model = Return::new(&["a"], ONE_CHANNEL);
    model.posting = Posting::AfterNoted;
    model.check_without_loss();
}

#[test]
fn entry_that_a_channel_drops_is_delivered_or_in_a_gap() {
    for entries in 1..=2 {
        let mut model = Return::new(&["a"], ONE_CHANNEL);
        model.config.namespace.push(Namespace {
            pattern: "*".into(),
            log_entries: Some(entries),
            ..Namespace::default()
        });
        model.check();
    }
}

#[test]
fn entry_that_the_log_drops_is_delivered_or_in_a_gap() {
    let mut model = Return::new(&["a", "b"], TWO_CHANNELS);
    model.config.log.entries = 1;
    model.evicts = true;
    model.check();
}

#[test]
fn publications_that_came_before_the_first_subscriber_may_be_more_than_a_quota() {
    let mut model = Return::new(&["a"], ONE_CHANNEL);
    model.config.quota.behind_publications = 1;
    model.check_without_loss();
}

#[test]
fn client_that_goes_to_another_worker_is_given_each_publication_once() {
    check(|| {
        let config = Config::default();
        let mut feed = Feed::new(2, &config);
        let mut workers = [0, 1].map(|number| Worker::new(&feed, number, &config));
        let [first, second] = &mut workers;
        let mut client = Client::new(&["a"]);
        let feed = spawn(move || {
            feed.publish(&ONE_CHANNEL[..2]);
            feed.publish(&ONE_CHANNEL[2..]);
            feed
        });
        for worker in [&mut *first, &mut *second] {
            client.come(worker);
            client.take(worker);
            Client::leave(worker);
        }
        client.come(first);
        client.take(first);
        Client::leave(first);
        client.come(second);
        let feed = feed.join().unwrap();
        client.take(second);
        client.check_without_loss(ONE_CHANNEL);
        workers.into_iter().for_each(Worker::finish);
        feed.writer.check_invariants();
    });
}

#[test]
fn clients_of_two_workers_are_each_given_everything() {
    check(|| {
        let config = Config::default();
        let mut feed = Feed::new(2, &config);
        let [mut first, mut second] = [0, 1].map(|number| Worker::new(&feed, number, &config));
        let other = spawn(move || {
            let mut client = Client::new(&["a"]);
            client.come(&mut first);
            client.take(&mut first);
            (first, client)
        });
        let feed = spawn(move || {
            feed.publish(&ONE_CHANNEL[..1]);
            feed.publish(&ONE_CHANNEL[1..2]);
            feed
        });
        let mut client = Client::new(&["a"]);
        client.come(&mut second);
        client.take(&mut second);
        let feed = feed.join().unwrap();
        let (mut first, mut other) = other.join().unwrap();
        client.take(&mut second);
        other.take(&mut first);
        for client in [client, other] {
            client.check_without_loss(&ONE_CHANNEL[..2]);
        }
        feed.writer.check_invariants();
    });
}

#[test]
fn encodings_are_counted_once_and_until_their_publication_is_evicted() {
    check(|| {
        let config = Config::default();
        let mut feed = Feed::new(2, &config);
        let joined = [0, 1].map(|number| {
            let mut worker = Worker::new(&feed, number, &config);
            let mut client = Client::new(&["a"]);
            client.come(&mut worker);
            (worker, client)
        });
        feed.publish(&ONE_CHANNEL[..2]);
        let serving = joined.map(|(mut worker, mut client)| {
            spawn(move || {
                client.take(&mut worker);
                client.check_without_loss(&ONE_CHANNEL[..2]);
            })
        });
        feed.writer.evict(LATER, 1);
        for thread in serving {
            thread.join().unwrap();
        }
        feed.writer.check_invariants();
        feed.writer.evict(LATER, 1);
        assert_eq!(feed.writer.bytes(), 0);
    });
}

/// Once a publication is acknowledged, a poll on any worker receives it.
#[test]
fn poll_after_an_acknowledgement_is_given_the_publication() {
    check(|| {
        let config = Config::default();
        let mut feed = Feed::new(1, &config);
        let mut worker = Worker::new(&feed, 0, &config);
        let acknowledged = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&acknowledged);
        let feed = spawn(move || {
            feed.publish(&ONE_CHANNEL[..1]);
            acknowledged.store(true, Ordering::Release);
        });
        let mut client = Client::new(&["a"]);
        client.start = Some(Sequence::ZERO);
        if seen.load(Ordering::Acquire) {
            let posted = worker.hub.posted();
            client.come(&mut worker);
            client.take(&mut worker);
            assert!(worker.hub.head().sequence >= posted.sequence);
            client.check_without_loss(&ONE_CHANNEL[..1]);
        }
        feed.join().unwrap();
    });
}

/// Returns the names of two channels. `has_same_lock` decides whether the same lock of the log
/// guards both channels. With the same lock, one channel can get the key that the other channel had
/// before.
fn names(log: &Log, has_same_lock: bool) -> (&'static str, &'static str) {
    let lock = |channel: &str| log.shard_of(&name(channel));
    let mut others = ["b", "c", "d", "e", "f", "g", "h"].into_iter();
    let other = others.find(|other| (lock(other) == lock("a")) == has_same_lock);
    ("a", other.unwrap())
}

#[test]
fn channel_that_is_dropped_and_made_again_loses_nothing_in_silence() {
    check(|| {
        let config = Config::default();
        let mut feed = Feed::new(1, &config);
        let mut worker = Worker::new(&feed, 0, &config);
        let (this, other) = names(&feed.log(), true);
        let published = [(1, this), (2, other), (3, this)];
        let mut client = Client::new(&["a"]);
        client.come(&mut worker);
        let feed = spawn(move || {
            feed.publish(&published[..1]);
            feed.evict(LATER);
            feed.publish(&published[1..]);
            feed
        });
        client.take(&mut worker);
        Client::leave(&mut worker);
        client.come(&mut worker);
        client.take(&mut worker);
        let feed = feed.join().unwrap();
        client.take(&mut worker);
        client.check(&published);
        worker.finish();
        feed.writer.check_invariants();
    });
}

#[test]
fn mail_for_a_channel_that_has_gone_is_not_given_to_the_one_in_its_place() {
    check(|| {
        let mut config = Config::default();
        // Another channel later gets the index and the key that `a` had. The namespaces of the two
        // channels differ.
        config.namespace.push(Namespace {
            pattern: "a".into(),
            ..Namespace::default()
        });
        let mut feed = Feed::new(1, &config);
        let mut worker = Worker::new(&feed, 0, &config);
        let (this, other) = names(&feed.log(), true);
        let published = [(1, this), (2, other), (3, this)];
        let mut client = Client::new(&[this]);
        client.come(&mut worker);
        let feed = spawn(move || {
            feed.publish(&published[..1]);
            feed.evict(LATER);
            feed.publish(&published[1..]);
            feed
        });
        Client::leave(&mut worker);
        let mut next = Client::new(&[other]);
        next.come(&mut worker);
        next.take(&mut worker);
        Client::leave(&mut worker);
        client.come(&mut worker);
        let feed = feed.join().unwrap();
        client.take(&mut worker);
        client.check(&published);
        Client::leave(&mut worker);
        next.come(&mut worker);
        next.take(&mut worker);
        next.check(&published);
        worker.finish();
        feed.writer.check_invariants();
    });
}

/// Adds a worker's first subscriber of a channel to the log. The log allows one channel with
/// subscribers.
fn enter(log: &Log, worker: u16, channel: &str) -> Option<ChannelKey> {
    let interest = WorkerInterest { worker, place: 0 };
    let (none, mut late) = (Amount::default(), Vec::new());
    let horizon = log.state().horizon(Sequence::ZERO);
    let entered = log.register_interest(&name(channel), interest, horizon, none, &mut late);
    assert!(log.subscribed() <= 1);
    entered.map(|(channel_state, _)| channel_state.key)
}

#[test]
fn limit_of_channels_is_exact_with_workers_that_enter_at_once() {
    check(|| {
        let mut config = Config::default();
        config.limits.channels = 1;
        let feed = Feed::new(2, &config);
        let (log, other) = (feed.log(), feed.log());
        let (one, two) = names(&log, false);
        let other = spawn(move || enter(&other, 1, two).is_some());
        let first = enter(&log, 0, one);
        if let Some(key) = first {
            log.leave(key, 0);
        }
        let second = other.join().unwrap();
        assert!(first.is_some() || second);
        assert_eq!(log.subscribed(), u64::from(second));
        assert_eq!(enter(&log, 0, "c").is_some(), !second);
        feed.writer.check_invariants();
    });
}

#[test]
fn channel_counts_once_for_all_workers_that_enter_it_at_once() {
    check(|| {
        let mut config = Config::default();
        config.limits.channels = 1;
        let feed = Feed::new(2, &config);
        let (log, other) = (feed.log(), feed.log());
        let other = spawn(move || {
            let key = enter(&other, 1, "a").unwrap();
            other.leave(key, 1);
        });
        let key = enter(&log, 0, "a").unwrap();
        other.join().unwrap();
        assert_eq!(log.subscribed(), 1);
        log.leave(key, 0);
        assert_eq!(log.subscribed(), 0);
        assert!(enter(&log, 0, "b").is_some());
        feed.writer.check_invariants();
    });
}
