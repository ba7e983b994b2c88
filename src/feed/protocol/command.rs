//! Decodes one JSON object of a feeder: a publication, or a command about connections.
//!
//! This module performs no I/O. A command is identified by its key: `consume`, `disconnect`,
//! `disconnect_sub`, `presence` or `send`. This module checks all values of a command;
//! `backends::commands` executes the command.

use std::borrow::Cow;

use super::draft::{self, Draft, NameCache};
use super::fields::{Fields, Names};
use super::refusal::{Key, Keys, Refusal};
use crate::backend::CloseInfo;
use crate::config::limits::{CLOSE_REASON_BYTES_MAX, CONSUME_PATTERNS_MAX, TOKEN_SUB_BYTES_MAX};
use crate::frame::Payload;
use crate::id::{CONN_NAME_BYTES_MAX, ChannelName, ConnName};
use crate::pattern::Pattern;

/// The keys that identify a command.
const COMMANDS: Keys = Keys::of(&[
    Key::Consume,
    Key::Disconnect,
    Key::DisconnectSub,
    Key::Presence,
    Key::Send,
]);
const CONSUME: Keys = Keys::of(&[Key::Ack, Key::Consume, Key::Notices]);
const DISCONNECT: Keys = Keys::of(&[Key::Ack, Key::Code, Key::Disconnect, Key::Reason]);
const DISCONNECT_SUB: Keys = Keys::of(&[Key::Ack, Key::Code, Key::DisconnectSub, Key::Reason]);
const PRESENCE: Keys = Keys::of(&[Key::Ack, Key::Presence]);
const PUBLISH: Keys = Keys::of(&[
    Key::Ack,
    Key::Base64,
    Key::Channel,
    Key::Data,
    Key::Dedupe,
    Key::Event,
    Key::Key,
    Key::Text,
    Key::Traceparent,
    Key::TtlMs,
]);
const SEND: Keys = Keys::of(&[Key::Ack, Key::Base64, Key::Data, Key::Send, Key::Text]);

/// The content of one object.
#[derive(Debug, PartialEq)]
pub enum Line {
    /// A command about conns.
    Command(Box<Command>),
    /// A publication to one or more channels.
    Publish(Draft),
}

/// A command of a backend.
#[derive(Debug, PartialEq)]
pub enum Command {
    /// Receive the publications of clients. With `notices`, also receive the start and the end of
    /// the clients' subscriptions. The command replaces an earlier `consume`. Without patterns, the
    /// feeder is no longer a consumer.
    Consume {
        /// The patterns of the channels.
        patterns: Vec<Pattern>,
        /// Whether the consumer receives notices of subscriptions.
        notices: bool,
    },
    /// Close one conn.
    Disconnect {
        /// The name of the conn. `None` if this version of the server does not create such names.
        conn: Option<ConnName>,
        /// The close code and reason for the client.
        close_info: CloseInfo,
    },
    /// Close all conns whose token has this subject.
    DisconnectSub {
        /// The subject (`sub`) of the token.
        sub: Box<str>,
        /// The close code and reason for the clients.
        close_info: CloseInfo,
    },
    /// Count the subscribers of channels.
    Presence(Vec<ChannelName>),
    /// Send a message to one conn.
    Send {
        /// The name of the conn. `None` if this version of the server does not create such names.
        conn: Option<ConnName>,
        /// The message.
        payload: Payload,
    },
}

impl Line {
    /// Decodes one JSON object. Also returns whether the object requests an acknowledgement.
    ///
    /// # Errors
    /// Returns the first [`Refusal`] that applies.
    pub fn from_json(json: &str, names: &mut NameCache) -> Result<(Self, bool), Refusal> {
        let fields = Fields::from_json(json)?;
        let wants_ack = fields.ack == Some(true);
        let line = match Command::from_fields(&fields, names)? {
            Some(command) => Self::Command(Box::new(command)),
            None => {
                if let (None, Some(key)) = (&fields.channel, fields.null_of(COMMANDS)) {
                    return Err(Refusal::Missing(key));
                }
                fields.only(PUBLISH)?;
                Self::Publish(Draft::from_fields(&fields, names)?)
            }
        };
        Ok((line, wants_ack))
    }
}

/// Decodes one JSON object that must be a publication. Also returns whether the object requests an
/// acknowledgement.
///
/// # Errors
/// Returns the first [`Refusal`] that applies.
pub fn publication(json: &str, names: &mut NameCache) -> Result<(Draft, bool), Refusal> {
    match Line::from_json(json, names)? {
        (Line::Publish(draft), wants_ack) => Ok((draft, wants_ack)),
        (Line::Command(command), _) => Err(Refusal::unknown_key(&command.key().to_string())),
    }
}

impl Command {
    fn key(&self) -> Key {
        match self {
            Self::Consume { .. } => Key::Consume,
            Self::Disconnect { .. } => Key::Disconnect,
            Self::DisconnectSub { .. } => Key::DisconnectSub,
            Self::Presence(_) => Key::Presence,
            Self::Send { .. } => Key::Send,
        }
    }

