//! A simulated client: it connects, subscribes, reads, misbehaves, disconnects and reconnects.
//!
//! A peer remembers its last id over all its connections. A [`Link`] has the state of one
//! connection. A random worker accepts each connection. The behavior is drawn once and changes in
//! the quiet phase: from then on the peer reads everything, answers everything and stays connected.

use crate::link::{Link, Service, Stage};
use crate::model::{Facts, Requested};
use crate::net::FakeNet;
use crate::progress::Progress;
use crate::world::node::Node;

/// How a peer behaves.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Behavior {
    /// The maximum number of bytes per read.
    read_max: usize,
    /// The maximum number of bytes per write.
    send_max: usize,
    /// The maximum pause between two actions.
    pause_us: u64,
    /// Whether the peer answers pings and close frames.
    sends_replies: bool,
    /// The chance that the peer breaks a rule or disconnects in one act, in thousandths.
    misbehavior: u32,
    room: usize,
}

impl Behavior {
    fn draw(random: &mut fastrand::Rng) -> Self {
        Self {
            read_max: [usize::MAX, usize::MAX, 4096, 100, 1, 0][random.usize(0..6)],
            send_max: [usize::MAX, usize::MAX, 50, 7, 1][random.usize(0..5)],
            pause_us: [1_000, 10_000, 100_000][random.usize(0..3)],
            sends_replies: random.u32(0..8) > 0,
            misbehavior: [0, 10, 40][random.usize(0..3)],
            room: [64, 500, 4096, 65_536, 1 << 20][random.usize(0..5)],
        }
    }

    fn quiet(pause_us: u64) -> Self {
        Self {
            read_max: usize::MAX,
            send_max: usize::MAX,
            pause_us,
            sends_replies: true,
            misbehavior: 0,
            room: 1 << 20,
        }
    }
}

#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) number: u64,
    behavior: Behavior,
    pub(crate) link: Option<Link>,
    last_id: Option<u64>,
    /// The progress of a tracked client from its first connection on.
    progress: Option<Progress>,
    /// The time of the next action.
    pub(crate) next_us: u64,
    /// The pause after the next acknowledgement. The pause doubles with each acknowledgement.
    ack_pause_us: u64,
    is_quiet: bool,
    is_tracked: bool,
    /// Whether the peer often resets its connection and resumes on another one.
    reconnects_often: bool,
    /// Whether the peer keeps a stream open in the quiet phase. The other peers send plain
    /// requests, or send FIN directly after the request for a stream.
    keeps_stream: bool,
    /// Whether the peer connects again after its connection has ended.
    may_connect: bool,
    /// Whether the server closed one of the peer's connections in the quiet phase because of
    /// `log.pinned_bytes`.
    was_cut_off: bool,
    /// Whether the peer is connected and does not act.
    pub(crate) is_paused: bool,
}

impl Peer {
    pub(crate) fn new(number: u64, random: &mut fastrand::Rng, now_us: u64) -> Self {
        Self {
            progress: None,
            is_tracked: random.u32(0..3) == 0,
            reconnects_often: random.u32(0..3) == 0,
            number,
            behavior: Behavior::draw(random),
            link: None,
            last_id: None,
            next_us: now_us + random.u64(0..50_000),
            ack_pause_us: u64::MAX / 4,
            is_quiet: false,
            keeps_stream: random.u32(0..8) > 0,
            may_connect: true,
            was_cut_off: false,
            is_paused: false,
        }
    }

    /// Stops the peer's misbehavior. Resets the connection if the peer broke a rule on it, or if
    /// the connection would end by itself. An abandoned connection stays open, because the server
    /// has to close it.
    pub(crate) fn stop_misbehaving(&mut self, node: &mut Node, pause_us: u64) {
        self.is_quiet = true;
        self.behavior = Behavior::quiet(pause_us);
        self.next_us = node.now_us();
        if let Some(link) = &mut self.link {
            let net = node.net(link.worker);
            if link.is_abandoned {
                return;
            }
            link.is_from_fault_phase = true;
            net.widen(&link.pipe, self.behavior.room);
            let ends = matches!(
                link.service,
                Service::Poll {
                    is_kept_open: false,
                    ..
                }
            );
            let ends = ends || link.ends_soon();
            if ends
                || link.has_broken_protocol
                || !link.is_stream()
                || link.has_sent_close
                || link.has_fin
            {
                net.reset(&link.pipe);
            }
        }
    }

