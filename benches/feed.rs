//! Measures how many publications per second the feed accepts from one feeder.
//!
//! Covers the path from a feeder's bytes to a worker's inbox. The first group measures only the
//! decoder, on one thread, for each kind of payload. The second group measures the whole feed over
//! a Unix socket, while another thread takes batches out of the inbox and drops them. The last line
//! of each round asks for an acknowledgement, so a round ends when all lines have sequence numbers.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a bench may panic"
)]

use std::hint::black_box;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use criterion::{Criterion, Throughput};
use fanfare::config::{Config, Limits};
use fanfare::feed::protocol::{decode::Decoder, item::Item};
use fanfare::feed::{self, FeedHandle, FeedParts};
use fanfare::id::{ChannelName, Epoch, Sequence};
use fanfare::log::{Amount, WorkerInterest, Writer};
use fanfare::metrics::FeedMetrics;
use fanfare::sys::clock::Clock;
use fanfare::sys::wake::Wake;
use fanfare::worker::mail::inbox::{Inbox, Mail, inbox};
use fanfare::worker::mail::upstream::{Bounds, upstream};
use rustix::event::{PollFd, PollFlags, poll};

/// The number of lines that the decoder reads in one round.
const LINES: usize = 1000;
/// The number of lines that are sent through the socket in one round.
const SOCKET_LINES: usize = 20_000;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    decode(&mut criterion);
    socket(&mut criterion);
    criterion.final_summary();
}

/// Returns a line of about 100 bytes with a JSON payload.
fn json_line() -> String {
    let data = "{\"symbol\":\"EURUSD\",\"bid\":1.08412,\"ask\":1.08415,\"time\":1700000000}";
    format!("{{\"channel\":\"prices\",\"data\":{data}}}\n")
}

fn decode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("feed/decode_1000_lines");
    group.throughput(Throughput::Elements(LINES as u64));
    let text = "a chat line of the usual length, with a \\\"quote\\\" in it";
    let base64 = "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNkZWZnaGlqa2xtbm9w";
    for (name, line) in [
        ("json", json_line()),
        (
            "text",
            format!("{{\"channel\":\"chat:42\",\"text\":\"{text}\"}}\n"),
        ),
        (
            "base64",
            format!("{{\"channel\":\"bin\",\"base64\":\"{base64}\"}}\n"),
        ),
    ] {
        let lines = line.repeat(LINES);
        group.bench_function(name, |bencher| {
            bencher.iter(|| assert_eq!(decode_all(black_box(lines.as_bytes())), LINES));
        });
    }
    group.finish();
}

fn decode_all(mut input: &[u8]) -> usize {
    let mut decoder = Decoder::new(Limits::default());
    let mut count = 0;
    loop {
        let step = decoder.next(input);
        input = &input[step.consumed..];
        match step.item {
            Some(Item::Publish { draft, .. }) => {
                drop(black_box(draft));
                count += 1;
            }
            Some(other) => assert!(matches!(other, Item::Continue), "{other:?}"),
            None => return count,
        }
    }
}

/// Acts as a worker: receives batches, acknowledges and drops the publications.
fn work(inbox: &Inbox, wake: &Wake, feed: &Wake, stop: &AtomicBool) {
    while !stop.load(Ordering::Acquire) {
        poll(&mut [PollFd::new(wake, PollFlags::IN)], None).unwrap();
        wake.acknowledge();
        while let Some(mail) = inbox.take() {
            let Mail::Publish(batch) = mail else { continue };
            for item in batch {
                let worker_ack = item.worker_ack;
                if worker_ack.is_some_and(|worker_ack| worker_ack.confirm(0)) {
                    feed.wake();
                }
            }
        }
    }
}

fn start(folder: &std::path::Path, wake: &Arc<Wake>) -> (FeedHandle, Inbox, Arc<Wake>) {
    let config = Config {
        feed: folder.join("feed.sock"),
        ..Config::default()
    };
    let (mailbox, inbox) = inbox(Arc::clone(wake));
    let writer = Writer::new(&config, Sequence::ZERO);
    // The worker has a subscriber to the channel.
    let (name, interest) = (
        ChannelName::new("prices").unwrap(),
        WorkerInterest {
            worker: 0,
            place: 0,
        },
    );
    let none = Amount::default();
    let horizon = writer.log().state().horizon(Sequence::ZERO);
    writer
        .log()
        .register_interest(&name, interest, horizon, none, &mut Vec::new())
        .unwrap();
    let feed_wake = Arc::new(Wake::new().unwrap());
    let parts = FeedParts {
        epoch: Epoch::new(1),
        writer,
        recovered: None,
        mailboxes: vec![mailbox],
        reports: upstream(&[Arc::clone(wake)], &feed_wake, Bounds::default()).1,
        wake: Arc::clone(&feed_wake),
        metrics: Arc::new(FeedMetrics::default()),
        health: Arc::default(),
        warnings: Arc::default(),
        tracer: None,
        config: Arc::new(config.clone()),
        clock: Clock::start(),
    };
    let handle = feed::bind(&config).unwrap().spawn(parts).unwrap();
    (handle, inbox, feed_wake)
}

fn socket(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().unwrap();
    let wake = Arc::new(Wake::new().unwrap());
    let (handle, inbox, feed_wake) = start(folder.path(), &wake);
    let stop = Arc::new(AtomicBool::new(false));
    let worker = thread::spawn({
        let (wake, stop) = (Arc::clone(&wake), Arc::clone(&stop));
        move || work(&inbox, &wake, &feed_wake, &stop)
    });
    let mut feeder = UnixStream::connect(folder.path().join("feed.sock")).unwrap();
    let mut answers = BufReader::new(feeder.try_clone().unwrap());
    let mut lines = json_line().repeat(SOCKET_LINES - 1);
    lines += "{\"channel\":\"prices\",\"data\":0,\"ack\":true}\n";
    let mut answer = String::new();
    let mut group = criterion.benchmark_group("feed/socket_20000_lines");
    group.sample_size(20);
    group.throughput(Throughput::Elements(SOCKET_LINES as u64));
    group.bench_function("json", |bencher| {
        bencher.iter(|| {
            feeder.write_all(lines.as_bytes()).unwrap();
            answer.clear();
            answers.read_line(&mut answer).unwrap();
            assert!(answer.starts_with("{\"ok\":true"), "{answer}");
        });
    });
    group.finish();
    handle.stop();
    handle.join();
    stop.store(true, Ordering::Release);
    wake.wake();
    worker.join().unwrap();
}
