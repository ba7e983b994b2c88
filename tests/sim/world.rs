//! One seeded life of a worker: chaos, then calm, then its end.
//!
//! In the chaos everything that can go wrong does. In the calm the network is perfect, peers behave
//! and time passes, so that everybody must be served to the last publication. At the end the
//! worker drains, sometimes out of the chaos itself. Everything is drawn from the seed.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use fanfare::config::limits::{RECONNECTS_MS_MIN, RESTART_MS};
use fanfare::config::{ClientPublish, Config, Namespace, Overflow};
use fanfare::effect::CloseReason;
use fanfare::frame::{Payload, Publication, Receipt};
use fanfare::hub::Hub;
use fanfare::id::{ChannelName, Cursor, Epoch, RunId, Sequence};
use fanfare::metrics::{Kind, WorkerMetrics};
use fanfare::sys::wake::Wake;
use fanfare::time::Now;
use fanfare::worker::guard::Guard;
use fanfare::worker::inbox::{DrainOrder, Mail, Mailbox, inbox};
use fanfare::worker::pending::SilentLimit;
use fanfare::worker::sources::Sources;
use fanfare::worker::upstream::upstream;
use fanfare::worker::{Parts, Turn, Worker};

use crate::backend::{Backend, draw_bounds};
use crate::check::{self, Checker, Debts};
use crate::disk::Journal;
use crate::model::Facts;
use crate::net::{FakeNet, Faults, Sabotage};
use crate::peer::Peer;
use crate::secure::secure;
use crate::tickets;

/// Batches posted at once; below what the inbox holds, so that posting never waits.
const BATCHES_MAX: usize = 50;
/// Turns that a calm or a drain may take; more means that the worker does not sleep.
const TURNS_MAX: u64 = 40_000;
/// Of the publications that come one by one in the end, which have no key.
const LONELY_BYTES: usize = 5;
const LINGER_US: u64 = 2_000_000;
/// How long anybody's commands are held against him where that is limited: as a rule, and at most
/// if his acknowledgements are among them, since a window that they do not open holds up what he
/// is owed.
const MADE_UP_US: u64 = 20_000_000;
const MADE_UP_US_MAX: u64 = 60_000_000;
/// What the last turn of a drain takes: a slice of reads, and one read more.
const LAST_TURN_US: u64 = 20_000;
/// How often peers act while the process is stopped.
const ACTS_PER_STOP: u64 = 8;
/// Rounding of timers, and what the turns themselves take.
const SLACK_US: u64 = 400_000;

/// How long a drain of a few conns takes at most whose peers neither read nor close: a tick of the
/// timers for the goodbye, two round trips, and the turns.
const SILENT_DRAIN_US: u64 = 500_000;
/// The longest delay for few conns, without the window.
const MOST_DELAY_MS: u64 = RESTART_MS + RECONNECTS_MS_MIN + 1;

/// What a life came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) hash: u64,
    pub(crate) turns: u64,
    pub(crate) publications: u64,
    pub(crate) deliveries: u64,
    pub(crate) gaps: u64,
    pub(crate) windows_filled: u64,
    pub(crate) restarts: u64,
    pub(crate) debts: Debts,
    /// The worker's counters, in the order of their table.
    pub(crate) counts: Vec<u64>,
}

pub(crate) struct World {
    worker: Worker<FakeNet>,
    mailbox: Mailbox,
    metrics: Arc<WorkerMetrics>,
    config: Arc<Config>,
    sequenced: Arc<AtomicU64>,
    /// Where conns come from, if that is counted.
    sources: Option<Arc<Sources>>,
    facts: Facts,
    checker: Checker,
    backend: Backend,
    /// With it the server may be killed and goes on.
    journal: Option<Journal>,
    peers: Vec<Peer>,
    random: fastrand::Rng,
    /// Sequenced and not yet posted.
    waiting: VecDeque<Arc<Publication>>,
    /// The last number of each batch posted and not yet appended.
    posted: VecDeque<u64>,
    has_ended: bool,
    turns: u64,
    size_max: usize,
    /// Not everybody finds room.
    is_crowded: bool,
    /// The counters of servers that were killed.
    counts_before: Vec<u64>,
    deliveries_before: u64,
    restarts: u64,
}

