//! The fields of one publication as they were sent, still borrowed from the line.
//!
//! Reads a JSON object with serde and notes which key was at fault, so that an error can name it.
//! Strings without escapes are borrowed; `data` is kept as the raw text. What the fields mean is
//! [`super::draft`]'s business.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::error::Category;
use serde_json::value::RawValue;

use super::refusal::{Key, Keys, Refusal};
use crate::config::limits::CHANNELS_PER_PUBLICATION_MAX;

/// What one JSON object or one query said.
#[derive(Debug, Default)]
pub(super) struct Fields<'a> {
    pub(super) channel: Option<Names<'a>>,
    pub(super) data: Option<&'a RawValue>,
    pub(super) text: Option<Cow<'a, str>>,
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
    /// What was there.
    keys: Keys,
    /// The key whose value is being read.
    reading: Option<Key>,
    /// The first thing that was wrong in a text that may still turn out not to be JSON at all.
    refusal: Option<Refusal>,
}

/// The channels as they were named.
#[derive(Debug)]
pub(super) enum Names<'a> {
    One(Cow<'a, str>),
    Many(Vec<Cow<'a, str>>),
}

impl<'a> Fields<'a> {
    /// Reads one JSON object.
    pub(super) fn from_json(json: &'a str) -> Result<Self, Refusal> {
        let mut fields = Self::default();
        let mut deserializer = serde_json::Deserializer::from_str(json);
        let read = Object(&mut fields)
            .deserialize(&mut deserializer)
            .and_then(|()| deserializer.end());
        match (read, fields.refusal.take()) {
            (Err(error), noted) => Err(fields.refusal_of(&error, noted)),
            (Ok(()), Some(refusal)) => Err(refusal),
            (Ok(()), None) => Ok(fields),
        }
    }

    fn refusal_of(&self, error: &serde_json::Error, noted: Option<Refusal>) -> Refusal {
        match (error.classify(), self.reading) {
            // A parser's message about a wrong type may quote the whole value; ours does not.
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
        match key {
            Key::Ack => self.ack = Some(map.next_value()?),
            Key::Base64 => self.base64 = text(map)?,
            Key::Channel => self.channel = Some(map.next_value()?),
            Key::Code => self.code = Some(map.next_value()?),
            Key::Consume => self.consume = Some(map.next_value()?),
            Key::Data => self.data = Some(map.next_value()?),
            Key::Dedupe => self.dedupe = text(map)?,
            Key::Disconnect => self.disconnect = text(map)?,
            Key::DisconnectSub => self.disconnect_sub = text(map)?,
            Key::Event => self.event = text(map)?,
            Key::Key => self.key = text(map)?,
            Key::Notices => self.notices = Some(map.next_value()?),
            Key::Presence => self.presence = Some(map.next_value()?),
            Key::Reason => self.reason = text(map)?,
            Key::Send => self.send = text(map)?,
            Key::Text => self.text = text(map)?,
            Key::TtlMs => self.ttl_ms = Some(map.next_value()?),
        }
        if !self.keys.insert(key) {
            self.note(Refusal::DuplicateKey(key));
        }
        Ok(())
    }

    /// Whether a key was there.
    pub(super) fn has(&self, key: Key) -> bool {
        self.keys.has(key)
    }

    /// Refuses what is none of these.
    pub(super) fn only(&self, keys: Keys) -> Result<(), Refusal> {
        let mut others = Key::ALL.into_iter().filter(|key| !keys.has(*key));
        match others.find(|key| self.has(*key)) {
            Some(key) => Err(Refusal::unknown_key(&key.to_string())),
            None => Ok(()),
        }
    }
}

fn text<'a, A: MapAccess<'a>>(map: &mut A) -> Result<Option<Cow<'a, str>>, A::Error> {
    let Text(text) = map.next_value()?;
    Ok(Some(text))
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

/// A string that borrows where it can.
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
        // One more than allowed is kept, so that the excess is seen; the rest is only skipped.
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
