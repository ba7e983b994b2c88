//! The figures of `/metrics` that are measured or computed: histograms count each event once, in
//! base units.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::support::raw::connect;
use crate::support::secure::{Certificate, secured_over, tls_addr};
use crate::support::{Feeder, Raw, Server, Socket, within};

/// The maximum time of an event on a busy machine, in seconds.
const EVENT_S_MAX: f64 = 20.0;

/// Returns the cumulative numbers of a histogram's buckets, in the order of the bounds.
fn buckets(server: &Server, name: &str) -> Vec<(f64, f64)> {
    let page = Raw::get(server.admin, "/metrics");
    let prefix = format!("{name}_bucket{{le=\"");
    let lines = page.body_text().lines().map(str::to_owned);
    let lines = lines.filter_map(|line| {
        let (bound, count) = line.strip_prefix(&prefix)?.split_once("\"} ")?;
        Some((bound.parse().unwrap(), count.parse().unwrap()))
    });
    lines.collect()
}

fn count(server: &Server, name: &str) -> f64 {
    server.metric(&format!("{name}_count"))
}

fn sum(server: &Server, name: &str) -> f64 {
    server.metric(&format!("{name}_sum"))
}

#[test]
fn histograms_have_rising_buckets_and_their_count_is_the_last() {
    let server = Server::start();
    let page = Raw::get(server.admin, "/metrics");
    let types = page.body_text().lines().map(str::to_owned);
    let names: Vec<String> = types
        .filter_map(|line| {
            let line = line.strip_prefix("# TYPE ")?;
            Some(line.strip_suffix(" histogram")?.to_owned())
        })
        .collect();
    assert_eq!(names.len(), 7, "{names:?}");
    for name in names {
        let buckets = buckets(&server, &name);
        assert_eq!(buckets.len(), 22, "{name}");
        assert!(buckets.is_sorted(), "{name}: {buckets:?}");
        assert!(buckets.is_sorted_by_key(|(_, count)| *count), "{name}");
        assert!(buckets.last().unwrap().0.is_infinite(), "{name}");
    }
}

#[test]
fn delivery_is_measured_once_for_each_publication_and_subscriber() {
    let server = Server::with("", &["--workers", "1"]);
    let mut sockets: Vec<Socket> = (0..3)
        .map(|_| Socket::subscribed(server.addr, "channel=a"))
        .collect();
    let mut feeder = Feeder::connect(&server.feed);
    for number in 0..5 {
        feeder.publish("a", number);
        for socket in &mut sockets {
            assert_eq!(socket.publication()["data"], number);
        }
    }
    let expected = BTreeMap::from([
        ("fanfare_delivery_lag_seconds", 15.0),
        ("fanfare_fanout_seconds", 5.0),
        ("fanfare_feed_post_seconds", 5.0),
    ]);
    for (name, expected) in expected {
        server.await_metric(&format!("{name}_count"), expected);
        let sum = sum(&server, name);
        assert!(sum > 0.0 && sum < expected * EVENT_S_MAX, "{name}: {sum}");
    }
    for name in ["fanfare_turn_seconds", "fanfare_turn_wait_seconds"] {
        let count = count(&server, name);
        assert!(count > 5.0, "{name}: {count}");
        assert!(
            count <= server.metric("fanfare_turns_total") + 1.0,
            "{name}"
        );
    }
    // Each of the three upgrades and the five publications needed a write.
    assert!(count(&server, "fanfare_flush_seconds") >= 6.0);
}

#[test]
fn lag_is_the_age_of_the_publication() {
    let age = Duration::from_millis(150);
    let server = Server::start();
    let begun = Instant::now();
    Feeder::connect(&server.feed).publish("a", 1);
    let published = Instant::now();
    within("the publication's age", || {
        (published.elapsed() > age).then_some(())
    });
    let answer = Raw::get(server.addr, "/poll?channel=a&since=first&timeout=0");
    assert_eq!(answer.status, 200, "{}", answer.body_text());
    let name = "fanfare_delivery_lag_seconds";
    server.await_metric(&format!("{name}_count"), 1.0);
    let lag = sum(&server, name);
    let range = age.as_secs_f64()..begun.elapsed().as_secs_f64();
    assert!(range.contains(&lag), "{lag}");
    let mut young = buckets(&server, name);
    young.retain(|(bound, _)| *bound < age.as_secs_f64());
    assert!(young.iter().all(|(_, count)| *count == 0.0), "{young:?}");
}

#[test]
fn tls_handshake_takes_as_long_as_the_client_needs() {
    let folder = tempfile::tempdir().unwrap();
    let certificate = Certificate::make(folder.path(), "a");
    let server = Server::with(&certificate.config(), &["--listen", "127.0.0.1:0 tls"]);
    let stream = connect(tls_addr(&server));
    server.await_metric("fanfare_conns", 1.0);
    let accepted = Instant::now();
    let pause = Duration::from_millis(100);
    within("the client", || (accepted.elapsed() > pause).then_some(()));
    let mut client = secured_over(stream, &certificate.trusting());
    client.conn.complete_io(&mut client.sock).unwrap();
    let name = "fanfare_tls_handshake_seconds";
    server.await_metric(&format!("{name}_count"), 1.0);
    let took = sum(&server, name);
    assert!((pause.as_secs_f64()..EVENT_S_MAX).contains(&took), "{took}");
    assert_eq!(server.metric("fanfare_tls_handshakes_total"), 1.0);
}
