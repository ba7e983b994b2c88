//! Admission of a request: finds its token, verifies it, and checks the requested channels.
//!
//! A token is read from the first of these places that contains a token: `Authorization: Bearer`
//! (RFC 6750, 2.1), an offered subprotocol that begins with `fanfare.token.`, the configured
//! cookie, the configured query parameter. An invalid token is refused even if no token is needed,
//! so that the token's owner notices the fault.

use std::borrow::Cow;

use crate::auth::{Access, Grant, TokenError};
use crate::config::Config;
use crate::id::ChannelName;

use super::Refusal;
use super::head::{Field, Fields};
use super::response::Status;
use super::target;

/// The permissions with which a request is admitted.
#[derive(Debug, PartialEq, Eq)]
pub enum Entry {
    /// The request has no token. It may use only channels that need no token.
    Anonymous,
    /// The client must send a token in its first message.
    Awaited,
    /// The request has a token that allows the requested channels.
    Granted(Box<Grant>),
}

/// The reason for which a request is not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// The token is valid, but does not allow every requested channel.
    #[error("the token does not allow every requested channel")]
    NotAllowed,
    /// The token is invalid.
    #[error("{0}")]
    Token(TokenError),
    /// A token is needed, but the request has none.
    #[error("a token is needed: Authorization: Bearer TOKEN")]
    TokenMissing,
    /// One of the places for a token contains more than one token.
    #[error("there is more than one token")]
    TokenRepeated,
}

impl EntryError {
    /// Returns the `code` of the problem document.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::NotAllowed => "not_allowed",
            Self::Token(error) => error.code(),
            Self::TokenMissing => "token_missing",
            Self::TokenRepeated => "token_repeated",
        }
    }

    /// Returns the status of the response.
    #[must_use]
    pub fn status(self) -> Status {
        match self {
            Self::NotAllowed => Status::Forbidden,
            Self::Token(_) | Self::TokenMissing => Status::Unauthorized,
            Self::TokenRepeated => Status::BadRequest,
        }
    }

    /// Returns the value of the field `WWW-Authenticate` (RFC 6750, 3).
    #[must_use]
    pub fn challenge(self) -> Option<&'static str> {
        match self {
            Self::NotAllowed => Some("Bearer realm=\"fanfare\", error=\"insufficient_scope\""),
            Self::Token(_) => Some("Bearer realm=\"fanfare\", error=\"invalid_token\""),
            Self::TokenMissing => Some("Bearer realm=\"fanfare\""),
            Self::TokenRepeated => None,
        }
    }
}

/// Decides whether a request for these channels is admitted.
pub(super) fn decide(
    fields: &Fields<'_>,
    query: &str,
    channels: &[ChannelName],
    access: &Access,
    config: &Config,
) -> Result<Entry, Refusal> {
    if !access.is_on() {
        return Ok(Entry::Anonymous);
    }
    let Some(token) = find(fields, query, config)? else {
        // A request that names no channels is admitted if some channels need no token. The client
        // can subscribe to them later.
        let is_open = match channels {
            [] => config.has_open_channels(),
            channels => channels.iter().all(|channel| config.is_open(channel)),
        };
        return if is_open {
            Ok(Entry::Anonymous)
        } else {
            Err(EntryError::TokenMissing.into())
        };
    };
    let grant = access.verify(&token).map_err(EntryError::Token)?;
    let may_have = |channel| grant.may_subscribe(channel, config);
    if !channels.iter().all(may_have) {
        return Err(EntryError::NotAllowed.into());
    }
    Ok(Entry::Granted(Box::new(grant)))
}

/// Decides whether a request may publish to a channel. The caller has checked that clients may
/// publish to it at all.
pub(super) fn decide_publish(
    fields: &Fields<'_>,
    query: &str,
    channel: &ChannelName,
    access: &Access,
    config: &Config,
) -> Result<Entry, Refusal> {
    if !access.is_on() {
        return Ok(Entry::Anonymous);
    }
    let token = find(fields, query, config)?.ok_or(EntryError::TokenMissing)?;
    let grant = access.verify(&token).map_err(EntryError::Token)?;
    if !grant.may_publish(channel, config) {
        return Err(EntryError::NotAllowed.into());
    }
    Ok(Entry::Granted(Box::new(grant)))
}

