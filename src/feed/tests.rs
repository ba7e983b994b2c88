//! Tests of the feed over a real Unix socket. A thread acts as the worker: it drains the inbox and
//! confirms each publication.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::Shutdown;
use std::path::PathBuf;
use std::thread::{self, JoinHandle};
use std::time::Instant;

use std::os::unix::net::UnixStream;

use super::*;
use crate::backend::{ClientPublication, Report};
use crate::config::limits::{FEED_ANSWER_BYTES_MAX, FEEDERS_MAX, INBOX_BATCHES_MAX};
use crate::effect::Audience;
use crate::frame::{Payload, Publication};
use crate::id::{ChannelName, ConnName, Epoch, RunId};
use crate::log::Writer;
use crate::worker::mail::inbox::{Inbox, Item, Mail, inbox};
use crate::worker::mail::upstream::{Bounds, Reported, Upstream, upstream};

const SUBSCRIBERS: u32 = 3;

/// A running feed with the inbox of one worker. Only [`Rig::work`] drains the inbox.
struct Rig {
    _directory: tempfile::TempDir,
    path: PathBuf,
    handle: FeedHandle,
    metrics: Arc<FeedMetrics>,
    inbox: Option<Inbox>,
    upstream: Upstream,
    feed_wake: Arc<Wake>,
}

/// A thread that confirms all publications until the feed stops, and then returns them in order.
type Worker = JoinHandle<Vec<Arc<Publication>>>;

impl Rig {
    fn start() -> Self {
        Self::start_with(Config::default(), FEEDERS_MAX)
    }

    fn start_with(mut config: Config, feeders_max: usize) -> Self {
        let directory = tempfile::tempdir().unwrap();
        config.feed = directory.path().join("feed.sock");
        let feed = bind(&config).unwrap();
        let path = feed.path().to_path_buf();
        let (mailbox, inbox) = inbox(Arc::new(Wake::new().unwrap()));
        let feed_wake = Arc::new(Wake::new().unwrap());
        let worker_wake = Arc::new(Wake::new().unwrap());
        let (mut ends, reports) = upstream(&[worker_wake], &feed_wake, Bounds::default());
        let metrics = Arc::new(FeedMetrics::default());
        let writer = Writer::new(&config, Sequence::ZERO);
        let numbered: Vec<String> = (0..20).map(|number| format!("c{number}")).collect();
        let mut names = vec!["a", "b", "end"];
        names.extend(numbered.iter().map(String::as_str));
        writer.log().enter_all(0, &names);
        let parts = FeedParts {
            epoch: Epoch::new(1),
            writer,
            recovered: None,
            mailboxes: vec![mailbox],
            reports,
            wake: Arc::clone(&feed_wake),
            metrics: Arc::clone(&metrics),
            health: Arc::default(),
            warnings: Arc::default(),
            tracer: None,
            config: Arc::new(config),
            clock: Clock::start(),
        };
        let handle = feed.spawn_for(parts, feeders_max).unwrap();
        Self {
            _directory: directory,
            path,
            handle,
            metrics,
            inbox: Some(inbox),
            upstream: ends.pop().unwrap(),
            feed_wake,
        }
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.path).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        stream
    }

    /// Starts a thread that drains the inbox until the feed drops its mailbox.
    fn work(&mut self) -> Worker {
        let inbox = self.inbox.take().unwrap();
        let wake = Arc::clone(&self.feed_wake);
        thread::spawn(move || {
            let mut publications = Vec::new();
            while let Some(mail) = inbox.wait() {
                let batch = match mail {
                    Mail::Publish(batch) => batch,
                    Mail::Watch { worker_ack, .. } if worker_ack.confirm(0) => {
                        wake.wake();
                        continue;
                    }
                    _ => continue,
                };
                for Item {
                    entry, worker_ack, ..
                } in batch
                {
                    if worker_ack.is_some_and(|worker_ack| worker_ack.confirm(SUBSCRIBERS)) {
                        wake.wake();
                    }
                    publications.push(entry.publication);
                }
            }
            publications
        })
    }

    /// Stops the feed and returns all publications that the worker received.
    fn finish(self, worker: Worker) -> Vec<Arc<Publication>> {
        self.handle.stop();
        self.handle.join();
        assert!(!self.path.exists());
        worker.join().unwrap()
    }
}

