//! PURE: what a client hears: the bytes of one connection, cut anywhere, to what they say.
//!
//! Reads the response head, then WebSocket frames (RFC 6455, 5.2) or server-sent events, in chunks
//! (RFC 9112, 7.1) where the head says so; or answers to polls, one after the other. Holds bytes
//! only while a piece is incomplete, so that a million idle streams hold none. Knows the stamped
//! payload that [`super::publisher`] writes and what fanfare says beside publications; anything
//! else that is published is heard with its id alone.

use std::sync::LazyLock;

use memchr::memmem::{self, Finder};

use super::inflate_cache::Inflations;
use super::poll_response::read_answer;
use super::position::Position;

/// Begins a stamped payload: the publication's number follows in 12 digits.
pub const NUMBER: &str = "{\"n\":\"";
/// Digits of the number.
pub const NUMBER_DIGITS: usize = 12;
/// Comes between the number and the time in nanoseconds.
pub const STAMP: &str = "\",\"t\":\"";
/// Digits of the time.
pub const STAMP_DIGITS: usize = 19;

/// What is looked for in every delivery. Preparing a search costs more than the search.
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

/// How a connection is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Payloads in WebSocket frames and nothing else: ready with the head.
    Bare,
    /// Payloads in server-sent events and nothing else: ready with the head.
    BareEvents,
    /// WebSocket with messages compressed, each by itself (RFC 7692).
    Deflated,
    /// Server-sent events.
    EventStream,
    /// Long polls, one after the other: ready with the first answer.
    Poll,
    /// WebSocket.
    WebSocket,
}

impl Kind {
    /// What several of them are called.
    #[must_use]
    pub fn plural(self) -> &'static str {
        match self {
            Self::Bare | Self::WebSocket => "WebSockets",
            Self::BareEvents | Self::EventStream => "event streams",
            Self::Deflated => "compressed WebSockets",
            Self::Poll => "polls",
        }
    }
}

/// What a payload of ours says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The publication's number, from one.
    pub number: u64,
    /// When it was due to be published, by the system's monotonic clock.
    pub due_ns: u64,
}

/// One thing heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// A poll's answer, of which everything has been heard: the next poll is due.
    Answered {
        /// From where it goes on.
        position: Position,
    },
    /// A close frame with a code (RFC 6455, 7.4).
    Closed {
        /// The code.
        code: u16,
    },
    /// The stream has ended, or made no sense.
    End,
    /// Publications are missing, and the server says so.
    Gap {
        /// The sequence number of the last one that is missing.
        until: Option<u64>,
    },
    /// The server does not agree to compress each message by itself.
    NotDeflated,
    /// A ping: a pong is due.
    Ping,
    /// A publication.
    Publication {
        /// What the payload says, if it is one of ours.
        stamp: Option<Stamp>,
        /// The sequence number in its id, where ids are told.
        sequence: Option<u64>,
    },
    /// The connection is subscribed.
    Ready {
        /// The position it begins behind, where that is told.
        sequence: Option<u64>,
    },
    /// The request was not answered as it should be.
    Refused {
        /// The status of the response; 0 for what is no response.
        status: u16,
    },
}

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Piece {
    Answer,
    Chunk,
    Events,
    Frame,
    Head,
}

/// The listening end of one connection.
#[derive(Debug)]
pub struct Stream {
    /// The bytes of an incomplete piece. Empty without a heap block.
    rest: Box<[u8]>,
    kind: Kind,
    next: Piece,
}

impl Stream {
    /// A connection that has sent its request.
    #[must_use]
    pub fn new(kind: Kind) -> Self {
        Self {
            rest: Box::default(),
            kind,
            next: Piece::Head,
        }
    }

    /// How it is served.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Takes bytes and tells what they say.
    pub fn push(
        &mut self,
        bytes: &[u8],
        inflations: &mut Inflations,
        hear: &mut impl FnMut(Heard),
    ) {
        if self.rest.is_empty() {
            let rest = self.read(bytes, inflations, hear);
            if !rest.is_empty() {
                self.rest = Box::from(rest);
            }
            return;
        }
        let mut held = std::mem::take(&mut self.rest).into_vec();
        held.extend_from_slice(bytes);
        self.rest = Box::from(self.read(&held, inflations, hear));
    }

