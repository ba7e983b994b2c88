//! HTTP/1.1 on the feed (RFC 9112): heads, framing of bodies, and one [`Request`] for each request.
//!
//! This module performs no I/O. [`http::head`] parses heads, as strictly as heads from clients.
//! This file contains the parts that only the feed needs: `POST /publish` and request bodies. The
//! head determines whether a request can be served. The body of a refused request is skipped, so
//! that the next request is found. If the end of a body is uncertain, the connection is closed
//! after the response. [`super::http_publish`] decodes the publications in a body.

use super::draft::NameCache;
use super::http_publish::PublishPlan;
use super::item::{Item, Request, Step};
use super::request_refusal::RequestRefusal;
use crate::certain;
use crate::config::Limits;
use crate::http::body::{Body, BodyError, Keeping, Progress};
use crate::http::framing::{Expectation, Framing};
use crate::http::head::{Field, Head, HeadRead, Method, Version, read_message_head};
use crate::http::response::Status;
use crate::http::{self, After, Target};

/// Decodes the HTTP requests of one feeder.
#[derive(Debug)]
pub(super) struct Requests {
    /// The request whose body is being received.
    open: Option<Box<Open>>,
    limits: Limits,
}

/// A request whose head was received.
#[derive(Debug)]
struct Open {
    plan: Result<PublishPlan, RequestRefusal>,
    body: Body,
    is_last: bool,
    method: Method,
}

impl Requests {
    pub(super) fn new(limits: Limits) -> Self {
        Self { open: None, limits }
    }

    pub(super) fn is_inside_body(&self) -> bool {
        self.open.is_some()
    }

    pub(super) fn next(&mut self, input: &[u8], names: &mut NameCache) -> Step {
        if self.open.is_some() {
            return self.read_body(input, names);
        }
        let head_bytes_max = self.limits.request_head_bytes as usize;
        let (head_bytes, head) = match read_message_head(input, head_bytes_max) {
            HeadRead::Complete { length, head } => (length, head),
            HeadRead::Incomplete => return Step::more(0),
            HeadRead::Refused(refusal) => return last(input.len(), refusal.into(), Method::Post),
        };
        let wants_continue = wants_continue(&head);
        match open(&head, self.limits.feed_line_bytes as usize, names) {
            Ok(open) => self.open = Some(Box::new(open)),
            Err(refusal) => return last(input.len(), refusal, head.method),
        }
        if wants_continue {
            return Step::item(head_bytes, Item::Continue);
        }
        let step = self.read_body(certain::skip(input, head_bytes), names);
        Step {
            consumed: head_bytes + step.consumed,
            ..step
        }
    }

    fn read_body(&mut self, input: &[u8], names: &mut NameCache) -> Step {
        let Some(mut open) = self.open.take() else {
            debug_assert!(false, "there is no open request");
            return Step::more(0);
        };
        match open.body.take(input) {
            Ok(Progress::Complete(consumed)) => {
                Step::item(consumed, Item::Request(Box::new(open.finish(names))))
            }
            Ok(Progress::More(consumed)) => {
                self.open = Some(open);
                Step::more(consumed)
            }
            Err(error) => {
                let (status, word) = match error {
                    BodyError::Malformed => (Status::BadRequest, "bad_request"),
                    BodyError::TooLarge => (Status::ContentTooLarge, "too_long"),
                };
                let refusal = RequestRefusal::new(status, word, &error.to_string());
                last(input.len(), refusal, open.method)
            }
        }
    }
}

impl Open {
    fn finish(self, names: &mut NameCache) -> Request {
        Request {
            outcome: self
                .plan
                .and_then(|plan| plan.publish(self.body.bytes(), names)),
            is_last: self.is_last,
            method: self.method,
        }
    }
}

/// Returns a refusal after which the connection is closed.
fn last(consumed: usize, refusal: RequestRefusal, method: Method) -> Step {
    let request = Request {
        outcome: Err(refusal),
        is_last: true,
        method,
    };
    Step::item(consumed, Item::Request(Box::new(request)))
}

