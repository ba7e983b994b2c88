//! A checked publication that has no sequence number yet.
//!
//! This module performs no I/O. It checks all values of a publication, so a [`Draft`] can always be
//! sequenced. A draft owns its payload and labels, which are copied once, from the read buffer.

use std::borrow::Cow;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::fields::{Fields, Names};
use super::minify::minify;
use super::refusal::{Key, Refusal};
use crate::config::limits::{CHANNELS_PER_PUBLICATION_MAX, LABEL_BYTES_MAX};
use crate::frame::Payload;
use crate::frame::publication::is_reserved_event;
use crate::id::{ChannelName, ChannelNameError};
use crate::traceparent::TraceParent;

/// A publication without a sequence number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    /// The channels to which the draft is published.
    pub channels: Channels,
    /// The payload.
    pub payload: Payload,
    /// The event type, without control characters.
    pub event: Option<Box<str>>,
    /// The conflation key.
    pub key: Option<Box<str>>,
    /// The idempotency key.
    pub dedupe: Option<Box<str>>,
    /// The time to live.
    pub ttl: Option<Duration>,
    /// The trace context of the publisher. Boxed because few drafts have one.
    pub traceparent: Option<Box<TraceParent>>,
    /// Whether a client has published the draft, and not a feeder. The sampled flags of clients
    /// have a limit.
    pub is_from_client: bool,
}

/// The channels of a draft. For each channel a separate publication is created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Channels {
    /// One channel, without an allocation.
    One(ChannelName),
    /// From one to [`CHANNELS_PER_PUBLICATION_MAX`] channels.
    Many(Box<[ChannelName]>),
}

impl Channels {
    /// Returns all channels in the order of the input.
    #[must_use]
    pub fn as_slice(&self) -> &[ChannelName] {
        match self {
            Self::One(name) => std::slice::from_ref(name),
            Self::Many(names) => names,
        }
    }
}

/// Creates channel names. If a name repeats the previous name, both names share one text.
///
/// Feeders often publish to one channel many times. The publications then share one name in memory.
#[derive(Debug, Default)]
pub struct NameCache(Option<ChannelName>);

impl NameCache {
    fn name(&mut self, text: &str) -> Result<ChannelName, ChannelNameError> {
        if let Some(last) = self.0.as_ref().filter(|last| last.as_str() == text) {
            return Ok(last.clone());
        }
        let name = ChannelName::new(text)?;
        self.0 = Some(name.clone());
        Ok(name)
    }
}

impl Draft {
    /// Checks the fields of one object.
    pub(super) fn from_fields(fields: &Fields<'_>, names: &mut NameCache) -> Result<Self, Refusal> {
        let channels = channels(Key::Channel, fields.channel.as_ref(), names)?;
        let payload = payload(fields)?;
        Self::labelled(fields, channels, payload)
    }

    /// Combines the channels, the labels (event type and keys) and the payload into a draft.
    pub(super) fn labelled(
        fields: &Fields<'_>,
        channels: Channels,
        payload: Payload,
    ) -> Result<Self, Refusal> {
        if let Some(event) = &fields.event {
            check_event(event)?;
        }
        if fields.ttl_ms == Some(0) {
            return Err(Refusal::NoTime);
        }
        Ok(Self {
            channels,
            payload,
            event: label(Key::Event, fields.event.as_ref())?,
            key: key(Key::Key, fields.key.as_ref())?,
            dedupe: key(Key::Dedupe, fields.dedupe.as_ref())?,
            ttl: fields.ttl_ms.map(Duration::from_millis),
            traceparent: traceparent(fields.traceparent.as_deref())?,
            is_from_client: false,
        })
    }
}

/// Checks an event type, except for its length.
///
/// # Errors
/// Returns [`Refusal::BadEvent`] or [`Refusal::ReservedEvent`].
pub fn check_event(event: &str) -> Result<(), Refusal> {
    if event.contains(char::is_control) {
        return Err(Refusal::BadEvent);
    }
    if is_reserved_event(event) {
        return Err(Refusal::ReservedEvent);
    }
    Ok(())
}

/// Checks the channel names in the value of one JSON key.
pub(super) fn channels(
    key: Key,
    named: Option<&Names<'_>>,
    names: &mut NameCache,
) -> Result<Channels, Refusal> {
    match named {
        None => Err(Refusal::Missing(key)),
        Some(Names::One(text)) => names
            .name(text)
            .map(Channels::One)
            .map_err(Refusal::BadChannel),
        Some(Names::Many(texts)) if texts.is_empty() => Err(Refusal::Missing(key)),
        Some(Names::Many(texts)) if texts.len() > CHANNELS_PER_PUBLICATION_MAX => {
            Err(Refusal::TooManyChannels)
        }
        Some(Names::Many(texts)) => texts
            .iter()
            .map(|text| names.name(text))
            .collect::<Result<_, _>>()
            .map(Channels::Many)
            .map_err(Refusal::BadChannel),
    }
}

