//! PURE: this module parses the bytes that a client receives, in pieces of any length, into events.
//!
//! A parser reads the response head. After the head, it reads WebSocket frames (RFC 6455, 5.2),
//! server-sent events or responses to polls. Server-sent events are in chunks (RFC 9112, 7.1) if
//! the response is chunked. A parser stores bytes only while a piece is incomplete, so a million
//! idle connections store no bytes. The parser reads the control messages of fanfare and the
//! stamped payloads that [`super::publisher`] writes. In any other publication, the parser reads
//! only the id.

use std::sync::LazyLock;

use memchr::memmem::{self, Finder};

use super::inflate_cache::InflateCache;
use super::poll_response::read_response;
use super::position::Position;

/// The text at the start of a stamped payload, before the publication's number.
pub const NUMBER: &str = "{\"n\":\"";
/// The number of digits of the publication's number in a stamped payload.
pub const NUMBER_DIGITS: usize = 12;
/// The text between the publication's number and the time in nanoseconds.
pub const STAMP: &str = "\",\"t\":\"";
/// The number of digits of the time in a stamped payload. The time is in nanoseconds.
pub const STAMP_DIGITS: usize = 19;

/// The search patterns. They are prepared only once, because preparing a pattern costs more than
/// searching for it.
pub(super) struct Keys {
    blank_line: Finder<'static>,
    data_field: Finder<'static>,
    gap_event: Finder<'static>,
    id_field: Finder<'static>,
    pub(super) id_member: Finder<'static>,
    line_end: Finder<'static>,
    number: Finder<'static>,
    pub(super) publications: Finder<'static>,
    pub(super) until: Finder<'static>,
}

pub(super) static KEYS: LazyLock<Keys> = LazyLock::new(|| Keys {
    blank_line: Finder::new("\n\n"),
    data_field: Finder::new("data:"),
    gap_event: Finder::new("event: fanfare.gap"),
    id_field: Finder::new("id: "),
    id_member: Finder::new("\"id\":\""),
    line_end: Finder::new("\r\n"),
    number: Finder::new(NUMBER),
    publications: Finder::new("\"publications\":["),
    until: Finder::new("\"until\":\""),
});

/// The protocol of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// WebSocket frames that contain only payloads. The connection counts as subscribed when the
    /// response head has arrived.
    RawWebSocket,
    /// Server-sent events that contain only payloads. The connection counts as subscribed when the
    /// response head has arrived.
    RawEvents,
    /// WebSocket with permessage-deflate without context takeover (RFC 7692).
    CompressedWebSocket,
    /// Server-sent events with fanfare's ids.
    EventStream,
    /// Consecutive long polls. The connection counts as subscribed when the first response has
    /// arrived.
    Poll,
    /// WebSocket with fanfare's control messages.
    WebSocket,
}

impl Kind {
    /// Returns the plural name for reports.
    #[must_use]
    pub fn plural(self) -> &'static str {
        match self {
            Self::RawWebSocket | Self::WebSocket => "WebSockets",
            Self::RawEvents | Self::EventStream => "event streams",
            Self::CompressedWebSocket => "compressed WebSockets",
            Self::Poll => "polls",
        }
    }
}

/// The stamp that the generator writes into each payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The publication's number, counted from one.
    pub number: u64,
    /// The time at which the publication was due, from the system's monotonic clock.
    pub due_ns: u64,
}

/// An event in the bytes that a client receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientEvent {
    /// The response to a poll has ended, so the next poll is due.
    PollAnswered {
        /// The position from which the next poll continues.
        position: Position,
    },
    /// The server has sent a WebSocket close frame with a code (RFC 6455, 7.4).
    Closed {
        /// The close code.
        code: u16,
    },
    /// The server has ended the stream or reported an error, or the stream cannot be parsed.
    Ended,
    /// The server reports missing publications.
    Gap {
        /// The sequence number of the last missing publication.
        until: Option<u64>,
    },
    /// The server does not accept permessage-deflate without context takeover.
    NotDeflated,
    /// The server has sent a ping, so a pong is due.
    Ping,
    /// The server has delivered a publication.
    Publication {
        /// The stamp, if the generator sent the publication.
        stamp: Option<Stamp>,
        /// The sequence number in the publication's id, if the publication has an id.
        sequence: Option<u64>,
    },
    /// The server has confirmed the subscription.
    Subscribed {
        /// The sequence number of the start position, if the server reports it.
        sequence: Option<u64>,
    },
    /// The response has an unexpected status.
    Refused {
        /// The status of the response, or 0 if the response is not HTTP.
        status: u16,
    },
}

