//! PURE: what a client hears: the bytes of one connection, cut anywhere, to what they say.
//!
//! Reads the response head, then WebSocket frames (RFC 6455, 5.2) or chunks of server-sent events
//! (RFC 9112, 7.1). Holds bytes only while a piece is incomplete. Knows the stamped payload that
//! [`super::publisher`] writes and what fanfare says beside publications; the floor's connections
//! get bare payloads in WebSocket frames and are ready with their head.

use memchr::memmem;

/// Begins a stamped payload: the publication's number follows in 12 digits.
pub(crate) const NUMBER: &str = "{\"n\":\"";
/// Digits of the number.
pub(crate) const NUMBER_DIGITS: usize = 12;
/// Comes between the number and the time in nanoseconds.
pub(crate) const STAMP: &str = "\",\"t\":\"";
/// Digits of the time.
pub(crate) const STAMP_DIGITS: usize = 16;

/// How a connection is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Server-sent events.
    EventStream,
    /// The floor's: payloads in WebSocket frames and nothing else.
    Floor,
    /// WebSocket.
    WebSocket,
}

/// One thing heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// The stream has ended, or made no sense.
    End,
    /// Publications are missing, and the server says so.
    Gap,
    /// A ping without payload, or another one: a pong is due.
    Ping,
    /// A publication.
    Publication {
        /// Its number, from one.
        number: u64,
        /// When it was due to be published.
        stamp_ns: u64,
        /// The sequence number in its id, where ids are told.
        sequence: Option<u64>,
    },
    /// The connection is subscribed.
    Ready,
}

/// The listening end of one connection.
#[derive(Debug)]
pub(crate) struct Stream {
    kind: Kind,
    has_head: bool,
    /// The bytes of an incomplete piece.
    rest: Vec<u8>,
}

impl Stream {
    /// A connection that has sent its request.
    pub(crate) fn new(kind: Kind) -> Self {
        Self {
            kind,
            has_head: false,
            rest: Vec::new(),
        }
    }

    /// Takes bytes and tells what they say.
    pub(crate) fn push(&mut self, bytes: &[u8], hear: &mut impl FnMut(Heard)) {
        if self.rest.is_empty() {
            let done = self.read(bytes, hear);
            self.rest.extend_from_slice(&bytes[done..]);
            return;
        }
        let mut held = std::mem::take(&mut self.rest);
        held.extend_from_slice(bytes);
        let done = self.read(&held, hear);
        self.rest.extend_from_slice(&held[done..]);
    }

    /// Reads whole pieces and returns how many bytes they were.
    fn read(&mut self, bytes: &[u8], hear: &mut impl FnMut(Heard)) -> usize {
        let mut done = 0;
        loop {
            let rest = &bytes[done..];
            let read = if !self.has_head {
                self.read_head(rest, hear)
            } else if self.kind == Kind::EventStream {
                read_chunk(rest, hear)
            } else {
                self.read_frame(rest, hear)
            };
            match read {
                Some(length) => done += length,
                None => return done,
            }
        }
    }

    fn read_head(&mut self, bytes: &[u8], hear: &mut impl FnMut(Heard)) -> Option<usize> {
        let end = memmem::find(bytes, b"\r\n\r\n")? + 4;
        self.has_head = true;
        let status: &[u8] = match self.kind {
            Kind::EventStream => b"HTTP/1.1 200 ",
            Kind::Floor | Kind::WebSocket => b"HTTP/1.1 101 ",
        };
        if !bytes.starts_with(status) {
            hear(Heard::End);
        } else if self.kind == Kind::Floor {
            hear(Heard::Ready);
        }
        Some(end)
    }

    fn read_frame(&self, bytes: &[u8], hear: &mut impl FnMut(Heard)) -> Option<usize> {
        let (first, second) = (*bytes.first()?, *bytes.get(1)?);
        let (start, length) = match second {
            126 => {
                let length = bytes.get(2..4)?.try_into().ok()?;
                (4, usize::from(u16::from_be_bytes(length)))
            }
            127 => {
                let length = bytes.get(2..10)?.try_into().ok()?;
                (10, usize::try_from(u64::from_be_bytes(length)).ok()?)
            }
            short => (2, usize::from(short)),
        };
        let payload = bytes.get(start..start + length)?;
        match first {
            0x81 if payload.starts_with(b"{\"type\":") => hear_message(payload, hear),
            0x81 => hear_publication(payload, b"\"id\":\"", self.kind != Kind::Floor, hear),
            0x89 => hear(Heard::Ping),
            _ => hear(Heard::End),
        }
        Some(start + length)
    }
}

fn hear_message(payload: &[u8], hear: &mut impl FnMut(Heard)) {
    let says = |kind: &str| payload[8..].starts_with(kind.as_bytes());
    if says("\"subscribed\"") {
        hear(Heard::Ready);
    } else if says("\"gap\"") {
        hear(Heard::Gap);
    } else if says("\"error\"") {
        hear(Heard::End);
    }
}

fn read_chunk(bytes: &[u8], hear: &mut impl FnMut(Heard)) -> Option<usize> {
    let line_end = memmem::find(bytes, b"\r\n")?;
    let size = std::str::from_utf8(&bytes[..line_end]).ok();
    let Some(size) = size.and_then(|size| usize::from_str_radix(size, 16).ok()) else {
        hear(Heard::End);
        return Some(bytes.len());
    };
    let content = bytes.get(line_end + 2..line_end + 2 + size)?;
    let end = line_end + 2 + size + 2;
    if bytes.len() < end {
        return None;
    }
    if size == 0 {
        hear(Heard::End);
    }
    let mut start = 0;
    while let Some(length) = memmem::find(&content[start..], b"\n\n") {
        hear_event(&content[start..start + length], hear);
        start += length + 2;
    }
    Some(end)
}

fn hear_event(event: &[u8], hear: &mut impl FnMut(Heard)) {
    if event.starts_with(b"retry:") {
        hear(Heard::Ready);
    } else if memmem::find(event, b"event: fanfare.gap").is_some() {
        hear(Heard::Gap);
    } else if memmem::find(event, b"data:").is_some() {
        hear_publication(event, b"id: ", true, hear);
    }
}

fn hear_publication(text: &[u8], id: &[u8], has_id: bool, hear: &mut impl FnMut(Heard)) {
    hear(read_publication(text, id, has_id).unwrap_or(Heard::End));
}

fn read_publication(text: &[u8], id: &[u8], has_id: bool) -> Option<Heard> {
    let sequence = if has_id {
        let at = memmem::find(text, id)? + id.len();
        let hyphen = memchr::memchr(b'-', &text[at..])?;
        Some(number_at(&text[at + hyphen + 1..])?)
    } else {
        None
    };
    let at = memmem::find(text, NUMBER.as_bytes())? + NUMBER.len();
    let number = number_at(text.get(at..at + NUMBER_DIGITS)?)?;
    let at = at + NUMBER_DIGITS + STAMP.len();
    let stamp_ns = number_at(text.get(at..at + STAMP_DIGITS)?)?;
    Some(Heard::Publication {
        number,
        stamp_ns,
        sequence,
    })
}

/// The decimal number that a text begins with.
fn number_at(text: &[u8]) -> Option<u64> {
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit());
    let mut number = None;
    for digit in digits {
        number = Some(number.unwrap_or(0) * 10 + u64::from(digit - b'0'));
    }
    number
}
