//! Tests of polls with bytes and times as input. The tests take the role of the worker.

use std::sync::Arc;
use std::time::Duration;

use super::super::*;
use super::{Rig, cursor, text};
use crate::context::ReconnectDelay;
use crate::frame::{Compressor, Encoded, Envelope, Payload, Publication};
use crate::hub::{Gap, GapCause};
use crate::id::{ChannelName, Cursor};
use crate::time::Deadline;
use crate::transport::poll_answer::News;

const HEAD: &str = " HTTP/1.1\r\nHost: a\r\n";
const PAGE: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

fn poll(query: &str, fields: &str) -> Vec<u8> {
    format!("GET /poll?channel=c&{query}{HEAD}{fields}\r\n").into_bytes()
}

fn publication(sequence: u64, json: &str, envelope: Envelope) -> Encoded {
    let channel = ChannelName::new("c").unwrap();
    let payload = Payload::Json(json.into());
    let publication = Publication::new(cursor(sequence), channel, payload, Now(0), &Arc::default());
    let kind = FrameKind::Poll(envelope);
    let frames = publication.frames();
    let frame = frames.encode(&publication, kind, &mut Compressor::default());
    assert!(frame.is_some());
    let id = publication.id;
    Encoded { id, kind, frames }
}

fn nothing(position: u64) -> News {
    News {
        gaps: Vec::new(),
        publications: Vec::new(),
        position: cursor(position),
        is_unmoved: false,
    }
}

fn something(sequence: u64) -> News {
    News {
        publications: vec![publication(sequence, "1", Envelope::Full)],
        ..nothing(sequence)
    }
}

impl Rig {
    /// Makes a conn with a poll that waits.
    fn waiting(request: &[u8]) -> Self {
        let mut rig = Self::new();
        rig.feed(request);
        rig.join();
        assert!(!rig.wants_answer(), "it waits");
        assert!(rig.conn.outbox().is_empty());
        assert_eq!(rig.metrics.long_poll_open.value(), 1);
        rig
    }

    /// Removes each [`Effect::Answer`] from the list of effects. Returns the `since` of the first,
    /// or `None` if the list has no such effect.
    fn take_answer(&mut self) -> Option<Option<Cursor>> {
        let found = self.effects.iter().find_map(|effect| {
            if let Effect::Answer { since, .. } = effect {
                Some(*since)
            } else {
                None
            }
        });
        self.effects
            .retain(|effect| !matches!(effect, Effect::Answer { .. }));
        found
    }

    fn wants_answer(&mut self) -> bool {
        self.take_answer().is_some()
    }

    fn answer(&mut self, news: News) {
        self.call(|conn, out, context| conn.handle_answer(news, out, context));
        assert!(
            self.conn.serving().is_none(),
            "it is no subscriber any more"
        );
        assert!(
            self.effects
                .contains(&Effect::LeaveAll { is_stream: false })
        );
        assert_eq!(self.metrics.long_poll_open.value(), 0);
    }

    fn eof(&mut self) -> bool {
        self.call(|conn, out, context| conn.handle_eof(out, context))
    }

    fn armed(&self) -> Deadline {
        let armed = self.effects.iter().rev().find_map(|effect| {
            if let Effect::SetTimer(deadline) = effect {
                Some(*deadline)
            } else {
                None
            }
        });
        armed.expect("armed")
    }
}

/// Splits a complete response into its head and its content.
fn parts(response: &[u8]) -> (String, String) {
    let response = text(response);
    let (head, content) = response.split_once("\r\n\r\n").expect("a head");
    if let Some((_, length)) = head.split_once("Content-Length: ") {
        let length = length.split("\r\n").next().unwrap();
        assert_eq!(length.parse(), Ok(content.len()));
    }
    (head.to_owned(), content.to_owned())
}

