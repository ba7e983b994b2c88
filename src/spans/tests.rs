//! Tests of sampling, of the queue, and of the encoding.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, bounded};
use serde_json::{Value, json};

use super::encode::{self, Calendar};
use super::*;
use crate::frame::{Payload, Publication};
use crate::id::{ChannelName, ConnName, Cursor, Epoch, RunId, Sequence};
use crate::logs::capture::logged;
use crate::sys::clock::Clock;
use crate::time::Now;

const SAMPLED: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

fn tracer(sample: f64, room: usize) -> (Tracer, Receiver<EndedSpan>) {
    let (queue, spans) = bounded(room);
    let config = Tracing {
        sample: Share::try_from(sample).unwrap(),
        client_spans_per_second: 2,
        ..Tracing::default()
    };
    (Tracer::new(&config, queue, Arc::default()), spans)
}

fn parent(text: &str) -> TraceParent {
    text.parse().unwrap()
}

fn publication() -> Publication {
    let id = Cursor {
        epoch: Epoch::new(1),
        sequence: Sequence(7),
    };
    let channel = ChannelName::new("a\"b").unwrap();
    let payload = Payload::Text("secret".into());
    Publication::new(id, channel, payload, Now(10), &Arc::default())
}

fn encoded(spans: &[EndedSpan]) -> Value {
    let calendar = Calendar {
        unix_us: 1_000_000,
        now: Now(100),
    };
    let json = encode::batch(spans, calendar);
    assert!(!json.contains(&b'\n'));
    serde_json::from_slice(&json).unwrap()
}

fn spans_of(request: &Value) -> &Vec<Value> {
    let scope = &request["resourceSpans"][0]["scopeSpans"][0];
    assert_eq!(scope["scope"]["name"], "fanfare");
    scope["spans"].as_array().unwrap()
}

fn attribute(span: &Value, key: &str) -> Value {
    let all = span["attributes"].as_array().unwrap();
    let found = all.iter().find(|attribute| attribute["key"] == key);
    found.map_or(Value::Null, |attribute| attribute["value"].clone())
}

#[test]
fn flag_of_the_parent_decides_and_otherwise_the_sample() {
    let (none, _) = tracer(0.0, 1);
    let (all, _) = tracer(1.0, 1);
    let sampled = parent(SAMPLED);
    let unsampled = parent(&SAMPLED.replace("-01", "-00"));
    for tracer in [&none, &all] {
        let context = tracer.sample(Some(&sampled)).unwrap();
        assert_eq!(context.trace, sampled.trace());
        assert_eq!(context.parent, Some(sampled.span()));
        assert_ne!(context.span, sampled.span());
        assert_eq!(tracer.sample(Some(&unsampled)), None);
    }
    assert_eq!(none.sample(None), None);
    let (first, second) = (all.sample(None).unwrap(), all.sample(None).unwrap());
    assert_eq!(first.parent, None);
    assert_ne!(first.trace, second.trace);
}

#[test]
fn sampled_flags_of_clients_are_followed_up_to_a_number_per_second() {
    let (none, _) = tracer(0.0, 1);
    let (all, _) = tracer(1.0, 1);
    let sampled = parent(SAMPLED);
    let unsampled = parent(&SAMPLED.replace("-01", "-00"));
    let worker = none.clone();
    for second in 1..3 {
        let now = Now(second * 1_000_000);
        let followed = [&none, &worker, &none, &worker]
            .map(|tracer| tracer.sample_for_client(Some(&sampled), now));
        let is_followed = followed.map(|context| context.is_some());
        assert_eq!(is_followed, [true, true, false, false], "{second}");
        assert_eq!(followed[0].unwrap().parent, Some(sampled.span()));
        // The feed is trusted.
        assert!(none.sample(Some(&sampled)).is_some());
        assert_eq!(none.sample_for_client(None, now), None);
        // Beyond the limit, the sample decides. A client can still turn its spans off.
        for _ in 0..4 {
            let context = all.sample_for_client(Some(&sampled), now).unwrap();
            assert_eq!(context.trace, sampled.trace());
            assert_eq!(all.sample_for_client(Some(&unsampled), now), None);
        }
    }
}

