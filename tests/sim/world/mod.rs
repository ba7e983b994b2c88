//! One run of a node: the fault phase, the quiet phase, and a drain.
//!
//! In the fault phase every kind of fault may happen. In the quiet phase the network is perfect,
//! the peers behave well and time passes, so that each client must receive the last publication. At
//! the end the workers drain. Some runs drain in the fault phase instead. Everything is drawn from
//! the seed, including the number of workers and the order of their turns. This file has the start
//! of a run, the fault phase and the step. [`settle`] has the later phases, [`node`] has the
//! workers, and [`draw`] has the configuration.

mod draw;
pub(crate) mod node;
mod settle;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use fanfare::config::Config;
use fanfare::effect::CloseReason;
use fanfare::id::{Epoch, RunId, Sequence};
use fanfare::log::Writer;
use fanfare::metrics::{Kind, WorkerMetrics};
use fanfare::worker::{Turn, Worker};

use crate::check::{self, LagStats};
use crate::disk::Journal;
use crate::feed::{Feed, LogEvent};
use crate::model::{Facts, Work};
use crate::net::{FakeNet, Machine, Sabotage};
use crate::operator::Operator;
use crate::peer::Peer;
use crate::pinned;
use crate::rules;
use crate::tokens;
use draw::{draw_acts_in_turns, draw_config, draw_faults, draw_limits, draw_workers};
use node::{Node, NodeWorker};

/// The number of times that each peer may act while the process is stopped.
const ACTS_PER_STOP: u64 = 8;
/// The maximum time between two turns of a worker in a punctual run. A turn counts as late after
/// 100 ms.
const PUNCTUAL_US: u64 = 90_000;

/// The chance of an epoch change between two turns in a run with epoch changes, in thousandths.
const CHANGES_PER_STEP: u32 = 4;

/// The number of turns between two counts of channels. Counting channels is slow.
const TURNS_PER_CHANNEL_COUNT: u64 = 8;

/// The outcome of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) hash: u64,
    pub(crate) turns: u64,
    pub(crate) publications: u64,
    pub(crate) deliveries: u64,
    pub(crate) gaps: u64,
    pub(crate) windows_filled: u64,
    /// The number of connections that resumed at a position that their worker had not reached yet.
    pub(crate) ahead: u64,
    pub(crate) restarts: u64,
    /// The number of epoch changes.
    pub(crate) epochs: u64,
    /// The number of changes of the rules of channels.
    pub(crate) rule_changes: u64,
    pub(crate) lag: LagStats,
    /// The workers' counters, in the order of the table of metrics.
    pub(crate) counts: Vec<u64>,
}

pub(crate) struct World {
    machine: Rc<Machine>,
    node: Node,
    feed: Rc<RefCell<Feed>>,
    config: Arc<Config>,
    facts: Facts,
    peers: Vec<Peer>,
    random: fastrand::Rng,
    turns: u64,
    /// Whether the limits on conns are so low that not all clients can be connected at the same
    /// time.
    is_crowded: bool,
    /// Whether every worker runs so often that no turn counts as late.
    is_punctual: bool,
    /// The counters of the servers that were killed.
    counts_before: Vec<u64>,
    deliveries_before: u64,
    lag_before: LagStats,
    restarts: u64,
    operator: Operator,
    /// Whether the rules of channels change while the node runs.
    has_rule_changes: bool,
    rule_changes: u64,
    /// The configuration with which the log was created, or to which its rules were changed.
    log_config: Arc<Config>,
}

