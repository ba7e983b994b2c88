//! Checks HTTP on the feed: heads, bodies with a length and chunked bodies, and their publications.
//!
//! The requests do not depend on how the bytes are cut. If a request leaves the connection open, a
//! simple reader of heads and bodies must find the same start of the next request (RFC 9112, 11.2).
//! A publication that is printed as JSON decodes to itself.

use fanfare::feed::protocol::http_publish::Publish;
use fanfare::feed::protocol::item::Item;
use fanfare::feed::protocol::item::Request;

use super::feed::{self, check_payload, print_draft, read_line};

/// Runs the target on an input: the bytes of a feeder.
pub fn attack(bytes: &[u8]) {
    if !bytes.first().is_some_and(u8::is_ascii_alphabetic) {
        return;
    }
    let mut start = 0;
    let mut has_ended = false;
    for decoded in feed::decode(bytes) {
        assert!(!has_ended, "{decoded:?} after the end");
        match decoded.item {
            Item::Continue => {}
            Item::Request(request) => {
                check(&request);
                has_ended = request.is_last;
                // After an error that leaves the end of the request unknown, the connection may be
                // closed.
                if !has_ended {
                    assert_eq!(decoded.end, end_of_request(bytes, start), "{request:?}");
                }
                start = decoded.end;
            }
            item => panic!("not a request: {item:?}"),
        }
    }
}

fn check(request: &Request) {
    match &request.outcome {
        Ok(Publish { drafts, .. }) => {
            for draft in drafts {
                check_payload(&draft.payload);
                let printed = print_draft(draft);
                match read_line(&printed) {
                    Item::Publish { draft: again, .. } => assert_eq!(again, *draft, "{printed}"),
                    other => panic!("{printed} is {other:?}"),
                }
            }
        }
        Err(problem) => {
            assert!((400..600).contains(&problem.status.code()));
            assert!(!problem.error.is_empty());
            assert!(problem.detail.len() < 400, "{problem:?}");
        }
    }
}

/// Returns the end of the request that begins at `start`. Finds it line by line.
fn end_of_request(bytes: &[u8], start: usize) -> usize {
    let mut at = start;
    let mut lengths = Vec::new();
    let mut is_chunked = false;
    let mut has_begun = false;
    loop {
        let line = take_line(bytes, &mut at);
        if line.is_empty() && has_begun {
            break;
        }
        has_begun |= !line.is_empty();
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            continue;
        };
        let (name, value) = line.split_at(colon);
        let value = value[1..].trim_ascii();
        if name.eq_ignore_ascii_case(b"content-length") {
            lengths.push(
                str::from_utf8(value)
                    .expect("a number")
                    .parse()
                    .expect("a number"),
            );
        }
        is_chunked |= name.eq_ignore_ascii_case(b"transfer-encoding");
    }
    assert!(lengths.len() + usize::from(is_chunked) <= 1, "one length");
    if is_chunked {
        return end_of_chunks(bytes, at);
    }
    at + lengths.first().copied().unwrap_or(0_usize)
}

fn end_of_chunks(bytes: &[u8], mut at: usize) -> usize {
    loop {
        let line = take_line(bytes, &mut at);
        let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit());
        let digits: String = digits.map(|byte| char::from(*byte)).collect();
        let size = usize::from_str_radix(&digits, 16).expect("a chunk's size");
        if size == 0 {
            while !take_line(bytes, &mut at).is_empty() {}
            return at;
        }
        at += size;
        assert_eq!(&bytes[at..at + 2], b"\r\n", "the end of a chunk");
        at += 2;
    }
}

/// Returns the line at a position, without its line end. Moves the position after the line.
fn take_line<'b>(bytes: &'b [u8], at: &mut usize) -> &'b [u8] {
    let rest = &bytes[*at..];
    let end = rest.iter().position(|byte| *byte == b'\n');
    let line = &rest[..end.expect("a line end")];
    *at += line.len() + 1;
    line.strip_suffix(b"\r").unwrap_or(line)
}
