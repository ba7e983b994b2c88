//! The phases after the fault phase: the quiet phase, in which every client is served, and the
//! drain.

use fanfare::config::limits::{LINGER_MS, RECONNECTS_MS_MIN, RESTART_MS};
use fanfare::worker::mail::inbox::DrainOrder;
use fanfare::worker::mail::survey::SurveyAnswer;

use super::World;
use super::draw::quiet_pause_us;
use crate::check;
use crate::feed::LAST_BYTES;
use crate::net::Faults;
use crate::operator::Operator;
use crate::peer::Peer;

/// The maximum number of turns per worker in one wait or in a drain. More turns mean that the
/// worker does not sleep in its poll.
const TURNS_MAX: u64 = 40_000;
/// The number of heartbeat intervals until the server closes a conn of a peer that is gone. A conn
/// is closed after two silent intervals. The server checks this only when it sends a heartbeat, so
/// a third interval may pass. A heartbeat that warns about the end of a token does not include the
/// check, so a fourth may pass.
const SILENT_INTERVALS: u64 = 4;
/// The time that the clients need after `SILENT_INTERVALS` to reconnect and catch up, with slack. A
/// client acts every 200 ms. A readiness report from the fault phase may be 400 ms late, and up to
/// ten timers are rounded up to a tick of 65.5 ms.
const RECOVERY_US: u64 = 2_500_000;
/// The usual time until the server has read all commands of a client that has exceeded its rate
/// limit. `RATE_BACKLOG_US_MAX` is the maximum of this time: in a fault phase a client sends at
/// most 1,200 commands of up to three frames each, and the server reads ten frames per second.
const RATE_BACKLOG_US: u64 = 20_000_000;
const RATE_BACKLOG_US_MAX: u64 = 360_000_000;
/// The maximum duration of the last turn of a drain. The turn reads for a limited time, and one
/// more read may follow.
const LAST_TURN_US: u64 = 20_000;
/// Slack for the rounding of timers and for the turns themselves.
const SLACK_US: u64 = 400_000;

/// The maximum duration of a drain of a few conns whose peers neither read nor close. It consists
/// of one timer tick before the close frames, two round trips, and the turns.
const SILENT_DRAIN_US: u64 = 500_000;
/// The maximum reconnect delay if there are few clients. The duration of the drain itself
/// (`drain.window_ms`) comes on top.
const MOST_DELAY_MS: u64 = RESTART_MS + RECONNECTS_MS_MIN + 1;

impl World {
    /// Ends the faults and the peers' misbehavior.
    pub(super) fn end_faults(&mut self) {
        self.node
            .nets()
            .for_each(|net| net.faults = Faults::default());
        self.end_starvation();
        self.facts.is_quiet = true;
        let pause_us = quiet_pause_us(&self.config);
        for peer in &mut self.peers {
            peer.stop_misbehaving(&mut self.node, pause_us);
        }
    }

    fn end_starvation(&mut self) {
        self.is_punctual = true;
        for node_worker in &mut self.node.workers {
            node_worker.starved_until_us = 0;
        }
    }

    /// Waits as long as the server needs to close every connection whose peer is gone.
    ///
    /// Such a connection may be in any phase. The wait is the sum of the time limits of all phases:
    /// TLS handshake, request head, the wait of a poll, silence, and the close handshake.
    pub(super) fn wait_for_closes(&mut self) {
        let interval_us = self.config.heartbeat.interval_ms * 1000;
        let head_us = self.config.limits.request_head_ms * 1000;
        let poll_us = self.config.limits.poll_timeout_ms * 1000;
        let handshake_us = self.config.tls.handshake_ms * 1000;
        let silent_us = SILENT_INTERVALS * interval_us;
        let phases_us = handshake_us + head_us + poll_us + silent_us + LINGER_MS * 1000;
        // The wait is longer with a rate limit, because commands that exceed the limit are read
        // later.
        let is_limited = self.config.limits.client_frames_per_second > 0;
        let backlog_us = if is_limited { RATE_BACKLOG_US } else { 0 };
        let until = self.machine.now_us() + phases_us + RECOVERY_US + backlog_us;
        self.step_until(until, |_| true);
        if is_limited {
            self.step_while_owed(RATE_BACKLOG_US_MAX - RATE_BACKLOG_US);
        }
        for peer in &self.peers {
            let is_half_open = peer.link.as_ref().is_some_and(|link| link.is_abandoned);
            assert!(
                !is_half_open,
                "the conn of peer {} was not closed",
                peer.number
            );
        }
    }

