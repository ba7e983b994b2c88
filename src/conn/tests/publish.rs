//! Publications over HTTP: content in any number of parts, the outcome, and the requests after it.

use super::super::*;
use super::{Rig, cursor, text};
use crate::backend::PublishOutcome;
use crate::config::{ClientPublish, Namespace};
use crate::effect::{Audience, Reference};

const CHUNKED: &str = "POST /publish?channel=a&dedupe=k HTTP/1.1\r\nHost: a\r\n\
    Transfer-Encoding: chunked\r\n\r\n3;x=y\r\n[1,\r\n2\r\n2]\r\n0\r\nT: v\r\n\r\n";
const PAGE: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

fn counted(fields: &str, content: &str) -> String {
    let length = content.len();
    format!(
        "POST /publish?channel=a&dedupe=k HTTP/1.1\r\nHost: a\r\n{fields}Content-Length: \
         {length}\r\n\r\n{content}"
    )
}

/// Makes a conn whose client may publish to all channels.
fn open() -> Rig {
    let mut rig = Rig::new();
    rig.config.limits.client_message_bytes = 100;
    rig.config.namespace = vec![Namespace {
        pattern: String::from("*"),
        client_publish: Some(ClientPublish::Broadcast),
        ..Namespace::default()
    }];
    rig
}

impl Rig {
    /// Removes and returns the payloads that the conn has published.
    fn published(&mut self) -> Vec<String> {
        let mut payloads = Vec::new();
        self.effects.retain(|effect| {
            let Effect::Publish {
                channel,
                data,
                dedupe,
                reference,
                audience: Audience::Subscribers,
                ..
            } = effect
            else {
                return true;
            };
            assert_eq!((channel.as_str(), dedupe.as_deref()), ("a", Some("k")));
            assert_eq!(*reference, Some(Reference::of_request()));
            payloads.push(data.to_string());
            false
        });
        payloads
    }

    fn reply(&mut self, outcome: PublishOutcome) -> Delivery {
        let reference = Some(Reference::of_request());
        let message = BackendMessage::PublishReply { outcome, reference };
        self.call(|conn, out, context| conn.handle_backend_message(&message, out, context))
    }

    fn response(&mut self) -> String {
        text(&self.drain())
    }
}

#[test]
fn publication_is_the_same_at_every_cut() {
    for request in [CHUNKED, &counted("", "[1,2]")] {
        let bytes = request.as_bytes();
        for cut in 1..bytes.len() {
            let mut rig = open();
            rig.feed(&bytes[..cut]);
            assert_eq!(rig.published(), [""; 0], "too early at {cut}");
            rig.feed(&bytes[cut..]);
            assert_eq!(rig.published(), ["[1,2]"], "{cut}");
            assert!(rig.conn.outbox().is_empty(), "answered before the feed");
            let outcome = PublishOutcome::Broadcast(cursor(7));
            assert_eq!(rig.reply(outcome), Delivery::Done);
            let response = rig.response();
            assert!(response.starts_with("HTTP/1.1 200 OK\r\n"), "{response}");
            let expected = "\r\n\r\n{\"type\":\"ok\",\"id\":\"000000000001-7\"}\n";
            assert!(response.ends_with(expected), "{response}");
            assert_eq!(rig.reply(outcome), Delivery::NoConn, "answered once");
        }
        let mut rig = open();
        for byte in bytes {
            rig.feed(&[*byte]);
        }
        assert_eq!(rig.published(), ["[1,2]"]);
    }
}

#[test]
fn later_requests_wait_for_the_outcome() {
    let mut rig = open();
    rig.feed((CHUNKED.to_owned() + &counted("", "3") + PAGE).as_bytes());
    assert_eq!(rig.published(), ["[1,2]"]);
    rig.reply(PublishOutcome::Consumed);
    assert!(rig.response().ends_with("{\"type\":\"ok\"}\n"));
    assert_eq!(rig.published(), ["3"]);
    assert_eq!(rig.response(), "");
    rig.reply(PublishOutcome::Consumed);
    assert!(rig.response().ends_with("{\"type\":\"ok\"}\n"));
    assert!(rig.response().contains("text/html"));
    assert_eq!(rig.closed(), None);
}

#[test]
fn content_is_asked_for_only_if_the_client_waits() {
    let request = counted("Expect: 100-continue\r\n", "1");
    let (head, content) = request.split_at(request.len() - 1);
    let mut rig = open();
    rig.feed(head.as_bytes());
    assert_eq!(rig.response(), "HTTP/1.1 100 Continue\r\n\r\n");
    rig.feed(content.as_bytes());
    assert_eq!(rig.published(), ["1"]);
    let mut rig = open();
    rig.feed(request.as_bytes());
    assert_eq!(rig.published(), ["1"]);
    assert_eq!(rig.response(), "");
}

