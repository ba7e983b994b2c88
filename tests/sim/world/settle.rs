//! What follows the chaos: the calm, in which each client has to be served, and the drain.

use fanfare::config::limits::{RECONNECTS_MS_MIN, RESTART_MS};
use fanfare::worker::mail::inbox::DrainOrder;

use super::World;
use super::draw::calm_pause_us;
use crate::check;
use crate::feed::LONELY_BYTES;
use crate::net::Faults;
use crate::peer::Peer;

/// Turns of each worker that a calm or a drain may take; more means that it does not sleep.
const TURNS_MAX: u64 = 40_000;
const LINGER_US: u64 = 2_000_000;
/// How long a client's commands are held against it where they are limited: as a rule, and at most.
/// A client says at most one command at each of the up to 1,200 steps of a chaos, in up to three
/// frames, and ten frames are read in a second.
const MADE_UP_US: u64 = 20_000_000;
const MADE_UP_US_MAX: u64 = 360_000_000;
/// What the last turn of a drain takes: a slice of reads, and one read more.
const LAST_TURN_US: u64 = 20_000;
/// Rounding of timers, and what the turns themselves take.
const SLACK_US: u64 = 400_000;

/// How long a drain of a few conns takes at most whose peers neither read nor close: a tick of the
/// timers for the goodbye, two round trips, and the turns.
const SILENT_DRAIN_US: u64 = 500_000;
/// The longest delay for few conns, without the window.
const MOST_DELAY_MS: u64 = RESTART_MS + RECONNECTS_MS_MIN + 1;

impl World {
    /// The network becomes perfect, and peers do nothing wrong from now on.
    pub(super) fn calm_down(&mut self) {
        self.node
            .nets()
            .for_each(|net| net.faults = Faults::default());
        self.end_starvation();
        self.facts.is_calm = true;
        let pause_us = calm_pause_us(&self.config);
        for peer in &mut self.peers {
            peer.calm_down(&mut self.node, pause_us);
        }
    }

    fn end_starvation(&mut self) {
        self.is_punctual = true;
        for member in &mut self.node.workers {
            member.starved_until_us = 0;
        }
    }

    /// Time passes until both sides have given up each connection that was broken.
    pub(super) fn be_calm(&mut self) {
        let interval_us = self.config.heartbeat.interval_ms * 1000;
        let head_us = self.config.limits.request_head_ms * 1000;
        let poll_us = self.config.limits.poll_timeout_ms * 1000;
        let shake_us = self.config.tls.handshake_ms * 1000;
        let wait = 4 * interval_us + shake_us + head_us + poll_us + LINGER_US + 2_500_000;
        // Who has said too much at once is read when that is made up for.
        let is_limited = self.config.limits.client_frames_per_second > 0;
        let made_up_us = if is_limited { MADE_UP_US } else { 0 };
        let until = self.machine.now_us() + wait + made_up_us;
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
        let until = self.machine.now_us() + us;
        self.step_until(until, |world| {
            world.peers.iter().any(|peer| peer.is_owed(&world.facts))
        });
    }

    /// Goes on until then, as long as it is needed.
    fn step_until(&mut self, until_us: u64, is_needed: impl Fn(&Self) -> bool) {
        let interval_us = self.config.heartbeat.interval_ms * 1000;
        let turns = self.turns_max();
        while self.machine.now_us() < until_us && is_needed(self) {
            assert!(self.turns < turns, "the workers turn for nothing");
            self.feed.borrow_mut().post_everything(self.machine.now());
            self.step(interval_us);
        }
    }

    fn turns_max(&self) -> u64 {
        self.turns + TURNS_MAX * self.node.workers.len() as u64
    }

    /// Publishes once in each channel. Each subscriber must receive its channel's.
    pub(super) fn publish_one_by_one(&mut self) {
        let interval_us = self.config.heartbeat.interval_ms * 1000;
        for channel in 0..self.facts.names.len() {
            let mut feed = self.feed.borrow_mut();
            feed.sequence(channel, LONELY_BYTES, None, self.machine.now());
            self.facts.add_all(feed.take_fresh());
            drop(feed);
            let until = self.machine.now_us() + interval_us / 2;
            self.step_until(until, |_| true);
        }
        // The acknowledgement that opens a window may have to wait for its client's rate.
        if self.config.limits.client_frames_per_second > 0 {
            self.step_while_owed(MADE_UP_US);
        }
    }

