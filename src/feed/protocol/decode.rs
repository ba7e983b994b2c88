//! PURE: this module decodes the bytes of one feeder, which may be split at any position, into
//! publications, commands, requests and errors.
//!
//! The first byte determines the framing: an ASCII letter begins an HTTP request, any other byte
//! begins a line. The caller requests one item at a time, so that it can stop while the feeder does
//! not read its answers. The decoder does not store lines. Instead, the caller passes unconsumed
//! bytes again, followed by more bytes. The decoder uses no sockets, sequence numbers or clocks.

use super::command::Line;
use super::draft::NameCache;
use super::item::{Item, Step};
use super::refusal::Refusal;
use super::request::Requests;
use crate::certain;
use crate::config::Limits;

/// Decodes the bytes of one feeder into items.
#[derive(Debug)]
pub struct Decoder {
    framing: Framing,
    names: NameCache,
    limits: Limits,
}

#[derive(Debug)]
enum Framing {
    /// No byte has been received yet.
    Unknown,
    Lines(Lines),
    Requests(Requests),
    /// A limit was exceeded, or the framing was lost. Further bytes are discarded.
    Over,
}

#[derive(Debug, Default)]
struct Lines {
    /// The number of the last line. Empty lines are counted. The first line has number 1.
    number: u64,
    /// The number of unconsumed bytes that are known to contain no line feed.
    searched: usize,
}

impl Decoder {
    /// Creates a decoder for a new feeder.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            framing: Framing::Unknown,
            names: NameCache::default(),
            limits,
        }
    }

    /// Returns the next item in `input`, which begins with the first unconsumed byte.
    pub fn next(&mut self, input: &[u8]) -> Step {
        if let (Framing::Unknown, Some(first)) = (&self.framing, input.first()) {
            self.framing = if first.is_ascii_alphabetic() {
                Framing::Requests(Requests::new(self.limits))
            } else {
                Framing::Lines(Lines::default())
            };
        }
        let line_bytes_max = self.limits.feed_line_bytes as usize;
        let step = match &mut self.framing {
            Framing::Unknown => return Step::more(0),
            Framing::Over => return Step::more(input.len()),
            Framing::Lines(lines) => lines.next(input, &mut self.names, line_bytes_max),
            Framing::Requests(requests) => requests.next(input, &mut self.names),
        };
        if let Some(item) = &step.item
            && is_last(item)
        {
            self.framing = Framing::Over;
        }
        step
    }

    /// Decodes the last line if it does not end with a line feed. Called at the end of the input
    /// with all unconsumed bytes.
    pub fn finish(&mut self, input: &[u8]) -> Option<Item> {
        match &mut self.framing {
            Framing::Lines(lines) => lines.line(input, &mut self.names),
            Framing::Over | Framing::Requests(_) | Framing::Unknown => None,
        }
    }

    /// Whether the body of a request is incomplete.
    #[must_use]
    pub fn is_inside_request(&self) -> bool {
        match &self.framing {
            Framing::Requests(requests) => requests.is_inside_body(),
            Framing::Lines(_) | Framing::Over | Framing::Unknown => false,
        }
    }

    /// Whether further bytes are discarded.
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(self.framing, Framing::Over)
    }
}

/// Whether the connection is closed after this item.
fn is_last(item: &Item) -> bool {
    match item {
        Item::Refuse { refusal, .. } => matches!(refusal, Refusal::LineTooLong { .. }),
        Item::Request(request) => request.is_last,
        Item::Command { .. } | Item::Continue | Item::Publish { .. } => false,
    }
}

impl Lines {
    fn next(&mut self, input: &[u8], names: &mut NameCache, limit: usize) -> Step {
        let mut consumed = 0;
        loop {
            let rest = certain::skip(input, consumed);
            // The caller passes the searched bytes again.
            let unsearched = certain::skip(rest, self.searched);
            let Some(found) = memchr::memchr(b'\n', unsearched) else {
                if rest.len() > limit {
                    return self.too_long(input.len(), limit);
                }
                self.searched = rest.len();
                return Step::more(consumed);
            };
            let length = self.searched + found;
            self.searched = 0;
            if length > limit {
                return self.too_long(input.len(), limit);
            }
            consumed += length + 1;
            if let Some(item) = self.line(certain::take(rest, length), names) {
                return Step::item(consumed, item);
            }
        }
    }

    fn too_long(&mut self, consumed: usize, limit: usize) -> Step {
        self.number += 1;
        let refusal = Refusal::LineTooLong { limit };
        Step::item(
            consumed,
            Item::Refuse {
                line: self.number,
                refusal,
            },
        )
    }

