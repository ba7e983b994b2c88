//! Parser of an event stream (WHATWG HTML, 9.2.6): bytes in, events out.
//!
//! PURE: the parser does no I/O. It accepts the stream in pieces of any size. The events do not
//! depend on how the stream is split. The parser owns the last event id, with which the parser of
//! the next connection starts. A line or an event above its limit is an error, so that a server
//! cannot make memory grow without bound.

/// The maximum length of a line and of an event, in bytes.
const EVENT_BYTES_MAX: usize = 128 * 1024 * 1024;

/// One parsed block of the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Item {
    /// A complete event.
    Event {
        /// The last event id that is valid after this block.
        id: String,
        /// The type of the event; `message` if the block has none.
        event: String,
        /// The data of the event, with line feeds between its lines.
        data: String,
    },
    /// A new last event id. The block has an id, but no data.
    Position(String),
    /// The reconnection time that the server requests, in milliseconds.
    Retry(u64),
}

/// The error for a line or an event that exceeds the maximum length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an event has more than {EVENT_BYTES_MAX} bytes")]
pub(super) struct TooLong;

/// The state of the parser between two calls.
#[derive(Debug)]
pub(super) struct Parser {
    line: Vec<u8>,
    /// Whether the last byte was a CR. If it was, an LF as the next byte belongs to the same line
    /// end.
    is_after_cr: bool,
    /// True until the first line is complete. Only this line may begin with a byte order mark.
    is_at_start: bool,
    last_id: String,
    /// The id of the current block.
    next_id: Option<String>,
    event: String,
    /// The data lines, each with a line feed at its end. Empty if the block has no data.
    data: String,
}

impl Parser {
    /// Creates a parser for a connection that resumes after `last_id`.
    pub(super) fn new(last_id: Option<&str>) -> Self {
        Self {
            line: Vec::new(),
            is_after_cr: false,
            is_at_start: true,
            last_id: String::from(last_id.unwrap_or_default()),
            next_id: None,
            event: String::new(),
            data: String::new(),
        }
    }

    /// Parses the next bytes of the stream, and appends all blocks that are now complete to
    /// `items`.
    pub(super) fn push(&mut self, mut bytes: &[u8], items: &mut Vec<Item>) -> Result<(), TooLong> {
        loop {
            if self.is_after_cr {
                if bytes.is_empty() {
                    return Ok(());
                }
                self.is_after_cr = false;
                bytes = bytes.strip_prefix(b"\n").unwrap_or(bytes);
            }
            let end = bytes.iter().position(|b| matches!(b, b'\r' | b'\n'));
            let (taken, rest) = bytes.split_at(end.unwrap_or(bytes.len()));
            if self.line.len() + taken.len() + self.data.len() > EVENT_BYTES_MAX {
                return Err(TooLong);
            }
            self.line.extend_from_slice(taken);
            let Some((line_end, rest)) = rest.split_first() else {
                return Ok(());
            };
            self.is_after_cr = *line_end == b'\r';
            self.finish_line(items);
            bytes = rest;
        }
    }

    fn finish_line(&mut self, items: &mut Vec<Item>) {
        let line = std::mem::take(&mut self.line);
        let mut bytes = line.as_slice();
        if self.is_at_start {
            bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
            self.is_at_start = false;
        }
        // The standard decodes the stream as a whole, with replacement characters. Decoding each
        // line separately gives the same result, because line ends are ASCII.
        let text = String::from_utf8_lossy(bytes);
        if text.is_empty() {
            self.dispatch(items);
        } else {
            self.take_field(&text, items);
        }
        // The buffer is kept for the next line.
        self.line = line;
        self.line.clear();
    }

