//! A table of malformed and ambiguous requests, with the responses of clients' listeners and the
//! feed. This module also generates the documentation page that shows the table.
//!
//! A row contains the bytes of a request, and the expected response of each of the two sockets. The
//! two responses differ only because the sockets serve different resources, never because the
//! sockets parse bytes differently.

pub(crate) mod rows;
mod sockets;

use std::fmt::{self, Write as _};

/// One request of the table, with the expected responses.
pub(crate) struct Row {
    /// The fault of the request, as the documentation names it.
    pub(crate) what: &'static str,
    pub(crate) sent: Sent,
    /// The expected response of a listener for clients.
    pub(crate) clients: Verdict,
    /// The expected response of the feed.
    pub(crate) feed: Verdict,
}

/// The bytes of a request.
pub(crate) enum Sent {
    /// Exactly these bytes.
    Bytes(&'static [u8]),
    /// A request line, fields, and the bytes after the head.
    Head(&'static str, &'static [&'static str], &'static str),
    /// A start, a middle and how often the middle is repeated, and an end.
    Long(&'static str, &'static str, usize, &'static str),
    /// Like `Head`, but the fields of a valid handshake come before the other fields.
    Upgrade(&'static str, &'static [&'static str], &'static str),
}

const HANDSHAKE: [&str; 5] = [
    "Host: h",
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
];

impl Sent {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        match *self {
            Self::Bytes(bytes) => bytes.to_vec(),
            Self::Head(start, fields, behind) => head(start, fields, behind),
            Self::Long(before, middle, count, behind) => {
                format!("{before}{}{behind}", middle.repeat(count)).into_bytes()
            }
            Self::Upgrade(start, fields, behind) => {
                head(start, &[&HANDSHAKE, fields].concat(), behind)
            }
        }
    }
}

fn head(start: &str, fields: &[&str], behind: &str) -> Vec<u8> {
    let lines = [&[start], fields, &["", behind]].concat();
    lines.join("\r\n").into_bytes()
}

/// The response to a request, and whether the connection is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The request is served, and the connection closes.
    Ends(u16),
    /// The response is an HTTP/2 GOAWAY frame with this code, and the connection closes.
    GoAway(&'static str),
    /// The request is a WebSocket handshake that succeeds.
    Opens,
    /// The request is refused with this code, and the connection closes.
    RefusedAndClosed(u16, &'static str),
    /// The request is refused with this code, and the next request is answered.
    Refused(u16, &'static str),
    /// The request is served, and the next request is answered.
    Served(u16),
    /// The request is not recognized as HTTP, so the feed reads it as a line.
    Line,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ends(status) => write!(f, "{status}, closed"),
            Self::GoAway(code) => write!(f, "GOAWAY `{code}`, closed"),
            Self::Opens => f.write_str("101"),
            Self::RefusedAndClosed(status, code) => write!(f, "{status} `{code}`, closed"),
            Self::Refused(status, code) => write!(f, "{status} `{code}`"),
            Self::Served(status) => write!(f, "{status}"),
            Self::Line => f.write_str("not HTTP there"),
        }
    }
}

/// Returns the text of the documentation page.
pub(crate) fn page() -> String {
    let mut page = String::from(INTRODUCTION);
    for (title, rows) in rows::ROWS {
        writeln!(page, "\n| {title} | clients | feed |\n|---|---|---|").unwrap();
        for row in *rows {
            writeln!(page, "| {} | {} | {} |", row.what, row.clients, row.feed).unwrap();
        }
    }
    page
}

const INTRODUCTION: &str = "\
# Malformed and ambiguous requests

A proxy in front of the server and the server itself have to agree on where each request ends and
which resource it names. Otherwise a request can be smuggled past the proxy (RFC 9112, 11.2). So
ambiguous requests are refused, never repaired. Where the end of a request is in doubt, the connection
closes after the response, and no later byte is read. Clients' listeners and the feed use one parser;
the columns differ only where the sockets serve different resources. The word in the table is `code` in
the problem document.

An HTTP/2 client reads a response of HTTP/1.1 as invalid frames and reports nothing of it. It gets a
GOAWAY frame with the code `HTTP_1_1_REQUIRED` (RFC 9113, 7), whose debug data is the problem document.
A TLS handshake to a plain port gets an HTTP response too: TLS has no alert for this case, and clients
report plain HTTP as such (Go) or as a wrong version (OpenSSL). Plain HTTP to a TLS port gets
400 `plain_http_on_tls`, without TLS.

`tests/live/strictness` sends every row to both sockets and compares this page with its table.
";
