//! Tests of complete requests and their answers.

mod origins;

use proptest::prelude::*;

use super::*;

const DATE: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
const KEY: &str = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";
const UPGRADE: &str = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13";

fn read(bytes: &[u8]) -> RequestRead {
    read_request(bytes, &Config::default(), DATE, &WorkerMetrics::default())
}

/// Returns a GET request for a target, with these field lines.
fn get(target: &str, fields: &str) -> String {
    let line_end = if fields.is_empty() { "" } else { "\r\n" };
    format!("GET {target} HTTP/1.1\r\nHost: h\r\n{fields}{line_end}\r\n")
}

fn answer_to(request: &str) -> Answer {
    match read(request.as_bytes()) {
        RequestRead::Request { answer, .. } => answer,
        RequestRead::Incomplete => panic!("incomplete: {request:?}"),
    }
}

fn response_to(request: &str) -> (String, After) {
    match answer_to(request) {
        Answer::Respond(response) => (String::from_utf8(response.bytes).unwrap(), response.then),
        other @ (Answer::EventStream(_)
        | Answer::Poll(_)
        | Answer::Publish(_)
        | Answer::WebSocket(_)) => {
            panic!("{request:?} got {other:?}")
        }
    }
}

fn status_of(answer: &Answer) -> &str {
    match answer {
        Answer::EventStream(_) => "sse",
        Answer::Poll(_) => "poll",
        Answer::Publish(_) => "publish",
        Answer::Respond(response) => str::from_utf8(&response.bytes[9..12]).unwrap(),
        Answer::WebSocket(_) => "ws",
    }
}

fn websocket_to(target: &str, fields: &str) -> WebSocketRequest {
    match answer_to(&get(target, &format!("{UPGRADE}\r\n{KEY}{fields}"))) {
        Answer::WebSocket(request) => request,
        other @ (Answer::EventStream(_)
        | Answer::Poll(_)
        | Answer::Publish(_)
        | Answer::Respond(_)) => {
            panic!("{target} {fields:?} got {other:?}")
        }
    }
}

fn event_stream_to(target: &str, fields: &str) -> EventStreamRequest {
    match answer_to(&get(target, fields)) {
        Answer::EventStream(request) => request,
        other @ (Answer::Poll(_)
        | Answer::Publish(_)
        | Answer::Respond(_)
        | Answer::WebSocket(_)) => {
            panic!("{target} {fields:?} got {other:?}")
        }
    }
}

