//! The encoding of one publication as a value of the store.
//!
//! This module performs no I/O. A record consists of times, flags, lengths and texts; integers are
//! little-endian. The store uses the sequence number as the key, so the value does not contain it.
//! The store's checksums usually detect damage first, but this module also refuses invalid bytes. A
//! decoded record borrows from its input.

use crate::certain;
use crate::config::limits::{DEDUPE_BYTES_MAX, JOURNAL_RECORD_BYTES_MAX, LABEL_BYTES_MAX};
use crate::frame::Payload;
use crate::id::CHANNEL_NAME_BYTES_MAX;
use crate::traceparent::TraceParent;

const KIND_MASK: u8 = 0b0000_0011;
const KIND_BYTES: u8 = 0;
const KIND_JSON: u8 = 1;
const KIND_TEXT: u8 = 2;
const HAS_EVENT: u8 = 0b0000_0100;
const HAS_KEY: u8 = 0b0000_1000;
const HAS_DEDUPE: u8 = 0b0001_0000;
const HAS_TTL: u8 = 0b0010_0000;
const HAS_TRACEPARENT: u8 = 0b0100_0000;
const IS_FROM_CLIENT: u8 = 0b1000_0000;

/// A publication in the journal, with borrowed texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// The time of publication in microseconds since 1970.
    pub published_us: u64,
    /// The time to live in microseconds.
    pub ttl_us: Option<u64>,
    /// The channel.
    pub channel: &'a str,
    /// The event type.
    pub event: Option<&'a str>,
    /// The conflation key.
    pub key: Option<&'a str>,
    /// The idempotency key.
    pub dedupe: Option<&'a str>,
    /// Whether a client sent the publication, so that the idempotency key is one of a client.
    pub is_from_client: bool,
    /// The trace context.
    pub traceparent: Option<TraceParent>,
    /// The payload.
    pub payload: PayloadRef<'a>,
}

/// A borrowed [`Payload`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PayloadRef<'a> {
    /// Bytes.
    Bytes(&'a [u8]),
    /// A JSON text.
    Json(&'a str),
    /// A string, which is stored unchanged.
    Text(&'a str),
}

impl<'a> PayloadRef<'a> {
    /// Returns a reference to a payload.
    #[must_use]
    pub fn of(payload: &'a Payload) -> Self {
        match payload {
            Payload::Bytes(bytes) => Self::Bytes(bytes),
            Payload::Json(text) => Self::Json(text),
            Payload::Text(text) => Self::Text(text),
        }
    }

    /// Copies the payload into owned memory.
    #[must_use]
    pub fn to_payload(self) -> Payload {
        match self {
            Self::Bytes(bytes) => Payload::Bytes(Box::from(bytes)),
            Self::Json(text) => Payload::Json(Box::from(text)),
            Self::Text(text) => Payload::Text(Box::from(text)),
        }
    }

    fn kind(self) -> u8 {
        match self {
            Self::Bytes(_) => KIND_BYTES,
            Self::Json(_) => KIND_JSON,
            Self::Text(_) => KIND_TEXT,
        }
    }

    fn bytes(self) -> &'a [u8] {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Json(text) | Self::Text(text) => text.as_bytes(),
        }
    }
}

/// Appends an encoded record. Returns false and appends nothing if the record exceeds
/// [`JOURNAL_RECORD_BYTES_MAX`].
#[must_use]
pub fn encode(record: &Record<'_>, out: &mut Vec<u8>) -> bool {
    let start = out.len();
    push_body(record, out);
    let is_short = (out.len() - start) as u64 <= JOURNAL_RECORD_BYTES_MAX;
    if !is_short {
        out.truncate(start);
    }
    is_short
}

