//! Patterns of channel names: a whole name, or a prefix and one `*` at the end.
//!
//! `chat:*` matches every channel whose name begins with `chat:`, and `*` alone matches every
//! channel. A channel name has no `*`, so a pattern has a `*` only at its end. Consumers, tokens
//! and namespaces use patterns. The lists of
//! namespaces have further placeholders ([`subject`]).

pub mod subject;

use crate::id::{ChannelName, ChannelNameError};

/// A pattern of channel names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// Matches every name with this prefix.
    Prefix(Box<str>),
    /// Matches this name only.
    Name(ChannelName),
}

impl Pattern {
    /// Parses a pattern.
    ///
    /// # Errors
    /// Returns [`ChannelNameError::Wildcard`] if a `*` is not at the end. Returns another variant
    /// if the text without the `*` can be neither a channel name nor a prefix of a channel name.
    pub fn new(text: &str) -> Result<Self, ChannelNameError> {
        let prefix = text.strip_suffix('*');
        if let Some(at) = prefix.unwrap_or(text).find('*') {
            return Err(ChannelNameError::Wildcard { at });
        }
        match prefix {
            Some("") => Ok(Self::Prefix(Box::default())),
            Some(prefix) => {
                ChannelName::with_reserved(prefix).map(|_name| Self::Prefix(Box::from(prefix)))
            }
            None => ChannelName::with_reserved(text).map(Self::Name),
        }
    }

    /// Whether the pattern matches a channel.
    #[must_use]
    pub fn matches(&self, channel: &ChannelName) -> bool {
        match self {
            Self::Prefix(prefix) => channel.as_str().starts_with(&**prefix),
            Self::Name(name) => name == channel,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, channel: &str) -> bool {
        let channel = ChannelName::new(channel).unwrap();
        Pattern::new(pattern).unwrap().matches(&channel)
    }

    #[test]
    fn pattern_matches_one_name_or_all_names_with_a_prefix() {
        assert!(matches("chat:*", "chat:42"));
        assert!(matches("chat:*", "chat:"));
        assert!(!matches("chat:*", "chat"));
        assert!(matches("*", "x"));
        assert!(matches("chat", "chat"));
        assert!(!matches("chat", "chat:42"));
    }

    #[test]
    fn text_that_can_match_no_channel_is_refused() {
        let long = "x".repeat(201);
        for text in [
            "", "a b", "a b*", "\n*", &long, "*x*", "a*b", "*a", "**", "a**",
        ] {
            assert!(Pattern::new(text).is_err(), "{text:?}");
        }
    }
}
