//! Parses the request target: its path and the parameters of its query.
//!
//! Percent-encoding is decoded strictly; `+` is a space, as in forms. Unknown parameters are
//! ignored, so that a request with cache busters or tracking parameters is not refused.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::time::Duration;

use memchr::{memchr, memchr2};
use percent_encoding::percent_decode_str;

use crate::config::limits::ACCESS_PATH_BYTES_MAX;
use crate::effect::Window;
use crate::frame::Envelope;
use crate::id::{ChannelName, SINCE_FIRST, Since};
use crate::json;

use super::framing::is_authority;
use super::{Refusal, route};

/// The query parameters in which a client may send its position: the id after which it wants
/// publications. If several of them contain a position, the first of them in this list is used.
///
/// `since=first` and `last` request earlier publications. They are ignored if another parameter
/// contains a position. A client that reconnects repeats its query and adds its position, and must
/// not receive the earlier publications again.
const POSITION_PARAMETERS: [&str; 3] = ["since", "last_event_id", "lastEventId"];

/// The parts of a request target that the server uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target<'b> {
    /// The host of a target in absolute form. This host replaces `Host` (RFC 9112, 3.2.2).
    pub authority: Option<&'b str>,
    /// The path, still percent-encoded.
    pub path: &'b str,
    /// The query, still percent-encoded.
    pub query: &'b str,
}

impl<'b> Target<'b> {
    /// Parses a target in origin form or in absolute form. A server must accept both forms (RFC
    /// 9112, 3.2.2).
    ///
    /// # Errors
    /// Returns [`Refusal::Target`] for other forms, and for a target with a fragment, because a
    /// client must not send a fragment (RFC 9110, 7.1).
    pub fn parse(target: &'b str) -> Result<Self, Refusal> {
        if memchr(b'#', target.as_bytes()).is_some() {
            return Err(Refusal::Target);
        }
        let (path, query) = split_at_byte(target, b'?').unwrap_or((target, ""));
        if path.starts_with('/') {
            let authority = None;
            return Ok(Self {
                authority,
                path,
                query,
            });
        }
        let (scheme, rest) = path.split_once("://").ok_or(Refusal::Target)?;
        let is_http = scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https");
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        if !is_http || !is_authority(authority.as_bytes()) {
            return Err(Refusal::Target);
        }
        Ok(Self {
            authority: Some(authority),
            path: if path.is_empty() { "/" } else { path },
            query,
        })
    }
}

/// The parameters of a query.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Query {
    /// The channels, without repetition, in the order of the query.
    pub(super) channels: Vec<ChannelName>,
    pub(super) envelope: Option<Envelope>,
    pub(super) since: Option<Since>,
    /// The timeout of a poll. Other transports ignore the timeout, even if it is invalid.
    pub(super) timeout: Option<Result<Duration, Refusal>>,
    /// The maximum number of unacknowledged publications of each channel. Only for a WebSocket.
    pub(super) window: Option<Result<Window, Refusal>>,
}

impl Query {
    pub(super) fn parse(query: &str, channels_max: usize) -> Result<Self, Refusal> {
        let mut channels = Vec::new();
        let mut envelope = None;
        let mut timeout = None;
        let mut window = None;
        let mut first = None;
        let mut last = None;
        let mut positions = [None; POSITION_PARAMETERS.len()];
        for (name, value) in query_pairs(query) {
            let name = decode(name)?;
            // The value is decoded even if the name is unknown, so that every malformed query is
            // refused.
            let value = decode(value)?;
            if name == "channel" {
                channels.push(ChannelName::new(&value).map_err(Refusal::ChannelName)?);
            } else if value == "null" {
                // A `null` value is ignored, because programs write `null` for an unset variable.
                // `null` is a valid value only for `channel`.
            } else if name == "envelope" {
                envelope = envelope.or(Some(envelope_named(&value)?));
            } else if name == "timeout" {
                timeout = timeout.or_else(|| Some(seconds(&value)));
            } else if name == "window" {
                window = window.or_else(|| Some(publications(&value)));
            } else if name == "last" {
                last = last.or(Some(newest(&value)?));
            } else if name == "since" && value == SINCE_FIRST {
                first = Some(Since::First);
            } else if !value.is_empty() {
                note_position(&name, &value, &mut positions);
            }
        }
        Ok(Self {
            channels: distinct(channels, channels_max)?,
            envelope,
            since: positions.into_iter().flatten().next().or(first).or(last),
            timeout,
            window,
        })
    }
}