/// Checks that there is exactly one payload, and decodes it.
pub(super) fn payload(fields: &Fields<'_>) -> Result<Payload, Refusal> {
    match (fields.data, &fields.text, &fields.base64) {
        (Some(json), None, None) => Ok(Payload::Json(minify(json.get()))),
        (None, Some(text), None) => Ok(Payload::Text(Box::from(&**text))),
        (None, None, Some(base64)) => STANDARD
            .decode(base64.as_bytes())
            .map(|bytes| Payload::Bytes(bytes.into_boxed_slice()))
            .map_err(|_not_base64| Refusal::BadBase64),
        (data, text, base64) => Err(Refusal::PayloadCount(
            usize::from(data.is_some())
                + usize::from(text.is_some())
                + usize::from(base64.is_some()),
        )),
    }
}

/// Checks a conflation or idempotency key. An empty key is refused, because it usually comes from a
/// template with an unset variable. If empty keys were accepted, all publications with an empty key
/// would replace or repeat each other.
fn key(key: Key, text: Option<&Cow<'_, str>>) -> Result<Option<Box<str>>, Refusal> {
    if text.is_some_and(|text| text.is_empty()) {
        return Err(Refusal::Empty(key));
    }
    label(key, text)
}

fn traceparent(text: Option<&str>) -> Result<Option<Box<TraceParent>>, Refusal> {
    let parsed = text.map(str::parse).transpose();
    Ok(parsed.map_err(Refusal::BadTraceparent)?.map(Box::new))
}