fn line(channel: &str, number: u64) -> String {
    format!("{{\"channel\":\"{channel}\",\"data\":{number}}}\n")
}

fn acked(channel: &str, number: u64) -> String {
    format!("{{\"channel\":\"{channel}\",\"data\":{number},\"ack\":true}}\n")
}

fn numbers(publications: &[Arc<Publication>]) -> Vec<u64> {
    publications
        .iter()
        .map(|publication| match &publication.payload {
            Payload::Json(json) => json.parse().unwrap(),
            Payload::Bytes(_) | Payload::Text(_) => panic!("a number"),
        })
        .collect()
}

/// Reads until the end of the stream.
fn read_all(stream: &mut UnixStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

fn eventually(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(20), "{what}");
        thread::yield_now();
    }
}

#[test]
fn acks_and_errors_are_sent_in_the_order_of_their_lines() {
    let mut rig = Rig::start();
    let worker = rig.work();
    let mut feeder = rig.connect();
    let lines = acked("a", 1) + "{}\n" + &line("a", 2) + "\n" + &acked("b", 3);
    feeder.write_all(lines.as_bytes()).unwrap();
    feeder.shutdown(Shutdown::Write).unwrap();
    assert_eq!(
        read_all(&mut feeder),
        "{\"ok\":true,\"line\":1,\"id\":\"000000000001-1\",\"subscribers\":3}\n\
         {\"ok\":false,\"line\":2,\"error\":\"bad_channel\",\"message\":\"`channel` is missing\"}\n\
         {\"ok\":true,\"line\":5,\"id\":\"000000000001-3\",\"subscribers\":3}\n"
    );
    assert_eq!(rig.metrics.errors.value(), 1);
    assert_eq!(numbers(&rig.finish(worker)), [1, 2, 3]);
}

#[test]
fn ack_is_sent_while_the_feeder_stays_connected() {
    let mut rig = Rig::start();
    let worker = rig.work();
    let feeder = rig.connect();
    let mut answers = BufReader::new(feeder.try_clone().unwrap()).lines();
    for number in 1..100 {
        (&feeder).write_all(acked("a", number).as_bytes()).unwrap();
        let answer = answers.next().unwrap().unwrap();
        assert!(answer.contains(&format!("\"line\":{number},")), "{answer}");
    }
    assert_eq!(rig.finish(worker).len(), 99);
}

#[test]
fn line_over_the_limit_is_answered_and_the_connection_closed() {
    let mut config = Config::default();
    config.limits.feed_line_bytes = 1000;
    let mut rig = Rig::start_with(config, FEEDERS_MAX);
    let worker = rig.work();
    let mut feeder = rig.connect();
    // The input is larger than the kernel's buffers. The answer must be received although the
    // remaining bytes are discarded.
    let mut bytes = line("a", 1).into_bytes();
    bytes.resize(4 << 20, b' ');
    feeder.write_all(&bytes).unwrap();
    let answer = read_all(&mut feeder);
    assert!(
        answer.contains("\"line\":2,\"error\":\"too_long\""),
        "{answer}"
    );
    assert_eq!(numbers(&rig.finish(worker)), [1]);
}