/// The parameters that may be in the access log. The names of all others are unknown, so they may
/// be secret, like the parameter that contains a token.
const LOGGED_PARAMETERS: [&str; 6] = ["channel", "envelope", "last", "since", "timeout", "window"];

/// Returns the path of a request target and the parameters that may be in the access log, as the
/// client has encoded them. The parameter that contains a token is not one of them, because the
/// configuration refuses such a name. The path and each value end before a character that could
/// begin a further parameter, because a wrong program may join parameters with it. A wrong program
/// may also send a token in a segment of the path or as a value.
pub(super) fn logged(target: &str) -> String {
    let Ok(target) = Target::parse(target) else {
        return String::from("-");
    };
    let mut logged = String::from(logged_path(target.path));
    let pairs = query_pairs(target.query);
    let known = pairs.filter(|(name, _)| LOGGED_PARAMETERS.contains(name));
    for (index, (name, value)) in known.enumerate() {
        logged.push(if index == 0 { '?' } else { '&' });
        logged.extend([name, "=", logged_value(name, value)]);
    }
    let end = logged.floor_char_boundary(ACCESS_PATH_BYTES_MAX);
    logged.truncate(end);
    logged
}

/// Returns the part of a path that may be in the access log. A path that the server does not know
/// ends before the first segment that may be a secret: a segment that is not a short word.
fn logged_path(path: &str) -> &str {
    let path = logged_part(path, is_path_byte);
    if route::is_known(path) {
        return path;
    }
    let is_word = |segment: &&str| {
        segment.len() <= LOGGED_WORD_BYTES_MAX && segment.bytes().all(|b| b.is_ascii_lowercase())
    };
    let words = path.split('/').skip(1).take_while(is_word);
    let length: usize = words.map(|word| 1 + word.len()).sum();
    path.get(..length.max(1)).unwrap_or_default()
}

/// Returns the part of a parameter's value that may be in the access log.
fn logged_value<'b>(name: &str, value: &'b str) -> &'b str {
    match name {
        "channel" if decode(value).is_ok_and(|channel| channel.contains(TOKEN_BEGIN)) => "",
        "channel" => logged_part(value, is_channel_byte),
        "envelope" => logged_part(value, |byte| byte.is_ascii_lowercase()),
        "since" => logged_part(value, is_position_byte),
        _ => logged_part(value, |byte| byte.is_ascii_digit()),
    }
}

/// The maximum length of a segment of an unknown path in the access log, in bytes.
const LOGGED_WORD_BYTES_MAX: usize = 16;
/// The beginning of a JSON object in base64url, and thus of a token.
const TOKEN_BEGIN: &str = "eyJ";

/// Returns the beginning of a text, up to the first character that may not be in the access log.
/// Escaped characters are decoded before the check. A malformed escape ends the text.
fn logged_part(text: &str, may_be_logged: fn(u8) -> bool) -> &str {
    let mut rest = text.as_bytes();
    let unlogged = loop {
        let (byte, next) = match rest {
            [] => return text,
            [b'%', high, low, next @ ..] => (hex_byte(*high, *low), next),
            [byte, next @ ..] => (Some(*byte).filter(|byte| *byte != b'%'), next),
        };
        if !byte.is_some_and(may_be_logged) {
            break rest.len();
        }
        rest = next;
    };
    // All bytes of a character that is not in ASCII may be logged, or none.
    text.get(..text.len() - unlogged).unwrap_or_default()
}