    /// Every worker has everything, and so has every client.
    pub(super) fn check_calm(&self) {
        for log in &self.facts.logs {
            assert_eq!(log.head, self.facts.publications.len() as u64);
        }
        check::bounds_of_channels(&self.facts);
        assert!(self.feed.borrow().is_done());
        let worker_acks = &self.feed.borrow().worker_acks;
        assert!(worker_acks.is_empty(), "not confirmed: {worker_acks:?}");
        // A publication and a frame of it are pinned.
        let longest = 2 * self.feed.borrow().size_max as u64;
        let may_starve = self.config.log.pinned_bytes() < longest;
        for peer in &self.peers {
            peer.check_settled(may_starve, &self.facts);
        }
    }

    pub(super) fn drain(&mut self) {
        self.feed.borrow_mut().post_everything(self.machine.now());
        self.facts.is_draining = true;
        self.end_starvation();
        // Its window is for the peers, not for a backlog of walks that wait for others.
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
        while self.node.workers.iter().any(|member| !member.has_ended) {
            assert!(self.machine.now_us() < until, "the drain does not end");
            assert!(self.turns < turns, "the workers turn for nothing");
            self.step(50_000);
        }
        self.facts.ended_us = self.machine.now_us();
    }

    /// The drain closes each served conn in order, also one that opens during it.
    pub(super) fn drain_in_peace(&mut self) {
        for _ in 0..3 {
            let now_us = self.machine.now_us();
            let number = self.peers.len() as u64;
            let mut peer = Peer::new(number, &mut self.random, now_us);
            peer.calm_down(&mut self.node, calm_pause_us(&self.config));
            peer.act(&mut self.node, &mut self.facts, &mut self.random);
            (peer.is_held, peer.next_us) = (true, now_us + self.random.u64(0..150_000));
            self.peers.push(peer);
        }
        for _ in 0..2 * self.node.workers.len() {
            self.step(1000);
        }
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
        let begun_us = self.machine.now_us();
        self.drain();
        let took_us = self.machine.now_us() - begun_us;
        assert!(took_us <= SILENT_DRAIN_US, "drained for {took_us} us");
    }

    /// The workers have ended: nothing is left, and what they have counted has happened.
    pub(super) fn check_end(&mut self) {
        let mut is_behind = false;
        for member in &self.node.workers {
            check::at_the_end(&member.worker, &member.metrics);
            is_behind |= member.worker.is_upstream_behind();
        }
        self.node.check_sources();
        self.node.backend.check_end(!is_behind);
        for peer in &mut self.peers {
            peer.end(&mut self.facts);
        }
        self.check_delays();
        let counted = self.deliveries_before + self.node.deliveries();
        let read = self.facts.deliveries;
        // What is sealed counts, and a conn may end before it is sent.
        let may_differ = self.node.net(0).secure_listeners != 0;
        assert!(
            counted == read || (may_differ && counted > read),
            "{counted} publications counted as delivered, {read} read"
        );
    }

    /// No client is asked to return while nothing listens.
    fn check_delays(&self) {
        for delay in &self.facts.delays {
            let returns_us = delay.written_us + delay.retry_ms * 1000;
            let listens_us = self.facts.ended_us + RESTART_MS * 1000;
            // The last goodbyes are said one turn before the end, and that turn takes time. Here it
            // waits for the turns of the other workers, too.
            let work = self.facts.work.iter();
            let others = work.filter(|work| work.worker != delay.worker);
            let after = others.map(|work| {
                let start = work.us.start.max(delay.written_us);
                work.us.end.saturating_sub(start)
            });
            let turns_us = LAST_TURN_US + after.sum::<u64>();
            assert!(
                returns_us + turns_us >= listens_us,
                "{delay:?} and {listens_us}"
            );
            let most = MOST_DELAY_MS + self.config.drain.window_ms;
            assert!(delay.retry_ms <= most, "{delay:?}");
        }
    }
}