/// A server's worker and what the world has of it.
pub(crate) struct Hired {
    pub(crate) worker: Worker<FakeNet>,
    mailbox: Mailbox,
    metrics: Arc<WorkerMetrics>,
    sequenced: Arc<AtomicU64>,
    sources: Option<Arc<Sources>>,
    backend: Backend,
}

impl Hired {
    pub(crate) fn new(
        net: FakeNet,
        hub: Hub,
        run: RunId,
        config: &Arc<Config>,
        is_crowded: bool,
        random: &mut fastrand::Rng,
    ) -> Self {
        let (mailbox, inbox) = inbox(Arc::new(Wake::new().expect("a descriptor")));
        let metrics = Arc::new(WorkerMetrics::default());
        let sequenced = Arc::new(AtomicU64::new(hub.head().sequence.0));
        let feed_wake = Arc::new(Wake::new().expect("a descriptor"));
        let wake = Arc::new(Wake::new().expect("a descriptor"));
        let bounds = draw_bounds(&mut random.clone());
        let (mut ends, reports) = upstream(&[wake], &feed_wake, bounds);
        let has_tokens = config.auth.is_on();
        let backend = Backend::new(reports, bounds, has_tokens, &mailbox, random);
        let sources = Sources::new(&config.limits).map(Arc::new);
        let parts = Parts {
            run,
            number: 3,
            config: Arc::clone(config),
            metrics: Arc::clone(&metrics),
            inbox,
            feed: feed_wake,
            upstream: ends.remove(0),
            sequenced: Arc::clone(&sequenced),
            pulse: Arc::default(),
            conns_max: match config.limits.connects_per_second_per_source {
                0 if is_crowded => 3,
                _ => 1000,
            },
            guard: Guard {
                proxied: net.proxied_listeners,
                silent: SilentLimit::new(if is_crowded { 2 } else { 500 }, 1).map(Arc::new),
                sources: sources.clone(),
                ..Guard::default()
            },
            keys: tickets::keys(config),
            secure: (net.secure_listeners != 0).then(|| secure(net.secure_listeners)),
        };
        Self {
            worker: Worker::new(net, hub, parts),
            mailbox,
            metrics,
            sequenced,
            sources,
            backend,
        }
    }
}