    /// Decodes one line without its line feed. Returns `None` for an empty line.
    fn line(&mut self, line: &[u8], names: &mut NameCache) -> Option<Item> {
        self.number += 1;
        let line = line.trim_ascii();
        if line.is_empty() {
            return None;
        }
        let read = simdutf8::basic::from_utf8(line)
            .map_err(|_not_utf8| Refusal::NotUtf8)
            .and_then(|json| Line::from_json(json, names));
        let line = self.number;
        Some(match read {
            Ok((Line::Command(command), wants_ack)) => Item::Command {
                line,
                wants_ack,
                command,
            },
            Ok((Line::Publish(draft), wants_ack)) => Item::Publish {
                line,
                wants_ack,
                draft,
            },
            Err(refusal) => Item::Refuse { line, refusal },
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(crate) fn limits() -> Limits {
        Limits {
            feed_line_bytes: 200,
            request_head_bytes: 300,
            ..Limits::default()
        }
    }

    /// Returns all items that the decoder finds in these pieces and at the end of the input.
    pub(crate) fn decode(pieces: &[&[u8]]) -> Vec<Item> {
        let mut decoder = Decoder::new(limits());
        let mut items = Vec::new();
        let mut rest: Vec<u8> = Vec::new();
        for piece in pieces {
            rest.extend_from_slice(piece);
            loop {
                let step = decoder.next(&rest);
                rest.drain(..step.consumed);
                match step.item {
                    Some(item) => items.push(item),
                    None => break,
                }
            }
        }
        if !decoder.is_over() {
            items.extend(decoder.finish(&rest));
        }
        items
    }

    /// Asserts that the items are the same for the whole input, for single bytes and for every
    /// split in two. Returns the items.
    pub(crate) fn decode_at_every_cut(bytes: &[u8]) -> Vec<Item> {
        let whole = decode(&[bytes]);
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(decode(&single), whole);
        for cut in 0..bytes.len() {
            let (front, back) = bytes.split_at(cut);
            assert_eq!(decode(&[front, back]), whole, "cut at {cut}");
        }
        whole
    }

    fn outline(items: &[Item]) -> Vec<(u64, &'static str)> {
        items
            .iter()
            .map(|item| match item {
                Item::Command { line, .. } | Item::Publish { line, .. } => (*line, "ok"),
                Item::Refuse { line, refusal } => (*line, refusal.code()),
                Item::Continue | Item::Request(_) => (0, "http"),
            })
            .collect()
    }

    #[test]
    fn lines_are_numbered_and_a_bad_one_affects_no_other() {
        let bytes = b"\n{\"channel\":\"a\",\"data\":1}\r\n  \r\nno\xff\n{\"channel\":\"a\"}\n \
            {\"channel\":\"b\",\"text\":\"\"} ";
        // The input begins with an empty line, because a letter as the first byte would begin a
        // request.
        let items = decode_at_every_cut(bytes);
        assert_eq!(
            outline(&items),
            [(2, "ok"), (4, "bad_json"), (5, "bad_payload"), (6, "ok")]
        );
    }

    #[test]
    fn line_over_the_limit_is_refused_and_ends_the_connection() {
        let mut bytes = b"{}\n{".to_vec();
        bytes.resize(3 + 201, b'x');
        bytes.extend_from_slice(b"\n{}\n");
        let items = decode_at_every_cut(&bytes);
        assert_eq!(outline(&items), [(1, "bad_channel"), (2, "too_long")]);
    }

    #[test]
    fn line_of_exactly_the_limit_is_accepted() {
        let text = "x".repeat(200 - r#"{"channel":"a","text":""}"#.len());
        let line = format!("{{\"channel\":\"a\",\"text\":\"{text}\"}}\n");
        assert_eq!(line.len(), 201);
        assert_eq!(outline(&decode_at_every_cut(line.as_bytes())), [(1, "ok")]);
    }

    #[test]
    fn last_line_needs_no_line_end_and_half_an_object_is_refused() {
        let items = decode_at_every_cut(b"{\"channel\":\"a\",\"data\":1}");
        assert_eq!(outline(&items), [(1, "ok")]);
        let items = decode_at_every_cut(b"{\"channel\":\"a\",\"data\":1");
        assert_eq!(outline(&items), [(1, "bad_json")]);
    }

    #[test]
    fn first_byte_decides_the_framing() {
        assert_eq!(outline(&decode(&[b"hello\r\n\r\n"])), [(0, "http")]);
        assert_eq!(outline(&decode(&[b"[]\n"])), [(1, "bad_json")]);
        assert_eq!(decode(&[b""]), []);
    }

    fn line() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            4 => "[a-c]".prop_map(|name| {
                format!("{{\"channel\":\"{name}\",\"data\":1}}").into_bytes()
            }),
            1 => Just(Vec::new()),
            1 => Just(b"\r".to_vec()),
            1 => prop::collection::vec(any::<u8>(), 0..40),
        ]
    }

    proptest! {
        #[test]
        fn lines_agree_with_splitting_at_line_feeds(
            lines in prop::collection::vec(line(), 0..20),
            cuts in prop::collection::vec(0..400usize, 0..6),
        ) {
            let mut bytes = b"\n".to_vec();
            bytes.extend(lines.join(&b'\n'));
            let mut names = NameCache::default();
            let mut model = Lines::default();
            let expected: Vec<Item> = bytes
                .split(|byte| *byte == b'\n')
                .filter_map(|line| model.line(line, &mut names))
                .collect();
            let mut ends: Vec<usize> = cuts.iter().map(|cut| cut % bytes.len()).collect();
            ends.sort_unstable();
            ends.push(bytes.len());
            let mut start = 0;
            let mut pieces = Vec::new();
            for end in ends {
                pieces.push(&bytes[start..end]);
                start = end;
            }
            prop_assert_eq!(decode(&pieces), expected);
        }

        #[test]
        fn no_bytes_make_the_decoder_loop_or_panic(
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 0..8),
        ) {
            let pieces: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
            let _items = decode(&pieces);
        }
    }
}
