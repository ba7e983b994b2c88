//! PURE: this module reads the response to a poll: gaps, publications, and the position of the next
//! poll.
//!
//! For speed, the parser does not parse the whole JSON but searches for the few required members.
//! It relies on the order in which fanfare writes members. The parser finds the end of a
//! publication from the JSON syntax alone, so it can also read the payloads of other publishers. A
//! search for a key with its quotes cannot match inside a string, where quotes are escaped (RFC
//! 8259, 7). [`super::stream_parser`] calls this module with bytes that may be incomplete.

use memchr::memchr2;

use super::position::Position;
use super::stream_parser::{ClientEvent, KEYS, publication, sequence_after};

/// The maximum number of header fields in a response, including fields that a proxy adds.
const FIELDS_MAX: usize = 64;

/// Reads one response and returns its length. Returns `None` if the response is incomplete.
pub(super) fn read_response(
    bytes: &[u8],
    is_first: bool,
    on_event: &mut impl FnMut(ClientEvent),
) -> Option<usize> {
    let (status, head_bytes, content_bytes) = match read_head(bytes) {
        Head::Incomplete => return None,
        Head::Whole {
            status,
            bytes,
            content_bytes,
        } => (status, bytes, content_bytes),
    };
    let (200, Some(content_bytes)) = (status, content_bytes) else {
        on_event(ClientEvent::Refused { status });
        // The content of the refusal is not needed.
        return Some(bytes.len());
    };
    let end = head_bytes.checked_add(content_bytes)?;
    let content = bytes.get(head_bytes..end)?;
    if emit_content(content, is_first, on_event).is_none() {
        on_event(ClientEvent::Ended);
    }
    Some(end)
}

enum Head {
    Incomplete,
    Whole {
        /// The status, or 0 if the response is not HTTP.
        status: u16,
        bytes: usize,
        /// The value of Content-Length, if present.
        content_bytes: Option<usize>,
    },
}

fn read_head(bytes: &[u8]) -> Head {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut response = httparse::Response::new(&mut fields);
    match response.parse(bytes) {
        Ok(httparse::Status::Partial) => Head::Incomplete,
        Ok(httparse::Status::Complete(bytes)) => {
            let mut fields = response.headers.iter();
            let length = fields.find(|field| field.name.eq_ignore_ascii_case("content-length"));
            let length = length.and_then(|field| std::str::from_utf8(field.value).ok());
            Head::Whole {
                status: response.code.unwrap_or(0),
                bytes,
                content_bytes: length.and_then(|length| length.trim().parse().ok()),
            }
        }
        Err(_not_http) => Head::Whole {
            status: 0,
            bytes: bytes.len(),
            content_bytes: None,
        },
    }
}

/// Emits the gaps and publications in order. Returns `None` if any part of the content, including
/// its end, is not as expected.
fn emit_content(
    content: &[u8],
    is_first: bool,
    on_event: &mut impl FnMut(ClientEvent),
) -> Option<()> {
    let rest = content.strip_prefix(b"{\"id\":\"")?;
    let id = rest.get(..memchr::memchr(b'"', rest)?)?;
    let position: Position = std::str::from_utf8(id).ok()?.parse().ok()?;
    if is_first {
        on_event(ClientEvent::Subscribed {
            sequence: Some(position.sequence),
        });
    }
    let opening_bytes = KEYS.publications.find(rest)?;
    let mut opening = rest.get(..opening_bytes)?;
    while let Some(at) = KEYS.until.find(opening) {
        on_event(ClientEvent::Gap {
            until: sequence_after(opening, &KEYS.until),
        });
        opening = opening.get(at + KEYS.until.needle().len()..)?;
    }
    let mut rest = rest.get(opening_bytes + KEYS.publications.needle().len()..)?;
    while !rest.starts_with(b"]") {
        rest = rest.strip_prefix(b",").unwrap_or(rest);
        let (element, after) = rest.split_at_checked(object_bytes(rest)?)?;
        on_event(publication(element, Some(&KEYS.id_member)));
        rest = after;
    }
    on_event(ClientEvent::PollAnswered { position });
    (rest == b"]}").then_some(())
}

/// Returns the length of the JSON object at the start of a text.
fn object_bytes(text: &[u8]) -> Option<usize> {
    text.starts_with(b"{").then_some(())?;
    let (mut at, mut depth) = (0_usize, 0_usize);
    loop {
        match text.get(at)? {
            b'"' => at = string_end(text, at + 1)?,
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth -= 1,
            _ => {}
        }
        at += 1;
        if depth == 0 {
            return Some(at);
        }
    }
}