/// Short request heads, grouped by the expected status and by whether the conn persists.
const TABLE: &[(&str, After, &[&str])] = &[
    (
        "200",
        After::KeepAlive,
        &[
            "GET / HTTP/1.1\r\nHost: h\r\n\r\n",
            "\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n",
            "GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n",
            "GET http://h/ HTTP/1.1\r\nHost: h\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: h\r\nConnection: Host\r\n\r\n",
            "HEAD /sse?channel=a HTTP/1.1\r\nHost: h\r\n\r\n",
            "HEAD /poll?channel=a&timeout=9 HTTP/1.1\r\nHost: h\r\n\r\n",
        ],
    ),
    (
        "200",
        After::Close,
        &[
            "GET / HTTP/1.1\r\nHost: [::1]:80\r\nConnection: x , Close\r\n\r\n",
            "GET / HTTP/1.0\r\n\r\n",
            "GET / HTTP/1.0\r\nConnection: keep-alive\r\nConnection: close\r\n\r\n",
        ],
    ),
    (
        "204",
        After::KeepAlive,
        &[
            "OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n",
            "OPTIONS /sse HTTP/1.1\r\nHost: h\r\n\r\n",
        ],
    ),
    (
        "400",
        After::KeepAlive,
        &[
            "GET * HTTP/1.1\r\nHost: h\r\n\r\n",
            "HEAD /sse HTTP/1.1\r\nHost: h\r\n\r\n",
            "GET /poll HTTP/1.1\r\nHost: h\r\n\r\n",
            "GET /sse?channel=%00 HTTP/1.1\r\nHost: h\r\n\r\n",
            "GET http://u@h/ HTTP/1.1\r\nHost: h\r\n\r\n",
            "GET /poll?channel=a&timeout=x HTTP/1.1\r\nHost: h\r\n\r\n",
            "HEAD /poll?channel=a&timeout= HTTP/1.1\r\nHost: h\r\n\r\n",
            "GET /poll?channel=a&envelope=x HTTP/1.1\r\nHost: h\r\n\r\n",
        ],
    ),
    (
        "400",
        After::Close,
        &[
            "GET / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: h\r\nHost: h\r\n\r\n",
            "GET / HTTP/1.0\r\nHost: h\r\nHost: h\r\n\r\n",
            "GET / HTTP/1.1\r\nHost:\r\n\r\n",
            "GET / HTTP/1.1\nHost: h\n\n",
            "\nGET / HTTP/1.1\r\nHost: h\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: h\n\r\n",
            "GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: u@h\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a,b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\nContent-Length: 5\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 0, 0\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: h\r\nContent-Length: +0\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: h\r\nContent-Length:\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: xchunked\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: a\r\nContent-Length: 0\r\n\r\n",
            "GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding : chunked\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: h\r\nA: b\r\n c\r\n\r\n",
            "GET / HTTP/1.1\r\n Host: h\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: h\r\nA: b\rc\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: h\r\nA: b\0c\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: h\r\nA\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: h\r\n: b\r\n\r\n",
            "GET /\r\n",
            "GET / SPDY/1\r\n\r\n",
            "GET / HTTP/1.1 x\r\n\r\n",
            "GET / x HTTP/1.1\r\nHost: h\r\n\r\n",
            "GET / x HTTP/1.0\r\n\r\n",
            "GET  / HTTP/1.1\r\nHost: h\r\n\r\n",
            "\u{16}\u{3}\u{1}",
            "\rGET / HTTP/1.1\r\n\r\n",
            " GET / HTTP/1.1\r\n\r\n",
            "{\"channel\":\"a\"}\n",
            "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA / HTTP/1.1\r\n\r\n",
        ],
    ),
    (
        "404",
        After::KeepAlive,
        &[
            "GET /none HTTP/1.1\r\nHost: h\r\n\r\n",
            "OPTIONS /none HTTP/1.1\r\nHost: h\r\n\r\n",
        ],
    ),
    (
        "405",
        After::KeepAlive,
        &[
            "POST /sse HTTP/1.1\r\nHost: h\r\n\r\n",
            "CONNECT h:80 HTTP/1.1\r\nHost: h\r\n\r\n",
            "get / HTTP/1.1\r\nHost: h\r\n\r\n",
        ],
    ),
    (
        "405",
        After::Close,
        &[
            "POST /sse HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc",
            "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n",
        ],
    ),
    (
        "413",
        After::Close,
        &[
            "GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 99999999999999999999\r\n\r\n",
        ],
    ),
    (
        "417",
        After::KeepAlive,
        &["GET / HTTP/1.1\r\nHost: h\r\nExpect: tea\r\n\r\n"],
    ),
    (
        "426",
        After::KeepAlive,
        &["HEAD /ws HTTP/1.1\r\nHost: h\r\n\r\n"],
    ),
    (
        "501",
        After::Close,
        &[
            "GET / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        ],
    ),
    (
        "505",
        After::Close,
        &[
            "GET / HTTP/1.2\r\n\r\n",
            "GET / HTTP/3\r\n\r\n",
            "GET / HTTP/2.0\r\n\r\n",
        ],
    ),
    (
        "poll",
        After::KeepAlive,
        &[
            "GET /poll?channel=a HTTP/1.1\r\nHost: h\r\n\r\n",
            "GET /poll?channel=a&timeout=0 HTTP/1.1\r\nHost: h\r\nIf-None-Match: *\r\n\r\n",
        ],
    ),
    (
        "sse",
        After::KeepAlive,
        &[
            "GET /sse?channel=a HTTP/1.1\r\nHost: h\r\n\r\n",
            "GET /sse?channel=a&timeout=x HTTP/1.1\r\nHost: h\r\n\r\n",
        ],
    ),
];

/// Returns the entries of `TABLE`, and further requests: long heads, and heads that are not text.
fn table() -> Vec<(Vec<u8>, &'static str, After)> {
    let long_target = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(8192));
    let long_field = get("/", &format!("X: {}", "y".repeat(8192)));
    let many_fields = get("/", "A: b\r\n".repeat(64).trim_end());
    let no_text = b"GET /\xff HTTP/1.1\r\nHost: h\r\n\r\n".to_vec();
    let mut table = vec![
        (long_target.into_bytes(), "414", After::Close),
        (long_field.into_bytes(), "431", After::Close),
        (many_fields.into_bytes(), "431", After::Close),
        (b"\r\n".repeat(4096), "400", After::Close),
        (no_text, "400", After::Close),
    ];
    for (status, then, heads) in TABLE {
        table.extend(
            heads
                .iter()
                .map(|h| (h.as_bytes().to_vec(), *status, *then)),
        );
    }
    table
}

