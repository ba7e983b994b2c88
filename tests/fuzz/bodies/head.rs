//! Checks request heads and their results: extensions, target, upgrade, validators, responses.
//!
//! The requests are read consecutively, as a conn reads them, for several cuts of the bytes. The
//! parser is compared with a simple parser that splits lines. If another request may follow, both
//! parsers must find the same head, because a difference would allow request smuggling (RFC 9112,
//! 11.2).

use std::collections::BTreeSet;
use std::time::Duration;

use fanfare::config::{ClientPublish, Config, Namespace};
use fanfare::http::framing::Framing;
use fanfare::http::head::{Head, HeadRead, Method, Version, read_head};
use fanfare::http::origin::Reader;
use fanfare::http::{
    After, Answer, Refusal, RequestRead, WebSocketRequest, read_request, response,
};
use fanfare::id::ChannelName;
use fanfare::metrics::WorkerMetrics;
use tungstenite::handshake::machine::TryParse as _;
use tungstenite::handshake::server::{Request as OracleRequest, create_response};

use super::{parts, responses};

pub(super) const DATE: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
const CHANNELS_MAX: u32 = 3;
const POLL_TIMEOUT_MS: u64 = 40_000;

/// Runs the target on an input: the bytes of any number of requests.
pub fn attack(bytes: &[u8]) {
    for head_bytes_max in [256, 8192] {
        let mut config = Config::default();
        config.limits.request_head_bytes = head_bytes_max;
        config.limits.channels_per_conn = CHANNELS_MAX;
        config.limits.poll_timeout_ms = POLL_TIMEOUT_MS;
        config.namespace = vec![Namespace {
            pattern: String::from("p*"),
            client_publish: Some(ClientPublish::Broadcast),
            ..Namespace::default()
        }];
        let whole = answers(&[bytes], &config);
        for way in parts::ways_to_cut(bytes) {
            assert_eq!(answers(&way, &config), whole, "{way:?}");
        }
        check_each(bytes, &config);
    }
}

/// Returns the answers to the requests, up to and including the first that ends the connection.
fn answers(pieces: &[&[u8]], config: &Config) -> Vec<Answer> {
    let metrics = WorkerMetrics::default();
    let limit = config.limits.request_head_bytes as usize;
    let mut kept = Vec::new();
    let mut answers = Vec::new();
    for piece in pieces {
        let mut piece = *piece;
        loop {
            let (taken, rest) = piece.split_at(piece.len().min(limit - kept.len()));
            kept.extend_from_slice(taken);
            match read_request(&kept, config, DATE, &metrics) {
                RequestRead::Incomplete if rest.is_empty() => break,
                RequestRead::Incomplete => {
                    assert!(kept.len() < limit, "incomplete, with a full buffer");
                }
                RequestRead::Request { length, answer } => {
                    kept.drain(..length);
                    let goes_on = goes_on(&answer);
                    answers.push(answer);
                    if !goes_on {
                        return answers;
                    }
                }
            }
            piece = rest;
        }
        assert!(kept.len() < limit, "incomplete, with a full buffer");
    }
    answers
}

fn goes_on(answer: &Answer) -> bool {
    match answer {
        // The content of a publication follows its head.
        Answer::EventStream(_) | Answer::Publish(_) | Answer::WebSocket(_) => false,
        Answer::Poll(poll) => poll.after == After::KeepAlive,
        Answer::Respond(response) => response.then == After::KeepAlive,
    }
}

fn check_each(mut bytes: &[u8], config: &Config) {
    let limit = config.limits.request_head_bytes as usize;
    let metrics = WorkerMetrics::default();
    while let RequestRead::Request { answer, .. } = read_request(bytes, config, DATE, &metrics) {
        match read_head(bytes, limit) {
            HeadRead::Incomplete => panic!("answered before its end: {answer:?}"),
            HeadRead::Refused(_) => {
                check_answer(&answer, Method::Get);
                assert!(!goes_on(&answer), "{answer:?}");
                return;
            }
            HeadRead::Complete { length, head } => {
                let (own, rest) = bytes.split_at(length);
                assert!(length <= limit);
                check_head(own, &head);
                check_answer(&answer, head.method);
                if let Answer::WebSocket(request) = &answer {
                    check_upgrade(own, request);
                }
                if !goes_on(&answer) {
                    return;
                }
                // After a refused request, another one may follow only if the server knows where
                // the refused request ends. That is so for these two faults.
                assert!(matches!(
                    head.fault,
                    None | Some(Refusal::Expectation | Refusal::Method)
                ));
                assert_eq!(head.after, After::KeepAlive);
                bytes = rest;
            }
        }
    }
}