    /// Runs steps while a stream still has to receive something, for at most `us`.
    fn step_while_owed(&mut self, us: u64) {
        let until = self.machine.now_us() + us;
        self.step_until(until, |world| {
            world.peers.iter().any(|peer| peer.is_owed(&world.facts))
        });
    }

    /// Runs steps until `until_us`, or until `is_needed` returns false.
    fn step_until(&mut self, until_us: u64, is_needed: impl Fn(&Self) -> bool) {
        let interval_us = self.config.heartbeat.interval_ms * 1000;
        let turns = self.turns_max();
        while self.machine.now_us() < until_us && is_needed(self) {
            assert!(self.turns < turns, "the workers turn without sleeping");
            self.feed.borrow_mut().post_everything(self.machine.now());
            self.step(interval_us);
        }
    }

    fn turns_max(&self) -> u64 {
        self.turns + TURNS_MAX * self.node.workers.len() as u64
    }

    /// Publishes once in each channel. Every subscriber of the channel must receive the
    /// publication.
    pub(super) fn publish_last(&mut self) {
        let interval_us = self.config.heartbeat.interval_ms * 1000;
        for channel in 0..self.facts.names.len() {
            let mut feed = self.feed.borrow_mut();
            feed.sequence(channel, LAST_BYTES, None, self.machine.now());
            self.facts.add_all(feed.take_events());
            drop(feed);
            let until = self.machine.now_us() + interval_us / 2;
            self.step_until(until, |_| true);
        }
        // If a client has exceeded its rate limit, the server reads its acknowledgement late. The
        // delivery continues only after this acknowledgement.
        if self.config.limits.client_frames_per_second > 0 {
            self.step_while_owed(RATE_BACKLOG_US);
        }
    }

    /// Checks that every worker has processed all publications and every client has received them.
    pub(super) fn check_settled(&self) {
        for log in &self.facts.logs {
            assert_eq!(log.head, self.facts.publications.len() as u64);
        }
        check::check_channel_bounds(self.feed.borrow().evicted_at, &self.facts);
        assert!(self.feed.borrow().is_done());
        let worker_acks = &self.feed.borrow().worker_acks;
        assert!(worker_acks.is_empty(), "not confirmed: {worker_acks:?}");
        self.feed.borrow().traced.check_ended();
        let may_starve = self.may_starve();
        for peer in &self.peers {
            peer.check_settled(may_starve, &self.facts);
        }
    }

    /// Checks that a list of conns names exactly the conns that are open, with their subscriptions.
    /// If a conn opens, closes or subscribes in the meantime, the list is not compared. The budget
    /// of a turn is below the work for two rows, so a turn makes at most one row.
    pub(super) fn check_lists(&mut self) {
        self.operator.forget();
        for worker in 0..self.node.workers.len() {
            let before = self.counts(worker);
            let answers = Operator::ask_for_conns(worker, &self.feed.borrow().mailboxes);
            let (turns, begun) = (self.turns_max(), self.turns);
            let conns = loop {
                if let Ok((_, answer)) = answers.try_recv() {
                    break answer;
                }
                self.turn(worker);
                assert!(self.turns < turns, "no list of conns");
            };
            let SurveyAnswer::Conns { conns, .. } = conns else {
                panic!("{conns:?}");
            };
            assert!(self.turns - begun >= conns.len() as u64, "too much work");
            let subscriptions: u64 = conns.iter().map(|conn| conn.channels).sum();
            let [open, subscribers, ..] = before;
            if before == self.counts(worker) {
                assert_eq!([conns.len() as u64, subscriptions], [open, subscribers]);
            }
        }
    }

    /// Returns the numbers of conns and subscriptions of a worker, and how many conns it has
    /// accepted.
    fn counts(&self, worker: usize) -> [u64; 3] {
        let node_worker = &self.node.workers[worker];
        let (worker, metrics) = (&node_worker.worker, &node_worker.metrics);
        let conns = worker.conn_count() as u64;
        let subscribers = worker.hub().subscriber_count();
        [conns, subscribers, metrics.conns_accepted.value()]
    }

    /// Whether `log.pinned_bytes` is below one publication and its frame. If so, the server may
    /// close a slow client again and again.
    fn may_starve(&self) -> bool {
        let longest = 2 * self.feed.borrow().size_max as u64;
        self.config.log.pinned_bytes() < longest
    }