#[test]
fn lagging_worker_blocks_the_feeder_and_nothing_is_lost_or_repeated() {
    let mut rig = Rig::start();
    let feeder = rig.connect();
    feeder.set_nonblocking(true).unwrap();
    let lines: String = (1..400_000).map(|number| line("a", number)).collect();
    let mut rest = lines.as_bytes();
    // The inbox is not drained, so writes will block at some point.
    let mut blocked_since = None;
    while blocked_since.is_none_or(|since: Instant| since.elapsed() < Duration::from_millis(200)) {
        match (&feeder).write(rest) {
            Ok(bytes) => {
                rest = &rest[bytes..];
                blocked_since = None;
            }
            Err(_would_block) => {
                blocked_since.get_or_insert_with(Instant::now);
                thread::yield_now();
            }
        }
    }
    let written = lines.len() - rest.len();
    assert!(written < (INBOX_BATCHES_MAX + 8) * 65_536, "{written}");
    let worker = rig.work();
    feeder.set_nonblocking(false).unwrap();
    (&feeder).write_all(rest).unwrap();
    eventually("all are published", || {
        rig.metrics.publications.value() == 399_999
    });
    let publications = rig.finish(worker);
    assert!(
        publications
            .iter()
            .zip(1..)
            .all(|(p, id)| p.id.sequence.0 == id)
    );
    assert!(numbers(&publications).into_iter().eq(1..400_000));
}

#[test]
fn feeder_that_reads_no_answers_is_not_read() {
    let mut rig = Rig::start();
    let worker = rig.work();
    let mut feeder = rig.connect();
    feeder.set_nonblocking(true).unwrap();
    // Each line of two bytes causes an answer of about ninety bytes.
    let lines = "x\n".repeat(500_000);
    let bytes = format!("\n{lines}");
    let mut written = 0;
    let mut blocked_since = None;
    while blocked_since.is_none_or(|since: Instant| since.elapsed() < Duration::from_millis(200)) {
        match feeder.write(&bytes.as_bytes()[written..]) {
            Ok(bytes) => written += bytes,
            Err(_would_block) => {
                blocked_since.get_or_insert_with(Instant::now);
                thread::yield_now();
            }
        }
    }
    assert!(written < bytes.len());
    let refused = rig.metrics.errors.value() as usize;
    assert!(
        refused < (FEED_ANSWER_BYTES_MAX + (1 << 20)) / 80,
        "{refused}"
    );
    // Another feeder is served while the first feeder does not read.
    let mut other = rig.connect();
    other.write_all(acked("a", 7).as_bytes()).unwrap();
    other.shutdown(Shutdown::Write).unwrap();
    assert!(read_all(&mut other).contains("\"ok\":true"));
    // When the feeder reads again, all its lines are answered.
    feeder.set_nonblocking(false).unwrap();
    let reader = feeder.try_clone().unwrap();
    let counting = thread::spawn(move || BufReader::new(reader).lines().count());
    feeder.write_all(&bytes.as_bytes()[written..]).unwrap();
    feeder.shutdown(Shutdown::Write).unwrap();
    assert_eq!(counting.join().unwrap(), 500_000);
    assert_eq!(numbers(&rig.finish(worker)), [7]);
}

#[test]
fn many_feeders_are_served_each_in_its_order() {
    let mut rig = Rig::start();
    let worker = rig.work();
    let feeders: Vec<_> = (0..20)
        .map(|channel| {
            let mut stream = rig.connect();
            thread::spawn(move || {
                for number in 0..500 {
                    let line = line(&format!("c{channel}"), number);
                    // Each line is written in two pieces, so that the loop alternates between
                    // partial lines of different feeders.
                    let (front, back) = line.as_bytes().split_at(9);
                    stream.write_all(front).unwrap();
                    stream.write_all(back).unwrap();
                }
                stream.write_all(acked("end", 0).as_bytes()).unwrap();
                stream.shutdown(Shutdown::Write).unwrap();
                read_all(&mut stream)
            })
        })
        .collect();
    for feeder in feeders {
        assert!(feeder.join().unwrap().contains("\"line\":501"));
    }
    eventually("all feeders have closed", || {
        rig.metrics.feeders.value() == 0
    });
    let publications = rig.finish(worker);
    assert_eq!(publications.len(), 20 * 501);
    for channel in 0..20 {
        let name = format!("c{channel}");
        let of_channel: Vec<_> = publications
            .iter()
            .filter(|publication| publication.channel.as_str() == name)
            .map(Arc::clone)
            .collect();
        assert!(numbers(&of_channel).into_iter().eq(0..500));
    }
}