/// The kind of the piece that the parser expects next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Piece {
    PollResponse,
    Chunk,
    Events,
    Frame,
    Head,
}

/// The parser of one connection.
#[derive(Debug)]
pub struct StreamParser {
    /// The bytes of an incomplete piece. An empty box has no heap block.
    rest: Box<[u8]>,
    kind: Kind,
    next: Piece,
}

impl StreamParser {
    /// Returns a parser that expects the response to the first request.
    #[must_use]
    pub fn new(kind: Kind) -> Self {
        Self {
            rest: Box::default(),
            kind,
            next: Piece::Head,
        }
    }

    /// Returns the protocol of the connection.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Parses the next bytes and calls `on_event` for each event in them.
    pub fn push(
        &mut self,
        bytes: &[u8],
        inflate_cache: &mut InflateCache,
        on_event: &mut impl FnMut(ClientEvent),
    ) {
        if self.rest.is_empty() {
            let rest = self.read(bytes, inflate_cache, on_event);
            if !rest.is_empty() {
                self.rest = Box::from(rest);
            }
            return;
        }
        let mut held = std::mem::take(&mut self.rest).into_vec();
        held.extend_from_slice(bytes);
        self.rest = Box::from(self.read(&held, inflate_cache, on_event));
    }

    /// Parses the bytes up to the last complete piece, such as a frame or a chunk. Returns the
    /// remaining bytes, which belong to an incomplete piece.
    fn read<'a>(
        &mut self,
        mut bytes: &'a [u8],
        inflate_cache: &mut InflateCache,
        on_event: &mut impl FnMut(ClientEvent),
    ) -> &'a [u8] {
        while !bytes.is_empty() {
            let read = match self.next {
                Piece::PollResponse => read_response(bytes, false, on_event),
                Piece::Head if self.kind == Kind::Poll => self.read_first_response(bytes, on_event),
                Piece::Head => self.read_head(bytes, on_event),
                Piece::Chunk => read_chunks(bytes, on_event),
                Piece::Events => read_events(bytes, on_event),
                Piece::Frame => self.read_frame(bytes, inflate_cache, on_event),
            };
            match read.and_then(|length| bytes.get(length..)) {
                Some(rest) => bytes = rest,
                None => return bytes,
            }
        }
        bytes
    }

    fn read_first_response(
        &mut self,
        bytes: &[u8],
        on_event: &mut impl FnMut(ClientEvent),
    ) -> Option<usize> {
        let length = read_response(bytes, true, on_event)?;
        self.next = Piece::PollResponse;
        Some(length)
    }

    fn read_head(&mut self, bytes: &[u8], on_event: &mut impl FnMut(ClientEvent)) -> Option<usize> {
        let end = memmem::find(bytes, b"\r\n\r\n")? + 4;
        let wanted = match self.kind {
            Kind::RawEvents | Kind::EventStream | Kind::Poll => 200,
            Kind::RawWebSocket | Kind::CompressedWebSocket | Kind::WebSocket => 101,
        };
        self.next = match wanted {
            101 => Piece::Frame,
            _ if is_chunked(bytes.get(..end)?) => Piece::Chunk,
            _ => Piece::Events,
        };
        let status = bytes.strip_prefix(b"HTTP/1.1 ").and_then(number_at);
        if status != Some(wanted) {
            let status = status.and_then(|status| u16::try_from(status).ok());
            on_event(ClientEvent::Refused {
                status: status.unwrap_or(0),
            });
            // The content of the refusal is not needed.
            return Some(bytes.len());
        }
        if self.kind == Kind::CompressedWebSocket && !agrees_to_deflate(bytes.get(..end)?) {
            on_event(ClientEvent::NotDeflated);
            return Some(bytes.len());
        }
        if matches!(self.kind, Kind::RawWebSocket | Kind::RawEvents) {
            on_event(ClientEvent::Subscribed { sequence: None });
        }
        Some(end)
    }

    fn read_frame(
        &self,
        bytes: &[u8],
        inflate_cache: &mut InflateCache,
        on_event: &mut impl FnMut(ClientEvent),
    ) -> Option<usize> {
        let (first, second) = (*bytes.first()?, *bytes.get(1)?);
        let (start, length): (usize, usize) = match second {
            126 => {
                let length = bytes.get(2..4)?.try_into().ok()?;
                (4, usize::from(u16::from_be_bytes(length)))
            }
            127 => {
                let length = bytes.get(2..10)?.try_into().ok()?;
                (10, usize::try_from(u64::from_be_bytes(length)).ok()?)
            }
            // A server must not send masked frames, so the mask bit is not handled: the length of a
            // masked frame is read incorrectly.
            short => (2, usize::from(short)),
        };
        let end = start.checked_add(length)?;
        let payload = bytes.get(start..end)?;
        let event = match first {
            0x81 if self.kind == Kind::RawWebSocket => Some(publication(payload, None)),
            0x81 => read_message(payload),
            // RSV1 marks a compressed message.
            0xc1 if self.kind == Kind::CompressedWebSocket => {
                inflate_cache.event_of(payload, read_message)
            }
            0x89 => Some(ClientEvent::Ping),
            0x88 => Some(match payload.first_chunk() {
                Some(code) => ClientEvent::Closed {
                    code: u16::from_be_bytes(*code),
                },
                None => ClientEvent::Ended,
            }),
            _ => Some(ClientEvent::Ended),
        };
        if let Some(event) = event {
            on_event(event);
        }
        Some(end)
    }
}