    /// Reads whole pieces and returns what is left.
    fn read<'a>(
        &mut self,
        mut bytes: &'a [u8],
        inflations: &mut Inflations,
        hear: &mut impl FnMut(Heard),
    ) -> &'a [u8] {
        while !bytes.is_empty() {
            let read = match self.next {
                Piece::Answer => read_answer(bytes, false, hear),
                Piece::Head if self.kind == Kind::Poll => self.read_first_answer(bytes, hear),
                Piece::Head => self.read_head(bytes, hear),
                Piece::Chunk => read_chunks(bytes, hear),
                Piece::Events => read_events(bytes, hear),
                Piece::Frame => self.read_frame(bytes, inflations, hear),
            };
            match read.and_then(|length| bytes.get(length..)) {
                Some(rest) => bytes = rest,
                None => return bytes,
            }
        }
        bytes
    }

    fn read_first_answer(&mut self, bytes: &[u8], hear: &mut impl FnMut(Heard)) -> Option<usize> {
        let length = read_answer(bytes, true, hear)?;
        self.next = Piece::Answer;
        Some(length)
    }

    fn read_head(&mut self, bytes: &[u8], hear: &mut impl FnMut(Heard)) -> Option<usize> {
        let end = memmem::find(bytes, b"\r\n\r\n")? + 4;
        let wanted = match self.kind {
            Kind::BareEvents | Kind::EventStream | Kind::Poll => 200,
            Kind::Bare | Kind::Deflated | Kind::WebSocket => 101,
        };
        self.next = match wanted {
            101 => Piece::Frame,
            _ if is_chunked(bytes.get(..end)?) => Piece::Chunk,
            _ => Piece::Events,
        };
        let status = bytes.strip_prefix(b"HTTP/1.1 ").and_then(number_at);
        if status != Some(wanted) {
            let status = status.and_then(|status| u16::try_from(status).ok());
            hear(Heard::Refused {
                status: status.unwrap_or(0),
            });
            // Whatever else it says is not for us.
            return Some(bytes.len());
        }
        if self.kind == Kind::Deflated && !agrees_to_deflate(bytes.get(..end)?) {
            hear(Heard::NotDeflated);
            return Some(bytes.len());
        }
        if matches!(self.kind, Kind::Bare | Kind::BareEvents) {
            hear(Heard::Ready { sequence: None });
        }
        Some(end)
    }

    fn read_frame(
        &self,
        bytes: &[u8],
        inflations: &mut Inflations,
        hear: &mut impl FnMut(Heard),
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
            // With the mask's bit it is longer than any piece, and so never complete.
            short => (2, usize::from(short)),
        };
        let end = start.checked_add(length)?;
        let payload = bytes.get(start..end)?;
        let heard = match first {
            0x81 if self.kind == Kind::Bare => Some(publication(payload, None)),
            0x81 => read_message(payload),
            // With RSV1 it is compressed.
            0xc1 if self.kind == Kind::Deflated => inflations.hear(payload, read_message),
            0x89 => Some(Heard::Ping),
            0x88 => Some(match payload.first_chunk() {
                Some(code) => Heard::Closed {
                    code: u16::from_be_bytes(*code),
                },
                None => Heard::End,
            }),
            _ => Some(Heard::End),
        };
        if let Some(heard) = heard {
            hear(heard);
        }
        Some(end)
    }
}

/// What a WebSocket message says.
fn read_message(payload: &[u8]) -> Option<Heard> {
    match payload.strip_prefix(b"{\"type\":\"") {
        Some(message) => read_control(message),
        None => Some(publication(payload, Some(&KEYS.id_member))),
    }
}

/// A control message behind its `{"type":"`.
fn read_control(message: &[u8]) -> Option<Heard> {
    let sequence = |key: &Finder<'_>| sequence_behind(message, key);
    if message.starts_with(b"subscribed\"") {
        Some(Heard::Ready {
            sequence: sequence(&KEYS.id_member),
        })
    } else if message.starts_with(b"gap\"") {
        Some(Heard::Gap {
            until: sequence(&KEYS.until),
        })
    } else if message.starts_with(b"error\"") {
        Some(Heard::End)
    } else {
        None
    }
}

/// Whether the body comes in chunks (RFC 9112, 7.1).
fn is_chunked(head: &[u8]) -> bool {
    has_field(head, b"transfer-encoding:", |value| {
        value.ends_with(b"chunked")
    })
}

/// Whether messages are compressed, and each by itself (RFC 7692, 7.1.1.1): otherwise the same
/// message would be different bytes for everybody.
fn agrees_to_deflate(head: &[u8]) -> bool {
    let has = |value: &[u8], word: &str| memmem::find(value, word.as_bytes()).is_some();
    has_field(head, b"sec-websocket-extensions:", |value| {
        has(value, "permessage-deflate") && has(value, "server_no_context_takeover")
    })
}

/// Whether a field of this name, in any case, has such a value in lower case.
fn has_field(head: &[u8], name: &[u8], is_it: impl Fn(&[u8]) -> bool) -> bool {
    let mut lines = head.split(|byte| *byte == b'\n');
    lines.any(|line| {
        let line = line.trim_ascii_end().to_ascii_lowercase();
        line.strip_prefix(name).is_some_and(&is_it)
    })
}

