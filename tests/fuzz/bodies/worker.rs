//! Runs a whole worker with a sequence of hostile clients, over the simulation's network.
//!
//! The input has the bytes of the hostile clients and the events between them: publications, time
//! that passes, a receive buffer that grows, resets. A well-behaved subscriber must receive
//! everything in order. After every turn, the worker's own data must be consistent. At the end the
//! worker drains, and nothing may remain.

use std::sync::Arc;

use fanfare::backend::{BackendMessage, DirectMessage, PublishOutcome, Report, SubscriberCounts};
use fanfare::config::{Config, Overflow};
use fanfare::effect::{Audience, CloseReason};
use fanfare::frame::{Payload, Publication, WorkerAck};
use fanfare::hub::Hub;
use fanfare::id::{ChannelName, ConnName, Cursor, Epoch, RunId, Sequence};
use fanfare::log::Writer;
use fanfare::metrics::WorkerMetrics;
use fanfare::sys::wake::Wake;
use fanfare::time::Now;
use fanfare::worker::admission::guard::Guard;
use fanfare::worker::listener_conns::ListenerConns;
use fanfare::worker::mail::inbox::{DrainOrder, Mail, Mailbox, Posted, inbox};
use fanfare::worker::mail::outgoing::Outgoing;
use fanfare::worker::mail::upstream::{Bounds, Reports, upstream};
use fanfare::worker::wire::tls::Secure;
use fanfare::worker::{Parts, Turn, Worker};

use super::conn;
use super::net::{FakeNet, Machine, PipeRef};
use super::parts::chance;
use super::script::{Script, Step};
use super::wire;

/// The number of messages in the inbox at which the harness stops posting. It is below the inbox's
/// capacity, because only the worker makes room, and the worker runs on this thread.
const MAILS_MAX: usize = 40;
/// The maximum number of turns of a drain.
const TURNS_MAX: u32 = 2000;
const EPOCH: u64 = 1;

/// Runs the target on an input: a script with the bytes of hostile clients and the events between
/// them.
pub fn attack(bytes: &[u8]) {
    let script = Script::new(bytes);
    let mut world = World::new(script);
    let mut rest = script.stream;
    for step in script.steps() {
        let (piece, after) = rest.split_at(step.amount.min(rest.len()));
        rest = after;
        world.send(piece);
        world.take_step(step);
        world.turn(1_000);
    }
    world.send(rest);
    world.end();
}

struct World {
    worker: Worker<FakeNet>,
    mailbox: Mailbox,
    reports: Reports,
    metrics: Arc<WorkerMetrics>,
    writer: Writer,
    /// The conn of the well-behaved subscriber.
    witness: PipeRef,
    received: Vec<u8>,
    /// The payloads that were published to the well-behaved subscriber.
    published: Vec<String>,
    hostile: PipeRef,
    hostile_conns: u32,
    has_ended: bool,
}

impl World {
    fn new(script: Script<'_>) -> Self {
        let mut random = chance(script.stream);
        let machine = Machine::new(&mut random, false);
        let mut net = FakeNet::new(&machine, 0, random, 1);
        let (mailbox, inbox) = inbox(Arc::new(Wake::new().expect("a descriptor")));
        let feed = Arc::new(Wake::new().expect("a descriptor"));
        let wake = Arc::new(Wake::new().expect("a descriptor"));
        let (mut ends, reports) = upstream(&[wake], &feed, Bounds::default());
        let metrics = Arc::new(WorkerMetrics::default());
        let witness = net.connect(usize::MAX);
        let request = b"GET /sse?channel=c HTTP/1.1\r\nHost: w\r\n\r\n";
        net.send(&witness, request);
        let hostile = net.connect(4096);
        let config = Arc::new(config(script));
        let writer = Writer::new(&config, Sequence::ZERO);
        let log = Arc::clone(writer.log());
        let hub = Hub::new(log, 0, Epoch::new(EPOCH), Sequence::ZERO, &config);
        let parts = Parts {
            run: RunId(1),
            number: 0,
            config: Arc::clone(&config),
            metrics: Arc::clone(&metrics),
            listener_conns: Arc::new(ListenerConns::new(1)),
            inbox,
            feed,
            upstream: ends.remove(0),
            pulse: Arc::default(),
            conns_fitting: 6,
            workers: 1,
            guard: Guard::default(),
            keys: None,
            warnings: Arc::default(),
            access_log: None,
            tracer: None,
            secure: Secure::default(),
        };
        let mut world = Self {
            worker: Worker::new(net, hub, parts),
            mailbox,
            reports,
            metrics,
            writer,
            witness,
            received: Vec::new(),
            published: Vec::new(),
            hostile,
            hostile_conns: 1,
            has_ended: false,
        };
        while world.received.is_empty() {
            world.turn(1_000);
        }
        world
    }

    fn now(&mut self) -> Now {
        Now(self.worker.net_mut().now_us())
    }

