//! A person at the other end: connects, subscribes, reads or does not, misbehaves, goes and comes
//! back.
//!
//! What it remembers over its connections is its last id; everything about one connection is the
//! [`Link`]'s. Each connection is to a worker drawn for it. How the peer behaves is drawn once and
//! changes when the world becomes calm: then it reads everything, answers everything and stays.

use crate::link::{Link, Service, Stage};
use crate::model::{Ask, Facts};
use crate::net::FakeNet;
use crate::progress::Journey;
use crate::world::node::Node;

/// How a peer behaves.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Temper {
    /// Bytes taken at a time.
    read_max: usize,
    /// Bytes sent at a time.
    send_max: usize,
    /// The longest pause between two acts.
    pause_us: u64,
    /// Whether pings and closes are answered.
    is_polite: bool,
    /// How likely it is at each act to break a rule or to go, in thousandths.
    mischief: u32,
    room: usize,
}

impl Temper {
    fn draw(random: &mut fastrand::Rng) -> Self {
        Self {
            read_max: [usize::MAX, usize::MAX, 4096, 100, 1, 0][random.usize(0..6)],
            send_max: [usize::MAX, usize::MAX, 50, 7, 1][random.usize(0..5)],
            pause_us: [1_000, 10_000, 100_000][random.usize(0..3)],
            is_polite: random.u32(0..8) > 0,
            mischief: [0, 10, 40][random.usize(0..3)],
            room: [64, 500, 4096, 65_536, 1 << 20][random.usize(0..5)],
        }
    }

    fn calm(pause_us: u64) -> Self {
        Self {
            read_max: usize::MAX,
            send_max: usize::MAX,
            pause_us,
            is_polite: true,
            mischief: 0,
            room: 1 << 20,
        }
    }
}

#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) number: u64,
    temper: Temper,
    pub(crate) link: Option<Link>,
    last_id: Option<u64>,
    /// It keeps to its channels and comes back to its last id.
    journey: Option<Journey>,
    /// When it acts next.
    pub(crate) next_us: u64,
    /// After an acknowledgement it waits for so long, and twice as long each time.
    eager_us: u64,
    is_calm: bool,
    is_loyal: bool,
    /// It often breaks its connection off and goes on with another one.
    is_roaming: bool,
    /// A calm peer that wants a stream stays with one; the others speak plain HTTP, or send FIN
    /// right after they have asked for a stream.
    is_streamer: bool,
    /// Whether it connects again after its connection has ended.
    may_connect: bool,
    /// A connection of it was closed in the calm because it held too much.
    was_cut_off: bool,
    /// It is connected and keeps its request back.
    pub(crate) is_held: bool,
}

impl Peer {
    pub(crate) fn new(number: u64, random: &mut fastrand::Rng, now_us: u64) -> Self {
        Self {
            journey: None,
            is_loyal: random.u32(0..3) == 0,
            is_roaming: random.u32(0..3) == 0,
            number,
            temper: Temper::draw(random),
            link: None,
            last_id: None,
            next_us: now_us + random.u64(0..50_000),
            eager_us: u64::MAX / 4,
            is_calm: false,
            is_streamer: random.u32(0..8) > 0,
            may_connect: true,
            was_cut_off: false,
            is_held: false,
        }
    }

    /// From now on it does nothing wrong. What it broke before stays broken, so such a connection
    /// is given up, unless it was abandoned without a word: that one is the server's to end.
    pub(crate) fn calm_down(&mut self, node: &mut Node, pause_us: u64) {
        self.is_calm = true;
        self.temper = Temper::calm(pause_us);
        self.next_us = node.now_us();
        if let Some(link) = &mut self.link {
            let net = node.net(link.worker);
            if link.is_abandoned {
                return;
            }
            link.is_from_chaos = true;
            net.widen(&link.pipe, self.temper.room);
            let ends = matches!(link.service, Service::Poll { stays: false, .. });
            let ends = ends || link.ends_soon();
            if ends || link.is_spoiled || !link.is_stream() || link.has_said_close || link.has_fin {
                net.reset(&link.pipe);
            }
        }
    }