#[test]
fn span_without_room_in_the_queue_is_dropped_and_counted() {
    let (tracer, spans) = tracer(1.0, 1);
    for _ in 0..3 {
        let context = tracer.sample(None).unwrap();
        drop(PublicationSpan::begin(
            &tracer,
            context,
            &publication(),
            Now(1),
            Now(2),
        ));
    }
    assert_eq!(spans.len(), 1);
    let count = |number: &AtomicU64| number.load(Ordering::Relaxed);
    let metrics = tracer.metrics();
    assert_eq!(
        (count(&metrics.queue_full), count(&metrics.stopped)),
        (2, 0)
    );
    assert_eq!(metrics.unfinished(1), 1);
    // A queue whose exporter has ended drops spans, too.
    drop(spans);
    let context = tracer.sample(None).unwrap();
    drop(PublicationSpan::begin(
        &tracer,
        context,
        &publication(),
        Now(1),
        Now(2),
    ));
    assert_eq!(
        (count(&metrics.queue_full), count(&metrics.stopped)),
        (2, 1)
    );
}

#[test]
fn span_of_a_publication_has_a_child_for_each_stage() {
    let (tracer, spans) = tracer(0.0, 1);
    let context = tracer.sample(Some(&parent(SAMPLED))).unwrap();
    let span = PublicationSpan::begin(&tracer, context, &publication(), Now(10), Now(20));
    let worker = Arc::clone(&span);
    span.note_posted(Now(40));
    drop(span);
    assert!(spans.is_empty(), "a worker has it");
    worker.note_subscribers(3);
    for (first, last) in [(60, 70), (50, 90)] {
        worker.note_first(Now(first));
        worker.note_last(Now(last));
    }
    drop(worker);
    let request = encoded(&[spans.try_recv().unwrap()]);
    let all = spans_of(&request);
    let root = &all[0];
    assert_eq!(root["traceId"], "4bf92f3577b34da6a3ce929d0e0e4736");
    assert_eq!(root["parentSpanId"], "00f067aa0ba902b7");
    assert_eq!((&root["kind"], &root["flags"]), (&json!(5), &json!(0x301)));
    assert_eq!(
        attribute(root, "messaging.destination.name"),
        json!({"stringValue": "a\"b"})
    );
    assert_eq!(
        attribute(root, "messaging.message.id"),
        json!({"stringValue": "000000000001-7"})
    );
    assert_eq!(
        attribute(root, "messaging.message.body.size"),
        json!({"intValue": "6"})
    );
    assert_eq!(
        attribute(root, "fanfare.subscribers"),
        json!({"intValue": "3"})
    );
    let times = |span: &Value| {
        let us = |key: &str| span[key].as_str().unwrap().parse::<u64>().unwrap() / 1000;
        (us("startTimeUnixNano"), us("endTimeUnixNano"))
    };
    let stages: Vec<_> = all
        .iter()
        .map(|span| (span["name"].as_str().unwrap(), times(span)))
        .collect();
    let at = |us: u64| 1_000_000 + us - 100;
    assert_eq!(
        stages,
        [
            ("publication", (at(10), at(90))),
            ("feed", (at(10), at(20))),
            ("log", (at(20), at(40))),
            ("first_subscriber", (at(20), at(50))),
            ("last_subscriber", (at(20), at(90))),
        ]
    );
    for child in &all[1..] {
        assert_eq!(child["parentSpanId"], root["spanId"]);
        assert_eq!(child["traceId"], root["traceId"]);
    }
    assert!(!request.to_string().contains("secret"), "{request}");
}

#[test]
fn publication_without_subscribers_ends_in_the_log_and_a_refused_one_with_an_error() {
    let (tracer, spans) = tracer(1.0, 2);
    for posted in [Some(Now(40)), None] {
        let context = tracer.sample(None).unwrap();
        let span = PublicationSpan::begin(&tracer, context, &publication(), Now(10), Now(20));
        if let Some(now) = posted {
            span.note_posted(now);
        }
    }
    let request = encoded(&spans.try_iter().collect::<Vec<_>>());
    let all = spans_of(&request);
    let names: Vec<_> = all.iter().map(|span| &span["name"]).collect();
    assert_eq!(names, ["publication", "feed", "log", "publication", "feed"]);
    assert_eq!(all[0]["parentSpanId"], "");
    assert_eq!(all[0]["status"], Value::Null);
    assert_eq!(all[3]["status"]["code"], 2);
}