impl World {
    pub(crate) fn new(seed: u64, sabotage: Option<Sabotage>, is_shown: bool) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let is_crowded = random.u32(0..12) == 0;
        let mut config = draw_config(&mut random);
        // Apart, so that the other lives are not changed by it.
        let mut guarding = fastrand::Rng::with_seed(!seed);
        draw_limits(&mut config, is_crowded, &mut guarding);
        let config = Arc::new(config);
        let listeners = random.usize(1..=2);
        let mut net = FakeNet::new(random.fork(), listeners, is_shown);
        net.faults = draw_faults(&mut random);
        net.sabotage = sabotage;
        net.heartbeat_us = config.heartbeat.interval_ms * 1000;
        net.head_us = config.limits.request_head_ms * 1000;
        if random.u32(0..6) == 0 {
            net.secure_listeners = random.u64(1..1 << listeners);
        }
        if guarding.u32(0..4) == 0 {
            net.proxied_listeners = guarding.u64(1..1 << listeners);
        }
        let epoch = Epoch::new(random.u64(..) >> 1);
        let now_us = net.now_us();
        let crowd = if random.u32(0..8) == 0 { 60 } else { 12 };
        let peers = (0..random.u64(2..=crowd)).map(|number| Peer::new(number, &mut random, now_us));
        let peers = peers.collect();
        let hub = Hub::new(epoch, Sequence::ZERO, &config);
        let hired = Hired::new(net, hub, RunId(0), &config, is_crowded, &mut random);
        let journal = random
            .bool()
            .then(|| Journal::new(epoch, &config, &mut random));
        let facts = Facts::new(epoch, &config, random.usize(1..=6), Now(now_us));
        Self {
            worker: hired.worker,
            mailbox: hired.mailbox,
            metrics: hired.metrics,
            sequenced: hired.sequenced,
            sources: hired.sources,
            facts,
            checker: Checker::default(),
            backend: hired.backend,
            journal,
            peers,
            waiting: VecDeque::new(),
            posted: VecDeque::new(),
            has_ended: false,
            turns: 0,
            size_max: (config.quota.behind_bytes * 2).min(20_000) as usize,
            is_crowded,
            counts_before: vec![0; WorkerMetrics::TABLE.len()],
            deliveries_before: 0,
            restarts: 0,
            config,
            random,
        }
    }

    /// Lives to the end.
    pub(crate) fn live(&mut self) -> Outcome {
        self.be_chaotic();
        if self.is_crowded || self.random.u32(0..5) == 0 {
            self.drain();
        } else {
            self.calm_down();
            self.be_calm();
            self.publish_one_by_one();
            check::bounds_of_channels(self.worker.hub(), &self.config, &self.facts);
            for peer in &self.peers {
                peer.check_settled(&self.facts);
            }
            self.drain_in_peace();
        }
        check::at_the_end(&self.worker, &self.metrics);
        if let Some(sources) = &self.sources {
            sources.sweep(Now(u64::MAX / 2));
            assert_eq!(sources.count(), 0, "sources without conns");
        }
        self.worker.confirm_the_rest();
        self.backend.check_end(!self.worker.is_upstream_behind());
        for peer in &mut self.peers {
            peer.end(&mut self.facts);
        }
        self.check_delays();
        let (counted, read) = (
            self.deliveries_before + self.metrics.deliveries.value(),
            self.facts.deliveries,
        );
        // What is sealed counts, and a conn may end before it is sent.
        let may_differ = self.worker.net_mut().secure_listeners != 0;
        assert!(
            counted == read || (may_differ && counted > read),
            "{counted} publications counted as delivered, {read} read"
        );
        Outcome {
            hash: self.worker.net_mut().trace.hash,
            turns: self.turns,
            publications: self.facts.publications.len() as u64,
            deliveries: self.facts.deliveries,
            gaps: self.facts.gaps,
            windows_filled: self.facts.windows_filled,
            restarts: self.restarts,
            debts: self.checker.debts,
            counts: WorkerMetrics::TABLE
                .iter()
                .zip(&self.counts_before)
                .map(|(line, before)| before + (line.read)(&self.metrics))
                .collect(),
        }
    }

    fn be_chaotic(&mut self) {
        let steps = self.random.u32(100..1200);
        let busy = self.random.u32(1..=6);
        let pause_us = [2_000, 20_000, self.config.heartbeat.interval_ms * 250];
        let pause_us = pause_us[self.random.usize(0..3)];
        // While the mail is late, other workers are ahead, and so are clients who come from there.
        let mut is_late = false;
        for _ in 0..steps {
            is_late ^= self.random.u32(0..100) == 0;
            if self.random.u32(0..busy) == 0 && self.facts.publications.len() < 800 {
                let burst = [1, 1, 3, 30][self.random.usize(0..4)];
                for _ in 0..self.random.u32(1..=burst) {
                    self.publish();
                }
            }
            if !is_late && self.random.u32(0..3) > 0 {
                self.post();
            }
            let random = &mut self.random;
            self.backend.be_chaotic(&self.mailbox, random);
            if self.config.auth.is_on() && self.random.u32(0..60) == 0 {
                let step_s = tickets::draw_step_s(&mut self.random);
                self.worker.net_mut().step_calendar(step_s);
            }
            let pause = self.random.u64(1..=pause_us);
            self.step(pause);
            if self.journal.is_some() && self.random.u32(0..250) == 0 {
                self.restart();
            }
        }
        if let Some(journal) = &self.journal {
            journal.disk.calm_down();
        }
        self.backend.calm_down();
    }

    /// The server is killed between two turns, and another goes on from its journal.
    fn restart(&mut self) {
        for (line, sum) in WorkerMetrics::TABLE.iter().zip(&mut self.counts_before) {
            if line.kind == Kind::Counter {
                *sum += (line.read)(&self.metrics);
            }
        }
        self.deliveries_before += self.metrics.deliveries.value();
        self.restarts += 1;
        // A network that nobody uses takes the place of the real one, which lives on.
        let idle = FakeNet::new(self.random.fork(), 1, false);
        let mut net = std::mem::replace(self.worker.net_mut(), idle);
        net.lose_server();
        let now = Now(net.now_us());
        if net.sabotage == Some(Sabotage::LoseRecord)
            && let Some(journal) = &self.journal
        {
            journal.disk.forget();
        }
        let Some(journal) = &mut self.journal else {
            return;
        };
        let (hub, turned_up) = journal.kill(self.facts.epoch, now, &self.config);
        if let Some(publication) = turned_up {
            self.facts.add(publication);
        }
        let random = &mut self.random;
        let run = RunId(self.restarts);
        let hired = Hired::new(net, hub, run, &self.config, self.is_crowded, random);
        self.worker = hired.worker;
        self.mailbox = hired.mailbox;
        self.metrics = hired.metrics;
        self.sequenced = hired.sequenced;
        self.sources = hired.sources;
        let before = std::mem::replace(&mut self.backend, hired.backend);
        self.backend.remember(before);
        self.checker.begin_again();
        self.waiting.clear();
        self.posted.clear();
        // What was written to them before is right, whether they have read it or not.
        for peer in &mut self.peers {
            peer.end(&mut self.facts);
        }
    }

    /// The network becomes perfect, and peers do nothing wrong from now on.
    fn calm_down(&mut self) {
        let net = self.worker.net_mut();
        net.faults = Faults::default();
        self.facts.is_calm = true;
        let pause_us = calm_pause_us(&self.config);
        for peer in &mut self.peers {
            peer.calm_down(net, pause_us);
        }
    }

    /// Time passes until whoever was broken has been given up by both sides.
    fn be_calm(&mut self) {
        let interval_us = self.config.heartbeat.interval_ms * 1000;
        let head_us = self.config.limits.request_head_ms * 1000;
        let poll_us = self.config.limits.poll_timeout_ms * 1000;
        let shake_us = self.config.tls.handshake_ms * 1000;
        let wait = 4 * interval_us + shake_us + head_us + poll_us + LINGER_US + 2_500_000;
        // Who has said too much at once is read when that is made up for.
        let is_limited = self.config.limits.client_frames_per_second > 0;
        let made_up_us = if is_limited { MADE_UP_US } else { 0 };
        let until = self.now_us() + wait + made_up_us;
        self.step_until(until, |_| true);
        if is_limited {
            self.step_while_owed(MADE_UP_US_MAX - MADE_UP_US);
        }
        for peer in &self.peers {
            let is_half_open = peer.link.as_ref().is_some_and(|link| link.is_abandoned);
            assert!(!is_half_open, "peer {} is gone and kept", peer.number);
        }
    }

    /// Goes on for at most so long while a stream has yet to be given something.
    fn step_while_owed(&mut self, us: u64) {
        let until = self.now_us() + us;
        self.step_until(until, |world| {
            world.peers.iter().any(|peer| peer.is_owed(&world.facts))
        });
    }

    /// Goes on until then, as long as it is needed.
    fn step_until(&mut self, until_us: u64, is_needed: impl Fn(&Self) -> bool) {
        let interval_us = self.config.heartbeat.interval_ms * 1000;
        let turns = self.turns + TURNS_MAX;
        while self.now_us() < until_us && is_needed(self) {
            assert!(self.turns < turns, "the worker turns for nothing");
            self.post();
            self.step(interval_us);
        }
    }

    /// One publication in each channel, each of which everybody must get.
    fn publish_one_by_one(&mut self) {
        let interval_us = self.config.heartbeat.interval_ms * 1000;
        for channel in 0..self.facts.names.len() {
            self.sequence(channel, LONELY_BYTES, None);
            let until = self.now_us() + interval_us / 2;
            self.step_until(until, |_| true);
        }
        // The acknowledgement that opens a window may have to wait for its client's rate.
        if self.config.limits.client_frames_per_second > 0 {
            self.step_while_owed(MADE_UP_US);
        }
    }

    fn drain(&mut self) {
        while !self.waiting.is_empty() && self.mailbox.waiting() < BATCHES_MAX {
            self.post();
        }
        self.facts.is_draining = true;
        // Its window is for the peers, not for a backlog of walks that wait for others.
        let faults = &mut self.worker.net_mut().faults;
        (faults.walk_waits, faults.pause, faults.stop) = (0, 0, 0);
        for peer in &mut self.peers {
            peer.slow_down();
        }
        let conns = self.metrics.conns_open.value();
        let given = Now(self.now_us());
        self.mailbox.order_drain(DrainOrder { conns, given });
        let window_us = self.config.drain.window_ms * 1000;
        let until = given.0 + window_us + SLACK_US;
        let turns = self.turns + TURNS_MAX;
        while !self.has_ended {
            assert!(self.now_us() < until, "the drain does not end");
            assert!(self.turns < turns, "the worker turns for nothing");
            self.step(50_000);
        }
        self.facts.ended_us = self.now_us();
    }

    /// No client is asked to return while nothing listens.
    fn check_delays(&self) {
        for delay in &self.facts.delays {
            let returns_us = delay.written_us + delay.retry_ms * 1000;
            let listens_us = self.facts.ended_us + RESTART_MS * 1000;
            // The last goodbyes are said one turn before the end, and that turn takes time.
            assert!(
                returns_us + LAST_TURN_US >= listens_us,
                "{delay:?} and {listens_us}"
            );
            let most = MOST_DELAY_MS + self.config.drain.window_ms;
            assert!(delay.retry_ms <= most, "{delay:?}");
        }
    }

    /// Everybody who is served is told goodbye, also who comes in the middle of it.
    fn drain_in_peace(&mut self) {
        for _ in 0..3 {
            let now_us = self.now_us();
            let number = self.peers.len() as u64;
            let mut peer = Peer::new(number, &mut self.random, now_us);
            let net = self.worker.net_mut();
            peer.calm_down(net, calm_pause_us(&self.config));
            peer.act(net, &mut self.facts, &mut self.random);
            (peer.is_held, peer.next_us) = (true, now_us + self.random.u64(0..150_000));
            self.peers.push(peer);
        }
        self.step(1000);
        self.step(1000);
        for peer in &mut self.peers {
            peer.is_held = false;
        }
        let had_time = self.config.drain.window_ms >= 500;
        for peer in &mut self.peers {
            if let Some(link) = &mut peer.link {
                link.must_hear_goodbye = had_time && !link.is_half_closing;
                link.expect_answers(had_time);
            }
        }
        // Peers that neither read nor close hold nothing up: all that they were sent fits.
        let are_silent = self.random.bool();
        for peer in &mut self.peers {
            peer.is_held = are_silent;
        }
        let begun_us = self.now_us();
        self.drain();
        let took_us = self.now_us() - begun_us;
        assert!(took_us <= SILENT_DRAIN_US, "drained for {took_us} us");
    }

    fn now_us(&mut self) -> u64 {
        self.worker.net_mut().now_us()
    }

    /// Peers act, then the worker turns once.
    fn step(&mut self, pause_us: u64) {
        for peer in &mut self.peers {
            let net = self.worker.net_mut();
            peer.act(net, &mut self.facts, &mut self.random);
        }
        self.stop_at_times();
        let broadcasts = self.backend.turn(&self.mailbox, &mut self.random);
        for channel in broadcasts {
            let channel = self.facts.channel(channel.as_str());
            self.sequence(channel, 10, None);
        }
        let awake = self.peers.iter().filter(|peer| peer.is_awake());
        let next = awake.map(|peer| peer.next_us).min();
        let net = self.worker.net_mut();
        let horizon = net.now_us() + pause_us;
        net.horizon_us = next.map_or(horizon, |next| next.min(horizon));
        self.has_ended = self.worker.turn() == Turn::Ended;
        if self.random.u32(0..64) == 0 {
            self.worker.give_back_memory();
        }
        self.turns += 1;
        let hub = self.worker.hub();
        self.facts.head = hub.head().sequence.0;
        self.facts.tail = hub
            .log()
            .oldest()
            .map_or(self.facts.head, |entry| entry.publication.id.sequence.0 - 1);
        let now = Now(self.now_us());
        for link in self.peers.iter_mut().filter_map(|peer| peer.link.as_mut()) {
            link.check_token(self.worker.net(), self.worker.hub());
        }
        check::what_is_kept(self.worker.hub(), now, &self.config, &mut self.facts);
        while self
            .posted
            .front()
            .is_some_and(|last| *last <= self.facts.head)
        {
            self.posted.pop_front();
        }
        self.checker
            .after_turn(&self.worker, &self.metrics, &self.config);
        self.backend.check(&self.worker);
        self.check_reaped();
        self.facts.now = Now(self.now_us());
    }

    /// The process is stopped for a while, and peers go on.
    fn stop_at_times(&mut self) {
        let Some(us) = self.worker.net_mut().draw_stop() else {
            return;
        };
        self.worker.net_mut().note_pause(us);
        for _ in 0..ACTS_PER_STOP {
            let net = self.worker.net_mut();
            net.stay_stopped(us / ACTS_PER_STOP);
            for peer in &mut self.peers {
                peer.act(net, &mut self.facts, &mut self.random);
            }
        }
    }

    /// No conn was closed for its peer's silence that the worker had not listened for.
    fn check_reaped(&mut self) {
        let reaped = self.worker.reaped().to_vec();
        for (id, reason) in reaped {
            if let CloseReason::Idle | CloseReason::HeadTimeout | CloseReason::CrowdedOut = reason {
                self.worker.net_mut().check_silent(id, reason);
            }
        }
    }

    fn publish(&mut self) {
        let channel = self.random.usize(0..self.facts.names.len());
        let size = match self.random.u32(0..10) {
            0 => self.random.usize(0..=self.size_max),
            1..4 => self.random.usize(0..300),
            _ => self.random.usize(0..30),
        };
        let ttl_ms = (self.random.u32(0..8) == 0).then(|| self.random.u64(0..200));
        self.sequence(channel, size, ttl_ms);
    }

    /// Gives a publication its number. Its payload begins with it too.
    fn sequence(&mut self, channel: usize, size: usize, ttl_ms: Option<u64>) {
        let sequence = self.facts.publications.len() as u64 + 1;
        let id = Cursor {
            epoch: self.facts.epoch,
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
        let name = ChannelName::new(&self.facts.names[channel]).expect("a name");
        let now = Now(self.now_us());
        let mut publication = Publication::new(id, name, payload, now);
        let key = self.random.u32(0..6);
        let has_key = ttl_ms.is_some() || key < 3;
        publication.key = (has_key && size != LONELY_BYTES).then(|| format!("k{key}").into());
        publication.event = (self.random.u32(0..5) == 0).then(|| "tick".into());
        publication.expires = ttl_ms.map(|ms| now.after(std::time::Duration::from_millis(ms)));
        let receipt = (self.random.u32(0..8) == 0).then(|| Arc::new(Receipt::new(1)));
        publication.receipt = receipt.as_ref().map(Arc::clone);
        let publication = Arc::new(publication);
        if let Some(journal) = &mut self.journal
            && !journal.take(&publication)
        {
            return;
        }
        let receipts = &mut self.checker.receipts;
        receipts.extend(receipt.map(|receipt| (sequence, receipt)));
        self.facts.add(Arc::clone(&publication));
        self.waiting.push_back(publication);
        self.sequenced.store(sequence, Ordering::Release);
    }

    /// Hands the worker a batch, if its inbox has room.
    fn post(&mut self) {
        if self.waiting.is_empty() || self.mailbox.waiting() >= BATCHES_MAX {
            return;
        }
        let count = self.random.usize(1..=self.waiting.len());
        let batch: Vec<_> = self.waiting.drain(..count).collect();
        let last = batch
            .last()
            .map_or(0, |publication| publication.id.sequence.0);
        self.posted.push_back(last);
        let posted = self.mailbox.post(Mail::Publish(batch.into()));
        assert_eq!(posted, fanfare::worker::inbox::Posted::AtOnce);
    }

    /// Where it is, for whoever looks into a failure.
    pub(crate) fn whereabouts(&mut self) -> String {
        let now_us = self.now_us();
        format!(
            "turn {}, {now_us} us, head {} of {}, {:?} {:?} {:?}",
            self.turns,
            self.facts.head,
            self.facts.publications.len(),
            self.config.quota,
            self.config.log,
            self.config.namespace,
        )
    }
}

