//! The figures of `/metrics` that are measured or read at a scrape: histograms count each event
//! once, in base units; the process, limits, certificates, reloads, journal and namespaces.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant, SystemTime};

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
    assert_eq!(names.len(), 8, "{names:?}");
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

fn now_s() -> f64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap().as_secs_f64()
}

#[test]
fn process_is_shown_under_the_standard_names() {
    // The kernel rounds the start of a process down to a tick of at most 10 ms.
    let begun = (now_s() - 0.01).floor();
    let server = Server::with("", &["--workers", "2"]);
    let metric = |name: &str| server.metric(&format!("process_{name}"));
    let started = metric("start_time_seconds");
    assert!((begun..=now_s()).contains(&started), "{started}");
    let cpu = metric("cpu_seconds_total");
    within("more processor time", || {
        (metric("cpu_seconds_total") > cpu).then_some(())
    });
    assert!(metric("threads") >= 5.0);
    assert!(metric("virtual_memory_bytes") > metric("resident_memory_bytes"));
    assert!(metric("virtual_memory_max_bytes") > metric("virtual_memory_bytes"));
    let limits = fs::read_to_string(format!("/proc/{}/limits", server.process().0)).unwrap();
    let limit = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"));
    let soft = limit.unwrap().split_whitespace().next().unwrap();
    assert_eq!(metric("max_fds"), soft.parse::<f64>().unwrap());
    let before = metric("open_fds");
    let held: Vec<_> = (0..100).map(|_| connect(server.addr)).collect();
    // Two workers share the connections, so one of them has at least half.
    within("descriptors", || (metric("open_fds") >= 50.0).then_some(()));
    drop(held);
    within("free descriptors", || {
        (metric("open_fds") <= before + 10.0).then_some(())
    });
}

#[test]
fn limits_are_shown_beside_what_they_limit() {
    let config = "[limits]\nconns = 123\nchannels = 45\npending_conns = 67\n\
        [log]\nbytes = 8000000\nentries = 90\n";
    let server = Server::with(config, &["--workers", "2"]);
    for (name, value) in [
        ("fanfare_conns_limit", 123.0),
        ("fanfare_channels_limit", 45.0),
        ("fanfare_conns_pending_limit", 67.0),
        ("fanfare_log_limit_bytes", 8_000_000.0),
        ("fanfare_log_entries_limit", 90.0),
        ("fanfare_feeders_limit", 1024.0),
    ] {
        assert_eq!(server.metric(name), value, "{name}");
    }
    let free = Server::with("", &["--workers", "2"]);
    let descriptors = free.metric("process_max_fds");
    let conns = free.metric("fanfare_conns_limit");
    assert!(
        conns > 0.0 && conns < 2.0 * descriptors,
        "{conns}, {descriptors}"
    );
}

#[test]
fn publications_and_subscribers_are_counted_by_namespace() {
    let folder = tempfile::tempdir().unwrap();
    let config = format!(
        "[journal]\npath = {:?}\n[[namespace]]\nmatch = \"chat:*\"\n\
         [[namespace]]\nmatch = \"a\\\"b\"\n",
        folder.path().join("journal")
    );
    let published = |server: &Server, namespace: &str| {
        let name = "fanfare_namespace_publications_total";
        server.metric(&format!("{name}{{namespace=\"{namespace}\"}}"))
    };
    let server = Server::with(&config, &["--workers", "2"]);
    let sockets: Vec<Socket> = (0..5)
        .map(|_| Socket::subscribed(server.addr, "channel=chat:1&channel=chat:2&channel=x"))
        .collect();
    let mut feeder = Feeder::connect(&server.feed);
    for channel in ["chat:1", "chat:1", "chat:9", "x", "a\"b"] {
        feeder.publish(channel, 1);
    }
    let subscribers =
        |namespace| format!("fanfare_namespace_subscribers{{namespace=\"{namespace}\"}}");
    let expected = [
        ("chat:*", 3.0, 10.0),
        ("(no namespace)", 1.0, 5.0),
        ("a\\\"b", 1.0, 0.0),
    ];
    for (namespace, publications, subscriptions) in expected {
        assert_eq!(published(&server, namespace), publications, "{namespace}");
        server.await_metric(&subscribers(namespace), subscriptions);
    }
    drop(sockets);
    server.await_metric(&subscribers("chat:*"), 0.0);
    server.await_metric(&subscribers("(no namespace)"), 0.0);
    drop(server);
    // Publications of the journal belong to the earlier run.
    let server = Server::with(&config, &[]);
    server.await_metric("fanfare_log_entries", 5.0);
    assert_eq!(published(&server, "chat:*"), 0.0);
    Feeder::connect(&server.feed).publish("chat:1", 1);
    assert_eq!(published(&server, "chat:*"), 1.0);
}

