//! The rows of the table of malformed and ambiguous requests.

use super::Sent::{Bytes, Head, Long, Upgrade};
use super::Verdict::{self, Ends, GoAway, Line, Opens, Served};
use super::{Row, Sent};

const fn row(what: &'static str, sent: Sent, clients: Verdict, feed: Verdict) -> Row {
    Row {
        what,
        sent,
        clients,
        feed,
    }
}

const fn both(what: &'static str, sent: Sent, verdict: Verdict) -> Row {
    row(what, sent, verdict, verdict)
}

const fn closed(status: u16, word: &'static str) -> Verdict {
    Verdict::RefusedAndClosed(status, word)
}

const fn refused(status: u16, word: &'static str) -> Verdict {
    Verdict::Refused(status, word)
}

/// The expected response to a request with an unknown target. The server parses such a request like
/// any other.
const NOT_FOUND: Verdict = refused(404, "not_found");

/// All rows, grouped by subject, in the order of the documentation.
pub(crate) const ROWS: &[(&str, &[Row])] = &[
    (
        "Line ends",
        &[
            both(
                "lines end in LF alone",
                Bytes(b"GET / HTTP/1.1\nHost: h\n\n"),
                closed(400, "line_end"),
            ),
            both(
                "one field ends in LF alone",
                Bytes(b"GET / HTTP/1.1\r\nHost: h\nA: b\r\n\r\n"),
                closed(400, "line_end"),
            ),
            both(
                "the empty line is LF alone",
                Bytes(b"GET / HTTP/1.1\r\nHost: h\r\n\n"),
                closed(400, "line_end"),
            ),
            both(
                "CR alone in the request line",
                Head("GET /\rx HTTP/1.1", &["Host: h"], ""),
                closed(400, "line_end"),
            ),
            both(
                "CR alone in a field",
                Head("GET / HTTP/1.1", &["Host: h", "A: b\rc"], ""),
                closed(400, "line_end"),
            ),
            both(
                "CR twice before LF",
                Head("GET / HTTP/1.1", &["Host: h", "A: b\r"], ""),
                closed(400, "line_end"),
            ),
            row(
                "empty lines before the request",
                Bytes(b"\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n"),
                Served(200),
                Line,
            ),
            row(
                "LF alone before the request",
                Bytes(b"\nGET / HTTP/1.1\r\nHost: h\r\n\r\n"),
                closed(400, "not_http"),
                Line,
            ),
        ],
    ),
    (
        "Request line and version",
        &[
            row(
                "space before the method",
                Head(" GET / HTTP/1.1", &["Host: h"], ""),
                closed(400, "not_http"),
                Line,
            ),
            both(
                "two spaces after the method",
                Head("GET  / HTTP/1.1", &["Host: h"], ""),
                closed(400, "not_http"),
            ),
            both(
                "a tab after the method",
                Head("GET\t/ HTTP/1.1", &["Host: h"], ""),
                closed(400, "not_http"),
            ),
            both(
                "a space in the target",
                Head("GET /a b HTTP/1.1", &["Host: h"], ""),
                closed(400, "not_http"),
            ),
            both(
                "a space after the version",
                Head("GET / HTTP/1.1 ", &["Host: h"], ""),
                closed(400, "not_http"),
            ),
            both(
                "no version, as in HTTP/0.9",
                Bytes(b"GET /\r\n"),
                closed(400, "not_http"),
            ),
            row(
                "HTTP/1.0",
                Head("GET / HTTP/1.0", &[], ""),
                Ends(200),
                closed(404, "not_found"),
            ),
            row(
                "HTTP/1.0 with Host and keep-alive",
                Head("GET / HTTP/1.0", &["Host: h", "Connection: keep-alive"], ""),
                Served(200),
                closed(404, "not_found"),
            ),
            both(
                "HTTP/1.2",
                Head("GET / HTTP/1.2", &["Host: h"], ""),
                closed(505, "http_version"),
            ),
            both(
                "HTTP/2.0 in a request line",
                Head("GET / HTTP/2.0", &["Host: h"], ""),
                closed(505, "http_version"),
            ),
            row(
                "the preface of HTTP/2",
                Head("PRI * HTTP/2.0", &[], "SM\r\n\r\n"),
                GoAway("http_version"),
                closed(505, "http_version"),
            ),
            both(
                "a preface of another version",
                Head("PRI * HTTP/3.0", &[], "SM\r\n\r\n"),
                closed(505, "http_version"),
            ),
            row(
                "a TLS handshake to a plain port",
                Bytes(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
                closed(400, "tls_on_plain_http"),
                Line,
            ),
            row(
                "a method in lower case",
                Head("get / HTTP/1.1", &["Host: h"], ""),
                refused(405, "method_not_allowed"),
                NOT_FOUND,
            ),
            row(
                "an unknown method",
                Head("BREW / HTTP/1.1", &["Host: h"], ""),
                refused(405, "method_not_allowed"),
                NOT_FOUND,
            ),
            both(
                "a method of 40 letters",
                Long("", "A", 40, " / HTTP/1.1\r\nHost: h\r\n\r\n"),
                closed(400, "not_http"),
            ),
        ],
    ),
    (
        "Target",
        &[
            row(
                "absolute form, whose host counts, and another Host",
                Head("GET http://other/ HTTP/1.1", &["Host: h"], ""),
                Served(200),
                NOT_FOUND,
            ),
            both(
                "absolute form with a user",
                Head("GET http://user@h/ HTTP/1.1", &["Host: h"], ""),
                refused(400, "bad_target"),
            ),
            both(
                "absolute form without a host",
                Head("GET http:///poll HTTP/1.1", &["Host: h"], ""),
                refused(400, "bad_target"),
            ),
            both(
                "absolute form of another scheme",
                Head("GET ftp://h/ HTTP/1.1", &["Host: h"], ""),
                refused(400, "bad_target"),
            ),
            row(
                "authority form",
                Head("CONNECT h:80 HTTP/1.1", &["Host: h"], ""),
                refused(405, "method_not_allowed"),
                refused(400, "bad_target"),
            ),
            both(
                "authority form without CONNECT",
                Head("GET h:80 HTTP/1.1", &["Host: h"], ""),
                refused(400, "bad_target"),
            ),
            row(
                "asterisk form",
                Head("OPTIONS * HTTP/1.1", &["Host: h"], ""),
                Served(204),
                refused(400, "bad_target"),
            ),
            both(
                "asterisk form without OPTIONS",
                Head("GET * HTTP/1.1", &["Host: h"], ""),
                refused(400, "bad_target"),
            ),
            both(
                "a fragment",
                Head("GET /#a HTTP/1.1", &["Host: h"], ""),
                refused(400, "bad_target"),
            ),
            row(
                "UTF-8 that is not percent-encoded",
                Head("GET /poll?channel=ü&timeout=0 HTTP/1.1", &["Host: h"], ""),
                Served(200),
                NOT_FOUND,
            ),
            both(
                "bytes that are not UTF-8",
                Bytes(b"GET /\xff HTTP/1.1\r\nHost: h\r\n\r\n"),
                closed(400, "not_http"),
            ),
            both(
                "a control character",
                Head("GET /\x01 HTTP/1.1", &["Host: h"], ""),
                closed(400, "not_http"),
            ),
            row(
                "NUL, percent-encoded, in a channel",
                Head(
                    "GET /poll?channel=a%00&timeout=0 HTTP/1.1",
                    &["Host: h"],
                    "",
                ),
                refused(400, "bad_channel"),
                NOT_FOUND,
            ),
            row(
                "a percent sign without digits",
                Head("GET /poll?channel=a%zz HTTP/1.1", &["Host: h"], ""),
                refused(400, "bad_encoding"),
                NOT_FOUND,
            ),
            both(
                "9,000 bytes of target",
                Long("GET /", "x", 9000, " HTTP/1.1\r\nHost: h\r\n\r\n"),
                closed(414, "target_too_long"),
            ),
        ],
    ),
    (
        "Fields",
        &[
            both(
                "a space before the colon",
                Head("GET / HTTP/1.1", &["Host: h", "A : b"], ""),
                closed(400, "bad_field"),
            ),
            both(
                "a space before the first field",
                Head("GET / HTTP/1.1", &[" Host: h"], ""),
                closed(400, "bad_field"),
            ),
            both(
                "a continued line",
                Head("GET / HTTP/1.1", &["Host: h", "A: b", " c"], ""),
                closed(400, "bad_field"),
            ),
            both(
                "no colon",
                Head("GET / HTTP/1.1", &["Host: h", "A"], ""),
                closed(400, "bad_field"),
            ),
            both(
                "no name",
                Head("GET / HTTP/1.1", &["Host: h", ": b"], ""),
                closed(400, "bad_field"),
            ),
            both(
                "NUL in a value",
                Head("GET / HTTP/1.1", &["Host: h", "A: b\0c"], ""),
                closed(400, "bad_field"),
            ),
            both(
                "a control character in a value",
                Head("GET / HTTP/1.1", &["Host: h", "A: b\x07c"], ""),
                closed(400, "bad_field"),
            ),
            both(
                "a name that is not ASCII",
                Head("GET / HTTP/1.1", &["Host: h", "ü: b"], ""),
                closed(400, "bad_field"),
            ),
            both(
                "9,000 bytes in one field",
                Long("GET / HTTP/1.1\r\nHost: h\r\nA: ", "x", 9000, "\r\n\r\n"),
                closed(431, "head_too_large"),
            ),
            both(
                "9,000 bytes in few fields",
                Long(
                    "GET / HTTP/1.1\r\nHost: h\r\n",
                    "A: 0123456789012345678901234567890123456789012\r\n",
                    190,
                    "\r\n",
                ),
                closed(431, "head_too_large"),
            ),
            both(
                "65 fields",
                Long("GET / HTTP/1.1\r\nHost: h\r\n", "A: b\r\n", 64, "\r\n"),
                closed(431, "too_many_fields"),
            ),
        ],
    ),
    (
        "Host",
        &[
            both(
                "none in HTTP/1.1",
                Head("GET / HTTP/1.1", &[], ""),
                closed(400, "bad_host"),
            ),
            both(
                "two",
                Head("GET / HTTP/1.1", &["Host: h", "Host: g"], ""),
                closed(400, "bad_host"),
            ),
            both(
                "the same twice",
                Head("GET / HTTP/1.1", &["Host: h", "Host: h"], ""),
                closed(400, "bad_host"),
            ),
            both(
                "two in HTTP/1.0",
                Head("GET / HTTP/1.0", &["Host: h", "Host: g"], ""),
                closed(400, "bad_host"),
            ),
            both(
                "empty",
                Head("GET / HTTP/1.1", &["Host: "], ""),
                closed(400, "bad_host"),
            ),
            both(
                "with a path",
                Head("GET / HTTP/1.1", &["Host: h/a"], ""),
                closed(400, "bad_host"),
            ),
            both(
                "with a user",
                Head("GET / HTTP/1.1", &["Host: u@h"], ""),
                closed(400, "bad_host"),
            ),
            both(
                "a list",
                Head("GET / HTTP/1.1", &["Host: a,b"], ""),
                closed(400, "bad_host"),
            ),
            both(
                "with a space",
                Head("GET / HTTP/1.1", &["Host: a b"], ""),
                closed(400, "bad_host"),
            ),
            both(
                "with a port that is not a number",
                Head("GET / HTTP/1.1", &["Host: h:x"], ""),
                closed(400, "bad_host"),
            ),
        ],
    ),
    (
        "Length of the content",
        &[
            both(
                "`Content-Length` empty",
                Head("GET / HTTP/1.1", &["Host: h", "Content-Length: "], ""),
                closed(400, "content_length"),
            ),
            both(
                "with a sign",
                Head("GET / HTTP/1.1", &["Host: h", "Content-Length: +0"], ""),
                closed(400, "content_length"),
            ),
            both(
                "a list of the same",
                Head("GET / HTTP/1.1", &["Host: h", "Content-Length: 0, 0"], ""),
                closed(400, "content_length"),
            ),
            both(
                "with a space",
                Head("GET / HTTP/1.1", &["Host: h", "Content-Length: 0 0"], ""),
                closed(400, "content_length"),
            ),
            both(
                "hexadecimal",
                Head("GET / HTTP/1.1", &["Host: h", "Content-Length: 0x0"], ""),
                closed(400, "content_length"),
            ),
            both(
                "twice the same",
                Head(
                    "GET / HTTP/1.1",
                    &["Host: h", "Content-Length: 0", "Content-Length: 0"],
                    "",
                ),
                closed(400, "content_length"),
            ),
            both(
                "two lengths",
                Head(
                    "GET / HTTP/1.1",
                    &["Host: h", "Content-Length: 0", "Content-Length: 5"],
                    "",
                ),
                closed(400, "content_length"),
            ),
            row(
                "zero, with leading zeros",
                Head("GET / HTTP/1.1", &["Host: h", "Content-Length: 000"], ""),
                Served(200),
                NOT_FOUND,
            ),
            row(
                "content after GET",
                Head("GET / HTTP/1.1", &["Host: h", "Content-Length: 5"], "hello"),
                closed(413, "content_unwanted"),
                NOT_FOUND,
            ),
            row(
                "content after POST",
                Head(
                    "POST / HTTP/1.1",
                    &["Host: h", "Content-Length: 5"],
                    "hello",
                ),
                closed(405, "method_not_allowed"),
                NOT_FOUND,
            ),
            row(
                "more than 64 bits",
                Head(
                    "GET / HTTP/1.1",
                    &["Host: h", "Content-Length: 99999999999999999999"],
                    "",
                ),
                closed(413, "content_unwanted"),
                closed(413, "too_long"),
            ),
            both(
                "`Transfer-Encoding` beside it",
                Head(
                    "GET / HTTP/1.1",
                    &["Host: h", "Content-Length: 5", "Transfer-Encoding: chunked"],
                    "0\r\n\r\n",
                ),
                closed(400, "content_framing"),
            ),
            both(
                "`Transfer-Encoding` in HTTP/1.0",
                Head(
                    "GET / HTTP/1.0",
                    &["Host: h", "Transfer-Encoding: chunked"],
                    "0\r\n\r\n",
                ),
                closed(400, "content_framing"),
            ),
            row(
                "chunks",
                Head(
                    "GET / HTTP/1.1",
                    &["Host: h", "Transfer-Encoding: chunked"],
                    "0\r\n\r\n",
                ),
                closed(501, "transfer_coding"),
                NOT_FOUND,
            ),
            both(
                "`identity`",
                Head(
                    "GET / HTTP/1.1",
                    &["Host: h", "Transfer-Encoding: identity"],
                    "",
                ),
                closed(400, "transfer_encoding"),
            ),
            both(
                "`xchunked`",
                Head(
                    "GET / HTTP/1.1",
                    &["Host: h", "Transfer-Encoding: xchunked"],
                    "",
                ),
                closed(400, "transfer_encoding"),
            ),
            both(
                "`chunked` twice in one field",
                Head(
                    "GET / HTTP/1.1",
                    &["Host: h", "Transfer-Encoding: chunked, chunked"],
                    "",
                ),
                closed(400, "transfer_encoding"),
            ),
            both(
                "`chunked` in two fields",
                Head(
                    "GET / HTTP/1.1",
                    &[
                        "Host: h",
                        "Transfer-Encoding: chunked",
                        "Transfer-Encoding: chunked",
                    ],
                    "",
                ),
                closed(400, "transfer_encoding"),
            ),
            both(
                "`chunked` below another",
                Head(
                    "GET / HTTP/1.1",
                    &["Host: h", "Transfer-Encoding: chunked, gzip"],
                    "",
                ),
                closed(400, "transfer_encoding"),
            ),
            both(
                "`chunked` above another",
                Head(
                    "GET / HTTP/1.1",
                    &["Host: h", "Transfer-Encoding: gzip, chunked"],
                    "",
                ),
                closed(501, "transfer_coding"),
            ),
            both(
                "a vertical tab before `chunked`",
                Head(
                    "GET / HTTP/1.1",
                    &["Host: h", "Transfer-Encoding: \x0bchunked"],
                    "",
                ),
                closed(400, "bad_field"),
            ),
            both(
                "a space before the colon",
                Head(
                    "GET / HTTP/1.1",
                    &["Host: h", "Transfer-Encoding : chunked"],
                    "",
                ),
                closed(400, "bad_field"),
            ),
            row(
                "a chunk with a sign",
                Head(
                    "POST /publish?channel=a HTTP/1.1",
                    &["Host: h", "Transfer-Encoding: chunked"],
                    "+1\r\nx\r\n0\r\n\r\n",
                ),
                closed(400, "bad_chunks"),
                closed(400, "bad_request"),
            ),
            row(
                "a chunk whose size ends in LF alone",
                Head(
                    "POST /publish?channel=a HTTP/1.1",
                    &["Host: h", "Transfer-Encoding: chunked"],
                    "1\nx\r\n0\r\n\r\n",
                ),
                closed(400, "bad_chunks"),
                closed(400, "bad_request"),
            ),
            row(
                "a trailer that ends in LF alone",
                Head(
                    "POST /publish?channel=a HTTP/1.1",
                    &["Host: h", "Transfer-Encoding: chunked"],
                    "0\r\nA: b\n\r\n",
                ),
                closed(400, "bad_chunks"),
                closed(400, "bad_request"),
            ),
            row(
                "a bare CR in a trailer",
                Head(
                    "POST /publish?channel=a HTTP/1.1",
                    &["Host: h", "Transfer-Encoding: chunked"],
                    "1\r\n1\r\n0\r\nA: b\rGET /x HTTP/1.1\r\n\r\n",
                ),
                closed(400, "bad_chunks"),
                closed(400, "bad_request"),
            ),
            row(
                "a trailer without a colon",
                Head(
                    "POST /publish?channel=a HTTP/1.1",
                    &["Host: h", "Transfer-Encoding: chunked"],
                    "1\r\n1\r\n0\r\nGET / HTTP/1.1\r\n\r\n",
                ),
                closed(400, "bad_chunks"),
                closed(400, "bad_request"),
            ),
            row(
                "a folded trailer",
                Head(
                    "POST /publish?channel=a HTTP/1.1",
                    &["Host: h", "Transfer-Encoding: chunked"],
                    "1\r\n1\r\n0\r\nA: b\r\n c: d\r\n\r\n",
                ),
                closed(400, "bad_chunks"),
                closed(400, "bad_request"),
            ),
            row(
                "a NUL in a chunk extension",
                Head(
                    "POST /publish?channel=a HTTP/1.1",
                    &["Host: h", "Transfer-Encoding: chunked"],
                    "1;x=\"\0\r\n1\r\n0\r\n\r\n",
                ),
                closed(400, "bad_chunks"),
                closed(400, "bad_request"),
            ),
            row(
                "a publication with a length",
                Head(
                    "POST /publish?channel=a HTTP/1.1",
                    &["Host: h", "Content-Length: 1"],
                    "1",
                ),
                Served(200),
                Served(200),
            ),
            row(
                "a publication in chunks",
                Head(
                    "POST /publish?channel=a HTTP/1.1",
                    &["Host: h", "Transfer-Encoding: chunked"],
                    "1;x=y\r\n[\r\n1\r\n]\r\n0\r\nA: b\r\n\r\n",
                ),
                Served(200),
                Served(200),
            ),
            row(
                "a publication without content",
                Head("POST /publish?channel=a HTTP/1.1", &["Host: h"], ""),
                refused(411, "length_required"),
                refused(411, "length_required"),
            ),
            row(
                "a refused publication with content",
                Head(
                    "POST /publish?channel=b HTTP/1.1",
                    &["Host: h", "Content-Length: 25"],
                    "GET / HTTP/1.1\r\nHost: h\r\n",
                ),
                closed(403, "not_allowed"),
                Served(200),
            ),
        ],
    ),
    (
        "Expect, Connection and Upgrade",
        &[
            row(
                "`100-continue` without content",
                Head("GET / HTTP/1.1", &["Host: h", "Expect: 100-continue"], ""),
                Served(200),
                NOT_FOUND,
            ),
            row(
                "`100-continue` before content that is refused",
                Head(
                    "POST / HTTP/1.1",
                    &["Host: h", "Expect: 100-continue", "Content-Length: 1"],
                    "x",
                ),
                closed(405, "method_not_allowed"),
                closed(404, "not_found"),
            ),
            row(
                "another expectation",
                Head("GET / HTTP/1.1", &["Host: h", "Expect: tea"], ""),
                refused(417, "expectation_failed"),
                closed(417, "expectation_failed"),
            ),
            row(
                "`Connection: keep-alive, close`",
                Head(
                    "GET / HTTP/1.1",
                    &["Host: h", "Connection: keep-alive, close"],
                    "",
                ),
                Ends(200),
                closed(404, "not_found"),
            ),
            row(
                "`Connection` on two lines, `close` on the second",
                Head(
                    "GET / HTTP/1.0",
                    &["Connection: keep-alive", "Connection: x, Close"],
                    "",
                ),
                Ends(200),
                closed(404, "not_found"),
            ),
            row(
                "`Connection: Host`",
                Head("GET / HTTP/1.1", &["Host: h", "Connection: Host"], ""),
                Served(200),
                NOT_FOUND,
            ),
            row(
                "`Connection: Content-Length`, and content",
                Head(
                    "GET / HTTP/1.1",
                    &["Host: h", "Connection: Content-Length", "Content-Length: 5"],
                    "hello",
                ),
                closed(413, "content_unwanted"),
                NOT_FOUND,
            ),
            row(
                "`Upgrade: h2c` without a WebSocket",
                Head(
                    "GET / HTTP/1.1",
                    &["Host: h", "Upgrade: h2c", "Connection: Upgrade"],
                    "",
                ),
                Served(200),
                NOT_FOUND,
            ),
            row(
                "WebSocket with `Content-Length: 0`",
                Upgrade("GET /ws?channel=a HTTP/1.1", &["Content-Length: 0"], ""),
                Opens,
                NOT_FOUND,
            ),
            row(
                "WebSocket with content",
                Upgrade(
                    "GET /ws?channel=a HTTP/1.1",
                    &["Content-Length: 5"],
                    "hello",
                ),
                closed(413, "content_unwanted"),
                NOT_FOUND,
            ),
            row(
                "WebSocket with chunks",
                Upgrade(
                    "GET /ws?channel=a HTTP/1.1",
                    &["Transfer-Encoding: chunked"],
                    "0\r\n\r\n",
                ),
                closed(501, "transfer_coding"),
                NOT_FOUND,
            ),
            row(
                "WebSocket by HTTP/1.0",
                Upgrade("GET /ws?channel=a HTTP/1.0", &[], ""),
                closed(426, "upgrade_required"),
                closed(404, "not_found"),
            ),
            row(
                "WebSocket by POST",
                Upgrade("POST /ws?channel=a HTTP/1.1", &[], ""),
                refused(405, "method_not_allowed"),
                NOT_FOUND,
            ),
            row(
                "WebSocket without `Connection: Upgrade`",
                Head(
                    "GET /ws?channel=a HTTP/1.1",
                    &[
                        "Host: h",
                        "Upgrade: websocket",
                        "Sec-WebSocket-Version: 13",
                        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
                    ],
                    "",
                ),
                refused(400, "bad_upgrade"),
                NOT_FOUND,
            ),
        ],
    ),
];