/// Calm peers act several times within a heartbeat, and within the shortest poll.
fn calm_pause_us(config: &Config) -> u64 {
    (config.heartbeat.interval_ms * 100).min(200_000)
}

fn draw_config(random: &mut fastrand::Rng) -> Config {
    let mut config = Config::default();
    let mut pick = |choices: &[u64]| choices[random.usize(0..choices.len())];
    config.heartbeat.interval_ms = pick(&[400, 700, 2000]);
    config.limits.request_head_ms = pick(&[500, 2000]);
    config.tls.handshake_ms = config.limits.request_head_ms;
    config.limits.request_head_bytes = pick(&[1024, 8192]) as u32;
    config.limits.client_message_bytes = pick(&[1000, 65_536]) as u32;
    config.limits.channels_per_conn = pick(&[1, 3, 128]) as u32;
    config.limits.poll_timeout_ms = pick(&[300, 2_000, 4_000]);
    config.quota.behind_bytes = pick(&[10, 300, 5_000, 65_536]);
    config.quota.behind_publications = pick(&[1, 3, 20, 256]);
    config.quota.write_bytes_per_turn = pick(&[200, 4096, 65_536]) as u32;
    config.quota.overflow =
        [Overflow::Skip, Overflow::Conflate, Overflow::Close][pick(&[0, 0, 1, 1, 2]) as usize];
    config.log.bytes = pick(&[8_000, 40_000, 1 << 26, 1 << 26]);
    config.log.entries = pick(&[1, 10, 100, 1_000_000, 1_000_000]);
    config.log.age_ms = pick(&[30, 1_000, 60_000, 60_000]);
    config.drain.window_ms = pick(&[0, 60, 500, 3_000]);
    config.drain.retry_ms = pick(&[0, 1, 30_000]);
    config.deflate.enabled = pick(&[0, 1, 1]) == 1;
    if pick(&[0, 0, 0, 1]) == 1 {
        tickets::ask_for(&mut config);
    }
    draw_namespaces(&mut config, random);
    config
}

