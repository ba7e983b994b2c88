//! Measures the worker's cost per delivery in a broadcast to 100,000 conns, without the kernel.
//!
//! Runs a real worker over a simulated network whose writes always succeed and cost nothing. The
//! measured work is: visiting the subscribers, selecting their publications, gathering the bytes,
//! advancing the cursors, checking the quotas and counting. The kernel's `send` takes several
//! microseconds, so the worker's cost must stay a small fraction of one microsecond. One case sends
//! ten publications together, so that all ten share one pass over the conns. Compressed
//! publications must cost the same as plain ones, because each publication is compressed once for
//! all conns. A delivery to a poll costs more: the worker gathers the response, reads and parses
//! the client's next request, and subscribes the conn again.
#![allow(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a bench may panic"
)]

use std::cell::Cell;
use std::io::{self, IoSlice, Write as _};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput};
use fanfare::config::Config;
use fanfare::frame::{Payload, Publication};
use fanfare::hub::Hub;
use fanfare::id::{ChannelName, ConnId, Cursor, Epoch, RunId, Sequence};
use fanfare::log::Writer;
use fanfare::metrics::WorkerMetrics;
use fanfare::sys::clock::Clock;
use fanfare::sys::wake::Wake;
use fanfare::time::Now;
use fanfare::worker::admission::guard::Guard;
use fanfare::worker::listener_conns::ListenerConns;
use fanfare::worker::mail::inbox::{Mail, Mailbox, inbox};
use fanfare::worker::mail::outgoing::Outgoing;
use fanfare::worker::mail::upstream::{Bounds, upstream};
use fanfare::worker::wire::net::{
    AcceptOutcome, Net, Polled, ReadOutcome, Readiness, WriteOutcome,
};
use fanfare::worker::wire::tls::Secure;
use fanfare::worker::{Parts, Turn, Worker};

const CONNS: u32 = 100_000;
const EVENT_STREAM: &[u8] = b"GET /sse?channel=prices HTTP/1.1\r\nHost: a\r\n\r\n";
const WEBSOCKET: &[u8] = b"GET /ws?channel=prices HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const DEFLATED: &[u8] = b"GET /ws?channel=prices HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// The start of a poll's request. The sequence number from which the poll continues comes next.
const POLL: &[u8] = b"GET /poll?channel=prices&timeout=120&since=000000000001-";

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    broadcast(&mut criterion);
    criterion.final_summary();
}

/// A simulated network of clients. Each client sends one request and accepts all bytes that are
/// written to it. A polling client sends another request after each response.
struct UnlimitedNet {
    clock: Clock,
    request: &'static [u8],
    /// The number of clients that the worker has not accepted yet.
    waiting: u32,
    ready: Vec<Readiness>,
    writes: u64,
    bytes: u64,
    /// The sequence number of the last publication, from which polls continue.
    published: u64,
}

struct Client {
    id: Option<ConnId>,
    /// Whether the client has sent its current request.
    has_requested: Cell<bool>,
}

impl Net for UnlimitedNet {
    type Socket = Client;

    fn now(&self) -> Now {
        self.clock.now()
    }

    fn draw(&mut self) -> u64 {
        0x5555_5555_5555_5555
    }

    fn unix_time(&self) -> Duration {
        Duration::from_secs(784_111_777)
    }

    fn poll(&mut self, _timeout: Option<Duration>, ready: &mut Vec<Readiness>) -> Polled {
        ready.append(&mut self.ready);
        Polled::Complete
    }

    fn listener_count(&self) -> u32 {
        1
    }

    fn accept(&mut self, _listener: u32) -> AcceptOutcome<Client> {
        if self.waiting == 0 {
            return AcceptOutcome::Drained;
        }
        self.waiting -= 1;
        AcceptOutcome::Accepted {
            socket: Client {
                id: None,
                has_requested: Cell::new(false),
            },
            address: std::net::Ipv4Addr::LOCALHOST.into(),
        }
    }

    fn register(&mut self, socket: &mut Client, id: ConnId) -> io::Result<()> {
        socket.id = Some(id);
        self.ready.push(ready(id));
        Ok(())
    }

    fn read(&mut self, socket: &mut Client, into: &mut [u8]) -> ReadOutcome {
        if socket.has_requested.replace(true) {
            return ReadOutcome::Drained;
        }
        let mut rest = &mut *into;
        rest.write_all(self.request).unwrap();
        if self.polls() {
            write!(rest, "{} HTTP/1.1\r\nHost: a\r\n\r\n", self.published).unwrap();
        }
        let left = rest.len();
        ReadOutcome::Bytes {
            count: into.len() - left,
            is_drained: true,
        }
    }