#[test]
fn feeder_that_closes_in_mid_line_loses_only_that_line() {
    let mut rig = Rig::start();
    let worker = rig.work();
    let mut feeder = rig.connect();
    let cut = line("a", 1) + "{\"channel\":\"a\",\"da";
    feeder.write_all(cut.as_bytes()).unwrap();
    drop(feeder);
    eventually("it is counted", || rig.metrics.cut_off.value() == 1);
    let mut other = rig.connect();
    other.write_all(acked("a", 2).as_bytes()).unwrap();
    other.shutdown(Shutdown::Write).unwrap();
    assert!(read_all(&mut other).contains("\"ok\":true,\"line\":1"));
    assert_eq!(numbers(&rig.finish(worker)), [1, 2]);
}

#[test]
fn http_responses_are_in_order_with_keep_alive() {
    let mut rig = Rig::start();
    let worker = rig.work();
    let mut feeder = rig.connect();
    let array = r#"[{"channel":"a","data":2},{"channel":"b","data":3}]"#;
    let bad = r#"[{"channel":"a","data":9},{"channel":"b"}]"#;
    let mut requests = String::from(
        "POST /publish?channel=a HTTP/1.1\r\nHost: f\r\nContent-Type: application/json\r\n\
         Content-Length: 1\r\n\r\n1",
    );
    for body in [array, bad] {
        requests += &format!(
            "POST /publish HTTP/1.1\r\nHost: f\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
    }
    requests += "GET / HTTP/1.1\r\nHost: f\r\nConnection: close\r\n\r\n";
    feeder.write_all(requests.as_bytes()).unwrap();
    let answers = read_all(&mut feeder);
    let statuses: Vec<_> = answers
        .lines()
        .filter_map(|line| {
            line.strip_prefix("HTTP/1.1 ")
                .or_else(|| line.split_once("HTTP/1.1 ").map(|(_, rest)| rest))
        })
        .collect();
    assert_eq!(
        statuses,
        ["200 OK", "200 OK", "400 Bad Request", "404 Not Found"]
    );
    assert!(answers.contains("{\"ok\":true,\"id\":\"000000000001-1\",\"subscribers\":3}\n"));
    assert!(answers.contains("[{\"ok\":true,\"id\":\"000000000001-2\""));
    assert!(answers.contains("\"index\":1"));
    assert_eq!(numbers(&rig.finish(worker)), [1, 2, 3]);
}

#[test]
fn repetition_is_acknowledged_with_the_first_id() {
    let mut rig = Rig::start();
    let worker = rig.work();
    let mut feeder = rig.connect();
    let line = "{\"channel\":\"a\",\"data\":1,\"dedupe\":\"k\",\"ack\":true}\n";
    feeder.write_all(line.repeat(2).as_bytes()).unwrap();
    feeder.shutdown(Shutdown::Write).unwrap();
    let answers = read_all(&mut feeder);
    assert_eq!(answers.matches("\"id\":\"000000000001-1\"").count(), 2);
    assert_eq!(rig.finish(worker).len(), 1);
}

#[test]
fn feeder_over_the_limit_gets_an_error_and_is_closed() {
    let mut rig = Rig::start_with(Config::default(), 1);
    let worker = rig.work();
    let first = rig.connect();
    eventually("the first is in", || rig.metrics.feeders.value() == 1);
    let mut second = rig.connect();
    assert!(read_all(&mut second).contains("too_many_feeders"));
    assert_eq!(rig.metrics.feeders_refused.value(), 1);
    drop(first);
    rig.finish(worker);
}

#[test]
fn stop_publishes_and_acknowledges_what_was_already_sent() {
    let mut rig = Rig::start();
    let mut feeder = rig.connect();
    eventually("the feeder is in", || rig.metrics.feeders.value() == 1);
    feeder
        .write_all((line("a", 1) + &acked("a", 2)).as_bytes())
        .unwrap();
    rig.handle.stop();
    let worker = rig.work();
    assert!(read_all(&mut feeder).contains("\"ok\":true,\"line\":2"));
    assert!(UnixStream::connect(&rig.path).is_err());
    assert_eq!(numbers(&rig.finish(worker)), [1, 2]);
}

#[test]
fn inherited_listener_stays_open_when_the_feed_stops() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("feed.sock");
    let theirs = UnixListener::bind(&path).unwrap();
    let feed = Feed::from_listener(theirs.try_clone().unwrap());
    assert_eq!(feed.path(), path);
    let wake = Arc::new(Wake::new().unwrap());
    let parts = FeedParts {
        epoch: Epoch::new(1),
        writer: Writer::new(&Config::default(), Sequence::ZERO),
        recovered: None,
        mailboxes: Vec::new(),
        reports: upstream(&[], &wake, Bounds::default()).1,
        wake,
        metrics: Arc::new(FeedMetrics::default()),
        health: Arc::default(),
        warnings: Arc::default(),
        tracer: None,
        config: Arc::new(Config::default()),
        clock: Clock::start(),
    };
    let handle = feed.spawn(parts).unwrap();
    handle.stop();
    handle.join();
    assert!(UnixStream::connect(&path).is_ok());
}