#[test]
fn answer_has_its_publications_in_order_and_its_length_in_its_head() {
    for (envelope, word, list) in [
        (
            Envelope::Full,
            "full",
            "{\"channel\":\"c\",\"id\":\"000000000001-10\",\"data\":[1]},\
             {\"channel\":\"c\",\"id\":\"000000000001-12\",\"data\":2}",
        ),
        (Envelope::Data, "data", "[1],2"),
    ] {
        let query = format!("since=000000000001-9&envelope={word}");
        let mut rig = Rig::waiting(&poll(&query, ""));
        rig.answer(News {
            publications: vec![
                publication(10, "[1]", envelope),
                publication(12, "2", envelope),
            ],
            ..nothing(12)
        });
        let (head, content) = parts(&rig.drain());
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        for field in [
            "ETag: \"000000000001-12\"",
            "Content-Type: application/json",
            "Cache-Control: no-cache",
            "Vary: Origin",
            "Connection: keep-alive",
        ] {
            assert!(head.contains(&format!("\r\n{field}")), "{field}: {head}");
        }
        assert!(!head.contains("Fanfare-Gap: "));
        let expected =
            format!("{{\"id\":\"000000000001-12\",\"gap\":false,\"publications\":[{list}]}}");
        assert_eq!(content, expected);
        assert_eq!(rig.metrics.polls_with_news.value(), 1);
    }
}

#[test]
fn answer_has_every_gap_before_its_publications() {
    let mut rig = Rig::waiting(&poll("since=nonsense", ""));
    let gap = Gap {
        since: None,
        until: cursor(9),
        missed: None,
        cause: GapCause::Restart,
    };
    let channel = ChannelName::new("c").unwrap();
    rig.answer(News {
        gaps: vec![(channel.clone(), gap), (channel, gap)],
        ..something(10)
    });
    let (head, content) = parts(&rig.drain());
    assert!(head.contains("\r\nFanfare-Gap: 1\r\n"));
    let json: serde_json::Value = serde_json::from_str(&content).unwrap();
    assert_eq!(json["gap"], true);
    assert_eq!(json["gaps"].as_array().unwrap().len(), 2);
    assert_eq!(json["gaps"][1]["cause"], "restart");
    assert_eq!(json["publications"].as_array().unwrap().len(), 1);
    assert_eq!(rig.metrics.gaps.value(), 2);
}

#[test]
fn poll_without_a_position_does_not_wait() {
    for query in ["", "timeout=0", "since=&timeout=9"] {
        let mut rig = Rig::new();
        rig.feed(&poll(query, ""));
        rig.join();
        assert!(rig.wants_answer(), "{query}");
    }
}

#[test]
fn short_poll_asks_to_keep_its_position() {
    for (since, stays) in [("000000000001-4", cursor(4)), ("", cursor(9))] {
        let mut rig = Rig::new();
        rig.feed(&poll(&format!("timeout=0&since={since}"), ""));
        rig.join();
        assert_eq!(rig.take_answer(), Some(Some(stays)));
    }
    let mut rig = Rig::new();
    rig.feed(&poll("timeout=0&since=nonsense", ""));
    rig.join();
    assert_eq!(rig.take_answer(), Some(None));
}

#[test]
fn short_poll_of_a_client_that_has_the_answer_is_not_modified() {
    for (tags, is_unmoved, status) in [
        ("\"000000000001-4\"", true, 304),
        ("W/\"000000000001-4\"", true, 304),
        ("*", true, 304),
        ("\"x\", \"000000000001-4\"", true, 304),
        ("\"000000000001-5\"", true, 200),
        ("\"000000000001-4\"", false, 200),
    ] {
        let mut rig = Rig::new();
        let field = format!("If-None-Match: {tags}\r\n");
        rig.feed(&poll("timeout=0&since=000000000001-4", &field));
        rig.join();
        assert!(rig.wants_answer());
        rig.answer(News {
            is_unmoved,
            ..nothing(4)
        });
        let response = rig.drain();
        let (head, content) = parts(&response);
        assert!(
            head.starts_with(&format!("HTTP/1.1 {status} ")),
            "{tags}: {head}"
        );
        assert!(head.contains("\r\nETag: \"000000000001-4\"\r\n"));
        assert_eq!(content.is_empty(), status == 304);
        let counted = rig.metrics.polls_not_modified.value();
        assert_eq!(counted, u64::from(status == 304));
    }
}

