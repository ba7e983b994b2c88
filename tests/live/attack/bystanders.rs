//! Well-behaved clients during an attack: a feeder that publishes numbers continuously, and
//! subscribers that must receive each number, in order and in time.

use std::io::{BufRead as _, BufReader, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::raw::connect;
use crate::support::{Feeder, Server, Socket};

/// The bystanders' channel. Attackers do not use it.
pub(crate) const CHANNEL: &str = "bystanders";

/// The time between two publications.
const PACE: Duration = Duration::from_millis(10);

/// The feeder and its subscribers.
pub(crate) struct Bystanders {
    stop: Arc<AtomicBool>,
    feeder: JoinHandle<u64>,
    subscribers: Vec<JoinHandle<Delivered>>,
}

/// The deliveries to one subscriber.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Delivered {
    /// The number of publications received without a gap.
    pub(crate) count: u64,
    /// The longest time from a publication to its delivery.
    pub(crate) slowest: Duration,
}

impl Bystanders {
    /// Starts the feeder and its subscribers: a WebSocket, an event stream, and one event stream
    /// for each of the given `connections`.
    pub(crate) fn new<S: Read + Write + Send + 'static>(
        server: &Server,
        connections: Vec<S>,
    ) -> Self {
        let start = Instant::now();
        let socket = Socket::subscribed(server.addr, &format!("channel={CHANNEL}"));
        let mut subscribers = vec![thread::spawn(move || {
            let mut socket = socket;
            follow(start, || socket.publication()["data"].clone())
        })];
        subscribers.push(event_stream(start, connect(server.addr)));
        for connection in connections {
            subscribers.push(event_stream(start, connection));
        }
        let stop = Arc::new(AtomicBool::new(false));
        let is_stopped = Arc::clone(&stop);
        let mut feeder = Feeder::connect(&server.feed);
        let feeder = thread::spawn(move || publish(&mut feeder, start, &is_stopped));
        Self {
            stop,
            feeder,
            subscribers,
        }
    }

    pub(crate) fn count(&self) -> usize {
        self.subscribers.len()
    }

    /// Stops the feeder, and checks that every subscriber has received all publications.
    pub(crate) fn finish(self) -> Delivered {
        self.stop.store(true, Ordering::Relaxed);
        let published = self.feeder.join().unwrap();
        let mut slowest = Duration::ZERO;
        for subscriber in self.subscribers {
            let delivered = subscriber.join().unwrap();
            assert_eq!(delivered.count, published);
            slowest = slowest.max(delivered.slowest);
        }
        Delivered {
            count: published,
            slowest,
        }
    }
}

/// Publishes until `stop` is set, and marks the last publication. Returns the number of
/// publications.
fn publish(feeder: &mut Feeder, start: Instant, stop: &AtomicBool) -> u64 {
    let mut count = 0;
    loop {
        let is_last = stop.load(Ordering::Relaxed);
        let us = u64::try_from(start.elapsed().as_micros()).unwrap();
        let data = json!({"number": count, "us": us, "is_last": is_last});
        count += 1;
        if is_last {
            feeder.publish(CHANNEL, data);
            return count;
        }
        feeder.send(&json!({"channel": CHANNEL, "data": data}));
        thread::sleep(PACE);
    }
}

/// Receives publications up to the last one.
fn follow(start: Instant, mut next: impl FnMut() -> Value) -> Delivered {
    let mut delivered = Delivered::default();
    loop {
        let data = next();
        assert_eq!(data["number"], delivered.count, "{data}");
        let published = Duration::from_micros(data["us"].as_u64().unwrap());
        let took = start.elapsed().saturating_sub(published);
        delivered.slowest = delivered.slowest.max(took);
        delivered.count += 1;
        if data["is_last"] == true {
            return delivered;
        }
    }
}

/// Opens an event stream. Returns when the stream is subscribed.
fn event_stream<S: Read + Write + Send + 'static>(
    start: Instant,
    mut connection: S,
) -> JoinHandle<Delivered> {
    let request = format!("GET /sse?channel={CHANNEL} HTTP/1.0\r\n\r\n");
    connection.write_all(request.as_bytes()).unwrap();
    let mut lines = BufReader::new(connection).lines().map(|line| line.unwrap());
    let status = lines.next().unwrap();
    assert!(status.contains(" 200 "), "{status}");
    thread::spawn(move || {
        let mut line_with = |name: &str| {
            lines.find_map(|line| {
                assert!(!line.starts_with("event: fanfare.gap"), "a gap");
                line.strip_prefix(name).map(str::to_owned)
            })
        };
        follow(start, || {
            let data = line_with("data: ").expect("the stream goes on");
            serde_json::from_str(&data).unwrap()
        })
    })
}