fn hex_byte(high: u8, low: u8) -> Option<u8> {
    let digit = |digit: u8| char::from(digit).to_digit(16);
    let byte = digit(high)? << 4 | digit(low)?;
    u8::try_from(byte).ok()
}

fn is_path_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte)
}

/// Whether a byte of `since` may be in the access log: of an id, or of the word `first`.
fn is_position_byte(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-'
}

/// Whether a byte of a channel's name may be in the access log. The names are of the user, so only
/// control characters and the characters that join parameters are left out.
fn is_channel_byte(byte: u8) -> bool {
    !byte.is_ascii_control() && !b" &;=?#%".contains(&byte)
}

/// Returns the value of the first non-empty parameter with this name.
pub(super) fn parameter<'b>(query: &'b str, wanted: &str) -> Result<Option<Cow<'b, str>>, Refusal> {
    for (name, value) in query_pairs(query) {
        if !value.is_empty() && decode(name)? == wanted {
            return decode(value).map(Some);
        }
    }
    Ok(None)
}

fn note_position(
    name: &str,
    value: &str,
    positions: &mut [Option<Since>; POSITION_PARAMETERS.len()],
) {
    for (parameter, position) in POSITION_PARAMETERS.iter().zip(positions) {
        if name == *parameter {
            *position = position.or_else(|| Some(Since::parse(value)));
        }
    }
}

fn envelope_named(name: &str) -> Result<Envelope, Refusal> {
    match name {
        "data" => Ok(Envelope::Data),
        "full" => Ok(Envelope::Full),
        _ => Err(Refusal::Envelope),
    }
}

/// Parses a number of seconds. A number beyond 64 bits becomes [`Duration::MAX`]. The caller
/// applies the limit on timeouts.
fn seconds(text: &str) -> Result<Duration, Refusal> {
    let is_endless = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match json::whole_number(text) {
        Some(number) => Ok(Duration::from_secs(number)),
        None if is_endless => Ok(Duration::MAX),
        None => Err(Refusal::Timeout),
    }
}

fn publications(text: &str) -> Result<Window, Refusal> {
    let number = json::whole_number(text).and_then(|number| number.try_into().ok());
    number.and_then(Window::new).ok_or(Refusal::Window)
}

fn newest(text: &str) -> Result<Since, Refusal> {
    json::whole_number(text)
        .and_then(Since::last)
        .ok_or(Refusal::Last)
}

/// Removes repeated channels, keeps the order, and checks the limit on channels.
fn distinct(mut channels: Vec<ChannelName>, limit: usize) -> Result<Vec<ChannelName>, Refusal> {
    if channels.len() > 1 {
        // A set is used because a long head can name so many channels that comparing all pairs is
        // slow.
        let mut seen = BTreeSet::new();
        channels.retain(|channel| seen.insert(channel.clone()));
    }
    let got = channels.len();
    if got > limit {
        return Err(Refusal::ChannelsTooMany { limit, got });
    }
    Ok(channels)
}

/// Returns the name and the value of each parameter of a query, still encoded. Empty parameters are
/// skipped. A parameter without `=` has an empty value.
pub(crate) fn query_pairs(query: &str) -> impl Iterator<Item = (&str, &str)> {
    let mut rest = Some(query);
    let next = move || {
        let (pair, after) = match split_at_byte(rest?, b'&') {
            Some((pair, after)) => (pair, Some(after)),
            None => (rest?, None),
        };
        rest = after;
        Some(pair)
    };
    let pairs = std::iter::from_fn(next).filter(|pair| !pair.is_empty());
    pairs.map(|pair| split_at_byte(pair, b'=').unwrap_or((pair, "")))
}

/// Splits a text at the first occurrence of an ASCII byte. For short texts, this function is faster
/// than `str::split_once`. The speed matters because each poll has a query.
fn split_at_byte(text: &str, ascii: u8) -> Option<(&str, &str)> {
    debug_assert!(ascii.is_ascii());
    let at = memchr(ascii, text.as_bytes())?;
    Some((text.get(..at)?, text.get(at + 1..)?))
}