/// Whether the feeder expects `100 Continue` before it sends the body.
fn wants_continue(head: &Head<'_>) -> bool {
    head.expectation() == Expectation::Continue && head.framing.has_content()
}

/// Checks the head of a request. After an error the connection is closed.
fn open(
    head: &Head<'_>,
    body_bytes_max: usize,
    names: &mut NameCache,
) -> Result<Open, RequestRefusal> {
    if let Some(fault) = head.fault {
        return Err(fault.into());
    }
    if head.expectation() == Expectation::Unknown {
        return Err(http::Refusal::Expectation.into());
    }
    let plan = plan(head, names);
    // A feeder that expects `100 Continue` receives the refusal instead. The connection is then
    // closed, because it is unknown whether the feeder will send the body.
    if let (Err(refusal), true) = (&plan, wants_continue(head)) {
        return Err(refusal.clone());
    }
    let keeping = match &plan {
        Ok(_) => Keeping::Kept,
        Err(_) => Keeping::Skipped,
    };
    let body = match head.framing {
        Framing::Absent => Body::counted(0, keeping),
        Framing::Chunked => Body::chunked(body_bytes_max, keeping),
        Framing::Counted(length) => match usize::try_from(length) {
            Ok(length) if length <= body_bytes_max => Body::counted(length, keeping),
            _ => {
                let detail = format!("a body has at most {body_bytes_max} bytes");
                return Err(RequestRefusal::new(
                    Status::ContentTooLarge,
                    "too_long",
                    &detail,
                ));
            }
        },
    };
    Ok(Open {
        plan,
        body,
        is_last: head.after == After::Close || head.version == Version::Http10,
        method: head.method,
    })
}

fn plan(head: &Head<'_>, names: &mut NameCache) -> Result<PublishPlan, RequestRefusal> {
    let target = Target::parse(head.target)?;
    if target.path != "/publish" {
        return Err(RequestRefusal::new(
            Status::NotFound,
            "not_found",
            "the only path here is /publish",
        ));
    }
    if head.method != Method::Post {
        return Err(RequestRefusal::new(
            Status::MethodNotAllowed,
            "method_not_allowed",
            "the only method of this path is POST",
        ));
    }
    if head.framing == Framing::Absent {
        return Err(RequestRefusal::new(
            Status::LengthRequired,
            "length_required",
            "the request needs a body: Content-Length or chunked",
        ));
    }
    check_content_coding(head)?;
    let content_type = content_type(head.fields.content_type)?;
    let plan = PublishPlan::new(target.query, content_type, names)?;
    Ok(plan.traced(head.fields.traceparent()))
}

/// Refuses content codings, because bodies are published without decoding (RFC 9110, 8.4).
fn check_content_coding(head: &Head<'_>) -> Result<(), RequestRefusal> {
    let lines = head.fields.lines.named("content-encoding");
    let mut codings = lines
        .flat_map(|line| line.split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii);
    if codings.all(|coding| coding.is_empty() || coding.eq_ignore_ascii_case(b"identity")) {
        return Ok(());
    }
    Err(RequestRefusal::unsupported(
        "content_coding",
        "content codings are not supported here: send the body without Content-Encoding",
        ("Accept-Encoding", "identity"),
    ))
}

