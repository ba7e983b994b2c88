//! Checks ids and names in every place where a client sends them.
//!
//! An id or name that is read is printed unchanged, so each id and name has only one spelling. A
//! text means the same in `Last-Event-ID`, in the query and in `If-None-Match`.

use fanfare::config::Config;
use fanfare::effect::Reference;
use fanfare::http::{Answer, RequestRead, read_request};
use fanfare::id::{
    CHANNEL_NAME_BYTES_MAX, CONN_NAME_BYTES_MAX, CURSOR_BYTES_MAX, ChannelName, ConnId, ConnName,
    Cursor, Epoch, RunId, SINCE_FIRST, Sequence, Since,
};
use fanfare::metrics::WorkerMetrics;
use percent_encoding::{NON_ALPHANUMERIC, percent_encode};

use super::head::DATE;

/// Runs the target on an input: a text that may be an id or a name. The first 16 bytes are also
/// used as two numbers, from which ids are made.
pub fn attack(bytes: &[u8]) {
    check_numbers(bytes);
    check_as_field(bytes);
    let Ok(text) = str::from_utf8(bytes) else {
        return;
    };
    if let Ok(cursor) = text.parse::<Cursor>() {
        assert_eq!(cursor.to_string(), text);
        assert_eq!(Since::parse(text), Since::After(cursor));
        assert!(text.len() <= CURSOR_BYTES_MAX);
        check_as_validator(cursor);
    }
    if let Ok(name) = text.parse::<ConnName>() {
        assert_eq!(name.to_string(), text);
    }
    if let Some(reference) = Reference::from_json(text) {
        assert_eq!(reference.as_json(), text);
        assert!(text.len() <= Reference::BYTES_MAX);
    }
    check_name(text);
    check_in_query(text);
}

fn check_numbers(bytes: &[u8]) {
    let Some(numbers) = bytes.first_chunk::<16>() else {
        return;
    };
    let (first, second) = numbers.split_at(8);
    let first = u64::from_le_bytes(first.try_into().unwrap());
    let second = u64::from_le_bytes(second.try_into().unwrap());
    let cursor = Cursor {
        epoch: Epoch::new(first),
        sequence: Sequence(second),
    };
    let text = cursor.to_string();
    assert!(text.len() <= CURSOR_BYTES_MAX, "{text}");
    assert_eq!(text.parse(), Ok(cursor));
    let conn = ConnId::from_bits(first);
    assert_eq!(conn.to_bits(), first);
    let serial = first >> 16;
    let later = second % u64::from(u32::MAX);
    assert_eq!(ConnId::new(0, serial).serial(serial + 1 + later), serial);
    let name = ConnName {
        run: RunId(first),
        worker: second as u16,
        slot: second as u32,
        serial: second >> 16,
    };
    assert_eq!(name.to_string().len(), CONN_NAME_BYTES_MAX);
    assert_eq!(name.to_string().parse(), Ok(name));
}

/// Returns the answer to these bytes, if they are exactly one request.
fn answer(request: &[u8]) -> Option<Answer> {
    let metrics = WorkerMetrics::default();
    match read_request(request, &Config::default(), DATE, &metrics) {
        RequestRead::Request { length, answer } if length == request.len() => Some(answer),
        RequestRead::Incomplete | RequestRead::Request { .. } => None,
    }
}

fn check_as_field(bytes: &[u8]) {
    if bytes.contains(&b'\n') {
        return;
    }
    let request = [
        &b"GET /sse?channel=c HTTP/1.1\r\nHost: h\r\nLast-Event-ID: "[..],
        bytes,
        b"\r\n\r\n",
    ];
    let Some(Answer::EventStream(request)) = answer(&request.concat()) else {
        return;
    };
    let trimmed = bytes.trim_ascii();
    let expected = str::from_utf8(trimmed).map_or(Since::Unrecognised, Since::parse);
    assert_eq!(request.since, expected);
}

fn check_as_validator(cursor: Cursor) {
    let request = format!(
        "GET /poll?channel=c HTTP/1.1\r\nHost: h\r\nIf-None-Match: W/\"x\", \"{cursor}\"\r\n\r\n"
    );
    match answer(request.as_bytes()) {
        Some(Answer::Poll(request)) => assert!(request.validators.matches(cursor)),
        other => panic!("{request} gets {other:?}"),
    }
}

fn check_name(text: &str) {
    let is_name = !text.is_empty()
        && text.len() <= CHANNEL_NAME_BYTES_MAX
        && !text.contains(|c: char| c.is_control() || c.is_whitespace())
        && !text.contains('*')
        && !text.starts_with("fanfare:");
    let name = ChannelName::new(text);
    assert_eq!(name.is_ok(), is_name, "{text:?}: {name:?}");
    if let Ok(name) = name {
        assert_eq!(name.to_string(), text);
    }
}

fn check_in_query(text: &str) {
    let escaped = percent_encode(text.as_bytes(), NON_ALPHANUMERIC);
    let request = format!("GET /sse?channel=c&since={escaped} HTTP/1.1\r\nHost: h\r\n\r\n");
    // Programs write `null` for a position that they do not have.
    let position = Some(text).filter(|text| *text != "null");
    let expected = match position {
        Some(SINCE_FIRST) => Since::First,
        position => Since::parse(position.unwrap_or_default()),
    };
    match answer(request.as_bytes()) {
        Some(Answer::EventStream(request)) => assert_eq!(request.since, expected),
        // The server may refuse the request only if it is longer than a request head may be.
        other => assert!(request.len() > 8192, "{request} gets {other:?}"),
    }
    let request = format!(
        "GET /ws?channel={escaped} HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\n\
        Connection: upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AQIDBAUGBwgJCgsMDQ4PEC==\r\n\r\n"
    );
    match (answer(request.as_bytes()), ChannelName::new(text)) {
        (Some(Answer::WebSocket(request)), Ok(name)) => assert_eq!(request.channels, [name]),
        (Some(Answer::Respond(_)), Err(_)) => {}
        (other, name) => assert!(request.len() > 8192, "{name:?} gets {other:?}"),
    }
}