#[test]
fn bad_content_is_refused_and_the_conn_stays_open_if_the_end_is_known() {
    let long = format!("\"{}\"", "x".repeat(99));
    let deep = "[".repeat(60) + &"]".repeat(40);
    let cases = [
        (counted("", "{"), "400", "bad_json", true),
        (counted("", ""), "400", "bad_json", true),
        (counted("", "1 2"), "400", "bad_json", true),
        (counted("", &deep), "400", "bad_json", true),
        (counted("", &long), "413", "too_long", false),
        (CHUNKED.replace("3;x=y", "zz"), "400", "bad_chunks", false),
        (CHUNKED.replace("3;x=y", "65;x=y"), "413", "too_long", false),
        (
            CHUNKED.replace("&dedupe=k", "&dedupe="),
            "400",
            "bad_dedupe",
            false,
        ),
        (
            CHUNKED.replace("Host", "Content-Encoding: gzip\r\nHost"),
            "415",
            "content_coding",
            false,
        ),
        (
            CHUNKED.replace("Host", "Origin: http://b\r\nHost"),
            "403",
            "origin_not_allowed",
            false,
        ),
        (
            CHUNKED.replace("?channel", "?channel=b&channel"),
            "400",
            "too_many_channels",
            false,
        ),
        (
            String::from("POST /publish?channel=a HTTP/1.1\r\nHost: a\r\n\r\n"),
            "411",
            "length_required",
            true,
        ),
        (
            String::from("GET /publish?channel=a HTTP/1.1\r\nHost: a\r\n\r\n"),
            "405",
            "method_not_allowed",
            true,
        ),
    ];
    for (request, status, code, stays) in cases {
        let mut rig = open();
        rig.feed((request.clone() + PAGE).as_bytes());
        assert_eq!(rig.published(), [""; 0], "{request}");
        let response = rig.response();
        assert!(
            response.starts_with(&format!("HTTP/1.1 {status} ")),
            "{request} {response}"
        );
        assert!(
            response.contains(&format!("\"code\":\"{code}\"")),
            "{request} {response}"
        );
        let next = rig.response();
        assert_eq!(next.contains("text/html"), stays, "{request} {next}");
        assert_eq!(rig.effects.contains(&Effect::ShutdownWrite), !stays);
    }
}

#[test]
fn outcomes_other_than_success_are_temporary_refusals() {
    for (outcome, code) in [
        (PublishOutcome::Busy, "busy"),
        (PublishOutcome::NoConsumer, "no_consumer"),
        (PublishOutcome::Refused, "unavailable"),
        (PublishOutcome::Unsynced, "journal_unsynced"),
    ] {
        let mut rig = open();
        rig.feed(CHUNKED.as_bytes());
        rig.reply(outcome);
        let response = rig.response();
        assert!(response.starts_with("HTTP/1.1 503 "), "{response}");
        assert!(response.contains("\r\nRetry-After: "), "{response}");
        assert!(response.contains(&format!("\"code\":\"{code}\"")));
        assert_eq!(rig.metrics.requests_refused.value(), 1);
    }
}

#[test]
fn incomplete_content_has_a_deadline_and_a_waiting_publication_has_none() {
    let (start, end) = CHUNKED.split_at(CHUNKED.len() - 4);
    let mut rig = open();
    rig.feed(start.as_bytes());
    rig.time_out(SendState::CaughtUp);
    assert!(rig.response().starts_with("HTTP/1.1 408 "));

    let mut rig = open();
    rig.feed(start.as_bytes());
    rig.feed(end.as_bytes());
    for _ in 0..3 {
        rig.pass(1);
        rig.time_out(SendState::CaughtUp);
    }
    let is_early = rig.call(|conn, out, context| conn.handle_eof(out, context));
    assert!(is_early, "the end of the input is handled after the answer");
    assert_eq!(rig.closed(), None);
    rig.reply(PublishOutcome::Consumed);
    rig.call(|conn, out, context| conn.handle_eof(out, context));
    assert!(rig.response().starts_with("HTTP/1.1 200 "));
}

#[test]
fn stop_refuses_incomplete_content_and_waits_for_an_outcome() {
    let mut rig = open();
    rig.feed(&CHUNKED.as_bytes()[..CHUNKED.len() - 1]);
    rig.call(Conn::handle_shutdown);
    let response = rig.response();
    assert!(response.starts_with("HTTP/1.1 503 "), "{response}");
    assert!(response.contains("\"code\":\"restarting\""), "{response}");

    let mut rig = open();
    rig.feed(CHUNKED.as_bytes());
    rig.call(Conn::handle_shutdown);
    assert_eq!(rig.response(), "");
    rig.reply(PublishOutcome::Consumed);
    let response = rig.response();
    assert!(response.contains("\r\nConnection: close\r\n"), "{response}");
    assert!(rig.effects.contains(&Effect::ShutdownWrite));
}
