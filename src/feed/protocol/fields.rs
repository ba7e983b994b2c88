//! The keys and values of one JSON object or query, borrowed from the input.
//!
//! This module decodes a JSON object with serde, and stores the current key so that an error can
//! name the key. A key with the value `null` counts as absent, except for `data`, where `null` is a
//! value. Strings without escapes are borrowed, and `data` stays raw text. [`super::draft`] and
//! [`super::command`] check the values.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::error::Category;
use serde_json::value::RawValue;

use super::refusal::{Key, Keys, Refusal};
use crate::config::limits::CHANNELS_PER_PUBLICATION_MAX;
use crate::json;

/// The values of one JSON object or query.
#[derive(Debug, Default)]
pub(super) struct Fields<'a> {
    pub(super) channel: Option<Names<'a>>,
    pub(super) data: Option<&'a RawValue>,
    pub(super) text: Option<Cow<'a, str>>,
    pub(super) traceparent: Option<Cow<'a, str>>,
    pub(super) base64: Option<Cow<'a, str>>,
    pub(super) event: Option<Cow<'a, str>>,
    pub(super) key: Option<Cow<'a, str>>,
    pub(super) dedupe: Option<Cow<'a, str>>,
    pub(super) ttl_ms: Option<u64>,
    pub(super) ack: Option<bool>,
    pub(super) code: Option<u64>,
    pub(super) consume: Option<Names<'a>>,
    pub(super) disconnect: Option<Cow<'a, str>>,
    pub(super) disconnect_sub: Option<Cow<'a, str>>,
    pub(super) notices: Option<bool>,
    pub(super) presence: Option<Names<'a>>,
    pub(super) reason: Option<Cow<'a, str>>,
    pub(super) send: Option<Cow<'a, str>>,
    /// The keys that have a value.
    keys: Keys,
    /// The keys that occur, including keys with the value `null`.
    named: Keys,
    /// The key whose value is being decoded.
    reading: Option<Key>,
    /// The first error. It is reported only if the text is valid JSON.
    refusal: Option<Refusal>,
}

/// One string or an array of strings.
#[derive(Debug)]
pub(super) enum Names<'a> {
    One(Cow<'a, str>),
    Many(Vec<Cow<'a, str>>),
}

impl<'a> Fields<'a> {
    /// Decodes one JSON object.
    pub(super) fn from_json(text: &'a str) -> Result<Self, Refusal> {
        let mut fields = Self::default();
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let read = Object(&mut fields)
            .deserialize(&mut deserializer)
            .and_then(|()| deserializer.end());
        match (read, fields.refusal.take()) {
            (Err(error), noted) => Err(fields.refusal_of(&error, noted)),
            (Ok(()), Some(refusal)) => Err(refusal),
            (Ok(()), None) => {
                json::check_envelope(text)?;
                Ok(fields)
            }
        }
    }

    fn refusal_of(&self, error: &serde_json::Error, noted: Option<Refusal>) -> Refusal {
        match (error.classify(), self.reading) {
            // The parser's message is not used, because it may quote the whole value.
            (Category::Data, Some(key)) => noted.unwrap_or_else(|| Refusal::bad_value(key)),
            (Category::Data, None) => Refusal::NotAnObject,
            (Category::Eof | Category::Io | Category::Syntax, _) => {
                Refusal::BadJson(error.to_string().into_boxed_str())
            }
        }
    }

    fn note(&mut self, refusal: Refusal) {
        self.refusal.get_or_insert(refusal);
    }

    fn read_value<A: MapAccess<'a>>(&mut self, key: Key, map: &mut A) -> Result<(), A::Error> {
        let is_present = match key {
            Key::Ack => read(&mut self.ack, map),
            Key::Base64 => read_text(&mut self.base64, map),
            Key::Channel => read(&mut self.channel, map),
            Key::Code => read_number(&mut self.code, map),
            Key::Consume => read(&mut self.consume, map),
            Key::Data => {
                self.data = Some(map.next_value()?);
                Ok(true)
            }
            Key::Dedupe => read_text(&mut self.dedupe, map),
            Key::Disconnect => read_text(&mut self.disconnect, map),
            Key::DisconnectSub => read_text(&mut self.disconnect_sub, map),
            Key::Event => read_text(&mut self.event, map),
            Key::Key => read_text(&mut self.key, map),
            Key::Notices => read(&mut self.notices, map),
            Key::Presence => read(&mut self.presence, map),
            Key::Reason => read_text(&mut self.reason, map),
            Key::Send => read_text(&mut self.send, map),
            Key::Text => read_text(&mut self.text, map),
            Key::Traceparent => read_text(&mut self.traceparent, map),
            Key::TtlMs => read_number(&mut self.ttl_ms, map),
        }?;
        if is_present {
            self.keys.insert(key);
        }
        if !self.named.insert(key) {
            self.note(Refusal::DuplicateKey(key));
        }
        Ok(())
    }

    /// Returns the first key of this set whose value is `null`.
    pub(super) fn null_of(&self, keys: Keys) -> Option<Key> {
        let mut keys = Key::ALL.into_iter().filter(|key| keys.has(*key));
        keys.find(|key| self.named.has(*key) && !self.keys.has(*key))
    }

    /// Returns an error if any key outside this set has a value.
    pub(super) fn only(&self, keys: Keys) -> Result<(), Refusal> {
        let mut others = Key::ALL.into_iter().filter(|key| !keys.has(*key));
        match others.find(|key| self.keys.has(*key)) {
            Some(key) => Err(Refusal::unknown_key(&key.to_string())),
            None => Ok(()),
        }
    }
}