fn label(key: Key, text: Option<&Cow<'_, str>>) -> Result<Option<Box<str>>, Refusal> {
    match text {
        Some(text) if text.len() > LABEL_BYTES_MAX => Err(Refusal::TooLong {
            key,
            limit: LABEL_BYTES_MAX,
            got: text.len(),
        }),
        Some(text) => Ok(Some(Box::from(&**text))),
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feed::protocol::command::publication;

    fn read(json: &str) -> Result<(Draft, bool), Refusal> {
        publication(json, &mut NameCache::default())
    }

    fn code(json: &str) -> &'static str {
        read(json).unwrap_err().code()
    }

    #[test]
    fn draft_takes_every_key_of_the_contract() {
        let (draft, wants_ack) = read(
            r#"{"channel":"a","data":{"x" : 1.0},"event":"e","key":"k","dedupe":"d","ttl_ms":5,"ack":true}"#,
        )
        .unwrap();
        assert!(wants_ack);
        assert_eq!(
            draft.channels,
            Channels::One(ChannelName::new("a").unwrap())
        );
        assert_eq!(draft.payload, Payload::Json(Box::from("{\"x\":1.0}")));
        assert_eq!(draft.event.as_deref(), Some("e"));
        assert_eq!(draft.key.as_deref(), Some("k"));
        assert_eq!(draft.dedupe.as_deref(), Some("d"));
        assert_eq!(draft.ttl, Some(Duration::from_millis(5)));
    }

    #[test]
    fn trace_context_is_kept_and_an_invalid_one_is_refused() {
        let context = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let traced = |value: &str| {
            let json = format!(r#"{{"channel":["a","b"],"data":1,"traceparent":{value}}}"#);
            read(&json).map(|(draft, _)| draft.traceparent)
        };
        let expected = context.parse().map(Box::new).unwrap();
        assert_eq!(traced(&format!("\"{context}\"")), Ok(Some(expected)));
        assert_eq!(traced("null"), Ok(None));
        for value in [
            "\"\"",
            "\"00-1-2-3\"",
            "\"00-00000000000000000000000000000000-1\"",
        ] {
            let refusal = traced(value).unwrap_err();
            assert_eq!(refusal.code(), "bad_value", "{value}");
            let message = refusal.to_string();
            assert!(
                message.starts_with("`traceparent` is not of the form 00-"),
                "{message}"
            );
        }
        assert_eq!(traced("1"), Err(Refusal::bad_value(Key::Traceparent)));
    }

    #[test]
    fn payload_of_each_type_is_kept_verbatim() {
        for (json, payload) in [
            (r#""data":null"#, Payload::Json(Box::from("null"))),
            (
                r#""data":123456789012345678901234567890.10"#,
                Payload::Json(Box::from("123456789012345678901234567890.10")),
            ),
            (
                r#""data":"\u00e9 \/""#,
                Payload::Json(Box::from(r#""\u00e9 \/""#)),
            ),
            (r#""text":"a\nü ""#, Payload::Text(Box::from("a\nü "))),
            (
                r#""base64":"AP8=""#,
                Payload::Bytes(Box::from([0, 255].as_slice())),
            ),
        ] {
            let (draft, _) = read(&format!("{{\"channel\":\"a\",{json}}}")).unwrap();
            assert_eq!(draft.payload, payload);
        }
    }

    #[test]
    fn channel_array_keeps_its_order_and_shares_repeated_names() {
        let (draft, _) = read(r#"{"channel":["b","a","a"],"text":""}"#).unwrap();
        let names: Vec<_> = draft
            .channels
            .as_slice()
            .iter()
            .map(ChannelName::as_str)
            .collect();
        assert_eq!(names, ["b", "a", "a"]);
        let [_, second, third] = draft.channels.as_slice() else {
            panic!("three channels")
        };
        assert!(std::ptr::eq(second.as_str(), third.as_str()));
    }

    #[test]
    fn refusals_of_channels_have_the_codes_of_the_contract() {
        let many = vec!["\"a\""; CHANNELS_PER_PUBLICATION_MAX + 1].join(",");
        for (json, expected) in [
            (r#"{"#.to_owned(), "bad_json"),
            (r#"5"#.to_owned(), "bad_json"),
            (r#"[]"#.to_owned(), "bad_json"),
            (r#"{"channel":"a","data":1}x"#.to_owned(), "bad_json"),
            (r#"{"channel":"a","data":01}"#.to_owned(), "bad_json"),
            (r#"{"channel":"a","text":"\ud800"}"#.to_owned(), "bad_json"),
            (r#"{"data":1}"#.to_owned(), "bad_channel"),
            (r#"{"channel":5,"data":1}"#.to_owned(), "bad_channel"),
            (r#"{"channel":[],"data":1}"#.to_owned(), "bad_channel"),
            (r#"{"channel":["a",1],"data":1}"#.to_owned(), "bad_channel"),
            (r#"{"channel":"a b","data":1}"#.to_owned(), "bad_channel"),
            (
                r#"{"channel":["a","fanfare:b"],"data":1}"#.to_owned(),
                "bad_channel",
            ),
            (
                format!("{{\"channel\":[{many}],\"data\":1}}"),
                "too_many_channels",
            ),
        ] {
            assert_eq!(code(&json), expected, "{json}");
        }
    }

    #[test]
    fn refusals_of_payloads_and_keys_have_the_codes_of_the_contract() {
        let long = "x".repeat(LABEL_BYTES_MAX + 1);
        for (json, expected) in [
            (r#"{"channel":"a"}"#.to_owned(), "bad_payload"),
            (
                r#"{"channel":"a","data":1,"text":""}"#.to_owned(),
                "bad_payload",
            ),
            (r#"{"channel":"a","text":1}"#.to_owned(), "bad_payload"),
            (r#"{"channel":"a","base64":"A"}"#.to_owned(), "bad_payload"),
            (
                r#"{"channel":"a","data":1,"chanel":1}"#.to_owned(),
                "unknown_key",
            ),
            (
                r#"{"channel":"a","data":1,"data":1}"#.to_owned(),
                "duplicate_key",
            ),
            (
                r#"{"channel":"a","data":1,"event":"a\nb"}"#.to_owned(),
                "bad_value",
            ),
            (
                r#"{"channel":"a","data":1,"event":"fanfare.gap"}"#.to_owned(),
                "bad_value",
            ),
            (
                r#"{"channel":"a","data":1,"event":" 　fanfare."}"#.to_owned(),
                "bad_value",
            ),
            (
                r#"{"channel":"a","data":1,"ttl_ms":-1}"#.to_owned(),
                "bad_value",
            ),
            (
                r#"{"channel":"a","data":1,"ttl_ms":1.5}"#.to_owned(),
                "bad_value",
            ),
            (
                r#"{"channel":"a","data":1,"ack":1}"#.to_owned(),
                "bad_value",
            ),
            (
                format!("{{\"channel\":\"a\",\"data\":1,\"key\":\"{long}\"}}"),
                "too_long",
            ),
            (r#"{"consume":["a"]}"#.to_owned(), "unknown_key"),
            (r#"{"send":"1-2-3","data":1}"#.to_owned(), "unknown_key"),
        ] {
            assert_eq!(code(&json), expected, "{json}");
        }
    }

    #[test]
    fn null_means_absent_and_only_data_may_be_null() {
        let nulls = r#""event":null,"key":null,"dedupe":null,"ttl_ms":null,"ack":null"#;
        let others = r#""code":null,"consume":null,"disconnect":null,"send":null,"reason":null"#;
        let (draft, wants_ack) = read(&format!(
            r#"{{"channel":"a","data":null,"text":null,"base64":null,{nulls},{others}}}"#
        ))
        .unwrap();
        let plain = read(r#"{"channel":"a","data":null}"#).unwrap();
        assert_eq!((draft, wants_ack), plain);
        assert_eq!(plain.0.payload, Payload::Json(Box::from("null")));
        for (json, message) in [
            (r#"{"channel":null,"data":1}"#, "`channel` is missing"),
            (r#"{"data":1,"send":null}"#, "`send` is missing"),
            (r#"{"presence":null}"#, "`presence` is missing"),
            (r#"{"consume":null,"notices":true}"#, "`consume` is missing"),
            (
                r#"{"channel":"a","event":null,"event":"e","data":1}"#,
                "`event` occurs twice",
            ),
            (
                r#"{"channel":"a","colour":null,"data":1}"#,
                "`colour` is not a key here",
            ),
        ] {
            assert_eq!(read(json).unwrap_err().to_string(), message, "{json}");
        }
        assert_eq!(code(r#"{"channel":"a","text":null}"#), "bad_payload");
        let two = r#"{"channel":"a","data":null,"text":"x"}"#;
        assert_eq!(code(two), "bad_payload");
        assert_eq!(code(r#"{"channel":["a",null],"data":1}"#), "bad_channel");
    }

    #[test]
    fn ttl_is_a_whole_number_in_any_spelling_and_not_zero() {
        let ttl = |number: &str| {
            let json = format!(r#"{{"channel":"a","data":1,"ttl_ms":{number}}}"#);
            read(&json).map(|(draft, _)| draft.ttl)
        };
        for number in ["5000", "5000.0", "5e3", "50e+2", "500000E-2"] {
            let expected = Ok(Some(Duration::from_millis(5000)));
            assert_eq!(ttl(number), expected, "{number}");
        }
        for number in [
            "5000.5",
            "-1",
            "1e400",
            "18446744073709551616",
            "\"5\"",
            "[5]",
            "true",
        ] {
            let refusal = Refusal::bad_value(Key::TtlMs);
            assert_eq!(ttl(number), Err(refusal), "{number}");
        }
        for number in ["0", "0.0", "-0", "0e9"] {
            assert_eq!(ttl(number), Err(Refusal::NoTime), "{number}");
        }
    }

    #[test]
    fn empty_keys_are_refused_and_empty_texts_are_not() {
        for (key, name) in [(Key::Dedupe, "dedupe"), (Key::Key, "key")] {
            let json = format!(r#"{{"channel":"a","data":1,"{name}":""}}"#);
            assert_eq!(read(&json), Err(Refusal::Empty(key)));
        }
        assert!(read(r#"{"channel":"a","text":"","event":""}"#).is_ok());
    }

    #[test]
    fn event_types_that_only_resemble_reserved_ones_are_accepted() {
        for event in ["fanfare", "fanfares", "Fanfare.gap", "x.fanfare.gap", ""] {
            let json = format!("{{\"channel\":\"a\",\"data\":1,\"event\":\"{event}\"}}");
            let (draft, _) = read(&json).unwrap();
            assert_eq!(draft.event.as_deref(), Some(event));
        }
    }

    #[test]
    fn refusal_never_repeats_a_long_value() {
        let long = "x".repeat(10_000);
        for json in [
            format!("{{\"ttl_ms\":\"{long}\"}}"),
            format!("{{\"{long}\":1}}"),
            format!("\"{long}\""),
        ] {
            assert!(read(&json).unwrap_err().to_string().len() < 200);
        }
    }

    #[test]
    fn payload_that_other_parsers_fail_on_is_refused() {
        let nested = |key: &str, levels: usize| {
            let (open, close) = ("[".repeat(levels), "]".repeat(levels));
            format!("{{\"channel\":\"a\",\"{key}\":{open}{close}}}")
        };
        assert!(read(&nested("data", 128)).is_ok());
        for levels in [129, 200_000] {
            assert_eq!(code(&nested("data", levels)), "bad_json", "{levels}");
            assert_eq!(code(&nested("x", levels)), "unknown_key", "{levels}");
        }
        let number = |digits: usize| {
            let digits = "7".repeat(digits);
            format!("{{\"channel\":\"a\",\"data\":[-{digits}]}}")
        };
        assert!(read(&number(1000)).is_ok());
        assert_eq!(code(&number(1001)), "bad_json");
    }
}