#[test]
fn answer_names_the_listed_origin_of_the_request() {
    const NAMED: &str = "\r\nVary: Origin\r\n\
                         Access-Control-Allow-Origin: https://a.example\r\n\
                         Access-Control-Allow-Credentials: true\r\n\
                         Access-Control-Expose-Headers: ETag, Fanfare-Gap, Retry-After\r\n";
    let tag = "If-None-Match: \"000000000001-4\"\r\n";
    for (origin, is_named) in [("https://a.example", true), ("https://b.example", false)] {
        let fields = format!("{tag}Origin: {origin}\r\n");
        let mut rig = Rig::new();
        rig.config.browser.origins = vec!["https://a.example".into()];
        rig.feed(&poll("timeout=0&since=000000000001-4", &fields));
        rig.join();
        assert!(rig.wants_answer());
        rig.answer(News {
            is_unmoved: true,
            ..nothing(4)
        });
        let (head, _) = parts(&rig.drain());
        assert!(head.starts_with("HTTP/1.1 304 "), "{head}");
        assert_eq!(head.contains(NAMED), is_named, "{head}");
        assert_eq!(head.contains("Access-Control"), is_named, "{head}");
        assert!(head.contains("\r\nVary: Origin\r\n"), "{head}");
    }
}

#[test]
fn long_poll_is_answered_after_its_timeout_without_news() {
    let request = poll(
        "since=000000000001-9&timeout=7",
        "If-None-Match: \"000000000001-9\"\r\n",
    );
    let mut rig = Rig::waiting(&request);
    assert_eq!(rig.armed(), Now(0).after(Duration::from_secs(7)));
    rig.time_out(SendState::CaughtUp);
    assert!(rig.wants_answer());
    rig.answer(nothing(9));
    let (head, content) = parts(&rig.drain());
    assert!(head.starts_with("HTTP/1.1 200 "));
    let expected = "{\"id\":\"000000000001-9\",\"gap\":false,\"publications\":[]}";
    assert_eq!(content, expected);
    assert_eq!(rig.metrics.polls_without_news.value(), 1);
}

#[test]
fn timeout_is_thirty_seconds_by_default_and_bounded_by_the_limit() {
    for (query, limit_ms, expected_ms) in [
        ("", 120_000, 30_000),
        ("timeout=60", 120_000, 60_000),
        ("timeout=1000", 120_000, 120_000),
        ("timeout=99999999999999999999999", 120_000, 120_000),
        ("", 500, 500),
    ] {
        let mut rig = Rig::new();
        rig.config.limits.poll_timeout_ms = limit_ms;
        rig.feed(&poll(&format!("since=000000000001-9&{query}"), ""));
        let expected = Now(0).after(Duration::from_millis(expected_ms));
        assert_eq!(rig.armed(), expected, "{query}");
    }
}

#[test]
fn requests_after_a_poll_wait_for_its_answer_at_every_cut() {
    let mut all = poll("since=000000000001-9", "");
    let first = all.len();
    all.extend(poll("since=000000000001-10", ""));
    all.extend(PAGE);
    for cut in first..=all.len() {
        let mut rig = Rig::new();
        rig.feed(&all[..first]);
        rig.join();
        for piece in [&all[first..cut], &all[cut..]] {
            rig.feed(piece);
        }
        let kept = all.len() - first;
        assert_eq!(rig.conn.read_bytes_max(8192), 8192 - kept);
        assert_eq!(rig.conn.read_bytes_max(10), 0);
        rig.answer(something(10));
        assert_eq!(rig.conn.read_bytes_max(8192), 0, "it reads first");
        let (_, content) = parts(&rig.drain());
        assert!(content.contains("\"000000000001-10\""));
        rig.join();
        assert!(!rig.wants_answer(), "the next one waits");
        rig.answer(nothing(10));
        assert!(text(&rig.drain()).starts_with("HTTP/1.1 200 "));
        assert!(text(&rig.drain()).contains("text/html"));
        assert_eq!(rig.metrics.requests.value(), 3);
    }
}

#[test]
fn poll_read_byte_by_byte_waits_like_one_read_whole() {
    let request = poll("since=000000000001-9", "");
    let mut rig = Rig::new();
    for byte in &request {
        assert!(rig.conn.serving().is_none());
        rig.feed(&[*byte]);
    }
    rig.join();
    rig.answer(something(10));
    assert!(text(&rig.drain()).starts_with("HTTP/1.1 200 "));
}