    fn write(&mut self, socket: &Client, slices: &[IoSlice<'_>]) -> WriteOutcome {
        let count = slices.iter().map(|slice| slice.len()).sum();
        self.writes += 1;
        self.bytes += count as u64;
        if self.polls() && socket.has_requested.replace(false) {
            self.ready.extend(socket.id.map(ready));
        }
        WriteOutcome::Wrote {
            count,
            is_blocked: false,
        }
    }

    fn shutdown_write(&mut self, _socket: &mut Client) {}

    fn refuse(&mut self, _socket: Client, _response: &[u8]) {}

    fn stop_listening(&mut self) {}
}

impl UnlimitedNet {
    fn polls(&self) -> bool {
        self.request == POLL
    }
}

fn ready(id: ConnId) -> Readiness {
    Readiness::Conn {
        id,
        is_readable: true,
        is_writable: true,
        is_read_closed: false,
    }
}

struct Rig {
    worker: Worker<UnlimitedNet>,
    mailbox: Mailbox,
    writer: Writer,
    metrics: Arc<WorkerMetrics>,
    clock: Clock,
    published: u64,
}

impl Rig {
    /// Returns a worker on which all conns are subscribed and no work is left.
    fn new(request: &'static [u8]) -> Self {
        let clock = Clock::start();
        let (mailbox, inbox) = inbox(Arc::new(Wake::new().unwrap()));
        let mut config = Config::default();
        // With a long interval, no heartbeat adds work during the measurement.
        config.heartbeat.interval_ms = 3_600_000;
        config.deflate.enabled = true;
        let metrics = Arc::new(WorkerMetrics::default());
        let net = UnlimitedNet {
            clock,
            request,
            waiting: CONNS,
            ready: vec![Readiness::Listener(0)],
            writes: 0,
            bytes: 0,
            published: 0,
        };
        let feed = Arc::new(Wake::new().unwrap());
        let (mut ends, _reports) =
            upstream(&[Arc::new(Wake::new().unwrap())], &feed, Bounds::default());
        let writer = Writer::new(&config, Sequence::ZERO);
        let log = Arc::clone(writer.log());
        let hub = Hub::new(log, 0, Epoch::new(1), Sequence::ZERO, &config);
        let parts = Parts {
            run: RunId(1),
            number: 0,
            config: Arc::new(config),
            metrics: Arc::clone(&metrics),
            listener_conns: Arc::new(ListenerConns::new(1)),
            inbox,
            feed,
            upstream: ends.remove(0),
            pulse: Arc::new(AtomicU64::new(0)),
            conns_fitting: CONNS,
            workers: 1,
            guard: Guard::default(),
            secure: Secure::default(),
            keys: None,
            warnings: Arc::default(),
            access_log: None,
            tracer: None,
        };
        let mut worker = Worker::new(net, hub, parts);
        while worker.hub().subscriber_count() < u64::from(CONNS) || worker.net_mut().waiting > 0 {
            assert_eq!(worker.turn(), Turn::Continues);
        }
        for _ in 0..1000 {
            assert_eq!(worker.turn(), Turn::Continues);
        }
        Self {
            worker,
            mailbox,
            writer,
            metrics,
            clock,
            published: 0,
        }
    }

    fn batch(&mut self, count: u64, payload_bytes: usize) -> Mail {
        let publication = |sequence| {
            let id = Cursor {
                epoch: Epoch::new(1),
                sequence: Sequence(sequence),
            };
            let channel = ChannelName::new("prices").unwrap();
            let payload = Payload::Json(format!("\"{}\"", "x".repeat(payload_bytes - 2)).into());
            let ledger = self.writer.log().ledger();
            Publication::new(id, channel, payload, self.clock.now(), ledger)
        };
        let batch = (self.published + 1..=self.published + count).map(publication);
        let batch: Vec<_> = batch.collect();
        self.published += count;
        self.writer.announce(Sequence(self.published));
        let mut outgoing = Outgoing::new(1);
        for publication in batch {
            outgoing.add(&mut self.writer, publication, None, None);
        }
        self.writer.note_posted();
        self.writer.evict(self.clock.now(), u32::MAX);
        Mail::Publish(outgoing.take().unwrap().1)
    }

    /// Publishes, then runs turns until all clients have received all publications and all polling
    /// clients have sent the next poll.
    fn broadcast(&mut self, count: u64, payload_bytes: usize) {
        let deliveries = self.metrics.deliveries.value() + count * u64::from(CONNS);
        let mail = self.batch(count, payload_bytes);
        self.worker.net_mut().published = self.published;
        let _posted = self.mailbox.post(mail);
        while self.metrics.deliveries.value() < deliveries
            || self.worker.hub().subscriber_count() < u64::from(CONNS)
        {
            assert_eq!(self.worker.turn(), Turn::Continues);
        }
        assert_eq!(self.metrics.deliveries.value(), deliveries);
    }
}

fn broadcast(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("flush/100000_conns");
    group.sample_size(10);
    for (name, request, payload_bytes) in [
        ("websocket", WEBSOCKET, 100),
        ("event_stream", EVENT_STREAM, 100),
        ("websocket_of_1024_bytes", WEBSOCKET, 1024),
        ("deflated_of_1024_bytes", DEFLATED, 1024),
        ("poll", POLL, 100),
    ] {
        let mut rig = None;
        for count in [1u64, 10] {
            group.throughput(Throughput::Elements(count * u64::from(CONNS)));
            group.bench_function(BenchmarkId::new(name, count), |bencher| {
                let rig = rig.get_or_insert_with(|| Rig::new(request));
                bencher.iter(|| rig.broadcast(count, payload_bytes));
            });
        }
    }
    group.finish();
}