fn push_body(record: &Record<'_>, out: &mut Vec<u8>) {
    let flag = |text: Option<&str>, flag: u8| if text.is_some() { flag } else { 0 };
    let ttl_flag = if record.ttl_us.is_some() { HAS_TTL } else { 0 };
    let has_traceparent = record.traceparent.is_some();
    let traced_flag = if has_traceparent { HAS_TRACEPARENT } else { 0 };
    let client_flag = if record.is_from_client {
        IS_FROM_CLIENT
    } else {
        0
    };
    let flags = record.payload.kind()
        | flag(record.event, HAS_EVENT)
        | flag(record.key, HAS_KEY)
        | flag(record.dedupe, HAS_DEDUPE)
        | ttl_flag
        | traced_flag
        | client_flag;
    out.extend_from_slice(&record.published_us.to_le_bytes());
    out.extend_from_slice(&record.ttl_us.unwrap_or(0).to_le_bytes());
    let labels = [record.event, record.key, record.dedupe];
    debug_assert!(record.channel.len() <= CHANNEL_NAME_BYTES_MAX);
    let channel_bytes = certain::to_u8(record.channel.len());
    out.extend_from_slice(&[flags, channel_bytes]);
    for label in labels {
        out.extend_from_slice(&short(label.map_or(0, str::len)).to_le_bytes());
    }
    out.extend_from_slice(record.channel.as_bytes());
    for label in labels.into_iter().flatten() {
        out.extend_from_slice(label.as_bytes());
    }
    if let Some(traceparent) = record.traceparent {
        out.extend_from_slice(&traceparent.to_binary());
    }
    out.extend_from_slice(record.payload.bytes());
}

/// Decodes a record. Returns `None` if the bytes are invalid.
#[must_use]
pub fn decode(mut rest: &[u8]) -> Option<Record<'_>> {
    let published_us = number(&mut rest)?;
    let ttl_us = number(&mut rest)?;
    let [flags, channel_bytes] = take(&mut rest)?;
    let mut lengths = [0; 3];
    for length in &mut lengths {
        *length = usize::from(u16::from_le_bytes(take(&mut rest)?));
    }
    let channel = text(&mut rest, channel_bytes.into())?;
    let [event, key, dedupe] = lengths;
    let event = label(&mut rest, event, flags & HAS_EVENT != 0)?;
    let key = label(&mut rest, key, flags & HAS_KEY != 0)?;
    let dedupe = within(&mut rest, dedupe, DEDUPE_BYTES_MAX, flags & HAS_DEDUPE != 0)?;
    let traceparent = match flags & HAS_TRACEPARENT {
        0 => None,
        _ => Some(TraceParent::from_binary(take(&mut rest)?)?),
    };
    let has_ttl = flags & HAS_TTL != 0;
    let is_plausible = (1..=CHANNEL_NAME_BYTES_MAX).contains(&channel.len());
    if !is_plausible || (!has_ttl && ttl_us != 0) {
        return None;
    }
    let payload = match flags & KIND_MASK {
        KIND_BYTES => PayloadRef::Bytes(rest),
        KIND_JSON => PayloadRef::Json(utf8(rest)?),
        KIND_TEXT => PayloadRef::Text(utf8(rest)?),
        _ => return None,
    };
    Some(Record {
        published_us,
        ttl_us: has_ttl.then_some(ttl_us),
        channel,
        event,
        key,
        dedupe,
        is_from_client: flags & IS_FROM_CLIENT != 0,
        traceparent,
        payload,
    })
}

fn label<'a>(rest: &mut &'a [u8], bytes: usize, is_there: bool) -> Option<Option<&'a str>> {
    within(rest, bytes, LABEL_BYTES_MAX, is_there)
}

fn within<'a>(
    rest: &mut &'a [u8],
    bytes: usize,
    bytes_max: usize,
    is_there: bool,
) -> Option<Option<&'a str>> {
    match is_there {
        true if bytes <= bytes_max => text(rest, bytes).map(Some),
        false if bytes == 0 => Some(None),
        true | false => None,
    }
}

fn text<'a>(rest: &mut &'a [u8], bytes: usize) -> Option<&'a str> {
    let (head, tail) = rest.split_at_checked(bytes)?;
    *rest = tail;
    utf8(head)
}