impl World {
    pub(crate) fn new(seed: u64, sabotage: Option<Sabotage>, is_shown: bool) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let is_crowded = random.u32(0..12) == 0;
        let mut config = draw_config(&mut random);
        draw_limits(&mut config, is_crowded, &mut random);
        pinned::draw_bound(&mut config, seed);
        let machine = Machine::new(&mut random, is_shown);
        let now = machine.now();
        let workers = draw_workers(&mut random);
        let mut nets = draw_nets(&machine, workers, &config, &mut random);
        config.listen = nets[0].listen();
        let config = Arc::new(config);
        let epoch = Epoch::new(random.u64(..) >> 1);
        let crowd = if random.u32(0..8) == 0 { 60 } else { 12 };
        let peers = 0..random.u64(2..=crowd);
        let peers = peers.map(|number| Peer::new(number, &mut random, now.0));
        let peers = peers.collect();
        let facts = Facts::new(epoch, &config, workers, random.usize(1..=6), now);
        let feed = draw_feed(&facts, &mut random);
        for net in &mut nets {
            net.sabotage = sabotage;
            net.mid_turn = Some(Rc::clone(&feed) as _);
        }
        let writer = Writer::new(&config, Sequence::ZERO);
        let log = Arc::clone(writer.log());
        let run = RunId(0);
        let (node, mailboxes) =
            Node::start(nets, &log, epoch, run, &config, is_crowded, &mut random);
        feed.borrow_mut().begin(mailboxes, writer, (facts.epoch, 0));
        Self {
            machine,
            node,
            feed,
            facts,
            peers,
            turns: 0,
            is_crowded,
            is_punctual: random.bool(),
            counts_before: vec![0; WorkerMetrics::TABLE.len()],
            deliveries_before: 0,
            lag_before: LagStats::default(),
            restarts: 0,
            operator: Operator::new(&random),
            has_rule_changes: random.clone().u32(0..3) == 0,
            rule_changes: 0,
            log_config: Arc::clone(&config),
            config,
            random,
        }
    }

    /// Runs the simulation to its end.
    pub(crate) fn run(&mut self) -> Outcome {
        self.run_faults();
        if self.is_crowded || self.random.u32(0..5) == 0 {
            self.drain();
        } else {
            self.end_faults();
            self.wait_for_closes();
            self.publish_last();
            self.check_settled();
            self.check_lists();
            self.drain_quiet_node();
        }
        self.check_end();
        let mut counts = self.counts_before.clone();
        self.node.add_counts(None, &mut counts);
        let mut lag = self.node.lag();
        lag.merge(&self.lag_before);
        Outcome {
            hash: self.machine.hash(),
            turns: self.turns,
            publications: self.facts.publications.len() as u64,
            deliveries: self.facts.deliveries,
            gaps: self.facts.gaps,
            windows_filled: self.facts.windows_filled,
            ahead: self.facts.ahead,
            restarts: self.restarts,
            epochs: self.facts.epochs.changes(),
            rule_changes: self.rule_changes,
            lag,
            counts,
        }
    }

    fn run_faults(&mut self) {
        let steps = self.random.u32(100..1200);
        let busy = self.random.u32(1..=6);
        let pause_us = [2_000, 20_000, self.config.heartbeat.interval_ms * 250];
        let pause_us = pause_us[self.random.usize(0..3)];
        for _ in 0..steps {
            self.feed_at_random(busy);
            let feed = self.feed.borrow();
            let backend = &mut self.node.backend;
            backend.act_at_random(&feed.mailboxes, &mut self.random);
            let workers = &self.node.workers;
            let known = self.node.backend.known();
            self.operator.ask_at_random(workers, known, &feed.mailboxes);
            self.facts.has_kicked |= self.operator.has_kicked_many;
            drop(feed);
            if self.config.auth.is_on() && self.random.u32(0..60) == 0 {
                let step_s = tokens::draw_step_s(&mut self.random);
                self.machine.step_calendar(step_s);
            }
            self.starve_at_random();
            self.reload_at_random();
            self.change_rules_at_random();
            let pause = self.random.u64(1..=pause_us);
            self.step(pause);
            if self.random.u32(0..250) == 0 {
                self.restart();
            }
        }
        let mut feed = self.feed.borrow_mut();
        feed.end_faults();
        if let Some(journal) = &feed.journal {
            journal.disk.end_faults();
        }
        self.node.backend.end_faults();
    }

    /// Publishes at random, and posts to workers. At times the messages of one worker are delayed.
    /// A client that reconnects to this worker may then have a position that the worker has not
    /// reached.
    fn feed_at_random(&mut self, busy: u32) {
        let mut feed = self.feed.borrow_mut();
        feed.draw_late_worker();
        if self.random.u32(0..busy) == 0 {
            let burst = [1, 1, 3, 30][self.random.usize(0..4)];
            for _ in 0..self.random.u32(1..=burst) {
                feed.publish_at_random(self.machine.now());
            }
        }
        feed.post_some(self.machine.now());
        feed.change_epoch_at_random(CHANGES_PER_STEP, self.machine.now());
        self.facts.add_all(feed.take_events());
    }

    /// Denies a worker its turns for a while, at random.
    fn starve_at_random(&mut self) {
        let count = self.node.workers.len();
        if count > 1 && self.random.u32(0..200) == 0 {
            let us = [5_000, 200_000, 3_000_000][self.random.usize(0..3)];
            let until_us = self.machine.now_us() + self.random.u64(0..us);
            self.node.workers[self.random.usize(0..count)].starved_until_us = until_us;
        }
    }

    /// Reloads the configuration, at random. Clients use at most as many channels as the first
    /// configuration allows, so a reload only allows more.
    fn reload_at_random(&mut self) {
        if self.random.u32(0..150) > 0 {
            return;
        }
        let mut config = Config::clone(&self.config);
        config.limits.channels_per_conn += self.random.u32(0..3);
        // From a clone, so that the run's other random numbers do not depend on it.
        let mut random = self.random.clone();
        config.quota.behind_publications = [1, 3, 20, 256][random.usize(0..4)];
        config.quota.behind_bytes = [10, 300, 5_000, 65_536][random.usize(0..4)];
        config
            .listen
            .truncate(random.usize(1..=config.listen.len()));
        if self.random.bool() {
            config.limits.client_frames_per_second = 0;
            config.limits.client_bytes_per_second = 0;
        }
        self.feed.borrow().mailboxes.order_config(&Arc::new(config));
    }

    /// Changes the rules of channels, at random, in a part of the runs.
    fn change_rules_at_random(&mut self) {
        // From a clone, so that the run's other random numbers do not depend on it.
        let mut random = self.random.clone();
        if self.has_rule_changes && random.u32(0..100) == 0 {
            let namespaces = rules::draw_namespaces(&self.facts, &mut random);
            let config = rules::with_namespaces(&self.config, namespaces);
            self.log_config = Arc::new(config.clone());
            self.feed.borrow_mut().change_rules(config);
            self.rule_changes += 1;
        }
        let is_complete =
            !self.feed.borrow().writer.is_changing_rules() && self.node.has_new_rules();
        if is_complete {
            let now = self.machine.now();
            let all = self.facts.rules.iter_mut();
            all.for_each(|rules| rules.note_complete(now));
        }
    }

    /// If the run has a journal, kills the server between two turns and starts another server from
    /// the journal, or from an older copy of it.
    fn restart(&mut self) {
        let now = self.machine.now();
        let before = self.facts.epochs.newest_at(0).epoch;
        let is_copy = self.random.u32(0..3) == 0;
        let fresh = Epoch::new(self.random.u64(..) >> 1);
        let (writer, recovered, change) = {
            let mut feed = self.feed.borrow_mut();
            let Some(journal) = &mut feed.journal else {
                return;
            };
            if self.node.net(0).sabotage == Some(Sabotage::LoseRecord) {
                journal.disk.lose_newest_record();
            }
            let (writer, recovered) = journal.kill(before, now, &self.log_config);
            if is_copy {
                let copy = journal.restore_older_copy(before, fresh, now, &self.log_config);
                (copy.0, recovered, Some(copy.1))
            } else {
                (writer, recovered, None)
            }
        };
        self.node.check_access(false);
        let kind = Some(Kind::Counter);
        self.node.add_counts(kind, &mut self.counts_before);
        self.deliveries_before += self.node.deliveries();
        self.lag_before.merge(&self.node.lag());
        self.restarts += 1;
        self.operator.forget();
        let mut nets = self.node.take_nets(&mut self.random);
        nets.iter_mut().for_each(FakeNet::lose_server);
        self.machine.pass(self.random.u64(0..300_000));
        self.facts.add_all(recovered.map(LogEvent::Publication));
        self.facts.add_all(change.map(LogEvent::Epoch));
        let run = RunId(self.restarts);
        let random = &mut self.random;
        let (log, epoch) = (
            Arc::clone(writer.log()),
            self.facts.epochs.newest_at(0).epoch,
        );
        let (config, is_crowded) = (&self.config, self.is_crowded);
        let (node, mailboxes) = Node::start(nets, &log, epoch, run, config, is_crowded, random);
        let before = std::mem::replace(&mut self.node, node);
        self.node.backend.take_over_names(before.backend);
        let serial = self.facts.publications.len() as u64;
        let mut feed = self.feed.borrow_mut();
        feed.begin(mailboxes, writer, (epoch, serial));
        drop(feed);
        self.facts.now = self.machine.now();
        for worker in 0..self.node.workers.len() {
            self.note_log(worker);
        }
        // All bytes that the killed server wrote must be right, even bytes that the client has not
        // read.
        for peer in &mut self.peers {
            peer.end(&mut self.facts);
        }
    }

    /// Lets the peers act, then runs one turn of one worker.
    fn step(&mut self, pause_us: u64) {
        self.let_peers_act();
        self.stop_at_random();
        self.let_backend_act();
        let worker = self.draw_next();
        let horizon_us = self.horizon_us(worker, self.machine.now_us() + pause_us);
        self.node.net(worker).horizon_us = horizon_us;
        self.turn(worker);
    }

    fn let_peers_act(&mut self) {
        for peer in &mut self.peers {
            peer.act(&mut self.node, &mut self.facts, &mut self.random);
        }
    }

    fn let_backend_act(&mut self) {
        let mut feed = self.feed.borrow_mut();
        let broadcasts = self.node.backend.turn(&feed.mailboxes, &mut self.random);
        for channel in broadcasts {
            let channel = self.facts.channel(channel.as_str());
            feed.sequence(channel, 10, None, self.machine.now());
        }
        self.facts.add_all(feed.take_events());
    }

    /// Returns the worker to run next: a random one of the workers that may run now. In a punctual
    /// run, no turn may be late. So a worker whose turn would otherwise be late runs first, and
    /// workers that have nothing to do are left out.
    fn draw_next(&mut self) -> usize {
        let now_us = self.machine.now_us();
        let workers = &self.node.workers;
        let all = (0..workers.len()).filter(|worker| !workers[*worker].has_ended);
        let all: Vec<usize> = all.collect();
        let is_free = |worker: &usize| workers[*worker].starved_until_us <= now_us;
        let mut free: Vec<usize> = all.iter().copied().filter(is_free).collect();
        if free.is_empty() {
            free = all;
        }
        if self.is_punctual && free.len() > 1 {
            let polled_us = |worker: &usize| workers[*worker].worker.net().polled_us();
            let oldest = free.iter().copied().min_by_key(polled_us);
            let oldest = oldest.expect("one that has not ended");
            free.retain(|worker| self.is_due(*worker));
            if free.is_empty() || polled_us(&oldest) + PUNCTUAL_US <= now_us {
                return oldest;
            }
        }
        free[self.random.usize(0..free.len())]
    }

    fn is_due(&self, worker: usize) -> bool {
        let net = self.node.workers[worker].worker.net();
        net.is_due() || self.feed.borrow().mailboxes.is_waiting(worker)
    }

    /// Returns the time until which a worker may sleep: until a peer or another worker has
    /// something to do.
    fn horizon_us(&self, worker: usize, latest_us: u64) -> u64 {
        let awake = self.peers.iter().filter(|peer| peer.is_awake());
        let next_us = awake.map(|peer| peer.next_us).min();
        let mut horizon_us = next_us.map_or(latest_us, |next_us| next_us.min(latest_us));
        let now_us = self.machine.now_us();
        for (other, node_worker) in self.node.workers.iter().enumerate() {
            let is_free = node_worker.starved_until_us <= now_us && !node_worker.has_ended;
            if self.is_punctual && is_free && other != worker {
                let due_us = match self.is_due(other) {
                    true => now_us,
                    false => node_worker.worker.net().polled_us() + PUNCTUAL_US,
                };
                horizon_us = horizon_us.min(due_us);
            }
        }
        horizon_us
    }

    fn turn(&mut self, worker: usize) {
        let node_worker = &mut self.node.workers[worker];
        self.feed.borrow_mut().is_mid_turn = true;
        node_worker.has_ended = node_worker.worker.turn() == Turn::Ended;
        self.feed.borrow_mut().is_mid_turn = false;
        if self.random.u32(0..64) == 0 {
            node_worker.worker.trim_memory_now();
        }
        self.turns += 1;
        if self.facts.is_draining {
            let us = node_worker.worker.net().polled_us()..self.machine.now_us();
            self.facts.work.push(Work { worker, us });
        }
        if node_worker.has_ended {
            node_worker.worker.confirm_remaining();
            self.feed.borrow_mut().note_ended(worker);
        }
        self.facts.add_all(self.feed.borrow_mut().take_events());
        self.facts.now = self.machine.now();
        self.operator.check(&self.node.workers);
        self.check_turn(worker);
    }

    /// Records the newest publication that a worker has processed, and the publications that have
    /// left the log.
    fn note_log(&mut self, worker: usize) {
        let hub = self.node.workers[worker].worker.hub();
        self.facts.logs[worker].head = self.facts.position(hub.head());
        let feed = self.feed.borrow();
        check::check_evictions(&feed.writer, self.facts.now, &mut self.facts);
    }

    fn check_turn(&mut self, turned: usize) {
        let worker = turned;
        self.note_log(worker);
        let node_worker = &mut self.node.workers[worker];
        for link in self.peers.iter_mut().filter_map(|peer| peer.link.as_mut()) {
            link.note_calendar(&self.machine);
            if link.worker == worker {
                let hub = node_worker.worker.hub();
                link.check_token(node_worker.worker.net(), hub);
                link.count_ahead(hub, &mut self.facts);
            }
        }
        check_reaped(&mut node_worker.worker);
        let NodeWorker {
            checker,
            metrics,
            worker,
            ..
        } = node_worker;
        checker.after_turn(worker, metrics);
        let workers = &self.node.workers;
        if self.turns.is_multiple_of(TURNS_PER_CHANNEL_COUNT) {
            let feed = self.feed.borrow();
            check::check_channel_counts(workers, &feed.writer, &self.facts);
        }
        let mut feed = self.feed.borrow_mut();
        let acknowledged = check::check_worker_acks(&mut feed.worker_acks, workers, &self.facts);
        let log = feed.writer.log();
        pinned::check_turn(workers, turned, log, &self.config);
        if feed.has_all_taken(workers) {
            pinned::check_all(workers, log);
        }
        self.facts.acknowledged = self.facts.acknowledged.max(acknowledged);
        self.node.backend.check(workers);
    }

    /// Stops the process for a while, at random. The peers continue.
    fn stop_at_random(&mut self) {
        let Some(us) = self.node.net(0).draw_stop() else {
            return;
        };
        for _ in 0..ACTS_PER_STOP {
            self.machine.pass(us / ACTS_PER_STOP);
            self.let_peers_act();
        }
        self.node.nets().for_each(|net| net.note_stop(us));
    }

    /// Returns a description of the run's state for the message of a failure.
    pub(crate) fn describe(&self) -> String {
        let heads: Vec<u64> = self.facts.logs.iter().map(|log| log.head).collect();
        format!(
            "turn {}, {} us, heads {heads:?} of {}, {:?} {:?} {:?} {:?}",
            self.turns,
            self.machine.now_us(),
            self.facts.publications.len(),
            self.config.quota,
            self.config.log,
            self.config.namespace,
            self.facts.epochs,
        )
    }
}