#[test]
fn certificate_and_reloads_are_shown() {
    let folder = tempfile::tempdir().unwrap();
    let certificate = Certificate::make(folder.path(), "a");
    let server = Server::with(&certificate.config(), &["--listen", "127.0.0.1:0 tls"]);
    let path = certificate.path.display();
    let name = format!("fanfare_certificate_expiry_timestamp_seconds{{certificate=\"{path}\"}}");
    // The certificates of the tests expire at the beginning of the year 4096.
    assert_eq!(server.metric(&name), 67_090_118_400.0);
    let mut client = secured_over(connect(tls_addr(&server)), &certificate.trusting());
    client.conn.complete_io(&mut client.sock).unwrap();
    let _plain = Socket::subscribed(server.addr, "channel=a");
    server.await_metric("fanfare_tls_conns", 1.0);
    let conns = |listener: String, protocol| {
        format!("fanfare_listener_conns{{listener=\"{listener}\",protocol=\"{protocol}\"}}")
    };
    let plain = conns(server.addr.to_string(), "http");
    let with_tls = conns(format!("{} tls", tls_addr(&server)), "https");
    assert_eq!(server.metric(&plain), 1.0);
    assert_eq!(server.metric(&with_tls), 1.0);
    drop(client);
    server.await_metric(&with_tls, 0.0);
    server.await_metric("fanfare_tls_conns", 0.0);

    let reloads = |outcome| format!("fanfare_reloads_total{{outcome=\"{outcome}\"}}");
    assert_eq!(server.metric("fanfare_reload_timestamp_seconds"), 0.0);
    let begun = now_s().floor();
    server.signal("HUP");
    server.await_metric(&reloads("success"), 1.0);
    assert_eq!(server.metric("fanfare_reload_failed"), 0.0);
    let ended = server.metric("fanfare_reload_timestamp_seconds");
    assert!((begun..=now_s()).contains(&ended), "{ended}");
    fs::write(&certificate.path, "nonsense").unwrap();
    server.signal("HUP");
    server.await_metric(&reloads("failure"), 1.0);
    assert_eq!(server.metric("fanfare_reload_failed"), 1.0);
    assert_eq!(server.metric(&name), 67_090_118_400.0);
    certificate.write_as(&certificate);
    server.signal("HUP");
    server.await_metric(&reloads("success"), 2.0);
    assert_eq!(server.metric("fanfare_reload_failed"), 0.0);
}

#[test]
fn journal_shows_what_is_synced_and_its_size() {
    for (sync, synced) in [("batch", 3.0), ("always", 3.0), ("os", 0.0)] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let config = format!("[journal]\npath = {path:?}\nsync = \"{sync}\"\n");
        let server = Server::with(&config, &[]);
        let mut feeder = Feeder::connect(&server.feed);
        for number in 0..3 {
            feeder.publish("a", number);
        }
        assert_eq!(
            server.metric("fanfare_journal_records_total"),
            3.0,
            "{sync}"
        );
        assert_eq!(
            server.metric("fanfare_journal_synced_total"),
            synced,
            "{sync}"
        );
        let name = "fanfare_journal_commit_seconds";
        assert_eq!(count(&server, name), 3.0, "{sync}");
        assert!(sum(&server, name) > 0.0, "{sync}");
        assert!(server.metric("fanfare_journal_disk_bytes") > 0.0, "{sync}");
    }
}