/// Returns the event of a WebSocket message.
fn read_message(payload: &[u8]) -> Option<ClientEvent> {
    match payload.strip_prefix(b"{\"type\":\"") {
        Some(message) => read_control(message),
        None => Some(publication(payload, Some(&KEYS.id_member))),
    }
}

/// Returns the event of a control message. `message` is the part after `{"type":"`.
fn read_control(message: &[u8]) -> Option<ClientEvent> {
    let sequence = |key: &Finder<'_>| sequence_after(message, key);
    if message.starts_with(b"subscribed\"") {
        Some(ClientEvent::Subscribed {
            sequence: sequence(&KEYS.id_member),
        })
    } else if message.starts_with(b"gap\"") {
        Some(ClientEvent::Gap {
            until: sequence(&KEYS.until),
        })
    } else if message.starts_with(b"error\"") {
        Some(ClientEvent::Ended)
    } else {
        None
    }
}

/// Whether the head announces a chunked body (RFC 9112, 7.1).
fn is_chunked(head: &[u8]) -> bool {
    has_field(head, b"transfer-encoding:", |value| {
        value.ends_with(b"chunked")
    })
}

/// Whether the server accepts permessage-deflate without context takeover (RFC 7692, 7.1.1.1). With
/// context takeover, the same message would have different bytes on each connection.
fn agrees_to_deflate(head: &[u8]) -> bool {
    let has = |value: &[u8], word: &str| memmem::find(value, word.as_bytes()).is_some();
    has_field(head, b"sec-websocket-extensions:", |value| {
        has(value, "permessage-deflate") && has(value, "server_no_context_takeover")
    })
}

/// Whether a header field of this name has a value that `fits` accepts. `name` includes the colon
/// and must be in lower case. `fits` receives the value in lower case.
fn has_field(head: &[u8], name: &[u8], fits: impl Fn(&[u8]) -> bool) -> bool {
    let mut lines = head.split(|byte| *byte == b'\n');
    lines.any(|line| {
        let line = line.trim_ascii_end().to_ascii_lowercase();
        line.strip_prefix(name).is_some_and(&fits)
    })
}

/// Reads the complete events of a body that is not chunked, and returns their length.
fn read_events(bytes: &[u8], on_event: &mut impl FnMut(ClientEvent)) -> Option<usize> {
    let end = memmem::rfind(bytes, b"\n\n")? + 2;
    emit_events(bytes.get(..end)?, on_event);
    Some(end)
}