    /// Stops new connections and makes the peer act rarely, so that a drain needs few turns.
    pub(crate) fn slow_down(&mut self) {
        self.may_connect = false;
        self.behavior.pause_us = self.behavior.pause_us.max(50_000);
    }

    /// Whether the peer will act again.
    pub(crate) fn is_awake(&self) -> bool {
        self.may_connect || self.link.is_some()
    }

    /// Acts once if the time of the next act has come. A random worker accepts a new connection.
    pub(crate) fn act(&mut self, node: &mut Node, facts: &mut Facts, random: &mut fastrand::Rng) {
        if self.next_us > node.now_us() {
            return;
        }
        let worker = match &self.link {
            Some(link) => link.worker,
            None => random.usize(0..node.workers.len()),
        };
        let net = node.net(worker);
        let pause_us = self.behavior.pause_us;
        self.next_us = if self.is_quiet {
            // All peers act at the same time, so that the quiet phase needs few turns.
            (net.now_us() / pause_us + 1) * pause_us
        } else {
            net.now_us() + random.u64(1..=pause_us)
        };
        if self.is_paused {
            return;
        }
        let Some(link) = &mut self.link else {
            return self.connect(net, facts, random);
        };
        if link.is_abandoned {
            if link.pipe.borrow().is_closed {
                self.end(facts);
            }
            return;
        }
        link.push(net, self.behavior.send_max);
        link.pull(net, self.behavior.read_max, facts);
        for observation in link.take_observations() {
            if let Some(progress) = &mut self.progress {
                progress.observe(observation, facts);
            }
        }
        link.poll_again(self.is_quiet && self.may_connect, facts, random);
        link.send_replies(self.behavior.sends_replies);
        if link.acknowledge(self.is_quiet, facts, random) {
            self.ack_pause_us = 500;
        }
        // After an acknowledgement, the peer acts again after a short pause, because a window of
        // one publication needs many acknowledgements. Each further pause is twice as long, because
        // the next publication may need a few turns to arrive.
        if self.is_quiet && self.ack_pause_us < pause_us {
            self.ack_pause_us *= 2;
            self.next_us = net.now_us() + self.ack_pause_us.min(pause_us);
        }
        if link.is_over(self.behavior.read_max > 0) {
            self.end(facts);
        } else if self.is_quiet {
            // A quiet peer sends no commands.
        } else if self.reconnects_often && link.last_id.is_some() && random.u32(0..8) == 0 {
            net.reset(&link.pipe);
        } else if random.u32(0..1000) < self.behavior.misbehavior {
            link.misbehave(net, facts, random);
        } else {
            link.send_at_random(net, facts, random);
        }
    }

    /// Ends the connection. Bytes that the server wrote and the peer has not read yet must also be
    /// right.
    pub(crate) fn end(&mut self, facts: &mut Facts) {
        if let Some(mut link) = self.link.take() {
            self.was_cut_off |= self.is_quiet && link.pipe.borrow().is_cut_off;
            let acknowledged = link.acknowledged();
            link.parse_rest(facts);
            link.check_goodbye();
            if self.is_quiet && !link.is_from_fault_phase && !facts.is_draining {
                link.check_answers(facts);
            }
            self.last_id = match acknowledged {
                Some(acknowledged) => {
                    if let Some(progress) = &mut self.progress {
                        progress.forget_unacknowledged(&acknowledged);
                    }
                    acknowledged.iter().map(|(_, id)| *id).min()
                }
                None => link.last_id.or(self.last_id),
            };
            if let Some(progress) = &mut self.progress {
                progress.resume_from(self.last_id.unwrap_or_default());
            }
        }
    }

    fn connect(&mut self, net: &mut FakeNet, facts: &Facts, random: &mut fastrand::Rng) {
        if !self.may_connect {
            return;
        }
        if self.is_tracked && self.progress.is_none() {
            self.progress = Some(Progress::new(facts.draw_channels(random)));
        }
        let mut service = if self.is_quiet {
            draw_quiet_service(self.keeps_stream || self.is_tracked, random)
        } else {
            draw_service(random)
        };
        let tracked_channels = self.progress.as_ref().map(Progress::channels);
        // Without an envelope, a WebSocket has no ids, so a client could not resume from it.
        if tracked_channels.is_some() && service == (Service::WebSocket { is_full: false }) {
            service = Service::WebSocket { is_full: true };
        }
        let requested = match (&self.progress, self.last_id) {
            (Some(_), Some(last_id)) => Requested::After(last_id),
            (Some(_), None) => match random.bool() {
                true => Requested::Now,
                false => Requested::draw_history(random),
            },
            (None, _) => self.draw_requested(facts, random),
        };
        self.link = Some(Link::open(
            service,
            requested,
            tracked_channels.as_deref(),
            self.behavior.room,
            net,
            facts,
            random,
        ));
        if let Some(link) = &mut self.link {
            let is_kept_open = self.keeps_stream || self.is_tracked;
            link.decide_half_closing(self.is_quiet, is_kept_open);
        }
    }