#[test]
fn head_gets_its_status_and_closes_only_if_required() {
    for (request, status, then) in table() {
        let shown = String::from_utf8_lossy(&request[..request.len().min(120)]).into_owned();
        let RequestRead::Request { answer, .. } = read(&request) else {
            panic!("incomplete: {shown:?}");
        };
        assert_eq!(status_of(&answer), status, "{shown:?}");
        if let Answer::Respond(response) = answer {
            assert_eq!(response.then, then, "{shown:?}");
            let text = String::from_utf8(response.bytes).unwrap();
            let connection = match then {
                After::Close => "Connection: close\r\n",
                After::KeepAlive => "Connection: keep-alive\r\n",
            };
            assert!(text.contains(connection), "{text}");
            assert!(text.contains(&format!("\r\nDate: {DATE}\r\n")), "{text}");
        }
    }
}

#[test]
fn request_is_parsed_the_same_at_every_cut() {
    for (request, ..) in table() {
        let whole = read(&request);
        for cut in 0..request.len() {
            match (read(&request[..cut]), &whole) {
                (RequestRead::Incomplete, _) => {}
                (
                    RequestRead::Request { length, answer },
                    RequestRead::Request {
                        answer: expected, ..
                    },
                ) => {
                    assert!(length <= cut);
                    assert_eq!(answer, *expected, "cut at {cut}");
                }
                (RequestRead::Request { .. }, RequestRead::Incomplete) => panic!("cut at {cut}"),
            }
        }
    }
}

#[test]
fn request_ends_at_the_start_of_the_next() {
    let first = get("/sse?channel=a", "Last-Event-ID: 000000000001-7");
    let both = format!("{first}{}", get("/", ""));
    let RequestRead::Request { length, answer } = read(both.as_bytes()) else {
        panic!("incomplete");
    };
    assert_eq!(length, first.len());
    assert_eq!(answer, answer_to(&first));
    assert_eq!(status_of(&answer_to(&both[length..])), "200");
}

#[test]
fn head_may_have_exactly_its_limit() {
    let mut config = Config::default();
    let request = get("/", "");
    config.limits.request_head_bytes = u32::try_from(request.len()).unwrap();
    let status = |config: &Config| {
        let read = read_request(request.as_bytes(), config, DATE, &WorkerMetrics::default());
        match read {
            RequestRead::Request { answer, .. } => status_of(&answer).to_owned(),
            RequestRead::Incomplete => panic!("incomplete"),
        }
    };
    assert_eq!(status(&config), "200");
    config.limits.request_head_bytes -= 1;
    assert_eq!(status(&config), "431");
}

#[test]
fn long_target_is_refused_even_if_the_head_may_be_longer() {
    let mut config = Config::default();
    config.limits.request_head_bytes = 1 << 20;
    let request = get(&format!("/{}", "x".repeat(65_536)), "");
    let metrics = WorkerMetrics::default();
    let RequestRead::Request { answer, .. } =
        read_request(request.as_bytes(), &config, DATE, &metrics)
    else {
        panic!("incomplete");
    };
    assert_eq!(status_of(&answer), "414");
    assert_eq!(metrics.requests.value(), 1);
    assert_eq!(metrics.requests_refused.value(), 1);
}

