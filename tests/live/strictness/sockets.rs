//! Sends each request of the table in [`super::rows`] to the clients' listener and to the feed.
//!
//! The test sends a second, valid request after each row. The response to the second request shows
//! whether the server reads bytes after a request that closes the connection. Meanwhile a
//! subscriber must receive every publication.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use super::Verdict;
use super::rows::ROWS;
use crate::support::raw::connect;
use crate::support::{Feeder, PATIENCE, Server, Socket};

/// The request that is sent after each row. Its path is unknown, so both sockets refuse it in the
/// same way.
const FOLLOWING: &[u8] = b"GET /behind HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";

/// Returns the status and `code` of each response up to the end of the stream.
fn responses(mut bytes: &[u8]) -> Vec<(u16, String)> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
        let end = end.unwrap_or_else(|| panic!("no head: {}", bytes.escape_ascii()));
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
        let status = head[9..12].parse().unwrap();
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("Content-Length: "))
            .map_or(0, |length| length.parse().unwrap());
        let content = &bytes[end + 4..end + 4 + length];
        let problem: Option<serde_json::Value> = serde_json::from_slice(content).ok();
        let word = problem.and_then(|problem| Some(problem.get("code")?.as_str()?.to_owned()));
        found.push((status, word.unwrap_or_default()));
        bytes = &bytes[end + 4 + length..];
    }
    found
}

/// Sends a request in these pieces and [`FOLLOWING`], and compares the responses with the expected
/// one.
fn check(mut stream: impl Read + Write, pieces: &[&[u8]], verdict: Verdict, what: &str) {
    for piece in pieces {
        stream.write_all(piece).unwrap();
    }
    if verdict == Verdict::Opens {
        let mut head = [0; 12];
        stream.read_exact(&mut head).unwrap();
        assert_eq!(&head, b"HTTP/1.1 101", "{what}");
        return;
    }
    stream.write_all(FOLLOWING).unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    if let Verdict::GoAway(word) = verdict {
        return check_goaway(&bytes, word, what);
    }
    let first = |status, word: &str| (status, word.to_owned());
    let following = first(404, "not_found");
    let expected = match verdict {
        Verdict::Ends(status) => vec![first(status, "")],
        Verdict::RefusedAndClosed(status, word) => vec![first(status, word)],
        Verdict::Refused(status, word) => vec![first(status, word), following],
        Verdict::Served(status) => vec![first(status, ""), following],
        Verdict::GoAway(_) | Verdict::Line | Verdict::Opens => panic!("not sent"),
    };
    assert_eq!(responses(&bytes), expected, "{what}");
}

/// Checks that the bytes are a SETTINGS frame, and a GOAWAY frame with `HTTP_1_1_REQUIRED` and a
/// problem document (RFC 9113, 6.8).
fn check_goaway(bytes: &[u8], word: &str, what: &str) {
    let (settings, goaway) = bytes.split_at(9);
    assert_eq!(settings, [0, 0, 0, 4, 0, 0, 0, 0, 0], "{what}");
    let (header, payload) = goaway.split_at(9);
    let length = u32::from_be_bytes([0, header[0], header[1], header[2]]);
    assert_eq!(length as usize, payload.len(), "{what}");
    assert_eq!(header[3..], [7, 0, 0, 0, 0, 0], "{what}");
    let (numbers, document) = payload.split_at(8);
    assert_eq!(numbers, [0, 0, 0, 0, 0, 0, 0, 0x0d], "{what}");
    let problem: serde_json::Value = serde_json::from_slice(document).unwrap();
    assert_eq!(problem["code"], word, "{what}");
}

#[test]
fn every_row_gets_its_verdict_without_effect_on_others() {
    // Clients may publish to channel `a`, so the content of such a request is read.
    let config = "[[namespace]]\nmatch = \"a\"\nclient_publish = \"broadcast\"\n";
    let server = Server::with(config, &[]);
    let mut beside = Socket::subscribed(server.addr, "channel=beside");
    let mut feeder = Feeder::connect(&server.feed);
    for row in ROWS.iter().flat_map(|(_, rows)| *rows) {
        let bytes = row.sent.bytes();
        let (front, back) = bytes.split_at(bytes.len() / 2);
        for pieces in [&[&*bytes][..], &[front, back]] {
            check(connect(server.addr), pieces, row.clients, row.what);
            if row.feed != Verdict::Line {
                let feed = UnixStream::connect(&server.feed).unwrap();
                feed.set_read_timeout(Some(PATIENCE)).unwrap();
                check(feed, pieces, row.feed, row.what);
            }
        }
        let id = feeder.publish("beside", row.what);
        let publication = beside.publication();
        assert_eq!(publication["id"], id.as_str());
        assert_eq!(publication["data"], row.what);
    }
}

#[test]
fn every_row_is_in_the_documentation() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/http/strictness.md");
    let page = super::page();
    if std::env::var_os("FANFARE_GOLDEN").is_some_and(|value| value == "write") {
        fs::write(path, &page).unwrap();
    }
    let written = fs::read_to_string(path).unwrap();
    assert!(written == page, "run with FANFARE_GOLDEN=write");
}