/// Reads chunks until an event is complete, because a proxy may have split an event into several
/// chunks. Returns the length of these chunks.
fn read_chunks(bytes: &[u8], on_event: &mut impl FnMut(ClientEvent)) -> Option<usize> {
    let mut joined = Vec::new();
    let mut done = 0;
    loop {
        let rest = bytes.get(done..)?;
        let line_end = KEYS.line_end.find(rest)?;
        let Some(size) = rest.get(..line_end).and_then(size_of_chunk) else {
            on_event(ClientEvent::Ended);
            return Some(bytes.len());
        };
        let start = line_end + 2;
        let end = start.checked_add(size)?;
        let content = rest.get(start..end)?;
        done += end.checked_add(2).filter(|end| *end <= rest.len())?;
        if size == 0 {
            on_event(ClientEvent::Ended);
            return Some(done);
        }
        let is_whole = content.ends_with(b"\n\n");
        if joined.is_empty() && is_whole {
            emit_events(content, on_event);
            return Some(done);
        }
        joined.extend_from_slice(content);
        if is_whole {
            emit_events(&joined, on_event);
            return Some(done);
        }
    }
}

fn size_of_chunk(line: &[u8]) -> Option<usize> {
    let digits = line.split(|byte| *byte == b';').next()?;
    let text = std::str::from_utf8(digits).ok()?;
    usize::from_str_radix(text.trim_end(), 16).ok()
}

fn emit_events(mut content: &[u8], on_event: &mut impl FnMut(ClientEvent)) {
    while let Some(length) = KEYS.blank_line.find(content) {
        let (event, rest) = content.split_at(length);
        emit_event(event, on_event);
        content = rest.get(2..).unwrap_or_default();
    }
}

fn emit_event(event: &[u8], on_event: &mut impl FnMut(ClientEvent)) {
    // Only the first event of a stream contains the reconnection time.
    let is_first = event.starts_with(b"retry:");
    if is_first {
        on_event(ClientEvent::Subscribed {
            sequence: sequence_after(event, &KEYS.id_field),
        });
    }
    if KEYS.gap_event.find(event).is_some() {
        on_event(ClientEvent::Gap {
            until: sequence_after(event, &KEYS.until),
        });
    } else if !is_first && KEYS.data_field.find(event).is_some() {
        on_event(publication(event, Some(&KEYS.id_field)));
    }
}

/// Returns the event of a publication. If `id` is set, the publication's id is read after that key.
pub(super) fn publication(text: &[u8], id: Option<&Finder<'_>>) -> ClientEvent {
    ClientEvent::Publication {
        stamp: stamp(text),
        sequence: id.and_then(|key| sequence_after(text, key)),
    }
}

fn stamp(text: &[u8]) -> Option<Stamp> {
    let at = KEYS.number.find(text)? + NUMBER.len();
    let number = number_at(text.get(at..at + NUMBER_DIGITS)?)?;
    let at = at + NUMBER_DIGITS + STAMP.len();
    let due_ns = number_at(text.get(at..at + STAMP_DIGITS)?)?;
    Some(Stamp { number, due_ns })
}

/// Returns the sequence number of the id `<epoch>-<sequence>` that comes after a key.
pub(super) fn sequence_after(text: &[u8], key: &Finder<'_>) -> Option<u64> {
    let at = key.find(text)? + key.needle().len();
    let id = text.get(at..)?;
    let hyphen = memchr::memchr(b'-', id)?;
    number_at(id.get(hyphen + 1..)?)
}

/// Returns the decimal number at the start of a text.
fn number_at(text: &[u8]) -> Option<u64> {
    let mut number: Option<u64> = None;
    for digit in text.iter().take_while(|byte| byte.is_ascii_digit()) {
        let tens = number.unwrap_or(0).checked_mul(10)?;
        number = Some(tens.checked_add(u64::from(digit - b'0'))?);
    }
    number
}

#[cfg(test)]
mod tests {
    use super::super::inflate_cache::deflate;
    use super::*;

    const STAMPED: &str = "{\"n\":\"000000000007\",\"t\":\"0000000000000000042\",\"p\":\"..\"}";

    fn frame(first: u8, payload: &str) -> Vec<u8> {
        let mut bytes = vec![first];
        match payload.len() {
            length @ 0..=125 => bytes.push(length as u8),
            length => {
                bytes.push(126);
                bytes.extend((length as u16).to_be_bytes());
            }
        }
        bytes.extend(payload.as_bytes());
        bytes
    }

    fn chunk(content: &str) -> String {
        format!("{:x}\r\n{content}\r\n", content.len())
    }