#[test]
fn upgrade_is_answered_by_the_standard_or_refused() {
    let version = "Sec-WebSocket-Version: 13";
    let connection = "Connection: keep-alive, Upgrade";
    for (fields, status) in [
        (
            format!("Upgrade: WebSocket\r\n{connection}\r\n{version}\r\n{KEY}"),
            "ws",
        ),
        (
            format!("Upgrade: h2c, websocket\r\n{connection}\r\n{version}\r\n{KEY}"),
            "ws",
        ),
        (
            format!("{UPGRADE}\r\nsec-websocket-key: AQIDBAUGBwgJCgsMDQ4PEC=="),
            "ws",
        ),
        (String::new(), "426"),
        (format!("{connection}\r\n{version}\r\n{KEY}"), "426"),
        (
            format!("Upgrade: h2c\r\n{connection}\r\n{version}\r\n{KEY}"),
            "426",
        ),
        (
            format!("Upgrade: websocketx\r\n{connection}\r\n{version}\r\n{KEY}"),
            "426",
        ),
        (format!("Upgrade: websocket\r\n{version}\r\n{KEY}"), "400"),
        (
            format!("Upgrade: websocket\r\nConnection: close\r\n{version}\r\n{KEY}"),
            "400",
        ),
        (
            format!("Upgrade: websocket\r\n{connection}\r\n{KEY}"),
            "426",
        ),
        (
            format!("Upgrade: websocket\r\n{connection}\r\nSec-WebSocket-Version: 8\r\n{KEY}"),
            "426",
        ),
        (format!("{UPGRADE}\r\n{version}\r\n{KEY}"), "426"),
        (UPGRADE.to_owned(), "400"),
        (format!("{UPGRADE}\r\n{KEY}\r\n{KEY}"), "400"),
        (format!("{UPGRADE}\r\nSec-WebSocket-Key: short=="), "400"),
    ] {
        let answer = answer_to(&get("/ws?channel=a", &fields));
        assert_eq!(status_of(&answer), status, "{fields}");
    }
    let old = format!("GET /ws?channel=a HTTP/1.0\r\n{UPGRADE}\r\n{KEY}\r\n\r\n");
    assert_eq!(status_of(&answer_to(&old)), "426");
    let (refused, _) = response_to(&get("/ws", ""));
    assert!(refused.contains("\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"));
    assert!(refused.contains("\r\nSec-WebSocket-Version: 13\r\n"));
}

#[test]
fn handshake_response_has_these_bytes() {
    let offer = "\r\nSec-WebSocket-Protocol: x, fanfare.v1";
    let mut out = Vec::new();
    response::push_switching_protocols(&websocket_to("/ws", offer), DATE, &mut out);
    assert_eq!(
        String::from_utf8(out).unwrap(),
        "HTTP/1.1 101 Switching Protocols\r\n\
         Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n\
         Upgrade: websocket\r\n\
         Connection: Upgrade\r\n\
         Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\
         Sec-WebSocket-Protocol: fanfare.v1\r\n\r\n"
    );
    for other in ["", "\r\nSec-WebSocket-Protocol: x, Fanfare.v1"] {
        assert!(!websocket_to("/ws", other).has_subprotocol);
    }
}

#[test]
fn compression_is_negotiated_if_enabled_and_offered() {
    let mut config = Config::default();
    let handshake = |lines: &str, config: &Config| {
        let request = get("/ws", &format!("{UPGRADE}\r\n{KEY}{lines}"));
        let metrics = WorkerMetrics::default();
        let RequestRead::Request { answer, .. } =
            read_request(request.as_bytes(), config, DATE, &metrics)
        else {
            panic!("incomplete");
        };
        let mut out = Vec::new();
        match answer {
            Answer::WebSocket(request) => {
                response::push_switching_protocols(&request, DATE, &mut out);
            }
            other @ (Answer::EventStream(_)
            | Answer::Poll(_)
            | Answer::Publish(_)
            | Answer::Respond(_)) => {
                panic!("{other:?}")
            }
        }
        let text = String::from_utf8(out).unwrap();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("Sec-WebSocket-Extensions: "));
        line.map(str::to_owned)
    };
    let agreed = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
    let bounded = format!("{agreed}; server_max_window_bits=12");
    let offer = "\r\nSec-WebSocket-Extensions: permessage-deflate";
    let python = format!("{offer}; server_max_window_bits=12; client_max_window_bits=12");
    assert_eq!(handshake(offer, &config), None);
    config.deflate.enabled = true;
    assert_eq!(handshake(offer, &config).as_deref(), Some(agreed));
    assert_eq!(handshake(&python, &config), Some(bounded.clone()));
    let on_two_lines = format!("{offer}; x{python}");
    assert_eq!(handshake(&on_two_lines, &config), Some(bounded));
    assert_eq!(handshake(&format!("{offer}; x"), &config), None);
    assert_eq!(handshake("", &config), None);
    let malformed = format!("{UPGRADE}\r\n{KEY}{offer};");
    assert_eq!(status_of(&answer_to(&get("/ws", &malformed))), "400");
}