/// Decodes a value, and returns whether the value is present and not `null`.
fn read<'a, T: Deserialize<'a>, A: MapAccess<'a>>(
    place: &mut Option<T>,
    map: &mut A,
) -> Result<bool, A::Error> {
    *place = map.next_value()?;
    Ok(place.is_some())
}

fn read_text<'a, A: MapAccess<'a>>(
    place: &mut Option<Cow<'a, str>>,
    map: &mut A,
) -> Result<bool, A::Error> {
    let text: Option<Text<'_>> = map.next_value()?;
    *place = text.map(|Text(text)| text);
    Ok(place.is_some())
}

fn read_number<'a, A: MapAccess<'a>>(
    place: &mut Option<u64>,
    map: &mut A,
) -> Result<bool, A::Error> {
    let number: Option<WholeNumber> = map.next_value()?;
    *place = number.map(|WholeNumber(number)| number);
    Ok(place.is_some())
}

struct Object<'f, 'a>(&'f mut Fields<'a>);

impl<'a> DeserializeSeed<'a> for Object<'_, 'a> {
    type Value = ();

    fn deserialize<D: Deserializer<'a>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'a> Visitor<'a> for Object<'_, 'a> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<(), A::Error> {
        let fields = self.0;
        while let Some(Text(name)) = map.next_key()? {
            let Some(key) = Key::from_name(&name) else {
                map.next_value::<IgnoredAny>()?;
                fields.note(Refusal::unknown_key(&name));
                continue;
            };
            fields.reading = Some(key);
            fields.read_value(key, &mut map)?;
            fields.reading = None;
        }
        Ok(())
    }
}

/// A whole number in any notation, such as `4.003e3`.
struct WholeNumber(u64);

impl<'de> Deserialize<'de> for WholeNumber {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let json = <&RawValue>::deserialize(deserializer)?;
        let number = json::whole_number(json.get()).map(Self);
        number.ok_or_else(|| D::Error::custom("not a whole number"))
    }
}

/// A string, borrowed if it has no escapes.
struct Text<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(TextVisitor).map(Text)
    }
}

struct TextVisitor;

impl<'de> Visitor<'de> for TextVisitor {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(text))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(String::from(text)))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Names<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NamesVisitor)
    }
}

struct NamesVisitor;

impl<'de> Visitor<'de> for NamesVisitor {
    type Value = Names<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string or an array of strings")
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Names::One(Cow::Borrowed(text)))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Names::One(Cow::Owned(String::from(text))))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut names = Vec::new();
        // One name more than the limit is kept, so that the excess is detected. Further names are
        // skipped.
        while names.len() <= CHANNELS_PER_PUBLICATION_MAX {
            match seq.next_element()? {
                Some(Text(name)) => names.push(name),
                None => return Ok(Names::Many(names)),
            }
        }
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Names::Many(names))
    }
}