/// Decodes percent-encoding, and replaces `+` with a space.
pub(super) fn decode(text: &str) -> Result<Cow<'_, str>, Refusal> {
    if memchr2(b'%', b'+', text.as_bytes()).is_none() {
        return Ok(Cow::Borrowed(text));
    }
    // The decoder accepts a percent sign without digits, so the escapes are checked first.
    let mut after_percent = text.split('%').skip(1);
    if !after_percent.all(starts_with_two_hex_digits) {
        return Err(Refusal::Encoding);
    }
    let spaced = text.replace('+', " ");
    let decoded = percent_decode_str(&spaced)
        .decode_utf8()
        .map_err(|_not_utf8| Refusal::Encoding)?;
    Ok(Cow::Owned(decoded.into_owned()))
}

fn starts_with_two_hex_digits(text: &str) -> bool {
    match text.as_bytes() {
        [high, low, ..] => high.is_ascii_hexdigit() && low.is_ascii_hexdigit(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(query: &str) -> Result<Vec<String>, Refusal> {
        Query::parse(query, 3).map(|query| query.channels.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn logged_path_has_only_parameters_that_are_not_secret() {
        let long = format!("/sse?channel={}", "a".repeat(600));
        for (target, expected) in [
            (
                "/ws?channel=a&token=x&channel=%62&t=1",
                "/ws?channel=a&channel=%62",
            ),
            ("/ws?%63hannel=x&TOKEN=x&token", "/ws"),
            ("/poll?since=x&timeout=0", "/poll?since=x&timeout=0"),
            ("http://u:p@a/sse?window=2", "-"),
            ("http://a/sse?window=2", "/sse?window=2"),
            // Parameters that were joined with another character.
            ("/ws?channel=a;token=x", "/ws?channel=a"),
            ("/ws?channel=a%26token=x&window=2", "/ws?channel=a&window=2"),
            ("/ws?channel=a%3btoken%3Dx", "/ws?channel=a"),
            ("/ws?channel=a%253Btoken%253Dx", "/ws?channel=a"),
            ("/ws?channel=a?token=x", "/ws?channel=a"),
            ("/ws?channel=a&amp;token=x", "/ws?channel=a"),
            ("/ws?channel=a%", "/ws?channel=a"),
            ("/ws?channel=a+token=x", "/ws?channel=a+token"),
            (
                "/ws?last=1;token=x&since=18a-4,x&envelope=full:x",
                "/ws?last=1&since=18a-4&envelope=full",
            ),
            ("/ws;token=x?channel=a", "/ws?channel=a"),
            ("/ws%3Ftoken=x", "/ws"),
            ("/ws&token=x", "/ws"),
            ("/u:p@a/ws", "/u"),
            // Tokens in the wrong place.
            ("/some/eyJhbGciOiJIUzI1NiJ9.e30.c2ln", "/some"),
            ("/eyJhbGciOiJIUzI1NiJ9.e30.c2ln?channel=a", "/?channel=a"),
            ("/ws/eyJhbGciOiJIUzI1NiJ9.e30.c2ln", "/ws"),
            ("/app/%65yJhbGciOiJIUzI1NiJ9.e30.c2ln/sse", "/app"),
            ("/push/0123456789abcdef/sse", "/push"),
            ("/push/abcdefghijklmnopq/sse", "/push"),
            ("/push/events/sse", "/push/events/sse"),
            ("//sse", "//sse"),
            ("/SSE", "/"),
            (
                "/sse?channel=eyJhbGciOiJIUzI1NiJ9.e30.c2ln&since=eyJhbGciOi&last=eyJ",
                "/sse?channel=&since=ey&last=",
            ),
            (
                "/sse?channel=t:%65yJhbGci&since=first",
                "/sse?channel=&since=first",
            ),
            (
                "/sse?envelope=eyJhbGci&timeout=3.eyJ",
                "/sse?envelope=ey&timeout=3",
            ),
            ("/ws?channel=chat:1/%C3%A9!", "/ws?channel=chat:1/%C3%A9!"),
            ("/ws?channel=\u{e9};token=x", "/ws?channel=\u{e9}"),
            ("*", "-"),
            (&*long, &long[..512]),
        ] {
            assert_eq!(logged(target), expected, "{target}");
        }
    }

    #[test]
    fn target_is_parsed_in_origin_and_absolute_form() {
        for (text, authority, path, query) in [
            ("/", None, "/", ""),
            ("/sse?a=b?c", None, "/sse", "a=b?c"),
            ("http://h:1/sse?a", Some("h:1"), "/sse", "a"),
            ("HTTPS://h?a=/b", Some("h"), "/", "a=/b"),
            ("//x", None, "//x", ""),
        ] {
            let target = Target {
                authority,
                path,
                query,
            };
            assert_eq!(Target::parse(text), Ok(target), "{text}");
        }
        for text in [
            "*",
            "sse",
            "ftp://h/",
            "http://",
            "?a",
            "h:80",
            "http:///sse",
            "http://u@h/",
            "/a#b",
            "http://h:x/",
            "http://a b/",
            "/sse?a#",
        ] {
            assert_eq!(Target::parse(text), Err(Refusal::Target), "{text}");
        }
    }

    #[test]
    fn query_keeps_the_order_of_channels_and_drops_repetitions() {
        assert_eq!(
            names("channel=b&x=1&channel=a&&channel=b&channel").unwrap_err(),
            Refusal::ChannelName(crate::id::ChannelNameError::Empty)
        );
        assert_eq!(
            names("channel=b&x&channel=a&&channel=b").unwrap(),
            ["b", "a"]
        );
        assert_eq!(
            names("channel=1&channel=2&channel=3&channel=4"),
            Err(Refusal::ChannelsTooMany { limit: 3, got: 4 })
        );
        assert_eq!(names("").unwrap(), [""; 0]);
    }

    #[test]
    fn query_decodes_percent_encoding_and_refuses_malformed_escapes() {
        assert_eq!(names("channel=chat%3A42").unwrap(), ["chat:42"]);
        assert_eq!(names("channel=%D1%87%d0%b0%D1%82").unwrap(), ["чат"]);
        assert_eq!(names("ch%61nnel=%2B%26").unwrap(), ["+&"]);
        assert_eq!(
            names("channel=a+b"),
            Err(Refusal::ChannelName(
                crate::id::ChannelNameError::Character { at: 1 }
            ))
        );
        for broken in [
            "channel=%",
            "channel=a%4",
            "channel=%4g",
            "x=%zz&channel=a",
            "%=",
            "channel=%ff",
            "channel=%+1",
        ] {
            assert_eq!(names(broken), Err(Refusal::Encoding), "{broken}");
        }
    }

    #[test]
    fn query_uses_the_first_position_by_rank_and_skips_empty_ones() {
        let since = |query| Query::parse(query, 3).unwrap().since;
        let first = Some(Since::parse("000000000001-1"));
        assert_eq!(since("lastEventId=x&since=000000000001-1"), first);
        assert_eq!(since("since=&last_event_id=000000000001-1"), first);
        assert_eq!(since("lastEventId=000000000001-1"), first);
        assert_eq!(since("since=x"), Some(Since::Unrecognised));
        assert_eq!(since("since=&Since=1"), None);
        assert_eq!(since("since=null&last_event_id=000000000001-1"), first);
        assert_eq!(since("since=null"), None);
    }

    #[test]
    fn query_requests_history_only_without_a_position() {
        let since = |query| Query::parse(query, 3).unwrap().since;
        let position = Some(Since::parse("000000000001-1"));
        let five = Since::last(5);
        assert_eq!(since("since=first"), Some(Since::First));
        assert_eq!(since("since=%66irst"), Some(Since::First));
        assert_eq!(since("last=5"), five);
        assert_eq!(since("since=&last=5&last=6"), five);
        assert_eq!(since("since=null&last=5.0"), five);
        assert_eq!(since("last=0"), Some(Since::Now));
        assert_eq!(since("last=null"), None);
        assert_eq!(since("last=5&since=first"), Some(Since::First));
        // A client that reconnects adds its position. This position has priority over `first` and
        // `last`.
        assert_eq!(since("last=5&since=000000000001-1"), position);
        assert_eq!(since("since=first&lastEventId=000000000001-1"), position);
        assert_eq!(since("last=5&since=x"), Some(Since::Unrecognised));
        // `first` is valid only in `since` and only in lower case.
        for query in ["last_event_id=first", "since=First", "since=first+"] {
            assert_eq!(since(query), Some(Since::Unrecognised), "{query}");
        }
    }

    #[test]
    fn query_accepts_a_number_of_publications_in_last() {
        let most = "last=4294967295";
        assert!(Query::parse(most, 3).is_ok());
        for garbage in ["", "x", "-1", "+1", "1.5", "first", "4294967296", "1e99"] {
            for query in [
                format!("last={garbage}"),
                format!("last=1&last={garbage}&since=000000000001-1"),
            ] {
                assert_eq!(Query::parse(&query, 3), Err(Refusal::Last), "{query}");
            }
        }
    }

    #[test]
    fn query_accepts_two_envelopes() {
        let envelope = |query| Query::parse(query, 3).map(|query| query.envelope);
        assert_eq!(envelope(""), Ok(None));
        assert_eq!(envelope("envelope=null"), Ok(None));
        assert_eq!(envelope("envelope=full"), Ok(Some(Envelope::Full)));
        assert_eq!(
            envelope("envelope=data&envelope=full"),
            Ok(Some(Envelope::Data))
        );
        assert_eq!(envelope("envelope=Full"), Err(Refusal::Envelope));
        assert_eq!(envelope("envelope=data&envelope="), Err(Refusal::Envelope));
    }

    #[test]
    fn query_accepts_a_window_within_its_limit() {
        let window = |query: &str| Query::parse(query, 3).unwrap().window;
        assert_eq!(window(""), None);
        assert_eq!(window("window=null"), None);
        for one in ["window=1", "window=1.0", "window=10e-1"] {
            assert_eq!(window(one), Some(Window::new(1).ok_or(Refusal::Window)));
        }
        let first = window("window=1024&window=x").and_then(Result::ok);
        assert_eq!(first.map(Window::publications), Some(1024));
        for garbage in ["", "0", "1025", "-1", "+1", "1.5", "x", "99999999999"] {
            let query = format!("window={garbage}");
            assert_eq!(window(&query), Some(Err(Refusal::Window)), "{query}");
        }
    }

    #[test]
    fn query_accepts_a_timeout_in_whole_seconds() {
        let timeout = |query: &str| Query::parse(query, 3).unwrap().timeout;
        assert_eq!(timeout(""), None);
        assert_eq!(timeout("timeout=null"), None);
        for spelling in ["30", "30.0", "3e1"] {
            let query = format!("timeout={spelling}");
            assert_eq!(timeout(&query), Some(Ok(Duration::from_secs(30))));
        }
        assert_eq!(timeout("timeout=0"), Some(Ok(Duration::ZERO)));
        assert_eq!(timeout("timeout=007"), Some(Ok(Duration::from_secs(7))));
        assert_eq!(
            timeout("timeout=1&timeout=x"),
            Some(Ok(Duration::from_secs(1)))
        );
        let endless = "timeout=99999999999999999999999";
        assert_eq!(timeout(endless), Some(Ok(Duration::MAX)));
        for garbage in ["", "x", "-1", "+1", "1.5", "1s", "%D9%A1"] {
            let query = format!("timeout={garbage}");
            assert_eq!(timeout(&query), Some(Err(Refusal::Timeout)), "{query}");
        }
    }
}