fn content_type(field: Field<'_>) -> Result<Option<&str>, RequestRefusal> {
    let text = match field {
        Field::Absent => return Ok(None),
        Field::Once(value) => str::from_utf8(value).ok(),
        Field::Repeated => None,
    };
    let bad = || {
        RequestRefusal::new(
            Status::BadRequest,
            "bad_field",
            "Content-Type must occur once and be UTF-8",
        )
    };
    text.map(Some).ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::super::decode::tests::{decode, decode_at_every_cut};
    use super::super::http_publish::Shape;
    use super::*;
    use crate::frame::Payload;

    fn requests(bytes: &[u8]) -> Vec<Request> {
        decode_at_every_cut(bytes)
            .into_iter()
            .filter_map(|item| match item {
                Item::Request(request) => Some(*request),
                _ => None,
            })
            .collect()
    }

    fn one(bytes: &str) -> Request {
        let mut requests = requests(bytes.as_bytes());
        assert_eq!(requests.len(), 1, "{bytes}");
        requests.remove(0)
    }

    fn status(bytes: &str) -> (u16, bool) {
        let request = one(bytes);
        (request.outcome.unwrap_err().status.code(), request.is_last)
    }

    fn post(target: &str, content_type: &str, body: &str) -> String {
        format!(
            "POST {target} HTTP/1.1\r\nHost: f\r\nContent-Type: {content_type}\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        )
    }

    #[test]
    fn body_is_data_text_or_bytes_by_its_type() {
        for (content_type, body, payload) in [
            (
                "application/json",
                "{ \"x\": 1 }",
                Payload::Json("{\"x\":1}".into()),
            ),
            (
                "Application/JSON; charset=utf-8",
                "[1]",
                Payload::Json("[1]".into()),
            ),
            ("text/plain", " ü\n", Payload::Text(" ü\n".into())),
            (
                "application/octet-stream",
                "ab",
                Payload::Bytes(b"ab".as_slice().into()),
            ),
            ("image/svg+xml", "", Payload::Bytes(Box::default())),
            ("", "ab", Payload::Bytes(b"ab".as_slice().into())),
            (
                "text/html; charset=\"UTF8\"",
                "<p>",
                Payload::Text("<p>".into()),
            ),
        ] {
            let request = one(&post(
                "/publish?channel=a&event=e+f&key=k%26",
                content_type,
                body,
            ));
            let publish = request.outcome.unwrap();
            assert!(!request.is_last);
            assert_eq!(publish.shape, Shape::Single);
            let [draft] = publish.drafts.as_slice() else {
                panic!("one draft")
            };
            assert_eq!(draft.payload, payload);
            assert_eq!(draft.event.as_deref(), Some("e f"));
            assert_eq!(draft.key.as_deref(), Some("k&"));
        }
    }

    #[test]
    fn json_body_may_hold_one_publication_or_an_array_of_them() {
        let single = one(&post(
            "/publish",
            "application/json",
            r#"{"channel":"a","data":1}"#,
        ));
        assert_eq!(single.outcome.unwrap().shape, Shape::Single);
        let body = r#"[{"channel":"a","data":1}, {"channel":"b","text":""}]"#;
        let many = one(&post("/publish", "application/json", body))
            .outcome
            .unwrap();
        assert_eq!((many.shape, many.drafts.len()), (Shape::Array, 2));
        let none = one(&post("/publish", "application/json", "[ ]"))
            .outcome
            .unwrap();
        assert_eq!((none.shape, none.drafts.len()), (Shape::Array, 0));
    }

    #[test]
    fn trace_context_of_the_request_is_used_unless_a_publication_has_its_own() {
        let [of_request, own] = [1, 2]
            .map(|span| format!("00-4bf92f3577b34da6a3ce929d0e0e4736-000000000000000{span}-01"));
        let contexts = |target: &str, fields: &str, body: &str| {
            let head = format!("Host: f\r\nContent-Type: application/json\r\n{fields}");
            let bytes = format!(
                "POST {target} HTTP/1.1\r\n{head}Content-Length: {}\r\n\r\n{body}",
                body.len()
            );
            let drafts = one(&bytes).outcome.unwrap().drafts;
            let contexts = drafts.iter().map(|draft| draft.traceparent.as_deref());
            let texts = contexts.map(|context| context.map(ToString::to_string));
            texts.collect::<Vec<_>>()
        };
        let field = format!("Traceparent: {of_request}\r\n");
        let traced = [Some(of_request.clone())];
        assert_eq!(contexts("/publish?channel=a", &field, "1"), traced);
        assert_eq!(
            contexts("/publish", &field, r#"{"channel":"a","data":1}"#),
            traced
        );
        let body = format!(
            r#"[{{"channel":"a","data":1,"traceparent":"{own}"}},{{"channel":"a","data":1}}]"#
        );
        let both = [Some(own.clone()), Some(of_request)];
        assert_eq!(contexts("/publish", &field, &body), both);
        let target = format!("/publish?channel=a&traceparent={own}");
        assert_eq!(contexts(&target, &field, "1"), [Some(own)]);
        // A field that is repeated or invalid is ignored.
        for fields in [format!("{field}{field}"), field.replace("-01", "-1")] {
            assert_eq!(contexts("/publish?channel=a", &fields, "1"), [None]);
        }
    }

    #[test]
    fn one_bad_publication_refuses_the_body_and_is_reported_by_its_index() {
        let body = r#"[{"channel":"a","data":1},{"channel":"b"}]"#;
        let refusal = one(&post("/publish", "application/json", body))
            .outcome
            .unwrap_err();
        assert_eq!(refusal.index, Some(1));
        assert_eq!((refusal.status.code(), refusal.error), (400, "bad_payload"));
    }

    #[test]
    fn chunked_body_is_assembled() {
        let bytes = "POST /publish?channel=a HTTP/1.1\r\nHost: f\r\nContent-Type: text/plain\r\n\
            Transfer-Encoding: chunked\r\n\r\n3;x=\"y\"\r\nabc\r\n0A\r\n0123456789\r\n0\r\nT: v\r\n\r\n";
        let request = one(bytes);
        let publish = request.outcome.unwrap();
        assert_eq!(
            publish.drafts[0].payload,
            Payload::Text("abc0123456789".into())
        );
    }

    #[test]
    fn pipelined_requests_are_all_found_and_a_refused_body_is_skipped() {
        let bytes = post("/nowhere", "text/plain", "POST /publish HTTP/1.1\r\n\r\n")
            + "\r\n"
            + &post("/publish?channel=a", "text/plain", "x")
            + "GET /publish HTTP/1.1\r\nHost: f\r\nConnection: keep-alive, Close\r\n\r\nrest";
        let found = requests(bytes.as_bytes());
        let statuses: Vec<_> = found
            .iter()
            .map(|request| {
                (
                    request
                        .outcome
                        .as_ref()
                        .map_or_else(|p| p.status.code(), |_| 200),
                    request.is_last,
                )
            })
            .collect();
        assert_eq!(statuses, [(404, false), (200, false), (405, true)]);
    }

    #[test]
    fn continue_is_asked_for_before_the_body_and_not_for_a_refusal() {
        let head = "POST /publish?channel=a HTTP/1.1\r\nHost: f\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n";
        assert_eq!(decode(&[head.as_bytes()]), [Item::Continue]);
        assert_eq!(decode(&[head.as_bytes(), b"x"]).len(), 2);
        let refused = head.replace("/publish", "/nowhere");
        assert_eq!(status(&refused), (404, true));
    }

    #[test]
    fn refusals_of_framing_close_the_connection() {
        let head = "POST /publish?channel=a HTTP/1.1\r\n";
        for (bytes, expected) in [
            ("BREW\r\n\r\n".to_owned(), (400, true)),
            ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(), (505, true)),
            (format!("{head}Content-Length: 0\r\n\r\n"), (400, true)),
            (format!("{head}Host: f\r\nHost: f\r\n\r\n"), (400, true)),
            (format!("{head}Host: f\r\n\r\n"), (411, false)),
            (
                format!("{head}Host: f\r\nContent-Length: 201\r\n\r\n"),
                (413, true),
            ),
            (
                format!("{head}Host: f\r\nContent-Length: 99999999999999999999\r\n\r\n"),
                (413, true),
            ),
            (
                format!("{head}Host: f\r\nContent-Length: +1\r\n\r\nx"),
                (400, true),
            ),
            (
                format!("{head}Host: f\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx"),
                (400, true),
            ),
            (
                format!("{head}Host: f\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n"),
                (400, true),
            ),
            (
                format!("{head}Host: f\r\nTransfer-Encoding: gzip, chunked\r\n\r\n"),
                (501, true),
            ),
            (
                format!("{head}Host: f\r\nTransfer-Encoding: chunked\r\n\r\n\r\n\r\n"),
                (400, true),
            ),
            (
                format!("{head}Host: f\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n"),
                (413, true),
            ),
            (
                format!("{head}Host: f\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nxx"),
                (400, true),
            ),
            (
                format!(
                    "{head}Host: f\r\nTransfer-Encoding: chunked\r\n\r\n1;a\n\r\nx\r\n0\r\n\r\n"
                ),
                (400, true),
            ),
            (
                format!("{head}Host: f\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nT: v\n\r\n"),
                (400, true),
            ),
            (
                format!("{head}Host: f\nContent-Length: 1\r\n\r\nx"),
                (400, true),
            ),
            (format!("{head}Host: f\r\nExpect: tea\r\n\r\n"), (417, true)),
            (
                format!("{head}Host: f\r\nX: {}\r\n\r\n", "y".repeat(300)),
                (431, true),
            ),
            (format!("{head}{}\r\n", "a:\r\n".repeat(65)), (431, true)),
        ] {
            assert_eq!(status(&bytes), expected, "{bytes}");
        }
    }

    #[test]
    fn head_over_its_limit_is_too_large_whatever_follows() {
        // The limit is 300 bytes, and the invalid byte is after the first 300 bytes. So the head is
        // refused because of its length.
        let fields = format!("Host: f\r\nX: {}\u{8}", "y".repeat(300));
        let bytes = format!("POST /publish HTTP/1.1\r\n{fields}\r\n\r\n");
        assert_eq!(status(&bytes), (431, true));
    }

    fn unsupported(bytes: &str) -> (&'static str, Option<(&'static str, &'static str)>) {
        let request = one(bytes);
        assert!(!request.is_last, "{bytes}");
        let refusal = request.outcome.unwrap_err();
        assert_eq!(refusal.status.code(), 415, "{bytes}");
        (refusal.error, refusal.field)
    }

    #[test]
    fn content_with_a_coding_is_refused_on_every_path() {
        let with = |target: &str, coding: &str| {
            let bytes = post(target, "application/json", "1");
            bytes.replacen("Host: f", &format!("Host: f\r\n{coding}"), 1)
        };
        let refused = ("content_coding", Some(("Accept-Encoding", "identity")));
        for coding in [
            "Content-Encoding: gzip",
            "content-encoding:BR",
            "Content-Encoding: gzip, identity",
            "Content-Encoding: identity\r\nContent-Encoding: deflate",
            "Content-Encoding: identity;q=1",
        ] {
            for target in ["/publish?channel=a", "/publish", "/publish?event=x"] {
                assert_eq!(unsupported(&with(target, coding)), refused, "{coding}");
            }
        }
        for coding in [
            "Content-Encoding: identity",
            "Content-Encoding:",
            "Content-Encoding: Identity, ,identity\r\nContent-Encoding: IDENTITY",
        ] {
            let request = one(&with("/publish?channel=a", coding));
            assert!(request.outcome.is_ok(), "{coding}");
        }
        assert_eq!(
            status(&with("/nowhere", "Content-Encoding: gzip")),
            (404, false)
        );
        let expects = "Expect: 100-continue\r\nContent-Encoding: gzip";
        let head = with("/publish?channel=a", expects).replace("\r\n\r\n1", "\r\n\r\n");
        assert_eq!(status(&head), (415, true));
    }

    #[test]
    fn content_types_that_are_not_payloads_are_refused() {
        for content_type in [
            "application/x-www-form-urlencoded",
            "Application/X-WWW-Form-URLEncoded; charset=utf-8",
            "multipart/form-data; boundary=x",
            "text/plain; charset=latin1",
            "text/plain; format=flowed; CharSet=\"iso-8859-1\"",
            "application/json; charset=utf-16",
            "json",
            "application/",
            "text/",
            "/json",
            ";charset=utf-8",
            "application/json, application/json",
        ] {
            let bytes = post("/publish?channel=a", content_type, "1");
            let (error, field) = unsupported(&bytes);
            assert_eq!(error, "unsupported_media_type", "{content_type}");
            assert!(field.unwrap().0 == "Accept", "{content_type}");
        }
        let form = "application/x-www-form-urlencoded";
        for target in ["/publish", "/publish?channel=a"] {
            let refusal = one(&post(target, form, "{}")).outcome.unwrap_err();
            let hint = "-H 'content-type: application/json'";
            assert!(refusal.detail.contains(hint), "{target}: {refusal:?}");
        }
    }

    #[test]
    fn query_and_body_follow_the_rules_of_lines() {
        let ttl = |ttl: &str| {
            let bytes = post(
                &format!("/publish?channel=a&ttl_ms={ttl}"),
                "text/plain",
                "x",
            );
            one(&bytes).outcome.map(|publish| publish.drafts[0].ttl)
        };
        for number in ["5000", "5000.0", "5e3"] {
            let expected = Some(std::time::Duration::from_millis(5000));
            assert_eq!(ttl(number), Ok(expected), "{number}");
        }
        assert_eq!(ttl("null"), Ok(None));
        for number in ["", "0", "0.0", "5000.5", "-1", "1e400", "Null"] {
            let refusal = ttl(number).unwrap_err();
            assert_eq!(
                (refusal.status.code(), refusal.error),
                (400, "bad_value"),
                "{number}"
            );
        }
        let deep = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        let json = "application/json";
        for (target, body, error) in [
            ("/publish?channel=a&key=", "1", "bad_value"),
            ("/publish?channel=a&dedupe=", "1", "bad_value"),
            ("/publish?channel=a&traceparent=00", "1", "bad_value"),
            ("/publish?channel=a*", "1", "bad_channel"),
            ("/publish?channel=a", &deep(64).replace("[]", "\"\""), "ok"),
            (
                "/publish",
                r#"[{"channel":"a","data":1,"dedupe":null,"key":null}]"#,
                "ok",
            ),
            (
                "/publish",
                r#"[{"channel":"a","data":1,"dedupe":""}]"#,
                "bad_value",
            ),
            ("/publish", r#"{"channel":"a*","data":1}"#, "bad_channel"),
        ] {
            let outcome = one(&post(target, json, body)).outcome;
            let found = outcome.map_or_else(|refusal| refusal.error, |_| "ok");
            assert_eq!(found, error, "{target} {body}");
        }
    }

    #[test]
    fn refusals_of_content_leave_the_connection_open() {
        for (bytes, expected) in [
            (post("/publish", "text/plain", "x"), (415, false)),
            (
                post("/publish?channel=a", "text/plain; charset=latin1", "x"),
                (415, false),
            ),
            (
                post("/publish?channel=a", "application/json", "{"),
                (400, false),
            ),
            (
                post("/publish?channel=a%20b", "text/plain", "x"),
                (400, false),
            ),
            (
                post("/publish?channel=a&color=red", "text/plain", "x"),
                (400, false),
            ),
            (
                post("/publish?event=a", "application/json", "[]"),
                (400, false),
            ),
            (
                post("/publish?channel=a&event=b&event=c", "text/plain", "x"),
                (400, false),
            ),
            (post("/publish", "application/json", "[1"), (400, false)),
            (post("/publish", "application/json", ""), (400, false)),
        ] {
            assert_eq!(status(&bytes), expected, "{bytes}");
        }
    }

    #[test]
    fn version_1_0_and_close_end_the_connection() {
        let bytes = "POST /publish?channel=a HTTP/1.0\r\nContent-Length: 1\r\n\r\nx";
        let request = one(bytes);
        assert!(request.is_last);
        assert!(request.outcome.is_ok());
    }

    #[test]
    fn absolute_target_is_accepted() {
        assert!(
            one(&post("http://feed/publish?channel=a", "text/plain", "x"))
                .outcome
                .is_ok()
        );
        assert_eq!(
            status(&post("http://feed", "text/plain", "x")),
            (404, false)
        );
    }
}