    pub(super) fn drain(&mut self) {
        self.feed.borrow_mut().post_everything(self.machine.now());
        self.facts.is_draining = true;
        self.end_starvation();
        // Ends the faults that delay deliveries or stop the server, because the time limit of the
        // drain allows only for delays by the peers.
        for net in self.node.nets() {
            let faults = &mut net.faults;
            (faults.walk_waits, faults.pause, faults.stop) = (0, 0, 0);
        }
        for peer in &mut self.peers {
            peer.slow_down();
        }
        let conns = self.node.conns();
        let given = self.machine.now();
        self.feed
            .borrow()
            .mailboxes
            .order_drain(DrainOrder { conns, given });
        let window_us = self.config.drain.window_ms * 1000;
        let until = given.0 + window_us + SLACK_US;
        let turns = self.turns_max();
        while self
            .node
            .workers
            .iter()
            .any(|node_worker| !node_worker.has_ended)
        {
            assert!(self.machine.now_us() < until, "the drain does not end");
            assert!(self.turns < turns, "the workers turn without sleeping");
            self.step(50_000);
        }
        self.facts.ended_us = self.machine.now_us();
    }

    /// Drains a node without faults. Each served conn must receive a close frame, the end of its
    /// stream, or its answers. This also applies to a conn that opens late.
    pub(super) fn drain_quiet_node(&mut self) {
        for _ in 0..3 {
            let now_us = self.machine.now_us();
            let number = self.peers.len() as u64;
            let mut peer = Peer::new(number, &mut self.random, now_us);
            peer.stop_misbehaving(&mut self.node, quiet_pause_us(&self.config));
            peer.act(&mut self.node, &mut self.facts, &mut self.random);
            (peer.is_paused, peer.next_us) = (true, now_us + self.random.u64(0..150_000));
            self.peers.push(peer);
        }
        for _ in 0..2 * self.node.workers.len() {
            self.step(1000);
        }
        for peer in &mut self.peers {
            peer.is_paused = false;
        }
        let had_time = self.config.drain.window_ms >= 500;
        let may_starve = self.may_starve();
        for peer in &mut self.peers {
            if let Some(link) = &mut peer.link {
                link.must_get_goodbye = had_time && !link.is_half_closing;
                link.may_be_cut_off = may_starve;
                link.expect_answers(had_time);
            }
        }
        // Peers that neither read nor close do not delay the drain, because everything sent to them
        // fits in their buffers.
        let are_silent = self.random.bool();
        for peer in &mut self.peers {
            peer.is_paused = are_silent;
        }
        let begun_us = self.machine.now_us();
        self.drain();
        let took_us = self.machine.now_us() - begun_us;
        assert!(took_us <= SILENT_DRAIN_US, "drained for {took_us} us");
    }

    /// Checks that the workers have freed all state, and that their counters match the publications
    /// that the peers have read. Called after the workers have ended.
    pub(super) fn check_end(&mut self) {
        let mut is_behind = false;
        for node_worker in &self.node.workers {
            check::check_ended(&node_worker.worker, &node_worker.metrics);
            is_behind |= node_worker.worker.is_upstream_behind();
        }
        self.node.check_sources();
        self.node.check_access(true);
        self.node.backend.check_end(!is_behind);
        for peer in &mut self.peers {
            peer.end(&mut self.facts);
        }
        self.check_delays();
        let counted = self.deliveries_before + self.node.deliveries();
        let read = self.facts.deliveries;
        // With TLS, an encrypted publication counts as delivered, but its conn may end before the
        // publication is sent.
        let may_differ = self.node.net(0).secure_listeners != 0;
        assert!(
            counted == read || (may_differ && counted > read),
            "{counted} publications counted as delivered, {read} read"
        );
    }

    /// Checks that no client is asked to reconnect before the server listens again.
    fn check_delays(&self) {
        for delay in &self.facts.delays {
            let returns_us = delay.written_us + delay.retry_ms * 1000;
            let listens_us = self.facts.ended_us + RESTART_MS * 1000;
            // A client may return shortly before the server listens. A worker sends reconnect
            // delays in its last turn, but the drain ends only after this turn. So the client
            // returns too early by at most the duration of this turn. In the simulation, the turns
            // of other workers add to this duration.
            let work = self.facts.work.iter();
            let others = work.filter(|work| work.worker != delay.worker);
            let after = others.map(|work| {
                let start = work.us.start.max(delay.written_us);
                work.us.end.saturating_sub(start)
            });
            let turns_us = LAST_TURN_US + after.sum::<u64>();
            assert!(
                returns_us + turns_us >= listens_us,
                "{delay:?}, but the server listens at {listens_us} us"
            );
            let most = MOST_DELAY_MS + self.config.drain.window_ms;
            assert!(delay.retry_ms <= most, "{delay:?}");
        }
    }
}