/// Reads whole events that are in no chunks.
fn read_events(bytes: &[u8], hear: &mut impl FnMut(Heard)) -> Option<usize> {
    let end = memmem::rfind(bytes, b"\n\n")? + 2;
    hear_events(bytes.get(..end)?, hear);
    Some(end)
}

/// Reads chunks up to the end of an event, which a proxy may have cut into several.
fn read_chunks(bytes: &[u8], hear: &mut impl FnMut(Heard)) -> Option<usize> {
    let mut joined = Vec::new();
    let mut done = 0;
    loop {
        let rest = bytes.get(done..)?;
        let line_end = KEYS.line_end.find(rest)?;
        let Some(size) = rest.get(..line_end).and_then(size_of_chunk) else {
            hear(Heard::End);
            return Some(bytes.len());
        };
        let start = line_end + 2;
        let end = start.checked_add(size)?;
        let content = rest.get(start..end)?;
        done += end.checked_add(2).filter(|end| *end <= rest.len())?;
        if size == 0 {
            hear(Heard::End);
            return Some(done);
        }
        let is_whole = content.ends_with(b"\n\n");
        if joined.is_empty() && is_whole {
            hear_events(content, hear);
            return Some(done);
        }
        joined.extend_from_slice(content);
        if is_whole {
            hear_events(&joined, hear);
            return Some(done);
        }
    }
}

fn size_of_chunk(line: &[u8]) -> Option<usize> {
    let digits = line.split(|byte| *byte == b';').next()?;
    let text = std::str::from_utf8(digits).ok()?;
    usize::from_str_radix(text.trim_end(), 16).ok()
}

fn hear_events(mut content: &[u8], hear: &mut impl FnMut(Heard)) {
    while let Some(length) = KEYS.blank_line.find(content) {
        let (event, rest) = content.split_at(length);
        hear_event(event, hear);
        content = rest.get(2..).unwrap_or_default();
    }
}

fn hear_event(event: &[u8], hear: &mut impl FnMut(Heard)) {
    // The first event of a stream has the reconnection time, whatever else it is.
    let is_first = event.starts_with(b"retry:");
    if is_first {
        hear(Heard::Ready {
            sequence: sequence_behind(event, &KEYS.id_field),
        });
    }
    if KEYS.gap_event.find(event).is_some() {
        hear(Heard::Gap {
            until: sequence_behind(event, &KEYS.until),
        });
    } else if !is_first && KEYS.data_field.find(event).is_some() {
        hear(publication(event, Some(&KEYS.id_field)));
    }
}

/// A publication, whose id follows a key where there is one.
pub(super) fn publication(text: &[u8], id: Option<&Finder<'_>>) -> Heard {
    Heard::Publication {
        stamp: stamp(text),
        sequence: id.and_then(|key| sequence_behind(text, key)),
    }
}

fn stamp(text: &[u8]) -> Option<Stamp> {
    let at = KEYS.number.find(text)? + NUMBER.len();
    let number = number_at(text.get(at..at + NUMBER_DIGITS)?)?;
    let at = at + NUMBER_DIGITS + STAMP.len();
    let due_ns = number_at(text.get(at..at + STAMP_DIGITS)?)?;
    Some(Stamp { number, due_ns })
}

/// The number in the id, `<epoch>-<sequence>`, that follows a key.
pub(super) fn sequence_behind(text: &[u8], key: &Finder<'_>) -> Option<u64> {
    let at = key.find(text)? + key.needle().len();
    let id = text.get(at..)?;
    let hyphen = memchr::memchr(b'-', id)?;
    number_at(id.get(hyphen + 1..)?)
}

