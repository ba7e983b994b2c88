//! Tests of requests from pages of other origins: admission and CORS fields.

use super::super::*;
use super::{DATE, KEY, UPGRADE, get, status_of};

/// Returns a configuration with two origins. If `cookie` is not empty, a cookie of this name may
/// contain a token.
fn guarded(cookie: &str) -> Config {
    let mut config = Config::default();
    config.browser.origins = vec!["https://a.example".into(), "http://b.example:8080".into()];
    config.auth.cookie = String::from(cookie);
    config
}

fn response_from(origin: &str, start: &str, config: &Config) -> (String, WorkerMetrics) {
    let request = format!("{start} HTTP/1.1\r\nHost: h\r\nOrigin: {origin}\r\n\r\n");
    let metrics = WorkerMetrics::default();
    match read_request(request.as_bytes(), config, DATE, &metrics) {
        RequestRead::Request {
            answer: Answer::Respond(response),
            ..
        } => (String::from_utf8(response.bytes).unwrap(), metrics),
        other @ (RequestRead::Incomplete | RequestRead::Request { .. }) => {
            panic!("{request:?} got {other:?}")
        }
    }
}

#[test]
fn websocket_of_a_foreign_page_is_refused() {
    for (origin, expected) in [
        ("http://h", "ws"),
        ("https://h", "ws"),
        ("https://a.example", "ws"),
        ("http://b.example:8080", "ws"),
        ("https://evil.example", "403"),
        ("https://a.example:8443", "403"),
        ("null", "403"),
    ] {
        let fields = format!("{UPGRADE}\r\n{KEY}\r\nOrigin: {origin}");
        let request = get("/ws?channel=a", &fields);
        let metrics = WorkerMetrics::default();
        let read = read_request(request.as_bytes(), &guarded(""), DATE, &metrics);
        let RequestRead::Request { answer, .. } = read else {
            panic!("incomplete");
        };
        assert_eq!(status_of(&answer), expected, "{origin}");
        let refused = u64::from(expected == "403");
        assert_eq!(metrics.origins_refused.value(), refused, "{origin}");
        if let Answer::Respond(response) = answer {
            let text = String::from_utf8(response.bytes).unwrap();
            assert!(text.contains("\"code\":\"origin_not_allowed\""), "{text}");
            assert!(!text.contains("Access-Control"), "{text}");
        }
    }
}

#[test]
fn preflight_of_a_listed_page_has_these_bytes() {
    let (text, _) = response_from("https://a.example", "OPTIONS /sse", &guarded("token"));
    assert_eq!(
        text,
        "HTTP/1.1 204 No Content\r\n\
         Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n\
         Vary: Origin\r\n\
         Access-Control-Allow-Origin: https://a.example\r\n\
         Access-Control-Allow-Credentials: true\r\n\
         Access-Control-Expose-Headers: ETag, Fanfare-Gap, Retry-After\r\n\
         Allow: GET, HEAD, OPTIONS\r\n\
         Access-Control-Allow-Methods: GET, HEAD, OPTIONS\r\n\
         Access-Control-Allow-Headers: \
         Last-Event-ID, Authorization, Cache-Control, Content-Type, If-None-Match, \
         Traceparent, X-Requested-With\r\n\
         Access-Control-Max-Age: 86400\r\n\
         Connection: keep-alive\r\n\r\n"
    );
}

#[test]
fn response_to_a_foreign_page_has_no_cors_fields() {
    for start in [
        "OPTIONS /poll",
        "OPTIONS *",
        "HEAD /sse?channel=a",
        "HEAD /poll?channel=a",
        "GET /sse",
        "GET /nowhere",
    ] {
        for origin in ["https://evil.example", "http://h", "null"] {
            let (text, _) = response_from(origin, start, &guarded(""));
            assert!(text.contains("\r\nVary: Origin\r\n"), "{text}");
            assert!(!text.contains("Access-Control"), "{text}");
        }
        let (text, _) = response_from("http://b.example:8080", start, &guarded(""));
        let named = "\r\nAccess-Control-Allow-Origin: http://b.example:8080\r\n\
                     Access-Control-Allow-Credentials: true\r\n";
        assert!(text.contains(named), "{text}");
        let mut config = guarded("");
        config.browser.origins = vec!["*".into()];
        let (text, _) = response_from("https://evil.example", start, &config);
        assert!(
            text.contains("\r\nAccess-Control-Allow-Origin: *\r\n"),
            "{text}"
        );
        assert!(!text.contains("Credentials"), "{text}");
    }
}

#[test]
fn foreign_page_is_refused_where_a_cookie_opens_channels() {
    for start in [
        "GET /sse?channel=a",
        "GET /poll?channel=a",
        "HEAD /sse?channel=a",
    ] {
        let (text, metrics) = response_from("https://evil.example", start, &guarded("token"));
        assert!(text.starts_with("HTTP/1.1 403 "), "{text}");
        assert!(!text.contains("Access-Control"), "{text}");
        assert_eq!(metrics.origins_refused.value(), 1);
    }
    let (text, _) = response_from("http://h", "HEAD /sse?channel=a", &guarded("token"));
    assert!(text.starts_with("HTTP/1.1 200 "), "{text}");
}

#[test]
fn stream_and_poll_store_the_origin_that_may_read_them() {
    let config = guarded("");
    let reader = |target: &str| {
        let request = get(target, "Origin: http://b.example:8080");
        let metrics = WorkerMetrics::default();
        match read_request(request.as_bytes(), &config, DATE, &metrics) {
            RequestRead::Request {
                answer: Answer::EventStream(EventStreamRequest { sharing, .. }),
                ..
            }
            | RequestRead::Request {
                answer: Answer::Poll(PollRequest { sharing, .. }),
                ..
            } => sharing.reader(&config.browser),
            other @ (RequestRead::Incomplete | RequestRead::Request { .. }) => panic!("{other:?}"),
        }
    };
    let expected = Reader::Origin("http://b.example:8080");
    assert_eq!(reader("/sse?channel=a"), expected);
    assert_eq!(reader("/poll?channel=a"), expected);
}