#[test]
fn span_of_a_connection_has_the_values_of_the_access_log() {
    let (tracer, spans) = tracer(1.0, 1);
    tracer.end_connection(Box::new(ConnectionSpan {
        context: tracer.sample(None).unwrap(),
        begun: Now(200),
        ended: Now(150),
        peer: Some("[2001:db8::1]:5".parse().unwrap()),
        client: None,
        connection: ConnName {
            run: RunId(1),
            worker: 2,
            slot: 3,
            serial: 4,
        },
        transport: Some("websocket"),
        path: Some("/ws?channel=a".into()),
        status: Some(101),
        close_code: Some(1001),
        reason: Some("peer_gone"),
        publications: 7,
        bytes: 900,
        sub: None,
    }));
    let request = encoded(&[spans.try_recv().unwrap()]);
    let span = &spans_of(&request)[0];
    assert_eq!(span["startTimeUnixNano"], span["endTimeUnixNano"]);
    for (key, value) in [
        (
            "network.peer.address",
            json!({"stringValue": "2001:db8::1"}),
        ),
        ("network.peer.port", json!({"intValue": "5"})),
        ("fanfare.transport", json!({"stringValue": "websocket"})),
        ("url.path", json!({"stringValue": "/ws"})),
        ("url.query", json!({"stringValue": "channel=a"})),
        ("http.response.status_code", json!({"intValue": "101"})),
        ("fanfare.close_reason", json!({"stringValue": "peer_gone"})),
        ("fanfare.close_code", json!({"intValue": "1001"})),
        ("fanfare.publications", json!({"intValue": "7"})),
        ("fanfare.bytes", json!({"intValue": "900"})),
        ("enduser.id", Value::Null),
    ] {
        assert_eq!(attribute(span, key), value, "{key}");
    }
}

#[test]
fn exporter_writes_what_is_queued_when_it_stops() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("spans.json");
    let config = Tracing {
        file: file.clone(),
        sample: Share::WHOLE,
        ..Tracing::default()
    };
    assert!(
        Exporter::start(&Tracing::default(), Clock::start())
            .unwrap()
            .is_none()
    );
    let (tracer, exporter) = Exporter::start(&config, Clock::start()).unwrap().unwrap();
    for _ in 0..3 {
        let context = tracer.sample(None).unwrap();
        drop(PublicationSpan::begin(
            &tracer,
            context,
            &publication(),
            Now(1),
            Now(2),
        ));
    }
    drop(exporter);
    let text = std::fs::read_to_string(&file).unwrap();
    let requests = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    let count: usize = requests.map(|request| spans_of(&request).len()).sum();
    assert_eq!(count, 3 * 2);
    assert_eq!(tracer.metrics().written.load(Ordering::Relaxed), 3);
    let missing = Tracing {
        file: folder.path().join("no/such/folder"),
        ..config
    };
    let error = Exporter::start(&missing, Clock::start()).unwrap_err();
    assert!(error.to_string().contains("`tracing.file`"), "{error}");
}

#[test]
fn exporter_waits_a_bounded_time_for_a_collector_when_it_stops() {
    // Connections to this listener are established, but nothing answers.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let config = Tracing {
        endpoint: format!("http://{}", listener.local_addr().unwrap()),
        sample: Share::WHOLE,
        ..Tracing::default()
    };
    let (tracer, exporter) = Exporter::start(&config, Clock::start()).unwrap().unwrap();
    for _ in 0..3 {
        let context = tracer.sample(None).unwrap();
        drop(PublicationSpan::begin(
            &tracer,
            context,
            &publication(),
            Now(1),
            Now(2),
        ));
    }
    let begun = std::time::Instant::now();
    let logged = logged(|| drop(exporter));
    assert!(
        begun.elapsed() < Duration::from_secs(8),
        "{:?}",
        begun.elapsed()
    );
    // Nothing is lost silently.
    let lost = tracer.metrics().stopped.load(Ordering::Relaxed);
    assert_eq!(lost, 3);
    assert!(logged.contains("3 spans are lost at the end"), "{logged}");
}