fn utf8(bytes: &[u8]) -> Option<&str> {
    simdutf8::basic::from_utf8(bytes).ok()
}

fn number(rest: &mut &[u8]) -> Option<u64> {
    take(rest).map(u64::from_le_bytes)
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = rest.split_first_chunk()?;
    *rest = tail;
    Some(*head)
}

/// Returns the length of a label as a 16-bit number. The feed has already limited the length.
fn short(length: usize) -> u16 {
    debug_assert!(length <= DEDUPE_BYTES_MAX, "{length}");
    certain::to_u16(length)
}

const _: () = assert!(CHANNEL_NAME_BYTES_MAX <= u8::MAX as usize);
const _: () = assert!(DEDUPE_BYTES_MAX <= u16::MAX as usize);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record() -> Record<'static> {
        Record {
            published_us: 1_700_000_000_000_000,
            ttl_us: Some(0),
            channel: "chat:42",
            event: Some("greeting"),
            key: Some(""),
            dedupe: Some("d-1"),
            is_from_client: false,
            traceparent: TraceParent::from_binary([7; 25]),
            payload: PayloadRef::Json("{\"a\":\"ü\"}"),
        }
    }

    fn encoded(record: &Record<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        assert!(encode(record, &mut out));
        out
    }

    #[test]
    fn record_survives_encoding() {
        let bare = Record {
            ttl_us: None,
            event: None,
            key: None,
            dedupe: None,
            is_from_client: false,
            traceparent: None,
            payload: PayloadRef::Bytes(&[0, 255]),
            ..record()
        };
        let text = Record {
            payload: PayloadRef::Text(""),
            ..record()
        };
        for one in [record(), bare, text] {
            assert_eq!(decode(&encoded(&one)), Some(one));
        }
    }

    #[test]
    fn record_cut_before_its_payload_is_none() {
        let bytes = encoded(&Record {
            payload: PayloadRef::Text(""),
            ..record()
        });
        for cut in 0..bytes.len() {
            assert_eq!(decode(&bytes[..cut]), None, "cut at {cut}");
        }
    }

    #[test]
    fn invalid_bytes_are_refused() {
        let good = encoded(&record());
        // Offset 16 has the flags, offset 17 has the length of the channel's name, and offset 19
        // has the upper byte of the length of a label.
        for (at, value) in [(16, 0xff), (16, 3), (17, 0), (17, 255), (19, 0xff)] {
            let mut bytes = good.clone();
            bytes[at] = value;
            assert_eq!(decode(&bytes), None, "{value} at {at}");
        }
    }

    #[test]
    fn record_of_a_version_without_traceparent_is_read() {
        let mut bytes = vec![1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0];
        bytes.extend_from_slice(b"\x3d\x01\x01\0\x01\0\x01\0aekd[1]");
        let read = Record {
            published_us: 1,
            ttl_us: Some(2),
            channel: "a",
            event: Some("e"),
            key: Some("k"),
            dedupe: Some("d"),
            is_from_client: false,
            traceparent: None,
            payload: PayloadRef::Json("[1]"),
        };
        assert_eq!(decode(&bytes), Some(read));
        assert_eq!(encoded(&read), bytes, "its cost is nothing without one");
    }

    #[test]
    fn record_with_a_zero_id_in_its_traceparent_is_refused() {
        let mut bytes = encoded(&record());
        let at = bytes
            .windows(25)
            .position(|bytes| bytes == [7; 25])
            .unwrap();
        bytes[at..at + 16].fill(0);
        assert_eq!(decode(&bytes), None);
    }

    #[test]
    fn record_that_is_too_long_appends_nothing() {
        let text = "x".repeat(usize::try_from(JOURNAL_RECORD_BYTES_MAX).unwrap());
        let long = Record {
            payload: PayloadRef::Text(&text),
            ..record()
        };
        let mut out = b"before".to_vec();
        assert!(!encode(&long, &mut out));
        assert_eq!(out, b"before");
    }

    proptest! {
        #[test]
        fn random_bytes_do_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _record = decode(&bytes);
        }
    }
}