/// Checks that the worker polled and read before it closed a conn because its peer was late or
/// silent.
fn check_reaped(worker: &mut Worker<FakeNet>) {
    let reaped = worker.reaped().to_vec();
    for (id, reason) in reaped {
        if let CloseReason::Idle | CloseReason::HeadTimeout | CloseReason::CrowdedOut = reason {
            worker.net_mut().check_silent(id, reason);
        }
        if reason == CloseReason::Overflow {
            worker.net().note_cut_off(id);
        }
    }
}

/// Creates the networks of the workers, with the same listeners and the same random rates of
/// faults.
fn draw_nets(
    machine: &Rc<Machine>,
    workers: usize,
    config: &Config,
    random: &mut fastrand::Rng,
) -> Vec<FakeNet> {
    let listeners = random.usize(1..=2);
    let mut draw_listeners = |one_in: u32| match random.u32(0..one_in) {
        0 => random.u64(1..1 << listeners),
        _ => 0,
    };
    let (secure, proxied) = (draw_listeners(6), draw_listeners(4));
    let faults = draw_faults(random);
    let nets = (0..workers).map(|worker| {
        let mut net = FakeNet::new(machine, worker, random.fork(), listeners);
        net.faults = faults;
        net.heartbeat_us = config.heartbeat.interval_ms * 1000;
        net.head_us = config.limits.request_head_ms * 1000;
        (net.secure_listeners, net.proxied_listeners) = (secure, proxied);
        net
    });
    nets.collect()
}

fn draw_feed(facts: &Facts, random: &mut fastrand::Rng) -> Rc<RefCell<Feed>> {
    let config = &facts.config;
    let journal = random
        .bool()
        .then(|| Journal::new(facts.epoch, config, random));
    let size_max = (config.quota.behind_bytes * 2).min(20_000) as usize;
    let mut feed = Feed::new(
        facts.epoch,
        facts.channels.clone(),
        size_max,
        journal,
        Writer::new(config, Sequence::ZERO),
        random.fork(),
    );
    feed.acts_in_turns = draw_acts_in_turns(random);
    // The epoch changes only in a run without a journal. The changes come from a clone of the
    // random number generator, so that the run's other random numbers do not depend on them.
    if feed.journal.is_none() {
        feed.draw_changes(random.clone());
    }
    Rc::new(RefCell::new(feed))
}