/// Returns the index of the quote that ends a string. `at` is an index inside the string.
fn string_end(text: &[u8], mut at: usize) -> Option<usize> {
    loop {
        at += memchr2(b'"', b'\\', text.get(at..)?)?;
        if text.get(at) == Some(&b'"') {
            return Some(at);
        }
        at += 2;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::inflate_cache::InflateCache;
    use super::super::stream_parser::{Kind, Stamp, StreamParser};
    use super::*;

    fn answer(content: &str) -> String {
        let length = content.len();
        format!("HTTP/1.1 200 OK\r\nETag: \"1-1\"\r\ncontent-length: {length}\r\n\r\n{content}")
    }

    fn event(pieces: &[&[u8]]) -> Vec<ClientEvent> {
        let mut stream = StreamParser::new(Kind::Poll);
        let mut inflate_cache = InflateCache::default();
        let mut all = Vec::new();
        for piece in pieces {
            stream.push(piece, &mut inflate_cache, &mut |event| all.push(event));
        }
        all
    }

    fn id(sequence: u64) -> String {
        format!("00000000000a-{sequence}")
    }

    fn answered(sequence: u64) -> ClientEvent {
        let position = id(sequence).parse().unwrap();
        ClientEvent::PollAnswered { position }
    }

    fn foreign(sequence: u64) -> ClientEvent {
        ClientEvent::Publication {
            stamp: None,
            sequence: Some(sequence),
        }
    }

    /// Returns the events of a response with this content. The connection is already subscribed,
    /// because it has received an earlier response.
    fn later(content: &str) -> Vec<ClientEvent> {
        let first = format!("{{\"id\":\"{}\",\"gap\":false,\"publications\":[]}}", id(6));
        let bytes = answer(&first) + &answer(content);
        let mut all = event(&[bytes.as_bytes()]);
        let ready = ClientEvent::Subscribed { sequence: Some(6) };
        assert_eq!(all.drain(..2).collect::<Vec<_>>(), [ready, answered(6)]);
        all
    }

    #[test]
    fn polls_have_the_same_events_for_every_cut() {
        let stamped = "{\"n\":\"000000000007\",\"t\":\"0000000000000000042\",\"p\":\"..\"}";
        let mut bytes = answer(&format!(
            "{{\"id\":\"{}\",\"gap\":false,\"publications\":[]}}",
            id(6)
        ));
        bytes += &answer(&format!(
            "{{\"id\":\"{}\",\"gap\":true,\"gaps\":[{{\"channel\":\"c\",\"since\":null,\
             \"until\":\"{}\",\"missed\":1}},{{\"channel\":\"d\",\"since\":\"a-1\",\
             \"until\":\"{}\"}}],\"publications\":[{{\"channel\":\"c\",\"id\":\"{}\",\
             \"data\":{stamped}}},{{\"channel\":\"c\",\"id\":\"{}\",\"text\":\"\"}}]}}",
            id(11),
            id(8),
            id(9),
            id(10),
            id(11),
        ));
        let stamp = Some(Stamp {
            number: 7,
            due_ns: 42,
        });
        let expected = [
            ClientEvent::Subscribed { sequence: Some(6) },
            answered(6),
            ClientEvent::Gap { until: Some(8) },
            ClientEvent::Gap { until: Some(9) },
            ClientEvent::Publication {
                stamp,
                sequence: Some(10),
            },
            foreign(11),
            answered(11),
        ];
        let bytes = bytes.as_bytes();
        assert_eq!(event(&[bytes]), expected);
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(event(&single), expected);
        for cut in 0..bytes.len() {
            let (left, right) = bytes.split_at(cut);
            assert_eq!(event(&[left, right]), expected, "cut at {cut}");
        }
    }

    #[test]
    fn payloads_that_look_like_responses_are_payloads() {
        for data in [
            "{\"id\":\"a-99\",\"publications\":[{}]}",
            "\"]}\\\"\\\\\"",
            "[[],{\"until\":\"a-3\"},\"\\\\\\\"}\"]",
            "-1.5e3",
        ] {
            let all = later(&format!(
                "{{\"id\":\"{0}\",\"gap\":false,\"publications\":[{{\"channel\":\"\\\"id\\\":\\\"\",\
                 \"id\":\"{0}\",\"data\":{data}}}]}}",
                id(7)
            ));
            assert_eq!(all, [foreign(7), answered(7)], "{data}");
        }
    }

    #[test]
    fn other_responses_are_refusals_with_their_status() {
        for (text, status) in [
            ("HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", 503),
            ("HTTP/1.1 304 Not Modified\r\n\r\n", 304),
            ("HTTP/1.1 200 OK\r\nA: b\r\n\r\n{}", 200),
            ("ICY 200 OK\r\n\r\n", 0),
        ] {
            let expected = [ClientEvent::Refused { status }];
            assert_eq!(event(&[text.as_bytes()]), expected, "{text}");
        }
    }

    #[test]
    fn invalid_content_ends_the_stream() {
        for content in [
            "",
            "{}",
            "{\"id\":\"x\",\"gap\":false,\"publications\":[]}",
            "{\"id\":\"00000000000a-7\",\"publications\":[1]}",
            "{\"id\":\"00000000000a-7\",\"publications\":[{]}",
            "{\"id\":\"00000000000a-7\",\"publications\":",
        ] {
            assert_eq!(
                later(content).last(),
                Some(&ClientEvent::Ended),
                "{content}"
            );
        }
    }

    proptest! {
        #[test]
        fn no_content_panics(content in "[{}\\[\\]\",:a-z0-9\\\\-]{0,60}") {
            let prefix = format!("{{\"id\":\"{}\",\"gap\":false,\"publications\":[", id(7));
            for content in [content.clone(), prefix + &content] {
                let _event = later(&content);
            }
        }
    }
}