    /// It connects no more and takes its time, so that a drain needs few turns.
    pub(crate) fn slow_down(&mut self) {
        self.may_connect = false;
        self.temper.pause_us = self.temper.pause_us.max(50_000);
    }

    /// Whether it will ever act again by itself.
    pub(crate) fn is_awake(&self) -> bool {
        self.may_connect || self.link.is_some()
    }

    /// One act, if it is time. It connects to any worker, whichever it was on before.
    pub(crate) fn act(&mut self, node: &mut Node, facts: &mut Facts, random: &mut fastrand::Rng) {
        if self.next_us > node.now_us() {
            return;
        }
        let worker = match &self.link {
            Some(link) => link.worker,
            None => random.usize(0..node.workers.len()),
        };
        let net = node.net(worker);
        let pause_us = self.temper.pause_us;
        self.next_us = if self.is_calm {
            // All at once, so that a calm world needs few turns.
            (net.now_us() / pause_us + 1) * pause_us
        } else {
            net.now_us() + random.u64(1..=pause_us)
        };
        if self.is_held {
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
        link.push(net, self.temper.send_max);
        link.pull(net, self.temper.read_max, facts);
        for seen in link.take_seen() {
            if let Some(journey) = &mut self.journey {
                journey.see(seen, facts);
            }
        }
        link.poll_again(self.is_calm && self.may_connect, facts, random);
        link.react(self.temper.is_polite);
        if link.acknowledge(self.is_calm, facts, random) {
            self.eager_us = 500;
        }
        // A window of one needs many acts, and what it lets go may take a few turns to come.
        if self.is_calm && self.eager_us < pause_us {
            self.eager_us *= 2;
            self.next_us = net.now_us() + self.eager_us.min(pause_us);
        }
        if link.is_over(self.temper.read_max > 0) {
            self.end(facts);
        } else if self.is_calm {
            // It only listens.
        } else if self.is_roaming && link.last_id.is_some() && random.u32(0..8) == 0 {
            net.reset(&link.pipe);
        } else if random.u32(0..1000) < self.temper.mischief {
            link.misbehave(net, facts, random);
        } else {
            link.speak(net, facts, random);
        }
    }

    /// The connection is over: what was written and not read still has to be right.
    pub(crate) fn end(&mut self, facts: &mut Facts) {
        if let Some(mut link) = self.link.take() {
            self.was_cut_off |= self.is_calm && link.pipe.borrow().is_cut_off;
            let acknowledged = link.acknowledged();
            link.read_the_rest(facts);
            link.check_goodbye();
            if self.is_calm && !link.is_from_chaos && !facts.is_draining {
                link.check_answers(facts);
            }
            self.last_id = match acknowledged {
                Some(acknowledged) => {
                    if let Some(journey) = &mut self.journey {
                        journey.forget(&acknowledged);
                    }
                    acknowledged.iter().map(|(_, id)| *id).min()
                }
                None => link.last_id.or(self.last_id),
            };
            if let Some(journey) = &mut self.journey {
                journey.go_on_from(self.last_id.unwrap_or_default());
            }
        }
    }

    fn connect(&mut self, net: &mut FakeNet, facts: &Facts, random: &mut fastrand::Rng) {
        if !self.may_connect {
            return;
        }
        if self.is_loyal && self.journey.is_none() {
            self.journey = Some(Journey::new(facts.draw_channels(random)));
        }
        let mut service = if self.is_calm {
            calm_service(self.is_streamer || self.is_loyal, random)
        } else {
            draw_service(random)
        };
        let loyalty = self.journey.as_ref().map(Journey::channels);
        // Without an envelope a WebSocket has no ids, so nobody can go on from there.
        if loyalty.is_some() && service == (Service::WebSocket { is_full: false }) {
            service = Service::WebSocket { is_full: true };
        }
        let ask = match (&self.journey, self.last_id) {
            (Some(_), Some(last_id)) => Ask::After(last_id),
            (Some(_), None) => match random.bool() {
                true => Ask::Now,
                false => Ask::draw_history(random),
            },
            (None, _) => self.draw_ask(facts, random),
        };
        self.link = Some(Link::open(
            service,
            ask,
            loyalty.as_deref(),
            self.temper.room,
            net,
            facts,
            random,
        ));
        if let Some(link) = &mut self.link {
            let stays = self.is_streamer || self.is_loyal;
            link.decide_half_closing(self.is_calm, stays);
        }
    }

    /// Mostly where it was; at times something else.
    fn draw_ask(&self, facts: &Facts, random: &mut fastrand::Rng) -> Ask {
        match (random.u32(0..20), self.last_id) {
            (0, _) => [Ask::Foreign, Ask::Nonsense][random.usize(0..2)],
            (1, _) => Ask::Now,
            (2, _) => Ask::After(random.u64(0..=facts.publications.len() as u64)),
            (3, _) => Ask::After(facts.publications.len() as u64),
            (4, _) => Ask::draw_history(random),
            (5..13, None) => Ask::draw_history(random),
            (_, Some(last_id)) => Ask::After(last_id),
            (_, None) => Ask::Now,
        }
    }

    /// Whether its stream has yet to be given something, or to be answered.
    pub(crate) fn is_owed(&self, facts: &Facts) -> bool {
        let link = self.link.as_ref().filter(|link| link.is_stream());
        link.is_some_and(|link| {
            let is_poll = matches!(link.service, Service::Poll { .. });
            !is_poll && (link.ledger.owed(facts).is_some() || link.awaits_answers())
        })
    }

    /// What a calm world owes everybody: an open stream that is caught up, and every answer.
    /// Where conns may pin less than one publication and a frame of it, a slow client may be closed
    /// again and again. It is excused if that has happened to it.
    pub(crate) fn check_settled(&self, may_starve: bool, facts: &Facts) {
        let may_starve = may_starve && self.was_cut_off;
        let Some(link) = &self.link else {
            let may_have_none = may_starve || !self.is_streamer;
            assert!(may_have_none, "peer {} has no connection", self.number);
            return;
        };
        if !link.is_stream() || link.is_half_closing {
            return;
        }
        let stage = &link.stage;
        if matches!(link.service, Service::Poll { .. }) {
            // An answer may be on its way: the worker writes it in pieces.
            return match stage {
                Stage::Answer => {}
                Stage::AwaitHead => link.check_waiting(facts),
                _ => panic!("peer {} is not served: {stage:?}", self.number),
            };
        }
        let head = facts.logs[link.worker].head;
        let is_behind = |journey: &Journey| !journey.is_complete(head, facts);
        if may_starve && (self.is_owed(facts) || self.journey.as_ref().is_some_and(is_behind)) {
            return;
        }
        if let Some(journey) = &self.journey {
            journey.check_complete(head, facts);
        }
        assert!(
            matches!(stage, Stage::WebSocket | Stage::EventStream { .. }),
            "peer {} is not served: {stage:?}",
            self.number
        );
        link.ledger
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
            stays: random.bool(),
        },
        _ => Service::Garbage,
    }
}

fn calm_service(is_streamer: bool, random: &mut fastrand::Rng) -> Service {
    let choice = random.u32(0..12);
    match choice {
        _ if !is_streamer && choice.is_multiple_of(2) => Service::Plain,
        0..4 => Service::WebSocket { is_full: true },
        4 => Service::WebSocket { is_full: false },
        5..9 => Service::Poll {
            is_full: random.bool(),
            is_long: random.u32(0..3) > 0,
            stays: true,
        },
        _ => Service::EventStream {
            is_chunked: random.u32(0..4) > 0,
            is_full: random.bool(),
        },
    }
}
