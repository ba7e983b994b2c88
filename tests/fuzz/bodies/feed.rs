//! Shared code of the feed's two targets: decodes bytes into items, and prints items as lines.

use fanfare::backend::CloseInfo;
use fanfare::config::Limits;
use fanfare::feed::protocol::command::Command;
use fanfare::feed::protocol::draft::{Channels, Draft};
use fanfare::feed::protocol::{decode::Decoder, item::Item};
use fanfare::frame::Payload;
use fanfare::id::{ChannelName, ConnName};
use fanfare::pattern::Pattern;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::{memory, parts};

/// The limit on lines and bodies, small so that inputs exceed it.
pub const LINE_BYTES_MAX: usize = 300;
/// The limit on request heads.
pub const HEAD_BYTES_MAX: usize = 300;
/// The maximum number of bytes that a decoder may store in addition to a body.
const HELD_BYTES: usize = 4096;

pub fn limits() -> Limits {
    Limits {
        feed_line_bytes: LINE_BYTES_MAX as u32,
        request_head_bytes: HEAD_BYTES_MAX as u32,
        ..Limits::default()
    }
}

/// A decoded item, with the position of its end.
#[derive(Debug, PartialEq)]
pub struct Decoded {
    pub item: Item,
    /// The number of bytes that the decoder had consumed when it returned the item.
    pub end: usize,
}

/// Decodes all items that a feeder has sent. Checks that the items do not depend on the cuts.
pub fn decode(bytes: &[u8]) -> Vec<Decoded> {
    let whole = decode_pieces(&[bytes]);
    for way in parts::ways_to_cut(bytes) {
        let items = decode_pieces(&way);
        let is_same = items.iter().map(|decoded| &decoded.item);
        assert!(
            is_same.eq(whole.iter().map(|decoded| &decoded.item)),
            "{way:?}: {items:?} is not {whole:?}"
        );
    }
    whole
}

fn decode_pieces(pieces: &[&[u8]]) -> Vec<Decoded> {
    let mut decoder = Decoder::new(limits());
    let mut items = Vec::new();
    let mut rest = Vec::new();
    let mut end = 0;
    for piece in pieces {
        rest.extend_from_slice(piece);
        loop {
            let was_over = decoder.is_over();
            let step = decoder.next(&rest);
            rest.drain(..step.consumed);
            end += step.consumed;
            let Some(item) = step.item else { break };
            assert!(!was_over, "{item:?} after the end");
            items.push(Decoded { item, end });
        }
        let bound = LINE_BYTES_MAX.max(HEAD_BYTES_MAX).max(1024);
        assert!(rest.len() <= bound, "{} bytes are kept", rest.len());
    }
    if !decoder.is_over() {
        let last = decoder.finish(&rest);
        items.extend(last.map(|item| Decoded { item, end }));
    }
    let held = memory::held_by(decoder);
    assert!(held <= 2 * LINE_BYTES_MAX + HELD_BYTES, "{held} bytes held");
    items
}

/// Decodes a line that contains one item.
pub fn read_line(line: &str) -> Item {
    let limits = Limits {
        feed_line_bytes: 1 << 20,
        ..Limits::default()
    };
    let mut decoder = Decoder::new(limits);
    let line = format!("{line}\n");
    let item = decoder.next(line.as_bytes()).item;
    item.unwrap_or_else(|| panic!("a line without an item: {line}"))
}

/// Prints a publication as a line.
pub fn print_draft(draft: &Draft) -> String {
    let mut fields = Map::new();
    let channel = match &draft.channels {
        Channels::One(name) => name.as_str().into(),
        Channels::Many(names) => print_names(names),
    };
    fields.insert("channel".into(), channel);
    let labels = [
        ("event", &draft.event),
        ("key", &draft.key),
        ("dedupe", &draft.dedupe),
    ];
    for (name, label) in labels {
        if let Some(label) = label {
            fields.insert(name.into(), label.to_string().into());
        }
    }
    if let Some(ttl) = draft.ttl {
        let ms = u64::try_from(ttl.as_millis()).expect("a ttl in milliseconds");
        fields.insert("ttl_ms".into(), ms.into());
    }
    print(fields, Some(&draft.payload))
}

fn print_names(names: &[ChannelName]) -> Value {
    names.iter().map(ChannelName::as_str).collect()
}

fn print_close_info(fields: &mut Map<String, Value>, close_info: &CloseInfo) {
    let CloseInfo { code, reason } = close_info;
    fields.insert("code".into(), (*code).into());
    fields.insert("reason".into(), reason.to_string().into());
}

/// Prints a command as a line.
pub fn print_command(command: &Command) -> String {
    let mut fields = Map::new();
    let mut payload_sent = None;
    match command {
        Command::Consume { patterns, notices } => {
            let patterns = patterns.iter().map(|pattern| match pattern {
                Pattern::Prefix(prefix) => format!("{prefix}*"),
                Pattern::Name(name) => name.to_string(),
            });
            fields.insert("consume".into(), patterns.collect());
            fields.insert("notices".into(), (*notices).into());
        }
        Command::Disconnect { conn, close_info } => {
            fields.insert("disconnect".into(), print_conn(*conn).into());
            print_close_info(&mut fields, close_info);
        }
        Command::DisconnectSub { sub, close_info } => {
            fields.insert("disconnect_sub".into(), (**sub).into());
            print_close_info(&mut fields, close_info);
        }
        Command::Presence(names) => {
            fields.insert("presence".into(), print_names(names));
        }
        Command::Send { conn, payload } => {
            fields.insert("send".into(), print_conn(*conn).into());
            payload_sent = Some(payload);
        }
    }
    print(fields, payload_sent)
}

/// Prints a connection's name. `None` stands for a name in the format of another version, for which
/// a fixed name is printed.
fn print_conn(conn: Option<ConnName>) -> String {
    conn.map_or_else(|| String::from("1-2-3"), |conn| conn.to_string())
}

/// Prints the fields as an object, with the text of the payload unchanged.
fn print(mut fields: Map<String, Value>, payload: Option<&Payload>) -> String {
    let mut json = None;
    match payload {
        None => {}
        Some(Payload::Bytes(bytes)) => {
            use base64::Engine as _;
            let text = base64::engine::general_purpose::STANDARD.encode(bytes);
            fields.insert("base64".into(), text.into());
        }
        Some(Payload::Json(text)) => json = Some(text),
        Some(Payload::Text(text)) => {
            fields.insert("text".into(), text.to_string().into());
        }
    }
    let line = Value::Object(fields).to_string();
    match json {
        None => line,
        Some(json) => format!("{},\"data\":{json}}}", &line[..line.len() - 1]),
    }
}

/// Checks a payload that is passed on. JSON must be valid, within the limits, and without white
/// space between its tokens.
pub fn check_payload(payload: &Payload) {
    if let Payload::Json(text) = payload {
        let raw: &RawValue = serde_json::from_str(text).expect("a payload is JSON");
        assert_eq!(raw.get(), &**text);
        assert_eq!(fanfare::json::check_value(text), Ok(()));
        assert_eq!(fanfare::feed::protocol::minify::minify(text), *text);
    }
}