#[test]
fn websocket_requires_a_channel_only_with_the_data_envelope() {
    let request = websocket_to("/ws", "");
    assert_eq!(request.channels, []);
    assert_eq!(request.envelope, Envelope::Full);
    assert_eq!(request.since, Since::Now);
    let request = websocket_to("/ws?envelope=data&channel=a&since=x", "");
    assert_eq!(request.envelope, Envelope::Data);
    assert_eq!(request.since, Since::Unrecognised);
    let fields = format!("{UPGRADE}\r\n{KEY}");
    let (refused, then) = response_to(&get("/ws?envelope=data", &fields));
    assert!(refused.starts_with("HTTP/1.1 400 "), "{refused}");
    assert_eq!(then, After::KeepAlive);
}

#[test]
fn event_stream_prefers_the_position_of_the_field() {
    let query = "/sse?channel=a&since=000000000001-1";
    let at = |text| Since::parse(text);
    assert_eq!(event_stream_to(query, "").since, at("000000000001-1"));
    let field = "Last-Event-ID: 000000000001-2";
    assert_eq!(event_stream_to(query, field).since, at("000000000001-2"));
    let request = event_stream_to(query, "Last-Event-ID:");
    assert_eq!(request.since, at("000000000001-1"));
    assert_eq!(event_stream_to("/sse?channel=a", "").since, Since::Now);
    let request = event_stream_to(query, "Last-Event-ID: \u{fc}");
    assert_eq!(request.since, Since::Unrecognised);
    // After a reconnect, `EventSource` repeats its query. With `Last-Event-ID`, this query does not
    // request earlier publications again.
    let query = "/sse?channel=a&last=20&since=first";
    assert_eq!(event_stream_to(query, field).since, at("000000000001-2"));
    let request = event_stream_to(query, "Last-Event-ID: first");
    assert_eq!(request.since, Since::Unrecognised);
}

#[test]
fn event_stream_defaults_to_chunks_and_the_data_envelope() {
    let request = event_stream_to("/sse?channel=a", "");
    assert_eq!(request.envelope, Envelope::Data);
    assert_eq!(request.body, StreamBody::Chunked);
    let request = event_stream_to("/sse?channel=a&envelope=full", "");
    assert_eq!(request.envelope, Envelope::Full);
    let Answer::EventStream(request) = answer_to("GET /sse?channel=a HTTP/1.0\r\n\r\n") else {
        panic!("no stream");
    };
    assert_eq!(request.body, StreamBody::UntilClose);
}

#[test]
fn event_stream_head_has_these_bytes() {
    let head = |body, has_gap| {
        let mut out = Vec::new();
        response::push_event_stream_head(body, has_gap, Reader::SameOrigin, DATE, &mut out);
        String::from_utf8(out).unwrap()
    };
    let common = "HTTP/1.1 200 OK\r\n\
         Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n\
         Content-Type: text/event-stream; charset=utf-8\r\n\
         Cache-Control: no-cache, no-transform\r\n\
         X-Accel-Buffering: no\r\n\
         Vary: Origin\r\n";
    assert_eq!(
        head(StreamBody::Chunked, true),
        format!(
            "{common}Fanfare-Gap: 1\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
        )
    );
    assert_eq!(
        head(StreamBody::UntilClose, false),
        format!("{common}Connection: close\r\n\r\n")
    );
    let mut out = Vec::new();
    let reader = Reader::Origin("https://a.example");
    response::push_event_stream_head(StreamBody::Chunked, false, reader, DATE, &mut out);
    let expected = format!(
        "{common}Access-Control-Allow-Origin: https://a.example\r\n\
         Access-Control-Allow-Credentials: true\r\n\
         Access-Control-Expose-Headers: ETag, Fanfare-Gap, Retry-After\r\n\
         Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    );
    assert_eq!(String::from_utf8(out).unwrap(), expected);
}

#[test]
fn refusal_is_a_problem_document_without_a_byte_of_the_peer() {
    let (text, _) = response_to(&get("/sse?channel=a%0d&token=secret", ""));
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("Content-Type: application/problem+json"));
    assert!(head.contains("\r\nVary: Origin\r\n"));
    assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())));
    let problem: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!(problem["type"], "about:blank");
    assert_eq!(problem["title"], "Bad Request");
    assert_eq!(problem["status"], 400);
    assert_eq!(problem["code"], "bad_channel");
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.starts_with("channel: "), "{detail}");
    assert!(!text.contains("secret"));
}