/// Compares a parsed head with its lines.
fn check_head(own: &[u8], head: &Head<'_>) {
    let text = own.strip_suffix(b"\r\n\r\n").expect("an empty line");
    let lines = text.split(|byte| *byte == b'\n');
    let mut lines = lines
        .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
        .skip_while(|line| line.is_empty());
    let request_line = lines.next().expect("a request line");
    let version = match head.version {
        Version::Http10 => "HTTP/1.0",
        Version::Http11 => "HTTP/1.1",
    };
    let behind = format!(" {} {version}", head.target);
    let method = request_line.strip_suffix(behind.as_bytes());
    let method = method.expect("method, target and version with a space between");
    assert!(!method.is_empty() && method.iter().all(|byte| is_token_byte(*byte)));
    match head.method {
        Method::Get => assert_eq!(method, b"GET"),
        Method::Head => assert_eq!(method, b"HEAD"),
        Method::Options => assert_eq!(method, b"OPTIONS"),
        Method::Post => assert_eq!(method, b"POST"),
        Method::Other => assert!(![&b"GET"[..], b"HEAD", b"OPTIONS", b"POST"].contains(&method)),
    }
    let fields: Vec<(String, &[u8])> = lines.map(take_field).collect();
    if head.fault.is_none() || head.after == After::KeepAlive {
        check_framing(&fields, head);
    }
}

fn take_field(line: &[u8]) -> (String, &[u8]) {
    let colon = line.iter().position(|byte| *byte == b':');
    let (name, value) = line.split_at(colon.expect("a colon"));
    assert!(!name.is_empty() && name.iter().all(|byte| is_token_byte(*byte)));
    assert!(!value.contains(&b'\r') && !value.contains(&0));
    let name = str::from_utf8(name).expect("ASCII").to_ascii_lowercase();
    (name, value[1..].trim_ascii())
}

/// Checks a request that the parser has accepted: it has at most one `Host` and no content. If the
/// request asks to close the connection, the connection is not kept open.
fn check_framing(fields: &[(String, &[u8])], head: &Head<'_>) {
    let values = |name: &str| -> Vec<&[u8]> {
        let found = fields.iter().filter(|(other, _)| other == name);
        found.map(|(_, value)| *value).collect()
    };
    let hosts = values("host").len();
    assert!(hosts == 1 || hosts == 0 && head.version == Version::Http10);
    assert_eq!(values("transfer-encoding"), [b""; 0]);
    let lengths = values("content-length");
    assert!(lengths.len() <= 1, "{lengths:?}");
    for length in lengths {
        assert!(!length.is_empty() && length.iter().all(|byte| *byte == b'0'));
    }
    let connection = values("connection").join(&b","[..]);
    let mut options = connection.split(|byte| *byte == b',');
    if options.any(|option| option.trim_ascii().eq_ignore_ascii_case(b"close")) {
        assert_eq!(head.after, After::Close);
    }
}

/// Whether the byte is a `tchar` (RFC 9110, 5.6.2).
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn check_answer(answer: &Answer, method: Method) {
    match answer {
        Answer::EventStream(request) => {
            assert_eq!(method, Method::Get);
            check_channels(&request.channels, 1);
            let mut out = Vec::new();
            response::push_event_stream_head(request.body, true, Reader::Any, DATE, &mut out);
            assert_eq!(responses::parse(&out).status, 200);
        }
        Answer::Poll(request) => {
            assert_eq!(method, Method::Get);
            check_channels(&request.channels, 1);
            assert!(request.timeout <= Duration::from_millis(POLL_TIMEOUT_MS));
        }
        Answer::Publish(request) => {
            assert_eq!(method, Method::Post);
            check_channels(std::slice::from_ref(&request.channel), 1);
            assert_ne!(request.framing, Framing::Absent);
        }
        Answer::Respond(response) => responses::check(response, method != Method::Head),
        Answer::WebSocket(request) => {
            assert_eq!(method, Method::Get);
            check_channels(&request.channels, 0);
            let mut out = Vec::new();
            response::push_switching_protocols(request, DATE, &mut out);
            let parsed = responses::parse(&out);
            assert_eq!((parsed.status, parsed.length), (101, out.len()));
            let accept = parsed.field("sec-websocket-accept");
            assert_eq!(accept, Some(request.accept.as_str()));
            let protocol = parsed.field("sec-websocket-protocol");
            assert_eq!(protocol.is_some(), request.has_subprotocol);
            let extensions = parsed.field("sec-websocket-extensions");
            assert_eq!(extensions.is_some(), request.deflate.is_some());
        }
    }
}

fn check_channels(channels: &[ChannelName], least: usize) {
    assert!((least..=CHANNELS_MAX as usize).contains(&channels.len()));
    let distinct: BTreeSet<_> = channels.iter().collect();
    assert_eq!(distinct.len(), channels.len(), "{channels:?}");
}

/// If another implementation accepts the handshake too, checks that both compute the same
/// `Sec-WebSocket-Accept`. The other implementation is stricter: it refuses some spellings and some
/// keys that the server accepts.
fn check_upgrade(own: &[u8], request: &WebSocketRequest) {
    assert_eq!(request.accept.len(), 28, "a digest of 20 bytes in base64");
    let Ok(Some((length, parsed))) = OracleRequest::try_parse(own) else {
        return;
    };
    assert_eq!(length, own.len());
    if let Ok(answer) = create_response(&parsed) {
        let accept = answer.headers().get("Sec-WebSocket-Accept");
        let accept = accept.expect("an answer to the key");
        assert_eq!(accept.as_bytes(), request.accept.as_bytes());
    }
}
