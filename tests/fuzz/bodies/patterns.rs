//! Checks the patterns of channels, namespaces and consumers.
//!
//! The first line is a channel, and every other line is a pattern. A simple model of the meaning of
//! patterns must agree with the server's two implementations.

use fanfare::backend::WatchedChannels;
use fanfare::config::{Namespace, namespace};
use fanfare::id::ChannelName;
use fanfare::pattern::Pattern;

/// Runs the target on an input: lines with a channel and patterns.
pub fn attack(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else {
        return;
    };
    let mut lines = text.split('\n');
    let channel = ChannelName::new(lines.next().unwrap_or_default());
    let patterns: Vec<&str> = lines.collect();
    for pattern in &patterns {
        check_pattern(pattern);
    }
    if let Ok(channel) = channel {
        check_consumers(&patterns, &channel);
        check_namespaces(&patterns, channel.as_str());
    }
}

fn check_pattern(text: &str) {
    let name = text.strip_suffix('*').unwrap_or(text);
    let is_name = ChannelName::with_reserved(name).is_ok() && !name.contains('*');
    let is_pattern = text == "*" || is_name;
    let pattern = Pattern::new(text);
    assert_eq!(pattern.is_ok(), is_pattern, "{text:?}: {pattern:?}");
    if let Ok(pattern) = pattern {
        let printed = match &pattern {
            Pattern::Prefix(prefix) => format!("{prefix}*"),
            Pattern::Name(name) => name.to_string(),
        };
        assert_eq!(printed, text);
    }
}

/// Returns how many bytes of a name the pattern compares: those before the `*`, or `usize::MAX` if
/// the pattern has no `*`. Returns `None` if the pattern does not match.
fn bound_bytes(pattern: &str, channel: &str) -> Option<usize> {
    if let Some((index, _)) = pattern
        .char_indices()
        .next_back()
        .filter(|(_, c)| *c == '*')
    {
        let beginning = &pattern.as_bytes()[..index];
        let is_meant = channel.as_bytes().get(..index) == Some(beginning);
        return is_meant.then_some(index);
    }
    (pattern == channel).then_some(usize::MAX)
}

fn check_consumers(patterns: &[&str], channel: &ChannelName) {
    let good: Vec<(&str, Pattern)> = patterns
        .iter()
        .filter_map(|text| Some((*text, Pattern::new(text).ok()?)))
        .collect();
    for (text, pattern) in &good {
        let expected = bound_bytes(text, channel.as_str()).is_some();
        assert_eq!(pattern.matches(channel), expected, "{text:?} {channel}");
    }
    let expected = good.iter().any(|(_, pattern)| pattern.matches(channel));
    let watch = WatchedChannels(good.into_iter().map(|(_, pattern)| pattern).collect());
    assert_eq!(watch.covers(channel), expected);
}

fn check_namespaces(patterns: &[&str], channel: &str) {
    let namespaces: Vec<Namespace> = patterns
        .iter()
        .map(|pattern| Namespace {
            pattern: String::from(*pattern),
            ..Namespace::default()
        })
        .collect();
    let bound = patterns.iter().map(|pattern| bound_bytes(pattern, channel));
    let bound: Vec<Option<usize>> = bound.collect();
    let most = bound.iter().flatten().max();
    let found = namespace::find(&namespaces, channel);
    assert_eq!(
        found.map(|index| bound[index]),
        most.map(|most| Some(*most))
    );
}