    fn send(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.worker.net_mut().send(&self.hostile, bytes);
        }
    }

    fn turn(&mut self, pause_us: u64) {
        let net = self.worker.net_mut();
        net.horizon_us = net.now_us() + pause_us;
        self.has_ended = self.worker.turn() == Turn::Ended;
        self.worker.check_invariants();
        let conns = self.worker.conn_count() as u64;
        assert_eq!(self.metrics.conns_open.value(), conns);
        let net = self.worker.net_mut();
        net.receive(&self.witness, usize::MAX, &mut self.received);
        self.answer_reports();
    }

    fn post(&self, mail: Mail) {
        assert_eq!(self.mailbox.post(mail), Posted::AtOnce);
    }

    fn publish(&mut self, channel: &ChannelName, payload: Payload) -> Option<Cursor> {
        if self.mailbox.waiting() >= MAILS_MAX {
            return None;
        }
        let sequence = self.writer.head().next();
        let id = Cursor {
            epoch: Epoch::new(EPOCH),
            sequence,
        };
        let now = self.now();
        let publication = {
            let ledger = self.writer.log().ledger();
            Publication::new(id, channel.clone(), payload, now, ledger)
        };
        self.writer.announce(sequence);
        let mut outgoing = Outgoing::new(1);
        outgoing.add(&mut self.writer, publication, None, None);
        if let Some((_, batch)) = outgoing.take() {
            self.post(Mail::Publish(batch));
        }
        self.writer.note_posted();
        self.writer.evict(now, u32::MAX);
        Some(id)
    }

    /// Publishes to the channel of the well-behaved subscriber.
    fn publish_to_witness(&mut self) {
        let text = format!("p{}", self.published.len());
        let payload = Payload::Text(text.as_str().into());
        if self.publish(&name("c"), payload).is_some() {
            self.published.push(text);
        }
    }

    /// Answers the clients' requests as the feed does.
    fn answer_reports(&mut self) {
        while !self.has_ended && self.mailbox.waiting() < MAILS_MAX {
            let Some(report) = self.reports.take() else {
                return;
            };
            match report {
                Report::Count { channel, .. } => {
                    let counts: SubscriberCounts = [(channel, WorkerAck::new(1))].into();
                    self.post(Mail::Count(counts));
                }
                Report::Lost(_) | Report::Notice(_) => {
                    panic!("a notice without a watch: {report:?}")
                }
                Report::Publish(publication) => {
                    let is_broadcast = publication.audience == Audience::Subscribers;
                    let id = is_broadcast
                        .then(|| {
                            self.publish(&publication.channel, Payload::Json(publication.data))
                        })
                        .flatten();
                    let message = BackendMessage::PublishReply {
                        outcome: id.map_or(PublishOutcome::NoConsumer, PublishOutcome::Broadcast),
                        reference: publication.reference,
                    };
                    self.send_to_conn(publication.from, message);
                }
            }
        }
    }

    fn send_to_conn(&self, to: ConnName, message: BackendMessage) {
        self.post(Mail::Direct(DirectMessage {
            to,
            message,
            status: None,
        }));
    }

    fn take_step(&mut self, step: Step) {
        let pipe = PipeRef::clone(&self.hostile);
        let net = self.worker.net_mut();
        let mut taken = Vec::new();
        match step.event {
            1 => self.turn(1_100_000),
            2 => self.turn(20_000),
            3 => net.widen(&pipe, 0),
            4 => net.widen(&pipe, step.amount * 16),
            5 => net.widen(&pipe, usize::MAX),
            6 => net.receive(&pipe, step.amount, &mut taken),
            7 => net.receive(&pipe, usize::MAX, &mut taken),
            8 => net.finish(&pipe),
            9 => net.reset(&pipe),
            10 => {
                self.hostile = net.connect(4096);
                self.hostile_conns += 1;
            }
            11 => self.publish_to_witness(),
            12 => (0..20).for_each(|_| self.publish_to_witness()),
            13 => {
                let text = "x".repeat(step.amount * 8);
                let _id = self.publish(&name("b1"), Payload::Text(text.into()));
            }
            14 if self.mailbox.waiting() < MAILS_MAX => self.send_to_conn(
                ConnName {
                    run: RunId(1),
                    worker: 0,
                    slot: 1,
                    serial: self.hostile_conns.into(),
                },
                BackendMessage::Payload(Payload::Json("[1]".into())),
            ),
            15 => self.worker.trim_memory_now(),
            _ => {}
        }
    }

    fn end(&mut self) {
        for _ in 0..8 {
            self.turn(250_000);
        }
        self.check_witness();
        let given = self.now();
        self.mailbox.order_drain(DrainOrder { conns: 3, given });
        let mut turns = 0;
        while !self.has_ended {
            assert!(turns < TURNS_MAX, "the drain does not end");
            self.turn(500_000);
            turns += 1;
        }
        let metrics = &self.metrics;
        let gauges = [
            &metrics.conns_open,
            &metrics.websocket_open,
            &metrics.event_stream_open,
            &metrics.long_poll_open,
            &metrics.subscribers,
        ];
        assert_eq!(gauges.map(|gauge| gauge.value()), [0; 5]);
        let closed = CloseReason::ALL.map(|reason| metrics.closed(reason).value());
        assert_eq!(closed.iter().sum::<u64>(), metrics.conns_accepted.value());
    }

    /// Checks that the well-behaved subscriber has received everything in order.
    fn check_witness(&self) {
        let head = wire::take_head(&self.received).expect("a head");
        assert_eq!(head.status, 200);
        let mut rest = &self.received[head.length..];
        let mut body = Vec::new();
        while let Some((chunk, length)) = wire::take_chunk(rest) {
            body.extend_from_slice(chunk);
            rest = &rest[length..];
        }
        let body = String::from_utf8(body).expect("text");
        let received = body.lines().filter_map(|line| line.strip_prefix("data: p"));
        let published = self.published.iter().map(|text| &text[1..]);
        assert!(
            received.eq(published),
            "published {:?}, received {body}",
            self.published
        );
    }
}

fn name(text: &str) -> ChannelName {
    ChannelName::new(text).expect("a name")
}

fn config(script: Script<'_>) -> Config {
    let mut config = conn::config();
    config.quota.behind_bytes = 3_000;
    config.quota.behind_publications = 64;
    config.quota.overflow = [Overflow::Skip, Overflow::Conflate, Overflow::Close][script.choice(3)];
    config.drain.window_ms = 100;
    config
}
