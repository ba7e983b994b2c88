//! What each doubtful request gets, from clients' listeners and from the feed: the table itself,
//! and the page of the documentation that shows it.
//!
//! A row has the bytes, and one verdict for either socket. Where the two differ, the reason is what
//! is served there and never how the bytes are read.

pub(crate) mod rows;
mod sockets;

use std::fmt::{self, Write as _};

/// One request.
pub(crate) struct Row {
    /// What is odd about it.
    pub(crate) what: &'static str,
    /// The request.
    pub(crate) sent: Sent,
    /// What a client gets.
    pub(crate) clients: Verdict,
    /// What a feeder gets.
    pub(crate) feed: Verdict,
}

/// Bytes of a request.
pub(crate) enum Sent {
    /// These.
    Bytes(&'static [u8]),
    /// A request line, fields, and what is behind them.
    Head(&'static str, &'static [&'static str], &'static str),
    /// These, with so many repetitions in the middle.
    Long(&'static str, &'static str, usize, &'static str),
    /// The same as a head, with the fields of a good handshake before the others.
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

/// What becomes of a request and of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Served, and nothing is read behind it.
    Ends(u16),
    /// Frames of HTTP/2 with this word, and nothing is read behind it.
    GoAway(&'static str),
    /// A WebSocket.
    Opens,
    /// Refused with this word, and nothing is read behind it.
    RefusedAndClosed(u16, &'static str),
    /// Refused with this word; the next request is answered.
    Refused(u16, &'static str),
    /// Served; the next request is answered.
    Served(u16),
    /// It does not begin as HTTP does, and so is a line of the feed.
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

/// The page of the documentation.
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
# What doubtful requests get

Whoever stands in front of the server and the server itself have to agree on where each request ends
and whom it is for, or one of them can be made to see a request that the other does not: smuggling,
RFC 9112, 11.2. So what is doubtful is refused and not mended, and where the end of a request is in
doubt, the connection closes behind the answer and nothing that was sent behind it is looked at. One
reader has these verdicts for clients and for the feed; where the columns differ, it is because other
things are served there. The word is `code` in the problem document.

A client that speaks HTTP/2 takes a response of HTTP/1.1 for broken frames and shows nothing of it. It
gets a GOAWAY frame with the code `HTTP_1_1_REQUIRED` (RFC 9113, 7), whose debug data is the problem
document. A TLS handshake to a plain port gets a response too: TLS has no alert for this case, and
clients report plain HTTP as such (Go) or as a wrong version (OpenSSL). The other way round, plain HTTP
to a port that speaks TLS gets 400 `plain_http_on_tls`, without TLS.

`tests/live/strictness` sends every row to both sockets and compares this page with its table.
";