fn find<'b>(
    fields: &Fields<'b>,
    query: &'b str,
    config: &Config,
) -> Result<Option<Cow<'b, str>>, Refusal> {
    if let Some(value) = once(fields.authorization)?
        && let Some(token) = bearer(value)
    {
        return text(token);
    }
    if let Some(token) = once(fields.offered_token)? {
        return text(token);
    }
    let auth = &config.auth;
    if !auth.cookie.is_empty()
        && let Some(token) = cookie(fields.lines.named("cookie"), &auth.cookie)
    {
        return text(token);
    }
    if auth.query.is_empty() {
        return Ok(None);
    }
    target::parameter(query, &auth.query)
}

fn once(field: Field<'_>) -> Result<Option<&[u8]>, EntryError> {
    match field {
        Field::Absent => Ok(None),
        Field::Once(value) => Ok(Some(value)),
        Field::Repeated => Err(EntryError::TokenRepeated),
    }
}

fn text(token: &[u8]) -> Result<Option<Cow<'_, str>>, Refusal> {
    let text = str::from_utf8(token);
    let text = text.map_err(|_not_utf8| EntryError::Token(TokenError::Malformed))?;
    Ok(Some(Cow::Borrowed(text)))
}

/// Returns the token of the scheme `Bearer`. Other schemes are ignored, for example a scheme that a
/// proxy uses.
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked(b"Bearer ".len())?;
    let is_bearer = scheme.eq_ignore_ascii_case(b"Bearer ");
    is_bearer.then_some(token.trim_ascii())
}

/// Returns the value of the first non-empty cookie with this name, without optional quotes (RFC
/// 6265, 4.2.1). The cookies may be on several lines, because an HTTP/2 client may split the field
/// (RFC 9113, 8.2.3) and a proxy may forward the parts.
fn cookie<'b>(lines: impl Iterator<Item = &'b [u8]>, name: &str) -> Option<&'b [u8]> {
    let mut pairs = lines.flat_map(|line| line.split(|byte| *byte == b';'));
    pairs.find_map(|pair| {
        let value = pair.trim_ascii().strip_prefix(name.as_bytes())?;
        let value = value.strip_prefix(b"=")?;
        let quoted = value.strip_prefix(b"\"");
        let quoted = quoted.and_then(|value| value.strip_suffix(b"\""));
        Some(quoted.unwrap_or(value)).filter(|value| !value.is_empty())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bearer_is_matched_in_any_case_and_other_schemes_are_not() {
        assert_eq!(bearer(b"Bearer abc"), Some(&b"abc"[..]));
        assert_eq!(bearer(b"bEARER  abc "), Some(&b"abc"[..]));
        assert_eq!(bearer(b"Bearer "), Some(&b""[..]));
        for other in [&b"Basic abc"[..], b"Bearer", b"Bearerabc", b""] {
            assert_eq!(bearer(other), None);
        }
    }
    #[test]
    fn cookie_is_found_by_its_whole_name_on_any_line() {
        let value = |lines: &[&'static str]| {
            let lines = lines.iter().map(|line| line.as_bytes());
            cookie(lines, "token").map(|value| str::from_utf8(value).unwrap())
        };
        assert_eq!(value(&["a=1; xtoken=2; token=3; token=4; b"]), Some("3"));
        assert_eq!(value(&["token=\"3\""]), Some("3"));
        assert_eq!(value(&["a=1", "b=2;token=3", "token=4"]), Some("3"));
        assert_eq!(value(&["token=; a=1", "token=3"]), Some("3"));
        for line in ["", "token", "token=", "token=\"\"", "tokens=3", ";;=;"] {
            assert_eq!(value(&[line, line]), None, "{line}");
        }
    }
}