    fn from_fields(fields: &Fields<'_>, names: &mut NameCache) -> Result<Option<Self>, Refusal> {
        if let Some(patterns) = &fields.consume {
            fields.only(CONSUME)?;
            let notices = fields.notices == Some(true);
            let patterns = read_patterns(patterns)?;
            return Ok(Some(Self::Consume { patterns, notices }));
        }
        if let Some(conn) = &fields.disconnect {
            fields.only(DISCONNECT)?;
            let conn = read_conn(Key::Disconnect, conn)?;
            let close_info = read_close_info(fields)?;
            return Ok(Some(Self::Disconnect { conn, close_info }));
        }
        if let Some(sub) = &fields.disconnect_sub {
            fields.only(DISCONNECT_SUB)?;
            let sub = read_sub(sub)?;
            let close_info = read_close_info(fields)?;
            return Ok(Some(Self::DisconnectSub { sub, close_info }));
        }
        if let Some(channels) = &fields.presence {
            fields.only(PRESENCE)?;
            let channels = draft::channels(Key::Presence, Some(channels), names)?;
            return Ok(Some(Self::Presence(channels.as_slice().to_vec())));
        }
        if let Some(conn) = &fields.send {
            fields.only(SEND)?;
            let conn = read_conn(Key::Send, conn)?;
            let payload = draft::payload(fields)?;
            return Ok(Some(Self::Send { conn, payload }));
        }
        Ok(None)
    }
}

/// Decodes a conn's name. Names are opaque, so a name of another run, node or version is not
/// refused.
fn read_conn(key: Key, text: &str) -> Result<Option<ConnName>, Refusal> {
    let is_name = (1..=CONN_NAME_BYTES_MAX).contains(&text.len()) && text.is_ascii();
    let conn = is_name.then(|| text.parse().ok());
    conn.ok_or(Refusal::BadConn(key))
}

fn read_sub(text: &str) -> Result<Box<str>, Refusal> {
    match text.len() {
        0 => Err(Refusal::BadValue {
            key: Key::DisconnectSub,
            expected: "a string that is not empty",
        }),
        1..=TOKEN_SUB_BYTES_MAX => Ok(Box::from(text)),
        got => Err(Refusal::TooLong {
            key: Key::DisconnectSub,
            limit: TOKEN_SUB_BYTES_MAX,
            got,
        }),
    }
}

fn read_patterns(texts: &Names<'_>) -> Result<Vec<Pattern>, Refusal> {
    let texts: &[Cow<'_, str>] = match texts {
        Names::One(text) => std::slice::from_ref(text),
        Names::Many(texts) => texts,
    };
    if texts.len() > CONSUME_PATTERNS_MAX {
        return Err(Refusal::TooManyPatterns);
    }
    let patterns = texts.iter().map(|text| Pattern::new(text));
    let patterns: Result<_, _> = patterns.collect();
    patterns.map_err(|_fault| Refusal::BadPattern)
}