    fn event(kind: Kind, pieces: &[&[u8]]) -> Vec<ClientEvent> {
        let mut stream = StreamParser::new(kind);
        let mut inflate_cache = InflateCache::default();
        let mut all = Vec::new();
        for piece in pieces {
            stream.push(piece, &mut inflate_cache, &mut |event| all.push(event));
        }
        all
    }

    /// Parses the bytes in one piece, byte by byte, and split in two at every position. Checks that
    /// the events are as expected each time.
    fn check(kind: Kind, bytes: &[u8], expected: &[ClientEvent]) {
        assert_eq!(event(kind, &[bytes]), expected);
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(event(kind, &single), expected);
        for cut in 0..bytes.len() {
            let (left, right) = bytes.split_at(cut);
            assert_eq!(event(kind, &[left, right]), expected, "cut at {cut}");
        }
    }

    fn publication(number: u64, sequence: Option<u64>) -> ClientEvent {
        ClientEvent::Publication {
            stamp: Some(Stamp { number, due_ns: 42 }),
            sequence,
        }
    }

    #[test]
    fn web_socket_has_the_same_events_for_every_cut() {
        let mut bytes = b"HTTP/1.1 101 Switching Protocols\r\nA: b\r\n\r\n".to_vec();
        bytes.extend(frame(0x81, "{\"type\":\"welcome\",\"conn\":\"0-1-2\"}"));
        bytes.extend(frame(
            0x81,
            "{\"type\":\"subscribed\",\"channel\":\"c\",\"id\":\"0ab-6\",\"recovered\":false}",
        ));
        let full = format!("{{\"channel\":\"c\",\"id\":\"0ab-7\",\"data\":{STAMPED}}}");
        bytes.extend(frame(0x81, &full));
        bytes.extend(frame(0x89, ""));
        bytes.extend(frame(
            0x81,
            "{\"type\":\"gap\",\"channel\":\"c\",\"since\":\"0ab-7\",\"until\":\"0ab-9\"}",
        ));
        bytes.extend(frame(
            0x81,
            "{\"channel\":\"c\",\"id\":\"0ab-10\",\"data\":1}",
        ));
        bytes.extend(frame(0x88, "\u{3}\u{65}"));
        let expected = [
            ClientEvent::Subscribed { sequence: Some(6) },
            publication(7, Some(7)),
            ClientEvent::Ping,
            ClientEvent::Gap { until: Some(9) },
            ClientEvent::Publication {
                stamp: None,
                sequence: Some(10),
            },
            ClientEvent::Closed { code: 0x365 },
        ];
        check(Kind::WebSocket, &bytes, &expected);
    }

    #[test]
    fn event_stream_has_the_same_events_for_every_cut_and_chunking() {
        let events = [
            "retry: 1000\nevent:fanfare.position\nid: 0ab-6\n\n".to_owned(),
            "event:fanfare.position\nid: 0ab-6\n\n".to_owned(),
            ":\n".to_owned(),
            format!("id: 0ab-7\ndata: {STAMPED}\n\nid: 0ab-8\ndata: {STAMPED}\n\n"),
            "event: fanfare.gap\ndata: {\"since\":\"0ab-8\",\"until\":\"0ab-9\"}\n\n".to_owned(),
        ];
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        let expected = [
            ClientEvent::Subscribed { sequence: Some(6) },
            publication(7, Some(7)),
            publication(7, Some(8)),
            ClientEvent::Gap { until: Some(9) },
            ClientEvent::Ended,
        ];
        let mut whole = head.to_owned();
        let mut torn = head.to_owned();
        for event in &events {
            whole += &chunk(event);
            let (left, right) = event.split_at(event.len() / 2);
            torn += &chunk(left);
            torn += &chunk(right);
        }
        check(
            Kind::EventStream,
            (whole + "0\r\n\r\n").as_bytes(),
            &expected,
        );
        let torn = event(Kind::EventStream, &[(torn + "0\r\n\r\n").as_bytes()]);
        assert_eq!(torn, expected);
    }

    #[test]
    fn event_stream_that_begins_with_a_gap_is_subscribed_with_it() {
        let bytes = "HTTP/1.1 200 OK\r\n\r\nretry: 1000\nevent: fanfare.gap\n\
            data: {\"until\":\"0ab-9\"}\n\nevent: fanfare.position\nid: 0ab-9\n\n";
        let expected = [
            ClientEvent::Subscribed { sequence: None },
            ClientEvent::Gap { until: Some(9) },
        ];
        check(Kind::EventStream, bytes.as_bytes(), &expected);
    }