    /// Returns a random position: usually the last id, sometimes another position.
    fn draw_requested(&self, facts: &Facts, random: &mut fastrand::Rng) -> Requested {
        match (random.u32(0..20), self.last_id) {
            (0, _) => [Requested::OtherEpoch, Requested::Invalid][random.usize(0..2)],
            (1, _) => Requested::Now,
            (2, _) => Requested::After(random.u64(0..=facts.publications.len() as u64)),
            (3, _) => Requested::After(facts.publications.len() as u64),
            (4, _) => Requested::draw_history(random),
            (5..13, None) => Requested::draw_history(random),
            (_, Some(last_id)) => Requested::After(last_id),
            (_, None) => Requested::Now,
        }
    }

    /// Whether the peer's stream is still waiting for a publication or an answer.
    pub(crate) fn is_owed(&self, facts: &Facts) -> bool {
        let link = self.link.as_ref().filter(|link| link.is_stream());
        link.is_some_and(|link| {
            let is_poll = matches!(link.service, Service::Poll { .. });
            !is_poll && (link.expected.owed(facts).is_some() || link.awaits_answers())
        })
    }

    /// Checks the peer's final state: a stream that does not lag is open, and every answer was
    /// received. If `may_starve` is set, the server may close a slow client repeatedly. Then a peer
    /// that was closed for this reason need not have a stream.
    pub(crate) fn check_settled(&self, may_starve: bool, facts: &Facts) {
        let may_starve = may_starve && self.was_cut_off;
        let Some(link) = &self.link else {
            let may_have_none = may_starve || !self.keeps_stream;
            assert!(may_have_none, "peer {} has no connection", self.number);
            return;
        };
        if !link.is_stream() || link.is_half_closing {
            return;
        }
        let stage = &link.stage;
        if matches!(link.service, Service::Poll { .. }) {
            // The answer may be incomplete so far, because the worker writes it in pieces.
            return match stage {
                Stage::Answer => {}
                Stage::AwaitHead => link.check_waiting(facts),
                _ => panic!("peer {} is not served: {stage:?}", self.number),
            };
        }
        let head = facts.logs[link.worker].head;
        let is_behind = |progress: &Progress| !progress.is_complete(head, facts);
        if may_starve && (self.is_owed(facts) || self.progress.as_ref().is_some_and(is_behind)) {
            return;
        }
        if let Some(progress) = &self.progress {
            progress.check_complete(head, facts);
        }
        assert!(
            matches!(stage, Stage::WebSocket | Stage::EventStream { .. }),
            "peer {} is not served: {stage:?}",
            self.number
        );
        link.expected
            .check_complete(facts, link.pipe.borrow().number());
        link.check_answers(facts);
    }
}

fn draw_service(random: &mut fastrand::Rng) -> Service {
    match random.u32(0..28) {
        0..8 => Service::WebSocket { is_full: true },
        8..10 => Service::WebSocket { is_full: false },
        10..16 => Service::EventStream {
            is_chunked: random.u32(0..4) > 0,
            is_full: random.bool(),
        },
        16..18 => Service::Plain,
        18..26 => Service::Poll {
            is_full: random.bool(),
            is_long: random.u32(0..3) > 0,
            is_kept_open: random.bool(),
        },
        _ => Service::Garbage,
    }
}

fn draw_quiet_service(keeps_stream: bool, random: &mut fastrand::Rng) -> Service {
    let choice = random.u32(0..12);
    match choice {
        _ if !keeps_stream && choice.is_multiple_of(2) => Service::Plain,
        0..4 => Service::WebSocket { is_full: true },
        4 => Service::WebSocket { is_full: false },
        5..9 => Service::Poll {
            is_full: random.bool(),
            is_long: random.u32(0..3) > 0,
            is_kept_open: true,
        },
        _ => Service::EventStream {
            is_chunked: random.u32(0..4) > 0,
            is_full: random.bool(),
        },
    }
}