    fn take_field(&mut self, line: &str, items: &mut Vec<Item>) {
        // A comment begins with a colon, so its field name is empty. The comment is ignored like an
        // unknown field.
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match name {
            "data" => {
                self.data.push_str(value);
                self.data.push('\n');
            }
            "event" => self.event = String::from(value),
            "id" if !value.contains('\0') => self.next_id = Some(String::from(value)),
            "retry" if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) => {
                items.extend(value.parse().ok().map(Item::Retry));
            }
            _ => {}
        }
    }

    fn dispatch(&mut self, items: &mut Vec<Item>) {
        let has_moved = self.next_id.is_some();
        if let Some(id) = self.next_id.take() {
            self.last_id = id;
        }
        let event = std::mem::take(&mut self.event);
        let mut data = std::mem::take(&mut self.data);
        if data.pop().is_none() {
            if has_moved {
                items.push(Item::Position(self.last_id.clone()));
            }
            return;
        }
        items.push(Item::Event {
            id: self.last_id.clone(),
            event: if event.is_empty() {
                String::from("message")
            } else {
                event
            },
            data,
        });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn items(pieces: &[&[u8]]) -> Vec<Item> {
        let mut parser = Parser::new(None);
        let mut items = Vec::new();
        for piece in pieces {
            parser.push(piece, &mut items).unwrap();
        }
        items
    }

    fn event(id: &str, event: &str, data: &str) -> Item {
        Item::Event {
            id: String::from(id),
            event: String::from(event),
            data: String::from(data),
        }
    }

    /// Parses the text as a whole, byte by byte, and split into two pieces at every position.
    /// Checks that all results are equal.
    fn at_every_cut(text: &[u8]) -> Vec<Item> {
        let whole = items(&[text]);
        let bytes: Vec<&[u8]> = text.chunks(1).collect();
        assert_eq!(items(&bytes), whole);
        for cut in 0..=text.len() {
            let (left, right) = text.split_at(cut);
            assert_eq!(items(&[left, right]), whole, "cut at {cut}");
        }
        whole
    }

    #[test]
    fn parser_reads_the_server_format() {
        let text = b"retry: 1234\nevent:fanfare.position\nid: e-0\n\n\
                     id: e-1\nevent: tick\ndata: {\"a\":1}\n\n:\n\
                     id: e-2\ndata: a\ndata: b\n\n";
        assert_eq!(
            at_every_cut(text),
            [
                Item::Retry(1234),
                Item::Position(String::from("e-0")),
                event("e-1", "tick", "{\"a\":1}"),
                event("e-2", "message", "a\nb"),
            ]
        );
    }

    #[test]
    fn parser_accepts_all_three_line_ends_mixed() {
        let text = b"data: a\rdata: b\r\ndata: c\n\r\ndata: d\r\rdata: e\n\n";
        assert_eq!(
            at_every_cut(text),
            [
                event("", "message", "a\nb\nc"),
                event("", "message", "d"),
                event("", "message", "e")
            ]
        );
    }

    #[test]
    fn parser_drops_one_byte_order_mark_at_the_start_only() {
        assert_eq!(
            at_every_cut(b"\xef\xbb\xbfdata: a\n\n"),
            [event("", "message", "a")]
        );
        assert_eq!(at_every_cut(b"\n\xef\xbb\xbfdata: a\n\n"), []);
    }

    #[test]
    fn parser_strips_one_space_and_accepts_fields_without_colon() {
        assert_eq!(
            at_every_cut(b"data:  a\ndata\ndata:b\n\n"),
            [event("", "message", " a\n\nb")]
        );
        assert_eq!(at_every_cut(b"data\n\n"), [event("", "message", "")]);
    }

    #[test]
    fn parser_ignores_ids_with_nul_and_bad_retries() {
        let text = b"id: a\n\nid: b\0\ndata: x\n\nretry: 1x\nretry:\nretry: -1\n\
                     retry: 99999999999999999999\n";
        assert_eq!(
            at_every_cut(text),
            [
                Item::Position(String::from("a")),
                event("a", "message", "x")
            ]
        );
    }

    #[test]
    fn parser_keeps_the_id_for_later_events_and_an_empty_one_resets_it() {
        assert_eq!(
            at_every_cut(b"id: a\ndata: 1\n\ndata: 2\n\nid\ndata: 3\n\n"),
            [
                event("a", "message", "1"),
                event("a", "message", "2"),
                event("", "message", "3")
            ]
        );
        let mut parser = Parser::new(Some("z"));
        let mut found = Vec::new();
        parser.push(b"data: 1\n\n", &mut found).unwrap();
        assert_eq!(found, [event("z", "message", "1")]);
    }

    #[test]
    fn parser_resets_the_type_with_each_block_and_drops_an_unfinished_block() {
        assert_eq!(
            at_every_cut(b"event: a\n\ndata: 1\n\ndata: unfinished\n"),
            [event("", "message", "1")]
        );
    }

    #[test]
    fn parser_replaces_invalid_utf8() {
        assert_eq!(
            at_every_cut(b"data: \xff\xc3\xbc\n\n"),
            [event("", "message", "\u{fffd}ü")]
        );
    }

    proptest! {
        #[test]
        fn result_is_the_same_for_any_cut(
            text in "(data|id|event|retry|:|: |\r|\n|\r\n|[a-z0-9]){0,40}",
            at in 0usize..200,
        ) {
            let bytes = text.as_bytes();
            let (left, right) = bytes.split_at(at.min(bytes.len()));
            prop_assert_eq!(items(&[left, right]), items(&[bytes]));
        }
    }
}