    #[test]
    fn compressed_frames_have_the_events_of_plain_ones_for_every_cut() {
        let mut bytes = b"HTTP/1.1 101 S\r\nsec-websocket-extensions: permessage-deflate; \
            server_no_context_takeover; client_no_context_takeover\r\n\r\n"
            .to_vec();
        bytes.extend(frame(0x81, "{\"type\":\"subscribed\",\"id\":\"0ab-6\"}"));
        let spaces = " ".repeat(300);
        let full = format!("{{\"channel\":\"c\",\"id\":\"0ab-7\",\"data\":{STAMPED}{spaces}}}");
        let compressed = deflate(full.as_bytes());
        for _ in 0..2 {
            bytes.extend([0xc1, compressed.len() as u8]);
            bytes.extend(&compressed);
        }
        bytes.extend([0xc1, 1, 0xff]);
        let expected = [
            ClientEvent::Subscribed { sequence: Some(6) },
            publication(7, Some(7)),
            publication(7, Some(7)),
            ClientEvent::Ended,
        ];
        check(Kind::CompressedWebSocket, &bytes, &expected);
        // A plain WebSocket does not offer compression, so a compressed frame is a fault.
        let mut plain = b"HTTP/1.1 101 S\r\n\r\n".to_vec();
        plain.extend([0xc1, 1, 0]);
        check(Kind::WebSocket, &plain, &[ClientEvent::Ended]);
    }

    #[test]
    fn server_without_no_context_takeover_is_recognised() {
        for field in [
            "",
            "Sec-WebSocket-Extensions: permessage-deflate\r\n",
            "X: permessage-deflate; server_no_context_takeover\r\n",
        ] {
            let head = format!("HTTP/1.1 101 S\r\n{field}\r\n");
            check(
                Kind::CompressedWebSocket,
                head.as_bytes(),
                &[ClientEvent::NotDeflated],
            );
        }
    }

    #[test]
    fn raw_frames_have_no_id_and_are_subscribed_with_the_head() {
        let mut bytes = b"HTTP/1.1 101 S\r\n\r\n".to_vec();
        bytes.extend(frame(0x81, STAMPED));
        let expected = [
            ClientEvent::Subscribed { sequence: None },
            publication(7, None),
        ];
        check(Kind::RawWebSocket, &bytes, &expected);
    }

    #[test]
    fn raw_events_are_subscribed_with_the_head_chunked_or_not() {
        let events = format!(": hi\n\nid: 17:0\ndata: {STAMPED}\n\n");
        let expected = [
            ClientEvent::Subscribed { sequence: None },
            publication(7, None),
        ];
        let plain = format!("HTTP/1.1 200 OK\r\nA: b\r\n\r\n{events}");
        check(Kind::RawEvents, plain.as_bytes(), &expected);
        let chunked = format!(
            "HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\n\r\n{}",
            chunk(&events)
        );
        check(Kind::RawEvents, chunked.as_bytes(), &expected);
    }

    #[test]
    fn other_responses_are_refusals_with_their_status() {
        for (text, status) in [
            ("HTTP/1.1 503 Busy\r\nRetry-After: 1\r\n\r\n", 503),
            ("ICY 200 OK\r\n\r\n", 0),
            ("HTTP/1.1 99999999999999999999999 A\r\n\r\n", 0),
        ] {
            let expected = [ClientEvent::Refused { status }];
            check(Kind::WebSocket, text.as_bytes(), &expected);
        }
    }

    #[test]
    fn invalid_input_ends_the_stream_and_does_nothing_else() {
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        let text = format!("{head}zz\r\n");
        assert_eq!(
            event(Kind::EventStream, &[text.as_bytes()]),
            [ClientEvent::Ended]
        );
        let text = format!("{head}ffffffffffffffff\r\nabc");
        assert_eq!(event(Kind::EventStream, &[text.as_bytes()]), []);
        let mut bytes = b"HTTP/1.1 101 S\r\n\r\n".to_vec();
        bytes.extend([0x81, 127, 255, 255, 255, 255, 255, 255, 255, 255, 1]);
        assert_eq!(event(Kind::WebSocket, &[&bytes]), []);
    }
}