fn read_close_info(fields: &Fields<'_>) -> Result<CloseInfo, Refusal> {
    let code = fields
        .code
        .map_or(Ok(CloseInfo::DEFAULT_CODE), u16::try_from);
    let code = code.ok().filter(|code| CloseInfo::allows(*code));
    let reason = fields.reason.as_deref().unwrap_or_default();
    if reason.len() > CLOSE_REASON_BYTES_MAX {
        return Err(Refusal::TooLong {
            key: Key::Reason,
            limit: CLOSE_REASON_BYTES_MAX,
            got: reason.len(),
        });
    }
    Ok(CloseInfo {
        code: code.ok_or(Refusal::BadCode)?,
        reason: Box::from(reason),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::RunId;

    const CONN: &str = "0000000000000009000100000002000000000003";

    fn read(json: &str) -> Result<Line, Refusal> {
        let read = Line::from_json(json, &mut NameCache::default());
        read.map(|(line, _wants_ack)| line)
    }

    fn command(json: &str) -> Command {
        match read(json) {
            Ok(Line::Command(command)) => *command,
            other => panic!("{json} is {other:?}"),
        }
    }

    fn conn() -> Option<ConnName> {
        Some(ConnName {
            run: RunId(9),
            worker: 1,
            slot: 2,
            serial: 3,
        })
    }

    #[test]
    fn key_identifies_the_command() {
        let patterns = vec![Pattern::new("chat:*").unwrap(), Pattern::new("a").unwrap()];
        let consume = Command::Consume {
            patterns,
            notices: true,
        };
        let json = r#"{"consume":["chat:*","a"],"notices":true}"#;
        assert_eq!(command(json), consume);
        let close_info = CloseInfo {
            code: 1008,
            reason: "gone".into(),
        };
        assert_eq!(
            command(&format!(
                r#"{{"disconnect":"{CONN}","code":1008,"reason":"gone"}}"#
            )),
            Command::Disconnect {
                conn: conn(),
                close_info
            }
        );
        for json in [r#"{"disconnect":"1-2-3"}"#, r#"{"disconnect_sub":"alice"}"#] {
            let (Command::Disconnect { close_info, .. }
            | Command::DisconnectSub { close_info, .. }) = command(json)
            else {
                panic!("no disconnect")
            };
            assert_eq!((close_info.code, &*close_info.reason), (4003, ""));
        }
        let payload = Payload::Json("{\"a\":1}".into());
        assert_eq!(
            command(&format!(r#"{{"data":{{"a" : 1}},"send":"{CONN}"}}"#)),
            Command::Send {
                conn: conn(),
                payload
            }
        );
        let names = ["a", "b"].map(|name| ChannelName::new(name).unwrap());
        let presence = Command::Presence(names.to_vec());
        assert_eq!(command(r#"{"presence":["a","b"]}"#), presence);
        assert!(matches!(
            read(r#"{"channel":"a","data":1}"#),
            Ok(Line::Publish(_))
        ));
    }

    #[test]
    fn null_in_a_command_means_absent() {
        for (nulls, plain) in [
            (
                r#"{"disconnect":"1-2-3","code":null,"reason":null,"ack":null}"#,
                r#"{"disconnect":"1-2-3"}"#,
            ),
            (
                r#"{"disconnect_sub":"alice","code":4.003e3,"channel":null}"#,
                r#"{"disconnect_sub":"alice","code":4003}"#,
            ),
            (
                r#"{"consume":["a"],"notices":null,"data":1}"#,
                r#"{"consume":["a"],"data":1}"#,
            ),
            (
                r#"{"send":"1-2-3","data":null,"text":null}"#,
                r#"{"send":"1-2-3","data":null}"#,
            ),
        ] {
            assert_eq!(read(nulls), read(plain), "{nulls}");
        }
    }

    #[test]
    fn name_of_another_version_is_accepted_and_names_no_conn() {
        let upper = CONN.replace('9', "A");
        for name in ["1-0-0", "x", upper.as_str(), &"f".repeat(39)] {
            let json = format!(r#"{{"send":"{name}","data":1}}"#);
            assert!(
                matches!(command(&json), Command::Send { conn: None, .. }),
                "{name}"
            );
        }
        for name in ["", "\u{e9}", &"f".repeat(41)] {
            let json = format!(r#"{{"disconnect":"{name}"}}"#);
            assert_eq!(read(&json).unwrap_err().code(), "bad_value", "{name}");
        }
    }

    #[test]
    fn refusals_of_commands_have_the_codes_of_the_contract() {
        let many = vec!["\"a\""; CONSUME_PATTERNS_MAX + 1].join(",");
        let long = "x".repeat(CLOSE_REASON_BYTES_MAX + 1);
        for (json, expected) in [
            (r#"{"consume":5}"#.to_owned(), "bad_value"),
            (r#"{"consume":["a b"]}"#.to_owned(), "bad_value"),
            (r#"{"consume":["*x*"]}"#.to_owned(), "bad_value"),
            (r#"{"consume":["a*b"]}"#.to_owned(), "bad_value"),
            (r#"{"presence":["chat:*"]}"#.to_owned(), "bad_channel"),
            (
                r#"{"disconnect":"1-2-3","code":4003.5}"#.to_owned(),
                "bad_value",
            ),
            (
                format!(
                    "{{\"send\":\"1-2-3\",\"data\":{}{}}}",
                    "[".repeat(129),
                    "]".repeat(129)
                ),
                "bad_json",
            ),
            (format!("{{\"consume\":[{many}]}}"), "too_many_patterns"),
            (r#"{"consume":"a","data":1}"#.to_owned(), "unknown_key"),
            (r#"{"send":"","data":1}"#.to_owned(), "bad_value"),
            (r#"{"send":5,"data":1}"#.to_owned(), "bad_value"),
            (r#"{"send":"1-2-3"}"#.to_owned(), "bad_payload"),
            (
                r#"{"send":"1-2-3","data":1,"channel":"a"}"#.to_owned(),
                "unknown_key",
            ),
            (
                r#"{"disconnect":"1-2-3","code":1002}"#.to_owned(),
                "bad_value",
            ),
            (
                r#"{"disconnect":"1-2-3","code":70000}"#.to_owned(),
                "bad_value",
            ),
            (
                format!("{{\"disconnect\":\"1-2-3\",\"reason\":\"{long}\"}}"),
                "too_long",
            ),
            (r#"{"presence":[]}"#.to_owned(), "bad_channel"),
            (r#"{"presence":"a b"}"#.to_owned(), "bad_channel"),
            (
                r#"{"channel":"a","data":1,"notices":true}"#.to_owned(),
                "unknown_key",
            ),
            (
                r#"{"send":"1-2-3","send":"1-2-3","data":1}"#.to_owned(),
                "duplicate_key",
            ),
        ] {
            assert_eq!(read(&json).unwrap_err().code(), expected, "{json}");
        }
    }
}