#[test]
fn consume_is_acknowledged_when_every_worker_knows_it() {
    let mut rig = Rig::start();
    let mut consumer = rig.connect();
    consumer
        .write_all(b"{\"consume\":\"a\",\"notices\":true,\"ack\":true}\n")
        .unwrap();
    eventually("it is a consumer", || rig.metrics.consumers.value() == 1);
    consumer.set_nonblocking(true).unwrap();
    let early = consumer.read(&mut [0; 1]).unwrap_err();
    assert_eq!(early.kind(), ErrorKind::WouldBlock);
    consumer.set_nonblocking(false).unwrap();
    let worker = rig.work();
    let mut answer = String::new();
    BufReader::new(&consumer).read_line(&mut answer).unwrap();
    assert_eq!(answer, "{\"ok\":true,\"line\":1}\n");
    rig.finish(worker);
}

#[test]
fn consumer_that_has_shut_down_its_sending_side_receives_until_it_closes() {
    let mut rig = Rig::start();
    let worker = rig.work();
    let consumer = rig.connect();
    (&consumer)
        .write_all(b"{\"consume\":[\"a\"],\"ack\":true}\n")
        .unwrap();
    consumer.shutdown(Shutdown::Write).unwrap();
    let mut lines = BufReader::new(consumer.try_clone().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "{\"ok\":true,\"line\":1}");
    let from = ConnName {
        run: RunId(0),
        worker: 0,
        slot: 1,
        serial: 2,
    };
    for name in ["b", "a"] {
        let report = Report::Publish(ClientPublication {
            from,
            sub: None,
            channel: ChannelName::new(name).unwrap(),
            data: "1".into(),
            dedupe: None,
            reference: None,
            audience: Audience::Consumers,
            traceparent: None,
        });
        assert_eq!(rig.upstream.report(report), Reported::AtOnce);
    }
    let expected =
        format!(r#"{{"type":"publish","conn":"{from}","sub":null,"channel":"a","data":1}}"#);
    assert_eq!(lines.next().unwrap().unwrap(), expected);
    assert_eq!(rig.metrics.unconsumed.value(), 1);
    drop(lines);
    drop(consumer);
    eventually("the consumer has closed", || {
        rig.metrics.consumers.value() == 0
    });
    assert!(rig.finish(worker).is_empty());
}