/// Bounds that nobody reaches who behaves, but where there is no room anyway; and whether the peers
/// are proxies whose word counts, each of which has clients in turn.
fn draw_limits(config: &mut Config, is_crowded: bool, random: &mut fastrand::Rng) {
    let limits = &mut config.limits;
    match (random.u32(0..6), is_crowded) {
        (0..=1, false) => limits.conns_per_source = 1000,
        (0..=1, true) => limits.conns_per_source = 1,
        (2..=5, true) => limits.connects_per_second_per_source = 1,
        _ => {}
    }
    if random.u32(0..2) == 0 {
        limits.first_subscribe_ms = 300;
    }
    if random.u32(0..4) == 0 {
        limits.client_frames_per_second = 10;
        limits.client_bytes_per_second = 3_000;
    }
    if random.u32(0..3) == 0 {
        config.proxy.trusted = vec!["::/0".parse().expect("a network")];
    }
}

/// Some channels with bounds of their own, most of them tiny.
fn draw_namespaces(config: &mut Config, random: &mut fastrand::Rng) {
    let mut patterns = ["*", "c*", "c0", "c1", "c1*", "c2", "c3"];
    random.shuffle(&mut patterns);
    let count = [0, 0, 1, 3][random.usize(0..4)];
    let mut pick = |choices: &[u64], most: u64| {
        let choice = choices[random.usize(0..choices.len())];
        (choice > 0).then_some(choice.min(most))
    };
    for pattern in patterns.into_iter().take(count) {
        let log_entries = pick(&[0, 0, 1, 2, 9], config.log.entries);
        let log_bytes = pick(&[0, 0, 1, 300, 3_000], config.log.bytes);
        let log_age_ms = pick(&[0, 0, 0, 20, 500], config.log.age_ms);
        let overflow = pick(&[0, 0, 1, 2, 3, 3], 3);
        config.namespace.push(Namespace {
            pattern: pattern.into(),
            log_entries,
            log_bytes,
            log_age_ms,
            overflow: overflow.map(|choice| {
                [Overflow::Skip, Overflow::Close, Overflow::Conflate][choice as usize - 1]
            }),
            client_publish: pick(&[0, 1, 1, 2], 2).map(|choice| {
                [ClientPublish::Broadcast, ClientPublish::Consume][choice as usize - 1]
            }),
            client_presence: pick(&[0, 1], 1).map(|_| true),
            anonymous_subscribe: None,
        });
    }
}

fn draw_faults(random: &mut fastrand::Rng) -> Faults {
    let mut rate = |most: u32| {
        if random.bool() {
            random.u32(0..=most)
        } else {
            0
        }
    };
    Faults {
        read_short: rate(500),
        read_blocks: rate(300),
        interrupted: rate(200),
        write_short: rate(500),
        spurious: rate(500),
        stale: rate(300),
        reset: rate(8),
        accept_exhausted: rate(200),
        accept_failed: rate(100),
        register_failed: rate(100),
        walk_waits: rate(300),
        pause: rate(3),
        stop: rate(30),
        unacknowledged: rate(200),
        delay_us: [0, 100, 30_000, 400_000][random.usize(0..4)],
        write_us: [0, 20, 400][random.usize(0..3)],
        // A few reads of these fill the slice of a turn.
        read_us: [0, 0, 6_000][random.usize(0..3)],
    }
}