#[test]
fn refusal_of_a_method_lists_the_supported_ones() {
    let (text, _) = response_to("DELETE / HTTP/1.1\r\nHost: h\r\n\r\n");
    assert!(text.contains("\r\nAllow: GET, HEAD, OPTIONS\r\n"), "{text}");
}

#[test]
fn head_method_gets_the_same_head_and_no_content() {
    for target in ["/", "/none", "/sse"] {
        let (full, _) = response_to(&get(target, ""));
        let (head, _) = response_to(&get(target, "").replace("GET", "HEAD"));
        let end = full.find("\r\n\r\n").unwrap() + 4;
        assert_eq!(head, full[..end], "{target}");
        assert!(full.len() > end);
    }
}

#[test]
fn page_can_be_disabled() {
    let config = Config {
        page: false,
        ..Config::default()
    };
    let request = get("/", "");
    let read = read_request(request.as_bytes(), &config, DATE, &WorkerMetrics::default());
    let RequestRead::Request { answer, .. } = read else {
        panic!("incomplete");
    };
    assert_eq!(status_of(&answer), "404");
}

#[test]
fn number_of_channels_is_limited() {
    let channels = |count: u32| {
        let pairs: Vec<_> = (0..count).map(|n| format!("channel={n}")).collect();
        answer_to(&get(&format!("/sse?{}", pairs.join("&")), ""))
    };
    assert_eq!(status_of(&channels(128)), "sse");
    assert_eq!(status_of(&channels(129)), "400");
}

proptest! {
    #[test]
    fn any_bytes_are_parsed_without_reading_beyond_them(
        bytes in proptest::collection::vec(any::<u8>(), 0..600),
    ) {
        if let RequestRead::Request { length, .. } = read(&bytes) {
            prop_assert!(length <= bytes.len());
        }
    }

    #[test]
    fn request_like_bytes_are_parsed_the_same_at_every_cut(
        method in "(GET|HEAD|OPTIONS|POST|[ -~]{0,4})",
        target in "(/sse|/ws|/)?[?][ -~]{0,40}",
        fields in proptest::collection::vec(
            "(Host: h|Connection: [a-z, ]{0,12}|Content-Length: [0-9,]{0,3}|[ -~\r]{0,30})",
            0..6,
        ),
        cut in 0usize..400,
    ) {
        let text = format!("{method} {target} HTTP/1.1\r\n{}\r\n\r\n", fields.join("\r\n"));
        let bytes = text.as_bytes();
        let whole = read(bytes);
        if let RequestRead::Request { length, .. } = whole {
            prop_assert!(length <= bytes.len());
        }
        if let RequestRead::Request { answer: early, .. } = read(&bytes[..cut.min(bytes.len())]) {
            let RequestRead::Request { answer, .. } = whole else {
                panic!("incomplete as a whole");
            };
            prop_assert_eq!(early, answer);
        }
    }
}

#[test]
fn poll_has_its_own_defaults_and_the_common_position_rules() {
    let poll_to = |target: &str, fields: &str| match answer_to(&get(target, fields)) {
        Answer::Poll(request) => request,
        other @ (Answer::EventStream(_)
        | Answer::Publish(_)
        | Answer::Respond(_)
        | Answer::WebSocket(_)) => {
            panic!("{target} got {other:?}")
        }
    };
    let request = poll_to("/poll?channel=a&channel=b&channel=a", "");
    assert_eq!(request.channels.len(), 2);
    assert_eq!(request.since, Since::Now);
    assert_eq!(request.envelope, Envelope::Full);
    assert_eq!(request.timeout, Duration::from_secs(30));
    assert_eq!(request.after, After::KeepAlive);
    assert_eq!(request.validators, Validators::default());
    let request = poll_to(
        "/poll?channel=a&since=000000000001-7&envelope=data&timeout=0",
        "Last-Event-ID: 000000000001-8\r\nConnection: close\r\n\
         If-None-Match: \"000000000001-9\"\r\nIf-None-Match: \"x\"",
    );
    assert_eq!(request.since, Since::parse("000000000001-8"));
    assert_eq!(request.envelope, Envelope::Data);
    assert_eq!(request.timeout, Duration::ZERO);
    assert_eq!(request.after, After::Close);
    let id: crate::id::Cursor = "000000000001-9".parse().unwrap();
    assert!(request.validators.matches(id));
    let request = poll_to("/poll?channel=a&timeout=121", "");
    assert_eq!(request.timeout, Duration::from_secs(120));
}