/// The decimal number that a text begins with.
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

    fn heard(kind: Kind, pieces: &[&[u8]]) -> Vec<Heard> {
        let mut stream = Stream::new(kind);
        let mut inflations = Inflations::default();
        let mut all = Vec::new();
        for piece in pieces {
            stream.push(piece, &mut inflations, &mut |heard| all.push(heard));
        }
        all
    }

    /// Whole, byte by byte, and at every cut.
    fn check(kind: Kind, bytes: &[u8], expected: &[Heard]) {
        assert_eq!(heard(kind, &[bytes]), expected);
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(heard(kind, &single), expected);
        for cut in 0..bytes.len() {
            let (left, right) = bytes.split_at(cut);
            assert_eq!(heard(kind, &[left, right]), expected, "cut at {cut}");
        }
    }

    fn publication(number: u64, sequence: Option<u64>) -> Heard {
        Heard::Publication {
            stamp: Some(Stamp { number, due_ns: 42 }),
            sequence,
        }
    }

    #[test]
    fn web_socket_is_heard_the_same_for_every_cut() {
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
            Heard::Ready { sequence: Some(6) },
            publication(7, Some(7)),
            Heard::Ping,
            Heard::Gap { until: Some(9) },
            Heard::Publication {
                stamp: None,
                sequence: Some(10),
            },
            Heard::Closed { code: 0x365 },
        ];
        check(Kind::WebSocket, &bytes, &expected);
    }

    #[test]
    fn event_stream_is_heard_the_same_for_every_cut_and_chunking() {
        let events = [
            "retry: 1000\nevent:fanfare.position\nid: 0ab-6\n\n".to_owned(),
            "event:fanfare.position\nid: 0ab-6\n\n".to_owned(),
            ":\n".to_owned(),
            format!("id: 0ab-7\ndata: {STAMPED}\n\nid: 0ab-8\ndata: {STAMPED}\n\n"),
            "event: fanfare.gap\ndata: {\"since\":\"0ab-8\",\"until\":\"0ab-9\"}\n\n".to_owned(),
        ];
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        let expected = [
            Heard::Ready { sequence: Some(6) },
            publication(7, Some(7)),
            publication(7, Some(8)),
            Heard::Gap { until: Some(9) },
            Heard::End,
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
        let torn = heard(Kind::EventStream, &[(torn + "0\r\n\r\n").as_bytes()]);
        assert_eq!(torn, expected);
    }

    #[test]
    fn event_stream_that_begins_with_a_gap_is_ready_with_it() {
        let bytes = "HTTP/1.1 200 OK\r\n\r\nretry: 1000\nevent: fanfare.gap\n\
            data: {\"until\":\"0ab-9\"}\n\nevent: fanfare.position\nid: 0ab-9\n\n";
        let expected = [
            Heard::Ready { sequence: None },
            Heard::Gap { until: Some(9) },
        ];
        check(Kind::EventStream, bytes.as_bytes(), &expected);
    }

    #[test]
    fn compressed_frames_are_heard_like_plain_ones_for_every_cut() {
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
            Heard::Ready { sequence: Some(6) },
            publication(7, Some(7)),
            publication(7, Some(7)),
            Heard::End,
        ];
        check(Kind::Deflated, &bytes, &expected);
        // Nobody has asked a plain one to take compressed messages.
        let mut plain = b"HTTP/1.1 101 S\r\n\r\n".to_vec();
        plain.extend([0xc1, 1, 0]);
        check(Kind::WebSocket, &plain, &[Heard::End]);
    }

    #[test]
    fn server_that_does_not_compress_each_message_by_itself_is_told_apart() {
        for field in [
            "",
            "Sec-WebSocket-Extensions: permessage-deflate\r\n",
            "X: permessage-deflate; server_no_context_takeover\r\n",
        ] {
            let head = format!("HTTP/1.1 101 S\r\n{field}\r\n");
            check(Kind::Deflated, head.as_bytes(), &[Heard::NotDeflated]);
        }
    }

    #[test]
    fn bare_frames_have_no_id_and_are_ready_with_the_head() {
        let mut bytes = b"HTTP/1.1 101 S\r\n\r\n".to_vec();
        bytes.extend(frame(0x81, STAMPED));
        let expected = [Heard::Ready { sequence: None }, publication(7, None)];
        check(Kind::Bare, &bytes, &expected);
    }

    #[test]
    fn bare_events_are_ready_with_the_head_in_chunks_or_without() {
        let events = format!(": hi\n\nid: 17:0\ndata: {STAMPED}\n\n");
        let expected = [Heard::Ready { sequence: None }, publication(7, None)];
        let plain = format!("HTTP/1.1 200 OK\r\nA: b\r\n\r\n{events}");
        check(Kind::BareEvents, plain.as_bytes(), &expected);
        let chunked = format!(
            "HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\n\r\n{}",
            chunk(&events)
        );
        check(Kind::BareEvents, chunked.as_bytes(), &expected);
    }

    #[test]
    fn other_answers_are_refusals_with_their_status() {
        for (text, status) in [
            ("HTTP/1.1 503 Busy\r\nRetry-After: 1\r\n\r\n", 503),
            ("ICY 200 OK\r\n\r\n", 0),
            ("HTTP/1.1 99999999999999999999999 A\r\n\r\n", 0),
        ] {
            let expected = [Heard::Refused { status }];
            check(Kind::WebSocket, text.as_bytes(), &expected);
        }
    }

    #[test]
    fn nonsense_is_an_end_and_never_more() {
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        let text = format!("{head}zz\r\n");
        assert_eq!(heard(Kind::EventStream, &[text.as_bytes()]), [Heard::End]);
        let text = format!("{head}ffffffffffffffff\r\nabc");
        assert_eq!(heard(Kind::EventStream, &[text.as_bytes()]), []);
        let mut bytes = b"HTTP/1.1 101 S\r\n\r\n".to_vec();
        bytes.extend([0x81, 127, 255, 255, 255, 255, 255, 255, 255, 255, 1]);
        assert_eq!(heard(Kind::WebSocket, &[&bytes]), []);
    }
}