#[test]
fn poll_of_a_half_closed_client_is_answered_at_once_and_ends_the_conn() {
    let mut rig = Rig::waiting(&poll("since=000000000001-9", ""));
    assert!(rig.eof(), "the end is handled again");
    assert!(rig.wants_answer());
    rig.answer(nothing(9));
    assert!(rig.conn.is_ending());
    assert!(!rig.eof());
    let (head, _) = parts(&rig.drain());
    assert!(head.contains("\r\nConnection: close"));
    assert!(rig.effects.contains(&Effect::ShutdownWrite));
    assert_eq!(rig.closed(), Some(CloseReason::Done));
}

#[test]
fn all_requests_of_a_half_closed_client_are_answered() {
    let mut all = poll("since=000000000001-9", "");
    all.extend(poll("since=000000000001-9", ""));
    let mut rig = Rig::waiting(&all);
    for is_last in [false, true] {
        assert!(rig.eof());
        assert!(rig.wants_answer());
        rig.answer(nothing(9));
        let (head, _) = parts(&rig.drain());
        let connection = if is_last { "close" } else { "keep-alive" };
        assert!(
            head.contains(&format!("\r\nConnection: {connection}")),
            "{head}"
        );
        if !is_last {
            rig.join();
        }
    }
    assert!(!rig.eof());
    assert_eq!(rig.closed(), Some(CloseReason::Done));
}

#[test]
fn conn_without_keep_alive_ends_after_the_answer() {
    for request in [
        poll("since=000000000001-9", "Connection: close\r\n"),
        b"GET /poll?channel=c&since=000000000001-9 HTTP/1.0\r\n\r\n".to_vec(),
    ] {
        let mut rig = Rig::waiting(&request);
        rig.answer(something(10));
        let (head, _) = parts(&rig.drain());
        assert!(head.contains("\r\nConnection: close"));
        assert!(rig.effects.contains(&Effect::ShutdownWrite));
        rig.eof();
        assert_eq!(rig.closed(), Some(CloseReason::Done));
    }
}

#[test]
fn shutdown_answers_a_waiting_poll() {
    let mut rig = Rig::waiting(&poll("since=000000000001-9", ""));
    let rest = Duration::from_secs(10);
    rig.drain = Some(ReconnectDelay::after_drain(rest, Duration::ZERO));
    rig.call(|conn, out, context| conn.handle_shutdown(out, context));
    assert!(rig.wants_answer());
    rig.answer(nothing(9));
    let (head, content) = parts(&rig.drain());
    assert!(head.contains("\r\nConnection: close"));
    assert!(head.contains("\r\nRetry-After: 11\r\n"), "{head}");
    assert!(content.contains("\"id\":\"000000000001-9\""));
    rig.eof();
    assert_eq!(rig.closed(), Some(CloseReason::Shutdown));
}

#[test]
fn slow_reader_of_an_answer_has_two_heartbeats_for_each_piece() {
    for (fields, reason) in [
        ("", CloseReason::Idle),
        ("Connection: close\r\n", CloseReason::Done),
    ] {
        let mut rig = Rig::waiting(&poll("since=000000000001-9", fields));
        rig.answer(something(10));
        assert_eq!(
            rig.armed(),
            Now(0).after(rig.config.heartbeat.interval() * 2)
        );
        for _ in 0..5 {
            rig.pass(1);
            assert_eq!(rig.conn.outbox_mut().drain(1).left, 0);
            rig.call(|conn, _, context| conn.handle_written(context.now, false));
            rig.pass(1);
            rig.time_out(SendState::Blocked);
            assert_eq!(rig.closed(), None);
        }
        rig.pass(1);
        rig.time_out(SendState::Blocked);
        assert_eq!(rig.closed(), Some(reason));
    }
}

#[test]
fn timer_of_the_next_request_starts_when_the_answer_is_written() {
    let mut rig = Rig::waiting(&poll("since=000000000001-9", ""));
    rig.answer(something(10));
    rig.pass(1);
    rig.drain();
    let expected = Now(25_000_000).after(rig.config.limits.request_head());
    assert_eq!(rig.armed(), expected);
    rig.time_out(SendState::CaughtUp);
    assert_eq!(rig.closed(), Some(CloseReason::Done));
}
